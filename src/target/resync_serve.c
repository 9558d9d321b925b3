/*
 * The receiver of a resync (docs/replication.md, "Resync").
 *
 *   BEGIN: durable mark "copying" ─► core: COPYING ─► REGIONs, in place ─► END: checkpoint ─► log
 * cut or kept, state, checkpoint ─► core: COPIED
 *
 * From the mark on this replica votes by its last index and term and does nothing else. The mark's
 * root also says as of what the regions were: a resync that was broken off begins there again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/log.h"
#include "store/format_meta.h"
#include "target/cluster.h"
#include "target/replica_state.h"
#include "target/resync_capsule.h"

/* More than any state has: 256 sessions, 256 volumes, skips. */
#define STATE_BYTES_MAX (1 * SL_MIB)

static struct sl_raft_status status_of(const struct sl_replica *replica)
{
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    return status;
}

/* ---- begin ---- */

/* Nothing is applied any more, and the root says so, and from where. */
static int mark_co(struct sl_replica *replica, uint64_t index)
{
    replica->copying = sl_max(replica->copying, index);
    while (replica->applier_running || replica->reader_count > 0)
        sl_wait_queue_co(&replica->progress);
    int error = sl_replica_state_save(replica);
    return error < 0 ? error : sl_store_checkpoint_co(replica->store);
}

/* Nothing was overwritten yet. The mark goes from the disk at once: what is taken from now on it
 * does not know. */
static void unmark_co(struct sl_replica *replica, uint64_t mark)
{
    replica->copying = mark;
    sl_replica_tick(replica); /* goes on applying */
    if (sl_replica_state_save(replica) == 0)
        (void)sl_store_checkpoint_co(replica->store);
}

/* Older than what is here by now: the next one will do. A replica that is marked takes a state as
 * old as its own as well: nothing but a state ends a resync that was broken off. */
static bool is_outdated(const struct sl_replica *replica, uint64_t mark,
                        const struct sl_capsule_resync *body)
{
    struct sl_raft_status status = status_of(replica);
    return body->index < sl_max(status.commit.value, mark) || body->index < replica->applied ||
           (body->index == replica->applied && mark == 0) || body->term < status.term.value;
}

static int tell_core_co(struct sl_replica *replica, const struct sl_capsule_resync *body)
{
    struct sl_raft_event event = {.kind = SL_RAFT_COPYING,
                                  .copying = {.term = sl_term_of(body->term),
                                              .index = sl_index_of(body->index),
                                              .index_term = sl_term_of(body->index_term)}};
    return sl_replica_event_co(replica, &event);
}

static bool log_has(const struct sl_replica *replica, const struct sl_capsule_resync *body)
{
    uint64_t term = sl_raft_term_at(replica->raft, sl_index_of(body->index)).value;
    return term != 0 && term == body->index_term;
}

/* The core says -EALREADY if the log has the state's entry by then. */
static int begin_co(struct sl_replica *replica, const struct sl_capsule_resync *body,
                    uint64_t *have)
{
    uint64_t mark = replica->copying;
    if (is_outdated(replica, mark, body))
        return -EAGAIN;
    if (mark == 0 && log_has(replica, body) && tell_core_co(replica, body) == -EALREADY)
        return -EAGAIN;
    replica->resync_index = 0; /* of an older source: it ends here */
    int error = mark_co(replica, body->index);
    /* It may have got further while the mark was written. */
    if (error == 0 && is_outdated(replica, mark, body))
        error = -EAGAIN;
    if (error == 0)
        error = tell_core_co(replica, body);
    if (error < 0) {
        unmark_co(replica, mark);
        return error == -EALREADY ? -EAGAIN : error;
    }
    replica->resync_from = body->from;
    replica->resync_term = body->term;
    replica->resync_index = body->index;
    *have = replica->applied;
    sl_log_info("raft", "group %u: takes the state at %llu over, from %llu on", replica->group,
                (unsigned long long)body->index, (unsigned long long)replica->applied);
    return 0;
}

static bool is_current(const struct sl_replica *replica, const struct sl_capsule_resync *body)
{
    return replica->resync_index != 0 && replica->resync_index == body->index &&
           replica->resync_from == body->from && replica->resync_term == body->term;
}

/* ---- regions ---- */

static int check_crcs(const struct sl_span *span, const uint32_t *crcs, uint64_t lost)
{
    for (unsigned i = 0; i < SL_REGION_BLOCKS; i++) {
        if ((lost >> i & 1) == 0 &&
            sl_crc32c(0, span->data + i * SL_BLOCK_BYTES, SL_BLOCK_BYTES) != crcs[i])
            return -SL_E_CHECKSUM;
    }
    return 0;
}

/* Of the blocks that the source has lost, what is whole here in that very version is put into its
 * place. `lost`: which are lost here, too. Any other error says nothing of the blocks: they may be
 * all that is left. */
static int keep_own_co(struct sl_replica *replica, const struct sl_capsule_resync *body,
                       const struct sl_resync_page *page, const struct sl_span *span,
                       uint64_t *lost)
{
    uint32_t own[SL_REGION_BLOCKS];
    uint64_t index;
    int error = sl_store_region_crcs_co(replica->log, body->chunk, body->region, &index, own);
    *lost = page->lost;
    for (unsigned i = 0; error == 0 && i < SL_REGION_BLOCKS; i++) {
        struct sl_span block = *span;
        block.data += i * SL_BLOCK_BYTES;
        block.length_bytes = SL_BLOCK_BYTES;
        if ((*lost >> i & 1) == 0 || own[i] != page->crcs[i] || own[i] == SL_CRC_DAMAGED)
            continue;
        error =
            sl_store_read_into_co(replica->log, body->chunk,
                                  (uint16_t)(body->region * SL_REGION_BLOCKS + i), 1, &block, 1);
        if (error == 0)
            *lost &= ~(UINT64_C(1) << i);
        else if (error == -SL_E_CHECKSUM || error == -EIO)
            error = 0;
    }
    if (error == 0 && *lost != 0)
        sl_log_error("raft",
                     "group %u: %d blocks of region %u of chunk %u are taken over as lost: no "
                     "replica can give them now",
                     replica->group, __builtin_popcountll(*lost), body->region, body->chunk);
    return error;
}

static int region_co(struct sl_replica *replica, struct sl_received *received)
{
    const struct sl_capsule_resync *body = (const void *)&received->capsule;
    struct sl_iobuf data;
    sl_iobuf_init(&data);
    if (!is_current(replica, body))
        return -ESTALE;
    if (received->payload_bytes != SL_BLOCK_BYTES || body->piece_count != 1 ||
        (uint64_t)body->chunk >= replica->size_bytes / SL_CHUNK_BYTES ||
        body->region >= SL_CHUNK_REGIONS)
        return -SL_E_PROTOCOL;
    struct sl_buf *buf =
        sl_buf_alloc_co(replica->cluster->target->memory, SL_REGION_BYTES, SL_RESERVE_INTAKE);
    if (buf == NULL)
        return -ENOMEM;
    struct sl_span span = sl_buf_span(buf, 0, SL_REGION_BYTES);
    const struct sl_resync_page *page = (const void *)received->payload->data;
    int error = sl_connection_read_co(received->connection, &span, 1, body->pieces, 1);
    if (error == 0)
        error = check_crcs(&span, page->crcs, page->lost);
    uint64_t lost = 0;
    if (error == 0 && page->lost != 0)
        error = keep_own_co(replica, body, page, &span, &lost);
    /* Meanwhile another source may have begun. */
    if (error == 0 && !is_current(replica, body))
        error = -ESTALE;
    if (error == 0)
        error = sl_iobuf_append_buf(&data, buf, 0, SL_REGION_BYTES);
    if (error == 0)
        error = sl_store_region_put_co(replica->log, body->chunk, body->region, body->index, &data,
                                       page->crcs, lost);
    sl_iobuf_fini(&data);
    sl_buf_unref(buf);
    return error;
}

/* ---- end ---- */

/* The log behind the state's index stays if its entry there is the same. */
static int fit_log_co(struct sl_replica *replica, const struct sl_replica_memory *memory)
{
    struct sl_store_group_status status;
    struct sl_store_entry entry = {0};
    sl_store_group_status(replica->log, &status);
    if (memory->index >= status.last_index)
        return 0;
    (void)sl_store_entry_get(replica->log, memory->index, &entry);
    if (entry.index == memory->index && entry.term == memory->term)
        return 0;
    return sl_store_truncate_co(replica->log, memory->index + 1);
}

/* Regions are in their places, durably; the rest changes in one moment, and with one root. */
static int install_co(struct sl_replica *replica, const struct sl_replica_memory *memory)
{
    int error = sl_store_checkpoint_co(replica->store);
    if (error == 0)
        error = fit_log_co(replica, memory);
    uint64_t *sessions = error == 0 ? malloc(memory->session_bytes + 8) : NULL;
    if (sessions == NULL)
        return error < 0 ? error : -ENOMEM;
    memcpy(sessions, memory->sessions, memory->session_bytes); /* header: sessions */
    error = sl_session_load(replica->sessions, sessions, memory->session_bytes);
    free(sessions);
    if (error < 0)
        return error;
    replica->applied_config = memory->config;
    replica->skip_count = 0;
    replica->applied = memory->index;
    uint64_t copying = replica->copying;
    replica->copying = 0;
    error = sl_replica_state_install(replica, memory->index, memory->term);
    replica->copying = copying; /* until it is durable */
    return error < 0 ? error : sl_store_checkpoint_co(replica->store);
}

static int take_state_co(struct sl_replica *replica, struct sl_received *received,
                         struct sl_replica_memory *memory, struct sl_buf **result)
{
    const struct sl_capsule_resync *body = (const void *)&received->capsule;
    if (body->piece_count != 1 || body->state_bytes == 0 || body->state_bytes > STATE_BYTES_MAX)
        return -SL_E_PROTOCOL;
    struct sl_buf *buf =
        sl_buf_alloc_co(replica->cluster->target->memory, body->state_bytes, SL_RESERVE_INTAKE);
    if (buf == NULL)
        return -ENOMEM;
    *result = buf;
    struct sl_span span = sl_buf_span(buf, 0, body->state_bytes);
    int error = sl_connection_read_co(received->connection, &span, 1, body->pieces, 1);
    if (error < 0)
        return error;
    const char *why = sl_replica_state_parse(buf->data, body->state_bytes, memory);
    if (why != NULL)
        sl_log_warn("raft", "group %u: the state that was sent is refused: %s", replica->group,
                    why);
    return why != NULL || memory->index != body->index || memory->term != body->index_term ||
                   memory->config.count == 0 || memory->session_bytes == 0
               ? -SL_E_PROTOCOL
               : 0;
}

static int end_co(struct sl_replica *replica, struct sl_received *received)
{
    const struct sl_capsule_resync *body = (const void *)&received->capsule;
    struct sl_replica_memory memory = {0};
    struct sl_buf *buf = NULL;
    if (!is_current(replica, body))
        return -ESTALE;
    int error = take_state_co(replica, received, &memory, &buf);
    if (error == 0 && !is_current(replica, body))
        error = -ESTALE;
    replica->resync_index = 0; /* once only */
    if (error == 0)
        error = install_co(replica, &memory);
    if (error == 0) {
        struct sl_raft_event event = {.kind = SL_RAFT_COPIED,
                                      .copied = {.index = sl_index_of(memory.index),
                                                 .term = sl_term_of(memory.term),
                                                 .config = &memory.config}};
        replica->copying = 0;
        error = sl_replica_event_co(replica, &event);
        sl_log_info("raft", "group %u: has the state at %llu", replica->group,
                    (unsigned long long)memory.index);
    }
    sl_buf_unref(buf);
    return error;
}

/* ---- all of them ---- */

void sl_cluster_serve_resync_co(struct sl_target_cluster *cluster, struct sl_received *received)
{
    const struct sl_capsule_resync *body = (const void *)&received->capsule;
    struct sl_replica *replica = sl_cluster_find(cluster, body->group);
    union sl_capsule reply = {0};
    struct sl_capsule_resync *out = (void *)&reply;
    uint64_t have = 0;
    int error = -SL_E_PROTOCOL;
    if (replica == NULL || replica->id != body->to)
        error = -ENOENT;
    else if (replica->failed)
        error = -EIO;
    else if (replica->resync_busy && body->step != SL_RESYNC_REGION)
        error = -EAGAIN;
    else if (body->step == SL_RESYNC_REGION)
        error = region_co(replica, received);
    else {
        replica->resync_busy = true;
        if (body->step == SL_RESYNC_BEGIN)
            error = begin_co(replica, body, &have);
        else if (body->step == SL_RESYNC_END)
            error = end_co(replica, received);
        replica->resync_busy = false;
    }
    if (error < 0 && error != -EAGAIN && error != -ESTALE && !cluster->closing)
        sl_log_warn("raft", "group %u: a step of a resync fails: %s (%s)", body->group,
                    sl_error_text(error), sl_error_name(error));
    out->header.type = SL_CAPSULE_REPLY;
    out->header.length_bytes = sizeof(*out);
    out->header.status = sl_status_from_errno(error);
    out->op = SL_RAFT_OP_RESYNC;
    out->index = have;
    sl_connection_reply(received, &reply);
}
