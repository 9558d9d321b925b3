/*
 * One initiator: a coroutine that reads its requests, one at a time, and answers them; control.h
 * has the life cycle. When the initiator hangs up, shuts down or misbehaves, the coroutine ends the
 * session: queues halt, the gateway waits for what is outstanding (closed_co), everything is freed.
 * Owner: the control reactor.
 */
#include "comch/server.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/log.h"

void sl_comch_session_set_owner(struct sl_comch_session *session, void *owner)
{
    session->owner = owner;
}

uint32_t sl_comch_session_id(const struct sl_comch_session *session)
{
    return session->id;
}

int sl_comch_session_pid(const struct sl_comch_session *session)
{
    return session->pid;
}

void sl_comch_session_disconnect(struct sl_comch_session *session, int reason)
{
    if (session->closing)
        return;
    session->closing = true;
    session->reason = reason;
    sl_descriptor_cancel(session->server->io, session->socket);
}

/* ---- requests: each answers 0 or negative errno, and fills the answer's body ---- */

/* Remembers for the log why; answers `error`. */
__attribute__((format(printf, 3, 4))) static int refuse(struct sl_comch_session *session, int error,
                                                        const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(session->why, sizeof(session->why), format, arguments);
    va_end(arguments);
    return error;
}

typedef int (*request_co)(struct sl_comch_session *session, const struct comch_record *request,
                          struct sl_socket_message *message, struct comch_record *answer);

static int query_co(struct sl_comch_session *session, const struct comch_record *request,
                    struct sl_socket_message *message, struct comch_record *answer)
{
    return session->server->handlers->query_storage_co(session->owner, session, request->volume,
                                                       &answer->storage);
}

static int init_co(struct sl_comch_session *session, const struct comch_record *request,
                   struct sl_socket_message *message, struct comch_record *answer)
{
    int error = session->server->handlers->init_storage_co(session->owner, session, request->volume,
                                                           &answer->storage);
    if (error == 0) {
        session->depth_max = sl_min(answer->storage.depth_max, SL_COMCH_DEPTH_MAX);
        answer->storage.depth_max = session->depth_max;
    }
    return error;
}

static int create_data_co(struct sl_comch_session *session, uint32_t depth,
                          struct sl_socket_message *message)
{
    if (depth == 0 || depth > session->depth_max)
        return refuse(session, -EINVAL, "depth %u is not in 1 … %u", depth, session->depth_max);
    if (session->queue_count == SL_COMCH_QUEUES_MAX)
        return refuse(session, -EBUSY, "it has %u queues (limit)", SL_COMCH_QUEUES_MAX);
    struct sl_channel_layout layout = comch_queue_layout(depth);
    struct sl_channel channel;
    int error = sl_channel_adopt(&channel, &layout, message->descriptors);
    message->descriptor_count = 0;
    if (error == -SL_E_PROTOCOL)
        return refuse(session, error,
                      "rings of depth %u are a memfd of ordinary pages, sealed with F_SEAL_SHRINK "
                      "and F_SEAL_GROW, of just their length, and two eventfds",
                      depth);
    if (error < 0)
        return error;
    struct sl_comch_queue_config config = {0};
    error = session->server->handlers->create_connection_co(
        session->owner, session, SL_COMCH_CONNECTION_DATA, session->queue_count, depth, &config);
    if (error < 0) {
        sl_channel_close(&channel);
        return error;
    }
    struct sl_comch_queue *queue;
    error = comch_queue_create_co(session, &channel, depth, &config, &queue);
    if (error == 0)
        session->queues[session->queue_count++] = queue;
    return error;
}

static int create_connection_co(struct sl_comch_session *session,
                                const struct comch_record *request,
                                struct sl_socket_message *message, struct comch_record *answer)
{
    if (request->connection.kind == SL_COMCH_CONNECTION_DATA)
        return create_data_co(session, request->connection.depth, message);
    return session->server->handlers->create_connection_co(session->owner, session,
                                                           SL_COMCH_CONNECTION_CONTROL, 0, 0, NULL);
}

static int start_co(struct sl_comch_session *session, const struct comch_record *request,
                    struct sl_socket_message *message, struct comch_record *answer)
{
    int error = session->server->handlers->start_storage_co(session->owner, session);
    for (unsigned i = 0; error == 0 && i < session->queue_count; i++)
        comch_queue_run_co(session->queues[i], true);
    return error;
}

static int stop_co(struct sl_comch_session *session, const struct comch_record *request,
                   struct sl_socket_message *message, struct comch_record *answer)
{
    for (unsigned i = 0; i < session->queue_count; i++)
        comch_queue_run_co(session->queues[i], false);
    return session->server->handlers->stop_storage_co(session->owner, session);
}

static int shutdown_co(struct sl_comch_session *session, const struct comch_record *request,
                       struct sl_socket_message *message, struct comch_record *answer)
{
    return 0; /* the session ends after its answer */
}

/* What may be done with the memory: it must not shrink under us, and is written to only if nothing
 * forbids it. */
static int memory_check(struct sl_comch_session *session, int memfd, uint64_t length_bytes,
                        bool *writable)
{
    struct stat status;
    int seals = fcntl(memfd, F_GET_SEALS);
    int flags = fcntl(memfd, F_GETFL);
    if (seals < 0 || flags < 0 || fstat(memfd, &status) < 0 || !S_ISREG(status.st_mode))
        return refuse(session, -EINVAL, "it is not a memfd");
    if ((seals & F_SEAL_SHRINK) == 0)
        return refuse(session, -EINVAL, "it is not sealed against shrinking (F_SEAL_SHRINK)");
    if (length_bytes == 0 || !sl_is_aligned(length_bytes, SL_BLOCK_BYTES) ||
        length_bytes > (uint64_t)status.st_size)
        return refuse(session, -EINVAL,
                      "%llu bytes are not a multiple of 4096 within the %llu that it has",
                      (unsigned long long)length_bytes, (unsigned long long)status.st_size);
    int access_mode = flags & O_ACCMODE;
    if (access_mode == O_WRONLY)
        return refuse(session, -EINVAL, "it is open for writing only");
    if (access_mode != O_RDWR || (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0)
        *writable = false;
    return 0;
}

/* A free slot's next id: id % SL_COMCH_MEMORIES_MAX is the slot, so that the gateway finds it
 * without a search. */
static struct comch_memory *memory_slot(struct sl_comch_session *session, uint32_t *id)
{
    for (uint32_t i = 0; i < SL_COMCH_MEMORIES_MAX; i++) {
        struct comch_memory *memory = &session->memories[i];
        if (memory->id != 0 || memory->generation == UINT32_MAX / SL_COMCH_MEMORIES_MAX - 1)
            continue;
        memory->generation++;
        *id = memory->generation * SL_COMCH_MEMORIES_MAX + i;
        return memory;
    }
    return NULL;
}

static int register_co(struct sl_comch_session *session, const struct comch_record *request,
                       struct sl_socket_message *message, struct comch_record *answer)
{
    bool writable = request->memory.writable != 0;
    int error =
        memory_check(session, message->descriptors[0], request->memory.length_bytes, &writable);
    if (error < 0)
        return error;
    uint32_t id;
    struct comch_memory *memory = memory_slot(session, &id);
    if (memory == NULL)
        return refuse(session, -EBUSY, "it has %u memories (limit)", SL_COMCH_MEMORIES_MAX);
    error = session->server->handlers->register_memory_co(session->owner, session, id,
                                                          message->descriptors[0],
                                                          request->memory.length_bytes, writable);
    if (error < 0)
        return error;
    memory->id = id;
    answer->memory.length_bytes = request->memory.length_bytes;
    answer->memory.memory_id = id;
    answer->memory.writable = writable;
    return 0;
}

static int unregister_co(struct sl_comch_session *session, const struct comch_record *request,
                         struct sl_socket_message *message, struct comch_record *answer)
{
    uint32_t id = request->memory.memory_id;
    struct comch_memory *memory = &session->memories[id % SL_COMCH_MEMORIES_MAX];
    if (id == 0 || memory->id != id)
        return -ENOENT;
    int error = session->server->handlers->unregister_memory_co(session->owner, session, id);
    if (error == 0)
        memory->id = 0;
    return error;
}

static void copies_fill(struct comch_copies *to, const struct sl_copy_counters *from)
{
    for (unsigned i = 0; i < SL_COPY_REASON_COUNT; i++) {
        to->bytes[i] = from->bytes[i];
        to->count[i] = from->count[i];
    }
}

static int statistics_co(struct sl_comch_session *session, const struct comch_record *request,
                         struct sl_socket_message *message, struct comch_record *answer)
{
    struct sl_comch_statistics statistics = {0};
    int error = session->server->handlers->statistics_co(session->owner, session, &statistics);
    if (error < 0)
        return error;
    copies_fill(&answer->statistics.gateway, &statistics.gateway);
    copies_fill(&answer->statistics.targets, &statistics.targets);
    answer->statistics.io_count = statistics.io_count;
    answer->statistics.io_bytes = statistics.io_bytes;
    answer->statistics.error_count = statistics.error_count;
    answer->statistics.retry_count = statistics.retry_count;
    answer->statistics.gateway_injected = statistics.gateway_injected_count;
    answer->statistics.targets_injected = statistics.targets_injected_count;
    return 0;
}

static const request_co requests_co[COMCH_REQUEST_LAST + 1] = {
    [COMCH_QUERY_STORAGE] = query_co,
    [COMCH_INIT_STORAGE] = init_co,
    [COMCH_CREATE_RDMA_CONNECTION] = create_connection_co,
    [COMCH_START_STORAGE] = start_co,
    [COMCH_STOP_STORAGE] = stop_co,
    [COMCH_SHUTDOWN] = shutdown_co,
    [COMCH_REGISTER_MEMORY] = register_co,
    [COMCH_UNREGISTER_MEMORY] = unregister_co,
    [COMCH_STATISTICS] = statistics_co,
};

/* ---- the session's coroutine ---- */

static int answer_send_co(struct sl_comch_session *session, const struct comch_record *answer)
{
    struct sl_comch_server *server = session->server;
    uint64_t deadline_ns = sl_reactor_now_ns(server->reactor) + COMCH_ANSWER_TIMEOUT_NS;
    for (;;) {
        int error = sl_socket_send(session->socket, answer, sizeof(*answer), NULL, 0);
        if (error != -EAGAIN)
            return error;
        int events = sl_descriptor_wait_co(server->io, session->socket, POLLOUT, deadline_ns);
        if (events < 0)
            return session->closing ? session->reason : events;
    }
}

/* Does it if it may be done now, and answers. Negative errno: the session is to end for this
 * reason. */
static int request_handle_co(struct sl_comch_session *session, const struct comch_record *request,
                             struct sl_socket_message *message)
{
    int fatal = comch_request_check(request, message->length_bytes, message->descriptor_count);
    int error = fatal;
    session->why[0] = '\0';
    unsigned type = request->header.type;
    struct comch_record answer = {
        .header = {.magic = COMCH_MAGIC,
                   .version = COMCH_VERSION,
                   .type = (uint16_t)(type | COMCH_ANSWER),
                   .correlation_id = request->header.correlation_id},
    };
    if (fatal == -EOPNOTSUPP)
        fatal = 0;
    if (error == 0)
        error = comch_request_allowed(session->state, type);
    if (error == 0)
        error = requests_co[type](session, request, message, &answer);
    if (error == 0) {
        session->state = comch_state_after(session->state, type);
    } else {
        sl_log_warn("comch", "session %u (pid %d): %s refused: %s%s%s", session->id, session->pid,
                    comch_type_name(type), sl_error_name(error), *session->why != 0 ? ": " : "",
                    session->why);
        memset(answer.bytes, 0, sizeof(answer.bytes));
        answer.header.type = COMCH_ERROR_RESPONSE;
        answer.header.status = (uint16_t)sl_status_from_errno(error);
    }
    error = answer_send_co(session, &answer);
    return fatal < 0 ? fatal : error;
}

static int request_receive_co(struct sl_comch_session *session)
{
    int events = sl_descriptor_wait_co(session->server->io, session->socket, POLLIN, UINT64_MAX);
    if (session->closing)
        return session->reason;
    if (events < 0)
        return events;
    struct comch_record request;
    struct sl_socket_message message;
    memset(&request, 0, sizeof(request)); /* a short record leaves the rest as it is */
    int error = sl_socket_receive(session->socket, &request, sizeof(request), &message);
    if (error == -EAGAIN)
        return 0;
    if (error < 0)
        return error;
    error = request_handle_co(session, &request, &message);
    sl_socket_message_close(&message);
    /* The handler waited: somebody may have ended the session meanwhile. */
    return session->closing ? session->reason : error;
}

static void session_end_co(struct sl_comch_session *session, int reason)
{
    struct sl_comch_server *server = session->server;
    session->closing = true;
    for (unsigned i = 0; i < session->queue_count; i++)
        comch_queue_halt_co(session->queues[i]);
    server->handlers->closed_co(session->owner, session, reason);
    for (unsigned i = 0; i < session->queue_count; i++)
        comch_queue_destroy_co(session->queues[i]);
    sl_descriptor_cancel(server->io, session->socket);
    close(session->socket);
    sl_list_remove(&session->node);
    server->session_count--;
    sl_wait_queue_wake_all(&server->ended, 0);
    free(session);
}

static void session_run_co(void *argument)
{
    struct sl_comch_session *session = argument;
    session->server->handlers->connected(session->server->owner, session);
    int error = session->closing ? session->reason : 0;
    while (error == 0 && session->state != COMCH_ENDED)
        error = request_receive_co(session);
    if (error < 0 && error != -ECANCELED)
        sl_log_warn("comch", "session %u (pid %d) ended: %s%s", session->id, session->pid,
                    sl_error_name(error), session->state == COMCH_RUNNING ? " while running" : "");
    session_end_co(session, error);
}

int comch_session_begin(struct sl_comch_server *server, int socket)
{
    struct sl_comch_session *session = calloc(1, sizeof(*session));
    if (session == NULL) {
        close(socket);
        return -ENOMEM;
    }
    session->server = server;
    session->socket = socket;
    session->id = ++server->last_session_id;
    (void)sl_socket_check_peer(socket, &session->pid);
    int error = sl_co_spawn(server->reactor, session_run_co, session);
    if (error < 0) {
        close(socket);
        free(session);
        return error;
    }
    sl_list_append(&server->sessions, &session->node);
    server->session_count++;
    return 0;
}
