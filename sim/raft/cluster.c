/* The world of the Raft simulator: virtual time, links, clocks, crashes. One thread, no globals. */
#include "sim/raft/cluster.h"

#include <stdlib.h>
#include <string.h>

enum event_kind {
    EVENT_TICK,
    EVENT_PACKET,
    EVENT_DISK,
    EVENT_START,
    EVENT_BEAT,
    EVENT_REQUEST,
    EVENT_CLIENT,
    EVENT_FAULT
};

struct event {
    uint64_t at_ns, order;
    enum event_kind kind;
    unsigned node, group, generation;
    int client;
    union {
        struct packet *packet;
        struct client *copy;
        struct fault *fault;
        unsigned serial;
    };
};

/* ---- chance */

uint64_t cluster_random(struct cluster *cluster)
{
    uint64_t z = cluster->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t cluster_range(struct cluster *cluster, uint64_t least, uint64_t most)
{
    return least + cluster_random(cluster) % (most - least + 1);
}

bool cluster_chance(struct cluster *cluster, unsigned percent)
{
    return cluster_random(cluster) % 100 < percent;
}

/* ---- the queue: a binary heap by (time, order of arming) */

static bool earlier(const struct event *a, const struct event *b)
{
    return a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->order < b->order);
}

static void push(struct cluster *cluster, struct event event)
{
    if (cluster->heap_count == cluster->heap_capacity) {
        cluster->heap_capacity = cluster->heap_capacity * 2 + 256;
        cluster->heap = realloc(cluster->heap, cluster->heap_capacity * sizeof(struct event));
        SL_ASSERT(cluster->heap != NULL);
    }
    event.order = cluster->order++;
    event.at_ns = sl_max(event.at_ns, cluster->now_ns);
    unsigned at = cluster->heap_count++;
    while (at > 0 && earlier(&event, &cluster->heap[(at - 1) / 2])) {
        cluster->heap[at] = cluster->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    cluster->heap[at] = event;
}

static struct event pop(struct cluster *cluster)
{
    struct event top = cluster->heap[0], last = cluster->heap[--cluster->heap_count];
    unsigned at = 0;
    for (;;) {
        unsigned child = at * 2 + 1;
        if (child >= cluster->heap_count)
            break;
        if (child + 1 < cluster->heap_count &&
            earlier(&cluster->heap[child + 1], &cluster->heap[child]))
            child++;
        if (!earlier(&cluster->heap[child], &last))
            break;
        cluster->heap[at] = cluster->heap[child];
        at = child;
    }
    cluster->heap[at] = last;
    return top;
}

/* ---- clocks */

uint64_t node_now(const struct cluster *cluster, const struct node *node)
{
    int64_t passed = (int64_t)(cluster->now_ns - node->world_base_ns);
    return node->clock_base_ns + (uint64_t)(passed + passed * node->rate_ppm / 1000000);
}

/* When the node's clock shows `local_ns`, or a little later. */
static uint64_t world_time(const struct cluster *cluster, const struct node *node,
                           uint64_t local_ns)
{
    uint64_t now = node_now(cluster, node);
    if (local_ns <= now)
        return cluster->now_ns;
    uint64_t left = local_ns - now;
    if (left > 1000 * SECOND)
        return UINT64_MAX;
    uint64_t rate = (uint64_t)(1000000 + node->rate_ppm);
    return cluster->now_ns + (uint64_t)((unsigned __int128)left * 1000000 / rate) + 2;
}

void node_set_rate(struct cluster *cluster, struct node *node, int64_t ppm)
{
    node->clock_base_ns = node_now(cluster, node);
    node->world_base_ns = cluster->now_ns;
    node->rate_ppm = ppm;
}

/* Timers that are due by now fire; those of a clock that has gone back find out and wait. */
void node_jump(struct cluster *cluster, struct node *node, int64_t ns)
{
    node_set_rate(cluster, node, node->rate_ppm);
    node->clock_base_ns += (uint64_t)ns;
    for (unsigned group = 0; group < cluster->group_count; group++) {
        if (node->replicas[group].running)
            cluster_arm_tick(cluster, &node->replicas[group]);
    }
}

/* ---- links */

void cluster_block(struct cluster *cluster, unsigned from, unsigned to, bool blocked)
{
    cluster->blocked[from][to] = blocked;
}

void cluster_isolate(struct cluster *cluster, unsigned node, bool isolated)
{
    for (unsigned other = 0; other < cluster->node_count; other++) {
        if (other != node) {
            cluster_block(cluster, node, other, isolated);
            cluster_block(cluster, other, node, isolated);
        }
    }
}

static unsigned *connection(struct cluster *cluster, unsigned a, unsigned b)
{
    return &cluster->connections[sl_min(a, b)][sl_max(a, b)];
}

void cluster_disconnect(struct cluster *cluster, unsigned a, unsigned b)
{
    ++*connection(cluster, a, b);
    cluster->arrives_ns[a][b] = cluster->arrives_ns[b][a] = 0;
}

static struct packet *copy_packet(const struct packet *packet)
{
    struct packet *copy = malloc(sizeof(*copy));
    SL_ASSERT(copy != NULL);
    *copy = *packet;
    if (packet->entries != NULL) {
        size_t bytes = packet->message.count * sizeof(struct entry);
        copy->entries = malloc(bytes);
        SL_ASSERT(copy->entries != NULL);
        memcpy(copy->entries, packet->entries, bytes);
    }
    if (packet->snapshot != NULL) {
        copy->snapshot = malloc(sizeof(struct snapshot));
        SL_ASSERT(copy->snapshot != NULL);
        *copy->snapshot = *packet->snapshot;
    }
    return copy;
}

static void free_packet(struct packet *packet)
{
    free(packet->entries);
    free(packet->snapshot);
    free(packet);
}

static bool is_cut(const struct cluster *cluster, const struct packet *packet)
{
    return cluster->blocked[packet->from][packet->to] ||
           cluster->blocked_until[packet->from][packet->to] > cluster->now_ns;
}

/* `packet` is borrowed; copies of it arrive, or none. */
void cluster_send(struct cluster *cluster, const struct packet *packet)
{
    if (is_cut(cluster, packet) || (cluster->filter != NULL && cluster->filter(cluster, packet))) {
        trace_packet(cluster, packet, "cut");
        return;
    }
    if (cluster->now_ns < cluster->loss_until_ns &&
        cluster_chance(cluster, cluster->loss_percent)) {
        trace_packet(cluster, packet, "lost");
        return;
    }
    unsigned copies = 1;
    if (cluster->now_ns < cluster->duplicate_until_ns &&
        cluster_chance(cluster, cluster->duplicate_percent))
        copies = 2;
    while (copies-- > 0) {
        uint64_t delay_ns = cluster_range(cluster, cluster->net_least_ns, cluster->net_most_ns);
        if (cluster->now_ns < cluster->delay_until_ns)
            delay_ns += cluster_range(cluster, 0, cluster->delay_ns);
        uint64_t *arrives_ns = &cluster->arrives_ns[packet->from][packet->to];
        if (cluster->ordered) /* as one connection would */
            delay_ns = sl_max(cluster->now_ns + delay_ns, *arrives_ns) - cluster->now_ns;
        *arrives_ns = cluster->now_ns + delay_ns;
        struct packet *copy = copy_packet(packet);
        copy->connection = *connection(cluster, packet->from, packet->to);
        copy->generation = cluster->nodes[packet->from].generation;
        push(cluster, (struct event){.kind = EVENT_PACKET,
                                     .at_ns = cluster->now_ns + delay_ns,
                                     .node = packet->to,
                                     .packet = copy});
    }
}

static void answer_as_stranger(struct cluster *cluster, const struct packet *packet)
{
    if (packet->kind != PACKET_RAFT ||
        (packet->message.kind != SL_RAFT_APPEND && packet->message.kind != SL_RAFT_VOTE))
        return;
    struct packet answer = {
        .kind = PACKET_RAFT, .from = packet->to, .to = packet->from, .group = packet->group};
    sl_raft_answer_stranger(&packet->message, &answer.message);
    cluster_send(cluster, &answer);
}

static void beat_answered(struct cluster *cluster, struct node *node, const struct packet *packet)
{
    if (!sl_raft_links_answered(node->links, packet->from, node_now(cluster, node),
                                &packet->answer))
        return;
    for (unsigned group = 0; group < cluster->group_count; group++) {
        struct sl_raft_event event = {.kind = SL_RAFT_TICK};
        if (node->replicas[group].running)
            replica_step(cluster, &node->replicas[group], &event);
    }
}

static void discard(struct event *event)
{
    if (event->kind == EVENT_PACKET)
        free_packet(event->packet);
    else if (event->kind == EVENT_REQUEST)
        free(event->copy);
}

/*
 * Entries whose payload did not come along are read from the leader's buffer, one-sided; that may
 * take its time, or fail, and a failed one takes its connection along. The leader keeps the buffer
 * until it is acknowledged or the connection is gone, and what is read is what was sent. True: the
 * packet is not delivered now; it has been queued again or it is lost.
 */
static bool fetch(struct cluster *cluster, struct event *event)
{
    struct packet *packet = event->packet;
    bool gone = cluster->nodes[packet->from].generation != packet->generation;
    if (packet->entries == NULL || (packet->fetched && !gone))
        return false;
    bool fails = cluster->now_ns < cluster->lost_read_until_ns && cluster_chance(cluster, 15);
    if (packet->fetched || fails) {
        trace_packet(cluster, packet, "its payload can not be read");
        cluster->fault_hits[FAULT_LOST_READ]++;
        cluster_disconnect(cluster, packet->from, packet->to);
        discard(event);
        return true;
    }
    if (cluster->now_ns >= cluster->late_read_until_ns)
        return false;
    cluster->fault_hits[FAULT_LATE_READ]++;
    packet->fetched = true;
    event->at_ns = cluster->now_ns + cluster_range(cluster, 0, 500 * MS);
    push(cluster, *event);
    return true;
}

static void deliver(struct cluster *cluster, struct packet *packet)
{
    struct node *node = &cluster->nodes[packet->to];
    bool lost = packet->connection != *connection(cluster, packet->from, packet->to);
    if (!node->up || lost || is_cut(cluster, packet)) {
        trace_packet(cluster, packet,
                     !node->up ? "down"
                     : lost    ? "lost with its connection"
                               : "cut");
        return;
    }
    if (packet->kind == PACKET_BEAT) {
        struct packet answer = {.kind = PACKET_BEAT_ANSWER, .from = packet->to, .to = packet->from};
        sl_raft_links_receive(node->links, packet->from, node_now(cluster, node), &packet->beat,
                              &answer.answer);
        cluster_send(cluster, &answer);
        return;
    }
    if (packet->kind == PACKET_BEAT_ANSWER) {
        beat_answered(cluster, node, packet);
        return;
    }
    trace_packet(cluster, packet, NULL);
    struct replica *replica = &node->replicas[packet->group];
    if (!replica->exists && !SL_RAFT_RULE(REPLICA_ID)) {
        /* What a wiped node does that does not know ids: it begins with an empty log. */
        struct sl_raft_config none = {0};
        replica = replica_make(cluster, packet->to, packet->group, &none, packet->message.to.id);
        replica_start(cluster, replica);
    }
    if (replica->running)
        replica_deliver(cluster, replica, packet);
    else if (!replica->exists)
        answer_as_stranger(cluster, packet);
}

/* ---- events */

void cluster_arm_tick(struct cluster *cluster, struct replica *replica)
{
    struct node *node = &cluster->nodes[replica->node];
    uint64_t deadline = sl_raft_deadline(replica->raft);
    uint64_t at = deadline == UINT64_MAX ? UINT64_MAX : world_time(cluster, node, deadline);
    /* An earlier one finds out when it fires, and is armed again. */
    if (at == UINT64_MAX || at >= replica->tick_ns)
        return;
    replica->tick_ns = at;
    push(cluster, (struct event){.kind = EVENT_TICK,
                                 .at_ns = at,
                                 .node = replica->node,
                                 .group = replica->group,
                                 .generation = node->generation,
                                 .serial = replica->serial});
}

void cluster_disk_event(struct cluster *cluster, struct replica *replica, uint64_t at_ns)
{
    push(cluster, (struct event){.kind = EVENT_DISK,
                                 .at_ns = at_ns,
                                 .node = replica->node,
                                 .group = replica->group,
                                 .generation = cluster->nodes[replica->node].generation,
                                 .serial = replica->serial});
}

void node_start_later(struct cluster *cluster, struct node *node, uint64_t ns)
{
    push(cluster, (struct event){.kind = EVENT_START,
                                 .at_ns = cluster->now_ns + ns,
                                 .node = node->number,
                                 .generation = node->generation});
}

void cluster_request(struct cluster *cluster, int client, unsigned group, uint64_t at_ns,
                     const struct client *copy)
{
    struct client *kept = malloc(sizeof(*kept));
    SL_ASSERT(kept != NULL);
    *kept = *copy;
    push(cluster, (struct event){.kind = EVENT_REQUEST,
                                 .at_ns = at_ns,
                                 .node = copy->target,
                                 .group = group,
                                 .client = client,
                                 .copy = kept});
}

void cluster_client_timer(struct cluster *cluster, unsigned group, int client, uint64_t at_ns)
{
    push(cluster,
         (struct event){.kind = EVENT_CLIENT, .at_ns = at_ns, .group = group, .client = client});
}

static void tick(struct cluster *cluster, const struct event *event)
{
    struct replica *replica = &cluster->nodes[event->node].replicas[event->group];
    if (!replica->running || replica->serial != event->serial || replica->tick_ns != event->at_ns)
        return;
    replica->tick_ns = UINT64_MAX;
    if (cluster->nodes[event->node].hold && replica->role != SL_RAFT_LEADER) {
        replica->tick_ns = cluster->now_ns + 10 * MS;
        push(cluster, (struct event){.kind = EVENT_TICK,
                                     .at_ns = replica->tick_ns,
                                     .node = event->node,
                                     .group = event->group,
                                     .generation = event->generation,
                                     .serial = event->serial});
        return;
    }
    struct sl_raft_event step = {.kind = SL_RAFT_TICK};
    replica_step(cluster, replica, &step);
}

static void beat(struct cluster *cluster, const struct event *event)
{
    struct node *node = &cluster->nodes[event->node];
    for (unsigned other = 0; other < cluster->node_count; other++) {
        struct packet packet = {.kind = PACKET_BEAT, .from = event->node, .to = other};
        if (other != event->node &&
            sl_raft_links_beat(node->links, other, node_now(cluster, node), &packet.beat) > 0)
            cluster_send(cluster, &packet);
    }
    struct event again = *event;
    again.at_ns = cluster->now_ns + cluster->tuning.heartbeat_ns;
    push(cluster, again);
}

static void handle(struct cluster *cluster, struct event *event)
{
    struct node *node = &cluster->nodes[event->node];
    bool of_process = event->kind == EVENT_TICK || event->kind == EVENT_DISK ||
                      event->kind == EVENT_BEAT || event->kind == EVENT_START;
    if (of_process && event->generation != node->generation)
        return;
    bool waits = of_process || event->kind == EVENT_PACKET || event->kind == EVENT_REQUEST;
    if (waits && node->paused_until_ns > cluster->now_ns) {
        /* A stopped process: all that came meanwhile is there when it goes on. */
        if (event->kind == EVENT_TICK && node->replicas[event->group].serial == event->serial &&
            node->replicas[event->group].tick_ns == event->at_ns)
            node->replicas[event->group].tick_ns = node->paused_until_ns;
        event->at_ns = node->paused_until_ns;
        push(cluster, *event);
        return;
    }
    struct replica *replica = &node->replicas[event->group];
    switch (event->kind) {
    case EVENT_TICK:
        tick(cluster, event);
        return;
    case EVENT_PACKET:
        if (node->up && fetch(cluster, event))
            return;
        deliver(cluster, event->packet);
        break;
    case EVENT_DISK:
        if (replica->running && replica->serial == event->serial)
            replica_disk_done(cluster, replica);
        return;
    case EVENT_START:
        node_crash(cluster, node, false); /* if it is up still, and silent */
        node_start(cluster, node);
        return;
    case EVENT_BEAT:
        beat(cluster, event);
        return;
    case EVENT_REQUEST:
        if (node->up)
            client_request(cluster, event->group, event->client, event->copy);
        break;
    case EVENT_CLIENT:
        client_timer(cluster, event->group, event->client);
        return;
    case EVENT_FAULT:
        if (!event->fault->skip && !cluster->healing)
            fault_strike(cluster, event->fault);
        return;
    }
    discard(event);
}

void cluster_run(struct cluster *cluster, uint64_t ns)
{
    uint64_t end_ns = cluster->now_ns + ns;
    while (cluster->heap_count > 0 && cluster->heap[0].at_ns <= end_ns) {
        if (cluster->violation[0] != 0)
            return;
        struct event event = pop(cluster);
        cluster->now_ns = event.at_ns;
        cluster->events++;
        handle(cluster, &event);
    }
    cluster->now_ns = end_ns;
}

/* ---- nodes */

void node_crash(struct cluster *cluster, struct node *node, bool torn)
{
    if (!node->up)
        return;
    trace_note(cluster, node->number, "CRASH%s", torn ? ", torn" : "");
    for (unsigned group = 0; group < cluster->group_count; group++) {
        if (node->replicas[group].running)
            replica_stop(cluster, &node->replicas[group], torn);
    }
    node->up = false;
    node->generation++;
    node->paused_until_ns = 0;
    node->fail_next_write = false;
    free(node->links_memory);
    node->links_memory = NULL;
}

void node_start(struct cluster *cluster, struct node *node)
{
    if (node->up)
        return;
    trace_note(cluster, node->number, "START");
    node->up = true;
    node->generation++;
    node->links_memory = malloc(sl_raft_links_bytes(NODES_MAX));
    SL_ASSERT(node->links_memory != NULL);
    node->links = sl_raft_links_init(node->links_memory, NODES_MAX, cluster_random(cluster));
    for (unsigned group = 0; group < cluster->group_count; group++) {
        if (node->replicas[group].exists)
            replica_start(cluster, &node->replicas[group]);
    }
    push(cluster, (struct event){.kind = EVENT_BEAT,
                                 .node = node->number,
                                 .generation = node->generation,
                                 .at_ns = cluster->now_ns + cluster->tuning.heartbeat_ns});
}

struct replica *replica_at(struct cluster *cluster, unsigned node, unsigned group)
{
    return &cluster->nodes[node].replicas[group];
}

struct replica *cluster_leader(struct cluster *cluster, unsigned group)
{
    struct replica *leader = NULL;
    for (unsigned i = 0; i < cluster->node_count; i++) {
        struct replica *replica = replica_at(cluster, i, group);
        if (replica->running && replica->role == SL_RAFT_LEADER &&
            (leader == NULL ||
             replica_status(replica).term.value > replica_status(leader).term.value))
            leader = replica;
    }
    return leader;
}

/* ---- making it */

struct cluster *cluster_create(uint64_t seed, unsigned nodes, unsigned groups)
{
    struct cluster *cluster = calloc(1, sizeof(*cluster));
    SL_ASSERT(cluster != NULL && nodes <= NODES_MAX && groups <= GROUPS_MAX);
    *cluster = (struct cluster){
        .seed = seed,
        .random = seed * UINT64_C(0xd1342543de82ef95) + 1,
        .now_ns = 10 * SECOND,
        .node_count = nodes,
        .group_count = groups,
        .terms = SL_RAFT_TERMS,
        .copy_most_ns = 500 * MS,
        .next_entry = 1,
        .next_replica = 1000,
        .net_least_ns = 1 * MS,
        .net_most_ns = 1 * MS,
        .disk_least_ns = 1 * MS,
        .disk_most_ns = 1 * MS,
        .links_shared = true,
        .tuning = {.election_ns = SECOND,
                   .heartbeat_ns = 100 * MS,
                   .drift_ppm = 50000,
                   .append_entries = 8,
                   .append_bytes = 32 << 10,
                   .window_entries = 32,
                   .window_bytes = 128 << 10,
                   .uncommitted_entries = 64,
                   .uncommitted_bytes = 256 << 10,
                   .promote_lag = 16},
    };
    for (unsigned i = 0; i < nodes; i++) {
        struct node *node = &cluster->nodes[i];
        node->number = i;
        node->clock_base_ns = cluster_range(cluster, SECOND, 1000 * SECOND);
        node->world_base_ns = cluster->now_ns;
    }
    for (unsigned i = 0; i < groups; i++)
        cluster->groups[i] = (struct group){.id = 100 + i, .epoch = 0, .values = 1};
    return cluster;
}

void cluster_form(struct cluster *cluster, unsigned group, unsigned voters, unsigned learners)
{
    struct sl_raft_config config = {.count = voters + learners};
    for (unsigned i = 0; i < config.count; i++) {
        config.members[i].id = cluster->next_replica++;
        config.members[i].node = i;
        config.members[i].kind = i < voters ? SL_RAFT_VOTER : SL_RAFT_LEARNER;
    }
    for (unsigned i = 0; i < config.count; i++)
        replica_make(cluster, i, group, &config, config.members[i].id);
    for (unsigned i = 0; i < cluster->node_count; i++) {
        if (cluster->nodes[i].up && cluster->nodes[i].replicas[group].exists)
            replica_start(cluster, &cluster->nodes[i].replicas[group]);
        else
            node_start(cluster, &cluster->nodes[i]);
    }
}

void cluster_add_fault(struct cluster *cluster, struct fault *fault)
{
    push(cluster, (struct event){.kind = EVENT_FAULT, .at_ns = fault->at_ns, .fault = fault});
}

void cluster_destroy(struct cluster *cluster)
{
    if (cluster == NULL)
        return;
    for (unsigned i = 0; i < cluster->node_count; i++) {
        node_crash(cluster, &cluster->nodes[i], false);
        for (unsigned group = 0; group < cluster->group_count; group++)
            free(cluster->nodes[i].replicas[group].disk.log.entries);
    }
    for (unsigned i = 0; i < cluster->heap_count; i++)
        discard(&cluster->heap[i]);
    for (unsigned i = 0; i < cluster->group_count; i++) {
        free(cluster->groups[i].committed);
        free(cluster->groups[i].made);
        free(cluster->groups[i].leaders);
        free(cluster->groups[i].value_version);
        history_release(&cluster->groups[i].history);
    }
    free(cluster->heap);
    free(cluster->configs);
    free(cluster->faults);
    free(cluster);
}
