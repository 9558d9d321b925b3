/*
 * Unix sockets that pass descriptors (SOCK_SEQPACKET), and the checks of what comes through them.
 * Nothing here blocks or suspends, except the connect of a full backlog, which answers -EAGAIN. Any
 * thread.
 */
#ifndef SL_FABRIC_SHM_SOCKET_H
#define SL_FABRIC_SHM_SOCKET_H

#include "core/base.h"

/* Ring memory and two doorbells. */
#define SL_SOCKET_DESCRIPTORS_MAX 3

struct sl_socket_message {
    size_t length_bytes; /* received: of the record */
    unsigned descriptor_count;
    int descriptors[SL_SOCKET_DESCRIPTORS_MAX]; /* received: the caller's, close-on-exec */
};

/* Binds and listens at `path`; a socket at which nobody listens is replaced. -EADDRINUSE: somebody
 * does. -ENAMETOOLONG, -EACCES, … The descriptor does not block. */
int sl_socket_listen(const char *path);
/* The descriptor, or -EAGAIN, -ECONNREFUSED, -ENOENT, -ENAMETOOLONG, … */
int sl_socket_connect(const char *path);
/* The descriptor, or -EAGAIN, -EPERM (another user than ours and root; it was hung up), … */
int sl_socket_accept(int listener);
/* 0, or -EPERM if the peer runs as another user than ours and root. `pid` may be NULL. */
int sl_socket_check_peer(int socket, int *pid);
/* A pidfd of the peer, or negative errno (-ESRCH: it has gone). */
int sl_socket_peer_pidfd(int socket);

/* One record with descriptors (borrowed). 0, -EAGAIN (no room), -EPIPE, -ECONNRESET. */
int sl_socket_send(int socket, const void *record, size_t length_bytes, const int *descriptors,
                   unsigned descriptor_count);
/* One record. 0 and *message, -EAGAIN, -ECONNRESET (end of the stream), -SL_E_PROTOCOL (longer than
 * `size_bytes`, or more descriptors than SL_SOCKET_DESCRIPTORS_MAX: none is kept). */
int sl_socket_receive(int socket, void *record, size_t size_bytes,
                      struct sl_socket_message *message);
/* Closes what the caller has not taken (set to -1 what was). */
void sl_socket_message_close(struct sl_socket_message *message);

/* A zeroed memfd, sealed against shrinking and growing. The descriptor or negative errno. */
int sl_memfd_create(const char *name, size_t length_bytes);
/* An eventfd that does not block. */
int sl_eventfd_create(void);
/* Adds one; a counter that is full is as good as rung. */
void sl_eventfd_ring(int eventfd);
/* 0, or -SL_E_PROTOCOL: not an eventfd. Makes it non-blocking. */
int sl_eventfd_check(int eventfd);
/* A memfd of ordinary pages, sealed against shrinking and growing, of exactly `length_bytes`? 0 or
 * -SL_E_PROTOCOL. Ordinary pages cannot run out under us as huge ones can after a hole was punched.
 */
int sl_memfd_check(int memfd, uint64_t length_bytes);

#endif
