/*
 * The shm link's passive side: accepts on a Unix socket, takes the HELLO with the channel's
 * descriptors, hands the request up. Owner: the reactor of the domain that listens; a request may
 * be accepted on another one.
 */
#include "fabric/shm/shm.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"

#define ACCEPT_RETRY_NS (100 * SL_NS_PER_MS)

struct shm_listener {
    struct shm_domain *domain; /* NULL after the close */
    struct sl_io *io;
    int socket;
    char path[SL_ADDRESS_BYTES_MAX];
    void (*incoming)(void *owner, struct sl_link_incoming *request);
    void *owner;
    bool closed;
    unsigned references; /* its owner, its coroutine, each half-open request */
    struct sl_list half_open;
    unsigned half_open_count;
};

struct half_open {
    struct sl_list node;
    struct shm_listener *listener;
    int socket;
};

static void listener_unref(struct shm_listener *listener)
{
    if (--listener->references == 0)
        free(listener);
}

const char *shm_address_path(const char *address)
{
    return strncmp(address, "unix:", 5) == 0 && address[5] != '\0' ? address + 5 : NULL;
}

int shm_control_check(const struct shm_control *control, const struct sl_socket_message *message)
{
    if (message->length_bytes != sizeof(*control) || control->magic != SHM_MAGIC)
        return -SL_E_PROTOCOL;
    if (control->version != SHM_VERSION)
        return -SL_E_VERSION;
    unsigned descriptors = 0;
    if (control->type == SHM_HELLO)
        descriptors = SL_CHANNEL_DESCRIPTORS;
    else if (control->type == SHM_ANNOUNCE)
        descriptors = 1;
    return message->descriptor_count == descriptors ? 0 : -SL_E_PROTOCOL;
}

void shm_reject(struct sl_link_incoming *request)
{
    struct shm_incoming *incoming = sl_container_of(request, struct shm_incoming, incoming);
    struct shm_control control = {.magic = SHM_MAGIC, .version = SHM_VERSION, .type = SHM_REJECT};
    (void)sl_socket_send(incoming->socket, &control, sizeof(control), NULL, 0);
    sl_socket_message_close(&incoming->message);
    close(incoming->socket);
    free(incoming);
}

/* Waits for the HELLO. 0, or negative errno with everything closed. */
static int hello_receive_co(struct half_open *half_open, struct shm_incoming *incoming)
{
    struct sl_io *io = half_open->listener->io;
    uint64_t deadline_ns = sl_reactor_now_ns(sl_io_reactor(io)) + SL_HANDSHAKE_TIMEOUT_NS;
    int events = sl_descriptor_wait_co(io, half_open->socket, POLLIN, deadline_ns);
    if (events < 0)
        return events;
    struct shm_control control;
    int error = sl_socket_receive(half_open->socket, &control, sizeof(control), &incoming->message);
    if (error < 0)
        return error;
    error = shm_control_check(&control, &incoming->message);
    if (error == 0 && control.type != SHM_HELLO)
        error = -SL_E_PROTOCOL;
    if (error < 0) {
        sl_socket_message_close(&incoming->message);
        return error;
    }
    memcpy(incoming->incoming.private_data, control.private_data,
           SL_LINK_PRIVATE_BYTES); /* header: HELLO */
    return 0;
}

static void half_open_co(void *argument)
{
    struct half_open *half_open = argument;
    struct shm_listener *listener = half_open->listener;
    struct shm_incoming *incoming = calloc(1, sizeof(*incoming));
    int error = incoming == NULL ? -ENOMEM : hello_receive_co(half_open, incoming);
    sl_list_remove(&half_open->node);
    listener->half_open_count--;
    if (error == 0) {
        int pid = 0;
        (void)sl_socket_check_peer(half_open->socket, &pid);
        incoming->socket = half_open->socket;
        incoming->incoming.ops = &sl_shm_link_ops;
        snprintf(incoming->incoming.peer, SL_ADDRESS_BYTES_MAX, "pid:%d", pid);
        /* The listener may have been closed while we waited. */
        if (listener->closed)
            shm_reject(&incoming->incoming);
        else
            listener->incoming(listener->owner, &incoming->incoming);
    } else {
        /* One that hangs up at once only looked whether somebody listens (sl_socket_listen). */
        if (!listener->closed && error != -ECONNRESET)
            sl_log_warn("shm", "%s: a connection request failed: %s", listener->path,
                        sl_error_name(error));
        free(incoming);
        close(half_open->socket);
    }
    free(half_open);
    listener_unref(listener);
}

/* Takes the socket. */
static int half_open_begin(struct shm_listener *listener, int socket)
{
    struct half_open *half_open = malloc(sizeof(*half_open));
    if (half_open == NULL || listener->half_open_count == SHM_HALF_OPEN_MAX) {
        free(half_open);
        close(socket);
        return -EBUSY;
    }
    *half_open = (struct half_open){.listener = listener, .socket = socket};
    sl_list_append(&listener->half_open, &half_open->node);
    listener->half_open_count++;
    listener->references++;
    int error = sl_co_spawn(sl_io_reactor(listener->io), half_open_co, half_open);
    if (error < 0) {
        sl_list_remove(&half_open->node);
        listener->half_open_count--;
        listener->references--;
        free(half_open);
        close(socket);
    }
    return error;
}

/* Accepts what waits. -EAGAIN when nothing is left; what else goes wrong with one peer does not
 * matter here. */
static int accept_all(struct shm_listener *listener)
{
    for (;;) {
        int socket = sl_socket_accept(listener->socket);
        if (socket == -EPERM) {
            sl_log_warn("shm", "%s: refused a process of another user", listener->path);
            continue;
        }
        if (socket == -ECONNABORTED || socket == -EINTR)
            continue;
        if (socket < 0)
            return socket;
        if (half_open_begin(listener, socket) < 0)
            sl_log_warn("shm", "%s: refused a connection request: %u are half open (limit %u)",
                        listener->path, listener->half_open_count, SHM_HALF_OPEN_MAX);
    }
}

static void listener_run_co(void *argument)
{
    struct shm_listener *listener = argument;
    while (!listener->closed) {
        (void)sl_descriptor_wait_co(listener->io, listener->socket, POLLIN, UINT64_MAX);
        if (listener->closed)
            break;
        int error = accept_all(listener);
        if (error != -EAGAIN) {
            sl_log_error("shm", "accept on %s: %s; trying again", listener->path,
                         sl_error_name(error));
            sl_sleep_co(ACCEPT_RETRY_NS);
        }
    }
    listener_unref(listener);
}

int shm_listen(struct sl_link_domain *link_domain, const char *address,
               void (*incoming)(void *owner, struct sl_link_incoming *request), void *owner,
               char *bound, struct sl_link_listener **link_listener)
{
    struct shm_domain *domain = shm_domain_of(link_domain);
    const char *path = shm_address_path(address);
    if (path == NULL)
        return -EINVAL;
    if (strlen(address) >= SL_ADDRESS_BYTES_MAX)
        return -ENAMETOOLONG;
    struct shm_listener *listener = calloc(1, sizeof(*listener));
    if (listener == NULL)
        return -ENOMEM;
    *listener = (struct shm_listener){
        .domain = domain,
        .io = domain->config.io,
        .socket = sl_socket_listen(path),
        .incoming = incoming,
        .owner = owner,
        .references = 2,
    };
    snprintf(listener->path, sizeof(listener->path), "%s", path);
    sl_list_init(&listener->half_open);
    int error = listener->socket;
    if (error >= 0) {
        error = sl_co_spawn(domain->reactor, listener_run_co, listener);
        if (error < 0) {
            close(listener->socket);
            unlink(path);
        }
    }
    if (error < 0) {
        free(listener);
        return error;
    }
    domain->listener_count++;
    if (bound != NULL)
        memcpy(bound, address, strlen(address) + 1); /* header: address */
    *link_listener = (struct sl_link_listener *)(void *)listener;
    return 0;
}

void shm_listener_close(struct sl_link_listener *link_listener)
{
    struct shm_listener *listener = (struct shm_listener *)(void *)link_listener;
    if (listener == NULL)
        return;
    listener->closed = true;
    listener->domain->listener_count--;
    listener->domain = NULL;
    sl_list_for_each(node, &listener->half_open)
        sl_descriptor_cancel(listener->io, sl_list_entry(node, struct half_open, node)->socket);
    sl_descriptor_cancel(listener->io, listener->socket);
    unlink(listener->path);
    close(listener->socket);
    listener_unref(listener);
}
