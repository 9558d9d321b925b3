/*
 * Goal: a volume's layout maps every byte to one place, and no two volumes share a byte.
 * Method: random servers, stripes and volumes; every stripe's place is marked in a bitmap of each
 * server.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/layout.h"

#define SERVERS 5
#define UNITS   4096 /* of the smallest stripe, a server */

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static void mark_volume(const struct sl_volume *volume, const uint64_t *capacity_bytes,
                        uint8_t used[SERVERS][UNITS])
{
    for (uint64_t offset = 0; offset < volume->size_bytes;) {
        struct sl_extent extent = sl_layout_extent(volume, offset, volume->size_bytes - offset);
        assert_true(extent.length_bytes > 0);
        assert_true(extent.length_bytes <= volume->stripe_bytes);
        assert_true(extent.server_offset_bytes + extent.length_bytes <=
                    capacity_bytes[extent.server]);
        uint64_t first = extent.server_offset_bytes / SL_STRIPE_BYTES_MIN;
        uint64_t last =
            (extent.server_offset_bytes + extent.length_bytes - 1) / SL_STRIPE_BYTES_MIN;
        for (uint64_t unit = first; unit <= last; unit++) {
            assert_int_equal(used[extent.server][unit], 0);
            used[extent.server][unit] = 1;
        }
        /* Any cut inside leads to the same place. */
        struct sl_extent inside = sl_layout_extent(volume, offset + SL_BLOCK_BYTES, SL_BLOCK_BYTES);
        if (extent.length_bytes > SL_BLOCK_BYTES) {
            assert_int_equal(inside.server, extent.server);
            assert_int_equal(inside.server_offset_bytes,
                             extent.server_offset_bytes + SL_BLOCK_BYTES);
        }
        offset += extent.length_bytes;
    }
}

static void test_no_overlap(void **state)
{
    static uint8_t used[SERVERS][UNITS];
    uint64_t random = 1;
    unsigned laid_out = 0, refused = 0;
    for (unsigned round = 0; round < 400; round++) {
        uint64_t capacity_bytes[SERVERS];
        struct sl_volume_spec specs[4];
        static struct sl_volume volumes[4];
        char error[512];
        unsigned count = (unsigned)(1 + next_random(&random) % 4);
        uint32_t stripe = (uint32_t)(SL_STRIPE_BYTES_MIN << next_random(&random) % 5);
        for (unsigned i = 0; i < SERVERS; i++)
            capacity_bytes[i] = (next_random(&random) % UNITS) * SL_STRIPE_BYTES_MIN;
        for (unsigned i = 0; i < count; i++) {
            specs[i] = (struct sl_volume_spec){
                .name = {(char)('a' + i)},
                .size_bytes = next_random(&random) % 3 == 0
                                  ? 0
                                  : (1 + next_random(&random) % 20000) * SL_BLOCK_BYTES,
                .server_bitmap = next_random(&random) % (1 << SERVERS),
            };
        }
        int result = sl_layout_volumes(specs, count, stripe, capacity_bytes, SERVERS, volumes,
                                       error, sizeof(error));
        if (result < 0) {
            assert_int_equal(result, -ENOSPC);
            assert_non_null(strstr(error, "does not fit"));
            refused++;
            continue;
        }
        laid_out++;
        memset(used, 0, sizeof(used));
        for (unsigned i = 0; i < count; i++)
            mark_volume(&volumes[i], capacity_bytes, used);
    }
    assert_true(laid_out > 30);
    assert_true(refused > 30);
}

static void test_default(void **state)
{
    uint64_t capacity_bytes[] = {10 * SL_MIB, 7 * SL_MIB + 4096};
    static struct sl_volume volume;
    char error[512];
    assert_int_equal(
        sl_layout_volumes(NULL, 0, SL_MIB, capacity_bytes, 2, &volume, error, sizeof(error)), 0);
    assert_string_equal(volume.name, "default");
    assert_int_equal(volume.size_bytes, 14 * SL_MIB);
    struct sl_extent extent = sl_layout_extent(&volume, 3 * SL_MIB + 8192, UINT64_MAX);
    assert_int_equal(extent.server, 1);
    assert_int_equal(extent.server_offset_bytes, SL_MIB + 8192);
    assert_int_equal(extent.length_bytes, SL_MIB - 8192);
}

static void test_errors(void **state)
{
    uint64_t capacity_bytes[] = {SL_MIB};
    static struct sl_volume volume;
    char error[512];
    struct sl_volume_spec spec = {.name = "v", .server_bitmap = 2};
    assert_int_equal(
        sl_layout_volumes(&spec, 1, SL_MIB, capacity_bytes, 1, &volume, error, sizeof(error)),
        -EINVAL);
    assert_int_equal(
        sl_layout_volumes(NULL, 0, SL_MIB, capacity_bytes, 0, &volume, error, sizeof(error)),
        -EINVAL);
    spec = (struct sl_volume_spec){.name = "v", .size_bytes = UINT64_MAX / 2};
    assert_int_equal(
        sl_layout_volumes(&spec, 1, SL_MIB, capacity_bytes, 1, &volume, error, sizeof(error)),
        -ENOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_overlap),
        cmocka_unit_test(test_default),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
