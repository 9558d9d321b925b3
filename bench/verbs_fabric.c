/*
 * The same operations through our fabric as the programs use it: a coroutine for each of those that
 * are outstanding; two fabrics with a domain and memory each, on one reactor that never sleeps.
 */
#include "verbs.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "core/reactor.h"
#include "fabric/fabric.h"
#include "io/uring/uring.h"

#define MEMORY_BYTES (64 * SL_MIB)

struct side {
    struct sl_memory *memory;
    struct sl_fabric *fabric;
    struct sl_connection *connection;
};

static struct {
    const struct verbs_job *job;
    const struct sl_link_ops *link;
    char device[SL_ADDRESS_BYTES_MAX];
    struct sl_io *io;
    struct sl_reactor *reactor;
    struct side client, server;
    struct sl_buf *exposed;
    struct sl_remote_piece piece;
    uint64_t left;
    unsigned workers;
    struct sl_wait finished;
} world;

static void opened(void *owner, struct sl_connection *connection)
{
    sl_connection_set_owner(connection, owner);
    sl_connection_ref(connection);
    world.server.connection = connection;
}

static void received(void *owner, struct sl_received *received)
{
    union sl_capsule reply = {.header.length_bytes = sizeof(struct sl_capsule_header)};
    sl_connection_reply(received, &reply);
    sl_received_release(received);
}

static void closed(void *owner, struct sl_connection *connection, int reason)
{
    if (connection == world.server.connection)
        sl_connection_unref(connection);
}

static const struct sl_connection_handlers handlers = {opened, received, closed};

static int operation_co(struct sl_span *span)
{
    struct sl_connection *connection = world.client.connection;
    if (world.job->kind == VERBS_READ)
        return sl_connection_read_co(connection, span, 1, &world.piece, 1);
    if (world.job->kind == VERBS_WRITE)
        return sl_connection_write_co(connection, span, 1, &world.piece, 1);
    union sl_capsule reply;
    union sl_capsule request = {.io.header = {.type = SL_CAPSULE_IO,
                                              .length_bytes = sizeof(struct sl_capsule_header) +
                                                              sizeof(struct sl_io_message)}};
    return sl_connection_call_co(connection, &request, span, 1, &reply);
}

static void worker_co(void *argument)
{
    struct sl_buf *buf =
        sl_buf_alloc(world.client.memory, world.job->payload_bytes, SL_RESERVE_CHECKPOINT);
    verbs_check(buf == NULL, "memory");
    memset(buf->data, 1, world.job->payload_bytes);
    while (world.left > 0) {
        world.left--;
        struct sl_span span = sl_buf_span(buf, 0, world.job->payload_bytes);
        verbs_check(operation_co(&span), "an operation");
    }
    sl_buf_unref(buf);
    if (--world.workers == 0)
        sl_wait_wake(&world.finished, 0);
}

static void run_co(uint64_t count)
{
    world.left = count;
    world.workers = world.job->depth;
    sl_wait_init(&world.finished);
    for (unsigned i = 0; i < world.job->depth; i++)
        verbs_check(sl_co_spawn(world.reactor, worker_co, NULL), "a coroutine");
    (void)sl_wait_co(&world.finished);
}

static void side_open(struct side *side, bool is_server)
{
    struct sl_memory_config memory = {.limit_bytes = MEMORY_BYTES, .numa_node = -1};
    verbs_check(sl_memory_create(&memory, &side->memory), "memory");
    struct sl_fabric_config config = {
        .link = world.link,
        .domain = {.io = world.io,
                   .memory = side->memory,
                   .device = world.device,
                   .arena_access = is_server ? SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE : 0},
        .reactor = world.reactor,
        .role = SL_ROLE_TOOL,
        .instance_id = is_server ? 2 : 1,
        .in_capsule_bytes = is_server ? SL_IN_CAPSULE_BYTES_MAX : 0,
    };
    verbs_check(sl_fabric_create(&config, &side->fabric), "fabric");
}

static void main_co(void *argument)
{
    struct sl_fabric_listener *listener;
    char address[SL_ADDRESS_BYTES_MAX];
    void *owner = NULL;
    side_open(&world.client, false);
    side_open(&world.server, true);
    verbs_check(sl_fabric_listen(&world.server.fabric, 1, world.job->address, &handlers, &owner,
                                 address, &listener),
                "listen");
    verbs_check(sl_fabric_connect_co(world.client.fabric, address, 0, &handlers, NULL,
                                     sl_reactor_clock_ns(world.reactor) + 30 * SL_NS_PER_S,
                                     &world.client.connection),
                "connect");
    world.exposed =
        sl_buf_alloc(world.server.memory, world.job->payload_bytes, SL_RESERVE_CHECKPOINT);
    verbs_check(world.exposed == NULL, "memory");
    memset(world.exposed->data, 1, world.job->payload_bytes);
    verbs_check(sl_fabric_describe(world.server.fabric, world.exposed->region, world.exposed->data,
                                   world.job->payload_bytes, &world.piece),
                "describe");
    run_co(world.job->count / 10 + 1);
    verbs_begin();
    run_co(world.job->count);
    verbs_end();
    sl_buf_unref(world.exposed);
    sl_connection_shutdown(world.client.connection, -ECANCELED);
    sl_connection_unref(world.client.connection);
    sl_fabric_listener_close(listener);
    sl_fabric_drain_co(world.client.fabric);
    sl_fabric_drain_co(world.server.fabric);
    sl_fabric_destroy(world.client.fabric);
    sl_fabric_destroy(world.server.fabric);
    sl_reactor_stop(world.reactor);
}

void verbs_fabric(const struct verbs_job *job)
{
    char error[1024];
    struct sl_reactor_config reactor = {.cpu = -1, .poll_always = true};
    sl_log_set_level(SL_LOG_WARN);
    world.job = job;
    verbs_check(sl_link_resolve_device(job->device, &world.link, world.device, sizeof(world.device),
                                       error, sizeof(error)),
                job->device);
    verbs_check(sl_uring_create(NULL, &world.io), "io_uring");
    verbs_check(sl_reactor_create(&reactor, sl_io_engine(world.io), &world.reactor), "reactor");
    sl_io_bind(world.io, world.reactor);
    verbs_check(sl_co_spawn(world.reactor, main_co, NULL), "a coroutine");
    sl_reactor_run(world.reactor);
    sl_memory_destroy(world.client.memory);
    sl_memory_destroy(world.server.memory);
    sl_reactor_destroy(world.reactor);
    sl_io_destroy(world.io);
}
