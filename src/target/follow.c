/*
 * A follower serves a read: it asks its leader which index must be applied first.
 *
 *   read ─► READ_INDEX ─► leader: still the leader, by lease or round ─► its commit index
 *        ─► applied here ─► overlay or chunk, verified ─► reply
 *
 * What was acknowledged before the read came has an index no higher than that. Who can not ask, or
 * lags, sends the reader to the leader; nothing older is ever served.
 */
#include "target/follow.h"

#include <errno.h>

#include "core/error.h"
#include "target/peer.h"

int sl_follow_barrier_co(struct sl_replica *replica)
{
    struct sl_raft_status status;
    union sl_capsule request = {0}, reply;
    struct sl_capsule_read_index *body = (void *)&request;
    const struct sl_capsule_read_index *answer = (const void *)&reply;
    sl_raft_get_status(replica->raft, &status);
    if (status.leader.id == 0 || replica->copying != 0 || replica->failed)
        return -SL_E_MOVED;
    struct sl_connection *connection =
        sl_peer_of_group(replica->cluster, status.leader.node, replica->group);
    if (connection == NULL)
        return -SL_E_MOVED;
    body->header.type = SL_CAPSULE_RAFT;
    body->header.length_bytes = sizeof(*body);
    body->op = SL_RAFT_OP_READ_INDEX;
    body->group = replica->group;
    body->from = replica->id;
    body->to = status.leader.id;
    int error = sl_connection_call_co(connection, &request, NULL, 0, &reply);
    if (error == 0)
        error = sl_status_to_errno(reply.header.status);
    if (error < 0 || reply.header.length_bytes < sizeof(*answer))
        return -SL_E_MOVED;
    return sl_replica_reach_co(replica, answer->index) < 0 ? -SL_E_MOVED : 0;
}

static int index_co(struct sl_target_cluster *cluster, const struct sl_capsule_read_index *asked,
                    uint32_t node, uint64_t *index)
{
    struct sl_replica *replica = sl_cluster_find(cluster, asked->group);
    if (replica == NULL || replica->id != asked->to)
        return -ENOENT;
    if (!sl_replica_has_member(replica, asked->from, node))
        return -SL_E_PROTOCOL;
    return sl_replica_read_index_co(replica, index);
}

void sl_cluster_serve_read_index_co(struct sl_target_cluster *cluster, struct sl_received *received,
                                    uint32_t node)
{
    union sl_capsule reply = {0};
    struct sl_capsule_read_index *out = (void *)&reply;
    uint64_t index = 0;
    int error = index_co(cluster, (const void *)&received->capsule, node, &index);
    out->header.type = SL_CAPSULE_REPLY;
    out->header.length_bytes = sizeof(*out);
    out->header.status = sl_status_from_errno(error);
    out->op = SL_RAFT_OP_READ_INDEX;
    out->index = index;
    sl_connection_reply(received, &reply);
}
