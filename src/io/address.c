/*
 * Addresses as text: "192.0.2.1:7600", "[2001:db8::1]:7600", "host:7600", "unix:/path". Text comes
 * from outside: nothing asserts. Numeric hosts never block; a name blocks in the system's resolver.
 */
#include "io/address.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "io/io.h"

static const char unix_prefix[] = "unix:";

static int resolve_unix(const char *path, struct sl_address *address)
{
    struct sockaddr_un *name = (struct sockaddr_un *)&address->storage;
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof(name->sun_path))
        return -EINVAL;
    memset(address, 0, sizeof(*address));
    name->sun_family = AF_UNIX;
    memcpy(name->sun_path, path, length);
    address->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
    return 1;
}

/* Cuts "host:port" or "[host]:port". */
static int split(const char *text, char *host, size_t host_bytes, const char **port)
{
    const char *start = text;
    const char *end = strrchr(text, ':');
    if (end == NULL)
        return -EINVAL;
    *port = end + 1;
    if (*start == '[') {
        start++;
        end--;
        if (end < start || *end != ']')
            return -EINVAL;
    } else if (memchr(start, ':', (size_t)(end - start)) != NULL) {
        return -EINVAL; /* IPv6 without brackets: where does the port begin? */
    }
    size_t length = (size_t)(end - start);
    if (length == 0 || length >= host_bytes)
        return -EINVAL;
    memcpy(host, start, length);
    host[length] = '\0';
    size_t digits = strspn(*port, "0123456789");
    if (digits == 0 || digits > 5 || (*port)[digits] != '\0' || strtoul(*port, NULL, 10) > 65535)
        return -EINVAL;
    return 0;
}

static int resolver_error(int code)
{
    switch (code) {
    case EAI_AGAIN:
        return -EAGAIN;
    case EAI_MEMORY:
        return -ENOMEM;
    default:
        return -EHOSTUNREACH;
    }
}

int sl_address_resolve(const char *text, struct sl_address *addresses, unsigned limit)
{
    if (strncmp(text, unix_prefix, sizeof(unix_prefix) - 1) == 0)
        return resolve_unix(text + sizeof(unix_prefix) - 1, addresses);
    char host[SL_ADDRESS_BYTES_MAX];
    const char *port = NULL;
    int error = split(text, host, sizeof(host), &port);
    if (error != 0)
        return error;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int code = getaddrinfo(host, port, &hints, &found);
    if (code == EAI_NONAME) {
        hints.ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG;
        code = getaddrinfo(host, port, &hints, &found);
    }
    if (code != 0)
        return resolver_error(code);
    int count = 0;
    for (const struct addrinfo *i = found; i != NULL && count < (int)limit; i = i->ai_next) {
        if (i->ai_addrlen > sizeof(addresses[0].storage))
            continue;
        memset(&addresses[count], 0, sizeof(addresses[count]));
        memcpy(&addresses[count].storage, i->ai_addr, i->ai_addrlen);
        addresses[count].length = i->ai_addrlen;
        count++;
    }
    freeaddrinfo(found);
    return count > 0 ? count : -EHOSTUNREACH;
}

void sl_address_format(const struct sl_address *address, char *text)
{
    const struct sockaddr *name = (const struct sockaddr *)&address->storage;
    if (name->sa_family == AF_UNIX) {
        const struct sockaddr_un *path = (const struct sockaddr_un *)name;
        bool named = address->length > offsetof(struct sockaddr_un, sun_path);
        snprintf(text, SL_ADDRESS_BYTES_MAX, "unix:%.*s", (int)sizeof(path->sun_path),
                 named ? path->sun_path : "");
        return;
    }
    char host[INET6_ADDRSTRLEN + 64];
    char port[8];
    if (getnameinfo(name, address->length, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(text, SL_ADDRESS_BYTES_MAX, "?");
    else
        snprintf(text, SL_ADDRESS_BYTES_MAX, name->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s",
                 host, port);
}
