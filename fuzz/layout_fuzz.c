/*
 * Goal: whatever volumes are asked for and whatever sizes servers claim, a layout that is made maps
 * every byte to a place inside of its server, and no two volumes share one. Method: the input fills
 * in servers, stripes and volumes; the ranges that volumes take on a server are compared with each
 * other, and bytes at the edges and in the midst are looked up.
 */
#include <stdlib.h>
#include <string.h>

#include "gateway/layout.h"

#define VOLUMES_MAX 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *data;
    size_t size;
};

static void must(bool condition)
{
    if (!condition)
        abort();
}

static uint64_t take(struct input *input, size_t bytes)
{
    uint64_t value = 0;
    bytes = sl_min(bytes, input->size);
    memcpy(&value, input->data, bytes);
    input->data += bytes;
    input->size -= bytes;
    return value;
}

/* Of every order of magnitude. */
static uint64_t take_bytes(struct input *input)
{
    unsigned shift = (unsigned)take(input, 1) % 64;
    return take(input, 8) >> shift;
}

static uint64_t stripes_of(const struct sl_volume *volume)
{
    uint64_t row = (uint64_t)volume->stripe_bytes * volume->server_count;
    return volume->size_bytes / row + (volume->size_bytes % row != 0);
}

static void check_extent(const struct sl_volume *volume, const uint64_t *capacity_bytes,
                         uint64_t offset_bytes)
{
    struct sl_extent extent =
        sl_layout_extent(volume, offset_bytes, volume->size_bytes - offset_bytes);
    bool found = false;
    for (unsigned i = 0; i < volume->server_count; i++)
        found = found || volume->servers[i] == extent.server;
    must(found && extent.length_bytes > 0 && extent.length_bytes <= volume->stripe_bytes);
    must(extent.length_bytes <= volume->size_bytes - offset_bytes);
    must(extent.server_offset_bytes < capacity_bytes[extent.server]);
    must(extent.length_bytes <= capacity_bytes[extent.server] - extent.server_offset_bytes);
}

static void check_apart(const struct sl_volume *a, const struct sl_volume *b)
{
    for (unsigned i = 0; i < a->server_count; i++) {
        for (unsigned k = 0; k < b->server_count; k++) {
            uint64_t a_end = a->base_bytes[i] + stripes_of(a) * a->stripe_bytes;
            uint64_t b_end = b->base_bytes[k] + stripes_of(b) * b->stripe_bytes;
            must(a->servers[i] != b->servers[k] || a_end <= b->base_bytes[k] ||
                 b_end <= a->base_bytes[i]);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sl_volume_spec specs[VOLUMES_MAX];
    static struct sl_volume volumes[VOLUMES_MAX];
    static uint64_t capacity_bytes[SL_SERVERS_MAX];
    struct input input = {data, size};
    char error[512] = "";
    unsigned server_count = (unsigned)take(&input, 1) % (SL_SERVERS_MAX + 2);
    unsigned spec_count = (unsigned)take(&input, 1) % (VOLUMES_MAX + 1);
    uint32_t stripe_bytes = (uint32_t)SL_STRIPE_BYTES_MIN << take(&input, 1) % 9;
    memset(specs, 0, sizeof(specs));
    for (unsigned i = 0; i < spec_count; i++) {
        specs[i].name[0] = (char)('a' + i);
        specs[i].server_bitmap = take_bytes(&input);
        specs[i].size_bytes = take_bytes(&input);
    }
    /* As large as a gateway lets a server claim to be: route.c. */
    for (unsigned i = 0; i < SL_SERVERS_MAX; i++)
        capacity_bytes[i] = take_bytes(&input) % (UINT64_MAX / (2 * SL_SERVERS_MAX));
    if (sl_layout_volumes(specs, spec_count, stripe_bytes, capacity_bytes, server_count, volumes,
                          error, sizeof(error)) < 0) {
        must(error[0] != '\0');
        return 0;
    }
    unsigned count = sl_max(spec_count, 1u);
    for (unsigned i = 0; i < count; i++) {
        const struct sl_volume *volume = &volumes[i];
        must(volume->size_bytes > 0 && volume->server_count > 0);
        check_extent(volume, capacity_bytes, 0);
        check_extent(volume, capacity_bytes, volume->size_bytes - 1);
        check_extent(volume, capacity_bytes, volume->size_bytes / 2);
        check_extent(volume, capacity_bytes, take(&input, 8) % volume->size_bytes);
        for (unsigned k = 0; k < i; k++)
            check_apart(volume, &volumes[k]);
    }
    return 0;
}
