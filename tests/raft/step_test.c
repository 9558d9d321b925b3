/*
 * Goal: single steps of the core, to the nanosecond and to the entry: what it takes for a message
 * that no replica sends, whose votes count, what it says when, what it writes. Method: one group is
 * fed by hand; its actions are looked at.
 *
 * Replica 1 on node 1 is it; 2 and 3 are voters, 4 is a learner.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "raft/private.h"
#include "tests/raft/hand.h"

/* ---- messages */

static void insane_messages_are_complained_of(void **state)
{
    const struct sl_raft_message good = {.kind = SL_RAFT_APPEND,
                                         .from = {2, 2},
                                         .to = {1, 1},
                                         .term = {3},
                                         .index = {4},
                                         .index_term = {2},
                                         .entry_term = {2},
                                         .count = 1,
                                         .commit = {1}};
    static struct sl_raft_message bad[16];
    for (unsigned i = 0; i < SL_COUNT_OF(bad); i++)
        bad[i] = good;
    bad[0].kind = 0;
    bad[1].kind = SL_RAFT_NOT_MEMBER + 1;
    bad[2].from.id = 0;
    bad[3].term = sl_term_of(0);
    bad[4].term = sl_term_of(SL_POSITION_MAX + 1);
    bad[5].index = sl_index_of(SL_POSITION_MAX + 1);
    bad[6].hint = sl_index_of(SL_POSITION_MAX + 1);
    bad[7].index_term = sl_term_of(4);
    bad[8].index = sl_index_of(0);
    bad[9].index_term = sl_term_of(0);
    bad[10].entry_term = sl_term_of(1);
    bad[11].entry_term = sl_term_of(4);
    bad[12].index = sl_index_of(0), bad[12].index_term = bad[12].entry_term = sl_term_of(0);
    bad[13].kind = SL_RAFT_VOTE, bad[13].index_term = sl_term_of(4);
    bad[14].kind = SL_RAFT_APPEND_ANSWER, bad[14].hint = sl_index_of(SL_POSITION_MAX + 1);
    bad[15].kind = SL_RAFT_TIMEOUT_NOW, bad[15].from.id = 0;
    make(1, NULL, 0);
    for (unsigned i = 0; i < SL_COUNT_OF(bad); i++) {
        feed((struct sl_raft_event){.kind = SL_RAFT_MESSAGE, .message = {.message = &bad[i]}});
        if (count(SL_RAFT_DO_COMPLAIN) != 1 || output.count != 1 || raft->term.value != 1)
            fail_msg("message %u is taken", i);
    }
    feed((struct sl_raft_event){.kind = SL_RAFT_MESSAGE, .message = {.message = &good}});
    assert_int_equal(count(SL_RAFT_DO_COMPLAIN), 0);
    assert_int_equal(raft->term.value, 3);
}

static void insane_configurations_are_complained_of(void **state)
{
    const struct sl_raft_message append = {.kind = SL_RAFT_APPEND,
                                           .from = {2, 2},
                                           .to = {1, 1},
                                           .term = {3},
                                           .entry_term = {2},
                                           .count = 3};
    static const struct {
        uint64_t index[2];
        unsigned members[2];
    } bad[] = {{{0, 0}, {4, 4}}, {{4, 0}, {4, 4}}, {{1, 0}, {99, 4}}, {{2, 2}, {4, 4}},
               {{2, 1}, {4, 4}}, {{2, 4}, {4, 4}}, {{2, 3}, {4, 99}}};
    make(1, NULL, 0);
    for (unsigned i = 0; i <= SL_COUNT_OF(bad); i++) {
        struct sl_raft_config configs[2] = {config, config};
        bool is_good = i == SL_COUNT_OF(bad);
        for (unsigned j = 0; j < 2; j++) {
            configs[j].index = sl_index_of(is_good ? j * 2 + 1 : bad[i].index[j]);
            configs[j].count = is_good ? 4 : bad[i].members[j];
        }
        feed((struct sl_raft_event){
            .kind = SL_RAFT_MESSAGE,
            .message = {.message = &append,
                        .configs = configs,
                        .config_count = is_good || bad[i].index[1] != 0 ? 2 : 1}});
        if (count(SL_RAFT_DO_COMPLAIN) != !is_good)
            fail_msg("configurations %u", i);
    }
    assert_int_equal(sl_raft_get_config(raft)->index.value, 3);
    assert_int_equal(raft->configs[1].index.value, 1);
    assert_int_equal(count(SL_RAFT_DO_CONFIG), 2);
}

static void strangers_are_told(void **state)
{
    make(1, NULL, 0);
    for (uint32_t kind = SL_RAFT_APPEND; kind <= SL_RAFT_TIMEOUT_NOW; kind++) {
        struct sl_raft_message m = {.kind = kind, .from = {2, 2}, .to = {55, 1}, .term = {9}};
        feed((struct sl_raft_event){.kind = SL_RAFT_MESSAGE, .message = {.message = &m}});
        assert_int_equal(raft->term.value, 1);
        if (kind == SL_RAFT_APPEND || kind == SL_RAFT_VOTE) {
            assert_int_equal(sent()->kind, SL_RAFT_NOT_MEMBER);
            assert_true(sent()->from.id == 55 && sent()->to.id == 2);
        } else {
            assert_int_equal(output.count, 0);
        }
    }
    lead(1);
    hear(1, (struct sl_raft_message){.kind = SL_RAFT_NOT_MEMBER});
    assert_int_equal(the(SL_RAFT_DO_GONE)->peer.id, 1);
    hear(3, (struct sl_raft_message){.kind = SL_RAFT_NOT_MEMBER});
    assert_int_equal(the(SL_RAFT_DO_GONE)->peer.id, 3);
    hear(9, (struct sl_raft_message){.kind = SL_RAFT_NOT_MEMBER});
    assert_int_equal(output.count, 0);
}

/* ---- votes */

static void whose_votes_count(void **state)
{
    for (int pre = 1; pre >= 0; pre--) {
        now_ns = START;
        make(1, NULL, 0);
        now_ns = sl_raft_deadline(raft);
        tick();
        assert_int_equal(count(SL_RAFT_DO_SEND), 2); /* to 2 and 3 */
        if (!pre) {
            hear(2, grant(true));
            assert_int_equal(count(SL_RAFT_DO_SEND), 0); /* not before it is saved */
            saved();
            assert_int_equal(count(SL_RAFT_DO_SEND), 2);
            for (unsigned i = 0; i < output.count; i++)
                assert_int_equal(output.actions[i].message.flags, 0);
        }
        enum sl_raft_role role = raft->role;
        hear(4, grant(pre)); /* a learner */
        hear(9, grant(pre)); /* nobody */
        hear(1, grant(pre)); /* itself, again */
        struct sl_raft_message other = grant(pre);
        other.flags = pre ? SL_RAFT_FLAG_PRE : 0;
        other.term = raft->term;
        hear(2, other); /* refused */
        other = grant(pre);
        other.term.value--;
        hear(2, other); /* of before */
        hear(2, grant(!pre));
        assert_int_equal(raft->role, role);
        hear(3, grant(pre));
        assert_int_equal(raft->role, pre ? SL_RAFT_CANDIDATE : SL_RAFT_LEADER);
    }
}

static struct sl_raft_message ask(uint32_t flags, uint64_t term)
{
    return (struct sl_raft_message){
        .kind = SL_RAFT_VOTE, .flags = flags, .term = {term}, .index = {3}, .index_term = {1}};
}

static void votes_at_the_limits_of_time(void **state)
{
    struct sl_raft_span span = {3, {1}, 0};
    make(1, &span, 1);
    now_ns = START + T - 1; /* quiet since the start */
    hear(2, ask(SL_RAFT_FLAG_PRE, 2));
    hear(2, ask(0, 2));
    assert_true(output.count == 0 && raft->term.value == 1);
    now_ns = START + T;
    hear(2, ask(SL_RAFT_FLAG_PRE, 2));
    assert_true((sent()->flags & SL_RAFT_FLAG_GRANTED) != 0 && sent()->term.value == 2);
    assert_int_equal(raft->term.value, 1);
    hear(3, (struct sl_raft_message){.kind = SL_RAFT_APPEND}); /* a leader's beat */
    now_ns += T - 1;
    hear(2, ask(SL_RAFT_FLAG_PRE, 2));
    hear(2, ask(0, 2));
    assert_true(output.count == 0 && raft->term.value == 1);
    now_ns += 1;
    hear(2, ask(0, 2));
    assert_int_equal(count(SL_RAFT_DO_SAVE), 2); /* the term; then the vote */
    assert_int_equal(raft->vote.id, 2);
}

static void votes_are_refused_aloud(void **state)
{
    struct sl_raft_span span = {3, {1}, 0};
    make(1, &span, 1);
    now_ns = START + T;
    hear(2, ask(SL_RAFT_FLAG_PRE, 1)); /* of no newer term */
    assert_true(sent()->flags == SL_RAFT_FLAG_PRE && sent()->term.value == 1);
    struct sl_raft_message shorter = ask(0, 2);
    shorter.index.value = 2;
    hear(2, shorter);
    saved();
    hear(2, shorter);
    assert_true(sent()->flags == 0 && sent()->term.value == 2 && raft->vote.id == 0);
    struct sl_raft_message longer = ask(0, 2);
    longer.index_term = sl_term_of(2), longer.index.value = 1;
    uint64_t before = sl_raft_deadline(raft);
    now_ns += 1000;
    hear(2, longer);
    assert_true(raft->vote.id == 2 && count(SL_RAFT_DO_SEND) == 0);
    assert_int_equal(raft->timer_ns, now_ns);
    assert_int_not_equal(sl_raft_deadline(raft), before);
    saved();
    assert_true(sent()->to.id == 2 && sent()->flags == SL_RAFT_FLAG_GRANTED);
    hear(2, longer); /* the answer was lost */
    assert_true(sent()->to.id == 2 && sent()->flags == SL_RAFT_FLAG_GRANTED);
    hear(3, ask(0, 2));
    assert_true(sent()->to.id == 3 && sent()->flags == 0);
    hear(3, ask(0, 3));
    saved();
    assert_true(sent()->to.id == 3 && sent()->flags == SL_RAFT_FLAG_GRANTED);
    hear(2, ask(0, 2)); /* of an old term: so that it learns of the new one */
    assert_true(sent()->to.id == 2 && sent()->flags == 0 && sent()->term.value == 3);
    saved();
    assert_int_equal(output.count, 0); /* said once */
}

static void a_pre_candidate_that_votes_follows(void **state)
{
    make(1, NULL, 0);
    now_ns = sl_raft_deadline(raft);
    tick();
    hear(2, ask(0, 1));
    assert_int_equal(raft->role, SL_RAFT_FOLLOWER);
    hear(3, grant(true));
    hear(2, grant(true));
    assert_int_equal(raft->role, SL_RAFT_FOLLOWER);
}

static void a_leader_does_not_vote(void **state)
{
    make(1, NULL, 0);
    lead(1);
    uint64_t term = raft->term.value;
    hear(3, ask(SL_RAFT_FLAG_PRE, term + 1));
    assert_int_equal(output.count, 0);
    hear(3, ask(0, term + 5));
    assert_true(output.count == 0 && raft->role == SL_RAFT_LEADER);
    struct sl_raft_message better = ask(SL_RAFT_FLAG_TRANSFER, term + 1);
    better.index_term = sl_term_of(term);
    hear(3, better);
    assert_true(raft->role == SL_RAFT_FOLLOWER && raft->vote.id == 3);
}

/* ---- following */

static void answers_wait_for_the_term(void **state)
{
    struct sl_raft_span span = {3, {1}, 0};
    make(1, &span, 1);
    hear(2, append(2, 3, 1, 2, 2));
    assert_true(count(SL_RAFT_DO_SEND) == 0 && count(SL_RAFT_DO_WRITE) == 1);
    wrote();
    assert_int_equal(output.count, 0);
    saved();
    assert_true(sent()->index.value == 5 && sent()->hint.value == 5 && sent()->flags == 0);
    assert_true(sent()->round == 5 && sent()->sent_ns == 77);
    saved();
    assert_int_equal(output.count, 0);
    hear(3, append(3, 9, 2, 0, 0));
    assert_int_equal(count(SL_RAFT_DO_SEND), 0);
    saved();
    assert_true(sent()->flags == SL_RAFT_FLAG_REJECTED && sent()->index.value == 9);
    assert_true(sent()->hint.value == 6 && sent()->index_term.value == 0);
    saved();
    assert_int_equal(output.count, 0);
    hear(3, append(3, 4, 3, 0, 0));
    assert_true(sent()->flags == SL_RAFT_FLAG_REJECTED && sent()->index_term.value == 2);
    assert_int_equal(sent()->hint.value, 4); /* the first of term 2 */
    hear(2, append(2, 5, 2, 0, 0));          /* a former leader */
    assert_true(sent()->to.id == 2 && sent()->term.value == 3);
    hear(2, append(3, 5, 2, 0, 0)); /* a second one */
    assert_true(count(SL_RAFT_DO_COMPLAIN) == 1 && output.count == 1);
}

static void nothing_is_said_to_nobody(void **state)
{
    make(1, NULL, 0);
    hear(2, append(1, 0, 0, 2, 1));
    now_ns += T;
    hear(3, ask(0, 5)); /* a later term, and its leader is not known */
    saved();
    wrote();
    assert_int_equal(count(SL_RAFT_DO_SEND), 0);
    assert_int_equal(raft->log.durable.value, 2);
}

static void only_what_is_new_is_written(void **state)
{
    struct sl_raft_span spans[2] = {{3, {1}, 0}, {3, {2}, 0}};
    make(2, spans, 2);
    hear(2, append(2, 0, 0, 3, 1));
    assert_true(count(SL_RAFT_DO_WRITE) == 0 && sent()->index.value == 3);
    hear(2, append(2, 4, 2, 4, 2));
    assert_true(the(SL_RAFT_DO_WRITE)->first.value == 7 && count(SL_RAFT_DO_TRUNCATE) == 0);
    assert_int_equal(the(SL_RAFT_DO_WRITE)->last.value, 8);
    assert_int_equal(count(SL_RAFT_DO_SEND), 0);
    hear(2, append(2, 4, 2, 4, 2)); /* once more, while it is being written */
    assert_true(sent()->index.value == 6 && sent()->hint.value == 8 && output.count == 1);
    wrote();
    assert_int_equal(sent()->index.value, 8);
    struct sl_raft_message m = append(2, 8, 2, 0, 0);
    m.commit = sl_index_of(4);
    hear(2, m);
    assert_int_equal(the(SL_RAFT_DO_COMMIT)->last.value, 4);
    saved();
    hear(3, append(3, 5, 2, 2, 3));
    assert_true(the(SL_RAFT_DO_TRUNCATE)->first.value == 6 &&
                the(SL_RAFT_DO_WRITE)->last.value == 7);
    saved();
    wrote();
    assert_int_equal(sent()->index.value, 7);
    hear(3, append(3, 2, 1, 4, 3)); /* differs from what is committed */
    assert_true(count(SL_RAFT_DO_COMPLAIN) == 1 && output.count == 1);
    hear(3, append(3, 2, 1, 1, 1)); /* what is committed is not looked at */
    assert_true(output.count == 1 && sent()->index.value == 7);
    hear(3, append(3, 2, 1, 5, 2));
    assert_true(the(SL_RAFT_DO_TRUNCATE)->first.value == 6);
}

static void configurations_come_and_go(void **state)
{
    make(2, NULL, 0);
    struct sl_raft_config other = config;
    other.index = sl_index_of(2);
    struct sl_raft_message m = append(2, 0, 0, 2, 2);
    m.from = (struct sl_raft_replica){2, 2}, m.to = (struct sl_raft_replica){1, 1};
    feed((struct sl_raft_event){.kind = SL_RAFT_MESSAGE, .message = {&m, &other, 1, 10}});
    assert_int_equal(the(SL_RAFT_DO_CONFIG)->config->index.value, 2);
    wrote();
    hear(2, append(2, 2, 2, 3, 2));
    hear(3, append(3, 3, 2, 1, 3)); /* behind it */
    assert_true(count(SL_RAFT_DO_TRUNCATE) == 1 && count(SL_RAFT_DO_CONFIG) == 0);
    assert_int_equal(sl_raft_get_config(raft)->index.value, 2);
    saved();
    hear(3, append(4, 1, 2, 1, 4));
    assert_int_equal(the(SL_RAFT_DO_CONFIG)->config->index.value, 0);
    assert_int_equal(sl_raft_get_config(raft)->index.value, 0);
}

/* ---- room for terms */

static void room_is_asked_for(void **state)
{
    struct sl_raft_span spans[ROOM - 1];
    for (unsigned i = 0; i < ROOM - 1; i++)
        spans[i] = (struct sl_raft_span){1, {i + 1}, 0};
    make(ROOM, spans, ROOM - 1);
    hear(2, append(ROOM, ROOM - 1, ROOM - 1, 1, ROOM));
    assert_int_equal(count(SL_RAFT_DO_WRITE), 1);
    wrote();
    hear(2, append(ROOM + 1, ROOM, ROOM, 1, ROOM + 1)); /* too many, and nothing is committed */
    assert_true(count(SL_RAFT_DO_GROW) == 1 && count(SL_RAFT_DO_WRITE) == 0);
    assert_int_equal(raft->verified.value, ROOM);
    saved();
    now_ns = sl_raft_deadline(raft);
    tick();
    hear(2, grant(true));
    assert_true(count(SL_RAFT_DO_GROW) == 1 && output.count == 1);
    assert_int_equal(raft->role, SL_RAFT_PRE_CANDIDATE);
    static struct run room[2][64];
    assert_null(sl_raft_grow(raft, room[0], ROOM + 1));
    hear(3, grant(true));
    assert_int_equal(raft->role, SL_RAFT_CANDIDATE);
    saved();
    hear(3, grant(false));
    assert_int_equal(raft->role, SL_RAFT_LEADER);
    assert_ptr_equal(sl_raft_grow(raft, room[1], 64), room[0]);
    for (uint64_t i = 1; i <= ROOM; i++)
        assert_int_equal(sl_raft_term_at(raft, sl_index_of(i)).value, i);
}

static void committed_terms_make_room(void **state)
{
    struct sl_raft_span spans[ROOM - 1];
    for (unsigned i = 0; i < ROOM - 1; i++)
        spans[i] = (struct sl_raft_span){2, {i + 1}, 0};
    make(ROOM, spans, ROOM - 1);
    hear(2, append(ROOM, 2 * (ROOM - 1), ROOM - 1, 1, ROOM));
    wrote();
    struct sl_raft_message m = append(ROOM + 1, 2 * (ROOM - 1) + 1, ROOM, 1, ROOM + 1);
    m.commit = sl_index_of(2); /* the first two are of one term */
    hear(2, m);
    assert_true(count(SL_RAFT_DO_GROW) == 0 && count(SL_RAFT_DO_WRITE) == 1);
    assert_int_equal(raft->log.boundary.value, 2);
}

/* Replica 1 had entries up to 9 of term 3; what is left of them ends at 5, of term 2. */
static void a_damaged_replica(void **state)
{
    struct sl_raft_span span = {5, {2}, 0};
    promised = sl_index_of(9);
    promised_term = sl_term_of(3);
    make(4, &span, 1);
    struct sl_raft_status status;
    sl_raft_get_status(raft, &status);
    assert_true(status.mending && sl_raft_deadline(raft) == UINT64_MAX); /* it does not campaign */
    now_ns += 10 * T;
    const struct {
        uint64_t index, term;
        bool enough;
    } logs[] = {{100, 2, false}, {8, 3, false}, {9, 3, true}, {1, 4, true}};
    for (unsigned i = 0; i < SL_COUNT_OF(logs); i++) {
        hear(2, (struct sl_raft_message){.kind = SL_RAFT_VOTE,
                                         .flags = SL_RAFT_FLAG_PRE,
                                         .term = {5},
                                         .index = {logs[i].index},
                                         .index_term = {logs[i].term}});
        if (((sent()->flags & SL_RAFT_FLAG_GRANTED) != 0) != logs[i].enough)
            fail_msg("vote %u", i);
    }
    hear(2, append(4, 9, 3, 0, 0));
    assert_true(sent()->flags == (SL_RAFT_FLAG_REJECTED | SL_RAFT_FLAG_MENDING));
    assert_true(sent()->index.value == 9 && sent()->hint.value == 6);
    hear(2, append(4, 5, 2, 3, 3));
    wrote();
    assert_true(count(SL_RAFT_DO_MENDED) == 0 && sent()->index.value == 8);
    hear(2, (struct sl_raft_message){
                .kind = SL_RAFT_TIMEOUT_NOW, .term = {4}, .index = {8}, .index_term = {3}});
    assert_int_equal(raft->role, SL_RAFT_FOLLOWER);
    hear(2, append(4, 8, 3, 1, 3));
    assert_int_equal(count(SL_RAFT_DO_MENDED), 0); /* not durable yet */
    wrote();
    assert_true(count(SL_RAFT_DO_MENDED) == 1 && sent()->flags == 0);
    assert_true(sl_raft_deadline(raft) != UINT64_MAX);
    wrote();
    assert_int_equal(count(SL_RAFT_DO_MENDED), 0);
}

/* A later leader's log is another one: what was lost in it was never committed. */
static void a_later_log_mends(void **state)
{
    struct sl_raft_span span = {5, {2}, 0};
    promised = sl_index_of(9);
    promised_term = sl_term_of(3);
    make(4, &span, 1);
    hear(2, append(4, 5, 2, 1, 4));
    wrote();
    assert_int_equal(count(SL_RAFT_DO_MENDED), 1);
    promised = sl_index_of(6); /* a state that holds all of it does, too */
    make(4, &span, 1);
    feed((struct sl_raft_event){.kind = SL_RAFT_COPYING, .copying = {{4}, {6}}});
    feed((struct sl_raft_event){.kind = SL_RAFT_COPIED, .copied = {{6}, {3}, &config}});
    assert_int_equal(count(SL_RAFT_DO_MENDED), 1);
    /* The mark was left by a crash: the log has all of it. */
    promised = sl_index_of(5);
    promised_term = sl_term_of(2);
    make(4, &span, 1);
    assert_true(raft->promised.value == 0 && sl_raft_deadline(raft) != UINT64_MAX);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(insane_messages_are_complained_of),
        CASE(insane_configurations_are_complained_of),
        CASE(strangers_are_told),
        CASE(whose_votes_count),
        CASE(votes_at_the_limits_of_time),
        CASE(votes_are_refused_aloud),
        CASE(a_pre_candidate_that_votes_follows),
        CASE(a_leader_does_not_vote),
        CASE(answers_wait_for_the_term),
        CASE(nothing_is_said_to_nobody),
        CASE(only_what_is_new_is_written),
        CASE(configurations_come_and_go),
        CASE(room_is_asked_for),
        CASE(committed_terms_make_room),
        CASE(a_damaged_replica),
        CASE(a_later_log_mends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
