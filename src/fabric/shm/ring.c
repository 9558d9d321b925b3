/*
 * The ring's slower half; ring.h has the picture and the invariants. Owner: the caller's thread.
 * Indices and flags are sequentially consistent: "store mine, then load the other's" on both sides
 * needs it. On x86-64 that is one xchg a publish; a separate fence would cost the same, and
 * ThreadSanitizer knows no fences.
 */
#include "fabric/shm/ring.h"

void sl_ring_producer_init(struct sl_ring_producer *producer, void *memory, uint32_t slot_bytes,
                           uint32_t slot_count)
{
    SL_ASSERT(sl_is_power_of_two(slot_count) && slot_count <= SL_RING_SLOTS_MAX);
    *producer = (struct sl_ring_producer){
        .shared = memory,
        .slots = (uint8_t *)memory + sizeof(struct sl_ring_shared),
        .slot_bytes = slot_bytes,
        .slot_count = slot_count,
    };
}

void sl_ring_consumer_init(struct sl_ring_consumer *consumer, void *memory, uint32_t slot_bytes,
                           uint32_t slot_count)
{
    SL_ASSERT(sl_is_power_of_two(slot_count) && slot_count <= SL_RING_SLOTS_MAX);
    *consumer = (struct sl_ring_consumer){
        .shared = memory,
        .slots = (const uint8_t *)memory + sizeof(struct sl_ring_shared),
        .slot_bytes = slot_bytes,
        .slot_count = slot_count,
    };
}

/* Reads the consumer's index; false if it lies outside of [head as last seen, published]. */
static bool producer_look(struct sl_ring_producer *producer)
{
    uint32_t head = atomic_load(&producer->shared->head);
    if (head - producer->head > producer->published - producer->head) {
        producer->broken = true;
        return false;
    }
    producer->head = head;
    return true;
}

int sl_ring_room(struct sl_ring_producer *producer, uint32_t wanted)
{
    if (SL_UNLIKELY(producer->broken))
        return -SL_E_PROTOCOL;
    uint32_t room = producer->slot_count - (producer->tail - producer->head);
    if (room >= wanted)
        return (int)room;
    if (!producer_look(producer))
        return -SL_E_PROTOCOL;
    return (int)(producer->slot_count - (producer->tail - producer->head));
}

/* The second half of a hand-over, after the index was stored: who sleeps is woken once. */
static bool sleeper_clear(_Atomic uint32_t *sleeping)
{
    if (atomic_load(sleeping) == 0)
        return false;
    return atomic_exchange(sleeping, 0) != 0;
}

bool sl_ring_publish(struct sl_ring_producer *producer)
{
    if (producer->published == producer->tail)
        return false;
    producer->published = producer->tail;
    atomic_store(&producer->shared->tail, producer->tail);
    return sleeper_clear(&producer->shared->consumer_sleeping);
}

bool sl_ring_producer_arm(struct sl_ring_producer *producer, uint32_t wanted)
{
    atomic_store(&producer->shared->producer_sleeping, 1);
    int room = sl_ring_room(producer, wanted);
    if (room >= 0 && (uint32_t)room < wanted)
        return true;
    sl_ring_producer_disarm(producer);
    return false;
}

void sl_ring_producer_disarm(struct sl_ring_producer *producer)
{
    atomic_store_explicit(&producer->shared->producer_sleeping, 0, memory_order_relaxed);
}

int sl_ring_available(struct sl_ring_consumer *consumer)
{
    if (SL_UNLIKELY(consumer->broken))
        return -SL_E_PROTOCOL;
    uint32_t available = consumer->tail - consumer->head;
    if (available != 0)
        return (int)available;
    uint32_t tail = atomic_load(&consumer->shared->tail);
    /* Slots that were taken but not released yet are not free for the producer. */
    if (tail - consumer->released > consumer->slot_count ||
        tail - consumer->released < consumer->head - consumer->released) {
        consumer->broken = true;
        return -SL_E_PROTOCOL;
    }
    consumer->tail = tail;
    return (int)(tail - consumer->head);
}

bool sl_ring_release(struct sl_ring_consumer *consumer)
{
    if (consumer->released == consumer->head)
        return false;
    consumer->released = consumer->head;
    atomic_store(&consumer->shared->head, consumer->head);
    return sleeper_clear(&consumer->shared->producer_sleeping);
}

bool sl_ring_consumer_arm(struct sl_ring_consumer *consumer)
{
    atomic_store(&consumer->shared->consumer_sleeping, 1);
    if (sl_ring_available(consumer) == 0)
        return true;
    sl_ring_consumer_disarm(consumer);
    return false;
}

void sl_ring_consumer_disarm(struct sl_ring_consumer *consumer)
{
    atomic_store_explicit(&consumer->shared->consumer_sleeping, 0, memory_order_relaxed);
}
