/*
 * Disks that fail and linger: see inject.h. An operation that waits is told by its own timer, which
 * lies where the engine below will keep its state later: nothing is allocated. Owner: the reactor
 * of the io below.
 */
#include "io/inject.h"

#include <errno.h>
#include <stdlib.h>

#include "io/io_ops.h"

struct layer_io {
    struct sl_io io;
    struct sl_io *lower;
    struct sl_inject *inject;
};

struct layer_disk {
    struct sl_disk disk;
    struct sl_disk *lower;
};

/* In sl_disk_op.engine_data until it is passed on. */
struct delayed {
    struct sl_timer timer;
    int error;
};
_Static_assert(sizeof(struct delayed) <= sizeof(((struct sl_disk_op *)0)->engine_data),
               "the state of a delayed operation lies in the operation");

static const struct sl_io_ops layer_ops;

static struct layer_io *layer_of(struct sl_io *io)
{
    return sl_container_of(io, struct layer_io, io);
}

static struct layer_disk *disk_of(struct sl_disk *disk)
{
    return sl_container_of(disk, struct layer_disk, disk);
}

/* ---- disks ---- */

static int disk_open(struct sl_io *io, const char *path, const struct sl_disk_options *options,
                     struct sl_disk_info *info, struct sl_disk **result)
{
    struct sl_disk_options lower_options = *options;
    struct layer_disk *disk = calloc(1, sizeof(*disk));
    if (disk == NULL)
        return -ENOMEM;
    if (options->share_with != NULL && options->share_with->io->ops == &layer_ops)
        lower_options.share_with =
            sl_container_of(options->share_with, const struct layer_disk, disk)->lower;
    int error = sl_disk_open(layer_of(io)->lower, path, &lower_options, info, &disk->lower);
    if (error < 0) {
        free(disk);
        return error;
    }
    disk->disk.io = io;
    *result = &disk->disk;
    return 0;
}

static void disk_close(struct sl_disk *disk)
{
    sl_disk_close(disk_of(disk)->lower);
    free(disk_of(disk));
}

static int disk_measure(struct sl_disk *disk, uint64_t *capacity_bytes)
{
    return sl_disk_measure(disk_of(disk)->lower, capacity_bytes);
}

/* Its way goes on below, where it completes. */
static void pass_on(struct sl_disk_op *op, int error)
{
    if (error < 0) {
        sl_wait_wake(&op->wait, error);
        return;
    }
    op->disk = disk_of(op->disk)->lower;
    sl_disk_submit(op);
}

static void delay_over(struct sl_timer *timer)
{
    struct delayed *delayed = sl_container_of(timer, struct delayed, timer);
    struct sl_disk_op *op = sl_container_of((void *)delayed, struct sl_disk_op, engine_data);
    pass_on(op, delayed->error);
}

static void disk_submit(struct sl_disk_op *op)
{
    static const enum sl_inject_operation operations[] = {
        [SL_DISK_READ] = SL_INJECT_READ,           [SL_DISK_WRITE] = SL_INJECT_WRITE,
        [SL_DISK_FLUSH] = SL_INJECT_FLUSH,         [SL_DISK_DISCARD] = SL_INJECT_DISCARD,
        [SL_DISK_WRITE_ZEROES] = SL_INJECT_ZEROES,
    };
    struct layer_io *layer = layer_of(op->disk->io);
    struct sl_inject_verdict verdict =
        sl_inject_decide(layer->inject, SL_INJECT_DISK, operations[op->opcode], op->offset_bytes,
                         op->opcode == SL_DISK_FLUSH ? 0 : op->length_bytes);
    if (verdict.delay_ns == 0) {
        pass_on(op, verdict.error);
        return;
    }
    struct delayed *delayed = (struct delayed *)(void *)op->engine_data;
    struct sl_reactor *reactor = layer->lower->reactor;
    delayed->error = verdict.error;
    sl_timer_init(&delayed->timer, delay_over);
    sl_timer_arm(reactor, &delayed->timer, sl_reactor_now_ns(reactor) + verdict.delay_ns);
}

/* ---- all else ---- */

static int listener_open(struct sl_io *io, const char *address, char *bound,
                         struct sl_listener **listener)
{
    return sl_listener_open(layer_of(io)->lower, address, bound, listener);
}

static int stream_connect_co(struct sl_io *io, const char *address, uint64_t deadline_ns,
                             struct sl_stream **stream)
{
    return sl_stream_connect_co(layer_of(io)->lower, address, deadline_ns, stream);
}

static int stream_adopt(struct sl_io *io, int handle, struct sl_stream **stream)
{
    return sl_stream_adopt(layer_of(io)->lower, handle, stream);
}

static int descriptor_wait_co(struct sl_io *io, int descriptor, short events, uint64_t deadline_ns)
{
    return sl_descriptor_wait_co(layer_of(io)->lower, descriptor, events, deadline_ns);
}

static void descriptor_cancel(struct sl_io *io, int descriptor)
{
    sl_descriptor_cancel(layer_of(io)->lower, descriptor);
}

static int doorbell_create(struct sl_io *io, int eventfd, void (*ring)(void *argument),
                           void *argument, struct sl_doorbell **doorbell)
{
    return sl_doorbell_create(layer_of(io)->lower, eventfd, ring, argument, doorbell);
}

static int watch_create(struct sl_io *io, int descriptor, void (*ready)(void *argument),
                        void *argument, struct sl_watch **watch)
{
    return sl_watch_create(layer_of(io)->lower, descriptor, ready, argument, watch);
}

static int register_memory(struct sl_io *io, struct sl_memory *memory)
{
    return sl_io_register_memory(layer_of(io)->lower, memory);
}

static void destroy(struct sl_io *io)
{
    free(layer_of(io));
}

/* Listeners, streams, doorbells and watches are the lower io's own: calls on them never come here.
 */
static const struct sl_io_ops layer_ops = {
    .disk_open = disk_open,
    .disk_close = disk_close,
    .disk_measure = disk_measure,
    .disk_submit = disk_submit,
    .listener_open = listener_open,
    .stream_connect_co = stream_connect_co,
    .stream_adopt = stream_adopt,
    .descriptor_wait_co = descriptor_wait_co,
    .descriptor_cancel = descriptor_cancel,
    .doorbell_create = doorbell_create,
    .watch_create = watch_create,
    .register_memory = register_memory,
    .destroy = destroy,
};

int sl_inject_io_create(struct sl_io *lower, struct sl_inject *inject, struct sl_io **io)
{
    struct layer_io *layer = calloc(1, sizeof(*layer));
    if (layer == NULL)
        return -ENOMEM;
    layer->io = (struct sl_io){&layer_ops, lower->engine, lower->reactor};
    layer->lower = lower;
    layer->inject = inject;
    *io = &layer->io;
    return 0;
}
