/*
 * Elections: time-outs, pre-votes, votes (§5.2, §5.4.1; thesis 4.2.3, 9.6).
 *
 * A vote for oneself is a vote: whoever may not grant one, within a time-out of hearing a leader or
 * of a restart, does not campaign either, since its own time-out is at least as long.
 */
#include "raft/private.h"

/* When this replica last heard the leader, by itself or through the nodes' shared heartbeat. */
uint64_t sl_raft_heard_ns(const struct sl_raft *raft)
{
    if (raft->covered_generation != 0 &&
        raft->leader_link->follow_generation == raft->covered_generation &&
        raft->leader_link->heard_ns > raft->contact_ns) {
        SL_RAFT_COVER(BEAT_RENEWS);
        return raft->leader_link->heard_ns;
    }
    return raft->contact_ns;
}

uint64_t sl_raft_election_ns(const struct sl_raft *raft)
{
    return sl_max(sl_raft_heard_ns(raft), raft->timer_ns) + raft->tuning->election_ns +
           raft->jitter_ns;
}

/*
 * A replica whose data is half overwritten must not lead, nor one that lacks what it has once
 * acknowledged. One that the newest configuration leaves
 * out still campaigns until that is committed: it may be the only one that has it (thesis 4.2.2).
 */
bool sl_raft_may_campaign(const struct sl_raft *raft)
{
    if (raft->copying && SL_RAFT_RULE(COPYING_SILENT))
        return false;
    if (raft->promised.value != 0 && SL_RAFT_RULE(PROMISE_KEPT))
        return false;
    if (sl_raft_config_is_voter(&raft->configs[0], raft->self.id))
        return true;
    return raft->configs[0].index.value > raft->commit.value &&
           sl_raft_config_is_voter(&raft->configs[1], raft->self.id);
}

static void ask_for_votes(struct sl_raft *raft, uint32_t flags, uint64_t term)
{
    for (unsigned slot = 0; slot < raft->configs[0].count; slot++) {
        const struct sl_raft_member *member = &raft->configs[0].members[slot];
        if (member->kind != SL_RAFT_VOTER || member->id == raft->self.id)
            continue;
        struct sl_raft_message message = {
            .kind = SL_RAFT_VOTE,
            .flags = flags,
            .term = sl_term_of(term),
            .index = raft->log.last,
            .index_term = sl_raft_log_last_term(&raft->log),
        };
        sl_raft_send(raft, member->id, member->node, &message);
    }
}

static void count_vote(struct sl_raft *raft, struct sl_raft_replica voter)
{
    int slot = sl_raft_slot(raft, voter);
    if (slot < 0 || raft->configs[0].members[slot].kind != SL_RAFT_VOTER) {
        SL_RAFT_COVER(VOTE_NOT_COUNTED); /* thesis 4.2.1: a learner's does not count */
    } else {
        SL_RAFT_COVER(VOTE_COUNTED);
        raft->votes |= UINT32_C(1) << slot;
    }
    if ((unsigned)__builtin_popcount(raft->votes) < sl_raft_majority(raft))
        return;
    if (raft->role == SL_RAFT_PRE_CANDIDATE)
        sl_raft_campaign(raft, false);
    else
        sl_raft_become_leader(raft);
}

/* Thesis 9.6: would a majority vote for us? Nothing is promised and no term moves. */
static void campaign_pre(struct sl_raft *raft)
{
    SL_RAFT_COVER(PRE_CAMPAIGN);
    sl_raft_leave_cover(raft);
    raft->role = SL_RAFT_PRE_CANDIDATE;
    raft->leader = (struct sl_raft_replica){0};
    raft->votes = 0;
    sl_raft_announce(raft);
    ask_for_votes(raft, SL_RAFT_FLAG_PRE, raft->term.value + 1);
    count_vote(raft, raft->self);
}

/* §5.2. The requests leave when term and vote are durable: sl_raft_on_saved(). */
void sl_raft_campaign(struct sl_raft *raft, bool transfer)
{
    if (!sl_raft_make_room(raft, sl_term_of(raft->term.value + 1)))
        return; /* for the no-op; next time */
    SL_RAFT_COVER(CAMPAIGN);
    sl_raft_leave_cover(raft);
    raft->term.value++;
    raft->vote = raft->self;
    raft->role = SL_RAFT_CANDIDATE;
    raft->leader = (struct sl_raft_replica){0};
    raft->transfer_campaign = transfer;
    raft->votes = 0;
    raft->verified = raft->commit;
    raft->echo_round = raft->echo_sent_ns = 0;
    raft->vote_due = raft->answer_due = raft->reject_due = false;
    sl_raft_restart_timer(raft);
    sl_raft_save(raft);
    sl_raft_announce(raft);
    if (!SL_RAFT_RULE(SAVE_BEFORE_SEND))
        ask_for_votes(raft, transfer ? SL_RAFT_FLAG_TRANSFER : 0, 0);
}

void sl_raft_election_tick(struct sl_raft *raft)
{
    if (raft->now_ns < sl_raft_election_ns(raft))
        return;
    sl_raft_restart_timer(raft);
    if (!sl_raft_may_campaign(raft)) {
        SL_RAFT_COVER(MAY_NOT_CAMPAIGN);
        return;
    }
    if (raft->role == SL_RAFT_CANDIDATE)
        SL_RAFT_COVER(CANDIDATE_TIMEOUT);
    if (SL_RAFT_RULE(PRE_VOTE))
        campaign_pre(raft);
    else
        sl_raft_campaign(raft, false);
}

/*
 * Thesis 4.2.3 and 6.4.1: within a time-out of hearing a leader its lease may stand, so its
 * successor must not be elected, not even by a real vote; unless it has given the lease up (3.10).
 */
bool sl_raft_refuses(struct sl_raft *raft, const struct sl_raft_message *m)
{
    if ((m->flags & SL_RAFT_FLAG_TRANSFER) != 0)
        return false;
    if (raft->now_ns < raft->quiet_ns) {
        SL_RAFT_COVER(VOTE_REFUSED_QUIET);
        return true;
    }
    if (!SL_RAFT_RULE(REFUSE_IN_LEASE))
        return false;
    if (raft->role == SL_RAFT_LEADER) {
        SL_RAFT_COVER(VOTE_REFUSED_LEADER); /* it hears itself */
        return true;
    }
    uint64_t heard_ns = sl_raft_heard_ns(raft);
    if (heard_ns != 0 && raft->now_ns < heard_ns + raft->tuning->election_ns) {
        SL_RAFT_COVER(VOTE_REFUSED_LEASE);
        return true;
    }
    return false;
}

/*
 * §5.4.1: the later last term, or the same and at least as many entries. A log that damage has cut
 * short still counts as what it was: others may have committed what this replica acknowledged.
 */
static bool is_up_to_date(const struct sl_raft *raft, const struct sl_raft_message *m)
{
    struct sl_term ours = sl_raft_log_last_term(&raft->log);
    if (!SL_RAFT_RULE(UP_TO_DATE))
        return true;
    if (raft->promised.value != 0 && SL_RAFT_RULE(PROMISE_KEPT) &&
        (m->index_term.value < raft->promised_term.value ||
         (sl_term_equal(m->index_term, raft->promised_term) &&
          m->index.value < raft->promised.value))) {
        SL_RAFT_COVER(MENDING_REFUSED);
        return false;
    }
    return m->index_term.value > ours.value ||
           (sl_term_equal(m->index_term, ours) && m->index.value >= raft->log.last.value);
}

static void answer_vote(struct sl_raft *raft, const struct sl_raft_message *m, bool granted)
{
    bool pre = (m->flags & SL_RAFT_FLAG_PRE) != 0;
    struct sl_raft_message answer = {
        .kind = SL_RAFT_VOTE_ANSWER,
        .flags = (pre ? SL_RAFT_FLAG_PRE : 0) | (granted ? SL_RAFT_FLAG_GRANTED : 0),
        .term = pre && granted ? m->term : raft->term,
    };
    sl_raft_answer(raft, m, &answer);
}

void sl_raft_on_vote(struct sl_raft *raft, const struct sl_raft_message *m)
{
    if (sl_raft_refuses(raft, m))
        return;
    if (!is_up_to_date(raft, m)) {
        SL_RAFT_COVER(VOTE_REFUSED_OLD_LOG);
        answer_vote(raft, m, false);
        return;
    }
    if ((m->flags & SL_RAFT_FLAG_PRE) != 0) {
        if (m->term.value > raft->term.value)
            SL_RAFT_COVER(PRE_VOTE_GRANTED);
        answer_vote(raft, m, m->term.value > raft->term.value);
        return;
    }
    if (raft->vote.id != 0 && raft->vote.id != m->from.id && SL_RAFT_RULE(VOTE_ONCE)) {
        SL_RAFT_COVER(VOTE_REFUSED_TAKEN);
        answer_vote(raft, m, false);
        return;
    }
    if (raft->copying)
        SL_RAFT_COVER(VOTE_GRANTED_COPYING); /* by the last index and term that it keeps */
    if (raft->vote.id == m->from.id) {
        SL_RAFT_COVER(VOTE_GRANTED_AGAIN); /* the first answer was lost, or is still due */
        answer_vote(raft, m, true);
        return;
    }
    SL_RAFT_COVER(VOTE_GRANTED);
    if (raft->role == SL_RAFT_PRE_CANDIDATE) {
        raft->role = SL_RAFT_FOLLOWER;
        sl_raft_announce(raft);
    }
    raft->vote = m->from;
    raft->vote_due = true;
    sl_raft_restart_timer(raft);
    sl_raft_save(raft);
    if (!SL_RAFT_RULE(SAVE_BEFORE_SEND))
        answer_vote(raft, m, true);
}

void sl_raft_on_vote_answer(struct sl_raft *raft, const struct sl_raft_message *m)
{
    bool pre = (m->flags & SL_RAFT_FLAG_PRE) != 0;
    uint64_t term = raft->term.value + (pre ? 1 : 0);
    if ((m->flags & SL_RAFT_FLAG_GRANTED) == 0 || m->term.value != term ||
        raft->role != (pre ? SL_RAFT_PRE_CANDIDATE : SL_RAFT_CANDIDATE)) {
        SL_RAFT_COVER(VOTE_NOT_COUNTED);
        return;
    }
    count_vote(raft, m->from);
}

/* Term and vote are durable: now what depends on them is said (§5.1). */
void sl_raft_on_saved(struct sl_raft *raft, uint64_t ticket)
{
    if (ticket != raft->save_ticket) {
        SL_RAFT_COVER(SAVED_STALE); /* a newer one is under way */
        return;
    }
    raft->saved_ticket = ticket;
    if (raft->role == SL_RAFT_CANDIDATE) {
        ask_for_votes(raft, raft->transfer_campaign ? SL_RAFT_FLAG_TRANSFER : 0, 0);
        count_vote(raft, raft->self);
    } else if (raft->vote_due) {
        SL_RAFT_COVER(SAVED_VOTE);
        raft->vote_due = false;
        struct sl_raft_message answer = {.kind = SL_RAFT_VOTE_ANSWER,
                                         .flags = SL_RAFT_FLAG_GRANTED};
        sl_raft_send(raft, raft->vote.id, raft->vote.node, &answer);
    }
    if (raft->answer_due) {
        SL_RAFT_COVER(SAVED_ACK);
        sl_raft_acknowledge(raft);
    } else if (raft->reject_due) {
        SL_RAFT_COVER(SAVED_REJECT);
        sl_raft_reject(raft, raft->reject_index);
    }
}
