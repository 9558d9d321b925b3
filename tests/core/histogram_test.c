/*
 * Goal: quantiles are right to the width of a bucket (1.6 %), everything else exactly.
 * Method: random values of several shapes beside the sorted array of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "core/histogram.h"
#include "engines.h"

enum { VALUES = 20000 };

static struct sl_histogram one, half[2];
static uint64_t values[VALUES];

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void check(unsigned count)
{
    static const double quantiles[] = {0, 0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1};
    uint64_t sum = 0;
    sl_histogram_reset(&one);
    sl_histogram_reset(&half[0]);
    sl_histogram_reset(&half[1]);
    for (unsigned i = 0; i < count; i++) {
        sl_histogram_add(&one, values[i]);
        sl_histogram_add(&half[i % 3 == 0], values[i]);
        sum += values[i];
    }
    sl_histogram_merge(&half[0], &half[1]);
    assert_memory_equal(&half[0], &one, sizeof(one));
    qsort(values, count, sizeof(values[0]), compare);
    assert_int_equal(one.count, count);
    assert_int_equal(one.min_ns, values[0]);
    assert_int_equal(one.max_ns, values[count - 1]);
    assert_true(fabs(sl_histogram_mean_ns(&one) - (double)sum / count) <= 1e-9 * (double)sum);
    for (unsigned i = 0; i < SL_COUNT_OF(quantiles); i++) {
        double rank = ceil(quantiles[i] * count);
        uint64_t exact = values[rank < 1 ? 0 : (unsigned)rank - 1];
        uint64_t answer = sl_histogram_quantile_ns(&one, quantiles[i]);
        assert_true(answer >= exact);
        assert_true(answer <= exact + exact / 64);
    }
}

static void test_against_sorted_array(void **state)
{
    uint64_t random = 7;
    for (unsigned i = 0; i < VALUES; i++) /* all exact */
        values[i] = test_random(&random) % 64;
    check(VALUES);
    for (unsigned i = 0; i < VALUES; i++) /* even */
        values[i] = test_random(&random) % 1000000;
    check(VALUES);
    for (unsigned i = 0; i < VALUES; i++) /* every order of magnitude up to 2^42 */
        values[i] = test_random(&random) >> (22 + test_random(&random) % 42);
    check(VALUES);
    for (unsigned i = 0; i < VALUES; i++) /* latencies: narrow, with a tail */
        values[i] = 20000 + test_random(&random) % 1000 +
                    (test_random(&random) % 100 == 0 ? test_random(&random) % 10000000 : 0);
    check(VALUES);
    for (unsigned count = 1; count < 10; count++)
        check(count);
}

static void test_edges(void **state)
{
    sl_histogram_reset(&one);
    assert_int_equal(sl_histogram_quantile_ns(&one, 0.5), 0);
    assert_true(sl_histogram_mean_ns(&one) == 0);
    sl_histogram_merge(&one, &one); /* of nothing */
    assert_int_equal(one.count, 0);
    for (unsigned bit = 0; bit < 42; bit++) { /* both sides of every power of two */
        uint64_t power = UINT64_C(1) << bit;
        for (uint64_t value = power - 1; value <= power; value++) {
            sl_histogram_reset(&one);
            sl_histogram_add(&one, 0);
            sl_histogram_add(&one, value);
            sl_histogram_add(&one, UINT64_C(1) << 41);
            uint64_t middle = sl_histogram_quantile_ns(&one, 0.5);
            assert_in_range(middle, value, value + value / 64);
        }
    }
}

static void test_past_the_range(void **state)
{
    sl_histogram_reset(&one);
    sl_histogram_add(&one, 5);
    sl_histogram_add(&one, UINT64_MAX / 2);
    sl_histogram_add(&one, UINT64_C(1) << 43);
    assert_int_equal(one.max_ns, UINT64_MAX / 2);
    assert_int_equal(one.count, 3);
    assert_int_equal(sl_histogram_quantile_ns(&one, 0), 5);
    assert_int_equal(sl_histogram_quantile_ns(&one, 1), UINT64_MAX / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_sorted_array),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_past_the_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
