/* See heap.h. Each block has a header in front; the addresses decide nothing. */
#include "sim/cluster/heap.h"

#include <stdlib.h>
#include <string.h>

struct header {
    struct sl_list node; /* heap->blocks */
    struct sl_sim_heap *heap;
    void *base; /* what the real allocator gave */
    size_t bytes;
    const void *caller;
};
_Static_assert(sizeof(struct header) == 48, "keeps the alignment of malloc");

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void __real_free(void *block);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
char *__wrap_strdup(const char *text);
void __wrap_free(void *block);

static struct header *header_of(void *block)
{
    return (struct header *)block - 1;
}

static void join(struct header *header, struct sl_sim_heap *heap, size_t bytes)
{
    header->heap = heap;
    header->bytes = bytes;
    sl_list_init(&header->node);
    if (heap == NULL)
        return;
    sl_list_append(&heap->blocks, &header->node);
    heap->count++;
    heap->bytes += bytes;
}

static void leave(struct header *header)
{
    if (header->heap == NULL)
        return;
    sl_list_remove(&header->node);
    header->heap->count--;
    header->heap->bytes -= header->bytes;
}

static void *publish(void *base, size_t offset, size_t bytes, const void *caller)
{
    if (base == NULL)
        return NULL;
    struct header *header = (struct header *)(void *)((uint8_t *)base + offset) - 1;
    header->base = base;
    header->caller = caller;
    join(header, sl_sim_heap_current, bytes);
    return header + 1;
}

void *__wrap_malloc(size_t bytes)
{
    return publish(__real_malloc(bytes + sizeof(struct header)), sizeof(struct header), bytes,
                   __builtin_return_address(0));
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total))
        return NULL;
    void *base = __real_calloc(1, total + sizeof(struct header));
    return publish(base, sizeof(struct header), total, __builtin_return_address(0));
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    size_t offset = sl_align_up(sizeof(struct header), alignment);
    void *base = __real_aligned_alloc(alignment, sl_align_up(offset + bytes, alignment));
    return publish(base, offset, bytes, __builtin_return_address(0));
}

char *__wrap_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = publish(__real_malloc(bytes + sizeof(struct header)), sizeof(struct header), bytes,
                         __builtin_return_address(0));
    return copy != NULL ? memcpy(copy, text, bytes) : NULL;
}

void *__wrap_realloc(void *old, size_t bytes)
{
    if (old == NULL)
        return publish(__real_malloc(bytes + sizeof(struct header)), sizeof(struct header), bytes,
                       __builtin_return_address(0));
    struct header *header = header_of(old);
    struct sl_sim_heap *heap = header->heap;
    SL_ASSERT(header->base == header);
    leave(header);
    struct header *moved = __real_realloc(header, bytes + sizeof(struct header));
    if (moved == NULL) {
        join(header, heap, header->bytes);
        return NULL;
    }
    moved->base = moved;
    join(moved, heap, bytes);
    return moved + 1;
}

void __wrap_free(void *block)
{
    if (block == NULL)
        return;
    struct header *header = header_of(block);
    leave(header);
    __real_free(header->base);
}

void heap_init(struct sl_sim_heap *heap)
{
    *heap = (struct sl_sim_heap){0};
    sl_list_init(&heap->blocks);
}

void heap_drop(struct sl_sim_heap *heap)
{
    struct sl_list *node;
    while ((node = sl_list_first(&heap->blocks)) != NULL)
        free(sl_list_entry(node, struct header, node) + 1);
}

size_t heap_first(struct sl_sim_heap *heap, const void **caller)
{
    struct sl_list *node = sl_list_first(&heap->blocks);
    if (node == NULL)
        return 0;
    const struct header *header = sl_list_entry(node, struct header, node);
    *caller = header->caller;
    return header->bytes;
}

void *heap_keep(void *old, size_t bytes)
{
    struct sl_sim_heap *heap = sl_sim_heap_current;
    sl_sim_heap_current = NULL;
    void *block = realloc(old, bytes);
    sl_sim_heap_current = heap;
    SL_ASSERT(block != NULL);
    return block;
}
