/*
 * The local channel between initiator and gateway; stands for DOCA Comch. docs/wire.md, "comch".
 *
 *   control: a Unix socket (SOCK_SEQPACKET) a channel, fixed-size records, descriptors passed along
 *   data:    per queue two rings of struct sl_io_message in a sealed memfd of the initiator's, with
 * eventfd doorbells that stay silent while the peer polls
 *
 *   CONNECTED ─query─► QUERIED ─init─► INITIALISED ─start─► RUNNING ─stop─► STOPPED ─shutdown─►
 * (closed) │   ▲                  ▲              │ └───┘ connections,     └────start─────┘ memory
 *
 * This header is the gateway's side; client.h is the initiator's. Everything that comes from an
 * initiator is untrusted; what it does wrong ends its own session and nothing else.
 *
 * Threads: a server and its sessions belong to the reactor of `io` (the control reactor). A queue
 * belongs to the reactor that create_connection_co() chose. Everything here is called on the
 * owner's reactor.
 */
#ifndef SL_COMCH_COMCH_H
#define SL_COMCH_COMCH_H

#include "core/base.h"
#include "fabric/capsule.h"
#include "io/io.h"
#include "mem/copy.h"

struct sl_comch_server;
struct sl_comch_session; /* one connected initiator */
struct sl_comch_queue;   /* one data queue pair of it */

/* Volume names: 1 … 63 bytes, zero-terminated. */
#define SL_COMCH_VOLUME_BYTES 64

/* Requests that one queue may have outstanding. 1024 × 64 B × 2 × 2 rings = 256 KiB of rings at
 * most. */
#define SL_COMCH_DEPTH_DEFAULT 128u
#define SL_COMCH_DEPTH_MAX     1024u
/* Queues of one session: one a core of the initiator. */
#define SL_COMCH_QUEUES_MAX 64u
/* Shared memories of one session: one a core, and as many again while they are replaced. */
#define SL_COMCH_MEMORIES_MAX 128u

/* What query_storage and init_storage answer. */
struct sl_comch_storage {
    uint64_t capacity_bytes;
    uint32_t block_bytes;        /* offsets and lengths are multiples of it */
    uint32_t transfer_bytes_max; /* of one I/O */
    uint32_t queue_count_max;    /* data connections that are useful: the gateway's reactors */
    uint32_t depth_max;          /* ≤ SL_COMCH_DEPTH_MAX */
    uint32_t flags;              /* enum sl_comch_storage_flags */
    uint32_t volume;             /* init_storage: goes into each sl_io_message; query_storage: 0 */
};
enum sl_comch_storage_flags { SL_COMCH_READ_ONLY = 1, SL_COMCH_REPLICATED = 4 };

/* What the initiator prints beside its own figures. Counted since the gateway and the targets
 * started. */
struct sl_comch_statistics {
    struct sl_copy_counters gateway;
    struct sl_copy_counters targets; /* added up over those that the session's volume lies on */
    uint64_t io_count;               /* of this session, completed */
    uint64_t io_bytes;
    uint64_t error_count;
    uint64_t retry_count;
    uint64_t gateway_injected_count; /* faults of --inject: the gateway's process, all targets */
    uint64_t targets_injected_count;
};

enum sl_comch_connection_kind {
    SL_COMCH_CONNECTION_CONTROL =
        1, /* the gateway makes sure that the volume's storage is reachable */
    SL_COMCH_CONNECTION_DATA = 2, /* a data queue */
};

/* What create_connection_co() decides about a data queue. */
struct sl_comch_queue_config {
    struct sl_io *io; /* the queue is handed to sl_io_reactor(io), by mail */
    void *owner;      /* for received() */
    /* A submission, on the queue's reactor, not in a coroutine: spawn one, or act at once.
     * `message` is a private copy, valid during the call; nothing of it was checked. Never more
     * outstanding than the agreed depth, never while the session is not RUNNING: those are answered
     * here (BUSY, STATE). */
    void (*received)(void *owner, struct sl_comch_queue *queue,
                     const struct sl_io_message *message);
};

/*
 * All run on the control reactor. Those that end in _co run in a coroutine of the session, one at a
 * time, and answer 0 or a negative errno, which the initiator gets as error_response with its
 * status. `owner` is the session's (sl_comch_session_set_owner()), for connected() the server's.
 */
struct sl_comch_handlers {
    /* A new session. Sets its owner. */
    void (*connected)(void *server_owner, struct sl_comch_session *session);
    /* `volume` may be "": the default one. -ENOENT. Fills *storage. */
    int (*query_storage_co)(void *owner, struct sl_comch_session *session, const char *volume,
                            struct sl_comch_storage *storage);
    int (*init_storage_co)(void *owner, struct sl_comch_session *session, const char *volume,
                           struct sl_comch_storage *storage);
    /* Data: queue number `queue_index` (0, 1, …) of the session with `depth` (1 … depth_max that
     * was answered); fills *config. Control: config is NULL. */
    int (*create_connection_co)(void *owner, struct sl_comch_session *session,
                                enum sl_comch_connection_kind kind, uint32_t queue_index,
                                uint32_t depth, struct sl_comch_queue_config *config);
    /* Submissions follow after it returns 0. */
    int (*start_storage_co)(void *owner, struct sl_comch_session *session);
    /* No submission comes any more. Returns when every outstanding I/O was completed. */
    int (*stop_storage_co)(void *owner, struct sl_comch_session *session);
    /* `memfd` is sealed against shrinking and at least `length_bytes` long (a multiple of 4 KiB).
     * Borrowed: dup it for sl_region_map_foreign() on each reactor that needs it. `writable`: reads
     * may land in it. `memory_id` (never 0) is unique in the session and not used again; those
     * alive differ modulo SL_COMCH_MEMORIES_MAX. */
    int (*register_memory_co)(void *owner, struct sl_comch_session *session, uint32_t memory_id,
                              int memfd, uint64_t length_bytes, bool writable);
    /* Waits for outstanding I/O on it, then unmaps it everywhere. */
    int (*unregister_memory_co)(void *owner, struct sl_comch_session *session, uint32_t memory_id);
    int (*statistics_co)(void *owner, struct sl_comch_session *session,
                         struct sl_comch_statistics *statistics);
    /* The initiator shut down (reason 0), died or misbehaved (negative). No received() comes any
     * more; called once a session, and it must wait until every outstanding I/O was completed and
     * unmap all memory. When it returns, the session and its queues are freed. */
    void (*closed_co)(void *owner, struct sl_comch_session *session, int reason);
};

/* Listens at `path` (comch/path.h) and accepts from the same user or root only. Borrows io and
 * handlers. -EADDRINUSE (a live server answers there; a stale socket is removed), -ENAMETOOLONG,
 * -EACCES, … */
int sl_comch_server_open(struct sl_io *io, const char *path,
                         const struct sl_comch_handlers *handlers, void *owner,
                         struct sl_comch_server **server);
/* Ends every session (closed_co() of each with -ECANCELED), waits for them, removes the socket,
 * frees the server. Takes NULL. */
void sl_comch_server_close_co(struct sl_comch_server *server);
unsigned sl_comch_server_session_count(const struct sl_comch_server *server);

void sl_comch_session_set_owner(struct sl_comch_session *session, void *owner);
/* Begins its end, as if the initiator had died. */
void sl_comch_session_disconnect(struct sl_comch_session *session, int reason);
/* Unique in the process, for logs. */
uint32_t sl_comch_session_id(const struct sl_comch_session *session);
/* Of the peer, by SO_PEERCRED: for logs. */
int sl_comch_session_pid(const struct sl_comch_session *session);

/* On the queue's reactor; once for each received(). Legal until closed_co() returns; after the
 * session's death it only counts. The initiator sees it in the next turn of the reactor at the
 * latest. */
void sl_comch_queue_complete(struct sl_comch_queue *queue, uint32_t request_id,
                             enum sl_status status);
/* received() that were not completed yet. */
uint32_t sl_comch_queue_outstanding(const struct sl_comch_queue *queue);
struct sl_comch_session *sl_comch_queue_session(const struct sl_comch_queue *queue);

#endif
