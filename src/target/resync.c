/*
 * The source of a resync: a leader whose follower needs what its log no longer has.
 *
 *   state at S = what is applied ─► BEGIN: what do you have? ─► each region with a newer index ─►
 *   END: the state ─► the follower goes on with the log from S + 1
 *
 * A region may be sent as of later than S: the entries behind S are applied to it once more over
 * there, before anybody reads it. The log above S is held meanwhile, and as far as the follower
 * lags behind afterwards. If it has moved on beyond S nevertheless, the core asks for another
 * round, which moves only what has changed since.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/log.h"
#include "core/size.h"
#include "store/format_meta.h"
#include "target/cluster.h"
#include "target/peer.h"
#include "target/replica_state.h"
#include "target/resync_capsule.h"

/* A whole round waits no longer for nodes that are away. */
#define GIVER_PATIENCE_S 5u

struct source {
    struct sl_replica *replica;
    struct sl_raft_replica to;
    struct sl_connection *connection; /* referenced */
    uint64_t term, index, index_term;
    uint64_t have; /* applied at the receiver */
    uint64_t regions, bytes;
    unsigned patience; /* seconds left to wait for replicas that have what is damaged here */
    void *state;
    uint32_t state_bytes;
    uint64_t indexes[SL_CHUNK_REGIONS]; /* of a chunk's regions */
    struct sl_buf *buf, *page;          /* a region, its CRCs */
};

static void fill(const struct source *source, enum sl_resync_step step, union sl_capsule *capsule)
{
    struct sl_capsule_resync *body = (void *)capsule;
    memset(capsule, 0, sizeof(*capsule));
    body->header.type = SL_CAPSULE_RAFT;
    body->header.length_bytes = sizeof(*body);
    body->op = SL_RAFT_OP_RESYNC;
    body->step = (uint8_t)step;
    body->group = source->replica->group;
    body->from = source->replica->id;
    body->to = source->to.id;
    body->term = source->term;
    body->index = source->index;
    body->index_term = source->index_term;
}

static int call_co(struct source *source, union sl_capsule *capsule, const struct sl_span *payload,
                   union sl_capsule *reply)
{
    int error = sl_connection_call_co(source->connection, capsule, payload, payload != NULL, reply);
    return error < 0 ? error : sl_status_to_errno(reply->header.status);
}

static bool leads(const struct source *source)
{
    struct sl_raft_status status;
    sl_raft_get_status(source->replica->raft, &status);
    return status.role == SL_RAFT_LEADER && status.term.value == source->term &&
           !source->replica->failed && !source->replica->cluster->closing;
}

/* ---- what comes behind the state ---- */

/* So far behind the end of the log it counts as caught up. */
#define FED_LAG 8u
/* A member that does not get on for so long, or a repeated round that takes so long, keeps nobody
 * waiting any more. */
#define FED_PATIENCE_NS (2 * SL_NS_PER_S)

static struct sl_feed *feed_find(struct sl_replica *replica, uint64_t member)
{
    for (unsigned i = 0; i < replica->feed_count; i++) {
        if (replica->feeds[i].member == member)
            return &replica->feeds[i];
    }
    return NULL;
}

static void feed_end(struct sl_replica *replica, struct sl_feed *feed)
{
    if (feed != NULL)
        *feed = replica->feeds[--replica->feed_count];
}

/* The log is held for the one that is furthest behind; not for who needs what has gone, and will be
 * given a state: that it was outrun is remembered. */
static void hold(struct sl_replica *replica)
{
    struct sl_raft_status status;
    uint64_t index = UINT64_MAX;
    bool strictly = false;
    if (replica->failed || replica->cluster->closing)
        replica->feed_count = 0; /* no step looks after them any more */
    if (replica->feed_count > 0)
        sl_raft_get_status(replica->raft, &status);
    for (unsigned i = 0; i < replica->feed_count; i++) {
        const struct sl_feed *feed = &replica->feeds[i];
        if (feed->match < status.boundary.value)
            continue;
        index = sl_min(index, feed->match);
        strictly = strictly || feed->strict;
    }
    if (index != UINT64_MAX)
        sl_store_hold(replica->log, index, strictly);
    else
        sl_store_release(replica->log);
}

/* The log above S is held until it is read. The second time round it has been outrun: now writes
 * wait when the log is nearly full. */
static void feed_begin(struct sl_replica *replica, uint64_t member, uint64_t index)
{
    struct sl_feed *feed = feed_find(replica, member);
    if (feed == NULL && replica->feed_count < SL_RAFT_MEMBERS_MAX) {
        feed = &replica->feeds[replica->feed_count++];
        *feed = (struct sl_feed){.member = member};
    } else if (feed != NULL) {
        feed->strict = true;
    }
    if (feed != NULL) {
        feed->match = index;
        feed->ns = sl_cluster_now_ns(replica->cluster);
    }
    hold(replica);
}

/* It was outrun, and is there: it waits for its turn to be given a state. */
static bool waits_for_state(struct sl_replica *replica, const struct sl_feed *feed, uint32_t node,
                            const struct sl_raft_status *status)
{
    return feed->match < status->boundary.value &&
           sl_peer_of_group(replica->cluster, node, replica->group) != NULL;
}

/* False: it needs nothing held any more, nor remembered. */
static bool feed_on(struct sl_replica *replica, struct sl_feed *feed,
                    const struct sl_raft_status *status)
{
    const struct sl_raft_config *config = sl_raft_get_config(replica->raft);
    uint64_t now_ns = sl_cluster_now_ns(replica->cluster);
    uint64_t match = sl_raft_match(replica->raft, feed->member).value;
    bool late = feed->ns + FED_PATIENCE_NS <= now_ns;
    bool copying = replica->resyncing == feed->member;
    int slot = sl_raft_config_find(config, feed->member);
    if (status->role != SL_RAFT_LEADER || replica->failed || slot < 0)
        return false;
    if (!copying && (match + FED_LAG >= status->last.value ||
                     (late && !waits_for_state(replica, feed, config->members[slot].node, status))))
        return false;
    if (match > feed->match) {
        feed->match = match;
        feed->ns = now_ns;
        feed->strict = true;
    } else if (copying && late) {
        feed->strict = false;
    }
    return true;
}

void sl_replica_feed(struct sl_replica *replica)
{
    struct sl_raft_status status;
    if (replica->feed_count > 0)
        sl_raft_get_status(replica->raft, &status);
    for (unsigned i = replica->feed_count; i-- > 0;) {
        if (!feed_on(replica, &replica->feeds[i], &status))
            feed_end(replica, &replica->feeds[i]);
    }
    hold(replica);
}

/* Some of the log is about to go. Members that are there and only behind get it first: to give one
 * the state anew costs far more than to wait for it. */
void sl_replica_feed_members(struct sl_replica *replica)
{
    const struct sl_raft_config *config = sl_raft_get_config(replica->raft);
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    for (unsigned i = 0; status.role == SL_RAFT_LEADER && i < config->count; i++) {
        uint64_t id = config->members[i].id, match = sl_raft_match(replica->raft, id).value;
        if (id == replica->id || match < status.boundary.value ||
            match + FED_LAG >= status.last.value || feed_find(replica, id) != NULL ||
            sl_peer_of_group(replica->cluster, config->members[i].node, replica->group) == NULL)
            continue;
        feed_begin(replica, id, match);
    }
}

/* ---- a round ---- */

static int begin_co(struct source *source)
{
    struct sl_replica *replica = source->replica;
    union sl_capsule capsule, reply;
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    source->term = status.term.value;
    source->state =
        sl_replica_state_make(replica, &source->index, &source->index_term, &source->state_bytes);
    if (source->state == NULL)
        return -EAGAIN;
    feed_begin(replica, source->to.id, source->index);
    /* What the regions hold must be at least as new. */
    while (replica->applied < source->index) {
        if (!leads(source))
            return -SL_E_MOVED;
        sl_wait_queue_co(&replica->progress);
    }
    fill(source, SL_RESYNC_BEGIN, &capsule);
    int error = call_co(source, &capsule, NULL, &reply);
    source->have = ((struct sl_capsule_resync *)(void *)&reply)->index;
    return error == 0 && reply.header.length_bytes < sizeof(struct sl_capsule_resync)
               ? -SL_E_PROTOCOL
               : error;
}

/* From any but the receiver: it cannot give while it copies, and keeps what it has. -EAGAIN: who
 * may have it is away. */
static int give_co(struct source *source, uint32_t chunk, uint16_t block, struct sl_iobuf *data)
{
    struct sl_raft_config config = *sl_raft_get_config(source->replica->raft);
    bool may_later = false;
    for (unsigned i = 0; i < config.count; i++) {
        const struct sl_raft_member *member = &config.members[i];
        if (member->id == source->replica->id || member->node == source->to.node)
            continue;
        int error = sl_replica_repair_co(source->replica, chunk, block, 1, member->node, data);
        if (error == 0 || error == -ENOMEM)
            return error;
        may_later = may_later || error != -SL_E_CHECKSUM;
    }
    return may_later ? -EAGAIN : -SL_E_CHECKSUM;
}

/* Another replica's copy of a block, if that is of the version that is lost here, or nobody knows
 * which one is. It need not have been mended here: its disk, or the log, may refuse. */
static int take_given_co(struct source *source, uint32_t chunk, uint16_t block,
                         const struct sl_span *span)
{
    struct sl_replica *replica = source->replica;
    struct sl_memory *memory = replica->cluster->target->memory;
    uint32_t crcs[SL_REGION_BLOCKS];
    uint64_t index;
    struct sl_iobuf data;
    sl_iobuf_init(&data);
    int error = give_co(source, chunk, block, &data);
    if (error == 0)
        error =
            sl_store_region_crcs_co(replica->log, chunk, block / SL_REGION_BLOCKS, &index, crcs);
    if (error == 0) {
        uint32_t own = crcs[block % SL_REGION_BLOCKS];
        uint32_t given = sl_crc_stored(sl_crc32c(0, data.spans[0].data, SL_BLOCK_BYTES));
        if (own == given || own == SL_CRC_DAMAGED)
            sl_copy(sl_memory_copies(memory), SL_COPY_LAND, span->data, data.spans[0].data,
                    SL_BLOCK_BYTES);
        else
            error = -SL_E_CHECKSUM;
    }
    sl_iobuf_fini(&data);
    return error;
}

/* Into its place in the source's buffer; what is damaged here comes from another replica. Who could
 * give it may be away: that is waited for, once. */
static int read_block_co(struct source *source, uint32_t chunk, uint16_t block)
{
    struct sl_replica *replica = source->replica;
    struct sl_target_cluster *cluster = replica->cluster;
    struct sl_span span =
        sl_buf_span(source->buf, block % SL_REGION_BLOCKS * SL_BLOCK_BYTES, SL_BLOCK_BYTES);
    for (;;) {
        int error = sl_store_read_into_co(replica->log, chunk, block, 1, &span, 1);
        if (error != -SL_E_CHECKSUM && error != -EIO)
            return error;
        error = take_given_co(source, chunk, block, &span);
        if (error == 0 || error == -SL_E_CHECKSUM || error == -ENOMEM)
            return error;
        if (!leads(source))
            return -SL_E_MOVED;
        if (source->patience == 0)
            return -SL_E_CHECKSUM;
        source->patience--;
        sl_wait_queue_until_co(&cluster->stop, sl_cluster_now_ns(cluster) + SL_NS_PER_S);
    }
}

/* Into the source's buffer and page. A block that nobody can give keeps nothing else from being
 * copied: it is lost over there as it is here, until somebody comes who has it. */
static int read_region_co(struct source *source, uint32_t chunk, unsigned region)
{
    struct sl_replica *replica = source->replica;
    uint16_t first_block = (uint16_t)(region * SL_REGION_BLOCKS);
    struct sl_span span = sl_buf_span(source->buf, 0, SL_REGION_BYTES);
    struct sl_resync_page *page = (void *)source->page->data;
    uint32_t crcs[SL_REGION_BLOCKS];
    uint64_t index;
    page->lost = 0;
    int error = sl_store_read_into_co(replica->log, chunk, first_block, SL_REGION_BLOCKS, &span, 1);
    bool bad = error == -SL_E_CHECKSUM || error == -EIO;
    for (unsigned i = 0; bad && i < SL_REGION_BLOCKS; i++) {
        error = read_block_co(source, chunk, (uint16_t)(first_block + i));
        if (error == -SL_E_CHECKSUM)
            page->lost |= UINT64_C(1) << i;
        else if (error < 0)
            return error;
    }
    if (error < 0 && !bad)
        return error;
    sl_crc32c_blocks(span.data, SL_REGION_BLOCKS, page->crcs);
    if (page->lost == 0)
        return 0;
    error = sl_store_region_crcs_co(replica->log, chunk, region, &index, crcs);
    for (unsigned i = 0; error == 0 && i < SL_REGION_BLOCKS; i++) {
        if ((page->lost >> i & 1) != 0)
            page->crcs[i] = crcs[i];
    }
    return error;
}

static int region_co(struct source *source, uint32_t chunk, unsigned region)
{
    struct sl_replica *replica = source->replica;
    union sl_capsule capsule, reply;
    struct sl_capsule_resync *body = (void *)&capsule;
    struct sl_span span = sl_buf_span(source->buf, 0, SL_REGION_BYTES);
    struct sl_span page = sl_buf_span(source->page, 0, SL_BLOCK_BYTES);
    int error = read_region_co(source, chunk, region);
    if (error < 0)
        return error;
    fill(source, SL_RESYNC_REGION, &capsule);
    body->chunk = chunk;
    body->region = region;
    body->piece_count = 1;
    error = sl_fabric_describe(replica->cluster->fabric, span.region, span.data, span.length_bytes,
                               &body->pieces[0]);
    if (error == 0)
        error = call_co(source, &capsule, &page, &reply);
    source->regions++;
    source->bytes += SL_REGION_BYTES;
    return error;
}

static int regions_co(struct source *source)
{
    uint64_t chunks = source->replica->size_bytes / SL_CHUNK_BYTES;
    uint64_t *indexes = source->indexes;
    for (uint64_t chunk = 0; chunk < chunks; chunk++) {
        int error = sl_store_regions_co(source->replica->log, (uint32_t)chunk, indexes);
        for (unsigned region = 0; error == 0 && region < SL_CHUNK_REGIONS; region++) {
            if (indexes[region] <= source->have)
                continue;
            if (!leads(source))
                return -SL_E_MOVED;
            error = region_co(source, (uint32_t)chunk, region);
        }
        if (error < 0 && error != -ENOENT)
            return error;
    }
    return 0;
}

static int end_co(struct source *source)
{
    struct sl_target_cluster *cluster = source->replica->cluster;
    union sl_capsule capsule, reply;
    struct sl_capsule_resync *body = (void *)&capsule;
    struct sl_buf *buf =
        sl_buf_alloc_co(cluster->target->memory, source->state_bytes, SL_RESERVE_CHECKPOINT);
    if (buf == NULL)
        return -ENOMEM;
    memcpy(buf->data, source->state, source->state_bytes); /* header: state */
    fill(source, SL_RESYNC_END, &capsule);
    body->piece_count = 1;
    body->state_bytes = source->state_bytes;
    int error = sl_fabric_describe(cluster->fabric, buf->region, buf->data, source->state_bytes,
                                   &body->pieces[0]);
    if (error == 0)
        error = call_co(source, &capsule, NULL, &reply);
    sl_buf_unref(buf);
    return error;
}

static int resync_co(struct source *source)
{
    struct sl_memory *memory = source->replica->cluster->target->memory;
    struct sl_connection *connection =
        sl_peer_of_group(source->replica->cluster, source->to.node, source->replica->group);
    if (connection == NULL)
        return -ENOTCONN;
    sl_connection_ref(connection);
    source->connection = connection;
    source->patience = GIVER_PATIENCE_S;
    source->page = sl_buf_alloc_co(memory, SL_BLOCK_BYTES, SL_RESERVE_INTAKE);
    source->buf = sl_buf_alloc_co(memory, SL_REGION_BYTES, SL_RESERVE_INTAKE);
    if (source->buf == NULL || source->page == NULL)
        return -ENOMEM;
    memset(source->page->data, 0, SL_BLOCK_BYTES);
    int error = begin_co(source);
    if (error == 0)
        error = regions_co(source);
    if (error == 0)
        error = end_co(source);
    return error;
}

static void source_entry_co(void *argument)
{
    struct source *source = argument;
    struct sl_replica *replica = source->replica;
    struct sl_target_cluster *cluster = replica->cluster;
    uint64_t to = source->to.id;
    uint64_t began_ns = sl_cluster_now_ns(cluster);
    int error = resync_co(source);
    cluster->target->statistics.resync_count += error == 0;
    char bytes[32];
    sl_size_format(source->bytes, bytes, sizeof(bytes));
    if (error == 0)
        sl_log_info("raft",
                    "group %u: node %u was given the state at %llu: %llu regions, %s, in %llu ms",
                    replica->group, source->to.node, (unsigned long long)source->index,
                    (unsigned long long)source->regions, bytes,
                    (unsigned long long)((sl_cluster_now_ns(cluster) - began_ns) / SL_NS_PER_MS));
    else if (error == -EAGAIN)
        sl_log_info("raft", "group %u: node %u does not take the state at %llu, or not now",
                    replica->group, source->to.node, (unsigned long long)source->index);
    else if (!cluster->closing)
        sl_log_warn("raft", "group %u: the resync of node %u ended early: %s (%s); it begins anew",
                    replica->group, source->to.node, sl_error_text(error), sl_error_name(error));
    if (source->connection != NULL)
        sl_connection_unref(source->connection);
    sl_buf_unref(source->buf);
    sl_buf_unref(source->page);
    free(source->state);
    free(source);
    replica->resyncing = 0;
    cluster->source_count--;
    struct sl_feed *feed = feed_find(replica, to);
    if (feed != NULL)
        feed->ns = sl_cluster_now_ns(cluster);
    if (error < 0 && error != -EAGAIN) /* it may want the log behind the state at once */
        feed_end(replica, feed);
    hold(replica);
    sl_cluster_leave(cluster);
}

/* One at a time from each group, and few in all; the core asks again. */
void sl_replica_resync(struct sl_replica *replica, struct sl_raft_replica to)
{
    struct sl_target_cluster *cluster = replica->cluster;
    if (replica->resyncing != 0 || cluster->closing || replica->copying != 0 ||
        cluster->source_count >= SL_RESYNC_SOURCES_MAX)
        return;
    struct source *source = calloc(1, sizeof(*source));
    if (source == NULL)
        return;
    source->replica = replica;
    source->to = to;
    replica->resyncing = to.id;
    cluster->source_count++;
    if (sl_cluster_spawn(cluster, source_entry_co, source) < 0) {
        replica->resyncing = 0;
        cluster->source_count--;
        free(source);
    }
}
