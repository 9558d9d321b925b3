/*
 * Goal: a follower that is asked for a read answers with what was acknowledged before, or not at
 * all. Method: targets in the simulator; the client writes at the leader and reads at once at each
 * of the others, also at one that is cut off.
 */
#include "cluster_world.h"

enum { BLOCK = 40 };

/* One attempt at one node, by its leave to serve it without leading. */
static int read_at_co(struct cluster_world *world, unsigned number, uint64_t block, unsigned count,
                      uint8_t flags)
{
    union sl_capsule request, reply;
    struct sl_group_message *io = client_request(&request, SL_IO_READ);
    io->flags = flags;
    io->offset_bytes = block * SL_BLOCK_BYTES;
    io->length_bytes = count * SL_BLOCK_BYTES;
    memset(world->buf->data + SL_MIB, 0x5a, count * SL_BLOCK_BYTES);
    client_describe(world, &request, SL_MIB, io->length_bytes);
    return client_call_co(world, number, &request, NULL, &reply);
}

static void make_co(struct cluster_world *world)
{
    world_create_group_co(world);
    world_attach_co(world);
    assert_int_equal(client_write_co(world, BLOCK, 4, 1), 0);
    sl_sleep_co(SL_NS_PER_S);
}

static uint64_t follower_reads(struct cluster_world *world, unsigned number)
{
    return world->nodes[number].target->statistics.follower_read_count;
}

static void read_after_write_co(struct cluster_world *world)
{
    for (uint64_t i = 0; i < 100; i++) {
        unsigned count = i % 3 == 0 ? 32 : 1; /* by READ, or in the capsule */
        assert_int_equal(client_write_co(world, BLOCK, count, 100 + i), 0);
        for (unsigned number = 1; number <= 3; number++) {
            assert_int_equal(read_at_co(world, number, BLOCK, count, SL_GROUP_ANY_REPLICA), 0);
            for (unsigned k = 0; k < count; k++)
                assert_true(check_block(world->buf->data + SL_MIB + k * SL_BLOCK_BYTES, BLOCK + k,
                                        100 + i));
        }
    }
    for (unsigned number = 1; number <= 3; number++) {
        int error = read_at_co(world, number, BLOCK, 1, 0);
        assert_int_equal(error, number == world->leader ? 0 : -SL_E_MOVED);
        assert_int_equal(follower_reads(world, number), number == world->leader ? 0 : 100);
    }
    /* Nobody else may do anything but read there. */
    union sl_capsule request, reply;
    client_request(&request, SL_IO_FLUSH)->flags = SL_GROUP_ANY_REPLICA;
    assert_int_equal(client_call_co(world, world->leader % 3 + 1, &request, NULL, &reply),
                     -SL_E_MOVED);
}

static void reads_are_new(void **state)
{
    struct cluster_world world;
    world_open(&world, 1, 3);
    world_run(&world, make_co);
    world_run(&world, read_after_write_co);
    world_close(&world);
}

/* It hears nothing of what is written: it may say nothing, and not what it has. */
static void cut_off_co(struct cluster_world *world)
{
    unsigned away = world->leader % 3 + 1;
    uint64_t value = 1000;
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(client_write_co(world, BLOCK, 1, ++value), 0);
        int error = read_at_co(world, away, BLOCK, 1, SL_GROUP_ANY_REPLICA);
        assert_int_equal(error, -SL_E_MOVED);
        sl_sleep_co(20 * SL_NS_PER_MS);
    }
}

static void again_co(struct cluster_world *world)
{
    unsigned away = world->leader % 3 + 1;
    assert_int_equal(client_write_co(world, BLOCK, 1, 2000), 0);
    for (unsigned tries = 0; read_at_co(world, away, BLOCK, 1, SL_GROUP_ANY_REPLICA) != 0;
         tries++) {
        assert_true(tries < 500);
        sl_sleep_co(20 * SL_NS_PER_MS);
    }
    assert_true(check_block(world->buf->data + SL_MIB, BLOCK, 2000));
}

static void cut(struct cluster_world *world, unsigned number, bool on)
{
    for (unsigned i = 1; i <= world->node_count; i++) {
        if (i == number)
            continue;
        sl_sim_cut(world->sim, world->nodes[i].node.io, world->nodes[number].node.io, on);
        sl_sim_cut(world->sim, world->nodes[number].node.io, world->nodes[i].node.io, on);
    }
}

static void cut_off_is_silent(void **state)
{
    struct cluster_world world;
    world_open(&world, 2, 3);
    world_run(&world, make_co);
    unsigned away = world.leader % 3 + 1;
    cut(&world, away, true);
    world_run(&world, cut_off_co);
    cut(&world, away, false);
    world_run(&world, again_co);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_are_new),
        cmocka_unit_test(cut_off_is_silent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
