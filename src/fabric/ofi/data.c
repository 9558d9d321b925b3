/*
 * The ofi link's data path: operations go to the provider as soon as it has room, and come back by
 * their slots.
 *
 *  - A SEND with payload sends its capsule padded to SL_CAPSULE_BYTES_MAX, so that payload lands in
 *    the receive's second piece, page-aligned. (Immediate data could carry the true length, but
 *    iWARP has none.)
 *  - One remote piece an operation: all that verbs takes. The fabric cuts transfers so.
 *  - A full queue answers -FI_EAGAIN: the operation stays on `posted` and is tried again each turn,
 *    as order demands before anything behind it.
 *  - A key wider than the provider's (verbs: 32 bits) cannot be one of the peer's. The provider
 * would cut it, and the rest may be somebody's: refused here, as the peer would.
 *  - Any other error, of a post or of a completion, means that the connection is dead.
 * Owner: the domain's reactor.
 */
#include <rdma/fi_atomic.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/ofi/internal.h"

struct pieces {
    struct iovec iov[SL_LINK_SPANS_MAX];
    void *desc[SL_LINK_SPANS_MAX];
};

static bool is_atomic(const struct sl_link_op *op)
{
    return op->opcode == SL_LINK_FETCH_ADD || op->opcode == SL_LINK_COMPARE_SWAP;
}

static struct sl_link_op *op_of(struct sl_list *node)
{
    return sl_list_entry(node, struct sl_link_op, node);
}

/* Always with fi_mr_desc(): a provider without local keys ignores it. False: memory that this
 * domain has not registered. */
static bool gather(const struct ofi_domain *domain, const struct sl_link_op *op,
                   struct pieces *pieces)
{
    for (unsigned i = 0; i < op->span_count; i++) {
        const struct sl_span *span = &op->spans[i];
        const struct ofi_key *key =
            span->region != NULL ? span->region->client_data[domain->client.index] : NULL;
        if (key == NULL && (domain->info->domain_attr->mr_mode & FI_MR_LOCAL) != 0)
            return false;
        pieces->iov[i] = (struct iovec){span->data, span->length_bytes};
        pieces->desc[i] = key != NULL ? key->desc : NULL;
    }
    return true;
}

static ssize_t issue_rma(struct ofi_connection *connection, struct ofi_slot *slot,
                         const struct pieces *pieces)
{
    const struct sl_link_op *op = slot->op;
    struct fi_rma_iov remote = {op->remote.address, op->remote.length_bytes, op->remote.key};
    struct fi_msg_rma message = {
        .msg_iov = pieces->iov,
        .desc = (void **)pieces->desc,
        .iov_count = op->span_count,
        .rma_iov = &remote,
        .rma_iov_count = 1,
        .context = &slot->context,
    };
    if (op->opcode == SL_LINK_READ)
        return fi_readmsg(connection->ep, &message, FI_COMPLETION);
    return fi_writemsg(connection->ep, &message, FI_COMPLETION);
}

static ssize_t issue_atomic(struct ofi_connection *connection, struct ofi_slot *slot,
                            const struct pieces *pieces)
{
    const struct sl_link_op *op = slot->op;
    slot->operand = op->operand;
    slot->compare = op->compare;
    if (op->opcode == SL_LINK_FETCH_ADD)
        return fi_fetch_atomic(connection->ep, &slot->operand, 1, NULL, pieces->iov[0].iov_base,
                               pieces->desc[0], 0, op->remote.address, op->remote.key, FI_UINT64,
                               FI_SUM, &slot->context);
    return fi_compare_atomic(connection->ep, &slot->operand, 1, NULL, &slot->compare, NULL,
                             pieces->iov[0].iov_base, pieces->desc[0], 0, op->remote.address,
                             op->remote.key, FI_UINT64, FI_CSWAP, &slot->context);
}

static ssize_t issue_message(struct ofi_connection *connection, struct ofi_slot *slot,
                             struct pieces *pieces)
{
    const struct sl_link_op *op = slot->op;
    struct fi_msg message = {
        .msg_iov = pieces->iov,
        .desc = pieces->desc,
        .iov_count = op->span_count,
        .context = &slot->context,
    };
    if (op->opcode == SL_LINK_RECEIVE)
        return fi_recvmsg(connection->ep, &message, FI_COMPLETION);
    if (op->span_count > 1) {
        uint32_t capsule_bytes = op->spans[0].length_bytes;
        memset(op->spans[0].data + capsule_bytes, 0, SL_CAPSULE_BYTES_MAX - capsule_bytes);
        pieces->iov[0].iov_len = SL_CAPSULE_BYTES_MAX;
    }
    return fi_sendmsg(connection->ep, &message, FI_COMPLETION);
}

static bool key_is_possible(const struct ofi_domain *domain, const struct sl_link_op *op)
{
    size_t key_bytes = domain->info->domain_attr->mr_key_size;
    if (op->opcode == SL_LINK_SEND || op->opcode == SL_LINK_RECEIVE)
        return true;
    return key_bytes >= sizeof(op->remote.key) || op->remote.key >> (key_bytes * 8) == 0;
}

/* 0: the provider has it. -EAGAIN: no room. Else the connection is of no use. */
static int issue(struct ofi_connection *connection, struct sl_link_op *op)
{
    struct ofi_domain *domain = connection->domain;
    struct pieces pieces;
    ssize_t result;
    if (!key_is_possible(domain, op)) {
        op->status = -SL_E_KEY;
        return -SL_E_KEY;
    }
    if (!gather(domain, op, &pieces)) {
        sl_log_error("ofi", "%s: an operation names memory that %s has not registered",
                     connection->peer, domain->info->domain_attr->name);
        return -SL_E_KEY;
    }
    struct ofi_slot *slot = ofi_slot_get(domain);
    if (slot == NULL)
        return -ENOMEM;
    slot->op = op;
    slot->connection = connection;
    slot->has_failed = false;
    if (op->opcode == SL_LINK_SEND || op->opcode == SL_LINK_RECEIVE)
        result = issue_message(connection, slot, &pieces);
    else
        result = is_atomic(op) ? issue_atomic(connection, slot, &pieces)
                               : issue_rma(connection, slot, &pieces);
    if (result != 0) {
        ofi_slot_put(domain, slot);
        return result == -FI_EAGAIN ? -EAGAIN : ofi_error((long)result);
    }
    sl_list_remove(&op->node);
    if (op->opcode == SL_LINK_RECEIVE) {
        sl_list_append(&connection->listening, &slot->node);
        connection->listening_count++;
    } else {
        sl_list_append(&connection->busy, &slot->node);
        connection->busy_count++;
    }
    return 0;
}

static void unblock(struct ofi_connection *connection)
{
    if (connection->is_blocked)
        sl_list_remove(&connection->blocked);
    connection->is_blocked = false;
}

void ofi_issue(struct ofi_connection *connection)
{
    struct ofi_domain *domain = connection->domain;
    struct sl_list *node;
    int error = 0;
    /* Receives may be posted before the endpoint is connected, and had better be. */
    while (error == 0 && connection->state < OFI_CLOSING && connection->ep != NULL &&
           connection->listening_count < domain->receive_queue &&
           (node = sl_list_first(&connection->receives)) != NULL)
        error = issue(connection, op_of(node));
    bool full = error == -EAGAIN;
    if (full)
        error = 0;
    while (error == 0 && connection->state == OFI_UP &&
           connection->busy_count < domain->limits.queue_depth &&
           (node = sl_list_first(&connection->posted)) != NULL)
        error = issue(connection, op_of(node));
    full |= error == -EAGAIN;
    if (full && !connection->is_blocked) {
        connection->is_blocked = true;
        sl_list_append(&domain->blocked, &connection->blocked);
    } else if (!full) {
        unblock(connection);
    }
    if (error < 0 && error != -EAGAIN)
        ofi_die(connection, error);
}

void ofi_post(struct sl_link_connection *link_connection, struct sl_link_op *op)
{
    struct ofi_connection *connection = ofi_connection_of(link_connection);
    SL_ASSERT(connection->state != OFI_CLOSED);
    SL_ASSERT(op->span_count >= 1 && op->span_count <= connection->domain->limits.local_spans_max);
    SL_ASSERT(!is_atomic(op) || connection->domain->limits.atomics);
    op->status = 0;
    op->capsule_bytes = 0;
    op->payload_bytes = 0;
    bool is_receive = op->opcode == SL_LINK_RECEIVE;
    sl_list_append(is_receive ? &connection->receives : &connection->posted, &op->node);
    if (!connection->is_blocked)
        ofi_issue(connection);
}

static void deliver(struct ofi_connection *connection, struct sl_link_op *op)
{
    /* A card may complete a receive before the event of the connection was read. */
    if (connection->state < OFI_UP)
        sl_list_append(&connection->early, &op->node);
    else
        op->done(op);
}

/* A failed operation waits for the flush: providers report those that they flush queue by queue,
 * not in the order of the posts. */
static void fail(struct ofi_slot *slot, int status)
{
    struct ofi_connection *connection = slot->connection;
    /* Refused by the peer is only what asks for its memory. */
    bool is_refused = status == -SL_E_KEY && slot->op->opcode != SL_LINK_RECEIVE;
    slot->has_failed = true;
    slot->status = is_refused ? status : -ECONNRESET;
    /* The one that broke it may be reported after some that were flushed for it. */
    if (is_refused && connection->state == OFI_CLOSING && connection->reason == -ECONNRESET)
        connection->reason = status;
    ofi_die(connection, status);
}

void ofi_complete(struct ofi_slot *slot, int status, uint64_t length_bytes)
{
    struct ofi_connection *connection = slot->connection;
    struct sl_link_op *op = slot->op;
    if (op == NULL) {
        ofi_slot_put(slot->domain, slot); /* it was flushed by force */
        return;
    }
    if (op->opcode == SL_LINK_RECEIVE)
        connection->listening_count--;
    else
        connection->busy_count--;
    if (status < 0) {
        fail(slot, status);
        return;
    }
    sl_list_remove(&slot->node);
    ofi_slot_put(connection->domain, slot);
    if (op->opcode == SL_LINK_RECEIVE) {
        op->capsule_bytes = (uint32_t)sl_min(length_bytes, (uint64_t)SL_CAPSULE_BYTES_MAX);
        op->payload_bytes = (uint32_t)(length_bytes - op->capsule_bytes);
    }
    deliver(connection, op);
    if (connection->state <= OFI_UP && !connection->is_blocked &&
        (!sl_list_is_empty(&connection->posted) || !sl_list_is_empty(&connection->receives)))
        ofi_issue(connection);
}

static void flush_slots(struct ofi_connection *connection, struct sl_list *slots)
{
    struct sl_list *node;
    while ((node = sl_list_pop(slots)) != NULL) {
        struct ofi_slot *slot = sl_list_entry(node, struct ofi_slot, node);
        struct sl_link_op *op = slot->op;
        op->status = slot->has_failed ? slot->status : -ECONNRESET;
        /* Without its completion it is not free: that may still come. Its memory goes with the
         * domain. */
        slot->op = NULL;
        slot->connection = NULL;
        if (slot->has_failed)
            ofi_slot_put(connection->domain, slot);
        op->done(op);
    }
}

static bool flush_ops(struct sl_list *ops, int status)
{
    struct sl_list *node;
    bool any = false;
    while ((node = sl_list_pop(ops)) != NULL) {
        struct sl_link_op *op = op_of(node);
        if (status < 0 && op->status == 0)
            op->status = status;
        op->done(op);
        any = true;
    }
    return any;
}

void ofi_flush(struct ofi_connection *connection)
{
    unblock(connection);
    (void)flush_ops(&connection->early, 0);
    flush_slots(connection, &connection->busy);
    flush_slots(connection, &connection->listening);
    connection->busy_count = 0;
    connection->listening_count = 0;
    /* done() may post more. */
    while (flush_ops(&connection->posted, -ECONNRESET) ||
           flush_ops(&connection->receives, -ECONNRESET))
        continue;
}
