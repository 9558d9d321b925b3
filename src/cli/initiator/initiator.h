/*
 * sluice-initiator: load generator and data checker over comch. One plain thread a core, each with
 * its own data queue and its own part of the shared memory; no reactor, so that what is measured is
 * the gateway and the targets.
 */
#ifndef SL_CLI_INITIATOR_INITIATOR_H
#define SL_CLI_INITIATOR_INITIATOR_H

#include <pthread.h>
#include <stdatomic.h>

#include "comch/client.h"
#include "core/histogram.h"
#include "mem/copy.h"

#define WORKERS_MAX 64
/* Submissions and completions taken in one call. */
#define BATCH_MAX 24

enum strategy {
    STRATEGY_READ_THROUGHPUT,
    STRATEGY_WRITE_THROUGHPUT,
    STRATEGY_READ_WRITE_VALIDITY,
    STRATEGY_READ_ONLY_VALIDITY,
};

struct initiator_config {
    const char *device;
    const char *channel_name;
    const char *volume;
    enum strategy strategy;
    const char *strategy_name;
    uint64_t operation_limit; /* over all workers; 0 = none */
    uint64_t run_time_ns;     /* 0 = none */
    uint64_t depth;
    unsigned worker_count;
    int cpus[WORKERS_MAX]; /* -1 = not pinned */
    uint64_t io_bytes;
    bool random;
    uint64_t read_percent;
    const char *content_file;
    uint64_t region_offset_bytes; /* the part of the volume that is used */
    uint64_t region_bytes; /* 0 = to the volume's end (validity with a file: the file's length) */
    uint64_t control_timeout_ns;
    uint64_t seed;
    bool poll;
    bool json;
    bool quiet;
};

/* What the volume holds, or shall hold. Immutable while workers run. */
struct content {
    const uint8_t *file; /* mapped, or NULL: generated from seed and offset */
    uint64_t file_bytes;
    uint64_t seed;
};

struct result {
    uint64_t operation_count, read_count, write_count;
    uint64_t bytes;
    uint64_t error_count;
    uint64_t mismatch_count; /* blocks whose data was wrong */
    uint64_t first_bad_offset_bytes;
    int first_error; /* negative errno */
    uint64_t poll_count, poll_hit_count;
    uint64_t duration_ns;
    struct sl_histogram latency;
    struct sl_copy_counters copies;
};

struct initiator;

struct worker {
    struct initiator *initiator;
    unsigned index;
    pthread_t thread;
    struct sl_comch_client_queue *queue;
    struct sl_comch_memory memory;
    /* The slice of the volume in I/O units: validity strategies give each worker its own. */
    uint64_t first_unit, unit_count;
    _Atomic uint64_t live_operations; /* for the progress line */
    _Atomic uint64_t live_bytes;
    struct result result;
};

struct initiator {
    struct initiator_config config;
    struct sl_comch_client *client;
    struct sl_comch_storage storage;
    struct content content;
    uint64_t region_bytes;
    uint64_t region_units; /* I/O-sized pieces; the last may be shorter */
    struct sl_comch_statistics before, after;
    struct worker workers[WORKERS_MAX];
    atomic_bool stop;
    _Atomic uint64_t operations_left; /* of operation_limit, both phases alike */
    uint64_t deadline_ns;
    uint64_t duration_ns;
};

/* options.c: 0 = run, 1 = end well, 2 = bad usage (explained) */
int initiator_options_parse(struct initiator_config *config, int argc, char **argv);

/* content.c */
int content_open(struct content *content, const char *path, uint64_t seed);
void content_close(struct content *content);
/* Puts what belongs at `offset_bytes` of the volume into `data`; counted as the client's copy. */
void content_fill(const struct content *content, uint64_t offset_bytes, uint8_t *data,
                  uint32_t length_bytes, struct sl_copy_counters *copies);
/* The offset in `data` of the first block that is wrong, or -1; `bad_count` is raised by the bad
 * blocks. */
int64_t content_check(const struct content *content, uint64_t offset_bytes, const uint8_t *data,
                      uint32_t length_bytes, uint64_t *bad_count);

/* worker.c: one phase (writing or reading) on all workers' slices; a pthread entry and what it
 * needs before. */
void *worker_main(void *argument);

/* report.c */
void report_progress(const struct initiator *initiator, uint64_t elapsed_ns);
void report_progress_end(void);
void report_print(const struct initiator *initiator);

/* Monotonic time, for latencies. */
uint64_t clock_now_ns(void);

#endif
