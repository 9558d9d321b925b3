/*
 * Goal: mail is delivered once and in order, a reactor that sleeps is woken and one that does not
 * is left alone, and no wake-up is lost.
 * Method: a virtual engine for what happens in which order; real threads over an engine that really
 * sleeps (eventfd) for the races: a lost wake-up hangs them, and the alarm fails the test. Clean
 * under TSan.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/call.h"
#include "core/coroutine.h"
#include "core/reactor.h"
#include "engines.h"

static char trace[128];

static void note(char c)
{
    size_t length = strlen(trace);
    assert_true(length + 1 < sizeof(trace));
    trace[length] = c;
    trace[length + 1] = '\0';
}

static int clear(void **state)
{
    memset(trace, 0, sizeof(trace));
    alarm(50); /* what hangs has lost a wake-up */
    return 0;
}

/* ---- under virtual time ---- */

struct letter {
    struct sl_mail mail;
    char name;
    struct sl_reactor *again; /* posts itself there once more */
};

static void letter_deliver(struct sl_mail *mail)
{
    struct letter *letter = sl_container_of(mail, struct letter, mail);
    note(letter->name);
    struct sl_reactor *again = letter->again;
    letter->again = NULL;
    if (again != NULL)
        sl_reactor_post(again, mail);
}

static void test_mail_order(void **state)
{
    struct virtual_engine engine = {.now_ns = 1};
    struct sl_reactor *reactor = virtual_reactor(&engine, 3);
    struct letter letters[4];
    for (unsigned i = 0; i < 4; i++) {
        letters[i] = (struct letter){{.deliver = letter_deliver}, (char)('a' + i), NULL};
        letters[i].again = i == 1 ? reactor : NULL;
        sl_reactor_post(reactor, &letters[i].mail);
    }
    assert_string_equal(trace, "");
    assert_true(sl_reactor_step(reactor));
    assert_string_equal(trace, "abcd"); /* what is posted meanwhile is for the next turn */
    assert_true(sl_reactor_step(reactor));
    assert_string_equal(trace, "abcdb");
    assert_false(sl_reactor_step(reactor));
    assert_int_equal(engine.notify_count, 0); /* it was awake */
    assert_int_equal(sl_reactor_index(reactor), 3);
    sl_reactor_destroy(reactor);
    sl_reactor_destroy(NULL);
}

struct step_case {
    struct virtual_engine engine;
    struct sl_reactor *reactor;
    struct sl_poller poller;
    struct sl_timer timer;
    struct letter letter;
    struct letter late;
    unsigned polls;
    bool work_while_arming;
};

static unsigned engine_poll(struct virtual_engine *engine)
{
    note('e');
    return 0;
}

static unsigned poller_poll(struct sl_poller *poller)
{
    note('p');
    return 0;
}

static void timer_fire(struct sl_timer *timer)
{
    note('t');
}

static void coroutine_co(void *argument)
{
    note('c');
}

static void test_turn(void **state)
{
    struct step_case s = {.engine = {.now_ns = 7, .poll = engine_poll}};
    s.reactor = virtual_reactor(&s.engine, 0);
    s.letter = (struct letter){{.deliver = letter_deliver}, 'm', NULL};
    s.poller.poll = poller_poll;
    sl_reactor_poller_add(s.reactor, &s.poller);
    sl_timer_init(&s.timer, timer_fire);
    sl_timer_arm(s.reactor, &s.timer, 5);
    assert_int_equal(sl_co_spawn(s.reactor, coroutine_co, NULL), 0);
    sl_reactor_post(s.reactor, &s.letter.mail);
    assert_true(sl_reactor_step(s.reactor));
    assert_string_equal(trace, "mtepc");
    sl_reactor_poller_remove(s.reactor, &s.poller);
    assert_false(sl_reactor_step(s.reactor));
    assert_string_equal(trace, "mtepce");
    assert_int_equal(sl_reactor_random_u64(s.reactor), UINT64_C(0x5a5a5a5a5a5a5a5a));
    struct sl_reactor_statistics statistics;
    sl_reactor_statistics(s.reactor, &statistics);
    assert_int_equal(statistics.turn_count, 2);
    assert_int_equal(statistics.busy_turn_count, 1);
    assert_int_equal(statistics.sleep_count, 0);
    sl_reactor_destroy(s.reactor);
}

static unsigned once_poll(struct sl_poller *poller)
{
    struct step_case *s = sl_container_of(poller, struct step_case, poller);
    note('o');
    sl_reactor_poller_remove(s->reactor, poller);
    return 1;
}

static void test_poller_removes_itself(void **state)
{
    struct step_case s = {.engine = {.now_ns = 7}};
    struct sl_poller second = {.poll = poller_poll};
    s.reactor = virtual_reactor(&s.engine, 0);
    s.poller.poll = once_poll;
    sl_reactor_poller_add(s.reactor, &s.poller);
    sl_reactor_poller_add(s.reactor, &second);
    assert_true(sl_reactor_step(s.reactor));
    assert_false(sl_reactor_step(s.reactor));
    assert_string_equal(trace, "opp");
    sl_reactor_poller_remove(s.reactor, &second);
    sl_reactor_destroy(s.reactor);
}

/* ---- sleeping, under virtual time: each turn is 1 us ---- */

static unsigned tick(struct virtual_engine *engine)
{
    engine->now_ns += 1000;
    return 0;
}

static bool poller_arm(struct sl_poller *poller)
{
    struct step_case *s = sl_container_of(poller, struct step_case, poller);
    note('A');
    bool work = s->work_while_arming;
    s->work_while_arming = false;
    return !work;
}

static void poller_disarm(struct sl_poller *poller)
{
    note('D');
}

static unsigned silent_poll(struct sl_poller *poller)
{
    return 0;
}

static void asleep(struct virtual_engine *engine)
{
    struct step_case *s = engine->user;
    note('S');
    /* A sender from outside, while it sleeps. */
    unsigned notified = engine->notify_count;
    if (s->late.mail.next == NULL && s->late.name != 0) {
        sl_reactor_post(s->reactor, &s->late.mail);
        assert_int_equal(engine->notify_count, notified + 1);
        sl_reactor_post(s->reactor, &s->letter.mail); /* it is being woken: no second notify */
        assert_int_equal(engine->notify_count, notified + 1);
        s->late.name = 'l';
    }
}

static void stop_fire(struct sl_timer *timer)
{
    struct step_case *s = sl_container_of(timer, struct step_case, timer);
    sl_reactor_stop(s->reactor);
}

static void late_deliver(struct sl_mail *mail)
{
    struct step_case *s = sl_container_of(mail, struct step_case, late.mail);
    note('l');
    sl_reactor_stop(s->reactor);
}

static void test_sleep_protocol(void **state)
{
    struct step_case s = {.engine = {.now_ns = 1000, .poll = tick, .asleep = asleep},
                          .work_while_arming = true};
    s.engine.user = &s;
    s.reactor = virtual_reactor(&s.engine, 0);
    s.poller = (struct sl_poller){.poll = silent_poll, .arm = poller_arm, .disarm = poller_disarm};
    sl_reactor_poller_add(s.reactor, &s.poller);
    s.late = (struct letter){{.deliver = late_deliver}, '-', NULL};
    s.letter = (struct letter){{.deliver = letter_deliver}, 'm', NULL};
    sl_timer_init(&s.timer, stop_fire);
    sl_timer_arm(s.reactor, &s.timer, UINT64_MAX - 1);
    sl_reactor_run(s.reactor);
    /* Work came while arming: no sleep. Then a sleep, ended by mail. */
    assert_string_equal(trace, "ADASDlm");
    assert_int_equal(s.engine.sleep_count, 1);
    assert_int_equal(s.engine.sleep_deadline_ns, UINT64_MAX - 1);
    sl_timer_cancel(s.reactor, &s.timer);
    sl_reactor_poller_remove(s.reactor, &s.poller);
    sl_reactor_destroy(s.reactor);
}

static bool arm_that_posts(struct sl_poller *poller)
{
    struct step_case *s = sl_container_of(poller, struct step_case, poller);
    note('A');
    sl_reactor_post(s->reactor, &s->late.mail);
    return true;
}

static void test_mail_while_arming(void **state)
{
    struct step_case s = {.engine = {.now_ns = 1000, .poll = tick, .asleep = asleep}};
    s.engine.user = &s;
    s.reactor = virtual_reactor(&s.engine, 0);
    s.poller = (struct sl_poller){.poll = silent_poll, .arm = arm_that_posts};
    s.late = (struct letter){{.deliver = late_deliver}, 0, NULL};
    sl_reactor_poller_add(s.reactor, &s.poller);
    sl_reactor_run(s.reactor);
    assert_string_equal(trace, "Al"); /* never asleep */
    sl_reactor_poller_remove(s.reactor, &s.poller);
    sl_reactor_destroy(s.reactor);
}

static void test_spin_before_sleep(void **state)
{
    struct step_case s = {.engine = {.now_ns = 1000, .poll = tick}};
    s.reactor = virtual_reactor(&s.engine, 0);
    sl_timer_init(&s.timer, stop_fire);
    sl_timer_arm(s.reactor, &s.timer, 500000);
    sl_reactor_run(s.reactor);
    struct sl_reactor_statistics statistics;
    sl_reactor_statistics(s.reactor, &statistics);
    assert_int_equal(statistics.sleep_count, 1);
    assert_int_equal(s.engine.sleep_deadline_ns, 500000);
    /* 50 us of turns of 1 us. */
    assert_in_range(statistics.turn_count, 50, 54);
    sl_reactor_destroy(s.reactor);
}

/* Asleep, time goes on by less than a spin: the peer answers as soon as it has the core. */
static void answer_at_once(struct virtual_engine *engine)
{
    struct step_case *s = engine->user;
    engine->now_ns += 5000;
    if (engine->sleep_count == 1000)
        sl_reactor_stop(s->reactor);
    else
        sl_timer_arm(s->reactor, &s->timer, engine->now_ns);
}

static void silent_fire(struct sl_timer *timer)
{
}

static void test_spin_in_vain_ends(void **state)
{
    struct step_case s = {.engine = {.now_ns = 1000, .poll = tick, .asleep = answer_at_once}};
    s.engine.user = &s;
    s.reactor = virtual_reactor(&s.engine, 0);
    sl_timer_init(&s.timer, silent_fire);
    sl_reactor_run(s.reactor);
    struct sl_reactor_statistics statistics;
    sl_reactor_statistics(s.reactor, &statistics);
    assert_int_equal(statistics.sleep_count, 1000);
    /* With each sleep a busy turn and one idle look; 94 us until the window is shut; 7 probes of
     * 50 us. Unadjusted, it would be 52 turns a sleep. */
    assert_in_range(statistics.turn_count, 2000, 2000 + 100 + 7 * 52);
    sl_reactor_destroy(s.reactor);
}

/* ---- N reactors in one thread ---- */

static struct sl_reactor *seen;

static void inner_co(void *argument)
{
    seen = sl_reactor_self();
}

static void outer_co(void *argument)
{
    struct sl_reactor *self = sl_reactor_self(), *inner = argument;
    sl_reactor_step(inner);
    assert_ptr_equal(seen, inner);
    assert_ptr_equal(sl_reactor_self(), self);
}

static void test_reactors_in_one_thread(void **state)
{
    struct virtual_engine engines[2] = {{.now_ns = 1}, {.now_ns = 2}};
    struct sl_reactor *outer = virtual_reactor(&engines[0], 0);
    struct sl_reactor *inner = virtual_reactor(&engines[1], 1);
    assert_int_equal(sl_co_spawn(outer, outer_co, inner), 0);
    assert_int_equal(sl_co_spawn(inner, inner_co, NULL), 0);
    assert_null(sl_reactor_self());
    settle(outer);
    assert_null(sl_reactor_self());
    assert_int_equal(sl_reactor_now_ns(inner), 2);
    sl_reactor_destroy(outer);
    sl_reactor_destroy(inner);
}

/* ---- threads ---- */

enum { SENDERS = 3, LETTERS = 20000 };

struct numbered {
    struct sl_mail mail;
    struct receiver *receiver;
    unsigned sender, number;
};

struct receiver {
    struct sleeping_engine engine;
    struct sl_reactor *reactor;
    unsigned next[SENDERS];
    unsigned received, disorder;
};

struct sender {
    struct receiver *receiver;
    struct numbered *letters;
    unsigned index;
};

static void numbered_deliver(struct sl_mail *mail)
{
    struct numbered *letter = sl_container_of(mail, struct numbered, mail);
    struct receiver *receiver = letter->receiver;
    receiver->disorder += letter->number != receiver->next[letter->sender]++;
    if (++receiver->received == SENDERS * LETTERS)
        sl_reactor_stop(receiver->reactor);
}

static void *sender_run(void *argument)
{
    struct sender *sender = argument;
    uint64_t random = sender->index + 1;
    for (unsigned i = 0; i < LETTERS; i++) {
        struct numbered *letter = &sender->letters[i];
        *letter =
            (struct numbered){{.deliver = numbered_deliver}, sender->receiver, sender->index, i};
        sl_reactor_post(sender->receiver->reactor, &letter->mail);
        if (test_random(&random) % 64 == 0)
            sched_yield(); /* lets the receiver fall asleep now and then */
    }
    return NULL;
}

static void *reactor_run(void *argument)
{
    sl_reactor_run(argument);
    return NULL;
}

static void test_senders(void **state)
{
    struct receiver receiver = {0};
    struct sl_reactor_config config = {.cpu = -1, .spin_ns = 1};
    sleeping_engine_init(&receiver.engine);
    receiver.reactor = sleeping_reactor(&receiver.engine, &config);
    pthread_t threads[SENDERS + 1];
    struct sender senders[SENDERS];
    assert_int_equal(pthread_create(&threads[SENDERS], NULL, reactor_run, receiver.reactor), 0);
    for (unsigned i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){&receiver, calloc(LETTERS, sizeof(struct numbered)), i};
        assert_non_null(senders[i].letters);
        assert_int_equal(pthread_create(&threads[i], NULL, sender_run, &senders[i]), 0);
    }
    for (unsigned i = 0; i <= SENDERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(receiver.received, SENDERS * LETTERS);
    assert_int_equal(receiver.disorder, 0);
    for (unsigned i = 0; i < SENDERS; i++)
        free(senders[i].letters);
    sl_reactor_destroy(receiver.reactor);
    sleeping_engine_fini(&receiver.engine);
}

/* One mail flies between two reactors that sleep whenever they do not hold it: each lost wake-up
 * would be the last. */
struct ball {
    struct sl_mail mail;
    struct sl_reactor *reactors[2];
    unsigned at;
    unsigned left;
};

static void ball_deliver(struct sl_mail *mail)
{
    struct ball *ball = sl_container_of(mail, struct ball, mail);
    if (ball->left-- == 0) {
        sl_reactor_stop(ball->reactors[0]);
        sl_reactor_stop(ball->reactors[1]);
        return;
    }
    ball->at = !ball->at;
    sl_reactor_post(ball->reactors[ball->at], mail);
}

static void ping_pong(uint64_t spin_ns, bool poll_always, unsigned rounds)
{
    struct sleeping_engine engines[2];
    struct sl_reactor_config config = {.cpu = -1, .spin_ns = spin_ns, .poll_always = poll_always};
    struct ball ball = {.mail.deliver = ball_deliver, .left = rounds};
    pthread_t threads[2];
    for (unsigned i = 0; i < 2; i++) {
        sleeping_engine_init(&engines[i]);
        ball.reactors[i] = sleeping_reactor(&engines[i], &config);
    }
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reactor_run, ball.reactors[i]), 0);
    sl_reactor_post(ball.reactors[0], &ball.mail);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(engines[i].sleep_count == 0, poll_always);
        sl_reactor_destroy(ball.reactors[i]);
        sleeping_engine_fini(&engines[i]);
    }
}

static void test_no_wakeup_is_lost(void **state)
{
    ping_pong(1, false, 20000);
    ping_pong(3000, false, 20000); /* falls asleep about when the answer comes */
}

static void test_poll_always(void **state)
{
    ping_pong(1, true, 200);
}

static int64_t answer_co(void *argument)
{
    sl_sleep_co(1000);
    return *(int64_t *)argument + 1;
}

struct calls {
    struct sl_reactor *here, *there;
    unsigned *left;
    int64_t sum;
};

static void calls_co(void *argument)
{
    struct calls *calls = argument;
    for (int64_t i = 0; i < 200; i++)
        calls->sum += sl_reactor_call_co(calls->there, answer_co, &i) == i + 1;
    if (--*calls->left == 0) {
        sl_reactor_stop(calls->there);
        sl_reactor_stop(calls->here);
    }
}

static void test_calls_between_threads(void **state)
{
    struct sleeping_engine engines[2];
    struct sl_reactor *reactors[2];
    struct sl_reactor_config config = {.cpu = -1, .spin_ns = 2000};
    struct calls calls[8];
    unsigned left = SL_COUNT_OF(calls);
    pthread_t threads[2];
    for (unsigned i = 0; i < 2; i++) {
        sleeping_engine_init(&engines[i]);
        config.index = i;
        reactors[i] = sleeping_reactor(&engines[i], &config);
    }
    for (unsigned i = 0; i < SL_COUNT_OF(calls); i++) {
        calls[i] = (struct calls){reactors[0], reactors[1], &left, 0};
        assert_int_equal(sl_co_spawn(reactors[0], calls_co, &calls[i]), 0);
    }
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reactor_run, reactors[i]), 0);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (unsigned i = 0; i < SL_COUNT_OF(calls); i++)
        assert_int_equal(calls[i].sum, 200);
    for (unsigned i = 0; i < 2; i++) {
        sl_reactor_destroy(reactors[i]);
        sleeping_engine_fini(&engines[i]);
    }
}

/* A stop reaches a reactor that sleeps for ever, and one that has not begun. */
static void test_stop(void **state)
{
    for (unsigned i = 0; i < 50; i++) {
        struct sleeping_engine engine;
        struct sl_reactor_config config = {.cpu = -1, .spin_ns = 1};
        sleeping_engine_init(&engine);
        struct sl_reactor *reactor = sleeping_reactor(&engine, &config);
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, reactor_run, reactor), 0);
        struct timespec pause = {.tv_nsec = (long)(i % 8) * 100000};
        nanosleep(&pause, NULL);
        sl_reactor_stop(reactor);
        assert_int_equal(pthread_join(thread, NULL), 0);
        sl_reactor_destroy(reactor);
        sleeping_engine_fini(&engine);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, clear)
    const struct CMUnitTest tests[] = {
        TEST(test_mail_order),
        TEST(test_turn),
        TEST(test_poller_removes_itself),
        TEST(test_sleep_protocol),
        TEST(test_mail_while_arming),
        TEST(test_spin_before_sleep),
        TEST(test_spin_in_vain_ends),
        TEST(test_reactors_in_one_thread),
        TEST(test_senders),
        TEST(test_no_wakeup_is_lost),
        TEST(test_poll_always),
        TEST(test_calls_between_threads),
        TEST(test_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
