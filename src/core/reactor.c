/* The loop of a reactor. See reactor.h; owned by its thread but for mail, notify and stop. */
#include "core/reactor.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#include "core/log.h"
#include "core/reactor_private.h"
#include "core/trace.h"

/* The longest spin. An answer takes about 15 µs from a peer that spins on another core, but 60 to
 * 100 µs from one that has to be woken there: two sides that both sleep see only such long waits,
 * and a limit below them would never let either find out that spinning pays. spin.h decides how
 * much of it is used. */
#define SPIN_NS_DEFAULT (50 * SL_NS_PER_US)
/* What still runs after it was stopped is a bug; this only keeps the bug from hanging the process.
 */
#define STOP_GRACE_NS (2 * SL_NS_PER_S)
/* A reactor that never sleeps offers its core once it has been idle for longer than a fast disk
 * takes: the kernel's workers that complete durable writes may need it (3.4 ms a write were seen on
 * two cores with two polling programs). */
#define YIELD_AFTER_NS (20 * SL_NS_PER_US)

int sl_reactor_create(const struct sl_reactor_config *config,
                      const struct sl_reactor_engine *engine, struct sl_reactor **result)
{
    struct sl_reactor *reactor = calloc(1, sizeof(*reactor));
    if (reactor == NULL)
        return -ENOMEM;
    reactor->config = *config;
    if (reactor->config.spin_ns == 0)
        reactor->config.spin_ns = SPIN_NS_DEFAULT;
    sl_spin_init(&reactor->spin, reactor->config.spin_ns);
    reactor->engine = *engine;
    sl_list_init(&reactor->ready);
    sl_list_init(&reactor->pooled);
    sl_list_init(&reactor->stacks);
    sl_list_init(&reactor->pollers);
    reactor->now_ns = engine->now_ns(engine->engine);
    *result = reactor;
    return 0;
}

void sl_reactor_destroy(struct sl_reactor *reactor)
{
    if (reactor == NULL)
        return;
    SL_ASSERT(reactor->statistics.coroutine_count == 0);
    sl_reactor_free_stacks(reactor);
    free(reactor->timers);
    free(reactor);
}

void sl_reactor_abandon(struct sl_reactor *reactor)
{
    if (reactor == NULL)
        return;
    SL_ASSERT(sl_reactor_current != reactor);
    sl_reactor_abandon_stacks(reactor);
    free(reactor->timers);
    free(reactor);
}

/* ---- mail ---- */

void sl_reactor_post(struct sl_reactor *reactor, struct sl_mail *mail)
{
    struct sl_mail *head = atomic_load_explicit(&reactor->mail, memory_order_relaxed);
    do {
        mail->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&reactor->mail, &head, mail,
                                                    memory_order_seq_cst, memory_order_relaxed));
    /* Sequentially consistent with the receiver's `sleeping = true; look at mail`: one of the two
     * sees the other. */
    if (atomic_load_explicit(&reactor->sleeping, memory_order_seq_cst) &&
        atomic_exchange_explicit(&reactor->sleeping, false, memory_order_seq_cst))
        /* The first sender notifies; the others rely on it: their mail is there when it wakes. */
        reactor->engine.notify(reactor->engine.engine);
}

static unsigned deliver_mail(struct sl_reactor *reactor)
{
    if (atomic_load_explicit(&reactor->mail, memory_order_relaxed) == NULL)
        return 0;
    struct sl_mail *stack = atomic_exchange_explicit(&reactor->mail, NULL, memory_order_acquire);
    struct sl_mail *queue = NULL;
    while (stack != NULL) {
        struct sl_mail *next = stack->next;
        stack->next = queue;
        queue = stack;
        stack = next;
    }
    unsigned count = 0;
    while (queue != NULL) {
        struct sl_mail *mail = queue;
        queue = mail->next;
        mail->deliver(mail);
        count++;
    }
    return count;
}

/* ---- the loop ---- */

bool sl_reactor_step(struct sl_reactor *reactor)
{
    struct sl_reactor *outer = sl_reactor_current;
    sl_reactor_current = reactor;
    reactor->now_ns = reactor->engine.now_ns(reactor->engine.engine);
    unsigned done = deliver_mail(reactor);
    done += sl_reactor_fire_timers(reactor);
    done += reactor->engine.poll(reactor->engine.engine);
    sl_list_for_each(node, &reactor->pollers)
    {
        struct sl_poller *poller = sl_list_entry(node, struct sl_poller, node);
        done += poller->poll(poller);
    }
    done += sl_reactor_run_ready(reactor);
    reactor->statistics.turn_count++;
    if (done != 0)
        reactor->statistics.busy_turn_count++;
    sl_reactor_current = outer;
    return done != 0;
}

/* Asks every poller's other side for a wake-up. False: work has come meanwhile. Disarms on the way
 * out either way. */
static bool arm_pollers(struct sl_reactor *reactor)
{
    bool may_sleep = true;
    sl_list_for_each(node, &reactor->pollers)
    {
        struct sl_poller *poller = sl_list_entry(node, struct sl_poller, node);
        if (poller->arm != NULL && !poller->arm(poller))
            may_sleep = false;
    }
    return may_sleep;
}

static void disarm_pollers(struct sl_reactor *reactor)
{
    sl_list_for_each(node, &reactor->pollers)
    {
        struct sl_poller *poller = sl_list_entry(node, struct sl_poller, node);
        if (poller->disarm != NULL)
            poller->disarm(poller);
    }
}

static void reactor_sleep(struct sl_reactor *reactor)
{
    sl_reactor_current = reactor;
    atomic_store_explicit(&reactor->sleeping, true, memory_order_seq_cst);
    bool may_sleep = arm_pollers(reactor) && sl_list_is_empty(&reactor->ready) &&
                     atomic_load_explicit(&reactor->mail, memory_order_seq_cst) == NULL &&
                     !atomic_load_explicit(&reactor->stop, memory_order_seq_cst);
    if (may_sleep) {
        reactor->statistics.sleep_count++;
        uint64_t deadline_ns = sl_reactor_next_deadline_ns(reactor);
        sl_core_trace_reactor_sleep(reactor->config.index, deadline_ns);
        unsigned count = reactor->engine.sleep(reactor->engine.engine, deadline_ns);
        sl_core_trace_reactor_wake(reactor->config.index, count);
    }
    atomic_store_explicit(&reactor->sleeping, false, memory_order_seq_cst);
    disarm_pollers(reactor);
    sl_reactor_current = NULL;
}

static void pin(const struct sl_reactor *reactor)
{
    if (reactor->config.cpu < 0)
        return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((unsigned)reactor->config.cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0)
        sl_log_warn("reactor", "reactor %u cannot be pinned to CPU %d", reactor->config.index,
                    reactor->config.cpu);
}

void sl_reactor_run(struct sl_reactor *reactor)
{
    pin(reactor);
    uint64_t idle_since_ns = 0; /* 0 = busy */
    while (!atomic_load_explicit(&reactor->stop, memory_order_acquire)) {
        if (sl_reactor_step(reactor) || !sl_list_is_empty(&reactor->ready)) {
            if (idle_since_ns != 0)
                sl_spin_hit(&reactor->spin, reactor->now_ns - idle_since_ns);
            idle_since_ns = 0;
            continue;
        }
        if (idle_since_ns == 0)
            idle_since_ns = reactor->now_ns;
        if (reactor->config.poll_always) {
            if (reactor->now_ns - idle_since_ns > YIELD_AFTER_NS)
                sched_yield();
            continue;
        }
        if (sl_spin_is_over(&reactor->spin, reactor->now_ns - idle_since_ns)) {
            uint64_t from_ns = reactor->now_ns;
            reactor_sleep(reactor);
            sl_spin_slept(&reactor->spin, sl_reactor_clock_ns(reactor) - from_ns);
            idle_since_ns = 0;
        }
    }
    /* Coroutines whose last event is already under way (a closed listener's accept) come to their
     * end. */
    uint64_t deadline_ns = sl_reactor_clock_ns(reactor) + STOP_GRACE_NS;
    while (reactor->statistics.coroutine_count > 0 && sl_reactor_clock_ns(reactor) < deadline_ns)
        sl_reactor_step(reactor);
}

void sl_reactor_stop(struct sl_reactor *reactor)
{
    atomic_store_explicit(&reactor->stop, true, memory_order_seq_cst);
    reactor->engine.notify(reactor->engine.engine);
}

struct sl_reactor *sl_reactor_self(void)
{
    return sl_reactor_current;
}

unsigned sl_reactor_index(const struct sl_reactor *reactor)
{
    return reactor->config.index;
}

uint64_t sl_reactor_now_ns(const struct sl_reactor *reactor)
{
    return reactor->now_ns;
}

uint64_t sl_reactor_clock_ns(const struct sl_reactor *reactor)
{
    return reactor->engine.now_ns(reactor->engine.engine);
}

void sl_reactor_random(struct sl_reactor *reactor, void *bytes, size_t length)
{
    reactor->engine.random(reactor->engine.engine, bytes, length);
}

uint64_t sl_reactor_random_u64(struct sl_reactor *reactor)
{
    uint64_t value;
    sl_reactor_random(reactor, &value, sizeof(value));
    return value;
}

void sl_reactor_poller_add(struct sl_reactor *reactor, struct sl_poller *poller)
{
    sl_list_append(&reactor->pollers, &poller->node);
}

void sl_reactor_poller_remove(struct sl_reactor *reactor, struct sl_poller *poller)
{
    (void)reactor;
    sl_list_remove(&poller->node);
}

void sl_reactor_statistics(const struct sl_reactor *reactor,
                           struct sl_reactor_statistics *statistics)
{
    *statistics = reactor->statistics;
}
