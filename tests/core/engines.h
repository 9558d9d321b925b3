/* Two small engines for the tests of the runtime: one of virtual time for one thread, one that
 * really sleeps (eventfd and poll(2)). And a generator of numbers that a seed repeats. */
#ifndef TESTS_CORE_ENGINES_H
#define TESTS_CORE_ENGINES_H

#include <stdatomic.h>

#include "core/base.h"
#include "core/reactor.h"

struct virtual_engine {
    uint64_t now_ns;
    unsigned notify_count;
    unsigned sleep_count;
    uint64_t sleep_deadline_ns; /* of the last one */
    /* What happens in a sleep; by default time goes on to the deadline. */
    void (*asleep)(struct virtual_engine *engine);
    unsigned (*poll)(struct virtual_engine *engine);
    void *user;
};

/* A reactor with index `index` over `engine`; asserts on failure. */
struct sl_reactor *virtual_reactor(struct virtual_engine *engine, unsigned index);

/* Steps until nothing is left to do now. */
void settle(struct sl_reactor *reactor);

struct sleeping_engine {
    int event_fd;
    atomic_uint notify_count;
    unsigned sleep_count;
};

void sleeping_engine_init(struct sleeping_engine *engine);
void sleeping_engine_fini(struct sleeping_engine *engine);
struct sl_reactor *sleeping_reactor(struct sleeping_engine *engine,
                                    const struct sl_reactor_config *config);

/* xorshift64*: `state` is never 0. */
static inline uint64_t test_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TEST_IS_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_IS_SANITIZED 1
#endif

#endif
