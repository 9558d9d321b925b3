/*
 * What the files of a replicating target share. Private to src/target.
 *
 *   struct sl_target ── struct sl_target_cluster (one a reactor)
 *       ── peers: a node each ── connections to its reactors (peer.c)
 *       ── replicas: a group each: raft core + store (replica.c), what it remembers
 * (replica_state.c), its messages (replica_send.c) served: raft_serve.c (other targets),
 * group_serve.c (gateways), group_admin.c (tools)
 *
 * One reactor owns all of it. Coroutines that it has spawned are counted in `pending`;
 * sl_target_cluster_stop_co() waits for them.
 */
#ifndef SL_TARGET_CLUSTER_H
#define SL_TARGET_CLUSTER_H

#include "raft/raft.h"
#include "raft/session.h"
#include "target/log_share.h"
#include "target/private.h"
#include "target/raft_capsule.h"

/* Of a group: gateways' reactors that write to it, and volumes that have ever lain in it. 80 and 16
 * bytes each in the root of a disk. */
#define SL_REPLICA_SESSIONS_MAX 256u
#define SL_REPLICA_VOLUMES_MAX  256u

#define SL_CLUSTER_HASH 64u

struct sl_replica;
struct sl_cluster_peer;

struct sl_target_cluster {
    struct sl_target *target;
    struct sl_target_cluster_config config;
    struct sl_fabric *fabric; /* what we connect with: its domain lets peers READ our buffers */
    struct sl_raft_tuning tuning;
    void *links_memory;
    struct sl_raft_links *links;
    struct sl_list replicas; /* struct sl_replica, ascending */
    struct sl_list hash[SL_CLUSTER_HASH];
    struct sl_cluster_peer *peers;
    unsigned peer_count;
    uint32_t shard_count;
    uint8_t disk_id[16];      /* the first one */
    uint32_t entry_bytes_max; /* one write: of what the log of each disk takes */
    uint64_t clock_ns;        /* last told to a core */
    unsigned pending;
    struct sl_wait_queue idle, stop; /* pending has become 0; closing has begun */
    struct sl_list fetches;          /* repair.c: asked for and not here yet */
    uint64_t fetch_ticket;
    unsigned source_count; /* resync.c: states that are being given */
    struct {
        uint64_t pass_count, chunk_count, difference_count, mended_count;
    } compared; /* compare.c */
    bool admin_busy;
    struct sl_wait_queue admin;
    bool closing;
    struct sl_log_share log_shares[SL_STORAGE_SHARDS_MAX]; /* of target->stores */
};

/* Somebody waits for the entry that he proposed. On his stack. */
struct sl_proposal {
    struct sl_list node; /* replica->proposals, then ->decided, each by index */
    uint64_t index, term;
    enum sl_verdict verdict;
    uint64_t epoch;      /* FENCED, ATTACH: in force then */
    struct sl_wait wait; /* 0, or why it is not known how it ends */
};

/* Waits for a round of the read-index. */
struct sl_read_wait {
    struct sl_list node;
    uint64_t round;
    struct sl_wait wait;
};

/* The answer that a step gives to the node whose request it handles. */
struct sl_carrier {
    uint32_t node;
    bool set;
    struct sl_raft_message message;
};

/* What a step is given beside its event, and what it leaves. */
struct sl_replica_step {
    /* PROPOSE: one entry; MESSAGE: those of the APPEND, index i at [i - first_index]. Prepared. */
    const struct sl_store_entry *entries;
    const struct sl_iobuf *payloads;
    uint64_t first_index;
    uint32_t entry_count;
    uint64_t expected_term; /* PROPOSE: admitted in it */
    struct sl_proposal *proposal;
    struct sl_read_wait *read;
    struct sl_carrier *carrier;
    bool has_turn; /* passed on once the step is done */
    /* Left: */
    uint64_t index, round;                /* of the output */
    uint64_t written_first, written_last; /* of `entries`; 0: none */
    struct sl_list writes;                /* struct log_write */
};

/* APPENDs to one member that are not answered: some to keep its disk and the way there busy. */
#define SL_LANE_CALLS_MAX 8u

/* APPENDs with entries to one member, one after the other. */
struct sl_lane {
    struct sl_wait_queue waiters, answers;
    struct append_job *newest; /* the last one, which may be made longer; NULL: it has left */
    uint64_t generation;       /* raised when it becomes another member's, or of another term */
    bool busy;
    unsigned jobs;         /* that wait, or go */
    unsigned calls, beats; /* not answered yet, with entries and in their place */
    uint64_t to, term;     /* of the newest */
    uint64_t from, last;   /* what is under way: entries above from, up to last */
};

/* A member that is behind, or gets a state, for which the log is held. */
struct sl_feed {
    uint64_t member, match, ns; /* how far it is, since when */
    bool strict;                /* it was outrun before: writes may have to wait */
};

struct sl_replica {
    struct sl_list node, hash;
    struct sl_target_cluster *cluster;
    struct sl_store *store;
    struct sl_store_group *log;
    uint32_t group;
    uint64_t id;
    uint64_t size_bytes;
    void *memory, *room, *session_memory;
    uint64_t opened_ns;
    struct session_use *uses; /* sessions.c */
    unsigned use_count;
    struct sl_raft *raft;
    unsigned terms;
    struct sl_raft_output *output;
    struct sl_session_table *sessions; /* at `applied`, or a few ahead while they are applied */
    struct sl_raft_config applied_config;
    uint64_t applied;   /* readers see it */
    uint64_t copying;   /* mark of an unfinished resync, durable; 0 = none */
    uint64_t compacted; /* the boundary that the core was told */
    uint64_t *skips;    /* entries behind the log's boundary that never apply, ascending */
    unsigned skip_count, skip_room;
    uint64_t turn_next, turn; /* APPENDs are logged in the order in which they came */
    struct sl_wait_queue turns;
    struct sl_timer timer;
    bool tick_pending, applier_running;
    bool locked;
    struct sl_wait_queue lock;
    struct sl_gate proposing; /* of writes that are not in the log yet */
    struct sl_log_share *log_share;
    struct sl_raft_tuning tuning; /* the cluster's, with this group's share of the log */
    struct sl_lane lanes[SL_RAFT_MEMBERS_MAX]; /* by place in the configuration */
    struct sl_list proposals, decided;         /* not committed yet; not applied yet */
    struct sl_list reads;
    struct sl_wait_queue progress; /* applied, commit or role have changed */
    bool failed;                   /* its log, until restart */
    uint64_t resyncing;            /* the member that it gives a state to; 0: none */
    struct sl_feed feeds[SL_RAFT_MEMBERS_MAX];
    unsigned feed_count;
    unsigned reader_count; /* of a follower, whom the next resync waits for */
    bool resync_busy;      /* a BEGIN or END is being done */
    uint64_t resync_from, resync_term, resync_index; /* whose regions are taken; 0: nobody's */
    uint32_t differences;                            /* compare.c: while it led */
    bool opened;
};

/* ---- cluster.c ---- */

uint64_t sl_cluster_now_ns(struct sl_target_cluster *cluster);
/* Counted coroutines. -ENOMEM. */
int sl_cluster_spawn(struct sl_target_cluster *cluster, sl_co_fn fn, void *argument);
/* At the end of each. */
void sl_cluster_leave(struct sl_target_cluster *cluster);
struct sl_replica *sl_cluster_find(struct sl_target_cluster *cluster, uint32_t group);
/* Where group `group` lies in this process; false: not on this reactor. */
bool sl_cluster_is_here(const struct sl_target_cluster *cluster, uint32_t group, uint32_t *reactor);
/* Behind mount: opens what the stores hold. */
int sl_cluster_open_groups_co(struct sl_target_cluster *cluster);
/* A log write failed: the replica ends, and with it all others on a store that has failed. */
void sl_cluster_store_failed_co(struct sl_replica *replica);
/* Before a checkpoint: the replicas of this cluster on `store` set their states. */
void sl_cluster_checkpointing(void *context, struct sl_store *store);
/* A beat's answer asks every group for a step. */
void sl_cluster_tick_all(struct sl_target_cluster *cluster);
/* After the stores are closed. Takes NULL. */
void sl_target_cluster_free(struct sl_target_cluster *cluster);

/* ---- replica.c ---- */

/* From the store's group, whose state was set. Logs why not. */
int sl_replica_open_co(struct sl_target_cluster *cluster, struct sl_store *store,
                       struct sl_store_group *log);
/* No coroutine may be at work on it. */
void sl_replica_free(struct sl_replica *replica);
/* Wakes who waits, stops the timer. */
void sl_replica_stop(struct sl_replica *replica);
/* A step of the core with all that it asks for; returns when what it wrote is durable. As
 * sl_raft_step(); -ESHUTDOWN. */
int sl_replica_step_co(struct sl_replica *replica, struct sl_raft_event *event,
                       struct sl_replica_step *step);
/* With the step of the core alone. */
int sl_replica_event_co(struct sl_replica *replica, struct sl_raft_event *event);
void sl_replica_tick(struct sl_replica *replica);
/* A turn, taken when an APPEND comes; waited for before its entries are prepared; passed on in any
 * case. */
uint64_t sl_replica_turn_take(struct sl_replica *replica);
void sl_replica_turn_wait_co(struct sl_replica *replica, uint64_t turn);
void sl_replica_turn_pass(struct sl_replica *replica);
/* Proposes an entry (index and term are filled in) and waits until it is decided and visible. 0:
 * see proposal->verdict. -SL_E_MOVED, -ESHUTDOWN; errors of sl_store_prepare_co(). */
int sl_replica_propose_co(struct sl_replica *replica, struct sl_store_entry *entry,
                          const struct sl_iobuf *payload, struct sl_proposal *proposal);
/* Returns when a read may be served here (leader only). -SL_E_MOVED, -ESHUTDOWN. */
int sl_replica_read_barrier_co(struct sl_replica *replica);

/* ---- sessions.c ---- */

/* A committed command of a session. */
void sl_replica_session_used(struct sl_replica *replica, const struct sl_command *command);
/* Before an OPEN: if there is no room, closes a session that was idle for long. As
 * sl_replica_propose_co(). */
int sl_replica_session_room_co(struct sl_replica *replica);

/* ---- replica_send.c ---- */

/* Sends a message; its entries are read from the store. As if lost when it can not be sent. */
void sl_replica_send(struct sl_replica *replica, const struct sl_raft_message *message);

/* ---- resync.c, resync_serve.c ---- */

/* Behind a step, while there are feeds: lets the log go as far as the member has it. All of it once
 * the replica has failed, or the node ends: nobody may wait for a member then. */
void sl_replica_feed(struct sl_replica *replica);
/* Before some of the log goes: members that are connected and only behind are to get it first. */
void sl_replica_feed_members(struct sl_replica *replica);
/* States given at a time. Each keeps memory while it waits for its receiver, who needs some, too,
 * and may be a source himself: without a bound two nodes could wait for each other. */
#define SL_RESYNC_SOURCES_MAX 8u
/* Gives `to` what the log no longer has. */
void sl_replica_resync(struct sl_replica *replica, struct sl_raft_replica to);
void sl_cluster_serve_resync_co(struct sl_target_cluster *cluster, struct sl_received *received);

/* ---- repair.c ---- */

/* Blocks that are damaged here, from another replica, that of node `from` (0: any): appended to
 * `data`, and written again here. -SL_E_CHECKSUM: nobody has them; -EAGAIN: some cannot be asked
 * now. */
int sl_replica_repair_co(struct sl_replica *replica, uint32_t chunk, uint16_t first_block,
                         uint16_t block_count, uint32_t from, struct sl_iobuf *data);
/* A block whose checksum here is `crc`, and should not be: what node `from` has takes its place. It
 * stays as it is until that has come. Errors of the above, and of sl_store_block_replace_co(). */
int sl_replica_replace_co(struct sl_replica *replica, uint32_t chunk, uint16_t block, uint32_t crc,
                          uint32_t from);
/* The scrub found the block damaged (struct sl_store_config). */
bool sl_cluster_damaged_co(void *context, uint64_t group, uint32_t chunk, uint16_t block);
void sl_cluster_serve_fetch_co(struct sl_target_cluster *cluster, struct sl_received *received,
                               uint32_t node);

/* ---- raft_serve.c, group_serve.c, group_admin.c ---- */

/* Each answers `received`, and leaves its release to the caller. `node` of the connection's peer,
 * 0: it said no hello; set by one. */
void sl_cluster_serve_raft_co(struct sl_target_cluster *cluster, struct sl_received *received,
                              uint32_t *node);
void sl_cluster_serve_group_co(struct sl_target_cluster *cluster, struct sl_received *received);
void sl_cluster_serve_admin_co(struct sl_target_cluster *cluster, struct sl_received *received);
/* A REPLY of the kind that GROUP_IO and GROUP_ADMIN have; with the leader if `replica` is one. */
void sl_cluster_reply(struct sl_target_cluster *cluster, struct sl_received *received,
                      uint32_t group, struct sl_replica *replica, int error, uint64_t epoch);
void sl_cluster_fill_reply(struct sl_target_cluster *cluster, uint32_t group,
                           struct sl_replica *replica, int error, uint64_t epoch,
                           struct sl_capsule_group_reply *reply);

#endif
