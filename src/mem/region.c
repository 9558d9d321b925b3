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
#include <linux/magic.h>
#include <linux/memfd.h>
#include <numaif.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/error.h"
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

/* The foreign region that holds the address, or NULL. Async-signal-safe. The base is read on both
 * sides of the length: a slot that changed hands in between is not that of a region in use here. */
static struct sl_region *guard_find(uintptr_t address)
{
    for (unsigned i = 0; i < GUARD_SLOTS; i++) {
        struct guard_slot *slot = &guard_slots[i];
        uintptr_t base = atomic_load(&slot->base);
        size_t length = atomic_load(&slot->length_bytes);
        if (base == 0 || address < base || address - base >= length)
            continue;
        struct sl_region *region = atomic_load(&slot->region);
        if (atomic_load(&slot->base) == base && region != NULL)
            return region;
    }
    return NULL;
}

/* Only a fault has an address: one that was sent with kill(2) has the sender's pid in its place. */
static bool guard_mend(const siginfo_t *info)
{
    if (info->si_code != BUS_ADRERR && info->si_code != BUS_MCEERR_AR)
        return false;
    struct sl_region *region = guard_find((uintptr_t)info->si_addr);
    if (region == NULL)
        return false;
    uintptr_t page = (uintptr_t)info->si_addr & ~(uintptr_t)(region->page_bytes - 1);
    int protection = PROT_READ | (region->writable ? PROT_WRITE : 0);
    if (mmap((void *)page, region->page_bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
             -1, 0) == MAP_FAILED)
        return false;
    atomic_store(&region->damaged, true);
    return true;
}

static void guard_handler(int number, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    if (!guard_mend(info)) {
        /* Not ours: the previous owner's, or the death that it would have been without us. */
        if ((guard_previous.sa_flags & SA_SIGINFO) != 0) {
            guard_previous.sa_sigaction(number, info, context);
        } else if (guard_previous.sa_handler == SIG_DFL ||
                   (guard_previous.sa_handler == SIG_IGN && info->si_code > 0)) {
            (void)signal(SIGBUS, SIG_DFL);
            if (info->si_code <= 0)
                (void)raise(SIGBUS); /* a fault comes again by itself, with its address */
        } else if (guard_previous.sa_handler != SIG_IGN) {
            guard_previous.sa_handler(number);
        }
    }
    errno = saved_errno;
}

static void guard_install(void)
{
    /* On a coroutine's stack: the handler needs little of it, but a previous one may ask for
     * the alternate stack. */
    struct sigaction action = {.sa_sigaction = guard_handler,
                               .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
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
        atomic_store(&guard_slots[i].region, region);
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
        if (atomic_load(&guard_slots[i].base) != (uintptr_t)region->base)
            continue;
        atomic_store(&guard_slots[i].length_bytes, 0);
        atomic_store(&guard_slots[i].region, NULL);
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
    /* A client that cannot logs why; the region is usable without it. */
    int error = client->attach(client, region);
    if (error < 0)
        region->client_data[client->index] = NULL;
    if (error < 0 && region->attach_error == 0)
        region->attach_error = error;
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

void sl_region_abandon(struct sl_region *region)
{
    sl_list_remove(&region->node);
    if (region->foreign)
        guard_remove(region);
    munmap(region->base, region->length_bytes);
    close(region->memfd);
}

void sl_region_unref(struct sl_region *region)
{
    SL_ASSERT(region->references > 0);
    if (--region->references > 0)
        return;
    SL_ASSERT(region->removed);
    sl_region_abandon(region);
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

static void bind_to_node(void *base, size_t length_bytes, int numa_node)
{
    unsigned long mask[16] = {0};
    if (numa_node < 0)
        return;
    if ((size_t)numa_node < sizeof(mask) * 8) {
        mask[(size_t)numa_node / 64] = 1ul << ((size_t)numa_node % 64);
        if (mbind(base, length_bytes, MPOL_PREFERRED, mask, sizeof(mask) * 8, 0) == 0)
            return;
    }
    sl_log_warn("mem", "memory cannot be bound to NUMA node %d (see numactl -H)", numa_node);
}

/* Maps `region->memfd`. Huge pages are taken at once: a fault for which none is left would be a
 * SIGBUS later. They are bound to their node first, since binding does not move them. */
static int map_own(struct sl_region *region, int numa_node)
{
    size_t length = region->length_bytes;
    if (ftruncate(region->memfd, (off_t)length) != 0)
        return -errno;
    void *base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, region->memfd, 0);
    if (base == MAP_FAILED)
        return -errno;
    bind_to_node(base, length, numa_node);
    int error = 0;
    if (region->hugepages && fallocate(region->memfd, 0, 0, (off_t)length) != 0)
        error = -errno;
    if (error == 0 && fcntl(region->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
        error = -errno;
    if (error < 0) {
        munmap(base, length);
        return error;
    }
    region->base = base;
    return 0;
}

static int make_own(struct sl_region *region, size_t length_bytes, bool hugepages, int numa_node)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    if (hugepages)
        flags |= MFD_HUGETLB | (21u << MFD_HUGE_SHIFT);
    region->memfd = memfd_create("sluice", flags);
    if (region->memfd < 0)
        return -errno;
    region->length_bytes = length_bytes;
    region->hugepages = hugepages;
    region->page_bytes = hugepages ? HUGEPAGE_BYTES : SL_BLOCK_BYTES;
    int error = map_own(region, numa_node);
    if (error < 0)
        close(region->memfd);
    return error;
}

int sl_region_create(struct sl_region_set *set, size_t length_bytes, bool hugepages, int numa_node,
                     struct sl_region **result)
{
    if (length_bytes == 0 || length_bytes > PTRDIFF_MAX - HUGEPAGE_BYTES)
        return -EINVAL;
    struct sl_region *region = calloc(1, sizeof(*region));
    if (region == NULL)
        return -ENOMEM;
    size_t rounded = sl_align_up(length_bytes, hugepages ? HUGEPAGE_BYTES : SL_BLOCK_BYTES);
    int error = make_own(region, rounded, hugepages, numa_node);
    if (error < 0 && hugepages) {
        sl_log_debug("mem", "no 2 MiB pages for %zu bytes (%s): ordinary pages are used", rounded,
                     sl_error_name(error));
        error = make_own(region, rounded, false, numa_node);
        /* The next best: the kernel may put large pages behind it, where it is set to. */
        if (error == 0)
            (void)madvise(region->base, rounded, MADV_HUGEPAGE);
    }
    if (error < 0) {
        free(region);
        return error;
    }
    region->writable = true;
    publish(set, region);
    *result = region;
    return 0;
}

/* ---- a client's memory ---- */

static int check_foreign(int memfd, uint64_t offset_bytes, size_t length_bytes, size_t *page_bytes)
{
    struct stat status;
    struct statfs system;
    if (length_bytes == 0 || !sl_is_aligned(length_bytes | offset_bytes, SL_BLOCK_BYTES))
        return -EINVAL;
    if (fstat(memfd, &status) != 0 || fstatfs(memfd, &system) != 0)
        return -errno;
    if (!S_ISREG(status.st_mode))
        return -EINVAL;
    int seals = fcntl(memfd, F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0)
        return -EPERM;
    if (offset_bytes > (uint64_t)status.st_size ||
        length_bytes > (uint64_t)status.st_size - offset_bytes)
        return -ERANGE;
    /* Not st_blksize: with transparent huge pages that says 2 MiB of memory in 4 KiB pages. */
    *page_bytes = SL_BLOCK_BYTES;
    if (system.f_type == HUGETLBFS_MAGIC)
        *page_bytes = (size_t)system.f_bsize;
    /* Huge pages are mapped, and unmapped, whole. */
    return sl_is_aligned(length_bytes | offset_bytes, *page_bytes) ? 0 : -EINVAL;
}

int sl_region_map_foreign(struct sl_region_set *set, int memfd, uint64_t offset_bytes,
                          size_t length_bytes, bool writable, struct sl_region **result)
{
    size_t page_bytes = 0;
    int error = check_foreign(memfd, offset_bytes, length_bytes, &page_bytes);
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
    region->page_bytes = page_bytes;
    region->hugepages = page_bytes > SL_BLOCK_BYTES;
    guard_add(region);
    publish(set, region);
    *result = region;
    return 0;
}
