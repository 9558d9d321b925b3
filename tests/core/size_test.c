/* Goal: sizes and durations are read as people write them, and nothing else is; what is printed is
 * short and reads back. Method: tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "core/size.h"

struct reading {
    const char *text;
    int error;
    uint64_t value;
};

static void check(const struct reading *table, size_t count,
                  int (*parse)(const char *text, uint64_t *value))
{
    for (size_t i = 0; i < count; i++) {
        uint64_t value = 77;
        int error = parse(table[i].text, &value);
        if (error != table[i].error || value != (error == 0 ? table[i].value : 77))
            fail_msg("'%s': error %d, value %llu", table[i].text, error, (unsigned long long)value);
    }
}

static void test_size_parse(void **state)
{
    static const struct reading table[] = {
        {"0", 0, 0},
        {"4096", 0, 4096},
        {"512B", 0, 512},
        {"4K", 0, 4096},
        {"4k", 0, 4096},
        {"4KiB", 0, 4096},
        {"4kib", 0, 4096},
        {"1.5G", 0, 1610612736},
        {"2M", 0, 2 * SL_MIB},
        {"3TiB", 0, 3 * 1024 * SL_GIB},
        {".5K", 0, 512},
        {"9007199254740993", 0, UINT64_C(9007199254740993)},
        {"18446744073709551615", 0, UINT64_MAX},
        {"9000000T", 0, UINT64_C(9000000) << 40},
        {"2PiB", 0, UINT64_C(2) << 50},
        {"8EiB", 0, UINT64_C(8) << 60},
        {"1E", 0, UINT64_C(1) << 60},
        {"1e3", 0, 1000},
        {"16E", -ERANGE, 0},
        {"18446744073709551616", -ERANGE, 0},
        {"99999999999T", -ERANGE, 0},
        {"", -EINVAL, 0},
        {"K", -EINVAL, 0},
        {".", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {"+1", -EINVAL, 0},
        {" 1", -EINVAL, 0},
        {"1 ", -EINVAL, 0},
        {"4 K", -EINVAL, 0},
        {"4KB", -EINVAL, 0},
        {"4MB", -EINVAL, 0},
        {"4X", -EINVAL, 0},
        {"0x1000", -EINVAL, 0},
        {"nan", -EINVAL, 0},
        {"inf", -EINVAL, 0},
        {"1.2.3", -EINVAL, 0},
    };
    check(table, SL_COUNT_OF(table), sl_size_parse);
}

static void test_duration_parse(void **state)
{
    static const struct reading table[] = {
        {"0", 0, 0},
        {"30", 0, 30 * SL_NS_PER_S},
        {"30s", 0, 30 * SL_NS_PER_S},
        {"750ns", 0, 750},
        {"250us", 0, 250000},
        {"1.5ms", 0, 1500000},
        {"0.1", 0, 100000000},
        {"2min", 0, 120 * SL_NS_PER_S},
        {"1h", 0, 3600 * SL_NS_PER_S},
        {"5000000h", 0, UINT64_C(5000000) * 3600 * SL_NS_PER_S},
        {"6000000h", -ERANGE, 0},
        {"99999999999999999999999", -ERANGE, 0},
        {"", -EINVAL, 0},
        {"5m", -EINVAL, 0},
        {"5 s", -EINVAL, 0},
        {"-5s", -EINVAL, 0},
        {"s", -EINVAL, 0},
        {"1d", -EINVAL, 0},
    };
    check(table, SL_COUNT_OF(table), sl_duration_parse);
}

static void expect(void (*format)(uint64_t value, char *text, size_t bytes), uint64_t value,
                   const char *expected)
{
    char text[32];
    format(value, text, sizeof(text));
    assert_string_equal(text, expected);
}

static void test_format(void **state)
{
    expect(sl_size_format, 0, "0 B");
    expect(sl_size_format, 1023, "1023 B");
    expect(sl_size_format, 4096, "4 KiB");
    expect(sl_size_format, 1610612736, "1.50 GiB");
    expect(sl_size_format, 100 * SL_MIB + SL_MIB / 2, "100.5 MiB");
    expect(sl_size_format, UINT64_C(1) << 60, "1 EiB");
    expect(sl_duration_format, 0, "0 ns");
    expect(sl_duration_format, 750, "750 ns");
    expect(sl_duration_format, 12300, "12.3 us");
    expect(sl_duration_format, 1500000000, "1.50 s");
    expect(sl_duration_format, 7200 * SL_NS_PER_S, "7200 s");
    char small[4];
    sl_size_format(123456, small, sizeof(small)); /* cut, never overrun */
    assert_string_equal(small, "120");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size_parse),
        cmocka_unit_test(test_duration_parse),
        cmocka_unit_test(test_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
