/* What the tests of seam 1 share: a reactor over io_uring that runs one coroutine to its end. */
#ifndef TESTS_IO_HARNESS_H
#define TESTS_IO_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/coroutine.h"
#include "core/reactor.h"
#include "io/io.h"
#include "io/uring/uring.h"

#define TEST_SKIP 77

struct world {
    struct sl_io *io;
    struct sl_reactor *reactor;
    void (*main_co)(struct world *world);
    void *argument;
    unsigned pending; /* coroutines that main_co waits for */
    struct sl_wait all_done;
};

static inline void world_main_co(void *argument)
{
    struct world *world = argument;
    world->main_co(world);
    sl_reactor_stop(world->reactor);
}

static inline void world_spawn(struct world *world, sl_co_fn fn, void *argument)
{
    world->pending++;
    assert_int_equal(sl_co_spawn(world->reactor, fn, argument), 0);
}

/* The last thing that a spawned coroutine does. */
static inline void world_leave(struct world *world)
{
    if (--world->pending == 0)
        sl_wait_wake(&world->all_done, 0);
}

static inline void world_join_co(struct world *world)
{
    (void)sl_wait_co(&world->all_done);
    sl_wait_init(&world->all_done);
}

static inline void world_create(struct world *world, unsigned entries)
{
    struct sl_uring_config config = {.entries = entries};
    struct sl_reactor_config reactor_config = {.cpu = -1};
    *world = (struct world){0};
    assert_int_equal(sl_uring_create(&config, &world->io), 0);
    assert_int_equal(sl_reactor_create(&reactor_config, sl_io_engine(world->io), &world->reactor),
                     0);
    sl_io_bind(world->io, world->reactor);
}

static inline void world_run(struct world *world, void (*main_co)(struct world *world),
                             void *argument)
{
    world->main_co = main_co;
    world->argument = argument;
    assert_int_equal(sl_co_spawn(world->reactor, world_main_co, world), 0);
    sl_reactor_run(world->reactor);
}

static inline void world_destroy(struct world *world)
{
    sl_reactor_destroy(world->reactor);
    sl_io_destroy(world->io);
}

static inline uint64_t world_deadline_ns(struct world *world, uint64_t from_now_ns)
{
    return sl_reactor_clock_ns(world->reactor) + from_now_ns;
}

/* True, with a word, where the kernel has no io_uring for us. */
static inline bool world_is_missing(void)
{
    struct sl_io *io = NULL;
    int error = sl_uring_create(NULL, &io);
    if (error == 0)
        sl_io_destroy(io);
    else
        fprintf(stderr, "skipped: no io_uring here: %s\n", strerror(-error));
    return error != 0;
}

/* Bytes that tell where they belong. */
static inline void pattern_fill(uint8_t *data, size_t length, uint64_t position, uint64_t seed)
{
    for (size_t i = 0; i < length; i++)
        data[i] = (uint8_t)(((position + i) * UINT64_C(0x9E3779B97F4A7C15) + seed) >> 56);
}

static inline bool pattern_check(const uint8_t *data, size_t length, uint64_t position,
                                 uint64_t seed)
{
    for (size_t i = 0; i < length; i++)
        if (data[i] != (uint8_t)(((position + i) * UINT64_C(0x9E3779B97F4A7C15) + seed) >> 56))
            return false;
    return true;
}

/* Small, seeded, for sizes. */
static inline uint32_t test_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

#endif
