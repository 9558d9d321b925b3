/*
 * A reactor: one thread's loop over mail, timers, pollers and coroutines. Shared nothing: work for
 * another reactor is a mail to it.
 *
 * The reactor itself knows no system call. Its engine (src/io/uring or the simulator) tells the
 * time, completes I/O and sleeps, so the same loop runs under virtual time.
 *
 * One turn (sl_reactor_step):  mail → timers → engine completions → pollers → ready coroutines →
 * engine submit
 *
 * Adaptive polling: after a time without work (at most `spin_ns`; spin.h adjusts it) the reactor
 * arms every poller (a poller that finds work while arming cancels the sleep), then sleeps in the
 * engine until a completion, a notify or the next timer. With `poll_always` it never sleeps.
 */
#ifndef SL_CORE_REACTOR_H
#define SL_CORE_REACTOR_H

#include "core/base.h"
#include "core/coroutine.h"
#include "core/list.h"
#include "core/timer.h"

struct sl_reactor;

/* What the engine below gives. `engine` is its own pointer. */
struct sl_reactor_engine {
    void *engine;
    /* Monotonic nanoseconds (real: CLOCK_BOOTTIME; simulated: virtual). */
    uint64_t (*now_ns)(void *engine);
    /* Submits what was queued and reaps completions without blocking; answers how many were
     * handled. */
    unsigned (*poll)(void *engine);
    /* Submits what was queued, then blocks until a completion, notify() or the deadline
     * (UINT64_MAX = none). Handles what it reaps; answers how many. */
    unsigned (*sleep)(void *engine, uint64_t deadline_ns);
    /* Ends a sleep() in progress or the next one. Any thread, async-signal-safe. */
    void (*notify)(void *engine);
    /* Fills with random bytes (real: getrandom(2), simulated: from the seed). Cannot fail. */
    void (*random)(void *engine, void *bytes, size_t length);
};

struct sl_reactor_config {
    unsigned index;   /* of this reactor in its process, from 0 */
    int cpu;          /* sl_reactor_run() pins its thread to it; -1 = not pinned */
    bool poll_always; /* never sleep */
    uint64_t spin_ns; /* busy-poll at most so long without work before sleeping; 0 = the default */
    unsigned stack_bytes; /* of a coroutine; 0 = the default */
};

struct sl_reactor_statistics {
    uint64_t turn_count;
    uint64_t busy_turn_count; /* turns in which anything was done: the poll hit rate's numerator */
    uint64_t sleep_count;
    uint64_t coroutine_count; /* alive now */
    uint64_t stack_count;     /* mapped, in use or pooled */
};

/* Polled every turn. */
struct sl_poller {
    struct sl_list node;
    /* Answers how much work was done. */
    unsigned (*poll)(struct sl_poller *poller);
    /* Before a sleep: asks the other side for a wake-up (a doorbell), then looks again. False =
     * work has come, do not sleep. NULL = needs no arming. */
    bool (*arm)(struct sl_poller *poller);
    /* After the sleep. NULL = nothing to do. */
    void (*disarm)(struct sl_poller *poller);
};

/* A message to a reactor: embedded in the sender's object, delivered once on the receiver's thread.
 */
struct sl_mail {
    struct sl_mail *next;
    void (*deliver)(struct sl_mail *mail);
};

/* -ENOMEM. Borrows the engine, which must outlive it. */
int sl_reactor_create(const struct sl_reactor_config *config,
                      const struct sl_reactor_engine *engine, struct sl_reactor **reactor);
/* No coroutine may be alive. Takes NULL. */
void sl_reactor_destroy(struct sl_reactor *reactor);
/* For a simulator whose node crashes: frees the reactor and the stacks of its coroutines wherever
 * those are; nothing of them runs any more, and what they held is theirs who abandoned them. Not
 * from inside a turn of it. Takes NULL. */
void sl_reactor_abandon(struct sl_reactor *reactor);

/* One turn without sleeping; true if anything was done. The simulator's way to drive N reactors. */
bool sl_reactor_step(struct sl_reactor *reactor);
/* The next timer's deadline, or UINT64_MAX. */
uint64_t sl_reactor_next_deadline_ns(const struct sl_reactor *reactor);
/* Turns until sl_reactor_stop(), and then until the last coroutine has ended (2 s at most); on the
 * calling thread. */
void sl_reactor_run(struct sl_reactor *reactor);
/* Any thread, async-signal-safe. */
void sl_reactor_stop(struct sl_reactor *reactor);

/* The reactor that this thread is running a turn of, or NULL. */
struct sl_reactor *sl_reactor_self(void);
unsigned sl_reactor_index(const struct sl_reactor *reactor);

/* Time at the start of this turn: cheap, for deadlines. */
uint64_t sl_reactor_now_ns(const struct sl_reactor *reactor);
/* Time now: for measuring. */
uint64_t sl_reactor_clock_ns(const struct sl_reactor *reactor);
void sl_reactor_random(struct sl_reactor *reactor, void *bytes, size_t length);
uint64_t sl_reactor_random_u64(struct sl_reactor *reactor);

/* Takes the mail until it is delivered. Any thread. */
void sl_reactor_post(struct sl_reactor *reactor, struct sl_mail *mail);

/* Borrows the poller until it is removed. The reactor's thread only. A poller may remove itself
 * while it is polled, but no other. */
void sl_reactor_poller_add(struct sl_reactor *reactor, struct sl_poller *poller);
void sl_reactor_poller_remove(struct sl_reactor *reactor, struct sl_poller *poller);

/* Counts since the reactor was made. Its own thread, or after it has stopped. */
void sl_reactor_statistics(const struct sl_reactor *reactor,
                           struct sl_reactor_statistics *statistics);

#endif
