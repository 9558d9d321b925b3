/* See engines.h. */
#include "engines.h"

#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

static uint64_t virtual_now_ns(void *argument)
{
    struct virtual_engine *engine = argument;
    return engine->now_ns;
}

static unsigned virtual_poll(void *argument)
{
    struct virtual_engine *engine = argument;
    return engine->poll != NULL ? engine->poll(engine) : 0;
}

static unsigned virtual_sleep(void *argument, uint64_t deadline_ns)
{
    struct virtual_engine *engine = argument;
    engine->sleep_count++;
    engine->sleep_deadline_ns = deadline_ns;
    if (engine->asleep != NULL)
        engine->asleep(engine);
    else if (deadline_ns != UINT64_MAX)
        engine->now_ns = sl_max(engine->now_ns, deadline_ns);
    return 0;
}

static void virtual_notify(void *argument)
{
    struct virtual_engine *engine = argument;
    engine->notify_count++;
}

static void virtual_random(void *argument, void *bytes, size_t length)
{
    memset(bytes, 0x5a, length);
}

struct sl_reactor *virtual_reactor(struct virtual_engine *engine, unsigned index)
{
    struct sl_reactor_engine functions = {
        .engine = engine,
        .now_ns = virtual_now_ns,
        .poll = virtual_poll,
        .sleep = virtual_sleep,
        .notify = virtual_notify,
        .random = virtual_random,
    };
    struct sl_reactor_config config = {.index = index, .cpu = -1};
    struct sl_reactor *reactor;
    SL_ASSERT(sl_reactor_create(&config, &functions, &reactor) == 0);
    return reactor;
}

void settle(struct sl_reactor *reactor)
{
    while (sl_reactor_step(reactor))
        ;
}

static uint64_t sleeping_now_ns(void *engine)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SL_NS_PER_S + (uint64_t)now.tv_nsec;
}

static unsigned sleeping_poll(void *engine)
{
    return 0;
}

static unsigned sleeping_sleep(void *argument, uint64_t deadline_ns)
{
    struct sleeping_engine *engine = argument;
    struct pollfd fd = {.fd = engine->event_fd, .events = POLLIN};
    struct timespec left, *timeout = NULL;
    engine->sleep_count++;
    if (deadline_ns != UINT64_MAX) {
        uint64_t now_ns = sleeping_now_ns(engine);
        uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
        left = (struct timespec){.tv_sec = (time_t)(left_ns / SL_NS_PER_S),
                                 .tv_nsec = (long)(left_ns % SL_NS_PER_S)};
        timeout = &left;
    }
    if (ppoll(&fd, 1, timeout, NULL) == 1) {
        uint64_t count;
        SL_ASSERT(read(engine->event_fd, &count, sizeof(count)) == sizeof(count));
    }
    return 0;
}

static void sleeping_notify(void *argument)
{
    struct sleeping_engine *engine = argument;
    uint64_t one = 1;
    atomic_fetch_add_explicit(&engine->notify_count, 1, memory_order_relaxed);
    SL_ASSERT(write(engine->event_fd, &one, sizeof(one)) == sizeof(one));
}

void sleeping_engine_init(struct sleeping_engine *engine)
{
    *engine = (struct sleeping_engine){.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    SL_ASSERT(engine->event_fd >= 0);
}

void sleeping_engine_fini(struct sleeping_engine *engine)
{
    close(engine->event_fd);
}

struct sl_reactor *sleeping_reactor(struct sleeping_engine *engine,
                                    const struct sl_reactor_config *config)
{
    struct sl_reactor_engine functions = {
        .engine = engine,
        .now_ns = sleeping_now_ns,
        .poll = sleeping_poll,
        .sleep = sleeping_sleep,
        .notify = sleeping_notify,
        .random = virtual_random,
    };
    struct sl_reactor *reactor;
    SL_ASSERT(sl_reactor_create(config, &functions, &reactor) == 0);
    return reactor;
}
