/*
 * Goal: a group of replicas keeps what it acknowledged, through elections, restarts and crashes,
 * and answers each of a session's writes once. Method: targets with disks of the store in the
 * simulator, over its link; a client that speaks the wire's GROUP_IO and GROUP_ADMIN.
 */
#include "cluster_world.h"

#include "store/private.h"

/* All three end, or crash, and come back. */
static void restart_all(struct cluster_world *world, bool crash)
{
    for (unsigned i = 1; i <= 3; i++)
        node_end(world, i, crash);
    for (unsigned i = 1; i <= 3; i++)
        node_start(world, i);
}

static void basic_co(struct cluster_world *world)
{
    world_create_group_co(world);
    assert_int_equal(client_create_co(world, 1, world->node_count), -EEXIST);
    world_attach_co(world);
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(client_write_co(world, i * 3, 1 + i % 4, i + 1), 0);
    for (uint64_t i = 0; i < 20; i++)
        client_expect_co(world, i * 3, 1, i + 1);
    client_expect_co(world, 4000, 16, 0);
    /* By READ: client to leader, leader to followers. */
    assert_int_equal(client_write_co(world, 512, 64, 99), 0);
    client_expect_co(world, 512, 64, 99);
}

static void one_works(void **state)
{
    struct cluster_world world;
    world_open(&world, 1, 1);
    world_run(&world, basic_co);
    world_close(&world);
}

/* On no node does a CPU copy payload, whichever way it came and went. */
static void nothing_was_copied(struct cluster_world *world)
{
    for (unsigned i = 1; i <= world->node_count; i++) {
        const struct sl_copy_counters *copies = sl_memory_copies(world->nodes[i].node.memory);
        for (unsigned reason = 0; reason < SL_COPY_REASON_COUNT; reason++)
            assert_int_equal(copies->bytes[reason], 0);
    }
}

static void three_work(void **state)
{
    struct cluster_world world;
    world_open(&world, 2, 3);
    world_run(&world, basic_co);
    nothing_was_copied(&world);
    world_close(&world);
}

/* ---- many at once ---- */

enum { MANY = 24, MANY_ROUNDS = 20 };

struct many {
    struct cluster_world *world;
    uint64_t sequence, block;
    unsigned *left;
    struct sl_wait_queue *done;
};

static void zero_co(void *argument)
{
    struct many *many = argument;
    union sl_capsule request, reply;
    struct sl_group_message *io = client_request(&request, SL_IO_WRITE_ZEROES);
    io->session = many->world->session;
    io->sequence = many->sequence;
    io->unfinished = MANY; /* none of the others is known to have ended */
    io->volume = VOLUME;
    io->epoch = many->world->epoch;
    io->offset_bytes = many->block * SL_BLOCK_BYTES;
    io->length_bytes = SL_BLOCK_BYTES;
    assert_int_equal(client_group_co(many->world, &request, NULL, &reply), 0);
    if (--*many->left == 0)
        sl_wait_queue_wake_all(many->done, 0);
}

static uint64_t commit_co(struct cluster_world *world)
{
    struct sl_capsule_group_status status;
    assert_int_equal(client_status_co(world, world->leader, &status), 0);
    return status.commit;
}

static void zero_together_co(struct cluster_world *world)
{
    struct many many[MANY];
    struct sl_wait_queue done;
    unsigned left = MANY;
    sl_wait_queue_init(&done);
    for (unsigned i = 0; i < MANY; i++) {
        many[i] = (struct many){world, ++world->sequence, i, &left, &done};
        assert_int_equal(sl_co_spawn(sl_io_reactor(world->client.io), zero_co, &many[i]), 0);
    }
    while (left > 0)
        sl_wait_queue_co(&done);
}

/* Committed together, each has its own answer, at once: nobody has to ask again. */
static void many_co(struct cluster_world *world)
{
    world_create_group_co(world);
    world_attach_co(world);
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(client_write_co(world, i, 1, 1), 0);
    uint64_t commit = commit_co(world), moved_count = world->moved_count;
    for (unsigned round = 0; round < MANY_ROUNDS; round++)
        zero_together_co(world);
    assert_int_equal(world->moved_count, moved_count);
    assert_int_equal(commit_co(world), commit + MANY * MANY_ROUNDS);
    client_expect_co(world, 0, MANY, 0);
}

static void many_at_once(void **state)
{
    struct cluster_world world;
    world_open(&world, 11, 3);
    world_run(&world, many_co);
    world_close(&world);
}

/* ---- what is let into the log ---- */

struct passer {
    struct sl_gate *gate;
    uint64_t bytes;
    unsigned *passed;
};

static void pass_co(void *argument)
{
    static const uint64_t bytes_max = 10;
    struct passer *passer = argument;
    sl_gate_enter_co(passer->gate, passer->bytes, &bytes_max);
    *passer->passed = *passer->passed * 10 + (unsigned)passer->bytes;
}

static void await_passed_co(const unsigned *passed, unsigned wanted)
{
    for (unsigned i = 0; i < 10; i++)
        sl_yield_co();
    assert_int_equal(*passed, wanted);
}

/* Small ones that come later, and would fit, would keep a large one out for ever. */
static void gate_co(struct cluster_world *world)
{
    struct sl_gate gate = {0};
    unsigned passed = 0;
    struct passer passers[] = {
        {&gate, 5, &passed}, {&gate, 8, &passed}, {&gate, 1, &passed}, {&gate, 1, &passed}};
    sl_gate_init(&gate);
    for (unsigned i = 0; i < SL_COUNT_OF(passers); i++)
        assert_int_equal(sl_co_spawn(sl_io_reactor(world->client.io), pass_co, &passers[i]), 0);
    await_passed_co(&passed, 5);
    sl_gate_leave(&gate, 5);
    await_passed_co(&passed, 5811);
    sl_gate_leave(&gate, 8 + 1 + 1);
    /* One alone is let in whatever it has. */
    passers[0].bytes = 20;
    pass_co(&passers[0]);
    assert_int_equal(gate.bytes, 20);
}

static void gate_keeps_order(void **state)
{
    struct cluster_world world;
    world_open(&world, 12, 1);
    world_run(&world, gate_co);
    world_close(&world);
}

/* ---- elections, restarts ---- */

static void make_co(struct cluster_world *world)
{
    world_create_group_co(world);
    world_attach_co(world);
}

static void write_some_co(struct cluster_world *world)
{
    for (uint64_t i = 0; i < 40; i++) {
        uint64_t value = world->sequence + 1;
        assert_int_equal(client_write_co(world, value % 97 * 4, 1 + i % 4, value), 0);
        client_expect_co(world, value % 97 * 4, 1, value);
    }
}

static void leader_changes(void **state)
{
    struct cluster_world world;
    world_open(&world, 3, 3);
    world_run(&world, make_co);
    world_run(&world, write_some_co);
    for (unsigned round = 0; round < 4; round++) {
        unsigned leader = world.leader;
        assert_true(leader != 0);
        node_end(&world, leader, round % 2 == 0);
        world_run(&world, write_some_co);
        assert_int_not_equal(world.leader, leader);
        node_start(&world, leader);
        world_run(&world, write_some_co);
        world_run(&world, world_all_equal_co);
    }
    world_close(&world);
}

static uint64_t kept_value;

static void write_kept_co(struct cluster_world *world)
{
    for (uint64_t block = 0; block < 64; block++)
        assert_int_equal(client_write_co(world, block * 5, 2, ++kept_value), 0);
}

static void expect_kept_co(struct cluster_world *world)
{
    for (uint64_t block = 0; block < 64; block++)
        client_expect_co(world, block * 5, 2, kept_value - 63 + block);
}

/* All at once, in the middle: what was acknowledged is there. */
static void power_is_lost(void **state)
{
    struct cluster_world world;
    kept_value = 0;
    world_open(&world, 4, 3);
    world_run(&world, make_co);
    for (unsigned round = 0; round < 4; round++) {
        world_run(&world, write_kept_co);
        restart_all(&world, round != 2);
        world_run(&world, expect_kept_co);
    }
    world_run(&world, world_all_equal_co);
    world_close(&world);
}

/* ---- sessions ---- */

static void sessions_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    struct sl_group_message *io;
    world_create_group_co(world);
    assert_int_equal(client_write_as_co(world, 1, 0, 1, 1), -SL_E_NO_SESSION);
    assert_int_equal(client_session_co(world, SL_GROUP_SESSION_OPEN, world->session), 0);
    assert_int_equal(client_write_as_co(world, 1, 0, 1, 1), -SL_E_FENCED);
    assert_int_equal(client_attach_co(world, 1), 0);
    /* A, B, A: the retry of an old write is answered, and does nothing. */
    assert_int_equal(client_write_as_co(world, 2, 0, 1, 10), 0);
    assert_int_equal(client_write_as_co(world, 3, 0, 1, 11), 0);
    world->sequence = 3;
    request = (union sl_capsule){0};
    io = client_request(&request, SL_IO_WRITE);
    io->session = world->session;
    io->sequence = 3;
    io->unfinished = 1;
    io->volume = VOLUME;
    io->epoch = 1;
    io->length_bytes = SL_BLOCK_BYTES;
    struct sl_span span = sl_buf_span(world->buf, 0, SL_BLOCK_BYTES);
    fill_block(world->buf->data, 0, 12);
    assert_int_equal(client_group_co(world, &request, &span, &reply), 0);
    client_expect_co(world, 0, 1, 11);
    assert_int_equal(client_write_as_co(world, 2, 0, 1, 13), -EINVAL); /* stale */
    client_expect_co(world, 0, 1, 11);
    /* Given up: never applies. Given up too late: it has. */
    io = client_request(&request, SL_GROUP_VOID);
    io->session = world->session;
    io->sequence = 9;
    io->unfinished = 5;
    assert_int_equal(client_group_co(world, &request, NULL, &reply), 0);
    assert_int_equal(client_write_as_co(world, 9, 0, 1, 14), -SL_E_VOIDED);
    assert_int_equal(client_write_as_co(world, 10, 0, 1, 15), 0);
    io->sequence = 10;
    io->unfinished = 0;
    assert_int_equal(client_group_co(world, &request, NULL, &reply), -EEXIST);
    /* Another holder. */
    assert_int_equal(client_attach_co(world, 5), 0);
    assert_int_equal(client_write_as_co(world, 11, 0, 1, 16), -SL_E_FENCED);
    assert_int_equal(client_attach_co(world, 4), -SL_E_FENCED);
    client_expect_co(world, 0, 1, 15);
    assert_int_equal(client_session_co(world, SL_GROUP_SESSION_CLOSE, world->session), 0);
    assert_int_equal(client_write_as_co(world, 12, 0, 1, 17), -SL_E_NO_SESSION);
}

static void sessions_again_co(struct cluster_world *world)
{
    client_expect_co(world, 0, 1, 15);
    world->epoch = 5;
    assert_int_equal(client_write_as_co(world, 12, 0, 1, 17), -SL_E_NO_SESSION);
    world->session = 0x99;
    assert_int_equal(client_session_co(world, SL_GROUP_SESSION_OPEN, world->session), 0);
    world->epoch = 4;
    assert_int_equal(client_write_as_co(world, 1, 0, 1, 18), -SL_E_FENCED);
    world->epoch = 5;
    assert_int_equal(client_write_as_co(world, 2, 0, 1, 19), 0);
    client_expect_co(world, 0, 1, 19);
}

static void sessions_are_exact(void **state)
{
    struct cluster_world world;
    world_open(&world, 5, 3);
    world_run(&world, sessions_co);
    /* Clean ends and crashes: the root's state, and the log behind it, say the same. */
    for (unsigned i = 1; i <= 3; i++)
        node_end(&world, i, i == 2);
    for (unsigned i = 1; i <= 3; i++)
        node_start(&world, i);
    world_run(&world, sessions_again_co);
    world_run(&world, world_all_equal_co);
    world_close(&world);
}

static void sessions_fill_co(struct cluster_world *world)
{
    world_create_group_co(world);
    for (uint64_t i = 1; i <= SL_REPLICA_SESSIONS_MAX; i++)
        assert_int_equal(client_session_co(world, SL_GROUP_SESSION_OPEN, 1000 + i), 0);
    assert_int_equal(client_session_co(world, SL_GROUP_SESSION_OPEN, 7), -ENOSPC);
    assert_int_equal(client_attach_co(world, 1), 0);
}

static void sessions_stay_co(struct cluster_world *world)
{
    world->session = 1001;
    assert_int_equal(client_write_co(world, 0, 1, 1), 0);
}

static void sessions_go_co(struct cluster_world *world)
{
    assert_int_equal(client_write_co(world, 0, 1, 2), 0);
    assert_int_equal(client_session_co(world, SL_GROUP_SESSION_OPEN, 7), 0);
    assert_int_equal(client_write_co(world, 0, 1, 3), 0); /* used: it is not the one to go */
    world->session = 1002;
    assert_int_equal(client_write_as_co(world, 1, 0, 1, 4), -SL_E_NO_SESSION);
    client_expect_co(world, 0, 1, 3);
}

/* Gateways that died leave their sessions: those that are idle for long make room. */
static void sessions_of_the_dead(void **state)
{
    struct cluster_world world;
    world_open(&world, 15, 3);
    world_run(&world, sessions_fill_co);
    world_wait(&world, 550 * SL_NS_PER_S);
    world_run(&world, sessions_stay_co);
    world_wait(&world, 100 * SL_NS_PER_S);
    world_run(&world, sessions_go_co);
    world_run(&world, world_all_equal_co);
    world_close(&world);
}

/* ---- the log's end: checkpoints, a slow follower ---- */

/* Twice the log: checkpoints come and go, and the state of each goes with them. */
static void log_goes_round(void **state)
{
    struct cluster_world world;
    world_open(&world, 6, 3);
    world_run(&world, make_co);
    world_run(&world, world_write_much_co);
    world_run(&world, world_all_equal_co);
    restart_all(&world, true);
    world_run(&world, write_some_co);
    world_run(&world, world_all_equal_co);
    world_close(&world);
}

/* It was away for less than the log holds: entries come from the leader's disk. */
static void follower_catches_up(void **state)
{
    struct cluster_world world;
    world_open(&world, 7, 3);
    world_run(&world, make_co);
    world_run(&world, write_some_co);
    unsigned away = world.leader % 3 + 1;
    node_end(&world, away, true);
    world_run(&world, write_kept_co);
    world_run(&world, write_some_co);
    node_start(&world, away);
    world_run(&world, world_all_equal_co);
    world_close(&world);
}

/* ---- resync, membership ---- */

static int change_co(struct cluster_world *world, uint8_t op, uint64_t replica, unsigned node)
{
    struct sl_group_admin admin = {.op = op, .group = GROUP, .replica = replica, .node = node};
    union sl_capsule reply;
    for (unsigned tries = 0; tries < 2000; tries++) {
        unsigned number = world->leader != 0 ? world->leader : 1 + tries % world->node_count;
        int error = client_admin_co(world, number, &admin, &reply);
        if (error != -SL_E_MOVED && error != -EAGAIN && error != -ECONNREFUSED &&
            error != -ECONNRESET)
            return error;
        if (error == -SL_E_MOVED)
            world->leader = reply.group_reply.leader_node;
        sl_sleep_co(20 * SL_NS_PER_MS);
    }
    return -ETIMEDOUT;
}

/* The leader is another one. */
static void lead_away_co(struct cluster_world *world)
{
    unsigned leader = world->leader, to = leader % world->node_count + 1;
    assert_int_equal(change_co(world, SL_GROUP_TRANSFER, REPLICA(to), to), 0);
    for (unsigned tries = 0; tries < 500; tries++) {
        struct sl_capsule_group_status status;
        if (client_status_co(world, to, &status) == 0 && status.role == SL_GROUP_LEADER) {
            world->leader = to;
            return;
        }
        sl_sleep_co(10 * SL_NS_PER_MS);
    }
    fail_msg("node %u does not take over", to);
}

static void replace_co(struct cluster_world *world)
{
    unsigned node = world->wiped;
    struct sl_group_admin admin = {.op = SL_GROUP_CREATE,
                                   .group = GROUP,
                                   .size_bytes = GROUP_BYTES,
                                   .replica = REPLICA(100),
                                   .node = node};
    union sl_capsule reply;
    assert_int_equal(client_admin_co(world, node, &admin, &reply), 0);
    assert_int_equal(change_co(world, SL_GROUP_ADD_LEARNER, REPLICA(100), node), -EEXIST);
    assert_int_equal(change_co(world, SL_GROUP_REMOVE, REPLICA(node), node), 0);
    assert_int_equal(change_co(world, SL_GROUP_ADD_LEARNER, REPLICA(100), node), 0);
    assert_int_equal(change_co(world, SL_GROUP_PROMOTE, REPLICA(100), node), 0);
    struct sl_capsule_group_status status;
    assert_int_equal(client_status_co(world, world->leader, &status), 0);
    assert_int_equal(status.member_count, 3);
    assert_int_equal(change_co(world, SL_GROUP_DEMOTE, REPLICA(100), node), 0);
    assert_int_equal(change_co(world, SL_GROUP_PROMOTE, REPLICA(100), node), 0);
    assert_int_equal(change_co(world, SL_GROUP_PROMOTE, REPLICA(77), node), -ENOENT);
}

/* It was away for longer than the log reaches back. */
static void follower_is_resynced(void **state)
{
    struct cluster_world world;
    world_open(&world, 8, 3);
    world_run(&world, make_co);
    world_run(&world, write_kept_co);
    unsigned away = world.leader % 3 + 1;
    for (unsigned round = 0; round < 2; round++) {
        node_end(&world, away, round == 0);
        world_run(&world, world_write_much_co);
        world_run(&world, write_kept_co);
        node_start(&world, away);
        world_run(&world, world_all_equal_co);
        /* What it was given is there when the two others' word is not to be had. */
        for (unsigned i = 1; i <= 3; i++) {
            if (i != away && i != world.leader)
                node_end(&world, i, true);
        }
        world_run(&world, write_some_co);
        world_run(&world, write_kept_co);
        for (unsigned i = 1; i <= 3; i++) {
            if (!world.nodes[i].up)
                node_start(&world, i);
        }
        world_run(&world, world_all_equal_co);
        world_run(&world, lead_away_co);
        world_run(&world, expect_kept_co);
    }
    world_close(&world);
}

static struct sl_replica *leading(struct cluster_world *world)
{
    return sl_cluster_find(world->nodes[world->leader].target->cluster, GROUP);
}

/* As long as a state is on its way, however long that takes, the log behind it is held. */
static void watch_copy_co(struct cluster_world *world)
{
    struct sl_replica *replica = leading(world);
    uint64_t begin_ns = 0, now_ns = 0;
    for (unsigned tries = 0; tries < 6000 && now_ns - begin_ns < 4 * SL_NS_PER_S; tries++) {
        now_ns = sl_sim_now_ns(world->sim);
        if (replica->resyncing == 0 || begin_ns == 0)
            begin_ns = now_ns;
        else if (now_ns - begin_ns > SL_NS_PER_S)
            assert_int_equal(replica->feed_count, 1);
        sl_sleep_co(10 * SL_NS_PER_MS);
    }
    assert_true(now_ns - begin_ns >= 4 * SL_NS_PER_S); /* long enough to tell */
}

static void long_copy_is_fed(void **state)
{
    struct cluster_world world;
    world_open(&world, 13, 3);
    world_run(&world, make_co);
    world_run(&world, world_write_much_co);
    unsigned away = world.leader % 3 + 1;
    node_end(&world, away, false);
    world_run(&world, world_write_much_co);
    struct sl_sim_network *network = sl_sim_network(world.sim);
    struct sl_sim_network before = *network;
    network->delay_min_ns = network->delay_max_ns = 60 * SL_NS_PER_MS;
    node_start(&world, away);
    world_run(&world, watch_copy_co);
    *network = before;
    world_run(&world, world_all_equal_co);
    world_close(&world);
}

/* Who waits until a member that is behind has read the log does not keep its node from ending. */
static bool waited;

static void waiting_write_co(void *argument)
{
    struct cluster_world *world = argument;
    uint64_t sequence = ++world->sequence;
    while (client_write_as_co(world, sequence, 0, 1, 4711) != 0)
        sl_sleep_co(SL_NS_PER_S);
    waited = true;
}

static void write_held_co(struct cluster_world *world)
{
    struct sl_replica *replica = leading(world);
    struct sl_store_statistics statistics;
    unsigned away = world->wiped;
    for (unsigned i = 0; i < 80; i++)
        assert_int_equal(client_write_co(world, i, 1, i + 1), 0);
    do {
        assert_int_equal(client_write_co(world, 64, 64, 1), 0);
        sl_store_statistics(replica->store, &statistics);
    } while (statistics.segment_free_count > 4);
    replica->feeds[replica->feed_count++] =
        (struct sl_feed){.member = REPLICA(away), .ns = sl_sim_now_ns(world->sim), .strict = true};
    sl_replica_feed(replica);
    assert_int_equal(replica->feed_count, 1);
    assert_int_equal(sl_co_spawn(world->client.reactor, waiting_write_co, world), 0);
    sl_sleep_co(500 * SL_NS_PER_MS);
    assert_false(waited);
    assert_int_equal(replica->feed_count, 1);
}

static void wait_for_write_co(struct cluster_world *world)
{
    while (!waited)
        sl_sleep_co(10 * SL_NS_PER_MS);
    client_expect_co(world, 0, 1, 4711);
}

static void node_ends_while_writes_wait(void **state)
{
    struct cluster_world world;
    waited = false;
    world_open(&world, 14, 3);
    world_run(&world, make_co);
    world.wiped = world.leader % 3 + 1;
    node_end(&world, world.wiped, false);
    world_run(&world, write_held_co);
    unsigned leader = world.leader;
    node_end(&world, leader, false);
    node_start(&world, leader);
    node_start(&world, world.wiped);
    world_run(&world, wait_for_write_co);
    world_run(&world, world_all_equal_co);
    world_close(&world);
}

/* Entries for two members at a time, from the leader's disk, where its memory has room for those of
 * one message: neither waits for what the other one keeps. */
static struct sl_buf *taken[1024];
static unsigned taken_count;

static void write_large_co(struct cluster_world *world)
{
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(client_write_co(world, i * 64, 64, i + 1), 0);
    struct sl_replica *replica = leading(world);
    struct sl_memory *memory = world->nodes[world->leader].node.memory;
    /* Who has to wait for memory gets what the store could let go. */
    while (replica->store->held_bytes > 0) {
        taken[taken_count] = sl_buf_alloc(memory, SL_BUFFER_BYTES_MAX, SL_RESERVE_INTAKE);
        taken_count += taken[taken_count] != NULL;
        sl_sleep_co(SL_NS_PER_MS);
    }
    while ((taken[taken_count] = sl_buf_alloc(memory, 64 * SL_BLOCK_BYTES, SL_RESERVE_INTAKE)) !=
           NULL)
        taken_count++;
    for (unsigned i = 0; i < 4; i++)
        sl_buf_unref(taken[--taken_count]);
}

static void memory_is_scarce(void **state)
{
    struct cluster_world world;
    world_open(&world, 15, 5);
    world_run(&world, make_co);
    unsigned first = world.leader % 5 + 1, second = first % 5 + 1;
    node_end(&world, first, false);
    node_end(&world, second, false);
    world_run(&world, write_large_co);
    node_start(&world, first);
    node_start(&world, second);
    world_run(&world, world_all_equal_co);
    while (taken_count > 0)
        sl_buf_unref(taken[--taken_count]);
    world_close(&world);
}

/* A disk is lost: its node comes back with a new replica, first as a learner. */
static void disk_is_replaced(void **state)
{
    struct cluster_world world;
    world_open(&world, 9, 3);
    world_run(&world, make_co);
    world_run(&world, write_kept_co);
    world_run(&world, world_write_much_co);
    world.wiped = world.leader % 3 + 1;
    node_end(&world, world.wiped, true);
    node_format(&world, world.wiped);
    node_start(&world, world.wiped);
    world_run(&world, write_some_co); /* two are a majority */
    world_run(&world, replace_co);
    world_run(&world, world_all_equal_co);
    unsigned third = 6 - world.leader - world.wiped;
    node_end(&world, third, true);
    world_run(&world, write_some_co);
    node_start(&world, third);
    world_run(&world, world_all_equal_co);
    world_close(&world);
}

/* ---- repair ---- */

static void write_one_co(struct cluster_world *world)
{
    assert_int_equal(client_write_co(world, 700, 8, 4242), 0);
}

static void expect_one_co(struct cluster_world *world)
{
    client_expect_co(world, 700, 8, 4242);
}

static void expect_damaged_co(struct cluster_world *world)
{
    assert_int_equal(client_read_co(world, 703, 1), -SL_E_CHECKSUM);
    client_expect_co(world, 704, 4, 4242);
}

/* Rotten blocks on the leader's disk: the reader never notices, and they are whole again. */
static void blocks_are_repaired(void **state)
{
    struct cluster_world world;
    world_open(&world, 10, 3);
    world_run(&world, make_co);
    world_run(&world, write_one_co);
    world_run(&world, world_all_equal_co);
    restart_all(&world, false);
    world_run(&world, expect_one_co);
    unsigned leader = world.leader;
    assert_true(node_find_block(&world, leader, 703, 4242, true) > 0);
    assert_true(node_find_block(&world, leader, 706, 4242, true) > 0);
    world_run(&world, expect_one_co);
    assert_int_equal(world.leader, leader);
    assert_true(node_find_block(&world, leader, 703, 4242, false) > 0);
    assert_true(node_find_block(&world, leader, 706, 4242, false) > 0);
    /* At the last one that has it, too: then nobody makes anything up. */
    for (unsigned i = 1; i <= 3; i++)
        node_find_block(&world, i, 703, 4242, true);
    world_run(&world, expect_damaged_co);
    world_close(&world);
}

/* The disk fails where a replica's first state goes, then is well again. A failed CREATE left the
 * state in memory, so that the next was answered EEXIST, for a replica that neither served nor
 * would be there after a restart (cluster_sim, seed 283). */
static void create_again_co(struct cluster_world *world)
{
    const struct sl_superblock *superblock =
        (const void *)sl_sim_disk_data(world->sim, world->nodes[1].name, DISK_PATH);
    uint64_t begin = superblock->shards[0].roots_offset;
    uint64_t end = begin + SL_ROOT_COPIES * superblock->shards[0].root_bytes;
    sl_sim_disk_fail_range(world->sim, world->nodes[1].name, DISK_PATH, begin, end, false, true);
    assert_int_equal(client_create_co(world, 1, world->node_count), -EIO);
    assert_int_equal(client_create_co(world, 1, world->node_count), -EIO);
    sl_sim_disk_fail_range(world->sim, world->nodes[1].name, DISK_PATH, 0, 0, false, false);
}

static void create_at_last_co(struct cluster_world *world)
{
    assert_int_equal(client_create_co(world, 1, world->node_count), 0);
    assert_int_equal(client_create_co(world, 1, world->node_count), -EEXIST);
}

static void failed_creation_is_tried_again(void **state)
{
    struct cluster_world world;
    world_open(&world, 12, 3);
    world_run(&world, create_again_co);
    node_end(&world, 1, true);
    node_start(&world, 1);
    world_run(&world, create_at_last_co);
    world_close(&world);
}

/* One attempt at the leader: its answer is "elsewhere, or later", not "lost". */
static void expect_later_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    struct sl_group_message *io = client_request(&request, SL_IO_READ);
    io->offset_bytes = 703 * SL_BLOCK_BYTES;
    io->length_bytes = SL_BLOCK_BYTES;
    client_describe(world, &request, SL_MIB, io->length_bytes);
    int error = client_call_co(world, world->leader, &request, NULL, &reply);
    assert_int_equal(error, -SL_E_MOVED);
}

/* The only sound copy is at a node that is away: the reader was told that its block is lost
 * (cluster_sim --replicated, seed 132), while it has only to wait. */
static void damaged_block_waits_for_its_copy(void **state)
{
    struct cluster_world world;
    world_open(&world, 11, 3);
    world_run(&world, make_co);
    world_run(&world, write_one_co);
    world_run(&world, world_all_equal_co);
    restart_all(&world, false);
    world_run(&world, expect_one_co);
    unsigned away = world.leader % 3 + 1;
    node_end(&world, away, false);
    for (unsigned i = 1; i <= 3; i++) {
        if (i != away)
            assert_true(node_find_block(&world, i, 703, 4242, true) > 0);
    }
    world_run(&world, expect_later_co);
    node_start(&world, away);
    world_run(&world, expect_one_co);
    world_close(&world);
}

/* A header in the midst of the log that was durable: entries and, who knows, a vote. */
static void spoil_log(struct cluster_world *world, unsigned number)
{
    uint8_t *disk = sl_sim_disk_data(world->sim, world->nodes[number].name, DISK_PATH);
    uint64_t newest = 0, spoilt = 0;
    for (uint64_t at = 0; at < world->disk_bytes; at += SL_BLOCK_BYTES) {
        const struct sl_batch_header *header = (const void *)(disk + at);
        if (header->magic == SL_BATCH_MAGIC)
            newest = sl_max(newest, header->sequence);
    }
    for (uint64_t at = 0; at < world->disk_bytes; at += SL_BLOCK_BYTES) {
        const struct sl_batch_header *header = (const void *)(disk + at);
        if (header->magic == SL_BATCH_MAGIC && header->sequence == newest / 2) {
            disk[at + 200] ^= 1;
            spoilt++;
        }
    }
    assert_int_equal(spoilt, 1);
}

/* It may have voted in what is missing (Raft §5.2): it stays out, the others go on. */
static void who_forgot_stays_out_co(struct cluster_world *world)
{
    struct sl_capsule_group_status status;
    write_some_co(world);
    assert_int_equal(client_status_co(world, world->wiped, &status), -ENOENT);
}

static void who_forgot_stays_out(void **state)
{
    struct cluster_world world;
    world_open(&world, 12, 3);
    world_run(&world, make_co);
    world_run(&world, write_some_co);
    world.wiped = world.leader;
    node_end(&world, world.wiped, true);
    spoil_log(&world, world.wiped);
    node_start(&world, world.wiped);
    world_run(&world, who_forgot_stays_out_co);
    world_close(&world);
}

/* ---- not the request's fault */

static struct sl_replica *leader_of(struct cluster_world *world)
{
    return sl_cluster_find(world->nodes[world->leader].target->cluster, GROUP);
}

/* The old leader's answer was lost when it stepped down, and the tool asks the new one. */
static void transfer_again_co(struct cluster_world *world)
{
    world_attach_co(world);
    assert_int_equal(client_write_co(world, 0, 1, 1), 0);
    assert_int_equal(change_co(world, SL_GROUP_TRANSFER, REPLICA(world->leader), world->leader), 0);
}

/* Who meets a target that ends is sent elsewhere: it was told that the medium had failed. */
static void closing_co(struct cluster_world *world)
{
    struct sl_target_cluster *cluster = world->nodes[world->leader].target->cluster;
    cluster->closing = true;
    expect_later_co(world);
    cluster->closing = false;
}

static void elsewhere(void **state)
{
    struct cluster_world world;
    world_open(&world, 21, 3);
    world_run(&world, make_co);
    world_run(&world, transfer_again_co);
    world_run(&world, closing_co);
    world_close(&world);
}

/* One attempt at the leader, in the capsule. */
static int attempt_write_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    struct sl_group_message *io = client_request(&request, SL_IO_WRITE_ZEROES);
    io->session = world->session;
    io->sequence = ++world->sequence;
    io->unfinished = 0;
    io->volume = VOLUME;
    io->epoch = world->epoch;
    io->length_bytes = SL_BLOCK_BYTES;
    return client_call_co(world, world->leader, &request, NULL, &reply);
}

/* The leader's disk has no room for its log, which another group has found out: its writes were
 * told so, but another leader has room. */
static void full_log_co(struct cluster_world *world)
{
    struct sl_replica *replica = leader_of(world);
    struct sl_store_group_status status;
    assert_int_equal(attempt_write_co(world), 0);
    sl_sim_disk_faults(world->sim, world->nodes[world->leader].name, DISK_PATH)->full = true;
    sl_store_group_status(replica->log, &status);
    assert_int_equal(sl_store_vote_co(replica->log, status.term, status.vote), -ENOSPC);
    assert_int_equal(attempt_write_co(world), -SL_E_MOVED);
    zero_together_co(world);
}

/* So has a follower's, which a checkpoint has found out: it ends, and does not refuse one entry
 * after the other as if there were no room for them. */
static void full_log_of_follower_co(struct cluster_world *world)
{
    unsigned node = world->leader % world->node_count + 1;
    struct sl_replica *replica = sl_cluster_find(world->nodes[node].target->cluster, GROUP);
    struct sl_store_group_status status;
    sl_sim_disk_faults(world->sim, world->nodes[node].name, DISK_PATH)->full = true;
    sl_store_group_status(replica->log, &status);
    assert_int_equal(sl_store_vote_co(replica->log, status.term, status.vote), -ENOSPC);
    assert_false(replica->failed);
    assert_int_equal(attempt_write_co(world), 0);
    sl_sleep_co(SL_NS_PER_S);
    assert_true(replica->failed);
    zero_together_co(world);
}

static void log_fails(void **state)
{
    struct cluster_world world;
    world_open(&world, 30, 3);
    world_run(&world, make_co);
    world_run(&world, write_some_co);
    world_run(&world, full_log_co);
    world_close(&world);
    world_open(&world, 31, 3);
    world_run(&world, make_co);
    world_run(&world, write_some_co);
    world_run(&world, full_log_of_follower_co);
    world_close(&world);
}

static void write_a_few_co(struct cluster_world *world)
{
    world_create_group_co(world);
    world_attach_co(world);
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(client_write_co(world, i, 1, i + 1), 0);
    sl_sleep_co(SL_NS_PER_S);
}

static void expect_alone_co(struct cluster_world *world)
{
    struct sl_capsule_group_status status;
    sl_sleep_co(3 * SL_NS_PER_S);
    assert_int_equal(client_status_co(world, 1, &status), 0);
    assert_in_range(status.commit, status.last - 2, status.last);
    assert_int_equal(status.applied, status.commit);
}

/* Alone after a loss of power it has what it knew to be committed, but for the newest: its log can
 * be freed. Logs that were full of what nobody knew of had no room for what would tell
 * (cluster_sim, seed 13008883). */
static void commits_are_remembered(void **state)
{
    struct cluster_world world;
    world_open(&world, 41, 3);
    world_run(&world, write_a_few_co);
    for (unsigned i = 1; i <= 3; i++)
        node_end(&world, i, true);
    node_start(&world, 1);
    world_run(&world, expect_alone_co);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_works),
        cmocka_unit_test(three_work),
        cmocka_unit_test(many_at_once),
        cmocka_unit_test(gate_keeps_order),
        cmocka_unit_test(leader_changes),
        cmocka_unit_test(power_is_lost),
        cmocka_unit_test(commits_are_remembered),
        cmocka_unit_test(sessions_are_exact),
        cmocka_unit_test(sessions_of_the_dead),
        cmocka_unit_test(log_goes_round),
        cmocka_unit_test(follower_catches_up),
        cmocka_unit_test(follower_is_resynced),
        cmocka_unit_test(long_copy_is_fed),
        cmocka_unit_test(node_ends_while_writes_wait),
        cmocka_unit_test(memory_is_scarce),
        cmocka_unit_test(disk_is_replaced),
        cmocka_unit_test(blocks_are_repaired),
        cmocka_unit_test(damaged_block_waits_for_its_copy),
        cmocka_unit_test(failed_creation_is_tried_again),
        cmocka_unit_test(who_forgot_stays_out),
        cmocka_unit_test(elsewhere),
        cmocka_unit_test(log_fails),
    };
    if (getenv("SLUICE_TEST_LOG") == NULL)
        sl_log_set_level(SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
