/*
 * Goal: places of chunks, slots and tables are given out as chunk.c says: each place of a grown
 * disk holds its own chunk's metadata; what is given up is used again, to the last; what is set
 * aside is nobody else's; tables stay within their limit, and states. Method: a simulated disk, one
 * script a test, small disks that fill up.
 */
#include "entries.h"

#define DISK_BYTES  (40 * SL_MIB)
#define TABLES_MOST 4u

static struct store_world world;

static void start(void)
{
    struct sl_sim_config config = {.seed = 1};
    world_make(&world, &config, DISK_BYTES);
}

/* As much of each chunk as metadata has: what goes astray cannot miss it. */
#define BLOCKS (2 * SL_CHUNK_META_BYTES / SL_BLOCK_BYTES)

static int put_co(struct sl_store_group *group, uint32_t chunk)
{
    return write_ids_co(&world, group, chunk, 0, BLOCKS, 1000 * (chunk + 1));
}

static void check_co(struct sl_store_group *group, uint32_t chunk)
{
    uint64_t found[BLOCKS];
    assert_int_equal(read_ids_co(&world, group, chunk, 0, BLOCKS, found), 0);
    for (unsigned i = 0; i < BLOCKS; i++)
        assert_int_equal(found[i], 1000 * (chunk + 1) + i);
}

/* New chunks from `first` on, until there is no place for another. */
static uint32_t use_up_co(struct sl_store_group *group, uint32_t first)
{
    uint32_t chunk = first;
    while (put_co(group, chunk) == 0)
        chunk++;
    return chunk;
}

/* ---- places ---- */

static void grown_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    uint32_t before = w->store->chunk_count;
    assert_int_equal(use_up_co(group, 0), before);
    assert_int_equal(sl_store_grow_co(w->store, DISK_BYTES, w->error, sizeof(w->error)), 0);
    assert_true(w->store->chunk_count > before);
    assert_int_equal(use_up_co(group, before), w->store->chunk_count);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void grown_again_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    for (uint32_t i = 0; i < w->store->chunk_count; i++)
        check_co(group, i);
    world_close_co(w);
}

/* The first place of a new extent is not behind the last one of the old. */
static void test_grown(void **state)
{
    start();
    world.format_bytes = 32 * SL_MIB;
    world_format(&world, SL_MIB, 8);
    world_run(&world, grown_co, NULL);
    world_run(&world, grown_again_co, NULL);
    world_free(&world);
}

/* Where the search for a free place begins anew, the last one is found, too. */
static void last_place_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 2, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    struct sl_store_group *last = sl_store_group_find(w->store, 2);
    uint32_t count = w->store->chunk_count;
    for (uint32_t i = 0; i < count - 1; i++)
        assert_int_equal(put_co(group, i), 0);
    assert_int_equal(put_co(last, 0), 0);
    assert_int_equal(w->store->place_hint, count);
    assert_int_equal(put_co(group, count), -ENOSPC);
    assert_int_equal(sl_store_group_delete_co(last), 0);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    assert_int_equal(put_co(group, count), 0);
    check_co(group, count);
    world_close_co(w);
}

static void test_last_place(void **state)
{
    start();
    world_format(&world, SL_MIB, 8);
    world_run(&world, last_place_co, NULL);
    world_free(&world);
}

/* ---- slots ---- */

/* Who was promised a slot finds it, whoever comes without a promise (after a crash) before. */
static void set_aside_co(struct store_world *w)
{
    struct chunk *chunks[2];
    uint32_t slot, promised = 0;
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(chunk_get(group, i, &chunks[i]), 0);
        assert_int_equal(chunk_use_co(chunks[i]), 0);
    }
    unsigned free_slots = w->store->slots_free;
    assert_in_range(free_slots, SL_CHUNK_REGIONS + 1, 2 * SL_CHUNK_REGIONS - 1);
    for (unsigned i = 0; i < free_slots; i++)
        assert_int_equal(
            slot_reserve(chunks[i / SL_CHUNK_REGIONS], i % SL_CHUNK_REGIONS, i % SL_CHUNK_REGIONS),
            0);
    unsigned other = SL_CHUNK_REGIONS - 1;
    assert_int_equal(slot_reserve(chunks[1], other, other), -ENOSPC);
    assert_int_equal(slot_take(chunks[1], other, &slot), -ENOSPC);
    for (unsigned i = 0; i < free_slots; i++) {
        struct chunk *chunk = chunks[i / SL_CHUNK_REGIONS];
        unsigned region = i % SL_CHUNK_REGIONS;
        promised += slot_take(chunk, region, &chunk->table->regions[region].slot) == 0;
    }
    assert_int_equal(promised, free_slots);
    assert_int_equal(w->store->slots_reserved, 0);
    assert_int_equal(slot_take(chunks[1], other, &slot), -ENOSPC);
    for (unsigned i = 0; i < free_slots; i++)
        slot_release(chunks[i / SL_CHUNK_REGIONS], i % SL_CHUNK_REGIONS);
    assert_int_equal(w->store->slots_free, free_slots);
    for (unsigned i = 0; i < 2; i++)
        chunk_unuse(chunks[i]);
    world_close_co(w);
}

/* A write has a slot set aside for each region that it touches, and no other. */
static void touched_co(struct store_world *w)
{
    static const uint16_t firsts[] = {0, 63, 62, 64, 2}, counts[] = {63, 1, 3, 63, 63};
    static const uint64_t regions[] = {1, 1, 3, 2, 3};
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    for (unsigned i = 0; i < SL_COUNT_OF(firsts); i++) {
        struct chunk *chunk;
        assert_int_equal(sl_store_prepare_co(group, SL_ENTRY_WRITE, i, firsts[i], counts[i]), 0);
        assert_int_equal(chunk_get(group, i, &chunk), 0);
        assert_int_equal(chunk->reserved_regions, regions[i]);
        sl_store_unprepare(group, SL_ENTRY_WRITE, counts[i]);
    }
    world_close_co(w);
}

static void test_set_aside(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        start();
        world_format(&world, SL_MIB, 20);
        world_run(&world, i == 0 ? set_aside_co : touched_co, NULL);
        world_free(&world);
    }
}

/* All slots, and not one more, are in use, before a crash and after it: the last ones, which do not
 * fill a word of the bitmap, too. */
static uint32_t slots_used(const struct sl_store *store)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < store->slot_count; i++)
        count += store->slots_used[i / 64] >> i % 64 & 1;
    return count;
}

static void full_co(struct store_world *w)
{
    uint32_t i = 0;
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    while (write_ids_co(w, group, i / 64, (uint16_t)(i % 64 * 64), 1, 1000 + i) == 0)
        i++;
    assert_true(i % 64 > 1);
    assert_int_equal(i, w->store->slot_count);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    assert_int_equal(slots_used(w->store), i);
    sl_sim_disk_crash(w->sim, NODE, DISK);
    world_close_co(w);
}

static void full_again_co(struct store_world *w)
{
    uint64_t found;
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    uint32_t count = w->store->slot_count;
    assert_int_equal(slots_used(w->store), count);
    assert_int_equal(w->store->slots_free, 0);
    assert_int_equal(write_ids_co(w, group, count / 64, (uint16_t)(count % 64 * 64), 1, 1),
                     -ENOSPC);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(read_ids_co(w, group, i / 64, (uint16_t)(i % 64 * 64), 1, &found), 0);
        assert_int_equal(found, 1000 + i);
    }
    world_close_co(w);
}

static void test_full(void **state)
{
    start();
    world_format(&world, SL_MIB, 8);
    world_run(&world, full_co, NULL);
    world_run(&world, full_again_co, NULL);
    world_free(&world);
}

/* ---- tables ---- */

static void many_chunks_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    for (uint32_t i = 0; i < 4 * TABLES_MOST; i++)
        assert_int_equal(put_co(group, i), 0);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    world_close_co(w);
}

/* Those that were used once only, too. */
static void few_tables_co(struct store_world *w)
{
    struct sl_store_statistics statistics;
    assert_int_equal(world_open_co(w), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    for (uint32_t i = 0; i < 4 * TABLES_MOST; i++) {
        check_co(group, i);
        sl_store_statistics(w->store, &statistics);
        assert_true(statistics.table_count <= TABLES_MOST);
    }
    world_close_co(w);
}

static void test_tables(void **state)
{
    start();
    world_format(&world, SL_MIB, 8);
    world_run(&world, many_chunks_co, NULL);
    world.config.table_bytes = TABLES_MOST * sizeof(struct table);
    world_run(&world, few_tables_co, NULL);
    world_free(&world);
}

/* ---- overlays ---- */

/* A region has one as long as a block of it waits for its slot, no other has. */
static void overlays_co(struct store_world *w)
{
    struct chunk *chunk;
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 1, 0, 0), 0);
    struct sl_store_group *group = sl_store_group_find(w->store, 1);
    for (unsigned i = 0; i < 4; i++) {
        uint16_t last = (uint16_t)((16 * i + 16) * SL_REGION_BLOCKS - 1);
        assert_int_equal(write_ids_co(w, group, 0, last, 1, 100 + i), 0);
    }
    assert_int_equal(chunk_get(group, 0, &chunk), 0);
    for (unsigned i = 0; i < SL_CHUNK_REGIONS; i++)
        assert_int_equal(chunk->overlays[i] != NULL, i % 16 == 15);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    for (unsigned i = 0; i < SL_CHUNK_REGIONS; i++)
        assert_null(chunk->overlays[i]);
    world_close_co(w);
}

static void test_overlays(void **state)
{
    start();
    world_format(&world, SL_MIB, 8);
    world_run(&world, overlays_co, NULL);
    world_free(&world);
}

/* ---- states of groups ---- */

/* What a group's state had room for, its next one has. */
static void states_co(struct store_world *w)
{
    assert_int_equal(world_open_co(w), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 5, 0, 0), 0);
    assert_int_equal(sl_store_group_create_co(w->store, 6, 0, 0), 0);
    struct sl_store_group *groups[] = {sl_store_group_find(w->store, 5),
                                       sl_store_group_find(w->store, 6)};
    uint32_t all = w->store->shard->group_bytes, half = all / 2;
    uint8_t *state = calloc(1, all);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(sl_store_state_set(groups[0], i, state, half), 0);
    assert_int_equal(sl_store_state_set(groups[1], 0, state, half), -ENOSPC);
    assert_int_equal(sl_store_state_set(groups[0], 3, state, half / 2), 0);
    assert_int_equal(sl_store_state_set(groups[1], 1, state, half), 0);
    assert_int_equal(sl_store_checkpoint_co(w->store), 0);
    free(state);
    world_close_co(w);
}

static void test_states(void **state)
{
    start();
    world_format(&world, SL_MIB, 8);
    world_run(&world, states_co, NULL);
    world_free(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grown),     cmocka_unit_test(test_last_place),
        cmocka_unit_test(test_set_aside), cmocka_unit_test(test_full),
        cmocka_unit_test(test_tables),    cmocka_unit_test(test_overlays),
        cmocka_unit_test(test_states),
    };
    sl_log_set_level(getenv("VERBOSE") != NULL ? SL_LOG_INFO : SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
