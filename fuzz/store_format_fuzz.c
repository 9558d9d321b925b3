/*
 * Goal: no bytes on a disk crash a parser of the store, and what one accepts is self-consistent.
 * Method: the first byte picks the structure; CRC, magic, ids and salt are made right, so that the
 * fuzzer gets behind them (a disk can hold anything). Records of an accepted batch are built again
 * and must give the same bytes; accepted layouts are grown.
 */
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "store/format_log.h"
#include "store/format_meta.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct sl_superblock disk;

static void make_disk(void)
{
    char why[256];
    struct sl_layout_options options = {.shard_count = 2};
    if (disk.magic == 0 && sl_layout_make(SL_GIB, &options, &disk, why, sizeof(why)) != 0)
        abort();
}

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void fuzz_superblock(uint8_t *block)
{
    static struct sl_superblock superblock;
    const char *why = NULL;
    char text[256];
    memcpy(&superblock, block, sizeof(superblock));
    superblock.magic = SL_DISK_MAGIC;
    superblock.version = SL_DISK_VERSION;
    sl_superblock_seal(&superblock);
    memcpy(block, &superblock, sizeof(superblock));
    if (sl_superblock_parse(block, &superblock, &why) != 0) {
        require(why != NULL);
        return;
    }
    if (superblock.capacity_bytes < UINT64_C(1) << 50 &&
        sl_layout_grow(&superblock, superblock.capacity_bytes + SL_GIB, text, sizeof(text)) == 0) {
        sl_superblock_seal(&superblock);
        memcpy(block, &superblock, sizeof(superblock));
        require(sl_superblock_parse(block, &superblock, &why) == 0);
    }
}

static void fuzz_batch(uint8_t *block)
{
    static _Alignas(8) uint8_t again[SL_BLOCK_BYTES];
    struct sl_batch_place place = {&disk, 0, 7, 9};
    struct sl_batch_header header;
    struct sl_record record;
    const char *why = NULL;
    uint32_t offset = 0;
    memcpy(&header, block, sizeof(header));
    header.magic = SL_BATCH_MAGIC;
    header.salt = disk.salt;
    memcpy(header.disk_id, disk.disk_id, sizeof(header.disk_id));
    header.shard = 0;
    header.generation = 7;
    header.position = 9;
    memcpy(block, &header, sizeof(header));
    header.crc = sl_crc32c(0, block + 8, SL_BLOCK_BYTES - 8);
    memcpy(block, &header, sizeof(header));
    if (sl_batch_parse(block, &place, &header, &why) != 0) {
        require(why != NULL);
        return;
    }
    sl_batch_begin(again);
    while (sl_batch_next(block, &offset, &record))
        require(sl_batch_add(again, &record));
    sl_batch_seal(again, &header);
    /* What lies behind extra bytes and records is not kept. */
    require(sl_batch_parse(again, &place, &header, &why) == 0);
}

static void fuzz_chunk(uint8_t *bytes)
{
    struct sl_chunk_place place = {disk.disk_id, 1, 2, 3, 4, 0, 64};
    struct sl_chunk_header *header = (struct sl_chunk_header *)(void *)bytes;
    const char *why = NULL;
    memcpy(header->disk_id, disk.disk_id, 16);
    header->group = 1;
    header->number = 2;
    header->version = 3;
    header->chunk = 4;
    header->shard = 0;
    sl_chunk_seal(bytes);
    require(sl_chunk_parse(bytes, &place, &why) == 0 || why != NULL);
}

static void fuzz_root(uint8_t *bytes)
{
    struct sl_root_header *header = (struct sl_root_header *)(void *)bytes;
    const char *why = NULL;
    memcpy(header->disk_id, disk.disk_id, 16);
    header->shard = 0;
    header->body_bytes %= SL_CHUNK_META_BYTES - SL_BLOCK_BYTES + 1;
    sl_root_seal(header, bytes + SL_BLOCK_BYTES);
    static struct sl_root_header parsed;
    int error = sl_root_header_parse(bytes, &disk, 0, &parsed, &why);
    if (error == 0) {
        /* Just as long as it says: ASan sees a read behind it. */
        uint8_t *body = malloc(parsed.body_bytes);
        require(body != NULL);
        memcpy(body, bytes + SL_BLOCK_BYTES, parsed.body_bytes);
        error = sl_root_body_parse(&parsed, body, &why);
        free(body);
    }
    require(error == 0 || why != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const parsers[])(uint8_t *) = {fuzz_superblock, fuzz_batch, fuzz_chunk,
                                                 fuzz_root};
    static _Alignas(4096) uint8_t bytes[SL_CHUNK_META_BYTES];
    if (size < 1)
        return 0;
    make_disk();
    memset(bytes, 0, sizeof(bytes));
    memcpy(bytes, data + 1, size - 1 < sizeof(bytes) ? size - 1 : sizeof(bytes));
    parsers[data[0] % 4](bytes);
    return 0;
}
