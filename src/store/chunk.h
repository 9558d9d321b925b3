/* Chunks: tables, slots, overlays. Of the store's reactor. */
#ifndef SL_STORE_CHUNK_H
#define SL_STORE_CHUNK_H

#include "store/private.h"

/* ---- chunk.c ---- */

/* -ENOMEM; chunks_fini() in any case. */
int chunks_init(struct sl_store *store);
void chunks_fini(struct sl_store *store);
/* NULL: none. */
struct chunk *chunk_find(struct sl_store *store, uint64_t group, uint32_t number);
/* Finds or makes. -ENOSPC: no place. */
int chunk_get(struct sl_store_group *group, uint32_t number, struct chunk **chunk);
/* Has a root name it at `place`. */
int chunk_add(struct sl_store_group *group, uint32_t number, uint32_t place, struct chunk **chunk);
/* Nobody uses it; its slots are free with the next root. */
void chunk_remove(struct chunk *chunk);
/* The table is in memory until the matching chunk_unuse(), also on error. */
int chunk_use_co(struct chunk *chunk);
void chunk_unuse(struct chunk *chunk);
/* Nobody uses or applies it. */
void chunk_quiesce_co(struct chunk *chunk);
/* Between the two nobody applies it. */
void chunk_lock_co(struct chunk *chunk);
void chunk_unlock(struct chunk *chunk);
/* Where on disk. */
uint64_t chunk_meta_offset(const struct sl_store *store, uint32_t place, uint32_t version);
uint64_t slot_offset(const struct sl_store *store, uint32_t slot);
/* Sets one aside for each region without. -ENOSPC. */
int slot_reserve(struct chunk *chunk, unsigned first_region, unsigned last_region);
/* From the reserve if the region has one. -ENOSPC. */
int slot_take(struct chunk *chunk, unsigned region, uint32_t *slot);
/* The region has none any more. */
void slot_release(struct chunk *chunk, unsigned region);
void slots_recount(struct sl_store *store);
bool slots_can_come(const struct sl_store *store);

/* ---- store.c ---- */

/* The newer valid one of the two. -ESTALE, -SL_E_…, -EIO, -ENOMEM: `why`. */
int store_superblock_co(const struct sl_store_config *config, struct sl_superblock *superblock,
                        const char **why);

/* ---- apply.c ---- */

/* -ENOMEM: nothing was added. */
int overlay_add(struct chunk *chunk, struct entry *entry);
/* Newest version of the block that is not in its slot; NULL: none. */
struct entry *overlay_get(const struct chunk *chunk, unsigned block);
/* Takes the block's version out; there is one. */
void overlay_clear(struct chunk *chunk, unsigned block);
void overlay_drop_all(struct chunk *chunk);
/* Of the entry's block `block` of its chunk, as the table would have it. */
uint32_t overlay_crc(const struct entry *entry, unsigned block);
/* Writes the overlay as it is now into the slots. */
int apply_chunk_co(struct chunk *chunk);
/* Starts the coroutines that apply. */
int appliers_start(struct sl_store *store);
void appliers_kick(struct sl_store *store);
/* check.c: counts a finding and reports it. */
void findings_add(struct sl_store_findings *findings, const char *text);
/* check.c: waits until a scrub that has read `bytes` since start_ns has not been too fast. */
void scrub_pace_co(struct sl_store *store, uint64_t start_ns, uint64_t bytes, uint64_t bytes_per_s);
/* scrub_log.c: as sl_store_scrub_co(), of the log. What is found is not needed any more on return.
 */
int scrub_log_co(struct sl_store *store, uint64_t bytes_per_s, struct sl_store_findings *findings,
                 const bool *stop);
/* Whether payload in memory should be let go: it is too much, or memory is short. */
bool store_is_pressed(const struct sl_store *store);
/* While entries of the group are held strictly and the log is nearly full. */
void store_hold_wait_co(struct sl_store_group *group);
/* Lets go of payload that is durable and not visible yet. Answers whether there was any. */
bool store_spill(struct sl_store *store);

/* append.c */
/* The payload in memory, verified; -SL_E_CHECKSUM (it is faulty from now on), -EIO, -ENOMEM. */
int store_entry_load_co(struct sl_store *store, struct entry *entry);
/* Marks and logs it; -SL_E_CHECKSUM. */
int store_entry_bad(struct sl_store *store, struct entry *entry, unsigned block);
/* Between the two the places of entries in the log stay what they are: answers a phase. */
unsigned store_log_reading(struct sl_store *store);
void store_log_read(struct sl_store *store, unsigned phase);
uint64_t store_entry_offset(const struct sl_store *store, const struct entry *entry);

#endif
