/* The inside of a reactor, for the files of src/core only. */
#ifndef SL_CORE_REACTOR_PRIVATE_H
#define SL_CORE_REACTOR_PRIVATE_H

#include <stdatomic.h>

#include "core/reactor.h"
#include "core/spin.h"

struct sl_co {
    struct sl_list node;  /* in the ready queue or the pool */
    struct sl_list stack; /* in the reactor's stacks */
    struct sl_reactor *reactor;
    void *context; /* where it was suspended */
    sl_co_fn fn;
    void *argument;
    void *mapping; /* guard page + stack */
    size_t mapping_bytes;
    uint8_t *stack_bottom; /* lowest usable byte */
    size_t stack_bytes;
    bool finished;
    void *fake_stack; /* ASan */
    void *fiber;      /* TSan */
    unsigned valgrind_id;
};

struct sl_reactor {
    struct sl_reactor_config config;
    struct sl_reactor_engine engine;
    uint64_t now_ns;

    struct sl_list ready;  /* struct sl_co */
    struct sl_list pooled; /* struct sl_co with a warm stack; last in, first out */
    struct sl_list stacks; /* every struct sl_co, in use or pooled */
    unsigned pooled_count;
    unsigned stack_colour; /* of the next stack */
    struct sl_co *running;
    void *loop_context; /* of the loop, while a coroutine runs */
    void *loop_fake_stack;
    const void *loop_stack_bottom;
    size_t loop_stack_bytes;
    void *loop_fiber;

    struct sl_timer **timers; /* heap, 1-based */
    size_t timer_count;
    size_t timer_capacity;
    uint64_t timer_order;

    struct sl_list pollers;
    struct sl_spin spin;

    /* Mail: a stack that senders push on, reversed by the receiver. */
    _Atomic(struct sl_mail *) mail;
    /* Set before the last look at mail, so that a sender sees it or is seen. Cleared by the sender
     * that notifies, or by the receiver when it wakes. */
    _Atomic bool sleeping;
    _Atomic bool stop;

    struct sl_reactor_statistics statistics;
};

/* coroutine.c */
unsigned sl_reactor_run_ready(struct sl_reactor *reactor);
void sl_reactor_free_stacks(struct sl_reactor *reactor);
void sl_reactor_abandon_stacks(struct sl_reactor *reactor);
/* timer.c */
unsigned sl_reactor_fire_timers(struct sl_reactor *reactor);

extern _Thread_local struct sl_reactor *sl_reactor_current;

#endif
