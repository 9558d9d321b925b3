/* One group fed by hand: its set-up, its disk, what it is told (hand.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "raft/private.h"

#include "tests/raft/hand.h"

struct sl_raft_tuning tuning;
struct sl_raft_output output;
struct sl_raft_config config;
struct sl_raft *raft;
struct sl_raft_links *links;
void *links_memory;
static void *memory;
uint64_t now_ns;
struct sl_index promised, committed;
struct sl_term promised_term;
static uint64_t save_ticket, write_ticket;
static struct sl_index written;

int setup(void **state)
{
    tuning = (struct sl_raft_tuning){.election_ns = T,
                                     .heartbeat_ns = T / 10,
                                     .drift_ppm = 100000,
                                     .append_entries = 8,
                                     .append_bytes = 8000,
                                     .window_entries = 20,
                                     .window_bytes = 20000,
                                     .uncommitted_entries = 100,
                                     .uncommitted_bytes = 1000000,
                                     .promote_lag = 3};
    config = (struct sl_raft_config){.count = 4};
    for (uint32_t i = 0; i < 4; i++)
        config.members[i] =
            (struct sl_raft_member){i + 1, i + 1, i < 3 ? SL_RAFT_VOTER : SL_RAFT_LEARNER};
    memory = malloc(sl_raft_bytes(ROOM));
    links_memory = malloc(sl_raft_links_bytes(4));
    assert_true(memory != NULL && links_memory != NULL);
    links = NULL;
    promised = committed = sl_index_of(0);
    promised_term = sl_term_of(0);
    now_ns = START;
    save_ticket = write_ticket = 0;
    return 0;
}

int teardown(void **state)
{
    free(memory);
    free(links_memory);
    return 0;
}

/* A group whose log holds `spans` of entries behind index 0, in `term`. */
void make(uint64_t term, const struct sl_raft_span *spans, unsigned span_count)
{
    struct sl_raft_setup s = {.group = 7,
                              .self = {1, 1},
                              .tuning = &tuning,
                              .links = links,
                              .seed = 3,
                              .now_ns = now_ns,
                              .term = {term},
                              .config = &config,
                              .spans = spans,
                              .span_count = span_count,
                              .commit = committed,
                              .promised = promised,
                              .promised_term = promised_term};
    const char *why;
    assert_int_equal(sl_raft_init(memory, ROOM, &s, &raft, &why), 0);
}

int feed(struct sl_raft_event event)
{
    event.now_ns = now_ns;
    int result = sl_raft_step(raft, &event, &output);
    for (unsigned i = 0; i < output.count; i++) {
        if (output.actions[i].kind == SL_RAFT_DO_SAVE)
            save_ticket = output.actions[i].ticket;
        if (output.actions[i].kind == SL_RAFT_DO_WRITE) {
            write_ticket = output.actions[i].ticket;
            written = output.actions[i].last;
        }
    }
    return result;
}

int tick(void)
{
    return feed((struct sl_raft_event){.kind = SL_RAFT_TICK});
}

void saved(void)
{
    feed((struct sl_raft_event){.kind = SL_RAFT_SAVED, .done = {.ticket = save_ticket}});
}

void wrote(void)
{
    feed((struct sl_raft_event){.kind = SL_RAFT_WRITTEN, .done = {write_ticket, written}});
}

void hear(uint64_t from, struct sl_raft_message message)
{
    message.from = (struct sl_raft_replica){from, (uint32_t)from};
    message.to = (struct sl_raft_replica){1, 1};
    if (message.term.value == 0)
        message.term = raft->term;
    feed((struct sl_raft_event){.kind = SL_RAFT_MESSAGE,
                                .message = {.message = &message, .bytes = message.count * 100}});
}

unsigned count(enum sl_raft_action_kind kind)
{
    unsigned found = 0;
    for (unsigned i = 0; i < output.count; i++)
        found += output.actions[i].kind == kind;
    return found;
}

/* The only action of that kind. */
const struct sl_raft_action *the(enum sl_raft_action_kind kind)
{
    assert_int_equal(count(kind), 1);
    for (unsigned i = 0; i < output.count; i++) {
        if (output.actions[i].kind == kind)
            return &output.actions[i];
    }
    return NULL;
}

const struct sl_raft_message *sent(void)
{
    return &the(SL_RAFT_DO_SEND)->message;
}

/* Entries sent to replica `to` in this step; their messages are counted in *messages. */
unsigned entries_to(uint64_t to, unsigned *messages)
{
    unsigned entries = 0;
    *messages = 0;
    for (unsigned i = 0; i < output.count; i++) {
        const struct sl_raft_action *action = &output.actions[i];
        if (action->kind == SL_RAFT_DO_SEND && action->message.to.id == to) {
            entries += action->message.count;
            *messages += 1;
        }
    }
    return entries;
}

struct sl_raft_message grant(bool pre)
{
    return (struct sl_raft_message){.kind = SL_RAFT_VOTE_ANSWER,
                                    .flags = SL_RAFT_FLAG_GRANTED | (pre ? SL_RAFT_FLAG_PRE : 0),
                                    .term = {raft->term.value + pre}};
}

struct sl_raft_message accept(uint64_t durable)
{
    return (struct sl_raft_message){.kind = SL_RAFT_APPEND_ANSWER,
                                    .index = {durable},
                                    .hint = {durable},
                                    .round = raft->round,
                                    .sent_ns = now_ns};
}

void campaign(void)
{
    now_ns = sl_raft_deadline(raft);
    tick();
    assert_int_equal(raft->role, SL_RAFT_PRE_CANDIDATE);
    hear(2, grant(true));
    assert_int_equal(raft->role, SL_RAFT_CANDIDATE);
    saved();
}

/* Leads, its no-op at `noop` committed, replicas 2 to 4 in step with it. */
void lead(uint64_t noop)
{
    campaign();
    hear(2, grant(false));
    assert_int_equal(raft->role, SL_RAFT_LEADER);
    assert_int_equal(the(SL_RAFT_DO_ROLE)->peer.id, 1);
    wrote();
    for (uint64_t i = 2; i <= 4; i++)
        hear(i, accept(noop));
    assert_int_equal(raft->commit.value, noop);
}

int propose(uint32_t entries, uint64_t bytes)
{
    return feed((struct sl_raft_event){.kind = SL_RAFT_PROPOSE, .propose = {entries, bytes}});
}

struct sl_raft_message append(uint64_t term, uint64_t index, uint64_t index_term, uint32_t entries,
                              uint64_t entry_term)
{
    return (struct sl_raft_message){.kind = SL_RAFT_APPEND,
                                    .term = {term},
                                    .index = {index},
                                    .index_term = {index_term},
                                    .count = entries,
                                    .entry_term = {entry_term},
                                    .round = 5,
                                    .sent_ns = 77};
}
