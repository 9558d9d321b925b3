/*
 * Goal: a simulation depends on its seed alone.
 * Method: two nodes over the simulated link: a client that keeps calls outstanding, a server that
 * reads or writes the client's memory and a disk of its own, slowly and out of order. The trace
 * hash of two runs of one seed is the same, of other seeds another; so under faults, where
 * connections die and come back and the disk fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "fabric/fabric.h"
#include "sim/sim_disk.h"

#define CALLER_COUNT 16
#define CALL_COUNT   20
#define DISK_BYTES   (2 * SL_MIB)
#define BLOCK        SL_BLOCK_BYTES

struct run {
    struct sl_sim *sim;
    struct sl_sim_node client, server;
    struct sl_fabric *client_fabric, *server_fabric;
    struct sl_disk *disk;
    struct sl_connection *connection;
    unsigned caller_count;
    unsigned ok_count, error_count, disk_error_count, connect_count, wrong_count;
    bool is_drained[2];
};

/* ---- the server: WRITE takes a block from the client to the disk, READ brings it back ---- */

static int serve_block_co(struct run *run, struct sl_received *received,
                          const struct sl_capsule_io *request)
{
    struct sl_buf *buf = sl_buf_alloc_co(run->server.memory, BLOCK, SL_RESERVE_ADMISSION);
    struct sl_span span = sl_buf_span(buf, 0, BLOCK);
    union sl_capsule reply = {.header.length_bytes = SL_CAPSULE_BYTES_MIN};
    uint64_t offset = request->io.offset_bytes;
    bool is_write = request->io.opcode == SL_IO_WRITE;
    int error = 0;
    if (is_write)
        error = sl_connection_read_co(received->connection, &span, 1, request->pieces, 1);
    if (error == 0)
        error = sl_disk_rw_co(run->disk, is_write ? SL_DISK_WRITE : SL_DISK_READ, &span, 1, offset,
                              BLOCK, 0);
    reply.header.status = (uint16_t)sl_status_from_errno(error);
    if (error == 0 && !is_write)
        error = sl_connection_write_reply_co(received, &span, 1, request->pieces, 1, &reply);
    else
        sl_connection_reply(received, &reply);
    sl_buf_unref(buf);
    return error;
}

struct served {
    struct run *run;
    struct sl_received *received;
};

static void serve_co(void *argument)
{
    struct served served = *(struct served *)argument;
    free(argument);
    serve_block_co(served.run, served.received, &served.received->capsule.io);
    sl_received_release(served.received);
}

static void server_received(void *owner, struct sl_received *received)
{
    struct served *served = malloc(sizeof(*served));
    *served = (struct served){owner, received};
    assert_int_equal(sl_co_spawn(((struct run *)owner)->server.reactor, serve_co, served), 0);
}

static void server_opened(void *owner, struct sl_connection *connection)
{
    sl_connection_set_owner(connection, owner);
}

static void closed(void *owner, struct sl_connection *connection, int reason)
{
}

static void client_received(void *owner, struct sl_received *received)
{
    sl_received_release(received);
}

static const struct sl_connection_handlers server_handlers = {server_opened, server_received,
                                                              closed};
static const struct sl_connection_handlers client_handlers = {NULL, client_received, closed};

/* ---- the client ---- */

static int call_co(struct run *run, struct sl_buf *buf, uint8_t opcode, uint64_t offset_bytes)
{
    union sl_capsule reply;
    union sl_capsule request = {
        .io = {
            .header = {.type = SL_CAPSULE_IO, .length_bytes = sizeof(struct sl_capsule_io)},
            .io = {.opcode = opcode,
                   .offset_bytes = offset_bytes,
                   .length_bytes = BLOCK,
                   .piece_count = 1},
        }};
    int error = sl_fabric_describe(run->client_fabric, buf->region, buf->data, BLOCK,
                                   &request.io.pieces[0]);
    if (error < 0)
        return error;
    struct sl_connection *connection = run->connection;
    if (connection == NULL || !sl_connection_is_open(connection))
        return -ECONNRESET;
    error = sl_connection_call_co(connection, &request, NULL, 0, &reply);
    return error < 0 ? error : sl_status_to_errno(reply.header.status);
}

/* Writes a block, reads it back and compares, whatever fails in between. */
static void caller_co(void *argument)
{
    struct run *run = argument;
    unsigned index = run->caller_count++;
    struct sl_buf *buf = sl_buf_alloc_co(run->client.memory, BLOCK, SL_RESERVE_ADMISSION);
    for (unsigned i = 0; i < CALL_COUNT; i++) {
        /* A block a round: a write that was given up may still come to the disk later. */
        uint64_t own = (uint64_t)(index * CALL_COUNT + i) * BLOCK;
        uint8_t fill = (uint8_t)sl_reactor_random_u64(run->client.reactor);
        memset(buf->data, fill, BLOCK);
        int error = call_co(run, buf, SL_IO_WRITE, own);
        if (error == 0) {
            memset(buf->data, ~fill, BLOCK);
            error = call_co(run, buf, SL_IO_READ, own);
        }
        if (error == 0) {
            run->ok_count++;
            for (unsigned k = 0; k < BLOCK; k++)
                run->wrong_count += buf->data[k] != fill;
        } else {
            run->error_count++;
            run->disk_error_count += error == -EIO;
            sl_sleep_co(SL_NS_PER_MS);
        }
    }
    sl_buf_unref(buf);
    run->caller_count--;
}

static void connect_again_co(struct run *run)
{
    if (run->connection != NULL)
        sl_connection_unref(run->connection);
    run->connection = NULL;
    struct sl_connection *connection;
    int error = sl_fabric_connect_co(run->client_fabric, "server:1", 0, &client_handlers, run,
                                     UINT64_MAX, &connection);
    if (error == 0) {
        run->connection = connection;
        run->connect_count++;
    }
}

static void client_co(void *argument)
{
    struct run *run = argument;
    connect_again_co(run);
    for (unsigned i = 0; i < CALLER_COUNT; i++)
        sl_co_spawn(run->client.reactor, caller_co, run);
    do {
        sl_sleep_co(500 * SL_NS_PER_US);
        if (run->connection == NULL || !sl_connection_is_open(run->connection))
            connect_again_co(run);
    } while (run->caller_count > 0);
    if (run->connection != NULL)
        sl_connection_unref(run->connection);
    run->connection = NULL;
    sl_fabric_drain_co(run->client_fabric);
    run->is_drained[0] = true;
}

static void drain_server_co(void *argument)
{
    struct run *run = argument;
    sl_fabric_drain_co(run->server_fabric);
    run->is_drained[1] = true;
}

static bool client_is_done(void *argument)
{
    return ((struct run *)argument)->is_drained[0];
}

static bool server_is_done(void *argument)
{
    return ((struct run *)argument)->is_drained[1];
}

static struct sl_fabric *make_fabric(struct sl_sim_node *node, enum sl_role role)
{
    struct sl_fabric *fabric;
    struct sl_fabric_config config = {
        .link = &sl_link_sim,
        .domain = {.io = node->io,
                   .memory = node->memory,
                   .arena_access = SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE},
        .reactor = node->reactor,
        .role = role,
        .instance_id = sl_reactor_random_u64(node->reactor),
        .credits = 8,
        .in_capsule_bytes = 8192,
    };
    assert_int_equal(sl_fabric_create(&config, &fabric), 0);
    return fabric;
}

/* One run from a seed: its trace hash; the counts are left in `run`. */
static uint64_t simulate(struct run *run, uint64_t seed, bool faults)
{
    *run = (struct run){0};
    struct sl_sim_config config = {.seed = seed};
    if (faults) {
        config.network.reset_per_million = 2000;
        config.network.slow_per_million = 5000;
        config.storage.read_error_per_million = 10000;
        config.storage.write_error_per_million = 10000;
    }
    assert_int_equal(sl_sim_create(&config, &run->sim), 0);
    assert_int_equal(sl_sim_disk_create(run->sim, "server", "disk", DISK_BYTES), 0);
    assert_int_equal(sl_sim_node_open(run->sim, "client", 0, 32 * SL_MIB, &run->client), 0);
    assert_int_equal(sl_sim_node_open(run->sim, "server", 0, 32 * SL_MIB, &run->server), 0);
    struct sl_disk_info info;
    assert_int_equal(sl_disk_open(run->server.io, "disk", NULL, &info, &run->disk), 0);
    run->client_fabric = make_fabric(&run->client, SL_ROLE_GATEWAY);
    run->server_fabric = make_fabric(&run->server, SL_ROLE_TARGET);
    struct sl_fabric_listener *listener;
    void *owner = run;
    assert_int_equal(sl_fabric_listen(&run->server_fabric, 1, "server:1", &server_handlers, &owner,
                                      NULL, &listener),
                     0);
    assert_int_equal(sl_co_spawn(run->client.reactor, client_co, run), 0);
    uint64_t limit = sl_sim_now_ns(run->sim) + 600 * SL_NS_PER_S;
    assert_true(sl_sim_run_until(run->sim, limit, client_is_done, run));
    sl_fabric_listener_close(listener);
    assert_int_equal(sl_co_spawn(run->server.reactor, drain_server_co, run), 0);
    assert_true(sl_sim_run_until(run->sim, limit, server_is_done, run));
    sl_sim_run_until(run->sim, sl_sim_now_ns(run->sim) + SL_NS_PER_S, NULL, NULL);
    uint64_t hash = sl_sim_trace_hash(run->sim);
    sl_fabric_destroy(run->client_fabric);
    sl_fabric_destroy(run->server_fabric);
    sl_disk_close(run->disk);
    sl_sim_node_close(&run->client);
    sl_sim_node_close(&run->server);
    sl_sim_destroy(run->sim);
    return hash;
}

static void test_same_seed_same_trace(void **state)
{
    struct run first, second, other;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        uint64_t hash = simulate(&first, seed, false);
        assert_int_equal(first.ok_count, CALLER_COUNT * CALL_COUNT);
        assert_int_equal(first.wrong_count, 0);
        assert_true(simulate(&second, seed, false) == hash);
        assert_true(simulate(&other, seed + 1000, false) != hash);
    }
}

static void test_same_under_faults(void **state)
{
    struct run first, second;
    unsigned reconnect_count = 0, disk_error_count = 0;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        uint64_t hash = simulate(&first, seed, true);
        assert_int_equal(first.ok_count + first.error_count, CALLER_COUNT * CALL_COUNT);
        assert_int_equal(first.wrong_count, 0);
        assert_true(simulate(&second, seed, true) == hash);
        assert_int_equal(second.error_count, first.error_count);
        reconnect_count += first.connect_count - 1;
        disk_error_count += first.disk_error_count;
    }
    /* The faults were really hit. */
    assert_true(reconnect_count > 5);
    assert_true(disk_error_count > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_seed_same_trace),
        cmocka_unit_test(test_same_under_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
