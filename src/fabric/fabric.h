/*
 * What stands above every link, written once: handshake, credits, heartbeats, request and reply,
 * flush.
 *
 *   connect/accept ─► HELLO ─► CHALLENGE ─► PROOF ─► WELCOME ─► open ─► (shutdown | death) ─►
 * flushed ─► closed
 *
 * Invariants
 *  - Every *_co call of a connection returns exactly once; after death with -ECONNRESET (or the
 * reason).
 *  - When closed() is called, nothing of the connection touches local memory, and no call is
 * pending.
 *  - A request costs the sender a credit; the peer gives it back when it has a receive posted
 * again. Replies need none: the requester keeps a receive for each request it may have outstanding.
 *  - One reactor owns a connection. A peer can harm nothing but its own connection.
 */
#ifndef SL_FABRIC_FABRIC_H
#define SL_FABRIC_FABRIC_H

#include "fabric/capsule.h"
#include "fabric/link.h"

struct sl_fabric;
struct sl_fabric_listener;
struct sl_connection;

enum sl_role { SL_ROLE_GATEWAY = 1, SL_ROLE_TARGET = 2, SL_ROLE_TOOL = 3 };

#define SL_CLUSTER_KEY_BYTES 32

struct sl_fabric_config {
    const struct sl_link_ops *link;
    struct sl_link_domain_config domain;
    struct sl_reactor *reactor;
    uint8_t cluster_key[SL_CLUSTER_KEY_BYTES];
    enum sl_role role;
    uint64_t instance_id; /* random, of this process's run: tells a restart from a reconnect */
    uint32_t credits;     /* requests that a peer may have outstanding here; 0 = SL_CREDITS_MAX */
    uint32_t in_capsule_bytes;      /* payload taken with a request; 0 = none */
    uint64_t heartbeat_interval_ns; /* 0 = the default, as the next two */
    uint64_t heartbeat_timeout_ns;
    uint64_t handshake_timeout_ns;
};

struct sl_peer_info {
    char address[SL_ADDRESS_BYTES_MAX];
    enum sl_role role;
    uint64_t instance_id;
    uint32_t credits;          /* that it gave us */
    uint32_t in_capsule_bytes; /* that it takes */
    uint32_t transfer_bytes_max;
};

/* A request that came in. The capsule was checked: length, CRC, sequence, type known as a request.
 * Its body is not. Lives until sl_received_release(), which also posts the receive again and gives
 * the credit back. */
struct sl_received {
    struct sl_connection *connection;
    union sl_capsule capsule; /* a private copy: header of 32 … 256 bytes, the rest zero */
    struct sl_buf *payload;   /* in-capsule data, page-aligned, tail pages given back; or NULL */
    uint32_t payload_bytes;
    struct sl_list node; /* free for the owner's use */
};

struct sl_connection_handlers {
    /* Incoming connections only: the peer proved itself. Sets the owner by
     * sl_connection_set_owner(). */
    void (*opened)(void *listener_owner, struct sl_connection *connection);
    /* Takes `received`. Not in a coroutine: spawn one, or act at once. */
    void (*received)(void *owner, struct sl_received *received);
    /* Dead and flushed. The owner's pointer is gone after. `reason` negative. */
    void (*closed)(void *owner, struct sl_connection *connection, int reason);
};

/* -ENOMEM, -ENODEV, … Borrows what the config names. */
int sl_fabric_create(const struct sl_fabric_config *config, struct sl_fabric **fabric);
/* Every connection and listener must be closed. Takes NULL. */
void sl_fabric_destroy(struct sl_fabric *fabric);
/* Shuts every connection down, takes and makes no more, and waits until the last is freed: owners
 * give up their references in closed(). */
void sl_fabric_drain_co(struct sl_fabric *fabric);

/* Incoming connections whose private data name reactor i go to fabrics[i] (their own reactor's, by
 * mail); an index that is out of range is rejected. `bound` may be NULL. All fabrics have the same
 * link. */
int sl_fabric_listen(struct sl_fabric *const *fabrics, unsigned fabric_count, const char *address,
                     const struct sl_connection_handlers *handlers, void *const *listener_owners,
                     char *bound, struct sl_fabric_listener **listener);
void sl_fabric_listener_close(struct sl_fabric_listener *listener);

/* Connects to reactor `reactor_index` of the peer and shakes hands. -ETIMEDOUT, -ECONNREFUSED,
 * -SL_E_CLUSTER_KEY, -SL_E_VERSION, … On success the caller owns one reference. */
int sl_fabric_connect_co(struct sl_fabric *fabric, const char *address, uint32_t reactor_index,
                         const struct sl_connection_handlers *handlers, void *owner,
                         uint64_t deadline_ns, struct sl_connection **connection);

void sl_connection_set_owner(struct sl_connection *connection, void *owner);
const struct sl_peer_info *sl_connection_peer(const struct sl_connection *connection);
bool sl_connection_is_open(const struct sl_connection *connection);
struct sl_fabric *sl_connection_fabric(const struct sl_connection *connection);
void sl_connection_ref(struct sl_connection *connection);
void sl_connection_unref(struct sl_connection *connection);
/* Begins teardown; closed() follows. Harmless twice. */
void sl_connection_shutdown(struct sl_connection *connection, int reason);

/* Sends a request (header.type, length_bytes and body filled by the caller; the rest by the fabric;
 * at most SL_SEND_SPANS_MAX - 1 payload spans, page-aligned) when a credit is there, and waits for
 * its reply. Payload is lent until it returns. 0 and `reply` filled (its status may be an error),
 * or negative errno: -EMSGSIZE if the payload is more than the peer takes, which harms nothing. */
int sl_connection_call_co(struct sl_connection *connection, union sl_capsule *request,
                          const struct sl_span *payload, unsigned payload_count,
                          union sl_capsule *reply);
/* Answers `received` (copies request_id); the capsule's body is the caller's. Does not wait for
 * completion; fire and forget, as the capsule is copied. May be called outside of coroutines. */
void sl_connection_reply(struct sl_received *received, union sl_capsule *reply);

/* One-sided operations. Spans and pieces cover the same number of bytes, ≤ SL_TRANSFER_BYTES_MAX.
 * 0, -ECONNRESET, -SL_E_KEY. */
int sl_connection_read_co(struct sl_connection *connection, const struct sl_span *spans,
                          unsigned span_count, const struct sl_remote_piece *pieces,
                          unsigned piece_count);
/* WRITEs, and the reply right behind them in the same turn: the payload has landed when the reply
 * arrives. Returns when the local memory is free again. */
int sl_connection_write_reply_co(struct sl_received *received, const struct sl_span *spans,
                                 unsigned span_count, const struct sl_remote_piece *pieces,
                                 unsigned piece_count, union sl_capsule *reply);
/* WRITE alone. */
int sl_connection_write_co(struct sl_connection *connection, const struct sl_span *spans,
                           unsigned span_count, const struct sl_remote_piece *pieces,
                           unsigned piece_count);

/* Atomics on 8 bytes of the peer's memory (aligned to 8, which it lets us read and write): `before`
 * gets what stood there. 0, -EOPNOTSUPP (the link has none), -EINVAL (piece), -ECONNRESET,
 * -SL_E_KEY. The fabric itself uses none: docs/rdma.md says why. */
int sl_connection_fetch_add_co(struct sl_connection *connection,
                               const struct sl_remote_piece *piece, uint64_t operand,
                               uint64_t *before);
/* Writes `operand` if `compare` stands there. */
int sl_connection_compare_swap_co(struct sl_connection *connection,
                                  const struct sl_remote_piece *piece, uint64_t compare,
                                  uint64_t operand, uint64_t *before);

/* As struct sl_link_ops says. describe: for memory that peers of this fabric may reach. */
int sl_fabric_describe(struct sl_fabric *fabric, struct sl_region *region, const void *data,
                       uint32_t length_bytes, struct sl_remote_piece *piece);
bool sl_connection_maps(const struct sl_connection *connection);
int sl_connection_remote_map(struct sl_connection *connection, const struct sl_remote_piece *piece,
                             bool for_writing, struct sl_span *span);

/* Gives the payload, receive and credit back. Takes NULL. The connection may be dead by now. */
void sl_received_release(struct sl_received *received);
/* Keeps the payload beyond the release: the caller's reference. NULL if there was none. */
struct sl_buf *sl_received_take_payload(struct sl_received *received);

struct sl_fabric_statistics {
    uint64_t connection_count;
    uint64_t message_sent_count, message_received_count;
    uint64_t read_count, read_bytes, write_count, write_bytes;
    uint64_t credit_wait_count;
    uint64_t capsule_bytes;
};
/* Counts since the fabric was made, but connection_count: those that are there now; capsule_bytes:
 * memory for capsules to send, as much as was ever needed at once. */
void sl_fabric_statistics(const struct sl_fabric *fabric, struct sl_fabric_statistics *statistics);

#endif
