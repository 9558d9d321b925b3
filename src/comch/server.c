/*
 * A channel's server: holds the channel's name, accepts initiators. The name is held by a lock on
 * PATH.lock, which goes with the process that holds it, so a socket that a dead server left is
 * known as such and replaced. Owner: the control reactor.
 */
#include "comch/server.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/log.h"

#define ACCEPT_RETRY_NS (100 * SL_NS_PER_MS)
#define LOCK_TRIES_MAX  10

static int lock_path(const char *path, char *lock, size_t lock_bytes)
{
    int length = snprintf(lock, lock_bytes, "%s.lock", path);
    return length < 0 || (size_t)length >= lock_bytes ? -ENAMETOOLONG : 0;
}

/* The lock's descriptor or negative errno. A holder removes the file before it lets go, so what was
 * locked may have no name any more: then it is tried again. */
static int lock_take(const char *path)
{
    char name[128];
    int error = lock_path(path, name, sizeof(name));
    for (unsigned i = 0; error == 0 && i < LOCK_TRIES_MAX; i++) {
        int lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (lock < 0)
            return -errno;
        struct stat ours;
        struct stat named;
        if (flock(lock, LOCK_EX | LOCK_NB) < 0)
            error = errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
        else if (fstat(lock, &ours) == 0 && stat(name, &named) == 0 &&
                 ours.st_ino == named.st_ino && ours.st_dev == named.st_dev)
            return lock;
        close(lock);
    }
    return error < 0 ? error : -EADDRINUSE;
}

static void lock_give(const char *path, int lock)
{
    char name[128];
    if (lock_path(path, name, sizeof(name)) == 0)
        unlink(name);
    close(lock);
}

static int accept_all(struct sl_comch_server *server)
{
    for (;;) {
        int socket = sl_socket_accept(server->socket);
        if (socket == -EPERM) {
            sl_log_warn("comch", "%s: refused a process of another user", server->path);
            continue;
        }
        if (socket == -ECONNABORTED || socket == -EINTR)
            continue;
        if (socket < 0)
            return socket;
        if (server->session_count == COMCH_SESSIONS_MAX) {
            sl_log_warn("comch", "%s: refused an initiator: there are %u (limit %u)", server->path,
                        server->session_count, COMCH_SESSIONS_MAX);
            close(socket);
            continue;
        }
        int error = comch_session_begin(server, socket);
        if (error < 0)
            return error;
    }
}

static void server_accept_co(void *argument)
{
    struct sl_comch_server *server = argument;
    while (!server->closing) {
        (void)sl_descriptor_wait_co(server->io, server->socket, POLLIN, UINT64_MAX);
        if (server->closing)
            break;
        int error = accept_all(server);
        if (error != -EAGAIN) {
            sl_log_error("comch", "accept on %s: %s; trying again", server->path,
                         sl_error_name(error));
            sl_sleep_co(ACCEPT_RETRY_NS);
        }
    }
    server->accepting = false;
    sl_wait_queue_wake_all(&server->ended, 0);
}

int sl_comch_server_open(struct sl_io *io, const char *path,
                         const struct sl_comch_handlers *handlers, void *owner,
                         struct sl_comch_server **result)
{
    struct sl_comch_server *server = calloc(1, sizeof(*server));
    if (server == NULL)
        return -ENOMEM;
    *server = (struct sl_comch_server){
        .io = io,
        .reactor = sl_io_reactor(io),
        .handlers = handlers,
        .owner = owner,
        .socket = -1,
        .lock = -1,
        .accepting = true,
    };
    sl_list_init(&server->sessions);
    sl_wait_queue_init(&server->ended);
    int error = strlen(path) < sizeof(server->path) ? 0 : -ENAMETOOLONG;
    if (error == 0) {
        memcpy(server->path, path, strlen(path) + 1); /* header: a name */
        server->lock = lock_take(path);
        error = sl_min(server->lock, 0);
    }
    if (error == 0) {
        server->socket = sl_socket_listen(path);
        error = sl_min(server->socket, 0);
    }
    if (error == 0)
        error = sl_co_spawn(server->reactor, server_accept_co, server);
    if (error < 0) {
        if (server->socket >= 0) {
            unlink(path);
            close(server->socket);
        }
        if (server->lock >= 0)
            lock_give(path, server->lock);
        free(server);
        return error;
    }
    *result = server;
    return 0;
}

void sl_comch_server_close_co(struct sl_comch_server *server)
{
    if (server == NULL)
        return;
    server->closing = true;
    sl_descriptor_cancel(server->io, server->socket);
    unlink(server->path);
    close(server->socket);
    sl_list_for_each(node, &server->sessions)
        sl_comch_session_disconnect(sl_list_entry(node, struct sl_comch_session, node), -ECANCELED);
    while (server->accepting || server->session_count > 0)
        (void)sl_wait_queue_co(&server->ended);
    lock_give(server->path, server->lock);
    free(server);
}

unsigned sl_comch_server_session_count(const struct sl_comch_server *server)
{
    return server->session_count;
}
