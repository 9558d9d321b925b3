/*
 * The replicas of a group are compared, by its leader (docs/replication.md, "Replicas compared").
 *
 *   groups led here ─► chunks, paced ─► REGIONS to each member ─► those that differ: BLOCKS
 *        ▲                                                              │ and again a barrier: ours
 *        └── pause ◄── MEND to the minority ◄── majority? ◄── a block ◄─┘ are the same as before
 *
 * One coroutine a reactor, one chunk at a time: what it costs does not grow with the groups.
 */
#include "target/compare.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "core/trace.h"
#include "store/format_meta.h"
#include "target/peer.h"

/* Between two passes, as the scrub. */
#define PASS_PAUSE_NS (600 * SL_NS_PER_S)
/* What a chunk costs of the scrub's rate that has little or nothing in it: 500 empty groups of
 * many chunks shall cost nothing either. */
#define CHUNK_BYTES_LEAST (4 * SL_MIB)

/* What a member has of the region. */
struct copy {
    uint64_t known;   /* blocks whose CRC is in `crcs` */
    uint64_t damaged; /* blocks that it has lost */
    uint32_t crcs[SL_REGION_BLOCKS];
};

struct walk {
    struct sl_target_cluster *cluster;
    struct sl_replica *replica;
    struct sl_raft_config config; /* as of the chunk's begin */
    uint32_t chunk;
    struct sl_buf *page;
    struct copy copies[SL_RAFT_MEMBERS_MAX]; /* by place in the configuration */
};

static bool leads(const struct sl_replica *replica)
{
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    return status.role == SL_RAFT_LEADER && status.serving && !replica->failed &&
           replica->copying == 0 && !replica->cluster->closing;
}

static void fill(const struct walk *walk, enum sl_compare_step step, uint64_t applied,
                 struct sl_capsule_compare *body)
{
    *body = (struct sl_capsule_compare){
        .header = {.type = SL_CAPSULE_RAFT,
                   .length_bytes = offsetof(struct sl_capsule_compare, crcs)},
        .op = SL_RAFT_OP_COMPARE,
        .step = (uint8_t)step,
        .group = walk->replica->group,
        .from = walk->replica->id,
        .index = applied,
        .chunk = walk->chunk,
    };
}

/* One question to one member; `body` becomes its answer. */
static int ask_co(struct walk *walk, unsigned member, struct sl_capsule_compare *body)
{
    const struct sl_raft_member *to = &walk->config.members[member];
    struct sl_connection *connection =
        sl_peer_of_group(walk->cluster, to->node, walk->replica->group);
    struct sl_span span = sl_buf_span(walk->page, 0, SL_BLOCK_BYTES);
    union sl_capsule request = {0}, reply;
    if (connection == NULL)
        return -ENOTCONN;
    body->to = to->id;
    memcpy(&request, body, body->header.length_bytes); /* header: the question */
    int error =
        sl_connection_call_co(connection, &request, &span, body->step != SL_COMPARE_MEND, &reply);
    if (error == 0)
        error = sl_status_to_errno(reply.header.status);
    if (error == 0 && reply.header.length_bytes < sizeof(*body))
        error = -SL_E_PROTOCOL;
    if (error == 0)
        memcpy(body, &reply, sizeof(*body)); /* header: the answer */
    return error;
}

/* ---- a block that differs ---- */

static bool knows(const struct walk *walk, unsigned member, unsigned block)
{
    return (walk->copies[member].known >> block & 1) != 0;
}

/* The member whose CRC of the block most have, and how many these are. */
static unsigned count_votes(const struct walk *walk, unsigned block, unsigned *votes)
{
    unsigned best = 0;
    *votes = 0;
    for (unsigned i = 0; i < walk->config.count; i++) {
        unsigned count = 0;
        for (unsigned k = 0; knows(walk, i, block) && k < walk->config.count; k++)
            count +=
                knows(walk, k, block) && walk->copies[k].crcs[block] == walk->copies[i].crcs[block];
        if (count > *votes) {
            *votes = count;
            best = i;
        }
    }
    return best;
}

static void report(struct walk *walk, unsigned block, unsigned best, bool decided)
{
    char text[SL_RAFT_MEMBERS_MAX * 32] = "";
    size_t at = 0;
    for (unsigned i = 0; i < walk->config.count; i++) {
        if (!knows(walk, i, block % SL_REGION_BLOCKS))
            continue;
        int length =
            snprintf(text + at, sizeof(text) - at, "%snode %u has %08x", at > 0 ? ", " : "",
                     walk->config.members[i].node, walk->copies[i].crcs[block % SL_REGION_BLOCKS]);
        at = sl_min(at + (size_t)sl_max(length, 0), sizeof(text) - 1);
    }
    walk->replica->differences++;
    walk->cluster->compared.difference_count++;
    SL_TRACE(target, replicas_differ, walk->replica->group, walk->chunk, block, decided);
    if (decided)
        sl_log_error("target",
                     "group %u: block %u of chunk %u differs between the replicas (checksums: %s): "
                     "the others take what most have, as node %u",
                     walk->replica->group, block, walk->chunk, text,
                     walk->config.members[best].node);
    else
        sl_log_error("target",
                     "group %u: block %u of chunk %u differs between the replicas (checksums: %s), "
                     "and no majority has the same: find out which one is right, and write it anew",
                     walk->replica->group, block, walk->chunk, text);
}

static bool mend_co(struct walk *walk, unsigned member, unsigned block, uint32_t crc, uint32_t from)
{
    const struct sl_raft_member *who = &walk->config.members[member];
    struct sl_capsule_compare body;
    int error;
    if (who->id == walk->replica->id) {
        error = sl_compare_mend_co(walk->replica, walk->chunk, (uint16_t)block, crc, from);
    } else {
        fill(walk, SL_COMPARE_MEND, walk->replica->applied, &body);
        body.place = block;
        body.crc = crc;
        body.node = from;
        error = ask_co(walk, member, &body);
    }
    walk->cluster->compared.mended_count += error == 0;
    if (error == 0)
        sl_log_warn("target", "group %u: block %u of chunk %u was mended on node %u",
                    walk->replica->group, block, walk->chunk, who->node);
    else if (!walk->cluster->closing)
        sl_log_warn("target",
                    "group %u: block %u of chunk %u cannot be mended on node %u: %s (%s); it is "
                    "tried again",
                    walk->replica->group, block, walk->chunk, who->node, sl_error_text(error),
                    sl_error_name(error));
    return error == 0;
}

/* From whichever of the majority can give it. */
static void replace_co(struct walk *walk, unsigned member, unsigned number, uint32_t crc)
{
    unsigned block = number % SL_REGION_BLOCKS;
    bool done = false;
    for (unsigned i = 0; i < walk->config.count && !done; i++) {
        if (knows(walk, i, block) && walk->copies[i].crcs[block] == crc)
            done = mend_co(walk, member, number, walk->copies[member].crcs[block],
                           walk->config.members[i].node);
    }
}

/* `block` of the region; at least two that are known differ, or one is damaged. */
static void judge_co(struct walk *walk, unsigned region, unsigned block)
{
    uint64_t bit = UINT64_C(1) << block;
    unsigned votes, differing = 0, number = region * SL_REGION_BLOCKS + block;
    unsigned best = count_votes(walk, block, &votes);
    uint32_t crc = walk->copies[best].crcs[block];
    for (unsigned i = 0; i < walk->config.count; i++)
        differing += knows(walk, i, block) && walk->copies[i].crcs[block] != crc;
    bool decided = votes > walk->config.count / 2;
    if (differing > 0)
        report(walk, number, best, decided);
    for (unsigned i = 0; i < walk->config.count; i++) {
        bool wrong = knows(walk, i, block) && walk->copies[i].crcs[block] != crc;
        if (decided && wrong)
            replace_co(walk, i, number, crc);
        /* Whoever has one that is not in doubt may give it. */
        else if ((walk->copies[i].damaged & bit) != 0 && votes > 0 && (decided || differing == 0))
            (void)mend_co(walk, i, number, SL_CRC_DAMAGED,
                          differing > 0 ? walk->config.members[best].node : 0);
    }
}

/* ---- a region ---- */

/* The member's checksums, from ours and what it says of its own. `copy` is empty before. */
static void take_answer(struct copy *copy, const struct sl_capsule_compare *answer,
                        const uint32_t own[SL_REGION_BLOCKS])
{
    unsigned count = 0;
    copy->damaged = answer->open;
    for (unsigned i = 0; i < SL_REGION_BLOCKS; i++) {
        uint64_t bit = UINT64_C(1) << i;
        bool differs = (answer->differ & bit) != 0;
        if ((answer->open & bit) != 0 || (differs && count == SL_COMPARE_CRCS_MAX))
            continue;
        copy->crcs[i] = differs ? answer->crcs[count++] : own[i];
        copy->known |= bit;
    }
}

static void take_own(struct copy *copy, const uint32_t own[SL_REGION_BLOCKS])
{
    *copy = (struct copy){0};
    for (unsigned i = 0; i < SL_REGION_BLOCKS; i++) {
        uint64_t bit = UINT64_C(1) << i;
        copy->crcs[i] = own[i];
        copy->known |= own[i] != SL_CRC_DAMAGED ? bit : 0;
        copy->damaged |= own[i] == SL_CRC_DAMAGED ? bit : 0;
    }
}

/* What everybody has of the region, as of one version. Answers the blocks to look at. */
static int gather_co(struct walk *walk, unsigned region, uint64_t *suspect)
{
    struct sl_replica *replica = walk->replica;
    uint32_t *own = (void *)walk->page->data, again[SL_REGION_BLOCKS];
    uint64_t index, index_again, applied;
    int error = sl_replica_read_barrier_co(replica);
    applied = replica->applied;
    memset(own, 0, SL_BLOCK_BYTES);
    if (error == 0)
        error = sl_store_region_crcs_co(replica->log, walk->chunk, region, &index, own);
    for (unsigned i = 0; error == 0 && i < walk->config.count; i++) {
        struct sl_capsule_compare body;
        walk->copies[i] = (struct copy){0};
        if (walk->config.members[i].id == replica->id) {
            take_own(&walk->copies[i], own);
            *suspect |= walk->copies[i].damaged;
            continue;
        }
        fill(walk, SL_COMPARE_BLOCKS, applied, &body);
        body.place = region;
        body.region_index = index;
        if (ask_co(walk, i, &body) < 0)
            continue; /* it has no voice */
        take_answer(&walk->copies[i], &body, own);
        *suspect |= body.differ | body.open;
    }
    if (error == 0)
        error = sl_replica_read_barrier_co(replica);
    if (error == 0)
        error = sl_store_region_crcs_co(replica->log, walk->chunk, region, &index_again, again);
    if (error == 0 && (index != index_again || memcmp(own, again, sizeof(again)) != 0))
        error = -EAGAIN; /* it was written meanwhile: next time */
    return error;
}

static int compare_region_co(struct walk *walk, unsigned region)
{
    uint64_t suspect = 0;
    int error = gather_co(walk, region, &suspect);
    if (error < 0)
        return error == -EAGAIN ? 0 : error;
    for (unsigned block = 0; block < SL_REGION_BLOCKS; block++) {
        if ((suspect >> block & 1) != 0)
            judge_co(walk, region, block);
    }
    return 0;
}

/* ---- a chunk ---- */

/* Regions in which somebody differs; how much is in the chunk. */
static int compare_regions_co(struct walk *walk, uint64_t *differ, uint64_t *bytes)
{
    struct sl_compare_sum *sums = (void *)walk->page->data;
    int error = sl_replica_read_barrier_co(walk->replica);
    uint64_t applied = walk->replica->applied;
    memset(walk->page->data, 0, SL_BLOCK_BYTES);
    if (error == 0)
        error = sl_compare_sums_co(walk->replica, walk->chunk, sums);
    for (unsigned i = 0; error == 0 && i < SL_CHUNK_REGIONS; i++)
        *bytes += sums[i].index > 0 ? SL_REGION_BYTES : 0;
    for (unsigned i = 0; error == 0 && i < walk->config.count; i++) {
        struct sl_capsule_compare body;
        if (walk->config.members[i].id == walk->replica->id)
            continue;
        fill(walk, SL_COMPARE_REGIONS, applied, &body);
        if (ask_co(walk, i, &body) == 0) /* else another time */
            *differ |= body.differ;
    }
    return error;
}

static int compare_chunk_co(struct walk *walk, uint64_t *bytes)
{
    uint64_t differ = 0;
    walk->config = *sl_raft_get_config(walk->replica->raft);
    walk->page =
        sl_buf_alloc_co(walk->cluster->target->memory, SL_BLOCK_BYTES, SL_RESERVE_ADMISSION);
    int error = walk->page == NULL ? -ENOMEM : compare_regions_co(walk, &differ, bytes);
    for (unsigned region = 0; error == 0 && region < SL_CHUNK_REGIONS; region++) {
        if ((differ >> region & 1) != 0)
            error = compare_region_co(walk, region);
    }
    sl_buf_unref(walk->page);
    walk->cluster->compared.chunk_count += error == 0;
    return error;
}

/* ---- groups ---- */

static void rest_co(struct sl_target_cluster *cluster, uint64_t duration_ns)
{
    if (!cluster->closing)
        (void)sl_wait_queue_until_co(&cluster->stop, sl_cluster_now_ns(cluster) + duration_ns);
}

static void compare_group_co(struct walk *walk)
{
    struct sl_target_cluster *cluster = walk->cluster;
    uint64_t bytes_per_s = cluster->target->storage->config.scrub_bytes_per_s;
    uint64_t chunks = walk->replica->size_bytes / SL_CHUNK_BYTES;
    /* Each await may end the leadership. */
    for (uint64_t chunk = 0; chunk < chunks && leads(walk->replica); chunk++) {
        uint64_t bytes = 0;
        walk->chunk = (uint32_t)chunk;
        if (sl_raft_get_config(walk->replica->raft)->count < 2 ||
            compare_chunk_co(walk, &bytes) < 0)
            return;
        bytes = sl_max(bytes, CHUNK_BYTES_LEAST);
        rest_co(cluster, bytes * SL_NS_PER_S / bytes_per_s);
    }
}

/* In ascending order; NULL: the end. */
static struct sl_replica *next_replica(struct sl_target_cluster *cluster, uint32_t after)
{
    struct sl_replica *next = NULL;
    sl_list_for_each(node, &cluster->replicas)
    {
        struct sl_replica *replica = sl_list_entry(node, struct sl_replica, node);
        if (replica->opened && replica->group > after &&
            (next == NULL || replica->group < next->group))
            next = replica;
    }
    return next;
}

static void comparer_co(void *argument)
{
    struct walk *walk = argument;
    struct sl_target_cluster *cluster = walk->cluster;
    uint64_t pause_ns = cluster->target->storage->config.compare_pause_ns;
    while (!cluster->closing) {
        uint32_t group = 0;
        while (!cluster->closing && (walk->replica = next_replica(cluster, group)) != NULL) {
            group = walk->replica->group;
            compare_group_co(walk);
        }
        cluster->compared.pass_count++;
        rest_co(cluster, pause_ns != 0 ? pause_ns : PASS_PAUSE_NS);
    }
    free(walk);
    sl_cluster_leave(cluster);
}

int sl_compare_start(struct sl_target_cluster *cluster)
{
    const struct sl_storage_config *config = &cluster->target->storage->config;
    if (config->scrub_bytes_per_s == 0 || config->read_only)
        return 0;
    struct walk *walk = calloc(1, sizeof(*walk));
    if (walk == NULL)
        return -ENOMEM;
    walk->cluster = cluster;
    int error = sl_cluster_spawn(cluster, comparer_co, walk);
    if (error < 0)
        free(walk);
    return error;
}
