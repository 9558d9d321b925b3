/*
 * A gateway for the tests of comch: one or two reactors with a thread each, a volume of 1 MiB in
 * memory, copies done on the initiator's memory, I/O that can be held back.
 */
#ifndef TESTS_COMCH_GATEWAY_H
#define TESTS_COMCH_GATEWAY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "comch/client.h"
#include "comch/client_private.h"
#include "comch/path.h"
#include "core/error.h"
#include "core/reactor.h"

#define VOLUME_BYTES SL_MIB
#define DEPTH_MAX    256u
#define TIMEOUT_NS   (20 * SL_NS_PER_S)
/* What the gateway does wrong when this volume is asked for: there is none. */
#define NO_VOLUME "nothing-there"

struct test_session {
    struct test_gateway *gateway;
    struct sl_comch_session *session;
    struct {
        uint32_t id;
        uint8_t *base;
        uint64_t length_bytes;
        bool writable;
    } memories[SL_COMCH_MEMORIES_MAX];
    struct test_queue *queues[SL_COMCH_QUEUES_MAX];
    unsigned queue_count;
};

struct test_gateway {
    unsigned reactor_count;
    struct sl_io *io[2];
    struct sl_reactor *reactor[2];
    pthread_t thread[2];
    struct sl_comch_server *server;
    char directory[64];
    char path[SL_COMCH_PATH_BYTES_MAX];
    uint8_t *volume;
    atomic_bool hold;          /* I/O waits until this is false */
    atomic_uint held;          /* I/O that waits */
    atomic_uint session_count; /* now */
    atomic_uint closed_count;
    atomic_int last_reason;
    atomic_uint outstanding_when_closed; /* as closed_co() found it */
    atomic_uint received_on[2];
};

/* In a new directory of its own. */
void test_gateway_open(struct test_gateway *gateway, unsigned reactor_count);
/* Ends what is still connected. */
void test_gateway_close(struct test_gateway *gateway);
/* Waits until `count` sessions have ended: asserts that they do. */
void test_gateway_await_closed(struct test_gateway *gateway, unsigned count);
/* Runs it in a coroutine of reactor 0, and waits. */
int64_t test_gateway_call(struct test_gateway *gateway, int64_t (*function_co)(void *argument),
                          void *argument);

/* Connects, queries, inits. */
struct sl_comch_client *test_client_open(struct test_gateway *gateway);
/* Waits for one completion. */
struct sl_io_message test_completion(struct sl_comch_client_queue *queue);
/* Submits one I/O on the volume. */
void test_submit(struct sl_comch_client_queue *queue, enum sl_io_opcode opcode, uint32_t request_id,
                 uint64_t offset_bytes, uint32_t length_bytes, const struct sl_comch_memory *memory,
                 uint64_t memory_offset);

#endif
