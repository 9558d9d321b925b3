/* CRC32C by ISA-L, which picks the instructions that the processor has. */
#include "core/crc32c.h"

#include <isa-l/crc.h>

uint32_t sl_crc32c(uint32_t crc, const void *data, size_t length_bytes)
{
    /* ISA-L takes int lengths and a non-const pointer, and leaves both inversions to the caller. */
    const uint8_t *bytes = data;
    crc = ~crc;
    while (length_bytes > 0) {
        size_t step = sl_min(length_bytes, (size_t)SL_GIB);
        crc = crc32_iscsi((unsigned char *)bytes, (int)step, crc);
        bytes += step;
        length_bytes -= step;
    }
    return ~crc;
}

void sl_crc32c_blocks(const void *data, size_t block_count, uint32_t *crcs)
{
    for (size_t i = 0; i < block_count; i++)
        crcs[i] = sl_crc32c(0, (const uint8_t *)data + i * SL_BLOCK_BYTES, SL_BLOCK_BYTES);
}
