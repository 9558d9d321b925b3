/*
 * The rules that keep a group safe or alive, and the branches of the core, by name. In what ships
 * SL_RAFT_RULE() is true and SL_RAFT_COVER() is nothing. The simulator builds the core with
 * SL_RAFT_TEST: a scenario switches a rule off to show that it fails without it, and a run that did
 * not come through every branch fails. The variables of that build belong to tests/raft.
 */
#ifndef SL_RAFT_RULE_H
#define SL_RAFT_RULE_H

#include "core/base.h"

/* name, what it says */
#define SL_RAFT_RULES(X)                                                                           \
    X(COUNT_CURRENT_TERM, "only entries of the current term are committed by counting (§5.4.2)")   \
    X(STOP_AFTER_FAILURE, "a replica whose log write failed stays silent until restart")           \
    X(ACK_DURABLE, "a follower acknowledges what is durable, not what it received")                \
    X(ACK_VERIFIED, "a follower acknowledges only what it knows to match this leader's log")       \
    X(VOTE_ONCE, "one vote in a term (§5.2)")                                                      \
    X(SAVE_BEFORE_SEND, "term and vote are durable before a message that depends on them (§5.1)")  \
    X(UP_TO_DATE, "a vote goes only to a log at least as complete (§5.4.1)")                       \
    X(COMMIT_UNDER_LOAD, "each acknowledgement may advance the commit index")                      \
    X(COPYING_SILENT, "a replica in a resync does not campaign")                                   \
    X(COPYING_REMEMBERS, "a replica in a resync keeps its last index and term for votes")          \
    X(PROMISE_KEPT, "a replica with a damaged log votes by what it had, and does not campaign")    \
    X(MATCH_TAKEN_BACK, "a leader sends again what was acknowledged and is damaged there")         \
    X(CONFIG_ROLLBACK, "a truncated configuration gives way to the one before (thesis 4.1)")       \
    X(ONE_CHANGE, "one configuration change at a time (thesis 4.1)")                               \
    X(NOOP_BEFORE_CHANGE, "no change before an entry of the term is committed")                    \
    X(NOOP_BEFORE_READ, "no read before an entry of the term is committed (§8)")                   \
    X(LEASE_DRIFT, "a lease is shorter than the time-out by what clocks may drift")                \
    X(LEASE_FROM_SEND, "a lease runs from when the acknowledged message was sent")                 \
    X(LEASE_GIVEN_UP, "a lease ends before TimeoutNow leaves")                                     \
    X(REFUSE_IN_LEASE, "real votes are refused within a time-out of hearing a leader")             \
    X(QUIET_AFTER_RESTART, "a restarted replica grants nothing for a time-out")                    \
    X(RENEW_NAMED_TERM, "a shared heartbeat renews a group only in the term that it names")        \
    X(REPLICA_ID, "a message counts only from and for the replica id that it names")               \
    X(PRE_VOTE, "no term is disturbed before a majority would vote (thesis 9.6)")                  \
    X(CHECK_QUORUM, "a leader that hears no majority steps down (thesis 6.2)")                     \
    X(READ_ROUND, "a read without lease waits for a round begun after it (thesis 6.4)")            \
    X(DUPLICATE, "a write of a sequence number that was decided is not applied again")             \
    X(VOID, "a voided sequence number is never applied")                                           \
    X(EPOCH, "a write of an older attach epoch is not applied")

/* Every branch of the core that is worth meeting in the simulator. */
#define SL_RAFT_BRANCHES(X)                                                                        \
    X(PRE_CAMPAIGN)                                                                                \
    X(CAMPAIGN)                                                                                    \
    X(CAMPAIGN_TRANSFER)                                                                           \
    X(CANDIDATE_TIMEOUT)                                                                           \
    X(MAY_NOT_CAMPAIGN)                                                                            \
    X(VOTE_REFUSED_LEASE)                                                                          \
    X(VOTE_REFUSED_QUIET)                                                                          \
    X(VOTE_REFUSED_LEADER)                                                                         \
    X(VOTE_REFUSED_OLD_LOG)                                                                        \
    X(VOTE_REFUSED_TAKEN)                                                                          \
    X(VOTE_REFUSED_OLD_TERM)                                                                       \
    X(VOTE_GRANTED)                                                                                \
    X(VOTE_GRANTED_AGAIN)                                                                          \
    X(VOTE_GRANTED_COPYING)                                                                        \
    X(PRE_VOTE_GRANTED)                                                                            \
    X(VOTE_COUNTED)                                                                                \
    X(VOTE_NOT_COUNTED)                                                                            \
    X(ELECTED)                                                                                     \
    X(TERM_HIGHER)                                                                                 \
    X(TERM_LOWER)                                                                                  \
    X(TERM_LOWER_APPEND)                                                                           \
    X(HELD_UNTIL_SAVED)                                                                            \
    X(SAVED_STALE)                                                                                 \
    X(SAVED_VOTE)                                                                                  \
    X(SAVED_ACK)                                                                                   \
    X(SAVED_REJECT)                                                                                \
    X(NOT_MEMBER_SENT)                                                                             \
    X(NOT_MEMBER_HEARD)                                                                            \
    X(APPEND_STEPS_DOWN)                                                                           \
    X(APPEND_COPYING)                                                                              \
    X(APPEND_BELOW_COMMIT)                                                                         \
    X(APPEND_GAP)                                                                                  \
    X(APPEND_MISMATCH)                                                                             \
    X(APPEND_CONFLICT)                                                                             \
    X(APPEND_NEW)                                                                                  \
    X(APPEND_KNOWN)                                                                                \
    X(APPEND_NO_ROOM)                                                                              \
    X(APPEND_CONFIG)                                                                               \
    X(FOLLOWER_COMMIT)                                                                             \
    X(ROLLBACK)                                                                                    \
    X(WRITTEN_STALE)                                                                               \
    X(WRITTEN_FOLLOWER)                                                                            \
    X(WRITTEN_LEADER)                                                                              \
    X(FAILED_LEADER)                                                                               \
    X(FAILED_FOLLOWER)                                                                             \
    X(ANSWER_STRANGER)                                                                             \
    X(ANSWER_REJECTED)                                                                             \
    X(ANSWER_REJECTED_STALE)                                                                       \
    X(ANSWER_REJECTED_TERM_KNOWN)                                                                  \
    X(ANSWER_REJECTED_TERM_UNKNOWN)                                                                \
    X(ANSWER_ADVANCES)                                                                             \
    X(ANSWER_COPYING)                                                                              \
    X(PROBE_TO_REPLICATE)                                                                          \
    X(RESYNC)                                                                                      \
    X(RESYNC_AGAIN)                                                                                \
    X(RESYNC_OVER)                                                                                 \
    X(COMMIT)                                                                                      \
    X(COMMIT_OLD_TERM)                                                                             \
    X(COMMIT_LEARNED)                                                                              \
    X(WINDOW_FULL)                                                                                 \
    X(APPEND_CUT_AT_TERM)                                                                          \
    X(BEAT)                                                                                        \
    X(QUORUM_LOST)                                                                                 \
    X(READ_LEASE)                                                                                  \
    X(READ_ROUND)                                                                                  \
    X(READ_ROUND_SHARED)                                                                           \
    X(READ_CONFIRMED)                                                                              \
    X(READ_TOO_EARLY)                                                                              \
    X(PROPOSE_REFUSED_FULL)                                                                        \
    X(PROPOSE_REFUSED_TRANSFER)                                                                    \
    X(PROPOSE_REFUSED_ROLE)                                                                        \
    X(CHANGE_REFUSED_PENDING)                                                                      \
    X(CHANGE_REFUSED_EARLY)                                                                        \
    X(CHANGE_REFUSED_LAG)                                                                          \
    X(CHANGED)                                                                                     \
    X(LEADER_REMOVED)                                                                              \
    X(TRANSFER_BEGUN)                                                                              \
    X(TRANSFER_SENT)                                                                               \
    X(TRANSFER_EXPIRED)                                                                            \
    X(TIMEOUT_NOW)                                                                                 \
    X(TIMEOUT_NOW_REFUSED)                                                                         \
    X(COMPACTED)                                                                                   \
    X(RUNS_FORGOTTEN)                                                                              \
    X(GROW)                                                                                        \
    X(COPY_BEGUN)                                                                                  \
    X(COPY_NOT_NEEDED)                                                                             \
    X(COPY_TERM_HIGHER)                                                                            \
    X(COPIED_DROPS_LOG)                                                                            \
    X(MENDING_REFUSED)                                                                             \
    X(MENDING_HEARD)                                                                               \
    X(MENDED)                                                                                      \
    X(COVERED)                                                                                     \
    X(COVER_JOINED)                                                                                \
    X(COVER_LEFT)                                                                                  \
    X(BEAT_MATCHES)                                                                                \
    X(BEAT_DIFFERS)                                                                                \
    X(BEAT_EPOCH)                                                                                  \
    X(BEAT_RESET)                                                                                  \
    X(BEAT_RENEWS)

#define SL_RAFT_RULE_ENUM(name, text) SL_RAFT_RULE_##name,
#define SL_RAFT_BRANCH_ENUM(name)     SL_RAFT_COVER_##name,
enum sl_raft_rule { SL_RAFT_RULES(SL_RAFT_RULE_ENUM) SL_RAFT_RULE_COUNT };
enum sl_raft_branch { SL_RAFT_BRANCHES(SL_RAFT_BRANCH_ENUM) SL_RAFT_COVER_COUNT };

#ifdef SL_RAFT_TEST
extern bool sl_raft_rule_off[SL_RAFT_RULE_COUNT];
extern uint64_t sl_raft_covered[SL_RAFT_COVER_COUNT];
#define SL_RAFT_RULE(name)  (!sl_raft_rule_off[SL_RAFT_RULE_##name])
#define SL_RAFT_COVER(name) ((void)sl_raft_covered[SL_RAFT_COVER_##name]++)
#else
#define SL_RAFT_RULE(name)  true
#define SL_RAFT_COVER(name) ((void)0)
#endif

#endif
