/*
 * The program of the whole-node simulator: runs clusters from seeds, one after the other, and
 * counts what was hit. A failing seed is made shorter, drawn, and can be run again.
 *
 *   cluster_sim [--seed N] [--count N] [--time REAL_SECONDS] [--coverage] [--trace] [--log]
 */
#include "sim/cluster/group.h"

#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/log.h"

/* After the last fault: the longest back-off, heartbeats that were missed, a handshake or two. */
#define PROGRESS_NS (40 * SECOND)
/* One cluster's memory is the next one's: the kernel's pages cost more than what is done in them.
 */
#define MALLOC_KEPT_BYTES (1 << 30)

struct options {
    uint64_t seed, count, time_s, repeat;
    bool coverage, trace, log, quick, plain, replicated;
};

static struct options options_now;

struct totals {
    uint64_t runs, virtual_ns, events, operations;
    uint64_t faults[FAULT_COUNT], effects[EFFECT_COUNT];
};

/* ---- last words: an assertion of the code under test ends the process ---- */

static uint64_t current_seed;
static const struct cluster *current;

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void show_notes(const struct cluster *cluster)
{
    unsigned first = cluster->note_count > NOTES ? cluster->note_count - NOTES : 0;
    for (unsigned i = first; i < cluster->note_count; i++)
        printf("%s\n", cluster->notes[i % NOTES]);
}

static void last_words(void)
{
    printf("FAILED seed %" PRIu64 ": the program died\n", current_seed);
    if (current != NULL)
        show_notes(current);
    printf("  again: cluster_sim --seed %" PRIu64 " --count 1\n", current_seed);
    fflush(stdout);
}

static void died(int number)
{
    (void)signal(number, SIG_DFL);
    last_words();
    (void)raise(number);
}

/* ---- a run ---- */

static bool everybody_got_on(struct cluster *cluster)
{
    for (unsigned i = 0; i < cluster->client_count; i++) {
        if (cluster->clients[i].done_count < 3)
            return false;
    }
    return true;
}

static bool nobody_is_busy(struct cluster *cluster)
{
    for (unsigned i = 0; i < cluster->client_count; i++) {
        if (cluster->clients[i].current != 0)
            return false;
    }
    return true;
}

static bool is_administered(struct cluster *cluster)
{
    return !cluster->tool.running;
}

static bool is_read_back(struct cluster *cluster)
{
    return cluster->read_back_done;
}

static bool gateways_are_gone(struct cluster *cluster)
{
    for (unsigned i = cluster->target_count; i < cluster->process_count; i++) {
        if (cluster->processes[i].running)
            return false;
    }
    return true;
}

static bool all_are_gone(struct cluster *cluster)
{
    for (unsigned i = 0; i < cluster->process_count; i++) {
        if (cluster->processes[i].running)
            return false;
    }
    return true;
}

static bool within(struct cluster *cluster, uint64_t limit_ns,
                   bool (*done)(struct cluster *cluster), const char *what)
{
    if (cluster_run(cluster, cluster_now(cluster) + limit_ns, done))
        return true;
    cluster_violation(cluster, -1, "%s within %" PRIu64 " s", what, limit_ns / SECOND);
    return false;
}

/* Nothing is done to it any more: everybody gets on, all is there, all ends in order. */
static void heal(struct cluster *cluster)
{
    for (unsigned i = 0; i < cluster->client_count; i++)
        cluster->clients[i].done_count = 0;
    faults_heal(cluster);
    if (!within(cluster, PROGRESS_NS, everybody_got_on, "some client did not get on"))
        return;
    /* Who reads from followers gets on without the leader, for whom a write may have to wait. */
    if (!within(cluster, PROGRESS_NS, gateways_are_connected,
                "a gateway did not reach all targets"))
        return;
    if (!within(cluster, PROGRESS_NS, is_administered, "lost replicas were not replaced"))
        return;
    cluster->quiet = true;
    if (!within(cluster, cluster->io_timeout_ns + 2 * SECOND, nobody_is_busy,
                "a request outlasted its time-out"))
        return;
    cluster->reading_back = true;
    if (!within(cluster, PROGRESS_NS, is_read_back, "not all blocks could be read"))
        return;
    for (unsigned i = cluster->target_count; i < cluster->process_count; i++)
        process_stop(&cluster->processes[i], UINT64_MAX);
    if (!within(cluster, PROGRESS_NS, gateways_are_gone, "a gateway did not end"))
        return;
    if (cluster->replicated &&
        !within(cluster, PROGRESS_NS, groups_are_level, "replicas did not become equal"))
        return;
    if (cluster->forged && !within(cluster, PROGRESS_NS, groups_are_mended,
                                   "replicas that differ were not found and mended"))
        return;
    if (cluster->replicated)
        groups_compare(cluster);
    for (unsigned i = 0; i < cluster->target_count; i++)
        process_stop(&cluster->processes[i], UINT64_MAX);
    within(cluster, PROGRESS_NS, all_are_gone, "a target did not end");
}

static void count_effects(struct cluster *cluster)
{
    const struct sl_sim_statistics *statistics = sl_sim_statistics(cluster->sim);
    cluster->effects[EFFECT_DISK_ERRORS] = statistics->disk_error_count;
    cluster->effects[EFFECT_SECTORS_LOST] = statistics->disk_lost_count;
    cluster->effects[EFFECT_WRITES_TORN] = statistics->disk_torn_count;
    cluster->effects[EFFECT_DISKS_STUCK] = statistics->disk_stuck_count;
    cluster->effects[EFFECT_BITS_ROTTEN] = statistics->disk_rot_count;
    cluster->effects[EFFECT_WRITES_FORGOTTEN] = statistics->disk_forgotten_count;
    cluster->effects[EFFECT_MISDIRECTED] = statistics->disk_misdirected_count;
    cluster->effects[EFFECT_PACKETS_HELD] = statistics->held_count;
    cluster->effects[EFFECT_CONNECTIONS_RESET] = statistics->reset_count;
    cluster->effects[EFFECT_LATE_LANDINGS] = statistics->late_landing_count;
}

/* `skip` (may be NULL) leaves faults out. The caller destroys the cluster. */
static struct cluster *run(uint64_t seed, const bool *skip, FILE *trace, FILE *log)
{
    current_seed = seed;
    /* Every third is unreplicated. */
    bool replicated = options_now.replicated || (!options_now.plain && seed % 3 != 0);
    struct cluster *cluster = cluster_create(seed, replicated, trace);
    current = cluster;
    cluster->log = log;
    uint64_t length_ns = cluster_between(cluster, 3, 25) * SECOND;
    for (unsigned i = 0; skip != NULL && i < FAULTS_MAX; i++)
        cluster->faults[i].skip = skip[i];
    faults_plan(cluster, length_ns);
    cluster_run(cluster, length_ns, NULL);
    if (cluster->violation[0] == '\0')
        heal(cluster);
    if (cluster->violation[0] == '\0')
        check_blocks(cluster);
    count_effects(cluster);
    return cluster;
}

static void end(struct cluster *cluster)
{
    current = NULL;
    cluster_destroy(cluster);
}

/* Leaves out faults, halves at first, as long as the run still fails somehow (ddmin). */
static void shorten(uint64_t seed, bool *skip, unsigned count)
{
    bool tried[FAULTS_MAX];
    for (unsigned piece = count / 2 + 1; piece >= 1; piece /= 2) {
        for (unsigned first = 0; first < count; first += piece) {
            memcpy(tried, skip, sizeof(tried));
            for (unsigned i = first; i < count && i < first + piece; i++)
                tried[i] = true;
            if (memcmp(tried, skip, sizeof(tried)) == 0)
                continue;
            struct cluster *cluster = run(seed, tried, NULL, NULL);
            if (cluster->violation[0] != '\0')
                memcpy(skip, tried, sizeof(tried));
            end(cluster);
        }
    }
}

static void show_failure(uint64_t seed, struct cluster *failed)
{
    bool skip[FAULTS_MAX] = {false};
    unsigned count = failed->fault_count;
    printf("FAILED seed %" PRIu64 " at %.3f s: %s\n", seed, (double)failed->violation_ns / 1e9,
           failed->violation);
    fflush(stdout);
    shorten(seed, skip, count);
    struct cluster *cluster = run(seed, skip, NULL, NULL);
    printf("  made shorter: %s\n  %u targets of %u reactors, %u gateways, %u clients; stripes of "
           "%u KiB\n  with these of %u faults:",
           cluster->violation, cluster->target_count, cluster->processes[0].reactor_count,
           cluster->gateway_count, cluster->client_count, cluster->stripe_bytes / 1024, count);
    for (unsigned i = 0; i < count; i++) {
        if (!skip[i])
            printf(" %s (%.3f s)", fault_name(cluster->faults[i].kind),
                   (double)cluster->faults[i].at_ns / 1e9);
    }
    printf("\n");
    show_notes(cluster);
    if (cluster->violation_block >= 0)
        check_draw(cluster, (unsigned)cluster->violation_block, stdout);
    end(cluster);
    printf("  again: cluster_sim --seed %" PRIu64 " --count 1 --log\n", seed);
}

/* ---- many ---- */

static void add(struct totals *totals, const struct cluster *cluster)
{
    totals->runs++;
    totals->virtual_ns += cluster_now(cluster);
    totals->events += sl_sim_statistics(cluster->sim)->event_count;
    totals->operations += cluster->operation_count;
    for (unsigned i = 0; i < FAULT_COUNT; i++)
        totals->faults[i] += cluster->fault_hits[i];
    for (unsigned i = 0; i < EFFECT_COUNT; i++)
        totals->effects[i] += cluster->effects[i];
}

/* Answers how many faults and effects were never met. */
static unsigned show_coverage(const struct totals *totals)
{
    unsigned missing = 0;
    for (unsigned i = 0; i < FAULT_COUNT + EFFECT_COUNT; i++) {
        bool is_fault = i < FAULT_COUNT;
        uint64_t count = is_fault ? totals->faults[i] : totals->effects[i - FAULT_COUNT];
        const char *name = is_fault ? fault_name(i) : effect_name(i - FAULT_COUNT);
        printf("  %-30s %12" PRIu64 "\n", name, count);
        if (count == 0 && ++missing > 0)
            printf("NOT MET %s %s\n", is_fault ? "fault" : "effect", name);
    }
    return missing;
}

static uint64_t number(const char *text)
{
    char *after;
    uint64_t value = strtoull(text, &after, 0);
    if (*text == 0 || *after != 0) {
        fprintf(stderr, "cluster_sim: '%s' is no number\n", text);
        exit(2);
    }
    return value;
}

static struct options parse(int argc, char **argv)
{
    struct options options = {.seed = 1, .count = 100};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--coverage") == 0)
            options.coverage = true;
        else if (strcmp(argv[i], "--trace") == 0)
            options.trace = true;
        else if (strcmp(argv[i], "--log") == 0)
            options.log = true;
        else if (strcmp(argv[i], "--plain") == 0)
            options.plain = true;
        else if (strcmp(argv[i], "--replicated") == 0)
            options.replicated = true;
        else if (strcmp(argv[i], "--quick") == 0)
            options.quick = true;
        else if (strcmp(argv[i], "--seed") == 0 && ++i)
            options.seed = number(value);
        else if (strcmp(argv[i], "--count") == 0 && ++i)
            options.count = number(value);
        else if (strcmp(argv[i], "--repeat") == 0 && ++i)
            options.repeat = number(value);
        else if (strcmp(argv[i], "--time") == 0 && ++i)
            options.time_s = number(value);
        else {
            fprintf(
                stderr,
                "usage: cluster_sim [--seed N] [--count N] [--time REAL] [--repeat N]\n"
                "                   [--plain|--replicated] [--coverage] [--trace] [--log] "
                "[--quick]\n"
                "--plain: no replication, --replicated: all are; else every third is not.\n"
                "--count clusters from --seed on, with --time as many of them as fit; every\n"
                "--repeat-th is run twice and must not differ; --coverage fails if a fault or\n"
                "an effect was never met; --log says what happens, and shows the programs' own\n"
                "logs; --trace prints every event; --quick does not look closer at a failure.\n");
            exit(2);
        }
    }
    return options;
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Our processes' logs are of use in a single run only; sanitizers keep the real place. */
static void silence(void)
{
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (nowhere >= 0)
        dup2(nowhere, STDERR_FILENO);
}

static bool is_repeatable(uint64_t seed, uint64_t hash)
{
    struct cluster *again = run(seed, NULL, NULL, NULL);
    bool same = sl_sim_trace_hash(again->sim) == hash;
    if (!same)
        printf("FAILED seed %" PRIu64 ": its second run differed\n", seed);
    end(again);
    return same;
}

int main(int argc, char **argv)
{
    struct options options = parse(argc, argv);
    options_now = options;
    struct totals totals = {0};
    double began_s = now_s();
    bool failed = false;
    setvbuf(stdout, NULL, _IOLBF, 0);
    mallopt(M_MMAP_THRESHOLD, MALLOC_KEPT_BYTES);
    mallopt(M_TRIM_THRESHOLD, MALLOC_KEPT_BYTES);
    (void)signal(SIGABRT, died);
    (void)signal(SIGSEGV, died);
    (void)signal(SIGFPE, died);
    if (__sanitizer_set_death_callback != NULL)
        __sanitizer_set_death_callback(last_words);
    else if (!options.log)
        silence();
    if (!options.log)
        sl_log_set_level(SL_LOG_ERROR);
    for (uint64_t i = 0; i < options.count && !failed; i++) {
        if (options.time_s != 0 && now_s() - began_s > (double)options.time_s)
            break;
        uint64_t seed = options.seed + i;
        struct cluster *cluster =
            run(seed, NULL, options.trace ? stdout : NULL, options.log ? stdout : NULL);
        uint64_t hash = sl_sim_trace_hash(cluster->sim);
        add(&totals, cluster);
        failed = cluster->violation[0] != '\0';
        if (failed && !options.quick)
            show_failure(seed, cluster);
        else if (failed)
            printf("FAILED seed %" PRIu64 ": %s\n", seed, cluster->violation);
        end(cluster);
        if (!failed && options.repeat != 0 && i % options.repeat == 0)
            failed = !is_repeatable(seed, hash);
    }
    double took_s = now_s() - began_s;
    unsigned missing = !failed && options.coverage ? show_coverage(&totals) : 0;
    printf("%" PRIu64 " clusters from seed %" PRIu64 ": %.0f virtual seconds in %.1f s, %" PRIu64
           " events, %" PRIu64 " operations; %s\n",
           totals.runs, options.seed, (double)totals.virtual_ns / 1e9, took_s, totals.events,
           totals.operations,
           failed        ? "FAILED"
           : missing > 0 ? "NOT ALL WAS MET"
                         : "clean");
    return failed || missing > 0 ? 1 : 0;
}
