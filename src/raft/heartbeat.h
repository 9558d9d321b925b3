/*
 * One heartbeat for all groups between two nodes. An idle group costs no message: its leader has
 * told the follower that the heartbeat of their nodes covers it from now on, and both keep the sum
 * of a 128-bit hash of (group, term, leader, follower) over the groups that are covered. A beat
 * carries the leader's sum; a receiver whose own sum is another one was not renewed, and says so.
 * So a beat names every group's term without listing it, and never renews one that has moved on.
 * What stays unequal for BEATS_UNEQUAL_MAX beats starts anew: no group is covered until its leader
 * says so again.
 *
 * One table a reactor, shared by its groups; a link to each other node (or reactor of one). Plain
 * memory, single-threaded; must outlive the groups that were given it.
 */
#ifndef SL_RAFT_HEARTBEAT_H
#define SL_RAFT_HEARTBEAT_H

#include "core/base.h"

struct sl_raft_links;

struct sl_raft_beat {
    uint64_t epoch; /* of the sender's set; random at first, another one whenever it starts anew */
    uint64_t sent_ns; /* the sender's clock; echoed */
    uint64_t sum[2];
    uint32_t count; /* groups in it */
};

struct sl_raft_beat_answer {
    uint64_t epoch;
    uint64_t sent_ns;
    bool equal; /* whether the receiver's sum was the same */
};

/* Bytes of memory for links to `capacity` other nodes. */
size_t sl_raft_links_bytes(unsigned capacity);
/* `memory` is aligned to 8 and stays the caller's; `seed` is random and another one each start. */
struct sl_raft_links *sl_raft_links_init(void *memory, unsigned capacity, uint64_t seed);

/* Whether groups may be covered by a beat to or from `node`: yes, until it is said. Both ends must
 * say the same, before the first message. True: some were and are no longer, so every group here
 * must get a TICK now. */
bool sl_raft_links_allow(struct sl_raft_links *links, uint32_t node, bool allowed);
/* Whether a beat to `node` is needed: 0 if we lead no group that one covers there, else their
 * number. Called each heartbeat interval; fills `beat`. */
unsigned sl_raft_links_beat(struct sl_raft_links *links, uint32_t node, uint64_t now_ns,
                            struct sl_raft_beat *beat);
/* A beat came from `node`; `answer` goes back to it. `beat` is a peer's: anything may be in it. */
void sl_raft_links_receive(struct sl_raft_links *links, uint32_t node, uint64_t now_ns,
                           const struct sl_raft_beat *beat, struct sl_raft_beat_answer *answer);
/* An answer came from `node`. True: the set started anew, so every group here that has a member
 * there must get a TICK now (each then speaks for itself until it is covered again). */
bool sl_raft_links_answered(struct sl_raft_links *links, uint32_t node, uint64_t now_ns,
                            const struct sl_raft_beat_answer *answer);

#endif
