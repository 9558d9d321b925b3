/* The server's side of comch, inside: server, session, queue. comch.h has the picture. */
#ifndef SL_COMCH_SERVER_H
#define SL_COMCH_SERVER_H

#include "comch/comch.h"
#include "comch/control.h"
#include "fabric/shm/socket.h"

/* Initiators of one gateway: each has a socket, and three descriptors a queue on top of its
 * memories. */
#define COMCH_SESSIONS_MAX 256u
/* An initiator that does not take its answers for so long is hung up. */
#define COMCH_ANSWER_TIMEOUT_NS (5 * SL_NS_PER_S)

struct sl_comch_server {
    struct sl_io *io;
    struct sl_reactor *reactor;
    const struct sl_comch_handlers *handlers;
    void *owner;
    int socket;
    int lock; /* held while the channel's name is ours */
    char path[108];
    struct sl_list sessions;
    unsigned session_count;
    uint32_t last_session_id;
    bool closing;
    bool accepting; /* its coroutine runs */
    struct sl_wait_queue ended;
};

struct comch_memory {
    uint32_t id; /* 0 = free */
    uint32_t generation;
};

struct sl_comch_session {
    struct sl_list node;
    struct sl_comch_server *server;
    void *owner;
    uint32_t id;
    int pid;
    int socket;
    enum comch_state state;
    bool closing;
    int reason;
    uint32_t depth_max; /* answered by init */
    char why[160];      /* a request was refused; "" = its errno says it all. For the log */
    unsigned queue_count;
    struct sl_comch_queue *queues[SL_COMCH_QUEUES_MAX];
    struct comch_memory memories[SL_COMCH_MEMORIES_MAX];
};

/* session.c: takes the socket; the session ends by itself. 0 or negative errno (then the socket is
 * closed). */
int comch_session_begin(struct sl_comch_server *server, int socket);

/* queue.c; all but comch_queue_create on the control reactor, in a coroutine. Takes the channel,
 * also on error. */
int comch_queue_create_co(struct sl_comch_session *session, struct sl_channel *channel,
                          uint32_t depth, const struct sl_comch_queue_config *config,
                          struct sl_comch_queue **queue);
/* Submissions are handed up, or answered STATE. */
void comch_queue_run_co(struct sl_comch_queue *queue, bool running);
/* No received() any more; the peer's doorbell is not heard. */
void comch_queue_halt_co(struct sl_comch_queue *queue);
/* Halted, nothing outstanding. */
void comch_queue_destroy_co(struct sl_comch_queue *queue);

#endif
