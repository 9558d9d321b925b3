/*
 * The layer of faults over a link: see inject.h.
 *
 *   post ─► decide ─► passes, nobody waits ───────────────► post below
 *                └─► waiting, in order ─► its time has come ─┘
 *                          │        └─► it fails: disconnect below
 *                          └─► closed() below: flushed behind what was flushed there
 *
 * An operation that waits lies in its connection's list, its time and fault in its link_data, so
 * nothing is allocated for it. Done() of what went below comes from below. Owner: the domain's
 * reactor.
 */
#include "fabric/inject.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/reactor.h"
#include "core/timer.h"

struct layer_domain {
    const struct sl_link_ops *link; /* below */
    struct sl_link_domain *lower;
    struct sl_inject *inject;
    struct sl_reactor *reactor;
};

struct layer_listener {
    const struct sl_link_ops *link;
    struct sl_link_listener *lower;
    void (*incoming)(void *owner, struct sl_link_incoming *request);
    void *owner;
};

struct layer_request {
    struct sl_link_incoming base;
    struct sl_link_incoming *lower;
};

struct layer_connection {
    struct layer_domain *domain;
    struct sl_link_connection *lower;
    const struct sl_link_handlers *handlers;
    void *owner;
    struct sl_list waiting; /* struct sl_link_op */
    uint64_t last_ns;       /* when the last of them may go */
    struct sl_timer timer;  /* for the first of them */
    bool has_failed;        /* the first of them ends the connection */
    bool is_closed;         /* below: nothing may be posted there any more */
};

#define NEVER_NS UINT64_MAX

/* The names of link.h stand for our objects above this layer. */
static struct layer_domain *domain_of(struct sl_link_domain *domain)
{
    return (struct layer_domain *)(void *)domain;
}

static struct layer_connection *connection_of(struct sl_link_connection *connection)
{
    return (struct layer_connection *)(void *)connection;
}

static struct sl_link_connection *connection_public(struct layer_connection *connection)
{
    return (struct sl_link_connection *)(void *)connection;
}

static uint64_t time_of(const struct sl_link_op *op)
{
    return (uint64_t)(uintptr_t)op->link_data[0];
}

static int error_of(const struct sl_link_op *op)
{
    return (int)(intptr_t)op->link_data[1];
}

/* ---- operations ---- */

/* A time that is past fires at the end of this turn: never from inside post(). */
static void arm_for_first(struct layer_connection *connection)
{
    const struct sl_list *node = sl_list_first(&connection->waiting);
    uint64_t first_ns = time_of(sl_container_of(node, const struct sl_link_op, node));
    if (first_ns != NEVER_NS)
        sl_timer_arm(connection->domain->reactor, &connection->timer, first_ns);
}

static void let_go(struct sl_timer *timer)
{
    struct layer_connection *connection = sl_container_of(timer, struct layer_connection, timer);
    const struct sl_link_ops *link = connection->domain->link;
    uint64_t now_ns = sl_reactor_now_ns(connection->domain->reactor);
    struct sl_list *node;
    while ((node = sl_list_first(&connection->waiting)) != NULL) {
        struct sl_link_op *op = sl_list_entry(node, struct sl_link_op, node);
        int error = error_of(op);
        if (time_of(op) > now_ns) {
            arm_for_first(connection);
            return;
        }
        if (error < 0) {
            /* It and all behind it are flushed when the link below has closed. */
            connection->has_failed = true;
            link->disconnect(connection->lower, error);
            return;
        }
        sl_list_remove(node);
        link->post(connection->lower, op);
    }
}

static void wait_its_turn(struct layer_connection *connection, struct sl_link_op *op,
                          struct sl_inject_verdict verdict)
{
    uint64_t at_ns = sl_reactor_now_ns(connection->domain->reactor) + verdict.delay_ns;
    bool is_first = sl_list_is_empty(&connection->waiting);
    if (verdict.stall)
        at_ns = NEVER_NS;
    if (!is_first)
        at_ns = sl_max(at_ns, connection->last_ns);
    connection->last_ns = at_ns;
    op->link_data[0] = (void *)(uintptr_t)at_ns;
    op->link_data[1] = (void *)(intptr_t)verdict.error;
    sl_list_append(&connection->waiting, &op->node);
    if (is_first)
        arm_for_first(connection);
}

static void post(struct sl_link_connection *base, struct sl_link_op *op)
{
    static const enum sl_inject_operation operations[] = {
        [SL_LINK_SEND] = SL_INJECT_SEND,          [SL_LINK_READ] = SL_INJECT_READ,
        [SL_LINK_WRITE] = SL_INJECT_WRITE,        [SL_LINK_FETCH_ADD] = SL_INJECT_WRITE,
        [SL_LINK_COMPARE_SWAP] = SL_INJECT_WRITE,
    };
    struct layer_connection *connection = connection_of(base);
    struct layer_domain *domain = connection->domain;
    if (connection->is_closed) {
        /* From a done() of the flush below: it is flushed behind the others. */
        op->link_data[1] = NULL;
        sl_list_append(&connection->waiting, &op->node);
        return;
    }
    if (op->opcode == SL_LINK_RECEIVE) {
        domain->link->post(connection->lower, op);
        return;
    }
    struct sl_inject_verdict verdict =
        sl_inject_decide(domain->inject, SL_INJECT_LINK, operations[op->opcode], 0, 0);
    bool passes = verdict.delay_ns == 0 && verdict.error == 0 && !verdict.stall;
    if (passes && sl_list_is_empty(&connection->waiting))
        domain->link->post(connection->lower, op);
    else
        wait_its_turn(connection, op, verdict);
}

/* ---- the link's events ---- */

static void lower_connected(void *owner, struct sl_link_connection *lower)
{
    struct layer_connection *connection = owner;
    connection->handlers->connected(connection->owner, connection_public(connection));
}

/* What went below is flushed already, and was posted before what waits here. */
static void lower_closed(void *owner, struct sl_link_connection *lower, int reason)
{
    struct layer_connection *connection = owner;
    struct sl_list *node;
    connection->is_closed = true;
    sl_timer_cancel(connection->domain->reactor, &connection->timer);
    while ((node = sl_list_pop(&connection->waiting)) != NULL) {
        struct sl_link_op *op = sl_list_entry(node, struct sl_link_op, node);
        op->status = connection->has_failed ? error_of(op) : -ECONNRESET;
        op->capsule_bytes = op->payload_bytes = 0;
        connection->has_failed = false;
        op->done(op);
    }
    connection->handlers->closed(connection->owner, connection_public(connection), reason);
}

static const struct sl_link_handlers layer_handlers = {lower_connected, lower_closed};

/* ---- connections ---- */

static struct layer_connection *
connection_create(struct layer_domain *domain, const struct sl_link_handlers *handlers, void *owner)
{
    struct layer_connection *connection = calloc(1, sizeof(*connection));
    if (connection == NULL)
        return NULL;
    connection->domain = domain;
    connection->handlers = handlers;
    connection->owner = owner;
    sl_list_init(&connection->waiting);
    sl_timer_init(&connection->timer, let_go);
    return connection;
}

static int layer_connect(struct sl_link_domain *base, const char *address,
                         const uint8_t *private_data, uint64_t deadline_ns,
                         const struct sl_link_handlers *handlers, void *owner,
                         struct sl_link_connection **result)
{
    struct layer_domain *domain = domain_of(base);
    struct layer_connection *connection = connection_create(domain, handlers, owner);
    if (connection == NULL)
        return -ENOMEM;
    int error = domain->link->connect(domain->lower, address, private_data, deadline_ns,
                                      &layer_handlers, connection, &connection->lower);
    if (error < 0) {
        free(connection);
        return error;
    }
    *result = connection_public(connection);
    return 0;
}

static int layer_accept(struct sl_link_domain *base, struct sl_link_incoming *request,
                        const struct sl_link_handlers *handlers, void *owner,
                        struct sl_link_connection **result)
{
    struct layer_domain *domain = domain_of(base);
    struct layer_request *own = sl_container_of(request, struct layer_request, base);
    struct sl_link_incoming *lower = own->lower;
    free(own);
    struct layer_connection *connection = connection_create(domain, handlers, owner);
    if (connection == NULL) {
        lower->ops->reject(lower);
        return -ENOMEM;
    }
    int error =
        domain->link->accept(domain->lower, lower, &layer_handlers, connection, &connection->lower);
    if (error < 0) {
        free(connection);
        return error;
    }
    *result = connection_public(connection);
    return 0;
}

static void layer_reject(struct sl_link_incoming *request)
{
    struct layer_request *own = sl_container_of(request, struct layer_request, base);
    own->lower->ops->reject(own->lower);
    free(own);
}

static void layer_disconnect(struct sl_link_connection *base, int reason)
{
    struct layer_connection *connection = connection_of(base);
    if (!connection->is_closed)
        connection->domain->link->disconnect(connection->lower, reason);
}

static void layer_connection_free(struct sl_link_connection *base)
{
    struct layer_connection *connection = connection_of(base);
    SL_ASSERT(sl_list_is_empty(&connection->waiting));
    connection->domain->link->connection_free(connection->lower);
    free(connection);
}

/* ---- listeners ---- */

static void lower_incoming(void *owner, struct sl_link_incoming *request)
{
    struct layer_listener *listener = owner;
    struct layer_request *own = calloc(1, sizeof(*own));
    if (own == NULL) {
        request->ops->reject(request);
        return;
    }
    own->lower = request;
    own->base.ops = sl_inject_link(request->ops);
    memcpy(own->base.private_data, request->private_data,
           sizeof(own->base.private_data));                        /* header: private data */
    memcpy(own->base.peer, request->peer, sizeof(own->base.peer)); /* header: address */
    listener->incoming(listener->owner, &own->base);
}

static int layer_listen(struct sl_link_domain *base, const char *address,
                        void (*incoming)(void *owner, struct sl_link_incoming *request),
                        void *owner, char *bound, struct sl_link_listener **result)
{
    struct layer_domain *domain = domain_of(base);
    struct layer_listener *listener = calloc(1, sizeof(*listener));
    if (listener == NULL)
        return -ENOMEM;
    *listener = (struct layer_listener){domain->link, NULL, incoming, owner};
    int error = domain->link->listen(domain->lower, address, lower_incoming, listener, bound,
                                     &listener->lower);
    if (error < 0) {
        free(listener);
        return error;
    }
    *result = (struct sl_link_listener *)(void *)listener;
    return 0;
}

static void layer_listener_close(struct sl_link_listener *base)
{
    struct layer_listener *listener = (struct layer_listener *)(void *)base;
    listener->link->listener_close(listener->lower);
    free(listener);
}

/* ---- domains ---- */

static int layer_domain_open(const struct sl_link_domain_config *config,
                             struct sl_link_domain **result)
{
    const struct sl_link_injection *injection = config->injection;
    struct sl_link_domain_config lower = *config;
    lower.injection = NULL;
    if (injection == NULL)
        return -EINVAL;
    struct layer_domain *domain = calloc(1, sizeof(*domain));
    if (domain == NULL)
        return -ENOMEM;
    domain->link = injection->lower;
    domain->inject = injection->inject;
    domain->reactor = sl_io_reactor(config->io);
    int error = domain->link->domain_open(&lower, &domain->lower);
    if (error < 0) {
        free(domain);
        return error;
    }
    *result = (struct sl_link_domain *)(void *)domain;
    return 0;
}

static void layer_domain_close(struct sl_link_domain *base)
{
    struct layer_domain *domain = domain_of(base);
    domain->link->domain_close(domain->lower);
    free(domain);
}

static const struct sl_link_limits *layer_limits(struct sl_link_domain *domain)
{
    return domain_of(domain)->link->limits(domain_of(domain)->lower);
}

static int layer_describe(struct sl_link_domain *domain, struct sl_region *region, const void *data,
                          uint32_t length_bytes, struct sl_remote_piece *piece)
{
    return domain_of(domain)->link->describe(domain_of(domain)->lower, region, data, length_bytes,
                                             piece);
}

static int layer_remote_map(struct sl_link_connection *base, const struct sl_remote_piece *piece,
                            bool for_writing, struct sl_span *span)
{
    struct layer_connection *connection = connection_of(base);
    return connection->domain->link->remote_map(connection->lower, piece, for_writing, span);
}

#define LAYER_OPS(does_map, map_function)                                                          \
    {                                                                                              \
        .name = "inject", .maps = (does_map), .domain_open = layer_domain_open,                    \
        .domain_close = layer_domain_close, .limits = layer_limits, .listen = layer_listen,        \
        .listener_close = layer_listener_close, .connect = layer_connect, .accept = layer_accept,  \
        .reject = layer_reject, .post = post, .disconnect = layer_disconnect,                      \
        .connection_free = layer_connection_free, .describe = layer_describe,                      \
        .remote_map = (map_function),                                                              \
    }

/* Whether a link maps is known before it has a domain: two tables. */
static const struct sl_link_ops plain_ops = LAYER_OPS(false, NULL);
static const struct sl_link_ops mapping_ops = LAYER_OPS(true, layer_remote_map);

const struct sl_link_ops *sl_inject_link(const struct sl_link_ops *lower)
{
    return lower->maps ? &mapping_ops : &plain_ops;
}
