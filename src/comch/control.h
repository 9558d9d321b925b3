/*
 * Control records of comch and the life cycle of a session: pure functions, no I/O. docs/wire.md,
 * "comch".
 *
 *   CONNECTED ─query─► QUERIED ─init─► INITIALISED ─start─► RUNNING ─stop─► STOPPED ─start─►
 * RUNNING └──────── shutdown from each of these, but not from RUNNING ────────┴─────► ENDED
 *
 *   what               allowed in
 *   query              CONNECTED, QUERIED
 *   init               QUERIED
 *   create connection  INITIALISED
 *   register memory    INITIALISED, RUNNING, STOPPED
 *   unregister memory  INITIALISED, RUNNING, STOPPED
 *   start              INITIALISED, STOPPED
 *   stop               RUNNING
 *   statistics         all
 *   shutdown           all but RUNNING
 *
 * Little-endian, no padding. Any thread.
 */
#ifndef SL_COMCH_CONTROL_H
#define SL_COMCH_CONTROL_H

#include "comch/comch.h"
#include "fabric/shm/channel.h"

#define COMCH_MAGIC   UINT32_C(0x4d434c53) /* "SLCM" */
#define COMCH_VERSION 1

enum comch_type {
    COMCH_QUERY_STORAGE = 1,
    COMCH_INIT_STORAGE = 2,
    COMCH_CREATE_RDMA_CONNECTION = 3, /* data: descriptors of a channel */
    COMCH_START_STORAGE = 4,
    COMCH_STOP_STORAGE = 5,
    COMCH_SHUTDOWN = 6,
    COMCH_REGISTER_MEMORY = 7, /* descriptor: memfd */
    COMCH_UNREGISTER_MEMORY = 8,
    COMCH_STATISTICS = 9,
    COMCH_REQUEST_LAST = 9,
    COMCH_ANSWER = 0x80,         /* a request's type with this bit: it was done */
    COMCH_ERROR_RESPONSE = 0xff, /* it was not: `status` says why */
};

struct comch_header {
    uint32_t magic;          /* 0 */
    uint16_t version;        /* 4 */
    uint16_t type;           /* 6  enum comch_type */
    uint64_t correlation_id; /* 8  the initiator's, echoed */
    uint16_t status;         /* 16 enum sl_status; requests: zero */
    uint8_t reserved[14];    /* 18 zero */
};
_Static_assert(sizeof(struct comch_header) == 32, "wire.md: comch header");

/* struct sl_copy_counters on the wire has room for more reasons than there are. */
#define COMCH_COPY_REASONS 12
_Static_assert(SL_COPY_REASON_COUNT <= COMCH_COPY_REASONS, "wire.md: comch statistics");

struct comch_copies {
    uint64_t bytes[COMCH_COPY_REASONS];
    uint64_t count[COMCH_COPY_REASONS];
};

struct comch_record {
    struct comch_header header;
    union {
        char volume[SL_COMCH_VOLUME_BYTES]; /* query, init: zero-terminated */
        struct sl_comch_storage storage;    /* their answers */
        struct {
            uint32_t kind;  /* 32 enum sl_comch_connection_kind */
            uint32_t depth; /* 36 data: 1 … depth_max */
        } connection;
        struct {
            uint64_t length_bytes; /* 32 register */
            uint32_t memory_id;    /* 40 unregister, and the answer of register */
            uint32_t writable;     /* 44 0 or 1 */
        } memory;
        struct {
            struct comch_copies gateway; /* 32 */
            struct comch_copies targets; /* 224 */
            uint64_t io_count;           /* 416 */
            uint64_t io_bytes;           /* 424 */
            uint64_t error_count;        /* 432 */
            uint64_t retry_count;        /* 440 */
            uint64_t gateway_injected;   /* 448 */
            uint64_t targets_injected;   /* 456 */
        } statistics;
        uint8_t bytes[480];
    };
};
_Static_assert(sizeof(struct comch_record) == 512, "wire.md: comch record");
_Static_assert(sizeof(struct sl_comch_storage) == 32, "wire.md: comch storage");
_Static_assert(offsetof(struct comch_record, statistics.targets_injected) == 456, "wire.md: comch");

enum comch_state {
    COMCH_CONNECTED,
    COMCH_QUERIED,
    COMCH_INITIALISED,
    COMCH_RUNNING,
    COMCH_STOPPED,
    COMCH_ENDED,
};

/* A request as it came, with the number of its descriptors. 0, or what to answer: -EOPNOTSUPP
 * (unknown type), -SL_E_PROTOCOL (malformed) or -SL_E_VERSION; after the last two the connection is
 * to be closed. */
int comch_request_check(const struct comch_record *record, size_t length_bytes,
                        unsigned descriptor_count);
/* 0, or -EBADFD: not in this state. */
int comch_request_allowed(enum comch_state state, unsigned type);
/* The state after a request that was allowed and done. */
enum comch_state comch_state_after(enum comch_state state, unsigned type);
/* "query_storage", …; "unknown". */
const char *comch_type_name(unsigned type);

/* The rings of a data queue of this depth: twice its slots, rounded up, so that answers to I/O
 * beyond the depth have room too. */
struct sl_channel_layout comch_queue_layout(uint32_t depth);

#endif
