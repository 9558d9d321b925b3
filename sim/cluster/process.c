/* Processes: start, end in order, sudden death, pauses; who can reach whom. */
#include "sim/cluster/cluster.h"

#include <errno.h>
#include <stdlib.h>

#include "core/call.h"
#include "core/error.h"

#define TARGET_MEMORY  (24 * SL_MIB)
#define GATEWAY_MEMORY (8 * SL_MIB)
/* The longest that an orderly end may take: an I/O's time-out, and a disk that is stuck. */
#define STOP_LIMIT_NS (90 * SECOND)

static void main_co(void *argument)
{
    struct process *process = argument;
    struct cluster *cluster = process->cluster;
    int error = process->kind == TARGET ? target_main_co(process) : gateway_main_co(process);
    process->up = false;
    if (error < 0) {
        cluster->effects[EFFECT_FAILED_STARTS]++;
        cluster_note(cluster, "%s cannot start: %s", process->name, sl_error_name(error));
    }
    process->ended = true;
}

static void apply_cuts(struct cluster *cluster, unsigned from, unsigned to)
{
    struct process *a = &cluster->processes[from], *b = &cluster->processes[to];
    bool on = cluster->cuts[from][to] > 0;
    for (unsigned i = 0; a->running && b->running && i < a->reactor_count; i++) {
        for (unsigned k = 0; k < b->reactor_count; k++)
            sl_sim_cut(cluster->sim, a->nodes[i].io, b->nodes[k].io, on);
    }
}

void process_cut(struct cluster *cluster, unsigned from, unsigned to, bool on)
{
    cluster->cuts[from][to] += on ? 1u : -1u;
    apply_cuts(cluster, from, to);
}

void process_start(struct process *process)
{
    struct cluster *cluster = process->cluster;
    size_t memory = process->kind == TARGET ? TARGET_MEMORY : GATEWAY_MEMORY;
    SL_ASSERT(!process->running);
    process->life++;
    process->up = process->stopping = process->ended = process->paused = false;
    process->target = (struct target_process){0};
    process->gateway = (struct gateway_process){0};
    sl_wait_init(&process->stop);
    for (unsigned i = 0; i < process->reactor_count; i++) {
        sl_sim_heap_current = &process->heap;
        int error = sl_sim_node_open(cluster->sim, process->name, i, memory, &process->nodes[i]);
        sl_sim_heap_current = NULL;
        SL_ASSERT(error == 0);
        sl_sim_heap_set(process->nodes[i].io, &process->heap);
        sl_sim_clock_set(cluster->sim, process->nodes[i].io, process->rate_ppm, 0);
    }
    process->running = true;
    for (unsigned i = 0; i < cluster->process_count; i++) {
        apply_cuts(cluster, process->index, i);
        apply_cuts(cluster, i, process->index);
    }
    sl_sim_heap_current = &process->heap;
    SL_ASSERT(sl_co_spawn(process->nodes[0].reactor, main_co, process) == 0);
    sl_sim_heap_current = NULL;
    cluster_note(cluster, "%s starts (life %u)", process->name, process->life);
}

static void count(struct process *process)
{
    if (process->kind == TARGET)
        target_count(process);
    else
        gateway_count(process);
}

/* Clients live and die with their gateway, but not what they know. */
static void orphan_clients(struct process *process)
{
    struct cluster *cluster = process->cluster;
    for (unsigned i = 0; process->kind == GATEWAY && i < cluster->client_count; i++) {
        if (client_gateway(&cluster->clients[i]) == process)
            client_orphaned(&cluster->clients[i]);
    }
}

void process_crash(struct process *process, bool power)
{
    struct cluster *cluster = process->cluster;
    SL_ASSERT(process->running);
    cluster->effects[EFFECT_CRASHES_WHILE_STARTING] += !process->up && !process->stopping;
    cluster->effects[EFFECT_CRASHES_WHILE_STOPPING] += process->stopping;
    count(process);
    orphan_clients(process);
    sl_sim_crash(cluster->sim, process->nodes, process->reactor_count, power);
    heap_drop(&process->heap);
    process->running = process->up = process->ended = false;
    cluster_note(cluster, "%s %s", process->name, power ? "loses its power" : "is killed");
}

static void restart(struct cluster *cluster, struct action *action)
{
    struct process *process = &cluster->processes[action->a];
    if (!process->running && process->life == action->life)
        process_start(process);
}

static void check_stopped(struct cluster *cluster, struct action *action)
{
    struct process *process = &cluster->processes[action->a];
    if (process->running && process->life == action->life)
        cluster_violation(cluster, -1, "%s was asked to end and has not within %llu s",
                          process->name, (unsigned long long)(STOP_LIMIT_NS / SECOND));
}

void process_stop(struct process *process, uint64_t away_ns)
{
    struct cluster *cluster = process->cluster;
    if (!process->running || process->stopping)
        return;
    process->stopping = true;
    process->stopping_ns = away_ns;
    sl_wait_wake(&process->stop, 0);
    cluster_act(cluster, cluster_now(cluster) + STOP_LIMIT_NS, check_stopped, process->index, 0, 0);
    cluster_note(cluster, "%s is asked to end", process->name);
}

static void close_process(struct process *process)
{
    struct cluster *cluster = process->cluster;
    const void *caller = NULL;
    for (unsigned i = 0; i < process->reactor_count; i++) {
        struct sl_memory_statistics statistics;
        struct sl_reactor_statistics reactor;
        sl_memory_statistics(process->nodes[i].memory, &statistics);
        sl_reactor_statistics(process->nodes[i].reactor, &reactor);
        if (statistics.buffer_count != 0 || reactor.coroutine_count != 0)
            cluster_violation(cluster, -1, "%s ended with %llu buffers and %llu coroutines left",
                              process->name, (unsigned long long)statistics.buffer_count,
                              (unsigned long long)reactor.coroutine_count);
    }
    if (cluster->violation[0] != '\0')
        return;
    for (unsigned i = 0; i < process->reactor_count; i++)
        sl_sim_node_close(&process->nodes[i]);
    process->running = false;
    size_t bytes = heap_first(&process->heap, &caller);
    if (bytes > 0)
        cluster_violation(cluster, -1,
                          "%s ended and left %llu blocks on its heap, the first of %zu bytes, from "
                          "%p",
                          process->name, (unsigned long long)process->heap.count, bytes, caller);
    heap_drop(&process->heap);
}

void processes_reap(struct cluster *cluster)
{
    for (unsigned i = 0; i < cluster->process_count; i++) {
        struct process *process = &cluster->processes[i];
        if (!process->ended || cluster->violation[0] != '\0')
            continue;
        process->ended = false;
        bool was_asked = process->stopping;
        close_process(process);
        cluster->effects[EFFECT_ORDERLY_ENDS] += was_asked;
        uint64_t away_ns =
            was_asked ? process->stopping_ns : 100 * MS + sl_sim_random(cluster->sim) % SECOND;
        cluster_note(cluster, "%s has ended", process->name);
        if (away_ns != UINT64_MAX)
            cluster_act(cluster, cluster_now(cluster) + away_ns, restart, i, 0, 0);
    }
}

void process_pause(struct process *process, bool on)
{
    if (!process->running || process->paused == on)
        return;
    process->paused = on;
    for (unsigned i = 0; i < process->reactor_count; i++)
        sl_sim_pause(process->cluster->sim, process->nodes[i].io, on);
    cluster_note(process->cluster, "%s %s", process->name, on ? "stands still" : "goes on");
}

/* ---- for the bodies of processes ---- */

int process_on_each_co(struct process *process, int64_t (*function_co)(void *argument))
{
    for (unsigned i = 0; i < process->reactor_count; i++) {
        struct process_call call = {process, i};
        int error = (int)sl_reactor_call_co(process->nodes[i].reactor, function_co, &call);
        if (error < 0)
            return error;
    }
    return 0;
}

void process_wait_co(struct process *process)
{
    sl_wait_co(&process->stop);
}

int process_fabric(struct process *process, unsigned reactor, enum sl_role role,
                   struct sl_fabric **fabric)
{
    bool peering = fabric == &process->target.peering[reactor];
    struct sl_sim_node *node = &process->nodes[reactor];
    struct sl_fabric_config config = {
        .link = &sl_link_sim,
        .domain = {.io = node->io, .memory = node->memory},
        .reactor = node->reactor,
        .role = role,
        .instance_id = sl_reactor_random_u64(node->reactor),
        .credits = role == SL_ROLE_TARGET && !peering ? 16 : 1,
        .in_capsule_bytes = role == SL_ROLE_TARGET && !peering ? SL_IN_CAPSULE_BYTES_MAX : 0,
    };
    if (process->cluster->replicated) { /* as the daemon has it */
        config.heartbeat_timeout_ns = 1500 * MS;
        config.heartbeat_interval_ns = 300 * MS;
    }
    if (peering)
        config.domain.arena_access = SL_ACCESS_REMOTE_READ;
    if (role == SL_ROLE_GATEWAY)
        config.domain.foreign_access = SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE;
    return sl_fabric_create(&config, fabric);
}
