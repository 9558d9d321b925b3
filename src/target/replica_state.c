/*
 * What the root keeps of a replica: who it is, its group's membership and sessions at one exact
 * index, entries that were decided not to apply, the mark of a resync. docs/disk-format.md, "State
 * of a group". Everything in it is checked: a disk may hold anything.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/log.h"
#include "target/cluster.h"
#include "target/replica_state.h"

#define STATE_MAGIC UINT64_C(0x3130505247524c53) /* "SLRGRP01" */

struct state_bytes {
    uint64_t magic;                                     /* 0 */
    uint32_t crc;                                       /* 8  of all of it with this field zero */
    uint32_t session_bytes;                             /* 12 */
    uint64_t replica;                                   /* 16 */
    uint64_t size_bytes;                                /* 24 */
    uint64_t index;                                     /* 32 */
    uint64_t term;                                      /* 40 of the entry there */
    uint64_t copying;                                   /* 48 0 = no resync is unfinished */
    uint64_t config_index;                              /* 56 */
    uint32_t member_count;                              /* 64 */
    uint32_t skip_count;                                /* 68 */
    struct sl_raft_member members[SL_RAFT_MEMBERS_MAX]; /* 72 */
};
_Static_assert(sizeof(struct state_bytes) == 184, "disk-format.md: state of a group");

static uint32_t state_crc(const void *state, size_t bytes)
{
    struct state_bytes head;
    memcpy(&head, state, sizeof(head)); /* header: state */
    head.crc = 0;
    uint32_t crc = sl_crc32c(0, &head, sizeof(head));
    return sl_crc32c(crc, (const uint8_t *)state + sizeof(head), bytes - sizeof(head));
}

/* The bytes, to be freed. */
static void *make(struct state_bytes *head, const struct sl_raft_config *config,
                  const uint64_t *skips, const struct sl_session_table *sessions,
                  uint32_t *state_bytes)
{
    head->magic = STATE_MAGIC;
    head->session_bytes = (uint32_t)(sessions != NULL ? sl_session_save(sessions, NULL, 0) : 0);
    if (config != NULL) {
        head->config_index = config->index.value;
        head->member_count = config->count;
        memcpy(head->members, config->members, /* header: members */
               config->count * sizeof(config->members[0]));
    }
    size_t skip_bytes = head->skip_count * sizeof(uint64_t);
    size_t bytes = sizeof(*head) + skip_bytes + head->session_bytes;
    uint8_t *state = malloc(bytes);
    if (state == NULL)
        return NULL;
    memcpy(state, head, sizeof(*head)); /* header: state */
    if (skip_bytes > 0)
        memcpy(state + sizeof(*head), skips, skip_bytes); /* header: indexes */
    if (sessions != NULL)
        sl_session_save(sessions, state + sizeof(*head) + skip_bytes, head->session_bytes);
    uint32_t crc = state_crc(state, bytes);
    memcpy(state + offsetof(struct state_bytes, crc), &crc, sizeof(crc)); /* header: crc */
    *state_bytes = (uint32_t)bytes;
    return state;
}

static void *make_of(struct sl_replica *replica, uint64_t index, uint64_t term,
                     uint32_t *state_bytes)
{
    struct state_bytes head = {
        .replica = replica->id,
        .size_bytes = replica->size_bytes,
        .index = index,
        .term = term,
        .copying = replica->copying,
        .skip_count = replica->skip_count,
    };
    return make(&head, &replica->applied_config, replica->skips, replica->sessions, state_bytes);
}

void *sl_replica_state_make(struct sl_replica *replica, uint64_t *index, uint64_t *term,
                            uint32_t *bytes)
{
    struct sl_store_group_status status;
    *index = sl_session_index(replica->sessions).value;
    *term = sl_raft_term_at(replica->raft, sl_index_of(*index)).value;
    sl_store_group_status(replica->log, &status);
    /* The core may have forgotten the term: the next checkpoint will do. */
    if (*index < status.boundary_index || (*term == 0 && *index != 0))
        return NULL;
    return make_of(replica, *index, *term, bytes);
}

int sl_replica_state_save(struct sl_replica *replica)
{
    uint64_t index, term;
    uint32_t bytes;
    void *state = sl_replica_state_make(replica, &index, &term, &bytes);
    if (state == NULL)
        return -EAGAIN;
    int error = sl_store_state_set(replica->log, index, state, bytes);
    free(state);
    if (error < 0)
        sl_log_warn("target",
                    "group %u: its state cannot be kept: %s (%s); its log grows until it can",
                    replica->group, sl_error_text(error), sl_error_name(error));
    return error;
}

int sl_replica_state_install(struct sl_replica *replica, uint64_t index, uint64_t term)
{
    uint32_t bytes;
    void *state = make_of(replica, index, term, &bytes);
    int error = state == NULL ? -ENOMEM : sl_store_install(replica->log, index, term, state, bytes);
    free(state);
    return error;
}

int sl_replica_state_create(struct sl_store_group *log, uint64_t replica, uint64_t size_bytes,
                            const struct sl_raft_config *config)
{
    struct state_bytes head = {.replica = replica, .size_bytes = size_bytes};
    uint32_t bytes;
    void *state = make(&head, config->count > 0 ? config : NULL, NULL, NULL, &bytes);
    int error = state == NULL ? -ENOMEM : sl_store_state_set(log, 0, state, bytes);
    free(state);
    return error;
}

const char *sl_replica_state_parse(const void *state, size_t bytes,
                                   struct sl_replica_memory *memory)
{
    struct state_bytes head;
    if (state == NULL || bytes < sizeof(head))
        return "it was never made whole: create it again";
    memcpy(&head, state, sizeof(head)); /* header: state */
    if (head.magic != STATE_MAGIC)
        return "it was written by another version";
    if (head.crc != state_crc(state, bytes))
        return "its checksum is wrong";
    if (head.member_count > SL_RAFT_MEMBERS_MAX ||
        bytes != sizeof(head) + (uint64_t)head.skip_count * sizeof(uint64_t) + head.session_bytes)
        return "its parts do not add up";
    if (head.replica == 0 || head.config_index > head.index)
        return "its numbers contradict each other";
    *memory = (struct sl_replica_memory){
        .replica = head.replica,
        .size_bytes = head.size_bytes,
        .index = head.index,
        .term = head.term,
        .copying = head.copying,
        .skip_count = head.skip_count,
        .skips = (const uint8_t *)state + sizeof(head),
        .sessions = (const uint8_t *)state + sizeof(head) + head.skip_count * sizeof(uint64_t),
        .session_bytes = head.session_bytes,
    };
    memory->config.index = sl_index_of(head.config_index);
    memory->config.count = head.member_count;
    memcpy(memory->config.members, head.members, sizeof(head.members)); /* header: members */
    return head.member_count == 0 || sl_raft_config_is_sound(&memory->config)
               ? NULL
               : "its configuration is unsound";
}
