/*
 * Goal: the local channel keeps its life cycle, moves data, and what an initiator does wrong, or
 * its death, ends its own session and nothing else. Method: a gateway over a volume in memory
 * (gateway.h) on one or two reactors; clients as threads and forked processes; raw sockets and raw
 * rings for what the client library would not do.
 */
#include "gateway.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comch/path.h"
#include "fabric/shm/socket.h"

static void memory_open(struct sl_comch_client *client, struct sl_comch_memory *memory)
{
    assert_int_equal(sl_comch_memory_create(65536, false, memory), 0);
    assert_int_equal(sl_comch_client_register(client, memory, true), 0);
    assert_true(memory->id != 0);
}

/* ---- life cycle ---- */

static void test_life_cycle(void **state)
{
    struct test_gateway gateway;
    struct sl_comch_storage storage;
    struct sl_comch_memory memory;
    struct sl_comch_client_queue *queue;
    test_gateway_open(&gateway, 1);
    struct sl_comch_client *client;
    assert_int_equal(sl_comch_client_connect(gateway.path, TIMEOUT_NS, &client), 0);
    assert_int_equal(sl_comch_client_query(client, NO_VOLUME, &storage), -ENOENT);
    assert_int_equal(sl_comch_client_query(client, "", &storage), 0);
    assert_int_equal(storage.capacity_bytes, VOLUME_BYTES);
    assert_int_equal(sl_comch_client_init(client, "", &storage), 0);
    assert_int_equal(sl_comch_client_create_control(client), 0);
    memory_open(client, &memory);
    assert_int_equal(sl_comch_client_queue_create(client, 0, &queue), 0);
    assert_int_equal(sl_comch_client_queue_depth(queue), SL_COMCH_DEPTH_DEFAULT);
    /* Before start: answered, not done. */
    test_submit(queue, SL_IO_WRITE, 1, 0, 4096, &memory, 0);
    assert_int_equal(test_completion(queue).status, SL_STATUS_STATE);
    assert_int_equal(sl_comch_client_start(client), 0);
    memset(memory.base, 0xab, 4096);
    test_submit(queue, SL_IO_WRITE, 7, 8192, 4096, &memory, 0);
    struct sl_io_message completion = test_completion(queue);
    assert_int_equal(completion.status, SL_STATUS_OK);
    assert_int_equal(completion.request_id, 7);
    test_submit(queue, SL_IO_READ, 8, 8192, 4096, &memory, 4096);
    assert_int_equal(test_completion(queue).status, SL_STATUS_OK);
    assert_memory_equal(memory.base, memory.base + 4096, 4096);
    test_submit(queue, SL_IO_READ, 9, VOLUME_BYTES, 4096, &memory, 0);
    assert_int_equal(test_completion(queue).status, SL_STATUS_OUT_OF_RANGE);

    struct sl_comch_statistics statistics;
    assert_int_equal(sl_comch_client_statistics(client, &statistics), 0);
    assert_int_equal(statistics.gateway.bytes[SL_COPY_CLIENT], 11);
    assert_int_equal(statistics.gateway.count[SL_COPY_REASON_COUNT - 1], 12);
    assert_int_equal(statistics.targets.bytes[0], 13);
    assert_int_equal(statistics.retry_count, 17);

    assert_int_equal(sl_comch_client_stop(client), 0);
    test_submit(queue, SL_IO_READ, 10, 0, 4096, &memory, 0);
    assert_int_equal(test_completion(queue).status, SL_STATUS_STATE);
    assert_int_equal(sl_comch_client_start(client), 0);
    test_submit(queue, SL_IO_READ, 11, 0, 4096, &memory, 0);
    assert_int_equal(test_completion(queue).status, SL_STATUS_OK);
    assert_int_equal(sl_comch_client_stop(client), 0);
    assert_int_equal(sl_comch_client_unregister(client, &memory), 0);
    assert_int_equal(sl_comch_client_shutdown(client), 0);
    test_gateway_await_closed(&gateway, 1);
    assert_int_equal(atomic_load(&gateway.last_reason), 0);
    assert_int_equal(gateway.volume[8192], 0xab);
    sl_comch_client_queue_destroy(queue);
    sl_comch_client_close(client);
    sl_comch_memory_destroy(&memory);
    test_gateway_close(&gateway);
}

static int call_type(struct sl_comch_client *client, unsigned type)
{
    struct comch_record record = {.header.type = (uint16_t)type};
    if (type == COMCH_CREATE_RDMA_CONNECTION)
        record.connection.kind = SL_COMCH_CONNECTION_CONTROL;
    return comch_client_call(client, &record, NULL, 0);
}

/* Every request in every state, except register_memory, which needs a descriptor. */
static void test_wrong_order(void **state)
{
    static const unsigned way[] = {0, COMCH_QUERY_STORAGE, COMCH_INIT_STORAGE, COMCH_START_STORAGE,
                                   COMCH_STOP_STORAGE};
    struct test_gateway gateway;
    test_gateway_open(&gateway, 1);
    unsigned sessions = 0;
    for (unsigned at = 0; at < SL_COUNT_OF(way); at++) {
        enum comch_state expected = COMCH_CONNECTED;
        for (unsigned type = 1; type <= COMCH_REQUEST_LAST; type++) {
            struct sl_comch_client *client;
            if (type == COMCH_REGISTER_MEMORY)
                continue;
            assert_int_equal(sl_comch_client_connect(gateway.path, TIMEOUT_NS, &client), 0);
            expected = COMCH_CONNECTED;
            for (unsigned i = 1; i <= at; i++) {
                assert_int_equal(call_type(client, way[i]), 0);
                expected = comch_state_after(expected, way[i]);
            }
            int error = call_type(client, type);
            if (comch_request_allowed(expected, type) < 0)
                assert_int_equal(error, -EBADFD);
            else /* allowed: there is no such memory */
                assert_int_equal(error, type == COMCH_UNREGISTER_MEMORY ? -ENOENT : 0);
            sl_comch_client_close(client);
            sessions++;
        }
        assert_int_equal(expected, at);
    }
    test_gateway_await_closed(&gateway, sessions);
    test_gateway_close(&gateway);
}

/* ---- malformed control messages ---- */

static int raw_open(struct test_gateway *gateway)
{
    int socket = sl_socket_connect(gateway->path);
    assert_true(socket >= 0);
    return socket;
}

/* The answer's status, or -1: hung up without one. */
static int raw_answer(int socket)
{
    struct pollfd entry = {socket, POLLIN, 0};
    struct comch_record answer;
    assert_int_equal(poll(&entry, 1, 10000), 1);
    ssize_t received = recv(socket, &answer, sizeof(answer), 0);
    if (received <= 0)
        return -1;
    assert_int_equal(received, sizeof(answer));
    assert_int_equal(answer.header.type, COMCH_ERROR_RESPONSE);
    assert_int_equal(answer.header.correlation_id, 42);
    return answer.header.status;
}

static void raw_expect(struct test_gateway *gateway, const struct comch_record *record,
                       size_t length, const int *descriptors, unsigned descriptor_count, int status,
                       bool closes)
{
    int socket = raw_open(gateway);
    assert_int_equal(sl_socket_send(socket, record, length, descriptors, descriptor_count), 0);
    assert_int_equal(raw_answer(socket), status);
    struct comch_record sound = {.header = {.magic = COMCH_MAGIC,
                                            .version = COMCH_VERSION,
                                            .type = COMCH_START_STORAGE,
                                            .correlation_id = 42}};
    int error = sl_socket_send(socket, &sound, sizeof(sound), NULL, 0);
    assert_true(error == 0 || closes);
    assert_int_equal(raw_answer(socket), closes ? -1 : (int)SL_STATUS_STATE);
    close(socket);
}

static void test_malformed(void **state)
{
    struct test_gateway gateway;
    test_gateway_open(&gateway, 1);
    const struct comch_record sound = {.header = {.magic = COMCH_MAGIC,
                                                  .version = COMCH_VERSION,
                                                  .type = COMCH_QUERY_STORAGE,
                                                  .correlation_id = 42}};
    int pair[2];
    assert_int_equal(pipe(pair), 0);
    struct comch_record bad = sound;
    bad.header.magic ^= 1;
    raw_expect(&gateway, &bad, sizeof(bad), NULL, 0, SL_STATUS_PROTOCOL, true);
    bad = sound;
    bad.header.version = 9;
    raw_expect(&gateway, &bad, sizeof(bad), NULL, 0, SL_STATUS_VERSION, true);
    bad = sound;
    bad.header.reserved[3] = 1;
    raw_expect(&gateway, &bad, sizeof(bad), NULL, 0, SL_STATUS_PROTOCOL, true);
    bad = sound;
    memset(bad.volume, 'x', sizeof(bad.volume));
    raw_expect(&gateway, &bad, sizeof(bad), NULL, 0, SL_STATUS_PROTOCOL, true);
    /* Short, and with descriptors that nobody asked for. */
    raw_expect(&gateway, &sound, 100, NULL, 0, SL_STATUS_PROTOCOL, true);
    raw_expect(&gateway, &sound, sizeof(sound), pair, 2, SL_STATUS_PROTOCOL, true);
    /* Unknown is not malformed. */
    bad = sound;
    bad.header.type = COMCH_REQUEST_LAST + 1;
    raw_expect(&gateway, &bad, sizeof(bad), NULL, 0, SL_STATUS_UNSUPPORTED, false);
    bad.header.type = 0;
    raw_expect(&gateway, &bad, sizeof(bad), NULL, 0, SL_STATUS_UNSUPPORTED, false);
    /* Longer than any record: hung up. */
    uint8_t huge[1024] = {0};
    int socket = raw_open(&gateway);
    assert_int_equal(sl_socket_send(socket, huge, sizeof(huge), NULL, 0), 0);
    assert_int_equal(raw_answer(socket), -1);
    close(socket);
    close(pair[0]);
    close(pair[1]);
    test_gateway_await_closed(&gateway, 9);
    test_gateway_close(&gateway);
}

static void test_bad_descriptors(void **state)
{
    struct test_gateway gateway;
    struct sl_comch_memory memory;
    test_gateway_open(&gateway, 1);
    struct sl_comch_client *client = test_client_open(&gateway);
    /* Not sealed: it could shrink under the gateway. */
    struct sl_comch_memory bad = {.length_bytes = 8192, .memfd = memfd_create("bad", 2)};
    assert_int_equal(ftruncate(bad.memfd, 8192), 0);
    assert_int_equal(sl_comch_client_register(client, &bad, true), -EINVAL);
    /* Shorter than said; not in whole pages. */
    assert_int_equal(fcntl(bad.memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    bad.length_bytes = 12288;
    assert_int_equal(sl_comch_client_register(client, &bad, true), -EINVAL);
    bad.length_bytes = 100;
    assert_int_equal(sl_comch_client_register(client, &bad, true), -EINVAL);
    bad.length_bytes = 8192;
    assert_int_equal(sl_comch_client_register(client, &bad, true), 0);
    assert_int_equal(sl_comch_client_unregister(client, &bad), 0);
    /* Read-only memory cannot take what is read. */
    assert_int_equal(fcntl(bad.memfd, F_ADD_SEALS, F_SEAL_WRITE), 0);
    assert_int_equal(sl_comch_client_register(client, &bad, true), -EROFS);
    assert_int_equal(sl_comch_client_register(client, &bad, false), 0);
    uint32_t first_id = bad.id;
    /* Ids are not used again, and those alive have slots of their own. */
    memory_open(client, &memory);
    assert_true(memory.id % SL_COMCH_MEMORIES_MAX != first_id % SL_COMCH_MEMORIES_MAX);
    assert_int_equal(sl_comch_client_unregister(client, &bad), 0);
    bad.id = first_id;
    assert_int_equal(sl_comch_client_unregister(client, &bad), -ENOENT);
    assert_int_equal(sl_comch_client_register(client, &bad, false), 0);
    assert_true(bad.id != first_id);
    close(bad.memfd);
    struct sl_comch_client_queue *queue;
    assert_int_equal(sl_comch_client_queue_create(client, DEPTH_MAX + 1, &queue), -EINVAL);
    sl_comch_client_close(client);
    test_gateway_await_closed(&gateway, 1);
    sl_comch_memory_destroy(&memory);
    test_gateway_close(&gateway);
}

/* ---- data queues ---- */

/* What is beyond the agreed depth is answered BUSY; the held I/O completes. */
static void test_more_than_agreed(void **state)
{
    enum { DEPTH = 4, SUBMITTED = 7 };
    struct test_gateway gateway;
    struct sl_comch_memory memory;
    struct sl_comch_client_queue *queue;
    test_gateway_open(&gateway, 1);
    struct sl_comch_client *client = test_client_open(&gateway);
    memory_open(client, &memory);
    assert_int_equal(sl_comch_client_queue_create(client, DEPTH, &queue), 0);
    assert_int_equal(sl_comch_client_start(client), 0);
    atomic_store(&gateway.hold, true);
    for (uint32_t i = 0; i < SUBMITTED; i++)
        test_submit(queue, SL_IO_READ, i, 0, 4096, &memory, 0);
    for (uint32_t i = DEPTH; i < SUBMITTED; i++) {
        struct sl_io_message completion = test_completion(queue);
        assert_int_equal(completion.status, SL_STATUS_BUSY);
        assert_int_equal(completion.request_id, i);
    }
    assert_int_equal(sl_comch_client_queue_wait(queue, 10 * SL_NS_PER_MS), -ETIMEDOUT);
    atomic_store(&gateway.hold, false);
    for (uint32_t i = 0; i < DEPTH; i++)
        assert_int_equal(test_completion(queue).status, SL_STATUS_OK);
    sl_comch_client_queue_destroy(queue);
    sl_comch_client_close(client);
    test_gateway_await_closed(&gateway, 1);
    sl_comch_memory_destroy(&memory);
    test_gateway_close(&gateway);
}

/* An initiator that takes no completions stops its own queue and loses nothing. */
static void test_completions_not_taken(void **state)
{
    enum { DEPTH = 4, TOTAL = 100 };
    struct test_gateway gateway;
    struct sl_comch_memory memory;
    struct sl_comch_client_queue *queue;
    test_gateway_open(&gateway, 1);
    struct sl_comch_client *client = test_client_open(&gateway);
    memory_open(client, &memory);
    assert_int_equal(sl_comch_client_queue_create(client, DEPTH, &queue), 0);
    assert_int_equal(sl_comch_client_start(client), 0);
    uint32_t submitted = 0;
    for (unsigned i = 0; i < 200; i++) {
        struct sl_io_message message = {.opcode = SL_IO_READ, .request_id = submitted};
        submitted += (uint32_t)sl_comch_client_queue_submit(queue, &message, 1);
        usleep(100);
    }
    /* Both rings are full: 8 completions, 8 submissions. */
    assert_int_equal(submitted, 16);
    /* Each is answered once, with its error or BUSY. */
    uint8_t answers[TOTAL + 16] = {0};
    for (uint32_t taken = 0; taken < submitted; taken++) {
        uint32_t request_id = test_completion(queue).request_id;
        assert_true(request_id < submitted);
        assert_int_equal(answers[request_id]++, 0);
        struct sl_io_message message = {.opcode = SL_IO_READ, .request_id = submitted};
        if (submitted < TOTAL)
            submitted += (uint32_t)sl_comch_client_queue_submit(queue, &message, 1);
    }
    assert_int_equal(submitted, TOTAL);
    sl_comch_client_queue_destroy(queue);
    sl_comch_client_close(client);
    test_gateway_await_closed(&gateway, 1);
    sl_comch_memory_destroy(&memory);
    test_gateway_close(&gateway);
}

#define THREAD_IOS   20000u
#define THREAD_DEPTH 32u

struct worker {
    struct sl_comch_client_queue *queue;
    struct sl_comch_memory *memory;
    unsigned index;
    unsigned errors;
};

/* Writes and reads back in a part of the volume of its own, sleeping when there is nothing to do.
 */
static void *worker_run(void *argument)
{
    struct worker *worker = argument;
    uint32_t issued = 0;
    uint32_t done = 0;
    while (done < THREAD_IOS) {
        while (issued < THREAD_IOS && issued - done < THREAD_DEPTH) {
            struct sl_io_message message = {
                .opcode = issued % 2 == 0 ? SL_IO_WRITE : SL_IO_READ,
                .request_id = issued,
                .volume = 77,
                .length_bytes = 512,
                .offset_bytes = (worker->index * 64 + issued % 64) * 512,
                .memory_offset = (worker->index * 64 + issued % 64) * 512,
                .memory_id = worker->memory->id,
            };
            if (sl_comch_client_queue_submit(worker->queue, &message, 1) != 1)
                break;
            issued++;
        }
        struct sl_io_message completions[8];
        int count = sl_comch_client_queue_poll(worker->queue, completions, 8);
        if (count == 0 && sl_comch_client_queue_wait(worker->queue, TIMEOUT_NS) < 0)
            break;
        for (int i = 0; i < count; i++)
            worker->errors += completions[i].status != SL_STATUS_OK;
        done += (uint32_t)sl_max(count, 0);
    }
    worker->errors += done != THREAD_IOS;
    return NULL;
}

static void test_two_queues_two_reactors(void **state)
{
    struct test_gateway gateway;
    struct sl_comch_memory memory;
    struct worker workers[2];
    pthread_t threads[2];
    test_gateway_open(&gateway, 2);
    struct sl_comch_client *client = test_client_open(&gateway);
    memory_open(client, &memory);
    for (unsigned i = 0; i < 2; i++) {
        workers[i] = (struct worker){.memory = &memory, .index = i};
        assert_int_equal(sl_comch_client_queue_create(client, THREAD_DEPTH, &workers[i].queue), 0);
    }
    assert_int_equal(sl_comch_client_start(client), 0);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, worker_run, &workers[i]), 0);
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].errors, 0);
        assert_int_equal(atomic_load(&gateway.received_on[i]), THREAD_IOS);
    }
    assert_int_equal(sl_comch_client_stop(client), 0);
    assert_int_equal(sl_comch_client_shutdown(client), 0);
    test_gateway_await_closed(&gateway, 1);
    for (unsigned i = 0; i < 2; i++)
        sl_comch_client_queue_destroy(workers[i].queue);
    sl_comch_client_close(client);
    sl_comch_memory_destroy(&memory);
    test_gateway_close(&gateway);
}

/* ---- attacks and deaths ---- */

/* A raw queue: its rings are ours to spoil. */
static void raw_queue_open(struct sl_comch_client *client, struct sl_channel *channel,
                           uint32_t depth)
{
    struct sl_channel_layout layout = comch_queue_layout(depth);
    struct comch_record record = {
        .header.type = COMCH_CREATE_RDMA_CONNECTION,
        .connection = {.kind = SL_COMCH_CONNECTION_DATA, .depth = depth},
    };
    int descriptors[SL_CHANNEL_DESCRIPTORS];
    assert_int_equal(sl_channel_create(channel, &layout), 0);
    sl_channel_descriptors(channel, descriptors);
    assert_int_equal(comch_client_call(client, &record, descriptors, SL_CHANNEL_DESCRIPTORS), 0);
}

/* Scribbles until the session ends; the other initiator's I/O goes on all the while. */
static void test_ring_attack(void **state)
{
    struct test_gateway gateway;
    struct sl_comch_memory memory;
    struct sl_comch_client_queue *queue;
    test_gateway_open(&gateway, 1);
    struct sl_comch_client *good = test_client_open(&gateway);
    memory_open(good, &memory);
    assert_int_equal(sl_comch_client_queue_create(good, 8, &queue), 0);
    assert_int_equal(sl_comch_client_start(good), 0);
    srandom(3);
    for (unsigned round = 1; round <= 40; round++) {
        struct sl_comch_client *evil = test_client_open(&gateway);
        struct sl_channel channel;
        raw_queue_open(evil, &channel, 8);
        assert_int_equal(sl_comch_client_start(evil), 0);
        for (unsigned i = 0; i < 50 && sl_comch_client_check(evil) == 0; i++) {
            uint8_t *slots = (uint8_t *)channel.producer.slots;
            slots[(unsigned long)random() % (16 * 64)] = (uint8_t)random();
            struct sl_ring_shared *victim =
                random() % 2 == 0 ? channel.producer.shared : channel.consumer.shared;
            uint32_t wild = random() % 2 == 0 ? (uint32_t)random() % 64 : (uint32_t)random() * 2;
            atomic_store(random() % 2 == 0 ? &victim->tail : &victim->head, wild);
            sl_eventfd_ring(channel.bell_out);
            test_submit(queue, SL_IO_READ, i, 0, 4096, &memory, 0);
            assert_int_equal(test_completion(queue).status, SL_STATUS_OK);
        }
        sl_comch_client_close(evil);
        test_gateway_await_closed(&gateway, round);
        sl_channel_close(&channel);
    }
    assert_int_equal(sl_comch_client_check(good), 0);
    sl_comch_client_queue_destroy(queue);
    sl_comch_client_close(good);
    test_gateway_await_closed(&gateway, 41);
    sl_comch_memory_destroy(&memory);
    test_gateway_close(&gateway);
}

/* A tail out of range ends the session for that reason. */
static void test_wild_tail(void **state)
{
    struct test_gateway gateway;
    struct sl_channel channel;
    test_gateway_open(&gateway, 1);
    struct sl_comch_client *evil = test_client_open(&gateway);
    raw_queue_open(evil, &channel, 8);
    assert_int_equal(sl_comch_client_start(evil), 0);
    atomic_store(&channel.producer.shared->tail, 1000);
    sl_eventfd_ring(channel.bell_out);
    test_gateway_await_closed(&gateway, 1);
    assert_int_equal(atomic_load(&gateway.last_reason), -SL_E_PROTOCOL);
    assert_int_equal(sl_comch_client_check(evil), -ECONNRESET);
    assert_int_equal(sl_comch_client_start(evil), -ECONNRESET);
    sl_comch_client_close(evil);
    sl_channel_close(&channel);
    test_gateway_close(&gateway);
}

/* Killed with I/O under way: the gateway hears of it, and its memory stays until that I/O has
 * ended. */
static void test_killed_initiator(void **state)
{
    struct test_gateway gateway;
    int told[2];
    assert_int_equal(pipe(told), 0);
    pid_t pid = fork(); /* before there are threads */
    assert_true(pid >= 0);
    if (pid == 0) {
        char path[SL_COMCH_PATH_BYTES_MAX];
        struct sl_comch_client *client;
        struct sl_comch_storage storage;
        struct sl_comch_memory memory;
        struct sl_comch_client_queue *queue;
        alarm(60);
        bool ok = read(told[0], path, sizeof(path)) == sizeof(path) &&
                  sl_comch_client_connect(path, TIMEOUT_NS, &client) == 0 &&
                  sl_comch_client_query(client, "", &storage) == 0 &&
                  sl_comch_client_init(client, "", &storage) == 0 &&
                  sl_comch_memory_create(65536, true, &memory) == 0 &&
                  sl_comch_client_register(client, &memory, true) == 0 &&
                  sl_comch_client_queue_create(client, 8, &queue) == 0 &&
                  sl_comch_client_start(client) == 0;
        if (!ok)
            _exit(1);
        for (uint32_t i = 0; i < 5; i++)
            test_submit(queue, SL_IO_READ, i, 0, 4096, &memory, 0);
        for (;;)
            pause();
    }
    test_gateway_open(&gateway, 1);
    atomic_store(&gateway.hold, true);
    assert_int_equal(write(told[1], gateway.path, sizeof(gateway.path)), sizeof(gateway.path));
    for (unsigned i = 0; i < 20000 && atomic_load(&gateway.held) < 5; i++)
        usleep(1000);
    assert_int_equal(atomic_load(&gateway.held), 5);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    usleep(50000);
    assert_int_equal(atomic_load(&gateway.closed_count), 0);
    atomic_store(&gateway.hold, false);
    test_gateway_await_closed(&gateway, 1);
    assert_int_equal(atomic_load(&gateway.outstanding_when_closed), 5);
    assert_int_equal(atomic_load(&gateway.last_reason), -ECONNRESET);
    close(told[0]);
    close(told[1]);
    test_gateway_close(&gateway);
}

static void test_gateway_goes(void **state)
{
    struct test_gateway gateway;
    struct sl_comch_client_queue *queue;
    test_gateway_open(&gateway, 2);
    struct sl_comch_client *client = test_client_open(&gateway);
    assert_int_equal(sl_comch_client_queue_create(client, 8, &queue), 0);
    assert_int_equal(sl_comch_client_start(client), 0);
    assert_int_equal(sl_comch_client_check(client), 0);
    char path[SL_COMCH_PATH_BYTES_MAX];
    strcpy(path, gateway.path);
    test_gateway_close(&gateway);
    assert_int_equal(atomic_load(&gateway.last_reason), -ECANCELED);
    assert_int_equal(sl_comch_client_check(client), -ECONNRESET);
    assert_int_equal(sl_comch_client_queue_wait(queue, TIMEOUT_NS), -ECONNRESET);
    assert_int_equal(sl_comch_client_stop(client), -ECONNRESET);
    sl_comch_client_queue_destroy(queue);
    sl_comch_client_close(client);
    assert_int_equal(sl_comch_client_connect(path, TIMEOUT_NS, &client), -ENOENT);
}

/* ---- names ---- */

static const struct sl_comch_handlers no_handlers;

struct second {
    struct test_gateway *gateway;
    const char *path;
    struct sl_comch_server *server;
};

static int64_t second_open_co(void *argument)
{
    struct second *second = argument;
    return sl_comch_server_open(second->gateway->io[0], second->path, &no_handlers, NULL,
                                &second->server);
}

static int64_t second_close_co(void *argument)
{
    sl_comch_server_close_co(((struct second *)argument)->server);
    return 0;
}

static void test_name_in_use(void **state)
{
    struct test_gateway gateway;
    char path[SL_COMCH_PATH_BYTES_MAX];
    test_gateway_open(&gateway, 1);
    struct second second = {&gateway, gateway.path, NULL};
    assert_int_equal(test_gateway_call(&gateway, second_open_co, &second), -EADDRINUSE);
    /* The first still answers. */
    sl_comch_client_close(test_client_open(&gateway));
    /* A socket of a server that died without a word is replaced. */
    assert_int_equal(sl_comch_path("stale", true, path), 0);
    int stale = sl_socket_listen(path);
    assert_true(stale >= 0);
    second.path = path;
    assert_int_equal(test_gateway_call(&gateway, second_open_co, &second), -EADDRINUSE);
    close(stale);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(test_gateway_call(&gateway, second_open_co, &second), 0);
    (void)test_gateway_call(&gateway, second_close_co, &second);
    /* Something that is no socket is left alone. */
    int file = open(path, O_CREAT | O_WRONLY, 0600);
    close(file);
    assert_int_equal(test_gateway_call(&gateway, second_open_co, &second), -EADDRINUSE);
    assert_int_equal(unlink(path), 0);
    test_gateway_close(&gateway);
}

static void test_paths(void **state)
{
    char path[SL_COMCH_PATH_BYTES_MAX];
    char directory[] = "/tmp/sluice-path-XXXXXX";
    char expected[SL_COMCH_PATH_BYTES_MAX];
    static const char *const bad[] = {"", ".", "..", ".hidden", "a/b", "a b", "x\n", "\xc3\xa4"};
    for (unsigned i = 0; i < SL_COUNT_OF(bad); i++)
        assert_int_equal(sl_comch_path(bad[i], false, path), -EINVAL);
    char name[66];
    memset(name, 'n', sizeof(name));
    name[65] = '\0';
    assert_int_equal(sl_comch_path(name, false, path), -EINVAL);
    assert_non_null(mkdtemp(directory));
    setenv("SLUICE_RUNTIME_DIR", directory, 1);
    assert_int_equal(sl_comch_path("A-1_b.c", true, path), 0);
    snprintf(expected, sizeof(expected), "%s/A-1_b.c.comch", directory);
    assert_string_equal(path, expected);
    assert_int_equal(rmdir(directory), 0);
    /* It is made if it is not there, but not its parents. */
    assert_int_equal(sl_comch_path("a", true, path), 0);
    assert_int_equal(rmdir(directory), 0);
    setenv("SLUICE_RUNTIME_DIR", "/nonexistent/below", 1);
    assert_int_equal(sl_comch_path("a", true, path), -ENOENT);
    assert_int_equal(sl_comch_path("a", false, path), 0);
    char longer[120];
    memset(longer, 'd', sizeof(longer));
    longer[0] = '/';
    longer[100] = '\0';
    setenv("SLUICE_RUNTIME_DIR", longer, 1);
    assert_int_equal(sl_comch_path("a-long-name", false, path), -ENAMETOOLONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed_initiator),
        cmocka_unit_test(test_life_cycle),
        cmocka_unit_test(test_wrong_order),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_bad_descriptors),
        cmocka_unit_test(test_more_than_agreed),
        cmocka_unit_test(test_completions_not_taken),
        cmocka_unit_test(test_two_queues_two_reactors),
        cmocka_unit_test(test_ring_attack),
        cmocka_unit_test(test_wild_tail),
        cmocka_unit_test(test_gateway_goes),
        cmocka_unit_test(test_name_in_use),
        cmocka_unit_test(test_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
