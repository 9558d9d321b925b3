/*
 * Watches: one-shot polls that end a sleep. Armed before a sleep and submitted with it, so a busy
 * reactor makes no system call for them. A watch is freed at its poll's last completion. Owner: the
 * io's reactor.
 */
#include "io/uring/internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/log.h"

struct uring_watch {
    struct sl_watch watch;
    struct uring_op op;
    struct sl_list node;
    int descriptor;
    bool armed; /* a completion is to come */
    bool closing;
    void (*ready)(void *argument);
    void *argument;
};

static void watch_free(struct uring_watch *watch)
{
    sl_list_remove(&watch->node);
    free(watch);
}

static void watch_complete(struct uring_op *op, int32_t result, uint32_t flags)
{
    struct uring_watch *watch = sl_container_of(op, struct uring_watch, op);
    watch->armed = false;
    if (watch->closing) {
        watch_free(watch);
        return;
    }
    if (result == -ECANCELED)
        return; /* the ring is being destroyed under it */
    if (result < 0)
        sl_log_warn("io", "watch: polling descriptor %d: %s", watch->descriptor,
                    sl_error_name(result));
    /* May destroy it: nothing after this. */
    watch->ready(watch->argument);
}

int uring_watch_create(struct sl_io *io, int descriptor, void (*ready)(void *argument),
                       void *argument, struct sl_watch **watch)
{
    struct uring_watch *uring_watch = calloc(1, sizeof(*uring_watch));
    if (uring_watch == NULL)
        return -ENOMEM;
    *uring_watch = (struct uring_watch){
        .watch.io = io,
        .op.complete = watch_complete,
        .descriptor = descriptor,
        .ready = ready,
        .argument = argument,
    };
    sl_list_append(&uring_of(io)->watches, &uring_watch->node);
    *watch = &uring_watch->watch;
    return 0;
}

void uring_watch_arm(struct sl_watch *watch)
{
    struct uring_watch *uring_watch = sl_container_of(watch, struct uring_watch, watch);
    if (uring_watch->armed)
        return;
    struct sl_uring *uring = uring_of(watch->io);
    struct io_uring_sqe *sqe = uring_sqe(uring);
    io_uring_prep_poll_add(sqe, uring_watch->descriptor, POLLIN);
    uring_queue(uring, sqe, &uring_watch->op);
    uring_watch->armed = true;
}

void uring_watch_destroy(struct sl_watch *watch)
{
    struct uring_watch *uring_watch = sl_container_of(watch, struct uring_watch, watch);
    uring_watch->closing = true;
    if (uring_watch->armed)
        uring_cancel(uring_of(watch->io), &uring_watch->op);
    else
        watch_free(uring_watch);
}

void uring_watches_fini(struct sl_uring *uring)
{
    sl_list_for_each(node, &uring->watches)
        watch_free(sl_list_entry(node, struct uring_watch, node));
}
