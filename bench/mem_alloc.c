/*
 * What a buffer costs: nanoseconds for an allocation with all that belongs to it, on memory as it
 * is under load (half full, in pieces). Goals: 4 KiB taken and given back < 100 ns; 16 KiB taken,
 * trimmed to 4 KiB (a small payload in a large receive) and given back < 150 ns.
 *
 *     mem_alloc [ROUNDS]
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "mem/memory.h"

#define ROUNDS_DEFAULT 5000000u
#define WINDOW         512 /* buffers in flight, as many as two full connections have */
#define LOAD           8000

struct measure {
    const char *name;
    uint32_t length_bytes;
    uint32_t trim_bytes; /* 0 = not */
    unsigned window;     /* buffers held before the oldest goes back */
};

static const struct measure measures[] = {
    {"4 KiB, freed at once", 4096, 0, 1},
    {"4 KiB, 512 in flight", 4096, 0, WINDOW},
    {"16 KiB, trimmed to 4 KiB, freed at once", 16384, 4096, 1},
    {"16 KiB, trimmed to 4 KiB, 512 in flight", 16384, 4096, WINDOW},
    {"128 KiB, freed at once", 131072, 0, 1},
    {"20 KiB (not a power of two), 512 in flight", 20480, 0, WINDOW},
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SL_NS_PER_S + (uint64_t)now.tv_nsec;
}

static double measure_ns(struct sl_memory *memory, const struct measure *measure, unsigned rounds)
{
    static struct sl_buf *held[WINDOW];
    uint64_t began_ns = now_ns();
    for (unsigned i = 0; i < rounds; i++) {
        struct sl_buf **slot = &held[i % measure->window];
        sl_buf_unref(*slot);
        *slot = sl_buf_alloc(memory, measure->length_bytes, SL_RESERVE_ADMISSION);
        SL_ASSERT(*slot != NULL);
        if (measure->trim_bytes > 0)
            sl_buf_trim(*slot, measure->trim_bytes);
    }
    for (unsigned i = 0; i < measure->window; i++) {
        sl_buf_unref(held[i]);
        held[i] = NULL;
    }
    return (double)(now_ns() - began_ns) / rounds;
}

/* Pieces of all sizes, of which every other one is given back. */
static void load(struct sl_memory *memory, struct sl_buf **bufs)
{
    for (unsigned i = 0; i < LOAD; i++)
        bufs[i] = sl_buf_alloc(memory, 4096u * (1 + i * 7 % 13), SL_RESERVE_ADMISSION);
    for (unsigned i = 0; i < LOAD; i += 2) {
        sl_buf_unref(bufs[i]);
        bufs[i] = NULL;
    }
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : ROUNDS_DEFAULT;
    struct sl_memory_config config = {.limit_bytes = 512 * SL_MIB, .numa_node = -1};
    static struct sl_buf *bufs[LOAD];
    struct sl_memory *memory;
    if (rounds == 0 || sl_memory_create(&config, &memory) != 0) {
        fprintf(stderr, "usage: mem_alloc [ROUNDS], at least 1; needs 512 MiB\n");
        return 1;
    }
    for (unsigned loaded = 0; loaded < 2; loaded++) {
        if (loaded)
            load(memory, bufs);
        for (unsigned i = 0; i < SL_COUNT_OF(measures); i++)
            printf("%-6s  %-44s %7.1f ns\n", loaded ? "loaded" : "empty", measures[i].name,
                   measure_ns(memory, &measures[i], rounds));
    }
    for (unsigned i = 0; i < LOAD; i++)
        sl_buf_unref(bufs[i]);
    sl_memory_destroy(memory);
    return 0;
}
