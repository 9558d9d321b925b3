/*
 * Goal: what the simulator can not judge: how the log's terms and bytes are kept, that
 * contradictory durable state and messages that no replica sends do no harm, and that a deadline is
 * never missed. Method: the log against an array of entries; hand-made set-ups; random messages to
 * one group.
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

static uint64_t state = 1;

static uint64_t draw(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static const struct sl_raft_tuning tuning = {.election_ns = SL_NS_PER_S,
                                             .heartbeat_ns = SL_NS_PER_S / 10,
                                             .drift_ppm = 1000,
                                             .append_entries = 64,
                                             .append_bytes = 1 << 20,
                                             .window_entries = 256,
                                             .window_bytes = 4 << 20,
                                             .uncommitted_entries = 1024,
                                             .uncommitted_bytes = 16 << 20,
                                             .promote_lag = 16};

/* ---- the log */

enum { MOST = 4000 };

struct model {
    uint64_t boundary, last;
    uint64_t term[MOST], bytes[MOST];
};

static void check_log(const struct log *log, const struct model *model)
{
    assert_true(log->boundary.value == model->boundary && log->last.value == model->last);
    for (uint64_t i = model->boundary; i <= model->last; i++)
        assert_true(sl_raft_log_term(log, sl_index_of(i)).value == model->term[i]);
    assert_true(sl_raft_log_term(log, sl_index_of(model->last + 1)).value == 0);
    assert_true(sl_raft_log_last_term(log).value == model->term[model->last]);
    if (model->boundary > 0)
        assert_true(sl_raft_log_term(log, sl_index_of(model->boundary - 1)).value == 0);
    if (model->last == model->boundary)
        return;
    uint64_t at = model->boundary + 1 + draw(model->last - model->boundary), first = at, last = at;
    while (first - 1 > model->boundary && model->term[first - 1] == model->term[at])
        first--;
    while (last + 1 <= model->last && model->term[last + 1] == model->term[at])
        last++;
    assert_true(sl_raft_log_run_first(log, sl_index_of(at)).value == first);
    assert_true(sl_raft_log_run_last(log, sl_index_of(at)).value == last);
    uint64_t term = model->term[at] + draw(3), behind = model->last;
    while (behind > model->boundary && model->term[behind] > term)
        behind--;
    assert_true(sl_raft_log_last_of(log, sl_term_of(term)).value == behind);
}

static void log_is_as_the_model(void **unused)
{
    for (unsigned run = 0; run < 200; run++) {
        struct run runs[32];
        struct log log = {.runs = runs, .run_capacity = 32};
        struct model *model = calloc(1, sizeof(*model));
        assert_non_null(model);
        uint64_t term = 1;
        state = run + 1;
        while (model->last + 40 < MOST && model->last < 1500) {
            uint64_t what = draw(10), held = model->last - model->boundary;
            if (what == 0)
                term++;
            if (what < 7 && sl_raft_log_make_room(&log, sl_term_of(term), log.last)) {
                uint64_t count = 1 + draw(30);
                for (uint64_t i = 0; i < count; i++)
                    model->term[++model->last] = term;
                sl_raft_log_append(&log, count, sl_term_of(term), count * 100);
            } else if (what == 7 && held > 0) {
                model->last -= 1 + draw(sl_min(held, UINT64_C(20)));
                sl_raft_log_truncate(&log, sl_index_of(model->last + 1));
                term++;
            } else if (what == 8) {
                model->boundary += draw(held + 1);
                sl_raft_log_compact(&log, sl_index_of(model->boundary));
            }
            log.durable = log.last;
            model->boundary = log.boundary.value; /* make_room may have moved it */
            check_log(&log, model);
            if (model->last > model->boundary)
                assert_true(sl_raft_log_bytes(&log, sl_index_of(model->last),
                                              sl_index_of(model->last)) == 100);
        }
        free(model);
    }
}

/* The sum over a range is exact while its buckets are, and never forgets an entry's bytes. */
static void bytes_are_counted(void **unused)
{
    struct run runs[4];
    struct log log = {.runs = runs, .run_capacity = 4};
    for (unsigned i = 1; i <= 100; i++)
        sl_raft_log_append(&log, MARK_ENTRIES, sl_term_of(1), MARK_ENTRIES * i);
    assert_int_equal(sl_raft_log_bytes(&log, sl_index_of(99 * MARK_ENTRIES + 1),
                                       sl_index_of(100 * MARK_ENTRIES)),
                     100 * MARK_ENTRIES);
    assert_int_equal(sl_raft_log_bytes(&log, sl_index_of(98 * MARK_ENTRIES + 1),
                                       sl_index_of(100 * MARK_ENTRIES - 10)),
                     99 * MARK_ENTRIES + 100 * (MARK_ENTRIES - 10));
    uint64_t total = (uint64_t)MARK_ENTRIES * 5050;
    uint64_t all =
        sl_raft_log_bytes(&log, sl_index_of(1), sl_index_of(UINT64_C(100) * MARK_ENTRIES));
    assert_true(all <= total && all > total - 100 * MARK_ENTRIES);
    assert_int_equal(log.entry_bytes_most, 100);
    /* The oldest buckets have become one, of 89 * 64 entries of 45 bytes in the mean. */
    uint64_t oldest = sl_raft_log_bytes(&log, sl_index_of(1), sl_index_of(100));
    assert_in_range(oldest, 4400, 4600);
}

/* Of committed terms the oldest makes room; its entries count as compacted. */
static void room_is_made(void **unused)
{
    struct run runs[3];
    struct log log = {.runs = runs, .run_capacity = 3};
    for (uint64_t term = 1; term <= 3; term++)
        sl_raft_log_append(&log, 2, sl_term_of(term), 2);
    assert_true(sl_raft_log_make_room(&log, sl_term_of(3), sl_index_of(0)));
    log.durable = sl_index_of(6);
    assert_false(sl_raft_log_make_room(&log, sl_term_of(4), sl_index_of(1)));
    log.durable = sl_index_of(1);
    assert_false(sl_raft_log_make_room(&log, sl_term_of(4), sl_index_of(6)));
    assert_int_equal(log.boundary.value, 0);
    log.durable = sl_index_of(2);
    assert_true(sl_raft_log_make_room(&log, sl_term_of(4), sl_index_of(2)));
    assert_true(log.boundary.value == 2 && log.boundary_term.value == 1 && log.run_count == 2);
}

/* What is written counts only as far as it was not truncated since. */
static void written_and_truncated(void **unused)
{
    struct run runs[8];
    struct log log = {.runs = runs, .run_capacity = 8};
    sl_raft_log_append(&log, 10, sl_term_of(1), 10);
    log.ticket = 1;
    sl_raft_log_truncate(&log, sl_index_of(6));
    sl_raft_log_append(&log, 5, sl_term_of(2), 5);
    log.ticket = 2;
    sl_raft_log_truncate(&log, sl_index_of(8));
    sl_raft_log_append(&log, 3, sl_term_of(3), 5);
    log.ticket = 3;
    sl_raft_log_written(&log, 1, sl_index_of(10));
    assert_int_equal(log.durable.value, 5);
    sl_raft_log_written(&log, 2, sl_index_of(10));
    assert_true(log.durable.value >= 5 && log.durable.value <= 7);
    sl_raft_log_written(&log, 3, sl_index_of(10));
    assert_int_equal(log.durable.value, 10);
    sl_raft_log_truncate(&log, sl_index_of(9));
    assert_int_equal(log.durable.value, 8);
    sl_raft_log_append(&log, 1, sl_term_of(4), 5);
    log.ticket = 4;
    sl_raft_log_written(&log, 4, sl_index_of(9));
    assert_int_equal(log.durable.value, 9);
    /* Nothing is being written: what was cut off earlier says nothing about the next write. */
    sl_raft_log_append(&log, 5, sl_term_of(5), 5);
    log.ticket = 5;
    sl_raft_log_truncate(&log, sl_index_of(13));
    sl_raft_log_written(&log, 5, sl_index_of(14));
    assert_int_equal(log.durable.value, 12);
    /* All is written, then cut off; the next write is cut off further behind. */
    sl_raft_log_truncate(&log, sl_index_of(11));
    sl_raft_log_append(&log, 5, sl_term_of(6), 5);
    log.ticket = 6;
    sl_raft_log_truncate(&log, sl_index_of(14));
    sl_raft_log_written(&log, 6, sl_index_of(15));
    assert_int_equal(log.durable.value, 13);
    /* After a resync: a write of the log before it. */
    sl_raft_log_append(&log, 4, sl_term_of(6), 5);
    log.ticket = 7;
    sl_raft_log_reset(&log, sl_index_of(13), sl_term_of(6));
    sl_raft_log_append(&log, 2, sl_term_of(7), 5);
    log.ticket = 8;
    sl_raft_log_written(&log, 7, sl_index_of(16));
    assert_int_equal(log.durable.value, 13);
    sl_raft_log_written(&log, 8, sl_index_of(15));
    assert_int_equal(log.durable.value, 15);
}

/* ---- configurations */

static void changes_of_configurations(void **unused)
{
    struct sl_raft_config one = {.count = 1, .members = {{11, 1, SL_RAFT_VOTER}}}, after;
    assert_true(sl_raft_config_is_sound(&one));
    static const struct {
        enum sl_raft_change change;
        struct sl_raft_replica replica;
        int result;
    } wrong[] = {
        {SL_RAFT_ADD_LEARNER, {0, 2}, -EINVAL},
        {SL_RAFT_ADD_LEARNER, {11, 2}, -EEXIST},
        {SL_RAFT_ADD_LEARNER, {12, 1}, -EEXIST},
        {SL_RAFT_PROMOTE, {12, 2}, -ENOENT},
        {SL_RAFT_PROMOTE, {11, 1}, -EEXIST},
        {SL_RAFT_DEMOTE, {11, 1}, -EPERM},
        {SL_RAFT_REMOVE, {11, 1}, -EPERM},
        {SL_RAFT_REMOVE, {12, 1}, -ENOENT},
        {77, {11, 1}, -EINVAL},
    };
    for (unsigned i = 0; i < SL_COUNT_OF(wrong); i++)
        assert_int_equal(sl_raft_config_change(&one, wrong[i].change, wrong[i].replica, &after),
                         wrong[i].result);
    struct sl_raft_config config = one;
    for (uint32_t node = 2; node <= SL_RAFT_MEMBERS_MAX; node++) {
        struct sl_raft_replica replica = {10 + node, node};
        assert_int_equal(sl_raft_config_change(&config, SL_RAFT_ADD_LEARNER, replica, &after), 0);
        assert_int_equal(sl_raft_config_voter_count(&after), 1);
        config = after;
    }
    struct sl_raft_replica many = {99, 99}, two = {12, 2};
    struct sl_raft_replica same_id = {13, 88}, same_node = {88, 3};
    assert_int_equal(sl_raft_config_change(&config, SL_RAFT_ADD_LEARNER, same_id, &after), -EEXIST);
    assert_int_equal(sl_raft_config_change(&config, SL_RAFT_ADD_LEARNER, same_node, &after),
                     -EEXIST);
    struct sl_raft_config stale = config;
    stale.index = sl_index_of(9);
    stale.count = 1;
    stale.members[1].kind = SL_RAFT_VOTER; /* behind its end */
    assert_int_equal(sl_raft_config_voter_count(&stale), 1);
    struct sl_raft_replica new = {55, 55};
    assert_int_equal(sl_raft_config_change(&stale, SL_RAFT_ADD_LEARNER, new, &after), 0);
    assert_true(after.index.value == 0 && after.count == 2 && after.members[1].id == 55);
    assert_int_equal(sl_raft_config_change(&config, SL_RAFT_ADD_LEARNER, many, &after), -ENOSPC);
    assert_int_equal(sl_raft_config_change(&config, SL_RAFT_DEMOTE, two, &after), -EEXIST);
    assert_int_equal(sl_raft_config_change(&config, SL_RAFT_PROMOTE, two, &after), 0);
    assert_true(sl_raft_config_is_voter(&after, 12) && sl_raft_config_voter_count(&after) == 2);
    config = after;
    assert_int_equal(sl_raft_config_change(&config, SL_RAFT_DEMOTE, two, &after), 0);
    assert_false(sl_raft_config_is_voter(&after, 12));
    assert_int_equal(sl_raft_config_change(&config, SL_RAFT_REMOVE, two, &after), 0);
    assert_int_equal(after.count, SL_RAFT_MEMBERS_MAX - 1);
    assert_int_equal(sl_raft_config_find(&after, 12), -1);
    assert_true(sl_raft_config_is_sound(&after));
    static const struct sl_raft_config unsound[] = {
        {.count = SL_RAFT_MEMBERS_MAX + 1},
        {.count = 1, .members = {{0, 1, SL_RAFT_VOTER}}},
        {.count = 1, .members = {{1, 1, 3}}},
        {.count = 2, .members = {{1, 1, SL_RAFT_VOTER}, {1, 2, SL_RAFT_VOTER}}},
        {.count = 2, .members = {{1, 1, SL_RAFT_VOTER}, {2, 1, SL_RAFT_VOTER}}},
        {.count = 3,
         .members = {{1, 1, SL_RAFT_VOTER}, {2, 2, SL_RAFT_VOTER}, {2, 3, SL_RAFT_VOTER}}},
    };
    for (unsigned i = 0; i < SL_COUNT_OF(unsound); i++)
        assert_false(sl_raft_config_is_sound(&unsound[i]));
}

/* ---- durable state that contradicts itself */

static int try_setup(const struct sl_raft_setup *setup)
{
    void *memory = malloc(sl_raft_bytes(8));
    struct sl_raft *raft;
    const char *why = NULL;
    assert_non_null(memory);
    int result = sl_raft_init(memory, 8, setup, &raft, &why);
    assert_true((result == 0) == (why == NULL));
    free(memory);
    return result;
}

static void contradictory_setups_are_refused(void **unused)
{
    struct sl_raft_config config = {.count = 1, .members = {{1, 1, SL_RAFT_VOTER}}};
    struct sl_raft_config later = config, unsound = {.count = 99};
    later.index = sl_index_of(12);
    struct sl_raft_span spans[2] = {{4, {3}, 100}, {4, {5}, 100}};
    const struct sl_raft_setup good = {.self = {1, 1},
                                       .tuning = &tuning,
                                       .term = {5},
                                       .boundary = {10},
                                       .boundary_term = {2},
                                       .config = &config,
                                       .spans = spans,
                                       .span_count = 2,
                                       .configs = &later,
                                       .config_count = 1};
    assert_int_equal(try_setup(&good), 0);
    struct sl_raft_tuning beats = tuning, drift = tuning, none = tuning, slow = tuning;
    slow.election_ns = 1001 * SL_NS_PER_S;
    beats.heartbeat_ns = tuning.election_ns / 2;
    drift.drift_ppm = 1000001;
    none.window_entries = 0;
    struct sl_raft_span falls[2] = {{4, {3}, 0}, {4, {2}, 0}}, empty[1] = {{0, {3}, 0}};
    struct sl_raft_span huge[1] = {{UINT64_MAX, {3}, 0}};
    struct sl_raft_config outside = config, at_boundary = config;
    outside.index = sl_index_of(19);
    at_boundary.index = sl_index_of(10);
    static struct sl_raft_setup bad[15];
    for (unsigned i = 0; i < SL_COUNT_OF(bad); i++)
        bad[i] = good;
    bad[0].self.id = 0;
    bad[1].tuning = &beats;
    bad[2].tuning = &drift;
    bad[3].tuning = &none;
    bad[4].spans = falls;
    bad[5].spans = empty, bad[5].span_count = 1;
    bad[6].spans = huge, bad[6].span_count = 1;
    bad[7].term = sl_term_of(4);
    bad[8].config = &unsound;
    bad[9].configs = &unsound;
    bad[10].configs = &outside;
    bad[11].configs = &at_boundary;
    bad[12].boundary = sl_index_of(UINT64_MAX);
    bad[13].config = &later;
    bad[14].tuning = &slow;
    for (unsigned i = 0; i < SL_COUNT_OF(bad); i++) {
        if (try_setup(&bad[i]) != -EINVAL)
            fail_msg("set-up %u is not refused", i);
    }
}

/* ---- messages that no replica sends */

static uint64_t odd_number(void)
{
    switch (draw(6)) {
    case 0:
        return UINT64_MAX - draw(3);
    case 1:
        return SL_POSITION_MAX - 1 + draw(3);
    case 2:
        return 0;
    default:
        return draw(40);
    }
}

static struct sl_raft_message odd_message(const struct sl_raft *raft)
{
    return (struct sl_raft_message){
        .kind = (uint32_t)draw(8),
        .flags = (uint32_t)draw(64),
        .from = {draw(5), (uint32_t)draw(5)},
        .to = {1 + (draw(10) == 0), 1},
        .term = {draw(3) == 0 ? odd_number() : raft->term.value + draw(2)},
        .index = {draw(3) == 0 ? odd_number() : raft->log.last.value},
        .index_term = {draw(3) == 0 ? odd_number() : draw(4)},
        .entry_term = {draw(3) == 0 ? odd_number() : draw(4)},
        .count = draw(20) == 0 ? UINT32_MAX : (uint32_t)draw(6),
        .hint = {odd_number()},
        .commit = {odd_number()},
        .round = odd_number(),
        .sent_ns = odd_number(),
        .epoch = odd_number(),
    };
}

/* Answers the machine's writes at once, or later, or never. */
static void obey(struct sl_raft *raft, struct sl_raft_output *output, uint64_t now_ns)
{
    static struct sl_raft_event events[SL_RAFT_ACTIONS_MAX];
    unsigned count = 0;
    for (unsigned i = 0; i < output->count; i++) {
        const struct sl_raft_action *action = &output->actions[i];
        if (action->kind == SL_RAFT_DO_SAVE || action->kind == SL_RAFT_DO_WRITE)
            events[count++] = (struct sl_raft_event){
                .kind = action->kind == SL_RAFT_DO_SAVE ? SL_RAFT_SAVED : SL_RAFT_WRITTEN,
                .now_ns = now_ns,
                .done = {action->ticket, action->last}};
    }
    for (unsigned i = 0; i < count && draw(8) != 0; i++)
        sl_raft_step(raft, &events[i], output);
}

static void messages_that_no_replica_sends(void **unused)
{
    struct sl_raft_output *output = malloc(sizeof(*output));
    void *memory = malloc(sl_raft_bytes(8)), *room = malloc(16 * 4096);
    struct sl_raft_links *links = sl_raft_links_init(malloc(sl_raft_links_bytes(3)), 3, 5);
    unsigned complaints = 0, leaders = 0;
    for (unsigned run = 0; run < 3000; run++) {
        struct sl_raft_config config = {.count = 3};
        for (uint32_t i = 0; i < 3; i++)
            config.members[i] = (struct sl_raft_member){i + 1, i + 1, SL_RAFT_VOTER};
        state = run * 77 + 1;
        struct sl_raft_setup setup = {.self = {1, 1},
                                      .tuning = &tuning,
                                      .links = links,
                                      .config = &config,
                                      .now_ns = 1,
                                      .copying = {draw(9) == 0},
                                      .promised = {draw(5) == 0 ? draw(9) : 0}};
        struct sl_raft *raft;
        const char *why;
        assert_int_equal(sl_raft_init(memory, 8, &setup, &raft, &why), 0);
        uint64_t now_ns = 1;
        bool grown = false;
        for (unsigned step = 0; step < 60; step++) {
            struct sl_raft_message message = odd_message(raft);
            if (draw(3) == 0) { /* what it waits for */
                bool pre = raft->role == SL_RAFT_PRE_CANDIDATE;
                message = (struct sl_raft_message){.kind = SL_RAFT_VOTE_ANSWER,
                                                   .flags = SL_RAFT_FLAG_GRANTED |
                                                            (pre ? SL_RAFT_FLAG_PRE : 0),
                                                   .from = {2, 2},
                                                   .to = {1, 1},
                                                   .term = {raft->term.value + pre}};
            }
            struct sl_raft_config odd = config;
            odd.index = sl_index_of(message.index.value + draw(4));
            odd.count = draw(9) == 0 ? 88 : 3;
            now_ns += draw(draw(2) == 0 ? SL_NS_PER_S : 1000);
            struct sl_raft_event event = {.kind = SL_RAFT_MESSAGE, .now_ns = now_ns};
            event.message.message = &message;
            event.message.configs = &odd;
            event.message.config_count = draw(5) == 0;
            event.message.bytes = draw(100000);
            if (draw(3) == 0)
                event = (struct sl_raft_event){.kind = SL_RAFT_TICK, .now_ns = now_ns};
            sl_raft_step(raft, &event, output);
            for (unsigned i = 0; i < output->count; i++) {
                complaints += output->actions[i].kind == SL_RAFT_DO_COMPLAIN;
                if (output->actions[i].kind == SL_RAFT_DO_GROW && !grown) {
                    grown = true;
                    sl_raft_grow(raft, room, 4096);
                }
            }
            obey(raft, output, now_ns);
            struct sl_raft_status status;
            sl_raft_get_status(raft, &status);
            leaders += status.role == SL_RAFT_LEADER;
            assert_true(status.boundary.value <= status.commit.value &&
                        status.commit.value <= status.last.value &&
                        status.durable.value <= status.last.value);
            (void)sl_raft_deadline(raft);
        }
    }
    assert_in_range(complaints, 1000, UINT32_MAX);
    assert_in_range(leaders, 1000, UINT32_MAX);
    free(output);
    free(memory);
    free(room);
    free(links);
}

/* ---- a group of one */

static void alone(void **unused)
{
    struct sl_raft_output *output = malloc(sizeof(*output));
    void *memory = malloc(sl_raft_bytes(8));
    struct sl_raft_config config = {.count = 1, .members = {{1, 1, SL_RAFT_VOTER}}};
    struct sl_raft_setup setup = {
        .self = {1, 1}, .tuning = &tuning, .config = &config, .now_ns = 1};
    struct sl_raft *raft;
    const char *why;
    assert_int_equal(sl_raft_init(memory, 8, &setup, &raft, &why), 0);
    struct sl_raft_event event = {.kind = SL_RAFT_PROPOSE, .now_ns = 2, .propose = {1, 1}};
    assert_int_equal(sl_raft_step(raft, &event, output), -SL_E_MOVED);
    uint64_t now_ns = sl_raft_deadline(raft);
    assert_true(now_ns >= tuning.election_ns && now_ns <= 2 * tuning.election_ns + 1);
    event = (struct sl_raft_event){.kind = SL_RAFT_TICK, .now_ns = now_ns};
    assert_int_equal(sl_raft_step(raft, &event, output), 0);
    struct sl_raft_status status;
    state = 3;
    while (sl_raft_get_status(raft, &status), !status.serving)
        obey(raft, output, now_ns);
    assert_true(sl_raft_has_lease(raft, now_ns));
    assert_true(sl_raft_deadline(raft) > now_ns + 1000 * tuning.election_ns); /* nobody to miss */
    event = (struct sl_raft_event){.kind = SL_RAFT_READ, .now_ns = now_ns};
    assert_int_equal(sl_raft_step(raft, &event, output), 0);
    assert_true(output->round == 0 && output->index.value == 1);
    event = (struct sl_raft_event){.kind = SL_RAFT_TRANSFER, .transfer = {1}};
    assert_int_equal(sl_raft_step(raft, &event, output), -EINVAL);
    event.transfer.id = 2;
    assert_int_equal(sl_raft_step(raft, &event, output), -ENOENT);
    event = (struct sl_raft_event){.kind = SL_RAFT_PROPOSE, .now_ns = now_ns, .propose = {0, 1}};
    assert_int_equal(sl_raft_step(raft, &event, output), -EINVAL);
    event.propose.count = tuning.uncommitted_entries + 1;
    assert_int_equal(sl_raft_step(raft, &event, output), -EINVAL);
    /* One entry goes whatever its size; the next one waits for it. */
    event.propose.count = 1;
    event.propose.bytes = tuning.uncommitted_bytes * 2;
    assert_int_equal(sl_raft_step(raft, &event, output), 0);
    assert_int_equal(output->index.value, 2);
    assert_int_equal(sl_raft_step(raft, &event, output), -EAGAIN);
    event = (struct sl_raft_event){.kind = SL_RAFT_FAILED, .now_ns = now_ns};
    assert_int_equal(sl_raft_step(raft, &event, output), 0);
    assert_int_equal(sl_raft_step(raft, &event, output), -EIO);
    assert_true(sl_raft_deadline(raft) == UINT64_MAX);
    free(output);
    free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_is_as_the_model),
        cmocka_unit_test(bytes_are_counted),
        cmocka_unit_test(room_is_made),
        cmocka_unit_test(written_and_truncated),
        cmocka_unit_test(changes_of_configurations),
        cmocka_unit_test(contradictory_setups_are_refused),
        cmocka_unit_test(messages_that_no_replica_sends),
        cmocka_unit_test(alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
