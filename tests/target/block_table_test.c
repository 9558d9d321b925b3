/*
 * Goal: range locks never let a writer in beside another, lose no waiter, and serve in order.
 * Method: many coroutines lock random ranges of a small table for a random time, against a model of
 * who is inside; then the exact order of a scripted queue.
 */
#include "world.h"

#define BLOCKS     64
#define COROUTINES 40
#define ROUNDS     200

static struct sl_block_table table;
static struct sl_block_waiters waiters;
static int inside[BLOCKS]; /* readers, or -1 */
static unsigned locked_count;
static char order[16];

struct locker {
    struct world *world;
    uint64_t random;
};

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static void locker_co(void *argument)
{
    struct locker *locker = argument;
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t first = next_random(&locker->random) % BLOCKS;
        uint32_t count = (uint32_t)(1 + next_random(&locker->random) % 24); /* whole words, too */
        bool exclusive = next_random(&locker->random) % 3 == 0;
        count = (uint32_t)sl_min((uint64_t)count, BLOCKS - first);
        sl_block_lock_co(&table, &waiters, first, count, exclusive);
        for (uint64_t i = first; i < first + count; i++) {
            assert_true(exclusive ? inside[i] == 0 : inside[i] >= 0);
            inside[i] = exclusive ? -1 : inside[i] + 1;
        }
        locked_count++;
        for (uint64_t yields = next_random(&locker->random) % 4; yields > 0; yields--)
            sl_yield_co();
        for (uint64_t i = first; i < first + count; i++)
            inside[i] = exclusive ? 0 : inside[i] - 1;
        sl_block_unlock(&table, &waiters, first, count, exclusive);
    }
    world_leave(locker->world);
}

static void random_main_co(struct world *world)
{
    static struct locker lockers[COROUTINES];
    for (unsigned i = 0; i < COROUTINES; i++) {
        lockers[i] = (struct locker){world, i * 7919 + 1};
        world_spawn(world, locker_co, &lockers[i]);
    }
    world_join_co(world);
    assert_true(sl_list_is_empty(&waiters.list));
    for (unsigned i = 0; i < BLOCKS; i++)
        assert_int_equal(table.locks[i], 0);
    assert_int_equal(locked_count, COROUTINES * ROUNDS);
}

struct step {
    struct world *world;
    char name;
    uint64_t first;
    uint32_t count;
    bool exclusive;
};

static void step_co(void *argument)
{
    struct step *step = argument;
    sl_block_lock_co(&table, &waiters, step->first, step->count, step->exclusive);
    order[strlen(order)] = step->name;
    sl_yield_co();
    sl_block_unlock(&table, &waiters, step->first, step->count, step->exclusive);
    world_leave(step->world);
}

/* A holds 0…3 shared; B wants it alone; C would read beside A but came after B; D is elsewhere. */
static void order_main_co(struct world *world)
{
    static struct step steps[] = {
        {NULL, 'A', 0, 4, false},
        {NULL, 'B', 2, 4, true},
        {NULL, 'C', 0, 4, false},
        {NULL, 'D', 10, 2, true},
    };
    memset(order, 0, sizeof(order));
    for (unsigned i = 0; i < SL_COUNT_OF(steps); i++) {
        steps[i].world = world;
        world_spawn(world, step_co, &steps[i]);
    }
    world_join_co(world);
    assert_string_equal(order, "ADBC");
}

/* 254 share a range; the next waits, and a writer behind it until all have left. */
static void crowd_main_co(struct world *world)
{
    enum { CROWD = 254, BLOCK_COUNT = 20 };
    for (unsigned i = 0; i < CROWD; i++)
        sl_block_lock_co(&table, &waiters, 3, BLOCK_COUNT, false);
    static struct step steps[] = {
        {NULL, 'R', 5, 9, false},
        {NULL, 'W', 3, BLOCK_COUNT, true},
    };
    memset(order, 0, sizeof(order));
    for (unsigned i = 0; i < SL_COUNT_OF(steps); i++) {
        steps[i].world = world;
        world_spawn(world, step_co, &steps[i]);
    }
    sl_yield_co();
    sl_yield_co();
    assert_string_equal(order, "");
    sl_block_unlock(&table, &waiters, 3, BLOCK_COUNT, false);
    sl_yield_co();
    sl_yield_co();
    sl_yield_co();
    assert_string_equal(order, "R");
    for (unsigned i = 1; i < CROWD; i++)
        sl_block_unlock(&table, &waiters, 3, BLOCK_COUNT, false);
    world_join_co(world);
    assert_string_equal(order, "RW");
    for (unsigned i = 0; i < BLOCKS; i++)
        assert_int_equal(table.locks[i], 0);
}

static void run(void (*main_co)(struct world *world))
{
    struct world world;
    assert_int_equal(sl_block_table_create(&table, BLOCKS), 0);
    sl_block_waiters_init(&waiters);
    world_create(&world, 8);
    world_run(&world, main_co, NULL);
    world_destroy(&world);
    sl_block_table_destroy(&table);
}

static void test_random_ranges(void **state)
{
    run(random_main_co);
}

static void test_order(void **state)
{
    run(order_main_co);
}

static void test_crowd(void **state)
{
    run(crowd_main_co);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_ranges),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_crowd),
    };
    if (world_is_missing())
        return TEST_SKIP;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
