/*
 * Goal: a pool keeps its limit, hands out aligned objects that do not overlap, the last one put
 * first, and knows how many are out.
 * Method: fill to the limit, mark every object, put back in a random order, look again.
 */
#include "harness.h"

#include "mem/pool.h"

#define OBJECT_BYTES 100
#define LIMIT        50
#define SLAB         16 /* does not divide the limit: the last slab is short */

static void limit_and_reuse(void **state)
{
    (void)state;
    struct sl_pool pool;
    uint8_t *objects[LIMIT];
    uint64_t random = 7;
    sl_pool_init(&pool, OBJECT_BYTES, SLAB, LIMIT);
    assert_int_equal(pool.total_count, 0);
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < LIMIT; i++) {
            objects[i] = sl_pool_get(&pool);
            assert_non_null(objects[i]);
            assert_true(sl_is_aligned((uintptr_t)objects[i], 64));
            memset(objects[i], (int)i + 1, OBJECT_BYTES);
        }
        assert_null(sl_pool_get(&pool));
        assert_int_equal(pool.used_count, LIMIT);
        assert_int_equal(pool.total_count, LIMIT);
        for (unsigned i = 0; i < LIMIT; i++)
            for (unsigned k = 0; k < OBJECT_BYTES; k++)
                assert_int_equal(objects[i][k], i + 1);
        for (unsigned left = LIMIT; left > 0; left--) {
            unsigned pick = test_random(&random) % left;
            sl_pool_put(&pool, objects[pick]);
            objects[pick] = objects[left - 1];
        }
        assert_int_equal(pool.used_count, 0);
    }
    void *last = sl_pool_get(&pool);
    sl_pool_put(&pool, last);
    assert_ptr_equal(sl_pool_get(&pool), last);
    sl_pool_put(&pool, last);
    sl_pool_fini(&pool);
}

static void no_limit_grows(void **state)
{
    (void)state;
    struct sl_pool pool;
    static void *objects[1000];
    sl_pool_init(&pool, 1, 0, 0); /* smaller than its link, a slab of none: both are rounded up */
    for (unsigned i = 0; i < SL_COUNT_OF(objects); i++) {
        objects[i] = sl_pool_get(&pool);
        assert_non_null(objects[i]);
    }
    assert_int_equal(pool.total_count, SL_COUNT_OF(objects));
    for (unsigned i = 0; i < SL_COUNT_OF(objects); i++)
        sl_pool_put(&pool, objects[i]);
    sl_pool_fini(&pool);
}

static void put_twice(void *argument)
{
    void *object = sl_pool_get(argument);
    (void)sl_pool_get(argument);
    sl_pool_put(argument, object);
    sl_pool_put(argument, object);
}

static void forget_one(void *argument)
{
    (void)sl_pool_get(argument);
    sl_pool_fini(argument);
}

static void broken_invariants_abort(void **state)
{
    (void)state;
    struct sl_pool pool;
    sl_pool_init(&pool, OBJECT_BYTES, SLAB, LIMIT);
    assert_true(test_aborts(put_twice, &pool));
    assert_true(test_aborts(forget_one, &pool));
    sl_pool_fini(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limit_and_reuse),
        cmocka_unit_test(no_limit_grows),
        cmocka_unit_test(broken_invariants_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
