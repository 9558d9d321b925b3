/*
 * COMPARE capsules, from the leader of a group to another replica: docs/wire.md, "Compare". What
 * they say of checksums: docs/replication.md, "Replicas compared".
 */
#ifndef SL_TARGET_COMPARE_CAPSULE_H
#define SL_TARGET_COMPARE_CAPSULE_H

#include "store/store.h"
#include "target/raft_capsule.h"

enum sl_compare_step {
    SL_COMPARE_REGIONS = 1, /* of a chunk: the payload is a page of struct sl_compare_sum */
    SL_COMPARE_BLOCKS = 2,  /* of a region: the payload is a page of their CRCs */
    SL_COMPARE_MEND = 3,    /* a block: what is there is wrong */
};

/* CRCs of blocks that fit into an answer. */
#define SL_COMPARE_CRCS_MAX 32u

struct sl_compare_sum {
    uint64_t index; /* newest that touched the region */
    uint32_t crc;   /* CRC32C of its blocks' CRCs */
    uint32_t reserved;
};
_Static_assert(SL_CHUNK_REGIONS * sizeof(struct sl_compare_sum) <= SL_BLOCK_BYTES, "one page");
_Static_assert(SL_CHUNK_REGIONS == 64 && SL_REGION_BLOCKS == 64, "a bit for each");

struct sl_capsule_compare {
    struct sl_capsule_header header;
    uint8_t op;            /* 32 SL_RAFT_OP_COMPARE */
    uint8_t step;          /* 33 enum sl_compare_step */
    uint16_t reserved;     /* 34 */
    uint32_t group;        /* 36 */
    uint64_t from, to;     /* 40 replica ids */
    uint64_t index;        /* 56 applied at the sender; reply: at the receiver */
    uint32_t chunk;        /* 64 */
    uint32_t place;        /* 68 BLOCKS: region; MEND: block of the chunk */
    uint64_t region_index; /* 72 BLOCKS: newest that touched it at the sender */
    uint32_t crc;          /* 80 MEND: what the receiver has, SL_CRC_DAMAGED: nothing */
    uint32_t node;         /* 84 MEND: who has the right one */
    uint64_t differ;       /* 88 reply: regions or blocks, by bit */
    uint64_t open;         /* 96 reply: of another version; BLOCKS: damaged here */
    uint32_t crcs[SL_COMPARE_CRCS_MAX]; /* 104 reply to BLOCKS: of the first that differ */
};
_Static_assert(sizeof(struct sl_capsule_compare) == 232, "wire.md: compare");
_Static_assert(offsetof(struct sl_capsule_compare, region_index) == 72, "wire.md: compare");
_Static_assert(offsetof(struct sl_capsule_compare, crcs) == 104, "wire.md: compare");

#endif
