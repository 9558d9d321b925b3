/* The frame of the conformance suite: conformance.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "conformance.h"
#include "core/error.h"

#define AWAIT_TIMEOUT_NS (20 * SL_NS_PER_S)
#define MISREAD_NS       (3 * SL_NS_PER_S)

static uint64_t real_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SL_NS_PER_S + (uint64_t)now.tv_nsec;
}

static void progress(struct conformance_world *world)
{
    if (world->form == TWO_THREADS) {
        usleep(20);
        return;
    }
    bool busy = false;
    for (unsigned i = 0; i < world->node_count; i++)
        busy |= sl_reactor_step(world->nodes[i].reactor);
    if (!busy && world->link->idle != NULL)
        world->link->idle(world);
}

struct call_mail {
    struct sl_mail mail;
    void (*function)(void *argument);
    void *argument;
    atomic_bool done;
};

static void call_deliver(struct sl_mail *mail)
{
    struct call_mail *call = sl_container_of(mail, struct call_mail, mail);
    call->function(call->argument);
    atomic_store(&call->done, true);
}

void conformance_call(struct conformance_node *node, void (*function)(void *argument),
                      void *argument)
{
    struct call_mail call = {.function = function, .argument = argument};
    call.mail.deliver = call_deliver;
    sl_reactor_post(node->reactor, &call.mail);
    while (!atomic_load(&call.done))
        progress(node->world);
}

struct await {
    bool (*condition)(void *argument);
    void *argument;
    bool holds;
};

static void await_look(void *argument)
{
    struct await *await = argument;
    await->holds = await->condition(await->argument);
}

static bool await_for(struct conformance_node *node, uint64_t duration_ns,
                      bool (*condition)(void *argument), void *argument)
{
    struct await await = {condition, argument, false};
    uint64_t end_ns = real_now_ns() + duration_ns;
    for (;;) {
        conformance_call(node, await_look, &await);
        if (await.holds || real_now_ns() >= end_ns)
            return await.holds;
        progress(node->world);
    }
}

void conformance_await(struct conformance_node *node, bool (*condition)(void *argument),
                       void *argument)
{
    assert_true(await_for(node, AWAIT_TIMEOUT_NS, condition, argument));
}

void conformance_run_ms(struct conformance_world *world, unsigned duration_ms)
{
    uint64_t end_ns = sl_reactor_clock_ns(world->nodes[0].reactor) + duration_ms * SL_NS_PER_MS;
    while (sl_reactor_clock_ns(world->nodes[0].reactor) < end_ns)
        progress(world);
}

static void *node_run(void *argument)
{
    struct conformance_node *node = argument;
    sl_reactor_run(node->reactor);
    return NULL;
}

static void node_open(struct conformance_node *node)
{
    assert_int_equal(node->world->link->io_create(node), 0);
    /* Short spinning: two threads and the test's share what cores there are. */
    struct sl_reactor_config reactor = {.index = node->index, .cpu = -1, .spin_ns = 20000};
    assert_int_equal(sl_reactor_create(&reactor, sl_io_engine(node->io), &node->reactor), 0);
    sl_io_bind(node->io, node->reactor);
    struct sl_memory_config memory = {.limit_bytes = 256 * SL_MIB, .numa_node = -1};
    assert_int_equal(sl_memory_create(&memory, &node->memory), 0);
    if (node->world->form == TWO_THREADS)
        assert_int_equal(pthread_create(&node->thread, NULL, node_run, node), 0);
}

/* ---- faults ---- */

static bool has_injects(const struct conformance_link *link)
{
    return link->injects[0][0] != NULL || link->injects[1][0] != NULL;
}

const struct sl_link_ops *conformance_ops(const struct conformance_world *world)
{
    const struct conformance_link *link = world->link;
    return has_injects(link) ? sl_inject_link(link->ops) : link->ops;
}

static void inject_open(struct conformance_node *node, unsigned index)
{
    struct sl_inject_rule rules[CONFORMANCE_INJECTS_MAX];
    const char *const *specs = node->world->link->injects[index];
    char error[768];
    unsigned count = 0;
    for (; count < CONFORMANCE_INJECTS_MAX && specs[count] != NULL; count++) {
        assert_int_equal(sl_inject_parse(specs[count], &rules[count], error, sizeof(error)), 0);
        rules[count].seed = rules[count].has_seed ? rules[count].seed : 20261121;
    }
    node->injection.lower = node->world->link->ops;
    assert_int_equal(sl_inject_create(rules, count, index, &node->injection.inject), 0);
}

struct domain_open {
    struct conformance_node *node;
    unsigned access[2];
    int error;
};

static void domain_open_on(void *argument)
{
    struct domain_open *open = argument;
    struct sl_link_domain_config config = {
        .io = open->node->io,
        .memory = open->node->memory,
        .device = open->node->world->link->device,
        .arena_access = open->access[0],
        .foreign_access = open->access[1],
        .injection = has_injects(open->node->world->link) ? &open->node->injection : NULL,
    };
    open->error = conformance_ops(open->node->world)->domain_open(&config, &open->node->domain);
}

void conformance_world_open(struct conformance_world *world, const struct conformance_link *link,
                            enum conformance_form form, unsigned arena_access,
                            unsigned foreign_access)
{
    memset(world, 0, sizeof(*world));
    world->link = link;
    world->form = form;
    world->node_count = form == ONE_REACTOR ? 1 : 2;
    for (unsigned i = 0; i < 2; i++) {
        struct conformance_node *node = &world->nodes[i];
        if (i < world->node_count) {
            node->world = world;
            node->index = i;
            node_open(node);
        } else {
            *node = world->nodes[0];
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        struct conformance_node *node = &world->nodes[i];
        inject_open(node, i);
        struct domain_open open = {node, {arena_access, foreign_access}, 0};
        conformance_call(node, domain_open_on, &open);
        assert_int_equal(open.error, 0);
    }
}

static void domain_close_on(void *argument)
{
    struct conformance_node *node = argument;
    conformance_ops(node->world)->domain_close(node->domain);
}

static bool is_idle(void *argument)
{
    struct conformance_node *node = argument;
    struct sl_reactor_statistics statistics;
    sl_reactor_statistics(node->reactor, &statistics);
    return statistics.coroutine_count == 0;
}

void conformance_world_close(struct conformance_world *world)
{
    for (unsigned i = 0; i < 2; i++) {
        conformance_call(&world->nodes[i], domain_close_on, &world->nodes[i]);
        sl_inject_destroy(world->nodes[i].injection.inject);
    }
    for (unsigned i = 0; i < world->node_count; i++)
        conformance_await(&world->nodes[i], is_idle, &world->nodes[i]);
    for (unsigned i = 0; i < world->node_count; i++) {
        struct conformance_node *node = &world->nodes[i];
        if (world->form == TWO_THREADS) {
            sl_reactor_stop(node->reactor);
            pthread_join(node->thread, NULL);
        }
        sl_memory_destroy(node->memory);
        sl_reactor_destroy(node->reactor);
        sl_io_destroy(node->io);
    }
    if (world->link->close != NULL)
        world->link->close(world);
    assert_int_equal(atomic_load(&world->failures), 0);
}

/* ---- connections ---- */

static void server_incoming(void *owner, struct sl_link_incoming *request)
{
    struct conformance_server *server = owner;
    server->incoming_count++;
    if (server->request != NULL)
        server->request->ops->reject(server->request);
    server->request = request;
}

static void server_open_on(void *argument)
{
    struct conformance_server *server = argument;
    const struct conformance_link *link = server->node->world->link;
    char listen[SL_ADDRESS_BYTES_MAX];
    char nobody[SL_ADDRESS_BYTES_MAX];
    link->addresses(listen, nobody);
    int error = conformance_ops(server->node->world)
                    ->listen(server->node->domain, listen, server_incoming, server, server->address,
                             &server->listener);
    CONFORMANCE_CHECK(server->node->world, error == 0);
}

void conformance_server_open(struct conformance_server *server, struct conformance_node *node)
{
    *server = (struct conformance_server){.node = node};
    conformance_call(node, server_open_on, server);
    assert_int_equal(atomic_load(&node->world->failures), 0);
}

static void server_close_on(void *argument)
{
    struct conformance_server *server = argument;
    conformance_ops(server->node->world)->listener_close(server->listener);
    if (server->request != NULL)
        server->request->ops->reject(server->request);
    server->request = NULL;
}

void conformance_server_close(struct conformance_server *server)
{
    conformance_call(server->node, server_close_on, server);
}

static bool server_has_request(void *argument)
{
    return ((struct conformance_server *)argument)->request != NULL;
}

struct sl_link_incoming *conformance_server_take(struct conformance_server *server)
{
    conformance_await(server->node, server_has_request, server);
    struct sl_link_incoming *request = server->request;
    server->request = NULL;
    return request;
}

static void end_connected(void *owner, struct sl_link_connection *connection)
{
    struct conformance_end *end = owner;
    struct conformance_world *world = end->node->world;
    CONFORMANCE_CHECK(world, connection == end->connection);
    CONFORMANCE_CHECK(world, end->connected_count == 0 && end->closed_count == 0);
    end->connected_count++;
    if (end->on_connected != NULL)
        end->on_connected(end);
}

static void end_closed(void *owner, struct sl_link_connection *connection, int reason)
{
    struct conformance_end *end = owner;
    struct conformance_world *world = end->node->world;
    CONFORMANCE_CHECK(world, connection == end->connection);
    CONFORMANCE_CHECK(world, end->closed_count == 0);
    CONFORMANCE_CHECK(world, reason < 0);
    end->closed_count++;
    end->reason = reason;
    for (unsigned i = 0; i < end->op_count; i++)
        CONFORMANCE_CHECK(world, end->ops[i]->done_count == end->ops[i]->posted_count);
}

static const struct sl_link_handlers handlers = {end_connected, end_closed};

struct establish {
    struct conformance_end *end;
    const char *address;
    const uint8_t *private_data;
    unsigned timeout_ms;
    struct sl_link_incoming *request;
    int error;
};

static void post_all(struct conformance_end *end)
{
    for (unsigned i = 0; i < end->op_count; i++)
        conformance_op_post(end->ops[i]);
}

static void connect_on(void *argument)
{
    struct establish *establish = argument;
    struct conformance_node *node = establish->end->node;
    establish->error =
        conformance_ops(node->world)
            ->connect(node->domain, establish->address, establish->private_data,
                      sl_reactor_now_ns(node->reactor) + establish->timeout_ms * SL_NS_PER_MS,
                      &handlers, establish->end, &establish->end->connection);
    CONFORMANCE_CHECK(node->world, establish->end->connected_count == 0);
    CONFORMANCE_CHECK(node->world, establish->end->closed_count == 0);
    if (establish->error == 0)
        post_all(establish->end);
}

void conformance_connect(struct conformance_end *end, struct conformance_node *node,
                         const char *address, const uint8_t *private_data, unsigned timeout_ms)
{
    end->node = node;
    struct establish establish = {end, address, private_data, timeout_ms, NULL, 0};
    conformance_call(node, connect_on, &establish);
    assert_int_equal(establish.error, 0);
}

static void accept_on(void *argument)
{
    struct establish *establish = argument;
    struct conformance_node *node = establish->end->node;
    establish->error = establish->request->ops->accept(node->domain, establish->request, &handlers,
                                                       establish->end, &establish->end->connection);
    if (establish->error == 0)
        post_all(establish->end);
}

void conformance_accept(struct conformance_end *end, struct conformance_node *node,
                        struct sl_link_incoming *request)
{
    end->node = node;
    struct establish establish = {.end = end, .request = request};
    conformance_call(node, accept_on, &establish);
    assert_int_equal(establish.error, 0);
}

static bool end_is_connected(void *argument)
{
    return ((struct conformance_end *)argument)->connected_count > 0;
}

void conformance_await_connected(struct conformance_end *end)
{
    conformance_await(end->node, end_is_connected, end);
}

static bool end_is_closed(void *argument)
{
    return ((struct conformance_end *)argument)->closed_count > 0;
}

static void disconnect_on(void *argument)
{
    struct conformance_end *end = argument;
    if (end->closed_count == 0)
        conformance_ops(end->node->world)->disconnect(end->connection, -ECANCELED);
}

void conformance_disconnect(struct conformance_end *end)
{
    conformance_call(end->node, disconnect_on, end);
}

/* libfabric 1.17's tcp looks for completions of zero-copy sends when a socket has an error to tell,
 * finds none, and forgets the error: the end of the peer (its pull requests 10779 and 10813). Above
 * the link it is found by who waits for an answer. */
int conformance_await_closed(struct conformance_end *end)
{
    if (end->node->world->link->misreads_ends &&
        !await_for(end->node, MISREAD_NS, end_is_closed, end)) {
        fprintf(stderr, "libfabric's tcp has not noticed that its peer has gone\n");
        end->was_misread = true;
        conformance_disconnect(end);
    }
    conformance_await(end->node, end_is_closed, end);
    assert_int_equal(end->closed_count, 1);
    return end->reason;
}

static void end_free_on(void *argument)
{
    struct conformance_end *end = argument;
    conformance_ops(end->node->world)->connection_free(end->connection);
    for (unsigned i = 0; i < end->op_count; i++) {
        sl_buf_unref(end->ops[i]->buf);
        sl_buf_unref(end->ops[i]->capsule_buf);
        free(end->ops[i]);
    }
    end->op_count = 0;
}

void conformance_end_free(struct conformance_end *end)
{
    conformance_call(end->node, end_free_on, end);
}

void conformance_pair_open(struct conformance_world *world, struct conformance_end *a,
                           struct conformance_end *b)
{
    memset(a, 0, sizeof(*a));
    memset(b, 0, sizeof(*b));
    struct conformance_server server;
    conformance_server_open(&server, &world->nodes[1]);
    conformance_connect(a, &world->nodes[0], server.address, NULL, 10000);
    conformance_accept(b, &world->nodes[1], conformance_server_take(&server));
    conformance_await_connected(a);
    conformance_await_connected(b);
    conformance_server_close(&server);
}

void conformance_pair_close(struct conformance_end *a, struct conformance_end *b)
{
    conformance_disconnect(a);
    conformance_await_closed(a);
    conformance_await_closed(b);
    conformance_end_free(a);
    conformance_end_free(b);
}

/* ---- operations ---- */

static void op_done(struct sl_link_op *op)
{
    struct conformance_op *own = sl_container_of(op, struct conformance_op, op);
    struct conformance_world *world = own->end->node->world;
    CONFORMANCE_CHECK(world, sl_reactor_self() == own->end->node->reactor);
    CONFORMANCE_CHECK(world, own->end->closed_count == 0);
    own->done_count++;
    own->done_order = ++own->end->done_count;
    SL_ASSERT(own->done_count == own->posted_count);
    if (own->on_done != NULL)
        own->on_done(own);
}

void conformance_op_fill(struct conformance_op *op, struct conformance_end *end,
                         enum sl_link_opcode opcode, uint32_t capsule_bytes, uint32_t payload_bytes)
{
    op->end = end;
    op->op.opcode = opcode;
    op->op.span_count = 0;
    if (op->capsule_buf == NULL) {
        op->capsule_buf =
            sl_buf_alloc(end->node->memory, SL_CAPSULE_BYTES_MAX, SL_RESERVE_CHECKPOINT);
        SL_ASSERT(op->capsule_buf != NULL);
        op->capsule = op->capsule_buf->data;
    }
    if (opcode == SL_LINK_SEND || opcode == SL_LINK_RECEIVE) {
        if (opcode == SL_LINK_RECEIVE)
            capsule_bytes = SL_CAPSULE_BYTES_MAX;
        op->op.spans[op->op.span_count++] = sl_buf_span(op->capsule_buf, 0, capsule_bytes);
    }
    if (payload_bytes == 0)
        return;
    if (op->buf == NULL)
        op->buf = sl_buf_alloc(end->node->memory, payload_bytes, SL_RESERVE_CHECKPOINT);
    CONFORMANCE_CHECK(end->node->world, op->buf != NULL);
    op->op.spans[op->op.span_count++] = sl_buf_span(op->buf, 0, payload_bytes);
}

struct op_new {
    struct conformance_op *op;
    struct conformance_end *end;
    enum sl_link_opcode opcode;
    uint32_t capsule_bytes;
    uint32_t payload_bytes;
};

static void op_new_on(void *argument)
{
    struct op_new *new = argument;
    conformance_op_fill(new->op, new->end, new->opcode, new->capsule_bytes, new->payload_bytes);
    SL_ASSERT(new->end->op_count < CONFORMANCE_OPS_MAX);
    new->end->ops[new->end->op_count++] = new->op;
}

struct conformance_op *conformance_op_new(struct conformance_end *end, enum sl_link_opcode opcode,
                                          uint32_t capsule_bytes, uint32_t payload_bytes)
{
    struct conformance_op *op = calloc(1, sizeof(*op));
    assert_non_null(op);
    struct op_new new = {op, end, opcode, capsule_bytes, payload_bytes};
    conformance_call(end->node, op_new_on, &new);
    return op;
}

struct post {
    struct conformance_op *const *ops;
    unsigned op_count;
};

void conformance_op_post(struct conformance_op *op)
{
    unsigned before = op->done_count;
    op->op.done = op_done;
    op->posted_count++;
    conformance_ops(op->end->node->world)->post(op->end->connection, &op->op);
    CONFORMANCE_CHECK(op->end->node->world, op->done_count == before);
}

static void post_on(void *argument)
{
    struct post *post = argument;
    for (unsigned i = 0; i < post->op_count; i++)
        conformance_op_post(post->ops[i]);
}

void conformance_post(struct conformance_op *const *ops, unsigned op_count)
{
    struct post post = {ops, op_count};
    conformance_call(ops[0]->end->node, post_on, &post);
}

void conformance_post_one(struct conformance_op *op)
{
    conformance_post(&op, 1);
}

static bool op_is_done(void *argument)
{
    return ((struct conformance_op *)argument)->done_count > 0;
}

void conformance_await_done(struct conformance_op *op)
{
    conformance_await(op->end->node, op_is_done, op);
}

struct done_count {
    const struct conformance_op *op;
    unsigned count;
};

static void done_count_on(void *argument)
{
    struct done_count *done_count = argument;
    done_count->count = done_count->op->done_count;
}

unsigned conformance_done_count(struct conformance_op *op)
{
    struct done_count done_count = {op, 0};
    conformance_call(op->end->node, done_count_on, &done_count);
    return done_count.count;
}

static void target_open_on(void *argument)
{
    struct conformance_target *target = argument;
    struct conformance_node *node = target->node;
    target->buf = sl_buf_alloc(node->memory, target->length_bytes, SL_RESERVE_CHECKPOINT);
    CONFORMANCE_CHECK(node->world, target->buf != NULL);
    target->error = conformance_ops(node->world)
                        ->describe(node->domain, target->buf->region, target->buf->data,
                                   target->length_bytes, &target->piece);
}

void conformance_target_open(struct conformance_target *target, struct conformance_node *node,
                             uint32_t length_bytes)
{
    *target = (struct conformance_target){.node = node, .length_bytes = length_bytes};
    conformance_call(node, target_open_on, target);
}

struct target_fill {
    uint8_t *data;
    uint32_t length_bytes;
    uint64_t seed;
};

static void target_fill_on(void *argument)
{
    const struct target_fill *fill = argument;
    conformance_pattern_fill(fill->data, fill->length_bytes, fill->seed);
}

void conformance_target_fill(struct conformance_target *target, uint32_t offset_bytes,
                             uint32_t length_bytes, uint64_t seed)
{
    struct target_fill fill = {target->buf->data + offset_bytes, length_bytes, seed};
    conformance_call(target->node, target_fill_on, &fill);
}

static void target_close_on(void *argument)
{
    struct conformance_target *target = argument;
    sl_buf_unref(target->buf);
}

void conformance_target_close(struct conformance_target *target)
{
    conformance_call(target->node, target_close_on, target);
}

static uint64_t pattern_step(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 24;
}

void conformance_pattern_fill(uint8_t *data, size_t length_bytes, uint64_t seed)
{
    for (size_t i = 0; i < length_bytes; i++)
        data[i] = (uint8_t)pattern_step(&seed);
}

bool conformance_pattern_is(const uint8_t *data, size_t length_bytes, uint64_t seed)
{
    for (size_t i = 0; i < length_bytes; i++)
        if (data[i] != (uint8_t)pattern_step(&seed))
            return false;
    return true;
}
