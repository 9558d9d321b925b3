/*
 * Goal: coroutines run in a set order, keep their stacks whole, and wait for events, deadlines and
 * queues without losing or doubling a wake-up.
 * Method: one reactor under virtual time, stepped by hand; thousands of coroutines; a random run
 * whose wake-ups are counted, done twice from one seed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/call.h"
#include "core/coroutine.h"
#include "core/error.h"
#include "core/reactor.h"
#include "engines.h"

#ifdef TEST_IS_SANITIZED
#define MANY 1000u
#else
#define MANY 5000u
#endif

static struct virtual_engine engine;
static struct sl_reactor *reactor;
static char trace[256];
static unsigned trace_length;

static int setup(void **state)
{
    engine = (struct virtual_engine){.now_ns = 1000};
    reactor = virtual_reactor(&engine, 0);
    trace_length = 0;
    memset(trace, 0, sizeof(trace));
    return 0;
}

static int teardown(void **state)
{
    sl_reactor_destroy(reactor);
    reactor = NULL;
    return 0;
}

static void spawn(sl_co_fn fn, void *argument)
{
    assert_int_equal(sl_co_spawn(reactor, fn, argument), 0);
}

static void note(char c)
{
    assert_true(trace_length < sizeof(trace) - 1);
    trace[trace_length++] = c;
}

static uint64_t alive(void)
{
    struct sl_reactor_statistics statistics;
    sl_reactor_statistics(reactor, &statistics);
    return statistics.coroutine_count;
}

static uint64_t stacks(void)
{
    struct sl_reactor_statistics statistics;
    sl_reactor_statistics(reactor, &statistics);
    return statistics.stack_count;
}

/* ---- order ---- */

static void child_co(void *argument)
{
    note(*(const char *)argument);
}

static void letter_co(void *argument)
{
    const char *letter = argument;
    assert_non_null(sl_co_self());
    assert_ptr_equal(sl_reactor_self(), reactor);
    note(letter[0]);
    if (letter[0] == 'a')
        spawn(child_co, (void *)"z");
    sl_yield_co();
    note(letter[1]);
}

static void test_order(void **state)
{
    spawn(letter_co, (void *)"aA");
    spawn(letter_co, (void *)"bB");
    spawn(letter_co, (void *)"cC");
    assert_string_equal(trace, ""); /* nothing runs before its turn */
    assert_null(sl_co_self());
    assert_true(sl_reactor_step(reactor));
    assert_string_equal(trace, "abc");
    assert_true(sl_reactor_step(reactor));
    assert_string_equal(trace, "abczABC");
    assert_false(sl_reactor_step(reactor));
    assert_null(sl_co_self());
    assert_int_equal(alive(), 0);
}

/* ---- many, and their stacks ---- */

struct member {
    unsigned index;
    unsigned *sum;
};

static __attribute__((noinline)) unsigned recurse_co(unsigned seed, unsigned depth)
{
    volatile unsigned char frame[512];
    for (unsigned i = 0; i < sizeof(frame); i++)
        frame[i] = (unsigned char)(seed + depth + i);
    if (depth > 0)
        recurse_co(seed, depth - 1);
    sl_yield_co();
    unsigned bad = 0;
    for (unsigned i = 0; i < sizeof(frame); i++)
        bad += frame[i] != (unsigned char)(seed + depth + i);
    assert_int_equal(bad, 0);
    return bad;
}

static void member_co(void *argument)
{
    struct member *member = argument;
    double kept = member->index * 0.5; /* callee-saved and floating-point state */
    recurse_co(member->index, 4);
    assert_true(kept * 2 == (double)member->index);
    (*member->sum)++;
}

static void test_many(void **state)
{
    unsigned sum = 0;
    struct member *members = calloc(MANY, sizeof(*members));
    assert_non_null(members);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < MANY; i++) {
            members[i] = (struct member){.index = i, .sum = &sum};
            spawn(member_co, &members[i]);
        }
        assert_int_equal(alive(), MANY);
        settle(reactor);
        assert_int_equal(sum, (round + 1) * MANY);
        assert_int_equal(alive(), 0);
        assert_true(stacks() <= 1024); /* the pool is bounded */
    }
    free(members);
}

static void count_co(void *argument)
{
    (*(unsigned *)argument)++;
}

static void test_stacks_are_used_again(void **state)
{
    unsigned count = 0;
    for (unsigned i = 0; i < 1000; i++) {
        spawn(count_co, &count);
        settle(reactor);
    }
    assert_int_equal(count, 1000);
    assert_int_equal(stacks(), 1);
}

#ifndef TEST_IS_SANITIZED
static __attribute__((noinline)) unsigned bottomless(unsigned depth)
{
    volatile char frame[256];
    frame[0] = (char)depth;
    unsigned below = depth == UINT32_MAX ? 0 : bottomless(depth + 1);
    return below + (unsigned)frame[0];
}

static void overflow_co(void *argument)
{
    *(unsigned *)argument = bottomless(0);
}

/* Runs `body` in a child and answers the signal that ended it, or 0. */
static int signal_of(void (*body)(void))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGSEGV, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(1);
        body();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void overflow(void)
{
    unsigned result;
    sl_co_spawn(reactor, overflow_co, &result);
    settle(reactor);
}

static void wake_twice(void)
{
    struct sl_wait wait;
    sl_wait_init(&wait);
    sl_wait_wake(&wait, 0);
    sl_wait_wake(&wait, 0);
}

static void test_broken_invariants_end_the_process(void **state)
{
    assert_int_equal(signal_of(overflow), SIGSEGV); /* the guard page */
    assert_int_equal(signal_of(wake_twice), SIGABRT);
}
#endif

/* ---- waits ---- */

static void wait_co(void *argument)
{
    struct sl_wait *wait = argument;
    note('<');
    note((char)sl_wait_co(wait));
}

static void test_wait(void **state)
{
    struct sl_wait early, late;
    sl_wait_init(&early);
    sl_wait_init(&late);
    sl_wait_wake(&early, 'e');
    spawn(wait_co, &early);
    spawn(wait_co, &late);
    settle(reactor);
    assert_string_equal(trace, "<e<");
    sl_wait_wake(&late, 'l');
    assert_string_equal(trace, "<e<"); /* it runs in its turn, not in the waker's */
    settle(reactor);
    assert_string_equal(trace, "<e<l");
}

struct link {
    struct sl_wait wait;
    struct link *next;
    int64_t result;
};

/* Each waits for the one that it spawned. */
static void link_co(void *argument)
{
    struct link *link = argument;
    int64_t below = 0;
    if (link->next != NULL) {
        spawn(link_co, link->next);
        below = sl_wait_co(&link->next->wait);
    }
    sl_wait_wake(&link->wait, below + 1);
}

static void test_nested(void **state)
{
    enum { DEPTH = 500 };
    struct link *links = calloc(DEPTH, sizeof(*links));
    assert_non_null(links);
    for (unsigned i = 0; i < DEPTH; i++) {
        sl_wait_init(&links[i].wait);
        links[i].next = i + 1 < DEPTH ? &links[i + 1] : NULL;
    }
    spawn(link_co, &links[0]);
    settle(reactor);
    assert_true(links[0].wait.done);
    assert_int_equal(links[0].wait.result, DEPTH);
    free(links);
}

/* ---- deadlines ---- */

struct deadline_case {
    struct sl_wait wait;
    uint64_t deadline_ns;
    bool woken;
    bool woken_again;
    uint64_t ended_ns;
};

static void until_co(void *argument)
{
    struct deadline_case *c = argument;
    c->woken = sl_wait_until_co(&c->wait, c->deadline_ns);
    c->ended_ns = sl_reactor_now_ns(reactor);
    if (!c->woken)
        c->woken_again = sl_wait_co(&c->wait) == 7;
}

static void test_deadline_passes(void **state)
{
    struct deadline_case c = {.deadline_ns = 5000};
    sl_wait_init(&c.wait);
    spawn(until_co, &c);
    settle(reactor);
    assert_int_equal(sl_reactor_next_deadline_ns(reactor), 5000);
    engine.now_ns = 4999;
    settle(reactor);
    assert_int_equal(c.ended_ns, 0);
    engine.now_ns = 5000;
    settle(reactor);
    assert_int_equal(c.ended_ns, 5000);
    assert_false(c.woken);
    assert_int_equal(sl_reactor_next_deadline_ns(reactor), UINT64_MAX);
    /* The event still comes, and may be waited for again. */
    assert_false(c.woken_again);
    sl_wait_wake(&c.wait, 7);
    settle(reactor);
    assert_true(c.woken_again);
}

static void test_event_before_deadline(void **state)
{
    struct deadline_case c = {.deadline_ns = 5000};
    sl_wait_init(&c.wait);
    spawn(until_co, &c);
    settle(reactor);
    sl_wait_wake(&c.wait, 1);
    /* Both in one turn: the event was first, and the coroutine must not be made ready twice. */
    engine.now_ns = 6000;
    settle(reactor);
    assert_true(c.woken);
    assert_int_equal(alive(), 0);
    assert_int_equal(sl_reactor_next_deadline_ns(reactor), UINT64_MAX);
}

static void waker_fire(struct sl_timer *timer);

struct waker {
    struct sl_timer timer;
    struct sl_wait *wait;
};

static void waker_fire(struct sl_timer *timer)
{
    sl_wait_wake(sl_container_of(timer, struct waker, timer)->wait, 3);
}

static void test_event_right_after_deadline(void **state)
{
    struct deadline_case c = {.deadline_ns = 5000};
    struct waker waker = {.wait = &c.wait};
    sl_wait_init(&c.wait);
    spawn(until_co, &c);
    settle(reactor);
    sl_timer_init(&waker.timer, waker_fire);
    sl_timer_arm(reactor, &waker.timer, 5000); /* fires behind the deadline, in the same turn */
    engine.now_ns = 5000;
    settle(reactor);
    assert_true(c.woken); /* it is there when the coroutine looks: it counts */
    assert_int_equal(c.wait.result, 3);
    assert_int_equal(alive(), 0);
}

static void test_deadline_in_the_past_and_never(void **state)
{
    struct deadline_case past = {.deadline_ns = 1}, never = {.deadline_ns = UINT64_MAX};
    sl_wait_init(&past.wait);
    sl_wait_init(&never.wait);
    spawn(until_co, &past);
    spawn(until_co, &never);
    settle(reactor);
    assert_int_equal(past.ended_ns, 1000);
    assert_false(past.woken);
    engine.now_ns = UINT64_MAX - 2;
    settle(reactor);
    assert_int_equal(never.ended_ns, 0);
    sl_wait_wake(&past.wait, 7);
    sl_wait_wake(&never.wait, 7);
    settle(reactor);
    assert_true(never.woken);
}

static void sleeper_co(void *argument)
{
    const char *name = argument;
    sl_sleep_co((uint64_t)(name[0] - '0') * 100);
    note(name[1]);
}

static void test_sleep(void **state)
{
    spawn(sleeper_co, (void *)"3c");
    spawn(sleeper_co, (void *)"1a");
    spawn(sleeper_co, (void *)"2b");
    spawn(sleeper_co, (void *)"3d");
    spawn(sleeper_co, (void *)"00");
    settle(reactor);
    assert_string_equal(trace, "0");
    while (alive() > 0) {
        engine.now_ns = sl_reactor_next_deadline_ns(reactor);
        settle(reactor);
    }
    assert_string_equal(trace, "0abcd");
    assert_int_equal(engine.now_ns, 1300);
}

/* ---- wait queues ---- */

static struct sl_wait_queue queue;

static void queue_co(void *argument)
{
    const char *name = argument;
    int64_t result = name[0] == '-'
                         ? sl_wait_queue_co(&queue)
                         : sl_wait_queue_until_co(&queue, (uint64_t)(name[0] - '0') * 1000);
    note(result == -ETIMEDOUT ? '!' : (char)('0' + result));
    note(name[1]);
}

static void test_queue_is_fair(void **state)
{
    sl_wait_queue_init(&queue);
    assert_false(sl_wait_queue_wake_one(&queue, 1));
    spawn(queue_co, (void *)"-a");
    spawn(queue_co, (void *)"-b");
    spawn(queue_co, (void *)"-c");
    settle(reactor);
    assert_true(sl_wait_queue_wake_one(&queue, 1));
    spawn(queue_co, (void *)"-d"); /* queues behind those that wait */
    settle(reactor);
    assert_string_equal(trace, "1a");
    assert_int_equal(sl_wait_queue_wake_all(&queue, 2), 3);
    assert_true(sl_wait_queue_is_empty(&queue));
    settle(reactor);
    assert_string_equal(trace, "1a2b2c2d");
}

static void test_queue_deadline(void **state)
{
    sl_wait_queue_init(&queue);
    spawn(queue_co, (void *)"9a");
    spawn(queue_co, (void *)"2b");
    spawn(queue_co, (void *)"9c");
    settle(reactor);
    engine.now_ns = 2000; /* b leaves from the middle */
    settle(reactor);
    assert_string_equal(trace, "!b");
    assert_true(sl_wait_queue_wake_one(&queue, 1));
    engine.now_ns = 9000; /* a was woken first, c was not: one wake-up, one time-out */
    settle(reactor);
    assert_string_equal(trace, "!b1a!c");
    assert_true(sl_wait_queue_is_empty(&queue));
    assert_int_equal(sl_reactor_next_deadline_ns(reactor), UINT64_MAX);
}

/* ---- a random run ---- */

struct world {
    uint64_t random;
    struct sl_wait_queue queue;
    uint64_t woken, received, timed_out, hash;
    bool stop;
};

static void hash_in(struct world *world, uint64_t value)
{
    world->hash = (world->hash ^ value) * UINT64_C(0x100000001b3);
}

static void random_waiter_co(void *argument)
{
    struct world *world = argument;
    while (!world->stop) {
        uint64_t now_ns = sl_reactor_now_ns(reactor);
        int64_t result =
            test_random(&world->random) % 4 == 0
                ? sl_wait_queue_co(&world->queue)
                : sl_wait_queue_until_co(&world->queue, now_ns + test_random(&world->random) % 64);
        if (result == -ETIMEDOUT)
            world->timed_out++;
        else
            world->received++;
        hash_in(world, (uint64_t)result + sl_reactor_now_ns(reactor));
        if (test_random(&world->random) % 8 == 0)
            sl_sleep_co(test_random(&world->random) % 32);
    }
}

static void random_waker_co(void *argument)
{
    struct world *world = argument;
    for (unsigned i = 0; i < 5000; i++) {
        if (test_random(&world->random) % 16 == 0)
            world->woken += sl_wait_queue_wake_all(&world->queue, (int64_t)i);
        else
            world->woken += sl_wait_queue_wake_one(&world->queue, (int64_t)i);
        if (test_random(&world->random) % 2 == 0)
            sl_yield_co();
        else
            sl_sleep_co(test_random(&world->random) % 32);
    }
    world->stop = true;
    world->woken += sl_wait_queue_wake_all(&world->queue, 0);
}

static struct world random_run(uint64_t seed)
{
    struct world world = {.random = seed};
    sl_wait_queue_init(&world.queue);
    engine.now_ns = 1000;
    for (unsigned i = 0; i < 40; i++)
        spawn(random_waiter_co, &world);
    spawn(random_waker_co, &world);
    while (alive() > 0) {
        settle(reactor);
        uint64_t next_ns = sl_reactor_next_deadline_ns(reactor);
        if (next_ns != UINT64_MAX)
            engine.now_ns = next_ns;
        else
            assert_int_equal(alive(), 0); /* nobody is left waiting for ever */
    }
    return world;
}

static void test_random_run(void **state)
{
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct world first = random_run(seed), second = random_run(seed);
        assert_true(first.timed_out > 100);
        assert_true(first.woken > 1000);
        assert_int_equal(first.received, first.woken);
        assert_int_equal(second.hash, first.hash); /* the same seed, the same run */
        assert_int_equal(second.received, first.received);
        assert_int_equal(second.timed_out, first.timed_out);
    }
}

/* ---- calls between reactors ---- */

struct call_case {
    struct sl_reactor *there;
    struct sl_reactor *seen[2];
    int64_t result[2];
};

static int64_t double_co(void *argument)
{
    struct call_case *c = argument;
    c->seen[c->seen[0] != NULL] = sl_reactor_self();
    sl_yield_co();
    return 42;
}

static void caller_co(void *argument)
{
    struct call_case *c = argument;
    c->result[0] = sl_reactor_call_co(c->there, double_co, c);
    assert_ptr_equal(sl_reactor_self(), reactor);
    c->result[1] = sl_reactor_call_co(reactor, double_co, c);
}

static void test_call(void **state)
{
    struct virtual_engine other = {.now_ns = 1};
    struct call_case c = {.there = virtual_reactor(&other, 1)};
    spawn(caller_co, &c);
    bool busy;
    do {
        busy = sl_reactor_step(reactor);
        busy |= sl_reactor_step(c.there);
    } while (busy);
    assert_int_equal(alive(), 0);
    assert_ptr_equal(c.seen[0], c.there);
    assert_ptr_equal(c.seen[1], reactor);
    assert_int_equal(c.result[0], 42);
    assert_int_equal(c.result[1], 42);
    sl_reactor_destroy(c.there);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_order),
        TEST(test_many),
        TEST(test_stacks_are_used_again),
#ifndef TEST_IS_SANITIZED
        TEST(test_broken_invariants_end_the_process),
#endif
        TEST(test_wait),
        TEST(test_nested),
        TEST(test_deadline_passes),
        TEST(test_event_before_deadline),
        TEST(test_event_right_after_deadline),
        TEST(test_deadline_in_the_past_and_never),
        TEST(test_sleep),
        TEST(test_queue_is_fair),
        TEST(test_queue_deadline),
        TEST(test_random_run),
        TEST(test_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
