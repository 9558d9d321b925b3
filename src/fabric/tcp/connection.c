/*
 * Life of a tcp connection: connect and accept, post, death, flush. Diagram: internal.h.
 *
 * Invariants
 *  - The stream is closed, and the lists are flushed, only when both coroutines have ended: so no
 * system call that names memory of an operation is in flight when its done() is called (STYLE 15).
 *  - After closed() nothing here touches the connection; the owner frees it.
 * Owner: the domain's reactor.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/tcp/internal.h"

uint64_t sl_tcp_op_bytes(const struct sl_link_op *op, unsigned first_span)
{
    uint64_t bytes = 0;
    for (unsigned i = first_span; i < op->span_count; i++)
        bytes += op->spans[i].length_bytes;
    return bytes;
}

void sl_tcp_die(struct sl_link_connection *connection, int reason)
{
    if (connection->state >= SL_TCP_DEAD)
        return;
    SL_ASSERT(reason < 0);
    if (connection->reason == 0)
        connection->reason = reason;
    connection->state = SL_TCP_DEAD;
    if (connection->stream != NULL)
        sl_stream_shutdown(connection->stream);
    sl_tcp_transmit_wake(connection);
}

static void timer_fired(struct sl_timer *timer)
{
    struct sl_link_connection *connection =
        sl_container_of(timer, struct sl_link_connection, timer);
    sl_tcp_die(connection, connection->state == SL_TCP_CONNECTING ? -ETIMEDOUT : -ECONNRESET);
}

void sl_tcp_linger(struct sl_link_connection *connection)
{
    struct sl_reactor *reactor = connection->domain->reactor;
    sl_timer_arm(reactor, &connection->timer, sl_reactor_now_ns(reactor) + SL_TCP_LINGER_NS);
}

void sl_tcp_refuse(struct sl_link_connection *connection, int error, uint64_t read_id,
                   const char *why)
{
    sl_log_warn("tcp", "%s: connection closed: %s (%s)", connection->peer, why,
                sl_error_name(error));
    if (connection->state != SL_TCP_OPEN)
        return;
    connection->reason = error;
    connection->close_read_id = read_id;
    connection->state = SL_TCP_CLOSING;
    sl_tcp_linger(connection);
    sl_tcp_transmit_wake(connection);
}

static void flush_list(struct sl_link_connection *connection, struct sl_list *list)
{
    struct sl_list *node;
    while ((node = sl_list_pop(list)) != NULL) {
        struct sl_link_op *op = sl_list_entry(node, struct sl_link_op, node);
        bool refused = op->opcode == SL_LINK_READ && list != &connection->posted &&
                       (uint64_t)(uintptr_t)op->link_data[0] == connection->refused_read_id;
        op->status = refused ? connection->reason : -ECONNRESET;
        op->done(op);
    }
}

/* Both coroutines have ended: nothing touches local memory any more. */
static void finish(struct sl_link_connection *connection)
{
    SL_ASSERT(connection->state == SL_TCP_DEAD && connection->reason < 0);
    sl_timer_cancel(connection->domain->reactor, &connection->timer);
    sl_stream_close(connection->stream);
    connection->stream = NULL;
    for (; connection->served_head != connection->served_tail; connection->served_head++)
        sl_region_unref(connection->served[connection->served_head % SL_TCP_SERVED_RING].region);
    /* In this order each kind completes in the order of its posts. done() may post more. */
    do {
        flush_list(connection, &connection->landing);
        flush_list(connection, &connection->reads);
        flush_list(connection, &connection->sending);
        flush_list(connection, &connection->posted);
        flush_list(connection, &connection->receives);
    } while (!sl_list_is_empty(&connection->posted) || !sl_list_is_empty(&connection->receives));
    connection->state = SL_TCP_CLOSED;
    connection->handlers->closed(connection->owner, connection, connection->reason);
}

static void coroutine_end(struct sl_link_connection *connection)
{
    if (--connection->coroutine_count > 0)
        return;
    /* Only if the sender had ended before a violation was found: nobody was left to tell the peer.
     */
    sl_tcp_die(connection, -ECONNRESET);
    finish(connection);
}

static void transmit_entry_co(void *argument)
{
    sl_tcp_transmit_co(argument);
    coroutine_end(argument);
}

/* The stream is there and both sides agreed: runs the connection until it dies. */
static void run_co(struct sl_link_connection *connection)
{
    sl_timer_cancel(connection->domain->reactor, &connection->timer);
    int error = sl_co_spawn(connection->domain->reactor, transmit_entry_co, connection);
    if (error != 0) {
        sl_tcp_die(connection, error);
        return;
    }
    connection->coroutine_count++;
    connection->state = SL_TCP_OPEN;
    connection->handlers->connected(connection->owner, connection);
    error = sl_tcp_receive_co(connection);
    /* While CLOSING the sender still has to tell the peer, and then ends it. */
    if (connection->state == SL_TCP_OPEN)
        sl_tcp_die(connection, error);
}

/* 0, or why there is no connection. */
static int shake_hands_co(struct sl_link_connection *connection)
{
    struct sl_link_domain *domain = connection->domain;
    int error = sl_stream_connect_co(domain->io, connection->peer, connection->deadline_ns,
                                     &connection->stream);
    if (error != 0) {
        connection->stream = NULL;
        return error;
    }
    if (connection->state == SL_TCP_DEAD) /* disconnect() while we waited */
        return connection->reason;
    sl_timer_arm(domain->reactor, &connection->timer, connection->deadline_ns);
    error = sl_tcp_preamble_send_co(connection->stream, SL_TCP_PREAMBLE_REQUEST, SL_TCP_REASON_NONE,
                                    connection->private_data);
    if (error != 0)
        return error;
    struct sl_tcp_preamble answer;
    const char *why = NULL;
    error = sl_tcp_preamble_receive_co(connection->stream, &answer, &why);
    if (error != 0)
        return error;
    if (answer.type == SL_TCP_PREAMBLE_REJECTED)
        return sl_tcp_reason_to_error(answer.reason);
    return answer.type == SL_TCP_PREAMBLE_ACCEPTED ? 0 : -SL_E_PROTOCOL;
}

static void connect_co(void *argument)
{
    struct sl_link_connection *connection = argument;
    int error = shake_hands_co(connection);
    if (error != 0)
        sl_tcp_die(connection, error);
    else if (connection->state == SL_TCP_CONNECTING)
        run_co(connection);
    coroutine_end(connection);
}

static void accept_co(void *argument)
{
    struct sl_link_connection *connection = argument;
    int error = sl_tcp_preamble_send_co(connection->stream, SL_TCP_PREAMBLE_ACCEPTED,
                                        SL_TCP_REASON_NONE, NULL);
    if (error != 0)
        sl_tcp_die(connection, error);
    else if (connection->state == SL_TCP_CONNECTING)
        run_co(connection);
    coroutine_end(connection);
}

static struct sl_link_connection *connection_create(struct sl_link_domain *domain,
                                                    const struct sl_link_handlers *handlers,
                                                    void *owner)
{
    struct sl_link_connection *connection;
    size_t bytes = sl_align_up(sizeof(*connection), _Alignof(struct sl_link_connection));
    connection = aligned_alloc(_Alignof(struct sl_link_connection), bytes);
    if (connection == NULL)
        return NULL;
    /* The frames stay untouched, so that their pages come as they are used. */
    memset(connection, 0, offsetof(struct sl_link_connection, next_head));
    connection->domain = domain;
    connection->handlers = handlers;
    connection->owner = owner;
    connection->coroutine_count = 1;
    connection->refused_read_id = SL_TCP_NO_READ;
    connection->close_read_id = SL_TCP_NO_READ;
    sl_timer_init(&connection->timer, timer_fired);
    sl_list_init(&connection->posted);
    sl_list_init(&connection->sending);
    sl_list_init(&connection->reads);
    sl_list_init(&connection->receives);
    sl_list_init(&connection->landing);
    return connection;
}

int sl_tcp_connect(struct sl_link_domain *domain, const char *address, const uint8_t *private_data,
                   uint64_t deadline_ns, const struct sl_link_handlers *handlers, void *owner,
                   struct sl_link_connection **result)
{
    if (strlen(address) >= SL_ADDRESS_BYTES_MAX)
        return -EINVAL;
    struct sl_link_connection *connection = connection_create(domain, handlers, owner);
    if (connection == NULL)
        return -ENOMEM;
    connection->deadline_ns = deadline_ns;
    snprintf(connection->peer, sizeof(connection->peer), "%s", address);
    if (private_data != NULL)
        memcpy(connection->private_data, private_data,
               SL_LINK_PRIVATE_BYTES); /* header: private data */
    int error = sl_co_spawn(domain->reactor, connect_co, connection);
    if (error != 0) {
        free(connection);
        return error;
    }
    domain->connection_count++;
    *result = connection;
    return 0;
}

int sl_tcp_accept(struct sl_link_domain *domain, struct sl_link_incoming *request,
                  const struct sl_link_handlers *handlers, void *owner,
                  struct sl_link_connection **result)
{
    struct sl_tcp_incoming *incoming = sl_container_of(request, struct sl_tcp_incoming, request);
    struct sl_link_connection *connection = connection_create(domain, handlers, owner);
    if (connection == NULL) {
        sl_tcp_reject(request);
        return -ENOMEM;
    }
    memcpy(connection->peer, request->peer, sizeof(connection->peer)); /* header: address */
    int error = sl_stream_adopt(domain->io, incoming->handle, &connection->stream);
    if (error != 0) {
        sl_log_error("tcp", "%s: its socket cannot be taken over: %s", request->peer,
                     sl_error_name(error));
        free(connection);
        free(incoming);
        return error;
    }
    free(incoming);
    error = sl_co_spawn(domain->reactor, accept_co, connection);
    if (error != 0) {
        sl_stream_shutdown(connection->stream);
        sl_stream_close(connection->stream);
        free(connection);
        return error;
    }
    domain->connection_count++;
    *result = connection;
    return 0;
}

void sl_tcp_post(struct sl_link_connection *connection, struct sl_link_op *op)
{
    SL_ASSERT(connection->state != SL_TCP_CLOSED);
    SL_ASSERT(op->span_count <= SL_LINK_SPANS_MAX);
    if (op->opcode == SL_LINK_RECEIVE) {
        sl_list_append(&connection->receives, &op->node);
        return;
    }
    SL_ASSERT(sl_tcp_op_bytes(op, op->opcode == SL_LINK_SEND ? 1 : 0) <= SL_TRANSFER_BYTES_MAX);
    sl_list_append(&connection->posted, &op->node);
    sl_tcp_transmit_wake(connection);
}

void sl_tcp_disconnect(struct sl_link_connection *connection, int reason)
{
    sl_tcp_die(connection, reason < 0 ? reason : -ECONNRESET);
}

void sl_tcp_connection_free(struct sl_link_connection *connection)
{
    SL_ASSERT(connection->state == SL_TCP_CLOSED);
    connection->domain->connection_count--;
    free(connection);
}
