/* The inside of the simulator, for the files of sim/ only. */
#ifndef SIM_SIM_PRIVATE_H
#define SIM_SIM_PRIVATE_H

#include <stdlib.h>

#include "io/io_ops.h"
#include "sim/sim.h"

#define SIM_NODES_MAX      64
#define SIM_NAME_BYTES_MAX 64

/* Something that happens to a node at a time. Embedded; armed at most once at a time. */
struct sim_event {
    uint64_t time_ns;
    uint64_t sequence;  /* equal times: in the order of arming */
    size_t heap_index;  /* 1-based; 0 = not in the heap */
    struct sl_list due; /* in its node's due list */
    bool armed;
    struct sim_io *node;
    const char *name;
    void (*fire)(struct sim_event *event);
    void (*drop)(struct sim_event *event); /* the node or simulator is gone; may be NULL */
};

struct sim_random {
    uint64_t state[4];
};

struct sim_io {
    struct sl_io io;
    struct sl_sim *sim;
    char name[SIM_NAME_BYTES_MAX];
    unsigned index; /* in sim->nodes */
    struct sim_random random;
    struct sl_list due;     /* struct sim_event */
    struct sl_list domains; /* struct sl_link_domain */
    unsigned disk_count;    /* open */
    struct sl_sim_heap *heap;
    bool paused;
    int32_t rate_ppm; /* its clock: own_base_ns at base_ns, and so much faster from there on */
    uint64_t base_ns, own_base_ns;
};

struct sl_sim {
    struct sl_sim_config config;
    struct sl_sim_statistics statistics;
    uint64_t now_ns;
    struct sim_random random;
    struct sim_event **heap;
    size_t heap_count;
    size_t heap_capacity;
    uint64_t sequence;
    struct sim_io *nodes[SIM_NODES_MAX];
    unsigned node_count; /* highest used + 1 */
    uint64_t nodes_made;
    bool partitioned[SIM_NODES_MAX][SIM_NODES_MAX];
    struct sl_list disks;     /* sim_disk.c */
    struct sl_list wires;     /* sim_link.c */
    struct sl_list listeners; /* sim_link.c */
    uint64_t next_port;
    uint64_t trace_hash;
};

/* What the simulator allocates in a node's turn is not the node's (sim.h, "heaps"). */
#define SIM_UNTRACKED(call)                                                                        \
    struct sl_sim_heap *heap = sl_sim_heap_current;                                                \
    sl_sim_heap_current = NULL;                                                                    \
    void *block = (call);                                                                          \
    sl_sim_heap_current = heap;                                                                    \
    return block;
static inline void *sim_malloc(size_t bytes)
{
    SIM_UNTRACKED(malloc(bytes))
}
static inline void *sim_calloc(size_t count, size_t bytes)
{
    SIM_UNTRACKED(calloc(count, bytes))
}
static inline void *sim_realloc(void *old, size_t bytes){SIM_UNTRACKED(realloc(old, bytes))}

/* sim.c */
/* When the node's clock shows `own_ns`. */
uint64_t sim_time_of(const struct sim_io *node, uint64_t own_ns);
void sim_random_seed(struct sim_random *random, uint64_t seed);
uint64_t sim_random_next(struct sim_random *random);
/* In [low, high]. */
uint64_t sim_random_between(struct sl_sim *sim, uint64_t low, uint64_t high);
bool sim_random_hits(struct sl_sim *sim, uint32_t per_million);
void sim_event_arm(struct sim_event *event, struct sim_io *node, uint64_t time_ns,
                   const char *name);
/* Harmless when not armed. */
void sim_event_cancel(struct sim_event *event);
/* Cancels and drops every event of the node. */
void sim_events_drop(struct sl_sim *sim, struct sim_io *node);

/* sim_io.c */
extern const struct sl_io_ops sim_io_ops;
extern const struct sl_reactor_engine sim_engine;

/* sim_disk.c */
int sim_disk_open(struct sl_io *io, const char *path, const struct sl_disk_options *options,
                  struct sl_disk_info *info, struct sl_disk **result);
int sim_disk_measure(struct sl_disk *disk, uint64_t *capacity_bytes);
void sim_disk_close(struct sl_disk *disk);
void sim_disk_submit(struct sl_disk_op *op);
void sim_disks_free(struct sl_sim *sim);
/* The process that had them open is gone; with `power` theirs, too. */
void sim_disks_crash(struct sl_sim *sim, const char *node_name, bool power);

/* sim_link.c */
void sim_link_release_held(struct sl_sim *sim);
/* Ends whatever the node has of the link; with `power` its peers are not told. */
void sim_link_crash(struct sim_io *node, bool power);

#endif
