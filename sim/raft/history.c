/*
 * Linearizability of registers from the outside (history.h). All operations on one value, its write
 * and its reads, are a cluster. Its zone lies between the first end and the last beginning among
 * them: if the first end comes first, the register certainly held the value in between (a forward
 * zone); otherwise all of them overlap at one moment (a backward zone), and may happen there at
 * once. A history is linearizable exactly if no read ends before its write begins, no two forward
 * zones overlap, and no backward zone lies inside a forward one.
 */
#include "sim/raft/history.h"

#include <stdio.h>
#include <stdlib.h>

struct zone {
    uint64_t low, high;
    uint64_t value;
    bool forward;
};

size_t history_begin(struct history *history, enum history_kind kind, uint32_t key, uint64_t value)
{
    if (history->count == history->capacity) {
        history->capacity = history->capacity * 2 + 256;
        history->operations =
            realloc(history->operations, history->capacity * sizeof(*history->operations));
        SL_ASSERT(history->operations != NULL);
    }
    history->operations[history->count] = (struct history_operation){
        .kind = kind, .key = key, .value = value, .began = ++history->moment, .ended = UINT64_MAX};
    return history->count++;
}

void history_end(struct history *history, size_t operation, uint64_t value)
{
    struct history_operation *op = &history->operations[operation];
    op->ended = ++history->moment;
    if (op->kind == HISTORY_READ)
        op->value = value;
}

void history_fail(struct history *history, size_t operation)
{
    history->operations[operation].ended = ++history->moment;
    history->operations[operation].has_failed = true;
}

void history_release(struct history *history)
{
    free(history->operations);
    *history = (struct history){0};
}

/* By key and value; of one value the write first. */
static int by_value(const void *one, const void *other)
{
    const struct history_operation *a = one, *b = other;
    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    if (a->value != b->value)
        return a->value < b->value ? -1 : 1;
    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    return a->began < b->began ? -1 : a->began > b->began;
}

static int by_low(const void *one, const void *other)
{
    const struct zone *a = one, *b = other;
    return a->low < b->low ? -1 : a->low > b->low;
}

/* The zone of the `count` operations on one value. False: it can not be, and `why` is said. */
static bool make_zone(const struct history_operation *ops, size_t count, struct zone *zone,
                      char *why, size_t size)
{
    uint64_t value = ops[0].value, first_end = UINT64_MAX, last_begin = 0;
    bool initial = value == 0; /* written before all else */
    if (!initial && (ops[0].kind != HISTORY_WRITE || ops[0].has_failed)) {
        snprintf(why, size, "key %u: a read answers value %lu, which was %s", ops[0].key, value,
                 ops[0].kind == HISTORY_WRITE ? "reported as failed" : "never written");
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        first_end = sl_min(first_end, ops[i].ended);
        last_begin = sl_max(last_begin, ops[i].began);
        if (!initial && ops[i].ended < ops[0].began) {
            snprintf(why, size, "key %u: a read answers value %lu before its write begins",
                     ops[0].key, value);
            return false;
        }
        if (i > 0 && ops[i].kind == HISTORY_WRITE) {
            snprintf(why, size, "key %u: value %lu is written twice", ops[0].key, value);
            return false;
        }
    }
    if (initial)
        first_end = 0;
    *zone = (struct zone){.low = sl_min(first_end, last_begin),
                          .high = sl_max(first_end, last_begin),
                          .value = value,
                          .forward = first_end < last_begin};
    return true;
}

/* Zones of one register, in the order of their beginnings. */
static bool zones_agree(struct zone *zones, size_t count, uint32_t key, char *why, size_t size)
{
    qsort(zones, count, sizeof(*zones), by_low);
    const struct zone *forward = NULL; /* the one that reaches furthest so far */
    for (size_t i = 0; i < count; i++) {
        const struct zone *zone = &zones[i];
        /* A forward zone that begins inside another overlaps it; a backward one must lie in it. */
        if (forward != NULL && zone->low < forward->high &&
            (zone->forward || zone->high < forward->high)) {
            snprintf(why, size,
                     "key %u: value %lu was there from %lu to %lu, yet value %lu %s %lu to %lu",
                     key, forward->value, forward->low, forward->high, zone->value,
                     zone->forward ? "from" : "within", zone->low, zone->high);
            return false;
        }
        if (zone->forward && (forward == NULL || zone->high > forward->high))
            forward = zone;
    }
    return true;
}

/* What tells nothing: a read without an answer; a write without one, or failed, that nobody read.
 */
static bool tells_nothing(const struct history_operation *ops, size_t count)
{
    return count == 1 && (ops[0].has_failed || ops[0].ended == UINT64_MAX);
}

bool history_is_linearizable(struct history *history, char *why, size_t size)
{
    struct history_operation *ops = history->operations;
    size_t kept = 0;
    for (size_t i = 0; i < history->count; i++) {
        if (ops[i].kind == HISTORY_WRITE || ops[i].ended != UINT64_MAX)
            ops[kept++] = ops[i];
    }
    history->count = kept;
    if (kept == 0)
        return true;
    qsort(ops, kept, sizeof(*ops), by_value);
    struct zone *zones = malloc(kept * sizeof(*zones));
    SL_ASSERT(zones != NULL);
    bool agrees = true;
    size_t zone_count = 0;
    for (size_t first = 0, end = 0; first < kept && agrees; first = end) {
        for (end = first;
             end < kept && ops[end].key == ops[first].key && ops[end].value == ops[first].value;)
            end++;
        if (!tells_nothing(ops + first, end - first))
            agrees = make_zone(ops + first, end - first, &zones[zone_count++], why, size);
        if (agrees && (end == kept || ops[end].key != ops[first].key)) {
            agrees = zones_agree(zones, zone_count, ops[first].key, why, size);
            zone_count = 0;
        }
    }
    free(zones);
    return agrees;
}
