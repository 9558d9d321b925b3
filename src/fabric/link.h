/*
 * SEAM 2: one verbs-shaped interface; below it the links tcp, shm, ofi and the simulator's.
 *
 *   verbs                    here
 *   device + protection domain   sl_link_domain   (one a reactor and trust boundary: peers,
 * gateways) queue pair                   sl_link_connection memory region, lkey/rkey     a region
 * of the domain's sl_memory, sl_link_key() work request, completion     struct sl_link_op, its
 * done()
 *
 * Rules that every link keeps and tests/fabric/conformance_test.c proves:
 *  1. SENDs arrive in order, each consuming the oldest posted receive. A SEND with no receive
 * posted is a broken protocol (fabric's credits prevent it): the connection dies, or the SEND waits
 * for the receive (a card tries again and again) and heartbeats end it.
 *  2. A WRITE followed by a SEND on one connection: when the SEND is received, the WRITE has
 * landed. A WRITE's own completion says only that its local memory is free again.
 *  3. READ completes when its data has landed locally.
 *  4. done() is called exactly once for each posted operation, on the domain's reactor, never from
 * inside the post call. Completions of one kind come in order. Operations that cannot finish
 * because the connection died get -ECONNRESET (flush); after the last of them closed() is called,
 * exactly once, and nothing of this connection touches local memory any more. Posting after
 * closed() is a broken invariant.
 *  5. Remote access is checked against key, bounds and rights by the side that owns the memory. A
 * violation kills the connection (as on verbs), with -SL_E_KEY for the initiator of the operation
 * where the transport says why (libfabric's tcp does not: -ECONNRESET).
 *  6. Local memory of an operation is lent until done().
 */
#ifndef SL_FABRIC_LINK_H
#define SL_FABRIC_LINK_H

#include "core/base.h"
#include "core/list.h"
#include "fabric/limits.h"
#include "io/io.h"
#include "mem/memory.h"

struct sl_link_domain;
struct sl_link_listener;
struct sl_link_connection;
struct sl_link_injection;

enum sl_link_access {
    SL_ACCESS_REMOTE_READ = 1,
    SL_ACCESS_REMOTE_WRITE = 2,
};

/* What a peer needs to address our memory. Meaningful only to the owner's link. */
struct sl_remote_piece {
    uint64_t address; /* a virtual address, or an offset in the region: the link's choice */
    uint64_t key;
    uint32_t length_bytes;
    uint32_t reserved; /* zero */
};

/* FETCH_ADD and COMPARE_SWAP work on 8 bytes of the peer's memory, aligned to 8; its access must
 * allow to read and to write. Only where limits->atomics is set. They are atomic among each other,
 * not with the peer's CPU (as on verbs). */
enum sl_link_opcode {
    SL_LINK_SEND,
    SL_LINK_RECEIVE,
    SL_LINK_READ,
    SL_LINK_WRITE,
    SL_LINK_FETCH_ADD,
    SL_LINK_COMPARE_SWAP,
};

/* Embedded in the caller's object. All memory lies in regions of the domain's sl_memory. SEND and
 * RECEIVE: span 0 is the capsule (≤ SL_CAPSULE_BYTES_MAX), the others payload, page-aligned.
 * RECEIVE: span 0 of SL_CAPSULE_BYTES_MAX, span 1 (or none) the data buffer. SEND with payload: the
 * memory of span 0 goes on to SL_CAPSULE_BYTES_MAX; a link that pads capsules zeroes and sends that
 * too. Atomics: span 0 of 8 bytes gets what stood there before. */
struct sl_link_op {
    struct sl_list node; /* the link's */
    enum sl_link_opcode opcode;
    unsigned span_count;
    struct sl_span spans[SL_LINK_SPANS_MAX];
    struct sl_remote_piece remote; /* READ, WRITE, atomics */
    uint64_t operand;              /* FETCH_ADD: what to add; COMPARE_SWAP: the new value … */
    uint64_t compare;              /* … if this stands there */

    int status;             /* in done(): 0 or negative errno */
    uint32_t capsule_bytes; /* RECEIVE, in done(): bytes in span 0 */
    uint32_t payload_bytes; /* RECEIVE, in done(): bytes in span 1 */
    void (*done)(struct sl_link_op *op);
    void *link_data[2]; /* the link's, from post to done() */
};

/* Up to 32 bytes travel with a connection request (verbs: rdma_cm private data). */
#define SL_LINK_PRIVATE_BYTES 32

struct sl_link_handlers {
    /* Connected: operations may be posted. Receives are best posted before (in connect/accept's
     * caller). */
    void (*connected)(void *owner, struct sl_link_connection *connection);
    /* Dead and flushed (rule 4), or never came up. `reason` is negative. The owner must call
     * connection_free() afterwards (at once or later). */
    void (*closed)(void *owner, struct sl_link_connection *connection, int reason);
};

/* A connection request that waits for an answer. It may be handed to another reactor and accepted
 * in a domain there; accept or reject takes it. */
struct sl_link_incoming {
    const struct sl_link_ops *ops;
    uint8_t private_data[SL_LINK_PRIVATE_BYTES];
    char peer[SL_ADDRESS_BYTES_MAX];
};

struct sl_link_limits {
    uint32_t send_spans_max;  /* local pieces of a SEND, capsule included */
    uint32_t local_spans_max; /* of READ and WRITE */
    uint32_t transfer_bytes_max;
    uint32_t queue_depth; /* operations outstanding on a connection, RECEIVEs not counted; 0 = no
                             limit. More may be posted: they wait in the link. */
    bool atomics;
    bool pads_capsules; /* a capsule before payload arrives with SL_CAPSULE_BYTES_MAX */
};

struct sl_link_domain_config {
    struct sl_io *io;         /* borrowed, as memory */
    struct sl_memory *memory; /* every region of its set is registered while it lives */
    const char *device;       /* as given by -d, after the link's name; NULL = any */
    unsigned arena_access;    /* rights of peers over our own arenas (enum sl_link_access) */
    unsigned foreign_access;  /* and over memory of clients that we mapped */
    /* Of the layer of faults (fabric/inject.h) alone; NULL below it. Borrowed. */
    const struct sl_link_injection *injection;
};

struct sl_link_ops {
    const char *name; /* "tcp", "shm", "ofi", "sim" */
    bool maps;        /* remote_map() works: one host */

    int (*domain_open)(const struct sl_link_domain_config *config, struct sl_link_domain **domain);
    /* No connection or listener may be left. */
    void (*domain_close)(struct sl_link_domain *domain);
    const struct sl_link_limits *(*limits)(struct sl_link_domain *domain);

    /* `incoming` is called on the domain's reactor; it takes the request. `bound` gets the address.
     */
    int (*listen)(struct sl_link_domain *domain, const char *address,
                  void (*incoming)(void *owner, struct sl_link_incoming *request), void *owner,
                  char *bound, struct sl_link_listener **listener);
    /* No more incoming() after it returns. */
    void (*listener_close)(struct sl_link_listener *listener);

    /* Begins to connect; connected() or closed() follows (never from inside). `deadline_ns` bounds
     * it. */
    int (*connect)(struct sl_link_domain *domain, const char *address, const uint8_t *private_data,
                   uint64_t deadline_ns, const struct sl_link_handlers *handlers, void *owner,
                   struct sl_link_connection **connection);
    int (*accept)(struct sl_link_domain *domain, struct sl_link_incoming *request,
                  const struct sl_link_handlers *handlers, void *owner,
                  struct sl_link_connection **connection);
    /* Any reactor. */
    void (*reject)(struct sl_link_incoming *request);

    /* Queues the operation; what is ready at the end of the turn leaves together. Never fails: on a
     * dead connection the operation is flushed like the others. */
    void (*post)(struct sl_link_connection *connection, struct sl_link_op *op);
    /* Begins teardown; closed() follows. Harmless twice. */
    void (*disconnect)(struct sl_link_connection *connection, int reason);
    void (*connection_free)(struct sl_link_connection *connection);

    /* The descriptor by which peers of this domain reach `data` in `region`. -SL_E_KEY: not
     * registered or no remote right. */
    int (*describe)(struct sl_link_domain *domain, struct sl_region *region, const void *data,
                    uint32_t length_bytes, struct sl_remote_piece *piece);
    /* One host only (NULL otherwise): a local pointer to the peer's memory, and the local region
     * that maps it, valid while the connection lives; revocation is seen by sl_region->removed.
     * -SL_E_KEY, -EAGAIN. */
    int (*remote_map)(struct sl_link_connection *connection, const struct sl_remote_piece *piece,
                      bool for_writing, struct sl_span *span);
};

/* The links that this build has, NULL-terminated. */
const struct sl_link_ops *const *sl_links(void);
/* NULL: no such link. */
const struct sl_link_ops *sl_link_find(const char *name);

/* The host part of the address at which a target on this device (as domain_config has it) listens
 * if nothing else is said. -ENODEV. */
int sl_link_device_host(const struct sl_link_ops *link, const char *device, char *host,
                        size_t host_bytes);

/* "tcp", "tcp:eth0", "eth0", "192.0.2.1", "shm", "ofi", "ofi:rxe0", "ofi+tcp:eth0", "mlx5_0":
 * splits what -d takes into link and device.
 * -ENODEV, with a message that lists what there is in `error` (≥ 512 bytes). */
int sl_link_resolve_device(const char *name, const struct sl_link_ops **link, char *device,
                           size_t device_bytes, char *error, size_t error_bytes);

#endif
