/*
 * Seam 1's common part: forwards to the implementation (io_uring or the simulator) and checks what
 * every implementation may rely on: the PRP rules and the alignment of each disk operation.
 *
 * Invariant: an operation that reaches the implementation is well-formed; a caller's mistake ends
 * the process here, outside input was checked above (STYLE 19). Owner: the reactor of the struct
 * sl_io.
 */
#include "io/io_ops.h"

#include "mem/iobuf.h"

int sl_disk_open(struct sl_io *io, const char *path, const struct sl_disk_options *options,
                 struct sl_disk_info *info, struct sl_disk **disk)
{
    static const struct sl_disk_options defaults;
    int error = io->ops->disk_open(io, path, options != NULL ? options : &defaults, info, disk);
    if (error == 0) {
        SL_ASSERT(sl_is_power_of_two(info->alignment_bytes));
        SL_ASSERT(info->alignment_bytes <= SL_BLOCK_BYTES);
        (*disk)->info = *info;
    }
    return error;
}

void sl_disk_close(struct sl_disk *disk)
{
    if (disk != NULL)
        disk->io->ops->disk_close(disk);
}

int sl_disk_measure(struct sl_disk *disk, uint64_t *capacity_bytes)
{
    uint64_t now_bytes = 0;
    int error = disk->io->ops->disk_measure(disk, &now_bytes);
    disk->info.capacity_bytes = sl_max(disk->info.capacity_bytes, now_bytes);
    *capacity_bytes = disk->info.capacity_bytes;
    return error;
}

void sl_disk_op_init(struct sl_disk_op *op, struct sl_disk *disk, enum sl_disk_opcode opcode,
                     const struct sl_span *spans, unsigned span_count, uint64_t offset_bytes,
                     uint64_t length_bytes, unsigned flags)
{
    SL_ASSERT(span_count <= SL_DISK_SPANS_MAX);
    SL_ASSERT(sl_iov_is_prp(spans, span_count));
    sl_wait_init(&op->wait);
    sl_list_init(&op->node);
    op->disk = disk;
    op->opcode = opcode;
    op->flags = flags;
    op->offset_bytes = offset_bytes;
    op->length_bytes = length_bytes;
    op->piece_count = span_count;
    for (unsigned i = 0; i < span_count; i++)
        op->pieces[i] = (struct iovec){spans[i].data, spans[i].length_bytes};
    op->region = span_count == 1 ? spans[0].region : NULL;
}

/* Pieces: aligned memory, whole device blocks, in all what the operation says. */
static void assert_pieces(const struct sl_disk_op *op)
{
    uint64_t alignment = op->disk->info.alignment_bytes;
    uint64_t total = 0;
    SL_ASSERT(op->piece_count > 0 && op->piece_count <= SL_DISK_SPANS_MAX);
    for (unsigned i = 0; i < op->piece_count; i++) {
        SL_ASSERT(sl_is_aligned((uintptr_t)op->pieces[i].iov_base, alignment));
        SL_ASSERT(sl_is_aligned(op->pieces[i].iov_len, alignment));
        total += op->pieces[i].iov_len;
    }
    SL_ASSERT(total == op->length_bytes);
}

void sl_disk_submit(struct sl_disk_op *op)
{
    const struct sl_disk_info *info = &op->disk->info;
    if (op->opcode != SL_DISK_FLUSH) {
        SL_ASSERT(sl_is_aligned(op->offset_bytes | op->length_bytes, info->alignment_bytes));
        SL_ASSERT(op->length_bytes > 0);
        SL_ASSERT(op->offset_bytes <= info->capacity_bytes &&
                  op->length_bytes <= info->capacity_bytes - op->offset_bytes);
    }
    if (op->opcode == SL_DISK_READ || op->opcode == SL_DISK_WRITE)
        assert_pieces(op);
    else
        SL_ASSERT(op->piece_count == 0);
    op->disk->io->ops->disk_submit(op);
}

int sl_disk_rw_co(struct sl_disk *disk, enum sl_disk_opcode opcode, const struct sl_span *spans,
                  unsigned span_count, uint64_t offset_bytes, uint64_t length_bytes, unsigned flags)
{
    struct sl_disk_op op;
    sl_disk_op_init(&op, disk, opcode, spans, span_count, offset_bytes, length_bytes, flags);
    sl_disk_submit(&op);
    int64_t result = sl_wait_co(&op.wait);
    return result < 0 ? (int)result : 0;
}

int sl_listener_open(struct sl_io *io, const char *address, char *bound,
                     struct sl_listener **listener)
{
    return io->ops->listener_open(io, address, bound, listener);
}

int sl_listener_accept_co(struct sl_listener *listener, char *peer, struct sl_stream **stream)
{
    return listener->io->ops->listener_accept_co(listener, peer, stream);
}

void sl_listener_shutdown(struct sl_listener *listener)
{
    listener->io->ops->listener_shutdown(listener);
}

void sl_listener_close(struct sl_listener *listener)
{
    if (listener != NULL)
        listener->io->ops->listener_close(listener);
}

int sl_stream_connect_co(struct sl_io *io, const char *address, uint64_t deadline_ns,
                         struct sl_stream **stream)
{
    return io->ops->stream_connect_co(io, address, deadline_ns, stream);
}

int64_t sl_stream_receive_co(struct sl_stream *stream, const struct iovec *pieces,
                             unsigned piece_count)
{
    SL_ASSERT(piece_count > 0 && piece_count <= SL_STREAM_PIECES_MAX);
    return stream->io->ops->stream_receive_co(stream, pieces, piece_count);
}

int sl_stream_send_co(struct sl_stream *stream, const struct iovec *pieces, unsigned piece_count,
                      bool zero_copy)
{
    SL_ASSERT(piece_count <= SL_STREAM_PIECES_MAX);
    return stream->io->ops->stream_send_co(stream, pieces, piece_count, zero_copy);
}

void sl_stream_shutdown(struct sl_stream *stream)
{
    stream->io->ops->stream_shutdown(stream);
}

void sl_stream_close(struct sl_stream *stream)
{
    if (stream != NULL)
        stream->io->ops->stream_close(stream);
}

int sl_stream_detach(struct sl_stream *stream)
{
    return stream->io->ops->stream_detach(stream);
}

int sl_stream_adopt(struct sl_io *io, int handle, struct sl_stream **stream)
{
    return io->ops->stream_adopt(io, handle, stream);
}

int sl_descriptor_wait_co(struct sl_io *io, int descriptor, short events, uint64_t deadline_ns)
{
    return io->ops->descriptor_wait_co(io, descriptor, events, deadline_ns);
}

void sl_descriptor_cancel(struct sl_io *io, int descriptor)
{
    io->ops->descriptor_cancel(io, descriptor);
}

int sl_doorbell_create(struct sl_io *io, int eventfd, void (*ring)(void *argument), void *argument,
                       struct sl_doorbell **doorbell)
{
    return io->ops->doorbell_create(io, eventfd, ring, argument, doorbell);
}

void sl_doorbell_destroy(struct sl_doorbell *doorbell)
{
    if (doorbell != NULL)
        doorbell->io->ops->doorbell_destroy(doorbell);
}

int sl_watch_create(struct sl_io *io, int descriptor, void (*ready)(void *argument), void *argument,
                    struct sl_watch **watch)
{
    return io->ops->watch_create(io, descriptor, ready, argument, watch);
}

void sl_watch_arm(struct sl_watch *watch)
{
    watch->io->ops->watch_arm(watch);
}

void sl_watch_destroy(struct sl_watch *watch)
{
    if (watch != NULL)
        watch->io->ops->watch_destroy(watch);
}

const struct sl_reactor_engine *sl_io_engine(struct sl_io *io)
{
    return &io->engine;
}

void sl_io_bind(struct sl_io *io, struct sl_reactor *reactor)
{
    io->reactor = reactor;
}

struct sl_reactor *sl_io_reactor(struct sl_io *io)
{
    return io->reactor;
}

int sl_io_register_memory(struct sl_io *io, struct sl_memory *memory)
{
    return io->ops->register_memory(io, memory);
}

void sl_io_destroy(struct sl_io *io)
{
    if (io != NULL)
        io->ops->destroy(io);
}
