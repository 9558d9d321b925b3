/*
 * Volumes of a cluster: their layout, from the file, and who may use them. An exclusive volume is
 * attached before a client gets it: a new, higher epoch is committed in each of its groups, and
 * whatever still comes under an older one is refused there. An epoch is 40 bits that count and 24
 * that are random, so that two gateways never attach with the same one. Sharers of a shared volume
 * all use the one in force.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/log.h"
#include "gateway/replicated.h"

#define EPOCH_RANDOM_BITS 24
#define EPOCH_SHARED      1
/* Sessions that can not be closed so fast stay open: for a group without a leader nobody waits. */
#define LEAVE_TIMEOUT_NS (1 * SL_NS_PER_S)

static void lay_out(const struct sl_cluster *cluster, unsigned index, struct sl_volume *volume)
{
    const struct sl_cluster_volume *config = &cluster->volumes[index];
    *volume = (struct sl_volume){
        .index = index,
        .id = config->id,
        .size_bytes = config->size_bytes,
        .stripe_bytes = config->stripe_bytes,
        .shared = config->shared,
        .server_count = config->extent_count,
    };
    snprintf(volume->name, sizeof(volume->name), "%s", config->name);
    for (unsigned i = 0; i < config->extent_count; i++) {
        const struct sl_cluster_group *group =
            sl_cluster_find_group(cluster, config->extents[i].group);
        volume->servers[i] = (uint16_t)(group - cluster->groups);
        volume->base_bytes[i] = config->extents[i].offset_bytes;
    }
}

_Static_assert(SL_CLUSTER_EXTENTS_MAX <= SL_VOLUME_COLUMNS_MAX, "an extent is a column");
_Static_assert(SL_CLUSTER_GROUPS_MAX <= UINT16_MAX, "columns are named by 16 bits");
_Static_assert(SL_CLUSTER_NODES_MAX <= SL_SERVERS_MAX, "a node is a server");
_Static_assert((int)SL_CLUSTER_NAME_BYTES_MAX <= (int)SL_VOLUME_NAME_BYTES_MAX, "names fit");

int sl_cluster_open(struct sl_gateway *gateway)
{
    const struct sl_cluster *cluster = gateway->group->cluster;
    gateway->groups = calloc(sl_max(cluster->group_count, 1u), sizeof(*gateway->groups));
    if (gateway->groups == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < cluster->group_count; i++) {
        struct replicated_group *group = &gateway->groups[i];
        group->gateway = gateway;
        group->config = &cluster->groups[i];
        sl_wait_queue_init(&group->changed);
        sl_wait_queue_init(&group->session.changed);
    }
    for (unsigned i = 0; i < cluster->volume_count; i++)
        lay_out(cluster, i, &gateway->volumes[i]);
    gateway->laid_out = true;
    return 0;
}

void sl_cluster_wake(struct sl_gateway *gateway)
{
    for (unsigned i = 0; gateway->groups != NULL && i < gateway->group->cluster->group_count; i++) {
        sl_wait_queue_wake_all(&gateway->groups[i].changed, -ECANCELED);
        sl_wait_queue_wake_all(&gateway->groups[i].session.changed, -ECANCELED);
    }
}

static void leave_group_co(void *argument)
{
    struct replicated_group *group = argument;
    struct sl_gateway *gateway = group->gateway;
    sl_session_close_co(group, sl_reactor_now_ns(gateway->reactor) + LEAVE_TIMEOUT_NS);
    gateway->statistics.inflight_count--;
    sl_wait_queue_wake_all(&gateway->learned, 0);
}

static void wait_for_rest_co(struct sl_gateway *gateway)
{
    uint64_t deadline_ns = sl_reactor_now_ns(gateway->reactor) + LEAVE_TIMEOUT_NS;
    while (gateway->statistics.inflight_count > 0 &&
           sl_wait_queue_until_co(&gateway->learned, deadline_ns) != -ETIMEDOUT)
        continue;
}

void sl_cluster_leave_co(struct sl_gateway *gateway)
{
    wait_for_rest_co(gateway); /* requests that are nearly done */
    for (unsigned i = 0; i < gateway->group->cluster->group_count; i++) {
        struct replicated_group *group = &gateway->groups[i];
        /* What may still be retried keeps its session. */
        if (!group->session.is_open || group->session.lowest != group->session.next)
            continue;
        gateway->statistics.inflight_count++;
        if (sl_co_spawn(gateway->reactor, leave_group_co, group) < 0)
            gateway->statistics.inflight_count--;
    }
    wait_for_rest_co(gateway);
}

void sl_cluster_close(struct sl_gateway *gateway)
{
    free(gateway->groups);
    gateway->groups = NULL;
}

/* ---- attaching ---- */

/* In each of the volume's groups. -SL_E_FENCED: `in_force` stands somewhere already. */
static int attach_groups_co(struct sl_gateway *gateway, const struct sl_volume *volume,
                            uint64_t epoch, uint64_t deadline_ns, uint64_t *in_force)
{
    for (unsigned i = 0; i < volume->server_count; i++) {
        struct group_call call = {
            .opcode = SL_GROUP_ATTACH,
            .volume = volume->id,
            .epoch = epoch,
            .deadline_ns = deadline_ns,
        };
        int error = sl_group_call_co(&gateway->groups[volume->servers[i]], &call);
        *in_force = call.reply_epoch;
        if (error < 0 && error != -EEXIST)
            return error;
    }
    return 0;
}

static uint64_t next_epoch(struct sl_gateway *gateway, const struct sl_volume *volume,
                           uint64_t highest)
{
    if (volume->shared)
        return sl_max(highest, (uint64_t)EPOCH_SHARED);
    uint64_t random = sl_reactor_random_u64(gateway->reactor) >> (64 - EPOCH_RANDOM_BITS);
    return ((highest >> EPOCH_RANDOM_BITS) + 1) << EPOCH_RANDOM_BITS | random;
}

static int attach_anew_co(struct sl_gateway *gateway, const struct sl_volume *volume,
                          uint64_t deadline_ns, struct attachment *attachment)
{
    uint64_t in_force = 0;
    for (;;) {
        uint64_t epoch = attachment->tried = next_epoch(gateway, volume, attachment->tried);
        int error = attach_groups_co(gateway, volume, epoch, deadline_ns, &in_force);
        if (error != -SL_E_FENCED) {
            if (error == 0)
                attachment->epoch = epoch;
            return error;
        }
        if (sl_reactor_now_ns(gateway->reactor) >= deadline_ns)
            return -ETIMEDOUT;
        /* A reply that names nothing higher is no reason to stand still. */
        attachment->tried = sl_max(in_force, volume->shared ? epoch + 1 : epoch);
        /* Somebody else may be attaching, too: not in step with him. */
        sl_sleep_co(SL_NS_PER_MS + sl_reactor_random_u64(gateway->reactor) % (8 * SL_NS_PER_MS));
    }
}

int sl_gateway_attach_co(struct sl_gateway *gateway, const char *name, uint64_t deadline_ns,
                         const struct sl_volume **result, uint64_t *epoch)
{
    SL_ASSERT(gateway->index == 0);
    *epoch = 0;
    int error = sl_gateway_volume_co(gateway, name, deadline_ns, result);
    if (error < 0 || gateway->groups == NULL)
        return error;
    const struct sl_volume *volume = *result;
    struct attachment *attachment = &gateway->group->attachments[volume->index];
    while (attachment->busy) {
        if (sl_wait_queue_until_co(&attachment->changed, deadline_ns) == -ETIMEDOUT)
            return -ETIMEDOUT;
    }
    uint64_t fenced = atomic_load(&attachment->fenced);
    if (attachment->client_count == 0 || attachment->epoch <= fenced) {
        attachment->busy = true;
        error = attach_anew_co(gateway, volume, deadline_ns, attachment);
        attachment->busy = false;
        sl_wait_queue_wake_all(&attachment->changed, 0);
    }
    if (error < 0) {
        sl_log_error("gateway", "volume '%s' cannot be attached: %s (%s)", volume->name,
                     sl_error_text(error), sl_error_name(error));
        return error;
    }
    attachment->client_count++;
    *epoch = attachment->epoch;
    return 0;
}

void sl_gateway_detach(struct sl_gateway *gateway, const struct sl_volume *volume)
{
    struct attachment *attachment = &gateway->group->attachments[volume->index];
    if (gateway->groups == NULL)
        return;
    SL_ASSERT(attachment->client_count > 0);
    attachment->client_count--;
}
