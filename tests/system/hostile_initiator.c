/*
 * An initiator gone bad: breaks every rule of the local channel towards a real gateway.
 *
 *   hostile_initiator CHANNEL VOLUME SEED [steps]
 *
 * Goal: what it does wrong is refused with a status or ends its own session; the gateway stays up,
 * serves others, and gives everything back. hostile_test.py looks at the gateway. Method: memory
 * and rings that may not be; control records that are cut, too long, unknown, out of order, sent
 * again; sessions in which a second thread changes rings, indices, doorbells and pages at random
 * while control records and submissions, sound and not, are sent; abrupt ends. Works on VOLUME
 * alone, which nobody else may use.
 *
 * Exit status 0: all was refused that had to be. Prints a line for each.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "comch/client_private.h"
#include "comch/path.h"
#include "core/error.h"

#define TIMEOUT_NS   (30 * SL_NS_PER_S)
#define MEMORY_BYTES (512u * 1024)
#define DEPTH        16u
#define SESSIONS     24

static char path[SL_COMCH_PATH_BYTES_MAX];
static const char *volume;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static void told(const char *what, int error)
{
    printf("%s: %s\n", what, error == 0 ? "done" : sl_error_name(error));
}

static struct sl_comch_client *client_open(struct sl_comch_storage *storage)
{
    struct sl_comch_client *client;
    CHECK(sl_comch_client_connect(path, TIMEOUT_NS, &client) == 0);
    CHECK(sl_comch_client_query(client, volume, storage) == 0);
    CHECK(sl_comch_client_init(client, volume, storage) == 0);
    return client;
}

/* ---- memory ---- */

static void try_memory(const char *what, int memfd, uint64_t length_bytes, int expected)
{
    struct sl_comch_storage storage;
    struct sl_comch_client *client = client_open(&storage);
    struct sl_comch_memory memory = {.memfd = memfd, .length_bytes = length_bytes};
    int error = sl_comch_client_register(client, &memory, false);
    told(what, error);
    CHECK(error == expected);
    if (error == 0) {
        /* Sealed: the owner himself cannot take it away. */
        CHECK(ftruncate(memfd, 0) < 0 && errno == EPERM);
        CHECK(fcntl(memfd, F_GET_SEALS) & F_SEAL_SHRINK);
    }
    sl_comch_client_close(client);
    close(memfd);
}

static int memfd_of(uint64_t length_bytes, int seals)
{
    int memfd = memfd_create("sluice-hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(memfd >= 0 && ftruncate(memfd, (off_t)length_bytes) == 0);
    CHECK(seals == 0 || fcntl(memfd, F_ADD_SEALS, seals) == 0);
    return memfd;
}

static void memories(void)
{
    try_memory("memory that is not sealed", memfd_of(MEMORY_BYTES, 0), MEMORY_BYTES, -EINVAL);
    try_memory("memory sealed against growing only", memfd_of(MEMORY_BYTES, F_SEAL_GROW),
               MEMORY_BYTES, -EINVAL);
    try_memory("memory shorter than said", memfd_of(4096, F_SEAL_SHRINK), 8192, -EINVAL);
    try_memory("memory of length 0", memfd_of(4096, F_SEAL_SHRINK), 0, -EINVAL);
    try_memory("memory of 2^63", memfd_of(4096, F_SEAL_SHRINK), UINT64_C(1) << 63, -EINVAL);
    try_memory("memory of half a page", memfd_of(4096, F_SEAL_SHRINK), 2048, -EINVAL);
    try_memory("a device as memory", open("/dev/zero", O_RDWR | O_CLOEXEC), 4096, -EINVAL);
    try_memory("memory that shrinks", memfd_of(MEMORY_BYTES, F_SEAL_SHRINK), MEMORY_BYTES, 0);
}

static void too_many(void)
{
    struct sl_comch_storage storage;
    struct sl_comch_client *client = client_open(&storage);
    struct sl_comch_memory memory = {.memfd = memfd_of(4096, F_SEAL_SHRINK), .length_bytes = 4096};
    unsigned count = 0;
    int error;
    while ((error = sl_comch_client_register(client, &memory, false)) == 0 && count < 1000)
        count++;
    told("memories beyond the limit", error);
    CHECK(error == -EBUSY && count == SL_COMCH_MEMORIES_MAX);
    struct sl_comch_client_queue *queues[SL_COMCH_QUEUES_MAX + 1];
    for (count = 0; (error = sl_comch_client_queue_create(client, 1, &queues[count])) == 0;)
        CHECK(++count <= SL_COMCH_QUEUES_MAX);
    told("queues beyond the limit", error);
    CHECK(error == -EBUSY && count == SL_COMCH_QUEUES_MAX);
    while (count > 0)
        sl_comch_client_queue_destroy(queues[--count]);
    sl_comch_client_close(client);
    close(memory.memfd);
}

/* ---- queues ---- */

static int queue_call(struct sl_comch_client *client, const int *descriptors, uint32_t depth)
{
    struct comch_record record = {
        .header.type = COMCH_CREATE_RDMA_CONNECTION,
        .connection = {.kind = SL_COMCH_CONNECTION_DATA, .depth = depth},
    };
    return comch_client_call(client, &record, descriptors, SL_CHANNEL_DESCRIPTORS);
}

static void queues(void)
{
    static const char *const names[] = {"rings that are not sealed",
                                        "rings too short",
                                        "a doorbell that is none",
                                        "depth 0",
                                        "depth 4096",
                                        "rings of another depth"};
    static const uint32_t depths[] = {DEPTH, DEPTH, DEPTH, 0, 4096, 4 * DEPTH};
    for (unsigned i = 0; i < SL_COUNT_OF(names); i++) {
        struct sl_comch_storage storage;
        struct sl_comch_client *client = client_open(&storage);
        struct sl_channel_layout layout = comch_queue_layout(DEPTH);
        struct sl_channel channel;
        int descriptors[SL_CHANNEL_DESCRIPTORS];
        int pipes[2];
        CHECK(sl_channel_create(&channel, &layout) == 0 && pipe(pipes) == 0);
        sl_channel_descriptors(&channel, descriptors);
        int bad = -1;
        if (i < 2)
            bad = descriptors[SL_CHANNEL_MEMORY] = memfd_of(
                i == 0 ? channel.length_bytes : 4096, i == 0 ? 0 : F_SEAL_SHRINK | F_SEAL_GROW);
        if (i == 2)
            descriptors[SL_CHANNEL_TAKER_BELL] = pipes[0];
        int error = queue_call(client, descriptors, depths[i]);
        told(names[i], error);
        CHECK(error == -SL_E_PROTOCOL || (error == -EINVAL && i >= 3));
        if (bad >= 0)
            close(bad);
        close(pipes[0]);
        close(pipes[1]);
        sl_channel_close(&channel);
        sl_comch_client_close(client);
    }
}

/* ---- control records ---- */

static int raw_open(void)
{
    int socket = sl_socket_connect(path);
    CHECK(socket >= 0);
    return socket;
}

/* The status of the answer, or -1: hung up. */
static int raw_answer(int socket)
{
    struct pollfd entry = {socket, POLLIN, 0};
    struct comch_record answer;
    CHECK(poll(&entry, 1, 30000) == 1);
    ssize_t received = recv(socket, &answer, sizeof(answer), 0);
    if (received <= 0)
        return -1;
    CHECK(received == sizeof(answer));
    return answer.header.type == COMCH_ERROR_RESPONSE ? answer.header.status : 0;
}

static void try_record(const char *what, const struct comch_record *record, size_t length_bytes,
                       int descriptor, int expected, bool ends)
{
    int socket = raw_open();
    CHECK(sl_socket_send(socket, record, length_bytes, &descriptor, descriptor >= 0) == 0);
    int status = raw_answer(socket);
    printf("%s: %s%d\n", what, status < 0 ? "hung up " : "status ", status);
    CHECK(status == expected);
    CHECK(!ends || status < 0 || raw_answer(socket) == -1);
    close(socket);
}

static struct comch_record record_of(unsigned type)
{
    return (struct comch_record){.header = {.magic = COMCH_MAGIC,
                                            .version = COMCH_VERSION,
                                            .type = (uint16_t)type,
                                            .correlation_id = 42}};
}

static void records(void)
{
    struct comch_record record = record_of(COMCH_QUERY_STORAGE);
    static uint8_t huge[4096];
    memcpy(huge, &record, sizeof(record));
    try_record("a record cut short", &record, 100, -1, SL_STATUS_PROTOCOL, true);
    try_record("a record of 1 byte", &record, 1, -1, SL_STATUS_PROTOCOL, true);
    try_record("a record of 4096 bytes", (void *)huge, sizeof(huge), -1, -1, true);
    try_record("a descriptor that nobody asked for", &record, sizeof(record), 0, SL_STATUS_PROTOCOL,
               true);
    record.header.magic++;
    try_record("other magic", &record, sizeof(record), -1, SL_STATUS_PROTOCOL, true);
    record = record_of(COMCH_QUERY_STORAGE);
    record.header.version = 2;
    try_record("other version", &record, sizeof(record), -1, SL_STATUS_VERSION, true);
    record = record_of(COMCH_QUERY_STORAGE);
    memset(record.volume, 'v', sizeof(record.volume));
    try_record("a name without end", &record, sizeof(record), -1, SL_STATUS_PROTOCOL, true);
    record = record_of(77);
    try_record("unknown type", &record, sizeof(record), -1, SL_STATUS_UNSUPPORTED, false);
    record = record_of(COMCH_START_STORAGE);
    try_record("START first", &record, sizeof(record), -1, SL_STATUS_STATE, false);
    record = record_of(COMCH_INIT_STORAGE);
    try_record("INIT without QUERY", &record, sizeof(record), -1, SL_STATUS_STATE, false);
    record = record_of(COMCH_REGISTER_MEMORY);
    try_record("memory without a descriptor", &record, sizeof(record), -1, SL_STATUS_PROTOCOL,
               true);
    record = record_of(COMCH_QUERY_STORAGE);
    strcpy(record.volume, "no-such-volume");
    try_record("no such volume", &record, sizeof(record), -1, SL_STATUS_NOT_FOUND, false);
}

/* The same record, with the same correlation id, again and again; and all at once. */
static void replays(void)
{
    struct comch_record record = record_of(COMCH_QUERY_STORAGE);
    strcpy(record.volume, volume);
    int socket = raw_open();
    for (unsigned i = 0; i < 3; i++)
        CHECK(sl_socket_send(socket, &record, sizeof(record), NULL, 0) == 0);
    for (unsigned i = 0; i < 3; i++)
        CHECK(raw_answer(socket) == 0);
    record.header.type = COMCH_INIT_STORAGE;
    CHECK(sl_socket_send(socket, &record, sizeof(record), NULL, 0) == 0);
    CHECK(raw_answer(socket) == 0);
    CHECK(sl_socket_send(socket, &record, sizeof(record), NULL, 0) == 0);
    CHECK(raw_answer(socket) == SL_STATUS_STATE);
    close(socket);
    printf("INIT sent twice: status %d\n", SL_STATUS_STATE);
}

/* ---- submissions ---- */

struct bad_io {
    const char *name;
    uint8_t opcode, flags;
    uint8_t other_volume;  /* added to the handle */
    uint16_t other_memory; /* added to the id */
    uint64_t offset_bytes, memory_offset;
    uint32_t length_bytes;
    enum sl_status expected;
};

static const struct bad_io bad_ios[] = {
    {"a sound write", SL_IO_WRITE, 0, 0, 0, 0, 0, 4096, SL_STATUS_OK},
    {"a read beyond the end", SL_IO_READ, 0, 0, 0, 1024 * SL_GIB, 0, 4096, SL_STATUS_OUT_OF_RANGE},
    {"an offset that wraps", SL_IO_READ, 0, 0, 0, UINT64_MAX - 4095, 0, 8192,
     SL_STATUS_OUT_OF_RANGE},
    {"a discard beyond the end", SL_IO_DISCARD, 0, 0, 0, 1024 * SL_GIB, 0, 4096,
     SL_STATUS_OUT_OF_RANGE},
    {"length 0", SL_IO_READ, 0, 0, 0, 0, 0, 0, SL_STATUS_INVALID},
    {"a misaligned offset", SL_IO_WRITE, 0, 0, 0, 512, 0, 4096, SL_STATUS_INVALID},
    {"a misaligned length", SL_IO_READ, 0, 0, 0, 0, 0, 5000, SL_STATUS_INVALID},
    {"4 GiB at once", SL_IO_READ, 0, 0, 0, 0, 0, UINT32_MAX - 4095, SL_STATUS_OUT_OF_RANGE},
    {"memory that was never shared", SL_IO_READ, 0, 0, 1, 0, 0, 4096, SL_STATUS_KEY},
    {"memory of a former generation", SL_IO_READ, 0, 0, 128, 0, 0, 4096, SL_STATUS_KEY},
    {"a buffer beyond its memory", SL_IO_WRITE, 0, 0, 0, 0, MEMORY_BYTES, 4096, SL_STATUS_INVALID},
    {"a buffer that wraps", SL_IO_READ, 0, 0, 0, 0, UINT64_MAX - 4095, 8192, SL_STATUS_INVALID},
    {"another volume", SL_IO_READ, 0, 1, 0, 0, 0, 4096, SL_STATUS_INVALID},
    {"flags", SL_IO_READ, 0x80, 0, 0, 0, 0, 4096, SL_STATUS_INVALID},
    {"opcode 0", 0, 0, 0, 0, 0, 0, 4096, SL_STATUS_UNSUPPORTED},
    {"opcode 255", 255, 0, 0, 0, 0, 0, 4096, SL_STATUS_UNSUPPORTED},
};

static struct sl_io_message completion_await(struct sl_comch_client_queue *queue)
{
    struct sl_io_message completion;
    int count;
    while ((count = sl_comch_client_queue_poll(queue, &completion, 1)) == 0)
        CHECK(sl_comch_client_queue_wait(queue, TIMEOUT_NS) == 0);
    CHECK(count == 1);
    return completion;
}

/* All published at once, so all are taken in one turn of the gateway. */
static void beyond_depth(struct sl_comch_client_queue *queue, const struct sl_io_message *sound)
{
    static struct sl_io_message messages[2 * DEPTH];
    unsigned busy_count = 0;
    for (unsigned i = 0; i < 2 * DEPTH; i++) {
        messages[i] = *sound;
        messages[i].request_id = i;
        messages[i].offset_bytes = i * SL_BLOCK_BYTES;
    }
    CHECK(sl_comch_client_queue_submit(queue, messages, 2 * DEPTH) == 2 * DEPTH);
    for (unsigned i = 0; i < 2 * DEPTH; i++) {
        uint16_t status = completion_await(queue).status;
        CHECK(status == SL_STATUS_OK || status == SL_STATUS_BUSY);
        busy_count += status == SL_STATUS_BUSY;
    }
    printf("twice the depth at once: %u times status %d\n", busy_count, SL_STATUS_BUSY);
    CHECK(busy_count == DEPTH);
}

static void submissions(void)
{
    struct sl_comch_storage storage;
    struct sl_comch_memory memory;
    struct sl_comch_client_queue *queue;
    struct sl_comch_client *client = client_open(&storage);
    CHECK(sl_comch_memory_create(MEMORY_BYTES, false, &memory) == 0);
    CHECK(sl_comch_client_register(client, &memory, true) == 0);
    CHECK(sl_comch_client_queue_create(client, DEPTH, &queue) == 0);
    struct sl_io_message sound = {
        .opcode = SL_IO_WRITE, .volume = storage.volume, .length_bytes = 4096};
    sound.memory_id = memory.id;
    CHECK(sl_comch_client_queue_submit(queue, &sound, 1) == 1);
    CHECK(completion_await(queue).status == SL_STATUS_STATE);
    CHECK(sl_comch_client_start(client) == 0);
    for (unsigned i = 0; i < SL_COUNT_OF(bad_ios); i++) {
        const struct bad_io *bad = &bad_ios[i];
        struct sl_io_message message = {.opcode = bad->opcode,
                                        .flags = bad->flags,
                                        .request_id = i,
                                        .volume = storage.volume + bad->other_volume,
                                        .length_bytes = bad->length_bytes,
                                        .offset_bytes = bad->offset_bytes,
                                        .memory_offset = bad->memory_offset,
                                        .memory_id = memory.id + bad->other_memory};
        CHECK(sl_comch_client_queue_submit(queue, &message, 1) == 1);
        struct sl_io_message completion = completion_await(queue);
        printf("%s: status %u\n", bad->name, completion.status);
        CHECK(completion.request_id == i && completion.status == bad->expected);
    }
    beyond_depth(queue, &sound);
    sl_comch_client_queue_destroy(queue);
    sl_comch_client_close(client);
    sl_comch_memory_destroy(&memory);
}

/* ---- sessions at random ---- */

struct session {
    struct sl_comch_client *client;
    struct sl_comch_storage storage;
    struct sl_comch_memory memory;
    struct sl_channel channel;
    uint64_t random;
    atomic_bool ending;
    pthread_t spoiler;
    bool spoils_rings;
    bool spoils_indices;
};

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Changes what the gateway reads, under its eyes; and what our other thread writes: ThreadSanitizer
 * would be right. */
__attribute__((no_sanitize("thread"))) static void *spoil(void *argument)
{
    struct session *session = argument;
    uint64_t random = session->random ^ UINT64_C(0x123456789abcdef);
    struct sl_ring_shared *rings[] = {session->channel.producer.shared,
                                      session->channel.consumer.shared};
    while (!atomic_load(&session->ending)) {
        uint64_t value = next_random(&random);
        uint64_t offset = (value >> 8) % (MEMORY_BYTES / 4096) * 4096;
        struct sl_ring_shared *ring = rings[value & 1];
        switch (value >> 1 & 7) {
        case 0:
        case 1:
            memset(session->memory.base + offset, (int)(value >> 32), 4096);
            break;
        case 2:
            (void)!fallocate(session->memory.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                             (off_t)offset, 8192);
            break;
        case 3:
            (void)!ftruncate(session->memory.memfd, 4096);
            break;
        case 4:
            sl_eventfd_ring(session->channel.bell_out);
            break;
        case 5:
            if (session->spoils_rings)
                session->channel.producer.slots[(value >> 16) % (2ull * DEPTH * 64)] =
                    (uint8_t)value;
            break;
        case 6:
            atomic_store(value & 256 ? &ring->producer_sleeping : &ring->consumer_sleeping,
                         (uint32_t)(value >> 32));
            break;
        default:
            if (session->spoils_indices)
                atomic_store(value & 256 ? &ring->tail : &ring->head, (uint32_t)(value >> 40));
        }
        if (value % 64 == 0)
            usleep(50);
    }
    return NULL;
}

static void submit(struct session *session)
{
    struct sl_ring_producer *producer = &session->channel.producer;
    uint64_t random = next_random(&session->random);
    if (sl_ring_room(producer, 1) < 1)
        return;
    struct sl_io_message message = {
        .opcode = random % 8 == 0 ? (uint8_t)(random >> 8) : (uint8_t)(1 + random % 5),
        .request_id = (uint32_t)next_random(&session->random),
        .volume = session->storage.volume,
        .length_bytes = (uint32_t)(1 + (random >> 16) % 64) * 4096,
        .offset_bytes = (random >> 24) % 1024 * 4096,
        .memory_offset = (random >> 40) % 64 * 4096,
        .memory_id = session->memory.id,
    };
    uint64_t wild = next_random(&session->random);
    if (wild % 16 == 0)
        message.volume = (uint32_t)(wild >> 32) % 5;
    if (wild % 16 == 1)
        message.offset_bytes = next_random(&session->random);
    if (wild % 16 == 2)
        message.length_bytes = (uint32_t)(wild >> 32);
    if (wild % 16 == 3)
        message.memory_offset = next_random(&session->random);
    if (wild % 16 == 4)
        message.memory_id = (uint32_t)(wild >> 32);
    if (wild % 16 == 5)
        message.flags = 0xff;
    if (wild % 16 == 6)
        message.piece_count = 200;
    *(struct sl_io_message *)sl_ring_reserve(producer) = message;
    if (sl_ring_publish(producer) || wild % 8 == 0)
        sl_eventfd_ring(session->channel.bell_out);
}

static void control_at_random(struct session *session)
{
    static const unsigned types[] = {COMCH_START_STORAGE,     COMCH_STOP_STORAGE,  COMCH_STATISTICS,
                                     COMCH_UNREGISTER_MEMORY, COMCH_QUERY_STORAGE, 99};
    uint64_t random = next_random(&session->random);
    struct comch_record record = {.header.type = (uint16_t)types[random % SL_COUNT_OF(types)]};
    if (record.header.type == COMCH_UNREGISTER_MEMORY)
        record.memory.memory_id = random >> 32 & 1 ? session->memory.id : (uint32_t)(random >> 33);
    if (record.header.type == COMCH_QUERY_STORAGE)
        strcpy(record.volume, volume);
    if (random % 32 == 31)
        record.header.reserved[5] = 1; /* malformed: the session ends */
    (void)comch_client_call(session->client, &record, NULL, 0);
}

static void completions_take(struct session *session)
{
    struct sl_ring_consumer *consumer = &session->channel.consumer;
    while (sl_ring_available(consumer) > 0) {
        sl_ring_peek(consumer);
        sl_ring_take(consumer);
    }
    if (sl_ring_release(consumer))
        sl_eventfd_ring(session->channel.bell_out);
}

static void session_at_random(unsigned number, uint64_t seed, unsigned steps)
{
    static struct session session;
    memset(&session, 0, sizeof(session));
    session.random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + number;
    session.client = client_open(&session.storage);
    struct sl_channel_layout layout = comch_queue_layout(DEPTH);
    int descriptors[SL_CHANNEL_DESCRIPTORS];
    CHECK(sl_comch_memory_create(MEMORY_BYTES, false, &session.memory) == 0);
    CHECK(sl_comch_client_register(session.client, &session.memory, number % 4 != 3) == 0);
    CHECK(sl_channel_create(&session.channel, &layout) == 0);
    sl_channel_descriptors(&session.channel, descriptors);
    CHECK(queue_call(session.client, descriptors, DEPTH) == 0);
    CHECK(sl_comch_client_start(session.client) == 0);
    /* A third changes pages only, a third the slots too, a third the indices: those end soon. */
    session.spoils_rings = number % 3 != 0;
    session.spoils_indices = number % 3 == 2;
    CHECK(pthread_create(&session.spoiler, NULL, spoil, &session) == 0);
    unsigned step = 0;
    for (; step < steps && sl_comch_client_check(session.client) == 0; step++) {
        uint64_t random = next_random(&session.random);
        if (random % 64 == 0)
            control_at_random(&session);
        else if (random % 4 == 0 && number % 5 != 4) /* every fifth takes no completion */
            completions_take(&session);
        else
            submit(&session);
    }
    bool goes_first = number % 2 == 0;
    if (goes_first) /* I/O is under way: the gateway must wait for it */
        sl_comch_client_close(session.client);
    atomic_store(&session.ending, true);
    pthread_join(session.spoiler, NULL);
    sl_channel_close(&session.channel);
    sl_comch_memory_destroy(&session.memory);
    if (!goes_first)
        sl_comch_client_close(session.client);
    printf("session %u at random: %u steps\n", number, step);
}

int main(int argc, char **argv)
{
    if (argc != 4 && argc != 5) {
        fprintf(stderr, "hostile_initiator CHANNEL VOLUME SEED [STEPS]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    CHECK(sl_comch_path(argv[1], false, path) == 0);
    volume = argv[2];
    memories();
    too_many();
    queues();
    records();
    replays();
    submissions();
    for (unsigned i = 0; i < SESSIONS; i++)
        session_at_random(i, strtoull(argv[3], NULL, 0),
                          argc == 5 ? (unsigned)strtoul(argv[4], NULL, 0) : 2000);
    return 0;
}
