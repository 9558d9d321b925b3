/*
 * RAFT capsules, between targets, as they stand on the wire: docs/wire.md, "Between targets". Each
 * node sends on connections that it has made itself; an answer rides on the REPLY where it can.
 */
#ifndef SL_TARGET_RAFT_CAPSULE_H
#define SL_TARGET_RAFT_CAPSULE_H

#include "fabric/capsule.h"
#include "raft/heartbeat.h"
#include "raft/event.h"

enum sl_raft_op {
    SL_RAFT_OP_NONE = 0,    /* REPLY without anything to say */
    SL_RAFT_OP_HELLO = 1,   /* the first on a connection */
    SL_RAFT_OP_MESSAGE = 2, /* struct sl_raft_message of a group */
    SL_RAFT_OP_BEAT = 3,
    SL_RAFT_OP_RESYNC = 4,     /* resync_capsule.h */
    SL_RAFT_OP_FETCH = 5,      /* asks for blocks of a group, for a repair */
    SL_RAFT_OP_GIVE = 6,       /* gives them */
    SL_RAFT_OP_COMPARE = 7,    /* compare_capsule.h */
    SL_RAFT_OP_READ_INDEX = 8, /* follow.h */
};

/* Body of MESSAGE, at 32 of the capsule and of its REPLY. */
struct sl_raft_wire {
    uint8_t op;             /* 0  enum sl_raft_op */
    uint8_t kind;           /* 1  enum sl_raft_message_kind */
    uint16_t flags;         /* 2  enum sl_raft_message_flag */
    uint32_t group;         /* 4 */
    uint32_t count;         /* 8  entries */
    uint32_t record_bytes;  /* 12 of their records */
    uint32_t piece_count;   /* 16 remote pieces of their payload; 0: it follows here, if any */
    uint32_t payload_bytes; /* 20 of the entries */
    uint32_t from_node, to_node;
    uint64_t from, to;
    uint64_t term, index, index_term, entry_term, hint, commit, round, sent_ns, epoch;
};
_Static_assert(sizeof(struct sl_raft_wire) == 120, "wire.md: raft message");
_Static_assert(offsetof(struct sl_raft_wire, from) == 32, "wire.md: raft message");
_Static_assert(offsetof(struct sl_raft_wire, term) == 48, "wire.md: raft message");

#define SL_RAFT_RECORD_BYTES_MAX                                                                   \
    (SL_CAPSULE_BYTES_MAX - sizeof(struct sl_capsule_header) - sizeof(struct sl_raft_wire))

/* Records that fit stand in the capsule; others in the first page of its payload, and behind them,
 * at the next multiple of 8, the pieces. */
struct sl_capsule_raft {
    struct sl_capsule_header header;
    struct sl_raft_wire wire;
    uint8_t records[SL_RAFT_RECORD_BYTES_MAX];
};
_Static_assert(sizeof(struct sl_capsule_raft) == SL_CAPSULE_BYTES_MAX, "wire.md: raft message");

struct sl_capsule_raft_hello {
    struct sl_capsule_header header;
    uint8_t op; /* 32 */
    uint8_t reserved1[3];
    uint32_t node;          /* 36 the sender's */
    uint32_t to_node;       /* 40 who it means to talk to */
    uint32_t reactor_count; /* 44 of the sender */
    uint32_t shard_count;   /* 48 of all its disks, a multiple of its reactors: group g is reactor g
                               mod reactors' */
    uint32_t waiting_kib;   /* 52 least that may wait for its commit in a log of its; 0: no log */
    uint64_t instance;      /* 56 of the sender's process */
    uint8_t cluster_id[16]; /* 64 */
    uint8_t disk_id[16];    /* 80 of the sender's first disk */
};
_Static_assert(sizeof(struct sl_capsule_raft_hello) == 96, "wire.md: hello of a target");

/* A beat, and its answer in the REPLY: sums and count are zero there. */
struct sl_capsule_raft_beat {
    struct sl_capsule_header header;
    uint8_t op;    /* 32 */
    uint8_t equal; /* 33 answer: 1 */
    uint8_t reserved[2];
    uint32_t count;   /* 36 */
    uint64_t epoch;   /* 40 */
    uint64_t sent_ns; /* 48 */
    uint64_t sum[2];  /* 56 */
};
_Static_assert(sizeof(struct sl_capsule_raft_beat) == 72, "wire.md: beat");

static inline void sl_raft_wire_put(struct sl_raft_wire *wire, uint32_t group,
                                    const struct sl_raft_message *message)
{
    *wire = (struct sl_raft_wire){
        .op = SL_RAFT_OP_MESSAGE,
        .kind = (uint8_t)message->kind,
        .flags = (uint16_t)message->flags,
        .group = group,
        .count = message->count,
        .from_node = message->from.node,
        .to_node = message->to.node,
        .from = message->from.id,
        .to = message->to.id,
        .term = message->term.value,
        .index = message->index.value,
        .index_term = message->index_term.value,
        .entry_term = message->entry_term.value,
        .hint = message->hint.value,
        .commit = message->commit.value,
        .round = message->round,
        .sent_ns = message->sent_ns,
        .epoch = message->epoch,
    };
}

static inline void sl_raft_wire_get(const struct sl_raft_wire *wire,
                                    struct sl_raft_message *message)
{
    *message = (struct sl_raft_message){
        .kind = wire->kind,
        .flags = wire->flags,
        .from = {wire->from, wire->from_node},
        .to = {wire->to, wire->to_node},
        .term = {wire->term},
        .index = {wire->index},
        .index_term = {wire->index_term},
        .entry_term = {wire->entry_term},
        .count = wire->count,
        .hint = {wire->hint},
        .commit = {wire->commit},
        .round = wire->round,
        .sent_ns = wire->sent_ns,
        .epoch = wire->epoch,
    };
}

#endif
