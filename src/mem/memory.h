/*
 * A reactor's memory: arenas (regions of its own, grown on demand up to a limit) under a buddy
 * allocator from 4 KiB up, and buffers over it.
 *
 *   sl_region (arena) ─► buddy (4 KiB … SL_BUFFER_BYTES_MAX) ─► struct sl_buf: refcounted span of
 * pages
 *
 * Running out makes requests wait (sl_buf_alloc_co), in order, not fail. Three reserves keep
 * waiting from deadlocking: what empties the system may use memory that what fills it may not. All
 * functions: the owning reactor's thread only.
 */
#ifndef SL_MEM_MEMORY_H
#define SL_MEM_MEMORY_H

#include "core/base.h"
#include "core/coroutine.h"
#include "mem/copy.h"
#include "mem/region.h"

/* One piece of I/O is at most 1 MiB (src/fabric/limits.h); 2 MiB leaves room for headers beside it.
 */
#define SL_BUFFER_BYTES_MAX (2 * SL_MIB)

enum sl_memory_reserve {
    SL_RESERVE_ADMISSION,  /* new requests: may use 3/4 of what their kind can have */
    SL_RESERVE_INTAKE,     /* receives and follower intake: 7/8 */
    SL_RESERVE_CHECKPOINT, /* apply and checkpoint: all */
    SL_RESERVE_COUNT,
};

struct sl_memory_config {
    size_t limit_bytes; /* most that arenas may take; ≥ 4 MiB */
    size_t arena_bytes; /* growth step; 0 = as much as its kind has, 2 to 32 MiB */
    bool hugepages;     /* try 2 MiB pages */
    int numa_node;      /* -1 = any */
};

struct sl_memory;
struct sl_arena;

/* A page-aligned span of DMA memory. `data` and `length_bytes` are its own (4 KiB multiples). */
struct sl_buf {
    struct sl_memory *memory;
    struct sl_region *region;
    struct sl_arena *arena;
    uint8_t *data;
    uint32_t length_bytes;
    uint32_t wanted_bytes; /* asked for; the rest is rounding */
    uint32_t references;
    uint32_t lent_count; /* devices and connections that may still touch it (STYLE 14) */
};

/* Who holds buffers that could be let go. `on_short` comes on the reactor's thread, from within an
 * allocation that has to wait or has failed: it must not free buffers itself, only wake who does.
 */
struct sl_memory_listener {
    struct sl_list node;
    void (*on_short)(void *context);
    void *context;
};

struct sl_memory_statistics {
    uint64_t limit_bytes;
    uint64_t small_limit_bytes; /* of it, most that buffers of up to 16 KiB can have */
    uint64_t arena_bytes;       /* mapped */
    uint64_t used_bytes;
    uint64_t free_bytes;         /* in arenas */
    uint64_t largest_free_bytes; /* of large buffers: outer fragmentation */
    uint64_t waste_bytes;        /* of it rounding: not asked for (inner fragmentation) */
    uint64_t buffer_count;
    uint64_t waiter_count;
    uint64_t hugepage_bytes;
    struct sl_copy_counters copies;
};

/* -EINVAL, -ENOMEM. */
int sl_memory_create(const struct sl_memory_config *config, struct sl_memory **memory);
/* Asserts that every buffer came back; who waits for one gets NULL. Takes NULL. */
void sl_memory_destroy(struct sl_memory *memory);

/* For a simulator whose node crashes: unmaps all memory of the set, the arenas and what is foreign,
 * whoever holds it; objects on the heap are theirs who abandoned them. No device may be at work in
 * it. Takes NULL. */
void sl_memory_abandon(struct sl_memory *memory);

/* The set that the arenas are in, and foreign memory of this reactor may join; the counters of this
 * reactor's copies. Both live as long as the memory. */
struct sl_region_set *sl_memory_regions(struct sl_memory *memory);
struct sl_copy_counters *sl_memory_copies(struct sl_memory *memory);
/* The listener is the caller's, until it is removed. */
void sl_memory_listen(struct sl_memory *memory, struct sl_memory_listener *listener);
void sl_memory_unlisten(struct sl_memory_listener *listener);
/* Whether somebody waits for memory of that reserve or a higher one, or would wait for a buffer of
 * some size: then what can be let go should be. */
bool sl_memory_is_short(const struct sl_memory *memory, enum sl_memory_reserve reserve);
/* As it is now. */
void sl_memory_statistics(const struct sl_memory *memory, struct sl_memory_statistics *statistics);

/* `length_bytes` 1 … SL_BUFFER_BYTES_MAX, rounded up to 4 KiB: whole pages only are taken. Contents
 * are undefined. One reference for the caller. NULL: nothing free for this reserve, or others of it
 * wait. */
struct sl_buf *sl_buf_alloc(struct sl_memory *memory, uint32_t length_bytes,
                            enum sl_memory_reserve reserve);
/* Waits its turn instead: in order within a reserve, higher reserves first; a lower one goes on
 * with what a higher cannot use. NULL only when the memory is being destroyed. */
struct sl_buf *sl_buf_alloc_co(struct sl_memory *memory, uint32_t length_bytes,
                               enum sl_memory_reserve reserve);

static inline struct sl_buf *sl_buf_ref(struct sl_buf *buf)
{
    buf->references++;
    return buf;
}
/* The last reference gives the pages back; it must not be lent. Takes NULL. */
void sl_buf_unref(struct sl_buf *buf);

/* Gives back the pages behind `length_bytes` (rounded up to 4 KiB; at least 1; nothing happens if
 * that is all). Only with one reference, not lent. */
void sl_buf_trim(struct sl_buf *buf, uint32_t length_bytes);

/* Marks that a device or connection holds it; ASan builds poison it while it is lent for writing.
 */
void sl_buf_lend(struct sl_buf *buf);
void sl_buf_return(struct sl_buf *buf);

static inline struct sl_span sl_buf_span(const struct sl_buf *buf, uint32_t offset_bytes,
                                         uint32_t length_bytes)
{
    return (struct sl_span){buf->data + offset_bytes, length_bytes, buf->region};
}

#endif
