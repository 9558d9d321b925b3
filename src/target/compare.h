/* Replicas compared with each other. Private to src/target; docs/replication.md, "Replicas
 * compared". */
#ifndef SL_TARGET_COMPARE_H
#define SL_TARGET_COMPARE_H

#include "target/cluster.h"
#include "target/compare_capsule.h"

/* Goes through the groups that are led here until the cluster stops, if there is a scrub. -ENOMEM.
 */
int sl_compare_start(struct sl_target_cluster *cluster);
/* Checksums of the chunk's regions here, as many as a page has. */
int sl_compare_sums_co(struct sl_replica *replica, uint32_t chunk,
                       struct sl_compare_sum sums[SL_CHUNK_REGIONS]);
/* The block, if its checksum is `crc` (SL_CRC_DAMAGED: it is known to be damaged), is taken from
 * node `from` (0: anybody). Errors of sl_replica_replace_co() and sl_replica_repair_co(). */
int sl_compare_mend_co(struct sl_replica *replica, uint32_t chunk, uint16_t block, uint32_t crc,
                       uint32_t from);
/* Answers; the release is the caller's. `node` of the connection's peer. */
void sl_cluster_serve_compare_co(struct sl_target_cluster *cluster, struct sl_received *received,
                                 uint32_t node);

#endif
