/*
 * Goal: what an operation costs through our fabric, beside a bare loop over libfabric that does the
 * same operations on the same device.
 * Method: both ends live in one thread that polls, so nothing sleeps, nothing is scheduled, and all
 * that the clock counts is the operations. In a guest whose clock is the count of instructions
 * (QEMU -icount shift=0; bench/guest_verbs.py) one nanosecond is one instruction, whatever else the
 * machine does. Soft-RoCE does a card's work in the kernel, in the system call that rings the
 * doorbell: write(2) of libibverbs, which is caught here, so that the rest can be told apart.
 *
 *   send   a SEND of a capsule of 256 bytes and the payload; the answer is a SEND of 32 bytes
 *   read   a READ of the payload
 *   write  a WRITE of the payload
 *
 *   verbs DEVICE ADDRESS bare|fabric send|read|write DEPTH BYTES COUNT
 *
 * Prints nanoseconds an operation: in all, and outside of the doorbell's system call.
 */
#include "verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DEPTH_MAX   64
#define PAYLOAD_MAX (16u << 10)

static uint64_t doorbell_ticks, doorbell_count;
static uint64_t began_ns, began_ticks, took_ns, took_ticks, took_doorbell_ticks, took_doorbells;

static uint64_t ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

/* Libraries that are loaded later find this one first. */
ssize_t write(int handle, const void *data, size_t length)
{
    uint64_t from = ticks();
    ssize_t result = syscall(SYS_write, handle, data, length);
    doorbell_ticks += ticks() - from;
    doorbell_count++;
    return result;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void verbs_begin(void)
{
    doorbell_ticks = doorbell_count = 0;
    began_ticks = ticks();
    began_ns = now_ns();
}

void verbs_end(void)
{
    took_ns = now_ns() - began_ns;
    took_ticks = ticks() - began_ticks;
    took_doorbell_ticks = doorbell_ticks;
    took_doorbells = doorbell_count;
}

void verbs_check(int64_t error, const char *what)
{
    if (error == 0)
        return;
    fprintf(stderr, "verbs: %s: error %lld\n", what, (long long)error);
    exit(1);
}

static unsigned long number(const char *text, unsigned long most)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*end != '\0' || value == 0 || value > most) {
        fprintf(stderr, "verbs: '%s' is not a number from 1 to %lu\n", text, most);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    static const char *const kinds[] = {"send", "read", "write"};
    struct verbs_job job = {0};
    unsigned kind = 0;
    while (argc == 8 && kind < 3 && strcmp(argv[4], kinds[kind]) != 0)
        kind++;
    if (argc != 8 || kind == 3) {
        fprintf(stderr, "verbs DEVICE ADDRESS bare|fabric send|read|write DEPTH BYTES COUNT\n");
        return 2;
    }
    job.device = argv[1];
    job.address = argv[2];
    job.kind = (enum verbs_kind)kind;
    job.depth = (unsigned)number(argv[5], DEPTH_MAX);
    job.payload_bytes = (uint32_t)number(argv[6], PAYLOAD_MAX);
    job.count = number(argv[7], 1000000000);
    if (strcmp(argv[3], "bare") == 0)
        verbs_bare(&job);
    else
        verbs_fabric(&job);
    double outside = 1 - (double)took_doorbell_ticks / (double)took_ticks;
    double per_op = (double)took_ns / (double)job.count;
    printf("%s %s depth %u, %u bytes: %.0f ns an operation, %.0f of them outside of %.2f system "
           "calls\n",
           argv[3], argv[4], job.depth, job.payload_bytes, per_op, per_op * outside,
           (double)took_doorbells / (double)job.count);
    return 0;
}
