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
    message.index.value++; /* entries of another term, */
    message.entry_term.value++;
    sl_replica_send(replica, &message);
    assert_int_equal(lane->jobs, 3);
    message.term.value++; /* another leadership's */
    sl_replica_send(replica, &message);
    assert_int_equal(lane->jobs, 4);
}

/* To a member that has not answered so many. */
static struct sl_lane *send_one_more_co(struct cluster_world *world, unsigned calls)
{
    struct sl_raft_message message;
    struct sl_lane *lane = newest_entry(world, &message);
    lane->calls = calls;
    lane->last = message.index.value;
    sl_replica_send(leader_of(world), &message);
    sl_sleep_co(SL_NS_PER_S);
    return lane;
}

/* Nor does one leave while so many are not answered. */
static void enough_unanswered_co(struct cluster_world *world)
{
    struct sl_lane *lane = send_one_more_co(world, SL_LANE_CALLS_MAX - 1);
    assert_int_equal(lane->jobs, 0);
    lane = send_one_more_co(world, SL_LANE_CALLS_MAX);
    assert_true(lane->jobs == 1 && lane->busy);
    lane->calls = 0;
    sl_wait_queue_wake_all(&lane->answers, 0);
    sl_sleep_co(SL_NS_PER_S);
    assert_int_equal(lane->jobs, 0);
}

/* Nor one before the other: entries that come out of order are refused. */
static void in_order_co(struct cluster_world *world)
{
    struct sl_raft_message message;
    struct sl_lane *lane = newest_entry(world, &message);
    assert_false(lane->busy);
    lane->busy = true;
    send_one_more_co(world, 0);
    assert_true(lane->jobs == 1 && lane->calls == 0);
    assert_true(sl_wait_queue_wake_one(&lane->waiters, 0));
    sl_sleep_co(SL_NS_PER_S);
    assert_true(lane->jobs == 0 && !lane->busy);
}

/* What was put together goes as one, all of it, as soon as one of those before is answered. */
static void together_co(struct cluster_world *world)
{
    struct sl_raft_message message;
    struct sl_lane *lane = newest_entry(world, &message);
    unsigned to = (unsigned)(lane->to - REPLICA(0));
    struct sl_capsule_group_status ours, its;
    lane->calls = SL_LANE_CALLS_MAX;
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(client_write_co(world, i, 1, 100 + i), 0); /* the third one has them */
    assert_int_equal(lane->jobs, 1);
    assert_int_equal(client_status_co(world, world->leader, &ours), 0);
    assert_int_equal(client_status_co(world, to, &its), 0);
    assert_true(its.last < ours.last);
    /* One more call than there may be, and it ends. */
    lane->calls--;
    (void)sl_wait_queue_wake_all(&lane->answers, 0);
    while (lane->jobs > 0)
        sl_sleep_co(SL_NS_PER_US);
    assert_int_equal(lane->calls, SL_LANE_CALLS_MAX);
    assert_int_equal(client_write_co(world, 5, 1, 105), 0);
    sl_sleep_co(20 * SL_NS_PER_MS);
    assert_int_equal(lane->jobs, 0);
    assert_int_equal(lane->calls, SL_LANE_CALLS_MAX - 1);
    assert_int_equal(client_status_co(world, world->leader, &ours), 0);
    assert_int_equal(client_status_co(world, to, &its), 0);
    assert_int_equal(its.last, ours.last);
    lane->calls = 0;
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

static void change_co(struct cluster_world *world, enum sl_group_admin_op op, unsigned node)
{
    struct sl_group_admin admin = {
        .op = op, .group = GROUP, .replica = REPLICA(node), .node = node};
    union sl_capsule reply;
    int error = -EAGAIN;
    for (unsigned i = 0; i < 200 && error == -EAGAIN; i++) {
        error = client_admin_co(world, world->leader, &admin, &reply);
        if (error == 0)
            error = sl_status_to_errno(reply.header.status);
        if (error == -EAGAIN)
            sl_sleep_co(20 * SL_NS_PER_MS);
    }
    assert_int_equal(error, 0);
}

static unsigned member, other;

/* A member leaves its place in the configuration, and comes back to it in the same term, while what
 * it was sent at first is not answered. */
static void back_again_co(struct cluster_world *world)
{
    struct sl_sim_disk_faults *faults =
        sl_sim_disk_faults(world->sim, world->nodes[member].name, DISK_PATH);
    const struct sl_lane *lane = &leader_of(world)->lanes[member - 1];
    faults->stuck_per_million = 1000000;
    faults->stuck_ns = 8 * SL_NS_PER_S;
    assert_int_equal(client_write_co(world, 1, 1, 77), 0);
    sl_sleep_co(10 * SL_NS_PER_MS);
    assert_true(lane->to == REPLICA(member) && lane->calls > 0);
    change_co(world, SL_GROUP_REMOVE, member);
    assert_int_equal(client_write_co(world, 1, 1, 78), 0);
    assert_true(lane->to == REPLICA(other));
    change_co(world, SL_GROUP_ADD_LEARNER, member);
    change_co(world, SL_GROUP_REMOVE, other);
    assert_int_equal(client_write_co(world, 1, 1, 79), 0);
    assert_true(lane->to == REPLICA(member));
    *faults = (struct sl_sim_disk_faults){0};
    sl_sleep_co(20 * SL_NS_PER_S);
    assert_int_equal(lane->calls + lane->jobs, 0);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(client_write_co(world, 1, 1, 80 + i), 0);
    sl_sleep_co(SL_NS_PER_S);
    struct sl_capsule_group_status ours, its;
    assert_int_equal(client_status_co(world, world->leader, &ours), 0);
    assert_int_equal(client_status_co(world, member, &its), 0);
    assert_int_equal(ours.last, its.last);
}

/* Fewer configurations go in a message than the member takes: more were refused for ever. */
static void configure_co(struct cluster_world *world)
{
    change_co(world, SL_GROUP_DEMOTE, member);
    for (unsigned i = 0; i < 5; i++) {
        change_co(world, SL_GROUP_DEMOTE, other);
        change_co(world, SL_GROUP_PROMOTE, other);
    }
}

static void many_configurations(void **state)
{
    struct cluster_world world;
    world_open(&world, 6, 3);
    world_run(&world, make_co);
    member = world.leader % 3 + 1;
    other = 6 - member - world.leader;
    node_end(&world, member, false);
    world_run(&world, configure_co);
    node_start(&world, member);
    world_run(&world, world_all_equal_co);
    world_close(&world);
}

static void back_in_its_place(void **state)
{
    struct cluster_world world;
    for (uint64_t seed = 1;; seed++) { /* whose last member does not lead */
        world_open(&world, seed, 3);
        world_run(&world, make_co);
        if (world.leader != 3)
            break;
        world_close(&world);
    }
    member = 3 - world.leader;
    other = 3;
    world_run(&world, back_again_co);
    world_close(&world);
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

static void it_goes_when_one_is_answered(void **state)
{
    run(4, together_co);
}

static void what_was_sent_is_not_sent_again(void **state)
{
    run(2, unanswered_co);
}

static void to_disk_co(struct cluster_world *world, unsigned number)
{
    assert_int_equal(sl_store_checkpoint_co(leader_of(world)->store), 0);
}

/* What is no longer in memory does not wait: who needs that is far behind, and would stay there. */
static void from_disk_co(struct cluster_world *world)
{
    struct sl_lane *lane = send_one_more_co(world, SL_LANE_CALLS_MAX);
    assert_int_equal(lane->jobs, 0);
    lane->calls = 0;
}

static void few_go_unanswered(void **state)
{
    struct cluster_world world;
    world_open(&world, 3, 3);
    world_run(&world, make_co);
    world_run(&world, in_order_co);
    world_run(&world, enough_unanswered_co);
    node_run(&world, world.leader, to_disk_co);
    world_run(&world, from_disk_co);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_waits_goes_together),
        cmocka_unit_test(it_goes_when_one_is_answered),
        cmocka_unit_test(what_was_sent_is_not_sent_again),
        cmocka_unit_test(few_go_unanswered),
        cmocka_unit_test(back_in_its_place),
        cmocka_unit_test(many_configurations),
    };
    if (getenv("SLUICE_TEST_LOG") == NULL)
        sl_log_set_level(SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
