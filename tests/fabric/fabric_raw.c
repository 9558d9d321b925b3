/*
 * A peer, client or listener, that speaks docs/wire.md without src/fabric, so that it can break any
 * rule: it computes the proofs, sequence numbers and checksums itself.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "fabric/cluster_key.h"
#include "fabric_world.h"

/* docs/wire.md, "Handshake". */
#define PART_OFFSET   32
#define PART_BYTES    64
#define PROOF_OFFSET  96
#define HELLO_BYTES   128
#define PROOF_CAPSULE 64

static void raw_receive(struct raw *raw, struct sl_link_op *op)
{
    raw->node->world->link->ops->post(raw->link, op);
}

static void send_done(struct sl_link_op *op)
{
    *(bool *)op->link_data[1] = false;
}

void raw_seal(union sl_capsule *capsule)
{
    capsule->header.crc = 0;
    capsule->header.crc = sl_crc32c(0, capsule, capsule->header.length_bytes);
}

void raw_send_as_is(struct raw *raw, const union sl_capsule *capsule, uint32_t capsule_bytes,
                    uint32_t payload_bytes)
{
    unsigned index = raw->send_count++ % RAW_OPS;
    SL_ASSERT(!raw->is_sending[index]);
    raw->is_sending[index] = true;
    struct sl_link_op *op = &raw->sends[index];
    uint8_t *place = raw->send_buf->data + index * SL_CAPSULE_BYTES_MAX;
    memcpy(place, capsule, capsule_bytes);
    op->opcode = SL_LINK_SEND;
    op->done = send_done;
    op->link_data[1] = &raw->is_sending[index];
    op->span_count = 1;
    op->spans[0] = sl_buf_span(raw->send_buf, index * SL_CAPSULE_BYTES_MAX, capsule_bytes);
    if (payload_bytes > 0)
        op->spans[op->span_count++] = sl_buf_span(raw->payload, 0, payload_bytes);
    raw->node->world->link->ops->post(raw->link, op);
}

void raw_send(struct raw *raw, union sl_capsule *capsule, uint32_t payload_bytes)
{
    capsule->header.version = 1;
    capsule->header.payload_bytes = payload_bytes;
    capsule->header.sequence = raw->sequence++;
    raw_seal(capsule);
    raw_send_as_is(raw, capsule, capsule->header.length_bytes, payload_bytes);
}

static void make_proof(const struct raw *raw, const char *label, uint8_t *proof)
{
    uint8_t text[64 + 2 * PART_BYTES];
    size_t length = strlen(label);
    unsigned proof_bytes = 32;
    memcpy(text, label, length);
    memcpy(text + length, raw->hello.bytes + PART_OFFSET, PART_BYTES);
    memcpy(text + length + PART_BYTES, raw->challenge.bytes + PART_OFFSET, PART_BYTES);
    length += 2 * PART_BYTES;
    assert_non_null(
        HMAC(EVP_sha256(), raw->key, SL_CLUSTER_KEY_BYTES, text, length, proof, &proof_bytes));
}

static void put32(union sl_capsule *capsule, unsigned offset, uint32_t value)
{
    memcpy(capsule->bytes + offset, &value, sizeof(value));
}

/* The body of HELLO and CHALLENGE, without the proof. */
static void describe(const struct raw *raw, union sl_capsule *capsule, uint8_t type)
{
    *capsule = (union sl_capsule){.header = {.type = type, .length_bytes = HELLO_BYTES}};
    put32(capsule, 32, SL_FABRIC_MAGIC);
    put32(capsule, 36, raw->version_min | (uint32_t)raw->version_max << 16);
    put32(capsule, 40, raw->listens ? SL_ROLE_TARGET : SL_ROLE_TOOL);
    put32(capsule, 44, raw->credits_offered);
    put32(capsule, 52, SL_TRANSFER_BYTES_MAX);
    put32(capsule, 56, 77);
    memset(capsule->bytes + 64, 0x5a, 32);
}

static void answer_hello(struct raw *raw)
{
    raw->hello = raw->last;
    describe(raw, &raw->challenge, SL_CAPSULE_CHALLENGE);
    make_proof(raw, "sluice fabric 1 listener", raw->challenge.bytes + PROOF_OFFSET);
    raw_send(raw, &raw->challenge, 0);
}

static void answer_proof(struct raw *raw)
{
    union sl_capsule welcome = {
        .header = {.type = SL_CAPSULE_WELCOME, .length_bytes = SL_CAPSULE_BYTES_MIN}};
    raw_send(raw, &welcome, 0);
    raw->is_open = true;
}

static void answer_challenge(struct raw *raw)
{
    union sl_capsule proof = {.header = {.type = SL_CAPSULE_PROOF, .length_bytes = PROOF_CAPSULE}};
    uint8_t expected[32];
    raw->challenge = raw->last;
    make_proof(raw, "sluice fabric 1 listener", expected);
    if (memcmp(raw->last.bytes + PROOF_OFFSET, expected, 32) != 0)
        raw->wrong_proof_count++;
    make_proof(raw, "sluice fabric 1 connecter", proof.bytes + 32);
    raw_send(raw, &proof, 0);
}

static void receive_again(struct raw *raw, struct sl_link_op *op)
{
    if (!raw->is_closed)
        raw_receive(raw, op);
}

static void receive_done(struct sl_link_op *op)
{
    struct raw *raw = op->link_data[1];
    if (op->status != 0)
        return;
    raw->received_count++;
    memset(&raw->last, 0, sizeof(raw->last));
    memcpy(raw->last.bytes, op->spans[0].data, op->capsule_bytes);
    raw->type_count[raw->last.header.type]++;
    raw->credits += raw->last.header.credits;
    if (raw->on_capsule != NULL && raw->on_capsule(raw))
        return receive_again(raw, op);
    if (raw->listens && raw->last.header.type == SL_CAPSULE_HELLO)
        answer_hello(raw);
    else if (raw->listens && raw->last.header.type == SL_CAPSULE_PROOF)
        answer_proof(raw);
    else if (!raw->listens && raw->last.header.type == SL_CAPSULE_CHALLENGE)
        answer_challenge(raw);
    else if (!raw->listens && raw->last.header.type == SL_CAPSULE_WELCOME)
        raw->is_open = true;
    receive_again(raw, op);
}

static void connected(void *owner, struct sl_link_connection *connection)
{
    ((struct raw *)owner)->is_connected = true;
}

static void closed(void *owner, struct sl_link_connection *connection, int reason)
{
    struct raw *raw = owner;
    raw->is_closed = true;
    raw->reason = reason;
}

static const struct sl_link_handlers handlers = {connected, closed};

static void raw_prepare(struct raw *raw, struct world *world)
{
    struct node *node = &world->nodes[0];
    const struct sl_link_ops *ops = world->link->ops;
    *raw = (struct raw){.node = node, .version_min = 1, .version_max = 1, .credits_offered = 4};
    sl_cluster_key_development(raw->key);
    struct sl_link_domain_config config = {
        .io = node->io, .memory = node->memory, .arena_access = world->config.raw_access};
    assert_int_equal(ops->domain_open(&config, &raw->domain), 0);
    size_t bytes = RAW_OPS * SL_CAPSULE_BYTES_MAX;
    raw->receive_buf = sl_buf_alloc(node->memory, bytes, SL_RESERVE_INTAKE);
    raw->send_buf = sl_buf_alloc(node->memory, bytes, SL_RESERVE_INTAKE);
    raw->payload = sl_buf_alloc(node->memory, SL_IN_CAPSULE_BYTES_MAX, SL_RESERVE_INTAKE);
}

static void raw_begin(struct raw *raw)
{
    for (unsigned i = 0; i < RAW_OPS; i++) {
        struct sl_link_op *op = &raw->receives[i];
        op->opcode = SL_LINK_RECEIVE;
        op->done = receive_done;
        op->link_data[1] = raw;
        op->span_count = 1;
        op->spans[0] =
            sl_buf_span(raw->receive_buf, i * SL_CAPSULE_BYTES_MAX, SL_CAPSULE_BYTES_MAX);
        raw_receive(raw, op);
    }
    world_run_flag(raw->node->world, &raw->is_connected);
}

void raw_open(struct raw *raw, struct world *world, const struct server *server)
{
    raw_prepare(raw, world);
    uint32_t private[SL_LINK_PRIVATE_BYTES / 4] = {SL_FABRIC_MAGIC, 1, 0};
    assert_int_equal(
        world->link->ops->connect(raw->domain, server->address, (const uint8_t *)private,
                                  sl_reactor_clock_ns(raw->node->reactor) + 5 * SL_NS_PER_S,
                                  &handlers, raw, &raw->link),
        0);
    raw_begin(raw);
}

void raw_accept(struct raw *raw, struct world *world, struct sl_link_incoming *incoming,
                bool (*on_capsule)(struct raw *raw))
{
    raw_prepare(raw, world);
    raw->listens = true;
    raw->on_capsule = on_capsule;
    assert_int_equal(world->link->ops->accept(raw->domain, incoming, &handlers, raw, &raw->link),
                     0);
    raw_begin(raw);
}

void raw_hello(struct raw *raw)
{
    describe(raw, &raw->hello, SL_CAPSULE_HELLO);
    raw_send(raw, &raw->hello, 0);
}

void raw_handshake(struct raw *raw)
{
    raw_hello(raw);
    world_run_flag(raw->node->world, &raw->is_open);
    assert_int_equal(raw->wrong_proof_count, 0);
}

void raw_send_bad(struct raw *raw, enum raw_bad bad, unsigned credits)
{
    union sl_capsule capsule = {
        .header = {.type = SL_CAPSULE_HEARTBEAT, .length_bytes = SL_CAPSULE_BYTES_MIN}};
    struct sl_capsule_header *header = &capsule.header;
    uint32_t capsule_bytes = SL_CAPSULE_BYTES_MIN;
    header->version = 1;
    header->sequence = raw->sequence;
    if (bad == RAW_BAD_GAP)
        header->sequence++;
    if (bad == RAW_BAD_REPLAY)
        header->sequence--;
    if (bad == RAW_BAD_TYPE)
        header->type = 200;
    if (bad == RAW_BAD_REQUEST_TYPE)
        header->type = 63;
    if (bad == RAW_BAD_HELLO_AGAIN)
        header->type = SL_CAPSULE_HELLO;
    if (bad == RAW_BAD_REPLY)
        header->type = SL_CAPSULE_REPLY;
    if (bad == RAW_BAD_CREDITS)
        header->credits = 1000;
    if (bad == RAW_BAD_LENGTH)
        header->length_bytes = 64;
    if (bad == RAW_BAD_VERSION)
        header->version = 77;
    if (bad == RAW_BAD_RESERVED)
        header->reserved = 1;
    if (bad == RAW_BAD_PAYLOAD_LENGTH)
        header->payload_bytes = 100;
    if (bad == RAW_BAD_SHORT)
        capsule_bytes = 20;
    if (bad == RAW_BAD_BEYOND_CREDITS) {
        header->type = SL_CAPSULE_IO;
        for (unsigned i = 0; i < credits; i++)
            raw_send(raw, &capsule, 0);
        header->sequence = raw->sequence;
    }
    raw_seal(&capsule);
    if (bad == RAW_BAD_CRC)
        header->crc ^= 1;
    raw_send_as_is(raw, &capsule, capsule_bytes, 0);
}

static void transfer_done(struct sl_link_op *op)
{
    struct raw *raw = sl_container_of(op, struct raw, transfer);
    raw->transfer_ended = true;
}

void raw_transfer(struct raw *raw, enum sl_link_opcode opcode, const struct sl_remote_piece *remote)
{
    raw->transfer_ended = false;
    raw->transfer = (struct sl_link_op){
        .opcode = opcode, .done = transfer_done, .span_count = 1, .remote = *remote};
    raw->transfer.spans[0] = sl_buf_span(raw->payload, 0, remote->length_bytes);
    raw->node->world->link->ops->post(raw->link, &raw->transfer);
}

void raw_disconnect(struct raw *raw)
{
    struct world *world = raw->node->world;
    world->link->ops->disconnect(raw->link, -ECANCELED);
    world_run_flag(world, &raw->is_closed);
}

void raw_close(struct raw *raw)
{
    struct world *world = raw->node->world;
    raw_disconnect(raw);
    world->link->ops->connection_free(raw->link);
    world->link->ops->domain_close(raw->domain);
    sl_buf_unref(raw->receive_buf);
    sl_buf_unref(raw->send_buf);
    sl_buf_unref(raw->payload);
}
