/* What frontend.c (control) and queue.c (data) share. Private to this folder. */
#ifndef SL_FRONTEND_COMCH_PRIVATE_H
#define SL_FRONTEND_COMCH_PRIVATE_H

#include <stdatomic.h>

#include "frontend/comch/frontend.h"
#include "mem/pool.h"

/* query_storage waits so long for servers that have not answered since the gateway's start. */
#define QUERY_TIMEOUT_NS (10 * SL_NS_PER_S)

struct memory_slot {
    uint32_t id; /* 0 = free */
    struct sl_gateway_memory *memory;
};

/* A data queue, owned by its reactor but for the fields that are set before it starts. */
struct queue {
    struct session *session;
    struct sl_gateway *gateway; /* of the queue's reactor */
    const struct sl_volume *volume;
    uint64_t epoch; /* of the volume, as the session attached it */
    struct sl_pool ios;
    struct sl_list inflight; /* struct queue_io */
    struct sl_wait_queue progress;
    uint64_t io_count;
    uint64_t io_bytes;
    uint64_t error_count;
    /* A copy of the session's memory table, changed by calls to this reactor only. */
    struct memory_slot memories[SL_COMCH_MEMORIES_MAX];
};

struct session {
    struct sl_comch_frontend *frontend;
    struct sl_comch_session *comch;
    bool begun; /* counted in the gateway group's sessions */
    char volume_name[SL_COMCH_VOLUME_BYTES];
    uint32_t volume_handle;           /* index + 1: zero is never valid */
    const struct sl_volume *attached; /* NULL until init_storage */
    uint64_t epoch;
    uint32_t depth_most;
    unsigned queue_count;
    struct queue *queues[SL_COMCH_QUEUES_MAX];
    struct memory_slot memories[SL_COMCH_MEMORIES_MAX];
};

struct sl_comch_frontend {
    struct sl_gateway_group *group;
    struct sl_io *const *ios;
    struct sl_comch_server *server;
    unsigned next_reactor; /* where the next data queue goes */
};

/* queue.c; all but received() are called from the control reactor */
int queue_create_co(struct session *session, unsigned reactor_index, struct queue **queue);
void queue_received(void *owner, struct sl_comch_queue *comch_queue,
                    const struct sl_io_message *message);
/* Waits until nothing is in flight (memory_id 0), or nothing over that memory. */
void queue_quiesce_co(struct queue *queue, uint32_t memory_id);
void queue_memory_set_co(struct queue *queue, unsigned slot, struct memory_slot memory);
void queue_statistics_co(struct queue *queue, struct sl_comch_statistics *statistics);
/* Nothing is in flight. */
void queue_destroy_co(struct queue *queue);

#endif
