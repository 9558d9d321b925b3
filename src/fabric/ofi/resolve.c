/*
 * The address of a peer is resolved before its endpoint is made. The endpoint does it too, inside
 * fi_endpoint(): there the connection manager waits up to 2 s for a host that does not answer (ARP,
 * path records), and the reactor with it, and every connection and group on it. So a thread goes
 * first, with an id of its own; what it found the kernel remembers, and the endpoint has it at
 * once.
 *
 * librdmacm comes with libfabric's verbs. Without it nothing is resolved before.
 */
#include <errno.h>
#include <pthread.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/ofi/internal.h"

#define RESOLVE_MS 2000
/* enum rdma_port_space. */
#define PORT_SPACE_TCP 0x0106

static void resolve(struct ofi_outgoing *outgoing)
{
    const struct ofi_library *library = outgoing->connection->domain->library;
    void *id;
    if (library->cm_create_id == NULL)
        return;
    /* Without a channel of events each call waits for its own. */
    if (library->cm_create_id(NULL, &id, NULL, PORT_SPACE_TCP) != 0) {
        outgoing->error = -errno;
        return;
    }
    if (library->cm_resolve_addr(id, outgoing->info->src_addr, outgoing->info->dest_addr,
                                 RESOLVE_MS) != 0)
        outgoing->error = -errno;
    (void)library->cm_destroy_id(id);
}

static void *resolve_on_thread(void *argument)
{
    struct ofi_outgoing *outgoing = argument;
    struct sl_reactor *reactor = outgoing->connection->domain->reactor;
    resolve(outgoing);
    sl_reactor_post(reactor, &outgoing->mail);
    return NULL;
}

void ofi_resolve(struct ofi_outgoing *outgoing)
{
    pthread_attr_t attributes;
    pthread_t thread;
    int error = pthread_attr_init(&attributes);
    if (error == 0)
        error = pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (error == 0)
        error = pthread_create(&thread, &attributes, resolve_on_thread, outgoing);
    pthread_attr_destroy(&attributes);
    if (error == 0)
        return;
    outgoing->error = -error;
    sl_log_warn("ofi", "%s: no thread to resolve its address: %s", outgoing->connection->peer,
                sl_error_text(-error));
    sl_reactor_post(outgoing->connection->domain->reactor, &outgoing->mail);
}
