/*
 * A leader: replicates, commits, answers reads, notices when it has lost its majority
 * (§5.3, §5.4.2, §8; thesis 6.2, 6.4, 10.2).
 *
 * Times that a follower acknowledged are the leader's own, of when it sent the message: what its
 * follower promised, it promised later than that.
 */
#include "raft/private.h"
#include "core/error.h"

#include <string.h>

static bool is_self(const struct sl_raft *raft, unsigned slot)
{
    return raft->configs[0].members[slot].id == raft->self.id;
}

/* Knows everything that this leader has told it, and has said so. */
static bool is_settled(const struct sl_raft *raft, const struct progress *p)
{
    return p->state == REPLICATE && p->match.value == raft->log.last.value &&
           p->commit.value == raft->commit.value;
}

static uint64_t acked_ns(const struct progress *p)
{
    if (sl_raft_is_covered(p) && p->link->acked_sent_ns >= p->covered_ns)
        return sl_max(p->acked_sent_ns, p->link->acked_sent_ns);
    return p->acked_sent_ns;
}

/* The greatest value that a majority of the voters has reached. */
static uint64_t quorum(const struct sl_raft *raft,
                       uint64_t (*value)(const struct sl_raft *, unsigned))
{
    uint64_t sorted[SL_RAFT_MEMBERS_MAX]; /* descending */
    unsigned count = 0;
    for (unsigned slot = 0; slot < raft->configs[0].count; slot++) {
        if (raft->configs[0].members[slot].kind != SL_RAFT_VOTER)
            continue;
        uint64_t v = value(raft, slot);
        unsigned at = count++;
        for (; at > 0 && sorted[at - 1] < v; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = v;
    }
    return count == 0 ? 0 : sorted[count / 2];
}

static uint64_t match_of(const struct sl_raft *raft, unsigned slot)
{
    return is_self(raft, slot) ? raft->log.durable.value : raft->progress[slot].match.value;
}

static uint64_t acked_of(const struct sl_raft *raft, unsigned slot)
{
    return is_self(raft, slot) ? UINT64_MAX / 2 : acked_ns(&raft->progress[slot]); /* always */
}

static uint64_t round_of(const struct sl_raft *raft, unsigned slot)
{
    return is_self(raft, slot) ? raft->round : raft->progress[slot].acked_round;
}

/* ---- sending */

static void send_append(struct sl_raft *raft, unsigned slot, struct sl_index previous,
                        uint32_t count)
{
    struct progress *p = &raft->progress[slot];
    struct sl_raft_message message = {
        .kind = SL_RAFT_APPEND,
        .index = previous,
        .index_term = sl_raft_log_term(&raft->log, previous),
        .entry_term = count == 0 ? sl_term_of(0)
                                 : sl_raft_log_term(&raft->log, sl_index_of(previous.value + 1)),
        .count = count,
        .commit = raft->commit,
        .round = raft->round,
        .sent_ns = raft->now_ns,
        .epoch = sl_raft_is_covered(p) ? p->covered_epoch : 0,
    };
    p->sent_ns = raft->now_ns;
    const struct sl_raft_member *member = &raft->configs[0].members[slot];
    sl_raft_send(raft, member->id, member->node, &message);
}

static void ask_for_resync(struct sl_raft *raft, unsigned slot)
{
    const struct sl_raft_member *member = &raft->configs[0].members[slot];
    raft->progress[slot].state = RESYNC;
    raft->progress[slot].resync_ns = raft->now_ns;
    sl_raft_emit(raft, SL_RAFT_DO_RESYNC)->peer =
        (struct sl_raft_replica){member->id, member->node};
}

/* How many entries from `next` on go into one message now: within its limits and the window's, and
 * of one term. */
static uint32_t entries_to_send(const struct sl_raft *raft, const struct progress *p)
{
    const struct sl_raft_tuning *tuning = raft->tuning;
    uint64_t available = raft->log.last.value + 1 - p->next.value;
    if (available == 0)
        return 0;
    uint64_t of_term = sl_raft_log_run_last(&raft->log, p->next).value + 1 - p->next.value;
    if (of_term < available)
        SL_RAFT_COVER(APPEND_CUT_AT_TERM);
    uint64_t count = sl_min(of_term, (uint64_t)tuning->append_entries);
    uint64_t flying = p->next.value - 1 - p->match.value;
    if (p->state == REPLICATE && flying + count > tuning->window_entries) {
        SL_RAFT_COVER(WINDOW_FULL);
        count = flying >= tuning->window_entries ? 0 : tuning->window_entries - flying;
    }
    uint64_t most = raft->log.entry_bytes_most;
    if (count * most > tuning->append_bytes || (flying + count) * most > tuning->window_bytes) {
        /* Only now is it worth looking closer. At least one entry goes if nothing is under way. */
        struct sl_index last = sl_index_of(p->next.value + count - 1);
        uint64_t bytes = count == 0 ? 0 : sl_raft_log_bytes(&raft->log, p->next, last);
        uint64_t sent = flying == 0 ? 0
                                    : sl_raft_log_bytes(&raft->log, sl_index_of(p->match.value + 1),
                                                        sl_index_of(p->next.value - 1));
        uint64_t room = sent >= tuning->window_bytes ? 0 : tuning->window_bytes - sent;
        room = sl_min(room, tuning->append_bytes);
        if (bytes > room)
            count = sl_max(room / (bytes / count), flying == 0 ? UINT64_C(1) : UINT64_C(0));
    }
    return (uint32_t)count;
}

/* Sends what there is to send to a member; with `beat` something in any case. */
void sl_raft_replicate(struct sl_raft *raft, unsigned slot, bool beat)
{
    struct progress *p = &raft->progress[slot];
    if (is_self(raft, slot))
        return;
    if (p->state != RESYNC && p->next.value <= raft->log.boundary.value) {
        SL_RAFT_COVER(RESYNC); /* §7: what it needs is compacted */
        ask_for_resync(raft, slot);
    }
    if (p->state == RESYNC) {
        if (beat)
            send_append(raft, slot, sl_index_of(0), 0);
        return;
    }
    for (unsigned i = 0; i < APPENDS_A_STEP; i++) {
        uint32_t count = p->state == PROBE && p->paused && !beat ? 0 : entries_to_send(raft, p);
        if (count == 0 && !beat)
            return;
        send_append(raft, slot, sl_index_of(p->next.value - 1), count);
        beat = false;
        if (p->state == PROBE) {
            p->paused = true;
            return;
        }
        p->next.value += count; /* thesis 10.2.1: optimistic; a gap is answered with a rejection */
    }
}

void sl_raft_replicate_all(struct sl_raft *raft, bool beat)
{
    for (unsigned slot = 0; slot < raft->configs[0].count; slot++)
        sl_raft_replicate(raft, slot, beat);
}

/* ---- becoming one */

static struct progress fresh_progress(const struct sl_raft *raft, uint64_t id)
{
    return (struct progress){.id = id, .next = sl_index_of(raft->log.last.value + 1)};
}

/* §8: a no-op of its own term tells it what is committed, and commits it. */
void sl_raft_become_leader(struct sl_raft *raft)
{
    SL_RAFT_COVER(ELECTED);
    raft->role = SL_RAFT_LEADER;
    raft->leader = raft->self;
    raft->since_ns = raft->beat_ns = raft->now_ns;
    raft->round = raft->confirmed_round = 0;
    raft->round_wanted = raft->lease_given_up = raft->transfer_sent = false;
    raft->transfer_id = 0;
    for (unsigned slot = 0; slot < raft->configs[0].count; slot++)
        raft->progress[slot] = fresh_progress(raft, raft->configs[0].members[slot].id);
    raft->noop = sl_index_of(raft->log.last.value + 1);
    sl_raft_announce(raft);
    sl_raft_write(raft, SL_RAFT_ENTRY_NOOP, 1, 0, raft->term, NULL);
    sl_raft_replicate_all(raft, true);
}

/* configs[0] is another one: what is known of a member goes with its id. */
void sl_raft_config_changed(struct sl_raft *raft)
{
    struct progress old[SL_RAFT_MEMBERS_MAX];
    unsigned old_count = raft->configs[1].count;
    memcpy(old, raft->progress, sizeof(old));
    for (unsigned slot = 0; slot < raft->configs[0].count; slot++) {
        uint64_t id = raft->configs[0].members[slot].id;
        raft->progress[slot] = fresh_progress(raft, id);
        for (unsigned i = 0; i < old_count; i++) {
            if (old[i].id == id) {
                raft->progress[slot] = old[i];
                old[i].id = 0;
            }
        }
    }
    for (unsigned i = 0; i < old_count; i++) {
        if (old[i].id != 0)
            sl_raft_uncover(raft, &old[i]);
    }
}

/* ---- answers */

/*
 * §5.3: the follower's hint, or our own last entry of its term if that is further back. A follower
 * that is mending takes back what it acknowledged; what was committed by it stays committed.
 */
static void on_rejected(struct sl_raft *raft, unsigned slot, const struct sl_raft_message *m)
{
    struct progress *p = &raft->progress[slot];
    if ((m->flags & SL_RAFT_FLAG_MENDING) != 0 && m->hint.value <= p->match.value &&
        m->hint.value > 0 && SL_RAFT_RULE(MATCH_TAKEN_BACK)) {
        SL_RAFT_COVER(MENDING_HEARD);
        p->match = sl_index_of(m->hint.value - 1);
        p->next = m->hint;
        p->state = p->state == RESYNC ? RESYNC : PROBE;
        p->paused = false;
        return;
    }
    bool stale = p->state == REPLICATE ? m->index.value <= p->match.value
                                       : m->index.value != p->next.value - 1;
    if (stale || p->state == RESYNC || m->index.value > raft->log.last.value) {
        SL_RAFT_COVER(ANSWER_REJECTED_STALE);
        return;
    }
    SL_RAFT_COVER(ANSWER_REJECTED);
    uint64_t next = m->hint.value;
    if (m->index_term.value != 0) {
        struct sl_index ours = sl_raft_log_last_of(&raft->log, m->index_term);
        if (sl_term_equal(sl_raft_log_term(&raft->log, ours), m->index_term)) {
            SL_RAFT_COVER(ANSWER_REJECTED_TERM_KNOWN);
            next = ours.value + 1;
        } else {
            SL_RAFT_COVER(ANSWER_REJECTED_TERM_UNKNOWN);
        }
    }
    next = sl_min(next, m->index.value); /* always further back than what was refused */
    p->next = sl_index_of(sl_max(next, p->match.value + 1));
    p->state = PROBE;
    p->paused = false;
}

static void on_accepted(struct sl_raft *raft, unsigned slot, const struct sl_raft_message *m)
{
    struct progress *p = &raft->progress[slot];
    p->commit = sl_index_most(p->commit, m->commit);
    if (m->index.value > p->match.value) {
        SL_RAFT_COVER(ANSWER_ADVANCES);
        p->match = m->index;
    }
    if (p->state == RESYNC) {
        if (p->match.value < raft->log.boundary.value)
            return;
        SL_RAFT_COVER(RESYNC_OVER);
        p->state = PROBE;
        p->resync_ns = raft->now_ns;
        p->next = sl_index_of(p->match.value + 1);
        p->paused = false;
        return;
    }
    if (p->state == PROBE && m->hint.value + 1 >= p->next.value) {
        SL_RAFT_COVER(PROBE_TO_REPLICATE);
        p->state = REPLICATE;
        p->next = sl_index_of(m->hint.value + 1);
    }
    p->paused = p->state == PROBE;
    p->next = sl_index_most(p->next, sl_index_of(p->match.value + 1));
}

static void commit_to(struct sl_raft *raft, struct sl_index index);

static void confirm_rounds(struct sl_raft *raft)
{
    uint64_t confirmed = quorum(raft, round_of);
    if (confirmed > raft->confirmed_round) {
        SL_RAFT_COVER(READ_CONFIRMED);
        raft->confirmed_round = confirmed;
        sl_raft_emit(raft, SL_RAFT_DO_READ)->round = confirmed;
    }
    if (raft->round_wanted && raft->confirmed_round == raft->round) {
        raft->round_wanted = false;
        raft->round++;
        sl_raft_replicate_all(raft, true);
    }
}

/*
 * What a follower knows to be committed is, and stands in our log (leader completeness, §5.4.3): no
 * entry is counted here. It matters to a leader that has forgotten its commit index in a restart,
 * and can not commit before a follower in a resync is done, which waits for a state that new.
 */
static void learn_commit(struct sl_raft *raft, const struct sl_raft_message *m)
{
    if (m->commit.value <= raft->commit.value)
        return;
    SL_RAFT_COVER(COMMIT_LEARNED);
    commit_to(raft, m->commit);
}

void sl_raft_on_append_answer(struct sl_raft *raft, const struct sl_raft_message *m)
{
    if (raft->role != SL_RAFT_LEADER)
        return;
    int slot = sl_raft_slot(raft, m->from);
    if (slot < 0 || is_self(raft, (unsigned)slot)) {
        SL_RAFT_COVER(ANSWER_STRANGER);
        return;
    }
    bool rejected = (m->flags & SL_RAFT_FLAG_REJECTED) != 0;
    if (m->sent_ns > raft->now_ns || m->round > raft->round ||
        m->commit.value > raft->log.last.value ||
        (!rejected && (m->index.value > raft->log.last.value ||
                       m->hint.value > raft->log.last.value || m->index.value > m->hint.value))) {
        sl_raft_complain(raft, "an acknowledgement of what was never sent");
        return;
    }
    struct progress *p = &raft->progress[slot];
    p->acked_round = sl_max(p->acked_round, m->round);
    p->acked_sent_ns =
        sl_max(p->acked_sent_ns, SL_RAFT_RULE(LEASE_FROM_SEND) ? m->sent_ns : raft->now_ns);
    learn_commit(raft, m);
    if (raft->role != SL_RAFT_LEADER)
        return; /* it was removed, as it learns */
    if ((m->flags & SL_RAFT_FLAG_COPYING) != 0) {
        /* What it answered before it had the state may come behind what it said then. */
        if (p->state != RESYNC && m->sent_ns >= p->resync_ns) {
            SL_RAFT_COVER(ANSWER_COPYING);
            ask_for_resync(raft, (unsigned)slot);
        }
    } else if (rejected) {
        on_rejected(raft, (unsigned)slot, m);
    } else {
        on_accepted(raft, (unsigned)slot, m);
        sl_raft_advance_commit(raft);
        if (raft->role != SL_RAFT_LEADER)
            return; /* it removed itself */
    }
    sl_raft_transfer_step(raft);
    sl_raft_replicate(raft, (unsigned)slot, false);
    confirm_rounds(raft);
    if (is_settled(raft, p) && !sl_raft_is_covered(p)) {
        sl_raft_cover(raft, p, raft->configs[0].members[slot].node);
        if (sl_raft_is_covered(p))
            sl_raft_replicate(raft, (unsigned)slot, true);
    }
}

static void commit_to(struct sl_raft *raft, struct sl_index index)
{
    sl_raft_set_commit(raft, index);
    if (raft->configs[0].index.value <= index.value &&
        !sl_raft_config_is_voter(&raft->configs[0], raft->self.id)) {
        SL_RAFT_COVER(LEADER_REMOVED); /* thesis 4.2.2 */
        sl_raft_replicate_all(raft, true);
        sl_raft_become_follower(raft, raft->term, (struct sl_raft_replica){0});
    }
}

void sl_raft_advance_commit(struct sl_raft *raft)
{
    struct sl_index reached = sl_index_of(quorum(raft, match_of));
    if (reached.value <= raft->commit.value)
        return;
    if (!sl_term_equal(sl_raft_log_term(&raft->log, reached), raft->term) &&
        SL_RAFT_RULE(COUNT_CURRENT_TERM)) {
        SL_RAFT_COVER(COMMIT_OLD_TERM); /* §5.4.2, figure 8 */
        return;
    }
    if (reached.value < raft->log.last.value && !SL_RAFT_RULE(COMMIT_UNDER_LOAD))
        return;
    SL_RAFT_COVER(COMMIT);
    commit_to(raft, reached);
}

/* ---- time */

/* Silent members, and those a round waits for, are spoken to; the others' nodes do it for us. */
static bool needs_beat(const struct sl_raft *raft, unsigned slot)
{
    const struct progress *p = &raft->progress[slot];
    if (is_self(raft, slot))
        return false;
    return !sl_raft_is_covered(p) || !is_settled(raft, p) || p->acked_round < raft->round;
}

void sl_raft_leader_tick(struct sl_raft *raft)
{
    uint64_t timeout_ns = raft->tuning->election_ns;
    if (sl_max(quorum(raft, acked_of), raft->since_ns) + timeout_ns <= raft->now_ns &&
        SL_RAFT_RULE(CHECK_QUORUM)) {
        SL_RAFT_COVER(QUORUM_LOST); /* thesis 6.2 */
        sl_raft_become_follower(raft, raft->term, (struct sl_raft_replica){0});
        return;
    }
    if (raft->transfer_id != 0 && raft->transfer_ns + timeout_ns <= raft->now_ns) {
        SL_RAFT_COVER(TRANSFER_EXPIRED); /* thesis 3.10: takes requests again */
        raft->transfer_id = 0;
    }
    if (raft->beat_ns + raft->tuning->heartbeat_ns > raft->now_ns)
        return;
    raft->beat_ns = raft->now_ns;
    raft->transfer_sent = false;
    sl_raft_transfer_step(raft);
    for (unsigned slot = 0; slot < raft->configs[0].count; slot++) {
        struct progress *p = &raft->progress[slot];
        if (!needs_beat(raft, slot))
            continue;
        SL_RAFT_COVER(BEAT);
        if (p->state == RESYNC && p->resync_ns + timeout_ns <= raft->now_ns) {
            SL_RAFT_COVER(RESYNC_AGAIN);
            ask_for_resync(raft, slot);
        }
        p->paused = false;
        sl_raft_replicate(raft, slot, true);
    }
}

uint64_t sl_raft_leader_deadline(const struct sl_raft *raft)
{
    uint64_t timeout_ns = raft->tuning->election_ns;
    uint64_t at = sl_max(quorum(raft, acked_of), raft->since_ns) + timeout_ns;
    if (!SL_RAFT_RULE(CHECK_QUORUM))
        at = UINT64_MAX;
    if (raft->transfer_id != 0)
        at = sl_min(at, raft->transfer_ns + timeout_ns);
    for (unsigned slot = 0; slot < raft->configs[0].count; slot++) {
        if (needs_beat(raft, slot))
            return sl_min(at, raft->beat_ns + raft->tuning->heartbeat_ns);
    }
    return at;
}

/* ---- requests */

int sl_raft_on_propose(struct sl_raft *raft, uint32_t count, uint64_t bytes)
{
    const struct sl_raft_tuning *tuning = raft->tuning;
    if (raft->role != SL_RAFT_LEADER) {
        SL_RAFT_COVER(PROPOSE_REFUSED_ROLE);
        return -SL_E_MOVED;
    }
    if (count == 0 || count > tuning->uncommitted_entries)
        return -EINVAL;
    if (raft->transfer_id != 0) {
        SL_RAFT_COVER(PROPOSE_REFUSED_TRANSFER); /* thesis 3.10: so that the target can catch up */
        return -EAGAIN;
    }
    struct log *log = &raft->log;
    uint64_t waiting = log->last.value - raft->commit.value;
    uint64_t waiting_bytes = waiting * log->entry_bytes_most;
    if (waiting_bytes + bytes > tuning->uncommitted_bytes && waiting > 0)
        waiting_bytes = sl_raft_log_bytes(log, sl_index_of(raft->commit.value + 1), log->last);
    if (waiting + count > tuning->uncommitted_entries ||
        (waiting > 0 && waiting_bytes + bytes > tuning->uncommitted_bytes)) {
        SL_RAFT_COVER(PROPOSE_REFUSED_FULL);
        return -EAGAIN;
    }
    raft->output->index = sl_index_of(log->last.value + 1);
    sl_raft_write(raft, SL_RAFT_ENTRY_DATA, count, bytes, raft->term, NULL);
    sl_raft_replicate_all(raft, false);
    return 0;
}

/*
 * Thesis 6.4.1. A follower that received a message refuses votes for a time-out of its clock; ours
 * began when we sent it. If its clock is fast by the bound and ours slow, ours has then counted
 * (1 - drift) / (1 + drift) of that. Of clocks that may do anything nothing is left of it.
 */
bool sl_raft_has_lease(const struct sl_raft *raft, uint64_t now_ns)
{
    if (raft->role != SL_RAFT_LEADER || raft->lease_given_up)
        return false;
    if (raft->commit.value < raft->noop.value && SL_RAFT_RULE(NOOP_BEFORE_READ))
        return false;
    uint64_t lease_ns = raft->tuning->election_ns;
    if (SL_RAFT_RULE(LEASE_DRIFT))
        lease_ns =
            lease_ns * (1000000 - raft->tuning->drift_ppm) / (1000000 + raft->tuning->drift_ppm);
    uint64_t acked = quorum(raft, acked_of);
    return acked != 0 && lease_ns != 0 && now_ns < acked + lease_ns;
}

/* Thesis 6.4: note the commit index, make sure that we still lead, wait until it is applied. */
int sl_raft_on_read(struct sl_raft *raft)
{
    if (raft->role != SL_RAFT_LEADER)
        return -SL_E_MOVED;
    if (raft->commit.value < raft->noop.value && SL_RAFT_RULE(NOOP_BEFORE_READ)) {
        SL_RAFT_COVER(READ_TOO_EARLY); /* §8: what is committed is not known yet */
        return -EAGAIN;
    }
    raft->output->index = raft->commit;
    if (sl_raft_has_lease(raft, raft->now_ns)) {
        SL_RAFT_COVER(READ_LEASE);
        return 0;
    }
    if (!SL_RAFT_RULE(READ_ROUND))
        return 0;
    if (raft->confirmed_round == raft->round) {
        SL_RAFT_COVER(READ_ROUND);
        raft->round++;
        sl_raft_replicate_all(raft, true);
        raft->output->round = raft->round;
        confirm_rounds(raft);
    } else {
        SL_RAFT_COVER(READ_ROUND_SHARED); /* of the round after the one under way */
        raft->round_wanted = true;
        raft->output->round = raft->round + 1;
    }
    return 0;
}
