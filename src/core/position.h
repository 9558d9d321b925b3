/*
 * Positions in a replicated log, as types that the compiler tells apart (STYLE 13): a term is never
 * taken for an index, nor either for a block or a byte. Zero of each means "none": logs begin at
 * index 1, terms at 1. Plain values, no state.
 */
#ifndef SL_CORE_POSITION_H
#define SL_CORE_POSITION_H

#include "core/base.h"

struct sl_term {
    uint64_t value;
};

struct sl_index {
    uint64_t value;
};

/* Neither terms nor indexes of a log that exists come near it: a greater one is damage. */
#define SL_POSITION_MAX (UINT64_C(1) << 62)

static inline struct sl_term sl_term_of(uint64_t value)
{
    return (struct sl_term){value};
}

static inline struct sl_index sl_index_of(uint64_t value)
{
    return (struct sl_index){value};
}

static inline bool sl_term_equal(struct sl_term a, struct sl_term b)
{
    return a.value == b.value;
}

static inline bool sl_term_less(struct sl_term a, struct sl_term b)
{
    return a.value < b.value;
}

static inline bool sl_index_less(struct sl_index a, struct sl_index b)
{
    return a.value < b.value;
}

static inline struct sl_index sl_index_least(struct sl_index a, struct sl_index b)
{
    return a.value < b.value ? a : b;
}

static inline struct sl_index sl_index_most(struct sl_index a, struct sl_index b)
{
    return a.value > b.value ? a : b;
}

#endif
