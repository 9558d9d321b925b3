/*
 * A cluster of the pure Raft core and session table, without store, fabric or reactor: nodes with
 * simulated durable logs, links and clocks, in one thread, in virtual time, from one seed. Every
 * step is checked (check.c). What drives it is a schedule of faults (faults.c) or a test.
 *
 * Nodes are numbered 0..; each may hold one replica of each group. All times are nanoseconds of the
 * world; a node's own clock runs at its own rate.
 */
#ifndef SIM_RAFT_CLUSTER_H
#define SIM_RAFT_CLUSTER_H

#include "sim/raft/state.h"

/* cluster.c: the world */
struct cluster *cluster_create(uint64_t seed, unsigned nodes, unsigned groups);
void cluster_destroy(struct cluster *cluster);
/* Makes a group's first replicas, voters on nodes [0, voters), and starts them. */
void cluster_form(struct cluster *cluster, unsigned group, unsigned voters, unsigned learners);
/* Lets virtual time pass; stops early when a checker has found something. */
void cluster_run(struct cluster *cluster, uint64_t ns);
uint64_t cluster_random(struct cluster *cluster);
uint64_t cluster_range(struct cluster *cluster, uint64_t least, uint64_t most);
bool cluster_chance(struct cluster *cluster, unsigned percent);
void cluster_block(struct cluster *cluster, unsigned from, unsigned to, bool blocked);
void cluster_isolate(struct cluster *cluster, unsigned node, bool isolated);
void cluster_send(struct cluster *cluster, const struct packet *packet);
/* The connection of two nodes dies: all that is under way on it is lost. */
void cluster_disconnect(struct cluster *cluster, unsigned a, unsigned b);
uint64_t node_now(const struct cluster *cluster, const struct node *node);
void node_set_rate(struct cluster *cluster, struct node *node, int64_t ppm);
void node_jump(struct cluster *cluster, struct node *node, int64_t ns);
void node_crash(struct cluster *cluster, struct node *node, bool torn);
void node_start(struct cluster *cluster, struct node *node);
void node_start_later(struct cluster *cluster, struct node *node, uint64_t ns);
void cluster_arm_tick(struct cluster *cluster, struct replica *replica);
void cluster_disk_event(struct cluster *cluster, struct replica *replica, uint64_t at_ns);
void cluster_add_fault(struct cluster *cluster, struct fault *fault);
void cluster_request(struct cluster *cluster, int client, unsigned group, uint64_t at_ns,
                     const struct client *copy);
void cluster_client_timer(struct cluster *cluster, unsigned group, int client, uint64_t at_ns);

/* replica.c: one replica: actions, disk, state machine */
struct replica *replica_make(struct cluster *cluster, unsigned node, unsigned group,
                             const struct sl_raft_config *config, uint64_t id);
void replica_wipe(struct cluster *cluster, struct replica *replica);
void replica_start(struct cluster *cluster, struct replica *replica);
void replica_stop(struct cluster *cluster, struct replica *replica, bool torn);
int replica_step(struct cluster *cluster, struct replica *replica, struct sl_raft_event *event);
int replica_propose(struct cluster *cluster, struct replica *replica, const struct entry *entries,
                    unsigned count);
void replica_deliver(struct cluster *cluster, struct replica *replica, const struct packet *packet);
void replica_disk_done(struct cluster *cluster, struct replica *replica);
void replica_compact(struct cluster *cluster, struct replica *replica);
/* An entry on its disk can not be read any more; the replica is down. False: it has none. */
bool replica_rot(struct cluster *cluster, struct replica *replica, uint64_t random);
const struct entry *log_at(const struct entry_log *log, uint64_t index);
uint64_t log_last(const struct entry_log *log);
struct replica *cluster_leader(struct cluster *cluster, unsigned group);
struct replica *replica_at(struct cluster *cluster, unsigned node, unsigned group);
struct sl_raft_status replica_status(const struct replica *replica);

/* client.c */
void client_timer(struct cluster *cluster, unsigned group, int client);
void client_request(struct cluster *cluster, unsigned group, int client, const struct client *copy);
void client_decided(struct cluster *cluster, unsigned group, int number, uint64_t attempt,
                    enum sl_verdict verdict, uint64_t index, const struct entry *entry);
void client_read_done(struct cluster *cluster, struct replica *replica,
                      const struct reader *reader);
void replica_serve_reads(struct cluster *cluster, struct replica *replica);

/* check.c */
__attribute__((format(printf, 2, 3))) void violation(struct cluster *cluster, const char *format,
                                                     ...);
/* After a step: what was announced is so; what cannot be refused was not. */
void check_step(struct cluster *cluster, struct replica *replica, enum sl_raft_event_kind kind,
                int result);
void check_send(struct cluster *cluster, struct replica *replica,
                const struct sl_raft_message *message);
void check_made(struct cluster *cluster, struct replica *replica, uint64_t index,
                const struct entry *entry);
void check_received(struct cluster *cluster, struct replica *replica, uint64_t index,
                    const struct entry *entry);
void check_role(struct cluster *cluster, struct replica *replica, enum sl_raft_role role,
                uint64_t term);
void check_commit(struct cluster *cluster, struct replica *replica, uint64_t index);
void check_applied(struct cluster *cluster, struct replica *replica, uint64_t index,
                   const struct entry *entry, enum sl_verdict verdict);
void check_installed(struct cluster *cluster, struct replica *replica, const struct snapshot *s);
bool check_durable_on_quorum(struct cluster *cluster, struct replica *leader, uint64_t index);
void check_version(struct cluster *cluster, struct group *group, uint32_t key, uint64_t floor,
                   uint64_t version, bool is_write);
/* Whether all is as it should be after all faults are over: one leader a group, all equal. */
bool check_healed(struct cluster *cluster, char *why, size_t size);
/* Whether a request still waits at a member; `why` says where. */
bool check_waiting(struct cluster *cluster, char *why, size_t size);
/* At the end: what clients saw, and whether anybody still waits for nothing. */
void check_end(struct cluster *cluster);

/* faults.c */
void faults_plan(struct cluster *cluster, uint64_t length_ns);
void fault_strike(struct cluster *cluster, struct fault *fault);
void faults_heal(struct cluster *cluster);
const char *fault_name(enum fault_kind kind);

/* trace.c: what a failing run looks like */
__attribute__((format(printf, 3, 4))) void trace_note(struct cluster *cluster, unsigned node,
                                                      const char *format, ...);
void trace_packet(struct cluster *cluster, const struct packet *packet, const char *fate);

#endif
