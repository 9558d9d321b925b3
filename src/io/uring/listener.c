/*
 * Listeners: TCP and Unix sockets.
 *
 * A Unix socket file outlives its process. One that is in the way is removed only if nobody holds
 * its socket (connect(2) is refused); check, removal and bind happen under a lock on the directory,
 * so that of two programs that start at once one gets -EADDRINUSE. At close the file is removed if
 * it is still ours. Owner: the listener's reactor.
 */
#include "io/address.h"
#include "io/uring/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct uring_listener {
    struct sl_listener listener;
    int descriptor;
    bool closing;
    unsigned accept_count;                                           /* that wait */
    char unix_path[sizeof(((struct sockaddr_un *)0)->sun_path) + 1]; /* "" = not ours to remove */
    dev_t unix_device;
    ino_t unix_inode;
};

/* True if no process holds the socket file's socket any more. Asked with a datagram socket: a live
 * stream socket answers EPROTOTYPE and sees no connection (unix_find_other). */
static bool unix_is_stale(const struct sl_address *address)
{
    const struct sockaddr_un *name = (const struct sockaddr_un *)&address->storage;
    struct stat status;
    if (lstat(name->sun_path, &status) != 0 || !S_ISSOCK(status.st_mode))
        return false;
    int probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (probe < 0)
        return false;
    bool refused = connect(probe, (const struct sockaddr *)name, address->length) != 0 &&
                   errno == ECONNREFUSED;
    close(probe);
    return refused;
}

static int unix_bind_listen(int handle, const struct sl_address *address)
{
    const struct sockaddr_un *name = (const struct sockaddr_un *)&address->storage;
    char directory[sizeof(name->sun_path) + 1];
    memcpy(directory, name->sun_path, sizeof(name->sun_path));
    directory[sizeof(name->sun_path)] = '\0';
    int lock = open(dirname(directory), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock >= 0)
        (void)flock(lock, LOCK_EX);
    int error = 0;
    if (bind(handle, (const struct sockaddr *)name, address->length) != 0) {
        error = -errno;
        if (error == -EADDRINUSE && unix_is_stale(address) && unlink(name->sun_path) == 0)
            error = bind(handle, (const struct sockaddr *)name, address->length) == 0 ? 0 : -errno;
    }
    if (error == 0 && listen(handle, SOMAXCONN) != 0)
        error = -errno;
    if (lock >= 0)
        close(lock);
    return error;
}

static int tcp_bind_listen(int handle, const struct sl_address *address)
{
    int one = 1;
    (void)setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(handle, (const struct sockaddr *)&address->storage, address->length) != 0 ||
        listen(handle, SOMAXCONN) != 0)
        return -errno;
    return 0;
}

/* So that close removes our socket file and no other. */
static void unix_remember(struct uring_listener *listener, const struct sl_address *address)
{
    const struct sockaddr_un *name = (const struct sockaddr_un *)&address->storage;
    struct stat status;
    if (lstat(name->sun_path, &status) != 0)
        return;
    memcpy(listener->unix_path, name->sun_path, sizeof(name->sun_path));
    listener->unix_device = status.st_dev;
    listener->unix_inode = status.st_ino;
}

int uring_listener_open(struct sl_io *io, const char *address, char *bound,
                        struct sl_listener **listener)
{
    struct sl_address local;
    int count = sl_address_resolve(address, &local, 1);
    if (count < 0)
        return count;
    struct uring_listener *uring_listener = calloc(1, sizeof(*uring_listener));
    if (uring_listener == NULL)
        return -ENOMEM;
    int family = local.storage.ss_family;
    int handle = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int error = handle < 0 ? -errno : 0;
    if (error == 0)
        error =
            family == AF_UNIX ? unix_bind_listen(handle, &local) : tcp_bind_listen(handle, &local);
    if (error != 0) {
        if (handle >= 0)
            close(handle);
        free(uring_listener);
        return error;
    }
    if (family == AF_UNIX)
        unix_remember(uring_listener, &local);
    if (bound != NULL) {
        local.length = sizeof(local.storage);
        (void)getsockname(handle, (struct sockaddr *)&local.storage, &local.length);
        sl_address_format(&local, bound);
    }
    uring_listener->listener.io = io;
    uring_listener->descriptor = handle;
    *listener = &uring_listener->listener;
    return 0;
}

int uring_listener_accept_co(struct sl_listener *listener, char *peer, struct sl_stream **stream)
{
    struct uring_listener *uring_listener =
        sl_container_of(listener, struct uring_listener, listener);
    struct sl_uring *uring = uring_of(listener->io);
    struct sl_address remote;
    int handle = -ECONNABORTED;
    uring_listener->accept_count++;
    /* A connection that went before we came is not the caller's concern. */
    while (!uring_listener->closing &&
           (handle == -ECONNABORTED || handle == -EINTR || handle == -EPROTO)) {
        struct uring_wait_op wait_op;
        uring_wait_op_init(&wait_op);
        remote.length = sizeof(remote.storage);
        struct io_uring_sqe *sqe = uring_sqe(uring);
        io_uring_prep_accept(sqe, uring_listener->descriptor, (struct sockaddr *)&remote.storage,
                             &remote.length, SOCK_CLOEXEC);
        uring_queue(uring, sqe, &wait_op.op);
        handle = (int)sl_wait_co(&wait_op.wait);
    }
    uring_listener->accept_count--;
    /* After the await: it may have been shut down meanwhile, also with a connection in hand. */
    if (uring_listener->closing) {
        if (handle >= 0)
            close(handle);
        return -ECANCELED;
    }
    if (handle < 0)
        return handle;
    if (peer != NULL)
        sl_address_format(&remote, peer);
    return uring_stream_create(uring, handle, stream);
}

void uring_listener_shutdown(struct sl_listener *listener)
{
    struct uring_listener *uring_listener =
        sl_container_of(listener, struct uring_listener, listener);
    struct sl_uring *uring = uring_of(listener->io);
    if (uring_listener->closing)
        return;
    uring_listener->closing = true;
    /* No more connections; ends an accept of a TCP socket, the cancellation those of any. */
    (void)shutdown(uring_listener->descriptor, SHUT_RDWR);
    if (uring_listener->accept_count == 0)
        return;
    struct io_uring_sqe *sqe = uring_sqe(uring);
    io_uring_prep_cancel_fd(sqe, uring_listener->descriptor, IORING_ASYNC_CANCEL_ALL);
    uring_queue(uring, sqe, NULL);
}

void uring_listener_close(struct sl_listener *listener)
{
    struct uring_listener *uring_listener =
        sl_container_of(listener, struct uring_listener, listener);
    SL_ASSERT(uring_listener->accept_count == 0);
    struct stat status;
    if (uring_listener->unix_path[0] != '\0' && lstat(uring_listener->unix_path, &status) == 0 &&
        status.st_dev == uring_listener->unix_device && status.st_ino == uring_listener->unix_inode)
        (void)unlink(uring_listener->unix_path);
    close(uring_listener->descriptor);
    free(uring_listener);
}
