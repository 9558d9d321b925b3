/*
 * SEAM 1: disks, byte streams, descriptors that wake a reactor. The clock and randomness come with
 * the reactor's engine (core/reactor.h), which the same object provides. Above this header no
 * system call for I/O is made; io_uring (src/io/uring) or the simulator (sim/) stands behind it.
 *
 * One struct sl_io a reactor. Everything here runs on that reactor. A coroutine awaits completion;
 * memory that an operation names stays lent until it completes: there is no early give-up (STYLE
 * 15).
 */
#ifndef SL_IO_IO_H
#define SL_IO_IO_H

#include <sys/uio.h>

#include "core/base.h"
#include "core/coroutine.h"
#include "core/reactor.h"
#include "mem/memory.h"

/* iovecs of one disk operation: a batch of the store's log is a header and the payload of one write
 * each, at a queue depth of 32 with room for those in two pieces. */
#define SL_DISK_SPANS_MAX 64
/* iovecs of one send or receive: 64 messages of a tcp frame, two pieces each, plus its header. */
#define SL_STREAM_PIECES_MAX 160

struct sl_io;
struct sl_disk;
struct sl_stream;
struct sl_listener;
struct sl_doorbell;
struct sl_watch;

/* ---- disks ---- */

enum sl_disk_opcode {
    SL_DISK_READ,
    SL_DISK_WRITE,
    SL_DISK_FLUSH,        /* device cache included */
    SL_DISK_DISCARD,      /* contents undefined after */
    SL_DISK_WRITE_ZEROES, /* reads as zeroes after */
};

enum { SL_DISK_DURABLE = 1 }; /* write flag: on stable media when it completes (RWF_DSYNC) */

struct sl_disk_info {
    uint64_t capacity_bytes;  /* rounded down to 4 KiB */
    uint32_t alignment_bytes; /* of offset, length and memory: 512 or 4096 */
    bool block_device;
    bool volatile_cache; /* a completed write may be lost with power until a flush */
    bool can_discard;
    bool can_write_zeroes;
};

struct sl_disk_op {
    struct sl_wait wait; /* result: length_bytes, or negative errno */
    struct sl_list node; /* the engine's */
    struct sl_disk *disk;
    enum sl_disk_opcode opcode;
    unsigned flags;
    uint64_t offset_bytes;
    uint64_t length_bytes;
    unsigned piece_count;
    struct iovec pieces[SL_DISK_SPANS_MAX];
    struct sl_region *region; /* of a single piece: lets the engine use a registered buffer */
    void *engine_data[5];     /* the engine's; before it, of a layer that delays it (io/inject.h) */
};

struct sl_disk_options {
    bool read_only;
    bool buffered;         /* for tests on file systems without O_DIRECT; default is O_DIRECT */
    bool exclusive;        /* take flock(LOCK_EX): see sl_disk_open() */
    uint64_t lock_wait_ns; /* for `exclusive` */
    /* Another reactor's disk of the same path: its open file is shared, and with it its lock. It
     * must be closed last. NULL = open anew. */
    const struct sl_disk *share_with;
};

/* Opens a preallocated file or block device. With `exclusive`, waits up to lock_wait_ns for the
 * lock: a previous holder's lock goes only when its last in-flight I/O has (the open file is
 * referenced by it), so who holds the lock knows that no I/O of a dead predecessor can still land.
 * -ENOENT, -EACCES, -EROFS, -EWOULDBLOCK (locked), -EINVAL (no O_DIRECT, not a file or device). May
 * block: at start only. `info` is filled. */
int sl_disk_open(struct sl_io *io, const char *path, const struct sl_disk_options *options,
                 struct sl_disk_info *info, struct sl_disk **disk);
/* No operation may be in flight. Takes NULL. */
void sl_disk_close(struct sl_disk *disk);
/* How large it is now: what it has grown by since it was opened can be used from here on. That it
 * has become smaller is not told: its operations then fail. 0, -EIO, … */
int sl_disk_measure(struct sl_disk *disk, uint64_t *capacity_bytes);

/* Fills op from spans (NULL, 0 for flush, discard and zeroes). */
void sl_disk_op_init(struct sl_disk_op *op, struct sl_disk *disk, enum sl_disk_opcode opcode,
                     const struct sl_span *spans, unsigned span_count, uint64_t offset_bytes,
                     uint64_t length_bytes, unsigned flags);
/* Queues it; await with sl_wait_co(&op->wait). Asserts the PRP rules (sl_iov_is_prp) and alignment:
 * callers check outside input before. Short reads and writes are continued inside; the result is
 * all or an error. */
void sl_disk_submit(struct sl_disk_op *op);
/* Both. 0 or negative errno. */
int sl_disk_rw_co(struct sl_disk *disk, enum sl_disk_opcode opcode, const struct sl_span *spans,
                  unsigned span_count, uint64_t offset_bytes, uint64_t length_bytes,
                  unsigned flags);

/* ---- byte streams ---- */

/* Addresses: "192.0.2.1:7600", "[2001:db8::1]:7600", "host:7600", "unix:/path". Port 0 = any free
 * one. */
#define SL_ADDRESS_BYTES_MAX 256

/* -EADDRINUSE, -EADDRNOTAVAIL, -EINVAL (bad address), … `bound` (SL_ADDRESS_BYTES_MAX) gets what
 * was bound. */
int sl_listener_open(struct sl_io *io, const char *address, char *bound,
                     struct sl_listener **listener);
/* -ECANCELED after sl_listener_shutdown(). `peer` (SL_ADDRESS_BYTES_MAX) may be NULL. */
int sl_listener_accept_co(struct sl_listener *listener, char *peer, struct sl_stream **stream);
void sl_listener_shutdown(struct sl_listener *listener);
void sl_listener_close(struct sl_listener *listener);

/* -ETIMEDOUT, -ECONNREFUSED, -ENETUNREACH, -EHOSTUNREACH (also: no such host), -EINVAL (bad
 * address), … `deadline_ns` UINT64_MAX = none. Sets TCP_NODELAY. Numeric hosts never block the
 * reactor; a host name does, in the system's resolver: use it at start, or give numbers. */
int sl_stream_connect_co(struct sl_io *io, const char *address, uint64_t deadline_ns,
                         struct sl_stream **stream);
/* > 0 bytes received, 0 at the end of the stream, or negative errno. One receive call. */
int64_t sl_stream_receive_co(struct sl_stream *stream, const struct iovec *pieces,
                             unsigned piece_count);
/* Sends all of it: 0 or negative errno. `zero_copy` lets the kernel take the pages (SEND_ZC); it
 * returns only when they are free again. One coroutine at a time may send, another receive. */
int sl_stream_send_co(struct sl_stream *stream, const struct iovec *pieces, unsigned piece_count,
                      bool zero_copy);
/* Ends pending and later operations: receive answers 0 or an error. */
void sl_stream_shutdown(struct sl_stream *stream);
/* No operation may be pending. Takes NULL. */
void sl_stream_close(struct sl_stream *stream);
/* To give a stream to another reactor: no operation pending; detach answers the handle (a
 * descriptor) and frees the stream; adopt takes the handle, also on error, on the other reactor's
 * thread. */
int sl_stream_detach(struct sl_stream *stream);
int sl_stream_adopt(struct sl_io *io, int handle, struct sl_stream **stream);

/* ---- descriptors ---- */

/* Waits until `descriptor` has one of `events` (POLLIN …): the events, or -ETIMEDOUT, -ECANCELED.
 * For control sockets that pass descriptors, pidfds, and library descriptors. */
int sl_descriptor_wait_co(struct sl_io *io, int descriptor, short events, uint64_t deadline_ns);
/* Ends every wait on the descriptor with -ECANCELED. Before closing it. */
void sl_descriptor_cancel(struct sl_io *io, int descriptor);

/* An eventfd that another process or thread rings. `ring` runs on the reactor after it was rung; it
 * wakes a sleeping reactor. Takes the descriptor, also on error; closes it in destroy. -EINVAL: no
 * eventfd. -ENOMEM. */
int sl_doorbell_create(struct sl_io *io, int eventfd, void (*ring)(void *argument), void *argument,
                       struct sl_doorbell **doorbell);
void sl_doorbell_destroy(struct sl_doorbell *doorbell);

/* A descriptor of a library that polls itself and needs only to be woken (completion queues of a
 * fabric): `ready` is called on the reactor, once for each arming, when it can be read; it ends a
 * sleep. The descriptor is borrowed and must stay open until destroy. Not armed at first. -ENOMEM,
 * -EOPNOTSUPP (simulator). */
int sl_watch_create(struct sl_io *io, int descriptor, void (*ready)(void *argument), void *argument,
                    struct sl_watch **watch);
/* From a poller's arm(), a timer, a mail or a coroutine. Harmless while it is armed. */
void sl_watch_arm(struct sl_watch *watch);
/* No ready() after it returns. Takes NULL. */
void sl_watch_destroy(struct sl_watch *watch);

/* ---- the engine ---- */

const struct sl_reactor_engine *sl_io_engine(struct sl_io *io);
/* After sl_reactor_create(): coroutines that wait here are woken on it. */
void sl_io_bind(struct sl_io *io, struct sl_reactor *reactor);
struct sl_reactor *sl_io_reactor(struct sl_io *io);
/* Registers regions as fixed buffers as they come; optional, one memory an io: -EEXIST. The memory
 * must outlive the io. A region that cannot be registered (memlock limit) is used unregistered;
 * logged once. */
int sl_io_register_memory(struct sl_io *io, struct sl_memory *memory);
/* Cancels what is outstanding and waits for its end; no coroutine may wait for any of it. After the
 * reactor was destroyed. On the thread that ran the reactor, or on any once nothing is outstanding.
 * Takes NULL. */
void sl_io_destroy(struct sl_io *io);

#endif
