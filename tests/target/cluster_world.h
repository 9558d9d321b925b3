/* What the tests of replication share: nodes of a simulated cluster, each a target with a disk of
 * the store, and a client that speaks GROUP_IO and GROUP_ADMIN over the fabric. */
#ifndef TESTS_TARGET_CLUSTER_WORLD_H
#define TESTS_TARGET_CLUSTER_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "fabric/group_admin.h"
#include "sim/sim_disk.h"
#include "target/peer.h"

#define WORLD_NODES  5
#define DISK_PATH    "sim:disk" /* the first; the others: disk_path() */
#define WORLD_DISKS  3
#define GROUP        7u
#define VOLUME       3u
#define GROUP_BYTES  (4 * SL_CHUNK_BYTES)
#define REPLICA(n)   (UINT64_C(0x1000) + (n))
#define WORLD_CREDIT 32u

struct cluster_world;

struct cluster_node {
    struct cluster_world *world;
    unsigned number; /* 1 … */
    char name[16], address[32];
    bool up, ready, stop, done;
    struct sl_sim_node node;
    struct sl_storage *storage;
    struct sl_target *target;
    struct sl_fabric *serving, *peering;
    struct sl_fabric_listener *listener;
    int mount_error;
};

struct cluster_world {
    struct sl_sim *sim;
    unsigned node_count;
    struct cluster_node nodes[WORLD_NODES + 1]; /* by number */
    struct sl_target_cluster_node addresses[WORLD_NODES];
    unsigned disk_count;            /* of each node */
    const char *specs[WORLD_DISKS]; /* as the nodes are given them */
    uint64_t disk_bytes, segment_bytes;
    unsigned segment_count;
    uint16_t shard_count; /* of each disk; 0 = one */
    /* Of nodes that are started from now on. */
    uint64_t scrub_bytes_per_s, compare_pause_ns;
    bool hurried; /* want their peers while they still open their groups */
    /* the client */
    struct sl_sim_node client;
    struct sl_fabric *fabric;
    struct sl_connection *connections[WORLD_NODES + 1];
    struct sl_buf *buf; /* what it writes from and reads into: 1 MiB each */
    uint64_t session, sequence, epoch;
    uint32_t leader;
    unsigned wiped;
    uint64_t moved_count, retry_count;
    void (*body_co)(struct cluster_world *world);
    bool done;
    uint8_t cluster_id[16];
};

/* Life of a node, from outside of the simulation. `crash`: what was not durable is lost. */
void node_start(struct cluster_world *world, unsigned number);
void node_end(struct cluster_world *world, unsigned number, bool crash);
void node_format(struct cluster_world *world, unsigned number);
/* The node's own reactor does `body_co`, to its end: in a second at most. */
void node_run(struct cluster_world *world, unsigned number,
              void (*body_co)(struct cluster_world *world, unsigned number));
/* Every place on the node's disk that holds the block: how many; `spoil`: a bit of each is turned.
 */
unsigned node_find_block(struct cluster_world *world, unsigned number, uint64_t block,
                         uint64_t value, bool spoil);
/* One attempt at one node: negative errno. */
int client_call_co(struct cluster_world *world, unsigned number, union sl_capsule *request,
                   const struct sl_span *payload, union sl_capsule *reply);
/* Until somebody leads and says how it ended. */
int client_group_co(struct cluster_world *world, union sl_capsule *request,
                    const struct sl_span *payload, union sl_capsule *reply);
struct sl_group_message *client_request(union sl_capsule *request, uint8_t opcode);
int client_session_co(struct cluster_world *world, uint8_t opcode, uint64_t session);
int client_attach_co(struct cluster_world *world, uint64_t epoch);
void fill_block(uint8_t *data, uint64_t block, uint64_t value);
bool check_block(const uint8_t *data, uint64_t block, uint64_t value);
void client_describe(struct cluster_world *world, union sl_capsule *request, uint32_t offset,
                     uint32_t length);
/* In the capsule if it fits there, else by READ. */
int client_write_as_co(struct cluster_world *world, uint64_t sequence, uint64_t block,
                       unsigned count, uint64_t value);
int client_write_co(struct cluster_world *world, uint64_t block, unsigned count, uint64_t value);
/* Into the upper half of the buffer. */
int client_read_co(struct cluster_world *world, uint64_t block, unsigned count);
void client_expect_co(struct cluster_world *world, uint64_t block, unsigned count, uint64_t value);
int client_admin_co(struct cluster_world *world, unsigned number,
                    const struct sl_group_admin *admin, union sl_capsule *reply);
int client_create_co(struct cluster_world *world, unsigned number, unsigned members);
int client_status_co(struct cluster_world *world, unsigned number,
                     struct sl_capsule_group_status *status);
/* The client does `body_co`, to its end. */
void world_run(struct cluster_world *world, void (*body_co)(struct cluster_world *world));
void world_wait(struct cluster_world *world, uint64_t duration_ns);
const char *disk_path(unsigned disk);
void world_open(struct cluster_world *world, uint64_t seed, unsigned node_count);
void world_open_disks(struct cluster_world *world, uint64_t seed, unsigned node_count,
                      unsigned disk_count);
void world_close(struct cluster_world *world);
void world_create_group_co(struct cluster_world *world);
void world_attach_co(struct cluster_world *world);
/* Until all nodes have applied the same. */
void world_all_equal_co(struct cluster_world *world);
/* More than the log holds, to the first 2,000 blocks. */
void world_write_much_co(struct cluster_world *world);

#endif
