/*
 * Addresses as text: "192.0.2.1:7600", "[2001:db8::1]:7600", "host:7600", "unix:/path". For what
 * stands below the seams: io_uring's sockets and the ofi link. Any thread.
 */
#ifndef SL_IO_ADDRESS_H
#define SL_IO_ADDRESS_H

#include <sys/socket.h>

struct sl_address {
    struct sockaddr_storage storage;
    socklen_t length;
};

/* Up to `limit` addresses. Blocks in the resolver if the host is a name. How many (> 0), -EINVAL
 * (malformed), -EHOSTUNREACH (no such host), -EAGAIN (resolver), -ENOMEM. */
int sl_address_resolve(const char *text, struct sl_address *addresses, unsigned limit);
/* Writes at most SL_ADDRESS_BYTES_MAX. */
void sl_address_format(const struct sl_address *address, char *text);

#endif
