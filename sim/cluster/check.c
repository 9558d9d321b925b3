/*
 * Per-block linearizability. Every written value is unique, so which write a read saw is known, and
 * a history of one register can be judged in polynomial time (Gibbons and Korach, "Testing Shared
 * Memories", 1997: zones): a write and the reads that saw it are a cluster; its zone
 * lies between the first end and the last beginning of its operations. If the first end comes
 * before the last beginning the value must be the register's all that time (a forward zone), else
 * there is some moment of the zone that will do (a backward zone). The history is linearizable if
 * and only if no two forward zones overlap and no backward zone lies within a forward one.
 *
 * A write whose outcome nobody knows has no end; if nobody read it, it says nothing.
 */
#include "sim/cluster/cluster.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct group {
    uint64_t value;
    const struct operation *write; /* NULL: zeroes, as the volume began */
    uint64_t first_end, last_start;
    unsigned reads;
};

struct blocks {
    struct group *groups;
    unsigned count;
};

static uint64_t end_of(const struct operation *write)
{
    return write->outcome == OUTCOME_DONE || write->outcome == OUTCOME_UNTIL ? write->finish
                                                                             : UINT64_MAX;
}

static bool concerns(const struct operation *operation, unsigned block)
{
    return block >= operation->first && block < operation->first + operation->count;
}

static uint64_t value_of(const struct operation *operation, unsigned block)
{
    return operation->values[block - operation->first];
}

static struct group *find(struct blocks *blocks, uint64_t value)
{
    for (unsigned i = 0; i < blocks->count; i++) {
        if (blocks->groups[i].value == value)
            return &blocks->groups[i];
    }
    return NULL;
}

static void gather(struct cluster *cluster, unsigned block, struct blocks *blocks)
{
    blocks->count = 1;
    blocks->groups[0] = (struct group){0};
    for (size_t i = 0; i < cluster->operation_count; i++) {
        const struct operation *operation = &cluster->operations[i];
        if (operation->is_write && concerns(operation, block))
            blocks->groups[blocks->count++] = (struct group){
                .value = value_of(operation, block),
                .write = operation,
                .first_end = end_of(operation),
                .last_start = operation->start,
            };
    }
}

static void add_reads(struct cluster *cluster, unsigned block, struct blocks *blocks)
{
    for (size_t i = 0; i < cluster->operation_count; i++) {
        const struct operation *operation = &cluster->operations[i];
        if (operation->is_write || operation->outcome != OUTCOME_DONE ||
            !concerns(operation, block))
            continue;
        uint64_t value = value_of(operation, block);
        struct group *group = find(blocks, value);
        if (group == NULL) {
            cluster_violation(cluster, (int)block,
                              "block %u: client %u read value %" PRIu64
                              ", which nobody wrote there",
                              block, operation->client, value);
            return;
        }
        if (group->write != NULL && group->write->outcome == OUTCOME_NEVER) {
            cluster_violation(cluster, (int)block,
                              "block %u: value %" PRIu64 " was refused and is there", block, value);
            return;
        }
        if (group->write != NULL && operation->finish < group->write->start) {
            cluster_violation(cluster, (int)block,
                              "block %u: value %" PRIu64 " was read before it was written", block,
                              value);
            return;
        }
        if (group->reads++ == 0 && group->write != NULL && group->write->outcome != OUTCOME_DONE)
            cluster->effects[EFFECT_UNSEEN_WRITES_APPLIED]++;
        group->first_end = sl_min(group->first_end, operation->finish);
        group->last_start = sl_max(group->last_start, operation->start);
    }
}

/* One that nobody read and that need not have happened constrains nothing. */
static bool counts(const struct group *group)
{
    return group->reads > 0 || group->write == NULL || group->write->outcome == OUTCOME_DONE;
}

static bool is_forward(const struct group *group)
{
    return group->first_end < group->last_start;
}

static void judge(struct cluster *cluster, unsigned block, const struct group *a,
                  const struct group *b)
{
    if (!is_forward(a) || !counts(b))
        return;
    if (is_forward(b)) {
        if (a->first_end < b->last_start && b->first_end < a->last_start)
            cluster_violation(cluster, (int)block,
                              "block %u: values %" PRIu64 " and %" PRIu64
                              " were both there before and after the other",
                              block, a->value, b->value);
    } else if (a->first_end < b->last_start && b->first_end < a->last_start) {
        cluster_violation(cluster, (int)block,
                          "block %u: value %" PRIu64
                          " was read after it had been overwritten by %" PRIu64,
                          block, a->value, b->value);
    }
}

void check_blocks(struct cluster *cluster)
{
    struct blocks blocks = {
        .groups = malloc((cluster->operation_count + 1) * sizeof(*blocks.groups)),
    };
    SL_ASSERT(blocks.groups != NULL);
    for (unsigned block = 0; block < BLOCKS && cluster->violation[0] == '\0'; block++) {
        gather(cluster, block, &blocks);
        add_reads(cluster, block, &blocks);
        for (unsigned i = 0; i < blocks.count; i++) {
            if (!counts(&blocks.groups[i]) || !is_forward(&blocks.groups[i]))
                continue;
            for (unsigned k = 0; k < blocks.count; k++) {
                if (i != k)
                    judge(cluster, block, &blocks.groups[i], &blocks.groups[k]);
            }
        }
    }
    free(blocks.groups);
}

void check_draw(const struct cluster *cluster, unsigned block, FILE *out)
{
    static const char *const outcomes[] = {"no answer", "done", "unknown", "given up", "refused"};
    fprintf(out, "  block %u: begin, end (s), client, operation\n", block);
    for (size_t i = 0; i < cluster->operation_count; i++) {
        const struct operation *operation = &cluster->operations[i];
        if (!concerns(operation, block))
            continue;
        fprintf(out, "%12.6f ", (double)operation->start_ns / 1e9);
        if (operation->finish == UINT64_MAX)
            fprintf(out, "%12s ", "-");
        else
            fprintf(out, "%12.6f ", (double)operation->finish_ns / 1e9);
        fprintf(out, " c%-2u %s %" PRIu64 " %s\n", operation->client,
                operation->is_write ? "write" : "read ", value_of(operation, block),
                outcomes[operation->outcome]);
    }
}
