/*
 * The only way to copy payload (STYLE 17). Every copy has a reason and is counted; the counters are
 * what the programs print and what the benchmark proves. Copies of headers (capsules, records) are
 * not payload.
 */
#ifndef SL_MEM_COPY_H
#define SL_MEM_COPY_H

#include "core/base.h"

enum sl_copy_reason {
    SL_COPY_MEM_BACKEND, /* the `mem` backend is memory: its "medium" is reached by a copy */
    SL_COPY_STABILISE,   /* shm: a write's payload is taken from the client's memory once */
    SL_COPY_LAND,      /* shm: a read of a replicated volume lands in ours, then in the client's */
    SL_COPY_UNALIGNED, /* client memory that the disk cannot address (not PRP-shaped) */
    SL_COPY_WINDOW,    /* shm: READ or WRITE where the peer's memory is reached by the CPU */
    SL_COPY_STREAM,    /* tcp: bytes that a batched receive took in before their place was known */
    SL_COPY_CLIENT,    /* the initiator: filling and checking its own data */
    SL_COPY_REASON_COUNT,
};

struct sl_copy_counters {
    uint64_t bytes[SL_COPY_REASON_COUNT];
    uint64_t count[SL_COPY_REASON_COUNT];
};

/* "mem-backend", "stabilise", … */
const char *sl_copy_reason_name(enum sl_copy_reason reason);

/* memcpy, counted. The ranges do not overlap. */
void sl_copy(struct sl_copy_counters *counters, enum sl_copy_reason reason, void *to,
             const void *from, size_t length_bytes);

/* Adds each of `from` to `into`. */
void sl_copy_counters_add(struct sl_copy_counters *into, const struct sl_copy_counters *from);

#endif
