/*
 * Goal: a peer that holds the cluster's key and breaks the rules of docs/wire.md, "Between targets"
 * and "Group I/O", harms nobody: it is refused with a clear status, the group goes on and keeps its
 * data. Method: a real group of three; beside it a client in the role of a target that forges
 * hellos, messages, entries, resyncs and gives, and gateways' requests that contradict themselves;
 * then random bodies. Afterwards all replicas are equal and hold what was written.
 */
#include "cluster_world.h"
#include "core/crc32c.h"
#include "target/compare_capsule.h"
#include "target/follow.h"
#include "raft/private.h"
#include "target/replica_state.h"
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

/* The record of an entry in a capsule. */
static void put_record(union sl_capsule *request, struct sl_record *record)
{
    struct sl_capsule_raft *capsule = (void *)request;
    capsule->wire.record_bytes =
        sl_record_encode(capsule->records, sizeof(capsule->records), record);
    capsule->header.length_bytes =
        (uint16_t)(offsetof(struct sl_capsule_raft, records) + capsule->wire.record_bytes);
}

/* As node 3, which is down: that much is granted to who has the key. */
static struct sl_raft_wire *append_in(struct cluster_world *world, union sl_capsule *request,
                                      uint64_t term)
{
    struct sl_replica *replica = sl_cluster_find(world->nodes[1].target->cluster, GROUP);
    struct sl_capsule_raft *capsule = (void *)request;
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    struct sl_raft_message message = {.kind = SL_RAFT_APPEND,
                                      .from = {REPLICA(3), 3},
                                      .to = {REPLICA(1), 1},
                                      .term = sl_term_of(term),
                                      .index = status.last,
                                      .index_term = sl_raft_term_at(replica->raft, status.last),
                                      .entry_term = sl_term_of(term),
                                      .count = 1};
    memset(request, 0, sizeof(*request));
    sl_raft_wire_put(&capsule->wire, GROUP, &message);
    struct sl_record record = {
        .head = {
            .type = SL_ENTRY_NOOP, .group = GROUP, .index = status.last.value + 1, .term = term}};
    put_record(request, &record);
    return &capsule->wire;
}

static struct sl_raft_wire *append_of(struct cluster_world *world, union sl_capsule *request)
{
    struct sl_raft_status status;
    sl_raft_get_status(sl_cluster_find(world->nodes[1].target->cluster, GROUP)->raft, &status);
    return append_in(world, request, status.term.value);
}

/* Records that are whole, and not what the message says, or not what the group can have. */
static void records_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    const struct sl_raft_wire *wire = append_of(world, &request);
    uint64_t index = wire->index + 1, term = wire->entry_term;
    uint32_t crc = sl_crc32c(0, intruder.page->data, SL_BLOCK_BYTES), wrong = crc + 1;
    struct sl_record_head head = {.group = GROUP, .index = index, .term = term};
    struct sl_record good = {.head = head, .crcs = (const uint8_t *)&crc};
    struct sl_record bad[] = {good, good, good, good, good, good, good};
    bad[4].block_count = bad[5].block_count = bad[6].block_count = 1;
    bad[6].crcs = (const uint8_t *)&wrong;
    bad[0].head.group++;
    bad[1].head.index--;
    bad[2].head.term--;
    bad[3].head.type = SL_ENTRY_OPAQUE;
    bad[4].head.type = SL_ENTRY_ZERO; /* behind the group's end */
    bad[4].head.chunk = GROUP_BYTES / SL_CHUNK_BYTES;
    bad[5].head.type = bad[6].head.type = SL_ENTRY_WRITE;
    bad[5].head.chunk = bad[4].head.chunk;
    for (unsigned i = 0; i < SL_COUNT_OF(bad); i++) {
        bool payload = bad[i].head.type == SL_ENTRY_WRITE;
        append_of(world, &request)->payload_bytes = payload ? SL_BLOCK_BYTES : 0;
        put_record(&request, &bad[i]);
        assert_int_equal(send_co(world, 1, &request, payload, &reply), -SL_E_PROTOCOL);
    }
    assert_int_equal(append_of(world, &request)->index, index - 1);
}

enum { TERMS = 4 * SL_RAFT_TERMS };

/* An entry of each term, none of them committed: the core asks for room, again and again. */
static void many_terms_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    const struct sl_replica *replica = sl_cluster_find(world->nodes[1].target->cluster, GROUP);
    struct sl_raft_status status;
    sl_raft_get_status(replica->raft, &status);
    uint64_t first = status.term.value + 1, last = status.last.value;
    hello_of(world, &request, 3);
    assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
    /* Without room an entry is not taken: it is sent again. */
    for (unsigned tries = 0; status.last.value < last + TERMS && tries < 2 * TERMS; tries++) {
        append_in(world, &request, first + (status.last.value - last));
        assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
        sl_raft_get_status(replica->raft, &status);
    }
    assert_int_equal(status.last.value, last + TERMS);
    assert_true(replica->terms > TERMS);
    assert_non_null(replica->room); /* it goes with the replica */
    for (unsigned i = 0; i < TERMS; i++)
        assert_int_equal(sl_raft_term_at(replica->raft, sl_index_of(last + 1 + i)).value,
                         first + i);
    hang_up_co();
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
    records_co(world);
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

static uint32_t told_co(struct cluster_world *world, uint32_t waiting_kib, uint64_t instance)
{
    union sl_capsule request, reply;
    struct sl_capsule_raft_hello *hello = hello_of(world, &request, 3);
    hello->waiting_kib = waiting_kib;
    hello->instance = instance;
    assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
    hang_up_co();
    return sl_peer_find(world->nodes[1].target->cluster, 3)->waiting_kib;
}

/* Each reactor of a node tells of its own logs, and the last that said hello was believed. */
static void waiting_co(struct cluster_world *world)
{
    assert_int_equal(told_co(world, 300, 0xbad), 300);
    assert_int_equal(told_co(world, 200, 0xbad), 200);
    assert_int_equal(told_co(world, 400, 0xbad), 200);
    assert_int_equal(told_co(world, 0, 0xbad), 200);
    assert_int_equal(told_co(world, 400, 0xbae), 400); /* it came back with another disk */
    assert_int_equal(told_co(world, 0, 0xbaf), 0);
}

/* Comparisons of what is not there, by who is none of the group; blocks condemned by a guess. */
static void compare_co(struct cluster_world *world)
{
    union sl_capsule request = {0}, reply;
    struct sl_capsule_compare *compare = (void *)&request;
    hello_of(world, &request, 3);
    assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
    memset(&request, 0, sizeof(request));
    compare->header.length_bytes = offsetof(struct sl_capsule_compare, crcs);
    compare->op = SL_RAFT_OP_COMPARE;
    compare->group = GROUP;
    compare->to = REPLICA(2);
    assert_int_equal(send_co(world, 1, &request, true, &reply), -ENOENT);
    compare->to = REPLICA(1);
    compare->from = REPLICA(2); /* a member, on another node */
    compare->step = SL_COMPARE_REGIONS;
    assert_int_equal(send_co(world, 1, &request, true, &reply), -SL_E_PROTOCOL);
    compare->from = REPLICA(3);
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    compare->place = 1;
    assert_int_equal(send_co(world, 1, &request, true, &reply), -SL_E_PROTOCOL);
    compare->place = 0;
    assert_int_equal(send_co(world, 1, &request, true, &reply), 0);
    compare->chunk = GROUP_BYTES / SL_CHUNK_BYTES;
    assert_int_equal(send_co(world, 1, &request, true, &reply), -SL_E_PROTOCOL);
    compare->chunk = 0;
    compare->index = UINT64_MAX;
    assert_int_equal(send_co(world, 1, &request, true, &reply), -EAGAIN);
    compare->index = 0;
    compare->step = SL_COMPARE_BLOCKS;
    compare->place = SL_CHUNK_REGIONS;
    assert_int_equal(send_co(world, 1, &request, true, &reply), -SL_E_PROTOCOL);
    compare->step = SL_COMPARE_MEND;
    compare->place = SL_CHUNK_BLOCKS;
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    compare->place = 0;
    compare->crc = 4711;
    assert_int_equal(send_co(world, 1, &request, true, &reply), -SL_E_PROTOCOL);
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL); /* from nobody */
    compare->node = 2;
    assert_int_not_equal(send_co(world, 1, &request, false, &reply), 0); /* it is not 4711 */
    compare->step = SL_COMPARE_MEND + 1;
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    compare->header.length_bytes -= 8;
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    struct sl_capsule_read_index *read = (void *)&request;
    memset(&request, 0, sizeof(request));
    read->header.length_bytes = sizeof(*read);
    read->op = SL_RAFT_OP_READ_INDEX;
    read->group = GROUP;
    read->from = REPLICA(3);
    read->to = REPLICA(2);
    assert_int_equal(send_co(world, 1, &request, false, &reply), -ENOENT);
    read->to = REPLICA(1);
    read->from = REPLICA(2);
    assert_int_equal(send_co(world, 1, &request, false, &reply), -SL_E_PROTOCOL);
    read->header.length_bytes -= 8;
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

static void intruder_comes(struct cluster_world *world)
{
    struct sl_fabric_config fabric = {
        .link = &sl_link_sim,
        .domain = {.io = world->client.io,
                   .memory = world->client.memory,
                   .arena_access = SL_ACCESS_REMOTE_READ},
        .reactor = world->client.reactor,
        .role = SL_ROLE_TARGET,
        .instance_id = 0xbad,
        .credits = 1,
    };
    assert_int_equal(sl_fabric_create(&fabric, &intruder.fabric), 0);
    intruder.page = sl_buf_alloc(world->client.memory, SL_BLOCK_BYTES, SL_RESERVE_CHECKPOINT);
    memset(intruder.page->data, 0, SL_BLOCK_BYTES);
}

static void hostile_peers(void **state)
{
    struct cluster_world world;
    world_open(&world, 20, 3);
    intruder_comes(&world);
    world_run(&world, make_co);
    world_run(&world, write_kept_co);
    world_run(&world, requests_co);
    world_run(&world, hellos_co);
    node_end(&world, 3, false);
    world_run(&world, messages_co);
    world_run(&world, others_co);
    world_run(&world, many_terms_co);
    world_run(&world, expect_kept_co);
    world_run(&world, waiting_co);
    world_run(&world, compare_co);
    world_run(&world, random_co);
    world_run(&world, expect_kept_co);
    node_start(&world, 3);
    world_run(&world, expect_kept_co);
    world_run(&world, drain_intruder_co);
    sl_buf_unref(intruder.page);
    world_close(&world);
}

/* ---- a source that was followed by another ---- */

#define COPIED_INDEX 1000u
/* As it comes over the wire, which has no word for it. */
#define STALE sl_status_to_errno(sl_status_from_errno(-ESTALE))

static struct sl_buf *region;
static int region_error;
static bool region_done;

static struct sl_capsule_resync *resync_of(union sl_capsule *request, uint8_t step, uint64_t index)
{
    struct sl_capsule_resync *body = (void *)request;
    memset(request, 0, sizeof(*request));
    body->header.length_bytes = sizeof(*body);
    body->op = SL_RAFT_OP_RESYNC;
    body->step = step;
    body->group = GROUP;
    body->from = REPLICA(3);
    body->to = REPLICA(1);
    body->term = body->index_term = 50;
    body->index = index;
    if (step == SL_RESYNC_REGION) {
        body->piece_count = 1;
        sl_crc32c_blocks(region->data, SL_REGION_BLOCKS, (uint32_t *)(void *)intruder.page->data);
        assert_int_equal(sl_fabric_describe(intruder.fabric, region->region, region->data,
                                            SL_REGION_BYTES, &body->pieces[0]),
                         0);
    }
    return body;
}

static void send_region_co(void *argument)
{
    union sl_capsule request, reply;
    resync_of(&request, SL_RESYNC_REGION, COPIED_INDEX);
    region_error = send_co(argument, 1, &request, true, &reply);
    region_done = true;
}

/* While a region is READ a newer source begins: the older one's is not written any more. */
static void stale_region_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    struct sl_sim_network *network = sl_sim_network(world->sim);
    region = sl_buf_alloc(world->client.memory, SL_REGION_BYTES, SL_RESERVE_CHECKPOINT);
    memset(region->data, 7, SL_REGION_BYTES);
    hello_of(world, &request, 3);
    assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
    resync_of(&request, SL_RESYNC_REGION, COPIED_INDEX); /* nobody has begun */
    assert_int_equal(send_co(world, 1, &request, true, &reply), STALE);
    resync_of(&request, SL_RESYNC_BEGIN, 1); /* it has more already */
    assert_int_equal(send_co(world, 1, &request, false, &reply), -EAGAIN);
    resync_of(&request, SL_RESYNC_BEGIN, COPIED_INDEX);
    assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
    struct sl_sim_network before = *network;
    network->delay_min_ns = network->delay_max_ns = 10 * SL_NS_PER_MS;
    region_done = false;
    assert_int_equal(sl_co_spawn(world->client.reactor, send_region_co, world), 0);
    sl_sleep_co(5 * SL_NS_PER_MS);
    resync_of(&request, SL_RESYNC_BEGIN, COPIED_INDEX + 1);
    assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
    while (!region_done)
        sl_sleep_co(SL_NS_PER_MS);
    assert_int_equal(region_error, STALE);
    *network = before;
    /* The newer one's: as they should be, and not. */
    resync_of(&request, SL_RESYNC_REGION, COPIED_INDEX);
    assert_int_equal(send_co(world, 1, &request, true, &reply), STALE);
    resync_of(&request, SL_RESYNC_REGION, COPIED_INDEX + 1);
    assert_int_equal(send_co(world, 1, &request, true, &reply), 0);
    resync_of(&request, SL_RESYNC_REGION, COPIED_INDEX + 1)->term--;
    assert_int_equal(send_co(world, 1, &request, true, &reply), STALE);
    resync_of(&request, SL_RESYNC_REGION, COPIED_INDEX + 1)->from = REPLICA(2);
    assert_int_equal(send_co(world, 1, &request, true, &reply), STALE);
    resync_of(&request, SL_RESYNC_REGION, COPIED_INDEX + 1);
    intruder.page->data[17] ^= 1; /* the CRC of a block */
    assert_int_equal(send_co(world, 1, &request, true, &reply), -SL_E_CHECKSUM);
    resync_of(&request, SL_RESYNC_REGION, COPIED_INDEX + 1)->chunk = GROUP_BYTES / SL_CHUNK_BYTES;
    assert_int_equal(send_co(world, 1, &request, true, &reply), -SL_E_PROTOCOL);
    resync_of(&request, SL_RESYNC_REGION, COPIED_INDEX + 1)->region = SL_CHUNK_REGIONS;
    assert_int_equal(send_co(world, 1, &request, true, &reply), -SL_E_PROTOCOL);
    resync_of(&request, SL_RESYNC_BEGIN, COPIED_INDEX); /* older than what it takes */
    assert_int_equal(send_co(world, 1, &request, false, &reply), -EAGAIN);
    hang_up_co();
    sl_buf_unref(region);
}

static void stale_source(void **state)
{
    struct cluster_world world;
    world_open(&world, 22, 3);
    intruder_comes(&world);
    world_run(&world, make_co);
    world_run(&world, write_kept_co);
    node_end(&world, 3, false);
    world_run(&world, stale_region_co);
    world_run(&world, drain_intruder_co);
    sl_buf_unref(intruder.page);
    world_close(&world);
}

/* ---- a state in the midst of a log ---- */

/* Node 1's state as it will be at `index`, where its log has no-ops from its state on; with another
 * term of the entry there if `term` is not 0. To be freed. */
static void *state_at(struct cluster_world *world, uint64_t index, uint64_t term, uint32_t *bytes)
{
    struct sl_replica *replica = sl_cluster_find(world->nodes[1].target->cluster, GROUP);
    struct sl_replica later = *replica;
    size_t session_bytes = sl_session_save(replica->sessions, NULL, 0);
    uint64_t *saved = malloc(session_bytes);
    void *memory = malloc(sl_session_bytes(SL_REPLICA_SESSIONS_MAX, SL_REPLICA_VOLUMES_MAX));
    later.sessions = sl_session_init(memory, SL_REPLICA_SESSIONS_MAX, SL_REPLICA_VOLUMES_MAX);
    (void)sl_session_save(replica->sessions, saved, session_bytes);
    assert_int_equal(sl_session_load(later.sessions, saved, session_bytes), 0);
    later.copying = 0;
    for (uint64_t at = sl_session_index(later.sessions).value + 1; at <= index; at++)
        (void)sl_session_apply(later.sessions, sl_index_of(at), NULL);
    uint64_t found, found_term;
    uint8_t *state = sl_replica_state_make(&later, &found, &found_term, bytes);
    assert_non_null(state);
    assert_int_equal(found, index);
    if (term != 0) { /* docs/disk-format.md, "State of a group" */
        uint32_t crc = 0;
        memcpy(state + 40, &term, sizeof(term));
        memcpy(state + 8, &crc, sizeof(crc));
        crc = sl_crc32c(0, state, *bytes);
        memcpy(state + 8, &crc, sizeof(crc));
    }
    free(memory);
    free(saved);
    return state;
}

enum place {
    ANOTHER_ENTRY,     /* is there in the log: it ends with the state then */
    ITS_ENTRY,         /* is: the state is taken from the log */
    ITS_ENTRY_COPYING, /* as after a start with the mark, and damage behind it: the log stays */
};

/* Entries that nobody has committed, and the state at the one in their midst. */
static void state_in_log_co(struct cluster_world *world, enum place place)
{
    bool same = place != ANOTHER_ENTRY;
    union sl_capsule request, reply;
    struct sl_replica *replica = sl_cluster_find(world->nodes[1].target->cluster, GROUP);
    struct sl_raft_status status;
    struct sl_store_group_status log;
    hello_of(world, &request, 3);
    assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
    do { /* until it has all of the blocks: none are sent */
        sl_sleep_co(10 * SL_NS_PER_MS);
        sl_raft_get_status(replica->raft, &status);
    } while (replica->applied < status.last.value);
    uint64_t last = status.last.value, term = status.term.value + 1;
    for (unsigned i = 0; i < 10; i++) {
        append_in(world, &request, term);
        assert_int_equal(send_co(world, 1, &request, false, &reply), 0);
    }
    sl_raft_get_status(replica->raft, &status);
    assert_int_equal(status.last.value, last + 10);
    assert_true(status.commit.value <= last);
    uint64_t index = last + 5, source_term = same ? term : term + 1;
    uint32_t bytes;
    void *state = state_at(world, index, same ? 0 : source_term, &bytes);
    struct sl_buf *buf = sl_buf_alloc(world->client.memory, bytes, SL_RESERVE_CHECKPOINT);
    memcpy(buf->data, state, bytes);
    free(state);
    if (place == ITS_ENTRY_COPYING) {
        replica->copying = index;
        replica->raft->copying = true;
        replica->raft->copying_index = sl_index_of(index);
    }
    for (uint8_t step = SL_RESYNC_BEGIN; step <= SL_RESYNC_END; step += 2) {
        struct sl_capsule_resync *body = resync_of(&request, step, index);
        body->term = body->index_term = source_term;
        if (step == SL_RESYNC_END) {
            body->piece_count = 1;
            body->state_bytes = bytes;
            assert_int_equal(sl_fabric_describe(intruder.fabric, buf->region, buf->data, bytes,
                                                &body->pieces[0]),
                             0);
        }
        int error = place != ITS_ENTRY ? 0 : step == SL_RESYNC_BEGIN ? -EAGAIN : STALE;
        assert_int_equal(send_co(world, 1, &request, false, &reply), error);
    }
    assert_int_equal(send_co(world, 1, &request, false, &reply), STALE); /* once only */
    sl_sleep_co(100 * SL_NS_PER_MS);
    sl_buf_unref(buf);
    sl_raft_get_status(replica->raft, &status);
    sl_store_group_status(replica->log, &log);
    assert_int_equal(replica->applied, index);
    assert_int_equal(replica->copying, 0);
    assert_int_equal(status.last.value, same ? last + 10 : index);
    assert_int_equal(log.last_index, status.last.value);
    if (place != ITS_ENTRY) {
        assert_int_equal(log.boundary_index, index);
        assert_int_equal(log.boundary_term, source_term);
    }
    hang_up_co();
}

static void its_entry_co(struct cluster_world *world)
{
    state_in_log_co(world, ITS_ENTRY);
}

static void its_entry_copying_co(struct cluster_world *world)
{
    state_in_log_co(world, ITS_ENTRY_COPYING);
}

static void another_entry_co(struct cluster_world *world)
{
    state_in_log_co(world, ANOTHER_ENTRY);
}

static void state_in_log(void **state)
{
    struct cluster_world world;
    world_open(&world, 23, 3);
    intruder_comes(&world);
    world_run(&world, make_co);
    world_run(&world, write_kept_co);
    node_end(&world, 3, false);
    world_run(&world, its_entry_co);
    world_run(&world, expect_kept_co);
    world_run(&world, its_entry_copying_co);
    world_run(&world, expect_kept_co);
    world_run(&world, another_entry_co);
    world_run(&world, expect_kept_co);
    world_run(&world, drain_intruder_co);
    sl_buf_unref(intruder.page);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_peers),
        cmocka_unit_test(stale_source),
        cmocka_unit_test(state_in_log),
    };
    if (getenv("SLUICE_TEST_LOG") == NULL)
        sl_log_set_level(SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
