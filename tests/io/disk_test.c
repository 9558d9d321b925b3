/*
 * Goal: what a disk answers is what lies in the file, for every opcode, with and without fixed
 * buffers; and every failure has its errno. Method: a file beside the test, written through the
 * disk and read by pread(2), and the other way round; a tiny submission queue under many concurrent
 * operations; a second process that holds the lock and is killed.
 */
#include "harness.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "io/uring/internal.h"
#include "mem/memory.h"

#define FILE_BYTES (8 * SL_MIB)

static char directory[] = "./sl-io-disk-XXXXXX";
static char file_path[64];

static void file_make(uint64_t length_bytes)
{
    int handle = open(file_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(handle >= 0);
    assert_int_equal(posix_fallocate(handle, 0, (off_t)length_bytes), 0);
    close(handle);
}

static void file_read(uint64_t offset_bytes, uint8_t *data, size_t length_bytes)
{
    int handle = open(file_path, O_RDONLY | O_CLOEXEC);
    assert_true(handle >= 0);
    assert_int_equal(pread(handle, data, length_bytes, (off_t)offset_bytes), length_bytes);
    close(handle);
}

static void file_write(uint64_t offset_bytes, const uint8_t *data, size_t length_bytes)
{
    int handle = open(file_path, O_WRONLY | O_CLOEXEC);
    assert_true(handle >= 0);
    assert_int_equal(pwrite(handle, data, length_bytes, (off_t)offset_bytes), length_bytes);
    assert_int_equal(fsync(handle), 0);
    close(handle);
}

static struct sl_disk *disk_make(struct sl_io *io, struct sl_disk_info *info)
{
    struct sl_disk *disk = NULL;
    struct sl_disk_options options = {.exclusive = true};
    assert_int_equal(sl_disk_open(io, file_path, &options, info, &disk), 0);
    return disk;
}

static bool all_zero(const uint8_t *data, size_t length)
{
    return length == 0 || (data[0] == 0 && memcmp(data, data + 1, length - 1) == 0);
}

/* ---- reads and writes ---- */

struct rw_case {
    struct sl_memory *memory; /* NULL: memory that no region knows */
};

static void rw_main_co(struct world *world)
{
    const struct rw_case *rw = world->argument;
    struct sl_disk_info info;
    struct sl_disk *disk = disk_make(world->io, &info);
    assert_int_equal(info.capacity_bytes, FILE_BYTES);
    assert_true(info.volatile_cache);
    assert_false(info.block_device);

    const uint32_t length = 256 * SL_KIB;
    struct sl_buf *buf = NULL;
    uint8_t *plain = NULL;
    struct sl_span span;
    if (rw->memory != NULL) {
        buf = sl_buf_alloc(rw->memory, length, SL_RESERVE_ADMISSION);
        assert_non_null(buf);
        span = sl_buf_span(buf, 0, length);
        assert_true(uring_buffer_slot(uring_of(world->io), span.region, span.data, length) >= 0);
    } else {
        plain = aligned_alloc(4096, length);
        span = (struct sl_span){plain, length, NULL};
    }
    uint8_t *check = malloc(length);
    assert_non_null(check);

    pattern_fill(span.data, length, 0, 1);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_WRITE, &span, 1, 65536, length, 0), 0);
    file_read(65536, check, length);
    assert_true(pattern_check(check, length, 0, 1));

    /* Pieces out of order in memory: pages 3, 1-2, 0. */
    struct sl_span pieces[3] = {
        {span.data + 3 * 4096, 4096, span.region},
        {span.data + 4096, 8192, span.region},
        {span.data, 4096, span.region},
    };
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_WRITE, pieces, 3, 4096, 16384, SL_DISK_DURABLE),
                     0);
    file_read(4096, check, 16384);
    assert_true(pattern_check(check, 4096, 3 * 4096, 1));
    assert_true(pattern_check(check + 4096, 8192, 4096, 1));
    assert_true(pattern_check(check + 12288, 4096, 0, 1));

    pattern_fill(check, length, 77, 2);
    file_write(SL_MIB, check, length);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_READ, &span, 1, SL_MIB, length, 0), 0);
    assert_true(pattern_check(span.data, length, 77, 2));
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_READ, pieces, 3, SL_MIB, 16384, 0), 0);
    assert_true(pattern_check(span.data + 3 * 4096, 4096, 77, 2));
    assert_true(pattern_check(span.data, 4096, 77 + 12288, 2));
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_FLUSH, NULL, 0, 0, 0, 0), 0);

    sl_disk_close(disk);
    sl_buf_unref(buf);
    free(plain);
    free(check);
}

static void test_rw_plain(void **state)
{
    struct world world;
    file_make(FILE_BYTES);
    world_create(&world, 0);
    world_run(&world, rw_main_co, &(struct rw_case){NULL});
    world_destroy(&world);
}

static void test_rw_registered(void **state)
{
    struct world world;
    struct sl_memory *memory = NULL;
    struct sl_memory_config config = {
        .limit_bytes = 8 * SL_MIB, .arena_bytes = 4 * SL_MIB, .numa_node = -1};
    file_make(FILE_BYTES);
    world_create(&world, 0);
    assert_int_equal(sl_memory_create(&config, &memory), 0);
    assert_int_equal(sl_io_register_memory(world.io, memory), 0);
    assert_int_equal(sl_io_register_memory(world.io, memory), -EEXIST);
    world_run(&world, rw_main_co, &(struct rw_case){memory});
    world_destroy(&world);
    sl_memory_destroy(memory);
}

static void unlocked_main_co(struct world *world)
{
    struct sl_memory *memory = world->argument;
    struct sl_disk_info info;
    struct sl_disk *disk = disk_make(world->io, &info);
    struct sl_buf *buf = sl_buf_alloc(memory, 65536, SL_RESERVE_ADMISSION);
    struct sl_span span = sl_buf_span(buf, 0, 65536);
    assert_int_equal(uring_buffer_slot(uring_of(world->io), span.region, span.data, 65536), -1);
    pattern_fill(span.data, 65536, 0, 5);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_WRITE, &span, 1, 0, 65536, 0), 0);
    memset(span.data, 0, 65536);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_READ, &span, 1, 0, 65536, 0), 0);
    assert_true(pattern_check(span.data, 65536, 0, 5));
    sl_buf_unref(buf);
    sl_disk_close(disk);
}

/* With a memlock limit that is too low everything works, unregistered. In a child, for the limit
 * does not bind who has CAP_IPC_LOCK. */
static void test_memlock(void **state)
{
    file_make(FILE_BYTES);
    assert_int_equal(chmod(file_path, 0666), 0);
    assert_int_equal(chmod(directory, 0755), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("CMOCKA_TEST_ABORT", "1", 1); /* a failure ends the child, not only its test */
        alarm(30);
        struct world world;
        struct sl_memory *memory = NULL;
        struct sl_memory_config config = {
            .limit_bytes = 8 * SL_MIB, .arena_bytes = 4 * SL_MIB, .numa_node = -1};
        struct rlimit limit = {SL_MIB, SL_MIB}; /* the ring fits, an arena does not */
        if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 ||
            (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) ||
            access(file_path, R_OK | W_OK) != 0)
            _exit(TEST_SKIP);
        world_create(&world, 0);
        assert_int_equal(sl_memory_create(&config, &memory), 0);
        assert_int_equal(sl_io_register_memory(world.io, memory), 0);
        world_run(&world, unlocked_main_co, memory);
        world_destroy(&world);
        sl_memory_destroy(memory);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == TEST_SKIP) {
        fprintf(stderr, "skipped: the limit cannot be lowered for a child here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- zeroes and discard ---- */

static void zeroes_main_co(struct world *world)
{
    struct sl_disk_info info;
    struct sl_disk *disk = disk_make(world->io, &info);
    struct uring_disk *uring_disk = sl_container_of(disk, struct uring_disk, disk);
    const size_t length = 4 * SL_MIB;
    uint8_t *data = malloc(length);
    assert_non_null(data);
    /* Each way to write zeroes; 3 MiB + 4 KiB takes several rounds of the last. */
    const uint64_t offset = 12288;
    const uint64_t zeroes = 3 * SL_MIB + 4096;
    for (int way = URING_ZEROES_RANGE; way <= URING_ZEROES_WRITE; way++) {
        for (unsigned flags = 0; flags <= SL_DISK_DURABLE; flags++) {
            pattern_fill(data, length, 0, 3);
            file_write(0, data, length);
            uring_disk->zeroes = (enum uring_zeroes)way;
            struct sl_disk_op op;
            sl_disk_op_init(&op, disk, SL_DISK_WRITE_ZEROES, NULL, 0, offset, zeroes, flags);
            sl_disk_submit(&op);
            assert_int_equal(sl_wait_co(&op.wait), zeroes);
            assert_int_equal(op.piece_count, 0);
            file_read(0, data, length);
            assert_true(pattern_check(data, offset, 0, 3));
            assert_true(all_zero(data + offset, zeroes));
            assert_true(pattern_check(data + offset + zeroes, length - offset - zeroes,
                                      offset + zeroes, 3));
        }
    }
    /* A discard leaves its neighbours alone, also where it is a no-op. */
    pattern_fill(data, length, 0, 4);
    file_write(0, data, length);
    assert_true(info.can_discard);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_DISCARD, NULL, 0, 4096, 65536, 0), 0);
    disk->info.can_discard = false;
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_DISCARD, NULL, 0, 131072, 65536, 0), 0);
    file_read(0, data, length);
    assert_true(pattern_check(data, 4096, 0, 4));
    assert_true(pattern_check(data + 4096 + 65536, length - 4096 - 65536, 4096 + 65536, 4));
    sl_disk_close(disk);
    free(data);
}

static void test_zeroes(void **state)
{
    struct world world;
    file_make(FILE_BYTES);
    world_create(&world, 0);
    world_run(&world, zeroes_main_co, NULL);
    world_destroy(&world);
}

/* ---- many at once, through a queue of 8 ---- */

enum { MANY = 64, MANY_ROUNDS = 20 };

struct many {
    struct world *world;
    struct sl_disk *disk;
    unsigned index;
};

static void many_co(void *argument)
{
    struct many *many = argument;
    const size_t part = FILE_BYTES / MANY;
    uint64_t random = many->index;
    uint8_t *data = aligned_alloc(4096, 65536);
    assert_non_null(data);
    for (unsigned round = 0; round < MANY_ROUNDS; round++) {
        uint32_t length = 4096 * (1 + test_random(&random) % 16);
        uint64_t offset =
            many->index * part + 4096 * (test_random(&random) % ((part - length) / 4096 + 1));
        struct sl_span span = {data, length, NULL};
        pattern_fill(data, length, offset, round);
        assert_int_equal(sl_disk_rw_co(many->disk, SL_DISK_WRITE, &span, 1, offset, length, 0), 0);
        memset(data, 0, length);
        assert_int_equal(sl_disk_rw_co(many->disk, SL_DISK_READ, &span, 1, offset, length, 0), 0);
        assert_true(pattern_check(data, length, offset, round));
    }
    free(data);
    world_leave(many->world);
}

static void many_main_co(struct world *world)
{
    struct sl_disk_info info;
    struct many *many = calloc(MANY, sizeof(*many));
    struct sl_disk *disk = disk_make(world->io, &info);
    for (unsigned i = 0; i < MANY; i++) {
        many[i] = (struct many){world, disk, i};
        world_spawn(world, many_co, &many[i]);
    }
    world_join_co(world);
    /* And 256 operations of one coroutine, with nobody between to reap. */
    enum { BURST = 256 };
    struct sl_disk_op *ops = calloc(BURST, sizeof(*ops));
    uint8_t *data = aligned_alloc(4096, BURST * 4096);
    assert_true(ops != NULL && data != NULL);
    pattern_fill(data, BURST * 4096, 0, 9);
    for (unsigned i = 0; i < BURST; i++) {
        struct sl_span span = {data + i * 4096, 4096, NULL};
        sl_disk_op_init(&ops[i], disk, SL_DISK_WRITE, &span, 1, i * 4096, 4096, 0);
        sl_disk_submit(&ops[i]);
    }
    for (unsigned i = 0; i < BURST; i++)
        assert_int_equal(sl_wait_co(&ops[i].wait), 4096);
    memset(data, 0, BURST * 4096);
    file_read(0, data, BURST * 4096);
    assert_true(pattern_check(data, BURST * 4096, 0, 9));
    sl_disk_close(disk);
    free(ops);
    free(data);
    free(many);
}

static void test_many(void **state)
{
    struct world world;
    file_make(FILE_BYTES);
    world_create(&world, 8);
    world_run(&world, many_main_co, NULL);
    world_destroy(&world);
}

/* ---- failures ---- */

static int try_open(struct sl_io *io, const char *path, bool read_only)
{
    struct sl_disk_info info;
    struct sl_disk *disk = NULL;
    struct sl_disk_options options = {.read_only = read_only};
    int error = sl_disk_open(io, path, &options, &info, &disk);
    sl_disk_close(disk);
    return error;
}

static void failures_main_co(struct world *world)
{
    char path[96];
    snprintf(path, sizeof(path), "%s/none", directory);
    assert_int_equal(try_open(world->io, path, false), -ENOENT);
    assert_int_equal(try_open(world->io, directory, false), -EISDIR);
    assert_int_equal(try_open(world->io, directory, true), -EISDIR);
    assert_int_equal(try_open(world->io, "/dev/null", false), -EINVAL);
    snprintf(path, sizeof(path), "%s/fifo", directory);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(try_open(world->io, path, true), -EINVAL);
    unlink(path);
    if (geteuid() != 0) {
        assert_int_equal(chmod(file_path, 0400), 0);
        assert_int_equal(try_open(world->io, file_path, false), -EACCES);
        assert_int_equal(chmod(file_path, 0600), 0);
    }

    struct sl_disk_info info;
    struct sl_disk *disk = NULL;
    struct sl_disk_options options = {.read_only = true};
    uint8_t *data = aligned_alloc(4096, 16384);
    struct sl_span span = {data, 16384, NULL};
    memset(data, 0, 16384);
    assert_int_equal(sl_disk_open(world->io, file_path, &options, &info, &disk), 0);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_WRITE, &span, 1, 0, 16384, 0), -EROFS);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_DISCARD, NULL, 0, 0, 16384, 0), -EROFS);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_WRITE_ZEROES, NULL, 0, 0, 16384, 0), -EROFS);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_FLUSH, NULL, 0, 0, 0, 0), 0);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_READ, &span, 1, 0, 16384, 0), 0);

    /* A file cut short under us: the read gets a part, goes on, finds the end; the pieces are as
     * before. */
    assert_int_equal(truncate(file_path, 8192), 0);
    struct sl_span pieces[2] = {{data, 12288, NULL}, {data + 12288, 4096, NULL}};
    struct sl_disk_op op;
    sl_disk_op_init(&op, disk, SL_DISK_READ, pieces, 2, 0, 16384, 0);
    sl_disk_submit(&op);
    assert_int_equal(sl_wait_co(&op.wait), -EIO);
    assert_ptr_equal(op.pieces[0].iov_base, data);
    assert_int_equal(op.pieces[0].iov_len, 12288);
    assert_int_equal(op.pieces[1].iov_len, 4096);
    sl_disk_close(disk);
    free(data);
}

static void test_failures(void **state)
{
    struct world world;
    file_make(FILE_BYTES);
    world_create(&world, 0);
    world_run(&world, failures_main_co, NULL);
    world_destroy(&world);
}

/* ---- a block device ---- */

/* A loop device over the file, gone with its last descriptor. -1: not root, or no loop driver. */
static int loop_make(char *path, size_t path_bytes)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int index = control >= 0 ? ioctl(control, LOOP_CTL_GET_FREE) : -1;
    int backing = open(file_path, O_RDWR | O_CLOEXEC);
    int device = -1;
    if (index >= 0) {
        struct loop_config config = {.fd = (uint32_t)backing, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
        snprintf(path, path_bytes, "/dev/loop%d", index);
        device = open(path, O_RDWR | O_CLOEXEC);
        if (device >= 0 && ioctl(device, LOOP_CONFIGURE, &config) != 0) {
            close(device);
            device = -1;
        }
    }
    if (control >= 0)
        close(control);
    close(backing);
    return device;
}

static void device_main_co(struct world *world)
{
    struct sl_disk_info info;
    struct sl_disk *disk = NULL;
    struct sl_disk_options options = {.exclusive = true};
    assert_int_equal(sl_disk_open(world->io, world->argument, &options, &info, &disk), 0);
    assert_true(info.block_device);
    assert_int_equal(info.capacity_bytes, FILE_BYTES);
    assert_true(info.volatile_cache); /* a loop device has a write-back cache */
    uint8_t *data = aligned_alloc(4096, 65536);
    assert_non_null(data);
    struct sl_span span = {data, 65536, NULL};
    pattern_fill(data, 65536, 0, 8);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_WRITE, &span, 1, SL_MIB, 65536, SL_DISK_DURABLE),
                     0);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_WRITE_ZEROES, NULL, 0, SL_MIB + 4096, 4096, 0), 0);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_DISCARD, NULL, 0, SL_MIB + 16384, 4096, 0), 0);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_FLUSH, NULL, 0, 0, 0, 0), 0);
    memset(data, 0xEE, 65536);
    assert_int_equal(sl_disk_rw_co(disk, SL_DISK_READ, &span, 1, SL_MIB, 65536, 0), 0);
    assert_true(pattern_check(data, 4096, 0, 8));
    assert_true(all_zero(data + 4096, 4096));
    assert_true(pattern_check(data + 8192, 8192, 8192, 8));
    assert_true(pattern_check(data + 20480, 65536 - 20480, 20480, 8));
    free(data);
    sl_disk_close(disk);
}

static void test_block_device(void **state)
{
    struct world world;
    char path[32];
    file_make(FILE_BYTES);
    int device = loop_make(path, sizeof(path));
    if (device < 0) {
        fprintf(stderr, "skipped: no loop device for us\n");
        skip();
    }
    world_create(&world, 0);
    world_run(&world, device_main_co, path);
    world_destroy(&world);
    close(device);
}

/* ---- the lock ---- */

/* Never returns: holds the lock with writes in flight until it is killed. */
_Noreturn static void holder(int ready)
{
    struct world world;
    struct sl_disk_info info;
    world_create(&world, 0);
    (void)disk_make(world.io, &info);
    if (write(ready, "r", 1) != 1)
        _exit(1);
    for (;;)
        pause();
}

static void test_lock(void **state)
{
    int ends[2];
    char byte;
    struct world world;
    struct sl_disk_info info;
    struct sl_disk *disk = NULL;
    struct sl_disk_options options = {.exclusive = true};
    file_make(FILE_BYTES);
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("CMOCKA_TEST_ABORT", "1", 1);
        holder(ends[1]);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    world_create(&world, 0);
    assert_int_equal(sl_disk_open(world.io, file_path, &options, &info, &disk), -EWOULDBLOCK);
    options.lock_wait_ns = 50 * SL_NS_PER_MS;
    assert_int_equal(sl_disk_open(world.io, file_path, &options, &info, &disk), -EWOULDBLOCK);
    kill(child, SIGKILL);
    options.lock_wait_ns = 10 * SL_NS_PER_S;
    assert_int_equal(sl_disk_open(world.io, file_path, &options, &info, &disk), 0);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    /* Closing gives it back at once, though the ring may still know the file. */
    sl_disk_close(disk);
    options.lock_wait_ns = 0;
    assert_int_equal(sl_disk_open(world.io, file_path, &options, &info, &disk), 0);
    sl_disk_close(disk);
    world_destroy(&world);
    close(ends[0]);
}

static bool direct_is_missing(void)
{
    file_make(4096);
    int handle = open(file_path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (handle >= 0)
        close(handle);
    else
        fprintf(stderr, "skipped: no O_DIRECT in %s\n", directory);
    return handle < 0;
}

int main(void)
{
    if (world_is_missing() || mkdtemp(directory) == NULL)
        return TEST_SKIP;
    snprintf(file_path, sizeof(file_path), "%s/disk", directory);
    int result = TEST_SKIP;
    if (!direct_is_missing()) {
        const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_rw_plain),     cmocka_unit_test(test_rw_registered),
            cmocka_unit_test(test_memlock),      cmocka_unit_test(test_zeroes),
            cmocka_unit_test(test_many),         cmocka_unit_test(test_failures),
            cmocka_unit_test(test_block_device), cmocka_unit_test(test_lock),
        };
        result = cmocka_run_group_tests(tests, NULL, NULL);
    }
    unlink(file_path);
    rmdir(directory);
    return result;
}
