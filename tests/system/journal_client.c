/*
 * A client that remembers, beyond its own death, which of its writes were acknowledged.
 *
 *   journal_client CHANNEL VOLUME JOURNAL OFFSET LENGTH SEED DEPTH verify | load
 *
 * Each 4 KiB block of [OFFSET, OFFSET + LENGTH) of the volume carries its number and a generation.
 * JOURNAL is a file that is mapped shared, so what is stored there survives kill -9: per block the
 * newest generation that was acknowledged and the newest that was sent. What the volume holds must
 * lie between the two, as a whole block: older is a lost write, younger or torn is a wrong byte.
 *
 * Both modes first read everything and check it; what was found then counts as acknowledged, so
 * that it may not go back. `load` goes on with reads and writes of 4 KiB to 1 MiB until SIGTERM.
 * There is never more than one I/O on a block. Blocks that were never written are not looked at.
 *
 * Exit status: 0 all well, 1 an operation failed (said why), 2 usage, 3 a wrong byte.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "comch/client.h"
#include "comch/path.h"
#include "core/error.h"

#define BLOCK_BYTES SL_BLOCK_BYTES
/* The longest I/O: 256 blocks = 1 MiB, one place of the client's memory. */
#define BLOCKS_MAX 256u
#define DEPTH_MAX  64u
#define TIMEOUT_NS (15 * SL_NS_PER_S)
/* The gateway retries for 30 s: an I/O that took longer than that never ends. */
#define HANG_NS (60 * SL_NS_PER_S)

struct entry {
    uint32_t acknowledged; /* 0 = nothing was ever */
    uint32_t sent;
    uint32_t last; /* the newest generation ever given out: none is used twice */
    uint32_t reserved;
};

/* The first page of the journal; kill_test.py reads it while we run. */
struct head {
    _Atomic uint64_t operation_count;
    _Atomic uint64_t write_count;
    _Atomic uint64_t loading; /* 1: the check at the start is over */
    _Atomic uint64_t verified_block_count;
};

struct io {
    uint64_t block;
    uint32_t block_count;
    bool writes;
};

struct client {
    struct head *head;
    struct entry *entries;
    bool *busy; /* an I/O is on this block */
    uint64_t block_count;
    uint64_t offset_bytes;
    uint64_t seed;
    uint64_t random;
    uint64_t next_block; /* verify */
    bool verifies;
    struct sl_comch_client *comch;
    struct sl_comch_storage storage;
    struct sl_comch_memory memory;
    struct sl_comch_client_queue *queue;
    struct io ios[DEPTH_MAX];
    uint32_t free_slots[DEPTH_MAX];
    unsigned free_count, depth;
};

static volatile sig_atomic_t ending;

static void on_signal(int number)
{
    ending = 1;
}

static _Noreturn void die(int status, const char *what, uint64_t block, int error)
{
    fprintf(stderr, "journal client: %s (block %llu): %s (%s)\n", what, (unsigned long long)block,
            sl_error_text(error), sl_error_name(error));
    _exit(status);
}

static uint64_t mix(uint64_t value)
{
    value += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

static uint64_t next_random(struct client *client)
{
    client->random = mix(client->random);
    return client->random;
}

/* ---- contents ---- */

static uint64_t *block_at(const struct client *client, unsigned slot, uint32_t index)
{
    return (void *)(client->memory.base + (size_t)slot * BLOCKS_MAX * BLOCK_BYTES +
                    (size_t)index * BLOCK_BYTES);
}

static uint64_t word_of(const struct client *client, uint64_t block, uint32_t generation,
                        unsigned i)
{
    return mix(client->seed ^ (block << 32 | generation)) * (2 * i + 1);
}

static void block_fill(const struct client *client, uint64_t *words, uint64_t block,
                       uint32_t generation)
{
    words[0] = generation;
    for (unsigned i = 1; i < BLOCK_BYTES / 8; i++)
        words[i] = word_of(client, block, generation, i);
}

static void block_check(const struct client *client, const uint64_t *words, uint64_t block)
{
    struct entry *entry = &client->entries[block];
    uint64_t generation = words[0];
    if (entry->acknowledged == 0 && entry->sent == 0)
        return;
    bool whole = true;
    if (generation != 0 || entry->acknowledged != 0) {
        for (unsigned i = 1; whole && i < BLOCK_BYTES / 8; i++)
            whole = words[i] == word_of(client, block, (uint32_t)generation, i);
    }
    if (!whole || generation < entry->acknowledged || generation > entry->sent) {
        fprintf(
            stderr,
            "journal client: WRONG: block %llu holds generation %llu%s; acknowledged was %u, sent "
            "%u\n",
            (unsigned long long)block, (unsigned long long)generation, whole ? "" : ", not whole",
            entry->acknowledged, entry->sent);
        _exit(3);
    }
    entry->acknowledged = (uint32_t)generation;
    if (client->verifies)
        entry->sent = (uint32_t)generation;
}

/* ---- I/O ---- */

static bool choose(struct client *client, struct io *io)
{
    if (client->verifies) {
        io->block = client->next_block;
        io->block_count = (uint32_t)sl_min(client->block_count - io->block, 64u);
        io->writes = false;
        client->next_block += io->block_count;
        return io->block_count > 0;
    }
    /* Half of the I/O is one block; the rest of any length. */
    uint64_t random = next_random(client);
    io->writes = random % 8 < 5;
    io->block_count = random >> 8 & 1 ? 1 : 1 + (uint32_t)(random >> 16) % BLOCKS_MAX;
    for (unsigned tries = 0; tries < 64; tries++) {
        io->block = next_random(client) % (client->block_count - io->block_count + 1);
        bool is_free = true;
        for (uint32_t i = 0; is_free && i < io->block_count; i++)
            is_free = !client->busy[io->block + i];
        if (is_free)
            return true;
        io->block_count = 1 + io->block_count / 2;
    }
    return false;
}

static void submit_one(struct client *client, const struct io *io)
{
    uint32_t slot = client->free_slots[--client->free_count];
    client->ios[slot] = *io;
    for (uint32_t i = 0; i < io->block_count; i++) {
        struct entry *entry = &client->entries[io->block + i];
        client->busy[io->block + i] = true;
        if (io->writes) {
            entry->last++;
            entry->sent = entry->last; /* before it can be on its way */
            block_fill(client, block_at(client, slot, i), io->block + i, entry->sent);
        }
    }
    struct sl_io_message message = {
        .opcode = io->writes ? SL_IO_WRITE : SL_IO_READ,
        .request_id = slot,
        .volume = client->storage.volume,
        .length_bytes = io->block_count * BLOCK_BYTES,
        .offset_bytes = client->offset_bytes + io->block * BLOCK_BYTES,
        .memory_offset = (uint64_t)slot * BLOCKS_MAX * BLOCK_BYTES,
        .memory_id = client->memory.id,
    };
    int sent = sl_comch_client_queue_submit(client->queue, &message, 1);
    if (sent != 1)
        die(1, "submit", io->block, sent < 0 ? sent : -EBUSY);
}

static void complete_one(struct client *client, const struct sl_io_message *message)
{
    uint32_t slot = message->request_id;
    if (slot >= client->depth)
        die(3, "a completion of nothing", slot, -SL_E_PROTOCOL);
    const struct io *io = &client->ios[slot];
    int error = sl_status_to_errno(message->status);
    if (error < 0)
        die(1, io->writes ? "write" : "read", io->block, error);
    for (uint32_t i = 0; i < io->block_count; i++) {
        uint64_t block = io->block + i;
        if (io->writes)
            client->entries[block].acknowledged = client->entries[block].sent;
        else
            block_check(client, block_at(client, slot, i), block);
        client->busy[block] = false;
    }
    client->free_slots[client->free_count++] = slot;
    atomic_fetch_add(&client->head->operation_count, 1);
    if (io->writes)
        atomic_fetch_add(&client->head->write_count, 1);
    if (client->verifies)
        atomic_fetch_add(&client->head->verified_block_count, io->block_count);
}

static void reap(struct client *client)
{
    struct sl_io_message messages[16];
    int count = sl_comch_client_queue_poll(client->queue, messages, 16);
    if (count == 0) {
        int error = sl_comch_client_queue_wait(client->queue, HANG_NS);
        if (error < 0)
            die(1, error == -ETIMEDOUT ? "no I/O ends" : "the gateway has gone", 0, error);
    }
    if (count < 0)
        die(1, "poll", 0, count);
    for (int i = 0; i < count; i++)
        complete_one(client, &messages[i]);
}

/* Until there is nothing left to verify, or until the signal. */
static void run(struct client *client)
{
    bool more = true;
    while (more || client->free_count < client->depth) {
        struct io io;
        while (more && client->free_count > 0) {
            more = (client->verifies || !ending) && choose(client, &io);
            if (more)
                submit_one(client, &io);
        }
        if (!more && !client->verifies && !ending)
            more = true; /* all blocks that were tried are busy */
        if (client->free_count < client->depth)
            reap(client);
    }
}

/* ---- from start to end ---- */

static void check(const char *what, int error)
{
    if (error < 0)
        die(1, what, 0, error);
}

static void journal_open(struct client *client, const char *path)
{
    size_t bytes = BLOCK_BYTES + client->block_count * sizeof(struct entry);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, (off_t)bytes) < 0)
        die(2, path, 0, -errno);
    uint8_t *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map == MAP_FAILED)
        die(2, path, 0, -errno);
    close(file);
    client->head = (void *)map;
    client->entries = (void *)(map + BLOCK_BYTES);
    client->busy = calloc(client->block_count, sizeof(bool));
    atomic_store(&client->head->loading, 0);
    atomic_store(&client->head->verified_block_count, 0);
    if (client->busy == NULL)
        die(2, path, 0, -ENOMEM);
}

static void channel_open(struct client *client, const char *channel, const char *volume)
{
    char path[SL_COMCH_PATH_BYTES_MAX];
    check("channel name", sl_comch_path(channel, false, path));
    check("connect", sl_comch_client_connect(path, TIMEOUT_NS, &client->comch));
    check("query_storage", sl_comch_client_query(client->comch, volume, &client->storage));
    check("init_storage", sl_comch_client_init(client->comch, volume, &client->storage));
    check("connection", sl_comch_client_create_control(client->comch));
    check("memory", sl_comch_memory_create((uint64_t)client->depth * BLOCKS_MAX * BLOCK_BYTES,
                                           false, &client->memory));
    check("register_memory", sl_comch_client_register(client->comch, &client->memory, true));
    check("queue", sl_comch_client_queue_create(client->comch, client->depth, &client->queue));
    check("start_storage", sl_comch_client_start(client->comch));
}

static void channel_close(struct client *client)
{
    check("stop_storage", sl_comch_client_stop(client->comch));
    check("unregister_memory", sl_comch_client_unregister(client->comch, &client->memory));
    check("shutdown", sl_comch_client_shutdown(client->comch));
    sl_comch_client_queue_destroy(client->queue);
    sl_comch_client_close(client->comch);
    sl_comch_memory_destroy(&client->memory);
}

int main(int argc, char **argv)
{
    static struct client client;
    if (argc != 9) {
        fprintf(stderr,
                "journal_client CHANNEL VOLUME JOURNAL OFFSET LENGTH SEED DEPTH verify|load\n");
        return 2;
    }
    client.offset_bytes = strtoull(argv[4], NULL, 0);
    client.block_count = strtoull(argv[5], NULL, 0) / BLOCK_BYTES;
    client.seed = strtoull(argv[6], NULL, 0);
    client.random = mix(client.seed + (uint64_t)getpid());
    client.depth = (unsigned)strtoul(argv[7], NULL, 0);
    if (client.block_count < BLOCKS_MAX || client.depth == 0 || client.depth > DEPTH_MAX)
        die(2, "LENGTH at least 1 MiB, DEPTH 1 to 64", 0, -EINVAL);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    for (unsigned i = 0; i < client.depth; i++)
        client.free_slots[client.free_count++] = i;
    journal_open(&client, argv[3]);
    channel_open(&client, argv[1], argv[2]);
    client.verifies = true;
    run(&client);
    client.verifies = false;
    atomic_store(&client.head->loading, 1);
    if (strcmp(argv[8], "load") == 0)
        run(&client);
    channel_close(&client);
    printf("data is valid: %llu operations, %llu of them writes\n",
           (unsigned long long)atomic_load(&client.head->operation_count),
           (unsigned long long)atomic_load(&client.head->write_count));
    free(client.busy);
    return 0;
}
