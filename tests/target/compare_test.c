/*
 * Goal: what a disk has lost, or what replicas disagree about, is found while nobody reads it, and
 * mended from the others. Method: targets in the simulator whose disks are spoilt behind their
 * backs, with the scrub on.
 */
#include "cluster_world.h"

#include "core/crc32c.h"
#include "store/chunk.h"

enum { BLOCK = 700, COUNT = 8, VALUE = 4242 };

static void make_co(struct cluster_world *world)
{
    world_create_group_co(world);
    world_attach_co(world);
    assert_int_equal(client_write_co(world, BLOCK, COUNT, VALUE), 0);
}

static void restart_all(struct cluster_world *world)
{
    for (unsigned i = 1; i <= world->node_count; i++)
        node_end(world, i, false);
    for (unsigned i = 1; i <= world->node_count; i++)
        node_start(world, i);
}

static void settle_co(struct cluster_world *world)
{
    client_expect_co(world, BLOCK, COUNT, VALUE);
    sl_sleep_co(SL_NS_PER_S);
}

/* Written, and no longer in any log. */
static void open_settled(struct cluster_world *world, uint64_t seed, unsigned node_count)
{
    world_open(world, seed, node_count);
    world_run(world, make_co);
    restart_all(world);
    world_run(world, settle_co);
    restart_all(world);
    world_run(world, settle_co);
}

/* ---- the scrub of each replica ---- */

static struct sl_store_statistics statistics_of(struct cluster_world *world, unsigned number)
{
    struct sl_store_statistics now;
    sl_store_statistics(world->nodes[number].target->stores[0], &now);
    return now;
}

/* What the scrub found was only told: in a cluster it has to be mended, on a follower, which nobody
 * reads, above all. */
static void scrub_repairs(void **state)
{
    struct cluster_world world;
    open_settled(&world, 1, 3);
    world.scrub_bytes_per_s = 64 * SL_MIB;
    for (unsigned i = 1; i <= 3; i++)
        node_end(&world, i, false);
    unsigned spoilt = world.leader % 3 + 1;
    assert_true(node_find_block(&world, spoilt, BLOCK + 3, VALUE, true) > 0);
    for (unsigned i = 1; i <= 3; i++)
        node_start(&world, i);
    world_wait(&world, 20 * SL_NS_PER_S);
    assert_true(node_find_block(&world, spoilt, BLOCK + 3, VALUE, false) > 0);
    assert_int_equal(statistics_of(&world, spoilt).scrub_finding_count, 1);
    assert_int_equal(statistics_of(&world, world.leader).scrub_finding_count, 0);
    assert_int_equal(statistics_of(&world, spoilt).scrub_pass_count, 1);
    world_close(&world);
}

/* Nobody has it any more: it is told, and nothing is made up. */
static void scrub_makes_nothing_up(void **state)
{
    struct cluster_world world;
    open_settled(&world, 2, 3);
    world.scrub_bytes_per_s = 64 * SL_MIB;
    for (unsigned i = 1; i <= 3; i++) {
        node_end(&world, i, false);
        assert_true(node_find_block(&world, i, BLOCK, VALUE, true) > 0);
    }
    for (unsigned i = 1; i <= 3; i++)
        node_start(&world, i);
    world_wait(&world, 60 * SL_NS_PER_S);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(node_find_block(&world, i, BLOCK, VALUE, false), 0);
        assert_int_equal(statistics_of(&world, i).scrub_finding_count, 1);
        assert_int_equal(statistics_of(&world, i).scrub_pass_count, 1);
    }
    world_close(&world);
}

/* ---- who could give, were it connected ---- */

/* One attempt at the leader. */
static int read_once_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    struct sl_group_message *io = client_request(&request, SL_IO_READ);
    io->offset_bytes = BLOCK * SL_BLOCK_BYTES;
    io->length_bytes = SL_BLOCK_BYTES;
    client_describe(world, &request, SL_MIB, io->length_bytes);
    return client_call_co(world, world->leader, &request, NULL, &reply);
}

static struct sl_peer_connection *connection_to(struct cluster_world *world, unsigned from,
                                                unsigned to)
{
    return &sl_peer_find(world->nodes[from].target->cluster, to)->connections[0];
}

static void expect_later_co(struct cluster_world *world)
{
    struct sl_connection *connections[WORLD_NODES + 1] = {NULL};
    for (unsigned i = 1; i <= 3; i++) {
        if (i == world->leader)
            continue;
        connections[i] = connection_to(world, i, world->leader)->connection;
        assert_non_null(connections[i]);
        connection_to(world, i, world->leader)->connection = NULL;
    }
    assert_int_equal(read_once_co(world), -SL_E_MOVED);
    for (unsigned i = 1; i <= 3; i++) {
        if (i != world->leader)
            connection_to(world, i, world->leader)->connection = connections[i];
    }
    assert_int_equal(read_once_co(world), 0);
}

/* A replica that has the block, and no connection to who asks, said EIO: the reader was told that
 * its block is lost. */
static void giver_is_not_connected(void **state)
{
    struct cluster_world world;
    open_settled(&world, 3, 3);
    assert_true(node_find_block(&world, world.leader, BLOCK, VALUE, true) > 0);
    world_run(&world, expect_later_co);
    world_close(&world);
}

/* The scrub, or the clock, of a group that is open already wants a peer while the disk is slow to
 * open the next one (cluster_sim, seed 2038: a crash at the start). */
static void peers_before_groups(void **state)
{
    struct cluster_world world;
    open_settled(&world, 12, 3);
    unsigned number = world.leader % 3 + 1;
    node_end(&world, number, false);
    world.hurried = true;
    node_start(&world, number);
    world_run(&world, settle_co);
    node_end(&world, 6 - number - world.leader, false);
    world_run(&world, settle_co);
    world_close(&world);
}

/* ---- memory ---- */

static struct sl_buf *pages[16384];
static unsigned page_count;

/* All that intake can have in small buffers. */
static void take_pages(struct sl_memory *memory)
{
    for (uint32_t bytes = 16 * SL_KIB; bytes >= SL_BLOCK_BYTES; bytes /= 2) {
        struct sl_buf *buf;
        while ((buf = sl_buf_alloc(memory, bytes, SL_RESERVE_INTAKE)) != NULL) {
            assert_true(page_count < SL_COUNT_OF(pages));
            pages[page_count++] = buf;
        }
    }
}

static uint64_t used_bytes(const struct sl_memory *memory)
{
    struct sl_memory_statistics now;
    sl_memory_statistics(memory, &now);
    return now.used_bytes;
}

static struct sl_replica *asker;
static unsigned repaired_count;

static void repair_co(void *argument)
{
    struct cluster_world *world = argument;
    struct sl_iobuf data;
    uint64_t ticket = asker->cluster->fetch_ticket;
    sl_iobuf_init(&data);
    assert_int_equal(sl_replica_repair_co(asker, 0, BLOCK, COUNT, world->leader, &data), 0);
    assert_int_equal(asker->cluster->fetch_ticket, ticket + 1); /* at once */
    assert_int_equal(data.length_bytes, COUNT * SL_BLOCK_BYTES);
    sl_iobuf_fini(&data);
    repaired_count++;
}

static void ask_co(struct cluster_world *world)
{
    struct sl_reactor *reactor = world->nodes[world->leader % 3 + 1].node.reactor;
    assert_int_equal(sl_co_spawn(reactor, repair_co, world), 0);
}

static void resync_co(struct cluster_world *world)
{
    struct sl_raft_replica to = {.id = REPLICA(world->leader % 3 + 1),
                                 .node = world->leader % 3 + 1};
    sl_replica_resync(sl_cluster_find(world->nodes[world->leader].target->cluster, GROUP), to);
}

static void expect_nothing_taken_co(struct cluster_world *world, unsigned number,
                                    void (*begin_co)(struct cluster_world *world))
{
    struct sl_memory *memory = world->nodes[number].node.memory;
    take_pages(memory);
    struct sl_buf *large = sl_buf_alloc(memory, SL_REGION_BYTES, SL_RESERVE_INTAKE);
    assert_non_null(large);
    sl_buf_unref(large);
    uint64_t before = used_bytes(memory);
    begin_co(world);
    sl_sleep_co(50 * SL_NS_PER_MS);
    assert_in_range(used_bytes(memory), 0, before + COUNT * SL_BLOCK_BYTES - 1);
    while (page_count > 0)
        sl_buf_unref(pages[--page_count]);
    sl_sleep_co(SL_NS_PER_S);
}

static void short_of_pages_co(struct cluster_world *world)
{
    asker = sl_cluster_find(world->nodes[world->leader % 3 + 1].target->cluster, GROUP);
    expect_nothing_taken_co(world, world->leader % 3 + 1, ask_co);
    assert_int_equal(repaired_count, 1);
    expect_nothing_taken_co(world, world->leader, ask_co);
    assert_int_equal(repaired_count, 2);
    expect_nothing_taken_co(world, world->leader, resync_co);
    client_expect_co(world, BLOCK, COUNT, VALUE);
}

/* Requests have a small buffer and wait for a large one: who has a large one and waited for a small
 * one, as a repair did, its giver, and the source of a resync, could wait for those for ever. */
static void small_before_large(void **state)
{
    struct cluster_world world;
    open_settled(&world, 16, 3);
    world_run(&world, short_of_pages_co);
    world_close(&world);
}

/* ---- replicas compared ---- */

static struct sl_replica *replica_of(struct cluster_world *world, unsigned number)
{
    return sl_cluster_find(world->nodes[number].target->cluster, GROUP);
}

/* What the test does to one node's store, from there. */
static struct {
    uint64_t block, value; /* in chunk 0 */
    unsigned count;
    bool in_log; /* and in no slot yet */
} forge;

/* Everything fits: data, checksum, table. Only the others know that it is not what was written. */
static void forge_slot(uint8_t *disk, struct chunk *chunk, unsigned block, const uint8_t *data)
{
    uint32_t slot = chunk->table->regions[block / SL_REGION_BLOCKS].slot;
    assert_int_not_equal(slot, SL_SLOT_NONE);
    memcpy(disk + slot_offset(chunk->group->store, slot) +
               (uint64_t)(block % SL_REGION_BLOCKS) * SL_BLOCK_BYTES,
           data, SL_BLOCK_BYTES);
    chunk->table->crcs[block] = sl_crc_stored(sl_crc32c(0, data, SL_BLOCK_BYTES));
    chunk->dirty_index = 0;
}

/* The same while it stands in the log alone. */
static void forge_entry(struct entry *entry, unsigned block, const uint8_t *data)
{
    unsigned at = block - entry->first_block;
    assert_int_equal(entry->span_count, 1);
    memcpy(entry->spans[0].data + at * SL_BLOCK_BYTES, data, SL_BLOCK_BYTES);
    entry->crcs[at] = sl_crc32c(0, data, SL_BLOCK_BYTES);
}

static void forge_co(struct cluster_world *world, unsigned number)
{
    static uint8_t data[SL_BLOCK_BYTES];
    uint8_t *disk = sl_sim_disk_data(world->sim, world->nodes[number].name, DISK_PATH);
    struct sl_store *store = world->nodes[number].target->stores[0];
    struct chunk *chunk = chunk_find(store, GROUP, 0);
    assert_non_null(chunk);
    assert_int_equal(chunk_use_co(chunk), 0);
    for (unsigned i = 0; i < forge.count; i++) {
        unsigned block = (unsigned)forge.block + i;
        struct entry *entry = overlay_get(chunk, block);
        fill_block(data, block, forge.value);
        assert_int_equal(entry != NULL, forge.in_log);
        if (entry != NULL)
            forge_entry(entry, block, data);
        else
            forge_slot(disk, chunk, block, data);
    }
    chunk_unuse(chunk);
}

static void forge_blocks(struct cluster_world *world, unsigned number, uint64_t block,
                         unsigned count, uint64_t value)
{
    forge.block = block;
    forge.count = count;
    forge.value = value;
    node_run(world, number, forge_co);
}

static void forge_in_log(struct cluster_world *world, unsigned number, uint64_t block,
                         uint64_t value)
{
    forge.in_log = true;
    forge_blocks(world, number, block, 1, value);
    forge.in_log = false;
}

/* What one node has of a block, leader or not. */
static struct {
    uint64_t block;
    uint32_t crc;
    bool condemn; /* and takes it for damaged */
} look;

static void look_co(struct cluster_world *world, unsigned number)
{
    struct sl_store_group *log = replica_of(world, number)->log;
    uint32_t crcs[SL_REGION_BLOCKS];
    uint64_t index;
    unsigned block = (unsigned)look.block;
    assert_int_equal(sl_store_region_crcs_co(log, 0, block / SL_REGION_BLOCKS, &index, crcs), 0);
    look.crc = crcs[block % SL_REGION_BLOCKS];
    if (look.condemn)
        chunk_find(log->store, GROUP, 0)->table->crcs[block] = SL_CRC_DAMAGED;
}

static uint32_t look_at(struct cluster_world *world, unsigned number, uint64_t block, bool condemn)
{
    look.block = block;
    look.condemn = condemn;
    node_run(world, number, look_co);
    return look.crc;
}

static void expect_at(struct cluster_world *world, unsigned number, uint64_t block, uint64_t value)
{
    static uint8_t data[SL_BLOCK_BYTES];
    fill_block(data, block, value);
    uint32_t crc = value == 0 ? SL_CRC32C_ZERO_BLOCK : sl_crc32c(0, data, sizeof(data));
    assert_int_equal(look_at(world, number, block, false), sl_crc_stored(crc));
}

static unsigned differences_of(struct cluster_world *world, unsigned number)
{
    return replica_of(world, number)->differences;
}

static uint64_t mended_of(struct cluster_world *world, unsigned number)
{
    return world->nodes[number].target->cluster->compared.mended_count;
}

static unsigned all_differences(struct cluster_world *world)
{
    unsigned sum = 0;
    for (unsigned i = 1; i <= world->node_count; i++)
        sum += world->nodes[i].up ? differences_of(world, i) : 0;
    return sum;
}

static void open_compared(struct cluster_world *world, uint64_t seed, unsigned node_count)
{
    world_open(world, seed, node_count);
    world_run(world, make_co);
    restart_all(world);
    world_run(world, settle_co);
    world->scrub_bytes_per_s = SL_GIB;
    world->compare_pause_ns = 100 * SL_NS_PER_MS;
    restart_all(world);
    world_run(world, settle_co);
}

static void expect_written_co(struct cluster_world *world)
{
    client_expect_co(world, BLOCK, COUNT, VALUE);
}

/* One of three has another content, with its checksum, and so has its table: a follower, then the
 * leader. And where the others have nothing. */
static void difference_is_mended(void **state)
{
    struct cluster_world world;
    for (unsigned who = 0; who < 2; who++) {
        open_compared(&world, 4 + who, 3);
        unsigned leader = world.leader, deviant = who == 0 ? leader % 3 + 1 : leader;
        assert_int_equal(all_differences(&world), 0);
        forge_blocks(&world, deviant, BLOCK + 2, 1, 17);
        forge_blocks(&world, deviant, BLOCK + COUNT + 1, 1, 18);
        expect_at(&world, deviant, BLOCK + 2, 17);
        world_wait(&world, 5 * SL_NS_PER_S);
        assert_int_equal(differences_of(&world, leader), 2);
        assert_int_equal(mended_of(&world, leader), 2);
        for (unsigned i = 1; i <= 3; i++) {
            expect_at(&world, i, BLOCK + 2, VALUE);
            expect_at(&world, i, BLOCK + COUNT + 1, 0);
        }
        assert_true(node_find_block(&world, deviant, BLOCK + 2, VALUE, false) > 0);
        world_run(&world, expect_written_co);
        restart_all(&world);
        world_run(&world, expect_written_co);
        world_wait(&world, 5 * SL_NS_PER_S);
        assert_int_equal(all_differences(&world), 0);
        world_close(&world);
    }
}

/* Two replicas: nobody can say who is right; nobody's word is changed. The regions behind are
 * looked at all the same: one has a block that is known to be damaged. */
static void difference_without_majority(void **state)
{
    struct cluster_world world;
    open_compared(&world, 6, 2);
    unsigned leader = world.leader, other = 3 - leader;
    forge_blocks(&world, other, BLOCK, 1, 17);
    look_at(&world, other, BLOCK + 5, true);
    assert_true((BLOCK + 5) / SL_REGION_BLOCKS > BLOCK / SL_REGION_BLOCKS);
    world_wait(&world, 5 * SL_NS_PER_S);
    assert_true(differences_of(&world, leader) >= 1);
    assert_int_equal(mended_of(&world, leader), 1);
    expect_at(&world, other, BLOCK, 17);
    expect_at(&world, leader, BLOCK, VALUE);
    expect_at(&world, other, BLOCK + 5, VALUE);
    world_close(&world);
}

/* A follower is outvoted. What the others agree on can be read at one of them, or at nobody: then
 * its copy is the last one, and stays. */
static void majority_is_damaged(void **state)
{
    for (unsigned gone = 1; gone <= 2; gone++) {
        struct cluster_world world;
        open_compared(&world, 20 + gone, 3);
        unsigned alone = world.leader == 3 ? 2 : 3;
        for (unsigned i = 1, damaged = 0; i <= 3; i++) {
            if (i != alone)
                forge_blocks(&world, i, BLOCK + 2, 1, 17);
            if (i != alone && damaged++ < gone)
                assert_true(node_find_block(&world, i, BLOCK + 2, 17, true) > 0);
        }
        world_wait(&world, 5 * SL_NS_PER_S);
        assert_true(differences_of(&world, world.leader) >= 1);
        expect_at(&world, alone, BLOCK + 2, gone == 1 ? 17 : VALUE);
        assert_true(node_find_block(&world, alone, BLOCK + 2, gone == 1 ? 17 : VALUE, false) > 0);
        world_close(&world);
    }
}

static void status_co(struct cluster_world *world)
{
    struct sl_capsule_group_status status;
    assert_int_equal(client_status_co(world, world->leader, &status), 0);
    assert_true(status.differences >= 1);
}

/* One of three is away: the two others are a majority only as long as they agree. */
static void difference_while_one_is_away(void **state)
{
    struct cluster_world world;
    open_compared(&world, 7, 3);
    unsigned leader = world.leader, deviant = leader % 3 + 1, away = 6 - leader - deviant;
    node_end(&world, away, false);
    forge_blocks(&world, deviant, BLOCK, 1, 17);
    world_wait(&world, 5 * SL_NS_PER_S);
    expect_at(&world, deviant, BLOCK, 17);
    world_run(&world, status_co);
    node_start(&world, away);
    world_wait(&world, 5 * SL_NS_PER_S);
    expect_at(&world, deviant, BLOCK, VALUE);
    world_close(&world);
}

/* More than an answer has room for, the whole region of one and a part of the next. */
static void many_differences(void **state)
{
    struct cluster_world world;
    open_compared(&world, 8, 3);
    unsigned leader = world.leader, deviant = leader % 3 + 1;
    uint64_t first = BLOCK / SL_REGION_BLOCKS * SL_REGION_BLOCKS;
    forge_blocks(&world, deviant, first, SL_REGION_BLOCKS, 17);
    world_wait(&world, 10 * SL_NS_PER_S);
    assert_int_equal(differences_of(&world, leader), SL_REGION_BLOCKS);
    for (unsigned i = 0; i < SL_REGION_BLOCKS; i++)
        expect_at(&world, deviant, first + i,
                  first + i >= BLOCK && first + i < BLOCK + COUNT ? VALUE : 0);
    world_close(&world);
}

static void write_again_co(struct cluster_world *world)
{
    assert_int_equal(client_write_co(world, BLOCK, COUNT, VALUE), 0);
    sl_sleep_co(SL_NS_PER_S);
}

/* It stands in the log yet: its slot comes first. */
static void difference_in_the_log(void **state)
{
    struct cluster_world world;
    open_compared(&world, 9, 3);
    unsigned leader = world.leader, deviant = leader % 3 + 1;
    world_run(&world, write_again_co);
    forge_in_log(&world, deviant, BLOCK + 4, 17);
    world_wait(&world, 5 * SL_NS_PER_S);
    assert_int_equal(differences_of(&world, leader), 1);
    assert_int_equal(mended_of(&world, leader), 1);
    expect_at(&world, deviant, BLOCK + 4, VALUE);
    world_close(&world);
}

static struct {
    struct sl_replica *replica;
    uint32_t crc;
    unsigned from;
    bool done;
} replace;

static void replace_co(void *argument)
{
    int error = sl_replica_replace_co(replace.replica, 0, BLOCK + 4, replace.crc, replace.from);
    assert_true(error == 0 || error == -ESTALE || error == -EBUSY); /* or later */
    replace.done = true;
}

static void replace_again_co(struct cluster_world *world, unsigned number)
{
    (void)sl_store_checkpoint_co(replace.replica->store);
    replace_co(NULL);
}

static void write_beside_co(struct cluster_world *world)
{
    unsigned deviant = world->leader % 3 + 1, writes = 0;
    assert_int_equal(sl_co_spawn(world->nodes[deviant].node.reactor, replace_co, NULL), 0);
    while (!replace.done && writes < 1000)
        assert_int_equal(client_write_co(world, BLOCK + 20, 1, 500 + writes++), 0);
    assert_true(replace.done);
    sl_sleep_co(SL_NS_PER_S);
}

/* Others of its region are written meanwhile: it is replaced or stays, it is not lost. */
static void replaced_under_writes(void **state)
{
    struct cluster_world world;
    open_settled(&world, 30, 3);
    unsigned leader = world.leader, deviant = leader % 3 + 1;
    world_run(&world, write_again_co);
    forge_in_log(&world, deviant, BLOCK + 4, 17);
    replace.crc = look_at(&world, deviant, BLOCK + 4, false);
    replace.from = leader;
    replace.replica = replica_of(&world, deviant);
    replace.done = false;
    world_run(&world, write_beside_co);
    assert_int_not_equal(look_at(&world, deviant, BLOCK + 4, false), SL_CRC_DAMAGED);
    for (unsigned i = 0; i < 2; i++) /* nothing is written any more */
        node_run(&world, deviant, replace_again_co);
    expect_at(&world, deviant, BLOCK + 4, VALUE);
    world_close(&world);
}

/* A block whose damage is known has no voice, and is no difference; it is mended on the way. */
static void damage_is_no_difference(void **state)
{
    struct cluster_world world;
    open_compared(&world, 10, 3);
    for (unsigned i = 1; i <= 3; i++) {
        if (i == 2)
            continue;
        expect_at(&world, i, BLOCK + i, VALUE);
        look_at(&world, i, BLOCK + i, true);
    }
    world_wait(&world, 5 * SL_NS_PER_S);
    assert_int_equal(all_differences(&world), 0);
    expect_at(&world, 1, BLOCK + 1, VALUE);
    expect_at(&world, 3, BLOCK + 3, VALUE);
    assert_int_equal(mended_of(&world, world.leader), 2);
    world_close(&world);
}

/* One sound copy is enough where nobody has another; whose it is does not matter. */
static void damage_of_two(void **state)
{
    struct cluster_world world;
    open_compared(&world, 14, 3);
    for (unsigned sound = 1; sound <= 3; sound++) {
        for (unsigned i = 1; i <= 3; i++) {
            if (i != sound)
                look_at(&world, i, BLOCK + sound, true);
        }
    }
    world_wait(&world, 5 * SL_NS_PER_S);
    assert_int_equal(all_differences(&world), 0);
    for (unsigned i = 1; i <= 3; i++) {
        for (unsigned sound = 1; sound <= 3; sound++)
            expect_at(&world, i, BLOCK + sound, VALUE);
    }
    assert_int_equal(mended_of(&world, world.leader), 6);
    world_close(&world);
}

static void write_regions_co(struct cluster_world *world)
{
    for (unsigned i = 0; i < 32; i++)
        assert_int_equal(client_write_co(world, i * SL_REGION_BLOCKS, 1, VALUE), 0);
}

/* As fast as the scrub: each chunk counts with its regions, and an empty one with 4 MiB. */
static void comparison_is_paced(void **state)
{
    struct cluster_world world;
    open_settled(&world, 15, 3);
    world_run(&world, write_regions_co);
    world.scrub_bytes_per_s = 4 * SL_MIB;
    world.compare_pause_ns = 100 * SL_NS_PER_MS;
    restart_all(&world);
    world_run(&world, settle_co);
    /* 34 regions in the first chunk: 8.5 MiB; nothing in the three others. */
    uint64_t pass_ns = (85 + 3 * 40) * SL_NS_PER_S / 40 + world.compare_pause_ns;
    uint64_t before = world.nodes[world.leader].target->cluster->compared.chunk_count;
    world_wait(&world, 10 * pass_ns);
    uint64_t chunks = world.nodes[world.leader].target->cluster->compared.chunk_count - before;
    assert_in_range(chunks, 40 - 1, 40 + 1);
    world_close(&world);
}

static void write_for_long_co(struct cluster_world *world)
{
    for (unsigned i = 0; i < 1500; i++) {
        uint64_t value = world->sequence + 1;
        assert_int_equal(client_write_co(world, value % 61 * 31, 1 + i % 32, value), 0);
    }
}

/* Writes, elections, a replica that is away until it needs a resync: never a difference. */
static void clean_is_clean(void **state)
{
    struct cluster_world world;
    open_compared(&world, 11, 3);
    world_run(&world, write_for_long_co);
    for (unsigned round = 0; round < 3; round++) {
        unsigned away = round == 0 ? world.leader : world.leader % 3 + 1;
        node_end(&world, away, round % 2 == 0);
        assert_int_equal(all_differences(&world), 0);
        world_run(&world, write_for_long_co);
        node_start(&world, away);
        world_run(&world, write_for_long_co);
        assert_int_equal(all_differences(&world), 0);
    }
    world_wait(&world, 5 * SL_NS_PER_S);
    assert_int_equal(all_differences(&world), 0);
    assert_true(world.nodes[world.leader].target->cluster->compared.pass_count > 3);
    world_close(&world);
}

/* ---- the source of a resync ---- */

static void write_block_co(struct cluster_world *world)
{
    assert_int_equal(client_write_co(world, BLOCK + 5000, 1, VALUE), 0);
}

static void all_follow_co(struct cluster_world *world)
{
    for (unsigned tries = 0; tries < 500; tries++) {
        struct sl_capsule_group_status a, b;
        bool equal = true;
        for (unsigned i = 1; i <= 3; i++)
            equal = equal && client_status_co(world, world->leader, &a) == 0 &&
                    client_status_co(world, i, &b) == 0 && a.last == b.applied;
        if (equal)
            return;
        sl_sleep_co(20 * SL_NS_PER_MS);
    }
    fail_msg("a replica does not follow");
}

static void expect_block_co(struct cluster_world *world)
{
    client_expect_co(world, BLOCK + 5000, 1, VALUE);
}

/* It has a damaged block, and the third replica a sound one: the resync ended early, began anew,
 * ended early, and so on. */
static void source_is_damaged(void **state)
{
    struct cluster_world world;
    open_settled(&world, 13, 3);
    unsigned away = world.leader % 3 + 1;
    node_end(&world, away, false);
    world_run(&world, write_block_co);
    world_run(&world, write_for_long_co);
    world_run(&world, write_for_long_co);
    assert_true(node_find_block(&world, world.leader, BLOCK + 5000, VALUE, true) > 0);
    node_start(&world, away);
    world_run(&world, all_follow_co);
    assert_true(node_find_block(&world, away, BLOCK + 5000, VALUE, false) > 0);
    assert_true(node_find_block(&world, world.leader, BLOCK + 5000, VALUE, false) > 0);
    world_run(&world, expect_block_co);
    world_close(&world);
}

/* ---- a giver that is wrong ---- */

static void read_lost_co(struct cluster_world *world)
{
    assert_int_equal(client_read_co(world, BLOCK, COUNT), -SL_E_CHECKSUM);
}

/* What is damaged here has a checksum here: what another replica gives is no good if it has another
 * one, though it fits its own. The reader was given it. */
static void giver_is_wrong(void **state)
{
    struct cluster_world world;
    open_settled(&world, 14, 3);
    unsigned leader = world.leader, first = leader == 1 ? 2 : 1, second = 6 - leader - first;
    forge_blocks(&world, first, BLOCK + 3, 1, 17);
    assert_true(node_find_block(&world, leader, BLOCK + 3, VALUE, true) > 0);
    world_run(&world, expect_written_co);
    assert_true(node_find_block(&world, leader, BLOCK + 3, VALUE, false) > 0);
    forge_blocks(&world, second, BLOCK + 3, 1, 18);
    assert_true(node_find_block(&world, leader, BLOCK + 3, VALUE, true) > 0);
    world_run(&world, read_lost_co);
    assert_int_equal(world.leader, leader);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scrub_repairs),
        cmocka_unit_test(scrub_makes_nothing_up),
        cmocka_unit_test(giver_is_not_connected),
        cmocka_unit_test(peers_before_groups),
        cmocka_unit_test(small_before_large),
        cmocka_unit_test(difference_is_mended),
        cmocka_unit_test(difference_without_majority),
        cmocka_unit_test(majority_is_damaged),
        cmocka_unit_test(difference_while_one_is_away),
        cmocka_unit_test(many_differences),
        cmocka_unit_test(difference_in_the_log),
        cmocka_unit_test(replaced_under_writes),
        cmocka_unit_test(damage_is_no_difference),
        cmocka_unit_test(damage_of_two),
        cmocka_unit_test(comparison_is_paced),
        cmocka_unit_test(clean_is_clean),
        cmocka_unit_test(source_is_damaged),
        cmocka_unit_test(giver_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
