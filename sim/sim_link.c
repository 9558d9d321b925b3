/*
 * The simulator's link (fabric/link.h): connections between the reactors of one simulator.
 *
 *   post ─► departure (captures local memory) ─► network: delay, hold ─► arrival (peer's node)
 *                      │                                                    │
 *                      └─ SEND, early WRITE: done()      READ, late WRITE: answer ─► done()
 *
 * A wire joins two ends and lives until both are freed and no packet is under way. Packets of one
 * direction keep their order, whatever delays them (rules 1, 2). An end that dies flushes its
 * operations in an event of its own, so never from inside a call (rule 4); packets that left before
 * still land at the other end while that lives: "late landing". Half of all wires complete a WRITE
 * when it left, half when it landed: users must live with both.
 *
 * Remote addresses are offsets in the region, keys are random, so nothing depends on real
 * addresses.
 */
#include "sim/sim_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"

struct key {
    uint64_t key;
    struct sl_region *region;
    struct sl_list node; /* domain->keys */
};

struct sl_link_domain {
    struct sim_io *node;
    struct sl_list of_node; /* node->domains */
    struct sl_memory *memory;
    struct sl_region_client client;
    struct sl_link_limits limits;
    unsigned arena_access;
    unsigned foreign_access;
    struct sl_list keys;
    unsigned user_count; /* connections and listeners */
};

struct sl_link_listener {
    struct sl_list node; /* sim->listeners */
    struct sl_link_domain *domain;
    char address[SL_ADDRESS_BYTES_MAX];
    void (*incoming)(void *owner, struct sl_link_incoming *request);
    void *owner;
};

enum end_state { END_UNUSED, END_CONNECTING, END_CONNECTED, END_DYING, END_CLOSED, END_FREED };

struct sl_link_connection {
    struct wire *wire;
    unsigned side; /* 0 connected, 1 accepted */
    enum end_state state;
    int reason;
    struct sl_link_domain *domain;
    const struct sl_link_handlers *handlers;
    void *owner;
    struct sl_list receives;       /* struct sl_link_op, posted */
    struct sl_list outstanding;    /* struct sl_link_op: SEND, READ, WRITE */
    struct sl_list held;           /* struct packet to this end, kept back by a partition */
    uint64_t departure_ns;         /* of the last packet from this end */
    uint64_t arrival_ns;           /* of the last packet to this end */
    char lost[SIM_NAME_BYTES_MAX]; /* the node that it was on, and that lost its power */
    struct sim_event connected;
    struct sim_event deadline;
    struct sim_event flush;
};

struct wire {
    struct sl_list node; /* sim->wires */
    struct sl_sim *sim;
    unsigned references; /* ends not freed, packets, the request */
    bool early_write;    /* a WRITE completes when it left */
    struct incoming *request;
    struct sl_link_connection ends[2];
    char address[SL_ADDRESS_BYTES_MAX];
    uint8_t private_data[SL_LINK_PRIVATE_BYTES];
};

enum packet_kind {
    PACKET_CONNECT,
    PACKET_ACCEPTED,
    PACKET_REJECTED,
    PACKET_SEND,
    PACKET_WRITE,
    PACKET_READ,
    PACKET_ATOMIC,
    PACKET_ANSWER,    /* to a READ or an atomic */
    PACKET_LANDED,    /* a late WRITE's acknowledgement */
    PACKET_VIOLATION, /* rule 5 */
    PACKET_CLOSED,
};
static const char *const packet_names[] = {"connect", "accepted",  "rejected", "send",
                                           "write",   "read",      "atomic",   "answer",
                                           "landed",  "violation", "closed"};

struct packet {
    struct sim_event event;
    struct sl_list node; /* held */
    struct wire *wire;
    unsigned to_side;
    enum packet_kind kind;
    struct sl_link_op *op; /* the initiator's; NULL once it is done or flushed */
    struct sl_remote_piece remote;
    enum sl_link_opcode atomic; /* and its operands */
    uint64_t operand, compare;
    uint32_t capsule_bytes;
    uint8_t capsule[SL_CAPSULE_BYTES_MAX];
    uint8_t *payload;
    uint32_t payload_bytes;
};

struct incoming {
    struct sl_link_incoming base;
    struct wire *wire;
    const struct sim_io *node; /* whose listener got it */
};

static void arrive(struct sim_event *event);
static void depart(struct sim_event *event);

/* ---- wires and packets ---- */

/* noinline: gcc 12 cannot see that an end that is still used holds a reference, and warns. */
__attribute__((noinline)) static void wire_unref(struct wire *wire)
{
    if (--wire->references > 0)
        return;
    sl_list_remove(&wire->node);
    free(wire);
}

static void packet_free(struct packet *packet)
{
    struct wire *wire = packet->wire;
    if (packet->op != NULL)
        packet->op->link_data[0] = NULL;
    free(packet->payload);
    free(packet);
    wire_unref(wire);
}

static void packet_drop(struct sim_event *event)
{
    packet_free(sl_container_of(event, struct packet, event));
}

static struct packet *packet_new(struct wire *wire, unsigned to_side, enum packet_kind kind)
{
    struct packet *packet = sim_calloc(1, sizeof(*packet));
    SL_ASSERT(packet != NULL);
    packet->wire = wire;
    packet->to_side = to_side;
    packet->kind = kind;
    packet->event.drop = packet_drop;
    sl_list_init(&packet->node);
    wire->references++;
    return packet;
}

/* The node that a packet goes to; for a request the listener's. NULL: nobody is there. */
static struct sim_io *destination(const struct packet *packet)
{
    const struct wire *wire = packet->wire;
    const struct sl_link_connection *end = &wire->ends[packet->to_side];
    if (packet->kind != PACKET_CONNECT)
        return end->domain != NULL && end->state < END_CLOSED ? end->domain->node : NULL;
    sl_list_for_each(node, &wire->sim->listeners)
    {
        struct sl_link_listener *listener = sl_list_entry(node, struct sl_link_listener, node);
        if (strcmp(listener->address, wire->address) == 0)
            return listener->domain->node;
    }
    return NULL;
}

/* A node of this name runs. */
static bool is_back(const struct sl_sim *sim, const char *name)
{
    for (unsigned i = 0; name[0] != '\0' && i < sim->node_count; i++) {
        if (sim->nodes[i] != NULL && strcmp(sim->nodes[i]->name, name) == 0)
            return true;
    }
    return false;
}

static void into_network(struct packet *packet, struct sim_io *from);

/* The answer of a node that knows nothing of the connection any more. */
static void close_from_afar(struct wire *wire, unsigned lost_side, struct sim_io *to)
{
    struct sl_link_connection *end = &wire->ends[1 - lost_side];
    if (end->domain != NULL && end->state < END_DYING)
        into_network(packet_new(wire, end->side, PACKET_CLOSED), to);
}

static void into_network(struct packet *packet, struct sim_io *from)
{
    struct wire *wire = packet->wire;
    struct sl_sim *sim = wire->sim;
    const struct sl_sim_network *network = &sim->config.network;
    struct sl_link_connection *end = &wire->ends[packet->to_side];
    struct sim_io *to = destination(packet);
    sim->statistics.packet_count++;
    if (to == NULL) {
        if (packet->kind == PACKET_CONNECT) {
            struct packet *answer = packet_new(wire, 0, PACKET_REJECTED);
            packet_free(packet);
            into_network(answer, from);
        } else if (packet->kind == PACKET_CLOSED && end->state == END_UNUSED) {
            end->reason = -ECONNRESET; /* the request that waits for an answer is worthless */
            packet_free(packet);
        } else {
            if (packet->kind != PACKET_CLOSED && is_back(sim, end->lost))
                close_from_afar(wire, packet->to_side, from);
            packet_free(packet);
        }
        return;
    }
    if (sim->partitioned[from->index][to->index] || !sl_list_is_empty(&end->held)) {
        sim->statistics.held_count++;
        sl_list_append(&end->held, &packet->node);
        return;
    }
    uint64_t delay = sim_random_between(sim, network->delay_min_ns, network->delay_max_ns);
    if (sim_random_hits(sim, network->slow_per_million)) {
        delay += network->slow_ns;
        sim->statistics.slow_count++;
    }
    end->arrival_ns = sl_max(end->arrival_ns, sim->now_ns + delay);
    packet->event.fire = arrive;
    sim_event_arm(&packet->event, to, end->arrival_ns, packet_names[packet->kind]);
}

/* To the other end, without waiting. */
static void notify_peer(struct sl_link_connection *end, enum packet_kind kind,
                        struct sl_link_op *op)
{
    struct packet *packet = packet_new(end->wire, 1 - end->side, kind);
    packet->op = op;
    if (op != NULL)
        op->link_data[0] = packet;
    into_network(packet, end->domain->node);
}

static void drop_held(struct sl_link_connection *end)
{
    struct sl_list *node;
    while ((node = sl_list_pop(&end->held)) != NULL)
        packet_free(sl_list_entry(node, struct packet, node));
}

/* ---- death ---- */

static void complete(struct sl_link_op *op, int status)
{
    if (op->link_data[0] != NULL)
        ((struct packet *)op->link_data[0])->op = NULL;
    op->link_data[0] = NULL;
    sl_list_remove(&op->node);
    op->status = status;
    op->done(op);
}

static void die(struct sl_link_connection *end, int reason, bool tell_peer)
{
    if (end->state != END_CONNECTING && end->state != END_CONNECTED)
        return;
    struct sl_sim *sim = end->wire->sim;
    end->state = END_DYING;
    end->reason = reason;
    sim_event_cancel(&end->connected);
    sim_event_cancel(&end->deadline);
    /* What left already may still land over there, but nobody here waits for it. */
    sl_list_for_each(node, &end->outstanding)
    {
        struct sl_link_op *op = sl_list_entry(node, struct sl_link_op, node);
        if (op->link_data[0] != NULL)
            ((struct packet *)op->link_data[0])->op = NULL;
        op->link_data[0] = NULL;
    }
    if (tell_peer)
        notify_peer(end, PACKET_CLOSED, NULL);
    uint64_t delay = sim_random_between(sim, 100, 10 * SL_NS_PER_US);
    sim_event_arm(&end->flush, end->domain->node, sim->now_ns + delay, "flush");
}

/* done() of one operation may post the next, which is flushed here too. */
static void flush(struct sim_event *event)
{
    struct sl_link_connection *end = sl_container_of(event, struct sl_link_connection, flush);
    struct sl_list *node;
    while ((node = sl_list_first(&end->outstanding)) != NULL ||
           (node = sl_list_first(&end->receives)) != NULL) {
        struct sl_link_op *op = sl_list_entry(node, struct sl_link_op, node);
        op->capsule_bytes = op->payload_bytes = 0;
        complete(op, -ECONNRESET);
    }
    if (end->state != END_DYING)
        return; /* posted after closed() */
    end->state = END_CLOSED;
    drop_held(end);
    sl_sim_trace(end->wire->sim, &end->domain->node->io, "closed", (uint64_t)-end->reason, 0);
    end->handlers->closed(end->owner, end, end->reason);
}

/* ---- one-sided access ---- */

static unsigned access_of(const struct sl_link_domain *domain, const struct sl_region *region)
{
    unsigned access = region->foreign ? domain->foreign_access : domain->arena_access;
    return region->writable ? access : access & ~(unsigned)SL_ACCESS_REMOTE_WRITE;
}

/* The memory of `domain` that a peer names, or NULL. */
static uint8_t *reach(struct sl_link_domain *domain, const struct sl_remote_piece *remote,
                      uint32_t length_bytes, unsigned access)
{
    sl_list_for_each(node, &domain->keys)
    {
        struct key *key = sl_list_entry(node, struct key, node);
        if (key->key != remote->key)
            continue;
        uint64_t size = key->region->length_bytes;
        if ((access_of(domain, key->region) & access) != access || remote->address > size ||
            length_bytes > size - remote->address || length_bytes > remote->length_bytes)
            return NULL;
        return key->region->base + remote->address;
    }
    return NULL;
}

static uint32_t total_bytes(const struct sl_link_op *op, unsigned from)
{
    uint32_t total = 0;
    for (unsigned i = from; i < op->span_count; i++)
        total += op->spans[i].length_bytes;
    return total;
}

static void gather(struct packet *packet, const struct sl_link_op *op, unsigned from)
{
    packet->payload_bytes = total_bytes(op, from);
    packet->payload = sim_malloc(packet->payload_bytes + 1);
    SL_ASSERT(packet->payload != NULL);
    uint8_t *to = packet->payload;
    for (unsigned i = from; i < op->span_count; i++) {
        memcpy(to, op->spans[i].data, op->spans[i].length_bytes);
        to += op->spans[i].length_bytes;
    }
}

static void scatter(const struct packet *packet, const struct sl_link_op *op)
{
    const uint8_t *from = packet->payload;
    for (unsigned i = 0; i < op->span_count; i++) {
        memcpy(op->spans[i].data, from, op->spans[i].length_bytes);
        from += op->spans[i].length_bytes;
    }
}

/* ---- departures ---- */

static void depart(struct sim_event *event)
{
    struct packet *packet = sl_container_of(event, struct packet, event);
    struct sl_link_connection *end = &packet->wire->ends[1 - packet->to_side];
    struct sl_sim *sim = packet->wire->sim;
    struct sl_link_op *op = packet->op;
    if (op == NULL) { /* flushed before it left */
        packet_free(packet);
        return;
    }
    if (sim_random_hits(sim, sim->config.network.reset_per_million)) {
        sim->statistics.reset_count++;
        die(end, -ECONNRESET, true);
        packet_free(packet);
        return;
    }
    bool is_done = false;
    if (packet->kind == PACKET_SEND) {
        packet->capsule_bytes = op->spans[0].length_bytes;
        memcpy(packet->capsule, op->spans[0].data, packet->capsule_bytes);
        gather(packet, op, 1);
        is_done = true;
    } else {
        packet->remote = op->remote;
        packet->atomic = op->opcode;
        packet->operand = op->operand;
        packet->compare = op->compare;
        if (packet->kind == PACKET_WRITE) {
            gather(packet, op, 0);
            is_done = packet->wire->early_write;
        } else {
            packet->payload_bytes = total_bytes(op, 0);
        }
    }
    struct sim_io *from = end->domain->node;
    into_network(packet, from);
    if (is_done)
        complete(op, 0);
}

static void check_op(const struct sl_link_domain *domain, const struct sl_link_op *op)
{
    const struct sl_link_limits *limits = &domain->limits;
    if (op->opcode == SL_LINK_SEND) {
        SL_ASSERT(op->span_count >= 1 && op->span_count <= limits->send_spans_max);
        SL_ASSERT(op->spans[0].length_bytes > 0 &&
                  op->spans[0].length_bytes <= SL_CAPSULE_BYTES_MAX);
        for (unsigned i = 1; i < op->span_count; i++)
            SL_ASSERT(sl_is_aligned((uintptr_t)op->spans[i].data, SL_BLOCK_BYTES));
    } else if (op->opcode == SL_LINK_RECEIVE) {
        SL_ASSERT(op->span_count == 1 || op->span_count == 2);
        SL_ASSERT(op->spans[0].length_bytes == SL_CAPSULE_BYTES_MAX);
    } else {
        SL_ASSERT(op->span_count <= limits->local_spans_max);
        SL_ASSERT(total_bytes(op, 0) <= limits->transfer_bytes_max);
        SL_ASSERT(op->opcode < SL_LINK_FETCH_ADD || total_bytes(op, 0) == sizeof(uint64_t));
    }
}

static void post(struct sl_link_connection *end, struct sl_link_op *op)
{
    struct sl_sim *sim = end->wire->sim;
    SL_ASSERT(end->state != END_UNUSED && end->state != END_FREED);
    check_op(end->domain, op);
    op->link_data[0] = NULL;
    sl_list_append(op->opcode == SL_LINK_RECEIVE ? &end->receives : &end->outstanding, &op->node);
    if (end->state >= END_DYING) {
        if (!end->flush.armed)
            sim_event_arm(&end->flush, end->domain->node, sim->now_ns, "flush");
        return;
    }
    if (op->opcode == SL_LINK_RECEIVE)
        return;
    static const enum packet_kind kinds[] = {[SL_LINK_SEND] = PACKET_SEND,
                                             [SL_LINK_READ] = PACKET_READ,
                                             [SL_LINK_WRITE] = PACKET_WRITE,
                                             [SL_LINK_FETCH_ADD] = PACKET_ATOMIC,
                                             [SL_LINK_COMPARE_SWAP] = PACKET_ATOMIC};
    struct packet *packet = packet_new(end->wire, 1 - end->side, kinds[op->opcode]);
    packet->op = op;
    op->link_data[0] = packet;
    packet->event.fire = depart;
    uint64_t at = sim->now_ns + sim_random_between(sim, 0, 2 * SL_NS_PER_US);
    end->departure_ns = sl_max(end->departure_ns, at);
    sim_event_arm(&packet->event, end->domain->node, end->departure_ns, "depart");
}

/* ---- arrivals ---- */

static void arrive_connect(struct wire *wire)
{
    sl_list_for_each(node, &wire->sim->listeners)
    {
        struct sl_link_listener *listener = sl_list_entry(node, struct sl_link_listener, node);
        if (strcmp(listener->address, wire->address) != 0)
            continue;
        struct incoming *request = sim_calloc(1, sizeof(*request));
        SL_ASSERT(request != NULL);
        request->base.ops = &sl_link_sim;
        memcpy(request->base.private_data, wire->private_data, SL_LINK_PRIVATE_BYTES);
        snprintf(request->base.peer, sizeof(request->base.peer), "%s",
                 wire->ends[0].domain->node->name);
        request->wire = wire;
        request->node = listener->domain->node;
        wire->request = request;
        wire->references++;
        listener->incoming(listener->owner, &request->base);
        return;
    }
    struct packet *answer = packet_new(wire, 0, PACKET_REJECTED);
    into_network(answer, wire->ends[0].domain->node);
}

static void arrive_send(struct sl_link_connection *end, struct packet *packet)
{
    struct sl_list *node = sl_list_first(&end->receives);
    struct sl_link_op *op = node != NULL ? sl_list_entry(node, struct sl_link_op, node) : NULL;
    uint32_t room = op != NULL && op->span_count == 2 ? op->spans[1].length_bytes : 0;
    if (op == NULL || packet->payload_bytes > room) {
        die(end, -SL_E_PROTOCOL, true);
        return;
    }
    memcpy(op->spans[0].data, packet->capsule, packet->capsule_bytes);
    if (packet->payload_bytes > 0)
        memcpy(op->spans[1].data, packet->payload, packet->payload_bytes);
    op->capsule_bytes = packet->capsule_bytes;
    op->payload_bytes = packet->payload_bytes;
    complete(op, 0);
}

static void answer_with(struct sl_link_connection *end, const struct packet *packet,
                        struct sl_link_op *op, const uint8_t *memory)
{
    struct packet *answer = packet_new(end->wire, 1 - end->side, PACKET_ANSWER);
    answer->op = op;
    op->link_data[0] = answer;
    answer->payload_bytes = packet->payload_bytes;
    answer->payload = sim_malloc(packet->payload_bytes + 1);
    SL_ASSERT(answer->payload != NULL);
    memcpy(answer->payload, memory, packet->payload_bytes);
    into_network(answer, end->domain->node);
}

/* Answers what stood there before. */
static uint64_t execute_atomic(const struct packet *packet, uint8_t *memory)
{
    uint64_t before, after;
    memcpy(&before, memory, sizeof(before));
    if (packet->atomic == SL_LINK_FETCH_ADD)
        after = before + packet->operand;
    else
        after = before == packet->compare ? packet->operand : before;
    memcpy(memory, &after, sizeof(after));
    return before;
}

static void arrive_one_sided(struct sl_link_connection *end, struct packet *packet)
{
    static const unsigned access[] = {[PACKET_READ] = SL_ACCESS_REMOTE_READ,
                                      [PACKET_WRITE] = SL_ACCESS_REMOTE_WRITE,
                                      [PACKET_ATOMIC] =
                                          SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE};
    uint8_t *memory =
        reach(end->domain, &packet->remote, packet->payload_bytes, access[packet->kind]);
    struct sl_link_op *op = packet->op;
    packet->op = NULL;
    if (memory == NULL) {
        notify_peer(end, PACKET_VIOLATION, op);
        die(end, -SL_E_KEY, false);
        return;
    }
    if (packet->kind == PACKET_READ) {
        if (op != NULL)
            answer_with(end, packet, op, memory);
        return;
    }
    if (packet->kind == PACKET_ATOMIC) {
        uint64_t before = execute_atomic(packet, memory);
        if (op != NULL)
            answer_with(end, packet, op, (const uint8_t *)&before);
        return;
    }
    memcpy(memory, packet->payload, packet->payload_bytes);
    if (end->wire->ends[1 - end->side].state >= END_CLOSED)
        end->wire->sim->statistics.late_landing_count++;
    if (op != NULL)
        notify_peer(end, PACKET_LANDED, op);
}

static void arrive(struct sim_event *event)
{
    struct packet *packet = sl_container_of(event, struct packet, event);
    struct wire *wire = packet->wire;
    struct sl_link_connection *end = &wire->ends[packet->to_side];
    sl_sim_trace(wire->sim, &event->node->io, packet_names[packet->kind],
                 sl_crc32c(0, packet->capsule, packet->capsule_bytes),
                 packet->payload != NULL ? sl_crc32c(0, packet->payload, packet->payload_bytes)
                                         : packet->payload_bytes);
    if (packet->kind == PACKET_CONNECT) {
        if (wire->ends[0].state == END_CONNECTING)
            arrive_connect(wire);
    } else if (packet->kind == PACKET_ACCEPTED && end->state == END_CONNECTING) {
        end->state = END_CONNECTED;
        sim_event_cancel(&end->deadline);
        end->handlers->connected(end->owner, end);
    } else if (packet->kind == PACKET_REJECTED && end->state == END_CONNECTING) {
        die(end, -ECONNREFUSED, false);
    } else if (packet->kind == PACKET_CLOSED) {
        die(end, -ECONNRESET, false);
    } else if (end->state == END_CONNECTED) {
        struct sl_link_op *op = packet->op;
        if (packet->kind == PACKET_SEND) {
            arrive_send(end, packet);
        } else if (packet->kind == PACKET_READ || packet->kind == PACKET_WRITE ||
                   packet->kind == PACKET_ATOMIC) {
            arrive_one_sided(end, packet);
        } else if (packet->kind == PACKET_ANSWER && op != NULL) {
            scatter(packet, op);
            complete(op, 0);
        } else if (packet->kind == PACKET_LANDED && op != NULL) {
            complete(op, 0);
        } else if (packet->kind == PACKET_VIOLATION) {
            if (op != NULL)
                complete(op, -SL_E_KEY);
            die(end, -SL_E_KEY, false);
        }
    }
    packet_free(packet);
}

/* ---- connections ---- */

static void connected(struct sim_event *event)
{
    struct sl_link_connection *end = sl_container_of(event, struct sl_link_connection, connected);
    end->handlers->connected(end->owner, end);
}

static void deadline_passed(struct sim_event *event)
{
    struct sl_link_connection *end = sl_container_of(event, struct sl_link_connection, deadline);
    die(end, -ETIMEDOUT, true);
}

static void end_init(struct wire *wire, unsigned side, struct sl_link_domain *domain,
                     const struct sl_link_handlers *handlers, void *owner)
{
    struct sl_link_connection *end = &wire->ends[side];
    end->domain = domain;
    end->handlers = handlers;
    end->owner = owner;
    end->connected.fire = connected;
    end->deadline.fire = deadline_passed;
    end->flush.fire = flush;
    domain->user_count++;
    wire->references++;
}

static int link_connect(struct sl_link_domain *domain, const char *address,
                        const uint8_t *private_data, uint64_t deadline_ns,
                        const struct sl_link_handlers *handlers, void *owner,
                        struct sl_link_connection **connection)
{
    struct sl_sim *sim = domain->node->sim;
    struct wire *wire = sim_calloc(1, sizeof(*wire));
    if (wire == NULL)
        return -ENOMEM;
    wire->sim = sim;
    wire->early_write = sl_sim_random(sim) % 2 == 0;
    snprintf(wire->address, sizeof(wire->address), "%s", address);
    if (private_data != NULL)
        memcpy(wire->private_data, private_data, SL_LINK_PRIVATE_BYTES);
    sl_list_append(&sim->wires, &wire->node);
    for (unsigned i = 0; i < 2; i++) {
        wire->ends[i].wire = wire;
        wire->ends[i].side = i;
        sl_list_init(&wire->ends[i].receives);
        sl_list_init(&wire->ends[i].outstanding);
        sl_list_init(&wire->ends[i].held);
    }
    struct sl_link_connection *end = &wire->ends[0];
    end_init(wire, 0, domain, handlers, owner);
    end->state = END_CONNECTING;
    if (deadline_ns != UINT64_MAX)
        sim_event_arm(&end->deadline, domain->node, sim_time_of(domain->node, deadline_ns),
                      "deadline");
    into_network(packet_new(wire, 1, PACKET_CONNECT), domain->node);
    *connection = end;
    return 0;
}

static int link_accept(struct sl_link_domain *domain, struct sl_link_incoming *base,
                       const struct sl_link_handlers *handlers, void *owner,
                       struct sl_link_connection **connection)
{
    struct incoming *request = sl_container_of(base, struct incoming, base);
    struct wire *wire = request->wire;
    struct sl_link_connection *end = &wire->ends[1];
    bool is_gone = end->reason != 0;
    wire->request = NULL;
    free(request);
    end_init(wire, 1, domain, handlers, owner);
    end->state = END_CONNECTED;
    wire_unref(wire); /* the request's; the end holds its own */
    if (is_gone) {
        die(end, -ECONNRESET, false);
    } else {
        notify_peer(end, PACKET_ACCEPTED, NULL);
        sim_event_arm(&end->connected, domain->node, wire->sim->now_ns, "connected");
    }
    *connection = end;
    return 0;
}

static void link_reject(struct sl_link_incoming *base)
{
    struct incoming *request = sl_container_of(base, struct incoming, base);
    struct wire *wire = request->wire;
    wire->request = NULL;
    free(request);
    if (wire->ends[0].state == END_CONNECTING)
        into_network(packet_new(wire, 0, PACKET_REJECTED), wire->ends[0].domain->node);
    wire_unref(wire);
}

static void link_disconnect(struct sl_link_connection *end, int reason)
{
    die(end, reason, true);
}

static void connection_free(struct sl_link_connection *end)
{
    SL_ASSERT(end->state == END_CLOSED);
    SL_ASSERT(sl_list_is_empty(&end->outstanding) && sl_list_is_empty(&end->receives));
    end->state = END_FREED;
    end->domain->user_count--;
    end->domain = NULL;
    struct wire *wire = end->wire;
    struct sl_link_connection *other = &wire->ends[1 - end->side];
    if (other->state == END_UNUSED || other->state == END_FREED)
        drop_held(other);
    wire_unref(wire);
}

/* ---- listeners ---- */

static int link_listen(struct sl_link_domain *domain, const char *address,
                       void (*incoming)(void *owner, struct sl_link_incoming *request), void *owner,
                       char *bound, struct sl_link_listener **result)
{
    struct sl_sim *sim = domain->node->sim;
    struct sl_link_listener *listener = sim_calloc(1, sizeof(*listener));
    if (listener == NULL)
        return -ENOMEM;
    size_t length = strlen(address);
    if (length >= 2 && strcmp(address + length - 2, ":0") == 0)
        snprintf(listener->address, sizeof(listener->address), "%.*s:%llu", (int)length - 2,
                 address, (unsigned long long)sim->next_port++);
    else
        snprintf(listener->address, sizeof(listener->address), "%s", address);
    sl_list_for_each(node, &sim->listeners)
    {
        if (strcmp(sl_list_entry(node, struct sl_link_listener, node)->address,
                   listener->address) == 0) {
            free(listener);
            return -EADDRINUSE;
        }
    }
    listener->domain = domain;
    listener->incoming = incoming;
    listener->owner = owner;
    domain->user_count++;
    sl_list_append(&sim->listeners, &listener->node);
    if (bound != NULL)
        snprintf(bound, SL_ADDRESS_BYTES_MAX, "%s", listener->address);
    *result = listener;
    return 0;
}

static void listener_close(struct sl_link_listener *listener)
{
    listener->domain->user_count--;
    sl_list_remove(&listener->node);
    free(listener);
}

/* ---- domains ---- */

static int attach(struct sl_region_client *client, struct sl_region *region)
{
    struct sl_link_domain *domain = sl_container_of(client, struct sl_link_domain, client);
    struct key *key = sim_calloc(1, sizeof(*key));
    if (key == NULL)
        return -ENOMEM;
    key->key = sl_sim_random(domain->node->sim);
    key->region = region;
    sl_list_append(&domain->keys, &key->node);
    region->client_data[client->index] = key;
    return 0;
}

static void detach(struct sl_region_client *client, struct sl_region *region)
{
    struct key *key = region->client_data[client->index];
    if (key == NULL)
        return;
    region->client_data[client->index] = NULL;
    sl_list_remove(&key->node);
    free(key);
}

static int domain_open(const struct sl_link_domain_config *config, struct sl_link_domain **result)
{
    if (config->io->ops != &sim_io_ops)
        return -ENODEV;
    struct sl_link_domain *domain = sim_calloc(1, sizeof(*domain));
    if (domain == NULL)
        return -ENOMEM;
    domain->node = (struct sim_io *)(void *)config->io;
    domain->memory = config->memory;
    domain->arena_access = config->arena_access;
    domain->foreign_access = config->foreign_access;
    const struct sl_sim_network *network = &domain->node->sim->config.network;
    domain->limits = (struct sl_link_limits){
        .send_spans_max = network->send_spans_max,
        .local_spans_max = network->local_spans_max,
        .transfer_bytes_max = network->transfer_bytes_max,
        .queue_depth = network->queue_depth,
        .atomics = true,
    };
    sl_list_init(&domain->keys);
    sl_list_init(&domain->of_node);
    domain->client.attach = attach;
    domain->client.detach = detach;
    int error = sl_region_set_add_client(sl_memory_regions(config->memory), &domain->client);
    if (error < 0) {
        free(domain);
        return error;
    }
    sl_list_append(&domain->node->domains, &domain->of_node);
    *result = domain;
    return 0;
}

static void domain_close(struct sl_link_domain *domain)
{
    SL_ASSERT(domain->user_count == 0);
    sl_region_set_remove_client(sl_memory_regions(domain->memory), &domain->client);
    SL_ASSERT(sl_list_is_empty(&domain->keys));
    sl_list_remove(&domain->of_node);
    free(domain);
}

static const struct sl_link_limits *link_limits(struct sl_link_domain *domain)
{
    return &domain->limits;
}

static int describe(struct sl_link_domain *domain, struct sl_region *region, const void *data,
                    uint32_t length_bytes, struct sl_remote_piece *piece)
{
    const struct key *key = region->client_data[domain->client.index];
    if (key == NULL || access_of(domain, region) == 0 ||
        !sl_region_contains(region, data, length_bytes))
        return -SL_E_KEY;
    *piece = (struct sl_remote_piece){
        .address = (uint64_t)((const uint8_t *)data - region->base),
        .key = key->key,
        .length_bytes = length_bytes,
    };
    return 0;
}

const struct sl_link_ops sl_link_sim = {
    .name = "sim",
    .maps = false,
    .domain_open = domain_open,
    .domain_close = domain_close,
    .limits = link_limits,
    .listen = link_listen,
    .listener_close = listener_close,
    .connect = link_connect,
    .accept = link_accept,
    .reject = link_reject,
    .post = post,
    .disconnect = link_disconnect,
    .connection_free = connection_free,
    .describe = describe,
};

/* ---- faults ---- */

static bool joins(const struct wire *wire, const struct sl_io *a, const struct sl_io *b)
{
    const struct sl_link_domain *first = wire->ends[0].domain;
    const struct sl_link_domain *second = wire->ends[1].domain;
    if (first == NULL || second == NULL)
        return false;
    return (&first->node->io == a && &second->node->io == b) ||
           (&first->node->io == b && &second->node->io == a);
}

void sl_sim_reset(struct sl_sim *sim, struct sl_io *a, struct sl_io *b)
{
    sl_list_for_each(node, &sim->wires)
    {
        struct wire *wire = sl_list_entry(node, struct wire, node);
        if (!joins(wire, a, b))
            continue;
        sim->statistics.reset_count++;
        die(&wire->ends[0], -ECONNRESET, false);
        die(&wire->ends[1], -ECONNRESET, false);
    }
}

/* Sends on what a partition kept back and keeps back no more. */
void sim_link_release_held(struct sl_sim *sim)
{
    sl_list_for_each(node, &sim->wires)
    {
        struct wire *wire = sl_list_entry(node, struct wire, node);
        wire->references++;
        for (unsigned side = 0; side < 2; side++) {
            struct sl_link_domain *from = wire->ends[1 - side].domain;
            struct sl_list held;
            sl_list_init(&held);
            sl_list_splice(&held, &wire->ends[side].held);
            struct sl_list *next;
            while ((next = sl_list_pop(&held)) != NULL) {
                struct packet *packet = sl_list_entry(next, struct packet, node);
                struct sim_io *to = destination(packet);
                if (from != NULL)
                    into_network(packet, from->node);
                else if (to != NULL) /* the sender is gone, and cut off from nobody */
                    into_network(packet, to);
                else
                    packet_free(packet);
            }
        }
        wire_unref(wire);
    }
}

/* ---- crashes ---- */

/* Operations of a dead node: packets under way forget them. */
static void forget_operations(struct sl_list *list)
{
    struct sl_list *node;
    while ((node = sl_list_pop(list)) != NULL) {
        struct sl_link_op *op = sl_list_entry(node, struct sl_link_op, node);
        if (op->link_data[0] != NULL)
            ((struct packet *)op->link_data[0])->op = NULL;
    }
}

static void end_crash(struct sl_link_connection *end, bool power)
{
    struct sim_io *node = end->domain->node;
    struct wire *wire = end->wire;
    struct sl_link_connection *other = &wire->ends[1 - end->side];
    bool was_alive = end->state == END_CONNECTING || end->state == END_CONNECTED;
    forget_operations(&end->outstanding);
    forget_operations(&end->receives);
    sim_event_cancel(&end->connected);
    sim_event_cancel(&end->deadline);
    sim_event_cancel(&end->flush);
    drop_held(end);
    if (was_alive && !power)
        notify_peer(end, PACKET_CLOSED, NULL);
    if (power)
        snprintf(end->lost, sizeof(end->lost), "%s", node->name);
    end->state = END_FREED;
    end->domain = NULL;
    if (other->state == END_UNUSED || other->state == END_FREED)
        drop_held(other);
    wire_unref(wire);
}

static void request_crash(struct wire *wire, struct sim_io *node, bool power)
{
    free(wire->request);
    wire->request = NULL;
    if (!power && wire->ends[0].state == END_CONNECTING)
        into_network(packet_new(wire, 0, PACKET_REJECTED), node);
    wire_unref(wire);
}

static void domain_crash(struct sl_link_domain *domain)
{
    struct sl_list *node;
    while ((node = sl_list_pop(&domain->keys)) != NULL)
        free(sl_list_entry(node, struct key, node));
    sl_list_remove(&domain->of_node);
    free(domain);
}

void sim_link_crash(struct sim_io *node, bool power)
{
    struct sl_sim *sim = node->sim;
    sl_list_for_each(at, &sim->wires)
    {
        struct wire *wire = sl_list_entry(at, struct wire, node);
        wire->references++;
        for (unsigned side = 0; side < 2; side++) {
            if (wire->ends[side].domain != NULL && wire->ends[side].domain->node == node)
                end_crash(&wire->ends[side], power);
        }
        if (wire->request != NULL && wire->request->node == node)
            request_crash(wire, node, power);
        wire_unref(wire);
    }
    sl_list_for_each(at, &sim->listeners)
    {
        struct sl_link_listener *listener = sl_list_entry(at, struct sl_link_listener, node);
        if (listener->domain->node != node)
            continue;
        sl_list_remove(&listener->node);
        free(listener);
    }
    struct sl_list *first;
    while ((first = sl_list_first(&node->domains)) != NULL)
        domain_crash(sl_list_entry(first, struct sl_link_domain, of_node));
}
