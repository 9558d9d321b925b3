/* Opening, closing and formatting a store; what it says of itself. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "store/chunk.h"

/* ---- the superblock ---- */

int store_superblock_co(const struct sl_store_config *config, struct sl_superblock *result,
                        const char **why)
{
    static const uint64_t places[] = {SL_SUPERBLOCK_A, SL_SUPERBLOCK_B};
    struct sl_superblock *parsed = malloc(sizeof(*parsed));
    uint8_t *block = malloc(SL_BLOCK_BYTES);
    int worst = -ESTALE;
    bool found = false;
    if (parsed == NULL || block == NULL)
        worst = -ENOMEM;
    for (unsigned i = 0; i < SL_COUNT_OF(places) && worst != -ENOMEM; i++) {
        const char *reason = "it is shorter than any disk of Sluice";
        int error = -ESTALE;
        if (config->disk_info.capacity_bytes >= places[i] + SL_BLOCK_BYTES) {
            error =
                store_read_bytes_co(config->disk, config->memory, places[i], block, SL_BLOCK_BYTES);
            reason = sl_error_text(error);
            if (error == 0)
                error = sl_superblock_parse(block, parsed, &reason);
        }
        if (error == 0 && (!found || parsed->sequence > result->sequence)) {
            *result = *parsed;
            found = true;
        } else if (error < 0 && (i == 0 || worst == -ESTALE)) {
            /* A disk that is ours and damaged says more than one that looks like another's. */
            worst = error;
            *why = reason;
        }
    }
    free(parsed);
    free(block);
    return found ? 0 : worst;
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] != 0)
            return false;
    }
    return true;
}

static int check_superblock(const struct sl_store_config *config,
                            const struct sl_superblock *superblock, char *error, size_t error_bytes)
{
    if (superblock->capacity_bytes > config->disk_info.capacity_bytes) {
        snprintf(error, error_bytes,
                 "it was formatted with %llu bytes and has %llu now: give it its size back",
                 (unsigned long long)superblock->capacity_bytes,
                 (unsigned long long)config->disk_info.capacity_bytes);
        return -ENOSPC;
    }
    if (config->cluster_id != NULL && !is_zero(superblock->cluster_id, 16) &&
        memcmp(superblock->cluster_id, config->cluster_id, 16) != 0) {
        snprintf(error, error_bytes,
                 "it belongs to another cluster; format it anew if its data may go");
        return -EXDEV;
    }
    if (config->shard >= superblock->shard_count) {
        snprintf(error, error_bytes, "it has %u shards, no shard %u", superblock->shard_count,
                 config->shard);
        return -EINVAL;
    }
    if (!config->read_only && (superblock->features_read_only & ~SL_DISK_FEATURES_READ_ONLY) != 0) {
        snprintf(error, error_bytes,
                 "it was written by a newer version, of which this one can only read it: open it "
                 "read-only");
        return -SL_E_VERSION;
    }
    return 0;
}

/* ---- open ---- */

static struct sl_store *store_make(const struct sl_store_config *config)
{
    struct sl_store *store = calloc(1, sizeof(*store));
    if (store == NULL)
        return NULL;
    store->config = *config;
    store->reactor = sl_io_reactor(config->io);
    store->overlay_limit = config->overlay_bytes;
    sl_list_init(&store->groups);
    sl_list_init(&store->advanced);
    sl_list_init(&store->lru);
    sl_list_init(&store->pending);
    sl_wait_queue_init(&store->apply_work);
    sl_wait_queue_init(&store->apply_progress);
    sl_wait_queue_init(&store->checkpoint_work);
    sl_wait_queue_init(&store->checkpoint_done);
    sl_wait_queue_init(&store->scrub_work);
    sl_list_init(&store->wal.queue);
    sl_list_init(&store->wal.in_flight);
    store->superblock = malloc(sizeof(*store->superblock));
    if (store->overlay_limit == 0) {
        struct sl_memory_statistics statistics;
        sl_memory_statistics(config->memory, &statistics);
        store->overlay_limit = statistics.limit_bytes / 4;
    }
    if (store->superblock != NULL)
        return store;
    free(store);
    return NULL;
}

static void store_free(struct sl_store *store)
{
    struct sl_list *node;
    while ((node = sl_list_first(&store->groups)) != NULL) {
        struct sl_store_group *group = sl_list_entry(node, struct sl_store_group, node);
        struct sl_list *chunk;
        while ((chunk = sl_list_first(&group->chunks)) != NULL)
            chunk_remove(sl_list_entry(chunk, struct chunk, group_node));
        store_group_free(group);
    }
    settle_checkpoint(store);
    SL_ASSERT(sl_list_is_empty(&store->pending));
    wal_fini(store);
    chunks_fini(store);
    if (store->listener.on_short != NULL)
        sl_memory_unlisten(&store->listener);
    free(store->group_hash);
    free(store->superblock);
    free(store);
}

static void report(const struct sl_store *store)
{
    const struct sl_store_statistics *now = &store->statistics;
    if (now->recovered_batch_count + now->discarded_batch_count + now->faulty_count == 0)
        return;
    sl_log_info(
        "store",
        "%s: shard %u read %llu entries in %llu batches back from its log (%llu MiB in %llu "
        "ms); %llu batches of its torn end were never acknowledged and are gone%s",
        store->config.name, store->config.shard, (unsigned long long)now->recovered_entry_count,
        (unsigned long long)now->recovered_batch_count,
        (unsigned long long)(now->recovered_bytes / SL_MIB),
        (unsigned long long)(now->recovery_ns / SL_NS_PER_MS),
        (unsigned long long)now->discarded_batch_count,
        now->faulty_count > 0 ? "; acknowledged ones are damaged, see above" : "");
}

/* The superblock, if the disk may be opened. */
static int admit_co(const struct sl_store_config *config, struct sl_superblock *superblock,
                    char *error, size_t error_bytes)
{
    const char *why = "";
    int result = store_superblock_co(config, superblock, &why);
    if (result < 0) {
        snprintf(error, error_bytes, "%s%s", why,
                 result == -ESTALE         ? ": format it (sluice disk format) if its data may go"
                 : result == -SL_E_VERSION ? ": use that version"
                                           : "");
        return result;
    }
    return check_superblock(config, superblock, error, error_bytes);
}

/* What leads to a store that can be read: the superblock, the root, the log. */
static int load_co(struct sl_store *store, char *error, size_t error_bytes)
{
    const struct sl_store_config *config = &store->config;
    struct sl_root_header *root;
    int result = admit_co(config, store->superblock, error, error_bytes);
    if (result < 0)
        return result;
    store->shard = &store->superblock->shards[config->shard];
    result = wal_init(store);
    if (result == 0)
        result = chunks_init(store);
    root = result == 0 ? malloc(sizeof(*root)) : NULL;
    if (root == NULL)
        return -ENOMEM;
    result = root_load_co(store, root, error, error_bytes);
    if (result == 0)
        result = recover_co(store, root, error, error_bytes);
    free(root);
    return result;
}

int sl_store_open_co(const struct sl_store_config *config, struct sl_store **result, char *error,
                     size_t error_bytes)
{
    struct sl_store *store = store_make(config);
    snprintf(error, error_bytes, "out of memory");
    if (store == NULL)
        return -ENOMEM;
    uint64_t start_ns = sl_reactor_clock_ns(store->reactor);
    int code = load_co(store, error, error_bytes);
    /* What was read may lie in a cache only; from here on we act on it. */
    if (code == 0 && !config->read_only) {
        code = store_flush_co(store);
        if (code == 0)
            code = appliers_start(store);
        if (code == 0)
            code = checkpointer_start(store);
        if (code == 0)
            code = scrubber_start(store);
    }
    store->statistics.recovery_ns = sl_reactor_clock_ns(store->reactor) - start_ns;
    if (code < 0) {
        store->failed = code;
        store->closing = true;
        stop_background_co(store);
        store_free(store);
        return code;
    }
    report(store);
    *result = store;
    return 0;
}

int sl_store_probe_co(const struct sl_store_config *config, struct sl_store_info *info, char *error,
                      size_t error_bytes)
{
    struct sl_superblock *superblock = malloc(sizeof(*superblock));
    snprintf(error, error_bytes, "out of memory");
    if (superblock == NULL)
        return -ENOMEM;
    int result = admit_co(config, superblock, error, error_bytes);
    if (result == 0) {
        *info = (struct sl_store_info){
            .data_bytes =
                (uint64_t)sl_shard_slot_count(superblock, config->shard) * SL_REGION_BYTES,
            .shard_count = superblock->shard_count,
            .segment_bytes = superblock->segment_bytes,
        };
        memcpy(info->disk_id, superblock->disk_id, sizeof(info->disk_id)); /* header: identity */
    }
    free(superblock);
    return result;
}

/* ---- close ---- */

void stop_background_co(struct sl_store *store)
{
    store->closing = true;
    while (store->background_count > 0) {
        sl_wait_queue_wake_all(&store->apply_work, 0);
        sl_wait_queue_wake_all(&store->checkpoint_work, 0);
        sl_wait_queue_wake_all(&store->scrub_work, 0);
        sl_wait_queue_co(&store->apply_progress);
    }
}

void sl_store_stop(struct sl_store *store)
{
    store->stopping = true;
    sl_wait_queue_wake_all(&store->scrub_work, 0);
    sl_wait_queue_wake_all(&store->wal.room, 0);
    sl_wait_queue_wake_all(&store->apply_progress, 0);
}

void sl_store_close_co(struct sl_store *store)
{
    if (store == NULL)
        return;
    sl_store_stop(store);
    wal_drain_co(store);
    /* A root that needs nothing of the log. */
    if (store->failed == 0 && !store->config.read_only)
        (void)sl_store_checkpoint_co(store);
    wal_drain_co(store);
    stop_background_co(store);
    store_free(store);
}

/* ---- what it says of itself ---- */

void sl_store_statistics(const struct sl_store *store, struct sl_store_statistics *statistics)
{
    *statistics = store->statistics;
    statistics->slot_count = store->slot_count;
    statistics->slot_free_count = store->slots_free;
    statistics->segment_count = store->wal.segment_count;
    statistics->segment_free_count = wal_free_segments(&store->wal);
    statistics->pending_bytes = store->pending_bytes;
    statistics->held_bytes = store->held_bytes;
    statistics->chunk_count = store->chunk_used;
    statistics->table_count = store->table_count;
}

void sl_store_info(const struct sl_store *store, struct sl_store_info *info)
{
    *info = (struct sl_store_info){
        .data_bytes = (uint64_t)store->slot_count * SL_REGION_BYTES,
        .entry_blocks_max = sl_min(SL_ENTRY_BLOCKS_MAX, wal_batch_blocks_max(store) - 1),
        .shard_count = store->superblock->shard_count,
        .segment_bytes = store->superblock->segment_bytes,
        .uncommitted_bytes_max = wal_uncommitted_bytes_max(store),
    };
    memcpy(info->disk_id, store->superblock->disk_id, sizeof(info->disk_id)); /* header: id */
}

int sl_store_failed(const struct sl_store *store)
{
    return store->failed;
}
