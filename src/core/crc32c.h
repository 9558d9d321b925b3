/* CRC32C (Castagnoli, RFC 3720 §12.1) by ISA-L. A block of zeroes of 4 KiB has
 * SL_CRC32C_ZERO_BLOCK. */
#ifndef SL_CORE_CRC32C_H
#define SL_CORE_CRC32C_H

#include "core/base.h"

/* Of `length_bytes` at `data`, continuing from `crc` (0 to begin). Any thread. */
uint32_t sl_crc32c(uint32_t crc, const void *data, size_t length_bytes);

/* One CRC a 4 KiB block: `block_count` blocks at `data` into `crcs`. */
void sl_crc32c_blocks(const void *data, size_t block_count, uint32_t *crcs);

#define SL_CRC32C_ZERO_BLOCK UINT32_C(0x98f94189)

#endif
