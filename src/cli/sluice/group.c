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
                         : error == -SL_E_MOVED ? "; nobody leads the group now: `sluice group "
                                                  "status` shows which nodes are there"
                         : error == -EXDEV ? "; a node of another cluster, or of none, is at its "
                                             "address: is this its cluster file?"
                         : error == -SL_E_CLUSTER_KEY ? "; see --cluster-key-file"
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

/* What nodes have of a group before it is made. */
struct found {
    bool has_run; /* somebody, on whichever node, has voted */
    int status;   /* a first member does not answer */
};

/* Its first members have to answer; of others, whoever does: the group may have moved there. */
static struct found find_co(struct group_tool *tool, const struct sl_cluster_group *group,
                            bool has[SL_CLUSTER_NODES_MAX])
{
    const struct sl_group_admin status = {.op = SL_GROUP_STATUS, .group = group->id};
    struct found found = {0};
    for (unsigned i = 0; i < tool->cluster->node_count; i++) {
        const struct sl_cluster_node *node = &tool->cluster->nodes[i];
        struct sl_capsule_group_status answer = {0};
        bool is_first = false;
        for (unsigned k = 0; k < group->replica_count; k++)
            is_first = is_first || group->replicas[k].node == node->id;
        int error = group_ask_co(tool, i, &status, &answer);
        has[i] = error == 0;
        found.has_run = found.has_run || (error == 0 && answer.reply.term > 0);
        if (error < 0 && error != -ENOENT && is_first)
            found.status |= tell(tool, group->id, node->id, "made ready", error);
    }
    return found;
}

/* A replica that is made with the id of one that has voted, or acknowledged anything, would undo
 * that: acknowledged writes could be lost (Raft §5.4). So all of a group's first replicas are made
 * before it runs, or none. */
static int create_one_co(struct group_tool *tool, const struct sl_cluster_group *group)
{
    bool has[SL_CLUSTER_NODES_MAX] = {false};
    struct found found = find_co(tool, group, has);
    struct sl_group_admin admin = {
        .op = SL_GROUP_CREATE,
        .member_count = (uint8_t)group->replica_count,
        .group = group->id,
        .size_bytes = group->size_bytes,
    };
    for (unsigned i = 0; i < group->replica_count; i++)
        admin.members[i] = (struct sl_group_member){group->replicas[i].replica,
                                                    group->replicas[i].node, SL_GROUP_VOTER};
    int status = found.status;
    for (unsigned i = 0; status == 0 && i < group->replica_count; i++) {
        admin.node = group->replicas[i].node;
        admin.replica = group->replicas[i].replica;
        if (has[index_of(tool, admin.node)]) {
            printf("group %u: node %u has it already\n", group->id, admin.node);
            continue;
        }
        /* -EEXIST: there is one, and it is not served. */
        int error =
            found.has_run ? -EEXIST : group_ask_co(tool, index_of(tool, admin.node), &admin, NULL);
        if (error == -EEXIST) {
            fprintf(stderr,
                    "%s: group %u: node %u was not made ready: the group has run, and this node "
                    "serves no replica of it (any more): `sluice group remove --group %u --node "
                    "%u`, if it is a member, then `add-learner` and `promote`\n",
                    tool->program, group->id, admin.node, group->id, admin.node);
            status = 1;
        } else {
            status = tell(tool, group->id, admin.node, "made ready", error);
        }
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

/* The member on --node, and with --replica if that is the one; NULL: none. */
static const struct sl_group_member *find_member(const struct group_tool *tool,
                                                 const struct sl_capsule_group_status *view)
{
    for (unsigned i = 0; i < view->member_count; i++) {
        const struct sl_group_member *member = &view->members[i];
        if (member->node == tool->node && (tool->replica == 0 || member->replica == tool->replica))
            return member;
    }
    return NULL;
}

static int no_member(const struct group_tool *tool, uint32_t group, const char *what,
                     const struct sl_capsule_group_status *view)
{
    fprintf(stderr, "%s: group %u: node %llu was not %s: no member of the group is there",
            tool->program, group, (unsigned long long)tool->node, what);
    if (tool->replica != 0)
        fprintf(stderr, " under the replica id %016llx", (unsigned long long)tool->replica);
    fprintf(stderr, "; its members (node/replica):");
    for (unsigned i = 0; i < view->member_count; i++)
        fprintf(stderr, " %u/%016llx%s", view->members[i].node,
                (unsigned long long)view->members[i].replica,
                view->members[i].kind == SL_GROUP_LEARNER ? " (learner)" : "");
    fprintf(stderr, "\n");
    return 1;
}

/* Whether the change is what its leader says already. */
static bool is_done(const struct sl_capsule_group_status *view, const struct sl_group_admin *admin)
{
    for (unsigned i = 0; i < view->member_count; i++) {
        if (view->members[i].replica != admin->replica)
            continue;
        return admin->op == SL_GROUP_ADD_LEARNER ||
               (admin->op == SL_GROUP_PROMOTE && view->members[i].kind == SL_GROUP_VOTER) ||
               (admin->op == SL_GROUP_DEMOTE && view->members[i].kind == SL_GROUP_LEARNER);
    }
    return admin->op == SL_GROUP_REMOVE;
}

/* Asks for a change until it is made, and for a promotion until its learner has caught up. */
static int change_members_co(struct group_tool *tool, const struct sl_cluster_group *group,
                             const struct sl_group_admin *admin)
{
    struct sl_capsule_group_status answer = {0};
    uint64_t end_ns = sl_reactor_clock_ns(tool->reactor) + PROMOTE_NS;
    int error;
    while ((error = group_ask_leader_co(tool, group, admin, &answer)) == -EAGAIN &&
           admin->op == SL_GROUP_PROMOTE && sl_reactor_clock_ns(tool->reactor) < end_ns)
        sl_sleep_co(PROMOTE_RETRY_NS);
    /* The answer may have been lost with its leader, and asked again it is refused. */
    if (error < 0 && error != -EAGAIN && group_view_co(tool, group, &answer) == 0 &&
        is_done(&answer, admin))
        return 0;
    return error;
}

/* Whether more than half of the voters that stay answer. Who is asked to leave may be needed for
 * anything else to be decided, its own return too. */
static bool leaves_majority_co(struct group_tool *tool, const struct sl_cluster_group *group,
                               const struct sl_capsule_group_status *view, uint64_t leaver)
{
    const struct sl_group_admin status = {.op = SL_GROUP_STATUS, .group = group->id};
    unsigned voters = 0, there = 0;
    for (unsigned i = 0; i < view->member_count; i++) {
        const struct sl_group_member *member = &view->members[i];
        struct sl_capsule_group_status answer = {0};
        if (member->kind != SL_GROUP_VOTER || member->replica == leaver)
            continue;
        voters++;
        unsigned index = index_of(tool, member->node);
        there += index != UINT32_MAX && group_ask_co(tool, index, &status, &answer) == 0 &&
                 answer.reply.replica == member->replica && (answer.flags & SL_GROUP_COPYING) == 0;
    }
    return voters == 0 || there > voters / 2; /* none at all: the leader refuses that */
}

static int change_co(struct group_tool *tool, enum sl_group_admin_op op, const char *what)
{
    const struct sl_cluster_group *group = the_group(tool);
    struct sl_capsule_group_status view;
    int error = group_view_co(tool, group, &view);
    if (error < 0)
        return tell(tool, group->id, (uint32_t)tool->node, what, error);
    const struct sl_group_member *member = find_member(tool, &view);
    if (member == NULL)
        return no_member(tool, group->id, what, &view);
    struct sl_group_admin admin = {
        .op = (uint8_t)op, .group = group->id, .replica = member->replica, .node = member->node};
    if (is_done(&view, &admin)) {
        printf("group %u: node %u is a %s already\n", group->id, member->node,
               op == SL_GROUP_PROMOTE ? "voter" : "learner");
        return 0;
    }
    if ((op == SL_GROUP_REMOVE || op == SL_GROUP_DEMOTE) && member->kind == SL_GROUP_VOTER &&
        !leaves_majority_co(tool, group, &view, member->replica)) {
        fprintf(stderr,
                "%s: group %u: node %u was not %s: of the voters that would be left no majority is "
                "there, and nobody could lead the group: bring them back, or remove those first\n",
                tool->program, group->id, member->node, what);
        return 1;
    }
    return tell(tool, group->id, member->node, what, change_members_co(tool, group, &admin));
}

/* A replica that is there and no member: add-learner was cut short before it was one, or it was
 * taken out and its disk is whole. It has what it ever promised: it may be a member again. */
static int adopt_co(struct group_tool *tool, const struct sl_cluster_group *group)
{
    const struct sl_group_admin status = {.op = SL_GROUP_STATUS, .group = group->id};
    struct sl_capsule_group_status answer = {0};
    int error = group_ask_co(tool, index_of(tool, (uint32_t)tool->node), &status, &answer);
    if (error < 0)
        return error;
    if (answer.reply.replica == 0 ||
        (tool->replica_text != NULL && answer.reply.replica != tool->replica))
        return -EEXIST;
    tool->replica = answer.reply.replica;
    return 0;
}

static int add_learner_co(struct group_tool *tool)
{
    const struct sl_cluster_group *group = the_group(tool);
    struct sl_capsule_group_status view;
    uint32_t node = (uint32_t)tool->node;
    int error = group_view_co(tool, group, &view);
    if (error < 0)
        return tell(tool, group->id, node, "given a new replica", error);
    for (unsigned i = 0; i < view.member_count; i++) {
        if (view.members[i].node != node)
            continue;
        fprintf(stderr,
                "%s: group %u: node %u was not given a new replica: it is a member by its replica "
                "%016llx (EEXIST); if the disk with that is lost, first `sluice group remove "
                "--group %u --node %u --replica %016llx`\n",
                tool->program, group->id, node, (unsigned long long)view.members[i].replica,
                group->id, node, (unsigned long long)view.members[i].replica);
        return 1;
    }
    while (tool->replica == 0)
        tool->replica = sl_reactor_random_u64(tool->reactor);
    struct sl_group_admin admin = {
        .op = SL_GROUP_CREATE,
        .group = group->id,
        .size_bytes = group->size_bytes,
        .replica = tool->replica,
        .node = node,
    };
    const char *has = "has a new";
    error = group_ask_co(tool, index_of(tool, node), &admin, NULL);
    if (error == -EEXIST) {
        has = "had, and keeps, its";
        error = adopt_co(tool, group);
    }
    if (error < 0)
        return tell(tool, group->id, node, "given a new replica", error);
    printf("group %u: node %u %s replica %016llx\n", group->id, node, has,
           (unsigned long long)tool->replica);
    admin.op = SL_GROUP_ADD_LEARNER;
    admin.size_bytes = 0;
    admin.replica = tool->replica;
    return tell(tool, group->id, node, "added as a learner",
                change_members_co(tool, group, &admin));
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
    static const char what[] = "made the leader";
    const struct sl_cluster_group *group = the_group(tool);
    const struct sl_group_admin status = {.op = SL_GROUP_STATUS, .group = group->id};
    struct sl_capsule_group_status answer;
    int error = group_view_co(tool, group, &answer);
    if (error < 0)
        return tell(tool, group->id, (uint32_t)tool->node, what, error);
    const struct sl_group_member *member = find_member(tool, &answer);
    if (member == NULL)
        return no_member(tool, group->id, what, &answer);
    struct sl_group_admin admin = {.op = SL_GROUP_TRANSFER,
                                   .group = group->id,
                                   .replica = member->replica,
                                   .node = member->node};
    if (member->kind == SL_GROUP_LEARNER) {
        fprintf(stderr, "%s: group %u: node %u was not %s: it is a learner: promote it first\n",
                tool->program, group->id, admin.node, what);
        return 1;
    }
    error = group_ask_leader_co(tool, group, &admin, &answer);
    for (unsigned i = 0; error == 0 && i < 50; i++) {
        error = group_ask_co(tool, index_of(tool, admin.node), &status, &answer);
        if (error == 0 && (answer.flags & SL_GROUP_SERVING) != 0)
            return tell(tool, group->id, admin.node, "leads now", 0);
        sl_sleep_co(PROMOTE_RETRY_NS / 4);
    }
    return tell(tool, group->id, admin.node, what, error == 0 ? -ETIMEDOUT : error);
}

/* ---- frame ---- */

static int main_co(struct sl_runtime *runtime, void *argument)
{
    struct group_tool *tool = argument;
    sl_runtime_signals_default(); /* the targets finish what was asked */
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

static int not_in_file(const struct group_tool *tool, const char *what, uint64_t id)
{
    fprintf(stderr, "%s: --%s %llu: the cluster file '%s' has no such %s (`sluice cluster show`)\n",
            tool->program, what, (unsigned long long)id, tool->cluster_file, what);
    return 2;
}

/* One group and one node, if the command is about them. */
static int check(struct group_tool *tool, bool one)
{
    if (one && (tool->group_count != 1 || tool->node == 0))
        return complain(tool, "name one --group and one --node");
    for (unsigned i = 0; i < tool->group_count; i++) {
        if (sl_cluster_find_group(tool->cluster, (uint32_t)tool->groups[i]) == NULL)
            return not_in_file(tool, "group", tool->groups[i]);
    }
    if (tool->node != 0 && index_of(tool, (uint32_t)tool->node) == UINT32_MAX)
        return not_in_file(tool, "node", tool->node);
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
                                   one ? 1 : SL_COUNT_OF(tool->groups),
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
