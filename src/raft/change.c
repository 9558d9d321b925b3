/*
 * Changes of the membership, one at a time (thesis 4.1), leadership transfer (3.10), compaction and
 * resync (§7).
 */
#include "raft/private.h"
#include "core/error.h"

/* A learner becomes a voter only when it can vote usefully: almost caught up (thesis 4.2.1). */
static int check_promotion(const struct sl_raft *raft, uint64_t id)
{
    int slot = sl_raft_config_find(&raft->configs[0], id);
    if (slot < 0)
        return -ENOENT;
    const struct progress *p = &raft->progress[slot];
    if (sl_raft_config_is_voter(&raft->configs[0], id))
        return -EEXIST; /* it may lead, or lag, by now */
    if (p->state == REPLICATE && p->match.value + raft->tuning->promote_lag >= raft->log.last.value)
        return 0;
    SL_RAFT_COVER(CHANGE_REFUSED_LAG);
    return -EAGAIN;
}

int sl_raft_on_change(struct sl_raft *raft, const struct sl_raft_event *event)
{
    if (raft->role != SL_RAFT_LEADER)
        return -SL_E_MOVED;
    if (raft->configs[0].index.value > raft->commit.value && SL_RAFT_RULE(ONE_CHANGE)) {
        SL_RAFT_COVER(CHANGE_REFUSED_PENDING);
        return -EAGAIN;
    }
    /* Ongaro, "bug in single-server membership changes", raft-dev 2015. */
    if (raft->commit.value < raft->noop.value && SL_RAFT_RULE(NOOP_BEFORE_CHANGE)) {
        SL_RAFT_COVER(CHANGE_REFUSED_EARLY);
        return -EAGAIN;
    }
    if (raft->transfer_id != 0)
        return -EAGAIN;
    if (event->change.change == SL_RAFT_PROMOTE) {
        int result = check_promotion(raft, event->change.replica.id);
        if (result != 0)
            return result;
    }
    struct sl_raft_config after;
    int result = sl_raft_config_change(&raft->configs[0], event->change.change,
                                       event->change.replica, &after);
    if (result != 0)
        return result;
    SL_RAFT_COVER(CHANGED);
    after.index = raft->output->index = sl_index_of(raft->log.last.value + 1);
    sl_raft_write(raft, SL_RAFT_ENTRY_CONFIG, 1, 0, raft->term, &raft->configs[0]);
    sl_raft_push_config(raft, &after); /* which makes it configs[0], as the WRITE says */
    sl_raft_config_changed(raft);
    sl_raft_replicate_all(raft, true);
    return 0;
}

int sl_raft_on_transfer(struct sl_raft *raft, uint64_t id)
{
    if (raft->role != SL_RAFT_LEADER)
        return -SL_E_MOVED;
    if (raft->transfer_id != 0)
        return -EAGAIN;
    if (sl_raft_config_find(&raft->configs[0], id) < 0)
        return -ENOENT;
    if (id == raft->self.id || !sl_raft_config_is_voter(&raft->configs[0], id))
        return -EINVAL;
    SL_RAFT_COVER(TRANSFER_BEGUN);
    raft->transfer_id = id;
    raft->transfer_ns = raft->now_ns;
    raft->transfer_sent = false;
    sl_raft_transfer_step(raft);
    return 0;
}

/*
 * Thesis 3.10: once the target has the whole log it is told to campaign at once. Its voters will
 * not wait for our lease, so that ends first, and for the rest of the term: TimeoutNow, or a vote
 * that follows from it, may arrive any time later (6.4.1).
 */
void sl_raft_transfer_step(struct sl_raft *raft)
{
    if (raft->transfer_id == 0 || raft->transfer_sent)
        return;
    int slot = sl_raft_config_find(&raft->configs[0], raft->transfer_id);
    if (slot < 0 || raft->progress[slot].match.value != raft->log.last.value)
        return;
    SL_RAFT_COVER(TRANSFER_SENT);
    if (SL_RAFT_RULE(LEASE_GIVEN_UP))
        raft->lease_given_up = true;
    raft->transfer_sent = true;
    struct sl_raft_message message = {.kind = SL_RAFT_TIMEOUT_NOW};
    sl_raft_send(raft, raft->transfer_id, raft->configs[0].members[slot].node, &message);
}

void sl_raft_on_timeout_now(struct sl_raft *raft, const struct sl_raft_message *m)
{
    if (raft->role != SL_RAFT_FOLLOWER || raft->leader.id != m->from.id ||
        !sl_raft_may_campaign(raft)) {
        SL_RAFT_COVER(TIMEOUT_NOW_REFUSED);
        return;
    }
    SL_RAFT_COVER(TIMEOUT_NOW);
    SL_RAFT_COVER(CAMPAIGN_TRANSFER);
    sl_raft_campaign(raft, true);
}

int sl_raft_on_compacted(struct sl_raft *raft, struct sl_index index)
{
    if (index.value < raft->log.boundary.value || index.value > raft->commit.value)
        return -EINVAL;
    SL_RAFT_COVER(COMPACTED);
    sl_raft_log_compact(&raft->log, index);
    return 0;
}

/* What is committed here, or an entry of the same index and term. */
static bool has_state(const struct sl_raft *raft, struct sl_index index, struct sl_term term)
{
    return index.value <= raft->commit.value ||
           (index.value <= raft->log.last.value && term.value != 0 &&
            sl_term_equal(sl_raft_log_term(&raft->log, index), term));
}

/* The entry at S is here, and so is all before it that is committed (§5.3): the state can be made
 * of the log. What a leader of this term or an older one had committed, this term's leader has
 * (§5.4). */
static void learn_state(struct sl_raft *raft, struct sl_index index)
{
    if (raft->role == SL_RAFT_LEADER)
        return;
    raft->verified = sl_index_most(raft->verified, index);
    if (index.value > raft->commit.value)
        sl_raft_set_commit(raft, index);
    sl_raft_acknowledge(raft);
}

/*
 * The data is about to become a mixture of two states. The log's last index and term stay as they
 * are: what this replica has acknowledged still counts when it votes (§5.4.1), but until the copy
 * is complete it neither campaigns nor takes entries. Not if it has the very entry at S: it may be
 * one of those without whom nobody can lead.
 */
int sl_raft_on_copying(struct sl_raft *raft, const struct sl_raft_event *event)
{
    struct sl_term term = event->copying.term, index_term = event->copying.index_term;
    struct sl_index index = event->copying.index;
    /* What is copied may be of the source's term: that is saved before it (§7 as §5.1). */
    if (term.value > raft->term.value && term.value <= SL_POSITION_MAX) {
        SL_RAFT_COVER(COPY_TERM_HIGHER);
        sl_raft_become_follower(raft, term, (struct sl_raft_replica){0});
    }
    if (!raft->copying && has_state(raft, index, index_term)) {
        SL_RAFT_COVER(COPY_NOT_NEEDED);
        learn_state(raft, index);
        return -EALREADY;
    }
    SL_RAFT_COVER(COPY_BEGUN);
    if (raft->role != SL_RAFT_FOLLOWER)
        sl_raft_become_follower(raft, raft->term, (struct sl_raft_replica){0});
    raft->copying = true;
    raft->copying_index = sl_index_most(raft->copying_index, index);
    if (!SL_RAFT_RULE(COPYING_REMEMBERS))
        sl_raft_log_reset(&raft->log, sl_index_of(0), sl_term_of(0));
    return 0;
}

/* §7: the state machine stands at `index`; the log goes on behind it if it fits, else is dropped.
 */
int sl_raft_on_copied(struct sl_raft *raft, const struct sl_raft_event *event)
{
    struct sl_index index = event->copied.index;
    const struct sl_raft_config *config = event->copied.config;
    if (!raft->copying || index.value < raft->commit.value ||
        index.value < raft->copying_index.value || index.value > SL_POSITION_MAX ||
        event->copied.term.value > raft->term.value || !sl_raft_config_is_sound(config) ||
        config->index.value > index.value)
        return -EINVAL;
    bool fits = index.value >= raft->log.boundary.value && index.value <= raft->log.last.value &&
                sl_term_equal(sl_raft_log_term(&raft->log, index), event->copied.term);
    if (fits) { /* who starts with a mark that its log has overtaken loses nothing */
        sl_raft_log_compact(&raft->log, index);
    } else {
        SL_RAFT_COVER(COPIED_DROPS_LOG);
        sl_raft_log_reset(&raft->log, index, event->copied.term);
    }
    raft->configs[1] = *config;
    if (!fits || raft->configs[0].index.value <= index.value)
        raft->configs[0] = *config;
    sl_raft_emit(raft, SL_RAFT_DO_CONFIG)->config = &raft->configs[0];
    raft->copying = false;
    raft->copying_index = sl_index_of(0);
    raft->commit = index;
    raft->verified = sl_index_most(sl_index_least(raft->verified, raft->log.last), index);
    sl_raft_check_mended(raft);
    sl_raft_restart_timer(raft);
    sl_raft_acknowledge(raft);
    return 0;
}
