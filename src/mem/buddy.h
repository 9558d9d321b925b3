/*
 * Buddy allocation of 4 KiB pages in blocks of 2 MiB (orders 0 … 9), over any number of arenas. The
 * bookkeeping (32 bytes a page, 0.8%) lies outside of the pages. Owned by one reactor.
 */
#ifndef SL_MEM_BUDDY_H
#define SL_MEM_BUDDY_H

#include "core/base.h"
#include "core/list.h"

#define SL_BUDDY_ORDERS      10
#define SL_BUDDY_BLOCK_PAGES (1u << (SL_BUDDY_ORDERS - 1))

struct sl_buddy_arena;

struct sl_buddy_page {
    struct sl_list node; /* in its order's free list, if it heads a free block */
    struct sl_buddy_arena *arena;
    uint8_t free_order; /* order + 1 of the free block that begins here; 0 = none does */
};

struct sl_buddy_arena {
    void *owner;
    uint32_t page_count; /* a multiple of SL_BUDDY_BLOCK_PAGES */
    struct sl_buddy_page *pages;
};

struct sl_buddy {
    struct sl_list free[SL_BUDDY_ORDERS];
    uint64_t free_pages;
};

void sl_buddy_init(struct sl_buddy *buddy);
/* All of its pages become free. -ENOMEM. */
int sl_buddy_arena_add(struct sl_buddy *buddy, struct sl_buddy_arena *arena, uint32_t page_count,
                       void *owner);
/* All of its pages must be free. */
void sl_buddy_arena_remove(struct sl_buddy *buddy, struct sl_buddy_arena *arena);
/* All of its pages must be free: they are `to`'s from now on. */
void sl_buddy_arena_move(struct sl_buddy *from, struct sl_buddy *to, struct sl_buddy_arena *arena);
/* `page_count` pages in a row, 1 … SL_BUDDY_BLOCK_PAGES. False: no free block is large enough. */
bool sl_buddy_alloc(struct sl_buddy *buddy, uint32_t page_count, struct sl_buddy_arena **arena,
                    uint32_t *first_page);
/* Any run of allocated pages. */
void sl_buddy_free(struct sl_buddy *buddy, struct sl_buddy_arena *arena, uint32_t first_page,
                   uint32_t page_count);
/* Largest free block, in pages. */
uint32_t sl_buddy_largest_pages(const struct sl_buddy *buddy);

#endif
