/*
 * Goal: who waits for memory gets it, as long as the store has something that it could let go.
 * Method: a simulated disk, little memory, payload that nobody applies by himself.
 */
#include "world.h"

static struct store_world world;

static void start(void)
{
    struct sl_sim_config config = {.seed = 1};
    world_make(&world, &config, 40 * SL_MIB);
    world_format(&world, SL_MIB, 8);
}

/* Who waits for memory is woken when a checkpoint lets go of what it had loaded to move: no batch
 * may become durable afterwards, for which it once waited for ever. */
static void waiting_writer_co(void *argument)
{
    struct store_world *w = argument;
    assert_int_equal(write_ids_co(w, sl_store_group_find(w->store, 1), 0, 0, 4, 1), 0);
    world_leave(w);
}

static void memory_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    w->store->held_bytes += SL_MIB; /* as store_entry_load_co() */
    world_spawn(w, waiting_writer_co, w);
    sl_sleep_co(SL_NS_PER_S);
    assert_true(w->store->statistics.wait_count > 0);
    w->store->held_bytes -= SL_MIB; /* as store_entry_drop_payload() */
    sl_wait_queue_wake_all(&w->store->apply_progress, 0);
    world_join_co(w);
    world_close_co(w);
}

static void test_memory(void **state)
{
    start();
    world.config.overlay_bytes = 64 * SL_KIB;
    world_run(&world, memory_co, NULL);
    world_free(&world);
}

/* A block may keep a buffer of any size: who runs short of memory must get it, as long as what the
 * store holds can be let go. */
static void pinned_co(struct store_world *w)
{
    bool commits = *(bool *)w->argument;
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    for (unsigned i = 0; i < 100; i++) {
        struct sl_iobuf payload;
        sl_iobuf_init(&payload);
        struct sl_buf *buf = sl_buf_alloc_co(w->node.memory, 256 * SL_KIB,
                                             commits ? SL_RESERVE_ADMISSION : SL_RESERVE_INTAKE);
        memset(buf->data, (int)i, SL_BLOCK_BYTES);
        assert_int_equal(sl_iobuf_append_buf(&payload, buf, 0, SL_BLOCK_BYTES), 0);
        sl_buf_unref(buf);
        uint32_t crc = sl_crc32c(0, payload.spans[0].data, SL_BLOCK_BYTES);
        if (commits) {
            assert_int_equal(
                sl_store_write_co(group, SL_ENTRY_WRITE, 0, (uint16_t)i, 1, &payload, &crc), 0);
        } else {
            struct sl_store_wait wait;
            struct sl_store_entry entry = {.index = i + 1,
                                           .term = 1,
                                           .type = SL_ENTRY_WRITE,
                                           .first_block = (uint16_t)i,
                                           .block_count = 1,
                                           .crcs = &crc};
            assert_int_equal(sl_store_prepare_co(group, SL_ENTRY_WRITE, 0, (uint16_t)i, 1), 0);
            sl_store_append(group, &entry, &payload, &wait);
            assert_int_equal(sl_store_durable_co(&wait), 0);
        }
        sl_iobuf_fini(&payload);
    }
    if (!commits)
        assert_int_equal(sl_store_apply_co(group, 100), 0);
    struct sl_buf *buf = sl_buf_alloc_co(w->node.memory, SL_BLOCK_BYTES, SL_RESERVE_CHECKPOINT);
    struct sl_span span = sl_buf_span(buf, 0, SL_BLOCK_BYTES);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(sl_store_read_into_co(group, 0, (uint16_t)i, 1, &span, 1), 0);
        assert_int_equal(buf->data[0], (int)i);
        assert_int_equal(buf->data[SL_BLOCK_BYTES - 1], (int)i);
    }
    sl_buf_unref(buf);
    world_close_co(w);
}

static void test_pinned(void **state)
{
    for (unsigned commits = 0; commits < 2; commits++) {
        bool argument = commits != 0;
        start();
        world_run(&world, pinned_co, &argument);
        world_free(&world);
    }
}

/* A request that waits for memory gets what entries keep that are not committed, for however long
 * that may be: theirs is not its group. */
static bool served;

static void request_co(void *argument)
{
    struct store_world *w = argument;
    struct sl_buf *buf = sl_buf_alloc_co(w->node.memory, 256 * SL_KIB, SL_RESERVE_ADMISSION);
    sl_buf_unref(buf);
    served = true;
    world_leave(w);
}

static void uncommitted_co(struct store_world *w)
{
    struct sl_buf *taken[64];
    unsigned count = 0;
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 3, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    for (unsigned index = 1; index <= 6; index++) {
        struct sl_store_wait wait;
        struct sl_iobuf payload;
        uint32_t crcs[40];
        payload_make_co(w, &payload, index, 40, 1);
        sl_crc32c_blocks(payload.spans[0].data, 40, crcs);
        struct sl_store_entry entry = {
            .index = index, .term = 1, .type = SL_ENTRY_WRITE, .block_count = 40, .crcs = crcs};
        assert_int_equal(sl_store_prepare_co(group, SL_ENTRY_WRITE, 0, 0, 40), 0);
        sl_store_append(group, &entry, &payload, &wait);
        sl_iobuf_fini(&payload);
        assert_int_equal(sl_store_durable_co(&wait), 0);
    }
    while ((taken[count] = sl_buf_alloc(w->node.memory, 256 * SL_KIB, SL_RESERVE_ADMISSION)) !=
           NULL)
        count++;
    assert_false(sl_memory_is_short(w->node.memory, SL_RESERVE_INTAKE));
    assert_true(w->store->held_bytes > 0);
    served = false;
    world_spawn(w, request_co, w);
    sl_sleep_co(10 * SL_NS_PER_S);
    assert_true(served);
    while (count > 0)
        sl_buf_unref(taken[--count]);
    world_join_co(w);
    world_close_co(w);
}

static void test_uncommitted(void **state)
{
    start();
    world_run(&world, uncommitted_co, NULL);
    world_free(&world);
}

/* A new group 3 whose first entry has its payload in the log alone. */
static struct sl_store_group *open_dropped_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 3, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    assert_int_equal(write_ids_co(w, group, 0, 0, 1, 1000), 0);
    store_entry_drop_payload(w->store, store_log_get(group, 1));
    return group;
}

/* All that intake may have, until it is given back. */
static struct sl_buf *taken[4096];
static unsigned taken_count;

static void take_all(struct store_world *w)
{
    struct sl_buf *buf;
    while ((buf = sl_buf_alloc(w->node.memory, SL_BLOCK_BYTES, SL_RESERVE_INTAKE)) != NULL)
        taken[taken_count++] = buf;
}

static void give_back(void)
{
    while (taken_count > 0)
        sl_buf_unref(taken[--taken_count]);
}

/* A reader of the log that waits for memory does not keep checkpoints from getting on; that its
 * entry is gone then is no damage. */
static void reader_co(void *argument)
{
    struct store_world *w = argument;
    struct sl_iobuf payload;
    sl_iobuf_init(&payload);
    int error = sl_store_entry_read_co(sl_store_group_find(w->store, 3), 1, &payload);
    assert_int_equal(error, -ENOENT);
    sl_iobuf_fini(&payload);
    world_leave(w);
}

static void passed_by_co(struct store_world *w)
{
    struct sl_store_group *group = open_dropped_co(w);
    take_all(w);
    world_spawn(w, reader_co, w);
    sl_sleep_co(SL_NS_PER_MS);
    /* Once around: another batch lies where it was. */
    while (w->store->wal.tail_generation < w->store->wal.segment_count + 1) {
        assert_int_equal(sl_store_vote_co(group, group->term + 1, 1), 0);
        assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    }
    assert_null(store_log_get(group, 1));
    give_back();
    world_join_co(w);
    assert_int_equal(w->store->statistics.checksum_error_count, 0);
    world_close_co(w);
}

static void test_passed_by(void **state)
{
    start();
    world_run(&world, passed_by_co, NULL);
    world_free(&world);
}

/* What has to be read from the disk needs memory for that, and only where memory is short does it
 * have to wait for it. */
static void needs_memory_co(struct store_world *w)
{
    struct sl_store_group *group = open_dropped_co(w);
    assert_int_equal(write_ids_co(w, group, 0, 1, 1, 2000), 0);
    assert_int_equal(sl_store_write_co(group, SL_ENTRY_ZERO, 0, 2, 1, NULL, NULL), 0);
    for (unsigned index = 0; index <= 4; index++)
        assert_false(sl_store_entry_needs_memory(group, index));
    take_all(w);
    for (unsigned index = 0; index <= 4; index++)
        assert_int_equal(sl_store_entry_needs_memory(group, index), index == 1);
    give_back();
    world_close_co(w);
}

static void test_needs_memory(void **state)
{
    start();
    world_run(&world, needs_memory_co, NULL);
    world_free(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),       cmocka_unit_test(test_pinned),
        cmocka_unit_test(test_uncommitted),  cmocka_unit_test(test_passed_by),
        cmocka_unit_test(test_needs_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
