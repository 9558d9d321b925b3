/*
 * Stackful coroutines over Boost.Context's C symbols. The loop of the reactor switches to a
 * coroutine; the coroutine switches back to the loop when it suspends or ends. It never switches to
 * another coroutine.
 *
 * Stacks: mmap'd with an inaccessible page below, kept warm in a last-in-first-out pool of the
 * reactor. Owned by the reactor's thread.
 */
#include "core/coroutine.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/reactor_private.h"
#include "core/trace.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SL_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define SL_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SL_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define SL_TSAN 1
#endif

#ifdef SL_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SL_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#ifdef SL_HAVE_VALGRIND
#include <valgrind/valgrind.h>
#endif

/* Coroutines run in one turn. What they submit leaves in the next: with all 32 of a burst in one
 * turn the disk and the peer idle until the last has run (32 x 1 us). 16 cost nothing measurable;
 * with 4 the system calls for a socket's small batches do (docs/performance.md). */
#define RUN_BATCH 16u

/* The deepest path seen (gateway fragment → fabric call → link) takes about 6 KiB; frames are
 * bounded to 2 KiB by the compiler. Pages that are not touched cost nothing. A sanitizer's frames
 * are several times larger. */
#if defined(SL_ASAN) || defined(SL_TSAN)
#define STACK_BYTES_DEFAULT (1024u * 1024u)
#else
#define STACK_BYTES_DEFAULT (64u * 1024u)
#endif
/* Stacks kept when idle. What comes and goes beyond that costs two system calls and the page faults
 * of a new stack, about 4 us each; a stack that is kept costs the pages that were touched, two or
 * three. */
#define STACK_POOL_MAX 1024
/* Stacks begin at different offsets of their page: otherwise the hot ends of all of them would
 * share a few sets of the cache. 16 colours of 256 bytes are the 4 KiB that a way of L1 covers. */
#define STACK_COLOURS      16u
#define STACK_COLOUR_BYTES 256u

/* Boost.Context's ABI (boost/context/detail/fcontext.hpp). */
struct transfer {
    void *context;
    void *data;
};
extern struct transfer jump_fcontext(void *to, void *data);
extern void *make_fcontext(void *stack_top, size_t stack_bytes, void (*entry)(struct transfer));

_Thread_local struct sl_reactor *sl_reactor_current;

struct sl_co *sl_co_self(void)
{
    return sl_reactor_current != NULL ? sl_reactor_current->running : NULL;
}

/* ---- what the tools want to know of a switch ---- */

/* Inlined, always: TSan counts calls and returns on the fiber that it believes to run. */
static inline __attribute__((always_inline)) void
before_switch(void **save_fake_stack, const void *bottom, size_t bytes, void *fiber)
{
#ifdef SL_ASAN
    __sanitizer_start_switch_fiber(save_fake_stack, bottom, bytes);
#endif
#ifdef SL_TSAN
    __tsan_switch_to_fiber(fiber, 0);
#endif
    (void)save_fake_stack;
    (void)bottom;
    (void)bytes;
    (void)fiber;
}

static inline __attribute__((always_inline)) void
after_switch(void *fake_stack, const void **bottom_before, size_t *bytes_before)
{
#ifdef SL_ASAN
    __sanitizer_finish_switch_fiber(fake_stack, bottom_before, bytes_before);
#endif
    (void)fake_stack;
    (void)bottom_before;
    (void)bytes_before;
}

/* ---- switches ---- */

static void switch_to_loop(struct sl_co *co)
{
    struct sl_reactor *reactor = co->reactor;
    /* A finished coroutine gives its fake stack up: NULL. */
    before_switch(co->finished ? NULL : &co->fake_stack, reactor->loop_stack_bottom,
                  reactor->loop_stack_bytes, reactor->loop_fiber);
    struct transfer back = jump_fcontext(reactor->loop_context, NULL);
    after_switch(co->fake_stack, &reactor->loop_stack_bottom, &reactor->loop_stack_bytes);
    reactor->loop_context = back.context;
}

static void co_entry(struct transfer from)
{
    struct sl_co *co = from.data;
    struct sl_reactor *reactor = co->reactor;
    after_switch(NULL, &reactor->loop_stack_bottom, &reactor->loop_stack_bytes);
    reactor->loop_context = from.context;
    sl_core_trace_coroutine_begin(co, (const void *)(uintptr_t)co->fn);
    co->fn(co->argument);
    sl_core_trace_coroutine_end(co);
    co->finished = true;
    switch_to_loop(co);
    __builtin_unreachable();
}

static void co_resume(struct sl_reactor *reactor, struct sl_co *co)
{
    reactor->running = co;
#ifdef SL_TSAN
    reactor->loop_fiber = __tsan_get_current_fiber();
#endif
    before_switch(&reactor->loop_fake_stack, co->stack_bottom, co->stack_bytes, co->fiber);
    struct transfer back = jump_fcontext(co->context, co);
    after_switch(reactor->loop_fake_stack, NULL, NULL);
    co->context = back.context;
    reactor->running = NULL;
}

/* Suspends the running coroutine; something must hold it to make it ready again. */
static void suspend(void)
{
    struct sl_co *co = sl_co_self();
    SL_ASSERT(co != NULL);
    switch_to_loop(co);
}

static void make_ready(struct sl_co *co)
{
    sl_list_append(&co->reactor->ready, &co->node);
}

/* ---- stacks ---- */

/* Frames that were left by a switch and never returned from (the last ones of a finished coroutine)
 * leave ASan's redzones behind, for the next user of the stack or of its addresses. */
static void stack_unpoison(const struct sl_co *co)
{
#ifdef SL_ASAN
    __asan_unpoison_memory_region(co->stack_bottom, co->stack_bytes);
#endif
    (void)co;
}

static struct sl_co *co_create(struct sl_reactor *reactor)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t stack =
        reactor->config.stack_bytes != 0 ? reactor->config.stack_bytes : STACK_BYTES_DEFAULT;
    /* One page more for the control block and the colour: the whole stack can be used. */
    size_t bytes = page + sl_align_up(stack, page) + page;
    uint8_t *mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED)
        return NULL;
    if (mprotect(mapping, page, PROT_NONE) != 0) {
        munmap(mapping, bytes);
        return NULL;
    }
    /* The control block lies above the stack, on the page that every use touches anyway. */
    size_t own = sl_align_up(sizeof(struct sl_co), 64) +
                 reactor->stack_colour++ % STACK_COLOURS * STACK_COLOUR_BYTES;
    struct sl_co *co = (struct sl_co *)(void *)(mapping + bytes - own);
    *co = (struct sl_co){
        .reactor = reactor,
        .mapping = mapping,
        .mapping_bytes = bytes,
        .stack_bottom = mapping + page,
        .stack_bytes = bytes - page - own,
    };
#ifdef SL_HAVE_VALGRIND
    co->valgrind_id = VALGRIND_STACK_REGISTER(co->stack_bottom, co->stack_bottom + co->stack_bytes);
#endif
    sl_list_append(&reactor->stacks, &co->stack);
    reactor->statistics.stack_count++;
    return co;
}

static void co_free(struct sl_co *co)
{
    co->reactor->statistics.stack_count--;
    sl_list_remove(&co->stack);
#ifdef SL_HAVE_VALGRIND
    VALGRIND_STACK_DEREGISTER(co->valgrind_id);
#endif
    stack_unpoison(co);
    munmap(co->mapping, co->mapping_bytes);
}

static void co_retire(struct sl_reactor *reactor, struct sl_co *co)
{
#ifdef SL_TSAN
    __tsan_destroy_fiber(co->fiber);
#endif
    reactor->statistics.coroutine_count--;
    if (reactor->pooled_count >= STACK_POOL_MAX) {
        co_free(co);
        return;
    }
    sl_list_prepend(&reactor->pooled, &co->node);
    reactor->pooled_count++;
}

void sl_reactor_free_stacks(struct sl_reactor *reactor)
{
    struct sl_list *node;
    while ((node = sl_list_pop(&reactor->pooled)) != NULL)
        co_free(sl_list_entry(node, struct sl_co, node));
    reactor->pooled_count = 0;
}

/* ASan keeps a second stack for each that was suspended; it goes with a switch away for good. */
__attribute__((no_sanitize("address"))) static void fake_stack_free(struct sl_co *co)
{
#ifdef SL_ASAN
    void *own;
    const void *bottom;
    size_t bytes;
    __sanitizer_start_switch_fiber(&own, co->stack_bottom, co->stack_bytes);
    __sanitizer_finish_switch_fiber(co->fake_stack, &bottom, &bytes);
    __sanitizer_start_switch_fiber(NULL, bottom, bytes);
    __sanitizer_finish_switch_fiber(own, NULL, NULL);
#endif
    (void)co;
}

void sl_reactor_abandon_stacks(struct sl_reactor *reactor)
{
    struct sl_list *node;
    while ((node = sl_list_first(&reactor->stacks)) != NULL) {
        struct sl_co *co = sl_list_entry(node, struct sl_co, stack);
        if (!co->finished && co->fake_stack != NULL)
            fake_stack_free(co);
#ifdef SL_TSAN
        if (!co->finished)
            __tsan_destroy_fiber(co->fiber);
#endif
        co_free(co);
    }
}

int sl_co_spawn(struct sl_reactor *reactor, sl_co_fn fn, void *argument)
{
    struct sl_co *co;
    struct sl_list *node = sl_list_pop(&reactor->pooled);
    if (node != NULL) {
        co = sl_list_entry(node, struct sl_co, node);
        reactor->pooled_count--;
        stack_unpoison(co);
    } else {
        co = co_create(reactor);
        if (co == NULL)
            return -ENOMEM;
    }
    co->fn = fn;
    co->argument = argument;
    co->finished = false;
    co->fake_stack = NULL;
#ifdef SL_TSAN
    co->fiber = __tsan_create_fiber(0);
#endif
    co->context = make_fcontext(co->stack_bottom + co->stack_bytes, co->stack_bytes, co_entry);
    reactor->statistics.coroutine_count++;
    make_ready(co);
    return 0;
}

unsigned sl_reactor_run_ready(struct sl_reactor *reactor)
{
    unsigned count = 0;
    struct sl_list batch;
    sl_list_init(&batch);
    /* Only what is ready now: a coroutine that yields runs again in the next turn. */
    sl_list_splice(&batch, &reactor->ready);
    struct sl_list *node;
    while (count < RUN_BATCH && (node = sl_list_pop(&batch)) != NULL) {
        struct sl_co *co = sl_list_entry(node, struct sl_co, node);
        co_resume(reactor, co);
        if (co->finished)
            co_retire(reactor, co);
        count++;
    }
    /* The rest keeps its place before what became ready meanwhile. */
    sl_list_splice(&batch, &reactor->ready);
    sl_list_splice(&reactor->ready, &batch);
    return count;
}

/* ---- waiting ---- */

int64_t sl_wait_co(struct sl_wait *wait)
{
    if (!wait->done) {
        wait->waiter = sl_co_self();
        wait->reactor = sl_reactor_current;
        suspend();
        SL_ASSERT(wait->done);
    }
    return wait->result;
}

void sl_wait_wake(struct sl_wait *wait, int64_t result)
{
    SL_ASSERT(!wait->done);
    wait->done = true;
    wait->result = result;
    if (wait->waiter != NULL) {
        make_ready(wait->waiter);
        wait->waiter = NULL;
    }
}

struct deadline {
    struct sl_timer timer;
    struct sl_co *co;
    struct sl_wait *wait; /* one of both */
    struct sl_list *queued;
    bool passed;
};

static void deadline_passed(struct sl_timer *timer)
{
    struct deadline *deadline = sl_container_of(timer, struct deadline, timer);
    /* Woken in this very turn already: the event wins. */
    if (deadline->wait != NULL ? deadline->wait->done : sl_list_is_empty(deadline->queued))
        return;
    deadline->passed = true;
    if (deadline->wait != NULL)
        deadline->wait->waiter = NULL;
    else
        sl_list_remove(deadline->queued);
    make_ready(deadline->co);
}

bool sl_wait_until_co(struct sl_wait *wait, uint64_t deadline_ns)
{
    if (wait->done)
        return true;
    if (deadline_ns == UINT64_MAX) {
        sl_wait_co(wait);
        return true;
    }
    struct sl_reactor *reactor = sl_reactor_current;
    struct deadline deadline = {.co = sl_co_self(), .wait = wait};
    sl_timer_init(&deadline.timer, deadline_passed);
    sl_timer_arm(reactor, &deadline.timer, deadline_ns);
    wait->waiter = deadline.co;
    wait->reactor = reactor;
    suspend();
    sl_timer_cancel(reactor, &deadline.timer);
    /* The event may have come between the deadline and our turn: then it counts. */
    return wait->done;
}

void sl_yield_co(void)
{
    make_ready(sl_co_self());
    suspend();
}

void sl_sleep_co(uint64_t duration_ns)
{
    struct sl_wait wait;
    sl_wait_init(&wait);
    uint64_t now_ns = sl_reactor_now_ns(sl_reactor_current);
    sl_wait_until_co(&wait,
                     duration_ns > UINT64_MAX - 1 - now_ns ? UINT64_MAX - 1 : now_ns + duration_ns);
}

struct queued {
    struct sl_list node;
    struct sl_co *co;
    int64_t result;
};

int64_t sl_wait_queue_co(struct sl_wait_queue *queue)
{
    struct queued queued = {.co = sl_co_self()};
    sl_list_append(&queue->waiters, &queued.node);
    suspend();
    return queued.result;
}

int64_t sl_wait_queue_until_co(struct sl_wait_queue *queue, uint64_t deadline_ns)
{
    if (deadline_ns == UINT64_MAX)
        return sl_wait_queue_co(queue);
    struct sl_reactor *reactor = sl_reactor_current;
    struct queued queued = {.co = sl_co_self()};
    struct deadline deadline = {.co = queued.co, .queued = &queued.node};
    sl_list_append(&queue->waiters, &queued.node);
    sl_timer_init(&deadline.timer, deadline_passed);
    sl_timer_arm(reactor, &deadline.timer, deadline_ns);
    suspend();
    sl_timer_cancel(reactor, &deadline.timer);
    return deadline.passed ? -ETIMEDOUT : queued.result;
}

bool sl_wait_queue_wake_one(struct sl_wait_queue *queue, int64_t result)
{
    struct sl_list *node = sl_list_pop(&queue->waiters);
    if (node == NULL)
        return false;
    struct queued *queued = sl_list_entry(node, struct queued, node);
    queued->result = result;
    make_ready(queued->co);
    return true;
}

unsigned sl_wait_queue_wake_all(struct sl_wait_queue *queue, int64_t result)
{
    unsigned count = 0;
    while (sl_wait_queue_wake_one(queue, result))
        count++;
    return count;
}
