/* Disk operations of the store: sets that run together, metadata through DMA buffers. Of the
 * store's reactor. Errors are the medium's. */
#ifndef SL_STORE_DISK_IO_H
#define SL_STORE_DISK_IO_H

#include "io/io.h"

struct sl_store;

/* A set of disk operations that run together. */
struct io_set {
    struct sl_disk *disk;
    unsigned count, capacity, next;
    int error;
    struct sl_disk_op *ops;
};
/* -ENOMEM. */
int io_set_init(struct io_set *set, struct sl_disk *disk, unsigned capacity);
/* Waits for the oldest one when all are in use. */
void io_set_add_co(struct io_set *set, enum sl_disk_opcode opcode, const struct sl_span *spans,
                   unsigned span_count, uint64_t offset_bytes, uint64_t length_bytes);
/* The first error of all since the last call. */
int io_set_wait_co(struct io_set *set);
/* Nothing may be in flight. */
void io_set_fini(struct io_set *set);
/* Metadata of any length through DMA buffers. */
int store_read_bytes_co(struct sl_disk *disk, struct sl_memory *memory, uint64_t offset_bytes,
                        void *bytes, uint64_t length_bytes);
int store_write_bytes_co(struct sl_disk *disk, struct sl_memory *memory, uint64_t offset_bytes,
                         const void *bytes, uint64_t length_bytes);
/* Nothing, where the disk keeps what it was given. A failure stops the store. */
int store_flush_co(struct sl_store *store);
/* [offset, offset + length) of `spans`. Answers how many; at most SL_DISK_SPANS_MAX. */
unsigned spans_slice(const struct sl_span *spans, unsigned span_count, uint32_t offset_bytes,
                     uint32_t length_bytes, struct sl_span *slice);

#endif
