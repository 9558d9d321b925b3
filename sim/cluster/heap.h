/*
 * Whose heap a block is: a node that crashes leaves its heap behind, and a node that ends in order
 * must leave nothing. Programs that link this pass --wrap for malloc and its like (meson.build), so
 * that every allocation of our code comes here; a block belongs to the heap of the node that is
 * being stepped (sim/sim.h, "heaps"), or to none. Freeing works from anywhere.
 */
#ifndef SIM_CLUSTER_HEAP_H
#define SIM_CLUSTER_HEAP_H

#include "core/list.h"
#include "sim/sim.h"

struct sl_sim_heap {
    struct sl_list blocks;
    uint64_t count, bytes;
};

void heap_init(struct sl_sim_heap *heap);
/* Frees all that is left. */
void heap_drop(struct sl_sim_heap *heap);
/* The first block that is left: its size and the address of the code that asked for it; 0: none. */
size_t heap_first(struct sl_sim_heap *heap, const void **caller);
/* In a node's turn, for what outlives the node. */
void *heap_keep(void *old, size_t bytes);

#endif
