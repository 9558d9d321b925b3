/*
 * How much of a store's log may wait for its commit: that cannot be freed, and a log that is full
 * of it has no room for what would commit it, a vote or the entries of other groups.
 *
 *   writes of a group ─► its gate, until they are in the log ─► the log's gate, until their end
 *
 * Each group has one leader, so if the groups of a log lie on the same nodes, what all leaders let
 * in is together what the smallest of their logs may have; and one write each.
 */
#include "target/log_share.h"

#include "target/cluster.h"
#include "target/peer.h"

void sl_gate_init(struct sl_gate *gate)
{
    sl_wait_queue_init(&gate->line);
    sl_wait_queue_init(&gate->room);
}

void sl_gate_enter_co(struct sl_gate *gate, uint64_t bytes, const uint64_t *bytes_max)
{
    if (gate->entering)
        sl_wait_queue_co(&gate->line); /* handed over */
    gate->entering = true;
    while (gate->bytes > 0 && gate->bytes + bytes > *bytes_max)
        sl_wait_queue_co(&gate->room);
    gate->bytes += bytes;
    if (!sl_wait_queue_wake_one(&gate->line, 0))
        gate->entering = false;
}

void sl_gate_leave(struct sl_gate *gate, uint64_t bytes)
{
    gate->bytes -= bytes;
    sl_wait_queue_wake_all(&gate->room, 0);
}

uint32_t sl_cluster_waiting_kib(const struct sl_target_cluster *cluster)
{
    uint64_t least_bytes = 0;
    for (unsigned shard = 0; shard < SL_COUNT_OF(cluster->target->stores); shard++) {
        struct sl_store_info info;
        if (cluster->target->stores[shard] == NULL)
            continue;
        sl_store_info(cluster->target->stores[shard], &info);
        if (least_bytes == 0 || info.uncommitted_bytes_max < least_bytes)
            least_bytes = info.uncommitted_bytes_max;
    }
    return (uint32_t)sl_min(least_bytes / 1024, (uint64_t)UINT32_MAX);
}

/* What a leader lets in comes into its followers' logs, too. */
static uint64_t least_of_all(const struct sl_target_cluster *cluster, uint64_t own_bytes)
{
    for (unsigned i = 0; i < cluster->peer_count; i++) {
        if (cluster->peers[i].waiting_kib != 0)
            own_bytes = sl_min(own_bytes, (uint64_t)cluster->peers[i].waiting_kib * 1024);
    }
    return own_bytes;
}

static void share_log(struct sl_target_cluster *cluster, const struct sl_store *store,
                      struct sl_log_share *share)
{
    struct sl_store_info info;
    uint64_t count = 0, led_count = 0;
    sl_store_info(store, &info);
    sl_list_for_each(node, &cluster->replicas)
    {
        const struct sl_replica *replica = sl_list_entry(node, struct sl_replica, node);
        struct sl_raft_status status = {0};
        if (replica->store == store && replica->opened)
            sl_raft_get_status(replica->raft, &status);
        count += replica->store == store;
        led_count += status.role == SL_RAFT_LEADER;
    }
    if (count == 0)
        return;
    uint64_t each_bytes = least_of_all(cluster, info.uncommitted_bytes_max) / count;
    share->bytes_max = each_bytes * led_count;
    sl_list_for_each(node, &cluster->replicas)
    {
        struct sl_replica *replica = sl_list_entry(node, struct sl_replica, node);
        if (replica->store == store)
            replica->tuning.uncommitted_bytes =
                sl_min(cluster->tuning.uncommitted_bytes, sl_max(each_bytes, share->bytes_max / 2));
    }
}

void sl_cluster_share_logs(struct sl_target_cluster *cluster)
{
    for (unsigned shard = 0; shard < SL_COUNT_OF(cluster->target->stores); shard++) {
        if (cluster->target->stores[shard] != NULL)
            share_log(cluster, cluster->target->stores[shard], &cluster->log_shares[shard]);
    }
}

struct sl_log_share *sl_cluster_log_share(struct sl_target_cluster *cluster,
                                          const struct sl_store *store)
{
    unsigned shard = 0;
    while (cluster->target->stores[shard] != store)
        shard++;
    return &cluster->log_shares[shard];
}
