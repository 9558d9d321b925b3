/*
 * Byte streams over TCP and Unix sockets. What the socket can do at once is done by a system call;
 * what has to wait is one submission to the ring, its state on the waiting coroutine's stack.
 *
 *   receive   data known to be there ─► recvmsg ─► done
 *             else: looked for once a turn while the reactor is awake (uring_streams_poll);
 *             before it sleeps, or with more than DRY_POLLED_MAX: a RECV that waits
 *   send      ─► sendmsg ─► all taken: done; else a SEND for the rest
 *
 * A request of the ring costs about as much as the system call that it saves, and a turn of the
 * reactor: 4 us of a round trip (docs/performance.md).
 *
 * Invariants
 * - Sockets are in blocking mode: io_uring waits for them itself, without a thread (with O_NONBLOCK
 * it would answer EAGAIN). Our own calls say MSG_DONTWAIT.
 * - After RECEIVES_AT_ONCE of our own, a receive goes through the ring: a peer that never stops
 * sending leaves turns to others.
 * - At most one receive and one send are pending; close and detach need none.
 * - A send is complete when the kernel has all bytes (MSG_WAITALL continues short ones inside the
 * kernel); a zero-copy one when it has given the pages back (its notification), whichever end the
 * connection took.
 *
 * Owner: the stream's reactor.
 */
#include "io/address.h"
#include "io/uring/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Two calls take a frame of the tcp link in: so four frames. */
#define RECEIVES_AT_ONCE 8u
/* Receives that wait by being tried each turn. Such a look costs 0.3 us, a RECV of the ring with
 * its wake-up 1.3 us: for a few busy peers the looks win, for many they would fill the turn. */
#define DRY_POLLED_MAX 4u

/* Names may have several addresses; those beyond are not tried. */
#define CONNECT_ADDRESSES_MAX 4

struct uring_stream {
    struct sl_stream stream;
    int descriptor;
    bool receiving;
    bool sending;
    bool sending_zero_copy;
    bool zero_copy_refused; /* the kernel cannot for this socket */
    bool dry;               /* the last receive took all there was: wait first, then try */
    uint8_t at_once_count;  /* receives since the last that went through the ring */
    bool shut_down;
};

/* A zero-copy send completes twice: with its result, then when its pages are free. */
struct zero_copy_op {
    struct uring_op op;
    struct sl_wait wait;
    int32_t result;
};

static struct uring_stream *stream_of(struct sl_stream *stream)
{
    return sl_container_of(stream, struct uring_stream, stream);
}

static bool same_host(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
    if (a->ss_family != b->ss_family)
        return false;
    if (a->ss_family == AF_INET)
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)b)->sin_addr.s_addr;
    return a->ss_family == AF_INET6 &&
           memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
                  &((const struct sockaddr_in6 *)b)->sin6_addr, sizeof(struct in6_addr)) == 0;
}

/* Between two programs of one host there is no network whose congestion could be modelled. BBR, the
 * default of many hosts, paces there too: by a timer, in pieces. That costs half of the CPU of
 * large transfers (docs/performance.md). reno is in every kernel, open to every user, and does not
 * pace. To other hosts the host's choice stands. */
static void tune_congestion(int handle)
{
    static const char unpaced[] = "reno";
    struct sockaddr_storage local, peer;
    socklen_t local_bytes = sizeof(local), peer_bytes = sizeof(peer);
    if (getsockname(handle, (struct sockaddr *)&local, &local_bytes) == 0 &&
        getpeername(handle, (struct sockaddr *)&peer, &peer_bytes) == 0 && same_host(&local, &peer))
        (void)setsockopt(handle, IPPROTO_TCP, TCP_CONGESTION, unpaced, sizeof(unpaced) - 1);
}

int uring_stream_create(struct sl_uring *uring, int handle, struct sl_stream **stream)
{
    struct uring_stream *uring_stream = calloc(1, sizeof(*uring_stream));
    if (uring_stream == NULL) {
        close(handle);
        return -ENOMEM;
    }
    /* Our frames are gathered already; refused by Unix sockets. */
    int one = 1;
    (void)setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    tune_congestion(handle);
    uring_stream->stream.io = &uring->io;
    uring_stream->descriptor = handle;
    *stream = &uring_stream->stream;
    return 0;
}

static int connect_address_co(struct sl_uring *uring, const struct sl_address *address,
                              uint64_t deadline_ns)
{
    int handle = socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (handle < 0)
        return -errno;
    struct uring_wait_op wait_op;
    uring_wait_op_init(&wait_op);
    struct io_uring_sqe *sqe = uring_sqe(uring);
    io_uring_prep_connect(sqe, handle, (const struct sockaddr *)&address->storage, address->length);
    uring_queue(uring, sqe, &wait_op.op);
    int result = uring_wait_op_co(uring, &wait_op, deadline_ns);
    if (result < 0) {
        close(handle);
        return result;
    }
    return handle;
}

int uring_stream_connect_co(struct sl_io *io, const char *address, uint64_t deadline_ns,
                            struct sl_stream **stream)
{
    struct sl_uring *uring = uring_of(io);
    struct sl_address addresses[CONNECT_ADDRESSES_MAX];
    int count = sl_address_resolve(address, addresses, CONNECT_ADDRESSES_MAX);
    if (count < 0)
        return count;
    int handle = -EINVAL;
    for (int i = 0; i < count && handle < 0 && handle != -ETIMEDOUT; i++)
        handle = connect_address_co(uring, &addresses[i], deadline_ns);
    return handle < 0 ? handle : uring_stream_create(uring, handle, stream);
}

static size_t pieces_bytes(const struct iovec *pieces, unsigned piece_count)
{
    size_t total = 0;
    for (unsigned i = 0; i < piece_count; i++)
        total += pieces[i].iov_len;
    return total;
}

/* What is there already: its bytes (0: the end), or negative errno; -EAGAIN: nothing, wait. */
static int64_t receive_at_once(struct uring_stream *stream, struct msghdr *message)
{
    ssize_t received = recvmsg(stream->descriptor, message, MSG_DONTWAIT);
    if (received < 0)
        return errno == EINTR || errno == EWOULDBLOCK ? -EAGAIN : -errno;
    stream->at_once_count++;
    stream->dry = (size_t)received < pieces_bytes(message->msg_iov, message->msg_iovlen);
    return received;
}

/* A receive that waits. */
struct receive_wait {
    struct sl_list node; /* in sl_uring.dry_receives, while no RECV was queued */
    struct uring_stream *stream;
    struct msghdr *message;
    struct uring_wait_op wait_op;
};

static void receive_queue(struct receive_wait *receive)
{
    struct uring_stream *stream = receive->stream;
    struct sl_uring *uring = uring_of(stream->stream.io);
    struct io_uring_sqe *sqe = uring_sqe(uring);
    const struct iovec *pieces = receive->message->msg_iov;
    if (receive->message->msg_iovlen == 1)
        io_uring_prep_recv(sqe, stream->descriptor, pieces[0].iov_base, pieces[0].iov_len, 0);
    else
        io_uring_prep_recvmsg(sqe, stream->descriptor, receive->message, 0);
    if (stream->dry)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    uring_queue(uring, sqe, &receive->wait_op.op);
}

static void dry_remove(struct sl_uring *uring, struct receive_wait *receive)
{
    sl_list_remove(&receive->node);
    uring->dry_receive_count--;
}

unsigned uring_streams_poll(struct sl_uring *uring)
{
    unsigned count = 0;
    /* What the last turn brought is answered in this one, before the next look. */
    if (uring->dry_receives_hit) {
        uring->dry_receives_hit = false;
        return 0;
    }
    sl_list_for_each(node, &uring->dry_receives)
    {
        struct receive_wait *receive = sl_list_entry(node, struct receive_wait, node);
        int64_t result = receive_at_once(receive->stream, receive->message);
        if (result == -EAGAIN)
            continue;
        dry_remove(uring, receive);
        sl_wait_wake(&receive->wait_op.wait, result);
        count++;
    }
    uring->dry_receives_hit = count > 0;
    return count;
}

void uring_streams_arm(struct sl_uring *uring)
{
    sl_list_for_each(node, &uring->dry_receives)
    {
        struct receive_wait *receive = sl_list_entry(node, struct receive_wait, node);
        dry_remove(uring, receive);
        receive_queue(receive);
    }
}

static int64_t receive_wait_co(struct uring_stream *stream, struct msghdr *message)
{
    struct sl_uring *uring = uring_of(stream->stream.io);
    struct receive_wait receive = {.stream = stream, .message = message};
    uring_wait_op_init(&receive.wait_op);
    if (stream->dry && uring->dry_receive_count < DRY_POLLED_MAX) {
        sl_list_append(&uring->dry_receives, &receive.node);
        uring->dry_receive_count++;
        int64_t result = sl_wait_co(&receive.wait_op.wait);
        stream->at_once_count = 0;
        return result;
    }
    receive_queue(&receive);
    int64_t result = sl_wait_co(&receive.wait_op.wait);
    stream->dry = (receive.wait_op.flags & IORING_CQE_F_SOCK_NONEMPTY) == 0;
    stream->at_once_count = 0;
    return result;
}

int64_t uring_stream_receive_co(struct sl_stream *stream, const struct iovec *pieces,
                                unsigned piece_count)
{
    struct uring_stream *uring_stream = stream_of(stream);
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)pieces,
                             .msg_iovlen = piece_count};
    SL_ASSERT(!uring_stream->receiving);
    uring_stream->receiving = true;
    int64_t result = -EAGAIN;
    if (!uring_stream->dry && uring_stream->at_once_count < RECEIVES_AT_ONCE) {
        result = receive_at_once(uring_stream, &message);
        uring_stream->dry |= result == -EAGAIN;
    }
    while (result == -EAGAIN || result == -EINTR)
        result = receive_wait_co(uring_stream, &message);
    uring_stream->receiving = false;
    return result;
}

static void zero_copy_complete(struct uring_op *op, int32_t result, uint32_t flags)
{
    struct zero_copy_op *zero_copy = sl_container_of(op, struct zero_copy_op, op);
    if ((flags & IORING_CQE_F_NOTIF) == 0)
        zero_copy->result = result;
    if ((flags & IORING_CQE_F_MORE) == 0)
        sl_wait_wake(&zero_copy->wait, zero_copy->result);
}

/* Bytes that the kernel took, or negative errno. */
static int send_zero_copy_co(struct uring_stream *stream, const struct msghdr *message)
{
    struct sl_uring *uring = uring_of(stream->stream.io);
    struct zero_copy_op zero_copy = {.op.complete = zero_copy_complete};
    sl_wait_init(&zero_copy.wait);
    struct io_uring_sqe *sqe = uring_sqe(uring);
    io_uring_prep_sendmsg_zc(sqe, stream->descriptor, message, MSG_NOSIGNAL | MSG_WAITALL);
    uring_queue(uring, sqe, &zero_copy.op);
    stream->sending_zero_copy = true;
    int result = (int)sl_wait_co(&zero_copy.wait);
    stream->sending_zero_copy = false;
    return result;
}

static int send_some_co(struct uring_stream *stream, const struct iovec *pieces,
                        unsigned piece_count, bool zero_copy)
{
    struct sl_uring *uring = uring_of(stream->stream.io);
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)pieces,
                             .msg_iovlen = piece_count};
    if (zero_copy && !stream->zero_copy_refused) {
        int result = send_zero_copy_co(stream, &message);
        /* Pinning may also be refused now and then, for want of memory. */
        bool refused = result == -EOPNOTSUPP || result == -EINVAL;
        stream->zero_copy_refused |= refused;
        if (!refused && result != -ENOMEM && result != -ENOBUFS)
            return result;
    }
    ssize_t sent = sendmsg(stream->descriptor, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0)
        return (int)sent;
    if (sent < 0 && errno != EAGAIN && errno != EINTR)
        return -errno;
    struct uring_wait_op wait_op;
    uring_wait_op_init(&wait_op);
    struct io_uring_sqe *sqe = uring_sqe(uring);
    if (piece_count == 1)
        io_uring_prep_send(sqe, stream->descriptor, pieces[0].iov_base, pieces[0].iov_len,
                           MSG_NOSIGNAL | MSG_WAITALL);
    else
        io_uring_prep_sendmsg(sqe, stream->descriptor, &message, MSG_NOSIGNAL | MSG_WAITALL);
    uring_queue(uring, sqe, &wait_op.op);
    return (int)sl_wait_co(&wait_op.wait);
}

int uring_stream_send_co(struct sl_stream *stream, const struct iovec *pieces, unsigned piece_count,
                         bool zero_copy)
{
    struct uring_stream *uring_stream = stream_of(stream);
    SL_ASSERT(!uring_stream->sending);
    uring_stream->sending = true;
    int error = 0;
    size_t cut =
        0; /* bytes of pieces[0] that are sent; a short send is rare, so it costs a send more */
    while (piece_count > 0 && error == 0) {
        struct iovec rest = {(uint8_t *)pieces[0].iov_base + cut, pieces[0].iov_len - cut};
        if (rest.iov_len == 0) {
            pieces++;
            piece_count--;
            cut = 0;
            continue;
        }
        int sent = cut > 0 ? send_some_co(uring_stream, &rest, 1, zero_copy)
                           : send_some_co(uring_stream, pieces, piece_count, zero_copy);
        if (sent <= 0) {
            error = sent == 0 ? -EPIPE : sent == -EINTR ? 0 : sent;
            continue;
        }
        for (size_t left = (size_t)sent; left > 0 && piece_count > 0;) {
            size_t step = sl_min(left, pieces[0].iov_len - cut);
            cut += step;
            left -= step;
            if (cut == pieces[0].iov_len) {
                pieces++;
                piece_count--;
                cut = 0;
            }
        }
    }
    uring_stream->sending = false;
    return error;
}

void uring_stream_shutdown(struct sl_stream *stream)
{
    struct uring_stream *uring_stream = stream_of(stream);
    if (uring_stream->shut_down)
        return;
    uring_stream->shut_down = true;
    (void)shutdown(uring_stream->descriptor, SHUT_RDWR);
    /* Pages of a zero-copy send wait for the peer's acknowledgement, maybe for minutes if it is
     * gone. Disconnecting resets the connection and drops them at once (tcp_disconnect). */
    if (uring_stream->sending_zero_copy) {
        struct sockaddr none = {.sa_family = AF_UNSPEC};
        (void)connect(uring_stream->descriptor, &none, sizeof(none));
    }
}

static int stream_release(struct uring_stream *stream)
{
    int handle = stream->descriptor;
    SL_ASSERT(!stream->receiving && !stream->sending);
    free(stream);
    return handle;
}

void uring_stream_close(struct sl_stream *stream)
{
    close(stream_release(stream_of(stream)));
}

int uring_stream_detach(struct sl_stream *stream)
{
    return stream_release(stream_of(stream));
}

int uring_stream_adopt(struct sl_io *io, int handle, struct sl_stream **stream)
{
    int flags = fcntl(handle, F_GETFL);
    if (flags < 0)
        return -errno; /* it is none: nothing to close */
    if ((flags & O_NONBLOCK) != 0 && fcntl(handle, F_SETFL, flags & ~O_NONBLOCK) != 0) {
        int error = -errno;
        close(handle);
        return error;
    }
    return uring_stream_create(uring_of(io), handle, stream);
}
