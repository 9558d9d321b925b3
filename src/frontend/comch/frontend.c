/*
 * Control side: the initiator's life cycle onto the gateway. Runs in the session's coroutines on
 * the control reactor, one at a time, so a session's fields need no lock.
 */
#include "frontend/comch/frontend.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/log.h"
#include "frontend/comch/private.h"

static struct sl_gateway *control_gateway(const struct sl_comch_frontend *frontend)
{
    return sl_gateway_group_member(frontend->group, 0);
}

static void session_connected(void *server_owner, struct sl_comch_session *comch)
{
    struct session *session = calloc(1, sizeof(*session));
    sl_comch_session_set_owner(comch, session);
    if (session == NULL) {
        sl_comch_session_disconnect(comch, -ENOMEM);
        return;
    }
    session->frontend = server_owner;
    session->comch = comch;
    sl_log_info("comch", "session %u: initiator of process %d connected",
                sl_comch_session_id(comch), sl_comch_session_pid(comch));
}

static int query_co(void *owner, struct sl_comch_session *comch, const char *name,
                    struct sl_comch_storage *storage)
{
    struct session *session = owner;
    struct sl_comch_frontend *frontend = session->frontend;
    struct sl_gateway *gateway = control_gateway(frontend);
    const struct sl_volume *volume;
    uint64_t deadline_ns = sl_reactor_now_ns(sl_gateway_reactor(gateway)) + QUERY_TIMEOUT_NS;
    int error = sl_gateway_volume_co(gateway, name, deadline_ns, &volume);
    if (error < 0)
        return error;
    *storage = (struct sl_comch_storage){
        .capacity_bytes = volume->size_bytes,
        .block_bytes = SL_BLOCK_BYTES,
        .transfer_bytes_max = SL_REQUEST_BYTES_MAX,
        .queue_count_max = sl_gateway_group_count(frontend->group),
        .depth_max = SL_COMCH_DEPTH_MAX,
        .flags = volume->read_only ? SL_COMCH_READ_ONLY : 0,
        .volume = volume->index + 1,
    };
    return 0;
}

static int init_co(void *owner, struct sl_comch_session *comch, const char *name,
                   struct sl_comch_storage *storage)
{
    struct session *session = owner;
    struct sl_gateway *gateway = control_gateway(session->frontend);
    const struct sl_volume *volume;
    uint64_t deadline_ns = sl_reactor_now_ns(sl_gateway_reactor(gateway)) + QUERY_TIMEOUT_NS;
    int error = query_co(owner, comch, name, storage);
    if (error == 0)
        error = sl_gateway_attach_co(gateway, name, deadline_ns, &volume, &session->epoch);
    if (error < 0)
        return error;
    if (session->attached != NULL)
        sl_gateway_detach(gateway, session->attached);
    session->attached = volume;
    snprintf(session->volume_name, sizeof(session->volume_name), "%s", name);
    session->volume_handle = storage->volume;
    if (!session->begun)
        sl_gateway_session_begin(session->frontend->group);
    session->begun = true;
    return 0;
}

static int create_connection_co(void *owner, struct sl_comch_session *comch,
                                enum sl_comch_connection_kind kind, uint32_t queue_index,
                                uint32_t depth, struct sl_comch_queue_config *config)
{
    struct session *session = owner;
    struct sl_comch_frontend *frontend = session->frontend;
    if (kind == SL_COMCH_CONNECTION_CONTROL) {
        struct sl_comch_storage storage;
        return query_co(owner, comch, session->volume_name, &storage);
    }
    /* One that comch could not make afterwards stays ours until the session ends. */
    if (session->queue_count == SL_COMCH_QUEUES_MAX)
        return -EBUSY;
    unsigned reactor = frontend->next_reactor++ % sl_gateway_group_count(frontend->group);
    struct queue *queue;
    int error = queue_create_co(session, reactor, &queue);
    if (error < 0)
        return error;
    session->queues[session->queue_count++] = queue;
    *config = (struct sl_comch_queue_config){
        .io = frontend->ios[reactor],
        .owner = queue,
        .received = queue_received,
    };
    return 0;
}

static int start_co(void *owner, struct sl_comch_session *comch)
{
    /* A data queue is answered as soon as it is RUNNING; the gateway has nothing to prepare. */
    const struct session *session = owner;
    sl_log_info("comch", "session %u: started volume '%s' with %u data queues",
                sl_comch_session_id(comch), session->volume_name, session->queue_count);
    return 0;
}

static int stop_co(void *owner, struct sl_comch_session *comch)
{
    const struct session *session = owner;
    for (unsigned i = 0; i < session->queue_count; i++)
        queue_quiesce_co(session->queues[i], 0);
    return 0;
}

static void set_memory_co(struct session *session, unsigned slot, struct memory_slot memory)
{
    session->memories[slot] = memory;
    for (unsigned i = 0; i < session->queue_count; i++)
        queue_memory_set_co(session->queues[i], slot, memory);
}

static int register_memory_co(void *owner, struct sl_comch_session *comch, uint32_t memory_id,
                              int memfd, uint64_t length_bytes, bool writable)
{
    struct session *session = owner;
    unsigned slot = memory_id % SL_COMCH_MEMORIES_MAX;
    if (session->memories[slot].id != 0)
        return -ENOSPC;
    int duplicate = fcntl(memfd, F_DUPFD_CLOEXEC, 3);
    if (duplicate < 0)
        return -errno;
    struct memory_slot memory = {.id = memory_id};
    int error = sl_gateway_memory_register_co(session->frontend->group, duplicate, length_bytes,
                                              writable, &memory.memory);
    if (error == 0)
        set_memory_co(session, slot, memory);
    return error;
}

static int unregister_memory_co(void *owner, struct sl_comch_session *comch, uint32_t memory_id)
{
    struct session *session = owner;
    unsigned slot = memory_id % SL_COMCH_MEMORIES_MAX;
    struct memory_slot memory = session->memories[slot];
    if (memory_id == 0 || memory.id != memory_id)
        return -ENOENT;
    /* First no new I/O can find it, then those under way end, then it is unmapped. */
    set_memory_co(session, slot, (struct memory_slot){0});
    for (unsigned i = 0; i < session->queue_count; i++)
        queue_quiesce_co(session->queues[i], memory_id);
    sl_gateway_memory_unregister_co(memory.memory);
    return 0;
}

static int statistics_co(void *owner, struct sl_comch_session *comch,
                         struct sl_comch_statistics *statistics)
{
    const struct session *session = owner;
    struct sl_gateway_statistics gateway;
    *statistics = (struct sl_comch_statistics){0};
    sl_gateway_statistics_co(session->frontend->group, &gateway);
    statistics->gateway = gateway.copies;
    statistics->targets = gateway.target_copies;
    statistics->retry_count = gateway.retry_count;
    statistics->gateway_injected_count = gateway.injected_count;
    statistics->targets_injected_count = gateway.target_injected_count;
    for (unsigned i = 0; i < session->queue_count; i++)
        queue_statistics_co(session->queues[i], statistics);
    return 0;
}

static void closed_co(void *owner, struct sl_comch_session *comch, int reason)
{
    struct session *session = owner;
    if (session == NULL)
        return;
    for (unsigned i = 0; i < session->queue_count; i++)
        queue_quiesce_co(session->queues[i], 0);
    for (unsigned i = 0; i < SL_COMCH_MEMORIES_MAX; i++)
        sl_gateway_memory_unregister_co(session->memories[i].memory);
    for (unsigned i = 0; i < session->queue_count; i++)
        queue_destroy_co(session->queues[i]);
    if (session->attached != NULL)
        sl_gateway_detach(control_gateway(session->frontend), session->attached);
    if (session->begun)
        sl_gateway_session_end(session->frontend->group);
    sl_log_info("comch", "session %u ended: %s", sl_comch_session_id(comch),
                reason == 0 ? "shut down by the initiator" : sl_error_text(reason));
    free(session);
}

static const struct sl_comch_handlers handlers = {
    .connected = session_connected,
    .query_storage_co = query_co,
    .init_storage_co = init_co,
    .create_connection_co = create_connection_co,
    .start_storage_co = start_co,
    .stop_storage_co = stop_co,
    .register_memory_co = register_memory_co,
    .unregister_memory_co = unregister_memory_co,
    .statistics_co = statistics_co,
    .closed_co = closed_co,
};

int sl_comch_frontend_open(struct sl_gateway_group *group, struct sl_io *const *ios,
                           const char *path, struct sl_comch_frontend **result)
{
    struct sl_comch_frontend *frontend = calloc(1, sizeof(*frontend));
    if (frontend == NULL)
        return -ENOMEM;
    frontend->group = group;
    frontend->ios = ios;
    int error = sl_comch_server_open(ios[0], path, &handlers, frontend, &frontend->server);
    if (error < 0) {
        free(frontend);
        return error;
    }
    *result = frontend;
    return 0;
}

void sl_comch_frontend_close_co(struct sl_comch_frontend *frontend)
{
    if (frontend == NULL)
        return;
    sl_comch_server_close_co(frontend->server);
    free(frontend);
}
