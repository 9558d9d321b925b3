/*
 * Goal: what the builders make the parsers accept, and nothing else: no turned bit, no absurd
 * content under a right CRC, no other disk, place or version. docs/disk-format.md shows the very
 * bytes. Method: build each structure, parse it, turn every bit; break one field after the other
 * and seal again; lay out disks of many sizes and check them with the parser; the hex of the
 * document's example is built here and compared with the document (DOCUMENT in the environment).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "store/format_log.h"
#include "store/format_meta.h"

static struct sl_superblock superblock;
static const char *why;

static void make(uint64_t capacity_bytes, uint16_t shard_count)
{
    char text[256];
    struct sl_layout_options options = {.shard_count = shard_count};
    int error = sl_layout_make(capacity_bytes, &options, &superblock, text, sizeof(text));
    if (error < 0)
        fprintf(stderr, "%u shards: %s\n", shard_count, text);
    assert_int_equal(error, 0);
    for (unsigned i = 0; i < 16; i++)
        superblock.disk_id[i] = (uint8_t)(0xd0 + i);
    superblock.salt = UINT64_C(0x5a17a55a17a55a17);
    sl_superblock_seal(&superblock);
}

static int superblock_parse(const struct sl_superblock *from)
{
    static struct sl_superblock to;
    return sl_superblock_parse(from, &to, &why);
}

/* ---- superblock and layout ---- */

static void test_layouts(void **state)
{
    static const uint64_t sizes[] = {4 * SL_MIB,    32 * SL_MIB,   100 * SL_MIB + 12288,
                                     SL_GIB,        10 * SL_GIB,   100 * SL_GIB,
                                     1024 * SL_GIB, 20000 * SL_GIB};
    for (unsigned i = 0; i < SL_COUNT_OF(sizes); i++) {
        uint16_t most = sizes[i] < SL_GIB ? 1 : SL_DISK_SHARDS_MAX;
        for (uint16_t shards = sizes[i] < 8192 * SL_GIB ? 1 : 4; shards <= most; shards++) {
            make(sizes[i], shards);
            assert_int_equal(superblock_parse(&superblock), 0);
            uint64_t slots = 0;
            for (uint16_t k = 0; k < shards; k++)
                slots += sl_shard_slot_count(&superblock, k);
            /* Nine tenths of a disk of some size are for data. */
            if (sizes[i] >= 10 * SL_GIB)
                assert_true(slots * SL_REGION_BYTES > sizes[i] / 10 * 9);
        }
    }
}

static void test_layout_refusals(void **state)
{
    char text[256];
    struct sl_layout_options options = {0};
    assert_int_equal(sl_layout_make(2 * SL_MIB, &options, &superblock, text, sizeof(text)),
                     -ENOSPC);
    assert_non_null(strstr(text, "the least"));
    assert_int_equal(sl_layout_make(0, &options, &superblock, text, sizeof(text)), -ENOSPC);
    assert_int_equal(sl_layout_make(20000 * SL_GIB, &options, &superblock, text, sizeof(text)),
                     -ENOSPC);
    assert_non_null(strstr(text, "more shards"));
    options.segment_bytes = 3 * SL_MIB;
    assert_int_equal(sl_layout_make(SL_GIB, &options, &superblock, text, sizeof(text)), -EINVAL);
    options = (struct sl_layout_options){.shard_count = 17};
    assert_int_equal(sl_layout_make(SL_GIB, &options, &superblock, text, sizeof(text)), -EINVAL);
    options = (struct sl_layout_options){.wal_bytes = SL_MIB, .segment_bytes = SL_MIB};
    assert_int_equal(sl_layout_make(SL_GIB, &options, &superblock, text, sizeof(text)), -EINVAL);
}

static void test_grow(void **state)
{
    char text[256];
    make(SL_GIB, 2);
    uint32_t before = sl_shard_slot_count(&superblock, 1);
    assert_int_equal(sl_layout_grow(&superblock, SL_GIB, text, sizeof(text)), -EINVAL);
    assert_int_equal(sl_layout_grow(&superblock, SL_GIB + 4096, text, sizeof(text)), -ENOSPC);
    for (unsigned i = 2; i <= 5; i++) {
        assert_int_equal(sl_layout_grow(&superblock, i * SL_GIB, text, sizeof(text)), 0);
        sl_superblock_seal(&superblock);
        assert_int_equal(superblock_parse(&superblock), 0);
    }
    assert_true(sl_shard_slot_count(&superblock, 1) > 4 * before);
    assert_int_equal(sl_layout_grow(&superblock, 50 * SL_GIB, text, sizeof(text)), -ENOSPC);
}

/* Every bit counts. */
static void turn_every_bit(void *bytes, size_t length, int (*parse)(void))
{
    uint8_t *at = bytes;
    assert_int_equal(parse(), 0);
    for (size_t bit = 0; bit<length * 8; bit += length> 8192 ? 37 : 1) {
        at[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(parse() < 0);
        assert_non_null(why);
        at[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(parse(), 0);
}

static int parse_superblock(void)
{
    return superblock_parse(&superblock);
}

static void test_superblock_bits(void **state)
{
    make(SL_GIB, 2);
    turn_every_bit(&superblock, sizeof(superblock), parse_superblock);
}

#define REFUSES(error, statement)                                                                  \
    do {                                                                                           \
        make(SL_GIB, 2);                                                                           \
        statement;                                                                                 \
        sl_superblock_seal(&superblock);                                                           \
        assert_int_equal(superblock_parse(&superblock), error);                                    \
    } while (0)

/* Shard 1 has nothing then. */
static void all_to_shard_0(void)
{
    superblock.extents[1].shard = 0;
    superblock.extents[1].first_slot = superblock.extents[0].slot_count;
    superblock.extents[1].first_chunk = superblock.extents[0].chunk_count;
}

static void test_superblock_absurd(void **state)
{
    REFUSES(-ESTALE, superblock.magic++);
    REFUSES(-SL_E_VERSION, superblock.version++);
    REFUSES(-SL_E_VERSION, superblock.features_incompatible = 1);
    REFUSES(0, superblock.features_compatible = 1);
    REFUSES(-SL_E_PROTOCOL, superblock.block_bytes = 512);
    REFUSES(-SL_E_PROTOCOL, superblock.segment_bytes = 0);
    REFUSES(-SL_E_PROTOCOL, superblock.segment_bytes -= SL_BLOCK_BYTES);
    REFUSES(-SL_E_PROTOCOL, superblock.segment_bytes = SL_SEGMENT_BYTES_MIN / 2);
    REFUSES(-SL_E_PROTOCOL, superblock.capacity_bytes--);
    REFUSES(-SL_E_PROTOCOL, superblock.sequence = 0);
    REFUSES(-SL_E_PROTOCOL, superblock.shard_count = 0);
    REFUSES(-SL_E_PROTOCOL, superblock.shard_count = 17);
    REFUSES(-SL_E_PROTOCOL, superblock.extent_count = 65);
    REFUSES(-SL_E_PROTOCOL, superblock.extents[0].slot_count++);
    REFUSES(-SL_E_PROTOCOL, superblock.extents[0].shard = 1);
    REFUSES(-SL_E_PROTOCOL, all_to_shard_0());
    REFUSES(-SL_E_PROTOCOL, superblock.extents[1].data_offset = UINT64_MAX - 4095);
    REFUSES(-SL_E_PROTOCOL, superblock.extents[1].chunk_count = UINT32_MAX);
    REFUSES(-SL_E_PROTOCOL, superblock.shards[0].roots_offset = 0);
    REFUSES(-SL_E_PROTOCOL, superblock.shards[0].roots_offset = superblock.capacity_bytes);
    REFUSES(-SL_E_PROTOCOL, superblock.shards[0].wal_offset = 0);
    REFUSES(-SL_E_PROTOCOL, superblock.shards[1].roots_offset = superblock.shards[0].roots_offset);
    REFUSES(-SL_E_PROTOCOL, superblock.shards[1].wal_offset = superblock.shards[0].wal_offset);
    REFUSES(-SL_E_PROTOCOL, superblock.shards[0].root_bytes = 4096);
    REFUSES(-SL_E_PROTOCOL, superblock.shards[0].segment_count = 1);
    REFUSES(-SL_E_PROTOCOL, superblock.capacity_bytes /= 2);
}

/* ---- batches ---- */

static _Alignas(8) uint8_t batch[SL_BLOCK_BYTES];
static struct sl_batch_place place;

static struct sl_batch_header batch_header(void)
{
    struct sl_batch_header header = {
        .salt = superblock.salt,
        .generation = 7,
        .sequence = 42,
        .durable_sequence = 41,
        .root_sequence = 3,
        .position = 9,
    };
    memcpy(header.disk_id, superblock.disk_id, sizeof(header.disk_id));
    return header;
}

static int parse_batch(void)
{
    struct sl_batch_header header;
    return sl_batch_parse(batch, &place, &header, &why);
}

static uint32_t example_crcs[SL_ENTRY_BLOCKS_MAX];

static struct sl_record entry_record(uint64_t index, uint16_t first_block, uint16_t block_count)
{
    return (struct sl_record){
        .head = {SL_RECORD_ENTRY, SL_ENTRY_WRITE, 0, 2, 1, index, 5},
        .first_block = first_block,
        .block_count = block_count,
        .crcs = (const uint8_t *)example_crcs,
    };
}

/* One of each kind. */
static void build_all(void)
{
    struct sl_record write = entry_record(100, 16, 3);
    struct sl_record zero = {.head = {SL_RECORD_ENTRY, SL_ENTRY_ZERO, 0, 2, 1, 101, 5},
                             .first_block = 0,
                             .block_count = SL_CHUNK_BLOCKS};
    struct sl_record opaque = {.head = {SL_RECORD_ENTRY, SL_ENTRY_OPAQUE, 0, 0, 1, 102, 5},
                               .block_count = 1,
                               .extra_bytes = 5,
                               .crcs = (const uint8_t *)example_crcs,
                               .extra = (const uint8_t *)"extra"};
    struct sl_record noop = {.head = {SL_RECORD_ENTRY, SL_ENTRY_NOOP, 0, 0, 1, 103, 6}};
    struct sl_record vote = {.head = {SL_RECORD_TERM_VOTE, 0, 0, 0, 1, 0, 6}, .vote = 77};
    struct sl_record truncate = {.head = {SL_RECORD_TRUNCATE, 0, 0, 0, 1, 103, 0}};
    struct sl_record create = {.head = {SL_RECORD_GROUP_CREATE, 0, 0, 0, 9, 50, 4}};
    struct sl_record delete = {.head = {SL_RECORD_GROUP_DELETE, 0, 0, 0, 9, 0, 0}};
    struct sl_record applied = {.head = {SL_RECORD_APPLIED, 0, 0, 0, 1, 102, 0}};
    struct sl_record *all[] = {&write,    &zero,   &opaque, &noop,   &vote,
                               &truncate, &create, &delete, &applied};
    struct sl_batch_header header = batch_header();
    place = (struct sl_batch_place){&superblock, 0, 7, 9};
    sl_batch_begin(batch);
    for (unsigned i = 0; i < SL_COUNT_OF(all); i++)
        assert_true(sl_batch_add(batch, all[i]));
    sl_batch_seal(batch, &header);
}

static void test_batch(void **state)
{
    struct sl_batch_header header;
    struct sl_record record;
    uint32_t offset = 0;
    make(SL_GIB, 1);
    build_all();
    assert_int_equal(sl_batch_parse(batch, &place, &header, &why), 0);
    assert_int_equal(header.record_count, 9);
    assert_int_equal(header.payload_blocks, 4);
    assert_true(sl_batch_next(batch, &offset, &record));
    assert_int_equal(record.head.index, 100);
    assert_int_equal(record.block_count, 3);
    assert_true(sl_batch_next(batch, &offset, &record));
    assert_int_equal(record.block_count, SL_CHUNK_BLOCKS);
    assert_true(sl_batch_next(batch, &offset, &record));
    assert_int_equal(record.payload_first, 3);
    assert_memory_equal(record.extra, "extra", 5);
    assert_true(sl_batch_next(batch, &offset, &record));
    assert_true(sl_batch_next(batch, &offset, &record));
    assert_int_equal(record.vote, 77);
    for (unsigned i = 0; i < 4; i++)
        assert_true(sl_batch_next(batch, &offset, &record));
    assert_true(record.head.kind == SL_RECORD_APPLIED && record.head.index == 102);
    assert_false(sl_batch_next(batch, &offset, &record));
    turn_every_bit(batch, sizeof(batch), parse_batch);
    place.position++;
    assert_int_equal(parse_batch(), -ESTALE);
    place.position--;
    place.generation++;
    assert_int_equal(parse_batch(), -ESTALE);
}

/* As many small entries as fit; none is half. */
static void test_batch_full(void **state)
{
    struct sl_batch_header header = batch_header();
    unsigned count = 0;
    make(SL_GIB, 1);
    place = (struct sl_batch_place){&superblock, 0, 7, 9};
    sl_batch_begin(batch);
    for (;; count++) {
        struct sl_record record = entry_record(1 + count, 0, 1);
        if (!sl_batch_add(batch, &record))
            break;
    }
    assert_int_equal(count, SL_BATCH_RECORDS_BYTES / 48);
    sl_batch_seal(batch, &header);
    assert_int_equal(parse_batch(), 0);
    sl_batch_begin(batch);
    for (count = 0; count < 3; count++) {
        struct sl_record record = entry_record(1 + count, 0, SL_ENTRY_BLOCKS_MAX);
        assert_true(sl_batch_add(batch, &record));
    }
    struct sl_record record = entry_record(9, 0, SL_ENTRY_BLOCKS_MAX);
    assert_false(sl_batch_add(batch, &record));
}

/* Seals what was written over a record's field, and says what the parser thinks of it. */
static int absurd(size_t offset, const void *bytes, size_t length, uint64_t sequence,
                  uint64_t durable_sequence)
{
    struct sl_batch_header header;
    build_all();
    memcpy(&header, batch, sizeof(header));
    header.sequence = sequence;
    header.durable_sequence = durable_sequence;
    memcpy(batch, &header, sizeof(header));
    memcpy(batch + SL_BATCH_HEADER_BYTES + offset, bytes, length);
    header.crc = sl_crc32c(0, batch + 8, SL_BLOCK_BYTES - 8);
    memcpy(batch, &header, sizeof(header));
    return parse_batch();
}

/* A record by itself, as messages carry it: all of it has to fit, and all of it has to be there. */
static void test_record_alone(void **state)
{
    uint8_t bytes[512], again[512];
    struct sl_record record = entry_record(7, 0, 2), read;
    uint32_t length = sl_record_encode(bytes, sizeof(bytes), &record);
    assert_true(length > 0 && length % 8 == 0);
    memset(again, 0xee, sizeof(again));
    assert_int_equal(sl_record_encode(again, length - 1, &record), 0);
    for (unsigned i = 0; i < sizeof(again); i++)
        assert_int_equal(again[i], 0xee);
    assert_int_equal(sl_record_encode(again, length, &record), length);
    assert_null(sl_record_decode(bytes, length, &read));
    assert_int_equal(read.head.index, 7);
    assert_int_equal(read.block_count, 2);
    for (uint32_t left = 0; left < length; left++) {
        uint8_t *part = malloc(left + 1); /* what reads on is told */
        memcpy(part, bytes, left);
        assert_non_null(sl_record_decode(part, left, &read));
        free(part);
    }
}

static void test_batch_absurd(void **state)
{
    static const uint16_t zero16, huge16 = 0xffff, odd16 = 51;
    static const uint64_t zero64;
    static const uint8_t kind = 99, type = 9;
    make(SL_GIB, 1);
    assert_int_equal(absurd(0, "", 0, 42, 41), 0);
    assert_int_equal(absurd(0, "", 0, 0, 0), -SL_E_PROTOCOL);
    assert_int_equal(absurd(0, "", 0, 42, 42), -SL_E_PROTOCOL);
    assert_int_equal(absurd(0, &kind, 1, 42, 41), -SL_E_PROTOCOL);
    assert_int_equal(absurd(1, &type, 1, 42, 41), -SL_E_PROTOCOL);
    assert_int_equal(absurd(2, &zero16, 2, 42, 41), -SL_E_PROTOCOL);
    assert_int_equal(absurd(2, &odd16, 2, 42, 41), -SL_E_PROTOCOL);
    assert_int_equal(absurd(2, &huge16, 2, 42, 41), -SL_E_PROTOCOL);
    assert_int_equal(absurd(8, &zero64, 8, 42, 41), -SL_E_PROTOCOL);
    assert_int_equal(absurd(16, &zero64, 8, 42, 41), -SL_E_PROTOCOL);
    assert_int_equal(absurd(32, &huge16, 2, 42, 41), -SL_E_PROTOCOL);
    assert_int_equal(absurd(34, &huge16, 2, 42, 41), -SL_E_PROTOCOL);
    assert_int_equal(absurd(36, &odd16, 2, 42, 41), -SL_E_PROTOCOL);
    assert_int_equal(absurd(38, &huge16, 2, 42, 41), -SL_E_PROTOCOL);
}

/* ---- chunk ---- */

static _Alignas(8) uint8_t meta[SL_CHUNK_META_BYTES];
static struct sl_chunk_place chunk_place;

static void build_chunk(void)
{
    struct sl_chunk_header *header = (struct sl_chunk_header *)(void *)meta;
    uint32_t *table = (uint32_t *)(void *)(meta + SL_BLOCK_BYTES);
    memset(meta, 0, sizeof(meta));
    memcpy(header->disk_id, superblock.disk_id, 16);
    header->group = 1;
    header->number = 2;
    header->version = 3;
    header->chunk = 4;
    for (unsigned i = 0; i < SL_CHUNK_REGIONS; i++)
        header->regions[i] = (struct sl_region_entry){i % 2 == 0 ? i : SL_SLOT_NONE, 0, 100 + i};
    for (unsigned i = 0; i < SL_CHUNK_BLOCKS; i++)
        table[i] = i / SL_REGION_BLOCKS % 2 == 0 ? i * 7 : SL_CRC_ABSENT;
    sl_chunk_seal(meta);
    chunk_place = (struct sl_chunk_place){superblock.disk_id, 1, 2, 3, 4, 0, 64};
}

static int parse_chunk(void)
{
    return sl_chunk_parse(meta, &chunk_place, &why);
}

static void test_chunk(void **state)
{
    struct sl_chunk_header *header = (struct sl_chunk_header *)(void *)meta;
    make(SL_GIB, 1);
    build_chunk();
    turn_every_bit(meta, sizeof(meta), parse_chunk);
    for (unsigned i = 0; i < 6; i++) { /* another place's */
        static const uint8_t other_disk[16] = "another disk";
        build_chunk();
        chunk_place.disk_id = i == 0 ? other_disk : chunk_place.disk_id;
        chunk_place.group += i == 1;
        chunk_place.number += i == 2;
        chunk_place.version -= i == 3;
        chunk_place.chunk += i == 4;
        chunk_place.shard += i == 5;
        assert_int_equal(parse_chunk(), -ESTALE);
    }
    build_chunk();
    header->regions[0].slot = 64;
    sl_chunk_seal(meta);
    assert_int_equal(parse_chunk(), -SL_E_PROTOCOL);
    build_chunk();
    header->regions[0].slot = SL_SLOT_NONE; /* its blocks have checksums */
    sl_chunk_seal(meta);
    assert_int_equal(parse_chunk(), -SL_E_PROTOCOL);
    build_chunk();
    header->regions[0].slot |= 1u << 28;
    sl_chunk_seal(meta);
    assert_int_equal(parse_chunk(), -SL_E_PROTOCOL);
}

/* ---- root ---- */

static struct sl_root_header root;
static _Alignas(8) uint8_t body[4096];

static int parse_root(void)
{
    static struct sl_root_header header;
    int error = sl_root_header_parse(&root, &superblock, 0, &header, &why);
    return error < 0 ? error : sl_root_body_parse(&header, body, &why);
}

static void build_root(void)
{
    memset(&root, 0, sizeof(root));
    memset(body, 0, sizeof(body));
    memcpy(root.disk_id, superblock.disk_id, 16);
    root.sequence = 5;
    root.tail_generation = 3;
    root.head_generation = 4;
    root.chunk_count = 4;
    root.slot_count = 100;
    root.group_count = 2;
    struct sl_root_parts parts = sl_root_parts(&root);
    struct sl_root_chunk chunks[4] = {{1, 0, 9}, {0}, {1, 2, 3}, {2, 0, 1}};
    struct sl_root_group groups[2] = {{.group = 1, .state_bytes = 5}, {.group = 2}};
    memcpy(body, chunks, sizeof(chunks));
    memcpy(body + parts.groups, groups, sizeof(groups));
    root.body_bytes = parts.states + 8;
    sl_root_seal(&root, body);
}

static void test_root(void **state)
{
    make(SL_GIB, 1);
    build_root();
    turn_every_bit(&root, sizeof(root), parse_root);
    turn_every_bit(body, root.body_bytes, parse_root);
    struct sl_root_chunk *chunks = (struct sl_root_chunk *)(void *)body;
    chunks[2].number = 0; /* twice the same */
    sl_root_seal(&root, body);
    assert_int_equal(parse_root(), -SL_E_PROTOCOL);
    build_root();
    uint32_t root_bytes = superblock.shards[0].root_bytes;
    uint8_t *large = calloc(1, root_bytes);
    for (unsigned i = 0; i < 2; i++) { /* less than its parts, more than there is room for */
        root.body_bytes = i == 0 ? (uint32_t)sl_root_parts(&root).end - 8 : root_bytes;
        sl_root_seal(&root, large);
        assert_int_equal(parse_root(), -SL_E_PROTOCOL);
    }
    free(large);
    memset(&root, 0, sizeof(root)); /* not a damaged one: none */
    assert_int_equal(parse_root(), -ESTALE);
    build_root();
    struct sl_root_group *groups =
        (struct sl_root_group *)(void *)(body + sl_root_parts(&root).groups);
    groups[0].state_bytes = 9;
    sl_root_seal(&root, body);
    assert_int_equal(parse_root(), -SL_E_PROTOCOL);
    build_root();
    root.head_generation = 2;
    sl_root_seal(&root, body);
    assert_int_equal(parse_root(), -SL_E_PROTOCOL);
    build_root();
    root.chunk_count = UINT32_MAX;
    root.crc = 0;
    sl_root_seal(&root, body);
    assert_int_equal(parse_root(), -SL_E_PROTOCOL);
}

/* ---- the example of the document ---- */

/* A 12 KiB write to blocks 16 … 18 of chunk 2 of group 1: each block filled with one letter. */
static void build_example(void)
{
    struct sl_batch_header header = batch_header();
    for (unsigned i = 0; i < 3; i++) {
        static uint8_t block[SL_BLOCK_BYTES];
        memset(block, 'A' + (int)i, sizeof(block));
        example_crcs[i] = sl_crc32c(0, block, sizeof(block));
    }
    struct sl_record record = entry_record(100, 16, 3);
    make(SL_GIB, 1);
    place = (struct sl_batch_place){&superblock, 0, 7, 9};
    sl_batch_begin(batch);
    assert_true(sl_batch_add(batch, &record));
    sl_batch_seal(batch, &header);
}

static void test_example(void **state)
{
    const char *path = getenv("DOCUMENT");
    char line[512], expected[64];
    unsigned found = 0;
    build_example();
    for (unsigned i = 0; i < 160; i += 16) {
        int length = snprintf(expected, sizeof(expected), "%04x ", i);
        for (unsigned k = 0; k < 16; k++)
            length += snprintf(expected + length, sizeof(expected) - (size_t)length, " %02x",
                               batch[i + k]);
        if (path == NULL) {
            printf("%s\n", expected);
            continue;
        }
        FILE *document = fopen(path, "re");
        assert_non_null(document);
        while (fgets(line, sizeof(line), document) != NULL)
            found += strstr(line, expected) != NULL;
        fclose(document);
    }
    if (path == NULL)
        skip();
    assert_int_equal(found, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_layout_refusals),
        cmocka_unit_test(test_grow),
        cmocka_unit_test(test_superblock_bits),
        cmocka_unit_test(test_superblock_absurd),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_batch_full),
        cmocka_unit_test(test_record_alone),
        cmocka_unit_test(test_batch_absurd),
        cmocka_unit_test(test_chunk),
        cmocka_unit_test(test_root),
        cmocka_unit_test(test_example),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
