/*
 * Goal: a node with several disks spreads its groups over them by the room that they have; a disk
 * that fails stops its own groups and no other; a disk that has grown is used by all of its shards;
 * disks that do not fit together are refused.
 * Method: a node of the simulated cluster with two or three disks, on one reactor
 * (cluster_world.h); two reactors are in tests/system/cluster_test.py.
 */
#include "cluster_world.h"

enum { OTHER = GROUP + 1 };

static int create_co(struct cluster_world *world, uint32_t group, unsigned chunks)
{
    union sl_capsule reply;
    struct sl_group_admin admin = {.op = SL_GROUP_CREATE,
                                   .member_count = 1,
                                   .group = group,
                                   .size_bytes = chunks * SL_CHUNK_BYTES,
                                   .replica = REPLICA(group),
                                   .node = 1,
                                   .members = {{REPLICA(group), 1, SL_GROUP_VOTER}}};
    return client_admin_co(world, 1, &admin, &reply);
}

static unsigned disk_of(struct cluster_world *world, uint32_t group)
{
    const struct sl_target *target = world->nodes[1].target;
    const struct sl_replica *replica = sl_cluster_find(target->cluster, group);
    assert_non_null(replica);
    for (unsigned i = 0; i < world->disk_count; i++) {
        if (target->stores[i] == replica->store)
            return i;
    }
    fail_msg("group %u lies nowhere", group);
    return 0;
}

static void wait_role_co(struct cluster_world *world, uint32_t group, uint8_t role)
{
    struct sl_group_admin admin = {.op = SL_GROUP_STATUS, .group = group};
    for (unsigned tries = 0; tries < 2000; tries++) {
        union sl_capsule reply = {0};
        const struct sl_capsule_group_status *status = (const void *)&reply;
        if (client_admin_co(world, 1, &admin, &reply) == 0 && status->role == role &&
            (role != SL_GROUP_LEADER || (status->flags & SL_GROUP_SERVING) != 0))
            return;
        sl_sleep_co(10 * SL_NS_PER_MS);
    }
    fail_msg("group %u does not become %u", group, role);
}

static void restart(struct cluster_world *world, bool crash)
{
    node_end(world, 1, crash);
    node_start(world, 1);
}

/* ---- placement ---- */

static void spread_co(struct cluster_world *world)
{
    static const unsigned disks[] = {0, 1, 2, 0, 1, 2};
    for (uint32_t i = 0; i < SL_COUNT_OF(disks); i++) {
        assert_int_equal(create_co(world, GROUP + i, 1), 0);
        assert_int_equal(disk_of(world, GROUP + i), disks[i]);
    }
    /* A large one, then small ones elsewhere until that is even again. */
    assert_int_equal(create_co(world, 20, 3), 0);
    assert_int_equal(disk_of(world, 20), 0);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(create_co(world, 21 + i, 1), 0);
        assert_int_equal(disk_of(world, 21 + i), 1 + i % 2);
    }
    assert_int_equal(create_co(world, 27, 1), 0);
    assert_int_equal(disk_of(world, 27), 0);
    assert_int_equal(create_co(world, 27, 1), -EEXIST);
    world_attach_co(world);
    assert_int_equal(client_write_co(world, 0, 200, 1), 0);
}

static void still_there_co(struct cluster_world *world)
{
    client_expect_co(world, 0, 200, 1);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(disk_of(world, GROUP + i), i % 3);
    assert_int_equal(client_write_co(world, 200, 1, 2), 0);
}

static void groups_are_spread(void **state)
{
    struct cluster_world world;
    world_open_disks(&world, 1, 1, 3);
    world_run(&world, spread_co);
    restart(&world, true);
    world_run(&world, still_there_co);
    /* On one reactor each order will do: groups are found where they are. */
    const char *first = world.specs[0];
    world.specs[0] = world.specs[2];
    world.specs[2] = first;
    restart(&world, false);
    assert_int_equal(world.nodes[1].mount_error, 0);
    world_close(&world);
}

/* ---- failure ---- */

static void fail_disk_co(struct cluster_world *world)
{
    union sl_capsule request, reply;
    assert_int_equal(create_co(world, GROUP, 1), 0);
    assert_int_equal(create_co(world, OTHER, 2), 0);
    assert_int_equal(disk_of(world, GROUP), 0);
    assert_int_equal(disk_of(world, OTHER), 1);
    world_attach_co(world);
    assert_int_equal(client_write_co(world, 0, 8, 1), 0);
    wait_role_co(world, OTHER, SL_GROUP_LEADER);
    sl_sim_disk_faults(world->sim, "node1", disk_path(1))->write_error_per_million = 1000000;
    client_request(&request, SL_GROUP_SESSION_OPEN)->group = OTHER;
    request.group_io.io.session = 5;
    assert_int_not_equal(client_call_co(world, 1, &request, NULL, &reply), 0);
    wait_role_co(world, OTHER, SL_GROUP_STOPPED);
    const struct sl_target *target = world->nodes[1].target;
    assert_int_equal(sl_store_failed(target->stores[0]), 0);
    assert_int_not_equal(sl_store_failed(target->stores[1]), 0);
    /* The other disk's group goes on, and new ones are made there, however full it is. */
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(client_write_co(world, i, 8, 2 + i), 0);
    client_expect_co(world, 49, 8, 51);
    for (uint32_t group = 20; group < 24; group++) {
        assert_int_equal(create_co(world, group, 2), 0);
        assert_int_equal(disk_of(world, group), 0);
    }
    sl_sim_disk_faults(world->sim, "node1", disk_path(1))->write_error_per_million = 0;
}

static void both_serve_co(struct cluster_world *world)
{
    client_expect_co(world, 49, 8, 51);
    wait_role_co(world, OTHER, SL_GROUP_LEADER);
    assert_int_equal(disk_of(world, OTHER), 1);
}

static void failed_disk_stops_its_groups_only(void **state)
{
    struct cluster_world world;
    world_open_disks(&world, 2, 1, 2);
    world_run(&world, fail_disk_co);
    restart(&world, false);
    world_run(&world, both_serve_co);
    world_close(&world);
}

/* ---- disks that do not fit together ---- */

static void create_one_co(struct cluster_world *world)
{
    assert_int_equal(create_co(world, GROUP, 1), 0);
}

/* A copy of a disk beside it, whatever its name. */
static void copies_are_refused(void **state)
{
    struct cluster_world world;
    world_open_disks(&world, 3, 1, 2);
    node_end(&world, 1, false);
    uint8_t *copy = malloc(world.disk_bytes);
    assert_non_null(copy);
    memcpy(copy, sl_sim_disk_data(world.sim, "node1", disk_path(0)), world.disk_bytes);
    sl_sim_disk_restore(world.sim, "node1", disk_path(1), copy);
    free(copy);
    node_start(&world, 1);
    assert_int_equal(world.nodes[1].mount_error, -EEXIST);
    world_close(&world);
}

/* The group was made anew while its disk was away: which replica counts, the node cannot know. */
static void two_replicas_are_refused(void **state)
{
    struct cluster_world world;
    world_open_disks(&world, 4, 1, 2);
    world_run(&world, create_one_co);
    node_end(&world, 1, false);
    const char *first = world.specs[0];
    world.specs[0] = world.specs[1];
    world.disk_count = 1;
    node_start(&world, 1);
    world_run(&world, create_one_co);
    node_end(&world, 1, false);
    world.specs[0] = first;
    world.disk_count = 2;
    node_start(&world, 1);
    assert_int_equal(world.nodes[1].mount_error, -EEXIST);
    world_close(&world);
}

static void expect_refusal(const char *const *specs, unsigned count, int code, const char *words)
{
    struct sl_storage_config config = {
        .spec = specs[0], .more = specs + 1, .more_count = count - 1, .reactor_count = 1};
    struct sl_storage *storage = NULL;
    char error[512];
    assert_int_equal(sl_storage_open(&config, &storage, error, sizeof(error)), code);
    assert_null(storage);
    if (strstr(error, words) == NULL)
        fail_msg("'%s' does not say '%s'", error, words);
}

static void lists_are_checked(void **state)
{
    static const char *const twice[] = {"store:sim:a", "store:sim:b", "store:sim:a"};
    static const char *const mixed[] = {"store:sim:a", "file:sim:b"};
    static const char *const memory[] = {"mem:1M", "store:sim:b"};
    static const char *const absent[] = {"store:sim:a", "store:/nowhere/disk"};
    const char *many[SL_STORAGE_DISKS_MAX + 1];
    for (unsigned i = 0; i < SL_COUNT_OF(many); i++)
        many[i] = "store:sim:a";
    expect_refusal(twice, 3, -EEXIST, "'sim:a' are one disk");
    expect_refusal(mixed, 2, -EINVAL, "'file:sim:b'");
    expect_refusal(memory, 2, -EINVAL, "'mem:1M'");
    expect_refusal(absent, 2, -ENOENT, "/nowhere/disk");
    expect_refusal(many, SL_COUNT_OF(many), -EINVAL, "at most 16");
}

/* ---- growth ---- */

/* Both shards, the second one although the first has nothing left to do: it grew, and the other
 * failed, when this was asked before. It never grew then. */
static void grow_rest_co(struct cluster_world *world)
{
    struct sl_target *target = world->nodes[1].target;
    struct sl_store_statistics before[2], now;
    char error[512];
    uint64_t grown_bytes = world->disk_bytes + 64 * SL_MIB;
    for (unsigned i = 0; i < 2; i++)
        sl_store_statistics(target->stores[i], &before[i]);
    assert_int_equal(sl_sim_disk_grow(world->sim, "node1", disk_path(0), grown_bytes), 0);
    /* What the target asks, in this order. */
    uint64_t capacity_bytes;
    assert_int_equal(sl_disk_measure(target->disks[0], &capacity_bytes), 0);
    assert_int_equal(capacity_bytes, grown_bytes);
    assert_int_equal(sl_store_grow_co(target->stores[0], capacity_bytes, error, sizeof(error)), 0);
    sl_target_grow_co(target);
    for (unsigned i = 0; i < 2; i++) {
        sl_store_statistics(target->stores[i], &now);
        assert_true(now.slot_count > before[i].slot_count);
    }
}

static void every_shard_grows(void **state)
{
    struct cluster_world world;
    world_open(&world, 3, 1);
    node_end(&world, 1, false);
    world.shard_count = 2;
    world.segment_count *= 2;
    node_format(&world, 1);
    node_start(&world, 1);
    assert_int_equal(world.nodes[1].mount_error, 0);
    world_run(&world, grow_rest_co);
    world_close(&world);
}

/* ---- groups that end with their disk ---- */

static bool has_ended;

static void fail_store_co(void *argument)
{
    sl_cluster_store_failed_co(argument);
    has_ended = true;
}

/* One that is being opened cannot be, and is freed while another of its disk ends: it was the next
 * one that was to end. */
static void opening_ends_co(struct cluster_world *world)
{
    assert_int_equal(create_co(world, GROUP, 1), 0);
    assert_int_equal(create_co(world, OTHER, 1), 0);
    sl_sleep_co(SL_NS_PER_S);
    struct sl_target_cluster *cluster = world->nodes[1].target->cluster;
    struct sl_replica *first = sl_cluster_find(cluster, GROUP);
    struct sl_replica *second = sl_cluster_find(cluster, OTHER);
    struct sl_replica opening = {.cluster = cluster, .store = first->store};
    struct sl_store_group_status status;
    sl_sim_disk_faults(world->sim, world->nodes[1].name, DISK_PATH)->full = true;
    sl_store_group_status(first->log, &status);
    assert_int_equal(sl_store_vote_co(first->log, status.term, status.vote), -ENOSPC);
    sl_list_append(&cluster->replicas, &opening.node);
    assert_false(first->failed || second->failed || second->locked);
    second->locked = true;
    has_ended = false;
    assert_int_equal(sl_co_spawn(world->nodes[1].node.reactor, fail_store_co, first), 0);
    sl_sleep_co(SL_NS_PER_MS);
    assert_true(first->failed && !second->failed && !has_ended);
    sl_list_remove(&opening.node);
    memset(&opening, 0xff, sizeof(opening)); /* freed */
    assert_true(sl_wait_queue_wake_one(&second->lock, 0));
    sl_sleep_co(SL_NS_PER_MS);
    assert_true(second->failed && has_ended);
}

static void opening_ends(void **state)
{
    struct cluster_world world;
    world_open(&world, 9, 1);
    world_run(&world, opening_ends_co);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_are_spread),  cmocka_unit_test(failed_disk_stops_its_groups_only),
        cmocka_unit_test(copies_are_refused), cmocka_unit_test(two_replicas_are_refused),
        cmocka_unit_test(every_shard_grows),  cmocka_unit_test(lists_are_checked),
        cmocka_unit_test(opening_ends),
    };
    if (getenv("SLUICE_TEST_LOG") == NULL)
        sl_log_set_level(SL_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
