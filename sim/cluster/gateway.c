/* A gateway and its clients, as the daemon runs them but for the front-end. */
#include "sim/cluster/cluster.h"

#include <errno.h>
#include <fcntl.h>

#include "core/error.h"
#include "gateway/private.h"

#define ADDRESS_BYTES 32

static int64_t reactor_start_co(void *argument)
{
    struct process_call *call = argument;
    struct gateway_process *gateway = &call->process->gateway;
    struct sl_sim_node *node = &call->process->nodes[call->reactor];
    int error = process_fabric(call->process, call->reactor, SL_ROLE_GATEWAY,
                               &gateway->fabrics[call->reactor]);
    if (error == 0)
        error =
            sl_gateway_create(gateway->group, call->reactor, node->reactor, node->memory,
                              gateway->fabrics[call->reactor], &gateway->gateways[call->reactor]);
    return error;
}

static int64_t reactor_stop_co(void *argument)
{
    struct process_call *call = argument;
    if (call->process->gateway.gateways[call->reactor] != NULL)
        sl_gateway_stop_co(call->process->gateway.gateways[call->reactor]);
    return 0;
}

static int64_t reactor_end_co(void *argument)
{
    struct process_call *call = argument;
    struct gateway_process *gateway = &call->process->gateway;
    sl_gateway_destroy(gateway->gateways[call->reactor]);
    gateway->gateways[call->reactor] = NULL;
    if (gateway->fabrics[call->reactor] != NULL)
        sl_fabric_drain_co(gateway->fabrics[call->reactor]);
    sl_fabric_destroy(gateway->fabrics[call->reactor]);
    return 0;
}

static int make_group(struct process *process)
{
    struct cluster *cluster = process->cluster;
    char addresses[TARGETS_MAX][ADDRESS_BYTES], text[256];
    const char *servers[TARGETS_MAX];
    for (unsigned i = 0; i < cluster->target_count; i++) {
        snprintf(addresses[i], ADDRESS_BYTES, "%s:7600", cluster->processes[i].name);
        servers[i] = addresses[i];
    }
    struct sl_gateway_config config = {
        .servers = servers,
        .server_count = cluster->target_count,
        .stripe_bytes = cluster->stripe_bytes,
        .io_timeout_ns = cluster->io_timeout_ns,
        .cluster = cluster->replicated ? &cluster->meta : NULL,
        .follower_reads = cluster->seed / 6 % 2 == 0,
    };
    if (cluster->replicated)
        config.stripe_bytes = 0;
    return sl_gateway_group_create(&config, process->reactor_count, &process->gateway.group, text,
                                   sizeof(text));
}

/* Runs lie astride the edges of stripes, spread over the volume. */
static void place_runs(struct cluster *cluster, const struct sl_volume *volume)
{
    if (cluster->volume_bytes != 0 && cluster->volume_bytes != volume->size_bytes)
        cluster_violation(cluster, -1, "the volume had %llu bytes and has %llu",
                          (unsigned long long)cluster->volume_bytes,
                          (unsigned long long)volume->size_bytes);
    cluster->volume_bytes = volume->size_bytes;
    for (unsigned i = 0; i < RUNS; i++)
        cluster->run_bytes[i] =
            sl_align_down(volume->size_bytes / RUNS * i, cluster->stripe_bytes) +
            cluster->stripe_bytes - RUN_BLOCKS / 2 * SL_BLOCK_BYTES;
}

static int start_clients_co(struct process *process)
{
    struct cluster *cluster = process->cluster;
    struct gateway_process *gateway = &process->gateway;
    int error = sl_gateway_memory_register_co(
        gateway->group, fcntl(cluster->memfd, F_DUPFD_CLOEXEC, 3),
        cluster->client_count * (size_t)CLIENT_BYTES, true, &gateway->memory);
    /* Until its servers have answered; who wants it to end meanwhile is heard. */
    while (error == 0 && !process->stopping) {
        uint64_t deadline_ns = sl_reactor_now_ns(process->nodes[0].reactor) + SECOND;
        error = sl_gateway_attach_co(gateway->gateways[0], NULL, deadline_ns, &gateway->volume,
                                     &gateway->epoch);
        if (error == 0)
            break;
        gateway->volume = NULL;
        error = error == -ETIMEDOUT || error == -SL_E_UNREACHABLE ? 0 : error;
    }
    if (error < 0 || process->stopping)
        return error;
    place_runs(cluster, gateway->volume);
    sl_gateway_session_begin(gateway->group);
    process->up = true;
    for (unsigned i = 0; i < cluster->client_count && error == 0; i++) {
        if (client_gateway(&cluster->clients[i]) != process)
            continue;
        gateway->clients_left++;
        error = sl_co_spawn(process->nodes[client_reactor(&cluster->clients[i])].reactor, client_co,
                            &cluster->clients[i]);
    }
    return error;
}

int gateway_main_co(struct process *process)
{
    struct gateway_process *gateway = &process->gateway;
    int error = make_group(process);
    if (error < 0)
        return error;
    error = process_on_each_co(process, reactor_start_co);
    if (error == 0)
        error = start_clients_co(process);
    bool was_up = process->up;
    if (error == 0)
        process_wait_co(process);
    while (gateway->clients_left > 0)
        sl_sleep_co(MS);
    if (was_up) {
        sl_gateway_detach(gateway->gateways[0], gateway->volume);
        sl_gateway_session_end(gateway->group);
    }
    gateway_count(process);
    process->up = false;
    process_on_each_co(process, reactor_stop_co);
    sl_gateway_memory_unregister_co(gateway->memory);
    process_on_each_co(process, reactor_end_co);
    sl_gateway_group_destroy(gateway->group);
    return error;
}

void gateway_count(struct process *process)
{
    /* Its own counters; asking for them in the usual way asks the servers, too. */
    for (unsigned i = 0; process->up && i < process->reactor_count; i++)
        process->cluster->effects[EFFECT_RETRIES] +=
            process->gateway.gateways[i]->statistics.retry_count;
}

bool gateways_are_connected(struct cluster *cluster)
{
    for (unsigned i = cluster->target_count; i < cluster->process_count; i++) {
        const struct process *process = &cluster->processes[i];
        for (unsigned k = 0; k < process->reactor_count; k++) {
            const struct sl_gateway *gateway =
                process->running && process->up ? process->gateway.gateways[k] : NULL;
            for (unsigned server = 0; gateway != NULL && server < cluster->target_count; server++) {
                const struct server *one = &gateway->servers[server];
                for (unsigned route = 0; route < one->route_count; route++) {
                    if (one->routes[route]->state != ROUTE_OPEN)
                        return false;
                }
            }
            if (gateway == NULL)
                return false;
        }
    }
    return true;
}
