/* A binary heap of timers, 1-based, ordered by (deadline, order of arming). */
#include "core/timer.h"

#include <stdlib.h>

#include "core/reactor_private.h"

static bool is_before(const struct sl_timer *a, const struct sl_timer *b)
{
    return a->deadline_ns < b->deadline_ns ||
           (a->deadline_ns == b->deadline_ns && a->order < b->order);
}

static void place(struct sl_reactor *reactor, struct sl_timer *timer, size_t index)
{
    reactor->timers[index] = timer;
    timer->heap_index = index;
}

static void sift_up(struct sl_reactor *reactor, struct sl_timer *timer, size_t index)
{
    while (index > 1 && is_before(timer, reactor->timers[index / 2])) {
        place(reactor, reactor->timers[index / 2], index);
        index /= 2;
    }
    place(reactor, timer, index);
}

static void sift_down(struct sl_reactor *reactor, struct sl_timer *timer, size_t index)
{
    for (;;) {
        size_t child = index * 2;
        if (child > reactor->timer_count)
            break;
        if (child < reactor->timer_count &&
            is_before(reactor->timers[child + 1], reactor->timers[child]))
            child++;
        if (!is_before(reactor->timers[child], timer))
            break;
        place(reactor, reactor->timers[child], index);
        index = child;
    }
    place(reactor, timer, index);
}

void sl_timer_cancel(struct sl_reactor *reactor, struct sl_timer *timer)
{
    size_t index = timer->heap_index;
    if (index == 0)
        return;
    SL_ASSERT(index <= reactor->timer_count && reactor->timers[index] == timer);
    struct sl_timer *last = reactor->timers[reactor->timer_count--];
    timer->heap_index = 0;
    if (last == timer)
        return;
    if (index > 1 && is_before(last, reactor->timers[index / 2]))
        sift_up(reactor, last, index);
    else
        sift_down(reactor, last, index);
}

void sl_timer_arm(struct sl_reactor *reactor, struct sl_timer *timer, uint64_t deadline_ns)
{
    sl_timer_cancel(reactor, timer);
    if (reactor->timer_count + 2 > reactor->timer_capacity) {
        size_t capacity = sl_max(reactor->timer_capacity * 2, (size_t)64);
        reactor->timers = realloc(reactor->timers, capacity * sizeof(*reactor->timers));
        SL_ASSERT(reactor->timers != NULL);
        reactor->timer_capacity = capacity;
    }
    timer->deadline_ns = deadline_ns;
    timer->order = reactor->timer_order++;
    sift_up(reactor, timer, ++reactor->timer_count);
}

unsigned sl_reactor_fire_timers(struct sl_reactor *reactor)
{
    unsigned count = 0;
    /* No more than are armed now: a timer that arms itself again for a time that has passed waits
     * for the next turn, and the turn ends. */
    for (size_t left = reactor->timer_count; left > 0; left--) {
        if (reactor->timer_count == 0 || reactor->timers[1]->deadline_ns > reactor->now_ns)
            break;
        struct sl_timer *timer = reactor->timers[1];
        sl_timer_cancel(reactor, timer);
        timer->fire(timer);
        count++;
    }
    return count;
}

uint64_t sl_reactor_next_deadline_ns(const struct sl_reactor *reactor)
{
    return reactor->timer_count > 0 ? reactor->timers[1]->deadline_ns : UINT64_MAX;
}
