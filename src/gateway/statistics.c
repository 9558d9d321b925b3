/* Statistics of the group: summed over its reactors, each asked on its own thread, and over the
 * servers. */
#include <string.h>

#include "core/call.h"
#include "core/error.h"
#include "core/inject.h"
#include "fabric/statistics.h"
#include "gateway/private.h"

struct statistics_call {
    struct sl_gateway *gateway;
    struct sl_gateway_statistics *sum;
};

static int ask_route_co(struct route *route, struct sl_capsule_statistics *answer)
{
    union sl_capsule reply;
    struct sl_connection *connection = route->connection;
    sl_connection_ref(connection);
    int error = sl_route_control_co(route, connection, SL_CAPSULE_STATISTICS, &reply);
    sl_connection_unref(connection);
    if (error == 0 && reply.header.length_bytes < sizeof(*answer))
        error = -SL_E_PROTOCOL;
    if (error == 0)
        memcpy(answer, &reply, sizeof(*answer)); /* header: its length was checked above */
    return error;
}

/* Each target reactor answers for itself; one gateway reactor asks them all. */
static void ask_servers_co(struct sl_gateway *gateway, struct sl_gateway_statistics *sum)
{
    for (unsigned i = 0; i < gateway->group->remote_count; i++) {
        struct server *server = &gateway->servers[i];
        for (unsigned j = 0; j < server->route_count; j++) {
            struct sl_capsule_statistics answer = {0};
            if (server->routes[j]->state != ROUTE_OPEN ||
                ask_route_co(server->routes[j], &answer) < 0)
                continue;
            for (unsigned k = 0; k < SL_COPY_REASON_COUNT; k++) {
                sum->target_copies.bytes[k] += answer.copy_bytes[k];
                sum->target_copies.count[k] += answer.copy_count[k];
            }
            sum->target_read_bytes += answer.read_bytes;
            sum->target_write_bytes += answer.write_bytes;
            sum->target_injected_count += answer.injected_count;
        }
    }
}

/* One process, one set of counters: a gateway itself copies nothing, so all but what its link took
 * in from remote targets is the local target's. */
static void attribute_to_target(struct sl_gateway_statistics *sum)
{
    for (unsigned i = 0; i < SL_COPY_REASON_COUNT; i++) {
        if (i == SL_COPY_STREAM || i == SL_COPY_WINDOW)
            continue;
        sum->target_copies.bytes[i] += sum->copies.bytes[i];
        sum->target_copies.count[i] += sum->copies.count[i];
        sum->copies.bytes[i] = 0;
        sum->copies.count[i] = 0;
    }
}

static int64_t collect_co(void *argument)
{
    struct statistics_call *call = argument;
    const struct sl_gateway_statistics *own = &call->gateway->statistics;
    struct sl_gateway_statistics *sum = call->sum;
    sum->read_count += own->read_count;
    sum->read_bytes += own->read_bytes;
    sum->write_count += own->write_count;
    sum->write_bytes += own->write_bytes;
    sum->other_count += own->other_count;
    sum->error_count += own->error_count;
    sum->retry_count += own->retry_count;
    sum->connect_count += own->connect_count;
    sum->disconnect_count += own->disconnect_count;
    sum->inflight_count += own->inflight_count;
    sum->injected_count += sl_inject_hit_count(call->gateway->inject);
    sl_copy_counters_add(&sum->copies, sl_memory_copies(call->gateway->memory));
    if (call->gateway->group->has_local)
        attribute_to_target(sum);
    if (call->gateway->index == 0)
        ask_servers_co(call->gateway, sum);
    return 0;
}

void sl_gateway_count_injected(struct sl_gateway *gateway, const struct sl_inject *inject)
{
    gateway->inject = inject;
}

void sl_gateway_statistics_co(struct sl_gateway_group *group, struct sl_gateway_statistics *sum)
{
    *sum = (struct sl_gateway_statistics){0};
    for (unsigned i = 0; i < group->reactor_count; i++) {
        struct statistics_call call = {group->members[i], sum};
        sl_reactor_call_co(call.gateway->reactor, collect_co, &call);
    }
}
