/*
 * A replica is asked what differs from its leader's checksums, and to mend what is wrong here. All
 * of it is a peer's word; nothing is changed but blocks that MEND names with the very checksum that
 * they have.
 */
#include <errno.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "store/format_meta.h"
#include "target/compare.h"
#include "target/follow.h"

int sl_compare_sums_co(struct sl_replica *replica, uint32_t chunk,
                       struct sl_compare_sum sums[SL_CHUNK_REGIONS])
{
    uint32_t crcs[SL_REGION_BLOCKS];
    int error = 0;
    for (unsigned region = 0; error == 0 && region < SL_CHUNK_REGIONS; region++) {
        error = sl_store_region_crcs_co(replica->log, chunk, region, &sums[region].index, crcs);
        sums[region].crc = sl_crc32c(0, crcs, sizeof(crcs));
        sums[region].reserved = 0;
    }
    return error;
}

int sl_compare_mend_co(struct sl_replica *replica, uint32_t chunk, uint16_t block, uint32_t crc,
                       uint32_t from)
{
    struct sl_iobuf data;
    int error;
    sl_iobuf_init(&data);
    error = crc != SL_CRC_DAMAGED ? sl_replica_replace_co(replica, chunk, block, crc, from)
                                  : sl_replica_repair_co(replica, chunk, block, 1, from, &data);
    sl_iobuf_fini(&data);
    if (error == 0)
        error = sl_store_read_co(replica->log, chunk, block, 1, &data);
    sl_iobuf_fini(&data);
    return error;
}

/* Whether both are of one version: neither has what the other lacks. */
static bool is_comparable(uint64_t index, uint64_t applied, uint64_t own_index,
                          uint64_t own_applied)
{
    return index <= own_applied && own_index <= applied;
}

static int regions_co(struct sl_replica *replica, const struct sl_received *received,
                      struct sl_capsule_compare *out)
{
    const struct sl_capsule_compare *asked = (const void *)&received->capsule;
    const struct sl_compare_sum *sums = (const void *)received->payload->data;
    struct sl_compare_sum own[SL_CHUNK_REGIONS];
    int error = sl_compare_sums_co(replica, asked->chunk, own);
    for (unsigned i = 0; error == 0 && i < SL_CHUNK_REGIONS; i++) {
        uint64_t bit = UINT64_C(1) << i;
        if (!is_comparable(sums[i].index, asked->index, own[i].index, out->index))
            out->open |= bit;
        else if (sums[i].crc != own[i].crc)
            out->differ |= bit;
    }
    return error;
}

static int blocks_co(struct sl_replica *replica, const struct sl_received *received,
                     struct sl_capsule_compare *out)
{
    const struct sl_capsule_compare *asked = (const void *)&received->capsule;
    const uint32_t *crcs = (const void *)received->payload->data;
    uint32_t own[SL_REGION_BLOCKS];
    uint64_t index;
    unsigned count = 0;
    int error = sl_store_region_crcs_co(replica->log, asked->chunk, asked->place, &index, own);
    if (error < 0)
        return error;
    if (!is_comparable(asked->region_index, asked->index, index, out->index))
        return -EAGAIN;
    for (unsigned i = 0; i < SL_REGION_BLOCKS; i++) {
        uint64_t bit = UINT64_C(1) << i;
        if (own[i] == SL_CRC_DAMAGED) {
            out->open |= bit;
        } else if (own[i] != crcs[i]) {
            out->differ |= bit;
            if (count < SL_COMPARE_CRCS_MAX)
                out->crcs[count++] = own[i];
        }
    }
    return 0;
}

static bool is_sound(const struct sl_replica *replica, const struct sl_received *received)
{
    const struct sl_capsule_compare *asked = (const void *)&received->capsule;
    uint32_t payload_bytes = asked->step == SL_COMPARE_MEND ? 0 : SL_BLOCK_BYTES;
    uint32_t places = asked->step == SL_COMPARE_REGIONS  ? 1
                      : asked->step == SL_COMPARE_BLOCKS ? SL_CHUNK_REGIONS
                                                         : SL_CHUNK_BLOCKS;
    return asked->step >= SL_COMPARE_REGIONS && asked->step <= SL_COMPARE_MEND &&
           asked->place < places &&
           (asked->step != SL_COMPARE_MEND || asked->crc == SL_CRC_DAMAGED || asked->node != 0) &&
           received->payload_bytes == payload_bytes &&
           (uint64_t)asked->chunk < replica->size_bytes / SL_CHUNK_BYTES;
}

static int compare_co(struct sl_target_cluster *cluster, const struct sl_received *received,
                      uint32_t node, struct sl_capsule_compare *out)
{
    const struct sl_capsule_compare *asked = (const void *)&received->capsule;
    struct sl_replica *replica = sl_cluster_find(cluster, asked->group);
    if (replica == NULL || replica->id != asked->to)
        return -ENOENT;
    if (!is_sound(replica, received) || !sl_replica_has_member(replica, asked->from, node))
        return -SL_E_PROTOCOL;
    int error = sl_replica_reach_co(replica, asked->index);
    if (error < 0)
        return error;
    out->index = replica->applied; /* before the checksums: they have that, or more */
    if (asked->step == SL_COMPARE_REGIONS)
        return regions_co(replica, received, out);
    if (asked->step == SL_COMPARE_BLOCKS)
        return blocks_co(replica, received, out);
    return sl_compare_mend_co(replica, asked->chunk, (uint16_t)asked->place, asked->crc,
                              asked->node);
}

void sl_cluster_serve_compare_co(struct sl_target_cluster *cluster, struct sl_received *received,
                                 uint32_t node)
{
    union sl_capsule reply = {0};
    struct sl_capsule_compare *out = (void *)&reply;
    int error = compare_co(cluster, received, node, out);
    out->header.type = SL_CAPSULE_REPLY;
    out->header.length_bytes = sizeof(*out);
    out->header.status = sl_status_from_errno(error);
    out->op = SL_RAFT_OP_COMPARE;
    sl_connection_reply(received, &reply);
}
