/* What the parts of bench/verbs share: one job, done by a bare libfabric loop or by our fabric. */
#ifndef BENCH_VERBS_H
#define BENCH_VERBS_H

#include <stdint.h>

enum verbs_kind { VERBS_SEND, VERBS_READ, VERBS_WRITE };

struct verbs_job {
    const char *device;  /* as -d takes it: ofi+verbs:rxe0 */
    const char *address; /* to listen at */
    enum verbs_kind kind;
    unsigned depth;
    uint32_t payload_bytes;
    uint64_t count; /* measured, after a tenth as many */
};

/* Both ends on the calling thread. They end the program where something fails. */
void verbs_bare(const struct verbs_job *job);
void verbs_fabric(const struct verbs_job *job);

/* Around what is measured. */
void verbs_begin(void);
void verbs_end(void);

/* Ends the program if `error` is not 0. */
void verbs_check(int64_t error, const char *what);

#endif
