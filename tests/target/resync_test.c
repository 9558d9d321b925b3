/*
 * Goal: a replica that lags behind the log is brought up to date though blocks are lost elsewhere:
 * whoever has one gives it, what nobody has stays lost and holds nothing else up. Method: targets
 * in the simulator whose disks are spoilt behind their backs while one of them is away.
 */
#include "cluster_world.h"

#include "core/crc32c.h"
#include "store/format_meta.h"
#include "store/private.h"
#include "target/replica_state.h"
#include "target/resync_capsule.h"

/* Beyond what world_write_much_co() writes; two blocks of one region and one read. */
enum { BLOCK = 3010, COUNT = 8, VALUE = 4242 };

static unsigned away, other;

static void make_co(struct cluster_world *world)
{
    world_create_group_co(world);
    world_attach_co(world);
    assert_int_equal(client_write_co(world, BLOCK, COUNT, VALUE), 0);
    world_all_equal_co(world);
}

/* The region is newer than what the node that is away has, and so is the log. */
static void go_on_co(struct cluster_world *world)
{
    assert_int_equal(client_write_co(world, BLOCK + COUNT, 1, VALUE + 1), 0);
    world_write_much_co(world);
}

static void open_without_one(struct cluster_world *world, uint64_t seed)
{
    world_open(world, seed, 3);
    world_run(world, make_co);
    away = world->leader % 3 + 1;
    other = 6 - away - world->leader;
    node_end(world, away, false);
    world_run(world, go_on_co);
}

static void spoil(struct cluster_world *world, unsigned number, uint64_t block)
{
    assert_true(node_find_block(world, number, block, VALUE, true) > 0);
}

static void come_back(struct cluster_world *world)
{
    node_start(world, away);
    world_run(world, world_all_equal_co);
}

static void expect_all_co(struct cluster_world *world)
{
    client_expect_co(world, BLOCK, COUNT, VALUE);
    client_expect_co(world, BLOCK + COUNT, 1, VALUE + 1);
}

/* The leader lacks one block of a region and the other one another: neither could give the whole
 * region, and so the resync began anew for ever. The reader of both blocks was told that they are
 * lost. */
static void each_lacks_another(void **state)
{
    struct cluster_world world;
    open_without_one(&world, 8);
    spoil(&world, world.leader, BLOCK + 3);
    spoil(&world, other, BLOCK + 5);
    world_run(&world, expect_all_co);
    assert_true(node_find_block(&world, world.leader, BLOCK + 3, VALUE, true) > 0);
    come_back(&world);
    world_run(&world, expect_all_co);
    assert_true(node_find_block(&world, world.leader, BLOCK + 3, VALUE, false) > 0);
    assert_true(node_find_block(&world, away, BLOCK + 3, VALUE, false) > 0);
    world_close(&world);
}

/* The only one that has the block is the one that is behind in its region: it keeps what it has,
 * and gives it to the others. */
static void who_lags_has_it(void **state)
{
    struct cluster_world world;
    open_without_one(&world, 9);
    spoil(&world, world.leader, BLOCK + 3);
    spoil(&world, other, BLOCK + 3);
    come_back(&world);
    world_run(&world, expect_all_co);
    assert_true(node_find_block(&world, world.leader, BLOCK + 3, VALUE, false) > 0);
    world_close(&world);
}

static void expect_lost_co(struct cluster_world *world)
{
    assert_int_equal(client_read_co(world, BLOCK + 3, 1), -SL_E_CHECKSUM);
    client_expect_co(world, BLOCK, 3, VALUE);
    client_expect_co(world, BLOCK + 4, COUNT - 4, VALUE);
    client_expect_co(world, BLOCK + COUNT, 1, VALUE + 1);
}

static void write_anew_co(struct cluster_world *world)
{
    assert_int_equal(client_write_co(world, BLOCK + 3, 1, VALUE), 0);
    world_all_equal_co(world);
}

/* Nobody has it (cluster_sim, seed 3001924): it is lost on whom the others bring up to date, too,
 * until it is written. */
static void nobody_has_it(void **state)
{
    struct cluster_world world;
    open_without_one(&world, 10);
    spoil(&world, world.leader, BLOCK + 3);
    spoil(&world, other, BLOCK + 3);
    spoil(&world, away, BLOCK + 3);
    uint64_t before_ns = sl_sim_now_ns(world.sim);
    come_back(&world);
    assert_in_range(sl_sim_now_ns(world.sim) - before_ns, 0, 4 * SL_NS_PER_S); /* who would come? */
    world_run(&world, expect_lost_co);
    assert_true(node_find_block(&world, away, BLOCK + 4, VALUE, false) > 0);
    world_run(&world, write_anew_co);
    world_run(&world, expect_all_co);
    world_close(&world);
}

static uint64_t resync_count(struct cluster_world *world)
{
    uint64_t count = 0;
    for (unsigned i = 1; i <= world->node_count; i++) {
        struct sl_target_statistics statistics = {0};
        if (world->nodes[i].up)
            sl_target_statistics(world->nodes[i].target, &statistics);
        count += statistics.resync_count;
    }
    return count;
}

/* One disk is slower than the others', by so much that its node would be outrun again and again: a
 * resync of all that was written each time, for what a part of the log does. */
static void who_is_slow_is_fed(void **state)
{
    struct cluster_world world;
    world_open(&world, 11, 3);
    world.segment_count = 16; /* of eight, three are kept free */
    for (unsigned i = 1; i <= 3; i++) {
        node_end(&world, i, false);
        node_format(&world, i);
        node_start(&world, i);
    }
    world_run(&world, make_co);
    unsigned slow = world.leader % 3 + 1;
    struct sl_sim_disk_faults *faults =
        sl_sim_disk_faults(world.sim, world.nodes[slow].name, DISK_PATH);
    faults->stuck_per_million = 1000000;
    faults->stuck_ns = 10 * SL_NS_PER_MS;
    for (unsigned i = 0; i < 3; i++)
        world_run(&world, world_write_much_co);
    assert_int_equal(resync_count(&world), 0);
    *faults = (struct sl_sim_disk_faults){0};
    world_run(&world, world_all_equal_co);
    assert_int_equal(resync_count(&world), 0);
    world_close(&world);
}

static void write_last_co(struct cluster_world *world)
{
    assert_int_equal(client_write_co(world, BLOCK, COUNT, VALUE + 2), 0);
}

static void expect_last_co(struct cluster_world *world)
{
    client_expect_co(world, BLOCK, COUNT, VALUE + 2);
}

/* What the leader wrote last is in its memory and in its log, not in its place yet, and damaged in
 * the log: the other one gives it, though it cannot be mended there. It was asked for again and
 * again, for ever. */
static void damaged_in_the_log(void **state)
{
    struct cluster_world world;
    open_without_one(&world, 11);
    world_run(&world, write_last_co);
    assert_true(node_find_block(&world, world.leader, BLOCK + 3, VALUE + 2, true) > 0);
    come_back(&world);
    assert_true(node_find_block(&world, away, BLOCK + 3, VALUE + 2, false) > 0);
    world_run(&world, expect_last_co);
    world_close(&world);
}

static unsigned couple[2];

static void couple_equal_co(struct cluster_world *world)
{
    struct sl_capsule_group_status a, b;
    for (unsigned tries = 0; tries < 1000; tries++) {
        if (client_status_co(world, couple[0], &a) == 0 &&
            client_status_co(world, couple[1], &b) == 0 && a.applied == a.last &&
            b.applied == a.last && b.last == a.last)
            return;
        sl_sleep_co(20 * SL_NS_PER_MS);
    }
    fail_msg("nodes %u and %u do not become equal", couple[0], couple[1]);
}

/* Its source had lost a block, and so it lacks it, too; and gives a state itself to the only one
 * that has it: which version was lost is still known, and that is kept. */
static void lost_is_handed_on(void **state)
{
    struct cluster_world world;
    open_without_one(&world, 12);
    unsigned first = world.leader;
    node_end(&world, other, false);
    spoil(&world, first, BLOCK + 3);
    spoil(&world, away, BLOCK + 3);
    node_start(&world, away);
    couple[0] = first;
    couple[1] = away;
    world_run(&world, couple_equal_co);
    world_run(&world, go_on_co);
    world_run(&world, couple_equal_co);
    node_end(&world, first, false);
    node_start(&world, other);
    couple[0] = other;
    world_run(&world, couple_equal_co);
    world_run(&world, expect_all_co);
    assert_true(node_find_block(&world, other, BLOCK + 3, VALUE, false) > 0);
    node_start(&world, first);
    world_run(&world, world_all_equal_co);
    world_run(&world, expect_all_co);
    world_close(&world);
}

/* While it waits for its turn it is remembered that it was outrun. */
static void stay_behind_co(struct cluster_world *world)
{
    struct sl_replica *replica =
        sl_cluster_find(world->nodes[world->leader].target->cluster, GROUP);
    sl_sleep_co(SL_NS_PER_S);
    replica->feeds[replica->feed_count++] = (struct sl_feed){
        .member = REPLICA(away), .match = 1, .ns = sl_sim_now_ns(world->sim), .strict = true};
    sl_sleep_co(5 * SL_NS_PER_S);
    assert_int_equal(resync_count(world), 0);
    assert_int_equal(replica->feed_count, 1);
    assert_true(replica->feeds[0].strict);
}

static void forgotten_co(struct cluster_world *world)
{
    struct sl_replica *replica =
        sl_cluster_find(world->nodes[world->leader].target->cluster, GROUP);
    sl_sleep_co(5 * SL_NS_PER_S);
    assert_int_equal(replica->feed_count, 0);
}

/* What a member needed has gone from the log: nothing is held for it, and nobody waits. But it is
 * remembered: when it has its state, writes wait for it, or it would be outrun for ever. */
static void expect_outrun_co(struct cluster_world *world)
{
    struct sl_replica *replica =
        sl_cluster_find(world->nodes[world->leader].target->cluster, GROUP);
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    assert_true(status.boundary.value > 1);
    replica->feeds[replica->feed_count++] = (struct sl_feed){.member = REPLICA(away),
                                                             .match = status.boundary.value - 1,
                                                             .ns = sl_sim_now_ns(world->sim),
                                                             .strict = true};
    sl_replica_feed(replica);
    assert_true(replica->log->held == SL_HELD_NONE);
    assert_int_equal(replica->feed_count, 1);
    replica->feeds[0].match++;
    sl_replica_feed(replica);
    assert_int_equal(replica->log->held, status.boundary.value);
    assert_true(replica->log->held_strictly);
}

static void who_is_outrun_holds_nobody_up(void **state)
{
    struct cluster_world world;
    open_without_one(&world, 13);
    world_run(&world, expect_outrun_co);
    world_close(&world);
}

static void second_round_co(struct cluster_world *world)
{
    struct sl_replica *replica =
        sl_cluster_find(world->nodes[world->leader].target->cluster, GROUP);
    struct sl_raft_status status;
    while (replica->resyncing == 0 || replica->feed_count == 0)
        sl_sleep_co(SL_NS_PER_MS);
    uint64_t first = replica->feeds[0].match;
    world_write_much_co(world);
    sl_raft_get_status(replica->raft, &status);
    assert_true(status.boundary.value > first && replica->resyncing != 0);
    while (replica->feed_count == 0 || replica->resyncing == 0 || replica->feeds[0].match <= first)
        sl_sleep_co(SL_NS_PER_MS);
    assert_true(replica->feeds[0].strict);
}

/* Whose first round was outrun is waited for in the second. */
static void outrun_in_a_round(void **state)
{
    struct cluster_world world;
    open_without_one(&world, 14);
    struct sl_sim_disk_faults *faults =
        sl_sim_disk_faults(world.sim, world.nodes[away].name, DISK_PATH);
    node_start(&world, away);
    faults->stuck_per_million = 1000000;
    faults->stuck_ns = 100 * SL_NS_PER_MS;
    world_run(&world, second_round_co);
    *faults = (struct sl_sim_disk_faults){0};
    world_run(&world, world_all_equal_co);
    world_close(&world);
}

static unsigned marked;

static struct sl_replica *marked_replica(struct cluster_world *world)
{
    return sl_cluster_find(world->nodes[marked].target->cluster, GROUP);
}

static void stop_applying_co(struct cluster_world *world, unsigned number)
{
    marked_replica(world)->copying = 1;
}

static void mark_co(struct cluster_world *world, unsigned number)
{
    struct sl_replica *replica = marked_replica(world);
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    assert_true(replica->applied + 4 < status.last.value);
    replica->copying = replica->applied + 4;
    assert_int_equal(sl_replica_state_save(replica), 0);
    assert_int_equal(sl_store_checkpoint_co(replica->store), 0);
}

static void write_ten_co(struct cluster_world *world)
{
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(client_write_co(world, BLOCK + SL_REGION_BLOCKS, COUNT, VALUE + 1 + i), 0);
    sl_sleep_co(SL_NS_PER_S);
}

static void expect_tenth_co(struct cluster_world *world)
{
    client_expect_co(world, BLOCK + SL_REGION_BLOCKS, COUNT, VALUE + 10);
}

/* The leader and `marked` are there. Answers who has lost its power. */
static unsigned open_without_third(struct cluster_world *world, uint64_t seed)
{
    world_open(world, seed, 3);
    world_run(world, make_co);
    marked = world->leader % 3 + 1;
    unsigned third = 6 - marked - world->leader;
    node_end(world, third, true);
    return third;
}

/* A resync is begun, its mark durable, when the entries come after all; then the power goes. The
 * source does not come back, and the third one has older entries: nobody led, for who copies does
 * not, and has more than who asks for its vote. */
static void mark_is_outrun(void **state)
{
    struct cluster_world world;
    unsigned third = open_without_third(&world, 14);
    node_run(&world, marked, stop_applying_co);
    world_run(&world, write_ten_co);
    node_run(&world, marked, mark_co);
    node_end(&world, marked, true);
    node_end(&world, world.leader, true);
    node_start(&world, marked);
    node_start(&world, third);
    world_run(&world, expect_tenth_co);
    world_close(&world);
}

static struct {
    union sl_capsule request, reply;
    struct sl_connection *connection;
    int error;
} offer;

static void hold_applier_co(struct cluster_world *world, unsigned number)
{
    marked_replica(world)->applier_running = true;
}

static void release_applier_co(struct cluster_world *world, unsigned number)
{
    struct sl_replica *replica = marked_replica(world);
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    assert_true(replica->copying != 0 && replica->applied < status.last.value);
    replica->applier_running = false;
    sl_wait_queue_wake_all(&replica->progress, 0);
}

static void offer_co(void *argument)
{
    int error = sl_connection_call_co(offer.connection, &offer.request, NULL, 0, &offer.reply);
    offer.error = error < 0 ? error : sl_status_to_errno(offer.reply.header.status);
}

/* A BEGIN with the leader's state, which waits for what applies over there. */
static void send_offer_co(struct cluster_world *world, unsigned number)
{
    struct sl_replica *leading = sl_cluster_find(world->nodes[number].target->cluster, GROUP);
    struct sl_capsule_resync *body = (void *)&offer.request;
    struct sl_raft_status status;
    sl_raft_get_status(leading->raft, &status);
    *body = (struct sl_capsule_resync){
        .header = {.type = SL_CAPSULE_RAFT, .length_bytes = sizeof(*body)},
        .op = SL_RAFT_OP_RESYNC,
        .step = SL_RESYNC_BEGIN,
        .group = GROUP,
        .from = leading->id,
        .to = REPLICA(marked),
        .term = status.term.value,
        .index = status.commit.value,
        .index_term = sl_raft_term_at(leading->raft, status.commit).value,
    };
    offer.error = 1;
    offer.connection = sl_peer_of_group(leading->cluster, marked, GROUP);
    assert_int_equal(sl_co_spawn(world->nodes[number].node.reactor, offer_co, NULL), 0);
}

/* The same while it runs, and nothing is lost: the entries were under way when their leader saw
 * that a state is needed. Who has the state's entry in its log does not begin. */
static void state_is_in_the_log(void **state)
{
    struct cluster_world world;
    unsigned third = open_without_third(&world, 15);
    node_run(&world, marked, hold_applier_co);
    world_run(&world, write_ten_co);
    node_run(&world, world.leader, send_offer_co);
    world_wait(&world, 100 * SL_NS_PER_MS);
    assert_int_equal(offer.error, -EAGAIN); /* at once */
    assert_int_equal(marked_replica(&world)->copying, 0);
    marked_replica(&world)->applier_running = false;
    node_end(&world, world.leader, true);
    node_start(&world, third);
    world_run(&world, expect_tenth_co);
    world_close(&world);
}

static void write_elsewhere_co(struct cluster_world *world)
{
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(client_write_co(world, i, 1, 500 + i), 0);
}

static void expect_elsewhere_co(struct cluster_world *world)
{
    for (unsigned i = 0; i < 10; i++)
        client_expect_co(world, i, 1, 500 + i);
}

static struct sl_lane *lane_to_marked(struct cluster_world *world)
{
    struct sl_replica *replica =
        sl_cluster_find(world->nodes[world->leader].target->cluster, GROUP);
    int slot = sl_raft_config_find(sl_raft_get_config(replica->raft), REPLICA(marked));
    assert_true(slot >= 0 && replica->lanes[slot].to == REPLICA(marked));
    return &replica->lanes[slot];
}

static uint64_t marked_last(struct cluster_world *world)
{
    struct sl_raft_status status;
    sl_raft_get_status(marked_replica(world)->raft, &status);
    return status.last.value;
}

/* Or they come while the mark is written: it is taken back, from the disk, too. */
static void state_comes_meanwhile(void **state)
{
    struct cluster_world world;
    world_open(&world, 16, 3);
    world_run(&world, make_co);
    marked = world.leader % 3 + 1;
    node_run(&world, marked, hold_applier_co);
    lane_to_marked(&world)->calls = SL_LANE_CALLS_MAX; /* nothing goes there */
    uint64_t before = marked_last(&world);
    world_run(&world, write_elsewhere_co);
    assert_int_equal(marked_last(&world), before);
    node_run(&world, world.leader, send_offer_co);
    world_wait(&world, 100 * SL_NS_PER_MS);
    assert_int_equal(offer.error, 1);
    lane_to_marked(&world)->calls = 0;
    (void)sl_wait_queue_wake_all(&lane_to_marked(&world)->answers, 0);
    world_wait(&world, 100 * SL_NS_PER_MS);
    assert_true(marked_last(&world) >= before + 10);
    node_run(&world, marked, release_applier_co);
    world_wait(&world, SL_NS_PER_S);
    assert_int_equal(offer.error, -EAGAIN);
    assert_int_equal(marked_replica(&world)->copying, 0);
    node_end(&world, marked, true);
    struct sl_replica_memory memory = {0};
    node_start(&world, marked);
    struct sl_store_group *log = marked_replica(&world)->log;
    struct sl_store_group_status status;
    sl_store_group_status(log, &status);
    assert_null(sl_replica_state_parse(sl_store_state(log), status.state_bytes, &memory));
    assert_int_equal(memory.copying, 0);
    world_run(&world, world_all_equal_co);
    world_run(&world, expect_elsewhere_co);
    world_close(&world);
}

static void expect_blocks_co(struct cluster_world *world, unsigned number)
{
    static uint8_t block[SL_BLOCK_BYTES];
    uint32_t crcs[SL_REGION_BLOCKS];
    uint64_t index;
    assert_int_equal(sl_store_region_crcs_co(marked_replica(world)->log, 0,
                                             BLOCK / SL_REGION_BLOCKS, &index, crcs),
                     0);
    for (unsigned i = 0; i < COUNT; i++) {
        fill_block(block, BLOCK + i, VALUE);
        assert_int_equal(crcs[BLOCK % SL_REGION_BLOCKS + i],
                         sl_crc_stored(sl_crc32c(0, block, sizeof(block))));
    }
}

/* What was applied when the mark was made stood in the log alone; then the resync is broken off by
 * a loss of power, and begins behind that. Those blocks were given up (cluster_sim, seed 14001679).
 */
static void applied_before_the_mark(void **state)
{
    struct cluster_world world;
    world_open(&world, 17, 3);
    world_run(&world, make_co);
    marked = world.leader % 3 + 1;
    node_run(&world, marked, hold_applier_co);
    world_run(&world, write_ten_co); /* keeps the log there */
    lane_to_marked(&world)->calls = SL_LANE_CALLS_MAX;
    world_run(&world, write_elsewhere_co);
    node_run(&world, world.leader, send_offer_co);
    world_wait(&world, 100 * SL_NS_PER_MS);
    node_run(&world, marked, release_applier_co);
    while (offer.error == 1)
        world_wait(&world, SL_NS_PER_US);
    assert_int_equal(offer.error, 0);
    node_end(&world, marked, true);
    node_start(&world, marked);
    world_run(&world, world_all_equal_co);
    assert_true(resync_count(&world) > 0);
    node_run(&world, marked, expect_blocks_co);
    world_close(&world);
}

/* So many states are given at a time, and no more; then it is asked again. */
static void few_at_a_time(void **state)
{
    struct cluster_world world;
    open_without_one(&world, 12);
    struct sl_target_cluster *leading = world.nodes[world.leader].target->cluster;
    leading->source_count += SL_RESYNC_SOURCES_MAX;
    node_start(&world, away);
    world_run(&world, stay_behind_co);
    node_end(&world, away, false);
    world_run(&world, forgotten_co);
    node_start(&world, away);
    world_run(&world, stay_behind_co);
    leading->source_count -= SL_RESYNC_SOURCES_MAX;
    world_run(&world, world_all_equal_co);
    assert_true(resync_count(&world) > 0);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_is_slow_is_fed),      cmocka_unit_test(who_is_outrun_holds_nobody_up),
        cmocka_unit_test(few_at_a_time),           cmocka_unit_test(each_lacks_another),
        cmocka_unit_test(who_lags_has_it),         cmocka_unit_test(nobody_has_it),
        cmocka_unit_test(damaged_in_the_log),      cmocka_unit_test(lost_is_handed_on),
        cmocka_unit_test(mark_is_outrun),          cmocka_unit_test(outrun_in_a_round),
        cmocka_unit_test(state_is_in_the_log),     cmocka_unit_test(state_comes_meanwhile),
        cmocka_unit_test(applied_before_the_mark),
    };
    if (getenv("SLUICE_TEST_LOG") == NULL)
        sl_log_set_level(SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
