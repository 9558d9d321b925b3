/* What happens to a cluster, and when: a plan from the seed, of which parts can be left out. */
#include "sim/cluster/group.h"

#include <stdlib.h>
#include <string.h>

#include "store/format.h"

#define DISK "sim:disk"

#define FAULT_TEXT(name) #name,
static const char *const fault_names[] = {CLUSTER_FAULTS(FAULT_TEXT)};
static const char *const effect_names[] = {CLUSTER_EFFECTS(FAULT_TEXT)};

const char *fault_name(enum fault_kind kind)
{
    return fault_names[kind];
}

const char *effect_name(enum effect effect)
{
    return effect_names[effect];
}

/* ---- the ends of what lasts ---- */

static void start_again(struct cluster *cluster, struct action *action)
{
    struct process *process = &cluster->processes[action->a];
    if (!process->running && process->life == action->life)
        process_start(process);
}

static void go_on(struct cluster *cluster, struct action *action)
{
    struct process *process = &cluster->processes[action->a];
    if (process->life == action->life)
        process_pause(process, false);
}

static void join(struct cluster *cluster, struct action *action)
{
    cluster_note(cluster, "%s reaches %s again", cluster->processes[action->a].name,
                 cluster->processes[action->b].name);
    process_cut(cluster, action->a, action->b, false);
}

static void net_calm(struct cluster *cluster, struct action *action)
{
    struct sl_sim_network *network = sl_sim_network(cluster->sim);
    network->reset_per_million = 0;
    network->slow_per_million = 0;
}

/* A store whose log could not be written takes no more until its target is started anew: the
 * operator does that, after a while. */
static void disk_calm(struct cluster *cluster, struct action *action)
{
    cluster_note(cluster, "the disk of %s is well again", cluster->processes[action->a].name);
    if (action->amount != 0)
        process_stop(&cluster->processes[action->a], action->amount);
    *sl_sim_disk_faults(cluster->sim, cluster->processes[action->a].name, DISK) =
        (struct sl_sim_disk_faults){0};
}

/* ---- what begins ---- */

static void crash(struct cluster *cluster, unsigned index, bool power, uint64_t away_ns)
{
    struct process *process = &cluster->processes[index];
    if (!process->running)
        return;
    process_crash(process, power);
    cluster_act(cluster, cluster_now(cluster) + away_ns, start_again, index, 0, 0);
}

static void cut(struct cluster *cluster, unsigned from, unsigned to, uint64_t duration_ns)
{
    cluster_note(cluster, "%s no longer reaches %s", cluster->processes[from].name,
                 cluster->processes[to].name);
    process_cut(cluster, from, to, true);
    cluster_act(cluster, cluster_now(cluster) + duration_ns, join, from, to, 0);
}

static void reset(struct cluster *cluster, const struct process *a, const struct process *b)
{
    for (unsigned i = 0; a->running && b->running && i < a->reactor_count; i++) {
        for (unsigned k = 0; k < b->reactor_count; k++)
            sl_sim_reset(cluster->sim, a->nodes[i].io, b->nodes[k].io);
    }
}

/* Where nothing but the blocks of chunks lie: the only copy of anything else could not be missed.
 */
static void choose_data(struct cluster *cluster, struct process *process,
                        struct sl_sim_disk_faults *faults)
{
    struct sl_superblock *superblock = heap_keep(NULL, sizeof(*superblock));
    char why[256];
    struct sl_layout_options options = {
        .segment_bytes = cluster->segment_bytes,
        .wal_bytes = process->reactor_count * cluster->segment_count * cluster->segment_bytes,
        .shard_count = (uint16_t)process->reactor_count,
    };
    SL_ASSERT(sl_layout_make(cluster->disk_bytes, &options, superblock, why, sizeof(why)) == 0);
    faults->begin_bytes = superblock->extents[0].data_offset;
    faults->end_bytes = faults->begin_bytes + superblock->extents[0].slot_count * SL_REGION_BYTES;
    cluster->rotten |= 1u << process->number;
    free(superblock);
}

static bool is_silent(enum fault_kind kind)
{
    return kind >= FAULT_DISK_ROT && kind <= FAULT_DISK_MISDIRECTS;
}

static void disk_fault(struct cluster *cluster, const struct fault *fault)
{
    struct process *process = &cluster->processes[fault->a];
    if (is_silent(fault->kind) && cluster->wiped)
        return;
    struct sl_sim_disk_faults *faults = sl_sim_disk_faults(cluster->sim, process->name, DISK);
    uint32_t rate = (uint32_t)fault->amount;
    *faults = (struct sl_sim_disk_faults){0};
    switch (fault->kind) {
    case FAULT_DISK_WRITE_ERRORS:
        faults->write_error_per_million = rate;
        break;
    case FAULT_DISK_READ_ERRORS:
        faults->read_error_per_million = rate;
        cluster->unread |= 1u << process->number;
        break;
    case FAULT_DISK_STUCK:
        faults->stuck_per_million = rate;
        faults->stuck_ns = fault->duration_ns;
        break;
    case FAULT_DISK_SLOW:
        faults->stuck_per_million = 1000000;
        faults->stuck_ns = fault->amount * SL_NS_PER_US;
        break;
    case FAULT_DISK_ROT:
        choose_data(cluster, process, faults);
        faults->rot_per_million = rate;
        break;
    case FAULT_DISK_FORGETS:
        choose_data(cluster, process, faults);
        faults->forgotten_per_million = rate;
        break;
    default:
        choose_data(cluster, process, faults);
        faults->misdirected_write_per_million = faults->misdirected_read_per_million = rate;
    }
    uint64_t away_ns = fault->kind == FAULT_DISK_WRITE_ERRORS ? 100 * MS : 0;
    cluster_act(cluster, cluster_now(cluster) + fault->duration_ns, disk_calm, fault->a, 0,
                away_ns);
}

static void process_fault(struct cluster *cluster, const struct fault *fault)
{
    struct process *process = &cluster->processes[fault->a];
    switch (fault->kind) {
    case FAULT_TARGET_KILL:
    case FAULT_GATEWAY_KILL:
        crash(cluster, fault->a, false, fault->duration_ns);
        break;
    case FAULT_TARGET_POWER:
    case FAULT_GATEWAY_POWER:
        crash(cluster, fault->a, true, fault->duration_ns);
        break;
    case FAULT_ALL_TARGETS_POWER:
        for (unsigned i = 0; i < cluster->target_count; i++)
            crash(cluster, i, true, fault->duration_ns);
        break;
    case FAULT_PAUSE:
        process_pause(process, true);
        cluster_act(cluster, cluster_now(cluster) + fault->duration_ns, go_on, fault->a, 0, 0);
        break;
    case FAULT_CLOCK:
        process->rate_ppm = (int32_t)(fault->amount % 200001) - 100000;
        for (unsigned i = 0; process->running && i < process->reactor_count; i++)
            sl_sim_clock_set(cluster->sim, process->nodes[i].io, process->rate_ppm,
                             fault->amount % 3 == 0 ? fault->duration_ns : 0);
        break;
    default:
        process_stop(process, fault->duration_ns);
    }
}

static void network_fault(struct cluster *cluster, const struct fault *fault)
{
    struct sl_sim_network *network = sl_sim_network(cluster->sim);
    switch (fault->kind) {
    case FAULT_PARTITION:
        cut(cluster, fault->a, fault->b, fault->duration_ns);
        cut(cluster, fault->b, fault->a, fault->duration_ns);
        break;
    case FAULT_CUT_ONE_WAY:
        cut(cluster, fault->a, fault->b, fault->duration_ns);
        break;
    case FAULT_RESET:
        reset(cluster, &cluster->processes[fault->a], &cluster->processes[fault->b]);
        break;
    case FAULT_NET_SLOW:
        network->slow_per_million = (uint32_t)fault->amount;
        cluster_act(cluster, cluster_now(cluster) + fault->duration_ns, net_calm, 0, 0, 0);
        break;
    default:
        network->reset_per_million = (uint32_t)fault->amount;
        cluster_act(cluster, cluster_now(cluster) + fault->duration_ns, net_calm, 0, 0, 0);
    }
}

/* Its disk is lost, another one takes its place. Groups of fewer than three would be lost with it.
 */
static void wipe(struct cluster *cluster, const struct fault *fault)
{
    struct process *process = &cluster->processes[fault->a];
    for (unsigned i = 0; i < cluster->meta.group_count; i++) {
        if (cluster->meta_groups[i].replica_count < 3)
            return;
    }
    /* A block that is damaged on another disk may be whole on the lost one alone. */
    if (cluster->wiped || cluster->healing || (cluster->rotten & ~(1u << fault->a)) != 0)
        return;
    cluster->wiped = true;
    if (process->running)
        process_crash(process, true);
    process->life++; /* nobody else starts it */
    cluster_note(cluster, "the disk of %s is lost", process->name);
    *sl_sim_disk_faults(cluster->sim, process->name, DISK) = (struct sl_sim_disk_faults){0};
    target_format(process);
    process_start(process);
    groups_replace(cluster, fault->a);
}

/* No group has a quorum for longer than most requests wait; what leaders have logged stays there.
 */
static void apart(struct cluster *cluster, const struct fault *fault)
{
    uint64_t duration_ns = fault->duration_ns;
    if (fault->amount % 2 == 0)
        duration_ns += cluster->io_timeout_ns;
    for (unsigned i = 0; i < cluster->target_count; i++) {
        for (unsigned k = 0; k < cluster->target_count; k++) {
            if (i != k)
                cut(cluster, i, k, duration_ns);
        }
    }
}

/* Whoever leads now. */
static void leader_fault(struct cluster *cluster, const struct fault *fault)
{
    unsigned leader = group_leader(cluster, (unsigned)(fault->amount % cluster->meta.group_count));
    if (leader == TARGETS_MAX)
        return;
    struct fault at = *fault;
    at.a = leader;
    switch (fault->kind) {
    case FAULT_LEADER_KILL:
    case FAULT_LEADER_POWER:
        crash(cluster, leader, fault->kind == FAULT_LEADER_POWER, fault->duration_ns);
        break;
    case FAULT_LEADER_PAUSE:
        at.kind = FAULT_PAUSE;
        process_fault(cluster, &at);
        break;
    default:
        for (unsigned i = 0; i < cluster->process_count; i++) {
            /* All that it says, or hears, or both. */
            if (i != leader && fault->amount % 3 != 1)
                cut(cluster, leader, i, fault->duration_ns);
            if (i != leader && fault->amount % 3 != 2)
                cut(cluster, i, leader, fault->duration_ns);
        }
    }
}

static void strike(struct cluster *cluster, struct action *action)
{
    const struct fault *fault = &cluster->faults[action->amount];
    cluster->fault_hits[fault->kind]++;
    cluster_note(cluster, "fault %s, %s %s, for %.3f s", fault_name(fault->kind),
                 cluster->processes[fault->a].name, cluster->processes[fault->b].name,
                 (double)fault->duration_ns / 1e9);
    if (fault->kind == FAULT_TARGET_WIPE)
        wipe(cluster, fault);
    else if (fault->kind == FAULT_TARGETS_APART)
        apart(cluster, fault);
    else if (fault->kind == FAULT_REPLICA_DIFFERS)
        groups_forge(cluster, fault->a, (unsigned)(fault->amount % cluster->meta.group_count));
    else if (fault->kind >= FAULT_LEADER_KILL)
        leader_fault(cluster, fault);
    else if (fault->kind <= FAULT_PAUSE || fault->kind == FAULT_CLOCK)
        process_fault(cluster, fault);
    else if (fault->kind <= FAULT_NET_RESETS)
        network_fault(cluster, fault);
    else
        disk_fault(cluster, fault);
}

/* ---- the plan ---- */

static bool is_of_gateway(enum fault_kind kind)
{
    return kind == FAULT_GATEWAY_KILL || kind == FAULT_GATEWAY_POWER ||
           kind == FAULT_GATEWAY_RESTART;
}

static void draw(struct cluster *cluster, struct fault *fault, uint64_t length_ns)
{
    bool silent = false;
    /* Of silent damage, the more to the only copy, less can be demanded: not in all runs. */
    do {
        fault->kind = (enum fault_kind)(cluster_random(cluster) % FAULT_COUNT);
        silent = is_silent(fault->kind);
    } while ((silent && cluster->seed % (cluster->replicated ? 2 : 4) != 0) ||
             (fault->kind >= FAULT_LEADER_KILL && !cluster->replicated) ||
             (fault->kind == FAULT_REPLICA_DIFFERS && !cluster->compared));
    unsigned target = (unsigned)(cluster_random(cluster) % cluster->target_count);
    unsigned gateway =
        cluster->target_count + (unsigned)(cluster_random(cluster) % cluster->gateway_count);
    bool swap = cluster_chance(cluster, 50);
    fault->at_ns = cluster_random(cluster) % length_ns;
    fault->duration_ns = cluster_chance(cluster, 60) ? cluster_between(cluster, 5, 500) * MS
                                                     : cluster_between(cluster, 1, 8000) * MS;
    if (silent) /* blocks are written and read now and then */
        fault->duration_ns = cluster_between(cluster, 500, 8000) * MS;
    fault->a = target;
    fault->b = gateway;
    if (is_of_gateway(fault->kind) ||
        (fault->kind >= FAULT_PAUSE && swap &&
         (fault->kind <= FAULT_CUT_ONE_WAY || fault->kind == FAULT_CLOCK))) {
        fault->a = gateway;
        fault->b = target;
    }
    /* Targets from each other. */
    if (cluster->replicated && fault->kind >= FAULT_PARTITION && fault->kind <= FAULT_RESET &&
        cluster->target_count > 1 && cluster_chance(cluster, 60)) {
        fault->a = target;
        fault->b =
            (target + 1 + (unsigned)(cluster_random(cluster) % (cluster->target_count - 1))) %
            cluster->target_count;
    }
    fault->amount = cluster_random(cluster) % 1000000;
    if (fault->kind == FAULT_NET_RESETS)
        fault->amount = cluster_between(cluster, 200, 20000);
    else if (fault->kind == FAULT_NET_SLOW)
        fault->amount = cluster_between(cluster, 1000, 200000);
    else if (fault->kind >= FAULT_DISK_WRITE_ERRORS && fault->kind <= FAULT_DISK_STUCK)
        fault->amount =
            cluster_chance(cluster, 30) ? 1000000 : cluster_between(cluster, 1000, 200000);
    else if (fault->kind == FAULT_DISK_SLOW)
        fault->amount = cluster_between(cluster, 1000, 300000);
}

void faults_plan(struct cluster *cluster, uint64_t length_ns)
{
    cluster->fault_count = (unsigned)cluster_between(cluster, 2, 24);
    for (unsigned i = 0; i < cluster->fault_count; i++) {
        struct fault *fault = &cluster->faults[i];
        bool skip = fault->skip;
        draw(cluster, fault, length_ns);
        fault->skip = skip;
        if (!skip)
            cluster_act(cluster, fault->at_ns, strike, fault->a, fault->b, i);
    }
}

/* Everything is well again; processes that are away come back. */
void faults_heal(struct cluster *cluster)
{
    struct sl_sim_network *network = sl_sim_network(cluster->sim);
    struct sl_sim_storage *storage = sl_sim_storage(cluster->sim);
    cluster_note(cluster, "no more faults");
    cluster->healing = true;
    network->reset_per_million = network->slow_per_million = 0;
    storage->slow_per_million = 0;
    for (unsigned i = 0; i < cluster->process_count; i++) {
        struct process *process = &cluster->processes[i];
        process_pause(process, false);
        if (i < cluster->target_count)
            *sl_sim_disk_faults(cluster->sim, process->name, DISK) = (struct sl_sim_disk_faults){0};
        for (unsigned k = 0; k < cluster->process_count; k++) {
            bool was_cut = cluster->cuts[i][k] > 0;
            cluster->cuts[i][k] = sl_min(cluster->cuts[i][k], 1u);
            if (was_cut)
                process_cut(cluster, i, k, false);
        }
    }
    /* Ends of faults that are over already would end them twice. */
    while (cluster->actions != NULL) {
        struct action *action = cluster->actions;
        cluster->actions = action->next;
        free(action);
    }
    /* Whatever was acknowledged must survive this. */
    for (unsigned i = 0; i < cluster->process_count; i++) {
        struct process *process = &cluster->processes[i];
        if (i < cluster->target_count && process->running)
            process_crash(process, cluster_chance(cluster, 80));
        if (!process->running)
            process_start(process);
    }
}
