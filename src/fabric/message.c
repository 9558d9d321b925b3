/*
 * Messages: SENDs and receives, credits, calls and replies. Everything received is the peer's word:
 * length, CRC, sequence, type and credits are checked here; bodies by whoever reads them. Owned by
 * the fabric's reactor.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "fabric/private.h"

#define CAPSULES_A_PAGE (SL_BLOCK_BYTES / SL_CAPSULE_BYTES_MAX)

static const struct sl_link_ops *link_of(const struct sl_connection *connection)
{
    return connection->fabric->config.link;
}

static uint64_t now_of(const struct sl_connection *connection)
{
    return sl_reactor_now_ns(connection->fabric->config.reactor);
}

/* ---- waiting for several completions ---- */

void sl_pending_init(struct pending *pending, unsigned count)
{
    sl_wait_init(&pending->wait);
    pending->count = count;
    pending->error = 0;
    pending->value = 0;
}

void sl_pending_done(struct pending *pending, int error)
{
    if (error < 0 && pending->error == 0)
        pending->error = error;
    if (--pending->count == 0)
        sl_wait_wake(&pending->wait, pending->error);
}

/* ---- transmit ---- */

static void pay_credits(struct sl_connection *connection);
static void tx_post_waiting(struct sl_connection *connection);

static void tx_done(struct sl_link_op *op)
{
    struct tx *tx = sl_container_of(op, struct tx, op);
    struct sl_connection *connection = tx->connection;
    struct pending *pending = tx->pending;
    int status = op->status;
    connection->tx_count--;
    /* Before the tx, and its memory, is somebody else's. */
    if (op->opcode >= SL_LINK_FETCH_ADD && pending != NULL)
        memcpy(&pending->value, tx->capsule->bytes, sizeof(pending->value)); /* header: result */
    if (tx->in_flight != NULL)
        *tx->in_flight = false;
    if (tx->close_after)
        sl_connection_shutdown(connection, tx->close_reason);
    sl_list_prepend(&connection->fabric->free_txs, &tx->node);
    tx_post_waiting(connection);
    /* What came back while a CREDIT was under way: nothing else may be sent for a second. */
    if (status == 0)
        pay_credits(connection);
    if (pending != NULL)
        sl_pending_done(pending, status);
}

/* Sixteen at a time: their capsules share a page of DMA memory. */
static bool tx_grow(struct sl_fabric *fabric)
{
    struct sl_buf **pages =
        realloc(fabric->capsule_pages, (fabric->capsule_page_count + 1) * sizeof(struct sl_buf *));
    if (pages == NULL)
        return false;
    fabric->capsule_pages = pages;
    struct sl_buf *page =
        sl_buf_alloc(fabric->config.domain.memory, SL_BLOCK_BYTES, SL_RESERVE_CHECKPOINT);
    if (page == NULL)
        return false;
    pages[fabric->capsule_page_count++] = page;
    for (unsigned i = 0; i < CAPSULES_A_PAGE; i++) {
        struct tx *tx = sl_pool_get(&fabric->txs);
        if (tx == NULL)
            return i > 0;
        memset(tx, 0, sizeof(*tx));
        tx->capsule = (union sl_capsule *)(void *)(page->data + i * SL_CAPSULE_BYTES_MAX);
        tx->capsule_region = page->region;
        sl_list_append(&fabric->free_txs, &tx->node);
        fabric->tx_count++;
    }
    return true;
}

struct tx *sl_tx_get(struct sl_connection *connection)
{
    struct sl_fabric *fabric = connection->fabric;
    if (sl_list_is_empty(&fabric->free_txs) && !tx_grow(fabric))
        return NULL;
    struct tx *tx = sl_list_entry(sl_list_pop(&fabric->free_txs), struct tx, node);
    tx->connection = connection;
    tx->pending = NULL;
    tx->in_flight = NULL;
    tx->close_after = false;
    return tx;
}

void sl_tx_memory_free(struct sl_fabric *fabric)
{
    struct sl_list *node;
    unsigned count = 0;
    for (; (node = sl_list_pop(&fabric->free_txs)) != NULL; count++)
        sl_pool_put(&fabric->txs, sl_list_entry(node, struct tx, node));
    SL_ASSERT(count == fabric->tx_count);
    sl_pool_fini(&fabric->txs);
    for (unsigned i = 0; i < fabric->capsule_page_count; i++)
        sl_buf_unref(fabric->capsule_pages[i]);
    free(fabric->capsule_pages);
}

/* The link's queue has room for so many; the others wait here, in their order. On a dead connection
 * the link flushes what is posted, so those that wait follow one another out. */
static void tx_post_waiting(struct sl_connection *connection)
{
    uint32_t depth = connection->fabric->limits->queue_depth;
    while ((depth == 0 || connection->tx_count < depth) &&
           !sl_list_is_empty(&connection->tx_waiting)) {
        struct tx *tx = sl_list_entry(sl_list_pop(&connection->tx_waiting), struct tx, node);
        connection->tx_count++;
        link_of(connection)->post(connection->link, &tx->op);
    }
}

void sl_tx_post(struct tx *tx)
{
    tx->op.done = tx_done;
    tx->op.status = 0;
    sl_list_append(&tx->connection->tx_waiting, &tx->node);
    tx_post_waiting(tx->connection);
}

void sl_tx_send(struct tx *tx, const struct sl_span *payload, unsigned payload_count)
{
    struct sl_connection *connection = tx->connection;
    struct sl_capsule_header *header = &tx->capsule->header;
    uint32_t payload_bytes = 0;
    SL_ASSERT(payload_count < SL_SEND_SPANS_MAX);
    for (unsigned i = 0; i < payload_count; i++) {
        tx->op.spans[1 + i] = payload[i];
        payload_bytes += payload[i].length_bytes;
    }
    header->version = SL_FABRIC_VERSION_MAX;
    header->payload_bytes = payload_bytes;
    header->sequence = connection->send_sequence++;
    header->credits = (uint16_t)connection->credits_owed;
    connection->peer_credits += connection->credits_owed;
    connection->credits_owed = 0;
    header->reserved = 0;
    header->crc = 0;
    header->crc = sl_crc32c(0, tx->capsule, header->length_bytes);
    tx->op.opcode = SL_LINK_SEND;
    tx->op.span_count = 1 + payload_count;
    tx->op.spans[0] =
        (struct sl_span){tx->capsule->bytes, header->length_bytes, tx->capsule_region};
    connection->last_sent_ns = now_of(connection);
    connection->fabric->statistics.message_sent_count++;
    sl_tx_post(tx);
}

bool sl_control_send(struct sl_connection *connection, uint8_t type, const void *body,
                     uint16_t length_bytes, bool *in_flight)
{
    struct tx *tx = sl_tx_get(connection);
    if (tx == NULL)
        return false;
    memset(&tx->capsule->header, 0, sizeof(tx->capsule->header));
    if (body != NULL)
        memcpy(tx->capsule->bytes + sizeof(struct sl_capsule_header), /* header: capsule body */
               (const uint8_t *)body + sizeof(struct sl_capsule_header),
               length_bytes - sizeof(struct sl_capsule_header));
    tx->capsule->header.type = type;
    tx->capsule->header.length_bytes = length_bytes;
    tx->in_flight = in_flight;
    if (in_flight != NULL)
        *in_flight = true;
    sl_tx_send(tx, NULL, 0);
    return true;
}

/* ---- receives ---- */

int sl_receives_create(struct sl_connection *connection)
{
    const struct sl_fabric_config *config = &connection->fabric->config;
    /* Requests of the peer, replies to ours (at most as many as we may ever call), and control. */
    unsigned count = config->credits + SL_CREDITS_MAX + SL_CONTROL_RECEIVES;
    connection->rxs = calloc(count, sizeof(*connection->rxs));
    connection->rx_memory =
        sl_buf_alloc(config->domain.memory, count * SL_CAPSULE_BYTES_MAX, SL_RESERVE_INTAKE);
    if (connection->rxs == NULL || connection->rx_memory == NULL)
        return -ENOMEM;
    connection->rx_count = count;
    for (unsigned i = 0; i < count; i++) {
        struct rx *rx = &connection->rxs[i];
        rx->received.connection = connection;
        rx->capsule =
            (union sl_capsule *)(void *)(connection->rx_memory->data + i * SL_CAPSULE_BYTES_MAX);
        sl_list_init(&rx->node);
    }
    return 0;
}

void sl_receives_free(struct sl_connection *connection)
{
    for (unsigned i = 0; i < connection->rx_count; i++) {
        SL_ASSERT(!connection->rxs[i].has_request);
        sl_buf_unref(connection->rxs[i].data);
    }
    connection->fabric->receive_bytes -= connection->receive_bytes;
    sl_buf_unref(connection->rx_memory);
    free(connection->rxs);
}

static void rx_done(struct sl_link_op *op);

static void rx_post(struct sl_connection *connection, struct rx *rx)
{
    rx->op.opcode = SL_LINK_RECEIVE;
    rx->op.done = rx_done;
    rx->op.spans[0] = sl_buf_span(connection->rx_memory,
                                  (uint32_t)(rx->capsule->bytes - connection->rx_memory->data),
                                  SL_CAPSULE_BYTES_MAX);
    rx->op.span_count = 1;
    if (rx->data != NULL)
        rx->op.spans[rx->op.span_count++] = sl_buf_span(rx->data, 0, rx->data->length_bytes);
    link_of(connection)->post(connection->link, &rx->op);
}

/* A grown debt is paid by itself if nothing else goes out. */
static void pay_credits(struct sl_connection *connection)
{
    if (connection->state == CONNECTION_OPEN && !connection->credit_in_flight &&
        connection->credits_owed >= sl_max(connection->fabric->config.credits / 2, 1u))
        sl_control_send(connection, SL_CAPSULE_CREDIT, NULL, sizeof(struct sl_capsule_header),
                        &connection->credit_in_flight);
}

static bool takes_payload(const struct sl_connection *connection)
{
    return connection->fabric->config.in_capsule_bytes > 0;
}

static void return_credit(struct sl_connection *connection, struct rx *rx)
{
    rx_post(connection, rx);
    connection->credits_owed++;
    pay_credits(connection);
}

/* Memory is short: its credits come back as memory does. */
static void refill_entry_co(void *argument)
{
    struct sl_connection *connection = argument;
    while (!sl_list_is_empty(&connection->starved)) {
        struct sl_buf *data =
            sl_buf_alloc_co(connection->fabric->config.domain.memory,
                            connection->fabric->config.in_capsule_bytes, SL_RESERVE_INTAKE);
        /* The connection may have died, and its starved receives gone, while we waited. */
        struct sl_list *node =
            connection->state == CONNECTION_OPEN ? sl_list_pop(&connection->starved) : NULL;
        if (node == NULL) {
            sl_buf_unref(data);
            break;
        }
        struct rx *rx = sl_list_entry(node, struct rx, node);
        rx->data = data;
        return_credit(connection, rx);
    }
    connection->refilling = false;
    sl_connection_unref(connection);
}

static void starve(struct sl_connection *connection, struct rx *rx)
{
    sl_list_append(&connection->starved, &rx->node);
    if (connection->refilling ||
        sl_co_spawn(connection->fabric->config.reactor, refill_entry_co, connection) < 0)
        return;
    connection->refilling = true;
    sl_connection_ref(connection);
}

/* Receives are consumed in order, whatever the message: each needs its data buffer. */
static bool post_receives(struct sl_connection *connection, unsigned count)
{
    const struct sl_fabric_config *config = &connection->fabric->config;
    for (; connection->rx_posted < count; connection->rx_posted++) {
        struct rx *rx = &connection->rxs[connection->rx_posted];
        if (takes_payload(connection)) {
            rx->data =
                sl_buf_alloc(config->domain.memory, config->in_capsule_bytes, SL_RESERVE_INTAKE);
            if (rx->data == NULL)
                return false;
        }
        rx_post(connection, rx);
    }
    return true;
}

void sl_receives_post_control(struct sl_connection *connection)
{
    if (!post_receives(connection, SL_CONTROL_RECEIVES))
        sl_connection_fail(connection, -ENOMEM, "no memory for its receives (--memory)");
}

/* Receives hold their buffers for ever: what they may take in all must leave room for I/O, which
 * waits for memory (3/4 of it at most, SL_RESERVE_ADMISSION). So 5/8, 32 connections of 4.25 MiB at
 * the default of 256 MiB; one more is refused, instead of stopping the others. */
static bool receives_fit(struct sl_connection *connection, unsigned count)
{
    struct sl_fabric *fabric = connection->fabric;
    struct sl_memory_statistics memory;
    uint64_t bytes = (uint64_t)count * fabric->config.in_capsule_bytes;
    sl_memory_statistics(fabric->config.domain.memory, &memory);
    if (fabric->receive_bytes + bytes > memory.small_limit_bytes / 8 * 5)
        return false;
    fabric->receive_bytes += bytes;
    connection->receive_bytes = bytes;
    return true;
}

/* After the limits are known, and before the peer may send. */
void sl_receives_post_all(struct sl_connection *connection)
{
    unsigned count =
        SL_CONTROL_RECEIVES + connection->fabric->config.credits + connection->peer.credits;
    if (!receives_fit(connection, count) || !post_receives(connection, count))
        sl_connection_fail(connection, -ENOMEM, "no memory for its receives (--memory)");
}

/* Posts a receive again that brought no request. */
static void rx_repost(struct sl_connection *connection, struct rx *rx)
{
    if (connection->state != CONNECTION_CLOSING && connection->state != CONNECTION_CLOSED)
        rx_post(connection, rx);
}

static bool header_is_right(struct sl_connection *connection, const struct sl_link_op *op,
                            union sl_capsule *capsule)
{
    struct sl_capsule_header *header = &capsule->header;
    /* What was padded is as long as it says itself. */
    bool is_padded = op->payload_bytes > 0 && connection->fabric->limits->pads_capsules;
    if (op->capsule_bytes < sizeof(*header) || header->length_bytes < sizeof(*header) ||
        (header->length_bytes != op->capsule_bytes &&
         !(is_padded && header->length_bytes < op->capsule_bytes)) ||
        header->payload_bytes != op->payload_bytes || header->reserved != 0 ||
        header->version < SL_FABRIC_VERSION_MIN || header->version > SL_FABRIC_VERSION_MAX) {
        sl_connection_fail(connection, -SL_E_PROTOCOL, "it sent a malformed capsule");
        return false;
    }
    uint32_t crc = header->crc;
    header->crc = 0;
    if (sl_crc32c(0, capsule, header->length_bytes) != crc) {
        sl_connection_fail(connection, -SL_E_CHECKSUM, "a capsule of its failed the checksum");
        return false;
    }
    if (header->sequence != connection->receive_sequence++) {
        sl_connection_fail(connection, -SL_E_PROTOCOL, "a capsule is missing or came twice");
        return false;
    }
    return true;
}

static bool take_credits(struct sl_connection *connection, uint16_t credits)
{
    if (credits == 0)
        return true;
    if (credits > connection->peer.credits - connection->credits) {
        sl_connection_fail(connection, -SL_E_PROTOCOL, "it gave more credits than it has");
        return false;
    }
    connection->credits += credits;
    sl_calls_grant(connection);
    return true;
}

static bool is_request(uint8_t type)
{
    return type >= SL_CAPSULE_IO && type <= SL_CAPSULE_RAFT;
}

/* Hands a request to the owner; the receive is posted again when the owner releases it. */
static void request_came(struct sl_connection *connection, struct rx *rx)
{
    struct sl_received *received = &rx->received;
    if (connection->peer_credits == 0) {
        sl_connection_fail(connection, -SL_E_PROTOCOL, "it sent more requests than it has credits");
        return;
    }
    if (connection->handlers->received == NULL) {
        sl_connection_fail(connection, -SL_E_PROTOCOL, "it sent a request where none is taken");
        return;
    }
    connection->peer_credits--;
    received->payload_bytes = rx->op.payload_bytes;
    received->payload = NULL;
    if (received->payload_bytes > 0) {
        received->payload = rx->data;
        rx->data = NULL;
        sl_buf_trim(received->payload, received->payload_bytes);
    }
    rx->has_request = true;
    sl_connection_ref(connection);
    connection->handlers->received(connection->owner, received);
}

static void reply_came(struct sl_connection *connection, const union sl_capsule *capsule)
{
    uint32_t request_id = capsule->header.request_id;
    unsigned slot = request_id % SL_CREDITS_MAX;
    struct call *call = connection->calls[slot];
    if (call == NULL || call->request_id != request_id) {
        sl_connection_fail(connection, -SL_E_PROTOCOL, "it answered what was not asked");
        return;
    }
    connection->calls[slot] = NULL;
    *call->reply = *capsule;
    sl_pending_done(&call->pending, 0);
}

static void control_came(struct sl_connection *connection, const union sl_capsule *capsule)
{
    switch (capsule->header.type) {
    case SL_CAPSULE_HEARTBEAT:
    case SL_CAPSULE_CREDIT:
        break;
    case SL_CAPSULE_REPLY:
        reply_came(connection, capsule);
        break;
    case SL_CAPSULE_GOODBYE:
        sl_connection_shutdown(connection, -ECONNRESET);
        break;
    default:
        sl_connection_fail(connection, -SL_E_PROTOCOL, "it sent a capsule of unknown type");
    }
}

static void rx_done(struct sl_link_op *op)
{
    struct rx *rx = sl_container_of(op, struct rx, op);
    struct sl_connection *connection = rx->received.connection;
    union sl_capsule *capsule = &rx->received.capsule;
    if (op->status < 0 || connection->state == CONNECTION_CLOSING ||
        connection->state == CONNECTION_CLOSED)
        return;
    connection->has_received = true;
    connection->fabric->statistics.message_received_count++;
    /* A private copy, taken once: on shm the peer could change the original under our eyes. */
    memcpy(capsule->bytes, rx->capsule->bytes, op->capsule_bytes); /* header: capsule */
    memset(capsule->bytes + op->capsule_bytes, 0, sizeof(*capsule) - op->capsule_bytes);
    if (!header_is_right(connection, op, capsule))
        return;
    memset(capsule->bytes + capsule->header.length_bytes, 0,
           sizeof(*capsule) - capsule->header.length_bytes);
    if (connection->state != CONNECTION_OPEN) {
        if (op->payload_bytes > 0 || !sl_handshake_received(connection, capsule))
            sl_connection_fail(connection, -SL_E_PROTOCOL, "its handshake is out of order");
        rx_repost(connection, rx);
        return;
    }
    if (!take_credits(connection, capsule->header.credits))
        return;
    if (is_request(capsule->header.type)) {
        request_came(connection, rx);
        return;
    }
    if (op->payload_bytes > 0) {
        sl_connection_fail(connection, -SL_E_PROTOCOL, "payload came where none is taken");
        return;
    }
    control_came(connection, capsule);
    rx_repost(connection, rx);
}

void sl_received_release(struct sl_received *received)
{
    if (received == NULL)
        return;
    struct sl_connection *connection = received->connection;
    struct rx *rx = sl_container_of(received, struct rx, received);
    SL_ASSERT(rx->has_request);
    rx->has_request = false;
    sl_buf_unref(received->payload);
    received->payload = NULL;
    if (connection->state == CONNECTION_OPEN) {
        if (takes_payload(connection) && rx->data == NULL)
            rx->data = sl_buf_alloc(connection->fabric->config.domain.memory,
                                    connection->fabric->config.in_capsule_bytes, SL_RESERVE_INTAKE);
        if (takes_payload(connection) && rx->data == NULL)
            starve(connection, rx);
        else
            return_credit(connection, rx);
    }
    sl_connection_unref(connection);
}

struct sl_buf *sl_received_take_payload(struct sl_received *received)
{
    struct sl_buf *payload = received->payload;
    received->payload = NULL;
    return payload;
}

/* ---- calls ---- */

static unsigned slot_take(struct sl_connection *connection)
{
    connection->credits--;
    return connection->free_calls[--connection->free_call_count];
}

/* Who is woken owns its credit and slot already, so that nobody overtakes it. */
void sl_calls_grant(struct sl_connection *connection)
{
    while (connection->credits > 0 && connection->free_call_count > 0 &&
           !sl_wait_queue_is_empty(&connection->credit_waiters))
        sl_wait_queue_wake_one(&connection->credit_waiters, slot_take(connection));
}

/* A call slot with its credit, or negative errno. */
static int slot_acquire_co(struct sl_connection *connection)
{
    if (connection->state != CONNECTION_OPEN)
        return connection->reason != 0 ? connection->reason : -ECONNRESET;
    if (connection->credits > 0 && connection->free_call_count > 0 &&
        sl_wait_queue_is_empty(&connection->credit_waiters))
        return (int)slot_take(connection);
    connection->fabric->statistics.credit_wait_count++;
    int slot = (int)sl_wait_queue_co(&connection->credit_waiters);
    /* It may have died after the slot was given. */
    return slot >= 0 && connection->state != CONNECTION_OPEN ? connection->reason : slot;
}

static bool payload_fits(const struct sl_connection *connection, const struct sl_span *payload,
                         unsigned payload_count)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < payload_count; i++)
        total += payload[i].length_bytes;
    return payload_count < sl_min(connection->fabric->limits->send_spans_max, SL_SEND_SPANS_MAX) &&
           total <= connection->peer.in_capsule_bytes;
}

int sl_connection_call_co(struct sl_connection *connection, union sl_capsule *request,
                          const struct sl_span *payload, unsigned payload_count,
                          union sl_capsule *reply)
{
    if (payload_count > 0 && !payload_fits(connection, payload, payload_count))
        return -EMSGSIZE;
    sl_connection_ref(connection);
    int slot = slot_acquire_co(connection);
    struct tx *tx = slot >= 0 ? sl_tx_get(connection) : NULL;
    if (tx == NULL) {
        if (slot >= 0) {
            connection->free_calls[connection->free_call_count++] = (uint8_t)slot;
            connection->credits++;
            sl_calls_grant(connection);
        }
        sl_connection_unref(connection);
        return slot < 0 ? slot : -ENOMEM;
    }
    uint32_t generation = ++connection->call_generation[slot];
    struct call call = {
        .reply = reply,
        .request_id = generation * SL_CREDITS_MAX + (uint32_t)slot,
    };
    sl_pending_init(&call.pending, 2); /* the SEND's completion and the reply */
    connection->calls[slot] = &call;
    memcpy(tx->capsule->bytes, request->bytes, request->header.length_bytes); /* header: capsule */
    tx->capsule->header.request_id = call.request_id;
    tx->capsule->header.status = 0;
    tx->pending = &call.pending;
    sl_tx_send(tx, payload, payload_count);
    int error = (int)sl_wait_co(&call.pending.wait);
    connection->free_calls[connection->free_call_count++] = (uint8_t)slot;
    if (connection->state == CONNECTION_OPEN)
        sl_calls_grant(connection);
    sl_connection_unref(connection);
    return error;
}

/* The link is closed and flushed: what still waits for a reply will not get one. */
void sl_calls_flush(struct sl_connection *connection, int reason)
{
    for (unsigned i = 0; i < SL_CREDITS_MAX; i++) {
        struct call *call = connection->calls[i];
        connection->calls[i] = NULL;
        if (call != NULL)
            sl_pending_done(&call->pending, reason);
    }
    while (sl_list_pop(&connection->starved) != NULL)
        continue;
    sl_wait_queue_wake_all(&connection->credit_waiters, reason);
}

void sl_connection_reply(struct sl_received *received, union sl_capsule *reply)
{
    struct sl_connection *connection = received->connection;
    if (connection->state != CONNECTION_OPEN)
        return;
    struct tx *tx = sl_tx_get(connection);
    if (tx == NULL) {
        sl_connection_fail(connection, -ENOMEM, "no memory for a reply");
        return;
    }
    memcpy(tx->capsule->bytes, reply->bytes, reply->header.length_bytes); /* header: capsule */
    tx->capsule->header.type = SL_CAPSULE_REPLY;
    tx->capsule->header.request_id = received->capsule.header.request_id;
    sl_tx_send(tx, NULL, 0);
}
