/*
 * Opens a file or block device as a disk: O_DIRECT, its lock, and what it can do. Blocks: at start
 * only.
 *
 * The lock is flock(2) on our open file, which in-flight I/O of io_uring references. So when a
 * holder is killed, the lock goes only after its last I/O has: who gets it knows that none can land
 * later. Owner: the disk's reactor.
 */
#include "io/uring/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

/* Between two tries for a lock. */
#define LOCK_RETRY_NS (10 * SL_NS_PER_MS)
#define SECTOR_BYTES  512u

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SL_NS_PER_S + (uint64_t)now.tv_nsec;
}

static int disk_lock(int descriptor, uint64_t wait_ns)
{
    uint64_t start_ns = clock_ns();
    while (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        if (clock_ns() - start_ns >= wait_ns)
            return -EWOULDBLOCK;
        nanosleep(&(struct timespec){.tv_nsec = LOCK_RETRY_NS}, NULL);
    }
    return 0;
}

/* The first line of a queue attribute of a block device or of the disk that a partition lies on. */
static bool queue_attribute(dev_t device, const char *name, char *value, size_t value_bytes)
{
    static const char *const places[] = {"queue", "../queue"};
    for (unsigned i = 0; i < SL_COUNT_OF(places); i++) {
        char path[128];
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(device), minor(device),
                 places[i], name);
        FILE *file = fopen(path, "re");
        if (file == NULL)
            continue;
        bool found = fgets(value, (int)value_bytes, file) != NULL;
        fclose(file);
        if (found)
            value[strcspn(value, "\n")] = '\0';
        return found;
    }
    return false;
}

/* What O_DIRECT wants of offset, length and memory: 512 … 4096, or -EINVAL. */
static int direct_alignment(int descriptor, bool block_device)
{
    unsigned alignment = 0;
#ifdef STATX_DIOALIGN
    struct statx status = {0};
    if (statx(descriptor, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
        (status.stx_mask & STATX_DIOALIGN) != 0) {
        if (status.stx_dio_offset_align == 0)
            return -EINVAL;
        alignment = sl_max(status.stx_dio_offset_align, status.stx_dio_mem_align);
    }
#endif
    int sector_bytes = 0;
    if (alignment == 0 && block_device && ioctl(descriptor, BLKSSZGET, &sector_bytes) == 0)
        alignment = (unsigned)sector_bytes;
    if (alignment == 0)
        alignment = SL_BLOCK_BYTES;
    alignment = sl_max(alignment, SECTOR_BYTES);
    return alignment <= SL_BLOCK_BYTES && sl_is_power_of_two(alignment) ? (int)alignment : -EINVAL;
}

static int fill_file(int descriptor, const struct stat *status, struct sl_disk_info *info)
{
    info->capacity_bytes = sl_align_down((uint64_t)status->st_size, SL_BLOCK_BYTES);
    info->can_discard = true;
    info->can_write_zeroes = true;
    /* Whatever its device: the first write to a preallocated block changes the file's map, and that
     * lies in the file system's cache until a flush. */
    info->volatile_cache = true;
    return 0;
}

static int fill_device(int descriptor, const struct stat *status, struct sl_disk_info *info)
{
    char value[64];
    uint64_t size_bytes = 0;
    if (ioctl(descriptor, BLKGETSIZE64, &size_bytes) != 0)
        return -errno;
    info->block_device = true;
    info->capacity_bytes = sl_align_down(size_bytes, SL_BLOCK_BYTES);
    info->volatile_cache = !queue_attribute(status->st_rdev, "write_cache", value, sizeof(value)) ||
                           strcmp(value, "write through") != 0;
    info->can_discard =
        queue_attribute(status->st_rdev, "discard_max_bytes", value, sizeof(value)) &&
        strtoull(value, NULL, 10) > 0;
    info->can_write_zeroes = true;
    return 0;
}

static int disk_inspect(int descriptor, const struct sl_disk_options *options,
                        struct sl_disk_info *info)
{
    struct stat status;
    *info = (struct sl_disk_info){0};
    if (fstat(descriptor, &status) != 0)
        return -errno;
    int error = -EINVAL;
    if (S_ISDIR(status.st_mode))
        error = -EISDIR;
    else if (S_ISREG(status.st_mode))
        error = fill_file(descriptor, &status, info);
    else if (S_ISBLK(status.st_mode))
        error = fill_device(descriptor, &status, info);
    if (error != 0)
        return error;
    int alignment = (int)SECTOR_BYTES;
    if (options->buffered)
        info->volatile_cache = true;
    else
        alignment = direct_alignment(descriptor, info->block_device);
    if (alignment < 0)
        return alignment;
    info->alignment_bytes = (uint32_t)alignment;
    return 0;
}

static int file_slot_take(struct sl_uring *uring, int descriptor)
{
    if (!uring->has_file_table || ~uring->file_slots == 0)
        return -1;
    int slot = __builtin_ctzll(~uring->file_slots);
    /* Refused on another thread than the ring's: then it goes unregistered. */
    if (io_uring_register_files_update(&uring->ring, (unsigned)slot, &descriptor, 1) != 1)
        return -1;
    uring->file_slots |= UINT64_C(1) << slot;
    return slot;
}

/* The slot stays taken if the kernel refuses: its file is still there. */
static void file_slot_give(struct sl_uring *uring, int slot)
{
    int none = -1;
    if (slot >= 0 && io_uring_register_files_update(&uring->ring, (unsigned)slot, &none, 1) == 1)
        uring->file_slots &= ~(UINT64_C(1) << slot);
}

/* A directory cannot be opened for O_DIRECT, which some file systems say first. */
static int open_error(const char *path, int error)
{
    struct stat status;
    bool is_directory = error == EINVAL && stat(path, &status) == 0 && S_ISDIR(status.st_mode);
    return is_directory ? -EISDIR : -error;
}

int uring_disk_open(struct sl_io *io, const char *path, const struct sl_disk_options *options,
                    struct sl_disk_info *info, struct sl_disk **disk)
{
    /* O_NONBLOCK: a FIFO must not hold us up. Taken off again: with it io_uring answers EAGAIN. */
    int flags = O_CLOEXEC | O_NONBLOCK | (options->read_only ? O_RDONLY : O_RDWR) |
                (options->buffered ? 0 : O_DIRECT);
    const struct uring_disk *other =
        options->share_with == NULL ? NULL
                                    : sl_container_of(options->share_with, struct uring_disk, disk);
    int descriptor =
        other == NULL ? open(path, flags) : fcntl(other->descriptor, F_DUPFD_CLOEXEC, 3);
    if (descriptor < 0)
        return open_error(path, errno);
    struct uring_disk *uring_disk = NULL;
    int error = 0;
    if (fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK) != 0)
        error = -errno;
    if (error == 0)
        error = disk_inspect(descriptor, options, info);
    if (error == 0 && options->exclusive && other == NULL)
        error = disk_lock(descriptor, options->lock_wait_ns);
    if (error == 0) {
        uring_disk = calloc(1, sizeof(*uring_disk));
        error = uring_disk == NULL ? -ENOMEM : 0;
    }
    if (error != 0) {
        close(descriptor);
        return error;
    }
    uring_disk->disk.io = io;
    uring_disk->descriptor = descriptor;
    uring_disk->file_slot = file_slot_take(uring_of(io), descriptor);
    uring_disk->read_only = options->read_only;
    uring_disk->locked =
        options->exclusive && other == NULL; /* the first one's end ends the lock */
    *disk = &uring_disk->disk;
    return 0;
}

int uring_disk_measure(struct sl_disk *disk, uint64_t *capacity_bytes)
{
    const struct sl_disk_options options = {.buffered = true}; /* its alignment is known */
    struct sl_disk_info info;
    int error =
        disk_inspect(sl_container_of(disk, struct uring_disk, disk)->descriptor, &options, &info);
    *capacity_bytes = error == 0 ? info.capacity_bytes : 0;
    return error;
}

void uring_disk_close(struct sl_disk *disk)
{
    struct uring_disk *uring_disk = sl_container_of(disk, struct uring_disk, disk);
    SL_ASSERT(uring_disk->in_flight_count == 0);
    file_slot_give(uring_of(disk->io), uring_disk->file_slot);
    /* Explicitly: the ring may keep its reference to the file a while longer. */
    if (uring_disk->locked)
        (void)flock(uring_disk->descriptor, LOCK_UN);
    close(uring_disk->descriptor);
    free(uring_disk);
}
