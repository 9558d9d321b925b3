/*
 * The ofi link's domain: opens the device, polls, sleeps; and the table of the link.
 *
 * Progress: completion queues are polled every turn (libfabric's tcp needs that on the passive side
 * too: it has no thread of its own). The event queue is read when its descriptor says so, and every
 * turn while a connection is being made or ended. Owner: its reactor.
 */
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/ofi/internal.h"

/* Queues that one fi_trywait() is asked for: connections by the thousand. */
#define TRYWAIT_MAX 64u

/* ---- polling ---- */

static struct ofi_domain *domain_of_poller(struct sl_poller *poller)
{
    return sl_container_of(poller, struct ofi_domain, poller);
}

static void events_are_ready(void *argument)
{
    struct ofi_domain *domain = argument;
    domain->eq_ready = true;
}

/* The descriptor stays ready until fi_trywait() has said that nothing is left. */
static void events_rearm(struct ofi_domain *domain)
{
    struct fid *fid = &domain->eq->fid;
    domain->eq_ready = fi_trywait(domain->fabric, &fid, 1) != 0;
    if (!domain->eq_ready)
        sl_watch_arm(domain->eq_watch);
}

static void retry_blocked(struct ofi_domain *domain)
{
    struct sl_list due;
    struct sl_list *node;
    sl_list_init(&due);
    sl_list_splice(&due, &domain->blocked);
    while ((node = sl_list_pop(&due)) != NULL) {
        struct ofi_connection *connection = sl_list_entry(node, struct ofi_connection, blocked);
        connection->is_blocked = false;
        ofi_issue(connection);
    }
}

static unsigned domain_poll(struct sl_poller *poller)
{
    struct ofi_domain *domain = domain_of_poller(poller);
    unsigned count = 0;
    sl_list_for_each(node, &domain->queues) count +=
        ofi_queue_poll(sl_list_entry(node, struct ofi_queue, node));
    if (!sl_list_is_empty(&domain->blocked))
        retry_blocked(domain);
    if (domain->eq_ready || domain->unsettled_count > 0) {
        count += ofi_events_poll(domain);
        events_rearm(domain);
    }
    if (domain->unsettled_count > 0)
        count += ofi_connections_finish(domain);
    return count;
}

/* Something can be done without waiting for anybody. */
static bool has_work(struct ofi_domain *domain)
{
    sl_list_for_each(node, &domain->blocked)
    {
        /* The provider said that it had no room, but has nothing of ours that would make some. */
        if (sl_list_entry(node, struct ofi_connection, blocked)->busy_count == 0)
            return true;
    }
    if (domain->unsettled_count == 0)
        return domain->eq_ready;
    sl_list_for_each(node, &domain->connections)
    {
        const struct ofi_connection *connection = sl_list_entry(node, struct ofi_connection, node);
        if (connection->state == OFI_CLOSING && connection->outgoing == NULL &&
            (connection->has_drained || connection->busy_count + connection->listening_count == 0))
            return true;
    }
    return domain->eq_ready;
}

static bool domain_arm(struct sl_poller *poller)
{
    struct ofi_domain *domain = domain_of_poller(poller);
    struct fid *fids[TRYWAIT_MAX];
    unsigned count = 0;
    if (has_work(domain))
        return false;
    fids[count++] = &domain->eq->fid;
    sl_list_for_each(node, &domain->queues)
    {
        if (count == TRYWAIT_MAX)
            return false;
        fids[count++] = &sl_list_entry(node, struct ofi_queue, node)->cq->fid;
    }
    if (fi_trywait(domain->fabric, fids, (int)count) != 0) {
        domain->eq_ready = true; /* which of them is not said */
        return false;
    }
    sl_watch_arm(domain->eq_watch);
    sl_list_for_each(node, &domain->queues)
        sl_watch_arm(sl_list_entry(node, struct ofi_queue, node)->watch);
    return true;
}

/* ---- opening ---- */

static int events_open(struct ofi_domain *domain)
{
    struct fi_eq_attr attributes = {.wait_obj = FI_WAIT_FD};
    int descriptor = -1;
    int error = fi_eq_open(domain->fabric, &attributes, &domain->eq, domain);
    if (error == 0)
        error = fi_control(&domain->eq->fid, FI_GETWAIT, &descriptor);
    if (error == 0)
        error = sl_watch_create(domain->config.io, descriptor, events_are_ready, domain,
                                &domain->eq_watch);
    return error == 0 ? 0 : ofi_error(error);
}

/* What one READ or WRITE takes over libfabric's tcp. 1.17 loses its place in the stream (it reports
 * FI_ETRUNC, or hangs) where large ones go both ways at once: with 200,000 bytes in a quarter of
 * the runs of conformance_test's flush_exactly_once, with 64 KiB in none of 100. */
#define TCP_TRANSFER_BYTES_MAX (64u * 1024)

static void limits_set(struct ofi_domain *domain)
{
    const struct fi_info *info = domain->info;
    domain->limits = (struct sl_link_limits){
        .send_spans_max = (uint32_t)sl_min(info->tx_attr->iov_limit, (size_t)SL_SEND_SPANS_MAX),
        .local_spans_max = (uint32_t)sl_min(info->tx_attr->iov_limit, (size_t)SL_LINK_SPANS_MAX),
        .transfer_bytes_max = (uint32_t)sl_min(
            info->ep_attr->max_msg_size,
            (size_t)(domain->is_verbs ? SL_TRANSFER_BYTES_MAX : TCP_TRANSFER_BYTES_MAX)),
        .queue_depth = (uint32_t)sl_min(info->tx_attr->size, (size_t)OFI_SEND_QUEUE),
        /* libfabric's verbs (1.17, and before) sends the address of the operand in its place. */
        .atomics = (info->caps & FI_ATOMIC) != 0 && !domain->is_verbs,
        .pads_capsules = true,
    };
    domain->receive_queue = (uint32_t)sl_min(info->rx_attr->size, (size_t)OFI_RECEIVE_QUEUE);
    /* The provider reserves what the endpoint was asked to have, not what we use of it. */
    domain->queue_share =
        (uint32_t)sl_min(info->tx_attr->size + info->rx_attr->size, (size_t)OFI_QUEUE_ENTRIES);
}

static void device_open(void *argument)
{
    struct ofi_domain *domain = argument;
    int error = domain->library->fabric(domain->info->fabric_attr, &domain->fabric, domain);
    if (error == 0)
        error = fi_domain(domain->fabric, domain->info, &domain->domain, domain);
    domain->open_error = error;
}

/* What can fail of the provider. Undone by domain_free(). */
static int provider_open(struct ofi_domain *domain)
{
    const char *device = domain->config.device != NULL ? domain->config.device : "";
    struct sl_ofi_device chosen;
    char text[512];
    int error = ofi_info_choose(device, &domain->info, &chosen, text, sizeof(text));
    if (error < 0) {
        sl_log_error("ofi", "%s", text);
        return error;
    }
    domain->is_verbs = strcmp(chosen.provider, "verbs") == 0;
    domain->bound =
        strcspn(device, ":") < strlen(device) || (device[0] != '\0' && device[0] != '+');
    limits_set(domain);
    if (domain->limits.local_spans_max < 2 || domain->info->rx_attr->iov_limit < 2) {
        sl_log_error("ofi", "%s takes one piece of memory an operation; two are needed",
                     chosen.device);
        return -ENODEV;
    }
    domain->library = ofi_library(NULL);
    ofi_on_thread(device_open, domain);
    error = domain->open_error;
    if (error == 0)
        error = events_open(domain);
    if (error == 0)
        error = ofi_queues_open(domain);
    if (error != 0) {
        sl_log_error("ofi", "%s (%s) cannot be opened: %s", chosen.device, chosen.provider,
                     sl_error_text(ofi_error(error)));
        return ofi_error(error);
    }
    sl_log_info("ofi", "%s, provider %s, address %s", chosen.device, chosen.provider, chosen.host);
    return 0;
}

static void domain_free(struct ofi_domain *domain)
{
    ofi_queues_close(domain);
    sl_watch_destroy(domain->eq_watch);
    if (domain->eq != NULL)
        fi_close(&domain->eq->fid);
    if (domain->domain != NULL)
        fi_close(&domain->domain->fid);
    if (domain->fabric != NULL)
        fi_close(&domain->fabric->fid);
    if (domain->info != NULL)
        domain->library->freeinfo(domain->info);
    free(domain);
}

/* Every region that is there is registered. */
static int memory_attach(struct ofi_domain *domain)
{
    struct sl_region_set *regions = sl_memory_regions(domain->config.memory);
    domain->client.attach = ofi_region_attach;
    domain->client.detach = ofi_region_detach;
    int error = sl_region_set_add_client(regions, &domain->client);
    if (error < 0)
        return error;
    sl_region_for_each(node, regions)
    {
        struct sl_region *region = sl_list_entry(node, struct sl_region, node);
        if (region->client_data[domain->client.index] == NULL)
            error = -ENOMEM;
    }
    if (error < 0)
        sl_region_set_remove_client(regions, &domain->client);
    return error;
}

static int domain_open(const struct sl_link_domain_config *config, struct sl_link_domain **result)
{
    struct ofi_domain *domain = calloc(1, sizeof(*domain));
    if (domain == NULL)
        return -ENOMEM;
    domain->config = *config;
    domain->reactor = sl_io_reactor(config->io);
    sl_list_init(&domain->queues);
    sl_list_init(&domain->connections);
    sl_list_init(&domain->blocked);
    sl_list_init(&domain->retired);
    sl_list_init(&domain->slabs);
    int error = provider_open(domain);
    if (error == 0)
        error = memory_attach(domain);
    if (error < 0) {
        domain_free(domain);
        return error;
    }
    domain->poller = (struct sl_poller){.poll = domain_poll, .arm = domain_arm};
    sl_reactor_poller_add(domain->reactor, &domain->poller);
    events_rearm(domain);
    *result = (struct sl_link_domain *)(void *)domain;
    return 0;
}

static void domain_close(struct sl_link_domain *link_domain)
{
    struct ofi_domain *domain = ofi_domain_of(link_domain);
    if (domain == NULL)
        return;
    SL_ASSERT(sl_list_is_empty(&domain->connections) && domain->listener_count == 0);
    sl_reactor_poller_remove(domain->reactor, &domain->poller);
    sl_region_set_remove_client(sl_memory_regions(domain->config.memory), &domain->client);
    ofi_retired_release(domain);
    domain_free(domain);
}

static const struct sl_link_limits *domain_limits(struct sl_link_domain *domain)
{
    return &ofi_domain_of(domain)->limits;
}

const struct sl_link_ops sl_ofi_link_ops = {
    .name = "ofi",
    .maps = false,
    .domain_open = domain_open,
    .domain_close = domain_close,
    .limits = domain_limits,
    .listen = ofi_listen,
    .listener_close = ofi_listener_close,
    .connect = ofi_connect,
    .accept = ofi_accept,
    .reject = ofi_reject,
    .post = ofi_post,
    .disconnect = ofi_disconnect,
    .connection_free = ofi_connection_free,
    .describe = ofi_describe,
    .remote_map = NULL,
};
