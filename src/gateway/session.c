/*
 * Sessions: the numbers that writes carry, so that a retry applies once and a write that was given
 * up never does (docs/replication.md, "Sessions"). A number is taken once, and finished when its
 * outcome is known; what is below the lowest unfinished one the group forgets.
 */
#include <errno.h>
#include <string.h>

#include "core/error.h"
#include "gateway/replicated.h"

static bool bit(const struct group_session *session, uint64_t number)
{
    uint64_t at = number % SL_GROUP_WINDOW;
    return (session->finished[at / 64] >> at % 64 & 1) != 0;
}

static void flip(struct group_session *session, uint64_t number)
{
    uint64_t at = number % SL_GROUP_WINDOW;
    session->finished[at / 64] ^= UINT64_C(1) << at % 64;
}

/* One opens, the others wait for him. The id stays until it is open: an attempt that was given up
 * may have opened it. */
static int open_co(struct replicated_group *group, uint64_t deadline_ns)
{
    struct group_session *session = &group->session;
    if (session->opening)
        return sl_wait_queue_until_co(&session->changed, deadline_ns) == -ETIMEDOUT ? -ETIMEDOUT
                                                                                    : 0;
    while (session->id == 0)
        session->id = sl_reactor_random_u64(group->gateway->reactor);
    struct group_call call = {
        .opcode = SL_GROUP_SESSION_OPEN,
        .ticket.session = session->id,
        .deadline_ns = deadline_ns,
    };
    session->opening = true;
    int error = sl_group_call_co(group, &call);
    session->opening = false;
    if (error == 0 || error == -EEXIST) {
        session->is_open = true;
        session->next = session->lowest = 1;
        memset(session->finished, 0, sizeof(session->finished));
        error = 0;
    }
    sl_wait_queue_wake_all(&session->changed, 0);
    return error;
}

int sl_session_begin_co(struct replicated_group *group, uint64_t deadline_ns, struct ticket *ticket)
{
    struct group_session *session = &group->session;
    for (;;) {
        if (group->gateway->stopping)
            return -ECANCELED;
        if (!session->is_open) {
            int error = open_co(group, deadline_ns);
            if (error < 0)
                return error;
        } else if (session->next - session->lowest < SL_GROUP_WINDOW) {
            *ticket = (struct ticket){session->id, session->next++};
            return 0;
        } else if (sl_wait_queue_until_co(&session->changed, deadline_ns) == -ETIMEDOUT) {
            return -ETIMEDOUT;
        }
    }
}

void sl_session_end(struct replicated_group *group, const struct ticket *ticket)
{
    struct group_session *session = &group->session;
    if (ticket->session != session->id)
        return; /* of a session that was lost */
    SL_ASSERT(ticket->sequence >= session->lowest && ticket->sequence < session->next);
    SL_ASSERT(!bit(session, ticket->sequence));
    flip(session, ticket->sequence);
    while (session->lowest < session->next && bit(session, session->lowest)) {
        flip(session, session->lowest++);
        sl_wait_queue_wake_one(&session->changed, 0);
    }
}

void sl_session_lost(struct replicated_group *group, uint64_t id)
{
    struct group_session *session = &group->session;
    if (id != session->id)
        return;
    session->id = 0;
    session->is_open = false;
    sl_wait_queue_wake_all(&session->changed, 0);
}

uint16_t sl_session_unfinished(const struct replicated_group *group, const struct ticket *ticket)
{
    const struct group_session *session = &group->session;
    /* Of a closed session every number is void. */
    if (ticket->sequence == 0 || ticket->session != session->id)
        return 0;
    return (uint16_t)(ticket->sequence - session->lowest);
}

void sl_session_close_co(struct replicated_group *group, uint64_t deadline_ns)
{
    if (!group->session.is_open)
        return;
    struct group_call call = {
        .opcode = SL_GROUP_SESSION_CLOSE,
        .ticket.session = group->session.id,
        .deadline_ns = deadline_ns,
    };
    group->session.is_open = false;
    (void)sl_group_call_co(group, &call); /* what stays open costs the group 80 bytes */
}
