/*
 * Goal: no bytes from a disk or a peer crash the loading of a session table or make it take a state
 * that it would not have saved. Method: the input with its CRC made right; what loads is saved
 * again, and must give the same bytes; then commands are applied to it.
 */
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "raft/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static _Alignas(8) uint8_t bytes[4096], again[4096];
    if (size > sizeof(bytes))
        return 0;
    void *memory = malloc(sl_session_bytes(8, 4));
    SL_ASSERT(memory != NULL);
    struct sl_session_table *table = sl_session_init(memory, 8, 4);
    memcpy(bytes, data, size);
    if (size >= 32) {
        uint32_t crc = 0;
        memcpy(bytes + 28, &crc, sizeof(crc));
        crc = sl_crc32c(0, bytes, size);
        memcpy(bytes + 28, &crc, sizeof(crc));
    }
    if (sl_session_load(table, bytes, size) == 0) {
        SL_ASSERT(sl_session_save(table, again, sizeof(again)) == size);
        SL_ASSERT(memcmp(bytes, again, size) == 0);
        for (unsigned i = 0; i + 6 <= size && i < 60; i += 6) {
            struct sl_command command = {.kind = bytes[i] % 6,
                                         .session = bytes[32 + i % 8],
                                         .sequence = bytes[i + 2],
                                         .lowest = bytes[i + 3],
                                         .volume = bytes[i + 4],
                                         .epoch = bytes[i + 5]};
            struct sl_index next = {sl_session_index(table).value + 1};
            if (next.value != 0)
                sl_session_apply(table, next, &command);
        }
    }
    free(memory);
    return 0;
}
