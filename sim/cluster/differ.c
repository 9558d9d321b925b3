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

/* Of the block that is made up, on the medium. */
static uint8_t *place_of(struct cluster *cluster, unsigned target, const struct chunk *chunk)
{
    unsigned block = cluster->forged_block;
    uint32_t slot = chunk->table->regions[block / SL_REGION_BLOCKS].slot;
    return sl_sim_disk_data(cluster->sim, cluster->processes[target].name, "sim:disk") +
           slot_offset(chunk->group->store, slot) +
           (uint64_t)(block % SL_REGION_BLOCKS) * SL_BLOCK_BYTES;
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
    cluster->forged_block = block;
    uint8_t *at = place_of(cluster, target, chunk);
    memset(at, (int)cluster_between(cluster, 1, 255), SL_BLOCK_BYTES);
    chunk->table->crcs[block] = sl_crc_stored(sl_crc32c(0, at, SL_BLOCK_BYTES));
    chunk->dirty_index = 0;
    cluster->forged = true;
    cluster->forged_group = group;
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

/* What a replica has of the block that was made up. */
struct copy {
    uint32_t crc;
    bool known, readable;
};

static struct copy look_at(struct cluster *cluster, unsigned target)
{
    const struct sl_replica *replica = group_replica(cluster, cluster->forged_group, target);
    struct chunk *chunk = replica != NULL ? chunk_of(replica) : NULL;
    unsigned block = cluster->forged_block;
    if (chunk == NULL)
        return (struct copy){.crc = SL_CRC_DAMAGED};
    struct copy copy = {.crc = chunk->table->crcs[block], .known = true};
    if (copy.crc == SL_CRC_ABSENT)
        return (struct copy){sl_crc_stored(SL_CRC32C_ZERO_BLOCK), true, true};
    if (copy.crc == SL_CRC_DAMAGED)
        return copy;
    copy.readable =
        copy.crc == sl_crc_stored(sl_crc32c(0, place_of(cluster, target, chunk), SL_BLOCK_BYTES));
    return copy;
}

/* Whether more than half have the same, and one of these can give it. */
static bool can_be_mended(const struct copy *copies, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned votes = 0;
        for (unsigned k = 0; k < count; k++)
            votes += copies[k].crc == copies[i].crc;
        if (copies[i].readable && votes > count / 2)
            return true;
    }
    return false;
}

bool groups_are_mended(struct cluster *cluster)
{
    const struct sl_cluster_group *meta = &cluster->meta_groups[cluster->forged_group];
    struct copy copies[SL_RAFT_MEMBERS_MAX];
    bool equal = true, known = true, rotten = false;
    for (unsigned k = 0; k < meta->replica_count; k++) {
        copies[k] = look_at(cluster, meta->replicas[k].node - 1);
        known = known && copies[k].known;
        rotten = rotten || (copies[k].crc != SL_CRC_DAMAGED && !copies[k].readable);
        equal = equal && copies[k].crc != SL_CRC_DAMAGED && copies[k].crc == copies[0].crc;
    }
    /* What was made up may have gone on to others, and rotted: then nobody can tell. */
    return equal || (known && rotten && !can_be_mended(copies, meta->replica_count));
}
