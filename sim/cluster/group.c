/* Replicated clusters: the cluster file, who leads, whether replicas agree. */
#include "sim/cluster/group.h"

#include <errno.h>
#include <string.h>

#include "core/error.h"
#include "target/cluster.h"

/* ---- the cluster file ---- */

static void draw_group(struct cluster *cluster, unsigned index)
{
    struct sl_cluster_group *group = &cluster->meta_groups[index];
    unsigned most = cluster->target_count;
    *group = (struct sl_cluster_group){.id = index + 1, .size_bytes = SL_CLUSTER_CHUNK_BYTES};
    group->replica_count = most >= 3 ? (most == 5 && cluster_chance(cluster, 40) ? 5 : 3)
                                     : (unsigned)cluster_between(cluster, 1, most);
    unsigned first = (unsigned)cluster_between(cluster, 0, most - 1);
    for (unsigned i = 0; i < group->replica_count; i++)
        group->replicas[i] = (struct sl_cluster_replica){
            .node = (first + i) % most + 1,
            .replica = cluster_random(cluster) | 1,
        };
}

void groups_draw(struct cluster *cluster)
{
    unsigned count = (unsigned)cluster_between(cluster, 1, GROUPS_MAX);
    struct sl_cluster *meta = &cluster->meta;
    for (unsigned i = 0; i < cluster->target_count; i++) {
        cluster->meta_nodes[i].id = i + 1;
        snprintf(cluster->meta_nodes[i].address, sizeof(cluster->meta_nodes[i].address), "%s:7600",
                 cluster->processes[i].name);
    }
    for (unsigned i = 0; i < count; i++) {
        draw_group(cluster, i);
        cluster->meta_extents[i] =
            (struct sl_cluster_extent){.group = i + 1, .size_bytes = SL_CLUSTER_CHUNK_BYTES};
    }
    cluster->meta_volume = (struct sl_cluster_volume){
        .id = 1,
        .name = "volume",
        .size_bytes = count * SL_CLUSTER_CHUNK_BYTES,
        .stripe_bytes = cluster->stripe_bytes,
        .shared = cluster->gateway_count > 1,
        .extent_count = count,
        .extents = cluster->meta_extents,
    };
    *meta = (struct sl_cluster){
        .node_count = cluster->target_count,
        .group_count = count,
        .volume_count = 1,
        .nodes = cluster->meta_nodes,
        .groups = cluster->meta_groups,
        .volumes = &cluster->meta_volume,
    };
    for (unsigned i = 0; i < sizeof(meta->id); i++)
        meta->id[i] = (uint8_t)cluster_random(cluster);
}

/* ---- what they are doing ---- */

struct sl_replica *group_replica(const struct cluster *cluster, unsigned group, unsigned target)
{
    const struct process *process = &cluster->processes[target];
    for (unsigned i = 0; process->running && process->up && i < process->reactor_count; i++) {
        struct sl_target *one = process->target.targets[i];
        struct sl_replica *replica =
            one != NULL && one->cluster != NULL
                ? sl_cluster_find(one->cluster, cluster->meta_groups[group].id)
                : NULL;
        if (replica != NULL && replica->opened)
            return replica;
    }
    return NULL;
}

/* Whether it leads the group there, and in which term. */
static bool leads(const struct cluster *cluster, unsigned group, unsigned target, uint64_t *term)
{
    struct sl_raft_status status;
    const struct sl_replica *replica = group_replica(cluster, group, target);
    if (replica == NULL)
        return false;
    sl_raft_get_status(replica->raft, &status);
    *term = status.term.value;
    return status.role == SL_RAFT_LEADER;
}

void groups_watch(struct cluster *cluster)
{
    for (unsigned group = 0; group < cluster->meta.group_count; group++) {
        for (unsigned i = 0; i < cluster->target_count; i++) {
            uint64_t term;
            if (!leads(cluster, group, i, &term))
                continue;
            unsigned at = (unsigned)(term % TERMS);
            if (cluster->leaders[group][at].term == term) {
                if (cluster->leaders[group][at].node != i + 1)
                    cluster_violation(cluster, -1, "group %u: nodes %u and %u both led term %llu",
                                      group + 1, cluster->leaders[group][at].node, i + 1,
                                      (unsigned long long)term);
                continue;
            }
            cluster->leaders[group][at].term = term;
            cluster->leaders[group][at].node = i + 1;
            cluster->effects[EFFECT_LEADERS_SEEN]++;
            cluster_note(cluster, "group %u: node %u (target%u) leads term %llu", group + 1, i + 1,
                         i, (unsigned long long)term);
        }
    }
}

unsigned group_leader(const struct cluster *cluster, unsigned group)
{
    unsigned found = TARGETS_MAX;
    uint64_t term = 0;
    for (unsigned i = 0; i < cluster->target_count; i++) {
        uint64_t led;
        if (leads(cluster, group, i, &led) && led > term) {
            term = led;
            found = i;
        }
    }
    return found;
}

/* ---- equality ---- */

bool groups_are_level(struct cluster *cluster)
{
    for (unsigned group = 0; group < cluster->meta.group_count; group++) {
        const struct sl_cluster_group *meta = &cluster->meta_groups[group];
        uint64_t applied = 0;
        for (unsigned k = 0; k < meta->replica_count; k++) {
            struct sl_raft_status status;
            const struct sl_replica *replica =
                group_replica(cluster, group, meta->replicas[k].node - 1);
            if (replica == NULL)
                return false;
            sl_raft_get_status(replica->raft, &status);
            if (replica->applied != status.last.value || (k > 0 && replica->applied != applied) ||
                replica->copying != 0)
                return false;
            applied = replica->applied;
        }
    }
    return true;
}

struct comparison {
    struct cluster *cluster;
    unsigned target;
    uint64_t values[BLOCKS];
    int errors[BLOCKS];
    bool done;
};

unsigned group_place(const struct cluster *cluster, unsigned block, uint64_t *offset_bytes)
{
    uint64_t at = cluster->run_bytes[block / RUN_BLOCKS] + block % RUN_BLOCKS * SL_BLOCK_BYTES;
    uint64_t stripe = at / cluster->stripe_bytes;
    *offset_bytes =
        stripe / cluster->meta.group_count * cluster->stripe_bytes + at % cluster->stripe_bytes;
    return (unsigned)(stripe % cluster->meta.group_count);
}

static void compare_co(void *argument)
{
    struct comparison *comparison = argument;
    struct cluster *cluster = comparison->cluster;
    for (unsigned block = 0; block < BLOCKS; block++) {
        uint64_t offset;
        unsigned group = group_place(cluster, block, &offset);
        struct sl_replica *replica = group_replica(cluster, group, comparison->target);
        comparison->errors[block] = 1; /* has none */
        if (replica == NULL || replica->cluster->target->reactor != sl_reactor_self())
            continue;
        struct sl_buf *buf =
            sl_buf_alloc_co(replica->cluster->target->memory, SL_BLOCK_BYTES, SL_RESERVE_ADMISSION);
        struct sl_span span = sl_buf_span(buf, 0, SL_BLOCK_BYTES);
        comparison->errors[block] = sl_store_read_into_co(
            replica->log, (uint32_t)(offset / SL_CLUSTER_CHUNK_BYTES),
            (uint16_t)(offset % SL_CLUSTER_CHUNK_BYTES / SL_BLOCK_BYTES), 1, &span, 1);
        comparison->values[block] = client_value(buf->data);
        sl_buf_unref(buf);
    }
    comparison->done = true;
}

static bool is_compared(void *argument)
{
    return ((struct comparison *)argument)->done;
}

static void compare_with(struct cluster *cluster, const struct comparison *comparison,
                         uint64_t *values, unsigned *first)
{
    for (unsigned block = 0; block < BLOCKS; block++) {
        /* A block that a majority has lost is lost on whom they bring up to date. */
        bool rotten =
            (cluster->rotten >> comparison->target & 1) != 0 || !cluster_is_sound(cluster);
        if (comparison->errors[block] == 1)
            continue;
        if (comparison->errors[block] < 0) {
            if (!rotten)
                cluster_violation(cluster, (int)block, "block %u on %s: %s", block,
                                  cluster->processes[comparison->target].name,
                                  sl_error_name(comparison->errors[block]));
            continue;
        }
        cluster->effects[EFFECT_REPLICAS_COMPARED]++;
        if (first[block] == TARGETS_MAX) {
            first[block] = comparison->target;
            values[block] = comparison->values[block];
        } else if (values[block] != comparison->values[block]) {
            cluster_violation(cluster, (int)block, "block %u is %llu on %s and %llu on %s", block,
                              (unsigned long long)values[block],
                              cluster->processes[first[block]].name,
                              (unsigned long long)comparison->values[block],
                              cluster->processes[comparison->target].name);
        }
    }
}

void groups_compare(struct cluster *cluster)
{
    uint64_t values[BLOCKS];
    unsigned first[BLOCKS];
    for (unsigned i = 0; i < BLOCKS; i++)
        first[i] = TARGETS_MAX;
    for (unsigned i = 0; i < cluster->target_count; i++) {
        struct process *process = &cluster->processes[i];
        for (unsigned k = 0; process->running && k < process->reactor_count; k++) {
            struct comparison comparison = {.cluster = cluster, .target = i};
            SL_ASSERT(sl_co_spawn(process->nodes[k].reactor, compare_co, &comparison) == 0);
            if (!sl_sim_run_until(cluster->sim, sl_sim_now_ns(cluster->sim) + 10 * SECOND,
                                  is_compared, &comparison)) {
                cluster_violation(cluster, -1, "%s cannot be read", process->name);
                process_crash(process, false);
                return;
            }
            compare_with(cluster, &comparison, values, first);
        }
    }
}
