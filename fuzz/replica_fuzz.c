/*
 * Goal: nothing that a peer sends with an entry, or that a disk keeps of a replica, crashes its
 * parser, and what one accepts is self-consistent. Method: the first byte picks the parser: an
 * entry's record (built again, it must give the same bytes), its extra bytes, the state of a group
 * with its CRC made right.
 */
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "store/format_log.h"
#include "target/cluster.h"
#include "target/replica_state.h"
#include "target/entry_extra.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void fuzz_record(const uint8_t *data, uint32_t size)
{
    static uint8_t again[2 * SL_BLOCK_BYTES];
    struct sl_record record, second;
    if (sl_record_decode(data, size, &record) != NULL)
        return;
    require(record.head.bytes <= size && record.head.index != 0);
    uint32_t bytes = sl_record_encode(again, sizeof(again), &record);
    require(bytes == record.head.bytes);
    require(sl_record_decode(again, bytes, &second) == NULL);
    require(second.block_count == record.block_count && second.extra_bytes == record.extra_bytes);
}

static void fuzz_extra(const uint8_t *data, uint32_t size)
{
    uint8_t again[SL_ENTRY_EXTRA_MAX];
    struct sl_entry_extra extra, second;
    if (size > SL_ENTRY_EXTRA_MAX || sl_entry_extra_get(data, size, 9, &extra) != NULL)
        return;
    unsigned bytes = 0;
    if (extra.kind == SL_EXTRA_COMMAND)
        bytes = sl_entry_extra_put_command(again, &extra.command);
    if (extra.kind == SL_EXTRA_CONFIG)
        bytes = sl_entry_extra_put_config(again, &extra.config);
    require(bytes == size && sl_entry_extra_get(again, bytes, 9, &second) == NULL);
    require(memcmp(&extra, &second, sizeof(extra)) == 0);
}

static void fuzz_state(uint8_t *state, size_t size)
{
    static uint64_t sessions[SL_BLOCK_BYTES];
    struct sl_replica_memory memory;
    uint32_t crc = 0;
    if (size >= 16) {
        memcpy(state, "SLRGRP01", 8);
        memcpy(state + 8, &crc, sizeof(crc));
        crc = sl_crc32c(0, state, size);
        memcpy(state + 8, &crc, sizeof(crc));
    }
    if (sl_replica_state_parse(state, size, &memory) != NULL)
        return;
    require(memory.replica != 0 && memory.config.count <= SL_RAFT_MEMBERS_MAX);
    require((const uint8_t *)memory.sessions + memory.session_bytes == state + size);
    require(memory.session_bytes <= size && memory.skip_count <= size / 8);
    if (memory.session_bytes > sizeof(sessions))
        return;
    void *table = malloc(sl_session_bytes(8, 8));
    memcpy(sessions, memory.sessions, memory.session_bytes);
    (void)sl_session_load(sl_session_init(table, 8, 8), sessions, memory.session_bytes);
    free(table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 65536)
        return 0;
    /* Exactly as long as it is, so that a byte too far is noticed. */
    uint8_t *copy = malloc(size - 1 + (size == 1));
    if (copy == NULL)
        return 0;
    memcpy(copy, data + 1, size - 1);
    switch (data[0] % 3) {
    case 0:
        fuzz_record(copy, (uint32_t)size - 1);
        break;
    case 1:
        fuzz_extra(copy, (uint32_t)size - 1);
        break;
    default:
        fuzz_state(copy, size - 1);
    }
    free(copy);
    return 0;
}
