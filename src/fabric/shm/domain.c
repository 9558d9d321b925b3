/* The shm link's domain: which of our regions peers may reach, under which key; and the table of
 * the link. Owner: its reactor. */
#include "fabric/shm/shm.h"

#include <stdlib.h>

static const struct sl_link_limits shm_limits = {
    .send_spans_max = SL_SEND_SPANS_MAX,
    .local_spans_max = SL_LINK_SPANS_MAX,
    .transfer_bytes_max = SL_TRANSFER_BYTES_MAX,
    .queue_depth = 0,
};

static struct shm_domain *domain_of_client(struct sl_region_client *client)
{
    return sl_container_of(client, struct shm_domain, client);
}

static int domain_attach(struct sl_region_client *client, struct sl_region *region)
{
    struct shm_domain *domain = domain_of_client(client);
    unsigned access = region->foreign ? domain->config.foreign_access : domain->config.arena_access;
    if (!region->writable)
        access &= ~(unsigned)SL_ACCESS_REMOTE_WRITE;
    if (access == 0 || shm_window_mapping)
        return 0;
    struct shm_key *key = malloc(sizeof(*key));
    if (key == NULL)
        return -ENOMEM;
    do
        key->key = sl_reactor_random_u64(domain->reactor);
    while (key->key == 0);
    key->access = access;
    region->client_data[client->index] = key;
    sl_list_for_each(node, &domain->connections)
    {
        struct shm_connection *connection = sl_list_entry(node, struct shm_connection, node);
        if (connection->state != SHM_UP)
            continue;
        int error = shm_region_announce(connection, region);
        if (error < 0)
            shm_connection_fail(connection, error);
    }
    return 0;
}

static void domain_detach(struct sl_region_client *client, struct sl_region *region)
{
    struct shm_domain *domain = domain_of_client(client);
    struct shm_key *key = region->client_data[client->index];
    if (key == NULL)
        return;
    region->client_data[client->index] = NULL;
    sl_list_for_each(node, &domain->connections)
    {
        struct shm_connection *connection = sl_list_entry(node, struct shm_connection, node);
        if (connection->state == SHM_UP)
            shm_region_revoke(connection, region, key);
    }
    free(key);
}

static int domain_open(const struct sl_link_domain_config *config,
                       struct sl_link_domain **link_domain)
{
    struct shm_domain *domain = calloc(1, sizeof(*domain));
    if (domain == NULL)
        return -ENOMEM;
    domain->config = *config;
    domain->reactor = sl_io_reactor(config->io);
    domain->client.attach = domain_attach;
    domain->client.detach = domain_detach;
    sl_list_init(&domain->connections);
    int error = sl_region_set_add_client(sl_memory_regions(config->memory), &domain->client);
    if (error < 0) {
        free(domain);
        return error;
    }
    *link_domain = (struct sl_link_domain *)(void *)domain;
    return 0;
}

static void domain_close(struct sl_link_domain *link_domain)
{
    struct shm_domain *domain = shm_domain_of(link_domain);
    if (domain == NULL)
        return;
    SL_ASSERT(sl_list_is_empty(&domain->connections) && domain->listener_count == 0);
    sl_region_set_remove_client(sl_memory_regions(domain->config.memory), &domain->client);
    free(domain);
}

static const struct sl_link_limits *domain_limits(struct sl_link_domain *domain)
{
    return &shm_limits;
}

static int domain_describe(struct sl_link_domain *link_domain, struct sl_region *region,
                           const void *data, uint32_t length_bytes, struct sl_remote_piece *piece)
{
    struct shm_domain *domain = shm_domain_of(link_domain);
    const struct shm_key *key = region->client_data[domain->client.index];
    if (key == NULL || region->removed || !sl_region_contains(region, data, length_bytes))
        return -SL_E_KEY;
    *piece = (struct sl_remote_piece){
        .address = (uint64_t)((const uint8_t *)data - region->base),
        .key = key->key,
        .length_bytes = length_bytes,
    };
    return 0;
}

static int remote_map(struct sl_link_connection *link_connection,
                      const struct sl_remote_piece *piece, bool for_writing, struct sl_span *span)
{
    struct shm_connection *connection = shm_connection_of(link_connection);
    if (connection->state != SHM_UP)
        return -ECONNRESET;
    return shm_window_resolve(connection, piece,
                              for_writing ? SL_ACCESS_REMOTE_WRITE : SL_ACCESS_REMOTE_READ, span);
}

const struct sl_link_ops sl_shm_link_ops = {
    .name = "shm",
    .maps = true,
    .domain_open = domain_open,
    .domain_close = domain_close,
    .limits = domain_limits,
    .listen = shm_listen,
    .listener_close = shm_listener_close,
    .connect = shm_connect,
    .accept = shm_accept,
    .reject = shm_reject,
    .post = shm_post,
    .disconnect = shm_disconnect,
    .connection_free = shm_connection_free,
    .describe = domain_describe,
    .remote_map = remote_map,
};
