/*
 * A target's part in a cluster: which groups lie here, their life from mount to stop.
 *
 *   sl_target_cluster_begin ─► mount: stores, then each group that they hold ─► peers ─► serving
 *   sl_target_cluster_stop_co ─► (fabrics are drained) ─► unmount: stores, with a last state ─► end
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "target/cluster.h"
#include "target/compare.h"
#include "target/peer.h"
#include "target/replica_state.h"

/* Failover within 2 s: a follower campaigns after T to 2 T. */
#define ELECTION_NS  (600 * SL_NS_PER_MS)
#define HEARTBEAT_NS (120 * SL_NS_PER_MS)
/* Clocks of two nodes: a hundred times what NTP slews, ten times a bad crystal. */
#define DRIFT_PPM 1000u
/* What one group may have in memory at a leader: 1/8 of it in the worst case of the default. */
#define UNCOMMITTED_BYTES (32 * SL_MIB)

static const struct sl_raft_tuning default_tuning = {
    .election_ns = ELECTION_NS,
    .heartbeat_ns = HEARTBEAT_NS,
    .drift_ppm = DRIFT_PPM,
    .append_entries = 64,
    .append_bytes = SL_MIB,
    .window_entries = 512,
    .window_bytes = 16 * SL_MIB,
    .uncommitted_entries = 1024,
    .uncommitted_bytes = UNCOMMITTED_BYTES,
    .promote_lag = 512,
};

uint64_t sl_cluster_now_ns(struct sl_target_cluster *cluster)
{
    /* Now, not at the start of the turn: the process may have been stopped in between, and who
     * hears a leader late must not count its promise from before. */
    cluster->clock_ns = sl_max(cluster->clock_ns, sl_reactor_clock_ns(cluster->target->reactor));
    return cluster->clock_ns;
}

int sl_cluster_spawn(struct sl_target_cluster *cluster, sl_co_fn fn, void *argument)
{
    int error = sl_co_spawn(cluster->target->reactor, fn, argument);
    if (error == 0)
        cluster->pending++;
    return error;
}

void sl_cluster_leave(struct sl_target_cluster *cluster)
{
    if (--cluster->pending == 0)
        sl_wait_queue_wake_all(&cluster->idle, 0);
}

struct sl_replica *sl_cluster_find(struct sl_target_cluster *cluster, uint32_t group)
{
    sl_list_for_each(node, &cluster->hash[group % SL_CLUSTER_HASH])
    {
        struct sl_replica *replica = sl_list_entry(node, struct sl_replica, hash);
        if (replica->group == group && replica->opened)
            return replica;
    }
    return NULL;
}

bool sl_cluster_is_here(const struct sl_target_cluster *cluster, uint32_t group, uint32_t *reactor)
{
    *reactor = group % cluster->target->storage->config.reactor_count;
    return *reactor == cluster->target->reactor_index;
}

void sl_cluster_tick_all(struct sl_target_cluster *cluster)
{
    sl_list_for_each(node, &cluster->replicas)
    {
        struct sl_replica *replica = sl_list_entry(node, struct sl_replica, node);
        if (replica->opened)
            sl_replica_tick(replica);
    }
}

/* ---- begin ---- */

static int take_config(struct sl_target_cluster *cluster,
                       const struct sl_target_cluster_config *config)
{
    cluster->config = *config;
    cluster->config.nodes = NULL; /* the caller's; what is needed of it is in the peers */
    cluster->config.groups = calloc(config->group_count + 1, sizeof(config->groups[0]));
    cluster->peers = calloc(config->node_count + 1, sizeof(*cluster->peers));
    if (cluster->peers == NULL || cluster->config.groups == NULL)
        return -ENOMEM;
    if (config->group_count > 0)
        memcpy((void *)cluster->config.groups, config->groups, /* header: configuration */
               config->group_count * sizeof(config->groups[0]));
    for (unsigned i = 0; i < config->node_count; i++) {
        const struct sl_target_cluster_node *node = &config->nodes[i];
        struct sl_cluster_peer *peer = &cluster->peers[cluster->peer_count];
        if (node->id == config->node)
            continue;
        if (strlen(node->address) >= sizeof(peer->address))
            return -EINVAL;
        peer->cluster = cluster;
        peer->node = node->id;
        memcpy(peer->address, node->address, strlen(node->address) + 1); /* header: address */
        /* Not only with the start of the peers: groups that are open want them before. */
        for (unsigned k = 0; k < SL_STORAGE_SHARDS_MAX; k++)
            sl_wait_queue_init(&peer->connections[k].changed);
        cluster->peer_count++;
    }
    return 0;
}

int sl_target_cluster_begin(struct sl_target *target, struct sl_fabric *fabric,
                            const struct sl_target_cluster_config *config)
{
    struct sl_target_cluster *cluster = calloc(1, sizeof(*cluster));
    if (cluster == NULL)
        return -ENOMEM;
    cluster->target = target;
    cluster->fabric = fabric;
    cluster->tuning = config->tuning != NULL ? *config->tuning : default_tuning;
    for (unsigned i = 0; i < SL_COUNT_OF(cluster->log_shares); i++)
        sl_gate_init(&cluster->log_shares[i].gate);
    sl_list_init(&cluster->replicas);
    sl_list_init(&cluster->fetches);
    for (unsigned i = 0; i < SL_CLUSTER_HASH; i++)
        sl_list_init(&cluster->hash[i]);
    sl_wait_queue_init(&cluster->idle);
    sl_wait_queue_init(&cluster->stop);
    sl_wait_queue_init(&cluster->admin);
    int error =
        target->storage->backend == &sl_backend_store ? take_config(cluster, config) : -EOPNOTSUPP;
    cluster->links_memory = error == 0 ? malloc(sl_raft_links_bytes(config->node_count)) : NULL;
    if (error == 0 && cluster->links_memory == NULL)
        error = -ENOMEM;
    target->cluster = cluster;
    if (error < 0) {
        sl_log_error("target", "storage '%s' cannot take part in a cluster: %s%s",
                     target->storage->name, sl_error_text(error),
                     error == -EOPNOTSUPP ? "; a disk of the store is needed: format one with "
                                            "`sluice disk format` and give --storage store:PATH"
                                          : "");
        return error;
    }
    cluster->links = sl_raft_links_init(cluster->links_memory, config->node_count,
                                        sl_reactor_random_u64(target->reactor));
    return 0;
}

/* What the cluster file places here and the disk does not have: said, never made up. */
static void compare_with_file(struct sl_target_cluster *cluster)
{
    for (unsigned i = 0; i < cluster->config.group_count; i++) {
        const struct sl_target_cluster_group *group = &cluster->config.groups[i];
        uint32_t reactor;
        if (!sl_cluster_is_here(cluster, group->id, &reactor))
            continue;
        const struct sl_replica *replica = sl_cluster_find(cluster, group->id);
        if (replica == NULL)
            sl_log_warn("target",
                        "group %u: the cluster file places replica %016llx here, and storage '%s' "
                        "does not have it; make it with `sluice group create` if the group is new, "
                        "or, if the disk was replaced, add a new one with `sluice group "
                        "add-learner`",
                        group->id, (unsigned long long)group->replica,
                        cluster->target->storage->name);
        else if (replica->id != group->replica)
            sl_log_info("target", "group %u: the disk has replica %016llx, not the first one",
                        group->id, (unsigned long long)replica->id);
    }
}

/* A group may lie in any shard of its reactor, and in one only. */
static int check_place(struct sl_target_cluster *cluster, unsigned shard, uint32_t group)
{
    const struct sl_storage *storage = cluster->target->storage;
    const char *path = sl_storage_disk_of(storage, shard)->path;
    uint32_t reactor;
    const struct sl_replica *other = sl_cluster_find(cluster, group);
    if (!sl_cluster_is_here(cluster, group, &reactor)) {
        sl_log_error("target",
                     "group %u lies on '%s', which reactor %u serves now, and belongs to reactor "
                     "%u: the number of reactors, or the order of --storage, is not as it was when "
                     "the group was made: start as before",
                     group, path, cluster->target->reactor_index, reactor);
        return -EINVAL;
    }
    if (other != NULL) {
        unsigned k = 0;
        while (cluster->target->stores[k] != other->store)
            k++;
        sl_log_error("target",
                     "group %u lies on '%s' (replica %016llx) and on '%s': one of these disks was "
                     "away while the group was made anew; start without the one that is out of "
                     "date (`sluice group status` of the other nodes says which replica counts)",
                     group, sl_storage_disk_of(storage, k)->path, (unsigned long long)other->id,
                     path);
        return -EEXIST;
    }
    return 0;
}

/* What was written without --cluster is nobody's replica, and must not become one. */
static int check_replicated(const struct sl_target_cluster *cluster, unsigned shard,
                            const struct sl_store_group_status *status)
{
    if (status->state_bytes > 0 || status->last_index == 0)
        return 0;
    sl_log_error("target",
                 "storage '%s' was served without --cluster and holds data of its own: start it "
                 "without --cluster; if its data may go, format it (sluice disk format --force)",
                 sl_storage_disk_of(cluster->target->storage, shard)->path);
    return -EINVAL;
}

static int open_groups_of_co(struct sl_target_cluster *cluster, unsigned shard, unsigned *opened)
{
    struct sl_store *store = cluster->target->stores[shard];
    struct sl_store_group *group;
    for (uint64_t after = 0; (group = sl_store_group_next(store, after)) != NULL;) {
        struct sl_store_group_status status;
        sl_store_group_status(group, &status);
        after = status.group;
        if (status.group > UINT32_MAX)
            continue;
        int error = check_replicated(cluster, shard, &status);
        if (error == 0 && status.state_bytes > 0)
            error = check_place(cluster, shard, (uint32_t)status.group);
        if (error < 0)
            return error;
        /* One that cannot be served does not keep the others from it. */
        error = sl_replica_open_co(cluster, store, group);
        *opened += error == 0;
        if (error == -ENOMEM)
            return error;
    }
    return 0;
}

/* What is not committed yet cannot leave the log, so each group has a share of it for that. */
#define LOG_BYTES_GOOD (64 * SL_MIB)

static void warn_of_log(const struct sl_target_cluster *cluster, unsigned shard)
{
    struct sl_store_info info;
    struct sl_store_statistics statistics;
    sl_store_info(cluster->target->stores[shard], &info);
    sl_store_statistics(cluster->target->stores[shard], &statistics);
    uint64_t log_bytes = statistics.segment_count * info.segment_bytes;
    if (cluster->config.write_bytes_least == 0 || log_bytes >= LOG_BYTES_GOOD)
        return;
    sl_log_warn("target",
                "storage '%s': its log has %llu MiB a shard: few large writes of a group can be "
                "in flight; 64 MiB or more are good (sluice disk format --log)",
                sl_storage_disk_of(cluster->target->storage, shard)->path,
                (unsigned long long)(log_bytes / SL_MIB));
}

/* Segments hold four writes of the greatest length, or a group stops at the first one. */
static int check_log(const struct sl_target_cluster *cluster, unsigned shard, uint32_t write_bytes)
{
    if (write_bytes >= cluster->config.write_bytes_least) {
        warn_of_log(cluster, shard);
        return 0;
    }
    sl_log_error(
        "target",
        "storage '%s': its log takes writes of %u bytes at most, and a cluster's must take "
        "%u: format it with --segment 4M, or with fewer --shards",
        sl_storage_disk_of(cluster->target->storage, shard)->path, write_bytes,
        cluster->config.write_bytes_least);
    return -EINVAL;
}

int sl_cluster_open_groups_co(struct sl_target_cluster *cluster)
{
    struct sl_target *target = cluster->target;
    unsigned opened = 0;
    cluster->shard_count = target->storage->store_shards;
    cluster->entry_bytes_max = SL_TRANSFER_BYTES_MAX;
    memcpy(cluster->disk_id, target->storage->info.storage_id, 16); /* header: identity */
    for (unsigned shard = 0; shard < SL_COUNT_OF(target->stores); shard++) {
        struct sl_store_info info;
        if (target->stores[shard] == NULL)
            continue;
        sl_store_info(target->stores[shard], &info);
        cluster->entry_bytes_max =
            sl_min(cluster->entry_bytes_max, info.entry_blocks_max * SL_BLOCK_BYTES);
        int error = check_log(cluster, shard, info.entry_blocks_max * SL_BLOCK_BYTES);
        if (error == 0)
            error = open_groups_of_co(cluster, shard, &opened);
        if (error < 0)
            return error;
    }
    compare_with_file(cluster);
    sl_log_info("target", "node %u, reactor %u: %u groups", cluster->config.node,
                target->reactor_index, opened);
    int error = sl_peers_start(cluster);
    return error < 0 ? error : sl_compare_start(cluster);
}

/* ---- failure, checkpoints ---- */

static void fail_one_co(struct sl_replica *replica)
{
    struct sl_raft_event event = {.kind = SL_RAFT_FAILED};
    if (replica->failed || !replica->opened)
        return;
    (void)sl_replica_event_co(replica, &event);
    if (replica->failed) /* somebody else has said so meanwhile */
        return;
    replica->failed = true;
    sl_replica_stop(replica);
    sl_log_error("raft",
                 "group %u has stopped here: its log could not be written; restart the "
                 "target when its disk is well, or replace the disk",
                 replica->group);
}

static struct sl_replica *next_to_fail(const struct sl_target_cluster *cluster,
                                       const struct sl_store *store)
{
    sl_list_for_each(node, &cluster->replicas)
    {
        struct sl_replica *replica = sl_list_entry(node, struct sl_replica, node);
        if (replica->store == store && replica->opened && !replica->failed)
            return replica;
    }
    return NULL;
}

void sl_cluster_store_failed_co(struct sl_replica *replica)
{
    struct sl_target_cluster *cluster = replica->cluster;
    struct sl_store *store = replica->store;
    if (cluster->closing)
        return;
    fail_one_co(replica);
    if (sl_store_failed(store) == 0)
        return;
    /* Looked for anew each time: what cannot be opened goes from the list meanwhile. */
    while ((replica = next_to_fail(cluster, store)) != NULL)
        fail_one_co(replica);
}

void sl_cluster_checkpointing(void *context, struct sl_store *store)
{
    struct sl_target_cluster *cluster = context;
    sl_list_for_each(node, &cluster->replicas)
    {
        struct sl_replica *replica = sl_list_entry(node, struct sl_replica, node);
        struct sl_store_group_status status;
        /* Those of other stores may be closed already. */
        if (replica->store != store || !replica->opened || replica->copying != 0)
            continue;
        sl_replica_feed_members(replica);
        sl_store_group_status(replica->log, &status);
        if (sl_session_index(replica->sessions).value > status.state_index)
            (void)sl_replica_state_save(replica);
    }
}

/* ---- end ---- */

void sl_target_cluster_stop_co(struct sl_target *target)
{
    struct sl_target_cluster *cluster = target->cluster;
    if (cluster == NULL)
        return;
    cluster->closing = true;
    sl_list_for_each(node, &cluster->replicas)
    {
        sl_replica_stop(sl_list_entry(node, struct sl_replica, node));
    }
    sl_wait_queue_wake_all(&cluster->stop, 0);
    /* Requests that wait for room in a log may wait for what nobody commits any more. */
    for (unsigned shard = 0; shard < SL_COUNT_OF(target->stores); shard++) {
        if (target->stores[shard] != NULL)
            sl_store_stop(target->stores[shard]);
    }
    sl_fabric_drain_co(cluster->fabric);
    while (cluster->pending > 0)
        sl_wait_queue_co(&cluster->idle);
}

void sl_target_cluster_free(struct sl_target_cluster *cluster)
{
    if (cluster == NULL)
        return;
    struct sl_list *node;
    while ((node = sl_list_first(&cluster->replicas)) != NULL)
        sl_replica_free(sl_list_entry(node, struct sl_replica, node));
    free((void *)cluster->config.groups);
    free(cluster->peers);
    free(cluster->links_memory);
    free(cluster);
}
