/* What every front-end hands to the gateway: one I/O on a volume, over memory that was registered.
 */
#ifndef SL_GATEWAY_REQUEST_H
#define SL_GATEWAY_REQUEST_H

#include "fabric/capsule.h"

struct sl_gateway_memory;
struct sl_volume;

/* One I/O of a client: at most 16 MiB; larger is the front-end's to split or refuse. */
#define SL_REQUEST_BYTES_MAX (16 * SL_MIB)
/* Pieces of a client's scatter list: 126 is what virtio-blk's seg_max offers on a 128-entry queue.
 */
#define SL_REQUEST_PIECES_MAX 126

/* A piece of a client's registered memory. */
struct sl_request_piece {
    struct sl_gateway_memory *memory;
    uint64_t offset_bytes;
    uint32_t length_bytes;
};

struct sl_request {
    enum sl_io_opcode opcode;
    const struct sl_volume *volume;
    uint64_t epoch; /* that sl_gateway_attach_co() gave */
    uint64_t offset_bytes;
    uint32_t length_bytes; /* READ, WRITE: the sum of the pieces */
    unsigned piece_count;
    const struct sl_request_piece *pieces; /* borrowed until the request is answered */
    uint64_t trace_id;
};

#endif
