/*
 * How long to poll without work before sleeping: a spin that adjusts itself by what it brought.
 *
 * Spinning wins when the peer runs on another core: its answer is found at once, without a wake-up.
 * It loses when the peer waits for this very core, since nothing can come while we hold it; and
 * when nothing is to come at all. Neither the number of cores nor the load tells which it is, so
 * the outcome does:
 *
 *   hit (work came while spinning)            window doubles, up to the limit
 *   in vain (spun the window, then slept)     window halves; below 1/8 of the limit it is 0
 *   short sleep (< 4 limits) with window 0    a spin might have caught it: one such sleep in
 *                                             `probe_interval` is followed by a spin of the limit
 *   probe in vain                             probe_interval doubles, up to 256
 *   probe hit                                 probe_interval starts at 8 again
 *
 * KVM's halt_poll_ns grows after every short sleep. It may, since it first asks the scheduler
 * whether anyone else wants the core; we cannot ask, and on a shared core every sleep is short: so
 * a short sleep only buys a probe. At worst a probe wastes limit / 256 for each sleep (200 ns
 * of 50 us). A sleep of several limits counts as short, for most of it may be the wake-up itself,
 * ours and the peer's: two sides that sleep by turns would never see a shorter one. A hit later
 * than window and grace says that we were preempted: in vain.
 *
 * No clock, no randomness: the same times in give the same decisions. Owned by the thread that
 * polls.
 */
#ifndef SL_CORE_SPIN_H
#define SL_CORE_SPIN_H

#include "core/base.h"

/* Below limit / 8 a window is shorter than a round trip and only burns. */
#define SL_SPIN_FLOOR_DIVISOR      8u
#define SL_SPIN_PROBE_INTERVAL_MIN 8u
#define SL_SPIN_PROBE_INTERVAL_MAX 256u
/* A core that was halted needs 20 to 60 us to run again, a peer on another as long: up to 4 times
 * the default limit. */
#define SL_SPIN_SHORT_LIMITS 4u

struct sl_spin {
    uint64_t limit_ns;
    uint64_t window_ns;      /* spin so long now; 0 = sleep at once */
    uint32_t probe_interval; /* short sleeps from one probe to the next */
    uint32_t short_count;    /* short sleeps since the last probe */
    bool probing;            /* the window is a probe's */
};

/* `limit_ns`: the longest window, which is also the first. */
static inline void sl_spin_init(struct sl_spin *spin, uint64_t limit_ns)
{
    *spin = (struct sl_spin){
        .limit_ns = limit_ns,
        .window_ns = limit_ns,
        .probe_interval = SL_SPIN_PROBE_INTERVAL_MIN,
    };
}

/* Without work for `idle_ns`: is it time to sleep? */
static inline bool sl_spin_is_over(const struct sl_spin *spin, uint64_t idle_ns)
{
    return idle_ns >= spin->window_ns;
}

/* The window was spun (or was 0), then the caller slept for `slept_ns`. */
void sl_spin_slept(struct sl_spin *spin, uint64_t slept_ns);
/* Work came after `idle_ns` > 0 of spinning. */
void sl_spin_hit(struct sl_spin *spin, uint64_t idle_ns);

#endif
