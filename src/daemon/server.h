/*
 * What sluice-target and sluice-gateway have in common: a process that serves storage, routes I/O,
 * or both
 * (`sluice-target --gateway`), on one set of reactors.
 */
#ifndef SL_DAEMON_SERVER_H
#define SL_DAEMON_SERVER_H

#include "core/inject.h"
#include "daemon/runtime.h"
#include "fabric/fabric.h"
#include "gateway/gateway.h"
#include "target/target.h"

struct sl_server_config {
    const char *program;
    struct sl_runtime_config runtime;
    const struct sl_link_ops *link;
    const char *device;
    uint8_t cluster_key[SL_CLUSTER_KEY_BYTES];
    uint32_t credits;
    uint64_t heartbeat_timeout_ns; /* 0 = the default; five heartbeats make one */

    /* Faults that are asked for; those without a seed get one at the start. */
    struct sl_inject_rule injects[SL_INJECT_RULES_MAX];
    unsigned inject_count;

    bool has_target;
    struct sl_storage_config storage;
    const char *listen_address; /* NULL: none (a gateway in this process is the only user) */
    bool in_cluster; /* the storage holds replicas of groups; listen_address is needed then */
    struct sl_target_cluster_config cluster; /* but for its instance */

    bool has_gateway;
    struct sl_gateway_config gateway;
    const char *channel_name;
};

/* Runs until SIGINT or SIGTERM. The process's exit status: 0, or 1 after an error (logged). */
int sl_server_run(const struct sl_server_config *config);

#endif
