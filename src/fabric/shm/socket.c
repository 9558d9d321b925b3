/* Unix sockets with descriptors; socket.h says what is promised. Follows unix(7), memfd_create(2),
 * eventfd(2). */
#include "fabric/shm/socket.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/error.h"

/* Since Linux 6.5; older headers lack it. */
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define LISTEN_BACKLOG 128

static int address_fill(const char *path, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length == 0)
        return -EINVAL;
    if (length >= sizeof(address->sun_path))
        return -ENAMETOOLONG;
    memcpy(address->sun_path, path, length + 1); /* header: address */
    return 0;
}

static int socket_open(void)
{
    int descriptor = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return descriptor < 0 ? -errno : descriptor;
}

/* Removes a socket that a dead server left. Anything that is not a socket stays. */
static int stale_remove(const char *path)
{
    struct stat status;
    if (lstat(path, &status) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(status.st_mode))
        return -EADDRINUSE;
    int probe = sl_socket_connect(path);
    if (probe >= 0)
        close(probe);
    if (probe >= 0 || probe == -EAGAIN || probe == -EPROTOTYPE)
        return -EADDRINUSE;
    if (probe != -ECONNREFUSED)
        return probe == -ENOENT ? 0 : probe;
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

int sl_socket_listen(const char *path)
{
    struct sockaddr_un address;
    int error = address_fill(path, &address);
    if (error == 0)
        error = stale_remove(path);
    if (error < 0)
        return error;
    int descriptor = socket_open();
    if (descriptor < 0)
        return descriptor;
    if (bind(descriptor, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(descriptor, LISTEN_BACKLOG) < 0) {
        error = -errno;
        close(descriptor);
        return error;
    }
    return descriptor;
}

int sl_socket_connect(const char *path)
{
    struct sockaddr_un address;
    int error = address_fill(path, &address);
    if (error < 0)
        return error;
    int descriptor = socket_open();
    if (descriptor < 0)
        return descriptor;
    if (connect(descriptor, (struct sockaddr *)&address, sizeof(address)) < 0) {
        error = -errno;
        close(descriptor);
        return error;
    }
    return descriptor;
}

int sl_socket_check_peer(int socket, int *pid)
{
    struct ucred credentials;
    socklen_t length = sizeof(credentials);
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
        return -errno;
    if (pid != NULL)
        *pid = credentials.pid;
    return credentials.uid == 0 || credentials.uid == geteuid() ? 0 : -EPERM;
}

int sl_socket_accept(int listener)
{
    int descriptor = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (descriptor < 0)
        return -errno;
    int error = sl_socket_check_peer(descriptor, NULL);
    if (error < 0) {
        close(descriptor);
        return error;
    }
    return descriptor;
}

int sl_socket_peer_pidfd(int socket)
{
    int pidfd = -1;
    socklen_t length = sizeof(pidfd);
    if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) == 0)
        return pidfd;
    if (errno != ENOPROTOOPT)
        return -errno;
    int pid = 0;
    (void)sl_socket_check_peer(socket, &pid);
    if (pid <= 0)
        return -ESRCH;
    pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    return pidfd < 0 ? -errno : pidfd;
}

int sl_socket_send(int socket, const void *record, size_t length_bytes, const int *descriptors,
                   unsigned descriptor_count)
{
    SL_ASSERT(descriptor_count <= SL_SOCKET_DESCRIPTORS_MAX);
    struct iovec piece = {(void *)(uintptr_t)record, length_bytes};
    _Alignas(struct cmsghdr)
        uint8_t control[CMSG_SPACE(sizeof(int) * SL_SOCKET_DESCRIPTORS_MAX)] = {0};
    struct msghdr header = {.msg_iov = &piece, .msg_iovlen = 1};
    if (descriptor_count > 0) {
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * descriptor_count);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&header);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * descriptor_count);
        memcpy(CMSG_DATA(cmsg), descriptors,
               sizeof(int) * descriptor_count); /* header: descriptors */
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return 0;
    return errno == ETOOMANYREFS ? -EAGAIN : -errno;
}

/* Takes the descriptors of one control message; those beyond what fits are closed and make it an
 * error. */
static int descriptors_take(struct cmsghdr *cmsg, struct sl_socket_message *message)
{
    size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    int error = 0;
    for (size_t i = 0; i < count; i++) {
        int descriptor;
        memcpy(&descriptor, CMSG_DATA(cmsg) + i * sizeof(int),
               sizeof(int)); /* header: descriptor */
        if (message->descriptor_count < SL_SOCKET_DESCRIPTORS_MAX) {
            message->descriptors[message->descriptor_count++] = descriptor;
        } else {
            close(descriptor);
            error = -SL_E_PROTOCOL;
        }
    }
    return error;
}

int sl_socket_receive(int socket, void *record, size_t size_bytes,
                      struct sl_socket_message *message)
{
    struct iovec piece = {record, size_bytes};
    /* Room for one more than allowed, so that too many are seen as such and not cut off silently.
     */
    _Alignas(struct cmsghdr)
        uint8_t control[CMSG_SPACE(sizeof(int) * (SL_SOCKET_DESCRIPTORS_MAX + 1))];
    struct msghdr header = {
        .msg_iov = &piece,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    *message = (struct sl_socket_message){0};
    ssize_t received;
    do
        received = recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (received < 0 && errno == EINTR);
    if (received < 0)
        return -errno;
    int error = 0;
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&header); cmsg != NULL;
         cmsg = CMSG_NXTHDR(&header, cmsg)) {
        if (cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS &&
            descriptors_take(cmsg, message) < 0)
            error = -SL_E_PROTOCOL;
    }
    if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)
        error = -SL_E_PROTOCOL;
    if (received == 0)
        error = -ECONNRESET; /* also an empty record, which nobody sends */
    if (error < 0)
        sl_socket_message_close(message);
    message->length_bytes = (size_t)received;
    return error;
}

void sl_socket_message_close(struct sl_socket_message *message)
{
    for (unsigned i = 0; i < message->descriptor_count; i++) {
        if (message->descriptors[i] >= 0)
            close(message->descriptors[i]);
    }
    message->descriptor_count = 0;
}

int sl_memfd_create(const char *name, size_t length_bytes)
{
    int memfd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memfd < 0)
        return -errno;
    if (ftruncate(memfd, (off_t)length_bytes) < 0 ||
        fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
        int error = -errno;
        close(memfd);
        return error;
    }
    return memfd;
}

int sl_eventfd_create(void)
{
    int descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return descriptor < 0 ? -errno : descriptor;
}

void sl_eventfd_ring(int eventfd)
{
    uint64_t one = 1;
    ssize_t written;
    do
        written = write(eventfd, &one, sizeof(one));
    while (written < 0 && errno == EINTR);
}

int sl_eventfd_check(int eventfd)
{
    char path[64];
    char target[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", eventfd);
    ssize_t length = readlink(path, target, sizeof(target) - 1);
    if (length < 0)
        return -SL_E_PROTOCOL;
    target[length] = '\0';
    int flags = fcntl(eventfd, F_GETFL);
    if (strcmp(target, "anon_inode:[eventfd]") != 0 || flags < 0 ||
        fcntl(eventfd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -SL_E_PROTOCOL;
    return 0;
}

int sl_memfd_check(int memfd, uint64_t length_bytes)
{
    struct stat status;
    struct statfs filesystem;
    int seals = fcntl(memfd, F_GET_SEALS);
    int wanted = F_SEAL_SHRINK | F_SEAL_GROW;
    if (seals < 0 || (seals & wanted) != wanted)
        return -SL_E_PROTOCOL;
    if (fstat(memfd, &status) < 0 || fstatfs(memfd, &filesystem) < 0)
        return -SL_E_PROTOCOL;
    if (filesystem.f_type != TMPFS_MAGIC || (uint64_t)status.st_size != length_bytes)
        return -SL_E_PROTOCOL;
    return 0;
}
