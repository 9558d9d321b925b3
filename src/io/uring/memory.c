/*
 * Fixed buffers: each region of the reactor's memory is registered with the ring, so that a disk
 * operation on a single piece of it skips pinning its pages. A client of the region set
 * (mem/region.h).
 *
 * Invariants: client_data of a registered region = its first slot + 1; it covers ceil(length / 1
 * GiB) slots. A region that cannot be registered (memlock, table full, read-only mapping) works
 * unregistered.
 *
 * After detach the kernel unpins the pages when the operations that were in flight at that time are
 * done.
 */
#include "io/uring/internal.h"

#include <string.h>
#include <sys/resource.h>

#include "core/error.h"
#include "core/log.h"

static unsigned slots_of(const struct sl_region *region)
{
    return (unsigned)((region->length_bytes + URING_BUFFER_SLOT_BYTES - 1) /
                      URING_BUFFER_SLOT_BYTES);
}

static int slots_find(const struct sl_uring *uring, unsigned count)
{
    unsigned run = 0;
    for (unsigned i = 0; i < URING_BUFFER_SLOTS; i++) {
        run = uring->buffer_slots[i] != 0 ? 0 : run + 1;
        if (run == count)
            return (int)(i + 1 - count);
    }
    return -ENOSPC;
}

/* An empty iovec clears a slot. */
static int slots_update(struct sl_uring *uring, unsigned first, const struct sl_region *region,
                        unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct iovec piece = {0};
        if (region != NULL) {
            uint64_t offset = i * URING_BUFFER_SLOT_BYTES;
            piece.iov_base = region->base + offset;
            piece.iov_len = sl_min(region->length_bytes - offset, URING_BUFFER_SLOT_BYTES);
        }
        __u64 tag = 0; /* no completion when it goes */
        int done = io_uring_register_buffers_update_tag(&uring->ring, first + i, &piece, &tag, 1);
        if (done != 1) {
            if (region != NULL)
                (void)slots_update(uring, first, NULL, i);
            return done < 0 ? done : -EIO;
        }
    }
    return 0;
}

static void complain(struct sl_uring *uring, const struct sl_region *region, int error)
{
    if (uring->buffers_complained)
        return;
    uring->buffers_complained = true;
    struct rlimit limit = {0};
    (void)getrlimit(RLIMIT_MEMLOCK, &limit);
    sl_log_warn(
        "io",
        "fixed buffers: registering %zu bytes with io_uring: %s; going on without (slower). "
        "The memlock limit is %llu bytes: raise it (ulimit -l, LimitMEMLOCK=) above the "
        "memory of this program",
        region->length_bytes, sl_error_name(error), (unsigned long long)limit.rlim_cur);
}

/* Always succeeds: a ring takes unregistered memory too, and an arena that a client of the set
 * cannot take is given up (mem/memory.c). */
static int buffers_attach(struct sl_region_client *client, struct sl_region *region)
{
    struct sl_uring *uring = sl_container_of(client, struct sl_uring, region_client);
    if (!region->writable)
        return 0; /* the kernel pins for writing only; such regions are rare */
    unsigned count = slots_of(region);
    int first = slots_find(uring, count);
    int error = first < 0 ? first : slots_update(uring, (unsigned)first, region, count);
    if (error != 0) {
        complain(uring, region, error);
        return 0;
    }
    memset(uring->buffer_slots + first, 1, count);
    region->client_data[client->index] = (void *)(uintptr_t)(first + 1);
    return 0;
}

static void buffers_detach(struct sl_region_client *client, struct sl_region *region)
{
    struct sl_uring *uring = sl_container_of(client, struct sl_uring, region_client);
    uintptr_t data = (uintptr_t)region->client_data[client->index];
    if (data == 0)
        return;
    unsigned first = (unsigned)data - 1;
    unsigned count = slots_of(region);
    region->client_data[client->index] = NULL;
    /* On another thread than the ring's the kernel refuses (destroying at the end): the ring goes
     * then. */
    (void)slots_update(uring, first, NULL, count);
    memset(uring->buffer_slots + first, 0, count);
}

int uring_register_memory(struct sl_io *io, struct sl_memory *memory)
{
    struct sl_uring *uring = uring_of(io);
    if (uring->has_memory)
        return -EEXIST;
    int error = io_uring_register_buffers_sparse(&uring->ring, URING_BUFFER_SLOTS);
    if (error != 0)
        return error;
    uring->has_buffer_table = true;
    uring->region_set = sl_memory_regions(memory);
    uring->region_client.attach = buffers_attach;
    uring->region_client.detach = buffers_detach;
    error = sl_region_set_add_client(uring->region_set, &uring->region_client);
    if (error != 0) {
        (void)io_uring_unregister_buffers(&uring->ring);
        return error;
    }
    uring->has_memory = true;
    return 0;
}

void uring_unregister_memory(struct sl_uring *uring)
{
    if (uring->has_memory)
        sl_region_set_remove_client(uring->region_set, &uring->region_client);
    uring->has_memory = false;
}

int uring_buffer_slot(const struct sl_uring *uring, const struct sl_region *region,
                      const void *data, size_t length_bytes)
{
    if (region == NULL || !uring->has_memory || region->set != uring->region_set)
        return -1;
    uintptr_t first = (uintptr_t)region->client_data[uring->region_client.index];
    if (first == 0 || length_bytes == 0 || !sl_region_contains(region, data, length_bytes))
        return -1;
    uint64_t offset = (uint64_t)((const uint8_t *)data - region->base);
    uint64_t slot = offset / URING_BUFFER_SLOT_BYTES;
    if ((offset + length_bytes - 1) / URING_BUFFER_SLOT_BYTES != slot)
        return -1;
    return (int)(first - 1 + slot);
}
