/* The group of a process's gateways: configuration, sessions, client memory on every reactor. */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/call.h"
#include "core/error.h"
#include "gateway/private.h"
#include "meta/cluster.h"

static int check_volume_specs(const struct sl_gateway_config *config, unsigned server_count,
                              char *error, size_t error_bytes)
{
    if (config->volume_count > SL_VOLUMES_MAX) {
        snprintf(error, error_bytes, "%u volumes; at most %d", config->volume_count,
                 SL_VOLUMES_MAX);
        return -EINVAL;
    }
    for (unsigned i = 0; i < config->volume_count; i++) {
        const struct sl_volume_spec *spec = &config->volumes[i];
        if (spec->size_bytes % SL_BLOCK_BYTES != 0) {
            snprintf(error, error_bytes, "volume '%s': size %llu is not a multiple of %u",
                     spec->name, (unsigned long long)spec->size_bytes, SL_BLOCK_BYTES);
            return -EINVAL;
        }
        if (server_count < 64 && spec->server_bitmap >> server_count != 0) {
            snprintf(error, error_bytes,
                     "volume '%s' names a storage server beyond the %u that are given", spec->name,
                     server_count);
            return -EINVAL;
        }
        for (unsigned j = 0; j < i; j++) {
            if (strcmp(config->volumes[j].name, spec->name) == 0) {
                snprintf(error, error_bytes, "volume '%s' is given twice", spec->name);
                return -EINVAL;
            }
        }
    }
    return 0;
}

static int check_cluster(const struct sl_gateway_config *config, char *error, size_t error_bytes)
{
    if (config->server_count != config->cluster->node_count || config->local != NULL ||
        config->volume_count > 0) {
        snprintf(error, error_bytes, "servers and volumes are those of the cluster file");
        return -EINVAL;
    }
    if (config->cluster->volume_count == 0) {
        snprintf(error, error_bytes, "the cluster file has no volumes");
        return -EINVAL;
    }
    return 0;
}

static int check_config(const struct sl_gateway_config *config, char *error, size_t error_bytes)
{
    unsigned server_count = config->server_count + (config->local != NULL ? 1 : 0);
    if (config->cluster != NULL)
        return check_cluster(config, error, error_bytes);
    if (server_count == 0 || server_count > SL_SERVERS_MAX) {
        snprintf(error, error_bytes, "%u storage servers; give --storage-server 1 to %d times",
                 server_count, SL_SERVERS_MAX);
        return -EINVAL;
    }
    uint32_t stripe = config->stripe_bytes;
    if (stripe != 0 && (!sl_is_power_of_two(stripe) || stripe < SL_STRIPE_BYTES_MIN ||
                        stripe > SL_REQUEST_BYTES_MAX)) {
        snprintf(error, error_bytes,
                 "stripe size %u; it must be a power of two from 64 KiB to 16 MiB", stripe);
        return -EINVAL;
    }
    for (unsigned i = 0; i < config->server_count; i++) {
        for (unsigned j = 0; j < i; j++) {
            if (strcmp(config->servers[i], config->servers[j]) == 0) {
                snprintf(error, error_bytes, "storage server %s is given twice",
                         config->servers[i]);
                return -EINVAL;
            }
        }
    }
    return check_volume_specs(config, server_count, error, error_bytes);
}

int sl_gateway_group_create(const struct sl_gateway_config *config, unsigned reactor_count,
                            struct sl_gateway_group **result, char *error, size_t error_bytes)
{
    int status = check_config(config, error, error_bytes);
    if (status < 0)
        return status;
    struct sl_gateway_group *group = calloc(1, sizeof(*group));
    if (group == NULL)
        return -ENOMEM;
    group->reactor_count = reactor_count;
    group->remote_count = config->server_count;
    group->has_local = config->local != NULL;
    group->server_count = config->server_count + (group->has_local ? 1 : 0);
    if (group->has_local)
        group->local = *config->local;
    group->stripe_bytes =
        config->stripe_bytes != 0 ? config->stripe_bytes : SL_STRIPE_BYTES_DEFAULT;
    group->io_timeout_ns = config->io_timeout_ns != 0 ? config->io_timeout_ns : SL_IO_TIMEOUT_NS;
    group->follower_reads = config->follower_reads;
    group->cluster = config->cluster;
    group->volume_count =
        config->cluster != NULL ? config->cluster->volume_count : config->volume_count;
    group->attachments = calloc(sl_max(group->volume_count, 1u), sizeof(*group->attachments));
    group->addresses = calloc(sl_max(config->server_count, 1u), sizeof(*group->addresses));
    group->volumes = calloc(sl_max(config->volume_count, 1u), sizeof(*group->volumes));
    group->members = calloc(reactor_count, sizeof(struct sl_gateway *));
    if (group->attachments == NULL || group->addresses == NULL || group->volumes == NULL ||
        group->members == NULL) {
        sl_gateway_group_destroy(group);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < config->server_count; i++)
        snprintf(group->addresses[i], sizeof(group->addresses[i]), "%s", config->servers[i]);
    for (unsigned i = 0; i < config->volume_count; i++)
        group->volumes[i] = config->volumes[i];
    for (unsigned i = 0; i < group->volume_count; i++)
        sl_wait_queue_init(&group->attachments[i].changed);
    *result = group;
    return 0;
}

void sl_gateway_group_destroy(struct sl_gateway_group *group)
{
    if (group == NULL)
        return;
    for (unsigned i = 0; group->members != NULL && i < group->reactor_count; i++)
        SL_ASSERT(group->members[i] == NULL);
    free(group->addresses);
    free(group->attachments);
    free(group->volumes);
    free(group->members);
    free(group);
}

struct sl_gateway *sl_gateway_group_member(struct sl_gateway_group *group, unsigned index)
{
    return group->members[index];
}

unsigned sl_gateway_group_count(const struct sl_gateway_group *group)
{
    return group->reactor_count;
}

void sl_gateway_session_begin(struct sl_gateway_group *group)
{
    atomic_fetch_add(&group->session_count, 1);
}

void sl_gateway_session_end(struct sl_gateway_group *group)
{
    SL_ASSERT(atomic_fetch_sub(&group->session_count, 1) > 0);
}

struct memory_call {
    struct sl_gateway *gateway;
    struct sl_gateway_memory *memory;
    int memfd;
    bool writable;
};

static int64_t memory_map_co(void *argument)
{
    struct memory_call *call = argument;
    struct sl_region **region = &call->memory->regions[call->gateway->index];
    int error = sl_region_map_foreign(sl_memory_regions(call->gateway->memory), call->memfd, 0,
                                      call->memory->length_bytes, call->writable, region);
    if (error < 0 || (*region)->attach_error == 0)
        return error;
    /* A card that cannot take it (it has logged why) could not move a byte of it. */
    error = (*region)->attach_error;
    sl_region_remove(*region);
    *region = NULL;
    return error;
}

static int64_t memory_unmap_co(void *argument)
{
    struct memory_call *call = argument;
    sl_region_remove(call->memory->regions[call->gateway->index]);
    return 0;
}

int sl_gateway_memory_register_co(struct sl_gateway_group *group, int memfd, size_t length_bytes,
                                  bool writable, struct sl_gateway_memory **result)
{
    struct sl_gateway_memory *memory =
        calloc(1, sizeof(*memory) + group->reactor_count * sizeof(memory->regions[0]));
    if (memory == NULL) {
        close(memfd);
        return -ENOMEM;
    }
    memory->group = group;
    memory->length_bytes = length_bytes;
    memory->writable = writable;
    int status = 0;
    for (unsigned i = 0; i < group->reactor_count && status == 0; i++) {
        struct memory_call call = {group->members[i], memory, fcntl(memfd, F_DUPFD_CLOEXEC, 3),
                                   writable};
        if (call.memfd < 0)
            status = -errno;
        else
            status = (int)sl_reactor_call_co(call.gateway->reactor, memory_map_co, &call);
    }
    close(memfd);
    if (status < 0) {
        sl_gateway_memory_unregister_co(memory);
        return status;
    }
    *result = memory;
    return 0;
}

void sl_gateway_memory_unregister_co(struct sl_gateway_memory *memory)
{
    if (memory == NULL)
        return;
    for (unsigned i = 0; i < memory->group->reactor_count; i++) {
        if (memory->regions[i] == NULL)
            continue;
        struct memory_call call = {.gateway = memory->group->members[i], .memory = memory};
        /* Fails only for want of a stack. */
        while (sl_reactor_call_co(call.gateway->reactor, memory_unmap_co, &call) < 0)
            sl_sleep_co(SL_NS_PER_MS);
    }
    free(memory);
}

size_t sl_gateway_memory_bytes(const struct sl_gateway_memory *memory)
{
    return memory->length_bytes;
}
