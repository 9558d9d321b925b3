/*
 * Formatting a disk. In this order, flushed in between: no superblock, the logs' segments (written,
 * so that later writes change nothing of a file system's map), first roots, superblocks. A format
 * that was interrupted leaves a disk without a superblock.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "store/chunk.h"

#define ZERO_BYTES SL_MIB
#define ZERO_OPS   8u

struct making {
    struct sl_disk *disk;
    const struct sl_disk_info *info;
    struct sl_memory *memory;
    struct sl_superblock *superblock;
};

static int flush_co(struct making *making)
{
    return sl_disk_rw_co(making->disk, SL_DISK_FLUSH, NULL, 0, 0, 0, 0);
}

static int check_empty_co(struct making *making, char *error, size_t error_bytes)
{
    static const uint64_t places[] = {SL_SUPERBLOCK_A, SL_SUPERBLOCK_B};
    struct sl_superblock *old = malloc(sizeof(*old));
    uint8_t *block = malloc(SL_BLOCK_BYTES);
    int result = old == NULL || block == NULL ? -ENOMEM : 0;
    for (unsigned i = 0; i < SL_COUNT_OF(places) && result == 0; i++) {
        const char *why;
        result =
            store_read_bytes_co(making->disk, making->memory, places[i], block, SL_BLOCK_BYTES);
        if (result == 0 && sl_superblock_parse(block, old, &why) != -ESTALE) {
            snprintf(error, error_bytes,
                     "it has a superblock of Sluice, and data may lie behind it: --force formats "
                     "it nevertheless");
            result = -EEXIST;
        }
    }
    free(old);
    free(block);
    return result;
}

static int write_zeroes_co(struct making *making, uint64_t offset, uint64_t length)
{
    struct io_set set;
    struct sl_buf *buf = sl_buf_alloc_co(making->memory, ZERO_BYTES, SL_RESERVE_CHECKPOINT);
    if (buf == NULL)
        return -ENOMEM;
    memset(buf->data, 0, ZERO_BYTES);
    int error = io_set_init(&set, making->disk, ZERO_OPS);
    for (uint64_t done = 0; done < length && error == 0; done += ZERO_BYTES) {
        struct sl_span span = sl_buf_span(buf, 0, (uint32_t)sl_min(length - done, ZERO_BYTES));
        io_set_add_co(&set, SL_DISK_WRITE, &span, 1, offset + done, span.length_bytes);
    }
    if (error == 0) {
        error = io_set_wait_co(&set);
        io_set_fini(&set);
    }
    sl_buf_unref(buf);
    return error;
}

static int write_root_co(struct making *making, uint16_t shard)
{
    const struct sl_disk_shard *zones = &making->superblock->shards[shard];
    struct sl_root_header *header = calloc(1, sizeof(*header));
    if (header == NULL)
        return -ENOMEM;
    header->sequence = 1;
    header->tail_generation = header->head_generation = 1;
    header->tail_sequence = 1;
    header->slot_count = sl_shard_slot_count(making->superblock, shard);
    header->shard = shard;
    memcpy(header->disk_id, making->superblock->disk_id, 16); /* header: id */
    header->body_bytes = sl_root_parts(header).end;
    uint8_t *body = calloc(1, header->body_bytes + 1);
    int error = body == NULL ? -ENOMEM : 0;
    if (error == 0) {
        sl_root_seal(header, body);
        error = write_zeroes_co(making, zones->roots_offset, SL_ROOT_COPIES * zones->root_bytes);
    }
    for (unsigned copy = 2; copy < 4 && error == 0; copy++) { /* an odd sequence's */
        uint64_t offset = zones->roots_offset + copy * zones->root_bytes;
        error = store_write_bytes_co(making->disk, making->memory, offset, header, sizeof(*header));
        if (error == 0)
            error = store_write_bytes_co(making->disk, making->memory, offset + SL_BLOCK_BYTES,
                                         body, header->body_bytes);
    }
    free(body);
    free(header);
    return error;
}

static int write_shards_co(struct making *making)
{
    int error = 0;
    for (uint16_t shard = 0; shard < making->superblock->shard_count && error == 0; shard++) {
        const struct sl_disk_shard *zones = &making->superblock->shards[shard];
        error = write_zeroes_co(making, zones->wal_offset,
                                zones->segment_count * making->superblock->segment_bytes);
        if (error == 0)
            error = write_root_co(making, shard);
    }
    return error == 0 ? flush_co(making) : error;
}

static int write_all_co(struct making *making)
{
    int error = write_zeroes_co(making, 0, SL_DISK_RESERVED);
    if (error == 0)
        error = flush_co(making);
    if (error == 0)
        error = write_shards_co(making);
    if (error == 0)
        error = store_write_bytes_co(making->disk, making->memory, SL_SUPERBLOCK_B,
                                     making->superblock, sizeof(*making->superblock));
    if (error == 0)
        error = store_write_bytes_co(making->disk, making->memory, SL_SUPERBLOCK_A,
                                     making->superblock, sizeof(*making->superblock));
    return error == 0 ? flush_co(making) : error;
}

int sl_store_format_co(struct sl_disk *disk, const struct sl_disk_info *info,
                       struct sl_memory *memory, const struct sl_store_format *format, char *error,
                       size_t error_bytes)
{
    struct making making = {disk, info, memory, calloc(1, sizeof(struct sl_superblock))};
    int result = -ENOMEM;
    snprintf(error, error_bytes, "out of memory");
    if (making.superblock != NULL)
        result = sl_layout_make(info->capacity_bytes, &format->layout, making.superblock, error,
                                error_bytes);
    if (result == 0 && !format->force)
        result = check_empty_co(&making, error, error_bytes);
    if (result == 0) {
        memcpy(making.superblock->disk_id, format->disk_id, 16);       /* header: id */
        memcpy(making.superblock->cluster_id, format->cluster_id, 16); /* header: id */
        making.superblock->salt = format->salt;
        sl_superblock_seal(making.superblock);
        result = write_all_co(&making);
        if (result < 0)
            snprintf(error, error_bytes, "writing failed: %s (%s)", sl_error_text(result),
                     sl_error_name(result));
    }
    free(making.superblock);
    return result;
}
