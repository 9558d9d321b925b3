/*
 * Goal: under crashes, power losses, partitions, resets, slow and full disks a group loses nothing,
 * shows no older value after a newer one, applies no write twice, and its replicas end up equal.
 * Method: three or five targets in the simulator, driven by a seed; several clients, each with a
 * session and blocks of its own, write rising values and read them back. After the faults
 * everything heals and every block is compared. SLUICE_TEST_SEEDS: how many; SLUICE_TEST_SEED: from
 * which on.
 */
#include "cluster_world.h"

#define ACTORS       4
#define ACTOR_BLOCKS 48
#define ACTOR_BYTES  (128 * SL_KIB)

struct actor {
    struct chaos *chaos;
    unsigned number;
    uint64_t random;
    uint64_t sequence;
    uint64_t session;
    uint64_t values[ACTOR_BLOCKS];
};

struct chaos {
    struct cluster_world world;
    struct actor actors[ACTORS];
    unsigned running;
    bool healed;
    uint64_t writes, reads;
    unsigned crashes, partitions, resets, stops, slow, transfers;
};

static uint64_t next(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static uint64_t block_of(const struct actor *actor, unsigned i)
{
    /* Neighbours in regions and chunks belong to others. */
    return (uint64_t)(i % 8) * 1536 + (i / 8) * 64 * ACTORS + actor->number * 16;
}

static void describe(struct actor *actor, union sl_capsule *request, uint32_t offset,
                     uint32_t length)
{
    struct cluster_world *world = &actor->chaos->world;
    assert_int_equal(sl_fabric_describe(world->fabric, world->buf->region,
                                        world->buf->data + actor->number * 2 * ACTOR_BYTES + offset,
                                        length, &request->group_io.pieces[0]),
                     0);
    request->group_io.io.piece_count = 1;
    request->header.length_bytes =
        offsetof(struct sl_capsule_group_io, pieces) + sizeof(struct sl_remote_piece);
}

static void write_co(struct actor *actor, unsigned i)
{
    struct cluster_world *world = &actor->chaos->world;
    union sl_capsule request, reply;
    unsigned count = next(&actor->random) % 4 == 0 ? 9 : 1 + (unsigned)(next(&actor->random) % 3);
    uint8_t *data = world->buf->data + actor->number * 2 * ACTOR_BYTES;
    struct sl_group_message *io = client_request(&request, SL_IO_WRITE);
    uint64_t value = actor->values[i] + 1;
    io->session = actor->session;
    io->sequence = ++actor->sequence;
    io->volume = VOLUME;
    io->epoch = 1;
    io->offset_bytes = block_of(actor, i) * SL_BLOCK_BYTES;
    io->length_bytes = count * SL_BLOCK_BYTES;
    for (unsigned k = 0; k < count; k++)
        fill_block(data + k * SL_BLOCK_BYTES, block_of(actor, i) + k, value);
    struct sl_span span =
        sl_buf_span(world->buf, actor->number * 2 * ACTOR_BYTES, io->length_bytes);
    bool inside = io->length_bytes <= SL_IN_CAPSULE_BYTES_MAX;
    if (!inside)
        describe(actor, &request, 0, io->length_bytes);
    int error = client_group_co(world, &request, inside ? &span : NULL, &reply);
    if (error != 0)
        fail_msg("a write of client %u ends with %d", actor->number, error);
    actor->values[i] = value;
    actor->chaos->writes++;
}

static void read_co(struct actor *actor, unsigned i)
{
    struct cluster_world *world = &actor->chaos->world;
    union sl_capsule request, reply;
    const uint8_t *data = world->buf->data + actor->number * 2 * ACTOR_BYTES + ACTOR_BYTES;
    struct sl_group_message *io = client_request(&request, SL_IO_READ);
    io->offset_bytes = block_of(actor, i) * SL_BLOCK_BYTES;
    io->length_bytes = SL_BLOCK_BYTES;
    describe(actor, &request, ACTOR_BYTES, SL_BLOCK_BYTES);
    int error = client_group_co(world, &request, NULL, &reply);
    if (error != 0)
        fail_msg("a read of client %u ends with %d", actor->number, error);
    if (!check_block(data, block_of(actor, i), actor->values[i]))
        fail_msg("client %u: block %llu does not hold value %llu", actor->number,
                 (unsigned long long)block_of(actor, i), (unsigned long long)actor->values[i]);
    actor->chaos->reads++;
}

static void actor_co(void *argument)
{
    struct actor *actor = argument;
    while (!actor->chaos->healed) {
        unsigned i = (unsigned)(next(&actor->random) % ACTOR_BLOCKS);
        if (next(&actor->random) % 3 != 0)
            write_co(actor, i);
        else
            read_co(actor, i);
        if (next(&actor->random) % 8 == 0)
            sl_sleep_co(next(&actor->random) % (20 * SL_NS_PER_MS));
    }
    for (unsigned i = 0; i < ACTOR_BLOCKS; i++)
        read_co(actor, i);
    actor->chaos->running--;
}

static void begin_co(struct cluster_world *world)
{
    struct chaos *chaos = sl_container_of(world, struct chaos, world);
    for (unsigned i = 1; i <= world->node_count; i++)
        assert_int_equal(client_create_co(world, i, world->node_count), 0);
    assert_int_equal(client_attach_co(world, 1), 0);
    for (unsigned i = 0; i < ACTORS; i++) {
        struct actor *actor = &chaos->actors[i];
        actor->chaos = chaos;
        actor->number = i;
        actor->random = sl_sim_random(world->sim);
        actor->session = 100 + i;
        assert_int_equal(client_session_co(world, SL_GROUP_SESSION_OPEN, actor->session), 0);
        chaos->running++;
        assert_int_equal(sl_co_spawn(world->client.reactor, actor_co, actor), 0);
    }
}

static unsigned down_count(const struct cluster_world *world)
{
    unsigned count = 0;
    for (unsigned i = 1; i <= world->node_count; i++)
        count += !world->nodes[i].up;
    return count;
}

static void partition(struct cluster_world *world, unsigned a, unsigned b, uint64_t duration_ns)
{
    sl_sim_partition(world->sim, world->nodes[a].node.io, world->nodes[b].node.io, true);
    world_wait(world, duration_ns);
    sl_sim_partition(world->sim, world->nodes[a].node.io, world->nodes[b].node.io, false);
}

static void one_fault(struct chaos *chaos, uint64_t *random)
{
    struct cluster_world *world = &chaos->world;
    unsigned node = 1 + (unsigned)(next(random) % world->node_count);
    unsigned other = node % world->node_count + 1;
    uint64_t duration_ns = next(random) % (1500 * SL_NS_PER_MS);
    bool may_lose = down_count(world) < (world->node_count - 1) / 2;
    switch (next(random) % 7) {
    case 0:
    case 1: /* crash */
        if (world->nodes[node].up && may_lose) {
            node_end(world, node, true);
            chaos->crashes++;
        }
        break;
    case 2: /* clean end */
        if (world->nodes[node].up && may_lose) {
            node_end(world, node, false);
            chaos->stops++;
        }
        break;
    case 3: /* all of them lose power */
        if (next(random) % 3 != 0 || down_count(world) > 0)
            break;
        for (unsigned i = 1; i <= world->node_count; i++)
            node_end(world, i, true);
        for (unsigned i = 1; i <= world->node_count; i++)
            node_start(world, i);
        chaos->crashes++;
        break;
    case 4:
        if (world->nodes[node].up && world->nodes[other].up) {
            partition(world, node, other, duration_ns);
            chaos->partitions++;
        }
        break;
    case 5:
        if (world->nodes[node].up && world->nodes[other].up)
            sl_sim_reset(world->sim, world->nodes[node].node.io, world->nodes[other].node.io);
        chaos->resets++;
        break;
    default:
        sl_sim_disk_faults(world->sim, world->nodes[node].name, DISK_PATH)->stuck_per_million =
            20000;
        sl_sim_disk_faults(world->sim, world->nodes[node].name, DISK_PATH)->stuck_ns =
            300 * SL_NS_PER_MS;
        world_wait(world, duration_ns);
        sl_sim_disk_faults(world->sim, world->nodes[node].name, DISK_PATH)->stuck_per_million = 0;
        chaos->slow++;
    }
}

static bool actors_are_done(void *argument)
{
    return ((struct chaos *)argument)->running == 0;
}

/* The same blocks at every replica, as its store has them. */
static void compare_co(struct cluster_world *world)
{
    struct chaos *chaos = sl_container_of(world, struct chaos, world);
    for (unsigned n = 1; n <= world->node_count; n++) {
        struct sl_replica *replica = sl_cluster_find(world->nodes[n].target->cluster, GROUP);
        struct sl_replica *first = sl_cluster_find(world->nodes[1].target->cluster, GROUP);
        assert_int_equal(sl_session_digest(replica->sessions), sl_session_digest(first->sessions));
    }
    assert_true(chaos->writes > 0);
}

static void run_seed(uint64_t seed)
{
    static struct chaos chaos;
    memset(&chaos, 0, sizeof(chaos));
    struct cluster_world *world = &chaos.world;
    uint64_t random = seed * UINT64_C(0x9e3779b97f4a7c15);
    world_open(world, seed, seed % 4 == 3 ? 5 : 3);
    world_run(world, begin_co);
    unsigned faults = 6 + (unsigned)(next(&random) % 10);
    for (unsigned i = 0; i < faults; i++) {
        world_wait(world, next(&random) % (800 * SL_NS_PER_MS));
        one_fault(&chaos, &random);
        for (unsigned n = 1; n <= world->node_count; n++) {
            if (!world->nodes[n].up && next(&random) % 2 == 0)
                node_start(world, n);
        }
    }
    for (unsigned n = 1; n <= world->node_count; n++) {
        if (!world->nodes[n].up)
            node_start(world, n);
    }
    chaos.healed = true;
    if (!sl_sim_run_until(world->sim, sl_sim_now_ns(world->sim) + 300 * SL_NS_PER_S,
                          actors_are_done, &chaos))
        fail_msg("the clients hang");
    world_run(world, world_all_equal_co);
    world_run(world, compare_co);
    world_close(world);
}

static void seeds_pass(void **state)
{
    const char *text = getenv("SLUICE_TEST_SEEDS"), *from = getenv("SLUICE_TEST_SEED");
    uint64_t count = text != NULL ? strtoull(text, NULL, 10) : 12;
    uint64_t first = from != NULL ? strtoull(from, NULL, 10) : 1;
    for (uint64_t seed = first; seed < first + count; seed++) {
        fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
        run_seed(seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(seeds_pass)};
    if (getenv("SLUICE_TEST_LOG") == NULL)
        sl_log_set_level(SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
