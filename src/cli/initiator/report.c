/* What the initiator prints: a live line, a table, or JSON. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/initiator/initiator.h"
#include "core/error.h"
#include "core/size.h"

void report_progress(const struct initiator *initiator, uint64_t elapsed_ns)
{
    uint64_t operations = 0, bytes = 0;
    for (unsigned i = 0; i < initiator->config.worker_count; i++) {
        operations +=
            atomic_load_explicit(&initiator->workers[i].live_operations, memory_order_relaxed);
        bytes += atomic_load_explicit(&initiator->workers[i].live_bytes, memory_order_relaxed);
    }
    double seconds = (double)elapsed_ns / 1e9;
    fprintf(stderr, "\r  %6.1f s  %12llu operations  %9.0f IOPS  %7.3f GiB/s \033[K", seconds,
            (unsigned long long)operations, (double)operations / seconds,
            (double)bytes / seconds / (double)SL_GIB);
    fflush(stderr);
}

void report_progress_end(void)
{
    fputs("\r\033[K", stderr);
}

static void sum_results(const struct initiator *initiator, struct result *sum)
{
    sl_histogram_reset(&sum->latency);
    for (unsigned i = 0; i < initiator->config.worker_count; i++) {
        const struct result *one = &initiator->workers[i].result;
        sum->operation_count += one->operation_count;
        sum->read_count += one->read_count;
        sum->write_count += one->write_count;
        sum->bytes += one->bytes;
        if (sum->first_error == 0 && sum->mismatch_count == 0)
            sum->first_bad_offset_bytes = one->first_bad_offset_bytes;
        if (sum->first_error == 0)
            sum->first_error = one->first_error;
        sum->error_count += one->error_count;
        sum->mismatch_count += one->mismatch_count;
        sum->poll_count += one->poll_count;
        sum->poll_hit_count += one->poll_hit_count;
        sl_histogram_merge(&sum->latency, &one->latency);
        sl_copy_counters_add(&sum->copies, &one->copies);
    }
    sum->duration_ns = initiator->duration_ns;
}

static double per_second(uint64_t count, uint64_t duration_ns)
{
    return duration_ns == 0 ? 0 : (double)count * 1e9 / (double)duration_ns;
}

static double hit_percent(const struct result *result)
{
    return result->poll_count == 0
               ? 0
               : 100.0 * (double)result->poll_hit_count / (double)result->poll_count;
}

static void print_row(const char *name, const struct result *result)
{
    const struct sl_histogram *latency = &result->latency;
    printf("%-6s %9.3f %12llu %9.3f %9.4f %8.2f %9.1f %9.1f %9.1f %9.1f %9.1f %9.1f\n", name,
           (double)result->duration_ns / 1e9, (unsigned long long)result->operation_count,
           per_second(result->bytes, result->duration_ns) / (double)SL_GIB,
           per_second(result->operation_count, result->duration_ns) / 1e6, hit_percent(result),
           (double)latency->min_ns / 1e3, sl_histogram_mean_ns(latency) / 1e3,
           (double)sl_histogram_quantile_ns(latency, 0.5) / 1e3,
           (double)sl_histogram_quantile_ns(latency, 0.99) / 1e3,
           (double)sl_histogram_quantile_ns(latency, 0.999) / 1e3, (double)latency->max_ns / 1e3);
}

static void print_copies(const char *who, const struct sl_copy_counters *before,
                         const struct sl_copy_counters *after, uint64_t bytes)
{
    bool any = false;
    for (unsigned i = 0; i < SL_COPY_REASON_COUNT; i++) {
        uint64_t copied = after->bytes[i] - (before != NULL ? before->bytes[i] : 0);
        if (copied == 0)
            continue;
        printf("%-10s %-12s %14llu %16.4f\n", any ? "" : who, sl_copy_reason_name(i),
               (unsigned long long)copied, bytes == 0 ? 0.0 : (double)copied / (double)bytes);
        any = true;
    }
    if (!any)
        printf("%-10s %-12s %14d %16.4f\n", who, "none", 0, 0.0);
}

/* Since the programs started: what was struck before the run may have shaped it too. */
static void print_injected(const struct sl_comch_statistics *statistics)
{
    if (statistics->gateway_injected_count + statistics->targets_injected_count > 0)
        printf("\nfaults injected since their start (--inject): gateway %llu, targets %llu\n",
               (unsigned long long)statistics->gateway_injected_count,
               (unsigned long long)statistics->targets_injected_count);
}

static void print_outcome(const struct initiator *initiator, const struct result *sum)
{
    if (sum->first_error != 0)
        printf("\nFAILED: %llu operations failed; the first: %s (%s) at byte %llu of the volume\n",
               (unsigned long long)sum->error_count, sl_error_text(sum->first_error),
               sl_error_name(sum->first_error), (unsigned long long)sum->first_bad_offset_bytes);
    if (sum->mismatch_count != 0)
        printf("\nDATA IS WRONG in %llu blocks; the first at byte %llu of the volume\n",
               (unsigned long long)sum->mismatch_count,
               (unsigned long long)sum->first_bad_offset_bytes);
    else if (sum->first_error == 0 && initiator->config.strategy >= STRATEGY_READ_WRITE_VALIDITY)
        printf("\ndata is valid: %llu bytes compared\n",
               (unsigned long long)(initiator->config.strategy == STRATEGY_READ_WRITE_VALIDITY
                                        ? sum->bytes / 2
                                        : sum->bytes));
}

static void print_tables(const struct initiator *initiator, const struct result *sum)
{
    char size[32], capacity[32];
    sl_size_format(initiator->config.io_bytes, size, sizeof(size));
    sl_size_format(initiator->storage.capacity_bytes, capacity, sizeof(capacity));
    char mixture[32] = "";
    if (initiator->config.strategy < STRATEGY_READ_WRITE_VALIDITY)
        snprintf(mixture, sizeof(mixture), ", %llu%% reads",
                 (unsigned long long)initiator->config.read_percent);
    printf("%s on volume '%s' (%s): %s, %s, depth %llu, %u cores%s\n\n",
           initiator->config.strategy_name,
           initiator->config.volume[0] != '\0' ? initiator->config.volume : "default", capacity,
           size, initiator->config.random ? "random" : "sequential",
           (unsigned long long)initiator->config.depth, initiator->config.worker_count, mixture);
    printf("core    duration   operations     GiB/s    MIOP/s  poll hit   latency (us)\n");
    printf("               s                                          %%       min      mean       "
           "p50       "
           "p99     p99.9       max\n");
    for (unsigned i = 0; initiator->config.worker_count > 1 && i < initiator->config.worker_count;
         i++) {
        char name[16];
        snprintf(name, sizeof(name), initiator->config.cpus[i] < 0 ? "#%d" : "%d",
                 initiator->config.cpus[i] < 0 ? (int)i : initiator->config.cpus[i]);
        print_row(name, &initiator->workers[i].result);
    }
    print_row("all", sum);
    printf("\ncopied by  reason                bytes  per byte of I/O\n");
    print_copies("initiator", NULL, &sum->copies, sum->bytes);
    print_copies("gateway", &initiator->before.gateway, &initiator->after.gateway, sum->bytes);
    print_copies("targets", &initiator->before.targets, &initiator->after.targets, sum->bytes);
    print_injected(&initiator->after);
    print_outcome(initiator, sum);
}

static json_t *json_result(const struct result *result)
{
    const struct sl_histogram *latency = &result->latency;
    return json_pack("{s:f, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:{s:f, s:f, s:f, s:f, s:f, s:f}}",
                     "duration_s", (double)result->duration_ns / 1e9, "operations",
                     (json_int_t)result->operation_count, "reads", (json_int_t)result->read_count,
                     "writes", (json_int_t)result->write_count, "bytes", (json_int_t)result->bytes,
                     "gib_per_s", per_second(result->bytes, result->duration_ns) / (double)SL_GIB,
                     "iops", per_second(result->operation_count, result->duration_ns),
                     "poll_hit_percent", hit_percent(result), "latency_us", "min",
                     (double)latency->min_ns / 1e3, "mean", sl_histogram_mean_ns(latency) / 1e3,
                     "p50", (double)sl_histogram_quantile_ns(latency, 0.5) / 1e3, "p99",
                     (double)sl_histogram_quantile_ns(latency, 0.99) / 1e3, "p999",
                     (double)sl_histogram_quantile_ns(latency, 0.999) / 1e3, "max",
                     (double)latency->max_ns / 1e3);
}

static json_t *json_copies(const struct sl_copy_counters *before,
                           const struct sl_copy_counters *after)
{
    json_t *object = json_object();
    for (unsigned i = 0; i < SL_COPY_REASON_COUNT; i++) {
        uint64_t copied = after->bytes[i] - (before != NULL ? before->bytes[i] : 0);
        json_object_set_new(object, sl_copy_reason_name(i), json_integer((json_int_t)copied));
    }
    return object;
}

static void print_json(const struct initiator *initiator, const struct result *sum)
{
    json_t *cores = json_array();
    for (unsigned i = 0; i < initiator->config.worker_count; i++)
        json_array_append_new(cores, json_result(&initiator->workers[i].result));
    json_t *root = json_pack(
        "{s:s, s:s, s:I, s:I, s:b, s:I, s:I, s:s, s:o, s:o, s:{s:o, s:o, s:o}, s:{s:I, s:I}}",
        "strategy", initiator->config.strategy_name, "volume",
        initiator->config.volume[0] != '\0' ? initiator->config.volume : "default", "io_bytes",
        (json_int_t)initiator->config.io_bytes, "depth", (json_int_t)initiator->config.depth,
        "random", initiator->config.random, "errors", (json_int_t)sum->error_count, "wrong_blocks",
        (json_int_t)sum->mismatch_count, "first_error",
        sum->first_error == 0 ? "" : sl_error_name(sum->first_error), "all", json_result(sum),
        "cores", cores, "copied_bytes", "initiator", json_copies(NULL, &sum->copies), "gateway",
        json_copies(&initiator->before.gateway, &initiator->after.gateway), "targets",
        json_copies(&initiator->before.targets, &initiator->after.targets), "injected", "gateway",
        (json_int_t)initiator->after.gateway_injected_count, "targets",
        (json_int_t)initiator->after.targets_injected_count);
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    fputc('\n', stdout);
    json_decref(root);
}

void report_print(const struct initiator *initiator)
{
    struct result *sum = calloc(1, sizeof(*sum));
    if (sum == NULL)
        return;
    sum_results(initiator, sum);
    if (initiator->config.json)
        print_json(initiator, sum);
    else
        print_tables(initiator, sum);
    free(sum);
}
