/* Nodes of a simulated cluster and a client of theirs (cluster_world.h). */
#include "cluster_world.h"

/* ---- nodes ---- */

static const char *const disk_specs[WORLD_DISKS] = {"store:sim:disk", "store:sim:disk1",
                                                    "store:sim:disk2"};

const char *disk_path(unsigned disk)
{
    return disk_specs[disk] + strlen("store:");
}

static struct sl_fabric *world_fabric(struct cluster_node *node, bool serving)
{
    struct sl_fabric *fabric = NULL;
    struct sl_fabric_config config = {
        .link = &sl_link_sim,
        .domain = {.io = node->node.io,
                   .memory = node->node.memory,
                   .arena_access = serving ? 0 : SL_ACCESS_REMOTE_READ},
        .reactor = node->node.reactor,
        .role = SL_ROLE_TARGET,
        .instance_id = sl_reactor_random_u64(node->node.reactor),
        .credits = serving ? WORLD_CREDIT : 1,
        .in_capsule_bytes = serving ? SL_IN_CAPSULE_BYTES_MAX : 0,
    };
    assert_int_equal(sl_fabric_create(&config, &fabric), 0);
    return fabric;
}

static void node_life_co(void *argument)
{
    struct cluster_node *node = argument;
    struct cluster_world *world = node->world;
    char error[512];
    void *owners[1];
    struct sl_storage_config storage = {.spec = world->specs[0],
                                        .more = world->specs + 1,
                                        .more_count = world->disk_count - 1,
                                        .reactor_count = 1,
                                        .scrub_bytes_per_s = world->scrub_bytes_per_s,
                                        .compare_pause_ns = world->compare_pause_ns};
    struct sl_target_cluster_config config = {.node = node->number,
                                              .instance = sl_reactor_random_u64(node->node.reactor),
                                              .node_count = world->node_count,
                                              .nodes = world->addresses};
    memcpy(config.cluster_id, world->cluster_id, 16);
    assert_int_equal(sl_storage_open(&storage, &node->storage, error, sizeof(error)), 0);
    node->mount_error =
        sl_target_create(node->storage, 0, node->node.io, node->node.memory, &node->target);
    assert_int_equal(node->mount_error, 0);
    node->serving = world_fabric(node, true);
    node->peering = world_fabric(node, false);
    node->mount_error = sl_target_cluster_begin(node->target, node->peering, &config);
    if (node->mount_error == 0 && world->hurried) {
        struct sl_cluster_peer *peer = &node->target->cluster->peers[0];
        node->target->cluster->shard_count = 1; /* known before the first group is opened */
        assert_null(sl_peer_connect(peer, 0));
        sl_sleep_co(SL_NS_PER_S);
        assert_non_null(sl_peer_connect(peer, 0));
    }
    if (node->mount_error == 0)
        node->mount_error = sl_target_mount_co(node->target);
    owners[0] = node->target;
    if (node->mount_error == 0)
        assert_int_equal(sl_fabric_listen(&node->serving, 1, node->address,
                                          &sl_target_connection_handlers, owners, NULL,
                                          &node->listener),
                         0);
    node->ready = true;
    while (!node->stop)
        sl_sleep_co(SL_NS_PER_MS);
    if (node->listener != NULL)
        sl_fabric_listener_close(node->listener);
    node->listener = NULL;
    sl_target_cluster_stop_co(node->target);
    sl_fabric_drain_co(node->serving);
    sl_fabric_destroy(node->serving);
    sl_fabric_destroy(node->peering);
    sl_target_unmount_co(node->target);
    sl_target_destroy(node->target);
    sl_storage_close(node->storage);
    node->done = true;
}

static bool node_is_ready(void *argument)
{
    return ((struct cluster_node *)argument)->ready;
}

static bool node_is_done(void *argument)
{
    return ((struct cluster_node *)argument)->done;
}

void node_start(struct cluster_world *world, unsigned number)
{
    struct cluster_node *node = &world->nodes[number];
    node->ready = node->stop = node->done = false;
    assert_int_equal(sl_sim_node_open(world->sim, node->name, 0, 48 * SL_MIB, &node->node), 0);
    assert_int_equal(sl_co_spawn(node->node.reactor, node_life_co, node), 0);
    assert_true(sl_sim_run_until(world->sim, sl_sim_now_ns(world->sim) + 60 * SL_NS_PER_S,
                                 node_is_ready, node));
    node->up = true;
}

/* `crash`: what was not durable is lost, and nothing more is written. */
void node_end(struct cluster_world *world, unsigned number, bool crash)
{
    struct cluster_node *node = &world->nodes[number];
    for (unsigned i = 0; i < world->disk_count && crash; i++)
        assert_int_equal(sl_sim_disk_crash(world->sim, node->name, disk_path(i)), 0);
    node->stop = true;
    if (!sl_sim_run_until(world->sim, sl_sim_now_ns(world->sim) + 600 * SL_NS_PER_S, node_is_done,
                          node))
        fail_msg("node %u does not end", number);
    sl_sim_node_close(&node->node);
    node->up = false;
}

static void format_disk_co(struct cluster_node *node, unsigned number)
{
    struct sl_disk_options options = {.exclusive = true};
    struct sl_disk_info info;
    struct sl_disk *disk;
    char error[512];
    struct sl_store_format format = {
        .layout = {.segment_bytes = node->world->segment_bytes,
                   .wal_bytes = node->world->segment_bytes * node->world->segment_count,
                   .shard_count = node->world->shard_count},
        .salt = node->number,
        .force = true,
    };
    sl_reactor_random(node->node.reactor, format.disk_id, 16);
    memcpy(format.cluster_id, node->world->cluster_id, 16);
    assert_int_equal(sl_disk_open(node->node.io, disk_path(number), &options, &info, &disk), 0);
    int result = sl_store_format_co(disk, &info, node->node.memory, &format, error, sizeof(error));
    if (result < 0)
        fail_msg("format: %s", error);
    sl_disk_close(disk);
}

static void node_format_co(void *argument)
{
    struct cluster_node *node = argument;
    for (unsigned i = 0; i < node->world->disk_count; i++)
        format_disk_co(node, i);
    node->done = true;
}

void node_format(struct cluster_world *world, unsigned number)
{
    struct cluster_node *node = &world->nodes[number];
    node->done = false;
    assert_int_equal(sl_sim_node_open(world->sim, node->name, 0, 16 * SL_MIB, &node->node), 0);
    assert_int_equal(sl_co_spawn(node->node.reactor, node_format_co, node), 0);
    assert_true(sl_sim_run_until(world->sim, sl_sim_now_ns(world->sim) + 60 * SL_NS_PER_S,
                                 node_is_done, node));
    sl_sim_node_close(&node->node);
}

/* ---- the client ---- */

static void client_closed(void *owner, struct sl_connection *connection, int reason)
{
    struct cluster_world *world = owner;
    for (unsigned i = 1; i <= WORLD_NODES; i++) {
        if (world->connections[i] == connection) {
            world->connections[i] = NULL;
            sl_connection_unref(connection);
        }
    }
}

static const struct sl_connection_handlers client_handlers = {.closed = client_closed};

static struct sl_connection *client_connect_co(struct cluster_world *world, unsigned number)
{
    struct sl_connection *connection = world->connections[number];
    if (connection != NULL && sl_connection_is_open(connection))
        return connection;
    if (connection != NULL)
        return NULL; /* closing */
    int error =
        sl_fabric_connect_co(world->fabric, world->nodes[number].address, 0, &client_handlers,
                             world, sl_sim_now_ns(world->sim) + 100 * SL_NS_PER_MS, &connection);
    if (error < 0)
        return NULL;
    if (world->connections[number] != NULL) { /* another client was faster */
        sl_connection_shutdown(connection, -ECANCELED);
        sl_connection_unref(connection);
        return world->connections[number];
    }
    world->connections[number] = connection;
    return connection;
}

/* One attempt at one node: negative errno. */
int client_call_co(struct cluster_world *world, unsigned number, union sl_capsule *request,
                   const struct sl_span *payload, union sl_capsule *reply)
{
    struct sl_connection *connection = client_connect_co(world, number);
    if (connection == NULL)
        return -ECONNREFUSED;
    int error = sl_connection_call_co(connection, request, payload, payload != NULL ? 1 : 0, reply);
    return error < 0 ? error : sl_status_to_errno(reply->header.status);
}

/* Until somebody leads and says how it ended. */
int client_group_co(struct cluster_world *world, union sl_capsule *request,
                    const struct sl_span *payload, union sl_capsule *reply)
{
    for (unsigned tries = 0; tries < 2000; tries++) {
        unsigned number = world->leader != 0 ? world->leader : 1 + tries % world->node_count;
        int error = client_call_co(world, number, request, payload, reply);
        bool hint = error == -SL_E_MOVED && reply->group_reply.leader_node != 0 &&
                    reply->group_reply.leader_node != number;
        world->moved_count += error == -SL_E_MOVED;
        if (error != -SL_E_MOVED && error != -ECONNREFUSED && error != -ECONNRESET &&
            error != -ENOENT && error != -ESHUTDOWN && error != -ECANCELED && error != -EAGAIN &&
            error != -ESTALE && error != -ETIMEDOUT && error != -EIO) {
            world->leader = number;
            return error;
        }
        world->retry_count++;
        world->leader = hint ? reply->group_reply.leader_node : 0;
        sl_sleep_co(hint ? SL_NS_PER_MS : 20 * SL_NS_PER_MS);
    }
    return -ETIMEDOUT;
}

struct sl_group_message *client_request(union sl_capsule *request, uint8_t opcode)
{
    memset(request, 0, sizeof(*request));
    request->header.type = SL_CAPSULE_GROUP_IO;
    request->header.length_bytes = offsetof(struct sl_capsule_group_io, pieces);
    request->group_io.io.opcode = opcode;
    request->group_io.io.group = GROUP;
    return &request->group_io.io;
}

int client_session_co(struct cluster_world *world, uint8_t opcode, uint64_t session)
{
    union sl_capsule request, reply;
    client_request(&request, opcode)->session = session;
    return client_group_co(world, &request, NULL, &reply);
}

int client_attach_co(struct cluster_world *world, uint64_t epoch)
{
    union sl_capsule request, reply;
    struct sl_group_message *io = client_request(&request, SL_GROUP_ATTACH);
    io->volume = VOLUME;
    io->epoch = epoch;
    return client_group_co(world, &request, NULL, &reply);
}

void fill_block(uint8_t *data, uint64_t block, uint64_t value)
{
    uint64_t *words = (uint64_t *)(void *)data;
    for (unsigned i = 0; i < SL_BLOCK_BYTES / 8; i++)
        words[i] = block << 40 ^ value ^ (uint64_t)i << 32;
}

bool check_block(const uint8_t *data, uint64_t block, uint64_t value)
{
    const uint64_t *words = (const uint64_t *)(const void *)data;
    for (unsigned i = 0; i < SL_BLOCK_BYTES / 8; i++) {
        if (words[i] != (value == 0 ? 0 : (block << 40 ^ value ^ (uint64_t)i << 32)))
            return false;
    }
    return true;
}

void client_describe(struct cluster_world *world, union sl_capsule *request, uint32_t offset,
                     uint32_t length)
{
    assert_int_equal(sl_fabric_describe(world->fabric, world->buf->region,
                                        world->buf->data + offset, length,
                                        &request->group_io.pieces[0]),
                     0);
    request->group_io.io.piece_count = 1;
    request->header.length_bytes =
        offsetof(struct sl_capsule_group_io, pieces) + sizeof(struct sl_remote_piece);
}

/* `sequence` 0: the next. In the capsule if it fits there, else by READ. */
int client_write_as_co(struct cluster_world *world, uint64_t sequence, uint64_t block,
                       unsigned count, uint64_t value)
{
    union sl_capsule request, reply;
    struct sl_group_message *io = client_request(&request, SL_IO_WRITE);
    uint32_t length = count * SL_BLOCK_BYTES;
    io->session = world->session;
    io->sequence = sequence;
    io->volume = VOLUME;
    io->epoch = world->epoch;
    io->offset_bytes = block * SL_BLOCK_BYTES;
    io->length_bytes = length;
    for (unsigned i = 0; i < count; i++)
        fill_block(world->buf->data + i * SL_BLOCK_BYTES, block + i, value);
    if (length > SL_IN_CAPSULE_BYTES_MAX) {
        client_describe(world, &request, 0, length);
        return client_group_co(world, &request, NULL, &reply);
    }
    struct sl_span span = sl_buf_span(world->buf, 0, length);
    return client_group_co(world, &request, &span, &reply);
}

int client_write_co(struct cluster_world *world, uint64_t block, unsigned count, uint64_t value)
{
    return client_write_as_co(world, ++world->sequence, block, count, value);
}

/* Into the upper half of the buffer. */
int client_read_co(struct cluster_world *world, uint64_t block, unsigned count)
{
    union sl_capsule request, reply;
    struct sl_group_message *io = client_request(&request, SL_IO_READ);
    io->offset_bytes = block * SL_BLOCK_BYTES;
    io->length_bytes = count * SL_BLOCK_BYTES;
    memset(world->buf->data + SL_MIB, 0x5a, count * SL_BLOCK_BYTES);
    client_describe(world, &request, SL_MIB, io->length_bytes);
    return client_group_co(world, &request, NULL, &reply);
}

void client_expect_co(struct cluster_world *world, uint64_t block, unsigned count, uint64_t value)
{
    assert_int_equal(client_read_co(world, block, count), 0);
    for (unsigned i = 0; i < count; i++) {
        if (!check_block(world->buf->data + SL_MIB + i * SL_BLOCK_BYTES, block + i, value))
            fail_msg("block %llu does not hold value %llu", (unsigned long long)(block + i),
                     (unsigned long long)value);
    }
}

int client_admin_co(struct cluster_world *world, unsigned number,
                    const struct sl_group_admin *admin, union sl_capsule *reply)
{
    union sl_capsule request = {0};
    struct sl_capsule_group_admin *capsule = (void *)&request;
    capsule->header.type = SL_CAPSULE_GROUP_ADMIN;
    capsule->header.length_bytes = sizeof(*capsule);
    capsule->admin = *admin;
    return client_call_co(world, number, &request, NULL, reply);
}

int client_create_co(struct cluster_world *world, unsigned number, unsigned members)
{
    union sl_capsule reply;
    struct sl_group_admin admin = {.op = SL_GROUP_CREATE,
                                   .member_count = (uint8_t)members,
                                   .group = GROUP,
                                   .size_bytes = GROUP_BYTES,
                                   .replica = REPLICA(number),
                                   .node = number};
    for (unsigned i = 0; i < members; i++)
        admin.members[i] = (struct sl_group_member){REPLICA(i + 1), i + 1, SL_GROUP_VOTER};
    return client_admin_co(world, number, &admin, &reply);
}

int client_status_co(struct cluster_world *world, unsigned number,
                     struct sl_capsule_group_status *status)
{
    union sl_capsule reply = {0};
    struct sl_group_admin admin = {.op = SL_GROUP_STATUS, .group = GROUP};
    int error = client_admin_co(world, number, &admin, &reply);
    memcpy(status, &reply, sizeof(*status));
    return error;
}

/* ---- the world ---- */

/* What everybody is at, for who wonders why nothing moves. */
static void explain(struct cluster_world *world)
{
    for (unsigned i = 1; i <= world->node_count; i++) {
        struct sl_target_cluster *cluster =
            world->nodes[i].up ? world->nodes[i].target->cluster : NULL;
        struct sl_replica *replica = cluster != NULL ? sl_cluster_find(cluster, GROUP) : NULL;
        struct sl_raft_status status;
        fprintf(stderr, "node %u: %s", i, replica == NULL ? "no replica" : "");
        if (replica != NULL) {
            sl_raft_get_status(replica->raft, &status);
            fprintf(stderr,
                    "role %d term %llu leader %u last %llu durable %llu commit %llu applied %llu "
                    "copying %llu/%d locked %d failed %d applier %d tick %d turn %llu/%llu pending "
                    "%u store %d",
                    status.role, (unsigned long long)status.term.value, status.leader.node,
                    (unsigned long long)status.last.value, (unsigned long long)status.durable.value,
                    (unsigned long long)status.commit.value, (unsigned long long)replica->applied,
                    (unsigned long long)replica->copying, status.copying, replica->locked,
                    replica->failed, replica->applier_running, replica->tick_pending,
                    (unsigned long long)replica->turn, (unsigned long long)replica->turn_next,
                    cluster->pending, sl_store_failed(replica->store));
        }
        fprintf(stderr, "\n");
    }
}

static void world_body_co(void *argument)
{
    struct cluster_world *world = argument;
    world->body_co(world);
    world->done = true;
}

static bool world_is_done(void *argument)
{
    return ((struct cluster_world *)argument)->done;
}

/* The client does `body_co`, to its end. */
void world_run(struct cluster_world *world, void (*body_co)(struct cluster_world *world))
{
    world->body_co = body_co;
    world->done = false;
    assert_int_equal(sl_co_spawn(world->client.reactor, world_body_co, world), 0);
    if (!sl_sim_run_until(world->sim, sl_sim_now_ns(world->sim) + 3600 * SL_NS_PER_S, world_is_done,
                          world)) {
        explain(world);
        fail_msg("the client hangs");
    }
}

struct errand {
    struct cluster_world *world;
    unsigned number;
    void (*body_co)(struct cluster_world *world, unsigned number);
    bool done;
};

static void errand_co(void *argument)
{
    struct errand *errand = argument;
    errand->body_co(errand->world, errand->number);
    errand->done = true;
}

static bool errand_is_done(void *argument)
{
    return ((struct errand *)argument)->done;
}

void node_run(struct cluster_world *world, unsigned number,
              void (*body_co)(struct cluster_world *world, unsigned number))
{
    struct errand errand = {world, number, body_co, false};
    struct sl_reactor *reactor = world->nodes[number].node.reactor;
    assert_int_equal(sl_co_spawn(reactor, errand_co, &errand), 0);
    assert_true(sl_sim_run_until(world->sim, sl_sim_now_ns(world->sim) + SL_NS_PER_S,
                                 errand_is_done, &errand));
}

unsigned node_find_block(struct cluster_world *world, unsigned number, uint64_t block,
                         uint64_t value, bool spoil)
{
    uint8_t *disk = sl_sim_disk_data(world->sim, world->nodes[number].name, DISK_PATH);
    unsigned count = 0;
    for (uint64_t at = 0; at < world->disk_bytes; at += SL_BLOCK_BYTES) {
        if (!check_block(disk + at, block, value))
            continue;
        count++;
        disk[at + 100] ^= spoil ? 4 : 0;
    }
    return count;
}

static bool never(void *argument)
{
    return false;
}

void world_wait(struct cluster_world *world, uint64_t duration_ns)
{
    sl_sim_run_until(world->sim, sl_sim_now_ns(world->sim) + duration_ns, never, NULL);
}

void world_open(struct cluster_world *world, uint64_t seed, unsigned node_count)
{
    world_open_disks(world, seed, node_count, 1);
}

void world_open_disks(struct cluster_world *world, uint64_t seed, unsigned node_count,
                      unsigned disk_count)
{
    struct sl_sim_config config = {.seed = seed};
    struct cluster_world fresh = {.node_count = node_count,
                                  .disk_count = disk_count,
                                  .disk_bytes = 128 * SL_MIB,
                                  .segment_bytes = 4 * SL_MIB,
                                  .segment_count = 8,
                                  .epoch = 1,
                                  .session = 0x77,
                                  .cluster_id = "cluster of tests"};
    *world = fresh;
    memcpy(world->specs, disk_specs, sizeof(disk_specs));
    assert_int_equal(sl_sim_create(&config, &world->sim), 0);
    for (unsigned i = 1; i <= node_count; i++) {
        struct cluster_node *node = &world->nodes[i];
        node->world = world;
        node->number = i;
        snprintf(node->name, sizeof(node->name), "node%u", i);
        snprintf(node->address, sizeof(node->address), "node%u:7600", i);
        world->addresses[i - 1] = (struct sl_target_cluster_node){i, node->address};
        for (unsigned k = 0; k < disk_count; k++)
            assert_int_equal(
                sl_sim_disk_create(world->sim, node->name, disk_path(k), world->disk_bytes), 0);
        node_format(world, i);
    }
    assert_int_equal(sl_sim_node_open(world->sim, "client", 0, 32 * SL_MIB, &world->client), 0);
    struct sl_fabric_config fabric = {
        .link = &sl_link_sim,
        .domain = {.io = world->client.io,
                   .memory = world->client.memory,
                   .arena_access = SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE},
        .reactor = world->client.reactor,
        .role = SL_ROLE_GATEWAY,
        .instance_id = seed,
        .credits = 1,
    };
    assert_int_equal(sl_fabric_create(&fabric, &world->fabric), 0);
    world->buf = sl_buf_alloc(world->client.memory, 2 * SL_MIB, SL_RESERVE_CHECKPOINT);
    assert_non_null(world->buf);
    for (unsigned i = 1; i <= node_count; i++)
        node_start(world, i);
}

static void world_drain_co(struct cluster_world *world)
{
    sl_fabric_drain_co(world->fabric);
    sl_fabric_destroy(world->fabric);
}

void world_close(struct cluster_world *world)
{
    world_run(world, world_drain_co);
    sl_buf_unref(world->buf);
    sl_sim_node_close(&world->client);
    for (unsigned i = 1; i <= world->node_count; i++) {
        if (world->nodes[i].up)
            node_end(world, i, false);
    }
    sl_sim_destroy(world->sim);
}

void world_create_group_co(struct cluster_world *world)
{
    for (unsigned i = 1; i <= world->node_count; i++)
        assert_int_equal(client_create_co(world, i, world->node_count), 0);
}

void world_attach_co(struct cluster_world *world)
{
    assert_int_equal(client_attach_co(world, world->epoch), 0);
    assert_int_equal(client_session_co(world, SL_GROUP_SESSION_OPEN, world->session), 0);
}

void world_all_equal_co(struct cluster_world *world)
{
    static struct sl_capsule_group_status status[WORLD_NODES + 1];
    for (unsigned tries = 0; tries < 1000; tries++) {
        bool equal = true;
        for (unsigned i = 1; i <= world->node_count; i++) {
            equal = client_status_co(world, i, &status[i]) == 0 && equal;
            equal = equal && status[i].applied == status[1].last &&
                    status[i].commit == status[1].last && status[i].last == status[1].last;
        }
        if (equal)
            return;
        sl_sleep_co(20 * SL_NS_PER_MS);
    }
    for (unsigned i = 1; i <= world->node_count; i++)
        fprintf(stderr, "node %u: role %u flags %u last %llu commit %llu applied %llu\n", i,
                status[i].role, status[i].flags, (unsigned long long)status[i].last,
                (unsigned long long)status[i].commit, (unsigned long long)status[i].applied);
    fail_msg("the replicas do not become equal");
}

void world_write_much_co(struct cluster_world *world)
{
    for (unsigned i = 0; i < 300; i++) {
        uint64_t value = world->sequence + 1;
        assert_int_equal(client_write_co(world, value % 31 * 64, 64, value), 0);
        if (i % 16 == 0)
            client_expect_co(world, value % 31 * 64, 64, value);
    }
}
