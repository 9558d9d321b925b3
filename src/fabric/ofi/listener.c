/*
 * The ofi link's passive side: a passive endpoint with a fabric and an event queue of its own, so
 * that it needs no domain, and requests can be accepted in a domain of another reactor. It lives
 * until its last request was answered, since libfabric refuses through it. Owner: the reactor that
 * listens.
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/ofi/internal.h"

#define ROUNDS_MAX 1000u

union event_buffer {
    struct fi_eq_cm_entry entry;
    uint8_t bytes[sizeof(struct fi_eq_cm_entry) + 512];
};

static void listener_unref(struct ofi_listener *listener)
{
    if (--listener->references > 0)
        return;
    sl_watch_destroy(listener->watch);
    if (listener->pep != NULL)
        fi_close(&listener->pep->fid);
    if (listener->eq != NULL)
        fi_close(&listener->eq->fid);
    if (listener->fabric != NULL)
        fi_close(&listener->fabric->fid);
    if (listener->info != NULL)
        listener->library->freeinfo(listener->info);
    free(listener);
}

static void refuse(struct ofi_listener *listener, struct fi_info *info, enum ofi_reason reason)
{
    struct ofi_preamble refusal = {
        .magic = OFI_MAGIC, .version = OFI_VERSION, .reason = (uint16_t)reason};
    (void)fi_reject(listener->pep, info->handle, &refusal, OFI_ANSWER_BYTES);
    listener->library->freeinfo(info);
}

/* ---- requests ---- */

static void incoming_delivered(struct sl_mail *mail)
{
    struct ofi_incoming *incoming = sl_container_of(mail, struct ofi_incoming, mail);
    struct ofi_listener *listener = incoming->listener;
    if (incoming->info != NULL)
        refuse(listener, incoming->info, OFI_REASON_REFUSED);
    free(incoming);
    listener_unref(listener);
}

static void incoming_send_home(struct ofi_incoming *incoming)
{
    incoming->mail.deliver = incoming_delivered;
    sl_reactor_post(incoming->listener->reactor, &incoming->mail);
}

void ofi_reject(struct sl_link_incoming *request)
{
    incoming_send_home(sl_container_of(request, struct ofi_incoming, incoming));
}

void ofi_incoming_done(struct ofi_incoming *incoming)
{
    incoming->listener->library->freeinfo(incoming->info);
    incoming->info = NULL;
    incoming_send_home(incoming);
}

static void request_came(struct ofi_listener *listener, struct fi_info *info, const uint8_t *data,
                         size_t data_bytes)
{
    struct ofi_preamble preamble = {0};
    struct sl_address peer = {.length = (socklen_t)info->dest_addrlen};
    char name[SL_ADDRESS_BYTES_MAX] = "?";
    if (info->dest_addr != NULL && info->dest_addrlen <= sizeof(peer.storage)) {
        memcpy(&peer.storage, info->dest_addr, info->dest_addrlen); /* header: address */
        sl_address_format(&peer, name);
    }
    if (data_bytes >= sizeof(preamble))
        memcpy(&preamble, data, sizeof(preamble)); /* header: preamble */
    if (preamble.magic != OFI_MAGIC || preamble.version != OFI_VERSION) {
        sl_log_warn("ofi", "%s: request from %s refused: %s (version %u, ours %d)",
                    listener->address, name,
                    preamble.magic == OFI_MAGIC ? "another version" : "not an ofi link of Sluice",
                    preamble.version, OFI_VERSION);
        refuse(listener, info, OFI_REASON_VERSION);
        return;
    }
    struct ofi_incoming *incoming = calloc(1, sizeof(*incoming));
    if (incoming == NULL || listener->domain == NULL) {
        free(incoming);
        refuse(listener, info, OFI_REASON_REFUSED);
        return;
    }
    incoming->incoming.ops = &sl_ofi_link_ops;
    memcpy(incoming->incoming.private_data, preamble.private_data,
           SL_LINK_PRIVATE_BYTES); /* header: private data */
    snprintf(incoming->incoming.peer, sizeof(incoming->incoming.peer), "%s", name);
    incoming->listener = listener;
    incoming->info = info;
    listener->references++;
    listener->incoming(listener->owner, &incoming->incoming);
}

/* ---- events ---- */

static bool event_take(struct ofi_listener *listener)
{
    union event_buffer buffer;
    uint32_t event;
    ssize_t length = fi_eq_read(listener->eq, &event, &buffer, sizeof(buffer), 0);
    if (length == -FI_EAVAIL) {
        struct fi_eq_err_entry entry = {0};
        return fi_eq_readerr(listener->eq, &entry, 0) >= 0; /* a peer that gave up */
    }
    if (length < (ssize_t)sizeof(buffer.entry))
        return false;
    if (event == FI_CONNREQ)
        request_came(listener, buffer.entry.info, buffer.entry.data,
                     (size_t)length - sizeof(buffer.entry));
    return true;
}

static void listener_is_ready(void *argument)
{
    struct ofi_listener *listener = argument;
    struct fid *fid = &listener->eq->fid;
    listener->references++; /* incoming() may close it */
    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        while (event_take(listener))
            continue;
        if (fi_trywait(listener->fabric, &fid, 1) == 0)
            break;
    }
    if (listener->domain != NULL)
        sl_watch_arm(listener->watch);
    listener_unref(listener);
}

/* ---- opening and closing ---- */

static int passive_open(struct ofi_listener *listener, char *bound)
{
    struct fi_eq_attr attributes = {.wait_obj = FI_WAIT_FD};
    struct sl_address local = {.length = sizeof(local.storage)};
    size_t local_bytes = sizeof(local.storage);
    int descriptor = -1;
    int error = listener->library->fabric(listener->info->fabric_attr, &listener->fabric, listener);
    if (error == 0)
        error = fi_eq_open(listener->fabric, &attributes, &listener->eq, listener);
    if (error == 0)
        error = fi_passive_ep(listener->fabric, listener->info, &listener->pep, listener);
    if (error == 0)
        error = fi_pep_bind(listener->pep, &listener->eq->fid, 0);
    if (error == 0)
        error = fi_listen(listener->pep);
    if (error == 0)
        error = fi_getname(&listener->pep->fid, &local.storage, &local_bytes);
    if (error == 0)
        error = fi_control(&listener->eq->fid, FI_GETWAIT, &descriptor);
    if (error != 0)
        return ofi_error(error);
    local.length = (socklen_t)local_bytes;
    sl_address_format(&local, listener->address);
    if (bound != NULL)
        snprintf(bound, SL_ADDRESS_BYTES_MAX, "%s", listener->address);
    return sl_watch_create(listener->io, descriptor, listener_is_ready, listener, &listener->watch);
}

static struct fi_info *info_for_address(const struct ofi_domain *domain,
                                        const struct sl_address *address)
{
    struct fi_info *info = domain->library->dupinfo(domain->info);
    if (info == NULL)
        return NULL;
    free(info->src_addr);
    info->src_addr = malloc(address->length);
    if (info->src_addr == NULL) {
        domain->library->freeinfo(info);
        return NULL;
    }
    memcpy(info->src_addr, &address->storage, address->length); /* header: address */
    info->src_addrlen = address->length;
    info->addr_format = address->storage.ss_family == AF_INET ? FI_SOCKADDR_IN : FI_SOCKADDR_IN6;
    return info;
}

static bool is_wildcard(const struct sl_address *address)
{
    static const struct in6_addr any = IN6ADDR_ANY_INIT;
    if (address->storage.ss_family == AF_INET)
        return ((const struct sockaddr_in *)(const void *)&address->storage)->sin_addr.s_addr ==
               htonl(INADDR_ANY);
    return memcmp(&((const struct sockaddr_in6 *)(const void *)&address->storage)->sin6_addr, &any,
                  sizeof(any)) == 0;
}

/* The connection manager binds to an address of this host without a word, whether the card has a
 * GID for it or not: nobody could connect. */
static int check_gid(const struct ofi_domain *domain, const char *name,
                     const struct sl_address *address)
{
    char host[SL_ADDRESS_BYTES_MAX], wanted[SL_ADDRESS_BYTES_MAX + 8], error[512];
    struct sl_ofi_device device;
    if (!domain->is_verbs || is_wildcard(address))
        return 0;
    sl_address_format(address, host);
    char *port = strrchr(host, ':');
    if (port != NULL)
        *port = '\0';
    snprintf(wanted, sizeof(wanted), "+verbs:%s", host);
    if (sl_ofi_device_find(wanted, &device, error, sizeof(error)) < 0) {
        sl_log_error("ofi", "%s: no GID of %s has this address: %s", name,
                     domain->info->domain_attr->name, error);
        return -EADDRNOTAVAIL;
    }
    if (strcmp(device.device, domain->info->domain_attr->name) != 0) {
        sl_log_error("ofi", "%s: the address is that of %s, not of %s (-d ofi:%s)", name,
                     device.device, domain->info->domain_attr->name, device.device);
        return -EADDRNOTAVAIL;
    }
    return 0;
}

int ofi_listen(struct sl_link_domain *link_domain, const char *address,
               void (*incoming)(void *owner, struct sl_link_incoming *request), void *owner,
               char *bound, struct sl_link_listener **link_listener)
{
    struct ofi_domain *domain = ofi_domain_of(link_domain);
    struct sl_address local;
    int error = sl_address_resolve(address, &local, 1);
    if (error < 0)
        return error;
    if (local.storage.ss_family != AF_INET && local.storage.ss_family != AF_INET6)
        return -EINVAL;
    error = check_gid(domain, address, &local);
    if (error < 0)
        return error;
    struct ofi_listener *listener = calloc(1, sizeof(*listener));
    if (listener == NULL)
        return -ENOMEM;
    *listener = (struct ofi_listener){
        .domain = domain,
        .library = domain->library,
        .io = domain->config.io,
        .reactor = domain->reactor,
        .info = info_for_address(domain, &local),
        .incoming = incoming,
        .owner = owner,
        .references = 1,
    };
    error = listener->info != NULL ? passive_open(listener, bound) : -ENOMEM;
    if (error < 0) {
        listener_unref(listener);
        return error;
    }
    domain->listener_count++;
    listener_is_ready(listener);
    *link_listener = (struct sl_link_listener *)(void *)listener;
    return 0;
}

void ofi_listener_close(struct sl_link_listener *link_listener)
{
    struct ofi_listener *listener = (struct ofi_listener *)(void *)link_listener;
    if (listener == NULL)
        return;
    listener->domain->listener_count--;
    listener->domain = NULL;
    sl_watch_destroy(listener->watch);
    listener->watch = NULL;
    listener_unref(listener);
}
