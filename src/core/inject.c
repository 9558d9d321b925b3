/*
 * Rules of fault injection: parsing them, and deciding by them. Bytes of a command line: every
 * value is checked, nothing asserts. A struct sl_inject is owned by its reactor; no clock, no
 * global state.
 */
#include "core/inject.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/size.h"

#define OPERATIONS_DISK                                                                            \
    (SL_INJECT_READ | SL_INJECT_WRITE | SL_INJECT_FLUSH | SL_INJECT_DISCARD | SL_INJECT_ZEROES)
#define OPERATIONS_LINK (SL_INJECT_READ | SL_INJECT_WRITE | SL_INJECT_SEND)

/* ---- parsing ---- */

struct parse {
    struct sl_inject_rule *rule;
    char *error;
    size_t error_bytes;
    unsigned seen; /* keys, as bits of their index */
    unsigned action_count;
};

__attribute__((format(printf, 2, 3))) static int bad(const struct parse *parse, const char *format,
                                                     ...)
{
    int used = snprintf(parse->error, parse->error_bytes, "--inject '%s': ", parse->rule->spec);
    if (used < 0 || (size_t)used >= parse->error_bytes)
        return -EINVAL;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(parse->error + used, parse->error_bytes - (size_t)used, format, arguments);
    va_end(arguments);
    return -EINVAL;
}

static int set_error(struct parse *parse, const char *value)
{
    int code = sl_error_from_name(value);
    if (code <= 0)
        return bad(parse, "error: '%s' is no name of an errno, such as EIO, ENOSPC or ETIMEDOUT",
                   value);
    parse->rule->action = SL_INJECT_ERROR;
    parse->rule->error = -code;
    return 0;
}

static int set_delay(struct parse *parse, const char *value)
{
    uint64_t *delay_ns = &parse->rule->delay_ns;
    if (sl_duration_parse(value, delay_ns) < 0 || *delay_ns == 0 ||
        *delay_ns > SL_INJECT_DELAY_NS_MAX)
        return bad(parse, "delay: '%s' is no time such as 500us, 5ms or 2s, up to 10min", value);
    parse->rule->action = SL_INJECT_DELAY;
    return 0;
}

static int set_drop(struct parse *parse, const char *value)
{
    parse->rule->action = SL_INJECT_DROP;
    parse->rule->error = -ECONNRESET;
    return 0;
}

static int set_stall(struct parse *parse, const char *value)
{
    parse->rule->action = SL_INJECT_STALL;
    return 0;
}

static int set_operations(struct parse *parse, const char *value)
{
    static const struct {
        const char *name;
        unsigned operations;
    } names[] = {
        {"any", OPERATIONS_DISK | OPERATIONS_LINK},
        {"read", SL_INJECT_READ},
        {"write", SL_INJECT_WRITE},
        {"flush", SL_INJECT_FLUSH},
        {"discard", SL_INJECT_DISCARD},
        {"zeroes", SL_INJECT_ZEROES},
        {"send", SL_INJECT_SEND},
    };
    bool is_disk = parse->rule->layer == SL_INJECT_DISK;
    unsigned known = is_disk ? OPERATIONS_DISK : OPERATIONS_LINK;
    parse->rule->operations = 0;
    for (const char *word = value;;) {
        size_t length = strcspn(word, "|");
        unsigned found = 0;
        for (unsigned i = 0; i < SL_COUNT_OF(names); i++)
            if (strlen(names[i].name) == length && memcmp(names[i].name, word, length) == 0)
                found = names[i].operations & known;
        if (found == 0)
            return bad(parse, "op: '%.*s' is none of %s, joined by '|'", (int)length, word,
                       is_disk ? "any, read, write, flush, discard, zeroes"
                               : "any, send, read, write");
        parse->rule->operations |= found;
        if (word[length] == '\0')
            return 0;
        word += length + 1;
    }
}

static int set_probability(struct parse *parse, const char *value)
{
    char *end = NULL;
    double number = strspn(value, "0123456789.") == strlen(value) ? strtod(value, &end) : 0;
    if (end == NULL || end == value || *end != '\0' || !(number > 0 && number <= 1))
        return bad(parse, "p: '%s' is no probability such as 0.01, above 0 and at most 1", value);
    parse->rule->probability = number;
    return 0;
}

static int set_size(struct parse *parse, const char *name, const char *value, uint64_t least,
                    uint64_t *bytes)
{
    if (sl_size_parse(value, bytes) < 0 || *bytes < least)
        return bad(parse, "%s: '%s' is no size such as 4096, 64K or 1G%s", name, value,
                   least > 0 ? ", above 0" : "");
    return 0;
}

static int set_offset(struct parse *parse, const char *value)
{
    return set_size(parse, "offset", value, 0, &parse->rule->offset_bytes);
}

static int set_length(struct parse *parse, const char *value)
{
    return set_size(parse, "length", value, 1, &parse->rule->length_bytes);
}

static int set_number(struct parse *parse, const char *name, const char *value, uint64_t least,
                      uint64_t *number)
{
    errno = 0;
    char *end = NULL;
    if (value[0] >= '0' && value[0] <= '9')
        *number = strtoull(value, &end, 10);
    if (end == NULL || *end != '\0' || errno != 0 || *number < least)
        return bad(parse, "%s: '%s' is no whole number from %llu to 18446744073709551615", name,
                   value, (unsigned long long)least);
    return 0;
}

static int set_after(struct parse *parse, const char *value)
{
    return set_number(parse, "after", value, 0, &parse->rule->after_count);
}

static int set_count(struct parse *parse, const char *value)
{
    return set_number(parse, "count", value, 1, &parse->rule->hit_count_max);
}

static int set_seed(struct parse *parse, const char *value)
{
    parse->rule->has_seed = true;
    return set_number(parse, "seed", value, 0, &parse->rule->seed);
}

#define DISK 1u
#define LINK 2u

static const struct key {
    const char *name;
    unsigned layers;
    bool is_action;
    bool has_value;
    int (*set)(struct parse *parse, const char *value);
} keys[] = {
    {"error", DISK | LINK, true, true, set_error},
    {"delay", DISK | LINK, true, true, set_delay},
    {"drop", LINK, true, false, set_drop},
    {"stall", LINK, true, false, set_stall},
    {"op", DISK | LINK, false, true, set_operations},
    {"p", DISK | LINK, false, true, set_probability},
    {"offset", DISK, false, true, set_offset},
    {"length", DISK, false, true, set_length},
    {"after", DISK | LINK, false, true, set_after},
    {"count", DISK | LINK, false, true, set_count},
    {"seed", DISK | LINK, false, true, set_seed},
};

static const char *known_keys(const struct parse *parse)
{
    return parse->rule->layer == SL_INJECT_DISK
               ? "disk knows error=ERRNO or delay=TIME, then op, p, offset, length, after, count, "
                 "seed"
               : "link knows error=ERRNO, delay=TIME, drop or stall, then op, p, after, count, "
                 "seed";
}

/* "key=value" or "key"; `item` may be written to. */
static int parse_item(struct parse *parse, char *item)
{
    unsigned layer = parse->rule->layer == SL_INJECT_DISK ? DISK : LINK;
    char *value = strchr(item, '=');
    if (value != NULL)
        *value++ = '\0';
    for (unsigned i = 0; i < SL_COUNT_OF(keys); i++) {
        const struct key *key = &keys[i];
        if (strcmp(key->name, item) != 0 || (key->layers & layer) == 0)
            continue;
        if ((parse->seen & 1u << i) != 0)
            return bad(parse, "'%s' is there twice", item);
        parse->seen |= 1u << i;
        parse->action_count += key->is_action;
        if (key->has_value != (value != NULL) || (value != NULL && value[0] == '\0'))
            return bad(parse, key->has_value ? "'%s' needs a value" : "'%s' takes no value", item);
        return key->set(parse, value);
    }
    return bad(parse, "'%s' is not known; %s", item, known_keys(parse));
}

/* What no key can see alone. */
static int check_whole(struct parse *parse)
{
    const struct sl_inject_rule *rule = parse->rule;
    if (parse->action_count != 1)
        return bad(parse, "%s; %s",
                   parse->action_count == 0 ? "nothing is to happen"
                                            : "one thing may happen (give --inject once for each)",
                   known_keys(parse));
    bool has_place = rule->offset_bytes != 0 || rule->length_bytes != UINT64_MAX;
    if (has_place && rule->operations == SL_INJECT_FLUSH)
        return bad(parse, "offset and length: a flush has no place");
    return 0;
}

int sl_inject_parse(const char *text, struct sl_inject_rule *rule, char *error, size_t error_bytes)
{
    struct parse parse = {.rule = rule, .error = error, .error_bytes = error_bytes};
    *rule = (struct sl_inject_rule){
        .probability = 1, .length_bytes = UINT64_MAX, .hit_count_max = UINT64_MAX};
    if (snprintf(rule->spec, sizeof(rule->spec), "%s", text) >= (int)sizeof(rule->spec))
        return bad(&parse, "longer than %d bytes", SL_INJECT_SPEC_BYTES_MAX - 1);
    if (strncmp(text, "disk:", 5) == 0)
        rule->layer = SL_INJECT_DISK;
    else if (strncmp(text, "link:", 5) == 0)
        rule->layer = SL_INJECT_LINK;
    else
        return bad(&parse, "it begins with neither 'disk:' nor 'link:', such as "
                           "disk:error=EIO,op=write,p=0.01 or link:delay=5ms,p=0.01");
    rule->operations = rule->layer == SL_INJECT_DISK ? OPERATIONS_DISK : OPERATIONS_LINK;
    char copy[SL_INJECT_SPEC_BYTES_MAX];
    memcpy(copy, rule->spec, sizeof(copy));
    for (char *item = copy + 5; item != NULL;) {
        char *next = strchr(item, ',');
        if (next != NULL)
            *next++ = '\0';
        int result = parse_item(&parse, item);
        if (result < 0)
            return result;
        item = next;
    }
    return check_whole(&parse);
}

/* ---- deciding ---- */

struct state {
    struct sl_inject_rule rule;
    struct sl_inject_counters counters;
    uint64_t random;
};

struct sl_inject {
    unsigned count;
    struct state states[];
};

/* splitmix64 (Steele, Lea, Flood 2014): one word of state, every seed is good. */
static uint64_t random_next(uint64_t *state)
{
    uint64_t word = *state += UINT64_C(0x9e3779b97f4a7c15);
    word = (word ^ word >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    word = (word ^ word >> 27) * UINT64_C(0x94d049bb133111eb);
    return word ^ word >> 31;
}

int sl_inject_create(const struct sl_inject_rule *rules, unsigned rule_count,
                     unsigned reactor_index, struct sl_inject **result)
{
    SL_ASSERT(rule_count <= SL_INJECT_RULES_MAX);
    struct sl_inject *inject = calloc(1, sizeof(*inject) + rule_count * sizeof(inject->states[0]));
    if (inject == NULL)
        return -ENOMEM;
    inject->count = rule_count;
    for (unsigned i = 0; i < rule_count; i++) {
        uint64_t place = (uint64_t)reactor_index << 32 | i;
        inject->states[i].rule = rules[i];
        inject->states[i].random = rules[i].seed ^ random_next(&place);
    }
    *result = inject;
    return 0;
}

void sl_inject_destroy(struct sl_inject *inject)
{
    free(inject);
}

bool sl_inject_concerns(const struct sl_inject *inject, enum sl_inject_layer layer)
{
    for (unsigned i = 0; i < inject->count; i++)
        if (inject->states[i].rule.layer == layer)
            return true;
    return false;
}

static bool matches(const struct sl_inject_rule *rule, enum sl_inject_layer layer,
                    enum sl_inject_operation operation, uint64_t offset_bytes,
                    uint64_t length_bytes)
{
    if (rule->layer != layer || (rule->operations & operation) == 0)
        return false;
    if (rule->offset_bytes == 0 && rule->length_bytes == UINT64_MAX)
        return true;
    if (length_bytes == 0)
        return false;
    /* Neither sum is made: both could be beyond 64 bits. */
    if (offset_bytes >= rule->offset_bytes)
        return offset_bytes - rule->offset_bytes < rule->length_bytes;
    return rule->offset_bytes - offset_bytes < length_bytes;
}

static bool strikes(struct state *state)
{
    if (state->counters.met_count++ < state->rule.after_count)
        return false;
    /* Drawn in any case, so that the n-th draw is the n-th operation's. 53 bits: a double's. */
    double drawn = (double)(random_next(&state->random) >> 11) / 9007199254740992.0;
    if (drawn >= state->rule.probability || state->counters.hit_count >= state->rule.hit_count_max)
        return false;
    state->counters.hit_count++;
    return true;
}

struct sl_inject_verdict sl_inject_decide(struct sl_inject *inject, enum sl_inject_layer layer,
                                          enum sl_inject_operation operation, uint64_t offset_bytes,
                                          uint64_t length_bytes)
{
    struct sl_inject_verdict verdict = {0};
    for (unsigned i = 0; i < inject->count; i++) {
        struct state *state = &inject->states[i];
        if (!matches(&state->rule, layer, operation, offset_bytes, length_bytes) || !strikes(state))
            continue;
        switch (state->rule.action) {
        case SL_INJECT_DELAY:
            verdict.delay_ns += state->rule.delay_ns;
            break;
        case SL_INJECT_ERROR:
        case SL_INJECT_DROP:
            verdict.error = state->rule.error;
            return verdict;
        case SL_INJECT_STALL:
            verdict.stall = true;
            return verdict;
        }
    }
    return verdict;
}

void sl_inject_counters(const struct sl_inject *inject, unsigned index,
                        struct sl_inject_counters *counters)
{
    SL_ASSERT(index < inject->count);
    *counters = inject->states[index].counters;
}

uint64_t sl_inject_hit_count(const struct sl_inject *inject)
{
    uint64_t sum = 0;
    for (unsigned i = 0; inject != NULL && i < inject->count; i++)
        sum += inject->states[i].counters.hit_count;
    return sum;
}
