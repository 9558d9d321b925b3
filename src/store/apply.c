/*
 * From the log into the chunks: the overlay says where the newest version of each block is;
 * applying writes it, merged, into its slot, from the buffer in which it came.
 *
 *   visible entry ─► overlay ─► (memory or log is short) ─► one chunk at a time: snapshot, wait for
 *   readers, write, then: table, overlay cleared, entry let go
 *
 * Invariants: a block of the overlay is the newest committed version. While a chunk is applied its
 * overlay stays, so readers find the version that is being written in memory and never read a
 * slot's block under a write. A region's index is set only when everything up to it is in the slot.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/log.h"
#include "store/chunk.h"

/* After an error of the medium. */
#define RETRY_NS (100 * SL_NS_PER_MS)
/* So long requests wait for memory before payload goes that is not committed. */
#define SPILL_PATIENCE_NS (100 * SL_NS_PER_MS)
/* ---- the overlay ---- */

struct entry *overlay_get(const struct chunk *chunk, unsigned block)
{
    if (chunk->overlays == NULL || chunk->overlays[block / SL_REGION_BLOCKS] == NULL)
        return NULL;
    return chunk->overlays[block / SL_REGION_BLOCKS]->blocks[block % SL_REGION_BLOCKS];
}

static int make_overlays(struct chunk *chunk, unsigned first_region, unsigned last_region)
{
    if (chunk->overlays == NULL)
        chunk->overlays = calloc(SL_CHUNK_REGIONS, sizeof(struct overlay *));
    if (chunk->overlays == NULL)
        return -ENOMEM;
    for (unsigned i = first_region; i <= last_region; i++) {
        if (chunk->overlays[i] == NULL)
            chunk->overlays[i] = calloc(1, sizeof(struct overlay));
        if (chunk->overlays[i] == NULL)
            return -ENOMEM;
    }
    return 0;
}

void overlay_clear(struct chunk *chunk, unsigned block)
{
    struct overlay *overlay = chunk->overlays[block / SL_REGION_BLOCKS];
    struct entry **at = &overlay->blocks[block % SL_REGION_BLOCKS];
    struct entry *entry = *at;
    *at = NULL;
    chunk->overlay_blocks--;
    if (--overlay->count == 0) {
        free(overlay);
        chunk->overlays[block / SL_REGION_BLOCKS] = NULL;
    }
    store_entry_unref(chunk->group->store, entry);
}

static void overlay_put(struct chunk *chunk, unsigned block, struct entry *entry)
{
    struct overlay *overlay = chunk->overlays[block / SL_REGION_BLOCKS];
    struct entry **at = &overlay->blocks[block % SL_REGION_BLOCKS];
    struct entry *old = *at;
    *at = entry;
    store_entry_ref(entry);
    if (old == NULL) {
        overlay->count++;
        chunk->overlay_blocks++;
    } else {
        chunk->group->store->statistics.merged_bytes += SL_BLOCK_BYTES;
        store_entry_unref(chunk->group->store, old);
    }
}

int overlay_add(struct chunk *chunk, struct entry *entry)
{
    struct sl_store *store = chunk->group->store;
    unsigned end = entry->first_block + entry->block_count;
    int error =
        make_overlays(chunk, entry->first_block / SL_REGION_BLOCKS, (end - 1) / SL_REGION_BLOCKS);
    if (error < 0)
        return error;
    entry->flags |= SL_ENTRY_VISIBLE;
    entry->chunk = chunk;
    sl_list_append(&store->pending, &entry->pending);
    store->pending_bytes += (uint64_t)entry->block_count * SL_BLOCK_BYTES;
    store_entry_ref(entry);
    for (unsigned block = entry->first_block; block < end; block++) {
        /* After a crash: the region may have it already. */
        if (chunk->table->regions[block / SL_REGION_BLOCKS].index < entry->index)
            overlay_put(chunk, block, entry);
    }
    store_entry_unref(store, entry);
    return 0;
}

void overlay_drop_all(struct chunk *chunk)
{
    for (unsigned block = 0; chunk->overlays != NULL && block < SL_CHUNK_BLOCKS; block++) {
        if (overlay_get(chunk, block) != NULL)
            overlay_clear(chunk, block);
    }
    for (unsigned i = 0; chunk->overlays != NULL && i < SL_CHUNK_REGIONS; i++)
        free(chunk->overlays[i]);
    free(chunk->overlays);
    chunk->overlays = NULL;
}

/* ---- one chunk ---- */

struct apply {
    struct sl_store *store;
    struct chunk *chunk;
    struct entry **blocks; /* SL_CHUNK_BLOCKS: what is applied; referenced */
    bool *in_memory; /* of each, at the snapshot: what comes into memory later is not looked at */
    struct io_set set;
    struct sl_buf *bounce; /* of region bounce_region */
    unsigned bounce_region;
};

static void snapshot(struct apply *apply)
{
    for (unsigned block = 0; block < SL_CHUNK_BLOCKS; block++) {
        apply->blocks[block] = overlay_get(apply->chunk, block);
        if (apply->blocks[block] == NULL)
            continue;
        store_entry_ref(apply->blocks[block]);
        apply->in_memory[block] = apply->blocks[block]->span_count > 0;
    }
}

/* Readers that began before the snapshot may be reading slots' blocks that are now to be written.
 */
static void wait_for_readers_co(struct chunk *chunk)
{
    unsigned phase = chunk->phase;
    chunk->phase ^= 1;
    while (chunk->readers[phase] > 0)
        sl_wait_queue_co(&chunk->changed);
}

static bool is_data(const struct entry *entry)
{
    return entry != NULL && entry->type == SL_ENTRY_WRITE && (entry->flags & SL_ENTRY_FAULTY) == 0;
}

/* Payload that only the log has (after a restart), of one region into one buffer. What is damaged
 * there is marked so. */
static int fetch_region_co(struct apply *apply, unsigned region)
{
    struct sl_store *store = apply->store;
    unsigned begin = region * SL_REGION_BLOCKS;
    unsigned phase = store_log_reading(store);
    for (unsigned i = 0; i < SL_REGION_BLOCKS; i++) {
        const struct entry *entry = apply->blocks[begin + i];
        if (!is_data(entry) || apply->in_memory[begin + i])
            continue;
        unsigned run = 1;
        while (i + run < SL_REGION_BLOCKS && apply->blocks[begin + i + run] == entry)
            run++;
        struct sl_span span = sl_buf_span(apply->bounce, i * SL_BLOCK_BYTES, run * SL_BLOCK_BYTES);
        io_set_add_co(&apply->set, SL_DISK_READ, &span, 1,
                      store_entry_offset(store, entry) +
                          (uint64_t)(begin + i - entry->first_block) * SL_BLOCK_BYTES,
                      (uint64_t)run * SL_BLOCK_BYTES);
        i += run - 1;
    }
    int error = io_set_wait_co(&apply->set);
    store_log_read(store, phase);
    for (unsigned i = 0; i < SL_REGION_BLOCKS && error == 0; i++) {
        struct entry *entry = apply->blocks[begin + i];
        unsigned block = begin + i - (entry != NULL ? entry->first_block : 0);
        if (is_data(entry) && !apply->in_memory[begin + i] &&
            sl_crc32c(0, apply->bounce->data + i * SL_BLOCK_BYTES, SL_BLOCK_BYTES) !=
                entry->crcs[block])
            store_entry_bad(store, entry, block);
    }
    apply->bounce_region = region;
    return error;
}

static int take_slots(struct apply *apply)
{
    for (unsigned block = 0; block < SL_CHUNK_BLOCKS; block++) {
        struct sl_region_entry *region = &apply->chunk->table->regions[block / SL_REGION_BLOCKS];
        if (!is_data(apply->blocks[block]) || region->slot != SL_SLOT_NONE)
            continue;
        int error = slot_take(apply->chunk, block / SL_REGION_BLOCKS, &region->slot);
        if (error < 0)
            return error;
    }
    return 0;
}

/* The pieces of `blocks` blocks from `block` on, all of one entry. */
static unsigned block_spans(const struct apply *apply, unsigned block, unsigned blocks,
                            struct sl_span *spans)
{
    const struct entry *entry = apply->blocks[block];
    if (apply->in_memory[block])
        return spans_slice(entry->spans, entry->span_count,
                           (block - entry->first_block) * SL_BLOCK_BYTES, blocks * SL_BLOCK_BYTES,
                           spans);
    spans[0] = sl_buf_span(apply->bounce, block % SL_REGION_BLOCKS * SL_BLOCK_BYTES,
                           blocks * SL_BLOCK_BYTES);
    return 1;
}

/* Data whose payload is at hand. */
static bool is_ready(const struct apply *apply, unsigned block)
{
    const struct entry *entry = apply->blocks[block];
    return is_data(entry) &&
           (apply->in_memory[block] || block / SL_REGION_BLOCKS == apply->bounce_region);
}

/* Writes the run of data blocks that begins at `block` and lies together on disk; answers its
 * length. */
static unsigned write_run_co(struct apply *apply, unsigned block)
{
    const struct table *table = apply->chunk->table;
    struct sl_span spans[SL_DISK_SPANS_MAX];
    unsigned span_count = 0, length = 0;
    uint32_t slot = table->regions[block / SL_REGION_BLOCKS].slot;
    while (block + length < SL_CHUNK_BLOCKS && is_ready(apply, block + length)) {
        unsigned at = block + length, run = 1;
        const struct entry *entry = apply->blocks[at];
        if (at / SL_REGION_BLOCKS != block / SL_REGION_BLOCKS &&
            table->regions[at / SL_REGION_BLOCKS].slot !=
                slot + (at / SL_REGION_BLOCKS - block / SL_REGION_BLOCKS))
            break;
        unsigned region_end = (at / SL_REGION_BLOCKS + 1) * SL_REGION_BLOCKS;
        while (at + run < region_end && apply->blocks[at + run] == entry)
            run++;
        if (span_count + sl_max(entry->span_count, (uint16_t)1) > SL_DISK_SPANS_MAX)
            break;
        span_count += block_spans(apply, at, run, spans + span_count);
        length += run;
    }
    uint64_t offset =
        slot_offset(apply->store, slot) + (uint64_t)(block % SL_REGION_BLOCKS) * SL_BLOCK_BYTES;
    io_set_add_co(&apply->set, SL_DISK_WRITE, spans, span_count, offset,
                  (uint64_t)length * SL_BLOCK_BYTES);
    apply->store->statistics.data_write_count++;
    apply->store->statistics.data_bytes += (uint64_t)length * SL_BLOCK_BYTES;
    return length;
}

static bool lacks_payload(const struct apply *apply, unsigned region)
{
    for (unsigned block = region * SL_REGION_BLOCKS; block < (region + 1) * SL_REGION_BLOCKS;
         block++) {
        if (is_data(apply->blocks[block]) && !apply->in_memory[block])
            return true;
    }
    return false;
}

/* First what is in memory, all together; then region by region what has to be read first. */
static int write_all_co(struct apply *apply)
{
    apply->bounce_region = UINT_MAX;
    for (unsigned block = 0; block < SL_CHUNK_BLOCKS;)
        block += is_ready(apply, block) ? write_run_co(apply, block) : 1;
    int error = io_set_wait_co(&apply->set);
    for (unsigned region = 0; region < SL_CHUNK_REGIONS && error == 0; region++) {
        if (!lacks_payload(apply, region))
            continue;
        if (apply->bounce == NULL)
            apply->bounce = sl_buf_alloc_co(apply->store->config.memory, SL_REGION_BYTES,
                                            SL_RESERVE_CHECKPOINT);
        error = apply->bounce == NULL ? -ENOMEM : fetch_region_co(apply, region);
        for (unsigned i = 0; i < SL_REGION_BLOCKS && error == 0;) {
            unsigned block = region * SL_REGION_BLOCKS + i;
            i +=
                is_ready(apply, block) && !apply->in_memory[block] ? write_run_co(apply, block) : 1;
        }
        if (error == 0)
            error = io_set_wait_co(&apply->set);
    }
    sl_buf_unref(apply->bounce);
    apply->bounce = NULL;
    return error;
}

uint32_t overlay_crc(const struct entry *entry, unsigned block)
{
    if (entry->type == SL_ENTRY_ZERO)
        return SL_CRC_ABSENT;
    if ((entry->flags & SL_ENTRY_FAULTY) != 0)
        return SL_CRC_DAMAGED;
    return sl_crc_stored(entry->crcs[block - entry->first_block]);
}

/* All of it is in its slots: the table says so, the overlay lets go. */
static void commit(struct apply *apply)
{
    struct chunk *chunk = apply->chunk;
    for (unsigned i = 0; i < SL_CHUNK_REGIONS; i++) {
        struct sl_region_entry *region = &chunk->table->regions[i];
        bool touched = false, used = false;
        for (unsigned block = i * SL_REGION_BLOCKS; block < (i + 1) * SL_REGION_BLOCKS; block++) {
            struct entry *entry = apply->blocks[block];
            if (entry != NULL) {
                chunk->table->crcs[block] = overlay_crc(entry, block);
                region->index = sl_max(region->index, entry->index);
                chunk->dirty_index = sl_min(chunk->dirty_index, entry->index);
                touched = true;
                if (overlay_get(chunk, block) == entry)
                    overlay_clear(chunk, block);
            }
            used = used || (chunk->table->crcs[block] != SL_CRC_ABSENT &&
                            chunk->table->crcs[block] != SL_CRC_DAMAGED);
        }
        if (touched && !used)
            slot_release(chunk, i);
    }
}

static int apply_used_co(struct apply *apply)
{
    snapshot(apply);
    wait_for_readers_co(apply->chunk);
    int error = take_slots(apply);
    if (error == 0)
        error = write_all_co(apply);
    if (error == 0)
        commit(apply);
    for (unsigned block = 0; block < SL_CHUNK_BLOCKS; block++) {
        if (apply->blocks[block] != NULL)
            store_entry_unref(apply->store, apply->blocks[block]);
    }
    return error;
}

int apply_chunk_co(struct chunk *chunk)
{
    struct apply apply = {.store = chunk->group->store, .chunk = chunk};
    SL_ASSERT(!chunk->applying);
    chunk->applying = true;
    apply.blocks = calloc(SL_CHUNK_BLOCKS, sizeof(struct entry *));
    apply.in_memory = calloc(SL_CHUNK_BLOCKS, sizeof(bool));
    int error = apply.blocks == NULL || apply.in_memory == NULL ? -ENOMEM : 0;
    if (error == 0)
        error = io_set_init(&apply.set, apply.store->config.disk, SL_APPLY_OPS_MAX);
    if (error == 0) {
        error = chunk_use_co(chunk);
        if (error == 0)
            error = apply_used_co(&apply);
        chunk_unuse(chunk);
        io_set_fini(&apply.set);
    }
    free(apply.blocks);
    free(apply.in_memory);
    chunk->applying = false;
    sl_wait_queue_wake_all(&chunk->changed, 0);
    sl_wait_queue_wake_all(&apply.store->apply_progress, 0);
    return error;
}

/* ---- who applies ---- */

/* What is held counts blocks. A buffer may be much larger than the block that keeps it, and others
 * than this store need memory: so who runs short of it counts as well. */
bool store_is_pressed(const struct sl_store *store)
{
    return store->held_bytes > store->overlay_limit || store->memory_waiters > 0 ||
           (store->held_bytes > 0 &&
            sl_memory_is_short(store->config.memory, SL_RESERVE_ADMISSION));
}

/* The chunk of the oldest entry that has to go: because memory is short, or the log. */
static struct chunk *pick(struct sl_store *store)
{
    bool pressed = store_is_pressed(store);
    sl_list_for_each(node, &store->pending)
    {
        struct entry *entry = sl_list_entry(node, struct entry, pending);
        if (!pressed && !(store->apply_forced && entry->index <= entry->group->apply_to))
            continue;
        /* Without blocks in the overlay it only waits for a reader to let go. */
        if (!entry->chunk->applying && entry->chunk->overlay_blocks > 0)
            return entry->chunk;
    }
    return NULL;
}

/* What cannot be applied, since it is not committed, need not keep others from what they have to
 * take: that would be for ever where its group waits for them. Requests wait a little before: what
 * is let go has to be read again, and most of it is about to be committed. */
static void wait_for_work_co(struct sl_store *store)
{
    struct sl_memory_statistics memory;
    sl_memory_statistics(store->config.memory, &memory);
    uint64_t now_ns = sl_reactor_now_ns(store->reactor);
    if (memory.waiter_count == 0)
        store->starved_ns = 0;
    else if (store->starved_ns == 0)
        store->starved_ns = now_ns;
    uint64_t deadline_ns = store->starved_ns != 0 ? store->starved_ns + SPILL_PATIENCE_NS : 0;
    if (sl_memory_is_short(store->config.memory, SL_RESERVE_INTAKE))
        deadline_ns = now_ns;
    if (deadline_ns > now_ns && store->held_bytes > 0 && store->failed == 0) {
        sl_wait_queue_until_co(&store->apply_work, deadline_ns);
        return;
    }
    if (deadline_ns != 0 && store->failed == 0 && sl_list_is_empty(&store->pending)) {
        store->starved_ns = 0;
        (void)store_spill(store);
    }
    sl_wait_queue_co(&store->apply_work);
}

static void applier_co(void *argument)
{
    struct sl_store *store = argument;
    while (!store->closing || store->checkpoint_running) {
        struct chunk *chunk = store->failed == 0 ? pick(store) : NULL;
        if (chunk == NULL) {
            wait_for_work_co(store);
            continue;
        }
        int error = apply_chunk_co(chunk);
        if (error < 0) {
            store->statistics.write_error_count++;
            if (store->stopping || ++store->failures_in_a_row >= SL_FAILURES_MAX) {
                store_fail(store, error, "writing to any chunk", 0);
                continue;
            }
            sl_log_error("store",
                         "%s: chunk %u of group %llu cannot be written: %s (%s); it stays in the "
                         "log and is tried again",
                         store->config.name, chunk->number, (unsigned long long)chunk->group->id,
                         sl_error_text(error), sl_error_name(error));
            sl_sleep_co(RETRY_NS);
        } else {
            store->failures_in_a_row = 0;
        }
    }
    store->background_count--;
    sl_wait_queue_wake_all(&store->apply_progress, 0);
}

static void on_short(void *context)
{
    appliers_kick(context);
}

int appliers_start(struct sl_store *store)
{
    store->listener = (struct sl_memory_listener){.on_short = on_short, .context = store};
    sl_memory_listen(store->config.memory, &store->listener);

    for (unsigned i = 0; i < SL_APPLIERS; i++) {
        int error = sl_co_spawn(store->reactor, applier_co, store);
        if (error < 0)
            return error;
        store->background_count++;
    }
    return 0;
}

void appliers_kick(struct sl_store *store)
{
    if (!sl_wait_queue_is_empty(&store->apply_work))
        sl_wait_queue_wake_all(&store->apply_work, 0);
}
