/*
 * Goal: what a checkpoint must leave in the log stays readable, and what it may not lose is there
 * after a crash: what is held for a reader, what is moved. Method: a simulated disk, one script a
 * test.
 */
#include "entries.h"

#define DISK_BYTES (40 * SL_MIB)

static struct store_world world;

static void checkpointed_co(struct store_world *w)
{
    while (w->store->checkpoint_running)
        sl_sleep_co(SL_NS_PER_MS);
}

/* Writes `blocks` at a time, until a checkpoint has moved what it found in its way. */
static void move_co(struct store_world *w, struct sl_store_group *other, uint16_t blocks)
{
    for (unsigned i = 0; w->store->statistics.rewritten_count == 0; i++)
        assert_int_equal(write_ids_co(w, other, 0, 0, blocks, 1000 * (i + 1)), 0);
    checkpointed_co(w);
}

/* One life after another, of a disk with a log of `segments` of 1 MiB. `again_co`: NULL, or the
 * second one. */
static void live(unsigned segments, void (*first_co)(struct store_world *),
                 void (*again_co)(struct store_world *), void *argument)
{
    struct sl_sim_config config = {.seed = 1};
    world_make(&world, &config, DISK_BYTES);
    world_format(&world, SL_MIB, segments);
    world_run(&world, first_co, argument);
    if (again_co != NULL)
        world_run(&world, again_co, argument);
    world_free(&world);
}

/* What is held for a reader stays, all of it, and is there after a crash: also where its first
 * entries were moved in front of those behind them, since they were not committed then. */
static void held_co(struct store_world *w)
{
    struct sl_store_group *group, *other;
    world_open_groups_co(w, &group, &other);
    for (unsigned index = 1; index <= 6; index++) {
        if (index == 4)
            wal_roll(w->store);
        world_append_co(w, group, index, 1, SL_ENTRY_WRITE, 10 * index);
    }
    move_co(w, other, 40);
    assert_true(store_log_get(group, 1)->generation > store_log_get(group, 4)->generation);
    assert_int_equal(sl_store_apply_co(group, 6), 0);
    sl_store_hold(group, 0, false);
    uint64_t number = w->store->checkpoint_number;
    w->store->checkpoint_wanted = true;
    checkpoint_kick(w->store);
    while (w->store->checkpoint_number == number)
        sl_sleep_co(SL_NS_PER_MS);
    assert_int_equal(group->held, 0);
    for (unsigned index = 1; index <= 6; index++) {
        const struct entry *entry = store_log_get(group, index);
        assert_non_null(entry);
        assert_true(entry->generation >= w->store->wal.tail_generation);
    }
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

/* A hold that comes when a checkpoint has chosen its cut does not keep it from applying what lies
 * in front of that. */
static void held_late_co(struct store_world *w)
{
    struct sl_store_wait wait;
    struct sl_iobuf payload;
    uint32_t crcs[2];
    struct sl_store_group *group, *other;
    world_open_groups_co(w, &group, &other);
    world_append_all_co(w, group, 1, 6);
    assert_int_equal(sl_store_apply_co(group, 6), 0);
    /* The checkpoint waits for this one. */
    payload_make_co(w, &payload, 1, 2, 1);
    sl_crc32c_blocks(payload.spans[0].data, 2, crcs);
    struct sl_store_entry entry = {
        .index = 1, .term = 1, .type = SL_ENTRY_WRITE, .block_count = 2, .crcs = crcs};
    assert_int_equal(sl_store_prepare_co(other, SL_ENTRY_WRITE, 0, 0, 2), 0);
    sl_store_append(other, &entry, &payload, &wait);
    sl_iobuf_fini(&payload);
    sl_sleep_co(1);
    w->store->checkpoint_wanted = w->store->checkpoint_all = true;
    checkpoint_kick(w->store);
    sl_sleep_co(1);
    assert_true(w->store->checkpoint_running && !w->store->apply_forced);
    sl_store_hold(group, 0, false);
    assert_int_equal(sl_store_durable_co(&wait), 0);
    checkpointed_co(w);
    assert_true(w->store->checkpoint_number > 0);
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void held_again_co(struct store_world *w)
{
    struct sl_store_group_status status;
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    sl_store_group_status(group, &status);
    assert_int_equal(status.faulty_first, 0);
    assert_int_equal(status.last_index, 6);
    if (w->argument != NULL)
        assert_int_equal(status.boundary_index, 0);
    assert_int_equal(sl_store_apply_co(group, 6), 0);
    uint64_t ids[2];
    assert_int_equal(read_ids_co(w, group, 0, 8, 2, ids), 0);
    assert_int_equal(ids[0], 60);
    world_close_co(w);
}

static void test_held(void **state)
{
    live(20, held_co, held_again_co, &world); /* not late */
    live(20, held_late_co, held_again_co, NULL);
}

/* A reader for whom writers wait, and who does not get on: no writer waits for more than a second,
 * and once most of the log is in use nobody waits any more. */
static void waits_a_second_co(struct store_world *w)
{
    struct sl_store_group *group, *other;
    uint64_t slowest_ns = 0;
    world_open_groups_co(w, &group, &other);
    sl_store_hold(group, 0, true);
    for (unsigned index = 1; group->held == 0; index++) {
        uint64_t begin_ns = sl_reactor_clock_ns(w->store->reactor);
        wal_roll(w->store); /* a segment each */
        world_append_co(w, group, index, 1, SL_ENTRY_WRITE, 10 * index);
        assert_int_equal(sl_store_apply_co(group, index), 0);
        slowest_ns = sl_max(slowest_ns, sl_reactor_clock_ns(w->store->reactor) - begin_ns);
        assert_true(index < 20);
    }
    assert_true(slowest_ns >= SL_NS_PER_S);
    assert_true(slowest_ns < SL_NS_PER_S + SL_NS_PER_S / 10);
    world_close_co(w);
}

static void test_waits_a_second(void **state)
{
    live(20, waits_a_second_co, NULL, NULL);
}

/* What a checkpoint has loaded to move it stays until it is moved, whoever is short of memory: one
 * by one, with a header each, it would take more of the log than it frees. */
static bool kicking;

static void kick_co(void *argument)
{
    struct store_world *w = argument;
    while (kicking) {
        appliers_kick(w->store);
        sl_sleep_co(20 * SL_NS_PER_US);
    }
    world_leave(w);
}

static void moved_co(struct store_world *w)
{
    struct sl_buf *taken[64];
    unsigned count = 0, together = 0;
    struct sl_store_group *group, *other;
    world_open_groups_co(w, &group, &other);
    world_append_all_co(w, group, 1, 40);
    assert_true(store_spill(w->store));
    while ((taken[count] = sl_buf_alloc(w->node.memory, 256 * SL_KIB, SL_RESERVE_INTAKE)) != NULL)
        count++;
    kicking = true;
    world_spawn(w, kick_co, w);
    move_co(w, other, 2);
    kicking = false;
    world_join_co(w);
    assert_int_equal(w->store->statistics.rewritten_count, 40);
    for (unsigned index = 1; index < 40; index++) {
        const struct entry *entry = store_log_get(group, index);
        const struct entry *next = store_log_get(group, index + 1);
        together += next->generation == entry->generation && next->position == entry->position + 2;
    }
    assert_true(together > 30);
    while (count > 0)
        sl_buf_unref(taken[--count]);
    world_close_co(w);
}

static void test_moved(void **state)
{
    live(10, moved_co, NULL, NULL);
}

/* One that turns out to be damaged when it is to be moved does not keep the others from that. */
static void moved_damaged_co(struct store_world *w)
{
    struct sl_store_group *group, *other;
    world_open_groups_co(w, &group, &other);
    world_append_all_co(w, group, 1, 5);
    assert_true(store_spill(w->store));
    const struct entry *damaged = store_log_get(group, 3);
    sl_sim_disk_data(w->sim, NODE, DISK)[store_entry_offset(w->store, damaged) + 100] ^= 4;
    move_co(w, other, 40);
    assert_int_equal(w->store->statistics.rewritten_count, 4);
    assert_int_equal(w->store->checkpoint_number, w->store->statistics.checkpoint_count);
    for (unsigned index = 1; index <= 5; index++) {
        const struct entry *entry = store_log_get(group, index);
        assert_int_equal((entry->flags & SL_ENTRY_FAULTY) != 0, index == 3);
        assert_true(index == 3 || entry->generation >= w->store->wal.tail_generation);
    }
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void moved_damaged_again_co(struct store_world *w)
{
    struct sl_store_group_status status;
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    sl_store_group_status(group, &status);
    assert_int_equal(status.faulty_first, 3);
    assert_int_equal(status.last_index, 5);
    for (unsigned index = 1; index <= 5; index++) {
        struct sl_iobuf payload;
        sl_iobuf_init(&payload);
        assert_int_equal(sl_store_entry_read_co(group, index, &payload),
                         index == 3 ? -SL_E_CHECKSUM : 0);
        assert_true(index == 3 || block_id(payload.spans[0].data) == 10 * index);
        sl_iobuf_fini(&payload);
    }
    world_close_co(w);
}

static void test_moved_damaged(void **state)
{
    live(10, moved_damaged_co, moved_damaged_again_co, NULL);
}

/* What is cut off while it is read to be moved is not written behind the cut: there it would be
 * back. */
static void cut_co(void *argument)
{
    struct store_world *w = argument;
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    while ((store_log_get(group, 5)->flags & SL_ENTRY_MOVING) == 0)
        sl_sleep_co(20 * SL_NS_PER_US);
    assert_int_equal(sl_store_truncate_co(group, 3), 0);
    world_leave(w);
}

static void moved_cut_co(struct store_world *w)
{
    struct sl_store_group *group, *other;
    world_open_groups_co(w, &group, &other);
    world_append_all_co(w, group, 1, 5);
    assert_true(store_spill(w->store));
    struct sl_sim_disk_faults *faults = sl_sim_disk_faults(w->sim, NODE, DISK);
    faults->begin_bytes = store_entry_offset(w->store, store_log_get(group, 5));
    faults->end_bytes = faults->begin_bytes + 2 * SL_BLOCK_BYTES;
    faults->stuck_per_million = 1000000;
    faults->stuck_ns = 50 * SL_NS_PER_MS;
    world_spawn(w, cut_co, w);
    move_co(w, other, 40);
    world_join_co(w);
    assert_int_equal(w->store->statistics.rewritten_count, 2);
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void moved_cut_again_co(struct store_world *w)
{
    struct sl_store_group_status status;
    assert_int_equal(world_open_co(w), 0);
    sl_store_group_status(sl_store_group_find(w->store, 3), &status);
    assert_int_equal(status.last_index, 2);
    assert_int_equal(status.faulty_first, 0);
    world_close_co(w);
}

static void test_moved_cut(void **state)
{
    live(10, moved_cut_co, moved_cut_again_co, NULL);
}

/* A deleted group's number is free only when the log has nothing of it any more: its old entries
 * would come to the new one. */
static uint64_t deleted; /* in this generation */

static void stays_deleted_co(struct store_world *w)
{
    struct wal *wal = &w->store->wal;
    struct sl_store_group *other = sl_store_group_find(w->store, 4);
    assert_null(sl_store_group_find(w->store, 3));
    while (wal->tail_generation <= deleted) {
        assert_int_equal(sl_store_group_create_co(w->store, 3, 0, 0), -EEXIST);
        assert_int_equal(sl_store_vote_co(other, other->term + 1, 1), 0);
        wal_roll(w->store);
        w->store->checkpoint_wanted = true;
        checkpoint_kick(w->store);
        sl_sleep_co(SL_NS_PER_MS);
        checkpointed_co(w);
    }
    assert_int_equal(wal->tail_generation, deleted + 1);
    assert_int_equal(sl_store_group_create_co(w->store, 3, 0, 0), 0);
    world_close_co(w);
}

static void deleted_co(struct store_world *w)
{
    struct sl_store_group *group, *other;
    world_open_groups_co(w, &group, &other);
    world_append_all_co(w, group, 1, 3);
    assert_int_equal(sl_store_group_delete_co(group), 0);
    deleted = w->store->wal.head_generation;
    if (w->argument == NULL) {
        stays_deleted_co(w);
    } else {
        sl_sim_disk_crash(w->sim, NODE, DISK);
        world_close_co(w);
    }
}

static void deleted_again_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    stays_deleted_co(w);
}

static void test_deleted(void **state)
{
    live(10, deleted_co, NULL, NULL);
    live(10, deleted_co, deleted_again_co, &world); /* with a crash between */
}

/* ---- the end of a store whose log is full ---- */

static int fill_error;
static uint64_t fill_index;

/* Entries that nobody commits, until there is no room for another. */
static void fill_co(void *argument)
{
    struct store_world *w = argument;
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    for (fill_index = 0;; fill_index++) {
        struct sl_store_wait wait;
        struct sl_iobuf payload;
        uint32_t crcs[40];
        fill_error = sl_store_prepare_co(group, SL_ENTRY_WRITE, 0, 0, 40);
        if (fill_error < 0)
            break;
        payload_make_co(w, &payload, fill_index, 40, 1);
        sl_crc32c_blocks(payload.spans[0].data, 40, crcs);
        struct sl_store_entry entry = {.index = fill_index + 1,
                                       .term = 1,
                                       .type = SL_ENTRY_WRITE,
                                       .block_count = 40,
                                       .crcs = crcs};
        sl_store_append(group, &entry, &payload, &wait);
        sl_iobuf_fini(&payload);
        assert_int_equal(sl_store_durable_co(&wait), 0);
    }
    world_leave(w);
}

static void stopped_full_co(struct store_world *w)
{
    struct sl_store_group *group, *other;
    world_open_groups_co(w, &group, &other);
    fill_error = 0;
    world_spawn(w, fill_co, w);
    sl_sleep_co(300 * SL_NS_PER_MS);
    assert_true(fill_index > 10 && fill_error == 0);
    assert_true(w->store->wal.waiter_count > 0);
    sl_store_stop(w->store);
    sl_sleep_co(100 * SL_NS_PER_MS);
    assert_int_equal(fill_error, -ESHUTDOWN);
    world_join_co(w);
    assert_int_equal(sl_store_prepare_co(other, SL_ENTRY_NOOP, 0, 0, 0), -ESHUTDOWN);
    assert_int_equal(sl_store_vote_co(other, 5, 1), 0);
    world_close_co(w);
}

static void stopped_full_again_co(struct store_world *w)
{
    struct sl_store_group_status status;
    assert_int_equal(world_open_co(w), 0);
    sl_store_group_status(sl_store_group_find(w->store, 3), &status);
    assert_int_equal(status.last_index, fill_index);
    assert_int_equal(status.faulty_first, 0);
    sl_store_group_status(sl_store_group_find(w->store, 4), &status);
    assert_int_equal(status.term, 5);
    world_close_co(w);
}

/* A target that was told to end waited for room in its log: for ever, if nothing freed any. */
static void test_stopped_full(void **state)
{
    live(10, stopped_full_co, stopped_full_again_co, NULL);
}

/* ---- a batch as long as they get ---- */

static void append_blocks_co(struct store_world *w, uint64_t index, uint16_t blocks)
{
    static uint32_t crcs[SL_ENTRY_BLOCKS_MAX];
    static struct sl_store_wait waits[3];
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    struct sl_iobuf payload;
    payload_make_co(w, &payload, 1000 * index, blocks, 1);
    sl_crc32c_blocks(payload.spans[0].data, blocks, crcs);
    struct sl_store_entry entry = {
        .index = index, .term = 1, .type = SL_ENTRY_WRITE, .block_count = blocks, .crcs = crcs};
    assert_int_equal(sl_store_prepare_co(group, SL_ENTRY_WRITE, 0, 0, blocks), 0);
    sl_store_append(group, &entry, &payload, &waits[index]);
    sl_iobuf_fini(&payload);
}

static void long_batch_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 3, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    struct wal *wal = &w->store->wal;
    wal->writer_count += SL_WAL_WRITERS_MAX; /* all are busy */
    wal->flight_count += SL_WAL_WRITERS_MAX;
    append_blocks_co(w, 1, SL_ENTRY_BLOCKS_MAX);
    append_blocks_co(w, 2, SL_WAL_BATCH_BLOCKS_MAX - SL_ENTRY_BLOCKS_MAX - 1);
    wal->flight_count -= SL_WAL_WRITERS_MAX;
    wal->writer_count -= SL_WAL_WRITERS_MAX;
    assert_int_equal(sl_store_vote_co(group, 1, 1), 0);
    assert_int_equal(store_log_get(group, 2)->position,
                     store_log_get(group, 1)->position + SL_ENTRY_BLOCKS_MAX);
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void long_batch_again_co(struct store_world *w)
{
    struct sl_store_group_status status;
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    sl_store_group_status(group, &status);
    assert_int_equal(status.last_index, 2);
    assert_int_equal(status.faulty_first, 0);
    assert_int_equal(status.vote, 1);
    world_close_co(w);
}

static void test_long_batch(void **state)
{
    struct sl_sim_config config = {.seed = 1};
    world_make(&world, &config, 100 * SL_MIB);
    world_format(&world, 8 * SL_MIB, 6);
    world_run(&world, long_batch_co, NULL);
    world_run(&world, long_batch_again_co, NULL);
    world_free(&world);
}

/* How far a group is applied goes with the next batch, whoever writes it; where nobody keeps a
 * state everything in the log is applied anyway. */
static void applied_co(struct store_world *w)
{
    struct sl_store_group *group, *other;
    struct sl_store_group_status status;
    world_open_groups_co(w, &group, &other);
    assert_int_equal(sl_store_state_set(group, 0, "s", 2), 0);
    world_append_all_co(w, group, 1, 4);
    assert_int_equal(sl_store_apply_co(group, 2), 0);
    world_append_co(w, other, 1, 1, SL_ENTRY_WRITE, 500);
    assert_int_equal(sl_store_apply_co(other, 1), 0);
    world_append_co(w, other, 2, 1, SL_ENTRY_WRITE, 510);
    assert_int_equal(sl_store_apply_co(group, 3), 0); /* nothing is written any more */
    sl_store_group_status(group, &status);
    assert_int_equal(status.committed_index, 3);
    assert_true(sl_store_entry_in_memory(group, 4) && !sl_store_entry_in_memory(group, 5));
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void applied_again_co(struct store_world *w)
{
    struct sl_store_group_status status;
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    sl_store_group_status(group, &status);
    assert_true(status.committed_index == 2 && status.applied_index == 0);
    sl_store_group_status(sl_store_group_find(w->store, 4), &status);
    assert_int_equal(status.committed_index, 0);
    group->committed_index = 5; /* more than the log has */
    sl_store_group_status(group, &status);
    assert_int_equal(status.committed_index, 4);
    world_close_co(w);
}

static void test_applied(void **state)
{
    live(8, applied_co, applied_again_co, NULL);
}

/* A state is installed whose entry is another one than that which ends the log, and its root is
 * not written: what the log says is what was applied of it. */
static void installed_co(struct store_world *w)
{
    struct sl_store_group *group, *other;
    world_open_groups_co(w, &group, &other);
    assert_int_equal(sl_store_state_set(group, 0, "s", 2), 0);
    world_append_all_co(w, group, 1, 4);
    assert_int_equal(sl_store_apply_co(group, 2), 0);
    assert_int_equal(sl_store_install(group, 4, 9, "t", 2), 0);
    world_append_co(w, other, 1, 1, SL_ENTRY_WRITE, 500);
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void installed_again_co(struct store_world *w)
{
    struct sl_store_group_status status;
    assert_int_equal(world_open_co(w), 0);
    sl_store_group_status(sl_store_group_find(w->store, 3), &status);
    assert_true(status.last_index == 4 && status.last_term == 1 && status.committed_index <= 2);
    world_close_co(w);
}

static void test_installed(void **state)
{
    live(8, installed_co, installed_again_co, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_held),         cmocka_unit_test(test_waits_a_second),
        cmocka_unit_test(test_moved),        cmocka_unit_test(test_moved_damaged),
        cmocka_unit_test(test_moved_cut),    cmocka_unit_test(test_deleted),
        cmocka_unit_test(test_stopped_full), cmocka_unit_test(test_long_batch),
        cmocka_unit_test(test_applied),      cmocka_unit_test(test_installed),
    };
    sl_log_set_level(getenv("VERBOSE") != NULL ? SL_LOG_INFO : SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
