/*
 * Goal: rules of replicas that no fault shows for certain, each by itself: answers ride in replies,
 * idle groups share their heartbeats, and groups of a disk its log; what is out of a session's
 * window is refused. Method: nodes of a simulated cluster (cluster_world.h), looked at from within.
 */
#include "cluster_world.h"

static void make_co(struct cluster_world *world)
{
    world_create_group_co(world);
    world_attach_co(world);
}

/* ---- messages ---- */

static uint64_t sent_count(const struct cluster_world *world, unsigned number)
{
    struct sl_fabric_statistics statistics;
    sl_fabric_statistics(world->nodes[number].peering, &statistics);
    return statistics.message_sent_count;
}

enum { WRITES = 200 };

/* A write costs its leader a message to each follower, and a follower none. */
static void writes_co(struct cluster_world *world)
{
    uint64_t before[4] = {0};
    assert_int_equal(client_write_co(world, 0, 1, 1), 0);
    for (unsigned i = 1; i <= 3; i++)
        before[i] = sent_count(world, i);
    for (unsigned i = 0; i < WRITES; i++)
        assert_int_equal(client_write_co(world, i, 1, i + 1), 0);
    for (unsigned i = 1; i <= 3; i++) {
        uint64_t sent = sent_count(world, i) - before[i];
        if (i == world->leader)
            assert_in_range(sent, 2 * WRITES, 3 * WRITES);
        else
            assert_true(sent < WRITES / 4);
    }
}

/* Under a read lease a read costs no message at all (docs/replication.md). */
static void reads_co(struct cluster_world *world)
{
    sl_sleep_co(SL_NS_PER_S);
    uint64_t before = sent_count(world, world->leader);
    for (unsigned i = 0; i < WRITES; i++)
        client_expect_co(world, i, 1, i + 1);
    assert_true(sent_count(world, world->leader) - before < WRITES / 4);
}

static void answers_ride_in_replies(void **state)
{
    struct cluster_world world;
    world_open(&world, 1, 3);
    world_run(&world, make_co);
    world_run(&world, writes_co);
    world_run(&world, reads_co);
    world_close(&world);
}

/* ---- idle groups ---- */

enum { GROUPS = 12 };

static void many_groups_co(struct cluster_world *world)
{
    for (unsigned group = 0; group < GROUPS; group++) {
        for (unsigned number = 1; number <= 3; number++) {
            struct sl_group_admin admin = {.op = SL_GROUP_CREATE,
                                           .member_count = 3,
                                           .group = GROUP + group,
                                           .size_bytes = SL_CHUNK_BYTES,
                                           .replica = REPLICA(16 * group + number),
                                           .node = number};
            for (unsigned i = 0; i < 3; i++)
                admin.members[i] =
                    (struct sl_group_member){REPLICA(16 * group + i + 1), i + 1, SL_GROUP_VOTER};
            union sl_capsule reply;
            assert_int_equal(client_admin_co(world, number, &admin, &reply), 0);
        }
    }
}

static uint64_t all_sent(const struct cluster_world *world)
{
    return sent_count(world, 1) + sent_count(world, 2) + sent_count(world, 3);
}

/* At most a beat from each node to each other one, however many groups they share. */
static void idle_groups_share_beats(void **state)
{
    struct cluster_world world;
    world_open(&world, 2, 3);
    world_run(&world, many_groups_co);
    world_wait(&world, 20 * SL_NS_PER_S);
    const struct sl_raft_tuning *tuning = &world.nodes[1].target->cluster->tuning;
    uint64_t before = all_sent(&world), beats = 100;
    world_wait(&world, beats * tuning->heartbeat_ns);
    assert_in_range(all_sent(&world) - before, beats, 6 * (beats + beats / 10));
    world_close(&world);
}

/* ---- logs ---- */

/* What all groups of a disk have proposed fits into its log, whatever one alone might have. */
static void shares_co(struct cluster_world *world)
{
    for (unsigned number = 1; number <= 3; number++) {
        struct sl_target_cluster *cluster = world->nodes[number].target->cluster;
        uint64_t all = 0;
        struct sl_store_info info = {0};
        for (unsigned group = 0; group < GROUPS; group++) {
            const struct sl_replica *replica = sl_cluster_find(cluster, GROUP + group);
            assert_non_null(replica);
            sl_store_info(replica->store, &info);
            assert_true(replica->tuning.uncommitted_bytes <= cluster->tuning.uncommitted_bytes);
            all += replica->tuning.uncommitted_bytes;
        }
        assert_true(cluster->tuning.uncommitted_bytes * GROUPS > info.uncommitted_bytes_max);
        assert_in_range(all, info.uncommitted_bytes_max / 2, info.uncommitted_bytes_max);
    }
}

static void logs_are_shared(void **state)
{
    struct cluster_world world;
    world_open(&world, 5, 3);
    world_run(&world, many_groups_co);
    world_run(&world, shares_co);
    world_close(&world);
}

/* ---- sessions ---- */

static int write_numbered_co(struct cluster_world *world, uint64_t sequence, uint16_t unfinished)
{
    union sl_capsule request, reply;
    struct sl_group_message *io = client_request(&request, SL_IO_WRITE_ZEROES);
    io->session = world->session;
    io->sequence = sequence;
    io->unfinished = unfinished;
    io->volume = VOLUME;
    io->epoch = world->epoch;
    io->length_bytes = SL_BLOCK_BYTES;
    return client_group_co(world, &request, NULL, &reply);
}

/* Each number's place in its session's window. */
static void window_co(struct cluster_world *world)
{
    make_co(world);
    assert_int_equal(write_numbered_co(world, 0, 0), -EINVAL);
    assert_int_equal(write_numbered_co(world, 5, 5), -EINVAL);
    assert_int_equal(write_numbered_co(world, 5, 4), 0);
    assert_int_equal(write_numbered_co(world, SL_SESSION_WINDOW + 2, SL_SESSION_WINDOW), -EINVAL);
    assert_int_equal(write_numbered_co(world, SL_SESSION_WINDOW, SL_SESSION_WINDOW - 1), 0);
    assert_int_equal(write_numbered_co(world, SL_SESSION_WINDOW, 0), 0); /* again */
    assert_int_equal(write_numbered_co(world, 5, 0), -EINVAL); /* it said that this is done */
}

static void windows_are_kept(void **state)
{
    struct cluster_world world;
    world_open(&world, 4, 3);
    world_run(&world, window_co);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_ride_in_replies),
        cmocka_unit_test(idle_groups_share_beats),
        cmocka_unit_test(logs_are_shared),
        cmocka_unit_test(windows_are_kept),
    };
    if (getenv("SLUICE_TEST_LOG") == NULL)
        sl_log_set_level(SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
