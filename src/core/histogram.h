/* A latency histogram: log-linear buckets, 1.6% wide (64 a power of two), 0 ns to 1 h. No
 * allocation. */
#ifndef SL_CORE_HISTOGRAM_H
#define SL_CORE_HISTOGRAM_H

#include "core/base.h"

#define SL_HISTOGRAM_SUB_BITS 6
#define SL_HISTOGRAM_BUCKETS  ((42 - SL_HISTOGRAM_SUB_BITS + 1) << SL_HISTOGRAM_SUB_BITS)

struct sl_histogram {
    uint64_t count;
    uint64_t sum_ns;
    uint64_t min_ns;
    uint64_t max_ns;
    uint64_t buckets[SL_HISTOGRAM_BUCKETS];
};

void sl_histogram_reset(struct sl_histogram *histogram);
/* Values past the range count in the last bucket; min and max stay exact. */
void sl_histogram_add(struct sl_histogram *histogram, uint64_t value_ns);
void sl_histogram_merge(struct sl_histogram *into, const struct sl_histogram *from);
/* Upper edge of the bucket that holds the quantile (0 ≤ q ≤ 1), at most max_ns; 0 if empty. */
uint64_t sl_histogram_quantile_ns(const struct sl_histogram *histogram, double q);
double sl_histogram_mean_ns(const struct sl_histogram *histogram);

#endif
