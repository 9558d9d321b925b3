/* See spin.h. */
#include "core/spin.h"

static void spin_in_vain(struct sl_spin *spin)
{
    if (spin->probing)
        spin->probe_interval = sl_min(spin->probe_interval * 2, SL_SPIN_PROBE_INTERVAL_MAX);
    spin->window_ns = spin->probing ? 0 : spin->window_ns / 2;
    if (spin->window_ns < spin->limit_ns / SL_SPIN_FLOOR_DIVISOR)
        spin->window_ns = 0;
    spin->probing = false;
    spin->short_count = 0;
}

void sl_spin_slept(struct sl_spin *spin, uint64_t slept_ns)
{
    if (spin->window_ns > 0) {
        spin_in_vain(spin);
        return;
    }
    if (slept_ns >= SL_SPIN_SHORT_LIMITS * spin->limit_ns)
        return;
    if (++spin->short_count < spin->probe_interval)
        return;
    spin->short_count = 0;
    spin->probing = true;
    spin->window_ns = spin->limit_ns;
}

void sl_spin_hit(struct sl_spin *spin, uint64_t idle_ns)
{
    if (spin->window_ns == 0)
        return; /* found in the last look before a sleep */
    /* As long again for the turn in which it was found. */
    if (idle_ns > 2 * spin->window_ns) {
        spin_in_vain(spin);
        return;
    }
    if (spin->probing)
        spin->probe_interval = SL_SPIN_PROBE_INTERVAL_MIN;
    spin->probing = false;
    spin->window_ns = sl_min(spin->window_ns * 2, spin->limit_ns);
}
