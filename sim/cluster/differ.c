/*
 * Replicas that differ in silence: one of them gets a block that nobody wrote, with its checksum
 * and all. No client uses that block: what it reads of such a replica before the difference is
 * found is nobody's to promise.
 */
#include "sim/cluster/group.h"

#include <string.h>

#include "core/crc32c.h"
#include "store/chunk.h"
#include "target/cluster.h"

/* Groups of the simulator have one chunk. */
static struct chunk *chunk_of(const struct sl_replica *replica)
{
    struct chunk *chunk = chunk_find(replica->store, replica->group, 0);
    return chunk != NULL && chunk->table != NULL ? chunk : NULL;
}

static bool is_used(const struct cluster *cluster, unsigned group, unsigned block)
{
    for (unsigned i = 0; i < BLOCKS; i++) {
        uint64_t offset;
        if (group_place(cluster, i, &offset) == group && offset / SL_BLOCK_BYTES == block)
            return true;
    }
    return false;
}

/* A place in a slot that nothing was written to; SL_CHUNK_BLOCKS: none. */
static unsigned find_room(struct cluster *cluster, unsigned group, const struct chunk *chunk)
{
    unsigned first = (unsigned)cluster_between(cluster, 0, SL_CHUNK_BLOCKS - 1);
    for (unsigned i = 0; i < SL_CHUNK_BLOCKS; i++) {
        unsigned block = (first + i) % SL_CHUNK_BLOCKS;
        if (chunk->table->regions[block / SL_REGION_BLOCKS].slot != SL_SLOT_NONE &&
            chunk->table->crcs[block] == SL_CRC_ABSENT && overlay_get(chunk, block) == NULL &&
            !is_used(cluster, group, block))
            return block;
    }
    return SL_CHUNK_BLOCKS;
}

/* Whether there was a place for it. */
static bool forge(struct cluster *cluster, unsigned target, unsigned group)
{
    const struct process *process = &cluster->processes[target];
    const struct sl_replica *replica = group_replica(cluster, group, target);
    struct chunk *chunk = replica != NULL ? chunk_of(replica) : NULL;
    if (chunk == NULL || chunk->applying || replica->copying != 0)
        return false;
    unsigned block = find_room(cluster, group, chunk);
    if (block == SL_CHUNK_BLOCKS)
        return false;
    uint8_t *at =
        sl_sim_disk_data(cluster->sim, process->name, "sim:disk") +
        slot_offset(replica->store, chunk->table->regions[block / SL_REGION_BLOCKS].slot) +
        (uint64_t)(block % SL_REGION_BLOCKS) * SL_BLOCK_BYTES;
    memset(at, (int)cluster_between(cluster, 1, 255), SL_BLOCK_BYTES);
    chunk->table->crcs[block] = sl_crc_stored(sl_crc32c(0, at, SL_BLOCK_BYTES));
    chunk->dirty_index = 0;
    cluster->forged = true;
    cluster->forged_group = group;
    cluster->forged_block = block;
    cluster->effects[EFFECT_BLOCKS_FORGED]++;
    cluster_note(cluster, "group %u: block %u is made up on %s", group + 1, block, process->name);
    return true;
}

void groups_forge(struct cluster *cluster, unsigned target, unsigned group)
{
    unsigned groups = cluster->meta.group_count, targets = cluster->target_count;
    bool done = cluster->forged || cluster->healing; /* one at a time */
    for (unsigned i = 0; i < groups * targets && !done; i++) {
        unsigned g = (group + i / targets) % groups;
        /* Of three at least: else nobody could say which one is right. */
        done =
            cluster->meta_groups[g].replica_count >= 3 && forge(cluster, (target + i) % targets, g);
    }
}

bool groups_are_mended(struct cluster *cluster)
{
    const struct sl_cluster_group *meta = &cluster->meta_groups[cluster->forged_group];
    uint32_t first = 0;
    for (unsigned k = 0; k < meta->replica_count; k++) {
        const struct sl_replica *replica =
            group_replica(cluster, cluster->forged_group, meta->replicas[k].node - 1);
        struct chunk *chunk = replica != NULL ? chunk_of(replica) : NULL;
        uint32_t crc = chunk != NULL ? chunk->table->crcs[cluster->forged_block] : SL_CRC_DAMAGED;
        if (crc == SL_CRC_ABSENT)
            crc = sl_crc_stored(SL_CRC32C_ZERO_BLOCK);
        if (crc == SL_CRC_DAMAGED || (k > 0 && crc != first))
            return false;
        first = crc;
    }
    return true;
}
