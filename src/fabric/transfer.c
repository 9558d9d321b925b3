/*
 * One-sided operations: spans and remote pieces are cut so that each READ or WRITE has one remote
 * piece (verbs) and no more local ones, and no more bytes, than the link takes. Owned by the
 * fabric's reactor.
 */
#include <errno.h>

#include "core/error.h"
#include "fabric/private.h"

/* Walks spans and pieces side by side. */
struct cutter {
    const struct sl_span *spans;
    unsigned span_count;
    uint32_t span_done_bytes;
    const struct sl_remote_piece *pieces;
    unsigned piece_count;
    uint32_t piece_done_bytes;
};

static bool same_length(const struct sl_span *spans, unsigned span_count,
                        const struct sl_remote_piece *pieces, unsigned piece_count)
{
    uint64_t local = 0, remote = 0;
    for (unsigned i = 0; i < span_count; i++)
        local += spans[i].length_bytes;
    for (unsigned i = 0; i < piece_count; i++)
        remote += pieces[i].length_bytes;
    return local == remote && local > 0 && local <= SL_TRANSFER_BYTES_MAX;
}

/* False: nothing is left. */
static bool has_more(struct cutter *cutter)
{
    while (cutter->piece_count > 0 && cutter->pieces->length_bytes == cutter->piece_done_bytes) {
        cutter->pieces++;
        cutter->piece_count--;
        cutter->piece_done_bytes = 0;
    }
    return cutter->piece_count > 0;
}

/* Fills op with as much as fits. There must be more. */
static void cut(struct cutter *cutter, const struct sl_link_limits *limits, struct sl_link_op *op)
{
    uint32_t left =
        sl_min(cutter->pieces->length_bytes - cutter->piece_done_bytes, limits->transfer_bytes_max);
    op->remote = *cutter->pieces;
    op->remote.address += cutter->piece_done_bytes;
    op->remote.length_bytes = 0;
    op->span_count = 0;
    while (left > 0 && op->span_count < limits->local_spans_max) {
        const struct sl_span *span = cutter->spans;
        uint32_t step = sl_min(left, span->length_bytes - cutter->span_done_bytes);
        if (step > 0)
            op->spans[op->span_count++] =
                (struct sl_span){span->data + cutter->span_done_bytes, step, span->region};
        cutter->span_done_bytes += step;
        op->remote.length_bytes += step;
        left -= step;
        if (cutter->span_done_bytes == span->length_bytes) {
            cutter->spans++;
            cutter->span_done_bytes = 0;
        }
    }
    cutter->piece_done_bytes += op->remote.length_bytes;
}

/* Posts all of it; `pending` is raised by each operation. */
static int post_transfer(struct sl_connection *connection, enum sl_link_opcode opcode,
                         const struct sl_span *spans, unsigned span_count,
                         const struct sl_remote_piece *pieces, unsigned piece_count,
                         struct pending *pending)
{
    struct sl_fabric_statistics *statistics = &connection->fabric->statistics;
    struct cutter cutter = {spans, span_count, 0, pieces, piece_count, 0};
    if (connection->state != CONNECTION_OPEN)
        return -ECONNRESET;
    if (!same_length(spans, span_count, pieces, piece_count))
        return -EINVAL;
    while (has_more(&cutter)) {
        struct tx *tx = sl_tx_get(connection);
        if (tx == NULL) {
            /* What was posted already goes on; without the rest the connection is of no use. */
            sl_connection_fail(connection, -ENOMEM, "no memory for a transfer");
            return -ENOMEM;
        }
        cut(&cutter, connection->fabric->limits, &tx->op);
        tx->op.opcode = opcode;
        tx->pending = pending;
        pending->count++;
        if (opcode == SL_LINK_READ) {
            statistics->read_count++;
            statistics->read_bytes += tx->op.remote.length_bytes;
        } else {
            statistics->write_count++;
            statistics->write_bytes += tx->op.remote.length_bytes;
        }
        sl_tx_post(tx);
    }
    return 0;
}

/* `pending` holds one count of its own, so that it cannot end while operations are still being
 * posted. */
static int finish_transfer_co(struct sl_connection *connection, struct pending *pending, int error)
{
    sl_pending_done(pending, error);
    int result = (int)sl_wait_co(&pending->wait);
    sl_connection_unref(connection);
    return result;
}

int sl_connection_read_co(struct sl_connection *connection, const struct sl_span *spans,
                          unsigned span_count, const struct sl_remote_piece *pieces,
                          unsigned piece_count)
{
    struct pending pending;
    sl_connection_ref(connection);
    sl_pending_init(&pending, 1);
    int error =
        post_transfer(connection, SL_LINK_READ, spans, span_count, pieces, piece_count, &pending);
    return finish_transfer_co(connection, &pending, error);
}

int sl_connection_write_co(struct sl_connection *connection, const struct sl_span *spans,
                           unsigned span_count, const struct sl_remote_piece *pieces,
                           unsigned piece_count)
{
    struct pending pending;
    sl_connection_ref(connection);
    sl_pending_init(&pending, 1);
    int error =
        post_transfer(connection, SL_LINK_WRITE, spans, span_count, pieces, piece_count, &pending);
    return finish_transfer_co(connection, &pending, error);
}

int sl_connection_write_reply_co(struct sl_received *received, const struct sl_span *spans,
                                 unsigned span_count, const struct sl_remote_piece *pieces,
                                 unsigned piece_count, union sl_capsule *reply)
{
    struct sl_connection *connection = received->connection;
    struct pending pending;
    sl_connection_ref(connection);
    sl_pending_init(&pending, 1);
    int error =
        post_transfer(connection, SL_LINK_WRITE, spans, span_count, pieces, piece_count, &pending);
    if (error == 0)
        sl_connection_reply(received, reply);
    return finish_transfer_co(connection, &pending, error);
}

static int atomic_co(struct sl_connection *connection, enum sl_link_opcode opcode,
                     const struct sl_remote_piece *piece, uint64_t compare, uint64_t operand,
                     uint64_t *before)
{
    if (!connection->fabric->limits->atomics)
        return -EOPNOTSUPP;
    if (piece->length_bytes != sizeof(uint64_t) || piece->address % sizeof(uint64_t) != 0)
        return -EINVAL;
    if (connection->state != CONNECTION_OPEN)
        return -ECONNRESET;
    struct tx *tx = sl_tx_get(connection);
    if (tx == NULL)
        return -ENOMEM;
    struct pending pending;
    sl_connection_ref(connection);
    sl_pending_init(&pending, 2);
    tx->op.opcode = opcode;
    tx->op.span_count = 1;
    tx->op.spans[0] = (struct sl_span){tx->capsule->bytes, sizeof(uint64_t), tx->capsule_region};
    tx->op.remote = *piece;
    tx->op.compare = compare;
    tx->op.operand = operand;
    tx->pending = &pending;
    sl_tx_post(tx);
    int error = finish_transfer_co(connection, &pending, 0);
    *before = pending.value;
    return error;
}

int sl_connection_fetch_add_co(struct sl_connection *connection,
                               const struct sl_remote_piece *piece, uint64_t operand,
                               uint64_t *before)
{
    return atomic_co(connection, SL_LINK_FETCH_ADD, piece, 0, operand, before);
}

int sl_connection_compare_swap_co(struct sl_connection *connection,
                                  const struct sl_remote_piece *piece, uint64_t compare,
                                  uint64_t operand, uint64_t *before)
{
    return atomic_co(connection, SL_LINK_COMPARE_SWAP, piece, compare, operand, before);
}
