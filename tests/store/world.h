/* What the tests of the store share: a simulated node with a disk, a store on it, blocks that tell
 * what they are. */
#ifndef TESTS_STORE_WORLD_H
#define TESTS_STORE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/log.h"
#include "sim/sim_disk.h"
#include "store/chunk.h"

#define NODE "node"
#define DISK "disk"

struct store_world {
    struct sl_sim *sim;
    uint64_t seed;
    struct sl_sim_node node;
    struct sl_disk *disk;
    struct sl_store *store;
    uint64_t memory_bytes;
    uint64_t format_bytes;         /* the disk is formatted as if it had only so many; 0 = all */
    struct sl_store_config config; /* what is set here before opening */
    char error[512];
    int open_error;
    void (*body_co)(struct store_world *world);
    void *argument;
    bool done;
    unsigned pending;
    struct sl_wait joined;
};

static inline void world_make(struct store_world *world, const struct sl_sim_config *config,
                              uint64_t disk_bytes)
{
    *world = (struct store_world){.memory_bytes = 16 * SL_MIB, .seed = config->seed};
    assert_int_equal(sl_sim_create(config, &world->sim), 0);
    assert_int_equal(sl_sim_disk_create(world->sim, NODE, DISK, disk_bytes), 0);
}

static inline bool world_is_done(void *argument)
{
    return ((struct store_world *)argument)->done;
}

static inline int world_open_co(struct store_world *world)
{
    struct sl_store_config config = world->config;
    config.io = world->node.io;
    config.memory = world->node.memory;
    config.disk = world->disk;
    config.name = DISK;
    world->open_error =
        sl_store_open_co(&config, &world->store, world->error, sizeof(world->error));
    if (world->open_error < 0)
        world->store = NULL;
    return world->open_error;
}

static inline void world_close_co(struct store_world *world)
{
    sl_store_close_co(world->store);
    world->store = NULL;
}

static inline void world_main_co(void *argument)
{
    struct store_world *world = argument;
    world->body_co(world);
    world->done = true;
}

/* For who looks why it hangs. */
static inline void world_explain(const struct sl_store *store)
{
    const struct wal *wal = &store->wal;
    fprintf(
        stderr,
        "failed %d; segments %llu to %llu of %u, at block %u of %u; %llu blocks set aside; %llu "
        "waiting for room, %d for a batch, %d for what is applied; held %llu of %llu, pending "
        "%llu; checkpoint running %d, forced %d; "
        "writers %u; %u slots free, %u set aside\n",
        store->failed, (unsigned long long)wal->tail_generation,
        (unsigned long long)wal->head_generation, wal->segment_count, wal->head_position,
        wal->segment_blocks, (unsigned long long)wal->reserved_blocks,
        (unsigned long long)!sl_wait_queue_is_empty(&wal->room),
        !sl_wait_queue_is_empty(&wal->durable), !sl_wait_queue_is_empty(&store->apply_progress),
        (unsigned long long)store->held_bytes, (unsigned long long)store->overlay_limit,
        (unsigned long long)store->pending_bytes, store->checkpoint_running, store->apply_forced,
        wal->writer_count, store->slots_free, store->slots_reserved);
    for (const struct sl_list *node = store->pending.next; node != &store->pending;
         node = node->next) {
        const struct entry *entry = sl_container_of(node, struct entry, pending);
        if (entry->index > entry->group->apply_to)
            continue;
        fprintf(stderr,
                "to be applied: group %llu index %llu type %u generation %llu references %u; "
                "chunk %u applying %d users %u readers %u %u\n",
                (unsigned long long)entry->group->id, (unsigned long long)entry->index, entry->type,
                (unsigned long long)entry->generation, entry->references, entry->chunk->number,
                entry->chunk->applying, entry->chunk->users, entry->chunk->readers[0],
                entry->chunk->readers[1]);
    }
}

/* A life of the node: opens it and the disk, runs the body to its end, and puts it out. */
static inline void world_run(struct store_world *world, void (*body_co)(struct store_world *world),
                             void *argument)
{
    struct sl_disk_options options = {.exclusive = true, .read_only = world->config.read_only};
    world->body_co = body_co;
    world->argument = argument;
    world->done = false;
    assert_int_equal(sl_sim_node_open(world->sim, NODE, 0, world->memory_bytes, &world->node), 0);
    assert_int_equal(
        sl_disk_open(world->node.io, DISK, &options, &world->config.disk_info, &world->disk), 0);
    assert_int_equal(sl_co_spawn(world->node.reactor, world_main_co, world), 0);
    if (!sl_sim_run_until(world->sim, sl_sim_now_ns(world->sim) + 3600 * SL_NS_PER_S, world_is_done,
                          world)) {
        if (world->store != NULL)
            world_explain(world->store);
        fail_msg("SEED=%llu: it hangs", (unsigned long long)world->seed);
    }
    sl_disk_close(world->disk);
    sl_sim_node_close(&world->node);
}

static inline void world_free(struct store_world *world)
{
    sl_sim_destroy(world->sim);
}

static inline void world_spawn(struct store_world *world, sl_co_fn fn, void *argument)
{
    world->pending++;
    assert_int_equal(sl_co_spawn(world->node.reactor, fn, argument), 0);
}

static inline void world_leave(struct store_world *world)
{
    if (--world->pending == 0)
        sl_wait_wake(&world->joined, 0);
}

static inline void world_join_co(struct store_world *world)
{
    (void)sl_wait_co(&world->joined);
    sl_wait_init(&world->joined);
}

static inline void world_format_co(struct store_world *world)
{
    struct sl_store_format *format = world->argument;
    struct sl_disk_info info = world->config.disk_info;
    if (world->format_bytes != 0)
        info.capacity_bytes = world->format_bytes;
    int error = sl_store_format_co(world->disk, &info, world->node.memory, format, world->error,
                                   sizeof(world->error));
    if (error < 0)
        fprintf(stderr, "format: %s\n", world->error);
    assert_int_equal(error, 0);
}

static inline void world_format(struct store_world *world, uint64_t segment_bytes,
                                unsigned segment_count)
{
    struct sl_store_format format = {
        .layout = {.segment_bytes = segment_bytes, .wal_bytes = segment_bytes * segment_count},
        .disk_id = "a disk for tests",
        .salt = UINT64_C(0x1122334455667788),
    };
    world_run(world, world_format_co, &format);
}

/* ---- blocks that tell what they are: 0 = zeroes ---- */

static inline uint64_t block_word(uint64_t id, unsigned i)
{
    uint64_t x = id * UINT64_C(0x9e3779b97f4a7c15) + i;
    x ^= x >> 29;
    return x * UINT64_C(0xbf58476d1ce4e5b9);
}

static inline void block_fill(uint8_t *data, uint64_t id)
{
    uint64_t *words = (uint64_t *)(void *)data;
    words[0] = id;
    for (unsigned i = 1; i < SL_BLOCK_BYTES / 8; i++)
        words[i] = id == 0 ? 0 : block_word(id, i);
}

#define BLOCK_TORN UINT64_MAX

/* Its id, or BLOCK_TORN. */
static inline uint64_t block_id(const uint8_t *data)
{
    const uint64_t *words = (const uint64_t *)(const void *)data;
    for (unsigned i = 1; i < SL_BLOCK_BYTES / 8; i++) {
        if (words[i] != (words[0] == 0 ? 0 : block_word(words[0], i)))
            return BLOCK_TORN;
    }
    return words[0];
}

/* Blocks with ids from `first_id` on, in `pieces` buffers. */
static inline void payload_make_co(struct store_world *world, struct sl_iobuf *payload,
                                   uint64_t first_id, unsigned block_count, unsigned pieces)
{
    sl_iobuf_init(payload);
    for (unsigned done = 0, i = 0; done < block_count; i++) {
        unsigned step = i + 1 >= pieces ? block_count - done
                                        : sl_min(block_count - done, block_count / pieces + 1);
        struct sl_buf *buf =
            sl_buf_alloc_co(world->node.memory, step * SL_BLOCK_BYTES, SL_RESERVE_ADMISSION);
        for (unsigned k = 0; k < step; k++)
            block_fill(buf->data + k * SL_BLOCK_BYTES, first_id + done + k);
        assert_int_equal(sl_iobuf_append_buf(payload, buf, 0, step * SL_BLOCK_BYTES), 0);
        sl_buf_unref(buf);
        done += step;
    }
}

static inline int write_ids_co(struct store_world *world, struct sl_store_group *group,
                               uint32_t chunk, uint16_t first_block, uint16_t block_count,
                               uint64_t first_id)
{
    struct sl_iobuf payload;
    payload_make_co(world, &payload, first_id, block_count, 1 + first_id % 3);
    int error =
        sl_store_write_co(group, SL_ENTRY_WRITE, chunk, first_block, block_count, &payload, NULL);
    sl_iobuf_fini(&payload);
    return error;
}

static inline void iobuf_ids(const struct sl_iobuf *data, uint64_t *ids)
{
    for (unsigned i = 0; i < data->span_count; i++) {
        for (unsigned at = 0; at < data->spans[i].length_bytes; at += SL_BLOCK_BYTES)
            *ids++ = block_id(data->spans[i].data + at);
    }
}

/* Both ways of reading, by turns. */
static inline int read_ids_co(struct store_world *world, struct sl_store_group *group,
                              uint32_t chunk, uint16_t first_block, uint16_t block_count,
                              uint64_t *ids)
{
    struct sl_iobuf data;
    sl_iobuf_init(&data);
    int error;
    if (sl_sim_random(world->sim) % 2 == 0) {
        error = sl_store_read_co(group, chunk, first_block, block_count, &data);
    } else {
        struct sl_buf *buf =
            sl_buf_alloc_co(world->node.memory, block_count * SL_BLOCK_BYTES, SL_RESERVE_ADMISSION);
        memset(buf->data, 0x77, block_count * SL_BLOCK_BYTES);
        assert_int_equal(sl_iobuf_append_buf(&data, buf, 0, block_count * SL_BLOCK_BYTES), 0);
        sl_buf_unref(buf);
        error = sl_store_read_into_co(group, chunk, first_block, block_count, data.spans,
                                      data.span_count);
    }
    if (error == 0)
        iobuf_ids(&data, ids);
    sl_iobuf_fini(&data);
    return error;
}

#endif
