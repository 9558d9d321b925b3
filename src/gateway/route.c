/*
 * Routes: this reactor's connections to every reactor of every storage server, kept up for ever.
 *
 * One connector coroutine a route: connect → QUERY_STORAGE → compare → INIT, START → open → wait
 * for death → back off → again. Connector 0 of a server learns its geometry and starts the others.
 * A sweeper ends connections on which an attempt outlasted its time: nothing else gives up an
 * operation that may still land in the client's memory (DESIGN "Stable payload, late landings,
 * keys").
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "gateway/layout.h"
#include "gateway/private.h"
#include "meta/cluster.h"

#define CONNECT_TIMEOUT_NS (5 * SL_NS_PER_S)
/* Retry quickly at first (a restarting target), then once a second: its cost on an idle machine is
 * nil. */
#define BACK_OFF_FIRST_NS (20 * SL_NS_PER_MS)
#define BACK_OFF_LAST_NS  (1 * SL_NS_PER_S)
/* Precision of I/O time-outs. */
#define SWEEP_INTERVAL_NS (250 * SL_NS_PER_MS)
/* Answers that cost the server nothing. */
#define CONTROL_TIMEOUT_NS (10 * SL_NS_PER_S)
/* At our end: for servers to answer the farewell. */
#define LEAVE_TIMEOUT_NS (1 * SL_NS_PER_S)

static void route_connector_co(void *argument);

static void route_closed(void *owner, struct sl_connection *connection, int reason)
{
    struct route *route = owner;
    struct sl_gateway *gateway = route->server->gateway;
    if (route->connection == connection) {
        route->connection = NULL;
        gateway->statistics.disconnect_count++;
        if (!gateway->stopping)
            sl_log_warn("gateway",
                        "connection to storage server %s reactor %u ended: %s; reconnecting",
                        route->server->address, route->reactor_index, sl_error_text(reason));
        sl_connection_unref(connection);
    }
    if (route->state != ROUTE_REFUSED)
        route->state = ROUTE_DOWN;
    sl_wait_queue_wake_all(&route->changed, 0);
}

static void route_received(void *owner, struct sl_received *received)
{
    /* Servers send replies only. */
    (void)owner;
    sl_connection_shutdown(received->connection, -SL_E_PROTOCOL);
    sl_received_release(received);
}

static const struct sl_connection_handlers route_handlers = {
    .received = route_received,
    .closed = route_closed,
};

int sl_route_control_co(struct route *route, struct sl_connection *connection, uint8_t type,
                        union sl_capsule *reply)
{
    union sl_capsule request;
    memset(&request, 0, sizeof(request));
    request.header.type = type;
    request.header.length_bytes = sizeof(request.header);
    struct attempt attempt = {
        .deadline_ns = sl_reactor_now_ns(route->server->gateway->reactor) + CONTROL_TIMEOUT_NS,
    };
    sl_list_append(&route->attempts, &attempt.node);
    int error = sl_connection_call_co(connection, &request, NULL, 0, reply);
    sl_list_remove(&attempt.node);
    if (error < 0)
        return error;
    return sl_status_to_errno(reply->header.status);
}

/* Another process may stand at the server's address now: its storage must be the one that clients
 * wrote to. It may have grown. */
static bool storage_is_same(const struct server *server, const struct sl_capsule_storage *storage)
{
    return memcmp(server->storage.storage_id, storage->storage_id, sizeof(storage->storage_id)) ==
               0 &&
           server->storage.capacity_bytes <= storage->capacity_bytes;
}

/* So that SL_SERVERS_MAX of them can be added up. */
#define CAPACITY_BYTES_MAX (UINT64_MAX / (2 * SL_SERVERS_MAX))

_Static_assert(SL_SERVER_REACTORS_MAX == 64, "as storage_fault() says");

/* Whether it is what the command line takes it for: what is wrong, or NULL. */
static const char *stranger(const struct sl_capsule_storage *storage,
                            const struct sl_cluster *cluster)
{
    bool replicated = (storage->storage_flags & SL_STORAGE_REPLICATED) != 0;
    if (storage->header.length_bytes < sizeof(*storage))
        return NULL; /* storage_fault() says it */
    if (cluster == NULL && replicated)
        return "it is a node of a cluster: give its cluster file by --cluster";
    if (cluster != NULL && !replicated)
        return "it is no node of a cluster: start it with --cluster and --node";
    if (cluster != NULL && memcmp(storage->storage_id, cluster->id, sizeof(cluster->id)) != 0)
        return "it is a node of another cluster: the 'id' of the --cluster file is not its own";
    return NULL;
}

/* What is wrong with what it says of itself, or NULL. */
static const char *storage_fault(const struct sl_capsule_storage *storage, bool replicated)
{
    if (storage->header.length_bytes < sizeof(*storage))
        return "it is too short";
    if (storage->block_bytes != SL_BLOCK_BYTES)
        return "blocks are of 4096 bytes here";
    if (storage->reactor_count < 1 || storage->reactor_count > SL_SERVER_REACTORS_MAX)
        return "reactors must be 1 to 64";
    if (replicated)
        return NULL; /* what there is, the cluster file says */
    if (!sl_is_power_of_two(storage->shard_bytes) || storage->shard_bytes < SL_TRANSFER_BYTES_MAX)
        return "shards must be a power of two from 1 MiB";
    if (storage->capacity_bytes == 0 || storage->capacity_bytes > CAPACITY_BYTES_MAX)
        return "its capacity is none, or absurd";
    return NULL;
}

static int lay_out(struct sl_gateway *gateway)
{
    uint64_t capacity_bytes[SL_SERVERS_MAX];
    char error[512];
    const struct sl_gateway_group *group = gateway->group;
    bool read_only = false;
    for (unsigned i = 0; i < group->server_count; i++) {
        capacity_bytes[i] = gateway->servers[i].storage.capacity_bytes;
        read_only = read_only || (gateway->servers[i].storage.storage_flags & 1) != 0;
    }
    int result =
        sl_layout_volumes(group->volumes, group->volume_count, group->stripe_bytes, capacity_bytes,
                          group->server_count, gateway->volumes, error, sizeof(error));
    if (result < 0)
        sl_log_error("gateway", "%s", error);
    for (unsigned i = 0; result == 0 && i < sl_max(group->volume_count, 1u); i++)
        gateway->volumes[i].read_only = read_only;
    return result;
}

static void server_learned(struct server *server)
{
    struct sl_gateway *gateway = server->gateway;
    if (!server->known) {
        server->known = true;
        gateway->known_count++;
    }
    if (gateway->group->cluster == NULL && gateway->known_count == gateway->group->server_count &&
        (!gateway->laid_out || atomic_load(&gateway->group->session_count) == 0)) {
        gateway->layout_error = lay_out(gateway);
        gateway->laid_out = true;
    }
    sl_wait_queue_wake_all(&gateway->learned, 0);
}

static int start_connectors(struct server *server, unsigned count)
{
    struct sl_gateway *gateway = server->gateway;
    while (server->route_count < count) {
        unsigned index = server->route_count;
        struct route *route = server->routes[index];
        if (route == NULL) {
            route = calloc(1, sizeof(*route));
            if (route == NULL)
                return -ENOMEM;
            route->server = server;
            route->reactor_index = index;
            sl_list_init(&route->attempts);
            sl_wait_queue_init(&route->changed);
            server->routes[index] = route;
        }
        int error = sl_co_spawn(gateway->reactor, route_connector_co, route);
        if (error < 0)
            return error;
        gateway->coroutine_count++;
        server->route_count++;
    }
    return 0;
}

/* A server that is not to be used; said once, though it is asked again. */
static int check_storage(struct server *server, const struct sl_capsule_storage *storage)
{
    const struct sl_cluster *cluster = server->gateway->group->cluster;
    const char *strange = stranger(storage, cluster);
    const char *fault = strange != NULL ? strange : storage_fault(storage, cluster != NULL);
    bool told = fault == server->fault;
    server->fault = fault;
    if (fault == NULL)
        return 0;
    if (strange != NULL && !told)
        sl_log_error("gateway", "storage server %s cannot be used: %s", server->address, strange);
    else if (!told)
        sl_log_error("gateway",
                     "storage server %s: its description of its storage is unusable: %s (capacity "
                     "%llu, reactors %u, blocks of %u bytes, shards of %u bytes)",
                     server->address, fault, (unsigned long long)storage->capacity_bytes,
                     storage->reactor_count, storage->block_bytes, storage->shard_bytes);
    return -SL_E_PROTOCOL;
}

/* What the server says of its storage decides whether the route may open. */
static int route_admit(struct route *route, const struct sl_capsule_storage *storage)
{
    struct server *server = route->server;
    struct sl_gateway *gateway = server->gateway;
    bool replicated = gateway->group->cluster != NULL;
    int error = check_storage(server, storage);
    if (error < 0)
        return error;
    /* A replicated group knows its own: a node may come back with a new disk. */
    if (!replicated && server->known && !storage_is_same(server, storage) &&
        atomic_load(&gateway->group->session_count) != 0) {
        if (route->state != ROUTE_REFUSED)
            sl_log_error(
                "gateway",
                "storage server %s came back with other storage than the clients' data is on; "
                "its I/O fails until the old storage is there, or all clients have left",
                server->address);
        route->state = ROUTE_REFUSED;
        sl_wait_queue_wake_all(&route->changed, 0);
        return -ESTALE;
    }
    /* What it grew by is for gateways to come: the reactors of this one must agree on its size. */
    uint64_t capacity_bytes = server->known && storage_is_same(server, storage)
                                  ? server->storage.capacity_bytes
                                  : storage->capacity_bytes;
    server->storage = *storage;
    server->storage.capacity_bytes = capacity_bytes;
    server_learned(server);
    return start_connectors(server, storage->reactor_count);
}

static int route_connect_co(struct route *route)
{
    struct server *server = route->server;
    struct sl_gateway *gateway = server->gateway;
    union sl_capsule reply;
    uint64_t deadline_ns = sl_reactor_now_ns(gateway->reactor) + CONNECT_TIMEOUT_NS;
    struct sl_connection *connection;
    int error = sl_fabric_connect_co(gateway->fabric, server->address, route->reactor_index,
                                     &route_handlers, route, deadline_ns, &connection);
    if (error < 0)
        return error;
    route->connection = connection;
    /* Ours: the route's goes with closed(), which may come right behind an answer. */
    sl_connection_ref(connection);
    error = sl_route_control_co(route, connection, SL_CAPSULE_QUERY_STORAGE, &reply);
    if (error == 0)
        error = route_admit(route, &reply.storage);
    if (error == 0)
        error = sl_route_control_co(route, connection, SL_CAPSULE_INIT_STORAGE, &reply);
    if (error == 0)
        error = sl_route_control_co(route, connection, SL_CAPSULE_START_STORAGE, &reply);
    if (error < 0)
        sl_connection_shutdown(connection, error);
    sl_connection_unref(connection);
    return error;
}

/* The end of the life cycle, in order: the server hears that it is one and not a failure. */
static void route_leave_co(struct route *route)
{
    union sl_capsule reply;
    struct sl_connection *connection = route->connection;
    sl_connection_ref(connection);
    if (sl_route_control_co(route, connection, SL_CAPSULE_STOP_STORAGE, &reply) == 0)
        sl_route_control_co(route, connection, SL_CAPSULE_SHUTDOWN, &reply);
    sl_connection_shutdown(connection, -ECANCELED);
    sl_connection_unref(connection);
}

/* Until the connection has died and left. */
static void route_serve_co(struct route *route)
{
    bool left = false;
    while (route->connection != NULL) {
        if (route->server->gateway->stopping && !left) {
            left = true;
            route_leave_co(route);
            continue;
        }
        sl_wait_queue_co(&route->changed);
    }
}

static void route_connector_co(void *argument)
{
    struct route *route = argument;
    struct sl_gateway *gateway = route->server->gateway;
    uint64_t back_off_ns = BACK_OFF_FIRST_NS;
    int last_error = 0;
    while (!gateway->stopping) {
        int error = route->reactor_index < sl_max(route->server->storage.reactor_count, 1u)
                        ? route_connect_co(route)
                        : -ENODEV; /* the server has fewer reactors since its restart */
        if (error == 0 && route->connection != NULL && !gateway->stopping) {
            route->state = ROUTE_OPEN;
            gateway->statistics.connect_count++;
            sl_log_info("gateway", "connected to storage server %s reactor %u",
                        route->server->address, route->reactor_index);
            sl_wait_queue_wake_all(&route->changed, 0);
            back_off_ns = BACK_OFF_FIRST_NS;
        } else if (error < 0 && error != last_error && error != -ENODEV && !gateway->stopping) {
            sl_log_warn("gateway", "storage server %s reactor %u: %s (%s)%s; trying again",
                        route->server->address, route->reactor_index, sl_error_text(error),
                        sl_error_name(error), error == -EINVAL ? ", is that an address?" : "");
        }
        last_error = error;
        route_serve_co(route);
        if (gateway->stopping)
            break;
        sl_wait_queue_until_co(&gateway->stopped,
                               sl_reactor_now_ns(gateway->reactor) + back_off_ns);
        back_off_ns = sl_min(back_off_ns * 2, BACK_OFF_LAST_NS);
    }
    gateway->coroutine_count--;
    sl_wait_queue_wake_all(&gateway->learned, -ECANCELED);
}

static void sweep_route(struct route *route, uint64_t now_ns)
{
    sl_list_for_each(node, &route->attempts)
    {
        struct attempt *attempt = sl_list_entry(node, struct attempt, node);
        if (attempt->deadline_ns > now_ns)
            continue;
        attempt->overdue = true;
        sl_log_error("gateway",
                     "storage server %s reactor %u did not answer within the time-out of an I/O "
                     "or control message; its connection is torn down",
                     route->server->address, route->reactor_index);
        sl_connection_shutdown(route->connection, -ETIMEDOUT);
        return;
    }
}

static void sweeper_co(void *argument)
{
    struct sl_gateway *gateway = argument;
    while (!gateway->stopping) {
        uint64_t now_ns = sl_reactor_now_ns(gateway->reactor);
        for (unsigned i = 0; i < gateway->group->remote_count; i++) {
            struct server *server = &gateway->servers[i];
            for (unsigned j = 0; j < server->route_count; j++) {
                if (server->routes[j]->connection != NULL)
                    sweep_route(server->routes[j], now_ns);
            }
        }
        sl_wait_queue_until_co(&gateway->stopped, now_ns + SWEEP_INTERVAL_NS);
    }
    gateway->coroutine_count--;
    sl_wait_queue_wake_all(&gateway->learned, -ECANCELED);
}

int sl_gateway_routes_start(struct sl_gateway *gateway)
{
    struct sl_gateway_group *group = gateway->group;
    if (group->has_local) {
        struct server *server = &gateway->servers[group->remote_count];
        server->storage.capacity_bytes = group->local.capacity_bytes;
        server->storage.shard_bytes = (uint32_t)group->local.shard_bytes;
        server->storage.reactor_count = group->reactor_count;
        server->storage.storage_flags = group->local.read_only ? 1 : 0;
        server_learned(server);
    }
    for (unsigned i = 0; i < group->remote_count; i++) {
        int error = start_connectors(&gateway->servers[i], 1);
        if (error < 0)
            return error;
    }
    int error = sl_co_spawn(gateway->reactor, sweeper_co, gateway);
    if (error == 0)
        gateway->coroutine_count++;
    return error;
}

void sl_gateway_routes_stop_co(struct sl_gateway *gateway)
{
    gateway->stopping = true;
    sl_wait_queue_wake_all(&gateway->stopped, 0);
    sl_cluster_wake(gateway);
    for (unsigned i = 0; i < gateway->group->remote_count; i++) {
        for (unsigned j = 0; j < gateway->servers[i].route_count; j++)
            sl_wait_queue_wake_all(&gateway->servers[i].routes[j]->changed, 0);
    }
    uint64_t deadline_ns = sl_reactor_now_ns(gateway->reactor) + LEAVE_TIMEOUT_NS;
    while (gateway->coroutine_count > 0 &&
           sl_wait_queue_until_co(&gateway->learned, deadline_ns) != -ETIMEDOUT)
        continue;
    /* Servers that do not answer, and those that are being connected to. */
    if (gateway->coroutine_count > 0 && gateway->fabric != NULL)
        sl_fabric_drain_co(gateway->fabric);
    while (gateway->coroutine_count > 0)
        sl_wait_queue_co(&gateway->learned);
}

void sl_gateway_routes_free(struct sl_gateway *gateway)
{
    for (unsigned i = 0; i < gateway->group->server_count; i++) {
        for (unsigned j = 0; j < SL_SERVER_REACTORS_MAX; j++)
            free(gateway->servers[i].routes[j]);
    }
}

static struct route *route_of(struct server *server, uint64_t server_offset_bytes)
{
    uint64_t shard = server_offset_bytes / server->storage.shard_bytes;
    return server->routes[shard % server->storage.reactor_count];
}

int sl_route_acquire_co(struct sl_gateway *gateway, unsigned server_index,
                        uint64_t server_offset_bytes, uint64_t deadline_ns, struct route **result)
{
    struct server *server = &gateway->servers[server_index];
    for (;;) {
        if (gateway->stopping)
            return -ECANCELED;
        /* Looked up anew after each wait: a restarted server may have another number of reactors.
         */
        struct route *route = route_of(server, server_offset_bytes);
        if (route != NULL && route->state == ROUTE_OPEN) {
            *result = route;
            return 0;
        }
        if (sl_reactor_now_ns(gateway->reactor) >= deadline_ns)
            return route != NULL && route->state == ROUTE_REFUSED ? -ESTALE : -SL_E_UNREACHABLE;
        if (route == NULL)
            sl_sleep_co(BACK_OFF_FIRST_NS);
        else
            sl_wait_queue_until_co(&route->changed, deadline_ns);
    }
}

/* Waits until `connection`, seen dead, has left the route: nothing of it can land any more. */
static void wait_closed_co(struct route *route, const struct sl_connection *connection)
{
    while (route->connection == connection)
        sl_wait_queue_co(&route->changed);
}

int sl_route_request_co(struct route *route, union sl_capsule *request,
                        const struct sl_span *payload, unsigned payload_count, uint64_t deadline_ns,
                        union sl_capsule *reply)
{
    struct sl_connection *connection = route->connection;
    struct attempt attempt = {.deadline_ns = deadline_ns};
    sl_list_append(&route->attempts, &attempt.node);
    /* Ours: closed() may come while we wait. */
    sl_connection_ref(connection);
    int error = sl_connection_call_co(connection, request, payload, payload_count, reply);
    sl_list_remove(&attempt.node);
    if (error < 0) {
        sl_connection_shutdown(connection, error);
        wait_closed_co(route, connection);
        /* Whatever ended the connection, another request's fault maybe: this one may be tried
         * again. */
        error = attempt.overdue ? -ETIMEDOUT : -ECONNRESET;
    }
    sl_connection_unref(connection);
    return error;
}
