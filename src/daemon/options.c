/* From a command line to a struct sl_server_config; every error says what was wrong, the limit,
 * what to do. */
#include "daemon/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comch/path.h"
#include "core/error.h"
#include "core/log.h"
#include "core/size.h"
#include "fabric/cluster_key.h"
#include "meta/cluster.h"

#define PORT_DEFAULT         "7600"
#define MEMORY_BYTES_DEFAULT (256 * SL_MIB)
#define STORAGE_DEFAULT      "mem:256MiB"
/* In a cluster: a node that is stopped, or whose cable is cut, has a successor within two seconds;
 * who waits for it must not wait longer. */
#define CLUSTER_HEARTBEAT_TIMEOUT_NS (1500 * SL_NS_PER_MS)

void sl_server_options_init(struct sl_server_options *options)
{
    memset(options, 0, sizeof(*options));
    options->reactor_count = 0;
    options->memory_bytes = MEMORY_BYTES_DEFAULT;
    options->storages[0] = STORAGE_DEFAULT;
    options->channel_name = SL_COMCH_NAME_DEFAULT;
    options->io_timeout_ns = SL_IO_TIMEOUT_NS;
    options->scrub_bytes_per_s = 8 * SL_MIB;
}

void sl_server_options_fini(struct sl_server_options *options)
{
    sl_cluster_free(options->cluster);
    free(options->cluster_groups);
    options->cluster = NULL;
    options->cluster_groups = NULL;
}

static unsigned add(struct sl_option *rows, unsigned count, struct sl_option row)
{
    rows[count] = row;
    return count + 1;
}

static unsigned target_rows(struct sl_server_options *o, struct sl_option *rows, unsigned n)
{
    n = add(rows, n, (struct sl_option){.name = "", .kind = SL_OPTION_GROUP, .help = "Storage"});
    n = add(rows, n,
            (struct sl_option){"node", 0, SL_OPTION_INTEGER, &o->node, .least = 1,
                               .most = UINT32_MAX, .argument = "ID",
                               .help = "which node of the cluster file this is"});
    n = add(rows, n,
            (struct sl_option){"storage", 's', SL_OPTION_STRING, o->storages, &o->storage_count,
                               SL_STORAGE_DISKS_MAX, .argument = "SPEC",
                               .help = "mem:SIZE, store:PATH (see sluice disk), file:PATH "
                                       "(preallocated),\nor the path of a "
                                       "block device;\nwith --cluster disks of the store",
                               .fallback = STORAGE_DEFAULT});
    n = add(rows, n,
            (struct sl_option){"size", 0, SL_OPTION_SIZE, &o->size_bytes, .least = SL_BLOCK_BYTES,
                               .most = UINT64_MAX / 2, .argument = "SIZE",
                               .help = "use only so much of it", .fallback = "all"});
    n = add(rows, n,
            (struct sl_option){
                "listen", 'l', SL_OPTION_STRING, &o->listen, .argument = "ADDRESS",
                .help = "tcp: ADDRESS[:PORT], port 0 = any free one; shm: unix:PATH or a name",
                .fallback = "the device's address, port " PORT_DEFAULT});
    n = add(rows, n,
            (struct sl_option){"read-only", 0, SL_OPTION_FLAG, &o->read_only,
                               .help = "refuse to write"});
    n = add(rows, n,
            (struct sl_option){"no-checksums", 0, SL_OPTION_FLAG, &o->no_checksums,
                               .help = "measure without CRC32C; a bad block is not noticed"});
    n = add(rows, n,
            (struct sl_option){
                "no-durable-writes", 0, SL_OPTION_FLAG, &o->no_durable,
                .help = "a write is durable at the next flush only, not when it is acknowledged"});
    n = add(rows, n,
            (struct sl_option){"scrub", 0, SL_OPTION_SIZE, &o->scrub_bytes_per_s, .least = 0,
                               .most = 1024 * SL_GIB, .argument = "SIZE",
                               .help = "store: verify so many bytes a second in the background, "
                                       "each\nshard; 0 = do not",
                               .fallback = "8 MiB"});
    n = add(rows, n,
            (struct sl_option){
                "buffered", 0, SL_OPTION_FLAG, &o->buffered,
                .help = "no O_DIRECT, for file systems that lack it; copies in the kernel"});
    return n;
}

static unsigned gateway_rows(struct sl_server_options *o, struct sl_option *rows, unsigned n)
{
    n = add(rows, n, (struct sl_option){.name = "", .kind = SL_OPTION_GROUP, .help = "Gateway"});
    n = add(rows, n,
            (struct sl_option){"storage-server", 'S', SL_OPTION_STRING, o->servers,
                               &o->server_count, SL_SERVERS_MAX, .argument = "ADDRESS",
                               .help = "a target, as its --listen says",
                               .fallback = "the device's default target"});
    n = add(rows, n,
            (struct sl_option){"volume", 'v', SL_OPTION_STRING, o->volumes, &o->volume_count,
                               SL_VOLUMES_MAX, .argument = "NAME[:SIZE[:SERVERS]]",
                               .help = "a volume; SERVERS such as 0,2 stripes it over those only",
                               .fallback = "'default', all the storage"});
    n = add(rows, n,
            (struct sl_option){
                "stripe-size", 0, SL_OPTION_SIZE, &o->stripe_bytes, .least = SL_STRIPE_BYTES_MIN,
                .most = SL_REQUEST_BYTES_MAX, .argument = "SIZE",
                .help = "of volumes on several servers; a power of two", .fallback = "1 MiB"});
    n = add(rows, n,
            (struct sl_option){"command-channel-name", 'c', SL_OPTION_STRING, &o->channel_name,
                               .argument = "NAME", .help = "by which initiators find this gateway",
                               .fallback = SL_COMCH_NAME_DEFAULT});
    n = add(rows, n,
            (struct sl_option){"io-timeout", 0, SL_OPTION_DURATION, &o->io_timeout_ns,
                               .least = SL_NS_PER_S, .most = 3600 * SL_NS_PER_S, .argument = "TIME",
                               .help = "an I/O fails after so long, retries included",
                               .fallback = "30s"});
    n = add(rows, n,
            (struct sl_option){"follower-reads", 0, SL_OPTION_FLAG, &o->follower_reads,
                               .help = "--cluster: all replicas serve reads in turn, not the "
                                       "leader\nalone"});
    return n;
}

unsigned sl_server_options_table(struct sl_server_options *o, bool target, bool gateway,
                                 struct sl_option *rows)
{
    unsigned n = 0;
    n = add(rows, n, (struct sl_option){.name = "", .kind = SL_OPTION_GROUP, .help = "General"});
    n = add(rows, n,
            (struct sl_option){
                "device", 'd', SL_OPTION_STRING, &o->device, .argument = "DEVICE",
                .help = "tcp, tcp:INTERFACE, an interface, an IP address, shm (one host), ofi, "
                        "ofi:DEVICE, or an RDMA device (mlx5_0)",
                .fallback = "tcp"});
    n = add(rows, n,
            (struct sl_option){"cpu", 0, SL_OPTION_INTEGER, o->cpus, &o->cpu_count,
                               SL_RUNTIME_REACTORS_MAX, 0, 1023, .argument = "CPU",
                               .help = "a reactor, pinned to it",
                               .fallback = "one reactor, not pinned"});
    n = add(rows, n,
            (struct sl_option){"reactors", 0, SL_OPTION_INTEGER, &o->reactor_count, .least = 1,
                               .most = SL_RUNTIME_REACTORS_MAX, .argument = "COUNT",
                               .help = "instead of --cpu: so many, not pinned"});
    n = add(rows, n,
            (struct sl_option){"poll", 0, SL_OPTION_FLAG, &o->poll,
                               .help = "never sleep: least latency, a whole core each"});
    n = add(rows, n,
            (struct sl_option){"spin", 0, SL_OPTION_DURATION, &o->spin_ns, .least = 1,
                               .most = SL_NS_PER_S, .argument = "TIME",
                               .help = "poll at most so long without work before sleeping",
                               .fallback = "50us"});
    n = add(rows, n,
            (struct sl_option){"memory", 'm', SL_OPTION_SIZE, &o->memory_bytes,
                               .least = 16 * SL_MIB, .most = 1024 * SL_GIB, .argument = "SIZE",
                               .help = "limit of DMA memory, each reactor", .fallback = "256 MiB"});
    n = add(rows, n,
            (struct sl_option){"no-hugepages", 0, SL_OPTION_FLAG, &o->no_hugepages,
                               .help = "do not try 2 MiB pages"});
    n = add(rows, n,
            (struct sl_option){"cluster-key-file", 'k', SL_OPTION_STRING, &o->cluster_key_file,
                               .argument = "FILE",
                               .help = "32 bytes or 64 hex digits that all programs share",
                               .fallback = "a development key, on loopback only"});
    n = add(rows, n,
            (struct sl_option){"cluster", 0, SL_OPTION_STRING, &o->cluster_file, .argument = "FILE",
                               .help = "replicate: the cluster file, see sluice cluster"});
    n = add(rows, n,
            (struct sl_option){"quiet", 'q', SL_OPTION_FLAG, &o->quiet,
                               .help = "log errors and warnings only"});
    n = add(rows, n,
            (struct sl_option){"verbose", 0, SL_OPTION_FLAG, &o->verbose, .help = "log more"});
    if (target)
        n = target_rows(o, rows, n);
    if (target)
        n = add(
            rows, n,
            (struct sl_option){"gateway", 'g', SL_OPTION_FLAG, &o->gateway,
                               .help = "run a gateway in this process too: its options follow"});
    if (gateway)
        n = gateway_rows(o, rows, n);
    n = add(rows, n, (struct sl_option){.name = "", .kind = SL_OPTION_GROUP, .help = "Debugging"});
    n = add(rows, n,
            (struct sl_option){"inject", 0, SL_OPTION_STRING, o->injects, &o->inject_count,
                               SL_INJECT_RULES_MAX, .argument = "SPEC",
                               .help = target
                                           ? "make faults: disk:error=EIO,p=0.01, link:delay=5ms; "
                                             "see the man page"
                                           : "make faults: link:delay=5ms,p=0.01, link:drop; "
                                             "see the man page"});
    return add(rows, n, (struct sl_option){.name = NULL});
}

static int usage(const struct sl_options *description, const char *format, const char *value)
{
    fprintf(stderr, "%s: ", description->program);
    fprintf(stderr, format, value);
    fputc('\n', stderr);
    return 2;
}

/* "a:1G:0,2" */
static int parse_volume(const struct sl_options *description, const char *text,
                        struct sl_volume_spec *spec)
{
    char copy[SL_VOLUME_NAME_BYTES_MAX + 96];
    if (snprintf(copy, sizeof(copy), "%s", text) >= (int)sizeof(copy))
        return usage(description, "--volume: '%s' is too long", text);
    char *size = strchr(copy, ':');
    char *servers = NULL;
    if (size != NULL) {
        *size++ = '\0';
        servers = strchr(size, ':');
        if (servers != NULL)
            *servers++ = '\0';
    }
    if (copy[0] == '\0' || strlen(copy) >= sizeof(spec->name))
        return usage(description, "--volume: '%s': a name has 1 to 63 bytes", text);
    snprintf(spec->name, sizeof(spec->name), "%.*s", (int)sizeof(spec->name) - 1, copy);
    if (size != NULL && size[0] != '\0' &&
        (sl_size_parse(size, &spec->size_bytes) < 0 || spec->size_bytes == 0))
        return usage(description, "--volume: '%s': the size is not one such as 512M or 10G", text);
    while (servers != NULL && *servers != '\0') {
        char *end;
        unsigned long number = strtoul(servers, &end, 10);
        if (end == servers || number >= SL_SERVERS_MAX || (*end != ',' && *end != '\0'))
            return usage(description, "--volume: '%s': servers are numbers from 0, with commas",
                         text);
        spec->server_bitmap |= UINT64_C(1) << number;
        servers = *end == ',' ? end + 1 : end;
    }
    return 0;
}

static bool has_port(const char *address)
{
    const char *colon = strrchr(address, ':');
    if (colon == NULL)
        return false;
    if (address[0] == '[')
        return colon[-1] == ']';
    return strchr(address, ':') == colon;
}

/* The address where a target of this device listens if nothing else is said; also completes a given
 * one. */
static int complete_address(const struct sl_link_ops *link, const char *device, const char *given,
                            char address[static SL_ADDRESS_BYTES_MAX])
{
    if (strcmp(link->name, "shm") == 0) {
        char path[SL_COMCH_PATH_BYTES_MAX];
        if (given != NULL && strncmp(given, "unix:", 5) == 0)
            return snprintf(address, SL_ADDRESS_BYTES_MAX, "%s", given) < SL_ADDRESS_BYTES_MAX
                       ? 0
                       : -ENAMETOOLONG;
        int error = sl_comch_path(given != NULL ? given : "target", true, path);
        if (error < 0)
            return error;
        snprintf(address, SL_ADDRESS_BYTES_MAX, "unix:%.*s.target",
                 (int)(strlen(path) - strlen(".comch")), path);
        return 0;
    }
    char own[SL_ADDRESS_BYTES_MAX];
    int error = sl_link_device_host(link, device, own, sizeof(own));
    if (error < 0)
        return error;
    const char *host = given != NULL ? given : own;
    bool bare_ipv6 = host[0] != '[' && strchr(host, ':') != strrchr(host, ':');
    const char *format = bare_ipv6        ? "[%s]:" PORT_DEFAULT
                         : has_port(host) ? "%s"
                                          : "%s:" PORT_DEFAULT;
    return snprintf(address, SL_ADDRESS_BYTES_MAX, format, host) < SL_ADDRESS_BYTES_MAX
               ? 0
               : -ENAMETOOLONG;
}

static bool is_local_only(const char *address)
{
    return strncmp(address, "unix:", 5) == 0 || strncmp(address, "127.", 4) == 0 ||
           strncmp(address, "[::1]", 5) == 0 || strncmp(address, "localhost", 9) == 0;
}

static int load_key(const struct sl_server_options *o, const struct sl_server_config *config,
                    uint8_t *key)
{
    char error[512];
    const char *path = o->cluster_key_file;
    if (path == NULL && o->cluster != NULL && o->cluster->key_file[0] != '\0')
        path = o->cluster->key_file;
    if (path != NULL) {
        if (sl_cluster_key_load(path, key, error, sizeof(error)) == 0)
            return 0;
        fprintf(stderr, "%s: %s\n", config->program, error);
        return 2;
    }
    bool local = config->listen_address == NULL || is_local_only(config->listen_address);
    for (unsigned i = 0; i < config->gateway.server_count; i++)
        local = local && is_local_only(config->gateway.servers[i]);
    for (unsigned i = 0; o->cluster != NULL && i < o->cluster->node_count; i++)
        local = local && is_local_only(o->cluster->nodes[i].address);
    if (!local) {
        fprintf(stderr,
                "%s: addresses beyond this host need --cluster-key-file (make one: head -c 32 "
                "/dev/urandom > FILE)\n",
                config->program);
        return 2;
    }
    sl_cluster_key_development(key);
    return 0;
}

static int translate_runtime(const struct sl_server_options *o,
                             const struct sl_options *description,
                             struct sl_runtime_config *runtime)
{
    long online = sysconf(_SC_NPROCESSORS_CONF);
    if (o->cpu_count > 0 && o->reactor_count > 0)
        return usage(description, "give --cpu or --reactors, not both%s", "");
    runtime->reactor_count =
        (unsigned)(o->cpu_count > 0 ? o->cpu_count : sl_max(o->reactor_count, UINT64_C(1)));
    for (unsigned i = 0; i < runtime->reactor_count; i++) {
        runtime->cpus[i] = i < o->cpu_count ? (int)o->cpus[i] : -1;
        if (runtime->cpus[i] >= online) {
            fprintf(stderr, "%s: --cpu %d: this machine has CPUs 0 to %ld\n", description->program,
                    runtime->cpus[i], online - 1);
            return 2;
        }
    }
    runtime->poll_always = o->poll;
    runtime->spin_ns = o->spin_ns;
    runtime->memory_bytes = o->memory_bytes;
    runtime->hugepages = !o->no_hugepages;
    return 0;
}

/* Servers, volumes and stripes are the cluster file's. */
static int translate_cluster_gateway(struct sl_server_options *o,
                                     const struct sl_options *description,
                                     struct sl_server_config *config)
{
    if (o->server_count > 0 || o->volume_count > 0 || o->stripe_bytes != 0)
        return usage(description,
                     "--storage-server, --volume and --stripe-size: the --cluster file says it%s",
                     "");
    if (o->cluster->volume_count == 0)
        return usage(description, "--cluster %s: it has no volumes to offer", o->cluster_file);
    config->has_gateway = true;
    config->channel_name = o->channel_name;
    config->gateway = (struct sl_gateway_config){
        .servers = o->address_list,
        .server_count = o->cluster->node_count,
        .cluster = o->cluster,
        .io_timeout_ns = o->io_timeout_ns,
        .follower_reads = o->follower_reads,
    };
    return 0;
}

static int translate_gateway(struct sl_server_options *o, const struct sl_options *description,
                             bool target, struct sl_server_config *config)
{
    unsigned count = o->server_count;
    if (o->cluster != NULL)
        return translate_cluster_gateway(o, description, config);
    if (count == 0 && !target)
        count = 1; /* the device's default target */
    for (unsigned i = 0; i < count; i++) {
        const char *given = o->server_count > 0 ? o->servers[i] : NULL;
        if (complete_address(config->link, o->device_name, given, o->addresses[i]) < 0)
            return usage(description, "--storage-server: bad address '%s'", given);
        o->address_list[i] = o->addresses[i];
    }
    for (unsigned i = 0; i < o->volume_count; i++) {
        int status = parse_volume(description, o->volumes[i], &o->volume_specs[i]);
        if (status != 0)
            return status;
    }
    if (o->follower_reads)
        return usage(description, "--follower-reads needs --cluster: only it has followers%s", "");
    if (o->stripe_bytes != 0 && !sl_is_power_of_two(o->stripe_bytes))
        return usage(description, "--stripe-size: it must be a power of two%s", "");
    config->has_gateway = true;
    config->channel_name = o->channel_name;
    config->gateway = (struct sl_gateway_config){
        .servers = o->address_list,
        .server_count = count,
        .volumes = o->volume_specs,
        .volume_count = o->volume_count,
        .stripe_bytes = (uint32_t)o->stripe_bytes,
        .io_timeout_ns = o->io_timeout_ns,
    };
    return 0;
}

static int load_cluster(struct sl_server_options *o, const struct sl_options *description,
                        struct sl_server_config *config)
{
    char error[1024];
    if (o->cluster_file == NULL)
        return o->node == 0 ? 0 : usage(description, "--node needs --cluster%s", "");
    if (sl_cluster_load(o->cluster_file, &o->cluster, error, sizeof(error)) < 0)
        return usage(description, "--cluster: %s", error);
    for (unsigned i = 0; i < o->cluster->node_count; i++) {
        const struct sl_cluster_node *node = &o->cluster->nodes[i];
        if (complete_address(config->link, o->device_name, node->address, o->addresses[i]) < 0)
            return usage(description, "--cluster: bad address '%s'", node->address);
        o->address_list[i] = o->addresses[i];
        o->cluster_nodes[i] = (struct sl_target_cluster_node){node->id, o->addresses[i]};
    }
    config->heartbeat_timeout_ns = CLUSTER_HEARTBEAT_TIMEOUT_NS;
    return 0;
}

/* What a target needs to know of the file: all nodes, and its own replicas. */
static int translate_replicas(struct sl_server_options *o, const struct sl_options *description,
                              struct sl_server_config *config)
{
    const struct sl_cluster *cluster = o->cluster;
    unsigned count = 0;
    o->cluster_groups = calloc(sl_max(cluster->group_count, 1u), sizeof(*o->cluster_groups));
    if (o->cluster_groups == NULL)
        return usage(description, "--cluster %s: out of memory", o->cluster_file);
    for (unsigned i = 0; i < cluster->group_count; i++) {
        const struct sl_cluster_group *group = &cluster->groups[i];
        for (unsigned j = 0; j < group->replica_count; j++) {
            if (group->replicas[j].node == o->node)
                o->cluster_groups[count++] =
                    (struct sl_target_cluster_group){group->id, group->replicas[j].replica};
        }
    }
    config->in_cluster = true;
    config->cluster = (struct sl_target_cluster_config){
        .node = (uint32_t)o->node,
        .node_count = cluster->node_count,
        .nodes = o->cluster_nodes,
        .group_count = count,
        .groups = o->cluster_groups,
        .write_bytes_least = SL_TRANSFER_BYTES_MAX,
    };
    memcpy(config->cluster.cluster_id, cluster->id, sizeof(cluster->id)); /* header: identity */
    return 0;
}

/* A node of the cluster: its disk is the groups', and it listens where the others look for it. */
static int translate_node(struct sl_server_options *o, const struct sl_options *description,
                          struct sl_server_config *config)
{
    const struct sl_cluster_node *node = sl_cluster_find_node(o->cluster, (uint32_t)o->node);
    if (o->node == 0)
        return usage(description, "--cluster: say which node this is by --node%s", "");
    if (node == NULL) {
        fprintf(stderr, "%s: --node %llu: the cluster file '%s' has no such node\n",
                description->program, (unsigned long long)o->node, o->cluster_file);
        return 2;
    }
    for (unsigned i = 0; i < sl_max(o->storage_count, 1u); i++) {
        if (strncmp(o->storages[i], "store:", 6) != 0)
            return usage(description,
                         "--storage '%s': replicas need a disk of the store: store:PATH (see "
                         "sluice disk)",
                         o->storages[i]);
    }
    if (o->size_bytes != 0 || o->read_only || o->no_checksums || o->no_durable)
        return usage(description,
                     "--size, --read-only, --no-checksums and --no-durable-writes: not with "
                     "--cluster%s",
                     "");
    if (o->listen == NULL)
        o->listen = node->address;
    return translate_replicas(o, description, config);
}

static int translate_target(struct sl_server_options *o, const struct sl_options *description,
                            struct sl_server_config *config)
{
    int status = o->cluster != NULL ? translate_node(o, description, config) : 0;
    if (status != 0)
        return status;
    if (o->cluster == NULL && o->storage_count > 1)
        return usage(description,
                     "--storage '%s': a second one needs --cluster; without it, run a target for "
                     "each, and give the gateway all of them",
                     o->storages[1]);
    config->has_target = true;
    config->runtime.reloads = true;
    config->storage = (struct sl_storage_config){
        .spec = o->storages[0],
        .more = o->storages + 1,
        .more_count = sl_max(o->storage_count, 1u) - 1,
        .size_bytes = o->size_bytes,
        .reactor_count = config->runtime.reactor_count,
        .read_only = o->read_only,
        .checksums = !o->no_checksums,
        .durable_writes = !o->no_durable,
        .scrub_bytes_per_s = o->scrub_bytes_per_s,
        .buffered = o->buffered,
        .hugepages = !o->no_hugepages,
    };
    /* With a gateway beside it, a target listens only if asked to. */
    if (o->gateway && o->listen == NULL)
        return 0;
    if (complete_address(config->link, o->device_name, o->listen, o->listen_address) < 0)
        return usage(description, "--listen: bad address '%s'", o->listen != NULL ? o->listen : "");
    config->listen_address = o->listen_address;
    return 0;
}

/* A rule that nothing could ever meet is a mistake. */
static int translate_injects(const struct sl_server_options *o,
                             const struct sl_options *description, struct sl_server_config *config)
{
    char error[768];
    bool has_disk = config->has_target && strncmp(config->storage.spec, "mem:", 4) != 0;
    bool has_link = config->listen_address != NULL || config->gateway.server_count > 0;
    for (unsigned i = 0; i < o->inject_count; i++) {
        struct sl_inject_rule *rule = &config->injects[i];
        if (sl_inject_parse(o->injects[i], rule, error, sizeof(error)) < 0)
            return usage(description, "%s", error);
        if (rule->layer == SL_INJECT_DISK && !has_disk)
            return usage(description,
                         config->has_target
                             ? "--inject '%s': mem: storage has no disk; use file: or a device"
                             : "--inject '%s': a gateway has no disk; give it to the target",
                         rule->spec);
        if (rule->layer == SL_INJECT_LINK && !has_link)
            return usage(description,
                         "--inject '%s': no link is in use; give --listen or --storage-server",
                         rule->spec);
    }
    config->inject_count = o->inject_count;
    return 0;
}

int sl_server_options_parse(struct sl_server_options *o, const struct sl_options *description,
                            int argc, char **argv, bool target, struct sl_server_config *config)
{
    char error[512];
    memset(config, 0, sizeof(*config));
    config->program = description->program;
    sl_log_set_program(description->program);
    int status = sl_options_parse(description, argc, argv, NULL, NULL, 0, stdout, stderr);
    if (status != 0)
        return status < 0 ? 2 : 1;
    if (o->quiet || o->verbose)
        sl_log_set_level(o->quiet ? SL_LOG_WARN : SL_LOG_DEBUG);
    if (sl_link_resolve_device(o->device != NULL ? o->device : "tcp", &config->link, o->device_name,
                               sizeof(o->device_name), error, sizeof(error)) < 0) {
        fprintf(stderr, "%s: --device: %s\n", description->program, error);
        return 2;
    }
    config->device = o->device_name[0] != '\0' ? o->device_name : NULL;
    status = load_cluster(o, description, config);
    if (status == 0)
        status = translate_runtime(o, description, &config->runtime);
    if (status == 0 && target)
        status = translate_target(o, description, config);
    if (status == 0 && target && !o->gateway && (o->server_count > 0 || o->volume_count > 0))
        return usage(description, "--storage-server and --volume need --gateway%s", "");
    if (status == 0 && (!target || o->gateway))
        status = translate_gateway(o, description, target, config);
    if (status == 0)
        status = translate_injects(o, description, config);
    if (status == 0)
        status = load_key(o, config, config->cluster_key);
    return status;
}
