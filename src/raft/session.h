/*
 * The replicated state machine's memory of clients: which write of which session is decided, and
 * how. It advances with the commit index, entry by entry, the same on every replica, before any
 * data is touched; a write that it does not answer with APPLY never reaches overlay or chunk
 * (DESIGN "Target and store", "Gateway").
 *
 * A session numbers its writes. A retry carries the number of the first attempt, so of two entries
 * with one number the second is a DUPLICATE. Each write also carries the lowest number that is
 * still unfinished at its client: what lies below is forgotten here, and refused. VOID decides a
 * number for nothing: its write, wherever it still is under way, will never apply. A volume's
 * attach epoch only grows; writes of another one are FENCED.
 *
 * Pure: no I/O, no clock, no allocation. Single-threaded.
 */
#ifndef SL_RAFT_SESSION_H
#define SL_RAFT_SESSION_H

#include "core/position.h"

struct sl_session_table;

/* Writes of one session that may be undecided at once, counted from its lowest unfinished one. */
enum { SL_SESSION_WINDOW = 256 };

enum sl_command_kind {
    SL_COMMAND_OPEN = 1,
    SL_COMMAND_CLOSE = 2, /* the only end of a session; all its numbers are void then */
    SL_COMMAND_WRITE = 3,
    SL_COMMAND_VOID = 4,
    SL_COMMAND_ATTACH = 5,
};

struct sl_command {
    enum sl_command_kind kind;
    uint64_t session;  /* random, not 0 and never used again; not of ATTACH */
    uint64_t sequence; /* WRITE, VOID: 1 or more */
    uint64_t lowest;   /* WRITE, VOID: the lowest unfinished number, at most `sequence` */
    uint64_t volume;   /* WRITE, ATTACH */
    uint64_t epoch;    /* WRITE: that it was admitted under; ATTACH: the new one, 1 or more */
};

enum sl_verdict {
    SL_VERDICT_APPLY = 1,      /* do it */
    SL_VERDICT_DUPLICATE = 2,  /* done before: answer success; to OPEN: it is open; to VOID: the
                                  write has been applied, so it may be reported as done */
    SL_VERDICT_VOIDED = 3,     /* decided for nothing: never applied */
    SL_VERDICT_STALE = 4,      /* below the lowest unfinished: its client knows how it ended */
    SL_VERDICT_NO_SESSION = 5, /* never opened, or closed */
    SL_VERDICT_BEYOND = 6,     /* SL_SESSION_WINDOW or more above the lowest unfinished */
    SL_VERDICT_FENCED = 7,     /* another attach epoch holds */
    SL_VERDICT_FULL = 8,       /* no more sessions, or volumes, fit */
    SL_VERDICT_INVALID = 9,    /* a command that no gateway sends */
};

/* Bytes of memory for that many sessions and volumes. */
size_t sl_session_bytes(unsigned sessions_max, unsigned volumes_max);
/* `memory` (aligned to 8) stays the caller's. Empty, at index 0. */
struct sl_session_table *sl_session_init(void *memory, unsigned sessions_max, unsigned volumes_max);

/* The next committed entry, at exactly one behind the last; `command` NULL: an entry that is no
 * command (a no-op, a configuration). Commands come from the log: anything may be in them. */
enum sl_verdict sl_session_apply(struct sl_session_table *table, struct sl_index index,
                                 const struct sl_command *command);
/* What sl_session_apply() would say now, for admission; changes nothing. */
enum sl_verdict sl_session_preview(const struct sl_session_table *table,
                                   const struct sl_command *command);
/* The attach epoch of a volume in force; 0: it was never attached. */
uint64_t sl_session_epoch(const struct sl_session_table *table, uint64_t volume);
/* Open sessions, and the i-th of them, in the order of their ids. */
unsigned sl_session_count(const struct sl_session_table *table);
uint64_t sl_session_id_at(const struct sl_session_table *table, unsigned i);
struct sl_index sl_session_index(const struct sl_session_table *table);
/* The same on all replicas at one index. */
uint64_t sl_session_digest(const struct sl_session_table *table);

/*
 * The state at one exact index, as bytes (docs/replication.md has the layout). Answers how many
 * there are; written only if `size` is enough. The same state gives the same bytes.
 */
size_t sl_session_save(const struct sl_session_table *table, void *bytes, size_t size);
/* Replaces the state by saved `bytes` (aligned to 8). -SL_E_CHECKSUM, -SL_E_VERSION, -EINVAL
 * (absurd content) or -ENOSPC (more than was given memory for): then nothing has changed. */
int sl_session_load(struct sl_session_table *table, const void *bytes, size_t size);

#endif
