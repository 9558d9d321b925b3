/*
 * `sluice fabric ping` and `bench`: one connection to a `sluice fabric serve`, operations of one
 * kind kept outstanding by as many coroutines, each timed. Reactor 0.
 *
 *   send   a request and its answer, with payload in the capsule's message
 *   read   a READ: its data has landed when it is done
 *   write  a WRITE: done when the local memory is free, so a ping puts an empty request behind it,
 *          whose answer proves that it has landed; a bench does so once, at its end
 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/sluice/fabric.h"
#include "core/error.h"
#include "core/histogram.h"
#include "core/size.h"

#define DEPTH_MAX       1024u
#define ANSWER_NS       (5 * SL_NS_PER_S)
#define LATENCY_BUCKETS 40 /* powers of two of a nanosecond: 18 minutes */
#define BAR_CHARACTERS  40u
#define PING_BYTES      4096u

enum kind { KIND_SEND, KIND_READ, KIND_WRITE, KIND_COUNT };
static const char *const kinds[] = {"send", "read", "write", "all", NULL};

struct job {
    enum kind kind;
    uint64_t size_bytes;
    uint64_t depth;
    uint64_t count;   /* of operations; 0 = by time */
    uint64_t time_ns; /* 0 = by count */
    bool is_ping;
};

struct result {
    struct job job;
    uint64_t operation_count;
    uint64_t duration_ns;
    struct sl_histogram latency;
    uint64_t buckets[LATENCY_BUCKETS];
};

struct client {
    const char *program;
    struct tool_options options;
    bool json;
    unsigned job_count;
    struct job jobs[KIND_COUNT];
    struct result results[KIND_COUNT];
    struct sl_reactor *reactor;
    struct sl_memory *memory;
    struct sl_fabric *fabric;
    struct sl_connection *connection;
    struct sl_remote_piece piece;
    /* of the job that runs */
    struct result *result;
    uint64_t begun_count;
    uint64_t end_ns;
    unsigned worker_count;
    struct sl_wait finished;
    int error;
};

/* ---- one operation ---- */

static int call_co(struct client *client, enum sl_io_opcode opcode, const struct sl_span *payload,
                   union sl_capsule *reply)
{
    union sl_capsule request = {
        .io = {.header = {.type = SL_CAPSULE_IO, .length_bytes = sizeof(struct sl_capsule_io)},
               .io.opcode = (uint8_t)opcode}};
    int error =
        sl_connection_call_co(client->connection, &request, payload, payload != NULL, reply);
    return error < 0 ? error : sl_status_to_errno(reply->header.status);
}

static int operation_co(struct client *client, const struct job *job, struct sl_buf *buf)
{
    union sl_capsule reply;
    struct sl_span span = sl_buf_span(buf, 0, (uint32_t)sl_max(job->size_bytes, UINT64_C(1)));
    struct sl_remote_piece piece = client->piece;
    piece.length_bytes = span.length_bytes;
    switch (job->kind) {
    case KIND_SEND:
        return call_co(client, TOOL_ECHO, job->size_bytes > 0 ? &span : NULL, &reply);
    case KIND_READ:
        return sl_connection_read_co(client->connection, &span, 1, &piece, 1);
    default: {
        int error = sl_connection_write_co(client->connection, &span, 1, &piece, 1);
        return error < 0 || !job->is_ping ? error : call_co(client, TOOL_ECHO, NULL, &reply);
    }
    }
}

/* ---- a job ---- */

static void count_operation(struct result *result, uint64_t latency_ns)
{
    unsigned bucket = latency_ns == 0 ? 0 : 63u - (unsigned)__builtin_clzll(latency_ns);
    result->operation_count++;
    result->buckets[sl_min(bucket, LATENCY_BUCKETS - 1u)]++;
    sl_histogram_add(&result->latency, latency_ns);
}

/* One is made in any case: on a busy machine a short time is over before there is memory for it. */
static bool begin_operation(struct client *client)
{
    const struct job *job = &client->result->job;
    bool is_late = job->count == 0 && client->begun_count > 0 &&
                   sl_reactor_clock_ns(client->reactor) >= client->end_ns;
    if (client->error < 0 || is_late || (job->count > 0 && client->begun_count == job->count))
        return false;
    client->begun_count++;
    return true;
}

static void worker_co(void *argument)
{
    struct client *client = argument;
    const struct job *job = &client->result->job;
    struct sl_buf *buf = sl_buf_alloc_co(
        client->memory, (uint32_t)sl_max(job->size_bytes, UINT64_C(1)), SL_RESERVE_ADMISSION);
    memset(buf->data, 0x5a, buf->length_bytes);
    while (begin_operation(client)) {
        uint64_t from_ns = sl_reactor_clock_ns(client->reactor);
        int error = operation_co(client, job, buf);
        if (error < 0 && client->error == 0)
            client->error = error;
        if (error == 0)
            count_operation(client->result, sl_reactor_clock_ns(client->reactor) - from_ns);
    }
    sl_buf_unref(buf);
    if (--client->worker_count == 0)
        sl_wait_wake(&client->finished, 0);
}

static int job_co(struct client *client, const struct job *job, struct result *result)
{
    union sl_capsule reply;
    memset(result, 0, sizeof(*result)); /* too large for a literal on a coroutine's stack */
    result->job = *job;
    sl_histogram_reset(&result->latency);
    uint64_t from_ns = sl_reactor_clock_ns(client->reactor);
    client->result = result;
    client->begun_count = 0;
    client->end_ns = from_ns + job->time_ns;
    client->worker_count = 1; /* ours, until all are made */
    sl_wait_init(&client->finished);
    for (uint64_t i = 0; i < job->depth && client->error == 0; i++) {
        client->worker_count++;
        client->error = sl_co_spawn(client->reactor, worker_co, client);
        if (client->error < 0)
            client->worker_count--;
    }
    if (--client->worker_count > 0)
        (void)sl_wait_co(&client->finished);
    /* All WRITEs have landed when this is answered. */
    if (client->error == 0)
        client->error = call_co(client, TOOL_ECHO, NULL, &reply);
    result->duration_ns = sl_reactor_clock_ns(client->reactor) - from_ns;
    return client->error;
}

/* ---- the connection ---- */

static void closed(void *owner, struct sl_connection *connection, int reason)
{
    struct client *client = owner;
    if (client->error == 0)
        client->error = reason;
}

static const struct sl_connection_handlers handlers = {.closed = closed};

static int complain(const struct client *client, const char *what, int error)
{
    fprintf(stderr, "%s: %s: %s: %s (%s)\n", client->program, client->options.address, what,
            sl_error_text(error), sl_error_name(error));
    return error;
}

static int fits_co(struct client *client)
{
    union sl_capsule reply;
    int error = call_co(client, TOOL_GIVE_PIECE, NULL, &reply);
    if (error < 0)
        return complain(client, "is it a 'sluice fabric serve'? It gave no memory", error);
    client->piece = reply.io.pieces[0];
    const struct sl_peer_info *peer = sl_connection_peer(client->connection);
    for (unsigned i = 0; i < client->job_count; i++) {
        struct job *job = &client->jobs[i];
        uint64_t most =
            job->kind == KIND_SEND ? peer->in_capsule_bytes : client->piece.length_bytes;
        /* Of all kinds at once a send goes with what it can take. */
        if (client->job_count > 1 && job->kind == KIND_SEND)
            job->size_bytes = sl_min(job->size_bytes, most);
        if (job->size_bytes <= most)
            continue;
        fprintf(stderr, "%s: --size %llu: over %s a %s takes at most %llu bytes\n", client->program,
                (unsigned long long)job->size_bytes, client->options.link->name, kinds[job->kind],
                (unsigned long long)most);
        return -EMSGSIZE;
    }
    return 0;
}

static int connected_co(struct client *client)
{
    int error = fits_co(client);
    for (unsigned i = 0; i < client->job_count && error == 0; i++) {
        error = job_co(client, &client->jobs[i], &client->results[i]);
        if (error < 0)
            complain(client, kinds[client->jobs[i].kind], error);
    }
    sl_connection_shutdown(client->connection, -ECANCELED);
    sl_connection_unref(client->connection);
    return error;
}

static int main_co(struct sl_runtime *runtime, void *argument)
{
    struct client *client = argument;
    sl_runtime_signals_default();
    client->reactor = runtime->nodes[0].reactor;
    client->memory = runtime->nodes[0].memory;
    int error = tool_fabric_create(&client->options, runtime, false, &client->fabric);
    if (error < 0)
        return complain(client, "no fabric", error);
    uint64_t deadline_ns = sl_reactor_clock_ns(client->reactor) + ANSWER_NS;
    error = sl_fabric_connect_co(client->fabric, client->options.address, 0, &handlers, client,
                                 deadline_ns, &client->connection);
    error = error < 0 ? complain(client, "connecting", error) : connected_co(client);
    sl_fabric_drain_co(client->fabric);
    sl_fabric_destroy(client->fabric);
    return error;
}

/* ---- report ---- */

static double gib_per_s(const struct result *result)
{
    double bytes = (double)result->operation_count * (double)result->job.size_bytes;
    return bytes / (double)SL_GIB / ((double)result->duration_ns / 1e9);
}

static void print_histogram(const struct result *result)
{
    unsigned first = LATENCY_BUCKETS, last = 0;
    uint64_t most = 1;
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        if (result->buckets[i] == 0)
            continue;
        first = sl_min(first, i);
        last = i;
        most = sl_max(most, result->buckets[i]);
    }
    for (unsigned i = first; i <= last; i++) {
        char from[32];
        sl_duration_format(UINT64_C(1) << i, from, sizeof(from));
        unsigned bar = (unsigned)(result->buckets[i] * BAR_CHARACTERS / most);
        printf("  from %10s %10llu %.*s\n", from, (unsigned long long)result->buckets[i], (int)bar,
               "****************************************");
    }
}

static void print_table(const struct client *client)
{
    printf("%s at %s\n\n%-6s %9s %6s %10s %9s %9s %9s %9s %9s %9s\n", client->options.link->name,
           client->options.address, "", "size", "depth", "per s", "GiB/s", "min us", "mean us",
           "p50 us", "p99 us", "max us");
    for (unsigned i = 0; i < client->job_count; i++) {
        const struct result *r = &client->results[i];
        printf("%-6s %9llu %6llu %10.0f %9.3f %9.1f %9.1f %9.1f %9.1f %9.1f\n", kinds[r->job.kind],
               (unsigned long long)r->job.size_bytes, (unsigned long long)r->job.depth,
               (double)r->operation_count / ((double)r->duration_ns / 1e9), gib_per_s(r),
               (double)r->latency.min_ns / 1e3, sl_histogram_mean_ns(&r->latency) / 1e3,
               (double)sl_histogram_quantile_ns(&r->latency, 0.5) / 1e3,
               (double)sl_histogram_quantile_ns(&r->latency, 0.99) / 1e3,
               (double)r->latency.max_ns / 1e3);
    }
    for (unsigned i = 0; i < client->job_count; i++) {
        printf("\n%s\n", kinds[client->results[i].job.kind]);
        print_histogram(&client->results[i]);
    }
}

static json_t *json_result(const struct result *r)
{
    json_t *histogram = json_array();
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
        if (r->buckets[i] > 0)
            json_array_append_new(histogram, json_pack("{s:f, s:I}", "from_us",
                                                       (double)(UINT64_C(1) << i) / 1e3, "count",
                                                       (json_int_t)r->buckets[i]));
    return json_pack("{s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:{s:f, s:f, s:f, s:f, s:f, s:f}, s:o}",
                     "operation", kinds[r->job.kind], "size_bytes", (json_int_t)r->job.size_bytes,
                     "depth", (json_int_t)r->job.depth, "operations",
                     (json_int_t)r->operation_count, "duration_s", (double)r->duration_ns / 1e9,
                     "per_s", (double)r->operation_count / ((double)r->duration_ns / 1e9),
                     "gib_per_s", gib_per_s(r), "latency_us", "min",
                     (double)r->latency.min_ns / 1e3, "mean",
                     sl_histogram_mean_ns(&r->latency) / 1e3, "p50",
                     (double)sl_histogram_quantile_ns(&r->latency, 0.5) / 1e3, "p99",
                     (double)sl_histogram_quantile_ns(&r->latency, 0.99) / 1e3, "p999",
                     (double)sl_histogram_quantile_ns(&r->latency, 0.999) / 1e3, "max",
                     (double)r->latency.max_ns / 1e3, "histogram", histogram);
}

static void print_json(const struct client *client)
{
    json_t *results = json_array();
    for (unsigned i = 0; i < client->job_count; i++)
        json_array_append_new(results, json_result(&client->results[i]));
    json_t *root = json_pack("{s:s, s:s, s:o}", "link", client->options.link->name, "address",
                             client->options.address, "results", results);
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    fputc('\n', stdout);
    json_decref(root);
}

/* ---- command lines ---- */

/* `kind` KIND_COUNT: all. */
static void add_jobs(struct client *client, unsigned kind, const struct job *like)
{
    for (unsigned i = 0; i < KIND_COUNT; i++) {
        if (kind != KIND_COUNT && kind != i)
            continue;
        client->jobs[client->job_count] = *like;
        client->jobs[client->job_count++].kind = (enum kind)i;
    }
}

static int run(struct client *client, const char *address)
{
    int status = tool_options_finish(&client->options, client->program, address);
    if (status != 0)
        return status;
    uint64_t most = 0;
    for (unsigned i = 0; i < client->job_count; i++)
        most = sl_max(most, client->jobs[i].depth *
                                sl_align_up(client->jobs[i].size_bytes + 1, SL_BLOCK_BYTES));
    struct sl_runtime_config config;
    tool_runtime_config(&client->options, 64 * SL_MIB + 2 * most, &config);
    if (sl_runtime_run(&config, main_co, client) < 0)
        return 1;
    if (client->json)
        print_json(client);
    else
        print_table(client);
    return 0;
}

static int parse(struct client *client, const struct sl_options *description, int argc, char **argv,
                 const char **address)
{
    *address = NULL;
    client->program = description->program;
    int parsed = sl_options_parse(description, argc, argv, address, NULL, 1, stdout, stderr);
    return parsed == 0 ? -1 : parsed > 0 ? 0 : 2;
}

int fabric_ping(int argc, char **argv)
{
    static struct client client;
    static uint64_t count = 1000, size = PING_BYTES;
    const char *address;
    struct sl_option rows[TOOL_OPTION_COUNT + 4] = {{NULL}};
    tool_options_rows(&client.options, rows);
    rows[TOOL_OPTION_COUNT] = (struct sl_option){"count",           0,
                                                 SL_OPTION_INTEGER, &count,
                                                 .least = 1,        .most = 100000000,
                                                 .argument = "N",   .help = "of each kind",
                                                 .fallback = "1000"};
    rows[TOOL_OPTION_COUNT + 1] = (struct sl_option){"size",
                                                     0,
                                                     SL_OPTION_SIZE,
                                                     &size,
                                                     .least = 1,
                                                     .most = TOOL_BYTES,
                                                     .argument = "SIZE",
                                                     .help = "of READs and WRITEs",
                                                     .fallback = "4 KiB"};
    rows[TOOL_OPTION_COUNT + 2] = (struct sl_option){"json", 0, SL_OPTION_FLAG, &client.json,
                                                     .help = "print JSON instead of a table"};
    const struct sl_options description = {
        "sluice fabric ping", "latency of a message, a READ and a WRITE",
        "The operand is the address of a 'sluice fabric serve'; without it the device's own.\n",
        rows, "[ADDRESS]"};
    int status = parse(&client, &description, argc, argv, &address);
    if (status >= 0)
        return status;
    struct job job = {.size_bytes = 0, .depth = 1, .count = count, .is_ping = true};
    add_jobs(&client, KIND_SEND, &job);
    job.size_bytes = size;
    add_jobs(&client, KIND_READ, &job);
    add_jobs(&client, KIND_WRITE, &job);
    return run(&client, address);
}

int fabric_bench(int argc, char **argv)
{
    static struct client client;
    static uint64_t size = PING_BYTES, depth = 32, time_ns = 3 * SL_NS_PER_S;
    static unsigned kind = KIND_COUNT;
    const char *address;
    struct sl_option rows[TOOL_OPTION_COUNT + 6] = {{NULL}};
    struct sl_option *more = rows + TOOL_OPTION_COUNT;
    tool_options_rows(&client.options, rows);
    more[0] = (struct sl_option){"operation",
                                 0,
                                 SL_OPTION_CHOICE,
                                 &kind,
                                 .choices = kinds,
                                 .argument = "OP",
                                 .help = "what to measure",
                                 .fallback = "all"};
    more[1] = (struct sl_option){"size",
                                 0,
                                 SL_OPTION_SIZE,
                                 &size,
                                 .least = 0,
                                 .most = TOOL_BYTES,
                                 .argument = "SIZE",
                                 .help = "of one; of a send at most 16 KiB",
                                 .fallback = "4 KiB"};
    more[2] = (struct sl_option){"depth",           0,
                                 SL_OPTION_INTEGER, &depth,
                                 .least = 1,        .most = DEPTH_MAX,
                                 .argument = "N",   .help = "operations kept outstanding",
                                 .fallback = "32"};
    more[3] = (struct sl_option){"run-time",
                                 0,
                                 SL_OPTION_DURATION,
                                 &time_ns,
                                 .least = SL_NS_PER_MS,
                                 .most = 86400 * SL_NS_PER_S,
                                 .argument = "TIME",
                                 .help = "of each kind",
                                 .fallback = "3s"};
    more[4] = (struct sl_option){"json", 0, SL_OPTION_FLAG, &client.json,
                                 .help = "print JSON instead of a table"};
    const struct sl_options description = {
        "sluice fabric bench", "bandwidth, rate and latency of messages, READs or WRITEs",
        "The operand is the address of a 'sluice fabric serve'; without it the device's own.\n",
        rows, "[ADDRESS]"};
    int status = parse(&client, &description, argc, argv, &address);
    if (status >= 0)
        return status;
    struct job job = {.size_bytes = size, .depth = depth, .time_ns = time_ns};
    add_jobs(&client, kind, &job);
    return run(&client, address);
}
