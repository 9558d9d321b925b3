/* Threads, reactors and signals of a server program. */
#include "daemon/runtime.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "core/error.h"
#include "core/log.h"
#include "io/uring/uring.h"

struct start {
    const struct sl_runtime_config *config;
    struct sl_runtime *runtime;
    unsigned index;
    pthread_t thread;
    pthread_barrier_t *ready;
    _Atomic int *error;
};

static void explain_uring(const struct sl_runtime_config *config, int error)
{
    struct rlimit limit = {0};
    (void)getrlimit(RLIMIT_MEMLOCK, &limit);
    if (error == -ENOMEM)
        sl_log_error("runtime",
                     "io_uring cannot be set up: %s (%s); it takes at least %zu bytes of locked "
                     "memory for each of %u reactors, and the memlock limit of this user's "
                     "processes together is %llu bytes: raise it (ulimit -l, LimitMEMLOCK=)",
                     sl_error_text(error), sl_error_name(error), sl_uring_locked_bytes(0),
                     config->reactor_count, (unsigned long long)limit.rlim_cur);
    else
        sl_log_error("runtime",
                     "io_uring cannot be set up: %s (%s); see /proc/sys/kernel/io_uring_disabled",
                     sl_error_text(error), sl_error_name(error));
}

static int node_create(const struct sl_runtime_config *config, struct sl_runtime_node *node)
{
    struct sl_uring_config uring = {0};
    int error = sl_uring_create(&uring, &node->io);
    if (error < 0) {
        explain_uring(config, error);
        return error;
    }
    struct sl_memory_config memory = {
        .limit_bytes = config->memory_bytes,
        .hugepages = config->hugepages,
        .numa_node = -1,
    };
    error = sl_memory_create(&memory, &node->memory);
    if (error < 0) {
        sl_log_error("runtime", "%zu bytes of memory for reactor %u cannot be set up: %s",
                     config->memory_bytes, node->index, sl_error_text(error));
        return error;
    }
    struct sl_reactor_config reactor = {
        .index = node->index,
        .cpu = config->cpus[node->index],
        .poll_always = config->poll_always,
        .spin_ns = config->spin_ns,
    };
    error = sl_reactor_create(&reactor, sl_io_engine(node->io), &node->reactor);
    if (error < 0)
        return error;
    sl_io_bind(node->io, node->reactor);
    return sl_io_register_memory(node->io, node->memory);
}

static void node_destroy(struct sl_runtime_node *node)
{
    if (node->reactor != NULL)
        sl_reactor_destroy(node->reactor);
    if (node->io != NULL)
        sl_io_destroy(node->io);
    sl_memory_destroy(node->memory);
}

static void *reactor_thread(void *argument)
{
    struct start *start = argument;
    struct sl_runtime_node *node = &start->runtime->nodes[start->index];
    node->index = start->index;
    int error = node_create(start->config, node);
    if (error < 0)
        atomic_store(start->error, error);
    pthread_barrier_wait(start->ready);
    if (atomic_load(start->error) == 0)
        sl_reactor_run(node->reactor);
    /* Every reactor has left its loop before any is taken down: mail may still be on its way. */
    pthread_barrier_wait(start->ready);
    node_destroy(node);
    return NULL;
}

struct main_call {
    struct sl_runtime *runtime;
    int (*main_co)(struct sl_runtime *runtime, void *argument);
    void *argument;
    int result;
};

static void main_entry_co(void *argument)
{
    struct main_call *call = argument;
    call->result = call->main_co(call->runtime, call->argument);
    for (unsigned i = call->runtime->node_count; i-- > 0;)
        sl_reactor_stop(call->runtime->nodes[i].reactor);
}

static int open_signals(struct sl_runtime *runtime, bool reloads)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGUSR1);
    if (reloads)
        sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    runtime->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    return runtime->signal_fd < 0 ? -errno : 0;
}

void sl_runtime_signals_default(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
}

int sl_runtime_wait_signal_co(struct sl_runtime *runtime,
                              void (*asked_co)(void *argument, int signal), void *argument)
{
    struct signalfd_siginfo info = {0};
    for (;;) {
        if (read(runtime->signal_fd, &info, sizeof(info)) == sizeof(info)) {
            if (info.ssi_signo != SIGUSR1 && info.ssi_signo != SIGHUP)
                break;
            asked_co(argument, (int)info.ssi_signo);
            continue;
        }
        int events =
            sl_descriptor_wait_co(runtime->nodes[0].io, runtime->signal_fd, POLLIN, UINT64_MAX);
        if (events < 0)
            return events;
    }
    sl_runtime_signals_default();
    sl_log_info("runtime", "%s: ending (once more ends at once)", strsignal((int)info.ssi_signo));
    return (int)info.ssi_signo;
}

/* Threads 1 … n - 1; reactor 0 is the caller's. All meet at the barrier. */
static void start_threads(const struct sl_runtime_config *config, struct sl_runtime *runtime,
                          struct start *starts, pthread_barrier_t *ready, _Atomic int *error)
{
    for (unsigned i = 0; i < config->reactor_count; i++) {
        starts[i] = (struct start){config, runtime, i, 0, ready, error};
        if (i > 0 && pthread_create(&starts[i].thread, NULL, reactor_thread, &starts[i]) != 0) {
            sl_log_error("runtime", "thread %u of %u cannot be started", i, config->reactor_count);
            abort(); /* the others wait at the barrier: nothing was served yet */
        }
    }
}

static int run_main(struct sl_runtime *runtime,
                    int (*main_co)(struct sl_runtime *runtime, void *argument), void *argument)
{
    struct main_call call = {runtime, main_co, argument, 0};
    int error = sl_co_spawn(runtime->nodes[0].reactor, main_entry_co, &call);
    if (error < 0) {
        for (unsigned i = runtime->node_count; i-- > 0;)
            sl_reactor_stop(runtime->nodes[i].reactor);
        return error;
    }
    sl_reactor_run(runtime->nodes[0].reactor);
    return call.result;
}

int sl_runtime_run(const struct sl_runtime_config *config,
                   int (*main_co)(struct sl_runtime *runtime, void *argument), void *argument)
{
    struct sl_runtime *runtime = calloc(1, sizeof(*runtime));
    struct start *starts = calloc(config->reactor_count, sizeof(*starts));
    pthread_barrier_t ready;
    _Atomic int error = 0;
    int result =
        runtime == NULL || starts == NULL ? -ENOMEM : open_signals(runtime, config->reloads);
    if (result < 0) {
        free(starts);
        free(runtime);
        return result;
    }
    runtime->node_count = config->reactor_count;
    pthread_barrier_init(&ready, NULL, config->reactor_count);
    start_threads(config, runtime, starts, &ready, &error);
    int node_error = node_create(config, &runtime->nodes[0]);
    if (node_error < 0)
        atomic_store(&error, node_error);
    pthread_barrier_wait(&ready);
    result = atomic_load(&error);
    if (result == 0)
        result = run_main(runtime, main_co, argument);
    pthread_barrier_wait(&ready);
    node_destroy(&runtime->nodes[0]);
    for (unsigned i = 1; i < config->reactor_count; i++)
        pthread_join(starts[i].thread, NULL);
    pthread_barrier_destroy(&ready);
    close(runtime->signal_fd);
    free(starts);
    free(runtime);
    return result;
}
