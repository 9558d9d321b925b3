/* Marks memory that nobody may touch, for AddressSanitizer; nothing elsewhere. Private to src/mem.
 */
#ifndef SL_MEM_POISON_H
#define SL_MEM_POISON_H

#include "core/base.h"

#if defined(__SANITIZE_ADDRESS__)
#define SL_MEM_POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SL_MEM_POISONS 1
#endif
#endif

#ifdef SL_MEM_POISONS
#include <sanitizer/asan_interface.h>
#endif

static inline void sl_poison(void *data, size_t length_bytes)
{
#ifdef SL_MEM_POISONS
    ASAN_POISON_MEMORY_REGION(data, length_bytes);
#endif
}

static inline void sl_unpoison(void *data, size_t length_bytes)
{
#ifdef SL_MEM_POISONS
    ASAN_UNPOISON_MEMORY_REGION(data, length_bytes);
#endif
}

#endif
