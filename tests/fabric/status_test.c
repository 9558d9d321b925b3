/* Goal: every status has one errno and comes back from it; what is unknown maps to what the header
 * says. Method: all of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/error.h"
#include "fabric/capsule.h"

static void test_round_trip(void **state)
{
    assert_int_equal(sl_status_to_errno(SL_STATUS_OK), 0);
    for (uint16_t status = 0; status < SL_STATUS_LAST; status++) {
        int error = sl_status_to_errno(status);
        assert_true(status == SL_STATUS_OK || error < 0);
        assert_int_equal(sl_status_from_errno(error), status);
        assert_int_equal(sl_status_from_errno(-error), status);
    }
}

static void test_unknown(void **state)
{
    assert_int_equal(sl_status_from_errno(-ENXIO), SL_STATUS_MEDIUM);
    assert_int_equal(sl_status_to_errno(SL_STATUS_LAST), -SL_E_PROTOCOL);
    assert_int_equal(sl_status_to_errno(UINT16_MAX), -SL_E_PROTOCOL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
