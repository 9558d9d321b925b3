/*
 * Goal: no crash, at any moment, with any part of the unsynced writes on the medium, loses what was
 * acknowledged, shows half an entry, or keeps the store from being opened.
 * Method: short scripts. Each runs again and again with the power lost after disk event 1, 2, 3, …
 * (every submission and completion); for each such moment the unsynced writes are kept in every
 * subset (of the newest; older ones all kept or all lost), and each is torn in turn; from each
 * such medium the store is opened, every block compared with what it may be, written to, closed,
 * opened and compared again. CRASH_STRIDE=1 visits every event (default: every fifth, from an
 * offset); CRASH_SUBSET=n takes every subset of the newest n writes (default 5).
 */
#include <limits.h>

#include "world.h"

#define DISK_BYTES  (5 * SL_MIB)
#define SMALL_BYTES (DISK_BYTES - SL_MIB) /* formatted; grows to DISK_BYTES */
#define BLOCKS      48

enum step_kind { WRITE, ZERO, CHECKPOINT, APPEND, APPLY, VOTE, TRUNCATE, FILL, GROW };
struct step {
    enum step_kind kind;
    unsigned first, count;
};

/* Overwrites of written and applied blocks, around a checkpoint. */
static const struct step overwrite[] = {{WRITE, 0, 3}, {WRITE, 2, 2},      {CHECKPOINT, 0, 0},
                                        {WRITE, 1, 3}, {WRITE, 40, 1},     {ZERO, 0, 2},
                                        {WRITE, 1, 1}, {CHECKPOINT, 0, 0}, {WRITE, 3, 1}};
/* Side by side: one batch after another is on its way. */
static const struct step together[] = {{FILL, 0, 12}, {FILL, 6, 12}, {CHECKPOINT, 0, 0},
                                       {FILL, 0, 12}, {ZERO, 0, 48}, {CHECKPOINT, 0, 0}};
/* A log that is ahead of its commits, and turns round the ring. */
static const struct step ahead[] = {
    {APPEND, 0, 3}, {VOTE, 1, 2},  {APPLY, 2, 0}, {FILL, 0, 24}, {TRUNCATE, 3, 0},
    {APPEND, 0, 2}, {FILL, 0, 24}, {FILL, 0, 24}, {APPLY, 4, 0}, {CHECKPOINT, 0, 0}};

/* Writes and checkpoints around a disk that grows. */
static const struct step growing[] = {{FILL, 0, 12},      {GROW, 0, 0},  {FILL, 4, 12},
                                      {CHECKPOINT, 0, 0}, {WRITE, 2, 3}, {ZERO, 0, 3},
                                      {WRITE, 1, 1}};

static const struct {
    const struct step *steps;
    unsigned count;
} scripts[] = {{overwrite, SL_COUNT_OF(overwrite)},
               {together, SL_COUNT_OF(together)},
               {ahead, SL_COUNT_OF(ahead)},
               {growing, SL_COUNT_OF(growing)}};

struct may_be {
    uint64_t id, next; /* acknowledged; on its way if `open` */
    bool open;
};

static struct {
    struct store_world world;
    unsigned script;
    struct may_be blocks[BLOCKS];
    uint64_t next_id;
    uint64_t log_ids[16];
    uint64_t log_least, log_most, applied, term, vote_next;
    bool created;
    uint64_t event_count, outcome_count;
    unsigned subset; /* of so many newest writes every subset is tried */
} t;

/* ---- the script ---- */

struct write_step {
    unsigned first, count;
    bool zero;
};

static int write_step_co(unsigned first, unsigned count, bool zero)
{
    struct sl_store_group *group = sl_store_group_find(t.world.store, 1);
    uint64_t id = zero ? 0 : t.next_id;
    t.next_id += count;
    for (unsigned i = first; i < first + count; i++) {
        t.blocks[i].next = zero ? 0 : id + i - first;
        t.blocks[i].open = true;
    }
    int error = zero ? sl_store_write_co(group, SL_ENTRY_ZERO, 0, (uint16_t)first, (uint16_t)count,
                                         NULL, NULL)
                     : write_ids_co(&t.world, group, 0, (uint16_t)first, (uint16_t)count, id);
    for (unsigned i = first; i < first + count && error == 0; i++)
        t.blocks[i] = (struct may_be){.id = t.blocks[i].next};
    return error;
}

static void filler_co(void *argument)
{
    unsigned first = (unsigned)(uintptr_t)argument;
    (void)write_step_co(first, 2, false);
    world_leave(&t.world);
}

static int fill_co(unsigned first, unsigned count)
{
    for (unsigned i = first; i + 2 <= first + count; i += 2)
        world_spawn(&t.world, filler_co, (void *)(uintptr_t)i);
    world_join_co(&t.world);
    return sl_store_failed(t.world.store);
}

static int append_co(unsigned count)
{
    struct sl_store_group *group = sl_store_group_find(t.world.store, 2);
    int error = 0;
    while (count-- > 0 && error == 0) {
        struct sl_iobuf payload;
        struct sl_store_wait wait;
        uint32_t crc;
        error = sl_store_prepare_co(group, SL_ENTRY_WRITE, 0, 0, 1);
        if (error < 0)
            break;
        uint64_t index = ++t.log_most, id = t.next_id++;
        t.log_ids[index] = id;
        payload_make_co(&t.world, &payload, id, 1, 1);
        sl_crc32c_blocks(payload.spans[0].data, 1, &crc);
        struct sl_store_entry entry = {
            .index = index, .term = 1, .type = SL_ENTRY_WRITE, .block_count = 1, .crcs = &crc};
        sl_store_append(group, &entry, &payload, &wait);
        sl_iobuf_fini(&payload);
        error = sl_store_durable_co(&wait);
        if (error == 0)
            t.log_least = index;
    }
    return error;
}

static int truncate_co(uint64_t index)
{
    t.log_least = sl_min(t.log_least, index - 1);
    int error = sl_store_truncate_co(sl_store_group_find(t.world.store, 2), index);
    if (error == 0)
        t.log_most = index - 1;
    return error;
}

static int step_co(const struct step *step)
{
    struct sl_store_group *group = sl_store_group_find(t.world.store, 2);
    int error = 0;
    switch (step->kind) {
    case WRITE:
        return write_step_co(step->first, step->count, false);
    case ZERO:
        return write_step_co(step->first, step->count, true);
    case CHECKPOINT:
        return sl_store_checkpoint_co(t.world.store);
    case GROW:
        return sl_store_grow_co(t.world.store, DISK_BYTES, t.world.error, sizeof(t.world.error));
    case FILL:
        return fill_co(step->first, step->count);
    case APPEND:
        return append_co(step->count);
    case TRUNCATE:
        return truncate_co(step->first);
    case VOTE:
        t.vote_next = step->count;
        error = sl_store_vote_co(group, step->first, step->count);
        t.term = error == 0 ? step->first : t.term;
        return error;
    case APPLY:
        error = sl_store_apply_co(group, step->first);
        t.applied = error == 0 ? step->first : t.applied;
        return error;
    }
    return error;
}

static void script_co(struct store_world *world)
{
    int error = world_open_co(world);
    if (error == 0)
        error = sl_store_group_create_co(world->store, 1, 0, 0);
    if (error == 0)
        error = sl_store_group_create_co(world->store, 2, 0, 0);
    t.created = error == 0;
    for (unsigned i = 0; error == 0 && i < scripts[t.script].count; i++)
        error = step_co(&scripts[t.script].steps[i]);
    if (world->store != NULL)
        world_close_co(world);
}

/* ---- after it ---- */

static void explain(const char *what, uint64_t is, uint64_t should)
{
    fprintf(stderr, "script %u, event %llu, outcome %llu: %s is %llu, should be %llu\n", t.script,
            (unsigned long long)t.event_count, (unsigned long long)t.outcome_count, what,
            (unsigned long long)is, (unsigned long long)should);
}

static void check_log_co(struct store_world *world)
{
    struct sl_store_group *group = sl_store_group_find(world->store, 2);
    struct sl_store_group_status status;
    struct sl_store_entry entry;
    sl_store_group_status(group, &status);
    if (status.last_index < t.log_least || status.last_index > t.log_most)
        explain("the log's end", status.last_index, t.log_least);
    assert_true(status.last_index >= t.log_least && status.last_index <= t.log_most);
    assert_true(status.term >= t.term && (status.vote == 0 || status.vote == t.vote_next));
    assert_true(status.boundary_index <= t.applied);
    assert_int_equal(status.faulty_first, 0);
    for (uint64_t i = status.boundary_index + 1; i <= status.last_index; i++) {
        struct sl_iobuf data;
        uint64_t id;
        assert_int_equal(sl_store_entry_get(group, i, &entry), 0);
        sl_iobuf_init(&data);
        assert_int_equal(sl_store_entry_read_co(group, i, &data), 0);
        iobuf_ids(&data, &id);
        sl_iobuf_fini(&data);
        /* One that was truncated and appended again has two. */
        if (i <= t.log_least && id != t.log_ids[i])
            explain("an entry", id, t.log_ids[i]);
        assert_true(i > t.log_least || id == t.log_ids[i]);
    }
    assert_int_equal(sl_store_apply_co(group, sl_max(t.applied, status.boundary_index)), 0);
}

static void check_blocks_co(struct store_world *world, const struct may_be *blocks)
{
    struct sl_store_group *group = sl_store_group_find(world->store, 1);
    struct sl_store_group_status status;
    uint64_t ids[BLOCKS];
    sl_store_group_status(group, &status);
    assert_int_equal(sl_store_apply_co(group, status.last_index), 0);
    assert_int_equal(read_ids_co(world, group, 0, 0, BLOCKS, ids), 0);
    for (unsigned i = 0; i < BLOCKS; i++) {
        if (ids[i] == blocks[i].id || (blocks[i].open && ids[i] == blocks[i].next))
            continue;
        explain("a block", ids[i], blocks[i].id);
        fail();
    }
}

static void verify_co(struct store_world *world)
{
    int error = world_open_co(world);
    if (error < 0)
        fprintf(stderr, "script %u, event %llu: %s\n", t.script, (unsigned long long)t.event_count,
                world->error);
    assert_int_equal(error, 0);
    if (t.created) {
        check_blocks_co(world, t.blocks);
        check_log_co(world);
        assert_int_equal(
            write_ids_co(world, sl_store_group_find(world->store, 1), 0, 47, 1, 999999), 0);
    }
    /* Half of them crash again, with what was written behind the discarded end. */
    if (t.outcome_count % 2 == 0)
        sl_sim_disk_crash(world->sim, NODE, DISK);
    world_close_co(world);
}

static void verify_again_co(struct store_world *world)
{
    struct may_be blocks[BLOCKS];
    memcpy(blocks, t.blocks, sizeof(blocks));
    blocks[47] = (struct may_be){.id = 999999};
    assert_int_equal(world_open_co(world), 0);
    if (t.created) {
        check_blocks_co(world, blocks);
        check_log_co(world);
    }
    world_close_co(world);
}

static void try_outcome(uint64_t mask, unsigned torn, uint64_t from, uint64_t to, uint8_t *content)
{
    /* Restoring forgets the unsynced writes: outcomes are made first, on a disk of their own. */
    sl_sim_disk_outcome(t.world.sim, NODE, DISK, mask, torn, from, to, content);
    t.outcome_count++;
    struct store_world world;
    struct sl_sim_config config = {.seed = t.outcome_count};
    world_make(&world, &config, DISK_BYTES);
    sl_sim_disk_restore(world.sim, NODE, DISK, content);
    struct sl_sim *sim = t.world.sim;
    struct store_world kept = t.world;
    t.world = world;
    world_run(&t.world, verify_co, NULL);
    world_run(&t.world, verify_again_co, NULL);
    world_free(&t.world);
    t.world = kept;
    assert_ptr_equal(t.world.sim, sim);
}

static void try_outcomes(uint8_t *content)
{
    unsigned count = sl_sim_disk_unsynced(t.world.sim, NODE, DISK);
    unsigned newest = sl_min(count, t.subset), older = sl_min(count, 63u) - newest;
    uint64_t all_older = (UINT64_C(1) << older) - 1;
    for (uint64_t subset = 0; subset < UINT64_C(1) << newest; subset++)
        try_outcome(subset << older | all_older, UINT_MAX, 0, 0, content);
    if (older > 0)
        try_outcome(((UINT64_C(1) << newest) - 1) << older, UINT_MAX, 0, 0, content);
    for (unsigned torn = 0; torn < sl_min(count, 63u); torn++) {
        try_outcome(UINT64_MAX, torn, 0, 3 + torn % 6, content);
        try_outcome(UINT64_MAX, torn, 1 + torn % 6, UINT64_MAX, content);
    }
}

static bool run_to(uint64_t event, uint8_t *content)
{
    struct sl_sim_config config = {.seed = 1 + t.script};
    memset(t.blocks, 0, sizeof(t.blocks));
    t.next_id = 1;
    t.log_least = t.log_most = t.applied = t.term = t.vote_next = 0;
    t.created = false;
    t.event_count = event;
    world_make(&t.world, &config, DISK_BYTES);
    t.world.format_bytes = SMALL_BYTES;
    world_format(&t.world, 64 * SL_KIB, 8);
    uint64_t formatted = sl_sim_disk_events(t.world.sim, NODE, DISK);
    sl_sim_disk_stop_at(t.world.sim, NODE, DISK, formatted + event);
    world_run(&t.world, script_co, NULL);
    bool stopped = sl_sim_disk_is_off(t.world.sim, NODE, DISK);
    if (stopped)
        try_outcomes(content);
    world_free(&t.world);
    return stopped;
}

static uint64_t environment(const char *name, uint64_t fallback)
{
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 0) : fallback;
}

static void test_every_moment(void **state)
{
    uint64_t stride = environment("CRASH_STRIDE", 5);
    t.subset = (unsigned)sl_min(environment("CRASH_SUBSET", 5), UINT64_C(16));
    uint8_t *content = malloc(DISK_BYTES);
    uint64_t events = 0;
    t.outcome_count = 0;
    for (t.script = 0; t.script < SL_COUNT_OF(scripts); t.script++) {
        for (uint64_t event = 1 + t.script; run_to(event, content); event += stride)
            events++;
    }
    fprintf(stderr, "%llu moments, %llu outcomes\n", (unsigned long long)events,
            (unsigned long long)t.outcome_count);
    free(content);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_moment)};
    sl_log_set_level(getenv("VERBOSE") != NULL ? SL_LOG_INFO : SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
