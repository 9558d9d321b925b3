/* Seam 1 by io_uring: the real machine. */
#ifndef SL_IO_URING_URING_H
#define SL_IO_URING_URING_H

#include "io/io.h"

struct sl_uring_config {
    unsigned entries; /* submission queue; 0 = 1024 */
};

/* -ENOSYS or -EPERM: the kernel has no io_uring or forbids it; -ENOMEM: the memlock limit is too
 * low even for 64 entries (down to which it goes by itself, and logs it). Needs Linux 6.1 (single
 * issuer, deferred task work); created on any thread, but used on the thread that runs the reactor
 * only (the ring is enabled there at first use). */
int sl_uring_create(const struct sl_uring_config *config, struct sl_io **io);

/* What the rings of so many entries (0 = the least that will do) charge to the memlock limit; Linux
 * since 6.14 does that. Any thread. */
size_t sl_uring_locked_bytes(unsigned entries);

#endif
