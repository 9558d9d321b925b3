/* A storage node with an unreplicated disk of the store, as the daemon runs it. */
#include "sim/cluster/cluster.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/store.h"
#include "target/cluster.h"

#define DISK "sim:disk"

/* ---- its disk, made before the first start ---- */

struct format {
    struct process *process;
    bool done;
};

static void format_co(void *argument)
{
    struct format *format = argument;
    struct process *process = format->process;
    struct cluster *cluster = process->cluster;
    struct sl_disk_options options = {.exclusive = true};
    struct sl_disk_info info;
    struct sl_disk *disk;
    char error[512];
    struct sl_store_format store = {
        .layout = {.segment_bytes = cluster->segment_bytes,
                   .wal_bytes =
                       process->reactor_count * cluster->segment_count * cluster->segment_bytes,
                   .shard_count = (uint16_t)process->reactor_count},
        .salt = cluster_random(cluster),
    };
    sl_reactor_random(process->nodes[0].reactor, store.disk_id, sizeof(store.disk_id));
    memcpy(store.cluster_id, cluster->meta.id, sizeof(store.cluster_id));
    SL_ASSERT(sl_disk_open(process->nodes[0].io, DISK, &options, &info, &disk) == 0);
    int result =
        sl_store_format_co(disk, &info, process->nodes[0].memory, &store, error, sizeof(error));
    if (result < 0)
        fprintf(stderr, "format: %s\n", error);
    SL_ASSERT(result == 0);
    sl_disk_close(disk);
    format->done = true;
}

static bool is_formatted(void *argument)
{
    return ((struct format *)argument)->done;
}

void target_format(struct process *process)
{
    struct sl_sim *sim = process->cluster->sim;
    struct format format = {.process = process};
    uint64_t bytes = process->cluster->disk_bytes;
    if (sl_sim_disk_create(sim, process->name, DISK, bytes) == -EEXIST)
        sl_sim_disk_restore(sim, process->name, DISK, NULL);
    SL_ASSERT(sl_sim_node_open(sim, process->name, 0, 8 * SL_MIB, &process->nodes[0]) == 0);
    SL_ASSERT(sl_co_spawn(process->nodes[0].reactor, format_co, &format) == 0);
    SL_ASSERT(sl_sim_run_until(sim, UINT64_MAX, is_formatted, &format));
    sl_sim_node_close(&process->nodes[0]);
}

/* ---- its life ---- */

static int join_cluster(struct process *process, unsigned reactor)
{
    const struct cluster *cluster = process->cluster;
    struct target_process *target = &process->target;
    struct sl_target_cluster_node nodes[TARGETS_MAX];
    struct sl_target_cluster_group groups[GROUPS_MAX];
    struct sl_target_cluster_config config = {
        .node = process->number + 1,
        .instance = target->instance,
        .node_count = cluster->target_count,
        .nodes = nodes,
        .groups = groups,
    };
    memcpy(config.cluster_id, cluster->meta.id, sizeof(config.cluster_id));
    for (unsigned i = 0; i < cluster->target_count; i++)
        nodes[i] = (struct sl_target_cluster_node){i + 1, cluster->meta_nodes[i].address};
    for (unsigned i = 0; i < cluster->meta.group_count; i++) {
        const struct sl_cluster_group *group = &cluster->meta_groups[i];
        for (unsigned k = 0; k < group->replica_count; k++) {
            if (group->replicas[k].node == config.node)
                groups[config.group_count++] =
                    (struct sl_target_cluster_group){group->id, group->replicas[k].replica};
        }
    }
    int error = process_fabric(process, reactor, SL_ROLE_TARGET, &target->peering[reactor]);
    return error < 0 ? error
                     : sl_target_cluster_begin(target->targets[reactor], target->peering[reactor],
                                               &config);
}

static int64_t reactor_start_co(void *argument)
{
    struct process_call *call = argument;
    struct target_process *target = &call->process->target;
    unsigned i = call->reactor;
    struct sl_sim_node *node = &call->process->nodes[i];
    int error = sl_target_create(target->storage, i, node->io, node->memory, &target->targets[i]);
    if (error == 0 && call->process->cluster->replicated)
        error = join_cluster(call->process, i);
    if (error == 0)
        error = sl_target_mount_co(target->targets[i]);
    if (error == 0)
        error = process_fabric(call->process, i, SL_ROLE_TARGET, &target->fabrics[i]);
    return error;
}

static int64_t reactor_drain_co(void *argument)
{
    struct process_call *call = argument;
    struct target_process *target = &call->process->target;
    struct sl_fabric *fabrics[] = {target->fabrics[call->reactor], target->peering[call->reactor]};
    if (target->targets[call->reactor] != NULL)
        sl_target_cluster_stop_co(target->targets[call->reactor]);
    for (unsigned i = 0; i < SL_COUNT_OF(fabrics); i++) {
        if (fabrics[i] != NULL)
            sl_fabric_drain_co(fabrics[i]);
        sl_fabric_destroy(fabrics[i]);
    }
    sl_target_unmount_co(target->targets[call->reactor]);
    return 0;
}

static int64_t reactor_end_co(void *argument)
{
    struct process_call *call = argument;
    struct target_process *target = &call->process->target;
    /* Reactor 0's goes last: it holds the disk's lock. */
    unsigned i = call->process->reactor_count - 1 - call->reactor;
    sl_target_destroy(target->targets[i]);
    target->targets[i] = NULL;
    return 0;
}

static int listen_on(struct process *process)
{
    struct target_process *target = &process->target;
    char address[32];
    void *owners[REACTORS_MAX];
    for (unsigned i = 0; i < process->reactor_count; i++)
        owners[i] = target->targets[i];
    snprintf(address, sizeof(address), "%s:7600", process->name);
    return sl_fabric_listen(target->fabrics, process->reactor_count, address,
                            &sl_target_connection_handlers, owners, NULL, &target->listener);
}

int target_main_co(struct process *process)
{
    struct target_process *target = &process->target;
    struct sl_storage_config config = {
        .spec = "store:" DISK, .reactor_count = process->reactor_count, .checksums = true};
    if (process->cluster->compared) {
        config.scrub_bytes_per_s = 64 * SL_MIB;
        config.compare_pause_ns = SECOND;
    }
    char text[512];
    target->instance = sl_reactor_random_u64(process->nodes[0].reactor);
    int error = sl_storage_open(&config, &target->storage, text, sizeof(text));
    if (error < 0)
        return error;
    error = process_on_each_co(process, reactor_start_co);
    if (error == 0)
        error = listen_on(process);
    if (error == 0) {
        process->up = true;
        process_wait_co(process);
        target_count(process);
        process->up = false;
        sl_fabric_listener_close(target->listener);
    }
    process_on_each_co(process, reactor_drain_co);
    process_on_each_co(process, reactor_end_co);
    sl_storage_close(target->storage);
    target->storage = NULL;
    return error;
}

static void count_compared(struct cluster *cluster, const struct sl_target_cluster *part)
{
    cluster->effects[EFFECT_CHUNKS_COMPARED] += part->compared.chunk_count;
    cluster->effects[EFFECT_DIFFERENCES_FOUND] += part->compared.difference_count;
    cluster->effects[EFFECT_DIFFERENCES_MENDED] += part->compared.mended_count;
    if (part->compared.difference_count > 0 && !cluster->forged)
        cluster_violation(cluster, -1, "replicas differ that nobody has changed");
}

void target_count(struct process *process)
{
    struct cluster *cluster = process->cluster;
    for (unsigned i = 0; i < process->reactor_count && process->up; i++) {
        const struct sl_target *target = process->target.targets[i];
        struct sl_target_statistics statistics;
        sl_target_statistics(target, &statistics);
        cluster->effects[EFFECT_CHECKSUM_ERRORS] += statistics.checksum_error_count;
        cluster->effects[EFFECT_FOLLOWER_READS] += statistics.follower_read_count;
        if (target->cluster != NULL)
            count_compared(cluster, target->cluster);
        for (unsigned k = 0; k < SL_COUNT_OF(target->stores); k++) {
            struct sl_store_statistics store;
            if (target->stores[k] == NULL)
                continue;
            sl_store_statistics(target->stores[k], &store);
            cluster->effects[EFFECT_CHECKPOINTS] += store.checkpoint_count;
            cluster->effects[EFFECT_ENTRIES_RECOVERED] += store.recovered_entry_count;
            cluster->effects[EFFECT_CHECKSUM_ERRORS] += store.checksum_error_count;
        }
    }
}
