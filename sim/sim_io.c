/*
 * Seam 1 of a simulated node: disks in memory. Streams, descriptors and doorbells are not there
 * (-EOPNOTSUPP): what needs them has no place in a simulation.
 *
 * Fault model of a disk: an operation takes a random time and may fail with EIO without effect. A
 * write is in the volatile cache when it completes, durable after a flush that began later, or at
 * once with SL_DISK_DURABLE. A crash decides for each 512-byte sector that is not durable, written
 * or in flight, whether it stays.
 */
#include "sim/sim_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"

#define SECTOR_BYTES 512u

struct image {
    struct sl_list node; /* sim->disks */
    char node_name[SIM_NAME_BYTES_MAX];
    char path[128];
    uint64_t capacity_bytes;
    uint8_t *current;
    uint8_t *durable;
    uint8_t *dirty;            /* a byte a sector */
    struct sl_list operations; /* struct operation, in flight */
    unsigned open_count;
    bool locked;
};

struct sl_disk_sim {
    struct sl_disk disk;
    struct image *image;
    bool read_only;
    bool exclusive;
};

struct operation {
    struct sim_event event;
    struct sl_list node;
    struct sl_disk_op *op;
    struct image *image;
    bool failed;
};

static struct sim_io *node_of(struct sl_io *io)
{
    return (struct sim_io *)(void *)io;
}

/* ---- images ---- */

static struct image *find_image(struct sl_sim *sim, const char *node_name, const char *path)
{
    sl_list_for_each(node, &sim->disks)
    {
        struct image *image = sl_list_entry(node, struct image, node);
        if (strcmp(image->node_name, node_name) == 0 && strcmp(image->path, path) == 0)
            return image;
    }
    return NULL;
}

static void free_image(struct image *image)
{
    free(image->current);
    free(image->durable);
    free(image->dirty);
    free(image);
}

int sl_sim_disk_create(struct sl_sim *sim, const char *node_name, const char *path,
                       uint64_t capacity_bytes)
{
    if (find_image(sim, node_name, path) != NULL)
        return -EEXIST;
    struct image *image = calloc(1, sizeof(*image));
    if (image == NULL)
        return -ENOMEM;
    snprintf(image->node_name, sizeof(image->node_name), "%s", node_name);
    snprintf(image->path, sizeof(image->path), "%s", path);
    image->capacity_bytes = sl_align_down(capacity_bytes, SL_BLOCK_BYTES);
    image->current = calloc(1, image->capacity_bytes + 1);
    image->durable = calloc(1, image->capacity_bytes + 1);
    image->dirty = calloc(1, image->capacity_bytes / SECTOR_BYTES + 1);
    if (image->current == NULL || image->durable == NULL || image->dirty == NULL) {
        free_image(image);
        return -ENOMEM;
    }
    sl_list_init(&image->operations);
    sl_list_append(&sim->disks, &image->node);
    return 0;
}

void sim_disks_free(struct sl_sim *sim)
{
    struct sl_list *node;
    while ((node = sl_list_pop(&sim->disks)) != NULL)
        free_image(sl_list_entry(node, struct image, node));
}

uint8_t *sl_sim_disk_data(struct sl_sim *sim, const char *node_name, const char *path)
{
    struct image *image = find_image(sim, node_name, path);
    return image != NULL ? image->current : NULL;
}

static void mark_dirty(struct image *image, uint64_t offset_bytes, uint64_t length_bytes)
{
    memset(image->dirty + offset_bytes / SECTOR_BYTES, 1, length_bytes / SECTOR_BYTES);
}

static void make_durable(struct image *image, uint64_t offset_bytes, uint64_t length_bytes)
{
    for (uint64_t at = offset_bytes; at < offset_bytes + length_bytes; at += SECTOR_BYTES) {
        if (image->dirty[at / SECTOR_BYTES] == 0)
            continue;
        memcpy(image->durable + at, image->current + at, SECTOR_BYTES);
        image->dirty[at / SECTOR_BYTES] = 0;
    }
}

static void transfer(const struct sl_disk_op *op, uint8_t *at, bool to_disk)
{
    for (unsigned i = 0; i < op->piece_count; i++) {
        if (to_disk)
            memcpy(at, op->pieces[i].iov_base, op->pieces[i].iov_len);
        else
            memcpy(op->pieces[i].iov_base, at, op->pieces[i].iov_len);
        at += op->pieces[i].iov_len;
    }
}

static void apply(struct image *image, const struct sl_disk_op *op)
{
    uint8_t *at = image->current + op->offset_bytes;
    switch (op->opcode) {
    case SL_DISK_READ:
        transfer(op, at, false);
        return;
    case SL_DISK_WRITE:
        transfer(op, at, true);
        break;
    case SL_DISK_DISCARD: /* contents undefined: something that nobody wrote */
        memset(at, 0xd5, op->length_bytes);
        break;
    case SL_DISK_WRITE_ZEROES:
        memset(at, 0, op->length_bytes);
        break;
    case SL_DISK_FLUSH:
        make_durable(image, 0, image->capacity_bytes);
        return;
    }
    mark_dirty(image, op->offset_bytes, op->length_bytes);
    if ((op->flags & SL_DISK_DURABLE) != 0)
        make_durable(image, op->offset_bytes, op->length_bytes);
}

int sl_sim_disk_crash(struct sl_sim *sim, const char *node_name, const char *path)
{
    struct image *image = find_image(sim, node_name, path);
    if (image == NULL)
        return -ENOENT;
    sl_list_for_each(node, &image->operations)
    {
        struct operation *operation = sl_list_entry(node, struct operation, node);
        if (operation->failed)
            continue;
        /* In flight: as if written and not durable; the loop below takes sectors back. */
        unsigned flags = operation->op->flags;
        operation->op->flags = 0;
        if (operation->op->opcode != SL_DISK_READ && operation->op->opcode != SL_DISK_FLUSH)
            apply(image, operation->op);
        operation->op->flags = flags;
        operation->failed = true;
    }
    uint64_t sectors = image->capacity_bytes / SECTOR_BYTES;
    for (uint64_t i = 0; i < sectors; i++) {
        if (image->dirty[i] == 0)
            continue;
        image->dirty[i] = 0;
        if (sl_sim_random(sim) % 2 == 0) {
            memcpy(image->durable + i * SECTOR_BYTES, image->current + i * SECTOR_BYTES,
                   SECTOR_BYTES);
        } else {
            memcpy(image->current + i * SECTOR_BYTES, image->durable + i * SECTOR_BYTES,
                   SECTOR_BYTES);
            sim->statistics.disk_lost_count++;
        }
    }
    sl_sim_trace(sim, NULL, "disk crash", sim->statistics.disk_lost_count, 0);
    return 0;
}

/* ---- operations ---- */

static int disk_open(struct sl_io *io, const char *path, const struct sl_disk_options *options,
                     struct sl_disk_info *info, struct sl_disk **result)
{
    struct sim_io *node = node_of(io);
    struct image *image = find_image(node->sim, node->name, path);
    if (image == NULL)
        return -ENOENT;
    if (image->locked && options->exclusive)
        return -EWOULDBLOCK;
    struct sl_disk_sim *disk = calloc(1, sizeof(*disk));
    if (disk == NULL)
        return -ENOMEM;
    disk->disk.io = io;
    disk->image = image;
    disk->read_only = options->read_only;
    disk->exclusive = options->exclusive;
    image->locked = image->locked || options->exclusive;
    image->open_count++;
    node->disk_count++;
    *info = (struct sl_disk_info){
        .capacity_bytes = image->capacity_bytes,
        .alignment_bytes = SECTOR_BYTES,
        .volatile_cache = true,
        .can_discard = true,
        .can_write_zeroes = true,
    };
    *result = &disk->disk;
    return 0;
}

static void disk_close(struct sl_disk *base)
{
    struct sl_disk_sim *disk = (struct sl_disk_sim *)(void *)base;
    if (disk->exclusive)
        disk->image->locked = false;
    disk->image->open_count--;
    node_of(base->io)->disk_count--;
    free(disk);
}

static uint32_t checksum(const struct sl_disk_op *op)
{
    uint32_t crc = 0;
    for (unsigned i = 0; i < op->piece_count; i++)
        crc = sl_crc32c(crc, op->pieces[i].iov_base, op->pieces[i].iov_len);
    return crc;
}

static void operation_done(struct sim_event *event)
{
    struct operation *operation = sl_container_of(event, struct operation, event);
    struct sl_disk_op *op = operation->op;
    struct sl_sim *sim = event->node->sim;
    int64_t result = op->opcode == SL_DISK_FLUSH ? 0 : (int64_t)op->length_bytes;
    if (operation->failed)
        result = -EIO;
    else
        apply(operation->image, op);
    sl_list_remove(&operation->node);
    sl_sim_trace(sim, &event->node->io, "disk", op->offset_bytes, (uint64_t)op->opcode);
    sl_sim_trace(sim, &event->node->io, result < 0 ? "disk error" : "disk data", checksum(op),
                 op->length_bytes);
    free(operation);
    sl_wait_wake(&op->wait, result);
}

static void operation_drop(struct sim_event *event)
{
    struct operation *operation = sl_container_of(event, struct operation, event);
    sl_list_remove(&operation->node);
    free(operation);
}

static void disk_submit(struct sl_disk_op *op)
{
    struct sl_disk_sim *disk = (struct sl_disk_sim *)(void *)op->disk;
    struct sim_io *node = node_of(op->disk->io);
    struct sl_sim *sim = node->sim;
    const struct sl_sim_storage *storage = &sim->config.storage;
    struct operation *operation = calloc(1, sizeof(*operation));
    SL_ASSERT(operation != NULL);
    operation->op = op;
    operation->image = disk->image;
    operation->event.fire = operation_done;
    operation->event.drop = operation_drop;
    bool is_read = op->opcode == SL_DISK_READ;
    if (disk->read_only && !is_read && op->opcode != SL_DISK_FLUSH) {
        operation->failed = true;
    } else if (sim_random_hits(sim, is_read ? storage->read_error_per_million
                                            : storage->write_error_per_million)) {
        operation->failed = true;
        sim->statistics.disk_error_count++;
    }
    uint64_t latency = sim_random_between(sim, storage->latency_min_ns, storage->latency_max_ns);
    if (sim_random_hits(sim, storage->slow_per_million)) {
        latency += storage->slow_ns;
        sim->statistics.slow_count++;
    }
    sl_list_append(&disk->image->operations, &operation->node);
    sim_event_arm(&operation->event, node, sim->now_ns + latency, "disk done");
}

/* ---- what is not simulated ---- */

static int listener_open(struct sl_io *io, const char *address, char *bound,
                         struct sl_listener **listener)
{
    return -EOPNOTSUPP;
}

static int stream_connect_co(struct sl_io *io, const char *address, uint64_t deadline_ns,
                             struct sl_stream **stream)
{
    return -EOPNOTSUPP;
}

static int stream_adopt(struct sl_io *io, int handle, struct sl_stream **stream)
{
    return -EOPNOTSUPP;
}

static int descriptor_wait_co(struct sl_io *io, int descriptor, short events, uint64_t deadline_ns)
{
    return -EOPNOTSUPP;
}

static void descriptor_cancel(struct sl_io *io, int descriptor)
{
}

static int doorbell_create(struct sl_io *io, int eventfd, void (*ring)(void *argument),
                           void *argument, struct sl_doorbell **doorbell)
{
    return -EOPNOTSUPP;
}

static int register_memory(struct sl_io *io, struct sl_memory *memory)
{
    return 0;
}

/* ---- the node ---- */

static void io_destroy(struct sl_io *io)
{
    struct sim_io *node = node_of(io);
    struct sl_sim *sim = node->sim;
    sim_events_drop(sim, node);
    SL_ASSERT(node->disk_count == 0);
    sim->nodes[node->index] = NULL;
    for (unsigned i = 0; i < SIM_NODES_MAX; i++)
        sim->partitioned[node->index][i] = sim->partitioned[i][node->index] = false;
    while (sim->node_count > 0 && sim->nodes[sim->node_count - 1] == NULL)
        sim->node_count--;
    free(node);
}

const struct sl_io_ops sim_io_ops = {
    .disk_open = disk_open,
    .disk_close = disk_close,
    .disk_submit = disk_submit,
    .listener_open = listener_open,
    .stream_connect_co = stream_connect_co,
    .stream_adopt = stream_adopt,
    .descriptor_wait_co = descriptor_wait_co,
    .descriptor_cancel = descriptor_cancel,
    .doorbell_create = doorbell_create,
    .register_memory = register_memory,
    .destroy = io_destroy,
};

int sl_sim_io_create(struct sl_sim *sim, const char *name, struct sl_io **io)
{
    unsigned index = 0;
    while (index < SIM_NODES_MAX && sim->nodes[index] != NULL)
        index++;
    if (index == SIM_NODES_MAX)
        return -ENOMEM;
    struct sim_io *node = calloc(1, sizeof(*node));
    if (node == NULL)
        return -ENOMEM;
    snprintf(node->name, sizeof(node->name), "%s", name);
    node->sim = sim;
    node->index = index;
    node->io.ops = &sim_io_ops;
    node->io.engine = sim_engine;
    node->io.engine.engine = node;
    sl_list_init(&node->due);
    sim_random_seed(&node->random, sim->config.seed ^ (0x6e6f6465 * ++sim->nodes_made));
    sim->nodes[index] = node;
    sim->node_count = sl_max(sim->node_count, index + 1);
    *io = &node->io;
    return 0;
}
