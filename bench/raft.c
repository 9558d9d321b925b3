/*
 * Goal: what the Raft core costs by itself: CPU of an entry, all three replicas together, proposed
 * one and 32 at a time; memory and CPU of idle groups.
 * Method: three replicas in one thread. Messages go through a queue, each step's actions are done
 * before the next; logs are rings of 64-byte descriptors that are copied in and count as durable at
 * once. Each proposal goes all the way, to the commit on all three, before the next: nothing is
 * spread over several. Thread CPU time, the best of five (noise is one-sided).
 *
 *   raft [seconds a row, default 0.3]
 *
 * Prints lines "name | value | unit".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "raft/raft.h"

enum { NODES = 3, RING = 4096, QUEUE = 256, IDLE_GROUPS = 1000 };

struct descriptor {
    unsigned char bytes[64];
};

struct node {
    struct sl_raft *raft;
    struct descriptor *ring;
    uint64_t committed;
};

struct packet {
    unsigned from;
    struct sl_raft_message message;
};

static const struct sl_raft_tuning tuning = {.election_ns = SL_NS_PER_S,
                                             .heartbeat_ns = SL_NS_PER_S / 10,
                                             .drift_ppm = 1000,
                                             .append_entries = 256,
                                             .append_bytes = 1 << 20,
                                             .window_entries = 1024,
                                             .window_bytes = 64 << 20,
                                             .uncommitted_entries = 4096,
                                             .uncommitted_bytes = 64 << 20,
                                             .promote_lag = 16};

static struct sl_raft_output outputs[4]; /* a step may lead to another while its actions last */

static uint64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * SL_NS_PER_S + (uint64_t)now.tv_nsec;
}

static void *allocate(size_t bytes)
{
    void *memory = calloc(1, bytes);
    SL_ASSERT(memory != NULL);
    return memory;
}

/* ---- a group */

struct group {
    struct node nodes[NODES];
    struct packet queue[QUEUE];
    unsigned head, tail;
    unsigned depth, ring; /* descriptors a node keeps, a power of two */
    uint64_t now_ns;
    const struct descriptor *proposed;
};

static void step(struct group *group, unsigned number, const struct sl_raft_event *event);

static void write_log(struct group *group, unsigned number, const struct sl_raft_action *action,
                      unsigned sender)
{
    struct node *node = &group->nodes[number];
    for (uint64_t i = action->first.value; i <= action->last.value; i++) {
        const struct descriptor *from = &group->nodes[sender].ring[i % group->ring];
        if (action->entry_kind == SL_RAFT_ENTRY_DATA)
            from = &group->proposed[i - action->first.value];
        if (from != &node->ring[i % group->ring])
            node->ring[i % group->ring] = *from;
    }
    struct sl_raft_event event = {
        .kind = SL_RAFT_WRITTEN, .now_ns = group->now_ns, .done = {action->ticket, action->last}};
    step(group, number, &event);
}

static unsigned sender_now;

static void step(struct group *group, unsigned number, const struct sl_raft_event *event)
{
    struct node *node = &group->nodes[number];
    struct sl_raft_output *output = &outputs[group->depth++];
    SL_ASSERT(group->depth <= SL_COUNT_OF(outputs));
    sl_raft_step(node->raft, event, output);
    for (unsigned i = 0; i < output->count; i++) {
        const struct sl_raft_action *action = &output->actions[i];
        if (action->kind == SL_RAFT_DO_SEND) {
            struct packet *packet = &group->queue[group->tail++ % QUEUE];
            packet->from = number;
            packet->message = action->message;
        } else if (action->kind == SL_RAFT_DO_WRITE) {
            write_log(group, number, action, sender_now);
        } else if (action->kind == SL_RAFT_DO_COMMIT) {
            node->committed = action->last.value;
        } else if (action->kind == SL_RAFT_DO_SAVE) {
            struct sl_raft_event saved = {
                .kind = SL_RAFT_SAVED, .now_ns = group->now_ns, .done = {.ticket = action->ticket}};
            step(group, number, &saved);
        }
    }
    group->depth--;
}

static void deliver_all(struct group *group)
{
    while (group->head != group->tail) {
        const struct packet packet = group->queue[group->head++ % QUEUE];
        struct sl_raft_event event = {.kind = SL_RAFT_MESSAGE, .now_ns = group->now_ns};
        event.message.message = &packet.message;
        event.message.bytes = (uint64_t)packet.message.count * sizeof(struct descriptor);
        sender_now = packet.from;
        step(group, packet.message.to.node, &event);
    }
}

static void make_group(struct group *group, uint64_t id, struct sl_raft_links **links,
                       unsigned ring)
{
    struct sl_raft_config config = {.count = NODES};
    for (uint32_t i = 0; i < NODES; i++)
        config.members[i] = (struct sl_raft_member){id * 10 + i + 1, i, SL_RAFT_VOTER};
    group->now_ns = SL_NS_PER_S;
    group->ring = ring;
    for (uint32_t i = 0; i < NODES; i++) {
        struct sl_raft_setup setup = {.group = id,
                                      .self = {id * 10 + i + 1, i},
                                      .tuning = &tuning,
                                      .seed = id * 10 + i,
                                      .links = links != NULL ? links[i] : NULL,
                                      .now_ns = group->now_ns,
                                      .config = &config};
        const char *why;
        int result = sl_raft_init(allocate(sl_raft_bytes(SL_RAFT_TERMS)), SL_RAFT_TERMS, &setup,
                                  &group->nodes[i].raft, &why);
        SL_ASSERT(result == 0);
        group->nodes[i].ring = allocate(group->ring * sizeof(struct descriptor));
    }
}

/* Node 0 leads. */
static void elect(struct group *group)
{
    struct sl_raft_status status;
    group->now_ns += 3 * tuning.election_ns;
    struct sl_raft_event event = {.kind = SL_RAFT_TICK, .now_ns = group->now_ns};
    step(group, 0, &event);
    deliver_all(group);
    sl_raft_get_status(group->nodes[0].raft, &status);
    SL_ASSERT(status.serving);
}

static double entries_ns(unsigned batch, double seconds)
{
    struct group *group = allocate(sizeof(*group));
    struct descriptor *proposed = allocate(batch * sizeof(*proposed));
    make_group(group, 1, NULL, RING);
    elect(group);
    group->proposed = proposed;
    double best = 1e9;
    for (unsigned round = 0; round < 5; round++) {
        uint64_t began = cpu_ns(), entries = 0, passed = 0;
        while (passed < (uint64_t)(seconds * 1e9 / 5)) {
            for (unsigned i = 0; i < 200; i++) {
                struct sl_raft_event event = {
                    .kind = SL_RAFT_PROPOSE,
                    .now_ns = group->now_ns += 1000,
                    .propose = {batch, batch * sizeof(struct descriptor)}};
                proposed[0].bytes[0]++;
                step(group, 0, &event);
                deliver_all(group);
                entries += batch;
            }
            passed = cpu_ns() - began;
        }
        best = sl_min(best, (double)passed / (double)entries);
    }
    struct sl_raft_status status;
    sl_raft_get_status(group->nodes[0].raft, &status);
    SL_ASSERT(group->nodes[0].committed == status.last.value);
    return best;
}

/* ---- idle groups */

struct world {
    struct group *groups;
    struct sl_raft_links *links[NODES];
    uint64_t deadlines[NODES][IDLE_GROUPS];
    uint64_t ticks, beats, messages;
};

static void tick_due(struct world *world, uint64_t now_ns)
{
    for (unsigned node = 0; node < NODES; node++) {
        for (unsigned i = 0; i < IDLE_GROUPS; i++) {
            if (world->deadlines[node][i] > now_ns)
                continue;
            struct group *group = &world->groups[i];
            group->now_ns = now_ns;
            struct sl_raft_event event = {.kind = SL_RAFT_TICK, .now_ns = now_ns};
            unsigned before = group->tail;
            step(group, node, &event);
            deliver_all(group);
            world->messages += group->tail - before;
            for (unsigned other = 0; other < NODES; other++)
                world->deadlines[other][i] = sl_raft_deadline(group->nodes[other].raft);
            world->ticks++;
        }
    }
}

/* One heartbeat interval of all groups on all nodes. */
static void heartbeat_round(struct world *world, uint64_t now_ns)
{
    for (unsigned node = 0; node < NODES; node++) {
        for (unsigned other = 0; other < NODES; other++) {
            struct sl_raft_beat beat;
            struct sl_raft_beat_answer answer;
            if (node == other || sl_raft_links_beat(world->links[node], other, now_ns, &beat) == 0)
                continue;
            world->beats++;
            sl_raft_links_receive(world->links[other], node, now_ns, &beat, &answer);
            bool reset = sl_raft_links_answered(world->links[node], other, now_ns, &answer);
            SL_ASSERT(!reset);
        }
    }
    tick_due(world, now_ns);
}

static void idle(double seconds)
{
    struct world *world = allocate(sizeof(*world));
    world->groups = allocate(IDLE_GROUPS * sizeof(struct group));
    for (unsigned node = 0; node < NODES; node++)
        world->links[node] =
            sl_raft_links_init(allocate(sl_raft_links_bytes(NODES)), NODES, node + 1);
    for (unsigned i = 0; i < IDLE_GROUPS; i++) {
        make_group(&world->groups[i], i + 1, world->links, 4);
        elect(&world->groups[i]);
        for (unsigned node = 0; node < NODES; node++)
            world->deadlines[node][i] = sl_raft_deadline(world->groups[i].nodes[node].raft);
    }
    uint64_t now_ns = world->groups[0].now_ns;
    for (unsigned i = 0; i < 50; i++)
        heartbeat_round(world, now_ns += tuning.heartbeat_ns);
    double best = 1e9, ticks = 0, beats = 0, messages = 0;
    for (unsigned round = 0; round < 5; round++) {
        uint64_t began = cpu_ns(), rounds = 0, passed = 0;
        world->ticks = world->beats = world->messages = 0;
        while (passed < (uint64_t)(seconds * 1e9 / 5)) {
            for (unsigned i = 0; i < 20; i++, rounds++)
                heartbeat_round(world, now_ns += tuning.heartbeat_ns);
            passed = cpu_ns() - began;
        }
        best = sl_min(best, (double)passed / (double)rounds / IDLE_GROUPS);
        ticks = (double)world->ticks / (double)rounds;
        beats = (double)world->beats / (double)rounds;
        messages = (double)world->messages / (double)rounds;
    }
    printf("idle group: CPU a heartbeat round, three replicas | %.4f | us\n", best / 1000);
    printf("idle groups (%d): messages of groups a round | %.2f | messages\n", IDLE_GROUPS,
           messages);
    printf("idle groups (%d): shared heartbeats a round | %.2f | messages\n", IDLE_GROUPS, beats);
    printf("idle groups (%d): timers that fire a round, three nodes | %.1f | ticks\n", IDLE_GROUPS,
           ticks);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 0.3;
    printf("entry of 64 bytes, one at a time: CPU of three replicas | %.3f | us\n",
           entries_ns(1, seconds) / 1000);
    printf("entry of 64 bytes, 32 at a time: CPU of three replicas | %.3f | us\n",
           entries_ns(32, seconds) / 1000);
    printf("idle group: memory of one replica | %zu | B\n", sl_raft_bytes(SL_RAFT_TERMS));
    idle(seconds);
    return 0;
}
