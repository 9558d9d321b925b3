/* Chunks' metadata and roots. docs/disk-format.md, "Chunk" and "Root". */
#include "store/format_meta.h"

#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"

/* Of a block whose CRC field lies at `at`. */
static uint32_t block_crc(const void *block, size_t at)
{
    static const uint32_t zero;
    const uint8_t *bytes = block;
    uint32_t crc = sl_crc32c(0, bytes, at);
    crc = sl_crc32c(crc, &zero, sizeof(zero));
    return sl_crc32c(crc, bytes + at + 4, SL_BLOCK_BYTES - at - 4);
}

/* ---- chunk ---- */

void sl_chunk_seal(void *meta)
{
    struct sl_chunk_header *header = meta;
    header->magic = SL_CHUNK_MAGIC;
    header->table_crc = sl_crc32c(0, (uint8_t *)meta + SL_BLOCK_BYTES, SL_CHUNK_TABLE_BYTES);
    header->crc = block_crc(header, offsetof(struct sl_chunk_header, crc));
}

static const char *check_regions(const struct sl_chunk_header *header, const uint32_t *table,
                                 uint32_t slot_count)
{
    for (unsigned i = 0; i < SL_CHUNK_REGIONS; i++) {
        uint32_t slot = header->regions[i].slot & SL_SLOT_NONE;
        if (header->regions[i].slot >> 28 != 0)
            return "a region in an unknown encoding";
        if (slot != SL_SLOT_NONE && slot >= slot_count)
            return "a region lies in a slot that the disk does not have";
        for (unsigned k = 0; slot == SL_SLOT_NONE && k < SL_REGION_BLOCKS; k++) {
            uint32_t crc = table[i * SL_REGION_BLOCKS + k];
            if (crc != SL_CRC_ABSENT && crc != SL_CRC_DAMAGED)
                return "blocks with a checksum in a region without a slot";
        }
    }
    return NULL;
}

int sl_chunk_parse(const void *meta, const struct sl_chunk_place *place, const char **why)
{
    const struct sl_chunk_header *header = meta;
    const uint32_t *table =
        (const uint32_t *)(const void *)((const uint8_t *)meta + SL_BLOCK_BYTES);
    *why = "no chunk's header is there";
    if (header->magic != SL_CHUNK_MAGIC)
        return -ESTALE;
    *why = "the checksum of the chunk's header is wrong";
    if (header->crc != block_crc(header, offsetof(struct sl_chunk_header, crc)))
        return -SL_E_CHECKSUM;
    *why = "another chunk or version is there than the root says";
    if (memcmp(header->disk_id, place->disk_id, sizeof(header->disk_id)) != 0 ||
        header->group != place->group || header->number != place->number ||
        header->version != place->version || header->chunk != place->chunk ||
        header->shard != place->shard)
        return -ESTALE;
    *why = "the checksum of the chunk's table is wrong";
    if (header->table_crc != sl_crc32c(0, table, SL_CHUNK_TABLE_BYTES))
        return -SL_E_CHECKSUM;
    *why = check_regions(header, table, place->slot_count);
    return *why == NULL ? 0 : -SL_E_PROTOCOL;
}

/* ---- root ---- */

uint64_t sl_root_bytes(uint64_t chunk_count, uint64_t slot_count, uint64_t group_bytes)
{
    uint64_t body =
        chunk_count * sizeof(struct sl_root_chunk) + sl_align_up(slot_count, 64) / 8 + group_bytes;
    return SL_BLOCK_BYTES + sl_align_up(body, SL_BLOCK_BYTES);
}

void sl_root_seal(struct sl_root_header *header, const void *body)
{
    header->magic = SL_ROOT_MAGIC;
    header->body_crc = sl_crc32c(0, body, header->body_bytes);
    header->crc = block_crc(header, offsetof(struct sl_root_header, crc));
}

int sl_root_header_parse(const void *block, const struct sl_superblock *superblock, uint16_t shard,
                         struct sl_root_header *header, const char **why)
{
    memcpy(header, block, sizeof(*header)); /* header: root */
    *why = "no root is there";
    if (header->magic != SL_ROOT_MAGIC)
        return -ESTALE;
    *why = "the checksum of the root's header is wrong";
    if (header->crc != block_crc(header, offsetof(struct sl_root_header, crc)))
        return -SL_E_CHECKSUM;
    *why = "the root of another disk or shard";
    if (memcmp(header->disk_id, superblock->disk_id, sizeof(header->disk_id)) != 0 ||
        header->shard != shard)
        return -ESTALE;
    /* Fewer than the shard has: it was written before the disk grew. */
    *why = "a root of impossible size or sequence";
    if (header->sequence == 0 || header->chunk_count > sl_shard_chunk_count(superblock, shard) ||
        header->slot_count > sl_shard_slot_count(superblock, shard) ||
        header->group_count > superblock->shards[shard].group_bytes / sizeof(struct sl_root_group))
        return -SL_E_PROTOCOL;
    if (header->tail_generation == 0 || header->head_generation < header->tail_generation ||
        header->head_generation - header->tail_generation >=
            superblock->shards[shard].segment_count)
        return -SL_E_PROTOCOL;
    if (header->body_bytes < sl_root_parts(header).end ||
        header->body_bytes > superblock->shards[shard].root_bytes - SL_BLOCK_BYTES)
        return -SL_E_PROTOCOL;
    *why = NULL;
    return 0;
}

static int by_identity(const void *left, const void *right)
{
    const struct sl_root_chunk *a = left, *b = right;
    if (a->group != b->group)
        return a->group < b->group ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

/* `chunks` is sorted here. */
static const char *check_chunks(struct sl_root_chunk *chunks, uint32_t count)
{
    qsort(chunks, count, sizeof(*chunks), by_identity);
    for (uint32_t i = 0; i < count; i++) {
        if (chunks[i].group == 0)
            return "a chunk of group 0";
        if (i > 0 && by_identity(&chunks[i - 1], &chunks[i]) == 0)
            return "a chunk has two places";
    }
    return NULL;
}

static const char *check_groups(const struct sl_root_header *header, const uint8_t *body)
{
    struct sl_root_parts parts = sl_root_parts(header);
    uint64_t at = parts.states, last = 0;
    for (uint32_t i = 0; i < header->group_count; i++) {
        struct sl_root_group group;
        memcpy(&group, body + parts.groups + i * sizeof(group), sizeof(group)); /* header: group */
        if (group.group <= last)
            return "groups are not in ascending order";
        last = group.group;
        at += sl_align_up(group.state_bytes, 8);
        if (at > header->body_bytes)
            return "a group's state ends behind the root";
    }
    return NULL;
}

int sl_root_body_parse(const struct sl_root_header *header, const void *body, const char **why)
{
    const struct sl_root_chunk *chunks = body;
    *why = "the checksum of the root's body is wrong";
    if (header->body_crc != sl_crc32c(0, body, header->body_bytes))
        return -SL_E_CHECKSUM;
    *why = "out of memory";
    struct sl_root_chunk *used = malloc(header->chunk_count * sizeof(*used) + 1);
    if (used == NULL)
        return -ENOMEM;
    uint32_t used_count = 0;
    for (uint32_t i = 0; i < header->chunk_count; i++) {
        if (chunks[i].version != 0)
            used[used_count++] = chunks[i];
    }
    *why = check_chunks(used, used_count);
    free(used);
    if (*why == NULL)
        *why = check_groups(header, body);
    return *why == NULL ? 0 : -SL_E_PROTOCOL;
}
