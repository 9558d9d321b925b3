/*
 * Goal: the session table decides every command as a simple model does, forgets nothing that it
 * must remember, and comes back from its saved form exactly as it was; no bytes harm it.
 * Method: random commands against a model that keeps the fate of every number of every session in
 * plain arrays; saved and loaded in between; then saved forms with every single byte changed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "raft/session.h"

enum { SESSIONS = 5, FIT = 4, NUMBERS = 2000, VOLUMES = 3, VOLUMES_FIT = 2 };

enum fate { OPEN_FATE, APPLIED, VOIDED };

struct model {
    struct {
        bool open;
        uint64_t low;
        enum fate fate[NUMBERS];
    } sessions[SESSIONS];
    uint64_t epochs[VOLUMES];
};

static uint64_t state = 1;

static uint64_t draw(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

/* Ids whose order is not that of the model's slots. */
static uint64_t session_id(unsigned slot)
{
    return 1000 - slot * 37;
}

static unsigned open_count(const struct model *model)
{
    unsigned count = 0;
    for (unsigned i = 0; i < SESSIONS; i++)
        count += model->sessions[i].open;
    return count;
}

static enum sl_verdict model_numbered(struct model *model, unsigned slot,
                                      const struct sl_command *command)
{
    if (!model->sessions[slot].open)
        return SL_VERDICT_NO_SESSION;
    if (command->sequence == 0 || command->lowest > command->sequence)
        return SL_VERDICT_INVALID;
    uint64_t *low = &model->sessions[slot].low;
    *low = sl_max(*low, command->lowest);
    if (command->sequence < *low)
        return SL_VERDICT_STALE;
    if (command->sequence >= *low + SL_SESSION_WINDOW)
        return SL_VERDICT_BEYOND;
    enum fate *fate = &model->sessions[slot].fate[command->sequence];
    if (*fate != OPEN_FATE)
        return *fate == VOIDED ? SL_VERDICT_VOIDED : SL_VERDICT_DUPLICATE;
    bool is_write = command->kind == SL_COMMAND_WRITE;
    if (is_write &&
        (model->epochs[command->volume] == 0 || model->epochs[command->volume] != command->epoch))
        return SL_VERDICT_FENCED;
    *fate = is_write ? APPLIED : VOIDED;
    return SL_VERDICT_APPLY;
}

static enum sl_verdict model_attach(struct model *model, const struct sl_command *command)
{
    unsigned attached = 0;
    for (unsigned i = 0; i < VOLUMES; i++)
        attached += model->epochs[i] != 0;
    uint64_t *epoch = &model->epochs[command->volume];
    if (command->epoch == 0)
        return SL_VERDICT_INVALID;
    if (*epoch == 0 && attached == VOLUMES_FIT)
        return SL_VERDICT_FULL;
    if (command->epoch == *epoch)
        return SL_VERDICT_DUPLICATE;
    if (command->epoch < *epoch)
        return SL_VERDICT_FENCED;
    *epoch = command->epoch;
    return SL_VERDICT_APPLY;
}

static enum sl_verdict model_apply(struct model *model, unsigned slot,
                                   const struct sl_command *command)
{
    switch (command->kind) {
    case SL_COMMAND_OPEN:
        if (model->sessions[slot].open)
            return SL_VERDICT_DUPLICATE;
        if (open_count(model) == FIT)
            return SL_VERDICT_FULL;
        memset(&model->sessions[slot], 0, sizeof(model->sessions[slot]));
        model->sessions[slot].open = true;
        model->sessions[slot].low = 1;
        return SL_VERDICT_APPLY;
    case SL_COMMAND_CLOSE:
        if (!model->sessions[slot].open)
            return SL_VERDICT_NO_SESSION;
        model->sessions[slot].open = false;
        return SL_VERDICT_APPLY;
    case SL_COMMAND_ATTACH:
        return model_attach(model, command);
    default:
        return model_numbered(model, slot, command);
    }
}

static struct sl_command make_command(const struct model *model, unsigned slot)
{
    static const enum sl_command_kind kinds[16] = {
        SL_COMMAND_OPEN,  SL_COMMAND_CLOSE, SL_COMMAND_ATTACH, SL_COMMAND_VOID,
        SL_COMMAND_VOID,  SL_COMMAND_VOID,  SL_COMMAND_WRITE,  SL_COMMAND_WRITE,
        SL_COMMAND_WRITE, SL_COMMAND_WRITE, SL_COMMAND_WRITE,  SL_COMMAND_WRITE,
        SL_COMMAND_WRITE, SL_COMMAND_WRITE, SL_COMMAND_WRITE,  SL_COMMAND_WRITE};
    struct sl_command command = {.kind = kinds[draw(16)], .session = session_id(slot)};
    if (command.kind == SL_COMMAND_CLOSE && draw(20) != 0)
        command.kind = SL_COMMAND_WRITE;
    uint64_t low = model->sessions[slot].low;
    command.sequence = draw(30) == 0 ? low + draw(SL_SESSION_WINDOW + 4) : low + draw(12);
    if (command.sequence > 3)
        command.sequence -= draw(4);
    command.lowest = draw(3) == 0 ? command.sequence + 1 - draw(3) : low;
    if (draw(40) == 0)
        command.lowest = command.sequence - sl_min(command.sequence, draw(300));
    if (command.sequence >= NUMBERS)
        command.kind = SL_COMMAND_CLOSE;
    command.volume = draw(VOLUMES);
    command.epoch = model->epochs[command.volume];
    if (command.kind == SL_COMMAND_ATTACH || draw(10) == 0)
        command.epoch = command.epoch + 2 - draw(4);
    if (command.epoch > UINT64_MAX / 2)
        command.epoch = 0;
    return command;
}

static struct sl_session_table *make_table(void)
{
    void *memory = malloc(sl_session_bytes(FIT, VOLUMES_FIT));
    assert_non_null(memory);
    return sl_session_init(memory, FIT, VOLUMES_FIT);
}

static void decides_as_the_model(void **unused)
{
    unsigned seen[SL_VERDICT_INVALID + 1] = {0};
    for (unsigned run = 0; run < 40; run++) {
        struct model *model = calloc(1, sizeof(*model));
        struct sl_session_table *table = make_table(), *other = make_table();
        assert_non_null(model);
        state = run + 1;
        for (uint64_t index = 1; index < 5000; index++) {
            unsigned slot = (unsigned)draw(SESSIONS);
            struct sl_command command = make_command(model, slot);
            enum sl_verdict preview = sl_session_preview(table, &command);
            enum sl_verdict verdict = sl_session_apply(table, sl_index_of(index), &command);
            enum sl_verdict expected = model_apply(model, slot, &command);
            if (verdict != expected || preview != expected)
                fail_msg("run %u, index %lu: kind %d session %lu number %lu lowest %lu volume %lu "
                         "epoch %lu: %d, announced as %d, the model says %d",
                         run, index, command.kind, command.session, command.sequence,
                         command.lowest, command.volume, command.epoch, verdict, preview, expected);
            seen[verdict]++;
            if (draw(50) == 0) {
                static uint64_t saved[512];
                size_t size = sl_session_save(table, saved, sizeof(saved));
                assert_int_equal(sl_session_load(other, saved, size), 0);
                assert_true(sl_session_digest(other) == sl_session_digest(table));
                assert_true(sl_session_index(other).value == index);
                struct sl_session_table *swap = table;
                table = other;
                other = swap;
            }
        }
        free(model);
        free(table);
        free(other);
    }
    for (unsigned verdict = SL_VERDICT_APPLY; verdict <= SL_VERDICT_INVALID; verdict++)
        assert_true(seen[verdict] > 10);
}

static void entries_that_are_no_commands_count(void **unused)
{
    struct sl_session_table *table = make_table();
    assert_int_equal(sl_session_apply(table, sl_index_of(1), NULL), SL_VERDICT_APPLY);
    assert_int_equal(sl_session_index(table).value, 1);
    struct sl_command absurd = {.kind = 77};
    assert_int_equal(sl_session_apply(table, sl_index_of(2), &absurd), SL_VERDICT_INVALID);
    struct sl_command nobody = {.kind = SL_COMMAND_OPEN, .session = 0};
    assert_int_equal(sl_session_apply(table, sl_index_of(3), &nobody), SL_VERDICT_INVALID);
    free(table);
}

/* Two tables at one index differ in their digests if they differ at all. */
static void digests_tell_states_apart(void **unused)
{
    static const struct sl_command base[] = {{.kind = SL_COMMAND_ATTACH, .volume = 5, .epoch = 3},
                                             {.kind = SL_COMMAND_OPEN, .session = 9}};
    static const struct sl_command last[] = {
        {.kind = SL_COMMAND_CLOSE, .session = 9},
        {.kind = SL_COMMAND_CLOSE, .session = 8}, /* changes nothing */
        {.kind = SL_COMMAND_OPEN, .session = 4},
        {.kind = SL_COMMAND_OPEN, .session = 10},
        {.kind = SL_COMMAND_ATTACH, .volume = 5, .epoch = 4},
        {.kind = SL_COMMAND_ATTACH, .volume = 6, .epoch = 3},
        {.kind = SL_COMMAND_VOID, .session = 9, .sequence = 1, .lowest = 1},
        {.kind = SL_COMMAND_WRITE,
         .session = 9,
         .sequence = 1,
         .lowest = 1,
         .volume = 5,
         .epoch = 3},
        {.kind = SL_COMMAND_WRITE,
         .session = 9,
         .sequence = 200,
         .lowest = 1,
         .volume = 5,
         .epoch = 3},
        {.kind = SL_COMMAND_VOID, .session = 9, .sequence = 256, .lowest = 1},
        {.kind = SL_COMMAND_VOID, .session = 9, .sequence = 5, .lowest = 5},
    };
    uint64_t digests[SL_COUNT_OF(last) + 1];
    for (unsigned i = 0; i <= SL_COUNT_OF(last); i++) {
        struct sl_session_table *table = make_table();
        for (unsigned j = 0; j < SL_COUNT_OF(base); j++)
            sl_session_apply(table, sl_index_of(j + 1), &base[j]);
        if (i < SL_COUNT_OF(last))
            sl_session_apply(table, sl_index_of(3), &last[i]);
        digests[i] = sl_session_digest(table);
        assert_true(digests[i] == sl_session_digest(table));
        for (unsigned j = 0; j < i; j++)
            assert_true(digests[i] != digests[j]);
        free(table);
    }
    uint64_t alone[2];
    for (unsigned i = 0; i < 2; i++) {
        struct sl_command open = {.kind = SL_COMMAND_OPEN, .session = 8 + i};
        struct sl_session_table *table = make_table();
        sl_session_apply(table, sl_index_of(1), &open);
        alone[i] = sl_session_digest(table);
        free(table);
    }
    assert_true(alone[0] != alone[1]);
}

/* The saved form with its CRC made right again, to reach what lies behind the check. */
static void seal(uint64_t *saved, size_t size)
{
    uint32_t crc = 0;
    memcpy((char *)saved + 28, &crc, 4);
    crc = sl_crc32c(0, saved, size);
    memcpy((char *)saved + 28, &crc, 4);
}

static void bad_bytes_change_nothing(void **unused)
{
    struct sl_session_table *table = make_table(), *other = make_table();
    struct sl_command commands[] = {
        {.kind = SL_COMMAND_ATTACH, .volume = 5, .epoch = 3},
        {.kind = SL_COMMAND_OPEN, .session = 9},
        {.kind = SL_COMMAND_OPEN, .session = 4},
        {.kind = SL_COMMAND_WRITE,
         .session = 4,
         .sequence = 2,
         .lowest = 1,
         .volume = 5,
         .epoch = 3},
        {.kind = SL_COMMAND_VOID, .session = 4, .sequence = 3, .lowest = 1},
    };
    for (unsigned i = 0; i < SL_COUNT_OF(commands); i++)
        assert_int_equal(sl_session_apply(table, sl_index_of(i + 1), &commands[i]),
                         SL_VERDICT_APPLY);
    static uint64_t saved[512], bad[512];
    uint64_t nothing = sl_session_digest(other);
    size_t size = sl_session_save(table, saved, sizeof(saved));
    assert_int_equal(size, 32 + 2 * 80 + 16);
    memset(bad, 0x55, sizeof(bad));
    assert_int_equal(sl_session_save(table, bad, size - 1), size);
    for (size_t i = 0; i < size / 8; i++)
        assert_true(bad[i] == UINT64_C(0x5555555555555555)); /* nothing is written */
    for (size_t at = 0; at < size; at++) {
        memcpy(bad, saved, size);
        ((unsigned char *)bad)[at] ^= 0x40;
        assert_int_not_equal(sl_session_load(other, bad, size), 0);
        assert_true(sl_session_digest(other) == nothing);
    }
    for (size_t less = 0; less < size; less++)
        assert_int_not_equal(sl_session_load(other, saved, less), 0);
    /* Right CRC, wrong content: ids not ascending, low 0, voided and not decided, epoch 0. */
    static const struct {
        size_t word;
        uint64_t value;
        int error;
    } absurd[] = {{4, 10, -EINVAL}, {4, 9, -EINVAL},  {4, 0, -EINVAL},
                  {5, 0, -EINVAL},  {10, 1, -EINVAL}, {25, 0, -EINVAL}};
    for (unsigned i = 0; i < SL_COUNT_OF(absurd); i++) {
        memcpy(bad, saved, size);
        bad[absurd[i].word] = absurd[i].value;
        seal(bad, size);
        assert_int_equal(sl_session_load(other, bad, size), absurd[i].error);
        assert_true(sl_session_digest(other) == nothing);
    }
    memcpy(bad, saved, size);
    ((char *)bad)[7] = 2;
    assert_int_equal(sl_session_load(other, bad, size), -SL_E_VERSION);
    struct sl_session_table *small = sl_session_init(malloc(sl_session_bytes(1, 1)), 1, 1);
    assert_int_equal(sl_session_load(small, saved, size), -ENOSPC);
    assert_int_equal(sl_session_load(other, saved, size), 0);
    assert_true(sl_session_digest(other) == sl_session_digest(table));
    free(small);
    free(table);
    free(other);
}

static void epochs_are_told(void **unused)
{
    struct sl_session_table *table = sl_session_init(malloc(sl_session_bytes(2, 3)), 2, 3);
    assert_int_equal(sl_session_epoch(table, 5), 0);
    for (uint64_t i = 1; i <= 3; i++) {
        struct sl_command attach = {.kind = SL_COMMAND_ATTACH, .volume = i * 5, .epoch = i + 2};
        assert_int_equal(sl_session_apply(table, sl_index_of(i), &attach), SL_VERDICT_APPLY);
    }
    const uint64_t epochs[] = {0, 3, 0, 4, 0, 5, 0};
    const uint64_t volumes[] = {4, 5, 6, 10, 11, 15, 16};
    for (unsigned i = 0; i < SL_COUNT_OF(volumes); i++)
        assert_int_equal(sl_session_epoch(table, volumes[i]), epochs[i]);
    free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(epochs_are_told),
        cmocka_unit_test(decides_as_the_model),
        cmocka_unit_test(entries_that_are_no_commands_count),
        cmocka_unit_test(digests_tell_states_apart),
        cmocka_unit_test(bad_bytes_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
