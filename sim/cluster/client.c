/*
 * Clients: write blocks that nobody else has written, read any, and note when they began and when
 * they heard of the end. A buffer that is not in use holds a canary: what lands in it, or is taken
 * from it, late is seen.
 */
#include "sim/cluster/cluster.h"

#include <errno.h>
#include <string.h>

#include "core/error.h"

#define CANARY 0xeeu

/* ---- blocks that tell what they are ---- */

static uint64_t word_of(uint64_t value, unsigned i)
{
    uint64_t x = value * UINT64_C(0x9e3779b97f4a7c15) + i;
    return x ^ (x >> 29);
}

void client_fill(uint8_t *data, uint64_t value)
{
    uint64_t *words = (uint64_t *)(void *)data;
    words[0] = value;
    for (unsigned i = 1; i < SL_BLOCK_BYTES / 8; i++)
        words[i] = value == 0 ? 0 : word_of(value, i);
}

uint64_t client_value(const uint8_t *data)
{
    const uint64_t *words = (const uint64_t *)(const void *)data;
    for (unsigned i = 1; i < SL_BLOCK_BYTES / 8; i++) {
        if (words[i] != (words[0] == 0 ? 0 : word_of(words[0], i)))
            return UINT64_MAX;
    }
    return words[0];
}

static uint8_t *buffer_of(const struct client *client)
{
    return client->cluster->memory + client->index * (size_t)CLIENT_BYTES;
}

static void check_canary(struct client *client)
{
    const uint8_t *data = buffer_of(client);
    if (client->canary && (data[0] != CANARY || memcmp(data, data + 1, CLIENT_BYTES - 1) != 0))
        cluster_violation(client->cluster, -1,
                          "client %u: something landed in its buffer after its operation had ended",
                          client->index);
}

static void put_canary(struct client *client)
{
    memset(buffer_of(client), CANARY, CLIENT_BYTES);
    client->canary = true;
}

/* ---- operations ---- */

static uint64_t next_random(struct client *client)
{
    client->random = client->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return client->random >> 33;
}

static size_t begin(struct client *client, bool is_write, unsigned first, unsigned count)
{
    struct cluster *cluster = client->cluster;
    if (cluster->operation_count == cluster->operation_capacity) {
        cluster->operation_capacity = sl_max(cluster->operation_capacity * 2, (size_t)1024);
        cluster->operations = heap_keep(cluster->operations,
                                        cluster->operation_capacity * sizeof(*cluster->operations));
    }
    size_t at = cluster->operation_count++;
    struct operation *operation = &cluster->operations[at];
    *operation = (struct operation){
        .start = ++cluster->tick,
        .finish = UINT64_MAX,
        .start_ns = cluster_now(cluster),
        .is_write = is_write,
        .first = (uint8_t)first,
        .count = (uint8_t)count,
        .client = (uint8_t)client->index,
    };
    client->current = at + 1;
    return at;
}

/* A group has decided that it never applies before a write fails. Of one that crosses the edge of a
 * stripe a part may have been done, and of one whose session was lost after several attempts it is
 * known only that it does not apply later. Who ends has nothing decided. */
static enum outcome replicated_outcome(const struct cluster *cluster,
                                       const struct operation *operation, int error)
{
    unsigned block = operation->first % RUN_BLOCKS;
    bool crosses = block < RUN_BLOCKS / 2 && block + operation->count > RUN_BLOCKS / 2;
    if (error == -ECANCELED)
        return OUTCOME_UNKNOWN;
    return crosses || error == -SL_E_NO_SESSION ? OUTCOME_UNTIL : OUTCOME_NEVER;
}

/* Every client asks through the same reactor of the same gateway. */
static bool asks_one_way(const struct cluster *cluster)
{
    return cluster->gateway_count == 1 &&
           cluster->processes[cluster->target_count].reactor_count == 1;
}

/* What a failure leaves open. Refusals never reach a disk. A time-out comes when the connection is
 * torn down, and the next connection of the same reactor of the same gateway waits for what the old
 * one left behind: for who asks through it, it is settled. Through another one it may take effect
 * later (seed 5000439). A failed disk may have taken the write. */
static enum outcome outcome_of(const struct client *client, const struct operation *operation,
                               int error)
{
    if (client->cluster->replicated && error < 0)
        return replicated_outcome(client->cluster, operation, error);
    switch (error) {
    case 0:
        return OUTCOME_DONE;
    case -EINVAL:
    case -ERANGE:
    case -EROFS:
    case -EOPNOTSUPP:
        return OUTCOME_NEVER;
    case -ETIMEDOUT:
    case -SL_E_UNREACHABLE:
        return asks_one_way(client->cluster) ? OUTCOME_UNTIL : OUTCOME_UNKNOWN;
    default:
        return OUTCOME_UNKNOWN;
    }
}

static void note_failure(struct client *client, const struct operation *operation)
{
    cluster_note(client->cluster, "client %u: %s of %u blocks at %u: %s after %.3f s",
                 client->index, operation->is_write ? "write" : "read", operation->count,
                 operation->first, sl_error_name(operation->error),
                 (double)(operation->finish_ns - operation->start_ns) / 1e9);
}

bool cluster_is_sound(const struct cluster *cluster)
{
    unsigned least = cluster->replicated ? TARGETS_MAX : 1;
    for (unsigned i = 0; cluster->replicated && i < cluster->meta.group_count; i++)
        least = sl_min(least, cluster->meta_groups[i].replica_count);
    unsigned bad = cluster->rotten | (cluster->replicated ? cluster->unread : 0);
    return (unsigned)__builtin_popcount(bad) <= (least - 1) / 2;
}

static void finish(struct client *client, size_t at, int error)
{
    struct cluster *cluster = client->cluster;
    struct operation *operation = &cluster->operations[at];
    operation->finish = ++cluster->tick;
    operation->finish_ns = cluster_now(cluster);
    operation->error = error;
    operation->outcome = (uint8_t)outcome_of(client, operation, error);
    client->current = 0;
    client->done_count += error == 0;
    if (error < 0)
        note_failure(client, operation);
    if (operation->is_write) {
        cluster->effects[EFFECT_WRITES_DONE] += operation->outcome == OUTCOME_DONE;
        cluster->effects[EFFECT_WRITES_UNKNOWN] += operation->outcome == OUTCOME_UNKNOWN;
        cluster->effects[EFFECT_WRITES_DECIDED_NEVER] += operation->outcome == OUTCOME_NEVER;
        cluster->effects[EFFECT_WRITES_UNTIL] += operation->outcome == OUTCOME_UNTIL;
    } else {
        cluster->effects[error == 0 ? EFFECT_READS_DONE : EFFECT_READS_FAILED]++;
    }
    /* A sound disk returns what was written to it. */
    if (error == -SL_E_CHECKSUM && cluster_is_sound(cluster))
        cluster_violation(cluster, operation->first,
                          "client %u: a block is damaged, and no disk was given a reason",
                          client->index);
    if (error == -SL_E_PROTOCOL || error == -SL_E_KEY || error == -EINVAL || error == -ERANGE ||
        error == -EROFS || error == -EOPNOTSUPP || error == -SL_E_FENCED || error == -EBUSY)
        cluster_violation(cluster, operation->first, "client %u: an honest request was refused: %s",
                          client->index, sl_error_name(error));
}

static int execute_co(struct client *client, const struct operation *operation)
{
    struct cluster *cluster = client->cluster;
    struct gateway_process *gateway = &client_gateway(client)->gateway;
    unsigned run = operation->first / RUN_BLOCKS, block = operation->first % RUN_BLOCKS;
    struct sl_request_piece pieces[2] = {
        {gateway->memory, client->index * (uint64_t)CLIENT_BYTES,
         operation->count * SL_BLOCK_BYTES},
    };
    unsigned piece_count = 1;
    if (operation->count > 1 && operation->start % 3 == 0) {
        piece_count = 2;
        pieces[0].length_bytes = SL_BLOCK_BYTES;
        pieces[1] =
            (struct sl_request_piece){gateway->memory, pieces[0].offset_bytes + SL_BLOCK_BYTES,
                                      (operation->count - 1u) * SL_BLOCK_BYTES};
    }
    struct sl_request request = {
        .opcode = operation->is_write ? SL_IO_WRITE : SL_IO_READ,
        .volume = client->volume,
        .epoch = gateway->epoch,
        .offset_bytes = cluster->run_bytes[run] + block * (uint64_t)SL_BLOCK_BYTES,
        .length_bytes = operation->count * SL_BLOCK_BYTES,
        .piece_count = piece_count,
        .pieces = pieces,
    };
    return sl_gateway_execute_co(gateway->gateways[client_reactor(client)], &request);
}

static void write_co(struct client *client, unsigned first, unsigned count)
{
    struct cluster *cluster = client->cluster;
    size_t at = begin(client, true, first, count);
    for (unsigned i = 0; i < count; i++) {
        uint64_t value = ++cluster->last_value;
        cluster->operations[at].values[i] = value;
        client_fill(buffer_of(client) + i * SL_BLOCK_BYTES, value);
    }
    struct operation operation = cluster->operations[at];
    finish(client, at, execute_co(client, &operation));
}

static void read_co(struct client *client, unsigned first, unsigned count)
{
    struct cluster *cluster = client->cluster;
    size_t at = begin(client, false, first, count);
    struct operation operation = cluster->operations[at];
    int error = execute_co(client, &operation);
    for (unsigned i = 0; i < count && error == 0; i++) {
        uint64_t value = client_value(buffer_of(client) + i * SL_BLOCK_BYTES);
        cluster->operations[at].values[i] = value;
        if (value == UINT64_MAX)
            cluster_violation(cluster, (int)(first + i),
                              "client %u read a block that is torn, or was never written",
                              client->index);
    }
    finish(client, at, error);
}

/* Storage without sessions takes a retry that it has taken before a second time, after a write of
 * somebody else maybe (sim/cluster/README.md): there no two clients write to a block at once. */
static bool may_write(const struct client *client, unsigned first, unsigned count)
{
    const struct cluster *cluster = client->cluster;
    for (unsigned i = 0; i < cluster->client_count && !cluster->replicated; i++) {
        size_t at = cluster->clients[i].current;
        const struct operation *other = at != 0 ? &cluster->operations[at - 1] : NULL;
        if (other != NULL && other->is_write && other->first < first + count &&
            first < other->first + other->count)
            return false;
    }
    return true;
}

/* At the end: everything, so that what was acknowledged is asked for. */
static void read_back_co(struct client *client)
{
    struct cluster *cluster = client->cluster;
    for (unsigned run = 0; run < RUNS; run++) {
        /* One by one: a damaged block, where disks were given a reason, hides no other. */
        for (unsigned i = 0; i < RUN_BLOCKS && cluster->violation[0] == '\0'; i++)
            read_co(client, run * RUN_BLOCKS + i, 1);
    }
    cluster->read_back_done = true;
}

/* Each reactor of a gateway learns the volume itself. */
static void find_volume_co(struct client *client)
{
    struct process *process = client_gateway(client);
    unsigned i = client_reactor(client);
    int error;
    do {
        uint64_t deadline_ns = sl_reactor_now_ns(process->nodes[i].reactor) + SECOND;
        error =
            sl_gateway_volume_co(process->gateway.gateways[i], NULL, deadline_ns, &client->volume);
        if (error < 0 && error != -ETIMEDOUT)
            cluster_violation(client->cluster, -1, "client %u gets no volume: %s", client->index,
                              sl_error_name(error));
    } while (error < 0 && !process->stopping && client->cluster->violation[0] == '\0');
}

void client_co(void *argument)
{
    struct client *client = argument;
    struct cluster *cluster = client->cluster;
    struct process *process = client_gateway(client);
    find_volume_co(client);
    while (!process->stopping && cluster->violation[0] == '\0') {
        /* Bursts, and quiet times between them. */
        uint64_t think_ns = next_random(client) % 4 != 0
                                ? next_random(client) % (client->think_ns / 8 + 1)
                                : next_random(client) % (client->think_ns * 5);
        sl_sleep_co(think_ns);
        if (cluster->reading_back && client->index == 0 && !cluster->read_back_done)
            read_back_co(client);
        if (cluster->quiet || process->stopping)
            continue;
        check_canary(client);
        client->canary = false;
        unsigned first = (unsigned)(next_random(client) % BLOCKS);
        /* Some blocks are everybody's favourites. */
        if (next_random(client) % 2 == 0)
            first = (unsigned)(next_random(client) % 3 + RUN_BLOCKS / 2 - 1);
        unsigned most = RUN_BLOCKS - first % RUN_BLOCKS;
        unsigned count = 1 + (unsigned)(next_random(client) % most);
        if (next_random(client) % 2 == 0)
            count = 1;
        if (next_random(client) % 2 == 0 && may_write(client, first, count))
            write_co(client, first, count);
        else
            read_co(client, first, count);
        put_canary(client);
    }
    process->gateway.clients_left--;
}

void client_orphaned(struct client *client)
{
    struct cluster *cluster = client->cluster;
    if (client->current != 0 && cluster->operations[client->current - 1].is_write)
        cluster->effects[EFFECT_WRITES_OPEN_AT_CRASH]++;
    if (client->current != 0)
        put_canary(client);
    client->current = 0;
}
