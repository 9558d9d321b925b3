/* A reactor's fabric: its link domain, its connections, its listener. Owned by its reactor. */
#include "fabric/fabric.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/private.h"

int sl_fabric_create(const struct sl_fabric_config *config, struct sl_fabric **result)
{
    struct sl_fabric *fabric = calloc(1, sizeof(*fabric));
    if (fabric == NULL)
        return -ENOMEM;
    fabric->config = *config;
    struct sl_fabric_config *own = &fabric->config;
    if (own->credits == 0 || own->credits > SL_CREDITS_MAX)
        own->credits = SL_CREDITS_MAX;
    own->in_capsule_bytes = sl_min(own->in_capsule_bytes, SL_IN_CAPSULE_BYTES_MAX);
    if (config->link->maps)
        own->in_capsule_bytes = 0; /* one host: payload is mapped, never sent */
    if (own->heartbeat_interval_ns == 0)
        own->heartbeat_interval_ns = SL_HEARTBEAT_INTERVAL_NS;
    if (own->heartbeat_timeout_ns == 0)
        own->heartbeat_timeout_ns = SL_HEARTBEAT_TIMEOUT_NS;
    if (own->handshake_timeout_ns == 0)
        own->handshake_timeout_ns = SL_HANDSHAKE_TIMEOUT_NS;
    sl_list_init(&fabric->connections);
    sl_list_init(&fabric->free_txs);
    sl_wait_queue_init(&fabric->changed);
    sl_pool_init(&fabric->txs, sizeof(struct tx), 64, 0);
    int error = config->link->domain_open(&config->domain, &fabric->domain);
    if (error < 0) {
        free(fabric);
        return error;
    }
    fabric->limits = config->link->limits(fabric->domain);
    sl_handshake_warm_up();
    *result = fabric;
    return 0;
}

void sl_fabric_destroy(struct sl_fabric *fabric)
{
    if (fabric == NULL)
        return;
    SL_ASSERT(fabric->connection_count == 0);
    fabric->config.link->domain_close(fabric->domain);
    sl_tx_memory_free(fabric);
    explicit_bzero(fabric->config.cluster_key, sizeof(fabric->config.cluster_key));
    free(fabric);
}

void sl_fabric_drain_co(struct sl_fabric *fabric)
{
    fabric->is_draining = true;
    sl_list_for_each(node, &fabric->connections)
        sl_connection_shutdown(sl_list_entry(node, struct sl_connection, node), -ECANCELED);
    while (fabric->connection_count > 0 || atomic_load(&fabric->handover_count) > 0)
        sl_wait_queue_co(&fabric->changed);
}

/* ---- listening ---- */

struct sl_fabric_listener {
    struct sl_fabric *home; /* whose domain listens */
    struct sl_link_listener *link;
    const struct sl_connection_handlers *handlers;
    unsigned fabric_count;
    struct {
        struct sl_fabric *fabric;
        void *owner;
    } reactors[];
};

/* A connection request on its way to the reactor that it asks for. */
struct handover {
    struct sl_mail mail;
    struct sl_link_incoming *request;
    struct sl_fabric *fabric;
    const struct sl_connection_handlers *handlers;
    void *owner;
};

static void handover_arrived(struct sl_mail *mail)
{
    struct handover *handover = sl_container_of(mail, struct handover, mail);
    struct sl_fabric *fabric = handover->fabric;
    sl_connection_incoming(fabric, handover->request, handover->handlers, handover->owner);
    free(handover);
    atomic_fetch_sub(&fabric->handover_count, 1);
    sl_wait_queue_wake_all(&fabric->changed, 0);
}

static void request_came(void *owner, struct sl_link_incoming *request)
{
    const struct sl_fabric_listener *listener = owner;
    struct sl_fabric_private wanted;
    memcpy(&wanted, request->private_data, sizeof(wanted)); /* header: private data */
    struct handover *handover = NULL;
    if (wanted.magic != SL_FABRIC_MAGIC || wanted.version < SL_FABRIC_VERSION_MIN ||
        wanted.reactor_index >= listener->fabric_count)
        sl_log_warn("fabric",
                    "connection from %s refused: not ours, another version, or reactor %u of %u",
                    request->peer, wanted.reactor_index, listener->fabric_count);
    else
        handover = calloc(1, sizeof(*handover));
    if (handover == NULL) {
        request->ops->reject(request);
        return;
    }
    *handover = (struct handover){
        .mail.deliver = handover_arrived,
        .request = request,
        .fabric = listener->reactors[wanted.reactor_index].fabric,
        .handlers = listener->handlers,
        .owner = listener->reactors[wanted.reactor_index].owner,
    };
    atomic_fetch_add(&handover->fabric->handover_count, 1);
    sl_reactor_post(handover->fabric->config.reactor, &handover->mail);
}

int sl_fabric_listen(struct sl_fabric *const *fabrics, unsigned fabric_count, const char *address,
                     const struct sl_connection_handlers *handlers, void *const *listener_owners,
                     char *bound, struct sl_fabric_listener **result)
{
    char ignored[SL_ADDRESS_BYTES_MAX];
    struct sl_fabric_listener *listener =
        calloc(1, sizeof(*listener) + fabric_count * sizeof(listener->reactors[0]));
    if (listener == NULL)
        return -ENOMEM;
    listener->home = fabrics[0];
    listener->handlers = handlers;
    listener->fabric_count = fabric_count;
    for (unsigned i = 0; i < fabric_count; i++) {
        listener->reactors[i].fabric = fabrics[i];
        listener->reactors[i].owner = listener_owners[i];
    }
    int error = fabrics[0]->config.link->listen(fabrics[0]->domain, address, request_came, listener,
                                                bound != NULL ? bound : ignored, &listener->link);
    if (error < 0) {
        free(listener);
        return error;
    }
    *result = listener;
    return 0;
}

void sl_fabric_listener_close(struct sl_fabric_listener *listener)
{
    if (listener == NULL)
        return;
    listener->home->config.link->listener_close(listener->link);
    free(listener);
}

/* ---- the rest ---- */

int sl_fabric_describe(struct sl_fabric *fabric, struct sl_region *region, const void *data,
                       uint32_t length_bytes, struct sl_remote_piece *piece)
{
    return fabric->config.link->describe(fabric->domain, region, data, length_bytes, piece);
}

void sl_fabric_statistics(const struct sl_fabric *fabric, struct sl_fabric_statistics *statistics)
{
    *statistics = fabric->statistics;
    statistics->connection_count = fabric->connection_count;
    statistics->capsule_bytes = (uint64_t)fabric->capsule_page_count * SL_BLOCK_BYTES;
}
