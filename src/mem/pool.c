/* Slabs of equal objects. A free object's first word links it to the next; ASan builds poison the
 * rest of it. Owned by one reactor. */
#include "mem/pool.h"

#include <stdlib.h>

#include "mem/poison.h"

#define OBJECT_ALIGNMENT 64

struct slab {
    struct slab *next;
    size_t object_count;
    uint8_t padding[OBJECT_ALIGNMENT - sizeof(struct slab *) - sizeof(size_t)];
};

void sl_pool_init(struct sl_pool *pool, size_t object_bytes, unsigned slab_objects,
                  unsigned limit_count)
{
    *pool = (struct sl_pool){
        .object_bytes = sl_align_up(sl_max(object_bytes, sizeof(void *)), OBJECT_ALIGNMENT),
        .slab_objects = sl_max(slab_objects, 1u),
        .limit_count = limit_count,
    };
}

void sl_pool_fini(struct sl_pool *pool)
{
    SL_ASSERT(pool->used_count == 0);
    struct slab *slab = pool->slabs;
    while (slab != NULL) {
        struct slab *next = slab->next;
        sl_unpoison(slab + 1, slab->object_count * pool->object_bytes);
        free(slab);
        slab = next;
    }
    *pool = (struct sl_pool){0};
}

/* Only twice in a row is caught here. */
static void push(struct sl_pool *pool, void *object)
{
    SL_ASSERT(object != pool->free_head);
    *(void **)object = pool->free_head;
    pool->free_head = object;
    sl_poison((uint8_t *)object + sizeof(void *), pool->object_bytes - sizeof(void *));
}

static bool grow(struct sl_pool *pool)
{
    unsigned count = pool->slab_objects;
    if (pool->limit_count != 0)
        count = sl_min(count, pool->limit_count - pool->total_count);
    if (count == 0)
        return false;
    struct slab *slab =
        aligned_alloc(OBJECT_ALIGNMENT, sizeof(struct slab) + count * pool->object_bytes);
    if (slab == NULL)
        return false;
    slab->next = pool->slabs;
    slab->object_count = count;
    pool->slabs = slab;
    uint8_t *object = (uint8_t *)(slab + 1);
    for (unsigned i = 0; i < count; i++, object += pool->object_bytes)
        push(pool, object);
    pool->total_count += count;
    return true;
}

void *sl_pool_get(struct sl_pool *pool)
{
    if (pool->free_head == NULL && !grow(pool))
        return NULL;
    void *object = pool->free_head;
    pool->free_head = *(void **)object;
    sl_unpoison(object, pool->object_bytes);
    pool->used_count++;
    return object;
}

void sl_pool_put(struct sl_pool *pool, void *object)
{
    SL_ASSERT(pool->used_count > 0);
    pool->used_count--;
    push(pool, object);
}
