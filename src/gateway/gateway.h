/*
 * The gateway: routes the I/O of its front-ends to storage, retries, and tells the truth about the
 * outcome. It never touches payload: it registers client memory and passes on {address, length,
 * key}.
 *
 *   front-end ─► sl_gateway_execute_co ─► fragments (stripe, transfer size) ─► route ─► target
 *
 * struct sl_gateway is one reactor's; the reactors of a process share a struct sl_gateway_group,
 * whose configuration is immutable. Each reactor keeps its own connections, to every reactor of
 * every server, and learns the geometry itself: nothing is shared on the data path.
 *
 * Its servers are plain targets (fragment.c), or the nodes of a cluster, whose groups replicate
 * (replicated.c).
 *
 * Only the gateway retries (STYLE 20). A request fails with SL_E_UNREACHABLE or ETIMEDOUT only when
 * its time is up and its connection is torn down, so that nothing of it can still land in the
 * client's memory.
 */
#ifndef SL_GATEWAY_GATEWAY_H
#define SL_GATEWAY_GATEWAY_H

#include "fabric/fabric.h"
#include "gateway/request.h"

#define SL_SERVERS_MAX           64
#define SL_SERVER_REACTORS_MAX   64
#define SL_VOLUMES_MAX           256
#define SL_VOLUME_NAME_BYTES_MAX 64
#define SL_VOLUME_COLUMNS_MAX    256 /* servers or groups that one volume is striped over */
#define SL_STRIPE_BYTES_DEFAULT  (1 * SL_MIB)
#define SL_STRIPE_BYTES_MIN      (64 * SL_KIB)
/* Default time-out of one I/O, retries included. */
#define SL_IO_TIMEOUT_NS (30 * SL_NS_PER_S)

struct sl_gateway;
struct sl_gateway_group;
struct sl_cluster;
struct sl_inject;

/* Storage in this very process (sluice-target --gateway): called instead of a connection. `storage`
 * is the target of that reactor; its signature is sl_target_execute_co()'s. */
struct sl_local_storage {
    uint64_t capacity_bytes;
    uint8_t storage_id[16];
    bool read_only;
    uint64_t shard_bytes;
    void *const *targets; /* one a reactor of the group */
    int (*execute_co)(void *target, enum sl_io_opcode opcode, uint64_t offset_bytes,
                      const struct sl_span *spans, unsigned span_count, uint32_t length_bytes);
};

/* A volume as asked for on the command line. */
struct sl_volume_spec {
    char name[SL_VOLUME_NAME_BYTES_MAX];
    uint64_t size_bytes;    /* 0 = all that is left on its servers */
    uint64_t server_bitmap; /* which servers it is striped over; 0 = all */
};

/* A volume laid out over its servers (of a cluster: its groups, by their place in the file): stripe
 * i lies on server i mod n, at base + (i div n) * stripe. */
struct sl_volume {
    char name[SL_VOLUME_NAME_BYTES_MAX];
    uint32_t index;
    uint32_t id; /* in the cluster file; 0 without one */
    uint64_t size_bytes;
    uint32_t stripe_bytes;
    bool read_only;
    bool shared; /* by several gateways at once */
    unsigned server_count;
    uint16_t servers[SL_VOLUME_COLUMNS_MAX];
    uint64_t base_bytes[SL_VOLUME_COLUMNS_MAX];
};

struct sl_gateway_config {
    const char *const *servers; /* addresses, as sl_link_ops.connect takes them; borrowed */
    unsigned server_count;
    /* Replicated: `servers` are its nodes, in their order, and the volumes are the cluster's.
     * Borrowed until the group is destroyed. NULL: plain servers. */
    const struct sl_cluster *cluster;
    const struct sl_local_storage *local; /* server number server_count, if not NULL; borrowed */
    const struct sl_volume_spec *volumes;
    unsigned volume_count;  /* 0 = one volume "default" over everything */
    uint32_t stripe_bytes;  /* 0 = the default; a power of two, 64 KiB … 16 MiB */
    uint64_t io_timeout_ns; /* 0 = the default */
    bool follower_reads;    /* replicated: reads go to all replicas in turn */
};

struct sl_gateway_statistics {
    uint64_t read_count, read_bytes, write_count, write_bytes, other_count;
    uint64_t error_count, retry_count, connect_count, disconnect_count, inflight_count;
    struct sl_copy_counters copies;        /* this process's */
    struct sl_copy_counters target_copies; /* of all servers, as last asked */
    uint64_t target_read_bytes, target_write_bytes;
    uint64_t injected_count;        /* faults that --inject struck with in this process */
    uint64_t target_injected_count; /* in all servers, as last asked */
};

/* Checks the configuration: -EINVAL, explained in `error`. */
int sl_gateway_group_create(const struct sl_gateway_config *config, unsigned reactor_count,
                            struct sl_gateway_group **group, char *error, size_t error_bytes);
/* Every gateway of it must be destroyed. Takes NULL. */
void sl_gateway_group_destroy(struct sl_gateway_group *group);

/* On its reactor. `fabric` may be NULL if all storage is local. Begins to connect at once and for
 * ever. */
int sl_gateway_create(struct sl_gateway_group *group, unsigned reactor_index,
                      struct sl_reactor *reactor, struct sl_memory *memory,
                      struct sl_fabric *fabric, struct sl_gateway **gateway);
/* Ends the connections; requests in flight fail with ECANCELED. */
void sl_gateway_stop_co(struct sl_gateway *gateway);
void sl_gateway_destroy(struct sl_gateway *gateway);
/* Its hits are shown among the statistics. Borrowed until destroy; NULL: none. */
void sl_gateway_count_injected(struct sl_gateway *gateway, const struct sl_inject *inject);
struct sl_reactor *sl_gateway_reactor(struct sl_gateway *gateway);
struct sl_gateway *sl_gateway_group_member(struct sl_gateway_group *group, unsigned index);
unsigned sl_gateway_group_count(const struct sl_gateway_group *group);

/* The volume, once every server under it has told its size. NULL name = the first. -ENOENT,
 * -ETIMEDOUT (which servers did not answer is logged), -ENOSPC (the servers are smaller than the
 * volumes). */
int sl_gateway_volume_co(struct sl_gateway *gateway, const char *name, uint64_t deadline_ns,
                         const struct sl_volume **volume);
/* For a client that will do I/O: gives the volume, and the epoch that its requests carry. On the
 * gateway of reactor 0. An exclusive volume of a cluster is attached anew in each of its groups,
 * unless another client of this process holds it already: a gateway that had it before is fenced.
 * Errors as above, -SL_E_UNREACHABLE (a group has no leader), -ENOSPC. Undone by detach. */
int sl_gateway_attach_co(struct sl_gateway *gateway, const char *name, uint64_t deadline_ns,
                         const struct sl_volume **volume, uint64_t *epoch);
void sl_gateway_detach(struct sl_gateway *gateway, const struct sl_volume *volume);

/* Registers a client's shared memory on every reactor of the group. Takes the descriptor. Errors as
 * sl_region_map_foreign(). */
int sl_gateway_memory_register_co(struct sl_gateway_group *group, int memfd, size_t length_bytes,
                                  bool writable, struct sl_gateway_memory **memory);
/* No request over it may be in flight. Revokes its keys everywhere. Takes NULL. */
void sl_gateway_memory_unregister_co(struct sl_gateway_memory *memory);
size_t sl_gateway_memory_bytes(const struct sl_gateway_memory *memory);

/* Runs one request to its end, on this reactor. 0 or negative errno: -EINVAL (misaligned, zero
 * length, pieces do not add up or lie outside of their memory), -ERANGE, -EROFS, -ENOSPC, -EIO,
 * -SL_E_CHECKSUM, -SL_E_UNREACHABLE, -ETIMEDOUT, -ECANCELED, -EOPNOTSUPP (no such operation),
 * -SL_E_FENCED (attached by another gateway since), -SL_E_NO_SESSION (a group closed the session).
 * A replicated write that failed will never apply from then on, and what can not be settled is
 * waited for; but -ECANCELED, at the end of the process, says nothing about it. */
int sl_gateway_execute_co(struct sl_gateway *gateway, const struct sl_request *request);

/* A client of the group is at work: while any is, a server that returns with other storage is
 * refused. */
void sl_gateway_session_begin(struct sl_gateway_group *group);
void sl_gateway_session_end(struct sl_gateway_group *group);

/* Sums over all reactors; asks the servers too. */
void sl_gateway_statistics_co(struct sl_gateway_group *group,
                              struct sl_gateway_statistics *statistics);

#endif
