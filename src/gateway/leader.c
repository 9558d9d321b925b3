/*
 * Who leads a group. Known from the last answer; a target that does not lead says who does, as far
 * as it knows. While nobody is known one request, the scout, asks the members in turn with itself,
 * and all others wait for what it finds: an election under load costs one message every 50 ms, not
 * one from each request.
 *
 *   unknown ── scout: an answer, or a hint ──► known ── its connection died; "moved"; "not here"
 * ──► unknown
 */
#include <errno.h>

#include "core/error.h"
#include "gateway/replicated.h"

/* Before the scout looks again for a member that it is connected to. */
#define LOOK_DELAY_NS (20 * SL_NS_PER_MS)
/* After so many rounds over the members that the file names, one other node is asked: all of them
 * may have been replaced. */
#define ROUNDS_BEFORE_OTHERS 4u

static struct route *open_route(const struct sl_gateway *gateway, unsigned server, unsigned reactor)
{
    struct route *route =
        reactor < SL_SERVER_REACTORS_MAX ? gateway->servers[server].routes[reactor] : NULL;
    return route != NULL && route->state == ROUTE_OPEN ? route : NULL;
}

static unsigned server_of_node(const struct sl_cluster *cluster, uint32_t node)
{
    const struct sl_cluster_node *found = sl_cluster_find_node(cluster, node);
    return found != NULL ? (unsigned)(found - cluster->nodes) : UINT32_MAX;
}

static unsigned candidate(const struct replicated_group *group, unsigned turn)
{
    const struct sl_cluster *cluster = group->gateway->group->cluster;
    unsigned members = group->config->replica_count;
    unsigned period = members * ROUNDS_BEFORE_OTHERS + 1;
    if (turn % period == period - 1)
        return turn / period % cluster->node_count;
    return server_of_node(cluster, group->config->replicas[turn % period % members].node);
}

/* The next member in turn that we are connected to. Its reactor is a guess: shards are dealt out to
 * reactors in turn, groups to shards; else it says "moved". */
static struct route *next_candidate(struct replicated_group *group)
{
    struct sl_gateway *gateway = group->gateway;
    for (unsigned i = 0; i <= group->config->replica_count; i++) {
        unsigned server = candidate(group, group->turn++);
        unsigned reactors = sl_max(gateway->servers[server].storage.reactor_count, 1u);
        struct route *route = open_route(gateway, server, group->config->id % reactors);
        if (route != NULL)
            return route;
    }
    return NULL;
}

struct route *sl_leader_any(struct replicated_group *group, unsigned *member)
{
    struct sl_gateway *gateway = group->gateway;
    uint64_t now_ns = sl_reactor_now_ns(gateway->reactor);
    for (unsigned i = 0; i < group->config->replica_count; i++) {
        *member = group->read_turn++ % group->config->replica_count;
        unsigned server =
            server_of_node(gateway->group->cluster, group->config->replicas[*member].node);
        unsigned reactors = sl_max(gateway->servers[server].storage.reactor_count, 1u);
        struct route *route = open_route(gateway, server, group->config->id % reactors);
        if (route != NULL && group->avoid_ns[*member] <= now_ns)
            return route;
    }
    return NULL;
}

int sl_leader_acquire_co(struct replicated_group *group, uint64_t deadline_ns, struct visit *visit)
{
    struct sl_gateway *gateway = group->gateway;
    for (;;) {
        if (gateway->stopping)
            return -ECANCELED;
        if (group->leader_known) {
            visit->route = open_route(gateway, group->leader_server, group->leader_reactor);
            if (visit->route != NULL)
                return 0;
            group->leader_known = false;
        }
        if (!group->scouted)
            group->scouted = visit->is_scout = true;
        if (visit->is_scout && (visit->route = next_candidate(group)) != NULL)
            return 0;
        uint64_t now_ns = sl_reactor_now_ns(gateway->reactor);
        if (now_ns >= deadline_ns)
            return -SL_E_UNREACHABLE;
        sl_wait_queue_until_co(&group->changed, visit->is_scout
                                                    ? sl_min(deadline_ns, now_ns + LOOK_DELAY_NS)
                                                    : deadline_ns);
    }
}

void sl_leader_leave(struct replicated_group *group, struct visit *visit)
{
    if (!visit->is_scout)
        return;
    visit->is_scout = group->scouted = false;
    sl_wait_queue_wake_all(&group->changed, 0);
}

static bool is_from_leader(const struct replicated_group *group, const struct visit *visit)
{
    return group->leader_known && group->leader_server == visit->route->server->index &&
           group->leader_reactor == visit->route->reactor_index;
}

static void set_leader(struct replicated_group *group, unsigned server, unsigned reactor,
                       uint64_t term)
{
    group->leader_known = true;
    group->leader_server = server;
    group->leader_reactor = reactor;
    group->term = sl_max(group->term, term);
}

/* Follows the hint unless it is older than what is known, or names the one who gives it. */
static void learn_moved(struct replicated_group *group, const struct visit *visit,
                        const struct sl_capsule_group_reply *reply)
{
    const struct sl_cluster *cluster = group->gateway->group->cluster;
    unsigned server = UINT32_MAX;
    if (reply->header.length_bytes >= sizeof(*reply) && reply->leader_node != 0)
        server = server_of_node(cluster, reply->leader_node);
    if (is_from_leader(group, visit))
        group->leader_known = false;
    bool itself = server == visit->route->server->index &&
                  reply->leader_reactor == visit->route->reactor_index;
    if (server == UINT32_MAX || itself || reply->term < group->term ||
        reply->leader_reactor >= SL_SERVER_REACTORS_MAX)
        return;
    /* Somebody whom we can not reach is no leader of ours. */
    if (open_route(group->gateway, server, reply->leader_reactor) != NULL)
        set_leader(group, server, reply->leader_reactor, reply->term);
}

void sl_leader_learn(struct replicated_group *group, struct visit *visit, int error,
                     const union sl_capsule *reply)
{
    switch (error) {
    case -SL_E_MOVED:
        learn_moved(group, visit, &reply->group_reply);
        break;
    case -ECONNRESET:
    case -ETIMEDOUT:
    case -ECANCELED:
    case -EBADFD:
    case -ENOENT:
    case -EOPNOTSUPP:
        if (is_from_leader(group, visit))
            group->leader_known = false;
        break;
    default: {
        /* Only a leader has anything else to say. */
        bool whole = reply->header.length_bytes >= sizeof(reply->group_reply);
        uint64_t term = whole ? reply->group_reply.term : 0;
        if (term >= group->term || term == 0)
            set_leader(group, visit->route->server->index, visit->route->reactor_index, term);
        break;
    }
    }
    if (group->leader_known)
        sl_leader_leave(group, visit);
}
