/* Where the bytes of a volume lie: pure arithmetic, no state, no I/O. */
#ifndef SL_GATEWAY_LAYOUT_H
#define SL_GATEWAY_LAYOUT_H

#include "gateway/gateway.h"

/* Lays `spec_count` volumes out one behind the other on the servers that each is striped over, in
 * order. `capacity_bytes[i]` is what server i has. No specs: one volume "default" over all.
 * -ENOSPC, -EINVAL, explained in `error`. `volumes` has room for max(spec_count, 1). */
int sl_layout_volumes(const struct sl_volume_spec *specs, unsigned spec_count,
                      uint32_t stripe_bytes, const uint64_t *capacity_bytes, unsigned server_count,
                      struct sl_volume *volumes, char *error, size_t error_bytes);

/* A run of the volume that lies together on one server. */
struct sl_extent {
    unsigned server;
    uint64_t server_offset_bytes;
    uint32_t length_bytes;
};

/* The extent that begins at `offset_bytes` (inside the volume), cut at the stripe's end and at
 * `limit_bytes`. */
struct sl_extent sl_layout_extent(const struct sl_volume *volume, uint64_t offset_bytes,
                                  uint64_t limit_bytes);

#endif
