/*
 * Goal: buffers are what was asked for, and are counted; a reserve keeps to its share; who waits
 * gets memory in order; nothing is lost.
 * Method: small limits, so that everything runs out; coroutines on a reactor with a clock of its
 * own (nothing sleeps); random traffic against a model of the statistics.
 */
#include "harness.h"

#include <sys/resource.h>

#include "core/coroutine.h"
#include "core/reactor.h"
#include "mem/memory.h"

#if defined(__SANITIZE_ADDRESS__)
#define TEST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_ASAN 1
#endif
#endif
#ifdef TEST_ASAN
#include <sanitizer/asan_interface.h>
#endif

#define PAGE 4096u
/* The least that counts as a large buffer. */
#define LEAST  (5 * PAGE)
#define WIDEST 64
#define STEPS  20000

/* ---- a reactor ---- */

struct clock {
    uint64_t now_ns;
};

static uint64_t clock_now(void *engine)
{
    return ((struct clock *)engine)->now_ns;
}

static unsigned clock_poll(void *engine)
{
    (void)engine;
    return 0;
}

static unsigned clock_sleep(void *engine, uint64_t deadline_ns)
{
    struct clock *clock = engine;
    if (deadline_ns != UINT64_MAX)
        clock->now_ns = sl_max(clock->now_ns, deadline_ns);
    return 0;
}

static void clock_notify(void *engine)
{
    (void)engine;
}

static void clock_random(void *engine, void *bytes, size_t length)
{
    (void)engine;
    memset(bytes, 0, length);
}

struct world {
    struct clock clock;
    struct sl_reactor *reactor;
    struct sl_memory *memory;
    char order[WIDEST + 1]; /* names of who was served */
    unsigned order_count;
};

static void world_create(struct world *world, size_t limit)
{
    struct sl_reactor_config reactor_config = {.cpu = -1};
    struct sl_memory_config config = {.limit_bytes = limit, .numa_node = -1};
    *world = (struct world){.clock = {1}};
    struct sl_reactor_engine engine = {&world->clock, clock_now,    clock_poll,
                                       clock_sleep,   clock_notify, clock_random};
    assert_int_equal(sl_reactor_create(&reactor_config, &engine, &world->reactor), 0);
    assert_int_equal(sl_memory_create(&config, &world->memory), 0);
}

static void world_destroy(struct world *world)
{
    sl_memory_destroy(world->memory);
    sl_reactor_destroy(world->reactor);
}

static void world_settle(struct world *world)
{
    while (sl_reactor_step(world->reactor))
        continue;
}

static struct sl_memory_statistics statistics_of(const struct sl_memory *memory)
{
    struct sl_memory_statistics statistics;
    sl_memory_statistics(memory, &statistics);
    return statistics;
}

struct client {
    struct world *world;
    uint32_t length;
    enum sl_memory_reserve reserve;
    char name;
    struct sl_buf *buf;
    bool answered;
};

static void client_co(void *argument)
{
    struct client *client = argument;
    client->buf = sl_buf_alloc_co(client->world->memory, client->length, client->reserve);
    client->answered = true;
    client->world->order[client->world->order_count++] = client->name;
}

static void ask(struct world *world, struct client *client, char name, uint64_t length,
                enum sl_memory_reserve reserve)
{
    *client = (struct client){world, (uint32_t)length, reserve, name, NULL, false};
    assert_int_equal(sl_co_spawn(world->reactor, client_co, client), 0);
    world_settle(world);
}

/* ---- buffers ---- */

static void bad_limits(void **state)
{
    (void)state;
    struct sl_memory *memory = NULL;
    struct sl_memory_config config = {.limit_bytes = 4 * SL_MIB - 1, .numa_node = -1};
    assert_int_equal(sl_memory_create(&config, &memory), -EINVAL);
    config.limit_bytes = 0;
    assert_int_equal(sl_memory_create(&config, &memory), -EINVAL);
    sl_memory_destroy(NULL);
    sl_buf_unref(NULL);
}

static void arenas_grow_to_the_limit(void **state)
{
    (void)state;
    struct sl_memory *memory;
    struct sl_memory_config config = {
        .limit_bytes = 19 * SL_MIB, .arena_bytes = 3 * SL_MIB, .numa_node = -1};
    assert_int_equal(sl_memory_create(&config, &memory), 0);
    struct sl_memory_statistics statistics = statistics_of(memory);
    assert_int_equal(statistics.arena_bytes, 0);
    assert_int_equal(statistics.limit_bytes, 18 * SL_MIB); /* whole blocks of 2 MiB */
    struct sl_buf *bufs[6];
    uint64_t expected[] = {4, 4, 8, 8, 10};
    for (unsigned i = 0; i < 5; i++) {
        bufs[i] = sl_buf_alloc(memory, 2 * SL_MIB, SL_RESERVE_CHECKPOINT);
        assert_non_null(bufs[i]);
        memset(bufs[i]->data, (int)i, bufs[i]->length_bytes);
        assert_int_equal(statistics_of(memory).arena_bytes, expected[i] * SL_MIB);
    }
    assert_null(sl_buf_alloc(memory, LEAST, SL_RESERVE_CHECKPOINT));
    statistics = statistics_of(memory);
    assert_int_equal(statistics.free_bytes, 0);
    assert_int_equal(statistics.largest_free_bytes, 0);
    struct sl_buf *small = sl_buf_alloc(memory, 1, SL_RESERVE_ADMISSION);
    assert_non_null(small); /* the rest is theirs */
    sl_buf_unref(small);
    for (unsigned i = 0; i < 5; i++) {
        for (unsigned k = 0; k < 2 * SL_MIB; k += 511)
            assert_int_equal(bufs[i]->data[k], i);
        assert_true(sl_region_contains(bufs[i]->region, bufs[i]->data, bufs[i]->length_bytes));
        sl_buf_unref(bufs[i]);
    }
    assert_int_equal(statistics_of(memory).largest_free_bytes, 2 * SL_MIB);
    sl_memory_destroy(memory);
}

static void rounding_and_trimming(void **state)
{
    (void)state;
    struct world world;
    world_create(&world, 4 * SL_MIB);
    struct sl_buf *buf = sl_buf_alloc(world.memory, 5 * PAGE - 100, SL_RESERVE_ADMISSION);
    assert_int_equal(buf->length_bytes, 5 * PAGE); /* whole pages only, not a power of two */
    assert_true(sl_is_aligned((uintptr_t)buf->data, PAGE));
    struct sl_memory_statistics statistics = statistics_of(world.memory);
    assert_int_equal(statistics.used_bytes, 5 * PAGE);
    assert_int_equal(statistics.waste_bytes, 100);
    assert_int_equal(statistics.buffer_count, 1);
    memset(buf->data, 9, 5 * PAGE);
    sl_buf_trim(buf, 6 * PAGE); /* more than there is: nothing happens */
    assert_int_equal(buf->length_bytes, 5 * PAGE);
    sl_buf_trim(buf, 5 * PAGE - 200);
    assert_int_equal(statistics_of(world.memory).waste_bytes, 200);
    sl_buf_trim(buf, PAGE + 1);
    assert_int_equal(buf->length_bytes, 2 * PAGE);
    statistics = statistics_of(world.memory);
    assert_int_equal(statistics.used_bytes, 2 * PAGE);
    assert_int_equal(statistics.waste_bytes, PAGE - 1);
    for (unsigned i = 0; i < 2 * PAGE; i++)
        assert_int_equal(buf->data[i], 9);
    assert_ptr_equal(sl_buf_ref(buf), buf);
    sl_buf_unref(buf);
    assert_int_equal(statistics_of(world.memory).buffer_count, 1);
    sl_buf_unref(buf);
    statistics = statistics_of(world.memory);
    assert_int_equal(statistics.used_bytes, 0);
    assert_int_equal(statistics.waste_bytes, 0);
    assert_int_equal(statistics.buffer_count, 0);
    assert_int_equal(statistics.largest_free_bytes, 2 * SL_MIB);
    world_destroy(&world);
}

/* What is free, lent or trimmed away may not be touched by a CPU. */
static void poison(void **state)
{
    (void)state;
#ifdef TEST_ASAN
    struct world world;
    world_create(&world, 4 * SL_MIB);
    struct sl_buf *buf = sl_buf_alloc(world.memory, 4 * PAGE, SL_RESERVE_ADMISSION);
    uint8_t *data = buf->data;
    assert_null(__asan_region_is_poisoned(data, 4 * PAGE));
    sl_buf_trim(buf, PAGE);
    assert_null(__asan_region_is_poisoned(data, PAGE));
    assert_ptr_equal(__asan_region_is_poisoned(data, PAGE + 1), data + PAGE);
    sl_buf_lend(buf);
    sl_buf_lend(buf); /* to two */
    assert_non_null(__asan_region_is_poisoned(data, 1));
    sl_buf_return(buf);
    assert_non_null(__asan_region_is_poisoned(data, 1));
    sl_buf_return(buf);
    assert_null(__asan_region_is_poisoned(data, PAGE));
    sl_buf_unref(buf);
    assert_ptr_equal(__asan_region_is_poisoned(data, 1), data);
    world_destroy(&world);
    assert_null(__asan_region_is_poisoned(data, 1)); /* the address is anyone's again */
#else
    skip();
#endif
}

struct traffic {
    struct sl_buf *bufs[WIDEST];
    uint32_t wanted[WIDEST];
    uint64_t used_bytes;
    uint64_t waste_bytes;
    unsigned count;
};

static uint64_t rounded(uint64_t bytes)
{
    return sl_align_up(bytes, PAGE);
}

static void traffic_alloc(struct traffic *traffic, struct sl_memory *memory, uint64_t *random)
{
    if (traffic->count == WIDEST)
        return;
    uint32_t length = 1 + test_random(random) % (test_random(random) % 8 == 0 ? 2u << 20 : 40000u);
    struct sl_buf *buf = sl_buf_alloc(memory, length, test_random(random) % SL_RESERVE_COUNT);
    if (buf == NULL)
        return;
    memset(buf->data, (int)(traffic->count + 1), length);
    traffic->bufs[traffic->count] = buf;
    traffic->wanted[traffic->count++] = length;
    traffic->used_bytes += rounded(length);
    traffic->waste_bytes += rounded(length) - length;
}

static void traffic_trim(struct traffic *traffic, unsigned pick, uint64_t *random)
{
    uint32_t length = 1 + test_random(random) % traffic->wanted[pick];
    uint32_t old = traffic->wanted[pick];
    sl_buf_trim(traffic->bufs[pick], length);
    traffic->used_bytes -= rounded(old) - rounded(length);
    traffic->waste_bytes -= rounded(old) - old;
    traffic->waste_bytes += rounded(length) - length;
    traffic->wanted[pick] = length;
}

static void traffic_free(struct traffic *traffic, unsigned pick)
{
    struct sl_buf *buf = traffic->bufs[pick];
    uint32_t length = traffic->wanted[pick];
    assert_int_equal(buf->length_bytes, rounded(length));
    assert_int_equal(buf->data[0], buf->data[length - 1]); /* nobody wrote over it */
    traffic->used_bytes -= rounded(length);
    traffic->waste_bytes -= rounded(length) - length;
    sl_buf_unref(buf);
    traffic->count--;
    traffic->bufs[pick] = traffic->bufs[traffic->count];
    traffic->wanted[pick] = traffic->wanted[traffic->count];
}

static void statistics_against_model(void **state)
{
    (void)state;
    struct world world;
    struct traffic traffic = {0};
    uint64_t random = 3;
    world_create(&world, 16 * SL_MIB);
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned dice = test_random(&random) % 10;
        unsigned pick = traffic.count > 0 ? test_random(&random) % traffic.count : 0;
        if (dice < 5)
            traffic_alloc(&traffic, world.memory, &random);
        else if (traffic.count > 0 && dice < 7)
            traffic_trim(&traffic, pick, &random);
        else if (traffic.count > 0)
            traffic_free(&traffic, pick);
        struct sl_memory_statistics statistics = statistics_of(world.memory);
        assert_int_equal(statistics.used_bytes, traffic.used_bytes);
        assert_int_equal(statistics.waste_bytes, traffic.waste_bytes);
        assert_int_equal(statistics.buffer_count, traffic.count);
        assert_int_equal(statistics.free_bytes, statistics.arena_bytes - traffic.used_bytes);
        assert_true(statistics.arena_bytes <= statistics.limit_bytes);
    }
    while (traffic.count > 0)
        traffic_free(&traffic, 0);
    world_destroy(&world);
}

/* ---- reserves and waiting ---- */

static void reserves_keep_their_share(void **state)
{
    (void)state;
    struct world world;
    struct sl_buf *bufs[16];
    unsigned count = 0;
    world_create(&world, 16 * SL_MIB);
    const unsigned most[SL_RESERVE_COUNT] = {12, 14, 16}; /* of 512 KiB each: 3/4, 7/8, all */
    for (unsigned reserve = 0; reserve < SL_RESERVE_COUNT; reserve++) {
        struct sl_buf *buf;
        while ((buf = sl_buf_alloc(world.memory, 512 * SL_KIB, reserve)) != NULL)
            bufs[count++] = buf;
        assert_int_equal(count, most[reserve]);
    }
    /* Below its share again, a reserve goes on. */
    for (unsigned i = 0; i < 4; i++)
        sl_buf_unref(bufs[--count]);
    assert_null(sl_buf_alloc(world.memory, LEAST, SL_RESERVE_ADMISSION));
    sl_buf_unref(bufs[--count]);
    bufs[count] = sl_buf_alloc(world.memory, LEAST, SL_RESERVE_ADMISSION);
    assert_non_null(bufs[count++]);
    while (count > 0)
        sl_buf_unref(bufs[--count]);
    world_destroy(&world);
}

static void in_order_within_a_reserve(void **state)
{
    (void)state;
    struct world world;
    struct client big, small, late;
    world_create(&world, 16 * SL_MIB);
    struct sl_buf *held[3];
    for (unsigned i = 0; i < 3; i++)
        held[i] = sl_buf_alloc(world.memory, 2 * SL_MIB - LEAST, SL_RESERVE_ADMISSION);
    ask(&world, &big, 'B', 2 * SL_MIB, SL_RESERVE_ADMISSION);
    ask(&world, &small, 's', LEAST,
        SL_RESERVE_ADMISSION); /* there is room for it, but not for it first */
    ask(&world, &late, 'l', LEAST, SL_RESERVE_ADMISSION);
    assert_null(
        sl_buf_alloc(world.memory, LEAST, SL_RESERVE_ADMISSION)); /* nor for who won't wait */
    assert_false(big.answered || small.answered || late.answered);
    assert_int_equal(statistics_of(world.memory).waiter_count, 3);
    /* Pages that come back by trimming are served too: the share is full to the page then. */
    sl_buf_trim(held[0], LEAST);
    world_settle(&world);
    assert_string_equal(world.order, "Bs");
    assert_int_equal(big.buf->length_bytes, 2 * SL_MIB);
    assert_int_equal(statistics_of(world.memory).used_bytes, 6 * SL_MIB);
    assert_int_equal(statistics_of(world.memory).waiter_count, 1);
    sl_buf_unref(held[0]);
    world_settle(&world);
    assert_string_equal(world.order, "Bsl");
    assert_int_equal(statistics_of(world.memory).waiter_count, 0);
    sl_buf_unref(held[1]);
    sl_buf_unref(held[2]);
    sl_buf_unref(big.buf);
    sl_buf_unref(small.buf);
    sl_buf_unref(late.buf);
    world_destroy(&world);
}

static void higher_reserves_reach_further(void **state)
{
    (void)state;
    struct world world;
    struct client admission, intake, checkpoint, second;
    world_create(&world, 8 * SL_MIB);
    struct sl_buf *a = sl_buf_alloc(world.memory, 2 * SL_MIB, SL_RESERVE_CHECKPOINT);
    struct sl_buf *b = sl_buf_alloc(world.memory, 2 * SL_MIB, SL_RESERVE_CHECKPOINT);
    ask(&world, &admission, 'a', LEAST, SL_RESERVE_ADMISSION);
    ask(&world, &intake, 'i', LEAST, SL_RESERVE_INTAKE);
    ask(&world, &checkpoint, 'c', LEAST, SL_RESERVE_CHECKPOINT);
    ask(&world, &second, 'C', LEAST, SL_RESERVE_CHECKPOINT);
    assert_int_equal(world.order_count, 0);
    /* To 7 of them below the limit: enough for all of them, but only checkpoint's share reaches
     * there. */
    sl_buf_trim(a, 2 * SL_MIB - 7 * LEAST);
    world_settle(&world);
    assert_string_equal(world.order, "cC");
    sl_buf_trim(a, 1 * SL_MIB + 512 * SL_KIB - 3 * LEAST); /* below 7/8 with one page more */
    world_settle(&world);
    assert_string_equal(world.order, "cCi");
    sl_buf_unref(a);
    world_settle(&world);
    assert_string_equal(world.order, "cCia");
    sl_buf_unref(b);
    sl_buf_unref(admission.buf);
    sl_buf_unref(intake.buf);
    sl_buf_unref(checkpoint.buf);
    sl_buf_unref(second.buf);
    world_destroy(&world);
}

/* Pages that all of them may use: the highest is asked first, whoever came first. */
static void higher_reserves_are_served_first(void **state)
{
    (void)state;
    struct world world;
    struct client clients[4];
    world_create(&world, 8 * SL_MIB);
    struct sl_buf *a = sl_buf_alloc(world.memory, 2 * SL_MIB, SL_RESERVE_CHECKPOINT);
    struct sl_buf *b = sl_buf_alloc(world.memory, 2 * SL_MIB, SL_RESERVE_CHECKPOINT);
    ask(&world, &clients[0], 'a', LEAST, SL_RESERVE_ADMISSION);
    ask(&world, &clients[1], 'i', LEAST, SL_RESERVE_INTAKE);
    ask(&world, &clients[2], 'c', LEAST, SL_RESERVE_CHECKPOINT);
    ask(&world, &clients[3], 'A', LEAST, SL_RESERVE_ADMISSION);
    sl_buf_unref(a);
    world_settle(&world);
    assert_string_equal(world.order, "ciaA");
    for (unsigned i = 0; i < SL_COUNT_OF(clients); i++)
        sl_buf_unref(clients[i].buf);
    sl_buf_unref(b);
    world_destroy(&world);
}

/* A higher reserve that waits for a long run of pages must not stop those whose end it waits for.
 */
static void a_lower_reserve_gets_on(void **state)
{
    (void)state;
    struct world world;
    struct client big, small;
    static struct sl_buf *pages[1024];
    world_create(&world, 8 * SL_MIB);
    for (unsigned i = 0; i < SL_COUNT_OF(pages); i++)
        pages[i] = sl_buf_alloc(world.memory, PAGE, SL_RESERVE_CHECKPOINT);
    for (unsigned i = 0; i < SL_COUNT_OF(pages); i += 2)
        sl_buf_unref(pages[i]); /* half of it is free, in single pages */
    struct sl_memory_statistics statistics = statistics_of(world.memory);
    assert_int_equal(statistics.free_bytes, 2 * SL_MIB);
    ask(&world, &big, 'B', 2 * PAGE, SL_RESERVE_CHECKPOINT);
    assert_false(big.answered);
    ask(&world, &small, 's', PAGE, SL_RESERVE_ADMISSION);
    assert_true(small.answered);
    for (unsigned i = 1; i < SL_COUNT_OF(pages); i += 2)
        sl_buf_unref(pages[i]);
    world_settle(&world);
    assert_string_equal(world.order, "sB");
    sl_buf_unref(big.buf);
    sl_buf_unref(small.buf);
    world_destroy(&world);
}

/* Small buffers that stay, one in each quarter of a MiB, and all the rest free: large ones get
 * theirs. And the other way round. */
static void large_ones_find_room(void **state)
{
    (void)state;
    struct world world;
    static struct sl_buf *small[2048];
    struct sl_buf *large[32];
    unsigned small_count = 0, large_count = 0;
    world_create(&world, 32 * SL_MIB); /* 8 MiB for each kind alone */
    while ((small[small_count] = sl_buf_alloc(world.memory, 4 * PAGE, SL_RESERVE_CHECKPOINT)) !=
           NULL)
        small_count++;
    assert_int_equal(small_count, 24 * SL_MIB / (4 * PAGE));
    for (unsigned i = 0; i < small_count; i++) {
        if (i % 16 == 0)
            continue;
        sl_buf_unref(small[i]);
        small[i] = NULL;
    }
    while ((large[large_count] = sl_buf_alloc(world.memory, SL_MIB, SL_RESERVE_CHECKPOINT)) != NULL)
        large_count++;
    assert_int_equal(large_count, 8);
    while (large_count > 0)
        sl_buf_unref(large[--large_count]);
    while (small_count > 0)
        sl_buf_unref(small[--small_count]);
    world_destroy(&world);

    world_create(&world, 32 * SL_MIB);
    while ((large[large_count] = sl_buf_alloc(world.memory, SL_MIB, SL_RESERVE_CHECKPOINT)) != NULL)
        large_count++;
    assert_int_equal(large_count, 24);
    while ((small[small_count] = sl_buf_alloc(world.memory, 4 * PAGE, SL_RESERVE_CHECKPOINT)) !=
           NULL)
        small_count++;
    assert_int_equal(small_count, 8 * SL_MIB / (4 * PAGE));
    while (large_count > 0)
        sl_buf_unref(large[--large_count]);
    while (small_count > 0)
        sl_buf_unref(small[--small_count]);
    world_destroy(&world);
}

static unsigned take_all(struct world *world, struct sl_buf **bufs, uint32_t length,
                         enum sl_memory_reserve reserve)
{
    unsigned count = 0;
    while ((bufs[count] = sl_buf_alloc(world->memory, length, reserve)) != NULL)
        count++;
    return count;
}

static void give_all(struct sl_buf **bufs, unsigned count)
{
    while (count > 0)
        sl_buf_unref(bufs[--count]);
}

/* Arenas of large buffers that are all free are small ones' as well: for who asks, for who waits
 * when they become free, and when it is told whether memory is short. */
static void idle_arenas_change_over(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    static struct sl_buf *small[4096];
    struct sl_buf *large[64];
    struct sl_memory_config config = {
        .limit_bytes = 64 * SL_MIB, .arena_bytes = 4 * SL_MIB, .numa_node = -1};
    world_create(&world, 4 * SL_MIB);
    sl_memory_destroy(world.memory);
    assert_int_equal(sl_memory_create(&config, &world.memory), 0);
    for (unsigned i = 0; i < 14; i++)
        large[i] = sl_buf_alloc(world.memory, 2 * SL_MIB, SL_RESERVE_ADMISSION);
    give_all(large, 14);
    unsigned count = take_all(&world, small, 4 * PAGE, SL_RESERVE_ADMISSION);
    assert_int_equal(count, 42 * SL_MIB / (4 * PAGE)); /* 3/4 of 56 MiB */
    give_all(small, count);
    sl_memory_destroy(world.memory);

    assert_int_equal(sl_memory_create(&config, &world.memory), 0);
    unsigned large_count = take_all(&world, large, 2 * SL_MIB, SL_RESERVE_CHECKPOINT);
    assert_int_equal(large_count, 28);
    count = take_all(&world, small, 4 * PAGE, SL_RESERVE_CHECKPOINT);
    assert_int_equal(count, 8 * SL_MIB / (4 * PAGE));
    ask(&world, &client, 'c', PAGE, SL_RESERVE_CHECKPOINT);
    assert_false(client.answered);
    give_all(large, large_count);
    world_settle(&world);
    assert_true(client.answered);
    assert_false(sl_memory_is_short(world.memory, SL_RESERVE_ADMISSION));
    sl_buf_unref(client.buf);
    give_all(small, count);
    world_destroy(&world);
}

/* Requests of one kind do not take the reserves of the other: arenas of large buffers that are full
 * to the last byte, small ones have all that they can, and a checkpoint still gets a large one. */
static void reserves_are_of_each_kind(void **state)
{
    (void)state;
    struct world world;
    static struct sl_buf *small[8192];
    struct sl_buf *large[8];
    world_create(&world, 32 * SL_MIB);
    for (unsigned i = 0; i < 8; i++) /* 4 + 4 + 8 MiB */
        large[i] = sl_buf_alloc(world.memory, 2 * SL_MIB, SL_RESERVE_ADMISSION);
    assert_int_equal(statistics_of(world.memory).free_bytes, 0);
    unsigned count = take_all(&world, small, PAGE, SL_RESERVE_ADMISSION);
    struct sl_buf *intake = sl_buf_alloc(world.memory, SL_MIB, SL_RESERVE_INTAKE);
    assert_non_null(intake);
    unsigned more = take_all(&world, small + count, PAGE, SL_RESERVE_INTAKE);
    struct sl_buf *checkpoint = sl_buf_alloc(world.memory, SL_MIB, SL_RESERVE_CHECKPOINT);
    assert_non_null(checkpoint);
    sl_buf_unref(intake);
    sl_buf_unref(checkpoint);
    give_all(large, 8);
    give_all(small, count + more);
    world_destroy(&world);
}

/* Who could let go of something is told, at once, and as long as somebody waits. */
static void count_short(void *context)
{
    (*(unsigned *)context)++;
}

static void listeners_are_told(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    unsigned told = 0;
    struct sl_memory_listener listener = {.on_short = count_short, .context = &told};
    world_create(&world, 16 * SL_MIB);
    sl_memory_listen(world.memory, &listener);
    struct sl_buf *held[4];
    for (unsigned i = 0; i < 3; i++)
        held[i] = sl_buf_alloc(world.memory, 2 * SL_MIB, SL_RESERVE_ADMISSION);
    assert_int_equal(told, 0);
    assert_true(sl_memory_is_short(world.memory, SL_RESERVE_ADMISSION));
    assert_false(sl_memory_is_short(world.memory, SL_RESERVE_INTAKE));
    assert_null(sl_buf_alloc(world.memory, LEAST, SL_RESERVE_ADMISSION));
    assert_int_equal(told, 1);
    ask(&world, &client, 'a', LEAST, SL_RESERVE_ADMISSION);
    assert_int_equal(told, 2);
    sl_buf_unref(held[0]);
    world_settle(&world);
    assert_true(client.answered);
    assert_false(sl_memory_is_short(world.memory, SL_RESERVE_ADMISSION));
    sl_memory_unlisten(&listener);
    held[0] = sl_buf_alloc(world.memory, 2 * SL_MIB, SL_RESERVE_INTAKE);
    assert_null(sl_buf_alloc(world.memory, 2 * SL_MIB, SL_RESERVE_ADMISSION));
    assert_int_equal(told, 2);
    for (unsigned i = 0; i < 3; i++)
        sl_buf_unref(held[i]);
    sl_buf_unref(client.buf);
    world_destroy(&world);
}

/* Without descriptors the system gives no memory; nobody holds any whose return would wake us. */
static void the_system_refuses_for_a_while(void **state)
{
    (void)state;
    struct world world;
    struct client first, second;
    struct rlimit before, none;
    world_create(&world, 4 * SL_MIB);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    ask(&world, &first, 'f', PAGE, SL_RESERVE_ADMISSION);
    ask(&world, &second, 's', PAGE, SL_RESERVE_ADMISSION);
    world.clock.now_ns += SL_NS_PER_S;
    world_settle(&world);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(world.order_count, 0);
    assert_int_equal(statistics_of(world.memory).arena_bytes, 0);
    world.clock.now_ns += SL_NS_PER_S;
    world_settle(&world);
    assert_string_equal(world.order, "fs");
    sl_buf_unref(first.buf);
    sl_buf_unref(second.buf);
    world_destroy(&world);
}

static void destroyed_under_a_waiter(void **state)
{
    (void)state;
    struct world world;
    struct client client;
    struct rlimit before, none;
    world_create(&world, 4 * SL_MIB);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    ask(&world, &client, 'c', PAGE, SL_RESERVE_INTAKE);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_false(client.answered);
    sl_memory_destroy(world.memory);
    world.memory = NULL;
    world_settle(&world);
    assert_true(client.answered);
    assert_null(client.buf);
    world_destroy(&world);
}

/* Many more than fit, each holding its buffer for a while: all get theirs, none twice. */
struct crowd {
    struct world *world;
    unsigned done;
    uint64_t random;
};

static void crowd_co(void *argument)
{
    struct crowd *crowd = argument;
    for (unsigned i = 0; i < 30; i++) {
        uint32_t length = 1 + test_random(&crowd->random) % (1u << 20);
        struct sl_buf *buf = sl_buf_alloc_co(crowd->world->memory, length,
                                             test_random(&crowd->random) % SL_RESERVE_COUNT);
        uint8_t mark = (uint8_t)test_random(&crowd->random);
        memset(buf->data, mark, length);
        for (unsigned k = test_random(&crowd->random) % 4; k > 0; k--)
            sl_yield_co();
        for (unsigned k = 0; k < length; k += 1000)
            assert_int_equal(buf->data[k], mark);
        if (test_random(&crowd->random) % 2 == 0)
            sl_buf_trim(buf, 1 + length / 3);
        sl_yield_co();
        sl_buf_unref(buf);
    }
    crowd->done++;
}

static void everyone_gets_theirs(void **state)
{
    (void)state;
    struct world world;
    struct crowd crowd = {.world = &world, .random = 11};
    world_create(&world, 6 * SL_MIB);
    for (unsigned i = 0; i < WIDEST; i++)
        assert_int_equal(sl_co_spawn(world.reactor, crowd_co, &crowd), 0);
    world_settle(&world);
    assert_int_equal(crowd.done, WIDEST);
    assert_int_equal(statistics_of(world.memory).used_bytes, 0);
    assert_int_equal(statistics_of(world.memory).waiter_count, 0);
    world_destroy(&world);
}

/* ---- the rest ---- */

static void copies_are_counted(void **state)
{
    (void)state;
    struct world world;
    char to[64] = {0};
    struct sl_copy_counters sum = {0};
    world_create(&world, 4 * SL_MIB);
    struct sl_copy_counters *copies = sl_memory_copies(world.memory);
    sl_copy(copies, SL_COPY_STREAM, to, "payload", 8);
    sl_copy(copies, SL_COPY_STREAM, to + 8, "more", 5);
    sl_copy(copies, SL_COPY_CLIENT, to + 20, "x", 2);
    assert_string_equal(to, "payload");
    assert_string_equal(to + 8, "more");
    struct sl_memory_statistics statistics = statistics_of(world.memory);
    assert_int_equal(statistics.copies.bytes[SL_COPY_STREAM], 13);
    assert_int_equal(statistics.copies.count[SL_COPY_STREAM], 2);
    assert_int_equal(statistics.copies.count[SL_COPY_LAND], 0);
    sl_copy_counters_add(&sum, copies);
    sl_copy_counters_add(&sum, copies);
    assert_int_equal(sum.bytes[SL_COPY_CLIENT], 4);
    assert_int_equal(sum.count[SL_COPY_CLIENT], 2);
    for (unsigned i = 0; i < SL_COPY_REASON_COUNT; i++) {
        assert_non_null(sl_copy_reason_name(i));
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(sl_copy_reason_name(i), sl_copy_reason_name(k));
    }
    world_destroy(&world);
}

static void lose_a_buffer(void *argument)
{
    (void)sl_buf_alloc(argument, PAGE, SL_RESERVE_ADMISSION);
    sl_memory_destroy(argument);
}

static void free_while_lent(void *argument)
{
    struct sl_buf *buf = sl_buf_alloc(argument, PAGE, SL_RESERVE_ADMISSION);
    sl_buf_lend(buf);
    sl_buf_unref(buf);
}

static void trim_while_shared(void *argument)
{
    struct sl_buf *buf = sl_buf_alloc(argument, 2 * PAGE, SL_RESERVE_ADMISSION);
    sl_buf_trim(sl_buf_ref(buf), PAGE);
}

static void broken_invariants_abort(void **state)
{
    (void)state;
    struct world world;
    world_create(&world, 4 * SL_MIB);
    assert_true(test_aborts(lose_a_buffer, world.memory));
    assert_true(test_aborts(free_while_lent, world.memory));
    assert_true(test_aborts(trim_while_shared, world.memory));
    world_destroy(&world);
}

/* ---- a device that cannot take more ---- */

struct full_device {
    struct sl_region_client client;
    unsigned room; /* regions that it still takes */
    unsigned attached_count, detached_count;
};

static int full_attach(struct sl_region_client *client, struct sl_region *region)
{
    struct full_device *device = sl_container_of(client, struct full_device, client);
    if (device->room == 0)
        return -ENOMEM;
    device->room--;
    device->attached_count++;
    region->client_data[client->index] = device;
    return 0;
}

static void full_detach(struct sl_region_client *client, struct sl_region *region)
{
    struct full_device *device = sl_container_of(client, struct full_device, client);
    device->detached_count += region->client_data[client->index] != NULL;
}

/* Memory that a device could not take is not handed out: growth fails, what is there still serves,
 * and room that comes is used. */
static void test_device_is_full(void **state)
{
    struct sl_memory_config config = {
        .limit_bytes = 16 * SL_MIB, .arena_bytes = 4 * SL_MIB, .numa_node = -1};
    struct full_device device = {.client = {.attach = full_attach, .detach = full_detach}};
    struct sl_memory_statistics statistics;
    struct sl_memory *memory;
    assert_int_equal(sl_memory_create(&config, &memory), 0);
    device.room = 1;
    assert_int_equal(sl_region_set_add_client(sl_memory_regions(memory), &device.client), 0);
    struct sl_buf *bufs[3] = {NULL};
    for (unsigned i = 0; i < 2; i++)
        bufs[i] = sl_buf_alloc(memory, 2 * SL_MIB, SL_RESERVE_CHECKPOINT);
    assert_non_null(bufs[0]);
    assert_non_null(bufs[1]);
    assert_null(sl_buf_alloc(memory, 2 * SL_MIB, SL_RESERVE_CHECKPOINT));
    sl_memory_statistics(memory, &statistics);
    assert_int_equal(statistics.arena_bytes, 4 * SL_MIB);
    device.room = 1;
    bufs[2] = sl_buf_alloc(memory, 2 * SL_MIB, SL_RESERVE_CHECKPOINT);
    assert_non_null(bufs[2]);
    assert_int_equal(device.attached_count, 2);
    for (unsigned i = 0; i < 3; i++)
        sl_buf_unref(bufs[i]);
    sl_region_set_remove_client(sl_memory_regions(memory), &device.client);
    assert_int_equal(device.detached_count, 2);
    sl_memory_destroy(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device_is_full),
        cmocka_unit_test(bad_limits),
        cmocka_unit_test(arenas_grow_to_the_limit),
        cmocka_unit_test(rounding_and_trimming),
        cmocka_unit_test(poison),
        cmocka_unit_test(statistics_against_model),
        cmocka_unit_test(reserves_keep_their_share),
        cmocka_unit_test(in_order_within_a_reserve),
        cmocka_unit_test(higher_reserves_reach_further),
        cmocka_unit_test(higher_reserves_are_served_first),
        cmocka_unit_test(a_lower_reserve_gets_on),
        cmocka_unit_test(large_ones_find_room),
        cmocka_unit_test(idle_arenas_change_over),
        cmocka_unit_test(reserves_are_of_each_kind),
        cmocka_unit_test(listeners_are_told),
        cmocka_unit_test(the_system_refuses_for_a_while),
        cmocka_unit_test(destroyed_under_a_waiter),
        cmocka_unit_test(everyone_gets_theirs),
        cmocka_unit_test(copies_are_counted),
        cmocka_unit_test(broken_invariants_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
