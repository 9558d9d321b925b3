/*
 * Goal: every link keeps every rule of src/fabric/link.h.
 * Method: one test a rule, run for each link of the table below in each form (one reactor, two
 * reactors in one thread, two threads), through nothing but struct sl_link_ops. `conformance_test
 * LINK` runs one link alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <fcntl.h>

#include "conformance.h"
#include "sim/sim.h"
#include "core/error.h"
#include "fabric/ofi/ofi.h"
#include "fabric/shm/shm.h"
#include "fabric/tcp/tcp.h"
#include "io/uring/uring.h"

/* ---- the links ---- */

static int uring_create(struct conformance_node *node)
{
    struct sl_uring_config config = {.entries = 256};
    return sl_uring_create(&config, &node->io);
}

static void tcp_addresses(char *listen, char *nobody)
{
    snprintf(listen, SL_ADDRESS_BYTES_MAX, "127.0.0.1:0");
    /* tcpmux: nobody has served it for decades. */
    snprintf(nobody, SL_ADDRESS_BYTES_MAX, "127.0.0.1:1");
}

static void shm_addresses(char *listen, char *nobody)
{
    static unsigned number;
    snprintf(listen, SL_ADDRESS_BYTES_MAX, "unix:/tmp/sluice-conformance-%d-%u", getpid(),
             number++);
    snprintf(nobody, SL_ADDRESS_BYTES_MAX, "unix:/tmp/sluice-conformance-nobody");
}

/* One simulator a world, made with its first node. */
static struct sl_sim *sim;

static int sim_create(struct conformance_node *node)
{
    struct sl_sim_config config = {.seed = 20261121, .network.slow_per_million = 1000};
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

#define DELAYS                                                                                     \
    {                                                                                              \
        {"link:delay=100us,p=0.02,seed=1", "link:delay=30us,op=write,p=0.05"},                     \
        {                                                                                          \
            "link:delay=50us,op=send|read,p=0.05"                                                  \
        }                                                                                          \
    }

static const struct conformance_link links[] = {
    {"tcp", &sl_tcp_link_ops, true, .addresses = tcp_addresses, .io_create = uring_create},
    {"shm", &sl_shm_link_ops, true, .addresses = shm_addresses, .io_create = uring_create},
    {"sim", &sl_link_sim, false, .addresses = sim_addresses, .io_create = sim_create,
     .idle = sim_idle, .close = sim_close},
    {"ofi+tcp", &sl_ofi_link_ops, true, .device = "+tcp", .sends_wait = true,
     .silent_refusal = true, .misreads_ends = true, .addresses = tcp_addresses,
     .io_create = uring_create},
    /* The layer of faults keeps the rules as the link below does; delays are no breach of them. */
    {"tcp+delay", &sl_tcp_link_ops, true, .addresses = tcp_addresses, .io_create = uring_create,
     .injects = DELAYS},
    {"shm+delay", &sl_shm_link_ops, true, .addresses = shm_addresses, .io_create = uring_create,
     .injects = DELAYS},
    {"sim+delay", &sl_link_sim, false, .addresses = sim_addresses, .io_create = sim_create,
     .idle = sim_idle, .close = sim_close, .injects = DELAYS},
};

/* Where there is an RDMA device ($SLUICE_TEST_VERBS names it, or "any"): the same on verbs. */
static char verbs_device[SL_OFI_NAME_BYTES];
static char verbs_host[SL_OFI_NAME_BYTES];

static void verbs_addresses(char *listen, char *nobody)
{
    snprintf(listen, SL_ADDRESS_BYTES_MAX, "%s:0", verbs_host);
    snprintf(nobody, SL_ADDRESS_BYTES_MAX, "%s:1", verbs_host);
}

static const struct conformance_link verbs_link = {
    "ofi+verbs",
    &sl_ofi_link_ops,
    true,
    .device = verbs_device,
    .sends_wait = true,
    .addresses = verbs_addresses,
    .io_create = uring_create,
};

/* What a test gets: one link in one form. */
struct conformance_case {
    const struct conformance_link *link;
    enum conformance_form form;
};

#define ALL_ACCESS (SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE)

static void open_world(void **state, struct conformance_world *world)
{
    const struct conformance_case *row = *state;
    conformance_world_open(world, row->link, row->form, ALL_ACCESS, ALL_ACCESS);
}

static const struct sl_link_limits *limits_of(const struct conformance_world *world)
{
    return conformance_ops(world)->limits(world->nodes[0].domain);
}

/* ---- rule 1: order, consumption, two pieces ---- */

#define ORDER_COUNT 100

static void test_sends_in_order(void **state)
{
    struct conformance_world world;
    struct conformance_end a, b;
    struct conformance_op *sends[ORDER_COUNT], *receives[ORDER_COUNT + 1];
    open_world(state, &world);
    conformance_pair_open(&world, &a, &b);
    for (unsigned i = 0; i <= ORDER_COUNT; i++) {
        receives[i] = conformance_op_new(&b, SL_LINK_RECEIVE, 0, SL_IN_CAPSULE_BYTES_MAX);
        memset(receives[i]->buf->data, 0xee, SL_IN_CAPSULE_BYTES_MAX);
        memset(receives[i]->capsule, 0xee, SL_CAPSULE_BYTES_MAX);
    }
    for (unsigned i = 0; i < ORDER_COUNT; i++) {
        uint32_t capsule_bytes = 32 + i * 7 % 225;
        uint32_t payload_bytes = i % 3 == 0 ? 0 : (i * 997) % SL_IN_CAPSULE_BYTES_MAX + 1;
        sends[i] = conformance_op_new(&a, SL_LINK_SEND, capsule_bytes, payload_bytes);
        conformance_pattern_fill(sends[i]->capsule, capsule_bytes, i);
        if (payload_bytes > 0)
            conformance_pattern_fill(sends[i]->buf->data, payload_bytes, i * 1000);
    }
    conformance_post(receives, ORDER_COUNT + 1);
    conformance_post(sends, ORDER_COUNT);
    conformance_await_done(receives[ORDER_COUNT - 1]);
    conformance_await_done(sends[ORDER_COUNT - 1]);
    for (unsigned i = 0; i < ORDER_COUNT; i++) {
        uint32_t capsule_bytes = sends[i]->op.spans[0].length_bytes;
        uint32_t payload_bytes =
            sends[i]->op.span_count > 1 ? sends[i]->op.spans[1].length_bytes : 0;
        assert_int_equal(receives[i]->op.status, 0);
        assert_int_equal(receives[i]->done_order, i + 1);
        assert_int_equal(sends[i]->op.status, 0);
        assert_int_equal(sends[i]->done_order, i + 1);
        if (payload_bytes > 0 && limits_of(&world)->pads_capsules)
            assert_int_equal(receives[i]->op.capsule_bytes, SL_CAPSULE_BYTES_MAX);
        else
            assert_int_equal(receives[i]->op.capsule_bytes, capsule_bytes);
        assert_int_equal(receives[i]->op.payload_bytes, payload_bytes);
        assert_true(conformance_pattern_is(receives[i]->capsule, capsule_bytes, i));
        const uint8_t *data = receives[i]->buf->data;
        assert_true(conformance_pattern_is(data, payload_bytes, i * 1000));
        /* Nothing behind it was touched. */
        for (uint32_t k = payload_bytes; k < SL_IN_CAPSULE_BYTES_MAX; k++)
            assert_int_equal(data[k], 0xee);
    }
    /* The last receive was not consumed. */
    assert_int_equal(conformance_done_count(receives[ORDER_COUNT]), 0);
    conformance_pair_close(&a, &b);
    conformance_world_close(&world);
}

/* A SEND gathered from three pieces, and a receive without data buffer for one without payload. */
static void test_send_pieces(void **state)
{
    struct conformance_world world;
    struct conformance_end a, b;
    open_world(state, &world);
    conformance_pair_open(&world, &a, &b);
    struct conformance_op *receives[2] = {conformance_op_new(&b, SL_LINK_RECEIVE, 0, 16384),
                                          conformance_op_new(&b, SL_LINK_RECEIVE, 0, 0)};
    struct conformance_op *sends[2] = {conformance_op_new(&a, SL_LINK_SEND, 96, 12288),
                                       conformance_op_new(&a, SL_LINK_SEND, 32, 0)};
    conformance_pattern_fill(sends[0]->buf->data, 12288, 5);
    struct sl_span *spans = sends[0]->op.spans;
    sends[0]->op.span_count = 4;
    for (unsigned i = 0; i < 3; i++)
        spans[1 + i] = sl_buf_span(sends[0]->buf, i * 4096, 4096);
    conformance_post(receives, 2);
    conformance_post(sends, 2);
    conformance_await_done(receives[1]);
    assert_int_equal(receives[0]->op.payload_bytes, 12288);
    assert_true(conformance_pattern_is(receives[0]->buf->data, 12288, 5));
    assert_int_equal(receives[1]->op.capsule_bytes, 32);
    assert_int_equal(receives[1]->op.payload_bytes, 0);
    conformance_pair_close(&a, &b);
    conformance_world_close(&world);
}

static void test_send_without_receive(void **state)
{
    struct conformance_world world;
    struct conformance_end a, b;
    open_world(state, &world);
    conformance_pair_open(&world, &a, &b);
    struct conformance_op *send = conformance_op_new(&a, SL_LINK_SEND, 64, 4096);
    conformance_pattern_fill(send->buf->data, 4096, 8);
    conformance_post_one(send);
    if (world.link->sends_wait) {
        /* It has harmed nobody, and arrives when it can. */
        conformance_run_ms(&world, 20);
        struct conformance_op *receive = conformance_op_new(&b, SL_LINK_RECEIVE, 0, 4096);
        conformance_post_one(receive);
        conformance_await_done(receive);
        assert_int_equal(receive->op.status, 0);
        assert_true(conformance_pattern_is(receive->buf->data, 4096, 8));
        conformance_post_one(conformance_op_new(&a, SL_LINK_SEND, 64, 4096));
        conformance_disconnect(&b);
    }
    assert_true(conformance_await_closed(&a) < 0);
    assert_true(conformance_await_closed(&b) < 0);
    assert_int_equal(send->done_count, 1);
    conformance_end_free(&a);
    conformance_end_free(&b);
    conformance_world_close(&world);
}

/* ---- rule 2: WRITE, then SEND ---- */

#define WRITE_COUNT 60
#define WRITE_BYTES 20000u

struct landed {
    const uint8_t *place;
    unsigned seen_count;
};

static void receive_sees_write(struct conformance_op *op)
{
    struct landed *landed = op->context;
    unsigned i = op->done_order - 1;
    if (op->op.status != 0)
        return;
    CONFORMANCE_CHECK(op->end->node->world,
                      conformance_pattern_is(landed->place + i * WRITE_BYTES, WRITE_BYTES, i));
    landed->seen_count++;
}

static void test_write_then_send(void **state)
{
    struct conformance_world world;
    struct conformance_end a, b;
    struct conformance_target target;
    struct landed landed = {0};
    struct conformance_op *ops[2 * WRITE_COUNT], *receives[WRITE_COUNT];
    open_world(state, &world);
    conformance_pair_open(&world, &a, &b);
    conformance_target_open(&target, &world.nodes[1], WRITE_COUNT * WRITE_BYTES);
    assert_int_equal(target.error, 0);
    landed.place = target.buf->data;
    for (unsigned i = 0; i < WRITE_COUNT; i++) {
        receives[i] = conformance_op_new(&b, SL_LINK_RECEIVE, 0, 0);
        receives[i]->context = &landed;
        receives[i]->on_done = receive_sees_write;
        struct conformance_op *write = conformance_op_new(&a, SL_LINK_WRITE, 0, WRITE_BYTES);
        conformance_pattern_fill(write->buf->data, WRITE_BYTES, i);
        /* In two pieces. */
        write->op.span_count = 2;
        write->op.spans[0].length_bytes = 8192;
        write->op.spans[1] = sl_buf_span(write->buf, 8192, WRITE_BYTES - 8192);
        write->op.remote = target.piece;
        write->op.remote.address += i * WRITE_BYTES;
        write->op.remote.length_bytes = WRITE_BYTES;
        ops[2 * i] = write;
        ops[2 * i + 1] = conformance_op_new(&a, SL_LINK_SEND, 32, 0);
    }
    conformance_post(receives, WRITE_COUNT);
    conformance_post(ops, 2 * WRITE_COUNT);
    conformance_await_done(receives[WRITE_COUNT - 1]);
    assert_int_equal(landed.seen_count, WRITE_COUNT);
    for (unsigned i = 0; i < 2 * WRITE_COUNT; i++) {
        conformance_await_done(ops[i]);
        assert_int_equal(ops[i]->op.status, 0);
    }
    conformance_pair_close(&a, &b);
    conformance_target_close(&target);
    conformance_world_close(&world);
}

/* ---- rule 3: READ ---- */

#define READ_COUNT 400 /* more than a link keeps outstanding */
#define READ_BYTES 3000u

struct read_check {
    uint64_t seed;
};

static void read_has_data(struct conformance_op *op)
{
    const uint8_t *data = op->buf->data;
    uint32_t half = op->op.spans[0].length_bytes;
    uint8_t expected[READ_BYTES];
    conformance_pattern_fill(expected, READ_BYTES, (uintptr_t)op->context);
    CONFORMANCE_CHECK(op->end->node->world, op->op.status == 0);
    CONFORMANCE_CHECK(op->end->node->world, memcmp(data, expected, half) == 0);
    CONFORMANCE_CHECK(op->end->node->world,
                      memcmp(data + 4096, expected + half, READ_BYTES - half) == 0);
}

static void test_read_scatter(void **state)
{
    struct conformance_world world;
    struct conformance_end a, b;
    struct conformance_target target;
    struct conformance_op *ops[READ_COUNT];
    open_world(state, &world);
    conformance_pair_open(&world, &a, &b);
    conformance_target_open(&target, &world.nodes[1], READ_COUNT * READ_BYTES);
    assert_int_equal(target.error, 0);
    for (unsigned i = 0; i < READ_COUNT; i++) {
        conformance_target_fill(&target, i * READ_BYTES, READ_BYTES, i + 7);
        struct conformance_op *read = conformance_op_new(&a, SL_LINK_READ, 0, 8192);
        uint32_t first = 1 + i * 7 % (READ_BYTES - 1);
        read->op.span_count = 2;
        read->op.spans[0] = sl_buf_span(read->buf, 0, first);
        read->op.spans[1] = sl_buf_span(read->buf, 4096, READ_BYTES - first);
        read->op.remote = target.piece;
        read->op.remote.address += i * READ_BYTES;
        read->op.remote.length_bytes = READ_BYTES;
        read->context = (void *)(uintptr_t)(i + 7);
        read->on_done = read_has_data;
        ops[i] = read;
    }
    conformance_post(ops, READ_COUNT);
    conformance_await_done(ops[READ_COUNT - 1]);
    for (unsigned i = 0; i < READ_COUNT; i++) {
        assert_int_equal(ops[i]->done_count, 1);
        assert_int_equal(ops[i]->done_order, i + 1);
    }
    conformance_pair_close(&a, &b);
    conformance_target_close(&target);
    conformance_world_close(&world);
}

/* The most that the link takes (1 MiB, where it is not less), 8 outstanding, both ways. */
#define BIG_COUNT 8

static void big_transfers(struct conformance_world *world, enum sl_link_opcode opcode)
{
    uint32_t total = limits_of(world)->transfer_bytes_max;
    struct conformance_end a, b;
    struct conformance_target targets[BIG_COUNT];
    struct conformance_op *ops[BIG_COUNT + 1];
    conformance_pair_open(world, &a, &b);
    struct conformance_op *receive = conformance_op_new(&b, SL_LINK_RECEIVE, 0, 0);
    for (unsigned i = 0; i < BIG_COUNT; i++) {
        conformance_target_open(&targets[i], &world->nodes[1], total);
        ops[i] = conformance_op_new(&a, opcode, 0, total);
        if (opcode == SL_LINK_READ)
            conformance_target_fill(&targets[i], 0, total, i + 90);
        else
            conformance_pattern_fill(ops[i]->buf->data, total, i + 90);
        ops[i]->op.remote = targets[i].piece;
        unsigned count = sl_min(16u, limits_of(world)->local_spans_max);
        uint32_t bytes = total / count;
        assert_int_equal(bytes * count, total);
        ops[i]->op.span_count = count;
        for (unsigned k = 0; k < count; k++)
            ops[i]->op.spans[k] = sl_buf_span(ops[i]->buf, k * bytes, bytes);
    }
    ops[BIG_COUNT] = conformance_op_new(&a, SL_LINK_SEND, 32, 0);
    conformance_post_one(receive);
    conformance_post(ops, BIG_COUNT + 1);
    conformance_await_done(receive);
    for (unsigned i = 0; i < BIG_COUNT; i++) {
        conformance_await_done(ops[i]);
        assert_int_equal(ops[i]->op.status, 0);
        uint8_t *to = opcode == SL_LINK_READ ? ops[i]->buf->data : targets[i].buf->data;
        assert_true(conformance_pattern_is(to, total, i + 90));
    }
    conformance_pair_close(&a, &b);
    for (unsigned i = 0; i < BIG_COUNT; i++)
        conformance_target_close(&targets[i]);
}

static void test_big_transfers(void **state)
{
    struct conformance_world world;
    open_world(state, &world);
    big_transfers(&world, SL_LINK_WRITE);
    big_transfers(&world, SL_LINK_READ);
    conformance_world_close(&world);
}

/* ---- rule 4: flush ---- */

#define FLUSH_RECEIVES 40
#define FLUSH_OPS      60
#define FLUSH_BYTES    200000u

/* Posts all kinds at `end`, more than can finish. The peer keeps `credits` receives posted. */
static void post_all_kinds(struct conformance_end *end, const struct conformance_target *target,
                           unsigned credits)
{
    struct conformance_op *ops[FLUSH_OPS];
    uint32_t bytes = target->length_bytes;
    for (unsigned i = 0; i < FLUSH_OPS; i++) {
        enum sl_link_opcode opcode = i % 3 == 0 && i / 3 < credits ? SL_LINK_SEND
                                     : i % 2 == 0                  ? SL_LINK_READ
                                                                   : SL_LINK_WRITE;
        ops[i] = conformance_op_new(end, opcode, 64, opcode == SL_LINK_SEND ? 4096 : bytes);
        ops[i]->op.remote = target->piece;
        ops[i]->op.remote.length_bytes = bytes;
    }
    conformance_post(ops, FLUSH_OPS);
}

static void make_receives(struct conformance_end *end, struct conformance_node *node)
{
    end->node = node;
    for (unsigned i = 0; i < FLUSH_RECEIVES; i++)
        conformance_op_new(end, SL_LINK_RECEIVE, 0, 4096);
}

static void post_receives(struct conformance_end *end)
{
    SL_ASSERT(end->op_count == 0);
    make_receives(end, end->node);
    conformance_post(end->ops, FLUSH_RECEIVES);
}

/* Every operation was done once (conformance_await_closed() and end_closed() look), with a sensible
 * status, and kinds in their order. */
static void check_flushed(const struct conformance_end *end)
{
    unsigned last[4] = {0};
    for (unsigned i = 0; i < end->op_count; i++) {
        const struct conformance_op *op = end->ops[i];
        assert_int_equal(op->done_count, 1);
        assert_true(op->op.status == 0 || op->op.status == -ECONNRESET);
        assert_true(op->done_order > last[op->op.opcode] || end->was_misread);
        last[op->op.opcode] = op->done_order;
    }
}

static void flush_round(struct conformance_world *world, unsigned side, unsigned wait_ms)
{
    struct conformance_end ends[2];
    struct conformance_target targets[2];
    conformance_pair_open(world, &ends[0], &ends[1]);
    for (unsigned i = 0; i < 2; i++)
        conformance_target_open(&targets[i], &world->nodes[i],
                                sl_min(FLUSH_BYTES, limits_of(world)->transfer_bytes_max));
    for (unsigned i = 0; i < 2; i++)
        post_receives(&ends[i]);
    for (unsigned i = 0; i < 2; i++)
        post_all_kinds(&ends[i], &targets[1 - i], 10);
    conformance_run_ms(world, wait_ms);
    conformance_disconnect(&ends[side]);
    conformance_disconnect(&ends[side]); /* harmless twice */
    int reason = conformance_await_closed(&ends[side]);
    assert_true(reason == -ECANCELED || (world->link->misreads_ends && reason == -ECONNRESET));
    assert_true(conformance_await_closed(&ends[1 - side]) < 0);
    for (unsigned i = 0; i < 2; i++) {
        check_flushed(&ends[i]);
        conformance_end_free(&ends[i]);
        conformance_target_close(&targets[i]);
    }
}

static void test_flush_exactly_once(void **state)
{
    struct conformance_world world;
    open_world(state, &world);
    for (unsigned wait_ms = 0; wait_ms < 3; wait_ms++)
        for (unsigned side = 0; side < 2; side++)
            flush_round(&world, side, wait_ms);
    conformance_world_close(&world);
}

/* Messages go to and fro, each answered from the done() of its receive, which posts the receive
 * again. */
#define BALL_COUNT 8
#define BALL_BYTES 8192u

static void ball_returned(struct conformance_op *receive)
{
    struct conformance_end *end = receive->end;
    if (receive->op.status != 0) {
        /* A post after death is flushed like the others: try it with one. */
        if (receive == end->ops[0] && receive->context == NULL) {
            receive->context = receive;
            conformance_op_post(receive);
        }
        return;
    }
    conformance_op_post(receive);
    for (unsigned i = 0; i < end->op_count; i++) {
        struct conformance_op *send = end->ops[i];
        /* The first ones (context) are taken until the test has posted them. */
        bool taken = send->context != NULL && send->posted_count == 0;
        if (send->op.opcode == SL_LINK_SEND && !taken && send->done_count == send->posted_count) {
            conformance_op_post(send);
            return;
        }
    }
    CONFORMANCE_CHECK(end->node->world, !"a free SEND");
}

static void traffic_round(struct conformance_world *world, unsigned round)
{
    struct conformance_end ends[2];
    struct conformance_op *sends[2][BALL_COUNT];
    conformance_pair_open(world, &ends[0], &ends[1]);
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned k = 0; k < 4 * BALL_COUNT; k++) {
            struct conformance_op *op =
                conformance_op_new(&ends[i], SL_LINK_RECEIVE, 0, BALL_BYTES);
            op->on_done = ball_returned;
            conformance_post_one(op);
        }
        for (unsigned k = 0; k < 4 * BALL_COUNT; k++) {
            struct conformance_op *op = conformance_op_new(&ends[i], SL_LINK_SEND, 100, BALL_BYTES);
            if (k < BALL_COUNT) {
                op->context = op;
                sends[i][k] = op;
            }
        }
    }
    for (unsigned i = 0; i < 2; i++)
        conformance_post(sends[i], BALL_COUNT);
    conformance_run_ms(world, 1 + round % 5);
    conformance_disconnect(&ends[round % 2]);
    for (unsigned i = 0; i < 2; i++) {
        conformance_await_closed(&ends[i]);
        assert_true(ends[i].done_count > 0);
        conformance_end_free(&ends[i]);
    }
}

static void test_disconnect_during_traffic(void **state)
{
    struct conformance_world world;
    open_world(state, &world);
    for (unsigned round = 0; round < 10; round++)
        traffic_round(&world, round);
    conformance_world_close(&world);
}

/* ---- rule 5: keys ---- */

enum violation {
    WRONG_KEY,
    NO_SUCH_SLOT,
    BEHIND_THE_END,
    OVER_THE_END,
    ADDRESS_WRAPS,
    REVOKED,
    NO_RIGHT,
    VIOLATION_COUNT,
};

/* Memory of "a client", mapped at a node: its rights are the domain's for foreign memory. */
struct foreign {
    struct conformance_node *node;
    struct sl_region *region;
    struct sl_remote_piece piece;
    int error;
};

#define FOREIGN_BYTES (1u << 20)

static void foreign_open_on(void *argument)
{
    struct foreign *foreign = argument;
    struct conformance_node *node = foreign->node;
    int memfd = memfd_create("conformance", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    foreign->error = -ENOMEM;
    if (memfd < 0 || ftruncate(memfd, FOREIGN_BYTES) != 0 ||
        fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK) != 0)
        return;
    foreign->error = sl_region_map_foreign(sl_memory_regions(node->memory), memfd, 0, FOREIGN_BYTES,
                                           true, &foreign->region);
    if (foreign->error == 0)
        foreign->error = conformance_ops(node->world)
                             ->describe(node->domain, foreign->region, foreign->region->base,
                                        FOREIGN_BYTES, &foreign->piece);
}

static void foreign_close_on(void *argument)
{
    struct foreign *foreign = argument;
    sl_region_remove(foreign->region);
    foreign->region = NULL;
}

static void violate(struct conformance_world *world, enum sl_link_opcode opcode,
                    enum violation violation)
{
    struct conformance_end a, b;
    struct foreign foreign = {.node = &world->nodes[1]};
    conformance_pair_open(world, &a, &b);
    conformance_call(foreign.node, foreign_open_on, &foreign);
    assert_int_equal(foreign.error, 0);
    post_receives(&a);
    post_receives(&b);
    struct conformance_op *good = conformance_op_new(&a, SL_LINK_READ, 0, 4096);
    struct conformance_op *bad = conformance_op_new(&a, opcode, 0, 8192);
    struct conformance_op *later = conformance_op_new(&a, SL_LINK_READ, 0, 4096);
    good->op.remote = later->op.remote = bad->op.remote = foreign.piece;
    if (violation == WRONG_KEY)
        bad->op.remote.key ^= UINT64_C(1) << 60;
    if (violation == NO_SUCH_SLOT)
        bad->op.remote.key ^= 0xff00;
    if (violation == BEHIND_THE_END)
        bad->op.remote.address += FOREIGN_BYTES;
    if (violation == OVER_THE_END)
        bad->op.remote.address += FOREIGN_BYTES - 8192 + 1;
    if (violation == ADDRESS_WRAPS)
        bad->op.remote.address -= 4096;
    if (violation == REVOKED)
        conformance_call(foreign.node, foreign_close_on, &foreign);
    struct conformance_op *ops[] = {good, bad, later};
    bool readable = violation != REVOKED && violation != NO_RIGHT;
    conformance_post(ops + !readable, 3 - !readable);
    /* The initiator learns why, and only this connection dies. */
    int reason = world->link->silent_refusal ? -ECONNRESET : -SL_E_KEY;
    assert_int_equal(conformance_await_closed(&a), reason);
    assert_true(conformance_await_closed(&b) < 0);
    if (opcode == SL_LINK_READ)
        assert_int_equal(bad->op.status, reason);
    assert_int_equal(later->op.status, -ECONNRESET);
    conformance_end_free(&a);
    conformance_end_free(&b);
    if (foreign.region != NULL)
        conformance_call(foreign.node, foreign_close_on, &foreign);
}

static void test_key_violations(void **state)
{
    struct conformance_world world;
    open_world(state, &world);
    for (unsigned violation = 0; violation < NO_RIGHT; violation++) {
        violate(&world, SL_LINK_READ, violation);
        violate(&world, SL_LINK_WRITE, violation);
    }
    conformance_world_close(&world);
}

static void test_missing_rights(void **state)
{
    const struct conformance_case *row = *state;
    struct conformance_world world;
    conformance_world_open(&world, row->link, row->form, 0, SL_ACCESS_REMOTE_READ);
    violate(&world, SL_LINK_WRITE, NO_RIGHT);
    /* Without any right there is no key. */
    struct conformance_target target;
    conformance_target_open(&target, &world.nodes[1], 4096);
    assert_int_equal(target.error, -SL_E_KEY);
    conformance_target_close(&target);
    conformance_world_close(&world);
    conformance_world_open(&world, row->link, row->form, 0, SL_ACCESS_REMOTE_WRITE);
    violate(&world, SL_LINK_READ, NO_RIGHT);
    conformance_world_close(&world);
}

/* ---- atomics, where there are any ---- */

#define ATOMIC_COUNT 200

static void test_atomics(void **state)
{
    struct conformance_world world;
    struct conformance_end a, b;
    struct conformance_target target;
    struct conformance_op *ops[ATOMIC_COUNT];
    open_world(state, &world);
    if (!limits_of(&world)->atomics) {
        conformance_world_close(&world);
        skip();
    }
    conformance_pair_open(&world, &a, &b);
    conformance_target_open(&target, &world.nodes[1], 8);
    uint64_t *place = (uint64_t *)(void *)target.buf->data;
    *place = 1000;
    for (unsigned i = 0; i < ATOMIC_COUNT; i++) {
        ops[i] = conformance_op_new(&a, SL_LINK_FETCH_ADD, 0, 8);
        ops[i]->op.remote = target.piece;
        ops[i]->op.operand = 3;
    }
    conformance_post(ops, ATOMIC_COUNT);
    for (unsigned i = 0; i < ATOMIC_COUNT; i++) {
        conformance_await_done(ops[i]);
        assert_int_equal(ops[i]->op.status, 0);
        assert_int_equal(*(uint64_t *)(void *)ops[i]->buf->data, 1000 + 3 * i);
    }
    /* The second finds what the first has written. */
    for (unsigned i = 0; i < 2; i++) {
        struct conformance_op *swap = conformance_op_new(&a, SL_LINK_COMPARE_SWAP, 0, 8);
        swap->op.remote = target.piece;
        swap->op.compare = 1000 + 3 * ATOMIC_COUNT;
        swap->op.operand = 7;
        conformance_post_one(swap);
        conformance_await_done(swap);
        assert_int_equal(swap->op.status, 0);
        assert_int_equal(*(uint64_t *)(void *)swap->buf->data,
                         i == 0 ? 1000 + 3 * ATOMIC_COUNT : 7);
    }
    conformance_pair_close(&a, &b);
    assert_int_equal(*place, 7);
    conformance_target_close(&target);
    conformance_world_close(&world);
}

/* ---- connections ---- */

static void test_connect_refused(void **state)
{
    struct conformance_world world;
    struct conformance_end end = {0};
    char listen[SL_ADDRESS_BYTES_MAX], nobody[SL_ADDRESS_BYTES_MAX];
    open_world(state, &world);
    world.link->addresses(listen, nobody);
    /* What was posted before is flushed. */
    make_receives(&end, &world.nodes[0]);
    conformance_connect(&end, &world.nodes[0], nobody, NULL, 5000);
    assert_int_equal(conformance_await_closed(&end), -ECONNREFUSED);
    assert_int_equal(end.connected_count, 0);
    conformance_end_free(&end);
    conformance_world_close(&world);
}

/* How often a reactor came to it. */
struct ticker {
    struct conformance_node *node;
    struct sl_timer timer;
    unsigned count;
};

static void tick(struct sl_timer *timer)
{
    struct ticker *ticker = sl_container_of(timer, struct ticker, timer);
    struct sl_reactor *reactor = ticker->node->reactor;
    ticker->count++;
    sl_timer_arm(reactor, timer, sl_reactor_now_ns(reactor) + 5 * SL_NS_PER_MS);
}

static void ticker_start(void *argument)
{
    struct ticker *ticker = argument;
    sl_timer_init(&ticker->timer, tick);
    tick(&ticker->timer);
}

static void ticker_stop(void *argument)
{
    struct ticker *ticker = argument;
    sl_timer_cancel(ticker->node->reactor, &ticker->timer);
}

/* A host that is not there, so that its address cannot be resolved: found out beside all else. Over
 * verbs the reactor stood still for 2 s, and every group and connection on it with it. */
static void test_connect_absent(void **state)
{
    const char *address = getenv("SLUICE_TEST_ABSENT");
    struct conformance_world world;
    struct conformance_end end = {0};
    if (address == NULL)
        return;
    open_world(state, &world);
    struct ticker ticker = {.node = &world.nodes[0]};
    conformance_call(ticker.node, ticker_start, &ticker);
    make_receives(&end, &world.nodes[0]);
    conformance_connect(&end, &world.nodes[0], address, NULL, 1000);
    int reason = conformance_await_closed(&end);
    conformance_call(ticker.node, ticker_stop, &ticker);
    assert_true(reason == -ETIMEDOUT || reason == -EHOSTUNREACH);
    assert_int_equal(end.connected_count, 0);
    /* Once in 5 ms for a second; a reactor that stands still comes to it once or twice. */
    assert_true(ticker.count > 10);
    conformance_end_free(&end);
    conformance_world_close(&world);
}

static void test_connect_timeout(void **state)
{
    struct conformance_world world;
    struct conformance_end end = {0};
    struct conformance_server server;
    open_world(state, &world);
    conformance_server_open(&server, &world.nodes[1]);
    conformance_connect(&end, &world.nodes[0], server.address, NULL, 100);
    /* Nobody answers the request in time; on a busy machine it may not even arrive. */
    assert_int_equal(conformance_await_closed(&end), -ETIMEDOUT);
    assert_int_equal(end.connected_count, 0);
    conformance_end_free(&end);
    conformance_server_close(&server); /* rejects it */
    conformance_world_close(&world);
}

static void test_accept_of_the_gone(void **state)
{
    struct conformance_world world;
    struct conformance_end a = {0}, b = {0};
    struct conformance_server server;
    open_world(state, &world);
    conformance_server_open(&server, &world.nodes[1]);
    conformance_connect(&a, &world.nodes[0], server.address, NULL, 5000);
    struct sl_link_incoming *request = conformance_server_take(&server);
    conformance_disconnect(&a);
    assert_int_equal(conformance_await_closed(&a), -ECANCELED);
    make_receives(&b, &world.nodes[1]);
    conformance_accept(&b, &world.nodes[1], request);
    assert_true(conformance_await_closed(&b) < 0);
    conformance_end_free(&a);
    conformance_end_free(&b);
    conformance_server_close(&server);
    conformance_world_close(&world);
}

static void test_reject(void **state)
{
    struct conformance_world world;
    struct conformance_end end = {0};
    struct conformance_server server;
    open_world(state, &world);
    conformance_server_open(&server, &world.nodes[1]);
    conformance_connect(&end, &world.nodes[0], server.address, NULL, 5000);
    struct sl_link_incoming *request = conformance_server_take(&server);
    request->ops->reject(request); /* from any thread */
    assert_int_equal(conformance_await_closed(&end), -ECONNREFUSED);
    assert_int_equal(end.connected_count, 0);
    conformance_end_free(&end);
    conformance_server_close(&server);
    conformance_world_close(&world);
}

/* Private data arrives; the request is accepted at the other node than the listener's; it works;
 * and connected() came before the first receive. */
static void test_hand_over(void **state)
{
    struct conformance_world world;
    struct conformance_end a = {0}, b = {0};
    struct conformance_server server;
    uint8_t private_data[SL_LINK_PRIVATE_BYTES];
    open_world(state, &world);
    conformance_pattern_fill(private_data, sizeof(private_data), 99);
    conformance_server_open(&server, &world.nodes[0]);
    conformance_connect(&a, &world.nodes[0], server.address, private_data, 5000);
    struct sl_link_incoming *request = conformance_server_take(&server);
    assert_ptr_equal(request->ops, conformance_ops(&world));
    assert_memory_equal(request->private_data, private_data, sizeof(private_data));
    assert_true(strlen(request->peer) > 0);
    make_receives(&b, &world.nodes[1]);
    conformance_accept(&b, &world.nodes[1], request);
    conformance_await_connected(&a);
    struct conformance_op *send = conformance_op_new(&a, SL_LINK_SEND, 64, 4096);
    conformance_pattern_fill(send->buf->data, 4096, 3);
    conformance_post_one(send);
    conformance_await_done(b.ops[0]);
    assert_int_equal(b.connected_count, 1);
    assert_true(conformance_pattern_is(b.ops[0]->buf->data, 4096, 3));
    conformance_server_close(&server);
    conformance_pair_close(&a, &b);
    conformance_world_close(&world);
}

/* No incoming() after the close, whatever is on its way. */
static void test_listener_close(void **state)
{
    struct conformance_world world;
    struct conformance_end end = {0};
    struct conformance_server server;
    open_world(state, &world);
    conformance_server_open(&server, &world.nodes[1]);
    conformance_connect(&end, &world.nodes[0], server.address, NULL, 1000);
    conformance_server_close(&server);
    unsigned before = server.incoming_count;
    assert_true(conformance_await_closed(&end) < 0);
    assert_int_equal(server.incoming_count, before);
    conformance_end_free(&end);
    conformance_world_close(&world);
}

/* ---- everything at once ---- */

static void test_random_operations(void **state)
{
    struct conformance_world world;
    open_world(state, &world);
    conformance_random_run(&world, 10000, 1);
    conformance_world_close(&world);
}

static const struct {
    const char *name;
    CMUnitTestFunction function;
} tests[] = {
    {"sends_in_order", test_sends_in_order},
    {"send_pieces", test_send_pieces},
    {"send_without_receive", test_send_without_receive},
    {"write_then_send", test_write_then_send},
    {"read_scatter", test_read_scatter},
    {"big_transfers", test_big_transfers},
    {"flush_exactly_once", test_flush_exactly_once},
    {"disconnect_during_traffic", test_disconnect_during_traffic},
    {"key_violations", test_key_violations},
    {"missing_rights", test_missing_rights},
    {"atomics", test_atomics},
    {"connect_refused", test_connect_refused},
    {"connect_absent", test_connect_absent},
    {"connect_timeout", test_connect_timeout},
    {"accept_of_the_gone", test_accept_of_the_gone},
    {"reject", test_reject},
    {"hand_over", test_hand_over},
    {"listener_close", test_listener_close},
    {"random_operations", test_random_operations},
};

static struct conformance_case cases[(SL_COUNT_OF(links) + 1) * 3];
static struct CMUnitTest list[SL_COUNT_OF(cases) * SL_COUNT_OF(tests)];
static char names[SL_COUNT_OF(list)][96];
static size_t case_count, test_count;

static void add_link(const struct conformance_link *link)
{
    static const char *const forms[] = {"one_reactor", "two_reactors", "two_threads"};
    for (unsigned form = ONE_REACTOR; form <= TWO_THREADS; form++) {
        if (form == TWO_THREADS && !link->threads)
            continue;
        struct conformance_case *row = &cases[case_count++];
        *row = (struct conformance_case){link, form};
        for (size_t k = 0; k < SL_COUNT_OF(tests); k++) {
            char *name = names[test_count];
            snprintf(name, sizeof(names[0]), "%s/%s/%s", link->name, forms[form], tests[k].name);
            list[test_count++] = (struct CMUnitTest){name, tests[k].function, NULL, NULL, row};
        }
    }
}

/* False: it was asked for, and is not there. */
static bool add_verbs(void)
{
    const char *wanted = getenv("SLUICE_TEST_VERBS");
    struct sl_ofi_device device;
    char error[512];
    if (wanted == NULL)
        return true;
    snprintf(verbs_device, sizeof(verbs_device), "+verbs%s%s",
             strcmp(wanted, "any") == 0 ? "" : ":", strcmp(wanted, "any") == 0 ? "" : wanted);
    if (sl_ofi_device_find(verbs_device, &device, error, sizeof(error)) < 0) {
        fprintf(stderr, "SLUICE_TEST_VERBS=%s: %s\n", wanted, error);
        return false;
    }
    snprintf(verbs_host, sizeof(verbs_host), "%s", device.host);
    add_link(&verbs_link);
    return true;
}

/* conformance_test [LINK [TEST]]: one link, and of it the tests whose names fit.
 * SLUICE_TEST_ABSENT: an address on a network of this host that nobody has. */
int main(int argc, char **argv)
{
    for (size_t i = 0; i < SL_COUNT_OF(links); i++)
        if (argc < 2 || strcmp(argv[1], links[i].name) == 0)
            add_link(&links[i]);
    if ((argc < 2 || strcmp(argv[1], verbs_link.name) == 0) && !add_verbs())
        return 1;
    if (test_count == 0) {
        fprintf(stderr, "no such link here: %s\n", argv[1]);
        return 77;
    }
    if (argc > 2)
        cmocka_set_test_filter(argv[2]);
    return _cmocka_run_group_tests("conformance", list, test_count, NULL, NULL);
}
