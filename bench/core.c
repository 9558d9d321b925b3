/*
 * Goal: what the runtime itself costs: a switch to a coroutine and back, a coroutine from spawn to
 * end, a timer, a mail.
 * Method: one reactor in one thread over an engine that only tells the time; each row runs for a
 * fixed time and prints nanoseconds an operation (the best of three, as the noise is one-sided).
 *
 *   core [seconds per row, default 0.3]
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base.h"
#include "core/coroutine.h"
#include "core/crc32c.h"
#include "core/reactor.h"
#include "core/timer.h"

static uint64_t engine_now_ns(void *engine)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SL_NS_PER_S + (uint64_t)now.tv_nsec;
}

static unsigned engine_poll(void *engine)
{
    return 0;
}

static unsigned engine_sleep(void *engine, uint64_t deadline_ns)
{
    return 0;
}

static void engine_notify(void *engine)
{
}

static void engine_random(void *engine, void *bytes, size_t length)
{
    memset(bytes, 1, length);
}

static const struct sl_reactor_engine engine = {
    .now_ns = engine_now_ns,
    .poll = engine_poll,
    .sleep = engine_sleep,
    .notify = engine_notify,
    .random = engine_random,
};

struct row {
    struct sl_reactor *reactor;
    uint64_t operations;
    unsigned width; /* coroutines, timers or mails at a time */
    bool stop;
};

static void yielder_co(void *argument)
{
    struct row *row = argument;
    while (!row->stop) {
        sl_yield_co();
        row->operations++;
    }
}

static void start_yield(struct row *row)
{
    for (unsigned i = 0; i < row->width; i++)
        SL_ASSERT(sl_co_spawn(row->reactor, yielder_co, row) == 0);
}

/* As a request does: some frames deep, some of the stack touched. */
static __attribute__((noinline)) void deep_co(struct row *row, unsigned depth)
{
    volatile uint8_t frame[256];
    frame[0] = (uint8_t)depth;
    frame[255] = frame[0];
    if (depth > 0)
        deep_co(row, depth - 1);
    else
        sl_yield_co();
    frame[1] = frame[255];
}

static void deep_yielder_co(void *argument)
{
    struct row *row = argument;
    while (!row->stop) {
        deep_co(row, 3);
        row->operations++;
    }
}

static void start_deep(struct row *row)
{
    for (unsigned i = 0; i < row->width; i++)
        SL_ASSERT(sl_co_spawn(row->reactor, deep_yielder_co, row) == 0);
}

static void nothing_co(void *argument)
{
    struct row *row = argument;
    row->operations++;
}

static void spawner_co(void *argument)
{
    struct row *row = argument;
    while (!row->stop) {
        for (unsigned i = 0; i < row->width; i++)
            SL_ASSERT(sl_co_spawn(row->reactor, nothing_co, row) == 0);
        sl_yield_co();
    }
}

static void start_spawn(struct row *row)
{
    SL_ASSERT(sl_co_spawn(row->reactor, spawner_co, row) == 0);
}

static void timer_never(struct sl_timer *timer)
{
    abort();
}

/* What a time-out costs that does not happen: armed and cancelled, among `width` others. */
static void timers_co(void *argument)
{
    struct row *row = argument;
    struct sl_timer *timers = calloc(row->width, sizeof(*timers));
    SL_ASSERT(timers != NULL);
    uint64_t far_ns = sl_reactor_now_ns(row->reactor) + 3600 * SL_NS_PER_S;
    for (unsigned i = 0; i < row->width; i++)
        sl_timer_init(&timers[i], timer_never);
    while (!row->stop) {
        for (unsigned i = 0; i < row->width; i++)
            sl_timer_arm(row->reactor, &timers[i], far_ns++);
        for (unsigned i = 0; i < row->width; i++)
            sl_timer_cancel(row->reactor, &timers[i]);
        row->operations += row->width;
        sl_yield_co();
    }
    free(timers);
}

static void start_timers(struct row *row)
{
    SL_ASSERT(sl_co_spawn(row->reactor, timers_co, row) == 0);
}

struct letter {
    struct sl_mail mail;
    struct row *row;
};

static void letter_deliver(struct sl_mail *mail)
{
    struct letter *letter = sl_container_of(mail, struct letter, mail);
    letter->row->operations++;
    if (letter->row->stop)
        free(letter);
    else
        sl_reactor_post(letter->row->reactor, mail);
}

static void start_mail(struct row *row)
{
    for (unsigned i = 0; i < row->width; i++) {
        struct letter *letter = calloc(1, sizeof(*letter));
        SL_ASSERT(letter != NULL);
        letter->row = row;
        letter->mail.deliver = letter_deliver;
        sl_reactor_post(row->reactor, &letter->mail);
    }
}

static double measure_ns(void (*start)(struct row *row), unsigned width, double seconds)
{
    double best = 1e18;
    for (unsigned round = 0; round < 3; round++) {
        struct row row = {.width = width};
        struct sl_reactor_config config = {.cpu = -1};
        SL_ASSERT(sl_reactor_create(&config, &engine, &row.reactor) == 0);
        start(&row);
        for (unsigned i = 0; i < 100; i++)
            sl_reactor_step(row.reactor);
        row.operations = 0;
        uint64_t began_ns = engine_now_ns(NULL), ended_ns;
        do {
            for (unsigned i = 0; i < 64; i++)
                sl_reactor_step(row.reactor);
            ended_ns = engine_now_ns(NULL);
        } while ((double)(ended_ns - began_ns) < seconds / 3 * 1e9);
        best = sl_min(best, (double)(ended_ns - began_ns) / (double)row.operations);
        row.stop = true;
        while (sl_reactor_step(row.reactor))
            ;
        sl_reactor_destroy(row.reactor);
    }
    return best;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*start)(struct row *row);
        unsigned width;
    } rows[] = {
        {"switch to a coroutine and back, 1 (a whole turn)", start_yield, 1},
        {"switch to a coroutine and back, 32", start_yield, 32},
        {"switch to a coroutine and back, 1024", start_yield, 1024},
        {"switch, 1 KiB of stack touched, 32", start_deep, 32},
        {"switch, 1 KiB of stack touched, 256", start_deep, 256},
        {"switch, 1 KiB of stack touched, 1024", start_deep, 1024},
        {"coroutine: spawn, run, end; 1 at a time", start_spawn, 1},
        {"coroutine: spawn, run, end; 64 at a time", start_spawn, 64},
        {"coroutine: spawn, run, end; 512 at a time", start_spawn, 512},
        {"timer: arm and cancel, 256", start_timers, 256},
        {"mail to oneself, 64", start_mail, 64},
    };
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 0.3;
    for (unsigned i = 0; i < SL_COUNT_OF(rows); i++)
        printf("%-50s %8.1f ns\n", rows[i].name, measure_ns(rows[i].start, rows[i].width, seconds));
    return 0;
}
