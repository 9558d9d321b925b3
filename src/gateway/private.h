/* What the files of the gateway share. Private to src/gateway. */
#ifndef SL_GATEWAY_PRIVATE_H
#define SL_GATEWAY_PRIVATE_H

#include "core/reactor.h"
#include "gateway/gateway.h"
#include "mem/iobuf.h"
#include "mem/pool.h"

struct sl_gateway_group {
    unsigned reactor_count;
    unsigned server_count; /* with the local one, which is the last */
    unsigned remote_count;
    char (*addresses)[SL_ADDRESS_BYTES_MAX];
    bool has_local;
    struct sl_local_storage local;
    struct sl_volume_spec *volumes;
    unsigned volume_count;
    uint32_t stripe_bytes;
    uint64_t io_timeout_ns;
    bool follower_reads;
    _Atomic unsigned session_count;
    const struct sl_cluster *cluster; /* NULL: plain servers */
    struct attachment *attachments;   /* one a volume of the cluster */
    struct sl_gateway **members; /* one a reactor; set by each reactor before any front-end runs */
};

/* Who may use a volume of the cluster. Of reactor 0, but for what is atomic. */
struct attachment {
    uint64_t epoch;          /* that this process attached last; 0 = never */
    uint64_t tried;          /* the highest it tried, or met: one that was given up may come late */
    _Atomic uint64_t fenced; /* epochs up to this one are refused */
    unsigned client_count;
    bool busy; /* being attached */
    struct sl_wait_queue changed;
};

/* A client's memory: one region a reactor, all of the same pages. */
struct sl_gateway_memory {
    struct sl_gateway_group *group;
    size_t length_bytes;
    bool writable;
    struct sl_region *regions[];
};

/*
 * A route: this reactor's connection to one reactor of one server.
 *
 *   DOWN ──connect, query──► OPEN ──death──► DOWN (back-off) ─► …
 *     └──storage is not the one that was there, and a client is at work──► REFUSED ─► DOWN (looks
 * again)
 */
enum route_state { ROUTE_DOWN, ROUTE_OPEN, ROUTE_REFUSED };

struct server;

struct route {
    struct server *server;
    unsigned reactor_index; /* of the server */
    enum route_state state;
    struct sl_connection *connection; /* NULL once closed() was called */
    uint64_t connected_ns;
    struct sl_list attempts;      /* struct attempt, in flight on this connection */
    struct sl_wait_queue changed; /* woken when the state changes or the connection has gone */
};

struct server {
    struct sl_gateway *gateway;
    unsigned index;
    const char *address;
    bool known;        /* it answered at least once */
    const char *fault; /* of its last description; NULL: none. Said once */
    struct sl_capsule_storage storage;
    unsigned route_count; /* as many connectors run; 1 until the server tells its reactor count */
    struct route *routes[SL_SERVER_REACTORS_MAX];
};

/* One try of one fragment on one connection. */
struct attempt {
    struct sl_list node;
    uint64_t deadline_ns;
    bool overdue;
};

struct sl_gateway {
    struct sl_gateway_group *group;
    unsigned index;
    struct sl_reactor *reactor;
    struct sl_memory *memory;
    struct sl_fabric *fabric;
    uint64_t instance_id;
    bool closing;             /* no new requests */
    bool stopping;            /* and no retries */
    unsigned coroutine_count; /* connectors and the sweeper */
    struct sl_wait_queue stopped;
    struct server *servers;
    unsigned known_count;            /* servers that answered */
    struct replicated_group *groups; /* of the cluster, in its order; replicated.h */
    struct sl_volume *volumes;
    bool laid_out;
    int layout_error;
    struct sl_wait_queue learned; /* woken when known_count grows */
    struct sl_pool fragments;
    struct sl_gateway_statistics statistics;
    const struct sl_inject *inject; /* whose hits are shown; may be NULL */
};

/* A piece of a request that goes to one server in one message. */
struct fragment {
    enum sl_io_opcode opcode;
    const struct sl_volume *volume;
    uint64_t epoch;
    unsigned server; /* or group */
    uint64_t server_offset_bytes;
    uint32_t length_bytes;
    uint64_t deadline_ns;
    uint64_t trace_id;
    unsigned span_count; /* at most SL_REMOTE_PIECES_MAX */
    struct sl_span spans[SL_REMOTE_PIECES_MAX];
    const struct sl_gateway_memory *memories[SL_REMOTE_PIECES_MAX];
    struct batch *batch; /* NULL if the request has this fragment alone */
};

/* route.c */
int sl_gateway_routes_start(struct sl_gateway *gateway);
void sl_gateway_routes_stop_co(struct sl_gateway *gateway);
void sl_gateway_routes_free(struct sl_gateway *gateway);
/* The open route for a byte of a server; waits until `deadline_ns`. -SL_E_UNREACHABLE, -ECANCELED,
 * -ESTALE (other storage than before). */
int sl_route_acquire_co(struct sl_gateway *gateway, unsigned server, uint64_t server_offset_bytes,
                        uint64_t deadline_ns, struct route **route);
/* One message of the life cycle and its answer, on a connection that the caller holds. It has a
 * time-out of its own, by which the connection is torn down. */
int sl_route_control_co(struct route *route, struct sl_connection *connection, uint8_t type,
                        union sl_capsule *reply);
/* One request and its answer over an open route. 0 and `reply` filled; or -ETIMEDOUT (`deadline_ns`
 * passed), -ECONNRESET: then the connection is closed, and nothing of it can land any more. */
int sl_route_request_co(struct route *route, union sl_capsule *request,
                        const struct sl_span *payload, unsigned payload_count, uint64_t deadline_ns,
                        union sl_capsule *reply);

/* fragment.c */
int sl_fragment_execute_co(struct sl_gateway *gateway, struct fragment *fragment);
/* How its payload travels: with the capsule (answers how many spans), or by its description in
 * `pieces` (answers 0). Negative errno. */
int sl_fragment_prepare(struct sl_gateway *gateway, const struct fragment *fragment,
                        const struct sl_connection *connection, struct sl_remote_piece *pieces,
                        uint8_t *piece_count);

/* replicated.c */
int sl_replicated_execute_co(struct sl_gateway *gateway, struct fragment *fragment);
/* attach.c: gateway->groups and the volumes, from the cluster. */
int sl_cluster_open(struct sl_gateway *gateway);
/* Wakes who waits: the gateway is stopping. */
void sl_cluster_wake(struct sl_gateway *gateway);
/* Closes the sessions, as far as it succeeds in a second. No request is in flight. */
void sl_cluster_leave_co(struct sl_gateway *gateway);
void sl_cluster_close(struct sl_gateway *gateway);

#endif
