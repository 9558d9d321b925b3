/*
 * One replica of the Raft simulator: does the core's actions on a simulated durable log and applies
 * what is committed. The disk works off its operations in order; a crash takes those that are not
 * done, or tears them; a failed one takes all behind it.
 */
#include "sim/raft/cluster.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- logs */

const struct entry *log_at(const struct entry_log *log, uint64_t index)
{
    return index >= log->first && index < log->first + log->count
               ? &log->entries[index - log->first]
               : NULL;
}

uint64_t log_last(const struct entry_log *log)
{
    return log->first + log->count - 1;
}

static void log_append(struct entry_log *log, const struct entry *entry)
{
    if (log->count == log->capacity) {
        log->capacity = log->capacity * 2 + 64;
        log->entries = realloc(log->entries, log->capacity * sizeof(*entry));
        SL_ASSERT(log->entries != NULL);
    }
    log->entries[log->count++] = *entry;
}

static void log_truncate(struct entry_log *log, uint64_t first)
{
    if (first < log->first + log->count)
        log->count = first <= log->first ? 0 : (uint32_t)(first - log->first);
}

/* The log begins behind `boundary` from now on. */
static void log_drop(struct entry_log *log, uint64_t boundary)
{
    if (boundary < log->first)
        return;
    uint64_t gone = sl_min((uint64_t)log->count, boundary + 1 - log->first);
    if (gone > 0)
        memmove(log->entries, log->entries + gone, (log->count - gone) * sizeof(struct entry));
    log->count -= (uint32_t)gone;
    log->first = boundary + 1;
}

static void log_clear(struct entry_log *log, uint64_t boundary)
{
    log->count = 0;
    log->first = boundary + 1;
}

struct sl_raft_status replica_status(const struct replica *replica)
{
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    return status;
}

/* ---- disk */

static void free_op(struct disk_op *op)
{
    free(op->entries);
    free(op->snapshot);
    free(op);
}

static void drop_queue(struct replica *replica)
{
    while (replica->queue != NULL) {
        struct disk_op *op = replica->queue;
        replica->queue = op->next;
        free_op(op);
    }
    replica->queue_end = &replica->queue;
}

static void submit(struct cluster *cluster, struct replica *replica, struct disk_op op,
                   uint64_t extra_ns)
{
    struct node *node = &cluster->nodes[replica->node];
    struct disk_op *kept = malloc(sizeof(*kept));
    SL_ASSERT(kept != NULL);
    uint64_t delay_ns = cluster_range(cluster, cluster->disk_least_ns, cluster->disk_most_ns);
    if (cluster->now_ns < node->disk_slow_until_ns)
        delay_ns += cluster_range(cluster, 0, node->disk_slow_ns);
    if (node->fail_next_write && (op.kind == OP_WRITE || op.kind == OP_SAVE)) {
        node->fail_next_write = false;
        op.fails = true;
    }
    op.done_ns = sl_max(replica->disk_busy_ns, cluster->now_ns) + delay_ns + extra_ns;
    op.done_ns = sl_max(op.done_ns, node->disk_stuck_until_ns);
    replica->disk_busy_ns = op.done_ns;
    op.next = NULL;
    *kept = op;
    *replica->queue_end = kept;
    replica->queue_end = &kept->next;
    cluster_disk_event(cluster, replica, op.done_ns);
}

/* The first `count` entries of a WRITE reach the medium. */
static void write_entries(struct disk *disk, const struct disk_op *op, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t index = op->first + i;
        if (index < disk->log.first)
            continue;
        log_truncate(&disk->log, index);
        while (log_last(&disk->log) + 1 < index) {
            log_append(&disk->log, &(struct entry){.id = 0}); /* a hole */
            disk->log.holed = true;
        }
        log_append(&disk->log, &op->entries[i]);
    }
}

static void reach_medium(struct replica *replica, const struct disk_op *op)
{
    struct disk *disk = &replica->disk;
    switch (op->kind) {
    case OP_SAVE:
        disk->term = op->term;
        disk->vote = op->vote;
        break;
    case OP_WRITE:
        write_entries(disk, op, op->last - op->first + 1);
        disk->applied = sl_max(disk->applied, op->applied);
        break;
    case OP_TRUNCATE:
        log_truncate(&disk->log, op->first);
        break;
    case OP_MENDED:
        disk->promised = disk->promised_term = 0;
        break;
    case OP_COPYING:
        disk->copying = true;
        disk->copying_index = sl_max(disk->copying_index, op->first);
        break;
    case OP_SNAPSHOT:
        if (op->mark_void) {
            disk->copying = false;
            disk->copying_index = 0;
        }
        if (op->snapshot->index > disk->snapshot.index) {
            disk->snapshot = *op->snapshot;
            log_drop(&disk->log, op->snapshot->index);
        }
        break;
    case OP_INSTALL: {
        const struct entry *at = log_at(&disk->log, op->snapshot->index);
        /* As the core decides (sl_raft_on_copied): the log goes on behind S if it has that entry,
         * be it the last one that is gone. */
        bool keep = at != NULL ? at->term == op->snapshot->term
                               : disk->snapshot.index == op->snapshot->index &&
                                     disk->snapshot.term == op->snapshot->term;
        disk->snapshot = *op->snapshot;
        disk->copying = false;
        disk->copying_index = 0;
        if (keep)
            log_drop(&disk->log, op->snapshot->index);
        else
            log_clear(&disk->log, op->snapshot->index);
        break;
    }
    }
}

/* ---- state machine */

static struct snapshot *take_snapshot(struct replica *replica)
{
    struct snapshot *snapshot = calloc(1, sizeof(*snapshot));
    SL_ASSERT(snapshot != NULL);
    snapshot->index = replica->applied;
    const struct entry *entry = log_at(&replica->log, replica->applied);
    snapshot->term = entry != NULL ? entry->term : replica->disk.snapshot.term;
    snapshot->config = replica->config;
    snapshot->registers = replica->registers;
    snapshot->session_bytes =
        sl_session_save(replica->sessions, snapshot->sessions, sizeof(snapshot->sessions));
    SL_ASSERT(snapshot->session_bytes <= sizeof(snapshot->sessions));
    return snapshot;
}

static void load_snapshot(struct cluster *cluster, struct replica *replica)
{
    const struct snapshot *snapshot = &replica->disk.snapshot;
    replica->applied = snapshot->index;
    replica->registers = snapshot->registers;
    replica->config = snapshot->config;
    if (snapshot->session_bytes > 0 &&
        sl_session_load(replica->sessions, snapshot->sessions, snapshot->session_bytes) != 0)
        violation(cluster, "a saved session table does not load");
    if (snapshot->session_bytes > 0)
        check_installed(cluster, replica, snapshot);
}

static void apply(struct cluster *cluster, struct replica *replica, uint64_t commit)
{
    while (replica->applied < commit && cluster->violation[0] == 0) {
        uint64_t index = ++replica->applied;
        const struct entry *entry = log_at(&replica->log, index);
        if (entry == NULL) {
            violation(cluster, "n%u commits %lu, which it does not have", replica->node, index);
            return;
        }
        bool command = entry->command.kind != 0;
        enum sl_verdict verdict = sl_session_apply(replica->sessions, sl_index_of(index),
                                                   command ? &entry->command : NULL);
        if (command && entry->command.kind == SL_COMMAND_WRITE && verdict == SL_VERDICT_APPLY) {
            struct registers *registers = &replica->registers;
            registers->value[entry->key] = entry->value;
            registers->version[entry->key] = index;
            registers->digest = registers->digest * UINT64_C(0x9e3779b97f4a7c15) + entry->value;
        }
        if (entry->config >= 0)
            replica->config = cluster->configs[entry->config];
        check_applied(cluster, replica, index, entry, verdict);
        if (cluster->compact_every != 0 && index % cluster->compact_every == replica->serial % 7)
            replica_compact(cluster, replica);
        for (unsigned i = 0; i < replica->waiter_count;) {
            struct waiter waiter = replica->waiters[i];
            if (waiter.index > index) {
                i++;
                continue;
            }
            replica->waiters[i] = replica->waiters[--replica->waiter_count];
            if (waiter.index == index && waiter.term == entry->term)
                client_decided(cluster, replica->group, waiter.client, waiter.attempt, verdict,
                               index, entry);
        }
    }
    replica_serve_reads(cluster, replica);
}

void replica_compact(struct cluster *cluster, struct replica *replica)
{
    if (!replica->running || replica->role == SL_RAFT_STOPPED ||
        replica->applied <= replica->disk.snapshot.index || replica_status(replica).copying ||
        replica->installing)
        return;
    submit(cluster, replica,
           (struct disk_op){.kind = OP_SNAPSHOT,
                            .snapshot = take_snapshot(replica),
                            .mark_void = replica->mark_void},
           0);
}

/* ---- actions */

static int32_t keep_config(struct cluster *cluster, const struct sl_raft_config *config)
{
    if (cluster->config_count == cluster->config_capacity) {
        cluster->config_capacity = cluster->config_capacity * 2 + 16;
        cluster->configs = realloc(cluster->configs, cluster->config_capacity * sizeof(*config));
        SL_ASSERT(cluster->configs != NULL);
    }
    cluster->configs[cluster->config_count] = *config;
    return (int32_t)cluster->config_count++;
}

static void do_write(struct cluster *cluster, struct replica *replica,
                     const struct sl_raft_action *action)
{
    uint64_t count = action->last.value - action->first.value + 1;
    struct entry *entries = calloc(count, sizeof(*entries));
    SL_ASSERT(entries != NULL && action->first.value == log_last(&replica->log) + 1);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t index = action->first.value + i;
        struct entry *entry = &entries[i];
        if (action->entry_kind == 0) {
            *entry = replica->packet->entries[index - replica->packet->message.index.value - 1];
            if (entry->term != action->term.value)
                violation(cluster, "n%u takes an entry of another term", replica->node);
            check_received(cluster, replica, index, entry);
        } else {
            *entry = (struct entry){.config = -1};
            if (action->entry_kind == SL_RAFT_ENTRY_DATA)
                *entry = replica->pending[i];
            entry->kind = action->entry_kind;
            if (action->entry_kind == SL_RAFT_ENTRY_CONFIG)
                entry->config = keep_config(cluster, action->config);
            entry->id = cluster->next_entry++;
            entry->term = action->term.value;
            check_made(cluster, replica, index, entry);
        }
        replica->config_stale = replica->config_stale || entry->config >= 0;
        log_append(&replica->log, entry);
    }
    submit(cluster, replica,
           (struct disk_op){.kind = OP_WRITE,
                            .ticket = action->ticket,
                            .first = action->first.value,
                            .last = action->last.value,
                            .applied = replica->applied,
                            .entries = entries},
           0);
}

static void do_send(struct cluster *cluster, struct replica *replica,
                    const struct sl_raft_message *message)
{
    struct packet packet = {.kind = PACKET_RAFT,
                            .from = replica->node,
                            .to = message->to.node,
                            .group = replica->group,
                            .message = *message};
    if (message->kind == SL_RAFT_APPEND && message->count > 0) {
        packet.entries = (struct entry *)log_at(&replica->log, message->index.value + 1);
        if (packet.entries == NULL ||
            log_last(&replica->log) < message->index.value + message->count)
            violation(cluster, "n%u sends entries that it does not have", replica->node);
    }
    check_send(cluster, replica, message);
    if (cluster->violation[0] == 0)
        cluster_send(cluster, &packet);
}

static void do_role(struct cluster *cluster, struct replica *replica,
                    const struct sl_raft_action *action)
{
    static const char *const names[] = {"?",         "follower", "pre-candidate",
                                        "candidate", "LEADER",   "STOPPED"};
    if (replica->role != action->role)
        trace_note(cluster, replica->node, "%s t%lu", names[action->role], action->term.value);
    replica->role = action->role;
    replica->leader = action->peer.id;
    replica->reader_count = 0; /* their clients ask again */
    check_role(cluster, replica, action->role, action->term.value);
}

static void do_resync(struct cluster *cluster, struct replica *replica,
                      const struct sl_raft_action *action)
{
    struct packet packet = {.kind = PACKET_RESYNC,
                            .from = replica->node,
                            .to = action->peer.node,
                            .group = replica->group,
                            .replica = action->peer.id,
                            .snapshot = take_snapshot(replica)};
    packet.message.term = replica_status(replica).term;
    cluster_send(cluster, &packet);
    free(packet.snapshot);
}

/* What they wait for is gone from the log: their clients have to ask again. */
static void drop_waiters(struct replica *replica, uint64_t first)
{
    for (unsigned i = 0; i < replica->waiter_count;) {
        if (replica->waiters[i].index >= first)
            replica->waiters[i] = replica->waiters[--replica->waiter_count];
        else
            i++;
    }
}

static void perform(struct cluster *cluster, struct replica *replica,
                    const struct sl_raft_action *action)
{
    switch (action->kind) {
    case SL_RAFT_DO_SAVE:
        submit(cluster, replica,
               (struct disk_op){.kind = OP_SAVE,
                                .ticket = action->ticket,
                                .term = action->term.value,
                                .vote = action->peer},
               0);
        break;
    case SL_RAFT_DO_TRUNCATE:
        trace_note(cluster, replica->node, "truncates from %lu", action->first.value);
        log_truncate(&replica->log, action->first.value);
        replica->config_stale = true;
        drop_waiters(replica, action->first.value);
        submit(cluster, replica,
               (struct disk_op){.kind = OP_TRUNCATE, .first = action->first.value}, 0);
        break;
    case SL_RAFT_DO_WRITE:
        do_write(cluster, replica, action);
        break;
    case SL_RAFT_DO_SEND:
        do_send(cluster, replica, &action->message);
        break;
    case SL_RAFT_DO_COMMIT:
        trace_note(cluster, replica->node, "commit %lu", action->last.value);
        check_commit(cluster, replica, action->last.value);
        apply(cluster, replica, action->last.value);
        break;
    case SL_RAFT_DO_ROLE:
        do_role(cluster, replica, action);
        break;
    case SL_RAFT_DO_READ:
        for (unsigned i = 0; i < replica->reader_count; i++) {
            if (replica->readers[i].round <= action->round)
                replica->readers[i].confirmed = true;
        }
        replica_serve_reads(cluster, replica);
        break;
    case SL_RAFT_DO_RESYNC:
        do_resync(cluster, replica, action);
        break;
    case SL_RAFT_DO_CONFIG:
    case SL_RAFT_DO_GONE:
        break;
    case SL_RAFT_DO_MENDED:
        trace_note(cluster, replica->node, "is mended");
        submit(cluster, replica, (struct disk_op){.kind = OP_MENDED}, 0);
        break;
    case SL_RAFT_DO_GROW: {
        replica->terms *= 2;
        void *room = malloc(replica->terms * 16);
        SL_ASSERT(room != NULL);
        free(sl_raft_grow(replica->raft, room, replica->terms));
        replica->room = room;
        break;
    }
    case SL_RAFT_DO_COMPLAIN:
        violation(cluster, "n%u complains: %s", replica->node, action->text);
        break;
    }
}

int replica_step(struct cluster *cluster, struct replica *replica, struct sl_raft_event *event)
{
    event->now_ns = node_now(cluster, &cluster->nodes[replica->node]);
    cluster->steps++;
    int result = sl_raft_step(replica->raft, event, &cluster->output);
    for (unsigned i = 0; i < cluster->output.count && cluster->violation[0] == 0; i++)
        perform(cluster, replica, &cluster->output.actions[i]);
    check_step(cluster, replica, event->kind, result);
    cluster_arm_tick(cluster, replica);
    return result;
}

int replica_propose(struct cluster *cluster, struct replica *replica, const struct entry *entries,
                    unsigned count)
{
    struct sl_raft_event event = {.kind = SL_RAFT_PROPOSE, .propose = {.count = count}};
    for (unsigned i = 0; i < count; i++)
        event.propose.bytes += entries[i].bytes;
    replica->pending = (struct entry *)entries;
    int result = replica_step(cluster, replica, &event);
    replica->pending = NULL;
    return result;
}

static void install(struct cluster *cluster, struct replica *replica)
{
    struct snapshot *offered = replica->offered;
    struct sl_raft_event event = {.kind = SL_RAFT_COPYING,
                                  .copying = {.term = replica->offered_term,
                                              .index = sl_index_of(replica->offered->index),
                                              .index_term = sl_term_of(replica->offered->term)}};
    int result = replica_step(cluster, replica, &event);
    replica->offered = NULL;
    if (result == -EALREADY) {
        replica->mark_void = true; /* on the disk, with the next snapshot */
        free(offered);
        return;
    }
    if (offered->index <
        sl_max(replica_status(replica).commit.value, replica->disk.copying_index)) {
        free(offered); /* older than what is here by now: the next one will do */
        return;
    }
    replica->installing = true;
    uint64_t takes_ns = cluster_range(cluster, 10 * MS, cluster->copy_most_ns); /* regions */
    submit(cluster, replica, (struct disk_op){.kind = OP_INSTALL, .snapshot = offered}, takes_ns);
}

static void resync_offered(struct cluster *cluster, struct replica *replica,
                           const struct packet *packet)
{
    if (packet->replica != replica->id || replica->role == SL_RAFT_STOPPED || replica->installing ||
        replica->offered != NULL || packet->snapshot->index < replica->applied)
        return;
    /* What is no newer is of use only to end a resync: nothing else ends it once the mark is there.
     */
    if (packet->snapshot->index == replica->applied &&
        (!replica->disk.copying || replica->mark_void))
        return;
    replica->offered = malloc(sizeof(struct snapshot));
    SL_ASSERT(replica->offered != NULL);
    *replica->offered = *packet->snapshot;
    replica->offered_term = packet->message.term;
    replica->mark_void = false;
    submit(cluster, replica, (struct disk_op){.kind = OP_COPYING, .first = packet->snapshot->index},
           0);
}

void replica_deliver(struct cluster *cluster, struct replica *replica, const struct packet *packet)
{
    if (packet->kind == PACKET_RESYNC) {
        resync_offered(cluster, replica, packet);
        return;
    }
    struct sl_raft_config configs[SL_RAFT_MEMBERS_MAX];
    struct sl_raft_event event = {.kind = SL_RAFT_MESSAGE,
                                  .message = {.message = &packet->message, .configs = configs}};
    for (uint32_t i = 0; packet->entries != NULL && i < packet->message.count; i++) {
        event.message.bytes += packet->entries[i].bytes;
        if (packet->entries[i].config >= 0) {
            SL_ASSERT(event.message.config_count < SL_RAFT_MEMBERS_MAX);
            configs[event.message.config_count++] = cluster->configs[packet->entries[i].config];
        }
    }
    replica->packet = packet;
    replica_step(cluster, replica, &event);
    replica->packet = NULL;
}

/* ---- the disk's answers */

static void disk_failed(struct cluster *cluster, struct replica *replica, struct disk_op *op)
{
    struct node *node = &cluster->nodes[replica->node];
    trace_note(cluster, replica->node, "a log write fails");
    if (op->kind == OP_WRITE && cluster_chance(cluster, 30))
        write_entries(&replica->disk, op, cluster_range(cluster, 0, op->last - op->first));
    free_op(op);
    bool stopped = false;
    for (unsigned group = 0; group < cluster->group_count; group++) {
        struct replica *other = &node->replicas[group];
        struct sl_raft_event event = {.kind = SL_RAFT_FAILED};
        if (!other->running)
            continue;
        replica_step(cluster, other, &event);
        if (other->role == SL_RAFT_STOPPED) {
            drop_queue(other);
            stopped = true;
        }
    }
    if (stopped) {
        /* It stays up and silent for a while, then somebody restarts it. */
        node_start_later(cluster, node, cluster_range(cluster, 300 * MS, 3 * SECOND));
    }
}

static void op_done(struct cluster *cluster, struct replica *replica, struct disk_op *op)
{
    struct sl_raft_event event = {.done = {.ticket = op->ticket, .last = sl_index_of(op->last)}};
    switch (op->kind) {
    case OP_SAVE:
        event.kind = SL_RAFT_SAVED;
        break;
    case OP_WRITE:
        event.kind = SL_RAFT_WRITTEN;
        break;
    case OP_SNAPSHOT:
        if (replica->disk.snapshot.index != op->snapshot->index)
            return;
        log_drop(&replica->log, op->snapshot->index);
        event.kind = SL_RAFT_COMPACTED;
        event.compacted.index = sl_index_of(op->snapshot->index);
        if (sl_raft_term_at(replica->raft, event.compacted.index).value == 0)
            return; /* it has forgotten more than that by itself */
        break;
    case OP_COPYING:
        trace_note(cluster, replica->node, "is copying");
        if (replica->offered != NULL)
            install(cluster, replica);
        return;
    case OP_INSTALL:
        trace_note(cluster, replica->node, "has copied %lu", op->snapshot->index);
        replica->installing = false;
        if (sl_raft_term_at(replica->raft, sl_index_of(op->snapshot->index)).value ==
            op->snapshot->term)
            log_drop(&replica->log, op->snapshot->index);
        else
            log_clear(&replica->log, op->snapshot->index);
        drop_waiters(replica, 0);
        load_snapshot(cluster, replica);
        replica->config_stale = true;
        event.kind = SL_RAFT_COPIED;
        event.copied.index = sl_index_of(op->snapshot->index);
        event.copied.term = sl_term_of(op->snapshot->term);
        event.copied.config = &op->snapshot->config;
        break;
    case OP_TRUNCATE:
    case OP_MENDED:
        return;
    }
    int result = replica_step(cluster, replica, &event);
    if (result != 0)
        violation(cluster, "n%u: disk event %d is refused: %d", replica->node, event.kind, result);
}

void replica_disk_done(struct cluster *cluster, struct replica *replica)
{
    while (replica->running && replica->queue != NULL && cluster->violation[0] == 0 &&
           replica->queue->done_ns <= cluster->now_ns) {
        uint64_t stuck_ns = cluster->nodes[replica->node].disk_stuck_until_ns;
        if (stuck_ns > cluster->now_ns) {
            cluster_disk_event(cluster, replica, stuck_ns);
            return;
        }
        struct disk_op *op = replica->queue;
        replica->queue = op->next;
        if (replica->queue == NULL)
            replica->queue_end = &replica->queue;
        if (op->fails) {
            disk_failed(cluster, replica, op);
            continue;
        }
        reach_medium(replica, op);
        op_done(cluster, replica, op);
        free_op(op);
    }
}

/* ---- damage */

/*
 * What a start finds: an entry that was acknowledged can not be read. The log ends before it from
 * now on; what it was is remembered first, durably.
 */
bool replica_rot(struct cluster *cluster, struct replica *replica, uint64_t random)
{
    struct disk *disk = &replica->disk;
    if (disk->log.count == 0 || disk->log.holed)
        return false;
    uint64_t index = disk->log.first + random % disk->log.count;
    const struct entry *last = &disk->log.entries[disk->log.count - 1];
    if (last->term > disk->promised_term ||
        (last->term == disk->promised_term && log_last(&disk->log) > disk->promised)) {
        disk->promised = log_last(&disk->log);
        disk->promised_term = last->term;
    }
    trace_note(cluster, replica->node, "entry %lu of %lu is damaged", index, log_last(&disk->log));
    log_truncate(&disk->log, index);
    return true;
}

/* ---- life */

struct replica *replica_make(struct cluster *cluster, unsigned node, unsigned group,
                             const struct sl_raft_config *config, uint64_t id)
{
    struct replica *replica = &cluster->nodes[node].replicas[group];
    SL_ASSERT(!replica->exists && cluster->replica_serial + 1 < REPLICAS_MAX);
    struct entry_log log = replica->disk.log;
    memset(replica, 0, sizeof(*replica));
    replica->exists = true;
    replica->id = id;
    replica->serial = ++cluster->replica_serial;
    replica->node = node;
    replica->group = group;
    replica->made_ns = cluster->now_ns;
    replica->disk.snapshot.config = *config;
    replica->disk.log = log;
    log_clear(&replica->disk.log, 0);
    replica->queue_end = &replica->queue;
    return replica;
}

void replica_wipe(struct cluster *cluster, struct replica *replica)
{
    trace_note(cluster, replica->node, "WIPED");
    if (replica->running)
        replica_stop(cluster, replica, false);
    replica->exists = false;
}

/* Runs of one term, and the configurations, as the core wants to have them told. */
static unsigned describe_log(const struct cluster *cluster, const struct entry_log *log,
                             struct sl_raft_span *spans, struct sl_raft_config *configs,
                             unsigned *config_count)
{
    unsigned span_count = 0;
    *config_count = 0;
    for (uint32_t i = 0; i < log->count; i++) {
        const struct entry *entry = &log->entries[i];
        if (span_count == 0 || spans[span_count - 1].term.value != entry->term)
            spans[span_count++] = (struct sl_raft_span){.term = sl_term_of(entry->term)};
        spans[span_count - 1].count++;
        spans[span_count - 1].bytes += entry->bytes;
        if (entry->config >= 0)
            configs[(*config_count)++] = cluster->configs[entry->config];
    }
    return span_count;
}

void replica_start(struct cluster *cluster, struct replica *replica)
{
    struct disk *disk = &replica->disk;
    struct node *node = &cluster->nodes[replica->node];
    for (uint32_t i = 0; i < disk->log.count; i++) {
        if (disk->log.entries[i].id == 0)
            log_truncate(&disk->log, disk->log.first + i); /* nothing behind a hole is a log */
    }
    struct entry_log *log = &replica->log;
    *log = (struct entry_log){.first = disk->log.first};
    for (uint32_t i = 0; i < disk->log.count; i++)
        log_append(log, &disk->log.entries[i]);
    struct sl_raft_span *spans = calloc(log->count + 1, sizeof(*spans));
    struct sl_raft_config *configs = calloc(log->count + 1, sizeof(*configs));
    SL_ASSERT(spans != NULL && configs != NULL);
    unsigned config_count;
    unsigned span_count = describe_log(cluster, log, spans, configs, &config_count);
    unsigned terms = sl_max(cluster->terms, span_count + 1);
    replica->terms = terms;
    replica->memory = malloc(sl_raft_bytes(terms));
    replica->sessions = sl_session_init(malloc(sl_session_bytes(8, 2)), 8, 2);
    SL_ASSERT(replica->memory != NULL && replica->sessions != NULL);
    /* As the targets do: with that entry in the log no resync had begun. */
    bool copies = disk->copying && log_last(log) < disk->copying_index;
    struct sl_raft_setup setup = {
        .group = cluster->groups[replica->group].id,
        .self = {replica->id, replica->node},
        .tuning = &cluster->tuning,
        .links = cluster->links_shared ? node->links : NULL,
        .seed = cluster_random(cluster),
        .now_ns = node_now(cluster, node),
        .term = sl_term_of(disk->term),
        .vote = disk->vote,
        .commit = sl_index_of(disk->applied),
        .copying = sl_index_of(copies ? disk->copying_index : 0),
        .boundary = sl_index_of(disk->snapshot.index),
        .boundary_term = sl_term_of(disk->snapshot.term),
        .config = &disk->snapshot.config,
        .spans = spans,
        .span_count = span_count,
        .configs = configs,
        .config_count = config_count,
        .promised = sl_index_of(disk->promised),
        .promised_term = sl_term_of(disk->promised_term),
    };
    const char *why;
    if (sl_raft_init(replica->memory, terms, &setup, &replica->raft, &why) != 0) {
        fprintf(stderr, "n%u does not start: %s\n", replica->node, why);
        abort(); /* there is nothing to go on with */
    }
    free(spans);
    free(configs);
    if (!replica_status(replica).mending)
        disk->promised = disk->promised_term = 0;
    replica->running = true;
    replica->role = SL_RAFT_FOLLOWER;
    replica->leader = 0;
    replica->config_stale = true;
    replica->tick_ns = UINT64_MAX;
    replica->disk_busy_ns = 0;
    replica->waiter_count = replica->reader_count = 0;
    replica->installing = false;
    replica->mark_void = disk->copying && !copies;
    load_snapshot(cluster, replica);
    if (!replica_status(replica).copying)
        apply(cluster, replica, replica_status(replica).commit.value);
    cluster_arm_tick(cluster, replica);
}

/* The process ends: of what was not yet durable, a part may be, in order; the last of it torn. */
void replica_stop(struct cluster *cluster, struct replica *replica, bool torn)
{
    unsigned count = 0;
    for (struct disk_op *op = replica->queue; op != NULL; op = op->next)
        count++;
    uint64_t kept = torn ? cluster_range(cluster, 0, count) : 0;
    for (struct disk_op *op = replica->queue; op != NULL && !op->fails; op = op->next) {
        if (kept == 0) {
            if (torn && op->kind == OP_WRITE)
                write_entries(&replica->disk, op, cluster_range(cluster, 0, op->last - op->first));
            break;
        }
        reach_medium(replica, op);
        kept--;
    }
    drop_queue(replica);
    free(replica->memory);
    free(replica->room);
    free(replica->sessions);
    free(replica->log.entries);
    free(replica->offered);
    replica->log = (struct entry_log){0};
    replica->offered = NULL;
    replica->memory = replica->room = NULL;
    replica->raft = NULL;
    replica->sessions = NULL;
    replica->running = false;
    replica->role = SL_RAFT_FOLLOWER;
}
