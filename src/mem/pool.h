/* A pool of equal objects of one reactor: LIFO for warm caches, grown in slabs up to a limit. */
#ifndef SL_MEM_POOL_H
#define SL_MEM_POOL_H

#include "core/base.h"

struct sl_pool {
    void *free_head;
    void *slabs;
    size_t object_bytes;
    unsigned slab_objects;
    unsigned limit_count; /* 0 = none */
    unsigned used_count;
    unsigned total_count;
};

/* Nothing is allocated yet. Objects are 64-byte aligned. */
void sl_pool_init(struct sl_pool *pool, size_t object_bytes, unsigned slab_objects,
                  unsigned limit_count);
/* Asserts that every object came back. */
void sl_pool_fini(struct sl_pool *pool);
/* Zeroed? No: contents are undefined. NULL: at the limit or out of memory. */
void *sl_pool_get(struct sl_pool *pool);
void sl_pool_put(struct sl_pool *pool, void *object);

#endif
