/*
 * Goal: the ring of shared memory delivers every slot once and in order, never sleeps through one,
 * and a peer that writes nonsense into it gets an error instead of harming us. Method: one thread
 * with both ends for the edges; two threads with eventfds for the hand-over (run under TSan);
 * random scribbling over the indices, with a model of what may be answered.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fabric/shm/channel.h"

#define SLOTS 8u

struct pair {
    void *memory;
    struct sl_ring_producer producer;
    struct sl_ring_consumer consumer;
};

static void pair_open(struct pair *pair)
{
    size_t bytes = sl_align_up(sl_ring_bytes(64, SLOTS), 64);
    pair->memory = aligned_alloc(64, bytes);
    assert_non_null(pair->memory);
    memset(pair->memory, 0, bytes);
    sl_ring_producer_init(&pair->producer, pair->memory, 64, SLOTS);
    sl_ring_consumer_init(&pair->consumer, pair->memory, 64, SLOTS);
}

static void push(struct sl_ring_producer *producer, uint64_t value)
{
    memcpy(sl_ring_reserve(producer), &value, sizeof(value));
}

static uint64_t pop(struct sl_ring_consumer *consumer)
{
    uint64_t value;
    memcpy(&value, sl_ring_peek(consumer), sizeof(value));
    sl_ring_take(consumer);
    return value;
}

static void test_edges(void **state)
{
    struct pair pair;
    pair_open(&pair);
    uint64_t in = 0;
    uint64_t out = 0;
    for (unsigned round = 0; round < 100; round++) {
        assert_int_equal(sl_ring_available(&pair.consumer), 0);
        assert_int_equal(sl_ring_room(&pair.producer, SLOTS), SLOTS);
        for (unsigned i = 0; i < SLOTS; i++)
            push(&pair.producer, in++);
        assert_int_equal(sl_ring_room(&pair.producer, 1), 0);
        /* Reserved is not published. */
        assert_int_equal(sl_ring_available(&pair.consumer), 0);
        assert_false(sl_ring_publish(&pair.producer));
        assert_int_equal(sl_ring_available(&pair.consumer), SLOTS);
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(pop(&pair.consumer), out++);
        /* Taken is not given back. */
        assert_int_equal(sl_ring_room(&pair.producer, 1), 0);
        assert_false(sl_ring_release(&pair.consumer));
        assert_int_equal(sl_ring_room(&pair.producer, 1), 3);
        while (sl_ring_available(&pair.consumer) > 0)
            assert_int_equal(pop(&pair.consumer), out++);
        sl_ring_release(&pair.consumer);
    }
    assert_int_equal(in, out);
    free(pair.memory);
}

static void test_sleepers_are_rung_once(void **state)
{
    struct pair pair;
    pair_open(&pair);
    assert_true(sl_ring_consumer_arm(&pair.consumer));
    push(&pair.producer, 1);
    assert_true(sl_ring_publish(&pair.producer));
    push(&pair.producer, 2);
    assert_false(sl_ring_publish(&pair.producer));
    /* There is work: it must not sleep, and is not rung for. */
    assert_false(sl_ring_consumer_arm(&pair.consumer));
    push(&pair.producer, 3);
    assert_false(sl_ring_publish(&pair.producer));
    for (unsigned i = 3; i < SLOTS; i++)
        push(&pair.producer, i);
    sl_ring_publish(&pair.producer);
    assert_true(sl_ring_producer_arm(&pair.producer, 1));
    assert_true(sl_ring_available(&pair.consumer) > 0);
    (void)pop(&pair.consumer);
    assert_true(sl_ring_release(&pair.consumer));
    assert_false(sl_ring_producer_arm(&pair.producer, 1));
    free(pair.memory);
}

/* ---- two threads ---- */

#define THREAD_MESSAGES 200000u

struct crossing {
    struct pair pair;
    int consumer_bell;
    int producer_bell;
};

static void bell_wait(int bell)
{
    struct pollfd entry = {bell, POLLIN, 0};
    assert_int_equal(poll(&entry, 1, 10000), 1);
    uint64_t count;
    assert_int_equal(read(bell, &count, sizeof(count)), sizeof(count));
}

static void *produce(void *argument)
{
    struct crossing *crossing = argument;
    struct sl_ring_producer *producer = &crossing->pair.producer;
    for (uint64_t i = 0; i < THREAD_MESSAGES;) {
        while (i < THREAD_MESSAGES && sl_ring_room(producer, 1) > 0)
            push(producer, i++);
        if (sl_ring_publish(producer))
            sl_eventfd_ring(crossing->consumer_bell);
        if (i < THREAD_MESSAGES && sl_ring_producer_arm(producer, 1))
            bell_wait(crossing->producer_bell);
        sl_ring_producer_disarm(producer);
    }
    return NULL;
}

static void test_two_threads(void **state)
{
    struct crossing crossing = {0};
    pair_open(&crossing.pair);
    crossing.consumer_bell = sl_eventfd_create();
    crossing.producer_bell = sl_eventfd_create();
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, produce, &crossing), 0);
    struct sl_ring_consumer *consumer = &crossing.pair.consumer;
    for (uint64_t expected = 0; expected < THREAD_MESSAGES;) {
        while (sl_ring_available(consumer) > 0)
            assert_int_equal(pop(consumer), expected++);
        if (sl_ring_release(consumer))
            sl_eventfd_ring(crossing.producer_bell);
        if (expected < THREAD_MESSAGES && sl_ring_consumer_arm(consumer))
            bell_wait(crossing.consumer_bell);
        sl_ring_consumer_disarm(consumer);
    }
    pthread_join(thread, NULL);
    close(crossing.consumer_bell);
    close(crossing.producer_bell);
    free(crossing.pair.memory);
}

/* ---- a peer that lies ---- */

static void test_consumer_refuses_wild_tails(void **state)
{
    srandom(7);
    for (unsigned round = 0; round < 20000; round++) {
        struct pair pair;
        pair_open(&pair);
        uint32_t tail = round % 3 == 0 ? (uint32_t)random() % (2 * SLOTS) : (uint32_t)random();
        atomic_store(&pair.consumer.shared->tail, tail);
        int available = sl_ring_available(&pair.consumer);
        if (tail <= SLOTS) {
            assert_int_equal(available, tail);
        } else {
            assert_int_equal(available, -SL_E_PROTOCOL);
            /* It does not recover by being put right. */
            atomic_store(&pair.consumer.shared->tail, 1);
            assert_int_equal(sl_ring_available(&pair.consumer), -SL_E_PROTOCOL);
            assert_false(sl_ring_consumer_arm(&pair.consumer));
        }
        free(pair.memory);
    }
}

static void test_consumer_refuses_tails_that_go_back(void **state)
{
    struct pair pair;
    pair_open(&pair);
    for (unsigned i = 0; i < 4; i++)
        push(&pair.producer, i);
    sl_ring_publish(&pair.producer);
    assert_int_equal(sl_ring_available(&pair.consumer), 4);
    for (unsigned i = 0; i < 4; i++)
        (void)pop(&pair.consumer);
    atomic_store(&pair.consumer.shared->tail, 2);
    assert_int_equal(sl_ring_available(&pair.consumer), -SL_E_PROTOCOL);
    free(pair.memory);
}

static void test_producer_refuses_wild_heads(void **state)
{
    static const uint32_t heads[] = {4, 5, 0x80000000u, 0xffffffffu};
    for (unsigned i = 0; i < SL_COUNT_OF(heads); i++) {
        struct pair pair;
        pair_open(&pair);
        for (unsigned j = 0; j < 3; j++)
            push(&pair.producer, j);
        sl_ring_publish(&pair.producer);
        atomic_store(&pair.producer.shared->head, heads[i]);
        assert_int_equal(sl_ring_room(&pair.producer, SLOTS), -SL_E_PROTOCOL);
        atomic_store(&pair.producer.shared->head, 1);
        assert_int_equal(sl_ring_room(&pair.producer, 1), -SL_E_PROTOCOL);
        free(pair.memory);
    }
}

/* ---- descriptors from a peer ---- */

static void test_adopt_refuses_what_is_no_channel(void **state)
{
    static const struct sl_channel_layout layout = {.slot_bytes = 64, .slot_count = SLOTS};
    struct sl_channel maker;
    struct sl_channel taker;
    int descriptors[SL_CHANNEL_DESCRIPTORS];
    assert_int_equal(sl_channel_create(&maker, &layout), 0);
    for (unsigned bad = 0; bad <= SL_CHANNEL_DESCRIPTORS; bad++) {
        sl_channel_descriptors(&maker, descriptors);
        for (unsigned i = 0; i < SL_CHANNEL_DESCRIPTORS; i++)
            descriptors[i] = dup(descriptors[i == bad ? (bad + 1) % SL_CHANNEL_DESCRIPTORS : i]);
        int error = sl_channel_adopt(&taker, &layout, descriptors);
        if (bad == SL_CHANNEL_MEMORY) {
            assert_int_equal(error, -SL_E_PROTOCOL);
        } else if (bad == SL_CHANNEL_MAKER_BELL) {
            assert_int_equal(error, -SL_E_PROTOCOL);
        } else {
            /* Swapped bells cannot be told apart; they are harmless. */
            assert_int_equal(error, 0);
            sl_channel_close(&taker);
        }
    }
    /* A file of the right length that may shrink under us. */
    sl_channel_descriptors(&maker, descriptors);
    descriptors[0] = memfd_create("unsealed", 0);
    assert_int_equal(ftruncate(descriptors[0], (off_t)maker.length_bytes), 0);
    descriptors[1] = dup(descriptors[1]);
    descriptors[2] = dup(descriptors[2]);
    assert_int_equal(sl_channel_adopt(&taker, &layout, descriptors), -SL_E_PROTOCOL);
    /* Sealed, but of another length. */
    sl_channel_descriptors(&maker, descriptors);
    descriptors[0] = sl_memfd_create("short", SL_BLOCK_BYTES);
    descriptors[1] = dup(descriptors[1]);
    descriptors[2] = dup(descriptors[2]);
    assert_int_equal(sl_channel_adopt(&taker, &layout, descriptors), -SL_E_PROTOCOL);
    sl_channel_close(&maker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_sleepers_are_rung_once),
        cmocka_unit_test(test_two_threads),
        cmocka_unit_test(test_consumer_refuses_wild_tails),
        cmocka_unit_test(test_consumer_refuses_tails_that_go_back),
        cmocka_unit_test(test_producer_refuses_wild_heads),
        cmocka_unit_test(test_adopt_refuses_what_is_no_channel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
