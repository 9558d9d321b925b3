/* The file and block-device backend: straight to seam 1. Byte n of the storage is byte n of the
 * file. */
#include <errno.h>

#include "core/error.h"
#include "core/log.h"
#include "target/private.h"

/* A killed predecessor's last I/O ends within this, unless its device hangs: then the operator
 * tries again. */
#define LOCK_WAIT_NS (3 * SL_NS_PER_S)

static void explain(const char *path, int error)
{
    const char *hint = "";
    if (error == -EWOULDBLOCK)
        hint = "; another process serves it (or its last I/O has not ended)";
    else if (error == -EINVAL)
        hint = "; its file system has no O_DIRECT: use another, or --buffered";
    else if (error == -ENOSPC)
        hint = "; it is smaller than --size";
    sl_log_error("target", "storage '%s' cannot be opened: %s (%s)%s", path, sl_error_text(error),
                 sl_error_name(error), hint);
}

int sl_target_disk_open(struct sl_target *target, unsigned number)
{
    struct sl_storage *storage = target->storage;
    struct sl_storage_disk *disk = &storage->disks[number];
    struct sl_disk_options options = {
        .read_only = storage->config.read_only,
        .buffered = storage->config.buffered,
        .exclusive = true,
        .lock_wait_ns = LOCK_WAIT_NS,
        .share_with = disk->first,
    };
    int error = sl_disk_open(target->io, disk->path, &options, &target->disk_infos[number],
                             &target->disks[number]);
    if (error < 0) {
        explain(disk->path, error);
        return error;
    }
    if (disk->first == NULL)
        disk->first = target->disks[number];
    return 0;
}

void sl_target_disk_close(struct sl_target *target, unsigned number)
{
    struct sl_storage_disk *disk = &target->storage->disks[number];
    if (target->disks[number] == NULL)
        return;
    if (disk->first == target->disks[number])
        disk->first = NULL;
    sl_disk_close(target->disks[number]);
    target->disks[number] = NULL;
}

static int disk_open(struct sl_target *target)
{
    int error = sl_target_disk_open(target, 0);
    if (error < 0)
        return error;
    const struct sl_disk_info *info = &target->disk_infos[0];
    error = sl_storage_learn(target->storage, target->reactor, info->capacity_bytes);
    if (error < 0)
        explain(target->storage->disks[0].path, error);
    target->alignment_bytes = info->alignment_bytes;
    return error;
}

static void disk_close(struct sl_target *target)
{
    /* The others were closed before: it is theirs that is shared. */
    if (target->disks[0] != NULL && target->storage->disks[0].first == target->disks[0])
        sl_storage_settle(target->storage);
    sl_target_disk_close(target, 0);
}

/* Only here is it known which disk it was; the client is told by status. */
static int outcome(const struct sl_target *target, const char *what, uint64_t offset_bytes,
                   uint32_t length_bytes, int error)
{
    if (error < 0)
        sl_log_error("target", "storage '%s': %s of %u bytes at byte %llu failed: %s (%s)%s",
                     target->storage->disks[0].path, what, length_bytes,
                     (unsigned long long)offset_bytes, sl_error_text(error), sl_error_name(error),
                     error == -ENOSPC ? "; make room in its file system, and preallocate the file "
                                        "(fallocate)"
                                      : "");
    return error;
}

static int disk_read_co(struct sl_target *target, uint64_t offset_bytes,
                        const struct sl_span *spans, unsigned span_count, uint32_t length_bytes)
{
    int error = sl_disk_rw_co(target->disks[0], SL_DISK_READ, spans, span_count, offset_bytes,
                              length_bytes, 0);
    return outcome(target, "read", offset_bytes, length_bytes, error);
}

static int disk_write_co(struct sl_target *target, uint64_t offset_bytes,
                         const struct sl_span *spans, unsigned span_count, uint32_t length_bytes)
{
    unsigned flags = target->storage->config.durable_writes ? SL_DISK_DURABLE : 0;
    int error = sl_disk_rw_co(target->disks[0], SL_DISK_WRITE, spans, span_count, offset_bytes,
                              length_bytes, flags);
    return outcome(target, "write", offset_bytes, length_bytes, error);
}

static int disk_flush_co(struct sl_target *target)
{
    int error = sl_disk_rw_co(target->disks[0], SL_DISK_FLUSH, NULL, 0, 0, 0, 0);
    return outcome(target, "flush", 0, 0, error);
}

static int disk_write_zeroes_co(struct sl_target *target, uint64_t offset_bytes,
                                uint32_t length_bytes, bool keep)
{
    /* Also for a discard: what a device answers for discarded blocks is not defined, our checksums
     * are. */
    int error = sl_disk_rw_co(target->disks[0], SL_DISK_WRITE_ZEROES, NULL, 0, offset_bytes,
                              length_bytes, 0);
    outcome(target, "zeroing", offset_bytes, length_bytes, error);
    if (error == 0 && target->storage->config.durable_writes)
        error = disk_flush_co(target);
    return error;
}

static void disk_borrow(struct sl_target *target, uint64_t offset_bytes, uint32_t length_bytes,
                        struct sl_span *span)
{
    *span = (struct sl_span){0};
}

const struct backend_ops sl_backend_disk = {
    .open = disk_open,
    .close = disk_close,
    .read_co = disk_read_co,
    .write_co = disk_write_co,
    .flush_co = disk_flush_co,
    .write_zeroes_co = disk_write_zeroes_co,
    .borrow = disk_borrow,
};
