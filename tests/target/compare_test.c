/*
 * Goal: what a disk has lost, or what replicas disagree about, is found while nobody reads it, and
 * mended from the others. Method: targets in the simulator whose disks are spoilt behind their
 * backs, with the scrub on.
 */
#include "cluster_world.h"

enum { BLOCK = 700, COUNT = 8, VALUE = 4242 };

static void make_co(struct cluster_world *world)
{
    world_create_group_co(world);
    world_attach_co(world);
    assert_int_equal(client_write_co(world, BLOCK, COUNT, VALUE), 0);
}

static void restart_all(struct cluster_world *world)
{
    for (unsigned i = 1; i <= world->node_count; i++)
        node_end(world, i, false);
    for (unsigned i = 1; i <= world->node_count; i++)
        node_start(world, i);
}

static void settle_co(struct cluster_world *world)
{
    client_expect_co(world, BLOCK, COUNT, VALUE);
    sl_sleep_co(SL_NS_PER_S);
}

/* Written, and no longer in any log. */
static void open_settled(struct cluster_world *world, uint64_t seed, unsigned node_count)
{
    world_open(world, seed, node_count);
    world_run(world, make_co);
    restart_all(world);
    world_run(world, settle_co);
    restart_all(world);
    world_run(world, settle_co);
}

/* Places on the node's disk that hold the block; `spoil`: a bit of each is turned. */
static unsigned find_block(struct cluster_world *world, unsigned number, uint64_t block,
                           uint64_t value, bool spoil)
{
    uint8_t *disk = sl_sim_disk_data(world->sim, world->nodes[number].name, DISK_PATH);
    unsigned count = 0;
    for (uint64_t at = 0; at < world->disk_bytes; at += SL_BLOCK_BYTES) {
        if (!check_block(disk + at, block, value))
            continue;
        count++;
        disk[at + 100] ^= spoil ? 4 : 0;
    }
    return count;
}

/* ---- the scrub of each replica ---- */

static struct sl_store_statistics statistics_of(struct cluster_world *world, unsigned number)
{
    struct sl_store_statistics now;
    sl_store_statistics(world->nodes[number].target->stores[0], &now);
    return now;
}

/* What the scrub found was only told: in a cluster it has to be mended, on a follower, which nobody
 * reads, above all. */
static void scrub_repairs(void **state)
{
    struct cluster_world world;
    open_settled(&world, 1, 3);
    world.scrub_bytes_per_s = 64 * SL_MIB;
    for (unsigned i = 1; i <= 3; i++)
        node_end(&world, i, false);
    unsigned spoilt = world.leader % 3 + 1;
    assert_true(find_block(&world, spoilt, BLOCK + 3, VALUE, true) > 0);
    for (unsigned i = 1; i <= 3; i++)
        node_start(&world, i);
    world_wait(&world, 20 * SL_NS_PER_S);
    assert_true(find_block(&world, spoilt, BLOCK + 3, VALUE, false) > 0);
    assert_int_equal(statistics_of(&world, spoilt).scrub_finding_count, 1);
    assert_int_equal(statistics_of(&world, world.leader).scrub_finding_count, 0);
    assert_int_equal(statistics_of(&world, spoilt).scrub_pass_count, 1);
    world_close(&world);
}

/* Nobody has it any more: it is told, and nothing is made up. */
static void scrub_makes_nothing_up(void **state)
{
    struct cluster_world world;
    open_settled(&world, 2, 3);
    world.scrub_bytes_per_s = 64 * SL_MIB;
    for (unsigned i = 1; i <= 3; i++) {
        node_end(&world, i, false);
        assert_true(find_block(&world, i, BLOCK, VALUE, true) > 0);
    }
    for (unsigned i = 1; i <= 3; i++)
        node_start(&world, i);
    world_wait(&world, 60 * SL_NS_PER_S);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(find_block(&world, i, BLOCK, VALUE, false), 0);
        assert_int_equal(statistics_of(&world, i).scrub_finding_count, 1);
        assert_int_equal(statistics_of(&world, i).scrub_pass_count, 1);
    }
    world_close(&world);
}

/* ---- who could give, were it connected ---- */

/* One attempt at the leader. */
static int read_once_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    struct sl_group_message *io = client_request(&request, SL_IO_READ);
    io->offset_bytes = BLOCK * SL_BLOCK_BYTES;
    io->length_bytes = SL_BLOCK_BYTES;
    client_describe(world, &request, SL_MIB, io->length_bytes);
    return client_call_co(world, world->leader, &request, NULL, &reply);
}

static struct sl_peer_connection *connection_to(struct cluster_world *world, unsigned from,
                                                unsigned to)
{
    return &sl_peer_find(world->nodes[from].target->cluster, to)->connections[0];
}

static void expect_later_co(struct cluster_world *world)
{
    struct sl_connection *connections[WORLD_NODES + 1] = {NULL};
    for (unsigned i = 1; i <= 3; i++) {
        if (i == world->leader)
            continue;
        connections[i] = connection_to(world, i, world->leader)->connection;
        assert_non_null(connections[i]);
        connection_to(world, i, world->leader)->connection = NULL;
    }
    assert_int_equal(read_once_co(world), -SL_E_MOVED);
    for (unsigned i = 1; i <= 3; i++) {
        if (i != world->leader)
            connection_to(world, i, world->leader)->connection = connections[i];
    }
    assert_int_equal(read_once_co(world), 0);
}

/* A replica that has the block, and no connection to who asks, said EIO: the reader was told that
 * its block is lost. */
static void giver_is_not_connected(void **state)
{
    struct cluster_world world;
    open_settled(&world, 3, 3);
    assert_true(find_block(&world, world.leader, BLOCK, VALUE, true) > 0);
    world_run(&world, expect_later_co);
    world_close(&world);
}

/* The scrub, or the clock, of a group that is open already wants a peer while the disk is slow to
 * open the next one (cluster_sim, seed 2038: a crash at the start). */
static void peers_before_groups(void **state)
{
    struct cluster_world world;
    open_settled(&world, 12, 3);
    unsigned number = world.leader % 3 + 1;
    node_end(&world, number, false);
    world.hurried = true;
    node_start(&world, number);
    world_run(&world, settle_co);
    node_end(&world, 6 - number - world.leader, false);
    world_run(&world, settle_co);
    world_close(&world);
}

/* ---- the source of a resync ---- */

static void write_for_long_co(struct cluster_world *world)
{
    for (unsigned i = 0; i < 1500; i++) {
        uint64_t value = world->sequence + 1;
        assert_int_equal(client_write_co(world, value % 61 * 31, 1 + i % 32, value), 0);
    }
}

static void write_block_co(struct cluster_world *world)
{
    assert_int_equal(client_write_co(world, BLOCK + 5000, 1, VALUE), 0);
}

static void all_follow_co(struct cluster_world *world)
{
    for (unsigned tries = 0; tries < 500; tries++) {
        struct sl_capsule_group_status a, b;
        bool equal = true;
        for (unsigned i = 1; i <= 3; i++)
            equal = equal && client_status_co(world, world->leader, &a) == 0 &&
                    client_status_co(world, i, &b) == 0 && a.last == b.applied;
        if (equal)
            return;
        sl_sleep_co(20 * SL_NS_PER_MS);
    }
    fail_msg("a replica does not follow");
}

static void expect_block_co(struct cluster_world *world)
{
    client_expect_co(world, BLOCK + 5000, 1, VALUE);
}

/* It has a damaged block, and the third replica a sound one: the resync ended early, began anew,
 * ended early, and so on. */
static void source_is_damaged(void **state)
{
    struct cluster_world world;
    open_settled(&world, 13, 3);
    unsigned away = world.leader % 3 + 1;
    node_end(&world, away, false);
    world_run(&world, write_block_co);
    world_run(&world, write_for_long_co);
    world_run(&world, write_for_long_co);
    assert_true(find_block(&world, world.leader, BLOCK + 5000, VALUE, true) > 0);
    node_start(&world, away);
    world_run(&world, all_follow_co);
    assert_true(find_block(&world, away, BLOCK + 5000, VALUE, false) > 0);
    assert_true(find_block(&world, world.leader, BLOCK + 5000, VALUE, false) > 0);
    world_run(&world, expect_block_co);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scrub_repairs),          cmocka_unit_test(scrub_makes_nothing_up),
        cmocka_unit_test(giver_is_not_connected), cmocka_unit_test(peers_before_groups),
        cmocka_unit_test(source_is_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
