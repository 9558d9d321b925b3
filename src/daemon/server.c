/*
 * The life of a server process, top to bottom: storage → reactors → (fabric, target, gateway) on
 * each → listener and local channel on reactor 0 → signal → the same in reverse.
 */
#include "daemon/server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comch/path.h"
#include "core/call.h"
#include "core/error.h"
#include "core/log.h"
#include "core/size.h"
#include "fabric/inject.h"
#include "frontend/comch/frontend.h"
#include "io/inject.h"

struct process {
    const struct sl_server_config *config;
    struct sl_runtime *runtime;
    struct sl_storage *storage;
    uint64_t instance_id;
    /* One a reactor. Two trust domains: targets serve gateways from `serving`, gateways reach out
     * by `reaching`. */
    struct sl_fabric *serving[SL_RUNTIME_REACTORS_MAX];
    struct sl_fabric *reaching[SL_RUNTIME_REACTORS_MAX];
    /* A third: with it targets connect to one another, and let one another read their memory. */
    struct sl_fabric *peering[SL_RUNTIME_REACTORS_MAX];
    struct sl_target *targets[SL_RUNTIME_REACTORS_MAX];
    struct sl_gateway *gateways[SL_RUNTIME_REACTORS_MAX];
    struct sl_io *ios[SL_RUNTIME_REACTORS_MAX];
    struct sl_gateway_group *group;
    struct sl_fabric_listener *listener;
    struct sl_comch_frontend *frontend;
    struct sl_local_storage local;
    /* --inject: the rules as seeded, and for each reactor their state and their layers. NULL
     * without rules. */
    struct sl_inject_rule rules[SL_INJECT_RULES_MAX];
    struct sl_inject *injects[SL_RUNTIME_REACTORS_MAX];
    struct sl_link_injection injections[SL_RUNTIME_REACTORS_MAX];
    struct sl_io *disk_ios[SL_RUNTIME_REACTORS_MAX];
};

/* io_uring keeps a killed process's listening socket for some milliseconds after its end: an
 * address is in use only if it still is after this. */
#define ADDRESS_WAIT_NS  (1 * SL_NS_PER_S)
#define ADDRESS_RETRY_NS (20 * SL_NS_PER_MS)

static bool may_try_again_co(const struct process *process, int error, uint64_t *deadline_ns)
{
    uint64_t now_ns = sl_reactor_clock_ns(process->runtime->nodes[0].reactor);
    if (*deadline_ns == 0)
        *deadline_ns = now_ns + ADDRESS_WAIT_NS;
    if (error != -EADDRINUSE || now_ns >= *deadline_ns)
        return false;
    sl_sleep_co(ADDRESS_RETRY_NS);
    return true;
}

struct node_call {
    struct process *process;
    struct sl_runtime_node *node;
};

/* ---- faults that were asked for ---- */

static void announce_injects(struct process *process)
{
    for (unsigned i = 0; i < process->config->inject_count; i++) {
        struct sl_inject_rule *rule = &process->rules[i];
        *rule = process->config->injects[i];
        if (!rule->has_seed)
            rule->seed = sl_reactor_random_u64(process->runtime->nodes[0].reactor);
        sl_log_warn("inject", "FAULTS ARE INJECTED: '%s'%s%llu", rule->spec,
                    rule->has_seed ? ", seed " : "; to repeat it add seed=",
                    (unsigned long long)rule->seed);
    }
}

static int start_injects(struct process *process, struct sl_runtime_node *node)
{
    unsigned index = node->index;
    if (process->config->inject_count == 0)
        return 0;
    int error = sl_inject_create(process->rules, process->config->inject_count, index,
                                 &process->injects[index]);
    if (error == 0 && sl_inject_concerns(process->injects[index], SL_INJECT_DISK))
        error = sl_inject_io_create(node->io, process->injects[index], &process->disk_ios[index]);
    if (error == 0 && sl_inject_concerns(process->injects[index], SL_INJECT_LINK))
        process->injections[index] =
            (struct sl_link_injection){process->config->link, process->injects[index]};
    return error;
}

/* After every reactor has put its part down. */
static void end_injects(struct process *process)
{
    for (unsigned i = 0; i < process->config->inject_count; i++) {
        struct sl_inject_counters sum = {0};
        for (unsigned j = 0; j < process->runtime->node_count; j++) {
            struct sl_inject_counters one = {0};
            if (process->injects[j] != NULL)
                sl_inject_counters(process->injects[j], i, &one);
            sum.met_count += one.met_count;
            sum.hit_count += one.hit_count;
        }
        sl_log_warn("inject", "'%s' struck %llu of %llu operations", process->rules[i].spec,
                    (unsigned long long)sum.hit_count, (unsigned long long)sum.met_count);
    }
    for (unsigned j = 0; j < process->runtime->node_count; j++) {
        sl_io_destroy(process->disk_ios[j]);
        sl_inject_destroy(process->injects[j]);
    }
}

/* ---- reactors ---- */

static int create_fabric(struct process *process, struct sl_runtime_node *node, enum sl_role role,
                         struct sl_fabric **fabric)
{
    const struct sl_server_config *config = process->config;
    bool peering = fabric == &process->peering[node->index];
    struct sl_fabric_config fabric_config = {
        .link = config->link,
        .domain =
            {
                .io = node->io,
                .memory = node->memory,
                .device = config->device,
                .arena_access = peering ? SL_ACCESS_REMOTE_READ : 0,
                /* Targets are always the active side; gateways let targets reach their clients'
                   memory. */
                .foreign_access =
                    role == SL_ROLE_GATEWAY ? SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE : 0,
            },
        .reactor = node->reactor,
        .role = role,
        /* Of this reactor: a target tells a reconnect from another reactor's connection by it. */
        .instance_id =
            process->instance_id + node->index * UINT64_C(0x9e3779b97f4a7c15) + (peering ? 1 : 0),
        /* Targets ask gateways for nothing: a target need not keep receives for their answers. */
        .credits = role == SL_ROLE_GATEWAY || peering ? 1 : config->credits,
        .in_capsule_bytes = role == SL_ROLE_TARGET && !peering ? SL_IN_CAPSULE_BYTES_MAX : 0,
        .heartbeat_timeout_ns = config->heartbeat_timeout_ns,
        .heartbeat_interval_ns = config->heartbeat_timeout_ns / 5,
    };
    if (process->injections[node->index].lower != NULL) {
        fabric_config.link = sl_inject_link(config->link);
        fabric_config.domain.injection = &process->injections[node->index];
    }
    memcpy(fabric_config.cluster_key, config->cluster_key, sizeof(fabric_config.cluster_key));
    int error = sl_fabric_create(&fabric_config, fabric);
    if (error < 0)
        sl_log_error("server", "fabric '%s' on device '%s' cannot be opened: %s (%s)",
                     config->link->name, config->device != NULL ? config->device : "any",
                     sl_error_text(error), sl_error_name(error));
    return error;
}

static int join_cluster(struct process *process, struct sl_runtime_node *node)
{
    struct sl_target_cluster_config cluster = process->config->cluster;
    cluster.instance = process->instance_id;
    int error = create_fabric(process, node, SL_ROLE_TARGET, &process->peering[node->index]);
    return error < 0 ? error
                     : sl_target_cluster_begin(process->targets[node->index],
                                               process->peering[node->index], &cluster);
}

static int64_t node_start_co(void *argument)
{
    struct node_call *call = argument;
    struct process *process = call->process;
    struct sl_runtime_node *node = call->node;
    const struct sl_server_config *config = process->config;
    unsigned index = node->index;
    int error = start_injects(process, node);
    process->ios[index] = node->io;
    if (error == 0 && config->has_target) {
        struct sl_io *disk_io =
            process->disk_ios[index] != NULL ? process->disk_ios[index] : node->io;
        error = sl_target_create(process->storage, index, disk_io, node->memory,
                                 &process->targets[index]);
        if (error == 0 && config->in_cluster)
            error = join_cluster(process, node);
        if (error == 0)
            error = sl_target_mount_co(process->targets[index]);
        if (error == 0)
            sl_target_count_injected(process->targets[index], process->injects[index]);
        if (error == 0 && config->listen_address != NULL)
            error = create_fabric(process, node, SL_ROLE_TARGET, &process->serving[index]);
    }
    if (error == 0 && config->has_gateway && config->gateway.server_count > 0)
        error = create_fabric(process, node, SL_ROLE_GATEWAY, &process->reaching[index]);
    return error;
}

/* After every reactor has its target: a gateway may call any of them. */
static int64_t node_start_gateway_co(void *argument)
{
    struct node_call *call = argument;
    struct process *process = call->process;
    unsigned index = call->node->index;
    int error = sl_gateway_create(process->group, index, call->node->reactor, call->node->memory,
                                  process->reaching[index], &process->gateways[index]);
    if (error == 0)
        sl_gateway_count_injected(process->gateways[index], process->injects[index]);
    return error;
}

static int64_t node_stop_gateway_co(void *argument)
{
    struct node_call *call = argument;
    struct process *process = call->process;
    unsigned index = call->node->index;
    if (process->gateways[index] != NULL)
        sl_gateway_stop_co(process->gateways[index]);
    return 0;
}

static int64_t node_stop_co(void *argument)
{
    struct node_call *call = argument;
    struct process *process = call->process;
    unsigned index = call->node->index;
    sl_gateway_destroy(process->gateways[index]);
    if (process->targets[index] != NULL)
        sl_target_cluster_stop_co(process->targets[index]);
    struct sl_fabric *fabrics[] = {process->serving[index], process->reaching[index],
                                   process->peering[index]};
    for (unsigned i = 0; i < SL_COUNT_OF(fabrics); i++) {
        if (fabrics[i] != NULL)
            sl_fabric_drain_co(fabrics[i]);
        sl_fabric_destroy(fabrics[i]);
    }
    sl_target_unmount_co(process->targets[index]);
    sl_target_destroy(process->targets[index]);
    return 0;
}

static int on_every_node_co(struct process *process, int64_t (*function_co)(void *argument))
{
    for (unsigned i = 0; i < process->runtime->node_count; i++) {
        struct node_call call = {process, &process->runtime->nodes[i]};
        int error = (int)sl_reactor_call_co(call.node->reactor, function_co, &call);
        if (error < 0)
            return error;
    }
    return 0;
}

static int execute_on_target_co(void *target, enum sl_io_opcode opcode, uint64_t offset_bytes,
                                const struct sl_span *spans, unsigned span_count,
                                uint32_t length_bytes)
{
    return sl_target_execute_co(target, opcode, offset_bytes, spans, span_count, length_bytes);
}

static int create_group(struct process *process)
{
    char error_text[512];
    struct sl_gateway_config gateway = process->config->gateway;
    /* In a cluster the target of this process is a node like the others: over the link. */
    if (process->config->has_target && !process->config->in_cluster) {
        const struct sl_storage_info *info = sl_storage_info(process->storage);
        process->local = (struct sl_local_storage){
            .capacity_bytes = info->capacity_bytes,
            .read_only = info->read_only,
            .shard_bytes = SL_SHARD_BYTES,
            .targets = (void *const *)process->targets,
            .execute_co = execute_on_target_co,
        };
        memcpy(process->local.storage_id, info->storage_id, sizeof(info->storage_id));
        gateway.local = &process->local;
    }
    int error = sl_gateway_group_create(&gateway, process->runtime->node_count, &process->group,
                                        error_text, sizeof(error_text));
    if (error < 0)
        sl_log_error("gateway", "%s", error == -ENOMEM ? sl_error_text(error) : error_text);
    return error;
}

static const char *channel_advice(int error)
{
    switch (error) {
    case -EADDRINUSE:
        return "; another gateway serves it: choose another --command-channel-name";
    case -EINVAL:
        return "; a name has letters, digits, '-', '_' and '.'";
    default:
        return "; its socket goes into the directory of SLUICE_RUNTIME_DIR, else /run/sluice, or "
               "where "
               "that cannot be written $XDG_RUNTIME_DIR/sluice or /tmp/sluice-UID";
    }
}

static int start_gateway_co(struct process *process)
{
    char path[SL_COMCH_PATH_BYTES_MAX];
    int error = create_group(process);
    if (error == 0)
        error = on_every_node_co(process, node_start_gateway_co);
    if (error < 0)
        return error;
    error = sl_comch_path(process->config->channel_name, true, path);
    uint64_t deadline_ns = 0;
    if (error == 0) {
        do
            error = sl_comch_frontend_open(process->group, process->ios, path, &process->frontend);
        while (may_try_again_co(process, error, &deadline_ns));
    }
    if (error < 0)
        sl_log_error("gateway", "command channel '%s' cannot be opened: %s (%s)%s",
                     process->config->channel_name, sl_error_text(error), sl_error_name(error),
                     channel_advice(error));
    else
        sl_log_info("gateway", "ready: command channel '%s' at %s", process->config->channel_name,
                    path);
    return error;
}

static int start_listener_co(struct process *process)
{
    const struct sl_server_config *config = process->config;
    char bound[SL_ADDRESS_BYTES_MAX];
    uint64_t deadline_ns = 0;
    int error;
    do
        error = sl_fabric_listen(process->serving, process->runtime->node_count,
                                 config->listen_address, &sl_target_connection_handlers,
                                 (void *const *)process->targets, bound, &process->listener);
    while (may_try_again_co(process, error, &deadline_ns));
    if (error < 0) {
        sl_log_error("target", "cannot listen on %s over %s: %s (%s)%s", config->listen_address,
                     config->link->name, sl_error_text(error), sl_error_name(error),
                     error == -EADDRINUSE      ? "; choose another --listen address"
                     : error == -EADDRNOTAVAIL ? "; no interface of this host has it"
                     : error == -EINVAL        ? "; ADDRESS[:PORT] is meant, the port from 0 to "
                                                 "65535 (shm: unix:PATH or a name)"
                                               : "");
        return error;
    }
    char size[32];
    sl_size_format(sl_storage_info(process->storage)->capacity_bytes, size, sizeof(size));
    sl_log_info("target", "ready: %s (%s) over %s at %s", sl_storage_name(process->storage), size,
                config->link->name, bound);
    return 0;
}

/* SIGUSR1: what each reactor holds, in a line of the log. At rest it is what it was at rest before:
 * the kill tests compare (tests/system/kill_test.py). */
static int64_t node_report_co(void *argument)
{
    struct node_call *call = argument;
    struct process *process = call->process;
    unsigned index = call->node->index;
    struct sl_memory_statistics memory;
    struct sl_reactor_statistics reactor;
    uint64_t connections = 0, capsule_bytes = 0;
    unsigned arena_count = 0, foreign_count = 0;
    sl_memory_statistics(call->node->memory, &memory);
    sl_reactor_statistics(call->node->reactor, &reactor);
    const struct sl_fabric *fabrics[] = {process->serving[index], process->reaching[index],
                                         process->peering[index]};
    for (unsigned i = 0; i < SL_COUNT_OF(fabrics); i++) {
        struct sl_fabric_statistics statistics = {0};
        if (fabrics[i] != NULL)
            sl_fabric_statistics(fabrics[i], &statistics);
        connections += statistics.connection_count;
        capsule_bytes += statistics.capsule_bytes;
    }
    sl_region_for_each(node, sl_memory_regions(call->node->memory))
    {
        bool foreign = sl_container_of(node, struct sl_region, node)->foreign;
        *(foreign ? &foreign_count : &arena_count) += 1;
    }
    /* Asked for: under --quiet too, and however many, no flood to be thinned. */
    struct sl_log_site site = {0};
    sl_log_line(
        &site, SL_LOG_INFO, "server",
        "reactor %u holds %llu bytes in %llu buffers, %llu of them for capsules; %u arenas of "
        "%llu bytes; %u maps of clients' memory, %llu connections, %llu coroutines, %llu of "
        "them waiting for memory",
        index, (unsigned long long)memory.used_bytes, (unsigned long long)memory.buffer_count,
        (unsigned long long)capsule_bytes, arena_count, (unsigned long long)memory.arena_bytes,
        foreign_count, (unsigned long long)connections, (unsigned long long)reactor.coroutine_count,
        (unsigned long long)memory.waiter_count);
    sl_target_report(process->targets[index]);
    for (unsigned i = 0; i < process->config->inject_count; i++) {
        struct sl_inject_counters counters;
        sl_inject_counters(process->injects[index], i, &counters);
        sl_log_info("inject", "reactor %u: '%s' struck %llu of %llu operations", index,
                    process->rules[i].spec, (unsigned long long)counters.hit_count,
                    (unsigned long long)counters.met_count);
    }
    return 0;
}

/* SIGHUP: disks may have grown. */
static int64_t node_grow_co(void *argument)
{
    struct node_call *call = argument;
    sl_target_grow_co(call->process->targets[call->node->index]);
    return 0;
}

static void asked_co(void *argument, int signal)
{
    on_every_node_co(argument, signal == SIGHUP ? node_grow_co : node_report_co);
}

static int serve_co(struct process *process)
{
    const struct sl_server_config *config = process->config;
    int error = on_every_node_co(process, node_start_co);
    if (error == 0 && config->listen_address != NULL)
        error = start_listener_co(process);
    if (error == 0 && config->has_gateway)
        error = start_gateway_co(process);
    if (error == 0)
        sl_runtime_wait_signal_co(process->runtime, asked_co, process);
    return error;
}

static int process_main_co(struct sl_runtime *runtime, void *argument)
{
    struct process *process = argument;
    process->runtime = runtime;
    process->instance_id = sl_reactor_random_u64(runtime->nodes[0].reactor);
    announce_injects(process);
    int error = serve_co(process);
    if (process->listener != NULL)
        sl_fabric_listener_close(process->listener);
    /* Gateways first refuse new I/O, so that the sessions' outstanding I/O ends; then the sessions
     * go. */
    on_every_node_co(process, node_stop_gateway_co);
    sl_comch_frontend_close_co(process->frontend);
    /* Reactor 0 last: its disk holds the storage's lock. */
    for (unsigned i = runtime->node_count; i-- > 0;) {
        struct node_call call = {process, &runtime->nodes[i]};
        sl_reactor_call_co(call.node->reactor, node_stop_co, &call);
    }
    sl_gateway_group_destroy(process->group);
    end_injects(process);
    return error;
}

int sl_server_run(const struct sl_server_config *config)
{
    struct process *process = calloc(1, sizeof(*process));
    if (process == NULL)
        return 1;
    process->config = config;
    int error = 0;
    if (config->has_target) {
        char error_text[1024];
        error =
            sl_storage_open(&config->storage, &process->storage, error_text, sizeof(error_text));
        if (error < 0)
            sl_log_error("target", "%s", error_text);
    }
    if (error == 0)
        error = sl_runtime_run(&config->runtime, process_main_co, process);
    sl_storage_close(process->storage);
    free(process);
    return error < 0 ? 1 : 0;
}
