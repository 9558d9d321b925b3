/*
 * A damaged block is written again, from what another copy of the group says it holds. The region's
 * index stays: nothing new is learnt, only what was there before comes back. What the other copies
 * prove wrong, though its checksum is right, is made a damaged block first.
 */
#include <errno.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/log.h"
#include "store/chunk.h"

/* `wrong`: what the table has of it, and may be written over; SL_CRC_DAMAGED otherwise. */
static int repair_locked_co(struct chunk *chunk, unsigned block, uint32_t wrong, struct sl_buf *buf,
                            uint32_t offset_bytes, uint32_t crc, uint64_t index)
{
    struct sl_store *store = chunk->group->store;
    unsigned region = block / SL_REGION_BLOCKS;
    uint32_t *slot = &chunk->table->regions[region].slot;
    uint32_t stored = sl_crc_stored(crc), now = chunk->table->crcs[block];
    bool is_lost = now == SL_CRC_DAMAGED || now == wrong;
    int error = 0;
    /* A newer version is on its way into the slot, or the copy is of another one; or nobody knows
     * of which, and what has come into the region since it was asked for may be what was lost. */
    if (overlay_get(chunk, block) != NULL || (!is_lost && now != stored) ||
        (is_lost && chunk->table->regions[region].index > index))
        return -ESTALE;
    if (*slot == SL_SLOT_NONE) {
        error = slot_reserve(chunk, region, region);
        if (error == 0)
            error = slot_take(chunk, region, slot);
    }
    struct sl_span span = sl_buf_span(buf, offset_bytes, SL_BLOCK_BYTES);
    if (error == 0)
        error = sl_disk_rw_co(store->config.disk, SL_DISK_WRITE, &span, 1,
                              slot_offset(store, *slot) +
                                  (uint64_t)(block % SL_REGION_BLOCKS) * SL_BLOCK_BYTES,
                              SL_BLOCK_BYTES, 0);
    if (error < 0)
        return error;
    if (chunk->table->crcs[block] != stored) {
        chunk->table->crcs[block] = stored;
        chunk->dirty_index = 0; /* with the next root, whatever that frees */
    }
    sl_log_warn("store", "%s: block %u of chunk %u of group %llu was repaired", store->config.name,
                block, chunk->number, (unsigned long long)chunk->group->id);
    return 0;
}

int sl_store_block_repair_co(struct sl_store_group *group, uint32_t number, unsigned block,
                             struct sl_buf *buf, uint32_t offset_bytes, uint32_t crc,
                             uint64_t index)
{
    struct chunk *chunk = chunk_find(group->store, group->id, number);
    if (chunk == NULL || block >= SL_CHUNK_BLOCKS)
        return -ENOENT;
    int error = chunk_use_co(chunk);
    if (error == 0) {
        chunk_lock_co(chunk);
        error = repair_locked_co(chunk, block, SL_CRC_DAMAGED, buf, offset_bytes, crc, index);
        chunk_unlock(chunk);
    }
    chunk_unuse(chunk);
    return error;
}

static int replace_locked_co(struct chunk *chunk, unsigned block, uint32_t wrong,
                             struct sl_buf *buf, uint32_t offset_bytes, uint32_t crc,
                             uint64_t index)
{
    uint32_t now = chunk->table->crcs[block];
    if (overlay_get(chunk, block) != NULL)
        return -EBUSY;
    if (wrong != (now == SL_CRC_ABSENT ? sl_crc_stored(SL_CRC32C_ZERO_BLOCK) : now) ||
        wrong == sl_crc_stored(crc))
        return -ESTALE;
    int error = repair_locked_co(chunk, block, now, buf, offset_bytes, crc, index);
    if (error == 0)
        sl_log_error("store",
                     "%s: block %u of chunk %u of group %llu had its checksum (%08x), but the "
                     "other copies agree on another one (%08x): it was replaced",
                     chunk->group->store->config.name, block, chunk->number,
                     (unsigned long long)chunk->group->id, wrong, sl_crc_stored(crc));
    return error;
}

int sl_store_block_replace_co(struct sl_store_group *group, uint32_t number, unsigned block,
                              uint32_t wrong, struct sl_buf *buf, uint32_t offset_bytes,
                              uint32_t crc, uint64_t index)
{
    struct chunk *chunk;
    if (block >= SL_CHUNK_BLOCKS)
        return -EINVAL;
    int error = chunk_get(group, number, &chunk); /* it may be all that is missing */
    if (error < 0)
        return error;
    error = chunk_use_co(chunk);
    if (error == 0) {
        chunk_lock_co(chunk);
        error = replace_locked_co(chunk, block, wrong, buf, offset_bytes, crc, index);
        chunk_unlock(chunk);
    }
    chunk_unuse(chunk);
    return error;
}
