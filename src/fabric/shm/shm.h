/*
 * The shm link, inside: two processes (or two reactors) of one host. docs/wire.md, "shm link".
 *
 *   socket (SOCK_SEQPACKET)  connection request, announcements of memory with their memfd, farewell
 *   rings                    SENDs: 320-byte slots {capsule, record}
 *   windows                  the peer's announced memory, mapped at first use: READ and WRITE are
 * copies by the CPU, remote_map() gives the pointer itself
 *
 *   CONNECTING ─┐ accepted                       flushed, and the peer's farewell, its death, or
 * the time-out ACCEPTING ──┴──────────► UP ──────► CLOSING
 * ─────────────────────────────────────────────► CLOSED └── refused, late ──────────────┘  any
 * error, disconnect(), hang-up
 *
 * Payload of a SEND: one counted copy (SL_COPY_WINDOW), by the receiver, out of the sender's
 * announced memory. From memory that is not announced, or in several pieces, it goes through the
 * sender's data area: a second counted copy. The fabric above sends no payload in capsules where
 * remote_map() works, so neither is on a hot path.
 *
 * Invariants
 *  - Each slot says how many announcements and revocations went before it; it is not looked at
 * before those were handled. So a key in a capsule is known when the capsule is delivered.
 *  - A revocation is noted in the ring's head at once. READs and WRITEs that begin later wait until
 * the peer that does them has heard which key it is. What has begun, and pointers from
 * remote_map(), end with the acknowledgement.
 *  - A region of ours that was announced keeps a reference until the peer has acknowledged its
 * revocation or has said farewell: its pages stay while the peer may touch them.
 *  - Farewell (GONE) is sent when nothing on this side uses the peer's memory any more. closed()
 * waits for the peer's.
 *  - Owner: the domain's reactor.
 */
#ifndef SL_FABRIC_SHM_SHM_H
#define SL_FABRIC_SHM_SHM_H

#include "fabric/link.h"
#include "fabric/shm/channel.h"

extern const struct sl_link_ops sl_shm_link_ops;

#define SHM_MAGIC   UINT32_C(0x4d534c53) /* "SLSM" */
#define SHM_VERSION 1

/* SL_CREDITS_MAX requests, as many replies, SL_CONTROL_RECEIVES and acknowledgements: under 512. */
#define SHM_SLOTS 512u
/* In-capsule payload under way from memory that is not announced. 64 × 16 KiB = 1 MiB a direction.
 */
#define SHM_DATA_SLOTS 64u
/* Memory that one peer may announce: each takes a descriptor. */
#define SHM_WINDOWS_MAX 4096u
#define SHM_BUCKETS     64u
/* Connection requests of one listener that have not said HELLO yet. */
#define SHM_HALF_OPEN_MAX 64u
/* The peer's farewell, or its death, is waited for so long. Longer than any device takes for one
 * I/O that it has begun; a peer that is stopped in a debugger runs into it, and the log says so. */
#define SHM_FAREWELL_TIMEOUT_NS (5 * SL_NS_PER_S)
/* How often memory that is to be unmapped is looked at while somebody still uses it. */
#define SHM_DRAIN_INTERVAL_NS (2 * SL_NS_PER_MS)
/* Bytes copied for READs and WRITEs in one turn, so that others get theirs. */
#define SHM_COPY_BUDGET_BYTES (4 * SL_MIB)

enum shm_control_type {
    SHM_HELLO = 1, /* private data; descriptors: channel */
    SHM_ACCEPT = 2,
    SHM_REJECT = 3,
    SHM_ANNOUNCE = 4, /* key, offset, length, access; descriptor: memfd */
    SHM_REVOKE = 5,   /* key */
    SHM_REVOKED = 6,  /* key: nothing here uses it any more */
    SHM_GOODBYE = 7,  /* no more messages; flush and say GONE */
    SHM_GONE = 8,     /* nothing here touches your memory any more */
};

struct shm_control {
    uint32_t magic;                              /* 0 */
    uint16_t version;                            /* 4 */
    uint16_t type;                               /* 6 */
    uint64_t key;                                /* 8 */
    uint64_t offset_bytes;                       /* 16 of the region in its memfd */
    uint64_t length_bytes;                       /* 24 */
    uint32_t access;                             /* 32 enum sl_link_access */
    uint32_t reserved;                           /* 36 zero */
    uint8_t private_data[SL_LINK_PRIVATE_BYTES]; /* 40 */
};
_Static_assert(sizeof(struct shm_control) == 72, "wire.md: shm control record");

enum shm_slot_type { SHM_SLOT_SEND = 1, SHM_SLOT_ACK = 2 };

struct shm_record {
    uint16_t type;          /* 0  enum shm_slot_type */
    uint16_t capsule_bytes; /* 2  SEND */
    uint32_t announced;     /* 4  announcements and revocations before this slot */
    uint32_t payload_bytes; /* 8  SEND; ACK: how many SENDs with payload were taken */
    uint32_t reserved;      /* 12 zero */
    uint64_t key;           /* 16 where the payload is; 0 = the sender's data area */
    uint64_t address;       /* 24 offset in it */
    uint8_t reserved2[32];
};
_Static_assert(sizeof(struct shm_record) == 64, "wire.md: shm slot");

struct shm_slot {
    uint8_t capsule[SL_CAPSULE_BYTES_MAX];
    struct shm_record record;
};
_Static_assert(sizeof(struct shm_slot) == 320, "wire.md: shm slot");

static const struct sl_channel_layout shm_layout = {
    .slot_bytes = sizeof(struct shm_slot),
    .slot_count = SHM_SLOTS,
    .data_bytes = SHM_DATA_SLOTS * SL_IN_CAPSULE_BYTES_MAX,
};

struct shm_domain {
    struct sl_link_domain_config config;
    struct sl_reactor *reactor;
    struct sl_region_client client;
    struct sl_list connections;
    unsigned listener_count;
};

/* A region of ours that peers may reach: its client_data in this domain. */
struct shm_key {
    uint64_t key;
    unsigned access;
};

/* The peer's memory. */
struct shm_window {
    struct sl_list node;
    uint64_t key;
    uint64_t offset_bytes;
    uint64_t length_bytes;
    unsigned access;
    int memfd;                /* until it is mapped; else -1 */
    struct sl_region *region; /* NULL: not mapped */
    bool acknowledge;         /* dying: REVOKED is due */
};

/* A region of ours whose revocation the peer has not acknowledged. */
struct shm_revocation {
    struct sl_list node;
    uint64_t key;
    struct sl_region *region;
};

struct shm_outgoing {
    struct sl_list node;
    struct shm_control control;
    int descriptor; /* ours; -1 = none */
};

enum shm_state { SHM_CONNECTING, SHM_ACCEPTING, SHM_UP, SHM_CLOSING, SHM_CLOSED };
enum shm_blocked {
    SHM_NOT_BLOCKED,
    SHM_BLOCKED_ROOM,
    SHM_BLOCKED_DATA,
    SHM_BLOCKED_REVOCATION, /* the peer has revoked something; what, comes through the socket */
};

struct shm_connection {
    struct sl_list node;
    struct shm_domain *domain;
    const struct sl_link_handlers *handlers;
    void *owner;
    enum shm_state state;
    int reason;
    uint64_t deadline_ns;
    char path[SL_ADDRESS_BYTES_MAX];
    uint8_t private_data[SL_LINK_PRIVATE_BYTES];

    int socket;
    struct sl_list outbox;
    bool gone_seen;
    bool hung_up;
    bool was_up; /* our memory was announced */

    struct sl_channel channel;
    struct sl_doorbell *doorbell;
    struct sl_poller poller;
    struct sl_list posted; /* SEND, READ, WRITE that have not begun */
    struct sl_list sent;   /* SENDs in the ring: completed in order */
    struct sl_list receives;
    struct sl_list completed; /* done() is due */
    enum shm_blocked blocked; /* why the head of `posted` waits */
    bool gated;               /* the oldest slot waits for an announcement */
    uint32_t acks_due;
    uint32_t data_used; /* slots of our data area in use … */
    uint32_t data_next; /* … are those before this one */

    uint32_t announced;      /* sent */
    uint32_t announced_seen; /* received */
    struct sl_list revocations;
    struct sl_list windows[SHM_BUCKETS];
    struct sl_list dying; /* windows that are still in use */
    unsigned window_count;
};

struct shm_incoming {
    struct sl_link_incoming incoming;
    int socket;
    struct sl_socket_message message; /* with the channel's descriptors */
};

static inline struct shm_connection *shm_connection_of(struct sl_link_connection *connection)
{
    return (struct shm_connection *)(void *)connection;
}
static inline struct sl_link_connection *shm_connection_public(struct shm_connection *connection)
{
    return (struct sl_link_connection *)(void *)connection;
}
static inline struct shm_domain *shm_domain_of(struct sl_link_domain *domain)
{
    return (struct shm_domain *)(void *)domain;
}

/* listener.c */
int shm_listen(struct sl_link_domain *domain, const char *address,
               void (*incoming)(void *owner, struct sl_link_incoming *request), void *owner,
               char *bound, struct sl_link_listener **listener);
void shm_listener_close(struct sl_link_listener *listener);
void shm_reject(struct sl_link_incoming *request);
/* "unix:/path" → the path, or NULL. */
const char *shm_address_path(const char *address);
/* 0, -SL_E_PROTOCOL, -SL_E_VERSION. */
int shm_control_check(const struct shm_control *control, const struct sl_socket_message *message);

/* connection.c */
int shm_connect(struct sl_link_domain *domain, const char *address, const uint8_t *private_data,
                uint64_t deadline_ns, const struct sl_link_handlers *handlers, void *owner,
                struct sl_link_connection **connection);
int shm_accept(struct sl_link_domain *domain, struct sl_link_incoming *request,
               const struct sl_link_handlers *handlers, void *owner,
               struct sl_link_connection **connection);
void shm_disconnect(struct sl_link_connection *connection, int reason);
void shm_connection_free(struct sl_link_connection *connection);
/* Begins teardown: flushes, wakes the control coroutine. Harmless twice. */
void shm_connection_fail(struct shm_connection *connection, int reason);
/* Queues a control record; copies the descriptor (-1 = none). -ENOMEM, -EMFILE. */
int shm_control_send(struct shm_connection *connection, const struct shm_control *control,
                     int descriptor);

/* window.c */
/* A window is being mapped on this thread: no domain of it, this one or another, may announce it to
 * its own peers. */
extern _Thread_local bool shm_window_mapping;
/* 0 and *span; -SL_E_KEY, -EAGAIN (cannot be mapped now), -EIO (the memory vanished). */
int shm_window_resolve(struct shm_connection *connection, const struct sl_remote_piece *piece,
                       unsigned access, struct sl_span *span);
/* Takes the memfd, also on error. */
int shm_window_add(struct shm_connection *connection, const struct shm_control *control, int memfd);
int shm_window_revoke(struct shm_connection *connection, uint64_t key);
/* All of them: the connection closes. */
void shm_window_revoke_all(struct shm_connection *connection);
/* Unmaps those that nobody uses any more. True: none is left dying. */
bool shm_window_drain(struct shm_connection *connection);
/* Gives up those that are still dying: their pages go with their last user. */
void shm_window_abandon(struct shm_connection *connection);

/* Tells the peer of a region of ours, if it has a right to it. 0 or negative errno. */
int shm_region_announce(struct shm_connection *connection, struct sl_region *region);
/* Tells the peer that it is gone; keeps a reference until the peer has acknowledged. */
void shm_region_revoke(struct shm_connection *connection, struct sl_region *region,
                       const struct shm_key *key);
/* The peer has. -SL_E_PROTOCOL: acknowledged what was not revoked. */
int shm_region_revoked(struct shm_connection *connection, uint64_t key);
/* All references: the peer can touch nothing any more. */
void shm_region_release_all(struct shm_connection *connection);

/* data.c */
void shm_post(struct sl_link_connection *connection, struct sl_link_op *op);
void shm_data_init(struct shm_connection *connection);
/* Calls done() of what has completed; answers how many. */
unsigned shm_data_deliver(struct shm_connection *connection);
/* Everything that has not completed does so with -ECONNRESET. */
void shm_data_flush(struct shm_connection *connection);

#endif
