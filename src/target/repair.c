/*
 * Damaged blocks are read from another replica, and written again here.
 *
 *   asker: FETCH {index that must be applied} ─► giver: reads, verified ─► GIVE, on its own
 *   connection ─► asker: READs, compares with the CRCs ─► gives them to who reads, repairs its own
 *
 * The giver is at or past the asker's index, so it never gives an older version; a newer one is
 * committed as well. If it is known which version was lost, nothing but that one or a newer one is
 * taken; what is written back is of the very version that was lost (store/repair.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/log.h"
#include "store/format_meta.h"
#include "target/compare.h"
#include "target/follow.h"
#include "target/peer.h"
#include "target/resync_capsule.h"

/* A giver that lags waits so long for the asker's index. */
#define LAG_WAIT_NS (500 * SL_NS_PER_MS)
/* The scrub waits so long for somebody who can give. */
#define SCRUB_TRIES    5u
#define SCRUB_RETRY_NS SL_NS_PER_S

/* Checksums of the blocks: as they are given; of what is here, before and after, in the table's
 * form. */
struct fetch_page {
    uint32_t given[SL_ENTRY_BLOCKS_MAX], before[SL_ENTRY_BLOCKS_MAX], after[SL_ENTRY_BLOCKS_MAX];
};
_Static_assert(sizeof(struct fetch_page) <= SL_BLOCK_BYTES, "it lies in a page");

/* Blocks that were asked for. On the asker's stack. */
struct fetch {
    struct sl_list node;
    uint64_t ticket;
    uint64_t index;  /* that the giver must have applied */
    uint64_t newest; /* what is here may be of */
    uint32_t wrong; /* the checksum that the block has here, and should not; SL_CRC_DAMAGED: none */
    uint32_t from;  /* node */
    uint32_t offset_bytes, length_bytes; /* where in buf they go */
    struct sl_buf *buf;
    struct sl_buf *crcs; /* struct fetch_page */
    bool busy, given;
    struct sl_wait_queue done;
};

static int ask_co(struct sl_replica *replica, struct fetch *fetch, uint32_t chunk,
                  uint16_t first_block, uint16_t block_count)
{
    struct sl_connection *connection =
        sl_peer_of_group(replica->cluster, fetch->from, replica->group);
    union sl_capsule request = {0}, reply;
    struct sl_capsule_fetch *body = (void *)&request;
    if (connection == NULL)
        return -ENOTCONN;
    body->header.type = SL_CAPSULE_RAFT;
    body->header.length_bytes = sizeof(*body);
    body->op = SL_RAFT_OP_FETCH;
    body->group = replica->group;
    body->ticket = fetch->ticket;
    body->index = fetch->index;
    body->chunk = chunk;
    body->first_block = first_block;
    body->block_count = block_count;
    sl_list_append(&replica->cluster->fetches, &fetch->node);
    int error = sl_connection_call_co(connection, &request, NULL, 0, &reply);
    /* No longer: but one that is being taken is awaited, for it uses what is ours. */
    sl_list_remove(&fetch->node);
    while (fetch->busy)
        sl_wait_queue_co(&fetch->done);
    if (error == 0)
        error = sl_status_to_errno(reply.header.status);
    return error == 0 && !fetch->given ? -SL_E_PROTOCOL : error;
}

/* Answers the newest index that touched any of the regions. */
static uint64_t own_crcs_co(struct sl_replica *replica, uint32_t chunk, uint16_t first_block,
                            uint16_t block_count, uint32_t *crcs)
{
    uint64_t newest = 0;
    for (unsigned i = 0; i < block_count;) {
        uint32_t of_region[SL_REGION_BLOCKS];
        uint64_t index;
        unsigned block = first_block + i;
        int error = sl_store_region_crcs_co(replica->log, chunk, block / SL_REGION_BLOCKS, &index,
                                            of_region);
        for (unsigned at = block % SL_REGION_BLOCKS; at < SL_REGION_BLOCKS && i < block_count; at++)
            crcs[i++] = error == 0 ? of_region[at] : SL_CRC_DAMAGED;
        newest = sl_max(newest, index);
    }
    return newest;
}

static bool is_wanted(const struct fetch *fetch, unsigned block)
{
    const struct fetch_page *page = (const void *)fetch->crcs->data;
    uint32_t before = page->before[block];
    return before == SL_CRC_DAMAGED || before == fetch->wrong ||
           before == sl_crc_stored(page->given[block]);
}

/* What was given must be what is known to be lost, or newer. A leader that serves has what its
 * followers have applied once it has applied what is committed; who follows can not tell.
 * -SL_E_CHECKSUM: it is something else. */
static int judge_given_co(struct sl_replica *replica, struct fetch *fetch, uint32_t chunk,
                          uint16_t first_block, uint16_t block_count)
{
    struct fetch_page *page = (void *)fetch->crcs->data;
    struct sl_raft_status status;
    unsigned i = 0;
    while (i < block_count && is_wanted(fetch, i))
        i++;
    if (i == block_count)
        return 0;
    sl_raft_get_status(replica->raft, &status);
    bool leads = status.role == SL_RAFT_LEADER && status.serving;
    if (leads && sl_replica_reach_co(replica, status.commit.value) < 0)
        return -EAGAIN;
    (void)own_crcs_co(replica, chunk, first_block, block_count, page->after);
    for (; i < block_count; i++) {
        uint32_t given = sl_crc_stored(page->given[i]);
        if (is_wanted(fetch, i) || page->after[i] == given)
            continue;
        bool stands = page->before[i] == page->after[i] && fetch->newest <= fetch->index;
        return leads && stands ? -SL_E_CHECKSUM : -EAGAIN;
    }
    return 0;
}

/* `from`: nobody but that node; 0: each, one after the other. */
static int ask_all_co(struct sl_replica *replica, struct fetch *fetch, uint32_t chunk,
                      uint16_t first_block, uint16_t block_count, uint32_t from)
{
    struct sl_raft_config config = *sl_raft_get_config(replica->raft);
    int error = -SL_E_CHECKSUM;
    bool may_later = false; /* somebody who is away, or lags, may have it */
    for (unsigned i = 0; i < config.count; i++) {
        if (config.members[i].id == replica->id || (from != 0 && config.members[i].node != from))
            continue;
        fetch->from = config.members[i].node;
        fetch->ticket = ++replica->cluster->fetch_ticket;
        fetch->index = replica->applied;
        fetch->given = false;
        fetch->newest = own_crcs_co(replica, chunk, first_block, block_count,
                                    ((struct fetch_page *)(void *)fetch->crcs->data)->before);
        error = ask_co(replica, fetch, chunk, first_block, block_count);
        if (error == 0)
            error = judge_given_co(replica, fetch, chunk, first_block, block_count);
        if (error == 0)
            return 0;
        sl_log_warn("target", "group %u: node %u cannot give blocks %u of chunk %u: %s (%s)",
                    replica->group, fetch->from, first_block, chunk, sl_error_text(error),
                    sl_error_name(error));
        may_later = may_later || (error != -SL_E_CHECKSUM && error != -EIO);
    }
    return may_later ? -EAGAIN : -SL_E_CHECKSUM;
}

/* Blocks that go to fetch->offset_bytes of its buffer; those that are bad here are written again.
 */
static int fetch_co(struct sl_replica *replica, struct fetch *fetch, uint32_t chunk,
                    uint16_t first_block, uint16_t block_count, uint32_t from)
{
    fetch->length_bytes = block_count * SL_BLOCK_BYTES;
    int error = ask_all_co(replica, fetch, chunk, first_block, block_count, from);
    for (unsigned i = 0; error == 0 && i < block_count; i++) {
        struct sl_iobuf own;
        sl_iobuf_init(&own);
        /* Only what is bad: the others may have newer versions by now. */
        int state = sl_store_read_co(replica->log, chunk, (uint16_t)(first_block + i), 1, &own);
        sl_iobuf_fini(&own);
        const struct fetch_page *page = (const void *)fetch->crcs->data;
        if (state == -SL_E_CHECKSUM || state == -EIO)
            (void)sl_store_block_repair_co(replica->log, chunk, first_block + i, fetch->buf,
                                           fetch->offset_bytes + i * SL_BLOCK_BYTES, page->given[i],
                                           fetch->index);
    }
    return error;
}

/* Each of the others has lost one of these blocks, as this one has; hardly all the same. */
static int fetch_each_co(struct sl_replica *replica, struct fetch *fetch, uint32_t chunk,
                         uint16_t first_block, uint16_t block_count, uint32_t from)
{
    int error = 0;
    for (unsigned i = 0; error == 0 && i < block_count; i++) {
        uint16_t block = (uint16_t)(first_block + i);
        fetch->offset_bytes = i * SL_BLOCK_BYTES;
        struct sl_span span = sl_buf_span(fetch->buf, fetch->offset_bytes, SL_BLOCK_BYTES);
        error = sl_store_read_into_co(replica->log, chunk, block, 1, &span, 1);
        if (error == -SL_E_CHECKSUM || error == -EIO)
            error = fetch_co(replica, fetch, chunk, block, 1, from);
    }
    return error;
}

static int fetch_open_co(struct sl_replica *replica, struct fetch *fetch, uint32_t length_bytes)
{
    struct sl_memory *memory = replica->cluster->target->memory;
    *fetch = (struct fetch){.wrong = SL_CRC_DAMAGED, .length_bytes = length_bytes};
    sl_wait_queue_init(&fetch->done);
    fetch->crcs = sl_buf_alloc_co(memory, SL_BLOCK_BYTES, SL_RESERVE_INTAKE);
    fetch->buf = sl_buf_alloc_co(memory, length_bytes, SL_RESERVE_INTAKE);
    replica->cluster->target->statistics.checksum_error_count++;
    return fetch->buf == NULL || fetch->crcs == NULL ? -ENOMEM : 0;
}

static void fetch_close(struct fetch *fetch)
{
    sl_buf_unref(fetch->buf);
    sl_buf_unref(fetch->crcs);
}

int sl_replica_repair_co(struct sl_replica *replica, uint32_t chunk, uint16_t first_block,
                         uint16_t block_count, uint32_t from, struct sl_iobuf *data)
{
    struct fetch fetch;
    uint32_t length_bytes = block_count * SL_BLOCK_BYTES;
    int error = fetch_open_co(replica, &fetch, length_bytes);
    if (error == 0)
        error = fetch_co(replica, &fetch, chunk, first_block, block_count, from);
    if ((error == -SL_E_CHECKSUM || error == -EAGAIN) && block_count > 1)
        error = fetch_each_co(replica, &fetch, chunk, first_block, block_count, from);
    if (error == 0)
        error = sl_iobuf_append_buf(data, fetch.buf, 0, length_bytes);
    fetch_close(&fetch);
    return error;
}

int sl_replica_replace_co(struct sl_replica *replica, uint32_t chunk, uint16_t block, uint32_t crc,
                          uint32_t from)
{
    struct fetch fetch;
    int error = fetch_open_co(replica, &fetch, SL_BLOCK_BYTES);
    fetch.wrong = crc;
    for (unsigned i = 0; error == 0 && i < 2; i++) {
        /* First another one: what is here may be the last that can be read. */
        error = ask_all_co(replica, &fetch, chunk, block, 1, from);
        if (error == 0) {
            const struct fetch_page *page = (const void *)fetch.crcs->data;
            error = sl_store_block_replace_co(replica->log, chunk, block, crc, fetch.buf, 0,
                                              page->given[0], fetch.index);
        }
        if (error != -EBUSY || i > 0)
            break;
        error = sl_store_checkpoint_co(replica->store); /* into its slot with it */
    }
    fetch_close(&fetch);
    return error;
}

/* Found by the scrub, which waits for it: so there is one at a time in each shard. Soon after the
 * start nobody may be connected yet. */
bool sl_cluster_damaged_co(void *context, uint64_t group, uint32_t chunk, uint16_t block)
{
    struct sl_target_cluster *cluster = context;
    struct sl_replica *replica =
        group <= UINT32_MAX ? sl_cluster_find(cluster, (uint32_t)group) : NULL;
    int error = -EAGAIN;
    for (unsigned i = 0; i < SCRUB_TRIES && error == -EAGAIN; i++) {
        if (replica == NULL || cluster->closing || replica->failed || replica->copying != 0)
            return false;
        error = sl_compare_mend_co(replica, chunk, block, SL_CRC_DAMAGED, 0);
        if (error == -EAGAIN)
            sl_wait_queue_until_co(&cluster->stop, sl_cluster_now_ns(cluster) + SCRUB_RETRY_NS);
    }
    return error == 0;
}

/* ---- who gives ---- */

static int give_co(struct sl_replica *replica, const struct sl_capsule_fetch *asked, uint32_t node,
                   struct sl_buf *buf, struct sl_buf *page)
{
    struct sl_connection *connection = sl_peer_of_group(replica->cluster, node, replica->group);
    union sl_capsule request = {0}, reply;
    struct sl_capsule_fetch *body = (void *)&request;
    struct sl_span span = sl_buf_span(buf, 0, asked->block_count * SL_BLOCK_BYTES);
    struct sl_span crcs = sl_buf_span(page, 0, SL_BLOCK_BYTES);
    if (connection == NULL)
        return -ENOTCONN;
    int error = sl_store_read_into_co(replica->log, asked->chunk, asked->first_block,
                                      asked->block_count, &span, 1);
    if (error < 0)
        return error;
    memset(page->data, 0, SL_BLOCK_BYTES);
    sl_crc32c_blocks(span.data, asked->block_count, (uint32_t *)(void *)page->data);
    memcpy(body, asked, sizeof(*body)); /* header: the request, echoed */
    body->header =
        (struct sl_capsule_header){.type = SL_CAPSULE_RAFT, .length_bytes = sizeof(*body)};
    body->op = SL_RAFT_OP_GIVE;
    /* It may have died while the disk was read. */
    connection = sl_peer_of_group(replica->cluster, node, replica->group);
    if (connection == NULL)
        return -ENOTCONN;
    error = sl_fabric_describe(replica->cluster->fabric, span.region, span.data, span.length_bytes,
                               &body->piece);
    if (error == 0)
        error = sl_connection_call_co(connection, &request, &crcs, 1, &reply);
    return error == 0 ? sl_status_to_errno(reply.header.status) : error;
}

int sl_replica_reach_co(struct sl_replica *replica, uint64_t index)
{
    struct sl_target_cluster *cluster = replica->cluster;
    uint64_t deadline_ns = sl_cluster_now_ns(cluster) + LAG_WAIT_NS;
    while (replica->applied < index && replica->copying == 0 && !cluster->closing) {
        if (sl_wait_queue_until_co(&replica->progress, deadline_ns) == -ETIMEDOUT)
            return -EAGAIN;
    }
    return replica->copying != 0 || replica->failed || cluster->closing ? -EAGAIN : 0;
}

static int serve_fetch_co(struct sl_target_cluster *cluster, struct sl_received *received,
                          uint32_t node)
{
    const struct sl_capsule_fetch *asked = (const void *)&received->capsule;
    struct sl_replica *replica = sl_cluster_find(cluster, asked->group);
    if (replica == NULL)
        return -ENOENT;
    if (asked->block_count == 0 || asked->block_count > SL_ENTRY_BLOCKS_MAX ||
        asked->first_block + (uint32_t)asked->block_count > SL_CHUNK_BLOCKS ||
        (uint64_t)asked->chunk >= replica->size_bytes / SL_CHUNK_BYTES)
        return -SL_E_PROTOCOL;
    int error = sl_replica_reach_co(replica, asked->index);
    if (error < 0)
        return error;
    struct sl_buf *page =
        sl_buf_alloc_co(cluster->target->memory, SL_BLOCK_BYTES, SL_RESERVE_INTAKE);
    struct sl_buf *buf = sl_buf_alloc_co(cluster->target->memory,
                                         asked->block_count * SL_BLOCK_BYTES, SL_RESERVE_INTAKE);
    error = buf == NULL || page == NULL ? -ENOMEM : give_co(replica, asked, node, buf, page);
    sl_buf_unref(buf);
    sl_buf_unref(page);
    /* Whatever else kept it from giving is no word on the blocks. */
    return error == 0 || error == -SL_E_CHECKSUM || error == -EIO ? error : -EAGAIN;
}

/* ---- who is given ---- */

static struct fetch *find_fetch(struct sl_target_cluster *cluster, uint64_t ticket, uint32_t node)
{
    sl_list_for_each(list, &cluster->fetches)
    {
        struct fetch *fetch = sl_list_entry(list, struct fetch, node);
        if (fetch->ticket == ticket && fetch->from == node && !fetch->busy && !fetch->given)
            return fetch;
    }
    return NULL;
}

static int serve_give_co(struct sl_target_cluster *cluster, struct sl_received *received,
                         uint32_t node)
{
    const struct sl_capsule_fetch *given = (const void *)&received->capsule;
    struct fetch *fetch = find_fetch(cluster, given->ticket, node);
    if (fetch == NULL)
        return -ENOENT;
    if (received->payload_bytes != SL_BLOCK_BYTES ||
        given->block_count * SL_BLOCK_BYTES != fetch->length_bytes)
        return -SL_E_PROTOCOL;
    fetch->busy = true;
    struct sl_span span = sl_buf_span(fetch->buf, fetch->offset_bytes, fetch->length_bytes);
    int error = sl_connection_read_co(received->connection, &span, 1, &given->piece, 1);
    struct fetch_page *page = (void *)fetch->crcs->data;
    memcpy(page->given, received->payload->data, sizeof(page->given)); /* header: CRCs */
    for (unsigned i = 0; error == 0 && i < given->block_count; i++) {
        if (sl_crc32c(0, span.data + i * SL_BLOCK_BYTES, SL_BLOCK_BYTES) != page->given[i])
            error = -SL_E_CHECKSUM;
    }
    fetch->given = error == 0;
    fetch->busy = false;
    sl_wait_queue_wake_all(&fetch->done, 0);
    return error;
}

void sl_cluster_serve_fetch_co(struct sl_target_cluster *cluster, struct sl_received *received,
                               uint32_t node)
{
    const struct sl_capsule_fetch *body = (const void *)&received->capsule;
    int error = body->op == SL_RAFT_OP_FETCH ? serve_fetch_co(cluster, received, node)
                                             : serve_give_co(cluster, received, node);
    union sl_capsule reply = {0};
    reply.header.type = SL_CAPSULE_REPLY;
    reply.header.length_bytes = sizeof(reply.header);
    reply.header.status = sl_status_from_errno(error);
    sl_connection_reply(received, &reply);
}
