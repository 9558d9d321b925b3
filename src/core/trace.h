/*
 * Trace events: USDT probes (provider `sluice`) for perf, bpftrace and SystemTap. One that nobody
 * listens to is a `nop` and a note in the ELF file; its arguments should be values that are at hand
 * anyway. Without <sys/sdt.h> at build time there are none.
 *
 * Each module declares its events once, as functions of its own, so that names and arguments stand
 * in one place (those of src/core: below). `SL_TRACE(store, wal_write, index, bytes)` is the probe
 * `store__wal_write`:
 *
 *   bpftrace -e 'usdt:./sluice-target:sluice:core__reactor_sleep { @[arg0] = count(); }'
 *
 * Arguments: up to four integers or pointers. Stateless, any thread.
 */
#ifndef SL_CORE_TRACE_H
#define SL_CORE_TRACE_H

#include "core/base.h"

#if defined(__has_include)
#if __has_include(<sys/sdt.h>)
#include <sys/sdt.h>
#define SL_TRACE_IS_BUILT 1
#endif
#endif

#ifdef SL_TRACE_IS_BUILT
#define SL_TRACE_0(module, event)             DTRACE_PROBE(sluice, module##__##event)
#define SL_TRACE_1(module, event, a)          DTRACE_PROBE1(sluice, module##__##event, a)
#define SL_TRACE_2(module, event, a, b)       DTRACE_PROBE2(sluice, module##__##event, a, b)
#define SL_TRACE_3(module, event, a, b, c)    DTRACE_PROBE3(sluice, module##__##event, a, b, c)
#define SL_TRACE_4(module, event, a, b, c, d) DTRACE_PROBE4(sluice, module##__##event, a, b, c, d)
#else
/* The arguments stay "used" and are never evaluated. */
#define SL_TRACE_0(module, event)    ((void)0)
#define SL_TRACE_1(module, event, a) ((void)sizeof(a))
#define SL_TRACE_2(module, event, a, b)                                                            \
    do {                                                                                           \
        (void)sizeof(a);                                                                           \
        (void)sizeof(b);                                                                           \
    } while (0)
#define SL_TRACE_3(module, event, a, b, c)                                                         \
    do {                                                                                           \
        SL_TRACE_2(module, event, a, b);                                                           \
        (void)sizeof(c);                                                                           \
    } while (0)
#define SL_TRACE_4(module, event, a, b, c, d)                                                      \
    do {                                                                                           \
        SL_TRACE_2(module, event, a, b);                                                           \
        SL_TRACE_2(module, event, c, d);                                                           \
    } while (0)
#endif

#define SL_TRACE_PICK(_0, _1, _2, _3, _4, _5, name, ...) name
/* SL_TRACE(module, event, argument...) */
#define SL_TRACE(...)                                                                              \
    SL_TRACE_PICK(__VA_ARGS__, SL_TRACE_4, SL_TRACE_3, SL_TRACE_2, SL_TRACE_1, SL_TRACE_0, )       \
    (__VA_ARGS__)

/* ---- the events of src/core ---- */

/* Nothing to do until `deadline_ns` (UINT64_MAX: until woken). */
static inline void sl_core_trace_reactor_sleep(unsigned reactor_index, uint64_t deadline_ns)
{
    SL_TRACE(core, reactor_sleep, reactor_index, deadline_ns);
}

/* Awake again; `completion_count` of what the engine handled on the way. */
static inline void sl_core_trace_reactor_wake(unsigned reactor_index, unsigned completion_count)
{
    SL_TRACE(core, reactor_wake, reactor_index, completion_count);
}

/* A coroutine begins and ends: `coroutine` tells them apart while they live. */
static inline void sl_core_trace_coroutine_begin(const void *coroutine, const void *function)
{
    SL_TRACE(core, coroutine_begin, coroutine, function);
}

static inline void sl_core_trace_coroutine_end(const void *coroutine)
{
    SL_TRACE(core, coroutine_end, coroutine);
}

#endif
