/*
 * The shm link's data path: operations out of `posted` into ring or window, slots out of the ring
 * into receives. Runs in the connection's poller; what was posted since the last turn leaves
 * together, with one publish and at most one doorbell. shm.h has the invariants. Owner: the
 * domain's reactor.
 */
#include "fabric/shm/shm.h"

#include <string.h>

#include "core/log.h"

/* Slots taken in one turn: as many as one peer can have under way with full credits, so that others
 * get theirs. */
#define SLOTS_A_TURN 256u

/* op->link_data[0] of a SEND in `sent`. */
enum send_state { SEND_TAKEN, SEND_PAYLOAD_ANNOUNCED, SEND_PAYLOAD_DATA_AREA };

static void send_state_set(struct sl_link_op *op, enum send_state state)
{
    op->link_data[0] = (void *)(uintptr_t)state;
}

static enum send_state send_state_of(const struct sl_link_op *op)
{
    return (enum send_state)(uintptr_t)op->link_data[0];
}

static struct sl_link_op *op_of(struct sl_list *node)
{
    return sl_list_entry(node, struct sl_link_op, node);
}

static void op_complete(struct shm_connection *connection, struct sl_link_op *op, int status)
{
    op->status = status;
    sl_list_append(&connection->completed, &op->node);
}

static void list_flush(struct shm_connection *connection, struct sl_list *list)
{
    for (struct sl_list *node = sl_list_pop(list); node != NULL; node = sl_list_pop(list))
        op_complete(connection, op_of(node), -ECONNRESET);
}

void shm_data_flush(struct shm_connection *connection)
{
    list_flush(connection, &connection->sent);
    list_flush(connection, &connection->posted);
    list_flush(connection, &connection->receives);
}

unsigned shm_data_deliver(struct shm_connection *connection)
{
    struct sl_list due;
    sl_list_init(&due);
    sl_list_splice(&due, &connection->completed);
    unsigned count = 0;
    for (struct sl_list *node = sl_list_pop(&due); node != NULL; node = sl_list_pop(&due)) {
        struct sl_link_op *op = op_of(node);
        op->done(op);
        count++;
    }
    return count;
}

void shm_post(struct sl_link_connection *link_connection, struct sl_link_op *op)
{
    struct shm_connection *connection = shm_connection_of(link_connection);
    op->status = 0;
    op->capsule_bytes = 0;
    op->payload_bytes = 0;
    if (connection->state >= SHM_CLOSING)
        op_complete(connection, op, -ECONNRESET);
    else if (op->opcode == SL_LINK_RECEIVE)
        sl_list_append(&connection->receives, &op->node);
    else
        sl_list_append(&connection->posted, &op->node);
}

/* ---- sending ---- */

static uint32_t payload_bytes_of(const struct sl_link_op *op)
{
    uint32_t total = 0;
    for (unsigned i = 1; i < op->span_count; i++)
        total += op->spans[i].length_bytes;
    return total;
}

/* The key under which the peer may read the whole payload, or NULL. */
static const struct shm_key *payload_key(struct shm_connection *connection,
                                         const struct sl_link_op *op)
{
    struct sl_region *region = op->spans[1].region;
    if (op->span_count != 2 || region == NULL || region->removed)
        return NULL;
    const struct shm_key *key = region->client_data[connection->domain->client.index];
    return key != NULL && (key->access & SL_ACCESS_REMOTE_READ) != 0 ? key : NULL;
}

/* Says in the record where the payload lies; copies it into the data area if it must. */
static bool payload_place(struct shm_connection *connection, struct sl_link_op *op,
                          struct shm_record *record)
{
    const struct shm_key *key = payload_key(connection, op);
    if (key != NULL) {
        record->key = key->key;
        record->address = (uint64_t)(op->spans[1].data - op->spans[1].region->base);
        send_state_set(op, SEND_PAYLOAD_ANNOUNCED);
        return true;
    }
    if (connection->data_used == SHM_DATA_SLOTS) {
        connection->blocked = SHM_BLOCKED_DATA;
        return false;
    }
    record->key = 0;
    record->address = (uint64_t)(connection->data_next % SHM_DATA_SLOTS) * SL_IN_CAPSULE_BYTES_MAX;
    uint8_t *to = connection->channel.data_out + record->address;
    for (unsigned i = 1; i < op->span_count; i++) {
        sl_copy(sl_memory_copies(connection->domain->config.memory), SL_COPY_WINDOW, to,
                op->spans[i].data, op->spans[i].length_bytes);
        to += op->spans[i].length_bytes;
    }
    connection->data_next++;
    connection->data_used++;
    send_state_set(op, SEND_PAYLOAD_DATA_AREA);
    return true;
}

/* False: it has to wait; connection->blocked says for what. */
static bool send_begin(struct shm_connection *connection, struct sl_link_op *op)
{
    SL_ASSERT(op->span_count >= 1 && op->spans[0].length_bytes <= SL_CAPSULE_BYTES_MAX);
    struct shm_record record = {
        .type = SHM_SLOT_SEND,
        .capsule_bytes = (uint16_t)op->spans[0].length_bytes,
        .announced = connection->announced,
        .payload_bytes = payload_bytes_of(op),
    };
    SL_ASSERT(record.payload_bytes <= SL_IN_CAPSULE_BYTES_MAX);
    int room = sl_ring_room(&connection->channel.producer, 1);
    if (room < 0) {
        shm_connection_fail(connection, room);
        return false;
    }
    if (room == 0) {
        connection->blocked = SHM_BLOCKED_ROOM;
        return false;
    }
    send_state_set(op, SEND_TAKEN);
    if (record.payload_bytes > 0 && !payload_place(connection, op, &record))
        return false;
    struct shm_slot *slot = sl_ring_reserve(&connection->channel.producer);
    memcpy(slot->capsule, op->spans[0].data, op->spans[0].length_bytes); /* header: capsule */
    slot->record = record;
    sl_list_remove(&op->node);
    if (send_state_of(op) == SEND_TAKEN && sl_list_is_empty(&connection->sent))
        op_complete(connection, op, 0);
    else
        sl_list_append(&connection->sent, &op->node);
    return true;
}

/* READ and WRITE: the CPU is the network card. */
static int window_copy(struct shm_connection *connection, struct sl_link_op *op)
{
    bool writes = op->opcode == SL_LINK_WRITE;
    struct sl_span window;
    int error = shm_window_resolve(
        connection, &op->remote, writes ? SL_ACCESS_REMOTE_WRITE : SL_ACCESS_REMOTE_READ, &window);
    if (error < 0)
        return error;
    struct sl_copy_counters *counters = sl_memory_copies(connection->domain->config.memory);
    uint32_t offset = 0;
    for (unsigned i = 0; i < op->span_count; i++) {
        const struct sl_span *span = &op->spans[i];
        SL_ASSERT(span->length_bytes <= window.length_bytes - offset);
        if (writes)
            sl_copy(counters, SL_COPY_WINDOW, window.data + offset, span->data, span->length_bytes);
        else
            sl_copy(counters, SL_COPY_WINDOW, span->data, window.data + offset, span->length_bytes);
        offset += span->length_bytes;
    }
    return window.region->damaged ? -EIO : 0;
}

static void acks_send(struct shm_connection *connection)
{
    if (connection->acks_due == 0 || sl_ring_room(&connection->channel.producer, 1) <= 0)
        return;
    struct shm_slot *slot = sl_ring_reserve(&connection->channel.producer);
    slot->record = (struct shm_record){
        .type = SHM_SLOT_ACK,
        .announced = connection->announced,
        .payload_bytes = connection->acks_due,
    };
    connection->acks_due = 0;
}

static unsigned posted_begin(struct shm_connection *connection)
{
    unsigned count = 0;
    uint64_t copied_bytes = 0;
    connection->blocked = SHM_NOT_BLOCKED;
    while (connection->state == SHM_UP && !sl_list_is_empty(&connection->posted)) {
        struct sl_link_op *op = op_of(sl_list_first(&connection->posted));
        if (op->opcode == SL_LINK_SEND) {
            if (!send_begin(connection, op))
                break;
            count++;
            continue;
        }
        if (copied_bytes >= SHM_COPY_BUDGET_BYTES)
            break;
        uint32_t revoked = atomic_load(&connection->channel.consumer.shared->note);
        if ((int32_t)(revoked - connection->announced_seen) > 0) {
            connection->blocked = SHM_BLOCKED_REVOCATION;
            break;
        }
        int error = window_copy(connection, op);
        copied_bytes += op->remote.length_bytes;
        sl_list_remove(&op->node);
        op_complete(connection, op, error);
        count++;
        if (error < 0)
            shm_connection_fail(connection, error);
    }
    return count;
}

/* ---- receiving ---- */

/* Where the payload of a SEND that came lies, as its record says. 0 or negative errno. */
static int payload_find(struct shm_connection *connection, const struct shm_record *record,
                        const uint8_t **from)
{
    if (record->key == 0) {
        if (record->address > shm_layout.data_bytes - record->payload_bytes)
            return -SL_E_PROTOCOL;
        *from = connection->channel.data_in + record->address;
        return 0;
    }
    struct sl_remote_piece piece = {record->address, record->key, record->payload_bytes, 0};
    struct sl_span span;
    int error = shm_window_resolve(connection, &piece, SL_ACCESS_REMOTE_READ, &span);
    if (error == 0)
        *from = span.data;
    return error;
}

static int send_received(struct shm_connection *connection, const struct shm_slot *slot,
                         const struct shm_record *record)
{
    struct sl_list *node = sl_list_first(&connection->receives);
    if (node == NULL || record->capsule_bytes > SL_CAPSULE_BYTES_MAX ||
        record->payload_bytes > SL_IN_CAPSULE_BYTES_MAX)
        return -SL_E_PROTOCOL;
    struct sl_link_op *op = op_of(node);
    if (record->capsule_bytes > op->spans[0].length_bytes)
        return -SL_E_PROTOCOL;
    if (record->payload_bytes > 0) {
        const uint8_t *from = NULL;
        if (op->span_count < 2 || record->payload_bytes > op->spans[1].length_bytes)
            return -SL_E_PROTOCOL;
        int error = payload_find(connection, record, &from);
        if (error < 0)
            return error;
        sl_copy(sl_memory_copies(connection->domain->config.memory), SL_COPY_WINDOW,
                op->spans[1].data, from, record->payload_bytes);
        connection->acks_due++;
    }
    memcpy(op->spans[0].data, slot->capsule, record->capsule_bytes); /* header: capsule */
    op->capsule_bytes = record->capsule_bytes;
    op->payload_bytes = record->payload_bytes;
    sl_list_remove(&op->node);
    op_complete(connection, op, 0);
    return 0;
}

/* The peer has taken the payload of our `count` oldest SENDs that had any. */
static int acks_received(struct shm_connection *connection, uint32_t count)
{
    struct sl_list *node;
    while ((node = sl_list_first(&connection->sent)) != NULL) {
        struct sl_link_op *op = op_of(node);
        enum send_state state = send_state_of(op);
        if (state != SEND_TAKEN) {
            if (count == 0)
                return 0;
            count--;
            if (state == SEND_PAYLOAD_DATA_AREA)
                connection->data_used--;
        }
        sl_list_remove(node);
        op_complete(connection, op, 0);
    }
    return count == 0 ? 0 : -SL_E_PROTOCOL;
}

/* The record is copied out before it is looked at: the peer may change it under our eyes. */
static int slot_take(struct shm_connection *connection)
{
    const struct shm_slot *slot = sl_ring_peek(&connection->channel.consumer);
    struct shm_record record;
    memcpy(&record, &slot->record, sizeof(record)); /* header: record */
    __asm__ volatile("" ::: "memory"); /* no second read of the slot may stand in for the copy */
    if ((int32_t)(record.announced - connection->announced_seen) > 0) {
        connection->gated = true;
        return 0;
    }
    int error = -SL_E_PROTOCOL;
    if (record.type == SHM_SLOT_SEND)
        error = send_received(connection, slot, &record);
    else if (record.type == SHM_SLOT_ACK)
        error = acks_received(connection, record.payload_bytes);
    if (error == 0)
        sl_ring_take(&connection->channel.consumer);
    return error;
}

static unsigned slots_take(struct shm_connection *connection)
{
    unsigned count = 0;
    connection->gated = false;
    while (count < SLOTS_A_TURN) {
        int available = sl_ring_available(&connection->channel.consumer);
        int error = available > 0 ? slot_take(connection) : available;
        if (error < 0) {
            sl_log_warn("shm", "connection %s: bad message in the ring: %s; closing it",
                        connection->path, sl_error_name(error));
            shm_connection_fail(connection, error);
            break;
        }
        if (available == 0 || connection->gated)
            break;
        count++;
    }
    return count;
}

/* ---- the poller ---- */

static unsigned data_poll(struct sl_poller *poller)
{
    struct shm_connection *connection = sl_container_of(poller, struct shm_connection, poller);
    unsigned work = 0;
    if (connection->state == SHM_UP)
        work += slots_take(connection);
    if (connection->state == SHM_UP) {
        acks_send(connection);
        work += posted_begin(connection);
        bool ring = sl_ring_publish(&connection->channel.producer);
        ring |= sl_ring_release(&connection->channel.consumer);
        if (ring)
            sl_eventfd_ring(connection->channel.bell_out);
    }
    return work + shm_data_deliver(connection);
}

static void data_disarm(struct sl_poller *poller)
{
    struct shm_connection *connection = sl_container_of(poller, struct shm_connection, poller);
    if (connection->state != SHM_UP)
        return;
    sl_ring_consumer_disarm(&connection->channel.consumer);
    sl_ring_producer_disarm(&connection->channel.producer);
}

static bool data_arm(struct sl_poller *poller)
{
    struct shm_connection *connection = sl_container_of(poller, struct shm_connection, poller);
    if (!sl_list_is_empty(&connection->completed))
        return false;
    if (connection->state != SHM_UP)
        return true;
    bool waits_for_room = connection->blocked == SHM_BLOCKED_ROOM || connection->acks_due > 0;
    if (!sl_list_is_empty(&connection->posted) && connection->blocked == SHM_NOT_BLOCKED)
        return false;
    if (waits_for_room && !sl_ring_producer_arm(&connection->channel.producer, 1))
        return false;
    /* Gated: the announcement that is missing comes through the socket, which wakes the reactor. */
    if (!connection->gated && !sl_ring_consumer_arm(&connection->channel.consumer)) {
        sl_ring_producer_disarm(&connection->channel.producer);
        return false;
    }
    return true;
}

void shm_data_init(struct shm_connection *connection)
{
    sl_list_init(&connection->posted);
    sl_list_init(&connection->sent);
    sl_list_init(&connection->receives);
    sl_list_init(&connection->completed);
    connection->poller = (struct sl_poller){
        .poll = data_poll,
        .arm = data_arm,
        .disarm = data_disarm,
    };
}
