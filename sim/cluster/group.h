/* What only replicated clusters have: group.c, admin.c, differ.c. */
#ifndef SIM_CLUSTER_GROUP_H
#define SIM_CLUSTER_GROUP_H

#include "sim/cluster/cluster.h"

struct sl_replica;

void groups_draw(struct cluster *cluster);
/* admin.c: makes the groups; targets have been started. */
void groups_boot(struct cluster *cluster);
/* The target came back with an empty disk: new replicas take the place of its old ones. */
void groups_replace(struct cluster *cluster, unsigned target);
/* Closes the tool once it is done. */
void tool_reap(struct cluster *cluster);
void tool_crash(struct cluster *cluster);
/* At any time: at most one leader a term. */
void groups_watch(struct cluster *cluster);
/* All replicas have applied all, and the same. */
bool groups_are_level(struct cluster *cluster);
void groups_compare(struct cluster *cluster);
/* The target that leads a group, or TARGETS_MAX. */
unsigned group_leader(const struct cluster *cluster, unsigned group);
/* The replica of a group on a target, or NULL. */
struct sl_replica *group_replica(const struct cluster *cluster, unsigned group, unsigned target);
/* In which group a block of the volume lies, and where. */
unsigned group_place(const struct cluster *cluster, unsigned block, uint64_t *offset_bytes);

/* differ.c: once a run, a block of a replica becomes another, checksum and all */
void groups_forge(struct cluster *cluster, unsigned target, unsigned group);
/* All replicas have the same again. */
bool groups_are_mended(struct cluster *cluster);

#endif
