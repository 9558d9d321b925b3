/* Counted copies of payload. */
#include "mem/copy.h"

#include <string.h>

const char *sl_copy_reason_name(enum sl_copy_reason reason)
{
    static const char *const names[SL_COPY_REASON_COUNT] = {
        [SL_COPY_MEM_BACKEND] = "mem-backend",
        [SL_COPY_STABILISE] = "stabilise",
        [SL_COPY_LAND] = "land",
        [SL_COPY_UNALIGNED] = "unaligned",
        [SL_COPY_WINDOW] = "window",
        [SL_COPY_STREAM] = "stream",
        [SL_COPY_CLIENT] = "client",
    };
    SL_ASSERT(reason < SL_COPY_REASON_COUNT);
    return names[reason];
}

void sl_copy(struct sl_copy_counters *counters, enum sl_copy_reason reason, void *to,
             const void *from, size_t length_bytes)
{
    memcpy(to, from, length_bytes);
    counters->bytes[reason] += length_bytes;
    counters->count[reason]++;
}

void sl_copy_counters_add(struct sl_copy_counters *into, const struct sl_copy_counters *from)
{
    for (unsigned i = 0; i < SL_COPY_REASON_COUNT; i++) {
        into->bytes[i] += from->bytes[i];
        into->count[i] += from->count[i];
    }
}
