/* The answer to SL_CAPSULE_STATISTICS: docs/wire.md, "Statistics". Counted since the target's
 * start. */
#ifndef SL_FABRIC_STATISTICS_H
#define SL_FABRIC_STATISTICS_H

#include "fabric/capsule.h"
#include "mem/copy.h"

struct sl_capsule_statistics {
    struct sl_capsule_header header;
    uint64_t read_count;                       /* 32 */
    uint64_t read_bytes;                       /* 40 */
    uint64_t write_count;                      /* 48 */
    uint64_t write_bytes;                      /* 56 */
    uint64_t error_count;                      /* 64 */
    uint64_t checksum_error_count;             /* 72 */
    uint64_t copy_bytes[SL_COPY_REASON_COUNT]; /* 80, by enum sl_copy_reason */
    uint64_t copy_count[SL_COPY_REASON_COUNT]; /* 136 */
    uint64_t injected_count;                   /* 192 faults that --inject struck with */
};
_Static_assert(SL_COPY_REASON_COUNT == 7, "a new reason of copying changes docs/wire.md");
_Static_assert(sizeof(struct sl_capsule_statistics) == 200, "wire.md: statistics");
_Static_assert(sizeof(struct sl_capsule_statistics) <= SL_CAPSULE_BYTES_MAX, "fits a capsule");

#endif
