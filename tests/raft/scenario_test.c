/*
 * Goal: each rule of the core (raft/rule.h) is needed. Method: for each one or more scripted
 * scenarios that pass, and in which a checker of the simulator finds a violation as soon as that
 * one rule is switched off. What went wrong elsewhere is said at the scenario.
 *
 * Unless said otherwise: three voters, node 0 leads, 1 ms a message, 1 ms a log write, T = 1 s, no
 * shared heartbeats, nobody else times out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "raft/private.h"
#include "sim/raft/cluster.h"

struct scenario {
    const char *name;
    enum sl_raft_rule rule;
    void (*play)(struct cluster *cluster);
    unsigned nodes, voters; /* the others are learners; voters 0: three of three */
    bool shared;
};

/* ---- what scenarios do */

static struct replica *at(struct cluster *c, unsigned node)
{
    return replica_at(c, node, 0);
}

static void hold_all(struct cluster *c, bool hold)
{
    for (unsigned i = 0; i < c->node_count; i++)
        c->nodes[i].hold = hold;
}

/* Nobody but `node` times out, until it leads or the time is over. */
static bool lead(struct cluster *c, unsigned node)
{
    hold_all(c, true);
    c->nodes[node].hold = false;
    for (unsigned i = 0; i < 1500 && c->violation[0] == 0; i++) {
        if (at(c, node)->running && at(c, node)->role == SL_RAFT_LEADER)
            break;
        cluster_run(c, 10 * MS);
    }
    c->nodes[node].hold = true;
    return at(c, node)->running && at(c, node)->role == SL_RAFT_LEADER;
}

/* `node` times out at this very moment, whatever it has heard. */
static void time_out_now(struct cluster *c, unsigned node)
{
    struct sl_raft *raft = at(c, node)->raft;
    raft->timer_ns = raft->contact_ns = raft->jitter_ns = 0;
    struct sl_raft_event event = {.kind = SL_RAFT_TICK};
    replica_step(c, at(c, node), &event);
}

/* `node` times out exactly T after it heard its leader for the last time. */
static void time_out_after_t(struct cluster *c, unsigned node)
{
    at(c, node)->raft->jitter_ns = 0;
    c->nodes[node].hold = false;
    cluster_arm_tick(c, at(c, node));
}

static void crash(struct cluster *c, unsigned node)
{
    node_crash(c, &c->nodes[node], false);
}

static void start(struct cluster *c, unsigned node)
{
    node_start(c, &c->nodes[node]);
}

/* Both directions. */
static void cut(struct cluster *c, unsigned a, unsigned b, bool blocked)
{
    cluster_block(c, a, b, blocked);
    cluster_block(c, b, a, blocked);
}

/* Client `number` writes `key` at `node`; answers the request, which may arrive once more later. */
static struct client put(struct cluster *c, unsigned node, int number, uint32_t key)
{
    struct group *group = &c->groups[0];
    struct client *client = &group->clients[number];
    client->state = CLIENT_WRITING;
    client->target = node;
    client->attempt++;
    client->sequence++;
    client->key = key;
    client->value = group->values++;
    client->epoch = group->epoch;
    client->floor = group->floor[key];
    client->operation = history_begin(&group->history, HISTORY_WRITE, key, client->value);
    struct client copy = *client;
    client_request(c, 0, number, &copy);
    return copy;
}

static bool is_done(struct cluster *c, int number)
{
    return c->groups[0].clients[number].state == CLIENT_IDLE;
}

/* Client 2 reads `key` at `node`; a checker compares what comes with what was known. */
static void get(struct cluster *c, unsigned node, uint32_t key)
{
    struct client *client = &c->groups[0].clients[2];
    client->state = CLIENT_READING;
    client->target = node;
    client->attempt++;
    client->key = key;
    client->floor = c->groups[0].floor[key];
    client->operation = history_begin(&c->groups[0].history, HISTORY_READ, key, 0);
    struct client copy = *client;
    client_request(c, 0, 2, &copy);
    cluster_run(c, 30 * MS);
}

static void fill(struct cluster *c, unsigned node, unsigned count)
{
    struct entry entry = {.config = -1, .bytes = 64};
    for (unsigned i = 0; i < count; i++)
        replica_propose(c, at(c, node), &entry, 1);
}

static int change(struct cluster *c, unsigned leader, enum sl_raft_change kind, unsigned node)
{
    struct sl_raft_event event = {.kind = SL_RAFT_CHANGE,
                                  .change = {.change = kind, .replica = {at(c, node)->id, node}}};
    return replica_step(c, at(c, leader), &event);
}

static void transfer(struct cluster *c, unsigned from, unsigned to)
{
    struct sl_raft_event event = {.kind = SL_RAFT_TRANSFER, .transfer = {at(c, to)->id}};
    replica_step(c, at(c, from), &event);
}

/* A TimeoutNow of the leader's that it never sent, or sent long ago. */
static void inject_timeout_now(struct cluster *c, unsigned from, unsigned to)
{
    struct packet packet = {.kind = PACKET_RAFT, .from = from, .to = to};
    at(c, to)->told_in_term = replica_status(at(c, to)).term.value;
    packet.message = (struct sl_raft_message){.kind = SL_RAFT_TIMEOUT_NOW,
                                              .from = {at(c, from)->id, from},
                                              .to = {at(c, to)->id, to},
                                              .term = replica_status(at(c, to)).term};
    replica_deliver(c, at(c, to), &packet);
}

/* ---- filters: true = lost */

static bool drop_appends_of_4(struct cluster *c, const struct packet *p)
{
    return p->message.kind == SL_RAFT_APPEND && p->from == 4;
}

/* What it takes from there on is of its own term; those that are behind may say so. */
static bool drop_newest_term_of_0(struct cluster *c, const struct packet *p)
{
    return p->message.kind == SL_RAFT_APPEND && p->from == 0 && p->message.count > 0 &&
           p->message.entry_term.value == p->message.term.value &&
           log_last(&at(c, p->to)->log) >= p->message.index.value;
}

static bool drop_votes_between_1_and_2(struct cluster *c, const struct packet *p)
{
    return p->message.kind == SL_RAFT_VOTE && p->to != 0;
}

static bool drop_empty_appends(struct cluster *c, const struct packet *p)
{
    return p->message.kind == SL_RAFT_APPEND && p->message.count == 0;
}

static bool drop_to_0(struct cluster *c, const struct packet *p)
{
    return p->to == 0;
}

static bool drop_group_messages_of_0(struct cluster *c, const struct packet *p)
{
    return p->kind == PACKET_RAFT && (p->to == 0 || p->from == 0);
}

/* ---- log and commit */

/* Raft figure 8, in five nodes: an entry of an old term on a majority is not committed by that. */
static void figure_8(struct cluster *c)
{
    for (unsigned node = 2; node < 5; node++)
        cut(c, 0, node, true);
    put(c, 0, 0, 1); /* (a): on 0 and 1 alone */
    cluster_run(c, 20 * MS);
    crash(c, 0);
    c->filter = drop_appends_of_4;
    cluster_run(c, 2 * SECOND);
    assert_true(lead(c, 4)); /* (b): with 2 and 3, its own entry stays with it */
    crash(c, 4);
    for (unsigned node = 2; node < 5; node++)
        cut(c, 0, node, false);
    start(c, 0);
    c->filter = drop_newest_term_of_0;
    cluster_run(c, 2 * SECOND);
    assert_true(lead(c, 0)); /* (c): brings the old entry to 2 and 3 */
    cluster_run(c, 500 * MS);
    crash(c, 0);
    crash(c, 1);
    start(c, 4);
    c->filter = NULL;
    cluster_run(c, 2 * SECOND);
    lead(c, 4); /* (d): its later term wins 2 and 3, and overwrites */
    cluster_run(c, 500 * MS);
}

/* libraft: a leader goes on after its own log write has failed, over a hole in its log. */
static void leader_goes_on_after_failed_write(struct cluster *c)
{
    cut(c, 0, 2, true);
    c->nodes[0].fail_next_write = true;
    put(c, 0, 0, 1);
    put(c, 0, 1, 1);
    cluster_run(c, 200 * MS);
}

static void follower_acknowledges_a_hole(struct cluster *c)
{
    cut(c, 0, 2, true);
    c->nodes[1].fail_next_write = true;
    put(c, 0, 0, 1);
    cluster_run(c, 1 * MS);
    put(c, 0, 1, 1);
    cluster_run(c, 200 * MS);
}

static void follower_acknowledges_before_its_disk(struct cluster *c)
{
    c->nodes[1].disk_slow_until_ns = c->now_ns + SECOND;
    c->nodes[1].disk_slow_ns = 500 * MS;
    put(c, 0, 0, 1);
    cluster_run(c, 200 * MS);
}

/* A former leader has a long tail of its own; its successor only knows that it is far behind. */
static void follower_acknowledges_its_own_tail(struct cluster *c)
{
    cluster_isolate(c, 0, true);
    fill(c, 0, 20);
    cluster_run(c, 2 * SECOND);
    assert_true(lead(c, 1));
    cluster_run(c, 100 * MS);
    fill(c, 1, 4);
    cluster_run(c, 100 * MS);
    replica_compact(c, at(c, 1));
    cluster_run(c, 100 * MS);
    fill(c, 1, 25);
    cluster_run(c, 300 * MS);
    cluster_isolate(c, 0, false);
    cluster_run(c, SECOND);
}

/* libraft: commits only what all sent entries' answers have come for. */
static void commits_under_load(struct cluster *c)
{
    c->tuning.uncommitted_entries = c->tuning.window_entries = 1000000;
    c->tuning.uncommitted_bytes = c->tuning.window_bytes = UINT64_C(1) << 40;
    c->net_least_ns = c->net_most_ns = 5 * MS;
    c->disk_least_ns = c->disk_most_ns = MS / 10;
    uint64_t before = replica_status(at(c, 0)).commit.value;
    for (unsigned i = 0; i < 1000 && at(c, 0)->role == SL_RAFT_LEADER; i++) {
        fill(c, 0, 1);
        cluster_run(c, MS / 2);
    }
    if (replica_status(at(c, 0)).commit.value < before + 800)
        violation(c, "500 ms of proposals, and %lu of 1000 are committed",
                  replica_status(at(c, 0)).commit.value - before);
}

/* ---- elections */

/* libraft: an ex-leader whose transfer is pending votes for its target, and for another one. */
static void ex_leader_votes_twice(struct cluster *c)
{
    c->filter = drop_votes_between_1_and_2;
    transfer(c, 0, 1);
    cluster_run(c, 4 * MS); /* node 0 has voted for 1, which does not know yet */
    inject_timeout_now(c, 0, 2);
    cluster_run(c, 100 * MS);
}

static void vote_forgotten_in_a_crash(struct cluster *c)
{
    c->disk_least_ns = c->disk_most_ns = 50 * MS;
    crash(c, 0);
    cluster_run(c, 2 * SECOND);
    time_out_now(c, 1);
    cluster_run(c, 120 * MS);
    crash(c, 2); /* it has granted its vote, and not yet saved it */
    start(c, 2);
    cluster_run(c, SECOND);
}

static void vote_for_an_incomplete_log(struct cluster *c)
{
    cluster_isolate(c, 2, true);
    put(c, 0, 0, 1);
    cluster_run(c, 100 * MS);
    assert_true(is_done(c, 0));
    crash(c, 0);
    cluster_isolate(c, 2, false);
    cluster_run(c, 2 * SECOND);
    lead(c, 2);
}

static void term_grows_while_alone(struct cluster *c)
{
    cluster_isolate(c, 2, true);
    c->nodes[2].hold = false;
    cluster_run(c, 10 * SECOND);
    cluster_isolate(c, 2, false);
    cluster_run(c, SECOND);
    if (at(c, 0)->role != SL_RAFT_LEADER)
        violation(c, "a replica that comes back deposes a leader that nobody missed");
}

static void leader_without_majority(struct cluster *c)
{
    cluster_isolate(c, 0, true);
    cluster_run(c, 3 * SECOND);
    if (at(c, 0)->role == SL_RAFT_LEADER)
        violation(c, "a leader that hears nobody still believes in itself");
}

/* A wiped disk comes back as another replica; it must not vote with the memory of nobody. */
static void wiped_replica_votes(struct cluster *c)
{
    cluster_isolate(c, 2, true);
    put(c, 0, 0, 1);
    cluster_run(c, 100 * MS);
    assert_true(is_done(c, 0));
    replica_wipe(c, at(c, 1));
    struct sl_raft_config none = {0};
    replica_start(c, replica_make(c, 1, 0, &none, 77777));
    crash(c, 0);
    cluster_isolate(c, 2, false);
    cluster_run(c, 2 * SECOND);
    lead(c, 2);
}

/* ... nor may its node make up an empty log for an id that it does not know. */
static void wiped_node_makes_up_a_log(struct cluster *c)
{
    cluster_isolate(c, 2, true);
    put(c, 0, 0, 1);
    cluster_run(c, 100 * MS);
    replica_wipe(c, at(c, 1));
    crash(c, 0);
    cluster_isolate(c, 2, false);
    cluster_run(c, 2 * SECOND);
    lead(c, 2);
}

/* ---- resync */

static void candidate_in_a_resync(struct cluster *c)
{
    cluster_isolate(c, 2, true);
    put(c, 0, 0, 1);
    cluster_run(c, 100 * MS);
    replica_compact(c, at(c, 0));
    cluster_run(c, 100 * MS);
    cluster_isolate(c, 2, false);
    while (!at(c, 2)->disk.copying && c->violation[0] == 0)
        cluster_run(c, MS);
    crash(c, 2); /* in the midst of it */
    start(c, 2);
    cluster_isolate(c, 2, true);
    c->nodes[2].hold = false;
    time_out_now(c, 2);
    cluster_run(c, 3 * SECOND);
}

static void copying_replica_forgets_what_it_acknowledged(struct cluster *c)
{
    cluster_isolate(c, 1, true);
    put(c, 0, 0, 1);
    cluster_run(c, 100 * MS);
    assert_true(is_done(c, 0)); /* by 0 and 2 */
    at(c, 2)->disk.copying = true;
    at(c, 2)->disk.copying_index = 10;
    struct sl_raft_event event = {.kind = SL_RAFT_COPYING, .copying = {.index = {10}}};
    replica_step(c, at(c, 2), &event);
    crash(c, 0);
    cluster_isolate(c, 1, false);
    cluster_run(c, 2 * SECOND);
    lead(c, 1);
}

/* ---- damage: an entry that was acknowledged can not be read any more */

/* Node 1 starts again, and finds that its newest entry, which made a majority, is damaged. */
static void start_with_damage(struct cluster *c)
{
    cluster_isolate(c, 2, true);
    put(c, 0, 0, 1);
    cluster_run(c, 100 * MS);
    assert_true(is_done(c, 0)); /* by 0 and 1 */
    crash(c, 1);
    assert_true(replica_rot(c, at(c, 1), at(c, 1)->disk.log.count - 1));
    start(c, 1);
}

static void damaged_replica_votes(struct cluster *c)
{
    start_with_damage(c);
    crash(c, 0);
    cluster_isolate(c, 2, false);
    cluster_run(c, 2 * SECOND);
    lead(c, 2);
}

static void damaged_replica_leads(struct cluster *c)
{
    start_with_damage(c);
    crash(c, 0);
    cluster_isolate(c, 2, false);
    cluster_run(c, 2 * SECOND);
    lead(c, 1);
}

/* Its leader goes on, and thinks that it has what it acknowledged. */
static void damaged_replica_is_mended(struct cluster *c)
{
    start_with_damage(c);
    put(c, 0, 1, 1);
    cluster_run(c, 2 * SECOND);
    if (!is_done(c, 1) || replica_status(at(c, 1)).mending)
        violation(c, "a replica that lacks an entry never gets it, and nothing is committed");
}

/* ---- membership: three voters, 3 and 4 are learners */

/* libraft: the configuration to go back to was in an entry that is compacted. */
static void rollback_after_compaction(struct cluster *c)
{
    put(c, 0, 0, 1);
    cluster_run(c, 200 * MS);
    for (unsigned node = 0; node < 4; node++)
        replica_compact(c, at(c, node));
    cluster_run(c, 200 * MS);
    cluster_isolate(c, 0, true);
    assert_int_equal(change(c, 0, SL_RAFT_PROMOTE, 3), 0);
    cluster_run(c, 100 * MS);
    crash(c, 0);
    start(c, 0);
    cluster_run(c, 2 * SECOND);
    assert_true(lead(c, 1));
    cluster_run(c, 200 * MS);
    cluster_isolate(c, 0, false);
    cluster_run(c, SECOND);
    const struct sl_raft_config *config = sl_raft_get_config(at(c, 0)->raft);
    if (sl_raft_config_is_voter(config, at(c, 3)->id) || config->count != 4)
        violation(c, "a configuration that was truncated is still in force");
}

static void two_changes_at_once(struct cluster *c)
{
    for (unsigned a = 0; a < 5; a++) {
        for (unsigned b = 1; b < 3; b++) {
            if (a != 1 && a != 2)
                cut(c, a, b, true);
        }
    }
    assert_int_equal(change(c, 0, SL_RAFT_PROMOTE, 3), 0);
    change(c, 0, SL_RAFT_PROMOTE, 4);
    put(c, 0, 0, 1);
    cluster_run(c, 300 * MS); /* with 3 and 4: a majority of five */
    time_out_now(c, 1);
    cluster_run(c, 2 * SECOND);
    lead(c, 1); /* with 2: a majority of three */
    cluster_run(c, 300 * MS);
}

/* Ongaro's bug: voters 0 to 3, a leader changes the membership before its no-op is committed. */
static void change_before_noop(struct cluster *c)
{
    for (unsigned node = 1; node < 4; node++)
        cut(c, 0, node, true);
    assert_int_equal(change(c, 0, SL_RAFT_PROMOTE, 4), 0); /* on 0 and 4 */
    cluster_run(c, 100 * MS);
    crash(c, 0);
    cut(c, 1, 4, true);
    cluster_run(c, 2 * SECOND);
    hold_all(c, true);
    time_out_now(c, 1);
    for (unsigned i = 0; i < 100 && at(c, 1)->role != SL_RAFT_LEADER; i++)
        cluster_run(c, MS / 10);
    assert_int_equal(at(c, 1)->role, SL_RAFT_LEADER);
    cut(c, 1, 3, true);
    change(c, 1, SL_RAFT_REMOVE, 0); /* now 1 and 2 are a majority of three */
    cluster_run(c, 200 * MS);
    crash(c, 1);
    crash(c, 2);
    start(c, 0);
    for (unsigned node = 1; node < 4; node++)
        cut(c, 0, node, false);
    cluster_run(c, 2 * SECOND);
    lead(c, 0); /* with 3 and 4: a majority of five */
}

/* ---- reads */

/* A new leader has the last acknowledged write, and does not know yet that it is committed. */
static void read_before_noop(struct cluster *c)
{
    c->filter = drop_empty_appends;
    put(c, 0, 0, 1);
    cluster_run(c, 20 * MS);
    assert_true(is_done(c, 0));
    crash(c, 0);
    c->filter = NULL;
    cluster_run(c, 2 * SECOND);
    time_out_now(c, 1);
    for (unsigned i = 0; i < 200 && at(c, 1)->role != SL_RAFT_LEADER; i++)
        cluster_run(c, MS / 10);
    get(c, 1, 1);
}

/* Leaves node 0 alone at the moment when both others have just heard it. */
static void isolate_after_beat(struct cluster *c, unsigned successor)
{
    uint64_t before = at(c, 2)->raft->contact_ns;
    while (at(c, 2)->raft->contact_ns == before && c->violation[0] == 0)
        cluster_run(c, MS / 10);
    cluster_run(c, 5 * MS);
    cluster_isolate(c, 0, true);
    time_out_after_t(c, successor);
}

/* The successor leads and has changed what node 0 is asked for, as soon as that can be. */
static void succeed(struct cluster *c, unsigned successor, uint64_t within_ns)
{
    uint64_t end_ns = c->now_ns + within_ns;
    while (c->now_ns < end_ns && !replica_status(at(c, successor)).serving)
        cluster_run(c, MS);
    if (!replica_status(at(c, successor)).serving)
        return;
    put(c, successor, 1, 1);
    cluster_run(c, 10 * MS);
}

static void lease_with_a_slow_clock(struct cluster *c)
{
    cluster_run(c, SECOND);
    node_set_rate(c, &c->nodes[0], -50000);
    node_set_rate(c, &c->nodes[1], 50000);
    node_set_rate(c, &c->nodes[2], 50000);
    cluster_run(c, SECOND);
    isolate_after_beat(c, 1);
    succeed(c, 1, 1020 * MS);
    get(c, 0, 1);
}

static void lease_from_a_late_answer(struct cluster *c)
{
    cluster_run(c, SECOND);
    uint64_t before = at(c, 2)->raft->contact_ns;
    while (at(c, 2)->raft->contact_ns == before)
        cluster_run(c, MS / 10);
    cluster_run(c, 50 * MS);
    before = at(c, 2)->raft->contact_ns;
    c->net_least_ns = c->net_most_ns = 800 * MS; /* for the answers to come */
    cluster_run(c, 1 * MS);
    /* A beat that leaves now is slow, too: make it arrive by hand. */
    while (at(c, 0)->raft->beat_ns + 99 * MS > node_now(c, &c->nodes[0]))
        cluster_run(c, MS / 10);
    c->net_least_ns = c->net_most_ns = 1 * MS;
    while (at(c, 2)->raft->contact_ns == before) {
        cluster_run(c, MS / 10);
        if (at(c, 0)->raft->beat_ns + 10 * MS > node_now(c, &c->nodes[0]))
            c->net_least_ns = c->net_most_ns = 800 * MS;
    }
    cluster_block(c, 0, 1, true);
    cluster_block(c, 0, 2, true);
    c->net_least_ns = c->net_most_ns = 1 * MS;
    time_out_after_t(c, 1);
    cluster_run(c, 805 * MS); /* the answers have come */
    cluster_isolate(c, 0, true);
    succeed(c, 1, 400 * MS);
    get(c, 0, 1);
}

static void lease_during_a_transfer(struct cluster *c)
{
    cluster_run(c, SECOND);
    transfer(c, 0, 1);
    c->filter = drop_to_0;
    succeed(c, 1, 300 * MS);
    get(c, 0, 1);
}

static void vote_inside_a_lease(struct cluster *c)
{
    cluster_run(c, SECOND);
    cut(c, 0, 2, true);
    time_out_after_t(c, 2);
    for (unsigned i = 0; i < 2500 && at(c, 2)->role == SL_RAFT_FOLLOWER; i++)
        cluster_run(c, MS);
    cluster_block(c, 1, 0, true); /* node 0 does not hear of it in time */
    succeed(c, 2, 300 * MS);
    get(c, 0, 1);
}

static void restart_inside_a_lease(struct cluster *c)
{
    cluster_run(c, SECOND);
    cut(c, 0, 2, true);
    cluster_run(c, 2 * SECOND);
    crash(c, 1);
    start(c, 1);
    cluster_run(c, 5 * MS);
    cut(c, 0, 1, true);
    time_out_now(c, 2);
    succeed(c, 2, 300 * MS);
    get(c, 0, 1);
}

static void read_without_asking_anybody(struct cluster *c)
{
    cluster_run(c, SECOND);
    node_set_rate(c, &c->nodes[0], -50000);
    node_set_rate(c, &c->nodes[1], 50000);
    node_set_rate(c, &c->nodes[2], 50000);
    cluster_run(c, SECOND);
    isolate_after_beat(c, 1);
    succeed(c, 1, 1020 * MS); /* node 0 has lost its lease, and not yet stepped down */
    get(c, 0, 1);
}

/* The nodes' heartbeat goes on, for a group whose followers have moved on. */
static void beat_renews_an_old_term(struct cluster *c)
{
    cluster_run(c, 2 * SECOND);
    assert_true(sl_raft_is_covered(&at(c, 0)->raft->progress[1]));
    c->filter = drop_group_messages_of_0;
    inject_timeout_now(c, 0, 2);
    cluster_run(c, 1500 * MS); /* what it was granted before is over */
    succeed(c, 2, 500 * MS);
    get(c, 0, 1);
}

/* ---- sessions */

/* A, B, A again: B stays. The second A comes to another leader. */
static void duplicated_write(struct cluster *c)
{
    struct client a = put(c, 0, 0, 1);
    cluster_run(c, 50 * MS);
    put(c, 0, 1, 1);
    cluster_run(c, 50 * MS);
    transfer(c, 0, 1);
    cluster_run(c, 300 * MS);
    assert_int_equal(at(c, 1)->role, SL_RAFT_LEADER);
    a.target = 1;
    client_request(c, 0, 0, &a);
    cluster_run(c, 100 * MS);
    assert_true(replica_status(at(c, 1)).commit.value == replica_status(at(c, 1)).last.value);
    get(c, 1, 1);
}

/* A write that was reported as failed arrives at last. */
static void failed_write_lands_later(struct cluster *c)
{
    struct group *group = &c->groups[0];
    crash(c, 1);
    crash(c, 2);
    struct client a = put(c, 0, 0, 1); /* and nobody answers */
    start(c, 1);
    start(c, 2);
    cluster_isolate(c, 0, true); /* it dies with this leader */
    cluster_run(c, 2 * SECOND);
    assert_true(lead(c, 1));
    cluster_run(c, 100 * MS);
    struct client *client = &group->clients[0];
    client->state = CLIENT_VOIDING;
    client->target = 1;
    client->attempt++;
    struct client copy = *client;
    client_request(c, 0, 0, &copy);
    cluster_run(c, 100 * MS);
    assert_true(is_done(c, 0)); /* reported as failed */
    a.target = 1;
    client_request(c, 0, 0, &a);
    cluster_run(c, 100 * MS);
}

static void write_of_a_former_attachment(struct cluster *c)
{
    struct entry entry = {.config = -1,
                          .bytes = 64,
                          .command = {.kind = SL_COMMAND_ATTACH, .volume = VOLUME, .epoch = 2}};
    replica_propose(c, at(c, 0), &entry, 1);
    put(c, 0, 0, 1); /* still of epoch 1 */
    cluster_run(c, 100 * MS);
}

static const struct scenario scenarios[] = {
    {"figure 8", SL_RAFT_RULE_COUNT_CURRENT_TERM, figure_8, 5, 5},
    {"leader goes on after a failed write", SL_RAFT_RULE_STOP_AFTER_FAILURE,
     leader_goes_on_after_failed_write},
    {"follower acknowledges a hole", SL_RAFT_RULE_STOP_AFTER_FAILURE, follower_acknowledges_a_hole},
    {"acknowledged before durable", SL_RAFT_RULE_ACK_DURABLE,
     follower_acknowledges_before_its_disk},
    {"acknowledged its own tail", SL_RAFT_RULE_ACK_VERIFIED, follower_acknowledges_its_own_tail},
    {"commits under load", SL_RAFT_RULE_COMMIT_UNDER_LOAD, commits_under_load},
    {"ex-leader votes twice", SL_RAFT_RULE_VOTE_ONCE, ex_leader_votes_twice},
    {"vote forgotten in a crash", SL_RAFT_RULE_SAVE_BEFORE_SEND, vote_forgotten_in_a_crash},
    {"vote for an incomplete log", SL_RAFT_RULE_UP_TO_DATE, vote_for_an_incomplete_log},
    {"term grows while alone", SL_RAFT_RULE_PRE_VOTE, term_grows_while_alone},
    {"leader without majority", SL_RAFT_RULE_CHECK_QUORUM, leader_without_majority},
    {"wiped replica votes", SL_RAFT_RULE_REPLICA_ID, wiped_replica_votes},
    {"wiped node makes up a log", SL_RAFT_RULE_REPLICA_ID, wiped_node_makes_up_a_log},
    {"candidate in a resync", SL_RAFT_RULE_COPYING_SILENT, candidate_in_a_resync},
    {"copying replica forgets", SL_RAFT_RULE_COPYING_REMEMBERS,
     copying_replica_forgets_what_it_acknowledged},
    {"damaged replica votes", SL_RAFT_RULE_PROMISE_KEPT, damaged_replica_votes},
    {"damaged replica leads", SL_RAFT_RULE_PROMISE_KEPT, damaged_replica_leads},
    {"damaged replica is mended", SL_RAFT_RULE_MATCH_TAKEN_BACK, damaged_replica_is_mended},
    {"rollback after compaction", SL_RAFT_RULE_CONFIG_ROLLBACK, rollback_after_compaction, 4, 3},
    {"two changes at once", SL_RAFT_RULE_ONE_CHANGE, two_changes_at_once, 5, 3},
    {"change before no-op", SL_RAFT_RULE_NOOP_BEFORE_CHANGE, change_before_noop, 5, 4},
    {"read before no-op", SL_RAFT_RULE_NOOP_BEFORE_READ, read_before_noop},
    {"lease with a slow clock", SL_RAFT_RULE_LEASE_DRIFT, lease_with_a_slow_clock},
    {"lease from a late answer", SL_RAFT_RULE_LEASE_FROM_SEND, lease_from_a_late_answer},
    {"lease during a transfer", SL_RAFT_RULE_LEASE_GIVEN_UP, lease_during_a_transfer},
    {"vote inside a lease", SL_RAFT_RULE_REFUSE_IN_LEASE, vote_inside_a_lease},
    {"restart inside a lease", SL_RAFT_RULE_QUIET_AFTER_RESTART, restart_inside_a_lease},
    {"read without asking", SL_RAFT_RULE_READ_ROUND, read_without_asking_anybody},
    {"beat renews an old term", SL_RAFT_RULE_RENEW_NAMED_TERM, beat_renews_an_old_term, 3, 3, true},
    {"A, B, A", SL_RAFT_RULE_DUPLICATE, duplicated_write},
    {"failed write lands later", SL_RAFT_RULE_VOID, failed_write_lands_later},
    {"write of a former attachment", SL_RAFT_RULE_EPOCH, write_of_a_former_attachment},
};

/* ---- the frame */

static struct cluster *prepare(const struct scenario *scenario)
{
    unsigned nodes = scenario->nodes != 0 ? scenario->nodes : 3;
    unsigned voters = scenario->voters != 0 ? scenario->voters : 3;
    struct cluster *c = cluster_create(1, nodes, 1);
    c->links_shared = scenario->shared;
    hold_all(c, true);
    cluster_form(c, 0, voters, nodes - voters);
    assert_true(lead(c, 0));
    cluster_run(c, 100 * MS);
    struct group *group = &c->groups[0];
    group->client_count = 3;
    for (int number = 0; number < 3; number++) {
        group->clients[number] = (struct client){.session = 100 + (uint64_t)number};
        struct client copy = group->clients[number];
        client_request(c, 0, number, &copy);
    }
    cluster_run(c, 500 * MS);
    for (int number = 0; number < 3; number++)
        assert_true(is_done(c, number));
    struct client first = put(c, 0, 0, 1);
    cluster_run(c, 500 * MS);
    assert_true(is_done(c, 0) && first.value != 0);
    return c;
}

/* Answers what the checkers said; "" = nothing. */
static void play(const struct scenario *scenario, bool with_rule, char text[300])
{
    bool trace = getenv("TRACE") != NULL && strcmp(getenv("TRACE"), scenario->name) == 0;
    struct cluster *c = prepare(scenario);
    c->trace = trace;
    c->trace_file = stdout;
    sl_raft_rule_off[scenario->rule] = !with_rule;
    scenario->play(c);
    sl_raft_rule_off[scenario->rule] = false;
    memcpy(text, c->violation, 300);
    cluster_destroy(c);
}

static void rules_are_needed(void **state)
{
    unsigned wrong = 0;
    for (size_t i = 0; i < SL_COUNT_OF(scenarios); i++) {
        char with[300], without[300];
        play(&scenarios[i], true, with);
        play(&scenarios[i], false, without);
        bool right = with[0] == 0 && without[0] != 0;
        wrong += !right;
        printf("%-4s %-38s without its rule: %s\n", right ? "ok" : "NOT", scenarios[i].name,
               without[0] != 0 ? without : "nothing is noticed");
        if (with[0] != 0)
            printf("     with its rule: %s\n", with);
    }
    assert_int_equal(wrong, 0);
}

static void every_rule_has_a_scenario(void **state)
{
    for (unsigned rule = 0; rule < SL_RAFT_RULE_COUNT; rule++) {
        bool found = false;
        for (size_t i = 0; i < SL_COUNT_OF(scenarios); i++)
            found = found || (unsigned)scenarios[i].rule == rule;
        if (!found)
            fail_msg("rule %u of raft/rule.h has no scenario", rule);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_are_needed),
        cmocka_unit_test(every_rule_has_a_scenario),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
