/*
 * Groups and their logs in memory: which entries there are, where each lies on disk, and the
 * payload while it is in memory too.
 *
 * Invariants: the ring holds [first, last]; a NULL in it is an entry that recovery knows to be
 * missing. An entry lives while it is in a log or somebody refers to it; its payload leaves memory
 * when it is in its chunk, or superseded.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "store/chunk.h"

#define RING_LEAST 16

/* ---- entries ---- */

/* One piece of memory: entry, spans, owners, CRCs, extra. */
struct entry *store_entry_make(const struct sl_record *record, const struct sl_iobuf *payload)
{
    unsigned span_count = payload != NULL ? payload->span_count : 0;
    unsigned span_room = sl_max(span_count, 1u); /* one for what is loaded from disk */
    size_t crc_bytes = record->crcs != NULL ? record->block_count * sizeof(uint32_t) : 0;
    size_t bytes = sizeof(struct entry) + span_room * (sizeof(struct sl_span) + sizeof(void *)) +
                   sl_align_up(crc_bytes, 8) + record->extra_bytes;
    struct entry *entry = malloc(bytes);
    if (entry == NULL)
        return NULL;
    *entry = (struct entry){
        .index = record->head.index,
        .term = record->head.term,
        .generation = SL_GENERATION_NONE,
        .chunk_number = record->head.chunk,
        .references = 1,
        .first_block = record->first_block,
        .block_count = record->block_count,
        .extra_bytes = record->extra_bytes,
        .span_count = (uint16_t)span_count,
        .type = record->head.type,
    };
    sl_list_init(&entry->pending);
    entry->spans = (struct sl_span *)(entry + 1);
    entry->owners = (struct sl_buf **)(entry->spans + span_room);
    entry->crcs = (uint32_t *)(entry->owners + span_room);
    entry->extra = (uint8_t *)entry->crcs + sl_align_up(crc_bytes, 8);
    for (unsigned i = 0; i < span_count; i++) {
        /* What the log writes later must still be there then. */
        SL_ASSERT(payload->owners[i] != NULL);
        entry->spans[i] = payload->spans[i];
        entry->owners[i] = sl_buf_ref(payload->owners[i]);
    }
    if (crc_bytes > 0)
        memcpy(entry->crcs, record->crcs, crc_bytes); /* header: checksums */
    if (record->extra_bytes > 0)
        memcpy(entry->extra, record->extra, record->extra_bytes); /* header: of the layer above */
    return entry;
}

void store_entry_record(const struct entry *entry, struct sl_record *record)
{
    *record = (struct sl_record){
        .head = {.kind = SL_RECORD_ENTRY,
                 .type = entry->type,
                 .chunk = entry->chunk_number,
                 .group = entry->group->id,
                 .index = entry->index,
                 .term = entry->term},
        .first_block = entry->first_block,
        .block_count = entry->block_count,
        .extra_bytes = entry->extra_bytes,
        .crcs = sl_entry_has_payload(entry->type) ? (const uint8_t *)entry->crcs : NULL,
        .extra = entry->extra,
    };
}

void store_entry_drop_payload(struct sl_store *store, struct entry *entry)
{
    if (entry->span_count == 0)
        return;
    for (unsigned i = 0; i < entry->span_count; i++)
        sl_buf_unref(entry->owners[i]);
    entry->span_count = 0;
    store->held_bytes -= (uint64_t)entry->block_count * SL_BLOCK_BYTES;
    if (!sl_wait_queue_is_empty(&store->apply_progress))
        sl_wait_queue_wake_all(&store->apply_progress, 0);
}

void store_entry_ref(struct entry *entry)
{
    entry->references++;
}

void store_entry_unref(struct sl_store *store, struct entry *entry)
{
    SL_ASSERT(entry->references > 0);
    entry->references--;
    /* Nobody but the log: nothing of it waits for its chunk any more. */
    if (entry->references == (entry->in_log ? 1 : 0) && !sl_list_is_empty(&entry->pending)) {
        sl_list_remove(&entry->pending);
        store->pending_bytes -= (uint64_t)entry->block_count * SL_BLOCK_BYTES;
        store_entry_drop_payload(store, entry);
        sl_wait_queue_wake_all(&store->apply_progress, 0);
        if (sl_list_is_empty(&store->pending) && store_is_pressed(store))
            appliers_kick(store); /* what cannot be applied is next */
    }
    if (entry->references == 0) {
        store_entry_drop_payload(store, entry);
        free(entry);
    }
}

/* ---- the ring ---- */

struct entry *store_log_get(const struct sl_store_group *group, uint64_t index)
{
    const struct log *log = &group->log;
    if (index < log->first || index > log->last)
        return NULL;
    return log->ring[index & (log->capacity - 1)];
}

static int ring_grow(struct log *log)
{
    uint64_t capacity = sl_max(log->capacity * 2, (uint64_t)RING_LEAST);
    struct entry **ring = calloc(capacity, sizeof(struct entry *));
    if (ring == NULL)
        return -ENOMEM;
    for (uint64_t i = log->first; i <= log->last; i++)
        ring[i & (capacity - 1)] = log->ring[i & (log->capacity - 1)];
    free(log->ring);
    log->ring = ring;
    log->capacity = capacity;
    return 0;
}

/* NULL: it is missing. */
int store_log_push(struct sl_store_group *group, uint64_t index, struct entry *entry)
{
    struct log *log = &group->log;
    SL_ASSERT(index == log->last + 1);
    if (index - log->first >= log->capacity) {
        int error = ring_grow(log);
        if (error < 0)
            return error;
    }
    log->last = index;
    log->ring[index & (log->capacity - 1)] = entry;
    if (entry != NULL) {
        entry->group = group;
        entry->in_log = true;
    }
    return 0;
}

void store_log_forget(struct sl_store_group *group, uint64_t index)
{
    struct entry **at = &group->log.ring[index & (group->log.capacity - 1)];
    struct entry *entry = *at;
    *at = NULL;
    if (entry != NULL) {
        /* Blocks of the overlay, or a batch that is not written yet, may still refer to it. */
        entry->in_log = false;
        store_entry_unref(group->store, entry);
    }
}

void store_log_cut(struct sl_store_group *group, uint64_t index)
{
    while (group->log.last >= sl_max(index, group->log.first))
        store_log_forget(group, group->log.last--);
    if (group->faulty_last >= index)
        group->faulty_last = index - 1;
    if (group->faulty_first > group->faulty_last)
        group->faulty_first = group->faulty_last = 0;
}

void store_log_trim(struct sl_store_group *group)
{
    struct log *log = &group->log;
    while (log->first <= sl_min(log->last, group->apply_to)) {
        const struct entry *entry = log->ring[log->first & (log->capacity - 1)];
        group->boundary_index = log->first;
        group->boundary_term = entry != NULL ? entry->term : group->boundary_term;
        store_log_forget(group, log->first++);
    }
}

/* ---- groups ---- */

#define GROUP_HASH 256u

static struct sl_list *group_bucket(struct sl_store *store, uint64_t id)
{
    return &store->group_hash[id * UINT64_C(0x9e3779b97f4a7c15) >> 56];
}

struct sl_store_group *store_group_lookup(struct sl_store *store, uint64_t id)
{
    sl_list_for_each(node, group_bucket(store, id))
    {
        struct sl_store_group *group = sl_list_entry(node, struct sl_store_group, hash);
        if (group->id == id)
            return group;
    }
    return NULL;
}

struct sl_store_group *store_group_add(struct sl_store *store, uint64_t id, uint64_t index,
                                       uint64_t term)
{
    if (store->group_hash == NULL) {
        store->group_hash = calloc(GROUP_HASH, sizeof(struct sl_list));
        if (store->group_hash == NULL)
            return NULL;
        for (unsigned i = 0; i < GROUP_HASH; i++)
            sl_list_init(&store->group_hash[i]);
    }
    struct sl_store_group *group = calloc(1, sizeof(*group));
    if (group == NULL)
        return NULL;
    group->store = store;
    group->id = id;
    group->boundary_index = group->applied_index = index;
    group->boundary_term = term;
    group->held = SL_HELD_NONE;
    group->log.first = index + 1;
    group->log.last = index;
    sl_list_init(&group->chunks);
    sl_list_init(&group->advanced);
    sl_wait_queue_init(&group->applied);
    sl_list_append(group_bucket(store, id), &group->hash);
    struct sl_list *at = store->groups.next;
    while (at != &store->groups && sl_container_of(at, struct sl_store_group, node)->id < id)
        at = at->next;
    sl_list_insert_before(at, &group->node);
    return group;
}

void store_group_free(struct sl_store_group *group)
{
    store_log_cut(group, 0);
    sl_list_remove(&group->node);
    sl_list_remove(&group->advanced);
    sl_list_remove(&group->hash);
    free(group->log.ring);
    free(group->state);
    free(group);
}

struct sl_store_group *sl_store_group_find(struct sl_store *store, uint64_t id)
{
    struct sl_store_group *group = store->group_hash != NULL ? store_group_lookup(store, id) : NULL;
    return group != NULL && !group->deleted ? group : NULL;
}

struct sl_store_group *sl_store_group_next(struct sl_store *store, uint64_t after)
{
    sl_list_for_each(node, &store->groups)
    {
        struct sl_store_group *group = sl_list_entry(node, struct sl_store_group, node);
        if (group->id > after && !group->deleted)
            return group;
    }
    return NULL;
}

void sl_store_group_status(const struct sl_store_group *group, struct sl_store_group_status *status)
{
    const struct entry *last = store_log_get(group, group->log.last);
    *status = (struct sl_store_group_status){
        .group = group->id,
        .boundary_index = group->boundary_index,
        .boundary_term = group->boundary_term,
        .last_index = group->log.last,
        .last_term = last != NULL ? last->term : group->boundary_term,
        .applied_index = group->applied_index,
        .committed_index =
            sl_max(group->applied_index, sl_min(group->committed_index, group->log.last)),
        .term = group->term,
        .vote = group->vote,
        .faulty_first = group->faulty_first,
        .faulty_last = group->faulty_last,
        .faulty_is_payload = !group->faulty_missing,
        .state_index = group->state_index,
        .state_bytes = group->state_bytes,
    };
}

int sl_store_state_set(struct sl_store_group *group, uint64_t index, const void *state,
                       uint32_t state_bytes)
{
    struct sl_store *store = group->store;
    uint64_t others = store->state_bytes - sl_align_up(group->state_bytes, 8);
    if (others + sl_align_up(state_bytes, 8) > store->shard->group_bytes)
        return -ENOSPC;
    void *copy = malloc(state_bytes + 1);
    if (copy == NULL)
        return -ENOMEM;
    memcpy(copy, state, state_bytes); /* header: state of the layer above */
    free(group->state);
    store->state_bytes = others + sl_align_up(state_bytes, 8);
    group->state = copy;
    group->state_bytes = state_bytes;
    group->state_index = index;
    group->has_state = true;
    return 0;
}

const void *sl_store_state(const struct sl_store_group *group)
{
    return group->state;
}

int sl_store_group_create_co(struct sl_store *store, uint64_t id, uint64_t index, uint64_t term)
{
    struct sl_record record = {
        .head = {.kind = SL_RECORD_GROUP_CREATE, .group = id, .index = index, .term = term}};
    if (id == 0)
        return -EINVAL;
    if (store->group_hash != NULL && store_group_lookup(store, id) != NULL)
        return -EEXIST;
    /* Groups and their states share one room of the root. */
    if (store->state_bytes + sizeof(struct sl_root_group) > store->shard->group_bytes)
        return -ENOSPC;
    struct sl_store_group *group = store_group_add(store, id, index, term);
    if (group == NULL)
        return -ENOMEM;
    store->state_bytes += sizeof(struct sl_root_group);
    int error = wal_record_co(store, &record);
    if (error < 0) {
        store->state_bytes -= sizeof(struct sl_root_group);
        store_group_free(group);
    }
    return error;
}

int sl_store_group_delete_co(struct sl_store_group *group)
{
    struct sl_store *store = group->store;
    struct sl_record record = {.head = {.kind = SL_RECORD_GROUP_DELETE, .group = group->id}};
    group->deleted = true;
    sl_list_remove(&group->advanced);
    int error = wal_record_co(store, &record);
    group->deleted_generation = store->wal.head_generation;
    struct sl_list *node;
    while (error == 0 && (node = sl_list_first(&group->chunks)) != NULL) {
        struct chunk *chunk = sl_list_entry(node, struct chunk, group_node);
        /* Its table says which slots are free then; a damaged one's are lost until a check. */
        (void)chunk_use_co(chunk);
        chunk_unuse(chunk);
        chunk_quiesce_co(chunk);
        chunk_remove(chunk);
    }
    store_log_cut(group, 0);
    return error;
}

int sl_store_vote_co(struct sl_store_group *group, uint64_t term, uint64_t vote)
{
    struct sl_record record = {
        .head = {.kind = SL_RECORD_TERM_VOTE, .group = group->id, .term = term}, .vote = vote};
    SL_ASSERT(term > group->term ||
              (term == group->term && (group->vote == 0 || group->vote == vote)));
    /* In memory first: a checkpoint meanwhile may only know more than is promised. */
    group->term = term;
    group->vote = vote;
    return wal_record_co(group->store, &record);
}

/* The room comes first: what is cut off is in no log that a checkpoint keeps, so from the cut on
 * the record must be on its way, whatever that checkpoint waits for. */
int sl_store_truncate_co(struct sl_store_group *group, uint64_t index)
{
    struct sl_store *store = group->store;
    struct sl_store_wait wait;
    struct sl_record record = {
        .head = {.kind = SL_RECORD_TRUNCATE, .group = group->id, .index = index}};
    SL_ASSERT(index > group->applied_index && index > group->boundary_index);
    if (store->config.read_only)
        return -EROFS;
    if (index > group->log.last)
        return 0;
    int error = wal_room_co(store, 1, 1);
    if (error < 0)
        return error;
    store_log_cut(group, index);
    store->wal.truncate_count++;
    wal_add(store, &record, NULL, 1, &wait);
    error = sl_store_durable_co(&wait);
    store->wal.truncated_count++;
    sl_wait_queue_wake_all(&store->wal.durable, 0);
    return error;
}

int sl_store_entry_get(const struct sl_store_group *group, uint64_t index,
                       struct sl_store_entry *out)
{
    const struct entry *entry = store_log_get(group, index);
    if (entry == NULL)
        return index >= group->log.first && index <= group->log.last ? -SL_E_CHECKSUM : -ENOENT;
    *out = (struct sl_store_entry){
        .index = entry->index,
        .term = entry->term,
        .type = entry->type,
        .chunk = entry->chunk_number,
        .first_block = entry->first_block,
        .block_count = entry->block_count,
        .extra_bytes = entry->extra_bytes,
        .extra = entry->extra,
        .crcs = entry->crcs,
    };
    return (entry->flags & SL_ENTRY_FAULTY) != 0 ? -SL_E_CHECKSUM : 0;
}
