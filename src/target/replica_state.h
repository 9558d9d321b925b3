/* What the root of a store keeps of a replica; docs/disk-format.md, "State of a group". */
#ifndef TARGET_REPLICA_STATE_H
#define TARGET_REPLICA_STATE_H

#include "target/cluster.h"

/* As parsed; pointers are into the bytes. */
struct sl_replica_memory {
    uint64_t replica, size_bytes, index, term, copying;
    struct sl_raft_config config;
    unsigned skip_count;
    const uint8_t *skips;
    const void *sessions;
    size_t session_bytes;
};
int sl_replica_state_save(struct sl_replica *replica);
/* As bytes, to be freed; as of which index. NULL: not now. */
void *sl_replica_state_make(struct sl_replica *replica, uint64_t *index, uint64_t *term,
                            uint32_t *bytes);
/* The replica's state, all of it taken over, is that of (index, term) from now on, and its log
 * begins there. */
int sl_replica_state_install(struct sl_replica *replica, uint64_t index, uint64_t term);
/* The first state of a replica. */
int sl_replica_state_create(struct sl_store_group *log, uint64_t replica, uint64_t size_bytes,
                            const struct sl_raft_config *config);
/* NULL: right; else what is wrong. */
const char *sl_replica_state_parse(const void *state, size_t bytes,
                                   struct sl_replica_memory *memory);

#endif
