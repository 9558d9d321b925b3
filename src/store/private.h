/* What the files of the store share. Private to src/store.
 *
 *   store ── groups ── log: ring of entries (log.c)
 *         ── wal: open batch ► writers ► durable (wal.c); read again by recover.c
 *         ── chunks ── table (CRCs, slots), overlay: block ► entry (chunk.c, apply.c, read.c)
 *         ── slots, root (slots.c, checkpoint.c)
 */
#ifndef SL_STORE_PRIVATE_H
#define SL_STORE_PRIVATE_H

#include "core/list.h"
#include "store/disk_io.h"
#include "store/format_log.h"
#include "store/format_meta.h"
#include "store/store.h"

/* Segments that appends leave free: a checkpoint moves what is live in the oldest one (at most 3/2
 * segments, packed anew) into them. Votes and truncation may use one. */
#define SL_WAL_RESERVE_SEGMENTS 2
#define SL_HELD_NONE            UINT64_MAX
/* Blocks of a batch, header included: recovery reads it whole into one buffer
 * (SL_BUFFER_BYTES_MAX). */
#define SL_WAL_BATCH_BLOCKS_MAX 512u
/* A batch has at most this part of a segment; an entry must fit into one. */
#define SL_WAL_BATCHES_A_SEGMENT 4u
/* Batches on their way at a time share the device's flush. Depth 32 of 4 KiB, p50: 2 of all that
 * came, 1.6 to 12 ms; 4 of at least 8 blocks, 0.3 ms; 8 of 4, 0.35 ms and twice the headers. */
#define SL_WAL_WRITERS_MAX  4u
#define SL_WAL_SPLIT_BLOCKS 8u
/* Chunks that are applied at a time. */
#define SL_APPLIERS 4u
/* Disk operations of one apply at a time: 4 appliers keep 64 in flight, a disk's queue. */
#define SL_APPLY_OPS_MAX 16u

/* Failed writes of data or metadata in a row: then it is the disk, not a place on it. */
#define SL_FAILURES_MAX 40u

#define SL_GENERATION_NONE UINT64_MAX
#define SL_INDEX_NONE      UINT64_MAX

/* ---- entries ---- */

enum {
    SL_ENTRY_FAULTY = 1,  /* its payload on disk is damaged */
    SL_ENTRY_VISIBLE = 2, /* applied: readers see it */
    SL_ENTRY_SKIPPED = 4, /* changes no block */
    SL_ENTRY_MOVING = 8,  /* a checkpoint has loaded it, to write it anew */
};

/* Of a log, from its append until its segment is freed. */
struct entry {
    struct sl_list pending; /* store->pending, in the order of applying; empty if not in it */
    struct sl_store_group *group;
    struct chunk *chunk; /* once visible */
    uint64_t index, term;
    uint64_t generation; /* SL_GENERATION_NONE: not durable yet */
    uint32_t position;   /* of its payload in the segment, in blocks */
    uint32_t chunk_number;
    uint32_t references; /* blocks of overlays, readers, an apply; + 1 while it is in a log */
    uint16_t first_block, block_count, extra_bytes, span_count;
    uint8_t type, flags;
    bool in_log;
    struct sl_span *spans; /* the payload in memory; span_count 0: on disk only */
    struct sl_buf **owners;
    uint32_t *crcs;
    uint8_t *extra;
};

struct log {
    struct entry **ring;  /* NULL inside: missing (faulty) */
    uint64_t capacity;    /* a power of two */
    uint64_t first, last; /* indexes; first = boundary + 1, last = first - 1 if empty */
};

struct sl_store_group {
    struct sl_store *store;
    struct sl_list node; /* store->groups, ascending */
    struct sl_list hash;
    uint64_t id;
    bool deleted;
    uint64_t deleted_generation; /* the log has nothing of it behind this segment */
    struct log log;
    uint64_t boundary_index, boundary_term;
    uint64_t applied_index;
    uint64_t committed_index; /* as the log said when it was opened */
    struct sl_list advanced;  /* store->advanced, or by itself */
    uint64_t held;      /* entries above it are kept while the log has room; SL_HELD_NONE: not */
    bool held_strictly; /* writes wait rather than that they go */
    uint64_t apply_to;  /* see apply_forced; the boundary's next place */
    uint64_t term, vote;
    uint64_t faulty_first, faulty_last;
    bool faulty_missing;   /* entries, not only their payload */
    struct sl_list chunks; /* struct chunk */
    void *state;
    uint64_t state_index;
    uint32_t state_bytes;
    bool has_state;
    bool applying; /* sl_store_apply_co(): one after the other */
    struct sl_wait_queue applied;
};

/* ---- chunks ---- */

struct table {
    struct sl_region_entry regions[SL_CHUNK_REGIONS];
    uint32_t crcs[SL_CHUNK_BLOCKS];
};

/* Of a region: who holds the newest version of each block; NULL: the table. */
struct overlay {
    struct entry *blocks[SL_REGION_BLOCKS];
    unsigned count;
};

struct chunk {
    struct sl_list hash;
    struct sl_list group_node;
    struct sl_list lru; /* store->lru while the table is in memory */
    struct sl_store_group *group;
    uint32_t number;
    uint32_t place;
    struct table *table;
    struct overlay **overlays; /* SL_CHUNK_REGIONS, NULL: none */
    unsigned overlay_blocks;
    uint32_t *written_slots; /* slots as the newest written metadata has them; NULL: as the table */
    uint64_t dirty_index;    /* lowest entry that the metadata on disk lacks */
    uint64_t reserved_regions; /* a slot is set aside for each */
    unsigned users;            /* calls that rely on the table */
    unsigned readers[2];       /* of slots, by phase */
    uint8_t phase;
    bool loading, applying;
    struct sl_wait_queue changed; /* loaded, applied, readers left */
};

/* ---- the log ---- */

struct batch {
    struct sl_list node;
    struct sl_list waits; /* struct sl_store_wait */
    uint64_t sequence, generation;
    uint32_t position;
    uint64_t reserved_blocks;
    uint32_t record_count;
    uint32_t payload_blocks;
    unsigned span_count;
    unsigned entry_count;
    bool done;
    struct sl_span spans[SL_DISK_SPANS_MAX];
    struct sl_buf *owners[SL_DISK_SPANS_MAX];
    struct entry *entries[SL_BATCH_RECORDS_BYTES / sizeof(struct sl_record_entry)];
    uint16_t payload_first[SL_BATCH_RECORDS_BYTES / sizeof(struct sl_record_entry)];
    struct sl_disk_op op;
    _Alignas(8) uint8_t block[SL_BLOCK_BYTES]; /* the header block while it is built */
};

struct wal {
    uint64_t tail_generation, tail_sequence;
    uint64_t head_generation;
    uint32_t head_position; /* blocks of the head segment that are given out */
    uint32_t segment_blocks, segment_count;
    uint64_t next_sequence, durable_sequence;
    uint64_t *first_sequences;          /* of each segment by place: its first batch */
    struct sl_list queue;               /* struct batch, full ones waiting, then the open one */
    struct sl_list in_flight;           /* by sequence */
    unsigned queue_count, flight_count; /* batches in the queue, and being written */
    unsigned writer_count;
    uint64_t reserved_blocks, truncate_count, truncated_count; /* truncations: begun, ended */
    struct sl_buf *headers[SL_WAL_WRITERS_MAX];                /* of idle writers */
    unsigned header_count;
    struct sl_wait_queue room;
    unsigned waiter_count;        /* for room */
    struct sl_wait_queue durable; /* woken when more is, or the store has failed */
    struct sl_wait_queue idle;
};

/* Metadata that was written for a root that is being made. */
struct meta_written {
    uint32_t place;
    uint64_t dirty_index;
    uint32_t *slots;
};

struct sl_store {
    struct sl_store_config config;
    struct sl_reactor *reactor;
    struct sl_superblock *superblock;
    const struct sl_disk_shard *shard;
    int failed;
    bool stopping; /* being closed: what fails now is not tried again */
    bool closing;  /* background coroutines end */
    struct wal wal;
    struct sl_list groups;
    struct sl_list advanced; /* groups whose log does not say yet how far they are applied */
    struct sl_list *group_hash;
    uint64_t root_sequence;
    uint64_t state_bytes; /* of all groups, padded */

    /* chunks */
    uint32_t chunk_count; /* places */
    struct chunk **places;
    uint32_t *root_versions; /* of each place in the newest root; 0 = free there */
    uint32_t *next_versions; /* in the root that is being made */
    struct sl_list *chunk_hash;
    uint32_t chunk_hash_mask;
    uint32_t chunk_used, place_hint;
    struct sl_list lru; /* coldest first */
    uint64_t table_count;

    /* slots: in use now, in the newest root, in the one that is being made (if any) */
    uint32_t slot_count;
    uint64_t *slots_used, *slots_root, *slots_next;
    uint64_t *slots_dropped; /* of removed chunks that slots_root still has */
    uint32_t slots_free;     /* in none of the first three */
    uint32_t slots_reserved;
    uint32_t slot_hint;

    /* apply and checkpoint */
    struct sl_list pending; /* entries, oldest first */
    uint64_t held_bytes, pending_bytes;
    unsigned memory_waiters;
    struct sl_memory_listener listener;
    uint64_t starved_ns; /* since when somebody waits for memory; 0: nobody, or just spilled */
    uint64_t overlay_limit;
    bool apply_forced;       /* a checkpoint waits until each group is applied to its apply_to */
    unsigned log_readers[2]; /* reads of segments on their way, by phase */
    unsigned log_phase;
    unsigned failures_in_a_row; /* of chunks and checkpoints */
    unsigned background_count;
    struct sl_wait_queue apply_work, apply_progress;
    struct sl_wait_queue checkpoint_work, checkpoint_done, scrub_work;
    bool checkpoint_running, checkpoint_wanted, checkpoint_all;
    struct meta_written *meta_written; /* chunk_count */
    uint32_t meta_written_count;
    int checkpoint_result;
    uint64_t checkpoint_number; /* finished ones */
    struct sl_store_statistics statistics;
};

/* log.c */
struct sl_store_group *store_group_add(struct sl_store *store, uint64_t id, uint64_t index,
                                       uint64_t term);
struct sl_store_group *store_group_lookup(struct sl_store *store, uint64_t id);
void store_group_free(struct sl_store_group *group);
struct entry *store_entry_make(const struct sl_record *record, const struct sl_iobuf *payload);
void store_entry_ref(struct entry *entry);
void store_entry_unref(struct sl_store *store, struct entry *entry);
struct entry *store_log_get(const struct sl_store_group *group, uint64_t index);
int store_log_push(struct sl_store_group *group, uint64_t index, struct entry *entry);
void store_log_cut(struct sl_store_group *group, uint64_t index);
void store_log_forget(struct sl_store_group *group, uint64_t index);
/* What is in the chunks up to apply_to leaves. */
void store_log_trim(struct sl_store_group *group);
void store_entry_record(const struct entry *entry, struct sl_record *record);
void store_entry_drop_payload(struct sl_store *store, struct entry *entry);

/* wal.c */
int wal_init(struct sl_store *store);
void wal_fini(struct sl_store *store);
uint64_t wal_segment_offset(const struct sl_store *store, uint64_t generation);
static inline uint64_t wal_free_segments(const struct wal *wal)
{
    return wal->segment_count - (wal->head_generation - wal->tail_generation + 1);
}
uint32_t wal_batch_blocks_max(const struct sl_store *store);
/* See struct sl_store_info. */
uint64_t wal_uncommitted_bytes_max(const struct sl_store *store);
/* Waits until `blocks` more, headers included, fit in front of `reserve` segments; sets them
 * aside. -ESHUTDOWN: it would have to wait for an entry's, and the store is ending. */
int wal_room_co(struct sl_store *store, uint64_t blocks, unsigned reserve);
void wal_room_give(struct sl_store *store, uint64_t blocks);
/* Adds a record whose room was set aside (`blocks`); `wait` may be NULL. */
void wal_add(struct sl_store *store, struct sl_record *record, struct entry *entry, uint64_t blocks,
             struct sl_store_wait *wait);
int wal_record_co(struct sl_store *store, struct sl_record *record);
/* Waits until everything that was added is on disk, or failed. */
void wal_drain_co(struct sl_store *store);
void store_fail(struct sl_store *store, int error, const char *what, uint64_t offset_bytes);
/* Waits until nothing is on its way to segments before `generation`. */
void wal_settle_co(struct sl_store *store, uint64_t generation);
/* What is added from now on goes to a new segment, if one can be spared. */
void wal_roll(struct sl_store *store);
/* Free segments came. */
void wal_room_wake(struct sl_store *store);

/* recover.c */
int recover_co(struct sl_store *store, const struct sl_root_header *root, char *error,
               size_t error_bytes);

/* checkpoint.c */
int checkpointer_start(struct sl_store *store);
void checkpoint_kick(struct sl_store *store);
/* Frees what a checkpoint that never took effect kept. */
void settle_checkpoint(struct sl_store *store);

int scrubber_start(struct sl_store *store);      /* check.c */
void stop_background_co(struct sl_store *store); /* store.c; root.c: */
int root_load_co(struct sl_store *store, struct sl_root_header *header, char *error,
                 size_t error_bytes);

#endif
