/* The buddy allocator: see buddy.h. */
#include "mem/buddy.h"

#include <errno.h>
#include <stdlib.h>

void sl_buddy_init(struct sl_buddy *buddy)
{
    for (unsigned i = 0; i < SL_BUDDY_ORDERS; i++)
        sl_list_init(&buddy->free[i]);
    buddy->free_pages = 0;
}

static void insert(struct sl_buddy *buddy, struct sl_buddy_arena *arena, uint32_t page,
                   unsigned order)
{
    arena->pages[page].free_order = (uint8_t)(order + 1);
    sl_list_prepend(&buddy->free[order], &arena->pages[page].node);
}

static void take(struct sl_buddy_arena *arena, uint32_t page)
{
    arena->pages[page].free_order = 0;
    sl_list_remove(&arena->pages[page].node);
}

int sl_buddy_arena_add(struct sl_buddy *buddy, struct sl_buddy_arena *arena, uint32_t page_count,
                       void *owner)
{
    SL_ASSERT(page_count % SL_BUDDY_BLOCK_PAGES == 0);
    arena->pages = calloc(page_count, sizeof(*arena->pages));
    if (arena->pages == NULL)
        return -ENOMEM;
    arena->owner = owner;
    arena->page_count = page_count;
    for (uint32_t i = 0; i < page_count; i++)
        arena->pages[i].arena = arena;
    for (uint32_t i = 0; i < page_count; i += SL_BUDDY_BLOCK_PAGES)
        insert(buddy, arena, i, SL_BUDDY_ORDERS - 1);
    buddy->free_pages += page_count;
    return 0;
}

void sl_buddy_arena_move(struct sl_buddy *from, struct sl_buddy *to, struct sl_buddy_arena *arena)
{
    for (uint32_t i = 0; i < arena->page_count; i += SL_BUDDY_BLOCK_PAGES) {
        SL_ASSERT(arena->pages[i].free_order == SL_BUDDY_ORDERS);
        take(arena, i);
        insert(to, arena, i, SL_BUDDY_ORDERS - 1);
    }
    from->free_pages -= arena->page_count;
    to->free_pages += arena->page_count;
}

void sl_buddy_arena_remove(struct sl_buddy *buddy, struct sl_buddy_arena *arena)
{
    for (uint32_t i = 0; i < arena->page_count; i += SL_BUDDY_BLOCK_PAGES) {
        SL_ASSERT(arena->pages[i].free_order == SL_BUDDY_ORDERS);
        take(arena, i);
    }
    buddy->free_pages -= arena->page_count;
    free(arena->pages);
    arena->pages = NULL;
}

static void free_block(struct sl_buddy *buddy, struct sl_buddy_arena *arena, uint32_t page,
                       unsigned order)
{
    while (order < SL_BUDDY_ORDERS - 1) {
        uint32_t other = page ^ (1u << order);
        if (arena->pages[other].free_order != order + 1)
            break;
        take(arena, other);
        page &= ~(1u << order);
        order++;
    }
    SL_ASSERT(arena->pages[page].free_order == 0); /* freed twice */
    insert(buddy, arena, page, order);
}

void sl_buddy_free(struct sl_buddy *buddy, struct sl_buddy_arena *arena, uint32_t first_page,
                   uint32_t page_count)
{
    SL_ASSERT(first_page < arena->page_count && page_count <= arena->page_count - first_page);
    buddy->free_pages += page_count;
    while (page_count > 0) {
        unsigned order = 31u - (unsigned)__builtin_clz(page_count);
        if (first_page != 0)
            order = sl_min(order, (unsigned)__builtin_ctz(first_page));
        order = sl_min(order, (unsigned)SL_BUDDY_ORDERS - 1);
        free_block(buddy, arena, first_page, order);
        first_page += 1u << order;
        page_count -= 1u << order;
    }
}

bool sl_buddy_alloc(struct sl_buddy *buddy, uint32_t page_count, struct sl_buddy_arena **result,
                    uint32_t *first_page)
{
    SL_ASSERT(page_count >= 1 && page_count <= SL_BUDDY_BLOCK_PAGES);
    unsigned wanted = page_count == 1 ? 0 : 32u - (unsigned)__builtin_clz(page_count - 1);
    unsigned order = wanted;
    while (order < SL_BUDDY_ORDERS && sl_list_is_empty(&buddy->free[order]))
        order++;
    if (order == SL_BUDDY_ORDERS)
        return false;
    struct sl_buddy_page *head =
        sl_list_entry(sl_list_first(&buddy->free[order]), struct sl_buddy_page, node);
    struct sl_buddy_arena *arena = head->arena;
    uint32_t page = (uint32_t)(head - arena->pages);
    take(arena, page);
    while (order > wanted) {
        order--;
        insert(buddy, arena, page + (1u << order), order);
    }
    buddy->free_pages -= 1u << wanted;
    if (page_count < (1u << wanted))
        sl_buddy_free(buddy, arena, page + page_count, (1u << wanted) - page_count);
    *result = arena;
    *first_page = page;
    return true;
}

uint32_t sl_buddy_largest_pages(const struct sl_buddy *buddy)
{
    for (unsigned order = SL_BUDDY_ORDERS; order-- > 0;) {
        if (!sl_list_is_empty(&buddy->free[order]))
            return 1u << order;
    }
    return 0;
}
