/*
 * A storage: what --storage names, and what outlives its reactors: identity, checksums, their file.
 *
 * Checksums live in memory. At a clean end they are saved beside the storage (PATH.sluice-crc) and
 * taken back at the next start if the file was not touched meanwhile; the saved ones are made void
 * before the first write, so that after a crash checksums are unknown, never wrong. The identity in
 * that file stays. (The coming store keeps checksums in its own log.) At start and end only: plain
 * file I/O, on any thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/log.h"
#include "core/size.h"
#include "store/format.h"
#include "target/private.h"

#define SIDECAR_MAGIC   UINT64_C(0x4352435343494c53) /* "SLICSCRC" */
#define SIDECAR_VERSION 1

/* docs/disk-format.md, "Checksum file". Behind it: block_count CRCs of 4 bytes, then block_count
 * bytes `known`. */
struct sidecar_header {
    uint64_t magic;         /* 0 */
    uint32_t version;       /* 8 */
    uint32_t clean;         /* 12 1: what follows holds for the file as described */
    uint8_t storage_id[16]; /* 16 */
    uint64_t block_count;   /* 32 */
    uint64_t file_bytes;    /* 40 size and time of the storage's file when this was saved */
    uint64_t modified_ns;   /* 48 */
    uint32_t table_crc;     /* 56 of what follows */
    uint32_t header_crc;    /* 60 of this header with the field zero */
};
_Static_assert(sizeof(struct sidecar_header) == 64, "disk-format.md: checksum file");

static void sidecar_path(const struct sl_storage *storage, const char *suffix, char *path,
                         size_t bytes)
{
    snprintf(path, bytes, "%s.sluice-crc%s", storage->disks[0].path, suffix);
}

static int describe_file(const struct sl_storage *storage, struct sidecar_header *header)
{
    struct stat status;
    if (stat(storage->disks[0].path, &status) != 0)
        return -errno;
    header->file_bytes = (uint64_t)status.st_size;
    header->modified_ns =
        (uint64_t)status.st_mtim.tv_sec * SL_NS_PER_S + (uint64_t)status.st_mtim.tv_nsec;
    return 0;
}

static uint32_t header_crc(struct sidecar_header header)
{
    header.header_crc = 0;
    return sl_crc32c(0, &header, sizeof(header));
}

static uint32_t table_crc(const struct sl_block_table *blocks)
{
    uint32_t crc = sl_crc32c(0, blocks->crcs, blocks->block_count * sizeof(*blocks->crcs));
    return sl_crc32c(crc, blocks->known, blocks->block_count);
}

static bool read_all(int file, void *data, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t step = read(file, (uint8_t *)data + done, bytes - done);
        if (step <= 0)
            return false;
        done += (size_t)step;
    }
    return true;
}

static bool write_all(int file, const void *data, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t step = write(file, (const uint8_t *)data + done, bytes - done);
        if (step <= 0)
            return false;
        done += (size_t)step;
    }
    return true;
}

/* Everything in the file is checked: it may be old, cut short or another's. */
static void sidecar_load(struct sl_storage *storage)
{
    char path[SL_STORAGE_PATH_BYTES_MAX + 32];
    struct sidecar_header header, now = {0};
    struct sl_block_table *blocks = &storage->blocks;
    sidecar_path(storage, "", path, sizeof(path));
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    bool ours = read_all(file, &header, sizeof(header)) && header.magic == SIDECAR_MAGIC &&
                header.version == SIDECAR_VERSION && header.header_crc == header_crc(header);
    if (ours)
        memcpy(storage->info.storage_id, header.storage_id,
               sizeof(header.storage_id)); /* header: identity */
    if (ours && header.clean == 1 && header.block_count == blocks->block_count &&
        describe_file(storage, &now) == 0 && now.file_bytes == header.file_bytes &&
        now.modified_ns == header.modified_ns) {
        bool whole = read_all(file, blocks->crcs, blocks->block_count * sizeof(*blocks->crcs)) &&
                     read_all(file, blocks->known, blocks->block_count) &&
                     table_crc(blocks) == header.table_crc;
        if (!whole) {
            sl_log_warn("target", "%s is damaged: checksums are learnt anew", path);
            memset(blocks->known, 0, blocks->block_count);
        }
        for (uint64_t i = 0; whole && i < blocks->block_count; i++)
            blocks->known[i] = blocks->known[i] == 1;
    }
    close(file);
}

/* `clean`: with the checksums; else the identity alone, which voids an older table. */
static void sidecar_save(struct sl_storage *storage, bool clean)
{
    char path[SL_STORAGE_PATH_BYTES_MAX + 32], temporary[SL_STORAGE_PATH_BYTES_MAX + 32];
    const struct sl_block_table *blocks = &storage->blocks;
    struct sidecar_header header = {
        .magic = SIDECAR_MAGIC,
        .version = SIDECAR_VERSION,
        .clean = clean,
        .block_count = blocks->block_count,
    };
    memcpy(header.storage_id, storage->info.storage_id,
           sizeof(header.storage_id)); /* header: identity */
    sidecar_path(storage, "", path, sizeof(path));
    sidecar_path(storage, ".tmp", temporary, sizeof(temporary));
    if (clean && describe_file(storage, &header) == 0)
        header.table_crc = table_crc(blocks);
    header.header_crc = header_crc(header);
    int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool done = file >= 0 && write_all(file, &header, sizeof(header));
    if (done && clean)
        done = write_all(file, blocks->crcs, blocks->block_count * sizeof(*blocks->crcs)) &&
               write_all(file, blocks->known, blocks->block_count);
    done = done && fsync(file) == 0 && rename(temporary, path) == 0;
    if (file >= 0)
        close(file);
    if (done)
        return;
    sl_log_warn("target",
                "%s cannot be written (%s): checksums will be learnt anew at the next start", path,
                strerror(errno));
    unlink(temporary);
    unlink(path); /* better none than one that no longer holds */
}

static int parse_memory(struct sl_storage *storage, const char *spec, char *error,
                        size_t error_bytes)
{
    uint64_t bytes;
    if (sl_size_parse(spec + 4, &bytes) < 0 || bytes < SL_BLOCK_BYTES) {
        snprintf(error, error_bytes, "--storage %s: not a size of at least 4 KiB, such as mem:256M",
                 spec);
        return -EINVAL;
    }
    uint64_t there = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (bytes > there) {
        snprintf(error, error_bytes, "--storage %s: this machine has %llu MiB of memory", spec,
                 (unsigned long long)(there / SL_MIB));
        return -ENOMEM;
    }
    storage->in_memory = true;
    storage->backend = &sl_backend_mem;
    if (storage->config.size_bytes == 0)
        storage->config.size_bytes = sl_align_down(bytes, SL_BLOCK_BYTES);
    return 0;
}

static int parse_spec(struct sl_storage *storage, const char *spec, char *error, size_t error_bytes)
{
    bool is_store = strncmp(spec, "store:", 6) == 0;
    struct sl_storage_disk *disk = &storage->disks[storage->disk_count++];
    if (storage->config.more_count > 0 && !is_store) {
        snprintf(error, error_bytes,
                 "--storage '%s': a target with several disks has disks of the store only: "
                 "store:PATH (see sluice disk)",
                 spec);
        return -EINVAL;
    }
    if (strncmp(spec, "mem:", 4) == 0)
        return parse_memory(storage, spec, error, error_bytes);
    const char *path = is_store ? spec + 6 : strncmp(spec, "file:", 5) == 0 ? spec + 5 : spec;
    if (path[0] == '\0' || strlen(path) >= sizeof(disk->path)) {
        snprintf(error, error_bytes,
                 "--storage '%s': mem:SIZE, store:PATH, file:PATH or the path of a block device is "
                 "meant",
                 spec);
        return -EINVAL;
    }
    snprintf(disk->path, sizeof(disk->path), "%s", path);
    storage->backend = is_store ? &sl_backend_store : &sl_backend_disk;
    /* The store has its own, on disk. */
    storage->config.checksums = storage->config.checksums && !is_store;
    return 0;
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat first, second;
    if (strcmp(a, b) == 0)
        return true;
    if (stat(a, &first) != 0 || stat(b, &second) != 0)
        return false;
    if (S_ISBLK(first.st_mode) && S_ISBLK(second.st_mode))
        return first.st_rdev == second.st_rdev;
    return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

/* As bytes of somebody else it would be overwritten. */
static bool is_disk_of_store(const char *path)
{
    uint64_t magic = 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    bool is = file >= 0 && read_all(file, &magic, sizeof(magic)) && magic == SL_DISK_MAGIC;
    if (file >= 0)
        close(file);
    return is;
}

/* The usual mistakes, in words. What the seam's disk finds later is explained in
 * sl_target_create(). */
static int check_file(struct sl_storage *storage, const char *path, char *error, size_t error_bytes)
{
    struct stat status;
    if (stat(path, &status) != 0) {
        int code = -errno;
        snprintf(error, error_bytes,
                 "storage '%s': %s; a file must be there and preallocated (fallocate -l 10G %s)",
                 path, sl_error_text(code), path);
        return code;
    }
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
        snprintf(error, error_bytes, "storage '%s' is %s; a file or a block device is meant", path,
                 S_ISDIR(status.st_mode) ? "a directory" : "neither a file nor a block device");
        return S_ISDIR(status.st_mode) ? -EISDIR : -EINVAL;
    }
    if (access(path, storage->config.read_only ? R_OK : R_OK | W_OK) != 0) {
        int code = -errno;
        snprintf(error, error_bytes, "storage '%s' cannot be opened for %s: %s%s", path,
                 storage->config.read_only ? "reading" : "writing", sl_error_text(code),
                 storage->config.read_only ? "" : " (--read-only serves it as it is)");
        return code;
    }
    if (storage->backend == &sl_backend_disk && !storage->config.read_only &&
        is_disk_of_store(path)) {
        snprintf(error, error_bytes,
                 "storage '%s' is a disk of the store: serve it as store:%s; as a plain one all "
                 "that it holds would be overwritten",
                 path, path);
        return -EEXIST;
    }
    storage->sidecar = S_ISREG(status.st_mode) && !storage->config.read_only &&
                       storage->backend == &sl_backend_disk;
    uint64_t bytes = S_ISREG(status.st_mode) ? (uint64_t)status.st_size : UINT64_MAX;
    if (bytes < sl_max(storage->config.size_bytes, (uint64_t)SL_BLOCK_BYTES)) {
        snprintf(error, error_bytes,
                 "storage '%s' has %llu bytes; %llu are needed; make it larger (fallocate) or "
                 "--size smaller",
                 path, (unsigned long long)bytes,
                 (unsigned long long)sl_max(storage->config.size_bytes, (uint64_t)SL_BLOCK_BYTES));
        return -ENOSPC;
    }
    return 0;
}

static int take_disk(struct sl_storage *storage, const char *spec, char *error, size_t error_bytes)
{
    int code = parse_spec(storage, spec, error, error_bytes);
    const char *path = storage->disks[storage->disk_count - 1].path;
    /* Names that begin with "sim:" exist in the simulator's seam only. */
    if (code == 0 && !storage->in_memory && strncmp(path, "sim:", 4) != 0)
        code = check_file(storage, path, error, error_bytes);
    for (unsigned i = 0; code == 0 && i + 1 < storage->disk_count; i++) {
        if (is_same_file(storage->disks[i].path, path)) {
            snprintf(error, error_bytes, "--storage: '%s' and '%s' are one disk: give it once",
                     storage->disks[i].path, path);
            code = -EEXIST;
        }
    }
    return code;
}

/* Specs with commas between. */
static char *name_of(const struct sl_storage_config *config)
{
    size_t bytes = strlen(config->spec) + 1;
    for (unsigned i = 0; i < config->more_count; i++)
        bytes += strlen(config->more[i]) + 2;
    char *name = malloc(bytes);
    size_t at = name != NULL ? (size_t)snprintf(name, bytes, "%s", config->spec) : 0;
    for (unsigned i = 0; name != NULL && i < config->more_count; i++)
        at += (size_t)snprintf(name + at, bytes - at, ", %s", config->more[i]);
    return name;
}

int sl_storage_open(const struct sl_storage_config *config, struct sl_storage **result, char *error,
                    size_t error_bytes)
{
    struct sl_storage *storage = calloc(1, sizeof(*storage));
    snprintf(error, error_bytes, "out of memory");
    if (storage == NULL)
        return -ENOMEM;
    storage->config = *config;
    storage->config.spec = strdup(config->spec);
    storage->config.more = NULL; /* the caller's; what is needed of it is in the disks */
    storage->config.size_bytes = sl_align_down(config->size_bytes, SL_BLOCK_BYTES);
    storage->info.read_only = config->read_only;
    storage->name = name_of(config);
    int code = storage->config.spec == NULL || storage->name == NULL ? -ENOMEM : 0;
    if (config->more_count >= SL_STORAGE_DISKS_MAX) {
        snprintf(error, error_bytes, "--storage: %u disks; a target has at most %u",
                 config->more_count + 1, SL_STORAGE_DISKS_MAX);
        code = -EINVAL;
    }
    for (unsigned i = 0; code == 0 && i <= config->more_count; i++)
        code = take_disk(storage, i == 0 ? config->spec : config->more[i - 1], error, error_bytes);
    if (code < 0) {
        sl_storage_close(storage);
        return code;
    }
    *result = storage;
    return 0;
}

int sl_storage_learn(struct sl_storage *storage, struct sl_reactor *reactor,
                     uint64_t capacity_bytes)
{
    if (storage->info.capacity_bytes != 0)
        return storage->info.capacity_bytes <= capacity_bytes ? 0 : -ENOSPC;
    if (storage->config.size_bytes > capacity_bytes)
        return -ENOSPC;
    uint64_t bytes = storage->config.size_bytes != 0 ? storage->config.size_bytes : capacity_bytes;
    storage->info.capacity_bytes = sl_align_down(bytes, SL_BLOCK_BYTES);
    int error = sl_block_table_create(&storage->blocks, bytes / SL_BLOCK_BYTES);
    if (error < 0)
        return error;
    sl_reactor_random(reactor, storage->info.storage_id, sizeof(storage->info.storage_id));
    if (storage->sidecar) {
        sidecar_load(storage);
        sidecar_save(storage, false);
    }
    return 0;
}

const struct sl_storage_info *sl_storage_info(const struct sl_storage *storage)
{
    return &storage->info;
}

const char *sl_storage_name(const struct sl_storage *storage)
{
    return storage->name;
}

void sl_storage_settle(struct sl_storage *storage)
{
    if (storage->sidecar && storage->blocks.block_count != 0)
        sidecar_save(storage, true);
}

void sl_storage_close(struct sl_storage *storage)
{
    if (storage == NULL)
        return;
    sl_block_table_destroy(&storage->blocks);
    free((char *)storage->config.spec);
    free(storage->name);
    free(storage);
}
