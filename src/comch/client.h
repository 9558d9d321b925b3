/*
 * The initiator's side of comch: blocking control calls with a time-out, data queues for plain
 * threads. Needs no reactor.
 *
 * Threads: control calls may come from any thread (a lock serialises them). A queue belongs to one
 * thread.
 */
#ifndef SL_COMCH_CLIENT_H
#define SL_COMCH_CLIENT_H

#include "comch/comch.h"

struct sl_comch_client;
struct sl_comch_client_queue;

/* Memory that the gateway and the targets of this host may reach. */
struct sl_comch_memory {
    uint8_t *base;
    uint64_t length_bytes;
    int memfd;
    uint32_t id; /* goes into sl_io_message.memory_id; 0 = not registered */
    bool hugepages;
};

/* Connects to a server at `path` (comch/path.h). Every control call waits `timeout_ns` at most.
 * -ENOENT, -ECONNREFUSED (no live gateway), -EACCES, -ETIMEDOUT, -ENOMEM. */
int sl_comch_client_connect(const char *path, uint64_t timeout_ns, struct sl_comch_client **client);
/* Closes the socket, whatever the state. Queues must be destroyed before. Takes NULL. */
void sl_comch_client_close(struct sl_comch_client *client);
/* 0, or -ECONNRESET: the gateway has gone. One system call; for threads that poll and never wait.
 * Any thread. */
int sl_comch_client_check(struct sl_comch_client *client);

/* The calls of the life cycle. 0, the gateway's error (sl_status_to_errno()), -ETIMEDOUT (the
 * connection is unusable after), -ECONNRESET, -SL_E_PROTOCOL. `volume` "" = the default one. */
int sl_comch_client_query(struct sl_comch_client *client, const char *volume,
                          struct sl_comch_storage *storage);
int sl_comch_client_init(struct sl_comch_client *client, const char *volume,
                         struct sl_comch_storage *storage);
int sl_comch_client_create_control(struct sl_comch_client *client);
int sl_comch_client_start(struct sl_comch_client *client);
int sl_comch_client_stop(struct sl_comch_client *client);
int sl_comch_client_shutdown(struct sl_comch_client *client);
int sl_comch_client_statistics(struct sl_comch_client *client,
                               struct sl_comch_statistics *statistics);

/* Makes a sealed memfd (2 MiB pages if `hugepages` and there are any; memory->hugepages says), maps
 * it. `length_bytes` is rounded up to the page. -ENOMEM, … */
int sl_comch_memory_create(uint64_t length_bytes, bool hugepages, struct sl_comch_memory *memory);
/* Unmaps and closes. Takes one that is all zeroes. */
void sl_comch_memory_destroy(struct sl_comch_memory *memory);
/* Shares it with the gateway (after init) and sets memory->id. `writable` false: reads may not land
 * in it. */
int sl_comch_client_register(struct sl_comch_client *client, struct sl_comch_memory *memory,
                             bool writable);
int sl_comch_client_unregister(struct sl_comch_client *client, struct sl_comch_memory *memory);

/* Makes a data queue (after init, before start): `depth` 1 … depth_max, 0 = the default. */
int sl_comch_client_queue_create(struct sl_comch_client *client, uint32_t depth,
                                 struct sl_comch_client_queue **queue);
void sl_comch_client_queue_destroy(struct sl_comch_client_queue *queue);
uint32_t sl_comch_client_queue_depth(const struct sl_comch_client_queue *queue);
/* Copies up to `count` messages into the ring, publishes them together, rings if the gateway
 * sleeps. Answers how many (fewer: the ring is full). Keep at most `depth` outstanding.
 * -SL_E_PROTOCOL: the ring is spoilt. */
int sl_comch_client_queue_submit(struct sl_comch_client_queue *queue,
                                 const struct sl_io_message *messages, unsigned count);
/* Takes up to `count` completions (request_id and status are set): how many, 0, or -SL_E_PROTOCOL.
 * Never sleeps. */
int sl_comch_client_queue_poll(struct sl_comch_client_queue *queue, struct sl_io_message *messages,
                               unsigned count);
/* Sleeps until a completion is there (0), the gateway has gone (-ECONNRESET) or -ETIMEDOUT. */
int sl_comch_client_queue_wait(struct sl_comch_client_queue *queue, uint64_t timeout_ns);

#endif
