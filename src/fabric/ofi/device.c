/*
 * Which devices libfabric drives here, and which one a name means.
 *
 * Hints, as they were found to work on verbs and on libfabric's own tcp provider: FI_EP_MSG,
 * FI_MSG | FI_RMA, FI_THREAD_DOMAIN (one reactor uses a domain), and all of the memory modes that
 * verbs asks for. verbs keeps them; tcp answers 0: then remote addresses are offsets and keys are
 * the ones asked for. FI_ATOMIC is asked for first, and done without where it is not given.
 * The `net` provider of 1.17 spins when it should sleep, so providers are named, never left open.
 * No state; any thread.
 */
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "fabric/ofi/internal.h"

#define API_VERSION FI_VERSION(1, 17)

/* Best first. */
static const char *const providers[] = {"verbs", "tcp"};

static int ask(const struct ofi_library *library, const char *provider, uint64_t extra_caps,
               bool long_queues, struct fi_info **infos)
{
    struct fi_info *hints = library->dupinfo(NULL);
    if (hints == NULL)
        return -ENOMEM;
    hints->caps = FI_MSG | FI_RMA | extra_caps;
    hints->mode = FI_CONTEXT | FI_CONTEXT2;
    hints->ep_attr->type = FI_EP_MSG;
    hints->domain_attr->threading = FI_THREAD_DOMAIN;
    hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
    /* A WRITE, then a SEND: in this order (link.h, rule 2). */
    hints->tx_attr->msg_order = FI_ORDER_SAS | FI_ORDER_WAS;
    hints->rx_attr->msg_order = FI_ORDER_SAS | FI_ORDER_WAS;
    hints->tx_attr->size = long_queues ? OFI_SEND_QUEUE : 0;
    hints->rx_attr->size = long_queues ? OFI_RECEIVE_QUEUE : 0;
    hints->fabric_attr->prov_name = strdup(provider);
    int error = library->getinfo(API_VERSION, NULL, NULL, 0, hints, infos);
    library->freeinfo(hints);
    return error;
}

/* The most that the provider gives: atomics and long queues, or less. NULL: nothing. */
static struct fi_info *ask_best(const struct ofi_library *library, const char *provider)
{
    struct fi_info *infos = NULL;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t caps = (i & 2) == 0 ? FI_ATOMIC : 0;
        if (ask(library, provider, caps, (i & 1) == 0, &infos) == 0 && infos != NULL)
            return infos;
    }
    return NULL;
}

static bool address_equals(const struct sockaddr *a, const struct sockaddr *b)
{
    if (a->sa_family != b->sa_family)
        return false;
    if (a->sa_family == AF_INET)
        return ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)(const void *)b)->sin_addr.s_addr;
    return memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr,
                  &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr,
                  sizeof(struct in6_addr)) == 0;
}

/* The interface that has the address, and whether it is up. */
static void find_interface(const struct sockaddr *address, struct sl_ofi_device *device)
{
    struct ifaddrs *interfaces;
    if (getifaddrs(&interfaces) != 0)
        return;
    for (const struct ifaddrs *i = interfaces; i != NULL; i = i->ifa_next) {
        if (i->ifa_addr == NULL || !address_equals(i->ifa_addr, address))
            continue;
        snprintf(device->interface, sizeof(device->interface), "%s", i->ifa_name);
        device->up = (i->ifa_flags & IFF_UP) != 0 && (i->ifa_flags & IFF_RUNNING) != 0;
        break;
    }
    freeifaddrs(interfaces);
}

/* False: no device of ours (no IP address, or one of a kind that connections cannot use). */
static bool describe_info(const struct fi_info *info, struct sl_ofi_device *device)
{
    const struct sockaddr *address = info->src_addr;
    memset(device, 0, sizeof(*device));
    if (address == NULL || (address->sa_family != AF_INET && address->sa_family != AF_INET6) ||
        info->domain_attr->name == NULL)
        return false;
    if (address->sa_family == AF_INET6 &&
        IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr))
        return false;
    /* XRC endpoints of verbs share queue pairs; ours are plain ones. */
    size_t name_bytes = strlen(info->domain_attr->name);
    if (name_bytes > 4 && strcmp(info->domain_attr->name + name_bytes - 4, "-xrc") == 0)
        return false;
    char host[INET6_ADDRSTRLEN + 2];
    if (getnameinfo(address, (socklen_t)info->src_addrlen, host, sizeof(host), NULL, 0,
                    NI_NUMERICHOST) != 0)
        return false;
    snprintf(device->host, sizeof(device->host), address->sa_family == AF_INET6 ? "[%s]" : "%s",
             host);
    snprintf(device->provider, sizeof(device->provider), "%s", info->fabric_attr->prov_name);
    snprintf(device->device, sizeof(device->device), "%s", info->domain_attr->name);
    find_interface(address, device);
    /* domain.c says why not verbs. */
    device->atomics =
        (info->caps & FI_ATOMIC) != 0 && strcmp(info->fabric_attr->prov_name, "verbs") != 0;
    device->virtual_addresses = (info->domain_attr->mr_mode & FI_MR_VIRT_ADDR) != 0;
    device->local_keys = (info->domain_attr->mr_mode & FI_MR_LOCAL) != 0;
    device->message_bytes_max = info->ep_attr->max_msg_size;
    device->region_count_max = info->domain_attr->mr_cnt;
    device->local_pieces = (uint32_t)info->tx_attr->iov_limit;
    device->remote_pieces = (uint32_t)info->tx_attr->rma_iov_limit;
    device->send_queue = (uint32_t)info->tx_attr->size;
    device->receive_queue = (uint32_t)info->rx_attr->size;
    device->inject_bytes = (uint32_t)info->tx_attr->inject_size;
    return true;
}

int sl_ofi_devices(struct sl_ofi_device *devices, unsigned limit)
{
    const struct ofi_library *library = ofi_library(NULL);
    if (library == NULL)
        return -ENODEV;
    unsigned count = 0;
    for (unsigned i = 0; i < SL_COUNT_OF(providers); i++) {
        struct fi_info *infos = ask_best(library, providers[i]);
        for (const struct fi_info *info = infos; info != NULL && count < limit; info = info->next)
            count += describe_info(info, &devices[count]);
        if (infos != NULL)
            library->freeinfo(infos);
    }
    return (int)count;
}

/* "+PROVIDER:DEVICE", "+PROVIDER", "DEVICE", "". False: no such provider. */
static bool split_name(const char *name, const char **provider, const char **device)
{
    *provider = NULL;
    *device = name;
    if (name[0] != '+')
        return true;
    size_t length = strcspn(name + 1, ":");
    *device = name[1 + length] == ':' ? name + length + 2 : "";
    for (unsigned i = 0; i < SL_COUNT_OF(providers); i++)
        if (strlen(providers[i]) == length && strncmp(providers[i], name + 1, length) == 0)
            *provider = providers[i];
    return *provider != NULL;
}

static bool host_is(const char *host, const char *name)
{
    size_t length = strlen(host);
    if (host[0] == '[' && name[0] != '[')
        return strlen(name) == length - 2 && strncmp(host + 1, name, length - 2) == 0;
    return strcmp(host, name) == 0;
}

/* How well a device fits a name: 0 = not at all. Without a name: one that is up; for tcp, which is
 * for tests, the loopback address. */
static unsigned fitness(const struct sl_ofi_device *device, const char *name)
{
    unsigned result = device->up ? 4 : 1;
    if (strncmp(device->host, "127.", 4) == 0)
        result += 2;
    if (device->host[0] != '[')
        result += 1;
    if (name[0] == '\0')
        return device->up ? result : 0;
    if (strcmp(device->device, name) == 0 || strcmp(device->interface, name) == 0 ||
        host_is(device->host, name))
        return result;
    return 0;
}

static void list_devices(const char *name, const char *why, char *error, size_t error_bytes)
{
    enum { LISTED_MAX = 8 };
    struct sl_ofi_device *devices = calloc(LISTED_MAX, sizeof(*devices));
    int count = devices != NULL ? sl_ofi_devices(devices, LISTED_MAX) : 0;
    int used = snprintf(error, error_bytes, "no such device: 'ofi%s%.64s'%s; there are:",
                        name[0] == '\0' || name[0] == '+' ? "" : ":", name, why);
    for (int i = 0; i < count && used > 0 && (size_t)used < error_bytes; i++)
        used += snprintf(error + used, error_bytes - (size_t)used, "%s ofi+%s:%s (%s%s)",
                         i == 0 ? "" : ",", devices[i].provider, devices[i].device, devices[i].host,
                         devices[i].up ? "" : ", down");
    if (count <= 0 && used > 0 && (size_t)used < error_bytes)
        snprintf(error + used, error_bytes - (size_t)used, " none");
    free(devices);
}

struct choice {
    const char *name;
    struct fi_info *info;
    struct sl_ofi_device device;
    char *error;
    size_t error_bytes;
};

/* The best of one provider's devices. */
static void choose_of_provider(const struct ofi_library *library, const char *provider,
                               const char *wanted, struct choice *choice)
{
    struct fi_info *infos = ask_best(library, provider);
    const struct fi_info *best = NULL;
    unsigned best_fitness = 0;
    for (const struct fi_info *info = infos; info != NULL; info = info->next) {
        struct sl_ofi_device candidate;
        unsigned fits = describe_info(info, &candidate) ? fitness(&candidate, wanted) : 0;
        if (fits <= best_fitness)
            continue;
        best_fitness = fits;
        best = info;
        choice->device = candidate;
    }
    if (best != NULL)
        choice->info = library->dupinfo(best);
    if (infos != NULL)
        library->freeinfo(infos);
}

static void choose(void *argument)
{
    struct choice *choice = argument;
    const char *why, *wanted_provider, *wanted;
    const struct ofi_library *library = ofi_library(&why);
    if (library == NULL) {
        snprintf(choice->error, choice->error_bytes,
                 "the ofi link needs libfabric, which cannot be loaded: %.256s (Debian: apt-get "
                 "install libfabric1)",
                 why);
        return;
    }
    if (!split_name(choice->name, &wanted_provider, &wanted)) {
        list_devices(choice->name, " (providers are verbs and tcp)", choice->error,
                     choice->error_bytes);
        return;
    }
    for (unsigned i = 0; i < SL_COUNT_OF(providers) && choice->info == NULL; i++)
        if (wanted_provider == NULL || wanted_provider == providers[i])
            choose_of_provider(library, providers[i], wanted, choice);
    if (choice->info != NULL && choice->device.up)
        return;
    list_devices(choice->name, choice->info != NULL ? " is down" : "", choice->error,
                 choice->error_bytes);
    if (choice->info != NULL)
        library->freeinfo(choice->info);
    choice->info = NULL;
}

int ofi_info_choose(const char *name, struct fi_info **info, struct sl_ofi_device *device,
                    char *error, size_t error_bytes)
{
    struct choice choice = {.name = name, .error = error, .error_bytes = error_bytes};
    ofi_on_thread(choose, &choice);
    *info = choice.info;
    if (choice.info == NULL)
        return -ENODEV;
    if (device != NULL)
        *device = choice.device;
    return 0;
}

int sl_ofi_device_find(const char *name, struct sl_ofi_device *device, char *error,
                       size_t error_bytes)
{
    struct fi_info *info;
    int result = ofi_info_choose(name, &info, device, error, error_bytes);
    if (result == 0)
        ofi_library(NULL)->freeinfo(info);
    return result;
}
