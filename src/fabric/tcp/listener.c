/*
 * Incoming connections of the tcp link: accept, await the preamble, hand the request up; reject.
 *
 *   accept_co ─► handshake_co (one a socket, ≤ 5 s) ─► incoming() ─► accept() on any reactor
 *                                                                └─► reject() ─► answered from here
 *
 * A socket that does not speak is closed when its time is over, and at most SL_TCP_HANDSHAKES_MAX
 * wait: idle strangers do not pile up. A listener lives until its coroutines have ended; incoming()
 * is not called after listener_close(). Owner: the reactor of the domain that listens.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/tcp/internal.h"

struct sl_link_listener {
    struct sl_link_domain *domain; /* until closed */
    struct sl_io *io;
    struct sl_reactor *reactor;
    struct sl_listener *listener;
    void (*incoming)(void *owner, struct sl_link_incoming *request);
    void *owner;
    struct sl_list handshakes;
    unsigned handshake_count;
    unsigned references; /* the accept coroutine and each handshake */
    bool closed;
};

struct handshake {
    struct sl_list node;
    struct sl_link_listener *listener;
    struct sl_stream *stream;
    struct sl_timer timer;
    char peer[SL_ADDRESS_BYTES_MAX];
};

static void listener_unref(struct sl_link_listener *listener)
{
    if (--listener->references == 0)
        free(listener);
}

int sl_tcp_preamble_receive_co(struct sl_stream *stream, struct sl_tcp_preamble *preamble,
                               const char **why)
{
    uint8_t bytes[sizeof(*preamble)];
    size_t have = 0;
    while (have < sizeof(bytes)) {
        struct iovec piece = {bytes + have, sizeof(bytes) - have};
        int64_t received = sl_stream_receive_co(stream, &piece, 1);
        if (received <= 0) {
            *why = "the stream ended";
            return received == 0 ? -ECONNRESET : (int)received;
        }
        have += (size_t)received;
    }
    return sl_tcp_preamble_parse(bytes, preamble, why);
}

int sl_tcp_preamble_send_co(struct sl_stream *stream, enum sl_tcp_preamble_type type,
                            enum sl_tcp_reason reason, const uint8_t *private_data)
{
    struct sl_tcp_preamble preamble;
    sl_tcp_preamble_build(&preamble, type, reason, private_data);
    struct iovec piece = {&preamble, sizeof(preamble)};
    return sl_stream_send_co(stream, &piece, 1, false);
}

static void handshake_expired(struct sl_timer *timer)
{
    struct handshake *handshake = sl_container_of(timer, struct handshake, timer);
    sl_log_warn("tcp", "%s sent no request within %llu s; closing its socket", handshake->peer,
                (unsigned long long)(SL_HANDSHAKE_TIMEOUT_NS / SL_NS_PER_S));
    sl_stream_shutdown(handshake->stream);
}

/* Gives the stream to a new request, or answers NULL and keeps it. */
static struct sl_tcp_incoming *incoming_create(struct handshake *handshake,
                                               const struct sl_tcp_preamble *preamble)
{
    struct sl_tcp_incoming *incoming = calloc(1, sizeof(*incoming));
    if (incoming == NULL)
        return NULL;
    incoming->handle = sl_stream_detach(handshake->stream);
    if (incoming->handle < 0) {
        sl_log_error("tcp", "%s: the socket cannot be handed over: %s", handshake->peer,
                     sl_error_name(incoming->handle));
        free(incoming);
        return NULL;
    }
    handshake->stream = NULL;
    incoming->io = handshake->listener->io;
    incoming->request.ops = &sl_tcp_link_ops;
    memcpy(incoming->request.private_data, preamble->private_data,
           SL_LINK_PRIVATE_BYTES); /* header: private data */
    memcpy(incoming->request.peer, handshake->peer,
           sizeof(incoming->request.peer)); /* header: address */
    return incoming;
}

static void handshake_co(void *argument)
{
    struct handshake *handshake = argument;
    struct sl_link_listener *listener = handshake->listener;
    struct sl_tcp_preamble preamble;
    const char *why = "it is not a request";
    sl_timer_arm(listener->reactor, &handshake->timer,
                 sl_reactor_now_ns(listener->reactor) + SL_HANDSHAKE_TIMEOUT_NS);
    int error = sl_tcp_preamble_receive_co(handshake->stream, &preamble, &why);
    if (error == 0 && preamble.type != SL_TCP_PREAMBLE_REQUEST)
        error = -SL_E_PROTOCOL;
    if (error == -SL_E_VERSION)
        (void)sl_tcp_preamble_send_co(handshake->stream, SL_TCP_PREAMBLE_REJECTED,
                                      SL_TCP_REASON_VERSION, NULL);
    sl_timer_cancel(listener->reactor, &handshake->timer);
    sl_list_remove(&handshake->node);
    listener->handshake_count--;
    struct sl_tcp_incoming *incoming = NULL;
    if (error != 0 && !listener->closed)
        sl_log_warn("tcp", "%s: no connection: %s: %s", handshake->peer, why, sl_error_name(error));
    /* The listener may have been closed meanwhile. */
    if (error == 0 && !listener->closed)
        incoming = incoming_create(handshake, &preamble);
    if (handshake->stream != NULL)
        sl_stream_shutdown(handshake->stream);
    sl_stream_close(handshake->stream);
    free(handshake);
    if (incoming != NULL)
        listener->incoming(listener->owner, &incoming->request);
    listener_unref(listener);
}

/* Takes the stream. */
static void handshake_start(struct sl_link_listener *listener, struct sl_stream *stream,
                            const char *peer)
{
    struct handshake *handshake = NULL;
    if (listener->handshake_count >= SL_TCP_HANDSHAKES_MAX)
        sl_log_warn("tcp", "%s: closed: %u sockets wait for a request already", peer,
                    SL_TCP_HANDSHAKES_MAX);
    else
        handshake = calloc(1, sizeof(*handshake));
    if (handshake == NULL) {
        sl_stream_shutdown(stream);
        sl_stream_close(stream);
        return;
    }
    handshake->listener = listener;
    handshake->stream = stream;
    snprintf(handshake->peer, sizeof(handshake->peer), "%s", peer);
    sl_timer_init(&handshake->timer, handshake_expired);
    int error = sl_co_spawn(listener->reactor, handshake_co, handshake);
    if (error != 0) {
        sl_log_error("tcp", "%s: closed: no stack for its handshake: %s", peer,
                     sl_error_name(error));
        sl_stream_shutdown(stream);
        sl_stream_close(stream);
        free(handshake);
        return;
    }
    listener->references++;
    listener->handshake_count++;
    sl_list_append(&listener->handshakes, &handshake->node);
}

static void accept_co(void *argument)
{
    struct sl_link_listener *listener = argument;
    char peer[SL_ADDRESS_BYTES_MAX];
    while (!listener->closed) {
        struct sl_stream *stream;
        int error = sl_listener_accept_co(listener->listener, peer, &stream);
        if (error == -ECANCELED)
            break;
        if (error != 0) {
            /* Out of descriptors or memory, or the peer is gone already: the next may do better. */
            sl_log_error("tcp", "accept: %s; trying again in 10 ms", sl_error_name(error));
            sl_sleep_co(10 * SL_NS_PER_MS);
            continue;
        }
        if (listener->closed) {
            sl_stream_shutdown(stream);
            sl_stream_close(stream);
            break;
        }
        handshake_start(listener, stream, peer);
    }
    sl_listener_close(listener->listener);
    listener_unref(listener);
}

int sl_tcp_listen(struct sl_link_domain *domain, const char *address,
                  void (*incoming)(void *owner, struct sl_link_incoming *request), void *owner,
                  char *bound, struct sl_link_listener **result)
{
    struct sl_link_listener *listener = calloc(1, sizeof(*listener));
    if (listener == NULL)
        return -ENOMEM;
    listener->domain = domain;
    listener->io = domain->io;
    listener->reactor = domain->reactor;
    listener->incoming = incoming;
    listener->owner = owner;
    listener->references = 1;
    sl_list_init(&listener->handshakes);
    /* ":7600" is that port on the domain's device. */
    char full[SL_ADDRESS_BYTES_MAX];
    bool port_only = address[0] == ':';
    const char *host = domain->address[0] != '\0' ? domain->address : "0.0.0.0";
    snprintf(full, sizeof(full), "%s%s", port_only ? host : "", address);
    char discarded[SL_ADDRESS_BYTES_MAX];
    int error =
        sl_listener_open(domain->io, full, bound != NULL ? bound : discarded, &listener->listener);
    if (error != 0) {
        free(listener);
        return error;
    }
    error = sl_co_spawn(domain->reactor, accept_co, listener);
    if (error != 0) {
        sl_listener_close(listener->listener);
        free(listener);
        return error;
    }
    domain->listener_count++;
    *result = listener;
    return 0;
}

void sl_tcp_listener_close(struct sl_link_listener *listener)
{
    listener->closed = true;
    listener->domain->listener_count--;
    listener->domain = NULL;
    sl_list_for_each(node, &listener->handshakes)
        sl_stream_shutdown(sl_list_entry(node, struct handshake, node)->stream);
    /* The accept coroutine ends and closes it; `listener` may be gone after its next turn. */
    sl_listener_shutdown(listener->listener);
}

static void reject_co(void *argument)
{
    struct sl_tcp_incoming *incoming = argument;
    struct sl_stream *stream;
    int error = sl_stream_adopt(incoming->io, incoming->handle, &stream);
    if (error == 0) {
        /* 64 bytes on a fresh socket: never waits. */
        (void)sl_tcp_preamble_send_co(stream, SL_TCP_PREAMBLE_REJECTED, SL_TCP_REASON_REFUSED,
                                      NULL);
        sl_stream_shutdown(stream);
        sl_stream_close(stream);
    }
    free(incoming);
}

static void reject_deliver(struct sl_mail *mail)
{
    struct sl_tcp_incoming *incoming = sl_container_of(mail, struct sl_tcp_incoming, mail);
    struct sl_stream *stream;
    if (sl_co_spawn(sl_io_reactor(incoming->io), reject_co, incoming) == 0)
        return;
    if (sl_stream_adopt(incoming->io, incoming->handle, &stream) == 0) {
        sl_stream_shutdown(stream);
        sl_stream_close(stream);
    }
    free(incoming);
}

void sl_tcp_reject(struct sl_link_incoming *request)
{
    struct sl_tcp_incoming *incoming = sl_container_of(request, struct sl_tcp_incoming, request);
    incoming->mail.deliver = reject_deliver;
    sl_reactor_post(sl_io_reactor(incoming->io), &incoming->mail);
}
