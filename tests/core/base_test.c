/* Goal: the small things: arithmetic, lists, names of errors. Method: cases, and a list beside an
 * array. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <string.h>

#include "core/base.h"
#include "core/error.h"
#include "core/list.h"

static void test_arithmetic(void **state)
{
    assert_false(sl_is_power_of_two(0));
    assert_true(sl_is_power_of_two(1));
    assert_true(sl_is_power_of_two(UINT64_C(1) << 63));
    assert_false(sl_is_power_of_two(UINT64_MAX));
    assert_int_equal(sl_align_down(4097, 4096), 4096);
    assert_int_equal(sl_align_up(4097, 4096), 8192);
    assert_int_equal(sl_align_up(4096, 4096), 4096);
    assert_int_equal(sl_align_up(0, 4096), 0);
    assert_true(sl_is_aligned(0, 8));
    assert_false(sl_is_aligned(12, 8));
}

static unsigned calls;

static unsigned next_call(void)
{
    return ++calls;
}

/* The clock of comch's client was read twice in sl_min(): the second time it had passed the limit
 * that the first was below. */
static void test_min_evaluates_once(void **state)
{
    calls = 0;
    assert_int_equal(sl_min(next_call(), 10u), 1);
    assert_int_equal(sl_max(0u, next_call()), 2);
    assert_int_equal(sl_min(sl_max(next_call(), 1u), sl_min(next_call(), 9u)), 3);
    assert_int_equal(calls, 4);
    assert_int_equal(sl_min(1, 1), 1);
    assert_true(sl_max(-1.5, 0.5) == 0.5);
}

struct item {
    int value;
    struct sl_list node;
};

static void expect(struct sl_list *list, const char *values)
{
    char seen[32] = "";
    size_t length = 0;
    sl_list_for_each(node, list)
    {
        seen[length++] = (char)sl_list_entry(node, struct item, node)->value;
    }
    assert_string_equal(seen, values);
    length = strlen(values); /* and backwards */
    for (struct sl_list *node = list->previous; node != list; node = node->previous)
        assert_int_equal(sl_list_entry(node, struct item, node)->value, values[--length]);
    assert_int_equal(length, 0);
}

static void test_list(void **state)
{
    struct sl_list list, other;
    struct item items[6];
    sl_list_init(&list);
    sl_list_init(&other);
    for (int i = 0; i < 6; i++)
        items[i].value = 'a' + i;
    assert_null(sl_list_pop(&list));
    assert_null(sl_list_first(&list));
    sl_list_append(&list, &items[1].node);
    sl_list_append(&list, &items[2].node);
    sl_list_prepend(&list, &items[0].node);
    expect(&list, "abc");
    sl_list_splice(&list, &other); /* of nothing */
    sl_list_append(&other, &items[3].node);
    sl_list_append(&other, &items[4].node);
    sl_list_splice(&list, &other);
    expect(&list, "abcde");
    assert_true(sl_list_is_empty(&other));
    sl_list_insert_before(&items[2].node, &items[5].node);
    expect(&list, "abfcde");
    sl_list_for_each(node, &list)
    {
        if (sl_list_entry(node, struct item, node)->value == 'f')
            sl_list_remove(node);
    }
    sl_list_remove(&items[5].node); /* twice is harmless */
    expect(&list, "abcde");
    assert_ptr_equal(sl_list_pop(&list), &items[0].node);
    expect(&list, "bcde");
}

static void test_errors(void **state)
{
    assert_string_equal(sl_error_name(-ENOSPC), "ENOSPC");
    assert_string_equal(sl_error_name(ENOSPC), "ENOSPC");
    assert_string_equal(sl_error_text(-ENOSPC), "No space left on device");
    assert_string_equal(sl_error_name(-SL_E_KEY), "SL_E_KEY");
    for (int error = SL_E_CHECKSUM; error < SL_E_LAST; error++) { /* each has both */
        assert_non_null(sl_error_name(-error));
        assert_memory_equal(sl_error_name(error), "SL_E_", 5);
        assert_true(strlen(sl_error_text(-error)) > 5);
    }
    assert_string_equal(sl_error_name(SL_E_LAST), "unknown error");
    assert_string_equal(sl_error_text(-4000), "unknown error");
    assert_string_equal(sl_error_name(INT_MIN), "unknown error");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arithmetic),
        cmocka_unit_test(test_min_evaluates_once),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
