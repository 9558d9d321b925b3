/* Log-linear histogram: exact below 64 ns, then 64 buckets a power of two. */
#include "core/histogram.h"

#include <math.h>
#include <string.h>

void sl_histogram_reset(struct sl_histogram *histogram)
{
    memset(histogram, 0, sizeof(*histogram));
}

static unsigned bucket_of(uint64_t value_ns)
{
    if (value_ns < (1u << SL_HISTOGRAM_SUB_BITS))
        return (unsigned)value_ns;
    unsigned top = 63 - (unsigned)__builtin_clzll(value_ns);
    unsigned shift = top - SL_HISTOGRAM_SUB_BITS;
    unsigned index = ((shift + 1) << SL_HISTOGRAM_SUB_BITS) +
                     (unsigned)((value_ns >> shift) & ((1u << SL_HISTOGRAM_SUB_BITS) - 1));
    return sl_min(index, (unsigned)SL_HISTOGRAM_BUCKETS - 1);
}

static uint64_t upper_edge_ns(unsigned bucket)
{
    unsigned group = bucket >> SL_HISTOGRAM_SUB_BITS;
    uint64_t sub = bucket & ((1u << SL_HISTOGRAM_SUB_BITS) - 1);
    if (group == 0)
        return sub;
    return ((((UINT64_C(1) << SL_HISTOGRAM_SUB_BITS) + sub + 1) << (group - 1)) - 1);
}

void sl_histogram_add(struct sl_histogram *histogram, uint64_t value_ns)
{
    if (histogram->count == 0 || value_ns < histogram->min_ns)
        histogram->min_ns = value_ns;
    if (value_ns > histogram->max_ns)
        histogram->max_ns = value_ns;
    histogram->count++;
    histogram->sum_ns += value_ns;
    histogram->buckets[bucket_of(value_ns)]++;
}

void sl_histogram_merge(struct sl_histogram *into, const struct sl_histogram *from)
{
    if (from->count == 0)
        return;
    if (into->count == 0 || from->min_ns < into->min_ns)
        into->min_ns = from->min_ns;
    into->max_ns = sl_max(into->max_ns, from->max_ns);
    into->count += from->count;
    into->sum_ns += from->sum_ns;
    for (unsigned i = 0; i < SL_HISTOGRAM_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
}

uint64_t sl_histogram_quantile_ns(const struct sl_histogram *histogram, double q)
{
    if (histogram->count == 0)
        return 0;
    /* The nearest rank: the smallest value that at least the share q does not exceed. */
    uint64_t rank = (uint64_t)ceil(q * (double)histogram->count);
    rank = rank == 0 ? 0 : sl_min(rank, histogram->count) - 1;
    uint64_t seen = 0;
    for (unsigned i = 0; i < SL_HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen > rank && i + 1 < SL_HISTOGRAM_BUCKETS) {
            uint64_t edge = sl_min(upper_edge_ns(i), histogram->max_ns);
            return sl_max(edge, histogram->min_ns);
        }
    }
    return histogram->max_ns; /* the last bucket has no upper edge */
}

double sl_histogram_mean_ns(const struct sl_histogram *histogram)
{
    return histogram->count == 0 ? 0.0 : (double)histogram->sum_ns / (double)histogram->count;
}
