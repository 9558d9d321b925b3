/*
 * The write-ahead log: entries of all groups into batches, batches into the ring of segments.
 *
 *   wal_room_co ─► wal_add ─► open batch ─► writer: seal, write, await ─► in order: durable, wake
 *
 * Group commit: at most SL_WAL_WRITERS_MAX writes are on their way; what comes meanwhile gathers in
 * the open batch. While there are fewer, a batch of SL_WAL_SPLIT_BLOCKS is enough for one. Batches
 * are acknowledged in the order of their sequence only, whatever order the disk completes them in:
 * what is acknowledged has nothing missing before it.
 *
 * Invariants: a batch lies in one segment, and has at most a quarter of it. Its place is chosen
 * when it is sealed. Room is set aside before a record is added, so that adding never fails. A
 * failed write stops the store (no retry: what the disk holds now, nobody knows).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "store/chunk.h"

int wal_init(struct sl_store *store)
{
    struct wal *wal = &store->wal;
    sl_list_init(&wal->queue);
    sl_list_init(&wal->in_flight);
    sl_wait_queue_init(&wal->room);
    sl_wait_queue_init(&wal->durable);
    sl_wait_queue_init(&wal->idle);
    wal->segment_count = store->shard->segment_count;
    wal->segment_blocks = (uint32_t)(store->superblock->segment_bytes / SL_BLOCK_BYTES);
    wal->first_sequences = calloc(wal->segment_count, sizeof(uint64_t));
    if (wal->first_sequences == NULL)
        return -ENOMEM;
    while (wal->header_count < SL_WAL_WRITERS_MAX) {
        struct sl_buf *header =
            sl_buf_alloc(store->config.memory, SL_BLOCK_BYTES, SL_RESERVE_CHECKPOINT);
        if (header == NULL)
            return -ENOMEM;
        wal->headers[wal->header_count++] = header;
    }
    return 0;
}

void wal_fini(struct sl_store *store)
{
    SL_ASSERT(sl_list_is_empty(&store->wal.queue) && sl_list_is_empty(&store->wal.in_flight));
    while (store->wal.header_count > 0)
        sl_buf_unref(store->wal.headers[--store->wal.header_count]);
    free(store->wal.first_sequences);
}

uint64_t wal_segment_offset(const struct sl_store *store, uint64_t generation)
{
    return store->shard->wal_offset +
           generation % store->wal.segment_count * store->superblock->segment_bytes;
}

uint32_t wal_batch_blocks_max(const struct sl_store *store)
{
    uint32_t share = store->wal.segment_blocks / SL_WAL_BATCHES_A_SEGMENT;
    /* An entry of 1 MiB and its header, even if a segment of 4 MiB holds only three of them. */
    return share == SL_ENTRY_BLOCKS_MAX ? share + 1 : sl_min(share, SL_WAL_BATCH_BLOCKS_MAX);
}

uint64_t wal_uncommitted_bytes_max(const struct sl_store *store)
{
    /* Written they take up to 3/2 of it (see has_room()), in front of the reserve and the segment
     * that is being written. Half of that, for it moves: what is freed is written again first. */
    uint32_t kept = sl_min(store->wal.segment_count - 1, SL_WAL_RESERVE_SEGMENTS + 1u);
    return (store->wal.segment_count - kept) * store->superblock->segment_bytes / 3;
}

void store_fail(struct sl_store *store, int error, const char *what, uint64_t offset_bytes)
{
    if (store->failed != 0)
        return;
    store->failed = error;
    if (!store->stopping)
        sl_log_error("store",
                     "%s: %s at byte %llu of the disk failed: %s (%s); shard %u takes no more "
                     "writes until it is opened anew: check the disk",
                     store->config.name, what, (unsigned long long)offset_bytes,
                     sl_error_text(error), sl_error_name(error), store->config.shard);
    sl_wait_queue_wake_all(&store->wal.room, error);
    sl_wait_queue_wake_all(&store->wal.durable, error);
    sl_wait_queue_wake_all(&store->apply_progress, 0);
    sl_wait_queue_wake_all(&store->apply_work, 0);
    sl_wait_queue_wake_all(&store->checkpoint_work, 0);
    sl_wait_queue_wake_all(&store->checkpoint_done, 0);
}

/* ---- room ---- */

/* A segment is left when the next batch does not fit: less than a quarter of it is wasted. So n
 * blocks take at most n * 4/3 of segments; 3/2 covers the headers that moving may add. One more
 * segment stands for the last one, which need not be full. */
static bool has_room(const struct wal *wal, uint64_t blocks, unsigned reserve)
{
    uint64_t free_segments = wal_free_segments(wal);
    if (reserve == 0) /* what frees segments in the end may use the last one, too */
        return 3 * (wal->reserved_blocks + blocks) <=
               2 * (free_segments * wal->segment_blocks +
                    (wal->segment_blocks - wal->head_position));
    return free_segments > reserve && 3 * (wal->reserved_blocks + blocks) <=
                                          2 * ((free_segments - reserve - 1) * wal->segment_blocks +
                                               (wal->segment_blocks - wal->head_position));
}

int wal_room_co(struct sl_store *store, uint64_t blocks, unsigned reserve)
{
    struct wal *wal = &store->wal;
    bool waited = false;
    while (store->failed == 0 && !has_room(wal, blocks, reserve)) {
        if (store->stopping && reserve >= SL_WAL_RESERVE_SEGMENTS)
            return -ESHUTDOWN;
        if (!waited)
            store->statistics.wait_count++;
        waited = true;
        wal->waiter_count++;
        checkpoint_kick(store);
        sl_wait_queue_co(&wal->room);
        wal->waiter_count--;
    }
    if (store->failed != 0)
        return store->failed;
    wal->reserved_blocks += blocks;
    return 0;
}

void wal_room_wake(struct sl_store *store)
{
    /* All of them: each looks again, in order. */
    if (!sl_wait_queue_is_empty(&store->wal.room))
        sl_wait_queue_wake_all(&store->wal.room, 0);
}

void wal_room_give(struct sl_store *store, uint64_t blocks)
{
    SL_ASSERT(store->wal.reserved_blocks >= blocks);
    store->wal.reserved_blocks -= blocks;
    wal_room_wake(store);
}

/* ---- batches ---- */

static struct batch *batch_open(struct sl_store *store)
{
    struct batch *batch = malloc(sizeof(*batch));
    SL_ASSERT(batch != NULL);
    memset(batch, 0, offsetof(struct batch, spans));
    sl_list_init(&batch->waits);
    sl_batch_begin(batch->block);
    batch->span_count = 1; /* the first is the header's, when it is written */
    sl_list_append(&store->wal.queue, &batch->node);
    store->wal.queue_count++;
    return batch;
}

static void batch_free(struct sl_store *store, struct batch *batch, int result)
{
    struct sl_list *node;
    sl_list_remove(&batch->node);
    while ((node = sl_list_pop(&batch->waits)) != NULL)
        sl_wait_wake(&sl_list_entry(node, struct sl_store_wait, node)->wait, result);
    for (unsigned i = 0; i < batch->entry_count; i++)
        store_entry_unref(store, batch->entries[i]);
    for (unsigned i = 1; i < batch->span_count; i++)
        sl_buf_unref(batch->owners[i]);
    free(batch);
}

/* Whether the entry's payload fits beside what is in the batch. */
static bool batch_has_room(const struct sl_store *store, const struct batch *batch,
                           const struct entry *entry)
{
    if (entry == NULL || !sl_entry_has_payload(entry->type))
        return true;
    return 1 + batch->payload_blocks + entry->block_count <= wal_batch_blocks_max(store) &&
           batch->span_count + entry->span_count <= SL_DISK_SPANS_MAX;
}

static void batch_take(struct batch *batch, const struct sl_record *record, struct entry *entry)
{
    batch->record_count++;
    if (entry == NULL)
        return;
    store_entry_ref(entry);
    batch->payload_first[batch->entry_count] = record->payload_first;
    batch->entries[batch->entry_count++] = entry;
    if (!sl_entry_has_payload(entry->type))
        return;
    batch->payload_blocks += entry->block_count;
    for (unsigned i = 0; i < entry->span_count; i++) {
        batch->owners[batch->span_count] = sl_buf_ref(entry->owners[i]);
        batch->spans[batch->span_count++] = entry->spans[i];
    }
}

/* ---- writers ---- */

void wal_roll(struct sl_store *store)
{
    struct wal *wal = &store->wal;
    if (wal->head_position == 0 || wal_free_segments(wal) <= SL_WAL_RESERVE_SEGMENTS)
        return;
    wal->head_generation++;
    wal->head_position = 0;
    wal->first_sequences[wal->head_generation % wal->segment_count] = wal->next_sequence;
}

/* Gives the batch its sequence and place, and the header its last fields. */
static uint64_t batch_seal(struct sl_store *store, struct batch *batch)
{
    struct wal *wal = &store->wal;
    uint32_t blocks = 1 + batch->payload_blocks;
    batch->sequence = wal->next_sequence++;
    if (wal->segment_blocks - wal->head_position < blocks) {
        SL_ASSERT(wal_free_segments(wal) > 0);
        wal->head_generation++;
        wal->head_position = 0;
    }
    if (wal->head_position == 0)
        wal->first_sequences[wal->head_generation % wal->segment_count] = batch->sequence;
    struct sl_batch_header header = {
        .salt = store->superblock->salt,
        .shard = store->config.shard,
        .generation = wal->head_generation,
        .sequence = batch->sequence,
        .durable_sequence = wal->durable_sequence,
        .root_sequence = store->root_sequence,
        .position = wal->head_position,
    };
    memcpy(header.disk_id, store->superblock->disk_id, sizeof(header.disk_id)); /* header: id */
    sl_batch_seal(batch->block, &header);
    batch->generation = header.generation;
    batch->position = header.position;
    wal->head_position += blocks;
    wal->reserved_blocks -= batch->reserved_blocks;
    store->statistics.batch_count++;
    store->statistics.log_bytes += (uint64_t)blocks * SL_BLOCK_BYTES;
    return wal_segment_offset(store, header.generation) +
           (uint64_t)header.position * SL_BLOCK_BYTES;
}

/* Only now: an entry that was moved is read from its old place until the new one is durable. */
static void place_entries(struct batch *batch)
{
    for (unsigned i = 0; i < batch->entry_count; i++) {
        struct entry *entry = batch->entries[i];
        entry->generation = batch->generation;
        entry->position = batch->position + 1 + batch->payload_first[i];
    }
}

void wal_settle_co(struct sl_store *store, uint64_t generation)
{
    /* By sequence, and so by generation. */
    struct sl_list *node;
    while ((node = sl_list_first(&store->wal.in_flight)) != NULL && store->failed == 0 &&
           sl_list_entry(node, struct batch, node)->generation < generation)
        sl_wait_queue_co(&store->wal.durable);
}

/* The oldest ones that are done are durable: in order. */
static void advance(struct sl_store *store)
{
    struct wal *wal = &store->wal;
    struct sl_list *node;
    while ((node = sl_list_first(&wal->in_flight)) != NULL) {
        struct batch *batch = sl_list_entry(node, struct batch, node);
        if (!batch->done)
            break;
        if (store->failed == 0) {
            wal->durable_sequence = batch->sequence;
            place_entries(batch);
        }
        batch_free(store, batch, store->failed);
    }
    sl_wait_queue_wake_all(&wal->durable, 0);
    if (store->memory_waiters > 0)
        sl_wait_queue_wake_all(&store->apply_progress, 0);
    if (store_is_pressed(store))
        appliers_kick(store); /* what is durable can be spilled */
    /* What was set aside is now what it took: often less. */
    wal_room_wake(store);
}

/* How far groups are applied goes along with what is written anyway. Who knows it after a start
 * can free that much of his log before anybody leads: without it logs that are full of what may
 * not be committed could have no room for what would tell. */
static void add_applied(struct sl_store *store, struct batch *batch)
{
    struct sl_list *node;
    while ((node = sl_list_first(&store->advanced)) != NULL) {
        struct sl_store_group *group = sl_list_entry(node, struct sl_store_group, advanced);
        struct sl_record record = {
            .head = {.kind = SL_RECORD_APPLIED, .group = group->id, .index = group->applied_index}};
        if (!sl_batch_add(batch->block, &record))
            return; /* no room: with the next one */
        sl_list_remove(node);
    }
}

static void write_batch_co(struct sl_store *store, struct batch *batch, struct sl_buf *header)
{
    add_applied(store, batch);
    uint64_t offset = batch_seal(store, batch);
    uint64_t length = (uint64_t)(1 + batch->payload_blocks) * SL_BLOCK_BYTES;
    memcpy(header->data, batch->block, SL_BLOCK_BYTES); /* header: of the batch */
    batch->spans[0] = sl_buf_span(header, 0, SL_BLOCK_BYTES);
    sl_list_append(&store->wal.in_flight, &batch->node);
    store->wal.flight_count++;
    checkpoint_kick(store);
    sl_disk_op_init(&batch->op, store->config.disk, SL_DISK_WRITE, batch->spans, batch->span_count,
                    offset, length, store->config.disk_info.volatile_cache ? SL_DISK_DURABLE : 0);
    sl_disk_submit(&batch->op);
    int64_t result = sl_wait_co(&batch->op.wait);
    batch->done = true;
    store->wal.flight_count--;
    if (result < 0)
        store_fail(store, (int)result, "the log's write", offset);
    advance(store);
}

static void writer_co(void *argument)
{
    struct sl_store *store = argument;
    struct wal *wal = &store->wal;
    struct sl_list *node;
    struct sl_buf *header = wal->headers[--wal->header_count];
    while ((node = sl_list_pop(&wal->queue)) != NULL) {
        struct batch *batch = sl_list_entry(node, struct batch, node);
        wal->queue_count--;
        if (store->failed != 0) {
            wal->reserved_blocks -= batch->reserved_blocks;
            batch_free(store, batch, store->failed);
            continue;
        }
        write_batch_co(store, batch, header);
    }
    wal->headers[wal->header_count++] = header;
    wal->writer_count--;
    if (wal->writer_count == 0)
        sl_wait_queue_wake_all(&wal->idle, 0);
}

static void kick(struct sl_store *store)
{
    struct wal *wal = &store->wal;
    if (wal->writer_count >= sl_min(SL_WAL_WRITERS_MAX, wal->queue_count + wal->flight_count) ||
        sl_list_is_empty(&wal->queue))
        return;
    /* It runs after who is ready already: their appends join this batch. */
    wal->writer_count++;
    if (sl_co_spawn(store->reactor, writer_co, store) == 0)
        return;
    wal->writer_count--;
    SL_ASSERT(wal->writer_count > 0); /* another one goes on with the queue */
}

/* Who comes together leaves together, and would come back together, one batch after another, while
 * the disk waits: while writers are idle what is enough for one goes to one. */
static bool is_worth_closing(const struct wal *wal, const struct batch *batch)
{
    return batch->payload_blocks >= SL_WAL_SPLIT_BLOCKS &&
           wal->queue_count + wal->flight_count < SL_WAL_WRITERS_MAX &&
           wal_free_segments(wal) > SL_WAL_RESERVE_SEGMENTS + 1; /* else room counts */
}

void wal_add(struct sl_store *store, struct sl_record *record, struct entry *entry, uint64_t blocks,
             struct sl_store_wait *wait)
{
    struct wal *wal = &store->wal;
    struct batch *batch = NULL;
    if (!sl_list_is_empty(&wal->queue))
        batch = sl_list_entry(wal->queue.previous, struct batch, node);
    if (batch == NULL || !batch_has_room(store, batch, entry) || is_worth_closing(wal, batch) ||
        !sl_batch_add(batch->block, record)) {
        batch = batch_open(store);
        bool added = sl_batch_add(batch->block, record);
        SL_ASSERT(added);
    }
    batch_take(batch, record, entry);
    batch->reserved_blocks += blocks;
    if (wait != NULL) {
        sl_wait_init(&wait->wait);
        sl_list_append(&batch->waits, &wait->node);
    }
    kick(store);
}

int sl_store_durable_co(struct sl_store_wait *wait)
{
    return (int)sl_wait_co(&wait->wait);
}

int wal_record_co(struct sl_store *store, struct sl_record *record)
{
    struct sl_store_wait wait;
    if (store->config.read_only)
        return -EROFS;
    int error = wal_room_co(store, 1, 1);
    if (error < 0)
        return error;
    wal_add(store, record, NULL, 1, &wait);
    return sl_store_durable_co(&wait);
}

void wal_drain_co(struct sl_store *store)
{
    while (store->wal.writer_count > 0)
        sl_wait_queue_co(&store->wal.idle);
}
