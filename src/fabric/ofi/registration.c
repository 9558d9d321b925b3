/*
 * Registration: a region is registered once with each domain, when it comes or the domain opens,
 * and its registration lives in the region's client_data (the cache, keyed by region and domain).
 * It is revoked when the region goes: its owner left. Arenas grow on demand, so registrations do.
 *
 * The kernel pins what is registered with a card, and counts it against the memlock limit: looked
 * at before, so that the message can say by how much and what to do. With huge pages a card needs
 * one entry for 2 MiB instead of one for 4 KiB.
 *
 * Keys: asked for at random (a wrong guess costs the connection), unless the provider makes its own
 * (verbs: FI_MR_PROV_KEY). What is published is always fi_mr_key(). A key is good for the whole
 * domain, from any of its connections: so peers and gateways are served from different domains.
 *
 * State: how much is pinned, process-wide, as the kernel counts it. Owner: the domain's reactor.
 */
#include <linux/capability.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/ofi/internal.h"

static _Atomic uint64_t pinned_total;
static atomic_bool warned_memlock;

static struct ofi_domain *domain_of_client(struct sl_region_client *client)
{
    return sl_container_of(client, struct ofi_domain, client);
}

/* False: no limit, or CAP_IPC_LOCK lifts it. */
static bool memlock_limit(uint64_t *limit)
{
    struct rlimit memlock;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
    if (getrlimit(RLIMIT_MEMLOCK, &memlock) != 0 || memlock.rlim_cur == RLIM_INFINITY)
        return false;
    if (syscall(SYS_capget, &header, data) == 0 &&
        (data[0].effective & (UINT32_C(1) << CAP_IPC_LOCK)) != 0)
        return false;
    *limit = memlock.rlim_cur;
    return true;
}

/* Says it before the kernel does. 0 or -ENOMEM. */
static int check_limits(const struct ofi_domain *domain, const struct sl_region *region)
{
    uint64_t limit;
    if (domain->info->domain_attr->mr_cnt > 0 &&
        domain->region_count >= domain->info->domain_attr->mr_cnt) {
        sl_log_error("ofi", "region %u of %zu bytes: %s takes %zu registrations and has them all",
                     region->id, region->length_bytes, domain->info->domain_attr->name,
                     domain->info->domain_attr->mr_cnt);
        return -ENOMEM;
    }
    if (!domain->is_verbs || !memlock_limit(&limit))
        return 0; /* only cards pin */
    uint64_t pinned = atomic_load(&pinned_total);
    uint64_t wanted = pinned + region->length_bytes;
    if (wanted > limit) {
        sl_log_error("ofi",
                     "region %u of %zu bytes cannot be pinned: %llu bytes are, and the memlock "
                     "limit is %llu: raise it (ulimit -l, LimitMEMLOCK=) or lower --memory",
                     region->id, region->length_bytes, (unsigned long long)pinned,
                     (unsigned long long)limit);
        return -ENOMEM;
    }
    if (wanted > limit / 4 * 3 && !atomic_exchange(&warned_memlock, true))
        sl_log_warn("ofi",
                    "%llu bytes are pinned, of a memlock limit of %llu: memory can grow by "
                    "%llu more (ulimit -l, LimitMEMLOCK=)",
                    (unsigned long long)wanted, (unsigned long long)limit,
                    (unsigned long long)(limit - wanted));
    return 0;
}

static uint64_t provider_access(const struct sl_region *region, unsigned access)
{
    uint64_t flags = FI_SEND | FI_WRITE;
    if (region->writable)
        flags |= FI_RECV | FI_READ;
    if ((access & SL_ACCESS_REMOTE_READ) != 0)
        flags |= FI_REMOTE_READ;
    if ((access & SL_ACCESS_REMOTE_WRITE) != 0)
        flags |= FI_REMOTE_WRITE;
    return flags;
}

static uint64_t random_key(const struct ofi_domain *domain)
{
    uint64_t key = sl_reactor_random_u64(domain->reactor);
    size_t key_bytes = domain->info->domain_attr->mr_key_size;
    if (key_bytes < sizeof(key))
        key &= (UINT64_C(1) << (key_bytes * 8)) - 1;
    return key;
}

static int register_region(struct ofi_domain *domain, struct sl_region *region, struct ofi_key *key)
{
    uint64_t access = provider_access(region, key->access);
    int error;
    /* Where keys are asked for, one may be taken: another is drawn. */
    for (unsigned attempt = 0; attempt < 8; attempt++) {
        error = fi_mr_reg(domain->domain, region->base, region->length_bytes, access, 0,
                          random_key(domain), 0, &key->mr, NULL);
        if (error != -FI_ENOKEY && error != -EEXIST)
            break;
    }
    if (error != 0) {
        sl_log_error("ofi",
                     "region %u of %zu bytes cannot be registered with %s: %s (%llu bytes in %llu "
                     "regions are)",
                     region->id, region->length_bytes, domain->info->domain_attr->name,
                     domain->library->strerror(-error),
                     (unsigned long long)atomic_load(&pinned_total),
                     (unsigned long long)domain->region_count);
        return ofi_error(error);
    }
    key->desc = fi_mr_desc(key->mr);
    key->key = fi_mr_key(key->mr);
    key->pinned_bytes = domain->is_verbs ? region->length_bytes : 0;
    atomic_fetch_add(&pinned_total, key->pinned_bytes);
    domain->region_count++;
    return 0;
}

int ofi_region_attach(struct sl_region_client *client, struct sl_region *region)
{
    struct ofi_domain *domain = domain_of_client(client);
    unsigned access = region->foreign ? domain->config.foreign_access : domain->config.arena_access;
    if (!region->writable)
        access &= ~(unsigned)SL_ACCESS_REMOTE_WRITE;
    int error = check_limits(domain, region);
    if (error < 0)
        return error;
    struct ofi_key *key = calloc(1, sizeof(*key));
    if (key == NULL)
        return -ENOMEM;
    key->access = access;
    error = register_region(domain, region, key);
    if (error < 0) {
        free(key);
        return error;
    }
    region->client_data[client->index] = key;
    return 0;
}

void ofi_region_detach(struct sl_region_client *client, struct sl_region *region)
{
    struct ofi_domain *domain = domain_of_client(client);
    struct ofi_key *key = region->client_data[client->index];
    if (key == NULL)
        return;
    region->client_data[client->index] = NULL;
    fi_close(&key->mr->fid);
    atomic_fetch_sub(&pinned_total, key->pinned_bytes);
    domain->region_count--;
    /* A card lets go of the pages before it says so. libfabric's tcp only forgets the key: what a
     * peer is writing at this moment still lands. */
    if (!domain->is_verbs && key->access != 0 && !sl_list_is_empty(&domain->connections)) {
        struct ofi_retired *retired = malloc(sizeof(*retired));
        SL_ASSERT(retired != NULL);
        *retired = (struct ofi_retired){.region = region, .birth = domain->births};
        sl_region_ref(region);
        sl_list_append(&domain->retired, &retired->node);
    }
    free(key);
}

void ofi_retired_release(struct ofi_domain *domain)
{
    uint64_t oldest = UINT64_MAX;
    sl_list_for_each(node, &domain->connections)
    {
        struct ofi_connection *connection = sl_list_entry(node, struct ofi_connection, node);
        if (connection->ep != NULL)
            oldest = sl_min(oldest, connection->birth);
    }
    sl_list_for_each(node, &domain->retired)
    {
        struct ofi_retired *retired = sl_list_entry(node, struct ofi_retired, node);
        if (retired->birth > oldest)
            continue;
        sl_list_remove(&retired->node);
        sl_region_unref(retired->region);
        free(retired);
    }
}

int ofi_describe(struct sl_link_domain *link_domain, struct sl_region *region, const void *data,
                 uint32_t length_bytes, struct sl_remote_piece *piece)
{
    struct ofi_domain *domain = ofi_domain_of(link_domain);
    const struct ofi_key *key = region->client_data[domain->client.index];
    if (key == NULL || key->access == 0 || region->removed ||
        !sl_region_contains(region, data, length_bytes))
        return -SL_E_KEY;
    bool is_virtual = (domain->info->domain_attr->mr_mode & FI_MR_VIRT_ADDR) != 0;
    *piece = (struct sl_remote_piece){
        .address = is_virtual ? (uint64_t)(uintptr_t)data
                              : (uint64_t)((const uint8_t *)data - region->base),
        .key = key->key,
        .length_bytes = length_bytes,
    };
    return 0;
}
