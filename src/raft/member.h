/*
 * Who belongs to a group. A replica is (node, random id kept on its disk): a disk that was wiped
 * comes back under another id, so the memory of what the old one promised cannot be taken for its
 * own (DESIGN "Raft"). Plain values, owned by whoever holds them.
 */
#ifndef SL_RAFT_MEMBER_H
#define SL_RAFT_MEMBER_H

#include "core/position.h"

/* Five voters survive two losses; two more replicas can be learners that replace them. */
enum { SL_RAFT_MEMBERS_MAX = 7 };

struct sl_raft_replica {
    uint64_t id; /* random, never 0 and never used again; 0 = nobody */
    uint32_t node;
};

enum sl_raft_member_kind {
    SL_RAFT_VOTER = 1,
    SL_RAFT_LEARNER = 2, /* receives the log, does not count (thesis 4.2.1) */
};

struct sl_raft_member {
    uint64_t id;
    uint32_t node;
    uint32_t kind; /* enum sl_raft_member_kind */
};

/* A configuration holds from the moment it stands in the log, committed or not (thesis 4.1). */
struct sl_raft_config {
    struct sl_index index; /* of its log entry; of a group's first one, and of a snapshot's, its */
    uint32_t count;
    struct sl_raft_member members[SL_RAFT_MEMBERS_MAX];
};

enum sl_raft_change {
    SL_RAFT_ADD_LEARNER = 1,
    SL_RAFT_PROMOTE = 2, /* a learner that has caught up becomes a voter */
    SL_RAFT_DEMOTE = 3,  /* a voter becomes a learner */
    SL_RAFT_REMOVE = 4,
};

/* The slot of replica `id`, or -1. */
int sl_raft_config_find(const struct sl_raft_config *config, uint64_t id);
bool sl_raft_config_is_voter(const struct sl_raft_config *config, uint64_t id);
unsigned sl_raft_config_voter_count(const struct sl_raft_config *config);
/* Whether it can be one at all: 1 to SL_RAFT_MEMBERS_MAX members of known kind, ids and nodes not
 * twice. (No voter is allowed: a learner that was just created knows nobody.) */
bool sl_raft_config_is_sound(const struct sl_raft_config *config);
/*
 * `after` becomes `before` with one change made; its index is left 0. 0, or -EINVAL (a replica id
 * of 0, an unknown change), -EEXIST (node or replica is in it already), -ENOENT (it is not),
 * -ENOSPC (SL_RAFT_MEMBERS_MAX), -EPERM (the last voter). Thesis 4.1: one voter more or fewer.
 */
int sl_raft_config_change(const struct sl_raft_config *before, enum sl_raft_change change,
                          struct sl_raft_replica replica, struct sl_raft_config *after);

#endif
