/* Tests of one-sided operations of the fabric: pieces, cuts, keys. Rows of the table in
 * fabric_test.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/error.h"
#include "fabric_world.h"

static const struct world_link *link_of(void **state)
{
    return *state;
}

#define TRANSFER_PIECES 4
static const uint32_t piece_bytes[TRANSFER_PIECES] = {4096, 40960, 12288, 512};
#define TRANSFER_BYTES (4096 + 40960 + 12288 + 512)

struct transfer {
    struct server *server;
    struct sl_received *received;
    int read_error, write_error;
    bool is_done;
};

/* The simulator's link alone has atomics; the others say so, and nothing comes of the asking. What
 * stands in the piece after is overwritten later. */
static void check_atomics_co(struct world *world, struct sl_connection *connection,
                             const struct sl_remote_piece *piece)
{
    bool has_atomics = world_is_sim(world);
    struct sl_remote_piece word = *piece;
    uint64_t before = 0, between = 0, after = 0;
    word.length_bytes = sizeof(uint64_t);
    int expected = has_atomics ? 0 : -EOPNOTSUPP;
    WORLD_CHECK(world, sl_connection_fetch_add_co(connection, &word, 5, &before) == expected);
    WORLD_CHECK(world,
                sl_connection_compare_swap_co(connection, &word, before, 1, &between) == expected);
    WORLD_CHECK(world, sl_connection_compare_swap_co(connection, &word, before + 5, 1, &between) ==
                           expected);
    WORLD_CHECK(world, sl_connection_fetch_add_co(connection, &word, 0, &after) == expected);
    if (!has_atomics)
        return;
    for (unsigned k = 0; k < sizeof(before); k++)
        WORLD_CHECK(world, ((const uint8_t *)&before)[k] == (uint8_t)(k * 31));
    WORLD_CHECK(world, between == before + 5);
    WORLD_CHECK(world, after == 1);
    word.length_bytes = 4;
    WORLD_CHECK(world, sl_connection_fetch_add_co(connection, &word, 1, &before) == -EINVAL);
    word = *piece;
    word.address += 4;
    word.length_bytes = sizeof(uint64_t);
    WORLD_CHECK(world, sl_connection_fetch_add_co(connection, &word, 1, &before) == -EINVAL);
}

/* READs all pieces into spans that are cut elsewhere, checks, changes, WRITEs back and answers. */
static void transfer_co(void *argument)
{
    struct transfer *transfer = argument;
    struct world *world = transfer->server->node->world;
    struct sl_memory *memory = transfer->server->node->memory;
    struct sl_received *received = transfer->received;
    static const uint32_t cuts[] = {1, 8191, 20480, TRANSFER_BYTES - 28672};
    struct sl_buf *bufs[SL_COUNT_OF(cuts)];
    struct sl_span spans[SL_COUNT_OF(cuts)];
    for (unsigned i = 0; i < SL_COUNT_OF(cuts); i++) {
        bufs[i] = sl_buf_alloc_co(memory, cuts[i], SL_RESERVE_ADMISSION);
        spans[i] = sl_buf_span(bufs[i], 0, cuts[i]);
    }
    const struct sl_remote_piece *pieces = received->capsule.io.pieces;
    transfer->read_error = sl_connection_read_co(received->connection, spans, SL_COUNT_OF(cuts),
                                                 pieces, TRANSFER_PIECES);
    if (transfer->read_error == 0)
        check_atomics_co(world, received->connection, &pieces[0]);
    uint64_t at = 0;
    for (unsigned i = 0; i < SL_COUNT_OF(cuts) && transfer->read_error == 0; i++) {
        for (uint32_t k = 0; k < cuts[i]; k++, at++) {
            WORLD_CHECK(world, bufs[i]->data[k] == (uint8_t)(at * 31));
            bufs[i]->data[k] ^= 0xff;
        }
    }
    union sl_capsule reply = {.header.length_bytes = SL_CAPSULE_BYTES_MIN};
    transfer->write_error = sl_connection_write_reply_co(received, spans, SL_COUNT_OF(cuts), pieces,
                                                         TRANSFER_PIECES, &reply);
    /* The memory is ours again: what we do to it now, nobody sees. */
    for (unsigned i = 0; i < SL_COUNT_OF(cuts); i++) {
        memset(bufs[i]->data, 0x11, cuts[i]);
        sl_buf_unref(bufs[i]);
    }
    sl_received_release(received);
    transfer->is_done = true;
}

static void start_transfer(struct server *server, struct sl_received *received)
{
    struct transfer *transfer = server->context;
    transfer->server = server;
    transfer->received = received;
    WORLD_CHECK(server->node->world,
                sl_co_spawn(server->node->reactor, transfer_co, transfer) == 0);
}

struct exposed {
    struct client *client;
    struct sl_buf *bufs[TRANSFER_PIECES];
    uint64_t bad_key;
    int result;
    bool is_done;
};

static void expose_co(void *argument)
{
    struct exposed *exposed = argument;
    struct node *node = exposed->client->node;
    union sl_capsule reply;
    union sl_capsule request = {
        .io = {.header = {.type = SL_CAPSULE_IO, .length_bytes = sizeof(struct sl_capsule_io)}}};
    uint64_t at = 0;
    for (unsigned i = 0; i < TRANSFER_PIECES; i++) {
        struct sl_buf *buf = sl_buf_alloc_co(node->memory, piece_bytes[i], SL_RESERVE_ADMISSION);
        exposed->bufs[i] = buf;
        for (uint32_t k = 0; k < piece_bytes[i]; k++, at++)
            buf->data[k] = (uint8_t)(at * 31);
        WORLD_CHECK(node->world, sl_fabric_describe(node->fabric, buf->region, buf->data,
                                                    piece_bytes[i], &request.io.pieces[i]) == 0);
        request.io.pieces[i].key ^= exposed->bad_key;
    }
    exposed->result = sl_connection_call_co(exposed->client->connection, &request, NULL, 0, &reply);
    at = 0;
    for (unsigned i = 0; i < TRANSFER_PIECES; i++) {
        for (uint32_t k = 0; k < piece_bytes[i] && exposed->result == 0; k++, at++)
            WORLD_CHECK(node->world, exposed->bufs[i]->data[k] == (uint8_t)(~(at * 31)));
        sl_buf_unref(exposed->bufs[i]);
    }
    exposed->is_done = true;
}

static void transfer_round(const struct world_link *link, const struct world_config *config,
                           uint64_t bad_key)
{
    struct world world;
    struct server server;
    struct client client;
    struct transfer transfer = {0};
    world_open(&world, link, 2, config);
    servers_open(&server, &world, 1);
    server.on_received = start_transfer;
    server.context = &transfer;
    assert_int_equal(client_connect(&client, &world, &server, 0), 0);
    struct exposed exposed = {.client = &client, .bad_key = bad_key};
    assert_int_equal(sl_co_spawn(client.node->reactor, expose_co, &exposed), 0);
    world_run_flag(&world, &exposed.is_done);
    world_run_flag(&world, &transfer.is_done);
    if (bad_key == 0) {
        assert_int_equal(exposed.result, 0);
        assert_int_equal(transfer.read_error, 0);
        assert_int_equal(transfer.write_error, 0);
        struct sl_fabric_statistics statistics;
        sl_fabric_statistics(world.nodes[1].fabric, &statistics);
        assert_int_equal(statistics.read_bytes, TRANSFER_BYTES);
        assert_int_equal(statistics.write_bytes, TRANSFER_BYTES);
        client_close(&client, &server);
    } else {
        /* libfabric's tcp does not say why it closed (link.h, rule 5). */
        bool is_silent = world.link->device != NULL;
        assert_int_equal(transfer.read_error, is_silent ? -ECONNRESET : -SL_E_KEY);
        assert_true(transfer.write_error < 0);
        assert_true(exposed.result < 0);
        world_run_count(&world, &client.closed_count, 1);
        world_run_count(&world, &server.closed_count, 1);
        sl_connection_unref(client.connection);
    }
    servers_close(&server);
    world_close(&world);
}

void test_transfer(void **state)
{
    transfer_round(link_of(state), NULL, 0);
}

/* Cut to what a link takes. */
void test_transfer_cut(void **state)
{
    static const struct sl_sim_network limits[] = {
        {.local_spans_max = 1},
        {.local_spans_max = 2, .transfer_bytes_max = 8192},
        {.transfer_bytes_max = 4096}};
    for (unsigned i = 0; i < SL_COUNT_OF(limits); i++) {
        struct world_config config = {.sim = {.seed = 100 + i, .network = limits[i]}};
        transfer_round(link_of(state), &config, 0);
    }
}

void test_transfer_bad_key(void **state)
{
    transfer_round(link_of(state), NULL, UINT64_C(0x8000000000000001));
}
