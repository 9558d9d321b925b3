/*
 * Goal: streams deliver every byte in order, end when they should, and say why when they fail.
 * Method: pairs over TCP (IPv4, IPv6) and Unix sockets in one reactor, random gather and scatter
 * lists in both directions at once, with and without zero copy; each way of ending, refusal and
 * time-out.
 */
#include "harness.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define PAIR_BYTES  (8 * SL_MIB)
#define CHUNK_BYTES (256 * SL_KIB)

static char directory[] = "./sl-io-stream-XXXXXX";

struct pair {
    struct sl_stream *ends[2];
};

struct acceptor {
    struct world *world;
    struct sl_listener *listener;
    struct sl_stream *stream;
    int result;
    char peer[SL_ADDRESS_BYTES_MAX];
};

static void acceptor_co(void *argument)
{
    struct acceptor *acceptor = argument;
    acceptor->result = sl_listener_accept_co(acceptor->listener, acceptor->peer, &acceptor->stream);
    world_leave(acceptor->world);
}

static void pair_make_co(struct world *world, const char *address, struct pair *pair)
{
    char bound[SL_ADDRESS_BYTES_MAX];
    struct acceptor acceptor = {.world = world};
    assert_int_equal(sl_listener_open(world->io, address, bound, &acceptor.listener), 0);
    world_spawn(world, acceptor_co, &acceptor);
    assert_int_equal(sl_stream_connect_co(world->io, bound,
                                          world_deadline_ns(world, SL_NS_PER_S * 5),
                                          &pair->ends[0]),
                     0);
    world_join_co(world);
    assert_int_equal(acceptor.result, 0);
    assert_true(acceptor.peer[0] != '\0');
    pair->ends[1] = acceptor.stream;
    sl_listener_close(acceptor.listener);
}

static void pair_close(struct pair *pair)
{
    sl_stream_close(pair->ends[0]);
    sl_stream_close(pair->ends[1]);
}

/* ---- data both ways ---- */

struct flow {
    struct world *world;
    struct sl_stream *stream;
    uint64_t seed;
    bool zero_copy;
    int error;
};

/* Cuts [data, data + length) into up to `limit` random pieces. */
static unsigned cut(uint8_t *data, size_t length, struct iovec *pieces, unsigned limit,
                    uint64_t *random)
{
    unsigned count = 0;
    while (length > 0) {
        size_t size = count + 1 == limit ? length : 1 + test_random(random) % length;
        pieces[count++] = (struct iovec){data, size};
        data += size;
        length -= size;
    }
    return count;
}

static void flow_send_co(void *argument)
{
    struct flow *flow = argument;
    uint8_t *data = malloc(CHUNK_BYTES);
    struct iovec *pieces = calloc(SL_STREAM_PIECES_MAX, sizeof(*pieces));
    uint64_t random = flow->seed;
    for (uint64_t sent = 0; sent < PAIR_BYTES && flow->error == 0;) {
        size_t length = 1 + test_random(&random) % CHUNK_BYTES;
        length = sl_min(length, PAIR_BYTES - sent);
        pattern_fill(data, length, sent, flow->seed);
        unsigned count =
            cut(data, length, pieces, 1 + test_random(&random) % SL_STREAM_PIECES_MAX, &random);
        flow->error = sl_stream_send_co(flow->stream, pieces, count, flow->zero_copy);
        /* The pages are ours again: spoiling them must not reach the peer. */
        memset(data, 0xEE, length);
        sent += length;
    }
    free(pieces);
    free(data);
    world_leave(flow->world);
}

static void flow_receive_co(void *argument)
{
    struct flow *flow = argument;
    uint8_t *data = malloc(CHUNK_BYTES);
    struct iovec *pieces = calloc(SL_STREAM_PIECES_MAX, sizeof(*pieces));
    uint64_t random = flow->seed + 1000;
    for (uint64_t received = 0; received < PAIR_BYTES && flow->error == 0;) {
        size_t length = 1 + test_random(&random) % CHUNK_BYTES;
        unsigned count = cut(data, length, pieces, 1 + test_random(&random) % 8, &random);
        int64_t got = sl_stream_receive_co(flow->stream, pieces, count);
        if (got <= 0 || !pattern_check(data, (size_t)got, received, flow->seed))
            flow->error = got < 0 ? (int)got : -EBADMSG;
        received += got > 0 ? (uint64_t)got : 0;
    }
    free(pieces);
    free(data);
    world_leave(flow->world);
}

static void flows_co(struct world *world, const char *address, bool zero_copy)
{
    struct pair pair;
    pair_make_co(world, address, &pair);
    struct flow flows[4] = {
        {world, pair.ends[0], 5, zero_copy, 0},
        {world, pair.ends[1], 5, zero_copy, 0},
        {world, pair.ends[1], 6, zero_copy, 0},
        {world, pair.ends[0], 6, zero_copy, 0},
    };
    for (unsigned i = 0; i < 4; i++)
        world_spawn(world, i % 2 == 0 ? flow_send_co : flow_receive_co, &flows[i]);
    world_join_co(world);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(flows[i].error, 0);
    pair_close(&pair);
}

static bool has_ipv6(void)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int handle = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool found = handle >= 0 && bind(handle, (struct sockaddr *)&address, sizeof(address)) == 0;
    if (handle >= 0)
        close(handle);
    return found;
}

static void data_main_co(struct world *world)
{
    char unix_address[96];
    snprintf(unix_address, sizeof(unix_address), "unix:%s/data", directory);
    flows_co(world, "127.0.0.1:0", false);
    flows_co(world, "127.0.0.1:0", true);
    flows_co(world, unix_address, false);
    flows_co(world, unix_address, true); /* refused by the kernel: goes the ordinary way */
    flows_co(world, "localhost:0", false);
    if (has_ipv6())
        flows_co(world, "[::1]:0", true);
}

static void test_data(void **state)
{
    struct world world;
    world_create(&world, 0);
    world_run(&world, data_main_co, NULL);
    world_destroy(&world);
}

/* ---- ends ---- */

struct ending {
    struct world *world;
    struct sl_stream *stream;
    bool zero_copy;
    int64_t result;
    bool over;
};

static void ending_receive_co(void *argument)
{
    struct ending *ending = argument;
    char byte;
    ending->result = sl_stream_receive_co(ending->stream, &(struct iovec){&byte, 1}, 1);
    ending->over = true;
    world_leave(ending->world);
}

/* Sends until it fails: nobody reads. */
static void ending_send_co(void *argument)
{
    struct ending *ending = argument;
    uint8_t *data = calloc(1, SL_MIB);
    ending->result = 0;
    while (ending->result == 0)
        ending->result =
            sl_stream_send_co(ending->stream, &(struct iovec){data, SL_MIB}, 1, ending->zero_copy);
    ending->over = true;
    free(data);
    world_leave(ending->world);
}

static void ends_co(struct world *world, const char *address, bool zero_copy)
{
    struct pair pair;
    char data[16] = {0};
    struct iovec piece = {data, sizeof(data)};

    /* Shut down while receiving and while sending. */
    pair_make_co(world, address, &pair);
    struct ending receiver = {.world = world, .stream = pair.ends[0]};
    struct ending sender = {.world = world, .stream = pair.ends[0], .zero_copy = zero_copy};
    world_spawn(world, ending_receive_co, &receiver);
    world_spawn(world, ending_send_co, &sender);
    sl_sleep_co(50 * SL_NS_PER_MS);
    assert_false(receiver.over);
    assert_false(sender.over);
    sl_stream_shutdown(pair.ends[0]);
    world_join_co(world);
    assert_true(receiver.result <= 0);
    assert_true(sender.result < 0);
    /* And what comes later. */
    assert_true(sl_stream_receive_co(pair.ends[0], &piece, 1) <= 0);
    assert_true(sl_stream_send_co(pair.ends[0], &piece, 1, zero_copy) < 0);
    sl_stream_shutdown(pair.ends[0]);
    pair_close(&pair);

    /* The peer closes: what it sent arrives, then the end; sending fails soon, without a signal. */
    pair_make_co(world, address, &pair);
    assert_int_equal(sl_stream_send_co(pair.ends[0], &piece, 1, false), 0);
    sl_stream_close(pair.ends[0]);
    assert_int_equal(sl_stream_receive_co(pair.ends[1], &piece, 1), sizeof(data));
    assert_int_equal(sl_stream_receive_co(pair.ends[1], &piece, 1), 0);
    int error = 0;
    for (unsigned i = 0; i < 100 && error == 0; i++) {
        error = sl_stream_send_co(pair.ends[1], &piece, 1, zero_copy);
        sl_sleep_co(SL_NS_PER_MS);
    }
    assert_true(error == -EPIPE || error == -ECONNRESET);
    sl_stream_close(pair.ends[1]);
}

static void ends_main_co(struct world *world)
{
    char unix_address[96];
    snprintf(unix_address, sizeof(unix_address), "unix:%s/ends", directory);
    ends_co(world, "127.0.0.1:0", false);
    ends_co(world, "127.0.0.1:0", true);
    ends_co(world, unix_address, false);
}

static void test_ends(void **state)
{
    struct world world;
    world_create(&world, 0);
    world_run(&world, ends_main_co, NULL);
    world_destroy(&world);
}

/* ---- connecting ---- */

/* A socket that listens and lets nobody in: its queue is full. */
static int full_listener(char *address, int *fillers, unsigned filler_count)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(name);
    int handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(handle, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(listen(handle, 0), 0);
    assert_int_equal(getsockname(handle, (struct sockaddr *)&name, &length), 0);
    for (unsigned i = 0; i < filler_count; i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        (void)connect(fillers[i], (struct sockaddr *)&name, sizeof(name));
    }
    snprintf(address, SL_ADDRESS_BYTES_MAX, "127.0.0.1:%u", ntohs(name.sin_port));
    return handle;
}

static void connect_main_co(struct world *world)
{
    struct sl_stream *stream = NULL;
    struct sl_listener *listener = NULL;
    char bound[SL_ADDRESS_BYTES_MAX];
    char unix_address[96];

    /* Refused: a port that was free a moment ago, and a socket file that is not there. */
    assert_int_equal(sl_listener_open(world->io, "127.0.0.1:0", bound, &listener), 0);
    sl_listener_close(listener);
    uint64_t deadline_ns = world_deadline_ns(world, 5 * SL_NS_PER_S);
    assert_int_equal(sl_stream_connect_co(world->io, bound, deadline_ns, &stream), -ECONNREFUSED);
    snprintf(unix_address, sizeof(unix_address), "unix:%s/none", directory);
    assert_int_equal(sl_stream_connect_co(world->io, unix_address, deadline_ns, &stream), -ENOENT);

    int fillers[4];
    int full = full_listener(bound, fillers, SL_COUNT_OF(fillers));
    sl_sleep_co(20 * SL_NS_PER_MS);
    deadline_ns = world_deadline_ns(world, 100 * SL_NS_PER_MS);
    assert_int_equal(sl_stream_connect_co(world->io, bound, deadline_ns, &stream), -ETIMEDOUT);
    assert_true(sl_reactor_clock_ns(world->reactor) >= deadline_ns);
    close(full);
    for (unsigned i = 0; i < SL_COUNT_OF(fillers); i++)
        close(fillers[i]);

    static const char *const bad[] = {
        "",       ":",          "1.2.3.4",        "1.2.3.4:", "1.2.3.4:65536",
        "::1:80", "[::1]80",    "[::1:80",        "[]:80",    "1.2.3.4:80x",
        "unix:",  "1.2.3.4:-1", "1.2.3.4:999999", ":80",      "1.2.3.4: 80",
    };
    for (unsigned i = 0; i < SL_COUNT_OF(bad); i++) {
        assert_int_equal(sl_stream_connect_co(world->io, bad[i], UINT64_MAX, &stream), -EINVAL);
        assert_int_equal(sl_listener_open(world->io, bad[i], bound, &listener), -EINVAL);
    }
    char text[400] = "unix:/";
    memset(text + 6, 'x', sizeof(text) - 7);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(sl_listener_open(world->io, text, bound, &listener), -EINVAL);
    snprintf(text + 200, 8, ":80");
    assert_int_equal(sl_listener_open(world->io, text + 6, bound, &listener) < 0, true);
}

static void test_connect(void **state)
{
    struct world world;
    world_create(&world, 0);
    world_run(&world, connect_main_co, NULL);
    world_destroy(&world);
}

/* ---- listeners ---- */

static void listeners_main_co(struct world *world)
{
    struct sl_listener *first = NULL;
    struct sl_listener *second = NULL;
    char bound[SL_ADDRESS_BYTES_MAX];
    char path[80];
    char unix_address[96];
    struct stat status;

    assert_int_equal(sl_listener_open(world->io, "127.0.0.1:0", bound, &first), 0);
    assert_int_equal(sl_listener_open(world->io, bound, NULL, &second), -EADDRINUSE);
    /* Two accepts wait, a third comes too late. */
    struct acceptor acceptors[3] = {{world, first}, {world, first}, {world, first}};
    world_spawn(world, acceptor_co, &acceptors[0]);
    world_spawn(world, acceptor_co, &acceptors[1]);
    sl_sleep_co(5 * SL_NS_PER_MS);
    sl_listener_shutdown(first);
    world_spawn(world, acceptor_co, &acceptors[2]);
    world_join_co(world);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(acceptors[i].result, -ECANCELED);
    sl_listener_close(first);
    assert_int_equal(sl_listener_open(world->io, bound, NULL, &first), 0);
    sl_listener_close(first);

    snprintf(path, sizeof(path), "%s/listener", directory);
    snprintf(unix_address, sizeof(unix_address), "unix:%s", path);
    /* A dead process's socket file is replaced, a live one's is not, and a file of another kind
     * never. */
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    snprintf(name.sun_path, sizeof(name.sun_path), "%s", path);
    int dead = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(dead, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(listen(dead, 1), 0);
    assert_int_equal(sl_listener_open(world->io, unix_address, bound, &first), -EADDRINUSE);
    close(dead);
    assert_int_equal(sl_listener_open(world->io, unix_address, bound, &first), 0);
    assert_string_equal(bound, unix_address);
    assert_int_equal(sl_listener_open(world->io, unix_address, bound, &second), -EADDRINUSE);
    struct acceptor acceptor = {world, first};
    world_spawn(world, acceptor_co, &acceptor);
    sl_sleep_co(5 * SL_NS_PER_MS);
    sl_listener_shutdown(first);
    world_join_co(world);
    assert_int_equal(acceptor.result, -ECANCELED);
    sl_listener_close(first);
    assert_int_equal(lstat(path, &status), -1);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_int_equal(sl_listener_open(world->io, unix_address, bound, &first), -EADDRINUSE);
    assert_int_equal(unlink(path), 0);
    snprintf(unix_address, sizeof(unix_address), "unix:%s/no/such", directory);
    assert_int_equal(sl_listener_open(world->io, unix_address, bound, &first), -ENOENT);
}

static void test_listeners(void **state)
{
    struct world world;
    world_create(&world, 0);
    world_run(&world, listeners_main_co, NULL);
    world_destroy(&world);
}

/* ---- from one owner to another ---- */

static void adopt_main_co(struct world *world)
{
    int handles[2];
    char data[4] = "abc";
    struct iovec piece = {data, sizeof(data)};
    struct sl_stream *streams[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, handles),
                     0);
    assert_int_equal(sl_stream_adopt(world->io, handles[0], &streams[0]), 0);
    assert_int_equal(sl_stream_adopt(world->io, handles[1], &streams[1]), 0);
    assert_int_equal(sl_stream_adopt(world->io, 9999, &streams[1]), -EBADF);
    struct ending receiver = {.world = world, .stream = streams[1]};
    world_spawn(world, ending_receive_co, &receiver);
    sl_sleep_co(2 * SL_NS_PER_MS);
    assert_false(receiver.over); /* waits, though the socket came in non-blocking mode */
    assert_int_equal(sl_stream_send_co(streams[0], &piece, 1, false), 0);
    world_join_co(world);
    assert_int_equal(receiver.result, 1);
    int handle = sl_stream_detach(streams[1]);
    assert_int_equal(handle, handles[1]);
    assert_int_equal(sl_stream_adopt(world->io, handle, &streams[1]), 0);
    assert_int_equal(sl_stream_receive_co(streams[1], &piece, 1), 3);
    assert_memory_equal(data, "bc", 3);
    sl_stream_close(streams[0]);
    sl_stream_close(streams[1]);
}

static void test_adopt(void **state)
{
    struct world world;
    world_create(&world, 0);
    world_run(&world, adopt_main_co, NULL);
    world_destroy(&world);
}

static void congestion_of(struct sl_stream *stream, char *name, socklen_t name_bytes)
{
    int handle = sl_stream_detach(stream);
    memset(name, 0, name_bytes);
    assert_int_equal(getsockopt(handle, IPPROTO_TCP, TCP_CONGESTION, name, &name_bytes), 0);
    close(handle);
}

/* Both ends of a connection within the host do without pacing, whatever the host's default. */
static void congestion_main_co(struct world *world)
{
    static const char *const addresses[] = {"127.0.0.1:0", "[::1]:0"};
    for (unsigned i = 0; i < SL_COUNT_OF(addresses); i++) {
        struct pair pair;
        char names[2][17];
        pair_make_co(world, addresses[i], &pair);
        for (unsigned end = 0; end < 2; end++) {
            congestion_of(pair.ends[end], names[end], sizeof(names[end]) - 1);
            assert_string_equal(names[end], "reno");
        }
    }
}

static void test_congestion(void **state)
{
    struct world world;
    world_create(&world, 0);
    world_run(&world, congestion_main_co, NULL);
    world_destroy(&world);
}

/* ---- turns ---- */

struct turns {
    struct world *world;
    struct sl_stream *stream;
    unsigned count;
    bool over;
};

static void turns_co(void *argument)
{
    struct turns *turns = argument;
    for (; !turns->over; turns->count++)
        sl_yield_co();
    world_leave(turns->world);
}

/* A peer whose bytes are all there already: whoever takes them one by one still gives way. */
static void chatty_main_co(struct world *world)
{
    enum { BYTES = 4000 };
    static uint8_t bytes[BYTES];
    struct pair pair;
    struct turns turns = {.world = world};
    pair_make_co(world, "127.0.0.1:0", &pair);
    struct iovec piece = {bytes, BYTES};
    assert_int_equal(sl_stream_send_co(pair.ends[0], &piece, 1, false), 0);
    world_spawn(world, turns_co, &turns);
    piece.iov_len = 1;
    for (unsigned i = 0; i < BYTES; i++)
        assert_int_equal(sl_stream_receive_co(pair.ends[1], &piece, 1), 1);
    turns.over = true;
    world_join_co(world);
    assert_in_range(turns.count, BYTES / 16, UINT32_MAX);
    pair_close(&pair);
}

static void echo_co(void *argument)
{
    struct turns *turns = argument;
    uint8_t byte;
    struct iovec piece = {&byte, 1};
    while (sl_stream_receive_co(turns->stream, &piece, 1) == 1) {
        assert_int_equal(sl_stream_send_co(turns->stream, &piece, 1, false), 0);
        turns->count++;
    }
    world_leave(turns->world);
}

/* More receives wait than are tried each turn, through sleeps and without: all are answered. */
static void many_main_co(struct world *world)
{
    enum { PAIRS = 12, ROUNDS = 40 };
    static struct pair pairs[PAIRS];
    static struct turns echoes[PAIRS];
    for (unsigned i = 0; i < PAIRS; i++)
        pair_make_co(world, "127.0.0.1:0", &pairs[i]);
    for (unsigned i = 0; i < PAIRS; i++) {
        echoes[i] = (struct turns){.world = world, .stream = pairs[i].ends[1]};
        world_spawn(world, echo_co, &echoes[i]);
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint8_t byte = (uint8_t)round;
        struct iovec piece = {&byte, 1};
        if (round % 8 == 0)
            sl_sleep_co(2 * SL_NS_PER_MS); /* the reactor sleeps meanwhile */
        for (unsigned i = 0; i < PAIRS; i++)
            assert_int_equal(sl_stream_send_co(pairs[i].ends[0], &piece, 1, false), 0);
        for (unsigned i = 0; i < PAIRS; i++) {
            byte = 0xEE;
            assert_int_equal(sl_stream_receive_co(pairs[i].ends[0], &piece, 1), 1);
            assert_int_equal(byte, round);
        }
    }
    for (unsigned i = 0; i < PAIRS; i++)
        sl_stream_shutdown(pairs[i].ends[0]);
    world_join_co(world);
    for (unsigned i = 0; i < PAIRS; i++) {
        assert_int_equal(echoes[i].count, ROUNDS);
        pair_close(&pairs[i]);
    }
}

static void test_turns(void **state)
{
    void (*const mains[])(struct world * world) = {chatty_main_co, many_main_co};
    for (unsigned i = 0; i < SL_COUNT_OF(mains); i++) {
        struct world world;
        world_create(&world, 0);
        world_run(&world, mains[i], NULL);
        world_destroy(&world);
    }
}

int main(void)
{
    if (world_is_missing() || mkdtemp(directory) == NULL)
        return TEST_SKIP;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data),    cmocka_unit_test(test_ends),
        cmocka_unit_test(test_connect), cmocka_unit_test(test_listeners),
        cmocka_unit_test(test_adopt),   cmocka_unit_test(test_congestion),
        cmocka_unit_test(test_turns),
    };
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(directory);
    return result;
}
