/*
 * What a target knows of each 4 KiB block: its CRC32C, and who is at work on it.
 *
 * One table a storage, shared by its reactors, each of which touches only the blocks of its own
 * shards. Range locks make every block a register: writes of a block follow one another, reads and
 * writes of it exclude each other, so data and CRC always match. First come, first served: a
 * waiting writer is overtaken by no later reader.
 */
#ifndef SL_TARGET_BLOCK_TABLE_H
#define SL_TARGET_BLOCK_TABLE_H

#include "core/coroutine.h"

struct sl_block_table {
    uint64_t block_count;
    uint32_t *crcs;
    uint8_t *known; /* 1: the CRC is that of the block */
    uint8_t *locks; /* 0 = free, 1 … 254 readers, 255 = a writer */
};

/* Who waits on one reactor. */
struct sl_block_waiters {
    struct sl_list list;
};

/* 6 bytes a block, mapped lazily. -ENOMEM. */
int sl_block_table_create(struct sl_block_table *table, uint64_t block_count);
void sl_block_table_destroy(struct sl_block_table *table);

static inline void sl_block_waiters_init(struct sl_block_waiters *waiters)
{
    sl_list_init(&waiters->list);
}

/* Waits until the blocks are free of others (`exclusive`: of anybody), then holds them. */
void sl_block_lock_co(struct sl_block_table *table, struct sl_block_waiters *waiters,
                      uint64_t first_block, uint32_t block_count, bool exclusive);
/* Gives them back and lets in who can go now, in order of arrival. */
void sl_block_unlock(struct sl_block_table *table, struct sl_block_waiters *waiters,
                     uint64_t first_block, uint32_t block_count, bool exclusive);

#endif
