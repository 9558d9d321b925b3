/*
 * Data queues: a submission becomes a struct sl_request, its outcome a completion. One coroutine an
 * I/O. A queue belongs to its reactor; the control reactor reaches it by awaited calls.
 */
#include <errno.h>
#include <stdlib.h>

#include "core/call.h"
#include "core/error.h"
#include "core/log.h"
#include "frontend/comch/private.h"

struct queue_io {
    struct sl_list node;
    struct queue *queue;
    struct sl_comch_queue *comch_queue;
    struct sl_io_message message;
};

static struct sl_gateway_memory *find_memory(const struct queue *queue, uint32_t id)
{
    const struct memory_slot *slot = &queue->memories[id % SL_COMCH_MEMORIES_MAX];
    return id != 0 && slot->id == id ? slot->memory : NULL;
}

/* Every field of the message is the initiator's word. */
static int make_request(const struct queue_io *io, struct sl_request *request,
                        struct sl_request_piece *piece)
{
    const struct sl_io_message *message = &io->message;
    const struct queue *queue = io->queue;
    if (message->volume != queue->session->volume_handle || message->flags != 0)
        return -EINVAL;
    *request = (struct sl_request){
        .opcode = message->opcode,
        .volume = queue->volume,
        .epoch = queue->epoch,
        .offset_bytes = message->offset_bytes,
        .length_bytes = message->length_bytes,
        .trace_id = message->trace_id,
    };
    if (message->opcode != SL_IO_READ && message->opcode != SL_IO_WRITE)
        return 0;
    *piece = (struct sl_request_piece){
        .memory = find_memory(queue, message->memory_id),
        .offset_bytes = message->memory_offset,
        .length_bytes = message->length_bytes,
    };
    if (piece->memory == NULL)
        return -SL_E_KEY;
    request->pieces = piece;
    request->piece_count = 1;
    return 0;
}

static void queue_io_co(void *argument)
{
    struct queue_io *io = argument;
    struct queue *queue = io->queue;
    struct sl_request request;
    struct sl_request_piece piece;
    int error = make_request(io, &request, &piece);
    if (error == 0)
        error = sl_gateway_execute_co(queue->gateway, &request);
    queue->io_count++;
    if (error < 0) {
        queue->error_count++;
        /* The first, the second, the fourth, …: a client can fail as often as it likes. */
        if (sl_is_power_of_two(queue->error_count))
            sl_log_error(
                "comch", "session %u: %s of %u bytes at %llu failed: %s (%s); %llu failed so far",
                sl_comch_session_id(queue->session->comch),
                io->message.opcode == SL_IO_READ ? "read" : "operation", io->message.length_bytes,
                (unsigned long long)io->message.offset_bytes, sl_error_text(error),
                sl_error_name(error), (unsigned long long)queue->error_count);
    } else {
        queue->io_bytes += io->message.length_bytes;
    }
    sl_comch_queue_complete(io->comch_queue, io->message.request_id, sl_status_from_errno(error));
    sl_list_remove(&io->node);
    sl_pool_put(&queue->ios, io);
    if (!sl_wait_queue_is_empty(&queue->progress))
        sl_wait_queue_wake_all(&queue->progress, 0);
}

void queue_received(void *owner, struct sl_comch_queue *comch_queue,
                    const struct sl_io_message *message)
{
    struct queue *queue = owner;
    struct queue_io *io = sl_pool_get(&queue->ios);
    if (io == NULL) {
        sl_comch_queue_complete(comch_queue, message->request_id, SL_STATUS_NO_MEMORY);
        return;
    }
    io->queue = queue;
    io->comch_queue = comch_queue;
    io->message = *message;
    if (sl_co_spawn(sl_gateway_reactor(queue->gateway), queue_io_co, io) < 0) {
        sl_pool_put(&queue->ios, io);
        sl_comch_queue_complete(comch_queue, message->request_id, SL_STATUS_NO_MEMORY);
        return;
    }
    sl_list_append(&queue->inflight, &io->node);
}

/* ---- calls from the control reactor ---- */

struct queue_call {
    struct queue *queue;
    unsigned slot;
    struct memory_slot memory;
    struct sl_comch_statistics *statistics;
};

static struct sl_reactor *queue_reactor(const struct queue *queue)
{
    return sl_gateway_reactor(queue->gateway);
}

static int64_t create_on_reactor_co(void *argument)
{
    struct queue *queue = ((struct queue_call *)argument)->queue;
    /* Each reactor knows the layout by itself; this one may learn it a moment later than the first.
     */
    uint64_t deadline_ns = sl_reactor_now_ns(queue_reactor(queue)) + QUERY_TIMEOUT_NS;
    return sl_gateway_volume_co(queue->gateway, queue->session->volume_name, deadline_ns,
                                &queue->volume);
}

int queue_create_co(struct session *session, unsigned reactor_index, struct queue **result)
{
    struct queue *queue = calloc(1, sizeof(*queue));
    if (queue == NULL)
        return -ENOMEM;
    queue->session = session;
    queue->epoch = session->epoch;
    queue->gateway = sl_gateway_group_member(session->frontend->group, reactor_index);
    sl_pool_init(&queue->ios, sizeof(struct queue_io), 64, 0);
    sl_list_init(&queue->inflight);
    sl_wait_queue_init(&queue->progress);
    for (unsigned i = 0; i < SL_COMCH_MEMORIES_MAX; i++)
        queue->memories[i] = session->memories[i];
    struct queue_call call = {.queue = queue};
    int error = (int)sl_reactor_call_co(queue_reactor(queue), create_on_reactor_co, &call);
    if (error < 0) {
        free(queue);
        return error;
    }
    *result = queue;
    return 0;
}

static bool is_in_flight(const struct queue *queue, uint32_t memory_id)
{
    if (memory_id == 0)
        return !sl_list_is_empty(&queue->inflight);
    for (const struct sl_list *node = queue->inflight.next; node != &queue->inflight;
         node = node->next) {
        if (sl_container_of(node, struct queue_io, node)->message.memory_id == memory_id)
            return true;
    }
    return false;
}

static int64_t quiesce_on_reactor_co(void *argument)
{
    struct queue_call *call = argument;
    while (is_in_flight(call->queue, call->memory.id))
        sl_wait_queue_co(&call->queue->progress);
    return 0;
}

/* What must not be left undone. A call fails only for want of a stack; it is tried until there is
 * one. */
static void queue_call_co(struct queue *queue, int64_t (*function_co)(void *argument),
                          struct queue_call *call)
{
    while (sl_reactor_call_co(queue_reactor(queue), function_co, call) < 0)
        sl_sleep_co(SL_NS_PER_MS);
}

void queue_quiesce_co(struct queue *queue, uint32_t memory_id)
{
    struct queue_call call = {.queue = queue, .memory.id = memory_id};
    queue_call_co(queue, quiesce_on_reactor_co, &call);
}

static int64_t memory_set_on_reactor_co(void *argument)
{
    struct queue_call *call = argument;
    call->queue->memories[call->slot] = call->memory;
    return 0;
}

void queue_memory_set_co(struct queue *queue, unsigned slot, struct memory_slot memory)
{
    struct queue_call call = {.queue = queue, .slot = slot, .memory = memory};
    queue_call_co(queue, memory_set_on_reactor_co, &call);
}

static int64_t statistics_on_reactor_co(void *argument)
{
    struct queue_call *call = argument;
    call->statistics->io_count += call->queue->io_count;
    call->statistics->io_bytes += call->queue->io_bytes;
    call->statistics->error_count += call->queue->error_count;
    return 0;
}

void queue_statistics_co(struct queue *queue, struct sl_comch_statistics *statistics)
{
    struct queue_call call = {.queue = queue, .statistics = statistics};
    sl_reactor_call_co(queue_reactor(queue), statistics_on_reactor_co, &call);
}

static int64_t destroy_on_reactor_co(void *argument)
{
    struct queue *queue = ((struct queue_call *)argument)->queue;
    sl_pool_fini(&queue->ios);
    return 0;
}

void queue_destroy_co(struct queue *queue)
{
    struct queue_call call = {.queue = queue};
    queue_call_co(queue, destroy_on_reactor_co, &call);
    free(queue);
}
