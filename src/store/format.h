/*
 * What lies on a disk of the store: docs/disk-format.md, field by field. Structures with their
 * offsets asserted, builders, and parsers that believe nothing: a parser answers 0 or
 * -SL_E_CHECKSUM (not what was written), -SL_E_VERSION (written by a newer program), -SL_E_PROTOCOL
 * (right CRC, absurd content), -ESTALE (valid, of another time or place), and says in `why` what is
 * wrong.
 *
 * Little-endian. No state, no I/O; any thread.
 */
#ifndef SL_STORE_FORMAT_H
#define SL_STORE_FORMAT_H

#include "core/base.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the disk format is little-endian");

#define SL_DISK_MAGIC   UINT64_C(0x31304b5349444c53) /* "SLDISK01" */
#define SL_ROOT_MAGIC   UINT64_C(0x3130544f4f524c53) /* "SLROOT01" */
#define SL_CHUNK_MAGIC  UINT64_C(0x31304b4e48434c53) /* "SLCHNK01" */
#define SL_BATCH_MAGIC  UINT32_C(0x42574c53)         /* "SLWB" */
#define SL_DISK_VERSION 1u

/* Feature bits (superblock): who does not know one of `incompatible` refuses the disk, one of
 * `read_only` serves it only to readers, `compatible` is for information. None is defined yet. */
#define SL_DISK_FEATURES_INCOMPATIBLE UINT64_C(0)
#define SL_DISK_FEATURES_READ_ONLY    UINT64_C(0)

#define SL_CHUNK_BYTES         (16 * SL_MIB)
#define SL_REGION_BYTES        (256 * SL_KIB)
#define SL_CHUNK_BLOCKS        4096u /* SL_CHUNK_BYTES / SL_BLOCK_BYTES */
#define SL_CHUNK_REGIONS       64u
#define SL_REGION_BLOCKS       64u
#define SL_CHUNK_TABLE_BYTES   (SL_CHUNK_BLOCKS * 4u)
#define SL_CHUNK_META_BYTES    (SL_BLOCK_BYTES + SL_CHUNK_TABLE_BYTES) /* 20 KiB */
#define SL_SUPERBLOCK_A        UINT64_C(0)
#define SL_SUPERBLOCK_B        UINT64_C(65536)
#define SL_DISK_RESERVED       (128 * SL_KIB) /* in front of the first shard */
#define SL_DISK_SHARDS_MAX     16u
#define SL_DISK_EXTENTS_MAX    64u
#define SL_SEGMENT_BYTES_MIN   (64 * SL_KIB)
#define SL_SEGMENT_BYTES_MAX   SL_GIB
#define SL_SEGMENT_COUNT_MIN   6u /* the head, two in reserve, and some to checkpoint behind it */
#define SL_SEGMENT_COUNT_MAX   65536u
#define SL_ROOT_COPIES         4u   /* sequence even: 0 and 1, odd: 2 and 3 */
#define SL_ENTRY_BLOCKS_MAX    256u /* of payload: one I/O is at most 1 MiB */
#define SL_ENTRY_EXTRA_MAX     128u /* bytes that the layer above keeps with an entry */
#define SL_BATCH_HEADER_BYTES  96u
#define SL_BATCH_RECORDS_BYTES (SL_BLOCK_BYTES - SL_BATCH_HEADER_BYTES)

/* ---- superblock ---- */

struct sl_disk_shard {
    uint64_t roots_offset;  /* 0  SL_ROOT_COPIES of root_bytes */
    uint64_t root_bytes;    /* 8  each */
    uint64_t wal_offset;    /* 16 segment_count segments */
    uint32_t segment_count; /* 24 */
    uint32_t group_bytes;   /* 28 of a root: room for groups and their state */
};
_Static_assert(sizeof(struct sl_disk_shard) == 32, "disk-format.md: shard");

/* Slots and chunk places of one shard that lie together; growing adds extents. */
struct sl_disk_extent {
    uint64_t meta_offset; /* 0  chunk_count places of 2 * SL_CHUNK_META_BYTES */
    uint64_t data_offset; /* 8  slot_count slots of SL_REGION_BYTES */
    uint32_t first_slot;  /* 16 */
    uint32_t slot_count;  /* 20 */
    uint32_t first_chunk; /* 24 */
    uint32_t chunk_count; /* 28 */
    uint16_t shard;       /* 32 */
    uint16_t reserved16;  /* 34 */
    uint32_t reserved32;  /* 36 */
};
_Static_assert(sizeof(struct sl_disk_extent) == 40, "disk-format.md: extent");

struct sl_superblock {
    uint64_t magic;                                     /* 0 */
    uint32_t crc;                                       /* 8   of the block with this field zero */
    uint32_t version;                                   /* 12 */
    uint64_t features_compatible;                       /* 16 */
    uint64_t features_read_only;                        /* 24 */
    uint64_t features_incompatible;                     /* 32 */
    uint8_t disk_id[16];                                /* 40 */
    uint8_t cluster_id[16];                             /* 56 */
    uint64_t salt;                                      /* 72  in every batch header; secret */
    uint64_t sequence;                                  /* 80  the higher of two valid ones holds */
    uint64_t capacity_bytes;                            /* 88 */
    uint64_t segment_bytes;                             /* 96 */
    uint32_t block_bytes;                               /* 104 */
    uint32_t region_bytes;                              /* 108 */
    uint32_t chunk_bytes;                               /* 112 */
    uint16_t shard_count;                               /* 116 */
    uint16_t extent_count;                              /* 118 */
    uint8_t reserved[136];                              /* 120 */
    struct sl_disk_shard shards[SL_DISK_SHARDS_MAX];    /* 256 */
    struct sl_disk_extent extents[SL_DISK_EXTENTS_MAX]; /* 768 */
    uint8_t padding[768];                               /* 3328 */
};
_Static_assert(offsetof(struct sl_superblock, disk_id) == 40, "disk-format.md: superblock");
_Static_assert(offsetof(struct sl_superblock, salt) == 72, "disk-format.md: superblock");
_Static_assert(offsetof(struct sl_superblock, shards) == 256, "disk-format.md: superblock");
_Static_assert(offsetof(struct sl_superblock, extents) == 768, "disk-format.md: superblock");
_Static_assert(sizeof(struct sl_superblock) == SL_BLOCK_BYTES, "disk-format.md: superblock");

struct sl_layout_options {
    uint64_t segment_bytes; /* a power of two; 0 = by the capacity */
    uint64_t wal_bytes;     /* of all shards; 0 = by the capacity */
    uint16_t shard_count;   /* 0 = 1 */
};

/* Lays out a disk: zones, extents, everything but ids and salt. -EINVAL (options), -ENOSPC (too
 * small); `why` says what and the limit. */
int sl_layout_make(uint64_t capacity_bytes, const struct sl_layout_options *options,
                   struct sl_superblock *superblock, char *why, size_t why_bytes);
/* Adds extents for [old capacity, capacity_bytes), shared out to all shards. -ENOSPC: less than a
 * slot a shard, or no extent left; -EINVAL: not larger. */
int sl_layout_grow(struct sl_superblock *superblock, uint64_t capacity_bytes, char *why,
                   size_t why_bytes);
/* Sets the CRC. */
void sl_superblock_seal(struct sl_superblock *superblock);
/* All of it: CRC, version, features, and that the zones lie in the capacity and do not overlap.
 * `block` has SL_BLOCK_BYTES. */
int sl_superblock_parse(const void *block, struct sl_superblock *superblock, const char **why);

/* Of a shard: sums over its extents. */
uint32_t sl_shard_slot_count(const struct sl_superblock *superblock, uint16_t shard);
uint32_t sl_shard_chunk_count(const struct sl_superblock *superblock, uint16_t shard);

#endif
