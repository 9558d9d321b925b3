/*
 * The frame of the fabric's tests: up to three nodes with a fabric each on one link, stepped by the
 * test's thread; a server that does what the test wants with requests; callers; and a raw client
 * that speaks the wire format by itself, to break its rules.
 *
 * What goes wrong inside a coroutine or a handler is counted (WORLD_CHECK) and fails the test at
 * its end: cmocka's assertions work on the main stack alone.
 */
#ifndef TESTS_FABRIC_WORLD_H
#define TESTS_FABRIC_WORLD_H

#include <stdio.h>

#include "core/reactor.h"
#include "fabric/fabric.h"
#include "sim/sim.h"

#define WORLD_NODES_MAX 3

struct world;

struct node {
    struct world *world;
    unsigned index;
    struct sl_io *io;
    struct sl_reactor *reactor;
    struct sl_memory *memory;
    struct sl_fabric *fabric; /* NULL: not made */
    bool is_drained;
};

/* A row of the table of links. */
struct world_link {
    const char *name;
    const struct sl_link_ops *ops;
    const char *address; /* to listen at */
    const char *device;  /* NULL = any */
};
extern const struct world_link world_links[];
extern const unsigned world_link_count;

struct world_config {
    uint32_t credits;          /* of all nodes; 0 = 16 */
    uint32_t in_capsule_bytes; /* of all */
    uint64_t heartbeat_interval_ns;
    uint64_t heartbeat_timeout_ns;
    uint64_t handshake_timeout_ns;
    size_t memory_bytes; /* 0 = 64 MiB */
    bool wrong_key;      /* node 0 has another one */
    unsigned raw_access; /* of peers to a raw peer's memory: enum sl_link_access */
    struct sl_sim_config sim;
};

struct world {
    const struct world_link *link;
    struct sl_sim *sim; /* or NULL */
    struct node nodes[WORLD_NODES_MAX];
    unsigned node_count;
    unsigned failures;
    struct world_config config;
};

#define WORLD_CHECK(world, condition)                                                              \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            (world)->failures++;                                                                   \
        }                                                                                          \
    } while (0)

bool world_is_sim(const struct world *world);
void world_open(struct world *world, const struct world_link *link, unsigned node_count,
                const struct world_config *config);
/* Drains and destroys everything; asserts that nothing failed and all memory came back. */
void world_close(struct world *world);
/* A coroutine that drains the fabric of a struct node and sets is_drained. */
void world_drain_co(void *node);
/* Runs until `done`: 20 s real or 10 min virtual, then the test fails. */
void world_run(struct world *world, bool (*done)(void *argument), void *argument);
/* Runs until *flag or *count reaches the value. */
void world_run_flag(struct world *world, const bool *flag);
void world_run_count(struct world *world, const unsigned *count, unsigned value);
void world_run_ms(struct world *world, unsigned duration_ms);

/* ---- a server ---- */

enum server_mode {
    SERVER_ECHO, /* the I/O part comes back */
    SERVER_HOLD, /* keeps requests in `held` */
};

struct server {
    struct node *node;
    enum server_mode mode;
    char address[SL_ADDRESS_BYTES_MAX];
    struct sl_fabric_listener *listener;
    struct sl_connection *connection; /* the newest */
    unsigned opened_count, closed_count, received_count;
    int reason;
    unsigned held_count, held_max;
    struct sl_list held; /* struct sl_received */
    void (*on_received)(struct server *server, struct sl_received *received);
    void *context;
};

/* Listens at nodes[1 …]: servers[i] serves reactor i of `count`. */
void servers_open(struct server *servers, struct world *world, unsigned count);
void servers_close(struct server *server);
void server_echo(struct sl_received *received);
/* Answers and releases all that are held, the newest first if `reverse`. */
void server_answer_held(struct server *server, bool reverse);
/* Releases what is held without an answer. */
void server_forget_held(struct server *server);

/* ---- a client ---- */

struct client {
    struct node *node;
    struct sl_connection *connection; /* one reference */
    unsigned closed_count;
    int reason;
    int error; /* of connect */
    bool is_done;
    char address[SL_ADDRESS_BYTES_MAX];
    uint32_t reactor_index;
    uint64_t deadline_ns;
};

/* Connects from node 0: its result. */
int client_connect(struct client *client, struct world *world, const struct server *server,
                   uint32_t reactor_index);
/* Shuts down, unrefs and waits for both ends. */
void client_close(struct client *client, struct server *server);

struct caller {
    struct client *client;
    uint64_t id; /* travels as trace_id */
    uint32_t payload_bytes;
    unsigned span_count;
    int result;
    unsigned returned_count;
    unsigned *total_returned;
    union sl_capsule reply;
};
/* Makes a coroutine that calls once. */
void caller_start(struct caller *caller, struct client *client, uint64_t id,
                  unsigned *total_returned);
void pattern_fill(uint8_t *data, size_t length_bytes, uint64_t seed);
bool pattern_is(const uint8_t *data, size_t length_bytes, uint64_t seed);

/* ---- a raw peer: fabric_raw.c ---- */

/* 384: three times the requests that a target takes at a time, sent in one turn. */
#define RAW_OPS 384

enum raw_bad {
    RAW_BAD_CRC,
    RAW_BAD_GAP,
    RAW_BAD_REPLAY,
    RAW_BAD_TYPE,
    RAW_BAD_REQUEST_TYPE,
    RAW_BAD_REPLY,
    RAW_BAD_CREDITS,
    RAW_BAD_LENGTH,
    RAW_BAD_SHORT,
    RAW_BAD_VERSION,
    RAW_BAD_RESERVED,
    RAW_BAD_PAYLOAD_LENGTH,
    RAW_BAD_BEYOND_CREDITS,
    RAW_BAD_HELLO_AGAIN,
    RAW_BAD_COUNT,
};

struct raw {
    struct node *node; /* has no fabric of its own in use; its domain is raw's */
    struct sl_link_domain *domain;
    struct sl_link_connection *link;
    bool is_connected, is_closed, is_open;
    int reason;
    struct sl_link_op receives[RAW_OPS], sends[RAW_OPS];
    bool is_sending[RAW_OPS];
    struct sl_buf *receive_buf, *send_buf, *payload;
    unsigned send_count, received_count;
    unsigned wrong_proof_count; /* CHALLENGEs of another key */
    uint64_t sequence;
    uint32_t credits;                  /* that the server gave */
    union sl_capsule hello, challenge; /* transcript */
    union sl_capsule last;             /* that came */
    unsigned type_count[256];          /* of what came */
    uint8_t key[SL_CLUSTER_KEY_BYTES];
    uint16_t version_min, version_max; /* for HELLO */
    uint32_t credits_offered;          /* in HELLO or CHALLENGE */
    bool listens;                      /* it was made by raw_accept() */
    /* Sees `last` first; true: it was dealt with. */
    bool (*on_capsule)(struct raw *raw);
    void *context;
    struct sl_link_op transfer;
    bool transfer_ended;
};

void raw_open(struct raw *raw, struct world *world, const struct server *server);
/* The listening side, of a request that the link brought; answers HELLO and PROOF as it should. */
void raw_accept(struct raw *raw, struct world *world, struct sl_link_incoming *incoming,
                bool (*on_capsule)(struct raw *raw));
/* Sends HELLO. */
void raw_hello(struct raw *raw);
/* The whole handshake; asserts that it opens. */
void raw_handshake(struct raw *raw);
/* Fills in sequence, version and CRC, then sends. `payload_bytes` of the raw's payload behind it.
 */
void raw_send(struct raw *raw, union sl_capsule *capsule, uint32_t payload_bytes);
/* As it is. */
void raw_send_as_is(struct raw *raw, const union sl_capsule *capsule, uint32_t capsule_bytes,
                    uint32_t payload_bytes);
void raw_seal(union sl_capsule *capsule);
/* One message that breaks a rule; `credits`: what the peer takes at a time. */
void raw_send_bad(struct raw *raw, enum raw_bad bad, unsigned credits);
/* READ into raw's payload, or WRITE from it (at most SL_IN_CAPSULE_BYTES_MAX bytes):
 * transfer.status when transfer_ended. One at a time. */
void raw_transfer(struct raw *raw, enum sl_link_opcode opcode,
                  const struct sl_remote_piece *remote);
void raw_close(struct raw *raw);
/* Closes the link only; raw_close() later. */
void raw_disconnect(struct raw *raw);

/* ---- fabric_transfer.c ---- */

/* Tests of one-sided operations, for the table. */
void test_transfer(void **state);
void test_transfer_cut(void **state);
void test_transfer_bad_key(void **state);

#endif
