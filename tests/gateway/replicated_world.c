/* Fake targets, and the model of what they agree on. */
#include "tests/gateway/replicated_world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

_Static_assert(SL_GROUP_WINDOW == SL_SESSION_WINDOW, "the gateway's window is the table's");

struct met met;

uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static bool chance(struct run *run, unsigned percent)
{
    return next_random(&run->random) % 100 < percent;
}

/* ---- the model ---- */

enum sl_verdict commit(struct model *model, const struct sl_command *command)
{
    enum sl_verdict verdict = sl_session_apply(model->table, sl_index_of(++model->index), command);
    met.verdicts[verdict]++;
    assert_int_not_equal(verdict, SL_VERDICT_BEYOND);
    assert_int_not_equal(verdict, SL_VERDICT_INVALID);
    return verdict;
}

/* The block's place in the model: its group has the volume behind `begin_bytes`. */
static uint64_t *value_at(struct model *model, uint64_t offset_bytes)
{
    assert_in_range(offset_bytes, model->begin_bytes,
                    model->begin_bytes + sizeof(model->values) / 8 * SL_BLOCK_BYTES - 1);
    return &model->values[(offset_bytes - model->begin_bytes) / SL_BLOCK_BYTES];
}

/* A write is known by its value: block and the writer's count, in each word of the block. */
static enum sl_verdict commit_write(struct run *run, struct model *model,
                                    const struct sl_command *command, uint64_t offset_bytes,
                                    uint64_t value)
{
    uint64_t number = value >> 16;
    assert_true(number < run->write_count);
    struct write *write = &run->writes[number];
    enum sl_verdict verdict = commit(model, command);
    /* No number is used twice: not for another write, and not for this one while it may apply. */
    for (unsigned i = 0; i < run->write_count; i++) {
        const struct write *other = &run->writes[i];
        assert_false(other != write && other->session == command->session &&
                     other->sequence == command->sequence);
    }
    if (write->sequence != 0 &&
        (write->session != command->session || write->sequence != command->sequence))
        assert_false(write->applied && verdict == SL_VERDICT_APPLY);
    write->group = model->id;
    write->session = command->session;
    write->sequence = command->sequence;
    if (verdict != SL_VERDICT_APPLY)
        return verdict;
    assert_false(write->applied);
    assert_false(write->failed); /* it was reported as failed */
    assert_false(write->done);
    write->applied = true;
    *value_at(model, offset_bytes) = value;
    return verdict;
}

static int error_of(enum sl_verdict verdict)
{
    static const int errors[] = {
        [SL_VERDICT_VOIDED] = -SL_E_VOIDED,
        [SL_VERDICT_STALE] = -EINVAL,
        [SL_VERDICT_NO_SESSION] = -SL_E_NO_SESSION,
        [SL_VERDICT_FENCED] = -SL_E_FENCED,
        [SL_VERDICT_FULL] = -ENOSPC,
    };
    return errors[verdict];
}

/* ---- fake targets ---- */

struct serve {
    struct target *target;
    struct sl_received *received;
};

static void reply_init(union sl_capsule *reply, struct model *model, int error)
{
    memset(reply, 0, sizeof(*reply));
    reply->header.type = SL_CAPSULE_REPLY;
    reply->header.length_bytes = sizeof(reply->group_reply);
    reply->header.status = sl_status_from_errno(error);
    reply->group_reply.term = model->term;
}

static void answer(struct sl_received *received, struct model *model, int error)
{
    union sl_capsule reply;
    reply_init(&reply, model, error);
    sl_connection_reply(received, &reply);
}

/* Who leads, as this one thinks: now and then nobody, or somebody who has not led for long. */
static void answer_moved(struct target *target, struct sl_received *received, struct model *model)
{
    struct run *run = target->run;
    union sl_capsule reply;
    reply_init(&reply, model, -SL_E_MOVED);
    reply.group_reply.leader_reactor = model->id % REACTORS;
    if (run->faults && chance(run, 20)) {
        reply.group_reply.leader_node = (uint32_t)(next_random(&run->random) % (NODES + 2));
        reply.group_reply.leader_reactor = (uint32_t)(next_random(&run->random) % (REACTORS + 1));
        reply.group_reply.term = model->term - next_random(&run->random) % 2;
    } else if (model->leader != NOBODY) {
        reply.group_reply.leader_node = model->leader;
    }
    met.moved++;
    sl_connection_reply(received, &reply);
}

/* As in cluster_text. */
static const uint8_t cluster_id[16] = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                                       0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};

static void answer_storage(struct sl_received *received)
{
    union sl_capsule reply = {0};
    reply.header.type = SL_CAPSULE_REPLY;
    reply.header.length_bytes = sizeof(reply.storage);
    if (received->capsule.header.type == SL_CAPSULE_QUERY_STORAGE) {
        reply.storage.block_bytes = SL_BLOCK_BYTES;
        reply.storage.reactor_count = REACTORS;
        reply.storage.storage_flags = SL_STORAGE_REPLICATED;
        memcpy(reply.storage.storage_id, cluster_id, sizeof(cluster_id));
    }
    sl_connection_reply(received, &reply);
}

static struct sl_command command_of(const struct sl_group_message *io)
{
    static const enum sl_command_kind kinds[] = {
        [SL_GROUP_SESSION_OPEN] = SL_COMMAND_OPEN,
        [SL_GROUP_SESSION_CLOSE] = SL_COMMAND_CLOSE,
        [SL_GROUP_VOID] = SL_COMMAND_VOID,
        [SL_GROUP_ATTACH] = SL_COMMAND_ATTACH,
    };
    return (struct sl_command){
        .kind = io->opcode < SL_GROUP_SESSION_OPEN ? SL_COMMAND_WRITE : kinds[io->opcode],
        .session = io->session,
        .sequence = io->sequence,
        .lowest = io->sequence - io->unfinished,
        .volume = io->volume,
        .epoch = io->epoch,
    };
}

/* Takes the payload: the value in it, checked in each word. */
static int take_value_co(struct target *target, struct sl_received *received, uint64_t *value)
{
    const struct sl_capsule_group_io *io = &received->capsule.group_io;
    struct sl_buf *buf = received->payload;
    int error = 0;
    if (buf != NULL) {
        sl_buf_ref(buf);
    } else {
        buf = sl_buf_alloc_co(target->sim.memory, io->io.length_bytes, SL_RESERVE_ADMISSION);
        struct sl_span span = sl_buf_span(buf, 0, io->io.length_bytes);
        error =
            sl_connection_read_co(received->connection, &span, 1, io->pieces, io->io.piece_count);
    }
    if (error == 0) {
        memcpy(value, buf->data, sizeof(*value));
        for (uint32_t i = 0; i < io->io.length_bytes; i += sizeof(*value))
            assert_memory_equal(buf->data + i, value, sizeof(*value));
    }
    sl_buf_unref(buf);
    return error;
}

static bool was_opened(const struct model *model, uint64_t session)
{
    for (unsigned i = 0; i < model->session_count; i++) {
        if (model->sessions[i] == session)
            return true;
    }
    return false;
}

static int commit_message(struct run *run, struct model *model, const struct sl_group_message *io,
                          uint64_t value)
{
    struct sl_command command = command_of(io);
    /* The log has an order: an entry that outlives its leader stands before all that a later one
     * proposes, so no session opens again behind its end. */
    if (command.kind == SL_COMMAND_OPEN && was_opened(model, io->session) &&
        sl_session_preview(model->table, &command) != SL_VERDICT_DUPLICATE)
        return -ECANCELED;
    /* Within the window, and never below what was said to be finished. */
    if (io->sequence != 0)
        assert_true(io->unfinished < SL_SESSION_WINDOW && io->unfinished < io->sequence);
    enum sl_verdict verdict = command.kind == SL_COMMAND_WRITE
                                  ? commit_write(run, model, &command, io->offset_bytes, value)
                                  : commit(model, &command);
    if (command.kind == SL_COMMAND_OPEN && verdict == SL_VERDICT_APPLY) {
        assert_true(model->session_count < SESSIONS_MAX);
        model->sessions[model->session_count++] = command.session;
    }
    if (verdict == SL_VERDICT_DUPLICATE) {
        met.voids_of_applied += command.kind == SL_COMMAND_VOID;
        return command.kind == SL_COMMAND_WRITE ? 0 : -EEXIST;
    }
    return verdict == SL_VERDICT_APPLY ? 0 : error_of(verdict);
}

static enum fate draw_fate(struct run *run)
{
    static const uint8_t percent[FATE_COUNT] = {
        [FATE_ANSWERED] = 72, [FATE_SLOW] = 8,    [FATE_REPLY_LOST] = 4,
        [FATE_LATE] = 4,      [FATE_DROPPED] = 3, [FATE_REFUSED] = 4,
        [FATE_FAILED] = 2,    [FATE_SILENT] = 1,  [FATE_BAD] = 2,
    };
    unsigned drawn = (unsigned)(next_random(&run->random) % 100), fate = 0;
    for (; run->faults && fate + 1 < FATE_COUNT && drawn >= percent[fate]; fate++)
        drawn -= percent[fate];
    met.fates[fate]++;
    return (enum fate)fate;
}

static void pause_co(struct run *run, uint64_t most_ns)
{
    sl_sleep_co(1 + next_random(&run->random) % most_ns);
}

/* What changes the group's state; its answer, if it gets one. */
static void serve_command_co(struct target *target, struct sl_received *received,
                             struct model *model, uint64_t value)
{
    static const int refusals[] = {-EBUSY, -ENOMEM, -EAGAIN, -EBADFD, -ECANCELED, -ENOENT};
    struct run *run = target->run;
    const struct sl_group_message io = received->capsule.group_io.io;
    enum fate fate = draw_fate(run);
    while (run->held && io.sequence != 0) {
        assert_true(io.sequence <= SL_SESSION_WINDOW);
        if (io.sequence > 1)
            break;
        sl_sleep_co(SL_NS_PER_MS);
    }
    if (fate == FATE_SLOW)
        pause_co(run, 300 * SL_NS_PER_MS);
    if (fate == FATE_ANSWERED || fate == FATE_SLOW || fate == FATE_REPLY_LOST) {
        int error = commit_message(run, model, &io, value);
        if (fate == FATE_REPLY_LOST)
            sl_connection_shutdown(received->connection, -EIO);
        else if (error == -SL_E_FENCED || io.opcode == SL_GROUP_ATTACH) {
            union sl_capsule reply;
            reply_init(&reply, model, error);
            reply.group_reply.epoch = error < 0 ? io.epoch + (UINT64_C(5) << 24) : io.epoch;
            sl_connection_reply(received, &reply);
        } else {
            answer(received, model, error);
        }
        return;
    }
    bool later = fate == FATE_LATE || (fate >= FATE_FAILED && fate != FATE_BAD && chance(run, 50));
    if (fate == FATE_LATE || fate == FATE_DROPPED)
        answer_moved(target, received, model);
    if (fate == FATE_REFUSED)
        answer(received, model, refusals[next_random(&run->random) % SL_COUNT_OF(refusals)]);
    if (fate == FATE_FAILED)
        answer(received, model, -EIO);
    if (fate == FATE_BAD)
        answer(received, model, -ENOSPC);
    if (fate == FATE_SILENT)
        /* Longer than the time-out: the gateway tears the connection down. */
        pause_co(run, 3 * SL_NS_PER_S);
    if (!later)
        return;
    pause_co(run, 400 * SL_NS_PER_MS);
    commit_message(run, model, &io, value);
}

static void serve_read_co(struct target *target, struct sl_received *received, struct model *model)
{
    const struct sl_capsule_group_io *io = &received->capsule.group_io;
    struct sl_buf *buf =
        sl_buf_alloc_co(target->sim.memory, io->io.length_bytes, SL_RESERVE_ADMISSION);
    union sl_capsule reply;
    uint64_t term = model->term;
    pause_co(target->run, 2 * SL_NS_PER_MS);
    if (term != model->term) {
        answer_moved(target, received, model);
    } else {
        for (uint32_t i = 0; i < io->io.length_bytes; i += sizeof(uint64_t))
            memcpy(buf->data + i, value_at(model, io->io.offset_bytes + i), sizeof(uint64_t));
        struct sl_span span = sl_buf_span(buf, 0, io->io.length_bytes);
        reply_init(&reply, model, 0);
        sl_connection_write_reply_co(received, &span, 1, io->pieces, io->io.piece_count, &reply);
    }
    sl_buf_unref(buf);
}

static void serve_group_co(struct target *target, struct sl_received *received)
{
    struct run *run = target->run;
    const struct sl_group_message *io = &received->capsule.group_io.io;
    assert_true(io->group >= 1 && io->group <= GROUPS);
    struct model *model = &run->models[io->group - 1];
    uint64_t value = 0;
    if (target->reactor != io->group % REACTORS) {
        met.wrong_reactor++;
        answer_moved(target, received, model);
        return;
    }
    if (model->leader != target->node && run->replaced) {
        answer(received, model, -ENOENT);
        return;
    }
    if (model->leader != target->node) {
        answer_moved(target, received, model);
        return;
    }
    if (run->refuse) {
        run->refused_count++;
        answer(received, model, -EBUSY);
        return;
    }
    if (io->opcode == SL_IO_READ) {
        serve_read_co(target, received, model);
        return;
    }
    if (io->opcode == SL_IO_WRITE && take_value_co(target, received, &value) < 0)
        return; /* its connection is dead */
    serve_command_co(target, received, model, value);
}

static void serve_entry_co(void *argument)
{
    struct serve serve = *(struct serve *)argument;
    free(argument);
    if (serve.received->capsule.header.type == SL_CAPSULE_GROUP_IO)
        serve_group_co(serve.target, serve.received);
    else
        answer_storage(serve.received);
    sl_received_release(serve.received);
    serve.target->run->busy_count--;
}

static void target_opened(void *owner, struct sl_connection *connection)
{
    sl_connection_set_owner(connection, owner);
}

static void target_received(void *owner, struct sl_received *received)
{
    struct target *target = owner;
    struct serve *serve = malloc(sizeof(*serve));
    *serve = (struct serve){target, received};
    target->run->busy_count++;
    assert_int_equal(sl_co_spawn(target->sim.reactor, serve_entry_co, serve), 0);
}

static void target_closed(void *owner, struct sl_connection *connection, int reason)
{
}

static const struct sl_connection_handlers target_handlers = {
    .opened = target_opened,
    .received = target_received,
    .closed = target_closed,
};

/* The simulator's link, whose regions can be described only while `describe_fails` is 0. */
int describe_fails;

static int describe_or_fail(struct sl_link_domain *domain, struct sl_region *region,
                            const void *data, uint32_t length_bytes, struct sl_remote_piece *piece)
{
    return describe_fails != 0 ? describe_fails
                               : sl_link_sim.describe(domain, region, data, length_bytes, piece);
}

static struct sl_fabric *make_fabric(struct sl_sim_node *node, enum sl_role role)
{
    static struct sl_link_ops link;
    struct sl_fabric *fabric = NULL;
    link = sl_link_sim;
    link.describe = describe_or_fail;
    struct sl_fabric_config config = {
        .link = &link,
        .domain = {.io = node->io, .memory = node->memory},
        .reactor = node->reactor,
        .role = role,
        .instance_id = sl_reactor_random_u64(node->reactor),
        .in_capsule_bytes = role == SL_ROLE_TARGET ? SL_IN_CAPSULE_BYTES_MAX : 0,
    };
    if (role == SL_ROLE_GATEWAY)
        config.domain.foreign_access = SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE;
    assert_int_equal(sl_fabric_create(&config, &fabric), 0);
    return fabric;
}

static void far_open_co(struct run *run)
{
    for (unsigned i = 0; i < NODES; i++) {
        struct sl_fabric *fabrics[REACTORS];
        void *owners[REACTORS];
        for (unsigned j = 0; j < REACTORS; j++) {
            struct target *target = &run->targets[i][j];
            target->fabric = fabrics[j] = make_fabric(&target->sim, SL_ROLE_TARGET);
            owners[j] = target;
        }
        assert_int_equal(sl_fabric_listen(fabrics, REACTORS, run->cluster->nodes[i].address,
                                          &target_handlers, owners, NULL, &run->listeners[i]),
                         0);
    }
}

/* One group gets another leader, after a while in which there is none. */
static void elect_co(struct run *run)
{
    struct model *model = &run->models[next_random(&run->random) % GROUPS];
    unsigned down = (unsigned)(next_random(&run->random) % NODES);
    met.elections++;
    model->leader = NOBODY;
    model->term++;
    if (chance(run, 50)) /* its node has died */
        for (unsigned i = 0; i < REACTORS; i++)
            sl_sim_reset(run->sim, run->near.io, run->targets[down][i].sim.io);
    pause_co(run, 400 * SL_NS_PER_MS);
    model->leader = 1 + (uint32_t)(next_random(&run->random) % NODES);
}

static void close_a_session(struct run *run)
{
    struct model *model = &run->models[next_random(&run->random) % GROUPS];
    if (model->session_count == 0)
        return;
    struct sl_command command = {.kind = SL_COMMAND_CLOSE,
                                 .session = model->sessions[model->session_count - 1]};
    commit(model, &command);
}

void far_co(void *argument)
{
    struct run *run = argument;
    far_open_co(run);
    while (!run->near_done) {
        pause_co(run, 400 * SL_NS_PER_MS);
        if (run->faults && !run->ended)
            elect_co(run);
        if (run->faults && !run->ended && chance(run, 10))
            close_a_session(run);
    }
    while (run->busy_count > 0)
        sl_sleep_co(SL_NS_PER_MS);
    for (unsigned i = 0; i < NODES; i++)
        sl_fabric_listener_close(run->listeners[i]);
    for (unsigned i = 0; i < NODES; i++) {
        for (unsigned j = 0; j < REACTORS; j++) {
            sl_fabric_drain_co(run->targets[i][j].fabric);
            sl_fabric_destroy(run->targets[i][j].fabric);
        }
    }
    run->far_done = true;
}

/* ---- the gateway ---- */

static void share_memory_co(struct run *run)
{
    int memfd = memfd_create("sim-client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(memfd, MEMORY_BYTES), 0);
    assert_int_equal(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    run->bytes = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    assert_true(run->bytes != MAP_FAILED);
    assert_int_equal(
        sl_gateway_memory_register_co(run->group, memfd, MEMORY_BYTES, true, &run->memory), 0);
}

void near_open_co(struct run *run)
{
    const char *servers[NODES];
    char error[256];
    for (unsigned i = 0; i < NODES; i++)
        servers[i] = run->cluster->nodes[i].address;
    struct sl_gateway_config config = {.servers = servers,
                                       .server_count = NODES,
                                       .cluster = run->cluster,
                                       .follower_reads = run->follower_reads,
                                       .io_timeout_ns = SL_NS_PER_S};
    run->near_fabric = make_fabric(&run->near, SL_ROLE_GATEWAY);
    assert_int_equal(sl_gateway_group_create(&config, 1, &run->group, error, sizeof(error)), 0);
    assert_int_equal(sl_gateway_create(run->group, 0, run->near.reactor, run->near.memory,
                                       run->near_fabric, &run->gateway),
                     0);
    share_memory_co(run);
    sl_gateway_session_begin(run->group);
}

void near_close_co(struct run *run)
{
    sl_gateway_session_end(run->group);
    sl_gateway_stop_co(run->gateway);
    sl_gateway_memory_unregister_co(run->memory);
    sl_gateway_destroy(run->gateway);
    sl_gateway_group_destroy(run->group);
    sl_fabric_drain_co(run->near_fabric);
    sl_fabric_destroy(run->near_fabric);
    munmap(run->bytes, MEMORY_BYTES);
    run->near_done = true;
}

/* ---- runs ---- */

static const char cluster_text[] =
    "{\"sluice_cluster\": 1, \"id\": \"00112233445566778899aabbccddeeff\",\n"
    " \"nodes\": [{\"id\": 1, \"address\": \"t1:1\"}, {\"id\": 2, \"address\": \"t2:1\"},"
    " {\"id\": 3, \"address\": \"t3:1\"}],\n"
    " \"groups\": [{\"id\": 1, \"size\": \"32M\", \"replicas\": ["
    "{\"node\": 1, \"replica\": \"0000000000000011\"}, {\"node\": 2, \"replica\": "
    "\"0000000000000012\"}, {\"node\": 3, \"replica\": \"0000000000000013\"}]},\n"
    "  {\"id\": 2, \"size\": \"16M\", \"replicas\": [{\"node\": 2, \"replica\": "
    "\"0000000000000021\"}, {\"node\": 3, \"replica\": \"0000000000000022\"}]}],\n"
    " \"volumes\": [{\"id\": 9, \"name\": \"vm\", \"size\": \"4M\", \"stripe\": \"64K\", "
    "\"extents\": [{\"group\": 2, \"size\": \"16M\"}, {\"group\": 1, \"size\": \"16M\", "
    "\"offset\": \"16M\"}]}]}";

bool all_done(void *argument)
{
    const struct run *run = argument;
    return run->near_done && run->far_done;
}

struct run *run_create(uint64_t seed, bool faults)
{
    struct run *run = calloc(1, sizeof(*run));
    struct sl_sim_config config = {.seed = seed};
    char error[256], name[16];
    assert_non_null(run);
    run->faults = faults;
    run->random = seed * 977;
    run->follower_reads = seed % 2 == 0;
    run->write_count = 1; /* value 0 is "never written" */
    run->clients_left = CLIENTS;
    for (unsigned i = 0; i < CLIENTS; i++)
        run->clients[i] = (struct client){.run = run, .index = i, .random = seed * CLIENTS + i};
    if (faults) {
        config.network.reset_per_million = 2000;
        config.network.slow_per_million = 2000;
    }
    assert_int_equal(sl_cluster_parse("test", cluster_text, strlen(cluster_text), &run->cluster,
                                      error, sizeof(error)),
                     0);
    assert_int_equal(sl_sim_create(&config, &run->sim), 0);
    assert_int_equal(sl_sim_node_open(run->sim, "gateway", 0, 16 * SL_MIB, &run->near), 0);
    for (unsigned i = 0; i < NODES * REACTORS; i++) {
        struct target *target = &run->targets[i / REACTORS][i % REACTORS];
        *target = (struct target){run, i / REACTORS + 1, i % REACTORS};
        snprintf(name, sizeof(name), "t%u.%u", target->node, target->reactor);
        assert_int_equal(
            sl_sim_node_open(run->sim, name, target->reactor, 16 * SL_MIB, &target->sim), 0);
    }
    for (unsigned i = 0; i < GROUPS; i++) {
        struct model *model = &run->models[i];
        model->begin_bytes = i == 0 ? 16 * SL_MIB : 0; /* as in cluster_text */
        model->id = i + 1;
        model->term = 1;
        model->leader = 2 + i;
        model->table = sl_session_init(malloc(sl_session_bytes(SESSIONS_MAX, 4)), SESSIONS_MAX, 4);
    }
    return run;
}

uint64_t run_destroy(struct run *run)
{
    sl_sim_node_close(&run->near);
    for (unsigned i = 0; i < NODES * REACTORS; i++)
        sl_sim_node_close(&run->targets[i / REACTORS][i % REACTORS].sim);
    uint64_t hash = sl_sim_trace_hash(run->sim);
    sl_sim_destroy(run->sim);
    for (unsigned i = 0; i < GROUPS; i++)
        free(run->models[i].table);
    sl_cluster_free(run->cluster);
    free(run);
    return hash;
}
