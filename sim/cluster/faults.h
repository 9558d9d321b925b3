/* Kinds of faults, and effects that they should have: both are counted (cluster.h). */
#ifndef SIM_CLUSTER_FAULTS_H
#define SIM_CLUSTER_FAULTS_H

#define CLUSTER_FAULTS(X)                                                                          \
    X(TARGET_KILL)                                                                                 \
    X(TARGET_POWER)                                                                                \
    X(TARGET_RESTART)                                                                              \
    X(ALL_TARGETS_POWER)                                                                           \
    X(GATEWAY_KILL)                                                                                \
    X(GATEWAY_POWER)                                                                               \
    X(GATEWAY_RESTART)                                                                             \
    X(PAUSE)                                                                                       \
    X(PARTITION)                                                                                   \
    X(CUT_ONE_WAY)                                                                                 \
    X(RESET)                                                                                       \
    X(NET_SLOW)                                                                                    \
    X(NET_RESETS)                                                                                  \
    X(DISK_WRITE_ERRORS)                                                                           \
    X(DISK_READ_ERRORS)                                                                            \
    X(DISK_STUCK)                                                                                  \
    X(DISK_SLOW)                                                                                   \
    X(DISK_ROT)                                                                                    \
    X(DISK_FORGETS)                                                                                \
    X(DISK_MISDIRECTS)                                                                             \
    X(CLOCK)                                                                                       \
    X(LEADER_KILL)                                                                                 \
    X(LEADER_POWER)                                                                                \
    X(LEADER_PAUSE)                                                                                \
    X(LEADER_CUT)                                                                                  \
    X(TARGET_WIPE)                                                                                 \
    X(TARGETS_APART)                                                                               \
    X(REPLICA_DIFFERS)

/* What they led to: counted, so that a run that meets too little fails. */
#define CLUSTER_EFFECTS(X)                                                                         \
    X(WRITES_DONE)                                                                                 \
    X(READS_DONE)                                                                                  \
    X(WRITES_UNKNOWN)                                                                              \
    X(WRITES_DECIDED_NEVER)                                                                        \
    X(WRITES_UNTIL)                                                                                \
    X(WRITES_OPEN_AT_CRASH)                                                                        \
    X(READS_FAILED)                                                                                \
    X(RETRIES)                                                                                     \
    X(CRASHES_WHILE_STARTING)                                                                      \
    X(CRASHES_WHILE_STOPPING)                                                                      \
    X(FAILED_STARTS)                                                                               \
    X(ORDERLY_ENDS)                                                                                \
    X(CHECKSUM_ERRORS)                                                                             \
    X(DISK_ERRORS)                                                                                 \
    X(SECTORS_LOST)                                                                                \
    X(WRITES_TORN)                                                                                 \
    X(DISKS_STUCK)                                                                                 \
    X(BITS_ROTTEN)                                                                                 \
    X(WRITES_FORGOTTEN)                                                                            \
    X(MISDIRECTED)                                                                                 \
    X(PACKETS_HELD)                                                                                \
    X(CONNECTIONS_RESET)                                                                           \
    X(LATE_LANDINGS)                                                                               \
    X(CHECKPOINTS)                                                                                 \
    X(ENTRIES_RECOVERED)                                                                           \
    X(UNSEEN_WRITES_APPLIED)                                                                       \
    X(LEADERS_SEEN)                                                                                \
    X(REPLICAS_COMPARED)                                                                           \
    X(REPLICAS_REPLACED)                                                                           \
    X(CHUNKS_COMPARED)                                                                             \
    X(BLOCKS_FORGED)                                                                               \
    X(DIFFERENCES_FOUND)                                                                           \
    X(DIFFERENCES_MENDED)                                                                          \
    X(FOLLOWER_READS)

#define FAULT_NAME(name)  FAULT_##name,
#define EFFECT_NAME(name) EFFECT_##name,
enum fault_kind { CLUSTER_FAULTS(FAULT_NAME) FAULT_COUNT };
enum effect { CLUSTER_EFFECTS(EFFECT_NAME) EFFECT_COUNT };

#endif
