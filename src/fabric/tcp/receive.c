/*
 * The receiving half of a tcp connection.
 *
 *   head (256 bytes) ─► rest of the op area ─► check, resolve ─► payload into its places + next
 * head ─► deliver
 *
 * Each payload is received straight into its final place: a posted receive, a registered region,
 * the spans of a READ. The first bytes of the next frame come with it as the last piece, so a busy
 * connection makes about two receive calls for a frame of up to 64 operations.
 *
 * Everything received is untrusted: what breaks a rule ends the connection, with its reason in the
 * log. Nothing of a frame takes effect before its checks; nothing is delivered before its payload
 * has landed. Owner: the domain's reactor.
 */
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/tcp/internal.h"

/* Answers > 0, or < 0: the stream ended or the connection died while we waited. */
static int64_t receive_some_co(struct sl_link_connection *connection, unsigned piece_count)
{
    int64_t received = sl_stream_receive_co(connection->stream, connection->rx_pieces, piece_count);
    if (connection->state != SL_TCP_OPEN)
        return -ECONNRESET;
    return received == 0 ? -ECONNRESET : received;
}

static unsigned add_next_head(struct sl_link_connection *connection, unsigned piece_count)
{
    connection->rx_pieces[piece_count] =
        (struct iovec){connection->next_head + connection->next_have_bytes,
                       SL_TCP_HEAD_BYTES - connection->next_have_bytes};
    return piece_count + 1;
}

static int receive_head_co(struct sl_link_connection *connection)
{
    while (connection->next_have_bytes < SL_TCP_HEAD_BYTES) {
        int64_t received = receive_some_co(connection, add_next_head(connection, 0));
        if (received < 0)
            return (int)received;
        connection->next_have_bytes += (uint32_t)received;
    }
    memcpy(connection->rx_frame, connection->next_head,
           SL_TCP_HEAD_BYTES); /* header: frame header */
    connection->next_have_bytes = 0;
    return 0;
}

/* The rest of the op area; without payload, the next head comes with it. */
static int receive_area_co(struct sl_link_connection *connection)
{
    uint32_t have_bytes = SL_TCP_HEAD_BYTES;
    uint32_t end_bytes = SL_TCP_HEADER_BYTES + connection->header.area_bytes;
    while (have_bytes < end_bytes) {
        connection->rx_pieces[0] =
            (struct iovec){connection->rx_frame + have_bytes, end_bytes - have_bytes};
        unsigned piece_count = 1;
        if (connection->header.payload_bytes == 0)
            piece_count = add_next_head(connection, piece_count);
        int64_t received = receive_some_co(connection, piece_count);
        if (received < 0)
            return (int)received;
        uint32_t area_bytes = (uint32_t)sl_min(received, (int64_t)(end_bytes - have_bytes));
        have_bytes += area_bytes;
        connection->next_have_bytes += (uint32_t)received - area_bytes;
    }
    return 0;
}

static int refuse(struct sl_link_connection *connection, int error, uint64_t read_id,
                  const char *why)
{
    sl_tcp_refuse(connection, error, read_id, why);
    return error;
}

/* A SEND takes the oldest posted receive. */
static int resolve_send(struct sl_link_connection *connection, const struct sl_tcp_record *record,
                        struct sl_tcp_place *place)
{
    struct sl_list *node = sl_list_first(&connection->receives);
    if (node == NULL)
        return refuse(connection, -SL_E_PROTOCOL, SL_TCP_NO_READ, "a SEND without posted receive");
    struct sl_link_op *op = sl_list_entry(node, struct sl_link_op, node);
    if (record->capsule_bytes > op->spans[0].length_bytes ||
        record->length_bytes > sl_tcp_op_bytes(op, 1))
        return refuse(connection, -SL_E_PROTOCOL, SL_TCP_NO_READ,
                      "a SEND that is longer than its receive");
    sl_list_remove(node);
    sl_list_append(&connection->landing, node);
    memcpy(op->spans[0].data, record->capsule, record->capsule_bytes); /* header: capsule */
    op->capsule_bytes = record->capsule_bytes;
    op->payload_bytes = record->length_bytes;
    place->op = op;
    place->spans = &op->spans[1];
    return 0;
}

/* A WRITE, or a request to READ. */
static int resolve_remote(struct sl_link_connection *connection, const struct sl_tcp_record *record,
                          struct sl_tcp_place *place)
{
    bool is_read = record->type == SL_TCP_READ_REQUEST;
    if (is_read) {
        if (record->id != connection->rx_read_id_next)
            return refuse(connection, -SL_E_PROTOCOL, SL_TCP_NO_READ, "a READ out of sequence");
        /* What is served and what this frame brought count: the tail moves only when it is
         * delivered. */
        if (record->id - connection->served_head >= SL_TCP_SERVED_MAX)
            return refuse(connection, -SL_E_PROTOCOL, SL_TCP_NO_READ,
                          "more than 256 READs unanswered");
        connection->rx_read_id_next++;
    }
    struct sl_region *region =
        sl_tcp_key_find(connection->domain, record->key, record->address, record->length_bytes,
                        is_read ? SL_ACCESS_REMOTE_READ : SL_ACCESS_REMOTE_WRITE);
    if (region == NULL)
        return refuse(connection, -SL_E_KEY, is_read ? record->id : SL_TCP_NO_READ,
                      is_read ? "a READ of memory that the peer may not read"
                              : "a WRITE to memory that the peer may not write");
    sl_region_ref(region);
    place->region = region;
    place->own = (struct sl_span){region->base + record->address, record->length_bytes, region};
    place->spans = &place->own;
    return 0;
}

static int resolve_response(struct sl_link_connection *connection,
                            const struct sl_tcp_record *record, struct sl_tcp_place *place)
{
    struct sl_list *node = sl_list_first(&connection->reads);
    if (node == NULL || record->id != connection->read_id_answered)
        return refuse(connection, -SL_E_PROTOCOL, SL_TCP_NO_READ,
                      "a response to a READ that was not asked for");
    struct sl_link_op *op = sl_list_entry(node, struct sl_link_op, node);
    if (record->length_bytes != sl_tcp_op_bytes(op, 0))
        return refuse(connection, -SL_E_PROTOCOL, SL_TCP_NO_READ,
                      "a response of another length than its READ");
    sl_list_remove(node);
    sl_list_append(&connection->landing, node);
    connection->read_id_answered++;
    place->op = op;
    place->spans = op->spans;
    return 0;
}

static int resolve_close(struct sl_link_connection *connection, const struct sl_tcp_record *record)
{
    int error = sl_tcp_reason_to_error(record->reason);
    sl_log_warn("tcp", "%s: the peer closed the connection for what we did: %s", connection->peer,
                sl_error_name(error));
    connection->refused_read_id = record->id;
    sl_tcp_die(connection, error);
    return error;
}

static int resolve_frame(struct sl_link_connection *connection)
{
    for (unsigned i = 0; i < connection->header.record_count; i++) {
        const struct sl_tcp_record *record = &connection->records[i];
        struct sl_tcp_place *place = &connection->places[i];
        *place = (struct sl_tcp_place){0};
        connection->record_count = i + 1;
        int error = 0;
        switch (record->type) {
        case SL_TCP_SEND:
            error = resolve_send(connection, record, place);
            break;
        case SL_TCP_WRITE:
        case SL_TCP_READ_REQUEST:
            error = resolve_remote(connection, record, place);
            break;
        case SL_TCP_READ_RESPONSE:
            error = resolve_response(connection, record, place);
            break;
        case SL_TCP_CLOSE:
            error = resolve_close(connection, record);
            break;
        }
        if (error != 0)
            return error;
    }
    connection->land_record = 0;
    connection->land_offset_bytes = 0;
    return 0;
}

/* Payload of a record that is still to come in this frame. */
static uint32_t landing_bytes(const struct sl_tcp_record *record)
{
    return record->type == SL_TCP_READ_REQUEST ? 0 : record->length_bytes;
}

/* Pieces from the landing point on; leaves one free for the next head. `bytes` gets what they
 * cover. */
static unsigned fill_pieces(struct sl_link_connection *connection, uint32_t *bytes)
{
    unsigned count = 0;
    uint32_t offset = connection->land_offset_bytes;
    *bytes = 0;
    for (unsigned i = connection->land_record; i < connection->record_count; i++, offset = 0) {
        uint32_t left = landing_bytes(&connection->records[i]) - offset;
        const struct sl_span *span = connection->places[i].spans;
        for (; left > 0; span++) {
            if (offset >= span->length_bytes) {
                offset -= span->length_bytes;
                continue;
            }
            if (count == SL_STREAM_PIECES_MAX - 1)
                return count;
            uint32_t length = sl_min(left, span->length_bytes - offset);
            connection->rx_pieces[count++] = (struct iovec){span->data + offset, length};
            *bytes += length;
            left -= length;
            offset = 0;
        }
    }
    return count;
}

static void advance(struct sl_link_connection *connection, uint32_t bytes)
{
    while (bytes > 0) {
        uint32_t left = landing_bytes(&connection->records[connection->land_record]) -
                        connection->land_offset_bytes;
        uint32_t step = sl_min(left, bytes);
        connection->land_offset_bytes += step;
        bytes -= step;
        if (step == left) {
            connection->land_record++;
            connection->land_offset_bytes = 0;
        }
    }
}

static int receive_payload_co(struct sl_link_connection *connection)
{
    uint32_t left_bytes = connection->header.payload_bytes;
    while (left_bytes > 0) {
        uint32_t covered_bytes;
        unsigned count = fill_pieces(connection, &covered_bytes);
        if (covered_bytes == left_bytes)
            count = add_next_head(connection, count);
        int64_t received = receive_some_co(connection, count);
        if (received < 0)
            return (int)received;
        uint32_t landed_bytes = (uint32_t)sl_min(received, (int64_t)covered_bytes);
        advance(connection, landed_bytes);
        left_bytes -= landed_bytes;
        connection->next_have_bytes += (uint32_t)received - landed_bytes;
    }
    return 0;
}

static void complete(struct sl_link_op *op)
{
    sl_list_remove(&op->node);
    op->status = 0;
    op->done(op);
}

/* The frame is here whole. done() may disconnect: then the rest is flushed with the other
 * operations. */
static void deliver(struct sl_link_connection *connection)
{
    for (unsigned i = 0; i < connection->record_count && connection->state == SL_TCP_OPEN; i++) {
        struct sl_tcp_place *place = &connection->places[i];
        switch (connection->records[i].type) {
        case SL_TCP_WRITE:
            sl_region_unref(place->region);
            place->region = NULL;
            break;
        case SL_TCP_READ_REQUEST:
            connection->served[connection->served_tail++ % SL_TCP_SERVED_RING] =
                (struct sl_tcp_served){connection->records[i].id, place->own.data, place->region,
                                       place->own.length_bytes};
            place->region = NULL;
            sl_tcp_transmit_wake(connection);
            break;
        case SL_TCP_READ_RESPONSE:
            sl_tcp_transmit_wake(connection); /* a READ may have waited for its turn */
            complete(place->op);
            break;
        default:
            complete(place->op);
            break;
        }
    }
}

/* One frame, from its head to its delivery. */
static int receive_frame_co(struct sl_link_connection *connection)
{
    const char *why = NULL;
    connection->record_count = 0;
    int error = receive_head_co(connection);
    if (error != 0)
        return error;
    error = sl_tcp_header_parse(connection->rx_frame, connection->rx_sequence++,
                                &connection->header, &why);
    if (error != 0)
        return refuse(connection, error, SL_TCP_NO_READ, why);
    error = receive_area_co(connection);
    if (error != 0)
        return error;
    error =
        sl_tcp_frame_parse(connection->rx_frame, &connection->header, connection->records, &why);
    if (error != 0)
        return refuse(connection, error, SL_TCP_NO_READ, why);
    error = resolve_frame(connection);
    if (error == 0)
        error = receive_payload_co(connection);
    if (error == 0)
        deliver(connection);
    for (unsigned i = 0; i < connection->record_count; i++)
        if (connection->places[i].region != NULL)
            sl_region_unref(connection->places[i].region);
    return error;
}

int sl_tcp_receive_co(struct sl_link_connection *connection)
{
    int error = 0;
    while (error == 0 && connection->state == SL_TCP_OPEN)
        error = receive_frame_co(connection);
    return error != 0 ? error : -ECONNRESET;
}
