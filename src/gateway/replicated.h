/*
 * Replicated groups as one reactor of the gateway sees them: who leads, the session, calls. Private
 * to src/gateway.
 *
 *   sl_replicated_execute_co ── sl_session_begin_co ── sl_group_call_co ── sl_leader_acquire_co
 *    (replicated.c)              (session.c)            (replicated.c)      (leader.c)
 */
#ifndef SL_GATEWAY_REPLICATED_H
#define SL_GATEWAY_REPLICATED_H

#include "gateway/private.h"
#include "meta/cluster.h"

/*
 * A session numbers the writes of this reactor in one group, so that each applies at most once,
 * however often it is sent. It is opened before the first write and closed at the end.
 */
struct group_session {
    uint64_t id; /* random; 0 = none was chosen yet */
    bool is_open;
    bool opening;
    uint64_t next;   /* number of the next write */
    uint64_t lowest; /* the lowest whose outcome is not known; `next` if there is none */
    uint64_t finished[SL_GROUP_WINDOW / 64]; /* bit n mod 256: n is finished, though above lowest */
    struct sl_wait_queue changed;            /* opened, or the window moved */
};

struct replicated_group {
    struct sl_gateway *gateway;
    const struct sl_cluster_group *config;
    /* Who leads, as far as is known: server and its reactor. */
    bool leader_known;
    unsigned leader_server, leader_reactor;
    uint64_t term; /* the highest that was heard of */
    /* While nobody is known to lead, one request at a time looks for him; the others wait. */
    bool scouted;
    unsigned turn; /* which member is asked next */
    /* Reads of any replica: whose turn it is, and until when a member is passed over. */
    unsigned read_turn;
    uint64_t avoid_ns[SL_CLUSTER_REPLICAS_MAX];
    struct sl_wait_queue changed;
    struct group_session session;
};

/* A number that a write has taken. */
struct ticket {
    uint64_t session, sequence;
};

/* leader.c */

/* A request's way to the leader; starts as zero. */
struct visit {
    struct route *route;
    bool is_scout;
};
/* The open route to ask next. -SL_E_UNREACHABLE at `deadline_ns`, -ECANCELED. */
int sl_leader_acquire_co(struct replicated_group *group, uint64_t deadline_ns, struct visit *visit);
/* What the answer (`error` is its status, or the connection's death; then `reply` is not looked at)
 * says about who leads. */
void sl_leader_learn(struct replicated_group *group, struct visit *visit, int error,
                     const union sl_capsule *reply);
/* The request goes no further. */
void sl_leader_leave(struct replicated_group *group, struct visit *visit);

/* An open route to the member whose turn it is to serve a read, and which one that is; NULL: none
 * can. */
struct route *sl_leader_any(struct replicated_group *group, unsigned *member);

/* session.c */

/* Takes the next number; opens the session before, waits for the window. -ETIMEDOUT,
 * -SL_E_UNREACHABLE, -ENOSPC (the group has no room for a session), -ECANCELED. */
int sl_session_begin_co(struct replicated_group *group, uint64_t deadline_ns,
                        struct ticket *ticket);
/* Its outcome is known: it has applied, or never will. */
void sl_session_end(struct replicated_group *group, const struct ticket *ticket);
/* The group knows no such session any more; the next write opens another. */
void sl_session_lost(struct replicated_group *group, uint64_t session);
/* How many numbers `ticket` is above the lowest unfinished one. */
uint16_t sl_session_unfinished(const struct replicated_group *group, const struct ticket *ticket);
void sl_session_close_co(struct replicated_group *group, uint64_t deadline_ns);

/* replicated.c */

/* One operation on a group, sent until it is answered. */
struct group_call {
    uint8_t opcode;                  /* enum sl_io_opcode, sl_group_opcode */
    uint8_t flags;                   /* enum sl_group_flag */
    uint32_t volume;                 /* 0 = none */
    uint64_t epoch;                  /* of the volume */
    struct ticket ticket;            /* zero: none */
    const struct fragment *fragment; /* NULL: no offset, no payload */
    uint64_t deadline_ns;            /* UINT64_MAX: until it is answered */
    unsigned sent_count;             /* set: attempts that may have reached a target */
    uint64_t reply_epoch;            /* set by -SL_E_FENCED: the one in force */
};
/* 0 or what the group decided; -SL_E_UNREACHABLE or -ETIMEDOUT after `deadline_ns`, -ECANCELED:
 * then what was sent may still be decided later. */
int sl_group_call_co(struct replicated_group *group, struct group_call *call);

#endif
