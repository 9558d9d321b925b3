/* Options that the server programs share, and how they become a struct sl_server_config. */
#ifndef SL_DAEMON_OPTIONS_H
#define SL_DAEMON_OPTIONS_H

#include "core/options.h"
#include "daemon/server.h"

struct sl_server_options {
    const char *device;
    uint64_t cpus[SL_RUNTIME_REACTORS_MAX];
    unsigned cpu_count;
    uint64_t reactor_count;
    bool poll;
    uint64_t spin_ns;
    uint64_t memory_bytes;
    bool no_hugepages;
    const char *cluster_key_file;
    const char *cluster_file;
    struct sl_cluster *cluster; /* as loaded */
    uint64_t node;
    struct sl_target_cluster_node cluster_nodes[SL_SERVERS_MAX];
    struct sl_target_cluster_group *cluster_groups; /* with a replica on this node */
    const char *injects[SL_INJECT_RULES_MAX];
    unsigned inject_count;
    bool quiet;
    bool verbose;

    /* target */
    const char *storages[SL_STORAGE_DISKS_MAX];
    unsigned storage_count;
    uint64_t size_bytes;
    const char *listen;
    bool read_only;
    bool no_checksums;
    bool no_durable;
    uint64_t scrub_bytes_per_s;
    bool buffered;

    /* gateway */
    bool gateway; /* a target with a gateway in its process */
    const char *servers[SL_SERVERS_MAX];
    unsigned server_count;
    const char *volumes[SL_VOLUMES_MAX];
    unsigned volume_count;
    uint64_t stripe_bytes;
    uint64_t io_timeout_ns;
    bool follower_reads;
    const char *channel_name;

    struct sl_volume_spec volume_specs[SL_VOLUMES_MAX];
    char device_name[SL_ADDRESS_BYTES_MAX];
    char addresses[SL_SERVERS_MAX][SL_ADDRESS_BYTES_MAX];
    const char *address_list[SL_SERVERS_MAX];
    char listen_address[SL_ADDRESS_BYTES_MAX];
};

/* Fills in the defaults. */
void sl_server_options_init(struct sl_server_options *options);
/* Writes the shared rows of the table, and those of a target or a gateway; answers how many (NULL
 * row included). `rows` has room for 48. */
unsigned sl_server_options_table(struct sl_server_options *options, bool target, bool gateway,
                                 struct sl_option *rows);
/* Parses, checks and translates. 0 = run; 1 = end well; 2 = bad usage (explained on standard
 * error). */
int sl_server_options_parse(struct sl_server_options *options, const struct sl_options *description,
                            int argc, char **argv, bool target, struct sl_server_config *config);
/* Gives the cluster back; the config is of no use any more. */
void sl_server_options_fini(struct sl_server_options *options);

#endif
