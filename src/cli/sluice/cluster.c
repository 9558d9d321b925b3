/*
 * `sluice cluster`: writes a cluster file, checks one, shows one. Files only: no connection, no
 * disk. Main thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "cli/sluice/command.h"
#include "core/error.h"
#include "core/options.h"
#include "core/size.h"
#include "meta/cluster.h"
#include "store/format.h"

_Static_assert(SL_CLUSTER_CHUNK_BYTES == SL_CHUNK_BYTES, "groups are made of the store's chunks");

#define STRIPE_BYTES_DEFAULT SL_MIB

/* ---- create ---- */

struct create {
    const char *program;
    const char *nodes[SL_CLUSTER_NODES_MAX];
    unsigned node_count;
    const char *volumes[SL_CLUSTER_VOLUMES_MAX];
    unsigned volume_count;
    uint64_t replica_count, group_count, stripe_bytes;
    const char *key_file;
    bool force;
};

static int usage(const struct create *create, const char *format, const char *value)
{
    fprintf(stderr, "%s: ", create->program);
    fprintf(stderr, format, value);
    fputc('\n', stderr);
    return 2;
}

static int random_bytes(void *bytes, size_t count)
{
    return getrandom(bytes, count, 0) == (ssize_t)count ? 0 : -EIO;
}

/* "1=192.0.2.1:7600", "1=192.0.2.1:7600,rack-a" */
static int make_node(const struct create *create, const char *text, struct sl_cluster_node *node)
{
    char *end;
    unsigned long id = strtoul(text, &end, 10);
    const char *comma = strchr(text, ',');
    size_t address_bytes = comma != NULL ? (size_t)(comma - end) : strlen(end);
    if (end == text || *end != '=' || id == 0 || id > UINT32_MAX || address_bytes < 2)
        return usage(create, "--node '%s': write ID=ADDRESS or ID=ADDRESS,DOMAIN, the id from 1",
                     text);
    if (address_bytes > sizeof(node->address) ||
        (comma != NULL && strlen(comma) > sizeof(node->domain)))
        return usage(create, "--node '%s': an address has at most 127 bytes, a domain 63", text);
    node->id = (uint32_t)id;
    snprintf(node->address, sizeof(node->address), "%.*s", (int)address_bytes - 1, end + 1);
    snprintf(node->domain, sizeof(node->domain), "%s", comma != NULL ? comma + 1 : "");
    return 0;
}

/* "vm=10GiB", "pool=1TiB,shared" */
static int make_volume(const struct create *create, const char *text,
                       struct sl_cluster_volume *volume)
{
    char copy[SL_CLUSTER_NAME_BYTES_MAX + 64];
    if (snprintf(copy, sizeof(copy), "%s", text) >= (int)sizeof(copy))
        return usage(create, "--volume '%s' is too long", text);
    char *size = strchr(copy, '=');
    char *flag = size != NULL ? strchr(size, ',') : NULL;
    if (size == NULL || size == copy || size - copy >= SL_CLUSTER_NAME_BYTES_MAX)
        return usage(create, "--volume '%s': write NAME=SIZE or NAME=SIZE,shared", text);
    *size++ = '\0';
    if (flag != NULL)
        *flag++ = '\0';
    if (flag != NULL && strcmp(flag, "shared") != 0)
        return usage(create, "--volume '%s': only 'shared' may stand behind the size", text);
    if (sl_size_parse(size, &volume->size_bytes) < 0 || volume->size_bytes == 0 ||
        volume->size_bytes % SL_BLOCK_BYTES != 0 || volume->size_bytes > UINT64_MAX / 1024)
        return usage(
            create,
            "--volume '%s': the size must be a multiple of 4 KiB, up to 16 PiB, such as 10G", text);
    snprintf(volume->name, sizeof(volume->name), "%.*s", SL_CLUSTER_NAME_BYTES_MAX - 1, copy);
    volume->shared = flag != NULL;
    volume->stripe_bytes = (uint32_t)create->stripe_bytes;
    return 0;
}

static bool has_domain(const struct sl_cluster *cluster, const struct sl_cluster_group *group,
                       const struct sl_cluster_node *node)
{
    for (unsigned i = 0; i < group->replica_count; i++) {
        const struct sl_cluster_node *other =
            sl_cluster_find_node(cluster, group->replicas[i].node);
        if (other->id == node->id ||
            (node->domain[0] != '\0' && strcmp(other->domain, node->domain) == 0))
            return true;
    }
    return false;
}

static bool has_node(const struct sl_cluster_group *group, uint32_t node)
{
    for (unsigned i = 0; i < group->replica_count; i++) {
        if (group->replicas[i].node == node)
            return true;
    }
    return false;
}

/* Each group begins one node further; first one node of each domain, then what is left. */
static int place_group(const struct sl_cluster *cluster, struct sl_cluster_group *group,
                       unsigned first, unsigned replica_count)
{
    for (unsigned i = 0; i < 2 * cluster->node_count && group->replica_count < replica_count; i++) {
        const struct sl_cluster_node *node = &cluster->nodes[(first + i) % cluster->node_count];
        struct sl_cluster_replica *replica = &group->replicas[group->replica_count];
        if (i < cluster->node_count ? has_domain(cluster, group, node) : has_node(group, node->id))
            continue;
        if (random_bytes(&replica->replica, sizeof(replica->replica)) < 0)
            return -EIO;
        replica->replica |= 1; /* never 0 */
        replica->node = node->id;
        group->replica_count++;
    }
    return 0;
}

/* Each volume is striped over all groups, and takes an equal part of each. */
static void lay_out(struct sl_cluster *cluster)
{
    unsigned count = sl_min(cluster->group_count, (unsigned)SL_CLUSTER_EXTENTS_MAX);
    for (unsigned i = 0; i < cluster->volume_count; i++) {
        struct sl_cluster_volume *volume = &cluster->volumes[i];
        uint64_t unit = (uint64_t)SL_CLUSTER_CHUNK_BYTES * count;
        uint64_t part = (volume->size_bytes + unit - 1) / unit * SL_CLUSTER_CHUNK_BYTES;
        volume->extent_count = count;
        for (unsigned j = 0; j < count; j++) {
            /* Where there are more groups than extents, volumes begin at different ones. */
            struct sl_cluster_group *group =
                &cluster->groups[(i * count + j) % cluster->group_count];
            volume->extents[j] = (struct sl_cluster_extent){group->id, group->size_bytes, part};
            group->size_bytes += part;
        }
    }
}

static int allocate(const struct create *create, struct sl_cluster *cluster)
{
    cluster->node_count = create->node_count;
    cluster->group_count = (unsigned)create->group_count;
    cluster->nodes = calloc(cluster->node_count, sizeof(cluster->nodes[0]));
    cluster->groups = calloc(cluster->group_count, sizeof(cluster->groups[0]));
    cluster->volumes = calloc(create->volume_count, sizeof(cluster->volumes[0]));
    if (cluster->nodes == NULL || cluster->groups == NULL || cluster->volumes == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < create->volume_count; i++) {
        struct sl_cluster_volume *volume = &cluster->volumes[cluster->volume_count++];
        volume->id = i + 1;
        volume->extents = calloc(SL_CLUSTER_EXTENTS_MAX, sizeof(volume->extents[0]));
        if (volume->extents == NULL)
            return -ENOMEM;
    }
    return random_bytes(cluster->id, sizeof(cluster->id));
}

/* 0, or the exit status. */
static int fill(const struct create *create, struct sl_cluster *cluster)
{
    char error[512];
    int status = 0;
    if (allocate(create, cluster) < 0) {
        fprintf(stderr, "%s: out of memory, or of randomness\n", create->program);
        return 1;
    }
    snprintf(cluster->key_file, sizeof(cluster->key_file), "%s",
             create->key_file != NULL ? create->key_file : "");
    for (unsigned i = 0; i < create->node_count && status == 0; i++)
        status = make_node(create, create->nodes[i], &cluster->nodes[i]);
    for (unsigned i = 0; i < create->volume_count && status == 0; i++)
        status = make_volume(create, create->volumes[i], &cluster->volumes[i]);
    for (unsigned i = 0; i < cluster->group_count && status == 0; i++) {
        cluster->groups[i].id = i + 1;
        status = place_group(cluster, &cluster->groups[i], i, (unsigned)create->replica_count) < 0;
    }
    if (status != 0)
        return status;
    lay_out(cluster);
    for (unsigned i = 0; i < cluster->group_count; i++) {
        /* With more groups than extents one may be left over: it is there, and empty. */
        if (cluster->groups[i].size_bytes == 0)
            cluster->groups[i].size_bytes = SL_CLUSTER_CHUNK_BYTES;
    }
    if (sl_cluster_check(cluster, error, sizeof(error)) < 0)
        return usage(create, "%s", error);
    return 0;
}

static int write_file(const struct create *create, const struct sl_cluster *cluster,
                      const char *path)
{
    int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (create->force ? O_TRUNC : O_EXCL);
    int descriptor = open(path, flags, 0644);
    FILE *file = descriptor >= 0 ? fdopen(descriptor, "w") : NULL;
    int error = file == NULL ? -errno : sl_cluster_print(cluster, file);
    if (error == 0 && fsync(descriptor) < 0 && errno != EINVAL)
        error = -errno;
    if (file != NULL && fclose(file) != 0 && error == 0)
        error = -errno;
    if (error == 0)
        return 0;
    fprintf(stderr, "%s: %s: %s (%s)%s\n", create->program, path, sl_error_text(error),
            sl_error_name(error),
            error == -EEXIST ? "; --force writes over it: whoever has data under its ids "
                               "will not be found any more"
                             : "");
    return 1;
}

static int few_nodes(const struct create *create)
{
    fprintf(
        stderr,
        "%s: --replicas %llu: each needs a node of its own, and there are %u: give more --node, "
        "or fewer replicas\n",
        create->program, (unsigned long long)create->replica_count, create->node_count);
    return 2;
}

static int create_file(const struct create *create, const char *path)
{
    struct sl_cluster *cluster = calloc(1, sizeof(*cluster));
    if (create->replica_count > create->node_count) {
        free(cluster);
        return few_nodes(create);
    }
    int status = cluster == NULL ? 1 : fill(create, cluster);
    if (status == 0)
        status = write_file(create, cluster, path);
    if (status == 0) {
        printf("%s: %u nodes, %u groups, %u volumes\n", path, cluster->node_count,
               cluster->group_count, cluster->volume_count);
        printf("%s\n", sl_cluster_survives((unsigned)create->replica_count));
    }
    sl_cluster_free(cluster);
    return status;
}

static int cluster_create(int argc, char **argv)
{
    static struct create o = {.program = "sluice cluster create",
                              .replica_count = 3,
                              .group_count = 1,
                              .stripe_bytes = STRIPE_BYTES_DEFAULT};
    struct sl_option rows[] = {
        {"node", 0, SL_OPTION_STRING, o.nodes, &o.node_count, SL_CLUSTER_NODES_MAX,
         .argument = "ID=ADDRESS[,DOMAIN]", .help = "a target; those of one domain fail together"},
        {"replicas", 0, SL_OPTION_INTEGER, &o.replica_count, .least = 1,
         .most = SL_CLUSTER_REPLICAS_MAX, .argument = "COUNT",
         .help = "of each block, on nodes "
                 "of their own",
         .fallback = "3"},
        {"groups", 0, SL_OPTION_INTEGER, &o.group_count, .least = 1, .most = SL_CLUSTER_GROUPS_MAX,
         .argument = "COUNT", .help = "over which volumes are spread", .fallback = "1"},
        {"volume", 'v', SL_OPTION_STRING, o.volumes, &o.volume_count, SL_CLUSTER_VOLUMES_MAX,
         .argument = "NAME=SIZE[,shared]",
         .help = "a volume; shared: for several gateways at once"},
        {"stripe-size", 0, SL_OPTION_SIZE, &o.stripe_bytes, .least = SL_CLUSTER_STRIPE_BYTES_MIN,
         .most = SL_CLUSTER_STRIPE_BYTES_MAX, .argument = "SIZE",
         .help = "of volumes over several groups; a power of two", .fallback = "1 MiB"},
        {"cluster-key-file", 'k', SL_OPTION_STRING, &o.key_file, .argument = "FILE",
         .help = "where each host has the cluster's key: noted in the file"},
        {"force", 0, SL_OPTION_FLAG, &o.force, .help = "write over a file that is there"},
        {NULL}};
    const struct sl_options description = {
        o.program, "writes a cluster file with new random ids",
        "Examples\n"
        "  sluice cluster create --node 1=192.0.2.1:7600 --node 2=192.0.2.2:7600 \\\n"
        "      --node 3=192.0.2.3:7600 --groups 8 --volume vm=100G cluster.json\n",
        rows};
    const char *path[1];
    unsigned path_count = 0;
    int parsed = sl_options_parse(&description, argc, argv, path, &path_count, 1, stdout, stderr);
    if (parsed != 0)
        return parsed > 0 ? 0 : 2;
    if (path_count != 1)
        return usage(&o, "name the file to write%s", "");
    if (o.node_count == 0 || o.volume_count == 0)
        return usage(&o, "at least one --node and one --volume are needed%s", "");
    return create_file(&o, path[0]);
}

/* ---- check, show ---- */

static int load(const char *program, const char *summary, int argc, char **argv,
                struct sl_cluster **cluster)
{
    char error[1024];
    const char *path[1];
    unsigned path_count = 0;
    const struct sl_option none[] = {{NULL}};
    const struct sl_options description = {program, summary, NULL, none, "FILE"};
    int parsed = sl_options_parse(&description, argc, argv, path, &path_count, 1, stdout, stderr);
    if (parsed != 0)
        return parsed > 0 ? 0 : 2;
    if (path_count != 1) {
        fprintf(stderr, "%s: name a cluster file\n", program);
        return 2;
    }
    if (sl_cluster_load(path[0], cluster, error, sizeof(error)) == 0)
        return 0;
    fprintf(stderr, "%s: %s\n", program, error);
    return 1;
}

static int cluster_check(int argc, char **argv)
{
    struct sl_cluster *cluster = NULL;
    int status = load("sluice cluster check", "looks whether a cluster file holds together", argc,
                      argv, &cluster);
    if (cluster != NULL)
        printf("%u nodes, %u groups, %u volumes; nothing is wrong\n", cluster->node_count,
               cluster->group_count, cluster->volume_count);
    sl_cluster_free(cluster);
    return status;
}

static unsigned least_replicas(const struct sl_cluster *cluster,
                               const struct sl_cluster_volume *volume)
{
    unsigned least = SL_CLUSTER_REPLICAS_MAX;
    for (unsigned i = 0; i < volume->extent_count; i++)
        least =
            sl_min(least, sl_cluster_find_group(cluster, volume->extents[i].group)->replica_count);
    return least;
}

static void show(const struct sl_cluster *cluster)
{
    char size[32];
    printf("cluster ");
    for (unsigned i = 0; i < sizeof(cluster->id); i++)
        printf("%02x", cluster->id[i]);
    printf("%s%s\n\n%-8s %-32s %s\n", cluster->key_file[0] != '\0' ? ", key in " : "",
           cluster->key_file, "node", "address", "domain");
    for (unsigned i = 0; i < cluster->node_count; i++)
        printf("%-8u %-32s %s\n", cluster->nodes[i].id, cluster->nodes[i].address,
               cluster->nodes[i].domain[0] != '\0' ? cluster->nodes[i].domain : "-");
    printf("\n%-8s %-12s first replicas (node/id)\n", "group", "size");
    for (unsigned i = 0; i < cluster->group_count; i++) {
        const struct sl_cluster_group *group = &cluster->groups[i];
        sl_size_format(group->size_bytes, size, sizeof(size));
        printf("%-8u %-12s", group->id, size);
        for (unsigned j = 0; j < group->replica_count; j++)
            printf(" %u/%016llx", group->replicas[j].node,
                   (unsigned long long)group->replicas[j].replica);
        printf("\n");
    }
    printf("\n%-24s %-12s %-10s %s\n", "volume", "size", "use", "groups");
    for (unsigned i = 0; i < cluster->volume_count; i++) {
        const struct sl_cluster_volume *volume = &cluster->volumes[i];
        sl_size_format(volume->size_bytes, size, sizeof(size));
        printf("%-24s %-12s %-10s %u; %s\n", volume->name, size,
               volume->shared ? "shared" : "exclusive", volume->extent_count,
               sl_cluster_survives(least_replicas(cluster, volume)));
    }
}

static int cluster_show(int argc, char **argv)
{
    struct sl_cluster *cluster = NULL;
    int status =
        load("sluice cluster show", "shows what a cluster file says", argc, argv, &cluster);
    if (cluster != NULL)
        show(cluster);
    sl_cluster_free(cluster);
    return status;
}

static const struct sluice_command commands[] = {
    {"create", "writes a cluster file with new random ids", cluster_create},
    {"check", "looks whether one holds together", cluster_check},
    {"show", "shows what one says, and what it survives", cluster_show},
    {NULL},
};

int sluice_cluster(int argc, char **argv)
{
    return sluice_dispatch("sluice cluster", "cluster files", commands, argc, argv);
}
