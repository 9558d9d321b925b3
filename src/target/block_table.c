/* Block states and range locks: see block_table.h. */
#include "target/block_table.h"

#include <errno.h>
#include <sys/mman.h>

#define LOCK_EXCLUSIVE   255
#define LOCK_READERS_MAX 254

struct waiter {
    struct sl_list node;
    struct sl_wait wait;
    uint64_t first_block;
    uint32_t block_count;
    bool exclusive;
};

static void *map_zeroed(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

int sl_block_table_create(struct sl_block_table *table, uint64_t block_count)
{
    table->block_count = block_count;
    table->crcs = map_zeroed(block_count * sizeof(*table->crcs));
    table->known = map_zeroed(block_count);
    table->locks = map_zeroed(block_count);
    if (table->crcs != NULL && table->known != NULL && table->locks != NULL)
        return 0;
    sl_block_table_destroy(table);
    return -ENOMEM;
}

void sl_block_table_destroy(struct sl_block_table *table)
{
    if (table->crcs != NULL)
        munmap(table->crcs, table->block_count * sizeof(*table->crcs));
    if (table->known != NULL)
        munmap(table->known, table->block_count);
    if (table->locks != NULL)
        munmap(table->locks, table->block_count);
    *table = (struct sl_block_table){0};
}

/* ---- eight blocks at a time ----
 *
 * An I/O of 128 KiB has 32 blocks, whose locks are bytes: looked at one by one they would be a
 * fifth of its instructions. No byte of a word carries into the next: shared locks count to 254 at
 * most.
 */

typedef uint64_t lock_word __attribute__((may_alias, aligned(1)));

#define WORD_BLOCKS 8u
#define EACH_BYTE   UINT64_C(0x0101010101010101)
#define HIGH_BITS   (EACH_BYTE * 0x80)

static bool has_zero_byte(uint64_t word)
{
    return ((word - EACH_BYTE) & ~word & HIGH_BITS) != 0;
}

static bool can_lock(const uint8_t *locks, uint32_t count, bool exclusive)
{
    uint32_t i = 0;
    for (; i + WORD_BLOCKS <= count; i += WORD_BLOCKS) {
        lock_word word = *(const lock_word *)(locks + i);
        if (exclusive && word != 0)
            return false;
        if (!exclusive && (word & HIGH_BITS) != 0)
            break; /* 128 readers or a writer: the bytes tell */
    }
    for (; i < count; i++) {
        if (exclusive ? locks[i] != 0 : locks[i] >= LOCK_READERS_MAX)
            return false;
    }
    return true;
}

static bool try_lock(struct sl_block_table *table, uint64_t first_block, uint32_t block_count,
                     bool exclusive)
{
    uint8_t *locks = table->locks + first_block;
    if (!can_lock(locks, block_count, exclusive))
        return false;
    uint32_t i = 0;
    for (; i + WORD_BLOCKS <= block_count; i += WORD_BLOCKS)
        *(lock_word *)(locks + i) =
            exclusive ? EACH_BYTE * LOCK_EXCLUSIVE : *(lock_word *)(locks + i) + EACH_BYTE;
    for (; i < block_count; i++)
        locks[i] = exclusive ? LOCK_EXCLUSIVE : (uint8_t)(locks[i] + 1);
    return true;
}

static void unlock(struct sl_block_table *table, uint64_t first_block, uint32_t block_count,
                   bool exclusive)
{
    uint8_t *locks = table->locks + first_block;
    uint32_t i = 0;
    for (; i + WORD_BLOCKS <= block_count; i += WORD_BLOCKS) {
        lock_word word = *(lock_word *)(locks + i);
        /* Shared: no byte is 0, and none LOCK_EXCLUSIVE (that is, none of the complement is 0). */
        SL_ASSERT(exclusive ? word == EACH_BYTE * LOCK_EXCLUSIVE
                            : !has_zero_byte(word) && !has_zero_byte(~word));
        *(lock_word *)(locks + i) = exclusive ? 0 : word - EACH_BYTE;
    }
    for (; i < block_count; i++) {
        SL_ASSERT(exclusive ? locks[i] == LOCK_EXCLUSIVE
                            : locks[i] > 0 && locks[i] <= LOCK_READERS_MAX);
        locks[i] = exclusive ? 0 : (uint8_t)(locks[i] - 1);
    }
}

/* Whether someone before `end` waits for a block of the range in a way that excludes us. */
static bool is_behind(const struct sl_block_waiters *waiters, const struct sl_list *end,
                      uint64_t first_block, uint32_t block_count, bool exclusive)
{
    for (const struct sl_list *node = waiters->list.next; node != end; node = node->next) {
        const struct waiter *other = sl_container_of(node, struct waiter, node);
        if ((exclusive || other->exclusive) && other->first_block < first_block + block_count &&
            first_block < other->first_block + other->block_count)
            return true;
    }
    return false;
}

void sl_block_lock_co(struct sl_block_table *table, struct sl_block_waiters *waiters,
                      uint64_t first_block, uint32_t block_count, bool exclusive)
{
    SL_ASSERT(first_block < table->block_count && block_count <= table->block_count - first_block);
    if (!is_behind(waiters, &waiters->list, first_block, block_count, exclusive) &&
        try_lock(table, first_block, block_count, exclusive))
        return;
    struct waiter waiter = {
        .first_block = first_block, .block_count = block_count, .exclusive = exclusive};
    sl_wait_init(&waiter.wait);
    sl_list_append(&waiters->list, &waiter.node);
    sl_wait_co(&waiter.wait);
}

void sl_block_unlock(struct sl_block_table *table, struct sl_block_waiters *waiters,
                     uint64_t first_block, uint32_t block_count, bool exclusive)
{
    unlock(table, first_block, block_count, exclusive);
    sl_list_for_each(node, &waiters->list)
    {
        struct waiter *waiter = sl_list_entry(node, struct waiter, node);
        if (is_behind(waiters, node, waiter->first_block, waiter->block_count, waiter->exclusive) ||
            !try_lock(table, waiter->first_block, waiter->block_count, waiter->exclusive))
            continue;
        sl_list_remove(node);
        sl_wait_wake(&waiter->wait, 0);
    }
}
