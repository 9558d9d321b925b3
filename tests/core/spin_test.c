/*
 * Goal: polling adjusts itself: it stays where it brings work, ends where it brings none, and comes
 * back when that changes. Method: two small worlds that answer a spin as a free core and as a
 * shared core do, in made-up time; the cost is counted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* in this order */
#include <cmocka.h>

#include "core/spin.h"

#define LIMIT_NS UINT64_C(20000)

struct cost {
    unsigned sleep_count;
    uint64_t vain_ns; /* spun, and slept after all */
};

/* Work comes `gap_ns` after the last, whatever we do: the peer has a core of its own. */
static struct cost free_core(struct sl_spin *spin, uint64_t gap_ns, unsigned count)
{
    struct cost cost = {0};
    for (unsigned i = 0; i < count; i++) {
        if (!sl_spin_is_over(spin, gap_ns)) {
            sl_spin_hit(spin, gap_ns);
            continue;
        }
        cost.sleep_count++;
        cost.vain_ns += spin->window_ns;
        sl_spin_slept(spin, gap_ns - spin->window_ns);
    }
    return cost;
}

/* Work comes `gap_ns` after we sleep: the peer needs our core. */
static struct cost shared_core(struct sl_spin *spin, uint64_t gap_ns, unsigned count)
{
    struct cost cost = {0};
    for (unsigned i = 0; i < count; i++) {
        cost.sleep_count++;
        cost.vain_ns += spin->window_ns;
        sl_spin_slept(spin, gap_ns);
    }
    return cost;
}

static void test_free_core(void **state)
{
    struct sl_spin spin;
    sl_spin_init(&spin, LIMIT_NS);
    assert_int_equal(free_core(&spin, 15000, 1000).sleep_count, 0);
    assert_int_equal(spin.window_ns, LIMIT_NS);
}

static void test_shared_core(void **state)
{
    struct sl_spin spin;
    sl_spin_init(&spin, LIMIT_NS);
    /* 20, 10, 5, 2.5 us, then nothing but probes, fewer and fewer. */
    struct cost cost = shared_core(&spin, 5000, 100000);
    assert_in_range(cost.vain_ns, 37500 + 100000 / 256 * LIMIT_NS,
                    37500 + (100000 / 256 + 6) * LIMIT_NS);
    assert_int_equal(spin.probe_interval, SL_SPIN_PROBE_INTERVAL_MAX);
}

static void test_idle(void **state)
{
    struct sl_spin spin;
    sl_spin_init(&spin, LIMIT_NS);
    struct cost cost = free_core(&spin, SL_NS_PER_MS, 100000);
    assert_int_equal(cost.sleep_count, 100000);
    assert_int_equal(cost.vain_ns, 20000 + 10000 + 5000 + 2500); /* and no probes */
}

/* Sleeps at once; then the peer gets a core of its own. */
static void test_comes_back(void **state)
{
    struct sl_spin spin;
    sl_spin_init(&spin, LIMIT_NS);
    (void)shared_core(&spin, 5000, 100000);
    struct cost cost = free_core(&spin, 5000, 10000);
    assert_in_range(cost.sleep_count, 1, SL_SPIN_PROBE_INTERVAL_MAX);
    assert_int_equal(spin.window_ns, LIMIT_NS);
    assert_int_equal(spin.probe_interval, SL_SPIN_PROBE_INTERVAL_MIN);
}

/* After every idle second, a burst: a probe finds it, and so the burst's rest is spun for. */
static void test_bursts(void **state)
{
    struct sl_spin spin;
    sl_spin_init(&spin, LIMIT_NS);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(free_core(&spin, SL_NS_PER_S, 4).sleep_count, 4);
        assert_int_equal(spin.window_ns, 0);
        assert_in_range(free_core(&spin, 10000, 100).sleep_count, 1, SL_SPIN_PROBE_INTERVAL_MIN);
    }
}

/* Both sides sleep by turns, and each wake-up takes longer than the limit: a fixed peer of 5 us was
 * waited for in sleeps of 60 us, for ever, since none of them counted as short. */
static void test_slow_wakeups(void **state)
{
    struct sl_spin spin;
    sl_spin_init(&spin, LIMIT_NS);
    (void)shared_core(&spin, 5000, 10);
    assert_int_equal(spin.window_ns, 0);
    struct cost cost = {0};
    for (unsigned i = 0; i < SL_SPIN_PROBE_INTERVAL_MAX && spin.window_ns == 0; i++) {
        sl_spin_slept(&spin, 3 * LIMIT_NS);
        cost.sleep_count++;
    }
    assert_int_equal(spin.window_ns, LIMIT_NS); /* a probe: the answer comes within it */
    sl_spin_hit(&spin, 5000);
    assert_int_equal(free_core(&spin, 5000, 1000).sleep_count, 0);
}

/* One hit in vain: the window shrinks and grows, but never above the limit or to a stub. */
static void test_bounds(void **state)
{
    struct sl_spin spin;
    sl_spin_init(&spin, LIMIT_NS);
    uint64_t random = 7;
    for (unsigned i = 0; i < 100000; i++) {
        random = random * UINT64_C(6364136223846793005) + 1;
        uint64_t gap_ns = random >> 33 & 0x7fff;
        if (sl_spin_is_over(&spin, gap_ns))
            sl_spin_slept(&spin, gap_ns - sl_min(gap_ns, spin.window_ns));
        else
            sl_spin_hit(&spin, gap_ns);
        assert_true(spin.window_ns == 0 || (spin.window_ns >= LIMIT_NS / SL_SPIN_FLOOR_DIVISOR &&
                                            spin.window_ns <= LIMIT_NS));
    }
}

/* A hit long after the window: another process had the core, so it is none. */
static void test_preempted(void **state)
{
    struct sl_spin spin;
    sl_spin_init(&spin, LIMIT_NS);
    for (unsigned i = 0; i < 4; i++)
        sl_spin_hit(&spin, 4 * SL_NS_PER_MS);
    assert_int_equal(spin.window_ns, 0);
    sl_spin_hit(&spin, 0);
    assert_int_equal(spin.window_ns, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_free_core), cmocka_unit_test(test_shared_core),
        cmocka_unit_test(test_idle),      cmocka_unit_test(test_comes_back),
        cmocka_unit_test(test_bursts),    cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_preempted), cmocka_unit_test(test_slow_wakeups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
