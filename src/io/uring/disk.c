/*
 * Disk operations: one submission each, continued after a short transfer, so that the result is all
 * or an error. State lives in the operation (engine_data): nothing is allocated.
 *
 *   READ, WRITE      READ_FIXED / WRITE_FIXED for one piece in a registered region, READ / WRITE
 * for one piece elsewhere, READV / WRITEV for more; RWF_DSYNC for SL_DISK_DURABLE (FUA where the
 * device has it) FLUSH            fdatasync: the device's cache too DISCARD fallocate(PUNCH_HOLE);
 * where that is refused nothing is done, which is a discard as well WRITE_ZEROES
 * fallocate(ZERO_RANGE) → fallocate(PUNCH_HOLE) → writes from a page of zeroes: the first that the
 *                    file system or device knows, remembered per disk
 *
 * Owner: the disk's reactor.
 */
#include "io/uring/internal.h"

#include <errno.h>
#include <linux/falloc.h>

/* What one write of zeroes takes per piece; the kernel reads it only. */
#define ZERO_BUFFER_BYTES (64 * 1024)
static const uint8_t zero_buffer[ZERO_BUFFER_BYTES] __attribute__((aligned(4096)));

enum stage {
    STAGE_TRANSFER,
    STAGE_SYNC,  /* flush, or the durable end of zeroes */
    STAGE_PUNCH, /* discard */
    STAGE_ZERO_RANGE,
    STAGE_ZERO_PUNCH,
    STAGE_ZERO_WRITE,
};

/* In sl_disk_op.engine_data. */
struct disk_state {
    struct uring_op op;
    uint64_t done_bytes;
    uint32_t cut_bytes; /* taken off the front of pieces[piece_index]; put back at the end */
    uint16_t piece_index;
    uint16_t stage;
};
_Static_assert(sizeof(struct disk_state) <= sizeof(((struct sl_disk_op *)0)->engine_data),
               "the state of a disk operation lies in the operation");

static struct disk_state *state_of(struct sl_disk_op *op)
{
    return (struct disk_state *)(void *)op->engine_data;
}

static struct uring_disk *disk_of(struct sl_disk_op *op)
{
    return sl_container_of(op->disk, struct uring_disk, disk);
}

static void disk_finish(struct sl_disk_op *op, int64_t result)
{
    struct disk_state *state = state_of(op);
    if (state->cut_bytes > 0) {
        struct iovec *piece = &op->pieces[state->piece_index];
        piece->iov_base = (uint8_t *)piece->iov_base - state->cut_bytes;
        piece->iov_len += state->cut_bytes;
    }
    if (op->opcode == SL_DISK_WRITE_ZEROES)
        op->piece_count = 0;
    disk_of(op)->in_flight_count--;
    sl_wait_wake(&op->wait, result);
}

/* Moves the pieces past `bytes` that were transferred. */
static void disk_advance(struct sl_disk_op *op, uint64_t bytes)
{
    struct disk_state *state = state_of(op);
    state->done_bytes += bytes;
    while (bytes > 0) {
        struct iovec *piece = &op->pieces[state->piece_index];
        uint32_t step = (uint32_t)sl_min(bytes, piece->iov_len);
        piece->iov_base = (uint8_t *)piece->iov_base + step;
        piece->iov_len -= step;
        state->cut_bytes += step;
        bytes -= step;
        if (piece->iov_len > 0)
            break;
        piece->iov_base = (uint8_t *)piece->iov_base - state->cut_bytes;
        piece->iov_len = state->cut_bytes;
        state->cut_bytes = 0;
        state->piece_index++;
    }
}

static void zeroes_fill(struct sl_disk_op *op)
{
    uint64_t left = op->length_bytes - state_of(op)->done_bytes;
    for (op->piece_count = 0; left > 0 && op->piece_count < SL_DISK_SPANS_MAX; op->piece_count++) {
        size_t length = sl_min(left, (uint64_t)ZERO_BUFFER_BYTES);
        op->pieces[op->piece_count] = (struct iovec){(void *)(uintptr_t)zero_buffer, length};
        left -= length;
    }
    state_of(op)->piece_index = 0;
    state_of(op)->cut_bytes = 0;
}

static void prep_transfer(struct sl_uring *uring, struct io_uring_sqe *sqe, int handle,
                          struct sl_disk_op *op)
{
    struct disk_state *state = state_of(op);
    struct iovec *pieces = op->pieces + state->piece_index;
    unsigned count = op->piece_count - state->piece_index;
    uint64_t offset = op->offset_bytes + state->done_bytes;
    bool write = op->opcode != SL_DISK_READ;
    if (count == 1) {
        void *data = pieces[0].iov_base;
        unsigned length = (unsigned)pieces[0].iov_len;
        int slot = op->piece_count == 1 ? uring_buffer_slot(uring, op->region, data, length) : -1;
        if (slot >= 0 && write)
            io_uring_prep_write_fixed(sqe, handle, data, length, offset, slot);
        else if (slot >= 0)
            io_uring_prep_read_fixed(sqe, handle, data, length, offset, slot);
        else if (write)
            io_uring_prep_write(sqe, handle, data, length, offset);
        else
            io_uring_prep_read(sqe, handle, data, length, offset);
    } else if (write) {
        io_uring_prep_writev(sqe, handle, pieces, count, offset);
    } else {
        io_uring_prep_readv(sqe, handle, pieces, count, offset);
    }
    if (write && (op->flags & SL_DISK_DURABLE) != 0)
        sqe->rw_flags = RWF_DSYNC;
}

/* A disk that has less to do than what waits for it gets that at once, not when the turn's
 * coroutines have run: 2, 3, 6, 12... after a rest. One alone goes with the turn. */
static void keep_busy(struct sl_uring *uring, struct uring_disk *disk)
{
    if (disk->batch != uring->batch) {
        disk->batch = uring->batch;
        disk->queued_count = 0;
    }
    disk->queued_count++;
    if (disk->queued_count >= 2 && disk->queued_count > disk->in_flight_count / 2)
        uring_submit(uring);
}

static void disk_queue(struct sl_disk_op *op)
{
    struct uring_disk *disk = disk_of(op);
    struct sl_uring *uring = uring_of(op->disk->io);
    struct io_uring_sqe *sqe = uring_sqe(uring);
    int handle = disk->file_slot >= 0 ? disk->file_slot : disk->descriptor;
    /* Lengths of fallocate are passed whole (64 bits). */
    switch ((enum stage)state_of(op)->stage) {
    case STAGE_TRANSFER:
    case STAGE_ZERO_WRITE:
        prep_transfer(uring, sqe, handle, op);
        break;
    case STAGE_SYNC:
        io_uring_prep_fsync(sqe, handle, IORING_FSYNC_DATASYNC);
        break;
    case STAGE_PUNCH:
    case STAGE_ZERO_PUNCH:
        io_uring_prep_fallocate(sqe, handle, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                (off_t)op->offset_bytes, (off_t)op->length_bytes);
        break;
    case STAGE_ZERO_RANGE:
        io_uring_prep_fallocate(sqe, handle, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                (off_t)op->offset_bytes, (off_t)op->length_bytes);
        break;
    }
    if (disk->file_slot >= 0)
        sqe->flags |= IOSQE_FIXED_FILE;
    uring_queue(uring, sqe, &state_of(op)->op);
    keep_busy(uring, disk);
}

static void disk_queue_stage(struct sl_disk_op *op, enum stage stage)
{
    state_of(op)->stage = (uint16_t)stage;
    if (stage == STAGE_ZERO_WRITE)
        zeroes_fill(op);
    disk_queue(op);
}

static bool is_refusal(int32_t result)
{
    /* EINVAL: some file systems answer it to a mode that they do not know. */
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL;
}

static void disk_transferred(struct sl_disk_op *op, int32_t result)
{
    struct disk_state *state = state_of(op);
    if (result <= 0) {
        /* 0: the file ends before the capacity that it had when it was opened. */
        disk_finish(op, result < 0 ? result : -EIO);
        return;
    }
    disk_advance(op, (uint64_t)result);
    if (SL_LIKELY(state->done_bytes == op->length_bytes))
        disk_finish(op, (int64_t)op->length_bytes);
    else if (state->stage == STAGE_ZERO_WRITE)
        disk_queue_stage(op, STAGE_ZERO_WRITE);
    else
        disk_queue(op);
}

static void disk_zeroed(struct sl_disk_op *op, int32_t result)
{
    struct uring_disk *disk = disk_of(op);
    if (is_refusal(result)) {
        bool range = state_of(op)->stage == STAGE_ZERO_RANGE;
        enum uring_zeroes next = range ? URING_ZEROES_PUNCH : URING_ZEROES_WRITE;
        disk->zeroes = sl_max(disk->zeroes, next);
        disk_queue_stage(op, range ? STAGE_ZERO_PUNCH : STAGE_ZERO_WRITE);
    } else if (result == 0 && (op->flags & SL_DISK_DURABLE) != 0) {
        disk_queue_stage(op, STAGE_SYNC);
    } else {
        disk_finish(op, result < 0 ? result : (int64_t)op->length_bytes);
    }
}

static void disk_complete(struct uring_op *uring_op, int32_t result, uint32_t flags)
{
    struct disk_state *state = sl_container_of(uring_op, struct disk_state, op);
    struct sl_disk_op *op = sl_container_of((void *)state, struct sl_disk_op, engine_data);
    if (SL_UNLIKELY(result == -EINTR)) {
        disk_queue(op);
        return;
    }
    switch ((enum stage)state->stage) {
    case STAGE_TRANSFER:
    case STAGE_ZERO_WRITE:
        disk_transferred(op, result);
        break;
    case STAGE_SYNC:
        disk_finish(op, result < 0 ? result : (int64_t)op->length_bytes);
        break;
    case STAGE_PUNCH:
        if (is_refusal(result)) {
            op->disk->info.can_discard = false;
            result = 0;
        }
        disk_finish(op, result < 0 ? result : (int64_t)op->length_bytes);
        break;
    case STAGE_ZERO_RANGE:
    case STAGE_ZERO_PUNCH:
        disk_zeroed(op, result);
        break;
    }
}

void uring_disk_submit(struct sl_disk_op *op)
{
    struct uring_disk *disk = disk_of(op);
    *state_of(op) = (struct disk_state){.op.complete = disk_complete};
    disk->in_flight_count++;
    if (disk->read_only && op->opcode != SL_DISK_READ && op->opcode != SL_DISK_FLUSH) {
        disk_finish(op, -EROFS);
        return;
    }
    switch (op->opcode) {
    case SL_DISK_READ:
    case SL_DISK_WRITE:
        disk_queue_stage(op, STAGE_TRANSFER);
        break;
    case SL_DISK_FLUSH:
        disk_queue_stage(op, STAGE_SYNC);
        break;
    case SL_DISK_DISCARD:
        if (op->disk->info.can_discard)
            disk_queue_stage(op, STAGE_PUNCH);
        else
            disk_finish(op, (int64_t)op->length_bytes);
        break;
    case SL_DISK_WRITE_ZEROES:
        disk_queue_stage(op, disk->zeroes == URING_ZEROES_RANGE   ? STAGE_ZERO_RANGE
                             : disk->zeroes == URING_ZEROES_PUNCH ? STAGE_ZERO_PUNCH
                                                                  : STAGE_ZERO_WRITE);
        break;
    }
}
