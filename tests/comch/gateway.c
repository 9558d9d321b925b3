/* The tests' gateway; gateway.h. */
#include "gateway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "comch/path.h"
#include "io/uring/uring.h"

#define VOLUME_HANDLE 77u

struct test_queue {
    struct test_session *session;
    unsigned reactor_index;
    struct sl_comch_queue *comch;
};

struct test_io {
    struct test_queue *queue;
    struct sl_io_message message;
};

/* ---- I/O ---- */

static enum sl_status io_do(const struct test_session *session, const struct sl_io_message *message)
{
    unsigned slot = message->memory_id % SL_COMCH_MEMORIES_MAX;
    uint64_t length = session->memories[slot].length_bytes;
    if (message->volume != VOLUME_HANDLE)
        return SL_STATUS_INVALID;
    if (message->length_bytes > VOLUME_BYTES ||
        message->offset_bytes > VOLUME_BYTES - message->length_bytes)
        return SL_STATUS_OUT_OF_RANGE;
    if (message->memory_id == 0 || session->memories[slot].id != message->memory_id ||
        message->memory_offset > length || message->length_bytes > length - message->memory_offset)
        return SL_STATUS_KEY;
    uint8_t *theirs = session->memories[slot].base + message->memory_offset;
    uint8_t *ours = session->gateway->volume + message->offset_bytes;
    if (message->opcode == SL_IO_WRITE)
        memcpy(ours, theirs, message->length_bytes);
    else if (message->opcode == SL_IO_READ && session->memories[slot].writable)
        memcpy(theirs, ours, message->length_bytes);
    else
        return SL_STATUS_UNSUPPORTED;
    return SL_STATUS_OK;
}

static void io_run_co(void *argument)
{
    struct test_io *io = argument;
    struct test_gateway *gateway = io->queue->session->gateway;
    if (atomic_load(&gateway->hold)) {
        atomic_fetch_add(&gateway->held, 1);
        while (atomic_load(&gateway->hold))
            sl_sleep_co(SL_NS_PER_MS);
        atomic_fetch_sub(&gateway->held, 1);
    }
    sl_comch_queue_complete(io->queue->comch, io->message.request_id,
                            io_do(io->queue->session, &io->message));
    free(io);
}

static void received(void *owner, struct sl_comch_queue *comch, const struct sl_io_message *message)
{
    struct test_queue *queue = owner;
    struct test_gateway *gateway = queue->session->gateway;
    struct test_io *io = malloc(sizeof(*io));
    SL_ASSERT(io != NULL && sl_reactor_self() == gateway->reactor[queue->reactor_index]);
    queue->comch = comch;
    *io = (struct test_io){queue, *message};
    atomic_fetch_add(&gateway->received_on[queue->reactor_index], 1);
    SL_ASSERT(sl_co_spawn(sl_reactor_self(), io_run_co, io) == 0);
}

/* ---- control ---- */

static void connected(void *server_owner, struct sl_comch_session *comch)
{
    struct test_gateway *gateway = server_owner;
    struct test_session *session = calloc(1, sizeof(*session));
    SL_ASSERT(session != NULL);
    session->gateway = gateway;
    session->session = comch;
    atomic_fetch_add(&gateway->session_count, 1);
    sl_comch_session_set_owner(comch, session);
}

static int query_co(void *owner, struct sl_comch_session *comch, const char *volume,
                    struct sl_comch_storage *storage)
{
    struct test_session *session = owner;
    if (strcmp(volume, NO_VOLUME) == 0)
        return -ENOENT;
    *storage = (struct sl_comch_storage){
        .capacity_bytes = VOLUME_BYTES,
        .block_bytes = SL_BLOCK_BYTES,
        .transfer_bytes_max = 65536,
        .queue_count_max = session->gateway->reactor_count,
        .depth_max = DEPTH_MAX,
    };
    return 0;
}

static int init_co(void *owner, struct sl_comch_session *comch, const char *volume,
                   struct sl_comch_storage *storage)
{
    int error = query_co(owner, comch, volume, storage);
    storage->volume = VOLUME_HANDLE;
    sl_yield_co();
    return error;
}

static int create_connection_co(void *owner, struct sl_comch_session *comch,
                                enum sl_comch_connection_kind kind, uint32_t queue_index,
                                uint32_t depth, struct sl_comch_queue_config *config)
{
    struct test_session *session = owner;
    struct test_gateway *gateway = session->gateway;
    if (kind == SL_COMCH_CONNECTION_CONTROL)
        return config == NULL ? 0 : -EINVAL;
    SL_ASSERT(queue_index == session->queue_count);
    struct test_queue *queue = calloc(1, sizeof(*queue));
    SL_ASSERT(queue != NULL);
    queue->session = session;
    queue->reactor_index = queue_index % gateway->reactor_count;
    session->queues[session->queue_count++] = queue;
    *config = (struct sl_comch_queue_config){gateway->io[queue->reactor_index], queue, received};
    return 0;
}

static int start_co(void *owner, struct sl_comch_session *comch)
{
    return 0;
}

/* Reads what another reactor owns; good enough to wait for a number that only falls. */
static unsigned outstanding(const struct test_session *session)
{
    unsigned count = 0;
    for (unsigned i = 0; i < session->queue_count; i++) {
        if (session->queues[i]->comch != NULL)
            count += sl_comch_queue_outstanding(session->queues[i]->comch);
    }
    return count;
}

static void drain_co(struct test_session *session)
{
    /* With one reactor only: what is held belongs to it. */
    while (session->gateway->reactor_count == 1 && outstanding(session) > 0)
        sl_sleep_co(SL_NS_PER_MS);
}

static int stop_co(void *owner, struct sl_comch_session *comch)
{
    drain_co(owner);
    return 0;
}

static int register_co(void *owner, struct sl_comch_session *comch, uint32_t memory_id, int memfd,
                       uint64_t length_bytes, bool writable)
{
    struct test_session *session = owner;
    unsigned slot = memory_id % SL_COMCH_MEMORIES_MAX;
    SL_ASSERT(memory_id != 0 && session->memories[slot].id == 0);
    void *base =
        mmap(NULL, length_bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, memfd, 0);
    if (base == MAP_FAILED)
        return -errno;
    session->memories[slot].id = memory_id;
    session->memories[slot].base = base;
    session->memories[slot].length_bytes = length_bytes;
    session->memories[slot].writable = writable;
    return 0;
}

static int unregister_co(void *owner, struct sl_comch_session *comch, uint32_t memory_id)
{
    struct test_session *session = owner;
    unsigned slot = memory_id % SL_COMCH_MEMORIES_MAX;
    SL_ASSERT(session->memories[slot].id == memory_id);
    munmap(session->memories[slot].base, session->memories[slot].length_bytes);
    session->memories[slot].id = 0;
    return 0;
}

static int statistics_co(void *owner, struct sl_comch_session *comch,
                         struct sl_comch_statistics *statistics)
{
    statistics->gateway.bytes[SL_COPY_CLIENT] = 11;
    statistics->gateway.count[SL_COPY_REASON_COUNT - 1] = 12;
    statistics->targets.bytes[0] = 13;
    statistics->io_count = 14;
    statistics->io_bytes = 15;
    statistics->error_count = 16;
    statistics->retry_count = 17;
    return 0;
}

static void closed_co(void *owner, struct sl_comch_session *comch, int reason)
{
    struct test_session *session = owner;
    struct test_gateway *gateway = session->gateway;
    if (gateway->reactor_count == 1)
        atomic_store(&gateway->outstanding_when_closed, outstanding(session));
    drain_co(session);
    for (unsigned i = 0; i < SL_COMCH_MEMORIES_MAX; i++) {
        if (session->memories[i].id != 0)
            (void)unregister_co(session, comch, session->memories[i].id);
    }
    for (unsigned i = 0; i < session->queue_count; i++)
        free(session->queues[i]);
    free(session);
    atomic_store(&gateway->last_reason, reason);
    atomic_fetch_sub(&gateway->session_count, 1);
    atomic_fetch_add(&gateway->closed_count, 1);
}

static const struct sl_comch_handlers handlers = {
    .connected = connected,
    .query_storage_co = query_co,
    .init_storage_co = init_co,
    .create_connection_co = create_connection_co,
    .start_storage_co = start_co,
    .stop_storage_co = stop_co,
    .register_memory_co = register_co,
    .unregister_memory_co = unregister_co,
    .statistics_co = statistics_co,
    .closed_co = closed_co,
};

/* ---- the frame ---- */

struct call {
    struct sl_mail mail;
    struct sl_reactor *reactor;
    int64_t (*function_co)(void *argument);
    void *argument;
    int64_t result;
    atomic_bool done;
};

static void call_run_co(void *argument)
{
    struct call *call = argument;
    call->result = call->function_co(call->argument);
    atomic_store(&call->done, true);
}

static void call_deliver(struct sl_mail *mail)
{
    struct call *call = sl_container_of(mail, struct call, mail);
    SL_ASSERT(sl_co_spawn(call->reactor, call_run_co, call) == 0);
}

int64_t test_gateway_call(struct test_gateway *gateway, int64_t (*function_co)(void *argument),
                          void *argument)
{
    struct call call = {.mail.deliver = call_deliver,
                        .reactor = gateway->reactor[0],
                        .function_co = function_co,
                        .argument = argument};
    sl_reactor_post(gateway->reactor[0], &call.mail);
    while (!atomic_load(&call.done))
        usleep(100);
    return call.result;
}

static void *reactor_thread(void *argument)
{
    sl_reactor_run(argument);
    return NULL;
}

static int64_t server_open_co(void *argument)
{
    struct test_gateway *gateway = argument;
    return sl_comch_server_open(gateway->io[0], gateway->path, &handlers, gateway,
                                &gateway->server);
}

static int64_t server_close_co(void *argument)
{
    sl_comch_server_close_co(((struct test_gateway *)argument)->server);
    return 0;
}

void test_gateway_open(struct test_gateway *gateway, unsigned reactor_count)
{
    *gateway = (struct test_gateway){.reactor_count = reactor_count};
    strcpy(gateway->directory, "/tmp/sluice-comch-XXXXXX");
    assert_non_null(mkdtemp(gateway->directory));
    setenv("SLUICE_RUNTIME_DIR", gateway->directory, 1);
    assert_int_equal(sl_comch_path("test", true, gateway->path), 0);
    gateway->volume = calloc(1, VOLUME_BYTES);
    assert_non_null(gateway->volume);
    for (unsigned i = 0; i < reactor_count; i++) {
        struct sl_uring_config uring = {.entries = 256};
        struct sl_reactor_config reactor = {.index = i, .cpu = -1, .spin_ns = 20000};
        assert_int_equal(sl_uring_create(&uring, &gateway->io[i]), 0);
        assert_int_equal(
            sl_reactor_create(&reactor, sl_io_engine(gateway->io[i]), &gateway->reactor[i]), 0);
        sl_io_bind(gateway->io[i], gateway->reactor[i]);
        assert_int_equal(
            pthread_create(&gateway->thread[i], NULL, reactor_thread, gateway->reactor[i]), 0);
    }
    assert_int_equal(test_gateway_call(gateway, server_open_co, gateway), 0);
}

void test_gateway_close(struct test_gateway *gateway)
{
    atomic_store(&gateway->hold, false);
    (void)test_gateway_call(gateway, server_close_co, gateway);
    for (unsigned i = 0; i < gateway->reactor_count; i++) {
        sl_reactor_stop(gateway->reactor[i]);
        pthread_join(gateway->thread[i], NULL);
    }
    /* Only when no thread can still be ringing another. */
    for (unsigned i = 0; i < gateway->reactor_count; i++) {
        sl_reactor_destroy(gateway->reactor[i]);
        sl_io_destroy(gateway->io[i]);
    }
    free(gateway->volume);
    /* Nothing is left behind: neither socket nor lock. */
    assert_int_equal(rmdir(gateway->directory), 0);
}

void test_gateway_await_closed(struct test_gateway *gateway, unsigned count)
{
    for (unsigned i = 0; i < 20000 && atomic_load(&gateway->closed_count) < count; i++)
        usleep(1000);
    assert_int_equal(atomic_load(&gateway->closed_count), count);
}

struct sl_comch_client *test_client_open(struct test_gateway *gateway)
{
    struct sl_comch_client *client;
    struct sl_comch_storage storage;
    assert_int_equal(sl_comch_client_connect(gateway->path, TIMEOUT_NS, &client), 0);
    assert_int_equal(sl_comch_client_query(client, "", &storage), 0);
    assert_int_equal(sl_comch_client_init(client, "", &storage), 0);
    assert_int_equal(storage.volume, VOLUME_HANDLE);
    assert_int_equal(storage.depth_max, DEPTH_MAX);
    return client;
}

struct sl_io_message test_completion(struct sl_comch_client_queue *queue)
{
    struct sl_io_message message;
    int count;
    while ((count = sl_comch_client_queue_poll(queue, &message, 1)) == 0)
        assert_int_equal(sl_comch_client_queue_wait(queue, TIMEOUT_NS), 0);
    assert_int_equal(count, 1);
    return message;
}

void test_submit(struct sl_comch_client_queue *queue, enum sl_io_opcode opcode, uint32_t request_id,
                 uint64_t offset_bytes, uint32_t length_bytes, const struct sl_comch_memory *memory,
                 uint64_t memory_offset)
{
    struct sl_io_message message = {
        .opcode = (uint8_t)opcode,
        .request_id = request_id,
        .volume = VOLUME_HANDLE,
        .length_bytes = length_bytes,
        .offset_bytes = offset_bytes,
        .memory_offset = memory_offset,
        .memory_id = memory == NULL ? 0 : memory->id,
    };
    assert_int_equal(sl_comch_client_queue_submit(queue, &message, 1), 1);
}
