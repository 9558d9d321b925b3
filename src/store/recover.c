/*
 * Reading the log at the start: which batches hold, where it ends, what is damaged.
 * docs/disk-format.md, "Recovery".
 *
 *   scan segments from the tail ─► drop what a later place replaced ─► D = highest durable
 *   sequence named ─► walk: hole or bad payload at or below D: faulty; above D: the end ─► replay
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "store/chunk.h"

/* A batch that was found, header and records as in its block. */
struct found {
    uint64_t generation;
    bool kept, bad;              /* bad: payload of `bad_records` does not match */
    uint64_t bad_records[2];     /* a bit each: a block has at most 97 records with payload */
    _Alignas(8) uint8_t block[]; /* header and records only */
};

struct recovery {
    struct sl_store *store;
    char *error;
    size_t error_bytes;
    struct found **found;
    size_t count, capacity;
    uint64_t durable; /* D */
    struct sl_buf *window;
    uint32_t window_first, window_blocks;
};

static struct sl_batch_header header_of(const struct found *found)
{
    struct sl_batch_header header;
    memcpy(&header, found->block, sizeof(header)); /* header: batch */
    return header;
}

/* ---- scanning ---- */

/* Has blocks [position, position + count) of the segment in the window; as many behind as fit. */
static int window_co(struct recovery *recovery, uint64_t generation, uint32_t position,
                     uint32_t count, const uint8_t **data)
{
    struct sl_store *store = recovery->store;
    if (position < recovery->window_first ||
        position + count > recovery->window_first + recovery->window_blocks) {
        uint32_t blocks = sl_min(store->wal.segment_blocks - position, SL_WAL_BATCH_BLOCKS_MAX);
        struct sl_span span = sl_buf_span(recovery->window, 0, blocks * SL_BLOCK_BYTES);
        SL_ASSERT(count <= blocks);
        recovery->window_blocks = 0;
        uint64_t offset =
            wal_segment_offset(store, generation) + (uint64_t)position * SL_BLOCK_BYTES;
        int error =
            sl_disk_rw_co(store->config.disk, SL_DISK_READ, &span, 1, offset, span.length_bytes, 0);
        if (error < 0) {
            snprintf(recovery->error, recovery->error_bytes,
                     "the log cannot be read at byte %llu: %s (%s); check the disk",
                     (unsigned long long)offset, sl_error_text(error), sl_error_name(error));
            return error;
        }
        recovery->window_first = position;
        recovery->window_blocks = blocks;
        store->statistics.recovered_bytes += span.length_bytes;
    }
    *data = recovery->window->data + (position - recovery->window_first) * SL_BLOCK_BYTES;
    return 0;
}

static void check_payload(struct found *found, const uint8_t *payload)
{
    struct sl_record record;
    uint32_t offset = 0;
    for (unsigned i = 0; sl_batch_next(found->block, &offset, &record); i++) {
        if (sl_record_payload_matches(&record, payload))
            continue;
        found->bad = true;
        found->bad_records[i / 64] |= UINT64_C(1) << i % 64;
    }
}

static int keep(struct recovery *recovery, const uint8_t *block,
                const struct sl_batch_header *header)
{
    if (recovery->count == recovery->capacity) {
        recovery->capacity = sl_max(recovery->capacity * 2, (size_t)256);
        struct found **larger =
            realloc(recovery->found, recovery->capacity * sizeof(struct found *));
        if (larger == NULL)
            return -ENOMEM;
        recovery->found = larger;
    }
    size_t bytes = SL_BATCH_HEADER_BYTES + header->record_bytes;
    struct found *found = calloc(1, sizeof(*found) + bytes);
    if (found == NULL)
        return -ENOMEM;
    memcpy(found->block, block, bytes); /* header: batch */
    found->generation = header->generation;
    found->kept = true;
    check_payload(found, block + SL_BLOCK_BYTES);
    recovery->found[recovery->count++] = found;
    return 0;
}

static int absurd(struct recovery *recovery, uint64_t generation, uint32_t position,
                  const char *why)
{
    snprintf(recovery->error, recovery->error_bytes,
             "the log's batch at byte %llu has a right checksum and absurd content: %s; it was not "
             "written by this program: restore the disk from its replicas",
             (unsigned long long)(wal_segment_offset(recovery->store, generation) +
                                  (uint64_t)position * SL_BLOCK_BYTES),
             why);
    return -SL_E_PROTOCOL;
}

/* Every batch of the segment; behind what is no batch the next one is looked for block by block. */
static int scan_segment_co(struct recovery *recovery, uint64_t generation)
{
    struct sl_store *store = recovery->store;
    struct sl_batch_place place = {store->superblock, store->config.shard, generation, 0};
    recovery->window_blocks = 0;
    while (place.position < store->wal.segment_blocks) {
        struct sl_batch_header header;
        const uint8_t *data;
        const char *why;
        int error = window_co(recovery, generation, place.position, 1, &data);
        if (error < 0)
            return error;
        error = sl_batch_parse(data, &place, &header, &why);
        if (error == -SL_E_PROTOCOL)
            return absurd(recovery, generation, place.position, why);
        if (error < 0) {
            place.position++;
            continue;
        }
        uint32_t blocks = 1 + header.payload_blocks;
        if (blocks > SL_WAL_BATCH_BLOCKS_MAX)
            return absurd(recovery, generation, place.position, "too long");
        error = window_co(recovery, generation, place.position, blocks, &data);
        if (error == 0)
            error = keep(recovery, data, &header);
        if (error < 0)
            return error;
        place.position += blocks;
    }
    return 0;
}

/* Whether any later segment begins with a batch of its generation. */
static int goes_on_co(struct recovery *recovery, uint64_t generation, uint64_t end, bool *result)
{
    struct sl_store *store = recovery->store;
    *result = false;
    for (; generation < end && !*result; generation++) {
        struct sl_batch_place place = {store->superblock, store->config.shard, generation, 0};
        struct sl_batch_header header;
        const uint8_t *data;
        const char *why;
        recovery->window_blocks = 0;
        int error = window_co(recovery, generation, 0, 1, &data);
        if (error < 0)
            return error;
        *result = sl_batch_parse(data, &place, &header, &why) == 0;
    }
    return 0;
}

static int scan_co(struct recovery *recovery, uint64_t tail)
{
    uint64_t end = tail + recovery->store->wal.segment_count;
    bool more = true;
    for (uint64_t generation = tail; generation < end && more; generation++) {
        size_t before = recovery->count;
        int error = scan_segment_co(recovery, generation);
        /* An empty one is the end, unless its begin was lost: then a later one knows. */
        if (error == 0 && recovery->count == before)
            error = goes_on_co(recovery, generation + 1, end, &more);
        if (error < 0)
            return error;
    }
    return 0;
}

/* ---- which of them hold ---- */

/* Sequences only grow along the log. Where a later place has a lower one, what lies before it with
 * the same or a higher one is the torn end that an earlier recovery discarded. */
static void drop_ghosts(struct recovery *recovery)
{
    uint64_t limit = UINT64_MAX;
    for (size_t i = recovery->count; i-- > 0;) {
        uint64_t sequence = header_of(recovery->found[i]).sequence;
        recovery->found[i]->kept = sequence < limit;
        limit = sl_min(limit, sequence);
    }
}

static int find_durable(struct recovery *recovery, const struct sl_root_header *root)
{
    recovery->durable = root->durable_sequence;
    for (size_t i = 0; i < recovery->count; i++) {
        struct sl_batch_header header = header_of(recovery->found[i]);
        if (!recovery->found[i]->kept)
            continue;
        recovery->durable = sl_max(recovery->durable, header.durable_sequence);
        if (header.root_sequence > root->sequence) {
            snprintf(recovery->error, recovery->error_bytes,
                     "the log names root %llu of shard %u, but the newest that can be read is "
                     "%llu: both copies of the newer one are damaged, and serving the older would "
                     "lose what was acknowledged: restore the disk from its replicas",
                     (unsigned long long)header.root_sequence, recovery->store->config.shard,
                     (unsigned long long)root->sequence);
            return -SL_E_CHECKSUM;
        }
    }
    return 0;
}

static void hole(struct recovery *recovery, uint64_t first, uint64_t last)
{
    recovery->store->statistics.faulty_count += last - first + 1;
    recovery->store->statistics.missing_batch_count += last - first + 1;
    sl_log_error("store",
                 "%s: batches %llu to %llu of the log of shard %u were acknowledged and are "
                 "missing: entries have to come from another copy",
                 recovery->store->config.name, (unsigned long long)first, (unsigned long long)last,
                 recovery->store->config.shard);
}

/* The sequences in order; answers the last that holds. */
static uint64_t walk(struct recovery *recovery, uint64_t expected)
{
    bool ended = false;
    for (size_t i = 0; i < recovery->count; i++) {
        struct found *found = recovery->found[i];
        uint64_t sequence = header_of(found).sequence;
        if (!found->kept)
            continue;
        /* Older than the tail, or twice: of no use. */
        bool tail = ended || sequence < expected ||
                    (sequence > expected && expected > recovery->durable) ||
                    (found->bad && sequence > recovery->durable);
        if (tail) {
            found->kept = false;
            ended = ended || sequence >= expected;
            recovery->store->statistics.discarded_batch_count++;
            continue;
        }
        if (sequence > expected)
            hole(recovery, expected, sequence - 1);
        expected = sequence + 1;
    }
    if (expected <= recovery->durable) {
        hole(recovery, expected, recovery->durable);
        expected = recovery->durable + 1;
    }
    return expected - 1;
}

/* ---- replay ---- */

static int replay_entry(struct sl_store *store, struct sl_store_group *group,
                        const struct sl_record *record, const struct sl_batch_header *header,
                        bool bad)
{
    uint64_t index = record->head.index;
    struct log *log = &group->log;
    int error = 0;
    if (index <= group->boundary_index)
        return 0;
    struct entry *entry = store_log_get(group, index);
    if (entry != NULL && entry->term != record->head.term) {
        /* A truncation that was in a hole. */
        store_log_cut(group, index);
        entry = NULL;
    }
    while (log->last + 1 < index && error == 0)
        error = store_log_push(group, log->last + 1, NULL);
    if (entry == NULL && error == 0) {
        entry = store_entry_make(record, NULL);
        if (entry == NULL)
            return -ENOMEM;
        if (index <= log->last) {
            log->ring[index & (log->capacity - 1)] = entry;
            entry->group = group;
            entry->in_log = true;
        } else {
            error = store_log_push(group, index, entry);
        }
    }
    if (error < 0)
        return error;
    /* Also a copy that was moved here: the newest is the one that stays. */
    entry->generation = header->generation;
    entry->position = header->position + 1 + record->payload_first;
    entry->flags = bad ? SL_ENTRY_FAULTY : 0;
    store->statistics.recovered_entry_count++;
    return 0;
}

static int replay_record(struct sl_store *store, const struct sl_record *record,
                         const struct sl_batch_header *header, bool bad)
{
    struct sl_store_group *group =
        store->group_hash != NULL ? store_group_lookup(store, record->head.group) : NULL;
    if (group == NULL && record->head.kind == SL_RECORD_GROUP_CREATE) {
        store->state_bytes += sizeof(struct sl_root_group);
        group = store_group_add(store, record->head.group, record->head.index, record->head.term);
        return group == NULL ? -ENOMEM : 0;
    }
    if (group == NULL) {
        /* Its creation was in a hole, or its deletion is in the root. */
        return 0;
    }
    switch (record->head.kind) {
    case SL_RECORD_ENTRY:
        return group->deleted ? 0 : replay_entry(store, group, record, header, bad);
    case SL_RECORD_TERM_VOTE:
        if (record->head.term > group->term ||
            (record->head.term == group->term && group->vote == 0)) {
            group->term = record->head.term;
            group->vote = record->vote;
        }
        return 0;
    case SL_RECORD_TRUNCATE:
        /* Also at or below the boundary (a group that was taken over from another replica): what
         * lay behind the boundary then is void too. */
        store_log_cut(group, record->head.index);
        return 0;
    case SL_RECORD_APPLIED:
        if (!group->deleted)
            group->committed_index = sl_max(group->committed_index, record->head.index);
        return 0;
    case SL_RECORD_GROUP_DELETE:
        group->deleted = true;
        group->deleted_generation = header->generation;
        store_log_cut(group, 0);
        return 0;
    default:
        return 0; /* created: the root has it already */
    }
}

static int replay(struct recovery *recovery)
{
    struct sl_store *store = recovery->store;
    for (size_t i = 0; i < recovery->count; i++) {
        const struct found *found = recovery->found[i];
        struct sl_batch_header header = header_of(found);
        struct sl_record record;
        uint32_t offset = 0;
        if (!found->kept)
            continue;
        store->statistics.recovered_batch_count++;
        for (unsigned k = 0; sl_batch_next(found->block, &offset, &record); k++) {
            bool bad = (found->bad_records[k / 64] >> k % 64 & 1) != 0;
            int error = replay_record(store, &record, &header, bad);
            if (error < 0)
                return error;
            store->statistics.faulty_count += bad;
        }
    }
    return 0;
}

/* What each log lacks. */
static void note_faulty(struct sl_store *store)
{
    sl_list_for_each(node, &store->groups)
    {
        struct sl_store_group *group = sl_list_entry(node, struct sl_store_group, node);
        for (uint64_t index = group->log.first; index <= group->log.last; index++) {
            const struct entry *entry = store_log_get(group, index);
            if (entry != NULL && (entry->flags & SL_ENTRY_FAULTY) == 0)
                continue;
            group->faulty_missing = group->faulty_missing || entry == NULL;
            if (group->faulty_first == 0)
                group->faulty_first = index;
            group->faulty_last = index;
        }
        if (group->faulty_first != 0)
            sl_log_error("store",
                         "%s: entries %llu to %llu of group %llu are damaged, or some of them: "
                         "they have to come from another copy",
                         store->config.name, (unsigned long long)group->faulty_first,
                         (unsigned long long)group->faulty_last, (unsigned long long)group->id);
    }
}

/* ---- where the log goes on ---- */

static void place_head(struct recovery *recovery, const struct sl_root_header *root, uint64_t last)
{
    struct wal *wal = &recovery->store->wal;
    wal->tail_generation = root->tail_generation;
    wal->tail_sequence = root->tail_sequence;
    wal->durable_sequence = last;
    wal->next_sequence = last + 1;
    /* Behind everything that was found, what was discarded too: it is never overwritten while its
     * generation lasts, so it stays recognisable by what follows it. */
    wal->head_generation = root->tail_generation;
    wal->head_position = 0;
    if (recovery->count > 0) {
        struct sl_batch_header header = header_of(recovery->found[recovery->count - 1]);
        wal->head_generation = header.generation;
        wal->head_position = header.position + 1 + header.payload_blocks;
    }
    for (unsigned i = 0; i < wal->segment_count; i++)
        wal->first_sequences[i] = 0;
    for (size_t i = 0; i < recovery->count; i++) {
        uint64_t *first =
            &wal->first_sequences[recovery->found[i]->generation % wal->segment_count];
        if (recovery->found[i]->kept && *first == 0)
            *first = header_of(recovery->found[i]).sequence;
    }
    /* One without a batch that holds begins where the next one does. */
    uint64_t next = wal->next_sequence;
    for (uint64_t generation = wal->head_generation + 1; generation-- > wal->tail_generation;) {
        uint64_t *first = &wal->first_sequences[generation % wal->segment_count];
        next = *first != 0 ? *first : next;
        *first = next;
    }
}

int recover_co(struct sl_store *store, const struct sl_root_header *root, char *error,
               size_t error_bytes)
{
    struct recovery recovery = {.store = store, .error = error, .error_bytes = error_bytes};
    uint32_t window = SL_WAL_BATCH_BLOCKS_MAX * SL_BLOCK_BYTES;
    snprintf(error, error_bytes, "out of memory");
    recovery.window = sl_buf_alloc_co(store->config.memory, window, SL_RESERVE_CHECKPOINT);
    if (recovery.window == NULL)
        return -ENOMEM;
    int result = scan_co(&recovery, root->tail_generation);
    sl_buf_unref(recovery.window);
    if (result == 0) {
        drop_ghosts(&recovery);
        result = find_durable(&recovery, root);
    }
    if (result == 0) {
        uint64_t last = walk(&recovery, root->tail_sequence);
        place_head(&recovery, root, last);
        result = replay(&recovery);
        note_faulty(store);
    }
    for (size_t i = 0; i < recovery.count; i++)
        free(recovery.found[i]);
    free(recovery.found);
    return result;
}
