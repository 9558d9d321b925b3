/*
 * Group administration: makes a replica here, says how it is, changes who belongs to its group.
 * Only CREATE ever makes a replica; a disk that was wiped does not get one by itself.
 */
#include <errno.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/group_admin.h"
#include "target/cluster.h"
#include "target/peer.h"
#include "target/replica_state.h"

_Static_assert(SL_GROUP_MEMBERS_MAX == SL_RAFT_MEMBERS_MAX, "one limit");

/* A change waits so long for its entry to commit, then its caller is told to look again. */
#define CHANGE_WAIT_NS (5 * SL_NS_PER_S)

/* ---- create ---- */

static int check_create(const struct sl_target_cluster *cluster, const struct sl_group_admin *admin,
                        struct sl_raft_config *config)
{
    bool has_self = admin->member_count == 0;
    *config = (struct sl_raft_config){.count = admin->member_count};
    if (admin->group == 0 || admin->replica == 0 || admin->node != cluster->config.node ||
        admin->size_bytes == 0 || admin->size_bytes % SL_CHUNK_BYTES != 0 ||
        admin->size_bytes / SL_CHUNK_BYTES > UINT32_MAX ||
        admin->member_count > SL_GROUP_MEMBERS_MAX)
        return -EINVAL;
    for (unsigned i = 0; i < admin->member_count; i++) {
        const struct sl_group_member *member = &admin->members[i];
        config->members[i] = (struct sl_raft_member){member->replica, member->node, member->kind};
        has_self = has_self || (member->replica == admin->replica && member->node == admin->node);
    }
    return has_self && (config->count == 0 || sl_raft_config_is_sound(config)) ? 0 : -EINVAL;
}

/* What a shard has that no group was promised; below 0: it is promised more than once. */
static int64_t unpromised_bytes(const struct sl_target_cluster *cluster,
                                const struct sl_store *store)
{
    struct sl_store_info info;
    sl_store_info(store, &info);
    int64_t bytes = (int64_t)info.data_bytes;
    sl_list_for_each(node, &cluster->replicas)
    {
        const struct sl_replica *replica = sl_list_entry(node, struct sl_replica, node);
        bytes -= replica->store == store ? (int64_t)replica->size_bytes : 0;
    }
    return bytes;
}

/* Where a group lies, or is to be made: of this reactor's shards that work the one with most room.
 * Of each disk one of them is preferred, so that a group is on its reactor also after the number of
 * reactors was changed (to one that divides the shards of each disk). */
static struct sl_store *choose_store(struct sl_target_cluster *cluster, uint32_t group)
{
    const struct sl_target *target = cluster->target;
    struct sl_store *best = NULL;
    unsigned best_rank = 0;
    int64_t best_bytes = 0;
    for (unsigned i = target->reactor_index; i < cluster->shard_count;
         i += target->storage->config.reactor_count) {
        struct sl_store *store = target->stores[i];
        unsigned shards = sl_storage_disk_of(target->storage, i)->shard_count;
        unsigned rank = sl_store_failed(store) != 0 ? 0 : i % shards == group % shards ? 2 : 1;
        int64_t bytes = unpromised_bytes(cluster, store);
        if (sl_store_group_find(store, group) != NULL)
            return store;
        if (best == NULL || rank > best_rank || (rank == best_rank && bytes > best_bytes)) {
            best = store;
            best_rank = rank;
            best_bytes = bytes;
        }
    }
    return best;
}

static int create_locked_co(struct sl_target_cluster *cluster, const struct sl_group_admin *admin,
                            const struct sl_raft_config *config)
{
    struct sl_store *store = choose_store(cluster, admin->group);
    struct sl_store_group *log = sl_store_group_find(store, admin->group);
    struct sl_store_group_status status = {0};
    int error = 0;
    if (log == NULL) {
        error = sl_store_group_create_co(store, admin->group, 0, 0);
        log = sl_store_group_find(store, admin->group);
    }
    if (error < 0)
        return error;
    if (log == NULL)
        return -EIO;
    sl_store_group_status(log, &status);
    /* A creation that was cut short left a log without a state: it is finished now. */
    if (status.state_bytes > 0)
        return -EEXIST;
    error = sl_replica_state_create(log, admin->replica, admin->size_bytes, config);
    if (error == 0)
        error = sl_store_checkpoint_co(store);
    if (error == 0)
        error = sl_replica_open_co(cluster, store, log);
    /* What has failed is not there: it can be tried again, maybe as another replica. */
    if (error < 0)
        (void)sl_store_state_set(log, 0, "", 0);
    return error;
}

static int create_co(struct sl_target_cluster *cluster, const struct sl_group_admin *admin)
{
    struct sl_raft_config config;
    uint32_t reactor;
    int error = check_create(cluster, admin, &config);
    if (error < 0)
        return error;
    if (!sl_cluster_is_here(cluster, admin->group, &reactor))
        return -SL_E_MOVED;
    /* One at a time: two for one group would both find none. */
    if (cluster->admin_busy)
        sl_wait_queue_co(&cluster->admin);
    cluster->admin_busy = true;
    if (cluster->closing)
        error = -ESHUTDOWN;
    else if (sl_cluster_find(cluster, admin->group) != NULL)
        error = -EEXIST;
    else
        error = create_locked_co(cluster, admin, &config);
    if (!sl_wait_queue_wake_one(&cluster->admin, 0))
        cluster->admin_busy = false;
    if (error == 0)
        sl_log_info("target", "group %u: replica %016llx was created, %u members", admin->group,
                    (unsigned long long)admin->replica, config.count);
    else if (error != -EEXIST)
        sl_log_error("target", "group %u cannot be created here: %s (%s)", admin->group,
                     sl_error_text(error), sl_error_name(error));
    return error;
}

/* ---- status ---- */

static void answer_status(struct sl_replica *replica, struct sl_received *received)
{
    static const uint8_t roles[] = {[SL_RAFT_FOLLOWER] = SL_GROUP_FOLLOWER,
                                    [SL_RAFT_PRE_CANDIDATE] = SL_GROUP_CANDIDATE,
                                    [SL_RAFT_CANDIDATE] = SL_GROUP_CANDIDATE,
                                    [SL_RAFT_LEADER] = SL_GROUP_LEADER,
                                    [SL_RAFT_STOPPED] = SL_GROUP_STOPPED};
    union sl_capsule capsule = {0};
    struct sl_capsule_group_status *body = (void *)&capsule;
    const struct sl_raft_config *config = sl_raft_get_config(replica->raft);
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    sl_cluster_fill_reply(replica->cluster, replica->group, replica, 0, 0, &body->reply);
    body->reply.header.length_bytes = sizeof(*body);
    body->reply.replica = replica->id;
    body->role = roles[status.role];
    body->flags = (status.serving ? SL_GROUP_SERVING : 0) | (status.copying ? SL_GROUP_COPYING : 0);
    body->member_count = (uint8_t)config->count;
    body->boundary = status.boundary.value;
    body->last = status.last.value;
    body->commit = status.commit.value;
    body->applied = replica->applied;
    body->size_bytes = replica->size_bytes;
    body->differences = replica->differences;
    for (unsigned i = 0; i < config->count; i++) {
        const struct sl_raft_member *member = &config->members[i];
        bool known = status.role == SL_RAFT_LEADER || member->id == replica->id;
        uint64_t lag = status.last.value - sl_raft_match(replica->raft, member->id).value;
        body->members[i] = (struct sl_group_member){member->id, member->node, member->kind};
        body->lags[i] = known ? (uint32_t)sl_min(lag, (uint64_t)SL_GROUP_LAG_UNKNOWN - 1)
                              : SL_GROUP_LAG_UNKNOWN;
    }
    sl_connection_reply(received, &capsule);
}

/* ---- changes ---- */

static int change_co(struct sl_replica *replica, const struct sl_group_admin *admin)
{
    static const enum sl_raft_change changes[] = {
        [SL_GROUP_ADD_LEARNER] = SL_RAFT_ADD_LEARNER,
        [SL_GROUP_PROMOTE] = SL_RAFT_PROMOTE,
        [SL_GROUP_DEMOTE] = SL_RAFT_DEMOTE,
        [SL_GROUP_REMOVE] = SL_RAFT_REMOVE,
    };
    struct sl_raft_event event = {.kind = SL_RAFT_CHANGE,
                                  .change = {changes[admin->op], {admin->replica, admin->node}}};
    struct sl_replica_step step = {0};
    int error = sl_replica_step_co(replica, &event, &step);
    if (error < 0)
        return error == -EIO || error == -ESHUTDOWN ? -SL_E_MOVED : error;
    uint64_t deadline_ns = sl_cluster_now_ns(replica->cluster) + CHANGE_WAIT_NS;
    while (replica->applied < step.index) {
        if (replica->failed || replica->cluster->closing)
            return -SL_E_MOVED;
        if (sl_wait_queue_until_co(&replica->progress, deadline_ns) == -ETIMEDOUT)
            return -ETIMEDOUT;
    }
    /* Another leader may have put something else there. */
    return replica->applied_config.index.value >= step.index ? 0 : -SL_E_MOVED;
}

static int transfer_co(struct sl_replica *replica, const struct sl_group_admin *admin)
{
    struct sl_raft_event event = {.kind = SL_RAFT_TRANSFER, .transfer.id = admin->replica};
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    /* Asked once more, since the old leader's answer was lost when it stepped down: it is done. */
    if (status.role == SL_RAFT_LEADER && admin->replica == replica->id)
        return 0;
    int error = sl_replica_event_co(replica, &event);
    return error == -EIO || error == -ESHUTDOWN ? -SL_E_MOVED : error;
}

/* ---- all of them ---- */

/* Positive: it was answered. */
static int serve_co(struct sl_target_cluster *cluster, struct sl_received *received,
                    struct sl_replica *replica, const struct sl_group_admin *admin)
{
    uint32_t reactor;
    if (admin->op == SL_GROUP_CREATE)
        return create_co(cluster, admin);
    if (replica == NULL)
        return sl_cluster_is_here(cluster, admin->group, &reactor) ? -ENOENT : -SL_E_MOVED;
    switch (admin->op) {
    case SL_GROUP_STATUS:
        answer_status(replica, received);
        return 1;
    case SL_GROUP_ADD_LEARNER:
        if (sl_peer_find(cluster, admin->node) == NULL && admin->node != cluster->config.node)
            return -EINVAL; /* nobody could reach it */
        return change_co(replica, admin);
    case SL_GROUP_PROMOTE:
    case SL_GROUP_DEMOTE:
    case SL_GROUP_REMOVE:
        return change_co(replica, admin);
    case SL_GROUP_TRANSFER:
        return transfer_co(replica, admin);
    default:
        return -EOPNOTSUPP;
    }
}

void sl_cluster_serve_admin_co(struct sl_target_cluster *cluster, struct sl_received *received)
{
    const struct sl_capsule_group_admin *capsule = (const void *)&received->capsule;
    struct sl_replica *replica = NULL;
    int error = -SL_E_PROTOCOL;
    if (capsule->header.length_bytes >= sizeof(*capsule)) {
        replica = sl_cluster_find(cluster, capsule->admin.group);
        error = serve_co(cluster, received, replica, &capsule->admin);
    }
    if (error <= 0)
        sl_cluster_reply(cluster, received, capsule->admin.group, replica, error, 0);
}
