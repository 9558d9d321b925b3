/*
 * What a cluster consists of: nodes, groups, volumes. Read once from a static file
 * (docs/operations.md, "Cluster file"); later from other sources, into the same structure.
 * Immutable after it was read, so any thread may look.
 */
#ifndef SL_META_CLUSTER_H
#define SL_META_CLUSTER_H

#include <stddef.h>
#include <stdio.h>

#include "core/base.h"

#define SL_CLUSTER_NODES_MAX         64
#define SL_CLUSTER_REPLICAS_MAX      7 /* of a group: SL_RAFT_MEMBERS_MAX */
#define SL_CLUSTER_NAME_BYTES_MAX    64
#define SL_CLUSTER_ADDRESS_BYTES_MAX 128
#define SL_CLUSTER_PATH_BYTES_MAX    1024
#define SL_CLUSTER_GROUPS_MAX                                                                      \
    16384 /* a group of 16 MiB … any size: 500 of them a node are much                           \
           */
#define SL_CLUSTER_VOLUMES_MAX      256 /* what a gateway offers: SL_VOLUMES_MAX */
#define SL_CLUSTER_EXTENTS_MAX      256 /* of a volume: SL_VOLUME_COLUMNS_MAX of the gateway */
#define SL_CLUSTER_STRIPE_BYTES_MIN (64 * SL_KIB)
#define SL_CLUSTER_STRIPE_BYTES_MAX (16 * SL_MIB)
/* Of the store, SL_CHUNK_BYTES: groups and extents are whole chunks, so that none crosses one. */
#define SL_CLUSTER_CHUNK_BYTES (16 * SL_MIB)
/* A file beyond it is no cluster file: 16384 groups of 7 replicas are 7 MiB. */
#define SL_CLUSTER_FILE_BYTES_MAX (32 * SL_MIB)

struct sl_cluster_node {
    uint32_t id;                                /* 1 or more */
    char address[SL_CLUSTER_ADDRESS_BYTES_MAX]; /* as the link takes it */
    char domain[SL_CLUSTER_NAME_BYTES_MAX];     /* of failure; "" = its own */
};

/* Where a group began: its members now are what the group itself says. */
struct sl_cluster_replica {
    uint32_t node;
    uint64_t replica; /* random, not 0, never used again */
};

struct sl_cluster_group {
    uint32_t id;         /* 1 or more */
    uint64_t size_bytes; /* of its address space: whole chunks */
    unsigned replica_count;
    struct sl_cluster_replica replicas[SL_CLUSTER_REPLICAS_MAX];
};

/* A part of a volume: `size_bytes` from `offset_bytes` on in the address space of a group. */
struct sl_cluster_extent {
    uint32_t group;
    uint64_t offset_bytes, size_bytes;
};

/* Striped over its extents, which are of one size: stripe i lies in extent i mod n. */
struct sl_cluster_volume {
    uint32_t id; /* 1 or more */
    char name[SL_CLUSTER_NAME_BYTES_MAX];
    uint64_t size_bytes;
    uint32_t stripe_bytes; /* a power of two, 64 KiB … 16 MiB */
    bool shared;           /* several gateways at once; else the last one to attach has it */
    unsigned extent_count;
    struct sl_cluster_extent *extents;
};

struct sl_cluster {
    uint8_t id[16];                           /* random; tells one cluster from another */
    char key_file[SL_CLUSTER_PATH_BYTES_MAX]; /* of the cluster's key, if no option names one; "" */
    unsigned node_count, group_count, volume_count;
    struct sl_cluster_node *nodes; /* ascending by id, as the groups are */
    struct sl_cluster_group *groups;
    struct sl_cluster_volume *volumes; /* in the file's order: the first is the default one */
};

/* Reads and checks a cluster file. -ENOENT, -EACCES, -EINVAL (syntax, or what contradicts itself),
 * -ENOMEM; `error` says where and what to do. */
int sl_cluster_load(const char *path, struct sl_cluster **cluster, char *error, size_t error_bytes);
/* The same from memory; `name` stands before each message. */
int sl_cluster_parse(const char *name, const char *text, size_t text_bytes,
                     struct sl_cluster **cluster, char *error, size_t error_bytes);
/* Whether it holds together; sorts nodes and groups. -EINVAL, -ENOMEM, explained in `error`. */
int sl_cluster_check(struct sl_cluster *cluster, char *error, size_t error_bytes);
/* Writes it as a cluster file. 0 or the negative errno of `file`. */
int sl_cluster_print(const struct sl_cluster *cluster, FILE *file);
/* What so many replicas of each group survive, in a sentence. */
const char *sl_cluster_survives(unsigned replica_count);
/* Takes NULL. */
void sl_cluster_free(struct sl_cluster *cluster);
/* NULL: no such. */
const struct sl_cluster_node *sl_cluster_find_node(const struct sl_cluster *cluster, uint32_t id);
const struct sl_cluster_group *sl_cluster_find_group(const struct sl_cluster *cluster, uint32_t id);
const struct sl_cluster_volume *sl_cluster_find_volume(const struct sl_cluster *cluster,
                                                       const char *name);

#endif
