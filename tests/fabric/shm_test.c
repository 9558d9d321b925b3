/*
 * Goal: what the shm link does beyond the rules that every link keeps (conformance_test.c): windows
 * and their rights, announcement before use, revocation with acknowledgement, payload of SENDs by
 * both ways with its copies counted, and a peer that dies or lies harms its own connection alone.
 * Method: two reactors of one process, stepped in turn; a forked peer that is killed, and one that
 * scribbles over the rings.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fabric/shm/shm.h"
#include "io/uring/uring.h"

#define LINK          (&sl_shm_link_ops)
#define PAYLOAD_BYTES 8192u
#define PATIENCE_S    20

struct node {
    struct sl_io *io;
    struct sl_reactor *reactor;
    struct sl_memory *memory;
    struct sl_link_domain *domain;
    struct sl_link_listener *listener;
    struct sl_link_incoming *incoming;
};

struct end {
    struct sl_link_connection *connection;
    bool connected;
    bool closed;
    int reason;
};

struct op {
    struct sl_link_op op;
    uint8_t capsule[SL_CAPSULE_BYTES_MAX];
    unsigned done_count;
};

static char directory[] = "/tmp/sluice-shm-XXXXXX";
static char address[SL_ADDRESS_BYTES_MAX];

static void node_open(struct node *node, unsigned arena_access)
{
    struct sl_uring_config uring = {0};
    struct sl_reactor_config reactor = {.cpu = -1};
    struct sl_memory_config memory = {
        .limit_bytes = 64 * SL_MIB, .arena_bytes = 4 * SL_MIB, .numa_node = -1};
    *node = (struct node){0};
    assert_int_equal(sl_uring_create(&uring, &node->io), 0);
    assert_int_equal(sl_reactor_create(&reactor, sl_io_engine(node->io), &node->reactor), 0);
    sl_io_bind(node->io, node->reactor);
    assert_int_equal(sl_memory_create(&memory, &node->memory), 0);
    struct sl_link_domain_config config = {
        .io = node->io,
        .memory = node->memory,
        .arena_access = arena_access,
        .foreign_access = arena_access,
    };
    assert_int_equal(LINK->domain_open(&config, &node->domain), 0);
}

static struct node *nodes[2];

static void step(void)
{
    bool busy = false;
    for (unsigned i = 0; i < 2; i++)
        busy |= nodes[i] != NULL && sl_reactor_step(nodes[i]->reactor);
    if (!busy)
        usleep(50);
}

#define STEP_UNTIL(condition)                                                                      \
    do {                                                                                           \
        time_t end_ = time(NULL) + PATIENCE_S;                                                     \
        while (!(condition)) {                                                                     \
            assert_true(time(NULL) < end_);                                                        \
            step();                                                                                \
        }                                                                                          \
    } while (0)

static void run_ms(unsigned duration_ms)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t end_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 + duration_ms;
    do {
        step();
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 < end_ms);
}

static void node_close(struct node *node)
{
    LINK->domain_close(node->domain);
    struct sl_reactor_statistics statistics;
    do {
        step();
        sl_reactor_statistics(node->reactor, &statistics);
    } while (statistics.coroutine_count > 0);
    nodes[nodes[0] == node ? 0 : 1] = NULL;
    sl_memory_destroy(node->memory);
    sl_reactor_destroy(node->reactor);
    sl_io_destroy(node->io);
}

static void incoming(void *owner, struct sl_link_incoming *request)
{
    ((struct node *)owner)->incoming = request;
}

static void connected(void *owner, struct sl_link_connection *connection)
{
    ((struct end *)owner)->connected = true;
}

static void closed(void *owner, struct sl_link_connection *connection, int reason)
{
    struct end *end = owner;
    assert_false(end->closed);
    end->closed = true;
    end->reason = reason;
}

static const struct sl_link_handlers handlers = {connected, closed};

static void listen_at(struct node *node)
{
    char bound[SL_ADDRESS_BYTES_MAX];
    assert_int_equal(LINK->listen(node->domain, address, incoming, node, bound, &node->listener),
                     0);
    assert_string_equal(bound, address);
}

static void connect_from(struct node *node, struct end *end)
{
    static const uint8_t private_data[SL_LINK_PRIVATE_BYTES] = "hello";
    *end = (struct end){0};
    assert_int_equal(LINK->connect(node->domain, address, private_data,
                                   sl_reactor_clock_ns(node->reactor) + 5 * SL_NS_PER_S, &handlers,
                                   end, &end->connection),
                     0);
    assert_false(end->connected);
}

static void pair_open(struct node *a, struct node *b, struct end *from, struct end *to)
{
    listen_at(b);
    connect_from(a, from);
    STEP_UNTIL(b->incoming != NULL);
    assert_string_equal((char *)b->incoming->private_data, "hello");
    *to = (struct end){0};
    assert_int_equal(LINK->accept(b->domain, b->incoming, &handlers, to, &to->connection), 0);
    b->incoming = NULL;
    STEP_UNTIL(from->connected && to->connected);
    LINK->listener_close(b->listener);
}

static void pair_close(struct end *from, struct end *to)
{
    LINK->disconnect(from->connection, -ECANCELED);
    STEP_UNTIL(from->closed && to->closed);
    LINK->connection_free(from->connection);
    LINK->connection_free(to->connection);
}

static void op_done(struct sl_link_op *op)
{
    sl_container_of(op, struct op, op)->done_count++;
}

static void post(struct end *end, struct op *op, enum sl_link_opcode opcode,
                 const struct sl_span *payload)
{
    op->op = (struct sl_link_op){.opcode = opcode, .done = op_done, .remote = op->op.remote};
    op->done_count = 0;
    if (opcode == SL_LINK_SEND || opcode == SL_LINK_RECEIVE)
        op->op.spans[op->op.span_count++] = (struct sl_span){
            op->capsule, opcode == SL_LINK_SEND ? 100 : SL_CAPSULE_BYTES_MAX, NULL};
    if (payload != NULL)
        op->op.spans[op->op.span_count++] = *payload;
    LINK->post(end->connection, &op->op);
    assert_int_equal(op->done_count, 0);
}

static uint64_t window_bytes(struct node *node)
{
    return sl_memory_copies(node->memory)->bytes[SL_COPY_WINDOW];
}

static void await_op(struct op *op, int status)
{
    STEP_UNTIL(op->done_count > 0);
    assert_int_equal(op->done_count, 1);
    assert_int_equal(op->op.status, status);
}

static struct sl_buf *buf_new(struct node *node, uint8_t fill)
{
    struct sl_buf *buf = sl_buf_alloc(node->memory, PAYLOAD_BYTES, SL_RESERVE_CHECKPOINT);
    assert_non_null(buf);
    memset(buf->data, fill, PAYLOAD_BYTES);
    return buf;
}

/* ---- tests ---- */

/* With announced memory the receiver takes the payload by one copy; without, the sender's data area
 * costs another. */
static void send_payload(unsigned access, uint64_t expected_sender_bytes)
{
    struct node a, b;
    struct end from, to;
    nodes[0] = &a;
    nodes[1] = &b;
    node_open(&a, access);
    node_open(&b, 0);
    struct sl_buf *out = buf_new(&a, 0x5a);
    struct sl_buf *in = buf_new(&b, 0);
    struct sl_span out_span = sl_buf_span(out, 0, PAYLOAD_BYTES);
    struct sl_span in_span = sl_buf_span(in, 0, PAYLOAD_BYTES);
    pair_open(&a, &b, &from, &to);
    static struct op send, bare, receives[2];
    post(&to, &receives[0], SL_LINK_RECEIVE, &in_span);
    post(&to, &receives[1], SL_LINK_RECEIVE, NULL);
    memset(send.capsule, 0x11, sizeof(send.capsule));
    memset(bare.capsule, 0x22, sizeof(bare.capsule));
    post(&from, &send, SL_LINK_SEND, &out_span);
    post(&from, &bare, SL_LINK_SEND, NULL);
    await_op(&bare, 0);
    /* SENDs complete in order. */
    assert_int_equal(send.done_count, 1);
    await_op(&receives[0], 0);
    await_op(&receives[1], 0);
    assert_int_equal(receives[0].op.capsule_bytes, 100);
    assert_int_equal(receives[0].op.payload_bytes, PAYLOAD_BYTES);
    assert_int_equal(receives[1].op.payload_bytes, 0);
    assert_memory_equal(receives[0].capsule, send.capsule, 100);
    assert_memory_equal(receives[1].capsule, bare.capsule, 100);
    assert_memory_equal(in->data, out->data, PAYLOAD_BYTES);
    assert_int_equal(window_bytes(&a), expected_sender_bytes);
    assert_int_equal(window_bytes(&b), PAYLOAD_BYTES);
    pair_close(&from, &to);
    sl_buf_unref(out);
    sl_buf_unref(in);
    node_close(&a);
    node_close(&b);
}

static void test_send_payload_announced(void **state)
{
    send_payload(SL_ACCESS_REMOTE_READ, 0);
}

static void test_send_payload_not_announced(void **state)
{
    send_payload(0, PAYLOAD_BYTES);
}

/* A window is the peer's very page, read-only if that is the right; what is out of bounds has no
 * pointer. */
static void test_remote_map(void **state)
{
    struct node a, b;
    struct end from, to;
    nodes[0] = &a;
    nodes[1] = &b;
    node_open(&a, SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE);
    node_open(&b, 0);
    pair_open(&a, &b, &from, &to);
    /* Allocated now: its arena is announced while the connection runs. */
    struct sl_buf *buf = buf_new(&a, 0x33);
    struct sl_remote_piece piece;
    assert_int_equal(LINK->describe(a.domain, buf->region, buf->data, PAYLOAD_BYTES, &piece), 0);
    struct sl_buf *none = buf_new(&b, 0);
    struct sl_remote_piece nothing;
    assert_int_equal(LINK->describe(b.domain, none->region, none->data, 1, &nothing), -SL_E_KEY);
    sl_buf_unref(none);
    struct sl_span span;
    STEP_UNTIL(LINK->remote_map(to.connection, &piece, true, &span) == 0);
    assert_true(span.data != buf->data);
    assert_memory_equal(span.data, buf->data, PAYLOAD_BYTES);
    span.data[17] = 0x44;
    assert_int_equal(buf->data[17], 0x44);
    assert_true(span.region->foreign && sl_region_contains(span.region, span.data, PAYLOAD_BYTES));

    struct sl_remote_piece bad = piece;
    bad.key ^= 1;
    assert_int_equal(LINK->remote_map(to.connection, &bad, false, &span), -SL_E_KEY);
    bad = piece;
    bad.address = buf->region->length_bytes - PAYLOAD_BYTES + 1;
    assert_int_equal(LINK->remote_map(to.connection, &bad, false, &span), -SL_E_KEY);
    bad.address = UINT64_MAX;
    assert_int_equal(LINK->remote_map(to.connection, &bad, false, &span), -SL_E_KEY);
    /* Not reachable in the other direction. */
    assert_int_equal(LINK->remote_map(from.connection, &piece, false, &span), -SL_E_KEY);
    pair_close(&from, &to);
    sl_buf_unref(buf);
    node_close(&a);
    node_close(&b);
}

static void test_read_right_is_not_write_right(void **state)
{
    struct node a, b;
    struct end from, to;
    nodes[0] = &a;
    nodes[1] = &b;
    node_open(&a, SL_ACCESS_REMOTE_READ);
    node_open(&b, 0);
    struct sl_buf *theirs = buf_new(&a, 0x33);
    struct sl_buf *ours = buf_new(&b, 0);
    pair_open(&a, &b, &from, &to);
    struct sl_span span = sl_buf_span(ours, 0, PAYLOAD_BYTES);
    struct sl_span mapped;
    static struct op read, write, flushed;
    assert_int_equal(
        LINK->describe(a.domain, theirs->region, theirs->data, PAYLOAD_BYTES, &read.op.remote), 0);
    assert_int_equal(LINK->remote_map(to.connection, &read.op.remote, true, &mapped), -SL_E_KEY);
    write.op.remote = read.op.remote;
    post(&to, &read, SL_LINK_READ, &span);
    await_op(&read, 0);
    assert_memory_equal(ours->data, theirs->data, PAYLOAD_BYTES);
    memset(ours->data, 0x77, PAYLOAD_BYTES);
    post(&to, &flushed, SL_LINK_RECEIVE, NULL);
    post(&to, &write, SL_LINK_WRITE, &span);
    await_op(&write, -SL_E_KEY);
    await_op(&flushed, -ECONNRESET);
    assert_int_equal(theirs->data[0], 0x33);
    STEP_UNTIL(from.closed && to.closed);
    assert_int_equal(to.reason, -SL_E_KEY);
    LINK->connection_free(from.connection);
    LINK->connection_free(to.connection);
    sl_buf_unref(theirs);
    sl_buf_unref(ours);
    node_close(&a);
    node_close(&b);
}

/* A region that goes keeps its pages until the peer's last user has let go; new users are refused
 * at once. */
static void test_revocation(void **state)
{
    struct node a, b;
    struct end from, to;
    nodes[0] = &a;
    nodes[1] = &b;
    node_open(&a, SL_ACCESS_REMOTE_READ);
    node_open(&b, 0);
    pair_open(&a, &b, &from, &to);
    struct sl_region *region;
    assert_int_equal(sl_region_create(sl_memory_regions(a.memory), SL_MIB, false, -1, &region), 0);
    struct sl_remote_piece piece;
    struct sl_span span;
    assert_int_equal(LINK->describe(a.domain, region, region->base, 4096, &piece), 0);
    STEP_UNTIL(LINK->remote_map(to.connection, &piece, false, &span) == 0);
    struct sl_region *window = span.region;
    sl_region_ref(window); /* I/O of a device */
    sl_region_ref(region); /* to look at it below */
    sl_region_remove(region);
    assert_int_equal(LINK->describe(a.domain, region, region->base, 4096, &piece), -SL_E_KEY);
    STEP_UNTIL(window->removed);
    assert_int_equal(LINK->remote_map(to.connection, &piece, false, &span), -SL_E_KEY);
    run_ms(20);
    assert_int_equal(region->references, 2); /* ours here, and the peer has not acknowledged */
    sl_region_unref(window);
    STEP_UNTIL(region->references == 1);
    sl_region_unref(region);
    assert_true(from.connected && !from.closed && !to.closed);
    pair_close(&from, &to);
    node_close(&a);
    node_close(&b);
}

static void test_refused(void **state)
{
    struct node a;
    struct end from;
    nodes[0] = &a;
    nodes[1] = NULL;
    node_open(&a, 0);
    connect_from(&a, &from);
    STEP_UNTIL(from.closed);
    assert_int_equal(from.reason, -ECONNREFUSED);
    LINK->connection_free(from.connection);
    listen_at(&a);
    struct sl_link_listener *second;
    assert_int_equal(LINK->listen(a.domain, address, incoming, &a, NULL, &second), -EADDRINUSE);
    assert_int_equal(LINK->listen(a.domain, "127.0.0.1:1", incoming, &a, NULL, &second), -EINVAL);
    connect_from(&a, &from);
    STEP_UNTIL(a.incoming != NULL);
    LINK->reject(a.incoming);
    a.incoming = NULL;
    STEP_UNTIL(from.closed);
    assert_int_equal(from.reason, -ECONNREFUSED);
    assert_false(from.connected);
    LINK->connection_free(from.connection);
    LINK->listener_close(a.listener);
    node_close(&a);
}

/* The peer of the next two tests: connects, and then does what it is there for. */
static void peer_process(void (*act)(struct node *node, struct end *end))
{
    struct node node;
    struct end end;
    nodes[0] = &node;
    nodes[1] = NULL;
    alarm(PATIENCE_S * 2);
    node_open(&node, SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE);
    for (;;) {
        connect_from(&node, &end);
        STEP_UNTIL(end.closed || end.connected);
        if (end.connected)
            break;
        LINK->connection_free(end.connection); /* the parent does not listen yet */
        usleep(1000);
    }
    act(&node, &end);
    _exit(0);
}

static void act_wait(struct node *node, struct end *end)
{
    for (;;)
        step();
}

static void act_scribble(struct node *node, struct end *end)
{
    struct shm_connection *connection = shm_connection_of(end->connection);
    static struct op send;
    post(end, &send, SL_LINK_SEND, NULL);
    run_ms(5);
    atomic_store(&connection->channel.producer.shared->tail, 0x12345678);
    atomic_store(&connection->channel.consumer.shared->head, 0x87654321);
    sl_eventfd_ring(connection->channel.bell_out);
    for (;;)
        pause();
}

static pid_t peer_fork(void (*act)(struct node *node, struct end *end))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        peer_process(act);
    return pid;
}

/* `receive` is posted before the peer can send. */
static void accept_from(struct node *node, struct end *end, struct op *receive)
{
    listen_at(node);
    STEP_UNTIL(node->incoming != NULL);
    *end = (struct end){0};
    assert_int_equal(LINK->accept(node->domain, node->incoming, &handlers, end, &end->connection),
                     0);
    node->incoming = NULL;
    post(end, receive, SL_LINK_RECEIVE, NULL);
    STEP_UNTIL(end->connected);
    LINK->listener_close(node->listener);
}

static void test_killed_peer(void **state)
{
    pid_t pid = peer_fork(act_wait);
    struct node b;
    struct end to;
    nodes[0] = &b;
    nodes[1] = NULL;
    node_open(&b, SL_ACCESS_REMOTE_READ);
    static struct op receives[3];
    accept_from(&b, &to, &receives[0]);
    for (unsigned i = 1; i < 3; i++)
        post(&to, &receives[i], SL_LINK_RECEIVE, NULL);
    run_ms(10);
    kill(pid, SIGKILL);
    STEP_UNTIL(to.closed);
    /* Reported only when the process had gone: it is a zombie by now. */
    assert_int_equal(waitpid(pid, NULL, WNOHANG), pid);
    assert_int_equal(to.reason, -ECONNRESET);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(receives[i].done_count, 1);
        assert_int_equal(receives[i].op.status, -ECONNRESET);
    }
    LINK->connection_free(to.connection);
    node_close(&b);
}

/* Its own connection dies; the other one of the same reactor goes on. */
static void test_lying_peer(void **state)
{
    struct node a, b;
    struct end from, to, liar;
    pid_t pid = peer_fork(act_scribble);
    nodes[0] = &b;
    nodes[1] = NULL;
    node_open(&b, 0);
    static struct op receive, send, theirs;
    accept_from(&b, &liar, &theirs);
    nodes[1] = &a;
    node_open(&a, 0);
    pair_open(&a, &b, &from, &to);
    STEP_UNTIL(theirs.done_count == 1);
    STEP_UNTIL(shm_connection_of(liar.connection)->state == SHM_CLOSING);
    assert_int_equal(shm_connection_of(liar.connection)->reason, -SL_E_PROTOCOL);
    assert_false(liar.closed); /* it still maps our memory */
    post(&to, &receive, SL_LINK_RECEIVE, NULL);
    post(&from, &send, SL_LINK_SEND, NULL);
    await_op(&receive, 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    STEP_UNTIL(liar.closed);
    LINK->connection_free(liar.connection);
    pair_close(&from, &to);
    node_close(&a);
    node_close(&b);
}

static int setup(void **state)
{
    if (mkdtemp(directory) == NULL)
        return -1;
    snprintf(address, sizeof(address), "unix:%s/socket", directory);
    return 0;
}

static int teardown(void **state)
{
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_send_payload_announced),
        cmocka_unit_test(test_send_payload_not_announced),
        cmocka_unit_test(test_remote_map),
        cmocka_unit_test(test_read_right_is_not_write_right),
        cmocka_unit_test(test_revocation),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_killed_peer),
        cmocka_unit_test(test_lying_peer),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
