/*
 * What goes into a group's state machine (events, messages among them) and what comes out of it
 * (actions). All are plain values: the machine neither keeps a pointer out of an event nor
 * allocates. Indexes and terms only: the payload of entries is the store's.
 */
#ifndef SL_RAFT_EVENT_H
#define SL_RAFT_EVENT_H

#include "raft/member.h"

enum sl_raft_message_kind {
    SL_RAFT_APPEND = 1,        /* AppendEntries (Raft §5.3); with count 0 a heartbeat */
    SL_RAFT_APPEND_ANSWER = 2, /* to it, or of a follower's own accord when its disk has written */
    SL_RAFT_VOTE = 3,          /* RequestVote (§5.2), pre-vote with PRE (thesis 9.6) */
    SL_RAFT_VOTE_ANSWER = 4,
    SL_RAFT_TIMEOUT_NOW = 5, /* leadership transfer (thesis 3.10) */
    SL_RAFT_NOT_MEMBER = 6,  /* to whoever writes to a replica id that is not (any more) here */
};

enum sl_raft_message_flag {
    SL_RAFT_FLAG_PRE = 1,      /* VOTE and its answer: pre-vote */
    SL_RAFT_FLAG_TRANSFER = 2, /* VOTE: the leader asked for it and has given up its lease */
    SL_RAFT_FLAG_GRANTED = 4,  /* VOTE_ANSWER */
    SL_RAFT_FLAG_REJECTED =
        8, /* APPEND_ANSWER: the entry before did not match, or the term is old */
    SL_RAFT_FLAG_COPYING = 16, /* APPEND_ANSWER: in the middle of a resync, takes no entries */
    SL_RAFT_FLAG_MENDING = 32, /* REJECTED: what it acknowledged from `hint` on is damaged there */
};

/* One message; what a field means depends on the kind. Entries of one APPEND are of one term. */
struct sl_raft_message {
    uint32_t kind;  /* enum sl_raft_message_kind */
    uint32_t flags; /* enum sl_raft_message_flag */
    struct sl_raft_replica from, to;
    struct sl_term term;
    struct sl_index index;     /* APPEND: of the entry before; its answer: durable up to, or, if
                                  rejected, the index that was; VOTE: of the last entry */
    struct sl_term index_term; /* APPEND: the term there; rejected: ours there; VOTE: of the last */
    struct sl_term entry_term; /* APPEND: of all its entries */
    uint32_t count;            /* APPEND: entries, from index + 1 on */
    struct sl_index hint;      /* APPEND_ANSWER: received up to; rejected: go on from here */
    struct sl_index commit;    /* APPEND; its answer: what the follower knows to be committed */
    uint64_t round;            /* APPEND: counts read-index rounds; echoed */
    uint64_t sent_ns;          /* APPEND: the sender's clock; echoed */
    uint64_t epoch; /* APPEND: from now on the nodes' shared heartbeat covers this group */
};

enum sl_raft_event_kind {
    SL_RAFT_TICK = 1,       /* time has passed: at sl_raft_deadline() at the latest */
    SL_RAFT_MESSAGE = 2,    /* one arrived */
    SL_RAFT_PROPOSE = 3,    /* entries to append, payload already with the store's owner */
    SL_RAFT_CHANGE = 4,     /* of the membership */
    SL_RAFT_TRANSFER = 5,   /* hand the leadership to replica `id` */
    SL_RAFT_READ = 6,       /* may a read be served? */
    SL_RAFT_SAVED = 7,      /* a SAVE is durable */
    SL_RAFT_WRITTEN = 8,    /* a WRITE is durable, and all before it */
    SL_RAFT_FAILED = 9,     /* a SAVE or a WRITE failed */
    SL_RAFT_COMPACTED = 10, /* the log up to an applied index is gone */
    SL_RAFT_COPYING = 11,   /* a resync is about to overwrite data here; the mark is durable. Once
                               more for each source that it is taken up from. Only COPIED ends it:
                               a state as old as this replica's own has to do, too. -EALREADY: it
                               does not begin, for the log has the state's entry */
    SL_RAFT_COPIED = 12,    /* the resync is complete and durable */
};

struct sl_raft_event {
    enum sl_raft_event_kind kind;
    uint64_t now_ns; /* this node's clock (CLOCK_BOOTTIME); never less than in the event before */
    union {
        struct {
            const struct sl_raft_message *message; /* borrowed for the call */
            const struct sl_raft_config *configs;  /* those among its entries, in order; borrowed */
            unsigned config_count;
            uint64_t bytes; /* of its entries, for flow control */
        } message;
        struct {
            uint32_t count; /* entries, 1 or more */
            uint64_t bytes; /* of all of them, for flow control */
        } propose;
        struct {
            enum sl_raft_change change;
            struct sl_raft_replica replica;
        } change;
        struct {
            uint64_t id;
        } transfer;
        struct {
            uint64_t ticket;      /* of the SAVE or WRITE; the store answers each kind in order */
            struct sl_index last; /* WRITTEN: as the WRITE had it */
        } done;
        struct {
            struct sl_index index;
        } compacted;
        struct {
            struct sl_term term;       /* of the leader that the state comes from */
            struct sl_index index;     /* of the state; the mark holds it, too */
            struct sl_term index_term; /* of the entry there */
        } copying;
        struct {
            struct sl_index index;               /* S: the log now begins behind it */
            struct sl_term term;                 /* of the entry there */
            const struct sl_raft_config *config; /* as of S; borrowed */
        } copied;
    };
};

enum sl_raft_role {
    SL_RAFT_FOLLOWER = 1,
    SL_RAFT_PRE_CANDIDATE = 2,
    SL_RAFT_CANDIDATE = 3,
    SL_RAFT_LEADER = 4,
    SL_RAFT_STOPPED = 5, /* a log write failed: silent until restart */
};

enum sl_raft_entry_kind {
    SL_RAFT_ENTRY_DATA = 1,
    SL_RAFT_ENTRY_NOOP = 2, /* a new leader's first (§8) */
    SL_RAFT_ENTRY_CONFIG = 3,
};

enum sl_raft_action_kind {
    SL_RAFT_DO_SAVE = 1,      /* make term and vote durable, then SAVED */
    SL_RAFT_DO_TRUNCATE = 2,  /* drop the entries from `first` on; before the WRITE that follows */
    SL_RAFT_DO_WRITE = 3,     /* make entries [first, last] durable, then WRITTEN */
    SL_RAFT_DO_SEND = 4,      /* an APPEND's entries are read from the store */
    SL_RAFT_DO_COMMIT = 5,    /* all up to `last` are committed */
    SL_RAFT_DO_ROLE = 6,      /* role, term or leader have changed; reads in flight have failed */
    SL_RAFT_DO_READ = 7,      /* the reads of every round up to `round` may be served */
    SL_RAFT_DO_RESYNC = 8,    /* replica `peer` needs what is no longer in the log */
    SL_RAFT_DO_CONFIG = 9,    /* the configuration in force is another one */
    SL_RAFT_DO_GONE = 10,     /* replica `peer` does not exist any more: replace it */
    SL_RAFT_DO_GROW = 11,     /* its log has more uncommitted terms than fit: sl_raft_grow() */
    SL_RAFT_DO_COMPLAIN = 12, /* a peer broke the protocol; `text` says how. Log it */
    SL_RAFT_DO_MENDED = 13,   /* the log is whole again: the durable `promised` may be cleared */
};

struct sl_raft_action {
    enum sl_raft_action_kind kind;
    uint32_t entry_kind; /* WRITE: enum sl_raft_entry_kind; followers: 0, as they came */
    uint64_t ticket;     /* SAVE, WRITE: comes back in SAVED, WRITTEN */
    struct sl_index first, last;
    struct sl_term term;         /* SAVE; WRITE: of its entries; ROLE */
    struct sl_raft_replica peer; /* SAVE: the vote; ROLE: the leader or nobody; RESYNC, GONE */
    enum sl_raft_role role;
    uint64_t round;
    const struct sl_raft_config *config; /* CONFIG, WRITE of one; good until the next step */
    const char *text;
    struct sl_raft_message message; /* SEND */
};

/* A step's actions in the order in which they are to be done. Owned by the caller; reused. */
enum { SL_RAFT_ACTIONS_MAX = 64 };
struct sl_raft_output {
    unsigned count;
    struct sl_index index; /* PROPOSE, CHANGE: of the first entry; READ: serve when applied */
    uint64_t round;        /* READ: wait for DO_READ of it; 0 = now */
    struct sl_raft_action actions[SL_RAFT_ACTIONS_MAX];
};

#endif
