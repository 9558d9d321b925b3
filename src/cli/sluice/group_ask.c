/* How `sluice group` talks to targets: connections to their reactors, and who leads. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/sluice/group.h"
#include "core/error.h"

#define CONNECT_NS (3 * SL_NS_PER_S)
/* A new leader is there in a fraction of it. */
#define LEADER_NS       (15 * SL_NS_PER_S)
#define LEADER_RETRY_NS (100 * SL_NS_PER_MS)

static void closed(void *owner, struct sl_connection *connection, int reason)
{
    struct group_node *node = owner;
    for (unsigned i = 0; i < GROUP_REACTORS_MAX; i++) {
        if (node->connections[i] != connection)
            continue;
        node->connections[i] = NULL;
        sl_connection_unref(connection);
    }
}

static const struct sl_connection_handlers handlers = {.closed = closed};

static int connect_co(struct group_tool *tool, struct group_node *node, unsigned reactor)
{
    if (node->connections[reactor] != NULL)
        return 0;
    uint64_t deadline_ns = sl_reactor_clock_ns(tool->reactor) + CONNECT_NS;
    return sl_fabric_connect_co(tool->fabric, node->config->address, reactor, &handlers, node,
                                deadline_ns, &node->connections[reactor]);
}

static int call_co(struct group_node *node, unsigned reactor, union sl_capsule *request,
                   union sl_capsule *reply)
{
    struct sl_connection *connection = node->connections[reactor];
    memset(reply, 0, sizeof(*reply));
    sl_connection_ref(connection);
    int error = sl_connection_call_co(connection, request, NULL, 0, reply);
    sl_connection_unref(connection);
    return error < 0 ? error : sl_status_to_errno(reply->header.status);
}

/* How many reactors it has: groups are dealt out to them. */
static int ask_reactors_co(struct group_tool *tool, struct group_node *node)
{
    union sl_capsule request = {.header = {.type = SL_CAPSULE_QUERY_STORAGE,
                                           .length_bytes = sizeof(request.header)}},
                     reply;
    if (node->asked)
        return node->error;
    node->asked = true;
    node->error = connect_co(tool, node, 0);
    if (node->error == 0)
        node->error = call_co(node, 0, &request, &reply);
    if (node->error == 0 &&
        (reply.header.length_bytes < sizeof(reply.storage) || reply.storage.reactor_count < 1 ||
         reply.storage.reactor_count > GROUP_REACTORS_MAX))
        node->error = -SL_E_PROTOCOL;
    if (node->error == 0 &&
        ((reply.storage.storage_flags & SL_STORAGE_REPLICATED) == 0 ||
         memcmp(reply.storage.storage_id, tool->cluster->id, sizeof(tool->cluster->id)) != 0))
        node->error = -EXDEV;
    if (node->error == 0)
        node->reactor_count = reply.storage.reactor_count;
    return node->error;
}

int group_ask_co(struct group_tool *tool, unsigned index, const struct sl_group_admin *admin,
                 struct sl_capsule_group_status *answer)
{
    struct group_node *node = &tool->nodes[index];
    union sl_capsule request = {0}, reply;
    int error = ask_reactors_co(tool, node);
    if (error < 0)
        return error;
    struct sl_capsule_group_admin body = {
        .header = {.type = SL_CAPSULE_GROUP_ADMIN, .length_bytes = sizeof(body)}, .admin = *admin};
    unsigned reactor = admin->group % node->reactor_count;
    for (unsigned hop = 0; hop < 3; hop++) {
        error = connect_co(tool, node, reactor);
        if (error < 0)
            return error;
        memcpy(&request, &body, sizeof(body)); /* header: the capsule */
        error = call_co(node, reactor, &request, &reply);
        const struct sl_capsule_group_reply *moved = &reply.group_reply;
        if (error != -SL_E_MOVED || moved->leader_node != node->config->id ||
            moved->leader_reactor >= node->reactor_count || moved->leader_reactor == reactor)
            break;
        reactor = moved->leader_reactor;
    }
    if (answer != NULL)
        memcpy(answer, &reply, sizeof(*answer)); /* header: the capsule */
    return error;
}

static unsigned node_index(const struct group_tool *tool, uint32_t id)
{
    const struct sl_cluster_node *node = sl_cluster_find_node(tool->cluster, id);
    return node != NULL ? (unsigned)(node - tool->cluster->nodes) : UINT32_MAX;
}

int group_ask_leader_co(struct group_tool *tool, const struct sl_cluster_group *group,
                        const struct sl_group_admin *admin, struct sl_capsule_group_status *answer)
{
    uint64_t end_ns = sl_reactor_clock_ns(tool->reactor) + LEADER_NS;
    unsigned next = 0, index = node_index(tool, group->replicas[0].node);
    int error;
    for (;;) {
        error = group_ask_co(tool, index, admin, answer);
        bool elsewhere = error == -SL_E_MOVED || error == -ENOENT || error == -SL_E_UNREACHABLE ||
                         error == -ECONNREFUSED || error == -ECONNRESET || error == -ETIMEDOUT;
        if (!elsewhere || sl_reactor_clock_ns(tool->reactor) >= end_ns)
            return error;
        /* Where it points to, once; else every node in turn: all first members may be gone. */
        unsigned hint =
            error == -SL_E_MOVED ? node_index(tool, answer->reply.leader_node) : UINT32_MAX;
        bool follow = hint != UINT32_MAX && hint != index;
        index = follow ? hint : next++ % tool->cluster->node_count;
        if (!follow)
            sl_sleep_co(LEADER_RETRY_NS);
        tool->nodes[index].asked = tool->nodes[index].error == 0 && tool->nodes[index].asked;
    }
}

/* Whoever has lost its leadership does not know it yet: the newest term counts. */
static int view_once_co(struct group_tool *tool, uint32_t group,
                        struct sl_capsule_group_status *view)
{
    const struct sl_group_admin status = {.op = SL_GROUP_STATUS, .group = group};
    int result = -SL_E_MOVED;
    unsigned asked = 0, failed = 0;
    *view = (struct sl_capsule_group_status){0};
    for (unsigned i = 0; i < tool->cluster->node_count; i++) {
        struct sl_capsule_group_status answer = {0};
        int error = group_ask_co(tool, i, &status, &answer);
        asked++;
        if (error < 0 && error != -ENOENT) {
            failed++;
            result = failed == asked ? error : result;
            tool->nodes[i].asked = false; /* it may come back */
        }
        if (error < 0 || answer.reply.header.length_bytes < sizeof(answer) ||
            (answer.flags & SL_GROUP_SERVING) == 0 || answer.reply.term < view->reply.term)
            continue;
        answer.member_count = (uint8_t)sl_min((unsigned)answer.member_count, SL_GROUP_MEMBERS_MAX);
        *view = answer;
    }
    if (view->member_count > 0)
        return 0;
    return failed == asked ? result : -SL_E_MOVED;
}

int group_view_co(struct group_tool *tool, const struct sl_cluster_group *group,
                  struct sl_capsule_group_status *view)
{
    uint64_t end_ns = sl_reactor_clock_ns(tool->reactor) + LEADER_NS;
    int error;
    while ((error = view_once_co(tool, group->id, view)) == -SL_E_MOVED &&
           sl_reactor_clock_ns(tool->reactor) < end_ns)
        sl_sleep_co(LEADER_RETRY_NS);
    return error;
}
