/*
 * Goal: the common part of the fabric keeps what fabric.h promises, over every link.
 * Method: a client and servers on reactors of one thread (fabric_world.h), the same tests for each
 * link of the table; a raw client breaks the protocol. Over the simulator also partitions, and runs
 * of many seeds under faults. `fabric_test LINK` runs one link alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/error.h"
#include "fabric/private.h"
#include "fabric_world.h"

static const struct world_link *link_of(void **state)
{
    return *state;
}

/* ---- handshake ---- */

static void test_handshake(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    struct world_config config = {.in_capsule_bytes = 8192, .credits = 7};
    world_open(&world, link_of(state), 2, &config);
    servers_open(&server, &world, 1);
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    world_run_count(&world, &server.opened_count, 1);
    const struct sl_peer_info *peer = sl_connection_peer(client.connection);
    assert_int_equal(peer->role, SL_ROLE_TARGET);
    assert_int_equal(peer->instance_id, 1001);
    assert_int_equal(peer->credits, 7);
    assert_int_equal(peer->in_capsule_bytes, world.link->ops->maps ? 0 : 8192);
    assert_int_equal(peer->transfer_bytes_max, SL_TRANSFER_BYTES_MAX);
    peer = sl_connection_peer(server.connection);
    assert_int_equal(peer->role, SL_ROLE_GATEWAY);
    assert_int_equal(peer->instance_id, 1000);
    struct caller caller = {0};
    caller_start(&caller, &client, 99, NULL);
    world_run_count(&world, &caller.returned_count, 1);
    assert_int_equal(caller.result, 0);
    assert_int_equal(caller.reply.io.io.trace_id, 99);
    client_close(&client, &server);
    assert_int_equal(client.reason, -ECANCELED);
    assert_true(server.reason < 0);
    assert_int_equal(server.opened_count, 1);
    assert_int_equal(server.closed_count, 1);
    servers_close(&server);
    world_close(&world);
}

static void test_wrong_key(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    struct world_config config = {.wrong_key = true};
    world_open(&world, link_of(state), 2, &config);
    servers_open(&server, &world, 1);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(client_connect(&client, &world, &server, 0), -SL_E_CLUSTER_KEY);
    assert_int_equal(client.closed_count, 0);
    assert_int_equal(server.opened_count, 0);
    servers_close(&server);
    world_close(&world);
}

/* Who proves nothing, or with another key, gets REJECT; the server's proof is checked by raw. */
static void test_wrong_proof(void **state)
{
    struct world world;
    struct server server;
    struct raw raw;
    world_open(&world, link_of(state), 2, NULL);
    servers_open(&server, &world, 1);
    raw_open(&raw, &world, &server);
    raw_hello(&raw);
    world_run_count(&world, &raw.type_count[SL_CAPSULE_CHALLENGE], 1);
    assert_int_equal(raw.wrong_proof_count, 0);
    raw_close(&raw);
    /* The same with another key: its PROOF is refused. */
    raw_open(&raw, &world, &server);
    raw.version_max = 9; /* the highest common one is chosen */
    raw_hello(&raw);
    raw.key[0] ^= 0x80;
    world_run_count(&world, &raw.type_count[SL_CAPSULE_REJECT], 1);
    assert_int_equal(raw.last.header.status, SL_STATUS_CLUSTER_KEY);
    assert_int_equal(raw.wrong_proof_count, 1); /* neither does the server's fit raw's key */
    world_run_flag(&world, &raw.is_closed);
    /* The first one's PROOF may have left before it was closed. */
    assert_true(server.opened_count <= 1);
    raw_close(&raw);
    servers_close(&server);
    world_close(&world);
}

static void test_wrong_version(void **state)
{
    struct world world;
    struct server server;
    struct raw raw;
    world_open(&world, link_of(state), 2, NULL);
    servers_open(&server, &world, 1);
    raw_open(&raw, &world, &server);
    raw.version_min = 2;
    raw.version_max = 3;
    raw_hello(&raw);
    world_run_count(&world, &raw.type_count[SL_CAPSULE_REJECT], 1);
    assert_int_equal(raw.last.header.status, SL_STATUS_VERSION);
    world_run_flag(&world, &raw.is_closed);
    assert_int_equal(server.opened_count, 0);
    raw_close(&raw);
    servers_close(&server);
    world_close(&world);
}

/* Each reactor of the server gets its own; who asks for one that is not there is refused. */
static void test_routing(void **state)
{
    struct world world;
    struct server servers[2];
    struct client clients[2], lost;
    world_open(&world, link_of(state), 3, NULL);
    servers_open(servers, &world, 2);
    assert_true(client_connect(&lost, &world, &servers[0], 2) < 0);
    for (unsigned i = 0; i < 2; i++) {
        struct client *client = &clients[i];
        assert_int_equal(client_connect(client, &world, &servers[0], i), 0);
        world_run_count(&world, &servers[i].opened_count, 1);
        assert_int_equal(sl_connection_peer(client->connection)->instance_id, 1001 + i);
    }
    assert_int_equal(servers[0].opened_count, 1);
    client_close(&clients[0], &servers[0]);
    client_close(&clients[1], &servers[1]);
    servers_close(&servers[0]);
    world_close(&world);
}

static void test_nobody(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    world_open(&world, link_of(state), 2, NULL);
    servers_open(&server, &world, 1);
    servers_close(&server);
    assert_true(client_connect(&client, &world, &server, 0) < 0);
    assert_int_equal(client.closed_count, 0);
    world_close(&world);
}

/* A peer that connects and says nothing does not stay. */
static void test_mute_client(void **state)
{
    struct world world;
    struct server server;
    struct raw raw;
    struct world_config config = {.handshake_timeout_ns = 50 * SL_NS_PER_MS};
    world_open(&world, link_of(state), 2, &config);
    servers_open(&server, &world, 1);
    raw_open(&raw, &world, &server);
    world_run_flag(&world, &raw.is_closed);
    raw_close(&raw);
    servers_close(&server);
    world_close(&world);
}

/* However long the caller would wait, the handshake has its own limit. */
static void test_connect_into_nothing(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    world_open(&world, link_of(state), 2, NULL);
    servers_open(&server, &world, 1);
    sl_sim_partition(world.sim, world.nodes[0].io, world.nodes[1].io, true);
    uint64_t began_ns = sl_sim_now_ns(world.sim);
    assert_int_equal(client_connect(&client, &world, &server, 0), -ETIMEDOUT);
    uint64_t took_ns = sl_sim_now_ns(world.sim) - began_ns;
    assert_true(took_ns > 4 * SL_NS_PER_S && took_ns < 6 * SL_NS_PER_S);
    sl_sim_partition(world.sim, world.nodes[0].io, world.nodes[1].io, false);
    /* The late request does no harm. */
    world_run_ms(&world, 100);
    assert_int_equal(server.opened_count, 0);
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    client_close(&client, &server);
    servers_close(&server);
    world_close(&world);
}

/* ---- calls ---- */

#define CALLERS 64

static void test_credits(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    struct caller callers[CALLERS] = {0};
    struct world_config config = {.credits = 4};
    unsigned returned = 0;
    world_open(&world, link_of(state), 2, &config);
    servers_open(&server, &world, 1);
    server.mode = SERVER_HOLD;
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    for (unsigned i = 0; i < CALLERS; i++)
        caller_start(&callers[i], &client, i, &returned);
    while (returned < CALLERS) {
        /* The last credits of a round may come with the next message only. */
        world_run_count(&world, &server.held_count, 1);
        world_run_ms(&world, 2);
        assert_true(server.held_count <= 4);
        unsigned answered = returned + server.held_count;
        server_answer_held(&server, false);
        world_run_count(&world, &returned, answered);
    }
    for (unsigned i = 0; i < CALLERS; i++) {
        assert_int_equal(callers[i].result, 0);
        assert_int_equal(callers[i].returned_count, 1);
        assert_int_equal(callers[i].reply.io.io.trace_id, i);
    }
    assert_int_equal(server.held_max, 4);
    assert_int_equal(server.received_count, CALLERS);
    struct sl_fabric_statistics statistics;
    sl_fabric_statistics(world.nodes[0].fabric, &statistics);
    assert_int_equal(statistics.credit_wait_count, CALLERS - 4); /* each waited once */
    client_close(&client, &server);
    servers_close(&server);
    world_close(&world);
}

/* Credits that nothing else carries back come by themselves, after any number of calls. */
static void test_credits_of_one(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    struct world_config config = {.credits = 1};
    world_open(&world, link_of(state), 2, &config);
    servers_open(&server, &world, 1);
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    for (unsigned i = 0; i < 50; i++) {
        struct caller caller = {0};
        caller_start(&caller, &client, i, NULL);
        world_run_count(&world, &caller.returned_count, 1);
        assert_int_equal(caller.result, 0);
    }
    client_close(&client, &server);
    servers_close(&server);
    world_close(&world);
}

/* Waiters get credits in the order in which they came. */
static unsigned order_of_service[CALLERS], served_count;

static void note_order(struct server *server, struct sl_received *received)
{
    order_of_service[served_count++] = (unsigned)received->capsule.io.io.trace_id;
    server_echo(received);
    sl_received_release(received);
}

static void test_fair_credits(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    struct caller callers[CALLERS] = {0};
    struct world_config config = {.credits = 2};
    unsigned returned = 0;
    served_count = 0;
    world_open(&world, link_of(state), 2, &config);
    servers_open(&server, &world, 1);
    server.on_received = note_order;
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    for (unsigned i = 0; i < CALLERS; i++)
        caller_start(&callers[i], &client, i, &returned);
    world_run_count(&world, &returned, CALLERS);
    for (unsigned i = 0; i < CALLERS; i++)
        assert_int_equal(order_of_service[i], i);
    client_close(&client, &server);
    servers_close(&server);
    world_close(&world);
}

static void test_replies_out_of_order(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    struct caller callers[16] = {0};
    unsigned returned = 0;
    world_open(&world, link_of(state), 2, NULL);
    servers_open(&server, &world, 1);
    server.mode = SERVER_HOLD;
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    for (unsigned round = 0; round < 3; round++) {
        unsigned before = returned;
        for (unsigned i = 0; i < 16; i++)
            caller_start(&callers[i], &client, 100 * round + i, &returned);
        world_run_count(&world, &server.held_count, 16);
        server_answer_held(&server, true);
        world_run_count(&world, &returned, before + 16);
        for (unsigned i = 0; i < 16; i++) {
            assert_int_equal(callers[i].result, 0);
            assert_int_equal(callers[i].reply.io.io.trace_id, 100 * round + i);
        }
    }
    client_close(&client, &server);
    servers_close(&server);
    world_close(&world);
}

/* Both ends may call. */
static void test_calls_both_ways(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    struct caller callers[2][40] = {0};
    unsigned returned = 0;
    world_open(&world, link_of(state), 2, NULL);
    servers_open(&server, &world, 1);
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    world_run_count(&world, &server.opened_count, 1);
    struct client back = {.node = server.node, .connection = server.connection};
    for (unsigned i = 0; i < 40; i++) {
        caller_start(&callers[0][i], &client, i, &returned);
        caller_start(&callers[1][i], &back, 1000 + i, &returned);
    }
    world_run_count(&world, &returned, 80);
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(callers[0][i].result, 0);
        assert_int_equal(callers[1][i].result, 0);
        assert_int_equal(callers[0][i].reply.io.io.trace_id, i);
        assert_int_equal(callers[1][i].reply.io.io.trace_id, 1000 + i);
    }
    client_close(&client, &server);
    servers_close(&server);
    world_close(&world);
}

/* ---- death ---- */

/* 8 calls at the server, 8 that wait for credits; `side` tears down; held requests are released
 * before or after. */
static void death_round(struct world *world, struct server *server, unsigned side,
                        bool release_first)
{
    struct client client;
    struct caller callers[16] = {0};
    unsigned returned = 0;
    unsigned closed_before = server->closed_count;
    server->mode = SERVER_HOLD;
    assert_int_equal(client_connect(&client, world, server, 0), 0);
    for (unsigned i = 0; i < 16; i++)
        caller_start(&callers[i], &client, i, &returned);
    world_run_count(world, &server->held_count, 8);
    if (release_first)
        server_forget_held(server);
    sl_connection_shutdown(side == 0 ? client.connection : server->connection, -ECANCELED);
    world_run_count(world, &returned, 16);
    world_run_count(world, &client.closed_count, 1);
    world_run_count(world, &server->closed_count, closed_before + 1);
    world_run_ms(world, 2);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(callers[i].returned_count, 1);
        assert_true(callers[i].result < 0);
    }
    assert_false(sl_connection_is_open(client.connection));
    /* Later calls answer at once. */
    struct caller late = {0};
    caller_start(&late, &client, 1, NULL);
    world_run_count(world, &late.returned_count, 1);
    assert_true(late.result < 0);
    server_forget_held(server);
    assert_int_equal(client.closed_count, 1);
    assert_int_equal(server->closed_count, closed_before + 1);
    sl_connection_unref(client.connection);
}

static void test_death(void **state)
{
    struct world world;
    struct server server;
    struct world_config config = {.credits = 8, .in_capsule_bytes = 4096};
    world_open(&world, link_of(state), 2, &config);
    servers_open(&server, &world, 1);
    for (unsigned i = 0; i < 4; i++)
        death_round(&world, &server, i % 2, i / 2 == 1);
    servers_close(&server);
    world_close(&world);
}

/* Silence ends it at both sides; without it an idle connection stays. */
static void test_silence(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    struct caller caller = {0};
    world_open(&world, link_of(state), 2, NULL);
    servers_open(&server, &world, 1);
    server.mode = SERVER_HOLD;
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    world_run_ms(&world, 120 * 1000);
    assert_true(sl_connection_is_open(client.connection));
    assert_int_equal(server.closed_count, 0);
    caller_start(&caller, &client, 1, NULL);
    world_run_count(&world, &server.held_count, 1);
    uint64_t cut_ns = sl_sim_now_ns(world.sim);
    sl_sim_partition(world.sim, world.nodes[0].io, world.nodes[1].io, true);
    world_run_count(&world, &caller.returned_count, 1);
    world_run_count(&world, &server.closed_count, 1);
    assert_int_equal(caller.result, -ETIMEDOUT);
    assert_int_equal(client.reason, -ETIMEDOUT);
    assert_int_equal(server.reason, -ETIMEDOUT);
    uint64_t took_ns = sl_sim_now_ns(world.sim) - cut_ns;
    assert_true(took_ns > 3 * SL_NS_PER_S && took_ns < 8 * SL_NS_PER_S);
    sl_sim_partition(world.sim, world.nodes[0].io, world.nodes[1].io, false);
    server_forget_held(&server);
    sl_connection_unref(client.connection);
    world_run_ms(&world, 10);
    /* And again afterwards. */
    server.closed_count = 0;
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    client_close(&client, &server);
    servers_close(&server);
    world_close(&world);
}

/* A raw client that falls silent after the handshake, over any link. */
static void test_silent_client(void **state)
{
    struct world world;
    struct server server;
    struct raw raw;
    struct world_config config = {.heartbeat_interval_ns = 10 * SL_NS_PER_MS,
                                  .heartbeat_timeout_ns = 60 * SL_NS_PER_MS};
    world_open(&world, link_of(state), 2, &config);
    servers_open(&server, &world, 1);
    raw_open(&raw, &world, &server);
    raw_handshake(&raw);
    world_run_flag(&world, &raw.is_closed);
    assert_int_equal(server.reason, -ETIMEDOUT);
    assert_true(raw.type_count[SL_CAPSULE_HEARTBEAT] >= 1);
    raw_close(&raw);
    servers_close(&server);
    world_close(&world);
}

/* A reactor that did not run for longer than the time-out finds its peer's messages waiting: it
 * must read them before it declares the peer dead. */
static void test_stalled_reactor(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    struct world_config config = {.heartbeat_interval_ns = 20 * SL_NS_PER_MS,
                                  .heartbeat_timeout_ns = 100 * SL_NS_PER_MS};
    world_open(&world, link_of(state), 2, &config);
    servers_open(&server, &world, 1);
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    world_run_count(&world, &server.opened_count, 1);
    for (unsigned round = 0; round < 3; round++) {
        /* Both stop, as a suspended machine does. */
        struct timespec stall = {.tv_nsec = 150 * 1000 * 1000};
        nanosleep(&stall, NULL);
        world_run_ms(&world, 60);
        assert_true(sl_connection_is_open(client.connection));
        assert_int_equal(server.closed_count, 0);
    }
    client_close(&client, &server);
    servers_close(&server);
    world_close(&world);
}

/* A fabric that drains lets nobody in. */
static void test_drain(void **state)
{
    struct world world;
    struct server server;
    struct client client, other;
    struct caller caller = {0};
    world_open(&world, link_of(state), 2, NULL);
    servers_open(&server, &world, 1);
    server.mode = SERVER_HOLD;
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    caller_start(&caller, &client, 1, NULL);
    world_run_count(&world, &server.held_count, 1);
    struct node *node = server.node;
    assert_int_equal(sl_co_spawn(node->reactor, world_drain_co, node), 0);
    world_run_count(&world, &caller.returned_count, 1);
    assert_true(caller.result < 0);
    assert_true(client_connect(&other, &world, &server, 0) < 0);
    assert_false(node->is_drained); /* a request is still held */
    server_forget_held(&server);
    world_run_flag(&world, &node->is_drained);
    assert_int_equal(server.closed_count, 1);
    sl_connection_unref(client.connection);
    node->is_drained = false;
    servers_close(&server);
    world_close(&world);
}

/* Between the link's word of a request and its arrival at the fabric that it is for. */
static struct {
    struct node *node;
    void (*incoming)(void *owner, struct sl_link_incoming *request);
    void *owner;
    bool was_on_its_way, drained_early;
} handover;

static void drain_now_co(void *argument)
{
    struct node *node = argument;
    sl_fabric_drain_co(node->fabric);
    handover.drained_early = atomic_load(&node->fabric->handover_count) > 0;
    node->is_drained = true;
}

static void incoming_and_drain(void *owner, struct sl_link_incoming *request)
{
    struct node *node = handover.node;
    handover.incoming(handover.owner, request);
    handover.was_on_its_way = atomic_load(&node->fabric->handover_count) > 0;
    (void)sl_co_spawn(node->reactor, drain_now_co, node);
}

static int listen_for_handover(struct sl_link_domain *domain, const char *address,
                               void (*incoming)(void *owner, struct sl_link_incoming *request),
                               void *owner, char *bound, struct sl_link_listener **listener)
{
    handover.incoming = incoming;
    handover.owner = owner;
    return sl_link_sim.listen(domain, address, incoming_and_drain, owner, bound, listener);
}

/* A request that is on its way from the reactor that listens to its own is awaited: it came to a
 * fabric that was no more (cluster_sim, seed 6000627). */
static void test_drain_awaits_handover(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    struct sl_link_ops link = sl_link_sim;
    link.listen = listen_for_handover;
    world_open(&world, link_of(state), 2, NULL);
    memset(&handover, 0, sizeof(handover));
    handover.node = &world.nodes[1];
    handover.node->fabric->config.link = &link;
    servers_open(&server, &world, 1);
    assert_true(client_connect(&client, &world, &server, 0) < 0);
    world_run_flag(&world, &handover.node->is_drained);
    assert_true(handover.was_on_its_way);
    assert_false(handover.drained_early);
    assert_int_equal(server.opened_count, 0);
    handover.node->is_drained = false;
    servers_close(&server);
    world_close(&world);
}

/* ---- malformed ---- */

/* Each ends its own connection, and no other. */
static void test_malformed(void **state)
{
    struct world world;
    struct server server;
    struct client good;
    struct raw raw;
    world_open(&world, link_of(state), 2, NULL);
    servers_open(&server, &world, 1);
    assert_int_equal(client_connect(&good, &world, &server, 0), 0);
    world_run_count(&world, &server.opened_count, 1);
    for (unsigned bad = 0; bad < RAW_BAD_COUNT; bad++) {
        unsigned before = server.closed_count;
        server.mode = SERVER_HOLD;
        raw_open(&raw, &world, &server);
        raw_handshake(&raw);
        raw_send_bad(&raw, (enum raw_bad)bad, 16);
        world_run_flag(&world, &raw.is_closed);
        world_run_count(&world, &server.closed_count, before + 1);
        /* Seen at once, not by the silence after it. */
        int expected = bad == RAW_BAD_CRC ? -SL_E_CHECKSUM : -SL_E_PROTOCOL;
        assert_int_equal(server.reason, expected);
        server_forget_held(&server);
        raw_close(&raw);
        server.mode = SERVER_ECHO;
        struct caller caller = {0};
        caller_start(&caller, &good, bad, NULL);
        world_run_count(&world, &caller.returned_count, 1);
        assert_int_equal(caller.result, 0);
    }
    assert_true(sl_connection_is_open(good.connection));
    server.closed_count = 0;
    client_close(&good, &server);
    servers_close(&server);
    world_close(&world);
}

/* An unknown request is the owner's to answer; a capsule of 256 bytes passes whole. */
static void test_largest_capsule(void **state)
{
    struct world world;
    struct server server;
    struct raw raw;
    world_open(&world, link_of(state), 2, NULL);
    servers_open(&server, &world, 1);
    raw_open(&raw, &world, &server);
    raw_handshake(&raw);
    union sl_capsule capsule;
    memset(&capsule, 0, sizeof(capsule));
    capsule.header.type = SL_CAPSULE_IO;
    capsule.header.length_bytes = SL_CAPSULE_BYTES_MAX;
    capsule.header.request_id = 0xabcdef01;
    pattern_fill(capsule.bytes + 32, SL_CAPSULE_BYTES_MAX - 32, 5);
    raw_send(&raw, &capsule, 0);
    world_run_count(&world, &raw.type_count[SL_CAPSULE_REPLY], 1);
    assert_int_equal(raw.last.header.request_id, 0xabcdef01);
    assert_int_equal(raw.last.header.length_bytes, SL_CAPSULE_BYTES_MAX);
    assert_true(pattern_is(raw.last.bytes + 32, SL_CAPSULE_BYTES_MAX - 32, 5));
    raw_close(&raw);
    servers_close(&server);
    world_close(&world);
}

/* ---- payload ---- */

static const struct {
    uint32_t payload_bytes;
    unsigned span_count;
} payloads[] = {{1, 1},     {512, 1},   {4096, 1},  {4097, 1},  {8192, 2},
                {12288, 3}, {12800, 3}, {16384, 1}, {16384, 3}, {0, 0}};

static void take_payload(struct server *server, struct sl_received *received)
{
    struct world *world = server->node->world;
    unsigned index = (unsigned)received->capsule.io.io.trace_id / 100;
    uint32_t left = payloads[index].payload_bytes;
    WORLD_CHECK(world, received->payload_bytes == left);
    WORLD_CHECK(world, (received->payload != NULL) == (left > 0));
    struct sl_buf *payload = sl_received_take_payload(received);
    server_echo(received);
    sl_received_release(received);
    if (payload == NULL)
        return;
    WORLD_CHECK(world, sl_is_aligned((uintptr_t)payload->data, SL_BLOCK_BYTES));
    /* The tail pages were given back. */
    WORLD_CHECK(world, payload->length_bytes == sl_align_up(left, SL_BLOCK_BYTES));
    const uint8_t *at = payload->data;
    for (unsigned i = 0; i < payloads[index].span_count; i++) {
        uint32_t step = i + 1 == payloads[index].span_count ? left : SL_BLOCK_BYTES;
        WORLD_CHECK(world, pattern_is(at, step, index * 100 + i));
        at += step;
        left -= step;
    }
    sl_buf_unref(payload);
}

static void test_payload(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    struct caller callers[SL_COUNT_OF(payloads)];
    struct world_config config = {.in_capsule_bytes = SL_IN_CAPSULE_BYTES_MAX};
    world_open(&world, link_of(state), 2, &config);
    servers_open(&server, &world, 1);
    server.on_received = take_payload;
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    for (unsigned round = 0; round < 10; round++) {
        unsigned returned = 0;
        memset(callers, 0, sizeof(callers));
        for (unsigned i = 0; i < SL_COUNT_OF(payloads); i++) {
            callers[i].payload_bytes = payloads[i].payload_bytes;
            callers[i].span_count = payloads[i].span_count;
            caller_start(&callers[i], &client, i * 100, &returned);
        }
        world_run_count(&world, &returned, SL_COUNT_OF(payloads));
        for (unsigned i = 0; i < SL_COUNT_OF(payloads); i++)
            assert_int_equal(callers[i].result, 0);
    }
    client_close(&client, &server);
    servers_close(&server);
    world_close(&world);
}

/* More than the peer takes is refused here; the connection lives. */
static void test_payload_too_long(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    struct world_config config = {.in_capsule_bytes = 4096};
    world_open(&world, link_of(state), 2, &config);
    servers_open(&server, &world, 1);
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    struct caller callers[2] = {{.payload_bytes = 4097}, {0}};
    for (unsigned i = 0; i < 2; i++) {
        caller_start(&callers[i], &client, i, NULL);
        world_run_count(&world, &callers[i].returned_count, 1);
    }
    assert_int_equal(callers[0].result, -EMSGSIZE);
    assert_int_equal(callers[1].result, 0);
    client_close(&client, &server);
    servers_close(&server);
    world_close(&world);
}

/* The owner keeps every payload until memory is short: credits stay away, come back with memory. */
#define KEPT_MAX 400
static struct sl_buf *kept[KEPT_MAX];
static unsigned kept_count;

static void keep_payload(struct server *server, struct sl_received *received)
{
    kept[kept_count++] = sl_received_take_payload(received);
    server_echo(received);
    sl_received_release(received);
}

static void test_short_of_memory(void **state)
{
    struct world world;
    struct server server;
    struct client client;
    static struct caller callers[KEPT_MAX];
    struct world_config config = {.in_capsule_bytes = SL_IN_CAPSULE_BYTES_MAX,
                                  .memory_bytes = 8 * SL_MIB};
    unsigned returned = 0;
    memset(callers, 0, sizeof(callers));
    kept_count = 0;
    world_open(&world, link_of(state), 2, &config);
    servers_open(&server, &world, 1);
    server.on_received = keep_payload;
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    for (unsigned i = 0; i < KEPT_MAX; i++) {
        callers[i].payload_bytes = SL_IN_CAPSULE_BYTES_MAX;
        caller_start(&callers[i], &client, i, &returned);
    }
    world_run_count(&world, &returned, 100);
    world_run_ms(&world, 50);
    assert_true(returned < 224); /* 7/8 of 4 MiB, half of it all */
    assert_true(sl_connection_is_open(client.connection));
    for (unsigned given = 0; returned < KEPT_MAX;) {
        unsigned before = kept_count;
        for (; given < before; given++)
            sl_buf_unref(kept[given]);
        world_run_count(&world, &returned, sl_min(before + 1, (unsigned)KEPT_MAX));
        if (returned == KEPT_MAX)
            for (; given < kept_count; given++)
                sl_buf_unref(kept[given]);
    }
    for (unsigned i = 0; i < KEPT_MAX; i++)
        assert_int_equal(callers[i].result, 0);
    client_close(&client, &server);
    servers_close(&server);
    world_close(&world);
}

/* ---- faults ---- */

/* Calls without end under resets and delays: each returns once; all memory comes back. */
static void fault_round(uint64_t seed, unsigned *failed_count)
{
    struct world world;
    struct server server;
    struct client client;
    struct caller callers[CALLERS];
    struct world_config config = {
        .credits = 1 + seed % 9,
        .in_capsule_bytes = 8192,
        .sim = {.seed = seed, .network = {.reset_per_million = 3000, .slow_per_million = 20000}},
    };
    static const struct world_link sim = {"sim", &sl_link_sim, "server:0"};
    world_open(&world, &sim, 2, &config);
    servers_open(&server, &world, 1);
    for (unsigned round = 0; round < 20; round++) {
        unsigned returned = 0;
        if (client_connect(&client, &world, &server, 0) < 0)
            continue;
        memset(callers, 0, sizeof(callers));
        for (unsigned i = 0; i < CALLERS; i++) {
            callers[i].payload_bytes = i % 3 == 0 ? 5000 : 0;
            caller_start(&callers[i], &client, i, &returned);
        }
        world_run_count(&world, &returned, CALLERS);
        for (unsigned i = 0; i < CALLERS; i++) {
            assert_int_equal(callers[i].returned_count, 1);
            if (callers[i].result == 0)
                assert_int_equal(callers[i].reply.io.io.trace_id, i);
            else
                ++*failed_count;
        }
        client_close(&client, NULL);
    }
    servers_close(&server);
    world_run_count(&world, &server.closed_count, server.opened_count);
    assert_int_equal(server.closed_count, server.opened_count);
    world_close(&world);
}

static void test_faults(void **state)
{
    unsigned failed_count = 0;
    for (uint64_t seed = 1; seed <= 20; seed++)
        fault_round(seed, &failed_count);
    assert_true(failed_count > 100); /* they were really hit */
}

/* Where a test applies: only the simulator can cut cables and choose limits, its reactors never
 * stall, and what maps memory sends no payload. */
enum { ALL = 0, SIM_ONLY = 1, REAL_ONLY = 2, PAYLOAD_ONLY = 4 };

/* So many connections that their receives took all the memory of I/O: everything hung. The one too
 * many is refused. */
static void test_crowd(void **state)
{
    struct world world;
    struct server server;
    struct client clients[3];
    struct world_config config = {.credits = SL_CREDITS_MAX,
                                  .in_capsule_bytes = SL_IN_CAPSULE_BYTES_MAX,
                                  .memory_bytes = 24 * SL_MIB};
    world_open(&world, link_of(state), 2, &config);
    servers_open(&server, &world, 1);
    assert_int_equal(client_connect(&clients[0], &world, &server, 0), 0);
    assert_int_equal(client_connect(&clients[1], &world, &server, 0), 0);
    assert_int_not_equal(client_connect(&clients[2], &world, &server, 0), 0);
    for (unsigned i = 0; i < 2; i++)
        assert_true(sl_connection_is_open(clients[i].connection));
    struct sl_buf *buf = sl_buf_alloc(server.node->memory, SL_MIB, SL_RESERVE_ADMISSION);
    assert_non_null(buf);
    sl_buf_unref(buf);
    client_close(&clients[0], &server);
    /* What it had is there for another. */
    assert_int_equal(client_connect(&clients[2], &world, &server, 0), 0);
    client_close(&clients[1], &server);
    client_close(&clients[2], &server);
    servers_close(&server);
    world_close(&world);
}

static const struct {
    const char *name;
    CMUnitTestFunction function;
    unsigned where;
} table[] = {
    {"handshake", test_handshake, ALL},
    {"wrong_key", test_wrong_key, ALL},
    {"wrong_proof", test_wrong_proof, ALL},
    {"wrong_version", test_wrong_version, ALL},
    {"routing", test_routing, ALL},
    {"nobody", test_nobody, ALL},
    {"mute_client", test_mute_client, ALL},
    {"connect_into_nothing", test_connect_into_nothing, SIM_ONLY},
    {"credits", test_credits, ALL},
    {"credits_of_one", test_credits_of_one, ALL},
    {"fair_credits", test_fair_credits, ALL},
    {"replies_out_of_order", test_replies_out_of_order, ALL},
    {"calls_both_ways", test_calls_both_ways, ALL},
    {"death", test_death, ALL},
    {"drain", test_drain, ALL},
    {"drain_awaits_handover", test_drain_awaits_handover, SIM_ONLY},
    {"silence", test_silence, SIM_ONLY},
    {"silent_client", test_silent_client, ALL},
    {"stalled_reactor", test_stalled_reactor, REAL_ONLY},
    {"malformed", test_malformed, ALL},
    {"largest_capsule", test_largest_capsule, ALL},
    {"payload", test_payload, PAYLOAD_ONLY},
    {"payload_too_long", test_payload_too_long, ALL},
    {"short_of_memory", test_short_of_memory, PAYLOAD_ONLY},
    {"crowd", test_crowd, PAYLOAD_ONLY},
    {"transfer", test_transfer, ALL},
    {"transfer_cut", test_transfer_cut, SIM_ONLY},
    {"transfer_bad_key", test_transfer_bad_key, ALL},
    {"faults", test_faults, SIM_ONLY},
};

int main(int argc, char **argv)
{
    static char names[4 * SL_COUNT_OF(table)][64];
    static struct CMUnitTest tests[4 * SL_COUNT_OF(table)];
    size_t count = 0;
    for (unsigned i = 0; i < world_link_count; i++) {
        if (argc > 1 && strcmp(argv[1], world_links[i].name) != 0)
            continue;
        for (unsigned k = 0; k < SL_COUNT_OF(table); k++) {
            const struct sl_link_ops *ops = world_links[i].ops;
            unsigned where = table[k].where;
            if (((where & SIM_ONLY) != 0 && ops != &sl_link_sim) ||
                ((where & REAL_ONLY) != 0 && ops == &sl_link_sim) ||
                ((where & PAYLOAD_ONLY) != 0 && ops->maps))
                continue;
            if (argc > 2 && strcmp(argv[2], table[k].name) != 0)
                continue;
            snprintf(names[count], sizeof(names[count]), "%s/%s", world_links[i].name,
                     table[k].name);
            tests[count] = (struct CMUnitTest){names[count], table[k].function, NULL, NULL,
                                               (void *)(uintptr_t)&world_links[i]};
            count++;
        }
    }
    return _cmocka_run_group_tests("fabric", tests, count, NULL, NULL);
}
