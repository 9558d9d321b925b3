/*
 * Goal: the simulated disk has the faults that sim_disk.h names, and no others: flushed data stays,
 * unflushed data may be in every state that a real disk could leave, and a stop is repeatable.
 * Method: a few writes by hand, then all outcomes of a stop are listed and compared with what they
 * must be; faults with probability one; two runs of a seed settle a crash alike.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "sim/sim_disk.h"

#define DISK_BYTES (64 * SL_KIB)

struct run {
    struct sl_sim *sim;
    struct sl_sim_node node;
    struct sl_disk *disk;
    struct sl_buf *buf;
    void (*body_co)(struct run *run);
    bool done;
};

static int rw_co(struct run *run, enum sl_disk_opcode opcode, uint64_t block, uint8_t fill,
                 unsigned flags)
{
    struct sl_span span = sl_buf_span(run->buf, 0, SL_BLOCK_BYTES);
    if (opcode == SL_DISK_WRITE)
        memset(span.data, fill, SL_BLOCK_BYTES);
    bool data = opcode == SL_DISK_WRITE || opcode == SL_DISK_READ;
    return sl_disk_rw_co(run->disk, opcode, data ? &span : NULL, data ? 1 : 0,
                         block * SL_BLOCK_BYTES, opcode == SL_DISK_FLUSH ? 0 : SL_BLOCK_BYTES,
                         flags);
}

static void main_co(void *argument)
{
    struct run *run = argument;
    run->buf = sl_buf_alloc(run->node.memory, SL_BLOCK_BYTES, SL_RESERVE_ADMISSION);
    run->body_co(run);
    sl_buf_unref(run->buf);
    run->done = true;
}

static bool is_done(void *argument)
{
    return ((struct run *)argument)->done;
}

static void start(struct run *run, uint64_t seed)
{
    struct sl_sim_config config = {.seed = seed};
    *run = (struct run){0};
    assert_int_equal(sl_sim_create(&config, &run->sim), 0);
    assert_int_equal(sl_sim_disk_create(run->sim, "node", "disk", DISK_BYTES), 0);
}

static void open_and_run(struct run *run, void (*body_co)(struct run *run))
{
    struct sl_disk_options options = {.exclusive = true};
    struct sl_disk_info info;
    run->body_co = body_co;
    run->done = false;
    assert_int_equal(sl_sim_node_open(run->sim, "node", 0, 8 * SL_MIB, &run->node), 0);
    assert_int_equal(sl_disk_open(run->node.io, "disk", &options, &info, &run->disk), 0);
    assert_int_equal(sl_co_spawn(run->node.reactor, main_co, run), 0);
    assert_true(sl_sim_run_until(run->sim, UINT64_MAX, is_done, run));
    sl_disk_close(run->disk);
    sl_sim_node_close(&run->node);
}

static uint8_t on_disk(struct run *run, uint64_t block)
{
    return sl_sim_disk_data(run->sim, "node", "disk")[block * SL_BLOCK_BYTES];
}

static void four_writes_co(struct run *run)
{
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 0, 1, 0), 0);
    assert_int_equal(rw_co(run, SL_DISK_FLUSH, 0, 0, 0), 0);
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 0, 2, 0), 0);
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 1, 3, 0), 0);
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 2, 4, SL_DISK_DURABLE), 0);
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 0, 5, 0), 0);
    /* Its submission is event 13: the power goes. */
    assert_int_equal(rw_co(run, SL_DISK_READ, 0, 0, 0), -EIO);
}

/* Of writes 2, 3, 5 each subset, in order; 1 and 4 are durable. */
static void test_outcomes(void **state)
{
    static uint8_t content[DISK_BYTES];
    struct run run;
    start(&run, 1);
    assert_int_equal(sl_sim_disk_stop_at(run.sim, "node", "disk", 13), 0);
    open_and_run(&run, four_writes_co);
    assert_true(sl_sim_disk_is_off(run.sim, "node", "disk"));
    assert_int_equal(sl_sim_disk_unsynced(run.sim, "node", "disk"), 3);
    for (unsigned mask = 0; mask < 8; mask++) {
        sl_sim_disk_outcome(run.sim, "node", "disk", mask, UINT_MAX, 0, 0, content);
        assert_int_equal(content[0], (mask & 4) != 0 ? 5 : (mask & 1) != 0 ? 2 : 1);
        assert_int_equal(content[SL_BLOCK_BYTES], (mask & 2) != 0 ? 3 : 0);
        assert_int_equal(content[2 * SL_BLOCK_BYTES], 4);
    }
    sl_sim_disk_outcome(run.sim, "node", "disk", 0, 1, 2, 4, content);
    assert_int_equal(content[SL_BLOCK_BYTES + 1023], 0);
    assert_int_equal(content[SL_BLOCK_BYTES + 1024], 3);
    assert_int_equal(content[SL_BLOCK_BYTES + 2048], 0);
    sl_sim_disk_restore(run.sim, "node", "disk", content);
    assert_false(sl_sim_disk_is_off(run.sim, "node", "disk"));
    assert_int_equal(on_disk(&run, 2), 4);
    sl_sim_destroy(run.sim);
}

/* What is durable at once does not give way to an older write that was never flushed. */
static void overwritten_co(struct run *run)
{
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 0, 1, 0), 0);
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 0, 2, SL_DISK_DURABLE), 0);
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 1, 3, 0), 0);
    sl_sim_disk_crash(run->sim, "node", "disk");
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 0, 9, 0), -EIO);
}

static void test_crash(void **state)
{
    unsigned lost = 0, kept = 0, torn = 0;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct run run, again;
        start(&run, seed);
        open_and_run(&run, overwritten_co);
        start(&again, seed);
        open_and_run(&again, overwritten_co);
        const uint8_t *block = sl_sim_disk_data(run.sim, "node", "disk") + SL_BLOCK_BYTES;
        assert_memory_equal(block - SL_BLOCK_BYTES, sl_sim_disk_data(again.sim, "node", "disk"),
                            DISK_BYTES);
        assert_int_equal(on_disk(&run, 0), 2);
        unsigned sectors = 0;
        for (unsigned i = 0; i < SL_BLOCK_BYTES; i += 512)
            sectors += block[i] == 3;
        lost += sectors == 0;
        kept += sectors == 8;
        torn += sectors > 0 && sectors < 8;
        sl_sim_destroy(run.sim);
        sl_sim_destroy(again.sim);
    }
    assert_true(lost > 10 && kept > 10 && torn > 10);
}

static void faults_co(struct run *run)
{
    struct sl_sim_disk_faults *faults = sl_sim_disk_faults(run->sim, "node", "disk");
    struct sl_span span = sl_buf_span(run->buf, 0, SL_BLOCK_BYTES);
    faults->begin_bytes = 4 * SL_BLOCK_BYTES;
    faults->end_bytes = 6 * SL_BLOCK_BYTES;
    faults->forgotten_per_million = 1000000;
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 4, 1, 0), 0);
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 7, 2, 0), 0);
    assert_int_equal(on_disk(run, 4), 0);
    assert_int_equal(on_disk(run, 7), 2);
    faults->forgotten_per_million = 0;
    faults->misdirected_write_per_million = 1000000;
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(rw_co(run, SL_DISK_WRITE, 4, 3, 0), 0);
    assert_int_equal(on_disk(run, 5), 3);
    faults->misdirected_write_per_million = 0;
    faults->rot_per_million = 1000000;
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 4, 0, 0), 0);
    assert_int_equal(rw_co(run, SL_DISK_READ, 4, 0, 0), 0);
    assert_true(memcmp(span.data, span.data + 1, SL_BLOCK_BYTES - 1) != 0);
    faults->rot_per_million = 0;
    faults->full = true;
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 4, 0, 0), -ENOSPC);
    faults->full = false;
    faults->read_error_per_million = 1000000;
    assert_int_equal(rw_co(run, SL_DISK_READ, 5, 0, 0), -EIO);
    assert_int_equal(rw_co(run, SL_DISK_READ, 7, 0, 0), 0);
    faults->read_error_per_million = 0;
    sl_sim_disk_fail_range(run->sim, "node", "disk", 0, 1, false, true);
    assert_int_equal(rw_co(run, SL_DISK_WRITE, 0, 0, 0), -EIO);
    assert_int_equal(rw_co(run, SL_DISK_READ, 0, 0, 0), 0);
    faults->stuck_per_million = 1000000;
    faults->stuck_ns = 5 * SL_NS_PER_S;
    uint64_t before_ns = sl_sim_now_ns(run->sim);
    assert_int_equal(rw_co(run, SL_DISK_READ, 4, 0, 0), 0);
    assert_true(sl_sim_now_ns(run->sim) - before_ns >= 5 * SL_NS_PER_S);
}

static void test_faults(void **state)
{
    struct run run;
    start(&run, 1);
    open_and_run(&run, faults_co);
    const struct sl_sim_statistics *statistics = sl_sim_statistics(run.sim);
    assert_int_equal(statistics->disk_forgotten_count, 1);
    assert_int_equal(statistics->disk_misdirected_count, 20);
    assert_int_equal(statistics->disk_rot_count, 1);
    sl_sim_destroy(run.sim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outcomes),
        cmocka_unit_test(test_crash),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
