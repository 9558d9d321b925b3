/*
 * Goal: entries leave a leader for a member once, in few messages, however slow the member is.
 * Method: what the core would say is said to a leader in the simulator, whose lane is looked at.
 */
#include "cluster_world.h"

static void make_co(struct cluster_world *world)
{
    world_create_group_co(world);
    world_attach_co(world);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(client_write_co(world, i, 1, i + 1), 0);
    sl_sleep_co(SL_NS_PER_S);
}

static struct sl_replica *leader_of(struct cluster_world *world)
{
    return sl_cluster_find(world->nodes[world->leader].target->cluster, GROUP);
}

/* The leader's newest entry, for another member; that member's lane. */
static struct sl_lane *newest_entry(struct cluster_world *world, struct sl_raft_message *message)
{
    struct sl_replica *replica = leader_of(world);
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    unsigned to = world->leader % 3 + 1;
    int slot = sl_raft_config_find(sl_raft_get_config(replica->raft), REPLICA(to));
    assert_true(slot >= 0);
    *message = (struct sl_raft_message){.kind = SL_RAFT_APPEND,
                                        .term = status.term,
                                        .to = {REPLICA(to), to},
                                        .index = {status.last.value - 1},
                                        .index_term = status.term,
                                        .entry_term = status.term,
                                        .count = 1};
    return &replica->lanes[slot];
}

/* An APPEND that waits in a member's lane is not made again. */
static void not_twice_co(struct cluster_world *world)
{
    struct sl_replica *replica = leader_of(world);
    struct sl_raft_message message;
    const struct sl_lane *lane = newest_entry(world, &message);
    assert_int_equal(lane->jobs, 0);
    for (unsigned i = 0; i < 100; i++)
        sl_replica_send(replica, &message);
    assert_int_equal(lane->jobs, 1);
    message.index.value--; /* ends before the newest: that one will do */
    sl_replica_send(replica, &message);
    assert_int_equal(lane->jobs, 1);
    message.index.value += 2; /* what is new goes with it */
    sl_replica_send(replica, &message);
    assert_int_equal(lane->jobs, 1);
    assert_int_equal(lane->last, message.index.value + 1);
    message.index.value += 2; /* but for a gap */
    sl_replica_send(replica, &message);
    assert_int_equal(lane->jobs, 2);
    message.term.value++; /* another leadership's */
    sl_replica_send(replica, &message);
    assert_int_equal(lane->jobs, 3);
}

/* Nor does one leave while so many are not answered. */
static void enough_unanswered_co(struct cluster_world *world)
{
    struct sl_raft_message message;
    struct sl_lane *lane = newest_entry(world, &message);
    lane->calls = SL_LANE_CALLS_MAX;
    lane->last = message.index.value;
    sl_replica_send(leader_of(world), &message);
    sl_sleep_co(SL_NS_PER_S);
    assert_int_equal(lane->jobs, 1);
    lane->calls = 0;
    sl_wait_queue_wake_all(&lane->answers, 0);
    sl_sleep_co(SL_NS_PER_S);
    assert_int_equal(lane->jobs, 0);
}

/* Nor is one that was sent and is not answered; a member that is slow is told that its leader is
 * there, and what is committed, by few messages. One came to have all of its leader's memory, and
 * waited for what it would have learnt from a heartbeat (cluster_sim, seed 7000874). */
static void unanswered_co(struct cluster_world *world)
{
    struct sl_replica *replica = leader_of(world);
    struct sl_raft_message message;
    struct sl_lane *lane = newest_entry(world, &message);
    sl_replica_send(replica, &message);
    while (lane->jobs > 0)
        sl_sleep_co(SL_NS_PER_US);
    assert_int_equal(lane->calls, 1);
    for (unsigned i = 0; i < 100; i++)
        sl_replica_send(replica, &message);
    assert_int_equal(lane->jobs, 0);
    assert_int_equal(lane->beats, 2);
    message.index.value--; /* it has said that it lacks what comes before */
    message.count = 2;
    sl_replica_send(replica, &message);
    assert_int_equal(lane->jobs, 1);
    sl_sleep_co(SL_NS_PER_S);
    assert_int_equal(lane->beats + lane->calls + lane->jobs, 0);
}

static void run(uint64_t seed, void (*co)(struct cluster_world *world))
{
    struct cluster_world world;
    world_open(&world, seed, 3);
    world_run(&world, make_co);
    world_run(&world, co);
    world_close(&world);
}

static void what_waits_goes_together(void **state)
{
    run(1, not_twice_co);
}

static void what_was_sent_is_not_sent_again(void **state)
{
    run(2, unanswered_co);
}

static void few_go_unanswered(void **state)
{
    run(3, enough_unanswered_co);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_waits_goes_together),
        cmocka_unit_test(what_was_sent_is_not_sent_again),
        cmocka_unit_test(few_go_unanswered),
    };
    if (getenv("SLUICE_TEST_LOG") == NULL)
        sl_log_set_level(SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
