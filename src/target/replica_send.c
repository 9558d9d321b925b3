/*
 * Messages of a replica to others. Entries go in the form of the log: a single small one in the
 * capsule with its payload right behind, others as a page of records whose payload the follower
 * READs out of the very buffers in which it came here. Those stay referenced until the REPLY, or
 * the end of the connection.
 *
 * While a member has not answered some of them, what comes is put together: a message costs both
 * sides more than an entry does.
 *
 * A message that cannot be sent is lost: the core repeats what matters.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "target/cluster.h"
#include "target/entry_extra.h"
#include "target/peer.h"

/* Spans of the payload of one message that is READ: their pieces share a page with the records. */
#define PIECES_MAX 64u
/* To a member that has not answered so many. */
#define BEATS_MAX  2u
#define PIECE_ROOM (PIECES_MAX * sizeof(struct sl_remote_piece))

/* One capsule on its way. */
struct raft_call {
    struct sl_replica *replica;
    unsigned *unanswered; /* of the lane: calls or beats; NULL: not counted */
    uint64_t generation;  /* the lane's, then */
    struct sl_lane *lane;
    struct sl_connection *connection; /* referenced */
    union sl_capsule capsule, reply;
    struct sl_buf *page; /* of records and pieces, or NULL */
    struct sl_span span; /* what follows the capsule */
    unsigned span_count;
    unsigned config_count;
    unsigned owner_count;
    struct sl_buf *owners[PIECES_MAX];
    struct sl_remote_piece pieces[PIECES_MAX]; /* wire.piece_count of them */
};

/* An APPEND whose entries are still to be collected. */
struct append_job {
    struct sl_replica *replica;
    struct sl_lane *lane;
    struct sl_raft_message message;
    uint64_t generation; /* the lane's, then */
};

static struct raft_call *call_make(struct sl_replica *replica, uint32_t node)
{
    struct sl_connection *connection = sl_peer_of_group(replica->cluster, node, replica->group);
    struct raft_call *call = connection != NULL ? calloc(1, sizeof(*call)) : NULL;
    if (call == NULL)
        return NULL;
    sl_connection_ref(connection);
    call->connection = connection;
    call->replica = replica;
    return call;
}

static void call_count(struct raft_call *call, struct sl_lane *lane, unsigned *unanswered)
{
    call->lane = lane;
    call->generation = lane->generation;
    call->unanswered = unanswered;
    ++*unanswered;
}

static void call_free(struct raft_call *call)
{
    /* The lane may be another member's by now, or of another term. */
    if (call->unanswered != NULL && call->lane->generation == call->generation) {
        --*call->unanswered;
        (void)sl_wait_queue_wake_all(&call->lane->answers, 0);
    }
    for (unsigned i = 0; i < call->owner_count; i++)
        sl_buf_unref(call->owners[i]);
    sl_buf_unref(call->page);
    sl_connection_unref(call->connection);
    free(call);
}

static void call_entry_co(void *argument)
{
    struct raft_call *call = argument;
    struct sl_replica *replica = call->replica;
    const struct sl_raft_wire *wire = &((struct sl_capsule_raft *)(void *)&call->reply)->wire;
    int error = sl_connection_call_co(call->connection, &call->capsule, &call->span,
                                      call->span_count, &call->reply);
    if (error == 0 && call->reply.header.status == 0 &&
        call->reply.header.length_bytes >= offsetof(struct sl_capsule_raft, records) &&
        wire->op == SL_RAFT_OP_MESSAGE && wire->kind != SL_RAFT_APPEND &&
        wire->group == replica->group) {
        struct sl_raft_message message;
        struct sl_raft_event event = {.kind = SL_RAFT_MESSAGE, .message.message = &message};
        sl_raft_wire_get(wire, &message);
        /* The buffers before the step: it may take a while. */
        call_free(call);
        (void)sl_replica_event_co(replica, &event);
    } else {
        call_free(call);
    }
    sl_cluster_leave(replica->cluster);
}

static void call_start(struct raft_call *call, const struct sl_raft_message *message,
                       uint32_t length_bytes)
{
    call->capsule.header.type = SL_CAPSULE_RAFT;
    call->capsule.header.length_bytes = (uint16_t)length_bytes;
    if (sl_cluster_spawn(call->replica->cluster, call_entry_co, call) < 0)
        call_free(call);
}

/* ---- entries ---- */

/* Adds entry `index` to the call's page; its payload's buffers and pieces. 1: it does not fit. */
static int add_entry_co(struct raft_call *call, struct sl_raft_wire *wire, uint64_t index,
                        uint64_t term)
{
    struct sl_replica *replica = call->replica;
    struct sl_store_entry entry = {0};
    struct sl_iobuf payload;
    sl_iobuf_init(&payload);
    /* It may have to come from the disk; until it is here the log may have been cut. */
    int error = sl_store_entry_read_co(replica->log, index, &payload);
    if (error == 0)
        error = sl_store_entry_get(replica->log, index, &entry);
    if (error == 0 && entry.term != term)
        error = -ENOENT;
    struct sl_record record = {
        .head = {.type = entry.type,
                 .chunk = entry.chunk,
                 .group = replica->group,
                 .index = index,
                 .term = entry.term},
        .first_block = entry.first_block,
        .block_count = entry.block_count,
        .extra_bytes = entry.extra_bytes,
        .crcs = (const uint8_t *)entry.crcs,
        .extra = entry.extra,
    };
    uint32_t room = SL_BLOCK_BYTES - (uint32_t)PIECE_ROOM - wire->record_bytes;
    uint32_t bytes = 0;
    if (error == 0)
        bytes = sl_record_encode(call->page->data + wire->record_bytes, room, &record);
    bool is_config = error == 0 && sl_entry_extra_is_config(entry.extra, entry.extra_bytes);
    if (error == 0 && (bytes == 0 || (is_config && call->config_count == SL_RAFT_MEMBERS_MAX) ||
                       wire->payload_bytes + payload.length_bytes > SL_TRANSFER_BYTES_MAX ||
                       wire->piece_count + payload.span_count > PIECES_MAX))
        error = 1;
    for (unsigned i = 0; i < payload.span_count && error == 0; i++) {
        const struct sl_span *span = &payload.spans[i];
        error = sl_fabric_describe(replica->cluster->fabric, span->region, span->data,
                                   span->length_bytes, &call->pieces[wire->piece_count]);
        if (error < 0)
            break;
        call->owners[call->owner_count++] = sl_buf_ref(payload.owners[i]);
        wire->piece_count++;
        call->span = *span;
    }
    if (error == 0) {
        wire->record_bytes += bytes;
        wire->payload_bytes += payload.length_bytes;
        wire->count++;
        call->config_count += is_config;
    }
    sl_iobuf_fini(&payload);
    return error;
}

/* As many of the message's entries as one capsule takes; cuts them off its front. */
static int fill_co(struct raft_call *call, struct sl_raft_message *message)
{
    struct sl_capsule_raft *capsule = (void *)&call->capsule;
    struct sl_raft_wire *wire = &capsule->wire;
    struct sl_memory *memory = call->replica->cluster->target->memory;
    call->page = sl_buf_alloc_co(memory, SL_BLOCK_BYTES, SL_RESERVE_CHECKPOINT);
    if (call->page == NULL)
        return -ENOMEM;
    memset(call->page->data, 0, SL_BLOCK_BYTES);
    sl_raft_wire_put(wire, call->replica->group, message);
    wire->count = 0;
    int error = 0;
    while (wire->count < message->count && error == 0) {
        uint64_t index = message->index.value + wire->count + 1;
        /* With what is there it can go; waiting for more it would keep that from the others. */
        if (wire->count > 0 && sl_store_entry_needs_memory(call->replica->log, index))
            break;
        error = add_entry_co(call, wire, index, message->entry_term.value);
    }
    if (error < 0 || wire->count == 0)
        return error < 0 ? error : -EMSGSIZE;
    message->index.value += wire->count;
    message->index_term = message->entry_term;
    message->count -= wire->count;
    uint32_t length = offsetof(struct sl_capsule_raft, records);
    if (wire->count == 1 && wire->record_bytes <= sizeof(capsule->records) &&
        wire->piece_count <= 1 &&
        wire->payload_bytes <= sl_connection_peer(call->connection)->in_capsule_bytes) {
        memcpy(capsule->records, call->page->data, wire->record_bytes); /* header: record */
        length += wire->record_bytes;
        call->span_count = wire->piece_count;
        wire->piece_count = 0;
        sl_buf_unref(call->page);
        call->page = NULL;
    } else {
        memcpy(call->page->data + sl_align_up(wire->record_bytes, 8), /* header: pieces */
               call->pieces, wire->piece_count * sizeof(call->pieces[0]));
        call->span = sl_buf_span(call->page, 0, SL_BLOCK_BYTES);
        call->span_count = 1;
    }
    return (int)length;
}

static void append_entry_co(void *argument)
{
    struct append_job *job = argument;
    struct sl_replica *replica = job->replica;
    struct sl_target_cluster *cluster = replica->cluster;
    struct sl_lane *lane = job->lane;
    /* One after the other to each member: entries that are out of order are refused there. */
    if (lane->busy)
        sl_wait_queue_co(&lane->waiters); /* handed over: it stays busy */
    lane->busy = true;
    /* What waited too long for its lane is no longer of use: the core repeats what matters. */
    while (job->message.count > 0 && job->generation == lane->generation && !cluster->closing) {
        /* Who is so far behind that it is fed from the disk needs all that is allowed at once. */
        if (lane->calls >= SL_LANE_CALLS_MAX &&
            sl_store_entry_in_memory(replica->log, job->message.index.value + 1)) {
            sl_wait_queue_co(&lane->answers);
            continue;
        }
        struct raft_call *call = call_make(replica, job->message.to.node);
        if (call == NULL)
            break;
        call_count(call, lane, &lane->calls);
        int length = fill_co(call, &job->message);
        if (length < 0) {
            call_free(call);
            break;
        }
        call_start(call, &job->message, (uint32_t)length);
    }
    lane->newest = lane->newest == job ? NULL : lane->newest;
    lane->jobs--;
    if (!sl_wait_queue_wake_one(&lane->waiters, 0))
        lane->busy = false;
    free(job);
    sl_cluster_leave(cluster);
}

/* Whether these very entries wait in the lane already, or for their answer. The core sends again
 * what was not answered in time; but what has to come from the disk, or waits for room over there,
 * may just be slow, and the second time would not be faster: without this the lane of a member that
 * is far behind, and our memory, would fill with the same entries. What is lost ends its call. */
static bool is_under_way(const struct sl_lane *lane, const struct sl_raft_message *message)
{
    bool sent = lane->calls > 0 && message->index.value >= lane->from;
    return (lane->jobs > 0 || sent) && message->index.value + message->count <= lane->last;
}

static void send_alone(struct sl_replica *replica, const struct sl_raft_message *message,
                       struct sl_lane *lane)
{
    struct raft_call *call = call_make(replica, message->to.node);
    if (call == NULL)
        return;
    if (lane != NULL)
        call_count(call, lane, &lane->beats);
    sl_raft_wire_put(&((struct sl_capsule_raft *)(void *)&call->capsule)->wire, replica->group,
                     message);
    call_start(call, message, offsetof(struct sl_capsule_raft, records));
}

/* In the place of entries that are under way: the member may wait for what it says, that its leader
 * is there, and what is committed. */
static void send_beat(struct sl_replica *replica, const struct sl_raft_message *message,
                      struct sl_lane *lane)
{
    struct sl_raft_message beat = *message;
    beat.count = 0;
    if (lane->beats < BEATS_MAX)
        send_alone(replica, &beat, lane);
}

/* The entries that follow those of a message which has not left: one message. Its claims are the
 * newer one's. */
static bool join(struct append_job *job, const struct sl_raft_message *message)
{
    struct sl_raft_message *older = &job->message;
    uint64_t count = (uint64_t)older->count + message->count;
    if (older->entry_term.value != message->entry_term.value ||
        older->index.value + older->count != message->index.value || count > UINT32_MAX)
        return false;
    struct sl_raft_message joined = *message;
    joined.index = older->index;
    joined.index_term = older->index_term;
    joined.count = (uint32_t)count;
    *older = joined;
    return true;
}

static void send_append(struct sl_replica *replica, const struct sl_raft_message *message)
{
    int slot = sl_raft_config_find(sl_raft_get_config(replica->raft), message->to.id);
    struct sl_lane *lane = &replica->lanes[slot < 0 ? 0 : slot];
    uint64_t index = message->index.value;
    if (lane->to != message->to.id || lane->term != message->term.value) {
        lane->generation++;
        lane->to = message->to.id;
        lane->term = message->term.value;
        lane->from = index;
        lane->last = index;
        lane->calls = 0;
        lane->beats = 0;
        lane->newest = NULL;
        (void)sl_wait_queue_wake_all(&lane->answers, 0);
    }
    if (is_under_way(lane, message)) {
        send_beat(replica, message, lane);
        return;
    }
    if (lane->newest != NULL && join(lane->newest, message)) {
        lane->last = index + message->count;
        return;
    }
    struct append_job *job = malloc(sizeof(*job));
    if (job == NULL)
        return;
    *job = (struct append_job){replica, lane, *message, lane->generation};
    if (sl_cluster_spawn(replica->cluster, append_entry_co, job) < 0) {
        free(job);
        return;
    }
    bool anew = lane->jobs + lane->calls == 0 || index < lane->from;
    lane->from = anew ? index : lane->from;
    lane->last = index + message->count;
    lane->newest = job;
    lane->jobs++;
}

void sl_replica_send(struct sl_replica *replica, const struct sl_raft_message *message)
{
    if (replica->cluster->closing)
        return;
    if (message->kind == SL_RAFT_APPEND && message->count > 0) {
        send_append(replica, message);
        return;
    }
    send_alone(replica, message, NULL);
}
