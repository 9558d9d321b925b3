/*
 * The log on disk: batches of one header block and its payload. docs/disk-format.md, "Log". Parsers
 * answer as format.h says. No state, no I/O; any thread.
 */
#ifndef SL_STORE_FORMAT_LOG_H
#define SL_STORE_FORMAT_LOG_H

#include "store/format.h"

struct sl_batch_header {
    uint32_t magic;            /* 0 */
    uint32_t crc;              /* 4  of bytes 8 … 4095 */
    uint64_t salt;             /* 8 */
    uint8_t disk_id[16];       /* 16 */
    uint16_t shard;            /* 32 */
    uint16_t record_count;     /* 34 */
    uint32_t record_bytes;     /* 36 behind this header */
    uint64_t generation;       /* 40 of the segment */
    uint64_t sequence;         /* 48 of the batch; from 1 */
    uint64_t durable_sequence; /* 56 known durable when this was written; < sequence */
    uint64_t root_sequence;    /* 64 newest root then */
    uint32_t position;         /* 72 of this block in its segment, in blocks */
    uint32_t payload_blocks;   /* 76 behind this block */
    uint64_t reserved[2];      /* 80 */
};
_Static_assert(offsetof(struct sl_batch_header, shard) == 32, "disk-format.md: batch");
_Static_assert(offsetof(struct sl_batch_header, generation) == 40, "disk-format.md: batch");
_Static_assert(offsetof(struct sl_batch_header, position) == 72, "disk-format.md: batch");
_Static_assert(sizeof(struct sl_batch_header) == SL_BATCH_HEADER_BYTES, "disk-format.md: batch");

enum sl_record_kind {
    SL_RECORD_ENTRY = 1,
    SL_RECORD_TERM_VOTE = 2,
    SL_RECORD_TRUNCATE = 3,     /* entries at and behind `index` are gone */
    SL_RECORD_GROUP_CREATE = 4, /* its log begins behind (index, term) */
    SL_RECORD_GROUP_DELETE = 5,
    SL_RECORD_APPLIED = 6, /* entries up to `index` are committed, and applied */
};

enum sl_entry_type {
    SL_ENTRY_NOOP = 0,   /* no blocks */
    SL_ENTRY_WRITE = 1,  /* block_count blocks of payload for the chunk */
    SL_ENTRY_ZERO = 2,   /* the blocks read as zeroes; no payload */
    SL_ENTRY_OPAQUE = 3, /* payload that only the layer above knows; no chunk */
};

/* The head of every record; what kinds without an index have no use for is zero. */
struct sl_record_head {
    uint8_t kind;   /* 0 */
    uint8_t type;   /* 1 enum sl_entry_type */
    uint16_t bytes; /* 2 of the whole record; a multiple of 8 */
    uint32_t chunk; /* 4 entry: chunk number in the group's address space */
    uint64_t group; /* 8 */
    uint64_t index; /* 16 */
    uint64_t term;  /* 24 */
};
_Static_assert(sizeof(struct sl_record_head) == 32, "disk-format.md: record");

/* Behind it: block_count CRCs if there is payload, then extra_bytes, then zeroes to 8 bytes. */
struct sl_record_entry {
    struct sl_record_head head; /* 0 */
    uint16_t first_block;       /* 32 in the chunk */
    uint16_t block_count;       /* 34 */
    uint16_t payload_first;     /* 36 in the payload of the batch, in blocks */
    uint16_t extra_bytes;       /* 38 */
};
_Static_assert(sizeof(struct sl_record_entry) == 40, "disk-format.md: entry");

struct sl_record_vote {
    struct sl_record_head head; /* 0  term: the current one */
    uint64_t vote;              /* 32 whom, in this term; 0 = nobody */
};
_Static_assert(sizeof(struct sl_record_vote) == 40, "disk-format.md: vote");

/* A record, parsed; pointers lead into the header block (unaligned). */
struct sl_record {
    struct sl_record_head head;
    uint64_t vote;
    uint16_t first_block, block_count, payload_first, extra_bytes;
    const uint8_t *crcs; /* block_count * 4 bytes, or NULL */
    const uint8_t *extra;
};

static inline bool sl_entry_has_payload(unsigned type)
{
    return type == SL_ENTRY_WRITE || type == SL_ENTRY_OPAQUE;
}
/* Of an entry's record. */
static inline uint32_t sl_record_entry_bytes(unsigned type, unsigned block_count,
                                             unsigned extra_bytes)
{
    uint32_t crcs = sl_entry_has_payload(type) ? block_count * 4u : 0;
    return (uint32_t)sl_align_up(sizeof(struct sl_record_entry) + crcs + extra_bytes, 8);
}

/* Building a header block in place: `block` has SL_BLOCK_BYTES. */
void sl_batch_begin(void *block);
/* False: no room. `record` as parsed ones; the place of the payload is given out by the batch and
 * set in it. */
bool sl_batch_add(void *block, struct sl_record *record);
/* Fills in the rest of `header` (its counts are the batch's) and the CRC. */
void sl_batch_seal(void *block, const struct sl_batch_header *header);

/* An entry's record by itself, as messages between replicas carry it; its place in a payload is 0.
 * Answers its bytes; 0: more than `room`. */
uint32_t sl_record_encode(void *to, uint32_t room, struct sl_record *record);
/* The entry's record that begins at `at`; `left` bytes are there, anything may be in them. NULL:
 * right, and record->head.bytes long; else what is wrong. */
const char *sl_record_decode(const void *at, uint32_t left, struct sl_record *record);

struct sl_batch_place {
    const struct sl_superblock *superblock;
    uint16_t shard;
    uint64_t generation;
    uint32_t position;
};
/* A header block that was read from `place`. -ESTALE: nothing of this disk, shard, generation or
 * position (the usual end of the log). */
int sl_batch_parse(const void *block, const struct sl_batch_place *place,
                   struct sl_batch_header *header, const char **why);
/* The records of a block that was parsed; `offset` begins as 0. False: no more. */
bool sl_batch_next(const void *block, uint32_t *offset, struct sl_record *record);
/* Whether the record's blocks (there may be none) are what its checksums say. `payload`: all of its
 * batch's. */
bool sl_record_payload_matches(const struct sl_record *record, const uint8_t *payload);

#endif
