/*
 * The storage target: admits requests from gateways, moves payload one-sidedly, checks CRCs, drives
 * the backend. One struct sl_target a reactor; a struct sl_storage is shared by the reactors of the
 * process and is immutable after open, but for the shards, each of which belongs to one reactor.
 *
 *   received ─► admit ─► payload in (in-capsule | READ | mapped) ─► range lock ─► backend ─► CRC ─►
 * reply
 *
 * Offset ─► reactor: shards of SL_SHARD_BYTES go round-robin over the reactors of the process; a
 * request for another reactor's shard is answered SL_STATUS_MOVED. One request never crosses a
 * shard boundary.
 */
#ifndef SL_TARGET_TARGET_H
#define SL_TARGET_TARGET_H

#include "fabric/fabric.h"
#include "raft/raft.h"

/* As a chunk of the coming store: 16 MiB. */
#define SL_SHARD_BYTES (16 * SL_MIB)

/* Of one target; and their shards together, of which reactors serve whole ones. */
#define SL_STORAGE_DISKS_MAX  16u
#define SL_STORAGE_SHARDS_MAX 64u

struct sl_storage;
struct sl_target;
struct sl_inject;

struct sl_storage_config {
    const char *spec; /* "mem:SIZE", "store:PATH" (formatted), "file:PATH", "PATH" of a device */
    /* Further disks, all "store:PATH" as then the first one is: in a cluster only. */
    const char *const *more;
    unsigned more_count;
    uint64_t size_bytes; /* 0 = all; more than the file has: -ENOSPC */
    unsigned reactor_count;
    bool read_only;
    bool checksums;      /* default on; off only to measure */
    bool durable_writes; /* RWF_DSYNC: default on; off: durable at flush (mem: no matter) */
    bool buffered;       /* tests on file systems without O_DIRECT */
    bool hugepages;
    uint64_t scrub_bytes_per_s; /* store: verified in the background, each shard; 0 = not */
    uint64_t compare_pause_ns;  /* between comparisons of all replicas; 0: ten minutes. Tests */
};

struct sl_storage_info {
    uint64_t capacity_bytes;
    uint8_t storage_id[16];
    bool read_only;
};

/* Parses, checks and locks the storage; at start, on any thread. Errors are explained in `error`
 * (what was wrong, the limit, what to do). -EINVAL (spec), -ENOENT, -EACCES, -EROFS, -EWOULDBLOCK,
 * -ENOSPC, … */
int sl_storage_open(const struct sl_storage_config *config, struct sl_storage **storage,
                    char *error, size_t error_bytes);
const struct sl_storage_info *sl_storage_info(const struct sl_storage *storage);
/* As it was given, for people: all of its disks. */
const char *sl_storage_name(const struct sl_storage *storage);
/* After every target of it was destroyed. Takes NULL. */
void sl_storage_close(struct sl_storage *storage);

struct sl_target_statistics {
    uint64_t read_count, read_bytes, write_count, write_bytes, flush_count, discard_count;
    uint64_t error_count, checksum_error_count, moved_count, inflight_count;
    uint64_t follower_read_count; /* of reads: served by a replica that does not lead */
    uint64_t resync_count;        /* states that were given to members of groups that lead here */
    uint64_t injected_count;      /* faults that --inject struck with on this reactor */
    struct sl_copy_counters copies;
};

/* On the reactor `reactor_index` of the storage's reactors. Borrows io, memory and storage. */
int sl_target_create(struct sl_storage *storage, unsigned reactor_index, struct sl_io *io,
                     struct sl_memory *memory, struct sl_target **target);
/* What takes I/O before it can serve: a store reads its log. Then `info` of the storage is known.
 * Logs why not. Before the first request, and before another reactor's. */
int sl_target_mount_co(struct sl_target *target);
/* Before sl_target_destroy(), also after a failed mount; no request may be in flight. */
void sl_target_unmount_co(struct sl_target *target);
/* No request may be in flight (drain the fabric first). Reactor 0's last: with it the checksums are
 * saved and the lock is given back. Takes NULL. */
void sl_target_destroy(struct sl_target *target);
/* Its hits are shown among the statistics. Borrowed until destroy; NULL: none. */
void sl_target_count_injected(struct sl_target *target, const struct sl_inject *inject);
void sl_target_statistics(const struct sl_target *target, struct sl_target_statistics *statistics);
/* Takes what the storage's disks have grown by since they were formatted into use, this reactor's
 * shards of them; says in the log what came of it. One reactor after the other. NULL: nothing. */
void sl_target_grow_co(struct sl_target *target);
/* What its storage has to say of itself, into the log. */
void sl_target_report(const struct sl_target *target);

/* ---- part of a cluster ---- */

struct sl_target_cluster_node {
    uint32_t id;         /* 1 or more */
    const char *address; /* as the link takes it */
};

/* A replica that the cluster file places on this node: said if the disk does not have it. */
struct sl_target_cluster_group {
    uint32_t id;
    uint64_t replica;
};

struct sl_target_cluster_config {
    uint8_t cluster_id[16];
    uint32_t node;     /* this one */
    uint64_t instance; /* random, of this run of the process, the same on its reactors */
    unsigned node_count;
    const struct sl_target_cluster_node *nodes; /* all, this one among them */
    unsigned group_count;
    const struct sl_target_cluster_group *groups;
    const struct sl_raft_tuning *tuning; /* NULL: the default */
    /* A disk whose log takes no write of so many bytes is refused: gateways send up to
     * SL_TRANSFER_BYTES_MAX, and cut nothing that one node of the group cannot keep. 0: any. */
    uint32_t write_bytes_least;
};

/* After sl_target_create() and before sl_target_mount_co(), on each reactor: the storage holds
 * replicas of groups, and its plain I/O is refused. `config` is copied. `fabric` is borrowed until
 * destroy: it is of role target, connects to the other nodes, and its domain lets them read our
 * arenas (arena_access SL_ACCESS_REMOTE_READ). -EOPNOTSUPP (the storage is no disk of the store),
 * -EINVAL, -ENOMEM; logged. Mount then opens the groups and begins to take part. */
int sl_target_cluster_begin(struct sl_target *target, struct sl_fabric *fabric,
                            const struct sl_target_cluster_config *config);
/* Gives leaderships and waiting requests up and drains `fabric`. Before the serving fabric is
 * drained and the target unmounted. Nothing happens without a cluster. */
void sl_target_cluster_stop_co(struct sl_target *target);

/* For sl_fabric_listen(); the listener owner is the struct sl_target of that reactor. */
extern const struct sl_connection_handlers sl_target_connection_handlers;

/* One I/O on memory that this process can reach (a gateway in the same process; mapped client
 * memory): spans lie in regions of this reactor's memory or have region NULL. 0 or negative errno:
 * -EINVAL (misaligned, zero, crosses a shard), -ERANGE, -SL_E_MOVED, -SL_E_CHECKSUM, -EIO, -ENOSPC,
 * -EROFS. */
int sl_target_execute_co(struct sl_target *target, enum sl_io_opcode opcode, uint64_t offset_bytes,
                         const struct sl_span *spans, unsigned span_count, uint32_t length_bytes);

#endif
