/*
 * Byte streams over TCP and Unix sockets: one submission a call; state on the waiting coroutine's
 * stack.
 *
 * Invariants
 * - Sockets are in blocking mode: io_uring waits for them itself, without a thread (with O_NONBLOCK
 * it would answer EAGAIN).
 * - At most one receive and one send are pending; close and detach need none.
 * - A send is complete when the kernel has all bytes (MSG_WAITALL continues short ones inside the
 * kernel); a zero-copy one when it has given the pages back (its notification), whichever end the
 * connection took.
 *
 * Owner: the stream's reactor.
 */
#include "io/uring/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static int connect_address_co(struct sl_uring *uring, const struct uring_address *address,
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
    struct uring_address addresses[CONNECT_ADDRESSES_MAX];
    int count = uring_address_resolve(address, addresses, CONNECT_ADDRESSES_MAX);
    if (count < 0)
        return count;
    int handle = -EINVAL;
    for (int i = 0; i < count && handle < 0 && handle != -ETIMEDOUT; i++)
        handle = connect_address_co(uring, &addresses[i], deadline_ns);
    return handle < 0 ? handle : uring_stream_create(uring, handle, stream);
}

int64_t uring_stream_receive_co(struct sl_stream *stream, const struct iovec *pieces,
                                unsigned piece_count)
{
    struct uring_stream *uring_stream = stream_of(stream);
    struct sl_uring *uring = uring_of(stream->io);
    SL_ASSERT(!uring_stream->receiving);
    uring_stream->receiving = true;
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)pieces,
                             .msg_iovlen = piece_count};
    int result;
    do {
        struct uring_wait_op wait_op;
        uring_wait_op_init(&wait_op);
        struct io_uring_sqe *sqe = uring_sqe(uring);
        if (piece_count == 1)
            io_uring_prep_recv(sqe, uring_stream->descriptor, pieces[0].iov_base, pieces[0].iov_len,
                               0);
        else
            io_uring_prep_recvmsg(sqe, uring_stream->descriptor, &message, 0);
        if (uring_stream->dry)
            sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
        uring_queue(uring, sqe, &wait_op.op);
        result = (int)sl_wait_co(&wait_op.wait);
        uring_stream->dry = (wait_op.flags & IORING_CQE_F_SOCK_NONEMPTY) == 0;
    } while (result == -EINTR);
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
