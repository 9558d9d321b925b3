/*
 * Goal: an --inject SPEC is read strictly, errors name spec, key and what is known; and what a rule
 * does to the n-th operation is a matter of its seed, its place and n alone.
 * Method: tables of specs with their rules, or with the words that the error must hold; sequences
 * of decisions beside what the rule says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "core/inject.h"

#define ANY_DISK                                                                                   \
    (SL_INJECT_READ | SL_INJECT_WRITE | SL_INJECT_FLUSH | SL_INJECT_DISCARD | SL_INJECT_ZEROES)

static struct sl_inject_rule parsed(const char *spec)
{
    struct sl_inject_rule rule;
    static char error[768];
    if (sl_inject_parse(spec, &rule, error, sizeof(error)) != 0)
        fail_msg("%s", error);
    assert_string_equal(rule.spec, spec);
    return rule;
}

static void test_good(void **state)
{
    struct sl_inject_rule rule = parsed("disk:error=EIO");
    assert_int_equal(rule.layer, SL_INJECT_DISK);
    assert_int_equal(rule.action, SL_INJECT_ERROR);
    assert_int_equal(rule.error, -EIO);
    assert_int_equal(rule.operations, ANY_DISK);
    assert_true(rule.probability == 1 && !rule.has_seed);
    assert_int_equal(rule.length_bytes, UINT64_MAX);
    rule = parsed("disk:error=ENOSPC,op=write|zeroes,p=0.25,offset=1M,length=64K,after=7,count=3,"
                  "seed=18446744073709551615");
    assert_int_equal(rule.error, -ENOSPC);
    assert_int_equal(rule.operations, SL_INJECT_WRITE | SL_INJECT_ZEROES);
    assert_true(rule.probability == 0.25 && rule.has_seed && rule.seed == UINT64_MAX);
    assert_int_equal(rule.offset_bytes, SL_MIB);
    assert_int_equal(rule.length_bytes, 64 * SL_KIB);
    assert_int_equal(rule.after_count, 7);
    assert_int_equal(rule.hit_count_max, 3);
    rule = parsed("link:op=any,delay=5ms,p=1");
    assert_int_equal(rule.layer, SL_INJECT_LINK);
    assert_int_equal(rule.action, SL_INJECT_DELAY);
    assert_int_equal(rule.delay_ns, 5 * SL_NS_PER_MS);
    assert_int_equal(parsed("link:drop").action, SL_INJECT_DROP);
    assert_int_equal(parsed("link:stall,op=send").action, SL_INJECT_STALL);
    assert_int_equal(parsed("disk:delay=10min").delay_ns, 600 * SL_NS_PER_S);
}

static const struct {
    const char *spec;
    const char *words[3];
} bad_cases[] = {
    {"", {"disk:", "link:"}},
    {"disk", {"'disk'", "neither"}},
    {"wire:drop", {"wire:drop", "link:"}},
    {"disk:", {"''", "disk knows"}},
    {"disk:p=0.5", {"nothing is to happen", "error=ERRNO"}},
    {"disk:error=EIO,delay=1ms", {"one thing", "each"}},
    {"disk:drop", {"'drop'", "disk knows"}},
    {"disk:short", {"'short'", "disk knows"}},
    {"link:drop,stall", {"one thing"}},
    {"link:drop=1", {"'drop'", "no value"}},
    {"link:drop,offset=0", {"'offset'", "link knows"}},
    {"link:drop,op=flush", {"'flush'", "send"}},
    {"disk:error=EIO,op=send", {"'send'", "zeroes"}},
    {"disk:error=EIO,op=read|", {"''", "any, read"}},
    {"disk:error=EIO,op=", {"'op'", "needs a value"}},
    {"disk:error", {"'error'", "needs a value"}},
    {"disk:error=", {"'error'", "needs a value"}},
    {"disk:error=eio", {"'eio'", "ENOSPC"}},
    {"disk:error=5", {"'5'", "EIO"}},
    {"disk:error=0", {"'0'"}},
    {"disk:error=EIO,error=EIO", {"'error'", "twice"}},
    {"disk:error=EIO,,p=1", {"''", "not known"}},
    {"disk:error=EIO,", {"''", "not known"}},
    {"disk:error=EIO,P=1", {"'P'", "not known"}},
    {"disk:error=EIO,p=0", {"'0'", "at most 1"}},
    {"disk:error=EIO,p=0.0", {"above 0"}},
    {"disk:error=EIO,p=1.01", {"'1.01'", "at most 1"}},
    {"disk:error=EIO,p=-0.1", {"'-0.1'"}},
    {"disk:error=EIO,p=1e-3", {"'1e-3'"}},
    {"disk:error=EIO,p=nan", {"'nan'"}},
    {"disk:error=EIO,p=.", {"'.'"}},
    {"disk:error=EIO,p=0.1.2", {"'0.1.2'"}},
    {"disk:error=EIO,length=0", {"length", "above 0"}},
    {"disk:error=EIO,offset=4Q", {"offset", "'4Q'"}},
    {"disk:error=EIO,offset=-1", {"offset", "'-1'"}},
    {"disk:error=EIO,after=-1", {"after", "'-1'", "from 0"}},
    {"disk:error=EIO,count=0", {"count", "'0'", "from 1"}},
    {"disk:error=EIO,seed=18446744073709551616", {"seed", "18446744073709551615"}},
    {"disk:error=EIO,seed=0x10", {"seed", "'0x10'"}},
    {"disk:error=EIO,seed= 1", {"seed", "' 1'"}},
    {"disk:delay=0ms", {"delay", "'0ms'"}},
    {"disk:delay=11min", {"delay", "'11min'", "10min"}},
    {"disk:delay=5parsecs", {"delay", "'5parsecs'"}},
    {"disk:error=EIO,op=flush,offset=4K", {"flush", "offset"}},
};

static void test_bad(void **state)
{
    static char long_spec[400], error[768];
    struct sl_inject_rule rule;
    for (size_t i = 0; i < SL_COUNT_OF(bad_cases); i++) {
        error[0] = '\0';
        assert_int_equal(sl_inject_parse(bad_cases[i].spec, &rule, error, sizeof(error)), -EINVAL);
        assert_non_null(strstr(error, "--inject '"));
        assert_non_null(strstr(error, bad_cases[i].spec));
        for (unsigned k = 0; k < 3 && bad_cases[i].words[k] != NULL; k++)
            if (strstr(error, bad_cases[i].words[k]) == NULL)
                fail_msg("'%s' lacks '%s'", error, bad_cases[i].words[k]);
    }
    memset(long_spec, 'x', sizeof(long_spec) - 1);
    long_spec[sizeof(long_spec) - 1] = '\0';
    memcpy(long_spec, "disk:", 5);
    assert_int_equal(sl_inject_parse(long_spec, &rule, error, sizeof(error)), -EINVAL);
    assert_non_null(strstr(error, "255 bytes"));
    /* However small the room is. */
    char tiny[8];
    assert_int_equal(sl_inject_parse("disk:foo", &rule, tiny, sizeof(tiny)), -EINVAL);
    assert_true(strlen(tiny) < sizeof(tiny));
}

static struct sl_inject *make(unsigned reactor, unsigned count, const char *const *specs)
{
    static struct sl_inject_rule rules[SL_INJECT_RULES_MAX];
    struct sl_inject *inject = NULL;
    for (unsigned i = 0; i < count; i++)
        rules[i] = parsed(specs[i]);
    assert_int_equal(sl_inject_create(rules, count, reactor, &inject), 0);
    return inject;
}

static struct sl_inject_verdict decide(struct sl_inject *inject, enum sl_inject_operation operation,
                                       uint64_t offset_bytes, uint64_t length_bytes)
{
    return sl_inject_decide(inject, SL_INJECT_DISK, operation, offset_bytes, length_bytes);
}

static void test_after_and_count(void **state)
{
    const char *const specs[] = {"disk:error=EIO,op=write,after=3,count=2"};
    struct sl_inject *inject = make(0, 1, specs);
    struct sl_inject_counters counters;
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(decide(inject, SL_INJECT_READ, 0, 4096).error, 0);
        assert_int_equal(decide(inject, SL_INJECT_WRITE, 0, 4096).error,
                         i == 3 || i == 4 ? -EIO : 0);
        /* Another layer's operation is none of its business. */
        assert_int_equal(sl_inject_decide(inject, SL_INJECT_LINK, SL_INJECT_WRITE, 0, 0).error, 0);
    }
    sl_inject_counters(inject, 0, &counters);
    assert_int_equal(counters.met_count, 10);
    assert_int_equal(counters.hit_count, 2);
    assert_int_equal(sl_inject_hit_count(inject), 2);
    assert_true(sl_inject_concerns(inject, SL_INJECT_DISK));
    assert_false(sl_inject_concerns(inject, SL_INJECT_LINK));
    sl_inject_destroy(inject);
    assert_int_equal(sl_inject_hit_count(NULL), 0);
}

static void test_range(void **state)
{
    const char *const specs[] = {"disk:error=EIO,offset=8192,length=4096"};
    struct sl_inject *inject = make(0, 1, specs);
    assert_int_equal(decide(inject, SL_INJECT_READ, 0, 8192).error, 0);
    assert_int_equal(decide(inject, SL_INJECT_READ, 0, 8193).error, -EIO);
    assert_int_equal(decide(inject, SL_INJECT_READ, 8192, 4096).error, -EIO);
    assert_int_equal(decide(inject, SL_INJECT_READ, 12287, 4096).error, -EIO);
    assert_int_equal(decide(inject, SL_INJECT_READ, 12288, 4096).error, 0);
    assert_int_equal(decide(inject, SL_INJECT_READ, 0, UINT64_MAX).error, -EIO);
    assert_int_equal(decide(inject, SL_INJECT_FLUSH, 0, 0).error, 0);
    sl_inject_destroy(inject);
    const char *const last[] = {"disk:error=EIO,offset=18446744073709551615,length=1"};
    inject = make(0, 1, last);
    assert_int_equal(decide(inject, SL_INJECT_READ, UINT64_MAX - 4096, 4096).error, 0);
    assert_int_equal(decide(inject, SL_INJECT_READ, UINT64_MAX - 4095, 4096).error, -EIO);
    sl_inject_destroy(inject);
}

/* Delays add up, and the first end ends it: what stands behind it meets nothing. */
static void test_stack(void **state)
{
    const char *const specs[] = {"disk:delay=1ms", "disk:delay=2ms,op=read", "disk:error=EIO",
                                 "disk:error=ENOSPC"};
    struct sl_inject *inject = make(0, 4, specs);
    struct sl_inject_verdict verdict = decide(inject, SL_INJECT_READ, 0, 4096);
    assert_int_equal(verdict.delay_ns, 3 * SL_NS_PER_MS);
    assert_int_equal(verdict.error, -EIO);
    assert_int_equal(decide(inject, SL_INJECT_WRITE, 0, 4096).delay_ns, SL_NS_PER_MS);
    struct sl_inject_counters counters;
    sl_inject_counters(inject, 2, &counters);
    assert_int_equal(counters.hit_count, 2);
    sl_inject_counters(inject, 3, &counters);
    assert_int_equal(counters.met_count, 0);
    sl_inject_destroy(inject);
    const char *const ends[] = {"link:stall,op=read", "link:drop,op=send"};
    inject = make(0, 2, ends);
    assert_true(sl_inject_decide(inject, SL_INJECT_LINK, SL_INJECT_READ, 0, 0).stall);
    verdict = sl_inject_decide(inject, SL_INJECT_LINK, SL_INJECT_SEND, 0, 0);
    assert_true(!verdict.stall && verdict.error == -ECONNRESET);
    sl_inject_destroy(inject);
}

#define DRAWS 20000

static void draw(unsigned reactor, unsigned count, const char *const *specs, bool *hits)
{
    struct sl_inject *inject = make(reactor, count, specs);
    for (unsigned i = 0; i < DRAWS; i++)
        hits[i] = decide(inject, SL_INJECT_WRITE, i * 4096, 4096).error != 0;
    sl_inject_destroy(inject);
}

static void test_seed(void **state)
{
    static bool first[DRAWS], again[DRAWS], other[DRAWS];
    const char *const specs[] = {"disk:error=EIO,p=0.1,seed=7"};
    const char *const seeds[] = {"disk:error=EIO,p=0.1,seed=8"};
    const char *const limited[] = {"disk:error=EIO,p=0.1,seed=7,after=100,count=50"};
    draw(0, 1, specs, first);
    draw(0, 1, specs, again);
    assert_memory_equal(first, again, sizeof(first));
    unsigned hits = 0;
    for (unsigned i = 0; i < DRAWS; i++)
        hits += first[i];
    assert_true(hits > DRAWS / 11 && hits < DRAWS / 9);
    draw(0, 1, seeds, other);
    assert_memory_not_equal(first, other, sizeof(first));
    draw(1, 1, specs, other);
    assert_memory_not_equal(first, other, sizeof(first));
    draw(0, 1, limited, other);
    hits = 0;
    for (unsigned i = 0; i < DRAWS; i++) {
        /* The first draw is that of the first operation behind `after`. */
        assert_int_equal(other[i], i >= 100 && first[i - 100] && hits < 50);
        hits += other[i];
    }
    assert_int_equal(hits, 50);
    /* The same spec twice: two streams, so about p + p - p². */
    const char *const twice[] = {specs[0], specs[0]};
    draw(0, 2, twice, other);
    hits = 0;
    for (unsigned i = 0; i < DRAWS; i++)
        hits += other[i];
    assert_true(hits > DRAWS * 17 / 100 && hits < DRAWS * 21 / 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),  cmocka_unit_test(test_bad),
        cmocka_unit_test(test_range), cmocka_unit_test(test_after_and_count),
        cmocka_unit_test(test_stack), cmocka_unit_test(test_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
