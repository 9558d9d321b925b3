/*
 * The checkers: what must hold at every step, over all nodes at once (Raft figure 3, and more).
 * Each cites what it checks. The first violation ends the run.
 */
#include "sim/raft/cluster.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Of the core as it is built for the simulator (raft/rule.h). */
bool sl_raft_rule_off[SL_RAFT_RULE_COUNT];
uint64_t sl_raft_covered[SL_RAFT_COVER_COUNT];

void violation(struct cluster *cluster, const char *format, ...)
{
    if (cluster->violation[0] != 0)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(cluster->violation, sizeof(cluster->violation), format, arguments);
    va_end(arguments);
    cluster->violation_ns = cluster->now_ns;
    trace_note(cluster, 0, "VIOLATION %s", cluster->violation);
}

static void *grow(void *array, uint64_t *capacity, uint64_t needed, size_t each)
{
    if (needed < *capacity)
        return array;
    uint64_t wanted = needed * 2 + 256;
    char *grown = realloc(array, wanted * each);
    SL_ASSERT(grown != NULL);
    memset(grown + *capacity * each, 0, (wanted - *capacity) * each);
    *capacity = wanted;
    return grown;
}

static struct group *group_of(struct cluster *cluster, const struct replica *replica)
{
    return &cluster->groups[replica->group];
}

/* The id of the entry before `index`, as this replica has it. */
static uint64_t id_before(struct cluster *cluster, struct replica *replica, uint64_t index)
{
    const struct entry *before = log_at(&replica->log, index - 1);
    struct group *group = group_of(cluster, replica);
    if (before != NULL)
        return before->id;
    return index > 1 && index - 1 < group->committed_count ? group->committed[index - 1].id : 0;
}

/* Log matching, first half (§5.3): one entry for an index and a term, ever. */
void check_made(struct cluster *cluster, struct replica *replica, uint64_t index,
                const struct entry *entry)
{
    struct group *group = group_of(cluster, replica);
    group->made = grow(group->made, &group->made_capacity, index, sizeof(*group->made));
    for (unsigned i = 0; i < 4; i++) {
        if (group->made[index][i].id == 0) {
            group->made[index][i].term = entry->term;
            group->made[index][i].id = entry->id;
            break;
        }
        if (group->made[index][i].term == entry->term)
            violation(cluster, "log matching: n%u makes a second entry %lu of term %lu",
                      replica->node, index, entry->term);
    }
    ((struct entry *)entry)->id_before = id_before(cluster, replica, index);
}

/* Log matching, second half: what precedes an entry is the same wherever it is. */
void check_received(struct cluster *cluster, struct replica *replica, uint64_t index,
                    const struct entry *entry)
{
    if (id_before(cluster, replica, index) != entry->id_before)
        violation(cluster, "log matching: n%u has another entry before %lu of term %lu",
                  replica->node, index, entry->term);
}

static void check_vote(struct cluster *cluster, struct replica *replica, uint64_t term,
                       uint64_t candidate)
{
    if (cluster->votes[replica->serial].term == term &&
        cluster->votes[replica->serial].candidate != candidate)
        violation(cluster, "n%u votes twice in term %lu", replica->node, term);
    cluster->votes[replica->serial].term = term;
    cluster->votes[replica->serial].candidate = candidate;
}

static void check_ack(struct cluster *cluster, struct replica *replica,
                      const struct sl_raft_message *m)
{
    uint64_t index = m->index.value;
    const struct disk *disk = &replica->disk;
    const struct entry *ours = log_at(&disk->log, index);
    if (index > disk->snapshot.index && (ours == NULL || ours->id == 0)) {
        violation(cluster, "n%u acknowledges %lu, which is not on its disk", replica->node, index);
        return;
    }
    struct replica *leader = &cluster->nodes[m->to.node].replicas[replica->group];
    if (!leader->running || leader->role != SL_RAFT_LEADER ||
        replica_status(leader).term.value != m->term.value)
        return;
    const struct entry *theirs = log_at(&leader->log, index);
    if (ours != NULL && theirs != NULL && ours->id != theirs->id)
        violation(cluster, "n%u acknowledges %lu, where its leader has another entry",
                  replica->node, index);
}

/* To whom a message may go, and who may say that it campaigns by its leader's wish (thesis 3.10).
 */
static void check_right(struct cluster *cluster, struct replica *replica,
                        const struct sl_raft_message *m)
{
    struct replica *to = &cluster->nodes[m->to.node].replicas[replica->group];
    if (m->kind == SL_RAFT_TIMEOUT_NOW && to->exists && to->id == m->to.id)
        to->told_in_term = m->term.value;
    if (m->kind != SL_RAFT_VOTE)
        return;
    const struct sl_raft_config *config = sl_raft_get_config(replica->raft);
    if (m->to.id == replica->id || !sl_raft_config_is_voter(config, m->to.id))
        violation(cluster, "n%u asks n%u for a vote, which is no voter", replica->node, m->to.node);
    if ((m->flags & SL_RAFT_FLAG_TRANSFER) != 0 && replica->told_in_term + 1 != m->term.value)
        violation(cluster, "n%u campaigns as by transfer, which nobody asked for", replica->node);
}

void check_step(struct cluster *cluster, struct replica *replica, enum sl_raft_event_kind kind,
                int result)
{
    struct sl_raft_status status = replica_status(replica);
    if (status.role != replica->role || status.leader.id != replica->leader)
        violation(cluster, "n%u is in role %d under %lu, and has announced %d under %lu",
                  replica->node, status.role, status.leader.id, replica->role, replica->leader);
    /* Thesis 4.1: in force is the newest configuration in the log, whatever has become of it. */
    if (replica->config_stale) {
        replica->config_stale = false;
        replica->config_index = replica->disk.snapshot.config.index.value;
        for (uint32_t i = replica->log.count; i > 0; i--) {
            const struct entry *entry = &replica->log.entries[i - 1];
            if (entry->config >= 0) {
                replica->config_index = cluster->configs[entry->config].index.value;
                break;
            }
        }
    }
    if (sl_raft_get_config(replica->raft)->index.value != replica->config_index)
        violation(cluster, "n%u acts by configuration %lu, its log ends with %lu", replica->node,
                  sl_raft_get_config(replica->raft)->index.value, replica->config_index);
    bool request = kind == SL_RAFT_PROPOSE || kind == SL_RAFT_CHANGE || kind == SL_RAFT_TRANSFER ||
                   kind == SL_RAFT_READ || kind == SL_RAFT_COMPACTED || kind == SL_RAFT_COPIED;
    bool known = kind == SL_RAFT_COPYING && result == -EALREADY;
    if (result != 0 && !known && !request && status.role != SL_RAFT_STOPPED)
        violation(cluster, "n%u: event %d is refused: %d", replica->node, kind, result);
}

/* Persistent before responding (§5.1, figure 2); one vote a term (§5.2); durable before ack. */
void check_send(struct cluster *cluster, struct replica *replica, const struct sl_raft_message *m)
{
    bool pre = (m->flags & SL_RAFT_FLAG_PRE) != 0;
    bool granted = (m->flags & SL_RAFT_FLAG_GRANTED) != 0;
    if (m->kind == SL_RAFT_NOT_MEMBER)
        return;
    check_right(cluster, replica, m);
    if (!pre && replica->disk.term != m->term.value)
        violation(cluster, "n%u speaks in term %lu, on its disk is %lu", replica->node,
                  m->term.value, replica->disk.term);
    if (m->kind == SL_RAFT_VOTE_ANSWER && granted && !pre) {
        if (replica->disk.vote.id != m->to.id)
            violation(cluster, "n%u grants a vote that is not on its disk", replica->node);
        check_vote(cluster, replica, m->term.value, m->to.id);
    }
    if (m->kind == SL_RAFT_VOTE && replica->disk.copying && !replica->mark_void)
        violation(cluster, "n%u campaigns in the middle of a resync", replica->node);
    if (m->kind == SL_RAFT_VOTE && !pre) {
        check_vote(cluster, replica, m->term.value, replica->id);
    }
    if (m->kind == SL_RAFT_APPEND_ANSWER && (m->flags & SL_RAFT_FLAG_REJECTED) == 0)
        check_ack(cluster, replica, m);
}

/* Election safety (§5.2) and leader completeness (§5.4). */
void check_role(struct cluster *cluster, struct replica *replica, enum sl_raft_role role,
                uint64_t term)
{
    if (role != SL_RAFT_LEADER)
        return;
    struct group *group = group_of(cluster, replica);
    group->leaders = grow(group->leaders, &group->leaders_capacity, term, sizeof(uint64_t));
    if (group->leaders[term] != 0)
        violation(cluster, "election safety: n%u and another one lead in term %lu", replica->node,
                  term);
    group->leaders[term] = replica->id;
    if (group->committed_count < 2)
        return;
    uint64_t last = group->committed_count - 1;
    while (last > 0 && group->committed[last].in_term >= term)
        last--; /* a belated leader of an old term need not have what came after it */
    const struct entry *entry = log_at(&replica->log, last);
    if (last > replica->disk.snapshot.index &&
        (entry == NULL || entry->id != group->committed[last].id))
        violation(cluster, "leader completeness: n%u leads term %lu without committed entry %lu",
                  replica->node, term, last);
}

/* Acknowledged means durable: what a leader takes for committed is on a majority's disks. */
bool check_durable_on_quorum(struct cluster *cluster, struct replica *leader, uint64_t index)
{
    const struct sl_raft_config *config = sl_raft_get_config(leader->raft);
    const struct entry *entry = log_at(&leader->log, index);
    unsigned durable = 0;
    for (unsigned i = 0; i < config->count; i++) {
        struct replica *other = &cluster->nodes[config->members[i].node].replicas[leader->group];
        if (config->members[i].kind != SL_RAFT_VOTER)
            continue;
        struct group *group = group_of(cluster, leader);
        if (config->members[i].id == group->lost_id && index <= group->lost_last) {
            durable++; /* it was, and its acknowledgement was still under way */
            continue;
        }
        if (!other->exists || other->id != config->members[i].id)
            continue;
        if (index <= other->disk.promised) {
            durable++; /* it was, and is damaged: it stays bound by it */
            continue;
        }
        const struct entry *there = log_at(&other->disk.log, index);
        bool whole = true; /* not behind a hole */
        for (uint32_t at = 0; other->disk.log.holed && at < other->disk.log.count &&
                              other->disk.log.first + at < index;
             at++)
            whole = whole && other->disk.log.entries[at].id != 0;
        if (other->disk.snapshot.index >= index ||
            (entry != NULL && there != NULL && there->id == entry->id && whole))
            durable++;
    }
    return durable > sl_raft_config_voter_count(config) / 2;
}

void check_commit(struct cluster *cluster, struct replica *replica, uint64_t index)
{
    /* What was committed by an earlier leader may be learned under a later configuration. */
    if (index < group_of(cluster, replica)->committed_count)
        return;
    if (replica->role == SL_RAFT_LEADER && !check_durable_on_quorum(cluster, replica, index))
        violation(cluster, "n%u commits %lu, which is not durable on a majority", replica->node,
                  index);
}

static uint64_t digest_of(const struct replica *replica)
{
    return (sl_session_digest(replica->sessions) ^
            replica->registers.digest * UINT64_C(0xbf58476d1ce4e5b9)) |
           1;
}

static void check_digest(struct cluster *cluster, struct replica *replica, uint64_t index)
{
    struct group *group = group_of(cluster, replica);
    uint64_t digest = digest_of(replica);
    if (group->committed[index].digest == 0)
        group->committed[index].digest = digest;
    else if (group->committed[index].digest != digest)
        violation(cluster, "state machines differ: n%u at %lu", replica->node, index);
}

static void note_write(struct cluster *cluster, struct group *group, uint64_t index,
                       const struct entry *entry)
{
    group->value_version =
        grow(group->value_version, &group->values_capacity, entry->value, sizeof(uint64_t));
    uint64_t *version = &group->value_version[entry->value];
    if (*version == UINT64_MAX)
        violation(cluster, "value %lu was reported as failed, and is applied at %lu", entry->value,
                  index);
    else if (*version != 0 && *version != index)
        violation(cluster, "value %lu is applied twice: %lu and %lu", entry->value, *version,
                  index);
    else
        *version = index;
}

/* State machine safety (§5.4.3): one entry for an index, on all; applied once. */
void check_applied(struct cluster *cluster, struct replica *replica, uint64_t index,
                   const struct entry *entry, enum sl_verdict verdict)
{
    struct group *group = group_of(cluster, replica);
    group->committed =
        grow(group->committed, &group->committed_capacity, index, sizeof(*group->committed));
    struct committed *known = &group->committed[index];
    if (known->id == 0) {
        known->id = entry->id;
        known->term = entry->term;
        known->in_term = replica_status(replica).term.value;
        group->committed_count = index + 1;
        if (entry->config >= 0)
            group->committed_config = (uint64_t)entry->config + 1;
        if (entry->command.kind == SL_COMMAND_ATTACH && verdict == SL_VERDICT_APPLY)
            group->epoch = entry->command.epoch;
    } else if (known->id != entry->id) {
        violation(cluster, "state machine safety: n%u applies another entry %lu", replica->node,
                  index);
        return;
    }
    if (entry->command.kind == SL_COMMAND_WRITE && verdict == SL_VERDICT_APPLY) {
        if (index + 1 == group->committed_count && entry->command.epoch != group->epoch)
            violation(cluster, "a write of epoch %lu is applied at %lu, in epoch %lu",
                      entry->command.epoch, index, group->epoch);
        note_write(cluster, group, index, entry);
    }
    check_digest(cluster, replica, index);
}

void check_installed(struct cluster *cluster, struct replica *replica, const struct snapshot *s)
{
    struct group *group = group_of(cluster, replica);
    if (s->index >= group->committed_count || group->committed[s->index].term != s->term)
        violation(cluster, "n%u has a state of %lu that was never committed", replica->node,
                  s->index);
    else
        check_digest(cluster, replica, s->index);
}

/*
 * Linearizability of one register: the log orders its writes, so an operation is right if it does
 * not go back behind what was known (answered) when it began; a write goes past it.
 */
void check_version(struct cluster *cluster, struct group *group, uint32_t key, uint64_t floor,
                   uint64_t version, bool is_write)
{
    if (!cluster->by_history && (version < floor || (is_write && version == floor)))
        violation(cluster, "%s of key %u answers version %lu, but %lu was known before it began",
                  is_write ? "write" : "read", key, version, floor);
    group->floor[key] = sl_max(group->floor[key], version);
}

static bool is_member(const struct replica *leader, const struct replica *replica)
{
    return sl_raft_config_find(sl_raft_get_config(leader->raft), replica->id) >= 0;
}

bool check_waiting(struct cluster *cluster, char *why, size_t size)
{
    for (unsigned g = 0; g < cluster->group_count; g++) {
        const struct replica *leader = cluster_leader(cluster, g);
        for (unsigned i = 0; i < cluster->node_count; i++) {
            const struct replica *replica = replica_at(cluster, i, g);
            if (!replica->running || replica->waiter_count + replica->reader_count == 0 ||
                (leader != NULL && !is_member(leader, replica)))
                continue;
            snprintf(why, size, "%u writes and %u reads of group %u wait on n%u",
                     replica->waiter_count, replica->reader_count, g, i);
            return true;
        }
    }
    return false;
}

void check_end(struct cluster *cluster)
{
    char why[200];
    if (check_waiting(cluster, why, sizeof(why)))
        violation(cluster, "nothing happens any more, but %s", why);
    for (unsigned g = 0; g < cluster->group_count; g++) {
        if (!history_is_linearizable(&cluster->groups[g].history, why, sizeof(why)))
            violation(cluster, "clients of group %u: %s", g, why);
    }
}

bool check_healed(struct cluster *cluster, char *why, size_t size)
{
    for (unsigned g = 0; g < cluster->group_count; g++) {
        struct replica *leader = cluster_leader(cluster, g);
        if (leader == NULL || !replica_status(leader).serving) {
            snprintf(why, size, "group %u has no leader", g);
            return false;
        }
        struct sl_raft_status status = replica_status(leader);
        const struct sl_raft_config *config = sl_raft_get_config(leader->raft);
        if (leader->applied + 1 < cluster->groups[g].committed_count) {
            snprintf(why, size, "group %u: n%u leads with %lu entries, %lu were committed", g,
                     leader->node, leader->applied, cluster->groups[g].committed_count - 1);
            return false;
        }
        if (status.commit.value != status.last.value) {
            snprintf(why, size, "group %u: n%u has committed %lu of %lu", g, leader->node,
                     status.commit.value, status.last.value);
            return false;
        }
        for (unsigned i = 0; i < config->count; i++) {
            struct replica *other = &cluster->nodes[config->members[i].node].replicas[g];
            if (!other->exists || other->id != config->members[i].id)
                continue; /* its disk was lost */
            if (!other->running || other->applied != leader->applied ||
                replica_status(other).copying || replica_status(other).mending ||
                digest_of(other) != digest_of(leader)) {
                snprintf(why, size, "group %u: n%u is at %lu, its leader at %lu", g, other->node,
                         other->applied, leader->applied);
                return false;
            }
        }
    }
    return true;
}
