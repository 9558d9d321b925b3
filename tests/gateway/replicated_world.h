/*
 * The world of replicated_test.c: a gateway in the simulator, and fake targets whose groups are one
 * model each. What is served how is up to the seed; what is committed is checked at once.
 */
#ifndef TESTS_GATEWAY_REPLICATED_WORLD_H
#define TESTS_GATEWAY_REPLICATED_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "gateway/gateway.h"
#include "meta/cluster.h"
#include "raft/session.h"
#include "sim/sim.h"

#define NODES        3
#define REACTORS     2 /* of each node */
#define GROUPS       2
#define CLIENTS      12
#define OPERATIONS   60
#define BLOCKS       48 /* of the volume; each has one writer */
#define STRIPE       (64 * SL_KIB)
#define SPACING      (3 * SL_BLOCK_BYTES) /* of those blocks: both groups, several stripes */
#define CLIENT_BYTES (32 * SL_KIB)
#define MEMORY_BYTES (2 * SL_MIB)
#define WRITES_MAX   4096
#define SESSIONS_MAX 64
#define NOBODY       UINT32_MAX

/* A write of a client, from its first attempt to the end of the run. */
struct write {
    uint32_t group;
    uint64_t session, sequence; /* as first committed */
    bool applied, done, failed;
};

/* A group as its members agree on it. */
struct model {
    uint32_t id;
    struct sl_session_table *table;
    uint64_t index, term;
    uint32_t leader;      /* node, or NOBODY */
    uint64_t begin_bytes; /* of the volume in the group */
    uint64_t values[4096];
    uint64_t sessions[SESSIONS_MAX];
    unsigned session_count;
};

enum fate {
    FATE_ANSWERED, /* as it should be */
    FATE_SLOW,
    FATE_REPLY_LOST, /* committed, and the connection dies */
    FATE_LATE,       /* "moved", and committed much later: the entry survived its leader */
    FATE_DROPPED,    /* "moved", never committed */
    FATE_REFUSED,    /* busy, no memory, later: never committed */
    FATE_FAILED,     /* EIO, and committed later, or not */
    FATE_SILENT,     /* no answer, committed or not */
    FATE_BAD,        /* a final error: no space; never committed */
    FATE_COUNT
};

struct run;

struct target {
    struct run *run;
    uint32_t node; /* 1 … */
    unsigned reactor;
    struct sl_sim_node sim;
    struct sl_fabric *fabric;
};

struct client {
    struct run *run;
    unsigned index;
    uint64_t random;
    uint64_t seen[BLOCKS];
};

struct run {
    struct sl_sim *sim;
    uint64_t random;
    bool faults, ended;
    bool follower_reads;
    bool held;     /* the first write of each session is not answered yet */
    bool replaced; /* who does not lead knows nothing of the group */
    bool refuse;   /* leaders are busy */
    unsigned refused_count;
    struct sl_cluster *cluster;
    struct target targets[NODES][REACTORS];
    struct sl_fabric_listener *listeners[NODES];
    struct model models[GROUPS];
    struct sl_sim_node near;
    struct sl_fabric *near_fabric;
    struct sl_gateway_group *group;
    struct sl_gateway *gateway;
    struct sl_gateway_memory *memory;
    uint8_t *bytes;
    const struct sl_volume *volume;
    uint64_t epoch;
    struct client clients[CLIENTS];
    uint64_t completed[BLOCKS], begun[BLOCKS];
    struct write writes[WRITES_MAX];
    unsigned write_count, clients_left, busy_count;
    bool near_done, far_done;
};

/* What was met, over all seeds. */
struct met {
    unsigned fates[FATE_COUNT], verdicts[SL_VERDICT_INVALID + 1], voids_of_applied, failed_writes,
        no_session_outcomes, moved, wrong_reactor, elections, fenced;
};
extern struct met met;

uint64_t next_random(uint64_t *state);

/* With a gateway's node and targets, not started. */
struct run *run_create(uint64_t seed, bool faults);
/* Answers the trace's hash. */
uint64_t run_destroy(struct run *run);
/* The targets' side of a run, to the end of the gateway's. Coroutine. */
void far_co(void *argument);
/* Gateway and client memory; closed, the near side is done. */
void near_open_co(struct run *run);
void near_close_co(struct run *run);
bool all_done(void *argument);

/* Not 0: what describing the gateway's memory to a target answers. */
extern int describe_fails;

/* The next entry of a group, by anybody. */
enum sl_verdict commit(struct model *model, const struct sl_command *command);

#endif
