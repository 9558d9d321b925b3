/* Sizes and durations as people write them. Stateless, any thread. */
#ifndef SL_CORE_SIZE_H
#define SL_CORE_SIZE_H

#include "core/base.h"

/* "4096", "4K", "4KiB", "1.5G", "2T" (binary multiples; KB, MB … are refused as ambiguous).
 * -EINVAL, -ERANGE. */
int sl_size_parse(const char *text, uint64_t *bytes);
/* "512 B", "1.50 GiB"; whole numbers without a fraction. */
void sl_size_format(uint64_t bytes, char *text, size_t text_bytes);

/* "250us", "5ms", "30s", "2min", "1h"; a bare number is seconds. -EINVAL, -ERANGE. */
int sl_duration_parse(const char *text, uint64_t *duration_ns);
/* "750 ns", "12.3 us", "1.50 s". */
void sl_duration_format(uint64_t duration_ns, char *text, size_t text_bytes);

#endif
