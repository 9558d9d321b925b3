/*
 * What other targets send: hello, messages of groups, heartbeats. An APPEND's entries are checked
 * against their CRCs before they are logged, whatever their way here; they go to log and chunk from
 * the buffer into which they were received. Its REPLY carries the follower's answer, and goes when
 * the entries are durable.
 *
 * Everything here is a peer's word: what does not add up is refused, never asserted.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/log.h"
#include "target/cluster.h"
#include "target/compare.h"
#include "target/entry_extra.h"
#include "target/follow.h"
#include "target/peer.h"
#include "target/resync_capsule.h"

/* Entries of one APPEND: as many records as a page has room for. */
#define INTAKE_ENTRIES_MAX (SL_BLOCK_BYTES / sizeof(struct sl_record_entry))
#define INTAKE_PIECES_MAX  (SL_BLOCK_BYTES / sizeof(struct sl_remote_piece))

/* The entries of an APPEND on their way into the log. */
struct intake {
    struct sl_replica *replica;
    struct sl_received *received;
    const struct sl_raft_wire *wire;
    const uint8_t *records; /* in the capsule, or in its page */
    struct sl_buf *payload; /* referenced; NULL: none */
    unsigned prepared;
    unsigned config_count;
    struct sl_raft_config configs[SL_RAFT_MEMBERS_MAX];
    struct sl_store_entry *entries;
    struct sl_iobuf *payloads;
};

static int refuse(const struct intake *intake, const char *why)
{
    sl_log_warn("raft", "group %u: entries from node %u are refused: %s", intake->wire->group,
                intake->wire->from_node, why);
    return -SL_E_PROTOCOL;
}

/* Where the records are, and whether the lengths can be true. */
static int find_records(struct intake *intake)
{
    const struct sl_capsule_raft *capsule = (const void *)&intake->received->capsule;
    const struct sl_raft_wire *wire = intake->wire;
    uint32_t fixed = offsetof(struct sl_capsule_raft, records);
    if (wire->count > INTAKE_ENTRIES_MAX || wire->payload_bytes > SL_TRANSFER_BYTES_MAX ||
        !sl_is_aligned(wire->payload_bytes, SL_BLOCK_BYTES) || wire->record_bytes == 0)
        return refuse(intake, "more than fit into a message");
    if (capsule->header.length_bytes > fixed) {
        intake->records = capsule->records;
        return capsule->header.length_bytes == fixed + wire->record_bytes &&
                       wire->piece_count == 0 &&
                       intake->received->payload_bytes == wire->payload_bytes
                   ? 0
                   : refuse(intake, "lengths that do not add up");
    }
    if (intake->received->payload_bytes != SL_BLOCK_BYTES || wire->record_bytes > SL_BLOCK_BYTES ||
        wire->piece_count > INTAKE_PIECES_MAX ||
        sl_align_up(wire->record_bytes, 8) + wire->piece_count * sizeof(struct sl_remote_piece) >
            SL_BLOCK_BYTES ||
        (wire->payload_bytes > 0) != (wire->piece_count > 0))
        return refuse(intake, "lengths that do not add up");
    intake->records = intake->received->payload->data;
    return 0;
}

static int take_record(struct intake *intake, unsigned at, const struct sl_record *record)
{
    const struct sl_raft_wire *wire = intake->wire;
    struct sl_entry_extra extra;
    if (record->head.group != wire->group || record->head.index != wire->index + at + 1 ||
        record->head.term != wire->entry_term)
        return refuse(intake, "a record of another group, index or term");
    if (record->head.type > SL_ENTRY_ZERO)
        return refuse(intake, "an entry of a type that no group has");
    if ((uint64_t)record->head.chunk * SL_CHUNK_BYTES +
            (uint64_t)(record->first_block + record->block_count) * SL_BLOCK_BYTES >
        intake->replica->size_bytes)
        return refuse(intake, "blocks beyond the end of the group");
    const char *why =
        sl_entry_extra_get(record->extra, record->extra_bytes, record->head.index, &extra);
    if (why != NULL)
        return refuse(intake, why);
    if (extra.kind == SL_EXTRA_CONFIG) {
        if (intake->config_count == SL_RAFT_MEMBERS_MAX)
            return refuse(intake, "more configurations than a message has");
        intake->configs[intake->config_count++] = extra.config;
    }
    intake->entries[at] = (struct sl_store_entry){
        .type = record->head.type,
        .chunk = record->head.chunk,
        .first_block = record->first_block,
        .block_count = record->block_count,
        .extra_bytes = record->extra_bytes,
        .extra = record->extra,
        .crcs = (const void *)record->crcs,
    };
    return 0;
}

static int parse_records(struct intake *intake)
{
    const struct sl_raft_wire *wire = intake->wire;
    uint32_t offset = 0;
    uint64_t blocks = 0;
    intake->entries = calloc(wire->count, sizeof(*intake->entries));
    intake->payloads = calloc(wire->count, sizeof(*intake->payloads));
    if (intake->entries == NULL || intake->payloads == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < wire->count; i++) {
        struct sl_record record;
        const char *why =
            sl_record_decode(intake->records + offset, wire->record_bytes - offset, &record);
        if (why != NULL)
            return refuse(intake, why);
        int error = take_record(intake, i, &record);
        if (error < 0)
            return error;
        blocks += sl_entry_has_payload(record.head.type) ? record.block_count : 0;
        offset += record.head.bytes;
    }
    return offset == wire->record_bytes && blocks * SL_BLOCK_BYTES == wire->payload_bytes
               ? 0
               : refuse(intake, "records that do not add up");
}

/* Into memory of ours, at the place from which it is logged. */
static int take_payload_co(struct intake *intake)
{
    const struct sl_raft_wire *wire = intake->wire;
    struct sl_received *received = intake->received;
    if (wire->payload_bytes == 0)
        return 0;
    if (wire->piece_count == 0) {
        intake->payload = sl_buf_ref(received->payload);
        return 0;
    }
    intake->payload = sl_buf_alloc_co(intake->replica->cluster->target->memory, wire->payload_bytes,
                                      SL_RESERVE_INTAKE);
    if (intake->payload == NULL)
        return -ENOMEM;
    struct sl_span span = sl_buf_span(intake->payload, 0, wire->payload_bytes);
    const void *pieces = intake->records + sl_align_up(wire->record_bytes, 8);
    return sl_connection_read_co(received->connection, &span, 1, pieces, wire->piece_count);
}

/* Cuts the payload into that of each entry, and compares each block with its CRC. */
static int share_payload(struct intake *intake)
{
    uint32_t offset = 0;
    for (unsigned i = 0; i < intake->wire->count; i++) {
        const struct sl_store_entry *entry = &intake->entries[i];
        if (!sl_entry_has_payload(entry->type))
            continue;
        for (unsigned k = 0; k < entry->block_count; k++) {
            uint32_t crc;
            memcpy(&crc, (const uint8_t *)entry->crcs + k * sizeof(crc), /* header: CRC */
                   sizeof(crc));
            if (sl_crc32c(0, intake->payload->data + offset + k * SL_BLOCK_BYTES, SL_BLOCK_BYTES) !=
                crc)
                return refuse(intake, "a block that fails its checksum");
        }
        uint32_t length = entry->block_count * SL_BLOCK_BYTES;
        int error = sl_iobuf_append_buf(&intake->payloads[i], intake->payload, offset, length);
        if (error < 0)
            return error;
        offset += length;
    }
    return 0;
}

/* In the order of arrival. */
static int prepare_co(struct intake *intake)
{
    for (; intake->prepared < intake->wire->count; intake->prepared++) {
        const struct sl_store_entry *entry = &intake->entries[intake->prepared];
        int error = sl_store_prepare_co(intake->replica->log, entry->type, entry->chunk,
                                        entry->first_block, entry->block_count);
        if (error < 0 && !intake->replica->cluster->closing)
            sl_log_error("raft", "group %u: an entry from node %u finds no room: %s (%s)",
                         intake->wire->group, intake->wire->from_node, sl_error_text(error),
                         sl_error_name(error));
        if (error < 0)
            return error;
    }
    return 0;
}

static void intake_end(struct intake *intake, const struct sl_replica_step *step)
{
    for (unsigned i = 0; i < intake->prepared; i++) {
        uint64_t index = intake->wire->index + 1 + i;
        if (step->written_first == 0 || index < step->written_first || index > step->written_last)
            sl_store_unprepare(intake->replica->log, intake->entries[i].type,
                               intake->entries[i].block_count);
    }
    for (unsigned i = 0; intake->payloads != NULL && i < intake->wire->count; i++)
        sl_iobuf_fini(&intake->payloads[i]);
    sl_buf_unref(intake->payload);
    free(intake->entries);
    free(intake->payloads);
}

static int append_co(struct sl_replica *replica, struct sl_received *received,
                     struct sl_carrier *carrier)
{
    struct intake intake = {.replica = replica, .received = received};
    struct sl_replica_step step = {.carrier = carrier};
    struct sl_raft_message message;
    intake.wire = &((const struct sl_capsule_raft *)(const void *)&received->capsule)->wire;
    sl_raft_wire_get(intake.wire, &message);
    uint64_t turn = sl_replica_turn_take(replica);
    int error = find_records(&intake);
    if (error == 0)
        error = parse_records(&intake);
    if (error == 0)
        error = take_payload_co(&intake);
    if (error == 0)
        error = share_payload(&intake);
    sl_replica_turn_wait_co(replica, turn);
    if (error == 0)
        error = prepare_co(&intake);
    if (error == 0) {
        struct sl_raft_event event = {
            .kind = SL_RAFT_MESSAGE,
            .message = {&message, intake.configs, intake.config_count, intake.wire->payload_bytes}};
        step.entries = intake.entries;
        step.payloads = intake.payloads;
        step.entry_count = message.count;
        step.first_index = message.index.value + 1;
        step.has_turn = true;
        error = sl_replica_step_co(replica, &event, &step);
    } else {
        sl_replica_turn_pass(replica);
    }
    intake_end(&intake, &step);
    /* A checkpoint, or another group's write, has failed: nothing is taken here any more. */
    if (error < 0 && sl_store_failed(replica->store) != 0)
        sl_cluster_store_failed_co(replica);
    return error;
}

/* ---- messages ---- */

static void reply_message(struct sl_received *received, uint32_t group,
                          const struct sl_carrier *carrier, int error)
{
    union sl_capsule reply = {0};
    struct sl_capsule_raft *body = (void *)&reply;
    reply.header.type = SL_CAPSULE_REPLY;
    reply.header.length_bytes = offsetof(struct sl_capsule_raft, records);
    reply.header.status = sl_status_from_errno(error);
    if (carrier->set) {
        reply.header.status = SL_STATUS_OK;
        sl_raft_wire_put(&body->wire, group, &carrier->message);
    }
    sl_connection_reply(received, &reply);
}

static void serve_message_co(struct sl_target_cluster *cluster, struct sl_received *received,
                             uint32_t node)
{
    const struct sl_raft_wire *wire =
        &((const struct sl_capsule_raft *)(const void *)&received->capsule)->wire;
    struct sl_carrier carrier = {.node = node};
    struct sl_raft_message message;
    uint32_t reactor;
    int error = 0;
    sl_raft_wire_get(wire, &message);
    struct sl_replica *replica = sl_cluster_find(cluster, wire->group);
    if (wire->from_node != node || wire->to_node != cluster->config.node) {
        sl_log_warn("raft", "group %u: a message from node %u in the name of node %u is refused",
                    wire->group, node, wire->from_node);
        error = -SL_E_PROTOCOL;
    } else if (replica == NULL && !sl_cluster_is_here(cluster, wire->group, &reactor)) {
        error = -SL_E_MOVED;
    } else if (replica == NULL) {
        /* Never made here, or lost with its disk: the sender must know, and nothing else happens.
         */
        carrier.set = message.kind == SL_RAFT_APPEND || message.kind == SL_RAFT_VOTE;
        sl_raft_answer_stranger(&message, &carrier.message);
        error = -ENOENT;
    } else if (replica->failed) {
        error = -EIO;
    } else if (message.kind == SL_RAFT_APPEND && message.count > 0) {
        error = append_co(replica, received, &carrier);
    } else {
        struct sl_replica_step step = {.carrier = &carrier};
        struct sl_raft_event event = {.kind = SL_RAFT_MESSAGE, .message.message = &message};
        error = sl_replica_step_co(replica, &event, &step);
    }
    reply_message(received, wire->group, &carrier, error);
}

static void serve_beat(struct sl_target_cluster *cluster, struct sl_received *received,
                       uint32_t node)
{
    const struct sl_capsule_raft_beat *in = (const void *)&received->capsule;
    struct sl_raft_beat beat = {in->epoch, in->sent_ns, {in->sum[0], in->sum[1]}, in->count};
    struct sl_raft_beat_answer answer;
    union sl_capsule reply = {0};
    struct sl_capsule_raft_beat *out = (void *)&reply;
    sl_raft_links_receive(cluster->links, node, sl_cluster_now_ns(cluster), &beat, &answer);
    out->header.type = SL_CAPSULE_REPLY;
    out->header.length_bytes = sizeof(*out);
    out->op = SL_RAFT_OP_BEAT;
    out->equal = answer.equal;
    out->epoch = answer.epoch;
    out->sent_ns = answer.sent_ns;
    sl_connection_reply(received, &reply);
}

static void reply_error(struct sl_received *received, int error)
{
    union sl_capsule reply = {0};
    reply.header.type = SL_CAPSULE_REPLY;
    reply.header.length_bytes = sizeof(reply.header);
    reply.header.status = sl_status_from_errno(error);
    sl_connection_reply(received, &reply);
}

void sl_cluster_serve_raft_co(struct sl_target_cluster *cluster, struct sl_received *received,
                              uint32_t *node)
{
    uint8_t op = received->capsule.bytes[sizeof(struct sl_capsule_header)];
    uint32_t length = received->capsule.header.length_bytes;
    if (op == SL_RAFT_OP_HELLO &&
        sl_connection_peer(received->connection)->role == SL_ROLE_TARGET) {
        union sl_capsule reply;
        int error = sl_peer_hello(cluster, received, &reply, node);
        reply.header.type = SL_CAPSULE_REPLY;
        if (error < 0)
            reply_error(received, error);
        else
            sl_connection_reply(received, &reply);
    } else if (*node == 0) {
        reply_error(received, -EBADFD);
    } else if (op == SL_RAFT_OP_MESSAGE && length >= offsetof(struct sl_capsule_raft, records)) {
        serve_message_co(cluster, received, *node);
    } else if (op == SL_RAFT_OP_BEAT && length >= sizeof(struct sl_capsule_raft_beat)) {
        serve_beat(cluster, received, *node);
    } else if (op == SL_RAFT_OP_RESYNC && length >= sizeof(struct sl_capsule_resync)) {
        sl_cluster_serve_resync_co(cluster, received);
    } else if ((op == SL_RAFT_OP_FETCH || op == SL_RAFT_OP_GIVE) &&
               length >= sizeof(struct sl_capsule_fetch)) {
        sl_cluster_serve_fetch_co(cluster, received, *node);
    } else if (op == SL_RAFT_OP_COMPARE && length >= offsetof(struct sl_capsule_compare, crcs)) {
        sl_cluster_serve_compare_co(cluster, received, *node);
    } else if (op == SL_RAFT_OP_READ_INDEX && length >= sizeof(struct sl_capsule_read_index)) {
        sl_cluster_serve_read_index_co(cluster, received, *node);
    } else {
        reply_error(received, -SL_E_PROTOCOL);
    }
}
