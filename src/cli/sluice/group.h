/*
 * What the commands of `sluice group` share: a tool that knows the cluster file and talks to its
 * nodes, one GROUP_ADMIN at a time. Reactor 0.
 */
#ifndef SL_CLI_SLUICE_GROUP_H
#define SL_CLI_SLUICE_GROUP_H

#include "cli/sluice/fabric.h"
#include "fabric/group_admin.h"
#include "meta/cluster.h"

#define GROUP_REACTORS_MAX 64

/* Connections to a node: to its reactors, as they are needed. */
struct group_node {
    const struct sl_cluster_node *config;
    bool asked; /* for its reactors; once is enough */
    int error;  /* that it can not be reached with */
    unsigned reactor_count;
    struct sl_connection *connections[GROUP_REACTORS_MAX];
};

struct group_tool {
    const char *program;
    struct tool_options options;
    const char *cluster_file;
    uint64_t groups[SL_CLUSTER_NODES_MAX]; /* --group, as often as given */
    unsigned group_count;
    uint64_t node;
    const char *replica_text;
    uint64_t replica; /* 0 = by its node */
    bool json;
    struct sl_cluster *cluster;
    struct sl_reactor *reactor;
    struct sl_fabric *fabric;
    struct group_node nodes[SL_CLUSTER_NODES_MAX];
    /* The command. 0, or the exit status. */
    int (*run_co)(struct group_tool *tool);
    int status;
};

/* Asks one node; follows "moved" to another reactor of it. 0, the answer's errno, -EXDEV: it is no
 * node of this cluster, or -SL_E_UNREACHABLE and what else ends a connection. `answer` may be NULL.
 */
int group_ask_co(struct group_tool *tool, unsigned node, const struct sl_group_admin *admin,
                 struct sl_capsule_group_status *answer);
/* Asks who leads, wherever that is; waits for an election. -ENOENT: the leader's, no such member.
 */
int group_ask_leader_co(struct group_tool *tool, const struct sl_cluster_group *group,
                        const struct sl_group_admin *admin, struct sl_capsule_group_status *answer);

/* What the group's leader says of it; waits for an election. -SL_E_MOVED: nobody leads it; else why
 * no node could be asked. */
int group_view_co(struct group_tool *tool, const struct sl_cluster_group *group,
                  struct sl_capsule_group_status *view);

/* group_show.c */

/* As struct group_tool says: `sluice group status`. */
int group_status_co(struct group_tool *tool);

#endif
