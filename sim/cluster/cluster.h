/*
 * A cluster of whole nodes in the simulator: processes that run the code that ships, clients that
 * know what they wrote, faults, checkers.
 *
 *   plan (faults.c) ─► processes (process.c): target.c, gateway.c ─► clients (client.c)
 *                                                                       │ operations
 *                      first violation, drawn (main.c) ◄── check.c ◄────┘
 *
 * Everything is drawn from one seed. A process is its reactors (sim/sim.h), their memory and a heap
 * (heap.h); it dies as a whole, and when it ends in order nothing of it may be left.
 */
#ifndef SIM_CLUSTER_CLUSTER_H
#define SIM_CLUSTER_CLUSTER_H

#include "core/coroutine.h"
#include "gateway/gateway.h"
#include "meta/cluster.h"
#include "sim/cluster/faults.h"
#include "sim/cluster/heap.h"
#include "sim/sim_disk.h"
#include "target/target.h"

#define SECOND SL_NS_PER_S
#define MS     SL_NS_PER_MS

enum {
    TARGETS_MAX = 5,
    GATEWAYS_MAX = 2,
    PROCESSES_MAX = TARGETS_MAX + GATEWAYS_MAX,
    REACTORS_MAX = 2,
    CLIENTS_MAX = 10,
    RUNS = 6,       /* places of the volume that are used … */
    RUN_BLOCKS = 8, /* … with so many blocks each; the fifth begins a stripe */
    BLOCKS = RUNS * RUN_BLOCKS,
    CLIENT_BYTES = RUN_BLOCKS * (int)SL_BLOCK_BYTES,
    FAULTS_MAX = 64,
    GROUPS_MAX = 3,
    TERMS = 64, /* that are remembered of a group */
    NOTES = 48,
    NOTE_BYTES = 160,
};

/* ---- what clients did ---- */

enum outcome {
    OUTCOME_OPEN,    /* under way, or its client died: it may happen any time, or never */
    OUTCOME_DONE,    /* acknowledged */
    OUTCOME_UNKNOWN, /* failed, and may happen any time, or never */
    OUTCOME_UNTIL,   /* failed: has happened by now, or never will */
    OUTCOME_NEVER,   /* failed: refused, must never be seen */
};

/* `start` and `finish` count every beginning and end of an operation: a total order. */
struct operation {
    uint64_t start, finish;
    uint64_t start_ns, finish_ns;
    uint64_t values[RUN_BLOCKS];
    int error;
    uint8_t is_write, outcome, first, count;
    uint8_t client;
};

struct client {
    struct cluster *cluster;
    unsigned index;
    uint64_t random;
    size_t current;      /* its operation + 1; 0 = none */
    uint64_t done_count; /* since the last reset: acknowledged */
    uint64_t think_ns;   /* mean time between two */
    const struct sl_volume *volume;
    bool canary; /* its buffer holds nothing but the canary */
};

/* ---- processes ---- */

enum kind { TARGET, GATEWAY };

struct target_process {
    struct sl_storage *storage;
    struct sl_target *targets[REACTORS_MAX];
    struct sl_fabric *fabrics[REACTORS_MAX];
    struct sl_fabric *peering[REACTORS_MAX]; /* replicated: to the other targets */
    uint64_t instance;
    struct sl_fabric_listener *listener;
};

struct gateway_process {
    struct sl_fabric *fabrics[REACTORS_MAX];
    struct sl_gateway_group *group;
    struct sl_gateway *gateways[REACTORS_MAX];
    struct sl_gateway_memory *memory;
    const struct sl_volume *volume;
    uint64_t epoch;
    unsigned clients_left;
};

/* `sluice group`: runs while somebody administers. */
struct tool {
    struct sl_sim_node node;
    struct sl_sim_heap heap;
    struct sl_fabric *fabric;
    struct sl_connection *connection;
    unsigned target; /* whose replicas are made anew */
    bool running, done;
};

struct process {
    struct cluster *cluster;
    enum kind kind;
    unsigned index;  /* in cluster->processes */
    unsigned number; /* of its kind */
    char name[16];
    unsigned reactor_count;
    struct sl_sim_heap heap;
    int32_t rate_ppm;
    unsigned life; /* counts starts */
    bool running;  /* its nodes are there */
    bool up;       /* it serves */
    bool paused;
    bool stopping;
    uint64_t stopping_ns; /* since when */
    bool ended;           /* its main coroutine has come to its end */
    struct sl_wait stop;  /* woken with `stopping` */
    struct sl_sim_node nodes[REACTORS_MAX];
    struct target_process target;
    struct gateway_process gateway;
};

/* ---- faults: their kinds are in faults.h ---- */

struct fault {
    uint64_t at_ns, duration_ns;
    enum fault_kind kind;
    unsigned a, b; /* processes; their meaning is the kind's */
    uint64_t amount;
    bool skip;
};

/* Something that happens outside of all processes at a time. */
struct action {
    uint64_t at_ns;
    uint64_t order;
    void (*act)(struct cluster *cluster, struct action *action);
    unsigned a, b;
    unsigned life; /* of process a, if it concerns that one only */
    uint64_t amount;
    struct action *next;
};

struct cluster {
    uint64_t seed;
    uint64_t random; /* of shape and plan */
    struct sl_sim *sim;
    uint64_t begin_ns;
    unsigned target_count, gateway_count, process_count, client_count;
    uint32_t stripe_bytes;
    uint64_t io_timeout_ns;
    uint64_t disk_bytes, segment_bytes;
    unsigned segment_count;
    struct process processes[PROCESSES_MAX]; /* targets first */
    struct tool tool;
    bool wiped; /* once a run: a second disk may hold what the first has lost */
    struct client clients[CLIENTS_MAX];
    unsigned cuts[PROCESSES_MAX][PROCESSES_MAX]; /* how many faults cut from, to */
    unsigned unread; /* disks that have refused reads: bit of the target */
    unsigned rotten; /* disks that were given silent faults: bit of the target */
    int memfd;       /* the clients' memory */
    uint8_t *memory;
    bool replicated;
    bool compared; /* then: replicas are scrubbed, and compared with each other */
    bool forged;   /* once a run: see groups_forge() */
    unsigned forged_group, forged_block;
    struct sl_cluster meta; /* then: the cluster file; what it names is here */
    struct sl_cluster_node meta_nodes[TARGETS_MAX];
    struct sl_cluster_group meta_groups[GROUPS_MAX];
    struct sl_cluster_volume meta_volume;
    struct sl_cluster_extent meta_extents[GROUPS_MAX];
    struct {
        uint64_t term;
        unsigned node;
    } leaders[GROUPS_MAX][TERMS]; /* who was seen to lead */
    uint64_t run_bytes[RUNS];     /* where in the volume the runs lie; known with its size */
    uint64_t volume_bytes;

    struct operation *operations;
    size_t operation_count, operation_capacity;
    uint64_t tick, last_value;
    bool quiet;            /* clients begin nothing more */
    unsigned reading_back; /* runs + 1 that client 0 has read at the end; 0 = not asked to */
    bool read_back_done;

    struct fault faults[FAULTS_MAX];
    unsigned fault_count;
    struct action *actions; /* in order of time */
    uint64_t action_order;
    bool healing;

    uint64_t fault_hits[FAULT_COUNT], effects[EFFECT_COUNT];
    char notes[NOTES][NOTE_BYTES];
    unsigned note_count;
    FILE *log; /* notes as they come; NULL: none */
    char violation[320];
    int violation_block; /* -1 = none */
    uint64_t violation_ns;
};

/* cluster.c */
struct cluster *cluster_create(uint64_t seed, bool replicated, FILE *trace);
void cluster_destroy(struct cluster *cluster);
/* Until `until_ns` after the beginning, or a violation; or `done` answers true. */
bool cluster_run(struct cluster *cluster, uint64_t until_ns, bool (*done)(struct cluster *cluster));
void cluster_act(struct cluster *cluster, uint64_t at_ns,
                 void (*act)(struct cluster *cluster, struct action *action), unsigned a,
                 unsigned b, uint64_t amount);
uint64_t cluster_random(struct cluster *cluster);
/* In [low, high]. */
uint64_t cluster_between(struct cluster *cluster, uint64_t low, uint64_t high);
bool cluster_chance(struct cluster *cluster, unsigned percent);
__attribute__((format(printf, 2, 3))) void cluster_note(struct cluster *cluster, const char *format,
                                                        ...);
/* The first one counts. `block` -1: none in particular. */
__attribute__((format(printf, 3, 4))) void cluster_violation(struct cluster *cluster, int block,
                                                             const char *format, ...);
uint64_t cluster_now(const struct cluster *cluster);

/* process.c */
void process_start(struct process *process);
/* From one moment to the next. */
void process_crash(struct process *process, bool power);
/* In order; it takes a while, and is restarted after `away_ns`. */
void process_stop(struct process *process, uint64_t away_ns);
/* Those whose main coroutine has ended are closed, and started again after a while. */
void processes_reap(struct cluster *cluster);
void process_pause(struct process *process, bool on);
/* One way; counted: several faults may cut the same. */
void process_cut(struct cluster *cluster, unsigned from, unsigned to, bool on);
/* On every reactor, in order or from the last; `function_co` gets a struct process_call. */
struct process_call {
    struct process *process;
    unsigned reactor;
};
int process_on_each_co(struct process *process, int64_t (*function_co)(void *argument));
/* Until somebody wants it to end. */
void process_wait_co(struct process *process);
int process_fabric(struct process *process, unsigned reactor, enum sl_role role,
                   struct sl_fabric **fabric);

/* target.c, gateway.c: from start to end */
int target_main_co(struct process *process);
int gateway_main_co(struct process *process);
/* Also over an old one, all of which is lost. */
void target_format(struct process *process);
/* Before it is gone: what it counted. */
void target_count(struct process *process);
void gateway_count(struct process *process);
/* Each to every target. */
bool gateways_are_connected(struct cluster *cluster);

/* client.c */
void client_co(void *argument);
/* Its gateway has died. */
void client_orphaned(struct client *client);
void client_fill(uint8_t *data, uint64_t value);
/* UINT64_MAX: no block that a client made. */
uint64_t client_value(const uint8_t *data);
/* No disk was given a reason to lose a block, or more replicas than not have sound disks. */
bool cluster_is_sound(const struct cluster *cluster);
static inline struct process *client_gateway(struct client *client)
{
    struct cluster *cluster = client->cluster;
    return &cluster->processes[cluster->target_count + client->index % cluster->gateway_count];
}

static inline unsigned client_reactor(struct client *client)
{
    return client->index / client->cluster->gateway_count % client_gateway(client)->reactor_count;
}

/* check.c: every block a linearizable register; at the end of a run */
void check_blocks(struct cluster *cluster);
void check_draw(const struct cluster *cluster, unsigned block, FILE *out);

/* faults.c */
void faults_plan(struct cluster *cluster, uint64_t length_ns);
void faults_heal(struct cluster *cluster);
const char *fault_name(enum fault_kind kind);
const char *effect_name(enum effect effect);

#endif
