/*
 * A run as text: a column for each node, a line for each message and event. Only for a run that is
 * looked at; the others do not pay for it.
 */
#include "sim/raft/cluster.h"

#include <stdarg.h>
#include <string.h>

enum { COLUMN = 14, LEFT = 12 };

static void lifelines(const struct cluster *cluster, char *line, size_t size)
{
    memset(line, ' ', size);
    for (unsigned i = 0; i < cluster->node_count; i++)
        line[LEFT + i * COLUMN] = cluster->nodes[i].up ? '|' : ':';
    line[LEFT + cluster->node_count * COLUMN] = 0;
    char stamp[LEFT + 20];
    int length = snprintf(stamp, sizeof(stamp), "%10.4f", (double)(cluster->now_ns) / 1e9);
    memcpy(line, stamp, (size_t)sl_min(length, (int)LEFT - 1));
}

void trace_note(struct cluster *cluster, unsigned node, const char *format, ...)
{
    if (!cluster->trace)
        return;
    char line[LEFT + NODES_MAX * COLUMN + 1], text[400];
    lifelines(cluster, line, sizeof(line));
    line[LEFT + node * COLUMN] = '*';
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    fprintf(cluster->trace_file, "%s n%u %s\n", line, node, text);
}

static void describe(const struct packet *packet, char *text, size_t size)
{
    const struct sl_raft_message *m = &packet->message;
    bool pre = (m->flags & SL_RAFT_FLAG_PRE) != 0;
    if (packet->kind == PACKET_RESYNC) {
        snprintf(text, size, "state at %lu", packet->snapshot->index);
        return;
    }
    switch (m->kind) {
    case SL_RAFT_APPEND:
        snprintf(text, size, "append t%lu (%lu t%lu) +%u t%lu commit %lu%s", m->term.value,
                 m->index.value, m->index_term.value, m->count, m->entry_term.value,
                 m->commit.value, m->epoch != 0 ? " covered" : "");
        break;
    case SL_RAFT_APPEND_ANSWER:
        if ((m->flags & SL_RAFT_FLAG_REJECTED) != 0)
            snprintf(text, size, "rejected t%lu: %lu is t%lu, go on from %lu", m->term.value,
                     m->index.value, m->index_term.value, m->hint.value);
        else
            snprintf(text, size, "durable t%lu %lu of %lu%s", m->term.value, m->index.value,
                     m->hint.value, (m->flags & SL_RAFT_FLAG_COPYING) != 0 ? " copying" : "");
        break;
    case SL_RAFT_VOTE:
        snprintf(text, size, "%s t%lu last (%lu t%lu)%s", pre ? "pre-vote?" : "VOTE?",
                 m->term.value, m->index.value, m->index_term.value,
                 (m->flags & SL_RAFT_FLAG_TRANSFER) != 0 ? " transfer" : "");
        break;
    case SL_RAFT_VOTE_ANSWER:
        snprintf(text, size, "%s%s t%lu", pre ? "pre-" : "",
                 (m->flags & SL_RAFT_FLAG_GRANTED) != 0 ? "granted" : "refused", m->term.value);
        break;
    case SL_RAFT_TIMEOUT_NOW:
        snprintf(text, size, "TimeoutNow t%lu", m->term.value);
        break;
    default:
        snprintf(text, size, "not a member: %lu", m->from.id);
        break;
    }
}

/* `fate` NULL: it arrives now. */
void trace_packet(struct cluster *cluster, const struct packet *packet, const char *fate)
{
    if (!cluster->trace || packet->kind == PACKET_BEAT || packet->kind == PACKET_BEAT_ANSWER)
        return;
    char line[LEFT + NODES_MAX * COLUMN + 1], text[160];
    lifelines(cluster, line, sizeof(line));
    unsigned from = LEFT + packet->from * COLUMN, to = LEFT + packet->to * COLUMN;
    for (unsigned at = sl_min(from, to) + 1; at < sl_max(from, to); at++)
        line[at] = '-';
    line[to > from ? to - 1 : to + 1] = fate != NULL ? 'x' : to > from ? '>' : '<';
    describe(packet, text, sizeof(text));
    fprintf(cluster->trace_file, "%s g%u %s%s%s\n", line, packet->group, text,
            fate != NULL ? "  " : "", fate != NULL ? fate : "");
}
