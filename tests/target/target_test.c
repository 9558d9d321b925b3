/*
 * Goal: each block of a storage is a register (a read returns what was last written, or a value
 * being written at the time, never a mixture), a damaged block is never returned, and checksums
 * survive a clean end, not a crash. Method: concurrent coroutines over few blocks with unique
 * values, over memory and over a real file; bytes flipped in the file from outside; misaligned
 * client memory; restarts.
 */
#include "world.h"

#define FILE_BYTES (4 * SL_MIB)
#define BLOCKS     16
#define COROUTINES 24
#define ROUNDS     60

static char directory[] = "./sl-target-XXXXXX";
static char path[128], spec[160];

/* What may be read of a block: its last completed write and those under way. */
static uint64_t completed[BLOCKS], begun[BLOCKS], last_value;

struct user {
    struct target_world *world;
    uint64_t random;
    uint8_t *memory; /* 8 blocks; for odd users off the page boundary */
};

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static void fill(uint8_t *data, uint64_t value)
{
    for (unsigned i = 0; i < SL_BLOCK_BYTES; i += sizeof(value))
        memcpy(data + i, &value, sizeof(value));
}

/* The block's one value; a mixture fails. */
static uint64_t value_of(const uint8_t *data)
{
    uint64_t value;
    memcpy(&value, data, sizeof(value));
    for (unsigned i = 0; i < SL_BLOCK_BYTES; i += sizeof(value))
        assert_memory_equal(data + i, &value, sizeof(value));
    return value;
}

static void user_write_co(struct user *user, uint64_t first, uint32_t count)
{
    struct sl_span span = {user->memory, count * SL_BLOCK_BYTES, NULL};
    uint64_t values[8];
    for (uint32_t i = 0; i < count; i++) {
        values[i] = ++last_value;
        fill(user->memory + i * SL_BLOCK_BYTES, values[i]);
        begun[first + i] = values[i];
    }
    assert_int_equal(sl_target_execute_co(user->world->target, SL_IO_WRITE, first * SL_BLOCK_BYTES,
                                          &span, 1, count * SL_BLOCK_BYTES),
                     0);
    /* Writes of a block end in the order in which they were asked for. */
    for (uint32_t i = 0; i < count; i++) {
        assert_true(values[i] > completed[first + i]);
        completed[first + i] = values[i];
    }
}

static void user_read_co(struct user *user, uint64_t first, uint32_t count)
{
    struct sl_span span = {user->memory, count * SL_BLOCK_BYTES, NULL};
    uint64_t least[8];
    memcpy(least, &completed[first], count * sizeof(least[0]));
    memset(user->memory, 0xee, count * SL_BLOCK_BYTES);
    assert_int_equal(sl_target_execute_co(user->world->target, SL_IO_READ, first * SL_BLOCK_BYTES,
                                          &span, 1, count * SL_BLOCK_BYTES),
                     0);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t value = value_of(user->memory + i * SL_BLOCK_BYTES);
        assert_true(value >= least[i]);         /* nothing older than what was complete before */
        assert_true(value <= begun[first + i]); /* nothing that nobody wrote */
    }
}

static void user_co(void *argument)
{
    struct user *user = argument;
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t first = next_random(&user->random) % BLOCKS;
        uint32_t count = (uint32_t)sl_min(1 + next_random(&user->random) % 8, BLOCKS - first);
        if (next_random(&user->random) % 2 == 0)
            user_write_co(user, first, count);
        else
            user_read_co(user, first, count);
    }
    world_leave(&user->world->world);
}

static void registers_main_co(struct world *world)
{
    struct target_world *self = world->argument;
    static struct user users[COROUTINES];
    memset(completed, 0, sizeof(completed));
    memset(begun, 0, sizeof(begun));
    for (unsigned i = 0; i < COROUTINES; i++) {
        uint8_t *pages = aligned_alloc(SL_BLOCK_BYTES, 9 * SL_BLOCK_BYTES);
        users[i] = (struct user){self, i + 1, pages + (i % 2 == 0 ? 0 : 8)};
        world_spawn(world, user_co, &users[i]);
    }
    world_join_co(world);
    for (unsigned i = 0; i < COROUTINES; i++)
        free((void *)sl_align_down((uintptr_t)users[i].memory, SL_BLOCK_BYTES));
    assert_int_equal(self->target->statistics.checksum_error_count, 0);
}

static void run_registers(const char *storage)
{
    struct target_world world = {0};
    target_world_open(&world, storage);
    world_run(&world.world, registers_main_co, &world);
    const struct sl_copy_counters *copies = sl_memory_copies(world.memory);
    bool in_memory = strncmp(storage, "mem:", 4) == 0;
    /* Odd users' memory is no address for a disk: those, and only those, were copied. */
    assert_true(in_memory == (copies->bytes[SL_COPY_UNALIGNED] == 0));
    assert_int_equal(copies->bytes[SL_COPY_LAND], 0);
    target_world_close(&world, true);
}

static void test_registers_memory(void **state)
{
    run_registers("mem:1M");
}

static void test_registers_file(void **state)
{
    file_create(path, FILE_BYTES);
    run_registers(spec);
}

/* ---- damage ---- */

static uint8_t *page;

static int one_co(struct target_world *world, enum sl_io_opcode opcode, uint64_t offset,
                  uint32_t length)
{
    struct sl_span span = {page, length, NULL};
    return sl_target_execute_co(world->target, opcode, offset, &span, 1, length);
}

static void write_two_co(struct world *world)
{
    fill(page, 7);
    assert_int_equal(one_co(world->argument, SL_IO_WRITE, 0, SL_BLOCK_BYTES), 0);
    assert_int_equal(one_co(world->argument, SL_IO_WRITE, SL_BLOCK_BYTES, SL_BLOCK_BYTES), 0);
}

static void read_damaged_co(struct world *world)
{
    struct target_world *self = world->argument;
    assert_int_equal(one_co(self, SL_IO_READ, 0, SL_BLOCK_BYTES), -SL_E_CHECKSUM);
    assert_int_equal(self->target->statistics.checksum_error_count, 1);
    assert_int_equal(one_co(self, SL_IO_READ, SL_BLOCK_BYTES, SL_BLOCK_BYTES), 0);
    /* Written anew it is good again. */
    fill(page, 8);
    assert_int_equal(one_co(self, SL_IO_WRITE, 0, SL_BLOCK_BYTES), 0);
    assert_int_equal(one_co(self, SL_IO_READ, 0, SL_BLOCK_BYTES), 0);
    assert_int_equal(value_of(page), 8);
}

static void read_unknown_co(struct world *world)
{
    assert_int_equal(one_co(world->argument, SL_IO_READ, 0, SL_BLOCK_BYTES), 0);
}

static void run_once(struct target_world *world, void (*main_co)(struct world *world))
{
    target_world_open(world, spec);
    world_run(&world->world, main_co, world);
}

static void write_flip_read_co(struct world *world)
{
    write_two_co(world);
    file_flip(path, 100);
    read_damaged_co(world);
}

static void test_damage_while_serving(void **state)
{
    struct target_world world = {0};
    file_create(path, FILE_BYTES);
    run_once(&world, write_flip_read_co);
    target_world_close(&world, true);
}

static void test_damage_between_runs(void **state)
{
    struct target_world world = {0};
    file_create(path, FILE_BYTES);
    run_once(&world, write_two_co);
    target_world_close(&world, true);
    file_flip(path, 100);
    run_once(&world, read_damaged_co);
    target_world_close(&world, true);
}

/* After a crash checksums are unknown: better than wrong. */
static void test_crash_forgets(void **state)
{
    struct target_world world = {0};
    file_create(path, FILE_BYTES);
    run_once(&world, write_two_co);
    uint8_t id[16];
    memcpy(id, sl_storage_info(world.storage)->storage_id, sizeof(id));
    target_world_close(&world, false);
    file_flip(path, 100);
    run_once(&world, read_unknown_co);
    assert_memory_equal(id, sl_storage_info(world.storage)->storage_id, sizeof(id));
    target_world_close(&world, true);
}

static void test_sidecar_damaged(void **state)
{
    struct target_world world = {0};
    char sidecar[160];
    snprintf(sidecar, sizeof(sidecar), "%s.sluice-crc", path);
    for (unsigned offset = 0; offset < 4000; offset += 57) {
        file_create(path, FILE_BYTES);
        unlink(sidecar);
        run_once(&world, write_two_co);
        target_world_close(&world, true);
        file_flip(sidecar, offset);
        run_once(&world, read_unknown_co); /* no false alarm, no crash */
        assert_int_equal(world.target->statistics.checksum_error_count, 0);
        target_world_close(&world, true);
    }
}

/* ---- requests that are refused, and zeroes ---- */

static void refused_main_co(struct world *world)
{
    struct target_world *self = world->argument;
    assert_int_equal(one_co(self, SL_IO_READ, FILE_BYTES, SL_BLOCK_BYTES), -ERANGE);
    assert_int_equal(one_co(self, SL_IO_READ, FILE_BYTES - SL_BLOCK_BYTES, 2 * SL_BLOCK_BYTES),
                     -ERANGE);
    assert_int_equal(one_co(self, SL_IO_READ, UINT64_MAX - 4095, SL_BLOCK_BYTES), -ERANGE);
    assert_int_equal(one_co(self, SL_IO_READ, 512, SL_BLOCK_BYTES), -EINVAL);
    assert_int_equal(one_co(self, SL_IO_WRITE, 0, 512), -EINVAL);
    assert_int_equal(one_co(self, SL_IO_WRITE, 0, 0), -EINVAL);
    assert_int_equal(one_co(self, SL_IO_READ, 0, SL_TRANSFER_BYTES_MAX + SL_BLOCK_BYTES), -EINVAL);
    assert_int_equal(one_co(self, 99, 0, SL_BLOCK_BYTES), -EOPNOTSUPP);
    assert_int_equal(one_co(self, 0, 0, SL_BLOCK_BYTES), -EOPNOTSUPP);
    write_two_co(world);
    static const enum sl_io_opcode zeroing[] = {SL_IO_DISCARD, SL_IO_WRITE_ZEROES};
    for (unsigned i = 0; i < SL_COUNT_OF(zeroing); i++) {
        fill(page, 9);
        assert_int_equal(one_co(self, SL_IO_WRITE, 0, SL_BLOCK_BYTES), 0);
        assert_int_equal(one_co(self, zeroing[i], 0, SL_BLOCK_BYTES), 0);
        assert_int_equal(one_co(self, SL_IO_READ, 0, SL_BLOCK_BYTES), 0);
        assert_int_equal(value_of(page), 0);
        assert_int_equal(one_co(self, SL_IO_READ, SL_BLOCK_BYTES, SL_BLOCK_BYTES), 0);
        assert_int_equal(value_of(page), 7);
    }
    assert_int_equal(one_co(self, SL_IO_FLUSH, 0, 0), 0);
}

static void test_refused(void **state)
{
    struct target_world world = {0};
    file_create(path, FILE_BYTES);
    run_once(&world, refused_main_co);
    assert_int_equal(world.target->statistics.error_count, 9);
    target_world_close(&world, true);
    target_world_open(&world, "mem:4M");
    world_run(&world.world, refused_main_co, &world);
    target_world_close(&world, true);
}

static void expect_spec_error(const char *bad, uint64_t size_bytes, int expected, const char *word)
{
    char error[512];
    struct sl_storage *storage = NULL;
    struct sl_storage_config config = {.spec = bad, .size_bytes = size_bytes, .reactor_count = 1};
    assert_int_equal(sl_storage_open(&config, &storage, error, sizeof(error)), expected);
    if (strstr(error, word) == NULL)
        fail_msg("'%s' does not say '%s'", error, word);
}

static void test_bad_specs(void **state)
{
    char missing[160], small[160];
    snprintf(missing, sizeof(missing), "file:%s/none", directory);
    snprintf(small, sizeof(small), "%s/small", directory);
    expect_spec_error(missing, 0, -ENOENT, "fallocate");
    expect_spec_error("mem:", 0, -EINVAL, "mem:256M");
    expect_spec_error("mem:12x", 0, -EINVAL, "mem:12x");
    expect_spec_error("mem:100", 0, -EINVAL, "4 KiB");
    expect_spec_error("file:", 0, -EINVAL, "PATH");
    expect_spec_error(directory, 0, -EISDIR, "a directory");
    expect_spec_error("/dev/null", 0, -EINVAL, "neither a file nor a block device");
    file_create(small, 8192);
    expect_spec_error(small, SL_MIB, -ENOSPC, "8192");
}

/* A second process, or anyone else, is refused while a storage is served. */
static void test_lock(void **state)
{
    struct target_world world = {0}, second = {0};
    file_create(path, FILE_BYTES);
    target_world_open(&world, spec);
    struct sl_disk_info info;
    struct sl_disk *disk = NULL;
    struct sl_disk_options options = {.exclusive = true, .lock_wait_ns = 50 * SL_NS_PER_MS};
    world_create(&second.world, 8);
    assert_int_equal(sl_disk_open(second.world.io, path, &options, &info, &disk), -EWOULDBLOCK);
    target_world_close(&world, true);
    assert_int_equal(sl_disk_open(second.world.io, path, &options, &info, &disk), 0);
    sl_disk_close(disk);
    world_destroy(&second.world);
}

static int group_setup(void **state)
{
    if (mkdtemp(directory) == NULL)
        return -1;
    snprintf(path, sizeof(path), "%s/disk", directory);
    snprintf(spec, sizeof(spec), "file:%s", path);
    page = aligned_alloc(SL_BLOCK_BYTES, 2 * SL_TRANSFER_BYTES_MAX);
    return page == NULL ? -1 : 0;
}

static int group_teardown(void **state)
{
    char command[256];
    free(page);
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registers_memory),
        cmocka_unit_test(test_registers_file),
        cmocka_unit_test(test_damage_while_serving),
        cmocka_unit_test(test_damage_between_runs),
        cmocka_unit_test(test_crash_forgets),
        cmocka_unit_test(test_sidecar_damaged),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bad_specs),
        cmocka_unit_test(test_lock),
    };
    if (world_is_missing())
        return TEST_SKIP;
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
