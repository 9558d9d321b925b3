/* The `mem` backend: shards in a region of ours (hugepages if there are any). Lost with the
 * process. */
#include <errno.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "target/private.h"

static uint8_t *at(struct sl_target *target, uint64_t offset_bytes)
{
    uint64_t shard = offset_bytes / SL_SHARD_BYTES;
    uint64_t own = shard / target->storage->config.reactor_count;
    return target->region->base + own * SL_SHARD_BYTES + offset_bytes % SL_SHARD_BYTES;
}

static int mem_open(struct sl_target *target)
{
    struct sl_storage *storage = target->storage;
    int error = sl_storage_learn(storage, target->reactor, storage->config.size_bytes);
    if (error < 0)
        return error;
    uint64_t shards = (storage->info.capacity_bytes + SL_SHARD_BYTES - 1) / SL_SHARD_BYTES;
    unsigned reactors = storage->config.reactor_count;
    uint64_t own = shards / reactors + (target->reactor_index < shards % reactors ? 1 : 0);
    target->alignment_bytes = 1;
    if (own == 0)
        return 0;
    /* A small storage takes no whole shard of memory. */
    uint64_t bytes = sl_min(own * SL_SHARD_BYTES, storage->info.capacity_bytes);
    error = sl_region_create(sl_memory_regions(target->memory), bytes, storage->config.hugepages,
                             -1, &target->region);
    if (error < 0)
        sl_log_error("target", "%llu bytes of memory for %s cannot be had: %s",
                     (unsigned long long)bytes, storage->config.spec, sl_error_text(error));
    return error;
}

static void mem_close(struct sl_target *target)
{
    sl_region_remove(target->region);
    target->region = NULL;
}

static int mem_read_co(struct sl_target *target, uint64_t offset_bytes, const struct sl_span *spans,
                       unsigned span_count, uint32_t length_bytes)
{
    const uint8_t *from = at(target, offset_bytes);
    for (unsigned i = 0; i < span_count; i++) {
        sl_copy(sl_memory_copies(target->memory), SL_COPY_MEM_BACKEND, spans[i].data, from,
                spans[i].length_bytes);
        from += spans[i].length_bytes;
    }
    return 0;
}

static int mem_write_co(struct sl_target *target, uint64_t offset_bytes,
                        const struct sl_span *spans, unsigned span_count, uint32_t length_bytes)
{
    uint8_t *to = at(target, offset_bytes);
    for (unsigned i = 0; i < span_count; i++) {
        sl_copy(sl_memory_copies(target->memory), SL_COPY_MEM_BACKEND, to, spans[i].data,
                spans[i].length_bytes);
        to += spans[i].length_bytes;
    }
    return 0;
}

static int mem_flush_co(struct sl_target *target)
{
    return 0;
}

static int mem_write_zeroes_co(struct sl_target *target, uint64_t offset_bytes,
                               uint32_t length_bytes, bool keep)
{
    memset(at(target, offset_bytes), 0, length_bytes);
    return 0;
}

static void mem_borrow(struct sl_target *target, uint64_t offset_bytes, uint32_t length_bytes,
                       struct sl_span *span)
{
    *span = (struct sl_span){at(target, offset_bytes), length_bytes, target->region};
}

const struct backend_ops sl_backend_mem = {
    .open = mem_open,
    .close = mem_close,
    .read_co = mem_read_co,
    .write_co = mem_write_co,
    .flush_co = mem_flush_co,
    .write_zeroes_co = mem_write_zeroes_co,
    .borrow = mem_borrow,
};
