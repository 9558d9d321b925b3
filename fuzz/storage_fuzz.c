/*
 * Goal: whatever lies in the checksum file beside a storage (docs/disk-format.md), a target starts,
 * believes it only where it is whole and about this file, and leaves a good one behind.
 * Method: a storage of a few blocks in a directory of its own; the input is the checksum file, cut
 * short or too long, with sizes, time and checksums put right where its first byte says so.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/crc32c.h"
#include "core/log.h"
#include "sim/sim.h"
#include "target/private.h"

#define BLOCKS      16u
#define HEADER      64u
#define TABLE_BYTES (BLOCKS * 5u)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct sl_sim *sim;
static struct sl_sim_node node;
static char directory[64], spec[128], sidecar[160];

static void must(bool condition)
{
    if (!condition)
        abort();
}

static void tidy_up(void)
{
    unlink(spec + 5);
    unlink(sidecar);
    rmdir(directory);
}

/* In memory where there is a place for it: each start syncs the file. */
static void set_up(void)
{
    struct sl_sim_config config = {.seed = 1};
    bool in_memory = access("/dev/shm", W_OK) == 0;
    sl_log_set_level(SL_LOG_ERROR);
    snprintf(directory, sizeof(directory), "%s/sl-storage-fuzz-XXXXXX",
             in_memory ? "/dev/shm" : ".");
    must(mkdtemp(directory) != NULL);
    snprintf(spec, sizeof(spec), "file:%s/disk", directory);
    snprintf(sidecar, sizeof(sidecar), "%s.sluice-crc", spec + 5);
    int file = open(spec + 5, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    must(file >= 0 && ftruncate(file, BLOCKS * SL_BLOCK_BYTES) == 0);
    close(file);
    atexit(tidy_up);
    must(sl_sim_create(&config, &sim) == 0);
    must(sl_sim_node_open(sim, "node", 0, 4 * SL_MIB, &node) == 0);
}

static void put(uint8_t *bytes, unsigned offset, const void *value, size_t length)
{
    memcpy(bytes + offset, value, length);
}

/* Makes it one that holds, as far as `how` says. */
static void put_right(uint8_t *bytes, size_t size, uint8_t how)
{
    static const uint64_t magic = UINT64_C(0x4352435343494c53), block_count = BLOCKS;
    static const uint32_t fields[2] = {1, 1}; /* version, clean */
    struct stat status;
    must(stat(spec + 5, &status) == 0);
    uint64_t file_bytes = (uint64_t)status.st_size;
    uint64_t modified_ns =
        (uint64_t)status.st_mtim.tv_sec * SL_NS_PER_S + (uint64_t)status.st_mtim.tv_nsec;
    if ((how & 1) != 0) {
        put(bytes, 0, &magic, 8);
        put(bytes, 8, fields, 8);
    }
    if ((how & 2) != 0) {
        put(bytes, 32, &block_count, 8);
        put(bytes, 40, &file_bytes, 8);
        put(bytes, 48, &modified_ns, 8);
    }
    if ((how & 4) != 0 && size >= HEADER + TABLE_BYTES) {
        uint32_t crc = sl_crc32c(0, bytes + HEADER, TABLE_BYTES);
        put(bytes, 56, &crc, 4);
    }
    if ((how & 8) != 0) {
        uint32_t crc = 0;
        put(bytes, 60, &crc, 4);
        crc = sl_crc32c(0, bytes, HEADER);
        put(bytes, 60, &crc, 4);
    }
}

/* True if the table was believed. */
static bool start(uint8_t *storage_id)
{
    struct sl_storage *storage;
    char error[1024];
    struct sl_storage_config config = {.spec = spec, .reactor_count = 1, .checksums = true};
    bool believed = false;
    must(sl_storage_open(&config, &storage, error, sizeof(error)) == 0);
    must(sl_storage_learn(storage, node.reactor, BLOCKS * SL_BLOCK_BYTES) == 0);
    must(storage->blocks.block_count == BLOCKS);
    for (unsigned i = 0; i < BLOCKS; i++) {
        must(storage->blocks.known[i] <= 1);
        believed = believed || storage->blocks.known[i] == 1;
    }
    memcpy(storage_id, storage->info.storage_id, 16);
    sl_storage_close(storage);
    return believed;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > 4096)
        return 0;
    if (sim == NULL)
        set_up();
    uint8_t how = data[0];
    size_t length = size - 1;
    uint8_t *bytes = malloc(sl_max(length, (size_t)1));
    must(bytes != NULL);
    memcpy(bytes, data + 1, length);
    if (length >= HEADER)
        put_right(bytes, length, how);
    int file = open(sidecar, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    must(file >= 0 && write(file, bytes, length) == (ssize_t)length);
    close(file);
    uint8_t first[16], second[16];
    bool believed = start(first);
    must(!believed || length >= HEADER + TABLE_BYTES);
    /* The first start left a file without a table: the identity stays, and nothing is believed. */
    must(!start(second) && memcmp(first, second, 16) == 0);
    free(bytes);
    return 0;
}
