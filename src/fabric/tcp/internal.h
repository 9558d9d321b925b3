/*
 * What the files of the tcp link share. All of it belongs to the domain's reactor, but struct
 * sl_tcp_incoming, which is handed over whole.
 *
 *   connect/accept ─► CONNECTING ─► OPEN ─┬───────────────► DEAD ─► CLOSED
 *                          └──────────────┼─► CLOSING ────────▲
 *                                         └─ (we found a violation: CLOSE is still to be sent)
 *
 * A connection has one coroutine that receives and one that sends. Each operation is on exactly one
 * list; the last coroutine that ends flushes the lists and calls closed().
 */
#ifndef SL_FABRIC_TCP_INTERNAL_H
#define SL_FABRIC_TCP_INTERNAL_H

#include "fabric/tcp/frame.h"
#include "fabric/tcp/tcp.h"

/* READs of one direction that may be unanswered: more than the credits, since a request may need 6.
 * The side that serves keeps 40 bytes for each. More wait in the queue of the side that asks. */
#define SL_TCP_READS_MAX 256u
/* The side that serves may learn late that a frame of responses has left, and the peer ask again
 * before: one frame of slack. The ring is the next power of two. */
#define SL_TCP_SERVED_MAX  (SL_TCP_READS_MAX + SL_TCP_RECORDS_MAX)
#define SL_TCP_SERVED_RING 512u
/* Sockets of a listener that have not sent their request yet; the next ones are closed at once. */
#define SL_TCP_HANDSHAKES_MAX 256u
/* A CLOSE that the peer does not take within this time is given up. */
#define SL_TCP_LINGER_NS (1 * SL_NS_PER_S)
/* SEND_ZC is used for frames with at least so much payload. Never for now: over loopback the kernel
 * copies anyway and the notification costs 1 µs more; to be measured again on a real card. */
#define SL_TCP_ZERO_COPY_BYTES UINT32_MAX
#define SL_TCP_KEY_SLOT_BITS   16

/* One region that peers may reach. Its key: 48 random bits, then the index of the slot. */
struct sl_tcp_slot {
    uint64_t key;             /* 0 = free */
    struct sl_region *region; /* NULL = free */
    unsigned access;
};

struct sl_link_domain {
    struct sl_io *io;
    struct sl_reactor *reactor;
    struct sl_region_set *regions;
    struct sl_region_client client;
    unsigned access[2]; /* own arenas, foreign */
    unsigned connection_count;
    unsigned listener_count;
    struct sl_tcp_slot *slots;
    unsigned slot_count;
    char address[64]; /* of the device, or empty */
};

struct sl_tcp_incoming {
    struct sl_link_incoming request;
    struct sl_mail mail; /* of reject() */
    struct sl_io *io;    /* where it was accepted: rejects from there */
    int handle;
};

/* A READ of the peer that waits to be answered from our memory. */
struct sl_tcp_served {
    uint64_t id;
    uint8_t *data;
    struct sl_region *region; /* referenced */
    uint32_t length_bytes;
};

/* Where the payload of one record goes. */
struct sl_tcp_place {
    struct sl_link_op *op;    /* SEND: the receive; READ response: the READ. On `landing`. */
    struct sl_region *region; /* WRITE, READ request: referenced until delivered */
    struct sl_span own;       /* WRITE, READ request */
    const struct sl_span *spans;
};

enum sl_tcp_state {
    SL_TCP_CONNECTING,
    SL_TCP_OPEN,
    SL_TCP_CLOSING,
    SL_TCP_DEAD,
    SL_TCP_CLOSED,
};

struct sl_link_connection {
    struct sl_link_domain *domain;
    const struct sl_link_handlers *handlers;
    void *owner;
    struct sl_stream *stream;
    enum sl_tcp_state state;
    int reason;               /* 0 until it dies */
    unsigned coroutine_count; /* alive */
    uint64_t refused_read_id; /* our READ that a CLOSE of the peer named, or SL_TCP_NO_READ */
    uint64_t close_read_id;   /* the peer's READ that our CLOSE will name, or SL_TCP_NO_READ */
    struct sl_timer timer;    /* to connect; later to linger */
    uint64_t deadline_ns;
    char peer[SL_ADDRESS_BYTES_MAX];
    uint8_t private_data[SL_LINK_PRIVATE_BYTES];

    struct sl_list posted;   /* SEND, WRITE, READ that have not left */
    struct sl_list sending;  /* SEND, WRITE in the frame being sent */
    struct sl_list reads;    /* READs that wait for their response */
    struct sl_list receives; /* posted */
    struct sl_list landing;  /* receives and READs that the frame being received fills */

    /* sending */
    struct sl_wait tx_wait;
    bool tx_waiting;
    bool tx_posted_first; /* responses and posted operations take turns to be first */
    uint64_t tx_sequence;
    uint64_t read_id_next;     /* of the next READ that leaves */
    uint64_t read_id_answered; /* of the oldest in `reads` */
    uint64_t served_head;      /* ring of READs of the peer: next to send */
    uint64_t served_tail;      /* next free */
    struct sl_tcp_served served[SL_TCP_SERVED_RING];
    struct iovec tx_pieces[SL_STREAM_PIECES_MAX];
    unsigned tx_piece_count;

    /* receiving */
    uint64_t rx_sequence;
    uint64_t rx_read_id_next; /* the next READ request must have it */
    struct sl_tcp_header header;
    unsigned record_count; /* whose places may hold references */
    struct sl_tcp_record records[SL_TCP_RECORDS_MAX];
    struct sl_tcp_place places[SL_TCP_RECORDS_MAX];
    unsigned land_record; /* the next payload byte goes there: record, offset in it */
    uint32_t land_offset_bytes;
    struct iovec rx_pieces[SL_STREAM_PIECES_MAX];
    uint32_t next_have_bytes; /* of next_head */
    _Alignas(64) uint8_t next_head[SL_TCP_HEAD_BYTES];
    _Alignas(64) uint8_t rx_frame[SL_TCP_FRAME_BYTES_MAX];
    _Alignas(64) uint8_t tx_frame[SL_TCP_FRAME_BYTES_MAX];
};

/* domain.c: the region that [address, address + length) of a peer lies in, or NULL: unknown key,
 * out of bounds, or not all of `access` granted. */
struct sl_region *sl_tcp_key_find(const struct sl_link_domain *domain, uint64_t key,
                                  uint64_t address, uint32_t length_bytes, unsigned access);

/* listener.c */
int sl_tcp_listen(struct sl_link_domain *domain, const char *address,
                  void (*incoming)(void *owner, struct sl_link_incoming *request), void *owner,
                  char *bound, struct sl_link_listener **listener);
void sl_tcp_listener_close(struct sl_link_listener *listener);
void sl_tcp_reject(struct sl_link_incoming *request);
/* Receives exactly a preamble and checks it. 0, -ECONNRESET, -SL_E_PROTOCOL, -SL_E_VERSION, … */
int sl_tcp_preamble_receive_co(struct sl_stream *stream, struct sl_tcp_preamble *preamble,
                               const char **why);
int sl_tcp_preamble_send_co(struct sl_stream *stream, enum sl_tcp_preamble_type type,
                            enum sl_tcp_reason reason, const uint8_t *private_data);

/* connection.c */
int sl_tcp_connect(struct sl_link_domain *domain, const char *address, const uint8_t *private_data,
                   uint64_t deadline_ns, const struct sl_link_handlers *handlers, void *owner,
                   struct sl_link_connection **connection);
int sl_tcp_accept(struct sl_link_domain *domain, struct sl_link_incoming *request,
                  const struct sl_link_handlers *handlers, void *owner,
                  struct sl_link_connection **connection);
void sl_tcp_post(struct sl_link_connection *connection, struct sl_link_op *op);
void sl_tcp_disconnect(struct sl_link_connection *connection, int reason);
void sl_tcp_connection_free(struct sl_link_connection *connection);
/* Shuts the stream down; both coroutines end. Harmless twice. */
void sl_tcp_die(struct sl_link_connection *connection, int reason);
/* The peer broke a rule: tells it, then dies. `read_id`: its READ that was refused, or
 * SL_TCP_NO_READ. */
void sl_tcp_refuse(struct sl_link_connection *connection, int error, uint64_t read_id,
                   const char *why);
void sl_tcp_linger(struct sl_link_connection *connection);
uint64_t sl_tcp_op_bytes(const struct sl_link_op *op, unsigned first_span);

/* transmit.c: sends until the connection is no longer open, then the CLOSE if one is due. */
void sl_tcp_transmit_co(struct sl_link_connection *connection);
void sl_tcp_transmit_wake(struct sl_link_connection *connection);

/* receive.c: receives until the connection is no longer open. Answers why (negative). */
int sl_tcp_receive_co(struct sl_link_connection *connection);

#endif
