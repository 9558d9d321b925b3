/*
 * Fuzzes what a peer may send to the fabric: capsules before, in and after the handshake.
 *
 * One simulator with a server and a raw client lives for the whole run; each input is one
 * connection: byte 0   bit 0: the handshake is done first; bit 1: sequence, length and CRC are put
 * right records  {capsule bytes: 1, payload blocks: 1, capsule …} The server must not crash, must
 * end what breaks the protocol, and gets all its memory back.
 */
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/log.h"
#include "fabric/cluster_key.h"
#include "sim/sim.h"

#define OPS         64
#define PART_OFFSET 32
#define PART_BYTES  64

struct peer {
    struct sl_link_connection *link;
    bool is_connected, is_closed, is_open;
    uint64_t sequence;
    union sl_capsule hello, challenge;
    struct sl_link_op receives[OPS], sends[OPS];
    unsigned send_count;
};

static struct sl_sim *sim;
static struct sl_sim_node client, server;
static struct sl_fabric *fabric;
static struct sl_link_domain *domain;
static struct sl_buf *memory; /* OPS capsules to receive, OPS to send, then payload */
static uint8_t key[SL_CLUSTER_KEY_BYTES];
static uint64_t used_before_bytes;
static struct peer peer;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- the server ---- */

static void opened(void *owner, struct sl_connection *connection)
{
}

/* Believes what was checked, and answers. */
static void received(void *owner, struct sl_received *request)
{
    union sl_capsule reply = request->capsule;
    SL_ASSERT(request->capsule.header.length_bytes <= SL_CAPSULE_BYTES_MAX);
    SL_ASSERT(request->payload_bytes <= SL_IN_CAPSULE_BYTES_MAX);
    SL_ASSERT((request->payload != NULL) == (request->payload_bytes > 0));
    sl_connection_reply(request, &reply);
    sl_received_release(request);
}

static void closed(void *owner, struct sl_connection *connection, int reason)
{
}

/* ---- the client ---- */

static void send_done(struct sl_link_op *op)
{
}

static void send_capsule(const union sl_capsule *capsule, uint32_t capsule_bytes,
                         uint32_t payload_bytes)
{
    if (peer.send_count == OPS || peer.is_closed)
        return;
    uint32_t at = (OPS + peer.send_count) * SL_CAPSULE_BYTES_MAX;
    struct sl_link_op *op = &peer.sends[peer.send_count++];
    memcpy(memory->data + at, capsule, capsule_bytes);
    op->opcode = SL_LINK_SEND;
    op->done = send_done;
    op->spans[0] = sl_buf_span(memory, at, capsule_bytes);
    op->span_count = 1;
    if (payload_bytes > 0)
        op->spans[op->span_count++] =
            sl_buf_span(memory, 2 * OPS * SL_CAPSULE_BYTES_MAX, payload_bytes);
    sl_link_sim.post(peer.link, op);
}

static void send_right(union sl_capsule *capsule, uint32_t capsule_bytes, uint32_t payload_bytes)
{
    capsule->header.version = 1;
    capsule->header.length_bytes = (uint16_t)capsule_bytes;
    capsule->header.payload_bytes = payload_bytes;
    capsule->header.sequence = peer.sequence++;
    capsule->header.reserved = 0;
    capsule->header.crc = 0;
    capsule->header.crc = sl_crc32c(0, capsule, capsule_bytes);
    send_capsule(capsule, capsule_bytes, payload_bytes);
}

static void send_hello(void)
{
    static const uint32_t fields[] = {
        SL_FABRIC_MAGIC, 1 | 1 << 16, SL_ROLE_TOOL, 16, 0, SL_TRANSFER_BYTES_MAX, 7, 0};
    memset(&peer.hello, 0, sizeof(peer.hello));
    peer.hello.header.type = SL_CAPSULE_HELLO;
    memcpy(peer.hello.bytes + PART_OFFSET, fields, sizeof(fields));
    send_right(&peer.hello, 128, 0);
}

static void send_proof(void)
{
    static const char label[] = "sluice fabric 1 connecter";
    uint8_t text[sizeof(label) - 1 + 2 * PART_BYTES];
    unsigned proof_bytes = 32;
    union sl_capsule proof = {.header.type = SL_CAPSULE_PROOF};
    memcpy(text, label, sizeof(label) - 1);
    memcpy(text + sizeof(label) - 1, peer.hello.bytes + PART_OFFSET, PART_BYTES);
    memcpy(text + sizeof(label) - 1 + PART_BYTES, peer.challenge.bytes + PART_OFFSET, PART_BYTES);
    HMAC(EVP_sha256(), key, sizeof(key), text, sizeof(text), proof.bytes + 32, &proof_bytes);
    send_right(&proof, 64, 0);
}

static void receive_done(struct sl_link_op *op)
{
    if (op->status != 0)
        return;
    const union sl_capsule *capsule = (const union sl_capsule *)(const void *)op->spans[0].data;
    if (capsule->header.type == SL_CAPSULE_CHALLENGE && peer.hello.header.type != 0) {
        memcpy(&peer.challenge, capsule, op->capsule_bytes);
        send_proof();
    }
    if (capsule->header.type == SL_CAPSULE_WELCOME)
        peer.is_open = true;
    sl_link_sim.post(peer.link, op);
}

static void link_connected(void *owner, struct sl_link_connection *link)
{
    peer.is_connected = true;
}

static void link_closed(void *owner, struct sl_link_connection *link, int reason)
{
    peer.is_closed = true;
}

static bool is_ready(void *argument)
{
    return *(const bool *)argument || peer.is_closed;
}

static void run(const bool *flag)
{
    sl_sim_run_until(sim, sl_sim_now_ns(sim) + 10 * SL_NS_PER_MS, flag != NULL ? is_ready : NULL,
                     (void *)(uintptr_t)flag);
}

static void set_up(void)
{
    static const struct sl_connection_handlers handlers = {opened, received, closed};
    static struct sl_fabric_listener *listener;
    struct sl_sim_config config = {.seed = 1};
    void *owner = NULL;
    sl_log_set_level(SL_LOG_ERROR);
    sl_cluster_key_development(key);
    SL_ASSERT(sl_sim_create(&config, &sim) == 0);
    SL_ASSERT(sl_sim_node_open(sim, "client", 0, 8 * SL_MIB, &client) == 0);
    SL_ASSERT(sl_sim_node_open(sim, "server", 0, 16 * SL_MIB, &server) == 0);
    struct sl_fabric_config fabric_config = {
        .link = &sl_link_sim,
        .domain = {.io = server.io, .memory = server.memory},
        .reactor = server.reactor,
        .role = SL_ROLE_TARGET,
        .instance_id = 1,
        .credits = 8,
        .in_capsule_bytes = SL_IN_CAPSULE_BYTES_MAX,
    };
    sl_cluster_key_development(fabric_config.cluster_key);
    SL_ASSERT(sl_fabric_create(&fabric_config, &fabric) == 0);
    SL_ASSERT(sl_fabric_listen(&fabric, 1, "server:1", &handlers, &owner, NULL, &listener) == 0);
    struct sl_link_domain_config domain_config = {.io = client.io, .memory = client.memory};
    SL_ASSERT(sl_link_sim.domain_open(&domain_config, &domain) == 0);
    memory = sl_buf_alloc(client.memory, 2 * OPS * SL_CAPSULE_BYTES_MAX + SL_IN_CAPSULE_BYTES_MAX,
                          SL_RESERVE_CHECKPOINT);
    SL_ASSERT(memory != NULL);
}

static void connect_peer(void)
{
    static const struct sl_link_handlers handlers = {link_connected, link_closed};
    uint32_t private[SL_LINK_PRIVATE_BYTES / 4] = {SL_FABRIC_MAGIC, 1, 0};
    memset(&peer, 0, sizeof(peer));
    SL_ASSERT(sl_link_sim.connect(domain, "server:1", (const uint8_t *)private, UINT64_MAX,
                                  &handlers, NULL, &peer.link) == 0);
    for (unsigned i = 0; i < OPS; i++) {
        struct sl_link_op *op = &peer.receives[i];
        op->opcode = SL_LINK_RECEIVE;
        op->done = receive_done;
        op->span_count = 1;
        op->spans[0] = sl_buf_span(memory, i * SL_CAPSULE_BYTES_MAX, SL_CAPSULE_BYTES_MAX);
        sl_link_sim.post(peer.link, op);
    }
    run(&peer.is_connected);
}

static void play(const uint8_t *data, size_t size, bool right)
{
    while (size >= 2) {
        uint32_t wanted = data[0] + 1u; /* 1 … 256 */
        uint32_t payload_bytes = data[1] % 5 * SL_BLOCK_BYTES;
        data += 2;
        size -= 2;
        union sl_capsule capsule;
        memset(&capsule, 0, sizeof(capsule));
        uint32_t length = (uint32_t)sl_min((size_t)wanted, size);
        memcpy(capsule.bytes, data, length);
        data += length;
        size -= length;
        if (right && wanted >= SL_CAPSULE_BYTES_MIN)
            send_right(&capsule, wanted, payload_bytes);
        else
            send_capsule(&capsule, wanted, payload_bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sl_memory_statistics statistics;
    if (size == 0)
        return 0;
    if (sim == NULL)
        set_up();
    connect_peer();
    if ((data[0] & 1) != 0) {
        send_hello();
        run(&peer.is_open);
        SL_ASSERT(peer.is_open);
    }
    play(data + 1, size - 1, (data[0] & 2) != 0);
    run(NULL);
    sl_link_sim.disconnect(peer.link, -ECANCELED);
    run(&peer.is_closed);
    sl_link_sim.connection_free(peer.link);
    run(NULL);
    /* Everything came back, but what the first connections made for good. */
    struct sl_fabric_statistics fabric_statistics;
    sl_fabric_statistics(fabric, &fabric_statistics);
    SL_ASSERT(fabric_statistics.connection_count == 0);
    sl_memory_statistics(server.memory, &statistics);
    if (used_before_bytes == 0)
        used_before_bytes = statistics.used_bytes + 64 * SL_KIB;
    SL_ASSERT(statistics.used_bytes <= used_before_bytes);
    return 0;
}
