/* The frame of the fabric's tests: nodes, servers, clients. See fabric_world.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "fabric/cluster_key.h"
#include "fabric/ofi/ofi.h"
#include "fabric/shm/shm.h"
#include "fabric/tcp/tcp.h"
#include "fabric_world.h"
#include "io/uring/uring.h"

const struct world_link world_links[] = {
    {"sim", &sl_link_sim, "server:0"},
    {"tcp", &sl_tcp_link_ops, "127.0.0.1:0"},
    {"shm", &sl_shm_link_ops, NULL},
    {"ofi+tcp", &sl_ofi_link_ops, "127.0.0.1:0", "+tcp"},
};
const unsigned world_link_count = SL_COUNT_OF(world_links);

bool world_is_sim(const struct world *world)
{
    return world->sim != NULL;
}

static uint64_t real_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SL_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* ---- the world ---- */

static void node_open(struct world *world, struct node *node)
{
    const struct world_config *config = &world->config;
    static const char *const names[] = {"client", "server", "server2"};
    if (world->sim != NULL) {
        assert_int_equal(sl_sim_io_create(world->sim, names[node->index], &node->io), 0);
    } else {
        struct sl_uring_config uring = {.entries = 256};
        assert_int_equal(sl_uring_create(&uring, &node->io), 0);
    }
    struct sl_reactor_config reactor = {.index = node->index, .cpu = -1};
    assert_int_equal(sl_reactor_create(&reactor, sl_io_engine(node->io), &node->reactor), 0);
    sl_io_bind(node->io, node->reactor);
    struct sl_memory_config memory = {.limit_bytes = config->memory_bytes, .numa_node = -1};
    assert_int_equal(sl_memory_create(&memory, &node->memory), 0);
    struct sl_fabric_config fabric = {
        .link = world->link->ops,
        .domain = {.io = node->io,
                   .memory = node->memory,
                   .device = world->link->device,
                   .arena_access = SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE},
        .reactor = node->reactor,
        .role = node->index == 0 ? SL_ROLE_GATEWAY : SL_ROLE_TARGET,
        .instance_id = 1000 + node->index,
        .credits = config->credits,
        .in_capsule_bytes = config->in_capsule_bytes,
        .heartbeat_interval_ns = config->heartbeat_interval_ns,
        .heartbeat_timeout_ns = config->heartbeat_timeout_ns,
        .handshake_timeout_ns = config->handshake_timeout_ns,
    };
    sl_cluster_key_development(fabric.cluster_key);
    if (config->wrong_key && node->index == 0)
        fabric.cluster_key[31] ^= 1;
    assert_int_equal(sl_fabric_create(&fabric, &node->fabric), 0);
}

void world_open(struct world *world, const struct world_link *link, unsigned node_count,
                const struct world_config *config)
{
    *world = (struct world){.link = link, .node_count = node_count};
    if (config != NULL)
        world->config = *config;
    if (world->config.credits == 0)
        world->config.credits = 16;
    if (world->config.memory_bytes == 0)
        world->config.memory_bytes = 64 * SL_MIB;
    if (link->ops == &sl_link_sim)
        assert_int_equal(sl_sim_create(&world->config.sim, &world->sim), 0);
    for (unsigned i = 0; i < node_count; i++) {
        world->nodes[i].world = world;
        world->nodes[i].index = i;
        node_open(world, &world->nodes[i]);
    }
}

void world_drain_co(void *argument)
{
    struct node *node = argument;
    sl_fabric_drain_co(node->fabric);
    node->is_drained = true;
}

static bool has_no_coroutine(void *argument)
{
    struct sl_reactor_statistics statistics;
    sl_reactor_statistics(((struct node *)argument)->reactor, &statistics);
    return statistics.coroutine_count == 0;
}

void world_close(struct world *world)
{
    for (unsigned i = 0; i < world->node_count; i++) {
        assert_int_equal(sl_co_spawn(world->nodes[i].reactor, world_drain_co, &world->nodes[i]), 0);
        world_run_flag(world, &world->nodes[i].is_drained);
    }
    for (unsigned i = 0; i < world->node_count; i++)
        sl_fabric_destroy(world->nodes[i].fabric);
    for (unsigned i = 0; i < world->node_count; i++)
        world_run(world, has_no_coroutine, &world->nodes[i]);
    for (unsigned i = 0; i < world->node_count; i++) {
        struct node *node = &world->nodes[i];
        sl_memory_destroy(node->memory);
        sl_reactor_destroy(node->reactor);
        sl_io_destroy(node->io);
    }
    sl_sim_destroy(world->sim);
    assert_int_equal(world->failures, 0);
}

void world_run(struct world *world, bool (*done)(void *argument), void *argument)
{
    if (world->sim != NULL) {
        uint64_t limit_ns = sl_sim_now_ns(world->sim) + 600 * SL_NS_PER_S;
        assert_true(sl_sim_run_until(world->sim, limit_ns, done, argument));
        return;
    }
    uint64_t limit_ns = real_now_ns() + 20 * SL_NS_PER_S;
    while (!done(argument)) {
        bool busy = false;
        for (unsigned i = 0; i < world->node_count; i++)
            busy |= sl_reactor_step(world->nodes[i].reactor);
        assert_true(real_now_ns() < limit_ns);
        if (!busy)
            usleep(20);
    }
}

static bool flag_is_set(void *argument)
{
    return *(const bool *)argument;
}

void world_run_flag(struct world *world, const bool *flag)
{
    world_run(world, flag_is_set, (void *)(uintptr_t)flag);
}

struct count {
    const unsigned *count;
    unsigned value;
};

static bool count_is_reached(void *argument)
{
    const struct count *count = argument;
    return *count->count >= count->value;
}

void world_run_count(struct world *world, const unsigned *value_at, unsigned value)
{
    struct count count = {value_at, value};
    world_run(world, count_is_reached, &count);
}

struct until {
    struct world *world;
    uint64_t deadline_ns;
};

static bool time_is_over(void *argument)
{
    const struct until *until = argument;
    uint64_t now_ns = until->world->sim != NULL ? sl_sim_now_ns(until->world->sim) : real_now_ns();
    return now_ns >= until->deadline_ns;
}

void world_run_ms(struct world *world, unsigned duration_ms)
{
    struct until until = {world, 0};
    uint64_t now_ns = world->sim != NULL ? sl_sim_now_ns(world->sim) : real_now_ns();
    until.deadline_ns = now_ns + duration_ms * SL_NS_PER_MS;
    if (world->sim != NULL)
        sl_sim_run_until(world->sim, until.deadline_ns, NULL, NULL);
    else
        world_run(world, time_is_over, &until);
}

/* ---- servers ---- */

void server_echo(struct sl_received *received)
{
    union sl_capsule reply = received->capsule;
    reply.header.status = SL_STATUS_OK;
    sl_connection_reply(received, &reply);
}

static void server_opened(void *owner, struct sl_connection *connection)
{
    struct server *server = owner;
    server->opened_count++;
    server->connection = connection;
    sl_connection_set_owner(connection, server);
}

static void server_received(void *owner, struct sl_received *received)
{
    struct server *server = owner;
    server->received_count++;
    if (server->on_received != NULL) {
        server->on_received(server, received);
    } else if (server->mode == SERVER_ECHO) {
        server_echo(received);
        sl_received_release(received);
    } else {
        sl_list_append(&server->held, &received->node);
        server->held_count++;
        server->held_max = sl_max(server->held_max, server->held_count);
    }
}

static void server_closed(void *owner, struct sl_connection *connection, int reason)
{
    struct server *server = owner;
    server->closed_count++;
    server->reason = reason;
    if (server->connection == connection)
        server->connection = NULL;
}

static const struct sl_connection_handlers server_handlers = {server_opened, server_received,
                                                              server_closed};

void servers_open(struct server *servers, struct world *world, unsigned count)
{
    struct sl_fabric *fabrics[WORLD_NODES_MAX];
    void *owners[WORLD_NODES_MAX];
    for (unsigned i = 0; i < count; i++) {
        servers[i] = (struct server){.node = &world->nodes[1 + i]};
        sl_list_init(&servers[i].held);
        fabrics[i] = servers[i].node->fabric;
        owners[i] = &servers[i];
    }
    char address[SL_ADDRESS_BYTES_MAX];
    static unsigned serial;
    if (world->link->address != NULL)
        snprintf(address, sizeof(address), "%s", world->link->address);
    else
        snprintf(address, sizeof(address), "unix:/tmp/sluice-fabric-test-%d-%u", (int)getpid(),
                 serial++);
    assert_int_equal(sl_fabric_listen(fabrics, count, address, &server_handlers, owners,
                                      servers[0].address, &servers[0].listener),
                     0);
}

void servers_close(struct server *server)
{
    sl_fabric_listener_close(server->listener);
}

void server_answer_held(struct server *server, bool reverse)
{
    while (!sl_list_is_empty(&server->held)) {
        struct sl_list *node = reverse ? server->held.previous : server->held.next;
        struct sl_received *received = sl_list_entry(node, struct sl_received, node);
        sl_list_remove(node);
        server->held_count--;
        server_echo(received);
        sl_received_release(received);
    }
}

void server_forget_held(struct server *server)
{
    struct sl_list *node;
    while ((node = sl_list_pop(&server->held)) != NULL) {
        server->held_count--;
        sl_received_release(sl_list_entry(node, struct sl_received, node));
    }
}

/* ---- clients ---- */

static void client_received(void *owner, struct sl_received *received)
{
    server_echo(received);
    sl_received_release(received);
}

static void client_closed(void *owner, struct sl_connection *connection, int reason)
{
    struct client *client = owner;
    client->closed_count++;
    client->reason = reason;
}

static const struct sl_connection_handlers client_handlers = {NULL, client_received, client_closed};

static void connect_co(void *argument)
{
    struct client *client = argument;
    client->error =
        sl_fabric_connect_co(client->node->fabric, client->address, client->reactor_index,
                             &client_handlers, client, client->deadline_ns, &client->connection);
    client->is_done = true;
}

int client_connect(struct client *client, struct world *world, const struct server *server,
                   uint32_t reactor_index)
{
    *client = (struct client){.node = &world->nodes[0], .reactor_index = reactor_index};
    client->deadline_ns = UINT64_MAX;
    snprintf(client->address, sizeof(client->address), "%s", server->address);
    assert_int_equal(sl_co_spawn(client->node->reactor, connect_co, client), 0);
    world_run_flag(world, &client->is_done);
    return client->error;
}

void client_close(struct client *client, struct server *server)
{
    struct world *world = client->node->world;
    sl_connection_shutdown(client->connection, -ECANCELED);
    sl_connection_unref(client->connection);
    client->connection = NULL;
    world_run_count(world, &client->closed_count, 1);
    if (server != NULL)
        world_run_count(world, &server->closed_count, 1);
    world_run_ms(world, 1);
    assert_int_equal(client->closed_count, 1);
}

static void call_co(void *argument)
{
    struct caller *caller = argument;
    struct sl_connection *connection = caller->client->connection;
    struct sl_memory *memory = caller->client->node->memory;
    union sl_capsule request = {
        .io = {.header = {.type = SL_CAPSULE_IO, .length_bytes = sizeof(struct sl_capsule_io)},
               .io = {.trace_id = caller->id}}};
    struct sl_span spans[SL_SEND_SPANS_MAX] = {0};
    struct sl_buf *bufs[SL_SEND_SPANS_MAX] = {NULL};
    unsigned count = caller->payload_bytes > 0 ? sl_max(caller->span_count, 1u) : 0;
    uint32_t left = caller->payload_bytes;
    for (unsigned i = 0; i < count; i++) {
        /* All but the last are whole pages. */
        uint32_t step = i + 1 == count ? left : SL_BLOCK_BYTES;
        bufs[i] = sl_buf_alloc_co(memory, step, SL_RESERVE_ADMISSION);
        pattern_fill(bufs[i]->data, step, caller->id + i);
        spans[i] = sl_buf_span(bufs[i], 0, step);
        left -= step;
    }
    caller->result = sl_connection_call_co(connection, &request, spans, count, &caller->reply);
    for (unsigned i = 0; i < count; i++)
        sl_buf_unref(bufs[i]);
    caller->returned_count++;
    if (caller->total_returned != NULL)
        (*caller->total_returned)++;
    sl_connection_unref(connection);
}

void caller_start(struct caller *caller, struct client *client, uint64_t id,
                  unsigned *total_returned)
{
    caller->client = client;
    caller->id = id;
    caller->total_returned = total_returned;
    sl_connection_ref(client->connection);
    assert_int_equal(sl_co_spawn(client->node->reactor, call_co, caller), 0);
}

static uint8_t pattern_byte(uint64_t seed, size_t at)
{
    return (uint8_t)(seed * 151 + at * 7 + (at >> 8) * 13);
}

void pattern_fill(uint8_t *data, size_t length_bytes, uint64_t seed)
{
    for (size_t i = 0; i < length_bytes; i++)
        data[i] = pattern_byte(seed, i);
}

bool pattern_is(const uint8_t *data, size_t length_bytes, uint64_t seed)
{
    for (size_t i = 0; i < length_bytes; i++)
        if (data[i] != pattern_byte(seed, i))
            return false;
    return true;
}
