/*
 * What a volume holds: the bytes of a file, zeroes behind its end, or a pattern generated from
 * (seed, offset), so that a block of another place, another run or a stale one is told from the
 * right one. Thread-safe: immutable.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/initiator/initiator.h"

int content_open(struct content *content, const char *path, uint64_t seed)
{
    *content = (struct content){.seed = seed};
    if (path == NULL)
        return 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return -errno;
    struct stat status;
    int error = fstat(file, &status) != 0 ? -errno : 0;
    if (error == 0 && !S_ISREG(status.st_mode))
        error = -EINVAL;
    if (error == 0 && status.st_size == 0)
        error = -ENODATA;
    if (error == 0) {
        void *map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, file, 0);
        if (map == MAP_FAILED) {
            error = -errno;
        } else {
            content->file = map;
            content->file_bytes = (uint64_t)status.st_size;
        }
    }
    close(file);
    return error;
}

void content_close(struct content *content)
{
    if (content->file != NULL)
        munmap((void *)content->file, content->file_bytes);
    content->file = NULL;
}

/* SplitMix64: a good hash of one word. */
static uint64_t mix(uint64_t value)
{
    value += UINT64_C(0x9e3779b97f4a7c15);
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

/* Word i of a block is mix(block's key) + i * odd: cheap, and no two blocks are alike. */
static uint64_t block_key(const struct content *content, uint64_t block)
{
    return mix(content->seed ^ mix(block));
}

static void generate(const struct content *content, uint64_t block, uint8_t *data)
{
    uint64_t key = block_key(content, block);
    for (uint32_t i = 0; i < SL_BLOCK_BYTES / sizeof(uint64_t); i++) {
        uint64_t word = key + i * UINT64_C(0x9e3779b97f4a7c15);
        memcpy(data + i * sizeof(word), &word, sizeof(word)); /* header: eight bytes of a pattern */
    }
}

void content_fill(const struct content *content, uint64_t offset_bytes, uint8_t *data,
                  uint32_t length_bytes, struct sl_copy_counters *copies)
{
    if (content->file == NULL) {
        for (uint32_t done = 0; done < length_bytes; done += SL_BLOCK_BYTES)
            generate(content, (offset_bytes + done) / SL_BLOCK_BYTES, data + done);
        copies->bytes[SL_COPY_CLIENT] += length_bytes;
        copies->count[SL_COPY_CLIENT]++;
        return;
    }
    uint64_t left = offset_bytes < content->file_bytes ? content->file_bytes - offset_bytes : 0;
    uint32_t from_file = (uint32_t)sl_min(left, (uint64_t)length_bytes);
    if (from_file > 0)
        sl_copy(copies, SL_COPY_CLIENT, data, content->file + offset_bytes, from_file);
    memset(data + from_file, 0, length_bytes - from_file);
}

static bool block_is_right(const struct content *content, uint64_t offset_bytes,
                           const uint8_t *data)
{
    static const uint8_t zeroes[SL_BLOCK_BYTES];
    if (content->file == NULL) {
        uint64_t key = block_key(content, offset_bytes / SL_BLOCK_BYTES);
        for (uint32_t i = 0; i < SL_BLOCK_BYTES / sizeof(uint64_t); i++) {
            uint64_t word;
            memcpy(&word, data + i * sizeof(word),
                   sizeof(word)); /* header: eight bytes of a pattern */
            if (word != key + i * UINT64_C(0x9e3779b97f4a7c15))
                return false;
        }
        return true;
    }
    uint64_t left = offset_bytes < content->file_bytes ? content->file_bytes - offset_bytes : 0;
    size_t from_file = (size_t)sl_min(left, (uint64_t)SL_BLOCK_BYTES);
    return memcmp(data, content->file + offset_bytes, from_file) == 0 &&
           memcmp(data + from_file, zeroes, SL_BLOCK_BYTES - from_file) == 0;
}

int64_t content_check(const struct content *content, uint64_t offset_bytes, const uint8_t *data,
                      uint32_t length_bytes, uint64_t *bad_count)
{
    int64_t first = -1;
    for (uint32_t done = 0; done < length_bytes; done += SL_BLOCK_BYTES) {
        if (block_is_right(content, offset_bytes + done, data + done))
            continue;
        (*bad_count)++;
        if (first < 0)
            first = done;
    }
    return first;
}
