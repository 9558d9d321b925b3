/*
 * What a group knows of its log: which term each index has, as runs, and roughly how many bytes.
 * The entries themselves are the store's. No state but the struct.
 *
 * Invariants: runs ascend in index and term; the first begins behind the boundary; an empty log has
 * none. durable <= last. Counts of the marks add up to at most last - boundary.
 */
#include "raft/private.h"

#include <string.h>

/* The run that holds `index`, or -1 if it is the boundary's or outside. */
static int run_of(const struct log *log, struct sl_index index)
{
    if (index.value > log->last.value)
        return -1;
    int run = (int)log->run_count - 1;
    while (run >= 0 && log->runs[run].first.value > index.value)
        run--;
    return run;
}

struct sl_term sl_raft_log_term(const struct log *log, struct sl_index index)
{
    if (index.value == log->boundary.value)
        return log->boundary_term;
    int run = run_of(log, index);
    return run < 0 ? sl_term_of(0) : log->runs[run].term;
}

struct sl_term sl_raft_log_last_term(const struct log *log)
{
    return log->run_count == 0 ? log->boundary_term : log->runs[log->run_count - 1].term;
}

struct sl_index sl_raft_log_run_first(const struct log *log, struct sl_index index)
{
    int run = run_of(log, index);
    return run < 0 ? log->boundary : log->runs[run].first;
}

struct sl_index sl_raft_log_run_last(const struct log *log, struct sl_index index)
{
    int run = run_of(log, index);
    if (run < 0)
        return log->boundary;
    return (unsigned)run + 1 < log->run_count ? sl_index_of(log->runs[run + 1].first.value - 1)
                                              : log->last;
}

struct sl_index sl_raft_log_last_of(const struct log *log, struct sl_term term)
{
    struct sl_index last = log->last;
    for (unsigned run = log->run_count; run > 0 && log->runs[run - 1].term.value > term.value;
         run--)
        last = sl_index_of(log->runs[run - 1].first.value - 1);
    return last;
}

bool sl_raft_log_make_room(struct log *log, struct sl_term term, struct sl_index commit)
{
    if (log->run_count < log->run_capacity || sl_term_equal(sl_raft_log_last_term(log), term))
        return true;
    struct sl_index end = sl_index_of(log->runs[1].first.value - 1);
    if (end.value > commit.value || end.value > log->durable.value)
        return false;
    SL_RAFT_COVER(RUNS_FORGOTTEN);
    sl_raft_log_compact(log, end);
    return true;
}

static void add_mark(struct log *log, uint64_t count, uint64_t bytes)
{
    struct mark *newest = log->mark_count > 0 ? &log->marks[log->mark_count - 1] : NULL;
    if (newest == NULL || newest->count >= MARK_ENTRIES) {
        if (log->mark_count == MARKS_MAX) {
            /* The oldest two become one: what is far behind is estimated more coarsely. */
            log->marks[1].count += log->marks[0].count;
            log->marks[1].bytes += log->marks[0].bytes;
            memmove(&log->marks[0], &log->marks[1], sizeof(log->marks[0]) * (MARKS_MAX - 1));
            log->mark_count--;
        }
        newest = &log->marks[log->mark_count++];
        *newest = (struct mark){0};
    }
    newest->count += count;
    newest->bytes += bytes;
    log->entry_bytes_most = sl_max(log->entry_bytes_most, (bytes + count - 1) / count);
}

void sl_raft_log_append(struct log *log, uint64_t count, struct sl_term term, uint64_t bytes)
{
    if (log->run_count == 0 || !sl_term_equal(log->runs[log->run_count - 1].term, term)) {
        SL_ASSERT(log->run_count < log->run_capacity &&
                  term.value >= sl_raft_log_last_term(log).value);
        log->runs[log->run_count++] = (struct run){sl_index_of(log->last.value + 1), term};
    }
    log->last.value += count;
    add_mark(log, count, bytes);
}

void sl_raft_log_truncate(struct log *log, struct sl_index first)
{
    SL_ASSERT(first.value > log->boundary.value && first.value <= log->last.value);
    uint64_t dropped = log->last.value - first.value + 1;
    while (dropped > 0 && log->mark_count > 0) {
        struct mark *newest = &log->marks[log->mark_count - 1];
        if (newest->count <= dropped) {
            dropped -= newest->count;
            log->mark_count--;
        } else {
            newest->bytes -= newest->bytes / newest->count * dropped;
            newest->count -= dropped;
            dropped = 0;
        }
    }
    while (log->run_count > 0 && log->runs[log->run_count - 1].first.value >= first.value)
        log->run_count--;
    log->last = sl_index_of(first.value - 1);
    log->durable = sl_index_least(log->durable, log->last);
    /* What is being written counts only as far as it is still there. */
    if (log->ticket_done + 1 < log->ticket_fresh)
        log->stale_limit = sl_index_least(log->stale_limit, log->last);
    else
        log->stale_limit = log->last;
    log->ticket_fresh = log->ticket + 1;
}

void sl_raft_log_compact(struct log *log, struct sl_index boundary)
{
    SL_ASSERT(boundary.value >= log->boundary.value && boundary.value <= log->last.value);
    log->boundary_term = sl_raft_log_term(log, boundary);
    log->boundary = boundary;
    unsigned gone = 0;
    while (gone < log->run_count &&
           sl_raft_log_run_last(log, log->runs[gone].first).value <= boundary.value)
        gone++;
    memmove(&log->runs[0], &log->runs[gone], sizeof(log->runs[0]) * (log->run_count - gone));
    log->run_count -= gone;
    if (log->run_count > 0)
        log->runs[0].first =
            sl_index_most(log->runs[0].first, sl_index_of(log->boundary.value + 1));
    log->durable = sl_index_most(log->durable, boundary);
}

void sl_raft_log_reset(struct log *log, struct sl_index boundary, struct sl_term term)
{
    log->boundary = log->last = log->durable = boundary;
    log->boundary_term = term;
    log->run_count = log->mark_count = 0;
    log->ticket_fresh = log->ticket + 1;
    log->stale_limit = sl_index_of(0);
}

uint64_t sl_raft_log_bytes(const struct log *log, struct sl_index first, struct sl_index last)
{
    uint64_t bytes = 0, end = log->last.value;
    for (unsigned mark = log->mark_count; mark > 0 && end >= first.value; mark--) {
        uint64_t count = log->marks[mark - 1].count, begin = end - count + 1;
        uint64_t from = sl_max(begin, first.value), to = sl_min(end, last.value);
        if (from <= to)
            bytes += log->marks[mark - 1].bytes / count * (to - from + 1);
        end = begin - 1;
    }
    return bytes;
}

bool sl_raft_reaches(const struct log *log, struct sl_index end, struct sl_term term,
                     struct sl_index index)
{
    struct sl_term ours = sl_raft_log_term(log, end);
    return ours.value > term.value || (sl_term_equal(ours, term) && end.value >= index.value);
}

void sl_raft_log_written(struct log *log, uint64_t ticket, struct sl_index last)
{
    if (ticket < log->ticket_fresh) {
        SL_RAFT_COVER(WRITTEN_STALE);
        last = sl_index_least(last, log->stale_limit);
    }
    log->ticket_done = sl_max(log->ticket_done, ticket);
    log->durable = sl_index_most(log->durable, sl_index_least(last, log->last));
}
