/* The initiator's side of comch, inside. */
#ifndef SL_COMCH_CLIENT_PRIVATE_H
#define SL_COMCH_CLIENT_PRIVATE_H

#include <poll.h>
#include <pthread.h>

#include "comch/client.h"
#include "comch/control.h"

struct sl_comch_client {
    int socket;
    uint64_t timeout_ns;
    pthread_mutex_t lock; /* of what follows, and of request and answer on the socket */
    uint64_t last_correlation_id;
    int dead; /* why no call can be made any more; 0 = alive */
};

/* Fills in the header, sends, waits, checks, leaves the answer in *record. As the calls of client.h
 * answer. */
int comch_client_call(struct sl_comch_client *client, struct comch_record *record,
                      const int *descriptors, unsigned descriptor_count);
/* 0: one is ready. -ETIMEDOUT, … UINT64_MAX: waits for ever. */
int comch_poll_until(struct pollfd *entries, unsigned entry_count, uint64_t timeout_ns);

#endif
