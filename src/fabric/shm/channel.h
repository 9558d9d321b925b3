/*
 * What two ends share: a sealed memfd with a ring and a data area for each direction, and two
 * eventfds as doorbells. One end makes it, the other gets its three descriptors through a socket
 * and checks them. Both must agree on the layout beforehand. docs/wire.md, "Shared rings".
 *
 *   ring, maker → taker │ ring, taker → maker │ data area of the maker │ data area of the taker
 * (each page-aligned)
 *
 * Invariant: nothing read from the memory is believed (ring.h). Owner: one thread.
 */
#ifndef SL_FABRIC_SHM_CHANNEL_H
#define SL_FABRIC_SHM_CHANNEL_H

#include "fabric/shm/ring.h"
#include "fabric/shm/socket.h"

struct sl_channel_layout {
    uint32_t slot_bytes;
    uint32_t slot_count; /* of each ring; a power of two */
    uint32_t data_bytes; /* of each data area; 0 = none */
};

enum { SL_CHANNEL_MEMORY, SL_CHANNEL_TAKER_BELL, SL_CHANNEL_MAKER_BELL, SL_CHANNEL_DESCRIPTORS };

struct sl_channel {
    uint8_t *base;
    size_t length_bytes;
    int memfd;    /* the maker's, until it was passed on; else -1 */
    int bell_in;  /* rung by the peer */
    int bell_out; /* rung by us */
    struct sl_ring_producer producer;
    struct sl_ring_consumer consumer;
    uint8_t *data_out;      /* our data area */
    const uint8_t *data_in; /* the peer's */
};

/* All descriptors -1, no memory: may be closed. */
void sl_channel_init(struct sl_channel *channel);
/* -ENOMEM, -EMFILE, … */
int sl_channel_create(struct sl_channel *channel, const struct sl_channel_layout *layout);
/* What to pass to the peer, in order; borrowed from the channel. */
void sl_channel_descriptors(const struct sl_channel *channel,
                            int descriptors[static SL_CHANNEL_DESCRIPTORS]);
/* Takes the three descriptors, also on error. -SL_E_PROTOCOL: they are not what they should be. */
int sl_channel_adopt(struct sl_channel *channel, const struct sl_channel_layout *layout,
                     const int descriptors[static SL_CHANNEL_DESCRIPTORS]);
/* Unmaps and closes. Harmless twice. */
void sl_channel_close(struct sl_channel *channel);

#endif
