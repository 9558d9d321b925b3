/*
 * A target gone bad: holds the cluster's key, and breaks every rule of docs/wire.md towards a real
 * gateway.
 *
 *   hostile_target tcp|shm ADDRESS CAPACITY SEED
 *
 * Goal: each message that breaks the protocol ends its own connection, each forged key is refused;
 * the gateway tries again, and serves its other volumes meanwhile. What stays behind, and whether
 * others noticed, hostile_test.py looks at. Method: the raw peer of tests/fabric listens; each
 * connection of the gateway is one attack. Attacks of the first kind begin with the handshake or
 * the storage's description; those of the second kind wait for an I/O, so somebody must do I/O.
 *
 * Prints "ready: at ADDRESS", a line an attack, then "done", and is a sound target without memory
 * until SIGTERM (writes vanish, reads answer what is there).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "fabric_world.h"

static struct world world;
static struct raw raw;
static struct sl_link_incoming *incoming;
static uint64_t capacity_bytes;
static volatile sig_atomic_t ending;

/* hostile_test.py's first initiator does so many. */
#define SOUND_COUNT 64

enum attack {
    SOUND,
    SOUND_AT_FIRST, /* until it has done SOUND_COUNT I/Os: the gateway learns the storage */
    /* of the handshake and of what follows at once */
    NO_CHALLENGE,
    WRONG_PROOF,
    NO_CREDITS,
    MANY_CREDITS,
    OTHER_VERSION,
    WELCOME_AT_ONCE,
    REPLY_AT_ONCE,
    SHORT_DESCRIPTION,
    NO_CAPACITY,
    HUGE_CAPACITY,
    OTHER_BLOCKS,
    ODD_SHARDS,
    NO_REACTORS,
    MANY_REACTORS,
    LESS_CAPACITY,
    NO_START,
    /* at the first I/O; RAW_BAD_COUNT messages that break a rule, then: */
    FIRST_BAD,
    LAST_BAD = FIRST_BAD + RAW_BAD_COUNT - 1,
    REPLY_TWICE,
    REPLY_OF_OTHER,
    REPLY_WITH_PAYLOAD,
    WILD_STATUS,
    REQUEST_BACK,
    READ_SOUND,
    READ_FORGED,
    WRITE_FORGED,
    READ_BEYOND,
    WRITE_BEYOND,
    READ_WRAPPING,
    READ_OLD_KEY,
    NO_REPLY,
    ATTACK_COUNT,
};

static const char *const names[ATTACK_COUNT] = {
    "sound",
    "sound at first",
    "no CHALLENGE",
    "wrong proof",
    "no credits",
    "65536 credits",
    "other version",
    "WELCOME instead of CHALLENGE",
    "REPLY instead of CHALLENGE",
    "short description",
    "capacity 0",
    "capacity 2^63",
    "blocks of 512 bytes",
    "shards of 12345 bytes",
    "no reactors",
    "2^31 reactors",
    "other capacity",
    "START refused",
    [FIRST_BAD + RAW_BAD_CRC] = "wrong CRC",
    [FIRST_BAD + RAW_BAD_GAP] = "a capsule left out",
    [FIRST_BAD + RAW_BAD_REPLAY] = "a capsule sent twice",
    [FIRST_BAD + RAW_BAD_TYPE] = "unknown type",
    [FIRST_BAD + RAW_BAD_REQUEST_TYPE] = "unknown request",
    [FIRST_BAD + RAW_BAD_REPLY] = "a reply to nothing",
    [FIRST_BAD + RAW_BAD_CREDITS] = "too many credits",
    [FIRST_BAD + RAW_BAD_LENGTH] = "length of another",
    [FIRST_BAD + RAW_BAD_SHORT] = "truncated",
    [FIRST_BAD + RAW_BAD_VERSION] = "version of another",
    [FIRST_BAD + RAW_BAD_RESERVED] = "reserved bytes set",
    [FIRST_BAD + RAW_BAD_PAYLOAD_LENGTH] = "payload that does not come",
    [FIRST_BAD + RAW_BAD_BEYOND_CREDITS] = "requests beyond credits",
    [FIRST_BAD + RAW_BAD_HELLO_AGAIN] = "HELLO in the middle",
    [REPLY_TWICE] = "a reply twice",
    [REPLY_OF_OTHER] = "a reply to another request",
    [REPLY_WITH_PAYLOAD] = "a reply with payload",
    [WILD_STATUS] = "an unknown status",
    [REQUEST_BACK] = "a request to the gateway",
    [READ_SOUND] = "a sound READ",
    [READ_FORGED] = "a READ with a forged key",
    [WRITE_FORGED] = "a WRITE with a forged key",
    [READ_BEYOND] = "a READ beyond the memory",
    [WRITE_BEYOND] = "a WRITE beyond the memory",
    [READ_WRAPPING] = "a READ that wraps",
    [READ_OLD_KEY] = "a READ with a key of a former connection",
    [NO_REPLY] = "no reply",
};

static enum attack attack;
static struct sl_remote_piece old_piece;
static unsigned io_count;
static union sl_capsule io; /* the attack's */
static bool transfer_posted;
static bool finished; /* the attack is over, though the gateway need not close */

/* ---- answers ---- */

static void reply_to(const union sl_capsule *request, uint16_t status)
{
    union sl_capsule reply = {.header = {.type = SL_CAPSULE_REPLY,
                                         .length_bytes = SL_CAPSULE_BYTES_MIN,
                                         .request_id = request->header.request_id,
                                         .status = status,
                                         .credits = 1}};
    raw_send(&raw, &reply, 0);
}

static void answer_storage(const union sl_capsule *request)
{
    union sl_capsule reply = {.storage = {.header = {.type = SL_CAPSULE_REPLY,
                                                     .length_bytes = sizeof(reply.storage),
                                                     .request_id = request->header.request_id,
                                                     .credits = 1},
                                          .capacity_bytes = capacity_bytes,
                                          .block_bytes = SL_BLOCK_BYTES,
                                          .shard_bytes = SL_TRANSFER_BYTES_MAX,
                                          .reactor_count = 1,
                                          .transfer_bytes_max = SL_TRANSFER_BYTES_MAX,
                                          .storage_id = "hostile"}};
    struct sl_capsule_storage *storage = &reply.storage;
    if (attack == SHORT_DESCRIPTION)
        storage->header.length_bytes = 48;
    if (attack == NO_CAPACITY)
        storage->capacity_bytes = 0;
    if (attack == HUGE_CAPACITY)
        storage->capacity_bytes = UINT64_C(1) << 63;
    if (attack == LESS_CAPACITY)
        storage->capacity_bytes -= SL_MIB;
    if (attack == OTHER_BLOCKS)
        storage->block_bytes = 512;
    if (attack == ODD_SHARDS)
        storage->shard_bytes = 12345;
    if (attack == NO_REACTORS)
        storage->reactor_count = 0;
    if (attack == MANY_REACTORS)
        storage->reactor_count = UINT32_C(1) << 31;
    raw_send(&raw, &reply, 0);
}

static struct sl_remote_piece target_piece(void)
{
    struct sl_remote_piece piece = io.io.pieces[0];
    piece.length_bytes = 4096;
    if (attack == READ_FORGED || attack == WRITE_FORGED)
        piece.key ^= UINT64_C(0x8000000000000001);
    if (attack == READ_BEYOND || attack == WRITE_BEYOND)
        piece.address += 1 * SL_GIB;
    if (attack == READ_WRAPPING)
        piece.address = UINT64_MAX - 2047;
    if (attack == READ_OLD_KEY)
        piece.key = old_piece.key;
    return piece;
}

/* What the attack does to the first I/O. */
static void attack_io(void)
{
    union sl_capsule capsule = {.header = {.type = SL_CAPSULE_REPLY,
                                           .length_bytes = SL_CAPSULE_BYTES_MIN,
                                           .request_id = io.header.request_id}};
    if (attack >= FIRST_BAD && attack <= LAST_BAD) {
        raw_send_bad(&raw, (enum raw_bad)(attack - FIRST_BAD), 2);
    } else if (attack == REPLY_TWICE) {
        reply_to(&io, 0);
        reply_to(&io, 0);
    } else if (attack == REPLY_OF_OTHER) {
        capsule.header.request_id += SL_CREDITS_MAX;
        raw_send(&raw, &capsule, 0);
    } else if (attack == REPLY_WITH_PAYLOAD) {
        raw_send(&raw, &capsule, 4096);
    } else if (attack == WILD_STATUS) {
        capsule.header.status = 0xfff;
        raw_send(&raw, &capsule, 0);
        finished = true; /* an error like others */
    } else if (attack == REQUEST_BACK) {
        capsule.header.type = SL_CAPSULE_QUERY_STORAGE;
        raw_send(&raw, &capsule, 0);
    } else if (attack >= READ_SOUND && attack <= READ_OLD_KEY) {
        struct sl_remote_piece piece = target_piece();
        bool writes = attack == WRITE_FORGED || attack == WRITE_BEYOND;
        raw_transfer(&raw, writes ? SL_LINK_WRITE : SL_LINK_READ, &piece);
        transfer_posted = true;
    }
}

static void request_came(const union sl_capsule *request)
{
    union sl_capsule beat = {0};
    switch (request->header.type) {
    case SL_CAPSULE_QUERY_STORAGE:
    case SL_CAPSULE_INIT_STORAGE:
        answer_storage(request);
        break;
    case SL_CAPSULE_START_STORAGE:
        reply_to(request, attack == NO_START ? SL_STATUS_STATE : SL_STATUS_OK);
        break;
    case SL_CAPSULE_IO:
        if (attack == SOUND_AT_FIRST)
            old_piece = request->io.pieces[0];
        if (attack < FIRST_BAD)
            reply_to(request, SL_STATUS_OK);
        io = *request;
        if (io_count++ == 0)
            attack_io();
        break;
    case SL_CAPSULE_HEARTBEAT:
        beat.header.type = SL_CAPSULE_HEARTBEAT;
        beat.header.length_bytes = SL_CAPSULE_BYTES_MIN;
        raw_send(&raw, &beat, 0);
        break;
    case SL_CAPSULE_CREDIT:
    case SL_CAPSULE_GOODBYE:
    case SL_CAPSULE_REJECT:
        break;
    default:
        reply_to(request, SL_STATUS_OK);
    }
}

/* The listening side of the handshake, gone wrong. True: that was it. */
static bool spoil_handshake(void)
{
    union sl_capsule capsule = {
        .header = {.type = SL_CAPSULE_WELCOME, .length_bytes = SL_CAPSULE_BYTES_MIN}};
    if (attack == NO_CHALLENGE)
        return true;
    if (attack == WELCOME_AT_ONCE || attack == REPLY_AT_ONCE) {
        if (attack == REPLY_AT_ONCE)
            capsule.header.type = SL_CAPSULE_REPLY;
        raw_send(&raw, &capsule, 0);
        return true;
    }
    if (attack == WRONG_PROOF)
        raw.key[3] ^= 1;
    if (attack == OTHER_VERSION)
        raw.version_min = raw.version_max = 9;
    raw.credits_offered = attack == NO_CREDITS ? 0 : attack == MANY_CREDITS ? 65536 : 4;
    return false;
}

static bool capsule_came(struct raw *peer)
{
    if (!peer->is_open)
        return peer->last.header.type == SL_CAPSULE_HELLO && spoil_handshake();
    request_came(&peer->last);
    return true;
}

/* ---- connections ---- */

static void request_incoming(void *owner, struct sl_link_incoming *request)
{
    if (incoming != NULL)
        request->ops->reject(request);
    else
        incoming = request;
}

static bool is_incoming_or_ending(void *argument)
{
    return incoming != NULL || ending;
}

static bool is_over(void *argument)
{
    /* On shm the access is refused on this side: the link looks it up here. */
    bool looked_up = attack == READ_SOUND || world.link->ops->maps;
    if (transfer_posted && raw.transfer_ended && looked_up)
        finished = true;
    if (attack == SOUND_AT_FIRST && io_count >= SOUND_COUNT)
        finished = true;
    return raw.is_closed || ending || finished;
}

/* world_run() gives up after 20 s, and there is no limit to how long nothing comes. */
static void run_until(bool (*done)(void *argument))
{
    while (!done(NULL)) {
        bool busy = sl_reactor_step(world.nodes[0].reactor);
        if (!busy)
            world_run_ms(&world, 1);
    }
}

/* One connection with one attack; false: the end. */
static bool serve_one(enum attack which)
{
    attack = which;
    io_count = 0;
    transfer_posted = finished = false;
    run_until(is_incoming_or_ending);
    if (ending)
        return false;
    struct sl_link_incoming *request = incoming;
    incoming = NULL;
    raw_accept(&raw, &world, request, capsule_came);
    run_until(is_over);
    if (finished)
        world_run_ms(&world, 20); /* what was sent last leaves */
    raw_close(&raw);              /* flushes the transfer */
    if (ending)
        return false;
    /* A WRITE of its own says only that its memory is free again: the peer says what it thinks. */
    int error = raw.transfer.status == 0 && !finished ? raw.reason : raw.transfer.status;
    if (transfer_posted && error != (attack == READ_SOUND ? 0 : -SL_E_KEY))
        fail_msg("%s: %d", names[attack], error);
    printf("%s: %s\n", names[attack], finished ? "over" : "closed");
    return true;
}

static void on_signal(int number)
{
    ending = 1;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    const struct world_link *link = NULL;
    for (unsigned i = 0; i < world_link_count; i++) {
        if (strcmp(world_links[i].name, argv[1]) == 0)
            link = &world_links[i];
    }
    assert_non_null(link);
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    capacity_bytes = strtoull(argv[3], NULL, 0);
    srandom((unsigned)atoi(argv[4]));
    world_open(&world, link, 1, NULL);
    struct sl_link_domain *domain;
    struct sl_link_listener *listener;
    char bound[SL_ADDRESS_BYTES_MAX];
    struct sl_link_domain_config config = {.io = world.nodes[0].io,
                                           .memory = world.nodes[0].memory};
    assert_int_equal(link->ops->domain_open(&config, &domain), 0);
    assert_int_equal(link->ops->listen(domain, argv[2], request_incoming, NULL, bound, &listener),
                     0);
    printf("ready: at %s\n", bound);
    bool more = serve_one(SOUND_AT_FIRST);
    /* One of the handshake, one of I/O: the gateway waits longer from failure to failure to
     * connect.
     */
    unsigned early = SOUND_AT_FIRST + 1, late = FIRST_BAD;
    while (more && late < ATTACK_COUNT) {
        if (early < FIRST_BAD)
            more = serve_one((enum attack)early++);
        more = more && serve_one((enum attack)late++);
    }
    if (more)
        printf("done\n");
    while (more)
        more = serve_one(SOUND);
    if (incoming != NULL)
        link->ops->reject(incoming);
    link->ops->listener_close(listener);
    link->ops->domain_close(domain);
    world_close(&world);
    return 0;
}
