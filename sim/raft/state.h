/*
 * What a simulated cluster consists of: nodes, their disks and replicas, messages, clients, what
 * the checkers know. Owned by struct cluster; one thread.
 */
#ifndef SIM_RAFT_STATE_H
#define SIM_RAFT_STATE_H

#include <stdio.h>

#include "raft/raft.h"
#include "raft/rule.h"
#include "raft/session.h"
#include "sim/raft/fault.h"
#include "sim/raft/history.h"

enum {
    NODES_MAX = 6,
    GROUPS_MAX = 2,
    KEYS = 4,           /* registers of a group's state machine */
    CLIENTS_MAX = 3,    /* of a group */
    REPLICAS_MAX = 512, /* ever made in one run, for the checkers */
    VOLUME = 7,
};

#define MS     SL_NS_PER_MS
#define SECOND SL_NS_PER_S

/* ---- what is stored */

struct entry {
    uint64_t id;        /* unique: what makes two entries the same; 0 = a hole */
    uint64_t id_before; /* of the entry before it where it was made */
    uint64_t term;
    uint32_t kind; /* enum sl_raft_entry_kind */
    uint32_t key;
    uint32_t bytes;
    int32_t config; /* index into the cluster's configs, or -1 */
    uint64_t value; /* WRITE: unique; 0 = no command */
    struct sl_command command;
};

/* Entries first .. first + count - 1. */
struct entry_log {
    struct entry *entries;
    uint64_t first;
    uint32_t count, capacity;
    bool holed; /* has had one */
};

struct registers {
    uint64_t value[KEYS];
    uint64_t version[KEYS]; /* log index of the write */
    uint64_t digest;
};

/* The state machine at one exact index. */
struct snapshot {
    uint64_t index, term;
    struct sl_raft_config config;
    struct registers registers;
    size_t session_bytes;
    uint64_t sessions[256]; /* as sl_session_save() writes them */
};

enum disk_op_kind {
    OP_SAVE,
    OP_WRITE,
    OP_TRUNCATE,
    OP_SNAPSHOT,
    OP_COPYING,
    OP_INSTALL,
    OP_MENDED,
};

struct disk_op {
    enum disk_op_kind kind;
    uint64_t done_ns;
    uint64_t ticket;
    uint64_t first, last, term;
    uint64_t applied; /* WRITE: here, as it was sent */
    struct sl_raft_replica vote;
    struct entry *entries; /* WRITE */
    struct snapshot *snapshot;
    bool mark_void; /* SNAPSHOT: the resync whose mark is there did not begin */
    bool fails;
    struct disk_op *next;
};

/* What survives a crash. */
struct disk {
    uint64_t term;
    struct sl_raft_replica vote;
    bool copying;
    uint64_t copying_index;
    struct snapshot snapshot; /* the log begins behind it */
    struct entry_log log;
    uint64_t applied;                 /* or more */
    uint64_t promised, promised_term; /* the mark of a damaged log: what its last entry was */
};

/* ---- replicas and nodes */

struct waiter {
    uint64_t index, term;
    int client;
    uint64_t attempt;
};

struct reader {
    uint64_t round, index;
    int client; /* or PROBE_CLIENT */
    uint64_t attempt;
    uint32_t key;
    uint64_t floor;   /* the key's version when it was asked */
    size_t operation; /* in the group's history */
    bool confirmed;
};

enum { WAITERS_MAX = 64, PROBE_CLIENT = -1 };

struct replica {
    bool exists; /* on this disk */
    bool running;
    uint64_t id;
    unsigned serial; /* of all replicas ever made */
    unsigned node, group;
    uint64_t made_ns;
    struct disk disk;
    struct disk_op *queue, **queue_end;
    uint64_t disk_busy_ns;
    /* lost in a crash */
    void *memory, *room; /* of the group, and for more terms than it began with */
    unsigned terms;
    struct sl_raft *raft;
    struct entry_log log;
    struct sl_session_table *sessions;
    struct registers registers;
    struct sl_raft_config config; /* as of the entry applied last */
    uint64_t applied;
    enum sl_raft_role role; /* as announced; the leader's id, too */
    uint64_t leader;
    uint64_t config_index; /* of the newest configuration in the log */
    bool config_stale;     /* the log has changed: look again */
    uint64_t told_in_term; /* TimeoutNow was sent to it in that term */
    uint64_t tick_ns;      /* of the newest TICK in the queue; others are ignored */
    struct waiter waiters[WAITERS_MAX];
    struct reader readers[WAITERS_MAX];
    unsigned waiter_count, reader_count;
    struct entry *pending;       /* of the PROPOSE under way */
    const struct packet *packet; /* of the MESSAGE under way */
    uint64_t compact_after;
    bool installing;
    bool mark_void; /* of the mark on the disk: the log had the state */
    struct sl_term offered_term;
    struct snapshot *offered; /* by a leader; installed once the mark is durable */
};

struct node {
    unsigned number;
    bool up;
    unsigned generation; /* of the process */
    uint64_t paused_until_ns;
    int64_t rate_ppm; /* its clock is so much fast */
    uint64_t clock_base_ns, world_base_ns;
    bool hold; /* its election timers do not fire (scenarios) */
    bool fail_next_write;
    uint64_t disk_slow_until_ns, disk_slow_ns, disk_stuck_until_ns;
    uint64_t jumped_back_ns; /* its clock did, at that time of the world */
    void *links_memory;
    struct sl_raft_links *links;
    struct replica replicas[GROUPS_MAX];
};

/* ---- messages */

enum packet_kind { PACKET_RAFT, PACKET_BEAT, PACKET_BEAT_ANSWER, PACKET_RESYNC };

struct packet {
    enum packet_kind kind;
    unsigned from, to, group;
    struct sl_raft_message message;
    struct entry *entries;
    struct sl_raft_beat beat;
    struct sl_raft_beat_answer answer;
    struct snapshot *snapshot;
    uint64_t replica;                /* RESYNC: for that one */
    unsigned connection, generation; /* it was sent on that one, by that process */
    bool fetched;                    /* its payload is being read from the sender's memory */
};

/* ---- clients */

enum client_state { CLIENT_OPENING, CLIENT_IDLE, CLIENT_WRITING, CLIENT_VOIDING, CLIENT_READING };

struct client {
    enum client_state state;
    unsigned group;
    uint64_t session, sequence, epoch;
    uint64_t attempt; /* one up with each operation: late answers are known by it */
    uint32_t key;
    uint64_t value;
    uint64_t floor; /* the key's version when the operation began */
    unsigned tries;
    unsigned target;  /* node that it asks */
    size_t operation; /* in the group's history */
};

/* ---- what the checkers know of a group */

struct committed {
    uint64_t id, term;
    uint64_t in_term; /* whose leader committed it, at the latest */
    uint64_t digest;  /* of the state machine behind it; 0 = not known yet */
};

struct group {
    uint64_t id;
    struct client clients[CLIENTS_MAX];
    unsigned client_count;
    struct committed *committed; /* by index */
    uint64_t committed_count, committed_capacity, committed_config;
    struct {
        uint64_t term, id;
    } (*made)[4]; /* entries ever made, by index */
    uint64_t made_capacity;
    uint64_t *leaders; /* replica id, by term */
    uint64_t leaders_capacity;
    uint64_t floor[KEYS];
    uint64_t *value_version; /* by value: its index once applied, UINT64_MAX = never may be */
    uint64_t values, values_capacity;
    uint64_t epoch;
    uint64_t writes, reads, voids, fenced;
    struct history history;      /* as clients saw it */
    bool lost_voter;             /* a voter's disk was wiped and is still in the configuration */
    uint64_t lost_id, lost_last; /* what was durable on it when it was */
};

struct event;

struct cluster {
    uint64_t seed;
    uint64_t now_ns;
    uint64_t random;
    unsigned node_count, group_count;
    struct node nodes[NODES_MAX];
    struct group groups[GROUPS_MAX];
    struct sl_raft_tuning tuning;
    unsigned terms;         /* room for terms in a group */
    uint64_t copy_most_ns;  /* that a resync takes */
    uint64_t compact_every; /* entries, by itself; 0 = only when told to */
    struct sl_raft_output output;
    struct sl_raft_config *configs;
    unsigned config_count, config_capacity;
    struct event *heap;
    unsigned heap_count, heap_capacity;
    uint64_t order;
    uint64_t next_entry, next_replica;
    unsigned replica_serial;
    struct {
        uint64_t term, candidate;
    } votes[REPLICAS_MAX]; /* each replica's newest */
    /* network and disk */
    uint64_t net_least_ns, net_most_ns, disk_least_ns, disk_most_ns;
    bool ordered; /* messages from one node to another keep their order */
    uint64_t arrives_ns[NODES_MAX][NODES_MAX];
    bool blocked[NODES_MAX][NODES_MAX];
    uint64_t blocked_until[NODES_MAX][NODES_MAX];
    unsigned connections[NODES_MAX][NODES_MAX]; /* how many there were, by lower and higher node */
    uint64_t loss_until_ns, duplicate_until_ns, delay_until_ns;
    unsigned loss_percent, duplicate_percent;
    uint64_t delay_ns;
    uint64_t void_until_ns, late_until_ns;
    uint64_t late_read_until_ns, lost_read_until_ns;
    bool (*filter)(struct cluster *cluster, const struct packet *packet); /* true: lost */
    void *filter_context;
    bool healing;      /* no more faults of chance */
    bool links_shared; /* nodes share heartbeats */
    bool quiet_clients;
    bool by_history; /* versions are not looked at: the history alone has to show it */
    bool jumpy;      /* clocks jump; the core knows that it can not trust them */
    bool eager; /* clients never rest, clocks are at their bounds, faults are about leadership */
    struct fault *faults;
    unsigned fault_count;
    uint64_t fault_hits[FAULT_COUNT];
    uint64_t fault_hits_in_resync[FAULT_COUNT]; /* while somebody was copying */
    uint64_t events, steps;
    bool trace;
    FILE *trace_file;
    char violation[300];
    uint64_t violation_ns;
};

#endif
