/*
 * Goal: whatever a peer writes into the shared part of a ring, at whatever moment, the other end
 * stays inside the ring's memory, answers -SL_E_PROTOCOL or a count that the ring can hold, and
 * stays broken once it was. Method: the input is a program of steps of three bytes: our calls, and
 * stores of the peer's into indices, flags and slots. The ring lies in memory of exactly its size,
 * so that ASan sees a step outside.
 */
#include <stdlib.h>
#include <string.h>

#include "fabric/shm/ring.h"

#define SLOTS      8u
#define SLOT_BYTES 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct state {
    struct sl_ring_shared *shared;
    struct sl_ring_producer producer;
    struct sl_ring_consumer consumer;
    bool producer_broken;
    bool consumer_broken;
};

static void must(bool condition)
{
    if (!condition)
        abort();
}

static void consume(struct state *state, unsigned most)
{
    for (unsigned i = 0; i < most; i++) {
        int available = sl_ring_available(&state->consumer);
        must(available <= (int)SLOTS && (available >= 0 || available == -SL_E_PROTOCOL));
        must(!state->consumer_broken || available < 0);
        state->consumer_broken = available < 0;
        if (available <= 0)
            return;
        uint8_t slot[SLOT_BYTES];
        memcpy(slot, sl_ring_peek(&state->consumer), SLOT_BYTES);
        sl_ring_take(&state->consumer);
    }
}

static void produce(struct state *state, unsigned most, uint8_t fill)
{
    int room = sl_ring_room(&state->producer, most);
    must(room <= (int)SLOTS && (room >= 0 || room == -SL_E_PROTOCOL));
    must(!state->producer_broken || room < 0);
    state->producer_broken = room < 0;
    for (int i = 0; i < room && i < (int)most; i++)
        memset(sl_ring_reserve(&state->producer), fill, SLOT_BYTES);
    (void)sl_ring_publish(&state->producer);
}

/* Small steps around where things stand find more than random numbers do. */
static uint32_t wild(uint32_t near, uint8_t value)
{
    return value < 128 ? near + (uint32_t)(value - 64) : (uint32_t)value << 24;
}

static void step(struct state *state, const uint8_t *code)
{
    switch (code[0] % 8) {
    case 0:
        consume(state, code[1] % 16);
        break;
    case 1:
        (void)sl_ring_release(&state->consumer);
        break;
    case 2:
        produce(state, code[1] % 16, code[2]);
        break;
    case 3:
        must(!sl_ring_consumer_arm(&state->consumer) || !state->consumer_broken);
        break;
    case 4:
        must(!sl_ring_producer_arm(&state->producer, 1u + code[1] % SLOTS) ||
             !state->producer_broken);
        break;
    case 5:
        atomic_store(&state->shared->tail, wild(state->consumer.head, code[1]));
        break;
    case 6:
        atomic_store(&state->shared->head, wild(state->producer.head, code[1]));
        break;
    default:
        ((uint8_t *)(state->shared + 1))[(code[1] * 256u + code[2]) % (SLOTS * SLOT_BYTES)] ^= 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct state state = {.shared = aligned_alloc(64, sl_ring_bytes(SLOT_BYTES, SLOTS))};
    must(state.shared != NULL);
    memset(state.shared, 0, sl_ring_bytes(SLOT_BYTES, SLOTS));
    sl_ring_producer_init(&state.producer, state.shared, SLOT_BYTES, SLOTS);
    sl_ring_consumer_init(&state.consumer, state.shared, SLOT_BYTES, SLOTS);
    for (size_t i = 0; i + 3 <= size; i += 3)
        step(&state, data + i);
    free(state.shared);
    return 0;
}
