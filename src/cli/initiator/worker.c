/*
 * A worker: keeps `depth` operations outstanding on its queue, measures each from submission to
 * completion. Slots 0 … depth - 1 are request ids and places in the worker's memory alike.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/initiator/initiator.h"
#include "core/error.h"
#include "core/spin.h"

/* The longest spin for a completion (core/spin.h adjusts it): an I/O over the local channel and tcp
 * takes about 50 µs, and a wake-up from sleep costs both sides about 5 µs. */
#define SPIN_NS (50 * SL_NS_PER_US)
/* How often a polling worker looks whether the gateway is alive. */
#define ALIVE_POLLS 100000
/* And how often it offers its core: about every 20 us. */
#define YIELD_POLLS 1000
#define WAIT_NS     (500 * SL_NS_PER_MS)

struct slot {
    uint64_t submitted_ns;
    uint64_t offset_bytes;
    uint32_t length_bytes;
    uint8_t opcode;
};

struct phase {
    struct worker *worker;
    bool validity;
    bool writing; /* validity: this phase writes; else it reads and checks */
    uint64_t next_unit;
    uint64_t random;
    unsigned outstanding;
    unsigned free_count;
    uint32_t *free_slots;
    struct slot *slots;
    struct sl_spin spin;
    uint64_t idle_since_ns; /* 0 = busy */
    unsigned idle_polls;
};

uint64_t clock_now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SL_NS_PER_S + (uint64_t)time.tv_nsec;
}

static uint64_t next_random(struct phase *phase)
{
    phase->random ^= phase->random << 13; /* xorshift64 */
    phase->random ^= phase->random >> 7;
    phase->random ^= phase->random << 17;
    return phase->random;
}

/* Takes one operation of the common limit; false if it is used up. */
static bool take_operation(struct initiator *initiator)
{
    if (initiator->config.operation_limit == 0)
        return true;
    uint64_t left = atomic_load_explicit(&initiator->operations_left, memory_order_relaxed);
    while (left > 0) {
        if (atomic_compare_exchange_weak(&initiator->operations_left, &left, left - 1))
            return true;
    }
    return false;
}

/* A permutation of 0 … count - 1 by an odd stride: each unit once, far apart. */
static uint64_t permuted(uint64_t index, uint64_t count)
{
    static const uint64_t strides[] = {1000003, 999983, 7919, 101, 7, 3, 1};
    for (unsigned i = 0; i < SL_COUNT_OF(strides); i++) {
        if (count % strides[i] != 0)
            return (uint64_t)((unsigned __int128)index * strides[i] % count);
    }
    return index;
}

/* Which unit comes next; false: this worker has none left. */
static bool choose_unit(struct phase *phase, uint64_t *unit)
{
    const struct worker *worker = phase->worker;
    const struct initiator *initiator = worker->initiator;
    if (phase->validity) {
        if (phase->next_unit == worker->unit_count)
            return false;
        uint64_t index = phase->next_unit++;
        *unit = worker->first_unit +
                (initiator->config.random ? permuted(index, worker->unit_count) : index);
        return true;
    }
    if (initiator->config.random)
        *unit = next_random(phase) % initiator->region_units;
    else
        *unit = worker->first_unit + phase->next_unit++ % worker->unit_count;
    return true;
}

static uint8_t choose_opcode(struct phase *phase)
{
    const struct initiator_config *config = &phase->worker->initiator->config;
    if (phase->validity)
        return phase->writing ? SL_IO_WRITE : SL_IO_READ;
    if (config->read_percent == 0 || config->read_percent == 100)
        return config->read_percent == 100 ? SL_IO_READ : SL_IO_WRITE;
    return next_random(phase) % 100 < config->read_percent ? SL_IO_READ : SL_IO_WRITE;
}

static bool prepare(struct phase *phase, struct sl_io_message *message)
{
    struct worker *worker = phase->worker;
    struct initiator *initiator = worker->initiator;
    const struct initiator_config *config = &initiator->config;
    uint64_t unit;
    if (atomic_load_explicit(&initiator->stop, memory_order_relaxed) ||
        !take_operation(initiator) || !choose_unit(phase, &unit))
        return false;
    uint32_t index = phase->free_slots[--phase->free_count];
    struct slot *slot = &phase->slots[index];
    uint64_t inside = unit * config->io_bytes;
    slot->offset_bytes = config->region_offset_bytes + inside;
    slot->length_bytes = (uint32_t)sl_min(config->io_bytes, initiator->region_bytes - inside);
    slot->opcode = choose_opcode(phase);
    uint8_t *data = worker->memory.base + index * config->io_bytes;
    if (phase->validity && phase->writing)
        content_fill(&initiator->content, inside, data, slot->length_bytes, &worker->result.copies);
    *message = (struct sl_io_message){
        .opcode = slot->opcode,
        .request_id = index,
        .volume = initiator->storage.volume,
        .length_bytes = slot->length_bytes,
        .offset_bytes = slot->offset_bytes,
        .memory_offset = index * config->io_bytes,
        .memory_id = worker->memory.id,
    };
    return true;
}

/* Fills the queue up to its depth. False: nothing is left to submit. */
static bool submit(struct phase *phase)
{
    struct sl_io_message messages[BATCH_MAX];
    while (phase->free_count > 0) {
        unsigned count = 0;
        while (count < BATCH_MAX && phase->free_count > 0 && prepare(phase, &messages[count]))
            count++;
        if (count == 0)
            return false;
        uint64_t now_ns = clock_now_ns();
        for (unsigned i = 0; i < count; i++)
            phase->slots[messages[i].request_id].submitted_ns = now_ns;
        phase->outstanding += count;
        for (unsigned sent = 0; sent < count;) {
            int step =
                sl_comch_client_queue_submit(phase->worker->queue, messages + sent, count - sent);
            if (step < 0) {
                phase->worker->result.first_error = step;
                return false;
            }
            sent += (unsigned)step;
        }
    }
    return true;
}

static void note_error(struct worker *worker, int error, uint64_t offset_bytes)
{
    struct result *result = &worker->result;
    if (result->error_count++ == 0 && result->mismatch_count == 0) {
        result->first_error = error;
        result->first_bad_offset_bytes = offset_bytes;
    }
    atomic_store(&worker->initiator->stop, true);
}

static void complete(struct phase *phase, const struct sl_io_message *message, uint64_t now_ns)
{
    struct worker *worker = phase->worker;
    struct result *result = &worker->result;
    const struct slot *slot = &phase->slots[message->request_id];
    int error = sl_status_to_errno(message->status);
    phase->free_slots[phase->free_count++] = message->request_id;
    phase->outstanding--;
    if (error < 0) {
        note_error(worker, error, slot->offset_bytes);
        return;
    }
    sl_histogram_add(&result->latency, now_ns - slot->submitted_ns);
    result->operation_count++;
    result->bytes += slot->length_bytes;
    if (slot->opcode == SL_IO_READ)
        result->read_count++;
    else
        result->write_count++;
    if (phase->validity && slot->opcode == SL_IO_READ) {
        const struct initiator *initiator = worker->initiator;
        uint64_t bad = 0;
        int64_t first = content_check(
            &initiator->content, slot->offset_bytes - initiator->config.region_offset_bytes,
            worker->memory.base + message->request_id * initiator->config.io_bytes,
            slot->length_bytes, &bad);
        if (first >= 0 && result->mismatch_count == 0 && result->error_count == 0)
            result->first_bad_offset_bytes = slot->offset_bytes + (uint64_t)first;
        result->mismatch_count += bad;
    }
}

/* Nothing was completed: spins on, sleeps when spinning has lasted. 0 or negative errno. */
static int idle(struct phase *phase)
{
    struct worker *worker = phase->worker;
    phase->idle_polls++;
    if (worker->initiator->config.poll) {
        /* As a reactor that never sleeps (core/reactor.c): others may need the core. */
        if (phase->idle_polls % YIELD_POLLS == 0)
            sched_yield();
        if (phase->idle_polls % ALIVE_POLLS != 0)
            return 0;
        int error = sl_comch_client_queue_wait(worker->queue, 0);
        return error == -ETIMEDOUT ? 0 : error;
    }
    uint64_t now_ns = clock_now_ns();
    if (phase->idle_since_ns == 0)
        phase->idle_since_ns = now_ns;
    if (!sl_spin_is_over(&phase->spin, now_ns - phase->idle_since_ns))
        return 0;
    int error = sl_comch_client_queue_wait(worker->queue, WAIT_NS);
    sl_spin_slept(&phase->spin, clock_now_ns() - now_ns);
    phase->idle_since_ns = 0;
    return error == -ETIMEDOUT ? 0 : error;
}

/* Takes completions; sleeps when there are none for a while. False: the gateway is gone or spoils
 * the ring. */
static bool reap(struct phase *phase)
{
    struct worker *worker = phase->worker;
    struct sl_io_message messages[BATCH_MAX];
    int count = sl_comch_client_queue_poll(worker->queue, messages, BATCH_MAX);
    worker->result.poll_count++;
    if (count > 0) {
        uint64_t now_ns = clock_now_ns();
        worker->result.poll_hit_count++;
        if (phase->idle_since_ns != 0)
            sl_spin_hit(&phase->spin, now_ns - phase->idle_since_ns);
        phase->idle_since_ns = 0;
        phase->idle_polls = 0;
        for (int i = 0; i < count; i++)
            complete(phase, &messages[i], now_ns);
        atomic_store_explicit(&worker->live_operations, worker->result.operation_count,
                              memory_order_relaxed);
        atomic_store_explicit(&worker->live_bytes, worker->result.bytes, memory_order_relaxed);
        return true;
    }
    int error = count == 0 ? idle(phase) : count;
    if (error < 0)
        note_error(worker, error, 0);
    return error >= 0;
}

static void run_phase(struct worker *worker, bool validity, bool writing)
{
    const struct initiator_config *config = &worker->initiator->config;
    struct phase phase = {
        .worker = worker,
        .validity = validity,
        .writing = writing,
        .random = (config->seed + worker->index + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1,
        .slots = calloc(config->depth, sizeof(*phase.slots)),
        .free_slots = calloc(config->depth, sizeof(*phase.free_slots)),
    };
    sl_spin_init(&phase.spin, SPIN_NS);
    if (phase.slots == NULL || phase.free_slots == NULL) {
        note_error(worker, -ENOMEM, 0);
    } else {
        for (uint32_t i = 0; i < config->depth; i++)
            phase.free_slots[phase.free_count++] = (uint32_t)config->depth - 1 - i;
        bool more = true;
        while (more || phase.outstanding > 0) {
            if (more)
                more = submit(&phase);
            if (phase.outstanding > 0 && !reap(&phase))
                break;
            if (worker->initiator->deadline_ns != 0 && phase.idle_polls % 16 == 0 &&
                clock_now_ns() >= worker->initiator->deadline_ns)
                more = false;
        }
    }
    free(phase.slots);
    free(phase.free_slots);
}

void *worker_main(void *argument)
{
    struct worker *worker = argument;
    const struct initiator_config *config = &worker->initiator->config;
    int cpu = config->cpus[worker->index];
    if (cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((unsigned)cpu, &set);
        pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
    }
    uint64_t start_ns = clock_now_ns();
    if (worker->unit_count > 0 ||
        (config->random && config->strategy <= STRATEGY_WRITE_THROUGHPUT)) {
        if (config->strategy == STRATEGY_READ_WRITE_VALIDITY)
            run_phase(worker, true, true);
        if (config->strategy >= STRATEGY_READ_WRITE_VALIDITY)
            run_phase(worker, true, false);
        else
            run_phase(worker, false, false);
    }
    worker->result.duration_ns = clock_now_ns() - start_ns;
    return NULL;
}
