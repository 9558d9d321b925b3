/*
 * The tcp link: seam 2 over byte streams of seam 1, for the many networks without RDMA. Batched:
 * what is ready leaves in one gathered send, payload is received straight into its place. See
 * README.md here.
 */
#ifndef SL_FABRIC_TCP_TCP_H
#define SL_FABRIC_TCP_TCP_H

#include "fabric/link.h"

extern const struct sl_link_ops sl_tcp_link_ops;

#endif
