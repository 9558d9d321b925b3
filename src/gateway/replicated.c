/*
 * I/O on replicated groups. A call goes to the leader, and is sent again, elsewhere if need be,
 * until it is answered or its time is up. What a write's number decides (docs/replication.md,
 * "Sessions"):
 *
 *   write ── answered ──────────────────────────────────────────► done
 *     ├───── refused, or time is up: it may still apply ── VOID ─► failed; or done, if it had
 * applied └───── fenced; session closed: it can not apply any more ──► failed
 *
 * A failure is reported only when the group has decided that it stays one; until then the client
 * waits (DESIGN "Gateway"). Payload is described, or travels with the capsule, from the client's
 * own pages.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "gateway/replicated.h"

/* Between attempts: 2 ms, doubled up to 50, a small part of an election. */
#define BACK_OFF_FIRST_NS (2 * SL_NS_PER_MS)
#define BACK_OFF_LAST_NS  (50 * SL_NS_PER_MS)
/* Hints that are followed at once before two targets that name each other are given a pause. */
#define HINTS_AT_ONCE 4u
/* A replica that could not serve a read: about as long as it takes to follow a new leader. */
#define AVOID_NS SL_NS_PER_S

static int attempt_co(struct replicated_group *group, struct route *route, struct group_call *call,
                      union sl_capsule *reply)
{
    const struct fragment *fragment = call->fragment;
    union sl_capsule request;
    memset(&request, 0, sizeof(request));
    struct sl_group_message *message = &request.group_io.io;
    request.header.type = SL_CAPSULE_GROUP_IO;
    message->opcode = call->opcode;
    message->flags = call->flags;
    message->unfinished = sl_session_unfinished(group, &call->ticket);
    message->group = group->config->id;
    message->volume = call->volume;
    message->epoch = call->epoch;
    message->session = call->ticket.session;
    message->sequence = call->ticket.sequence;
    int payload_count = 0;
    if (fragment != NULL) {
        message->offset_bytes = fragment->server_offset_bytes;
        message->length_bytes = fragment->length_bytes;
        message->trace_id = fragment->trace_id;
        payload_count = sl_fragment_prepare(group->gateway, fragment, route->connection,
                                            request.group_io.pieces, &message->piece_count);
        if (payload_count < 0)
            return payload_count;
    }
    request.header.length_bytes = (uint16_t)(offsetof(struct sl_capsule_group_io, pieces) +
                                             message->piece_count * sizeof(struct sl_remote_piece));
    call->sent_count++;
    int error = sl_route_request_co(route, &request, fragment != NULL ? fragment->spans : NULL,
                                    (unsigned)payload_count, call->deadline_ns, reply);
    return error < 0 ? error : sl_status_to_errno(reply->header.status);
}

/* Whether the group may still decide otherwise. */
static bool is_worth_a_retry(const struct group_call *call, int error)
{
    switch (error) {
    case 0:
    case -EEXIST:
    case -SL_E_FENCED:
    case -SL_E_NO_SESSION:
    case -SL_E_VOIDED:
        return false;
    case -ECONNRESET:
    case -ETIMEDOUT:
    case -ECANCELED:
    case -EBADFD: /* not in service yet, or not any more */
    case -ENOENT: /* not a member */
    case -ENOMEM:
    case -EBUSY:
    case -EAGAIN:
    case -SL_E_MOVED:
    case -SL_E_UNREACHABLE:
        return true;
    case -EIO:
        /* A leader whose log fails ends, and another one takes its place. A block that nobody has
         * stays unreadable. */
        return call->opcode != SL_IO_READ;
    default:
        /* A write that is given up is settled, whatever the obstacle. */
        return call->opcode == SL_GROUP_VOID;
    }
}

static void back_off_co(const struct replicated_group *group, const struct visit *visit, int error,
                        unsigned round)
{
    if (error == -SL_E_MOVED && group->leader_known && round < HINTS_AT_ONCE)
        return;
    /* Who is no scout waits for what the scout finds. */
    if (!visit->is_scout && !group->leader_known)
        return;
    sl_sleep_co(sl_min(BACK_OFF_FIRST_NS << sl_min(round, 8u), BACK_OFF_LAST_NS));
}

int sl_group_call_co(struct replicated_group *group, struct group_call *call)
{
    struct sl_gateway *gateway = group->gateway;
    struct visit visit = {0};
    union sl_capsule reply;
    int error;
    for (unsigned round = 0;; round++) {
        error = sl_leader_acquire_co(group, call->deadline_ns, &visit);
        if (error < 0)
            break;
        memset(&reply, 0, sizeof(reply));
        unsigned sent_count = call->sent_count;
        error = attempt_co(group, visit.route, call, &reply);
        if (call->sent_count == sent_count)
            break; /* the memory can not be described: nothing was sent */
        sl_leader_learn(group, &visit, error, &reply);
        if (!is_worth_a_retry(call, error))
            break;
        if (gateway->stopping) {
            error = -ECANCELED;
            break;
        }
        if (sl_reactor_now_ns(gateway->reactor) >= call->deadline_ns) {
            error = error == -ETIMEDOUT ? error : -SL_E_UNREACHABLE;
            break;
        }
        gateway->statistics.retry_count++;
        back_off_co(group, &visit, error, round);
    }
    sl_leader_leave(group, &visit);
    if (error == -SL_E_FENCED)
        call->reply_epoch = reply.group_reply.epoch;
    return error;
}

/* Settles a write that has not succeeded: `reason` once it can never apply, 0 if it had applied.
 * -ECANCELED: the process ends before anybody decided. */
static int void_co(struct replicated_group *group, const struct group_call *write, int reason)
{
    struct group_call call = {
        .opcode = SL_GROUP_VOID,
        .volume = write->volume,
        .epoch = write->epoch,
        .ticket = write->ticket,
        .deadline_ns = UINT64_MAX,
    };
    int error = sl_group_call_co(group, &call);
    if (error == -EEXIST)
        return 0;
    if (error == -ECANCELED)
        return error;
    if (error == -SL_E_NO_SESSION)
        sl_session_lost(group, write->ticket.session);
    sl_log_warn("gateway",
                "group %u: a write of %u bytes at %llu was given up: %s (%s); it will not apply",
                group->config->id, write->fragment->length_bytes,
                (unsigned long long)write->fragment->server_offset_bytes, sl_error_text(reason),
                sl_error_name(reason));
    return reason;
}

static int write_co(struct replicated_group *group, const struct fragment *fragment)
{
    struct sl_reactor *reactor = group->gateway->reactor;
    for (;;) {
        struct group_call call = {
            .opcode = (uint8_t)fragment->opcode,
            .volume = fragment->volume->id,
            .epoch = fragment->epoch,
            .fragment = fragment,
            .deadline_ns = fragment->deadline_ns,
        };
        int error = sl_session_begin_co(group, fragment->deadline_ns, &call.ticket);
        if (error < 0)
            return error; /* no number, nothing sent */
        error = sl_group_call_co(group, &call);
        bool lost = error == -SL_E_NO_SESSION;
        if (lost)
            sl_session_lost(group, call.ticket.session);
        else if (error < 0 && error != -SL_E_FENCED && call.sent_count > 0)
            error = void_co(group, &call, error);
        sl_session_end(group, &call.ticket);
        /* A first attempt that met a closed session has not applied: it may have another one. After
         * a second attempt nobody knows. */
        if (!lost || call.sent_count > 1 || sl_reactor_now_ns(reactor) >= fragment->deadline_ns)
            return error;
    }
}

static void fence(struct sl_gateway *gateway, const struct fragment *fragment, uint64_t in_force)
{
    struct attachment *attachment = &gateway->group->attachments[fragment->volume->index];
    uint64_t fenced = atomic_load(&attachment->fenced);
    while (fenced < fragment->epoch &&
           !atomic_compare_exchange_weak(&attachment->fenced, &fenced, fragment->epoch))
        continue;
    sl_log_error(
        "gateway",
        "volume '%s' was attached by another gateway (epoch %llu, ours %llu); its I/O here "
        "fails until a client opens it again",
        fragment->volume->name, (unsigned long long)in_force, (unsigned long long)fragment->epoch);
}

/* By whichever member's turn it is. Whatever kept it from serving the read, the leader is asked
 * next, and that member left alone for a while. */
static int read_anywhere_co(struct replicated_group *group, struct group_call *call)
{
    union sl_capsule reply = {0};
    unsigned member;
    struct route *route = sl_leader_any(group, &member);
    if (route == NULL)
        return -SL_E_UNREACHABLE;
    call->flags = SL_GROUP_ANY_REPLICA;
    int error = attempt_co(group, route, call, &reply);
    call->flags = 0;
    if (error < 0)
        group->avoid_ns[member] = sl_reactor_now_ns(group->gateway->reactor) + AVOID_NS;
    group->gateway->statistics.retry_count += error < 0;
    return error;
}

int sl_replicated_execute_co(struct sl_gateway *gateway, struct fragment *fragment)
{
    struct replicated_group *group = &gateway->groups[fragment->server];
    const struct attachment *attachment = &gateway->group->attachments[fragment->volume->index];
    if (atomic_load_explicit(&attachment->fenced, memory_order_relaxed) >= fragment->epoch)
        return -SL_E_FENCED;
    if (fragment->opcode != SL_IO_READ) {
        int error = write_co(group, fragment);
        if (error == -SL_E_FENCED)
            fence(gateway, fragment, 0);
        return error;
    }
    struct group_call call = {
        .opcode = SL_IO_READ,
        .volume = fragment->volume->id,
        .epoch = fragment->epoch,
        .fragment = fragment,
        .deadline_ns = fragment->deadline_ns,
    };
    if (gateway->group->follower_reads && read_anywhere_co(group, &call) == 0)
        return 0;
    int error = sl_group_call_co(group, &call);
    if (error == -SL_E_FENCED)
        fence(gateway, fragment, call.reply_epoch);
    return error;
}
