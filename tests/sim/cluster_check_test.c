/*
 * Goal: the checker of sim/cluster tells histories that a register can have from those that it
 * cannot. Method: small histories by hand, each just allowed or just not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "sim/cluster/cluster.h"

/* In place of the cluster's: only whether there was one. */
void cluster_violation(struct cluster *cluster, int block, const char *format, ...)
{
    snprintf(cluster->violation, sizeof(cluster->violation), "%s", format);
}

struct step {
    bool is_write;
    uint64_t value, start, finish;
    enum outcome outcome;
};

#define WRITE(value, start, finish)                                                                \
    {                                                                                              \
        true, value, start, finish, OUTCOME_DONE                                                   \
    }
#define READ(value, start, finish)                                                                 \
    {                                                                                              \
        false, value, start, finish, OUTCOME_DONE                                                  \
    }
#define LOST(value, start)                                                                         \
    {                                                                                              \
        true, value, start, UINT64_MAX, OUTCOME_OPEN                                               \
    }

static bool is_allowed(const struct step *steps, unsigned count)
{
    struct cluster *cluster = calloc(1, sizeof(*cluster));
    struct operation *operations = calloc(count, sizeof(*operations));
    assert_non_null(cluster);
    assert_non_null(operations);
    for (unsigned i = 0; i < count; i++)
        operations[i] = (struct operation){
            .start = steps[i].start,
            .finish = steps[i].finish,
            .values = {steps[i].value},
            .is_write = steps[i].is_write,
            .outcome = (uint8_t)steps[i].outcome,
            .first = 5,
            .count = 1,
        };
    cluster->operations = operations;
    cluster->operation_count = count;
    check_blocks(cluster);
    bool allowed = cluster->violation[0] == '\0';
    free(operations);
    free(cluster);
    return allowed;
}

#define ALLOWED(...)                                                                               \
    do {                                                                                           \
        const struct step steps[] = {__VA_ARGS__};                                                 \
        assert_true(is_allowed(steps, SL_COUNT_OF(steps)));                                        \
    } while (0)
#define FORBIDDEN(...)                                                                             \
    do {                                                                                           \
        const struct step steps[] = {__VA_ARGS__};                                                 \
        assert_false(is_allowed(steps, SL_COUNT_OF(steps)));                                       \
    } while (0)

static void test_in_turn(void **state)
{
    ALLOWED(READ(0, 1, 2), WRITE(1, 3, 4), READ(1, 5, 6), WRITE(2, 7, 8), READ(2, 9, 10));
    FORBIDDEN(WRITE(1, 1, 2), READ(0, 3, 4));
    FORBIDDEN(WRITE(1, 1, 2), WRITE(2, 3, 4), READ(1, 5, 6));
    FORBIDDEN(READ(1, 1, 2), WRITE(1, 3, 4));
    FORBIDDEN(READ(7, 1, 2));
}

static void test_side_by_side(void **state)
{
    ALLOWED(WRITE(1, 1, 10), READ(0, 2, 3), READ(1, 4, 5));
    FORBIDDEN(WRITE(1, 1, 10), READ(1, 2, 3), READ(0, 4, 5));
    ALLOWED(WRITE(1, 1, 10), WRITE(2, 2, 9), READ(1, 11, 12), READ(1, 13, 14));
    FORBIDDEN(WRITE(1, 1, 10), WRITE(2, 2, 9), READ(1, 11, 12), READ(2, 13, 14));
    /* A, B, A again. */
    FORBIDDEN(WRITE(1, 1, 20), READ(1, 2, 3), WRITE(2, 4, 5), READ(1, 6, 7));
}

static void test_unknown(void **state)
{
    ALLOWED(LOST(1, 1), READ(0, 2, 3));
    ALLOWED(LOST(1, 1), READ(0, 2, 3), WRITE(2, 4, 5), READ(1, 6, 7));
    FORBIDDEN(LOST(1, 1), READ(1, 2, 3), READ(0, 4, 5));
    FORBIDDEN(LOST(1, 1), READ(1, 2, 3), WRITE(2, 4, 5), READ(1, 6, 7));
}

static void test_given_up(void **state)
{
    ALLOWED({true, 1, 1, 2, OUTCOME_UNTIL}, READ(0, 3, 4), READ(0, 5, 6));
    ALLOWED({true, 1, 1, 2, OUTCOME_UNTIL}, READ(1, 3, 4));
    FORBIDDEN({true, 1, 1, 2, OUTCOME_UNTIL}, READ(0, 3, 4), READ(1, 5, 6));
    FORBIDDEN({true, 1, 1, 2, OUTCOME_UNTIL}, WRITE(2, 3, 4), READ(1, 5, 6));
    FORBIDDEN({true, 1, 1, 2, OUTCOME_NEVER}, READ(1, 3, 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_turn),
        cmocka_unit_test(test_side_by_side),
        cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
