/*
 * Reads that a follower serves (docs/replication.md, "Reads of a follower"), and what replicas ask
 * of themselves for each other (replica.c, repair.c). Private to src/target.
 * The READ_INDEX capsule: docs/wire.md, "Read index".
 */
#ifndef SL_TARGET_FOLLOW_H
#define SL_TARGET_FOLLOW_H

#include "target/cluster.h"

struct sl_capsule_read_index {
    struct sl_capsule_header header;
    uint8_t op; /* 32 SL_RAFT_OP_READ_INDEX */
    uint8_t reserved[3];
    uint32_t group; /* 36 */
    uint64_t from;  /* 40 replica id of who asks */
    uint64_t to;    /* 48 of the leader, as it believes */
    uint64_t index; /* 56 reply: what must be applied before it reads */
};
_Static_assert(sizeof(struct sl_capsule_read_index) == 64, "wire.md: read index");
_Static_assert(offsetof(struct sl_capsule_read_index, index) == 56, "wire.md: read index");

/* What a read that comes now needs applied (leader only). -SL_E_MOVED, -ESHUTDOWN. */
int sl_replica_read_index_co(struct sl_replica *replica, uint64_t *index);
/* `index` is applied here, soon; -EAGAIN: it is not, or not to be had. */
int sl_replica_reach_co(struct sl_replica *replica, uint64_t index);
/* Whether the member `id` of the group is on that node. */
bool sl_replica_has_member(const struct sl_replica *replica, uint64_t id, uint32_t node);
/* Returns when this replica, which does not lead, may serve a read: all that was acknowledged when
 * it was called is applied here. -SL_E_MOVED: ask the leader. */
int sl_follow_barrier_co(struct sl_replica *replica);
/* A member that follows asks; answers, the release is the caller's. */
void sl_cluster_serve_read_index_co(struct sl_target_cluster *cluster, struct sl_received *received,
                                    uint32_t node);

#endif
