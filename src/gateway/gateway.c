/*
 * A reactor's gateway: checks a request, cuts it into fragments (stripe, transfer size, remote
 * pieces) and runs them; statistics; start and stop. Owned by its reactor.
 */
#include "gateway/gateway.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/call.h"
#include "core/error.h"
#include "core/log.h"
#include "gateway/layout.h"
#include "gateway/private.h"

/* Fragments of one request that run side by side: enough to keep 16 servers at work on a 16 MiB
 * request. */
#define FRAGMENT_WINDOW 16

struct batch {
    struct sl_gateway *gateway;
    unsigned pending_count;
    int error;
    struct sl_wait_queue finished;
};

/* Walks a request from front to back. */
struct cursor {
    const struct sl_request *request;
    uint64_t done_bytes;
    unsigned piece;
    uint32_t piece_done_bytes;
};

static bool has_payload(enum sl_io_opcode opcode)
{
    return opcode == SL_IO_READ || opcode == SL_IO_WRITE;
}

static int check_pieces(const struct sl_request *request)
{
    uint64_t sum = 0;
    if (request->piece_count == 0 || request->piece_count > SL_REQUEST_PIECES_MAX)
        return -EINVAL;
    for (unsigned i = 0; i < request->piece_count; i++) {
        const struct sl_request_piece *piece = &request->pieces[i];
        uint64_t bytes = piece->memory->length_bytes;
        if (piece->length_bytes == 0 || piece->offset_bytes > bytes ||
            piece->length_bytes > bytes - piece->offset_bytes)
            return -EINVAL;
        /* Here: over a link it would cost the connection, in this process the process. */
        if (request->opcode == SL_IO_READ && !piece->memory->writable)
            return -SL_E_KEY;
        sum += piece->length_bytes;
    }
    return sum == request->length_bytes ? 0 : -EINVAL;
}

static int check_request(const struct sl_request *request)
{
    const struct sl_volume *volume = request->volume;
    if (request->opcode == SL_IO_FLUSH)
        return 0;
    if (request->opcode < SL_IO_READ || request->opcode > SL_IO_WRITE_ZEROES)
        return -EOPNOTSUPP;
    if (request->length_bytes == 0 || request->length_bytes % SL_BLOCK_BYTES != 0 ||
        request->offset_bytes % SL_BLOCK_BYTES != 0)
        return -EINVAL;
    if (request->offset_bytes > volume->size_bytes ||
        request->length_bytes > volume->size_bytes - request->offset_bytes)
        return -ERANGE;
    if (request->opcode != SL_IO_READ && volume->read_only)
        return -EROFS;
    if (!has_payload(request->opcode))
        return 0;
    if (request->length_bytes > SL_REQUEST_BYTES_MAX)
        return -EINVAL;
    return check_pieces(request);
}

/* Takes up to `limit_bytes` of the request's pieces into the fragment; what does not fit in its
 * spans stays for the next one. */
static void take_spans(struct sl_gateway *gateway, struct cursor *cursor, uint32_t limit_bytes,
                       struct fragment *fragment)
{
    uint32_t taken_bytes = 0;
    while (taken_bytes < limit_bytes && fragment->span_count < SL_REMOTE_PIECES_MAX) {
        const struct sl_request_piece *piece = &cursor->request->pieces[cursor->piece];
        uint32_t length_bytes =
            sl_min(limit_bytes - taken_bytes, piece->length_bytes - cursor->piece_done_bytes);
        struct sl_region *region = piece->memory->regions[gateway->index];
        fragment->memories[fragment->span_count] = piece->memory;
        fragment->spans[fragment->span_count++] = (struct sl_span){
            region->base + piece->offset_bytes + cursor->piece_done_bytes, length_bytes, region};
        taken_bytes += length_bytes;
        cursor->piece_done_bytes += length_bytes;
        if (cursor->piece_done_bytes == piece->length_bytes) {
            cursor->piece++;
            cursor->piece_done_bytes = 0;
        }
    }
    fragment->length_bytes = taken_bytes;
}

/* The next fragment. -EINVAL: the client's scatter list is so fine that a fragment would end inside
 * a block. */
static int next_fragment(struct sl_gateway *gateway, struct cursor *cursor, uint64_t deadline_ns,
                         struct fragment *fragment)
{
    const struct sl_request *request = cursor->request;
    uint64_t left_bytes = request->length_bytes - cursor->done_bytes;
    struct sl_extent extent =
        sl_layout_extent(request->volume, request->offset_bytes + cursor->done_bytes,
                         sl_min(left_bytes, (uint64_t)SL_TRANSFER_BYTES_MAX));
    fragment->opcode = request->opcode;
    fragment->volume = request->volume;
    fragment->epoch = request->epoch;
    fragment->server = extent.server;
    fragment->server_offset_bytes = extent.server_offset_bytes;
    fragment->length_bytes = extent.length_bytes;
    fragment->deadline_ns = deadline_ns;
    fragment->trace_id = request->trace_id;
    fragment->span_count = 0;
    fragment->batch = NULL;
    if (has_payload(request->opcode))
        take_spans(gateway, cursor, extent.length_bytes, fragment);
    cursor->done_bytes += fragment->length_bytes;
    return fragment->length_bytes % SL_BLOCK_BYTES == 0 ? 0 : -EINVAL;
}

static void fragment_entry_co(void *argument)
{
    struct fragment *fragment = argument;
    struct batch *batch = fragment->batch;
    int error = sl_fragment_execute_co(batch->gateway, fragment);
    if (error < 0 && batch->error == 0)
        batch->error = error;
    sl_pool_put(&batch->gateway->fragments, fragment);
    batch->pending_count--;
    sl_wait_queue_wake_one(&batch->finished, 0);
}

static void batch_run(struct batch *batch, struct fragment *fragment)
{
    fragment->batch = batch;
    batch->pending_count++;
    int error = sl_co_spawn(batch->gateway->reactor, fragment_entry_co, fragment);
    if (error < 0) {
        batch->error = error;
        batch->pending_count--;
        sl_pool_put(&batch->gateway->fragments, fragment);
    }
}

static void batch_wait_co(struct batch *batch, unsigned pending_most)
{
    while (batch->pending_count > pending_most)
        sl_wait_queue_co(&batch->finished);
}

/* Several fragments side by side; all have ended when it returns, whatever the outcome. */
static int execute_many_co(struct sl_gateway *gateway, struct cursor *cursor, uint64_t deadline_ns,
                           const struct fragment *first)
{
    struct batch batch = {.gateway = gateway};
    sl_wait_queue_init(&batch.finished);
    struct fragment *fragment = sl_pool_get(&gateway->fragments);
    if (fragment == NULL)
        return -ENOMEM;
    *fragment = *first;
    batch_run(&batch, fragment);
    while (cursor->done_bytes < cursor->request->length_bytes && batch.error == 0) {
        batch_wait_co(&batch, FRAGMENT_WINDOW - 1);
        fragment = sl_pool_get(&gateway->fragments);
        int error =
            fragment == NULL ? -ENOMEM : next_fragment(gateway, cursor, deadline_ns, fragment);
        if (error < 0) {
            batch.error = batch.error != 0 ? batch.error : error;
            if (fragment != NULL)
                sl_pool_put(&gateway->fragments, fragment);
            break;
        }
        batch_run(&batch, fragment);
    }
    batch_wait_co(&batch, 0);
    return batch.error;
}

/* A flush goes to every server under the volume: one reactor of it flushes the whole device. A
 * replicated write is durable when it is acknowledged. */
static int execute_flush_co(struct sl_gateway *gateway, const struct sl_request *request,
                            uint64_t deadline_ns)
{
    struct batch batch = {.gateway = gateway};
    if (gateway->groups != NULL)
        return 0;
    sl_wait_queue_init(&batch.finished);
    for (unsigned i = 0; i < request->volume->server_count && batch.error == 0; i++) {
        struct fragment *fragment = sl_pool_get(&gateway->fragments);
        if (fragment == NULL) {
            batch.error = -ENOMEM;
            break;
        }
        *fragment = (struct fragment){
            .opcode = SL_IO_FLUSH,
            .server = request->volume->servers[i],
            .server_offset_bytes = request->volume->base_bytes[i],
            .deadline_ns = deadline_ns,
            .trace_id = request->trace_id,
        };
        batch_run(&batch, fragment);
    }
    batch_wait_co(&batch, 0);
    return batch.error;
}

static void count_request(struct sl_gateway_statistics *statistics,
                          const struct sl_request *request, int error)
{
    if (error < 0)
        statistics->error_count++;
    else if (request->opcode == SL_IO_READ) {
        statistics->read_count++;
        statistics->read_bytes += request->length_bytes;
    } else if (request->opcode == SL_IO_WRITE) {
        statistics->write_count++;
        statistics->write_bytes += request->length_bytes;
    } else {
        statistics->other_count++;
    }
}

int sl_gateway_execute_co(struct sl_gateway *gateway, const struct sl_request *request)
{
    int error = check_request(request);
    if (error == 0 && gateway->closing)
        error = -ECANCELED;
    if (error == 0) {
        uint64_t deadline_ns = sl_reactor_now_ns(gateway->reactor) + gateway->group->io_timeout_ns;
        struct cursor cursor = {.request = request};
        struct fragment fragment;
        gateway->statistics.inflight_count++;
        if (request->opcode == SL_IO_FLUSH) {
            error = execute_flush_co(gateway, request, deadline_ns);
        } else if ((error = next_fragment(gateway, &cursor, deadline_ns, &fragment)) == 0) {
            error = cursor.done_bytes == request->length_bytes
                        ? sl_fragment_execute_co(gateway, &fragment)
                        : execute_many_co(gateway, &cursor, deadline_ns, &fragment);
        }
        gateway->statistics.inflight_count--;
        if (gateway->closing)
            sl_wait_queue_wake_all(&gateway->learned, 0);
    }
    count_request(&gateway->statistics, request, error);
    return error;
}

int sl_gateway_volume_co(struct sl_gateway *gateway, const char *name, uint64_t deadline_ns,
                         const struct sl_volume **result)
{
    while (!gateway->laid_out) {
        if (gateway->stopping)
            return -ECANCELED;
        if (sl_wait_queue_until_co(&gateway->learned, deadline_ns) == -ETIMEDOUT) {
            for (unsigned i = 0; i < gateway->group->server_count; i++) {
                if (!gateway->servers[i].known)
                    sl_log_warn("gateway", "storage server %s has not answered yet",
                                gateway->servers[i].address);
            }
            return -ETIMEDOUT;
        }
    }
    if (gateway->layout_error < 0)
        return gateway->layout_error;
    for (unsigned i = 0; i < sl_max(gateway->group->volume_count, 1u); i++) {
        if (name == NULL || name[0] == '\0' || strcmp(gateway->volumes[i].name, name) == 0) {
            *result = &gateway->volumes[i];
            return 0;
        }
    }
    return -ENOENT;
}

int sl_gateway_create(struct sl_gateway_group *group, unsigned reactor_index,
                      struct sl_reactor *reactor, struct sl_memory *memory,
                      struct sl_fabric *fabric, struct sl_gateway **result)
{
    struct sl_gateway *gateway = calloc(1, sizeof(*gateway));
    if (gateway == NULL)
        return -ENOMEM;
    gateway->group = group;
    gateway->index = reactor_index;
    gateway->reactor = reactor;
    gateway->memory = memory;
    gateway->fabric = fabric;
    gateway->instance_id = sl_reactor_random_u64(reactor);
    gateway->servers = calloc(group->server_count, sizeof(*gateway->servers));
    gateway->volumes = calloc(sl_max(group->volume_count, 1u), sizeof(*gateway->volumes));
    if (gateway->servers == NULL || gateway->volumes == NULL) {
        free(gateway->servers);
        free(gateway->volumes);
        free(gateway);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < group->server_count; i++) {
        gateway->servers[i].gateway = gateway;
        gateway->servers[i].index = i;
        gateway->servers[i].address =
            i < group->remote_count ? group->addresses[i] : "(this process)";
    }
    sl_wait_queue_init(&gateway->stopped);
    sl_wait_queue_init(&gateway->learned);
    sl_pool_init(&gateway->fragments, sizeof(struct fragment), 64, 0);
    group->members[reactor_index] = gateway;
    *result = gateway;
    int error = group->cluster != NULL ? sl_cluster_open(gateway) : 0;
    return error < 0 ? error : sl_gateway_routes_start(gateway);
}

void sl_gateway_stop_co(struct sl_gateway *gateway)
{
    gateway->closing = true;
    if (gateway->groups != NULL)
        sl_cluster_leave_co(gateway);
    sl_gateway_routes_stop_co(gateway);
    while (gateway->statistics.inflight_count > 0)
        sl_wait_queue_co(&gateway->learned);
}

void sl_gateway_destroy(struct sl_gateway *gateway)
{
    if (gateway == NULL)
        return;
    SL_ASSERT(gateway->coroutine_count == 0);
    gateway->group->members[gateway->index] = NULL;
    sl_gateway_routes_free(gateway);
    sl_cluster_close(gateway);
    sl_pool_fini(&gateway->fragments);
    free(gateway->servers);
    free(gateway->volumes);
    free(gateway);
}

struct sl_reactor *sl_gateway_reactor(struct sl_gateway *gateway)
{
    return gateway->reactor;
}
