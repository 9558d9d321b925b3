/*
 * The sending half of a tcp connection: everything that is ready leaves in one frame, by one
 * gathered send whose payload pieces are the pages themselves.
 *
 * Two sources: what the owner posted, and answers to READs of the peer, served straight from
 * registered memory without waking any layer above. They take turns to be first, so that neither
 * starves the other. It gathers a turn after the first post: all that is posted meanwhile leaves
 * together. Owner: the domain's reactor.
 */
#include "core/error.h"
#include "core/log.h"
#include "fabric/tcp/internal.h"

void sl_tcp_transmit_wake(struct sl_link_connection *connection)
{
    if (!connection->tx_waiting)
        return;
    connection->tx_waiting = false;
    sl_wait_wake(&connection->tx_wait, 0);
}

/* A READ beyond the limit waits for responses, and what is posted behind it waits too. */
static bool reads_are_full(const struct sl_link_connection *connection)
{
    return connection->read_id_next - connection->read_id_answered >= SL_TCP_READS_MAX;
}

static bool has_work(struct sl_link_connection *connection)
{
    if (connection->served_head != connection->served_tail)
        return true;
    struct sl_list *first = sl_list_first(&connection->posted);
    if (first == NULL)
        return false;
    return sl_list_entry(first, struct sl_link_op, node)->opcode != SL_LINK_READ ||
           !reads_are_full(connection);
}

static void add_piece(struct sl_link_connection *connection, const void *data,
                      uint32_t length_bytes)
{
    if (length_bytes == 0)
        return;
    connection->tx_pieces[connection->tx_piece_count++] =
        (struct iovec){(void *)(uintptr_t)data, length_bytes};
}

/* Answers to READs. Their regions stay referenced until the send is over; answers up to where. */
static uint64_t gather_responses(struct sl_link_connection *connection,
                                 struct sl_tcp_builder *builder, uint64_t from)
{
    for (; from != connection->served_tail; from++) {
        const struct sl_tcp_served *served = &connection->served[from % SL_TCP_SERVED_RING];
        if (!sl_tcp_builder_has_room(builder, served->length_bytes) ||
            connection->tx_piece_count >= SL_STREAM_PIECES_MAX)
            break;
        sl_tcp_builder_add_read_response(builder, served->id, served->length_bytes);
        add_piece(connection, served->data, served->length_bytes);
    }
    return from;
}

static void gather_posted(struct sl_link_connection *connection, struct sl_tcp_builder *builder)
{
    struct sl_list *first;
    while ((first = sl_list_first(&connection->posted)) != NULL) {
        struct sl_link_op *op = sl_list_entry(first, struct sl_link_op, node);
        unsigned payload_first = op->opcode == SL_LINK_SEND ? 1 : 0;
        uint32_t bytes = (uint32_t)sl_tcp_op_bytes(op, payload_first);
        bool is_read = op->opcode == SL_LINK_READ;
        if (!sl_tcp_builder_has_room(builder, is_read ? 0 : bytes) ||
            connection->tx_piece_count + op->span_count > SL_STREAM_PIECES_MAX ||
            (is_read && reads_are_full(connection)))
            break;
        sl_list_remove(first);
        if (is_read) {
            uint64_t id = connection->read_id_next++;
            op->link_data[0] = (void *)(uintptr_t)id;
            sl_tcp_builder_add_read_request(builder, op->remote.address, op->remote.key, bytes, id);
            sl_list_append(&connection->reads, first);
            continue;
        }
        if (op->opcode == SL_LINK_SEND)
            sl_tcp_builder_add_send(builder, op->spans[0].data, op->spans[0].length_bytes, bytes);
        else
            sl_tcp_builder_add_write(builder, op->remote.address, op->remote.key, bytes);
        for (unsigned i = payload_first; i < op->span_count; i++)
            add_piece(connection, op->spans[i].data, op->spans[i].length_bytes);
        sl_list_append(&connection->sending, first);
    }
}

static void complete_sent(struct sl_link_connection *connection, uint64_t served_to)
{
    for (; connection->served_head != served_to; connection->served_head++)
        sl_region_unref(connection->served[connection->served_head % SL_TCP_SERVED_RING].region);
    struct sl_list *node;
    while ((node = sl_list_pop(&connection->sending)) != NULL) {
        struct sl_link_op *op = sl_list_entry(node, struct sl_link_op, node);
        op->status = 0;
        op->done(op);
    }
}

/* One frame. 0 or negative errno. */
static int send_frame_co(struct sl_link_connection *connection)
{
    struct sl_tcp_builder builder;
    sl_tcp_builder_begin(&builder, connection->tx_frame);
    connection->tx_piece_count = 1;
    if (connection->tx_posted_first)
        gather_posted(connection, &builder);
    uint64_t served_to = gather_responses(connection, &builder, connection->served_head);
    if (!connection->tx_posted_first)
        gather_posted(connection, &builder);
    connection->tx_posted_first = !connection->tx_posted_first;
    if (builder.record_count == 0)
        return 0;
    uint32_t head_bytes = sl_tcp_builder_finish(&builder, connection->tx_sequence++);
    connection->tx_pieces[0] = (struct iovec){connection->tx_frame, head_bytes};
    int error =
        sl_stream_send_co(connection->stream, connection->tx_pieces, connection->tx_piece_count,
                          builder.payload_bytes >= SL_TCP_ZERO_COPY_BYTES);
    /* Whatever became of the connection meanwhile: all was taken by the kernel. */
    if (error == 0)
        complete_sent(connection, served_to);
    return error;
}

static void send_close_co(struct sl_link_connection *connection)
{
    struct sl_tcp_builder builder;
    sl_tcp_builder_begin(&builder, connection->tx_frame);
    sl_tcp_builder_add_close(&builder, sl_tcp_reason_from_error(connection->reason),
                             connection->close_read_id);
    uint32_t head_bytes = sl_tcp_builder_finish(&builder, connection->tx_sequence++);
    struct iovec piece = {connection->tx_frame, head_bytes};
    (void)sl_stream_send_co(connection->stream, &piece, 1, false);
}

void sl_tcp_transmit_co(struct sl_link_connection *connection)
{
    int error = 0;
    while (connection->state == SL_TCP_OPEN && error == 0) {
        if (!has_work(connection)) {
            sl_wait_init(&connection->tx_wait);
            connection->tx_waiting = true;
            sl_wait_co(&connection->tx_wait); /* ends in the turn after the first post */
        } else {
            sl_yield_co();
        }
        if (connection->state == SL_TCP_OPEN)
            error = send_frame_co(connection);
    }
    if (connection->state == SL_TCP_CLOSING && error == 0)
        send_close_co(connection);
    if (connection->state == SL_TCP_OPEN && (error == -EPIPE || error == -ECONNRESET))
        /* The peer may have told us why before it left: let the receiver read up to the end. */
        sl_tcp_linger(connection);
    else
        sl_tcp_die(connection, error != 0 ? error : -ECONNRESET);
}
