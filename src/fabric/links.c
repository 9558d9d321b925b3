/*
 * The links that this build has, and what -d may name. The simulator's link is not here: tests name
 * it themselves. No state; any thread.
 */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"
#include "fabric/link.h"
#include "fabric/ofi/ofi.h"
#include "fabric/shm/shm.h"
#include "fabric/tcp/tcp.h"

static const struct sl_link_ops *const links[] = {
    &sl_tcp_link_ops,
    &sl_shm_link_ops,
    &sl_ofi_link_ops,
    NULL,
};

const struct sl_link_ops *const *sl_links(void)
{
    return links;
}

const struct sl_link_ops *sl_link_find(const char *name)
{
    for (unsigned i = 0; links[i] != NULL; i++)
        if (strcmp(links[i]->name, name) == 0)
            return links[i];
    return NULL;
}

static bool address_is(const struct sockaddr *address, const char *text)
{
    char own[INET6_ADDRSTRLEN];
    const void *bytes;
    if (address->sa_family == AF_INET)
        bytes = &((const struct sockaddr_in *)(const void *)address)->sin_addr;
    else
        bytes = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
    struct in6_addr canonical;
    char wanted[INET6_ADDRSTRLEN];
    if (inet_pton(address->sa_family, text, &canonical) != 1)
        return false;
    return inet_ntop(address->sa_family, bytes, own, sizeof(own)) != NULL &&
           inet_ntop(address->sa_family, &canonical, wanted, sizeof(wanted)) != NULL &&
           strcmp(own, wanted) == 0;
}

static void append(char *text, size_t text_bytes, const char *more)
{
    size_t used = strlen(text);
    snprintf(text + used, text_bytes - used, "%s", more);
}

/* True if `device` is an interface of this machine that is up, or one of its addresses. Otherwise
 * `list` gets what there is. */
static bool interface_exists(const char *device, char *list, size_t list_bytes)
{
    struct ifaddrs *interfaces;
    bool found = false;
    list[0] = '\0';
    if (getifaddrs(&interfaces) != 0)
        return false;
    for (struct ifaddrs *i = interfaces; i != NULL && !found; i = i->ifa_next) {
        if (i->ifa_addr == NULL || (i->ifa_flags & IFF_UP) == 0 ||
            (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6))
            continue;
        found = strcmp(i->ifa_name, device) == 0 || address_is(i->ifa_addr, device);
        if (i->ifa_addr->sa_family != AF_INET)
            continue;
        char address[INET_ADDRSTRLEN] = "?";
        char line[IF_NAMESIZE + INET_ADDRSTRLEN + 8];
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)i->ifa_addr)->sin_addr,
                  address, sizeof(address));
        snprintf(line, sizeof(line), ", %s (%s)", i->ifa_name, address);
        append(list, list_bytes, line);
    }
    freeifaddrs(interfaces);
    return found;
}

static bool is_rdma_device(const char *name)
{
    char path[128];
    int length = snprintf(path, sizeof(path), "/sys/class/infiniband/%s", name);
    return name[0] != '\0' && strchr(name, '/') == NULL && length < (int)sizeof(path) &&
           access(path, F_OK) == 0;
}

int sl_link_device_host(const struct sl_link_ops *link, const char *device, char *host,
                        size_t host_bytes)
{
    struct sl_ofi_device found;
    char error[512];
    if (link != &sl_ofi_link_ops) {
        snprintf(host, host_bytes, "%s", device[0] != '\0' ? device : "127.0.0.1");
        return 0;
    }
    if (sl_ofi_device_find(device, &found, error, sizeof(error)) < 0)
        return -ENODEV;
    snprintf(host, host_bytes, "%s", found.host);
    return 0;
}

int sl_link_resolve_device(const char *name, const struct sl_link_ops **link, char *device,
                           size_t device_bytes, char *error, size_t error_bytes)
{
    size_t prefix_bytes = strcspn(name, ":+");
    char prefix[16] = "";
    const char *rest = name;
    if (prefix_bytes < sizeof(prefix))
        memcpy(prefix, name, prefix_bytes); /* header: a name */
    *link = sl_link_find(prefix);
    if (*link == NULL && is_rdma_device(name))
        *link = &sl_ofi_link_ops;
    else if (*link == NULL)
        *link = &sl_tcp_link_ops; /* a bare interface or address */
    else if (name[prefix_bytes] == '+' && *link == &sl_ofi_link_ops)
        rest = name + prefix_bytes; /* its provider */
    else
        rest = name[prefix_bytes] == ':' ? name + prefix_bytes + 1 : "";
    if (*link == &sl_ofi_link_ops) {
        struct sl_ofi_device found;
        snprintf(device, device_bytes, "%s", rest);
        return sl_ofi_device_find(rest, &found, error, error_bytes);
    }
    char list[256] = "";
    bool named_bare = *link != NULL && rest[0] == '\0' && rest != name;
    /* What another link than tcp takes after its name is checked when its domain is opened. */
    bool found = named_bare || (rest[0] != '\0' && *link != &sl_tcp_link_ops) ||
                 interface_exists(rest, list, sizeof(list));
    if (found && strlen(rest) < device_bytes) {
        snprintf(device, device_bytes, "%s", rest);
        return 0;
    }
    char names[64] = "";
    for (unsigned i = 0; links[i] != NULL; i++) {
        append(names, sizeof(names), i == 0 ? "" : ", ");
        append(names, sizeof(names), links[i]->name);
    }
    snprintf(error, error_bytes,
             "no such device: '%.64s'; there are: links %s (or tcp:INTERFACE, tcp:ADDRESS, "
             "ofi:DEVICE)%s",
             name, names, list);
    return -ENODEV;
}
