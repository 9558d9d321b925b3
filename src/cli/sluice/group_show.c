/* `sluice group status`: every replica of every group, as each node tells it; a table, or JSON. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/sluice/group.h"
#include "core/error.h"

/* By what its leader says, if somebody leads: who was taken out need not have heard of it. */
static bool is_removed(const struct sl_capsule_group_status *s,
                       const struct sl_capsule_group_status *leader)
{
    for (unsigned i = 0; leader != NULL && i < leader->member_count; i++) {
        if (i < SL_GROUP_MEMBERS_MAX && leader->members[i].replica == s->reply.replica)
            return false;
    }
    return leader != NULL && leader->reply.term >= s->reply.term;
}

static const char *role_name(const struct sl_capsule_group_status *s,
                             const struct sl_capsule_group_status *leader)
{
    static const char *const names[] = {"?", "follower", "candidate", "leader", "stopped"};
    if (is_removed(s, leader))
        return "no member";
    if ((s->flags & SL_GROUP_COPYING) != 0)
        return "copying";
    return s->role < SL_COUNT_OF(names) ? names[s->role] : names[0];
}

static const char *kind_name(const struct sl_group_member *member)
{
    return member->kind == SL_GROUP_LEARNER ? "learner" : "voter";
}

static unsigned member_count(const struct sl_capsule_group_status *s)
{
    return sl_min((unsigned)s->member_count, SL_GROUP_MEMBERS_MAX);
}

static void print_row(uint32_t group, const struct sl_cluster_node *node, int error,
                      const struct sl_capsule_group_status *s,
                      const struct sl_capsule_group_status *leader)
{
    printf("%-7u %-6u ", group, node->id);
    if (error < 0) {
        printf("%s (%s)\n",
               error == -ENOENT  ? "the disk has no replica of it"
               : error == -EXDEV ? "a node of another cluster, or of none, is at its address"
                                 : sl_error_text(error),
               sl_error_name(error));
        return;
    }
    printf("%-10s %-7llu %-12llu %-12llu %-12llu ", role_name(s, leader),
           (unsigned long long)s->reply.term, (unsigned long long)s->commit,
           (unsigned long long)s->applied, (unsigned long long)s->last);
    for (unsigned i = 0; i < member_count(s); i++) {
        printf("%s%u", i > 0 ? " " : "", s->members[i].node);
        if (s->members[i].kind == SL_GROUP_LEARNER)
            printf("(learner)");
        if (s->role == SL_GROUP_LEADER && s->lags[i] != SL_GROUP_LAG_UNKNOWN && s->lags[i] > 0)
            printf("-%u", s->lags[i]);
    }
    if (s->differences > 0)
        printf(" %u blocks differed", s->differences);
    printf("\n");
}

static json_t *json_replica(const struct sl_cluster_node *node, int error,
                            const struct sl_capsule_group_status *s,
                            const struct sl_capsule_group_status *leader)
{
    if (error < 0)
        return json_pack("{s:I, s:s}", "node", (json_int_t)node->id, "error", sl_error_name(error));
    json_t *members = json_array();
    for (unsigned i = 0; i < member_count(s); i++) {
        json_t *member =
            json_pack("{s:I, s:o, s:s}", "node", (json_int_t)s->members[i].node, "replica",
                      json_sprintf("%016llx", (unsigned long long)s->members[i].replica), "kind",
                      kind_name(&s->members[i]));
        if (s->lags[i] != SL_GROUP_LAG_UNKNOWN)
            json_object_set_new(member, "lag", json_integer(s->lags[i]));
        json_array_append_new(members, member);
    }
    return json_pack("{s:I, s:o, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "node",
                     (json_int_t)node->id, "replica",
                     json_sprintf("%016llx", (unsigned long long)s->reply.replica), "role",
                     role_name(s, leader), "serving", (s->flags & SL_GROUP_SERVING) != 0, "term",
                     (json_int_t)s->reply.term, "boundary", (json_int_t)s->boundary, "last",
                     (json_int_t)s->last, "commit", (json_int_t)s->commit, "applied",
                     (json_int_t)s->applied, "size", (json_int_t)s->size_bytes, "differences",
                     (json_int_t)s->differences, "members", members);
}

static bool is_first_member(const struct sl_cluster_group *group, uint32_t node)
{
    for (unsigned i = 0; i < group->replica_count; i++) {
        if (group->replicas[i].node == node)
            return true;
    }
    return false;
}

struct answers {
    int errors[SL_CLUSTER_NODES_MAX];
    struct sl_capsule_group_status views[SL_CLUSTER_NODES_MAX];
};

/* All nodes are asked: a group may have moved. The view of who leads it, or NULL. */
static const struct sl_capsule_group_status *
ask_all_co(struct group_tool *tool, const struct sl_cluster_group *group, struct answers *answers)
{
    const struct sl_group_admin admin = {.op = SL_GROUP_STATUS, .group = group->id};
    const struct sl_capsule_group_status *leader = NULL;
    for (unsigned i = 0; i < tool->cluster->node_count; i++) {
        struct sl_capsule_group_status *view = &answers->views[i];
        int error = group_ask_co(tool, i, &admin, view);
        if (error == 0 && view->reply.header.length_bytes < sizeof(*view))
            error = -SL_E_PROTOCOL;
        if (error == 0 && (view->flags & SL_GROUP_SERVING) != 0 &&
            (leader == NULL || view->reply.term > leader->reply.term))
            leader = view;
        answers->errors[i] = error;
    }
    return leader;
}

/* Answers whether a leader serves it. */
static bool show_group_co(struct group_tool *tool, const struct sl_cluster_group *group,
                          json_t *list)
{
    json_t *replicas = json_array();
    struct answers *answers = calloc(1, sizeof(*answers));
    if (answers == NULL)
        return false;
    const struct sl_capsule_group_status *leader = ask_all_co(tool, group, answers);
    bool serving = leader != NULL;
    for (unsigned i = 0; i < tool->cluster->node_count; i++) {
        const struct sl_cluster_node *node = &tool->cluster->nodes[i];
        int error = answers->errors[i];
        if (error == -ENOENT && !is_first_member(group, node->id))
            continue;
        if (tool->json)
            json_array_append_new(replicas, json_replica(node, error, &answers->views[i], leader));
        else
            print_row(group->id, node, error, &answers->views[i], leader);
    }
    free(answers);
    if (tool->json)
        json_array_append_new(list, json_pack("{s:I, s:b, s:o}", "group", (json_int_t)group->id,
                                              "serving", serving, "replicas", replicas));
    else
        json_decref(replicas);
    return serving;
}

int group_status_co(struct group_tool *tool)
{
    json_t *list = json_array();
    bool serving = true;
    if (!tool->json)
        printf("%-7s %-6s %-10s %-7s %-12s %-12s %-12s %s\n", "group", "node", "role", "term",
               "commit", "applied", "last", "members (-entries that they lack)");
    for (unsigned i = 0; i < tool->group_count; i++) {
        const struct sl_cluster_group *group =
            sl_cluster_find_group(tool->cluster, (uint32_t)tool->groups[i]);
        serving = show_group_co(tool, group, list) && serving;
    }
    for (unsigned i = 0; tool->group_count == 0 && i < tool->cluster->group_count; i++)
        serving = show_group_co(tool, &tool->cluster->groups[i], list) && serving;
    if (tool->json) {
        char *text = json_dumps(list, JSON_INDENT(2));
        printf("%s\n", text != NULL ? text : "");
        free(text);
    }
    json_decref(list);
    return serving ? 0 : 1;
}
