/*
 * Chunks and roots on disk. docs/disk-format.md, "Chunk" and "Root". Parsers answer as format.h
 * says. No state, no I/O; any thread.
 */
#ifndef SL_STORE_FORMAT_META_H
#define SL_STORE_FORMAT_META_H

#include "store/format.h"

/* ---- chunk ---- */

/* CRCs of the store: two values mean something else, so a block that has one of them by chance is
 * given its neighbour. */
#define SL_CRC_ABSENT  UINT32_C(0)          /* reads as zeroes; the medium is not asked */
#define SL_CRC_DAMAGED UINT32_C(0xffffffff) /* lost: reads fail until it is written */

static inline uint32_t sl_crc_stored(uint32_t crc)
{
    return crc == SL_CRC_ABSENT ? 1 : crc == SL_CRC_DAMAGED ? SL_CRC_DAMAGED - 1 : crc;
}

#define SL_SLOT_NONE UINT32_C(0x0fffffff)

struct sl_region_entry {
    uint32_t slot; /* 0  bits 0 … 27: slot, or SL_SLOT_NONE; bits 28 … 31: encoding, 0 = plain */
    uint32_t birth; /* 4  snapshot since which the slot is this chunk's own; 0 */
    uint64_t index; /* 8  every entry up to it that touches the region is in it */
};
_Static_assert(sizeof(struct sl_region_entry) == 16, "disk-format.md: region");

struct sl_chunk_header {
    uint64_t magic;                                   /* 0 */
    uint32_t crc;                                     /* 8   of the block with this field zero */
    uint32_t table_crc;                               /* 12  of the CRC table behind it */
    uint8_t disk_id[16];                              /* 16 */
    uint64_t group;                                   /* 32 */
    uint32_t number;                                  /* 40 */
    uint32_t version;                                 /* 44  place: version % 2 */
    uint32_t chunk;                                   /* 48  its own place in the shard */
    uint16_t shard;                                   /* 52 */
    uint16_t reserved16;                              /* 54 */
    uint64_t reserved[9];                             /* 56 */
    struct sl_region_entry regions[SL_CHUNK_REGIONS]; /* 128 */
    uint8_t padding[2944];                            /* 1152 */
};
_Static_assert(offsetof(struct sl_chunk_header, regions) == 128, "disk-format.md: chunk");
_Static_assert(sizeof(struct sl_chunk_header) == SL_BLOCK_BYTES, "disk-format.md: chunk");

/* `meta` has SL_CHUNK_META_BYTES: header (filled, but for CRCs and magic) and table. */
void sl_chunk_seal(void *meta);
/* What must be there; differences are -ESTALE. */
struct sl_chunk_place {
    const uint8_t *disk_id;
    uint64_t group;
    uint32_t number, version, chunk;
    uint16_t shard;
    uint32_t slot_count; /* of the shard */
};
/* Both parts, every region's slot. */
int sl_chunk_parse(const void *meta, const struct sl_chunk_place *place, const char **why);

/* ---- root ---- */

struct sl_root_chunk {
    uint64_t group;   /* 0 */
    uint32_t number;  /* 8 */
    uint32_t version; /* 12 0 = the place is free */
};
_Static_assert(sizeof(struct sl_root_chunk) == 16, "disk-format.md: root");

#define SL_GROUP_DELETED 1u

struct sl_root_group {
    uint64_t group;          /* 0 */
    uint32_t flags;          /* 8 */
    uint32_t state_bytes;    /* 12 */
    uint64_t boundary_index; /* 16 the log begins behind it */
    uint64_t boundary_term;  /* 24 */
    uint64_t term;           /* 32 */
    uint64_t vote;           /* 40 */
    uint64_t state_index;    /* 48 */
    uint64_t applied_index;  /* 56 for information: what apply had been told */
};
_Static_assert(sizeof(struct sl_root_group) == 64, "disk-format.md: root");

/* Block 0 of a root. Behind it: chunk_count struct sl_root_chunk | slot bitmap (slot_count bits, in
 * whole 8 bytes) | group_count struct sl_root_group | states, each in whole 8 bytes. */
struct sl_root_header {
    uint64_t magic;            /* 0 */
    uint32_t crc;              /* 8  of the block with this field zero */
    uint32_t body_crc;         /* 12 */
    uint8_t disk_id[16];       /* 16 */
    uint64_t sequence;         /* 32 from 1 */
    uint64_t tail_generation;  /* 40 the log is read from this segment on */
    uint64_t head_generation;  /* 48 of the newest segment then */
    uint64_t durable_sequence; /* 56 */
    uint64_t body_bytes;       /* 64 */
    uint32_t chunk_count;      /* 72 */
    uint32_t slot_count;       /* 76 */
    uint32_t group_count;      /* 80 */
    uint16_t shard;            /* 84 */
    uint16_t reserved16;       /* 86 */
    uint64_t tail_sequence;    /* 88 of the first batch of that segment, written or to be */
    uint8_t padding[4000];     /* 96 */
};
_Static_assert(offsetof(struct sl_root_header, shard) == 84, "disk-format.md: root");
_Static_assert(sizeof(struct sl_root_header) == SL_BLOCK_BYTES, "disk-format.md: root");

/* Where the parts of a body begin, from its first byte. */
struct sl_root_parts {
    uint64_t bitmap, groups, states, end; /* end: the least body_bytes; states follow `states` */
};
static inline struct sl_root_parts sl_root_parts(const struct sl_root_header *header)
{
    struct sl_root_parts parts;
    parts.bitmap = (uint64_t)header->chunk_count * sizeof(struct sl_root_chunk);
    parts.groups = parts.bitmap + sl_align_up(header->slot_count, 64) / 8;
    parts.states = parts.groups + (uint64_t)header->group_count * sizeof(struct sl_root_group);
    parts.end = parts.states;
    return parts;
}

/* Sets CRCs and magic of a root whose header and body are filled in. */
void sl_root_seal(struct sl_root_header *header, const void *body);
/* The first block alone: whether it is worth reading the body. `superblock` and `shard` bound it.
 */
int sl_root_header_parse(const void *block, const struct sl_superblock *superblock, uint16_t shard,
                         struct sl_root_header *header, const char **why);
/* The body of a header that was parsed: CRC, chunks unique per (group, number), groups unique,
 * states in bounds. `body` has header->body_bytes. */
int sl_root_body_parse(const struct sl_root_header *header, const void *body, const char **why);

/* Bytes of a root of so many chunks and slots, without groups; whole blocks. */
uint64_t sl_root_bytes(uint64_t chunk_count, uint64_t slot_count, uint64_t group_bytes);

#endif
