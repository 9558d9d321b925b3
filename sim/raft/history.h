/*
 * What clients saw of the registers, judged without knowing the log: whether some order of the
 * operations that agrees with real time explains every answer. Values are unique, so this is
 * decided exactly, in n log n: P. Gibbons, E. Korach, "Testing Shared Memories", SIAM J. Comput. 26
 * (1997), theorem 4.2. A moment is a number of its own, so no two events happen at once.
 */
#ifndef SIM_RAFT_HISTORY_H
#define SIM_RAFT_HISTORY_H

#include "core/base.h"

enum history_kind {
    HISTORY_WRITE,
    HISTORY_READ,
};

struct history_operation {
    enum history_kind kind;
    uint32_t key;
    uint64_t value;  /* written, or read; 0 = as at the beginning */
    uint64_t began;  /* moment, 1 or more */
    uint64_t ended;  /* answered; UINT64_MAX: never, it may have happened or happen yet */
    bool has_failed; /* a write reported as failed: it must never be seen */
};

/* Grows; owned by whoever has it, zeroed at first. One thread. */
struct history {
    struct history_operation *operations;
    size_t count, capacity;
    uint64_t moment; /* of the newest event */
};

/* Answers the number of the operation, which began now. */
size_t history_begin(struct history *history, enum history_kind kind, uint32_t key, uint64_t value);
/* It is answered now; `value`: what a read answered (of a write: ignored). */
void history_end(struct history *history, size_t operation, uint64_t value);
void history_fail(struct history *history, size_t operation);
/* True if all can be explained; else `why` says which values can not be. Sorts the operations. */
bool history_is_linearizable(struct history *history, char *why, size_t size);
void history_release(struct history *history);

#endif
