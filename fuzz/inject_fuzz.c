/*
 * Goal: no --inject SPEC, whatever its bytes, gets a rule past the parser that the layers could
 * stumble over; what is refused is explained; and a rule that is taken decides within what it says.
 * Method: the first byte picks the room for the error, the rest is the spec. What was let through
 * is checked again in other words, and asked about operations of every kind.
 */
#include <stdlib.h>
#include <string.h>

#include "core/inject.h"

#define OPERATIONS 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition)
{
    if (!condition)
        abort();
}

static void must_be_sound(const struct sl_inject_rule *rule, const char *text)
{
    must(strcmp(rule->spec, text) == 0);
    must(strncmp(text, rule->layer == SL_INJECT_DISK ? "disk:" : "link:", 5) == 0);
    must(rule->probability > 0 && rule->probability <= 1);
    must(rule->operations != 0 && rule->length_bytes > 0 && rule->hit_count_max > 0);
    must((rule->action == SL_INJECT_DELAY) == (rule->delay_ns > 0));
    must(rule->delay_ns <= SL_INJECT_DELAY_NS_MAX);
    must((rule->action == SL_INJECT_ERROR || rule->action == SL_INJECT_DROP) == (rule->error < 0));
    must(rule->error > -4096);
    if (rule->layer == SL_INJECT_LINK)
        must(rule->offset_bytes == 0 && rule->length_bytes == UINT64_MAX);
    else
        must(rule->action == SL_INJECT_ERROR || rule->action == SL_INJECT_DELAY);
}

static void decide(const struct sl_inject_rule *rule)
{
    struct sl_inject *inject[2];
    struct sl_inject_counters counters;
    uint64_t hit_count = 0;
    for (unsigned i = 0; i < 2; i++)
        must(sl_inject_create(rule, 1, 3, &inject[i]) == 0);
    for (unsigned i = 0; i < OPERATIONS; i++) {
        enum sl_inject_operation operation = 1u << i % 6;
        uint64_t offset_bytes = i < 48 ? i * 4096 : UINT64_MAX - 4096 * i;
        struct sl_inject_verdict verdicts[2];
        for (unsigned k = 0; k < 2; k++)
            verdicts[k] = sl_inject_decide(inject[k], rule->layer, operation, offset_bytes, 4096);
        must(verdicts[0].delay_ns == verdicts[1].delay_ns &&
             verdicts[0].error == verdicts[1].error && verdicts[0].stall == verdicts[1].stall);
        bool hit = verdicts[0].delay_ns != 0 || verdicts[0].error != 0 || verdicts[0].stall;
        must(!hit || (operation & rule->operations) != 0);
        must(verdicts[0].error == 0 || verdicts[0].error == rule->error);
        must(verdicts[0].delay_ns == 0 || verdicts[0].delay_ns == rule->delay_ns);
        must(!verdicts[0].stall || rule->action == SL_INJECT_STALL);
        hit_count += hit;
    }
    sl_inject_counters(inject[0], 0, &counters);
    must(counters.hit_count == hit_count && hit_count <= rule->hit_count_max);
    must(counters.met_count <= OPERATIONS && hit_count <= counters.met_count);
    must(hit_count == 0 || counters.met_count > rule->after_count);
    sl_inject_destroy(inject[0]);
    sl_inject_destroy(inject[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    /* Both of exactly their size, so that ASan sees a step outside. */
    size_t error_bytes = data[0] < 128 ? 768 : data[0] - 127u;
    char *error = malloc(error_bytes);
    char *text = malloc(size);
    struct sl_inject_rule rule;
    must(error != NULL && text != NULL);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    memset(error, 'x', error_bytes);
    if (sl_inject_parse(text, &rule, error, error_bytes) == 0) {
        must_be_sound(&rule, text);
        decide(&rule);
    } else {
        size_t length = strnlen(error, error_bytes);
        must(length < error_bytes);
        must(error_bytes < 16 || strncmp(error, "--inject '", 10) == 0);
    }
    free(error);
    free(text);
    return 0;
}
