/*
 * `sluice group`: makes the groups of a cluster file on their nodes, shows how they are, changes
 * who belongs to them. What is asked for is done by the targets; this only asks.
 */
#include "cli/sluice/group.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/sluice/command.h"
#include "core/error.h"

#define MEMORY_BYTES (32 * SL_MIB)
/* A learner that is far behind needs its time before it can be promoted. */
#define PROMOTE_NS       (60 * SL_NS_PER_S)
#define PROMOTE_RETRY_NS (250 * SL_NS_PER_MS)

/* Says how it went; answers the exit status. */
static int tell(const struct group_tool *tool, uint32_t group, uint32_t node, const char *what,
                int error)
{
    const char *advice = error == -SL_E_UNREACHABLE || error == -ECONNREFUSED
                             ? "; is its target running?"
                         : error == -EAGAIN     ? "; try it again later: it has not caught up, or "
                                                  "another change is under way"
                         : error == -EPERM      ? "; the group would be left without a voter"
                         : error == -ENOENT     ? "; no member of the group is there"
                         : error == -SL_E_MOVED ? "; nobody leads the group now"
                                                : "";
    if (error == 0) {
        printf("group %u: node %u %s\n", group, node, what);
        return 0;
    }
    fprintf(stderr, "%s: group %u: node %u was not %s: %s (%s)%s\n", tool->program, group, node,
            what, sl_error_text(error), sl_error_name(error), advice);
    return 1;
}

static unsigned index_of(const struct group_tool *tool, uint32_t node)
{
    const struct sl_cluster_node *found = sl_cluster_find_node(tool->cluster, node);
    return found != NULL ? (unsigned)(found - tool->cluster->nodes) : UINT32_MAX;
}

/* ---- create ---- */

static int create_one_co(struct group_tool *tool, const struct sl_cluster_group *group)
{
    int status = 0;
    struct sl_group_admin admin = {
        .op = SL_GROUP_CREATE,
        .member_count = (uint8_t)group->replica_count,
        .group = group->id,
        .size_bytes = group->size_bytes,
    };
    for (unsigned i = 0; i < group->replica_count; i++)
        admin.members[i] = (struct sl_group_member){group->replicas[i].replica,
                                                    group->replicas[i].node, SL_GROUP_VOTER};
    for (unsigned i = 0; i < group->replica_count; i++) {
        admin.node = group->replicas[i].node;
        admin.replica = group->replicas[i].replica;
        int error = group_ask_co(tool, index_of(tool, admin.node), &admin, NULL);
        if (error == -EEXIST)
            printf("group %u: node %u has it already\n", group->id, admin.node);
        else
            status |= tell(tool, group->id, admin.node, "made ready", error);
    }
    return status;
}

static int create_co(struct group_tool *tool)
{
    int status = 0;
    for (unsigned i = 0; i < tool->group_count; i++)
        status |=
            create_one_co(tool, sl_cluster_find_group(tool->cluster, (uint32_t)tool->groups[i]));
    for (unsigned i = 0; tool->group_count == 0 && i < tool->cluster->group_count; i++)
        status |= create_one_co(tool, &tool->cluster->groups[i]);
    return status;
}

/* ---- members ---- */

static const struct sl_cluster_group *the_group(const struct group_tool *tool)
{
    return sl_cluster_find_group(tool->cluster, (uint32_t)tool->groups[0]);
}

/* The replica on --node, as the leader knows it, or --replica. */
static int find_replica_co(struct group_tool *tool, struct sl_group_admin *admin)
{
    const struct sl_group_admin status = {.op = SL_GROUP_STATUS, .group = admin->group};
    struct sl_capsule_group_status answer = {0};
    admin->replica = tool->replica;
    admin->node = (uint32_t)tool->node;
    if (tool->replica != 0)
        return 0;
    /* Anybody's word: the leader checks it. The freshest is best. */
    uint64_t term = 0;
    for (unsigned i = 0; i < tool->cluster->node_count; i++) {
        if (group_ask_co(tool, i, &status, &answer) < 0 || answer.reply.term < term)
            continue;
        term = answer.reply.term;
        for (unsigned j = 0; j < sl_min((unsigned)answer.member_count, SL_GROUP_MEMBERS_MAX); j++) {
            if (answer.members[j].node == admin->node)
                admin->replica = answer.members[j].replica;
        }
    }
    return admin->replica != 0 ? 0 : -ENOENT;
}

static int change_co(struct group_tool *tool, enum sl_group_admin_op op, const char *what)
{
    const struct sl_cluster_group *group = the_group(tool);
    struct sl_capsule_group_status answer = {0};
    struct sl_group_admin admin = {.op = (uint8_t)op, .group = group->id};
    int error = find_replica_co(tool, &admin);
    uint64_t end_ns = sl_reactor_clock_ns(tool->reactor) + PROMOTE_NS;
    while (error == 0 && (error = group_ask_leader_co(tool, group, &admin, &answer)) == -EAGAIN &&
           op == SL_GROUP_PROMOTE && sl_reactor_clock_ns(tool->reactor) < end_ns) {
        error = 0;
        sl_sleep_co(PROMOTE_RETRY_NS);
    }
    return tell(tool, group->id, (uint32_t)tool->node, what, error);
}

static int add_learner_co(struct group_tool *tool)
{
    const struct sl_cluster_group *group = the_group(tool);
    struct sl_capsule_group_status answer = {0};
    while (tool->replica == 0)
        tool->replica = sl_reactor_random_u64(tool->reactor);
    struct sl_group_admin admin = {
        .op = SL_GROUP_CREATE,
        .group = group->id,
        .size_bytes = group->size_bytes,
        .replica = tool->replica,
        .node = (uint32_t)tool->node,
    };
    int error = group_ask_co(tool, index_of(tool, admin.node), &admin, NULL);
    if (error < 0)
        return tell(tool, group->id, admin.node, "given a new replica", error);
    printf("group %u: node %u has a new replica %016llx\n", group->id, admin.node,
           (unsigned long long)tool->replica);
    admin.op = SL_GROUP_ADD_LEARNER;
    admin.size_bytes = 0;
    error = group_ask_leader_co(tool, group, &admin, &answer);
    return tell(tool, group->id, admin.node, "added as a learner", error);
}

static int promote_co(struct group_tool *tool)
{
    return change_co(tool, SL_GROUP_PROMOTE, "promoted to a voter");
}

static int demote_co(struct group_tool *tool)
{
    return change_co(tool, SL_GROUP_DEMOTE, "made a learner");
}

static int remove_co(struct group_tool *tool)
{
    return change_co(tool, SL_GROUP_REMOVE, "removed");
}

/* Answered when it was begun; it is over when the new one leads. */
static int transfer_co(struct group_tool *tool)
{
    const struct sl_cluster_group *group = the_group(tool);
    const struct sl_group_admin status = {.op = SL_GROUP_STATUS, .group = group->id};
    struct sl_capsule_group_status answer = {0};
    struct sl_group_admin admin = {.op = SL_GROUP_TRANSFER, .group = group->id};
    int error = find_replica_co(tool, &admin);
    if (error == 0)
        error = group_ask_leader_co(tool, group, &admin, &answer);
    for (unsigned i = 0; error == 0 && i < 50; i++) {
        error = group_ask_co(tool, index_of(tool, admin.node), &status, &answer);
        if (error == 0 && (answer.flags & SL_GROUP_SERVING) != 0)
            return tell(tool, group->id, admin.node, "leads now", 0);
        sl_sleep_co(PROMOTE_RETRY_NS / 4);
    }
    return tell(tool, group->id, admin.node, "made the leader", error == 0 ? -ETIMEDOUT : error);
}

/* ---- frame ---- */

static int main_co(struct sl_runtime *runtime, void *argument)
{
    struct group_tool *tool = argument;
    tool->reactor = runtime->nodes[0].reactor;
    int error = tool_fabric_create(&tool->options, runtime, false, &tool->fabric);
    if (error < 0) {
        fprintf(stderr, "%s: no fabric: %s (%s)\n", tool->program, sl_error_text(error),
                sl_error_name(error));
        return error;
    }
    for (unsigned i = 0; i < tool->cluster->node_count; i++)
        tool->nodes[i].config = &tool->cluster->nodes[i];
    tool->status = tool->run_co(tool);
    sl_fabric_drain_co(tool->fabric);
    sl_fabric_destroy(tool->fabric);
    return 0;
}

static int complain(const struct group_tool *tool, const char *text)
{
    fprintf(stderr, "%s: %s\n", tool->program, text);
    return 2;
}

/* One group and one node, if the command is about them. */
static int check(struct group_tool *tool, bool one)
{
    if (one && (tool->group_count != 1 || tool->node == 0))
        return complain(tool, "name one --group and one --node");
    for (unsigned i = 0; i < tool->group_count; i++) {
        if (sl_cluster_find_group(tool->cluster, (uint32_t)tool->groups[i]) == NULL)
            return complain(tool, "--group: the cluster file has no such group");
    }
    if (tool->node != 0 && index_of(tool, (uint32_t)tool->node) == UINT32_MAX)
        return complain(tool, "--node: the cluster file has no such node");
    if (tool->replica_text == NULL)
        return 0;
    char *end;
    tool->replica = strtoull(tool->replica_text, &end, 16);
    if (tool->replica == 0 || *end != '\0' || strlen(tool->replica_text) > 16)
        return complain(tool, "--replica: an id is 1 to 16 hexadecimal digits, and not 0");
    return 0;
}

static int run(struct group_tool *tool, const char *summary, bool one, int argc, char **argv)
{
    struct sl_option rows[TOOL_OPTION_COUNT + 6] = {{NULL}};
    static char error[1024];
    unsigned n = TOOL_OPTION_COUNT;
    tool_options_rows(&tool->options, rows);
    rows[n++] = (struct sl_option){"cluster",          0,
                                   SL_OPTION_STRING,   &tool->cluster_file,
                                   .argument = "FILE", .help = "the cluster file"};
    rows[n++] = (struct sl_option){"group",
                                   'g',
                                   SL_OPTION_INTEGER,
                                   tool->groups,
                                   &tool->group_count,
                                   SL_COUNT_OF(tool->groups),
                                   1,
                                   UINT32_MAX,
                                   .argument = "ID",
                                   .help = "which group",
                                   .fallback = one ? NULL : "all"};
    if (one) {
        rows[n++] = (struct sl_option){"node",
                                       'n',
                                       SL_OPTION_INTEGER,
                                       &tool->node,
                                       .least = 1,
                                       .most = UINT32_MAX,
                                       .argument = "ID",
                                       .help = "the node whose replica is meant"};
        rows[n++] = (struct sl_option){"replica",
                                       0,
                                       SL_OPTION_STRING,
                                       &tool->replica_text,
                                       .argument = "ID",
                                       .help = "its replica id, if that is not "
                                               "clear from the node"};
    }
    if (tool->run_co == group_status_co)
        rows[n++] =
            (struct sl_option){"json", 0, SL_OPTION_FLAG, &tool->json, .help = "print JSON"};
    const struct sl_options description = {tool->program, summary, NULL, rows};
    int parsed = sl_options_parse(&description, argc, argv, NULL, NULL, 0, stdout, stderr);
    if (parsed != 0)
        return parsed > 0 ? 0 : 2;
    if (tool->cluster_file == NULL)
        return complain(tool, "name the --cluster file");
    if (sl_cluster_load(tool->cluster_file, &tool->cluster, error, sizeof(error)) < 0)
        return complain(tool, error);
    if (tool->options.key_file == NULL && tool->cluster->key_file[0] != '\0')
        tool->options.key_file = tool->cluster->key_file;
    int status = check(tool, one);
    for (unsigned i = 0; status == 0 && i < tool->cluster->node_count; i++)
        status =
            tool_options_finish(&tool->options, tool->program, tool->cluster->nodes[i].address);
    struct sl_runtime_config config;
    tool_runtime_config(&tool->options, MEMORY_BYTES, &config);
    if (status == 0)
        status = sl_runtime_run(&config, main_co, tool) < 0 ? 1 : tool->status;
    sl_cluster_free(tool->cluster);
    return status;
}

#define COMMAND(name, function, one, summary)                                                      \
    static int group_##function(int argc, char **argv)                                             \
    {                                                                                              \
        static struct group_tool tool = {.program = "sluice group " name,                          \
                                         .run_co = function##_co};                                 \
        return run(&tool, summary, one, argc, argv);                                               \
    }

COMMAND("create", create, false, "makes the file's groups on their nodes")
COMMAND("add-learner", add_learner, true, "gives a node a new, empty replica, which is then filled")
COMMAND("promote", promote, true, "lets a learner that has caught up vote")
COMMAND("demote", demote, true, "takes a voter's vote, but not its data")
COMMAND("remove", remove, true, "takes a replica out of its group")
COMMAND("transfer-leader", transfer, true, "makes a voter the leader")

static int group_status(int argc, char **argv)
{
    static struct group_tool tool = {.program = "sluice group status", .run_co = group_status_co};
    return run(&tool, "shows each replica of each group; status 1 if a group has no leader", false,
               argc, argv);
}

static const struct sluice_command commands[] = {
    {"create", "makes the cluster file's groups on their nodes", group_create},
    {"status", "shows each replica of each group", group_status},
    {"add-learner", "gives a node a new, empty replica", group_add_learner},
    {"promote", "lets a learner vote", group_promote},
    {"demote", "takes a voter's vote", group_demote},
    {"remove", "takes a replica out of its group", group_remove},
    {"transfer-leader", "makes a voter the leader", group_transfer},
    {NULL},
};

int sluice_group(int argc, char **argv)
{
    return sluice_dispatch("sluice group", "replicated groups of a running cluster", commands, argc,
                           argv);
}
