/*
 * A reactor's memory: arenas that grow on demand, buffers over the buddy allocator, and those that
 * wait.
 *
 * Who waits is served in order within a reserve, higher reserves first; nobody overtakes one of the
 * same reserve, however small. What a higher reserve cannot use (too short a run of pages) a lower
 * one may take: its requests hold memory that the higher one waits for, so they must get on.
 * Owned by one reactor.
 */
#include "mem/memory.h"

#include <errno.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/log.h"
#include "core/reactor.h"
#include "mem/buddy.h"
#include "mem/poison.h"
#include "mem/pool.h"

/* The first arena, and the most that one grows by: arenas double what there is. Registering one
 * with io_uring takes its pages at once, so an idle program should have a small one; the kernel's
 * table of buffers wants few. */
#define ARENA_BYTES_FIRST (4 * SL_MIB)
#define ARENA_BYTES_MOST  (32 * SL_MIB)
#define BLOCK_BYTES       (2 * SL_MIB)
#define BUFFERS_A_SLAB    256
/* When the system, not the limit, refused an arena, there may be nobody who frees: look again. */
#define STARVED_RETRY_NS (100 * SL_NS_PER_MS)

struct sl_arena {
    struct sl_list node;
    struct sl_buddy_arena buddy;
    struct sl_region *region;
};

struct waiter {
    struct sl_list node;
    struct sl_wait wait;
    uint32_t length_bytes;
    struct sl_buf *buf;
};

struct sl_memory {
    struct sl_memory_config config;
    struct sl_region_set *regions;
    struct sl_buddy buddy;
    struct sl_list arenas;
    struct sl_pool buffers;
    struct sl_list waiters[SL_RESERVE_COUNT];
    uint64_t waiter_count;
    uint64_t arena_bytes;
    uint64_t hugepage_bytes;
    uint64_t used_bytes;
    uint64_t waste_bytes;
    bool starved;                             /* the system refused the last arena */
    bool said_no_huge;                        /* once is enough */
    uint64_t reserve_bytes[SL_RESERVE_COUNT]; /* most that may be used after an allocation of it */
    struct sl_copy_counters copies;
};

int sl_memory_create(const struct sl_memory_config *config, struct sl_memory **result)
{
    if (config->limit_bytes < 2 * BLOCK_BYTES)
        return -EINVAL;
    struct sl_memory *memory = calloc(1, sizeof(*memory));
    if (memory == NULL)
        return -ENOMEM;
    memory->config = *config;
    memory->config.limit_bytes = sl_align_down(config->limit_bytes, BLOCK_BYTES);
    memory->config.arena_bytes = sl_align_up(memory->config.arena_bytes, BLOCK_BYTES);
    uint64_t limit = memory->config.limit_bytes;
    memory->reserve_bytes[SL_RESERVE_ADMISSION] = limit / 4 * 3;
    memory->reserve_bytes[SL_RESERVE_INTAKE] = limit / 8 * 7;
    memory->reserve_bytes[SL_RESERVE_CHECKPOINT] = limit;
    memory->regions = sl_region_set_create();
    if (memory->regions == NULL) {
        free(memory);
        return -ENOMEM;
    }
    sl_buddy_init(&memory->buddy);
    sl_list_init(&memory->arenas);
    for (unsigned i = 0; i < SL_RESERVE_COUNT; i++)
        sl_list_init(&memory->waiters[i]);
    sl_pool_init(&memory->buffers, sizeof(struct sl_buf), BUFFERS_A_SLAB, 0);
    *result = memory;
    return 0;
}

void sl_memory_destroy(struct sl_memory *memory)
{
    if (memory == NULL)
        return;
    SL_ASSERT(memory->used_bytes == 0 && memory->waste_bytes == 0);
    for (unsigned i = 0; i < SL_RESERVE_COUNT; i++) {
        struct sl_list *waiting;
        while ((waiting = sl_list_pop(&memory->waiters[i])) != NULL)
            sl_wait_wake(&sl_list_entry(waiting, struct waiter, node)->wait, -ECANCELED);
    }
    sl_pool_fini(&memory->buffers);
    struct sl_list *node;
    while ((node = sl_list_pop(&memory->arenas)) != NULL) {
        struct sl_arena *arena = sl_list_entry(node, struct sl_arena, node);
        sl_buddy_arena_remove(&memory->buddy, &arena->buddy);
        sl_unpoison(arena->region->base, arena->region->length_bytes);
        sl_region_remove(arena->region);
        free(arena);
    }
    sl_region_set_destroy(memory->regions);
    free(memory);
}

void sl_memory_abandon(struct sl_memory *memory)
{
    if (memory == NULL)
        return;
    sl_region_for_each(node, memory->regions)
    {
        struct sl_region *region = sl_list_entry(node, struct sl_region, node);
        sl_unpoison(region->base, region->length_bytes);
        sl_region_abandon(region);
    }
}

struct sl_region_set *sl_memory_regions(struct sl_memory *memory)
{
    return memory->regions;
}

struct sl_copy_counters *sl_memory_copies(struct sl_memory *memory)
{
    return &memory->copies;
}

static int grow(struct sl_memory *memory)
{
    uint64_t room = memory->config.limit_bytes - memory->arena_bytes;
    uint64_t step = memory->config.arena_bytes;
    if (step == 0)
        step = sl_min(sl_max(memory->arena_bytes, (uint64_t)ARENA_BYTES_FIRST),
                      (uint64_t)ARENA_BYTES_MOST);
    uint64_t bytes = sl_min(room, step);
    if (bytes < BLOCK_BYTES)
        return -ENOMEM;
    struct sl_arena *arena = calloc(1, sizeof(*arena));
    if (arena == NULL)
        return -ENOMEM;
    int error = sl_region_create(memory->regions, bytes, memory->config.hugepages,
                                 memory->config.numa_node, &arena->region);
    /* Memory that a device cannot take would fail the first operation that names it. */
    if (error == 0 && arena->region->attach_error < 0) {
        error = arena->region->attach_error;
        sl_region_remove(arena->region);
    } else if (error == 0) {
        error = sl_buddy_arena_add(&memory->buddy, &arena->buddy,
                                   (uint32_t)(bytes / SL_BLOCK_BYTES), arena);
        if (error < 0)
            sl_region_remove(arena->region);
    }
    if (error < 0) {
        sl_log_error(
            "mem",
            "an arena of %llu bytes cannot be made: %s (%s); %llu of %llu bytes are there: "
            "lower the limit or free memory",
            (unsigned long long)bytes, sl_error_text(error), sl_error_name(error),
            (unsigned long long)memory->arena_bytes,
            (unsigned long long)memory->config.limit_bytes);
        free(arena);
        memory->starved = true;
        return error;
    }
    memory->starved = false;
    sl_poison(arena->region->base, arena->region->length_bytes);
    sl_list_append(&memory->arenas, &arena->node);
    memory->arena_bytes += bytes;
    if (arena->region->hugepages)
        memory->hugepage_bytes += bytes;
    else if (memory->config.hugepages && !memory->said_no_huge) {
        memory->said_no_huge = true;
        sl_log_info("mem",
                    "no 2 MiB hugepages are free: ordinary pages are used, which costs some CPU "
                    "(sysctl vm.nr_hugepages)");
    }
    return 0;
}

static struct sl_buf *try_alloc(struct sl_memory *memory, uint32_t length_bytes,
                                enum sl_memory_reserve reserve)
{
    uint32_t pages = (uint32_t)(sl_align_up(length_bytes, SL_BLOCK_BYTES) / SL_BLOCK_BYTES);
    uint64_t bytes = (uint64_t)pages * SL_BLOCK_BYTES;
    struct sl_buddy_arena *found;
    uint32_t first_page;
    if (memory->used_bytes + bytes > memory->reserve_bytes[reserve])
        return NULL;
    while (!sl_buddy_alloc(&memory->buddy, pages, &found, &first_page)) {
        if (grow(memory) < 0)
            return NULL;
    }
    struct sl_arena *arena = found->owner;
    struct sl_buf *buf = sl_pool_get(&memory->buffers);
    if (buf == NULL) {
        sl_buddy_free(&memory->buddy, found, first_page, pages);
        return NULL;
    }
    *buf = (struct sl_buf){
        .memory = memory,
        .region = arena->region,
        .arena = arena,
        .wanted_bytes = length_bytes,
        .data = arena->region->base + (size_t)first_page * SL_BLOCK_BYTES,
        .length_bytes = (uint32_t)bytes,
        .references = 1,
    };
    memory->used_bytes += bytes;
    memory->waste_bytes += bytes - length_bytes;
    sl_unpoison(buf->data, buf->length_bytes);
    return buf;
}

static void serve_waiters(struct sl_memory *memory)
{
    if (memory->waiter_count == 0)
        return;
    for (unsigned reserve = SL_RESERVE_COUNT; reserve-- > 0;) {
        struct sl_list *node;
        while ((node = sl_list_first(&memory->waiters[reserve])) != NULL) {
            struct waiter *waiter = sl_list_entry(node, struct waiter, node);
            waiter->buf = try_alloc(memory, waiter->length_bytes, reserve);
            if (waiter->buf == NULL)
                break;
            sl_list_remove(&waiter->node);
            memory->waiter_count--;
            sl_wait_wake(&waiter->wait, 0);
        }
    }
}

struct sl_buf *sl_buf_alloc(struct sl_memory *memory, uint32_t length_bytes,
                            enum sl_memory_reserve reserve)
{
    SL_ASSERT(length_bytes > 0 && length_bytes <= SL_BUFFER_BYTES_MAX);
    if (!sl_list_is_empty(&memory->waiters[reserve]))
        return NULL;
    return try_alloc(memory, length_bytes, reserve);
}

struct sl_buf *sl_buf_alloc_co(struct sl_memory *memory, uint32_t length_bytes,
                               enum sl_memory_reserve reserve)
{
    struct sl_buf *buf = sl_buf_alloc(memory, length_bytes, reserve);
    if (buf != NULL)
        return buf;
    struct waiter waiter = {.length_bytes = length_bytes};
    sl_wait_init(&waiter.wait);
    sl_list_append(&memory->waiters[reserve], &waiter.node);
    memory->waiter_count++;
    while (memory->starved) {
        uint64_t deadline_ns = sl_reactor_now_ns(sl_reactor_self()) + STARVED_RETRY_NS;
        if (sl_wait_until_co(&waiter.wait, deadline_ns))
            return waiter.buf;
        serve_waiters(memory); /* still there: else it would have woken us */
    }
    (void)sl_wait_co(&waiter.wait);
    return waiter.buf;
}

/* `keep_bytes` a multiple of 4 KiB; the caller accounts for the waste. */
static void give_pages_back(struct sl_buf *buf, uint32_t keep_bytes)
{
    uint32_t bytes = buf->length_bytes - keep_bytes;
    uint8_t *data = buf->data + keep_bytes;
    sl_poison(data, bytes);
    sl_buddy_free(&buf->memory->buddy, &buf->arena->buddy,
                  (uint32_t)((size_t)(data - buf->region->base) / SL_BLOCK_BYTES),
                  bytes / SL_BLOCK_BYTES);
    buf->memory->used_bytes -= bytes;
    buf->length_bytes = keep_bytes;
}

void sl_buf_unref(struct sl_buf *buf)
{
    if (buf == NULL)
        return;
    SL_ASSERT(buf->references > 0);
    if (--buf->references > 0)
        return;
    SL_ASSERT(buf->lent_count == 0);
    struct sl_memory *memory = buf->memory;
    memory->waste_bytes -= buf->length_bytes - buf->wanted_bytes;
    give_pages_back(buf, 0);
    sl_pool_put(&memory->buffers, buf);
    serve_waiters(memory);
}

void sl_buf_trim(struct sl_buf *buf, uint32_t length_bytes)
{
    SL_ASSERT(buf->references == 1 && buf->lent_count == 0 && length_bytes > 0);
    if (length_bytes >= buf->wanted_bytes)
        return;
    uint32_t keep_bytes = (uint32_t)sl_align_up(length_bytes, SL_BLOCK_BYTES);
    buf->memory->waste_bytes -= buf->length_bytes - buf->wanted_bytes;
    buf->memory->waste_bytes += keep_bytes - length_bytes;
    buf->wanted_bytes = length_bytes;
    if (keep_bytes == buf->length_bytes)
        return;
    give_pages_back(buf, keep_bytes);
    serve_waiters(buf->memory);
}

void sl_buf_lend(struct sl_buf *buf)
{
    if (buf->lent_count++ == 0)
        sl_poison(buf->data, buf->length_bytes);
}

void sl_buf_return(struct sl_buf *buf)
{
    SL_ASSERT(buf->lent_count > 0);
    if (--buf->lent_count == 0)
        sl_unpoison(buf->data, buf->length_bytes);
}

void sl_memory_statistics(const struct sl_memory *memory, struct sl_memory_statistics *statistics)
{
    *statistics = (struct sl_memory_statistics){
        .limit_bytes = memory->config.limit_bytes,
        .arena_bytes = memory->arena_bytes,
        .used_bytes = memory->used_bytes,
        .free_bytes = memory->arena_bytes - memory->used_bytes,
        .largest_free_bytes = (uint64_t)sl_buddy_largest_pages(&memory->buddy) * SL_BLOCK_BYTES,
        .waste_bytes = memory->waste_bytes,
        .buffer_count = memory->buffers.used_count,
        .waiter_count = memory->waiter_count,
        .hugepage_bytes = memory->hugepage_bytes,
        .copies = memory->copies,
    };
}
