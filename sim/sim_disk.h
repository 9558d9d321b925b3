/*
 * Simulated disks: memory that outlives its node, with the faults of real ones.
 *
 *   submitted ──► in flight ──► completed: reads see it ──► flushed: durable
 *                 └──────── a crash decides ────────┘
 *
 * A write is durable with a flush that was submitted after it completed, or at its own completion
 * with SL_DISK_DURABLE. Until then a crash keeps it, loses it or tears it at any 512-byte sector,
 * each write for itself: a later one may stay where an earlier one is lost. `current` is what reads
 * see, `durable` what no crash can take.
 *
 * Faults of a disk (struct sl_sim_disk_faults) are drawn from the simulator's seed; a write that is
 * forgotten or misdirected reports success.
 */
#ifndef SIM_SIM_DISK_H
#define SIM_SIM_DISK_H

#include "sim/sim.h"

/* Probabilities are per million operations that touch [begin, end). */
struct sl_sim_disk_faults {
    uint64_t begin_bytes, end_bytes; /* both 0: the whole disk */
    uint32_t read_error_per_million; /* EIO once */
    uint32_t write_error_per_million;
    uint32_t rot_per_million;               /* a read finds a bit of the medium turned, for good */
    uint32_t forgotten_per_million;         /* a write that never comes to the medium */
    uint32_t misdirected_write_per_million; /* lands at another place of the range */
    uint32_t misdirected_read_per_million;  /* reads another place of the range, once */
    uint32_t stuck_per_million;             /* takes stuck_ns */
    uint64_t stuck_ns;
    bool full; /* writes answer ENOSPC, as a file without space under it does */
};

/* Makes a disk of zeroes that `node_name` opens as `path`. -ENOMEM, -EEXIST. */
int sl_sim_disk_create(struct sl_sim *sim, const char *node_name, const char *path,
                       uint64_t capacity_bytes);
/* Larger; what is new reads as zeroes. Who opens it anew sees it. -ENOENT, -EINVAL, -ENOMEM. */
int sl_sim_disk_grow(struct sl_sim *sim, const char *node_name, const char *path,
                     uint64_t capacity_bytes);
/* What a read would answer now: the whole disk, for checks and for damage. NULL: none. */
uint8_t *sl_sim_disk_data(struct sl_sim *sim, const char *node_name, const char *path);
/* To be changed at will. NULL: none. */
struct sl_sim_disk_faults *sl_sim_disk_faults(struct sl_sim *sim, const char *node_name,
                                              const char *path);
/* From now on reads, or writes, of a block that touches the range answer EIO; `reads` and `writes`
 * false: healed. One range a disk. -ENOENT. */
int sl_sim_disk_fail_range(struct sl_sim *sim, const char *node_name, const char *path,
                           uint64_t begin_bytes, uint64_t end_bytes, bool reads, bool writes);

/* ---- crashes ---- */

/* Power loss: operations in flight, and every later one of who has it open, fail with EIO. The
 * content is settled by the seed; who opens it anew sees that. -ENOENT. */
int sl_sim_disk_crash(struct sl_sim *sim, const char *node_name, const char *path);

/* For exhaustive tests: power is lost right after the `event_number`-th event of the disk (each
 * submission and each completion is one; from 1), and nothing is settled yet. 0 = never. */
int sl_sim_disk_stop_at(struct sl_sim *sim, const char *node_name, const char *path,
                        uint64_t event_number);
/* Events so far. */
uint64_t sl_sim_disk_events(struct sl_sim *sim, const char *node_name, const char *path);
/* Is the power gone? */
bool sl_sim_disk_is_off(struct sl_sim *sim, const char *node_name, const char *path);
/* Writes whose fate is open. */
unsigned sl_sim_disk_unsynced(struct sl_sim *sim, const char *node_name, const char *path);
/* What the disk would hold if of those writes exactly the ones in `keep_mask` stayed (bit i: the
 * i-th, oldest first; those beyond 63 are lost), and of write `torn` (UINT_MAX: none) the sectors
 * in [torn_from, torn_to) only. `content` has the capacity. */
void sl_sim_disk_outcome(struct sl_sim *sim, const char *node_name, const char *path,
                         uint64_t keep_mask, unsigned torn, uint64_t torn_from, uint64_t torn_to,
                         uint8_t *content);
/* Power is back, and this lies on the disk; NULL: zeroes. Nobody may have it open. */
void sl_sim_disk_restore(struct sl_sim *sim, const char *node_name, const char *path,
                         const uint8_t *content);

#endif
