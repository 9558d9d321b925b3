/*
 * What a log entry carries beside its blocks: the command of a session, or a configuration.
 * docs/disk-format.md, "Entries of a group". Plain functions; any thread. Bytes come from peers and
 * disks: anything may be in them.
 */
#ifndef SL_TARGET_ENTRY_EXTRA_H
#define SL_TARGET_ENTRY_EXTRA_H

#include "raft/member.h"
#include "raft/session.h"

enum { SL_ENTRY_COMMAND_BYTES = 40 };

enum sl_entry_extra_kind {
    SL_EXTRA_NONE = 0,    /* a leader's first entry */
    SL_EXTRA_COMMAND = 1, /* of a session; kinds of enum sl_command_kind on disk */
    SL_EXTRA_CONFIG = 16,
};

struct sl_entry_extra {
    enum sl_entry_extra_kind kind;
    struct sl_command command;
    struct sl_raft_config config; /* its index is the entry's */
};

/* Bytes written: at most SL_ENTRY_EXTRA_MAX (128) are needed. */
unsigned sl_entry_extra_put_command(uint8_t *extra, const struct sl_command *command);
unsigned sl_entry_extra_put_config(uint8_t *extra, const struct sl_raft_config *config);
/* Whether what sl_entry_extra_put_config() makes. */
bool sl_entry_extra_is_config(const void *extra, unsigned bytes);
/* `index` is the entry's. NULL: right; else what is wrong. */
const char *sl_entry_extra_get(const void *extra, unsigned bytes, uint64_t index,
                               struct sl_entry_extra *result);

#endif
