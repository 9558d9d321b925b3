/* The trace of a run: a running hash over (time, node, event, values), and its text on demand. */
#include "sim/sim_private.h"

#include <inttypes.h>

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash ^= value + UINT64_C(0x9e3779b97f4a7c15) + (hash << 6) + (hash >> 2);
    hash *= UINT64_C(0xff51afd7ed558ccd);
    return hash ^ (hash >> 33);
}

void sl_sim_trace(struct sl_sim *sim, const struct sl_io *io, const char *what, uint64_t a,
                  uint64_t b)
{
    const struct sim_io *node = (const struct sim_io *)(const void *)io;
    uint64_t hash = mix(sim->trace_hash, sim->now_ns);
    hash = mix(hash, node != NULL ? node->index : UINT64_MAX);
    for (const char *c = what; *c != '\0'; c++)
        hash = mix(hash, (uint8_t)*c);
    hash = mix(hash, a);
    sim->trace_hash = mix(hash, b);
    if (sim->config.trace != NULL)
        fprintf(sim->config.trace, "%12" PRIu64 " %-10s %-16s %" PRIu64 " %" PRIu64 "\n",
                sim->now_ns, node != NULL ? node->name : "-", what, a, b);
}

uint64_t sl_sim_trace_hash(const struct sl_sim *sim)
{
    return sim->trace_hash;
}
