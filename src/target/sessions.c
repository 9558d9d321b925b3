/*
 * Sessions of gateways that are gone. A gateway that ends in order closes its sessions; one that
 * dies leaves them, and a group has room for so many only. So when a new one finds no room, the
 * leader closes the one that was idle longest, by a log entry like any other: a gateway that lives
 * after all is told NO_SESSION at its next write, which then has not applied, and opens another.
 *
 * Use is noted on each replica as entries are applied, and forgotten at its end: a session that was
 * not seen since counts from the start.
 */
#include <errno.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/log.h"
#include "target/cluster.h"
#include "target/entry_extra.h"

/* Much longer than any I/O is tried for. */
#define SESSION_IDLE_NS (600 * SL_NS_PER_S)

struct session_use {
    uint64_t session, used_ns;
};

static struct session_use *find(struct sl_replica *replica, uint64_t session)
{
    for (unsigned i = 0; i < replica->use_count; i++) {
        if (replica->uses[i].session == session)
            return &replica->uses[i];
    }
    return NULL;
}

void sl_replica_session_used(struct sl_replica *replica, const struct sl_command *command)
{
    if (command->session == 0)
        return;
    if (replica->uses == NULL)
        replica->uses = calloc(SL_REPLICA_SESSIONS_MAX, sizeof(*replica->uses));
    struct session_use *use = replica->uses != NULL ? find(replica, command->session) : NULL;
    if (command->kind == SL_COMMAND_CLOSE) {
        if (use != NULL)
            *use = replica->uses[--replica->use_count];
        return;
    }
    if (use == NULL && replica->uses != NULL && replica->use_count < SL_REPLICA_SESSIONS_MAX)
        use = &replica->uses[replica->use_count++];
    if (use != NULL)
        *use = (struct session_use){command->session, sl_cluster_now_ns(replica->cluster)};
}

/* The session that was used least recently, if that is long ago; 0: none. */
static uint64_t oldest(struct sl_replica *replica)
{
    uint64_t now_ns = sl_cluster_now_ns(replica->cluster), best = 0, best_ns = UINT64_MAX;
    for (unsigned i = 0; i < sl_session_count(replica->sessions); i++) {
        uint64_t session = sl_session_id_at(replica->sessions, i);
        const struct session_use *use = replica->uses != NULL ? find(replica, session) : NULL;
        uint64_t used_ns = use != NULL ? use->used_ns : replica->opened_ns;
        if (used_ns < best_ns) {
            best = session;
            best_ns = used_ns;
        }
    }
    return best != 0 && now_ns - best_ns >= SESSION_IDLE_NS ? best : 0;
}

int sl_replica_session_room_co(struct sl_replica *replica)
{
    uint8_t extra[SL_ENTRY_EXTRA_MAX];
    struct sl_store_entry entry = {.type = SL_ENTRY_NOOP, .extra = extra};
    struct sl_proposal proposal = {0};
    if (sl_session_count(replica->sessions) < SL_REPLICA_SESSIONS_MAX)
        return 0;
    struct sl_command command = {.kind = SL_COMMAND_CLOSE, .session = oldest(replica)};
    if (command.session == 0)
        return 0; /* the table says that it is full */
    sl_log_warn("raft", "group %u: session %016llx was idle for long and is closed, for a new one",
                replica->group, (unsigned long long)command.session);
    entry.extra_bytes = (uint16_t)sl_entry_extra_put_command(extra, &command);
    return sl_replica_propose_co(replica, &entry, NULL, &proposal);
}
