/*
 * The store backend (`store:PATH`): disks of src/store, all of their shards. Each reactor serves
 * whole shards: of all disks' shards, one disk after the other, number n belongs to reactor n mod
 * (reactors). What lies in them is the replicas of a cluster's groups (cluster.c), or, of a single
 * disk, one copy: a 16 MiB piece of the storage is a chunk, number n lies in shard n mod (shards),
 * there as chunk n div (shards) of group 1.
 *
 * A write is acknowledged when it is durable in the log, and applied to the log's group at once:
 * there is nobody else who would have to agree. Payload goes from the buffer in which it came;
 * memory of others is copied once, counted, for what the log keeps must not change.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "store/store.h"
#include "target/cluster.h"
#include "target/private.h"

#define GROUP 1u

const struct sl_storage_disk *sl_storage_disk_of(const struct sl_storage *storage, unsigned shard)
{
    const struct sl_storage_disk *disk = storage->disks;
    while (shard - disk->first_shard >= disk->shard_count)
        disk++;
    return disk;
}

static int store_open(struct sl_target *target)
{
    /* Shards are opened by the coroutine sl_target_mount_co(): reading them takes I/O. */
    int error = 0;
    for (unsigned i = 0; i < target->storage->disk_count && error == 0; i++)
        error = sl_target_disk_open(target, i);
    target->alignment_bytes = SL_BLOCK_BYTES;
    return error;
}

static void store_close(struct sl_target *target)
{
    for (unsigned i = 0; i < SL_COUNT_OF(target->stores); i++)
        SL_ASSERT(target->stores[i] == NULL);
    for (unsigned i = 0; i < target->storage->disk_count; i++)
        sl_target_disk_close(target, i);
}

/* A disk of a cluster is not one copy of anything: its logs end with what may never be committed.
 */
static int refuse_replicas(const struct sl_target *target, struct sl_store *store)
{
    struct sl_store_group_status status = {0};
    for (struct sl_store_group *group;
         (group = sl_store_group_next(store, status.group)) != NULL;) {
        sl_store_group_status(group, &status);
        if (status.state_bytes == 0)
            continue;
        sl_log_error("target",
                     "storage '%s' holds a replica of group %llu of a cluster: start it with "
                     "--cluster and --node; if its data may go, format it (sluice disk format "
                     "--force)",
                     target->storage->disks[0].path, (unsigned long long)status.group);
        return -EINVAL;
    }
    return 0;
}

/* The group of the shard, made at the first start; everything in its log is committed. */
static int find_group_co(struct sl_target *target, struct sl_store *store)
{
    struct sl_store_group_status status;
    struct sl_store_statistics statistics;
    int refused = refuse_replicas(target, store);
    if (refused < 0)
        return refused;
    struct sl_store_group *group = sl_store_group_find(store, GROUP);
    if (group == NULL && !target->storage->config.read_only) {
        int error = sl_store_group_create_co(store, GROUP, 0, 0);
        if (error < 0)
            return error;
        group = sl_store_group_find(store, GROUP);
    }
    if (group == NULL) {
        sl_log_error("target",
                     "storage '%s' was never served, so there is nothing to read: serve it without "
                     "--read-only first",
                     target->storage->disks[0].path);
        return -ENODATA;
    }
    sl_store_group_status(group, &status);
    sl_store_statistics(store, &statistics);
    if (statistics.missing_batch_count > 0 ||
        (status.faulty_first != 0 && !status.faulty_is_payload)) {
        sl_log_error(
            "target",
            "storage '%s': acknowledged entries %llu to %llu are missing from its log, and "
            "it is the only copy: older data would be served in their place; `sluice disk "
            "check` shows more",
            target->storage->disks[0].path, (unsigned long long)status.faulty_first,
            (unsigned long long)status.faulty_last);
        return -SL_E_CHECKSUM;
    }
    return sl_store_apply_co(group, status.last_index);
}

static struct sl_store_config config_of(struct sl_target *target, unsigned number, unsigned shard)
{
    const struct sl_storage *storage = target->storage;
    return (struct sl_store_config){
        .io = target->io,
        .memory = target->memory,
        .disk = target->disks[number],
        .disk_info = target->disk_infos[number],
        .name = storage->disks[number].path,
        .shard = (uint16_t)shard,
        .read_only = storage->config.read_only,
        .scrub_bytes_per_s = storage->config.read_only ? 0 : storage->config.scrub_bytes_per_s,
        .cluster_id = target->cluster != NULL ? target->cluster->config.cluster_id : NULL,
        .checkpointing = target->cluster != NULL ? sl_cluster_checkpointing : NULL,
        .damaged_co = target->cluster != NULL ? sl_cluster_damaged_co : NULL,
        .context = target->cluster,
    };
}

static uint64_t capacity(const struct sl_store_info *info)
{
    /* Whole chunks in each shard; a single shard may end with a part of one. */
    uint64_t bytes =
        info->shard_count == 1 ? info->data_bytes : sl_align_down(info->data_bytes, SL_CHUNK_BYTES);
    return bytes * info->shard_count;
}

/* A disk's place behind those before it. */
static int place_disk_co(struct sl_target *target, unsigned number)
{
    struct sl_storage *storage = target->storage;
    struct sl_storage_disk *disk = &storage->disks[number];
    struct sl_store_config config = config_of(target, number, 0);
    struct sl_store_info info;
    char error[512];
    int result = sl_store_probe_co(&config, &info, error, sizeof(error));
    if (result < 0) {
        sl_log_error("target", "storage '%s' cannot be opened: %s (%s)", disk->path, error,
                     sl_error_name(result));
        return result;
    }
    for (unsigned i = 0; i < number; i++) {
        if (memcmp(storage->disks[i].id, info.disk_id, sizeof(info.disk_id)) != 0)
            continue;
        sl_log_error(
            "target",
            "storage '%s' has the identity of '%s': one is a copy of the other, or another "
            "way to it; give the disk once",
            disk->path, storage->disks[i].path);
        return -EEXIST;
    }
    memcpy(disk->id, info.disk_id, sizeof(disk->id)); /* header: identity */
    disk->first_shard =
        number == 0 ? 0 : storage->disks[number - 1].first_shard + disk[-1].shard_count;
    disk->shard_count = info.shard_count;
    storage->store_bytes += capacity(&info);
    return 0;
}

/* At the first reactor's mount: which shards there are, before any is opened. */
static int place_shards_co(struct sl_target *target)
{
    struct sl_storage *storage = target->storage;
    unsigned reactors = storage->config.reactor_count;
    int error = 0;
    if (storage->store_shards != 0)
        return 0;
    if (storage->disk_count > 1 && target->cluster == NULL) {
        sl_log_error("target", "storage '%s': several disks are for the groups of a cluster only",
                     storage->name);
        return -EOPNOTSUPP;
    }
    storage->store_bytes = 0;
    for (unsigned i = 0; i < storage->disk_count && error == 0; i++)
        error = place_disk_co(target, i);
    if (error < 0)
        return error;
    const struct sl_storage_disk *last = &storage->disks[storage->disk_count - 1];
    unsigned shards = last->first_shard + last->shard_count;
    if (shards % reactors != 0 || shards > SL_STORAGE_SHARDS_MAX) {
        sl_log_error(
            "target",
            "storage '%s' has %u shard(s), which %u reactors cannot share evenly (or more than "
            "%u): choose a number of reactors that divides it, or format with more shards",
            storage->name, shards, reactors, SL_STORAGE_SHARDS_MAX);
        return -EINVAL;
    }
    storage->store_shards = shards;
    return 0;
}

static int mount_shard_co(struct sl_target *target, unsigned number)
{
    char error[512];
    struct sl_storage *storage = target->storage;
    const struct sl_storage_disk *disk = sl_storage_disk_of(storage, number);
    struct sl_store_config config =
        config_of(target, (unsigned)(disk - storage->disks), number - disk->first_shard);
    int result = sl_store_open_co(&config, &target->stores[number], error, sizeof(error));
    if (result < 0) {
        target->stores[number] = NULL;
        sl_log_error("target", "storage '%s' cannot be opened: %s (%s)", disk->path, error,
                     sl_error_name(result));
        return result;
    }
    return target->cluster == NULL ? find_group_co(target, target->stores[number]) : 0;
}

static int store_mount_co(struct sl_target *target)
{
    struct sl_storage *storage = target->storage;
    int error = place_shards_co(target);
    for (unsigned number = target->reactor_index; error == 0 && number < storage->store_shards;
         number += storage->config.reactor_count)
        error = mount_shard_co(target, number);
    if (error == 0)
        error = sl_storage_learn(storage, target->reactor, storage->store_bytes);
    if (error == 0)
        memcpy(storage->info.storage_id, storage->disks[0].id, 16); /* header: identity */
    return error;
}

static void store_unmount_co(struct sl_target *target)
{
    for (unsigned i = 0; i < SL_COUNT_OF(target->stores); i++) {
        sl_store_close_co(target->stores[i]);
        target->stores[i] = NULL;
    }
}

/* Where blocks of the storage are. */
struct place {
    struct sl_store_group *group;
    uint32_t chunk;
    uint16_t first_block;
};

static struct place place_of(struct sl_target *target, uint64_t offset_bytes)
{
    uint64_t number = offset_bytes / SL_CHUNK_BYTES;
    unsigned shards = target->storage->store_shards;
    return (struct place){
        .group = sl_store_group_find(target->stores[number % shards], GROUP),
        .chunk = (uint32_t)(number / shards),
        .first_block = (uint16_t)(offset_bytes % SL_CHUNK_BYTES / SL_BLOCK_BYTES),
    };
}

static int store_read_co(struct sl_target *target, uint64_t offset_bytes,
                         const struct sl_span *spans, unsigned span_count, uint32_t length_bytes)
{
    struct place place = place_of(target, offset_bytes);
    return sl_store_read_into_co(place.group, place.chunk, place.first_block,
                                 (uint16_t)(length_bytes / SL_BLOCK_BYTES), spans, span_count);
}

/* In entries of the length that the log takes: for all but tiny disks, one. */
static int store_write_buf_co(struct sl_target *target, uint64_t offset_bytes, struct sl_buf *buf,
                              uint32_t length_bytes)
{
    struct place place = place_of(target, offset_bytes);
    struct sl_store_info info;
    sl_store_info(target->stores[offset_bytes / SL_CHUNK_BYTES % target->storage->store_shards],
                  &info);
    int error = 0;
    for (uint32_t done = 0; done < length_bytes && error == 0;) {
        struct sl_iobuf payload;
        uint32_t step = sl_min(length_bytes - done, info.entry_blocks_max * SL_BLOCK_BYTES);
        sl_iobuf_init(&payload);
        error = sl_iobuf_append_buf(&payload, buf, done, step);
        if (error == 0)
            error = sl_store_write_co(place.group, SL_ENTRY_WRITE, place.chunk,
                                      (uint16_t)(place.first_block + done / SL_BLOCK_BYTES),
                                      (uint16_t)(step / SL_BLOCK_BYTES), &payload, NULL);
        sl_iobuf_fini(&payload);
        done += step;
    }
    return error;
}

static int store_write_co(struct sl_target *target, uint64_t offset_bytes,
                          const struct sl_span *spans, unsigned span_count, uint32_t length_bytes)
{
    struct sl_buf *buf = sl_buf_alloc_co(target->memory, length_bytes, SL_RESERVE_INTAKE);
    if (buf == NULL)
        return -ENOMEM;
    uint8_t *to = buf->data;
    for (unsigned i = 0; i < span_count; i++) {
        sl_copy(sl_memory_copies(target->memory), SL_COPY_STABILISE, to, spans[i].data,
                spans[i].length_bytes);
        to += spans[i].length_bytes;
    }
    int error = store_write_buf_co(target, offset_bytes, buf, length_bytes);
    sl_buf_unref(buf);
    return error;
}

static int store_flush_co(struct sl_target *target)
{
    /* What was acknowledged is durable. */
    return 0;
}

static int store_write_zeroes_co(struct sl_target *target, uint64_t offset_bytes,
                                 uint32_t length_bytes, bool keep)
{
    struct place place = place_of(target, offset_bytes);
    return sl_store_write_co(place.group, SL_ENTRY_ZERO, place.chunk, place.first_block,
                             (uint16_t)(length_bytes / SL_BLOCK_BYTES), NULL, NULL);
}

/* This reactor's shards of a disk, to what the disk is now. Each for itself: one that has grown
 * already refuses, and one that failed then is asked again. Answers whether any of them grew. */
static bool grow_disk_co(struct sl_target *target, const struct sl_storage_disk *disk,
                         uint64_t capacity_bytes)
{
    bool grew = false;
    for (unsigned i = 0; i < disk->shard_count; i++) {
        char why[512];
        struct sl_store *store = target->stores[disk->first_shard + i];
        if (store == NULL)
            continue;
        int error = sl_store_grow_co(store, capacity_bytes, why, sizeof(why));
        if (error < 0)
            sl_log_warn("target", "storage '%s', shard %u did not grow: %s (%s)", disk->path, i,
                        why, sl_error_name(error));
        grew = grew || error == 0;
    }
    return grew;
}

static void store_grow_co(struct sl_target *target)
{
    for (unsigned i = 0; i < target->storage->disk_count; i++) {
        const struct sl_storage_disk *disk = &target->storage->disks[i];
        uint64_t capacity_bytes;
        int error = sl_disk_measure(target->disks[i], &capacity_bytes);
        if (error < 0)
            sl_log_warn("target", "storage '%s': its size cannot be read: %s (%s)", disk->path,
                        sl_error_text(error), sl_error_name(error));
        else if (grow_disk_co(target, disk, capacity_bytes) && target->cluster == NULL)
            sl_log_info("target",
                        "storage '%s': it is offered with its new size after a restart of this "
                        "target, and then of its gateways",
                        disk->path);
    }
}

static void store_report(const struct sl_target *target)
{
    for (unsigned i = 0; i < SL_COUNT_OF(target->stores); i++) {
        struct sl_store_statistics now;
        struct sl_log_site site = {0}; /* asked for: no flood to be thinned */
        if (target->stores[i] == NULL)
            continue;
        const struct sl_storage_disk *disk = sl_storage_disk_of(target->storage, i);
        sl_store_statistics(target->stores[i], &now);
        sl_log_line(&site, SL_LOG_INFO, "target",
                    "storage '%s', shard %u: %llu of %llu regions and %llu of %llu segments of log "
                    "free; %llu checkpoints; scrub: %llu blocks verified in %llu passes, %llu "
                    "damaged; %llu checksum errors in all",
                    disk->path, i - disk->first_shard, (unsigned long long)now.slot_free_count,
                    (unsigned long long)now.slot_count, (unsigned long long)now.segment_free_count,
                    (unsigned long long)now.segment_count, (unsigned long long)now.checkpoint_count,
                    (unsigned long long)now.scrub_block_count,
                    (unsigned long long)now.scrub_pass_count,
                    (unsigned long long)now.scrub_finding_count,
                    (unsigned long long)now.checksum_error_count);
    }
}

static void store_borrow(struct sl_target *target, uint64_t offset_bytes, uint32_t length_bytes,
                         struct sl_span *span)
{
    *span = (struct sl_span){0};
}

const struct backend_ops sl_backend_store = {
    .open = store_open,
    .close = store_close,
    .mount_co = store_mount_co,
    .unmount_co = store_unmount_co,
    .read_co = store_read_co,
    .write_co = store_write_co,
    .write_buf_co = store_write_buf_co,
    .flush_co = store_flush_co,
    .write_zeroes_co = store_write_zeroes_co,
    .grow_co = store_grow_co,
    .report = store_report,
    .borrow = store_borrow,
};
