/* A cluster from a seed; its time, notes and violations. */
#include "sim/cluster/group.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

uint64_t cluster_random(struct cluster *cluster)
{
    /* splitmix64 */
    uint64_t z = (cluster->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t cluster_between(struct cluster *cluster, uint64_t low, uint64_t high)
{
    return high <= low ? low : low + cluster_random(cluster) % (high - low + 1);
}

bool cluster_chance(struct cluster *cluster, unsigned percent)
{
    return cluster_random(cluster) % 100 < percent;
}

uint64_t cluster_now(const struct cluster *cluster)
{
    return sl_sim_now_ns(cluster->sim) - cluster->begin_ns;
}

void cluster_note(struct cluster *cluster, const char *format, ...)
{
    char *note = cluster->notes[cluster->note_count++ % NOTES];
    int length = snprintf(note, NOTE_BYTES, "%10.6f  ", (double)cluster_now(cluster) / 1e9);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(note + length, NOTE_BYTES - (size_t)length, format, arguments);
    va_end(arguments);
    if (cluster->log != NULL)
        fprintf(cluster->log, "%s\n", note);
}

void cluster_violation(struct cluster *cluster, int block, const char *format, ...)
{
    if (cluster->violation[0] != '\0')
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(cluster->violation, sizeof(cluster->violation), format, arguments);
    va_end(arguments);
    cluster->violation_block = block;
    cluster->violation_ns = cluster_now(cluster);
    cluster_note(cluster, "VIOLATION: %s", cluster->violation);
}

/* ---- actions ---- */

void cluster_act(struct cluster *cluster, uint64_t at_ns,
                 void (*act)(struct cluster *cluster, struct action *action), unsigned a,
                 unsigned b, uint64_t amount)
{
    struct action *action = heap_keep(NULL, sizeof(*action));
    *action = (struct action){
        .at_ns = at_ns,
        .act = act,
        .a = a,
        .b = b,
        .life = cluster->processes[a].life,
        .amount = amount,
    };
    struct action **at = &cluster->actions;
    while (*at != NULL && (*at)->at_ns <= at_ns)
        at = &(*at)->next;
    action->next = *at;
    *at = action;
}

struct waiting {
    struct cluster *cluster;
    bool (*done)(struct cluster *cluster);
};

static bool is_something_to_do(void *argument)
{
    const struct waiting *waiting = argument;
    struct cluster *cluster = waiting->cluster;
    for (unsigned i = 0; i < cluster->process_count; i++) {
        if (cluster->processes[i].ended)
            return true;
    }
    if (cluster->replicated)
        groups_watch(cluster);
    return cluster->violation[0] != '\0' || (waiting->done != NULL && waiting->done(cluster));
}

bool cluster_run(struct cluster *cluster, uint64_t until_ns, bool (*done)(struct cluster *cluster))
{
    struct waiting waiting = {cluster, done};
    while (cluster->violation[0] == '\0') {
        uint64_t next_ns = until_ns;
        if (cluster->actions != NULL)
            next_ns = sl_min(next_ns, cluster->actions->at_ns);
        uint64_t limit_ns = cluster->begin_ns + next_ns;
        /* Where nobody is left whom anything could happen to, time passes all the same. */
        if (next_ns > cluster_now(cluster) &&
            !sl_sim_run_until(cluster->sim, limit_ns, is_something_to_do, &waiting) &&
            next_ns > cluster_now(cluster))
            sl_sim_advance(cluster->sim, limit_ns);
        processes_reap(cluster);
        tool_reap(cluster);
        while (cluster->actions != NULL && cluster->actions->at_ns <= cluster_now(cluster)) {
            struct action *action = cluster->actions;
            cluster->actions = action->next;
            action->act(cluster, action);
            free(action);
        }
        if (done != NULL && done(cluster))
            return true;
        if (cluster_now(cluster) >= until_ns)
            return false;
    }
    return false;
}

/* ---- from the seed ---- */

static void draw_shape(struct cluster *cluster)
{
    cluster->target_count = (unsigned)cluster_between(cluster, 1, 3);
    if (cluster->replicated)
        cluster->target_count =
            (unsigned)cluster_between(cluster, cluster_chance(cluster, 80) ? 3 : 1, TARGETS_MAX);
    cluster->gateway_count = cluster_chance(cluster, 30) ? 2 : 1;
    cluster->process_count = cluster->target_count + cluster->gateway_count;
    cluster->client_count = (unsigned)cluster_between(cluster, cluster->gateway_count, CLIENTS_MAX);
    cluster->stripe_bytes = (uint32_t)(64 * SL_KIB << cluster_between(cluster, 0, 4));
    cluster->io_timeout_ns =
        cluster_chance(cluster, 40) ? SECOND : cluster_between(cluster, 2, 12) * SECOND;
    unsigned shards = cluster_chance(cluster, 25) ? 2 : 1;
    cluster->segment_bytes = 64 * SL_KIB << cluster_between(cluster, 0, 3);
    cluster->segment_count = (unsigned)cluster_between(cluster, 6, 9);
    /* A shard of several has whole chunks. */
    cluster->disk_bytes = (shards == 1 ? 8 * SL_MIB : 40 * SL_MIB) +
                          shards * cluster->segment_count * cluster->segment_bytes;
    if (cluster->replicated) {
        cluster->segment_bytes = 512 * SL_KIB << cluster_between(cluster, 0, 1);
        cluster->disk_bytes =
            24 * SL_MIB * shards + shards * cluster->segment_count * cluster->segment_bytes;
    }
    for (unsigned i = 0; i < cluster->process_count; i++) {
        struct process *process = &cluster->processes[i];
        bool is_target = i < cluster->target_count;
        process->cluster = cluster;
        process->kind = is_target ? TARGET : GATEWAY;
        process->index = i;
        process->number = is_target ? i : i - cluster->target_count;
        process->reactor_count =
            is_target ? shards : (unsigned)cluster_between(cluster, 1, REACTORS_MAX);
        process->rate_ppm = (int32_t)cluster_between(cluster, 0, 20000) - 10000;
        snprintf(process->name, sizeof(process->name), "%s%u", is_target ? "target" : "gateway",
                 process->number);
        heap_init(&process->heap);
    }
    if (cluster->replicated)
        groups_draw(cluster);
    for (unsigned i = 0; i < cluster->client_count; i++)
        cluster->clients[i] = (struct client){
            .cluster = cluster,
            .index = i,
            .random = cluster_random(cluster),
            .think_ns = cluster_between(cluster, 1, 200) * MS,
        };
}

static void draw_world(struct cluster *cluster, FILE *trace)
{
    struct sl_sim_config config = {.seed = cluster->seed, .trace = trace};
    config.network.delay_max_ns = cluster_between(cluster, 10, 400) * SL_NS_PER_US;
    config.network.send_spans_max = (uint32_t)cluster_between(cluster, 3, SL_SEND_SPANS_MAX);
    config.storage.latency_max_ns = cluster_between(cluster, 100, 4000) * SL_NS_PER_US;
    if (cluster_chance(cluster, 50))
        config.network.slow_per_million = 1000;
    if (cluster_chance(cluster, 50))
        config.storage.slow_per_million = 2000;
    SL_ASSERT(sl_sim_create(&config, &cluster->sim) == 0);
    cluster->begin_ns = sl_sim_now_ns(cluster->sim);
}

struct cluster *cluster_create(uint64_t seed, bool replicated, FILE *trace)
{
    struct cluster *cluster = heap_keep(NULL, sizeof(*cluster));
    *cluster = (struct cluster){
        .seed = seed, .random = seed, .violation_block = -1, .replicated = replicated};
    cluster->compared = replicated && seed / 3 % 2 == 0;
    draw_shape(cluster);
    draw_world(cluster, trace);
    size_t bytes = cluster->client_count * (size_t)CLIENT_BYTES;
    cluster->memfd = memfd_create("sim-clients", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    SL_ASSERT(cluster->memfd >= 0 && ftruncate(cluster->memfd, (off_t)bytes) == 0 &&
              fcntl(cluster->memfd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    cluster->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, cluster->memfd, 0);
    SL_ASSERT(cluster->memory != MAP_FAILED);
    for (unsigned i = 0; i < cluster->target_count; i++)
        target_format(&cluster->processes[i]);
    cluster->begin_ns = sl_sim_now_ns(cluster->sim);
    for (unsigned i = 0; i < cluster->process_count; i++) {
        if (cluster->replicated && i == cluster->target_count)
            groups_boot(cluster);
        process_start(&cluster->processes[i]);
    }
    return cluster;
}

void cluster_destroy(struct cluster *cluster)
{
    tool_crash(cluster);
    for (unsigned i = 0; i < cluster->process_count; i++) {
        if (cluster->processes[i].running)
            process_crash(&cluster->processes[i], false);
    }
    while (cluster->actions != NULL) {
        struct action *action = cluster->actions;
        cluster->actions = action->next;
        free(action);
    }
    sl_sim_destroy(cluster->sim);
    munmap(cluster->memory, cluster->client_count * (size_t)CLIENT_BYTES);
    close(cluster->memfd);
    free(cluster->operations);
    free(cluster);
}
