/*
 * The shm link's connections: set-up, the control socket, farewell. shm.h has the state diagram.
 * One coroutine a connection (run_co) lives from connect or accept to closed() and alone reads the
 * socket. Owner: the domain's reactor.
 */
#include "fabric/shm/shm.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"

#define CONNECT_RETRY_NS (1 * SL_NS_PER_MS)

static struct sl_io *io_of(const struct shm_connection *connection)
{
    return connection->domain->config.io;
}

/* ---- the control socket ---- */

static int control_try(struct shm_connection *connection, const struct shm_control *control,
                       int descriptor)
{
    return sl_socket_send(connection->socket, control, sizeof(*control), &descriptor,
                          descriptor >= 0 ? 1 : 0);
}

int shm_control_send(struct shm_connection *connection, const struct shm_control *control,
                     int descriptor)
{
    struct shm_control record = *control;
    record.magic = SHM_MAGIC;
    record.version = SHM_VERSION;
    /* Whether the peer is still there is found out by reading, not here. */
    if (sl_list_is_empty(&connection->outbox) &&
        control_try(connection, &record, descriptor) != -EAGAIN)
        return 0;
    struct shm_outgoing *outgoing = malloc(sizeof(*outgoing));
    if (outgoing == NULL)
        return -ENOMEM;
    *outgoing = (struct shm_outgoing){.control = record, .descriptor = -1};
    if (descriptor >= 0) {
        outgoing->descriptor = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
        if (outgoing->descriptor < 0) {
            free(outgoing);
            return -EMFILE;
        }
    }
    sl_list_append(&connection->outbox, &outgoing->node);
    /* So that it waits for room in the socket too. */
    sl_descriptor_cancel(io_of(connection), connection->socket);
    return 0;
}

static void outgoing_free(struct shm_outgoing *outgoing)
{
    sl_list_remove(&outgoing->node);
    if (outgoing->descriptor >= 0)
        close(outgoing->descriptor);
    free(outgoing);
}

static void outbox_flush(struct shm_connection *connection, bool discard)
{
    struct sl_list *node;
    while ((node = sl_list_first(&connection->outbox)) != NULL) {
        struct shm_outgoing *outgoing = sl_list_entry(node, struct shm_outgoing, node);
        if (!discard &&
            control_try(connection, &outgoing->control, outgoing->descriptor) == -EAGAIN)
            return;
        outgoing_free(outgoing);
    }
}

static int control_handle(struct shm_connection *connection, const struct shm_control *control,
                          struct sl_socket_message *message)
{
    int error = shm_control_check(control, message);
    if (error < 0)
        return error;
    switch (control->type) {
    case SHM_ANNOUNCE:
        connection->announced_seen++;
        error = shm_window_add(connection, control, message->descriptors[0]);
        message->descriptors[0] = -1;
        return error;
    case SHM_REVOKE:
        connection->announced_seen++;
        return shm_window_revoke(connection, control->key);
    case SHM_REVOKED:
        return shm_region_revoked(connection, control->key);
    case SHM_GONE:
        connection->gone_seen = true;
        return -ECONNRESET;
    case SHM_GOODBYE:
        return -ECONNRESET;
    default:
        return -SL_E_PROTOCOL;
    }
}

/* Reads what there is. While closing only the farewell counts. */
static int control_receive(struct shm_connection *connection)
{
    for (;;) {
        struct shm_control control;
        struct sl_socket_message message;
        int error = sl_socket_receive(connection->socket, &control, sizeof(control), &message);
        if (error == -EAGAIN)
            return 0;
        if (error == -ECONNRESET && !connection->hung_up) {
            /* Unread records of ours make the kernel answer this before the peer's last ones. */
            connection->hung_up = true;
            continue;
        }
        if (error < 0)
            return error;
        if (connection->state == SHM_CLOSING) {
            bool known = shm_control_check(&control, &message) == 0;
            connection->gone_seen |= known && control.type == SHM_GONE;
        } else {
            error = control_handle(connection, &control, &message);
        }
        sl_socket_message_close(&message);
        if (error < 0)
            return error;
    }
}

/* Waits for the socket, for a cancellation, or until `deadline_ns`; reads. 0 or negative errno. */
static int control_wait_co(struct shm_connection *connection, uint64_t deadline_ns)
{
    outbox_flush(connection, false);
    short events = sl_list_is_empty(&connection->outbox) ? POLLIN : POLLIN | POLLOUT;
    int result = sl_descriptor_wait_co(io_of(connection), connection->socket, events, deadline_ns);
    if (result == -ECANCELED || result == -ETIMEDOUT)
        return 0;
    return result < 0 ? result : control_receive(connection);
}

/* ---- set-up ---- */

static int socket_connect_co(struct shm_connection *connection)
{
    struct sl_reactor *reactor = connection->domain->reactor;
    for (;;) {
        int socket = sl_socket_connect(connection->path);
        if (socket >= 0)
            connection->socket = socket;
        if (socket == -ENOENT)
            return -ECONNREFUSED; /* no socket there: nobody listens */
        if (socket != -EAGAIN)
            return sl_min(socket, 0);
        if (sl_reactor_now_ns(reactor) >= connection->deadline_ns)
            return -ETIMEDOUT;
        sl_sleep_co(CONNECT_RETRY_NS);
        /* disconnect() may have come meanwhile. */
        if (connection->state != SHM_CONNECTING)
            return connection->reason;
    }
}

static int answer_receive_co(struct shm_connection *connection)
{
    int events = sl_descriptor_wait_co(io_of(connection), connection->socket, POLLIN,
                                       connection->deadline_ns);
    if (connection->state != SHM_CONNECTING)
        return connection->reason;
    if (events < 0)
        return events;
    struct shm_control control;
    struct sl_socket_message message;
    int error = sl_socket_receive(connection->socket, &control, sizeof(control), &message);
    if (error < 0)
        return error == -ECONNRESET ? -ECONNREFUSED : error;
    error = shm_control_check(&control, &message);
    sl_socket_message_close(&message);
    if (error < 0)
        return error;
    if (control.type == SHM_REJECT || control.type == SHM_GOODBYE)
        return -ECONNREFUSED;
    return control.type == SHM_ACCEPT ? 0 : -SL_E_PROTOCOL;
}

static int connect_co(struct shm_connection *connection)
{
    if (connection->state != SHM_CONNECTING)
        return connection->reason;
    int error = socket_connect_co(connection);
    if (error == 0)
        error = sl_socket_check_peer(connection->socket, NULL);
    if (error == 0)
        error = sl_channel_create(&connection->channel, &shm_layout);
    if (error < 0)
        return error;
    struct shm_control hello = {.magic = SHM_MAGIC, .version = SHM_VERSION, .type = SHM_HELLO};
    memcpy(hello.private_data, connection->private_data, SL_LINK_PRIVATE_BYTES); /* header: HELLO */
    int descriptors[SL_CHANNEL_DESCRIPTORS];
    sl_channel_descriptors(&connection->channel, descriptors);
    error = sl_socket_send(connection->socket, &hello, sizeof(hello), descriptors,
                           SL_CHANNEL_DESCRIPTORS);
    return error < 0 ? error : answer_receive_co(connection);
}

static void doorbell_ring(void *argument)
{
    /* Waking the reactor is all: the poller looks into the ring. */
}

/* Both sides agreed. The accepting side's ACCEPT goes before its announcements. */
static int connection_open(struct shm_connection *connection)
{
    int bell = connection->channel.bell_in;
    connection->channel.bell_in = -1;
    int error = sl_doorbell_create(io_of(connection), bell, doorbell_ring, connection,
                                   &connection->doorbell);
    if (error < 0)
        return error;
    if (connection->channel.memfd >= 0)
        close(connection->channel.memfd);
    connection->channel.memfd = -1;
    struct shm_control accept = {.type = SHM_ACCEPT};
    if (connection->state == SHM_ACCEPTING)
        error = shm_control_send(connection, &accept, -1);
    sl_region_for_each(node, sl_memory_regions(connection->domain->config.memory))
    {
        if (error == 0)
            error = shm_region_announce(connection, sl_list_entry(node, struct sl_region, node));
    }
    if (error < 0)
        return error;
    connection->state = SHM_UP;
    connection->was_up = true;
    connection->handlers->connected(connection->owner, shm_connection_public(connection));
    return 0;
}

/* ---- farewell ---- */

void shm_connection_fail(struct shm_connection *connection, int reason)
{
    if (connection->state >= SHM_CLOSING)
        return;
    connection->state = SHM_CLOSING;
    connection->reason = reason < 0 ? reason : -ECONNRESET;
    shm_data_flush(connection);
    if (connection->socket >= 0)
        sl_descriptor_cancel(io_of(connection), connection->socket);
}

/* The socket has hung up without a farewell: the peer's memory accesses end with its process. */
static void peer_death_await_co(struct shm_connection *connection, uint64_t deadline_ns)
{
    int pidfd = sl_socket_peer_pidfd(connection->socket);
    if (pidfd == -ESRCH)
        return;
    int result = pidfd;
    if (pidfd >= 0) {
        result = sl_descriptor_wait_co(io_of(connection), pidfd, POLLIN, deadline_ns);
        close(pidfd);
    }
    if (result < 0)
        sl_log_warn("shm",
                    "%s: the peer hung up, but its process still runs after %llu s (%s): it may "
                    "still touch memory that is given back now",
                    connection->path, (unsigned long long)(SHM_FAREWELL_TIMEOUT_NS / SL_NS_PER_S),
                    sl_error_name(result));
}

/* Says farewell when nobody here uses the peer's memory any more, and waits for the peer's. A
 * connection that never came up has shown no memory to anybody: there is nothing to wait for. */
static void farewell_co(struct shm_connection *connection)
{
    struct sl_reactor *reactor = connection->domain->reactor;
    uint64_t deadline_ns = sl_reactor_now_ns(reactor) + SHM_FAREWELL_TIMEOUT_NS;
    struct shm_control goodbye = {.type = SHM_GOODBYE};
    struct shm_control gone = {.type = SHM_GONE};
    bool gone_sent = false;
    (void)shm_control_send(connection, &goodbye, -1);
    while (sl_reactor_now_ns(reactor) < deadline_ns) {
        bool drained = shm_window_drain(connection);
        if (drained && !gone_sent) {
            (void)shm_control_send(connection, &gone, -1);
            gone_sent = true;
        }
        outbox_flush(connection, connection->hung_up);
        if (!connection->was_up)
            return;
        bool heard = connection->gone_seen || connection->hung_up;
        if (drained && heard && sl_list_is_empty(&connection->outbox))
            break;
        uint64_t next_ns = sl_reactor_now_ns(reactor) + SHM_DRAIN_INTERVAL_NS;
        if (heard)
            sl_sleep_co(SHM_DRAIN_INTERVAL_NS);
        else
            (void)control_wait_co(connection, drained ? deadline_ns : next_ns);
    }
    if (connection->gone_seen)
        return;
    if (connection->hung_up)
        peer_death_await_co(connection, deadline_ns);
    else
        sl_log_warn("shm", "%s: no farewell from the peer within %llu s; closing without it",
                    connection->path, (unsigned long long)(SHM_FAREWELL_TIMEOUT_NS / SL_NS_PER_S));
}

static void connection_close_co(struct shm_connection *connection)
{
    shm_window_revoke_all(connection);
    if (connection->socket >= 0)
        farewell_co(connection);
    shm_window_abandon(connection);
    shm_region_release_all(connection);
    outbox_flush(connection, true);
    while (shm_data_deliver(connection) > 0)
        ;
    if (connection->doorbell != NULL)
        sl_doorbell_destroy(connection->doorbell);
    connection->doorbell = NULL;
    sl_channel_close(&connection->channel);
    if (connection->socket >= 0)
        close(connection->socket);
    connection->socket = -1;
    sl_list_remove(&connection->node);
    connection->state = SHM_CLOSED;
    /* The owner may free the connection in here: nothing of it is touched after. */
    connection->handlers->closed(connection->owner, shm_connection_public(connection),
                                 connection->reason);
}

static void run_co(void *argument)
{
    struct shm_connection *connection = argument;
    int error = 0;
    if (connection->state == SHM_CONNECTING)
        error = connect_co(connection);
    if (error == 0 && connection->state < SHM_UP)
        error = connection_open(connection);
    while (error == 0 && connection->state == SHM_UP) {
        bool drained = shm_window_drain(connection);
        uint64_t now_ns = sl_reactor_now_ns(connection->domain->reactor);
        error = control_wait_co(connection, drained ? UINT64_MAX : now_ns + SHM_DRAIN_INTERVAL_NS);
    }
    shm_connection_fail(connection, error);
    connection_close_co(connection);
}

/* ---- the link's interface ---- */

static struct shm_connection *connection_create(struct shm_domain *domain, enum shm_state state,
                                                const struct sl_link_handlers *handlers,
                                                void *owner)
{
    struct shm_connection *connection = calloc(1, sizeof(*connection));
    if (connection == NULL)
        return NULL;
    connection->domain = domain;
    connection->handlers = handlers;
    connection->owner = owner;
    connection->state = state;
    connection->socket = -1;
    sl_channel_init(&connection->channel);
    sl_list_init(&connection->outbox);
    sl_list_init(&connection->revocations);
    sl_list_init(&connection->dying);
    for (unsigned i = 0; i < SHM_BUCKETS; i++)
        sl_list_init(&connection->windows[i]);
    shm_data_init(connection);
    return connection;
}

/* Starts its coroutine. On error it is freed, and so is what it holds. */
static int connection_begin(struct shm_connection *connection)
{
    int error = sl_co_spawn(connection->domain->reactor, run_co, connection);
    if (error < 0) {
        sl_channel_close(&connection->channel);
        free(connection);
        return error;
    }
    sl_list_append(&connection->domain->connections, &connection->node);
    sl_reactor_poller_add(connection->domain->reactor, &connection->poller);
    return 0;
}

int shm_connect(struct sl_link_domain *domain, const char *address, const uint8_t *private_data,
                uint64_t deadline_ns, const struct sl_link_handlers *handlers, void *owner,
                struct sl_link_connection **link_connection)
{
    const char *path = shm_address_path(address);
    if (path == NULL)
        return -EINVAL;
    struct shm_connection *connection =
        connection_create(shm_domain_of(domain), SHM_CONNECTING, handlers, owner);
    if (connection == NULL)
        return -ENOMEM;
    snprintf(connection->path, sizeof(connection->path), "%s", path);
    connection->deadline_ns = deadline_ns;
    if (private_data != NULL)
        memcpy(connection->private_data, private_data, SL_LINK_PRIVATE_BYTES); /* header: HELLO */
    int error = connection_begin(connection);
    if (error == 0)
        *link_connection = shm_connection_public(connection);
    return error;
}

int shm_accept(struct sl_link_domain *domain, struct sl_link_incoming *request,
               const struct sl_link_handlers *handlers, void *owner,
               struct sl_link_connection **link_connection)
{
    struct shm_incoming *incoming = sl_container_of(request, struct shm_incoming, incoming);
    struct shm_connection *connection =
        connection_create(shm_domain_of(domain), SHM_ACCEPTING, handlers, owner);
    if (connection == NULL) {
        shm_reject(request);
        return -ENOMEM;
    }
    snprintf(connection->path, sizeof(connection->path), "%s", incoming->incoming.peer);
    int error = sl_channel_adopt(&connection->channel, &shm_layout, incoming->message.descriptors);
    incoming->message.descriptor_count = 0;
    if (error < 0) {
        free(connection);
    } else {
        connection->socket = incoming->socket;
        error = connection_begin(connection);
    }
    if (error < 0) {
        shm_reject(request);
        return error;
    }
    free(incoming);
    *link_connection = shm_connection_public(connection);
    return 0;
}

void shm_disconnect(struct sl_link_connection *connection, int reason)
{
    shm_connection_fail(shm_connection_of(connection), reason);
}

void shm_connection_free(struct sl_link_connection *link_connection)
{
    struct shm_connection *connection = shm_connection_of(link_connection);
    if (connection == NULL)
        return;
    SL_ASSERT(connection->state == SHM_CLOSED && sl_list_is_empty(&connection->completed));
    sl_reactor_poller_remove(connection->domain->reactor, &connection->poller);
    free(connection);
}
