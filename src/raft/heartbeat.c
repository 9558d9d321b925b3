/*
 * The shared heartbeat of two nodes: sums over the groups that it covers (heartbeat.h).
 *
 * Safety rests on the receiver alone: it calls a beat equal only if its own sum, at that moment,
 * is over the very same (group, term, leader, follower); a group that has moved on is not in it.
 * Everything else, epochs among it, only helps both sides to agree again.
 */
#include "raft/private.h"

struct sl_raft_links {
    unsigned capacity, count;
    uint64_t seed;
    struct sl_raft_link links[];
};

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* What one group adds to the sum; the same on both sides. */
static void hash_group(uint64_t group, struct sl_term term, uint64_t leader, uint64_t follower,
                       uint64_t hash[2])
{
    const uint64_t parts[4] = {group, term.value, leader, follower};
    hash[0] = UINT64_C(0x243f6a8885a308d3);
    hash[1] = UINT64_C(0x13198a2e03707344);
    for (unsigned i = 0; i < SL_COUNT_OF(parts); i++) {
        hash[0] = mix(hash[0] + UINT64_C(0x9e3779b97f4a7c15) + parts[i]);
        hash[1] = mix((hash[1] ^ parts[i]) + UINT64_C(0xa4093822299f31d1));
    }
}

size_t sl_raft_links_bytes(unsigned capacity)
{
    return sizeof(struct sl_raft_links) + capacity * sizeof(struct sl_raft_link);
}

struct sl_raft_links *sl_raft_links_init(void *memory, unsigned capacity, uint64_t seed)
{
    struct sl_raft_links *links = memory;
    *links = (struct sl_raft_links){.capacity = capacity, .seed = seed};
    return links;
}

static struct sl_raft_link *get(struct sl_raft_links *links, uint32_t node)
{
    for (unsigned i = 0; i < links->count; i++) {
        if (links->links[i].node == node)
            return &links->links[i];
    }
    if (links->count == links->capacity)
        return NULL;
    struct sl_raft_link *link = &links->links[links->count++];
    *link = (struct sl_raft_link){
        .node = node,
        .lead_epoch = mix(links->seed + node) | 1,
        .follow_generation = 1,
    };
    return link;
}

/* The link to a node, made when first asked for; NULL if there are too many, or it is not to be
 * used. */
struct sl_raft_link *sl_raft_links_get(struct sl_raft_links *links, uint32_t node)
{
    struct sl_raft_link *link = get(links, node);
    return link != NULL && !link->refused ? link : NULL;
}

/* Nothing that we lead is covered until its leader says so. */
static void lead_anew(struct sl_raft_link *link)
{
    link->unequal = 0;
    link->lead_epoch += 2; /* stays odd, so never 0 */
    link->lead_count = 0;
    link->lead_sum[0] = link->lead_sum[1] = 0;
}

bool sl_raft_links_allow(struct sl_raft_links *links, uint32_t node, bool allowed)
{
    struct sl_raft_link *link = get(links, node);
    if (link == NULL)
        return false;
    bool covered = !allowed && !link->refused && (link->lead_count > 0 || link->follow_count > 0);
    link->refused = !allowed;
    if (covered)
        lead_anew(link);
    return covered;
}

unsigned sl_raft_links_beat(struct sl_raft_links *links, uint32_t node, uint64_t now_ns,
                            struct sl_raft_beat *beat)
{
    struct sl_raft_link *link = sl_raft_links_get(links, node);
    if (link == NULL || link->lead_count == 0)
        return 0;
    *beat = (struct sl_raft_beat){
        link->lead_epoch, now_ns, {link->lead_sum[0], link->lead_sum[1]}, link->lead_count};
    return link->lead_count;
}

/* The sender's set is another one: nothing of ours is covered until its leaders say so. */
static void follow_epoch(struct sl_raft_link *link, uint64_t epoch)
{
    SL_RAFT_COVER(BEAT_EPOCH);
    link->follow_epoch = epoch;
    link->follow_generation++;
    link->follow_count = 0;
    link->follow_sum[0] = link->follow_sum[1] = 0;
}

void sl_raft_links_receive(struct sl_raft_links *links, uint32_t node, uint64_t now_ns,
                           const struct sl_raft_beat *beat, struct sl_raft_beat_answer *answer)
{
    struct sl_raft_link *link = sl_raft_links_get(links, node);
    *answer = (struct sl_raft_beat_answer){.epoch = beat->epoch, .sent_ns = beat->sent_ns};
    if (link == NULL)
        return;
    if (beat->epoch != link->follow_epoch)
        follow_epoch(link, beat->epoch);
    answer->equal = beat->sum[0] == link->follow_sum[0] && beat->sum[1] == link->follow_sum[1] &&
                    beat->count == link->follow_count;
    if (!SL_RAFT_RULE(RENEW_NAMED_TERM))
        answer->equal = true;
    if (answer->equal) {
        SL_RAFT_COVER(BEAT_MATCHES);
        link->heard_ns = sl_max(link->heard_ns, now_ns);
    } else {
        SL_RAFT_COVER(BEAT_DIFFERS);
    }
}

bool sl_raft_links_answered(struct sl_raft_links *links, uint32_t node, uint64_t now_ns,
                            const struct sl_raft_beat_answer *answer)
{
    struct sl_raft_link *link = sl_raft_links_get(links, node);
    if (link == NULL || answer->epoch != link->lead_epoch || answer->sent_ns > now_ns)
        return false;
    if (answer->equal) {
        link->unequal = 0;
        link->acked_sent_ns = sl_max(link->acked_sent_ns, answer->sent_ns);
        return false;
    }
    if (++link->unequal < BEATS_UNEQUAL_MAX)
        return false;
    SL_RAFT_COVER(BEAT_RESET);
    lead_anew(link);
    return true;
}

/* ---- a group's side */

bool sl_raft_is_covered(const struct progress *p)
{
    return p->covered_epoch != 0 && p->covered_epoch == p->link->lead_epoch;
}

/* The leader stops to beat for this follower; it says so with the next append (`epoch`). */
void sl_raft_cover(struct sl_raft *raft, struct progress *p, uint32_t node)
{
    if (raft->links == NULL)
        return;
    struct sl_raft_link *link = sl_raft_links_get(raft->links, node);
    if (link == NULL)
        return;
    SL_RAFT_COVER(COVERED);
    uint64_t hash[2];
    hash_group(raft->group, raft->term, raft->self.id, p->id, hash);
    link->lead_sum[0] += hash[0];
    link->lead_sum[1] += hash[1];
    link->lead_count++;
    p->link = link;
    p->covered_epoch = link->lead_epoch;
    /* A beat sent at this very instant may have left before: only later ones count. */
    p->covered_ns = raft->now_ns + 1;
}

/* The leader leaves off, in the term in which it began. */
void sl_raft_uncover(struct sl_raft *raft, struct progress *p)
{
    if (sl_raft_is_covered(p)) {
        uint64_t hash[2];
        hash_group(raft->group, raft->term, raft->self.id, p->id, hash);
        p->link->lead_sum[0] -= hash[0];
        p->link->lead_sum[1] -= hash[1];
        p->link->lead_count--;
    }
    p->covered_epoch = 0;
}

/* An append of this term's leader said `epoch`: covered by its node's beats of that, or by none. */
void sl_raft_join_cover(struct sl_raft *raft, uint64_t epoch)
{
    struct sl_raft_link *link = raft->leader_link;
    if (raft->covered_generation != 0 && (epoch == 0 || link->follow_epoch != epoch ||
                                          link->follow_generation != raft->covered_generation))
        sl_raft_leave_cover(raft);
    if (epoch == 0 || link == NULL || raft->covered_generation != 0)
        return;
    SL_RAFT_COVER(COVER_JOINED);
    if (link->follow_epoch != epoch)
        follow_epoch(link, epoch);
    uint64_t hash[2];
    hash_group(raft->group, raft->term, raft->leader.id, raft->self.id, hash);
    link->follow_sum[0] += hash[0];
    link->follow_sum[1] += hash[1];
    link->follow_count++;
    raft->covered_generation = link->follow_generation;
}

/* Called before term or leader change. What was heard until now stays heard. */
void sl_raft_leave_cover(struct sl_raft *raft)
{
    if (raft->covered_generation == 0)
        return;
    SL_RAFT_COVER(COVER_LEFT);
    raft->contact_ns = sl_raft_heard_ns(raft);
    if (raft->leader_link->follow_generation == raft->covered_generation) {
        uint64_t hash[2];
        hash_group(raft->group, raft->term, raft->leader.id, raft->self.id, hash);
        raft->leader_link->follow_sum[0] -= hash[0];
        raft->leader_link->follow_sum[1] -= hash[1];
        raft->leader_link->follow_count--;
    }
    raft->covered_generation = 0;
}
