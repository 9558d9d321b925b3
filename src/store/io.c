/* Disk operations of the store: sets that run together, metadata through DMA buffers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/private.h"

/* A set's operations are in a ring: `next` counts those begun, `count` those in flight. */
int io_set_init(struct io_set *set, struct sl_disk *disk, unsigned capacity)
{
    *set = (struct io_set){.disk = disk, .capacity = capacity};
    set->ops = calloc(capacity, sizeof(*set->ops));
    return set->ops != NULL ? 0 : -ENOMEM;
}

static int await_oldest_co(struct io_set *set)
{
    struct sl_disk_op *op = &set->ops[(set->next - set->count) % set->capacity];
    int64_t result = sl_wait_co(&op->wait);
    set->count--;
    if (result < 0 && set->error == 0)
        set->error = (int)result;
    return (int)sl_min(result, INT64_C(0));
}

void io_set_add_co(struct io_set *set, enum sl_disk_opcode opcode, const struct sl_span *spans,
                   unsigned span_count, uint64_t offset_bytes, uint64_t length_bytes)
{
    if (set->count == set->capacity)
        await_oldest_co(set);
    struct sl_disk_op *op = &set->ops[set->next % set->capacity];
    set->next++;
    set->count++;
    sl_disk_op_init(op, set->disk, opcode, spans, span_count, offset_bytes, length_bytes, 0);
    sl_disk_submit(op);
}

int io_set_wait_co(struct io_set *set)
{
    while (set->count > 0)
        await_oldest_co(set);
    int error = set->error;
    set->error = 0;
    return error;
}

void io_set_fini(struct io_set *set)
{
    SL_ASSERT(set->count == 0);
    free(set->ops);
}

unsigned spans_slice(const struct sl_span *spans, unsigned span_count, uint32_t offset_bytes,
                     uint32_t length_bytes, struct sl_span *slice)
{
    unsigned count = 0;
    for (unsigned i = 0; i < span_count && length_bytes > 0; i++) {
        if (offset_bytes >= spans[i].length_bytes) {
            offset_bytes -= spans[i].length_bytes;
            continue;
        }
        SL_ASSERT(count < SL_DISK_SPANS_MAX);
        slice[count] = spans[i];
        slice[count].data += offset_bytes;
        slice[count].length_bytes = sl_min(spans[i].length_bytes - offset_bytes, length_bytes);
        length_bytes -= slice[count].length_bytes;
        offset_bytes = 0;
        count++;
    }
    SL_ASSERT(length_bytes == 0);
    return count;
}

static int bytes_co(struct sl_disk *disk, struct sl_memory *memory, enum sl_disk_opcode opcode,
                    uint64_t offset_bytes, uint8_t *bytes, uint64_t length_bytes)
{
    uint64_t most = sl_min(sl_align_up(length_bytes, SL_BLOCK_BYTES), SL_MIB);
    struct sl_buf *buf = sl_buf_alloc_co(memory, (uint32_t)most, SL_RESERVE_CHECKPOINT);
    if (buf == NULL)
        return -ENOMEM;
    int error = 0;
    for (uint64_t done = 0; done < length_bytes && error == 0; done += most) {
        uint64_t step = sl_min(length_bytes - done, most);
        uint32_t padded = (uint32_t)sl_align_up(step, SL_BLOCK_BYTES);
        struct sl_span span = sl_buf_span(buf, 0, padded);
        if (opcode == SL_DISK_WRITE) {
            memcpy(span.data, bytes + done, step); /* header: metadata */
            memset(span.data + step, 0, padded - step);
        }
        error = sl_disk_rw_co(disk, opcode, &span, 1, offset_bytes + done, padded, 0);
        if (error == 0 && opcode == SL_DISK_READ)
            memcpy(bytes + done, span.data, step); /* header: metadata */
    }
    sl_buf_unref(buf);
    return error;
}

int store_read_bytes_co(struct sl_disk *disk, struct sl_memory *memory, uint64_t offset_bytes,
                        void *bytes, uint64_t length_bytes)
{
    return bytes_co(disk, memory, SL_DISK_READ, offset_bytes, bytes, length_bytes);
}

int store_write_bytes_co(struct sl_disk *disk, struct sl_memory *memory, uint64_t offset_bytes,
                         const void *bytes, uint64_t length_bytes)
{
    return bytes_co(disk, memory, SL_DISK_WRITE, offset_bytes, (uint8_t *)(uintptr_t)bytes,
                    length_bytes);
}

int store_flush_co(struct sl_store *store)
{
    if (!store->config.disk_info.volatile_cache)
        return 0;
    int error = sl_disk_rw_co(store->config.disk, SL_DISK_FLUSH, NULL, 0, 0, 0, 0);
    /* What it was to make durable may be lost now, and a second flush would not say so. */
    if (error < 0)
        store_fail(store, error, "a flush", 0);
    return error;
}
