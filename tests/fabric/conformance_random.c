/*
 * Random operations against a model. Both ends are at once initiator and server.
 *
 * An end has WINDOW operations outstanding. Each is one of
 *   MESSAGE   a SEND with a payload of random length: the server checks it and answers with a
 * payload of its own WRITE     into a slot of the server's memory, and a SEND behind it that names
 * slot, range and seed: the server looks into its memory, which must hold it (rule 2), and answers
 *   READ      of a slot, compared with what the model says that it holds
 * A slot has at most one operation outstanding, so the model knows its contents. Payload is made
 * from a seed that the capsule carries. Receives: WINDOW for requests and WINDOW for answers,
 * posted again before the answer leaves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "conformance.h"

#define WINDOW      16
#define SLOT_COUNT  32
#define SLOT_BYTES  32768u
#define SEND_POOL   128
#define RDMA_POOL   64
#define ANSWER_KIND 255

enum kind { MESSAGE, WRITE, READ };

/* Travels in the capsule. */
struct note {
    uint64_t seed;
    uint32_t kind;
    uint32_t slot;
    uint32_t offset_bytes;
    uint32_t length_bytes;
    uint8_t pad[40];
};

struct player {
    struct conformance_world *world;
    struct conformance_end end;
    struct conformance_target own; /* our slots */
    struct sl_remote_piece remote; /* the peer's */
    uint8_t *model;                /* of the peer's slots */
    bool slot_busy[SLOT_COUNT];
    struct conformance_op *sends[SEND_POOL];
    struct conformance_op *rdma[RDMA_POOL];
    uint64_t random;
    unsigned started_count;
    unsigned finished_count;
    unsigned outstanding_count;
    unsigned wanted_count;
    unsigned seen_count; /* finished, when last looked at */
    bool is_over;
    unsigned kind_count[3];
};

static uint64_t next_random(struct player *player)
{
    player->random ^= player->random << 13;
    player->random ^= player->random >> 7;
    player->random ^= player->random << 17;
    return player->random;
}

static struct conformance_op *idle_op(struct player *player, struct conformance_op **pool,
                                      unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (pool[i]->posted_count == pool[i]->done_count)
            return pool[i];
    SL_ASSERT(!"the pool is large enough");
    return NULL;
}

static void send_note(struct player *player, const struct note *note, uint32_t payload_bytes)
{
    struct conformance_op *op = idle_op(player, player->sends, SEND_POOL);
    conformance_op_fill(op, &player->end, SL_LINK_SEND, sizeof(*note), 0);
    memcpy(op->capsule, note, sizeof(*note));
    if (payload_bytes > 0) {
        conformance_pattern_fill(op->buf->data, payload_bytes, note->seed);
        /* Up to three pieces, each from a page on. */
        for (uint32_t at = 0; at < payload_bytes;) {
            uint32_t length = op->op.span_count == 3 ? payload_bytes : 4096;
            length = sl_min(length, payload_bytes - at);
            op->op.spans[op->op.span_count++] = sl_buf_span(op->buf, at, length);
            at += length;
        }
    }
    conformance_op_post(op);
}

static void start_rdma(struct player *player, struct note *note)
{
    bool is_read = note->kind == READ;
    struct conformance_op *op = idle_op(player, player->rdma, RDMA_POOL);
    op->op.opcode = is_read ? SL_LINK_READ : SL_LINK_WRITE;
    op->op.span_count = 0;
    uint32_t cut = (uint32_t)(next_random(player) % note->length_bytes);
    if (cut > 0)
        op->op.spans[op->op.span_count++] = sl_buf_span(op->buf, 0, cut);
    op->op.spans[op->op.span_count++] = sl_buf_span(op->buf, cut, note->length_bytes - cut);
    uint32_t at = note->slot * SLOT_BYTES + note->offset_bytes;
    op->op.remote = player->remote;
    op->op.remote.address += at;
    op->op.remote.length_bytes = note->length_bytes;
    memcpy(op->capsule, note, sizeof(*note));
    op->context = player;
    if (!is_read) {
        conformance_pattern_fill(op->buf->data, note->length_bytes, note->seed);
        conformance_pattern_fill(player->model + at, note->length_bytes, note->seed);
    }
    conformance_op_post(op);
    if (!is_read)
        send_note(player, note, 0);
}

/* Keeps WINDOW operations outstanding until all were started. */
static void play(struct player *player)
{
    while (player->started_count < player->wanted_count && player->outstanding_count < WINDOW) {
        struct note note = {.seed = next_random(player), .kind = next_random(player) % 3};
        if (note.kind == MESSAGE) {
            note.length_bytes = next_random(player) % (SL_IN_CAPSULE_BYTES_MAX + 1);
        } else {
            do
                note.slot = next_random(player) % SLOT_COUNT;
            while (player->slot_busy[note.slot]);
            player->slot_busy[note.slot] = true;
            note.length_bytes = 1 + next_random(player) % SLOT_BYTES;
            note.offset_bytes = next_random(player) % (SLOT_BYTES - note.length_bytes + 1);
        }
        player->started_count++;
        player->outstanding_count++;
        player->kind_count[note.kind]++;
        if (note.kind == MESSAGE)
            send_note(player, &note, note.length_bytes);
        else
            start_rdma(player, &note);
    }
}

static void finished(struct player *player)
{
    player->finished_count++;
    player->outstanding_count--;
    play(player);
}

static void rdma_done(struct conformance_op *op)
{
    struct player *player = op->context;
    struct note note;
    memcpy(&note, op->capsule, sizeof(note));
    CONFORMANCE_CHECK(player->world, op->op.status == 0);
    if (op->op.opcode != SL_LINK_READ)
        return; /* the answer finishes it */
    const uint8_t *expected = player->model + note.slot * SLOT_BYTES + note.offset_bytes;
    CONFORMANCE_CHECK(player->world, memcmp(op->buf->data, expected, note.length_bytes) == 0);
    player->slot_busy[note.slot] = false;
    finished(player);
}

static void serve(struct player *player, const struct conformance_op *op, struct note *note)
{
    const uint8_t *place = op->buf->data;
    uint32_t payload_bytes = note->length_bytes;
    if (note->kind == WRITE) {
        place = player->own.buf->data + note->slot * SLOT_BYTES + note->offset_bytes;
        payload_bytes = 0;
    }
    CONFORMANCE_CHECK(player->world, op->op.payload_bytes == payload_bytes);
    CONFORMANCE_CHECK(player->world, conformance_pattern_is(place, note->length_bytes, note->seed));
    note->offset_bytes = note->kind;
    note->kind = ANSWER_KIND;
    note->seed = next_random(player);
    note->length_bytes = next_random(player) % (SL_IN_CAPSULE_BYTES_MAX + 1);
}

static void received(struct conformance_op *op)
{
    struct player *player = op->context;
    struct note note;
    if (op->op.status != 0)
        return;
    /* A link may have padded it. */
    CONFORMANCE_CHECK(player->world, op->op.capsule_bytes >= sizeof(note));
    memcpy(&note, op->capsule, sizeof(note));
    if (note.kind != ANSWER_KIND) {
        serve(player, op, &note);
        conformance_op_post(op);
        send_note(player, &note, note.length_bytes);
        return;
    }
    CONFORMANCE_CHECK(player->world, op->op.payload_bytes == note.length_bytes);
    CONFORMANCE_CHECK(player->world,
                      conformance_pattern_is(op->buf->data, note.length_bytes, note.seed));
    conformance_op_post(op);
    if (note.offset_bytes == WRITE)
        player->slot_busy[note.slot] = false;
    finished(player);
}

static void player_open(struct player *player, struct conformance_world *world, unsigned index,
                        unsigned operation_count, uint64_t seed)
{
    struct conformance_end *end = &player->end;
    player->world = world;
    player->wanted_count = operation_count;
    player->random = seed * 2 + index + 1;
    conformance_target_open(&player->own, &world->nodes[index], SLOT_COUNT * SLOT_BYTES);
    assert_int_equal(player->own.error, 0);
    memset(player->own.buf->data, 0, SLOT_COUNT * SLOT_BYTES);
    player->model = calloc(SLOT_COUNT, SLOT_BYTES);
    assert_non_null(player->model);
    for (unsigned i = 0; i < SEND_POOL; i++)
        player->sends[i] =
            conformance_op_new(end, SL_LINK_SEND, sizeof(struct note), SL_IN_CAPSULE_BYTES_MAX);
    for (unsigned i = 0; i < RDMA_POOL; i++) {
        player->rdma[i] = conformance_op_new(end, SL_LINK_WRITE, 0, SLOT_BYTES);
        player->rdma[i]->on_done = rdma_done;
    }
    for (unsigned i = 0; i < 2 * WINDOW; i++) {
        struct conformance_op *op =
            conformance_op_new(end, SL_LINK_RECEIVE, 0, SL_IN_CAPSULE_BYTES_MAX);
        op->on_done = received;
        op->context = player;
        conformance_post_one(op);
    }
}

static void player_start(void *argument)
{
    play(argument);
}

static bool player_is_finished(const struct player *player)
{
    return player->finished_count == player->wanted_count ||
           atomic_load(&player->world->failures) > 0;
}

/* Looks on the player's reactor, whose the counts are. */
static bool player_has_moved(void *argument)
{
    struct player *player = argument;
    bool has_moved = player->finished_count != player->seen_count;
    player->seen_count = player->finished_count;
    player->is_over = player_is_finished(player);
    return has_moved || player->is_over;
}

void conformance_random_run(struct conformance_world *world, unsigned operation_count,
                            uint64_t seed)
{
    struct player *players = calloc(2, sizeof(*players));
    assert_non_null(players);
    conformance_pair_open(world, &players[0].end, &players[1].end);
    for (unsigned i = 0; i < 2; i++)
        player_open(&players[i], world, i, operation_count / 2, seed);
    for (unsigned i = 0; i < 2; i++)
        players[i].remote = players[1 - i].own.piece;
    for (unsigned i = 0; i < 2; i++)
        conformance_call(players[i].end.node, player_start, &players[i]);
    /* All of it may take long, on a busy machine that emulates another (it failed in a guest for
     * taking more than 20 s): what may not happen is that nothing moves. */
    for (unsigned i = 0; i < 2; i++)
        while (!players[i].is_over)
            conformance_await(players[i].end.node, player_has_moved, &players[i]);
    for (unsigned i = 0; i < 2; i++)
        for (unsigned kind = 0; kind < 3; kind++)
            assert_true(players[i].kind_count[kind] > operation_count / 8);
    conformance_pair_close(&players[0].end, &players[1].end);
    for (unsigned i = 0; i < 2; i++) {
        conformance_target_close(&players[i].own);
        free(players[i].model);
    }
    free(players);
}
