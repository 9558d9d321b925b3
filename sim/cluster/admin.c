/*
 * Groups are made, and replicas on an empty disk replaced, as `sluice group` does it: by asking
 * targets, and asking again until it is done.
 */
#include "sim/cluster/group.h"

#include <errno.h>
#include <string.h>

#include "core/error.h"
#include "fabric/group_admin.h"

#define BOOT_NS  (30 * SECOND)
#define RETRY_NS (50 * MS)

static void tool_closed(void *owner, struct sl_connection *connection, int reason)
{
    struct tool *tool = owner;
    if (tool->connection == connection)
        tool->connection = NULL;
    sl_connection_unref(connection);
}

static const struct sl_connection_handlers tool_handlers = {.closed = tool_closed};

/* One question to one node. */
static int ask_co(struct cluster *cluster, uint32_t node, const struct sl_group_admin *admin,
                  uint32_t *leader)
{
    struct tool *tool = &cluster->tool;
    struct sl_capsule_group_admin body = {
        .header = {.type = SL_CAPSULE_GROUP_ADMIN, .length_bytes = sizeof(body)}, .admin = *admin};
    union sl_capsule request = {0}, reply = {0};
    struct sl_connection *connection;
    unsigned reactor = admin->group % cluster->processes[node - 1].reactor_count;
    uint64_t deadline_ns = sl_reactor_now_ns(tool->node.reactor) + SECOND;
    int error = sl_fabric_connect_co(tool->fabric, cluster->meta_nodes[node - 1].address, reactor,
                                     &tool_handlers, tool, deadline_ns, &connection);
    if (error < 0)
        return error;
    tool->connection = connection;
    sl_connection_ref(connection);
    memcpy(&request, &body, sizeof(body));
    error = sl_connection_call_co(connection, &request, NULL, 0, &reply);
    if (error == 0)
        error = sl_status_to_errno(reply.header.status);
    *leader = reply.group_reply.leader_node;
    sl_connection_shutdown(connection, -ECANCELED);
    sl_connection_unref(connection);
    while (tool->connection != NULL)
        sl_sleep_co(MS);
    return error;
}

/* Until it is done: at the one node, or (0) wherever the leader is. `fine` besides 0. */
static void ask_until_co(struct cluster *cluster, uint32_t node, const struct sl_group_admin *admin,
                         int fine)
{
    uint32_t leader = 0;
    for (unsigned round = 0; cluster->violation[0] == '\0'; round++) {
        uint32_t to = node != 0 ? node : leader != 0 ? leader : round % cluster->target_count + 1;
        leader = 0;
        int error = ask_co(cluster, to, admin, &leader);
        /* ENOENT is also what one says who has nothing of the group. */
        if (error == 0 || (error == fine && (node != 0 || leader == to)))
            return;
        if (error == -EINVAL || error == -SL_E_PROTOCOL || error == -EPERM ||
            (error == -ENOENT && leader == to))
            cluster_violation(cluster, -1, "group %u: administration %u was refused by node %u: %s",
                              admin->group, admin->op, to, sl_error_name(error));
        if (round % 64 == 63)
            cluster_note(cluster, "group %u: administration %u of node %u is not done yet: %s",
                         admin->group, admin->op, admin->node, sl_error_name(error));
        if (leader > cluster->target_count)
            leader = 0;
        sl_sleep_co(RETRY_NS);
    }
}

static void begin(struct cluster *cluster)
{
    struct tool *tool = &cluster->tool;
    struct sl_fabric_config config = {
        .link = &sl_link_sim,
        .domain = {.io = tool->node.io, .memory = tool->node.memory},
        .reactor = tool->node.reactor,
        .role = SL_ROLE_TOOL,
        .instance_id = sl_reactor_random_u64(tool->node.reactor),
        .credits = 1,
        .heartbeat_timeout_ns = 1500 * MS,
        .heartbeat_interval_ns = 300 * MS,
    };
    SL_ASSERT(sl_fabric_create(&config, &tool->fabric) == 0);
}

static void end_co(struct cluster *cluster)
{
    sl_fabric_drain_co(cluster->tool.fabric);
    sl_fabric_destroy(cluster->tool.fabric);
    cluster->tool.done = true;
}

/* ---- at first ---- */

static void boot_co(void *argument)
{
    struct cluster *cluster = argument;
    begin(cluster);
    for (unsigned i = 0; i < cluster->meta.group_count; i++) {
        const struct sl_cluster_group *group = &cluster->meta_groups[i];
        struct sl_group_admin admin = {.op = SL_GROUP_CREATE,
                                       .member_count = (uint8_t)group->replica_count,
                                       .group = group->id,
                                       .size_bytes = group->size_bytes};
        for (unsigned k = 0; k < group->replica_count; k++)
            admin.members[k] = (struct sl_group_member){group->replicas[k].replica,
                                                        group->replicas[k].node, SL_GROUP_VOTER};
        for (unsigned k = 0; k < group->replica_count; k++) {
            admin.replica = group->replicas[k].replica;
            admin.node = group->replicas[k].node;
            ask_until_co(cluster, admin.node, &admin, -EEXIST);
        }
    }
    end_co(cluster);
}

static bool is_done(void *argument)
{
    return ((struct cluster *)argument)->tool.done;
}

static void start(struct cluster *cluster, sl_co_fn fn)
{
    struct tool *tool = &cluster->tool;
    *tool = (struct tool){.running = true, .target = tool->target};
    heap_init(&tool->heap);
    sl_sim_heap_current = &tool->heap;
    SL_ASSERT(sl_sim_node_open(cluster->sim, "tool", 0, 8 * SL_MIB, &tool->node) == 0);
    sl_sim_heap_set(tool->node.io, &tool->heap);
    SL_ASSERT(sl_co_spawn(tool->node.reactor, fn, cluster) == 0);
    sl_sim_heap_current = NULL;
}

void groups_boot(struct cluster *cluster)
{
    start(cluster, boot_co);
    if (!sl_sim_run_until(cluster->sim, sl_sim_now_ns(cluster->sim) + BOOT_NS, is_done, cluster))
        cluster_violation(cluster, -1, "the groups could not be made");
    tool_reap(cluster);
}

void tool_reap(struct cluster *cluster)
{
    struct tool *tool = &cluster->tool;
    const void *caller;
    if (!tool->running || !tool->done)
        return;
    sl_sim_node_close(&tool->node);
    tool->running = false;
    if (heap_first(&tool->heap, &caller) > 0)
        cluster_violation(cluster, -1, "the tool left something on its heap, from %p", caller);
    heap_drop(&tool->heap);
}

void tool_crash(struct cluster *cluster)
{
    if (!cluster->tool.running)
        return;
    sl_sim_crash(cluster->sim, &cluster->tool.node, 1, false);
    heap_drop(&cluster->tool.heap);
    cluster->tool.running = false;
}

/* ---- a disk was lost ---- */

/* A new replica, known to nobody; the old one is forgotten; the new one learns, and votes. */
static void replace_one_co(struct cluster *cluster, struct sl_cluster_group *group,
                           struct sl_cluster_replica *replica)
{
    struct sl_group_admin admin = {.op = SL_GROUP_CREATE,
                                   .group = group->id,
                                   .size_bytes = group->size_bytes,
                                   .replica = cluster_random(cluster) | 1,
                                   .node = replica->node};
    struct sl_group_admin old = {.op = SL_GROUP_REMOVE,
                                 .group = group->id,
                                 .replica = replica->replica,
                                 .node = replica->node};
    replica->replica = admin.replica;
    ask_until_co(cluster, replica->node, &admin, -EEXIST);
    ask_until_co(cluster, 0, &old, -ENOENT);
    admin.size_bytes = 0;
    admin.op = SL_GROUP_ADD_LEARNER;
    ask_until_co(cluster, 0, &admin, -EEXIST);
    admin.op = SL_GROUP_PROMOTE;
    ask_until_co(cluster, 0, &admin, -EEXIST);
    cluster->effects[EFFECT_REPLICAS_REPLACED]++;
    cluster_note(cluster, "group %u: node %u has a new replica", group->id, replica->node);
}

static void replace_co(void *argument)
{
    struct cluster *cluster = argument;
    begin(cluster);
    for (unsigned i = 0; i < cluster->meta.group_count; i++) {
        struct sl_cluster_group *group = &cluster->meta_groups[i];
        for (unsigned k = 0; k < group->replica_count; k++) {
            if (group->replicas[k].node == cluster->tool.target + 1)
                replace_one_co(cluster, group, &group->replicas[k]);
        }
    }
    end_co(cluster);
}

void groups_replace(struct cluster *cluster, unsigned target)
{
    cluster->tool.target = target;
    start(cluster, replace_co);
}
