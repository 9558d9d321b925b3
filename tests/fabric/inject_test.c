/*
 * Goal: a link with faults delays, fails, drops and falls silent where its rules say, in order, and
 * returns every operation exactly once. (That it keeps the rules of link.h otherwise is shown by
 * conformance_test.c.)
 * Method: the frame of the conformance suite over the simulator's link, whose time is exact, with
 * faults at one node; drop and stall over tcp and shm as well.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "conformance.h"
#include "fabric/shm/shm.h"
#include "fabric/tcp/tcp.h"
#include "io/uring/uring.h"
#include "sim/sim.h"

#define ALL_ACCESS (SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE)

static struct sl_sim *sim;

static int sim_create(struct conformance_node *node)
{
    struct sl_sim_config config = {.seed = 5};
    int error = sim != NULL ? 0 : sl_sim_create(&config, &sim);
    return error < 0 ? error : sl_sim_io_create(sim, node->index == 0 ? "a" : "b", &node->io);
}

static void sim_addresses(char *listen, char *nobody)
{
    snprintf(listen, SL_ADDRESS_BYTES_MAX, "node:0");
    snprintf(nobody, SL_ADDRESS_BYTES_MAX, "node:1");
}

static void sim_idle(struct conformance_world *world)
{
    sl_sim_advance(sim, sl_sim_now_ns(sim) + SL_NS_PER_MS);
}

static void sim_close(struct conformance_world *world)
{
    sl_sim_destroy(sim);
    sim = NULL;
}

static int uring_create(struct conformance_node *node)
{
    struct sl_uring_config config = {.entries = 256};
    return sl_uring_create(&config, &node->io);
}

static void tcp_addresses(char *listen, char *nobody)
{
    snprintf(listen, SL_ADDRESS_BYTES_MAX, "127.0.0.1:0");
    snprintf(nobody, SL_ADDRESS_BYTES_MAX, "127.0.0.1:1");
}

static void shm_addresses(char *listen, char *nobody)
{
    static unsigned number;
    snprintf(listen, SL_ADDRESS_BYTES_MAX, "unix:/tmp/sluice-inject-%d-%u", getpid(), number++);
    snprintf(nobody, SL_ADDRESS_BYTES_MAX, "unix:/tmp/sluice-inject-nobody");
}

static const struct conformance_link bases[] = {
    {"sim", &sl_link_sim, false, sim_addresses, sim_create, sim_idle, sim_close},
    {"tcp", &sl_tcp_link_ops, true, tcp_addresses, uring_create, NULL, NULL},
    {"shm", &sl_shm_link_ops, true, shm_addresses, uring_create, NULL, NULL},
};

/* A pair over a link with faults at node a. */
struct pair {
    struct conformance_link link;
    struct conformance_world world;
    struct conformance_end a, b;
};

static struct pair pair; /* too large for a stack of tests */

static void pair_open(unsigned base, const char *spec, const char *second)
{
    memset(&pair, 0, sizeof(pair));
    pair.link = bases[base];
    pair.link.injects[0][0] = spec;
    pair.link.injects[0][1] = second;
    conformance_world_open(&pair.world, &pair.link, TWO_REACTORS, ALL_ACCESS, ALL_ACCESS);
    conformance_pair_open(&pair.world, &pair.a, &pair.b);
}

static void pair_free(void)
{
    conformance_end_free(&pair.a);
    conformance_end_free(&pair.b);
    conformance_world_close(&pair.world);
}

static uint64_t hits(void)
{
    return sl_inject_hit_count(pair.world.nodes[0].injection.inject);
}

static void ops_new(struct conformance_end *end, enum sl_link_opcode opcode, unsigned count,
                    struct conformance_op **ops)
{
    for (unsigned i = 0; i < count; i++)
        ops[i] = conformance_op_new(end, opcode, 64, opcode == SL_LINK_RECEIVE ? 4096 : 0);
}

/* ---- delay ---- */

#define COUNT 10

static uint64_t received_ns[COUNT];

static void note_time(struct conformance_op *op)
{
    if (op->op.status == 0)
        received_ns[op->done_order - 1] = sl_sim_now_ns(sim);
}

/* The third SEND waits 5 ms, and all behind it wait with it. */
static void test_delay_holds_back_what_follows(void **state)
{
    struct conformance_op *receives[COUNT], *sends[COUNT];
    pair_open(0, "link:delay=5ms,op=send,after=2,count=1", NULL);
    ops_new(&pair.b, SL_LINK_RECEIVE, COUNT, receives);
    for (unsigned i = 0; i < COUNT; i++)
        receives[i]->on_done = note_time;
    conformance_post(receives, COUNT);
    ops_new(&pair.a, SL_LINK_SEND, COUNT, sends);
    for (unsigned i = 0; i < COUNT; i++)
        sends[i]->capsule[0] = (uint8_t)i;
    uint64_t posted_ns = sl_sim_now_ns(sim);
    conformance_post(sends, COUNT);
    conformance_await_done(receives[COUNT - 1]);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(receives[i]->capsule[0], i);
        if (i < 2)
            assert_in_range(received_ns[i], posted_ns, posted_ns + SL_NS_PER_MS);
        else
            assert_in_range(received_ns[i], posted_ns + 5 * SL_NS_PER_MS,
                            posted_ns + 6 * SL_NS_PER_MS);
        conformance_await_done(sends[i]);
        assert_int_equal(sends[i]->op.status, 0);
    }
    assert_int_equal(hits(), 1);
    conformance_disconnect(&pair.a);
    conformance_await_closed(&pair.a);
    conformance_await_closed(&pair.b);
    pair_free();
}

/* Rule 2 with a late WRITE. */
static void write_has_landed(struct conformance_op *op)
{
    const struct conformance_target *target = op->context;
    if (op->op.status == 0)
        CONFORMANCE_CHECK(op->end->node->world,
                          conformance_pattern_is(target->buf->data, 20000, 3));
}

static void test_send_behind_a_late_write(void **state)
{
    for (unsigned base = 0; base < SL_COUNT_OF(bases); base++) {
        struct conformance_target target;
        pair_open(base, "link:delay=2ms,op=write", NULL);
        conformance_target_open(&target, &pair.world.nodes[1], 20000);
        struct conformance_op *receive = conformance_op_new(&pair.b, SL_LINK_RECEIVE, 0, 0);
        receive->context = &target;
        receive->on_done = write_has_landed;
        conformance_post_one(receive);
        struct conformance_op *ops[2] = {conformance_op_new(&pair.a, SL_LINK_WRITE, 0, 20000),
                                         conformance_op_new(&pair.a, SL_LINK_SEND, 64, 0)};
        conformance_pattern_fill(ops[0]->buf->data, 20000, 3);
        ops[0]->op.remote = target.piece;
        conformance_post(ops, 2);
        conformance_await_done(receive);
        assert_int_equal(receive->op.status, 0);
        assert_int_equal(hits(), 1);
        conformance_pair_close(&pair.a, &pair.b);
        conformance_target_close(&target);
        conformance_world_close(&pair.world);
    }
}

/* A connection that ends while operations wait: they are flushed, behind the others. */
static void test_death_flushes_what_waits(void **state)
{
    for (unsigned base = 0; base < SL_COUNT_OF(bases); base++) {
        struct conformance_op *sends[COUNT], *receives[COUNT];
        pair_open(base, "link:delay=1min,op=send,after=3", NULL);
        ops_new(&pair.b, SL_LINK_RECEIVE, COUNT, receives);
        conformance_post(receives, COUNT);
        ops_new(&pair.a, SL_LINK_SEND, COUNT, sends);
        conformance_post(sends, COUNT);
        conformance_await_done(receives[2]);
        conformance_disconnect(&pair.a);
        assert_int_equal(conformance_await_closed(&pair.a), -ECANCELED);
        assert_true(conformance_await_closed(&pair.b) < 0);
        for (unsigned i = 0; i < COUNT; i++) {
            assert_int_equal(sends[i]->done_count, 1);
            assert_int_equal(sends[i]->done_order, i + 1);
            assert_int_equal(receives[i]->op.status, i < 3 ? 0 : -ECONNRESET);
            if (i >= 3)
                assert_int_equal(sends[i]->op.status, -ECONNRESET);
        }
        pair_free();
    }
}

/* What is posted from a done() of the flush is flushed as well. */
static void post_again(struct conformance_op *op)
{
    if (op->op.status != 0 && op->posted_count == 1)
        conformance_op_post(op);
}

static void test_posts_while_flushing(void **state)
{
    for (unsigned base = 0; base < SL_COUNT_OF(bases); base++) {
        struct conformance_op *sends[COUNT], *receive;
        pair_open(base, "link:stall", NULL);
        receive = conformance_op_new(&pair.a, SL_LINK_RECEIVE, 0, 0);
        receive->on_done = post_again;
        conformance_post_one(receive);
        ops_new(&pair.a, SL_LINK_SEND, COUNT, sends);
        for (unsigned i = 0; i < COUNT; i++)
            sends[i]->on_done = post_again;
        conformance_post(sends, COUNT);
        conformance_disconnect(&pair.a);
        conformance_await_closed(&pair.a);
        conformance_await_closed(&pair.b);
        for (unsigned i = 0; i < COUNT; i++)
            assert_int_equal(sends[i]->done_count, 2);
        assert_int_equal(receive->done_count, 2);
        pair_free();
    }
}

/* ---- error, drop ---- */

static void fail_third(unsigned base, const char *spec, const char *second, int status)
{
    struct conformance_target target;
    struct conformance_op *reads[5];
    pair_open(base, spec, second);
    conformance_target_open(&target, &pair.world.nodes[1], 4096);
    conformance_target_fill(&target, 0, 4096, 9);
    for (unsigned i = 0; i < 5; i++) {
        reads[i] = conformance_op_new(&pair.a, SL_LINK_READ, 0, 4096);
        reads[i]->op.remote = target.piece;
    }
    conformance_post(reads, 2);
    conformance_await_done(reads[1]);
    conformance_post(reads + 2, 3);
    assert_int_equal(conformance_await_closed(&pair.a), status);
    assert_true(conformance_await_closed(&pair.b) < 0);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(reads[i]->op.status, i < 2 ? 0 : i == 2 ? status : -ECONNRESET);
        assert_int_equal(reads[i]->done_order, i + 1);
    }
    assert_true(conformance_pattern_is(reads[1]->buf->data, 4096, 9));
    conformance_target_close(&target);
    pair_free();
}

static void test_error_and_drop(void **state)
{
    for (unsigned base = 0; base < SL_COUNT_OF(bases); base++) {
        fail_third(base, "link:error=EIO,op=read,after=2", NULL, -EIO);
        fail_third(base, "link:drop,op=read,after=2,count=1", NULL, -ECONNRESET);
        /* It comes late, and what was before it has passed. */
        fail_third(base, "link:delay=3ms,op=read", "link:error=ETIMEDOUT,op=read,after=2",
                   -ETIMEDOUT);
    }
}

/* ---- stall ---- */

/* Silence in one direction: nothing of a comes any more, and b does not notice by itself. */
static void test_stall(void **state)
{
    for (unsigned base = 0; base < SL_COUNT_OF(bases); base++) {
        struct conformance_op *receives[2][COUNT], *sends[2][COUNT];
        struct conformance_end *ends[2] = {&pair.a, &pair.b};
        pair_open(base, "link:stall,op=send,after=4,count=1", NULL);
        for (unsigned i = 0; i < 2; i++) {
            ops_new(ends[1 - i], SL_LINK_RECEIVE, COUNT, receives[i]);
            conformance_post(receives[i], COUNT);
        }
        for (unsigned i = 0; i < 2; i++) {
            ops_new(ends[i], SL_LINK_SEND, COUNT, sends[i]);
            conformance_post(sends[i], COUNT);
        }
        conformance_await_done(receives[0][3]);
        conformance_await_done(receives[1][COUNT - 1]);
        conformance_run_ms(&pair.world, base == 0 ? 60000 : 50);
        assert_int_equal(conformance_done_count(receives[0][4]), 0);
        assert_int_equal(conformance_done_count(sends[0][4]), 0);
        assert_int_equal(pair.a.closed_count + pair.b.closed_count, 0);
        /* The other side gives up, as its heartbeat would. */
        conformance_disconnect(&pair.b);
        conformance_await_closed(&pair.b);
        assert_true(conformance_await_closed(&pair.a) < 0);
        for (unsigned i = 4; i < COUNT; i++)
            assert_int_equal(sends[0][i]->op.status, -ECONNRESET);
        assert_int_equal(hits(), 1);
        pair_free();
    }
}

/* ---- determinism, misuse ---- */

static uint64_t trace_of_a_run(const char *spec)
{
    struct conformance_op *receives[100], *sends[100];
    pair_open(0, spec, NULL);
    ops_new(&pair.b, SL_LINK_RECEIVE, 100, receives);
    conformance_post(receives, 100);
    ops_new(&pair.a, SL_LINK_SEND, 100, sends);
    conformance_post(sends, 100);
    conformance_await_done(receives[99]);
    uint64_t hash = sl_sim_trace_hash(sim);
    conformance_pair_close(&pair.a, &pair.b);
    conformance_world_close(&pair.world);
    return hash;
}

static void test_same_seed_same_trace(void **state)
{
    uint64_t first = trace_of_a_run("link:delay=1ms,p=0.1,seed=1");
    assert_true(trace_of_a_run("link:delay=1ms,p=0.1,seed=1") == first);
    assert_true(trace_of_a_run("link:delay=1ms,p=0.1,seed=2") != first);
}

static void test_domain_needs_rules(void **state)
{
    struct sl_link_domain_config config = {0};
    struct sl_link_domain *domain;
    const struct sl_link_ops *link = sl_inject_link(&sl_tcp_link_ops);
    assert_int_equal(link->domain_open(&config, &domain), -EINVAL);
    assert_false(link->maps);
    assert_true(sl_inject_link(&sl_shm_link_ops)->maps);
    assert_non_null(sl_inject_link(&sl_shm_link_ops)->remote_map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_delay_holds_back_what_follows),
        cmocka_unit_test(test_send_behind_a_late_write),
        cmocka_unit_test(test_death_flushes_what_waits),
        cmocka_unit_test(test_posts_while_flushing),
        cmocka_unit_test(test_error_and_drop),
        cmocka_unit_test(test_stall),
        cmocka_unit_test(test_same_seed_same_trace),
        cmocka_unit_test(test_domain_needs_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
