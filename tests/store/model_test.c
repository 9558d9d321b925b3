/*
 * Goal: whatever happens, a block reads as what was acknowledged last, or as what was on its way
 * when the power went, or as an error where a fault damaged it: never as anything else; logs keep
 * what was acknowledged, in order; votes are kept. Method: seeds. Each runs several lives of a node
 * on one simulated disk: clients write, zero, read and verify blocks of a few chunks and groups
 * against a model; a Raft-like client appends ahead, truncates, applies and votes; the power goes
 * at a random moment, or the disk grows; the next life reads all of it. A failure prints its seed:
 * SEED=n repeats it, SEEDS=n runs so many.
 */
#include "world.h"

#include <signal.h>

#define DISK_BYTES   (48 * SL_MIB)
#define FORMAT_BYTES (40 * SL_MIB) /* grows by GROWTH_BYTES now and then */
#define GROWTH_BYTES (2 * SL_MIB)
#define GROUPS       2
#define CHUNKS       3
#define BLOCKS       512 /* of each chunk, in two places */
#define CLIENTS      6
#define LIVES        6
#define MAYBE_MAX    24
#define LOG_GROUP    9
#define LOG_ENTRIES  4096

struct model_block {
    uint64_t id;               /* acknowledged last */
    uint64_t maybe[MAYBE_MAX]; /* written and not acknowledged since */
    unsigned maybe_count;
    bool locked;
};

struct model_entry {
    uint64_t term, id; /* 0 = none */
    bool durable;
};

static struct {
    struct store_world world;
    uint64_t seed;
    bool faults; /* of the medium: checksum errors may be answered */
    bool errors; /* EIO may be answered */
    bool crashed;
    uint64_t next_id;
    struct model_block blocks[GROUPS][CHUNKS][BLOCKS];
    struct model_entry log[LOG_ENTRIES];
    uint64_t log_last, log_applied, log_boundary;
    uint64_t term, vote;
    bool log_truncating; /* that is on its way: the old tail or the cut one */
    uint64_t log_truncated_from, log_old_last;
    uint64_t read_count, write_count, refused_count, crash_count, damaged_count;
} m;

static uint64_t draw(uint64_t limit)
{
    return sl_sim_random(m.world.sim) % limit;
}

/* The model's block i: two places of the chunk, so that regions and the chunk's end are met. */
static uint16_t block_of(unsigned i)
{
    return (uint16_t)(i < BLOCKS / 2 ? i : SL_CHUNK_BLOCKS - BLOCKS + i);
}

static bool is_tolerated(int error)
{
    if (m.crashed || (error == -SL_E_CHECKSUM && m.faults))
        return true;
    return m.errors && (error == -EIO || error == -SL_E_CHECKSUM);
}

static void fail_with(const char *what, unsigned group, unsigned chunk, unsigned block, uint64_t id)
{
    const struct model_block *model = &m.blocks[group][chunk][block];
    fprintf(stderr, "SEED=%llu: %s: group %u chunk %u block %u: is %llu, was %llu",
            (unsigned long long)m.seed, what, group + 1, chunk, block_of(block),
            (unsigned long long)id, (unsigned long long)model->id);
    for (unsigned i = 0; i < model->maybe_count; i++)
        fprintf(stderr, " or %llu", (unsigned long long)model->maybe[i]);
    fprintf(stderr, "\n");
    fail();
}

/* ---- clients of blocks ---- */

struct range {
    unsigned group, chunk, first, count;
};

/* A range that nobody is at; false: none was found at once. */
static bool lock(struct range *range)
{
    range->group = (unsigned)draw(GROUPS);
    range->chunk = (unsigned)draw(CHUNKS);
    range->count = (unsigned)(draw(4) == 0 ? 1 + draw(60) : 1 + draw(6));
    unsigned half = BLOCKS / 2 * (unsigned)draw(2);
    range->first = half + (unsigned)draw(BLOCKS / 2 - range->count + 1);
    struct model_block *blocks = m.blocks[range->group][range->chunk] + range->first;
    for (unsigned i = 0; i < range->count; i++) {
        if (blocks[i].locked || blocks[i].maybe_count == MAYBE_MAX)
            return false;
    }
    for (unsigned i = 0; i < range->count; i++)
        blocks[i].locked = true;
    return true;
}

static void unlock(const struct range *range)
{
    for (unsigned i = 0; i < range->count; i++)
        m.blocks[range->group][range->chunk][range->first + i].locked = false;
}

static struct sl_store_group *group_of(const struct range *range)
{
    return sl_store_group_find(m.world.store, range->group + 1);
}

static void write_co(const struct range *range, bool zero)
{
    struct model_block *blocks = m.blocks[range->group][range->chunk] + range->first;
    uint64_t first_id = zero ? 0 : m.next_id;
    int error;
    m.next_id += zero ? 0 : range->count;
    for (unsigned i = 0; i < range->count; i++)
        blocks[i].maybe[blocks[i].maybe_count++] = zero ? 0 : first_id + i;
    if (zero)
        error = sl_store_write_co(group_of(range), SL_ENTRY_ZERO, range->chunk,
                                  block_of(range->first), (uint16_t)range->count, NULL, NULL);
    else
        error = write_ids_co(&m.world, group_of(range), range->chunk, block_of(range->first),
                             (uint16_t)range->count, first_id);
    if (error < 0) {
        if (!is_tolerated(error))
            fprintf(stderr, "SEED=%llu: write: %s\n", (unsigned long long)m.seed,
                    sl_error_name(error));
        assert_true(is_tolerated(error));
        m.refused_count++;
        return;
    }
    if (getenv("VERBOSE") != NULL)
        fprintf(stderr, "%llu: group %u chunk %u blocks %u+%u: %llu\n",
                (unsigned long long)sl_sim_now_ns(m.world.sim), range->group + 1, range->chunk,
                block_of(range->first), range->count, (unsigned long long)first_id);
    /* Answered after the power went: as good as any other. */
    m.write_count++;
    for (unsigned i = 0; i < range->count; i++) {
        blocks[i].id = zero ? 0 : first_id + i;
        blocks[i].maybe_count = 0;
    }
}

static bool is_possible(const struct model_block *model, uint64_t id)
{
    bool possible = model->id == id;
    for (unsigned i = 0; i < model->maybe_count; i++)
        possible = possible || model->maybe[i] == id;
    return possible;
}

/* What is read becomes the truth: later reads must see the same. */
static void read_co(const struct range *range)
{
    struct model_block *blocks = m.blocks[range->group][range->chunk] + range->first;
    uint64_t *ids = malloc(range->count * sizeof(*ids));
    int error = read_ids_co(&m.world, group_of(range), range->chunk, block_of(range->first),
                            (uint16_t)range->count, ids);
    m.read_count++;
    m.damaged_count += error == -SL_E_CHECKSUM;
    if (error < 0 && !is_tolerated(error))
        fprintf(stderr, "SEED=%llu: read: %s\n", (unsigned long long)m.seed, sl_error_name(error));
    assert_true(error == 0 || is_tolerated(error));
    for (unsigned i = 0; i < range->count && error == 0; i++) {
        if (!is_possible(&blocks[i], ids[i]))
            fail_with("read", range->group, range->chunk, range->first + i, ids[i]);
        /* A write of this life that failed may still be in the log, and come with the next. */
        if (sl_store_failed(m.world.store) == 0 && !m.errors) {
            blocks[i].id = ids[i];
            blocks[i].maybe_count = 0;
        }
    }
    free(ids);
}

static void client_co(void *argument)
{
    unsigned rounds = (unsigned)(20 + draw(120));
    while (rounds-- > 0 && !m.crashed && sl_store_failed(m.world.store) == 0) {
        struct range range;
        if (!lock(&range)) {
            sl_sleep_co(20 * SL_NS_PER_US);
            continue;
        }
        uint64_t choice = draw(10);
        if (choice < 5)
            write_co(&range, false);
        else if (choice < 6)
            write_co(&range, true);
        else
            read_co(&range);
        unlock(&range);
        if (draw(50) == 0)
            (void)sl_store_checkpoint_co(m.world.store);
    }
    world_leave(&m.world);
}

/* ---- a client of a log ---- */

static void log_append_co(struct sl_store_group *group, unsigned count)
{
    struct sl_store_wait *waits = calloc(count, sizeof(*waits));
    unsigned done = 0;
    for (; done < count && m.log_last + 1 < LOG_ENTRIES; done++) {
        struct sl_iobuf payload;
        uint32_t crcs[2];
        uint64_t id = m.next_id;
        if (sl_store_prepare_co(group, SL_ENTRY_WRITE, 0, 6, 2) < 0)
            break;
        m.next_id += 2;
        payload_make_co(&m.world, &payload, id, 2, 1);
        sl_crc32c_blocks(payload.spans[0].data, 2, crcs);
        struct sl_store_entry entry = {.index = m.log_last + 1,
                                       .term = m.term,
                                       .type = SL_ENTRY_WRITE,
                                       .first_block = 6,
                                       .block_count = 2,
                                       .crcs = crcs};
        m.log[++m.log_last] = (struct model_entry){m.term, id, false};
        sl_store_append(group, &entry, &payload, &waits[done]);
        sl_iobuf_fini(&payload);
    }
    uint64_t first = m.log_last + 1 - done;
    for (unsigned i = 0; i < done; i++)
        m.log[first + i].durable = sl_store_durable_co(&waits[i]) == 0;
    free(waits);
}

static void log_truncate_co(struct sl_store_group *group)
{
    if (m.log_last <= m.log_applied)
        return;
    uint64_t index = m.log_applied + 1 + draw(m.log_last - m.log_applied);
    m.log_truncating = true;
    m.log_truncated_from = index;
    m.log_old_last = m.log_last;
    if (sl_store_truncate_co(group, index) == 0) {
        m.log_truncating = false;
        m.log_last = index - 1;
    }
}

static void log_client_co(void *argument)
{
    struct sl_store_group *group = sl_store_group_find(m.world.store, LOG_GROUP);
    unsigned rounds = (unsigned)(10 + draw(60));
    while (rounds-- > 0 && !m.crashed && sl_store_failed(m.world.store) == 0 && !m.log_truncating) {
        uint64_t choice = draw(8);
        if (choice < 4) {
            log_append_co(group, (unsigned)(1 + draw(8)));
        } else if (choice == 4) {
            log_truncate_co(group);
        } else if (choice == 5) {
            uint64_t term = m.term + 1, vote = 1 + draw(5);
            /* A vote that is on its way may be found later. */
            if (sl_store_vote_co(group, term, vote) == 0) {
                m.term = term;
                m.vote = vote;
            }
        } else if (m.log_last > m.log_applied && m.log[m.log_last].durable) {
            uint64_t index = m.log_applied + 1 + draw(m.log_last - m.log_applied);
            int error = sl_store_apply_co(group, index);
            if (error == 0)
                m.log_applied = index;
        }
        if (draw(10) == 0)
            (void)sl_store_state_set(group, m.log_applied, &m.log_applied, 8);
    }
    world_leave(&m.world);
}

/* The log after a restart: everything durable, in order, and nothing that was not appended. */
static void log_check_co(void)
{
    struct sl_store_group_status status;
    struct sl_store_group *group = sl_store_group_find(m.world.store, LOG_GROUP);
    assert_non_null(group);
    sl_store_group_status(group, &status);
    if (status.faulty_first != 0) {
        assert_true(m.faults);
        return;
    }
    uint64_t least = 0;
    for (uint64_t i = 1; i <= m.log_last; i++)
        least = m.log[i].durable ? i : least;
    if (m.log_truncating)
        least = sl_min(least, m.log_truncated_from - 1);
    uint64_t most = m.log_truncating ? m.log_old_last : m.log_last;
    if (status.last_index < least || status.last_index > most)
        fprintf(stderr, "SEED=%llu: log ends at %llu, durable to %llu, appended to %llu\n",
                (unsigned long long)m.seed, (unsigned long long)status.last_index,
                (unsigned long long)least, (unsigned long long)most);
    assert_true(status.last_index >= least && status.last_index <= most);
    assert_true(status.boundary_index <= m.log_applied);
    assert_true(status.term >= m.term);
    if (status.term == m.term)
        assert_int_equal(status.vote, m.vote);
    for (uint64_t index = status.boundary_index + 1; index <= status.last_index; index++) {
        struct sl_store_entry entry;
        struct sl_iobuf data;
        uint64_t ids[2];
        assert_int_equal(sl_store_entry_get(group, index, &entry), 0);
        assert_int_equal(entry.term, m.log[index].term);
        sl_iobuf_init(&data);
        int error = sl_store_entry_read_co(group, index, &data);
        assert_true(error == 0 || is_tolerated(error));
        if (error == 0) {
            iobuf_ids(&data, ids);
            assert_int_equal(ids[0], m.log[index].id);
            assert_int_equal(ids[1], m.log[index].id + 1);
        }
        sl_iobuf_fini(&data);
    }
    m.term = status.term;
    m.vote = status.vote;
    m.log_truncating = false;
    m.log_last = status.last_index;
    for (uint64_t i = 1; i <= m.log_last; i++)
        m.log[i].durable = true;
    uint64_t applied = sl_max(m.log_applied, status.boundary_index);
    int error = sl_store_apply_co(group, applied);
    assert_true(error == 0 || is_tolerated(error));
    if (applied > 0 && error == 0) {
        uint64_t ids[2];
        error = read_ids_co(&m.world, group, 0, 6, 2, ids);
        assert_true(error == 0 || is_tolerated(error));
        if (error == 0)
            assert_int_equal(ids[0], m.log[applied].id);
    }
}

/* ---- lives ---- */

static void crasher_co(void *argument)
{
    sl_sleep_co(1 + draw(40) * draw(400) * SL_NS_PER_US);
    m.crashed = true;
    m.crash_count++;
    sl_sim_disk_crash(m.world.sim, NODE, DISK);
    world_leave(&m.world);
}

static void grower_co(void *argument)
{
    struct sl_store *store = m.world.store;
    uint64_t capacity_bytes = store->superblock->capacity_bytes + GROWTH_BYTES;
    sl_sleep_co(1 + draw(5000) * SL_NS_PER_US);
    if (capacity_bytes <= DISK_BYTES) {
        int error = sl_store_grow_co(store, capacity_bytes, m.world.error, sizeof(m.world.error));
        if (error < 0 && !is_tolerated(error))
            fprintf(stderr, "SEED=%llu: grow: %s\n", (unsigned long long)m.seed, m.world.error);
        assert_true(error == 0 || is_tolerated(error));
    }
    world_leave(&m.world);
}

static int apply_all_co(unsigned group)
{
    struct sl_store_group_status status;
    struct sl_store_group *found = sl_store_group_find(m.world.store, group + 1);
    assert_non_null(found);
    sl_store_group_status(found, &status);
    if (status.faulty_first != 0 && !m.faults)
        fail();
    return sl_store_apply_co(found, status.last_index);
}

static void check_all_co(void)
{
    for (unsigned group = 0; group < GROUPS; group++) {
        if (apply_all_co(group) < 0)
            continue; /* of a hole: not served; is_tolerated by note of faults */
        for (unsigned chunk = 0; chunk < CHUNKS; chunk++) {
            for (unsigned first = 0; first < BLOCKS; first += 32)
                read_co(&(struct range){group, chunk, first, 32});
        }
    }
    log_check_co();
}

static void life_co(struct store_world *world)
{
    struct sl_sim_disk_faults *faults = sl_sim_disk_faults(world->sim, NODE, DISK);
    int error = world_open_co(world);
    if (error < 0)
        fprintf(stderr, "SEED=%llu: %s\n", (unsigned long long)m.seed, world->error);
    assert_int_equal(error, 0);
    if (sl_store_group_find(world->store, 1) == NULL) {
        for (unsigned i = 1; i <= GROUPS; i++)
            assert_int_equal(sl_store_group_create_co(world->store, i, 0, 0), 0);
        assert_int_equal(sl_store_group_create_co(world->store, LOG_GROUP, 0, 0), 0);
    }
    if (getenv("VERBOSE") != NULL)
        fprintf(stderr, "a life begins: segments %llu to %llu\n",
                (unsigned long long)world->store->wal.tail_generation,
                (unsigned long long)world->store->wal.head_generation);
    check_all_co();
    if (m.faults) {
        /* In slots and chunks' places: the log's are met by scripts of their own. */
        const struct sl_disk_extent *extent = &world->store->superblock->extents[0];
        faults->begin_bytes = draw(3) == 0 ? extent->meta_offset : extent->data_offset;
        faults->end_bytes = extent->data_offset + extent->slot_count * SL_REGION_BYTES;
        faults->rot_per_million = 3000;
        faults->forgotten_per_million = 1000;
        faults->misdirected_read_per_million = 2000;
        faults->misdirected_write_per_million = 1000;
    }
    /* Only while it is served: what recovery does about EIO is to refuse. */
    faults->read_error_per_million = m.errors ? 2000 : 0;
    m.crashed = false;
    for (unsigned i = 0; i < CLIENTS; i++)
        world_spawn(world, client_co, NULL);
    world_spawn(world, log_client_co, NULL);
    if (draw(4) != 0)
        world_spawn(world, crasher_co, NULL);
    if (draw(4) == 0)
        world_spawn(world, grower_co, NULL);
    world_join_co(world);
    /* Of a sound disk nothing is ever said: half of the seeds scrub all the time. */
    if (!m.errors && !m.faults && !m.crashed)
        assert_int_equal(world->store->statistics.scrub_finding_count, 0);
    world_close_co(world);
    *faults = (struct sl_sim_disk_faults){0};
    m.crashed = false;
}

static void run_seed(uint64_t seed)
{
    struct sl_sim_config config = {.seed = seed, .storage = {.slow_per_million = 3000}};
    memset(&m, 0, sizeof(m));
    m.seed = seed;
    m.next_id = 1;
    world_make(&m.world, &config, DISK_BYTES);
    m.errors = draw(4) == 0;
    m.faults = !m.errors && draw(4) == 0;
    m.world.memory_bytes = draw(2) == 0 ? 8 * SL_MIB : 16 * SL_MIB;
    m.world.config.overlay_bytes = draw(3) == 0 ? 128 * SL_KIB : draw(2) == 0 ? SL_MIB : 0;
    m.world.config.table_bytes = draw(2) == 0 ? 2 * sizeof(struct table) : 0;
    m.world.config.scrub_bytes_per_s = seed % 2 == 0 ? 0 : 16 * SL_GIB;
    m.world.format_bytes = FORMAT_BYTES;
    world_format(&m.world, SL_MIB, (unsigned)(6 + draw(4)));
    for (unsigned life = 0; life < LIVES; life++)
        world_run(&m.world, life_co, NULL);
    world_free(&m.world);
}

static void test_seeds(void **state)
{
    const char *one = getenv("SEED"), *many = getenv("SEEDS"), *from = getenv("FIRST_SEED");
    uint64_t first = from != NULL ? strtoull(from, NULL, 0) : 1;
    uint64_t last = first - 1 + (many != NULL ? strtoull(many, NULL, 0) : 30);
    uint64_t reads = 0, writes = 0, crashes = 0, refused = 0, damaged = 0;
    if (one != NULL && *one != '\0') /* make hands it on when nobody has set it, too */
        first = last = strtoull(one, NULL, 0);
    for (uint64_t seed = first; seed <= last; seed++) {
        m.seed = seed;
        if (getenv("VERBOSE") != NULL)
            fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
        run_seed(seed);
        reads += m.read_count;
        writes += m.write_count;
        crashes += m.crash_count;
        refused += m.refused_count;
        damaged += m.damaged_count;
    }
    fprintf(stderr,
            "%llu seeds: %llu reads (%llu damaged), %llu writes, %llu cut off, %llu crashes\n",
            (unsigned long long)(last - first + 1), (unsigned long long)reads,
            (unsigned long long)damaged, (unsigned long long)writes, (unsigned long long)refused,
            (unsigned long long)crashes);
}

/* Says which seed it was when an assertion of the program ends it. */
static void on_abort(int number)
{
    fprintf(stderr, "SEED=%llu ended the process\n", (unsigned long long)m.seed);
    signal(number, SIG_DFL);
    raise(number);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_seeds)};
    signal(SIGABRT, on_abort);
    sl_log_set_level(getenv("VERBOSE") != NULL ? SL_LOG_INFO : SL_LOG_ERROR);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed != 0)
        fprintf(stderr, "SEED=%llu failed\n", (unsigned long long)m.seed);
    return failed;
}
