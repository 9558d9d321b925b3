/*
 * Goal: the tcp link survives any peer: what breaks a rule ends that connection, with its reason,
 * and nothing else. Method: a raw socket speaks to a listener of the link (a reactor in a thread of
 * its own), byte by byte. Frames come from the link's own builder and are then spoilt. And the
 * frame parsers by themselves: round trip, every bit flipped, every length cut.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "conformance.h"
#include "core/crc32c.h"
#include "core/error.h"
#include "fabric/tcp/frame.h"
#include "fabric/tcp/tcp.h"
#include "io/uring/uring.h"

static int uring_create(struct conformance_node *node)
{
    struct sl_uring_config config = {.entries = 256};
    return sl_uring_create(&config, &node->io);
}

static void addresses(char *listen, char *nobody)
{
    snprintf(listen, SL_ADDRESS_BYTES_MAX, "127.0.0.1:0");
    snprintf(nobody, SL_ADDRESS_BYTES_MAX, "127.0.0.1:1");
}

static const struct conformance_link tcp = {"tcp", &sl_tcp_link_ops, true, .addresses = addresses,
                                            .io_create = uring_create};

static struct conformance_world world;
static struct conformance_server server;
static _Alignas(8) uint8_t frame[SL_TCP_FRAME_BYTES_MAX];

static int world_open(void **state)
{
    conformance_world_open(&world, &tcp, TWO_THREADS,
                           SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE, 0);
    conformance_server_open(&server, &world.nodes[1]);
    return 0;
}

static int world_close(void **state)
{
    conformance_server_close(&server);
    conformance_world_close(&world);
    return 0;
}

/* ---- the raw peer ---- */

static int raw_connect(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    const char *colon = strrchr(server.address, ':');
    assert_non_null(colon);
    address.sin_port = htons((uint16_t)atoi(colon + 1));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int handle = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval limit = {.tv_sec = 8};
    assert_int_equal(setsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    assert_int_equal(connect(handle, (struct sockaddr *)&address, sizeof(address)), 0);
    return handle;
}

static void raw_send(int handle, const void *bytes, size_t length_bytes)
{
    assert_int_equal(send(handle, bytes, length_bytes, MSG_NOSIGNAL), length_bytes);
}

/* A thread whose ring has work to do is interrupted in its system calls. */
static ssize_t raw_receive(int handle, void *bytes, size_t length_bytes)
{
    ssize_t received;
    do
        received = recv(handle, bytes, length_bytes, MSG_WAITALL);
    while (received < 0 && errno == EINTR);
    return received;
}

/* The link closed it: end of stream or reset, not our time-out. */
static void raw_expect_end(int handle)
{
    uint8_t byte;
    ssize_t received = raw_receive(handle, &byte, 1);
    if (received != 0 && (received > 0 || errno != ECONNRESET))
        fail_msg("recv answered %zd, errno %d", received, errno);
    close(handle);
}

static void raw_send_preamble(int handle, enum sl_tcp_preamble_type type)
{
    struct sl_tcp_preamble preamble;
    sl_tcp_preamble_build(&preamble, type, SL_TCP_REASON_NONE, NULL);
    raw_send(handle, &preamble, sizeof(preamble));
}

/* Connected, with `receive_count` receives posted at the link's end. */
static int raw_open(struct conformance_end *end, unsigned receive_count)
{
    struct sl_tcp_preamble preamble;
    const char *why;
    uint8_t bytes[sizeof(preamble)];
    int handle = raw_connect();
    raw_send_preamble(handle, SL_TCP_PREAMBLE_REQUEST);
    *end = (struct conformance_end){.node = &world.nodes[1]};
    for (unsigned i = 0; i < receive_count; i++)
        conformance_op_new(end, SL_LINK_RECEIVE, 0, 4096);
    conformance_accept(end, &world.nodes[1], conformance_server_take(&server));
    conformance_await_connected(end);
    assert_int_equal(raw_receive(handle, bytes, sizeof(bytes)), sizeof(bytes));
    assert_int_equal(sl_tcp_preamble_parse(bytes, &preamble, &why), 0);
    assert_int_equal(preamble.type, SL_TCP_PREAMBLE_ACCEPTED);
    return handle;
}

/* The link says CLOSE with `reason`, then ends; its end closed with the same. */
static void expect_close(int handle, struct conformance_end *end, enum sl_tcp_reason reason)
{
    _Alignas(8) uint8_t bytes[SL_TCP_HEAD_BYTES];
    struct sl_tcp_header header;
    struct sl_tcp_record record;
    const char *why = "";
    assert_int_equal(raw_receive(handle, bytes, sizeof(bytes)), sizeof(bytes));
    assert_int_equal(sl_tcp_header_parse(bytes, 0, &header, &why), 0);
    assert_int_equal(header.record_count, 1);
    assert_int_equal(sl_tcp_frame_parse(bytes, &header, &record, &why), 0);
    assert_int_equal(record.type, SL_TCP_CLOSE);
    assert_int_equal(record.reason, reason);
    raw_expect_end(handle);
    conformance_await_closed(end);
    conformance_end_free(end);
}

/* ---- preambles ---- */

static void test_strangers(void **state)
{
    unsigned before = server.incoming_count;
    int handle = raw_connect();
    raw_send(handle, "GET / HTTP/1.1\r\nHost: somewhere.else.example\r\nAccept: */*\r\n\r\n\r\n",
             64);
    raw_expect_end(handle);
    handle = raw_connect();
    raw_send_preamble(handle, SL_TCP_PREAMBLE_ACCEPTED); /* not a request */
    raw_expect_end(handle);
    handle = raw_connect();
    raw_send(handle, "SLTP", 4);
    shutdown(handle, SHUT_WR);
    raw_expect_end(handle);
    assert_int_equal(server.incoming_count, before);
}

static void test_other_version(void **state)
{
    struct sl_tcp_preamble preamble;
    const char *why;
    sl_tcp_preamble_build(&preamble, SL_TCP_PREAMBLE_REQUEST, SL_TCP_REASON_NONE, NULL);
    preamble.version = 2;
    int handle = raw_connect();
    raw_send(handle, &preamble, sizeof(preamble));
    uint8_t bytes[sizeof(preamble)];
    assert_int_equal(raw_receive(handle, bytes, sizeof(bytes)), sizeof(bytes));
    assert_int_equal(sl_tcp_preamble_parse(bytes, &preamble, &why), 0);
    assert_int_equal(preamble.type, SL_TCP_PREAMBLE_REJECTED);
    assert_int_equal(preamble.reason, SL_TCP_REASON_VERSION);
    raw_expect_end(handle);
}

/* Sockets that never speak are closed after the handshake's time, and do not keep others out. */
static void test_silent_sockets(void **state)
{
    int silent[10];
    for (unsigned i = 0; i < 10; i++)
        silent[i] = raw_connect();
    struct conformance_end end;
    int handle = raw_open(&end, 0);
    close(handle);
    assert_int_equal(conformance_await_closed(&end), -ECONNRESET);
    conformance_end_free(&end);
    for (unsigned i = 0; i < 10; i++)
        raw_expect_end(silent[i]);
}

/* ---- frames ---- */

enum spoil {
    BAD_MAGIC,
    NO_RECORDS,
    TOO_MANY_RECORDS,
    AREA_TOO_SHORT,
    AREA_TOO_LONG,
    PAYLOAD_TOO_LONG,
    FLAGS,
    SEQUENCE,
    BAD_CRC,
    RECORD_TYPE,
    CAPSULE_TOO_LONG,
    RECORD_PAYLOAD,
    TRAILING_BYTES,
    REASON_OF_SEND,
    SPOIL_COUNT,
};

static void spoil_frame(enum spoil spoil)
{
    struct sl_tcp_header header;
    memcpy(&header, frame, sizeof(header));
    struct sl_tcp_wire_record *record = (void *)(frame + SL_TCP_HEADER_BYTES);
    if (spoil == BAD_MAGIC)
        header.magic++;
    if (spoil == NO_RECORDS)
        header.record_count = 0;
    if (spoil == TOO_MANY_RECORDS)
        header.record_count = SL_TCP_RECORDS_MAX + 1;
    if (spoil == AREA_TOO_SHORT)
        header.area_bytes = SL_TCP_AREA_BYTES_MIN - 8;
    if (spoil == AREA_TOO_LONG)
        header.area_bytes = UINT32_MAX - 7;
    if (spoil == PAYLOAD_TOO_LONG)
        header.payload_bytes = UINT32_MAX;
    if (spoil == FLAGS)
        header.flags = 1;
    if (spoil == SEQUENCE)
        header.sequence++;
    if (spoil == RECORD_TYPE)
        record->type = 9;
    if (spoil == CAPSULE_TOO_LONG)
        record->capsule_bytes = 0xffff;
    if (spoil == RECORD_PAYLOAD)
        record->length_bytes = 4096;
    if (spoil == TRAILING_BYTES)
        frame[SL_TCP_HEAD_BYTES - 1] = 1;
    if (spoil == REASON_OF_SEND)
        record->reason = 1;
    header.crc = 0;
    memcpy(frame, &header, sizeof(header));
    header.crc = sl_crc32c(0, frame, SL_TCP_HEAD_BYTES);
    if (spoil == BAD_CRC)
        header.crc++;
    memcpy(frame, &header, sizeof(header));
}

static void test_spoilt_frames(void **state)
{
    static const uint8_t capsule[64] = "capsule";
    for (unsigned spoil = 0; spoil < SPOIL_COUNT; spoil++) {
        struct conformance_end end;
        struct sl_tcp_builder builder;
        int handle = raw_open(&end, 4);
        sl_tcp_builder_begin(&builder, frame);
        sl_tcp_builder_add_send(&builder, capsule, sizeof(capsule), 0);
        assert_int_equal(sl_tcp_builder_finish(&builder, 0), SL_TCP_HEAD_BYTES);
        spoil_frame(spoil);
        raw_send(handle, frame, SL_TCP_HEAD_BYTES);
        expect_close(handle, &end, SL_TCP_REASON_PROTOCOL);
        assert_int_equal(end.reason, spoil == BAD_CRC ? -SL_E_CHECKSUM : -SL_E_PROTOCOL);
    }
}

/* Sends the frame, alone, on a new connection with one receive of 4 KiB. */
static void expect_refused(struct sl_tcp_builder *builder, enum sl_tcp_reason reason)
{
    struct conformance_end end;
    int handle = raw_open(&end, 1);
    uint32_t head_bytes = sl_tcp_builder_finish(builder, 0);
    raw_send(handle, frame, head_bytes);
    expect_close(handle, &end, reason);
}

static void test_broken_rules(void **state)
{
    static const uint8_t capsule[SL_CAPSULE_BYTES_MAX] = "capsule";
    struct sl_tcp_builder builder;
    sl_tcp_builder_begin(&builder, frame);
    sl_tcp_builder_add_read_response(&builder, 0, 0);
    expect_refused(&builder, SL_TCP_REASON_PROTOCOL); /* never asked for */
    sl_tcp_builder_begin(&builder, frame);
    sl_tcp_builder_add_send(&builder, capsule, 64, 4097);
    expect_refused(&builder, SL_TCP_REASON_PROTOCOL); /* longer than the receive */
    sl_tcp_builder_begin(&builder, frame);
    sl_tcp_builder_add_send(&builder, capsule, 64, 0);
    sl_tcp_builder_add_send(&builder, capsule, 64, 0);
    expect_refused(&builder, SL_TCP_REASON_PROTOCOL); /* no second receive */
    sl_tcp_builder_begin(&builder, frame);
    sl_tcp_builder_add_read_request(&builder, 0, 1, 4096, 7);
    expect_refused(&builder, SL_TCP_REASON_PROTOCOL); /* not the first id */
    sl_tcp_builder_begin(&builder, frame);
    sl_tcp_builder_add_write(&builder, 0, UINT64_MAX, 4096);
    expect_refused(&builder, SL_TCP_REASON_KEY);
    sl_tcp_builder_begin(&builder, frame);
    for (unsigned i = 0; i < SL_TCP_RECORDS_MAX; i++)
        sl_tcp_builder_add_read_request(&builder, 0, 0, SL_TRANSFER_BYTES_MAX, i);
    expect_refused(&builder, SL_TCP_REASON_KEY);
}

/* READs that are asked for and never fetched: bounded, and the connection ends. */
static void test_greedy_reader(void **state)
{
    struct conformance_target target;
    struct conformance_end end;
    struct sl_tcp_builder builder;
    conformance_target_open(&target, &world.nodes[1], SL_TRANSFER_BYTES_MAX);
    int handle = raw_open(&end, 0);
    uint64_t id = 0;
    for (unsigned i = 0; i < 40; i++) {
        sl_tcp_builder_begin(&builder, frame);
        for (unsigned k = 0; k < SL_TCP_RECORDS_MAX; k++)
            sl_tcp_builder_add_read_request(&builder, target.piece.address, target.piece.key,
                                            SL_TRANSFER_BYTES_MAX, id++);
        uint32_t head_bytes = sl_tcp_builder_finish(&builder, i);
        if (send(handle, frame, head_bytes, MSG_NOSIGNAL) != (ssize_t)head_bytes)
            break;
    }
    /* Nothing is read here, so its CLOSE waits for its time-out of 1 s. */
    assert_int_equal(conformance_await_closed(&end), -SL_E_PROTOCOL);
    conformance_end_free(&end);
    close(handle);
    conformance_target_close(&target);
}

/* A frame that comes byte by byte is delivered; the next one ends in the middle of its payload. */
static void test_trickle(void **state)
{
    struct conformance_end end;
    struct sl_tcp_builder builder;
    uint8_t capsule[256], payload[4096];
    conformance_pattern_fill(capsule, sizeof(capsule), 1);
    conformance_pattern_fill(payload, sizeof(payload), 2);
    int handle = raw_open(&end, 4);
    for (unsigned i = 0; i < 2; i++) {
        sl_tcp_builder_begin(&builder, frame);
        sl_tcp_builder_add_send(&builder, capsule, 251, 700);
        sl_tcp_builder_add_send(&builder, capsule, 33, 9);
        uint32_t head_bytes = sl_tcp_builder_finish(&builder, i);
        for (uint32_t k = 0; k < head_bytes; k++)
            raw_send(handle, frame + k, 1);
        for (uint32_t k = 0; k < (i == 0 ? 709 : 705); k++)
            raw_send(handle, payload + k, 1);
    }
    shutdown(handle, SHUT_WR);
    assert_int_equal(conformance_await_closed(&end), -ECONNRESET);
    assert_int_equal(end.ops[0]->op.status, 0);
    assert_int_equal(end.ops[0]->op.capsule_bytes, 251);
    assert_int_equal(end.ops[0]->op.payload_bytes, 700);
    assert_memory_equal(end.ops[0]->buf->data, payload, 700);
    assert_int_equal(end.ops[1]->op.status, 0);
    assert_memory_equal(end.ops[1]->buf->data, payload + 700, 9);
    assert_memory_equal(end.ops[1]->capsule, capsule, 33);
    assert_int_equal(end.ops[2]->op.status, -ECONNRESET);
    assert_int_equal(end.ops[3]->op.status, -ECONNRESET);
    conformance_end_free(&end);
    close(handle);
}

/* ---- the parsers alone ---- */

static uint32_t build_all(void)
{
    uint8_t capsule[SL_CAPSULE_BYTES_MAX];
    struct sl_tcp_builder builder;
    conformance_pattern_fill(capsule, sizeof(capsule), 4);
    sl_tcp_builder_begin(&builder, frame);
    sl_tcp_builder_add_write(&builder, 11, 12, 13);
    sl_tcp_builder_add_send(&builder, capsule, 255, 14);
    sl_tcp_builder_add_read_request(&builder, 15, 16, 17, 18);
    sl_tcp_builder_add_read_response(&builder, 19, 20);
    sl_tcp_builder_add_close(&builder, SL_TCP_REASON_KEY, 21);
    return sl_tcp_builder_finish(&builder, 5);
}

static int parse(struct sl_tcp_header *header, struct sl_tcp_record *records)
{
    const char *why = NULL;
    int error = sl_tcp_header_parse(frame, 5, header, &why);
    if (error == 0 && header->area_bytes > sizeof(frame) - SL_TCP_HEADER_BYTES)
        return -EFAULT;
    if (error == 0)
        error = sl_tcp_frame_parse(frame, header, records, &why);
    assert_true(error == 0 || why != NULL);
    return error;
}

static void test_round_trip_and_bit_flips(void **state)
{
    struct sl_tcp_header header;
    struct sl_tcp_record records[SL_TCP_RECORDS_MAX];
    uint32_t frame_bytes = build_all();
    assert_int_equal(parse(&header, records), 0);
    assert_int_equal(header.record_count, 5);
    assert_int_equal(header.payload_bytes, 13 + 14 + 20);
    assert_int_equal(records[0].address, 11);
    assert_int_equal(records[0].key, 12);
    assert_int_equal(records[1].capsule_bytes, 255);
    assert_true(conformance_pattern_is(records[1].capsule, 255, 4));
    assert_int_equal(records[2].length_bytes, 17);
    assert_int_equal(records[2].id, 18);
    assert_int_equal(records[3].id, 19);
    assert_int_equal(records[4].reason, SL_TCP_REASON_KEY);
    for (uint32_t bit = 0; bit < frame_bytes * 8; bit++) {
        frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(parse(&header, records) < 0);
        frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(parse(&header, records), 0);
}

/* ---- names of devices ---- */

static void test_devices(void **state)
{
    static const char *const good[][3] = {
        {"tcp", "tcp", ""},  {"tcp:lo", "tcp", "lo"},
        {"lo", "tcp", "lo"}, {"127.0.0.1", "tcp", "127.0.0.1"},
        {"shm", "shm", ""},  {"tcp:127.0.0.1", "tcp", "127.0.0.1"},
    };
    static const char *const bad[] = {"", "mlx5_0", "tcp:nowhere0", "192.0.2.77", "rdma:lo", ":"};
    const struct sl_link_ops *link;
    char device[64], error[512];
    for (unsigned i = 0; i < SL_COUNT_OF(good); i++) {
        assert_int_equal(
            sl_link_resolve_device(good[i][0], &link, device, sizeof(device), error, sizeof(error)),
            0);
        assert_string_equal(link->name, good[i][1]);
        assert_string_equal(device, good[i][2]);
    }
    for (unsigned i = 0; i < SL_COUNT_OF(bad); i++) {
        assert_int_equal(
            sl_link_resolve_device(bad[i], &link, device, sizeof(device), error, sizeof(error)),
            -ENODEV);
        assert_non_null(strstr(error, "lo (127.0.0.1)"));
        assert_non_null(strstr(error, "tcp"));
    }
    assert_null(sl_link_find("rdma"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip_and_bit_flips),
        cmocka_unit_test(test_devices),
        cmocka_unit_test_setup_teardown(test_strangers, world_open, world_close),
        cmocka_unit_test_setup_teardown(test_other_version, world_open, world_close),
        cmocka_unit_test_setup_teardown(test_silent_sockets, world_open, world_close),
        cmocka_unit_test_setup_teardown(test_spoilt_frames, world_open, world_close),
        cmocka_unit_test_setup_teardown(test_broken_rules, world_open, world_close),
        cmocka_unit_test_setup_teardown(test_greedy_reader, world_open, world_close),
        cmocka_unit_test_setup_teardown(test_trickle, world_open, world_close),
    };
    return cmocka_run_group_tests_name("tcp", tests, NULL, NULL);
}
