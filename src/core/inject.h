/*
 * Fault injection: what goes wrong, when and how often. One rule is one `--inject SPEC`; the layers
 * that act on it lie behind the two seams: io/inject.h (disks) and fabric/inject.h (links).
 *
 *   disk:error=EIO,op=write,p=0.01,offset=1M,length=64K,after=1000,count=5,seed=42
 *   link:delay=5ms,p=0.01
 *
 * An operation meets the rules in the order given, each a layer: delays add up, the first error,
 * drop or stall ends its way. What is decided for the n-th operation that a rule meets depends on
 * the rule's seed, its place among the rules, the reactor's number and n alone, so a simulation
 * repeats it, and a real run does as far as operations come in the same order. Each reactor counts
 * for itself.
 */
#ifndef SL_CORE_INJECT_H
#define SL_CORE_INJECT_H

#include "core/base.h"

/* The log names each rule at the start, and prints at most 10 such lines a second. */
#define SL_INJECT_RULES_MAX      8
#define SL_INJECT_SPEC_BYTES_MAX 256
/* Longer than every time-out of the system; a program that is asked to end waits for delayed disk
 * operations. */
#define SL_INJECT_DELAY_NS_MAX (600 * SL_NS_PER_S)

enum sl_inject_layer { SL_INJECT_DISK, SL_INJECT_LINK };

enum sl_inject_action {
    SL_INJECT_ERROR,
    SL_INJECT_DELAY,
    SL_INJECT_DROP,  /* link: the connection is torn down */
    SL_INJECT_STALL, /* link: the connection is silent from here on, in this direction */
};

/* Kinds of operations, as bits. */
enum sl_inject_operation {
    SL_INJECT_READ = 1,
    SL_INJECT_WRITE = 2,
    SL_INJECT_FLUSH = 4,   /* disk */
    SL_INJECT_DISCARD = 8, /* disk */
    SL_INJECT_ZEROES = 16, /* disk */
    SL_INJECT_SEND = 32,   /* link: a message */
};

struct sl_inject_rule {
    char spec[SL_INJECT_SPEC_BYTES_MAX]; /* as given */
    enum sl_inject_layer layer;
    enum sl_inject_action action;
    int error;             /* SL_INJECT_ERROR: negative errno */
    uint64_t delay_ns;     /* SL_INJECT_DELAY */
    unsigned operations;   /* enum sl_inject_operation, or-ed */
    double probability;    /* more than 0, at most 1 */
    uint64_t offset_bytes; /* disk: operations that touch [offset, offset + length) */
    uint64_t length_bytes; /* UINT64_MAX = to the end */
    uint64_t after_count;  /* so many matching operations go untouched first */
    uint64_t hit_count_max;
    bool has_seed;
    uint64_t seed; /* without has_seed: the caller draws one before sl_inject_create() */
};

/* -EINVAL: `error` (≥ 768 bytes) names the spec, what was bad, and what is known. */
int sl_inject_parse(const char *text, struct sl_inject_rule *rule, char *error, size_t error_bytes);

/* A reactor's rules, with their counters and random streams. */
struct sl_inject;

/* Copies the rules, at most SL_INJECT_RULES_MAX. -ENOMEM. */
int sl_inject_create(const struct sl_inject_rule *rules, unsigned rule_count,
                     unsigned reactor_index, struct sl_inject **inject);
/* No layer may use it any more. Takes NULL. */
void sl_inject_destroy(struct sl_inject *inject);
/* True if any rule is for the layer: otherwise there need be none. */
bool sl_inject_concerns(const struct sl_inject *inject, enum sl_inject_layer layer);

/* What becomes of an operation: all zero = it passes. */
struct sl_inject_verdict {
    uint64_t delay_ns; /* first */
    int error;         /* then: negative errno; on a link the connection ends with it */
    bool stall;        /* then, instead: silence */
};

/* On the reactor, once for each operation. `length_bytes` 0 = it has no place (flush, link). */
struct sl_inject_verdict sl_inject_decide(struct sl_inject *inject, enum sl_inject_layer layer,
                                          enum sl_inject_operation operation, uint64_t offset_bytes,
                                          uint64_t length_bytes);

struct sl_inject_counters {
    uint64_t met_count; /* matching operations */
    uint64_t hit_count; /* of those: struck */
};
/* Of rule `index`. On the reactor, or after it has stopped. */
void sl_inject_counters(const struct sl_inject *inject, unsigned index,
                        struct sl_inject_counters *counters);
/* Of all rules. Takes NULL: 0. */
uint64_t sl_inject_hit_count(const struct sl_inject *inject);

#endif
