/*
 * Domains of the tcp link: which regions peers may reach, under which keys.
 *
 * A key is good from the attach of its region to the detach; after that no operation finds it
 * again, while operations that had found it hold a reference on the region. A wrong guess costs the
 * peer its connection, so 48 random bits are plenty. Owner: the domain's reactor.
 */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/tcp/internal.h"

static const struct sl_link_limits limits = {
    .send_spans_max = SL_LINK_SPANS_MAX,
    .local_spans_max = SL_LINK_SPANS_MAX,
    .transfer_bytes_max = SL_TRANSFER_BYTES_MAX,
    .queue_depth = 0,
};

static struct sl_tcp_slot *slot_take(struct sl_link_domain *domain, unsigned *index)
{
    for (*index = 0; *index < domain->slot_count; ++*index)
        if (domain->slots[*index].region == NULL)
            return &domain->slots[*index];
    unsigned count = domain->slot_count == 0 ? 16 : domain->slot_count * 2;
    if (count > 1u << SL_TCP_KEY_SLOT_BITS)
        return NULL;
    struct sl_tcp_slot *slots = realloc(domain->slots, count * sizeof(*slots));
    if (slots == NULL)
        return NULL;
    memset(slots + domain->slot_count, 0, (count - domain->slot_count) * sizeof(*slots));
    domain->slots = slots;
    domain->slot_count = count;
    return &slots[*index];
}

static int region_attach(struct sl_region_client *client, struct sl_region *region)
{
    struct sl_link_domain *domain = sl_container_of(client, struct sl_link_domain, client);
    unsigned access = domain->access[region->foreign];
    if (!region->writable)
        access &= ~(unsigned)SL_ACCESS_REMOTE_WRITE;
    if (access == 0)
        return 0; /* usable locally: tcp needs no registration for that */
    unsigned index;
    struct sl_tcp_slot *slot = slot_take(domain, &index);
    if (slot == NULL) {
        sl_log_error("tcp", "region %u of %zu bytes gets no key: no memory or more than %u regions",
                     region->id, region->length_bytes, 1u << SL_TCP_KEY_SLOT_BITS);
        return -ENOMEM;
    }
    do {
        slot->key = sl_reactor_random_u64(domain->reactor) << SL_TCP_KEY_SLOT_BITS | index;
    } while (slot->key >> SL_TCP_KEY_SLOT_BITS == 0);
    slot->region = region;
    slot->access = access;
    region->client_data[client->index] = (void *)(uintptr_t)slot->key;
    return 0;
}

static struct sl_tcp_slot *slot_find(const struct sl_link_domain *domain, uint64_t key)
{
    uint64_t index = key & ((1u << SL_TCP_KEY_SLOT_BITS) - 1);
    if (index >= domain->slot_count)
        return NULL;
    struct sl_tcp_slot *slot = &domain->slots[index];
    return slot->region != NULL && slot->key == key ? slot : NULL;
}

static void region_detach(struct sl_region_client *client, struct sl_region *region)
{
    struct sl_link_domain *domain = sl_container_of(client, struct sl_link_domain, client);
    uint64_t key = (uintptr_t)region->client_data[client->index];
    struct sl_tcp_slot *slot = slot_find(domain, key);
    if (slot != NULL)
        *slot = (struct sl_tcp_slot){0};
    region->client_data[client->index] = NULL;
}

struct sl_region *sl_tcp_key_find(const struct sl_link_domain *domain, uint64_t key,
                                  uint64_t address, uint32_t length_bytes, unsigned access)
{
    const struct sl_tcp_slot *slot = slot_find(domain, key);
    if (slot == NULL || (slot->access & access) != access)
        return NULL;
    size_t region_bytes = slot->region->length_bytes;
    if (address > region_bytes || length_bytes > region_bytes - address)
        return NULL;
    return slot->region;
}

/* The first address of interface `device`, or the address that `device` is. -ENODEV. */
static int device_address(const char *device, char *text, size_t text_bytes)
{
    struct in6_addr any;
    if (inet_pton(AF_INET, device, &any) == 1 || inet_pton(AF_INET6, device, &any) == 1) {
        snprintf(text, text_bytes, strchr(device, ':') == NULL ? "%s" : "[%s]", device);
        return 0;
    }
    struct ifaddrs *interfaces;
    if (getifaddrs(&interfaces) != 0)
        return -errno;
    int result = -ENODEV;
    for (struct ifaddrs *i = interfaces; i != NULL && result != 0; i = i->ifa_next) {
        if (i->ifa_addr == NULL || i->ifa_addr->sa_family != AF_INET ||
            strcmp(i->ifa_name, device) != 0)
            continue;
        const struct sockaddr_in *in = (const void *)i->ifa_addr;
        if (inet_ntop(AF_INET, &in->sin_addr, text, (socklen_t)text_bytes) != NULL)
            result = 0;
    }
    freeifaddrs(interfaces);
    return result;
}

static int domain_open(const struct sl_link_domain_config *config, struct sl_link_domain **result)
{
    struct sl_link_domain *domain = calloc(1, sizeof(*domain));
    if (domain == NULL)
        return -ENOMEM;
    domain->io = config->io;
    domain->reactor = sl_io_reactor(config->io);
    domain->access[0] = config->arena_access;
    domain->access[1] = config->foreign_access;
    int error = 0;
    if (config->device != NULL && config->device[0] != '\0')
        error = device_address(config->device, domain->address, sizeof(domain->address));
    if (error != 0) {
        free(domain);
        return error;
    }
    domain->client.attach = region_attach;
    domain->client.detach = region_detach;
    domain->regions = sl_memory_regions(config->memory);
    error = sl_region_set_add_client(domain->regions, &domain->client);
    if (error != 0) {
        free(domain->slots);
        free(domain);
        return error;
    }
    *result = domain;
    return 0;
}

static void domain_close(struct sl_link_domain *domain)
{
    SL_ASSERT(domain->connection_count == 0 && domain->listener_count == 0);
    sl_region_set_remove_client(domain->regions, &domain->client);
    free(domain->slots);
    free(domain);
}

static const struct sl_link_limits *domain_limits(struct sl_link_domain *domain)
{
    return &limits;
}

static int describe(struct sl_link_domain *domain, struct sl_region *region, const void *data,
                    uint32_t length_bytes, struct sl_remote_piece *piece)
{
    uint64_t key = (uintptr_t)region->client_data[domain->client.index];
    if (slot_find(domain, key) == NULL || !sl_region_contains(region, data, length_bytes))
        return -SL_E_KEY;
    *piece = (struct sl_remote_piece){
        .address = (uint64_t)((const uint8_t *)data - region->base),
        .key = key,
        .length_bytes = length_bytes,
    };
    return 0;
}

const struct sl_link_ops sl_tcp_link_ops = {
    .name = "tcp",
    .maps = false,
    .domain_open = domain_open,
    .domain_close = domain_close,
    .limits = domain_limits,
    .listen = sl_tcp_listen,
    .listener_close = sl_tcp_listener_close,
    .connect = sl_tcp_connect,
    .accept = sl_tcp_accept,
    .reject = sl_tcp_reject,
    .post = sl_tcp_post,
    .disconnect = sl_tcp_disconnect,
    .connection_free = sl_tcp_connection_free,
    .describe = describe,
    .remote_map = NULL,
};
