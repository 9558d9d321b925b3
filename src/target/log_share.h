/* Shares of a store's log in what waits for its commit. Private to src/target. */
#ifndef SL_TARGET_LOG_SHARE_H
#define SL_TARGET_LOG_SHARE_H

#include "core/coroutine.h"
#include "store/store.h"

struct sl_target_cluster;

/* Lets so many bytes of writes in at a time, in the order in which they came: small ones do not
 * pass a large one by. One alone is let in whatever it has. */
struct sl_gate {
    uint64_t bytes;
    bool entering;
    struct sl_wait_queue line, room; /* in `room` is who is next */
};
void sl_gate_init(struct sl_gate *gate);
/* `*bytes_max` may change meanwhile. Each must leave, whatever becomes of the group. */
void sl_gate_enter_co(struct sl_gate *gate, uint64_t bytes, const uint64_t *bytes_max);
void sl_gate_leave(struct sl_gate *gate, uint64_t bytes);

/* Of a store, for the groups led here. */
struct sl_log_share {
    struct sl_gate gate;
    uint64_t bytes_max;
};

/* A group has come, or has another leader: those led here have their part of their store's log
 * together, and each the half of that, or its own if that is more. */
void sl_cluster_share_logs(struct sl_target_cluster *cluster);
/* What may wait in the smallest log of this reactor, of all groups, in KiB: peers are told. */
uint32_t sl_cluster_waiting_kib(const struct sl_target_cluster *cluster);
/* The store's, which is one of the target's. */
struct sl_log_share *sl_cluster_log_share(struct sl_target_cluster *cluster,
                                          const struct sl_store *store);

#endif
