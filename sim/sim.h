/*
 * The deterministic simulator: N nodes in one thread, under virtual time, from one seed.
 *
 *   sl_sim ── event queue (time, sequence) ──► node's due list ──► engine.poll of its reactor
 *          ── nodes: struct sl_io of seam 1 (sim_io.c), stepped in an order drawn from the seed
 *          ── wires: seam 2's link "sim" (sim_link.c)
 *          ── disks that outlive their node
 *          ── trace: every event is hashed (sim_trace.c)
 *
 * What stands above the two seams runs unchanged. Invariants: time only grows; an event runs in the
 * turn of its node's reactor; nothing depends on an address, the wall clock or the order of a hash
 * table: same seed, same program → same trace hash.
 */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include <stdio.h>

#include "core/base.h"
#include "core/list.h"
#include "core/reactor.h"
#include "fabric/link.h"
#include "io/io.h"
#include "mem/memory.h"

struct sl_sim;

/* Probabilities are per million. Zero in a time or limit = the default in brackets. */
struct sl_sim_network {
    uint64_t delay_min_ns;       /* [5 us] one way */
    uint64_t delay_max_ns;       /* [20 us] */
    uint32_t slow_per_million;   /* packets (and all behind them) that take slow_ns more */
    uint64_t slow_ns;            /* [5 ms] */
    uint32_t reset_per_million;  /* packets at which the connection dies */
    uint32_t send_spans_max;     /* [SL_SEND_SPANS_MAX] as in struct sl_link_limits */
    uint32_t local_spans_max;    /* [SL_LINK_SPANS_MAX] */
    uint32_t transfer_bytes_max; /* [SL_TRANSFER_BYTES_MAX] */
    uint32_t queue_depth;        /* 0 = no limit */
};

/* Of every disk; those of one disk: sim_disk.h. */
struct sl_sim_storage {
    uint64_t latency_min_ns; /* [20 us] */
    uint64_t latency_max_ns; /* [100 us] */
    uint32_t slow_per_million;
    uint64_t slow_ns; /* [50 ms] */
    uint32_t read_error_per_million;
    uint32_t write_error_per_million; /* flush, discard and zeroes too */
};

struct sl_sim_config {
    uint64_t seed;
    FILE *trace;      /* prints every event; NULL = only hashed. Borrowed */
    uint64_t turn_ns; /* [200 ns] that a round of busy reactors takes */
    struct sl_sim_network network;
    struct sl_sim_storage storage;
};

/* What happened, so that a test can prove that its faults were really hit. */
struct sl_sim_statistics {
    uint64_t event_count;
    uint64_t packet_count;
    uint64_t slow_count;
    uint64_t reset_count;
    uint64_t held_count;         /* packets kept back by a partition */
    uint64_t late_landing_count; /* WRITEs that landed after their initiator had closed */
    uint64_t disk_error_count;
    uint64_t disk_lost_count; /* sectors that a crash took back */
    uint64_t disk_torn_count; /* writes of which a crash left a part */
    uint64_t disk_stuck_count, disk_misdirected_count, disk_forgotten_count, disk_rot_count;
};

/* -ENOMEM. */
int sl_sim_create(const struct sl_sim_config *config, struct sl_sim **sim);
/* Every io must be destroyed. Drops events and disks. Takes NULL. */
void sl_sim_destroy(struct sl_sim *sim);

uint64_t sl_sim_now_ns(const struct sl_sim *sim);
/* From the seed's main stream. */
uint64_t sl_sim_random(struct sl_sim *sim);
/* Faults may be changed while it runs. */
struct sl_sim_network *sl_sim_network(struct sl_sim *sim);
struct sl_sim_storage *sl_sim_storage(struct sl_sim *sim);
const struct sl_sim_statistics *sl_sim_statistics(const struct sl_sim *sim);

/* ---- nodes ---- */

/* A node's seam 1; its reactor is made with sl_io_engine() and bound by sl_io_bind(). `name` is
 * copied. A node that comes back under its name finds its disks. -ENOMEM. */
int sl_sim_io_create(struct sl_sim *sim, const char *name, struct sl_io **io);

/* io, reactor and memory of one node. */
struct sl_sim_node {
    struct sl_io *io;
    struct sl_reactor *reactor;
    struct sl_memory *memory;
};
/* `index` is the reactor's in its process. -ENOMEM. */
int sl_sim_node_open(struct sl_sim *sim, const char *name, unsigned index, size_t memory_bytes,
                     struct sl_sim_node *node);
/* No coroutine may be alive and every buffer must be back. */
void sl_sim_node_close(struct sl_sim_node *node);

/* A process dies, from one moment to the next: `nodes` are all its reactors, of one name. Its disks
 * keep what was completed, and of what was under way what the seed says; its peers find their
 * connections closed. With `power` they hear nothing, until a node of that name is there again and
 * gets something of theirs; and disks lose or tear what was not flushed. Nothing of it runs any
 * more: stacks and mapped memory are given back, what it had on the heap is the caller's to free
 * ("heaps"). */
void sl_sim_crash(struct sl_sim *sim, struct sl_sim_node *nodes, unsigned count, bool power);
/* Not stepped for a while, as after SIGSTOP. */
void sl_sim_pause(struct sl_sim *sim, struct sl_io *io, bool on);
/* From now on its clock runs so much too fast (or slow, above -500000), after a jump forward. */
void sl_sim_clock_set(struct sl_sim *sim, struct sl_io *io, int32_t rate_ppm, uint64_t jump_ns);

/* Heaps: while a node is stepped this is its own, for an allocator that wants to know whose a block
 * is (sim/cluster/heap.h); NULL for what the simulator allocates. */
struct sl_sim_heap;
extern struct sl_sim_heap *volatile sl_sim_heap_current;
void sl_sim_heap_set(struct sl_io *io, struct sl_sim_heap *heap);

/* Steps the reactors, and lets time pass to the next event when none has work, until `done` (may be
 * NULL) answers true: true; or until `deadline_ns`, or nothing can ever happen any more: false. */
bool sl_sim_run_until(struct sl_sim *sim, uint64_t deadline_ns, bool (*done)(void *argument),
                      void *argument);
/* For who steps the reactors himself: lets time pass to the next event, timer or `limit_ns`. */
void sl_sim_advance(struct sl_sim *sim, uint64_t limit_ns);

/* ---- network ---- */

/* "sim": addresses are any text, unique in the simulator ("target:7600"); port 0 picks one. */
extern const struct sl_link_ops sl_link_sim;
/* Packets between the two are kept back until it is off again. */
void sl_sim_partition(struct sl_sim *sim, struct sl_io *a, struct sl_io *b, bool on);
/* The same one way only. */
void sl_sim_cut(struct sl_sim *sim, struct sl_io *from, struct sl_io *to, bool on);
/* Kills every connection between the two, at both ends. */
void sl_sim_reset(struct sl_sim *sim, struct sl_io *a, struct sl_io *b);

/* ---- trace ---- */

/* Adds a line to the trace. `io` NULL = the simulator itself. Values must not be addresses. */
void sl_sim_trace(struct sl_sim *sim, const struct sl_io *io, const char *what, uint64_t a,
                  uint64_t b);
uint64_t sl_sim_trace_hash(const struct sl_sim *sim);

#endif
