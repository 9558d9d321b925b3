/*
 * Goal: what an operation costs on a link alone (tcp), beside bench/plain_socket.c.
 * Method: two threads over loopback, a reactor and a core each. The client keeps DEPTH requests
 * outstanding: send    a SEND of a 96-byte capsule and the payload; the answer is a SEND of 32
 * bytes   (a small write) read    a SEND of 96 bytes; the payload comes by WRITE, and a SEND of 32
 * bytes behind it (a read) write   a SEND of 96 bytes; the server READs the payload and answers
 * with 32 bytes       (a large write) Prints microseconds of CPU an operation by side, operations a
 * second, and mean latency.
 *
 *   fabric_tcp [seconds a row] [longest spin in µs (the programs: 50), or "poll"] [row, or -]
 * [device, as -d]
 *
 * The device "ofi+tcp" shows the same over libfabric's tcp. A link that takes less than a row's
 * bytes in one operation leaves the row out.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "core/log.h"
#include "core/reactor.h"
#include "fabric/link.h"
#include "io/uring/uring.h"

#define DEPTH_MAX 64

enum kind { KIND_SEND, KIND_READ, KIND_WRITE };
static const struct row {
    const char *name;
    enum kind kind;
    unsigned depth;
    uint32_t payload_bytes;
} rows[] = {
    {"send", KIND_SEND, 1, 4096},     {"send", KIND_SEND, 32, 4096},
    {"read", KIND_READ, 1, 4096},     {"read", KIND_READ, 32, 4096},
    {"read", KIND_READ, 8, 1u << 20}, {"write", KIND_WRITE, 8, 1u << 20},
};

struct request {
    uint32_t slot;
    struct sl_remote_piece piece;
    uint8_t pad[68];
};

struct side;

struct slot {
    struct sl_link_op send, receive, rdma;
    struct side *side;
    unsigned index;
    struct sl_buf *capsules; /* registered: SL_CAPSULE_BYTES_MAX to send, as much to receive */
    uint8_t *out, *in;
    struct sl_buf *buf;
    struct sl_buf *landing; /* of receives */
};

struct side {
    const struct row *row;
    bool server;
    struct sl_io *io;
    struct sl_reactor *reactor;
    struct sl_memory *memory;
    struct sl_link_domain *domain;
    struct sl_link_connection *connection;
    struct slot slots[DEPTH_MAX];
    struct sl_remote_piece pieces[DEPTH_MAX];
    uint64_t operations, cpu_ns, wall_ns, spin_ns;
    uint64_t duration_ns, end_ns;
    unsigned outstanding;
    bool poll, over;
};

static struct side client, server;
static pthread_barrier_t barrier;
static const struct sl_link_ops *link_ops;
static char device[SL_ADDRESS_BYTES_MAX];
static bool row_fits;
static char address[SL_ADDRESS_BYTES_MAX];

static uint64_t clock_of(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * SL_NS_PER_S + (uint64_t)now.tv_nsec;
}

static void check(int error, const char *what)
{
    if (error == 0)
        return;
    fprintf(stderr, "fabric_tcp: %s: error %d\n", what, error);
    exit(1);
}

static void post(struct side *side, struct sl_link_op *op)
{
    link_ops->post(side->connection, op);
}

static void post_receive(struct slot *slot)
{
    slot->receive.span_count = 1;
    slot->receive.spans[0] =
        sl_buf_span(slot->capsules, SL_CAPSULE_BYTES_MAX, SL_CAPSULE_BYTES_MAX);
    if (slot->landing != NULL)
        slot->receive.spans[slot->receive.span_count++] =
            sl_buf_span(slot->landing, 0, SL_IN_CAPSULE_BYTES_MAX);
    post(slot->side, &slot->receive);
}

static void post_send(struct slot *slot, uint32_t capsule_bytes, uint32_t payload_bytes)
{
    slot->send.span_count = 1;
    slot->send.spans[0] = sl_buf_span(slot->capsules, 0, capsule_bytes);
    if (payload_bytes > 0)
        slot->send.spans[slot->send.span_count++] = sl_buf_span(slot->buf, 0, payload_bytes);
    post(slot->side, &slot->send);
}

static void ask(struct slot *slot)
{
    struct side *side = slot->side;
    struct request request = {.slot = slot->index, .piece = side->pieces[slot->index]};
    memcpy(slot->out, &request, sizeof(request));
    side->outstanding++;
    post_send(slot, 96, side->row->kind == KIND_SEND ? side->row->payload_bytes : 0);
}

static void answer(struct slot *slot, uint32_t asker)
{
    memcpy(slot->out, &asker, sizeof(asker));
    post_send(slot, 32, 0);
}

static void client_received(struct side *side, const uint8_t *capsule)
{
    uint32_t index;
    memcpy(&index, capsule, sizeof(index));
    side->outstanding--;
    side->operations++;
    if (sl_reactor_now_ns(side->reactor) < side->end_ns) {
        ask(&side->slots[index]);
        return;
    }
    if (side->outstanding == 0)
        link_ops->disconnect(side->connection, -ECANCELED);
}

static void server_received(struct side *side, const uint8_t *capsule)
{
    struct request request;
    memcpy(&request, capsule, sizeof(request));
    struct slot *slot = &side->slots[request.slot];
    slot->rdma.remote = request.piece;
    slot->rdma.span_count = 1;
    slot->rdma.spans[0] = sl_buf_span(slot->buf, 0, side->row->payload_bytes);
    if (side->row->kind == KIND_WRITE) {
        post(side, &slot->rdma);
        return;
    }
    if (side->row->kind == KIND_READ)
        post(side, &slot->rdma);
    answer(slot, request.slot);
}

static void receive_done(struct sl_link_op *op)
{
    struct slot *slot = sl_container_of(op, struct slot, receive);
    uint8_t capsule[sizeof(struct request)];
    if (op->status != 0)
        return;
    memcpy(capsule, slot->in, sizeof(capsule));
    post_receive(slot);
    if (slot->side->server)
        server_received(slot->side, capsule);
    else
        client_received(slot->side, capsule);
}

static void send_done(struct sl_link_op *op)
{
}

static void rdma_done(struct sl_link_op *op)
{
    struct slot *slot = sl_container_of(op, struct slot, rdma);
    if (op->opcode == SL_LINK_READ && op->status == 0)
        answer(slot, slot->index);
}

static void connected(void *owner, struct sl_link_connection *connection)
{
    struct side *side = owner;
    if (side->server)
        return;
    side->cpu_ns = clock_of(CLOCK_THREAD_CPUTIME_ID);
    side->wall_ns = clock_of(CLOCK_MONOTONIC);
    side->end_ns = side->wall_ns + side->duration_ns;
    for (unsigned i = 0; i < side->row->depth; i++)
        ask(&side->slots[i]);
}

static void closed(void *owner, struct sl_link_connection *connection, int reason)
{
    struct side *side = owner;
    if (!side->server && side->operations == 0)
        check(reason, "the connection closed");
    side->cpu_ns = clock_of(CLOCK_THREAD_CPUTIME_ID) - side->cpu_ns;
    side->wall_ns = clock_of(CLOCK_MONOTONIC) - side->wall_ns;
    link_ops->connection_free(connection);
    side->over = true;
}

static const struct sl_link_handlers handlers = {connected, closed};

static void slots_open(struct side *side)
{
    const struct row *row = side->row;
    for (unsigned i = 0; i < row->depth; i++) {
        struct slot *slot = &side->slots[i];
        *slot = (struct slot){.side = side, .index = i};
        slot->capsules =
            sl_buf_alloc(side->memory, 2 * SL_CAPSULE_BYTES_MAX, SL_RESERVE_CHECKPOINT);
        slot->out = slot->capsules->data;
        slot->in = slot->capsules->data + SL_CAPSULE_BYTES_MAX;
        slot->buf = sl_buf_alloc(side->memory, row->payload_bytes, SL_RESERVE_CHECKPOINT);
        if (side->server && row->kind == KIND_SEND)
            slot->landing =
                sl_buf_alloc(side->memory, SL_IN_CAPSULE_BYTES_MAX, SL_RESERVE_CHECKPOINT);
        memset(slot->buf->data, 1, row->payload_bytes);
        check(link_ops->describe(side->domain, slot->buf->region, slot->buf->data,
                                 row->payload_bytes, &side->pieces[i]),
              "describe");
        slot->send = (struct sl_link_op){.opcode = SL_LINK_SEND, .done = send_done};
        slot->receive = (struct sl_link_op){.opcode = SL_LINK_RECEIVE, .done = receive_done};
        slot->rdma = (struct sl_link_op){
            .opcode = row->kind == KIND_READ ? SL_LINK_WRITE : SL_LINK_READ, .done = rdma_done};
        post_receive(slot);
    }
}

static void incoming(void *owner, struct sl_link_incoming *request)
{
    struct side *side = owner;
    check(link_ops->accept(side->domain, request, &handlers, side, &side->connection), "accept");
    slots_open(side);
    side->cpu_ns = clock_of(CLOCK_THREAD_CPUTIME_ID);
    side->wall_ns = clock_of(CLOCK_MONOTONIC);
}

static bool is_idle(const struct side *side)
{
    struct sl_reactor_statistics statistics;
    sl_reactor_statistics(side->reactor, &statistics);
    return statistics.coroutine_count == 0;
}

static void tick(struct sl_timer *timer);
static _Thread_local struct sl_timer stop_timer;
static _Thread_local struct side *stop_side;

/* Ends the reactor a little after the connection. */
static void tick(struct sl_timer *timer)
{
    struct side *side = stop_side;
    if (side->over && is_idle(side)) {
        sl_reactor_stop(side->reactor);
        return;
    }
    sl_timer_arm(side->reactor, timer, sl_reactor_now_ns(side->reactor) + 10 * SL_NS_PER_MS);
}

static void side_open(struct side *side)
{
    struct sl_reactor_config config = {.cpu = side->server && sysconf(_SC_NPROCESSORS_ONLN) > 1,
                                       .spin_ns = side->spin_ns,
                                       .poll_always = side->poll};
    struct sl_memory_config memory = {.limit_bytes = 128 * SL_MIB, .numa_node = -1};
    check(sl_uring_create(NULL, &side->io), "io_uring");
    check(sl_reactor_create(&config, sl_io_engine(side->io), &side->reactor), "reactor");
    sl_io_bind(side->io, side->reactor);
    check(sl_memory_create(&memory, &side->memory), "memory");
    struct sl_link_domain_config domain = {.io = side->io,
                                           .memory = side->memory,
                                           .device = device,
                                           .arena_access =
                                               SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE};
    check(link_ops->domain_open(&domain, &side->domain), "domain");
    if (side->server)
        row_fits = link_ops->limits(side->domain)->transfer_bytes_max >= side->row->payload_bytes;
}

static void listener_expired(struct sl_timer *timer);
static struct sl_link_listener *listener;
static struct sl_timer listener_timer;

static void listener_expired(struct sl_timer *timer)
{
    if (!row_fits)
        return;
    if (server.connection == NULL) {
        sl_timer_arm(server.reactor, timer, sl_reactor_now_ns(server.reactor) + SL_NS_PER_MS);
        return;
    }
    link_ops->listener_close(listener);
}

static void *side_run(void *argument)
{
    struct side *side = argument;
    side_open(side);
    if (side->server) {
        check(link_ops->listen(side->domain, "127.0.0.1:0", incoming, side, address, &listener),
              "listen");
        sl_timer_init(&listener_timer, listener_expired);
        sl_timer_arm(side->reactor, &listener_timer, 0);
    }
    pthread_barrier_wait(&barrier);
    if (!row_fits) {
        if (side->server)
            link_ops->listener_close(listener);
        side->over = true;
    } else if (!side->server) {
        check(link_ops->connect(side->domain, address, NULL,
                                clock_of(CLOCK_MONOTONIC) + SL_NS_PER_S, &handlers, side,
                                &side->connection),
              "connect");
        slots_open(side);
    }
    stop_side = side;
    sl_timer_init(&stop_timer, tick);
    sl_timer_arm(side->reactor, &stop_timer, 0);
    sl_reactor_run(side->reactor);
    for (unsigned i = 0; i < side->row->depth; i++) {
        sl_buf_unref(side->slots[i].buf);
        sl_buf_unref(side->slots[i].landing);
        sl_buf_unref(side->slots[i].capsules);
    }
    link_ops->domain_close(side->domain);
    sl_memory_destroy(side->memory);
    sl_reactor_destroy(side->reactor);
    sl_io_destroy(side->io);
    return NULL;
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    bool poll = argc > 2 && strcmp(argv[2], "poll") == 0;
    uint64_t spin_ns = argc > 2 && !poll ? strtoull(argv[2], NULL, 10) * SL_NS_PER_US : 0;
    char error[1024];
    if (sl_link_resolve_device(argc > 4 ? argv[4] : "tcp", &link_ops, device, sizeof(device), error,
                               sizeof(error)) < 0) {
        fprintf(stderr, "fabric_tcp: %s\n", error);
        return 77;
    }
    sl_log_set_level(SL_LOG_WARN);
    printf("tcp link        depth    bytes  client µs  server µs   CPU µs/op      op/s  mean µs\n");
    for (size_t i = 0; i < SL_COUNT_OF(rows); i++) {
        if (argc > 3 && argv[3][0] != '-' && strtoul(argv[3], NULL, 10) != i)
            continue;
        pthread_t threads[2];
        client = server = (struct side){.row = &rows[i], .poll = poll, .spin_ns = spin_ns};
        server.server = true;
        client.duration_ns = (uint64_t)(seconds * 1e9);
        pthread_barrier_init(&barrier, NULL, 2);
        check(pthread_create(&threads[0], NULL, side_run, &server), "thread");
        check(pthread_create(&threads[1], NULL, side_run, &client), "thread");
        pthread_join(threads[0], NULL);
        pthread_join(threads[1], NULL);
        pthread_barrier_destroy(&barrier);
        if (!row_fits)
            continue;
        double count = (double)client.operations;
        double client_us = (double)client.cpu_ns / count / 1000;
        double server_us = (double)server.cpu_ns / count / 1000;
        double rate = count / ((double)client.wall_ns / 1e9);
        printf("%-15s %5u %8u %10.2f %10.2f %11.2f %9.0f %8.2f\n", rows[i].name, rows[i].depth,
               rows[i].payload_bytes, client_us, server_us, client_us + server_us, rate,
               rows[i].depth / rate * 1e6);
    }
    return 0;
}
