/*
 * Goal: whatever a client's scatter list looks like, the fragments of a request carry each of its
 * bytes to its place exactly once, in whole blocks; errors come through; bad requests are refused
 * before anything is sent. Method: a gateway over local storage that is a byte array; random
 * requests compared with a flat model.
 */
#include "../io/harness.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "core/error.h"
#include "gateway/gateway.h"

#define STORAGE_BYTES (40 * SL_MIB)
#define CLIENT_BYTES  (4 * SL_MIB)

static uint8_t *storage_bytes, *model_bytes, *client_bytes;
static int fail_with, fail_after;
static unsigned execute_count, flush_count;

static int fake_execute_co(void *target, enum sl_io_opcode opcode, uint64_t offset_bytes,
                           const struct sl_span *spans, unsigned span_count, uint32_t length_bytes)
{
    execute_count++;
    if (fail_with != 0 && fail_after-- == 0)
        return fail_with;
    if (opcode == SL_IO_FLUSH) {
        flush_count++;
        return 0;
    }
    assert_true(length_bytes > 0 && length_bytes <= SL_TRANSFER_BYTES_MAX);
    assert_true(sl_is_aligned(length_bytes | offset_bytes, SL_BLOCK_BYTES));
    assert_true(offset_bytes + length_bytes <= STORAGE_BYTES);
    assert_true(offset_bytes / (16 * SL_MIB) == (offset_bytes + length_bytes - 1) / (16 * SL_MIB));
    uint64_t at = offset_bytes;
    for (unsigned i = 0; i < span_count; i++) {
        if (opcode == SL_IO_WRITE)
            memcpy(storage_bytes + at, spans[i].data, spans[i].length_bytes);
        else
            memcpy(spans[i].data, storage_bytes + at, spans[i].length_bytes);
        at += spans[i].length_bytes;
    }
    if (opcode == SL_IO_READ || opcode == SL_IO_WRITE)
        assert_int_equal(at, offset_bytes + length_bytes);
    else
        memset(storage_bytes + offset_bytes, 0, length_bytes);
    sl_yield_co();
    return 0;
}

struct gateway_world {
    struct sl_gateway_group *group;
    struct sl_gateway *gateway;
    struct sl_memory *memory;
    struct sl_gateway_memory *client;
    const struct sl_volume *volume;
};

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

/* Pieces of whole 512-byte sectors, as virtio's. Answers the pieces, or 0 if they came out too
 * many. */
static unsigned scatter(uint64_t *random, uint32_t length_bytes, struct gateway_world *self,
                        struct sl_request_piece *pieces)
{
    unsigned count = 0;
    uint32_t unit = next_random(random) % 2 == 0 ? SL_BLOCK_BYTES : 512;
    uint64_t place = 0;
    while (length_bytes > 0) {
        uint32_t most = sl_min(length_bytes / unit, (uint32_t)(1 + next_random(random) % 300));
        uint32_t piece = (uint32_t)(1 + next_random(random) % most) * unit;
        if (count == SL_REQUEST_PIECES_MAX)
            return 0;
        pieces[count++] = (struct sl_request_piece){self->client, place, piece};
        place += piece + unit * (next_random(random) % 3); /* never overlapping */
        if (place > CLIENT_BYTES - SL_MIB)
            return 0;
        length_bytes -= piece;
    }
    return count;
}

static void model_apply(const struct sl_request *request)
{
    uint64_t at = request->offset_bytes;
    for (unsigned i = 0; i < request->piece_count; i++) {
        uint8_t *client = client_bytes + request->pieces[i].offset_bytes;
        if (request->opcode == SL_IO_WRITE)
            memcpy(model_bytes + at, client, request->pieces[i].length_bytes);
        else
            assert_memory_equal(model_bytes + at, client, request->pieces[i].length_bytes);
        at += request->pieces[i].length_bytes;
    }
}

static void random_requests_co(struct gateway_world *self)
{
    uint64_t random = 4;
    unsigned done = 0, too_fine = 0;
    for (unsigned round = 0; round < 1200; round++) {
        static struct sl_request_piece pieces[SL_REQUEST_PIECES_MAX];
        uint32_t length = (uint32_t)(1 + next_random(&random) % 500) * SL_BLOCK_BYTES;
        struct sl_request request = {
            .opcode = next_random(&random) % 2 == 0 ? SL_IO_READ : SL_IO_WRITE,
            .volume = self->volume,
            .offset_bytes =
                next_random(&random) % ((self->volume->size_bytes - length) / 4096) * 4096,
            .length_bytes = length,
            .pieces = pieces,
        };
        request.piece_count = scatter(&random, length, self, pieces);
        if (request.piece_count == 0)
            continue;
        if (request.opcode == SL_IO_WRITE) {
            for (unsigned i = 0; i < CLIENT_BYTES; i += 256)
                client_bytes[i] = (uint8_t)next_random(&random);
        }
        int error = sl_gateway_execute_co(self->gateway, &request);
        if (error == -EINVAL) { /* so fine that a fragment of six pieces ends inside a block */
            too_fine++;
            memcpy(model_bytes, storage_bytes, STORAGE_BYTES); /* the part before it was written */
            continue;
        }
        assert_int_equal(error, 0);
        model_apply(&request);
        done++;
    }
    assert_true(done > 200);
    assert_memory_equal(model_bytes, storage_bytes, STORAGE_BYTES);
}

static void bad_requests_co(struct gateway_world *self)
{
    struct sl_request_piece piece = {self->client, 0, SL_BLOCK_BYTES};
    struct sl_request good = {.opcode = SL_IO_READ,
                              .volume = self->volume,
                              .length_bytes = SL_BLOCK_BYTES,
                              .piece_count = 1,
                              .pieces = &piece};
    struct sl_request bad = good;
    execute_count = 0;
    bad.length_bytes = 0;
    assert_int_equal(sl_gateway_execute_co(self->gateway, &bad), -EINVAL);
    bad = good;
    bad.offset_bytes = 512;
    assert_int_equal(sl_gateway_execute_co(self->gateway, &bad), -EINVAL);
    bad = good;
    bad.offset_bytes = self->volume->size_bytes;
    assert_int_equal(sl_gateway_execute_co(self->gateway, &bad), -ERANGE);
    bad.offset_bytes = UINT64_MAX - 4095;
    assert_int_equal(sl_gateway_execute_co(self->gateway, &bad), -ERANGE);
    bad = good;
    bad.length_bytes = 2 * SL_BLOCK_BYTES; /* pieces do not add up */
    assert_int_equal(sl_gateway_execute_co(self->gateway, &bad), -EINVAL);
    bad = good;
    bad.opcode = 77;
    assert_int_equal(sl_gateway_execute_co(self->gateway, &bad), -EOPNOTSUPP);
    piece.offset_bytes = CLIENT_BYTES;
    assert_int_equal(sl_gateway_execute_co(self->gateway, &good), -EINVAL);
    piece.offset_bytes = UINT64_MAX - 100;
    assert_int_equal(sl_gateway_execute_co(self->gateway, &good), -EINVAL);
    assert_int_equal(execute_count, 0);
    piece.offset_bytes = 0;
    assert_int_equal(sl_gateway_execute_co(self->gateway, &good), 0);
}

/* A read into memory that was given for reading alone killed the process (in-process storage) or
 * the connection of all clients (a link's remote rights): it is the client's error, no more. */
static void read_only_memory_co(struct gateway_world *self)
{
    struct sl_gateway_memory *memory;
    int memfd = memfd_create("read-only", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(memfd, SL_MIB), 0);
    assert_int_equal(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    assert_int_equal(sl_gateway_memory_register_co(self->group, memfd, SL_MIB, false, &memory), 0);
    struct sl_request_piece piece = {memory, 0, SL_BLOCK_BYTES};
    struct sl_request request = {.opcode = SL_IO_READ,
                                 .volume = self->volume,
                                 .length_bytes = SL_BLOCK_BYTES,
                                 .piece_count = 1,
                                 .pieces = &piece};
    assert_int_equal(sl_gateway_execute_co(self->gateway, &request), -SL_E_KEY);
    request.opcode = SL_IO_WRITE;
    assert_int_equal(sl_gateway_execute_co(self->gateway, &request), 0);
    memset(model_bytes, 0, SL_BLOCK_BYTES);
    sl_gateway_memory_unregister_co(memory);
}

static void errors_and_flush_co(struct gateway_world *self)
{
    struct sl_request_piece piece = {self->client, 0, 3 * SL_MIB};
    struct sl_request request = {.opcode = SL_IO_READ,
                                 .volume = self->volume,
                                 .length_bytes = 3 * SL_MIB,
                                 .piece_count = 1,
                                 .pieces = &piece};
    for (fail_after = 0; fail_after < 3;) {
        int which = fail_after;
        fail_with = -SL_E_CHECKSUM;
        assert_int_equal(sl_gateway_execute_co(self->gateway, &request), -SL_E_CHECKSUM);
        fail_with = 0;
        fail_after = which + 1;
    }
    request = (struct sl_request){.opcode = SL_IO_FLUSH, .volume = self->volume};
    assert_int_equal(sl_gateway_execute_co(self->gateway, &request), 0);
    assert_int_equal(flush_count, 1);
    request = (struct sl_request){.opcode = SL_IO_DISCARD,
                                  .volume = self->volume,
                                  .offset_bytes = SL_MIB,
                                  .length_bytes = 20 * SL_MIB};
    assert_int_equal(sl_gateway_execute_co(self->gateway, &request), 0);
    memset(model_bytes + SL_MIB, 0, 20 * SL_MIB);
    assert_memory_equal(model_bytes, storage_bytes, STORAGE_BYTES);
}

static void gateway_main_co(struct world *world)
{
    struct gateway_world self = {0};
    void *targets[1] = {NULL};
    struct sl_local_storage local = {.capacity_bytes = STORAGE_BYTES,
                                     .shard_bytes = 16 * SL_MIB,
                                     .targets = targets,
                                     .execute_co = fake_execute_co};
    struct sl_gateway_config config = {.local = &local};
    struct sl_memory_config memory_config = {.limit_bytes = 8 * SL_MIB, .numa_node = -1};
    char error[512];
    assert_int_equal(sl_memory_create(&memory_config, &self.memory), 0);
    assert_int_equal(sl_gateway_group_create(&config, 1, &self.group, error, sizeof(error)), 0);
    assert_int_equal(
        sl_gateway_create(self.group, 0, world->reactor, self.memory, NULL, &self.gateway), 0);
    int memfd = memfd_create("client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(memfd, CLIENT_BYTES), 0);
    assert_int_equal(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    client_bytes = mmap(NULL, CLIENT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    assert_int_equal(
        sl_gateway_memory_register_co(self.group, memfd, CLIENT_BYTES, true, &self.client), 0);
    assert_int_equal(sl_gateway_volume_co(self.gateway, NULL, UINT64_MAX, &self.volume), 0);
    assert_int_equal(sl_gateway_volume_co(self.gateway, "other", UINT64_MAX, &self.volume),
                     -ENOENT);
    assert_int_equal(self.volume->size_bytes, STORAGE_BYTES);
    random_requests_co(&self);
    bad_requests_co(&self);
    read_only_memory_co(&self);
    errors_and_flush_co(&self);
    sl_gateway_memory_unregister_co(self.client);
    munmap(client_bytes, CLIENT_BYTES);
    sl_gateway_stop_co(self.gateway);
    sl_gateway_destroy(self.gateway);
    sl_gateway_group_destroy(self.group);
    sl_memory_destroy(self.memory);
}

static void test_gateway(void **state)
{
    struct world world;
    storage_bytes = calloc(1, STORAGE_BYTES);
    model_bytes = calloc(1, STORAGE_BYTES);
    assert_true(storage_bytes != NULL && model_bytes != NULL);
    world_create(&world, 64);
    world_run(&world, gateway_main_co, NULL);
    world_destroy(&world);
    free(storage_bytes);
    free(model_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gateway)};
    if (world_is_missing())
        return TEST_SKIP;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
