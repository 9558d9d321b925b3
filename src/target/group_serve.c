/*
 * Group I/O: what gateways ask of a group's leader. Each request is one function, top to bottom.
 *
 *   write: check → payload in → CRCs → proposed → committed, durable here, decided → reply
 *   read:  check → lease or a round, or the leader's word → applied → from overlay or chunk,
 *   verified → WRITE, reply
 *
 * Whether a write applies is the sessions' word at its commit, nowhere else: what a leader knows
 * before may be old.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/log.h"
#include "target/cluster.h"
#include "target/entry_extra.h"
#include "target/follow.h"
#include "target/peer.h"

/* ---- answers ---- */

void sl_cluster_fill_reply(struct sl_target_cluster *cluster, uint32_t group,
                           struct sl_replica *replica, int error, uint64_t epoch,
                           struct sl_capsule_group_reply *reply)
{
    reply->header.type = SL_CAPSULE_REPLY;
    reply->header.length_bytes = sizeof(*reply);
    reply->header.status = sl_status_from_errno(error);
    reply->epoch = epoch;
    if (replica != NULL) {
        struct sl_raft_status status;
        sl_raft_get_status(replica->raft, &status);
        reply->term = status.term.value;
        reply->leader_node = status.leader.id != 0 ? status.leader.node : 0;
    } else if (error == -SL_E_MOVED) {
        reply->leader_node = cluster->config.node; /* another reactor of this node */
    }
    const struct sl_cluster_peer *peer = sl_peer_find(cluster, reply->leader_node);
    if (peer != NULL)
        reply->leader_reactor = sl_peer_reactor(peer, group);
    else
        (void)sl_cluster_is_here(cluster, group, &reply->leader_reactor);
}

void sl_cluster_reply(struct sl_target_cluster *cluster, struct sl_received *received,
                      uint32_t group, struct sl_replica *replica, int error, uint64_t epoch)
{
    union sl_capsule reply = {0};
    sl_cluster_fill_reply(cluster, group, replica, error, epoch, &reply.group_reply);
    sl_connection_reply(received, &reply);
}

/* What the gateway is told of a decided command. */
static int verdict_error(enum sl_verdict verdict, uint8_t opcode)
{
    switch (verdict) {
    case SL_VERDICT_APPLY:
        return 0;
    case SL_VERDICT_DUPLICATE:
        return opcode == SL_GROUP_VOID ? -EEXIST : 0;
    case SL_VERDICT_VOIDED:
        return -SL_E_VOIDED;
    case SL_VERDICT_NO_SESSION:
        return -SL_E_NO_SESSION;
    case SL_VERDICT_FENCED:
        return -SL_E_FENCED;
    case SL_VERDICT_BEYOND:
        return -EBUSY;
    case SL_VERDICT_FULL:
        return -ENOSPC;
    default:
        return -EINVAL;
    }
}

/* ---- checks ---- */

static bool changes_data(uint8_t opcode)
{
    return opcode == SL_IO_WRITE || opcode == SL_IO_DISCARD || opcode == SL_IO_WRITE_ZEROES;
}

static int check_range(const struct sl_replica *replica, const struct sl_group_message *io)
{
    if (io->length_bytes == 0 || io->length_bytes > SL_CHUNK_BYTES ||
        !sl_is_aligned(io->length_bytes | io->offset_bytes, SL_BLOCK_BYTES) ||
        io->offset_bytes % SL_CHUNK_BYTES + io->length_bytes > SL_CHUNK_BYTES)
        return -EINVAL;
    if ((io->opcode == SL_IO_READ || io->opcode == SL_IO_WRITE) &&
        io->length_bytes > SL_TRANSFER_BYTES_MAX)
        return -EINVAL;
    return io->offset_bytes <= replica->size_bytes &&
                   io->length_bytes <= replica->size_bytes - io->offset_bytes
               ? 0
               : -ERANGE;
}

static int check_pieces(const struct sl_received *received)
{
    const struct sl_capsule_group_io *capsule = &received->capsule.group_io;
    size_t needed = offsetof(struct sl_capsule_group_io, pieces) +
                    capsule->io.piece_count * sizeof(struct sl_remote_piece);
    if (capsule->io.piece_count > SL_REMOTE_PIECES_MAX || capsule->header.length_bytes < needed)
        return -SL_E_PROTOCOL;
    uint64_t sum = received->payload_bytes;
    for (unsigned i = 0; i < capsule->io.piece_count; i++)
        sum += capsule->pieces[i].length_bytes;
    bool has_payload = capsule->io.opcode == SL_IO_READ || capsule->io.opcode == SL_IO_WRITE;
    if (received->payload_bytes > 0 &&
        (capsule->io.opcode != SL_IO_WRITE || capsule->io.piece_count > 0))
        return -SL_E_PROTOCOL;
    return sum == (has_payload ? capsule->io.length_bytes : 0) ? 0 : -EINVAL;
}

static int check(const struct sl_replica *replica, const struct sl_received *received)
{
    const struct sl_group_message *io = &received->capsule.group_io.io;
    bool numbered = changes_data(io->opcode) || io->opcode == SL_GROUP_VOID;
    int error = check_pieces(received);
    if (error < 0)
        return error;
    if (numbered && (io->sequence == 0 || io->unfinished >= SL_SESSION_WINDOW ||
                     io->unfinished >= io->sequence))
        return -EINVAL;
    if (io->opcode == SL_IO_READ || changes_data(io->opcode))
        return check_range(replica, io);
    return 0;
}

/* ---- writes and sessions ---- */

static void fill_command(const struct sl_group_message *io, struct sl_command *command)
{
    static const enum sl_command_kind kinds[] = {
        [SL_GROUP_SESSION_OPEN] = SL_COMMAND_OPEN,
        [SL_GROUP_SESSION_CLOSE] = SL_COMMAND_CLOSE,
        [SL_GROUP_VOID] = SL_COMMAND_VOID,
        [SL_GROUP_ATTACH] = SL_COMMAND_ATTACH,
    };
    bool data = changes_data(io->opcode);
    bool numbered = data || io->opcode == SL_GROUP_VOID;
    bool attached = data || io->opcode == SL_GROUP_ATTACH;
    *command = (struct sl_command){
        .kind = data ? SL_COMMAND_WRITE : kinds[io->opcode],
        .session = io->opcode == SL_GROUP_ATTACH ? 0 : io->session,
        .sequence = numbered ? io->sequence : 0,
        .lowest = numbered ? io->sequence - io->unfinished : 0,
        .volume = attached ? io->volume : 0,
        .epoch = attached ? io->epoch : 0,
    };
}

/* Taken from the client's memory once, into the buffer from which it goes everywhere. */
static int take_payload_co(struct sl_target_cluster *cluster, struct sl_received *received,
                           struct sl_iobuf *payload)
{
    const struct sl_capsule_group_io *capsule = &received->capsule.group_io;
    uint32_t length = capsule->io.length_bytes;
    struct sl_buf *buf = received->payload;
    int error = 0;
    if (buf != NULL) {
        sl_buf_ref(buf);
    } else {
        buf = sl_buf_alloc_co(cluster->target->memory, length, SL_RESERVE_ADMISSION);
        if (buf == NULL)
            return -ENOMEM;
        struct sl_span span = sl_buf_span(buf, 0, length);
        error = sl_connection_read_co(received->connection, &span, 1, capsule->pieces,
                                      capsule->io.piece_count);
    }
    if (error == 0)
        error = sl_iobuf_append_buf(payload, buf, 0, length);
    sl_buf_unref(buf);
    return error;
}

static int propose_co(struct sl_replica *replica, struct sl_received *received,
                      const struct sl_iobuf *payload, struct sl_proposal *proposal)
{
    const struct sl_group_message *io = &received->capsule.group_io.io;
    uint8_t extra[SL_ENTRY_EXTRA_MAX];
    struct sl_command command;
    struct sl_store_entry entry = {.type = SL_ENTRY_NOOP, .extra = extra};
    uint32_t blocks = io->length_bytes / SL_BLOCK_BYTES;
    uint32_t *crcs = NULL;
    fill_command(io, &command);
    entry.extra_bytes = (uint16_t)sl_entry_extra_put_command(extra, &command);
    if (changes_data(io->opcode)) {
        entry.type = io->opcode == SL_IO_WRITE ? SL_ENTRY_WRITE : SL_ENTRY_ZERO;
        entry.chunk = (uint32_t)(io->offset_bytes / SL_CHUNK_BYTES);
        entry.first_block = (uint16_t)(io->offset_bytes % SL_CHUNK_BYTES / SL_BLOCK_BYTES);
        entry.block_count = (uint16_t)blocks;
    }
    if (io->opcode == SL_IO_WRITE) {
        crcs = malloc(blocks * sizeof(*crcs));
        if (crcs == NULL)
            return -ENOMEM;
        sl_crc32c_blocks(payload->spans[0].data, blocks, crcs);
        entry.crcs = crcs;
    }
    int error = sl_replica_propose_co(replica, &entry, payload, proposal);
    free(crcs);
    return error;
}

static int serve_command_co(struct sl_replica *replica, struct sl_received *received,
                            uint64_t *epoch)
{
    const struct sl_group_message *io = &received->capsule.group_io.io;
    struct sl_target_statistics *statistics = &replica->cluster->target->statistics;
    struct sl_proposal proposal = {0};
    struct sl_iobuf payload;
    sl_iobuf_init(&payload);
    int error = 0;
    if (io->opcode == SL_IO_WRITE)
        error = take_payload_co(replica->cluster, received, &payload);
    if (error == 0 && io->opcode == SL_GROUP_SESSION_OPEN)
        error = sl_replica_session_room_co(replica);
    if (error == 0)
        error = propose_co(replica, received, payload.span_count > 0 ? &payload : NULL, &proposal);
    sl_iobuf_fini(&payload);
    if (error == 0) {
        error = verdict_error(proposal.verdict, io->opcode);
        *epoch = proposal.epoch;
        statistics->write_count += io->opcode == SL_IO_WRITE;
        statistics->write_bytes += io->opcode == SL_IO_WRITE ? io->length_bytes : 0;
        statistics->discard_count += changes_data(io->opcode) && io->opcode != SL_IO_WRITE;
    }
    return error == -ESHUTDOWN || error == -EAGAIN || error == -EIO ? -SL_E_MOVED : error;
}

/* ---- reads ---- */

/* The blocks, of a version that the barrier allows. A follower's may not be overwritten by a resync
 * meanwhile: that waits. */
static int read_blocks_co(struct sl_replica *replica, const struct sl_group_message *io,
                          struct sl_iobuf *data)
{
    uint32_t chunk = (uint32_t)(io->offset_bytes / SL_CHUNK_BYTES);
    uint16_t first_block = (uint16_t)(io->offset_bytes % SL_CHUNK_BYTES / SL_BLOCK_BYTES);
    uint16_t block_count = (uint16_t)(io->length_bytes / SL_BLOCK_BYTES);
    if (replica->copying != 0)
        return -SL_E_MOVED;
    replica->reader_count++;
    int error = sl_store_read_co(replica->log, chunk, first_block, block_count, data);
    int bad = error;
    if (error == -SL_E_CHECKSUM || error == -EIO)
        error = sl_replica_repair_co(replica, chunk, first_block, block_count, 0, data);
    if (--replica->reader_count == 0 && replica->copying != 0)
        sl_wait_queue_wake_all(&replica->progress, 0);
    return error == -SL_E_CHECKSUM ? bad : error;
}

/* Answers itself. Positive: it was answered. */
static int serve_read_co(struct sl_replica *replica, struct sl_received *received, bool is_leader)
{
    const struct sl_capsule_group_io *capsule = &received->capsule.group_io;
    const struct sl_group_message *io = &capsule->io;
    struct sl_target_cluster *cluster = replica->cluster;
    union sl_capsule reply = {0};
    struct sl_iobuf data;
    sl_iobuf_init(&data);
    int error = is_leader ? sl_replica_read_barrier_co(replica) : sl_follow_barrier_co(replica);
    if (error == 0)
        error = read_blocks_co(replica, io, &data);
    if (error == 0) {
        sl_cluster_fill_reply(cluster, io->group, replica, 0, 0, &reply.group_reply);
        (void)sl_connection_write_reply_co(received, data.spans, data.span_count, capsule->pieces,
                                           io->piece_count, &reply);
        cluster->target->statistics.read_count++;
        cluster->target->statistics.follower_read_count += !is_leader;
        cluster->target->statistics.read_bytes += io->length_bytes;
    }
    sl_iobuf_fini(&data);
    if (error == -ESHUTDOWN || error == -EAGAIN)
        error = -SL_E_MOVED;
    return error == 0 ? 1 : error;
}

/* ---- all of them ---- */

static int serve_co(struct sl_replica *replica, struct sl_received *received, uint64_t *epoch)
{
    const struct sl_group_message *io = &received->capsule.group_io.io;
    struct sl_raft_status status;
    int error = check(replica, received);
    if (error < 0)
        return error;
    sl_raft_get_status(replica->raft, &status);
    bool is_leader = status.role == SL_RAFT_LEADER;
    bool anywhere = io->opcode == SL_IO_READ && (io->flags & SL_GROUP_ANY_REPLICA) != 0;
    if (!is_leader && !anywhere)
        return -SL_E_MOVED;
    switch (io->opcode) {
    case SL_IO_READ:
        return serve_read_co(replica, received, is_leader);
    case SL_IO_FLUSH:
        return 0; /* what was acknowledged is durable */
    case SL_IO_WRITE:
    case SL_IO_DISCARD:
    case SL_IO_WRITE_ZEROES:
    case SL_GROUP_SESSION_OPEN:
    case SL_GROUP_SESSION_CLOSE:
    case SL_GROUP_VOID:
    case SL_GROUP_ATTACH:
        return serve_command_co(replica, received, epoch);
    default:
        return -EOPNOTSUPP;
    }
}

void sl_cluster_serve_group_co(struct sl_target_cluster *cluster, struct sl_received *received)
{
    const struct sl_group_message *io = &received->capsule.group_io.io;
    struct sl_replica *replica = sl_cluster_find(cluster, io->group);
    uint64_t epoch = 0;
    uint32_t reactor;
    int error;
    if (received->capsule.header.length_bytes < offsetof(struct sl_capsule_group_io, pieces))
        error = -SL_E_PROTOCOL;
    else if (cluster->closing)
        error = -SL_E_MOVED; /* somebody else will lead */
    else if (replica != NULL)
        error = serve_co(replica, received, &epoch);
    else
        error = sl_cluster_is_here(cluster, io->group, &reactor) ? -ENOENT : -SL_E_MOVED;
    if (error < 0) {
        cluster->target->statistics.error_count += error != -SL_E_MOVED;
        cluster->target->statistics.moved_count += error == -SL_E_MOVED;
    }
    if (error <= 0)
        sl_cluster_reply(cluster, received, io->group, replica, error, epoch);
}
