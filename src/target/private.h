/* What the files of the target share. Private to src/target. */
#ifndef SL_TARGET_PRIVATE_H
#define SL_TARGET_PRIVATE_H

#include "mem/iobuf.h"
#include "mem/pool.h"
#include "store/store.h"
#include "target/block_table.h"
#include "target/target.h"

/* Bounded by a coroutine's frame (STYLE 8), not by the kernel's PATH_MAX. */
#define SL_STORAGE_PATH_BYTES_MAX 512

struct sl_target;
struct sl_target_cluster;

/* Where blocks live. Offsets are the storage's; a call never crosses a shard and holds the range
 * lock. */
struct backend_ops {
    /* On the target's reactor, before any other. */
    int (*open)(struct sl_target *target);
    void (*close)(struct sl_target *target);
    /* What takes I/O, behind open and in front of close; NULL: nothing. */
    int (*mount_co)(struct sl_target *target);
    void (*unmount_co)(struct sl_target *target);
    /* Spans obey the backend's alignment: see target->alignment_bytes. 0 or negative errno. */
    int (*read_co)(struct sl_target *target, uint64_t offset_bytes, const struct sl_span *spans,
                   unsigned span_count, uint32_t length_bytes);
    int (*write_co)(struct sl_target *target, uint64_t offset_bytes, const struct sl_span *spans,
                    unsigned span_count, uint32_t length_bytes);
    /* From the beginning of a buffer of ours, which the backend may go on sharing: it must not
     * change any more. NULL: write_co does as well. */
    int (*write_buf_co)(struct sl_target *target, uint64_t offset_bytes, struct sl_buf *buf,
                        uint32_t length_bytes);
    int (*flush_co)(struct sl_target *target);
    /* Reads as zeroes afterwards; `keep` false: the space may be given back. */
    int (*write_zeroes_co)(struct sl_target *target, uint64_t offset_bytes, uint32_t length_bytes,
                           bool keep);
    /* Takes what its disks have grown by into use; the outcome goes into the log. NULL: cannot. */
    void (*grow_co)(struct sl_target *target);
    /* Into the log; NULL: nothing. */
    void (*report)(const struct sl_target *target);
    /* The storage's own memory for a range, valid under the range lock; NULL if it has none. */
    void (*borrow)(struct sl_target *target, uint64_t offset_bytes, uint32_t length_bytes,
                   struct sl_span *span);
};

extern const struct backend_ops sl_backend_mem;
extern const struct backend_ops sl_backend_disk;
extern const struct backend_ops sl_backend_store;

/* One of several that a storage may have. store: its shards follow those of the disks before it; of
 * all shards of the storage together, number n belongs to reactor n mod (reactors). */
struct sl_storage_disk {
    char path[SL_STORAGE_PATH_BYTES_MAX];
    struct sl_disk *first; /* reactor 0's: the others share its open file and so its lock */
    uint8_t id[16];        /* store, once mounted */
    unsigned first_shard, shard_count;
};

struct sl_storage {
    struct sl_storage_config config; /* `spec` is owned, `more` is NULL */
    char *name;                      /* all specs */
    bool in_memory;
    struct sl_storage_disk disks[SL_STORAGE_DISKS_MAX];
    unsigned disk_count;         /* mem: one, without a path */
    struct sl_storage_info info; /* the capacity is known once the first target was created */
    const struct backend_ops *backend;
    struct sl_block_table blocks;
    unsigned store_shards; /* store: of all disks; 0: not known yet */
    uint64_t store_bytes;
    bool sidecar; /* a regular file: checksums are kept beside it between runs */
};

struct sl_target {
    struct sl_storage *storage;
    unsigned reactor_index;
    struct sl_reactor *reactor;
    struct sl_io *io;
    struct sl_memory *memory;
    struct sl_block_waiters waiters;
    uint32_t alignment_bytes;                    /* of memory, for the backend */
    struct sl_region *region;                    /* mem: this reactor's shards */
    struct sl_disk *disks[SL_STORAGE_DISKS_MAX]; /* disk: the first; store */
    struct sl_disk_info disk_infos[SL_STORAGE_DISKS_MAX];
    struct sl_store *stores[SL_STORAGE_SHARDS_MAX]; /* store: this reactor's, by number of shard */
    struct sl_pool serves;
    struct sl_list peers; /* connections, oldest first */
    struct sl_wait_queue peers_changed;
    struct sl_target_statistics statistics;
    const struct sl_inject *inject;    /* whose hits are shown; may be NULL */
    struct sl_target_cluster *cluster; /* NULL: the storage is this node's alone */
};

/* storage.c; called by backend_disk.c and sl_target_create() on the first reactor */
int sl_storage_learn(struct sl_storage *storage, struct sl_reactor *reactor,
                     uint64_t capacity_bytes);
/* The last I/O has ended, and the lock is still ours: keeps the checksums for the next run. */
void sl_storage_settle(struct sl_storage *storage);

/* backend_disk.c: a file or device, shared by the storage's reactors; logs why not. */
int sl_target_disk_open(struct sl_target *target, unsigned number);
void sl_target_disk_close(struct sl_target *target, unsigned number);

/* backend_store.c: the disk of a shard of the storage. */
const struct sl_storage_disk *sl_storage_disk_of(const struct sl_storage *storage, unsigned shard);

/* target.c */
/* As sl_target_execute_co() of a write from the beginning of a buffer of ours, which goes on being
 * shared: it must not change any more. */
int sl_target_write_buf_co(struct sl_target *target, uint64_t offset_bytes, struct sl_buf *buf,
                           uint32_t length_bytes);
static inline bool sl_target_owns(const struct sl_target *target, uint64_t offset_bytes)
{
    return offset_bytes / SL_SHARD_BYTES % target->storage->config.reactor_count ==
           target->reactor_index;
}
/* Bounds, alignment, ownership: 0 or what the request is answered. */
int sl_target_check(const struct sl_target *target, enum sl_io_opcode opcode, uint64_t offset_bytes,
                    uint32_t length_bytes);
/* A read whose result may stay in the storage's own memory (mem): holds the shared lock until
 * sl_target_read_borrowed_end(). -EOPNOTSUPP: the backend lends nothing. */
int sl_target_read_borrowed_co(struct sl_target *target, uint64_t offset_bytes,
                               uint32_t length_bytes, struct sl_span *span);
void sl_target_read_borrowed_end(struct sl_target *target, uint64_t offset_bytes,
                                 uint32_t length_bytes);

/* serve.c */
void sl_target_serves_init(struct sl_target *target);

#endif
