/* Configurations as values: search, soundness, one change at a time (thesis 4.1). No state. */
#include "core/error.h"
#include "raft/member.h"

int sl_raft_config_find(const struct sl_raft_config *config, uint64_t id)
{
    for (unsigned slot = 0; slot < config->count; slot++) {
        if (config->members[slot].id == id)
            return (int)slot;
    }
    return -1;
}

bool sl_raft_config_is_voter(const struct sl_raft_config *config, uint64_t id)
{
    int slot = sl_raft_config_find(config, id);
    return slot >= 0 && config->members[slot].kind == SL_RAFT_VOTER;
}

unsigned sl_raft_config_voter_count(const struct sl_raft_config *config)
{
    unsigned count = 0;
    for (unsigned slot = 0; slot < config->count; slot++)
        count += config->members[slot].kind == SL_RAFT_VOTER;
    return count;
}

bool sl_raft_config_is_sound(const struct sl_raft_config *config)
{
    if (config->count > SL_RAFT_MEMBERS_MAX)
        return false;
    for (unsigned slot = 0; slot < config->count; slot++) {
        const struct sl_raft_member *member = &config->members[slot];
        if (member->id == 0 || (member->kind != SL_RAFT_VOTER && member->kind != SL_RAFT_LEARNER))
            return false;
        for (unsigned other = 0; other < slot; other++) {
            if (config->members[other].id == member->id ||
                config->members[other].node == member->node)
                return false;
        }
    }
    return true;
}

static int add(struct sl_raft_config *config, struct sl_raft_replica replica)
{
    for (unsigned slot = 0; slot < config->count; slot++) {
        if (config->members[slot].id == replica.id || config->members[slot].node == replica.node)
            return -EEXIST;
    }
    if (config->count == SL_RAFT_MEMBERS_MAX)
        return -ENOSPC;
    config->members[config->count++] =
        (struct sl_raft_member){replica.id, replica.node, SL_RAFT_LEARNER};
    return 0;
}

int sl_raft_config_change(const struct sl_raft_config *before, enum sl_raft_change change,
                          struct sl_raft_replica replica, struct sl_raft_config *after)
{
    *after = *before;
    after->index = sl_index_of(0);
    if (replica.id == 0)
        return -EINVAL;
    if (change == SL_RAFT_ADD_LEARNER)
        return add(after, replica);
    int slot = sl_raft_config_find(before, replica.id);
    if (slot < 0)
        return -ENOENT;
    struct sl_raft_member *member = &after->members[slot];
    bool last_voter = member->kind == SL_RAFT_VOTER && sl_raft_config_voter_count(before) == 1;
    switch (change) {
    case SL_RAFT_PROMOTE:
        if (member->kind == SL_RAFT_VOTER)
            return -EEXIST;
        member->kind = SL_RAFT_VOTER;
        return 0;
    case SL_RAFT_DEMOTE:
        if (member->kind == SL_RAFT_LEARNER)
            return -EEXIST;
        if (last_voter)
            return -EPERM;
        member->kind = SL_RAFT_LEARNER;
        return 0;
    case SL_RAFT_REMOVE:
        if (last_voter)
            return -EPERM;
        *member = after->members[--after->count];
        after->members[after->count] = (struct sl_raft_member){0};
        return 0;
    default:
        return -EINVAL;
    }
}
