/* One-shot timers of a reactor, in a binary heap. Times are nanoseconds of the reactor's clock. */
#ifndef SL_CORE_TIMER_H
#define SL_CORE_TIMER_H

#include "core/base.h"

struct sl_reactor;

struct sl_timer {
    uint64_t deadline_ns;
    uint64_t order;    /* equal deadlines fire in the order in which they were armed */
    size_t heap_index; /* 1-based; 0 = not armed */
    void (*fire)(struct sl_timer *timer); /* on the reactor, not in a coroutine */
};

static inline void sl_timer_init(struct sl_timer *timer, void (*fire)(struct sl_timer *timer))
{
    *timer = (struct sl_timer){.fire = fire};
}

/* Arms, or moves an armed timer. Never fails: the heap grows, and running out of memory for it
 * aborts. */
void sl_timer_arm(struct sl_reactor *reactor, struct sl_timer *timer, uint64_t deadline_ns);
/* Harmless when not armed. */
void sl_timer_cancel(struct sl_reactor *reactor, struct sl_timer *timer);

static inline bool sl_timer_is_armed(const struct sl_timer *timer)
{
    return timer->heap_index != 0;
}

#endif
