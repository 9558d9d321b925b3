/*
 * A region: one mapping that devices may address: an arena of ours, or the memory of a client (a
 * shared memfd, guest RAM). Whatever does DMA (io_uring's fixed buffers, each fabric domain) is a
 * client of the reactor's region set and sees every region once, when it comes and when it goes.
 *
 * Invariants: a region belongs to one reactor's set. Its pages stay mapped while references > 0.
 * Removing it revokes it from every client at once; the mapping goes with the last reference.
 *
 * Foreign memory can vanish under us (truncated file, exhausted hugepages): sl_region_map_foreign()
 * demands F_SEAL_SHRINK, and a SIGBUS inside a foreign region replaces the page by zeroes and marks
 * the region `damaged` instead of ending the process.
 */
#ifndef SL_MEM_REGION_H
#define SL_MEM_REGION_H

#include "core/base.h"
#include "core/list.h"

/* io_uring + gateway domain + peer domain + vhost/DMA engine + 2 for tests. */
#define SL_REGION_CLIENTS_MAX 6

struct sl_region_set;

struct sl_region {
    struct sl_list node;
    struct sl_region_set *set;
    uint8_t *base;
    size_t length_bytes;
    int memfd; /* owned; shared over Unix sockets by links that map */
    uint64_t memfd_offset_bytes;
    uint32_t id; /* unique in its set, never used again */
    uint32_t references;
    bool foreign; /* mapped from another process's memfd */
    bool writable;
    bool hugepages;
    size_t page_bytes;    /* 4 KiB; with hugepages, of one such page */
    int attach_error;     /* the first of its clients' that could not take it; 0 = all did */
    bool removed;         /* revoked; lives until the last reference */
    _Atomic bool damaged; /* a SIGBUS was caught in it */
    void *client_data[SL_REGION_CLIENTS_MAX];
};

/* Called on the set's reactor. attach: 0 or negative errno (then the region is usable, but not
 * through this client: client_data becomes NULL; it logs why, and region->attach_error keeps it;
 * an arena is given up then). detach: revokes; may not block; is
 * called for a region whose attach failed too. */
struct sl_region_client {
    unsigned index; /* given by sl_region_set_add_client() */
    int (*attach)(struct sl_region_client *client, struct sl_region *region);
    void (*detach)(struct sl_region_client *client, struct sl_region *region);
};

/* A local piece of memory for a device: what an iovec is to the kernel, with its region. Borrows.
 */
struct sl_span {
    uint8_t *data;
    uint32_t length_bytes;
    struct sl_region *region;
};

/* NULL: no memory. */
struct sl_region_set *sl_region_set_create(void);
/* Every region must be gone and every client removed: asserted. Takes NULL. */
void sl_region_set_destroy(struct sl_region_set *set);

/* Attaches every region that is there and every one that comes. -ENOSPC: too many clients. */
int sl_region_set_add_client(struct sl_region_set *set, struct sl_region_client *client);
void sl_region_set_remove_client(struct sl_region_set *set, struct sl_region_client *client);

/* Makes memory of our own: `length_bytes` (rounded up to 2 MiB with hugepages) in a new memfd. With
 * `hugepages` tries 2 MiB pages, falls back to ordinary ones and says so in region->hugepages.
 * numa_node -1 = any; one that does not exist is said and ignored. The caller owns one reference.
 * -EINVAL (zero or absurd length), -ENOMEM, -EMFILE. */
int sl_region_create(struct sl_region_set *set, size_t length_bytes, bool hugepages, int numa_node,
                     struct sl_region **region);

/* Maps `length_bytes` of another process's memory. Takes the descriptor, also on error. `writable`:
 * our devices may write to it. -EINVAL (zero, not a file, misaligned: whole huge pages where
 * they are such), -ERANGE (the file is shorter), -EPERM
 * (not sealed against shrinking), -ENOMEM. The caller owns one reference. */
int sl_region_map_foreign(struct sl_region_set *set, int memfd, uint64_t offset_bytes,
                          size_t length_bytes, bool writable, struct sl_region **region);

/* Revokes from all clients and gives up the caller's reference. Takes NULL. */
void sl_region_remove(struct sl_region *region);

/* Unmaps it under its users, without a word to clients: their node has crashed (mem/memory.h,
 * sl_memory_abandon()). The object itself is not freed. */
void sl_region_abandon(struct sl_region *region);

static inline void sl_region_ref(struct sl_region *region)
{
    region->references++;
}
/* The last reference unmaps it; it must have been removed (sl_region_remove()) before. */
void sl_region_unref(struct sl_region *region);

/* True if [address, address + length) lies in the region. No overflow. */
static inline bool sl_region_contains(const struct sl_region *region, const void *address,
                                      size_t length_bytes)
{
    size_t offset = (size_t)((const uint8_t *)address - region->base);
    return (const uint8_t *)address >= region->base && offset <= region->length_bytes &&
           length_bytes <= region->length_bytes - offset;
}

/* Every region of the set, in no order; the body may drop the one that it is at. */
#define sl_region_for_each(node, set) sl_list_for_each(node, sl_region_set_list(set))
struct sl_list *sl_region_set_list(struct sl_region_set *set);

#endif
