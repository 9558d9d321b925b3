/*
 * The life of a connection: link up → handshake → open → closing (the link flushes) → closed →
 * freed with the last reference. See fabric.h for the picture. Owned by its fabric's reactor.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/private.h"

static const struct sl_link_ops *link_of(const struct sl_connection *connection)
{
    return connection->fabric->config.link;
}

static struct sl_reactor *reactor_of(const struct sl_connection *connection)
{
    return connection->fabric->config.reactor;
}

/* ---- references ---- */

void sl_connection_ref(struct sl_connection *connection)
{
    connection->references++;
}

void sl_connection_unref(struct sl_connection *connection)
{
    SL_ASSERT(connection->references > 0);
    if (--connection->references > 0)
        return;
    struct sl_fabric *fabric = connection->fabric;
    SL_ASSERT(connection->state == CONNECTION_CLOSED);
    sl_receives_free(connection);
    sl_list_remove(&connection->node);
    fabric->connection_count--;
    free(connection);
    sl_wait_queue_wake_all(&fabric->changed, 0);
}

/* ---- time ---- */

static uint64_t tick_ns(const struct sl_connection *connection)
{
    return connection->fabric->config.heartbeat_interval_ns / 2;
}

static void timer_fired(struct sl_timer *timer)
{
    struct sl_connection *connection = sl_container_of(timer, struct sl_connection, timer);
    const struct sl_fabric_config *config = &connection->fabric->config;
    uint64_t now_ns = sl_reactor_now_ns(config->reactor);
    if (connection->state == CONNECTION_CONNECTING || connection->state == CONNECTION_HANDSHAKE) {
        sl_connection_fail(connection, -ETIMEDOUT, "no handshake within its time");
        return;
    }
    if (connection->state != CONNECTION_OPEN)
        return;
    /* Ticks are counted, not time: after this reactor was stopped or starved of its core, what the
     * peer sent is still waiting to be read. */
    connection->silent_ticks = connection->has_received ? 0 : connection->silent_ticks + 1;
    connection->has_received = false;
    if (connection->silent_ticks * tick_ns(connection) > config->heartbeat_timeout_ns) {
        sl_connection_fail(connection, -ETIMEDOUT, "silent for longer than the heartbeat time-out");
        return;
    }
    if (now_ns - connection->last_sent_ns >= config->heartbeat_interval_ns &&
        !connection->heartbeat_in_flight)
        sl_control_send(connection, SL_CAPSULE_HEARTBEAT, NULL, sizeof(struct sl_capsule_header),
                        &connection->heartbeat_in_flight);
    sl_timer_arm(config->reactor, timer, now_ns + tick_ns(connection));
}

/* ---- the link's events ---- */

static void link_connected(void *owner, struct sl_link_connection *link)
{
    struct sl_connection *connection = owner;
    if (connection->state != CONNECTION_CONNECTING)
        return;
    connection->state = CONNECTION_HANDSHAKE;
    if (!connection->incoming)
        sl_handshake_begin(connection);
}

/* Nothing of the connection can touch memory any more: only now do calls return. */
static void link_closed(void *owner, struct sl_link_connection *link, int reason)
{
    struct sl_connection *connection = owner;
    if (connection->reason == 0)
        connection->reason = reason;
    connection->state = CONNECTION_CLOSED;
    sl_timer_cancel(reactor_of(connection), &connection->timer);
    link_of(connection)->connection_free(link);
    connection->link = NULL;
    sl_calls_flush(connection, connection->reason);
    if (connection->connect_wait != NULL) {
        struct sl_wait *wait = connection->connect_wait;
        connection->connect_wait = NULL;
        sl_wait_wake(wait, connection->reason);
    } else if (connection->was_open && !connection->connecting &&
               connection->handlers->closed != NULL) {
        connection->handlers->closed(connection->owner, connection, connection->reason);
    }
    sl_connection_unref(connection);
}

static const struct sl_link_handlers link_handlers = {
    .connected = link_connected,
    .closed = link_closed,
};

/* ---- making them ---- */

struct sl_connection *sl_connection_create(struct sl_fabric *fabric,
                                           const struct sl_connection_handlers *handlers)
{
    struct sl_connection *connection = calloc(1, sizeof(*connection));
    if (connection == NULL)
        return NULL;
    connection->fabric = fabric;
    connection->handlers = handlers;
    connection->references = 1; /* the link's */
    connection->state = CONNECTION_CLOSED;
    connection->last_sent_ns = sl_reactor_now_ns(fabric->config.reactor);
    sl_list_init(&connection->starved);
    sl_list_init(&connection->tx_waiting);
    sl_wait_queue_init(&connection->credit_waiters);
    sl_timer_init(&connection->timer, timer_fired);
    for (unsigned i = 0; i < SL_CREDITS_MAX; i++)
        connection->free_calls[i] = (uint8_t)(SL_CREDITS_MAX - 1 - i);
    sl_list_append(&fabric->connections, &connection->node);
    fabric->connection_count++;
    if (sl_receives_create(connection) < 0) {
        sl_connection_unref(connection);
        return NULL;
    }
    return connection;
}

/* The link connection exists: receives first, so that the peer's first word finds a place. */
static void connection_begin(struct sl_connection *connection, uint64_t deadline_ns)
{
    connection->state = CONNECTION_CONNECTING;
    sl_timer_arm(reactor_of(connection), &connection->timer, deadline_ns);
    sl_receives_post_control(connection);
}

void sl_connection_incoming(struct sl_fabric *fabric, struct sl_link_incoming *request,
                            const struct sl_connection_handlers *handlers, void *listener_owner)
{
    struct sl_connection *connection = NULL;
    if (!fabric->is_draining)
        connection = sl_connection_create(fabric, handlers);
    if (connection == NULL) {
        if (!fabric->is_draining)
            sl_log_error("fabric", "connection from %s refused: out of memory", request->peer);
        request->ops->reject(request);
        return;
    }
    connection->incoming = true;
    connection->listener_owner = listener_owner;
    memcpy(connection->peer.address, request->peer,
           sizeof(connection->peer.address)); /* header: name */
    int error = request->ops->accept(fabric->domain, request, &link_handlers, connection,
                                     &connection->link);
    if (error < 0) {
        sl_log_warn("fabric", "connection from %s was lost: %s", connection->peer.address,
                    sl_error_text(error));
        sl_connection_unref(connection);
        return;
    }
    connection_begin(connection, sl_reactor_now_ns(fabric->config.reactor) +
                                     fabric->config.handshake_timeout_ns);
}

int sl_fabric_connect_co(struct sl_fabric *fabric, const char *address, uint32_t reactor_index,
                         const struct sl_connection_handlers *handlers, void *owner,
                         uint64_t deadline_ns, struct sl_connection **result)
{
    struct sl_fabric_private private = {
        .magic = SL_FABRIC_MAGIC,
        .version = SL_FABRIC_VERSION_MAX,
        .reactor_index = reactor_index,
    };
    if (fabric->is_draining)
        return -ESHUTDOWN;
    struct sl_connection *connection = sl_connection_create(fabric, handlers);
    if (connection == NULL)
        return -ENOMEM;
    deadline_ns = sl_min(deadline_ns, sl_reactor_now_ns(fabric->config.reactor) +
                                          fabric->config.handshake_timeout_ns);
    connection->owner = owner;
    strncpy(connection->peer.address, address, sizeof(connection->peer.address) - 1);
    int error =
        fabric->config.link->connect(fabric->domain, address, (const uint8_t *)&private,
                                     deadline_ns, &link_handlers, connection, &connection->link);
    if (error < 0) {
        sl_connection_unref(connection);
        return error;
    }
    struct sl_wait wait;
    sl_wait_init(&wait);
    connection->connect_wait = &wait;
    connection->connecting = true;
    sl_connection_ref(connection); /* the caller's */
    connection_begin(connection, deadline_ns);
    error = (int)sl_wait_co(&wait);
    connection->connecting = false;
    /* It may have opened and died before our turn came: nobody was told. */
    if (error == 0 && connection->state == CONNECTION_CLOSED)
        error = connection->reason;
    if (error < 0) {
        sl_connection_unref(connection);
        return error;
    }
    *result = connection;
    return 0;
}

/* The handshake is through. */
void sl_connection_opened(struct sl_connection *connection)
{
    const struct sl_fabric_config *config = &connection->fabric->config;
    connection->state = CONNECTION_OPEN;
    connection->was_open = true;
    connection->credits = connection->peer.credits;
    connection->free_call_count = SL_CREDITS_MAX;
    /* Replies find a receive for as many calls as the peer takes requests, no more. */
    while (connection->free_call_count > connection->peer.credits)
        connection->free_call_count--;
    connection->peer_credits = config->credits;
    sl_timer_arm(config->reactor, &connection->timer,
                 sl_reactor_now_ns(config->reactor) + tick_ns(connection));
    if (connection->connect_wait != NULL) {
        struct sl_wait *wait = connection->connect_wait;
        connection->connect_wait = NULL;
        sl_wait_wake(wait, 0);
    } else if (connection->handlers->opened != NULL) {
        connection->handlers->opened(connection->listener_owner, connection);
    }
}

/* ---- ending them ---- */

void sl_connection_shutdown(struct sl_connection *connection, int reason)
{
    if (connection->state == CONNECTION_CLOSING || connection->state == CONNECTION_CLOSED)
        return;
    connection->state = CONNECTION_CLOSING;
    connection->reason = reason < 0 ? reason : -ECONNRESET;
    link_of(connection)->disconnect(connection->link, connection->reason);
    /* Those that wait for a credit have nothing in flight. */
    sl_wait_queue_wake_all(&connection->credit_waiters, connection->reason);
}

void sl_connection_fail(struct sl_connection *connection, int reason, const char *what)
{
    if (connection->state != CONNECTION_CLOSING && connection->state != CONNECTION_CLOSED)
        sl_log_warn("fabric", "connection with %s ended: %s (%s)", connection->peer.address, what,
                    sl_error_name(reason));
    sl_connection_shutdown(connection, reason);
}

/* ---- small things ---- */

void sl_connection_set_owner(struct sl_connection *connection, void *owner)
{
    connection->owner = owner;
}

const struct sl_peer_info *sl_connection_peer(const struct sl_connection *connection)
{
    return &connection->peer;
}

bool sl_connection_is_open(const struct sl_connection *connection)
{
    return connection->state == CONNECTION_OPEN;
}

struct sl_fabric *sl_connection_fabric(const struct sl_connection *connection)
{
    return connection->fabric;
}

bool sl_connection_maps(const struct sl_connection *connection)
{
    return link_of(connection)->maps;
}

int sl_connection_remote_map(struct sl_connection *connection, const struct sl_remote_piece *piece,
                             bool for_writing, struct sl_span *span)
{
    if (connection->state != CONNECTION_OPEN)
        return -ECONNRESET;
    return link_of(connection)->remote_map(connection->link, piece, for_writing, span);
}
