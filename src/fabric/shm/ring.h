/*
 * A ring in shared memory: one producer, one consumer, slots of a fixed size, free-running 32-bit
 * indices. Used with 320-byte slots by the shm link and with 64-byte struct sl_io_message by comch.
 *
 *   struct sl_ring_shared │ slot 0 │ slot 1 │ … │ slot count-1          (count a power of two)
 *
 * Invariants
 *  - head ≤ tail ≤ head + count, modulo 2^32. The peer's index is read from memory that the peer
 * writes: if it breaks this, every call answers -SL_E_PROTOCOL from then on, and the owner kills
 * the connection.
 *  - Our own index is kept in private memory and only ever written to the shared one: a peer that
 * scribbles over it harms itself alone.
 *  - A slot that is read may change while it is read. The reader copies it out once, then checks
 * the copy.
 *  - Sleeping: a side that wants to sleep sets its flag, then looks once more; the other side
 * publishes, then looks at the flag. Both steps are sequentially consistent on both sides, so one
 * of them sees the other's. The side that clears the flag rings, so that there is one doorbell a
 * sleep.
 *
 * Threads: a producer belongs to one thread, a consumer to one thread.
 */
#ifndef SL_FABRIC_SHM_RING_H
#define SL_FABRIC_SHM_RING_H

#include <stdatomic.h>

#include "core/base.h"
#include "core/error.h"

#define SL_RING_SLOTS_MAX 4096u
#define SL_RING_LINE      64u

struct sl_ring_shared {
    _Alignas(SL_RING_LINE) _Atomic uint32_t tail; /* 0   written by the producer */
    _Atomic uint32_t producer_sleeping;           /* 4   it waits for room */
    _Atomic uint32_t note;                        /* 8   the producer's: for the layer above */
    _Alignas(SL_RING_LINE) _Atomic uint32_t head; /* 64  written by the consumer */
    _Atomic uint32_t consumer_sleeping;           /* 68  it waits for slots */
};
_Static_assert(sizeof(struct sl_ring_shared) == 128, "wire.md: ring");
_Static_assert(offsetof(struct sl_ring_shared, head) == 64, "wire.md: ring");
_Static_assert(offsetof(struct sl_ring_shared, consumer_sleeping) == 68, "wire.md: ring");

struct sl_ring_producer {
    struct sl_ring_shared *shared;
    uint8_t *slots;
    uint32_t slot_bytes;
    uint32_t slot_count;
    uint32_t tail;      /* ours, slots reserved */
    uint32_t published; /* ours, as in shared memory */
    uint32_t head;      /* the peer's, as last seen */
    bool broken;
};

struct sl_ring_consumer {
    struct sl_ring_shared *shared;
    const uint8_t *slots;
    uint32_t slot_bytes;
    uint32_t slot_count;
    uint32_t head;     /* ours, slots taken */
    uint32_t released; /* ours, as in shared memory */
    uint32_t tail;     /* the peer's, as last seen */
    bool broken;
};

static inline size_t sl_ring_bytes(uint32_t slot_bytes, uint32_t slot_count)
{
    return sizeof(struct sl_ring_shared) + (size_t)slot_bytes * slot_count;
}

/* `memory`: sl_ring_bytes(), 64-byte aligned, zeroed by whoever made it; borrowed. `slot_count`: a
 * power of two up to SL_RING_SLOTS_MAX. */
void sl_ring_producer_init(struct sl_ring_producer *producer, void *memory, uint32_t slot_bytes,
                           uint32_t slot_count);
void sl_ring_consumer_init(struct sl_ring_consumer *consumer, void *memory, uint32_t slot_bytes,
                           uint32_t slot_count);

/* ---- producer ---- */

/* How many slots may be reserved now, or -SL_E_PROTOCOL. Looks at the peer's index only if the last
 * look does not give `wanted`. */
int sl_ring_room(struct sl_ring_producer *producer, uint32_t wanted);

/* The next slot, to be filled; sl_ring_room() answered that there is one. Invisible until
 * published. */
static inline void *sl_ring_reserve(struct sl_ring_producer *producer)
{
    uint32_t index = producer->tail++ & (producer->slot_count - 1);
    return producer->slots + (size_t)index * producer->slot_bytes;
}

/* Publishes what was reserved. True: the consumer sleeps, ring its doorbell. */
bool sl_ring_publish(struct sl_ring_producer *producer);

/* Before sleeping for want of room for `wanted` slots: false = there is room now (or the ring is
 * broken), do not sleep. */
bool sl_ring_producer_arm(struct sl_ring_producer *producer, uint32_t wanted);
/* After the sleep. */
void sl_ring_producer_disarm(struct sl_ring_producer *producer);

/* ---- consumer ---- */

/* How many slots may be taken now, or -SL_E_PROTOCOL. Looks at the peer's index only if none is
 * known. */
int sl_ring_available(struct sl_ring_consumer *consumer);

/* The oldest slot; sl_ring_available() answered that there is one. The peer may change it at any
 * time. */
static inline const void *sl_ring_peek(const struct sl_ring_consumer *consumer)
{
    uint32_t index = consumer->head & (consumer->slot_count - 1);
    return consumer->slots + (size_t)index * consumer->slot_bytes;
}

/* Done with the oldest slot. */
static inline void sl_ring_take(struct sl_ring_consumer *consumer)
{
    consumer->head++;
}

/* Gives what was taken back to the producer. True: it sleeps for want of room, ring its doorbell.
 */
bool sl_ring_release(struct sl_ring_consumer *consumer);

/* Before sleeping: false = slots have come (or the ring is broken), do not sleep. */
bool sl_ring_consumer_arm(struct sl_ring_consumer *consumer);
void sl_ring_consumer_disarm(struct sl_ring_consumer *consumer);

#endif
