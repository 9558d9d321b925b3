/*
 * The initiator's memory and data queues: rings that a plain thread fills and empties. client.h
 * says what is promised. A queue belongs to one thread; memory to nobody until it is registered.
 */
#include "comch/client_private.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/error.h"

#define HUGEPAGE_BYTES (2 * SL_MIB)

struct sl_comch_client_queue {
    struct sl_comch_client *client;
    struct sl_channel channel;
    uint32_t depth;
};

/* ---- memory ---- */

/* Pages are taken at once with hugepages: one that is missing later would be a SIGBUS. */
static int hugepage_memfd(uint64_t length_bytes)
{
    int memfd = memfd_create("sluice-initiator",
                             MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_2MB);
    if (memfd < 0)
        return -errno;
    if (ftruncate(memfd, (off_t)length_bytes) < 0 ||
        fallocate(memfd, 0, 0, (off_t)length_bytes) < 0 ||
        fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
        int error = -errno;
        close(memfd);
        return error;
    }
    return memfd;
}

int sl_comch_memory_create(uint64_t length_bytes, bool hugepages, struct sl_comch_memory *memory)
{
    *memory = (struct sl_comch_memory){.memfd = -1};
    if (length_bytes == 0 || length_bytes > INT64_MAX - HUGEPAGE_BYTES)
        return -EINVAL;
    if (hugepages) {
        memory->length_bytes = sl_align_up(length_bytes, HUGEPAGE_BYTES);
        memory->memfd = hugepage_memfd(memory->length_bytes);
        memory->hugepages = memory->memfd >= 0;
    }
    if (memory->memfd < 0) {
        memory->length_bytes = sl_align_up(length_bytes, SL_BLOCK_BYTES);
        memory->memfd = sl_memfd_create("sluice-initiator", memory->length_bytes);
    }
    int error = sl_min(memory->memfd, 0);
    if (error == 0) {
        void *base =
            mmap(NULL, memory->length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory->memfd, 0);
        if (base != MAP_FAILED) {
            memory->base = base;
            return 0;
        }
        error = -errno;
        close(memory->memfd);
    }
    *memory = (struct sl_comch_memory){0};
    return error;
}

void sl_comch_memory_destroy(struct sl_comch_memory *memory)
{
    if (memory->base == NULL)
        return;
    munmap(memory->base, memory->length_bytes);
    close(memory->memfd);
    *memory = (struct sl_comch_memory){0};
}

int sl_comch_client_register(struct sl_comch_client *client, struct sl_comch_memory *memory,
                             bool writable)
{
    struct comch_record record = {
        .header.type = COMCH_REGISTER_MEMORY,
        .memory = {.length_bytes = memory->length_bytes, .writable = writable},
    };
    int error = comch_client_call(client, &record, &memory->memfd, 1);
    if (error < 0)
        return error;
    memory->id = record.memory.memory_id;
    if (writable && record.memory.writable == 0) {
        (void)sl_comch_client_unregister(client, memory);
        return -EROFS;
    }
    return 0;
}

int sl_comch_client_unregister(struct sl_comch_client *client, struct sl_comch_memory *memory)
{
    struct comch_record record = {
        .header.type = COMCH_UNREGISTER_MEMORY,
        .memory.memory_id = memory->id,
    };
    int error = comch_client_call(client, &record, NULL, 0);
    if (error == 0)
        memory->id = 0;
    return error;
}

/* ---- queues ---- */

int sl_comch_client_queue_create(struct sl_comch_client *client, uint32_t depth,
                                 struct sl_comch_client_queue **result)
{
    if (depth == 0)
        depth = SL_COMCH_DEPTH_DEFAULT;
    if (depth > SL_COMCH_DEPTH_MAX)
        return -EINVAL;
    struct sl_comch_client_queue *queue = calloc(1, sizeof(*queue));
    if (queue == NULL)
        return -ENOMEM;
    queue->client = client;
    queue->depth = depth;
    struct sl_channel_layout layout = comch_queue_layout(depth);
    int error = sl_channel_create(&queue->channel, &layout);
    if (error < 0) {
        free(queue);
        return error;
    }
    struct comch_record record = {
        .header.type = COMCH_CREATE_RDMA_CONNECTION,
        .connection = {.kind = SL_COMCH_CONNECTION_DATA, .depth = depth},
    };
    int descriptors[SL_CHANNEL_DESCRIPTORS];
    sl_channel_descriptors(&queue->channel, descriptors);
    error = comch_client_call(client, &record, descriptors, SL_CHANNEL_DESCRIPTORS);
    if (error < 0) {
        sl_comch_client_queue_destroy(queue);
        return error;
    }
    *result = queue;
    return 0;
}

void sl_comch_client_queue_destroy(struct sl_comch_client_queue *queue)
{
    if (queue == NULL)
        return;
    sl_channel_close(&queue->channel);
    free(queue);
}

uint32_t sl_comch_client_queue_depth(const struct sl_comch_client_queue *queue)
{
    return queue->depth;
}

int sl_comch_client_queue_submit(struct sl_comch_client_queue *queue,
                                 const struct sl_io_message *messages, unsigned count)
{
    struct sl_ring_producer *producer = &queue->channel.producer;
    int room = sl_ring_room(producer, count);
    if (room < 0)
        return room;
    unsigned taken = sl_min((unsigned)room, count);
    for (unsigned i = 0; i < taken; i++)
        *(struct sl_io_message *)sl_ring_reserve(producer) = messages[i];
    if (sl_ring_publish(producer))
        sl_eventfd_ring(queue->channel.bell_out);
    return (int)taken;
}

int sl_comch_client_queue_poll(struct sl_comch_client_queue *queue, struct sl_io_message *messages,
                               unsigned count)
{
    struct sl_ring_consumer *consumer = &queue->channel.consumer;
    int available = 0;
    unsigned taken = 0;
    while (taken < count && (available = sl_ring_available(consumer)) > 0) {
        memcpy(&messages[taken++], sl_ring_peek(consumer), sizeof(*messages)); /* header: I/O */
        sl_ring_take(consumer);
    }
    if (available < 0)
        return available;
    if (sl_ring_release(consumer))
        sl_eventfd_ring(queue->channel.bell_out);
    return (int)taken;
}

int sl_comch_client_queue_wait(struct sl_comch_client_queue *queue, uint64_t timeout_ns)
{
    struct sl_ring_consumer *consumer = &queue->channel.consumer;
    if (!sl_ring_consumer_arm(consumer)) /* there is one, or a poll will say what is wrong */
        return 0;
    struct pollfd entries[2] = {
        {queue->channel.bell_in, POLLIN, 0},
        {queue->client->socket, POLLRDHUP, 0},
    };
    int error = comch_poll_until(entries, 2, timeout_ns);
    sl_ring_consumer_disarm(consumer);
    uint64_t rung;
    if (error == 0 && (entries[0].revents & POLLIN) != 0)
        (void)!read(queue->channel.bell_in, &rung, sizeof(rung));
    /* What was completed before the end counts, and so does what came just now. */
    if (sl_ring_available(consumer) != 0)
        return 0;
    if (error == 0 && entries[1].revents != 0)
        return -ECONNRESET;
    return error;
}
