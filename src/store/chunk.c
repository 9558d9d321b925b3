/*
 * Chunks: which there are, where their metadata lies, their tables in memory, their slots.
 *
 * Invariants: a table stays in memory while somebody uses it, it is dirty, or blocks wait in its
 * overlay. Metadata is written into the half that the durable root does not name. A slot or a place
 * is given out again only when neither memory nor the durable root uses it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "store/chunk.h"

static bool bit_get(const uint64_t *bits, uint32_t index)
{
    return (bits[index / 64] >> index % 64 & 1) != 0;
}

static void bit_set(uint64_t *bits, uint32_t index)
{
    bits[index / 64] |= UINT64_C(1) << index % 64;
}

static void bit_clear(uint64_t *bits, uint32_t index)
{
    bits[index / 64] &= ~(UINT64_C(1) << index % 64);
}

/* ---- places on disk ---- */

uint64_t chunk_meta_offset(const struct sl_store *store, uint32_t place, uint32_t version)
{
    const struct sl_superblock *superblock = store->superblock;
    for (unsigned i = 0; i < superblock->extent_count; i++) {
        const struct sl_disk_extent *extent = &superblock->extents[i];
        if (extent->shard == store->config.shard &&
            place - extent->first_chunk < extent->chunk_count)
            return extent->meta_offset +
                   (2 * (uint64_t)(place - extent->first_chunk) + version % 2) *
                       SL_CHUNK_META_BYTES;
    }
    SL_ASSERT(!"a chunk lies in an extent");
}

uint64_t slot_offset(const struct sl_store *store, uint32_t slot)
{
    const struct sl_superblock *superblock = store->superblock;
    for (unsigned i = 0; i < superblock->extent_count; i++) {
        const struct sl_disk_extent *extent = &superblock->extents[i];
        if (extent->shard == store->config.shard && slot - extent->first_slot < extent->slot_count)
            return extent->data_offset + (uint64_t)(slot - extent->first_slot) * SL_REGION_BYTES;
    }
    SL_ASSERT(!"a slot lies in an extent");
}

/* ---- slots ---- */

/* Slots that a durable root names, or may name when a crash comes: the newest, and the one that is
 * being made, for which metadata may be on disk already. */
static bool slot_is_kept(const struct sl_store *store, uint32_t slot)
{
    return bit_get(store->slots_root, slot) || bit_get(store->slots_next, slot);
}

static bool slot_is_free(const struct sl_store *store, uint32_t slot)
{
    return !bit_get(store->slots_used, slot) && !slot_is_kept(store, slot);
}

void slots_recount(struct sl_store *store)
{
    uint32_t taken = 0;
    for (uint32_t i = 0; i < (store->slot_count + 63) / 64; i++)
        taken += (uint32_t)__builtin_popcountll(store->slots_used[i] | store->slots_root[i] |
                                                store->slots_next[i]);
    store->slots_free = store->slot_count - taken;
}

/* Slots that only the durable root still uses, or that blocks of the overlay may free. */
bool slots_can_come(const struct sl_store *store)
{
    if (!sl_list_is_empty(&store->pending))
        return true;
    for (uint32_t i = 0; i < (store->slot_count + 63) / 64; i++) {
        if (((store->slots_root[i] | store->slots_next[i]) & ~store->slots_used[i]) != 0)
            return true;
    }
    return false;
}

int slot_reserve(struct chunk *chunk, unsigned first_region, unsigned last_region)
{
    struct sl_store *store = chunk->group->store;
    uint64_t wanted = 0;
    for (unsigned i = first_region; i <= last_region; i++) {
        if (chunk->table->regions[i].slot == SL_SLOT_NONE)
            wanted |= UINT64_C(1) << i;
    }
    wanted &= ~chunk->reserved_regions;
    uint32_t count = (uint32_t)__builtin_popcountll(wanted);
    if (count > store->slots_free - store->slots_reserved)
        return -ENOSPC;
    store->slots_reserved += count;
    chunk->reserved_regions |= wanted;
    return 0;
}

/* From now on the table's slots differ from the written ones. */
static void remember_written(struct chunk *chunk)
{
    if (chunk->written_slots != NULL)
        return;
    chunk->written_slots = malloc(SL_CHUNK_REGIONS * sizeof(uint32_t));
    SL_ASSERT(chunk->written_slots != NULL);
    for (unsigned i = 0; i < SL_CHUNK_REGIONS; i++)
        chunk->written_slots[i] = chunk->table->regions[i].slot;
}

/* The region's neighbour's neighbour, so that what is written in order is read in order. */
static uint32_t slot_wish(const struct chunk *chunk, unsigned region)
{
    const struct sl_store *store = chunk->group->store;
    if (region > 0 && chunk->table->regions[region - 1].slot != SL_SLOT_NONE)
        return (chunk->table->regions[region - 1].slot + 1) % store->slot_count;
    return store->slot_hint;
}

int slot_take(struct chunk *chunk, unsigned region, uint32_t *slot)
{
    struct sl_store *store = chunk->group->store;
    bool reserved = (chunk->reserved_regions >> region & 1) != 0;
    if (store->slots_free - (reserved ? 0 : store->slots_reserved) == 0)
        return -ENOSPC;
    uint32_t at = slot_wish(chunk, region);
    while (!slot_is_free(store, at))
        at = (at + 1) % store->slot_count;
    if (reserved) {
        chunk->reserved_regions &= ~(UINT64_C(1) << region);
        store->slots_reserved--;
    }
    remember_written(chunk);
    bit_set(store->slots_used, at);
    store->slots_free--;
    store->slot_hint = (at + 1) % store->slot_count;
    *slot = at;
    return 0;
}

static void slot_give(struct sl_store *store, uint32_t slot)
{
    bit_clear(store->slots_used, slot);
    if (!slot_is_kept(store, slot))
        store->slots_free++;
}

void slot_release(struct chunk *chunk, unsigned region)
{
    uint32_t slot = chunk->table->regions[region].slot;
    if (slot == SL_SLOT_NONE)
        return;
    remember_written(chunk);
    chunk->table->regions[region].slot = SL_SLOT_NONE;
    slot_give(chunk->group->store, slot);
}

/* ---- which chunks there are ---- */

int chunks_init(struct sl_store *store)
{
    store->chunk_count = sl_shard_chunk_count(store->superblock, store->config.shard);
    store->slot_count = sl_shard_slot_count(store->superblock, store->config.shard);
    size_t words = store->slot_count / 64 + 1;
    uint32_t buckets = 64;
    while (buckets < store->chunk_count)
        buckets *= 2;
    store->chunk_hash_mask = buckets - 1;
    store->places = calloc(store->chunk_count, sizeof(struct chunk *));
    store->root_versions = calloc(store->chunk_count, sizeof(uint32_t));
    store->next_versions = calloc(store->chunk_count, sizeof(uint32_t));
    store->chunk_hash = calloc(buckets, sizeof(struct sl_list));
    store->slots_used = calloc(words, sizeof(uint64_t));
    store->slots_root = calloc(words, sizeof(uint64_t));
    store->slots_next = calloc(words, sizeof(uint64_t));
    store->slots_dropped = calloc(words, sizeof(uint64_t));
    store->meta_written = calloc(store->chunk_count, sizeof(struct meta_written));
    if (store->places == NULL || store->root_versions == NULL || store->next_versions == NULL ||
        store->chunk_hash == NULL || store->slots_used == NULL || store->slots_root == NULL ||
        store->slots_next == NULL || store->slots_dropped == NULL || store->meta_written == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < buckets; i++)
        sl_list_init(&store->chunk_hash[i]);
    return 0;
}

void chunks_fini(struct sl_store *store)
{
    free(store->places);
    free(store->root_versions);
    free(store->next_versions);
    free(store->chunk_hash);
    free(store->slots_used);
    free(store->slots_root);
    free(store->slots_next);
    free(store->slots_dropped);
    free(store->meta_written);
}

static struct sl_list *bucket(struct sl_store *store, uint64_t group, uint32_t number)
{
    uint64_t key = (group * UINT64_C(0x9e3779b97f4a7c15) ^ number) * UINT64_C(0xff51afd7ed558ccd);
    return &store->chunk_hash[key >> 32 & store->chunk_hash_mask];
}

struct chunk *chunk_find(struct sl_store *store, uint64_t group, uint32_t number)
{
    sl_list_for_each(node, bucket(store, group, number))
    {
        struct chunk *chunk = sl_list_entry(node, struct chunk, hash);
        if (chunk->group->id == group && chunk->number == number)
            return chunk;
    }
    return NULL;
}

int chunk_add(struct sl_store_group *group, uint32_t number, uint32_t place, struct chunk **result)
{
    struct sl_store *store = group->store;
    struct chunk *chunk = calloc(1, sizeof(*chunk));
    if (chunk == NULL)
        return -ENOMEM;
    chunk->group = group;
    chunk->number = number;
    chunk->place = place;
    chunk->dirty_index = SL_INDEX_NONE;
    sl_list_init(&chunk->lru);
    sl_wait_queue_init(&chunk->changed);
    sl_list_append(bucket(store, group->id, number), &chunk->hash);
    sl_list_append(&group->chunks, &chunk->group_node);
    store->places[place] = chunk;
    store->chunk_used++;
    *result = chunk;
    return 0;
}

int chunk_get(struct sl_store_group *group, uint32_t number, struct chunk **chunk)
{
    struct sl_store *store = group->store;
    *chunk = chunk_find(store, group->id, number);
    if (*chunk != NULL)
        return 0;
    uint32_t place = store->place_hint;
    for (uint32_t tried = 0; tried < store->chunk_count; tried++, place++) {
        place = place >= store->chunk_count ? 0 : place;
        if (store->places[place] != NULL || store->root_versions[place] != 0 ||
            store->next_versions[place] != 0)
            continue;
        store->place_hint = place + 1;
        return chunk_add(group, number, place, chunk);
    }
    return -ENOSPC;
}

static void table_free(struct chunk *chunk)
{
    if (chunk->table == NULL)
        return;
    free(chunk->table);
    chunk->table = NULL;
    chunk->group->store->table_count--;
    sl_list_remove(&chunk->lru);
}

void chunk_remove(struct chunk *chunk)
{
    struct sl_store *store = chunk->group->store;
    SL_ASSERT(chunk->users == 0 && !chunk->applying);
    overlay_drop_all(chunk);
    for (unsigned i = 0; chunk->table != NULL && i < SL_CHUNK_REGIONS; i++) {
        uint32_t slot = chunk->table->regions[i].slot;
        uint32_t written = chunk->written_slots != NULL ? chunk->written_slots[i] : slot;
        if (slot != SL_SLOT_NONE)
            slot_give(store, slot);
        if (written != SL_SLOT_NONE)
            bit_set(store->slots_dropped, written);
    }
    store->slots_reserved -= (uint32_t)__builtin_popcountll(chunk->reserved_regions);
    store->places[chunk->place] = NULL;
    store->chunk_used--;
    sl_list_remove(&chunk->hash);
    sl_list_remove(&chunk->group_node);
    table_free(chunk);
    free(chunk->written_slots);
    free(chunk);
}

/* ---- tables ---- */

/* The durable root names what the table says. */
static bool is_cold(const struct chunk *chunk)
{
    const struct sl_store *store = chunk->group->store;
    return store->next_versions[chunk->place] == store->root_versions[chunk->place] &&
           chunk->users == 0 && chunk->overlay_blocks == 0 && !chunk->applying &&
           chunk->dirty_index == SL_INDEX_NONE && chunk->written_slots == NULL &&
           chunk->reserved_regions == 0 && store->root_versions[chunk->place] != 0;
}

/* Coldest first, down to the limit; a few steps a time. */
static void evict(struct sl_store *store)
{
    uint64_t limit = store->config.table_bytes / sizeof(struct table);
    if (store->config.table_bytes == 0 || store->table_count <= limit)
        return;
    unsigned steps = 8;
    sl_list_for_each(node, &store->lru)
    {
        struct chunk *chunk = sl_list_entry(node, struct chunk, lru);
        if (steps-- == 0 || store->table_count <= limit)
            return;
        if (is_cold(chunk)) {
            table_free(chunk);
        } else {
            sl_list_remove(&chunk->lru);
            sl_list_append(&store->lru, &chunk->lru);
        }
    }
}

/* Once. -SL_E_CHECKSUM: `why`. */
static int read_meta_co(struct chunk *chunk, uint64_t offset, uint32_t version, struct sl_buf *buf,
                        const char **why)
{
    struct sl_store *store = chunk->group->store;
    struct sl_chunk_place place = {
        .disk_id = store->superblock->disk_id,
        .group = chunk->group->id,
        .number = chunk->number,
        .version = version,
        .chunk = chunk->place,
        .shard = store->config.shard,
        .slot_count = store->slot_count,
    };
    struct sl_span span = sl_buf_span(buf, 0, SL_CHUNK_META_BYTES);
    int error =
        sl_disk_rw_co(store->config.disk, SL_DISK_READ, &span, 1, offset, SL_CHUNK_META_BYTES, 0);
    if (error == 0 && sl_chunk_parse(buf->data, &place, why) < 0)
        error = -SL_E_CHECKSUM;
    return error;
}

/* Every block is lost, and stays so in the next root: what an older or half a table would say of
 * them must never be believed. Slots that it had are not known any more and stay in use. */
static void give_up(struct chunk *chunk, struct table *table, uint64_t offset, const char *why)
{
    struct sl_store *store = chunk->group->store;
    sl_log_error("store",
                 "%s: chunk %u of group %llu is damaged: %s (at byte %llu of the disk); its 16 MiB "
                 "cannot be read until they are written anew or repaired from another copy",
                 store->config.name, chunk->number, (unsigned long long)chunk->group->id, why,
                 (unsigned long long)offset);
    store->statistics.checksum_error_count++;
    for (unsigned i = 0; i < SL_CHUNK_BLOCKS; i++)
        table->crcs[i] = SL_CRC_DAMAGED;
    chunk->dirty_index = 0;
}

static int load_meta_co(struct chunk *chunk, struct table *table)
{
    struct sl_store *store = chunk->group->store;
    uint32_t version = store->root_versions[chunk->place];
    uint64_t offset = chunk_meta_offset(store, chunk->place, version);
    const char *why = "";
    struct sl_buf *buf =
        sl_buf_alloc_co(store->config.memory, SL_CHUNK_META_BYTES, SL_RESERVE_CHECKPOINT);
    if (buf == NULL)
        return -ENOMEM;
    int error = read_meta_co(chunk, offset, version, buf, &why);
    if (error == -SL_E_CHECKSUM) /* the read may have gone astray, not the write */
        error = read_meta_co(chunk, offset, version, buf, &why);
    if (error == 0) {
        const struct sl_chunk_header *header = (const void *)buf->data;
        memcpy(table->regions, header->regions, sizeof(table->regions)); /* header: metadata */
        memcpy(table->crcs, buf->data + SL_BLOCK_BYTES, SL_CHUNK_TABLE_BYTES); /* header: CRCs */
    } else if (error == -SL_E_CHECKSUM) {
        give_up(chunk, table, offset, why);
        error = 0;
    }
    sl_buf_unref(buf);
    return error;
}

static int load_co(struct chunk *chunk)
{
    struct sl_store *store = chunk->group->store;
    struct table *table = calloc(1, sizeof(*table));
    if (table == NULL)
        return -ENOMEM;
    int error = 0;
    for (unsigned i = 0; i < SL_CHUNK_REGIONS; i++)
        table->regions[i].slot = SL_SLOT_NONE;
    if (store->root_versions[chunk->place] != 0) {
        chunk->loading = true;
        error = load_meta_co(chunk, table);
        chunk->loading = false;
        sl_wait_queue_wake_all(&chunk->changed, 0);
    }
    if (error < 0) {
        free(table);
        return error;
    }
    chunk->table = table;
    store->table_count++;
    sl_list_append(&store->lru, &chunk->lru);
    evict(store);
    return 0;
}

int chunk_use_co(struct chunk *chunk)
{
    chunk->users++;
    for (;;) {
        if (SL_LIKELY(chunk->table != NULL)) {
            sl_list_remove(&chunk->lru);
            sl_list_append(&chunk->group->store->lru, &chunk->lru);
            return 0;
        }
        if (!chunk->loading)
            return load_co(chunk);
        sl_wait_queue_co(&chunk->changed);
    }
}

void chunk_unuse(struct chunk *chunk)
{
    SL_ASSERT(chunk->users > 0);
    if (--chunk->users == 0 && !sl_wait_queue_is_empty(&chunk->changed))
        sl_wait_queue_wake_all(&chunk->changed, 0);
}

void chunk_quiesce_co(struct chunk *chunk)
{
    while (chunk->users > 0 || chunk->applying)
        sl_wait_queue_co(&chunk->changed);
}

/* ---- its overlay stands still ---- */

void chunk_lock_co(struct chunk *chunk)
{
    while (chunk->applying)
        sl_wait_queue_co(&chunk->changed);
    chunk->applying = true;
}

void chunk_unlock(struct chunk *chunk)
{
    chunk->applying = false;
    sl_wait_queue_wake_all(&chunk->changed, 0);
    sl_wait_queue_wake_all(&chunk->group->store->apply_progress, 0);
    appliers_kick(chunk->group->store);
}
