/*
 * Seam 1 of a simulated node: disks (sim_disk.c). Streams, descriptors and doorbells are not there
 * (-EOPNOTSUPP): what needs them has no place in a simulation.
 */
#include "sim/sim_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct sim_io *node_of(struct sl_io *io)
{
    return (struct sim_io *)(void *)io;
}

/* ---- what is not simulated ---- */

static int listener_open(struct sl_io *io, const char *address, char *bound,
                         struct sl_listener **listener)
{
    return -EOPNOTSUPP;
}

static int stream_connect_co(struct sl_io *io, const char *address, uint64_t deadline_ns,
                             struct sl_stream **stream)
{
    return -EOPNOTSUPP;
}

static int stream_adopt(struct sl_io *io, int handle, struct sl_stream **stream)
{
    return -EOPNOTSUPP;
}

static int descriptor_wait_co(struct sl_io *io, int descriptor, short events, uint64_t deadline_ns)
{
    return -EOPNOTSUPP;
}

static void descriptor_cancel(struct sl_io *io, int descriptor)
{
}

static int doorbell_create(struct sl_io *io, int eventfd, void (*ring)(void *argument),
                           void *argument, struct sl_doorbell **doorbell)
{
    return -EOPNOTSUPP;
}

static int watch_create(struct sl_io *io, int descriptor, void (*ready)(void *argument),
                        void *argument, struct sl_watch **watch)
{
    return -EOPNOTSUPP;
}

static int register_memory(struct sl_io *io, struct sl_memory *memory)
{
    return 0;
}

/* ---- the node ---- */

static void io_destroy(struct sl_io *io)
{
    struct sim_io *node = node_of(io);
    struct sl_sim *sim = node->sim;
    sim_events_drop(sim, node);
    SL_ASSERT(node->disk_count == 0);
    sim->nodes[node->index] = NULL;
    for (unsigned i = 0; i < SIM_NODES_MAX; i++)
        sim->partitioned[node->index][i] = sim->partitioned[i][node->index] = false;
    while (sim->node_count > 0 && sim->nodes[sim->node_count - 1] == NULL)
        sim->node_count--;
    free(node);
}

const struct sl_io_ops sim_io_ops = {
    .disk_open = sim_disk_open,
    .disk_close = sim_disk_close,
    .disk_measure = sim_disk_measure,
    .disk_submit = sim_disk_submit,
    .listener_open = listener_open,
    .stream_connect_co = stream_connect_co,
    .stream_adopt = stream_adopt,
    .descriptor_wait_co = descriptor_wait_co,
    .descriptor_cancel = descriptor_cancel,
    .doorbell_create = doorbell_create,
    .watch_create = watch_create,
    .register_memory = register_memory,
    .destroy = io_destroy,
};

int sl_sim_io_create(struct sl_sim *sim, const char *name, struct sl_io **io)
{
    unsigned index = 0;
    while (index < SIM_NODES_MAX && sim->nodes[index] != NULL)
        index++;
    if (index == SIM_NODES_MAX)
        return -ENOMEM;
    struct sim_io *node = sim_calloc(1, sizeof(*node));
    if (node == NULL)
        return -ENOMEM;
    snprintf(node->name, sizeof(node->name), "%s", name);
    node->sim = sim;
    node->index = index;
    node->io.ops = &sim_io_ops;
    node->io.engine = sim_engine;
    node->io.engine.engine = node;
    sl_list_init(&node->due);
    sl_list_init(&node->domains);
    node->base_ns = node->own_base_ns = sim->now_ns;
    sim_random_seed(&node->random, sim->config.seed ^ (0x6e6f6465 * ++sim->nodes_made));
    sim->nodes[index] = node;
    sim->node_count = sl_max(sim->node_count, index + 1);
    *io = &node->io;
    return 0;
}
