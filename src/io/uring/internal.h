/*
 * What the files of src/io/uring share: the ring, and the operation that each submission points to.
 *
 * Invariants
 * - Each submission's user_data is a struct uring_op (or NULL: nobody wants its completion). The op
 * lives in the caller's object or on the stack of the coroutine that waits, and stays there until
 * its last completion: no I/O allocates.
 * - outstanding_count = submissions whose last completion has not been reaped, so that destroying
 * the ring knows when the kernel has let go of everything.
 * - Only the reactor's thread touches this, but for notify().
 */
#ifndef SL_IO_URING_INTERNAL_H
#define SL_IO_URING_INTERNAL_H

#include <liburing.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "core/list.h"
#include "io/io_ops.h"
#include "mem/memory.h"
#include "mem/region.h"

/* A reactor's disks: as many as a node has, and some. Those beyond go unregistered. */
#define URING_FILE_SLOTS 64
/* Fixed buffers: arenas and clients' memories of one reactor, 1 GiB a slot (the kernel's limit). */
#define URING_BUFFER_SLOTS      128
#define URING_BUFFER_SLOT_BYTES SL_GIB

struct uring_op {
    void (*complete)(struct uring_op *op, int32_t result, uint32_t flags);
};

/* Who may write the notify eventfd: only who finds the reactor asleep. */
enum uring_wake { URING_AWAKE, URING_ASLEEP, URING_NOTIFIED };

struct sl_uring {
    struct sl_io io;
    struct io_uring ring;
    bool enabled; /* io_uring_enable_rings() was called, by `thread` */
    pid_t thread;
    uint64_t outstanding_count;
    uint64_t batch; /* what is queued now; the next one begins when the kernel was given this one */

    _Atomic int wake; /* enum uring_wake */
    int notify_fd;
    struct uring_op notify_op;

    bool has_file_table;
    uint64_t file_slots; /* bit set = used */

    bool has_buffer_table;
    bool has_memory;
    bool buffers_complained; /* a failed registration is logged once */
    struct sl_region_set *region_set;
    struct sl_region_client region_client;
    uint8_t buffer_slots[URING_BUFFER_SLOTS]; /* 1 = used */

    struct sl_list dry_receives; /* stream.c: receives that wait without a RECV in the ring */
    unsigned dry_receive_count;
    bool dry_receives_hit; /* the last look found something */
    struct sl_list descriptor_waits;
    struct sl_list doorbells; /* also those that wait for their last completion */
    struct sl_list watches;   /* likewise */
};

/* An op that one coroutine awaits. */
struct uring_wait_op {
    struct uring_op op;
    struct sl_wait wait;
    uint32_t flags;
};

static inline struct sl_uring *uring_of(struct sl_io *io)
{
    return sl_container_of(io, struct sl_uring, io);
}

/* ---- ring.c ---- */

/* A free submission, never NULL. */
struct io_uring_sqe *uring_sqe(struct sl_uring *uring);
/* Gives the kernel what is queued, before the turn ends. */
void uring_submit(struct sl_uring *uring);
/* After the prep function: hands it over. `op` NULL = its completion is ignored. */
static inline void uring_queue(struct sl_uring *uring, struct io_uring_sqe *sqe,
                               struct uring_op *op)
{
    io_uring_sqe_set_data(sqe, op);
    uring->outstanding_count++;
}
/* Asks the kernel to end `op`, which completes with -ECANCELED unless it was faster. */
void uring_cancel(struct sl_uring *uring, struct uring_op *op);
/* Makes `wait_op` fit for uring_queue() and a later sl_wait_co(&wait_op->wait). */
void uring_wait_op_init(struct uring_wait_op *wait_op);
/* Awaits; at the deadline (UINT64_MAX = none) cancels and awaits the end: -ETIMEDOUT if that ended
 * it. */
int uring_wait_op_co(struct sl_uring *uring, struct uring_wait_op *wait_op, uint64_t deadline_ns);

/* ---- memory.c ---- */

int uring_register_memory(struct sl_io *io, struct sl_memory *memory);
void uring_unregister_memory(struct sl_uring *uring);
/* The fixed buffer that holds all of [data, data + length), or -1. */
int uring_buffer_slot(const struct sl_uring *uring, const struct sl_region *region,
                      const void *data, size_t length_bytes);

/* ---- disk_open.c, disk.c ---- */

enum uring_zeroes { URING_ZEROES_RANGE, URING_ZEROES_PUNCH, URING_ZEROES_WRITE };

struct uring_disk {
    struct sl_disk disk;
    int descriptor;
    int file_slot; /* -1 = not registered */
    bool read_only;
    bool locked;
    enum uring_zeroes zeroes; /* the best way that has not been refused yet */
    uint32_t in_flight_count;
    uint32_t queued_count; /* of them in `batch`, which may be over */
    uint64_t batch;
};

/* What stands under the same name in struct sl_io_ops; see io.h. */
int uring_disk_open(struct sl_io *io, const char *path, const struct sl_disk_options *options,
                    struct sl_disk_info *info, struct sl_disk **disk);
void uring_disk_close(struct sl_disk *disk);
int uring_disk_measure(struct sl_disk *disk, uint64_t *capacity_bytes);
void uring_disk_submit(struct sl_disk_op *op);

/* ---- stream.c, listener.c ---- */

/* Takes the socket, also on error. */
int uring_stream_create(struct sl_uring *uring, int handle, struct sl_stream **stream);
/* Tries the receives that wait without a RECV; how many that ended. Every turn. */
unsigned uring_streams_poll(struct sl_uring *uring);
/* Gives each of them a RECV: before a sleep. */
void uring_streams_arm(struct sl_uring *uring);
/* What stands under the same names in struct sl_io_ops; see io.h. */
int uring_stream_connect_co(struct sl_io *io, const char *address, uint64_t deadline_ns,
                            struct sl_stream **stream);
int64_t uring_stream_receive_co(struct sl_stream *stream, const struct iovec *pieces,
                                unsigned piece_count);
int uring_stream_send_co(struct sl_stream *stream, const struct iovec *pieces, unsigned piece_count,
                         bool zero_copy);
void uring_stream_shutdown(struct sl_stream *stream);
void uring_stream_close(struct sl_stream *stream);
int uring_stream_detach(struct sl_stream *stream);
int uring_stream_adopt(struct sl_io *io, int handle, struct sl_stream **stream);

/* Likewise. */
int uring_listener_open(struct sl_io *io, const char *address, char *bound,
                        struct sl_listener **listener);
int uring_listener_accept_co(struct sl_listener *listener, char *peer, struct sl_stream **stream);
void uring_listener_shutdown(struct sl_listener *listener);
void uring_listener_close(struct sl_listener *listener);

/* ---- descriptor.c ---- */

/* Likewise. */
int uring_descriptor_wait_co(struct sl_io *io, int descriptor, short events, uint64_t deadline_ns);
void uring_descriptor_cancel(struct sl_io *io, int descriptor);
int uring_doorbell_create(struct sl_io *io, int eventfd, void (*ring)(void *argument),
                          void *argument, struct sl_doorbell **doorbell);
void uring_doorbell_destroy(struct sl_doorbell *doorbell);
/* Frees what destroyed doorbells still wait for; after the ring is gone. */
void uring_doorbells_fini(struct sl_uring *uring);

/* ---- watch.c ---- */

/* Likewise. */
int uring_watch_create(struct sl_io *io, int descriptor, void (*ready)(void *argument),
                       void *argument, struct sl_watch **watch);
void uring_watch_arm(struct sl_watch *watch);
void uring_watch_destroy(struct sl_watch *watch);
/* As uring_doorbells_fini(). */
void uring_watches_fini(struct sl_uring *uring);

#endif
