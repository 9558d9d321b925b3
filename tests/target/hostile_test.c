/*
 * Goal: a peer that holds the cluster's key and breaks the rules of docs/wire.md, "Between targets"
 * and "Group I/O", harms nobody: it is refused with a clear status, the group goes on and keeps its
 * data. Method: a real group of three; beside it a client in the role of a target that forges
 * hellos, messages, entries, resyncs and gives, and gateways' requests that contradict themselves;
 * then random bodies. Afterwards all replicas are equal and hold what was written.
 */
#include "cluster_world.h"
#include "target/resync_capsule.h"

struct intruder {
    struct sl_fabric *fabric;
    struct sl_connection *connection;
    struct sl_buf *page;
};

static struct intruder intruder;

static void intruder_closed(void *owner, struct sl_connection *connection, int reason)
{
    if (intruder.connection == connection) {
        intruder.connection = NULL;
        sl_connection_unref(connection);
    }
}

static const struct sl_connection_handlers intruder_handlers = {.closed = intruder_closed};

static int send_co(struct cluster_world *world, unsigned number, union sl_capsule *request,
                   bool page, union sl_capsule *reply)
{
    if (intruder.connection == NULL)
        assert_int_equal(sl_fabric_connect_co(
                             intruder.fabric, world->nodes[number].address, 0, &intruder_handlers,
                             NULL, sl_sim_now_ns(world->sim) + SL_NS_PER_S, &intruder.connection),
                         0);
    struct sl_span span = sl_buf_span(intruder.page, 0, SL_BLOCK_BYTES);
    request->header.type = SL_CAPSULE_RAFT;
    memset(reply, 0, sizeof(*reply));
    int error = sl_connection_call_co(intruder.connection, request, &span, page ? 1 : 0, reply);
    return error < 0 ? error : sl_status_to_errno(reply->header.status);
}

static void hang_up_co(void)
{
    if (intruder.connection != NULL)
        sl_connection_shutdown(intruder.connection, -ECANCELED);
    while (intruder.connection != NULL)
        sl_sleep_co(SL_NS_PER_MS);
}

static struct sl_capsule_raft_hello *hello_of(struct cluster_world *world,
                                              union sl_capsule *request, uint32_t node)
{
    struct sl_capsule_raft_hello *hello = (void *)request;
    memset(request, 0, sizeof(*request));
    hello->header.length_bytes = sizeof(*hello);
    hello->op = SL_RAFT_OP_HELLO;
    hello->node = node;
    hello->to_node = 1;
    hello->reactor_count = hello->shard_count = 1;
    hello->instance = 0xbad;
    memcpy(hello->cluster_id, world->cluster_id, 16);
    return hello;
}

static void hellos_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    /* Before one says who one is. */
    memset(&request, 0, sizeof(request));
    request.header.length_bytes = 200;
    request.bytes[32] = SL_RAFT_OP_MESSAGE;
    assert_int_equal(send_co(world, 1, &request, false, &reply), -EBADFD);
    hello_of(world, &request, 2)->cluster_id[3] ^= 1;
    assert_int_not_equal(send_co(world, 1, &request, false, &reply), 0);
    hello_of(world, &request, 1); /* its own number */
    assert_int_equal(send_co(world, 1, &request, false, &reply), -EEXIST);
    hello_of(world, &request, 2)->to_node = 3;
    assert_int_equal(send_co(world, 1, &request, false, &reply), -EINVAL);
    hello_of(world, &request, 99); /* in no file */
    assert_int_equal(send_co(world, 1, &request, false, &reply), -ENOENT);
    hello_of(world, &request, 2); /* another disk, while the real node 2 is connected */
    assert_int_equal(send_co(world, 1, &request, false, &reply), -EEXIST);
    static const uint32_t counts[][2] = {{1, 1000}, {1, 0}, {0, 1}, {2, 3}, {65, 65}, {2, 1}};
    for (unsigned i = 0; i < SL_COUNT_OF(counts); i++) {
        hello_of(world, &request, 3)->reactor_count = counts[i][0];
        ((struct sl_capsule_raft_hello *)(void *)&request)->shard_count = counts[i][1];
        assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    }
    hang_up_co();
}

/* As node 3, which is down: that much is granted to who has the key. */
static struct sl_raft_wire *append_of(struct cluster_world *world, union sl_capsule *request)
{
    struct sl_replica *replica = sl_cluster_find(world->nodes[1].target->cluster, GROUP);
    struct sl_capsule_raft *capsule = (void *)request;
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    struct sl_raft_message message = {.kind = SL_RAFT_APPEND,
                                      .from = {REPLICA(3), 3},
                                      .to = {REPLICA(1), 1},
                                      .term = sl_term_of(status.term.value),
                                      .index = status.last,
                                      .index_term = status.term,
                                      .entry_term = status.term,
                                      .count = 1};
    memset(request, 0, sizeof(*request));
    sl_raft_wire_put(&capsule->wire, GROUP, &message);
    struct sl_record record = {.head = {.type = SL_ENTRY_NOOP,
                                        .group = GROUP,
                                        .index = status.last.value + 1,
                                        .term = status.term.value}};
    capsule->wire.record_bytes =
        sl_record_encode(capsule->records, sizeof(capsule->records), &record);
    capsule->header.length_bytes =
        (uint16_t)(offsetof(struct sl_capsule_raft, records) + capsule->wire.record_bytes);
    return &capsule->wire;
}

static void messages_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    hello_of(world, &request, 3);
    assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
    append_of(world, &request)->from_node = 2; /* in another's name */
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    append_of(world, &request)->to_node = 2;
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    append_of(world, &request)->group = 12345;
    assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
    assert_int_equal(((struct sl_capsule_raft *)(void *)&reply)->wire.kind, SL_RAFT_NOT_MEMBER);
    append_of(world, &request)->to = 0x4242; /* a replica that is not here */
    assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
    assert_int_equal(((struct sl_capsule_raft *)(void *)&reply)->wire.kind, SL_RAFT_NOT_MEMBER);
    append_of(world, &request)->count = 2; /* fewer records */
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    append_of(world, &request)->count = UINT32_MAX;
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    append_of(world, &request)->record_bytes += 8;
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    append_of(world, &request)->payload_bytes = SL_BLOCK_BYTES;
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    append_of(world, &request)->piece_count = 3;
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    append_of(world, &request)->index += 1; /* the record says another */
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    append_of(world, &request)->term = UINT64_MAX;
    assert_int_equal(send_co(world, 1, &request, false, &reply), 0); /* the core complains */
    hang_up_co();
}

/* Resyncs and gives that nobody asked for. */
static void others_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    struct sl_capsule_resync *resync = (void *)&request;
    struct sl_capsule_fetch *fetch = (void *)&request;
    hello_of(world, &request, 3);
    assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
    for (uint8_t step = 0; step < 5; step++) {
        memset(&request, 0, sizeof(request));
        resync->header.length_bytes = sizeof(*resync);
        resync->op = SL_RAFT_OP_RESYNC;
        resync->step = step;
        resync->group = GROUP;
        resync->from = REPLICA(3);
        resync->to = REPLICA(1);
        resync->term = 1;
        resync->index = 3;
        assert_int_not_equal(send_co(world, 1, &request, true, &reply), 0);
    }
    memset(&request, 0, sizeof(request));
    fetch->header.length_bytes = sizeof(*fetch);
    fetch->op = SL_RAFT_OP_GIVE;
    fetch->group = GROUP;
    fetch->ticket = 1;
    fetch->block_count = 1;
    assert_int_equal(send_co(world, 1, &request, true, &reply), -ENOENT);
    fetch->op = SL_RAFT_OP_FETCH;
    fetch->first_block = 4095;
    fetch->block_count = 2;
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    fetch->chunk = UINT32_MAX;
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    hang_up_co();
}

static void random_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    for (unsigned i = 0; i < 1500; i++) {
        if (intruder.connection == NULL) {
            hello_of(world, &request, 3);
            assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
        }
        uint64_t random = sl_sim_random(world->sim);
        append_of(world, &request);
        /* Some words of a sound message, and some of a page, are another's. */
        for (unsigned k = 0; k <= random % 4; k++) {
            uint32_t word = (uint32_t)sl_sim_random(world->sim);
            if (sl_sim_random(world->sim) % 2 == 0)
                word %= 16;
            memcpy(request.bytes + 32 + sl_sim_random(world->sim) % 55 * 4, &word, 4);
            memcpy(intruder.page->data + sl_sim_random(world->sim) % 100 * 4, &word, 4);
        }
        request.bytes[32] = (uint8_t)(1 + random / 4 % 7);
        if (random / 64 % 3 == 0)
            request.header.length_bytes = (uint16_t)(36 + sl_sim_random(world->sim) % 55 * 4);
        (void)send_co(world, 1, &request, random / 256 % 2 == 0, &reply);
    }
    hang_up_co();
}

/* A gateway's requests that cannot be meant. */
static void requests_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    struct sl_span span = sl_buf_span(world->buf, 0, SL_BLOCK_BYTES);
    struct sl_group_message *io = client_request(&request, 77);
    assert_int_equal(client_group_co(world, &request, NULL, &reply), -EOPNOTSUPP);
    io->opcode = SL_IO_READ;
    io->length_bytes = 100;
    assert_int_equal(client_group_co(world, &request, NULL, &reply), -EINVAL);
    io->opcode = SL_IO_DISCARD;
    io->session = world->session;
    io->sequence = 1;
    io->length_bytes = SL_BLOCK_BYTES;
    io->offset_bytes = GROUP_BYTES;
    assert_int_equal(client_group_co(world, &request, NULL, &reply), -ERANGE);
    io->offset_bytes = UINT64_MAX - SL_BLOCK_BYTES + 1;
    assert_int_equal(client_group_co(world, &request, NULL, &reply), -ERANGE);
    io->offset_bytes = SL_CHUNK_BYTES - SL_BLOCK_BYTES;
    io->length_bytes = 2 * SL_BLOCK_BYTES;
    assert_int_equal(client_group_co(world, &request, NULL, &reply), -EINVAL);
    io->offset_bytes = 0;
    io->length_bytes = SL_BLOCK_BYTES;
    io->unfinished = 300;
    assert_int_equal(client_group_co(world, &request, NULL, &reply), -EINVAL);
    io->unfinished = 0;
    io->piece_count = 200;
    assert_int_equal(client_group_co(world, &request, NULL, &reply), -SL_E_PROTOCOL);
    io->piece_count = 0;
    assert_int_equal(client_group_co(world, &request, &span, &reply), -SL_E_PROTOCOL);
    struct sl_group_admin admin = {.op = SL_GROUP_CREATE, .group = 8, .node = 2, .replica = 5};
    assert_int_equal(client_admin_co(world, world->leader, &admin, &reply), -EINVAL);
    admin.op = 99;
    admin.group = GROUP;
    assert_int_equal(client_admin_co(world, world->leader, &admin, &reply), -EOPNOTSUPP);
}

static void write_kept_co(struct cluster_world *world)
{
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(client_write_co(world, i * 7, 3, i + 1), 0);
}

static void expect_kept_co(struct cluster_world *world)
{
    for (uint64_t i = 0; i < 20; i++)
        client_expect_co(world, i * 7, 3, i + 1);
    assert_int_equal(client_write_co(world, 1000, 1, 5), 0);
}

static void make_co(struct cluster_world *world)
{
    world_create_group_co(world);
    world_attach_co(world);
}

static void drain_intruder_co(struct cluster_world *world)
{
    sl_fabric_drain_co(intruder.fabric);
    sl_fabric_destroy(intruder.fabric);
}

static void hostile_peers(void **state)
{
    struct cluster_world world;
    world_open(&world, 20, 3);
    struct sl_fabric_config fabric = {
        .link = &sl_link_sim,
        .domain = {.io = world.client.io, .memory = world.client.memory},
        .reactor = world.client.reactor,
        .role = SL_ROLE_TARGET,
        .instance_id = 0xbad,
        .credits = 1,
    };
    assert_int_equal(sl_fabric_create(&fabric, &intruder.fabric), 0);
    intruder.page = sl_buf_alloc(world.client.memory, SL_BLOCK_BYTES, SL_RESERVE_CHECKPOINT);
    memset(intruder.page->data, 0, SL_BLOCK_BYTES);
    world_run(&world, make_co);
    world_run(&world, write_kept_co);
    world_run(&world, requests_co);
    world_run(&world, hellos_co);
    node_end(&world, 3, false);
    world_run(&world, messages_co);
    world_run(&world, others_co);
    world_run(&world, random_co);
    world_run(&world, expect_kept_co);
    node_start(&world, 3);
    world_run(&world, expect_kept_co);
    world_run(&world, drain_intruder_co);
    sl_buf_unref(intruder.page);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(hostile_peers)};
    if (getenv("SLUICE_TEST_LOG") == NULL)
        sl_log_set_level(SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
