/*
 * Goal: CRC32C is the one of RFC 3720, at every length and alignment, in one piece or in many.
 * Method: the vectors of RFC 3720 §B.4, and a bit-by-bit calculation beside it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/crc32c.h"
#include "engines.h"

static uint32_t slow_crc32c(const uint8_t *bytes, size_t length)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ UINT32_C(0x82f63b78) : crc >> 1;
    }
    return ~crc;
}

static void test_vectors(void **state)
{
    uint8_t bytes[48];
    assert_int_equal(sl_crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(sl_crc32c(0, "", 0), 0);
    memset(bytes, 0, 32);
    assert_int_equal(sl_crc32c(0, bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, 32);
    assert_int_equal(sl_crc32c(0, bytes, 32), 0x62a8ab43);
    for (unsigned i = 0; i < 32; i++)
        bytes[i] = (uint8_t)i;
    assert_int_equal(sl_crc32c(0, bytes, 32), 0x46dd794e);
    for (unsigned i = 0; i < 32; i++)
        bytes[i] = (uint8_t)(31 - i);
    assert_int_equal(sl_crc32c(0, bytes, 32), 0x113fdb5c);
    static const uint8_t read_command[48] = {
        [0] = 0x01,  [1] = 0xc0,  [16] = 0x14, [22] = 0x04,
        [27] = 0x14, [31] = 0x18, [32] = 0x28, [40] = 0x02,
    };
    assert_int_equal(sl_crc32c(0, read_command, 48), 0xd9963a56);
}

static uint8_t buffer[4 * SL_BLOCK_BYTES];

static void test_every_length_and_alignment(void **state)
{
    uint64_t random = 3;
    for (size_t i = 0; i < sizeof(buffer); i++)
        buffer[i] = (uint8_t)test_random(&random);
    for (size_t offset = 0; offset < 16; offset++) {
        for (size_t length = 0; length < 600; length += 1 + offset % 3)
            assert_int_equal(sl_crc32c(0, buffer + offset, length),
                             slow_crc32c(buffer + offset, length));
    }
    assert_int_equal(sl_crc32c(0, buffer, sizeof(buffer)), slow_crc32c(buffer, sizeof(buffer)));
}

static void test_pieces(void **state)
{
    uint64_t random = 9;
    uint32_t whole = sl_crc32c(0, buffer, sizeof(buffer));
    for (unsigned round = 0; round < 100; round++) {
        uint32_t crc = 0;
        for (size_t at = 0; at < sizeof(buffer);) {
            size_t step = (size_t)(test_random(&random) % 5000);
            step = sl_min(step, sizeof(buffer) - at);
            crc = sl_crc32c(crc, buffer + at, step);
            at += step;
        }
        assert_int_equal(crc, whole);
    }
}

static void test_blocks(void **state)
{
    uint32_t crcs[5] = {0, 0, 0, 0, 0xabad1dea};
    memset(buffer + SL_BLOCK_BYTES, 0, SL_BLOCK_BYTES);
    sl_crc32c_blocks(buffer, 4, crcs);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(crcs[i], slow_crc32c(buffer + i * SL_BLOCK_BYTES, SL_BLOCK_BYTES));
    assert_int_equal(crcs[1], SL_CRC32C_ZERO_BLOCK);
    assert_int_equal(crcs[4], 0xabad1dea);
    sl_crc32c_blocks(buffer, 0, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_every_length_and_alignment),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
