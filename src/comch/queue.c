/*
 * A data queue on the gateway's side: submissions out of one ring, completions into the other. A
 * poller of the reactor that the gateway chose; the control reactor reaches it by awaited calls.
 *
 * Invariants
 *  - A submission is taken only while the completion ring has room for it and for all that is
 * outstanding: completing never waits. An initiator that does not take its completions stops its
 * own queue.
 *  - At most `depth` are outstanding above; more are answered BUSY here.
 *  - A submission is copied out of the ring once, before anything looks at it.
 */
#include "comch/server.h"

#include <stdlib.h>
#include <string.h>

#include "core/call.h"
#include "core/error.h"
#include "core/log.h"

/* Taken in one turn, so that other queues get theirs. */
#define SUBMISSIONS_A_TURN 128u

struct sl_comch_queue {
    struct sl_comch_session *session;
    struct sl_comch_queue_config config;
    struct sl_reactor *reactor;
    struct sl_channel channel;
    struct sl_doorbell *doorbell;
    struct sl_poller poller;
    uint32_t depth;
    uint32_t outstanding;
    bool running;
    bool halted;
    bool broken;
    bool blocked;               /* no room for completions */
    struct sl_mail broken_mail; /* to the session */
    int broken_reason;
    bool broken_told; /* the control reactor's: the mail was delivered */
};

/* ---- completions ---- */

static void completion_push(struct sl_comch_queue *queue, uint32_t request_id,
                            enum sl_status status)
{
    struct sl_io_message *slot = sl_ring_reserve(&queue->channel.producer);
    *slot = (struct sl_io_message){.request_id = request_id, .status = (uint16_t)status};
}

void sl_comch_queue_complete(struct sl_comch_queue *queue, uint32_t request_id,
                             enum sl_status status)
{
    SL_ASSERT(queue->outstanding > 0);
    queue->outstanding--;
    if (!queue->halted && !queue->broken)
        completion_push(queue, request_id, status);
}

uint32_t sl_comch_queue_outstanding(const struct sl_comch_queue *queue)
{
    return queue->outstanding;
}

struct sl_comch_session *sl_comch_queue_session(const struct sl_comch_queue *queue)
{
    return queue->session;
}

/* ---- submissions ---- */

/* On the control reactor. */
static void broken_deliver(struct sl_mail *mail)
{
    struct sl_comch_queue *queue = sl_container_of(mail, struct sl_comch_queue, broken_mail);
    queue->broken_told = true;
    sl_comch_session_disconnect(queue->session, queue->broken_reason);
}

static void queue_break(struct sl_comch_queue *queue, int reason)
{
    queue->broken = true;
    queue->broken_reason = reason;
    queue->broken_mail.deliver = broken_deliver;
    sl_reactor_post(queue->session->server->reactor, &queue->broken_mail);
}

static void submission_take(struct sl_comch_queue *queue)
{
    struct sl_io_message message;
    memcpy(&message, sl_ring_peek(&queue->channel.consumer), sizeof(message)); /* header: I/O */
    __asm__ volatile("" ::: "memory"); /* no second read of the slot may stand in for the copy */
    sl_ring_take(&queue->channel.consumer);
    if (!queue->running) {
        completion_push(queue, message.request_id, SL_STATUS_STATE);
    } else if (queue->outstanding >= queue->depth) {
        completion_push(queue, message.request_id, SL_STATUS_BUSY);
    } else {
        queue->outstanding++;
        queue->config.received(queue->config.owner, queue, &message);
    }
}

static unsigned submissions_take(struct sl_comch_queue *queue)
{
    unsigned count = 0;
    queue->blocked = false;
    while (count < SUBMISSIONS_A_TURN && !queue->halted) {
        int room = sl_ring_room(&queue->channel.producer, queue->outstanding + 1);
        int available = sl_ring_available(&queue->channel.consumer);
        if (room < 0 || available < 0) {
            queue_break(queue, -SL_E_PROTOCOL);
            break;
        }
        if (available == 0)
            break;
        if ((uint32_t)room <= queue->outstanding) {
            queue->blocked = true;
            break;
        }
        submission_take(queue);
        count++;
    }
    return count;
}

static unsigned queue_poll(struct sl_poller *poller)
{
    struct sl_comch_queue *queue = sl_container_of(poller, struct sl_comch_queue, poller);
    if (queue->halted || queue->broken)
        return 0;
    unsigned work = submissions_take(queue);
    uint32_t completions = queue->channel.producer.tail - queue->channel.producer.published;
    bool ring = sl_ring_publish(&queue->channel.producer);
    ring |= sl_ring_release(&queue->channel.consumer);
    if (ring)
        sl_eventfd_ring(queue->channel.bell_out);
    return work + completions;
}

static void queue_disarm(struct sl_poller *poller)
{
    struct sl_comch_queue *queue = sl_container_of(poller, struct sl_comch_queue, poller);
    if (queue->halted || queue->broken)
        return;
    sl_ring_consumer_disarm(&queue->channel.consumer);
    sl_ring_producer_disarm(&queue->channel.producer);
}

static bool queue_arm(struct sl_poller *poller)
{
    struct sl_comch_queue *queue = sl_container_of(poller, struct sl_comch_queue, poller);
    if (queue->halted || queue->broken)
        return true;
    if (queue->channel.producer.tail != queue->channel.producer.published)
        return false;
    if (queue->blocked)
        return sl_ring_producer_arm(&queue->channel.producer, queue->outstanding + 1);
    return sl_ring_consumer_arm(&queue->channel.consumer);
}

/* ---- calls from the control reactor ---- */

static void doorbell_ring(void *argument)
{
    /* Waking the reactor is all: the poller looks into the rings. */
}

static int64_t queue_open_on_co(void *argument)
{
    struct sl_comch_queue *queue = argument;
    int bell = queue->channel.bell_in;
    queue->channel.bell_in = -1;
    int error = sl_doorbell_create(queue->config.io, bell, doorbell_ring, queue, &queue->doorbell);
    if (error == 0)
        sl_reactor_poller_add(queue->reactor, &queue->poller);
    return error;
}

int comch_queue_create_co(struct sl_comch_session *session, struct sl_channel *channel,
                          uint32_t depth, const struct sl_comch_queue_config *config,
                          struct sl_comch_queue **result)
{
    struct sl_comch_queue *queue = calloc(1, sizeof(*queue));
    if (queue == NULL) {
        sl_channel_close(channel);
        return -ENOMEM;
    }
    *queue = (struct sl_comch_queue){
        .session = session,
        .config = *config,
        .reactor = sl_io_reactor(config->io),
        .channel = *channel,
        .depth = depth,
        .poller = {.poll = queue_poll, .arm = queue_arm, .disarm = queue_disarm},
    };
    int error = (int)sl_reactor_call_co(queue->reactor, queue_open_on_co, queue);
    if (error < 0) {
        sl_channel_close(&queue->channel);
        free(queue);
        return error;
    }
    *result = queue;
    return 0;
}

static int64_t queue_start_on_co(void *argument)
{
    ((struct sl_comch_queue *)argument)->running = true;
    return 0;
}

static int64_t queue_stop_on_co(void *argument)
{
    ((struct sl_comch_queue *)argument)->running = false;
    return 0;
}

/* A call fails only for want of a stack; it is tried until there is one. */
static void queue_call_co(struct sl_comch_queue *queue, int64_t (*function_co)(void *argument))
{
    while (sl_reactor_call_co(queue->reactor, function_co, queue) < 0)
        sl_sleep_co(SL_NS_PER_MS);
}

void comch_queue_run_co(struct sl_comch_queue *queue, bool running)
{
    queue_call_co(queue, running ? queue_start_on_co : queue_stop_on_co);
}

static int64_t queue_halt_on_co(void *argument)
{
    struct sl_comch_queue *queue = argument;
    /* What was completed, the last stop's too, is still told. */
    if (!queue->broken && sl_ring_publish(&queue->channel.producer))
        sl_eventfd_ring(queue->channel.bell_out);
    queue->halted = true;
    sl_reactor_poller_remove(queue->reactor, &queue->poller);
    sl_doorbell_destroy(queue->doorbell);
    return 0;
}

void comch_queue_halt_co(struct sl_comch_queue *queue)
{
    queue_call_co(queue, queue_halt_on_co);
}

static int64_t queue_destroy_on_co(void *argument)
{
    struct sl_comch_queue *queue = argument;
    SL_ASSERT(queue->halted && queue->outstanding == 0);
    sl_channel_close(&queue->channel);
    return 0;
}

void comch_queue_destroy_co(struct sl_comch_queue *queue)
{
    queue_call_co(queue, queue_destroy_on_co);
    /* Its mail may still be on the way, if both are on one reactor. */
    while (queue->broken && !queue->broken_told)
        sl_sleep_co(SL_NS_PER_MS);
    free(queue);
}
