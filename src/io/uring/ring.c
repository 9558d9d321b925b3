/*
 * The ring: one io_uring a reactor, and the reactor's engine over it.
 *
 *   coroutine ─ uring_sqe, uring_queue ─► SQ ─ poll(), sleep(): one io_uring_enter(2) a batch ─►
 * kernel ▲ │ └───────── op->complete() ◄── reap: reads the CQ, no system call
 * ◄────────────────────────┘
 *
 * Single issuer with deferred task work (Linux 6.1): completions run on our thread when we ask, so
 * nothing interrupts it. The kernel sets IORING_SQ_TASKRUN when there is something to ask for; a
 * poll() that has nothing to submit and sees no flag makes no system call.
 *
 * The single issuer is the thread that enables the ring, so it is created disabled and enabled in
 * the first poll() or sleep(), on the reactor's thread.
 *
 * notify(): `wake` says who is where. Only a notify that finds the reactor ASLEEP writes the
 * eventfd, on which a multishot poll is armed. The poll is edge-triggered: each write completes it
 * once more, so the counter need never be read (it would overflow after 2^64 writes).
 */
#include "io/uring/internal.h"
#include "io/uring/uring.h"

#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "core/log.h"

/* Deep enough for 128 requests a reactor with 4 disk and 4 network operations each. A full queue is
 * only submitted earlier. */
#define URING_ENTRIES_DEFAULT 1024u
/* Under a low memlock limit, down to so many: a batch of requests fits, and each fills it anew. */
#define URING_ENTRIES_MIN 64u
/* Half a second in all. */
#define MEMLOCK_TRIES    25u
#define MEMLOCK_RETRY_NS (20 * SL_NS_PER_MS)
/* The kernel keeps completions that do not fit on a list, at a cost: so they should fit. */
#define URING_CQ_PER_SQ 4u

static uint64_t uring_now_ns(void *engine)
{
    struct timespec now;
    /* It goes on while the machine sleeps: leases must (DESIGN "Raft"). */
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * SL_NS_PER_S + (uint64_t)now.tv_nsec;
}

static void uring_random(void *engine, void *bytes, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t got = getrandom((uint8_t *)bytes + done, length - done, 0);
        SL_ASSERT(got > 0 || errno == EINTR);
        done += got > 0 ? (size_t)got : 0;
    }
}

static void uring_enable(struct sl_uring *uring)
{
    /* liburing 2.3 declares io_uring_enable_rings() and does not export it. */
    long error =
        syscall(__NR_io_uring_register, uring->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    SL_ASSERT(error == 0);
    uring->enabled = true;
    uring->thread = gettid();
    /* Saves a descriptor look-up an enter. Not vital: old kernels refuse. */
    (void)io_uring_register_ring_fd(&uring->ring);
}

/* What a submission may answer in operation; all of it passes, and nothing queued is lost. */
static void uring_check_enter(int result)
{
    if (result >= 0 || result == -ETIME || result == -EINTR)
        return;
    if (result == -EAGAIN || result == -EBUSY || result == -ENOMEM) {
        sched_yield();
        return;
    }
    sl_log_error("io",
                 "io_uring_enter: %s; was the ring used on another thread than its reactor's?",
                 sl_error_name(result));
    SL_ASSERT(result >= 0);
}

void uring_submit(struct sl_uring *uring)
{
    if (!uring->enabled)
        uring_enable(uring);
    uring->batch++;
    uring_check_enter(io_uring_submit(&uring->ring));
}

struct io_uring_sqe *uring_sqe(struct sl_uring *uring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    while (SL_UNLIKELY(sqe == NULL)) {
        uring_submit(uring);
        sqe = io_uring_get_sqe(&uring->ring);
    }
    return sqe;
}

void uring_cancel(struct sl_uring *uring, struct uring_op *op)
{
    struct io_uring_sqe *sqe = uring_sqe(uring);
    io_uring_prep_cancel(sqe, op, 0);
    uring_queue(uring, sqe, NULL);
}

static void wait_op_complete(struct uring_op *op, int32_t result, uint32_t flags)
{
    struct uring_wait_op *wait_op = sl_container_of(op, struct uring_wait_op, op);
    wait_op->flags = flags;
    sl_wait_wake(&wait_op->wait, result);
}

void uring_wait_op_init(struct uring_wait_op *wait_op)
{
    wait_op->op.complete = wait_op_complete;
    wait_op->flags = 0;
    sl_wait_init(&wait_op->wait);
}

int uring_wait_op_co(struct sl_uring *uring, struct uring_wait_op *wait_op, uint64_t deadline_ns)
{
    if (deadline_ns == UINT64_MAX || sl_wait_until_co(&wait_op->wait, deadline_ns))
        return (int)sl_wait_co(&wait_op->wait);
    uring_cancel(uring, &wait_op->op);
    int result = (int)sl_wait_co(&wait_op->wait);
    return result == -ECANCELED ? -ETIMEDOUT : result;
}

/* Handles what the completion queue holds now; what handlers add waits for the next turn. */
static unsigned uring_reap(struct sl_uring *uring)
{
    struct io_uring_cq *cq = &uring->ring.cq;
    unsigned head = *cq->khead;
    unsigned tail = io_uring_smp_load_acquire(cq->ktail);
    unsigned handled_count = 0;
    while (head != tail) {
        const struct io_uring_cqe *cqe = &cq->cqes[head & cq->ring_mask];
        struct uring_op *op = (struct uring_op *)(uintptr_t)cqe->user_data;
        int32_t result = cqe->res;
        uint32_t flags = cqe->flags;
        /* Given back before the handler, which may submit. */
        io_uring_smp_store_release(cq->khead, ++head);
        if ((flags & IORING_CQE_F_MORE) == 0)
            uring->outstanding_count--;
        if (op == NULL)
            continue;
        op->complete(op, result, flags);
        handled_count++;
    }
    return handled_count;
}

static unsigned uring_poll(void *engine)
{
    struct sl_uring *uring = (struct sl_uring *)engine;
    struct io_uring *ring = &uring->ring;
    if (SL_UNLIKELY(!uring->enabled))
        uring_enable(uring);
    uring->batch++;
    if (io_uring_sq_ready(ring) > 0)
        uring_check_enter(io_uring_submit_and_get_events(ring));
    else if (IO_URING_READ_ONCE(*ring->sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW))
        uring_check_enter(io_uring_get_events(ring));
    return uring_reap(uring) + uring_streams_poll(uring);
}

static unsigned uring_sleep(void *engine, uint64_t deadline_ns)
{
    struct sl_uring *uring = (struct sl_uring *)engine;
    if (SL_UNLIKELY(!uring->enabled))
        uring_enable(uring);
    int expected = URING_AWAKE;
    if (!atomic_compare_exchange_strong(&uring->wake, &expected, URING_ASLEEP)) {
        atomic_store(&uring->wake, URING_AWAKE);
        return uring_poll(engine);
    }
    uring_streams_arm(uring);
    struct __kernel_timespec timeout;
    struct __kernel_timespec *timeout_pointer = NULL;
    struct io_uring_cqe *cqe = NULL;
    bool expired = false;
    if (deadline_ns != UINT64_MAX) {
        uint64_t now_ns = uring_now_ns(engine);
        uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
        timeout.tv_sec = (int64_t)(left_ns / SL_NS_PER_S);
        timeout.tv_nsec = (long long)(left_ns % SL_NS_PER_S);
        timeout_pointer = &timeout;
        expired = left_ns == 0;
    }
    uring->batch++;
    if (!expired)
        uring_check_enter(
            io_uring_submit_and_wait_timeout(&uring->ring, &cqe, 1, timeout_pointer, NULL));
    /* An exchange, so that what a notifier did before notify() is seen after this sleep. */
    (void)atomic_exchange(&uring->wake, URING_AWAKE);
    return expired ? uring_poll(engine) : uring_reap(uring);
}

static void uring_notify(void *engine)
{
    struct sl_uring *uring = (struct sl_uring *)engine;
    if (atomic_exchange(&uring->wake, URING_NOTIFIED) != URING_ASLEEP)
        return;
    uint64_t one = 1;
    int saved_errno = errno; /* may run in a signal handler */
    ssize_t written;
    do
        written = write(uring->notify_fd, &one, sizeof(one));
    while (written < 0 && errno == EINTR);
    errno = saved_errno;
}

static void notify_arm(struct sl_uring *uring)
{
    struct io_uring_sqe *sqe = uring_sqe(uring);
    io_uring_prep_poll_multishot(sqe, uring->notify_fd, POLLIN);
    uring_queue(uring, sqe, &uring->notify_op);
}

/* It only has to end the sleep; a multishot poll that ended (the CQ overflowed) is armed again. */
static void notify_complete(struct uring_op *op, int32_t result, uint32_t flags)
{
    if ((flags & IORING_CQE_F_MORE) == 0 && result != -ECANCELED)
        notify_arm(sl_container_of(op, struct sl_uring, notify_op));
}

/* Cancels everything and waits until the kernel has let go of it. Only the ring's own thread may.
 */
static void uring_cancel_all(struct sl_uring *uring)
{
    if (!uring->enabled || uring->thread != gettid())
        return;
    struct io_uring_sqe *sqe = uring_sqe(uring);
    io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
    uring_queue(uring, sqe, NULL);
    while (uring->outstanding_count > 0) {
        struct io_uring_cqe *cqe = NULL;
        struct __kernel_timespec timeout = {.tv_sec = 1};
        uring_check_enter(io_uring_submit_and_wait_timeout(&uring->ring, &cqe, 1, &timeout, NULL));
        uring_reap(uring);
    }
}

static void uring_destroy(struct sl_io *io)
{
    struct sl_uring *uring = uring_of(io);
    uring_cancel_all(uring);
    uring_unregister_memory(uring);
    if (uring->enabled && uring->thread != gettid()) {
        /* The registered descriptor is an index into the table of the thread that ran the reactor;
         * in ours that index may be another ring's. The kernel dropped it when that thread ended.
         */
        uring->ring.int_flags = 0;
        uring->ring.enter_ring_fd = uring->ring.ring_fd;
    }
    io_uring_queue_exit(&uring->ring);
    uring_doorbells_fini(uring);
    uring_watches_fini(uring);
    close(uring->notify_fd);
    free(uring);
}

static const struct sl_io_ops uring_ops = {
    .disk_open = uring_disk_open,
    .disk_close = uring_disk_close,
    .disk_measure = uring_disk_measure,
    .disk_submit = uring_disk_submit,
    .listener_open = uring_listener_open,
    .listener_accept_co = uring_listener_accept_co,
    .listener_shutdown = uring_listener_shutdown,
    .listener_close = uring_listener_close,
    .stream_connect_co = uring_stream_connect_co,
    .stream_receive_co = uring_stream_receive_co,
    .stream_send_co = uring_stream_send_co,
    .stream_shutdown = uring_stream_shutdown,
    .stream_close = uring_stream_close,
    .stream_detach = uring_stream_detach,
    .stream_adopt = uring_stream_adopt,
    .descriptor_wait_co = uring_descriptor_wait_co,
    .descriptor_cancel = uring_descriptor_cancel,
    .doorbell_create = uring_doorbell_create,
    .doorbell_destroy = uring_doorbell_destroy,
    .watch_create = uring_watch_create,
    .watch_arm = uring_watch_arm,
    .watch_destroy = uring_watch_destroy,
    .register_memory = uring_register_memory,
    .destroy = uring_destroy,
};

/* The best set of flags that the kernel knows. */
static int uring_setup(struct sl_uring *uring, unsigned entries)
{
    const unsigned common = IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL |
                            IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE;
    const unsigned ways[] = {
        common | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
        common | IORING_SETUP_COOP_TASKRUN,
    };
    int error = -EINVAL;
    for (unsigned i = 0; i < SL_COUNT_OF(ways) && error == -EINVAL; i++) {
        struct io_uring_params params = {.flags = ways[i], .cq_entries = entries * URING_CQ_PER_SQ};
        error = io_uring_queue_init_params(entries, &uring->ring, &params);
    }
    if (error != 0)
        return error;
    /* Sleeping needs a time-out that is an argument of the wait (Linux 5.11). */
    if ((uring->ring.features & IORING_FEAT_EXT_ARG) == 0) {
        io_uring_queue_exit(&uring->ring);
        return -ENOSYS;
    }
    uring->has_file_table = io_uring_register_files_sparse(&uring->ring, URING_FILE_SLOTS) == 0;
    return 0;
}

size_t sl_uring_locked_bytes(unsigned entries)
{
    if (entries == 0)
        entries = URING_ENTRIES_MIN;
    /* Entries; and behind a head each, indices of submissions and completions. */
    size_t rings = 4 * 64 + entries * (4 + 16 * URING_CQ_PER_SQ);
    return sl_align_up(entries * sizeof(struct io_uring_sqe), 4096) + sl_align_up(rings, 4096);
}

/* As many entries as the memlock limit has room for. What a killed process had is charged for some
 * milliseconds after its end: whoever takes its place waits for that first. */
static int uring_setup_within_limit(struct sl_uring *uring, unsigned entries)
{
    unsigned wanted = entries;
    int error = uring_setup(uring, entries);
    for (unsigned i = 0; error == -ENOMEM && i < MEMLOCK_TRIES; i++) {
        nanosleep(&(struct timespec){0, MEMLOCK_RETRY_NS}, NULL);
        error = uring_setup(uring, entries);
    }
    while (error == -ENOMEM && entries > URING_ENTRIES_MIN) {
        entries /= 2;
        error = uring_setup(uring, entries);
    }
    if (error == 0 && entries < wanted) {
        struct rlimit limit = {0};
        (void)getrlimit(RLIMIT_MEMLOCK, &limit);
        sl_log_warn("io",
                    "io_uring has %u entries instead of %u, which take %zu bytes of locked memory; "
                    "the memlock limit of this user's processes together is %llu bytes: raise it "
                    "(ulimit -l, LimitMEMLOCK=)",
                    entries, wanted, sl_uring_locked_bytes(wanted),
                    (unsigned long long)limit.rlim_cur);
    }
    return error;
}

int sl_uring_create(const struct sl_uring_config *config, struct sl_io **io)
{
    unsigned entries =
        config != NULL && config->entries != 0 ? config->entries : URING_ENTRIES_DEFAULT;
    struct sl_uring *uring = calloc(1, sizeof(*uring));
    if (uring == NULL)
        return -ENOMEM;
    int error = 0;
    uring->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (uring->notify_fd < 0) {
        error = -errno;
        goto out_free;
    }
    error = uring_setup_within_limit(uring, entries);
    if (error != 0)
        goto out_close;
    uring->io.ops = &uring_ops;
    uring->io.engine = (struct sl_reactor_engine){
        .engine = uring,
        .now_ns = uring_now_ns,
        .poll = uring_poll,
        .sleep = uring_sleep,
        .notify = uring_notify,
        .random = uring_random,
    };
    atomic_init(&uring->wake, URING_AWAKE);
    uring->notify_op.complete = notify_complete;
    sl_list_init(&uring->dry_receives);
    sl_list_init(&uring->descriptor_waits);
    sl_list_init(&uring->doorbells);
    sl_list_init(&uring->watches);
    notify_arm(uring);
    *io = &uring->io;
    return 0;

out_close:
    close(uring->notify_fd);
out_free:
    free(uring);
    return error;
}
