/* `sluice fabric`: its commands, and what they share. */
#include "cli/sluice/fabric.h"

#include <stdio.h>
#include <string.h>

#include "cli/sluice/command.h"
#include "comch/path.h"
#include "core/error.h"
#include "core/log.h"
#include "fabric/cluster_key.h"

static const struct sluice_command commands[] = {
    {"list", "links, devices, ports and limits; what -d would choose, and why", fabric_list},
    {"serve", "answers ping and bench of other hosts", fabric_serve},
    {"ping", "latency of a message, a READ and a WRITE", fabric_ping},
    {"bench", "bandwidth, rate and latency of messages, READs or WRITEs", fabric_bench},
    {NULL},
};

int sluice_fabric(int argc, char **argv)
{
    return sluice_dispatch("sluice fabric", "what lies between gateways and targets", commands,
                           argc, argv);
}

void tool_options_rows(struct tool_options *o, struct sl_option *rows)
{
    rows[0] = (struct sl_option){
        "device",
        'd',
        SL_OPTION_STRING,
        &o->device,
        .argument = "DEVICE",
        .help = "tcp, tcp:INTERFACE, an address, shm (one host), ofi, ofi:DEVICE, mlx5_0",
        .fallback = "tcp"};
    rows[1] = (struct sl_option){"cluster-key-file",
                                 'k',
                                 SL_OPTION_STRING,
                                 &o->key_file,
                                 .argument = "FILE",
                                 .help = "32 bytes or 64 hex digits that both ends share",
                                 .fallback = "a development key, on loopback only"};
    rows[2] = (struct sl_option){"poll", 0, SL_OPTION_FLAG, &o->poll,
                                 .help = "never sleep: least latency, a whole core"};
    rows[3] = (struct sl_option){"verbose", 0, SL_OPTION_FLAG, &o->verbose, .help = "log more"};
}

static int address_complete(struct tool_options *o, const char *given)
{
    if (o->link->maps) {
        char path[SL_COMCH_PATH_BYTES_MAX];
        if (given != NULL)
            return snprintf(o->address, sizeof(o->address), "%s", given) < (int)sizeof(o->address)
                       ? 0
                       : -ENAMETOOLONG;
        int error = sl_comch_path("fabric-serve", true, path);
        if (error == 0)
            snprintf(o->address, sizeof(o->address), "unix:%s", path);
        return error;
    }
    char own[SL_ADDRESS_BYTES_MAX];
    int error = sl_link_device_host(o->link, o->device_name, own, sizeof(own));
    if (error < 0)
        return error;
    const char *host = given != NULL ? given : own;
    const char *colon = strrchr(host, ':');
    const char *bracket = strrchr(host, ']');
    bool has_port =
        colon != NULL && (bracket == NULL ? strchr(host, ':') == colon : colon > bracket);
    int length =
        snprintf(o->address, sizeof(o->address), "%s%s", host, has_port ? "" : ":" TOOL_PORT);
    return length < (int)sizeof(o->address) ? 0 : -ENAMETOOLONG;
}

static bool is_local(const char *address)
{
    return strncmp(address, "unix:", 5) == 0 || strncmp(address, "127.", 4) == 0 ||
           strncmp(address, "[::1]", 5) == 0 || strncmp(address, "localhost", 9) == 0;
}

int tool_options_finish(struct tool_options *o, const char *program, const char *given)
{
    char error[1024];
    sl_log_set_level(o->verbose ? SL_LOG_INFO : SL_LOG_WARN);
    if (sl_link_resolve_device(o->device != NULL ? o->device : "tcp", &o->link, o->device_name,
                               sizeof(o->device_name), error, sizeof(error)) < 0) {
        fprintf(stderr, "%s: --device: %s\n", program, error);
        return 2;
    }
    int result = address_complete(o, given);
    if (result < 0) {
        fprintf(stderr, "%s: the address '%.200s' cannot be used: %s\n", program,
                given != NULL ? given : "", sl_error_text(result));
        return 2;
    }
    if (o->key_file != NULL) {
        if (sl_cluster_key_load(o->key_file, o->key, error, sizeof(error)) == 0)
            return 0;
        fprintf(stderr, "%s: %s\n", program, error);
        return 2;
    }
    if (!is_local(o->address)) {
        fprintf(stderr,
                "%s: %s lies beyond this host, which needs --cluster-key-file (make one: head -c "
                "32 /dev/urandom > FILE)\n",
                program, o->address);
        return 2;
    }
    sl_cluster_key_development(o->key);
    return 0;
}

int tool_fabric_create(const struct tool_options *o, struct sl_runtime *runtime, bool exposes,
                       struct sl_fabric **fabric)
{
    struct sl_runtime_node *node = &runtime->nodes[0];
    struct sl_fabric_config config = {
        .link = o->link,
        .domain = {.io = node->io,
                   .memory = node->memory,
                   .device = o->device_name,
                   .foreign_access = exposes ? SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE : 0},
        .reactor = node->reactor,
        .role = SL_ROLE_TOOL,
        .instance_id = sl_reactor_random_u64(node->reactor),
        .in_capsule_bytes = exposes ? SL_IN_CAPSULE_BYTES_MAX : 0,
    };
    memcpy(config.cluster_key, o->key, sizeof(config.cluster_key));
    return sl_fabric_create(&config, fabric);
}

void tool_runtime_config(const struct tool_options *o, size_t memory_bytes,
                         struct sl_runtime_config *config)
{
    memset(config, 0, sizeof(*config));
    config->reactor_count = 1;
    config->cpus[0] = -1;
    config->poll_always = o->poll;
    config->hugepages = true;
    config->memory_bytes = memory_bytes;
}
