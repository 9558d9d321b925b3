/* The secret that every program of a cluster holds. At start only. */
#ifndef SL_FABRIC_CLUSTER_KEY_H
#define SL_FABRIC_CLUSTER_KEY_H

#include "fabric/fabric.h"

/* Reads 32 bytes, or 64 hex digits and an optional newline. Warns when others may read the file.
 * -ENOENT, -EACCES, -EINVAL, explained in `error`. */
int sl_cluster_key_load(const char *path, uint8_t key[static SL_CLUSTER_KEY_BYTES], char *error,
                        size_t error_bytes);

/* A key that everybody knows, for programs of one host without --cluster-key-file: it protects from
 * mistakes (two clusters, a foreign port), not from people. */
void sl_cluster_key_development(uint8_t key[static SL_CLUSTER_KEY_BYTES]);

#endif
