/*
 * A reactor's memory: arenas that grow on demand, buffers over the buddy allocator, and those that
 * wait.
 *
 * Who waits is served in order within a reserve, higher reserves first; nobody overtakes one of the
 * same reserve, however small. What a higher reserve cannot use (too short a run of pages) a lower
 * one may take: its requests hold memory that the higher one waits for, so they must get on.
 *
 * Small buffers and large ones have arenas of their own. Buffers of receives stay, and move about
 * as each goes on with a request and another takes its place: after a while one of them would lie
 * in every MiB, and a large buffer would find no room in memory that is nearly all free. Each kind
 * can have most of the limit, and a part of it always; arenas that are all free change over. What
 * one kind takes leaves the other the reserves of what that one has in use.
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

/* The first arena of a kind, and the most that one grows by: arenas double what there is.
 * Registering one with io_uring takes its pages at once, so an idle program should have a small
 * one; the kernel's table of buffers wants few. */
#define BLOCK_BYTES       (2 * SL_MIB)
#define ARENA_BYTES_FIRST BLOCK_BYTES
#define ARENA_BYTES_MOST  (32 * SL_MIB)
#define BUFFERS_A_SLAB    256
/* When the system, not the limit, refused an arena, there may be nobody who frees: look again. */
#define STARVED_RETRY_NS (100 * SL_NS_PER_MS)
/* Memory counts as short when less than this part of the limit is left, or one buffer. */
#define SHORT_SHARE 16u
/* What comes with a capsule is small. Any of those finds room in a free part of this length. */
#define SMALL_BYTES_MAX (16 * SL_KIB)
/* Of the limit, what each kind has for itself: this part, but not less than that, but half. */
#define OWN_SHARE       8u
#define OWN_BYTES_LEAST (8 * SL_MIB)

enum kind { SMALL, LARGE, KIND_COUNT };

struct sl_arena {
    struct sl_list node;
    struct sl_buddy_arena buddy;
    struct sl_region *region;
    enum kind kind;
    uint64_t used_bytes;
};

struct waiter {
    struct sl_list node;
    struct sl_wait wait;
    uint32_t length_bytes;
    struct sl_buf *buf;
};

/* Memory for buffers of one kind. */
struct part {
    struct sl_buddy buddy;
    uint64_t arena_bytes, used_bytes;
    uint64_t idle_bytes; /* arenas that are all free */
    struct sl_list waiters[SL_RESERVE_COUNT];
};

struct sl_memory {
    struct sl_memory_config config;
    struct sl_region_set *regions;
    struct part parts[KIND_COUNT];
    struct sl_list arenas;
    struct sl_pool buffers;
    struct sl_list listeners;
    uint64_t waiter_count;
    uint64_t arena_bytes;
    uint64_t hugepage_bytes;
    uint64_t used_bytes;
    uint64_t waste_bytes;
    bool starved;       /* the system refused the last arena */
    bool said_no_huge;  /* once is enough */
    uint64_t own_bytes; /* what each kind has for itself */
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
    memory->own_bytes =
        sl_align_down(sl_min(limit / 2, sl_max(limit / OWN_SHARE, OWN_BYTES_LEAST)), BLOCK_BYTES);
    memory->regions = sl_region_set_create();
    if (memory->regions == NULL) {
        free(memory);
        return -ENOMEM;
    }
    sl_list_init(&memory->arenas);
    sl_list_init(&memory->listeners);
    for (unsigned kind = 0; kind < KIND_COUNT; kind++) {
        sl_buddy_init(&memory->parts[kind].buddy);
        for (unsigned i = 0; i < SL_RESERVE_COUNT; i++)
            sl_list_init(&memory->parts[kind].waiters[i]);
    }
    sl_pool_init(&memory->buffers, sizeof(struct sl_buf), BUFFERS_A_SLAB, 0);
    *result = memory;
    return 0;
}

void sl_memory_destroy(struct sl_memory *memory)
{
    if (memory == NULL)
        return;
    SL_ASSERT(memory->used_bytes == 0 && memory->waste_bytes == 0);
    for (unsigned i = 0; i < KIND_COUNT * SL_RESERVE_COUNT; i++) {
        struct part *part = &memory->parts[i / SL_RESERVE_COUNT];
        struct sl_list *waiting;
        while ((waiting = sl_list_pop(&part->waiters[i % SL_RESERVE_COUNT])) != NULL)
            sl_wait_wake(&sl_list_entry(waiting, struct waiter, node)->wait, -ECANCELED);
    }
    sl_pool_fini(&memory->buffers);
    struct sl_list *node;
    while ((node = sl_list_pop(&memory->arenas)) != NULL) {
        struct sl_arena *arena = sl_list_entry(node, struct sl_arena, node);
        sl_buddy_arena_remove(&memory->parts[arena->kind].buddy, &arena->buddy);
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

/* ---- arenas ---- */

static enum kind kind_of(uint32_t length_bytes)
{
    return length_bytes <= SMALL_BYTES_MAX ? SMALL : LARGE;
}

/* Of a limit, what may be used after an allocation of the reserve. */
static const unsigned eighths[SL_RESERVE_COUNT] = {
    [SL_RESERVE_ADMISSION] = 6, [SL_RESERVE_INTAKE] = 7, [SL_RESERVE_CHECKPOINT] = 8};

static uint64_t share(uint64_t limit, enum sl_memory_reserve reserve)
{
    return limit / 8 * eighths[reserve];
}

/* What arenas of that kind may take if those of the other one keep `other_bytes`. As much stays the
 * other's as it has in use, and the reserves above `reserve` beside it: else requests of one kind
 * would take from the other what empties the system. */
static uint64_t limit_beside(const struct sl_memory *memory, enum kind kind,
                             enum sl_memory_reserve reserve, uint64_t other_bytes)
{
    uint64_t most = memory->config.limit_bytes - memory->own_bytes;
    uint64_t claim = memory->parts[kind == SMALL ? LARGE : SMALL].used_bytes * 8 / eighths[reserve];
    return memory->config.limit_bytes -
           sl_max(sl_max(other_bytes, memory->own_bytes), sl_min(claim, most));
}

/* As the other one is now. */
static uint64_t part_limit(const struct sl_memory *memory, enum kind kind,
                           enum sl_memory_reserve reserve)
{
    return limit_beside(memory, kind, reserve,
                        memory->parts[kind == SMALL ? LARGE : SMALL].arena_bytes);
}

static int grow(struct sl_memory *memory, enum kind kind, enum sl_memory_reserve reserve)
{
    struct part *part = &memory->parts[kind];
    uint64_t limit = part_limit(memory, kind, reserve);
    uint64_t room = limit > part->arena_bytes ? limit - part->arena_bytes : 0;
    uint64_t step = memory->config.arena_bytes;
    if (step == 0)
        step = sl_min(sl_max(part->arena_bytes, (uint64_t)ARENA_BYTES_FIRST),
                      (uint64_t)ARENA_BYTES_MOST);
    uint64_t bytes = sl_align_down(sl_min(room, step), BLOCK_BYTES);
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
        arena->kind = kind;
        error = sl_buddy_arena_add(&part->buddy, &arena->buddy, (uint32_t)(bytes / SL_BLOCK_BYTES),
                                   arena);
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
    part->arena_bytes += bytes;
    part->idle_bytes += bytes;
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

/* An arena of the other kind that is all free. */
static bool take_arena(struct sl_memory *memory, enum kind kind, enum sl_memory_reserve reserve)
{
    struct part *part = &memory->parts[kind];
    struct part *other = &memory->parts[kind == SMALL ? LARGE : SMALL];
    uint64_t limit = limit_beside(memory, kind, reserve, 0);
    if (other->idle_bytes == 0)
        return false;
    sl_list_for_each(node, &memory->arenas)
    {
        struct sl_arena *arena = sl_list_entry(node, struct sl_arena, node);
        uint64_t bytes = arena->region->length_bytes;
        if (arena->kind == kind || arena->used_bytes > 0 || part->arena_bytes + bytes > limit)
            continue;
        sl_buddy_arena_move(&other->buddy, &part->buddy, &arena->buddy);
        arena->kind = kind;
        other->arena_bytes -= bytes;
        other->idle_bytes -= bytes;
        part->arena_bytes += bytes;
        part->idle_bytes += bytes;
        return true;
    }
    return false;
}

static struct sl_buf *try_alloc(struct sl_memory *memory, uint32_t length_bytes,
                                enum sl_memory_reserve reserve)
{
    uint32_t pages = (uint32_t)(sl_align_up(length_bytes, SL_BLOCK_BYTES) / SL_BLOCK_BYTES);
    uint64_t bytes = (uint64_t)pages * SL_BLOCK_BYTES;
    enum kind kind = kind_of(length_bytes);
    struct part *part = &memory->parts[kind];
    struct sl_buddy_arena *found;
    uint32_t first_page;
    while (part->used_bytes + bytes > share(part_limit(memory, kind, reserve), reserve)) {
        if (!take_arena(memory, kind, reserve))
            return NULL;
    }
    while (!sl_buddy_alloc(&part->buddy, pages, &found, &first_page)) {
        if (grow(memory, kind, reserve) < 0 && !take_arena(memory, kind, reserve))
            return NULL;
    }
    struct sl_arena *arena = found->owner;
    struct sl_buf *buf = sl_pool_get(&memory->buffers);
    if (buf == NULL) {
        sl_buddy_free(&part->buddy, found, first_page, pages);
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
    part->used_bytes += bytes;
    if (arena->used_bytes == 0)
        part->idle_bytes -= arena->region->length_bytes;
    arena->used_bytes += bytes;
    memory->waste_bytes += bytes - length_bytes;
    sl_unpoison(buf->data, buf->length_bytes);
    return buf;
}

static void serve(struct sl_memory *memory, enum kind kind, enum sl_memory_reserve reserve)
{
    struct sl_list *waiters = &memory->parts[kind].waiters[reserve], *node;
    while ((node = sl_list_first(waiters)) != NULL) {
        struct waiter *waiter = sl_list_entry(node, struct waiter, node);
        waiter->buf = try_alloc(memory, waiter->length_bytes, reserve);
        if (waiter->buf == NULL)
            return;
        sl_list_remove(&waiter->node);
        memory->waiter_count--;
        sl_wait_wake(&waiter->wait, 0);
    }
}

/* Of both kinds: what was freed of one may be what the other one can have now. */
static void serve_waiters(struct sl_memory *memory, enum kind freed)
{
    for (unsigned i = SL_RESERVE_COUNT; i-- > 0 && memory->waiter_count > 0;) {
        serve(memory, freed, i);
        serve(memory, freed == SMALL ? LARGE : SMALL, i);
    }
}

void sl_memory_listen(struct sl_memory *memory, struct sl_memory_listener *listener)
{
    sl_list_append(&memory->listeners, &listener->node);
}

void sl_memory_unlisten(struct sl_memory_listener *listener)
{
    sl_list_remove(&listener->node);
}

bool sl_memory_is_short(const struct sl_memory *memory, enum sl_memory_reserve reserve)
{
    for (unsigned kind = 0; kind < KIND_COUNT; kind++) {
        const struct part *part = &memory->parts[kind];
        for (unsigned i = reserve; i < SL_RESERVE_COUNT; i++) {
            if (!sl_list_is_empty(&part->waiters[i]))
                return true;
        }
        const struct part *other = &memory->parts[kind == SMALL ? LARGE : SMALL];
        uint64_t limit =
            limit_beside(memory, kind, reserve, other->arena_bytes - other->idle_bytes);
        uint64_t some = sl_min((uint64_t)SL_BUFFER_BYTES_MAX, limit / SHORT_SHARE);
        if (part->used_bytes + some > share(limit, reserve))
            return true;
    }
    return false;
}

static void tell_short(struct sl_memory *memory)
{
    sl_list_for_each(node, &memory->listeners)
    {
        struct sl_memory_listener *listener = sl_list_entry(node, struct sl_memory_listener, node);
        listener->on_short(listener->context);
    }
}

/* Behind those who wait. */
static struct sl_buf *alloc_in_turn(struct sl_memory *memory, uint32_t length_bytes,
                                    enum sl_memory_reserve reserve)
{
    SL_ASSERT(length_bytes > 0 && length_bytes <= SL_BUFFER_BYTES_MAX);
    return sl_list_is_empty(&memory->parts[kind_of(length_bytes)].waiters[reserve])
               ? try_alloc(memory, length_bytes, reserve)
               : NULL;
}

struct sl_buf *sl_buf_alloc(struct sl_memory *memory, uint32_t length_bytes,
                            enum sl_memory_reserve reserve)
{
    struct sl_buf *buf = alloc_in_turn(memory, length_bytes, reserve);
    if (buf == NULL)
        tell_short(memory);
    return buf;
}

struct sl_buf *sl_buf_alloc_co(struct sl_memory *memory, uint32_t length_bytes,
                               enum sl_memory_reserve reserve)
{
    struct sl_buf *buf = alloc_in_turn(memory, length_bytes, reserve);
    if (buf != NULL)
        return buf;
    struct waiter waiter = {.length_bytes = length_bytes};
    sl_wait_init(&waiter.wait);
    enum kind kind = kind_of(length_bytes);
    sl_list_append(&memory->parts[kind].waiters[reserve], &waiter.node);
    memory->waiter_count++;
    tell_short(memory);
    while (memory->starved) {
        uint64_t deadline_ns = sl_reactor_now_ns(sl_reactor_self()) + STARVED_RETRY_NS;
        if (sl_wait_until_co(&waiter.wait, deadline_ns))
            return waiter.buf;
        serve_waiters(memory, kind); /* still there: else it would have woken us */
    }
    (void)sl_wait_co(&waiter.wait);
    return waiter.buf;
}

/* `keep_bytes` a multiple of 4 KiB; the caller accounts for the waste. */
static void give_pages_back(struct sl_buf *buf, uint32_t keep_bytes)
{
    uint32_t bytes = buf->length_bytes - keep_bytes;
    uint8_t *data = buf->data + keep_bytes;
    struct part *part = &buf->memory->parts[buf->arena->kind];
    sl_poison(data, bytes);
    sl_buddy_free(&part->buddy, &buf->arena->buddy,
                  (uint32_t)((size_t)(data - buf->region->base) / SL_BLOCK_BYTES),
                  bytes / SL_BLOCK_BYTES);
    buf->memory->used_bytes -= bytes;
    part->used_bytes -= bytes;
    buf->arena->used_bytes -= bytes;
    if (buf->arena->used_bytes == 0)
        part->idle_bytes += buf->arena->region->length_bytes;
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
    enum kind kind = buf->arena->kind;
    memory->waste_bytes -= buf->length_bytes - buf->wanted_bytes;
    give_pages_back(buf, 0);
    sl_pool_put(&memory->buffers, buf);
    serve_waiters(memory, kind);
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
    serve_waiters(buf->memory, buf->arena->kind);
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
        .small_limit_bytes = memory->config.limit_bytes - memory->own_bytes,
        .arena_bytes = memory->arena_bytes,
        .used_bytes = memory->used_bytes,
        .free_bytes = memory->arena_bytes - memory->used_bytes,
        .largest_free_bytes =
            (uint64_t)sl_buddy_largest_pages(&memory->parts[LARGE].buddy) * SL_BLOCK_BYTES,
        .waste_bytes = memory->waste_bytes,
        .buffer_count = memory->buffers.used_count,
        .waiter_count = memory->waiter_count,
        .hugepage_bytes = memory->hugepage_bytes,
        .copies = memory->copies,
    };
}
