/*
 * Reading blocks: the overlay's version if there is one, else the slot's, else zeroes; each
 * verified by the CRC that memory has for it.
 *
 * Plan first, without awaiting: which block comes from where, with references that keep it there.
 * Then the disk, then the CRCs. A block that fails is looked at again by the caller's second try,
 * into our own memory: what landed in a client's may have been changed there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/log.h"
#include "store/chunk.h"

struct plan {
    struct sl_store *store;
    struct chunk *chunk;
    unsigned first_block, block_count;
    unsigned phase, log_phase;
    uint32_t crcs[SL_ENTRY_BLOCKS_MAX];         /* as stored */
    struct entry *entries[SL_ENTRY_BLOCKS_MAX]; /* NULL: the table's version; referenced */
    uint64_t offsets[SL_ENTRY_BLOCKS_MAX];      /* on disk; 0: zeroes */
};

/* What the overlay, or else the table, has of the block. */
static void plan_block(struct plan *plan, unsigned i)
{
    struct chunk *chunk = plan->chunk;
    unsigned block = plan->first_block + i;
    struct entry *entry = overlay_get(chunk, block);
    plan->entries[i] = entry;
    plan->offsets[i] = 0;
    if (entry != NULL) {
        store_entry_ref(entry);
        if (entry->type == SL_ENTRY_ZERO) {
            plan->crcs[i] = SL_CRC_ABSENT;
        } else if ((entry->flags & SL_ENTRY_FAULTY) != 0) {
            plan->crcs[i] = SL_CRC_DAMAGED;
        } else {
            plan->crcs[i] = sl_crc_stored(entry->crcs[block - entry->first_block]);
            plan->offsets[i] = store_entry_offset(plan->store, entry) +
                               (uint64_t)(block - entry->first_block) * SL_BLOCK_BYTES;
        }
        return;
    }
    plan->crcs[i] = chunk->table->crcs[block];
    if (plan->crcs[i] != SL_CRC_ABSENT && plan->crcs[i] != SL_CRC_DAMAGED)
        plan->offsets[i] =
            slot_offset(plan->store, chunk->table->regions[block / SL_REGION_BLOCKS].slot) +
            (uint64_t)(block % SL_REGION_BLOCKS) * SL_BLOCK_BYTES;
}

static void plan_begin(struct plan *plan)
{
    plan->phase = plan->chunk->phase;
    plan->log_phase = store_log_reading(plan->store);
    plan->chunk->readers[plan->phase]++;
    for (unsigned i = 0; i < plan->block_count; i++)
        plan_block(plan, i);
}

static void plan_end(struct plan *plan)
{
    for (unsigned i = 0; i < plan->block_count; i++) {
        if (plan->entries[i] != NULL)
            store_entry_unref(plan->store, plan->entries[i]);
    }
    store_log_read(plan->store, plan->log_phase);
    if (--plan->chunk->readers[plan->phase] == 0)
        sl_wait_queue_wake_all(&plan->chunk->changed, 0);
}

static int damaged(struct plan *plan, unsigned i, const char *what)
{
    struct sl_store *store = plan->store;
    store->statistics.checksum_error_count++;
    sl_log_error("store",
                 "%s: block %u of chunk %u of group %llu %s (byte %llu of the disk); it has to be "
                 "written anew or repaired from another copy",
                 store->config.name, plan->first_block + i, plan->chunk->number,
                 (unsigned long long)plan->chunk->group->id, what,
                 (unsigned long long)plan->offsets[i]);
    return -SL_E_CHECKSUM;
}

/* How many blocks from i on come from one place of the disk (`from_disk`), or none does. */
static unsigned run_of(const struct plan *plan, unsigned i)
{
    unsigned run = 1;
    while (i + run < plan->block_count &&
           (plan->offsets[i] == 0
                ? plan->offsets[i + run] == 0
                : plan->offsets[i + run] == plan->offsets[i] + (uint64_t)run * SL_BLOCK_BYTES))
        run++;
    return run;
}

static void fill_zeroes(const struct sl_span *spans, unsigned span_count)
{
    for (unsigned i = 0; i < span_count; i++)
        memset(spans[i].data, 0, spans[i].length_bytes);
}

/* Every block from the disk (log or slot) into its place in `spans`, those of `skip` left out. */
static int fetch_co(struct plan *plan, const struct sl_span *spans, unsigned span_count,
                    const bool *skip)
{
    struct sl_span slice[SL_DISK_SPANS_MAX];
    struct io_set set;
    int error;
    if (skip == NULL && plan->offsets[0] != 0 && run_of(plan, 0) == plan->block_count) {
        /* The usual case: all of it lies together. */
        error = sl_disk_rw_co(plan->store->config.disk, SL_DISK_READ, spans, span_count,
                              plan->offsets[0], (uint64_t)plan->block_count * SL_BLOCK_BYTES, 0);
        plan->store->statistics.read_error_count += error < 0;
        return error;
    }
    error = io_set_init(&set, plan->store->config.disk, SL_APPLY_OPS_MAX);
    if (error < 0)
        return error;
    for (unsigned i = 0, run; i < plan->block_count; i += run) {
        run = run_of(plan, i);
        if (skip != NULL && skip[i]) {
            run = 1;
            continue;
        }
        for (unsigned k = 1; skip != NULL && k < run; k++) {
            if (skip[i + k])
                run = k;
        }
        unsigned count =
            spans_slice(spans, span_count, i * SL_BLOCK_BYTES, run * SL_BLOCK_BYTES, slice);
        if (plan->offsets[i] == 0)
            fill_zeroes(slice, count);
        else
            io_set_add_co(&set, SL_DISK_READ, slice, count, plan->offsets[i],
                          (uint64_t)run * SL_BLOCK_BYTES);
    }
    error = io_set_wait_co(&set);
    io_set_fini(&set);
    plan->store->statistics.read_error_count += error < 0;
    return error;
}

/* Index of the first block that is not what it should be, or block_count. */
static unsigned verify(const struct plan *plan, const struct sl_span *spans, unsigned span_count)
{
    unsigned i = 0;
    uint32_t crc = 0, left = SL_BLOCK_BYTES;
    for (unsigned k = 0; k < span_count; k++) {
        const uint8_t *data = spans[k].data;
        uint32_t length = spans[k].length_bytes;
        while (length > 0) {
            uint32_t step = sl_min(left, length);
            bool real = plan->offsets[i] != 0;
            crc = real ? sl_crc32c(crc, data, step) : 0;
            data += step;
            length -= step;
            left -= step;
            if (left > 0)
                continue;
            if (real && sl_crc_stored(crc) != plan->crcs[i])
                return i;
            i++;
            crc = 0;
            left = SL_BLOCK_BYTES;
        }
    }
    return i;
}

static int refuse_damaged(struct plan *plan)
{
    for (unsigned i = 0; i < plan->block_count; i++) {
        if (plan->crcs[i] == SL_CRC_DAMAGED)
            return damaged(plan, i, "was lost");
    }
    return 0;
}

/* ---- into memory of ours, or shared ---- */

/* Adds the blocks that the overlay has in memory, without a copy. False: too many pieces. */
static bool share(const struct plan *plan, unsigned i, unsigned run, struct sl_iobuf *data)
{
    const struct entry *entry = plan->entries[i];
    uint32_t offset = (plan->first_block + i - entry->first_block) * SL_BLOCK_BYTES;
    uint32_t length = run * SL_BLOCK_BYTES;
    for (unsigned k = 0; k < entry->span_count && length > 0; k++) {
        const struct sl_span *span = &entry->spans[k];
        if (offset >= span->length_bytes) {
            offset -= span->length_bytes;
            continue;
        }
        uint32_t step = sl_min(span->length_bytes - offset, length);
        uint32_t from = (uint32_t)(span->data - entry->owners[k]->data) + offset;
        if (sl_iobuf_append_buf(data, entry->owners[k], from, step) < 0)
            return false;
        length -= step;
        offset = 0;
    }
    return true;
}

static bool in_memory(const struct plan *plan, unsigned i)
{
    return plan->entries[i] != NULL && plan->entries[i]->span_count > 0 && plan->offsets[i] != 0;
}

/* The result as pieces: of the overlay's buffers, and of `buf` for the rest. */
static bool assemble(const struct plan *plan, struct sl_buf *buf, const bool *shared,
                     struct sl_iobuf *data)
{
    for (unsigned i = 0, run; i < plan->block_count; i += run) {
        run = 1;
        while (i + run < plan->block_count && shared[i + run] == shared[i] &&
               (!shared[i] || plan->entries[i + run] == plan->entries[i]))
            run++;
        if (shared[i]
                ? !share(plan, i, run, data)
                : sl_iobuf_append_buf(data, buf, i * SL_BLOCK_BYTES, run * SL_BLOCK_BYTES) < 0)
            return false;
    }
    return true;
}

static int read_shared_co(struct plan *plan, struct sl_buf *buf, struct sl_iobuf *data)
{
    bool shared[SL_ENTRY_BLOCKS_MAX];
    bool all = true;
    uint32_t length = plan->block_count * SL_BLOCK_BYTES;
    struct sl_span span = sl_buf_span(buf, 0, length);
    for (unsigned i = 0; i < plan->block_count; i++) {
        shared[i] = in_memory(plan, i);
        all = all && shared[i];
    }
    int error = all ? 0 : fetch_co(plan, &span, 1, shared);
    if (error < 0 || assemble(plan, buf, shared, data))
        return error;
    /* Too many pieces: all of it from the disk, into one. */
    sl_iobuf_fini(data);
    error = fetch_co(plan, &span, 1, NULL);
    return error < 0 ? error : sl_iobuf_append_buf(data, buf, 0, length);
}

struct read {
    struct sl_store_group *group;
    uint32_t number;
    uint16_t first_block, block_count;
    struct plan *plan;
};

/* Answers 1: nothing was ever written there, it is zeroes. */
static int read_begin_co(struct read *read)
{
    struct sl_store *store = read->group->store;
    if (read->block_count == 0 || read->block_count > SL_ENTRY_BLOCKS_MAX ||
        read->first_block + (uint32_t)read->block_count > SL_CHUNK_BLOCKS)
        return -EINVAL;
    struct chunk *chunk = chunk_find(store, read->group->id, read->number);
    if (chunk == NULL)
        return 1;
    int error = chunk_use_co(chunk);
    if (error == 0) {
        read->plan = malloc(sizeof(*read->plan));
        error = read->plan == NULL ? -ENOMEM : 0;
    }
    if (error < 0) {
        chunk_unuse(chunk);
        return error;
    }
    read->plan->store = store;
    read->plan->chunk = chunk;
    read->plan->first_block = read->first_block;
    read->plan->block_count = read->block_count;
    plan_begin(read->plan);
    error = refuse_damaged(read->plan);
    return error;
}

static void read_end(struct read *read)
{
    if (read->plan == NULL)
        return;
    plan_end(read->plan);
    chunk_unuse(read->plan->chunk);
    free(read->plan);
}

int sl_store_read_co(struct sl_store_group *group, uint32_t chunk, uint16_t first_block,
                     uint16_t block_count, struct sl_iobuf *data)
{
    struct read read = {group, chunk, first_block, block_count, NULL};
    uint32_t length = block_count * SL_BLOCK_BYTES;
    SL_ASSERT(data->span_count == 0);
    if (block_count == 0 || block_count > SL_ENTRY_BLOCKS_MAX)
        return -EINVAL;
    /* Before the plan: who holds one keeps the chunk from being applied, which is what gives memory
     * back. */
    struct sl_buf *buf = sl_buf_alloc_co(group->store->config.memory, length, SL_RESERVE_ADMISSION);
    if (buf == NULL)
        return -ENOMEM;
    int error = read_begin_co(&read);
    if (error == 1) {
        memset(buf->data, 0, length);
        error = sl_iobuf_append_buf(data, buf, 0, length);
    } else if (error == 0) {
        error = read_shared_co(read.plan, buf, data);
        unsigned bad = error == 0 ? verify(read.plan, data->spans, data->span_count) : block_count;
        if (bad < block_count)
            error = damaged(read.plan, bad, "fails its checksum");
        if (error < 0)
            sl_iobuf_fini(data);
    }
    read_end(&read);
    sl_buf_unref(buf);
    return error;
}

/* ---- into memory that the caller names ---- */

/* Once more into a buffer of ours: if it is right there, the caller's memory was changed under us,
 * or lies in a way that the disk's errors do not explain. */
static int second_look_co(struct plan *plan, const struct sl_span *spans, unsigned span_count)
{
    uint32_t length = plan->block_count * SL_BLOCK_BYTES;
    struct sl_buf *buf = sl_buf_alloc_co(plan->store->config.memory, length, SL_RESERVE_CHECKPOINT);
    if (buf == NULL)
        return -ENOMEM;
    struct sl_span own = sl_buf_span(buf, 0, length);
    int error = fetch_co(plan, &own, 1, NULL);
    unsigned bad = error == 0 ? verify(plan, &own, 1) : 0;
    if (error == 0 && bad < plan->block_count)
        error = damaged(plan, bad, "fails its checksum twice");
    for (unsigned i = 0, done = 0; error == 0 && i < span_count; i++) {
        sl_copy(sl_memory_copies(plan->store->config.memory), SL_COPY_LAND, spans[i].data,
                own.data + done, spans[i].length_bytes);
        done += spans[i].length_bytes;
    }
    sl_buf_unref(buf);
    return error;
}

int sl_store_read_into_co(struct sl_store_group *group, uint32_t chunk, uint16_t first_block,
                          uint16_t block_count, const struct sl_span *spans, unsigned span_count)
{
    struct read read = {group, chunk, first_block, block_count, NULL};
    int error = read_begin_co(&read);
    if (error == 1) {
        fill_zeroes(spans, span_count);
        return 0;
    }
    if (error == 0)
        error = fetch_co(read.plan, spans, span_count, NULL);
    if (error == 0 && verify(read.plan, spans, span_count) < block_count)
        error = second_look_co(read.plan, spans, span_count);
    read_end(&read);
    return error;
}
