/* The other nodes of the cluster, and the connections to them. Private to src/target. */
#ifndef SL_TARGET_PEER_H
#define SL_TARGET_PEER_H

#include "target/cluster.h"

/* An outgoing connection to one reactor of a node. */
struct sl_peer_connection {
    struct sl_cluster_peer *peer;
    uint32_t reactor;
    bool running;                     /* its coroutine keeps it up */
    struct sl_connection *connection; /* NULL: not usable now */
    struct sl_wait_queue changed;
};

struct sl_cluster_peer {
    struct sl_target_cluster *cluster;
    uint32_t node;
    char address[SL_ADDRESS_BYTES_MAX];
    bool known;      /* it has told what follows */
    bool complained; /* that it can not be reached, since it last was */
    uint32_t reactor_count;
    uint32_t waiting_kib;      /* least of what its reactors have told; 0: nothing yet */
    uint64_t waiting_instance; /* whose word that is */
    struct sl_peer_connection connections[SL_STORAGE_SHARDS_MAX]; /* reactors serve whole shards */
    /* Who last came in under this node's number. */
    uint8_t disk_id[16]; /* its first disk */
    uint64_t instance;
    struct sl_connection *incoming; /* newest that said hello; compared, never followed */
};

int sl_peers_start(struct sl_target_cluster *cluster);
struct sl_cluster_peer *sl_peer_find(struct sl_target_cluster *cluster, uint32_t node);
/* On which reactor of the peer the group lies, as far as is known. */
uint32_t sl_peer_reactor(const struct sl_cluster_peer *peer, uint32_t group);
/* Usable now, or NULL (and it is being made). */
struct sl_connection *sl_peer_connect(struct sl_cluster_peer *peer, uint32_t reactor);
/* To where the group lies on that node: usable now, or NULL, also if there is no such node. */
struct sl_connection *sl_peer_of_group(struct sl_target_cluster *cluster, uint32_t node,
                                       uint32_t group);
/* A target said hello on an incoming connection: what it is answered. */
int sl_peer_hello(struct sl_target_cluster *cluster, struct sl_received *received,
                  union sl_capsule *reply, uint32_t *node);
/* It is closed. */
void sl_peer_left(struct sl_target_cluster *cluster, uint32_t node,
                  const struct sl_connection *connection);
void sl_peer_fill_hello(const struct sl_target_cluster *cluster, uint32_t to_node,
                        union sl_capsule *capsule);

#endif
