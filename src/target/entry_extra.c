/* What a log entry carries beside its blocks (entry_extra.h). */
#include "target/entry_extra.h"

#include <string.h>

/* Little-endian, as docs/disk-format.md has it. */
struct command_bytes {
    uint8_t kind;
    uint8_t reserved[3];
    uint32_t volume;
    uint64_t session, sequence, lowest, epoch;
};
_Static_assert(sizeof(struct command_bytes) == SL_ENTRY_COMMAND_BYTES, "disk-format.md: command");

struct config_bytes {
    uint8_t kind;
    uint8_t count;
    uint8_t reserved[6];
    struct sl_raft_member members[SL_RAFT_MEMBERS_MAX];
};
_Static_assert(sizeof(struct sl_raft_member) == 16, "disk-format.md: configuration");
_Static_assert(sizeof(struct config_bytes) == 120, "disk-format.md: configuration");

unsigned sl_entry_extra_put_command(uint8_t *extra, const struct sl_command *command)
{
    struct command_bytes bytes = {
        .kind = (uint8_t)command->kind,
        .volume = (uint32_t)command->volume,
        .session = command->session,
        .sequence = command->sequence,
        .lowest = command->lowest,
        .epoch = command->epoch,
    };
    memcpy(extra, &bytes, sizeof(bytes)); /* header: command */
    return sizeof(bytes);
}

unsigned sl_entry_extra_put_config(uint8_t *extra, const struct sl_raft_config *config)
{
    struct config_bytes bytes = {.kind = SL_EXTRA_CONFIG, .count = (uint8_t)config->count};
    size_t length =
        offsetof(struct config_bytes, members) + config->count * sizeof(config->members[0]);
    memcpy(bytes.members, config->members, /* header: members */
           config->count * sizeof(config->members[0]));
    memcpy(extra, &bytes, length); /* header: configuration */
    return (unsigned)length;
}

static const char *get_config(const uint8_t *extra, unsigned bytes, uint64_t index,
                              struct sl_entry_extra *result)
{
    unsigned fixed = offsetof(struct config_bytes, members);
    unsigned count = bytes >= fixed ? extra[1] : 0;
    struct sl_raft_config *config = &result->config;
    if (count > SL_RAFT_MEMBERS_MAX || bytes != fixed + count * sizeof(config->members[0]))
        return "a configuration of an impossible length";
    config->index = sl_index_of(index);
    config->count = count;
    memcpy(config->members, extra + fixed, /* header: members */
           count * sizeof(config->members[0]));
    return sl_raft_config_is_sound(config) ? NULL : "an unsound configuration";
}

bool sl_entry_extra_is_config(const void *extra, unsigned bytes)
{
    return bytes > 0 && *(const uint8_t *)extra == SL_EXTRA_CONFIG;
}

const char *sl_entry_extra_get(const void *extra, unsigned bytes, uint64_t index,
                               struct sl_entry_extra *result)
{
    const uint8_t *at = extra;
    struct command_bytes command;
    memset(result, 0, sizeof(*result));
    if (bytes == 0)
        return NULL;
    if (at[0] == SL_EXTRA_CONFIG) {
        result->kind = SL_EXTRA_CONFIG;
        return get_config(at, bytes, index, result);
    }
    if (bytes != sizeof(command) || at[0] < SL_COMMAND_OPEN || at[0] > SL_COMMAND_ATTACH)
        return "a command of an unknown kind or length";
    memcpy(&command, at, sizeof(command)); /* header: command */
    result->kind = SL_EXTRA_COMMAND;
    result->command = (struct sl_command){
        .kind = (enum sl_command_kind)command.kind,
        .session = command.session,
        .sequence = command.sequence,
        .lowest = command.lowest,
        .volume = command.volume,
        .epoch = command.epoch,
    };
    return NULL;
}
