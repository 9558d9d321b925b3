/*
 * The Raft simulator's program: runs clusters from seeds, one after the other, and counts what was
 * hit. A failing seed is made shorter, drawn, and can be run again.
 *
 *   raft_sim [--seed N] [--count N] [--seconds S] [--time REAL_SECONDS] [--coverage] [--trace]
 */
#include "sim/raft/cluster.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NAME(name)            #name,
#define RULE_NAME(name, text) #name,
static const char *const branch_names[] = {SL_RAFT_BRANCHES(NAME)};
static const char *const rule_names[] = {SL_RAFT_RULES(RULE_NAME)};

struct options {
    uint64_t seed, count, seconds, time_s;
    bool coverage, trace, quick, by_history;
};

struct totals {
    uint64_t runs, virtual_ns, steps, writes, reads, voids, fenced;
    uint64_t faults[FAULT_COUNT], faults_in_resync[FAULT_COUNT];
};

/* The shape of a cluster is of the seed, too. */
static struct cluster *make(uint64_t seed, uint64_t seconds)
{
    struct cluster *cluster = cluster_create(seed, 3, 1);
    unsigned nodes = (unsigned)cluster_range(cluster, 3, NODES_MAX);
    unsigned groups = (unsigned)cluster_range(cluster, 1, GROUPS_MAX);
    bool shared = cluster_chance(cluster, 80), ordered = cluster_chance(cluster, 60);
    bool eager = cluster_chance(cluster, 25), jumpy = cluster_chance(cluster, 15);
    cluster_destroy(cluster);
    cluster = cluster_create(seed, nodes, groups);
    cluster->links_shared = shared;
    cluster->ordered = ordered;
    cluster->net_least_ns = 200 * SL_NS_PER_US;
    bool fast = eager && cluster_chance(cluster, 70); /* a successor leads as soon as it may */
    cluster->net_most_ns = cluster_range(cluster, 1, fast ? 2 : 20) * MS;
    cluster->disk_least_ns = 50 * SL_NS_PER_US;
    cluster->disk_most_ns = cluster_range(cluster, 1, fast ? 2 : 20) * MS;
    cluster->terms =
        (unsigned)cluster_range(cluster, 3, cluster_chance(cluster, 50) ? 5 : SL_RAFT_TERMS);
    if (cluster_chance(cluster, 30)) { /* much is copied, and slowly */
        cluster->compact_every = cluster_range(cluster, 8, 40);
        cluster->copy_most_ns = cluster_range(cluster, 100 * MS, 4 * SECOND);
    }
    cluster->eager = eager;
    cluster->jumpy = jumpy;
    if (jumpy)
        cluster->tuning.drift_ppm = 1000000;
    for (unsigned i = 0; i < nodes; i++)
        node_set_rate(cluster, &cluster->nodes[i],
                      eager ? (cluster_chance(cluster, 50) ? 50000 : -50000)
                            : (int64_t)cluster_range(cluster, 0, 100000) - 50000);
    for (unsigned group = 0; group < groups; group++) {
        unsigned voters = (unsigned)cluster_range(cluster, nodes > 3 ? 3 : 2, sl_min(nodes, 5u));
        if (cluster_chance(cluster, 4))
            voters = 1;
        cluster_form(cluster, group, voters, 0);
        struct group *g = &cluster->groups[group];
        g->client_count = (unsigned)cluster_range(cluster, 1, CLIENTS_MAX);
        for (unsigned i = 0; i < g->client_count; i++) {
            g->clients[i] = (struct client){.group = group};
            cluster_client_timer(cluster, group, (int)i,
                                 cluster->now_ns + cluster_range(cluster, 0, 2 * SECOND));
        }
    }
    faults_plan(cluster, seconds * SECOND);
    return cluster;
}

/* Progress within a bound: after the last fault all is served again and equal in 30 time-outs. */
static void heal(struct cluster *cluster)
{
    faults_heal(cluster);
    uint64_t writes[GROUPS_MAX];
    for (unsigned group = 0; group < cluster->group_count; group++)
        writes[group] = cluster->groups[group].writes;
    uint64_t end_ns = cluster->now_ns + 30 * cluster->tuning.election_ns;
    char why[200] = "";
    bool written = false;
    while (cluster->now_ns < end_ns && cluster->violation[0] == 0) {
        cluster_run(cluster, 500 * MS);
        written = true;
        for (unsigned group = 0; group < cluster->group_count; group++)
            written = written && cluster->groups[group].writes > writes[group];
        if (!written)
            continue;
        cluster->quiet_clients = true;
        cluster_run(cluster, 2 * SECOND);
        if (check_healed(cluster, why, sizeof(why))) {
            for (unsigned i = 0; i < 10 && check_waiting(cluster, why, sizeof(why)); i++)
                cluster_run(cluster, 500 * MS); /* belated requests come until 4 s after the heal */
            check_end(cluster);
            return;
        }
    }
    if (!written)
        snprintf(why, sizeof(why), "no write was done");
    violation(cluster, "no progress within 30 time-outs of the last fault: %s", why);
}

/* One run; `skip` (may be NULL) leaves faults out. The caller destroys the cluster. */
static struct cluster *run(uint64_t seed, const struct options *options, const bool *skip,
                           FILE *trace)
{
    uint64_t seconds = options->seconds;
    struct cluster *cluster = make(seed, seconds);
    cluster->by_history = options->by_history;
    for (unsigned i = 0; skip != NULL && i < cluster->fault_count; i++)
        cluster->faults[i].skip = skip[i];
    cluster->trace = trace != NULL;
    cluster->trace_file = trace;
    cluster_run(cluster, seconds * SECOND);
    if (cluster->violation[0] == 0)
        heal(cluster);
    return cluster;
}

/* Leaves out faults, halves at first, as long as the run still fails somehow (ddmin). */
static void shorten(uint64_t seed, const struct options *options, bool *skip, unsigned count)
{
    unsigned tries = 0;
    bool *tried = malloc(count + 1);
    SL_ASSERT(tried != NULL);
    for (unsigned piece = count / 2 + 1; piece >= 1 && tries < 400; piece /= 2) {
        for (unsigned first = 0; first < count && tries < 400; first += piece) {
            memcpy(tried, skip, count);
            for (unsigned i = first; i < count && i < first + piece; i++)
                tried[i] = true;
            if (memcmp(tried, skip, count) == 0)
                continue;
            tries++;
            struct cluster *cluster = run(seed, options, tried, NULL);
            if (cluster->violation[0] != 0)
                memcpy(skip, tried, count);
            cluster_destroy(cluster);
        }
    }
    free(tried);
}

enum { LINES_SHOWN = 60, LINE_BYTES = 300 };

/* The last lines of the trace, as a drawing. */
static void draw(const struct cluster *cluster, FILE *trace)
{
    static char lines[LINES_SHOWN][LINE_BYTES];
    unsigned long count = 0;
    rewind(trace);
    while (fgets(lines[count % LINES_SHOWN], LINE_BYTES, trace) != NULL)
        count++;
    printf("  %lu lines of trace, the last of them:\n%10s  ", count, "seconds");
    for (unsigned i = 0; i < cluster->node_count; i++)
        printf("n%-13u", i);
    printf("\n");
    for (unsigned long i = count > LINES_SHOWN ? count - LINES_SHOWN : 0; i < count; i++)
        fputs(lines[i % LINES_SHOWN], stdout);
}

/* Where every replica stood at the end. */
static void show_replicas(struct cluster *cluster)
{
    for (unsigned i = 0; i < cluster->node_count * cluster->group_count; i++) {
        struct replica *replica =
            replica_at(cluster, i / cluster->group_count, i % cluster->group_count);
        if (!replica->running)
            continue;
        struct sl_raft_status status = replica_status(replica);
        const struct sl_raft_config *config = sl_raft_get_config(replica->raft);
        printf("  n%u g%u replica %lu: term %lu, log %lu..%lu, commit %lu%s; members of %lu:",
               replica->node, replica->group, replica->id, status.term.value, status.boundary.value,
               status.last.value, status.commit.value, status.copying ? ", copying" : "",
               config->index.value);
        for (unsigned slot = 0; slot < config->count; slot++)
            printf(" n%u=%lu%s", config->members[slot].node, config->members[slot].id,
                   config->members[slot].kind == SL_RAFT_VOTER ? "" : "(learner)");
        printf("\n");
    }
}

static void show_failure(uint64_t seed, const struct options *options, struct cluster *failed)
{
    unsigned count = failed->fault_count;
    bool *skip = calloc(count + 1, sizeof(*skip));
    SL_ASSERT(skip != NULL);
    printf("FAILED seed %lu at %.3f s: %s\n", seed, (double)failed->violation_ns / 1e9,
           failed->violation);
    fflush(stdout);
    shorten(seed, options, skip, count);
    FILE *trace = tmpfile();
    SL_ASSERT(trace != NULL);
    struct cluster *cluster = run(seed, options, skip, trace);
    printf("  made shorter: %s\n  with these of %u faults:", cluster->violation, count);
    for (unsigned i = 0; i < count; i++) {
        if (!skip[i])
            printf(" %s (%.1f s)", fault_name(cluster->faults[i].kind),
                   (double)cluster->faults[i].at_ns / 1e9);
    }
    printf("\n");
    draw(cluster, trace);
    cluster->trace = false;
    fclose(trace);
    show_replicas(cluster);
    cluster_destroy(cluster);
    printf("  again: raft_sim --seed %lu --count 1 --seconds %lu\n", seed, options->seconds);
    free(skip);
}

static void add(struct totals *totals, const struct cluster *cluster)
{
    totals->runs++;
    totals->virtual_ns += cluster->now_ns - 10 * SECOND;
    totals->steps += cluster->steps;
    for (unsigned i = 0; i < FAULT_COUNT; i++) {
        totals->faults[i] += cluster->fault_hits[i];
        totals->faults_in_resync[i] += cluster->fault_hits_in_resync[i];
    }
    for (unsigned i = 0; i < cluster->group_count; i++) {
        totals->writes += cluster->groups[i].writes;
        totals->reads += cluster->groups[i].reads;
        totals->voids += cluster->groups[i].voids;
        totals->fenced += cluster->groups[i].fenced;
    }
}

enum { HITS_LEAST = 5 };

/* Answers how many faults were met too rarely, also during a resync, and branches never. */
static unsigned show_coverage(const struct totals *totals, bool all)
{
    unsigned missing = 0;
    for (unsigned i = 0; i < FAULT_COUNT; i++) {
        if (all)
            printf("  %-30s %12lu %12lu during a resync\n", fault_name(i), totals->faults[i],
                   totals->faults_in_resync[i]);
        if ((totals->faults[i] < HITS_LEAST || totals->faults_in_resync[i] < HITS_LEAST) &&
            ++missing > 0)
            printf("TOO FEW of fault %s\n", fault_name(i));
    }
    for (unsigned i = 0; i < SL_RAFT_COVER_COUNT; i++) {
        if (all)
            printf("  %-30s %12lu\n", branch_names[i], sl_raft_covered[i]);
        if (sl_raft_covered[i] == 0 && ++missing > 0)
            printf("NOT MET branch %s\n", branch_names[i]);
    }
    return missing;
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 0);
    if (*text == 0 || *end != 0) {
        fprintf(stderr, "raft_sim: '%s' is no number\n", text);
        exit(2);
    }
    return value;
}

static struct options parse(int argc, char **argv)
{
    struct options options = {.seed = 1, .count = 100, .seconds = 40};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--coverage") == 0)
            options.coverage = true;
        else if (strcmp(argv[i], "--trace") == 0)
            options.trace = true;
        else if (strcmp(argv[i], "--quick") == 0)
            options.quick = true;
        else if (strcmp(argv[i], "--by-history") == 0)
            options.by_history = true;
        else if (strcmp(argv[i], "--seed") == 0 && ++i)
            options.seed = number(value);
        else if (strcmp(argv[i], "--count") == 0 && ++i)
            options.count = number(value);
        else if (strcmp(argv[i], "--seconds") == 0 && ++i)
            options.seconds = number(value);
        else if (strcmp(argv[i], "--time") == 0 && ++i)
            options.time_s = number(value);
        else if (strncmp(argv[i], "--without=", 10) == 0) {
            unsigned rule = 0;
            while (rule < SL_RAFT_RULE_COUNT && strcmp(argv[i] + 10, rule_names[rule]) != 0)
                rule++;
            if (rule == SL_RAFT_RULE_COUNT) {
                fprintf(stderr, "raft_sim: no rule '%s'\n", argv[i] + 10);
                exit(2);
            }
            sl_raft_rule_off[rule] = true;
        } else {
            fprintf(
                stderr,
                "usage: raft_sim [--seed N] [--count N] [--seconds VIRTUAL] [--time REAL]\n"
                "                [--coverage] [--trace] [--quick] [--by-history] [--without=RULE]\n"
                "--count clusters from --seed on (with --time as many as fit), --seconds of\n"
                "virtual time each; --coverage fails if a fault or a branch was hardly met;\n"
                "--trace draws the first run; --quick does not look closer at a failure;\n"
                "--by-history judges registers by what clients saw alone;\n"
                "--without switches a rule off.\n");
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

int main(int argc, char **argv)
{
    struct options options = parse(argc, argv);
    struct totals totals = {0};
    double began_s = now_s();
    unsigned failures = 0;
    for (uint64_t i = 0; (options.time_s != 0 || i < options.count) && failures == 0; i++) {
        if (options.time_s != 0 && now_s() - began_s > (double)options.time_s)
            break;
        struct cluster *cluster =
            run(options.seed + i, &options, NULL, options.trace ? stdout : NULL);
        add(&totals, cluster);
        if (cluster->violation[0] != 0) {
            failures++;
            if (!options.quick)
                show_failure(options.seed + i, &options, cluster);
        }
        cluster_destroy(cluster);
    }
    double took_s = now_s() - began_s;
    printf("%lu seeds from %lu: %.0f virtual seconds in %.1f s (%.0f a second), %lu steps, "
           "%lu writes, %lu reads, %lu voided, %lu fenced; %s\n",
           totals.runs, options.seed, (double)totals.virtual_ns / 1e9, took_s,
           (double)totals.virtual_ns / 1e9 / took_s, totals.steps, totals.writes, totals.reads,
           totals.voids, totals.fenced, failures == 0 ? "clean" : "FAILED");
    if (failures == 0 && options.coverage && show_coverage(&totals, true) > 0)
        return 1;
    return failures == 0 ? 0 : 1;
}
