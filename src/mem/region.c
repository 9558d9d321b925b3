/*
 * Regions: memfds of ours and of clients, mapped; their clients; the SIGBUS guard over foreign
 * ones.
 *
 * The guard is the only process-wide state: a table of foreign ranges that the signal handler
 * reads. A slot is claimed by its `base`, filled and published by `length_bytes` last, and cleared
 * in the reverse order, so the handler (which runs on a thread that touches a range, hence while
 * its region lives) sees whole entries.
 */
#include "mem/region.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <numaif.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/log.h"

#define HUGEPAGE_BYTES (2 * SL_MIB)
/* Memories of 64 sessions on 64 reactors; beyond it a region is mapped without the guard, and says
 * so. */
#define GUARD_SLOTS 4096

struct sl_region_set {
    struct sl_list regions;
    struct sl_region_client *clients[SL_REGION_CLIENTS_MAX];
    uint32_t last_id;
};

/* ---- the SIGBUS guard ---- */

struct guard_slot {
    _Atomic uintptr_t base;
    _Atomic size_t length_bytes;
    struct sl_region *_Atomic region;
};

static struct guard_slot guard_slots[GUARD_SLOTS];
static struct sigaction guard_previous;
static pthread_once_t guard_once = PTHREAD_ONCE_INIT;

static void guard_handler(int number, siginfo_t *info, void *context)
{
    uintptr_t address = (uintptr_t)info->si_addr;
    int saved_errno = errno;
    for (unsigned i = 0; i < GUARD_SLOTS; i++) {
        struct guard_slot *slot = &guard_slots[i];
        size_t length = atomic_load(&slot->length_bytes);
        uintptr_t base = atomic_load(&slot->base);
        if (length == 0 || address < base || address - base >= length)
            continue;
        size_t page = slot->region->hugepages ? HUGEPAGE_BYTES : SL_BLOCK_BYTES;
        void *at = (void *)(address & ~(uintptr_t)(page - 1));
        if (mmap(at, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0) == MAP_FAILED)
            break;
        atomic_store(&slot->region->damaged, true);
        errno = saved_errno;
        return;
    }
    /* Not ours: the previous owner's, or the death that it would have been without us. */
    if ((guard_previous.sa_flags & SA_SIGINFO) != 0 && guard_previous.sa_sigaction != NULL) {
        guard_previous.sa_sigaction(number, info, context);
    } else {
        signal(SIGBUS, SIG_DFL);
    }
    errno = saved_errno;
}

static void guard_install(void)
{
    struct sigaction action = {.sa_sigaction = guard_handler, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &guard_previous);
}

static void guard_add(struct sl_region *region)
{
    pthread_once(&guard_once, guard_install);
    for (unsigned i = 0; i < GUARD_SLOTS; i++) {
        uintptr_t expected = 0;
        if (!atomic_compare_exchange_strong(&guard_slots[i].base, &expected,
                                            (uintptr_t)region->base))
            continue;
        guard_slots[i].region = region;
        atomic_store(&guard_slots[i].length_bytes, region->length_bytes);
        return;
    }
    sl_log_warn("mem", "more than %d foreign regions: one is not guarded against SIGBUS",
                GUARD_SLOTS);
}

static void guard_remove(const struct sl_region *region)
{
    for (unsigned i = 0; i < GUARD_SLOTS; i++) {
        /* The other slots belong to regions of other threads: only their atomics may be read. */
        if (atomic_load(&guard_slots[i].length_bytes) == 0 ||
            atomic_load(&guard_slots[i].base) != (uintptr_t)region->base)
            continue;
        atomic_store(&guard_slots[i].length_bytes, 0);
        guard_slots[i].region = NULL;
        atomic_store(&guard_slots[i].base, 0);
        return;
    }
}

/* ---- sets and clients ---- */

struct sl_region_set *sl_region_set_create(void)
{
    struct sl_region_set *set = calloc(1, sizeof(*set));
    if (set != NULL)
        sl_list_init(&set->regions);
    return set;
}

void sl_region_set_destroy(struct sl_region_set *set)
{
    if (set == NULL)
        return;
    SL_ASSERT(sl_list_is_empty(&set->regions));
    for (unsigned i = 0; i < SL_REGION_CLIENTS_MAX; i++)
        SL_ASSERT(set->clients[i] == NULL);
    free(set);
}

struct sl_list *sl_region_set_list(struct sl_region_set *set)
{
    return &set->regions;
}

static void attach(struct sl_region_client *client, struct sl_region *region)
{
    region->client_data[client->index] = NULL;
    (void)client->attach(
        client, region); /* a client that cannot logs why; the region is usable without it */
}

int sl_region_set_add_client(struct sl_region_set *set, struct sl_region_client *client)
{
    for (unsigned i = 0; i < SL_REGION_CLIENTS_MAX; i++) {
        if (set->clients[i] != NULL)
            continue;
        client->index = i;
        set->clients[i] = client;
        sl_list_for_each(node, &set->regions)
            attach(client, sl_list_entry(node, struct sl_region, node));
        return 0;
    }
    return -ENOSPC;
}

void sl_region_set_remove_client(struct sl_region_set *set, struct sl_region_client *client)
{
    SL_ASSERT(set->clients[client->index] == client);
    sl_list_for_each(node, &set->regions)
    {
        struct sl_region *region = sl_list_entry(node, struct sl_region, node);
        client->detach(client, region);
        region->client_data[client->index] = NULL;
    }
    set->clients[client->index] = NULL;
}

static void publish(struct sl_region_set *set, struct sl_region *region)
{
    region->set = set;
    region->id = ++set->last_id;
    region->references = 1;
    sl_list_append(&set->regions, &region->node);
    for (unsigned i = 0; i < SL_REGION_CLIENTS_MAX; i++) {
        if (set->clients[i] != NULL)
            attach(set->clients[i], region);
    }
}

void sl_region_unref(struct sl_region *region)
{
    SL_ASSERT(region->references > 0);
    if (--region->references > 0)
        return;
    SL_ASSERT(region->removed);
    if (region->foreign)
        guard_remove(region);
    munmap(region->base, region->length_bytes);
    close(region->memfd);
    free(region);
}

void sl_region_remove(struct sl_region *region)
{
    if (region == NULL)
        return;
    SL_ASSERT(!region->removed);
    region->removed = true;
    sl_list_remove(&region->node);
    for (unsigned i = 0; i < SL_REGION_CLIENTS_MAX; i++) {
        struct sl_region_client *client = region->set->clients[i];
        if (client == NULL)
            continue;
        client->detach(client, region);
        region->client_data[i] = NULL;
    }
    sl_region_unref(region);
}

/* ---- our own memory ---- */

/* Pages are taken at once with hugepages: a fault for which none is left would be a SIGBUS later.
 */
static int make_memfd(size_t length_bytes, bool hugepages)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    if (hugepages)
        flags |= MFD_HUGETLB | (21u << MFD_HUGE_SHIFT);
    int memfd = memfd_create("sluice", flags);
    if (memfd < 0)
        return -errno;
    int error = ftruncate(memfd, (off_t)length_bytes) != 0 ? -errno : 0;
    if (error == 0 && hugepages && fallocate(memfd, 0, 0, (off_t)length_bytes) != 0)
        error = -errno;
    if (error == 0 && fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
        error = -errno;
    if (error < 0) {
        close(memfd);
        return error;
    }
    return memfd;
}

static void bind_to_node(struct sl_region *region, int numa_node)
{
    unsigned long mask[16] = {0};
    if (numa_node < 0 || (size_t)numa_node >= sizeof(mask) * 8)
        return;
    mask[(size_t)numa_node / 64] = 1ul << ((size_t)numa_node % 64);
    if (mbind(region->base, region->length_bytes, MPOL_PREFERRED, mask, sizeof(mask) * 8, 0) != 0)
        sl_log_warn("mem", "memory cannot be bound to NUMA node %d", numa_node);
}

int sl_region_create(struct sl_region_set *set, size_t length_bytes, bool hugepages, int numa_node,
                     struct sl_region **result)
{
    struct sl_region *region = calloc(1, sizeof(*region));
    if (region == NULL)
        return -ENOMEM;
    size_t rounded = sl_align_up(length_bytes, hugepages ? HUGEPAGE_BYTES : SL_BLOCK_BYTES);
    region->memfd = hugepages ? make_memfd(rounded, true) : -ENOTSUP;
    region->hugepages = region->memfd >= 0;
    if (region->memfd < 0) {
        if (hugepages)
            sl_log_debug("mem", "no 2 MiB pages for %zu bytes: ordinary pages are used", rounded);
        region->memfd = make_memfd(rounded, false);
    }
    if (region->memfd < 0) {
        int error = region->memfd;
        free(region);
        return error;
    }
    region->length_bytes = rounded;
    void *base = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_SHARED, region->memfd, 0);
    if (base == MAP_FAILED) {
        int error = -errno;
        close(region->memfd);
        free(region);
        return error;
    }
    region->base = base;
    region->writable = true;
    bind_to_node(region, numa_node);
    publish(set, region);
    *result = region;
    return 0;
}

/* ---- a client's memory ---- */

static int check_foreign(int memfd, uint64_t offset_bytes, size_t length_bytes, bool *hugepages)
{
    struct stat status;
    if (length_bytes == 0 || !sl_is_aligned(length_bytes | offset_bytes, SL_BLOCK_BYTES))
        return -EINVAL;
    if (fstat(memfd, &status) != 0)
        return -errno;
    if (!S_ISREG(status.st_mode))
        return -EINVAL;
    int seals = fcntl(memfd, F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0)
        return -EPERM;
    if (offset_bytes > (uint64_t)status.st_size ||
        length_bytes > (uint64_t)status.st_size - offset_bytes)
        return -ERANGE;
    *hugepages = status.st_blksize == (blksize_t)HUGEPAGE_BYTES;
    return 0;
}

int sl_region_map_foreign(struct sl_region_set *set, int memfd, uint64_t offset_bytes,
                          size_t length_bytes, bool writable, struct sl_region **result)
{
    bool hugepages = false;
    int error = check_foreign(memfd, offset_bytes, length_bytes, &hugepages);
    struct sl_region *region = error == 0 ? calloc(1, sizeof(*region)) : NULL;
    if (region == NULL) {
        close(memfd);
        return error < 0 ? error : -ENOMEM;
    }
    void *base = mmap(NULL, length_bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED,
                      memfd, (off_t)offset_bytes);
    if (base == MAP_FAILED) {
        error = -errno;
        close(memfd);
        free(region);
        return error;
    }
    region->base = base;
    region->length_bytes = length_bytes;
    region->memfd = memfd;
    region->memfd_offset_bytes = offset_bytes;
    region->foreign = true;
    region->writable = writable;
    region->hugepages = hugepages;
    guard_add(region);
    publish(set, region);
    *result = region;
    return 0;
}
