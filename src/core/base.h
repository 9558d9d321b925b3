/*
 * Small things that every file needs: assertions that stay in release builds, arithmetic on
 * powers of two, containers. No state, no dependency.
 */
#ifndef SL_CORE_BASE_H
#define SL_CORE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SL_KIB (UINT64_C(1) << 10)
#define SL_MIB (UINT64_C(1) << 20)
#define SL_GIB (UINT64_C(1) << 30)

#define SL_NS_PER_US UINT64_C(1000)
#define SL_NS_PER_MS UINT64_C(1000000)
#define SL_NS_PER_S  UINT64_C(1000000000)

/* The unit of checksums, of the disk and of payload alignment. */
#define SL_BLOCK_BYTES 4096u

#define SL_LIKELY(x)   __builtin_expect(!!(x), 1)
#define SL_UNLIKELY(x) __builtin_expect(!!(x), 0)

#define sl_container_of(pointer, type, member)                                                     \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#define SL_COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Each evaluates its arguments once. */
#define sl_min(a, b)                    SL_PICK(<, a, b, __COUNTER__)
#define sl_max(a, b)                    SL_PICK(>, a, b, __COUNTER__)
#define SL_PICK(operator, a, b, unique) SL_PICK_UNIQUE(operator, a, b, unique)
#define SL_PICK_UNIQUE(operator, a, b, unique)                                                     \
    __extension__({                                                                                \
        __auto_type a_##unique = (a);                                                              \
        __auto_type b_##unique = (b);                                                              \
        a_##unique operator b_##unique ? a_##unique : b_##unique;                                  \
    })

/* A broken invariant ends the process in every build (STYLE 19). Never used on outside input. */
#define SL_ASSERT(condition)                                                                       \
    do {                                                                                           \
        if (SL_UNLIKELY(!(condition)))                                                             \
            sl_assert_fail(#condition, __FILE__, __LINE__, __func__);                              \
    } while (0)

/* Says on standard error what was broken and where, then aborts. Any thread. */
_Noreturn void sl_assert_fail(const char *condition, const char *file, int line,
                              const char *function);

static inline bool sl_is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

static inline bool sl_is_aligned(uint64_t value, uint64_t alignment)
{
    return (value & (alignment - 1)) == 0;
}

static inline uint64_t sl_align_down(uint64_t value, uint64_t alignment)
{
    return value & ~(alignment - 1);
}

static inline uint64_t sl_align_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) & ~(alignment - 1);
}

#endif
