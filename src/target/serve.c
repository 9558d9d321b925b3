/*
 * Requests that come over the fabric. Each is one coroutine that reads from top to bottom: admit →
 * payload in → sl_target_execute_co → payload out → reply.
 *
 * Payload in: with the capsule, or by READ into a buffer of ours, or (shm) the client's own pages,
 * mapped: for a single-copy storage the disk takes them as they are. Payload out: WRITE from a
 * buffer of ours, or from the storage's own memory (mem), or (shm) the disk has put it into the
 * client's pages already.
 *
 * A gateway that reconnects retries what it had outstanding. What its former connection left here
 * must be over first: a write that was admitted then could otherwise land after its own retry and
 * after a newer write (DESIGN "Stable payload, late landings, keys"). So a new connection of an
 * instance ends the older ones, and its requests wait until those are closed and drained.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/statistics.h"
#include "target/cluster.h"
#include "target/peer.h"
#include "target/private.h"

/* One gateway connection. Freed when it is closed and nothing of it is in flight. */
struct peer {
    struct sl_list node; /* in target->peers, oldest first */
    struct sl_target *target;
    struct sl_connection *connection; /* NULL once closed */
    uint64_t instance_id;
    unsigned inflight_count;
    bool clear;       /* no older connection of this instance is left */
    bool started;     /* START_STORAGE came: I/O is taken */
    uint32_t node_id; /* of a target that said hello; 0: none did */
};

struct serve {
    struct peer *peer;
    struct sl_received *received;
};

void sl_target_serves_init(struct sl_target *target)
{
    sl_pool_init(&target->serves, sizeof(struct serve), 64, 0);
}

static void peer_release(struct peer *peer)
{
    if (peer->connection != NULL || peer->inflight_count > 0)
        return;
    struct sl_target *target = peer->target;
    sl_list_remove(&peer->node);
    free(peer);
    sl_wait_queue_wake_all(&target->peers_changed, 0);
}

static bool has_older(const struct peer *peer)
{
    for (const struct sl_list *node = peer->target->peers.next; node != &peer->node;
         node = node->next) {
        if (sl_container_of(node, struct peer, node)->instance_id == peer->instance_id)
            return true;
    }
    return false;
}

static void wait_for_older_co(struct peer *peer)
{
    while (!peer->clear) {
        if (!has_older(peer))
            peer->clear = true;
        else
            sl_wait_queue_co(&peer->target->peers_changed);
    }
}

/* ---- answers ---- */

static void reply_init(union sl_capsule *reply, int error)
{
    memset(reply, 0, sizeof(*reply));
    reply->header.type = SL_CAPSULE_REPLY;
    reply->header.length_bytes = sizeof(reply->header);
    reply->header.status = sl_status_from_errno(error);
}

static void answer(struct sl_received *received, int error)
{
    union sl_capsule reply;
    reply_init(&reply, error);
    sl_connection_reply(received, &reply);
}

static void answer_storage(struct peer *peer, struct sl_received *received)
{
    const struct sl_storage *storage = peer->target->storage;
    union sl_capsule reply;
    reply_init(&reply, 0);
    reply.header.length_bytes = sizeof(reply.storage);
    reply.storage.capacity_bytes = storage->info.capacity_bytes;
    reply.storage.block_bytes = SL_BLOCK_BYTES;
    reply.storage.shard_bytes = SL_SHARD_BYTES;
    reply.storage.reactor_count = storage->config.reactor_count;
    reply.storage.transfer_bytes_max = peer->target->cluster != NULL
                                           ? peer->target->cluster->entry_bytes_max
                                           : SL_TRANSFER_BYTES_MAX;
    reply.storage.storage_flags = (storage->info.read_only ? SL_STORAGE_READ_ONLY : 0) |
                                  (peer->target->cluster != NULL ? SL_STORAGE_REPLICATED : 0);
    const uint8_t *id = peer->target->cluster != NULL ? peer->target->cluster->config.cluster_id
                                                      : storage->info.storage_id;
    memcpy(reply.storage.storage_id, id, 16); /* header: identity */
    sl_connection_reply(received, &reply);
}

static void answer_statistics(struct peer *peer, struct sl_received *received)
{
    struct sl_target_statistics now;
    union sl_capsule reply;
    struct sl_capsule_statistics body = {0};
    sl_target_statistics(peer->target, &now);
    reply_init(&reply, 0);
    reply.header.length_bytes = sizeof(body);
    body.header = reply.header;
    body.read_count = now.read_count;
    body.read_bytes = now.read_bytes;
    body.write_count = now.write_count;
    body.write_bytes = now.write_bytes;
    body.error_count = now.error_count;
    body.checksum_error_count = now.checksum_error_count;
    body.injected_count = now.injected_count;
    memcpy(body.copy_bytes, now.copies.bytes, sizeof(body.copy_bytes)); /* header: counters */
    memcpy(body.copy_count, now.copies.count, sizeof(body.copy_count)); /* header: counters */
    memcpy(&reply, &body, sizeof(body));                                /* header: capsule */
    sl_connection_reply(received, &reply);
}

/* ---- I/O ---- */

static int check_pieces(const struct sl_received *received)
{
    const struct sl_capsule_io *io = &received->capsule.io;
    size_t needed = offsetof(struct sl_capsule_io, pieces) +
                    io->io.piece_count * sizeof(struct sl_remote_piece);
    if (io->io.piece_count > SL_REMOTE_PIECES_MAX || io->header.length_bytes < needed)
        return -SL_E_PROTOCOL;
    uint64_t sum = received->payload_bytes;
    for (unsigned i = 0; i < io->io.piece_count; i++)
        sum += io->pieces[i].length_bytes;
    bool has_payload = io->io.opcode == SL_IO_READ || io->io.opcode == SL_IO_WRITE;
    if (received->payload_bytes > 0 && (io->io.opcode != SL_IO_WRITE || io->io.piece_count > 0))
        return -SL_E_PROTOCOL;
    return sum == (has_payload ? io->io.length_bytes : 0) ? 0 : -EINVAL;
}

/* shm: local pointers to the client's pages. The regions are referenced: they stay mapped while the
 * disk is at work, whatever becomes of the client. */
static int map_pieces(const struct sl_received *received, struct sl_span *spans,
                      unsigned *span_count)
{
    const struct sl_capsule_io *io = &received->capsule.io;
    for (*span_count = 0; *span_count < io->io.piece_count; (*span_count)++) {
        struct sl_span *span = &spans[*span_count];
        int error = sl_connection_remote_map(received->connection, &io->pieces[*span_count],
                                             io->io.opcode == SL_IO_READ, span);
        if (error < 0)
            return error;
        sl_region_ref(span->region);
    }
    return 0;
}

static int serve_mapped_co(struct sl_target *target, struct sl_received *received)
{
    const struct sl_io_message *io = &received->capsule.io.io;
    struct sl_span spans[SL_REMOTE_PIECES_MAX];
    unsigned span_count;
    int error = map_pieces(received, spans, &span_count);
    if (error == 0)
        error = sl_target_execute_co(target, io->opcode, io->offset_bytes, spans, span_count,
                                     io->length_bytes);
    for (unsigned i = 0; i < span_count; i++)
        sl_region_unref(spans[i].region);
    return error;
}

static int serve_write_co(struct sl_target *target, struct sl_received *received)
{
    const struct sl_capsule_io *io = &received->capsule.io;
    struct sl_buf *buf = received->payload;
    int error = 0;
    if (buf != NULL)
        sl_buf_ref(buf);
    else
        buf = sl_buf_alloc_co(target->memory, io->io.length_bytes, SL_RESERVE_ADMISSION);
    struct sl_span span = sl_buf_span(buf, 0, io->io.length_bytes);
    if (received->payload == NULL)
        error =
            sl_connection_read_co(received->connection, &span, 1, io->pieces, io->io.piece_count);
    if (error == 0)
        error = sl_target_write_buf_co(target, io->io.offset_bytes, buf, io->io.length_bytes);
    sl_buf_unref(buf);
    return error;
}

/* Answers itself: the reply goes right behind the data. Positive: it was answered. */
static int serve_read_co(struct sl_target *target, struct sl_received *received)
{
    const struct sl_capsule_io *io = &received->capsule.io;
    uint64_t offset_bytes = io->io.offset_bytes;
    uint32_t length_bytes = io->io.length_bytes;
    union sl_capsule reply;
    struct sl_span span;
    reply_init(&reply, 0);
    int error = sl_target_read_borrowed_co(target, offset_bytes, length_bytes, &span);
    if (error == 0) {
        sl_connection_write_reply_co(received, &span, 1, io->pieces, io->io.piece_count, &reply);
        sl_target_read_borrowed_end(target, offset_bytes, length_bytes);
        return 1;
    }
    if (error != -EOPNOTSUPP)
        return error;
    struct sl_buf *buf = sl_buf_alloc_co(target->memory, length_bytes, SL_RESERVE_ADMISSION);
    span = sl_buf_span(buf, 0, length_bytes);
    error = sl_target_execute_co(target, SL_IO_READ, offset_bytes, &span, 1, length_bytes);
    if (error == 0)
        sl_connection_write_reply_co(received, &span, 1, io->pieces, io->io.piece_count, &reply);
    sl_buf_unref(buf);
    return error == 0 ? 1 : error;
}

static int serve_io_co(struct peer *peer, struct sl_received *received)
{
    struct sl_target *target = peer->target;
    const struct sl_io_message *io = &received->capsule.io.io;
    if (!peer->started || target->cluster != NULL)
        return -EBADFD;
    int error = check_pieces(received);
    if (error == 0)
        error = sl_target_check(target, io->opcode, io->offset_bytes, io->length_bytes);
    if (error < 0)
        return error;
    wait_for_older_co(peer);
    /* The connection may have died meanwhile; what it asked for need not be done any more. */
    if (peer->connection == NULL)
        return -ECANCELED;
    if (io->opcode != SL_IO_READ && io->opcode != SL_IO_WRITE)
        return sl_target_execute_co(target, io->opcode, io->offset_bytes, NULL, 0,
                                    io->length_bytes);
    if (sl_connection_maps(received->connection))
        return serve_mapped_co(target, received);
    return io->opcode == SL_IO_WRITE ? serve_write_co(target, received)
                                     : serve_read_co(target, received);
}

static void serve_one_co(struct peer *peer, struct sl_received *received)
{
    struct sl_target_cluster *cluster = peer->target->cluster;
    uint8_t type = received->capsule.header.type;
    int result = 0;
    if (type == SL_CAPSULE_IO)
        result = serve_io_co(peer, received);
    else if (cluster == NULL)
        result = -EOPNOTSUPP;
    else if (type == SL_CAPSULE_GROUP_IO)
        sl_cluster_serve_group_co(cluster, received);
    else if (type == SL_CAPSULE_GROUP_ADMIN)
        sl_cluster_serve_admin_co(cluster, received);
    else
        sl_cluster_serve_raft_co(cluster, received, &peer->node_id);
    if (result < 0 || (result == 0 && type == SL_CAPSULE_IO))
        answer(received, result);
}

static void serve_entry_co(void *argument)
{
    struct serve serve = *(struct serve *)argument;
    struct peer *peer = serve.peer;
    struct sl_target *target = peer->target;
    sl_pool_put(&target->serves, argument);
    serve_one_co(peer, serve.received);
    sl_received_release(serve.received);
    target->statistics.inflight_count--;
    peer->inflight_count--;
    peer_release(peer);
}

static void serve_io(struct peer *peer, struct sl_received *received)
{
    struct sl_target *target = peer->target;
    bool is_io = received->capsule.header.type == SL_CAPSULE_IO;
    if (is_io && received->capsule.header.length_bytes < offsetof(struct sl_capsule_io, pieces)) {
        sl_connection_shutdown(received->connection, -SL_E_PROTOCOL);
        sl_received_release(received);
        return;
    }
    struct serve *serve = sl_pool_get(&target->serves);
    if (serve != NULL) {
        *serve = (struct serve){peer, received};
        if (sl_co_spawn(target->reactor, serve_entry_co, serve) == 0) {
            target->statistics.inflight_count++;
            peer->inflight_count++;
            return;
        }
        sl_pool_put(&target->serves, serve);
    }
    answer(received, -ENOMEM);
    sl_received_release(received);
}

static void peer_received(void *owner, struct sl_received *received)
{
    struct peer *peer = owner;
    switch (received->capsule.header.type) {
    case SL_CAPSULE_IO:
    case SL_CAPSULE_GROUP_IO:
    case SL_CAPSULE_GROUP_ADMIN:
    case SL_CAPSULE_RAFT:
        serve_io(peer, received);
        return;
    case SL_CAPSULE_QUERY_STORAGE:
    case SL_CAPSULE_INIT_STORAGE:
        answer_storage(peer, received);
        break;
    case SL_CAPSULE_START_STORAGE:
        peer->started = true;
        answer(received, 0);
        break;
    case SL_CAPSULE_STOP_STORAGE:
    case SL_CAPSULE_SHUTDOWN:
        peer->started = false;
        answer(received, 0);
        break;
    case SL_CAPSULE_STATISTICS:
        answer_statistics(peer, received);
        break;
    default:
        answer(received, -EOPNOTSUPP);
    }
    sl_received_release(received);
}

/* ---- connections ---- */

static const char *role_name(enum sl_role role)
{
    return role == SL_ROLE_GATEWAY ? "gateway" : role == SL_ROLE_TARGET ? "target" : "tool";
}

static void peer_opened(void *listener_owner, struct sl_connection *connection)
{
    struct sl_target *target = listener_owner;
    const struct sl_peer_info *info = sl_connection_peer(connection);
    struct peer *peer = calloc(1, sizeof(*peer));
    if (peer == NULL) {
        sl_connection_shutdown(connection, -ENOMEM);
        return;
    }
    peer->target = target;
    peer->connection = connection;
    peer->instance_id = info->instance_id;
    sl_list_for_each(node, &target->peers)
    {
        struct peer *older = sl_list_entry(node, struct peer, node);
        if (older->instance_id == peer->instance_id && older->connection != NULL)
            sl_connection_shutdown(older->connection, -ESTALE);
    }
    sl_list_append(&target->peers, &peer->node);
    sl_connection_set_owner(connection, peer);
    sl_log_info("target", "%s %016llx connected from %s to reactor %u", role_name(info->role),
                (unsigned long long)info->instance_id, info->address, target->reactor_index);
}

static void peer_closed(void *owner, struct sl_connection *connection, int reason)
{
    struct peer *peer = owner;
    if (peer == NULL)
        return;
    if (peer->target->cluster != NULL && peer->node_id != 0)
        sl_peer_left(peer->target->cluster, peer->node_id, connection);
    sl_log_info(
        "target", "%s %016llx left reactor %u: %s", role_name(sl_connection_peer(connection)->role),
        (unsigned long long)peer->instance_id, peer->target->reactor_index, sl_error_text(reason));
    peer->connection = NULL;
    peer_release(peer);
}

const struct sl_connection_handlers sl_target_connection_handlers = {
    .opened = peer_opened,
    .received = peer_received,
    .closed = peer_closed,
};
