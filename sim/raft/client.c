/*
 * Clients of the Raft simulator: each has a session, writes unique values and reads, one operation
 * at a time, asks another node when there is no answer, and voids a write that it gives up. Its
 * requests may arrive late, or twice.
 */
#include "sim/raft/cluster.h"
#include "core/error.h"

#include <string.h>

enum { TIMEOUT_TRIES = 4 };

static struct client *client_of(struct cluster *cluster, unsigned group, int number)
{
    return &cluster->groups[group].clients[number];
}

static void finish(struct cluster *cluster, struct client *client)
{
    (void)cluster;
    client->state = client->session == 0 ? CLIENT_OPENING : CLIENT_IDLE;
    client->attempt++;
}

/* The write can not apply any more; should it, note_write() in check.c finds out. */
static void failed_for_good(struct cluster *cluster, struct client *client)
{
    struct group *group = &cluster->groups[client->group];
    uint64_t needed = client->value;
    if (needed < group->values_capacity && group->value_version[needed] == 0)
        group->value_version[needed] = UINT64_MAX;
    history_fail(&group->history, client->operation);
    finish(cluster, client);
}

static void begin(struct cluster *cluster, struct client *client)
{
    struct group *group = &cluster->groups[client->group];
    client->attempt++;
    client->tries = 0;
    if (client->state == CLIENT_OPENING) {
        client->session = cluster_random(cluster) | 1;
        client->sequence = 0;
        return;
    }
    client->key = cluster->eager ? 0 : (uint32_t)cluster_range(cluster, 0, KEYS - 1);
    client->floor = group->floor[client->key];
    client->epoch = group->epoch;
    if (cluster_chance(cluster, 50)) {
        client->state = CLIENT_READING;
        client->operation = history_begin(&group->history, HISTORY_READ, client->key, 0);
        return;
    }
    client->state = CLIENT_WRITING;
    client->sequence++;
    client->value = group->values++;
    client->operation = history_begin(&group->history, HISTORY_WRITE, client->key, client->value);
}

static void ask(struct cluster *cluster, unsigned group, int number)
{
    struct client *client = client_of(cluster, group, number);
    uint64_t delay_ns = cluster_range(cluster, cluster->net_least_ns, cluster->net_most_ns);
    cluster_request(cluster, number, group, cluster->now_ns + delay_ns, client);
    if (cluster->now_ns < cluster->late_until_ns)
        cluster_request(cluster, number, group,
                        cluster->now_ns + cluster_range(cluster, 100 * MS, 4 * SECOND), client);
}

static void read_requested(struct cluster *cluster, struct replica *replica, int number,
                           const struct client *copy)
{
    if (replica->reader_count == WAITERS_MAX)
        return;
    struct sl_raft_event event = {.kind = SL_RAFT_READ};
    event.now_ns = node_now(cluster, &cluster->nodes[replica->node]);
    cluster->steps++;
    /* As replica_step(), but the answer is needed before the actions are done. */
    if (replica_step(cluster, replica, &event) != 0)
        return;
    struct reader *reader = &replica->readers[replica->reader_count++];
    *reader = (struct reader){.round = cluster->output.round,
                              .index = cluster->output.index.value,
                              .client = number,
                              .attempt = copy->attempt,
                              .key = copy->key,
                              .floor = copy->floor,
                              .operation = copy->operation,
                              .confirmed = cluster->output.round == 0};
    for (unsigned i = 0; i < cluster->output.count; i++) {
        if (cluster->output.actions[i].kind == SL_RAFT_DO_READ &&
            cluster->output.actions[i].round >= reader->round)
            reader->confirmed = true;
    }
    replica_serve_reads(cluster, replica);
}

/* Where several believe to lead at this moment, each of them is asked. */
static void probe_leaders(struct cluster *cluster, unsigned number)
{
    struct group *group = &cluster->groups[number];
    unsigned leaders = 0;
    for (unsigned i = 0; i < cluster->node_count; i++)
        leaders += replica_at(cluster, i, number)->running &&
                   replica_at(cluster, i, number)->role == SL_RAFT_LEADER;
    for (unsigned i = 0; i < cluster->node_count && leaders > 1; i++) {
        struct replica *replica = replica_at(cluster, i, number);
        if (!replica->running || replica->role != SL_RAFT_LEADER ||
            cluster->nodes[i].paused_until_ns > cluster->now_ns)
            continue;
        struct client probe = {.state = CLIENT_READING, .floor = group->floor[0]};
        probe.operation = history_begin(&group->history, HISTORY_READ, 0, 0);
        read_requested(cluster, replica, PROBE_CLIENT, &probe);
    }
}

void client_timer(struct cluster *cluster, unsigned group, int number)
{
    struct client *client = client_of(cluster, group, number);
    if (cluster->eager && !cluster->quiet_clients)
        probe_leaders(cluster, group);
    uint64_t again_ns = cluster->eager ? cluster_range(cluster, 2 * MS, 20 * MS)
                                       : cluster_range(cluster, 20 * MS, 120 * MS);
    if (client->state == CLIENT_IDLE || client->tries == 0) {
        if (client->state == CLIENT_IDLE && cluster->quiet_clients) {
            cluster_client_timer(cluster, group, number, cluster->now_ns + again_ns);
            return;
        }
        begin(cluster, client);
    } else {
        client->target = (unsigned)cluster_range(cluster, 0, cluster->node_count - 1);
        bool impatient = cluster->now_ns < cluster->void_until_ns;
        if (client->state == CLIENT_WRITING && client->tries > (impatient ? 1u : 12u) &&
            cluster_chance(cluster, 30)) {
            client->state = CLIENT_VOIDING;
            client->attempt++;
        }
        if (client->state == CLIENT_READING && client->tries > TIMEOUT_TRIES) {
            finish(cluster, client);
            begin(cluster, client);
        }
        if (!cluster->eager)
            again_ns += cluster_range(cluster, 0, 300 * MS);
    }
    client->tries++;
    ask(cluster, group, number);
    cluster_client_timer(cluster, group, number, cluster->now_ns + again_ns);
}

void replica_serve_reads(struct cluster *cluster, struct replica *replica)
{
    for (unsigned i = 0; i < replica->reader_count;) {
        struct reader reader = replica->readers[i];
        if (!reader.confirmed || reader.index > replica->applied) {
            i++;
            continue;
        }
        replica->readers[i] = replica->readers[--replica->reader_count];
        client_read_done(cluster, replica, &reader);
    }
}

void client_read_done(struct cluster *cluster, struct replica *replica, const struct reader *reader)
{
    struct group *group = &cluster->groups[replica->group];
    struct client *client =
        reader->client == PROBE_CLIENT ? NULL : client_of(cluster, replica->group, reader->client);
    if (client != NULL && (client->attempt != reader->attempt || client->state != CLIENT_READING))
        return;
    trace_note(cluster, replica->node, "answers a read of key %u: version %lu", reader->key,
               replica->registers.version[reader->key]);
    check_version(cluster, group, reader->key, reader->floor,
                  replica->registers.version[reader->key], false);
    history_end(&group->history, reader->operation, replica->registers.value[reader->key]);
    group->reads++;
    if (client != NULL)
        finish(cluster, client);
}

/* The commands of a request, as entries. */
static unsigned make_entries(struct cluster *cluster, const struct client *copy,
                             struct entry entries[2])
{
    struct sl_command command = {.session = copy->session,
                                 .sequence = copy->sequence,
                                 .volume = VOLUME,
                                 .epoch = copy->epoch};
    /* Anything up to its lowest unfinished number is right; less remembers more. */
    command.lowest = copy->sequence - sl_min(copy->sequence - 1, copy->value % 4);
    unsigned count = 0;
    if (copy->state == CLIENT_OPENING) {
        command.kind = SL_COMMAND_ATTACH;
        command.epoch = 1;
        entries[count++] = (struct entry){.config = -1, .bytes = 64, .command = command};
        command.kind = SL_COMMAND_OPEN;
    } else {
        command.kind = copy->state == CLIENT_VOIDING ? SL_COMMAND_VOID : SL_COMMAND_WRITE;
    }
    entries[count++] = (struct entry){
        .config = -1,
        .bytes = (uint32_t)cluster_range(cluster, 64, 8192),
        .key = copy->key,
        .value = copy->value,
        .command = command,
    };
    return count;
}

void client_request(struct cluster *cluster, unsigned group, int number, const struct client *copy)
{
    struct replica *replica = replica_at(cluster, copy->target, group);
    struct client *client = client_of(cluster, group, number);
    if (!replica->running)
        return;
    if (copy->state == CLIENT_READING) {
        read_requested(cluster, replica, number, copy);
    } else {
        struct entry entries[2];
        unsigned count = make_entries(cluster, copy, entries);
        if (replica_propose(cluster, replica, entries, count) == 0) {
            if (replica->running && replica->waiter_count < WAITERS_MAX)
                replica->waiters[replica->waiter_count++] =
                    (struct waiter){.index = cluster->output.index.value + count - 1,
                                    .term = replica_status(replica).term.value,
                                    .client = number,
                                    .attempt = copy->attempt};
            return;
        }
    }
    struct sl_raft_status status = replica_status(replica);
    if (client->attempt == copy->attempt && status.leader.id != 0)
        client->target = status.leader.node;
}

void client_decided(struct cluster *cluster, unsigned group_number, int number, uint64_t attempt,
                    enum sl_verdict verdict, uint64_t index, const struct entry *entry)
{
    struct client *client = client_of(cluster, group_number, number);
    struct group *group = &cluster->groups[group_number];
    if (client->attempt != attempt)
        return;
    if (client->state == CLIENT_OPENING) {
        client->state = CLIENT_IDLE;
        client->attempt++;
        return;
    }
    bool applied = verdict == SL_VERDICT_APPLY && entry->command.kind == SL_COMMAND_WRITE;
    if (applied || verdict == SL_VERDICT_DUPLICATE) {
        uint64_t version = applied ? index : 0;
        if (!applied && client->value < group->values_capacity)
            version = group->value_version[client->value];
        if (version == 0 || version == UINT64_MAX)
            violation(cluster, "a write is called a duplicate and was never applied");
        check_version(cluster, group, client->key, client->floor, version, true);
        history_end(&group->history, client->operation, 0);
        group->writes++;
        finish(cluster, client);
        return;
    }
    switch (verdict) {
    case SL_VERDICT_APPLY:
    case SL_VERDICT_VOIDED:
        group->voids++;
        failed_for_good(cluster, client);
        break;
    case SL_VERDICT_FENCED:
        group->fenced++;
        failed_for_good(cluster, client);
        break;
    default:
        violation(cluster, "verdict %d of an operation that waits", verdict);
        break;
    }
}
