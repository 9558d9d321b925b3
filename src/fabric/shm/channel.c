/* Shared memory of two ends; channel.h has the layout. Owner: the caller's thread. */
#include "fabric/shm/channel.h"

#include <sys/mman.h>
#include <unistd.h>

static size_t ring_span_bytes(const struct sl_channel_layout *layout)
{
    return sl_align_up(sl_ring_bytes(layout->slot_bytes, layout->slot_count), SL_BLOCK_BYTES);
}

static size_t data_span_bytes(const struct sl_channel_layout *layout)
{
    return sl_align_up(layout->data_bytes, SL_BLOCK_BYTES);
}

static size_t channel_bytes(const struct sl_channel_layout *layout)
{
    return 2 * (ring_span_bytes(layout) + data_span_bytes(layout));
}

static int channel_map(struct sl_channel *channel, const struct sl_channel_layout *layout,
                       int memfd, bool maker)
{
    channel->length_bytes = channel_bytes(layout);
    void *base = mmap(NULL, channel->length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (base == MAP_FAILED)
        return -errno;
    channel->base = base;
    size_t ring_bytes = ring_span_bytes(layout);
    size_t data_bytes = data_span_bytes(layout);
    uint8_t *rings[2] = {channel->base, channel->base + ring_bytes};
    uint8_t *data[2] = {channel->base + 2 * ring_bytes,
                        channel->base + 2 * ring_bytes + data_bytes};
    sl_ring_producer_init(&channel->producer, rings[maker ? 0 : 1], layout->slot_bytes,
                          layout->slot_count);
    sl_ring_consumer_init(&channel->consumer, rings[maker ? 1 : 0], layout->slot_bytes,
                          layout->slot_count);
    channel->data_out = data[maker ? 0 : 1];
    channel->data_in = data[maker ? 1 : 0];
    return 0;
}

void sl_channel_init(struct sl_channel *channel)
{
    *channel = (struct sl_channel){.memfd = -1, .bell_in = -1, .bell_out = -1};
}

int sl_channel_create(struct sl_channel *channel, const struct sl_channel_layout *layout)
{
    sl_channel_init(channel);
    channel->memfd = sl_memfd_create("sluice-channel", channel_bytes(layout));
    channel->bell_in = sl_eventfd_create();
    channel->bell_out = sl_eventfd_create();
    int error = sl_min(sl_min(channel->memfd, channel->bell_in), channel->bell_out);
    if (error >= 0)
        error = channel_map(channel, layout, channel->memfd, true);
    if (error < 0)
        sl_channel_close(channel);
    return error;
}

void sl_channel_descriptors(const struct sl_channel *channel,
                            int descriptors[static SL_CHANNEL_DESCRIPTORS])
{
    descriptors[SL_CHANNEL_MEMORY] = channel->memfd;
    descriptors[SL_CHANNEL_TAKER_BELL] = channel->bell_out;
    descriptors[SL_CHANNEL_MAKER_BELL] = channel->bell_in;
}

int sl_channel_adopt(struct sl_channel *channel, const struct sl_channel_layout *layout,
                     const int descriptors[static SL_CHANNEL_DESCRIPTORS])
{
    sl_channel_init(channel);
    channel->memfd = descriptors[SL_CHANNEL_MEMORY];
    channel->bell_in = descriptors[SL_CHANNEL_TAKER_BELL];
    channel->bell_out = descriptors[SL_CHANNEL_MAKER_BELL];
    int error = sl_memfd_check(channel->memfd, channel_bytes(layout));
    if (error == 0)
        error = sl_eventfd_check(channel->bell_in);
    if (error == 0)
        error = sl_eventfd_check(channel->bell_out);
    if (error == 0)
        error = channel_map(channel, layout, channel->memfd, false);
    if (error < 0) {
        sl_channel_close(channel);
        return error;
    }
    close(channel->memfd);
    channel->memfd = -1;
    return 0;
}

static void descriptor_close(int *descriptor)
{
    if (*descriptor >= 0)
        close(*descriptor);
    *descriptor = -1;
}

void sl_channel_close(struct sl_channel *channel)
{
    if (channel->base != NULL)
        munmap(channel->base, channel->length_bytes);
    channel->base = NULL;
    descriptor_close(&channel->memfd);
    descriptor_close(&channel->bell_in);
    descriptor_close(&channel->bell_out);
}
