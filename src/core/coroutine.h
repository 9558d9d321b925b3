/*
 * Stackful coroutines: a request is one function that reads from top to bottom (STYLE, first rule).
 *
 * A coroutine belongs to one reactor and never moves. Names of functions that may suspend end in
 * `_co`, and only such functions may call them; scripts/lint checks it.
 *
 *        spawn                 scheduled              return of the function
 *   ──────────────► READY ───────────────► RUNNING ─────────────────────────► (stack to the pool)
 *                     ▲                       │
 *                     └─ sl_wait_wake ◄─ SUSPENDED (sl_wait_co, sl_yield_co, sl_sleep_co)
 *
 * Context switch: Boost.Context's make_fcontext/jump_fcontext. Stacks have a guard page below and
 * come from a per-reactor pool. ASan, TSan and valgrind are told of every switch.
 */
#ifndef SL_CORE_COROUTINE_H
#define SL_CORE_COROUTINE_H

#include "core/base.h"
#include "core/list.h"

struct sl_reactor;
struct sl_co;

typedef void (*sl_co_fn)(void *argument);

/* Makes a coroutine ready to run `fn(argument)`. Errors: -ENOMEM (no stack could be mapped). Any
 * function of the reactor's own thread may call it. */
int sl_co_spawn(struct sl_reactor *reactor, sl_co_fn fn, void *argument);

/* The running coroutine, or NULL outside of any. */
struct sl_co *sl_co_self(void);

/* One event that one coroutine waits for. It may be woken before it is waited for. */
struct sl_wait {
    struct sl_co *waiter;
    struct sl_reactor *reactor; /* of the waiter; set by sl_wait_co */
    int64_t result;
    bool done;
};

static inline void sl_wait_init(struct sl_wait *wait)
{
    *wait = (struct sl_wait){0};
}

/* Suspends until sl_wait_wake() and answers its result. At once if it was woken already. */
int64_t sl_wait_co(struct sl_wait *wait);

/* As sl_wait_co(), but gives up at `deadline_ns` (reactor clock): answers true if woken. After
 * false the wait is armed no more and may be waited for again; what it stands for goes on (STYLE
 * 15). */
bool sl_wait_until_co(struct sl_wait *wait, uint64_t deadline_ns);

/* Same thread as the waiter. Waking twice is a broken invariant. */
void sl_wait_wake(struct sl_wait *wait, int64_t result);

/* Lets every other ready coroutine run first. */
void sl_yield_co(void);

/* Suspends for at least `duration_ns`. */
void sl_sleep_co(uint64_t duration_ns);

/* A first-in-first-out queue of coroutines: for memory, credits, locks. */
struct sl_wait_queue {
    struct sl_list waiters;
};

static inline void sl_wait_queue_init(struct sl_wait_queue *queue)
{
    sl_list_init(&queue->waiters);
}

static inline bool sl_wait_queue_is_empty(const struct sl_wait_queue *queue)
{
    return sl_list_is_empty(&queue->waiters);
}

/* Suspends until woken; answers the waker's result. */
int64_t sl_wait_queue_co(struct sl_wait_queue *queue);
/* As above with a deadline: -ETIMEDOUT if it passed first. */
int64_t sl_wait_queue_until_co(struct sl_wait_queue *queue, uint64_t deadline_ns);
/* Wakes the head with `result`; false if nobody waits. */
bool sl_wait_queue_wake_one(struct sl_wait_queue *queue, int64_t result);
/* Wakes all that wait now; answers how many. */
unsigned sl_wait_queue_wake_all(struct sl_wait_queue *queue, int64_t result);

#endif
