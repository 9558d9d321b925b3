/*
 * Goal: each part of the store does what store.h says: write and read back, through overlay, chunk
 * and restart; many groups; votes, truncation, reading entries; a log that wraps many times;
 * ENOSPC; what a disk must be to be opened. Method: a simulated disk, one script a test.
 */
#include "entries.h"

#define DISK_BYTES (40 * SL_MIB)

static struct store_world world;

static void start(void)
{
    struct sl_sim_config config = {.seed = 1};
    world_make(&world, &config, DISK_BYTES);
    world_format(&world, SL_MIB, 8);
}

static void check_co(struct sl_store_group *group, uint32_t chunk, uint16_t first, uint16_t count,
                     uint64_t first_id)
{
    static uint64_t ids[SL_ENTRY_BLOCKS_MAX];
    for (unsigned round = 0; round < 4; round++) {
        assert_int_equal(read_ids_co(&world, group, chunk, first, count, ids), 0);
        for (unsigned i = 0; i < count; i++)
            assert_int_equal(ids[i], first_id == 0 ? 0 : first_id + i);
    }
}

/* ---- blocks ---- */

static void write_some_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), -EEXIST);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    check_co(group, 0, 0, 10, 0);
    assert_int_equal(write_ids_co(w, group, 0, 0, 1, 1000), 0);
    assert_int_equal(write_ids_co(w, group, 0, 60, 10, 2000), 0);
    assert_int_equal(write_ids_co(w, group, 2, 4080, 16, 3000), 0);
    check_co(group, 0, 0, 1, 1000);
    check_co(group, 0, 60, 10, 2000);
    check_co(group, 0, 1, 59, 0);
    check_co(group, 2, 4080, 16, 3000);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    check_co(group, 0, 60, 10, 2000);
    assert_int_equal(sl_store_write_co(group, SL_ENTRY_ZERO, 0, 62, 4, NULL, NULL), 0);
    assert_int_equal(write_ids_co(w, group, 0, 63, 1, 4000), 0);
    check_co(group, 0, 60, 2, 2000);
    check_co(group, 0, 62, 1, 0);
    check_co(group, 0, 63, 1, 4000);
    check_co(group, 0, 66, 4, 2006);
}

static void check_some_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    assert_non_null(group);
    struct sl_store_group_status status;
    sl_store_group_status(group, &status);
    assert_int_equal(sl_store_apply_co(group, status.last_index), 0);
    check_co(group, 0, 0, 1, 1000);
    check_co(group, 0, 60, 2, 2000);
    check_co(group, 0, 62, 1, 0);
    check_co(group, 0, 63, 1, 4000);
    check_co(group, 0, 64, 2, 0);
    check_co(group, 0, 66, 4, 2006);
    check_co(group, 2, 4080, 16, 3000);
    check_co(group, 2, 0, 256, 0);
    world_close_co(w);
}

static void clean_co(struct store_world *w)
{
    write_some_co(w);
    world_close_co(w);
}

static void crash_co(struct store_world *w)
{
    write_some_co(w);
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void test_restart(void **state)
{
    start();
    world_run(&world, clean_co, NULL);
    for (unsigned i = 0; i < 3; i++)
        world_run(&world, check_some_co, NULL);
    world_free(&world);
}

static void test_crash(void **state)
{
    start();
    world_run(&world, crash_co, NULL);
    for (unsigned i = 0; i < 3; i++)
        world_run(&world, check_some_co, NULL);
    world_free(&world);
}

/* The log wraps many times; what is overwritten, moved and applied stays readable. */
static void wrap_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 7, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 7);
    for (unsigned round = 0; round < 80; round++) {
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(
                write_ids_co(w, group, i % 2, (uint16_t)(i * 40), 40, 1000 * (round + 1) + 100 * i),
                0);
    }
    for (unsigned i = 0; i < 4; i++)
        check_co(group, i % 2, (uint16_t)(i * 40), 40, 80000 + 100 * i);
    struct sl_store_statistics statistics;
    sl_store_statistics(w->store, &statistics);
    assert_true(statistics.checkpoint_count > 3);
    assert_true(statistics.log_bytes > 4 * 8 * SL_MIB);
    assert_true(statistics.merged_bytes > 0);
    assert_true(statistics.data_bytes < statistics.append_bytes);
    world_close_co(w);
}

static void wrapped_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 7);
    for (unsigned i = 0; i < 4; i++)
        check_co(group, i % 2, (uint16_t)(i * 40), 40, 80000 + 100 * i);
    world_close_co(w);
}

static void test_wrap(void **state)
{
    start();
    world_run(&world, wrap_co, NULL);
    world_run(&world, wrapped_co, NULL);
    world_free(&world);
}

/* ---- full ---- */

static void full_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    struct sl_store_info info;
    sl_store_info(w->store, &info);
    uint32_t regions = (uint32_t)(info.data_bytes / SL_REGION_BYTES);
    for (uint32_t i = 0; i < regions; i++)
        assert_int_equal(write_ids_co(w, group, i / 64, (uint16_t)(i % 64 * 64), 1, 5000 + i), 0);
    assert_int_equal(write_ids_co(w, group, regions / 64, (uint16_t)(regions % 64 * 64), 1, 9),
                     -ENOSPC);
    /* What is there can be overwritten, and what is given up comes back. */
    assert_int_equal(write_ids_co(w, group, 0, 0, 63, 100), 0);
    assert_int_equal(sl_store_write_co(group, SL_ENTRY_ZERO, 1, 0, 4096, NULL, NULL), 0);
    for (unsigned i = 0; i < regions - 64; i++)
        assert_int_equal(write_ids_co(w, group, regions / 64 + 1, (uint16_t)(i * 64), 1, 7000 + i),
                         0);
    assert_int_equal(write_ids_co(w, group, 1, 0, 1, 9), -ENOSPC);
    check_co(group, 0, 0, 63, 100);
    check_co(group, 1, 0, 256, 0);
    check_co(group, 0, 64, 1, 5001);
    check_co(group, regions / 64 + 1, 128, 1, 7002);
    world_close_co(w);
}

static void test_full(void **state)
{
    start();
    world_run(&world, full_co, NULL);
    world_free(&world);
}

/* ---- growing ---- */

#define GROWN_TO (36 * SL_MIB)

static void fill_co(struct store_world *w, uint64_t first_id)
{
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    uint32_t i = 0;
    while (write_ids_co(w, group, i / 64, (uint16_t)(i % 64 * 64), 1, first_id + i) == 0)
        i++;
    struct sl_store_info info;
    sl_store_info(w->store, &info);
    assert_int_equal(i, info.data_bytes / SL_REGION_BYTES);
}

static void grower_co(void *argument)
{
    struct store_world *w = argument;
    assert_int_equal(sl_store_grow_co(w->store, GROWN_TO, w->error, sizeof(w->error)), 0);
    world_leave(w);
}

static void grow_co(struct store_world *w)
{
    struct sl_store_info before, after;
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    fill_co(w, 5000);
    sl_store_info(w->store, &before);
    assert_int_equal(sl_store_grow_co(w->store, w->format_bytes, w->error, sizeof(w->error)),
                     -EINVAL);
    assert_int_equal(
        sl_store_grow_co(w->store, w->format_bytes + SL_BLOCK_BYTES, w->error, sizeof(w->error)),
        -ENOSPC);
    /* Beside a checkpoint. */
    world_spawn(w, grower_co, w);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    world_join_co(w);
    sl_store_info(w->store, &after);
    assert_true(after.data_bytes > before.data_bytes);
    assert_int_equal(sl_store_grow_co(w->store, DISK_BYTES, w->error, sizeof(w->error)), 0);
    fill_co(w, 5000);
    check_co(sl_store_group_find(w->store, 1), 0, 64, 1, 5001);
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void grown_co(struct store_world *w)
{
    struct sl_store_group_status status;
    struct sl_store_info info;
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    sl_store_group_status(group, &status);
    assert_int_equal(sl_store_apply_co(group, status.last_index), 0);
    sl_store_info(w->store, &info);
    assert_true(info.data_bytes > 24 * SL_MIB);
    for (uint32_t i = 0; i < info.data_bytes / SL_REGION_BYTES; i++)
        check_co(group, i / 64, (uint16_t)(i % 64 * 64), 1, 5000 + i);
    world_close_co(w);
}

static void test_grow(void **state)
{
    struct sl_sim_config config = {.seed = 1};
    world_make(&world, &config, DISK_BYTES);
    world.format_bytes = 32 * SL_MIB;
    world_format(&world, SL_MIB, 8);
    world_run(&world, grow_co, NULL);
    for (unsigned i = 0; i < 2; i++)
        world_run(&world, grown_co, NULL);
    world_free(&world);
}

/* Entries that were visible and lie in their slots, but not in a root: after a crash they are not
 * visible again until somebody says that they are committed. That is no damage. */
static void ahead_co(struct store_world *w)
{
    struct chunk *chunk;
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    assert_int_equal(write_ids_co(w, group, 0, 0, 8, 1000), 0);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    assert_int_equal(write_ids_co(w, group, 0, 0, 8, 2000), 0);
    assert_int_equal(chunk_get(group, 0, &chunk), 0);
    assert_int_equal(apply_chunk_co(chunk), 0);
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void not_damaged_co(struct store_world *w)
{
    struct sl_store_findings findings = {0};
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    struct sl_store_group_status status;
    sl_store_group_status(group, &status);
    assert_true(status.applied_index < status.last_index);
    assert_int_equal(sl_store_scrub_co(w->store, 0, &findings, NULL), 0);
    assert_int_equal(findings.count, 0);
    assert_int_equal(findings.block_count, 0);
    assert_int_equal(sl_store_apply_co(group, status.last_index), 0);
    check_co(group, 0, 0, 8, 2000);
    assert_int_equal(sl_store_scrub_co(w->store, 0, &findings, NULL), 0);
    assert_int_equal(findings.count, 0);
    assert_true(findings.block_count > 0);
    world_close_co(w);
}

static void test_ahead(void **state)
{
    start();
    world_run(&world, ahead_co, NULL);
    world_run(&world, not_damaged_co, NULL);
    world_free(&world);
}

/* A slot that was given up is not given out again while a root that names it is being made: its
 * metadata may be on disk already, and a crash would leave it to two regions. */
static void kept_co(struct store_world *w)
{
    struct chunk *chunk;
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    assert_int_equal(chunk_get(group, 0, &chunk), 0);
    assert_int_equal(chunk_use_co(chunk), 0);
    assert_int_equal(slot_take(chunk, 0, &chunk->table->regions[0].slot), 0);
    uint32_t first = chunk->table->regions[0].slot, slot;
    uint32_t before = w->store->slots_free;
    w->store->slots_next[first / 64] |= UINT64_C(1) << first % 64; /* as a checkpoint does */
    slot_release(chunk, 0);
    assert_int_equal(w->store->slots_free, before);
    for (uint32_t i = 0; i < before; i++) {
        assert_int_equal(slot_take(chunk, 1, &slot), 0);
        assert_int_not_equal(slot, first);
    }
    assert_int_equal(slot_take(chunk, 1, &slot), -ENOSPC);
    chunk_unuse(chunk);
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void test_kept(void **state)
{
    start();
    world_run(&world, kept_co, NULL);
    world_free(&world);
}

/* ---- logs ---- */

static void log_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 3, 100, 4), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 4, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    assert_int_equal(sl_store_vote_co(group, 5, 0), 0); /* the term is heard of first */
    assert_int_equal(sl_store_vote_co(group, 5, 77), 0);
    assert_int_equal(sl_store_vote_co(group, 5, 77), 0);
    world_append_co(w, group, 101, 5, SL_ENTRY_NOOP, 0);
    for (unsigned i = 0; i < 8; i++)
        world_append_co(w, group, 102 + i, 5, i % 4 == 3 ? SL_ENTRY_OPAQUE : SL_ENTRY_WRITE,
                        10 * (i + 1));
    assert_int_equal(sl_store_apply_co(group, 104), 0);
    check_co(group, 0, 8, 2, 30);
    assert_int_equal(sl_store_truncate_co(group, 107), 0);
    world_append_co(w, group, 107, 6, SL_ENTRY_WRITE, 500);
    assert_int_equal(sl_store_state_set(group, 103, "the state", 10), 0);
    /* What is not applied survives every turn of the ring. */
    struct sl_store_group *other = sl_store_group_find(w->store, 4);
    for (unsigned i = 0; i < 400; i++)
        assert_int_equal(write_ids_co(w, other, 0, 0, 40, 1000 * (i + 1)), 0);
    struct sl_store_statistics statistics;
    sl_store_statistics(w->store, &statistics);
    assert_true(statistics.rewritten_count > 0);
    if (w->argument != NULL)
        sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void log_again_co(struct store_world *w)
{
    struct sl_store_group_status status;
    struct sl_store_entry entry;
    struct sl_iobuf data;
    uint64_t ids[2];
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    sl_store_group_status(group, &status);
    assert_int_equal(status.term, 5);
    assert_int_equal(status.vote, 77);
    assert_int_equal(status.last_index, 107);
    assert_int_equal(status.last_term, 6);
    assert_int_equal(status.boundary_index, 103);
    assert_int_equal(status.boundary_term, 5);
    assert_int_equal(status.faulty_first, 0);
    assert_string_equal(sl_store_state(group), "the state");
    assert_int_equal(sl_store_entry_get(group, 103, &entry), -ENOENT);
    assert_int_equal(sl_store_entry_get(group, 108, &entry), -ENOENT);
    for (uint64_t index = 104; index <= 107; index++) {
        assert_int_equal(sl_store_entry_get(group, index, &entry), 0);
        assert_int_equal(entry.term, index == 107 ? 6 : 5);
        assert_int_equal(entry.type, index == 105 ? SL_ENTRY_OPAQUE : SL_ENTRY_WRITE);
        assert_string_equal(entry.extra, "extra");
        sl_iobuf_init(&data);
        assert_int_equal(sl_store_entry_read_co(group, index, &data), 0);
        iobuf_ids(&data, ids);
        assert_int_equal(ids[1], index == 107 ? 501 : 10 * (index - 101) + 1);
        sl_iobuf_fini(&data);
    }
    assert_int_equal(sl_store_apply_co(group, 106), 0);
    check_co(group, 0, 8, 2, 50);
    assert_int_equal(sl_store_apply_co(group, 107), 0);
    check_co(group, 0, 8, 2, 500);
    sl_sim_disk_crash(w->sim, NODE, DISK); /* nothing of this stays */
    world_close_co(w);
}

static void test_log(void **state)
{
    for (unsigned crash = 0; crash < 2; crash++) {
        start();
        world_run(&world, log_co, crash == 0 ? NULL : &world);
        world_run(&world, log_again_co, NULL);
        world_run(&world, log_again_co, NULL);
        world_free(&world);
    }
}

/* Writers are held back: what is added stays in memory. */
static void hold_writers(struct store_world *w, bool hold)
{
    w->store->wal.writer_count += hold ? SL_WAL_WRITERS_MAX : -SL_WAL_WRITERS_MAX;
}

static void truncate_co(void *argument)
{
    struct store_world *w = argument;
    int error = sl_store_truncate_co(sl_store_group_find(w->store, 3), 5);
    assert_true(error == 0 || error == -EIO);
    world_leave(w);
}

/* Entries 1 to 6 in the first segment, 7 to 9 in one each. From 5 on they are cut off, and a
 * checkpoint wants the first segment before that is on disk; crash or not. */
static void cut_off_co(struct store_world *w)
{
    bool crash = w->argument != NULL;
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 3, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    for (unsigned index = 1; index <= 9; index++) {
        if (index > 6)
            wal_roll(w->store);
        world_append_co(w, group, index, 1, SL_ENTRY_WRITE, 10 * index);
    }
    assert_int_equal(sl_store_apply_co(group, 4), 0);
    uint64_t number = w->store->checkpoint_number;
    hold_writers(w, true);
    world_spawn(w, truncate_co, w);
    sl_sleep_co(SL_NS_PER_US);
    w->store->checkpoint_wanted = true;
    checkpoint_kick(w->store);
    sl_sleep_co(SL_NS_PER_S);
    if (crash)
        sl_sim_disk_crash(w->sim, NODE, DISK);
    hold_writers(w, false);
    assert_int_equal(sl_store_vote_co(group, 2, 1), crash ? -EIO : 0);
    world_join_co(w);
    sl_sleep_co(SL_NS_PER_S);
    if (!crash)
        assert_int_equal(w->store->checkpoint_number, number + 1);
    world_close_co(w);
}

static void cut_off_again_co(struct store_world *w)
{
    struct sl_store_group_status status;
    struct sl_store_entry entry;
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 3);
    sl_store_group_status(group, &status);
    assert_int_equal(status.faulty_first, 0);
    assert_int_equal(status.last_index, w->argument != NULL ? 9 : 4);
    assert_int_equal(status.boundary_index, w->argument != NULL ? 0 : 4);
    for (uint64_t index = status.boundary_index + 1; index <= status.last_index; index++)
        assert_int_equal(sl_store_entry_get(group, index, &entry), 0);
    world_close_co(w);
}

static void test_cut_off(void **state)
{
    struct sl_sim_config config = {.seed = 1};
    for (unsigned crash = 0; crash < 2; crash++) {
        world_make(&world, &config, DISK_BYTES);
        world_format(&world, SL_MIB, 10); /* a checkpoint keeps the newest three */
        world_run(&world, cut_off_co, crash == 0 ? NULL : &world);
        world_run(&world, cut_off_again_co, crash == 0 ? NULL : &world);
        world_free(&world);
    }
}

/* What was cut off stays so, behind a boundary that passes the cut, too. */
static void taken_over_co(struct store_world *w)
{
    struct sl_store_group *group, *other;
    world_open_groups_co(w, &group, &other);
    /* Keeps the segment. */
    world_append_co(w, other, 1, 1, SL_ENTRY_WRITE, 10);
    world_append_all_co(w, group, 1, 9);
    assert_int_equal(sl_store_truncate_co(group, 5), 0);
    assert_int_equal(sl_store_install(group, 7, 3, "the state", 10), 0);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    world_close_co(w);
}

static void taken_over_again_co(struct store_world *w)
{
    struct sl_store_group_status status;
    assert_int_equal(world_open_co(w), 0);
    sl_store_group_status(sl_store_group_find(w->store, 3), &status);
    assert_int_equal(status.boundary_index, 7);
    assert_int_equal(status.boundary_term, 3);
    assert_int_equal(status.faulty_first, 0);
    assert_int_equal(status.last_index, 7);
    world_close_co(w);
}

static void test_taken_over(void **state)
{
    start();
    world_run(&world, taken_over_co, NULL);
    world_run(&world, taken_over_again_co, NULL);
    world_free(&world);
}

static void delete_co(struct store_world *w)
{
    struct sl_store_statistics before, after;
    assert_int_equal(world_open_co(w), 0);
    sl_store_statistics(w->store, &before);
    assert_int_equal(sl_store_group_create_co(w->store, 5, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 5);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(write_ids_co(w, group, i / 10, (uint16_t)(i * 64), 63, 100), 0);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    assert_int_equal(sl_store_group_delete_co(group), 0);
    assert_null(sl_store_group_find(w->store, 5));
    assert_int_equal(sl_store_group_create_co(w->store, 5, 0, 0), -EEXIST);
    assert_int_equal(sl_store_group_create_co(w->store, 6, 0, 0), 0);
    group = sl_store_group_find(w->store, 6);
    check_co(group, 0, 0, 64, 0);
    for (unsigned i = 0; i < 30; i++)
        assert_int_equal(write_ids_co(w, group, 0, 0, 63, 100), 0);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    sl_store_statistics(w->store, &after);
    assert_true(after.slot_free_count >= before.slot_free_count - 1); /* group 6's region */
    world_close_co(w);
}

static void test_delete(void **state)
{
    start();
    world_run(&world, delete_co, NULL);
    world_free(&world);
}

/* ---- disks that cannot be opened ---- */

static void refuse_co(struct store_world *w)
{
    world_open_co(w);
    if (w->store != NULL)
        world_close_co(w);
}

static void refused(int error, const char *words)
{
    uint8_t *before = malloc(DISK_BYTES);
    memcpy(before, sl_sim_disk_data(world.sim, NODE, DISK), DISK_BYTES);
    world_run(&world, refuse_co, NULL);
    if (world.open_error != error || (words != NULL && strstr(world.error, words) == NULL))
        fprintf(stderr, "answered: %d, %s\n", world.open_error, world.error);
    assert_int_equal(world.open_error, error);
    if (words != NULL)
        assert_non_null(strstr(world.error, words));
    if (error != 0)
        assert_memory_equal(before, sl_sim_disk_data(world.sim, NODE, DISK), DISK_BYTES);
    free(before);
}

static void test_refusals(void **state)
{
    static const uint8_t cluster[16] = "another cluster";
    struct sl_sim_config config = {.seed = 1};
    world_make(&world, &config, DISK_BYTES);
    refused(-ESTALE, "sluice disk format");
    world_format(&world, SL_MIB, 8);
    world_run(&world, clean_co, NULL);
    uint8_t *disk = sl_sim_disk_data(world.sim, NODE, DISK);
    struct sl_superblock *superblock = malloc(sizeof(*superblock));
    memcpy(superblock, disk, sizeof(*superblock));

    disk[100] ^= 1; /* one superblock of two is enough */
    refused(0, NULL);
    disk[SL_SUPERBLOCK_B + 100] ^= 1;
    refused(-SL_E_CHECKSUM, "checksum");
    disk[100] ^= 1;
    disk[SL_SUPERBLOCK_B + 100] ^= 1;

    superblock->version = 2;
    sl_superblock_seal(superblock);
    memcpy(disk, superblock, sizeof(*superblock));
    memcpy(disk + SL_SUPERBLOCK_B, superblock, sizeof(*superblock));
    refused(-SL_E_VERSION, "newer version");
    superblock->version = 1;
    memcpy(superblock->cluster_id, "a cluster of its", 16);
    sl_superblock_seal(superblock);
    memcpy(disk, superblock, sizeof(*superblock));
    memcpy(disk + SL_SUPERBLOCK_B, superblock, sizeof(*superblock));
    world.config.cluster_id = cluster;
    refused(-EXDEV, "another cluster");
    world.config.cluster_id = NULL;
    world.config.shard = 1;
    refused(-EINVAL, "no shard 1");
    world.config.shard = 0;
    superblock->capacity_bytes += SL_MIB;
    sl_superblock_seal(superblock);
    memcpy(disk, superblock, sizeof(*superblock));
    memcpy(disk + SL_SUPERBLOCK_B, superblock, sizeof(*superblock));
    refused(-ENOSPC, "size back");
    superblock->capacity_bytes -= SL_MIB;
    superblock->features_read_only = 8;
    sl_superblock_seal(superblock);
    memcpy(disk, superblock, sizeof(*superblock));
    refused(-SL_E_VERSION, "read-only");
    superblock->features_read_only = 0;
    sl_superblock_seal(superblock);
    memcpy(disk, superblock, sizeof(*superblock));
    memcpy(disk + SL_SUPERBLOCK_B, superblock, sizeof(*superblock));
    refused(0, NULL);
    memset(disk + superblock->shards[0].roots_offset, 0, 4 * superblock->shards[0].root_bytes);
    refused(-SL_E_CHECKSUM, "no valid root");
    free(superblock);
    world_free(&world);
}

/* ---- damage of the log ---- */

static void turn_bit(uint64_t at)
{
    uint8_t *content = malloc(DISK_BYTES);
    memcpy(content, sl_sim_disk_data(world.sim, NODE, DISK), DISK_BYTES);
    content[at] ^= 4;
    sl_sim_disk_restore(world.sim, NODE, DISK, content);
    free(content);
}

/* Where batch `sequence` begins: its header is told by magic and sequence. */
static uint64_t find_batch(uint64_t sequence)
{
    const uint8_t *disk = sl_sim_disk_data(world.sim, NODE, DISK);
    for (uint64_t at = 0; at < DISK_BYTES; at += SL_BLOCK_BYTES) {
        struct sl_batch_header header;
        memcpy(&header, disk + at, sizeof(header));
        if (header.magic == SL_BATCH_MAGIC && header.sequence == sequence)
            return at;
    }
    fail_msg("no batch %llu", (unsigned long long)sequence);
    return 0;
}

/* Batches 1: the group; 2 to 6: writes of 2 blocks, each durable before the next. */
static void five_open_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(write_ids_co(w, sl_store_group_find(w->store, 1), 0, (uint16_t)(i * 2), 2,
                                      10 * (i + 1)),
                         0);
}

static void five_writes_co(struct store_world *w)
{
    five_open_co(w);
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static struct sl_store_group_status damaged_status;
static struct sl_store_statistics damaged_statistics;
static int damaged_reads[5];

static void look_co(struct store_world *w)
{
    uint64_t ids[2];
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    sl_store_group_status(group, &damaged_status);
    sl_store_statistics(w->store, &damaged_statistics);
    int error = sl_store_apply_co(group, damaged_status.last_index);
    for (unsigned i = 0; i < 5; i++) {
        damaged_reads[i] = error < 0 ? error : read_ids_co(w, group, 0, (uint16_t)(i * 2), 2, ids);
        assert_true(damaged_reads[i] < 0 || ids[0] == 10 * (i + 1) || ids[0] == 0);
    }
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void damaged(uint64_t sequence, uint64_t offset)
{
    start();
    world_run(&world, five_writes_co, NULL);
    turn_bit(find_batch(sequence) + offset);
    world_run(&world, look_co, NULL);
    world_free(&world);
}

/* An acknowledged entry's payload: that entry, and no other; never what was there before. */
static void test_log_payload(void **state)
{
    damaged(4, SL_BLOCK_BYTES + 77);
    assert_int_equal(damaged_status.last_index, 5);
    assert_int_equal(damaged_status.faulty_first, 3);
    assert_int_equal(damaged_status.faulty_last, 3);
    assert_true(damaged_status.faulty_is_payload);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(damaged_reads[i], i == 2 ? -SL_E_CHECKSUM : 0);
}

/* Scrub finds what a start would miss, and a checkpoint comes before that. */
static uint64_t log_damage_at;
static bool log_is_damaged;

static void five_and_scrub_co(struct store_world *w)
{
    struct sl_store_findings findings = {0};
    uint64_t ids[2];
    five_open_co(w);
    assert_int_equal(sl_store_scrub_co(w->store, 0, &findings, NULL), 0);
    assert_int_equal(findings.count, 0);
    log_damage_at += find_batch(4);
    sl_sim_disk_data(world.sim, NODE, DISK)[log_damage_at] ^= 4;
    uint8_t damaged = sl_sim_disk_data(world.sim, NODE, DISK)[log_damage_at];
    assert_int_equal(sl_store_scrub_co(w->store, 0, &findings, NULL), 0);
    assert_int_equal(findings.count, 1);
    assert_int_equal(sl_store_scrub_co(w->store, 0, &findings, NULL), 0);
    assert_int_equal(findings.count, 1);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(
            read_ids_co(w, sl_store_group_find(w->store, 1), 0, (uint16_t)(i * 2), 2, ids), 0);
        assert_int_equal(ids[0], 10 * (i + 1));
    }
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
    log_is_damaged = sl_sim_disk_data(world.sim, NODE, DISK)[log_damage_at] == damaged;
}

static void test_scrub_log(void **state)
{
    static const uint64_t places[] = {50, SL_BLOCK_BYTES + 77}; /* the header, the payload */
    for (unsigned i = 0; i < SL_COUNT_OF(places); i++) {
        log_damage_at = places[i];
        start();
        world_run(&world, five_and_scrub_co, NULL);
        if (!log_is_damaged) /* the crash took it back */
            turn_bit(log_damage_at);
        world_run(&world, look_co, NULL);
        assert_int_equal(damaged_statistics.missing_batch_count, 0);
        assert_int_equal(damaged_status.faulty_first, 0);
        for (unsigned k = 0; k < 5; k++)
            assert_int_equal(damaged_reads[k], 0);
        world_free(&world);
    }
}

/* An acknowledged batch's header: its entries are missing, and said to be. */
static void test_log_header(void **state)
{
    damaged(4, 50);
    assert_int_equal(damaged_statistics.missing_batch_count, 1);
    assert_int_equal(damaged_status.last_index, 5);
    assert_int_equal(damaged_status.faulty_first, 3);
    assert_false(damaged_status.faulty_is_payload);
    assert_int_equal(damaged_reads[0], -SL_E_CHECKSUM); /* nothing behind the hole is applied */
}

/* A header block with a right CRC that no program of ours wrote: refused, nothing is written. */
static void test_log_absurd(void **state)
{
    static const uint32_t payloads[] = {5000, UINT32_MAX, 256};
    for (unsigned i = 0; i < SL_COUNT_OF(payloads); i++) {
        struct sl_batch_header header;
        uint8_t *content = malloc(DISK_BYTES);
        start();
        world_run(&world, five_writes_co, NULL);
        uint64_t at = find_batch(4);
        memcpy(content, sl_sim_disk_data(world.sim, NODE, DISK), DISK_BYTES);
        memcpy(&header, content + at, sizeof(header));
        header.payload_blocks = payloads[i];
        memcpy(content + at, &header, sizeof(header));
        header.crc = sl_crc32c(0, content + at + 8, SL_BLOCK_BYTES - 8);
        memcpy(content + at, &header, sizeof(header));
        sl_sim_disk_restore(world.sim, NODE, DISK, content);
        free(content);
        refused(-SL_E_PROTOCOL, "absurd content");
        world_free(&world);
    }
}

/* Opened for reading: what is there is served, and not a byte is written. */
static void read_only_co(struct store_world *w)
{
    check_some_co(w);
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    assert_int_equal(sl_store_write_co(group, SL_ENTRY_ZERO, 0, 0, 1, NULL, NULL), -EROFS);
    assert_int_equal(sl_store_vote_co(group, 9, 9), -EROFS);
    assert_int_equal(sl_store_group_create_co(w->store, 2, 0, 0), -EROFS);
    assert_int_equal(sl_store_checkpoint_co(w->store), -EROFS);
    assert_int_equal(sl_store_grow_co(w->store, 2 * DISK_BYTES, w->error, sizeof(w->error)),
                     -EROFS);
    world_close_co(w);
}

static void test_read_only(void **state)
{
    uint8_t *before = malloc(DISK_BYTES);
    start();
    world_run(&world, crash_co, NULL);
    memcpy(before, sl_sim_disk_data(world.sim, NODE, DISK), DISK_BYTES);
    world.config.read_only = true;
    world_run(&world, read_only_co, NULL);
    assert_memory_equal(before, sl_sim_disk_data(world.sim, NODE, DISK), DISK_BYTES);
    world.config.read_only = false;
    world_run(&world, check_some_co, NULL);
    free(before);
    world_free(&world);
}

/* The scrub finds what rots while nobody reads it, and tells who could repair it. */
static unsigned told_count;

static bool on_damaged_co(void *context, uint64_t group, uint32_t chunk, uint16_t block)
{
    told_count++;
    assert_int_equal(group, 1);
    assert_int_equal(chunk, 2);
    assert_int_equal(block, 4083);
    return false;
}

static void scrub_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    sl_sleep_co(10 * SL_NS_PER_S);
    struct sl_store_statistics now;
    sl_store_statistics(w->store, &now);
    assert_int_equal(now.scrub_pass_count, 1);
    assert_int_equal(now.scrub_finding_count, 1);
    assert_true(now.scrub_block_count >= 3 * SL_REGION_BLOCKS - 1);
    assert_int_equal(told_count, 1);
    world_close_co(w);
}

static void test_scrub(void **state)
{
    static uint8_t block[SL_BLOCK_BYTES];
    uint8_t *content = malloc(DISK_BYTES);
    uint64_t at = DISK_BYTES;
    start();
    world_run(&world, clean_co, NULL);
    memcpy(content, sl_sim_disk_data(world.sim, NODE, DISK), DISK_BYTES);
    block_fill(block, 3003);
    while (memcmp(content + (at -= SL_BLOCK_BYTES), block, SL_BLOCK_BYTES) != 0)
        assert_true(at > 0);
    content[at + 99] ^= 1;
    sl_sim_disk_restore(world.sim, NODE, DISK, content);
    world.config.scrub_bytes_per_s = SL_MIB;
    world.config.damaged_co = on_damaged_co;
    told_count = 0;
    world_run(&world, scrub_co, NULL);
    free(content);
    world_free(&world);
}

/* A pass of more than 18 GiB went on as fast as the disk could, its bytes times 10^9 being less. */
static void pace_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    uint64_t begin_ns = sl_reactor_clock_ns(w->store->reactor);
    scrub_pace_co(w->store, begin_ns, 20 * SL_GIB, 0);
    assert_int_equal(sl_reactor_clock_ns(w->store->reactor), begin_ns);
    scrub_pace_co(w->store, begin_ns, 20 * SL_GIB, SL_GIB);
    assert_int_equal(sl_reactor_clock_ns(w->store->reactor), begin_ns + 20 * SL_NS_PER_S);
    world_close_co(w);
}

static void test_pace(void **state)
{
    start();
    world_run(&world, pace_co, NULL);
    world_free(&world);
}

/* The very last batch, for which none vouches: cannot be told from a torn end. As documented. */
static void test_log_end(void **state)
{
    damaged(6, SL_BLOCK_BYTES + 77);
    assert_int_equal(damaged_status.last_index, 4);
    assert_int_equal(damaged_status.faulty_first, 0);
    assert_int_equal(damaged_statistics.discarded_batch_count, 1);
}

static void two_roots_co(struct store_world *w)
{
    write_some_co(w);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    assert_int_equal(write_ids_co(w, sl_store_group_find(w->store, 1), 0, 0, 1, 1000), 0);
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

/* Killed between the two copies of a root: the other is the one of before, and nothing is wrong. */
static void checked_co(struct store_world *w)
{
    struct sl_store_findings findings = {0};
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_check_co(w->store, &findings), 0);
    assert_int_equal(findings.count, *(unsigned *)w->argument);
    world_close_co(w);
}

static void test_root_copies(void **state)
{
    unsigned count = 0;
    uint8_t *content = malloc(DISK_BYTES);
    struct sl_superblock *superblock = malloc(sizeof(*superblock));
    start();
    world_run(&world, two_roots_co, NULL); /* roots 2 and 3: 3 replaces 1 in copies 2 and 3 */
    memcpy(content, sl_sim_disk_data(world.sim, NODE, DISK), DISK_BYTES);
    memcpy(superblock, content, sizeof(*superblock));
    uint64_t each = superblock->shards[0].root_bytes;
    uint64_t copy = superblock->shards[0].roots_offset + 3 * each;
    struct sl_root_header *header = (void *)(content + copy);
    header->sequence -= 2;
    sl_root_seal(header, content + copy + SL_BLOCK_BYTES);
    sl_sim_disk_restore(world.sim, NODE, DISK, content);
    world.config.read_only = true;
    world_run(&world, checked_co, &count);
    turn_bit(copy + 40);
    count = 1;
    world_run(&world, checked_co, &count);
    free(superblock);
    free(content);
    world_free(&world);
}

/* One copy of the newest root is enough; without both, the log says that an older one is too old.
 */
static void test_roots(void **state)
{
    start();
    world_run(&world, two_roots_co, NULL);
    struct sl_superblock *superblock = malloc(sizeof(*superblock));
    memcpy(superblock, sl_sim_disk_data(world.sim, NODE, DISK), sizeof(*superblock));
    uint64_t roots = superblock->shards[0].roots_offset, each = superblock->shards[0].root_bytes;
    turn_bit(roots + 2 * each + 40); /* root 3: copies 2 and 3 */
    world_run(&world, check_some_co, NULL);
    world_free(&world);
    start();
    world_run(&world, two_roots_co, NULL);
    turn_bit(roots + 2 * each + 40);
    turn_bit(roots + 3 * each + SL_BLOCK_BYTES + 3);
    refused(-SL_E_CHECKSUM, "the log names root 3");
    free(superblock);
    world_free(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restart),     cmocka_unit_test(test_crash),
        cmocka_unit_test(test_wrap),        cmocka_unit_test(test_full),
        cmocka_unit_test(test_log_absurd),  cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_root_copies), cmocka_unit_test(test_scrub),
        cmocka_unit_test(test_pace),        cmocka_unit_test(test_grow),
        cmocka_unit_test(test_ahead),       cmocka_unit_test(test_scrub_log),
        cmocka_unit_test(test_kept),        cmocka_unit_test(test_log),
        cmocka_unit_test(test_delete),      cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_log_payload), cmocka_unit_test(test_log_header),
        cmocka_unit_test(test_log_end),     cmocka_unit_test(test_roots),
        cmocka_unit_test(test_cut_off),     cmocka_unit_test(test_taken_over),
    };
    sl_log_set_level(getenv("VERBOSE") != NULL ? SL_LOG_INFO : SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
