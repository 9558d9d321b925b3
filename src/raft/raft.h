/*
 * One Raft group on one node, as a pure state machine: events in, actions out. It does no I/O, asks
 * no clock, allocates nothing and never waits; it holds indexes and terms, no payload. Same events,
 * same actions. "§" is the Raft paper (Ongaro, Ousterhout: In Search of an Understandable Consensus
 * Algorithm, extended), "thesis" Ongaro's (Consensus: Bridging Theory and Practice).
 *
 *                 time-out          majority would vote      majority votes
 *   FOLLOWER ───────────────► PRE_CANDIDATE ──────────► CANDIDATE ──────────► LEADER
 *      ▲  │                        │                        │                    │
 *      │  └── TimeoutNow ─────────┼───────────────────────►│                    │
 *      └── higher term, a leader of this term ◄─────────────┴── no majority heard┘
 *   any ── a write failed ──► STOPPED (until restart)
 *
 * Whoever drives it does the actions in order. A SAVE or WRITE may take its time; the machine sends
 * nothing that depends on one before its event has come. Single-threaded: a group belongs to one
 * reactor.
 */
#ifndef SL_RAFT_RAFT_H
#define SL_RAFT_RAFT_H

#include "raft/event.h"
#include "raft/heartbeat.h"

struct sl_raft;

/* Shared by many groups; borrowed for their life. */
struct sl_raft_tuning {
    uint64_t election_ns;  /* T, up to 1,000 s: a follower campaigns after T to 2 T of silence */
    uint64_t heartbeat_ns; /* at most T / 3 */
    uint32_t drift_ppm;    /* clocks run at a rate wrong by at most that; 1,000,000: they may do
                              anything, and no read is served by lease */
    uint32_t append_entries;
    uint64_t append_bytes; /* of one message's payload; what sends may split it once more */
    uint32_t window_entries;
    uint64_t window_bytes; /* sent to a follower and not acknowledged */
    uint32_t uncommitted_entries;
    uint64_t uncommitted_bytes; /* proposals beyond it wait */
    uint32_t promote_lag;       /* a learner this many entries behind may become a voter */
};

/* Entries of one term that follow each other. */
struct sl_raft_span {
    uint64_t count;
    struct sl_term term;
    uint64_t bytes;
};

struct sl_raft_setup {
    uint64_t group;
    struct sl_raft_replica self;
    const struct sl_raft_tuning *tuning;
    struct sl_raft_links *links; /* NULL: the group sends its own heartbeats */
    uint64_t seed;               /* random: spreads election time-outs */
    uint64_t now_ns;
    /* What was durable. A new group's members start with one configuration at boundary 0, equal
     * on all; a replica that is to be added starts with none (count 0) and waits to be told. */
    struct sl_term term;
    struct sl_raft_replica vote;
    struct sl_index commit;  /* what of the log is known to be committed, as far as it reaches */
    struct sl_index copying; /* the mark of an unfinished resync: its index; 0 = there is none */
    struct sl_index boundary;
    struct sl_term boundary_term;        /* of the last entry that is gone */
    const struct sl_raft_config *config; /* as of the boundary */
    const struct sl_raft_span *spans;    /* the log behind the boundary, oldest first */
    unsigned span_count;
    const struct sl_raft_config *configs; /* those in that log, oldest first */
    unsigned config_count;
    /* Set if damage was found among the entries: the log described above ends before it, and this
     * is the last entry that there was. The driver keeps it durable from before the log is cut
     * until DO_MENDED. Index 0, or an entry that the log has come to again: nothing is missing. */
    struct sl_index promised;
    struct sl_term promised_term;
};

/* Terms in the log that a group tells apart, unless more are asked for: 16 bytes each. One more
 * than fits forgets the oldest committed one, as if it were compacted; if none is, more room is
 * needed: two dozen leaders in a row that could commit nothing. */
enum { SL_RAFT_TERMS = 24 };
/* Bytes of memory for one group with room for `terms` terms, 2 or more; at a start at least one
 * more than spans. */
size_t sl_raft_bytes(unsigned terms);
/*
 * `memory` (sl_raft_bytes(terms), aligned to 8) is the caller's and holds the group from now on;
 * there is nothing to release. Everything in `setup` but tuning and links is copied. -EINVAL if the
 * durable state contradicts itself, with a sentence in *why; nothing is asserted of it.
 */
int sl_raft_init(void *memory, unsigned terms, const struct sl_raft_setup *setup,
                 struct sl_raft **raft, const char **why);

/*
 * Room for `terms` terms in all, in answer to DO_GROW: `memory` (16 bytes each, aligned to 8) is
 * used from now on and stays the caller's. Answers what was given before, to be freed; NULL the
 * first time. Until there is room the group takes no entries of a newer term, and does not
 * campaign.
 */
void *sl_raft_grow(struct sl_raft *raft, void *memory, unsigned terms);

/*
 * One step. `output` is overwritten. Of a message nothing is taken on trust; what contradicts the
 * protocol is dropped, with a COMPLAIN. PROPOSE, CHANGE, TRANSFER and READ answer 0, or: SL_E_MOVED
 * (not the leader: sl_raft_status says who is), -EAGAIN (later: too much uncommitted, a transfer or
 * a change under way, the term's first entry not committed yet), -EINVAL, -ENOENT, -EEXIST, -ENOSPC
 * or -EPERM (CHANGE and TRANSFER, see sl_raft_config_change). All events: -EIO once STOPPED.
 */
int sl_raft_step(struct sl_raft *raft, const struct sl_raft_event *event,
                 struct sl_raft_output *output);
/* When the next TICK is due on this node's clock; UINT64_MAX: none is. Changes with each step, and
 * moves back when sl_raft_links_answered() says so; a shared heartbeat only moves it on. */
uint64_t sl_raft_deadline(const struct sl_raft *raft);

struct sl_raft_status {
    enum sl_raft_role role;
    struct sl_term term;
    struct sl_raft_replica leader; /* id 0: not known */
    struct sl_index boundary, last, durable, commit;
    bool copying;
    bool mending; /* entries that it acknowledged are still missing: setup.promised */
    bool serving; /* a leader with an entry of its term committed */
};
void sl_raft_get_status(const struct sl_raft *raft, struct sl_raft_status *status);
/* Whether a read that arrives now may be served from this leader without a round (thesis 6.4.1). */
bool sl_raft_has_lease(const struct sl_raft *raft, uint64_t now_ns);
/* The configuration in force: the newest in the log, committed or not; good until the next step.
 * (A snapshot's is another one: that of the last configuration entry which it has applied.) */
const struct sl_raft_config *sl_raft_get_config(const struct sl_raft *raft);
/* Up to where member `id` is known to have the log durably: a leader knows it, of its own log
 * anybody; 0: not known. */
struct sl_index sl_raft_match(const struct sl_raft *raft, uint64_t id);
/* The term of an entry from boundary to last; 0 outside. */
struct sl_term sl_raft_term_at(const struct sl_raft *raft, struct sl_index index);
/* The answer to a message for a replica that is not here; `message` is a peer's. */
void sl_raft_answer_stranger(const struct sl_raft_message *message, struct sl_raft_message *answer);

#endif
