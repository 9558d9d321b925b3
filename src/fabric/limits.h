/*
 * Every limit of the fabric, with its arithmetic. What two ends may differ in is agreed on in the
 * handshake (the smaller wins); these are our own offers and the most that we accept.
 */
#ifndef SL_FABRIC_LIMITS_H
#define SL_FABRIC_LIMITS_H

#include "core/base.h"

/* A capsule is 64…256 bytes: 32 header + 64 I/O part + up to 6 remote pieces of 24 (= 240). */
#define SL_CAPSULE_BYTES_MAX 256u
#define SL_CAPSULE_BYTES_MIN 32u

/* Payload that travels with its capsule: four 4 KiB blocks. Above it, READ and WRITE: one more
 * round trip costs less than receive buffers of that size for every credit. */
#define SL_IN_CAPSULE_BYTES_MAX (16u * 1024)

/* One READ or WRITE, and one I/O between gateway and target. Larger I/O is split by the gateway. */
#define SL_TRANSFER_BYTES_MAX (1u * 1024 * 1024)

/* Requests that one connection may have outstanding in each direction. 128 × (256 B + 16 KiB) = 2.1
 * MiB of receive buffers on the side that takes in-capsule payload. The queue of verbs cards that
 * were seen is 256: 128 requests + 128 replies fit. */
#define SL_CREDITS_MAX 128u
/* Receives beyond the credits, for messages that need none: handshake, heartbeat, credit update,
 * goodbye. */
#define SL_CONTROL_RECEIVES 8u

/* Local pieces of one operation: the capsule and SL_IOBUF_SPANS_MAX spans. A link with fewer
 * (libfabric: 4) splits READs and WRITEs, and the fabric joins nothing on SENDs: at most 4 there.
 */
#define SL_LINK_SPANS_MAX 19u
#define SL_SEND_SPANS_MAX 4u

/* Remote pieces in one I/O capsule; each becomes its own READ or WRITE (verbs: one remote piece an
 * operation). */
#define SL_REMOTE_PIECES_MAX 6u

/* Numbered requests of one session that may be unfinished at once: SL_SESSION_WINDOW, of a layer
 * above. */
#define SL_GROUP_WINDOW 256u

#define SL_HEARTBEAT_INTERVAL_NS (1 * SL_NS_PER_S)
/* Five lost heartbeats. A connection silent for so long is torn down. */
#define SL_HEARTBEAT_TIMEOUT_NS (5 * SL_NS_PER_S)
#define SL_HANDSHAKE_TIMEOUT_NS (5 * SL_NS_PER_S)

#endif
