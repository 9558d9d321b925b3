/*
 * GROUP_ADMIN capsules, as they stand on the wire: docs/wire.md, "Group administration". They make
 * a replica, ask it how it is, and change who belongs to its group.
 *
 * A group is made by CREATE at each of its first members, with the same members and the replica id
 * of each; nobody else ever makes one up. To replace a lost disk: CREATE without members at the new
 * one (it knows nobody and waits to be told), then ADD_LEARNER at the leader, then PROMOTE.
 */
#ifndef SL_FABRIC_GROUP_ADMIN_H
#define SL_FABRIC_GROUP_ADMIN_H

#include "fabric/capsule.h"

/* SL_RAFT_MEMBERS_MAX, of a layer above. */
#define SL_GROUP_MEMBERS_MAX 7u

enum sl_group_admin_op {
    SL_GROUP_CREATE = 1,      /* anybody: this node's replica; EXISTS if the group is here */
    SL_GROUP_STATUS = 2,      /* anybody who has it */
    SL_GROUP_ADD_LEARNER = 3, /* this and what follows: the leader, else MOVED */
    SL_GROUP_PROMOTE = 4,     /* AGAIN: it has not caught up, or another change is under way */
    SL_GROUP_DEMOTE = 5,
    SL_GROUP_REMOVE = 6,
    SL_GROUP_TRANSFER = 7, /* lead the group from now on; answered when it was asked */
};

enum sl_group_member_kind { SL_GROUP_VOTER = 1, SL_GROUP_LEARNER = 2 };

struct sl_group_member {
    uint64_t replica; /* 0  id, random, not 0, never used again */
    uint32_t node;    /* 8 */
    uint32_t kind;    /* 12 enum sl_group_member_kind */
};
_Static_assert(sizeof(struct sl_group_member) == 16, "wire.md: group member");

struct sl_group_admin {
    uint8_t op;           /* 0  enum sl_group_admin_op */
    uint8_t member_count; /* 1  CREATE: 0 = waits to be added as a learner; else zero */
    uint16_t reserved1;   /* 2  zero */
    uint32_t group;       /* 4  1 or more */
    uint64_t size_bytes;  /* 8  CREATE: of its address space, whole chunks of 16 MiB; else zero */
    uint64_t replica;     /* 16 CREATE: this node's; changes: whom. STATUS: zero */
    uint32_t node;        /* 24 of `replica`: CREATE: must be the one that is asked; STATUS: zero */
    uint32_t reserved2;   /* 28 zero */
    struct sl_group_member members[SL_GROUP_MEMBERS_MAX]; /* 32 those beyond the count are zero */
};
_Static_assert(sizeof(struct sl_group_admin) == 144, "wire.md: group administration");
_Static_assert(offsetof(struct sl_group_admin, members) == 32, "wire.md: group administration");

struct sl_capsule_group_admin {
    struct sl_capsule_header header;
    struct sl_group_admin admin;
};
_Static_assert(sizeof(struct sl_capsule_group_admin) == 176, "wire.md: group administration");

enum sl_group_role {
    SL_GROUP_FOLLOWER = 1,
    SL_GROUP_CANDIDATE = 2,
    SL_GROUP_LEADER = 3,
    SL_GROUP_STOPPED = 4, /* a log write failed: until restart */
};
enum sl_group_status_flag {
    SL_GROUP_SERVING = 1, /* a leader whose first entry is committed */
    SL_GROUP_COPYING = 2, /* in a resync */
};
#define SL_GROUP_LAG_UNKNOWN UINT32_MAX

/* The answer to STATUS, 256 bytes; all other operations are answered by struct
 * sl_capsule_group_reply alone. */
struct sl_capsule_group_status {
    struct sl_capsule_group_reply reply;                  /* 0 */
    uint8_t role;                                         /* 64 enum sl_group_role */
    uint8_t flags;                                        /* 65 enum sl_group_status_flag */
    uint8_t member_count;                                 /* 66 */
    uint8_t reserved1[5];                                 /* 67 zero */
    uint64_t boundary;                                    /* 72 the log begins behind it */
    uint64_t last;                                        /* 80 */
    uint64_t commit;                                      /* 88 */
    uint64_t applied;                                     /* 96 */
    struct sl_group_member members[SL_GROUP_MEMBERS_MAX]; /* 104 */
    uint32_t lags[SL_GROUP_MEMBERS_MAX]; /* 216 entries that the member lacks, as its leader knows;
                                            SL_GROUP_LAG_UNKNOWN */
    uint32_t differences;                /* 244 blocks in which replicas differed, found here */
    uint64_t size_bytes;                 /* 248 of the group's address space; 0 = not known yet */
};
_Static_assert(sizeof(struct sl_capsule_group_status) == SL_CAPSULE_BYTES_MAX,
               "wire.md: group status");
_Static_assert(offsetof(struct sl_capsule_group_status, members) == 104, "wire.md: group status");
_Static_assert(offsetof(struct sl_capsule_group_status, lags) == 216, "wire.md: group status");

#endif
