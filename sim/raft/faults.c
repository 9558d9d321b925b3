/*
 * What happens to a cluster of the Raft simulator: faults of nodes, links, disks and clocks, and
 * changes of membership and leadership in the midst. A plan is drawn from the seed at first, so
 * that parts of it can be left out when a failure is made shorter; each fault has its own random
 * number. How a fault strikes depends on where the cluster stands.
 */
#include "sim/raft/cluster.h"

#include <stdlib.h>
#include <string.h>

const char *fault_name(enum fault_kind kind)
{
    static const char *const names[FAULT_COUNT] = {
        "crash",           "power loss",   "pause",        "partition",
        "one-way",         "loss",         "duplicate",    "delay",
        "slow disk",       "failed write", "clock",        "wipe",
        "change",          "transfer",     "compact",      "burst",
        "attach",          "void",         "late request", "torn tail",
        "connection lost", "late READ",    "failed READ",  "stuck disk",
        "bit rot",         "clock jump",
    };
    return names[kind];
}

/* Parts of a whole. Those that only prepare for others are the most. */
static const unsigned weights[FAULT_COUNT] = {
    [FAULT_CRASH] = 14,     [FAULT_POWER] = 2,     [FAULT_PAUSE] = 6,        [FAULT_PARTITION] = 9,
    [FAULT_ONE_WAY] = 6,    [FAULT_LOSS] = 5,      [FAULT_DUPLICATE] = 4,    [FAULT_DELAY] = 5,
    [FAULT_DISK_SLOW] = 4,  [FAULT_DISK_FAIL] = 4, [FAULT_CLOCK] = 3,        [FAULT_WIPE] = 2,
    [FAULT_CHANGE] = 14,    [FAULT_TRANSFER] = 6,  [FAULT_COMPACT] = 8,      [FAULT_BURST] = 4,
    [FAULT_ATTACH] = 1,     [FAULT_VOID] = 2,      [FAULT_LATE_REQUEST] = 2, [FAULT_TORN] = 4,
    [FAULT_CONNECTION] = 6, [FAULT_LATE_READ] = 4, [FAULT_LOST_READ] = 4,    [FAULT_DISK_STUCK] = 3,
    [FAULT_ROT] = 6,
};

/* Where leases are at stake: what makes leaders change while the old one still believes in itself.
 */
static const unsigned eager_weights[FAULT_COUNT] = {
    [FAULT_CRASH] = 25, [FAULT_PAUSE] = 12,    [FAULT_PARTITION] = 20, [FAULT_ONE_WAY] = 25,
    [FAULT_DELAY] = 6,  [FAULT_TRANSFER] = 25, [FAULT_CHANGE] = 6,     [FAULT_LATE_REQUEST] = 2,
};

void faults_plan(struct cluster *cluster, uint64_t length_ns)
{
    const unsigned *weight = cluster->eager ? eager_weights : weights;
    uint64_t gap_ns = cluster_range(cluster, 300 * MS, (cluster->eager ? 1 : 3) * SECOND);
    unsigned total = 0, most = (unsigned)(length_ns / (gap_ns / 2)) + 1;
    for (unsigned i = 0; i < FAULT_COUNT; i++)
        total += weight[i];
    unsigned jumps = cluster->jumpy ? total / 10 : 0; /* as many parts more */
    total += jumps;
    cluster->faults = calloc(most, sizeof(struct fault));
    SL_ASSERT(cluster->faults != NULL);
    uint64_t at_ns = cluster->now_ns + 3 * SECOND;
    while (cluster->fault_count < most) {
        at_ns += cluster_range(cluster, gap_ns / 2, gap_ns * 3 / 2);
        if (at_ns > cluster->now_ns + length_ns)
            break;
        unsigned draw = (unsigned)cluster_range(cluster, 0, total - 1), kind = 0;
        while (kind < FAULT_CLOCK_JUMP && draw >= weight[kind])
            draw -= weight[kind++];
        struct fault *fault = &cluster->faults[cluster->fault_count++];
        *fault = (struct fault){.kind = kind,
                                .at_ns = at_ns,
                                .length_ns = cluster_range(cluster, 50 * MS, 4 * SECOND),
                                .random = cluster_random(cluster)};
        cluster_add_fault(cluster, fault);
    }
}

/* ---- membership */

static bool is_member(const struct sl_raft_config *config, const struct replica *replica)
{
    return sl_raft_config_find(config, replica->id) >= 0;
}

static bool is_dead(struct cluster *cluster, unsigned group, const struct sl_raft_member *member)
{
    const struct replica *replica = &cluster->nodes[member->node].replicas[group];
    return !replica->exists || replica->id != member->id;
}

/* A replica that no configuration names any more, and that nobody is about to add, ends. */
static void clean_up(struct cluster *cluster, unsigned group, const struct sl_raft_config *newest)
{
    struct group *g = &cluster->groups[group];
    if (g->committed_config == 0)
        return;
    const struct sl_raft_config *committed = &cluster->configs[g->committed_config - 1];
    for (unsigned i = 0; i < cluster->node_count; i++) {
        struct replica *replica = replica_at(cluster, i, group);
        if (replica->exists && !is_member(committed, replica) && !is_member(newest, replica) &&
            replica->made_ns + 8 * SECOND < cluster->now_ns)
            replica_wipe(cluster, replica);
    }
}

static int change(struct cluster *cluster, struct replica *leader, enum sl_raft_change kind,
                  uint64_t id, unsigned node)
{
    struct sl_raft_event event = {.kind = SL_RAFT_CHANGE,
                                  .change = {.change = kind, .replica = {id, node}}};
    static const char *const names[] = {"", "add learner", "promote", "demote", "remove"};
    trace_note(cluster, leader->node, "%s n%u", names[kind], node);
    return replica_step(cluster, leader, &event);
}

static void add_somebody(struct cluster *cluster, struct replica *leader,
                         const struct sl_raft_config *config, uint64_t random)
{
    for (unsigned i = 0; i < cluster->node_count; i++) {
        unsigned node = (unsigned)((i + random) % cluster->node_count);
        struct replica *replica = replica_at(cluster, node, leader->group);
        bool named = false;
        for (unsigned slot = 0; slot < config->count; slot++)
            named = named || config->members[slot].node == node;
        if (named || !cluster->nodes[node].up || cluster->replica_serial + 8 > REPLICAS_MAX)
            continue;
        struct sl_raft_config none = {0};
        if (!replica->exists) {
            replica_make(cluster, node, leader->group, &none, cluster->next_replica++);
            replica_start(cluster, replica);
        }
        replica->made_ns = cluster->now_ns;
        change(cluster, leader, SL_RAFT_ADD_LEARNER, replica->id, node);
        return;
    }
}

static bool bury_the_dead(struct cluster *cluster, struct replica *leader,
                          const struct sl_raft_config *config)
{
    for (unsigned slot = 0; slot < config->count; slot++) {
        struct sl_raft_member member = config->members[slot];
        if (!is_dead(cluster, leader->group, &member))
            continue;
        change(cluster, leader, SL_RAFT_REMOVE, member.id, member.node);
        return true;
    }
    return false;
}

static void change_somehow(struct cluster *cluster, unsigned group, uint64_t random)
{
    struct replica *leader = cluster_leader(cluster, group);
    if (leader == NULL)
        return;
    struct sl_raft_config config = *sl_raft_get_config(leader->raft);
    clean_up(cluster, group, &config);
    struct group *g = &cluster->groups[group];
    if (bury_the_dead(cluster, leader, &config))
        return;
    bool committed = config.index.value <= replica_status(leader).commit.value;
    if (committed)
        g->lost_voter = false; /* nobody dead is in it */
    unsigned voters = sl_raft_config_voter_count(&config);
    const struct sl_raft_member *member = &config.members[random / 8 % config.count];
    bool voter = member->kind == SL_RAFT_VOTER;
    switch (random % 8) {
    case 0:
    case 1:
    case 2:
        if (!voter || voters < 3)
            change(cluster, leader, SL_RAFT_PROMOTE, member->id, member->node);
        else
            add_somebody(cluster, leader, &config, random / 64);
        break;
    case 3:
        add_somebody(cluster, leader, &config, random / 64);
        break;
    case 4:
        if (voter && voters > 2)
            change(cluster, leader, SL_RAFT_DEMOTE, member->id, member->node);
        break;
    case 5:
    case 6:
        if (!voter || voters > 3 || (voters > 2 && random / 1024 % 4 == 0))
            change(cluster, leader, SL_RAFT_REMOVE, member->id, member->node);
        break;
    default:
        for (unsigned slot = 0; slot < config.count; slot++) {
            if (config.members[slot].kind == SL_RAFT_LEARNER)
                change(cluster, leader, SL_RAFT_PROMOTE, config.members[slot].id,
                       config.members[slot].node);
        }
        break;
    }
}

/*
 * A disk is lost with all that is on it. At most one voter of a group at a time, and only where
 * those that are left still have all that was acknowledged and are a majority: more no protocol
 * survives.
 */
static bool may_wipe(struct cluster *cluster, const struct node *node)
{
    for (unsigned group = 0; group < cluster->group_count; group++) {
        struct group *g = &cluster->groups[group];
        if (!node->replicas[group].exists)
            continue;
        if (g->lost_voter)
            return false;
        for (unsigned i = 0; i < cluster->node_count; i++) {
            struct replica *other = replica_at(cluster, i, group);
            if (!other->exists)
                continue;
            if (!other->running || replica_status(other).role == SL_RAFT_STOPPED ||
                other->disk.promised != 0)
                return false;
            const struct sl_raft_config *config = sl_raft_get_config(other->raft);
            unsigned voters = sl_raft_config_voter_count(config);
            if (config->count == 0)
                continue;
            if (voters < 3 || config->index.value > replica_status(other).commit.value)
                return false;
            for (unsigned slot = 0; slot < config->count; slot++) {
                if (is_dead(cluster, group, &config->members[slot]))
                    return false;
            }
        }
    }
    return true;
}

static void wipe(struct cluster *cluster, struct node *node)
{
    if (!node->up || !may_wipe(cluster, node))
        return;
    for (unsigned group = 0; group < cluster->group_count; group++) {
        if (node->replicas[group].exists) {
            struct replica *lost = &node->replicas[group];
            cluster->groups[group].lost_voter = true;
            cluster->groups[group].lost_id = lost->id;
            cluster->groups[group].lost_last = log_last(&lost->disk.log);
            replica_wipe(cluster, &node->replicas[group]);
        }
    }
    /* Half of the time it has a new replica already, that nobody has added yet. */
    struct sl_raft_config none = {0};
    for (unsigned group = 0; group < cluster->group_count; group++) {
        if (cluster_chance(cluster, 50) && cluster->replica_serial + 8 < REPLICAS_MAX)
            replica_make(cluster, node->number, group, &none, cluster->next_replica++);
    }
    node_crash(cluster, node, false);
    node_start_later(cluster, node, 200 * MS);
    cluster->fault_hits[FAULT_WIPE]++;
}

/*
 * An entry that was durable can not be read any more; a start finds it. One replica of a group at a
 * time, as with a lost disk: of an entry that all have lost nobody can say what it was.
 */
static void rot(struct cluster *cluster, struct fault *fault, struct node *node)
{
    if (!may_wipe(cluster, node))
        return;
    node_crash(cluster, node, (fault->random >> 40 & 1) != 0);
    for (unsigned group = 0; group < cluster->group_count; group++) {
        struct replica *replica = &node->replicas[group];
        if (replica->exists && replica_rot(cluster, replica, fault->random >> 8))
            cluster->fault_hits[FAULT_ROT]++;
    }
    node_start_later(cluster, node, fault->length_ns / 4);
}

/* Far ahead, or a little back: what is less than it was before is taken for standing still. */
static void jump(struct cluster *cluster, struct fault *fault, struct node *node)
{
    bool back =
        (fault->random >> 8) % 3 == 0 && node->jumped_back_ns + 5 * SECOND < cluster->now_ns;
    uint64_t ns = (fault->random >> 16) % ((back ? 3 : 20) * SECOND);
    if (back && node_now(cluster, node) > ns + SECOND) {
        node->jumped_back_ns = cluster->now_ns;
        node_jump(cluster, node, -(int64_t)ns);
    } else {
        node_jump(cluster, node, (int64_t)ns);
    }
}

/* ---- the others */

static void crash(struct cluster *cluster, struct fault *fault, struct node *node, bool torn)
{
    if (!node->up)
        return;
    node_crash(cluster, node, torn);
    node_start_later(cluster, node, fault->length_ns);
}

static void partition(struct cluster *cluster, const struct fault *fault)
{
    uint64_t side = fault->random >> 8;
    for (unsigned a = 0; a < cluster->node_count; a++) {
        for (unsigned b = 0; b < cluster->node_count; b++) {
            if (((side >> a) & 1) != ((side >> b) & 1))
                cluster->blocked_until[a][b] = cluster->now_ns + fault->length_ns;
        }
    }
}

/* More than a group takes at once: what does not fit waits at the gateway, here it is dropped. */
static void burst(struct cluster *cluster, unsigned group, uint64_t random)
{
    struct replica *leader = cluster_leader(cluster, group);
    struct entry entries[8];
    for (unsigned i = 0; i < SL_COUNT_OF(entries); i++)
        entries[i] = (struct entry){
            .config = -1,
            .bytes = (uint32_t)(random >> 16) % 65536,
            .command = {.kind = SL_COMMAND_WRITE, .session = 1, .sequence = 1, .lowest = 1}};
    for (unsigned i = 0; i < 12 && leader != NULL && leader->running; i++)
        replica_propose(cluster, leader, entries, 1 + (unsigned)(random >> 8) % 8);
}

static void attach(struct cluster *cluster, unsigned group)
{
    struct replica *leader = cluster_leader(cluster, group);
    struct entry entry = {.config = -1,
                          .bytes = 64,
                          .command = {.kind = SL_COMMAND_ATTACH,
                                      .volume = VOLUME,
                                      .epoch = cluster->groups[group].epoch + 1}};
    if (leader != NULL && cluster->groups[group].epoch > 0)
        replica_propose(cluster, leader, &entry, 1);
}

static void transfer(struct cluster *cluster, unsigned group, uint64_t random)
{
    struct replica *leader = cluster_leader(cluster, group);
    if (leader == NULL)
        return;
    const struct sl_raft_config *config = sl_raft_get_config(leader->raft);
    const struct sl_raft_member *member = &config->members[random % config->count];
    struct sl_raft_event event = {.kind = SL_RAFT_TRANSFER, .transfer = {member->id}};
    trace_note(cluster, leader->node, "transfer to n%u", member->node);
    replica_step(cluster, leader, &event);
}

static void strike_links(struct cluster *cluster, struct fault *fault)
{
    uint64_t until_ns = cluster->now_ns + fault->length_ns;
    unsigned a = (unsigned)(fault->random % cluster->node_count);
    unsigned b = (unsigned)(fault->random / 16 % cluster->node_count);
    switch (fault->kind) {
    case FAULT_CONNECTION:
        cluster_disconnect(cluster, a, b);
        cluster->blocked_until[a][b] = cluster->blocked_until[b][a] =
            cluster->now_ns + fault->length_ns / 20; /* until there is another one */
        break;
    case FAULT_LATE_READ:
        cluster->late_read_until_ns = until_ns;
        break;
    case FAULT_LOST_READ:
        cluster->lost_read_until_ns = until_ns;
        break;
    case FAULT_PARTITION:
        partition(cluster, fault);
        break;
    case FAULT_ONE_WAY:
        cluster->blocked_until[a][b] = until_ns;
        break;
    case FAULT_LOSS:
        cluster->loss_until_ns = until_ns;
        cluster->loss_percent = 1 + (unsigned)(fault->random >> 8) % 40;
        break;
    case FAULT_DUPLICATE:
        cluster->duplicate_until_ns = until_ns;
        cluster->duplicate_percent = 1 + (unsigned)(fault->random >> 8) % 60;
        break;
    default:
        cluster->delay_until_ns = until_ns;
        cluster->delay_ns = 1 + (fault->random >> 8) % (2 * SECOND);
        break;
    }
}

static void compact_all(struct cluster *cluster, unsigned group)
{
    for (unsigned i = 0; i < cluster->node_count; i++)
        replica_compact(cluster, &cluster->nodes[i].replicas[group]);
}

static bool somebody_copies(struct cluster *cluster)
{
    for (unsigned i = 0; i < cluster->node_count * cluster->group_count; i++) {
        if (cluster->nodes[i / cluster->group_count]
                .replicas[i % cluster->group_count]
                .disk.copying)
            return true;
    }
    return false;
}

void fault_strike(struct cluster *cluster, struct fault *fault)
{
    struct node *node = &cluster->nodes[fault->random % cluster->node_count];
    unsigned group = (unsigned)(fault->random >> 32) % cluster->group_count;
    uint64_t until_ns = cluster->now_ns + fault->length_ns;
    trace_note(cluster, node->number, "fault: %s", fault_name(fault->kind));
    if (fault->kind != FAULT_WIPE && fault->kind != FAULT_ROT && fault->kind != FAULT_LATE_READ &&
        fault->kind != FAULT_LOST_READ)
        cluster->fault_hits[fault->kind]++;
    if (somebody_copies(cluster))
        cluster->fault_hits_in_resync[fault->kind]++;
    switch (fault->kind) {
    case FAULT_CRASH:
    case FAULT_TORN:
        crash(cluster, fault, node, fault->kind == FAULT_TORN);
        break;
    case FAULT_POWER:
        for (unsigned i = 0; i < cluster->node_count; i++)
            crash(cluster, fault, &cluster->nodes[i], (fault->random >> (8 + i) & 1) != 0);
        break;
    case FAULT_PAUSE:
        node->paused_until_ns = until_ns;
        break;
    case FAULT_DISK_SLOW:
        node->disk_slow_until_ns = until_ns;
        node->disk_slow_ns = (fault->random >> 8) % SECOND;
        break;
    case FAULT_DISK_STUCK:
        node->disk_stuck_until_ns = until_ns + fault->length_ns;
        break;
    case FAULT_ROT:
        rot(cluster, fault, node);
        break;
    case FAULT_CLOCK_JUMP:
        jump(cluster, fault, node);
        break;
    case FAULT_DISK_FAIL:
        node->fail_next_write = node->up;
        break;
    case FAULT_CLOCK:
        node_set_rate(cluster, node, (int64_t)((fault->random >> 8) % 100001) - 50000);
        break;
    case FAULT_WIPE:
        wipe(cluster, node);
        break;
    case FAULT_CHANGE:
        change_somehow(cluster, group, fault->random >> 8);
        break;
    case FAULT_TRANSFER:
        transfer(cluster, group, fault->random >> 8);
        break;
    case FAULT_COMPACT:
        compact_all(cluster, group);
        break;
    case FAULT_BURST:
        burst(cluster, group, fault->random);
        break;
    case FAULT_ATTACH:
        attach(cluster, group);
        break;
    case FAULT_VOID:
        cluster->void_until_ns = until_ns;
        break;
    case FAULT_LATE_REQUEST:
        cluster->late_until_ns = until_ns;
        break;
    default:
        strike_links(cluster, fault);
        break;
    }
}

/* All faults are over; what is down comes up. Lost disks stay lost until they are replaced. */
void faults_heal(struct cluster *cluster)
{
    trace_note(cluster, 0, "all faults are over");
    cluster->healing = true;
    cluster->loss_until_ns = cluster->duplicate_until_ns = cluster->delay_until_ns = 0;
    cluster->void_until_ns = cluster->late_until_ns = 0;
    cluster->late_read_until_ns = cluster->lost_read_until_ns = 0;
    memset(cluster->blocked, 0, sizeof(cluster->blocked));
    memset(cluster->blocked_until, 0, sizeof(cluster->blocked_until));
    for (unsigned i = 0; i < cluster->node_count; i++) {
        struct node *node = &cluster->nodes[i];
        node->paused_until_ns = 0;
        node->disk_slow_until_ns = node->disk_stuck_until_ns = 0;
        node->fail_next_write = false;
        if (!node->up)
            node_start(cluster, node);
        for (unsigned group = 0; group < cluster->group_count; group++) {
            struct replica *replica = &node->replicas[group];
            if (replica->running && replica_status(replica).role == SL_RAFT_STOPPED) {
                node_crash(cluster, node, false);
                node_start(cluster, node);
                break;
            }
        }
    }
}
