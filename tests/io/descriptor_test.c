/*
 * Goal: descriptors and threads wake a reactor, exactly when they should, and nothing stays behind.
 * Method: pipes and eventfds rung by a child process and by a second thread while the reactor
 * sleeps; deadlines, cancellation, destruction with waits armed. Run under TSan for notify() and
 * mail.
 */
#include "harness.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>

static void nap(uint64_t duration_ns)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)duration_ns}, NULL);
}

/* ---- waits ---- */

struct waiter {
    struct world *world;
    int descriptor;
    uint64_t deadline_ns;
    int result;
};

static void waiter_co(void *argument)
{
    struct waiter *waiter = argument;
    waiter->result =
        sl_descriptor_wait_co(waiter->world->io, waiter->descriptor, POLLIN, waiter->deadline_ns);
    world_leave(waiter->world);
}

static void wait_main_co(struct world *world)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    /* Time-out, and not before its time. */
    uint64_t deadline_ns = world_deadline_ns(world, 30 * SL_NS_PER_MS);
    assert_int_equal(sl_descriptor_wait_co(world->io, ends[0], POLLIN, deadline_ns), -ETIMEDOUT);
    assert_true(sl_reactor_clock_ns(world->reactor) >= deadline_ns);
    /* A deadline that has passed already. */
    assert_int_equal(sl_descriptor_wait_co(world->io, ends[0], POLLIN, 1), -ETIMEDOUT);

    /* Two waits on one descriptor end by its cancellation; one on another goes on. */
    int others[2];
    assert_int_equal(pipe(others), 0);
    struct waiter waiters[3] = {
        {world, ends[0], UINT64_MAX, 0},
        {world, ends[0], world_deadline_ns(world, 10 * SL_NS_PER_S), 0},
        {world, others[0], UINT64_MAX, 0},
    };
    for (unsigned i = 0; i < 3; i++)
        world_spawn(world, waiter_co, &waiters[i]);
    sl_sleep_co(5 * SL_NS_PER_MS);
    sl_descriptor_cancel(world->io, ends[0]);
    sl_sleep_co(5 * SL_NS_PER_MS);
    assert_int_equal(waiters[0].result, -ECANCELED);
    assert_int_equal(waiters[1].result, -ECANCELED);
    assert_int_equal(waiters[2].result, 0);
    assert_int_equal(write(others[1], "x", 1), 1);
    world_join_co(world);
    assert_true((waiters[2].result & POLLIN) != 0);

    /* Ready already; then a hang-up; then a descriptor that is none. */
    assert_true((sl_descriptor_wait_co(world->io, others[0], POLLIN, UINT64_MAX) & POLLIN) != 0);
    close(ends[1]);
    assert_true((sl_descriptor_wait_co(world->io, ends[0], POLLIN, UINT64_MAX) & POLLHUP) != 0);
    assert_int_equal(sl_descriptor_wait_co(world->io, 9999, POLLIN, UINT64_MAX), -EBADF);
    close(ends[0]);
    close(others[0]);
    close(others[1]);
}

static void test_wait(void **state)
{
    struct world world;
    world_create(&world, 0);
    world_run(&world, wait_main_co, NULL);
    world_destroy(&world);
}

/* ---- watches ---- */

static void watch_ready(void *argument)
{
    ++*(unsigned *)argument;
}

/* Rings once for each arming while the descriptor can be read; never after it was destroyed. */
static void watch_main_co(struct world *world)
{
    int handle = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    uint64_t one = 1;
    unsigned count = 0;
    struct sl_watch *watch;
    assert_int_equal(sl_watch_create(world->io, handle, watch_ready, &count, &watch), 0);
    assert_int_equal(write(handle, &one, sizeof(one)), sizeof(one));
    sl_sleep_co(3 * SL_NS_PER_MS);
    assert_int_equal(count, 0); /* not armed */
    for (unsigned i = 1; i <= 3; i++) {
        sl_watch_arm(watch);
        sl_watch_arm(watch);
        sl_sleep_co(3 * SL_NS_PER_MS);
        assert_int_equal(count, i);
    }
    assert_int_equal(read(handle, &one, sizeof(one)), sizeof(one));
    sl_watch_arm(watch);
    sl_sleep_co(3 * SL_NS_PER_MS);
    assert_int_equal(count, 3);
    assert_int_equal(write(handle, &one, sizeof(one)), sizeof(one));
    sl_sleep_co(3 * SL_NS_PER_MS);
    assert_int_equal(count, 4);
    /* Destroyed while armed, and ready. */
    sl_watch_arm(watch);
    sl_watch_destroy(watch);
    sl_sleep_co(3 * SL_NS_PER_MS);
    assert_int_equal(count, 4);
    /* The io goes with one armed. */
    assert_int_equal(read(handle, &one, sizeof(one)), sizeof(one));
    assert_int_equal(sl_watch_create(world->io, handle, watch_ready, &count, &watch), 0);
    sl_watch_arm(watch);
    sl_sleep_co(1 * SL_NS_PER_MS);
    close(handle);
}

static void test_watch(void **state)
{
    struct world world;
    world_create(&world, 0);
    world_run(&world, watch_main_co, NULL);
    world_destroy(&world);
}

/* ---- doorbells ---- */

struct bell {
    struct sl_doorbell *doorbell;
    unsigned rung;
    unsigned wanted;
    struct sl_wait wait;
    bool destroy_inside;
};

static void bell_ring(void *argument)
{
    struct bell *bell = argument;
    if (++bell->rung == bell->wanted)
        sl_wait_wake(&bell->wait, 0);
    if (bell->destroy_inside)
        sl_doorbell_destroy(bell->doorbell);
}

static void bell_main_co(struct world *world)
{
    enum { RINGS = 20 };
    int handle = eventfd(0, EFD_CLOEXEC);
    int child_handle = dup(handle);
    struct bell bell = {.wanted = RINGS};
    assert_int_equal(sl_doorbell_create(world->io, handle, bell_ring, &bell, &bell.doorbell), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        uint64_t one = 1;
        bool good = true;
        for (unsigned i = 0; i < RINGS; i++) {
            /* Two in one go would ring once: the one before is awaited, on a slow machine, too. */
            do
                nap(3 * SL_NS_PER_MS);
            while (poll(&(struct pollfd){.fd = child_handle, .events = POLLIN}, 1, 0) != 0);
            good &= write(child_handle, &one, sizeof(one)) == sizeof(one);
        }
        _exit(good ? 0 : 1);
    }
    (void)sl_wait_co(&bell.wait);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    /* The counter was read, so a poll finds nothing. */
    assert_int_equal(poll(&(struct pollfd){.fd = child_handle, .events = POLLIN}, 1, 0), 0);
    assert_int_equal(bell.rung, RINGS);

    /* What came before it was made rings as well; and many in one go ring once. */
    uint64_t three = 3;
    int early = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(write(early, &three, sizeof(three)), sizeof(three));
    struct bell second = {.wanted = 1, .destroy_inside = true};
    assert_int_equal(sl_doorbell_create(world->io, early, bell_ring, &second, &second.doorbell), 0);
    (void)sl_wait_co(&second.wait);
    sl_sleep_co(2 * SL_NS_PER_MS);
    assert_int_equal(second.rung, 1);

    /* Made and destroyed before the ring saw it; and rung after it was destroyed. */
    struct bell third = {.wanted = 1};
    assert_int_equal(
        sl_doorbell_create(world->io, eventfd(0, EFD_CLOEXEC), bell_ring, &third, &third.doorbell),
        0);
    sl_doorbell_destroy(third.doorbell);
    sl_doorbell_destroy(bell.doorbell);
    assert_int_equal(write(child_handle, &three, sizeof(three)), sizeof(three));
    sl_sleep_co(5 * SL_NS_PER_MS);
    assert_int_equal(bell.rung, RINGS);
    assert_int_equal(third.rung, 0);
    close(child_handle);
}

static void test_doorbell(void **state)
{
    struct world world;
    world_create(&world, 0);
    world_run(&world, bell_main_co, NULL);
    world_destroy(&world);
}

/* A peer that empties the eventfd itself must not hold the reactor up. */
static void stolen_main_co(struct world *world)
{
    int handle = eventfd(0, EFD_CLOEXEC);
    int peer = dup(handle);
    struct bell bell = {.wanted = 1};
    assert_int_equal(sl_doorbell_create(world->io, handle, bell_ring, &bell, &bell.doorbell), 0);
    sl_sleep_co(2 * SL_NS_PER_MS);
    uint64_t count = 1;
    assert_int_equal(write(peer, &count, sizeof(count)), sizeof(count));
    assert_int_equal(read(peer, &count, sizeof(count)), sizeof(count));
    sl_sleep_co(5 * SL_NS_PER_MS);
    sl_doorbell_destroy(bell.doorbell);
    close(peer);
}

static void test_doorbell_stolen(void **state)
{
    struct world world;
    world_create(&world, 0);
    world_run(&world, stolen_main_co, NULL);
    world_destroy(&world);
}

/* A peer that passes a file (which is ready for ever) instead, or nothing. */
static void wrong_main_co(struct world *world)
{
    FILE *file = tmpfile();
    struct bell bell = {.wanted = 1};
    assert_non_null(file);
    assert_int_equal(
        sl_doorbell_create(world->io, dup(fileno(file)), bell_ring, &bell, &bell.doorbell),
        -EINVAL);
    fclose(file);
    assert_int_equal(sl_doorbell_create(world->io, 9999, bell_ring, &bell, &bell.doorbell),
                     -EINVAL);
}

static void test_doorbell_wrong(void **state)
{
    struct world world;
    world_create(&world, 0);
    world_run(&world, wrong_main_co, NULL);
    world_destroy(&world);
}

static void armed_main_co(struct world *world)
{
    sl_sleep_co(SL_NS_PER_MS);
}

/* The io goes with a doorbell armed, on the thread that ran it and on another. */
static void test_destroy_armed(void **state)
{
    struct world world;
    struct bell bell = {.wanted = 1};
    world_create(&world, 0);
    assert_int_equal(
        sl_doorbell_create(world.io, eventfd(0, EFD_CLOEXEC), bell_ring, &bell, &bell.doorbell), 0);
    world_run(&world, armed_main_co, NULL);
    sl_doorbell_destroy(bell.doorbell);
    world_destroy(&world);
    assert_int_equal(bell.rung, 0);
}

/* ---- threads ---- */

enum { MAIL_COUNT = 2000 };

struct letter {
    struct sl_mail mail;
    struct post *post;
};
struct post {
    struct world *world;
    struct sl_wait all_here;
    unsigned received;
    struct letter letters[MAIL_COUNT];
};

static void letter_deliver(struct sl_mail *mail)
{
    struct letter *letter = sl_container_of(mail, struct letter, mail);
    if (++letter->post->received == MAIL_COUNT)
        sl_wait_wake(&letter->post->all_here, 0);
}

static void *post_thread(void *argument)
{
    struct post *post = argument;
    for (unsigned i = 0; i < MAIL_COUNT; i++) {
        post->letters[i].mail.deliver = letter_deliver;
        post->letters[i].post = post;
        sl_reactor_post(post->world->reactor, &post->letters[i].mail);
        if (i % 20 == 0)
            nap(i % 100 == 0 ? 2 * SL_NS_PER_MS : 50 * SL_NS_PER_US);
    }
    return NULL;
}

static void post_main_co(struct world *world)
{
    struct post *post = world->argument;
    (void)sl_wait_co(&post->all_here);
}

/* The reactor sleeps with no timer at all, and every mail of another thread wakes it. */
static void test_notify(void **state)
{
    struct world world;
    pthread_t thread;
    struct post *post = calloc(1, sizeof(*post));
    world_create(&world, 0);
    post->world = &world;
    assert_int_equal(pthread_create(&thread, NULL, post_thread, post), 0);
    world_run(&world, post_main_co, post);
    pthread_join(thread, NULL);
    struct sl_reactor_statistics statistics;
    sl_reactor_statistics(world.reactor, &statistics);
    assert_int_equal(post->received, MAIL_COUNT);
    assert_true(statistics.sleep_count > 0);
    world_destroy(&world);
    free(post);
}

static void *run_thread(void *argument)
{
    sl_reactor_run(((struct world *)argument)->reactor);
    return NULL;
}

static void deadline_co(void *argument)
{
    struct world *world = argument;
    struct sl_wait never;
    sl_wait_init(&never);
    assert_false(sl_wait_until_co(&never, world_deadline_ns(world, 20 * SL_NS_PER_MS)));
}

/* Made here, run there, stopped and destroyed here. */
static void test_other_thread(void **state)
{
    struct world world;
    struct bell bell = {.wanted = 1};
    pthread_t thread;
    world_create(&world, 0);
    assert_int_equal(
        sl_doorbell_create(world.io, eventfd(0, EFD_CLOEXEC), bell_ring, &bell, &bell.doorbell), 0);
    assert_int_equal(sl_co_spawn(world.reactor, deadline_co, &world), 0);
    assert_int_equal(pthread_create(&thread, NULL, run_thread, &world), 0);
    nap(60 * SL_NS_PER_MS);
    sl_reactor_stop(world.reactor);
    pthread_join(thread, NULL);
    world_destroy(&world);
}

int main(void)
{
    if (world_is_missing())
        return TEST_SKIP;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wait),           cmocka_unit_test(test_watch),
        cmocka_unit_test(test_doorbell),       cmocka_unit_test(test_doorbell_stolen),
        cmocka_unit_test(test_doorbell_wrong), cmocka_unit_test(test_destroy_armed),
        cmocka_unit_test(test_notify),         cmocka_unit_test(test_other_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
