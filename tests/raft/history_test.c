/*
 * Goal: the simulator's judge of histories is right. Method: histories by hand, right and wrong
 * ones; then small random ones, for each of which every order of its operations is tried.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "sim/raft/history.h"

enum { MOST = 7 };
#define W HISTORY_WRITE
#define R HISTORY_READ

static bool judge(const struct history_operation *ops, size_t count)
{
    struct history history = {0};
    char why[200] = "";
    for (size_t i = 0; i < count; i++) {
        history_begin(&history, ops[i].kind, ops[i].key, ops[i].value);
        history.operations[i] = ops[i];
    }
    bool right = history_is_linearizable(&history, why, sizeof(why));
    assert_true(right == (why[0] == 0));
    history_release(&history);
    return right;
}

#define RIGHT(...) assert_true(judge(OPS(__VA_ARGS__)))
#define WRONG(...) assert_false(judge(OPS(__VA_ARGS__)))
#define OPS(...)                                                                                   \
    (const struct history_operation[]){__VA_ARGS__},                                               \
        sizeof((const struct history_operation[]){__VA_ARGS__}) / sizeof(struct history_operation)

static void by_hand(void **state)
{
    RIGHT({W, 0, 1, 1, 2}, {R, 0, 1, 3, 4});
    WRONG({W, 0, 1, 1, 2}, {R, 0, 0, 3, 4}); /* stale */
    RIGHT({W, 0, 1, 1, 4}, {R, 0, 0, 2, 3});
    WRONG({R, 0, 1, 1, 2}, {W, 0, 1, 3, 4}); /* from the future */
    WRONG({R, 0, 9, 1, 2});                  /* from nowhere */
    /* Two readers see two writes in another order. */
    WRONG({W, 0, 1, 1, 9}, {W, 0, 2, 2, 10}, {R, 0, 1, 11, 12}, {R, 0, 2, 13, 14},
          {R, 0, 1, 15, 16});
    /* A new value is seen, then the old one again, while both writes are under way. */
    WRONG({W, 0, 1, 1, 2}, {W, 0, 2, 3, 12}, {R, 0, 2, 4, 5}, {R, 0, 1, 6, 7});
    RIGHT({W, 0, 1, 1, 2}, {W, 0, 2, 3, 12}, {R, 0, 1, 4, 5}, {R, 0, 2, 6, 7});
    /* No answer: it may have happened, and may happen late. */
    RIGHT({W, 0, 1, 1, UINT64_MAX}, {R, 0, 0, 2, 3}, {R, 0, 1, 4, 5});
    WRONG({W, 0, 1, 1, UINT64_MAX}, {R, 0, 1, 2, 3}, {R, 0, 0, 4, 5});
    /* Reported as failed. */
    RIGHT({W, 0, 1, 1, 2, true}, {R, 0, 0, 3, 4});
    WRONG({W, 0, 1, 1, 2, true}, {R, 0, 1, 3, 4});
    /* Registers are independent; a read without an answer says nothing. */
    RIGHT({W, 0, 1, 1, 2}, {R, 1, 0, 3, 4}, {R, 0, 7, 5, UINT64_MAX});
    /* A write that lies within the time in which another value certainly stood. */
    WRONG({W, 0, 1, 1, 2}, {W, 0, 2, 3, 4}, {R, 0, 1, 5, 6});
}

/* ---- every order */

static uint64_t draw(uint64_t *random, uint64_t below)
{
    *random = *random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*random >> 33) % below;
}

/* Whether the operations that are left can follow each other, from `value` on. */
static bool try(const struct history_operation *ops, size_t count, unsigned left, uint64_t value)
{
    bool needed = false;
    for (size_t i = 0; i < count; i++)
        needed = needed || ((left >> i & 1) != 0 && ops[i].ended != UINT64_MAX);
    if (!needed)
        return true;
    for (size_t i = 0; i < count; i++) {
        if ((left >> i & 1) == 0 || (ops[i].kind == HISTORY_READ && ops[i].value != value))
            continue;
        bool first = true; /* of none that is left has the end come before its beginning */
        for (size_t j = 0; j < count; j++)
            first = first && ((left >> j & 1) == 0 || ops[j].ended > ops[i].began);
        if (first &&
            try(ops, count, left & ~(1u << i), ops[i].kind == HISTORY_WRITE ? ops[i].value : value))
            return true;
    }
    return false;
}

static void as_trying_every_order(void **state)
{
    uint64_t random = 1;
    unsigned right = 0, rounds = 60000;
    for (unsigned round = 0; round < rounds; round++) {
        struct history_operation ops[MOST];
        uint64_t moments[2 * MOST], values = 0;
        size_t count = 2 + draw(&random, MOST - 1);
        for (size_t i = 0; i < 2 * count; i++)
            moments[i] = i + 1;
        for (size_t i = 2 * count - 1; i > 0; i--) {
            size_t other = draw(&random, i + 1);
            uint64_t moment = moments[i];
            moments[i] = moments[other];
            moments[other] = moment;
        }
        for (size_t i = 0; i < count; i++) {
            uint64_t a = moments[2 * i], b = moments[2 * i + 1];
            ops[i] = (struct history_operation){.began = sl_min(a, b), .ended = sl_max(a, b)};
            ops[i].kind = draw(&random, 2) == 0 ? HISTORY_WRITE : HISTORY_READ;
            if (ops[i].kind == HISTORY_WRITE) {
                ops[i].value = ++values;
                if (draw(&random, 5) == 0)
                    ops[i].ended = UINT64_MAX;
            }
        }
        for (size_t i = 0; i < count; i++) {
            if (ops[i].kind == HISTORY_READ)
                ops[i].value = draw(&random, values + 1);
        }
        bool expected = try(ops, count, (1u << count) - 1, 0);
        if (judge(ops, count) != expected)
            fail_msg("round %u: every order says %d", round, expected);
        right += expected;
    }
    assert_true(right > rounds / 10 && right < rounds - rounds / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_hand),
        cmocka_unit_test(as_trying_every_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
