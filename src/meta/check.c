/*
 * Whether a cluster holds together: ids are unique and known, replicas lie on nodes of their own,
 * extents inside their groups and apart from one another. Also the look-ups, which need the order
 * that is made here. Any thread.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "meta/cluster.h"

struct report {
    char *error;
    size_t error_bytes;
};

__attribute__((format(printf, 2, 3))) static int contradiction(const struct report *report,
                                                               const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(report->error, report->error_bytes, format, arguments);
    va_end(arguments);
    return -EINVAL;
}

static int by_node_id(const void *a, const void *b)
{
    const struct sl_cluster_node *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static int by_group_id(const void *a, const void *b)
{
    const struct sl_cluster_group *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* HOST:PORT, as programs listen and connect. */
static bool is_address(const char *text)
{
    const char *colon = strrchr(text, ':');
    unsigned port = 0;
    const char *at = colon != NULL ? colon + 1 : "";
    for (; *at >= '0' && *at <= '9' && port <= UINT16_MAX; at++)
        port = 10 * port + (unsigned)(*at - '0');
    return colon != NULL && colon != text && *at == '\0' && port >= 1 && port <= UINT16_MAX;
}

static int check_nodes(struct sl_cluster *cluster, const struct report *report)
{
    if (cluster->node_count < 1 || cluster->node_count > SL_CLUSTER_NODES_MAX)
        return contradiction(report, "%u nodes; there must be 1 to %d", cluster->node_count,
                             SL_CLUSTER_NODES_MAX);
    qsort(cluster->nodes, cluster->node_count, sizeof(cluster->nodes[0]), by_node_id);
    for (unsigned i = 0; i < cluster->node_count; i++) {
        const struct sl_cluster_node *node = &cluster->nodes[i];
        if (node->id == 0)
            return contradiction(report, "a node has the id 0; ids begin at 1");
        if (node->address[0] == '\0')
            return contradiction(report, "node %u has no address", node->id);
        if (!is_address(node->address))
            return contradiction(report,
                                 "node %u has the address '%s'; HOST:PORT is meant, such "
                                 "as 10.0.0.1:7600",
                                 node->id, node->address);
        if (i > 0 && cluster->nodes[i - 1].id == node->id)
            return contradiction(report, "node %u is there twice", node->id);
        for (unsigned j = 0; j < i; j++) {
            if (strcmp(cluster->nodes[j].address, node->address) == 0)
                return contradiction(report, "nodes %u and %u have one address, %s",
                                     cluster->nodes[j].id, node->id, node->address);
        }
    }
    return 0;
}

static int check_replicas(const struct sl_cluster *cluster, const struct sl_cluster_group *group,
                          const struct report *report)
{
    if (group->replica_count < 1 || group->replica_count > SL_CLUSTER_REPLICAS_MAX)
        return contradiction(report, "group %u has %u replicas; it must have 1 to %d", group->id,
                             group->replica_count, SL_CLUSTER_REPLICAS_MAX);
    for (unsigned i = 0; i < group->replica_count; i++) {
        const struct sl_cluster_replica *replica = &group->replicas[i];
        if (sl_cluster_find_node(cluster, replica->node) == NULL)
            return contradiction(report, "group %u has a replica on node %u, which is not there",
                                 group->id, replica->node);
        if (replica->replica == 0)
            return contradiction(report,
                                 "group %u: the replica on node %u has the id 0; ids are random",
                                 group->id, replica->node);
        for (unsigned j = 0; j < i; j++) {
            if (group->replicas[j].node == replica->node)
                return contradiction(report, "group %u has two replicas on node %u", group->id,
                                     replica->node);
            if (group->replicas[j].replica == replica->replica)
                return contradiction(report, "group %u: two replicas have the id %016llx",
                                     group->id, (unsigned long long)replica->replica);
        }
    }
    return 0;
}

static int check_groups(struct sl_cluster *cluster, const struct report *report)
{
    if (cluster->group_count > SL_CLUSTER_GROUPS_MAX)
        return contradiction(report, "%u groups; at most %d", cluster->group_count,
                             SL_CLUSTER_GROUPS_MAX);
    if (cluster->group_count > 0)
        qsort(cluster->groups, cluster->group_count, sizeof(cluster->groups[0]), by_group_id);
    for (unsigned i = 0; i < cluster->group_count; i++) {
        const struct sl_cluster_group *group = &cluster->groups[i];
        if (group->id == 0)
            return contradiction(report, "a group has the id 0; ids begin at 1");
        if (i > 0 && cluster->groups[i - 1].id == group->id)
            return contradiction(report, "group %u is there twice", group->id);
        if (group->size_bytes == 0 || group->size_bytes % SL_CLUSTER_CHUNK_BYTES != 0 ||
            group->size_bytes > UINT64_MAX / 4)
            return contradiction(report,
                                 "group %u: a size of %llu bytes; it must be a multiple of 16 MiB",
                                 group->id, (unsigned long long)group->size_bytes);
        int status = check_replicas(cluster, group, report);
        if (status < 0)
            return status;
    }
    return 0;
}

static int check_extent(const struct sl_cluster *cluster, const struct sl_cluster_volume *volume,
                        const struct sl_cluster_extent *extent, const struct report *report)
{
    const struct sl_cluster_group *group = sl_cluster_find_group(cluster, extent->group);
    if (group == NULL)
        return contradiction(report, "volume '%s' lies in group %u, which is not there",
                             volume->name, extent->group);
    if (extent->offset_bytes % SL_CLUSTER_CHUNK_BYTES != 0 || extent->size_bytes == 0 ||
        extent->size_bytes % SL_CLUSTER_CHUNK_BYTES != 0)
        return contradiction(report,
                             "volume '%s': its extent in group %u (offset %llu, size %llu) must "
                             "be whole pieces of 16 MiB",
                             volume->name, extent->group, (unsigned long long)extent->offset_bytes,
                             (unsigned long long)extent->size_bytes);
    if (extent->offset_bytes > group->size_bytes ||
        extent->size_bytes > group->size_bytes - extent->offset_bytes)
        return contradiction(report,
                             "volume '%s': its extent in group %u (offset %llu, size %llu) leads "
                             "beyond the group's %llu bytes",
                             volume->name, extent->group, (unsigned long long)extent->offset_bytes,
                             (unsigned long long)extent->size_bytes,
                             (unsigned long long)group->size_bytes);
    if (extent->size_bytes != volume->extents[0].size_bytes)
        return contradiction(report, "volume '%s': its extents are not all of one size",
                             volume->name);
    return 0;
}

static int check_volume(const struct sl_cluster *cluster, const struct sl_cluster_volume *volume,
                        const struct report *report)
{
    if (volume->id == 0 || volume->name[0] == '\0')
        return contradiction(report, "volume %u '%s': an id from 1 and a name are needed",
                             volume->id, volume->name);
    if (!sl_is_power_of_two(volume->stripe_bytes) ||
        volume->stripe_bytes < SL_CLUSTER_STRIPE_BYTES_MIN ||
        volume->stripe_bytes > SL_CLUSTER_STRIPE_BYTES_MAX)
        return contradiction(
            report, "volume '%s': stripes of %u bytes; a power of two from 64 KiB to 16 MiB",
            volume->name, volume->stripe_bytes);
    if (volume->extent_count < 1 || volume->extent_count > SL_CLUSTER_EXTENTS_MAX)
        return contradiction(report, "volume '%s' has %u extents; it must have 1 to %d",
                             volume->name, volume->extent_count, SL_CLUSTER_EXTENTS_MAX);
    for (unsigned i = 0; i < volume->extent_count; i++) {
        int status = check_extent(cluster, volume, &volume->extents[i], report);
        if (status < 0)
            return status;
    }
    /* No overflow: an extent is at most a quarter of 2^64, and larger ones fail this anyway. */
    uint64_t most = volume->extents[0].size_bytes > UINT64_MAX / SL_CLUSTER_EXTENTS_MAX
                        ? UINT64_MAX
                        : volume->extents[0].size_bytes * volume->extent_count;
    if (volume->size_bytes == 0 || volume->size_bytes % SL_BLOCK_BYTES != 0 ||
        volume->size_bytes > most)
        return contradiction(report,
                             "volume '%s': a size of %llu bytes; a multiple of 4096, at most the "
                             "%llu of its extents",
                             volume->name, (unsigned long long)volume->size_bytes,
                             (unsigned long long)most);
    return 0;
}

/* An extent and whose it is, to find those that overlap. */
struct placed {
    const struct sl_cluster_volume *volume;
    const struct sl_cluster_extent *extent;
};

static int by_place(const void *a, const void *b)
{
    const struct sl_cluster_extent *x = ((const struct placed *)a)->extent;
    const struct sl_cluster_extent *y = ((const struct placed *)b)->extent;
    if (x->group != y->group)
        return x->group < y->group ? -1 : 1;
    return (x->offset_bytes > y->offset_bytes) - (x->offset_bytes < y->offset_bytes);
}

static int check_apart(const struct sl_cluster *cluster, const struct report *report)
{
    size_t count = 0;
    for (unsigned i = 0; i < cluster->volume_count; i++)
        count += cluster->volumes[i].extent_count;
    struct placed *all = calloc(sl_max(count, (size_t)1), sizeof(*all));
    if (all == NULL)
        return -ENOMEM;
    count = 0;
    for (unsigned i = 0; i < cluster->volume_count; i++) {
        for (unsigned j = 0; j < cluster->volumes[i].extent_count; j++)
            all[count++] = (struct placed){&cluster->volumes[i], &cluster->volumes[i].extents[j]};
    }
    qsort(all, count, sizeof(*all), by_place);
    int status = 0;
    for (size_t i = 1; i < count && status == 0; i++) {
        const struct sl_cluster_extent *before = all[i - 1].extent, *extent = all[i].extent;
        if (before->group == extent->group &&
            extent->offset_bytes - before->offset_bytes < before->size_bytes)
            status = contradiction(report, "volumes '%s' and '%s' overlap in group %u at %llu",
                                   all[i - 1].volume->name, all[i].volume->name, extent->group,
                                   (unsigned long long)extent->offset_bytes);
    }
    free(all);
    return status;
}

static int check_volumes(const struct sl_cluster *cluster, const struct report *report)
{
    if (cluster->volume_count > SL_CLUSTER_VOLUMES_MAX)
        return contradiction(report, "%u volumes; at most %d", cluster->volume_count,
                             SL_CLUSTER_VOLUMES_MAX);
    for (unsigned i = 0; i < cluster->volume_count; i++) {
        const struct sl_cluster_volume *volume = &cluster->volumes[i];
        int status = check_volume(cluster, volume, report);
        if (status < 0)
            return status;
        for (unsigned j = 0; j < i; j++) {
            if (cluster->volumes[j].id == volume->id)
                return contradiction(report, "volumes '%s' and '%s' have one id, %u",
                                     cluster->volumes[j].name, volume->name, volume->id);
            if (strcmp(cluster->volumes[j].name, volume->name) == 0)
                return contradiction(report, "volume '%s' is there twice", volume->name);
        }
    }
    return check_apart(cluster, report);
}

int sl_cluster_check(struct sl_cluster *cluster, char *error, size_t error_bytes)
{
    const struct report report = {error, error_bytes};
    int status = check_nodes(cluster, &report);
    if (status == 0)
        status = check_groups(cluster, &report);
    if (status == 0)
        status = check_volumes(cluster, &report);
    if (status == -ENOMEM)
        snprintf(error, error_bytes, "out of memory");
    return status;
}

void sl_cluster_free(struct sl_cluster *cluster)
{
    if (cluster == NULL)
        return;
    for (unsigned i = 0; cluster->volumes != NULL && i < cluster->volume_count; i++)
        free(cluster->volumes[i].extents);
    free(cluster->nodes);
    free(cluster->groups);
    free(cluster->volumes);
    free(cluster);
}

const struct sl_cluster_node *sl_cluster_find_node(const struct sl_cluster *cluster, uint32_t id)
{
    const struct sl_cluster_node wanted = {.id = id};
    return cluster->node_count == 0
               ? NULL
               : bsearch(&wanted, cluster->nodes, cluster->node_count, sizeof(wanted), by_node_id);
}

const struct sl_cluster_group *sl_cluster_find_group(const struct sl_cluster *cluster, uint32_t id)
{
    const struct sl_cluster_group wanted = {.id = id};
    return cluster->group_count == 0 ? NULL
                                     : bsearch(&wanted, cluster->groups, cluster->group_count,
                                               sizeof(wanted), by_group_id);
}

const struct sl_cluster_volume *sl_cluster_find_volume(const struct sl_cluster *cluster,
                                                       const char *name)
{
    for (unsigned i = 0; i < cluster->volume_count; i++) {
        if (strcmp(cluster->volumes[i].name, name) == 0)
            return &cluster->volumes[i];
    }
    return NULL;
}

const char *sl_cluster_survives(unsigned replica_count)
{
    static const char *const sentences[] = {
        "no replica, no data",
        "1 replica: a lost disk is lost data; while the node is away the volume waits",
        "2 replicas: no data is lost with one of two disks, but while one is away the volume waits",
        "3 replicas: survive the loss of any one node, without a pause of more than an election",
        "4 replicas: survive the loss of any one node, as 3 do; a second one makes the volume wait",
        "5 replicas: survive the loss of any two nodes, without a pause of more than an election",
        "6 replicas: survive the loss of any two nodes, as 5 do; a third one makes the volume wait",
        "7 replicas: survive the loss of any three nodes, without a pause of more than an election",
    };
    return sentences[sl_min(replica_count, (unsigned)SL_CLUSTER_REPLICAS_MAX)];
}
