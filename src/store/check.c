/*
 * Looking for damage before somebody needs the block: scrub (beside serving, paced) and check (all
 * of a disk that nobody serves).
 *
 * Both read through the read path, so a block is judged by what memory has for its newest version.
 * check also compares what must agree: superblocks, copies of the root, slots in use.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "store/chunk.h"

#define STEP_BLOCKS SL_ENTRY_BLOCKS_MAX

void findings_add(struct sl_store_findings *findings, const char *text)
{
    findings->count++;
    if (findings->report != NULL)
        findings->report(findings->argument, text);
}

/* ---- blocks ---- */

static int verify_blocks_co(struct sl_store_group *group, uint32_t number, unsigned first,
                            unsigned count, struct sl_store_findings *findings)
{
    struct sl_iobuf data;
    char text[192];
    sl_iobuf_init(&data);
    int error = sl_store_read_co(group, number, (uint16_t)first, (uint16_t)count, &data);
    sl_iobuf_fini(&data);
    if (error == 0 || error == -ENOMEM) {
        findings->block_count += count;
        return error;
    }
    if (count > 1) { /* which of them? */
        error = verify_blocks_co(group, number, first, count / 2, findings);
        return error < 0 ? error
                         : verify_blocks_co(group, number, first + count / 2, count - count / 2,
                                            findings);
    }
    const struct sl_store_config *config = &group->store->config;
    if (error == -SL_E_CHECKSUM && config->damaged_co != NULL &&
        config->damaged_co(config->context, group->id, number, (uint16_t)first)) {
        findings->block_count++;
        snprintf(text, sizeof(text),
                 "group %llu, chunk %u, block %u was damaged, and is repaired from another copy",
                 (unsigned long long)group->id, number, first);
    } else {
        snprintf(text, sizeof(text),
                 "group %llu, chunk %u, block %u cannot be read: %s: write it anew, or repair it "
                 "from another copy",
                 (unsigned long long)group->id, number, first, sl_error_text(error));
    }
    findings_add(findings, text);
    return 0;
}

static bool has_data(const struct chunk *chunk, unsigned region)
{
    for (unsigned i = 0; i < SL_REGION_BLOCKS; i++) {
        if (chunk->table->crcs[region * SL_REGION_BLOCKS + i] != SL_CRC_ABSENT)
            return true;
    }
    return chunk->overlays != NULL && chunk->overlays[region] != NULL;
}

/* Whether entries are in the log that are not visible (again, after a restart): they may have been
 * written to their slots, which are ahead of the table until they are applied once more. */
static bool is_ahead(const struct chunk *chunk, unsigned region)
{
    const struct sl_store_group *group = chunk->group;
    unsigned first = region * SL_REGION_BLOCKS;
    for (uint64_t index = group->applied_index + 1; index <= group->log.last; index++) {
        const struct entry *entry = store_log_get(group, index);
        if (entry != NULL && (entry->type == SL_ENTRY_WRITE || entry->type == SL_ENTRY_ZERO) &&
            entry->chunk_number == chunk->number && entry->first_block < first + SL_REGION_BLOCKS &&
            first < entry->first_block + (unsigned)entry->block_count)
            return true;
    }
    return false;
}

/* Region by region, so that pacing has something to pace. */
static int verify_region_co(struct chunk *chunk, unsigned region,
                            struct sl_store_findings *findings)
{
    int error = chunk_use_co(chunk);
    if (error == 0 && has_data(chunk, region) && !is_ahead(chunk, region))
        error = verify_blocks_co(chunk->group, chunk->number, region * SL_REGION_BLOCKS,
                                 SL_REGION_BLOCKS, findings);
    chunk_unuse(chunk);
    return error;
}

void scrub_pace_co(struct sl_store *store, uint64_t start_ns, uint64_t bytes, uint64_t bytes_per_s)
{
    if (bytes_per_s == 0)
        return;
    /* Of 18 GiB their product has more than 64 bits. */
    uint64_t due_ns = start_ns + (uint64_t)((unsigned __int128)bytes * SL_NS_PER_S / bytes_per_s);
    if (due_ns > sl_reactor_clock_ns(store->reactor))
        (void)sl_wait_queue_until_co(&store->scrub_work, due_ns);
}

static int scrub_chunks_co(struct sl_store *store, uint64_t bytes_per_s,
                           struct sl_store_findings *findings, const bool *stop)
{
    uint64_t start_ns = sl_reactor_clock_ns(store->reactor), first = findings->block_count;
    for (uint32_t place = 0; place < store->chunk_count; place++) {
        for (unsigned region = 0; region < SL_CHUNK_REGIONS; region++) {
            struct chunk *chunk = store->places[place];
            if (chunk == NULL || store->stopping || (stop != NULL && *stop))
                break;
            uint64_t before = findings->block_count;
            int error = verify_region_co(chunk, region, findings);
            store->statistics.scrub_block_count += findings->block_count - before;
            if (error < 0)
                return error;
            scrub_pace_co(store, start_ns, (findings->block_count - first) * SL_BLOCK_BYTES,
                          bytes_per_s);
        }
    }
    return 0;
}

int sl_store_scrub_co(struct sl_store *store, uint64_t bytes_per_s,
                      struct sl_store_findings *findings, const bool *stop)
{
    int error = scrub_log_co(store, bytes_per_s, findings, stop);
    return error < 0 ? error : scrub_chunks_co(store, bytes_per_s, findings, stop);
}

/* ---- in the background ---- */

/* Between two passes: a disk that holds little is not read all the time. */
#define PASS_PAUSE_NS (600 * SL_NS_PER_S)

static void log_finding(void *argument, const char *text)
{
    struct sl_store *store = argument;
    store->statistics.scrub_finding_count++;
    sl_log_error("store", "%s: scrub: %s", store->config.name, text);
}

static void scrubber_co(void *argument)
{
    struct sl_store *store = argument;
    while (!store->closing && !store->stopping) {
        struct sl_store_findings findings = {.report = log_finding, .argument = store};
        int error =
            sl_store_scrub_co(store, store->config.scrub_bytes_per_s, &findings, &store->stopping);
        store->statistics.scrub_pass_count += error == 0 && !store->stopping;
        if (!store->closing && !store->stopping)
            (void)sl_wait_queue_until_co(&store->scrub_work,
                                         sl_reactor_clock_ns(store->reactor) + PASS_PAUSE_NS);
    }
    store->background_count--;
    sl_wait_queue_wake_all(&store->apply_progress, 0);
}

int scrubber_start(struct sl_store *store)
{
    if (store->config.scrub_bytes_per_s == 0)
        return 0;
    int error = sl_co_spawn(store->reactor, scrubber_co, store);
    if (error == 0)
        store->background_count++;
    return error;
}

/* ---- what must agree ---- */

static int check_superblocks_co(struct sl_store *store, struct sl_store_findings *findings)
{
    static const uint64_t places[] = {SL_SUPERBLOCK_A, SL_SUPERBLOCK_B};
    struct sl_superblock *parsed = malloc(sizeof(*parsed));
    uint8_t *block = malloc(SL_BLOCK_BYTES);
    int error = parsed == NULL || block == NULL ? -ENOMEM : 0;
    for (unsigned i = 0; i < SL_COUNT_OF(places) && error == 0; i++) {
        char text[256];
        const char *why = "";
        int result = store_read_bytes_co(store->config.disk, store->config.memory, places[i], block,
                                         SL_BLOCK_BYTES);
        if (result < 0)
            why = sl_error_text(result);
        else
            result = sl_superblock_parse(block, parsed, &why);
        if (result == 0 && parsed->sequence != store->superblock->sequence) {
            result = -ESTALE;
            why = "it is older than the other";
        }
        if (result < 0) {
            snprintf(text, sizeof(text), "the superblock at byte %llu is bad: %s",
                     (unsigned long long)places[i], why);
            findings_add(findings, text);
        }
    }
    free(parsed);
    free(block);
    return error;
}

static int check_root_copy_co(struct sl_store *store, unsigned copy, const char **why)
{
    uint64_t offset = store->shard->roots_offset + copy * store->shard->root_bytes;
    struct sl_root_header *header = malloc(sizeof(*header));
    uint8_t *block = malloc(SL_BLOCK_BYTES), *body = NULL;
    int error = header == NULL || block == NULL ? -ENOMEM : 0;
    if (error == 0)
        error = store_read_bytes_co(store->config.disk, store->config.memory, offset, block,
                                    SL_BLOCK_BYTES);
    if (error == 0)
        error = sl_root_header_parse(block, store->superblock, store->config.shard, header, why);
    else
        *why = sl_error_text(error);
    /* An older one: whoever wrote the newest ended between its two copies. */
    bool newest = error == 0 && header->sequence >= store->root_sequence;
    if (newest) {
        body = malloc(header->body_bytes + 8);
        error = body == NULL
                    ? -ENOMEM
                    : store_read_bytes_co(store->config.disk, store->config.memory,
                                          offset + SL_BLOCK_BYTES, body, header->body_bytes);
    }
    if (newest && error == 0)
        error = sl_root_body_parse(header, body, why);
    free(header);
    free(block);
    free(body);
    return error;
}

static int check_roots_co(struct sl_store *store, struct sl_store_findings *findings)
{
    unsigned first = store->root_sequence % 2 * 2;
    for (unsigned copy = first; copy < first + 2; copy++) {
        char text[256];
        const char *why = "";
        int error = check_root_copy_co(store, copy, &why);
        if (error == -ENOMEM)
            return error;
        if (error < 0) {
            snprintf(text, sizeof(text), "copy %u of shard %u's root %llu is bad: %s", copy - first,
                     store->config.shard, (unsigned long long)store->root_sequence, why);
            findings_add(findings, text);
        }
    }
    return 0;
}

/* Each slot belongs to one region at most, and the root says so. */
static int check_slots_co(struct sl_store *store, struct sl_store_findings *findings)
{
    char text[256];
    uint8_t *seen = calloc(1, store->slot_count + 1);
    int error = seen == NULL ? -ENOMEM : 0;
    uint32_t used = 0, known = 0;
    for (uint32_t place = 0; place < store->chunk_count && error == 0; place++) {
        struct chunk *chunk = store->places[place];
        if (chunk == NULL || store->root_versions[place] == 0)
            continue;
        error = chunk_use_co(chunk);
        for (unsigned i = 0; i < SL_CHUNK_REGIONS && error == 0; i++) {
            uint32_t slot = chunk->table->regions[i].slot;
            if (slot == SL_SLOT_NONE)
                continue;
            known++;
            bool in_root = (store->slots_root[slot / 64] >> slot % 64 & 1) != 0;
            if (!in_root || seen[slot]) {
                snprintf(text, sizeof(text), "slot %u of chunk %u of group %llu %s", slot,
                         chunk->number, (unsigned long long)chunk->group->id,
                         in_root ? "belongs to two regions" : "is free, says the root");
                findings_add(findings, text);
            }
            seen[slot] = 1;
        }
        chunk_unuse(chunk);
    }
    for (uint32_t i = 0; i < (store->slot_count + 63) / 64; i++)
        used += (uint32_t)__builtin_popcountll(store->slots_root[i]);
    if (error == 0 && used > known) {
        snprintf(text, sizeof(text), "shard %u: %u slots are in use and belong to nobody",
                 store->config.shard, used - known);
        findings_add(findings, text);
    }
    free(seen);
    return error;
}

static void check_logs(struct sl_store *store, struct sl_store_findings *findings)
{
    char text[256];
    struct sl_store_group *group = NULL;
    if (store->statistics.missing_batch_count > 0) {
        snprintf(text, sizeof(text), "shard %u: %llu acknowledged batches of the log are missing",
                 store->config.shard, (unsigned long long)store->statistics.missing_batch_count);
        findings_add(findings, text);
    }
    for (uint64_t after = 0; (group = sl_store_group_next(store, after)) != NULL;
         after = group->id) {
        for (uint64_t index = group->log.first; index <= group->log.last; index++) {
            const struct entry *entry = store_log_get(group, index);
            if (entry != NULL && (entry->flags & SL_ENTRY_FAULTY) == 0)
                continue;
            snprintf(text, sizeof(text), "entry %llu of group %llu is %s",
                     (unsigned long long)index, (unsigned long long)group->id,
                     entry == NULL ? "missing" : "damaged");
            findings_add(findings, text);
        }
    }
}

int sl_store_check_co(struct sl_store *store, struct sl_store_findings *findings)
{
    int error = check_superblocks_co(store, findings);
    if (error == 0)
        error = check_roots_co(store, findings);
    if (error == 0)
        error = check_slots_co(store, findings);
    if (error < 0)
        return error;
    check_logs(store, findings);
    return sl_store_scrub_co(store, 0, findings, NULL);
}

/* ---- what is where ---- */

void sl_store_describe(const struct sl_store *store, FILE *out)
{
    const struct sl_superblock *superblock = store->superblock;
    const struct wal *wal = &store->wal;
    fprintf(
        out,
        "shard %u: roots at byte %llu, log at %llu (%u segments of %llu KiB), root %llu\n"
        "  log: segments %llu to %llu, batches %llu to %llu; %llu read back, %llu discarded at the "
        "torn end\n"
        "  slots: %u of %u free; chunks: %u of %u places\n",
        store->config.shard, (unsigned long long)store->shard->roots_offset,
        (unsigned long long)store->shard->wal_offset, wal->segment_count,
        (unsigned long long)(superblock->segment_bytes / SL_KIB),
        (unsigned long long)store->root_sequence, (unsigned long long)wal->tail_generation,
        (unsigned long long)wal->head_generation, (unsigned long long)wal->tail_sequence,
        (unsigned long long)wal->durable_sequence,
        (unsigned long long)store->statistics.recovered_batch_count,
        (unsigned long long)store->statistics.discarded_batch_count, store->slots_free,
        store->slot_count, store->chunk_used, store->chunk_count);
    for (unsigned i = 0; i < superblock->extent_count; i++) {
        const struct sl_disk_extent *extent = &superblock->extents[i];
        if (extent->shard == store->config.shard)
            fprintf(out, "  extent: chunk places at byte %llu, slots %u to %u at %llu\n",
                    (unsigned long long)extent->meta_offset, extent->first_slot,
                    extent->first_slot + extent->slot_count - 1,
                    (unsigned long long)extent->data_offset);
    }
    for (const struct sl_list *node = store->groups.next; node != &store->groups;
         node = node->next) {
        const struct sl_store_group *group = sl_container_of(node, struct sl_store_group, node);
        struct sl_store_group_status status;
        sl_store_group_status(group, &status);
        fprintf(
            out,
            "  group %llu%s: log behind %llu to %llu (term %llu), term %llu, vote %llu, state %u "
            "bytes at %llu\n",
            (unsigned long long)group->id, group->deleted ? " (deleted)" : "",
            (unsigned long long)status.boundary_index, (unsigned long long)status.last_index,
            (unsigned long long)status.last_term, (unsigned long long)status.term,
            (unsigned long long)status.vote, status.state_bytes,
            (unsigned long long)status.state_index);
    }
}
