/*
 * Virtual time, the event queue, random streams and the driver of the reactors. See sim.h.
 *
 * Random numbers: xoshiro256** (Blackman, Vigna: https://prng.di.unimi.it/), seeded by splitmix64.
 */
#include "sim/sim_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define OR_DEFAULT(value, standard) ((value) != 0 ? (value) : (standard))

/* ---- random numbers ---- */

static uint64_t splitmix(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

void sim_random_seed(struct sim_random *random, uint64_t seed)
{
    for (unsigned i = 0; i < 4; i++)
        random->state[i] = splitmix(&seed);
}

static uint64_t rotate(uint64_t value, int count)
{
    return (value << count) | (value >> (64 - count));
}

uint64_t sim_random_next(struct sim_random *random)
{
    uint64_t *s = random->state;
    uint64_t result = rotate(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

uint64_t sl_sim_random(struct sl_sim *sim)
{
    return sim_random_next(&sim->random);
}

uint64_t sim_random_between(struct sl_sim *sim, uint64_t low, uint64_t high)
{
    return high <= low ? low : low + sl_sim_random(sim) % (high - low + 1);
}

bool sim_random_hits(struct sl_sim *sim, uint32_t per_million)
{
    return per_million > 0 && sl_sim_random(sim) % 1000000 < per_million;
}

/* ---- the event queue: a binary heap, 1-based ---- */

static bool is_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->time_ns < b->time_ns || (a->time_ns == b->time_ns && a->sequence < b->sequence);
}

static void place(struct sl_sim *sim, struct sim_event *event, size_t index)
{
    sim->heap[index] = event;
    event->heap_index = index;
}

static void sift_up(struct sl_sim *sim, struct sim_event *event, size_t index)
{
    while (index > 1 && is_before(event, sim->heap[index / 2])) {
        place(sim, sim->heap[index / 2], index);
        index /= 2;
    }
    place(sim, event, index);
}

static void sift_down(struct sl_sim *sim, struct sim_event *event, size_t index)
{
    for (;;) {
        size_t child = index * 2;
        if (child > sim->heap_count)
            break;
        if (child < sim->heap_count && is_before(sim->heap[child + 1], sim->heap[child]))
            child++;
        if (!is_before(sim->heap[child], event))
            break;
        place(sim, sim->heap[child], index);
        index = child;
    }
    place(sim, event, index);
}

static void heap_remove(struct sl_sim *sim, struct sim_event *event)
{
    size_t index = event->heap_index;
    struct sim_event *last = sim->heap[sim->heap_count--];
    event->heap_index = 0;
    if (last == event)
        return;
    if (index > 1 && is_before(last, sim->heap[index / 2]))
        sift_up(sim, last, index);
    else
        sift_down(sim, last, index);
}

void sim_event_arm(struct sim_event *event, struct sim_io *node, uint64_t time_ns, const char *name)
{
    struct sl_sim *sim = node->sim;
    SL_ASSERT(!event->armed);
    if (sim->heap_count + 2 > sim->heap_capacity) {
        sim->heap_capacity = sl_max(sim->heap_capacity * 2, (size_t)256);
        sim->heap = sim_realloc(sim->heap, sim->heap_capacity * sizeof(*sim->heap));
        SL_ASSERT(sim->heap != NULL);
    }
    event->armed = true;
    event->node = node;
    event->name = name;
    event->time_ns = sl_max(time_ns, sim->now_ns);
    event->sequence = sim->sequence++;
    sl_list_init(&event->due);
    sift_up(sim, event, ++sim->heap_count);
}

void sim_event_cancel(struct sim_event *event)
{
    if (!event->armed)
        return;
    event->armed = false;
    if (event->heap_index != 0)
        heap_remove(event->node->sim, event);
    else
        sl_list_remove(&event->due);
}

static void drop(struct sim_event *event)
{
    sim_event_cancel(event);
    if (event->drop != NULL)
        event->drop(event);
}

void sim_events_drop(struct sl_sim *sim, struct sim_io *node)
{
    struct sl_list *due;
    while ((due = sl_list_first(&node->due)) != NULL)
        drop(sl_list_entry(due, struct sim_event, due));
    /* Dropping changes the heap: begin again after each. */
    for (size_t i = 1; i <= sim->heap_count; i++) {
        if (sim->heap[i]->node == node) {
            drop(sim->heap[i]);
            i = 0;
        }
    }
}

/* What is due goes to its node, which runs it in its reactor's turn. */
static void dispatch(struct sl_sim *sim)
{
    while (sim->heap_count > 0 && sim->heap[1]->time_ns <= sim->now_ns) {
        struct sim_event *event = sim->heap[1];
        heap_remove(sim, event);
        sl_list_append(&event->node->due, &event->due);
    }
}

/* ---- the engine of a node ---- */

/* Drift is far below 100%, and a run below some hours: no overflow. */
static uint64_t own_time(const struct sim_io *node, uint64_t now_ns)
{
    int64_t passed = (int64_t)(now_ns - node->base_ns);
    return node->own_base_ns + (uint64_t)(passed + passed * node->rate_ppm / 1000000);
}

uint64_t sim_time_of(const struct sim_io *node, uint64_t own_ns)
{
    if (own_ns == UINT64_MAX)
        return UINT64_MAX;
    if (own_ns <= node->own_base_ns)
        return node->base_ns;
    int64_t passed = (int64_t)(own_ns - node->own_base_ns);
    if (passed > INT64_MAX / 2000000)
        return UINT64_MAX;
    uint64_t time_ns =
        node->base_ns + (uint64_t)(passed * INT64_C(1000000) / (1000000 + node->rate_ppm));
    while (own_time(node, time_ns) < own_ns)
        time_ns++;
    return time_ns;
}

void sl_sim_clock_set(struct sl_sim *sim, struct sl_io *io, int32_t rate_ppm, uint64_t jump_ns)
{
    struct sim_io *node = (struct sim_io *)(void *)io;
    node->own_base_ns = own_time(node, sim->now_ns) + jump_ns;
    node->base_ns = sim->now_ns;
    node->rate_ppm = rate_ppm;
    sl_sim_trace(sim, io, "clock", (uint64_t)(int64_t)rate_ppm, jump_ns);
}

static uint64_t engine_now_ns(void *engine)
{
    const struct sim_io *node = engine;
    return own_time(node, node->sim->now_ns);
}

static unsigned engine_poll(void *engine)
{
    struct sim_io *node = engine;
    struct sl_sim *sim = node->sim;
    unsigned count = 0;
    dispatch(sim);
    struct sl_list batch;
    sl_list_init(&batch);
    sl_list_splice(&batch, &node->due);
    struct sl_list *due;
    while ((due = sl_list_pop(&batch)) != NULL) {
        struct sim_event *event = sl_list_entry(due, struct sim_event, due);
        event->armed = false;
        sim->statistics.event_count++;
        sl_sim_trace(sim, &node->io, event->name, 0, 0);
        event->fire(event);
        count++;
    }
    return count;
}

static unsigned engine_sleep(void *engine, uint64_t deadline_ns)
{
    SL_ASSERT(!"reactors of the simulator are stepped, never run");
    return 0;
}

static void engine_notify(void *engine)
{
}

static void engine_random(void *engine, void *bytes, size_t length)
{
    struct sim_io *node = engine;
    uint8_t *to = bytes;
    while (length > 0) {
        uint64_t value = sim_random_next(&node->random);
        size_t step = sl_min(length, sizeof(value));
        memcpy(to, &value, step);
        to += step;
        length -= step;
    }
}

const struct sl_reactor_engine sim_engine = {
    .now_ns = engine_now_ns,
    .poll = engine_poll,
    .sleep = engine_sleep,
    .notify = engine_notify,
    .random = engine_random,
};

/* ---- the simulator ---- */

static void set_defaults(struct sl_sim_config *config)
{
    struct sl_sim_network *network = &config->network;
    struct sl_sim_storage *storage = &config->storage;
    config->turn_ns = OR_DEFAULT(config->turn_ns, 200);
    network->delay_min_ns = OR_DEFAULT(network->delay_min_ns, 5 * SL_NS_PER_US);
    network->delay_max_ns = OR_DEFAULT(network->delay_max_ns, 20 * SL_NS_PER_US);
    network->slow_ns = OR_DEFAULT(network->slow_ns, 5 * SL_NS_PER_MS);
    network->send_spans_max = OR_DEFAULT(network->send_spans_max, SL_SEND_SPANS_MAX);
    network->local_spans_max = OR_DEFAULT(network->local_spans_max, SL_LINK_SPANS_MAX);
    network->transfer_bytes_max = OR_DEFAULT(network->transfer_bytes_max, SL_TRANSFER_BYTES_MAX);
    storage->latency_min_ns = OR_DEFAULT(storage->latency_min_ns, 20 * SL_NS_PER_US);
    storage->latency_max_ns = OR_DEFAULT(storage->latency_max_ns, 100 * SL_NS_PER_US);
    storage->slow_ns = OR_DEFAULT(storage->slow_ns, 50 * SL_NS_PER_MS);
}

int sl_sim_create(const struct sl_sim_config *config, struct sl_sim **result)
{
    struct sl_sim *sim = sim_calloc(1, sizeof(*sim));
    if (sim == NULL)
        return -ENOMEM;
    sim->config = *config;
    set_defaults(&sim->config);
    sim_random_seed(&sim->random, config->seed);
    sl_list_init(&sim->disks);
    sl_list_init(&sim->wires);
    sl_list_init(&sim->listeners);
    sim->next_port = 1024;
    /* Not at 0: a clock of 0 hides mistakes. */
    sim->now_ns = SL_NS_PER_S;
    *result = sim;
    return 0;
}

void sl_sim_destroy(struct sl_sim *sim)
{
    if (sim == NULL)
        return;
    for (unsigned i = 0; i < sim->node_count; i++)
        SL_ASSERT(sim->nodes[i] == NULL);
    SL_ASSERT(sim->heap_count == 0);
    SL_ASSERT(sl_list_is_empty(&sim->wires) && sl_list_is_empty(&sim->listeners));
    sim_disks_free(sim);
    free(sim->heap);
    free(sim);
}

uint64_t sl_sim_now_ns(const struct sl_sim *sim)
{
    return sim->now_ns;
}

struct sl_sim_network *sl_sim_network(struct sl_sim *sim)
{
    return &sim->config.network;
}

struct sl_sim_storage *sl_sim_storage(struct sl_sim *sim)
{
    return &sim->config.storage;
}

const struct sl_sim_statistics *sl_sim_statistics(const struct sl_sim *sim)
{
    return &sim->statistics;
}

int sl_sim_node_open(struct sl_sim *sim, const char *name, unsigned index, size_t memory_bytes,
                     struct sl_sim_node *node)
{
    *node = (struct sl_sim_node){0};
    int error = sl_sim_io_create(sim, name, &node->io);
    if (error < 0)
        return error;
    struct sl_reactor_config reactor = {.index = index, .cpu = -1};
    error = sl_reactor_create(&reactor, sl_io_engine(node->io), &node->reactor);
    if (error == 0) {
        sl_io_bind(node->io, node->reactor);
        struct sl_memory_config memory = {.limit_bytes = memory_bytes, .numa_node = -1};
        error = sl_memory_create(&memory, &node->memory);
    }
    if (error < 0)
        sl_sim_node_close(node);
    return error;
}

/* volatile: compilers believe that malloc() reads no memory of ours. */
struct sl_sim_heap *volatile sl_sim_heap_current;

void sl_sim_heap_set(struct sl_io *io, struct sl_sim_heap *heap)
{
    ((struct sim_io *)(void *)io)->heap = heap;
}

void sl_sim_pause(struct sl_sim *sim, struct sl_io *io, bool on)
{
    ((struct sim_io *)(void *)io)->paused = on;
    sl_sim_trace(sim, io, on ? "pause" : "go on", 0, 0);
}

void sl_sim_cut(struct sl_sim *sim, struct sl_io *from, struct sl_io *to, bool on)
{
    unsigned i = ((struct sim_io *)(void *)from)->index;
    unsigned k = ((struct sim_io *)(void *)to)->index;
    sim->partitioned[i][k] = on;
    sl_sim_trace(sim, from, on ? "cut" : "join", i, k);
    if (!on)
        sim_link_release_held(sim);
}

void sl_sim_partition(struct sl_sim *sim, struct sl_io *a, struct sl_io *b, bool on)
{
    unsigned i = ((struct sim_io *)(void *)a)->index;
    unsigned k = ((struct sim_io *)(void *)b)->index;
    sim->partitioned[i][k] = sim->partitioned[k][i] = on;
    sl_sim_trace(sim, a, on ? "partition" : "heal", i, k);
    if (!on)
        sim_link_release_held(sim);
}

void sl_sim_crash(struct sl_sim *sim, struct sl_sim_node *nodes, unsigned count, bool power)
{
    struct sim_io *first = (struct sim_io *)(void *)nodes[0].io;
    char name[SIM_NAME_BYTES_MAX];
    snprintf(name, sizeof(name), "%s", first->name);
    sl_sim_trace(sim, nodes[0].io, power ? "power loss" : "kill", 0, 0);
    for (unsigned i = 0; i < count; i++)
        sim_link_crash((struct sim_io *)(void *)nodes[i].io, power);
    sim_disks_crash(sim, name, power);
    for (unsigned i = 0; i < count; i++) {
        sim_events_drop(sim, (struct sim_io *)(void *)nodes[i].io);
        sl_reactor_abandon(nodes[i].reactor);
        sl_memory_abandon(nodes[i].memory);
        ((struct sim_io *)(void *)nodes[i].io)->disk_count = 0;
        sl_io_destroy(nodes[i].io);
        nodes[i] = (struct sl_sim_node){0};
    }
}

void sl_sim_node_close(struct sl_sim_node *node)
{
    sl_memory_destroy(node->memory);
    sl_reactor_destroy(node->reactor);
    sl_io_destroy(node->io);
    *node = (struct sl_sim_node){0};
}

/* ---- the driver ---- */

static bool step_all(struct sl_sim *sim)
{
    bool busy = false;
    dispatch(sim); /* also for nodes that stand still, which take nothing themselves */
    unsigned start = sim->node_count > 1 ? (unsigned)(sl_sim_random(sim) % sim->node_count) : 0;
    for (unsigned i = 0; i < sim->node_count; i++) {
        struct sim_io *node = sim->nodes[(start + i) % sim->node_count];
        if (node == NULL || node->io.reactor == NULL || node->paused)
            continue;
        sl_sim_heap_current = node->heap;
        if (sl_reactor_step(node->io.reactor))
            busy = true;
        sl_sim_heap_current = NULL;
    }
    return busy;
}

/* When something happens next; UINT64_MAX = never. */
static uint64_t next_time_ns(const struct sl_sim *sim)
{
    uint64_t next = sim->heap_count > 0 ? sim->heap[1]->time_ns : UINT64_MAX;
    for (unsigned i = 0; i < sim->node_count; i++) {
        const struct sim_io *node = sim->nodes[i];
        if (node != NULL && node->io.reactor != NULL && !node->paused)
            next = sl_min(next, sim_time_of(node, sl_reactor_next_deadline_ns(node->io.reactor)));
    }
    return next;
}

void sl_sim_advance(struct sl_sim *sim, uint64_t limit_ns)
{
    uint64_t next = sl_min(next_time_ns(sim), limit_ns);
    if (next != UINT64_MAX)
        sim->now_ns = sl_max(sim->now_ns, next);
}

bool sl_sim_run_until(struct sl_sim *sim, uint64_t deadline_ns, bool (*done)(void *argument),
                      void *argument)
{
    for (;;) {
        if (done != NULL && done(argument))
            return true;
        if (sim->now_ns >= deadline_ns)
            return false;
        if (step_all(sim)) {
            /* A reactor that always has work (a coroutine that yields) does not stop the clock. */
            sim->now_ns += sim->config.turn_ns;
            continue;
        }
        if (next_time_ns(sim) == UINT64_MAX)
            return done != NULL && done(argument);
        sl_sim_advance(sim, deadline_ns);
    }
}
