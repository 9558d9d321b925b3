/*
 * Goal: a disk opened through the layer of faults does what the rules say and is the disk below in
 * all else: data, locks, sharing, all kinds of operations.
 * Method: in the simulator, where time is exact and the disk can be looked at; and over io_uring
 * with a file for what only a real disk has.
 */
#include "harness.h"

#include <fcntl.h>

#include "core/inject.h"
#include "io/inject.h"
#include "mem/memory.h"
#include "sim/sim.h"
#include "sim/sim_disk.h"

#define DISK_BYTES SL_MIB

static struct sl_inject *rules_make(const char *const *specs)
{
    struct sl_inject_rule rules[SL_INJECT_RULES_MAX];
    struct sl_inject *inject = NULL;
    unsigned count = 0;
    char error[768];
    for (; specs[count] != NULL; count++) {
        assert_int_equal(sl_inject_parse(specs[count], &rules[count], error, sizeof(error)), 0);
        rules[count].seed = rules[count].has_seed ? rules[count].seed : 1;
    }
    assert_int_equal(sl_inject_create(rules, count, 0, &inject), 0);
    return inject;
}

/* ---- in the simulator ---- */

struct sim_world {
    struct sl_sim *sim;
    struct sl_sim_node node;
    struct sl_inject *inject;
    struct sl_io *io;
    struct sl_disk *disk;
    struct sl_buf *buf;
    void (*body_co)(struct sim_world *world);
    bool done;
};

static void sim_main_co(void *argument)
{
    struct sim_world *world = argument;
    struct sl_disk_info info;
    struct sl_disk_options options = {.exclusive = true};
    assert_int_equal(sl_disk_open(world->io, "disk", &options, &info, &world->disk), 0);
    assert_int_equal(info.capacity_bytes, DISK_BYTES);
    world->body_co(world);
    sl_disk_close(world->disk);
    world->done = true;
}

static bool sim_done(void *argument)
{
    return ((struct sim_world *)argument)->done;
}

static void sim_run(const char *const *specs, void (*body_co)(struct sim_world *world))
{
    struct sl_sim_config config = {.seed = 1};
    struct sim_world world = {.body_co = body_co};
    assert_int_equal(sl_sim_create(&config, &world.sim), 0);
    assert_int_equal(sl_sim_disk_create(world.sim, "node", "disk", DISK_BYTES), 0);
    assert_int_equal(sl_sim_node_open(world.sim, "node", 0, 4 * SL_MIB, &world.node), 0);
    world.inject = rules_make(specs);
    assert_int_equal(sl_inject_io_create(world.node.io, world.inject, &world.io), 0);
    assert_ptr_equal(sl_io_reactor(world.io), world.node.reactor);
    world.buf = sl_buf_alloc(world.node.memory, 65536, SL_RESERVE_ADMISSION);
    assert_non_null(world.buf);
    assert_int_equal(sl_co_spawn(world.node.reactor, sim_main_co, &world), 0);
    assert_true(sl_sim_run_until(world.sim, 60 * SL_NS_PER_S, sim_done, &world));
    sl_buf_unref(world.buf);
    sl_io_destroy(world.io);
    sl_inject_destroy(world.inject);
    sl_sim_node_close(&world.node);
    sl_sim_destroy(world.sim);
}

static int io_co(struct sim_world *world, enum sl_disk_opcode opcode, uint64_t offset_bytes)
{
    struct sl_span span = sl_buf_span(world->buf, 0, 4096);
    bool has_data = opcode == SL_DISK_READ || opcode == SL_DISK_WRITE;
    return sl_disk_rw_co(world->disk, opcode, &span, has_data, offset_bytes,
                         opcode == SL_DISK_FLUSH ? 0 : 4096, 0);
}

static uint8_t disk_byte(struct sim_world *world, uint64_t offset_bytes)
{
    return sl_sim_disk_data(world->sim, "node", "disk")[offset_bytes];
}

static void errors_co(struct sim_world *world)
{
    /* Kinds: each has its own errno here. */
    assert_int_equal(io_co(world, SL_DISK_READ, 0), -EIO);
    assert_int_equal(io_co(world, SL_DISK_FLUSH, 0), -ETIMEDOUT);
    assert_int_equal(io_co(world, SL_DISK_DISCARD, 0), -ENODEV);
    assert_int_equal(io_co(world, SL_DISK_WRITE_ZEROES, 0), -ENODEV);
    /* An operation that fails has not happened; its neighbour has. */
    memset(world->buf->data, 0x5a, 4096);
    assert_int_equal(io_co(world, SL_DISK_WRITE, 8192), -ENOSPC);
    assert_int_equal(disk_byte(world, 8192), 0);
    assert_int_equal(io_co(world, SL_DISK_WRITE, 4096), 0);
    assert_int_equal(io_co(world, SL_DISK_WRITE, 12288), 0);
    assert_int_equal(disk_byte(world, 4096), 0x5a);
    assert_int_equal(disk_byte(world, 12288), 0x5a);
    /* Once only: then the disk is well again. */
    assert_int_equal(io_co(world, SL_DISK_READ, 4096), 0);
    assert_int_equal(sl_inject_hit_count(world->inject), 5);
}

static void test_errors(void **state)
{
    const char *const specs[] = {"disk:error=EIO,op=read,count=1", "disk:error=ETIMEDOUT,op=flush",
                                 "disk:error=ENODEV,op=discard|zeroes",
                                 "disk:error=ENOSPC,op=write,offset=8K,length=4K", NULL};
    sim_run(specs, errors_co);
}

/* Times of the simulator are exact; its disk takes 20 to 100 us. */
static void delays_co(struct sim_world *world)
{
    struct sl_reactor *reactor = world->node.reactor;
    uint64_t before_ns = sl_reactor_now_ns(reactor);
    assert_int_equal(io_co(world, SL_DISK_WRITE, 0), 0);
    assert_in_range(sl_reactor_now_ns(reactor) - before_ns, 5 * SL_NS_PER_MS, 6 * SL_NS_PER_MS);
    before_ns = sl_reactor_now_ns(reactor);
    assert_int_equal(io_co(world, SL_DISK_READ, 0), 0);
    assert_in_range(sl_reactor_now_ns(reactor) - before_ns, 7 * SL_NS_PER_MS, 8 * SL_NS_PER_MS);
    /* A delayed error comes late, too. */
    before_ns = sl_reactor_now_ns(reactor);
    assert_int_equal(io_co(world, SL_DISK_FLUSH, 0), -EIO);
    assert_in_range(sl_reactor_now_ns(reactor) - before_ns, 5 * SL_NS_PER_MS, 6 * SL_NS_PER_MS);
    /* Only the range: elsewhere a write overtakes. */
    struct sl_disk_op slow, fast;
    struct sl_span span = sl_buf_span(world->buf, 0, 4096);
    sl_disk_op_init(&slow, world->disk, SL_DISK_WRITE, &span, 1, 0, 4096, 0);
    sl_disk_op_init(&fast, world->disk, SL_DISK_WRITE, &span, 1, 512 * SL_KIB, 4096, 0);
    before_ns = sl_reactor_now_ns(reactor);
    sl_disk_submit(&slow);
    sl_disk_submit(&fast);
    assert_int_equal(sl_wait_co(&fast.wait), 4096);
    assert_in_range(sl_reactor_now_ns(reactor) - before_ns, 1, SL_NS_PER_MS);
    assert_int_equal(sl_wait_co(&slow.wait), 4096);
    assert_in_range(sl_reactor_now_ns(reactor) - before_ns, 5 * SL_NS_PER_MS, 6 * SL_NS_PER_MS);
}

static void test_delays(void **state)
{
    const char *const specs[] = {"disk:delay=5ms,op=read|write,offset=0,length=256K",
                                 "disk:delay=2ms,op=read", "disk:delay=5ms,op=flush",
                                 "disk:error=EIO,op=flush", NULL};
    sim_run(specs, delays_co);
}

/* A layer over a layer: an io is an io. */
static void layers_co(struct sim_world *world)
{
    const char *const specs[] = {"disk:error=ENOSPC,op=write,after=1", NULL};
    struct sl_inject *upper = rules_make(specs);
    struct sl_io *io;
    struct sl_disk *disk;
    struct sl_disk_info info;
    struct sl_span span = sl_buf_span(world->buf, 0, 4096);
    assert_int_equal(sl_inject_io_create(world->io, upper, &io), 0);
    struct sl_disk_options options = {.exclusive = true};
    assert_int_equal(sl_disk_open(io, "disk", &options, &info, &disk), -EWOULDBLOCK);
    assert_int_equal(sl_disk_open(io, "none", &options, &info, &disk), -ENOENT);
    options.exclusive = false;
    assert_int_equal(sl_disk_open(io, "disk", &options, &info, &disk), 0);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_WRITE, &span, 1, 0, 4096, 0), -EIO);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_WRITE, &span, 1, 0, 4096, 0), -ENOSPC);
    sl_disk_close(disk);
    sl_io_destroy(io);
    sl_inject_destroy(upper);
}

static void test_layers(void **state)
{
    const char *const specs[] = {"disk:error=EIO,op=write", NULL};
    sim_run(specs, layers_co);
}

/* ---- over io_uring ---- */

static void uring_main_co(struct world *world)
{
    const char *path = world->argument;
    const char *const specs[] = {"disk:delay=1ms,op=write,count=3",
                                 "disk:error=EIO,op=read,after=2", NULL};
    struct sl_inject *inject = rules_make(specs);
    struct sl_io *io;
    struct sl_disk *first, *second, *locked;
    struct sl_disk_info info;
    struct sl_disk_options options = {.exclusive = true, .buffered = true};
    assert_int_equal(sl_inject_io_create(world->io, inject, &io), 0);
    assert_int_equal(sl_disk_open(io, path, &options, &info, &first), 0);
    assert_int_equal(sl_disk_open(io, path, &options, &info, &locked), -EWOULDBLOCK);
    /* Another reactor's disk of the same file: the layer finds the disk below. */
    options.share_with = first;
    assert_int_equal(sl_disk_open(io, path, &options, &info, &second), 0);
    assert_int_equal(info.capacity_bytes, DISK_BYTES);
    uint8_t *data = aligned_alloc(4096, 8192);
    struct sl_span out = {data, 4096, NULL}, in = {data + 4096, 4096, NULL};
    for (unsigned i = 0; i < 5; i++) {
        pattern_fill(data, 4096, i, 3);
        assert_int_equal(sl_disk_rw_co(first, SL_DISK_WRITE, &out, 1, i * 4096, 4096, 0), 0);
        assert_int_equal(sl_disk_rw_co(second, SL_DISK_READ, &in, 1, i * 4096, 4096, 0),
                         i < 2 ? 0 : -EIO);
        assert_int_equal(pattern_check(data + 4096, 4096, i, 3), i < 2);
    }
    assert_int_equal(sl_disk_rw_co(second, SL_DISK_FLUSH, NULL, 0, 0, 0, 0), 0);
    assert_int_equal(sl_disk_rw_co(second, SL_DISK_WRITE_ZEROES, NULL, 0, 0, 8192, 0), 0);
    sl_disk_close(second);
    sl_disk_close(first);
    /* Streams are those of the io below. */
    char bound[SL_ADDRESS_BYTES_MAX];
    struct sl_listener *listener;
    assert_int_equal(sl_listener_open(io, "127.0.0.1:0", bound, &listener), 0);
    struct sl_stream *stream;
    assert_int_equal(sl_stream_connect_co(io, bound, UINT64_MAX, &stream), 0);
    sl_stream_close(stream);
    sl_listener_shutdown(listener);
    sl_listener_close(listener);
    free(data);
    sl_io_destroy(io);
    sl_inject_destroy(inject);
}

static void test_uring(void **state)
{
    char path[] = "./sl-io-inject-XXXXXX";
    struct world world;
    int handle = mkstemp(path);
    assert_true(handle >= 0);
    assert_int_equal(posix_fallocate(handle, 0, DISK_BYTES), 0);
    close(handle);
    world_create(&world, 64);
    world_run(&world, uring_main_co, path);
    world_destroy(&world);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_delays),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_uring),
    };
    if (world_is_missing())
        return TEST_SKIP;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
