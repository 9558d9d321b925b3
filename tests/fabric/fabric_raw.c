/*
 * A client that speaks docs/wire.md without src/fabric, so that it can break any rule: it computes
 * the proofs, sequence numbers and checksums itself.
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
}

void raw_seal(union sl_capsule *capsule)
{
    capsule->header.crc = 0;
    capsule->header.crc = sl_crc32c(0, capsule, capsule->header.length_bytes);
}

void raw_send_as_is(struct raw *raw, const union sl_capsule *capsule, uint32_t capsule_bytes,
                    uint32_t payload_bytes)
{
    SL_ASSERT(raw->send_count < RAW_OPS);
    unsigned index = raw->send_count++;
    struct sl_link_op *op = &raw->sends[index];
    uint8_t *place = raw->send_buf->data + index * SL_CAPSULE_BYTES_MAX;
    memcpy(place, capsule, capsule_bytes);
    op->opcode = SL_LINK_SEND;
    op->done = send_done;
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
    if (raw->last.header.type == SL_CAPSULE_CHALLENGE)
        answer_challenge(raw);
    if (raw->last.header.type == SL_CAPSULE_WELCOME)
        raw->is_open = true;
    if (!raw->is_closed)
        raw_receive(raw, op);
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

void raw_open(struct raw *raw, struct world *world, const struct server *server)
{
    struct node *node = &world->nodes[0];
    const struct sl_link_ops *ops = world->link->ops;
    *raw = (struct raw){.node = node, .version_min = 1, .version_max = 1};
    sl_cluster_key_development(raw->key);
    struct sl_link_domain_config config = {.io = node->io, .memory = node->memory};
    assert_int_equal(ops->domain_open(&config, &raw->domain), 0);
    size_t bytes = RAW_OPS * SL_CAPSULE_BYTES_MAX;
    raw->receive_buf = sl_buf_alloc(node->memory, bytes, SL_RESERVE_INTAKE);
    raw->send_buf = sl_buf_alloc(node->memory, bytes, SL_RESERVE_INTAKE);
    raw->payload = sl_buf_alloc(node->memory, SL_IN_CAPSULE_BYTES_MAX, SL_RESERVE_INTAKE);
    uint32_t private[SL_LINK_PRIVATE_BYTES / 4] = {SL_FABRIC_MAGIC, 1, 0};
    assert_int_equal(ops->connect(raw->domain, server->address, (const uint8_t *)private,
                                  sl_reactor_clock_ns(node->reactor) + 5 * SL_NS_PER_S, &handlers,
                                  raw, &raw->link),
                     0);
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
    world_run_flag(world, &raw->is_connected);
}

static void put32(union sl_capsule *capsule, unsigned offset, uint32_t value)
{
    memcpy(capsule->bytes + offset, &value, sizeof(value));
}

void raw_hello(struct raw *raw)
{
    union sl_capsule *hello = &raw->hello;
    *hello = (union sl_capsule){.header = {.type = SL_CAPSULE_HELLO, .length_bytes = HELLO_BYTES}};
    put32(hello, 32, SL_FABRIC_MAGIC);
    put32(hello, 36, raw->version_min | (uint32_t)raw->version_max << 16);
    put32(hello, 40, SL_ROLE_TOOL);
    put32(hello, 44, 4);
    put32(hello, 52, SL_TRANSFER_BYTES_MAX);
    put32(hello, 56, 77);
    memset(hello->bytes + 64, 0x5a, 32);
    raw_send(raw, hello, 0);
}

void raw_handshake(struct raw *raw)
{
    raw_hello(raw);
    world_run_flag(raw->node->world, &raw->is_open);
    assert_int_equal(raw->wrong_proof_count, 0);
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
