/*
 * Checkpoints: what the oldest segments of the log hold gets a home elsewhere, a root says so, the
 * segments are free.
 *
 *   apply what is older than the cut ─► move what cannot be applied to the head ─► metadata of
 *   changed chunks ─► flush ─► root, two copies ─► flush ─► tail = cut
 *
 * A checkpoint never waits for room in the log but for what it moves, and for that segments are in
 * reserve. It runs beside everything else; only the building of the root's body is one moment.
 * docs/disk-format.md, "Order of writes".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "store/chunk.h"

/* Begins when so much of the log is in use, and frees down to so much, in percent: what is
 * overwritten in between never has to be applied. */
#define BEGIN_PERCENT 60
#define END_PERCENT   30
/* What is held for a reader that is behind goes when so much of the log is in use; writes wait for
 * it before that. */
#define HELD_PERCENT        85
#define HELD_STRICT_PERCENT 75
#define HELD_WAIT_NS        SL_NS_PER_S
/* A hold that moves on by fewer entries stands: nothing of the log would go. */
#define HELD_STEP 8u
/* After an error of the medium. */
#define RETRY_NS (100 * SL_NS_PER_MS)

/* ---- moving ---- */

/* What a group's log must keep: above it, entries that lie in old segments are moved. */
static uint64_t needed_above(const struct sl_store_group *group)
{
    return group->has_state ? sl_min(group->state_index, group->applied_index)
                            : group->applied_index;
}

/* The oldest of those that are held. Any of them: the first may have been moved in front of those
 * behind it. What is held lies behind every cut, then; so cuts need not look at holds again, and
 * one that comes when a cut is chosen changes nothing of it. */
static uint64_t held_generation(const struct sl_store_group *group)
{
    uint64_t oldest = SL_GENERATION_NONE;
    if (group->held == SL_HELD_NONE)
        return oldest;
    for (uint64_t index = sl_max(group->held + 1, group->log.first); index <= group->log.last;
         index++) {
        const struct entry *entry = store_log_get(group, index);
        if (entry != NULL)
            oldest = sl_min(oldest, entry->generation);
    }
    return oldest;
}

/* Oldest segment with an entry that its log must keep; SL_GENERATION_NONE: none. */
static uint64_t pinned_generation(struct sl_store *store)
{
    uint64_t oldest = SL_GENERATION_NONE;
    struct sl_store_group *group = NULL;
    for (uint64_t after = 0; (group = sl_store_group_next(store, after)) != NULL;
         after = group->id) {
        for (uint64_t index = sl_max(needed_above(group) + 1, group->log.first);
             index <= group->log.last; index++) {
            const struct entry *entry = store_log_get(group, index);
            if (entry != NULL && (entry->flags & SL_ENTRY_FAULTY) == 0)
                oldest = sl_min(oldest, entry->generation);
        }
        oldest = sl_min(oldest, held_generation(group));
    }
    return oldest;
}

/* What is moved together: in shared batches, and little memory. */
#define MOVE_BYTES_MAX   SL_MIB
#define MOVE_ENTRIES_MAX 64u

struct move {
    struct entry *entries[MOVE_ENTRIES_MAX];
    bool loaded[MOVE_ENTRIES_MAX]; /* from disk, for this */
    unsigned count;
    uint64_t bytes;
};

static bool has_payload(const struct entry *entry)
{
    return sl_entry_has_payload(entry->type) && entry->block_count > 0;
}

static bool is_to_be_moved(const struct entry *entry)
{
    return entry->in_log && (entry->flags & SL_ENTRY_FAULTY) == 0;
}

/* Has its payload in memory; what becomes visible meanwhile may let go of it at any await. */
static int load_for_move_co(struct sl_store *store, struct entry *entry, bool *loaded)
{
    int error = 0;
    while (error == 0 && is_to_be_moved(entry) && has_payload(entry) && entry->span_count == 0) {
        *loaded = true;
        error = store_entry_load_co(store, entry);
        if (error == -SL_E_CHECKSUM)
            error = 0; /* known as faulty from now on */
    }
    return error;
}

/* Before the first is added: what is added one after another while others are read would go into a
 * batch each, and take more of the log than it frees. */
static int load_together_co(struct sl_store *store, struct move *move)
{
    int error = 0;
    for (unsigned i = 0; i < move->count && error == 0; i++) {
        move->loaded[i] = false;
        move->entries[i]->flags |= SL_ENTRY_MOVING;
        error = load_for_move_co(store, move->entries[i], &move->loaded[i]);
    }
    return error;
}

/* Writes them again, as they are, behind the head; durable on return. */
static int move_together_co(struct sl_store *store, struct move *move)
{
    struct sl_store_wait wait;
    bool waiting = false;
    int error = load_together_co(store, move);
    for (unsigned i = 0; i < move->count && error == 0; i++) {
        struct entry *entry = move->entries[i];
        uint64_t blocks = 1 + (has_payload(entry) ? entry->block_count : 0u);
        error = wal_room_co(store, blocks, 0);
        if (error < 0)
            break;
        error = load_for_move_co(store, entry, &move->loaded[i]);
        /* It may have been truncated meanwhile. */
        if (error == 0 && is_to_be_moved(entry)) {
            struct sl_record record;
            store_entry_record(entry, &record);
            /* In order: the last one's wait is enough, but all of them go into lists. */
            if (waiting)
                sl_list_remove(&wait.node);
            wal_add(store, &record, entry, blocks, &wait);
            waiting = true;
            store->statistics.rewritten_count++;
        } else {
            wal_room_give(store, blocks);
        }
    }
    if (waiting) {
        int result = sl_store_durable_co(&wait);
        error = error < 0 ? error : result;
    }
    for (unsigned i = 0; i < move->count; i++) {
        move->entries[i]->flags &= (uint8_t)~SL_ENTRY_MOVING;
        if (move->loaded[i] && sl_list_is_empty(&move->entries[i]->pending))
            store_entry_drop_payload(store, move->entries[i]);
        store_entry_unref(store, move->entries[i]);
    }
    move->count = 0;
    move->bytes = 0;
    return error;
}

/* Entries in front of `cut` that stay in their logs. */
static int move_all_co(struct sl_store *store, uint64_t cut)
{
    struct move *move = calloc(1, sizeof(*move));
    struct sl_store_group *group = NULL;
    int error = move == NULL ? -ENOMEM : 0;
    for (uint64_t after = 0; error == 0 && (group = sl_store_group_next(store, after)) != NULL;
         after = group->id) {
        uint64_t index = sl_max(needed_above(group) + 1, group->log.first);
        for (; index <= group->log.last && error == 0; index++) {
            struct entry *entry = store_log_get(group, index);
            if (entry == NULL || entry->generation >= cut || (entry->flags & SL_ENTRY_FAULTY) != 0)
                continue;
            store_entry_ref(entry);
            move->entries[move->count++] = entry;
            move->bytes += (uint64_t)entry->block_count * SL_BLOCK_BYTES;
            if (move->count == MOVE_ENTRIES_MAX || move->bytes >= MOVE_BYTES_MAX)
                error = move_together_co(store, move);
        }
    }
    if (move != NULL && move->count > 0) {
        int result = move_together_co(store, move);
        error = error < 0 ? error : result;
    }
    free(move);
    return error;
}

/* ---- applying ---- */

/* How far each group has to be applied: to the newest entry in front of `cut` that its log can
 * spare. All up to there, also those that were moved to a newer segment: the boundary passes them.
 */
static void set_apply_to(struct sl_store *store, uint64_t cut)
{
    struct sl_store_group *group = NULL;
    for (uint64_t after = 0; (group = sl_store_group_next(store, after)) != NULL;
         after = group->id) {
        uint64_t index = sl_min(needed_above(group), group->log.last);
        for (; index >= group->log.first && index > group->apply_to; index--) {
            const struct entry *entry = store_log_get(group, index);
            if (entry != NULL && entry->generation < cut)
                group->apply_to = index;
        }
    }
}

static bool is_pending_below(struct sl_store *store)
{
    sl_list_for_each(node, &store->pending)
    {
        const struct entry *entry = sl_list_entry(node, struct entry, pending);
        if (entry->index <= entry->group->apply_to)
            return true;
    }
    return false;
}

static int apply_below_co(struct sl_store *store, uint64_t cut)
{
    set_apply_to(store, cut);
    store->apply_forced = true;
    while (store->failed == 0 && is_pending_below(store)) {
        appliers_kick(store);
        sl_wait_queue_co(&store->apply_progress);
    }
    store->apply_forced = false;
    return store->failed;
}

/* ---- chunks' metadata ---- */

static void fill_meta(const struct chunk *chunk, uint32_t version, void *meta)
{
    const struct sl_store *store = chunk->group->store;
    struct sl_chunk_header *header = meta;
    memset(meta, 0, SL_BLOCK_BYTES);
    memcpy(header->disk_id, store->superblock->disk_id, sizeof(header->disk_id)); /* header: id */
    header->group = chunk->group->id;
    header->number = chunk->number;
    header->version = version;
    header->chunk = chunk->place;
    header->shard = store->config.shard;
    memcpy(header->regions, chunk->table->regions, sizeof(header->regions)); /* header: map */
    memcpy((uint8_t *)meta + SL_BLOCK_BYTES, chunk->table->crcs,             /* header: CRCs */
           SL_CHUNK_TABLE_BYTES);
    sl_chunk_seal(meta);
}

static void bits_change(uint64_t *bits, uint32_t slot, bool set)
{
    if (slot == SL_SLOT_NONE)
        return;
    if (set)
        bits[slot / 64] |= UINT64_C(1) << slot % 64;
    else
        bits[slot / 64] &= ~(UINT64_C(1) << slot % 64);
}

/* What the next root will say of its slots and version, in the same moment as the metadata. */
static void note_meta(struct chunk *chunk, uint32_t version)
{
    struct sl_store *store = chunk->group->store;
    for (unsigned i = 0; chunk->written_slots != NULL && i < SL_CHUNK_REGIONS; i++)
        bits_change(store->slots_next, chunk->written_slots[i], false);
    for (unsigned i = 0; chunk->written_slots != NULL && i < SL_CHUNK_REGIONS; i++)
        bits_change(store->slots_next, chunk->table->regions[i].slot, true);
    store->next_versions[chunk->place] = version;
}

static int write_meta_co(struct chunk *chunk)
{
    struct sl_store *store = chunk->group->store;
    uint32_t version = store->root_versions[chunk->place] + 1;
    struct sl_buf *buf =
        sl_buf_alloc_co(store->config.memory, SL_CHUNK_META_BYTES, SL_RESERVE_CHECKPOINT);
    if (buf == NULL)
        return -ENOMEM;
    uint64_t dirty_index = chunk->dirty_index;
    uint32_t *written_slots = chunk->written_slots;
    fill_meta(chunk, version, buf->data);
    note_meta(chunk, version);
    /* What changes from now on makes it dirty again. */
    chunk->dirty_index = SL_INDEX_NONE;
    chunk->written_slots = NULL;
    struct sl_span span = sl_buf_span(buf, 0, SL_CHUNK_META_BYTES);
    int error =
        sl_disk_rw_co(store->config.disk, SL_DISK_WRITE, &span, 1,
                      chunk_meta_offset(store, chunk->place, version), SL_CHUNK_META_BYTES, 0);
    sl_buf_unref(buf);
    store->statistics.meta_bytes += SL_CHUNK_META_BYTES;
    store->meta_written[store->meta_written_count++] =
        (struct meta_written){chunk->place, dirty_index, written_slots};
    return error;
}

/* The root is not made: chunks are as dirty as they were. */
static void unwrite_metas(struct sl_store *store)
{
    for (uint32_t i = 0; i < store->meta_written_count; i++) {
        struct meta_written *written = &store->meta_written[i];
        struct chunk *chunk = store->places[written->place];
        if (chunk == NULL) {
            free(written->slots);
            continue;
        }
        chunk->dirty_index = sl_min(chunk->dirty_index, written->dirty_index);
        if (written->slots != NULL) {
            free(chunk->written_slots);
            chunk->written_slots = written->slots;
        }
    }
    store->meta_written_count = 0;
    size_t words = store->slot_count / 64 + 1;
    memcpy(store->slots_next, store->slots_root, words * sizeof(uint64_t)); /* header: bitmap */
    for (size_t i = 0; i < words; i++)
        store->slots_dropped[i] &= store->slots_root[i];
    slots_recount(store);
}

void settle_checkpoint(struct sl_store *store)
{
    for (uint32_t i = 0; i < store->meta_written_count; i++)
        free(store->meta_written[i].slots);
    store->meta_written_count = 0;
}

static int write_metas_co(struct sl_store *store)
{
    int error = 0;
    size_t words = store->slot_count / 64 + 1;
    memcpy(store->slots_next, store->slots_root, words * sizeof(uint64_t)); /* header: bitmap */
    memcpy(store->next_versions, store->root_versions,                      /* header: versions */
           store->chunk_count * sizeof(uint32_t));
    for (uint32_t place = 0; place < store->chunk_count && error == 0; place++) {
        struct chunk *chunk = store->places[place];
        if (chunk == NULL ||
            (chunk->dirty_index > chunk->group->apply_to && chunk->written_slots == NULL))
            continue;
        chunk->users++; /* dirty: its table is there; nobody removes it meanwhile */
        error = write_meta_co(chunk);
        chunk_unuse(chunk);
    }
    return error;
}

/* ---- the root ---- */

static uint8_t *put_groups(const struct sl_store *store, uint8_t *groups, uint8_t *states)
{
    sl_list_for_each(node, &store->groups)
    {
        const struct sl_store_group *group = sl_list_entry(node, struct sl_store_group, node);
        struct sl_root_group out = {
            .group = group->id,
            .flags = group->deleted ? SL_GROUP_DELETED : 0,
            .state_bytes = group->state_bytes,
            .boundary_index = group->boundary_index,
            .boundary_term = group->boundary_term,
            .term = group->term,
            .vote = group->vote,
            .state_index = group->state_index,
            .applied_index = group->applied_index,
        };
        memcpy(groups, &out, sizeof(out)); /* header: group */
        groups += sizeof(out);
        if (group->state_bytes > 0)
            memcpy(states, group->state, group->state_bytes); /* header: state */
        states += sl_align_up(group->state_bytes, 8);
    }
    return states;
}

/* One moment of the store: nothing is awaited here. */
static uint8_t *build_root(struct sl_store *store, uint64_t cut, uint64_t cut_sequence,
                           struct sl_root_header *header)
{
    *header = (struct sl_root_header){
        .sequence = store->root_sequence + 1,
        .tail_generation = cut,
        .head_generation = store->wal.head_generation,
        .durable_sequence = store->wal.durable_sequence,
        .slot_count = store->slot_count,
        .shard = store->config.shard,
        .tail_sequence = cut_sequence,
    };
    memcpy(header->disk_id, store->superblock->disk_id, sizeof(header->disk_id)); /* header: id */
    for (uint32_t place = 0; place < store->chunk_count; place++) {
        if (store->places[place] == NULL)
            store->next_versions[place] = 0;
        if (store->next_versions[place] != 0)
            header->chunk_count = place + 1;
    }
    sl_list_for_each(node, &store->groups)
    {
        header->group_count++;
    }
    struct sl_root_parts parts = sl_root_parts(header);
    uint8_t *body = calloc(1, parts.states + store->state_bytes + 8);
    if (body == NULL)
        return NULL;
    struct sl_root_chunk *chunks = (struct sl_root_chunk *)(void *)body;
    for (uint32_t place = 0; place < header->chunk_count; place++) {
        if (store->next_versions[place] != 0)
            chunks[place] =
                (struct sl_root_chunk){store->places[place]->group->id,
                                       store->places[place]->number, store->next_versions[place]};
    }
    for (uint32_t i = 0; i < (store->slot_count + 63) / 64; i++)
        store->slots_next[i] &= ~store->slots_dropped[i];
    memcpy(body + parts.bitmap, store->slots_next,
           parts.groups - parts.bitmap); /* header: bitmap */
    header->body_bytes =
        (uint64_t)(put_groups(store, body + parts.groups, body + parts.states) - body);
    sl_root_seal(header, body);
    return body;
}

static int write_root_co(struct sl_store *store, const struct sl_root_header *header,
                         const uint8_t *body)
{
    int error = 0;
    unsigned first = header->sequence % 2 * 2;
    for (unsigned copy = first; copy < first + 2 && error == 0; copy++) {
        uint64_t offset = store->shard->roots_offset + copy * store->shard->root_bytes;
        error = store_write_bytes_co(store->config.disk, store->config.memory,
                                     offset + SL_BLOCK_BYTES, body, header->body_bytes);
        if (error == 0)
            error = store_write_bytes_co(store->config.disk, store->config.memory, offset, header,
                                         sizeof(*header));
    }
    store->statistics.meta_bytes +=
        2 * (SL_BLOCK_BYTES + sl_align_up(header->body_bytes, SL_BLOCK_BYTES));
    if (error == 0)
        return store_flush_co(store);
    /* It may be there or not: a second one of this sequence could contradict it after a crash. */
    store_fail(store, error, "a root's write", store->shard->roots_offset);
    return error;
}

/* ---- a checkpoint ---- */

/* The root is durable: what it no longer needs is free. */
static void take_effect(struct sl_store *store, uint64_t cut, uint64_t cut_sequence)
{
    uint32_t *versions = store->root_versions;
    uint64_t *slots = store->slots_root;
    store->root_sequence++;
    store->root_versions = store->next_versions;
    store->next_versions = versions;
    memcpy(versions, store->root_versions, /* header: versions */
           store->chunk_count * sizeof(uint32_t));
    store->slots_root = store->slots_next;
    store->slots_next = slots;
    memcpy(slots, store->slots_root, /* header: bitmap */
           (store->slot_count / 64 + 1) * sizeof(uint64_t));
    for (uint32_t i = 0; i < (store->slot_count + 63) / 64; i++)
        store->slots_dropped[i] &= store->slots_root[i];
    slots_recount(store);
    settle_checkpoint(store);
    store->wal.tail_generation = cut;
    store->wal.tail_sequence = cut_sequence;
    sl_list_for_each(node, &store->groups)
    {
        struct sl_store_group *group = sl_list_entry(node, struct sl_store_group, node);
        if (group->deleted && group->deleted_generation < cut && sl_list_is_empty(&group->chunks)) {
            store->state_bytes -= sizeof(struct sl_root_group) + sl_align_up(group->state_bytes, 8);
            store_group_free(group);
        }
    }
    store->statistics.checkpoint_count++;
    wal_room_wake(store);
}

static int make_root_co(struct sl_store *store, uint64_t cut)
{
    struct wal *wal = &store->wal;
    sl_list_for_each(node, &store->groups)
    {
        store_log_trim(sl_list_entry(node, struct sl_store_group, node));
    }
    bool begun = cut < wal->head_generation || wal->head_position > 0;
    uint64_t cut_sequence =
        begun ? wal->first_sequences[cut % wal->segment_count] : wal->next_sequence;
    struct sl_root_header *header = malloc(sizeof(*header));
    uint8_t *body = header == NULL ? NULL : build_root(store, cut, cut_sequence, header);
    int error = body == NULL ? -ENOMEM : write_root_co(store, header, body);
    free(body);
    free(header);
    /* Reads of an old segment may be on their way. */
    unsigned phase = store->log_phase;
    store->log_phase ^= 1;
    while (error == 0 && store->log_readers[phase] > 0)
        sl_wait_queue_co(&store->apply_progress);
    if (error == 0)
        take_effect(store, cut, cut_sequence);
    return error;
}

/* What was cut off was not moved: a root that frees its segment without the truncation being
 * durable would leave holes in front of what is cut off and lies behind the cut. They end in the
 * order in which they began; later ones cut off only what lies behind the cut already. */
static int await_truncations_co(struct sl_store *store)
{
    uint64_t begun = store->wal.truncate_count;
    while (store->failed == 0 && store->wal.truncated_count < begun)
        sl_wait_queue_co(&store->wal.durable);
    return store->failed;
}

static int run_co(struct sl_store *store, uint64_t cut)
{
    int error = 0;
    wal_settle_co(store, cut);
    /* What became visible while other entries were moved was not applied: until neither is left.
     * What is appended meanwhile lies behind the cut. */
    do {
        error = apply_below_co(store, cut);
        if (error == 0)
            error = move_all_co(store, cut);
        set_apply_to(store, cut);
    } while (error == 0 && is_pending_below(store));
    if (error == 0)
        error = await_truncations_co(store);
    if (error == 0)
        error = write_metas_co(store);
    if (error == 0)
        error = store_flush_co(store);
    if (error == 0)
        error = make_root_co(store, cut);
    if (error < 0)
        unwrite_metas(store);
    return error;
}

/* ---- when ---- */

static uint64_t used_segments(const struct wal *wal)
{
    return wal->head_generation - wal->tail_generation + 1;
}

static bool is_short(const struct sl_store *store)
{
    return wal_free_segments(&store->wal) <= SL_WAL_RESERVE_SEGMENTS + 1 ||
           store->wal.waiter_count > 0;
}

/* Whoever is fed from here has to begin anew; that comes before anybody has to wait for room. */
static void end_holds(struct sl_store *store)
{
    struct wal *wal = &store->wal;
    if (used_segments(wal) * 100 < (uint64_t)wal->segment_count * HELD_PERCENT && !is_short(store))
        return;
    sl_list_for_each(node, &store->groups)
    {
        sl_store_release(sl_list_entry(node, struct sl_store_group, node));
    }
}

/* The first segment that is kept. Entries that cannot be applied yet hold it back, until segments
 * are short: then those of the oldest segment are moved. */
static uint64_t choose_cut(struct sl_store *store)
{
    struct wal *wal = &store->wal;
    uint64_t keep = sl_max((uint64_t)wal->segment_count * END_PERCENT / 100, UINT64_C(1));
    uint64_t cut = wal->tail_generation;
    if (store->checkpoint_all) {
        wal_roll(store);
        cut = wal->head_generation;
    } else if (used_segments(wal) > keep) {
        cut = wal->head_generation - keep + 1;
    }
    end_holds(store);
    uint64_t pinned = sl_min(pinned_generation(store), cut);
    if (pinned == wal->tail_generation && cut > pinned && is_short(store))
        return wal->tail_generation + 1;
    return pinned;
}

void sl_store_hold(struct sl_store_group *group, uint64_t index, bool strictly)
{
    bool stands =
        group->held != SL_HELD_NONE && index >= group->held && index - group->held < HELD_STEP;
    if (stands && group->held_strictly == strictly)
        return;
    group->held = index;
    group->held_strictly = strictly;
    wal_room_wake(group->store);
    checkpoint_kick(group->store);
}

void sl_store_release(struct sl_store_group *group)
{
    if (group->held == SL_HELD_NONE)
        return;
    group->held = SL_HELD_NONE;
    wal_room_wake(group->store);
    checkpoint_kick(group->store);
}

/* Who writes faster than the reader reads would outrun it for good. But a reader that is slower by
 * far, as its disk is about to fail, may not make anybody's write fail. */
void store_hold_wait_co(struct sl_store_group *group)
{
    struct sl_store *store = group->store;
    const struct wal *wal = &store->wal;
    uint64_t deadline_ns = sl_reactor_clock_ns(store->reactor) + HELD_WAIT_NS;
    while (store->failed == 0 && !store->stopping && group->held != SL_HELD_NONE &&
           group->held_strictly &&
           (used_segments(wal) * 100 >= (uint64_t)wal->segment_count * HELD_STRICT_PERCENT ||
            wal_free_segments(wal) <= SL_WAL_RESERVE_SEGMENTS + 2)) {
        if (sl_wait_queue_until_co(&store->wal.room, deadline_ns) == -ETIMEDOUT)
            return;
    }
}

static bool is_due(const struct sl_store *store)
{
    const struct wal *wal = &store->wal;
    return store->checkpoint_wanted ||
           used_segments(wal) * 100 >= (uint64_t)wal->segment_count * BEGIN_PERCENT ||
           wal->waiter_count > 0;
}

static void checkpointer_co(void *argument)
{
    struct sl_store *store = argument;
    while (!store->closing) {
        bool due = store->failed == 0 && is_due(store);
        if (due && store->config.checkpointing != NULL)
            store->config.checkpointing(store->config.context, store);
        uint64_t cut = due ? choose_cut(store) : 0;
        if (!due || (cut == store->wal.tail_generation && !store->checkpoint_wanted)) {
            sl_wait_queue_co(&store->checkpoint_work);
            continue;
        }
        store->checkpoint_running = true;
        store->checkpoint_wanted = false;
        int error = run_co(store, cut);
        store->checkpoint_all = false;
        store->checkpoint_running = false;
        store->checkpoint_number++;
        store->checkpoint_result = error;
        sl_wait_queue_wake_all(&store->checkpoint_done, 0);
        if (error == 0)
            store->failures_in_a_row = 0;
        else if (store->stopping || ++store->failures_in_a_row >= SL_FAILURES_MAX)
            store_fail(store, error, "a checkpoint", 0);
        if (error < 0 && store->failed == 0) {
            sl_log_error("store",
                         "%s: no checkpoint could be written to shard %u: %s (%s); it is tried "
                         "again, and writes wait when the log is full",
                         store->config.name, store->config.shard, sl_error_text(error),
                         sl_error_name(error));
            sl_sleep_co(RETRY_NS);
        }
    }
    store->background_count--;
    sl_wait_queue_wake_all(&store->apply_progress, 0);
}

int checkpointer_start(struct sl_store *store)
{
    int error = sl_co_spawn(store->reactor, checkpointer_co, store);
    if (error == 0)
        store->background_count++;
    return error;
}

void checkpoint_kick(struct sl_store *store)
{
    if (!sl_wait_queue_is_empty(&store->checkpoint_work) && is_due(store))
        sl_wait_queue_wake_all(&store->checkpoint_work, 0);
}

int sl_store_checkpoint_co(struct sl_store *store)
{
    if (store->config.read_only)
        return -EROFS;
    /* One that runs already began before what the caller has done. */
    uint64_t number = store->checkpoint_number + (store->checkpoint_running ? 2 : 1);
    while (store->checkpoint_number < number && store->failed == 0) {
        store->checkpoint_wanted = true;
        store->checkpoint_all = true;
        checkpoint_kick(store);
        sl_wait_queue_co(&store->checkpoint_done);
    }
    return store->failed != 0 ? store->failed : store->checkpoint_result;
}
