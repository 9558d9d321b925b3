/*
 * The way of a write into the store, and of an entry back out of its log.
 *
 *   prepare (room, slot, table) ─► append (order) ─► durable ─► apply (readers see it)
 */
#include <errno.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/log.h"
#include "store/chunk.h"

static uint64_t room_for(uint8_t type, uint16_t block_count)
{
    /* At worst a header block for itself. */
    return 1 + (sl_entry_has_payload(type) ? block_count : 0u);
}

static bool has_chunk(uint8_t type)
{
    return type == SL_ENTRY_WRITE || type == SL_ENTRY_ZERO;
}

static uint32_t entry_blocks_max(const struct sl_store *store)
{
    return sl_min(SL_ENTRY_BLOCKS_MAX, wal_batch_blocks_max(store) - 1);
}

/* What is durable and not visible yet (a log that is ahead of its commits) is on disk as well: it
 * need not be in memory. Answers whether anything was let go. */
bool store_spill(struct sl_store *store)
{
    struct sl_store_group *group = NULL;
    uint64_t before = store->held_bytes;
    for (uint64_t after = 0; (group = sl_store_group_next(store, after)) != NULL;
         after = group->id) {
        for (uint64_t index = group->applied_index + 1; index <= group->log.last; index++) {
            struct entry *entry = store_log_get(group, index);
            if (entry != NULL && entry->generation != SL_GENERATION_NONE &&
                (entry->flags & SL_ENTRY_MOVING) == 0)
                store_entry_drop_payload(store, entry);
        }
    }
    return store->held_bytes < before;
}

/* Payload in memory is bounded: who would exceed it waits until older payload is in its chunk, or,
 * where nothing waits for its chunk, on disk. */
static int wait_for_memory_co(struct sl_store *store, uint64_t bytes)
{
    store->memory_waiters++;
    while (store->failed == 0 && !store->stopping && store->held_bytes > 0 &&
           store->held_bytes + bytes > 2 * store->overlay_limit) {
        store->statistics.wait_count++;
        if (!sl_list_is_empty(&store->pending))
            appliers_kick(store);
        else if (store_spill(store))
            continue;
        /* Woken by what is let go, and by batches that became durable: those can be spilled. */
        sl_wait_queue_co(&store->apply_progress);
    }
    store->memory_waiters--;
    return store->failed;
}

/* The table tells which regions have no slot yet: for those one is set aside, so that applying
 * never lacks it. */
static int reserve_slots_co(struct sl_store_group *group, uint32_t number, uint16_t first_block,
                            uint16_t block_count)
{
    struct chunk *chunk;
    int error = chunk_get(group, number, &chunk);
    for (unsigned tries = 0; error == 0; tries++) {
        error = chunk_use_co(chunk);
        if (error == 0)
            error = slot_reserve(chunk, first_block / SL_REGION_BLOCKS,
                                 (first_block + block_count - 1u) / SL_REGION_BLOCKS);
        if (error != -ENOSPC || tries > 0 || !slots_can_come(group->store)) {
            chunk_unuse(chunk);
            return error;
        }
        /* Discarded regions are free with the next root. */
        error = sl_store_checkpoint_co(group->store);
        chunk_unuse(chunk);
    }
    return error;
}

int sl_store_prepare_co(struct sl_store_group *group, uint8_t type, uint32_t chunk,
                        uint16_t first_block, uint16_t block_count)
{
    struct sl_store *store = group->store;
    if (store->config.read_only)
        return -EROFS;
    if (store->stopping)
        return -ESHUTDOWN;
    if (type > SL_ENTRY_OPAQUE ||
        (sl_entry_has_payload(type) && block_count > entry_blocks_max(store)) ||
        (has_chunk(type) &&
         (block_count == 0 || first_block + (uint32_t)block_count > SL_CHUNK_BLOCKS)))
        return -EINVAL;
    int error = 0;
    if (has_chunk(type))
        store_hold_wait_co(group);
    if (sl_entry_has_payload(type))
        error = wait_for_memory_co(store, (uint64_t)block_count * SL_BLOCK_BYTES);
    if (error == 0 && store->stopping) /* meanwhile */
        error = -ESHUTDOWN;
    if (error == 0 && type == SL_ENTRY_WRITE)
        error = reserve_slots_co(group, chunk, first_block, block_count);
    if (error == 0)
        error = wal_room_co(store, room_for(type, block_count), SL_WAL_RESERVE_SEGMENTS);
    return error;
}

void sl_store_unprepare(struct sl_store_group *group, uint8_t type, uint16_t block_count)
{
    wal_room_give(group->store, room_for(type, block_count));
}

void sl_store_append(struct sl_store_group *group, const struct sl_store_entry *source,
                     const struct sl_iobuf *payload, struct sl_store_wait *wait)
{
    struct sl_store *store = group->store;
    struct sl_record record = {
        .head = {.kind = SL_RECORD_ENTRY,
                 .type = source->type,
                 .chunk = source->chunk,
                 .group = group->id,
                 .index = source->index,
                 .term = source->term},
        .first_block = source->first_block,
        .block_count = source->block_count,
        .extra_bytes = source->extra_bytes,
        .crcs = (const uint8_t *)source->crcs,
        .extra = source->extra,
    };
    bool has_payload = sl_entry_has_payload(source->type);
    SL_ASSERT(source->index == group->log.last + 1);
    SL_ASSERT(source->extra_bytes <= SL_ENTRY_EXTRA_MAX);
    SL_ASSERT(!has_payload ||
              (payload != NULL && payload->length_bytes == source->block_count * SL_BLOCK_BYTES));
    if (!has_payload)
        record.crcs = NULL;
    struct entry *entry = store_entry_make(&record, has_payload ? payload : NULL);
    SL_ASSERT(entry != NULL);
    int error = store_log_push(group, source->index, entry);
    SL_ASSERT(error == 0);
    if (has_payload)
        store->held_bytes += (uint64_t)source->block_count * SL_BLOCK_BYTES;
    store->statistics.append_count++;
    store->statistics.append_bytes += has_payload ? payload->length_bytes : 0;
    wal_add(store, &record, entry, room_for(source->type, source->block_count), wait);
    if (store_is_pressed(store))
        appliers_kick(store);
}

/* ---- back from the log ---- */

unsigned store_log_reading(struct sl_store *store)
{
    store->log_readers[store->log_phase]++;
    return store->log_phase;
}

void store_log_read(struct sl_store *store, unsigned phase)
{
    if (--store->log_readers[phase] == 0)
        sl_wait_queue_wake_all(&store->apply_progress, 0);
}

uint64_t store_entry_offset(const struct sl_store *store, const struct entry *entry)
{
    return wal_segment_offset(store, entry->generation) +
           (uint64_t)entry->position * SL_BLOCK_BYTES;
}

int store_entry_bad(struct sl_store *store, struct entry *entry, unsigned block)
{
    entry->flags |= SL_ENTRY_FAULTY;
    store->statistics.checksum_error_count++;
    sl_log_error(
        "store",
        "%s: entry %llu of group %llu is damaged in the log: block %u of it, at byte %llu "
        "of the disk, fails its checksum; it has to come from another copy",
        store->config.name, (unsigned long long)entry->index, (unsigned long long)entry->group->id,
        block,
        (unsigned long long)(store_entry_offset(store, entry) + (uint64_t)block * SL_BLOCK_BYTES));
    return -SL_E_CHECKSUM;
}

/* Reads the payload into `buf`. */
static int read_payload_co(struct sl_store *store, struct entry *entry, const struct sl_buf *buf)
{
    uint32_t length = entry->block_count * SL_BLOCK_BYTES;
    struct sl_span span = sl_buf_span(buf, 0, length);
    unsigned phase = store_log_reading(store);
    int error = sl_disk_rw_co(store->config.disk, SL_DISK_READ, &span, 1,
                              store_entry_offset(store, entry), length, 0);
    store_log_read(store, phase);
    if (error < 0)
        store->statistics.read_error_count++;
    for (unsigned i = 0; error == 0 && i < entry->block_count; i++) {
        if (sl_crc32c(0, buf->data + i * SL_BLOCK_BYTES, SL_BLOCK_BYTES) != entry->crcs[i])
            error = store_entry_bad(store, entry, i);
    }
    return error;
}

int store_entry_load_co(struct sl_store *store, struct entry *entry)
{
    struct sl_buf *buf;
    if (entry->span_count > 0 || !sl_entry_has_payload(entry->type) || entry->block_count == 0)
        return 0;
    if ((entry->flags & SL_ENTRY_FAULTY) != 0)
        return -SL_E_CHECKSUM;
    buf = sl_buf_alloc_co(store->config.memory, entry->block_count * SL_BLOCK_BYTES,
                          SL_RESERVE_CHECKPOINT);
    if (buf == NULL)
        return -ENOMEM;
    int error = read_payload_co(store, entry, buf);
    if (error < 0 || entry->span_count > 0) { /* or another one was faster */
        sl_buf_unref(buf);
        return error;
    }
    entry->spans[0] = sl_buf_span(buf, 0, entry->block_count * SL_BLOCK_BYTES);
    entry->owners[0] = buf;
    entry->span_count = 1;
    store->held_bytes += (uint64_t)entry->block_count * SL_BLOCK_BYTES;
    return 0;
}

/* 0: its payload has to be read from the disk. 1: it is there, or there is none. */
static int look_up(struct sl_store_group *group, uint64_t index, struct sl_iobuf *payload,
                   struct entry **result)
{
    struct entry *entry = store_log_get(group, index);
    int error = 0;
    if (entry == NULL)
        return index >= group->log.first && index <= group->log.last ? -SL_E_CHECKSUM : -ENOENT;
    if ((entry->flags & SL_ENTRY_FAULTY) != 0)
        return -SL_E_CHECKSUM;
    if (!sl_entry_has_payload(entry->type) || entry->block_count == 0)
        return 1;
    for (unsigned i = 0; i < entry->span_count && error == 0; i++)
        error = sl_iobuf_append_buf(payload, entry->owners[i],
                                    (uint32_t)(entry->spans[i].data - entry->owners[i]->data),
                                    entry->spans[i].length_bytes);
    *result = entry;
    return error < 0 ? error : entry->span_count > 0;
}

/* A checkpoint waits for who refers to an entry: nobody does while he waits for memory, which may
 * come only when the log has room again. */
int sl_store_entry_read_co(struct sl_store_group *group, uint64_t index, struct sl_iobuf *payload)
{
    struct sl_store *store = group->store;
    struct sl_buf *buf = NULL;
    struct entry *entry;
    int found;
    while ((found = look_up(group, index, payload, &entry)) == 0) {
        uint32_t length = entry->block_count * SL_BLOCK_BYTES;
        if (buf != NULL && buf->length_bytes == length)
            break;
        sl_buf_unref(buf);
        buf = sl_buf_alloc_co(store->config.memory, length, SL_RESERVE_INTAKE);
        if (buf == NULL)
            return -ENOMEM;
    }
    if (found == 0) {
        store_entry_ref(entry);
        found = read_payload_co(store, entry, buf);
        if (found == 0)
            found = sl_iobuf_append_buf(payload, buf, 0, entry->block_count * SL_BLOCK_BYTES);
        store_entry_unref(store, entry);
    }
    sl_buf_unref(buf);
    return found < 0 ? found : 0;
}

bool sl_store_entry_in_memory(const struct sl_store_group *group, uint64_t index)
{
    const struct entry *entry = store_log_get(group, index);
    return entry != NULL && (entry->span_count > 0 || !sl_entry_has_payload(entry->type));
}

bool sl_store_entry_needs_memory(const struct sl_store_group *group, uint64_t index)
{
    const struct entry *entry = store_log_get(group, index);
    return entry != NULL && entry->span_count == 0 && sl_entry_has_payload(entry->type) &&
           sl_memory_is_short(group->store->config.memory, SL_RESERVE_INTAKE);
}

/* ---- apply ---- */

static int wait_durable_co(struct sl_store *store, const struct sl_store_group *group,
                           uint64_t index)
{
    for (;;) {
        const struct entry *entry = store_log_get(group, index);
        if (entry == NULL)
            return -SL_E_CHECKSUM;
        if (entry->generation != SL_GENERATION_NONE)
            return 0;
        if (store->failed != 0)
            return store->failed;
        sl_wait_queue_co(&store->wal.durable);
    }
}

static int apply_entry_co(struct sl_store_group *group, uint64_t index)
{
    struct sl_store *store = group->store;
    struct chunk *chunk;
    int error = wait_durable_co(store, group, index);
    if (error < 0)
        return error;
    struct entry *entry = store_log_get(group, index);
    if (!has_chunk(entry->type) || (entry->flags & SL_ENTRY_SKIPPED) != 0) {
        entry->flags |= SL_ENTRY_VISIBLE;
        store_entry_drop_payload(store, entry);
        return 0;
    }
    error = chunk_get(group, entry->chunk_number, &chunk);
    if (error < 0)
        return error;
    error = chunk_use_co(chunk);
    /* The log may have been moved to the head meanwhile, not cut: it is committed. */
    if (error == 0)
        error = overlay_add(chunk, entry);
    chunk_unuse(chunk);
    return error;
}

void sl_store_entry_skip(struct sl_store_group *group, uint64_t index)
{
    struct entry *entry = store_log_get(group, index);
    SL_ASSERT(index > group->applied_index);
    if (entry != NULL)
        entry->flags |= SL_ENTRY_SKIPPED;
}

int sl_store_apply_co(struct sl_store_group *group, uint64_t index)
{
    struct sl_store *store = group->store;
    uint64_t before = group->applied_index;
    int error = 0;
    while (group->applying)
        sl_wait_queue_co(&group->applied);
    group->applying = true;
    SL_ASSERT(index <= group->log.last);
    while (error == 0 && group->applied_index < index) {
        error = apply_entry_co(group, group->applied_index + 1);
        if (error == 0)
            group->applied_index++;
    }
    group->applying = false;
    if (group->has_state && !group->deleted && group->applied_index > before &&
        sl_list_is_empty(&group->advanced))
        sl_list_append(&store->advanced, &group->advanced);
    sl_wait_queue_wake_one(&group->applied, 0);
    if (store_is_pressed(store))
        appliers_kick(store);
    return error;
}

/* ---- a group without replicas ---- */

static void compute_crcs(const struct sl_iobuf *payload, uint32_t *crcs)
{
    for (unsigned i = 0; i < payload->span_count; i++) {
        uint32_t blocks = payload->spans[i].length_bytes / SL_BLOCK_BYTES;
        sl_crc32c_blocks(payload->spans[i].data, blocks, crcs);
        crcs += blocks;
    }
}

int sl_store_write_co(struct sl_store_group *group, uint8_t type, uint32_t chunk,
                      uint16_t first_block, uint16_t block_count, const struct sl_iobuf *payload,
                      const uint32_t *crcs)
{
    struct sl_store_wait wait;
    uint32_t computed[SL_ENTRY_BLOCKS_MAX];
    struct sl_store_entry entry = {
        .type = type,
        .chunk = chunk,
        .first_block = first_block,
        .block_count = block_count,
        .crcs = crcs,
    };
    int error = sl_store_prepare_co(group, type, chunk, first_block, block_count);
    if (error < 0)
        return error;
    if (crcs == NULL && sl_entry_has_payload(type)) {
        compute_crcs(payload, computed);
        entry.crcs = computed;
    }
    /* From here to the append nothing is awaited: the order of writes is the order of indexes. */
    entry.index = group->log.last + 1;
    entry.term = sl_max(group->term, UINT64_C(1));
    sl_store_append(group, &entry, payload, &wait);
    error = sl_store_durable_co(&wait);
    return error < 0 ? error : sl_store_apply_co(group, entry.index);
}
