/* Disks of the simulator, their faults and their crashes. See sim_disk.h. */
#include "sim/sim_disk.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "sim/sim_private.h"

#define SECTOR_BYTES 512u

/* Where a block's content is: of large ranges of zeroes, and of what was discarded, only this is
 * kept until somebody writes there. */
enum place {
    PLACE_ZEROES = 0,
    PLACE_BYTES,
    PLACE_DISCARDED, /* contents undefined: something that nobody wrote */
};
#define DISCARDED_BYTE 0xd5

struct medium {
    uint8_t *bytes;
    uint8_t *places; /* enum place, a block each */
    bool eager;      /* somebody looks at the bytes from outside */
};

struct image {
    struct sl_list node; /* sim->disks */
    char node_name[SIM_NAME_BYTES_MAX];
    char path[128];
    uint64_t capacity_bytes;
    struct medium current, durable;
    struct sl_list unsynced;   /* struct write: completed ones in order of completion, then those in
                                * flight */
    struct sl_list operations; /* struct operation, in flight */
    struct sl_sim_disk_faults faults;
    uint64_t fail_begin, fail_end;
    bool fail_reads, fail_writes;
    uint64_t event_count;
    uint64_t stop_at;
    uint32_t incarnation;   /* counts crashes: who opened it before one is dead */
    struct sl_list handles; /* struct disk */
    unsigned open_count;
    bool locked;
    bool off;
};

struct disk {
    struct sl_disk disk;
    struct sl_list node; /* image->handles */
    struct image *image;
    uint32_t incarnation;
    bool read_only;
    bool exclusive;
};

/* What a write did or will do to the medium. */
struct write {
    struct sl_list node; /* image->unsynced */
    uint64_t offset_bytes, length_bytes;
    uint64_t completed_at; /* event count; 0 = in flight */
    uint8_t *data;         /* NULL: as `place` says */
    enum place place;      /* then */
    uint8_t *alive;        /* a byte a sector: 0 = something newer is durable there */
};

struct operation {
    struct sim_event event;
    struct sl_list node;
    struct sl_disk_op *op;
    struct image *image;
    struct write *write; /* of writes, discards and zeroes */
    uint64_t submitted_at;
    uint64_t read_offset; /* where it really reads */
    int error;
};

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

static void write_free(struct write *write)
{
    sl_list_remove(&write->node);
    free(write->data);
    free(write->alive);
    free(write);
}

static void unsynced_clear(struct image *image)
{
    struct sl_list *node;
    while ((node = sl_list_first(&image->unsynced)) != NULL)
        write_free(sl_list_entry(node, struct write, node));
}

/* ---- a medium ---- */

static bool medium_make(struct medium *medium, uint64_t bytes)
{
    medium->bytes = sim_malloc(bytes + 1); /* until `places` says that they are bytes: anything */
    medium->places = sim_calloc(1, bytes / SL_BLOCK_BYTES + 1);
    return medium->bytes != NULL && medium->places != NULL;
}

static void medium_free(struct medium *medium)
{
    free(medium->bytes);
    free(medium->places);
}

static bool medium_enlarge(struct medium *medium, uint64_t from, uint64_t to)
{
    uint8_t *bytes = sim_realloc(medium->bytes, to + 1);
    uint8_t *places = sim_realloc(medium->places, to / SL_BLOCK_BYTES + 1);
    medium->bytes = bytes != NULL ? bytes : medium->bytes;
    medium->places = places != NULL ? places : medium->places;
    if (bytes == NULL || places == NULL)
        return false;
    memset(places + from / SL_BLOCK_BYTES, PLACE_ZEROES, (to - from) / SL_BLOCK_BYTES + 1);
    return true;
}

static uint8_t byte_of(enum place place)
{
    return place == PLACE_DISCARDED ? DISCARDED_BYTE : 0;
}

/* Into its bytes with it. */
static void block_settle(struct medium *medium, uint64_t block)
{
    enum place place = medium->places[block];
    if (place != PLACE_BYTES)
        memset(medium->bytes + block * SL_BLOCK_BYTES, byte_of(place), SL_BLOCK_BYTES);
    medium->places[block] = PLACE_BYTES;
}

/* From now on all of its bytes are what they should be. */
static uint8_t *medium_show(struct medium *medium, uint64_t bytes)
{
    for (uint64_t block = 0; block < bytes / SL_BLOCK_BYTES; block++)
        block_settle(medium, block);
    medium->eager = true;
    return medium->bytes;
}

/* The end of the block of `offset`, or `end`. */
static uint64_t block_end(uint64_t offset, uint64_t end)
{
    return sl_min(end, (offset / SL_BLOCK_BYTES + 1) * SL_BLOCK_BYTES);
}

/* `data`, or, if that is NULL, what `place` says. */
static void medium_put(struct medium *medium, uint64_t offset, const uint8_t *data,
                       enum place place, uint64_t bytes)
{
    for (uint64_t at = offset, next; at < offset + bytes; at = next) {
        uint64_t block = at / SL_BLOCK_BYTES;
        next = block_end(at, offset + bytes);
        bool whole = next - at == SL_BLOCK_BYTES;
        if (data == NULL && whole && !medium->eager) {
            medium->places[block] = (uint8_t)place;
            continue;
        }
        if (!whole)
            block_settle(medium, block);
        medium->places[block] = PLACE_BYTES;
        if (data != NULL)
            memcpy(medium->bytes + at, data + (at - offset), next - at);
        else
            memset(medium->bytes + at, byte_of(place), next - at);
    }
}

static void medium_get(const struct medium *medium, uint64_t offset, uint8_t *to, uint64_t bytes)
{
    for (uint64_t at = offset, next; at < offset + bytes; at = next) {
        enum place place = medium->places[at / SL_BLOCK_BYTES];
        next = block_end(at, offset + bytes);
        if (place == PLACE_BYTES)
            memcpy(to + (at - offset), medium->bytes + at, next - at);
        else
            memset(to + (at - offset), byte_of(place), next - at);
    }
}

/* Blocks of `to` that [begin, end) touches become those of `from`. */
static void medium_copy(struct medium *to, const struct medium *from, uint64_t begin, uint64_t end)
{
    for (uint64_t block = begin / SL_BLOCK_BYTES; block * SL_BLOCK_BYTES < end; block++) {
        uint64_t at = block * SL_BLOCK_BYTES;
        bool filled = from->places[block] != PLACE_BYTES;
        medium_put(to, at, filled ? NULL : from->bytes + at, from->places[block], SL_BLOCK_BYTES);
    }
}

static void image_free(struct image *image)
{
    unsynced_clear(image);
    medium_free(&image->current);
    medium_free(&image->durable);
    free(image);
}

int sl_sim_disk_create(struct sl_sim *sim, const char *node_name, const char *path,
                       uint64_t capacity_bytes)
{
    if (find_image(sim, node_name, path) != NULL)
        return -EEXIST;
    struct image *image = sim_calloc(1, sizeof(*image));
    if (image == NULL)
        return -ENOMEM;
    snprintf(image->node_name, sizeof(image->node_name), "%s", node_name);
    snprintf(image->path, sizeof(image->path), "%s", path);
    image->capacity_bytes = sl_align_down(capacity_bytes, SL_BLOCK_BYTES);
    sl_list_init(&image->operations);
    sl_list_init(&image->unsynced);
    sl_list_init(&image->handles);
    if (!medium_make(&image->current, image->capacity_bytes) ||
        !medium_make(&image->durable, image->capacity_bytes)) {
        image_free(image);
        return -ENOMEM;
    }
    sl_list_append(&sim->disks, &image->node);
    return 0;
}

int sl_sim_disk_grow(struct sl_sim *sim, const char *node_name, const char *path,
                     uint64_t capacity_bytes)
{
    struct image *image = find_image(sim, node_name, path);
    capacity_bytes = sl_align_down(capacity_bytes, SL_BLOCK_BYTES);
    if (image == NULL)
        return -ENOENT;
    if (capacity_bytes < image->capacity_bytes)
        return -EINVAL;
    if (!medium_enlarge(&image->current, image->capacity_bytes, capacity_bytes) ||
        !medium_enlarge(&image->durable, image->capacity_bytes, capacity_bytes))
        return -ENOMEM;
    image->capacity_bytes = capacity_bytes;
    if (image->current.eager)
        medium_show(&image->current, capacity_bytes);
    return 0;
}

void sim_disks_free(struct sl_sim *sim)
{
    struct sl_list *node;
    while ((node = sl_list_pop(&sim->disks)) != NULL)
        image_free(sl_list_entry(node, struct image, node));
}

uint8_t *sl_sim_disk_data(struct sl_sim *sim, const char *node_name, const char *path)
{
    struct image *image = find_image(sim, node_name, path);
    return image != NULL ? medium_show(&image->current, image->capacity_bytes) : NULL;
}

struct sl_sim_disk_faults *sl_sim_disk_faults(struct sl_sim *sim, const char *node_name,
                                              const char *path)
{
    struct image *image = find_image(sim, node_name, path);
    return image != NULL ? &image->faults : NULL;
}

int sl_sim_disk_fail_range(struct sl_sim *sim, const char *node_name, const char *path,
                           uint64_t begin_bytes, uint64_t end_bytes, bool reads, bool writes)
{
    struct image *image = find_image(sim, node_name, path);
    if (image == NULL)
        return -ENOENT;
    image->fail_begin = begin_bytes;
    image->fail_end = end_bytes;
    image->fail_reads = reads;
    image->fail_writes = writes;
    return 0;
}

/* ---- writes between submission and durability ---- */

static void gather(const struct sl_disk_op *op, uint8_t *to)
{
    for (unsigned i = 0; i < op->piece_count; i++) {
        memcpy(to, op->pieces[i].iov_base, op->pieces[i].iov_len);
        to += op->pieces[i].iov_len;
    }
}

static bool is_zeroes(const struct sl_disk_op *op)
{
    for (unsigned i = 0; i < op->piece_count; i++) {
        const uint8_t *at = op->pieces[i].iov_base;
        size_t bytes = op->pieces[i].iov_len;
        if (bytes > 0 && (at[0] != 0 || memcmp(at, at + 1, bytes - 1) != 0))
            return false;
    }
    return true;
}

static struct write *write_begin(struct image *image, const struct sl_disk_op *op)
{
    struct write *write = sim_calloc(1, sizeof(*write));
    SL_ASSERT(write != NULL);
    write->offset_bytes = op->offset_bytes;
    write->length_bytes = op->length_bytes;
    write->alive = sim_malloc(op->length_bytes / SECTOR_BYTES);
    SL_ASSERT(write->alive != NULL);
    memset(write->alive, 1, op->length_bytes / SECTOR_BYTES);
    write->place = op->opcode == SL_DISK_DISCARD ? PLACE_DISCARDED : PLACE_ZEROES;
    if (op->opcode == SL_DISK_WRITE && !is_zeroes(op)) { /* as these a format's take no memory */
        write->data = sim_malloc(op->length_bytes);
        SL_ASSERT(write->data != NULL);
        gather(op, write->data);
    }
    sl_list_append(&image->unsynced, &write->node);
    return write;
}

/* The sectors [from, to) of it that are alive, onto the medium. Answers how many. */
static uint64_t write_put(const struct write *write, uint64_t from, uint64_t to,
                          struct medium *medium)
{
    uint64_t count = 0;
    to = sl_min(to, write->length_bytes / SECTOR_BYTES);
    for (uint64_t i = from, end; i < to; i = end + 1) {
        for (end = i; end < to && write->alive[end] != 0;)
            end++;
        medium_put(medium, write->offset_bytes + i * SECTOR_BYTES,
                   write->data != NULL ? write->data + i * SECTOR_BYTES : NULL, write->place,
                   (end - i) * SECTOR_BYTES);
        count += end - i;
    }
    return count;
}

/* It is durable: what completed before it can no longer come up in its place. */
static void write_make_durable(struct image *image, struct write *write)
{
    uint64_t end = write->offset_bytes + write->length_bytes;
    write_put(write, 0, UINT64_MAX, &image->durable);
    sl_list_for_each(node, &image->unsynced)
    {
        struct write *other = sl_list_entry(node, struct write, node);
        if (other == write || other->completed_at == 0)
            break;
        uint64_t from = sl_max(other->offset_bytes, write->offset_bytes);
        uint64_t to = sl_min(other->offset_bytes + other->length_bytes, end);
        if (from < to)
            memset(other->alive + (from - other->offset_bytes) / SECTOR_BYTES, 0,
                   (to - from) / SECTOR_BYTES);
    }
    write_free(write);
}

static void write_complete(struct image *image, struct write *write, bool durable)
{
    medium_put(&image->current, write->offset_bytes, write->data, write->place,
               write->length_bytes);
    write->completed_at = image->event_count;
    sl_list_remove(&write->node);
    /* Behind the last that completed. */
    struct sl_list *at = image->unsynced.next;
    while (at != &image->unsynced && sl_container_of(at, struct write, node)->completed_at != 0)
        at = at->next;
    sl_list_insert_before(at, &write->node);
    if (durable)
        write_make_durable(image, write);
}

/* What had completed when the flush was submitted. */
static void flush(struct image *image, uint64_t submitted_at)
{
    sl_list_for_each(node, &image->unsynced)
    {
        struct write *write = sl_list_entry(node, struct write, node);
        if (write->completed_at == 0 || write->completed_at > submitted_at)
            break;
        write_put(write, 0, UINT64_MAX, &image->durable);
        write_free(write);
    }
}

/* ---- crashes ---- */

static void power_off(struct image *image)
{
    image->off = true;
    image->incarnation++;
    sl_list_for_each(node, &image->operations)
    {
        sl_list_entry(node, struct operation, node)->error = -EIO;
    }
}

static void count_event(struct image *image)
{
    if (++image->event_count == image->stop_at)
        power_off(image);
}

static void settle_write(struct sl_sim *sim, struct image *image, const struct write *write)
{
    uint64_t sectors = write->length_bytes / SECTOR_BYTES, kept = 0;
    switch (sl_sim_random(sim) % 5) {
    case 0:
        break;
    case 1: /* torn, front or back */
        kept = write_put(write, 0, sl_sim_random(sim) % (sectors + 1), &image->durable);
        break;
    case 2:
        kept = write_put(write, sl_sim_random(sim) % (sectors + 1), sectors, &image->durable);
        break;
    case 3: /* anywhere */
        for (uint64_t i = 0; i < sectors; i++) {
            if (sl_sim_random(sim) % 2 == 0)
                kept += write_put(write, i, i + 1, &image->durable);
        }
        break;
    default:
        kept = write_put(write, 0, sectors, &image->durable);
    }
    sim->statistics.disk_lost_count += sectors - kept;
    sim->statistics.disk_torn_count += kept > 0 && kept < sectors;
}

int sl_sim_disk_crash(struct sl_sim *sim, const char *node_name, const char *path)
{
    struct image *image = find_image(sim, node_name, path);
    if (image == NULL)
        return -ENOENT;
    power_off(image);
    sl_list_for_each(node, &image->unsynced)
    {
        settle_write(sim, image, sl_list_entry(node, struct write, node));
    }
    sl_list_for_each(node, &image->operations)
    {
        sl_list_entry(node, struct operation, node)->write = NULL;
    }
    /* Nowhere else do the two differ. */
    sl_list_for_each(node, &image->unsynced)
    {
        const struct write *write = sl_list_entry(node, struct write, node);
        medium_copy(&image->current, &image->durable, write->offset_bytes,
                    write->offset_bytes + write->length_bytes);
    }
    unsynced_clear(image);
    image->off = false;
    sl_sim_trace(sim, NULL, "disk crash", sim->statistics.disk_lost_count, 0);
    return 0;
}

/* What was submitted, the kernel does or not; nobody learns of it. */
static void finish_orphans(struct sl_sim *sim, struct image *image)
{
    sl_list_for_each(node, &image->operations)
    {
        struct operation *operation = sl_list_entry(node, struct operation, node);
        if (operation->write == NULL)
            continue;
        bool durable = (operation->op->flags & SL_DISK_DURABLE) != 0;
        if (operation->error == 0 && sl_sim_random(sim) % 2 == 0)
            write_complete(image, operation->write, durable);
        else
            write_free(operation->write);
        operation->write = NULL;
    }
    image->incarnation++;
}

void sim_disks_crash(struct sl_sim *sim, const char *node_name, bool power)
{
    sl_list_for_each(node, &sim->disks)
    {
        struct image *image = sl_list_entry(node, struct image, node);
        if (strcmp(image->node_name, node_name) != 0)
            continue;
        if (power)
            sl_sim_disk_crash(sim, node_name, image->path);
        else
            finish_orphans(sim, image);
        struct sl_list *handle;
        while ((handle = sl_list_pop(&image->handles)) != NULL)
            free(sl_list_entry(handle, struct disk, node));
        image->open_count = 0;
        image->locked = false;
    }
}

int sl_sim_disk_stop_at(struct sl_sim *sim, const char *node_name, const char *path,
                        uint64_t event_number)
{
    struct image *image = find_image(sim, node_name, path);
    if (image == NULL)
        return -ENOENT;
    image->stop_at = event_number;
    return 0;
}

uint64_t sl_sim_disk_events(struct sl_sim *sim, const char *node_name, const char *path)
{
    return find_image(sim, node_name, path)->event_count;
}

bool sl_sim_disk_is_off(struct sl_sim *sim, const char *node_name, const char *path)
{
    return find_image(sim, node_name, path)->off;
}

unsigned sl_sim_disk_unsynced(struct sl_sim *sim, const char *node_name, const char *path)
{
    struct image *image = find_image(sim, node_name, path);
    unsigned count = 0;
    sl_list_for_each(node, &image->unsynced)
    {
        count++;
    }
    return count;
}

void sl_sim_disk_outcome(struct sl_sim *sim, const char *node_name, const char *path,
                         uint64_t keep_mask, unsigned torn, uint64_t torn_from, uint64_t torn_to,
                         uint8_t *content)
{
    struct image *image = find_image(sim, node_name, path);
    struct medium outcome = {.bytes = content,
                             .places = sim_calloc(1, image->capacity_bytes / SL_BLOCK_BYTES + 1),
                             .eager = true};
    unsigned index = 0;
    SL_ASSERT(outcome.places != NULL);
    medium_copy(&outcome, &image->durable, 0, image->capacity_bytes);
    sl_list_for_each(node, &image->unsynced)
    {
        const struct write *write = sl_list_entry(node, struct write, node);
        if (index == torn)
            write_put(write, torn_from, torn_to, &outcome);
        else if (index < 64 && (keep_mask >> index & 1) != 0)
            write_put(write, 0, UINT64_MAX, &outcome);
        index++;
    }
    free(outcome.places);
}

void sl_sim_disk_restore(struct sl_sim *sim, const char *node_name, const char *path,
                         const uint8_t *content)
{
    struct image *image = find_image(sim, node_name, path);
    SL_ASSERT(image->open_count == 0);
    unsynced_clear(image);
    medium_put(&image->current, 0, content, PLACE_ZEROES, image->capacity_bytes);
    medium_put(&image->durable, 0, content, PLACE_ZEROES, image->capacity_bytes);
    image->off = false;
    image->stop_at = 0;
}

/* ---- operations ---- */

static struct disk *disk_of(struct sl_disk *disk)
{
    return sl_container_of(disk, struct disk, disk);
}

static struct sim_io *node_of(struct sl_io *io)
{
    return (struct sim_io *)(void *)io;
}

int sim_disk_open(struct sl_io *io, const char *path, const struct sl_disk_options *options,
                  struct sl_disk_info *info, struct sl_disk **result)
{
    struct sim_io *node = node_of(io);
    struct image *image = find_image(node->sim, node->name, path);
    if (image == NULL)
        return -ENOENT;
    if (image->locked && options->exclusive && options->share_with == NULL)
        return -EWOULDBLOCK;
    struct disk *disk = sim_calloc(1, sizeof(*disk));
    if (disk == NULL)
        return -ENOMEM;
    disk->disk.io = io;
    disk->image = image;
    disk->incarnation = image->incarnation;
    disk->read_only = options->read_only;
    disk->exclusive = options->exclusive && options->share_with == NULL;
    image->locked = image->locked || options->exclusive;
    image->open_count++;
    sl_list_append(&image->handles, &disk->node);
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

int sim_disk_measure(struct sl_disk *disk, uint64_t *capacity_bytes)
{
    *capacity_bytes = disk_of(disk)->image->capacity_bytes;
    return 0;
}

void sim_disk_close(struct sl_disk *base)
{
    struct disk *disk = disk_of(base);
    if (disk->exclusive)
        disk->image->locked = false;
    disk->image->open_count--;
    node_of(base->io)->disk_count--;
    sl_list_remove(&disk->node);
    free(disk);
}

static uint32_t checksum(const struct sl_disk_op *op)
{
    uint32_t crc = 0;
    for (unsigned i = 0; i < op->piece_count; i++)
        crc = sl_crc32c(crc, op->pieces[i].iov_base, op->pieces[i].iov_len);
    return crc;
}

static void operation_apply(struct operation *operation)
{
    struct sl_disk_op *op = operation->op;
    struct image *image = operation->image;
    if (op->opcode == SL_DISK_READ) {
        uint64_t from = operation->read_offset;
        for (unsigned i = 0; i < op->piece_count; i++) {
            medium_get(&image->current, from, op->pieces[i].iov_base, op->pieces[i].iov_len);
            from += op->pieces[i].iov_len;
        }
    } else if (op->opcode == SL_DISK_FLUSH) {
        flush(image, operation->submitted_at);
    } else if (operation->write != NULL) {
        write_complete(image, operation->write, (op->flags & SL_DISK_DURABLE) != 0);
    }
}

static void operation_done(struct sim_event *event)
{
    struct operation *operation = sl_container_of(event, struct operation, event);
    struct sl_disk_op *op = operation->op;
    struct sl_sim *sim = event->node->sim;
    /* A stop at this event is one right after the completion: its caller never learns of it. */
    if (operation->error == 0)
        operation_apply(operation);
    else if (operation->write != NULL && !operation->image->off)
        write_free(operation->write); /* failed without effect */
    sl_list_remove(&operation->node);
    if (operation->error == 0) {
        count_event(operation->image);
        operation->error = operation->image->off ? -EIO : 0;
    }
    int64_t result = op->opcode == SL_DISK_FLUSH ? 0 : (int64_t)op->length_bytes;
    if (operation->error < 0)
        result = operation->error;
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

static bool touches(const struct sl_disk_op *op, uint64_t begin, uint64_t end)
{
    return op->offset_bytes < end && begin < op->offset_bytes + op->length_bytes;
}

/* Another place in [begin, end) for `op`, or its own if there is none. */
static uint64_t elsewhere(struct sl_sim *sim, const struct sl_disk_op *op, uint64_t begin,
                          uint64_t end)
{
    if (end - begin < op->length_bytes)
        return op->offset_bytes;
    uint64_t places = (end - begin - op->length_bytes) / SL_BLOCK_BYTES + 1;
    return begin + sl_sim_random(sim) % places * SL_BLOCK_BYTES;
}

static void draw_read_faults(struct sl_sim *sim, struct operation *operation, uint64_t begin,
                             uint64_t end)
{
    struct image *image = operation->image;
    const struct sl_disk_op *op = operation->op;
    if (sim_random_hits(sim, image->faults.rot_per_million)) {
        uint64_t at = op->offset_bytes + sl_sim_random(sim) % op->length_bytes;
        uint8_t bit = (uint8_t)(1u << sl_sim_random(sim) % 8);
        block_settle(&image->current, at / SL_BLOCK_BYTES);
        block_settle(&image->durable, at / SL_BLOCK_BYTES);
        image->current.bytes[at] ^= bit;
        image->durable.bytes[at] ^= bit;
        sim->statistics.disk_rot_count++;
    }
    if (sim_random_hits(sim, image->faults.misdirected_read_per_million)) {
        operation->read_offset = elsewhere(sim, op, begin, end);
        sim->statistics.disk_misdirected_count++;
    }
}

static void draw_write_faults(struct sl_sim *sim, struct operation *operation, uint64_t begin,
                              uint64_t end)
{
    struct image *image = operation->image;
    if (operation->write == NULL)
        return;
    if (sim_random_hits(sim, image->faults.forgotten_per_million)) {
        write_free(operation->write);
        operation->write = NULL;
        sim->statistics.disk_forgotten_count++;
    } else if (sim_random_hits(sim, image->faults.misdirected_write_per_million)) {
        operation->write->offset_bytes = elsewhere(sim, operation->op, begin, end);
        sim->statistics.disk_misdirected_count++;
    }
}

static void draw_faults(struct sl_sim *sim, struct operation *operation)
{
    struct image *image = operation->image;
    const struct sl_sim_disk_faults *faults = &image->faults;
    const struct sl_disk_op *op = operation->op;
    bool is_read = op->opcode == SL_DISK_READ;
    uint64_t begin = faults->begin_bytes;
    uint64_t end = faults->end_bytes != 0 ? faults->end_bytes : image->capacity_bytes;
    if ((is_read ? image->fail_reads : image->fail_writes) &&
        touches(op, image->fail_begin, image->fail_end))
        operation->error = -EIO;
    if (op->opcode == SL_DISK_FLUSH || !touches(op, begin, end) || operation->error != 0)
        return;
    if (!is_read && faults->full)
        operation->error = -ENOSPC;
    else if (sim_random_hits(sim, is_read ? faults->read_error_per_million
                                          : faults->write_error_per_million))
        operation->error = -EIO;
    else if (is_read)
        draw_read_faults(sim, operation, begin, end);
    else
        draw_write_faults(sim, operation, begin, end);
    sim->statistics.disk_error_count += operation->error != 0;
}

static uint64_t draw_latency(struct sl_sim *sim, const struct image *image)
{
    const struct sl_sim_storage *storage = &sim->config.storage;
    uint64_t latency = sim_random_between(sim, storage->latency_min_ns, storage->latency_max_ns);
    if (sim_random_hits(sim, storage->slow_per_million)) {
        latency += storage->slow_ns;
        sim->statistics.slow_count++;
    }
    if (sim_random_hits(sim, image->faults.stuck_per_million)) {
        latency += image->faults.stuck_ns;
        sim->statistics.disk_stuck_count++;
    }
    return latency;
}

void sim_disk_submit(struct sl_disk_op *op)
{
    struct disk *disk = disk_of(op->disk);
    struct image *image = disk->image;
    struct sim_io *node = node_of(op->disk->io);
    struct sl_sim *sim = node->sim;
    const struct sl_sim_storage *storage = &sim->config.storage;
    struct operation *operation = sim_calloc(1, sizeof(*operation));
    SL_ASSERT(operation != NULL);
    bool is_read = op->opcode == SL_DISK_READ;
    operation->op = op;
    operation->image = image;
    operation->read_offset = op->offset_bytes;
    operation->event.fire = operation_done;
    operation->event.drop = operation_drop;
    sl_list_append(&image->operations, &operation->node);
    if (image->off || disk->incarnation != image->incarnation) {
        operation->error = -EIO;
    } else if (disk->read_only && !is_read && op->opcode != SL_DISK_FLUSH) {
        operation->error = -EROFS;
    } else {
        operation->submitted_at = image->event_count;
        if (!is_read && op->opcode != SL_DISK_FLUSH)
            operation->write = write_begin(image, op);
        if (sim_random_hits(sim, is_read ? storage->read_error_per_million
                                         : storage->write_error_per_million)) {
            operation->error = -EIO;
            sim->statistics.disk_error_count++;
        }
        draw_faults(sim, operation);
        count_event(image);
    }
    sim_event_arm(&operation->event, node, sim->now_ns + draw_latency(sim, image), "disk done");
}
