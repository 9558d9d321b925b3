/*
 * A group's data and log taken over from another replica (docs/replication.md, "Resync").
 *
 * The layer above has a durable mark before it begins, and reads nothing of the group until it is
 * done: so regions are written in place. What was visible before and is not in its slot yet stays,
 * but in regions that are replaced.
 */
#include <errno.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "store/chunk.h"

int sl_store_regions_co(struct sl_store_group *group, uint32_t number,
                        uint64_t indexes[SL_CHUNK_REGIONS])
{
    memset(indexes, 0, SL_CHUNK_REGIONS * sizeof(indexes[0]));
    struct chunk *chunk = chunk_find(group->store, group->id, number);
    if (chunk == NULL)
        return -ENOENT;
    int error = chunk_use_co(chunk);
    for (unsigned block = 0; error == 0 && block < SL_CHUNK_BLOCKS; block++) {
        const struct entry *entry = overlay_get(chunk, block);
        uint64_t *index = &indexes[block / SL_REGION_BLOCKS];
        *index = sl_max(*index, chunk->table->regions[block / SL_REGION_BLOCKS].index);
        *index = entry != NULL ? sl_max(*index, entry->index) : *index;
    }
    chunk_unuse(chunk);
    return error;
}

int sl_store_region_crcs_co(struct sl_store_group *group, uint32_t number, unsigned region,
                            uint64_t *index, uint32_t crcs[SL_REGION_BLOCKS])
{
    const uint32_t zeroes = sl_crc_stored(SL_CRC32C_ZERO_BLOCK);
    struct chunk *chunk = chunk_find(group->store, group->id, number);
    *index = 0;
    for (unsigned i = 0; i < SL_REGION_BLOCKS; i++)
        crcs[i] = zeroes;
    if (chunk == NULL)
        return 0;
    int error = chunk_use_co(chunk);
    for (unsigned i = 0; error == 0 && i < SL_REGION_BLOCKS; i++) {
        unsigned block = region * SL_REGION_BLOCKS + i;
        const struct entry *entry = overlay_get(chunk, block);
        uint32_t crc = entry != NULL ? overlay_crc(entry, block) : chunk->table->crcs[block];
        crcs[i] = crc == SL_CRC_ABSENT ? zeroes : crc;
        *index = sl_max(*index, chunk->table->regions[region].index);
        *index = entry != NULL ? sl_max(*index, entry->index) : *index;
    }
    chunk_unuse(chunk);
    return error;
}

/* Zeroes need no place. */
static bool is_absent(const struct sl_iobuf *data, const uint32_t *crcs, uint64_t lost)
{
    if (lost != 0)
        return false;
    for (unsigned i = 0; data != NULL && i < SL_REGION_BLOCKS; i++) {
        if (crcs[i] != SL_CRC32C_ZERO_BLOCK)
            return false;
    }
    return true;
}

static int write_region_co(struct chunk *chunk, unsigned region, const struct sl_iobuf *data)
{
    struct sl_store *store = chunk->group->store;
    uint32_t *slot = &chunk->table->regions[region].slot;
    int error = 0;
    if (*slot == SL_SLOT_NONE) {
        error = slot_reserve(chunk, region, region);
        if (error == 0)
            error = slot_take(chunk, region, slot);
    }
    if (error == 0)
        error = sl_disk_rw_co(store->config.disk, SL_DISK_WRITE, data->spans, data->span_count,
                              slot_offset(store, *slot), SL_REGION_BYTES, 0);
    if (error < 0)
        store->statistics.write_error_count++;
    store->statistics.data_bytes += error == 0 ? SL_REGION_BYTES : 0;
    return error;
}

int sl_store_region_put_co(struct sl_store_group *group, uint32_t number, unsigned region,
                           uint64_t index, const struct sl_iobuf *data, const uint32_t *crcs,
                           uint64_t lost)
{
    struct chunk *chunk;
    unsigned first = region * SL_REGION_BLOCKS;
    if (region >= SL_CHUNK_REGIONS || (data != NULL && data->length_bytes != SL_REGION_BYTES))
        return -EINVAL;
    int error = chunk_get(group, number, &chunk);
    if (error < 0)
        return error;
    error = chunk_use_co(chunk);
    if (error < 0) {
        chunk_unuse(chunk);
        return error;
    }
    chunk_lock_co(chunk);
    bool absent = is_absent(data, crcs, lost);
    if (!absent)
        error = write_region_co(chunk, region, data);
    if (error == 0) {
        for (unsigned i = 0; i < SL_REGION_BLOCKS; i++) {
            if (overlay_get(chunk, first + i) != NULL)
                overlay_clear(chunk, first + i);
            chunk->table->crcs[first + i] = absent ? SL_CRC_ABSENT : sl_crc_stored(crcs[i]);
            /* What is known of a lost one stays known: nothing else is taken for it then. */
            if ((lost >> i & 1) != 0 && crcs[i] == SL_CRC_DAMAGED)
                chunk->table->crcs[first + i] = SL_CRC_DAMAGED;
        }
        if (absent && chunk->table->regions[region].slot != SL_SLOT_NONE)
            slot_release(chunk, region);
        chunk->table->regions[region].index = index;
        chunk->dirty_index = 0; /* with the next root, whatever that frees */
    }
    chunk_unlock(chunk);
    chunk_unuse(chunk);
    return error;
}

int sl_store_install(struct sl_store_group *group, uint64_t index, uint64_t term, const void *state,
                     uint32_t state_bytes)
{
    struct log *log = &group->log;
    SL_ASSERT(index >= group->boundary_index && !group->applying);
    int error = sl_store_state_set(group, index, state, state_bytes);
    if (error < 0)
        return error;
    while (log->first <= sl_min(log->last, index))
        store_log_forget(group, log->first++);
    if (log->last < index) {
        log->last = index;
        log->first = index + 1;
    }
    group->boundary_index = group->applied_index = group->apply_to = index;
    /* The log must not say so: only the root that comes next makes it true. */
    sl_list_remove(&group->advanced);
    group->boundary_term = term;
    group->faulty_first = group->faulty_last = 0;
    group->faulty_missing = false;
    for (uint64_t at = log->first; at <= log->last; at++)
        SL_ASSERT(store_log_get(group, at) == NULL || store_log_get(group, at)->index == at);
    return 0;
}
