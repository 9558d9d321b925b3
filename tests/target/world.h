/* What the tests of the target share: a reactor over io_uring with memory, a storage file, a
 * target. */
#ifndef TESTS_TARGET_WORLD_H
#define TESTS_TARGET_WORLD_H

#include "../io/harness.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "core/error.h"
#include "target/private.h"

struct target_world {
    struct world world;
    struct sl_memory *memory;
    struct sl_storage *storage;
    struct sl_target *target;
};

static inline void target_world_memory(struct target_world *world)
{
    struct sl_memory_config config = {.limit_bytes = 32 * SL_MIB, .numa_node = -1};
    assert_int_equal(sl_memory_create(&config, &world->memory), 0);
    assert_int_equal(sl_io_register_memory(world->world.io, world->memory), 0);
}

static inline void target_world_open(struct target_world *world, const char *spec)
{
    char error[512];
    struct sl_storage_config config = {.spec = spec, .reactor_count = 1, .checksums = true};
    world_create(&world->world, 256);
    target_world_memory(world);
    assert_int_equal(sl_storage_open(&config, &world->storage, error, sizeof(error)), 0);
    assert_int_equal(
        sl_target_create(world->storage, 0, world->world.io, world->memory, &world->target), 0);
}

/* `clean` false: as if the process had died: nothing is saved. */
static inline void target_world_close(struct target_world *world, bool clean)
{
    world->storage->sidecar = world->storage->sidecar && clean;
    sl_target_destroy(world->target);
    sl_storage_close(world->storage);
    sl_reactor_destroy(world->world.reactor);
    sl_io_destroy(world->world.io);
    sl_memory_destroy(world->memory);
}

static inline void file_create(const char *path, uint64_t length_bytes)
{
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    assert_int_equal(posix_fallocate(file, 0, (off_t)length_bytes), 0);
    assert_int_equal(fsync(file), 0);
    close(file);
}

/* Changes one byte from outside and hides it: the modification time stays. */
static inline void file_flip(const char *path, uint64_t offset_bytes)
{
    struct stat status;
    uint8_t byte;
    int file = open(path, O_RDWR | O_CLOEXEC);
    assert_true(file >= 0);
    assert_int_equal(fstat(file, &status), 0);
    assert_int_equal(pread(file, &byte, 1, (off_t)offset_bytes), 1);
    byte ^= 0x40;
    assert_int_equal(pwrite(file, &byte, 1, (off_t)offset_bytes), 1);
    assert_int_equal(fsync(file), 0);
    struct timespec times[2] = {status.st_atim, status.st_mtim};
    assert_int_equal(futimens(file, times), 0);
    close(file);
}

#endif
