/*
 * Volume layout: RAID-0 striping over servers. Every server of a volume gives the same number of
 * whole stripes from one contiguous range, so the map is base + arithmetic and can be checked from
 * outside.
 */
#include "gateway/layout.h"

#include <stdio.h>
#include <string.h>

#include "core/error.h"

static unsigned servers_of_spec(const struct sl_volume_spec *spec, unsigned server_count,
                                uint16_t *servers)
{
    unsigned count = 0;
    for (unsigned i = 0; i < server_count; i++) {
        if (spec->server_bitmap == 0 || (spec->server_bitmap >> i & 1) != 0)
            servers[count++] = (uint16_t)i;
    }
    return count;
}

/* The most stripes that every server of the volume still has behind its cursor. */
static uint64_t stripes_left(const struct sl_volume *volume, const uint64_t *capacity_bytes,
                             const uint64_t *cursor_bytes)
{
    uint64_t stripes = UINT64_MAX;
    for (unsigned i = 0; i < volume->server_count; i++) {
        unsigned server = volume->servers[i];
        uint64_t left = capacity_bytes[server] > cursor_bytes[server]
                            ? capacity_bytes[server] - cursor_bytes[server]
                            : 0;
        stripes = sl_min(stripes, left / volume->stripe_bytes);
    }
    return stripes;
}

static int place_volume(const struct sl_volume_spec *spec, const uint64_t *capacity_bytes,
                        uint64_t *cursor_bytes, struct sl_volume *volume, char *error,
                        size_t error_bytes)
{
    uint64_t row_bytes = (uint64_t)volume->stripe_bytes * volume->server_count;
    uint64_t available = stripes_left(volume, capacity_bytes, cursor_bytes);
    uint64_t stripes = spec->size_bytes == 0
                           ? available
                           : spec->size_bytes / row_bytes + (spec->size_bytes % row_bytes != 0);
    if (stripes > available || stripes == 0) {
        snprintf(
            error, error_bytes,
            "volume '%s' of %llu bytes does not fit: its %u storage servers have %llu bytes left "
            "for it (stripes of %u bytes); make it smaller or the storage larger",
            volume->name, (unsigned long long)spec->size_bytes, volume->server_count,
            (unsigned long long)(available * row_bytes), volume->stripe_bytes);
        return -ENOSPC;
    }
    volume->size_bytes = spec->size_bytes == 0 ? stripes * row_bytes : spec->size_bytes;
    for (unsigned i = 0; i < volume->server_count; i++) {
        uint64_t *cursor = &cursor_bytes[volume->servers[i]];
        volume->base_bytes[i] = *cursor;
        *cursor += stripes * volume->stripe_bytes;
    }
    return 0;
}

int sl_layout_volumes(const struct sl_volume_spec *specs, unsigned spec_count,
                      uint32_t stripe_bytes, const uint64_t *capacity_bytes, unsigned server_count,
                      struct sl_volume *volumes, char *error, size_t error_bytes)
{
    static const struct sl_volume_spec whole = {.name = "default"};
    uint64_t cursor_bytes[SL_SERVERS_MAX] = {0};
    if (server_count == 0 || server_count > SL_SERVERS_MAX) {
        snprintf(error, error_bytes, "%u storage servers; there must be 1 to %d", server_count,
                 SL_SERVERS_MAX);
        return -EINVAL;
    }
    if (spec_count == 0) {
        specs = &whole;
        spec_count = 1;
    }
    for (unsigned i = 0; i < spec_count; i++) {
        struct sl_volume *volume = &volumes[i];
        *volume = (struct sl_volume){.index = i, .stripe_bytes = stripe_bytes};
        snprintf(volume->name, sizeof(volume->name), "%s", specs[i].name);
        volume->server_count = servers_of_spec(&specs[i], server_count, volume->servers);
        if (volume->server_count == 0) {
            snprintf(error, error_bytes, "volume '%s' names no storage server that exists",
                     volume->name);
            return -EINVAL;
        }
        int result =
            place_volume(&specs[i], capacity_bytes, cursor_bytes, volume, error, error_bytes);
        if (result < 0)
            return result;
    }
    return 0;
}

struct sl_extent sl_layout_extent(const struct sl_volume *volume, uint64_t offset_bytes,
                                  uint64_t limit_bytes)
{
    uint64_t stripe = offset_bytes / volume->stripe_bytes;
    uint64_t inside = offset_bytes % volume->stripe_bytes;
    unsigned column = (unsigned)(stripe % volume->server_count);
    uint64_t row = stripe / volume->server_count;
    return (struct sl_extent){
        .server = volume->servers[column],
        .server_offset_bytes = volume->base_bytes[column] + row * volume->stripe_bytes + inside,
        .length_bytes = (uint32_t)sl_min(limit_bytes, volume->stripe_bytes - inside),
    };
}
