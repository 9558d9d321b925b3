/* What the files of the core share. One `struct sl_raft` is one group's whole state. */
#ifndef SL_RAFT_PRIVATE_H
#define SL_RAFT_PRIVATE_H

#include "raft/raft.h"
#include "raft/rule.h"

enum {
    /* Buckets of entries whose bytes are known together, for flow control. */
    MARKS_MAX = 12,
    MARK_ENTRIES = 64,
    /* Appends to one follower in one step; its answers ask for the rest. With it all sends to
     * SL_RAFT_MEMBERS_MAX - 1 others, and what else a step does, fit SL_RAFT_ACTIONS_MAX. */
    APPENDS_A_STEP = 4,
    /* Of the actions, those kept for what may not be dropped (a message may). */
    ACTIONS_RESERVED = 16,
    BEATS_UNEQUAL_MAX = 3,
};

struct run {
    struct sl_index first;
    struct sl_term term;
};

struct mark {
    uint64_t count, bytes;
};

/* Terms of the entries behind `boundary`, as runs; the bytes of the newest, roughly. log.c */
struct log {
    struct sl_index boundary, last, durable;
    struct sl_term boundary_term;
    uint64_t ticket;       /* of the newest WRITE */
    uint64_t ticket_done;  /* durable up to that one */
    uint64_t ticket_fresh; /* WRITEs before it count only below stale_limit: truncated since */
    struct sl_index stale_limit;
    uint64_t entry_bytes_most;
    uint32_t run_count, run_capacity, mark_count;
    struct run *runs;             /* behind the group's struct */
    struct mark marks[MARKS_MAX]; /* oldest first; the last ends at `last` */
};

enum progress_state {
    PROBE,     /* one message at a time until the logs are known to meet */
    REPLICATE, /* pipelined: `next` runs ahead of `match` */
    RESYNC,    /* needs what is gone from the log, or is copying: only heartbeats */
};

/* What a leader knows of a member. One a slot of the configuration in force; leader.c */
struct progress {
    uint64_t id;
    struct sl_index match; /* durable there and the same as here */
    struct sl_index next;
    struct sl_index commit; /* that it told us */
    uint64_t acked_round;   /* of what it acknowledged the newest */
    uint64_t acked_sent_ns; /* when we sent that; 0 = nothing yet */
    uint64_t sent_ns;       /* when we last sent an append */
    uint64_t covered_ns;    /* covered by the shared heartbeat since */
    uint64_t covered_epoch; /* in this epoch of the link's; 0 = not */
    uint64_t resync_ns;     /* asked for a resync then, or it ended then */
    struct sl_raft_link *link;
    uint8_t state; /* enum progress_state */
    bool paused;   /* a probe is under way */
};

struct sl_raft_link {
    uint32_t node;
    bool refused; /* never covers anything */
    uint32_t lead_count, follow_count;
    uint32_t unequal;
    uint64_t lead_epoch, lead_sum[2];
    uint64_t acked_sent_ns; /* when the newest beat was sent that was answered as equal */
    uint64_t follow_epoch, follow_sum[2];
    uint64_t follow_generation; /* one up whenever the set starts anew: never comes back */
    uint64_t heard_ns;          /* when the last equal beat came */
};

struct sl_raft {
    const struct sl_raft_tuning *tuning;
    struct sl_raft_links *links;
    struct sl_raft_output *output; /* during a step */
    uint64_t group;
    uint64_t now_ns;
    uint64_t random;
    struct sl_raft_replica self;
    uint8_t role; /* enum sl_raft_role */
    bool copying;
    bool transfer_campaign; /* the candidate was told to by TimeoutNow */
    bool vote_due;          /* the voter is answered once the vote is durable */
    bool answer_due;        /* an append was accepted while term and vote were saved */
    bool reject_due;        /* or refused: then the one behind reject_index */
    struct sl_index reject_index;

    /* Durable, or on the way: §5.1 */
    struct sl_term term;
    struct sl_raft_replica vote;
    uint64_t save_ticket, saved_ticket;

    struct log log;
    struct sl_index commit;
    struct sl_index copying_index; /* of the state that is being copied: committed, too */
    struct sl_index promised;      /* the log's end before damage cut it short; 0 = it is whole */
    struct sl_term promised_term;
    /* [0] in force, [1] the one before, for when [0] is truncated. All others are committed. */
    struct sl_raft_config configs[2];

    /* Follower */
    struct sl_raft_replica leader;
    struct sl_index verified; /* the log up to here is this leader's */
    uint64_t contact_ns;      /* heard a leader then; 0 = never. Real votes are refused after it */
    uint64_t timer_ns;        /* the election time-out runs from here */
    uint64_t jitter_ns;
    uint64_t quiet_ns; /* no vote before: a lease may stand that was granted before a restart */
    uint64_t echo_round, echo_sent_ns;
    struct sl_raft_link *leader_link;
    uint64_t covered_generation; /* of leader_link; 0 = not covered by its heartbeat */

    /* Candidate: bits are slots of configs[0] */
    uint32_t votes;

    /* Leader */
    struct sl_index noop;
    uint64_t since_ns, beat_ns;
    uint64_t round, confirmed_round;
    bool round_wanted;
    bool lease_given_up; /* for the rest of the term */
    bool transfer_sent;
    uint64_t transfer_id, transfer_ns;
    struct progress progress[SL_RAFT_MEMBERS_MAX];
};

/* log.c: pure arithmetic over the runs */
struct sl_term sl_raft_log_term(const struct log *log, struct sl_index index);
struct sl_term sl_raft_log_last_term(const struct log *log);
/* The first index of the run that holds `index`; the boundary if it is not behind it. */
struct sl_index sl_raft_log_run_first(const struct log *log, struct sl_index index);
/* The last index of the run that holds `index`. */
struct sl_index sl_raft_log_run_last(const struct log *log, struct sl_index index);
/* The last entry whose term is at most `term`. */
struct sl_index sl_raft_log_last_of(const struct log *log, struct sl_term term);
/* Whether `count` entries of `term` can be appended; forgets committed terms to make room. */
bool sl_raft_log_make_room(struct log *log, struct sl_term term, struct sl_index commit);
void sl_raft_log_append(struct log *log, uint64_t count, struct sl_term term, uint64_t bytes);
void sl_raft_log_truncate(struct log *log, struct sl_index first);
void sl_raft_log_compact(struct log *log, struct sl_index boundary);
void sl_raft_log_reset(struct log *log, struct sl_index boundary, struct sl_term term);
/* Bytes of entries [first, last], estimated by the mean of their buckets. */
uint64_t sl_raft_log_bytes(const struct log *log, struct sl_index first, struct sl_index last);
/* Whether a log that ends with `end` is as complete as one that ends with (term, index): §5.4.1. */
bool sl_raft_reaches(const struct log *log, struct sl_index end, struct sl_term term,
                     struct sl_index index);
/* A WRITE is durable; moves `durable`. */
void sl_raft_log_written(struct log *log, uint64_t ticket, struct sl_index last);

/* raft.c */
struct sl_raft_action *sl_raft_emit(struct sl_raft *raft, enum sl_raft_action_kind kind);
bool sl_raft_make_room(struct sl_raft *raft, struct sl_term term);
void sl_raft_complain(struct sl_raft *raft, const char *text);
void sl_raft_send(struct sl_raft *raft, uint64_t id, uint32_t node,
                  struct sl_raft_message *message);
void sl_raft_answer(struct sl_raft *raft, const struct sl_raft_message *to,
                    struct sl_raft_message *message);
void sl_raft_save(struct sl_raft *raft);
void sl_raft_restart_timer(struct sl_raft *raft);
void sl_raft_become_follower(struct sl_raft *raft, struct sl_term term,
                             struct sl_raft_replica leader);
void sl_raft_announce(struct sl_raft *raft);
void sl_raft_write(struct sl_raft *raft, enum sl_raft_entry_kind kind, uint64_t count,
                   uint64_t bytes, struct sl_term term, const struct sl_raft_config *config);
void sl_raft_set_commit(struct sl_raft *raft, struct sl_index commit);
void sl_raft_push_config(struct sl_raft *raft, const struct sl_raft_config *config);
int sl_raft_slot(const struct sl_raft *raft, struct sl_raft_replica replica);
static inline unsigned sl_raft_majority(const struct sl_raft *raft)
{
    return sl_raft_config_voter_count(&raft->configs[0]) / 2 + 1;
}

/* election.c */
uint64_t sl_raft_heard_ns(const struct sl_raft *raft);
bool sl_raft_may_campaign(const struct sl_raft *raft);
bool sl_raft_refuses(struct sl_raft *raft, const struct sl_raft_message *message);
uint64_t sl_raft_election_ns(const struct sl_raft *raft);
void sl_raft_election_tick(struct sl_raft *raft);
void sl_raft_campaign(struct sl_raft *raft, bool transfer);
void sl_raft_on_vote(struct sl_raft *raft, const struct sl_raft_message *message);
void sl_raft_on_vote_answer(struct sl_raft *raft, const struct sl_raft_message *message);
void sl_raft_on_saved(struct sl_raft *raft, uint64_t ticket);

/* follower.c */
void sl_raft_check_mended(struct sl_raft *raft);
void sl_raft_on_append(struct sl_raft *raft, const struct sl_raft_event *event);
void sl_raft_acknowledge(struct sl_raft *raft);
void sl_raft_reject(struct sl_raft *raft, struct sl_index previous);

/* leader.c */
void sl_raft_become_leader(struct sl_raft *raft);
void sl_raft_on_append_answer(struct sl_raft *raft, const struct sl_raft_message *message);
void sl_raft_leader_tick(struct sl_raft *raft);
uint64_t sl_raft_leader_deadline(const struct sl_raft *raft);
void sl_raft_advance_commit(struct sl_raft *raft);
void sl_raft_config_changed(struct sl_raft *raft);
void sl_raft_replicate(struct sl_raft *raft, unsigned slot, bool beat);
void sl_raft_replicate_all(struct sl_raft *raft, bool beat);
int sl_raft_on_propose(struct sl_raft *raft, uint32_t count, uint64_t bytes);
int sl_raft_on_read(struct sl_raft *raft);

/* change.c: membership, transfer, compaction, resync */
int sl_raft_on_change(struct sl_raft *raft, const struct sl_raft_event *event);
int sl_raft_on_transfer(struct sl_raft *raft, uint64_t id);
void sl_raft_transfer_step(struct sl_raft *raft);
void sl_raft_on_timeout_now(struct sl_raft *raft, const struct sl_raft_message *message);
int sl_raft_on_compacted(struct sl_raft *raft, struct sl_index index);
int sl_raft_on_copying(struct sl_raft *raft, const struct sl_raft_event *event);
int sl_raft_on_copied(struct sl_raft *raft, const struct sl_raft_event *event);

/* heartbeat.c */
struct sl_raft_link *sl_raft_links_get(struct sl_raft_links *links, uint32_t node);
void sl_raft_cover(struct sl_raft *raft, struct progress *progress, uint32_t node);
void sl_raft_uncover(struct sl_raft *raft, struct progress *progress);
bool sl_raft_is_covered(const struct progress *progress);
void sl_raft_join_cover(struct sl_raft *raft, uint64_t epoch);
void sl_raft_leave_cover(struct sl_raft *raft);

#endif
