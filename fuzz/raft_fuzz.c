/*
 * Goal: no message from a peer crashes a group or breaks what must hold of its log. Method: the
 * input is a sequence of messages, each a byte that says what else happens and the fields as small
 * or large numbers; the disk answers at once. After each step: boundary <= commit <= last.
 */
#include <stdlib.h>
#include <string.h>

#include "raft/raft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct sl_raft_tuning tuning = {.election_ns = SL_NS_PER_S,
                                             .heartbeat_ns = SL_NS_PER_S / 10,
                                             .drift_ppm = 1000,
                                             .append_entries = 64,
                                             .append_bytes = 1 << 20,
                                             .window_entries = 256,
                                             .window_bytes = 4 << 20,
                                             .uncommitted_entries = 1024,
                                             .uncommitted_bytes = 16 << 20,
                                             .promote_lag = 16};

enum { FIELDS = 16, TERMS = 64 };

/* A byte as a number: small ones, and those around the limits. */
static uint64_t number(uint8_t byte)
{
    if (byte >= 250)
        return UINT64_MAX - (255 - byte);
    if (byte >= 240)
        return SL_POSITION_MAX - 4 + (byte - 240);
    return byte;
}

static void answer_writes(struct sl_raft *raft, struct sl_raft_output *output, uint64_t now_ns)
{
    struct {
        enum sl_raft_event_kind kind;
        uint64_t ticket;
        struct sl_index last;
    } writes[SL_RAFT_ACTIONS_MAX];
    unsigned count = 0;
    for (unsigned i = 0; i < output->count; i++) {
        const struct sl_raft_action *action = &output->actions[i];
        if (action->kind != SL_RAFT_DO_SAVE && action->kind != SL_RAFT_DO_WRITE)
            continue;
        writes[count].kind = action->kind == SL_RAFT_DO_SAVE ? SL_RAFT_SAVED : SL_RAFT_WRITTEN;
        writes[count].ticket = action->ticket;
        writes[count++].last = action->last;
    }
    for (unsigned i = 0; i < count; i++) {
        struct sl_raft_event event = {
            .kind = writes[i].kind, .now_ns = now_ns, .done = {writes[i].ticket, writes[i].last}};
        sl_raft_step(raft, &event, output);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static _Alignas(8) uint8_t memory[4096];
    static struct sl_raft_output output;
    struct sl_raft_config config = {.count = 3};
    for (uint32_t i = 0; i < 3; i++)
        config.members[i] = (struct sl_raft_member){i + 1, i + 1, SL_RAFT_VOTER};
    struct sl_raft_setup setup = {
        .self = {1, 1}, .tuning = &tuning, .config = &config, .now_ns = 1};
    setup.promised = sl_index_of(size > 0 && (data[0] & 128) != 0 ? data[0] & 7 : 0);
    struct sl_raft *raft;
    const char *why;
    SL_ASSERT(sl_raft_bytes(TERMS) <= sizeof(memory));
    SL_ASSERT(sl_raft_init(memory, TERMS, &setup, &raft, &why) == 0);
    uint64_t now_ns = 1;
    for (; size >= FIELDS; data += FIELDS, size -= FIELDS) {
        struct sl_raft_message message = {.kind = data[1] % 8,
                                          .flags = data[2],
                                          .from = {data[3] % 5, data[3] % 5},
                                          .to = {data[4] < 240 ? 1 : data[4], 1},
                                          .term = {number(data[5])},
                                          .index = {number(data[6])},
                                          .index_term = {number(data[7])},
                                          .entry_term = {number(data[8])},
                                          .count = (uint32_t)number(data[9]),
                                          .hint = {number(data[10])},
                                          .commit = {number(data[11])},
                                          .round = number(data[12]),
                                          .sent_ns = number(data[13]),
                                          .epoch = data[14]};
        struct sl_raft_config along = config;
        along.index.value = message.index.value + 1 + data[15] % 4;
        struct sl_raft_event event = {.kind = SL_RAFT_MESSAGE, .now_ns = now_ns};
        event.message.message = &message;
        event.message.configs = &along;
        event.message.config_count = (data[15] & 64) != 0;
        event.message.bytes = data[15];
        if ((data[0] & 3) == 0) {
            now_ns += 2 * SL_NS_PER_S;
            event = (struct sl_raft_event){.kind = SL_RAFT_TICK, .now_ns = now_ns};
        }
        sl_raft_step(raft, &event, &output);
        answer_writes(raft, &output, now_ns);
        struct sl_raft_status status;
        sl_raft_get_status(raft, &status);
        SL_ASSERT(status.boundary.value <= status.commit.value &&
                  status.commit.value <= status.last.value &&
                  status.durable.value <= status.last.value);
        (void)sl_raft_deadline(raft);
    }
    return 0;
}
