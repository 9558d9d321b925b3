/*
 * Goal: what comes from another copy of the group is never older than what was here, nor another
 * version than the one that is known to be lost. Method: a simulated disk, regions and blocks given
 * by hand, one script a test.
 */
#include "entries.h"

#define LOST  5u
#define STATE 200u

static struct store_world world;

/* Region 0 as of STATE, ids from 1 on; block LOST is lost there, and `crc` known of it. */
static struct sl_store_group *begin_co(struct store_world *w, uint32_t crc)
{
    struct sl_iobuf data;
    uint32_t crcs[SL_REGION_BLOCKS];
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    payload_make_co(w, &data, 1, SL_REGION_BLOCKS, 1);
    memset(data.spans[0].data + LOST * SL_BLOCK_BYTES, 0xee, SL_BLOCK_BYTES);
    sl_crc32c_blocks(data.spans[0].data, SL_REGION_BLOCKS, crcs);
    crcs[LOST] = crc;
    assert_int_equal(sl_store_region_put_co(group, 0, 0, STATE, &data, crcs, UINT64_C(1) << LOST),
                     0);
    sl_iobuf_fini(&data);
    return group;
}

static int give_co(struct store_world *w, struct sl_store_group *group, uint64_t id, uint64_t index)
{
    struct sl_iobuf data;
    payload_make_co(w, &data, id, 1, 1);
    uint32_t crc = sl_crc32c(0, data.spans[0].data, SL_BLOCK_BYTES);
    int error = sl_store_block_repair_co(group, 0, LOST, data.owners[0], 0, crc, index);
    sl_iobuf_fini(&data);
    return error;
}

static void expect_co(struct store_world *w, struct sl_store_group *group, int error, uint64_t id)
{
    uint64_t found = 0;
    for (unsigned i = 0; i < SL_REGION_BLOCKS; i++) {
        assert_int_equal(read_ids_co(w, group, 0, (uint16_t)i, 1, &found), i == LOST ? error : 0);
        if (i != LOST || error == 0)
            assert_int_equal(found, i == LOST ? id : i + 1);
    }
}

static void end_co(struct store_world *w, struct sl_store_group *group, uint64_t id)
{
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    expect_co(w, group, 0, id);
    world_close_co(w);
}

/* A copy was asked for when the group was at 100; then the state at 200 was taken over, in which
 * the block is lost. */
static void older_co(struct store_world *w)
{
    struct sl_store_group *group = begin_co(w, SL_CRC_DAMAGED);
    expect_co(w, group, -SL_E_CHECKSUM, 0);
    assert_int_equal(give_co(w, group, 1000, STATE - 1), -ESTALE);
    expect_co(w, group, -SL_E_CHECKSUM, 0);
    assert_int_equal(give_co(w, group, 2000, STATE), 0);
    end_co(w, group, 2000);
}

/* Known: then no other version is taken, however new, and that one is whoever gives it. */
static void another_co(struct store_world *w)
{
    static uint8_t block[SL_BLOCK_BYTES];
    block_fill(block, 2000);
    struct sl_store_group *group = begin_co(w, sl_crc32c(0, block, sizeof(block)));
    expect_co(w, group, -SL_E_CHECKSUM, 0);
    assert_int_equal(give_co(w, group, 1000, STATE + 1), -ESTALE);
    expect_co(w, group, -SL_E_CHECKSUM, 0);
    assert_int_equal(give_co(w, group, 2000, STATE - 1), 0);
    end_co(w, group, 2000);
}

/* No CRC makes a lost block one that reads as zeroes. */
static void absent_co(struct store_world *w)
{
    struct sl_store_group *group = begin_co(w, SL_CRC_ABSENT);
    expect_co(w, group, -SL_E_CHECKSUM, 0);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    expect_co(w, group, -SL_E_CHECKSUM, 0);
    world_close_co(w);
}

static uint32_t stored_crc(uint64_t id)
{
    static uint8_t block[SL_BLOCK_BYTES];
    block_fill(block, id);
    return sl_crc_stored(sl_crc32c(0, block, sizeof(block)));
}

static int replace_co(struct store_world *w, struct sl_store_group *group, uint32_t chunk,
                      unsigned block, uint32_t wrong, uint64_t id, uint64_t index)
{
    struct sl_iobuf data;
    payload_make_co(w, &data, id, 1, 1);
    uint32_t crc = sl_crc32c(0, data.spans[0].data, SL_BLOCK_BYTES);
    int error =
        sl_store_block_replace_co(group, chunk, block, wrong, data.owners[0], 0, crc, index);
    sl_iobuf_fini(&data);
    return error;
}

/* A block that can be read, and is wrong: it stays if anything about it has changed since. */
static void replaced_co(struct store_world *w)
{
    struct sl_store_group *group = begin_co(w, SL_CRC_DAMAGED);
    uint32_t zeroes = sl_crc_stored(SL_CRC32C_ZERO_BLOCK), here = stored_crc(2000);
    uint64_t found = 0;
    assert_int_equal(give_co(w, group, 2000, STATE), 0);
    assert_int_equal(replace_co(w, group, 0, LOST, stored_crc(1000), 3000, STATE), -ESTALE);
    assert_int_equal(replace_co(w, group, 0, LOST, here, 2000, STATE), -ESTALE);
    assert_int_equal(replace_co(w, group, 0, LOST, here, 3000, STATE - 1), -ESTALE);
    assert_int_equal(replace_co(w, group, 0, SL_CHUNK_BLOCKS, here, 3000, STATE), -EINVAL);
    expect_co(w, group, 0, 2000);
    assert_int_equal(replace_co(w, group, 0, LOST, here, 3000, STATE), 0);
    expect_co(w, group, 0, 3000);
    /* Nothing was ever written there, by what is here. */
    assert_int_equal(replace_co(w, group, 1, LOST, here, 4000, STATE), -ESTALE);
    assert_int_equal(replace_co(w, group, 1, LOST, zeroes, 4000, STATE), 0);
    assert_int_equal(read_ids_co(w, group, 1, LOST, 1, &found), 0);
    assert_int_equal(found, 4000);
    end_co(w, group, 3000);
}

/* One that stands in the log alone has no slot yet. */
static void replaced_later_co(struct store_world *w)
{
    struct sl_store_group *group, *other;
    uint64_t found = 0;
    world_open_groups_co(w, &group, &other);
    world_append_co(w, group, 1, 1, SL_ENTRY_WRITE, 10);
    assert_int_equal(sl_store_apply_co(group, 1), 0);
    assert_int_equal(replace_co(w, group, 0, 8, stored_crc(10), 3000, 1), -EBUSY);
    assert_int_equal(read_ids_co(w, group, 0, 8, 1, &found), 0);
    assert_int_equal(found, 10);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    assert_int_equal(replace_co(w, group, 0, 8, stored_crc(10), 3000, 1), 0);
    assert_int_equal(read_ids_co(w, group, 0, 8, 1, &found), 0);
    assert_int_equal(found, 3000);
    world_close_co(w);
}

static void run(void (*body_co)(struct store_world *world))
{
    struct sl_sim_config config = {.seed = 1};
    world_make(&world, &config, 40 * SL_MIB);
    world_format(&world, SL_MIB, 8);
    world_run(&world, body_co, NULL);
    world_free(&world);
}

static void test_older(void **state)
{
    run(older_co);
}

static void test_another(void **state)
{
    run(another_co);
}

static void test_absent(void **state)
{
    run(absent_co);
}

static void test_replaced(void **state)
{
    run(replaced_co);
}

static void test_replaced_later(void **state)
{
    run(replaced_later_co);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_older),          cmocka_unit_test(test_another),
        cmocka_unit_test(test_absent),         cmocka_unit_test(test_replaced),
        cmocka_unit_test(test_replaced_later),
    };
    sl_log_set_level(getenv("VERBOSE") != NULL ? SL_LOG_INFO : SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
