/* What the files of the fabric's common part share. Private to the files of src/fabric itself. */
#ifndef SL_FABRIC_PRIVATE_H
#define SL_FABRIC_PRIVATE_H

#include <stdatomic.h>

#include "core/reactor.h"
#include "fabric/fabric.h"
#include "mem/pool.h"

/* ---- wire: docs/wire.md, "Handshake" ---- */

#define SL_NONCE_BYTES 32
#define SL_PROOF_BYTES 32

/* HELLO and CHALLENGE. The proof is zero in HELLO. */
struct sl_capsule_hello {
    struct sl_capsule_header header;
    uint32_t magic;                /* 32 */
    uint16_t version_min;          /* 36 CHALLENGE: both are the version chosen */
    uint16_t version_max;          /* 38 */
    uint32_t role;                 /* 40 enum sl_role */
    uint32_t credits;              /* 44 requests that the sender takes at a time */
    uint32_t in_capsule_bytes;     /* 48 payload that it takes with a request */
    uint32_t transfer_bytes_max;   /* 52 */
    uint64_t instance_id;          /* 56 */
    uint8_t nonce[SL_NONCE_BYTES]; /* 64 */
    uint8_t proof[SL_PROOF_BYTES]; /* 96 */
};
_Static_assert(sizeof(struct sl_capsule_hello) == 128, "wire.md: handshake");
_Static_assert(offsetof(struct sl_capsule_hello, nonce) == 64, "wire.md: handshake");

struct sl_capsule_proof {
    struct sl_capsule_header header;
    uint8_t proof[SL_PROOF_BYTES]; /* 32 */
};
_Static_assert(sizeof(struct sl_capsule_proof) == 64, "wire.md: handshake");

/* What both proofs cover: HELLO and CHALLENGE from their magic to their nonce. */
#define SL_TRANSCRIPT_PART_BYTES (offsetof(struct sl_capsule_hello, proof) - 32)

/* Travels with the link's connection request. */
struct sl_fabric_private {
    uint32_t magic;
    uint32_t version;
    uint32_t reactor_index;
    uint32_t reserved[5];
};
_Static_assert(sizeof(struct sl_fabric_private) == SL_LINK_PRIVATE_BYTES, "wire.md: private data");

/* ---- objects ---- */

struct sl_fabric {
    struct sl_fabric_config config;
    struct sl_link_domain *domain;
    const struct sl_link_limits *limits;
    struct sl_list connections; /* until freed */
    unsigned connection_count;
    bool is_draining;             /* takes and makes no connection any more */
    atomic_uint handover_count;   /* requests on their way here from the reactor that listens */
    struct sl_wait_queue changed; /* a connection was freed, or a request has come */
    struct sl_pool txs;
    struct sl_buf **capsule_pages; /* memory of the capsules in `txs`: registered */
    unsigned capsule_page_count;
    struct sl_list free_txs;
    unsigned tx_count;
    uint64_t receive_bytes; /* of all connections' data buffers, wherever they are now */
    struct sl_fabric_statistics statistics;
};

/* A posted SEND, READ or WRITE of ours. */
struct tx {
    struct sl_list node; /* free list */
    struct sl_link_op op;
    struct sl_connection *connection;
    union sl_capsule *capsule; /* registered memory, this tx's for ever */
    struct sl_region *capsule_region;
    struct pending *pending; /* who waits; NULL = nobody */
    bool *in_flight;         /* control messages: cleared when it is done */
    bool close_after;        /* REJECT, GOODBYE: shut down when it has left */
    int close_reason;
};

/* What a coroutine waits for: several completions, and for a call its reply. */
struct pending {
    struct sl_wait wait;
    unsigned count;
    int error;      /* the first */
    uint64_t value; /* of an atomic: what stood there */
};

struct call {
    struct pending pending;
    union sl_capsule *reply;
    uint32_t request_id;
};

struct rx {
    struct sl_link_op op;
    struct sl_received received;
    union sl_capsule *capsule; /* registered memory */
    struct sl_buf *data;       /* NULL: not taken, or gone with a request */
    bool has_request;          /* `received` is the owner's */
    struct sl_list node;       /* in connection->starved */
};

enum connection_state {
    CONNECTION_CONNECTING, /* the link is not up */
    CONNECTION_HANDSHAKE,
    CONNECTION_OPEN,
    CONNECTION_CLOSING, /* the link flushes */
    CONNECTION_CLOSED,
};

struct sl_connection {
    struct sl_list node;
    struct sl_fabric *fabric;
    struct sl_link_connection *link;
    const struct sl_connection_handlers *handlers;
    void *owner;
    void *listener_owner;
    unsigned references; /* the link's, callers', each request that an owner holds */
    bool incoming;
    bool was_open;
    bool connecting; /* sl_fabric_connect_co() has not returned it yet: closed() is not called */
    enum connection_state state;
    int reason;
    struct sl_peer_info peer;
    struct sl_wait *connect_wait; /* the coroutine in sl_fabric_connect_co() */

    uint64_t send_sequence, receive_sequence;
    uint32_t credits;      /* requests that we may send now */
    uint32_t credits_owed; /* that the peer will get with our next capsule */
    uint32_t peer_credits; /* requests that the peer may still send */
    struct sl_wait_queue credit_waiters;
    uint32_t tx_count;         /* posted to the link … */
    struct sl_list tx_waiting; /* … and behind them, those for which its queue has no room */

    struct call *calls[SL_CREDITS_MAX];
    uint16_t call_generation[SL_CREDITS_MAX];
    uint8_t free_calls[SL_CREDITS_MAX];
    unsigned free_call_count;

    struct sl_buf *rx_memory;
    struct rx *rxs;
    unsigned rx_count, rx_posted;
    uint64_t receive_bytes; /* what it may hold of the fabric's */
    struct sl_list starved; /* rxs that wait for a data buffer */
    bool refilling;

    uint64_t last_sent_ns;
    unsigned silent_ticks; /* of the timer, in a row, between which nothing came */
    bool has_received;     /* since the last tick */
    struct sl_timer timer;
    bool heartbeat_in_flight, credit_in_flight;

    struct sl_capsule_hello hello, challenge; /* as sent or received: the transcript */
};

/* connection.c */
struct sl_connection *sl_connection_create(struct sl_fabric *fabric,
                                           const struct sl_connection_handlers *handlers);
void sl_connection_incoming(struct sl_fabric *fabric, struct sl_link_incoming *request,
                            const struct sl_connection_handlers *handlers, void *listener_owner);
void sl_connection_opened(struct sl_connection *connection);
void sl_connection_fail(struct sl_connection *connection, int reason, const char *what);

/* message.c */
struct tx *sl_tx_get(struct sl_connection *connection);
void sl_tx_post(struct tx *tx);
void sl_tx_memory_free(struct sl_fabric *fabric);
/* Fills in version, sequence, credits and CRC, and posts. The capsule is tx->capsule. */
void sl_tx_send(struct tx *tx, const struct sl_span *payload, unsigned payload_count);
/* A capsule without credit and without an answer; `length_bytes` with its header. False: no memory.
 */
bool sl_control_send(struct sl_connection *connection, uint8_t type, const void *body,
                     uint16_t length_bytes, bool *in_flight);
void sl_pending_init(struct pending *pending, unsigned count);
void sl_pending_done(struct pending *pending, int error);
int sl_receives_create(struct sl_connection *connection);
void sl_receives_post_control(struct sl_connection *connection);
void sl_receives_post_all(struct sl_connection *connection);
void sl_receives_free(struct sl_connection *connection);
/* Hands credits and slots to those who wait, in their order. */
void sl_calls_grant(struct sl_connection *connection);
void sl_calls_flush(struct sl_connection *connection, int reason);

/* handshake.c */
void sl_handshake_begin(struct sl_connection *connection); /* connecting side, the link is up */
/* Before the first handshake: OpenSSL loads its configuration then, which takes more stack than a
 * coroutine has. */
void sl_handshake_warm_up(void);
/* A capsule of the handshake came; false: it is out of place. */
bool sl_handshake_received(struct sl_connection *connection, const union sl_capsule *capsule);

#endif
