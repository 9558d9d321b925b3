/*
 * A gateway gone bad: holds the cluster's key, and breaks every rule of docs/wire.md towards a real
 * target.
 *
 *   hostile_gateway tcp|shm ADDRESS SEED
 *
 * Goal: each message that breaks the protocol ends its own connection; each I/O that may not be is
 * refused with its status; nothing else happens to the target. What stays behind in the target, and
 * whether others noticed, hostile_test.py looks at. Method: the raw peer of tests/fabric, one
 * connection an attack; at the end random capsules that are sound as messages. Writes go to the
 * first 8 MiB of the storage alone.
 *
 * Exit status 0: all as it should be. Prints a line an attack.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fabric_world.h"

/* Where this program may write. */
#define OURS_BYTES (8 * SL_MIB)
#define PIECE_KEY  UINT64_C(0x5eed5eed5eed5eed)
/* What a target takes at a time (--help does not change it). */
#define CREDITS      SL_CREDITS_MAX
#define RANDOM_RUNS  40
#define RANDOM_SENDS 60

static struct world world;
static struct server target; /* its address alone */
static struct raw raw;
static uint64_t capacity_bytes;

/* ---- one request and its answer ---- */

static uint32_t last_request_id;

static bool is_answered(void *argument)
{
    return raw.is_closed || (raw.type_count[SL_CAPSULE_REPLY] > *(unsigned *)argument);
}

/* The status of the reply, or -1: the target closed the connection. */
static int ask(union sl_capsule *request, uint32_t payload_bytes)
{
    unsigned before = raw.type_count[SL_CAPSULE_REPLY];
    request->header.request_id = ++last_request_id;
    raw_send(&raw, request, payload_bytes);
    world_run(&world, is_answered, &before);
    if (raw.type_count[SL_CAPSULE_REPLY] == before)
        return -1;
    assert_int_equal(raw.last.header.request_id, last_request_id);
    return raw.last.header.status;
}

static int ask_type(enum sl_capsule_type type)
{
    union sl_capsule request = {.header = {.type = type, .length_bytes = SL_CAPSULE_BYTES_MIN}};
    return ask(&request, 0);
}

static void open_started(void)
{
    raw_open(&raw, &world, &target);
    raw_handshake(&raw);
    assert_int_equal(ask_type(SL_CAPSULE_QUERY_STORAGE), SL_STATUS_OK);
    capacity_bytes = raw.last.storage.capacity_bytes;
    assert_int_equal(ask_type(SL_CAPSULE_START_STORAGE), SL_STATUS_OK);
}

/* ---- messages ---- */

static const char *const bad_names[RAW_BAD_COUNT] = {
    [RAW_BAD_CRC] = "wrong CRC",
    [RAW_BAD_GAP] = "a capsule left out",
    [RAW_BAD_REPLAY] = "a capsule sent twice",
    [RAW_BAD_TYPE] = "unknown type",
    [RAW_BAD_REQUEST_TYPE] = "unknown request",
    [RAW_BAD_REPLY] = "a reply to nothing",
    [RAW_BAD_CREDITS] = "too many credits",
    [RAW_BAD_LENGTH] = "length of another",
    [RAW_BAD_SHORT] = "truncated",
    [RAW_BAD_VERSION] = "other version",
    [RAW_BAD_RESERVED] = "reserved bytes set",
    [RAW_BAD_PAYLOAD_LENGTH] = "payload that does not come",
    [RAW_BAD_BEYOND_CREDITS] = "I/O capsule too short",
    [RAW_BAD_HELLO_AGAIN] = "HELLO in the middle",
};

static void messages(void)
{
    for (unsigned bad = 0; bad < RAW_BAD_COUNT; bad++) {
        open_started();
        raw_send_bad(&raw, (enum raw_bad)bad, 1);
        world_run_flag(&world, &raw.is_closed);
        raw_close(&raw);
        printf("%s: closed\n", bad_names[bad]);
    }
}

/* Before the handshake is through. */
static void handshakes(void)
{
    static const uint8_t types[] = {
        SL_CAPSULE_PROOF,         SL_CAPSULE_CHALLENGE, SL_CAPSULE_WELCOME,  SL_CAPSULE_IO,
        SL_CAPSULE_START_STORAGE, SL_CAPSULE_REPLY,     SL_CAPSULE_HEARTBEAT};
    for (unsigned i = 0; i < SL_COUNT_OF(types); i++) {
        union sl_capsule capsule = {.header = {.type = types[i], .length_bytes = 128}};
        raw_open(&raw, &world, &target);
        raw_send(&raw, &capsule, 0);
        world_run_flag(&world, &raw.is_closed);
        raw_close(&raw);
        printf("type %u instead of HELLO: closed\n", types[i]);
    }
    raw_open(&raw, &world, &target);
    raw.key[7] ^= 1;
    raw_hello(&raw);
    world_run_flag(&world, &raw.is_closed);
    assert_int_equal(raw.last.header.status, SL_STATUS_CLUSTER_KEY);
    raw_close(&raw);
    printf("wrong proof: rejected\n");
}

/* All in one turn, so that none is answered before the last is there. */
static void beyond_credits(void)
{
    open_started();
    for (unsigned i = 0; i < 2 * CREDITS + CREDITS / 2; i++) {
        union sl_capsule capsule = {
            .io = {.header = {.type = SL_CAPSULE_IO, .length_bytes = sizeof(struct sl_capsule_io)},
                   .io = {.opcode = SL_IO_FLUSH}}};
        raw_send(&raw, &capsule, 0);
    }
    world_run_flag(&world, &raw.is_closed);
    raw_close(&raw);
    printf("more requests than credits: closed\n");
}

/* ---- I/O ---- */

#define CLOSED  (-1)
#define TO_END  (UINT64_C(1) << 63) /* added to an offset: from the storage's end */
#define ANY_KEY (-2)                /* refused for its key: closed, or on shm a status */

struct io_attack {
    const char *name;
    uint8_t opcode;
    uint64_t offset_bytes;
    uint32_t length_bytes;
    uint8_t piece_count;
    uint32_t piece_bytes; /* of the first; the others 4096 */
    uint32_t payload_bytes;
    uint16_t cut_bytes; /* the capsule is so much shorter than its pieces */
    int expected;
};

static const struct io_attack io_attacks[] = {
    {"a sound flush", SL_IO_FLUSH, 0, 0, 0, 0, 0, 0, SL_STATUS_OK},
    {"a sound discard", SL_IO_DISCARD, 0, 4096, 0, 0, 0, 0, SL_STATUS_OK},
    {"read beyond the end", SL_IO_READ, TO_END, 4096, 1, 4096, 0, 0, SL_STATUS_OUT_OF_RANGE},
    {"discard beyond the end", SL_IO_DISCARD, TO_END, 4096, 0, 0, 0, 0, SL_STATUS_OUT_OF_RANGE},
    {"offset that wraps", SL_IO_READ, UINT64_MAX - 4095, 4096, 1, 4096, 0, 0,
     SL_STATUS_OUT_OF_RANGE},
    {"length 0", SL_IO_READ, 0, 0, 0, 0, 0, 0, SL_STATUS_INVALID},
    {"length 0, write", SL_IO_WRITE, 0, 0, 0, 0, 0, 0, SL_STATUS_INVALID},
    {"misaligned offset", SL_IO_READ, 512, 4096, 1, 4096, 0, 0, SL_STATUS_INVALID},
    {"misaligned length", SL_IO_WRITE, 0, 4000, 1, 4000, 0, 0, SL_STATUS_INVALID},
    {"2 MiB at once", SL_IO_WRITE, 0, 2 * SL_MIB, 1, 2 * SL_MIB, 0, 0, SL_STATUS_INVALID},
    {"4 GiB at once", SL_IO_DISCARD, 0, UINT32_MAX - 4095, 0, 0, 0, 0, SL_STATUS_INVALID},
    {"opcode 0", 0, 0, 4096, 0, 0, 0, 0, SL_STATUS_UNSUPPORTED},
    {"opcode 77", 77, 0, 0, 0, 0, 0, 0, SL_STATUS_UNSUPPORTED},
    {"7 pieces", SL_IO_READ, 0, 7 * 4096, 7, 4096, 0, 0, SL_STATUS_PROTOCOL},
    {"fewer pieces than said", SL_IO_READ, 0, 8192, 2, 4096, 0, 24, SL_STATUS_PROTOCOL},
    {"255 pieces", SL_IO_READ, 0, 255 * 4096, 255, 4096, 0, 0, SL_STATUS_PROTOCOL},
    {"pieces that do not add up", SL_IO_READ, 0, 8192, 1, 4096, 0, 0, SL_STATUS_INVALID},
    {"pieces that wrap", SL_IO_READ, 0, 4096, 2, UINT32_MAX - 4095, 0, 0, SL_STATUS_INVALID},
    {"a flush with a piece", SL_IO_FLUSH, 0, 0, 1, 4096, 0, 0, SL_STATUS_INVALID},
    {"read with a forged key", SL_IO_READ, 0, 4096, 1, 4096, 0, 0, ANY_KEY},
    {"write with a forged key", SL_IO_WRITE, 0, 4096, 1, 4096, 0, 0, ANY_KEY},
};

/* On tcp, which takes payload with a capsule. */
static const struct io_attack payload_attacks[] = {
    {"a sound write", SL_IO_WRITE, 0, 4096, 0, 0, 4096, 0, SL_STATUS_OK},
    {"payload and a piece", SL_IO_WRITE, 0, 8192, 1, 4096, 4096, 0, SL_STATUS_PROTOCOL},
    {"a read with payload", SL_IO_READ, 0, 4096, 0, 0, 4096, 0, SL_STATUS_PROTOCOL},
    {"payload of 512 bytes", SL_IO_WRITE, 0, 512, 0, 0, 512, 0, SL_STATUS_INVALID},
    {"less payload than said", SL_IO_WRITE, 0, 8192, 0, 0, 4096, 0, SL_STATUS_INVALID},
};

static uint16_t io_length(uint8_t piece_count, uint16_t cut_bytes)
{
    size_t pieces = sl_min(piece_count, (uint8_t)SL_REMOTE_PIECES_MAX);
    return (uint16_t)(offsetof(struct sl_capsule_io, pieces) +
                      pieces * sizeof(struct sl_remote_piece) - cut_bytes);
}

static void io_attack(const struct io_attack *attack)
{
    uint64_t offset = attack->offset_bytes;
    if (offset == TO_END)
        offset = capacity_bytes;
    union sl_capsule request = {
        .io = {.header = {.type = SL_CAPSULE_IO,
                          .length_bytes = io_length(attack->piece_count, attack->cut_bytes)},
               .io = {.opcode = attack->opcode,
                      .offset_bytes = offset,
                      .length_bytes = attack->length_bytes,
                      .piece_count = attack->piece_count}}};
    for (unsigned i = 0; i < SL_REMOTE_PIECES_MAX && i < attack->piece_count; i++)
        request.io.pieces[i] = (struct sl_remote_piece){i * 4096, PIECE_KEY + i,
                                                        i == 0 ? attack->piece_bytes : 4096, 0};
    int status = ask(&request, attack->payload_bytes);
    int expected = attack->expected;
    if (expected == ANY_KEY)
        expected = world.link->ops->maps ? (int)SL_STATUS_KEY : CLOSED;
    if (status != expected)
        fail_msg("%s: status %d, not %d", attack->name, status, expected);
    printf("%s: %s%d\n", attack->name, status == CLOSED ? "closed " : "status ", status);
}

static void io_attacks_run(const struct io_attack *attacks, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        open_started();
        io_attack(&attacks[i]);
        raw_close(&raw);
    }
}

/* I/O before START_STORAGE, and after STOP_STORAGE. */
static void out_of_order(void)
{
    static const struct io_attack early = {
        "I/O that was not started", SL_IO_READ, 0, 4096, 1, 4096, 0, 0, SL_STATUS_STATE};
    raw_open(&raw, &world, &target);
    raw_handshake(&raw);
    io_attack(&early);
    assert_int_equal(ask_type(SL_CAPSULE_START_STORAGE), SL_STATUS_OK);
    assert_int_equal(ask_type(SL_CAPSULE_STOP_STORAGE), SL_STATUS_OK);
    io_attack(&early);
    raw_close(&raw);
}

/* ---- keys that are ours, used for what they do not allow ---- */

enum key_attack { KEY_SOUND, KEY_BEYOND, KEY_WRAPS, KEY_READ_ONLY, KEY_ATTACK_COUNT };

static void key_attack(enum key_attack attack)
{
    static const char *const names[] = {"a sound piece", "a piece beyond its memory",
                                        "a piece that wraps", "a read into memory for reading"};
    open_started();
    union sl_capsule request = {
        .io = {.header = {.type = SL_CAPSULE_IO, .length_bytes = io_length(1, 0)},
               .io = {.opcode = attack == KEY_READ_ONLY ? SL_IO_READ : SL_IO_WRITE,
                      .length_bytes = 4096,
                      .piece_count = 1}}};
    assert_int_equal(world.link->ops->describe(raw.domain, raw.payload->region, raw.payload->data,
                                               4096, &request.io.pieces[0]),
                     0);
    if (attack == KEY_BEYOND)
        request.io.pieces[0].address += 1 * SL_GIB;
    if (attack == KEY_WRAPS)
        request.io.pieces[0].address = UINT64_MAX - 2047;
    int status = ask(&request, 0);
    int refused = world.link->ops->maps ? (int)SL_STATUS_KEY : CLOSED;
    if (status != (attack == KEY_SOUND ? (int)SL_STATUS_OK : refused))
        fail_msg("%s: status %d", names[attack], status);
    raw_close(&raw);
    printf("%s: %s%d\n", names[attack], status == CLOSED ? "closed " : "status ", status);
}

/* ---- random ---- */

static uint64_t random_64(void)
{
    return (uint64_t)random() << 33 ^ (uint64_t)random() << 12 ^ (uint64_t)random();
}

static void random_capsule(union sl_capsule *capsule)
{
    static const uint8_t types[] = {SL_CAPSULE_IO,           SL_CAPSULE_IO,
                                    SL_CAPSULE_IO,           SL_CAPSULE_IO,
                                    SL_CAPSULE_STATISTICS,   SL_CAPSULE_QUERY_STORAGE,
                                    SL_CAPSULE_INIT_STORAGE, SL_CAPSULE_HEARTBEAT,
                                    SL_CAPSULE_CREDIT,       SL_CAPSULE_START_STORAGE};
    for (unsigned i = 0; i < sizeof(*capsule); i++)
        capsule->bytes[i] = (uint8_t)random();
    capsule->header = (struct sl_capsule_header){
        .type = types[(size_t)random() % SL_COUNT_OF(types)], .request_id = (uint32_t)random()};
    if (random() % 16 == 0)
        capsule->header.type = (uint8_t)random();
    capsule->header.length_bytes = (uint16_t)(32 + random() % 225);
    if (random() % 4 != 0)
        capsule->header.length_bytes = io_length((uint8_t)(random() % 7), 0);
    if (capsule->header.type != SL_CAPSULE_IO)
        return;
    struct sl_io_message *io = &capsule->io.io;
    io->opcode = (uint8_t)(random() % 7);
    /* Ours, or far beyond any storage: never what others wrote. */
    io->offset_bytes = random_64() % OURS_BYTES;
    io->length_bytes = (uint32_t)sl_min(random_64() % (64 * 4096), OURS_BYTES - io->offset_bytes);
    if (random() % 4 != 0) {
        io->offset_bytes &= ~UINT64_C(4095);
        io->length_bytes &= ~4095u;
    }
    if (random() % 8 == 0)
        io->offset_bytes |= UINT64_C(1) << (40 + random() % 24);
    if (random() % 2 == 0)
        io->piece_count = (uint8_t)(random() % 7);
    for (unsigned i = 0; i < SL_REMOTE_PIECES_MAX; i++) {
        capsule->io.pieces[i].length_bytes =
            io->piece_count > 0 ? io->length_bytes / io->piece_count : 0;
        capsule->io.pieces[i].address %= SL_MIB;
    }
}

static bool turn_is_over(void *argument)
{
    return raw.is_closed || --*(unsigned *)argument == 0;
}

static void random_run(void)
{
    open_started();
    uint32_t payload_max = raw.challenge.bytes[48] | (uint32_t)raw.challenge.bytes[49] << 8;
    unsigned sent = 0;
    for (; sent < RANDOM_SENDS && !raw.is_closed; sent++) {
        union sl_capsule capsule;
        random_capsule(&capsule);
        uint32_t payload_bytes =
            payload_max > 0 && random() % 4 == 0 ? 4096u * (1 + random() % 4) : 0;
        capsule.header.type = payload_bytes > 0 ? (uint8_t)SL_CAPSULE_IO : capsule.header.type;
        raw_send(&raw, &capsule, payload_bytes);
        unsigned turns = 1 + (unsigned)random() % 20;
        world_run(&world, turn_is_over, &turns);
    }
    raw_close(&raw);
}

int main(int argc, char **argv)
{
    static const struct world_config config = {.raw_access = SL_ACCESS_REMOTE_READ};
    if (argc != 4)
        return 2;
    const struct world_link *link = NULL;
    for (unsigned i = 0; i < world_link_count; i++) {
        if (strcmp(world_links[i].name, argv[1]) == 0)
            link = &world_links[i];
    }
    assert_non_null(link);
    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(target.address, sizeof(target.address), "%s", argv[2]);
    srandom((unsigned)atoi(argv[3]));
    world_open(&world, link, 1, &config);
    messages();
    handshakes();
    beyond_credits();
    out_of_order();
    io_attacks_run(io_attacks, SL_COUNT_OF(io_attacks));
    if (!link->ops->maps)
        io_attacks_run(payload_attacks, SL_COUNT_OF(payload_attacks));
    for (unsigned attack = 0; attack < KEY_ATTACK_COUNT; attack++)
        key_attack((enum key_attack)attack);
    for (unsigned i = 0; i < RANDOM_RUNS; i++)
        random_run();
    printf("%u random runs\n", RANDOM_RUNS);
    world_close(&world);
    return 0;
}
