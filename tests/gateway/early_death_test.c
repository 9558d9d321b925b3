/*
 * Goal: a server may die at any moment, also in the very turn in which its answer came, before the
 * coroutine that waits for the answer runs: the gateway connects again, and its end waits for no
 * answer that does not come.
 * What went wrong: a connection that opened and died in one turn was never left (the route waited
 * for a closed() that had been called already); one that died right behind an answer was used
 * through a pointer that closed() had taken; a farewell that nobody answered hung the process.
 * Method: a gateway over a link whose only peer is this test: it plays the listener of the
 * handshake by hand, answers a script of so many messages, and closes in the same turn.
 */
#include "../io/harness.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "fabric/private.h"
#include "gateway/gateway.h"

#define CAPACITY_BYTES (64 * SL_MIB)

/* Answers (CHALLENGE, WELCOME, storage, …) that the peer gives to each connection before it dies
 * behind the last; a connection beyond the script lives, and answers all but the farewell. */
static const unsigned script[] = {1, 2, 3, 4, 5, 3, 2};

struct sl_link_domain {
    struct sl_reactor *reactor;
};

struct sl_link_connection {
    struct sl_link_domain *domain;
    const struct sl_link_handlers *handlers;
    void *owner;
    struct sl_list sends, receives;
    struct sl_wait_queue changed;
    bool dead;
    unsigned answers_left;
    uint64_t sequence;
    struct sl_capsule_hello hello;
};

static unsigned connect_count, live_count;
static struct sl_link_domain the_domain;

static int domain_open(const struct sl_link_domain_config *config, struct sl_link_domain **domain)
{
    the_domain.reactor = sl_io_reactor(config->io);
    *domain = &the_domain;
    return 0;
}

static void domain_close(struct sl_link_domain *domain)
{
    assert_int_equal(live_count, 0);
}

static const struct sl_link_limits *limits(struct sl_link_domain *domain)
{
    static const struct sl_link_limits these = {4, 4, SL_TRANSFER_BYTES_MAX, 0};
    return &these;
}

static void deliver(struct sl_link_connection *connection, union sl_capsule *capsule)
{
    struct sl_list *node = sl_list_pop(&connection->receives);
    assert_non_null(node);
    struct sl_link_op *op = sl_list_entry(node, struct sl_link_op, node);
    capsule->header.version = 1;
    capsule->header.sequence = connection->sequence++;
    capsule->header.crc = 0;
    capsule->header.crc = sl_crc32c(0, capsule, capsule->header.length_bytes);
    memcpy(op->spans[0].data, capsule->bytes, capsule->header.length_bytes);
    op->capsule_bytes = capsule->header.length_bytes;
    op->payload_bytes = 0;
    op->status = 0;
    op->done(op);
}

static void challenge(struct sl_link_connection *connection, union sl_capsule *answer)
{
    static const uint8_t key[SL_CLUSTER_KEY_BYTES];
    static const char label[] = "sluice fabric 1 listener";
    struct sl_capsule_hello *body = (void *)answer->bytes;
    uint8_t text[sizeof(label) - 1 + 128];
    unsigned proof_bytes = SL_PROOF_BYTES;
    *body = connection->hello;
    memset(body->proof, 0, sizeof(body->proof));
    body->header.type = SL_CAPSULE_CHALLENGE;
    body->version_min = body->version_max = 1;
    memcpy(text, label, sizeof(label) - 1);
    memcpy(text + sizeof(label) - 1, &connection->hello.magic, 64);
    memcpy(text + sizeof(label) - 1 + 64, &body->magic, 64);
    assert_non_null(
        HMAC(EVP_sha256(), key, sizeof(key), text, sizeof(text), body->proof, &proof_bytes));
}

/* False: not answered. */
static bool make_answer(struct sl_link_connection *connection, const union sl_capsule *request,
                        union sl_capsule *answer)
{
    memset(answer, 0, sizeof(*answer));
    answer->header.length_bytes = sizeof(answer->header);
    answer->header.type = SL_CAPSULE_REPLY;
    answer->header.request_id = request->header.request_id;
    answer->header.credits = 1;
    switch (request->header.type) {
    case SL_CAPSULE_HELLO:
        memcpy(&connection->hello, request, sizeof(connection->hello));
        challenge(connection, answer);
        answer->header.credits = 0;
        return true;
    case SL_CAPSULE_PROOF:
        answer->header.type = SL_CAPSULE_WELCOME;
        answer->header.credits = 0;
        return true;
    case SL_CAPSULE_QUERY_STORAGE:
    case SL_CAPSULE_INIT_STORAGE:
        answer->header.length_bytes = sizeof(answer->storage);
        answer->storage.capacity_bytes = CAPACITY_BYTES;
        answer->storage.block_bytes = SL_BLOCK_BYTES;
        answer->storage.shard_bytes = 16 * SL_MIB;
        answer->storage.reactor_count = 1;
        return true;
    case SL_CAPSULE_START_STORAGE:
        return true;
    default:
        return false;
    }
}

static void flush(struct sl_list *list)
{
    struct sl_list *node;
    while ((node = sl_list_pop(list)) != NULL) {
        struct sl_link_op *op = sl_list_entry(node, struct sl_link_op, node);
        op->status = -ECONNRESET;
        op->done(op);
    }
}

static void peer_serve(struct sl_link_connection *connection)
{
    struct sl_list *node;
    while (!connection->dead && (node = sl_list_pop(&connection->sends)) != NULL) {
        struct sl_link_op *op = sl_list_entry(node, struct sl_link_op, node);
        union sl_capsule request = {0}, answer;
        memcpy(&request, op->spans[0].data, op->spans[0].length_bytes);
        op->status = 0;
        op->done(op);
        if (!make_answer(connection, &request, &answer))
            continue;
        deliver(connection, &answer);
        if (connection->answers_left != UINT32_MAX && --connection->answers_left == 0)
            connection->dead = true;
    }
}

static void peer_entry_co(void *argument)
{
    struct sl_link_connection *connection = argument;
    connection->handlers->connected(connection->owner, connection);
    for (;;) {
        peer_serve(connection);
        if (connection->dead)
            break;
        if (sl_list_is_empty(&connection->sends))
            sl_wait_queue_co(&connection->changed);
    }
    flush(&connection->sends);
    flush(&connection->receives);
    connection->handlers->closed(connection->owner, connection, -ECONNRESET);
}

static int connect_link(struct sl_link_domain *domain, const char *address,
                        const uint8_t *private_data, uint64_t deadline_ns,
                        const struct sl_link_handlers *handlers, void *owner,
                        struct sl_link_connection **result)
{
    struct sl_link_connection *connection = calloc(1, sizeof(*connection));
    assert_non_null(connection);
    connection->domain = domain;
    connection->handlers = handlers;
    connection->owner = owner;
    connection->answers_left =
        connect_count < SL_COUNT_OF(script) ? script[connect_count] : UINT32_MAX;
    connect_count++;
    live_count++;
    sl_list_init(&connection->sends);
    sl_list_init(&connection->receives);
    sl_wait_queue_init(&connection->changed);
    assert_int_equal(sl_co_spawn(domain->reactor, peer_entry_co, connection), 0);
    *result = connection;
    return 0;
}

static void post(struct sl_link_connection *connection, struct sl_link_op *op)
{
    sl_list_append(op->opcode == SL_LINK_RECEIVE ? &connection->receives : &connection->sends,
                   &op->node);
    sl_wait_queue_wake_all(&connection->changed, 0);
}

static void disconnect(struct sl_link_connection *connection, int reason)
{
    connection->dead = true;
    sl_wait_queue_wake_all(&connection->changed, 0);
}

static void connection_free(struct sl_link_connection *connection)
{
    live_count--;
    free(connection);
}

static const struct sl_link_ops dying_link = {
    .name = "dying",
    .domain_open = domain_open,
    .domain_close = domain_close,
    .limits = limits,
    .connect = connect_link,
    .post = post,
    .disconnect = disconnect,
    .connection_free = connection_free,
};

static void main_co(struct world *world)
{
    struct sl_memory_config memory_config = {.limit_bytes = 16 * SL_MIB, .numa_node = -1};
    struct sl_memory *memory;
    struct sl_fabric *fabric;
    struct sl_gateway_group *group;
    struct sl_gateway *gateway;
    const struct sl_volume *volume;
    char error[512];
    const char *servers[] = {"peer"};
    struct sl_gateway_config config = {.servers = servers, .server_count = 1};
    assert_int_equal(sl_memory_create(&memory_config, &memory), 0);
    struct sl_fabric_config fabric_config = {
        .link = &dying_link,
        .domain = {.io = world->io, .memory = memory},
        .reactor = world->reactor,
        .role = SL_ROLE_GATEWAY,
    };
    assert_int_equal(sl_fabric_create(&fabric_config, &fabric), 0);
    assert_int_equal(sl_gateway_group_create(&config, 1, &group, error, sizeof(error)), 0);
    assert_int_equal(sl_gateway_create(group, 0, world->reactor, memory, fabric, &gateway), 0);
    uint64_t deadline_ns = sl_reactor_clock_ns(world->reactor) + 20 * SL_NS_PER_S;
    while (connect_count <= SL_COUNT_OF(script)) {
        assert_true(sl_reactor_clock_ns(world->reactor) < deadline_ns);
        sl_sleep_co(10 * SL_NS_PER_MS);
    }
    sl_sleep_co(50 * SL_NS_PER_MS); /* the last connection comes up */
    assert_int_equal(sl_gateway_volume_co(gateway, NULL, deadline_ns, &volume), 0);
    assert_int_equal(volume->size_bytes, CAPACITY_BYTES);
    uint64_t begun_ns = sl_reactor_clock_ns(world->reactor);
    sl_gateway_stop_co(gateway);
    assert_true(sl_reactor_clock_ns(world->reactor) - begun_ns < 4 * SL_NS_PER_S);
    sl_gateway_destroy(gateway);
    sl_fabric_drain_co(fabric);
    sl_fabric_destroy(fabric);
    sl_gateway_group_destroy(group);
    sl_memory_destroy(memory);
}

static void test_early_death(void **state)
{
    struct world world;
    world_create(&world, 64);
    world_run(&world, main_co, NULL);
    world_destroy(&world);
    assert_int_equal(connect_count, SL_COUNT_OF(script) + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_early_death)};
    if (world_is_missing())
        return TEST_SKIP;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
