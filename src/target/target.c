/*
 * One I/O on the storage: check → range lock → backend → CRC, as one linear function. The same for
 * requests that came over the fabric (serve.c) and for a gateway in this process. Owned by its
 * reactor.
 */
#include "target/target.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/inject.h"
#include "core/log.h"
#include "target/cluster.h"
#include "target/private.h"

#define SERVES_A_SLAB 64

int sl_target_create(struct sl_storage *storage, unsigned reactor_index, struct sl_io *io,
                     struct sl_memory *memory, struct sl_target **result)
{
    struct sl_target *target = calloc(1, sizeof(*target));
    if (target == NULL)
        return -ENOMEM;
    target->storage = storage;
    target->reactor_index = reactor_index;
    target->reactor = sl_io_reactor(io);
    target->io = io;
    target->memory = memory;
    sl_block_waiters_init(&target->waiters);
    sl_list_init(&target->peers);
    sl_wait_queue_init(&target->peers_changed);
    sl_target_serves_init(target);
    int error = storage->backend->open(target);
    if (error < 0) {
        storage->backend->close(target);
        free(target);
        return error;
    }
    *result = target;
    return 0;
}

int sl_target_mount_co(struct sl_target *target)
{
    const struct backend_ops *backend = target->storage->backend;
    int error = backend->mount_co != NULL ? backend->mount_co(target) : 0;
    return error == 0 && target->cluster != NULL ? sl_cluster_open_groups_co(target->cluster)
                                                 : error;
}

void sl_target_unmount_co(struct sl_target *target)
{
    if (target != NULL && target->storage->backend->unmount_co != NULL)
        target->storage->backend->unmount_co(target);
}

void sl_target_destroy(struct sl_target *target)
{
    if (target == NULL)
        return;
    SL_ASSERT(target->statistics.inflight_count == 0 && sl_list_is_empty(&target->waiters.list));
    SL_ASSERT(sl_list_is_empty(&target->peers));
    target->storage->backend->close(target);
    sl_target_cluster_free(target->cluster);
    sl_pool_fini(&target->serves);
    free(target);
}

void sl_target_statistics(const struct sl_target *target, struct sl_target_statistics *statistics)
{
    *statistics = target->statistics;
    statistics->copies = *sl_memory_copies(target->memory);
    statistics->injected_count = sl_inject_hit_count(target->inject);
}

void sl_target_grow_co(struct sl_target *target)
{
    if (target == NULL)
        return;
    if (target->storage->backend->grow_co != NULL)
        target->storage->backend->grow_co(target);
    else
        sl_log_warn("target", "storage '%s' cannot grow while it is served", target->storage->name);
}

void sl_target_report(const struct sl_target *target)
{
    if (target != NULL && target->storage->backend->report != NULL)
        target->storage->backend->report(target);
    if (target == NULL || target->cluster == NULL)
        return;
    const struct sl_target_cluster *cluster = target->cluster;
    struct sl_log_site site = {0}; /* asked for: no flood to be thinned */
    sl_log_line(&site, SL_LOG_INFO, "target",
                "reactor %u: replicas compared: %llu chunks, %llu passes; %llu blocks differed, "
                "%llu mended; %llu reads served without leading; %llu resyncs given",
                target->reactor_index, (unsigned long long)cluster->compared.chunk_count,
                (unsigned long long)cluster->compared.pass_count,
                (unsigned long long)cluster->compared.difference_count,
                (unsigned long long)cluster->compared.mended_count,
                (unsigned long long)target->statistics.follower_read_count,
                (unsigned long long)target->statistics.resync_count);
}

void sl_target_count_injected(struct sl_target *target, const struct sl_inject *inject)
{
    target->inject = inject;
}

int sl_target_check(const struct sl_target *target, enum sl_io_opcode opcode, uint64_t offset_bytes,
                    uint32_t length_bytes)
{
    const struct sl_storage *storage = target->storage;
    if (opcode == SL_IO_FLUSH)
        return 0;
    if (opcode < SL_IO_READ || opcode > SL_IO_WRITE_ZEROES)
        return -EOPNOTSUPP;
    if (length_bytes == 0 || length_bytes > SL_TRANSFER_BYTES_MAX ||
        !sl_is_aligned(length_bytes | offset_bytes, SL_BLOCK_BYTES) ||
        offset_bytes % SL_SHARD_BYTES + length_bytes > SL_SHARD_BYTES)
        return -EINVAL;
    if (offset_bytes > storage->info.capacity_bytes ||
        length_bytes > storage->info.capacity_bytes - offset_bytes)
        return -ERANGE;
    if (opcode != SL_IO_READ && storage->info.read_only)
        return -EROFS;
    return sl_target_owns(target, offset_bytes) ? 0 : -SL_E_MOVED;
}

/* ---- checksums ---- */

/* The CRC of the block that begins `offset` bytes into the spans; it may straddle spans. */
static uint32_t crc_at(const struct sl_span *spans, unsigned span_count, uint32_t offset)
{
    uint32_t crc = 0, left = SL_BLOCK_BYTES;
    for (unsigned i = 0; i < span_count && left > 0; i++) {
        if (offset >= spans[i].length_bytes) {
            offset -= spans[i].length_bytes;
            continue;
        }
        uint32_t step = sl_min(left, spans[i].length_bytes - offset);
        crc = sl_crc32c(crc, spans[i].data + offset, step);
        left -= step;
        offset = 0;
    }
    return crc;
}

static void record_crcs(struct sl_target *target, uint64_t offset_bytes,
                        const struct sl_span *spans, unsigned span_count, uint32_t length_bytes)
{
    struct sl_block_table *blocks = &target->storage->blocks;
    uint64_t block = offset_bytes / SL_BLOCK_BYTES;
    for (uint32_t done = 0; done < length_bytes; done += SL_BLOCK_BYTES, block++) {
        blocks->crcs[block] = crc_at(spans, span_count, done);
        blocks->known[block] = 1;
    }
}

/* Offset of the first block that is not what was written, or -1. Blocks never seen before are
 * learnt. */
static int64_t verify_crcs(struct sl_target *target, uint64_t offset_bytes,
                           const struct sl_span *spans, unsigned span_count, uint32_t length_bytes)
{
    struct sl_block_table *blocks = &target->storage->blocks;
    uint64_t block = offset_bytes / SL_BLOCK_BYTES;
    for (uint32_t done = 0; done < length_bytes; done += SL_BLOCK_BYTES, block++) {
        uint32_t crc = crc_at(spans, span_count, done);
        if (!blocks->known[block]) {
            blocks->crcs[block] = crc;
            blocks->known[block] = 1;
        } else if (blocks->crcs[block] != crc) {
            return (int64_t)done;
        }
    }
    return -1;
}

static void mark_unknown(struct sl_target *target, uint64_t offset_bytes, uint32_t length_bytes)
{
    memset(target->storage->blocks.known + offset_bytes / SL_BLOCK_BYTES, 0,
           length_bytes / SL_BLOCK_BYTES);
}

static int bad_block(struct sl_target *target, uint64_t offset_bytes)
{
    target->statistics.checksum_error_count++;
    sl_log_error(
        "target",
        "storage '%s': the block at byte %llu fails its checksum twice: it is damaged, or its "
        "client changed its buffer during the write; this storage has no other copy: write it anew",
        target->storage->config.spec, (unsigned long long)offset_bytes);
    return -SL_E_CHECKSUM;
}

/* ---- reads ---- */

static bool is_aligned_for(const struct sl_target *target, const struct sl_span *spans,
                           unsigned span_count)
{
    if (target->alignment_bytes == 1)
        return true;
    for (unsigned i = 0; i < span_count; i++) {
        if (!sl_is_aligned((uintptr_t)spans[i].data | spans[i].length_bytes,
                           target->alignment_bytes))
            return false;
    }
    return sl_iov_is_prp(spans, span_count);
}

static void scatter(struct sl_target *target, enum sl_copy_reason reason, const uint8_t *from,
                    const struct sl_span *spans, unsigned span_count)
{
    for (unsigned i = 0; i < span_count; i++) {
        sl_copy(sl_memory_copies(target->memory), reason, spans[i].data, from,
                spans[i].length_bytes);
        from += spans[i].length_bytes;
    }
}

/* Through a buffer of ours: memory that the disk cannot address, or a second look at a bad block.
 * We hold the range lock, and those that wait for it may hold all the memory of admission: the
 * highest reserve keeps us from waiting for them. */
static int read_bounced_co(struct sl_target *target, uint64_t offset_bytes,
                           const struct sl_span *spans, unsigned span_count, uint32_t length_bytes,
                           enum sl_copy_reason reason)
{
    struct sl_buf *buf = sl_buf_alloc_co(target->memory, length_bytes, SL_RESERVE_CHECKPOINT);
    struct sl_span own = sl_buf_span(buf, 0, length_bytes);
    int error = target->storage->backend->read_co(target, offset_bytes, &own, 1, length_bytes);
    if (error == 0 && target->storage->config.checksums) {
        int64_t bad = verify_crcs(target, offset_bytes, &own, 1, length_bytes);
        if (bad >= 0)
            error = bad_block(target, offset_bytes + (uint64_t)bad);
    }
    if (error == 0)
        scatter(target, reason, own.data, spans, span_count);
    sl_buf_unref(buf);
    return error;
}

static int read_locked_co(struct sl_target *target, uint64_t offset_bytes,
                          const struct sl_span *spans, unsigned span_count, uint32_t length_bytes)
{
    if (!is_aligned_for(target, spans, span_count))
        return read_bounced_co(target, offset_bytes, spans, span_count, length_bytes,
                               SL_COPY_UNALIGNED);
    int error =
        target->storage->backend->read_co(target, offset_bytes, spans, span_count, length_bytes);
    if (error < 0 || !target->storage->config.checksums ||
        verify_crcs(target, offset_bytes, spans, span_count, length_bytes) < 0)
        return error;
    /* It landed in memory that its client may change meanwhile: look once more where only we write.
     */
    return read_bounced_co(target, offset_bytes, spans, span_count, length_bytes, SL_COPY_LAND);
}

int sl_target_read_borrowed_co(struct sl_target *target, uint64_t offset_bytes,
                               uint32_t length_bytes, struct sl_span *span)
{
    struct sl_block_table *blocks = &target->storage->blocks;
    target->storage->backend->borrow(target, offset_bytes, length_bytes, span);
    if (span->data == NULL)
        return -EOPNOTSUPP;
    sl_block_lock_co(blocks, &target->waiters, offset_bytes / SL_BLOCK_BYTES,
                     length_bytes / SL_BLOCK_BYTES, false);
    if (target->storage->config.checksums) {
        int64_t bad = verify_crcs(target, offset_bytes, span, 1, length_bytes);
        if (bad >= 0) {
            sl_target_read_borrowed_end(target, offset_bytes, length_bytes);
            return bad_block(target, offset_bytes + (uint64_t)bad);
        }
    }
    target->statistics.read_count++;
    target->statistics.read_bytes += length_bytes;
    return 0;
}

void sl_target_read_borrowed_end(struct sl_target *target, uint64_t offset_bytes,
                                 uint32_t length_bytes)
{
    sl_block_unlock(&target->storage->blocks, &target->waiters, offset_bytes / SL_BLOCK_BYTES,
                    length_bytes / SL_BLOCK_BYTES, false);
}

/* ---- writes ---- */

static int write_bounced_co(struct sl_target *target, uint64_t offset_bytes,
                            const struct sl_span *spans, unsigned span_count, uint32_t length_bytes)
{
    struct sl_buf *buf = sl_buf_alloc_co(target->memory, length_bytes, SL_RESERVE_CHECKPOINT);
    struct sl_span own = sl_buf_span(buf, 0, length_bytes);
    uint8_t *to = own.data;
    for (unsigned i = 0; i < span_count; i++) {
        sl_copy(sl_memory_copies(target->memory), SL_COPY_UNALIGNED, to, spans[i].data,
                spans[i].length_bytes);
        to += spans[i].length_bytes;
    }
    int error = target->storage->backend->write_co(target, offset_bytes, &own, 1, length_bytes);
    if (error == 0 && target->storage->config.checksums)
        record_crcs(target, offset_bytes, &own, 1, length_bytes);
    sl_buf_unref(buf);
    return error;
}

static int write_locked_co(struct sl_target *target, uint64_t offset_bytes,
                           const struct sl_span *spans, unsigned span_count, uint32_t length_bytes)
{
    int error;
    /* Until it has succeeded, nobody can say what the blocks hold. */
    mark_unknown(target, offset_bytes, length_bytes);
    if (!is_aligned_for(target, spans, span_count))
        return write_bounced_co(target, offset_bytes, spans, span_count, length_bytes);
    /* Before the write: the CRC is that of what the client had when it asked, and its pages are
     * warm. A client that changes them in flight spoils its own block (DESIGN "Stable payload"). */
    if (target->storage->config.checksums)
        record_crcs(target, offset_bytes, spans, span_count, length_bytes);
    error =
        target->storage->backend->write_co(target, offset_bytes, spans, span_count, length_bytes);
    if (error < 0)
        mark_unknown(target, offset_bytes, length_bytes);
    return error;
}

static int zero_locked_co(struct sl_target *target, uint64_t offset_bytes, uint32_t length_bytes,
                          bool keep)
{
    struct sl_block_table *blocks = &target->storage->blocks;
    mark_unknown(target, offset_bytes, length_bytes);
    int error = target->storage->backend->write_zeroes_co(target, offset_bytes, length_bytes, keep);
    if (error < 0)
        return error;
    uint64_t block = offset_bytes / SL_BLOCK_BYTES;
    for (uint32_t done = 0; done < length_bytes; done += SL_BLOCK_BYTES, block++) {
        blocks->crcs[block] = SL_CRC32C_ZERO_BLOCK;
        blocks->known[block] = 1;
    }
    return 0;
}

/* ---- all of them ---- */

static void count(struct sl_target_statistics *statistics, enum sl_io_opcode opcode,
                  uint32_t length_bytes, int error)
{
    if (error < 0) {
        statistics->error_count++;
        statistics->moved_count += error == -SL_E_MOVED;
        return;
    }
    statistics->read_count += opcode == SL_IO_READ;
    statistics->read_bytes += opcode == SL_IO_READ ? length_bytes : 0;
    statistics->write_count += opcode == SL_IO_WRITE;
    statistics->write_bytes += opcode == SL_IO_WRITE ? length_bytes : 0;
    statistics->flush_count += opcode == SL_IO_FLUSH;
    statistics->discard_count += opcode == SL_IO_DISCARD || opcode == SL_IO_WRITE_ZEROES;
}

static int execute_locked_co(struct sl_target *target, enum sl_io_opcode opcode,
                             uint64_t offset_bytes, const struct sl_span *spans,
                             unsigned span_count, uint32_t length_bytes)
{
    switch (opcode) {
    case SL_IO_READ:
        return read_locked_co(target, offset_bytes, spans, span_count, length_bytes);
    case SL_IO_WRITE:
        return write_locked_co(target, offset_bytes, spans, span_count, length_bytes);
    case SL_IO_DISCARD:
        return zero_locked_co(target, offset_bytes, length_bytes, false);
    default:
        return zero_locked_co(target, offset_bytes, length_bytes, true);
    }
}

int sl_target_execute_co(struct sl_target *target, enum sl_io_opcode opcode, uint64_t offset_bytes,
                         const struct sl_span *spans, unsigned span_count, uint32_t length_bytes)
{
    int error = sl_target_check(target, opcode, offset_bytes, length_bytes);
    if (error == 0 && opcode == SL_IO_FLUSH) {
        error = target->storage->backend->flush_co(target);
    } else if (error == 0) {
        struct sl_block_table *blocks = &target->storage->blocks;
        uint64_t first_block = offset_bytes / SL_BLOCK_BYTES;
        uint32_t block_count = length_bytes / SL_BLOCK_BYTES;
        bool exclusive = opcode != SL_IO_READ;
        sl_block_lock_co(blocks, &target->waiters, first_block, block_count, exclusive);
        error = execute_locked_co(target, opcode, offset_bytes, spans, span_count, length_bytes);
        sl_block_unlock(blocks, &target->waiters, first_block, block_count, exclusive);
    }
    count(&target->statistics, opcode, length_bytes, error);
    return error;
}

int sl_target_write_buf_co(struct sl_target *target, uint64_t offset_bytes, struct sl_buf *buf,
                           uint32_t length_bytes)
{
    struct sl_block_table *blocks = &target->storage->blocks;
    struct sl_span span = sl_buf_span(buf, 0, length_bytes);
    if (target->storage->backend->write_buf_co == NULL)
        return sl_target_execute_co(target, SL_IO_WRITE, offset_bytes, &span, 1, length_bytes);
    int error = sl_target_check(target, SL_IO_WRITE, offset_bytes, length_bytes);
    if (error == 0) {
        uint64_t first_block = offset_bytes / SL_BLOCK_BYTES;
        uint32_t block_count = length_bytes / SL_BLOCK_BYTES;
        sl_block_lock_co(blocks, &target->waiters, first_block, block_count, true);
        error = target->storage->backend->write_buf_co(target, offset_bytes, buf, length_bytes);
        sl_block_unlock(blocks, &target->waiters, first_block, block_count, true);
    }
    count(&target->statistics, SL_IO_WRITE, length_bytes, error);
    return error;
}
