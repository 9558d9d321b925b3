/*
 * LD_PRELOAD: memcpy and memmove that count what is longer than 1 KiB, to check the programs' own
 * copy counters from outside. The counts lie in $SLUICE_COPIES_DIR/PID, two little-endian words:
 * {calls, bytes}, shared, so that they can be read while the program runs.
 *
 * Copies by a plain loop: slow, but it needs nothing of the library that it stands in for, and
 * counts alone are asked of it. Any thread.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LONG_BYTES 1024

struct counts {
    _Atomic uint64_t calls;
    _Atomic uint64_t bytes;
};

static struct counts unshared; /* until the file is there */
static struct counts *_Atomic counts = &unshared;

__attribute__((constructor)) static void share_counts(void)
{
    const char *directory = getenv("SLUICE_COPIES_DIR");
    char path[1024];
    if (directory == NULL)
        return;
    snprintf(path, sizeof(path), "%s/%d", directory, (int)getpid());
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof(struct counts)) != 0) {
        perror(path);
        abort();
    }
    void *shared = mmap(NULL, sizeof(struct counts), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (shared == MAP_FAILED) {
        perror(path);
        abort();
    }
    counts = shared;
}

static void count(size_t length)
{
    if (length <= LONG_BYTES)
        return;
    struct counts *now = counts;
    atomic_fetch_add_explicit(&now->calls, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&now->bytes, length, memory_order_relaxed);
}

__attribute__((visibility("default"))) void *memmove(void *to, const void *from, size_t length)
{
    uint8_t *out = to;
    const uint8_t *in = from;
    count(length);
    if (out <= in) {
        for (size_t i = 0; i < length; i++)
            out[i] = in[i];
    } else {
        for (size_t i = length; i > 0; i--)
            out[i - 1] = in[i - 1];
    }
    return to;
}

__attribute__((visibility("default"))) void *memcpy(void *to, const void *from, size_t length)
{
    return memmove(to, from, length);
}
