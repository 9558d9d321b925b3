/* What may happen to a cluster of the Raft simulator; how it happens is in faults.c. Plain values.
 */
#ifndef SIM_RAFT_FAULT_H
#define SIM_RAFT_FAULT_H

#include "core/base.h"

enum fault_kind {
    FAULT_CRASH,
    FAULT_POWER,
    FAULT_PAUSE,
    FAULT_PARTITION,
    FAULT_ONE_WAY,
    FAULT_LOSS,
    FAULT_DUPLICATE,
    FAULT_DELAY,
    FAULT_DISK_SLOW,
    FAULT_DISK_FAIL,
    FAULT_CLOCK,
    FAULT_WIPE,
    FAULT_CHANGE,
    FAULT_TRANSFER,
    FAULT_COMPACT,
    FAULT_BURST,
    FAULT_ATTACH,
    FAULT_VOID,
    FAULT_LATE_REQUEST,
    FAULT_TORN,
    FAULT_CONNECTION,
    FAULT_LATE_READ,
    FAULT_LOST_READ,
    FAULT_DISK_STUCK,
    FAULT_ROT,
    FAULT_CLOCK_JUMP,
    FAULT_COUNT,
};

struct fault {
    enum fault_kind kind;
    uint64_t at_ns, length_ns;
    uint64_t random; /* who, and how much */
    bool skip;
};

#endif
