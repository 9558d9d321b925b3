/*
 * The ofi link's connections: made and ended by events, state diagram in internal.h.
 *
 * Ending, in this order: fi_shutdown(), since verbs flushes nothing before; what is flushed comes
 * out of the completion queue; fi_close(), after which nothing touches memory; what was not flushed
 * is completed by us; closed(). A link that has gone silent gives no event at all: the heartbeats
 * above end it.
 *
 * Over verbs the peer's address is resolved first, by a thread (resolve.c). Owner: the domain's
 * reactor.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/ofi/internal.h"

#define EVENTS_A_TURN 64u

/* ---- ending ---- */

void ofi_die(struct ofi_connection *connection, int reason)
{
    struct ofi_domain *domain = connection->domain;
    if (connection->state >= OFI_CLOSING)
        return;
    sl_log_debug("ofi", "%s: ends: %s", connection->peer, sl_error_name(reason));
    if (connection->state == OFI_UP)
        domain->unsettled_count++;
    connection->state = OFI_CLOSING;
    connection->reason = reason < 0 ? reason : -ECONNRESET;
    if (connection->was_up)
        fi_shutdown(connection->ep, 0);
    else
        connection->has_drained = true; /* nothing is flushed that never was connected */
    sl_timer_arm(domain->reactor, &connection->timer,
                 sl_reactor_now_ns(domain->reactor) + OFI_DRAIN_NS);
}

static void timer_fired(struct sl_timer *timer)
{
    struct ofi_connection *connection = sl_container_of(timer, struct ofi_connection, timer);
    if (connection->state == OFI_CLOSING)
        connection->has_drained = true;
    else
        ofi_die(connection, -ETIMEDOUT);
}

static void endpoint_close(struct ofi_connection *connection)
{
    if (connection->ep != NULL)
        fi_close(&connection->ep->fid);
    connection->ep = NULL;
}

static void finish(struct ofi_connection *connection)
{
    struct ofi_domain *domain = connection->domain;
    sl_timer_cancel(domain->reactor, &connection->timer);
    /* fi_shutdown() itself makes an event. Read it while its endpoint is known: the next one may
     * have the same address, and the event would end that. */
    while (ofi_events_poll(domain) > 0)
        continue;
    endpoint_close(connection);
    /* What the close itself reported. */
    if (connection->busy_count + connection->listening_count > 0)
        (void)ofi_queue_poll(connection->queue);
    ofi_flush(connection);
    ofi_queue_release(connection->queue);
    connection->queue = NULL;
    sl_list_remove(&connection->node);
    ofi_retired_release(domain);
    connection->state = OFI_CLOSED;
    domain->unsettled_count--;
    /* The owner may free the connection in here: nothing of it is touched after. */
    connection->handlers->closed(connection->owner, ofi_connection_public(connection),
                                 connection->reason);
}

unsigned ofi_connections_finish(struct ofi_domain *domain)
{
    unsigned count = 0;
    sl_list_for_each(node, &domain->connections)
    {
        struct ofi_connection *connection = sl_list_entry(node, struct ofi_connection, node);
        if (connection->state != OFI_CLOSING || connection->outgoing != NULL)
            continue;
        if (!connection->has_drained && connection->busy_count + connection->listening_count > 0)
            continue;
        finish(connection);
        count++;
        break; /* handlers may have changed the list: the next one has the next turn */
    }
    return count;
}

/* ---- making ---- */

static struct ofi_connection *connection_create(struct ofi_domain *domain, enum ofi_state state,
                                                const char *peer,
                                                const struct sl_link_handlers *handlers,
                                                void *owner)
{
    struct ofi_connection *connection = calloc(1, sizeof(*connection));
    if (connection == NULL)
        return NULL;
    connection->domain = domain;
    connection->handlers = handlers;
    connection->owner = owner;
    connection->state = state;
    connection->birth = domain->births++;
    snprintf(connection->peer, sizeof(connection->peer), "%s", peer);
    sl_list_init(&connection->posted);
    sl_list_init(&connection->receives);
    sl_list_init(&connection->busy);
    sl_list_init(&connection->listening);
    sl_list_init(&connection->early);
    sl_timer_init(&connection->timer, timer_fired);
    return connection;
}

/* Undoes it, before it was begun. */
static void connection_discard(struct ofi_connection *connection)
{
    endpoint_close(connection);
    ofi_queue_release(connection->queue);
    free(connection);
}

static void connection_begin(struct ofi_connection *connection, uint64_t deadline_ns)
{
    struct ofi_domain *domain = connection->domain;
    sl_list_append(&domain->connections, &connection->node);
    domain->unsettled_count += connection->outgoing == NULL;
    sl_timer_arm(domain->reactor, &connection->timer, deadline_ns);
}

static int endpoint_open(struct ofi_connection *connection, struct fi_info *info)
{
    struct ofi_domain *domain = connection->domain;
    connection->queue = ofi_queue_reserve(domain);
    if (connection->queue == NULL)
        return -ENOMEM;
    int error = fi_endpoint(domain->domain, info, &connection->ep, connection);
    if (error == 0)
        error = fi_ep_bind(connection->ep, &domain->eq->fid, 0);
    if (error == 0)
        error = fi_ep_bind(connection->ep, &connection->queue->cq->fid, FI_TRANSMIT | FI_RECV);
    if (error == 0)
        error = fi_enable(connection->ep);
    if (error == 0)
        return 0;
    sl_log_warn("ofi", "%s: no endpoint on %s: %s", connection->peer,
                domain->info->domain_attr->name, domain->library->strerror(-error));
    return ofi_error(error);
}

/* The domain's info with the peer's address. NULL: no memory. */
static struct fi_info *info_for_peer(const struct ofi_domain *domain, const struct sl_address *peer)
{
    struct fi_info *info = domain->library->dupinfo(domain->info);
    if (info == NULL)
        return NULL;
    info->dest_addr = malloc(peer->length);
    if (info->dest_addr == NULL) {
        domain->library->freeinfo(info);
        return NULL;
    }
    memcpy(info->dest_addr, &peer->storage, peer->length); /* header: address */
    info->dest_addrlen = peer->length;
    /* Without a named device libfabric's tcp leaves the choice of the source to the kernel. */
    const struct sockaddr *source = info->src_addr;
    bool other_family = source != NULL && source->sa_family != peer->storage.ss_family;
    if (!domain->is_verbs && (!domain->bound || other_family)) {
        free(info->src_addr);
        info->src_addr = NULL;
        info->src_addrlen = 0;
        info->addr_format = peer->storage.ss_family == AF_INET ? FI_SOCKADDR_IN : FI_SOCKADDR_IN6;
    }
    return info;
}

static void outgoing_free(struct ofi_domain *domain, struct ofi_outgoing *outgoing)
{
    if (outgoing != NULL && outgoing->info != NULL)
        domain->library->freeinfo(outgoing->info);
    free(outgoing);
}

/* With the endpoint made: the request leaves. What fails from here on ends in closed(). */
static void request_send(struct ofi_connection *connection, const struct ofi_outgoing *outgoing)
{
    ofi_issue(connection); /* receives that were posted before there was an endpoint */
    if (connection->state != OFI_CONNECTING)
        return;
    int error = fi_connect(connection->ep, outgoing->info->dest_addr, &outgoing->preamble,
                           sizeof(outgoing->preamble));
    if (error != 0)
        ofi_die(connection, ofi_error(error));
}

static void address_is_resolved(struct sl_mail *mail)
{
    struct ofi_outgoing *outgoing = sl_container_of(mail, struct ofi_outgoing, mail);
    struct ofi_connection *connection = outgoing->connection;
    int error = outgoing->error;
    connection->outgoing = NULL;
    connection->domain->unsettled_count++;
    if (connection->state == OFI_RESOLVING) { /* else it has been given up: its end can go on */
        connection->state = OFI_CONNECTING;
        if (error == 0)
            error = endpoint_open(connection, outgoing->info);
        if (error == 0)
            request_send(connection, outgoing);
        else
            ofi_die(connection, error);
    }
    outgoing_free(connection->domain, outgoing);
}

static struct ofi_outgoing *outgoing_make(struct ofi_domain *domain, const struct sl_address *peer,
                                          const uint8_t *private_data)
{
    struct ofi_outgoing *outgoing = calloc(1, sizeof(*outgoing));
    if (outgoing == NULL)
        return NULL;
    outgoing->preamble = (struct ofi_preamble){.magic = OFI_MAGIC, .version = OFI_VERSION};
    if (private_data != NULL)
        memcpy(outgoing->preamble.private_data, private_data,
               SL_LINK_PRIVATE_BYTES); /* header: private */
    outgoing->mail.deliver = address_is_resolved;
    outgoing->info = info_for_peer(domain, peer);
    if (outgoing->info == NULL) {
        free(outgoing);
        return NULL;
    }
    return outgoing;
}

int ofi_connect(struct sl_link_domain *link_domain, const char *address,
                const uint8_t *private_data, uint64_t deadline_ns,
                const struct sl_link_handlers *handlers, void *owner,
                struct sl_link_connection **result)
{
    struct ofi_domain *domain = ofi_domain_of(link_domain);
    struct sl_address peer;
    int error =
        strlen(address) < SL_ADDRESS_BYTES_MAX ? sl_address_resolve(address, &peer, 1) : -EINVAL;
    if (error < 0)
        return error;
    if (peer.storage.ss_family != AF_INET && peer.storage.ss_family != AF_INET6)
        return -EINVAL;
    struct ofi_outgoing *outgoing = outgoing_make(domain, &peer, private_data);
    struct ofi_connection *connection =
        outgoing != NULL
            ? connection_create(domain, domain->is_verbs ? OFI_RESOLVING : OFI_CONNECTING, address,
                                handlers, owner)
            : NULL;
    if (connection == NULL) {
        outgoing_free(domain, outgoing);
        return -ENOMEM;
    }
    outgoing->connection = connection;
    if (domain->is_verbs) {
        connection->outgoing = outgoing;
        connection_begin(connection, deadline_ns);
        ofi_resolve(outgoing);
        *result = ofi_connection_public(connection);
        return 0;
    }
    error = endpoint_open(connection, outgoing->info);
    if (error < 0) {
        connection_discard(connection);
    } else {
        connection_begin(connection, deadline_ns);
        request_send(connection, outgoing);
        *result = ofi_connection_public(connection);
    }
    outgoing_free(domain, outgoing);
    return error;
}

int ofi_accept(struct sl_link_domain *link_domain, struct sl_link_incoming *request,
               const struct sl_link_handlers *handlers, void *owner,
               struct sl_link_connection **result)
{
    struct ofi_domain *domain = ofi_domain_of(link_domain);
    struct ofi_incoming *incoming = sl_container_of(request, struct ofi_incoming, incoming);
    struct ofi_preamble answer = {.magic = OFI_MAGIC, .version = OFI_VERSION};
    struct ofi_connection *connection =
        connection_create(domain, OFI_ACCEPTING, request->peer, handlers, owner);
    int error = connection != NULL ? endpoint_open(connection, incoming->info) : -ENOMEM;
    /* An endpoint that was made took the request with it. */
    bool taken = connection != NULL && connection->ep != NULL;
    if (error == -ENOMEM) {
        if (connection != NULL)
            connection_discard(connection);
    } else {
        connection_begin(connection, sl_reactor_now_ns(domain->reactor) + SL_HANDSHAKE_TIMEOUT_NS);
        int refused = error == 0 ? fi_accept(connection->ep, &answer, OFI_ANSWER_BYTES) : 0;
        /* Its peer has gone; verbs may say so when the endpoint is made. closed() follows. */
        if (error < 0 || refused != 0)
            ofi_die(connection, error < 0 ? error : ofi_error(refused));
    }
    if (taken)
        ofi_incoming_done(incoming);
    else
        ofi_reject(request);
    if (error == -ENOMEM)
        return error;
    *result = ofi_connection_public(connection);
    return 0;
}

void ofi_disconnect(struct sl_link_connection *connection, int reason)
{
    ofi_die(ofi_connection_of(connection), reason);
}

void ofi_connection_free(struct sl_link_connection *link_connection)
{
    struct ofi_connection *connection = ofi_connection_of(link_connection);
    if (connection == NULL)
        return;
    SL_ASSERT(connection->state == OFI_CLOSED);
    free(connection);
}

/* ---- events ---- */

/* Room for what cm data any provider gives (verbs: 56 bytes, tcp: 256). */
union event_buffer {
    struct fi_eq_cm_entry entry;
    uint8_t bytes[sizeof(struct fi_eq_cm_entry) + 512];
};

static struct ofi_connection *connection_find(struct ofi_domain *domain, const struct fid *fid)
{
    sl_list_for_each(node, &domain->connections)
    {
        struct ofi_connection *connection = sl_list_entry(node, struct ofi_connection, node);
        if (connection->ep != NULL && &connection->ep->fid == fid)
            return connection;
    }
    return NULL;
}

static bool preamble_read(const void *data, size_t data_bytes, struct ofi_preamble *preamble)
{
    memset(preamble, 0, sizeof(*preamble));
    if (data == NULL || data_bytes < OFI_ANSWER_BYTES)
        return false;
    memcpy(preamble, data, OFI_ANSWER_BYTES); /* header: preamble */
    return preamble->magic == OFI_MAGIC;
}

static void connected(struct ofi_connection *connection, const uint8_t *data, size_t data_bytes)
{
    struct ofi_preamble answer;
    struct sl_list *node;
    if (connection->state != OFI_CONNECTING && connection->state != OFI_ACCEPTING)
        return;
    connection->was_up = true; /* from here on fi_shutdown() */
    if (connection->state == OFI_CONNECTING &&
        (!preamble_read(data, data_bytes, &answer) || answer.version != OFI_VERSION)) {
        sl_log_warn("ofi", "%s: what accepts there is no ofi link of version %d", connection->peer,
                    OFI_VERSION);
        ofi_die(connection, answer.magic == OFI_MAGIC ? -SL_E_VERSION : -SL_E_PROTOCOL);
        return;
    }
    sl_timer_cancel(connection->domain->reactor, &connection->timer);
    connection->state = OFI_UP;
    connection->domain->unsettled_count--;
    connection->handlers->connected(connection->owner, ofi_connection_public(connection));
    while ((node = sl_list_pop(&connection->early)) != NULL) {
        struct sl_link_op *op = sl_list_entry(node, struct sl_link_op, node);
        op->done(op);
    }
    ofi_issue(connection);
}

/* The peer has gone. What it sent before is in the completion queue and comes first. */
static void hung_up(struct ofi_connection *connection)
{
    struct ofi_queue *queue = connection->queue;
    for (unsigned round = 0; round < 1000 && connection->state == OFI_UP; round++)
        if (ofi_queue_poll(queue) == 0)
            break;
    ofi_die(connection, connection->was_up ? -ECONNRESET : -ECONNREFUSED);
}

static void failed(struct ofi_connection *connection, const struct fi_eq_err_entry *entry)
{
    struct ofi_preamble refusal;
    int error = ofi_error(entry->err);
    if (connection->state == OFI_UP) {
        ofi_die(connection, -ECONNRESET);
        return;
    }
    bool is_ours = preamble_read(entry->err_data, entry->err_data_size, &refusal);
    if (is_ours && refusal.reason == OFI_REASON_VERSION) {
        sl_log_warn("ofi", "%s refused: it speaks version %u of the ofi link, we %d",
                    connection->peer, refusal.version, OFI_VERSION);
        error = -SL_E_VERSION;
    }
    ofi_die(connection, error);
}

static bool event_error(struct ofi_domain *domain)
{
    struct fi_eq_err_entry entry = {0};
    if (fi_eq_readerr(domain->eq, &entry, 0) < 0 || entry.fid == NULL)
        return false;
    struct ofi_connection *connection = connection_find(domain, entry.fid);
    if (connection != NULL)
        failed(connection, &entry);
    return true;
}

unsigned ofi_events_poll(struct ofi_domain *domain)
{
    unsigned count = 0;
    for (; count < EVENTS_A_TURN; count++) {
        union event_buffer buffer;
        uint32_t event;
        ssize_t length = fi_eq_read(domain->eq, &event, &buffer, sizeof(buffer), 0);
        if (length == -FI_EAVAIL) {
            if (!event_error(domain))
                break;
            continue;
        }
        if (length < (ssize_t)sizeof(buffer.entry))
            break;
        struct ofi_connection *connection = connection_find(domain, buffer.entry.fid);
        if (connection == NULL)
            continue;
        if (event == FI_CONNECTED)
            connected(connection, buffer.entry.data, (size_t)length - sizeof(buffer.entry));
        else if (event == FI_SHUTDOWN)
            hung_up(connection);
    }
    return count;
}
