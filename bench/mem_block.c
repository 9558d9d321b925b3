/*
 * What a 4 KiB block of the `mem` backend costs beside the path itself: its CRC32C and its copy,
 * as the target does them: blocks at random places of a region that no cache holds, the CRC over
 * the copy that was just made, 32 places to copy to. Prints microseconds a block.
 *
 *   mem_block [SECONDS]
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "core/base.h"
#include "core/crc32c.h"
#include "mem/copy.h"

#define REGION_BYTES (256 * SL_MIB)
#define PLACES       32u

static uint8_t *region;
static uint8_t *places;
static uint64_t random_state = 88172645463325252u;
static struct sl_copy_counters counters;
static volatile uint32_t sink;

static double cpu_s(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static uint8_t *random_block(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return region + random_state % (REGION_BYTES / SL_BLOCK_BYTES) * SL_BLOCK_BYTES;
}

/* One turn: a batch of copies, of CRCs over them, or both, as the requests of a burst. */
static void turn(bool copy, bool crc)
{
    for (unsigned i = 0; i < PLACES; i++) {
        uint8_t *place = places + (size_t)i * SL_BLOCK_BYTES;
        const uint8_t *from = random_block();
        if (copy)
            sl_copy(&counters, SL_COPY_MEM_BACKEND, place, from, SL_BLOCK_BYTES);
        if (crc)
            sink = sl_crc32c(0, place, SL_BLOCK_BYTES);
    }
}

static double measure_us(bool copy, bool crc, double seconds)
{
    double from_s = cpu_s();
    double spent_s;
    uint64_t count = 0;
    do {
        for (unsigned i = 0; i < 64; i++)
            turn(copy, crc);
        count += 64 * PLACES;
        spent_s = cpu_s() - from_s;
    } while (spent_s < seconds);
    return spent_s * 1e6 / (double)count;
}

static uint8_t *map(size_t length)
{
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return memory;
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    if (!(seconds > 0)) {
        fprintf(stderr, "usage: mem_block [SECONDS]\n");
        return 2;
    }
    region = map(REGION_BYTES);
    places = map((size_t)PLACES * SL_BLOCK_BYTES);
    double none_us = measure_us(false, false, seconds / 3);
    double copy_us = measure_us(true, false, seconds / 3);
    double both_us = measure_us(true, true, seconds / 3);
    printf("copy %.4f crc %.4f\n", copy_us - none_us, both_us - copy_us);
    return 0;
}
