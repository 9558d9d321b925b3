/*
 * Goal: single steps of a leader, to the nanosecond and to the entry: when leases, time-outs and
 * limits end, how far it goes back, changes of its membership, resyncs, shared heartbeats. Method:
 * one group is fed by hand (hand.h); its actions are looked at.
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

/* ---- leading */

static void leases_end_on_time(void **state)
{
    make(1, NULL, 0);
    lead(1);
    uint64_t lease_ns = (uint64_t)T * 900000 / 1100000, acked_ns = now_ns - 50;
    now_ns += 10;
    raft->since_ns = 0;
    raft->progress[1].acked_sent_ns = acked_ns; /* 2 is the newer one of the others */
    raft->progress[2].acked_sent_ns = acked_ns - 1000;
    raft->progress[3].acked_sent_ns = now_ns; /* a learner's word is none */
    assert_true(sl_raft_has_lease(raft, acked_ns + lease_ns - 1));
    assert_false(sl_raft_has_lease(raft, acked_ns + lease_ns));
    assert_false(sl_raft_has_lease(raft, acked_ns + T));
    uint64_t deadline = acked_ns + T;
    now_ns = deadline - 1;
    tick();
    assert_int_equal(raft->role, SL_RAFT_LEADER);
    now_ns = deadline;
    tick();
    assert_int_equal(raft->role, SL_RAFT_FOLLOWER);
}

static void beats_and_probes(void **state)
{
    struct sl_raft_span span = {30, {1}, 3000};
    make(1, &span, 1);
    campaign();
    hear(2, grant(false));
    unsigned messages;
    assert_int_equal(entries_to(2, &messages), 1); /* the no-op; it probes */
    assert_int_equal(entries_to(4, &messages), 1);
    assert_int_equal(messages, 1);
    assert_int_equal(propose(1, 100), 0);
    assert_int_equal(count(SL_RAFT_DO_SEND), 0); /* one probe at a time */
    assert_int_equal(sl_raft_deadline(raft), now_ns + T / 10);
    now_ns += T / 10 - 1;
    tick();
    assert_int_equal(output.count, 0);
    now_ns += 1;
    tick();
    assert_int_equal(count(SL_RAFT_DO_SEND), 3);
    assert_int_equal(entries_to(3, &messages), 2); /* again, with what has come since */
    struct sl_raft_message no = {.kind = SL_RAFT_APPEND_ANSWER,
                                 .flags = SL_RAFT_FLAG_REJECTED,
                                 .index = {29},
                                 .hint = {5},
                                 .sent_ns = now_ns};
    hear(2, no); /* of another probe */
    assert_int_equal(count(SL_RAFT_DO_SEND), 0);
    no.index = sl_index_of(30);
    hear(2, no);
    assert_true(sent()->index.value == 4 && sent()->count == 8);
    hear(2, accept(4));                             /* it meets; from there on pipelined */
    assert_int_equal(entries_to(2, &messages), 20); /* the window */
    assert_int_equal(messages, 3);
    hear(2, accept(12));
    assert_int_equal(entries_to(2, &messages), 6 + 2); /* to the end of term 1, then ours */
    assert_int_equal(messages, 2);
    hear(2, accept(11)); /* late */
    assert_int_equal(count(SL_RAFT_DO_SEND), 0);
}

static void back_off_by_terms(void **state)
{
    struct sl_raft_span spans[3] = {{10, {1}, 0}, {10, {3}, 0}, {10, {5}, 0}};
    make(5, spans, 3);
    campaign();
    hear(2, grant(false));
    struct sl_raft_message no = {.kind = SL_RAFT_APPEND_ANSWER,
                                 .flags = SL_RAFT_FLAG_REJECTED,
                                 .index = {30},
                                 .sent_ns = now_ns};
    no.index_term = sl_term_of(3), no.hint = sl_index_of(14); /* it has term 3 from 14 on */
    hear(2, no);
    assert_int_equal(sent()->index.value, 20); /* our last of term 3 */
    no.index = sl_index_of(30), no.index_term = sl_term_of(4), no.hint = sl_index_of(17);
    hear(3, no);
    assert_int_equal(sent()->index.value, 16); /* we have no term 4: where it begins there */
    no.index = sl_index_of(20), no.index_term = sl_term_of(3), no.hint = sl_index_of(14);
    hear(2, no); /* as if it had not helped: always further back */
    assert_true(sent()->index.value < 20);
    no.index = sl_index_of(sent()->index.value), no.index_term = sl_term_of(0);
    no.hint = sl_index_of(1);
    hear(2, no);
    assert_int_equal(sent()->index.value, 0);
}

static void limits_in_bytes(void **state)
{
    tuning.append_entries = 50;
    tuning.window_entries = 1000;
    make(1, NULL, 0);
    lead(1);
    unsigned messages;
    assert_int_equal(propose(16, 16 * 1000), 0); /* a message takes 8,000 */
    assert_int_equal(entries_to(2, &messages), 16);
    assert_int_equal(messages, 2);
    assert_int_equal(propose(8, 8 * 1000), 0); /* 4,000 are left in the window */
    assert_int_equal(entries_to(2, &messages), 4);
    hear(2, accept(9)); /* of 17; 8 less under way */
    assert_in_range(entries_to(2, &messages), 4, 4);
    assert_int_equal(propose(1, 100000), 0); /* larger than any limit: goes alone */
    for (uint64_t i = 2; i <= 4; i++)
        hear(i, accept(25));
    assert_int_equal(entries_to(4, &messages), 1);
    assert_int_equal(propose(1, 100000), 0);
    assert_int_equal(count(SL_RAFT_DO_SEND), 0);
}

static void limits_of_what_is_not_committed(void **state)
{
    make(1, NULL, 0);
    lead(1);
    assert_int_equal(propose(101, 0), -EINVAL);
    assert_int_equal(propose(0, 0), -EINVAL);
    assert_int_equal(propose(99, 0), 0);
    assert_int_equal(propose(2, 0), -EAGAIN);
    assert_int_equal(propose(1, 0), 0);
    assert_int_equal(propose(1, 0), -EAGAIN);
    hear(2, accept(11));
    wrote();
    assert_int_equal(raft->commit.value, 11);
    assert_int_equal(propose(10, 1000001), -EAGAIN);
    assert_int_equal(propose(10, 999000), 0);
    assert_int_equal(propose(1, 1), -EAGAIN);
}

static void the_largest_proposal(void **state)
{
    make(1, NULL, 0);
    lead(1);
    assert_int_equal(propose(100, 0), 0);
}

/* What a leader gave up in one term it has again in the next. */
static void a_lease_comes_back(void **state)
{
    make(1, NULL, 0);
    lead(1);
    struct sl_raft_event give = {.kind = SL_RAFT_TRANSFER, .transfer = {2}};
    assert_int_equal(feed(give), 0);
    hear(2, (struct sl_raft_message){.kind = SL_RAFT_APPEND, .term = {9}});
    saved();
    lead(2);
    assert_true(sl_raft_has_lease(raft, now_ns));
    struct sl_raft_event read = {.kind = SL_RAFT_READ};
    assert_int_equal(feed(read), 0);
    assert_int_equal(output.round, 0);
    assert_int_equal(propose(1, 0), 0);
}

static void seven_members(void **state)
{
    config.count = 6;
    config.members[4] = (struct sl_raft_member){5, 5, SL_RAFT_LEARNER};
    config.members[5] = (struct sl_raft_member){6, 6, SL_RAFT_LEARNER};
    struct sl_raft_span spans[2] = {{1, {1}, 0}, {1, {2}, 0}};
    make(2, spans, 2);
    lead(3);
    struct sl_raft_event add = {.kind = SL_RAFT_CHANGE, .change = {SL_RAFT_ADD_LEARNER, {7, 7}}};
    assert_int_equal(feed(add), 0);
    assert_int_equal(raft->progress[6].id, 7);
    assert_int_equal(count(SL_RAFT_DO_SEND), 6);
    for (uint64_t i = 1; i <= 3; i++)
        assert_int_equal(sl_raft_term_at(raft, sl_index_of(i)).value, i);
}

/* A follower has received more than its disk has written: it is not sent again. */
static void received_and_not_durable(void **state)
{
    struct sl_raft_span span = {30, {1}, 3000};
    make(1, &span, 1);
    campaign();
    hear(2, grant(false));
    for (unsigned i = 0; i < output.count; i++)
        assert_true(output.actions[i].kind != SL_RAFT_DO_SEND ||
                    output.actions[i].message.epoch == 0);
    struct sl_raft_message m = accept(31);
    m.index = sl_index_of(12);
    hear(2, m);
    assert_int_equal(raft->progress[1].match.value, 12);
    assert_int_equal(raft->progress[1].next.value, 32);
    assert_int_equal(count(SL_RAFT_DO_SEND), 0);
}

static void changes_are_refused(void **state)
{
    make(1, NULL, 0);
    struct sl_raft_event promote = {.kind = SL_RAFT_CHANGE, .change = {SL_RAFT_PROMOTE, {4, 4}}};
    struct sl_raft_event give = {.kind = SL_RAFT_TRANSFER, .transfer = {2}};
    assert_int_equal(feed(promote), -SL_E_MOVED);
    assert_int_equal(feed(give), -SL_E_MOVED);
    lead(1);
    /* Asked once more, since the answer was lost, when it leads by now, or is behind: it was told
     * to try again for ever (cluster_sim --replicated, seed 5028). */
    struct sl_raft_event again = {.kind = SL_RAFT_CHANGE, .change = {SL_RAFT_PROMOTE, {1, 1}}};
    assert_int_equal(feed(again), -EEXIST);
    again.change.replica = (struct sl_raft_replica){2, 2};
    assert_int_equal(feed(again), -EEXIST);
    assert_int_equal(propose(4, 0), 0);
    assert_int_equal(feed(promote), -EAGAIN); /* 4 behind */
    hear(4, accept(2));
    assert_int_equal(feed(promote), 0);
    assert_int_equal(the(SL_RAFT_DO_WRITE)->config->index.value, 6);
    assert_true(sl_raft_config_is_voter(sl_raft_get_config(raft), 4));
    struct sl_raft_event remove = {.kind = SL_RAFT_CHANGE, .change = {SL_RAFT_REMOVE, {3, 3}}};
    assert_int_equal(feed(remove), -EAGAIN);
    wrote();
    hear(2, accept(6));
    assert_int_equal(raft->commit.value, 2); /* of the others two have that */
    hear(4, accept(6));
    assert_int_equal(raft->commit.value, 6);
    assert_int_equal(feed(give), 0);
    assert_int_equal(sent()->kind, SL_RAFT_TIMEOUT_NOW);
    assert_false(sl_raft_has_lease(raft, now_ns));
    assert_int_equal(feed(remove), -EAGAIN);
    assert_int_equal(feed(give), -EAGAIN);
    assert_int_equal(propose(1, 0), -EAGAIN);
    uint64_t began_ns = now_ns;
    now_ns = began_ns + T - 1;
    for (uint64_t i = 2; i <= 4; i++)
        hear(i, accept(6));
    tick();
    assert_int_equal(propose(1, 0), -EAGAIN);
    now_ns = began_ns + T;
    tick();
    assert_int_equal(propose(1, 0), 0);
    assert_false(sl_raft_has_lease(raft, now_ns));
}

static void rounds_of_reads(void **state)
{
    make(1, NULL, 0);
    lead(1);
    struct sl_raft_event read = {.kind = SL_RAFT_READ};
    assert_int_equal(feed(read), 0);
    assert_int_equal(output.round, 0);
    raft->lease_given_up = true;
    assert_int_equal(feed(read), 0);
    assert_true(output.round == 1 && output.index.value == 1 && count(SL_RAFT_DO_SEND) == 3);
    assert_int_equal(feed(read), 0);
    assert_true(output.round == 2 && count(SL_RAFT_DO_SEND) == 0);
    struct sl_raft_message old = accept(1);
    old.round = 0;
    hear(2, old);
    hear(4, accept(1)); /* a learner's word is none */
    assert_int_equal(count(SL_RAFT_DO_READ), 0);
    hear(3, accept(1));
    assert_true(the(SL_RAFT_DO_READ)->round == 1 && count(SL_RAFT_DO_SEND) == 3);
    hear(2, accept(1));
    assert_int_equal(the(SL_RAFT_DO_READ)->round, 2);
    hear(3, accept(1));
    assert_int_equal(count(SL_RAFT_DO_READ), 0);
    struct sl_raft_message lie = accept(1);
    lie.round++;
    hear(2, lie);
    assert_int_equal(count(SL_RAFT_DO_COMPLAIN), 1);
    lie = accept(1), lie.sent_ns++;
    hear(2, lie);
    assert_int_equal(count(SL_RAFT_DO_COMPLAIN), 1);
    lie = accept(2);
    hear(2, lie);
    assert_int_equal(count(SL_RAFT_DO_COMPLAIN), 1);
    lie = accept(1), lie.commit = sl_index_of(2);
    hear(2, lie);
    assert_int_equal(count(SL_RAFT_DO_COMPLAIN), 1);
}

static void members_keep_their_progress(void **state)
{
    links = sl_raft_links_init(links_memory, 4, 9);
    make(1, NULL, 0);
    lead(1);
    assert_int_equal(propose(3, 0), 0);
    wrote();
    struct sl_raft_message yes = accept(4);
    hear(3, yes);
    yes.commit = sl_index_of(4);
    hear(2, yes);
    struct sl_raft_beat beat;
    assert_int_equal(sl_raft_links_beat(links, 2, now_ns, &beat), 1);
    struct sl_raft_event remove = {.kind = SL_RAFT_CHANGE, .change = {SL_RAFT_REMOVE, {2, 2}}};
    assert_int_equal(feed(remove), 0); /* 4, the last, takes its slot */
    assert_int_equal(the(SL_RAFT_DO_CONFIG)->config->index.value, 5);
    assert_int_equal(sl_raft_links_beat(links, 2, now_ns, &beat), 0);
    static const uint64_t match[3][2] = {{1, 0}, {4, 1}, {3, 4}};
    for (unsigned slot = 0; slot < 3; slot++) {
        assert_int_equal(raft->progress[slot].id, match[slot][0]);
        assert_int_equal(raft->progress[slot].match.value, match[slot][1]);
    }
    wrote();
    hear(3, accept(5));
    assert_int_equal(raft->commit.value, 5);
    struct sl_raft_event add = {.kind = SL_RAFT_CHANGE, .change = {SL_RAFT_ADD_LEARNER, {8, 8}}};
    assert_int_equal(feed(add), 0);
    assert_true(raft->progress[3].id == 8 && raft->progress[3].match.value == 0);
    assert_int_equal(raft->progress[3].next.value, 7);
    wrote();
    hear(3, accept(6));
    remove.change.replica = (struct sl_raft_replica){1, 1};
    assert_int_equal(feed(remove), 0);
    wrote();
    assert_int_equal(raft->role, SL_RAFT_LEADER);
    hear(3, accept(7)); /* 3 alone is the majority without it */
    assert_int_equal(the(SL_RAFT_DO_COMMIT)->last.value, 7);
    assert_int_equal(raft->role, SL_RAFT_FOLLOWER);
    assert_int_equal(sl_raft_deadline(raft), UINT64_MAX);
}

static void timeout_now_is_repeated(void **state)
{
    make(1, NULL, 0);
    lead(1);
    struct sl_raft_event give = {.kind = SL_RAFT_TRANSFER, .transfer = {3}};
    assert_int_equal(propose(1, 0), 0);
    assert_int_equal(feed(give), 0);
    assert_int_equal(output.count, 0); /* not before it has all */
    wrote();
    hear(3, accept(2));
    unsigned told = 0;
    for (unsigned i = 0; i < output.count; i++)
        told += output.actions[i].kind == SL_RAFT_DO_SEND &&
                output.actions[i].message.kind == SL_RAFT_TIMEOUT_NOW;
    assert_int_equal(told, 1);
    hear(2, accept(2));
    for (unsigned i = 0; i < output.count; i++)
        assert_true(output.actions[i].message.kind != SL_RAFT_TIMEOUT_NOW);
    now_ns += T / 10;
    tick();
    assert_int_equal(output.actions[0].message.kind, SL_RAFT_TIMEOUT_NOW);
}

static void timeout_now_is_obeyed_or_not(void **state)
{
    struct sl_raft_message now = {.kind = SL_RAFT_TIMEOUT_NOW};
    make(1, NULL, 0);
    hear(2, now); /* no leader of ours */
    assert_int_equal(raft->role, SL_RAFT_FOLLOWER);
    hear(2, append(1, 0, 0, 0, 0));
    hear(3, now);
    assert_int_equal(raft->role, SL_RAFT_FOLLOWER);
    hear(2, now);
    assert_int_equal(raft->role, SL_RAFT_CANDIDATE);
    saved();
    assert_int_equal(output.actions[0].message.flags, SL_RAFT_FLAG_TRANSFER);
}

/* ---- resync */

static void a_follower_that_needs_a_resync(void **state)
{
    struct sl_raft_span span = {20, {1}, 0};
    make(1, &span, 1);
    lead(21);
    struct sl_raft_event compacted = {.kind = SL_RAFT_COMPACTED, .compacted = {{22}}};
    assert_int_equal(feed(compacted), -EINVAL); /* not committed */
    compacted.compacted.index = sl_index_of(15);
    assert_int_equal(feed(compacted), 0);
    compacted.compacted.index = sl_index_of(14);
    assert_int_equal(feed(compacted), -EINVAL);
    raft->progress[2].match = sl_index_of(0); /* as if it had only now been heard of */
    raft->progress[2].state = PROBE;
    struct sl_raft_message no = {.kind = SL_RAFT_APPEND_ANSWER,
                                 .flags = SL_RAFT_FLAG_REJECTED,
                                 .index = {21},
                                 .hint = {16},
                                 .sent_ns = now_ns};
    hear(3, no);
    assert_true(count(SL_RAFT_DO_RESYNC) == 0 && sent()->index.value == 15);
    no.index = sl_index_of(15), no.hint = sl_index_of(15);
    hear(3, no);
    assert_int_equal(the(SL_RAFT_DO_RESYNC)->peer.id, 3);
    uint64_t asked_ns = now_ns;
    while (now_ns + T / 10 < asked_ns + T) {
        now_ns += T / 10;
        hear(2, accept(21));
        tick();
        assert_int_equal(count(SL_RAFT_DO_RESYNC), 0);
    }
    now_ns = asked_ns + T;
    hear(2, accept(21));
    tick();
    assert_int_equal(the(SL_RAFT_DO_RESYNC)->peer.id, 3);
    struct sl_raft_message copying = {
        .kind = SL_RAFT_APPEND_ANSWER, .flags = SL_RAFT_FLAG_COPYING, .sent_ns = now_ns};
    hear(3, copying);
    assert_int_equal(count(SL_RAFT_DO_RESYNC), 0); /* asked for already */
    hear(3, accept(14));                           /* not yet */
    assert_int_equal(raft->progress[2].state, RESYNC);
    now_ns += 5;
    hear(3, accept(15));
    assert_true(sent()->index.value == 15 && sent()->count == 5); /* to the end of term 1 */
    assert_int_equal(raft->progress[2].state, PROBE);
    copying.sent_ns = now_ns - 1;
    hear(3, copying); /* of before its end */
    assert_int_equal(count(SL_RAFT_DO_RESYNC), 0);
    assert_int_equal(raft->progress[2].state, PROBE);
    copying.sent_ns = now_ns;
    hear(3, copying); /* of another one */
    assert_int_equal(the(SL_RAFT_DO_RESYNC)->peer.id, 3);
    hear(2, copying);
    assert_int_equal(the(SL_RAFT_DO_RESYNC)->peer.id, 2);
}

static int copying(uint64_t term, uint64_t index, uint64_t index_term)
{
    return feed((struct sl_raft_event){.kind = SL_RAFT_COPYING,
                                       .copying = {{term}, {index}, {index_term}}});
}

/* What is known to be committed after a start is so, as far as the log reaches. */
static void what_was_committed(void **state)
{
    struct sl_raft_span span = {8, {1}, 0};
    for (uint64_t known = 0; known <= 10; known += 5) {
        committed = sl_index_of(known);
        make(1, &span, 1);
        uint64_t commit = known < 8 ? known : 8;
        assert_true(raft->commit.value == commit && raft->verified.value == commit);
        hear(2, append(2, 0, 0, 0, 0));
        saved();
        assert_true(sent()->commit.value == commit && sent()->index.value == commit);
    }
}

/* A resync that comes when the log has the state does not begin: its source may die, and without
 * this replica nobody might lead. The source's leader learns that it may go on with the log. */
static void a_state_that_is_known(void **state)
{
    struct sl_raft_span spans[2] = {{5, {1}, 0}, {3, {2}, 0}};
    make(3, spans, 2);
    hear(2, append(3, 0, 0, 0, 0)); /* nothing is known of its log yet */
    assert_int_equal(copying(3, 6, 2), -EALREADY);
    assert_true(!raft->copying && raft->commit.value == 6 && raft->verified.value == 6);
    assert_int_equal(the(SL_RAFT_DO_COMMIT)->last.value, 6);
    assert_true(sent()->index.value == 6 && sent()->commit.value == 6 && sent()->flags == 0);
    assert_true(sl_raft_deadline(raft) != UINT64_MAX);
    assert_int_equal(copying(3, 5, 1), -EALREADY); /* what is committed stays so */
    assert_true(raft->commit.value == 6 && raft->verified.value == 6);
    for (unsigned i = 0; i < 2; i++) { /* the last one; once more */
        assert_int_equal(copying(3, 8, 2), -EALREADY);
        assert_true(raft->commit.value == 8 && count(SL_RAFT_DO_COMMIT) == 1 - i);
    }
    assert_int_equal(copying(3, 8, 0), -EALREADY); /* whatever its term */
    assert_int_equal(copying(3, 9, 2), 0);
    assert_int_equal(copying(3, 9, 2), 0); /* once begun it is finished */
    assert_true(raft->copying);
    make(3, spans, 2);
    assert_int_equal(copying(3, 6, 1), 0); /* another entry */
    assert_true(raft->copying && raft->commit.value == 0);
    /* What a newer leader has committed says nothing of an older one's log. */
    make(3, spans, 2);
    hear(2, append(3, 0, 0, 0, 0));
    assert_int_equal(copying(4, 6, 2), -EALREADY);
    assert_int_equal(the(SL_RAFT_DO_SAVE)->term.value, 4);
    assert_true(count(SL_RAFT_DO_SEND) == 0 && raft->leader.id == 0 && raft->commit.value == 6);
    saved();
    assert_int_equal(count(SL_RAFT_DO_SEND), 0);
    /* Who leads finds out by itself what is committed. */
    make(3, spans, 2);
    campaign();
    hear(2, grant(false));
    assert_int_equal(copying(4, 8, 2), -EALREADY);
    assert_true(raft->role == SL_RAFT_LEADER && raft->term.value == 4);
    assert_true(raft->commit.value == 0 && count(SL_RAFT_DO_COMMIT) == 0);
}

static void a_copying_replica(void **state)
{
    struct sl_raft_span span = {8, {1}, 0};
    make(1, &span, 1);
    struct sl_raft_config other = config, later = config, unsound = {.count = 88};
    other.index = sl_index_of(5);
    later.index = sl_index_of(7);
    struct sl_raft_event copied = {.kind = SL_RAFT_COPIED, .copied = {{6}, {1}, &other}};
    assert_int_equal(feed(copied), -EINVAL); /* no resync was begun */
    feed((struct sl_raft_event){.kind = SL_RAFT_COPYING, .copying = {{3}, {6}, {0}}});
    assert_true(the(SL_RAFT_DO_SAVE)->term.value == 3 && sl_raft_deadline(raft) == UINT64_MAX);
    saved();
    hear(2, append(3, 8, 1, 2, 3));
    assert_int_equal(count(SL_RAFT_DO_WRITE), 0);
    assert_true(sent()->flags == SL_RAFT_FLAG_COPYING && sent()->commit.value == 6);
    assert_true(sent()->index.value == 0 && sent()->hint.value == 0);
    feed((struct sl_raft_event){.kind = SL_RAFT_COPYING, .copying = {{2}, {4}}});
    assert_int_equal(count(SL_RAFT_DO_SAVE), 0);
    const struct sl_raft_event good = copied;
    struct sl_raft_event bad[5] = {good, good, good, good, good};
    bad[0].copied.index = sl_index_of(5); /* older than what was begun */
    bad[1].copied.term = sl_term_of(4);
    bad[2].copied.config = &unsound;
    bad[3].copied.config = &later;
    bad[4].copied.index = sl_index_of(SL_POSITION_MAX + 1);
    for (unsigned i = 0; i < SL_COUNT_OF(bad); i++) {
        if (feed(bad[i]) != -EINVAL || !raft->copying)
            fail_msg("copied %u", i);
    }
    assert_int_equal(feed(good), 0); /* it fits: the entries behind it stay */
    assert_true(!raft->copying && raft->commit.value == 6 && raft->log.last.value == 8);
    assert_true(raft->log.boundary.value == 6 && sent()->flags == 0 && sent()->index.value == 6);
    assert_int_equal(sl_raft_get_config(raft)->index.value, 5);
    feed((struct sl_raft_event){.kind = SL_RAFT_COPYING, .copying = {{3}, {8}}});
    copied.copied.index = sl_index_of(8);
    assert_int_equal(feed(copied), 0);
    assert_true(raft->log.boundary.value == 8 && raft->log.last.value == 8);
    feed((struct sl_raft_event){.kind = SL_RAFT_COPYING, .copying = {{3}, {12}}});
    copied.copied.index = sl_index_of(12);
    assert_int_equal(feed(copied), 0); /* it does not: there was nothing behind 8 */
    assert_true(raft->log.boundary.value == 12 && raft->log.last.value == 12);
    assert_int_equal(sl_raft_term_at(raft, sl_index_of(12)).value, 1);
    hear(2, append(3, 12, 1, 2, 3));
    wrote();
    feed((struct sl_raft_event){.kind = SL_RAFT_COPYING, .copying = {{3}, {13}}});
    copied.copied.index = sl_index_of(13);
    copied.copied.term = sl_term_of(2); /* ours there is of term 3 */
    assert_int_equal(feed(copied), 0);
    assert_true(raft->log.last.value == 13 && raft->log.durable.value == 13);
}

static void a_leader_learns_what_is_committed(void **state)
{
    struct sl_raft_span span = {8, {1}, 0};
    make(1, &span, 1);
    campaign();
    hear(2, grant(false));
    struct sl_raft_message m = {.kind = SL_RAFT_APPEND_ANSWER,
                                .flags = SL_RAFT_FLAG_COPYING,
                                .commit = {6},
                                .sent_ns = now_ns};
    hear(3, m);
    assert_int_equal(the(SL_RAFT_DO_COMMIT)->last.value, 6);
    assert_int_equal(raft->role, SL_RAFT_LEADER);
    hear(3, m);
    assert_int_equal(count(SL_RAFT_DO_COMMIT), 0);
}

/* ---- shared heartbeats */

static void a_follower_under_the_shared_heartbeat(void **state)
{
    links = sl_raft_links_init(links_memory, 4, 9);
    make(1, NULL, 0);
    struct sl_raft_message m = append(1, 0, 0, 0, 0);
    m.epoch = 11;
    hear(2, m);
    struct sl_raft_link *link = sl_raft_links_get(links, 2);
    struct sl_raft_beat beat = {11, 1234, {link->follow_sum[0], link->follow_sum[1]}, 1};
    struct sl_raft_beat_answer answer;
    now_ns += 500;
    sl_raft_links_receive(links, 2, now_ns, &beat, &answer);
    assert_true(answer.equal && answer.epoch == 11 && answer.sent_ns == 1234);
    assert_int_equal(sl_raft_heard_ns(raft), now_ns);
    for (unsigned wrong = 0; wrong < 3; wrong++) {
        struct sl_raft_beat other = beat;
        other.sum[0] += wrong == 0, other.sum[1] += wrong == 1, other.count += wrong == 2;
        sl_raft_links_receive(links, 2, now_ns + 7, &other, &answer);
        assert_false(answer.equal);
    }
    assert_int_equal(sl_raft_heard_ns(raft), now_ns);
    m.epoch = 0; /* its leader says: no more */
    hear(2, m);
    assert_true(link->follow_count == 0 && link->follow_sum[0] == 0 && link->follow_sum[1] == 0);
    m.epoch = 11;
    hear(2, m);
    hear(2, m);
    assert_int_equal(link->follow_count, 1);
    beat.epoch = 12; /* its node has begun anew */
    sl_raft_links_receive(links, 2, now_ns + 9, &beat, &answer);
    assert_true(!answer.equal && link->follow_count == 0);
    beat.epoch = 11; /* an old one: nothing comes back by it */
    sl_raft_links_receive(links, 2, now_ns + 9, &beat, &answer);
    assert_true(!answer.equal && sl_raft_heard_ns(raft) == now_ns);
    hear(2, m);
    assert_int_equal(link->follow_count, 1);
    hear(3, append(2, 0, 0, 0, 0)); /* another term */
    assert_true(link->follow_count == 0 && link->follow_sum[0] == 0);
}

/* The sum over one group, as its follower keeps it. */
static void sum_of(uint64_t group, uint64_t term, uint64_t leader, uint64_t follower,
                   uint64_t sum[2])
{
    links = sl_raft_links_init(links_memory, 4, 9);
    struct sl_raft_setup s = {.group = group,
                              .self = {follower, 1},
                              .tuning = &tuning,
                              .links = links,
                              .now_ns = now_ns,
                              .config = &config};
    const char *why;
    static uint64_t room[1024];
    struct sl_raft *other;
    assert_true(sl_raft_bytes(4) <= sizeof(room));
    assert_int_equal(sl_raft_init(room, 4, &s, &other, &why), 0);
    struct sl_raft_message m = {.kind = SL_RAFT_APPEND,
                                .from = {leader, 2},
                                .to = {follower, 1},
                                .term = {term},
                                .epoch = 5};
    struct sl_raft_event event = {
        .kind = SL_RAFT_MESSAGE, .now_ns = now_ns, .message = {.message = &m}};
    sl_raft_step(other, &event, &output);
    struct sl_raft_link *link = sl_raft_links_get(links, 2);
    assert_int_equal(link->follow_count, 1);
    sum[0] = link->follow_sum[0];
    sum[1] = link->follow_sum[1];
}

static void a_sum_names_group_term_and_replicas(void **state)
{
    static const uint64_t what[][4] = {{7, 3, 2, 1}, {8, 3, 2, 1}, {7, 4, 2, 1}, {7, 3, 3, 1},
                                       {7, 3, 2, 9}, {7, 3, 1, 2}, {3, 7, 2, 1}};
    uint64_t sums[SL_COUNT_OF(what)][2];
    for (unsigned i = 0; i < SL_COUNT_OF(what); i++) {
        sum_of(what[i][0], what[i][1], what[i][2], what[i][3], sums[i]);
        for (unsigned j = 0; j < i; j++)
            assert_true(sums[i][0] != sums[j][0] && sums[i][1] != sums[j][1]);
    }
    uint64_t again[2];
    sum_of(7, 3, 2, 1, again);
    assert_true(again[0] == sums[0][0] && again[1] == sums[0][1]);
}

static void a_leader_under_the_shared_heartbeat(void **state)
{
    links = sl_raft_links_init(links_memory, 4, 9);
    make(1, NULL, 0);
    struct sl_raft_beat beat;
    assert_int_equal(sl_raft_links_beat(links, 2, now_ns, &beat), 0);
    lead(1);
    struct sl_raft_message yes = accept(1);
    yes.commit = sl_index_of(1);
    for (uint64_t i = 2; i <= 4; i++) {
        hear(i, yes);
        assert_true(sent()->to.id == i && sent()->epoch != 0 && sent()->count == 0);
    }
    assert_int_equal(sl_raft_links_beat(links, 2, now_ns, &beat), 1);
    uint64_t covered_ns = now_ns, timeout_ns = covered_ns + T;
    assert_int_equal(sl_raft_deadline(raft), timeout_ns); /* no beats of its own */
    struct sl_raft_beat_answer answer = {beat.epoch, covered_ns, true};
    assert_false(sl_raft_links_answered(links, 2, now_ns, &answer));
    assert_int_equal(sl_raft_deadline(raft), timeout_ns); /* sent before it was covered */
    now_ns += 1000;
    answer.sent_ns = now_ns + 1;
    sl_raft_links_answered(links, 2, now_ns, &answer); /* never sent */
    assert_int_equal(sl_raft_deadline(raft), timeout_ns);
    answer.sent_ns = now_ns - 10;
    sl_raft_links_answered(links, 2, now_ns, &answer);
    assert_int_equal(sl_raft_deadline(raft), now_ns - 10 + T);
    answer.epoch++;
    answer.equal = false;
    for (unsigned i = 0; i < 5; i++)
        assert_false(sl_raft_links_answered(links, 2, now_ns, &answer));
    answer.epoch--;
    for (unsigned i = 0; i < 2; i++)
        assert_false(sl_raft_links_answered(links, 2, now_ns, &answer));
    answer.equal = true;
    assert_false(sl_raft_links_answered(links, 2, now_ns, &answer));
    answer.equal = false;
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(sl_raft_links_answered(links, 2, now_ns, &answer), i == 2);
    assert_int_equal(sl_raft_links_beat(links, 2, now_ns, &beat), 0);
    assert_true(sl_raft_deadline(raft) <= now_ns + T / 10); /* speaks for itself again */
    uint64_t sum[2] = {beat.sum[0], beat.sum[1]}, epoch = beat.epoch;
    hear(2, yes);
    assert_int_equal(sl_raft_links_beat(links, 2, now_ns, &beat), 1);
    assert_true(beat.sum[0] == sum[0] && beat.sum[1] == sum[1] && beat.epoch != epoch);
    assert_int_equal(sl_raft_links_beat(links, 3, now_ns, &beat), 1);
    hear(3, (struct sl_raft_message){.kind = SL_RAFT_APPEND, .term = {9}});
    assert_int_equal(sl_raft_links_beat(links, 3, now_ns, &beat), 0);
    struct sl_raft_link *link = sl_raft_links_get(links, 3);
    assert_true(link->lead_sum[0] == 0 && link->lead_sum[1] == 0);
}

static void how_far_members_are(void **state)
{
    struct sl_raft_member first = config.members[0]; /* the leader's slot is not the first */
    config.members[0] = config.members[1];
    config.members[1] = first;
    make(0, NULL, 0);
    assert_int_equal(sl_raft_match(raft, 2).value, 0);
    lead(1);
    propose(5, 500); /* not durable here yet */
    hear(2, accept(6));
    assert_int_equal(sl_raft_match(raft, 1).value, 1);
    assert_int_equal(sl_raft_match(raft, 2).value, 6);
    assert_int_equal(sl_raft_match(raft, 4).value, 1);
    assert_int_equal(sl_raft_match(raft, 99).value, 0);
    hear(3, (struct sl_raft_message){.kind = SL_RAFT_APPEND, .term = {9}});
    assert_int_equal(sl_raft_match(raft, 1).value, 1);
    assert_int_equal(sl_raft_match(raft, 2).value, 0); /* it leads no more */
}

/* Nodes that may not cover each other's groups: each speaks for itself, also when that was not so.
 */
static void links_that_are_refused(void **state)
{
    links = sl_raft_links_init(links_memory, 4, 9);
    make(1, NULL, 0);
    struct sl_raft_beat beat;
    struct sl_raft_beat_answer answer;
    assert_false(sl_raft_links_allow(links, 3, false)); /* nothing was covered */
    lead(1);
    struct sl_raft_message yes = accept(1);
    yes.commit = sl_index_of(1);
    hear(2, yes);
    assert_int_not_equal(sent()->epoch, 0);
    hear(3, yes);
    assert_int_equal(count(SL_RAFT_DO_SEND), 0); /* there is no beat that could */
    hear(4, yes);
    assert_int_equal(sl_raft_links_beat(links, 2, now_ns, &beat), 1);
    assert_int_equal(sl_raft_links_beat(links, 3, now_ns, &beat), 0);
    sl_raft_links_receive(links, 3, now_ns, &(struct sl_raft_beat){.epoch = 5}, &answer);
    assert_false(answer.equal);
    assert_false(sl_raft_links_allow(links, 2, true)); /* as it was */
    assert_int_equal(sl_raft_links_beat(links, 2, now_ns, &beat), 1);
    assert_true(sl_raft_links_allow(links, 2, false));
    assert_false(sl_raft_links_allow(links, 2, false));
    assert_int_equal(sl_raft_links_beat(links, 2, now_ns, &beat), 0);
    assert_true(sl_raft_deadline(raft) <= now_ns + T / 10);
    assert_false(sl_raft_links_allow(links, 2, true));
    assert_int_equal(sl_raft_links_beat(links, 2, now_ns, &beat), 0); /* until its leader says so */
    for (unsigned round = 0; round < 2; round++) {
        hear(2, yes);
        assert_int_equal(sl_raft_links_beat(links, 2, now_ns, &beat), 1);
        answer = (struct sl_raft_beat_answer){.epoch = beat.epoch, .sent_ns = now_ns};
        for (unsigned i = 0; i < 3; i++) /* each time three in a row */
            assert_int_equal(sl_raft_links_answered(links, 2, now_ns, &answer), i == 2);
    }
    hear(2, yes);
    assert_int_equal(sl_raft_links_beat(links, 2, now_ns, &beat), 1);
    struct sl_raft_link *link = sl_raft_links_get(links, 2);
    assert_true(link->lead_count == 1 && beat.count == 1 && beat.epoch == link->lead_epoch);
    assert_true(sl_raft_links_get(links, 77) != NULL && sl_raft_links_get(links, 78) == NULL);
    assert_false(sl_raft_links_allow(links, 78, false)); /* there is no room for it */
    sl_raft_links_allow(links, 77, false);
    assert_null(sl_raft_links_get(links, 77));
    struct sl_raft_message covered = append(9, 0, 0, 0, 0); /* one group is followed there */
    covered.epoch = 3;
    hear(3, covered);
    sl_raft_links_allow(links, 4, true);
    covered.term = sl_term_of(10);
    hear(4, covered);
    saved();
    hear(4, covered);
    assert_int_equal(sl_raft_links_get(links, 4)->follow_count, 1);
    assert_true(sl_raft_links_allow(links, 4, false));
}

static void what_a_follower_takes_back(void **state)
{
    make(0, NULL, 0);
    lead(1);
    propose(5, 500);
    wrote();
    hear(2, accept(6));
    hear(3, accept(6));
    assert_true(raft->commit.value == 6 && raft->progress[1].match.value == 6);
    struct sl_raft_message mending = {.kind = SL_RAFT_APPEND_ANSWER,
                                      .flags = SL_RAFT_FLAG_REJECTED | SL_RAFT_FLAG_MENDING,
                                      .index = {6},
                                      .sent_ns = now_ns};
    struct sl_raft_message late = mending;
    mending.hint = sl_index_of(7); /* nothing of what counts */
    hear(2, mending);
    assert_int_equal(raft->progress[1].match.value, 6);
    mending.hint = sl_index_of(0); /* from nowhere */
    hear(2, mending);
    assert_int_equal(raft->progress[1].match.value, 6);
    late.flags = SL_RAFT_FLAG_REJECTED, late.hint = sl_index_of(4); /* and it does not say so */
    hear(2, late);
    assert_int_equal(raft->progress[1].match.value, 6);
    mending.hint = sl_index_of(4);
    hear(2, mending);
    assert_true(raft->progress[1].match.value == 3 && raft->progress[1].state == PROBE);
    assert_true(sent()->to.id == 2 && sent()->index.value == 3 && sent()->count == 3);
    assert_int_equal(raft->commit.value, 6); /* stays committed */
    hear(2, accept(6));
    assert_true(raft->progress[1].match.value == 6 && raft->progress[1].state == REPLICATE);
    mending.hint = sl_index_of(6); /* the newest alone */
    hear(2, mending);
    assert_true(sent()->index.value == 5 && sent()->count == 1);
    raft->progress[1].state = RESYNC;
    mending.hint = sl_index_of(5);
    hear(2, mending);
    assert_true(raft->progress[1].state == RESYNC && raft->progress[1].match.value == 4);
}

static void no_lease_by_clocks_that_may_do_anything(void **state)
{
    tuning.drift_ppm = 1000000;
    make(0, NULL, 0);
    lead(1);
    hear(2, accept(1));
    hear(3, accept(1));
    assert_false(sl_raft_has_lease(raft, now_ns));
    assert_false(sl_raft_has_lease(raft, now_ns - 1));
    assert_int_equal(feed((struct sl_raft_event){.kind = SL_RAFT_READ}), 0);
    assert_int_not_equal(output.round, 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(leases_end_on_time),
        CASE(beats_and_probes),
        CASE(back_off_by_terms),
        CASE(limits_in_bytes),
        CASE(limits_of_what_is_not_committed),
        CASE(the_largest_proposal),
        CASE(a_lease_comes_back),
        CASE(seven_members),
        CASE(received_and_not_durable),
        CASE(changes_are_refused),
        CASE(rounds_of_reads),
        CASE(members_keep_their_progress),
        CASE(timeout_now_is_repeated),
        CASE(timeout_now_is_obeyed_or_not),
        CASE(a_follower_that_needs_a_resync),
        CASE(what_was_committed),
        CASE(a_state_that_is_known),
        CASE(a_copying_replica),
        CASE(a_leader_learns_what_is_committed),
        CASE(how_far_members_are),
        CASE(links_that_are_refused),
        CASE(what_a_follower_takes_back),
        CASE(no_lease_by_clocks_that_may_do_anything),
        CASE(a_follower_under_the_shared_heartbeat),
        CASE(a_sum_names_group_term_and_replicas),
        CASE(a_leader_under_the_shared_heartbeat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
