/*
 * Goal: a read is put together from wherever its blocks are: buffers of the overlay without a
 * copy, the log, the slot, nowhere; in as few pieces as there are. Method: a simulated disk,
 * blocks in each of these places side by side.
 */
#include "entries.h"

static struct store_world world;

static void start(void)
{
    struct sl_sim_config config = {.seed = 1};
    world_make(&world, &config, 40 * SL_MIB);
    world_format(&world, SL_MIB, 8);
}

/* Answers the number of pieces. `ids`: what each block has to be. */
static unsigned read_co(struct store_world *w, uint16_t first, unsigned count, const uint64_t *ids)
{
    static uint64_t found[SL_ENTRY_BLOCKS_MAX];
    struct sl_iobuf data;
    sl_iobuf_init(&data);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    assert_int_equal(sl_store_read_co(group, 0, first, (uint16_t)count, &data), 0);
    assert_int_equal(data.length_bytes, count * SL_BLOCK_BYTES);
    iobuf_ids(&data, found);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(found[i], ids[i]);
    unsigned pieces = data.span_count;
    for (unsigned i = 0; i < pieces; i++)
        assert_true(data.spans[i].length_bytes > 0);
    sl_iobuf_fini(&data);
    return pieces;
}

static void places_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    /* In slots: 0 to 3, and what is hidden below. */
    assert_int_equal(write_ids_co(w, group, 0, 0, 4, 100), 0);
    assert_int_equal(write_ids_co(w, group, 0, 4, 12, 200), 0);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    /* In memory; in the log alone; zeroes. */
    assert_int_equal(write_ids_co(w, group, 0, 4, 4, 300), 0);
    assert_int_equal(write_ids_co(w, group, 0, 8, 4, 400), 0);
    store_entry_drop_payload(w->store, store_log_get(group, group->log.last));
    assert_int_equal(sl_store_write_co(group, SL_ENTRY_ZERO, 0, 12, 4, NULL, NULL), 0);
    static const uint64_t ids[] = {100, 101, 102, 103, 300, 301, 302, 303, 400, 401,
                                   402, 403, 0,   0,   0,   0,   0,   0,   0,   0};
    assert_int_equal(read_co(w, 0, 20, ids), 3); /* 4 to 7 is shared */
    for (unsigned first = 0; first < 20; first++) {
        for (unsigned count = 1; first + count <= 20; count++)
            (void)read_co(w, (uint16_t)first, count, ids + first);
    }
    world_close_co(w);
}

static void test_places(void **state)
{
    start();
    world_run(&world, places_co, NULL);
    world_free(&world);
}

/* An entry in three buffers: of those that the read does not touch it has nothing. */
static void pieces_co(struct store_world *w)
{
    struct sl_iobuf payload;
    uint64_t ids[12];
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    payload_make_co(w, &payload, 100, 12, 3);
    assert_int_equal(payload.span_count, 3);
    unsigned ends[3] = {0}, blocks = 0;
    for (unsigned i = 0; i < 3; i++)
        ends[i] = blocks += payload.spans[i].length_bytes / SL_BLOCK_BYTES;
    assert_int_equal(sl_store_write_co(group, SL_ENTRY_WRITE, 0, 0, 12, &payload, NULL), 0);
    sl_iobuf_fini(&payload);
    for (unsigned i = 0; i < 12; i++)
        ids[i] = 100 + i;
    for (unsigned first = 0; first < 12; first++) {
        for (unsigned end = first + 1; end <= 12; end++) {
            unsigned pieces = 0;
            for (unsigned i = 0; i < 3; i++)
                pieces += first < ends[i] && end > (i > 0 ? ends[i - 1] : 0);
            assert_int_equal(read_co(w, (uint16_t)first, end - first, ids + first), pieces);
        }
    }
    world_close_co(w);
}

static void test_pieces(void **state)
{
    start();
    world_run(&world, pieces_co, NULL);
    world_free(&world);
}

/* More pieces than a list has: all of it comes from the disk, in one. */
static void many_pieces_co(struct store_world *w)
{
    static uint64_t ids[SL_ENTRY_BLOCKS_MAX];
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    for (unsigned i = 0; i < SL_ENTRY_BLOCKS_MAX; i++) {
        ids[i] = 1000 + i;
        assert_int_equal(write_ids_co(w, group, 0, (uint16_t)i, 1, ids[i]), 0);
    }
    assert_int_equal(read_co(w, 0, 4, ids), 4);
    assert_int_equal(read_co(w, 0, SL_ENTRY_BLOCKS_MAX, ids), 1);
    world_close_co(w);
}

static void test_many_pieces(void **state)
{
    start();
    world_run(&world, many_pieces_co, NULL);
    world_free(&world);
}

/* One block of many that is known to be lost: whoever reads it, among others or alone, is told. */
static void lost_co(struct store_world *w)
{
    struct chunk *chunk;
    uint64_t ids[12];
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    assert_int_equal(write_ids_co(w, group, 0, 0, 12, 100), 0);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    assert_int_equal(chunk_get(group, 0, &chunk), 0);
    assert_int_equal(chunk_use_co(chunk), 0);
    chunk->table->crcs[5] = SL_CRC_DAMAGED;
    for (uint16_t first = 0; first < 12; first++) {
        for (uint16_t end = (uint16_t)(first + 1); end <= 12; end++) {
            bool lost = first <= 5 && end > 5;
            for (unsigned way = 0; way < 4; way++)
                assert_int_equal(read_ids_co(w, group, 0, first, (uint16_t)(end - first), ids),
                                 lost ? -SL_E_CHECKSUM : 0);
        }
    }
    chunk_unuse(chunk);
    world_close_co(w);
}

static void test_lost(void **state)
{
    start();
    world_run(&world, lost_co, NULL);
    world_free(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_many_pieces),
        cmocka_unit_test(test_lost),
    };
    sl_log_set_level(getenv("VERBOSE") != NULL ? SL_LOG_INFO : SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
