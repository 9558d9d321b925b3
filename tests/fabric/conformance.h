/*
 * The frame of the conformance suite: two nodes with a domain each, in three forms, and operations
 * that are posted and awaited from the test's own thread.
 *
 *   ONE_REACTOR    both domains on one reactor, in the test's thread
 *   TWO_REACTORS   a reactor each, stepped in turn by the test's thread
 *   TWO_THREADS    a reactor each, each run by a thread of its own
 *
 * The test touches what belongs to a node only through conformance_call(), which runs a function on
 * its reactor, or after an operation was seen to be done there. What goes wrong on a reactor is
 * counted (CONFORMANCE_CHECK), and fails the test at its end: cmocka's own assertions work in the
 * main thread alone.
 */
#ifndef TESTS_FABRIC_CONFORMANCE_H
#define TESTS_FABRIC_CONFORMANCE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "core/reactor.h"
#include "fabric/inject.h"
#include "fabric/link.h"
#include "io/io.h"
#include "mem/memory.h"

#define CONFORMANCE_OPS_MAX     1024
#define CONFORMANCE_INJECTS_MAX 4

enum conformance_form { ONE_REACTOR, TWO_REACTORS, TWO_THREADS };

struct conformance_world;

struct conformance_node {
    struct conformance_world *world;
    unsigned index;
    struct sl_io *io;
    struct sl_reactor *reactor;
    struct sl_memory *memory;
    struct sl_link_domain *domain;
    struct sl_link_injection injection; /* of a link with faults */
    pthread_t thread;
};

/* What each link gives: a row of the table in conformance_test.c. */
struct conformance_link {
    const char *name;
    const struct sl_link_ops *ops; /* conformance_ops() answers what is tested */
    bool threads;                  /* TWO_THREADS is possible */
    /* Addresses, SL_ADDRESS_BYTES_MAX each: to listen at, and one where nobody listens. */
    void (*addresses)(char *listen, char *nobody);
    /* Makes node->io: 0 or negative errno. sl_io_destroy() ends it. */
    int (*io_create)(struct conformance_node *node);
    /* Between two steps of the reactors, when none had work: lets virtual time pass. May be NULL.
     */
    void (*idle)(struct conformance_world *world);
    /* After every io was destroyed. May be NULL. */
    void (*close)(struct conformance_world *world);
    /* Specs of faults at node 0 and node 1. With any, the layer of fabric/inject.h lies over the
     * link at both. */
    const char *injects[2][CONFORMANCE_INJECTS_MAX];
    const char *device;  /* for domain_open(); NULL = any */
    bool sends_wait;     /* a SEND without a receive waits for one (rule 1) */
    bool silent_refusal; /* the initiator is not told that its key was refused (rule 5) */
    /* Under load it may take an event of a socket for another: it ends a connection by itself, or
     * does not notice the end of one (libfabric's tcp, below). */
    bool misreads_ends;
};

struct conformance_world {
    const struct conformance_link *link;
    enum conformance_form form;
    unsigned node_count; /* reactors: 1 or 2; nodes[1] mirrors nodes[0] if 1 */
    struct conformance_node nodes[2];
    atomic_uint failures;
};

struct conformance_end;

/* One operation with memory of its own. */
struct conformance_op {
    struct sl_link_op op;
    struct conformance_end *end;
    struct sl_buf *buf; /* payload, page-aligned; or NULL */
    struct sl_buf *capsule_buf;
    uint8_t *capsule; /* SL_CAPSULE_BYTES_MAX of it */
    unsigned posted_count;
    unsigned done_count;
    unsigned done_order;                        /* among all of the connection, from 1 */
    void (*on_done)(struct conformance_op *op); /* on the reactor; may be NULL */
    void *context;
};

/* One end of a connection. */
struct conformance_end {
    struct conformance_node *node;
    struct sl_link_connection *connection;
    unsigned connected_count;
    unsigned closed_count;
    int reason;
    bool was_misread; /* misreads_ends: operations of it may have been forgotten, too */
    unsigned done_count;
    unsigned op_count;
    struct conformance_op *ops[CONFORMANCE_OPS_MAX];
    void (*on_connected)(struct conformance_end *end);
    void *context;
};

/* A listener at one node that keeps what comes in. */
struct conformance_server {
    struct conformance_node *node;
    struct sl_link_listener *listener;
    char address[SL_ADDRESS_BYTES_MAX];
    struct sl_link_incoming *request; /* the newest not yet answered */
    unsigned incoming_count;
};

#define CONFORMANCE_CHECK(world, condition)                                                        \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            atomic_fetch_add(&(world)->failures, 1);                                               \
        }                                                                                          \
    } while (0)

/* The link as the layers make it. */
const struct sl_link_ops *conformance_ops(const struct conformance_world *world);

/* Peers have `arena_access` over our arenas, `foreign_access` over mapped memory. */
void conformance_world_open(struct conformance_world *world, const struct conformance_link *link,
                            enum conformance_form form, unsigned arena_access,
                            unsigned foreign_access);
/* Asserts that nothing failed on the reactors. */
void conformance_world_close(struct conformance_world *world);

void conformance_call(struct conformance_node *node, void (*function)(void *argument),
                      void *argument);
/* Until `condition` holds on the node's reactor: asserts that it does within 20 s. */
void conformance_await(struct conformance_node *node, bool (*condition)(void *argument),
                       void *argument);
/* Lets the nodes run for so long. */
void conformance_run_ms(struct conformance_world *world, unsigned duration_ms);

void conformance_server_open(struct conformance_server *server, struct conformance_node *node);
void conformance_server_close(struct conformance_server *server);
/* Waits for a request and gives it to the caller. */
struct sl_link_incoming *conformance_server_take(struct conformance_server *server);

/* Both post the operations that the end has already (receives) in the same turn. */
void conformance_connect(struct conformance_end *end, struct conformance_node *node,
                         const char *address, const uint8_t *private_data, unsigned timeout_ms);
void conformance_accept(struct conformance_end *end, struct conformance_node *node,
                        struct sl_link_incoming *request);
void conformance_await_connected(struct conformance_end *end);
/* Asserts that it closed once and every operation was done once. Answers the reason. */
int conformance_await_closed(struct conformance_end *end);
void conformance_disconnect(struct conformance_end *end);
/* Frees the connection, which must be closed, and its operations. */
void conformance_end_free(struct conformance_end *end);

/* Two ends, connected: a at node 0, which connects, b at node 1. */
void conformance_pair_open(struct conformance_world *world, struct conformance_end *a,
                           struct conformance_end *b);
/* Disconnects a, awaits both, frees both. */
void conformance_pair_close(struct conformance_end *a, struct conformance_end *b);

/* An operation of the end with a buffer of `payload_bytes` (0 = none); not posted. SEND: span 0 is
 * the capsule of `capsule_bytes`, RECEIVE: of the longest; payload in one span. */
struct conformance_op *conformance_op_new(struct conformance_end *end, enum sl_link_opcode opcode,
                                          uint32_t capsule_bytes, uint32_t payload_bytes);
/* On the reactor only: fills the operation in, as above. */
void conformance_op_fill(struct conformance_op *op, struct conformance_end *end,
                         enum sl_link_opcode opcode, uint32_t capsule_bytes,
                         uint32_t payload_bytes);
/* On the reactor only. */
void conformance_op_post(struct conformance_op *op);
/* All in one turn. */
void conformance_post(struct conformance_op *const *ops, unsigned op_count);
void conformance_post_one(struct conformance_op *op);
void conformance_await_done(struct conformance_op *op);
/* Now, seen from its reactor. */
unsigned conformance_done_count(struct conformance_op *op);

/* Memory at a node that peers reach. */
struct conformance_target {
    struct conformance_node *node;
    struct sl_buf *buf;
    uint32_t length_bytes;
    struct sl_remote_piece piece;
    int error; /* of describe */
};
void conformance_target_open(struct conformance_target *target, struct conformance_node *node,
                             uint32_t length_bytes);
/* Fills in part of it, on its reactor: that will be read there, and TSan sees no order in what goes
 * through a socket. */
void conformance_target_fill(struct conformance_target *target, uint32_t offset_bytes,
                             uint32_t length_bytes, uint64_t seed);
void conformance_target_close(struct conformance_target *target);

void conformance_pattern_fill(uint8_t *data, size_t length_bytes, uint64_t seed);
bool conformance_pattern_is(const uint8_t *data, size_t length_bytes, uint64_t seed);

/* conformance_random.c: 10,000 random operations against a model. */
void conformance_random_run(struct conformance_world *world, unsigned operation_count,
                            uint64_t seed);

#endif
