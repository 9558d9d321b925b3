/*
 * The initiator's control calls: one request, one answer, in order, under a lock. client.h says
 * what is promised. A call that timed out makes the connection useless, because its answer may come
 * later.
 */
#include "comch/client.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comch/client_private.h"
#include "core/error.h"

#define CONNECT_RETRY_NS (1 * SL_NS_PER_MS)

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SL_NS_PER_S + (uint64_t)now.tv_nsec;
}

int comch_poll_until(struct pollfd *entries, unsigned entry_count, uint64_t timeout_ns)
{
    uint64_t deadline_ns = timeout_ns > UINT64_MAX / 2 ? UINT64_MAX : now_ns() + timeout_ns;
    for (;;) {
        uint64_t left_ns = deadline_ns - sl_min(now_ns(), deadline_ns);
        struct timespec left = {(time_t)(left_ns / SL_NS_PER_S), (long)(left_ns % SL_NS_PER_S)};
        int ready = ppoll(entries, entry_count, deadline_ns == UINT64_MAX ? NULL : &left, NULL);
        if (ready > 0)
            return 0;
        if (ready == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

/* Connects; a full backlog is waited out. */
static int socket_open(const char *path, uint64_t timeout_ns)
{
    uint64_t deadline_ns = now_ns() + timeout_ns;
    for (;;) {
        int socket = sl_socket_connect(path);
        if (socket != -EAGAIN)
            return socket;
        if (now_ns() >= deadline_ns)
            return -ETIMEDOUT;
        nanosleep(&(struct timespec){0, CONNECT_RETRY_NS}, NULL);
    }
}

int sl_comch_client_connect(const char *path, uint64_t timeout_ns, struct sl_comch_client **result)
{
    int socket = socket_open(path, timeout_ns);
    if (socket < 0)
        return socket;
    int error = sl_socket_check_peer(socket, NULL);
    struct sl_comch_client *client = error == 0 ? calloc(1, sizeof(*client)) : NULL;
    if (client == NULL) {
        close(socket);
        return error < 0 ? -EACCES : -ENOMEM;
    }
    client->socket = socket;
    client->timeout_ns = timeout_ns;
    pthread_mutex_init(&client->lock, NULL);
    *result = client;
    return 0;
}

void sl_comch_client_close(struct sl_comch_client *client)
{
    if (client == NULL)
        return;
    close(client->socket);
    pthread_mutex_destroy(&client->lock);
    free(client);
}

int sl_comch_client_check(struct sl_comch_client *client)
{
    struct pollfd entry = {client->socket, POLLRDHUP, 0};
    if (poll(&entry, 1, 0) <= 0)
        return 0;
    return -ECONNRESET;
}

static int request_send(struct sl_comch_client *client, const struct comch_record *request,
                        const int *descriptors, unsigned descriptor_count)
{
    for (;;) {
        int error = sl_socket_send(client->socket, request, sizeof(*request), descriptors,
                                   descriptor_count);
        if (error != -EAGAIN)
            return error == -EPIPE ? -ECONNRESET : error;
        struct pollfd entry = {client->socket, POLLOUT, 0};
        error = comch_poll_until(&entry, 1, client->timeout_ns);
        if (error < 0)
            return error;
    }
}

static int answer_receive(struct sl_comch_client *client, struct comch_record *answer)
{
    struct pollfd entry = {client->socket, POLLIN, 0};
    int error = comch_poll_until(&entry, 1, client->timeout_ns);
    if (error < 0)
        return error;
    struct sl_socket_message message;
    error = sl_socket_receive(client->socket, answer, sizeof(*answer), &message);
    if (error < 0)
        return error;
    bool sound = message.length_bytes == sizeof(*answer) && message.descriptor_count == 0;
    sl_socket_message_close(&message);
    return sound && answer->header.magic == COMCH_MAGIC ? 0 : -SL_E_PROTOCOL;
}

static int call_locked(struct sl_comch_client *client, struct comch_record *record,
                       const int *descriptors, unsigned descriptor_count)
{
    if (client->dead < 0)
        return client->dead;
    uint64_t correlation_id = ++client->last_correlation_id;
    unsigned type = record->header.type;
    record->header.magic = COMCH_MAGIC;
    record->header.version = COMCH_VERSION;
    record->header.correlation_id = correlation_id;
    int error = request_send(client, record, descriptors, descriptor_count);
    if (error == 0)
        error = answer_receive(client, record);
    if (error == 0 && record->header.version != COMCH_VERSION)
        error = -SL_E_VERSION;
    if (error == 0 && record->header.correlation_id != correlation_id)
        error = -SL_E_PROTOCOL;
    if (error == 0 && record->header.type == COMCH_ERROR_RESPONSE &&
        record->header.status != SL_STATUS_OK)
        return sl_status_to_errno(record->header.status);
    if (error == 0 && record->header.type != (type | COMCH_ANSWER))
        error = -SL_E_PROTOCOL;
    if (error < 0)
        client->dead = error == -ETIMEDOUT ? -ECONNRESET : error;
    return error;
}

int comch_client_call(struct sl_comch_client *client, struct comch_record *record,
                      const int *descriptors, unsigned descriptor_count)
{
    pthread_mutex_lock(&client->lock);
    int error = call_locked(client, record, descriptors, descriptor_count);
    pthread_mutex_unlock(&client->lock);
    return error;
}

/* ---- the calls ---- */

static int simple_call(struct sl_comch_client *client, enum comch_type type)
{
    struct comch_record record = {.header.type = type};
    return comch_client_call(client, &record, NULL, 0);
}

static int volume_call(struct sl_comch_client *client, enum comch_type type, const char *volume,
                       struct sl_comch_storage *storage)
{
    struct comch_record record = {.header.type = type};
    size_t length = strlen(volume);
    if (length >= sizeof(record.volume))
        return -ENAMETOOLONG;
    memcpy(record.volume, volume, length + 1); /* header: a name */
    int error = comch_client_call(client, &record, NULL, 0);
    if (error == 0)
        *storage = record.storage;
    return error;
}

int sl_comch_client_query(struct sl_comch_client *client, const char *volume,
                          struct sl_comch_storage *storage)
{
    return volume_call(client, COMCH_QUERY_STORAGE, volume, storage);
}

int sl_comch_client_init(struct sl_comch_client *client, const char *volume,
                         struct sl_comch_storage *storage)
{
    return volume_call(client, COMCH_INIT_STORAGE, volume, storage);
}

int sl_comch_client_create_control(struct sl_comch_client *client)
{
    struct comch_record record = {
        .header.type = COMCH_CREATE_RDMA_CONNECTION,
        .connection.kind = SL_COMCH_CONNECTION_CONTROL,
    };
    return comch_client_call(client, &record, NULL, 0);
}

int sl_comch_client_start(struct sl_comch_client *client)
{
    return simple_call(client, COMCH_START_STORAGE);
}

int sl_comch_client_stop(struct sl_comch_client *client)
{
    return simple_call(client, COMCH_STOP_STORAGE);
}

int sl_comch_client_shutdown(struct sl_comch_client *client)
{
    return simple_call(client, COMCH_SHUTDOWN);
}

static void copies_take(struct sl_copy_counters *to, const struct comch_copies *from)
{
    for (unsigned i = 0; i < SL_COPY_REASON_COUNT; i++) {
        to->bytes[i] = from->bytes[i];
        to->count[i] = from->count[i];
    }
}

int sl_comch_client_statistics(struct sl_comch_client *client,
                               struct sl_comch_statistics *statistics)
{
    struct comch_record record = {.header.type = COMCH_STATISTICS};
    int error = comch_client_call(client, &record, NULL, 0);
    if (error < 0)
        return error;
    *statistics = (struct sl_comch_statistics){
        .io_count = record.statistics.io_count,
        .io_bytes = record.statistics.io_bytes,
        .error_count = record.statistics.error_count,
        .retry_count = record.statistics.retry_count,
        .gateway_injected_count = record.statistics.gateway_injected,
        .targets_injected_count = record.statistics.targets_injected,
    };
    copies_take(&statistics->gateway, &record.statistics.gateway);
    copies_take(&statistics->targets, &record.statistics.targets);
    return 0;
}
