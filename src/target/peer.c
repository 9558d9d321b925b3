/*
 * Connections between targets. Each node connects to the others' reactors and sends what it has to
 * say on connections of its own making; a coroutine for each keeps it up, with back-off. The first
 * thing said is who one is: node, cluster, disk, and how groups lie on its reactors.
 */
#include "target/peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"

#define CONNECT_TIMEOUT_NS (2 * SL_NS_PER_S)
#define RETRY_LEAST_NS     (20 * SL_NS_PER_MS)
#define RETRY_MOST_NS      (500 * SL_NS_PER_MS)

static void connection_closed(void *owner, struct sl_connection *connection, int reason)
{
    struct sl_peer_connection *own = owner;
    if (own == NULL || own->connection != connection)
        return;
    sl_log_info("target", "connection to node %u is lost: %s", own->peer->node,
                sl_error_text(reason));
    own->connection = NULL;
    sl_wait_queue_wake_all(&own->changed, 0);
}

static const struct sl_connection_handlers connection_handlers = {.closed = connection_closed};

void sl_peer_fill_hello(const struct sl_target_cluster *cluster, uint32_t to_node,
                        union sl_capsule *capsule)
{
    struct sl_capsule_raft_hello *hello = (void *)capsule;
    memset(capsule, 0, sizeof(*capsule));
    hello->header.type = SL_CAPSULE_RAFT;
    hello->header.length_bytes = sizeof(*hello);
    hello->op = SL_RAFT_OP_HELLO;
    hello->node = cluster->config.node;
    hello->to_node = to_node;
    hello->reactor_count = cluster->target->storage->config.reactor_count;
    hello->shard_count = cluster->shard_count;
    hello->waiting_kib = sl_cluster_waiting_kib(cluster);
    hello->instance = cluster->config.instance;
    memcpy(hello->cluster_id, cluster->config.cluster_id, 16); /* header: identity */
    memcpy(hello->disk_id, cluster->disk_id, 16);              /* header: identity */
}

/* What a peer says of itself, in a hello or in the answer to one. */
static int check_hello(const struct sl_target_cluster *cluster, uint32_t node,
                       const union sl_capsule *capsule)
{
    const struct sl_capsule_raft_hello *hello = (const void *)capsule;
    if (hello->header.length_bytes < sizeof(*hello) || hello->op != SL_RAFT_OP_HELLO ||
        hello->reactor_count == 0 || hello->shard_count == 0 ||
        hello->shard_count > SL_STORAGE_SHARDS_MAX ||
        hello->shard_count % hello->reactor_count != 0)
        return -SL_E_PROTOCOL;
    if (memcmp(hello->cluster_id, cluster->config.cluster_id, 16) != 0)
        return -EXDEV;
    if (hello->node == cluster->config.node)
        return -EEXIST;
    return hello->node == node ? 0 : -EINVAL;
}

static const char *hello_problem(int error)
{
    switch (error) {
    case -EXDEV:
        return "it belongs to another cluster";
    case -EEXIST:
        return "two nodes run under one number: end one of them";
    case -EINVAL:
        return "it is another node than the cluster file says";
    case -ENOENT:
        return "the cluster file here has no such node";
    case -EIO:
        return "it refused us: its log says why";
    default:
        return sl_error_text(error);
    }
}

/* Each of its reactors tells the least of its own logs. Another process may have other disks. */
static void learn_waiting(struct sl_cluster_peer *peer, const struct sl_capsule_raft_hello *hello)
{
    if (peer->waiting_instance != hello->instance)
        peer->waiting_kib = 0;
    peer->waiting_instance = hello->instance;
    if (hello->waiting_kib != 0 &&
        (peer->waiting_kib == 0 || hello->waiting_kib < peer->waiting_kib))
        peer->waiting_kib = hello->waiting_kib;
    sl_cluster_share_logs(peer->cluster);
}

static void learn(struct sl_cluster_peer *peer, const union sl_capsule *capsule)
{
    const struct sl_capsule_raft_hello *hello = (const void *)capsule;
    const struct sl_target_cluster *cluster = peer->cluster;
    peer->known = true;
    peer->reactor_count = hello->reactor_count;
    learn_waiting(peer, hello);
    /* A shared heartbeat needs the same groups on one reactor at both ends. */
    bool same = peer->reactor_count == cluster->target->storage->config.reactor_count;
    if (sl_raft_links_allow(cluster->links, peer->node, same))
        sl_cluster_tick_all(peer->cluster);
}

static int say_hello_co(struct sl_peer_connection *own, struct sl_connection *connection)
{
    union sl_capsule capsule, reply;
    sl_peer_fill_hello(own->peer->cluster, own->peer->node, &capsule);
    int error = sl_connection_call_co(connection, &capsule, NULL, 0, &reply);
    if (error == 0)
        error = sl_status_to_errno(reply.header.status);
    if (error == 0)
        error = check_hello(own->peer->cluster, own->peer->node, &reply);
    if (error == 0)
        learn(own->peer, &reply);
    return error;
}

static void complain(struct sl_peer_connection *own, int error)
{
    if (own->peer->complained || own->peer->cluster->closing)
        return;
    own->peer->complained = true;
    sl_log_warn("target", "node %u at %s cannot be reached: %s (%s); it is tried again",
                own->peer->node, own->peer->address, hello_problem(error), sl_error_name(error));
}

/* One life of the connection; answers how it began. */
static int connect_once_co(struct sl_peer_connection *own)
{
    struct sl_target_cluster *cluster = own->peer->cluster;
    struct sl_connection *connection;
    uint64_t now_ns = sl_reactor_now_ns(cluster->target->reactor);
    int error =
        sl_fabric_connect_co(cluster->fabric, own->peer->address, own->reactor,
                             &connection_handlers, own, now_ns + CONNECT_TIMEOUT_NS, &connection);
    if (error < 0)
        return error;
    error = say_hello_co(own, connection);
    /* It may have died, or we may be closing, since. */
    if (error == 0 && (!sl_connection_is_open(connection) || cluster->closing))
        error = -ECONNRESET;
    if (error == 0) {
        own->connection = connection;
        own->peer->complained = false;
        sl_log_info("target", "connected to node %u, reactor %u", own->peer->node, own->reactor);
        while (own->connection != NULL)
            sl_wait_queue_co(&own->changed);
    } else {
        sl_connection_shutdown(connection, error);
    }
    sl_connection_unref(connection);
    return error;
}

static void connection_co(void *argument)
{
    struct sl_peer_connection *own = argument;
    struct sl_target_cluster *cluster = own->peer->cluster;
    uint64_t retry_ns = RETRY_LEAST_NS;
    while (!cluster->closing) {
        int error = connect_once_co(own);
        if (error < 0)
            complain(own, error);
        retry_ns = error == 0 ? RETRY_LEAST_NS : sl_min(retry_ns * 2, RETRY_MOST_NS);
        if (!cluster->closing)
            sl_wait_queue_until_co(&cluster->stop,
                                   sl_reactor_now_ns(cluster->target->reactor) + retry_ns);
    }
    own->running = false;
    sl_cluster_leave(cluster);
}

struct sl_connection *sl_peer_connect(struct sl_cluster_peer *peer, uint32_t reactor)
{
    struct sl_peer_connection *own = &peer->connections[reactor];
    if (!own->running && !peer->cluster->closing) {
        own->peer = peer;
        own->reactor = reactor;
        own->running = sl_cluster_spawn(peer->cluster, connection_co, own) == 0;
    }
    return own->connection;
}

struct sl_cluster_peer *sl_peer_find(struct sl_target_cluster *cluster, uint32_t node)
{
    for (unsigned i = 0; i < cluster->peer_count; i++) {
        if (cluster->peers[i].node == node)
            return &cluster->peers[i];
    }
    return NULL;
}

uint32_t sl_peer_reactor(const struct sl_cluster_peer *peer, uint32_t group)
{
    return peer->known ? group % peer->reactor_count : 0;
}

struct sl_connection *sl_peer_of_group(struct sl_target_cluster *cluster, uint32_t node,
                                       uint32_t group)
{
    struct sl_cluster_peer *peer = sl_peer_find(cluster, node);
    return peer != NULL ? sl_peer_connect(peer, sl_peer_reactor(peer, group)) : NULL;
}

/* ---- heartbeats of all groups together ---- */

static int beat_co(struct sl_cluster_peer *peer, struct sl_connection *connection,
                   const struct sl_raft_beat *beat)
{
    struct sl_target_cluster *cluster = peer->cluster;
    union sl_capsule request = {0}, reply;
    struct sl_capsule_raft_beat *body = (void *)&request, *back = (void *)&reply;
    body->header.type = SL_CAPSULE_RAFT;
    body->header.length_bytes = sizeof(*body);
    body->op = SL_RAFT_OP_BEAT;
    body->count = beat->count;
    body->epoch = beat->epoch;
    body->sent_ns = beat->sent_ns;
    body->sum[0] = beat->sum[0];
    body->sum[1] = beat->sum[1];
    int error = sl_connection_call_co(connection, &request, NULL, 0, &reply);
    if (error < 0 || reply.header.status != 0 || reply.header.length_bytes < sizeof(*back) ||
        back->op != SL_RAFT_OP_BEAT)
        return error < 0 ? error : -SL_E_PROTOCOL;
    struct sl_raft_beat_answer answer = {back->epoch, back->sent_ns, back->equal == 1};
    if (sl_raft_links_answered(cluster->links, peer->node, sl_cluster_now_ns(cluster), &answer))
        sl_cluster_tick_all(cluster);
    return 0;
}

static void beats_co(void *argument)
{
    struct sl_cluster_peer *peer = argument;
    struct sl_target_cluster *cluster = peer->cluster;
    while (!cluster->closing) {
        struct sl_raft_beat beat;
        unsigned reactor = cluster->target->reactor_index;
        struct sl_connection *connection =
            peer->known && reactor < peer->reactor_count ? sl_peer_connect(peer, reactor) : NULL;
        if (connection != NULL &&
            sl_raft_links_beat(cluster->links, peer->node, sl_cluster_now_ns(cluster), &beat) > 0)
            (void)beat_co(peer, connection, &beat);
        if (!cluster->closing)
            sl_wait_queue_until_co(&cluster->stop, sl_reactor_now_ns(cluster->target->reactor) +
                                                       cluster->tuning.heartbeat_ns);
    }
    sl_cluster_leave(cluster);
}

int sl_peers_start(struct sl_target_cluster *cluster)
{
    int error = 0;
    for (unsigned i = 0; i < cluster->peer_count && error == 0; i++) {
        (void)sl_peer_connect(&cluster->peers[i], 0);
        error = sl_cluster_spawn(cluster, beats_co, &cluster->peers[i]);
    }
    return error;
}

/* ---- who comes in ---- */

int sl_peer_hello(struct sl_target_cluster *cluster, struct sl_received *received,
                  union sl_capsule *reply, uint32_t *node)
{
    const struct sl_capsule_raft_hello *hello = (const void *)&received->capsule;
    struct sl_cluster_peer *peer = sl_peer_find(cluster, hello->node);
    int error = check_hello(cluster, hello->node, &received->capsule);
    if (error == 0 && hello->to_node != cluster->config.node)
        error = -EINVAL;
    if (error == 0 && peer == NULL)
        error = -ENOENT;
    /* The same number on another disk, while the first is connected still: one of them is wrong. */
    if (error == 0 && peer->incoming != NULL && peer->instance != hello->instance &&
        memcmp(peer->disk_id, hello->disk_id, 16) != 0)
        error = -EEXIST;
    if (error < 0) {
        sl_log_error("target", "a target at %s, which says that it is node %u, is refused: %s",
                     sl_connection_peer(received->connection)->address, hello->node,
                     hello_problem(error));
        return error;
    }
    peer->incoming = received->connection;
    peer->instance = hello->instance;
    memcpy(peer->disk_id, hello->disk_id, 16); /* header: identity */
    learn(peer, &received->capsule);
    *node = hello->node;
    sl_peer_fill_hello(cluster, hello->node, reply);
    return 0;
}

void sl_peer_left(struct sl_target_cluster *cluster, uint32_t node,
                  const struct sl_connection *connection)
{
    struct sl_cluster_peer *peer = sl_peer_find(cluster, node);
    if (peer != NULL && peer->incoming == connection)
        peer->incoming = NULL;
}
