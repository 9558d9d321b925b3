/*
 * Descriptors: one-shot waits of coroutines, and doorbells, which ring a function.
 *
 * A wait is over when its poll's completion has been reaped, also after a time-out or a
 * cancellation, so the poll may lie on the coroutine's stack. A doorbell is freed at its poll's
 * last completion. Doorbells are shared with processes that we do not trust: reading one never
 * blocks, whatever the other side did to the counter. Owner: the io's reactor.
 */
#include "io/uring/internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/error.h"
#include "core/log.h"

struct descriptor_wait {
    struct uring_wait_op wait_op;
    struct sl_list node;
    int descriptor;
    bool canceled;
};

struct uring_doorbell {
    struct sl_doorbell doorbell;
    struct uring_op op;
    struct sl_list node;
    int descriptor;
    bool armed; /* a completion is to come */
    bool closing;
    void (*ring)(void *argument);
    void *argument;
};

int uring_descriptor_wait_co(struct sl_io *io, int descriptor, short events, uint64_t deadline_ns)
{
    struct sl_uring *uring = uring_of(io);
    struct descriptor_wait wait = {.descriptor = descriptor};
    uring_wait_op_init(&wait.wait_op);
    struct io_uring_sqe *sqe = uring_sqe(uring);
    io_uring_prep_poll_add(sqe, descriptor, (unsigned short)events);
    uring_queue(uring, sqe, &wait.wait_op.op);
    sl_list_append(&uring->descriptor_waits, &wait.node);
    int result = uring_wait_op_co(uring, &wait.wait_op, deadline_ns);
    sl_list_remove(&wait.node);
    if (wait.canceled)
        return -ECANCELED;
    return result;
}

void uring_descriptor_cancel(struct sl_io *io, int descriptor)
{
    struct sl_uring *uring = uring_of(io);
    sl_list_for_each(node, &uring->descriptor_waits)
    {
        struct descriptor_wait *wait = sl_list_entry(node, struct descriptor_wait, node);
        if (wait->descriptor != descriptor || wait->canceled)
            continue;
        wait->canceled = true;
        if (!wait->wait_op.wait.done)
            uring_cancel(uring, &wait->wait_op.op);
    }
}

static void doorbell_arm(struct uring_doorbell *doorbell)
{
    struct sl_uring *uring = uring_of(doorbell->doorbell.io);
    struct io_uring_sqe *sqe = uring_sqe(uring);
    io_uring_prep_poll_multishot(sqe, doorbell->descriptor, POLLIN);
    uring_queue(uring, sqe, &doorbell->op);
    doorbell->armed = true;
}

/* Empties the counter; another reader may have been faster. */
static void doorbell_drain(struct uring_doorbell *doorbell)
{
    uint64_t count;
    struct iovec piece = {&count, sizeof(count)};
    (void)preadv2(doorbell->descriptor, &piece, 1, -1, RWF_NOWAIT);
}

static void doorbell_free(struct uring_doorbell *doorbell)
{
    sl_list_remove(&doorbell->node);
    free(doorbell);
}

static void doorbell_complete(struct uring_op *op, int32_t result, uint32_t flags)
{
    struct uring_doorbell *doorbell = sl_container_of(op, struct uring_doorbell, op);
    doorbell->armed = (flags & IORING_CQE_F_MORE) != 0;
    if (doorbell->closing) {
        if (!doorbell->armed)
            doorbell_free(doorbell);
        return;
    }
    if (result < 0) {
        /* ECANCELED: the ring is being destroyed under it. */
        if (result != -ECANCELED)
            sl_log_warn("io", "doorbell: polling descriptor %d: %s; it rings no more",
                        doorbell->descriptor, sl_error_name(result));
        return;
    }
    if (!doorbell->armed)
        doorbell_arm(doorbell);
    doorbell_drain(doorbell);
    /* May destroy it: nothing after this. */
    doorbell->ring(doorbell->argument);
}

/* A regular file would be ready for ever, and ring for ever. Without /proc it goes unchecked. */
static bool is_eventfd(int descriptor)
{
    static const char expected[] = "anon_inode:[eventfd]";
    char path[32];
    char target[sizeof(expected)];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(path, target, sizeof(target));
    if (length < 0)
        return errno == ENOENT && access("/proc/self/fd", F_OK) != 0;
    return length == sizeof(expected) - 1 && memcmp(target, expected, sizeof(expected) - 1) == 0;
}

int uring_doorbell_create(struct sl_io *io, int eventfd, void (*ring)(void *argument),
                          void *argument, struct sl_doorbell **doorbell)
{
    struct uring_doorbell *uring_doorbell = calloc(1, sizeof(*uring_doorbell));
    if (uring_doorbell == NULL || !is_eventfd(eventfd)) {
        int error = uring_doorbell == NULL ? -ENOMEM : -EINVAL;
        free(uring_doorbell);
        close(eventfd);
        return error;
    }
    *uring_doorbell = (struct uring_doorbell){
        .doorbell.io = io,
        .op.complete = doorbell_complete,
        .descriptor = eventfd,
        .ring = ring,
        .argument = argument,
    };
    sl_list_append(&uring_of(io)->doorbells, &uring_doorbell->node);
    doorbell_arm(uring_doorbell);
    *doorbell = &uring_doorbell->doorbell;
    return 0;
}

void uring_doorbell_destroy(struct sl_doorbell *doorbell)
{
    struct uring_doorbell *uring_doorbell =
        sl_container_of(doorbell, struct uring_doorbell, doorbell);
    uring_doorbell->closing = true;
    /* The poll holds the file itself until it ends. */
    close(uring_doorbell->descriptor);
    if (uring_doorbell->armed)
        uring_cancel(uring_of(doorbell->io), &uring_doorbell->op);
    else
        doorbell_free(uring_doorbell);
}

void uring_doorbells_fini(struct sl_uring *uring)
{
    sl_list_for_each(node, &uring->doorbells)
    {
        struct uring_doorbell *doorbell = sl_list_entry(node, struct uring_doorbell, node);
        if (!doorbell->closing)
            close(doorbell->descriptor);
        doorbell_free(doorbell);
    }
}
