/*
 * Goal: what the ofi link meets that is not as it should be: names that mean nothing, strangers and
 * other versions at its listener, other links at its peer, keys of another domain, memory that goes
 * while it is written to. Each ends, with a clear error, and harms nobody else.
 * Method: two reactors in one thread over libfabric's tcp provider; a raw libfabric endpoint and
 * raw sockets for the strangers. What every link must do is in conformance_test.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "conformance.h"
#include "core/error.h"
#include "fabric/ofi/internal.h"
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

static const struct conformance_link ofi = {"ofi+tcp",
                                            &sl_ofi_link_ops,
                                            true,
                                            .device = "+tcp",
                                            .sends_wait = true,
                                            .silent_refusal = true,
                                            .misreads_ends = true,
                                            .addresses = addresses,
                                            .io_create = uring_create};
static const struct conformance_link own_tcp = {"tcp", &sl_tcp_link_ops, true,
                                                .addresses = addresses, .io_create = uring_create};

#define ALL_ACCESS (SL_ACCESS_REMOTE_READ | SL_ACCESS_REMOTE_WRITE)

static void open_world(struct conformance_world *world)
{
    conformance_world_open(world, &ofi, TWO_REACTORS, ALL_ACCESS, ALL_ACCESS);
}

/* Still good for others. */
static void check_works(struct conformance_world *world)
{
    struct conformance_end a, b;
    conformance_pair_open(world, &a, &b);
    struct conformance_op *receive = conformance_op_new(&b, SL_LINK_RECEIVE, 0, 4096);
    struct conformance_op *send = conformance_op_new(&a, SL_LINK_SEND, 64, 4096);
    conformance_post_one(receive);
    conformance_post_one(send);
    conformance_await_done(receive);
    assert_int_equal(receive->op.payload_bytes, 4096);
    conformance_pair_close(&a, &b);
}

/* ---- names ---- */

static void test_names(void **state)
{
    static const char *const good[][2] = {
        {"ofi+tcp", "+tcp"},
        {"ofi+tcp:lo", "+tcp:lo"},
        {"ofi+tcp:127.0.0.1", "+tcp:127.0.0.1"},
        {"ofi:lo", "lo"},
    };
    static const char *const bad[] = {"ofi:mlx5_9", "ofi+roce", "ofi+tcp:192.0.2.77", "ofi+net"};
    const struct sl_link_ops *link;
    char device[64], error[512];
    for (unsigned i = 0; i < SL_COUNT_OF(good); i++) {
        assert_int_equal(
            sl_link_resolve_device(good[i][0], &link, device, sizeof(device), error, sizeof(error)),
            0);
        assert_ptr_equal(link, &sl_ofi_link_ops);
        assert_string_equal(device, good[i][1]);
        char host[64];
        assert_int_equal(sl_link_device_host(link, device, host, sizeof(host)), 0);
        assert_string_equal(host, "127.0.0.1");
    }
    for (unsigned i = 0; i < SL_COUNT_OF(bad); i++) {
        assert_int_equal(
            sl_link_resolve_device(bad[i], &link, device, sizeof(device), error, sizeof(error)),
            -ENODEV);
        /* It says what there is. */
        assert_non_null(strstr(error, "ofi+tcp:lo (127.0.0.1)"));
    }
}

/* Libraries that libfabric brings along take signals as they are loaded: ours are still there. */
static unsigned changed_signal_count;

static const char *load_watched(void)
{
    static const int watched[] = {SIGINT, SIGILL, SIGABRT, SIGBUS, SIGSEGV, SIGTERM};
    struct sigaction before[SL_COUNT_OF(watched)], after;
    const char *why;
    for (unsigned i = 0; i < SL_COUNT_OF(watched); i++)
        sigaction(watched[i], NULL, &before[i]);
    const char *version = sl_ofi_library_version(&why);
    for (unsigned i = 0; i < SL_COUNT_OF(watched); i++) {
        sigaction(watched[i], NULL, &after);
        changed_signal_count += after.sa_handler != before[i].sa_handler;
    }
    if (*version == '\0')
        printf("skipped: libfabric cannot be loaded: %s\n", why);
    return version;
}

static void test_signals(void **state)
{
    assert_int_equal(changed_signal_count, 0);
}

/* ---- strangers ---- */

static int raw_connect(const char *address)
{
    struct sl_address peer;
    assert_int_equal(sl_address_resolve(address, &peer, 1), 1);
    int handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(handle >= 0);
    assert_int_equal(connect(handle, (struct sockaddr *)&peer.storage, peer.length), 0);
    return handle;
}

/* Garbage, half a header, and nothing at all. */
static void test_strangers(void **state)
{
    static const size_t lengths[] = {600, 7, 0};
    struct conformance_world world;
    struct conformance_server server;
    uint8_t garbage[600];
    int handles[SL_COUNT_OF(lengths)];
    open_world(&world);
    conformance_server_open(&server, &world.nodes[1]);
    conformance_pattern_fill(garbage, sizeof(garbage), 5);
    for (unsigned i = 0; i < SL_COUNT_OF(lengths); i++) {
        handles[i] = raw_connect(server.address);
        assert_int_equal(send(handles[i], garbage, lengths[i], MSG_NOSIGNAL), lengths[i]);
    }
    conformance_run_ms(&world, 50);
    assert_int_equal(server.incoming_count, 0);
    check_works(&world);
    for (unsigned i = 0; i < SL_COUNT_OF(lengths); i++)
        close(handles[i]);
    conformance_server_close(&server);
    check_works(&world);
    conformance_world_close(&world);
}

/* The two ends have different links: who connects ends within its time. */
static void test_other_link(void **state)
{
    static const struct conformance_link *const pairs[][2] = {{&ofi, &own_tcp}, {&own_tcp, &ofi}};
    for (unsigned i = 0; i < 2; i++) {
        struct conformance_world worlds[2];
        struct conformance_server server;
        struct conformance_end end = {0};
        for (unsigned k = 0; k < 2; k++)
            conformance_world_open(&worlds[k], pairs[i][k], TWO_THREADS, ALL_ACCESS, ALL_ACCESS);
        conformance_server_open(&server, &worlds[1].nodes[0]);
        conformance_connect(&end, &worlds[0].nodes[0], server.address, NULL, 2000);
        assert_true(conformance_await_closed(&end) < 0);
        assert_int_equal(end.connected_count, 0);
        assert_int_equal(server.incoming_count, 0);
        conformance_end_free(&end);
        conformance_server_close(&server);
        for (unsigned k = 0; k < 2; k++)
            conformance_world_close(&worlds[k]);
    }
}

/* ---- versions ---- */

struct raw {
    struct ofi_domain *domain;
    const char *address;
    struct ofi_preamble preamble;
    struct fid_ep *ep;
    struct fid_eq *eq;
    struct fid_cq *cq;
};

/* An endpoint of its own beside the domain's connections, with a preamble of the test's. */
static void raw_open_on(void *argument)
{
    struct raw *raw = argument;
    struct fi_eq_attr eq = {.wait_obj = FI_WAIT_FD};
    struct fi_cq_attr cq = {.format = FI_CQ_FORMAT_CONTEXT, .wait_obj = FI_WAIT_FD};
    struct sl_address peer;
    SL_ASSERT(sl_address_resolve(raw->address, &peer, 1) == 1);
    struct fi_info *info = raw->domain->library->dupinfo(raw->domain->info);
    info->dest_addr = malloc(peer.length);
    memcpy(info->dest_addr, &peer.storage, peer.length);
    info->dest_addrlen = peer.length;
    SL_ASSERT(fi_eq_open(raw->domain->fabric, &eq, &raw->eq, NULL) == 0);
    SL_ASSERT(fi_cq_open(raw->domain->domain, &cq, &raw->cq, NULL) == 0);
    SL_ASSERT(fi_endpoint(raw->domain->domain, info, &raw->ep, NULL) == 0);
    SL_ASSERT(fi_ep_bind(raw->ep, &raw->eq->fid, 0) == 0);
    SL_ASSERT(fi_ep_bind(raw->ep, &raw->cq->fid, FI_TRANSMIT | FI_RECV) == 0);
    SL_ASSERT(fi_enable(raw->ep) == 0);
    SL_ASSERT(fi_connect(raw->ep, &peer.storage, &raw->preamble, sizeof(raw->preamble)) == 0);
    raw->domain->library->freeinfo(info);
}

/* Refused, and told which version would have been right. */
static bool raw_is_refused(void *argument)
{
    struct raw *raw = argument;
    struct fi_eq_cm_entry entry;
    struct fi_eq_err_entry error = {0};
    uint32_t event;
    if (fi_eq_read(raw->eq, &event, &entry, sizeof(entry), 0) != -FI_EAVAIL)
        return false;
    SL_ASSERT(fi_eq_readerr(raw->eq, &error, 0) > 0 && error.err == FI_ECONNREFUSED);
    struct ofi_preamble answer = {0};
    SL_ASSERT(error.err_data_size >= OFI_ANSWER_BYTES);
    memcpy(&answer, error.err_data, OFI_ANSWER_BYTES);
    SL_ASSERT(answer.magic == OFI_MAGIC && answer.version == OFI_VERSION);
    SL_ASSERT(answer.reason == OFI_REASON_VERSION);
    return true;
}

static void raw_close_on(void *argument)
{
    struct raw *raw = argument;
    fi_close(&raw->ep->fid);
    fi_close(&raw->cq->fid);
    fi_close(&raw->eq->fid);
}

static void test_other_version(void **state)
{
    static const struct ofi_preamble preambles[] = {
        {.magic = OFI_MAGIC, .version = OFI_VERSION + 1},
        {.magic = OFI_MAGIC, .version = 0},
        {.magic = 12345, .version = OFI_VERSION},
    };
    struct conformance_world world;
    struct conformance_server server;
    open_world(&world);
    conformance_server_open(&server, &world.nodes[1]);
    for (unsigned i = 0; i < SL_COUNT_OF(preambles); i++) {
        struct raw raw = {.domain = ofi_domain_of(world.nodes[0].domain),
                          .address = server.address,
                          .preamble = preambles[i]};
        conformance_call(&world.nodes[0], raw_open_on, &raw);
        conformance_await(&world.nodes[0], raw_is_refused, &raw);
        conformance_call(&world.nodes[0], raw_close_on, &raw);
    }
    assert_int_equal(server.incoming_count, 0);
    conformance_server_close(&server);
    check_works(&world);
    conformance_world_close(&world);
}

/* ---- memory ---- */

struct foreign {
    struct conformance_node *node;
    struct sl_link_domain *other; /* another domain over the same memory */
    struct sl_region *region;
    struct sl_remote_piece piece, other_piece;
    int error;
};

#define FOREIGN_BYTES (4u << 20)

static void foreign_open_on(void *argument)
{
    struct foreign *foreign = argument;
    struct conformance_node *node = foreign->node;
    struct sl_link_domain_config config = {.io = node->io,
                                           .memory = node->memory,
                                           .device = "+tcp",
                                           .arena_access = ALL_ACCESS,
                                           .foreign_access = ALL_ACCESS};
    int memfd = memfd_create("ofi-test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    SL_ASSERT(memfd >= 0 && ftruncate(memfd, FOREIGN_BYTES) == 0);
    SL_ASSERT(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    SL_ASSERT(sl_region_map_foreign(sl_memory_regions(node->memory), memfd, 0, FOREIGN_BYTES, true,
                                    &foreign->region) == 0);
    foreign->error = sl_ofi_link_ops.domain_open(&config, &foreign->other);
    if (foreign->error == 0)
        foreign->error =
            sl_ofi_link_ops.describe(foreign->other, foreign->region, foreign->region->base,
                                     FOREIGN_BYTES, &foreign->other_piece);
    if (foreign->error == 0)
        foreign->error = sl_ofi_link_ops.describe(
            node->domain, foreign->region, foreign->region->base, FOREIGN_BYTES, &foreign->piece);
}

static void foreign_remove_on(void *argument)
{
    struct foreign *foreign = argument;
    sl_region_remove(foreign->region);
}

static void foreign_close_on(void *argument)
{
    struct foreign *foreign = argument;
    sl_ofi_link_ops.domain_close(foreign->other);
}

static struct conformance_op *write_at(struct conformance_end *end,
                                       const struct sl_remote_piece *to, uint32_t offset,
                                       uint32_t length_bytes)
{
    struct conformance_op *op = conformance_op_new(end, SL_LINK_WRITE, 0, length_bytes);
    op->op.remote = *to;
    op->op.remote.address += offset;
    op->op.remote.length_bytes = length_bytes;
    return op;
}

/* A key of the same memory, but of another domain, is worth nothing here. */
static void test_key_of_another_domain(void **state)
{
    struct conformance_world world;
    struct conformance_end a, b;
    open_world(&world);
    struct foreign foreign = {.node = &world.nodes[1]};
    conformance_call(foreign.node, foreign_open_on, &foreign);
    assert_int_equal(foreign.error, 0);
    assert_true(foreign.piece.key != foreign.other_piece.key);
    conformance_pair_open(&world, &a, &b);
    struct conformance_op *good = write_at(&a, &foreign.piece, 0, 4096);
    conformance_pattern_fill(good->buf->data, 4096, 1);
    conformance_post_one(good);
    conformance_await_done(good);
    assert_int_equal(good->op.status, 0);
    struct conformance_op *bad = write_at(&a, &foreign.other_piece, 8192, 4096);
    memset(bad->buf->data, 0xbb, 4096);
    conformance_post_one(bad);
    assert_true(conformance_await_closed(&a) < 0);
    assert_true(conformance_await_closed(&b) < 0);
    assert_true(conformance_pattern_is(foreign.region->base, 4096, 1));
    assert_int_equal(foreign.region->base[8192], 0);
    conformance_end_free(&a);
    conformance_end_free(&b);
    conformance_call(foreign.node, foreign_remove_on, &foreign);
    conformance_call(foreign.node, foreign_close_on, &foreign);
    check_works(&world);
    conformance_world_close(&world);
}

static void post_if_open_on(void *argument)
{
    struct conformance_op *op = argument;
    if (op->end->closed_count == 0)
        conformance_op_post(op);
}

/* Memory goes while a peer writes to it: what was under way may land, since its pages stay until
 * the connection has gone; what comes later ends the connection. */
static void test_region_goes(void **state)
{
    enum { WRITES = 300, BYTES = 65536 };
    for (unsigned round = 0; round < 5; round++) {
        struct conformance_world world;
        struct conformance_end a, b;
        struct conformance_op *ops[WRITES];
        conformance_world_open(&world, &ofi, TWO_THREADS, ALL_ACCESS, ALL_ACCESS);
        struct foreign foreign = {.node = &world.nodes[1]};
        conformance_call(foreign.node, foreign_open_on, &foreign);
        assert_int_equal(foreign.error, 0);
        conformance_pair_open(&world, &a, &b);
        for (unsigned i = 0; i < WRITES; i++)
            ops[i] = write_at(&a, &foreign.piece, i % 64 * BYTES, BYTES);
        struct conformance_op *late = write_at(&a, &foreign.piece, 0, 4096);
        conformance_post(ops, WRITES);
        usleep(round * 1000);
        conformance_call(foreign.node, foreign_remove_on, &foreign);
        conformance_call(a.node, post_if_open_on, late);
        assert_true(conformance_await_closed(&a) < 0);
        assert_true(conformance_await_closed(&b) < 0);
        conformance_end_free(&a);
        conformance_end_free(&b);
        conformance_call(foreign.node, foreign_close_on, &foreign);
        check_works(&world);
        conformance_world_close(&world);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),         cmocka_unit_test(test_signals),
        cmocka_unit_test(test_strangers),     cmocka_unit_test(test_other_link),
        cmocka_unit_test(test_other_version), cmocka_unit_test(test_key_of_another_domain),
        cmocka_unit_test(test_region_goes),
    };
    if (*load_watched() == '\0')
        return 77;
    return cmocka_run_group_tests_name("ofi", tests, NULL, NULL);
}
