/*
 * RESYNC capsules, from the source of a resync to the replica that gets it: docs/wire.md, "Resync".
 * The receiver READs what it needs out of the source's buffers.
 */
#ifndef SL_TARGET_RESYNC_CAPSULE_H
#define SL_TARGET_RESYNC_CAPSULE_H

#include "store/store.h"
#include "target/raft_capsule.h"

enum sl_resync_step {
    SL_RESYNC_BEGIN = 1,  /* a state at `index` is offered; answered by what the receiver has */
    SL_RESYNC_REGION = 2, /* of a chunk: the payload is a page of CRCs */
    SL_RESYNC_END = 3,    /* all regions were sent: pieces are those of the state */
};

/* What comes with a REGION, of a page. */
struct sl_resync_page {
    uint32_t crcs[SL_REGION_BLOCKS];
    uint64_t lost; /* 256 a bit a block: its CRC is that of the lost version, in the table's form */
};
_Static_assert(offsetof(struct sl_resync_page, lost) == 256, "wire.md: resync");

/* Pieces of a region: it may lie in that many buffers; a state lies in one. */
#define SL_RESYNC_PIECES_MAX 5u

struct sl_capsule_resync {
    struct sl_capsule_header header;
    uint8_t op;           /* 32 SL_RAFT_OP_RESYNC */
    uint8_t step;         /* 33 enum sl_resync_step */
    uint16_t piece_count; /* 34 REGION: 0 = zeroes */
    uint32_t group;       /* 36 */
    uint64_t from, to;    /* 40 replica ids */
    uint64_t term;        /* 56 of the source */
    uint64_t index;       /* 64 of the state; in the answer to BEGIN: applied there */
    uint64_t index_term;  /* 72 of the entry there */
    uint32_t chunk;       /* 80 */
    uint32_t region;      /* 84 */
    uint32_t state_bytes; /* 88 END */
    uint32_t reserved;    /* 92 */
    struct sl_remote_piece pieces[SL_RESYNC_PIECES_MAX]; /* 96 */
};
_Static_assert(sizeof(struct sl_capsule_resync) == 216, "wire.md: resync");
_Static_assert(offsetof(struct sl_capsule_resync, pieces) == 96, "wire.md: resync");

/* Asks another replica for blocks: it sends them with a GIVE on its own connection, and then
 * answers. */
struct sl_capsule_fetch {
    struct sl_capsule_header header;
    uint8_t op; /* 32 SL_RAFT_OP_FETCH or SL_RAFT_OP_GIVE */
    uint8_t reserved1[3];
    uint32_t group;               /* 36 */
    uint64_t ticket;              /* 40 the asker's */
    uint64_t index;               /* 48 FETCH: must be applied there */
    uint32_t chunk;               /* 56 */
    uint16_t first_block;         /* 60 */
    uint16_t block_count;         /* 62 1 … 256 */
    struct sl_remote_piece piece; /* 64 GIVE: the blocks; its payload is a page of their CRCs */
};
_Static_assert(sizeof(struct sl_capsule_fetch) == 88, "wire.md: fetch");

#endif
