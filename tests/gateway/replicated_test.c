/*
 * Goal: over replicated groups the gateway keeps its word whatever the targets do: a number of a
 * session is never used for two writes, a write that was reported as done has applied once, one
 * that was reported as failed never applies from then on, reads are no older than what was done,
 * and a fenced gateway stays out.
 *
 * Method: the gateway runs in the simulator against fake targets. What they "commit" goes through
 * one model of each group (the real session table, and the blocks), so consensus is given; all else
 * is up to the seed: who leads, who believes to, which requests are answered, late, never, refused,
 * lost after they were applied, or applied after a later leader came. Every commit and every
 * outcome is checked against the list of all writes.
 */
#include <errno.h>
#include <stdlib.h>

#include "tests/gateway/replicated_world.h"

/* ---- clients ---- */

static int client_io_co(struct client *client, enum sl_io_opcode opcode, uint64_t block,
                        uint32_t bytes)
{
    struct run *run = client->run;
    struct sl_request_piece piece = {run->memory, client->index * CLIENT_BYTES, bytes};
    struct sl_request request = {
        .opcode = opcode,
        .volume = run->volume,
        .epoch = run->epoch,
        .offset_bytes = block * SPACING,
        .length_bytes = bytes,
        .piece_count = 1,
        .pieces = &piece,
    };
    return sl_gateway_execute_co(run->gateway, &request);
}

static bool is_expected(int error)
{
    return error == -ENOSPC || error == -ETIMEDOUT || error == -SL_E_UNREACHABLE ||
           error == -SL_E_NO_SESSION;
}

static void client_write_co(struct client *client)
{
    struct run *run = client->run;
    uint64_t block = client->index + CLIENTS * (next_random(&client->random) % (BLOCKS / CLIENTS));
    uint8_t *data = run->bytes + client->index * CLIENT_BYTES;
    assert_true(run->write_count < WRITES_MAX);
    struct write *write = &run->writes[run->write_count];
    uint64_t value = (uint64_t)run->write_count++ << 16 | block;
    /* Within a capsule, or beyond; both leave the next client's block alone. */
    for (unsigned i = 0; i < SL_BLOCK_BYTES; i += sizeof(value))
        memcpy(data + i, &value, sizeof(value));
    run->begun[block] = value;
    int error = client_io_co(client, SL_IO_WRITE, block, SL_BLOCK_BYTES);
    if (error == 0) {
        assert_true(write->applied);
        write->done = true;
        run->completed[block] = value;
        client->seen[block] = value;
        return;
    }
    if (!is_expected(error))
        fail_msg("write: %s", sl_error_name(error));
    write->failed = true;
    met.failed_writes++;
    met.no_session_outcomes += error == -SL_E_NO_SESSION;
    /* Only a closed session leaves open whether it had applied before. */
    struct sl_command command = {.kind = SL_COMMAND_CLOSE, .session = write->session};
    assert_true(!write->applied || sl_session_preview(run->models[write->group - 1].table,
                                                      &command) == SL_VERDICT_NO_SESSION);
}

static void client_read_co(struct client *client)
{
    struct run *run = client->run;
    uint64_t block = next_random(&client->random) % BLOCKS, least = run->completed[block], value;
    uint8_t *data = run->bytes + client->index * CLIENT_BYTES;
    int error = client_io_co(client, SL_IO_READ, block, SL_BLOCK_BYTES);
    if (error < 0) {
        if (!is_expected(error))
            fail_msg("read: %s", sl_error_name(error));
        return;
    }
    memcpy(&value, data, sizeof(value));
    for (unsigned i = 0; i < SL_BLOCK_BYTES; i += sizeof(value))
        assert_memory_equal(data + i, &value, sizeof(value));
    assert_true(value == 0 || (value & 0xffff) == block);
    assert_true(value >= least && value <= run->begun[block] && value >= client->seen[block]);
    assert_true(value == 0 || run->writes[value >> 16].applied);
    client->seen[block] = value;
}

static void client_co(void *argument)
{
    struct client *client = argument;
    for (unsigned i = 0; i < OPERATIONS; i++) {
        if (next_random(&client->random) % 3 < 2)
            client_write_co(client);
        else
            client_read_co(client);
    }
    client->run->clients_left--;
}

static void near_co(void *argument)
{
    struct run *run = argument;
    near_open_co(run);
    int error;
    do {
        error = sl_gateway_attach_co(run->gateway, "vm", sl_sim_now_ns(run->sim) + 9 * SL_NS_PER_S,
                                     &run->volume, &run->epoch);
        assert_true(error == 0 || is_expected(error));
    } while (error < 0);
    for (unsigned i = 0; i < CLIENTS; i++)
        assert_int_equal(sl_co_spawn(run->near.reactor, client_co, &run->clients[i]), 0);
    while (run->clients_left > 0)
        sl_sleep_co(SL_NS_PER_MS);
    /* Healed, all can be left in order. */
    run->ended = true;
    run->faults = false;
    for (unsigned i = 0; i < GROUPS; i++)
        if (run->models[i].leader == NOBODY)
            run->models[i].leader = 1;
    sl_sleep_co(2 * SL_NS_PER_S);
    sl_gateway_detach(run->gateway, run->volume);
    near_close_co(run);
}

/* At the end every session was closed, every write is settled, and the blocks hold the last ones.
 */
static void check_end(const struct run *run)
{
    for (unsigned i = 0; i < GROUPS; i++) {
        const struct model *model = &run->models[i];
        for (unsigned j = 0; j < model->session_count; j++) {
            struct sl_command command = {.kind = SL_COMMAND_CLOSE, .session = model->sessions[j]};
            assert_int_equal(sl_session_preview(model->table, &command), SL_VERDICT_NO_SESSION);
        }
    }
    for (unsigned i = 1; i < run->write_count; i++) {
        assert_true(run->writes[i].done || run->writes[i].failed);
        assert_true(!run->writes[i].done || run->writes[i].applied);
    }
}

static uint64_t simulate(uint64_t seed, bool faults)
{
    struct run *run = run_create(seed, faults);
    assert_int_equal(sl_co_spawn(run->targets[0][0].sim.reactor, far_co, run), 0);
    assert_int_equal(sl_co_spawn(run->near.reactor, near_co, run), 0);
    assert_true(sl_sim_run_until(run->sim, 3600 * SL_NS_PER_S, all_done, run));
    check_end(run);
    return run_destroy(run);
}

static void test_same_seed_same_trace(void **state)
{
    uint64_t hash = simulate(1, false);
    assert_int_equal(simulate(1, false), hash);
    assert_int_equal(met.failed_writes, 0);
    hash = simulate(2, true);
    assert_int_equal(simulate(2, true), hash);
}

static void test_faults(void **state)
{
    const char *first = getenv("SEED"), *seeds = getenv("SEEDS");
    first = first != NULL && *first == '\0' ? NULL : first;
    uint64_t from = first != NULL ? strtoull(first, NULL, 10) : 1;
    uint64_t count = first != NULL ? 1 : seeds != NULL ? strtoull(seeds, NULL, 10) : 60;
    for (uint64_t seed = from; seed < from + count; seed++) {
        fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
        simulate(seed, true);
    }
    if (first != NULL)
        return;
    for (unsigned i = 0; i < FATE_COUNT; i++)
        assert_true(met.fates[i] > 20);
    assert_true(met.verdicts[SL_VERDICT_DUPLICATE] > 50);
    assert_true(met.verdicts[SL_VERDICT_VOIDED] > 5);
    assert_true(met.verdicts[SL_VERDICT_NO_SESSION] > 20);
    assert_true(met.verdicts[SL_VERDICT_STALE] > 5);
    assert_true(met.voids_of_applied > 5);
    assert_true(met.failed_writes > 100);
    assert_true(met.no_session_outcomes > 0);
    assert_true(met.moved > 500 && met.wrong_reactor > 20 && met.elections > 200);
}

/* ---- fencing ---- */

/* Another gateway takes the volume: in both groups, or in one. */
static void attach_elsewhere(struct run *run, unsigned group)
{
    struct sl_command command = {
        .kind = SL_COMMAND_ATTACH, .volume = 9, .epoch = run->epoch + (UINT64_C(1) << 24)};
    assert_int_equal(commit(&run->models[group], &command), SL_VERDICT_APPLY);
}

static void near_fencing_co(void *argument)
{
    struct run *run = argument;
    struct client *client = &run->clients[0];
    uint64_t deadline_ns = sl_sim_now_ns(run->sim) + 60 * SL_NS_PER_S, old;
    const struct sl_volume *volume;
    near_open_co(run);
    assert_int_equal(sl_gateway_attach_co(run->gateway, "", deadline_ns, &run->volume, &run->epoch),
                     0);
    old = run->epoch;
    run->write_count = 5;
    memset(run->bytes, 0, SL_BLOCK_BYTES);
    run->bytes[2] = 4; /* value 4 << 16 in the first word */
    for (unsigned i = 8; i < SL_BLOCK_BYTES; i += 8)
        run->bytes[i + 2] = 4;
    assert_int_equal(client_io_co(client, SL_IO_WRITE, 0, SL_BLOCK_BYTES), 0);
    /* A second client of this gateway shares the attachment. */
    assert_int_equal(sl_gateway_attach_co(run->gateway, "vm", deadline_ns, &volume, &run->epoch),
                     0);
    assert_int_equal(run->epoch, old);
    attach_elsewhere(run, 1); /* stripe 0 is in group 2 */
    run->writes[4].applied = false;
    assert_int_equal(client_io_co(client, SL_IO_WRITE, 0, SL_BLOCK_BYTES), -SL_E_FENCED);
    assert_false(run->writes[4].applied);
    /* From now on all of it is refused, without asking: the other group's part, too. */
    assert_int_equal(client_io_co(client, SL_IO_WRITE, 6, SL_BLOCK_BYTES), -SL_E_FENCED);
    assert_int_equal(client_io_co(client, SL_IO_READ, 0, SL_BLOCK_BYTES), -SL_E_FENCED);
    /* Opened again it is attached anew, above the other's epoch; who had it before stays out. */
    assert_int_equal(sl_gateway_attach_co(run->gateway, "vm", deadline_ns, &volume, &run->epoch),
                     0);
    assert_true(run->epoch > old + (UINT64_C(1) << 24));
    assert_int_equal(client_io_co(client, SL_IO_WRITE, 0, SL_BLOCK_BYTES), 0);
    uint64_t now = run->epoch;
    run->epoch = old;
    assert_int_equal(client_io_co(client, SL_IO_WRITE, 0, SL_BLOCK_BYTES), -SL_E_FENCED);
    run->epoch = now;
    for (unsigned i = 0; i < 3; i++)
        sl_gateway_detach(run->gateway, run->volume);
    /* Nobody is left: the next client attaches anew, whatever this gateway remembers. */
    assert_int_equal(sl_gateway_attach_co(run->gateway, "vm", deadline_ns, &volume, &run->epoch),
                     0);
    assert_true(run->epoch > now);
    sl_gateway_detach(run->gateway, run->volume);
    assert_int_equal(sl_gateway_attach_co(run->gateway, "none", deadline_ns, &volume, &run->epoch),
                     -ENOENT);
    met.fenced++;
    near_close_co(run);
}

static void test_fencing(void **state)
{
    struct run *run = run_create(7, false);
    assert_int_equal(sl_co_spawn(run->targets[0][0].sim.reactor, far_co, run), 0);
    assert_int_equal(sl_co_spawn(run->near.reactor, near_fencing_co, run), 0);
    assert_true(sl_sim_run_until(run->sim, 600 * SL_NS_PER_S, all_done, run));
    run_destroy(run);
    assert_int_equal(met.fenced, 1);
}

/* ---- the window ---- */

#define MANY (SL_SESSION_WINDOW + 44)

struct writer {
    struct run *run;
    unsigned index;
};

static void writer_co(void *argument)
{
    struct writer *writer = argument;
    struct run *run = writer->run;
    uint64_t value = (uint64_t)run->write_count++ << 16;
    size_t at = writer->index * (size_t)SL_BLOCK_BYTES;
    struct sl_request_piece piece = {run->memory, at, SL_BLOCK_BYTES};
    struct sl_request request = {
        .opcode = SL_IO_WRITE,
        .volume = run->volume,
        .epoch = run->epoch,
        .offset_bytes = writer->index % 16 * SL_BLOCK_BYTES, /* one stripe, one group */
        .length_bytes = SL_BLOCK_BYTES,
        .piece_count = 1,
        .pieces = &piece,
    };
    for (unsigned i = 0; i < SL_BLOCK_BYTES; i += sizeof(value))
        memcpy(run->bytes + at + i, &value, sizeof(value));
    assert_int_equal(sl_gateway_execute_co(run->gateway, &request), 0);
    run->clients_left--;
}

static void near_window_co(void *argument)
{
    static struct writer writers[MANY];
    struct run *run = argument;
    near_open_co(run);
    assert_int_equal(
        sl_gateway_attach_co(run->gateway, "vm", UINT64_MAX, &run->volume, &run->epoch), 0);
    run->clients_left = MANY;
    run->held = true;
    for (unsigned i = 0; i < MANY; i++) {
        writers[i] = (struct writer){run, i};
        assert_int_equal(sl_co_spawn(run->near.reactor, writer_co, &writers[i]), 0);
    }
    sl_sleep_co(300 * SL_NS_PER_MS);
    /* All that fit were done behind the first one; the others have not been sent. */
    assert_int_equal(run->clients_left, MANY - SL_SESSION_WINDOW + 1);
    run->held = false;
    while (run->clients_left > 0)
        sl_sleep_co(SL_NS_PER_MS);
    sl_gateway_detach(run->gateway, run->volume);
    near_close_co(run);
}

static void test_window(void **state)
{
    struct run *run = run_create(9, false);
    assert_int_equal(sl_co_spawn(run->targets[0][0].sim.reactor, far_co, run), 0);
    assert_int_equal(sl_co_spawn(run->near.reactor, near_window_co, run), 0);
    assert_true(sl_sim_run_until(run->sim, 600 * SL_NS_PER_S, all_done, run));
    run_destroy(run);
}

/* ---- memory that cannot be described ---- */

#define LARGE_BYTES (8 * SL_BLOCK_BYTES) /* more than goes in a capsule */

/* Nothing is sent then: the client is told why, the number is done with, and the next I/O works. */
static void near_undescribed_co(void *argument)
{
    struct run *run = argument;
    struct client *client = &run->clients[0];
    near_open_co(run);
    assert_int_equal(
        sl_gateway_attach_co(run->gateway, "vm", UINT64_MAX, &run->volume, &run->epoch), 0);
    memset(run->bytes, 0, LARGE_BYTES);
    for (unsigned round = 0; round < 3; round++) {
        uint64_t from_ns = sl_sim_now_ns(run->sim);
        describe_fails = -SL_E_KEY;
        assert_int_equal(client_io_co(client, SL_IO_READ, 0, SL_BLOCK_BYTES), -SL_E_KEY);
        assert_int_equal(client_io_co(client, SL_IO_WRITE, 0, LARGE_BYTES), -SL_E_KEY);
        assert_true(sl_sim_now_ns(run->sim) - from_ns < SL_NS_PER_S);
        describe_fails = 0;
        assert_int_equal(client_io_co(client, SL_IO_READ, 0, SL_BLOCK_BYTES), 0);
    }
    sl_gateway_detach(run->gateway, run->volume);
    near_close_co(run);
}

static void test_undescribed(void **state)
{
    struct run *run = run_create(10, false);
    assert_int_equal(sl_co_spawn(run->targets[0][0].sim.reactor, far_co, run), 0);
    assert_int_equal(sl_co_spawn(run->near.reactor, near_undescribed_co, run), 0);
    assert_true(sl_sim_run_until(run->sim, 600 * SL_NS_PER_S, all_done, run));
    run_destroy(run);
}

/* ---- leaders that are busy, or where nobody looks for them ---- */

static void calm_co(void *argument)
{
    struct run *run = argument;
    sl_sleep_co(500 * SL_NS_PER_MS);
    run->refuse = false;
}

/* A leader that has no time is asked again, with pauses. */
static void near_busy_co(void *argument)
{
    struct run *run = argument;
    struct client *client = &run->clients[0];
    near_open_co(run);
    assert_int_equal(
        sl_gateway_attach_co(run->gateway, "vm", UINT64_MAX, &run->volume, &run->epoch), 0);
    assert_int_equal(client_io_co(client, SL_IO_READ, 0, SL_BLOCK_BYTES), 0);
    run->refuse = true;
    assert_int_equal(sl_co_spawn(run->near.reactor, calm_co, run), 0);
    assert_int_equal(client_io_co(client, SL_IO_READ, 0, SL_BLOCK_BYTES), 0);
    assert_in_range(run->refused_count, 5, 25); /* 2 ms, doubled up to 50 */
    sl_gateway_detach(run->gateway, run->volume);
    near_close_co(run);
}

/* All members that the file names were replaced: the others are asked in the end. */
static void near_replaced_co(void *argument)
{
    struct run *run = argument;
    near_open_co(run);
    run->replaced = true;
    run->models[1].leader = 1; /* of group 2, which lay on 2 and 3 */
    assert_int_equal(sl_gateway_attach_co(run->gateway, "vm",
                                          sl_sim_now_ns(run->sim) + 30 * SL_NS_PER_S, &run->volume,
                                          &run->epoch),
                     0);
    for (uint64_t block = 0; block < BLOCKS; block++)
        assert_int_equal(client_io_co(&run->clients[0], SL_IO_READ, block, SL_BLOCK_BYTES), 0);
    sl_gateway_detach(run->gateway, run->volume);
    near_close_co(run);
}

static void test_leaders(void **state)
{
    void (*const bodies[])(void *argument) = {near_busy_co, near_replaced_co};
    for (unsigned i = 0; i < SL_COUNT_OF(bodies); i++) {
        struct run *run = run_create(11, false);
        assert_int_equal(sl_co_spawn(run->targets[0][0].sim.reactor, far_co, run), 0);
        assert_int_equal(sl_co_spawn(run->near.reactor, bodies[i], run), 0);
        assert_true(sl_sim_run_until(run->sim, 600 * SL_NS_PER_S, all_done, run));
        run_destroy(run);
    }
}

/* ---- a group without a leader ---- */

static void near_alone_co(void *argument)
{
    struct run *run = argument;
    struct client *client = &run->clients[0];
    near_open_co(run);
    assert_int_equal(
        sl_gateway_attach_co(run->gateway, "vm", UINT64_MAX, &run->volume, &run->epoch), 0);
    run->models[0].leader = run->models[1].leader = NOBODY;
    uint64_t from_ns = sl_sim_now_ns(run->sim);
    /* Nothing was ever sent to a leader, so nothing can apply: it fails when its time is up. */
    assert_int_equal(client_io_co(client, SL_IO_READ, 0, SL_BLOCK_BYTES), -SL_E_UNREACHABLE);
    assert_true(sl_sim_now_ns(run->sim) - from_ns < 2 * SL_NS_PER_S);
    assert_int_equal(client_io_co(client, SL_IO_WRITE, 0, SL_BLOCK_BYTES), -SL_E_UNREACHABLE);
    assert_int_equal(sl_gateway_attach_co(run->gateway, "vm", sl_sim_now_ns(run->sim) + SL_NS_PER_S,
                                          &run->volume, &run->epoch),
                     0); /* held already */
    sl_gateway_detach(run->gateway, run->volume);
    sl_gateway_detach(run->gateway, run->volume);
    assert_int_equal(sl_gateway_attach_co(run->gateway, "vm", sl_sim_now_ns(run->sim) + SL_NS_PER_S,
                                          &run->volume, &run->epoch),
                     -SL_E_UNREACHABLE);
    from_ns = sl_sim_now_ns(run->sim);
    near_close_co(run);
    assert_true(sl_sim_now_ns(run->sim) - from_ns < 8 * SL_NS_PER_S);
}

static void test_alone(void **state)
{
    struct run *run = run_create(8, false);
    assert_int_equal(sl_co_spawn(run->targets[0][0].sim.reactor, far_co, run), 0);
    assert_int_equal(sl_co_spawn(run->near.reactor, near_alone_co, run), 0);
    assert_true(sl_sim_run_until(run->sim, 600 * SL_NS_PER_S, all_done, run));
    run_destroy(run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_seed_same_trace),
        cmocka_unit_test(test_fencing),
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_undescribed),
        cmocka_unit_test(test_leaders),
        cmocka_unit_test(test_faults),
    };
    sl_log_set_level(getenv("VERBOSE") != NULL ? SL_LOG_DEBUG : SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
