/*
 * Reading the log again while it is in use. Whoever writes it never reads it back before the next
 * start, and what cannot be read then was acknowledged and is gone: a replica that has lost records
 * does not take part any more. Found in time, a checkpoint makes the store independent of it.
 *
 *   segment: first to last sequence ─► block by block, its batches ─► any that is not there, or
 * whose payload does not match: finding, and a checkpoint of all
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/error.h"
#include "store/chunk.h"

/* Of a sequence. An end that recovery discarded may have one of the same, torn. */
enum seen { NOWHERE, DAMAGED, SOUND };

struct walk {
    struct sl_store *store;
    uint64_t generation;
    uint64_t first, end; /* sequences that it must have: first … end - 1 */
    enum seen *seen;     /* each of them */
    uint64_t read_bytes;
    struct sl_buf *header, *payload;
    struct sl_store_findings *findings;
};

static void found(struct walk *walk, const char *what, uint64_t sequence)
{
    char text[160];
    snprintf(text, sizeof(text), "batch %llu of the log, in the segment at byte %llu, %s",
             (unsigned long long)sequence,
             (unsigned long long)wal_segment_offset(walk->store, walk->generation), what);
    findings_add(walk->findings, text);
}

static bool is_gone(const struct walk *walk)
{
    return walk->generation < walk->store->wal.tail_generation || walk->store->failed != 0;
}

/* What is durable of the segment; ghosts of an end that recovery discarded may lie between. */
static void find_range(struct walk *walk)
{
    const struct wal *wal = &walk->store->wal;
    walk->first = wal->first_sequences[walk->generation % wal->segment_count];
    walk->end = walk->generation < wal->head_generation
                    ? wal->first_sequences[(walk->generation + 1) % wal->segment_count]
                    : wal->next_sequence;
    walk->end = sl_min(walk->end, wal->durable_sequence + 1);
}

/* Nothing of it is used again while it is read: a phase. */
static int read_co(struct walk *walk, struct sl_buf *buf, uint32_t position, uint32_t blocks)
{
    struct sl_store *store = walk->store;
    struct sl_span span = sl_buf_span(buf, 0, blocks * SL_BLOCK_BYTES);
    uint64_t offset =
        wal_segment_offset(store, walk->generation) + (uint64_t)position * SL_BLOCK_BYTES;
    unsigned phase = store_log_reading(store);
    int error = is_gone(walk) ? -ESTALE
                              : sl_disk_rw_co(store->config.disk, SL_DISK_READ, &span, 1, offset,
                                              span.length_bytes, 0);
    store_log_read(store, phase);
    walk->read_bytes += span.length_bytes;
    return error == 0 && is_gone(walk) ? -ESTALE : error;
}

static bool payload_matches(const struct walk *walk)
{
    struct sl_record record;
    uint32_t offset = 0;
    while (sl_batch_next(walk->header->data, &offset, &record)) {
        if (!sl_record_payload_matches(&record, walk->payload->data))
            return false;
    }
    return true;
}

/* Answers the blocks to go on by, or why not. */
static int batch_co(struct walk *walk, uint32_t position)
{
    struct sl_store *store = walk->store;
    struct sl_batch_place place = {store->superblock, store->config.shard, walk->generation,
                                   position};
    struct sl_batch_header header;
    const char *why;
    int error = read_co(walk, walk->header, position, 1);
    if (error < 0 && error != -EIO)
        return error;
    if (error == -EIO || sl_batch_parse(walk->header->data, &place, &header, &why) < 0 ||
        header.sequence < walk->first || header.sequence >= walk->end ||
        header.payload_blocks > SL_WAL_BATCH_BLOCKS_MAX ||
        position + header.payload_blocks >= store->wal.segment_blocks)
        return 1;
    bool matches = true;
    if (header.payload_blocks > 0) {
        walk->payload = sl_buf_alloc_co(
            store->config.memory, header.payload_blocks * SL_BLOCK_BYTES, SL_RESERVE_ADMISSION);
        if (walk->payload == NULL)
            return -ENOMEM;
        error = read_co(walk, walk->payload, position + 1, header.payload_blocks);
        matches = error == 0 && payload_matches(walk);
        sl_buf_unref(walk->payload);
        if (error == -ESTALE)
            return error;
    }
    enum seen *seen = &walk->seen[header.sequence - walk->first];
    if (matches || *seen == NOWHERE)
        *seen = matches ? SOUND : DAMAGED;
    return (int)(1 + header.payload_blocks);
}

static int segment_co(struct walk *walk, uint64_t bytes_per_s, const bool *stop)
{
    struct sl_store *store = walk->store;
    uint64_t start_ns = sl_reactor_clock_ns(store->reactor);
    find_range(walk);
    if (walk->first == 0 || walk->first >= walk->end)
        return 0;
    walk->read_bytes = 0;
    walk->seen = calloc(walk->end - walk->first, sizeof(*walk->seen));
    if (walk->seen == NULL)
        return -ENOMEM;
    int step = 0;
    uint32_t last = walk->generation < store->wal.head_generation ? store->wal.segment_blocks
                                                                  : store->wal.head_position;
    for (uint32_t position = 0; position < last && step >= 0; position += (uint32_t)step) {
        if (store->stopping || (stop != NULL && *stop)) {
            step = -ECANCELED;
            break;
        }
        step = batch_co(walk, position);
        if (step >= 0)
            scrub_pace_co(store, start_ns, walk->read_bytes, bytes_per_s);
    }
    for (uint64_t i = 0; step >= 0 && i < walk->end - walk->first; i++) {
        if (walk->seen[i] != SOUND)
            found(walk, walk->seen[i] == NOWHERE ? "cannot be read back" : "has damaged payload",
                  walk->first + i);
    }
    free(walk->seen);
    return step == -ESTALE || step >= 0 ? 0 : step;
}

int scrub_log_co(struct sl_store *store, uint64_t bytes_per_s, struct sl_store_findings *findings,
                 const bool *stop)
{
    struct walk walk = {.store = store, .findings = findings};
    struct sl_memory *memory = store->config.memory;
    walk.header = sl_buf_alloc_co(memory, SL_BLOCK_BYTES, SL_RESERVE_ADMISSION);
    int error = walk.header == NULL ? -ENOMEM : 0;
    uint64_t end = store->wal.head_generation + 1, before = findings->count;
    for (walk.generation = store->wal.tail_generation; error == 0 && walk.generation < end;
         walk.generation = sl_max(walk.generation + 1, store->wal.tail_generation))
        error = segment_co(&walk, bytes_per_s, stop);
    sl_buf_unref(walk.header);
    if (findings->count > before && !store->config.read_only && store->failed == 0 &&
        !store->stopping)
        (void)sl_store_checkpoint_co(store);
    return error == -ECANCELED ? 0 : error;
}
