/*
 * Seam 2 with faults: a link over another link, whose messages, READs and WRITEs linger, fail or
 * fall silent as rules say (core/inject.h). It keeps the rules at the head of link.h as the link
 * below does.
 *
 *   fabric ─► inject ─► tcp | shm | simulator
 *
 * Only what this side posts is struck; what comes in is the other side's to strike.
 *   delay   the operation is posted below so much later, and everything behind it on its
 *           connection waits with it: order is kept (rules 1 and 2)
 *   error   the operation is done with that errno, and the connection dies, as after an error
 *           completion on verbs
 *   drop    the connection is torn down at this operation. A link is reliable and ordered, so one
 *           message cannot be lost and the next arrive
 *   stall   nothing is posted below from this operation on, and nobody is told: heartbeats have
 *           to find out
 * Receives are not struck: they are local. Memory of an operation that waits stays lent.
 */
#ifndef SL_FABRIC_INJECT_H
#define SL_FABRIC_INJECT_H

#include "core/inject.h"
#include "fabric/link.h"

/* For sl_link_domain_config.injection; borrowed while the domain lives. */
struct sl_link_injection {
    const struct sl_link_ops *lower;
    struct sl_inject *inject; /* of the domain's reactor */
};

/* The link that takes the place of `lower` in a sl_fabric_config. Its domains need `injection` in
 * their configuration (-EINVAL). Any thread. */
const struct sl_link_ops *sl_inject_link(const struct sl_link_ops *lower);

#endif
