/*
 * A follower: takes entries that fit its log, drops what conflicts, acknowledges what is durable
 * and known to be its leader's (§5.3).
 *
 * `verified` is how far the log is known to equal this leader's: up to where an append's previous
 * entry matched, and always up to the commit index (leader completeness, §5.4).
 */
#include "raft/private.h"

static void answer_append(struct sl_raft *raft, struct sl_raft_message *answer)
{
    answer->kind = SL_RAFT_APPEND_ANSWER;
    answer->commit = sl_index_most(raft->commit, raft->copying_index);
    answer->round = raft->echo_round;
    answer->sent_ns = raft->echo_sent_ns;
    if (raft->copying)
        answer->flags |= SL_RAFT_FLAG_COPYING;
    if (raft->promised.value != 0)
        answer->flags |= SL_RAFT_FLAG_MENDING;
    sl_raft_send(raft, raft->leader.id, raft->leader.node, answer);
}

/* Whether what damage has taken is here again, or a later leader's log instead. */
void sl_raft_check_mended(struct sl_raft *raft)
{
    if (raft->promised.value == 0 ||
        !sl_raft_reaches(&raft->log, raft->log.durable, raft->promised_term, raft->promised))
        return;
    SL_RAFT_COVER(MENDED);
    raft->promised = sl_index_of(0);
    sl_raft_emit(raft, SL_RAFT_DO_MENDED);
}

/* Tells the leader what is durable here; its newest round and send time go back with it. */
void sl_raft_acknowledge(struct sl_raft *raft)
{
    if (raft->role != SL_RAFT_FOLLOWER || raft->leader.id == 0)
        return;
    if (raft->save_ticket != raft->saved_ticket) {
        raft->answer_due = true;
        if (SL_RAFT_RULE(SAVE_BEFORE_SEND))
            return;
    }
    raft->answer_due = false;
    struct sl_index known = sl_index_most(raft->verified, raft->commit);
    if (!SL_RAFT_RULE(ACK_VERIFIED))
        known = raft->log.last;
    struct sl_raft_message answer = {
        .index = SL_RAFT_RULE(ACK_DURABLE) ? sl_index_least(known, raft->log.durable) : known,
        .hint = known,
    };
    if (raft->copying)
        answer.index = answer.hint = sl_index_of(0);
    answer_append(raft, &answer);
}

/* §5.3: where to go on from; the first entry of the term that conflicts, as the paper proposes. */
void sl_raft_reject(struct sl_raft *raft, struct sl_index previous)
{
    if (raft->role != SL_RAFT_FOLLOWER || raft->leader.id == 0)
        return;
    raft->reject_due = raft->save_ticket != raft->saved_ticket;
    raft->reject_index = previous;
    struct sl_raft_message answer = {.flags = SL_RAFT_FLAG_REJECTED, .index = previous};
    if (previous.value > raft->log.last.value) {
        SL_RAFT_COVER(APPEND_GAP);
        answer.hint = sl_index_of(raft->log.last.value + 1);
    } else {
        SL_RAFT_COVER(APPEND_MISMATCH);
        answer.index_term = sl_raft_log_term(&raft->log, previous);
        answer.hint = sl_index_most(sl_raft_log_run_first(&raft->log, previous),
                                    sl_index_of(raft->commit.value + 1));
    }
    answer_append(raft, &answer);
}

static void truncate_from(struct sl_raft *raft, struct sl_index first)
{
    SL_RAFT_COVER(APPEND_CONFLICT);
    sl_raft_log_truncate(&raft->log, first);
    raft->verified = sl_index_least(raft->verified, raft->log.last);
    sl_raft_emit(raft, SL_RAFT_DO_TRUNCATE)->first = first;
    if (raft->configs[0].index.value < first.value)
        return;
    /* Thesis 4.1: back to the configuration before; it is kept here, since its entry may be
     * compacted already. The one before that can not be needed: only the newest is uncommitted. */
    SL_RAFT_COVER(ROLLBACK);
    if (!SL_RAFT_RULE(CONFIG_ROLLBACK))
        return;
    raft->configs[0] = raft->configs[1];
    sl_raft_emit(raft, SL_RAFT_DO_CONFIG)->config = &raft->configs[0];
}

/* The first entry of (index, index + count] that is not here with that term; behind them: none. */
static uint64_t first_difference(const struct sl_raft *raft, struct sl_index index, uint32_t count,
                                 struct sl_term term)
{
    uint64_t end = index.value + count, at = index.value + 1;
    while (at <= end && at <= raft->log.last.value) {
        if (!sl_term_equal(sl_raft_log_term(&raft->log, sl_index_of(at)), term))
            break;
        at = sl_raft_log_run_last(&raft->log, sl_index_of(at)).value + 1;
    }
    return sl_min(at, sl_min(end, raft->log.last.value) + 1);
}

/* The log is the leader's up to `index`. What of that it has committed is committed (§5.3). */
static void learn(struct sl_raft *raft, const struct sl_raft_message *m, uint64_t index)
{
    raft->verified = sl_index_most(raft->verified, sl_index_of(index));
    struct sl_index commit = sl_index_least(m->commit, raft->verified);
    if (commit.value > raft->commit.value) {
        SL_RAFT_COVER(FOLLOWER_COMMIT);
        sl_raft_set_commit(raft, commit);
    }
}

/* Appends what is new of the entries behind `index`, which is known to match. False: refused. */
static bool take_entries(struct sl_raft *raft, const struct sl_raft_event *event,
                         struct sl_index index, uint32_t count)
{
    const struct sl_raft_message *m = event->message.message;
    uint64_t at = first_difference(raft, index, count, m->entry_term);
    uint64_t end = index.value + count;
    if (at > end) {
        SL_RAFT_COVER(APPEND_KNOWN);
        return true;
    }
    if (at <= raft->commit.value) {
        sl_raft_complain(raft, "entries that differ from committed ones");
        return false;
    }
    if (at <= raft->log.last.value)
        truncate_from(raft, sl_index_of(at));
    if (!sl_raft_log_make_room(&raft->log, m->entry_term, raft->commit)) {
        SL_RAFT_COVER(APPEND_NO_ROOM); /* more uncommitted terms than fit: are they, still? */
        learn(raft, m, at - 1);
        if (!sl_raft_make_room(raft, m->entry_term))
            return false; /* as if it had been lost */
    }
    SL_RAFT_COVER(APPEND_NEW);
    uint64_t fresh = end - at + 1;
    sl_raft_write(raft, 0, fresh, event->message.bytes / m->count * fresh, m->entry_term, NULL);
    for (unsigned i = 0; i < event->message.config_count; i++) {
        if (event->message.configs[i].index.value < at)
            continue;
        SL_RAFT_COVER(APPEND_CONFIG);
        sl_raft_push_config(raft, &event->message.configs[i]);
    }
    return true;
}

/* The sender is this term's leader. False: it can not be. */
static bool follow(struct sl_raft *raft, const struct sl_raft_message *m)
{
    if (raft->role == SL_RAFT_LEADER ||
        (raft->leader.id != 0 && raft->leader.id != m->from.id && SL_RAFT_RULE(VOTE_ONCE))) {
        sl_raft_complain(raft, "a second leader in one term");
        return false;
    }
    if (raft->role != SL_RAFT_FOLLOWER || raft->leader.id == 0) {
        SL_RAFT_COVER(APPEND_STEPS_DOWN);
        sl_raft_become_follower(raft, raft->term, m->from);
    }
    raft->contact_ns = raft->timer_ns = raft->now_ns;
    raft->echo_round = sl_max(raft->echo_round, m->round);
    raft->echo_sent_ns = sl_max(raft->echo_sent_ns, m->sent_ns);
    sl_raft_join_cover(raft, m->epoch);
    return true;
}

void sl_raft_on_append(struct sl_raft *raft, const struct sl_raft_event *event)
{
    const struct sl_raft_message *m = event->message.message;
    if (!follow(raft, m))
        return;
    if (raft->copying) {
        SL_RAFT_COVER(APPEND_COPYING);
        sl_raft_acknowledge(raft);
        return;
    }
    struct sl_index index = m->index;
    uint32_t count = m->count;
    if (index.value < raft->commit.value) {
        /* What is committed here is the same there; only what lies behind is looked at. */
        SL_RAFT_COVER(APPEND_BELOW_COMMIT);
        if (index.value + count > raft->commit.value &&
            !sl_term_equal(sl_raft_log_term(&raft->log, raft->commit), m->entry_term)) {
            sl_raft_complain(raft, "entries that differ from committed ones");
            return;
        }
        uint64_t known = sl_min((uint64_t)count, raft->commit.value - index.value);
        index.value += known;
        count -= (uint32_t)known;
    } else if (index.value > raft->log.last.value ||
               !sl_term_equal(sl_raft_log_term(&raft->log, index), m->index_term)) {
        sl_raft_reject(raft, index);
        return;
    }
    uint64_t tickets = raft->log.ticket;
    if (count > 0 && !take_entries(raft, event, index, count))
        return;
    learn(raft, m, index.value + count);
    /* What is being written is acknowledged when it is durable; all else at once. */
    if (raft->log.ticket == tickets || !SL_RAFT_RULE(ACK_DURABLE))
        sl_raft_acknowledge(raft);
}
