/*
 * What the files of the ofi link share. All of it belongs to the domain's reactor but the library.
 *
 *   domain      fabric, protection domain, event queue, completion queues; the regions' keys
 *   connection  an FI_EP_MSG endpoint (a queue pair)
 *   slot        an operation that the provider has: the context of its completion
 *   listener    a passive endpoint with a fabric and an event queue of its own
 *
 *   RESOLVING ──► CONNECTING ─┐ FI_CONNECTED         nothing outstanding, or OFI_DRAIN_NS
 *       │         ACCEPTING ────┴──────► UP ──► CLOSING ──► CLOSED
 *       └─────────────└── refused, late ──────────▲   (fi_shutdown, drain, fi_close)
 *
 *   RESOLVING (verbs) has no endpoint yet, and closes, or is unsettled, after its thread's return.
 *
 * Invariants
 *  - A slot's memory stays until the domain closes: a completion that comes late, after its
 *    operation was flushed by force, finds its slot and nothing else.
 *  - fi_close() of an endpoint comes before its operations are flushed by force: only then does the
 *    provider touch their memory no more.
 *  - A region's registration lives in its client_data: the cache, keyed by (region, domain).
 */
#ifndef SL_FABRIC_OFI_INTERNAL_H
#define SL_FABRIC_OFI_INTERNAL_H

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>

#include "fabric/ofi/ofi.h"
#include "io/address.h"

#define OFI_MAGIC   UINT32_C(0x464f4c53) /* "SLOF" */
#define OFI_VERSION 1

/* Receives of a connection: SL_CREDITS_MAX requests, as many replies, SL_CONTROL_RECEIVES = 264,
 * and some room. Where the provider's receive queue is shorter the rest waits here; the peer's card
 * retries (RNR) in the unlikely moment when all are in use. */
#define OFI_RECEIVE_QUEUE 288u
/* SL_CREDITS_MAX requests and replies, and READs or WRITEs beside them. */
#define OFI_SEND_QUEUE 512u
/* Completions of one queue: 40 connections of 512 + 288. Another queue is made beyond. Soft-RoCE
 * takes 32767, cards from 65535 on; where it is fewer, halved until the device takes it, down to
 * one connection. */
#define OFI_QUEUE_ENTRIES       32000u
#define OFI_QUEUE_ENTRIES_LEAST 1000u
/* Taken from a completion queue at a time. */
#define OFI_COMPLETIONS_A_READ 32u
/* After fi_shutdown() the provider should flush; what it has not flushed by then ends with
 * fi_close(). */
#define OFI_DRAIN_NS (100 * SL_NS_PER_MS)

/* Travels in the connection request, with its answer and its refusal: docs/wire.md, "ofi link". */
enum ofi_reason { OFI_REASON_NONE = 0, OFI_REASON_REFUSED = 1, OFI_REASON_VERSION = 2 };
struct ofi_preamble {
    uint32_t magic;                              /* 0 */
    uint16_t version;                            /* 4 */
    uint16_t reason;                             /* 6 enum ofi_reason */
    uint8_t private_data[SL_LINK_PRIVATE_BYTES]; /* 8 request only */
};
_Static_assert(sizeof(struct ofi_preamble) == 40, "wire.md: ofi link");
#define OFI_ANSWER_BYTES offsetof(struct ofi_preamble, private_data)

/* library.c: what libfabric exports by name; everything else goes through its objects. */
struct ofi_library {
    uint32_t (*version)(void);
    int (*getinfo)(uint32_t version, const char *node, const char *service, uint64_t flags,
                   const struct fi_info *hints, struct fi_info **info);
    void (*freeinfo)(struct fi_info *info);
    struct fi_info *(*dupinfo)(const struct fi_info *info);
    int (*fabric)(struct fi_fabric_attr *attr, struct fid_fabric **fabric, void *context);
    const char *(*strerror)(int number);
    /* Of librdmacm (rdma_create_id, …), with its pointers opaque; NULL: it is not there. */
    int (*cm_create_id)(void *channel, void **id, void *context, int port_space);
    int (*cm_resolve_addr)(void *id, struct sockaddr *source, struct sockaddr *peer,
                           int timeout_ms);
    int (*cm_destroy_id)(void *id);
};
/* NULL: it cannot be loaded; `why` (may be NULL) says why. Any thread; the first call loads it. */
const struct ofi_library *ofi_library(const char **why);
/* A libfabric code (either sign) as ours: negative errno. */
int ofi_error(long code);

/* Runs `function` on a thread with an ordinary stack and waits for it: what opens libraries and
 * devices takes more than a coroutine has. Blocks: at start only. */
void ofi_on_thread(void (*function)(void *argument), void *argument);

/* device.c: the info of the device that `name` means, of `device` if that is not NULL. 0 and *info
 * (freeinfo), or -ENODEV with `error`. */
int ofi_info_choose(const char *name, struct fi_info **info, struct sl_ofi_device *device,
                    char *error, size_t error_bytes);

struct ofi_domain;

/* A completion queue, shared by connections. */
struct ofi_queue {
    struct sl_list node;
    struct ofi_domain *domain;
    struct fid_cq *cq;
    struct sl_watch *watch;
    uint32_t entries;
    uint32_t reserved; /* of these, what its connections may fill */
};

/* A region's registration. */
struct ofi_key {
    struct fid_mr *mr;
    void *desc;
    uint64_t key;
    uint64_t pinned_bytes;
    unsigned access;
};

/* A region whose pages the provider may still touch for connections that were there when it was
 * removed (only where deregistration does not wait: tcp). */
struct ofi_retired {
    struct sl_list node;
    struct sl_region *region;
    uint64_t birth; /* connections younger than this never saw it */
};

struct ofi_domain {
    struct sl_link_domain_config config;
    struct sl_reactor *reactor;
    const struct ofi_library *library;
    struct fi_info *info;
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    struct fid_eq *eq;
    struct sl_watch *eq_watch;
    bool eq_ready;
    int open_error;
    bool is_verbs;
    bool bound; /* a device was named: connections leave from its address */
    struct sl_list queues;
    struct sl_region_client client;
    uint64_t region_count;
    struct sl_poller poller;
    struct sl_list connections;
    struct sl_list blocked;   /* connections with operations that the provider had no room for */
    unsigned unsettled_count; /* connections neither up nor closed: events are looked for */
    unsigned listener_count;
    uint64_t births;
    struct sl_list retired;
    struct sl_list free_slots;
    struct sl_list slabs;
    struct sl_link_limits limits;
    uint32_t receive_queue;
    uint32_t queue_share; /* entries of a completion queue that a connection may fill */
};

enum ofi_state { OFI_RESOLVING, OFI_CONNECTING, OFI_ACCEPTING, OFI_UP, OFI_CLOSING, OFI_CLOSED };

struct ofi_connection;

/* A connection that goes out, until its endpoint is made. */
struct ofi_outgoing {
    struct ofi_connection *connection;
    struct fi_info *info; /* the domain's, with both addresses */
    struct ofi_preamble preamble;
    int error;           /* of resolve.c */
    struct sl_mail mail; /* home from there */
};

struct ofi_connection {
    struct sl_list node;
    struct ofi_domain *domain;
    const struct sl_link_handlers *handlers;
    void *owner;
    enum ofi_state state;
    int reason;
    uint64_t birth;
    struct ofi_outgoing *outgoing; /* a thread resolves the address; NULL: none does */
    struct fid_ep *ep;             /* NULL: not made yet */
    struct ofi_queue *queue;
    char peer[SL_ADDRESS_BYTES_MAX];
    bool was_up;
    bool has_drained;         /* or may take no longer */
    bool is_blocked;          /* in domain->blocked */
    struct sl_list blocked;   /* its node there */
    struct sl_list posted;    /* SEND, READ, WRITE, atomics that the provider has not taken */
    struct sl_list receives;  /* RECEIVEs likewise */
    struct sl_list busy;      /* slots of the former, in their order … */
    struct sl_list listening; /* … and of the latter */
    struct sl_list early;     /* completed before connected() */
    unsigned busy_count;
    unsigned listening_count;
    struct sl_timer timer; /* to connect; later to drain */
};

/* The provider's context comes first: completions name it. */
struct ofi_slot {
    struct fi_context2 context;
    struct sl_list node; /* free, or of its connection */
    struct ofi_domain *domain;
    struct ofi_connection *connection;
    struct sl_link_op *op; /* NULL: flushed by force, the completion may still come; or free */
    bool has_failed;       /* its completion came; the operation waits for its turn in the flush */
    int status;            /* then */
    uint64_t operand;      /* atomics: the provider may read them until completion */
    uint64_t compare;
};

struct ofi_listener {
    struct ofi_domain *domain; /* NULL after the close */
    const struct ofi_library *library;
    struct sl_io *io;
    struct sl_reactor *reactor;
    struct fi_info *info;
    struct fid_fabric *fabric;
    struct fid_eq *eq;
    struct fid_pep *pep;
    struct sl_watch *watch;
    char address[SL_ADDRESS_BYTES_MAX];
    void (*incoming)(void *owner, struct sl_link_incoming *request);
    void *owner;
    unsigned references; /* its owner, each request that is not answered */
};

struct ofi_incoming {
    struct sl_link_incoming incoming;
    struct ofi_listener *listener;
    struct fi_info *info; /* NULL: accepted */
    struct sl_mail mail;
};

static inline struct ofi_domain *ofi_domain_of(struct sl_link_domain *domain)
{
    return (struct ofi_domain *)(void *)domain;
}
static inline struct ofi_connection *ofi_connection_of(struct sl_link_connection *connection)
{
    return (struct ofi_connection *)(void *)connection;
}
static inline struct sl_link_connection *ofi_connection_public(struct ofi_connection *connection)
{
    return (struct sl_link_connection *)(void *)connection;
}

/* registration.c */
int ofi_region_attach(struct sl_region_client *client, struct sl_region *region);
void ofi_region_detach(struct sl_region_client *client, struct sl_region *region);
/* Gives up retired regions that no connection can reach any more. */
void ofi_retired_release(struct ofi_domain *domain);
int ofi_describe(struct sl_link_domain *domain, struct sl_region *region, const void *data,
                 uint32_t length_bytes, struct sl_remote_piece *piece);

/* queue.c: completions and events. */
int ofi_queues_open(struct ofi_domain *domain);
void ofi_queues_close(struct ofi_domain *domain);
/* A queue with room for a connection; it is the caller's share until ofi_queue_release(). NULL: no
 * memory. */
struct ofi_queue *ofi_queue_reserve(struct ofi_domain *domain);
void ofi_queue_release(struct ofi_queue *queue);
/* Handles what is there; answers how much. */
unsigned ofi_queue_poll(struct ofi_queue *queue);
/* NULL: no memory. */
struct ofi_slot *ofi_slot_get(struct ofi_domain *domain);
void ofi_slot_put(struct ofi_domain *domain, struct ofi_slot *slot);

/* data.c */
void ofi_post(struct sl_link_connection *connection, struct sl_link_op *op);
/* Hands the provider what it has room for. */
void ofi_issue(struct ofi_connection *connection);
/* The provider is done with a slot; takes it. `length_bytes` of a receive. */
void ofi_complete(struct ofi_slot *slot, int status, uint64_t length_bytes);
/* The endpoint is closed: whatever is left gets -ECONNRESET. */
void ofi_flush(struct ofi_connection *connection);

/* connection.c */
int ofi_connect(struct sl_link_domain *domain, const char *address, const uint8_t *private_data,
                uint64_t deadline_ns, const struct sl_link_handlers *handlers, void *owner,
                struct sl_link_connection **connection);
int ofi_accept(struct sl_link_domain *domain, struct sl_link_incoming *request,
               const struct sl_link_handlers *handlers, void *owner,
               struct sl_link_connection **connection);
void ofi_disconnect(struct sl_link_connection *connection, int reason);
void ofi_connection_free(struct sl_link_connection *connection);
void ofi_die(struct ofi_connection *connection, int reason);
/* Closes those that have drained; answers how many. */
unsigned ofi_connections_finish(struct ofi_domain *domain);
/* Handles the events of the domain's connections; answers how many. */
unsigned ofi_events_poll(struct ofi_domain *domain);

/* resolve.c: resolves the peer's address on a thread, then posts `mail` to the domain's reactor. */
void ofi_resolve(struct ofi_outgoing *outgoing);

/* listener.c */
int ofi_listen(struct sl_link_domain *domain, const char *address,
               void (*incoming)(void *owner, struct sl_link_incoming *request), void *owner,
               char *bound, struct sl_link_listener **listener);
void ofi_listener_close(struct sl_link_listener *listener);
void ofi_reject(struct sl_link_incoming *request);
/* The request was accepted or refused: frees it. On the listener's reactor. */
void ofi_incoming_done(struct ofi_incoming *incoming);

#endif
