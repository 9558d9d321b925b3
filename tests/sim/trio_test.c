/*
 * Goal: gateway, fabric and target run unchanged over a simulated link and disk, in one thread
 * under virtual time: the same seed gives the same trace, and whatever the network does, every
 * block reads what was last written. Method: two nodes. Clients on the gateway's node own some
 * blocks each, write rising values to them and read everybody's: a read must be no older than what
 * was complete when it began, nothing that nobody wrote, and never older than what this client has
 * seen before. Connections die and stall by the seed; the gateway retries. The same with the layers
 * of faults that --inject puts over links and disks (core/inject.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/error.h"
#include "core/inject.h"
#include "core/log.h"
#include "fabric/inject.h"
#include "gateway/gateway.h"
#include "io/inject.h"
#include "sim/sim_disk.h"
#include "target/target.h"

#define CLIENTS      8
#define RULES        3
#define OPERATIONS   40
#define BLOCKS       64
#define BLOCKS_AN_IO 8
#define DISK_BYTES   (20 * SL_MIB)
#define CLIENT_BYTES (BLOCKS_AN_IO * SL_BLOCK_BYTES)

struct client {
    struct run *run;
    unsigned index;
    uint64_t random;
    uint64_t seen[BLOCKS];
};

/* A node's faults, if any. */
struct faults {
    struct sl_inject *inject;
    struct sl_link_injection injection;
    struct sl_io *disk_io;
};

struct run {
    struct sl_sim *sim;
    struct faults near_faults, far_faults;
    struct sl_sim_node near, far; /* gateway, target */
    struct sl_fabric *near_fabric, *far_fabric;
    struct sl_storage *storage;
    struct sl_target *target;
    struct sl_fabric_listener *listener;
    struct sl_gateway_group *group;
    struct sl_gateway *gateway;
    struct sl_gateway_memory *memory;
    uint8_t *bytes; /* of the clients */
    const struct sl_volume *volume;
    struct client clients[CLIENTS];
    uint64_t completed[BLOCKS], begun[BLOCKS];
    unsigned clients_left;
    bool near_done, far_done;
    uint64_t retry_count;
};

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static int client_io_co(struct client *client, enum sl_io_opcode opcode, uint64_t first,
                        uint32_t count)
{
    struct run *run = client->run;
    struct sl_request_piece piece = {run->memory, client->index * CLIENT_BYTES,
                                     count * SL_BLOCK_BYTES};
    struct sl_request request = {
        .opcode = opcode,
        .volume = run->volume,
        /* Far apart, so that both shards and several stripes are met. */
        .offset_bytes =
            first % 2 * (DISK_BYTES / 2 & ~UINT64_C(0xfffff)) + first / 2 * SL_BLOCK_BYTES,
        .length_bytes = count * SL_BLOCK_BYTES,
        .piece_count = 1,
        .pieces = &piece,
    };
    return sl_gateway_execute_co(run->gateway, &request);
}

static void client_write_co(struct client *client)
{
    struct run *run = client->run;
    uint64_t block = client->index + CLIENTS * (next_random(&client->random) % (BLOCKS / CLIENTS));
    uint64_t value = run->begun[block] + 1;
    uint8_t *data = run->bytes + client->index * CLIENT_BYTES;
    for (unsigned i = 0; i < SL_BLOCK_BYTES; i += sizeof(value))
        memcpy(data + i, &(uint64_t){value << 8 | block}, sizeof(value));
    run->begun[block] = value;
    assert_int_equal(client_io_co(client, SL_IO_WRITE, block, 1), 0);
    run->completed[block] = value;
    client->seen[block] = value;
}

static void client_read_co(struct client *client)
{
    struct run *run = client->run;
    uint64_t least[BLOCKS_AN_IO];
    uint32_t count = (uint32_t)(1 + next_random(&client->random) % BLOCKS_AN_IO);
    uint64_t first = next_random(&client->random) % (BLOCKS - 2 * BLOCKS_AN_IO);
    uint8_t *data = run->bytes + client->index * CLIENT_BYTES;
    for (uint32_t i = 0; i < count; i++)
        least[i] = run->completed[first + 2 * i]; /* neighbours in the volume are of one parity */
    assert_int_equal(client_io_co(client, SL_IO_READ, first, count), 0);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t block = first + 2 * i, word;
        memcpy(&word, data + i * SL_BLOCK_BYTES, sizeof(word));
        for (unsigned j = 0; j < SL_BLOCK_BYTES; j += sizeof(word))
            assert_memory_equal(data + i * SL_BLOCK_BYTES + j, &word, sizeof(word));
        uint64_t value = word >> 8;
        assert_true(value == 0 || (word & 0xff) == block);
        assert_true(value >= least[i] && value <= run->begun[block]);
        assert_true(value >= client->seen[block]);
        client->seen[block] = value;
    }
}

static void client_co(void *argument)
{
    struct client *client = argument;
    for (unsigned i = 0; i < OPERATIONS; i++) {
        if (next_random(&client->random) % 2 == 0)
            client_write_co(client);
        else
            client_read_co(client);
    }
    client->run->clients_left--;
}

/* ---- the gateway's node ---- */

static void faults_open(struct faults *faults, struct sl_sim_node *node, const char *const *specs)
{
    static struct sl_inject_rule rules[SL_INJECT_RULES_MAX];
    char error[768];
    unsigned count = 0;
    if (specs == NULL)
        return;
    for (; specs[count] != NULL; count++) {
        assert_int_equal(sl_inject_parse(specs[count], &rules[count], error, sizeof(error)), 0);
        rules[count].seed = sl_reactor_random_u64(node->reactor);
    }
    assert_int_equal(sl_inject_create(rules, count, 0, &faults->inject), 0);
    assert_int_equal(sl_inject_io_create(node->io, faults->inject, &faults->disk_io), 0);
    faults->injection = (struct sl_link_injection){&sl_link_sim, faults->inject};
}

static void faults_close(struct faults *faults, uint64_t *hit_counts)
{
    struct sl_inject_counters counters;
    for (unsigned i = 0; faults->inject != NULL && hit_counts != NULL && i < RULES; i++) {
        sl_inject_counters(faults->inject, i, &counters);
        hit_counts[i] += counters.hit_count;
    }
    sl_io_destroy(faults->disk_io);
    sl_inject_destroy(faults->inject);
}

static struct sl_fabric *make_fabric(struct sl_sim_node *node, enum sl_role role,
                                     const struct faults *faults)
{
    struct sl_fabric *fabric = NULL;
    struct sl_fabric_config config = {
        .link = &sl_link_sim,
        .domain = {.io = node->io, .memory = node->memory},
        .reactor = node->reactor,
        .role = role,
        .instance_id = sl_reactor_random_u64(node->reactor),
        .in_capsule_bytes = role == SL_ROLE_TARGET ? SL_IN_CAPSULE_BYTES_MAX : 0,
    };
    if (faults->inject != NULL) {
        config.link = sl_inject_link(&sl_link_sim);
        config.domain.injection = &faults->injection;
    }
    if (role == SL_ROLE_GATEWAY)
        config.domain.foreign_access = SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE;
    assert_int_equal(sl_fabric_create(&config, &fabric), 0);
    return fabric;
}

static void share_memory_co(struct run *run)
{
    int memfd = memfd_create("sim-client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(memfd, CLIENTS * CLIENT_BYTES), 0);
    assert_int_equal(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    run->bytes = mmap(NULL, CLIENTS * CLIENT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    assert_true(run->bytes != MAP_FAILED);
    assert_int_equal(sl_gateway_memory_register_co(run->group, memfd, CLIENTS * CLIENT_BYTES, true,
                                                   &run->memory),
                     0);
}

static void near_co(void *argument)
{
    struct run *run = argument;
    const char *servers[] = {"target:7600"};
    struct sl_gateway_config config = {.servers = servers, .server_count = 1};
    char error[256];
    run->near_fabric = make_fabric(&run->near, SL_ROLE_GATEWAY, &run->near_faults);
    assert_int_equal(sl_gateway_group_create(&config, 1, &run->group, error, sizeof(error)), 0);
    assert_int_equal(sl_gateway_create(run->group, 0, run->near.reactor, run->near.memory,
                                       run->near_fabric, &run->gateway),
                     0);
    share_memory_co(run);
    assert_int_equal(sl_gateway_volume_co(run->gateway, NULL, UINT64_MAX, &run->volume), 0);
    sl_gateway_session_begin(run->group);
    for (unsigned i = 0; i < CLIENTS; i++)
        assert_int_equal(sl_co_spawn(run->near.reactor, client_co, &run->clients[i]), 0);
    while (run->clients_left > 0)
        sl_sleep_co(SL_NS_PER_MS);
    struct sl_gateway_statistics statistics;
    sl_gateway_statistics_co(run->group, &statistics);
    run->retry_count = statistics.retry_count;
    sl_gateway_session_end(run->group);
    sl_gateway_stop_co(run->gateway);
    sl_gateway_memory_unregister_co(run->memory);
    sl_gateway_destroy(run->gateway);
    sl_gateway_group_destroy(run->group);
    sl_fabric_drain_co(run->near_fabric);
    sl_fabric_destroy(run->near_fabric);
    munmap(run->bytes, CLIENTS * CLIENT_BYTES);
    run->near_done = true;
}

/* ---- the target's node ---- */

static void far_co(void *argument)
{
    struct run *run = argument;
    struct sl_storage_config config = {
        .spec = "file:sim:disk", .reactor_count = 1, .checksums = true, .durable_writes = true};
    char error[256];
    void *owners[1];
    assert_int_equal(sl_storage_open(&config, &run->storage, error, sizeof(error)), 0);
    struct sl_io *io = run->far_faults.disk_io != NULL ? run->far_faults.disk_io : run->far.io;
    assert_int_equal(sl_target_create(run->storage, 0, io, run->far.memory, &run->target), 0);
    run->far_fabric = make_fabric(&run->far, SL_ROLE_TARGET, &run->far_faults);
    owners[0] = run->target;
    assert_int_equal(sl_fabric_listen(&run->far_fabric, 1, "target:7600",
                                      &sl_target_connection_handlers, owners, NULL, &run->listener),
                     0);
    while (!run->near_done)
        sl_sleep_co(SL_NS_PER_MS);
    sl_fabric_listener_close(run->listener);
    sl_fabric_drain_co(run->far_fabric);
    sl_fabric_destroy(run->far_fabric);
    sl_target_destroy(run->target);
    sl_storage_close(run->storage);
    run->far_done = true;
}

static bool both_done(void *argument)
{
    const struct run *run = argument;
    return run->near_done && run->far_done;
}

static uint64_t reset_count;

/* What --inject says at the gateway and at the target; and how often each rule struck. */
struct injects {
    const char *near[RULES + 1], *far[RULES + 1];
    uint64_t near_hits[RULES], far_hits[RULES];
};

/* Answers the trace's hash. */
static uint64_t simulate(uint64_t seed, bool faults, struct injects *injects, uint64_t *retry_count)
{
    struct run *run = calloc(1, sizeof(*run));
    struct sl_sim_config config = {.seed = seed};
    if (faults) {
        config.network.reset_per_million = 4000;
        config.network.slow_per_million = 2000;
        config.storage.slow_per_million = 10000;
    }
    assert_non_null(run);
    run->clients_left = CLIENTS;
    for (unsigned i = 0; i < CLIENTS; i++)
        run->clients[i] = (struct client){.run = run, .index = i, .random = seed * CLIENTS + i};
    assert_int_equal(sl_sim_create(&config, &run->sim), 0);
    assert_int_equal(sl_sim_disk_create(run->sim, "target", "sim:disk", DISK_BYTES), 0);
    assert_int_equal(sl_sim_node_open(run->sim, "gateway", 0, 16 * SL_MIB, &run->near), 0);
    assert_int_equal(sl_sim_node_open(run->sim, "target", 0, 32 * SL_MIB, &run->far), 0);
    faults_open(&run->near_faults, &run->near, injects != NULL ? injects->near : NULL);
    faults_open(&run->far_faults, &run->far, injects != NULL ? injects->far : NULL);
    assert_int_equal(sl_co_spawn(run->far.reactor, far_co, run), 0);
    assert_int_equal(sl_co_spawn(run->near.reactor, near_co, run), 0);
    assert_true(sl_sim_run_until(run->sim, 600 * SL_NS_PER_S, both_done, run));
    faults_close(&run->near_faults, injects != NULL ? injects->near_hits : NULL);
    faults_close(&run->far_faults, injects != NULL ? injects->far_hits : NULL);
    sl_sim_node_close(&run->near);
    sl_sim_node_close(&run->far);
    uint64_t hash = sl_sim_trace_hash(run->sim);
    reset_count += sl_sim_statistics(run->sim)->reset_count;
    *retry_count += run->retry_count;
    sl_sim_destroy(run->sim);
    free(run);
    return hash;
}

static void test_same_seed_same_trace(void **state)
{
    uint64_t retries = 0;
    uint64_t first = simulate(1, false, NULL, &retries);
    assert_int_equal(simulate(1, false, NULL, &retries), first);
    assert_int_not_equal(simulate(2, false, NULL, &retries), first);
    assert_int_equal(retries, 0);
}

static void test_faults(void **state)
{
    uint64_t retries = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
        uint64_t hash = simulate(seed, true, NULL, &retries);
        if (seed % 5 == 0)
            assert_int_equal(simulate(seed, true, NULL, &retries), hash);
    }
    assert_true(retries > 100);
    assert_true(reset_count > 50);
}

/* Layers of faults at both ends, over a link and a disk that are sound. */
static void test_injected(void **state)
{
    static struct injects injects = {
        .near = {"link:delay=2ms,p=0.02", "link:drop,p=0.002", "link:error=EIO,op=send,p=0.002"},
        .far = {"link:delay=1ms,op=write|send,p=0.03", "link:stall,p=0.0005",
                "disk:delay=3ms,p=0.05"},
    };
    uint64_t retries = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
        uint64_t hash = simulate(seed, false, &injects, &retries);
        if (seed % 5 == 0)
            assert_int_equal(simulate(seed, false, &injects, &retries), hash);
    }
    for (unsigned i = 0; i < RULES; i++)
        assert_true(injects.near_hits[i] > 3 && injects.far_hits[i] > 3);
    assert_true(retries > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_seed_same_trace),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_injected),
    };
    sl_log_set_level(SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
