/* Superblocks, and the layout of a disk. docs/disk-format.md, "Superblock" and "Zones". */
#include "store/format.h"

#include <stdio.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "store/format_meta.h"

/* Defaults: the log has a sixteenth of the disk, 4 GiB at most, in 32 segments or more. Longer logs
 * merge more overwrites and make recovery longer: 4 GiB are read in seconds. */
#define WAL_BYTES_MAX      (4 * SL_GIB)
#define WAL_FRACTION       16
#define SEGMENT_COUNT      32
#define SEGMENT_BYTES_BEST (64 * SL_MIB)
/* Less is no use to anybody; tests like it small. */
#define SLOTS_MIN 8u
/* Below it an entry of 1 MiB needs a segment that is too much of the disk. */
#define LARGE_SHARD_BYTES   (256 * SL_MIB)
#define SEGMENT_BYTES_LARGE (4 * SL_MIB)
/* A disk may grow to so many times the size that it was formatted with: roots have room for it. */
#define GROWTH_MAX 8
/* Chunk places for each chunk that the slots can fill: thin volumes use more chunks than they fill.
 */
#define CHUNKS_PER_FULL_CHUNK 2
/* For many small groups on a small disk. */
#define CHUNKS_MORE     14
#define GROUP_BYTES_MAX (4 * SL_MIB)
#define GROUP_BYTES_MIN (16 * SL_KIB)

uint32_t sl_shard_slot_count(const struct sl_superblock *superblock, uint16_t shard)
{
    uint32_t count = 0;
    for (unsigned i = 0; i < superblock->extent_count; i++)
        count += superblock->extents[i].shard == shard ? superblock->extents[i].slot_count : 0;
    return count;
}

uint32_t sl_shard_chunk_count(const struct sl_superblock *superblock, uint16_t shard)
{
    uint32_t count = 0;
    for (unsigned i = 0; i < superblock->extent_count; i++)
        count += superblock->extents[i].shard == shard ? superblock->extents[i].chunk_count : 0;
    return count;
}

/* ---- layout ---- */

static uint64_t chunks_for(uint64_t slot_count)
{
    return (slot_count + SL_CHUNK_REGIONS - 1) / SL_CHUNK_REGIONS * CHUNKS_PER_FULL_CHUNK +
           CHUNKS_MORE;
}

static uint64_t extent_bytes(uint64_t slot_count)
{
    return chunks_for(slot_count) * 2 * SL_CHUNK_META_BYTES + slot_count * SL_REGION_BYTES;
}

/* The most slots whose extent fits in `bytes`. */
static uint64_t slots_in(uint64_t bytes)
{
    uint64_t count = bytes / SL_REGION_BYTES;
    while (count > 0 && extent_bytes(count) > bytes)
        count -= sl_max((extent_bytes(count) - bytes) / (2 * SL_REGION_BYTES), UINT64_C(1));
    return count;
}

static void add_extent(struct sl_superblock *superblock, uint16_t shard, uint64_t offset,
                       uint64_t slot_count)
{
    uint64_t chunk_count = chunks_for(slot_count);
    struct sl_disk_extent extent = {
        .meta_offset = offset,
        .data_offset = offset + chunk_count * 2 * SL_CHUNK_META_BYTES,
        .first_slot = sl_shard_slot_count(superblock, shard),
        .slot_count = (uint32_t)slot_count,
        .first_chunk = sl_shard_chunk_count(superblock, shard),
        .chunk_count = (uint32_t)chunk_count,
        .shard = shard,
    };
    superblock->extents[superblock->extent_count++] = extent;
}

/* Fills in the options that were left open; -EINVAL. */
static int choose(uint64_t capacity_bytes, const struct sl_layout_options *options,
                  struct sl_layout_options *chosen, char *why, size_t why_bytes)
{
    *chosen = *options;
    if (chosen->shard_count == 0)
        chosen->shard_count = 1;
    if (chosen->shard_count > SL_DISK_SHARDS_MAX) {
        snprintf(why, why_bytes, "%u shards; at most %u", chosen->shard_count, SL_DISK_SHARDS_MAX);
        return -EINVAL;
    }
    if (chosen->wal_bytes == 0)
        chosen->wal_bytes = sl_min(capacity_bytes / WAL_FRACTION, WAL_BYTES_MAX);
    uint64_t wal_bytes = chosen->wal_bytes / chosen->shard_count;
    if (chosen->segment_bytes == 0) {
        bool large = capacity_bytes / chosen->shard_count >= LARGE_SHARD_BYTES;
        uint64_t least = large ? SEGMENT_BYTES_LARGE : SL_SEGMENT_BYTES_MIN;
        chosen->segment_bytes = SEGMENT_BYTES_BEST;
        while (chosen->segment_bytes > least && chosen->segment_bytes * SEGMENT_COUNT > wal_bytes)
            chosen->segment_bytes /= 2;
    }
    if (!sl_is_power_of_two(chosen->segment_bytes) ||
        chosen->segment_bytes < SL_SEGMENT_BYTES_MIN ||
        chosen->segment_bytes > SL_SEGMENT_BYTES_MAX) {
        snprintf(why, why_bytes, "segments of %llu bytes; a power of two from 64 KiB to 1 GiB",
                 (unsigned long long)chosen->segment_bytes);
        return -EINVAL;
    }
    if (options->wal_bytes == 0)
        chosen->wal_bytes = sl_max(chosen->wal_bytes, chosen->shard_count * chosen->segment_bytes *
                                                          SL_SEGMENT_COUNT_MIN);
    uint64_t count = chosen->wal_bytes / chosen->shard_count / chosen->segment_bytes;
    if (count < SL_SEGMENT_COUNT_MIN || count > SL_SEGMENT_COUNT_MAX) {
        snprintf(why, why_bytes, "a log of %llu segments a shard; %u to %u",
                 (unsigned long long)count, SL_SEGMENT_COUNT_MIN, SL_SEGMENT_COUNT_MAX);
        return -EINVAL;
    }
    return 0;
}

int sl_layout_make(uint64_t capacity_bytes, const struct sl_layout_options *options,
                   struct sl_superblock *superblock, char *why, size_t why_bytes)
{
    struct sl_layout_options chosen;
    int error = choose(capacity_bytes, options, &chosen, why, why_bytes);
    if (error < 0)
        return error;
    *superblock = (struct sl_superblock){
        .magic = SL_DISK_MAGIC,
        .version = SL_DISK_VERSION,
        .sequence = 1,
        .capacity_bytes = sl_align_down(capacity_bytes, SL_BLOCK_BYTES),
        .segment_bytes = chosen.segment_bytes,
        .block_bytes = SL_BLOCK_BYTES,
        .region_bytes = SL_REGION_BYTES,
        .chunk_bytes = SL_CHUNK_BYTES,
        .shard_count = chosen.shard_count,
    };
    uint64_t usable = superblock->capacity_bytes > SL_DISK_RESERVED
                          ? superblock->capacity_bytes - SL_DISK_RESERVED
                          : 0;
    uint64_t shard_bytes = sl_align_down(usable / chosen.shard_count, SL_BLOCK_BYTES);
    uint64_t segments = chosen.wal_bytes / chosen.shard_count / chosen.segment_bytes;
    uint64_t wal_bytes = segments * chosen.segment_bytes;
    uint64_t most_slots = shard_bytes / SL_REGION_BYTES;
    uint64_t group_bytes =
        sl_min(sl_max(sl_align_down(shard_bytes / 1024, SL_BLOCK_BYTES), GROUP_BYTES_MIN),
               GROUP_BYTES_MAX);
    uint64_t root_bytes =
        sl_root_bytes(GROWTH_MAX * chunks_for(most_slots), GROWTH_MAX * most_slots, group_bytes);
    uint64_t fixed = wal_bytes + SL_ROOT_COPIES * root_bytes;
    uint64_t slots = shard_bytes > fixed ? slots_in(shard_bytes - fixed) : 0;
    if (slots >= SL_SLOT_NONE / GROWTH_MAX) {
        snprintf(why, why_bytes, "a shard of %llu bytes is too large: use more shards",
                 (unsigned long long)shard_bytes);
        return -ENOSPC;
    }
    if (slots < SLOTS_MIN) {
        snprintf(why, why_bytes,
                 "%llu bytes leave %llu regions of 256 KiB for data in each of %u shard(s) beside "
                 "%llu bytes of log; %u are the least",
                 (unsigned long long)capacity_bytes, (unsigned long long)slots, chosen.shard_count,
                 (unsigned long long)wal_bytes, SLOTS_MIN);
        return -ENOSPC;
    }
    for (uint16_t i = 0; i < chosen.shard_count; i++) {
        uint64_t at = SL_DISK_RESERVED + i * shard_bytes;
        superblock->shards[i] = (struct sl_disk_shard){
            .roots_offset = at,
            .root_bytes = root_bytes,
            .wal_offset = at + SL_ROOT_COPIES * root_bytes,
            .segment_count = (uint32_t)segments,
            .group_bytes = (uint32_t)group_bytes,
        };
        add_extent(superblock, i, at + fixed, slots);
    }
    return 0;
}

int sl_layout_grow(struct sl_superblock *superblock, uint64_t capacity_bytes, char *why,
                   size_t why_bytes)
{
    capacity_bytes = sl_align_down(capacity_bytes, SL_BLOCK_BYTES);
    uint16_t shards = superblock->shard_count;
    if (capacity_bytes <= superblock->capacity_bytes) {
        snprintf(why, why_bytes,
                 "it has %llu bytes and would have %llu: make the file or device larger first",
                 (unsigned long long)superblock->capacity_bytes,
                 (unsigned long long)capacity_bytes);
        return -EINVAL;
    }
    uint64_t shard_bytes =
        sl_align_down((capacity_bytes - superblock->capacity_bytes) / shards, SL_BLOCK_BYTES);
    uint64_t slots = slots_in(shard_bytes);
    if (slots == 0 || superblock->extent_count + shards > SL_DISK_EXTENTS_MAX) {
        snprintf(why, why_bytes,
                 slots == 0 ? "not a region of 256 KiB more for each of %u shards"
                            : "%u shards have grown as often as they can",
                 shards);
        return -ENOSPC;
    }
    for (uint16_t i = 0; i < shards; i++) {
        const struct sl_disk_shard *shard = &superblock->shards[i];
        uint64_t chunks = sl_shard_chunk_count(superblock, i) + chunks_for(slots);
        uint64_t all = sl_shard_slot_count(superblock, i) + slots;
        if (sl_root_bytes(chunks, all, shard->group_bytes) > shard->root_bytes ||
            all >= SL_SLOT_NONE) {
            snprintf(why, why_bytes, "a disk grows to %u times what it was formatted with at most",
                     GROWTH_MAX);
            return -ENOSPC;
        }
    }
    uint64_t at = superblock->capacity_bytes;
    for (uint16_t i = 0; i < shards; i++)
        add_extent(superblock, i, at + i * shard_bytes, slots);
    superblock->capacity_bytes = capacity_bytes;
    superblock->sequence++;
    return 0;
}

/* ---- superblock ---- */

static uint32_t superblock_crc(const struct sl_superblock *superblock)
{
    static const uint32_t zero;
    const uint8_t *bytes = (const uint8_t *)superblock;
    uint32_t crc = sl_crc32c(0, bytes, offsetof(struct sl_superblock, crc));
    crc = sl_crc32c(crc, &zero, sizeof(zero));
    return sl_crc32c(crc, bytes + offsetof(struct sl_superblock, version),
                     SL_BLOCK_BYTES - offsetof(struct sl_superblock, version));
}

void sl_superblock_seal(struct sl_superblock *superblock)
{
    superblock->crc = superblock_crc(superblock);
}

struct zone {
    uint64_t begin, end;
};

/* False: it does not lie on blocks behind the superblocks and in front of the end. */
static bool zone_make(const struct sl_superblock *superblock, uint64_t offset, uint64_t count,
                      uint64_t each, struct zone *zone)
{
    *zone = (struct zone){offset, offset};
    if (offset < SL_DISK_RESERVED || offset > superblock->capacity_bytes ||
        !sl_is_aligned(offset, SL_BLOCK_BYTES) || count == 0 || each == 0 ||
        !sl_is_aligned(each, SL_BLOCK_BYTES) ||
        count > (superblock->capacity_bytes - offset) / each)
        return false;
    zone->end = offset + count * each;
    return true;
}

/* Two a shard, two an extent. False as zone_make(). */
static bool zone_get(const struct sl_superblock *superblock, unsigned index, struct zone *zone)
{
    if (index < 2u * superblock->shard_count) {
        const struct sl_disk_shard *shard = &superblock->shards[index / 2];
        return index % 2 == 0 ? zone_make(superblock, shard->roots_offset, SL_ROOT_COPIES,
                                          shard->root_bytes, zone)
                              : zone_make(superblock, shard->wal_offset, shard->segment_count,
                                          superblock->segment_bytes, zone);
    }
    index -= 2u * superblock->shard_count;
    const struct sl_disk_extent *extent = &superblock->extents[index / 2];
    return index % 2 == 0 ? zone_make(superblock, extent->meta_offset, extent->chunk_count,
                                      (uint64_t)2 * SL_CHUNK_META_BYTES, zone)
                          : zone_make(superblock, extent->data_offset, extent->slot_count,
                                      SL_REGION_BYTES, zone);
}

static const char *check_zones(const struct sl_superblock *superblock)
{
    unsigned count = 2u * superblock->shard_count + 2u * superblock->extent_count;
    for (unsigned i = 0; i < superblock->shard_count; i++) {
        const struct sl_disk_shard *shard = &superblock->shards[i];
        if (shard->segment_count < SL_SEGMENT_COUNT_MIN ||
            shard->segment_count > SL_SEGMENT_COUNT_MAX || shard->group_bytes > GROUP_BYTES_MAX)
            return "a shard's log has an impossible number of segments";
    }
    for (unsigned i = 0; i < superblock->extent_count; i++) {
        if (superblock->extents[i].shard >= superblock->shard_count)
            return "an extent belongs to no shard";
    }
    for (unsigned i = 0; i < count; i++) {
        struct zone zone, other;
        if (!zone_get(superblock, i, &zone))
            return "a zone lies outside of the disk";
        for (unsigned j = 0; j < i; j++) {
            if (zone_get(superblock, j, &other) && zone.begin < other.end && other.begin < zone.end)
                return "two zones overlap";
        }
    }
    return NULL;
}

/* Extents of a shard follow one another in slots and chunks; its root has room for them. */
static const char *check_shards(const struct sl_superblock *superblock)
{
    for (uint16_t shard = 0; shard < superblock->shard_count; shard++) {
        uint64_t slots = 0, chunks = 0;
        for (unsigned i = 0; i < superblock->extent_count; i++) {
            const struct sl_disk_extent *extent = &superblock->extents[i];
            if (extent->shard != shard)
                continue;
            if (extent->first_slot != slots || extent->first_chunk != chunks)
                return "the extents of a shard do not follow one another";
            slots += extent->slot_count;
            chunks += extent->chunk_count;
        }
        if (slots == 0 || slots >= SL_SLOT_NONE)
            return "a shard has no slots, or too many";
        if (sl_root_bytes(chunks, slots, superblock->shards[shard].group_bytes) >
            superblock->shards[shard].root_bytes)
            return "a shard's root has no room for its chunks";
    }
    return NULL;
}

static const char *check_geometry(const struct sl_superblock *superblock)
{
    if (superblock->block_bytes != SL_BLOCK_BYTES || superblock->region_bytes != SL_REGION_BYTES ||
        superblock->chunk_bytes != SL_CHUNK_BYTES)
        return "blocks, regions or chunks of another size";
    if (!sl_is_power_of_two(superblock->segment_bytes) ||
        superblock->segment_bytes < SL_SEGMENT_BYTES_MIN ||
        superblock->segment_bytes > SL_SEGMENT_BYTES_MAX)
        return "segments of an impossible size";
    if (superblock->shard_count == 0 || superblock->shard_count > SL_DISK_SHARDS_MAX ||
        superblock->extent_count < superblock->shard_count ||
        superblock->extent_count > SL_DISK_EXTENTS_MAX)
        return "an impossible number of shards or extents";
    if (!sl_is_aligned(superblock->capacity_bytes, SL_BLOCK_BYTES) || superblock->sequence == 0)
        return "an impossible capacity or sequence";
    return NULL;
}

int sl_superblock_parse(const void *block, struct sl_superblock *superblock, const char **why)
{
    memcpy(superblock, block, sizeof(*superblock)); /* header: superblock */
    *why = "it does not begin with a superblock of Sluice";
    if (superblock->magic != SL_DISK_MAGIC)
        return -ESTALE;
    *why = "the superblock's checksum is wrong";
    if (superblock->crc != superblock_crc(superblock))
        return -SL_E_CHECKSUM;
    *why = "it was formatted by a newer version";
    if (superblock->version != SL_DISK_VERSION ||
        (superblock->features_incompatible & ~SL_DISK_FEATURES_INCOMPATIBLE) != 0)
        return -SL_E_VERSION;
    *why = check_geometry(superblock);
    if (*why == NULL)
        *why = check_zones(superblock);
    if (*why == NULL)
        *why = check_shards(superblock);
    return *why == NULL ? 0 : -SL_E_PROTOCOL;
}
