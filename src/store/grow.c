/*
 * Growing: a disk that became larger gives what it has more to all of its shards, beside serving.
 * docs/disk-format.md, "Superblock".
 *
 *   new extents behind the old end ─► superblock B, flush, A, flush ─► each shard's store takes
 *   them: more slots, more places of chunks
 *
 * Nothing of the new zones is written before it is used: a place counts only if a root names it. A
 * crash leaves the old superblock or the new one; roots of before hold under both. A slot of the
 * new extent is given out only when both superblocks are durable, so no root can name one that the
 * superblock does not know.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "store/chunk.h"

/* Everything that is sized by chunks or slots. */
struct room {
    uint32_t chunk_count, slot_count;
    struct chunk **places;
    uint32_t *root_versions, *next_versions;
    struct meta_written *meta_written;
    uint64_t *slots[4]; /* used, root, next, dropped */
};

static void room_free(struct room *room)
{
    free(room->places);
    free(room->root_versions);
    free(room->next_versions);
    free(room->meta_written);
    for (unsigned i = 0; i < SL_COUNT_OF(room->slots); i++)
        free(room->slots[i]);
}

static int room_make(struct room *room, const struct sl_superblock *superblock, uint16_t shard)
{
    *room = (struct room){.chunk_count = sl_shard_chunk_count(superblock, shard),
                          .slot_count = sl_shard_slot_count(superblock, shard)};
    size_t words = room->slot_count / 64 + 1;
    bool whole = true;
    room->places = calloc(room->chunk_count, sizeof(struct chunk *));
    room->root_versions = calloc(room->chunk_count, sizeof(uint32_t));
    room->next_versions = calloc(room->chunk_count, sizeof(uint32_t));
    room->meta_written = calloc(room->chunk_count, sizeof(struct meta_written));
    for (unsigned i = 0; i < SL_COUNT_OF(room->slots); i++) {
        room->slots[i] = calloc(words, sizeof(uint64_t));
        whole = whole && room->slots[i] != NULL;
    }
    return whole && room->places != NULL && room->root_versions != NULL &&
                   room->next_versions != NULL && room->meta_written != NULL
               ? 0
               : -ENOMEM;
}

/* In one moment, with no checkpoint under way: it has counts and maps in hand. What is in `room`
 * afterwards is the old one. */
static void take(struct sl_store *store, struct room *room, const struct sl_superblock *superblock)
{
    size_t words = store->slot_count / 64 + 1;
    uint64_t **slots[] = {&store->slots_used, &store->slots_root, &store->slots_next,
                          &store->slots_dropped};
    memcpy(room->places, store->places,
           store->chunk_count * sizeof(struct chunk *)); /* header: map */
    memcpy(room->root_versions, store->root_versions,    /* header: map */
           store->chunk_count * sizeof(uint32_t));
    memcpy(room->next_versions, store->next_versions, /* header: map */
           store->chunk_count * sizeof(uint32_t));
    struct room old = {.places = store->places,
                       .root_versions = store->root_versions,
                       .next_versions = store->next_versions,
                       .meta_written = store->meta_written};
    for (unsigned i = 0; i < SL_COUNT_OF(slots); i++) {
        memcpy(room->slots[i], *slots[i], words * sizeof(uint64_t)); /* header: bits */
        old.slots[i] = *slots[i];
        *slots[i] = room->slots[i];
    }
    store->places = room->places;
    store->root_versions = room->root_versions;
    store->next_versions = room->next_versions;
    store->meta_written = room->meta_written;
    store->chunk_count = room->chunk_count;
    store->slot_count = room->slot_count;
    *store->superblock = *superblock;
    slots_recount(store);
    *room = old;
}

/* The disk's, both of them, durable in this order. */
static int write_superblocks_co(struct sl_store *store, const struct sl_superblock *superblock)
{
    static const uint64_t places[] = {SL_SUPERBLOCK_B, SL_SUPERBLOCK_A};
    int error = 0;
    for (unsigned i = 0; i < SL_COUNT_OF(places) && error == 0; i++) {
        error = store_write_bytes_co(store->config.disk, store->config.memory, places[i],
                                     superblock, sizeof(*superblock));
        if (error == 0)
            error = store_flush_co(store);
    }
    return error;
}

static int grow_co(struct sl_store *store, uint64_t capacity_bytes,
                   struct sl_superblock *superblock, char *error, size_t error_bytes)
{
    const char *why = "";
    int result = store_superblock_co(&store->config, superblock, &why);
    if (result < 0) {
        snprintf(error, error_bytes, "%s", why);
        return result;
    }
    /* Another shard's store of this disk may have done it. */
    if (superblock->capacity_bytes >= sl_align_down(capacity_bytes, SL_BLOCK_BYTES) &&
        superblock->sequence > store->superblock->sequence)
        return 0;
    result = sl_layout_grow(superblock, capacity_bytes, error, error_bytes);
    if (result < 0)
        return result;
    sl_superblock_seal(superblock);
    result = write_superblocks_co(store, superblock);
    if (result < 0)
        snprintf(error, error_bytes, "writing the superblock failed: %s (%s)",
                 sl_error_text(result), sl_error_name(result));
    return result;
}

int sl_store_grow_co(struct sl_store *store, uint64_t capacity_bytes, char *error,
                     size_t error_bytes)
{
    struct room room = {0};
    if (store->config.read_only || store->stopping || store->failed != 0) {
        snprintf(error, error_bytes, "nothing can be written to it");
        return store->failed != 0 ? store->failed : -EROFS;
    }
    snprintf(error, error_bytes, "out of memory");
    struct sl_superblock *superblock = malloc(sizeof(*superblock));
    int result = superblock == NULL ? -ENOMEM : 0;
    if (result == 0)
        result = grow_co(store, capacity_bytes, superblock, error, error_bytes);
    if (result == 0)
        result = room_make(&room, superblock, store->config.shard);
    while (result == 0 && store->checkpoint_running && store->failed == 0)
        sl_wait_queue_co(&store->checkpoint_done);
    if (result == 0 && store->failed != 0) { /* its last checkpoint may still be under way */
        result = store->failed;
        snprintf(error, error_bytes, "the shard takes no more writes: %s (%s)",
                 sl_error_text(result), sl_error_name(result));
    }
    if (result == 0) {
        uint32_t before = store->slot_count;
        take(store, &room, superblock);
        store->config.disk_info.capacity_bytes =
            sl_max(store->config.disk_info.capacity_bytes, superblock->capacity_bytes);
        sl_log_info("store", "%s: shard %u grew by %u to %u regions of 256 KiB", store->config.name,
                    store->config.shard, store->slot_count - before, store->slot_count);
    }
    room_free(&room);
    free(superblock);
    return result;
}
