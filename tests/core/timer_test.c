/*
 * Goal: timers fire in the order of (deadline, arming), once, and not when cancelled.
 * Method: random arming, moving, cancelling and passing of time against a model that is an array
 * searched from end to end; then the cases of timers that touch timers while they fire.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/reactor.h"
#include "core/timer.h"
#include "engines.h"

enum { TIMERS = 300 };

struct entry {
    struct sl_timer timer;
    bool armed; /* the model's view */
    uint64_t deadline_ns, order;
};

static struct virtual_engine engine;
static struct sl_reactor *reactor;
static struct entry entries[TIMERS];
static uint64_t order, fired_count;

static int setup(void **state)
{
    engine = (struct virtual_engine){.now_ns = 1};
    reactor = virtual_reactor(&engine, 0);
    order = fired_count = 0;
    memset(entries, 0, sizeof(entries));
    return 0;
}

static int teardown(void **state)
{
    sl_reactor_destroy(reactor);
    return 0;
}

static struct entry *model_first(void)
{
    struct entry *first = NULL;
    for (unsigned i = 0; i < TIMERS; i++) {
        struct entry *e = &entries[i];
        if (e->armed && (first == NULL || e->deadline_ns < first->deadline_ns ||
                         (e->deadline_ns == first->deadline_ns && e->order < first->order)))
            first = e;
    }
    return first;
}

static void model_fire(struct sl_timer *timer)
{
    struct entry *e = sl_container_of(timer, struct entry, timer);
    assert_ptr_equal(e, model_first());
    assert_true(e->deadline_ns <= sl_reactor_now_ns(reactor));
    assert_false(sl_timer_is_armed(timer));
    e->armed = false;
    fired_count++;
}

static void arm(struct entry *e, uint64_t deadline_ns)
{
    sl_timer_arm(reactor, &e->timer, deadline_ns);
    *e = (struct entry){e->timer, true, deadline_ns, order++};
}

static void test_against_model(void **state)
{
    uint64_t random = 42;
    for (unsigned i = 0; i < TIMERS; i++)
        sl_timer_init(&entries[i].timer, model_fire);
    for (unsigned i = 0; i < 40000; i++) {
        struct entry *e = &entries[test_random(&random) % TIMERS];
        switch (test_random(&random) % 8) {
        case 0:
            sl_timer_cancel(reactor, &e->timer);
            e->armed = false;
            break;
        case 1:
            engine.now_ns += test_random(&random) % 8;
            sl_reactor_step(reactor);
            struct entry *first = model_first();
            assert_true(first == NULL || first->deadline_ns > engine.now_ns);
            assert_int_equal(sl_reactor_next_deadline_ns(reactor),
                             first == NULL ? UINT64_MAX : first->deadline_ns);
            break;
        default: /* few different deadlines: many are equal */
            arm(e, engine.now_ns + test_random(&random) % 64);
        }
        assert_int_equal(sl_timer_is_armed(&e->timer), e->armed);
    }
    assert_true(fired_count > 10000);
    engine.now_ns += 64;
    sl_reactor_step(reactor);
    assert_null(model_first());
    assert_false(sl_reactor_step(reactor));
}

static char trace[64];
static unsigned trace_length;
static struct sl_timer a, b, c;

static void fire_a(struct sl_timer *timer)
{
    trace[trace_length++] = 'a';
    sl_timer_cancel(reactor, &b);                                    /* due in this very turn */
    sl_timer_arm(reactor, &a, sl_reactor_now_ns(reactor));           /* again at once */
    sl_timer_arm(reactor, &c, sl_reactor_next_deadline_ns(reactor)); /* behind the new a */
}

static void fire_b(struct sl_timer *timer)
{
    trace[trace_length++] = 'b';
}

static void fire_c(struct sl_timer *timer)
{
    trace[trace_length++] = 'c';
    sl_timer_cancel(reactor, &a);
}

static void test_timers_that_touch_timers(void **state)
{
    memset(trace, 0, sizeof(trace));
    trace_length = 0;
    sl_timer_init(&a, fire_a);
    sl_timer_init(&b, fire_b);
    sl_timer_init(&c, fire_c);
    sl_timer_cancel(reactor, &a); /* harmless */
    sl_timer_arm(reactor, &a, 10);
    sl_timer_arm(reactor, &b, 10);
    engine.now_ns = 10;
    /* A timer that is always due must not hold the turn. */
    for (unsigned i = 0; i < 4 && trace_length < 8; i++)
        sl_reactor_step(reactor);
    assert_true(trace_length >= 2);
    assert_null(strchr(trace, 'b'));
    assert_int_equal(trace[0], 'a');
    sl_timer_cancel(reactor, &a);
    settle(reactor);
    assert_int_equal(sl_reactor_next_deadline_ns(reactor), UINT64_MAX);
    assert_non_null(strchr(trace, 'c'));
}

static void test_moving(void **state)
{
    memset(trace, 0, sizeof(trace));
    trace_length = 0;
    sl_timer_init(&b, fire_b);
    sl_timer_arm(reactor, &b, 100);
    sl_timer_arm(reactor, &b, 50);
    assert_int_equal(sl_reactor_next_deadline_ns(reactor), 50);
    sl_timer_arm(reactor, &b, 200);
    engine.now_ns = 199;
    assert_false(sl_reactor_step(reactor));
    engine.now_ns = 1000;
    assert_true(sl_reactor_step(reactor));
    assert_false(sl_reactor_step(reactor));
    assert_string_equal(trace, "b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_against_model, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timers_that_touch_timers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_moving, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
