/*
 * The group's frame: start, one step, terms and what must be durable before what. The roles are in
 * election.c, follower.c and leader.c, changes of the membership in change.c.
 *
 * Invariants: boundary <= commit <= last; vote and term change only together with a SAVE, and
 * nothing is sent while one is under way (§5.1: "persistent state updated before responding").
 */
#include "raft/private.h"
#include "core/error.h"

#include <string.h>

size_t sl_raft_bytes(unsigned terms)
{
    return sizeof(struct sl_raft) + terms * sizeof(struct run);
}

/* splitmix64: spreads election time-outs; no secret. */
static uint64_t next_random(struct sl_raft *raft)
{
    uint64_t z = raft->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

struct sl_raft_action *sl_raft_emit(struct sl_raft *raft, enum sl_raft_action_kind kind)
{
    struct sl_raft_output *output = raft->output;
    SL_ASSERT(output->count < SL_RAFT_ACTIONS_MAX);
    struct sl_raft_action *action = &output->actions[output->count++];
    *action = (struct sl_raft_action){.kind = kind};
    return action;
}

void sl_raft_complain(struct sl_raft *raft, const char *text)
{
    sl_raft_emit(raft, SL_RAFT_DO_COMPLAIN)->text = text;
}

void sl_raft_send(struct sl_raft *raft, uint64_t id, uint32_t node, struct sl_raft_message *message)
{
    if (raft->save_ticket != raft->saved_ticket && SL_RAFT_RULE(SAVE_BEFORE_SEND)) {
        SL_RAFT_COVER(HELD_UNTIL_SAVED); /* what matters of it is said again in sl_raft_on_saved */
        return;
    }
    if (raft->output->count + ACTIONS_RESERVED >= SL_RAFT_ACTIONS_MAX)
        return; /* as if the network had lost it */
    message->from = raft->self;
    message->to = (struct sl_raft_replica){id, node};
    if (message->term.value == 0)
        message->term = raft->term;
    sl_raft_emit(raft, SL_RAFT_DO_SEND)->message = *message;
}

void sl_raft_answer(struct sl_raft *raft, const struct sl_raft_message *to,
                    struct sl_raft_message *message)
{
    sl_raft_send(raft, to->from.id, to->from.node, message);
}

void sl_raft_answer_stranger(const struct sl_raft_message *message, struct sl_raft_message *answer)
{
    *answer = (struct sl_raft_message){.kind = SL_RAFT_NOT_MEMBER,
                                       .from = message->to,
                                       .to = message->from,
                                       .term = message->term};
}

void sl_raft_save(struct sl_raft *raft)
{
    struct sl_raft_action *action = sl_raft_emit(raft, SL_RAFT_DO_SAVE);
    action->term = raft->term;
    action->peer = raft->vote;
    action->ticket = ++raft->save_ticket;
}

/* §5.2: randomised, so that split votes are rare and soon resolved. */
void sl_raft_restart_timer(struct sl_raft *raft)
{
    raft->timer_ns = raft->now_ns;
    raft->jitter_ns = next_random(raft) % raft->tuning->election_ns;
}

void sl_raft_announce(struct sl_raft *raft)
{
    struct sl_raft_action *action = sl_raft_emit(raft, SL_RAFT_DO_ROLE);
    action->role = raft->role;
    action->term = raft->term;
    action->peer = raft->leader;
}

static void leave_leadership(struct sl_raft *raft)
{
    for (unsigned slot = 0; slot < raft->configs[0].count; slot++)
        sl_raft_uncover(raft, &raft->progress[slot]);
}

void sl_raft_become_follower(struct sl_raft *raft, struct sl_term term,
                             struct sl_raft_replica leader)
{
    if (raft->role == SL_RAFT_LEADER)
        leave_leadership(raft);
    sl_raft_leave_cover(raft);
    if (term.value > raft->term.value) {
        raft->term = term;
        raft->vote = (struct sl_raft_replica){0};
        raft->verified = raft->commit;
        raft->echo_round = raft->echo_sent_ns = 0;
        raft->vote_due = raft->answer_due = raft->reject_due = false;
        sl_raft_save(raft);
    }
    raft->role = SL_RAFT_FOLLOWER;
    raft->leader = leader;
    raft->leader_link =
        leader.id != 0 && raft->links != NULL ? sl_raft_links_get(raft->links, leader.node) : NULL;
    raft->votes = 0;
    sl_raft_restart_timer(raft);
    sl_raft_announce(raft);
}

void sl_raft_write(struct sl_raft *raft, enum sl_raft_entry_kind kind, uint64_t count,
                   uint64_t bytes, struct sl_term term, const struct sl_raft_config *config)
{
    struct sl_raft_action *action = sl_raft_emit(raft, SL_RAFT_DO_WRITE);
    action->entry_kind = kind;
    action->first = sl_index_of(raft->log.last.value + 1);
    action->term = term;
    action->ticket = ++raft->log.ticket;
    sl_raft_log_append(&raft->log, count, term, bytes);
    action->last = raft->log.last;
    action->config = config;
}

void sl_raft_set_commit(struct sl_raft *raft, struct sl_index commit)
{
    SL_ASSERT(commit.value > raft->commit.value && commit.value <= raft->log.last.value);
    raft->commit = commit;
    sl_raft_emit(raft, SL_RAFT_DO_COMMIT)->last = commit;
}

/* Thesis 4.1: a server uses the latest configuration in its log, committed or not. */
void sl_raft_push_config(struct sl_raft *raft, const struct sl_raft_config *config)
{
    raft->configs[1] = raft->configs[0];
    raft->configs[0] = *config;
    sl_raft_emit(raft, SL_RAFT_DO_CONFIG)->config = &raft->configs[0];
}

int sl_raft_slot(const struct sl_raft *raft, struct sl_raft_replica replica)
{
    int slot = sl_raft_config_find(&raft->configs[0], replica.id);
    if (slot < 0 && !SL_RAFT_RULE(REPLICA_ID)) {
        for (unsigned i = 0; i < raft->configs[0].count; i++) {
            if (raft->configs[0].members[i].node == replica.node)
                return (int)i;
        }
    }
    return slot;
}

static const char *check_setup(const struct sl_raft_setup *setup)
{
    const struct sl_raft_tuning *tuning = setup->tuning;
    if (setup->self.id == 0)
        return "the replica has no id";
    if (tuning->election_ns == 0 || tuning->election_ns > 1000 * SL_NS_PER_S ||
        tuning->heartbeat_ns == 0 || tuning->heartbeat_ns > tuning->election_ns / 3 ||
        tuning->drift_ppm > 1000000)
        return "an election time-out is at most 1,000 s, heartbeats a third of it, drift 100 % at "
               "most";
    if (tuning->append_entries == 0 || tuning->window_entries == 0 ||
        tuning->uncommitted_entries == 0)
        return "a limit is 0";
    struct sl_term term = setup->boundary_term;
    struct sl_index last = setup->boundary;
    if (setup->boundary.value > SL_POSITION_MAX || setup->term.value > SL_POSITION_MAX ||
        setup->copying.value > SL_POSITION_MAX || setup->promised.value > SL_POSITION_MAX)
        return "a position that no log reaches";
    for (unsigned i = 0; i < setup->span_count; i++) {
        if (setup->spans[i].count == 0 || setup->spans[i].count > SL_POSITION_MAX)
            return "a span of no entries, or too many";
        if (setup->spans[i].term.value < term.value || setup->spans[i].term.value == 0)
            return "terms fall in the log";
        term = setup->spans[i].term;
        last.value += setup->spans[i].count;
    }
    if (term.value > setup->term.value || setup->promised_term.value > setup->term.value)
        return "the log is of a later term than the one saved";
    if (last.value > SL_POSITION_MAX)
        return "a position that no log reaches";
    if (setup->config != NULL && (!sl_raft_config_is_sound(setup->config) ||
                                  setup->config->index.value > setup->boundary.value))
        return "the configuration at the boundary is unsound";
    struct sl_index before = setup->boundary;
    for (unsigned i = 0; i < setup->config_count; i++) {
        const struct sl_raft_config *config = &setup->configs[i];
        if (!sl_raft_config_is_sound(config) || config->index.value <= before.value ||
            config->index.value > last.value)
            return "a configuration in the log is unsound";
        before = config->index;
    }
    return NULL;
}

/* Takes over the durable log. At least what lies before its boundary is committed. */
static void load_log(struct sl_raft *raft, const struct sl_raft_setup *setup)
{
    sl_raft_log_reset(&raft->log, setup->boundary, setup->boundary_term);
    for (unsigned i = 0; i < setup->span_count; i++) {
        const struct sl_raft_span *span = &setup->spans[i];
        sl_raft_log_append(&raft->log, span->count, span->term, span->bytes);
    }
    raft->log.durable = raft->log.last;
    raft->commit = sl_index_most(sl_index_least(setup->commit, raft->log.last), setup->boundary);
    raft->verified = raft->commit;
    if (setup->config != NULL)
        raft->configs[0] = raft->configs[1] = *setup->config;
    for (unsigned i = 0; i < setup->config_count; i++) {
        raft->configs[1] = raft->configs[0];
        raft->configs[0] = setup->configs[i];
    }
}

int sl_raft_init(void *memory, unsigned terms, const struct sl_raft_setup *setup,
                 struct sl_raft **raft_out, const char **why)
{
    *why = check_setup(setup);
    if (*why == NULL && setup->span_count >= terms)
        *why = "more terms in the log than there is room for";
    if (*why != NULL)
        return -EINVAL;
    struct sl_raft *raft = memory;
    *raft = (struct sl_raft){
        .tuning = setup->tuning,
        .links = setup->links,
        .group = setup->group,
        .now_ns = setup->now_ns,
        .random = setup->seed,
        .self = setup->self,
        .role = SL_RAFT_FOLLOWER,
        .copying = setup->copying.value != 0,
        .copying_index = setup->copying,
        .term = setup->term,
        .vote = setup->vote,
        .log = {.runs = (struct run *)(raft + 1), .run_capacity = terms},
    };
    /* What we granted before the restart is not known: a leader may still count on it. */
    if (SL_RAFT_RULE(QUIET_AFTER_RESTART))
        raft->quiet_ns = setup->now_ns + setup->tuning->election_ns;
    load_log(raft, setup);
    if (!sl_raft_reaches(&raft->log, raft->log.last, setup->promised_term, setup->promised)) {
        raft->promised = setup->promised;
        raft->promised_term = setup->promised_term;
    }
    sl_raft_restart_timer(raft);
    *raft_out = raft;
    return 0;
}

void *sl_raft_grow(struct sl_raft *raft, void *memory, unsigned terms)
{
    struct log *log = &raft->log;
    void *former = log->runs == (struct run *)(raft + 1) ? NULL : log->runs;
    SL_ASSERT(terms > log->run_capacity);
    memcpy(memory, log->runs, log->run_count * sizeof(log->runs[0]));
    log->runs = memory;
    log->run_capacity = terms;
    return former;
}

/* Whether an entry of `term` can be appended; if not, room is asked for. */
bool sl_raft_make_room(struct sl_raft *raft, struct sl_term term)
{
    if (sl_raft_log_make_room(&raft->log, term, raft->commit))
        return true;
    SL_RAFT_COVER(GROW);
    sl_raft_emit(raft, SL_RAFT_DO_GROW);
    return false;
}

static bool is_sane(const struct sl_raft_message *m)
{
    if (m->kind < SL_RAFT_APPEND || m->kind > SL_RAFT_NOT_MEMBER || m->from.id == 0 ||
        m->term.value == 0 || m->term.value > SL_POSITION_MAX || m->index.value > SL_POSITION_MAX ||
        m->hint.value > SL_POSITION_MAX || m->index_term.value > m->term.value)
        return false;
    if (m->kind != SL_RAFT_APPEND)
        return true;
    return (m->index.value == 0) == (m->index_term.value == 0) &&
           (m->count == 0 || (m->entry_term.value >= m->index_term.value &&
                              m->entry_term.value <= m->term.value && m->entry_term.value != 0));
}

/* Whether the configurations that came along lie among the entries, in order, and are sound. */
static bool configs_are_sane(const struct sl_raft_event *event)
{
    const struct sl_raft_message *m = event->message.message;
    struct sl_index before = m->index;
    for (unsigned i = 0; i < event->message.config_count; i++) {
        const struct sl_raft_config *config = &event->message.configs[i];
        if (!sl_raft_config_is_sound(config) || config->index.value <= before.value ||
            config->index.value > m->index.value + m->count)
            return false;
        before = config->index;
    }
    return true;
}

/* §5.1: terms. False if the message has nothing more to say. */
static bool check_term(struct sl_raft *raft, const struct sl_raft_message *m)
{
    bool pre = (m->flags & SL_RAFT_FLAG_PRE) != 0;
    if (m->term.value > raft->term.value) {
        /* Thesis 9.6: neither asking nor being told "I would" moves a term. */
        bool granted = m->kind == SL_RAFT_VOTE_ANSWER && (m->flags & SL_RAFT_FLAG_GRANTED) != 0;
        if (pre && (m->kind == SL_RAFT_VOTE || granted))
            return true;
        if (m->kind == SL_RAFT_VOTE && sl_raft_refuses(raft, m))
            return false; /* thesis 4.2.3: neither its term nor its request is looked at */
        SL_RAFT_COVER(TERM_HIGHER);
        sl_raft_become_follower(raft, m->term,
                                m->kind == SL_RAFT_APPEND ? m->from : (struct sl_raft_replica){0});
        return true;
    }
    if (m->term.value == raft->term.value)
        return true;
    SL_RAFT_COVER(TERM_LOWER);
    struct sl_raft_message answer = {.flags = m->flags & SL_RAFT_FLAG_PRE};
    if (m->kind == SL_RAFT_APPEND) {
        SL_RAFT_COVER(TERM_LOWER_APPEND); /* so that a former leader learns of it */
        answer.kind = SL_RAFT_APPEND_ANSWER;
        answer.flags = SL_RAFT_FLAG_REJECTED;
        sl_raft_answer(raft, m, &answer);
    } else if (m->kind == SL_RAFT_VOTE) {
        SL_RAFT_COVER(VOTE_REFUSED_OLD_TERM);
        answer.kind = SL_RAFT_VOTE_ANSWER;
        sl_raft_answer(raft, m, &answer);
    }
    return false;
}

static void on_not_member(struct sl_raft *raft, const struct sl_raft_message *m)
{
    int slot = sl_raft_config_find(&raft->configs[0], m->from.id);
    if (raft->role != SL_RAFT_LEADER || slot < 0)
        return;
    SL_RAFT_COVER(NOT_MEMBER_HEARD);
    sl_raft_emit(raft, SL_RAFT_DO_GONE)->peer = m->from;
}

static void on_message(struct sl_raft *raft, const struct sl_raft_event *event)
{
    const struct sl_raft_message *m = event->message.message;
    if (!is_sane(m) || !configs_are_sane(event)) {
        sl_raft_complain(raft, "a message that no replica sends");
        return;
    }
    if (m->kind == SL_RAFT_NOT_MEMBER) {
        on_not_member(raft, m);
        return;
    }
    if (m->to.id != raft->self.id && SL_RAFT_RULE(REPLICA_ID)) {
        SL_RAFT_COVER(NOT_MEMBER_SENT);
        struct sl_raft_message answer;
        sl_raft_answer_stranger(m, &answer);
        if (m->kind == SL_RAFT_APPEND || m->kind == SL_RAFT_VOTE)
            sl_raft_emit(raft, SL_RAFT_DO_SEND)->message = answer;
        return;
    }
    if (!check_term(raft, m))
        return;
    switch (m->kind) {
    case SL_RAFT_APPEND:
        sl_raft_on_append(raft, event);
        break;
    case SL_RAFT_APPEND_ANSWER:
        sl_raft_on_append_answer(raft, m);
        break;
    case SL_RAFT_VOTE:
        sl_raft_on_vote(raft, m);
        break;
    case SL_RAFT_VOTE_ANSWER:
        sl_raft_on_vote_answer(raft, m);
        break;
    default:
        sl_raft_on_timeout_now(raft, m);
        break;
    }
}

static void on_written(struct sl_raft *raft, const struct sl_raft_event *event)
{
    sl_raft_log_written(&raft->log, event->done.ticket, event->done.last);
    sl_raft_check_mended(raft);
    if (raft->role == SL_RAFT_LEADER) {
        SL_RAFT_COVER(WRITTEN_LEADER);
        sl_raft_advance_commit(raft);
    } else {
        SL_RAFT_COVER(WRITTEN_FOLLOWER);
        sl_raft_acknowledge(raft);
    }
}

/* A hole in the log must not be written around, nor may a promise be made that is not on disk: the
 * replica says nothing more until it has started again from what its disk holds. */
static void on_failed(struct sl_raft *raft)
{
    if (!SL_RAFT_RULE(STOP_AFTER_FAILURE))
        return;
    if (raft->role == SL_RAFT_LEADER) {
        SL_RAFT_COVER(FAILED_LEADER);
        leave_leadership(raft);
    } else {
        SL_RAFT_COVER(FAILED_FOLLOWER);
    }
    sl_raft_leave_cover(raft);
    raft->role = SL_RAFT_STOPPED;
    raft->leader = (struct sl_raft_replica){0};
    sl_raft_announce(raft);
}

static int dispatch(struct sl_raft *raft, const struct sl_raft_event *event)
{
    switch (event->kind) {
    case SL_RAFT_TICK:
        if (raft->role == SL_RAFT_LEADER)
            sl_raft_leader_tick(raft);
        else
            sl_raft_election_tick(raft);
        return 0;
    case SL_RAFT_MESSAGE:
        on_message(raft, event);
        return 0;
    case SL_RAFT_PROPOSE:
        return sl_raft_on_propose(raft, event->propose.count, event->propose.bytes);
    case SL_RAFT_CHANGE:
        return sl_raft_on_change(raft, event);
    case SL_RAFT_TRANSFER:
        return sl_raft_on_transfer(raft, event->transfer.id);
    case SL_RAFT_READ:
        return sl_raft_on_read(raft);
    case SL_RAFT_SAVED:
        sl_raft_on_saved(raft, event->done.ticket);
        return 0;
    case SL_RAFT_WRITTEN:
        on_written(raft, event);
        return 0;
    case SL_RAFT_FAILED:
        on_failed(raft);
        return 0;
    case SL_RAFT_COMPACTED:
        return sl_raft_on_compacted(raft, event->compacted.index);
    case SL_RAFT_COPYING:
        return sl_raft_on_copying(raft, event);
    case SL_RAFT_COPIED:
        return sl_raft_on_copied(raft, event);
    default:
        return -EINVAL;
    }
}

int sl_raft_step(struct sl_raft *raft, const struct sl_raft_event *event,
                 struct sl_raft_output *output)
{
    output->count = 0;
    output->index = sl_index_of(0);
    output->round = 0;
    if (raft->role == SL_RAFT_STOPPED)
        return -EIO;
    raft->output = output;
    raft->now_ns = sl_max(raft->now_ns, event->now_ns);
    int result = dispatch(raft, event);
    raft->output = NULL;
    return result;
}

uint64_t sl_raft_deadline(const struct sl_raft *raft)
{
    if (raft->role == SL_RAFT_STOPPED)
        return UINT64_MAX;
    if (raft->role == SL_RAFT_LEADER)
        return sl_raft_leader_deadline(raft);
    if (!sl_raft_may_campaign(raft))
        return UINT64_MAX;
    return sl_raft_election_ns(raft);
}

void sl_raft_get_status(const struct sl_raft *raft, struct sl_raft_status *status)
{
    *status = (struct sl_raft_status){
        .role = raft->role,
        .term = raft->term,
        .leader = raft->leader,
        .boundary = raft->log.boundary,
        .last = raft->log.last,
        .durable = raft->log.durable,
        .commit = raft->commit,
        .copying = raft->copying,
        .mending = raft->promised.value != 0,
        .serving = raft->role == SL_RAFT_LEADER && raft->commit.value >= raft->noop.value,
    };
}

const struct sl_raft_config *sl_raft_get_config(const struct sl_raft *raft)
{
    return &raft->configs[0];
}

struct sl_term sl_raft_term_at(const struct sl_raft *raft, struct sl_index index)
{
    return sl_raft_log_term(&raft->log, index);
}

struct sl_index sl_raft_match(const struct sl_raft *raft, uint64_t id)
{
    int slot = sl_raft_config_find(&raft->configs[0], id);
    if (id == raft->self.id)
        return raft->log.durable;
    if (slot < 0 || raft->role != SL_RAFT_LEADER)
        return sl_index_of(0);
    return raft->progress[slot].match;
}
