/*
 * The store: a durable home for the blocks of many groups on one shard of a disk. A group is an
 * independent log of (index, term) over a shared write-ahead log, and an address space of 16 MiB
 * chunks behind it.
 *
 *              sl_store_append ─► WAL, group commit ─► durable: sl_store_durable_co returns
 *                                                        │ committed (by whom it concerns)
 *   sl_store_read_co ◄── overlay, then chunk ◄── sl_store_apply_co
 *                                  ▲
 *                                  └ later, merged: the same buffers to the chunk's slots
 *
 * One struct sl_store a shard, owned by one reactor; every function runs there. Formats and fault
 * model: docs/disk-format.md. Payload is never copied: what is appended is written to the log and
 * then to the chunk from the buffers in which it came, and must not change any more.
 *
 * Errors in operation: -EIO (the medium; after a failed log write, of every append until the store
 * is opened anew), -ENOSPC, -SL_E_CHECKSUM (a damaged block), -ESHUTDOWN (closing), -ENOENT (no
 * such group), -ENOMEM.
 */
#ifndef SL_STORE_STORE_H
#define SL_STORE_STORE_H

#include <stdio.h>

#include "io/io.h"
#include "mem/iobuf.h"
#include "store/format_log.h"

struct sl_store;
struct sl_store_group;
struct sl_store_info;

struct sl_store_config {
    struct sl_io *io;
    struct sl_memory *memory;
    struct sl_disk *disk; /* borrowed; locked by who opened it */
    struct sl_disk_info disk_info;
    const char *name; /* of the disk, for the log; borrowed */
    uint16_t shard;
    bool read_only;            /* nothing is written; the log is read, not gone on with */
    const uint8_t *cluster_id; /* 16 bytes that the disk must have; NULL = any */
    uint64_t overlay_bytes;    /* payload kept in memory until applied; 0 = a quarter of memory */
    uint64_t table_bytes;      /* chunk tables kept in memory; 0 = all */
    /* Every block is read and verified again and again, at most so many bytes a second; 0 = not. */
    uint64_t scrub_bytes_per_s;
    /* The scrub found a damaged block: is it whole again, from another copy? May be NULL. */
    bool (*damaged_co)(void *context, uint64_t group, uint32_t chunk, uint16_t block);
    /* Before a checkpoint chooses what the log keeps: the moment to call sl_store_state_set(). Must
     * not await. NULL: nothing to say. */
    void (*checkpointing)(void *context, struct sl_store *store);
    void *context;
};

/* Reads the superblock, the root and the log; on errors nothing was written. Logs what it found.
 * -ESTALE (not a disk of ours), -SL_E_VERSION, -SL_E_CHECKSUM (both superblocks, or the root),
 * -SL_E_PROTOCOL (right checksum, absurd content), -EXDEV (another cluster), -ENOSPC (shorter than
 * it was), -EINVAL (no such shard), -EIO, -ENOMEM; `error` says it in words, with what to do. */
int sl_store_open_co(const struct sl_store_config *config, struct sl_store **store, char *error,
                     size_t error_bytes);
/* What the disk's superblock says, if it is one that sl_store_open_co() would take: `info` of its
 * shard `config->shard`, without entry_blocks_max. Nothing is written, and nothing stays open.
 * Errors as above. */
int sl_store_probe_co(const struct sl_store_config *config, struct sl_store_info *info, char *error,
                      size_t error_bytes);
/* No entry is prepared any more: who waits for that gets -ESHUTDOWN. What was prepared is appended
 * as ever; votes and the like are written. sl_store_close_co() does it, too. */
void sl_store_stop(struct sl_store *store);
/* Applies, checkpoints, frees. No other call may be in progress. Takes NULL. */
void sl_store_close_co(struct sl_store *store);

/* ---- formatting ---- */

struct sl_store_format {
    struct sl_layout_options layout;
    uint8_t disk_id[16], cluster_id[16];
    uint64_t salt;
    bool force; /* also over a valid superblock */
};
/* Writes log (all of it, so that later writes change no map of a file system), roots, superblocks,
 * in this order. -EEXIST: it has a superblock. -EINVAL, -ENOSPC, -EIO, -ENOMEM. `error` as above.
 */
int sl_store_format_co(struct sl_disk *disk, const struct sl_disk_info *info,
                       struct sl_memory *memory, const struct sl_store_format *format, char *error,
                       size_t error_bytes);

/* ---- what is there ---- */

struct sl_store_statistics {
    uint64_t slot_count, slot_free_count;
    uint64_t segment_count, segment_free_count;
    uint64_t pending_bytes;            /* committed or appended, not yet in a chunk */
    uint64_t held_bytes;               /* of it in memory */
    uint64_t chunk_count, table_count; /* chunks; their tables in memory */
    uint64_t append_count, append_bytes;
    uint64_t batch_count, log_bytes;       /* written to the WAL, headers and all */
    uint64_t data_bytes, data_write_count; /* written to slots */
    uint64_t meta_bytes;                   /* chunks' metadata and roots */
    uint64_t merged_bytes;                 /* overwritten before they had to be applied */
    uint64_t checkpoint_count, rewritten_count;
    uint64_t wait_count; /* appends that waited for room */
    uint64_t checksum_error_count, read_error_count, write_error_count;
    uint64_t recovered_batch_count, recovered_entry_count, recovered_bytes, discarded_batch_count,
        faulty_count, missing_batch_count;
    uint64_t recovery_ns;
    uint64_t scrub_block_count, scrub_finding_count, scrub_pass_count; /* in the background */
};
/* As it is now. */
void sl_store_statistics(const struct sl_store *store, struct sl_store_statistics *statistics);

struct sl_store_info {
    uint64_t data_bytes; /* that chunks can hold in all */
    uint32_t entry_blocks_max;
    uint16_t shard_count; /* of the disk */
    uint64_t segment_bytes;
    /* Payload that may wait for its commit, of all groups together, without hindrance to anything
     * else: what the log has beside it can always be freed. A third of the log, some less. */
    uint64_t uncommitted_bytes_max;
    uint8_t disk_id[16];
};
void sl_store_info(const struct sl_store *store, struct sl_store_info *info);
/* 0, or why no append can succeed any more. */
int sl_store_failed(const struct sl_store *store);

/* ---- groups ---- */

/* Durable on return: a log that begins behind (index, term). -EEXIST, also of a deleted one. */
int sl_store_group_create_co(struct sl_store *store, uint64_t group, uint64_t index, uint64_t term);
/* Durable on return; its chunks are freed with the next checkpoint. No call on it may be in
 * progress. */
int sl_store_group_delete_co(struct sl_store_group *group);
/* NULL: no such group, or deleted. */
struct sl_store_group *sl_store_group_find(struct sl_store *store, uint64_t group);
/* In ascending order; NULL: the end. `after` 0 begins. */
struct sl_store_group *sl_store_group_next(struct sl_store *store, uint64_t after);

struct sl_store_group_status {
    uint64_t group;
    uint64_t boundary_index, boundary_term; /* entries behind it can be read */
    uint64_t last_index, last_term;
    uint64_t applied_index; /* what sl_store_apply_co() was told, at least the boundary */
    uint64_t
        committed_index; /* no less; what it was told before the store was opened, or some less */
    uint64_t term, vote;
    uint64_t faulty_first, faulty_last; /* acknowledged, and damaged or missing; 0 = none */
    bool faulty_is_payload;             /* none is missing: which blocks are damaged is known */
    uint64_t state_index;
    uint32_t state_bytes;
};
void sl_store_group_status(const struct sl_store_group *group,
                           struct sl_store_group_status *status);
/* Keeps the entries above `index` in the log for a reader that is behind, though they are applied:
 * not beyond most of the log, then the hold ends by itself. `strictly`: before that, writes of this
 * group wait, each for a second at most. Another call moves the hold, by 8 entries or more, or
 * back. */
void sl_store_hold(struct sl_store_group *group, uint64_t index, bool strictly);
void sl_store_release(struct sl_store_group *group);
/* Term and vote, durable on return. The term never falls. */
int sl_store_vote_co(struct sl_store_group *group, uint64_t term, uint64_t vote);
/* What the layer above keeps of the group as of `index` (sessions, membership): goes into every
 * root from now on. Copied. The log is kept behind `index` once any state was set. -ENOSPC: the
 * root has no room. */
int sl_store_state_set(struct sl_store_group *group, uint64_t index, const void *state,
                       uint32_t state_bytes);
/* Borrowed until the next sl_store_state_set(). */
const void *sl_store_state(const struct sl_store_group *group);

/* ---- the log ---- */

struct sl_store_entry {
    uint64_t index, term;
    uint8_t type; /* enum sl_entry_type */
    uint32_t chunk;
    uint16_t first_block, block_count; /* OPAQUE: blocks of payload */
    uint16_t extra_bytes;
    const void *extra;
    const uint32_t *crcs; /* of each payload block */
};

/* What an append waits for. The caller's memory, until sl_store_durable_co() returned. */
struct sl_store_wait {
    struct sl_wait wait;
    struct sl_list node;
};

/* Before each append: waits for room in log and memory, has the chunk's table in memory, sets a
 * slot aside. What it reserved is used up by one sl_store_append() of this size, or given back by
 * sl_store_unprepare(). -ENOSPC, -EINVAL (more than entry_blocks_max, out of the chunk). */
int sl_store_prepare_co(struct sl_store_group *group, uint8_t type, uint32_t chunk,
                        uint16_t first_block, uint16_t block_count);
void sl_store_unprepare(struct sl_store_group *group, uint8_t type, uint16_t block_count);
/* Puts the entry at the end of the log: `index` is the last one's + 1 (asserted). Never waits, so
 * that order is the caller's. `payload`: whole pages of our own buffers, shared, which must not
 * change; NULL without payload. `wait` is woken when the entry and all before it are durable. */
void sl_store_append(struct sl_store_group *group, const struct sl_store_entry *entry,
                     const struct sl_iobuf *payload, struct sl_store_wait *wait);
/* 0: durable; or why it is not (-EIO; it may be there after a restart nevertheless). */
int sl_store_durable_co(struct sl_store_wait *wait);
/* Takes back what lies at and behind `index`, which must not be applied. Durable on return; for
 * readers as soon as the log has room for the record. */
int sl_store_truncate_co(struct sl_store_group *group, uint64_t index);
/* An entry behind the boundary: `extra` and `crcs` are valid until the next call that may free it
 * (an await). -ENOENT: before the boundary or behind the end. -SL_E_CHECKSUM: faulty. */
int sl_store_entry_get(const struct sl_store_group *group, uint64_t index,
                       struct sl_store_entry *entry);
/* Its payload, from memory or from the log on disk: appended to `payload`, shared, verified. */
int sl_store_entry_read_co(struct sl_store_group *group, uint64_t index, struct sl_iobuf *payload);
/* Whether all of it is in memory; and whether that call may have to wait for memory: who keeps some
 * that others wait for should not make it then. */
bool sl_store_entry_in_memory(const struct sl_store_group *group, uint64_t index);
bool sl_store_entry_needs_memory(const struct sl_store_group *group, uint64_t index);

/* ---- the blocks ---- */

/* Everything up to `index` is committed: readers see it. Its entries must be durable here: waits
 * for that. */
int sl_store_apply_co(struct sl_store_group *group, uint64_t index);
/* The entry, which is not applied yet, never changes a block: a duplicate, say. Not remembered
 * beyond a restart. */
void sl_store_entry_skip(struct sl_store_group *group, uint64_t index);
/* `block_count` blocks of a chunk, verified: appended to `data`, shared: from memory if they are
 * there, else read. -SL_E_CHECKSUM: one is damaged. Never written ones are zeroes. */
int sl_store_read_co(struct sl_store_group *group, uint32_t chunk, uint16_t first_block,
                     uint16_t block_count, struct sl_iobuf *data);
/* The same straight into `spans` (PRP-shaped, whole blocks each, of the disk's alignment): the disk
 * writes there. Verified where it landed. */
int sl_store_read_into_co(struct sl_store_group *group, uint32_t chunk, uint16_t first_block,
                          uint16_t block_count, const struct sl_span *spans, unsigned span_count);
/* A group without replicas: prepare, append at the end, await, apply. `crcs` may be NULL: computed.
 */
int sl_store_write_co(struct sl_store_group *group, uint8_t type, uint32_t chunk,
                      uint16_t first_block, uint16_t block_count, const struct sl_iobuf *payload,
                      const uint32_t *crcs);

/* ---- taken over from another replica: a durable mark of the layer above comes first ---- */

/* The newest index that touched each region of a chunk, as readers see it; 0: none did. -ENOENT:
 * the chunk was never written. */
int sl_store_regions_co(struct sl_store_group *group, uint32_t chunk,
                        uint64_t indexes[SL_CHUNK_REGIONS]);
/* The whole region is `data` (64 blocks, shared, with their CRCs) from now on, as of `index`; NULL:
 * zeroes. `lost`: a bit for each block that is damaged from now on, whatever the data; its CRC is
 * that of the version that was lost, SL_CRC_DAMAGED: nobody knows. Durable with the next
 * checkpoint. */
int sl_store_region_put_co(struct sl_store_group *group, uint32_t chunk, unsigned region,
                           uint64_t index, const struct sl_iobuf *data, const uint32_t *crcs,
                           uint64_t lost);
/* Everything up to (index, term) is applied, by regions: the log goes on behind it, and `state` is
 * as of it. What lies behind stays; who does not want that truncates before. Never waits; durable
 * with the next checkpoint. -ENOSPC, -ENOMEM. */
int sl_store_install(struct sl_store_group *group, uint64_t index, uint64_t term, const void *state,
                     uint32_t state_bytes);

/* Writes a block, whose checksum failed, again: `buf` at `offset_bytes` holds what another copy of
 * the group says, which had applied everything up to `index`, and `crc` is of it. -ESTALE: it is
 * of another version than what was here, or may be of an older one, or a newer one has come. */
int sl_store_block_repair_co(struct sl_store_group *group, uint32_t chunk, unsigned block,
                             struct sl_buf *buf, uint32_t offset_bytes, uint32_t crc,
                             uint64_t index);

/* The newest index that touched a region (0: none) and the checksums of its blocks, as readers see
 * them and as the table has them; but an absent block has that of zeroes. SL_CRC_DAMAGED: lost. */
int sl_store_region_crcs_co(struct sl_store_group *group, uint32_t chunk, unsigned region,
                            uint64_t *index, uint32_t crcs[SL_REGION_BLOCKS]);
/* What is here of a block is wrong, though its checksum, `wrong` in the form above, is right: it is
 * replaced as a damaged one is repaired, or stays as it was. -EBUSY: it is in the log and not in
 * its slot yet. -ESTALE: it has changed, or has that very content, or its region is newer than
 * `index`. -EINVAL, -ENOSPC, -ENOMEM, -EIO. */
int sl_store_block_replace_co(struct sl_store_group *group, uint32_t chunk, unsigned block,
                              uint32_t wrong, struct sl_buf *buf, uint32_t offset_bytes,
                              uint32_t crc, uint64_t index);

/* Frees as much of the log as can be: applies, writes metadata and a root. */
int sl_store_checkpoint_co(struct sl_store *store);

/* The disk has `capacity_bytes` now: all of its shards get their part of what is new, beside
 * serving. Of each of its shards' stores, one after the other: the first one writes the
 * superblocks. -EINVAL: not larger; -ENOSPC: not a region more for each shard, or grown too often
 * or too far; -EROFS, -EIO (the store has failed), -ENOMEM; `error` says it in words. */
int sl_store_grow_co(struct sl_store *store, uint64_t capacity_bytes, char *error,
                     size_t error_bytes);

/* ---- looking for damage ---- */

struct sl_store_findings {
    void (*report)(void *argument, const char *text); /* one line each; may be NULL */
    void *argument;
    uint64_t count;       /* findings */
    uint64_t block_count; /* verified */
};
/* Reads the log and every block once, at most `bytes_per_s` (0 = as fast as it goes), beside
 * serving. Ends early when *stop (may be NULL) becomes true. -ENOMEM. */
int sl_store_scrub_co(struct sl_store *store, uint64_t bytes_per_s,
                      struct sl_store_findings *findings, const bool *stop);
/* All that the disk says, and every block, of a store that was opened read-only and whose groups
 * were applied as far as is known. */
int sl_store_check_co(struct sl_store *store, struct sl_store_findings *findings);
/* For people: what is where. */
void sl_store_describe(const struct sl_store *store, FILE *out);

#endif
