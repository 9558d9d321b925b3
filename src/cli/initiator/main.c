/*
 * sluice-initiator: connect → query → init → connections → start → run → stop → statistics →
 * shutdown, the life cycle of comch, top to bottom. See man/sluice-initiator.1.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/initiator/initiator.h"
#include "comch/path.h"
#include "core/error.h"
#include "core/size.h"
#include "core/options.h"

static struct initiator initiator; /* the process's one run; static for its size */

static int fail(int error, const char *what)
{
    fprintf(stderr, "sluice-initiator: %s: %s (%s)\n", what, sl_error_text(error),
            sl_error_name(error));
    return error;
}

static int connect_and_init(void)
{
    const struct initiator_config *config = &initiator.config;
    char path[SL_COMCH_PATH_BYTES_MAX], what[512];
    int error = sl_comch_path(config->channel_name, false, path);
    if (error == 0)
        error = sl_comch_client_connect(path, config->control_timeout_ns, &initiator.client);
    if (error < 0) {
        snprintf(
            what, sizeof(what),
            error == -EINVAL
                ? "'%s' is no name of a command channel: letters, digits, '-', '_' and '.' are"
                : "no gateway answers on command channel '%s' (is sluice-gateway running, as this "
                  "user, with that --command-channel-name?)",
            config->channel_name);
        return fail(error, what);
    }
    error = sl_comch_client_query(initiator.client, config->volume, &initiator.storage);
    if (error == 0)
        error = sl_comch_client_init(initiator.client, config->volume, &initiator.storage);
    if (error == 0)
        error = sl_comch_client_create_control(initiator.client);
    if (error < 0) {
        snprintf(what, sizeof(what), "volume '%s' cannot be opened%s",
                 config->volume[0] != '\0' ? config->volume : "default",
                 error == -ENOENT      ? ": the gateway has none of that name"
                 : error == -ETIMEDOUT ? ": the gateway does not reach all of its storage servers"
                                       : "");
        return fail(error, what);
    }
    return 0;
}

static int check_against_volume(void)
{
    struct initiator_config *config = &initiator.config;
    uint64_t capacity = initiator.storage.capacity_bytes;
    bool writes = config->strategy == STRATEGY_READ_WRITE_VALIDITY ||
                  (config->strategy <= STRATEGY_WRITE_THROUGHPUT && config->read_percent < 100);
    if (writes && (initiator.storage.flags & SL_COMCH_READ_ONLY) != 0)
        return fail(-EROFS, "this test writes");
    if (config->io_bytes > initiator.storage.transfer_bytes_max)
        return fail(-EINVAL, "--io-size is beyond what the gateway takes in one I/O");
    if (config->depth > initiator.storage.depth_max)
        return fail(-EINVAL, "--transaction-count is beyond what the gateway allows");
    initiator.region_bytes = config->region_bytes;
    if (initiator.region_bytes == 0 && initiator.content.file != NULL)
        initiator.region_bytes = sl_align_up(initiator.content.file_bytes, SL_BLOCK_BYTES);
    else if (initiator.region_bytes == 0 && config->region_offset_bytes < capacity)
        initiator.region_bytes = capacity - config->region_offset_bytes;
    if (initiator.region_bytes == 0 || config->region_offset_bytes >= capacity ||
        initiator.region_bytes > capacity - config->region_offset_bytes) {
        char what[256];
        snprintf(what, sizeof(what),
                 "%llu bytes from offset %llu do not fit in the volume of %llu bytes (--offset, "
                 "--length, "
                 "the content file)",
                 (unsigned long long)initiator.region_bytes,
                 (unsigned long long)config->region_offset_bytes, (unsigned long long)capacity);
        return fail(-ERANGE, what);
    }
    initiator.region_units = (initiator.region_bytes + config->io_bytes - 1) / config->io_bytes;
    /* Throughput tests wrap around inside whole units. */
    if (config->strategy <= STRATEGY_WRITE_THROUGHPUT) {
        initiator.region_units = initiator.region_bytes / config->io_bytes;
        if (initiator.region_units == 0)
            return fail(-ERANGE, "one I/O is larger than the part of the volume that is used");
    }
    return 0;
}

static int create_workers(void)
{
    const struct initiator_config *config = &initiator.config;
    uint64_t each = initiator.region_units / config->worker_count;
    for (unsigned i = 0; i < config->worker_count; i++) {
        struct worker *worker = &initiator.workers[i];
        worker->initiator = &initiator;
        worker->index = i;
        worker->first_unit = each * i;
        worker->unit_count =
            i + 1 == config->worker_count ? initiator.region_units - worker->first_unit : each;
        if (worker->unit_count == 0) /* more cores than units: share the whole */
            worker->unit_count = config->strategy <= STRATEGY_WRITE_THROUGHPUT ? 1 : 0;
        int error = sl_comch_memory_create(config->depth * config->io_bytes, true, &worker->memory);
        if (error < 0)
            return fail(error,
                        "shared memory of --transaction-count times --io-size cannot be made");
        for (uint64_t slot = 0; slot < config->depth;
             slot++) /* no page is absent, no data compressible */
            content_fill(&(struct content){.seed = config->seed}, slot * config->io_bytes,
                         worker->memory.base + slot * config->io_bytes, (uint32_t)config->io_bytes,
                         &worker->result.copies);
        worker->result.copies = (struct sl_copy_counters){0};
        error = sl_comch_client_register(initiator.client, &worker->memory, true);
        if (error < 0)
            return fail(error, "the gateway does not take the shared memory");
        error =
            sl_comch_client_queue_create(initiator.client, (uint32_t)config->depth, &worker->queue);
        if (error < 0)
            return fail(error, "a data queue cannot be made");
    }
    return 0;
}

static void *wait_for_workers(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < initiator.config.worker_count; i++)
        pthread_join(initiator.workers[i].thread, NULL);
    return NULL;
}

static int run(void)
{
    const struct initiator_config *config = &initiator.config;
    uint64_t start_ns = clock_now_ns();
    atomic_store(&initiator.operations_left,
                 config->operation_limit *
                     (config->strategy == STRATEGY_READ_WRITE_VALIDITY ? 2 : 1));
    initiator.deadline_ns = config->run_time_ns != 0 ? start_ns + config->run_time_ns : 0;
    for (unsigned i = 0; i < config->worker_count; i++) {
        struct worker *worker = &initiator.workers[i];
        if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0) {
            fail(-EAGAIN, "a thread cannot be started");
            abort();
        }
    }
    pthread_t waiter;
    bool live = !config->quiet && !config->json && isatty(STDERR_FILENO) != 0 &&
                pthread_create(&waiter, NULL, wait_for_workers, NULL) == 0;
    if (!live) {
        wait_for_workers(NULL);
    } else {
        struct timespec until;
        do {
            report_progress(&initiator, clock_now_ns() - start_ns + 1);
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_nsec += 250 * 1000000;
            until.tv_sec += until.tv_nsec / 1000000000;
            until.tv_nsec %= 1000000000;
        } while (pthread_timedjoin_np(waiter, NULL, &until) == ETIMEDOUT);
        report_progress_end();
    }
    initiator.duration_ns = clock_now_ns() - start_ns;
    return 0;
}

static bool all_well(void)
{
    for (unsigned i = 0; i < initiator.config.worker_count; i++) {
        const struct result *result = &initiator.workers[i].result;
        if (result->first_error != 0 || result->mismatch_count != 0)
            return false;
    }
    return true;
}

static void interrupted(int number)
{
    static const char text[] =
        "\nsluice-initiator: waiting for what is in flight (once more ends at once)\n";
    (void)number;
    atomic_store(&initiator.stop, true);
    (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
}

/* The first one ends in order, which may take as long as the gateway tries: the second at once. */
static void catch_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM};
    struct sigaction action = {.sa_handler = interrupted, .sa_flags = SA_RESETHAND | SA_RESTART};
    for (unsigned i = 0; i < SL_COUNT_OF(signals); i++)
        sigaction(signals[i], &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* From a live session to its end; the statistics around the run show what it copied. */
static int session(void)
{
    int error = check_against_volume();
    if (error == 0)
        error = create_workers();
    if (error < 0)
        return error;
    error = sl_comch_client_statistics(initiator.client, &initiator.before);
    if (error == 0)
        error = sl_comch_client_start(initiator.client);
    if (error < 0)
        return fail(error, "the volume cannot be started");
    run();
    error = sl_comch_client_stop(initiator.client);
    if (error == 0)
        error = sl_comch_client_statistics(initiator.client, &initiator.after);
    if (error < 0)
        initiator.after = initiator.before;
    report_print(&initiator);
    if (error < 0)
        return fail(error, "the volume was not stopped in order");
    return 0;
}

int main(int argc, char **argv)
{
    int status = initiator_options_parse(&initiator.config, argc, argv);
    if (status != 0)
        return status == 1 ? sl_output_finish("sluice-initiator", 0) : status;
    catch_signals();
    int error =
        content_open(&initiator.content, initiator.config.content_file, initiator.config.seed);
    if (error < 0) {
        char what[512];
        snprintf(what, sizeof(what), "--storage-plain-content %s%s", initiator.config.content_file,
                 error == -ENODATA  ? " is empty, and must hold a byte at least"
                 : error == -EINVAL ? " is not a file"
                                    : "");
        fail(error, what);
        return 2;
    }
    error = connect_and_init();
    if (error == 0)
        error = session();
    for (unsigned i = 0; i < initiator.config.worker_count; i++) {
        struct worker *worker = &initiator.workers[i];
        sl_comch_client_queue_destroy(worker->queue);
        if (worker->memory.id != 0 && initiator.client != NULL)
            sl_comch_client_unregister(initiator.client, &worker->memory);
        sl_comch_memory_destroy(&worker->memory);
    }
    if (initiator.client != NULL && error == 0)
        sl_comch_client_shutdown(initiator.client);
    sl_comch_client_close(initiator.client);
    content_close(&initiator.content);
    return sl_output_finish("sluice-initiator", error < 0 || !all_well() ? 1 : 0);
}
