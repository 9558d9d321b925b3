/* `sluice disk`: formats, checks, shows and reads out disks of the store (src/store). Offline: the
 * disk's lock keeps it from a disk that is served. Reactor 0. */
#include "cli/sluice/command.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/log.h"
#include "core/options.h"
#include "core/size.h"
#include "daemon/runtime.h"
#include "meta/cluster.h"
#include "store/format.h"
#include "store/store.h"

#define MEMORY_BYTES (128 * SL_MIB)
#define GROUP        1u
/* The last I/O of a process that was killed ends within this. */
#define LOCK_WAIT_NS (3 * SL_NS_PER_S)

struct disk_job {
    const char *program;
    const char *path;
    bool buffered, force, read_only;
    uint64_t shards, log_bytes, segment_bytes;
    uint64_t offset_bytes, length_bytes;
    const char *cluster_file;
    uint8_t cluster_id[16];
    int (*run_co)(struct disk_job *job);
    /* while it runs */
    struct sl_runtime_node *node;
    struct sl_disk *disk;
    struct sl_disk_info info;
    struct sl_store *stores[SL_DISK_SHARDS_MAX];
    unsigned shard_count;
    bool unhealthy;
};

static int complain(const struct disk_job *job, const char *text, int error)
{
    fprintf(stderr, "%s: %s: %s (%s)\n", job->program, job->path, text, sl_error_name(error));
    return error;
}

/* ---- the stores of a disk, to be looked at only ---- */

static int format_co(struct disk_job *job);

static int open_stores_co(struct disk_job *job)
{
    struct sl_store_info info;
    job->shard_count = 1;
    for (unsigned shard = 0; shard < job->shard_count; shard++) {
        char text[512];
        struct sl_store_config config = {
            .io = job->node->io,
            .memory = job->node->memory,
            .disk = job->disk,
            .disk_info = job->info,
            .name = job->path,
            .shard = (uint16_t)shard,
            .read_only = job->read_only || job->run_co == format_co,
        };
        int error = sl_store_open_co(&config, &job->stores[shard], text, sizeof(text));
        if (error < 0) {
            job->stores[shard] = NULL;
            return complain(job, text, error);
        }
        sl_store_info(job->stores[shard], &info);
        job->shard_count = info.shard_count;
    }
    return 0;
}

/* A replica of a cluster's group: what of its log is committed, its group knows and not the disk.
 */
static bool is_replica(const struct sl_store_group *group)
{
    struct sl_store_group_status status;
    sl_store_group_status(group, &status);
    return status.state_bytes > 0;
}

/* A group without replicas has all of its log applied. */
static int apply_co(struct disk_job *job)
{
    for (unsigned shard = 0; shard < job->shard_count; shard++) {
        struct sl_store_group_status status;
        struct sl_store_group *group = sl_store_group_find(job->stores[shard], GROUP);
        if (group == NULL || is_replica(group))
            continue;
        sl_store_group_status(group, &status);
        int error = sl_store_apply_co(group, status.last_index);
        if (error < 0) {
            complain(job, "its log cannot be applied to the end", error);
            job->unhealthy = true;
        }
    }
    return 0;
}

/* ---- format ---- */

/* Where partition tables and file systems begin, and where our superblocks go. */
#define BEGIN_BYTES (128 * SL_KIB)

/* Whether somebody else's data begins here: anything but zeroes. A superblock of ours is found and
 * told by sl_store_format_co(). */
static bool holds_something(const char *path)
{
    static uint8_t begin[BEGIN_BYTES];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file >= 0 ? pread(file, begin, sizeof(begin), 0) : 0;
    const uint64_t magic = SL_DISK_MAGIC;
    bool ours =
        length == sizeof(begin) && (memcmp(begin, &magic, sizeof(magic)) == 0 ||
                                    memcmp(begin + SL_SUPERBLOCK_B, &magic, sizeof(magic)) == 0);
    bool zero = true;
    for (ssize_t i = 0; i < length && zero; i++)
        zero = begin[i] == 0;
    if (file >= 0)
        close(file);
    return !zero && !ours;
}

/* What a disk of the store must never need later: room that its file system no longer has. */
static void warn_of_holes(const struct disk_job *job)
{
    struct stat status;
    if (stat(job->path, &status) != 0 || !S_ISREG(status.st_mode) ||
        (uint64_t)status.st_blocks * 512 >= (uint64_t)status.st_size)
        return;
    fprintf(stderr,
            "%s: %s: warning: it has holes: %llu of its %llu bytes are on its file system; writes "
            "fail when that is full: fallocate -l %llu %s\n",
            job->program, job->path, (unsigned long long)status.st_blocks * 512,
            (unsigned long long)status.st_size, (unsigned long long)status.st_size, job->path);
}

static int format_co(struct disk_job *job)
{
    char text[512], size[32], log[32];
    if (!job->force && holds_something(job->path))
        return complain(job,
                        "it holds something else: its first 128 KiB, where partition tables and "
                        "file systems begin, are not zero; if that may go, --force formats it",
                        -EEXIST);
    struct sl_store_format format = {
        .layout = {.segment_bytes = job->segment_bytes,
                   .wal_bytes = job->log_bytes,
                   .shard_count = (uint16_t)job->shards},
        .force = job->force,
    };
    memcpy(format.cluster_id, job->cluster_id, sizeof(format.cluster_id)); /* header: id */
    sl_reactor_random(job->node->reactor, format.disk_id, sizeof(format.disk_id));
    format.salt = sl_reactor_random_u64(job->node->reactor);
    int error =
        sl_store_format_co(job->disk, &job->info, job->node->memory, &format, text, sizeof(text));
    if (error < 0)
        return complain(job, text, error);
    error = open_stores_co(job);
    if (error < 0)
        return error;
    struct sl_store_info info;
    struct sl_store_statistics statistics;
    sl_store_info(job->stores[0], &info);
    sl_store_statistics(job->stores[0], &statistics);
    sl_size_format(info.data_bytes * info.shard_count, size, sizeof(size));
    sl_size_format(statistics.segment_count * info.segment_bytes * info.shard_count, log,
                   sizeof(log));
    printf("%s: %u shard(s), %s for data, %s of log\n", job->path, info.shard_count, size, log);
    warn_of_holes(job);
    if (job->cluster_file != NULL && info.entry_blocks_max < SL_ENTRY_BLOCKS_MAX)
        return complain(job,
                        "its log takes no writes of 1 MiB, which the targets of a cluster need: "
                        "format it again with --force --segment 4M, or with fewer --shards",
                        -EINVAL);
    return 0;
}

/* ---- grow ---- */

static int grow_co(struct disk_job *job)
{
    char text[512], size[32];
    struct sl_store_info info = {0};
    int error = open_stores_co(job);
    if (error == 0)
        error = apply_co(job);
    for (unsigned shard = 0; shard < job->shard_count && error == 0; shard++) {
        error = sl_store_grow_co(job->stores[shard], job->info.capacity_bytes, text, sizeof(text));
        if (error < 0)
            complain(job, text, error);
    }
    if (error < 0)
        return error;
    sl_store_info(job->stores[0], &info);
    sl_size_format(info.data_bytes * info.shard_count, size, sizeof(size));
    printf("%s: %u shard(s), %s for data\n", job->path, info.shard_count, size);
    return 0;
}

/* ---- check ---- */

static void print_finding(void *argument, const char *text)
{
    printf("%s\n", text);
}

static int check_co(struct disk_job *job)
{
    uint64_t count = 0, blocks = 0;
    int error = open_stores_co(job);
    if (error == 0)
        error = apply_co(job);
    for (unsigned shard = 0; shard < job->shard_count && error == 0; shard++) {
        struct sl_store_findings findings = {.report = print_finding};
        error = sl_store_check_co(job->stores[shard], &findings);
        count += findings.count;
        blocks += findings.block_count;
    }
    if (error < 0)
        return error;
    printf("%s: %llu blocks verified; %s\n", job->path, (unsigned long long)blocks,
           count == 0 ? "nothing is wrong" : "see above what is wrong");
    job->unhealthy = job->unhealthy || count > 0;
    return 0;
}

/* ---- inspect ---- */

static int inspect_co(struct disk_job *job)
{
    int error = open_stores_co(job);
    if (error < 0)
        return error;
    struct sl_store_info info;
    sl_store_info(job->stores[0], &info);
    printf("%s: disk ", job->path);
    for (unsigned i = 0; i < sizeof(info.disk_id); i++)
        printf("%02x", info.disk_id[i]);
    printf(", %u shard(s)\n", info.shard_count);
    for (unsigned shard = 0; shard < job->shard_count; shard++)
        sl_store_describe(job->stores[shard], stdout);
    return 0;
}

/* ---- dump ---- */

static int write_out(const struct sl_iobuf *data, uint32_t skip, uint32_t length)
{
    for (unsigned i = 0; i < data->span_count && length > 0; i++) {
        uint32_t at = sl_min(skip, data->spans[i].length_bytes);
        uint32_t step = sl_min(data->spans[i].length_bytes - at, length);
        if (fwrite(data->spans[i].data + at, 1, step, stdout) != step)
            return -errno;
        skip -= at;
        length -= step;
    }
    return 0;
}

static int dump_piece_co(struct disk_job *job, uint64_t offset, uint32_t length)
{
    uint64_t number = offset / SL_CHUNK_BYTES;
    struct sl_iobuf data;
    uint32_t first = (uint32_t)(offset % SL_CHUNK_BYTES / SL_BLOCK_BYTES);
    uint32_t skip = (uint32_t)(offset % SL_BLOCK_BYTES);
    uint32_t blocks = (skip + length + SL_BLOCK_BYTES - 1) / SL_BLOCK_BYTES;
    struct sl_store_group *group =
        sl_store_group_find(job->stores[number % job->shard_count], GROUP);
    if (group == NULL)
        return complain(job, "nothing was ever stored on it", -ENODATA);
    sl_iobuf_init(&data);
    int error = sl_store_read_co(group, (uint32_t)(number / job->shard_count), (uint16_t)first,
                                 (uint16_t)blocks, &data);
    if (error < 0)
        complain(job, "a block cannot be read; the rest is left out", error);
    else if ((error = write_out(&data, skip, length)) < 0 && error != -EPIPE)
        fprintf(stderr, "%s: standard output cannot be written: %s (%s); the rest is left out\n",
                job->program, sl_error_text(error), sl_error_name(error));
    sl_iobuf_fini(&data);
    return error;
}

/* One storage is dumped; replicas are many, and the gateway knows how volumes lie in them. */
static int refuse_replicas(const struct disk_job *job)
{
    for (unsigned shard = 0; shard < job->shard_count; shard++) {
        struct sl_store_group *group;
        struct sl_store_group_status status;
        for (uint64_t after = 0;
             (group = sl_store_group_next(job->stores[shard], after)) != NULL;) {
            sl_store_group_status(group, &status);
            after = status.group;
            if (is_replica(group))
                return complain(job,
                                "it holds replicas of a cluster's groups, not one storage: read "
                                "its volumes through a gateway; `sluice disk inspect` lists them",
                                -EOPNOTSUPP);
        }
    }
    return 0;
}

static int complain_range(const struct disk_job *job, uint64_t end)
{
    char text[192];
    snprintf(text, sizeof(text),
             "--offset %llu and --length %llu lead beyond its end: it stores %llu bytes",
             (unsigned long long)job->offset_bytes, (unsigned long long)job->length_bytes,
             (unsigned long long)end);
    return complain(job, text, -ERANGE);
}

static int dump_co(struct disk_job *job)
{
    struct sl_store_info info;
    int error = open_stores_co(job);
    if (error == 0)
        error = refuse_replicas(job);
    if (error == 0)
        error = apply_co(job);
    if (error < 0)
        return error;
    sl_store_info(job->stores[0], &info);
    uint64_t end = info.data_bytes * info.shard_count;
    if (job->offset_bytes > end ||
        (job->length_bytes != 0 && job->length_bytes > end - job->offset_bytes))
        return complain_range(job, end);
    if (job->length_bytes != 0)
        end = job->offset_bytes + job->length_bytes;
    for (uint64_t at = job->offset_bytes; at < end && error == 0;) {
        /* Up to the next MiB, so that no piece leaves its chunk. */
        uint64_t step = sl_min(SL_MIB - at % SL_MIB, end - at);
        error = dump_piece_co(job, at, (uint32_t)step);
        at += step;
    }
    return error;
}

/* ---- all of them ---- */

/* For a disk that cannot be opened. */
static const char *advice(const struct disk_job *job, int error)
{
    struct stat status;
    if (stat(job->path, &status) == 0 && !S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
        return "; a file or a block device is meant";
    switch (error) {
    case -EWOULDBLOCK:
        return job->run_co == grow_co ? "; a process serves it: SIGHUP makes a target grow it"
                                      : "; a process serves it: stop it first";
    case -EINVAL:
        return job->buffered ? "" : "; if its file system has no O_DIRECT: --buffered";
    case -EBUSY:
        return "; it is mounted, or part of something else";
    case -ENOENT:
        return job->run_co == format_co ? "; make a file first: fallocate -l SIZE PATH" : "";
    default:
        return "";
    }
}

static int main_co(struct sl_runtime *runtime, void *argument)
{
    struct disk_job *job = argument;
    struct sl_disk_options options = {.read_only = job->read_only,
                                      .buffered = job->buffered,
                                      .exclusive = true,
                                      .lock_wait_ns = LOCK_WAIT_NS};
    sl_runtime_signals_default(); /* what is half done is as after a crash */
    job->node = &runtime->nodes[0];
    int error = sl_disk_open(job->node->io, job->path, &options, &job->info, &job->disk);
    if (error < 0) {
        fprintf(stderr, "%s: %s cannot be opened: %s (%s)%s\n", job->program, job->path,
                sl_error_text(error), sl_error_name(error), advice(job, error));
        return error;
    }
    error = job->run_co(job);
    for (unsigned i = 0; i < SL_DISK_SHARDS_MAX; i++)
        sl_store_close_co(job->stores[i]);
    sl_disk_close(job->disk);
    return error;
}

static int load_cluster_id(struct disk_job *job)
{
    char text[512];
    struct sl_cluster *cluster;
    int error = sl_cluster_load(job->cluster_file, &cluster, text, sizeof(text));
    if (error < 0) {
        fprintf(stderr, "%s: --cluster: %s\n", job->program, text);
        return error;
    }
    memcpy(job->cluster_id, cluster->id, sizeof(job->cluster_id)); /* header: id */
    sl_cluster_free(cluster);
    return 0;
}

static int run(struct disk_job *job, const char *summary, struct sl_option *rows, int argc,
               char **argv)
{
    const char *operands[1];
    unsigned operand_count = 0;
    const struct sl_options description = {job->program, summary, NULL, rows, "PATH"};
    int parsed =
        sl_options_parse(&description, argc, argv, operands, &operand_count, 1, stdout, stderr);
    if (parsed != 0)
        return parsed > 0 ? 0 : 2;
    if (operand_count != 1) {
        fprintf(stderr, "%s: name one disk: a file or a block device\n", job->program);
        return 2;
    }
    job->path = operands[0];
    if (job->cluster_file != NULL && load_cluster_id(job) < 0)
        return 1;
    struct sl_runtime_config config = {
        .reactor_count = 1, .cpus = {-1}, .memory_bytes = MEMORY_BYTES};
    sl_log_set_level(SL_LOG_WARN);
    return sl_runtime_run(&config, main_co, job) == 0 && !job->unhealthy ? 0 : 1;
}

#define ROW_BUFFERED(job)                                                                          \
    {                                                                                              \
        "buffered", 0, SL_OPTION_FLAG, &(job).buffered,                                            \
            .help = "no O_DIRECT, for file systems that lack it"                                   \
    }

static int disk_format(int argc, char **argv)
{
    static struct disk_job job = {.program = "sluice disk format", .run_co = format_co};
    struct sl_option rows[] = {
        {"shards", 0, SL_OPTION_INTEGER, &job.shards, .least = 1, .most = SL_DISK_SHARDS_MAX,
         .argument = "COUNT", .help = "reactors that can share it: a multiple of theirs",
         .fallback = "1"},
        {"log", 0, SL_OPTION_SIZE, &job.log_bytes, .least = SL_MIB, .most = 1024 * SL_GIB,
         .argument = "SIZE", .help = "write-ahead log of all shards",
         .fallback = "a sixteenth, 4 GiB at most"},
        {"segment", 0, SL_OPTION_SIZE, &job.segment_bytes, .least = SL_SEGMENT_BYTES_MIN,
         .most = SL_SEGMENT_BYTES_MAX, .argument = "SIZE", .help = "of the log; a power of two",
         .fallback = "by the log's size"},
        {"cluster", 0, SL_OPTION_STRING, &job.cluster_file, .argument = "FILE",
         .help = "for a node of this cluster: no other takes it", .fallback = "any"},
        {"force", 0, SL_OPTION_FLAG, &job.force, .help = "also if there is something on it"},
        ROW_BUFFERED(job),
        {NULL}};
    return run(&job, "makes a file or block device a disk of the store", rows, argc, argv);
}

static int disk_grow(int argc, char **argv)
{
    static struct disk_job job = {.program = "sluice disk grow", .run_co = grow_co};
    struct sl_option rows[] = {ROW_BUFFERED(job), {NULL}};
    return run(&job, "takes what a file or device became larger into use", rows, argc, argv);
}

static int disk_check(int argc, char **argv)
{
    static struct disk_job job = {
        .program = "sluice disk check", .run_co = check_co, .read_only = true};
    struct sl_option rows[] = {ROW_BUFFERED(job), {NULL}};
    return run(&job, "verifies everything on a disk; status 1 if anything is wrong", rows, argc,
               argv);
}

static int disk_inspect(int argc, char **argv)
{
    static struct disk_job job = {
        .program = "sluice disk inspect", .run_co = inspect_co, .read_only = true};
    struct sl_option rows[] = {ROW_BUFFERED(job), {NULL}};
    return run(&job, "shows what is where on a disk", rows, argc, argv);
}

static int disk_dump(int argc, char **argv)
{
    static struct disk_job job = {
        .program = "sluice disk dump", .run_co = dump_co, .read_only = true};
    struct sl_option rows[] = {
        {"offset", 0, SL_OPTION_SIZE, &job.offset_bytes, .least = 0, .most = UINT64_MAX / 2,
         .argument = "SIZE", .help = "from this byte of the storage on", .fallback = "0"},
        {"length", 0, SL_OPTION_SIZE, &job.length_bytes, .least = 1, .most = UINT64_MAX / 2,
         .argument = "SIZE", .help = "so many bytes", .fallback = "all"},
        ROW_BUFFERED(job),
        {NULL}};
    return run(&job, "writes what a disk stores to standard output", rows, argc, argv);
}

static const struct sluice_command disk_commands[] = {
    {"format", "makes a file or block device a disk of the store", disk_format},
    {"grow", "takes what it became larger into use", disk_grow},
    {"check", "verifies everything on it", disk_check},
    {"inspect", "shows what is where", disk_inspect},
    {"dump", "writes what it stores to standard output", disk_dump},
    {NULL},
};

int sluice_disk(int argc, char **argv)
{
    return sluice_dispatch("sluice disk", "disks of the store, offline", disk_commands, argc, argv);
}
