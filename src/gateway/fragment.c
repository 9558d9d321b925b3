/*
 * One fragment of a request on its way to storage: pick the route, describe the memory, send, wait,
 * and on a dead connection try again until the request's time is up. The only retry in the system
 * (STYLE 20).
 */
#include <errno.h>
#include <string.h>

#include "core/call.h"
#include "core/error.h"
#include "core/log.h"
#include "gateway/private.h"

/* After an answer that says "not now" (out of memory, busy, moved). */
#define RETRY_DELAY_NS (2 * SL_NS_PER_MS)

/* A small write travels with its capsule; the link needs few enough pieces for one SEND. */
static bool goes_in_capsule(const struct fragment *fragment, const struct sl_connection *connection)
{
    return fragment->opcode == SL_IO_WRITE && !sl_connection_maps(connection) &&
           fragment->length_bytes <= sl_connection_peer(connection)->in_capsule_bytes &&
           fragment->span_count < SL_SEND_SPANS_MAX;
}

int sl_fragment_prepare(struct sl_gateway *gateway, const struct fragment *fragment,
                        const struct sl_connection *connection, struct sl_remote_piece *pieces,
                        uint8_t *piece_count)
{
    *piece_count = 0;
    if (goes_in_capsule(fragment, connection))
        return (int)fragment->span_count;
    for (unsigned i = 0; i < fragment->span_count; i++) {
        const struct sl_span *span = &fragment->spans[i];
        int error = sl_fabric_describe(gateway->fabric, span->region, span->data,
                                       span->length_bytes, &pieces[i]);
        if (error < 0)
            return error;
    }
    *piece_count = (uint8_t)fragment->span_count;
    return 0;
}

/* One try on one connection. */
static int attempt_co(struct sl_gateway *gateway, struct route *route,
                      const struct fragment *fragment)
{
    union sl_capsule request, reply;
    memset(&request, 0, sizeof(request));
    request.header.type = SL_CAPSULE_IO;
    request.io.io.opcode = (uint8_t)fragment->opcode;
    request.io.io.offset_bytes = fragment->server_offset_bytes;
    request.io.io.length_bytes = fragment->length_bytes;
    request.io.io.gateway_id = gateway->instance_id;
    request.io.io.trace_id = fragment->trace_id;
    int payload_count = sl_fragment_prepare(gateway, fragment, route->connection, request.io.pieces,
                                            &request.io.io.piece_count);
    if (payload_count < 0)
        return payload_count;
    request.header.length_bytes =
        (uint16_t)(offsetof(struct sl_capsule_io, pieces) +
                   request.io.io.piece_count * sizeof(struct sl_remote_piece));
    int error = sl_route_request_co(route, &request, fragment->spans, (unsigned)payload_count,
                                    fragment->deadline_ns, &reply);
    return error < 0 ? error : sl_status_to_errno(reply.header.status);
}

struct local_call {
    struct sl_gateway *there;
    const struct fragment *fragment;
};

/* On the reactor that owns the shard. The client's pages are mapped there as well, in its own
 * region. */
static int64_t local_run_co(void *argument)
{
    struct local_call *call = argument;
    const struct fragment *fragment = call->fragment;
    const struct sl_local_storage *local = &call->there->group->local;
    struct sl_span spans[SL_REMOTE_PIECES_MAX];
    for (unsigned i = 0; i < fragment->span_count; i++) {
        struct sl_region *region = fragment->memories[i]->regions[call->there->index];
        size_t offset = (size_t)(fragment->spans[i].data - fragment->spans[i].region->base);
        spans[i] = (struct sl_span){region->base + offset, fragment->spans[i].length_bytes, region};
    }
    return local->execute_co(local->targets[call->there->index], fragment->opcode,
                             fragment->server_offset_bytes, spans, fragment->span_count,
                             fragment->length_bytes);
}

static int execute_local_co(struct sl_gateway *gateway, const struct fragment *fragment)
{
    const struct sl_gateway_group *group = gateway->group;
    uint64_t shard = fragment->server_offset_bytes / group->local.shard_bytes;
    struct local_call call = {group->members[shard % group->reactor_count], fragment};
    if (call.there == gateway)
        return group->local.execute_co(group->local.targets[gateway->index], fragment->opcode,
                                       fragment->server_offset_bytes, fragment->spans,
                                       fragment->span_count, fragment->length_bytes);
    return (int)sl_reactor_call_co(call.there->reactor, local_run_co, &call);
}

/* Whether the storage may still do it later. */
static bool is_worth_a_retry(int error)
{
    switch (error) {
    case -ECONNRESET:
    case -ENOTCONN:
    case -EPIPE:
    case -ECONNREFUSED:
    case -ETIMEDOUT:
    case -ECANCELED:
    case -EBADFD:
    case -ENOMEM:
    case -EBUSY:
    case -SL_E_MOVED:
    case -SL_E_UNREACHABLE:
        return true;
    default:
        return false;
    }
}

int sl_fragment_execute_co(struct sl_gateway *gateway, struct fragment *fragment)
{
    if (gateway->groups != NULL)
        return sl_replicated_execute_co(gateway, fragment);
    if (gateway->group->has_local && fragment->server == gateway->group->remote_count)
        return execute_local_co(gateway, fragment);
    for (;;) {
        struct route *route;
        int error = sl_route_acquire_co(gateway, fragment->server, fragment->server_offset_bytes,
                                        fragment->deadline_ns, &route);
        if (error < 0)
            return error;
        error = attempt_co(gateway, route, fragment);
        if (error == 0 || !is_worth_a_retry(error))
            return error;
        if (gateway->stopping)
            return -ECANCELED;
        if (sl_reactor_now_ns(gateway->reactor) >= fragment->deadline_ns)
            return error == -ETIMEDOUT ? error : -SL_E_UNREACHABLE;
        gateway->statistics.retry_count++;
        if (route->state == ROUTE_OPEN)
            sl_sleep_co(RETRY_DELAY_NS);
    }
}
