/*
 * One group of the core that is fed by hand, step by step. Replica 1 on node 1 is it; 2 and 3 are
 * voters, 4 is a learner. For the tests of single steps; one test at a time.
 */
#ifndef TESTS_RAFT_HAND_H
#define TESTS_RAFT_HAND_H

#include "raft/private.h"

enum { T = 1000000, START = 5000000, ROOM = 8 };

extern struct sl_raft_tuning tuning;
extern struct sl_raft_output output; /* of the newest step */
extern struct sl_raft_config config;
extern struct sl_raft *raft;
extern struct sl_raft_links *links; /* set before make(): heartbeats are shared */
extern void *links_memory;
extern uint64_t now_ns;
extern struct sl_index promised;  /* set before make(): the log was longer */
extern struct sl_index committed; /* set before make(): so much was committed */
extern struct sl_term promised_term;

int setup(void **state);
int teardown(void **state);
void make(uint64_t term, const struct sl_raft_span *spans, unsigned span_count);
int feed(struct sl_raft_event event);
int tick(void);
void saved(void);
void wrote(void);
void hear(uint64_t from, struct sl_raft_message message);
unsigned count(enum sl_raft_action_kind kind);
const struct sl_raft_action *the(enum sl_raft_action_kind kind);
const struct sl_raft_message *sent(void);
unsigned entries_to(uint64_t to, unsigned *messages);
struct sl_raft_message grant(bool pre);
struct sl_raft_message accept(uint64_t durable);
void campaign(void);
void lead(uint64_t noop);
int propose(uint32_t entries, uint64_t bytes);
struct sl_raft_message append(uint64_t term, uint64_t index, uint64_t index_term, uint32_t entries,
                              uint64_t entry_term);

#endif
