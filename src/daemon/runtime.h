/*
 * The runtime of a server program: one thread a reactor, each with its io_uring, its memory and its
 * loop. The calling thread is reactor 0; `main_co` runs there and reads as one linear story: set up
 * every reactor by awaited calls, serve until a signal, take everything down.
 */
#ifndef SL_DAEMON_RUNTIME_H
#define SL_DAEMON_RUNTIME_H

#include "core/reactor.h"
#include "io/io.h"
#include "mem/memory.h"

#define SL_RUNTIME_REACTORS_MAX 64

struct sl_runtime_config {
    unsigned reactor_count;            /* 1 … SL_RUNTIME_REACTORS_MAX */
    int cpus[SL_RUNTIME_REACTORS_MAX]; /* -1 = not pinned */
    bool poll_always;
    bool hugepages;
    bool reloads;        /* SIGHUP is told, too; else it ends the process at once */
    size_t memory_bytes; /* DMA memory of each reactor */
    uint64_t spin_ns;    /* 0 = the default */
};

struct sl_runtime_node {
    unsigned index;
    struct sl_reactor *reactor;
    struct sl_io *io;
    struct sl_memory *memory;
};

struct sl_runtime {
    unsigned node_count;
    struct sl_runtime_node nodes[SL_RUNTIME_REACTORS_MAX];
    int signal_fd;
};

/* Blocks SIGINT, SIGTERM and SIGUSR1, starts the threads, runs main_co, stops and joins. Answers
 * main_co's result or the errno of a failed start (explained in the log). */
int sl_runtime_run(const struct sl_runtime_config *config,
                   int (*main_co)(struct sl_runtime *runtime, void *argument), void *argument);

/* In main_co: SIGINT and SIGTERM end the process at once from now on. For what nothing is lost by.
 */
void sl_runtime_signals_default(void);
/* Returns the signal that asks the program to end (a second one ends the process at once), or
 * negative errno. Meanwhile calls asked_co(argument, signal) for each SIGUSR1 and SIGHUP. */
int sl_runtime_wait_signal_co(struct sl_runtime *runtime,
                              void (*asked_co)(void *argument, int signal), void *argument);

#endif
