/*
 * Goal: what a block costs in the store itself, beside fio on a file of the same disk.
 * Method: one reactor, one shard, DEPTH coroutines that write or read SIZE at random or in order
 * over a working set; a warm-up of `warm` bytes, then the measured part: at least SECONDS and
 * `least` bytes. Prints one line of name=value pairs: rates, latency (us), CPU of the process (us
 * an operation), what went to the disk by kind per byte of payload, how the log was read back at
 * the start, tables and resident memory.
 *
 *   bench_store PATH write|read|none random|seq SIZE DEPTH WORKING_SET SECONDS
 *               [warm=BYTES] [least=BYTES] [tables=BYTES] [memory=BYTES] [crash] [cut]
 *
 * PATH was formatted (sluice disk format). crash: ends without closing, so that the next start has
 * a log to read. cut: a checkpoint at the end is part of what is measured.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/error.h"
#include "core/histogram.h"
#include "core/log.h"
#include "core/size.h"
#include "daemon/runtime.h"
#include "store/store.h"

#define DEPTH_MAX 256u
#define GROUP     1u

struct bench {
    const char *path;
    bool write, read, sequential, crash, cut;
    uint64_t size_bytes, depth, working_bytes, warm_bytes, least_bytes, table_bytes, memory_bytes;
    double seconds;
    /* while it runs */
    struct sl_runtime_node *node;
    struct sl_disk *disk;
    struct sl_disk_info info;
    struct sl_store *store;
    struct sl_store_group *group;
    uint64_t cursor, stamp, bytes, operations, latency_ns;
    struct sl_histogram latencies;
    unsigned running;
    bool stop;
    int error;
    struct sl_wait ended;
};

static uint64_t next_offset(struct bench *bench)
{
    uint64_t count = bench->working_bytes / bench->size_bytes;
    uint64_t number =
        bench->sequential ? bench->cursor++ : sl_reactor_random_u64(bench->node->reactor);
    return number % count * bench->size_bytes;
}

static int write_co(struct bench *bench, uint64_t offset_bytes)
{
    struct sl_iobuf payload;
    struct sl_buf *buf =
        sl_buf_alloc_co(bench->node->memory, (uint32_t)bench->size_bytes, SL_RESERVE_ADMISSION);
    if (buf == NULL)
        return -ENOMEM;
    for (uint64_t at = 0; at < bench->size_bytes; at += SL_BLOCK_BYTES)
        *(uint64_t *)(void *)(buf->data + at) = ++bench->stamp;
    sl_iobuf_init(&payload);
    int error = sl_iobuf_append_buf(&payload, buf, 0, (uint32_t)bench->size_bytes);
    if (error == 0)
        error = sl_store_write_co(bench->group, SL_ENTRY_WRITE,
                                  (uint32_t)(offset_bytes / SL_CHUNK_BYTES),
                                  (uint16_t)(offset_bytes % SL_CHUNK_BYTES / SL_BLOCK_BYTES),
                                  (uint16_t)(bench->size_bytes / SL_BLOCK_BYTES), &payload, NULL);
    sl_iobuf_fini(&payload);
    sl_buf_unref(buf);
    return error;
}

static int read_co(struct bench *bench, struct sl_buf *buf, uint64_t offset_bytes)
{
    struct sl_span span = sl_buf_span(buf, 0, (uint32_t)bench->size_bytes);
    return sl_store_read_into_co(bench->group, (uint32_t)(offset_bytes / SL_CHUNK_BYTES),
                                 (uint16_t)(offset_bytes % SL_CHUNK_BYTES / SL_BLOCK_BYTES),
                                 (uint16_t)(bench->size_bytes / SL_BLOCK_BYTES), &span, 1);
}

static void worker_co(void *argument)
{
    struct bench *bench = argument;
    struct sl_buf *buf = NULL;
    if (!bench->write)
        buf =
            sl_buf_alloc_co(bench->node->memory, (uint32_t)bench->size_bytes, SL_RESERVE_ADMISSION);
    while (!bench->stop && bench->error == 0) {
        uint64_t offset_bytes = next_offset(bench);
        uint64_t began_ns = sl_reactor_clock_ns(bench->node->reactor);
        int error =
            bench->write ? write_co(bench, offset_bytes) : read_co(bench, buf, offset_bytes);
        uint64_t took_ns = sl_reactor_clock_ns(bench->node->reactor) - began_ns;
        if (error < 0)
            bench->error = error;
        bench->operations++;
        bench->bytes += bench->size_bytes;
        bench->latency_ns += took_ns;
        sl_histogram_add(&bench->latencies, took_ns);
    }
    sl_buf_unref(buf);
    if (--bench->running == 0)
        sl_wait_wake(&bench->ended, 0);
}

static void wait_for_bytes_co(struct bench *bench, uint64_t bytes)
{
    while (bench->bytes < bytes && bench->error == 0)
        sl_sleep_co(SL_NS_PER_MS);
}

static double cpu_us(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static double resident_mib(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%*s %lu", &pages) != 1)
        pages = 0;
    if (file != NULL)
        fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / (double)SL_MIB;
}

static void print_start(const struct bench *bench)
{
    struct sl_store_statistics now;
    sl_store_statistics(bench->store, &now);
    printf("recovered_mib=%.1f recovery_ms=%.2f entries=%llu ",
           (double)now.recovered_bytes / (double)SL_MIB, (double)now.recovery_ns / 1e6,
           (unsigned long long)now.recovered_entry_count);
}

static void print_result(const struct bench *bench, const struct sl_store_statistics *before,
                         double wall_s, double cpu)
{
    struct sl_store_statistics now;
    struct sl_store_info info;
    sl_store_statistics(bench->store, &now);
    double operations = (double)bench->operations;
    double payload = bench->write ? (double)(now.append_bytes - before->append_bytes) : 0;
    printf("iops=%.0f mib_s=%.1f mean_us=%.2f p50_us=%.2f p99_us=%.2f cpu_us=%.3f ",
           operations / wall_s, (double)bench->bytes / (double)SL_MIB / wall_s,
           (double)bench->latency_ns / 1000 / operations,
           (double)sl_histogram_quantile_ns(&bench->latencies, 0.5) / 1000,
           (double)sl_histogram_quantile_ns(&bench->latencies, 0.99) / 1000, cpu / operations);
    if (payload > 0)
        printf("log=%.3f data=%.3f meta=%.3f merged=%.3f batch=%.1f checkpoints=%llu waits=%llu ",
               (double)(now.log_bytes - before->log_bytes) / payload,
               (double)(now.data_bytes - before->data_bytes) / payload,
               (double)(now.meta_bytes - before->meta_bytes) / payload,
               (double)(now.merged_bytes - before->merged_bytes) / payload,
               (double)(now.append_count - before->append_count) /
                   (double)(now.batch_count - before->batch_count),
               (unsigned long long)(now.checkpoint_count - before->checkpoint_count),
               (unsigned long long)(now.wait_count - before->wait_count));
    sl_store_info(bench->store, &info);
    printf("chunks=%llu tables=%llu rss_mib=%.1f wal_mib=%.0f\n",
           (unsigned long long)now.chunk_count, (unsigned long long)now.table_count, resident_mib(),
           (double)(now.segment_count * info.segment_bytes) / (double)SL_MIB);
}

static int measure_co(struct bench *bench)
{
    struct sl_store_statistics before;
    sl_wait_init(&bench->ended);
    for (uint64_t i = 0; i < bench->depth; i++) {
        int error = sl_co_spawn(bench->node->reactor, worker_co, bench);
        if (error < 0)
            return error;
        bench->running++;
    }
    wait_for_bytes_co(bench, bench->warm_bytes);
    sl_store_statistics(bench->store, &before);
    bench->bytes = bench->operations = bench->latency_ns = 0;
    sl_histogram_reset(&bench->latencies);
    double cpu = cpu_us();
    uint64_t began_ns = sl_reactor_clock_ns(bench->node->reactor);
    sl_sleep_co((uint64_t)(bench->seconds * 1e9));
    wait_for_bytes_co(bench, bench->least_bytes);
    bench->stop = true;
    (void)sl_wait_co(&bench->ended);
    if (bench->cut && bench->error == 0)
        bench->error = sl_store_checkpoint_co(bench->store);
    double wall_s = (double)(sl_reactor_clock_ns(bench->node->reactor) - began_ns) / 1e9;
    if (bench->error == 0)
        print_result(bench, &before, wall_s, cpu_us() - cpu);
    return bench->error;
}

static int open_co(struct bench *bench)
{
    char text[512];
    struct sl_store_group_status status;
    struct sl_store_config config = {
        .io = bench->node->io,
        .memory = bench->node->memory,
        .disk = bench->disk,
        .disk_info = bench->info,
        .name = bench->path,
        .table_bytes = bench->table_bytes,
    };
    int error = sl_store_open_co(&config, &bench->store, text, sizeof(text));
    if (error < 0) {
        fprintf(stderr, "bench_store: %s: %s\n", bench->path, text);
        bench->store = NULL;
        return error;
    }
    if (sl_store_group_find(bench->store, GROUP) == NULL)
        error = sl_store_group_create_co(bench->store, GROUP, 0, 0);
    bench->group = sl_store_group_find(bench->store, GROUP);
    if (error < 0 || bench->group == NULL)
        return error;
    sl_store_group_status(bench->group, &status);
    return sl_store_apply_co(bench->group, status.last_index);
}

static int main_co(struct sl_runtime *runtime, void *argument)
{
    struct bench *bench = argument;
    struct sl_disk_options options = {.exclusive = true, .lock_wait_ns = SL_NS_PER_S};
    bench->node = &runtime->nodes[0];
    int error = sl_disk_open(bench->node->io, bench->path, &options, &bench->info, &bench->disk);
    if (error == 0)
        error = open_co(bench);
    if (error == 0)
        print_start(bench);
    if (error == 0 && (bench->write || bench->read))
        error = measure_co(bench);
    else
        printf("\n");
    if (error < 0)
        fprintf(stderr, "bench_store: %s: %s\n", bench->path, sl_error_text(error));
    fflush(stdout);
    if (bench->crash)
        _exit(error < 0 ? 1 : 0);
    sl_store_close_co(bench->store);
    sl_disk_close(bench->disk);
    return error;
}

static bool parse_size(const char *text, uint64_t *bytes)
{
    return sl_size_parse(text, bytes) == 0;
}

static bool parse_more(struct bench *bench, const char *text)
{
    static const char *const names[] = {"warm=", "least=", "tables=", "memory="};
    uint64_t *values[] = {&bench->warm_bytes, &bench->least_bytes, &bench->table_bytes,
                          &bench->memory_bytes};
    for (unsigned i = 0; i < SL_COUNT_OF(names); i++) {
        if (strncmp(text, names[i], strlen(names[i])) == 0)
            return parse_size(text + strlen(names[i]), values[i]);
    }
    bench->crash = bench->crash || strcmp(text, "crash") == 0;
    bench->cut = bench->cut || strcmp(text, "cut") == 0;
    return strcmp(text, "crash") == 0 || strcmp(text, "cut") == 0;
}

static bool parse(struct bench *bench, int argc, char **argv)
{
    if (argc < 8)
        return false;
    bench->path = argv[1];
    bench->write = strcmp(argv[2], "write") == 0;
    bench->read = strcmp(argv[2], "read") == 0;
    bench->sequential = strcmp(argv[3], "seq") == 0;
    bench->seconds = atof(argv[7]);
    bool good =
        parse_size(argv[4], &bench->size_bytes) && parse_size(argv[6], &bench->working_bytes);
    bench->depth = strtoull(argv[5], NULL, 10);
    for (int i = 8; i < argc; i++)
        good = good && parse_more(bench, argv[i]);
    return good && bench->size_bytes >= SL_BLOCK_BYTES && bench->size_bytes <= SL_MIB &&
           sl_is_power_of_two(bench->size_bytes) && bench->working_bytes >= bench->size_bytes &&
           bench->depth > 0 && bench->depth <= DEPTH_MAX;
}

int main(int argc, char **argv)
{
    static struct bench bench = {.memory_bytes = 256 * SL_MIB};
    if (!parse(&bench, argc, argv)) {
        fprintf(stderr, "usage: bench_store PATH write|read|none random|seq SIZE DEPTH WORKING_SET "
                        "SECONDS [warm=SIZE] [least=SIZE] [tables=SIZE] [memory=SIZE] [crash] "
                        "[cut]\n");
        return 2;
    }
    struct sl_runtime_config config = {
        .reactor_count = 1, .cpus = {-1}, .memory_bytes = bench.memory_bytes};
    sl_log_set_level(SL_LOG_WARN);
    return sl_runtime_run(&config, main_co, &bench) == 0 ? 0 : 1;
}
