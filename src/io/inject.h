/*
 * Seam 1 with faults: an io whose disks fail and linger as rules say (core/inject.h), over another
 * io. A layer like any other implementation of io_ops.h: who opens a disk through it knows nothing
 * of it.
 *
 *   target ─► inject ─► io_uring | simulator
 *
 * An error: the operation fails and never reaches the disk. A delay: it reaches the disk so much
 * later, and others may overtake it, as in any disk's queue. There is no short transfer: seam 1
 * answers all or an error, the continuation lies below it.
 */
#ifndef SL_IO_INJECT_H
#define SL_IO_INJECT_H

#include "core/inject.h"
#include "io/io.h"

/* After sl_io_bind() of `lower`. Both are borrowed and outlive it; sl_io_destroy() ends it alone.
 * Everything but disks goes straight to `lower`; streams and descriptors are `lower`'s. On the
 * reactor of `lower`. -ENOMEM. */
int sl_inject_io_create(struct sl_io *lower, struct sl_inject *inject, struct sl_io **io);

#endif
