/*
 * One replica of a group: drives the pure core of src/raft with the log of src/store.
 *
 *   event ─► lock ─► core's step ─► its actions, in order ─► unlock ─► what was written durable? ─►
 *   WRITTEN
 *                                     │ commit, and durable here
 *                                     └► applier: session's verdict ─► store's overlay ─► who waits
 *
 * Invariants
 *  - One step at a time; its actions are done before the next. SAVE and TRUNCATE are durable before
 *    the action behind them; WRITEs are appended in order and awaited outside of the lock.
 *  - An entry is looked at by the applier when it is committed and durable here: so the sessions
 *    never know more than the log on this disk, and their state may go into a root at any time.
 *  - After a failed log write nothing of any group on that store happens any more.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "target/follow.h"
#include "target/replica_state.h"
#include "target/entry_extra.h"

#define APPLY_RETRY_NS (100 * SL_NS_PER_MS)
#define AGAIN_RETRY_NS (10 * SL_NS_PER_MS)

/* Of one WRITE, until it is durable. */
struct log_write {
    struct sl_list node;
    struct sl_store_wait wait;
    uint64_t ticket, last;
};

static void lock_co(struct sl_replica *replica)
{
    if (replica->locked)
        sl_wait_queue_co(&replica->lock); /* handed over: it stays locked */
    else
        replica->locked = true;
}

static void unlock(struct sl_replica *replica)
{
    if (!sl_wait_queue_wake_one(&replica->lock, 0))
        replica->locked = false;
}

static struct sl_raft_status status_of(const struct sl_replica *replica)
{
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    return status;
}

/* ---- who waits ---- */

static void proposals_fail(struct sl_replica *replica, int error)
{
    struct sl_list *node;
    while ((node = sl_list_pop(&replica->decided)) != NULL ||
           (node = sl_list_pop(&replica->proposals)) != NULL)
        sl_wait_wake(&sl_list_entry(node, struct sl_proposal, node)->wait, error);
}

static void reads_end(struct sl_replica *replica, uint64_t round, int result)
{
    sl_list_for_each(node, &replica->reads)
    {
        struct sl_read_wait *read = sl_list_entry(node, struct sl_read_wait, node);
        if (read->round > round)
            continue;
        sl_list_remove(&read->node);
        sl_wait_wake(&read->wait, result);
    }
}

/* ---- actions ---- */

/* Room for what the core writes by itself: a no-op, a configuration. */
static int prepare_own_co(struct sl_replica *replica)
{
    return sl_store_prepare_co(replica->log, SL_ENTRY_NOOP, 0, 0, 0);
}

/* The entry `index` of a WRITE: the caller's, or the core's own. */
static int append_co(struct sl_replica *replica, struct sl_replica_step *step,
                     const struct sl_raft_action *action, uint64_t index,
                     struct sl_store_wait *wait)
{
    uint8_t extra[SL_ENTRY_EXTRA_MAX];
    struct sl_store_entry entry = {.type = SL_ENTRY_NOOP, .extra = extra};
    const struct sl_iobuf *payload = NULL;
    if (action->entry_kind == 0 || action->entry_kind == SL_RAFT_ENTRY_DATA) {
        uint64_t at = action->entry_kind == 0 ? index - step->first_index : 0;
        SL_ASSERT(at < step->entry_count);
        entry = step->entries[at];
        payload = sl_entry_has_payload(entry.type) ? &step->payloads[at] : NULL;
        step->written_first = step->written_first == 0 ? index : step->written_first;
        step->written_last = index;
    } else {
        int error = prepare_own_co(replica);
        if (error < 0)
            return error;
        if (action->entry_kind == SL_RAFT_ENTRY_CONFIG)
            entry.extra_bytes = (uint16_t)sl_entry_extra_put_config(extra, action->config);
    }
    entry.index = index;
    entry.term = action->term.value;
    sl_store_append(replica->log, &entry, payload, wait);
    return 0;
}

static int do_write_co(struct sl_replica *replica, struct sl_replica_step *step,
                       const struct sl_raft_action *action)
{
    struct log_write *write = calloc(1, sizeof(*write));
    if (write == NULL)
        return -ENOMEM;
    write->ticket = action->ticket;
    write->last = action->last.value;
    for (uint64_t index = action->first.value; index <= action->last.value; index++) {
        /* In order: the last one is durable after all others. */
        bool last = index == action->last.value;
        int error = append_co(replica, step, action, index, last ? &write->wait : NULL);
        if (error < 0) {
            free(write);
            return error;
        }
    }
    sl_list_append(&step->writes, &write->node);
    if (action->entry_kind == SL_RAFT_ENTRY_DATA && step->proposal != NULL) {
        step->proposal->index = action->last.value;
        step->proposal->term = action->term.value;
        sl_list_append(&replica->proposals, &step->proposal->node);
    }
    return 0;
}

static void do_send(struct sl_replica *replica, struct sl_replica_step *step,
                    const struct sl_raft_message *message)
{
    struct sl_carrier *carrier = step->carrier;
    bool answers = message->kind == SL_RAFT_APPEND_ANSWER || message->kind == SL_RAFT_VOTE_ANSWER ||
                   message->kind == SL_RAFT_NOT_MEMBER;
    if (carrier != NULL && !carrier->set && answers && carrier->node == message->to.node) {
        carrier->message = *message;
        carrier->set = true;
        return;
    }
    sl_replica_send(replica, message);
}

static void do_role(struct sl_replica *replica, const struct sl_raft_action *action)
{
    static const char *const names[] = {"?",         "follower", "pre-candidate",
                                        "candidate", "leader",   "stopped"};
    sl_log_info("raft", "group %u: %s in term %llu, leader is node %u", replica->group,
                names[action->role], (unsigned long long)action->term.value, action->peer.node);
    /* Whether what was proposed will commit is another leader's to say: its clients ask there. */
    proposals_fail(replica, -SL_E_MOVED);
    reads_end(replica, UINT64_MAX, -SL_E_MOVED);
    sl_wait_queue_wake_all(&replica->progress, 0);
    sl_cluster_share_logs(replica->cluster);
}

static int do_grow(struct sl_replica *replica)
{
    void *room = malloc((size_t)replica->terms * 2 * 16);
    if (room == NULL)
        return -ENOMEM;
    replica->terms *= 2;
    free(sl_raft_grow(replica->raft, room, replica->terms));
    replica->room = room;
    return 0;
}

static int perform_co(struct sl_replica *replica, struct sl_replica_step *step,
                      const struct sl_raft_action *action, uint64_t *saved_ticket)
{
    switch (action->kind) {
    case SL_RAFT_DO_SAVE:
        *saved_ticket = action->ticket;
        return sl_store_vote_co(replica->log, action->term.value, action->peer.id);
    case SL_RAFT_DO_TRUNCATE:
        return sl_store_truncate_co(replica->log, action->first.value);
    case SL_RAFT_DO_WRITE:
        return do_write_co(replica, step, action);
    case SL_RAFT_DO_SEND:
        do_send(replica, step, &action->message);
        return 0;
    case SL_RAFT_DO_COMMIT:
        sl_wait_queue_wake_all(&replica->progress, 0);
        return 0;
    case SL_RAFT_DO_ROLE:
        do_role(replica, action);
        return 0;
    case SL_RAFT_DO_READ:
        reads_end(replica, action->round, 0);
        return 0;
    case SL_RAFT_DO_RESYNC:
        sl_replica_resync(replica, action->peer);
        return 0;
    case SL_RAFT_DO_CONFIG:
    case SL_RAFT_DO_MENDED: /* comes only to those that were started with a promise */
        return 0;
    case SL_RAFT_DO_GONE:
        sl_log_warn(
            "raft",
            "group %u: node %u has no replica %016llx any more: add a new one as a learner, "
            "then remove this one",
            replica->group, action->peer.node, (unsigned long long)action->peer.id);
        return 0;
    case SL_RAFT_DO_GROW:
        return do_grow(replica);
    case SL_RAFT_DO_COMPLAIN:
        sl_log_warn("raft", "group %u: a peer broke the protocol: %s", replica->group,
                    action->text);
        return 0;
    }
    return 0;
}

/* ---- steps ---- */

static int step_once_co(struct sl_replica *replica, struct sl_raft_event *event,
                        struct sl_replica_step *step, uint64_t *saved_ticket)
{
    struct sl_raft_output *output = replica->output;
    event->now_ns = sl_cluster_now_ns(replica->cluster);
    int result = sl_raft_step(replica->raft, event, output);
    if (event->kind == SL_RAFT_PROPOSE || event->kind == SL_RAFT_READ ||
        event->kind == SL_RAFT_CHANGE) {
        step->index = output->index.value;
        step->round = output->round;
    }
    /* Before the actions: its round may be confirmed by them. */
    if (event->kind == SL_RAFT_READ && result == 0 && output->round != 0) {
        step->read->round = output->round;
        sl_list_append(&replica->reads, &step->read->node);
    }
    for (unsigned i = 0; i < output->count; i++) {
        int error = perform_co(replica, step, &output->actions[i], saved_ticket);
        if (error < 0)
            return error == -ESHUTDOWN ? error : -EIO;
    }
    return result;
}

/* What the store has let go of its log is told the core before anything else. */
static void note_compaction(struct sl_replica *replica, struct sl_replica_step *step)
{
    struct sl_store_group_status status;
    sl_store_group_status(replica->log, &status);
    if (status.boundary_index <= replica->compacted)
        return;
    replica->compacted = status.boundary_index;
    struct sl_raft_event event = {.kind = SL_RAFT_COMPACTED,
                                  .now_ns = sl_cluster_now_ns(replica->cluster),
                                  .compacted.index = sl_index_of(status.boundary_index)};
    if (status.boundary_index > status_of(replica).boundary.value)
        (void)sl_raft_step(replica->raft, &event, replica->output);
}

static void arm(struct sl_replica *replica)
{
    struct sl_reactor *reactor = replica->cluster->target->reactor;
    uint64_t deadline_ns = sl_raft_deadline(replica->raft);
    if (replica->cluster->closing || replica->failed || deadline_ns == UINT64_MAX)
        return;
    if (!sl_timer_is_armed(&replica->timer) || deadline_ns < replica->timer.deadline_ns)
        sl_timer_arm(reactor, &replica->timer, deadline_ns);
}

static void applier_kick(struct sl_replica *replica);

static int step_locked_co(struct sl_replica *replica, struct sl_raft_event *event,
                          struct sl_replica_step *step)
{
    uint64_t ticket = 0;
    if (step->expected_term != 0 && status_of(replica).term.value != step->expected_term)
        return -SL_E_MOVED; /* what was admitted in one term is not proposed in another */
    note_compaction(replica, step);
    int result = step_once_co(replica, event, step, &ticket);
    /* A saved vote may be the last one that a lone voter needs: that saves and writes more. */
    while (ticket != 0 && result != -EIO && result != -ESHUTDOWN) {
        struct sl_raft_event saved = {.kind = SL_RAFT_SAVED, .done.ticket = ticket};
        ticket = 0;
        int error = step_once_co(replica, &saved, step, &ticket);
        result = error == -EIO || error == -ESHUTDOWN ? error : result;
    }
    return result;
}

/* Everything that the step wrote is durable, and the core knows it. */
static int finish_writes_co(struct sl_replica *replica, struct sl_replica_step *step)
{
    struct sl_list *node;
    int result = 0;
    step->expected_term = 0;
    while ((node = sl_list_pop(&step->writes)) != NULL) {
        struct log_write *write = sl_list_entry(node, struct log_write, node);
        int error = sl_store_durable_co(&write->wait);
        struct sl_raft_event event = {
            .kind = SL_RAFT_WRITTEN,
            .done = {.ticket = write->ticket, .last = sl_index_of(write->last)}};
        free(write);
        if (error < 0)
            result = -EIO;
        if (result < 0)
            continue;
        lock_co(replica);
        if (!replica->failed && !replica->cluster->closing) {
            int stepped = step_locked_co(replica, &event, step);
            result = stepped == -EIO || stepped == -ESHUTDOWN ? stepped : 0;
            arm(replica);
            applier_kick(replica);
        }
        unlock(replica);
    }
    return result;
}

int sl_replica_step_co(struct sl_replica *replica, struct sl_raft_event *event,
                       struct sl_replica_step *step)
{
    sl_list_init(&step->writes);
    lock_co(replica);
    int result = replica->cluster->closing ? -ESHUTDOWN : replica->failed ? -EIO : 0;
    bool stepped = result == 0;
    if (stepped) {
        result = step_locked_co(replica, event, step);
        if (replica->feed_count > 0)
            sl_replica_feed(replica);
        arm(replica);
        applier_kick(replica);
    }
    unlock(replica);
    if (step->has_turn)
        sl_replica_turn_pass(replica);
    int error = finish_writes_co(replica, step);
    if (error == -EIO || (stepped && result == -EIO)) {
        if (!replica->failed)
            sl_cluster_store_failed_co(replica);
        return -EIO;
    }
    return error < 0 && result == 0 ? error : result;
}

int sl_replica_event_co(struct sl_replica *replica, struct sl_raft_event *event)
{
    struct sl_replica_step step = {0};
    return sl_replica_step_co(replica, event, &step);
}

/* ---- entries in the order in which they came ---- */

uint64_t sl_replica_turn_take(struct sl_replica *replica)
{
    return replica->turn_next++;
}

void sl_replica_turn_wait_co(struct sl_replica *replica, uint64_t turn)
{
    while (replica->turn != turn)
        sl_wait_queue_co(&replica->turns);
}

void sl_replica_turn_pass(struct sl_replica *replica)
{
    replica->turn++;
    sl_wait_queue_wake_all(&replica->turns, 0);
}

/* ---- time ---- */

static void tick_co(void *argument)
{
    struct sl_replica *replica = argument;
    struct sl_raft_event event = {.kind = SL_RAFT_TICK};
    replica->tick_pending = false;
    (void)sl_replica_event_co(replica, &event);
    sl_cluster_leave(replica->cluster);
}

void sl_replica_tick(struct sl_replica *replica)
{
    if (replica->tick_pending || replica->cluster->closing || replica->failed)
        return;
    replica->tick_pending = sl_cluster_spawn(replica->cluster, tick_co, replica) == 0;
    if (!replica->tick_pending) /* no memory: a little later */
        sl_timer_arm(replica->cluster->target->reactor, &replica->timer,
                     sl_cluster_now_ns(replica->cluster) + APPLY_RETRY_NS);
}

/* The next of the moments at which idle groups look at their deadlines: all of a reactor's at the
 * same ones, a quarter of a heartbeat apart, for each wakes it. Another node's are others, or
 * followers would campaign together. */
static uint64_t common_moment(const struct sl_target_cluster *cluster, uint64_t deadline_ns)
{
    uint64_t step_ns = cluster->tuning.heartbeat_ns / 4 + 1;
    uint64_t past_ns = (deadline_ns + cluster->config.instance % step_ns) % step_ns;
    return past_ns == 0 ? deadline_ns : deadline_ns + (step_ns - past_ns);
}

/* Shared heartbeats move the deadline on without a step: an idle group looks once an election
 * time-out, and sleeps again. */
static void timer_fired(struct sl_timer *timer)
{
    struct sl_replica *replica = sl_container_of(timer, struct sl_replica, timer);
    struct sl_target_cluster *cluster = replica->cluster;
    uint64_t deadline_ns = sl_raft_deadline(replica->raft);
    if (deadline_ns <= sl_cluster_now_ns(cluster))
        sl_replica_tick(replica);
    else if (!cluster->closing && !replica->failed && deadline_ns != UINT64_MAX)
        sl_timer_arm(cluster->target->reactor, timer, common_moment(cluster, deadline_ns));
}

/* ---- apply ---- */

static void note_skip(struct sl_replica *replica, uint64_t index)
{
    struct sl_store_group_status status;
    unsigned kept = 0;
    sl_store_group_status(replica->log, &status);
    for (unsigned i = 0; i < replica->skip_count; i++) {
        if (replica->skips[i] > status.boundary_index)
            replica->skips[kept++] = replica->skips[i];
    }
    replica->skip_count = kept;
    if (replica->skip_count == replica->skip_room) {
        unsigned room = replica->skip_room * 2 + 16;
        uint64_t *skips = realloc(replica->skips, room * sizeof(*skips));
        SL_ASSERT(skips != NULL); /* without it the next state would be wrong */
        replica->skips = skips;
        replica->skip_room = room;
    }
    replica->skips[replica->skip_count++] = index;
    sl_store_entry_skip(replica->log, index);
}

/* Whoever proposed the entry is told when it is applied; with verdict 0, that another one took its
 * place. */
static void proposal_decided(struct sl_replica *replica, uint64_t index, uint64_t term,
                             enum sl_verdict verdict, uint64_t epoch)
{
    struct sl_list *first;
    while ((first = sl_list_first(&replica->proposals)) != NULL) {
        struct sl_proposal *proposal = sl_list_entry(first, struct sl_proposal, node);
        if (proposal->index > index)
            break;
        if (proposal->index == index && proposal->term == term) {
            proposal->verdict = verdict;
            proposal->epoch = epoch;
        }
        sl_list_remove(&proposal->node);
        sl_list_append(&replica->decided, &proposal->node);
    }
}

/* The sessions' word on the next entry, before any data is touched. */
static void decide(struct sl_replica *replica, uint64_t index)
{
    struct sl_store_entry entry = {0};
    struct sl_entry_extra extra = {0};
    (void)sl_store_entry_get(replica->log, index, &entry);
    const char *why = entry.index == index
                          ? sl_entry_extra_get(entry.extra, entry.extra_bytes, index, &extra)
                          : "it is missing";
    if (why != NULL)
        sl_log_error("raft", "group %u: entry %llu is committed and unreadable: %s", replica->group,
                     (unsigned long long)index, why);
    bool command = extra.kind == SL_EXTRA_COMMAND && why == NULL;
    enum sl_verdict verdict =
        sl_session_apply(replica->sessions, sl_index_of(index), command ? &extra.command : NULL);
    if (command)
        sl_replica_session_used(replica, &extra.command);
    if (extra.kind == SL_EXTRA_CONFIG && why == NULL)
        replica->applied_config = extra.config;
    if ((entry.type == SL_ENTRY_WRITE || entry.type == SL_ENTRY_ZERO) &&
        !(command && extra.command.kind == SL_COMMAND_WRITE && verdict == SL_VERDICT_APPLY))
        note_skip(replica, index);
    uint64_t epoch = command ? sl_session_epoch(replica->sessions, extra.command.volume) : 0;
    proposal_decided(replica, index, entry.term, verdict, epoch);
}

static void wake_applied(struct sl_replica *replica)
{
    struct sl_list *first;
    while ((first = sl_list_first(&replica->decided)) != NULL) {
        struct sl_proposal *proposal = sl_list_entry(first, struct sl_proposal, node);
        if (proposal->index > replica->applied)
            break;
        sl_list_remove(&proposal->node);
        sl_wait_wake(&proposal->wait, proposal->verdict != 0 ? 0 : -SL_E_MOVED);
    }
    sl_wait_queue_wake_all(&replica->progress, 0);
}

static uint64_t applicable(const struct sl_replica *replica)
{
    struct sl_raft_status status = status_of(replica);
    return status.copying || replica->copying != 0
               ? 0
               : sl_min(status.commit.value, status.durable.value);
}

static void applier_co(void *argument)
{
    struct sl_replica *replica = argument;
    while (!replica->cluster->closing && !replica->failed &&
           replica->applied < applicable(replica)) {
        uint64_t to = applicable(replica);
        uint64_t decided = sl_session_index(replica->sessions).value;
        while (decided < to)
            decide(replica, ++decided);
        int error = sl_store_apply_co(replica->log, to);
        if (error == 0) {
            replica->applied = to;
            wake_applied(replica);
        } else if (sl_store_failed(replica->store) != 0) {
            break; /* whoever writes next stops the group */
        } else {
            sl_log_error("raft", "group %u: entries up to %llu cannot be applied yet: %s (%s)",
                         replica->group, (unsigned long long)to, sl_error_text(error),
                         sl_error_name(error));
            sl_wait_queue_until_co(&replica->cluster->stop,
                                   sl_cluster_now_ns(replica->cluster) + APPLY_RETRY_NS);
        }
    }
    replica->applier_running = false;
    sl_wait_queue_wake_all(&replica->progress, 0);
    sl_cluster_leave(replica->cluster);
}

static void applier_kick(struct sl_replica *replica)
{
    if (replica->applier_running || replica->cluster->closing || replica->failed ||
        replica->applied >= applicable(replica))
        return;
    replica->applier_running = sl_cluster_spawn(replica->cluster, applier_co, replica) == 0;
}

/* ---- requests ---- */

/* What keeps a request back may also end by time alone: a transfer of the leadership. */
static void wait_a_little_co(struct sl_replica *replica)
{
    sl_wait_queue_until_co(&replica->progress,
                           sl_cluster_now_ns(replica->cluster) + AGAIN_RETRY_NS);
}

static int propose_co(struct sl_replica *replica, struct sl_store_entry *entry,
                      const struct sl_iobuf *payload, struct sl_proposal *proposal)
{
    struct sl_raft_status status = status_of(replica);
    struct sl_replica_step step = {
        .entries = entry, .payloads = payload, .entry_count = 1, .proposal = proposal};
    struct sl_raft_event event = {.kind = SL_RAFT_PROPOSE, .propose = {.count = 1}};
    event.propose.bytes = payload != NULL ? payload->length_bytes : 0;
    if (status.role != SL_RAFT_LEADER)
        return -SL_E_MOVED;
    step.expected_term = status.term.value;
    sl_wait_init(&proposal->wait);
    proposal->verdict = 0;
    int error = sl_store_prepare_co(replica->log, entry->type, entry->chunk, entry->first_block,
                                    entry->block_count);
    /* Another group's write, or a checkpoint, has failed: who leads here must end as well, so that
     * another leader takes the write. */
    if (error < 0 && sl_store_failed(replica->store) != 0) {
        sl_cluster_store_failed_co(replica);
        return -SL_E_MOVED;
    }
    if (error < 0)
        return error;
    for (;;) {
        step.written_first = 0;
        error = sl_replica_step_co(replica, &event, &step);
        if (error != -EAGAIN || replica->cluster->closing)
            break;
        wait_a_little_co(replica);
    }
    if (step.written_first == 0) {
        sl_store_unprepare(replica->log, entry->type, entry->block_count);
        return error < 0 ? error : -SL_E_MOVED;
    }
    return 0;
}

int sl_replica_propose_co(struct sl_replica *replica, struct sl_store_entry *entry,
                          const struct sl_iobuf *payload, struct sl_proposal *proposal)
{
    uint64_t bytes = payload != NULL ? payload->length_bytes : SL_BLOCK_BYTES;
    /* Room in the log is not taken before the core can take the entry: those of other groups, which
     * others wait for, would not come in. And what waits for its commit cannot be freed. */
    sl_gate_enter_co(&replica->proposing, bytes, &replica->tuning.uncommitted_bytes);
    sl_gate_enter_co(&replica->log_share->gate, bytes, &replica->log_share->bytes_max);
    int error = propose_co(replica, entry, payload, proposal);
    sl_gate_leave(&replica->proposing, bytes);
    /* It stands in the log: only its commit, or the end of this leadership, says what became of
     * it. */
    if (error == 0)
        error = (int)sl_wait_co(&proposal->wait);
    sl_gate_leave(&replica->log_share->gate, bytes);
    return error;
}

int sl_replica_read_index_co(struct sl_replica *replica, uint64_t *index)
{
    if (sl_raft_has_lease(replica->raft, sl_cluster_now_ns(replica->cluster)) && !replica->failed) {
        *index = status_of(replica).commit.value;
        return 0;
    }
    struct sl_read_wait read;
    struct sl_replica_step step = {.read = &read};
    struct sl_raft_event event = {.kind = SL_RAFT_READ};
    int error;
    sl_wait_init(&read.wait);
    while ((error = sl_replica_step_co(replica, &event, &step)) == -EAGAIN)
        wait_a_little_co(replica);
    if (error == 0 && step.round != 0)
        error = (int)sl_wait_co(&read.wait);
    *index = step.index;
    return error == -EIO ? -SL_E_MOVED : error; /* its log has failed, not the read */
}

int sl_replica_read_barrier_co(struct sl_replica *replica)
{
    uint64_t index;
    int error = sl_replica_read_index_co(replica, &index);
    if (error < 0)
        return error;
    while (replica->applied < index) {
        if (replica->failed || replica->cluster->closing)
            return replica->failed ? -SL_E_MOVED : -ESHUTDOWN;
        sl_wait_queue_co(&replica->progress);
    }
    return 0;
}

bool sl_replica_has_member(const struct sl_replica *replica, uint64_t id, uint32_t node)
{
    const struct sl_raft_config *config = sl_raft_get_config(replica->raft);
    for (unsigned i = 0; i < config->count; i++) {
        if (config->members[i].id == id && config->members[i].node == node)
            return true;
    }
    return false;
}

/* ---- life ---- */

void sl_replica_stop(struct sl_replica *replica)
{
    sl_timer_cancel(replica->cluster->target->reactor, &replica->timer);
    proposals_fail(replica, -SL_E_MOVED);
    reads_end(replica, UINT64_MAX, -SL_E_MOVED);
    sl_replica_feed(replica);
    sl_wait_queue_wake_all(&replica->progress, 0);
    for (unsigned i = 0; i < SL_RAFT_MEMBERS_MAX; i++)
        sl_wait_queue_wake_all(&replica->lanes[i].answers, 0);
}

void sl_replica_free(struct sl_replica *replica)
{
    if (replica == NULL)
        return;
    SL_ASSERT(sl_list_is_empty(&replica->proposals) && sl_list_is_empty(&replica->decided) &&
              sl_list_is_empty(&replica->reads));
    sl_timer_cancel(replica->cluster->target->reactor, &replica->timer);
    sl_list_remove(&replica->node);
    sl_list_remove(&replica->hash);
    free(replica->memory);
    free(replica->room);
    free(replica->session_memory);
    free(replica->output);
    free(replica->skips);
    free(replica->uses);
    free(replica);
}

/* Terms and configurations of the log behind the state's index, as the core wants to be told. */
struct log_tale {
    struct sl_raft_span *spans;
    struct sl_raft_config *configs;
    unsigned span_count, config_count;
};

static int tell_log(const struct sl_replica *replica, uint64_t index, uint64_t last, uint64_t term,
                    struct log_tale *tale)
{
    uint64_t count = last > index ? last - index : 0;
    tale->spans = calloc(count + 1, sizeof(*tale->spans));
    tale->configs = calloc(count + 1, sizeof(*tale->configs));
    if (tale->spans == NULL || tale->configs == NULL)
        return -ENOMEM;
    for (uint64_t at = index + 1; at <= last; at++) {
        struct sl_store_entry entry = {0};
        struct sl_entry_extra extra;
        (void)sl_store_entry_get(replica->log, at, &entry);
        /* A missing one has the term of the one before: the resync that has to come replaces it. */
        term = entry.index == at ? entry.term : sl_max(term, UINT64_C(1));
        struct sl_raft_span *span = &tale->spans[tale->span_count];
        if (tale->span_count == 0 || span[-1].term.value != term) {
            span->term = sl_term_of(term);
            tale->span_count++;
        } else {
            span--;
        }
        span->count++;
        span->bytes += sl_entry_has_payload(entry.type) ? entry.block_count * SL_BLOCK_BYTES : 0;
        if (entry.index == at &&
            sl_entry_extra_get(entry.extra, entry.extra_bytes, at, &extra) == NULL &&
            extra.kind == SL_EXTRA_CONFIG)
            tale->configs[tale->config_count++] = extra.config;
    }
    return 0;
}

static int start_core(struct sl_replica *replica, const struct sl_replica_memory *memory,
                      const struct sl_store_group_status *status, const char **why)
{
    struct sl_target_cluster *cluster = replica->cluster;
    struct log_tale tale = {0};
    bool has_config = memory->config.count > 0;
    int error = tell_log(replica, memory->index, status->last_index, memory->term, &tale);
    replica->terms = sl_max((unsigned)SL_RAFT_TERMS, tale.span_count + 2);
    replica->memory = malloc(sl_raft_bytes(replica->terms));
    if (replica->memory == NULL)
        error = -ENOMEM;
    struct sl_raft_setup setup = {
        .group = replica->group,
        .self = {replica->id, cluster->config.node},
        .tuning = &replica->tuning,
        .links = cluster->links,
        .seed = sl_reactor_random_u64(cluster->target->reactor),
        .now_ns = sl_cluster_now_ns(cluster),
        .term = sl_term_of(status->term),
        .vote = {status->vote, 0},
        .commit = sl_index_of(status->committed_index),
        .copying = sl_index_of(replica->copying),
        .boundary = sl_index_of(memory->index),
        .boundary_term = sl_term_of(memory->term),
        .config = has_config ? &memory->config : NULL,
        .spans = tale.spans,
        .span_count = tale.span_count,
        .configs = tale.configs,
        .config_count = tale.config_count,
    };
    if (error == 0)
        error = sl_raft_init(replica->memory, replica->terms, &setup, &replica->raft, why);
    free(tale.spans);
    free(tale.configs);
    return error;
}

/* Sessions as of the state; what the log has up to there is applied, but what was decided not to.
 */
static int load_co(struct sl_replica *replica, const struct sl_replica_memory *memory,
                   const struct sl_store_group_status *status, const char **why)
{
    uint64_t *bytes = malloc(memory->session_bytes + 8);
    replica->session_memory =
        malloc(sl_session_bytes(SL_REPLICA_SESSIONS_MAX, SL_REPLICA_VOLUMES_MAX));
    replica->skip_room = memory->skip_count + 16;
    replica->skips = calloc(replica->skip_room, sizeof(*replica->skips));
    replica->output = malloc(sizeof(*replica->output));
    if (bytes == NULL || replica->session_memory == NULL || replica->skips == NULL ||
        replica->output == NULL) {
        free(bytes);
        return -ENOMEM;
    }
    replica->sessions =
        sl_session_init(replica->session_memory, SL_REPLICA_SESSIONS_MAX, SL_REPLICA_VOLUMES_MAX);
    memcpy(bytes, memory->sessions, memory->session_bytes); /* header: sessions */
    *why = "its sessions do not load";
    int error = memory->session_bytes > 0
                    ? sl_session_load(replica->sessions, bytes, memory->session_bytes)
                    : 0;
    free(bytes);
    if (error == 0 && (sl_session_index(replica->sessions).value != memory->index ||
                       memory->index > status->last_index)) {
        *why = "its state is newer than its log";
        error = -SL_E_PROTOCOL;
    }
    for (unsigned i = 0; error == 0 && i < memory->skip_count; i++) {
        uint64_t index;
        memcpy(&index, memory->skips + i * sizeof(index), sizeof(index)); /* header: index */
        if (index <= status->applied_index)
            continue;
        replica->skips[replica->skip_count++] = index;
        sl_store_entry_skip(replica->log, index);
    }
    *why = "what its log has cannot be applied";
    /* In the midst of a resync, too: the source is told that this much is here. What it has given
     * by then is newer, and stays. */
    if (error == 0 && memory->index > status->applied_index)
        error = sl_store_apply_co(replica->log, memory->index);
    replica->applied = memory->index;
    replica->applied_config = memory->config;
    return error;
}

static struct sl_replica *make(struct sl_target_cluster *cluster, struct sl_store *store,
                               struct sl_store_group *log, uint32_t group)
{
    struct sl_replica *replica = calloc(1, sizeof(*replica));
    if (replica == NULL)
        return NULL;
    replica->cluster = cluster;
    replica->store = store;
    replica->log = log;
    replica->group = group;
    replica->tuning = cluster->tuning;
    replica->log_share = sl_cluster_log_share(cluster, store);
    sl_wait_queue_init(&replica->lock);
    sl_gate_init(&replica->proposing);
    sl_wait_queue_init(&replica->progress);
    sl_wait_queue_init(&replica->turns);
    for (unsigned i = 0; i < SL_RAFT_MEMBERS_MAX; i++) {
        sl_wait_queue_init(&replica->lanes[i].waiters);
        sl_wait_queue_init(&replica->lanes[i].answers);
    }
    sl_list_init(&replica->proposals);
    sl_list_init(&replica->decided);
    sl_list_init(&replica->reads);
    sl_list_append(&cluster->replicas, &replica->node);
    sl_list_append(&cluster->hash[group % SL_CLUSTER_HASH], &replica->hash);
    sl_timer_init(&replica->timer, timer_fired);
    return replica;
}

/* Whether records that were durable are gone from the log: with entries, a vote may be among them,
 * and who forgets a vote can give it twice (Raft §5.2). Such a replica never comes back. (A damaged
 * payload is another matter: everything is known of it but its bytes.) */
static bool has_forgotten(const struct sl_store *store, const struct sl_store_group_status *status)
{
    struct sl_store_statistics statistics;
    sl_store_statistics(store, &statistics);
    if (statistics.missing_batch_count == 0 &&
        (status->faulty_first == 0 || status->faulty_is_payload))
        return false;
    sl_log_error("target",
                 "group %llu: parts of the log that were durable are missing: this replica may "
                 "have forgotten whom it voted for, and does not take part any more. While the "
                 "others are a majority nothing is lost: format the disk anew, then `sluice group "
                 "add-learner` and `promote` a new replica here, and `remove` this one",
                 (unsigned long long)status->group);
    return true;
}

/* The mark of a resync that did not begin, for the log had the state by then; or the entry there is
 * another one, then this replica wins no vote, and is given what it lacks. Who went on copying
 * would never lead, and may be the only one who has the newest entry (cluster_sim, seed 10010300).
 */
static bool log_has_state(const struct sl_replica_memory *memory,
                          const struct sl_store_group_status *status)
{
    return memory->copying != 0 && status->boundary_index <= memory->index &&
           status->last_index >= memory->copying &&
           (status->faulty_first == 0 || status->faulty_first > memory->copying);
}

int sl_replica_open_co(struct sl_target_cluster *cluster, struct sl_store *store,
                       struct sl_store_group *log)
{
    struct sl_store_group_status status;
    struct sl_replica_memory memory = {0};
    const char *why = NULL;
    sl_store_group_status(log, &status);
    why = sl_replica_state_parse(sl_store_state(log), status.state_bytes, &memory);
    if (why != NULL) {
        sl_log_error("target",
                     "group %llu: its state on the disk cannot be used: %s; it is not "
                     "served here",
                     (unsigned long long)status.group, why);
        return -SL_E_PROTOCOL;
    }
    if (has_forgotten(store, &status))
        return -SL_E_CHECKSUM;
    struct sl_replica *replica = make(cluster, store, log, (uint32_t)status.group);
    if (replica == NULL)
        return -ENOMEM;
    replica->id = memory.replica;
    replica->size_bytes = memory.size_bytes;
    replica->copying = log_has_state(&memory, &status) ? 0 : memory.copying;
    replica->compacted = status.boundary_index;
    int error = load_co(replica, &memory, &status, &why);
    if (error == 0)
        error = start_core(replica, &memory, &status, &why);
    if (error < 0) {
        sl_log_error("target", "group %u cannot be started: %s: %s (%s)", replica->group, why,
                     sl_error_text(error), sl_error_name(error));
        sl_replica_free(replica);
        return error;
    }
    replica->opened = true;
    sl_cluster_share_logs(replica->cluster);
    replica->opened_ns = sl_cluster_now_ns(cluster);
    arm(replica);
    return 0;
}
