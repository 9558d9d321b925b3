/*
 * Goal: command lines are read as people write them; what is wrong is named, with what was meant;
 * --help shows every option.
 * Method: tables of command lines with their values, or with the words that the error must hold.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/options.h"

enum { CPUS = 3, OPERANDS = 2, ARGUMENTS = 24 };

static struct values {
    bool json, json_given;
    const char *device;
    const char *servers[CPUS];
    unsigned server_count;
    uint64_t cpus[CPUS];
    unsigned cpu_count;
    uint64_t size, timeout_ns;
    unsigned pattern;
} values;

static const char *const patterns[] = {"seq", "rand", NULL};

static const struct sl_option table[] = {
    {.name = "", .kind = SL_OPTION_GROUP, .help = "What:"},
    {.name = "device",
     .letter = 'd',
     .kind = SL_OPTION_STRING,
     .value = &values.device,
     .argument = "NAME",
     .help = "the device\nwith a second line"},
    {.name = "server",
     .kind = SL_OPTION_STRING,
     .value = values.servers,
     .count = &values.server_count,
     .count_most = CPUS,
     .argument = "ADDRESS",
     .help = "a server"},
    {.name = "", .kind = SL_OPTION_GROUP, .help = "How:"},
    {.name = "cpu",
     .letter = 'c',
     .kind = SL_OPTION_INTEGER,
     .value = values.cpus,
     .count = &values.cpu_count,
     .count_most = CPUS,
     .least = 0,
     .most = 63,
     .argument = "NUMBER",
     .help = "a core"},
    {.name = "io-size",
     .kind = SL_OPTION_SIZE,
     .value = &values.size,
     .least = 512,
     .most = SL_MIB,
     .argument = "SIZE",
     .help = "bytes of one I/O",
     .fallback = "4K"},
    {.name = "timeout",
     .kind = SL_OPTION_DURATION,
     .value = &values.timeout_ns,
     .least = SL_NS_PER_MS,
     .most = 60 * SL_NS_PER_S,
     .argument = "TIME",
     .help = "the end"},
    {.name = "pattern",
     .kind = SL_OPTION_CHOICE,
     .value = &values.pattern,
     .choices = patterns,
     .argument = "PATTERN",
     .help = "the order"},
    {.name = "json",
     .letter = 'j',
     .kind = SL_OPTION_FLAG,
     .value = &values.json,
     .given = &values.json_given,
     .help = "print JSON"},
    {NULL},
};

static const struct sl_options options = {
    .program = "prog",
    .summary = "does things",
    .examples = "Examples:\n  prog -d x\n",
    .table = table,
};

static char *out, *err;
static const char *operands[OPERANDS];
static unsigned operand_count;

/* Parses the words of `line`. */
static int parse_with(const char *line, unsigned operand_most)
{
    static char words[512];
    char *arguments[ARGUMENTS + 1] = {(char *)"prog"};
    int count = 1;
    size_t out_bytes, err_bytes;
    values = (struct values){.size = 4096, .pattern = 77};
    snprintf(words, sizeof(words), "%s", line);
    for (char *at = strtok(words, " "); at != NULL; at = strtok(NULL, " ")) {
        assert_true(count < ARGUMENTS);
        arguments[count++] = strcmp(at, "''") == 0 ? (char *)"" : at;
    }
    free(out);
    free(err);
    FILE *out_file = open_memstream(&out, &out_bytes), *err_file = open_memstream(&err, &err_bytes);
    assert_true(out_file != NULL && err_file != NULL);
    operand_count = 99;
    int status = sl_options_parse(&options, count, arguments, operand_most > 0 ? operands : NULL,
                                  &operand_count, operand_most, out_file, err_file);
    fclose(out_file);
    fclose(err_file);
    return status;
}

static int parse(const char *line)
{
    return parse_with(line, 0);
}

static void test_defaults_stay(void **state)
{
    assert_int_equal(parse(""), 0);
    assert_int_equal(values.size, 4096);
    assert_int_equal(values.pattern, 77);
    assert_false(values.json);
    assert_false(values.json_given);
    assert_int_equal(operand_count, 0);
    assert_string_equal(err, "");
    assert_string_equal(out, "");
}

static void test_every_kind(void **state)
{
    assert_int_equal(parse("--device nvme0 --io-size 64K --timeout=1500ms --pattern rand --json "
                           "--cpu 0 --cpu=63 -c 7 --server a:1 --server=b=c"),
                     0);
    assert_string_equal(values.device, "nvme0");
    assert_int_equal(values.size, 65536);
    assert_int_equal(values.timeout_ns, 1500 * SL_NS_PER_MS);
    assert_int_equal(values.pattern, 1);
    assert_true(values.json && values.json_given);
    assert_int_equal(values.cpu_count, 3);
    assert_int_equal(values.cpus[0], 0);
    assert_int_equal(values.cpus[1], 63);
    assert_int_equal(values.cpus[2], 7);
    assert_int_equal(values.server_count, 2);
    assert_string_equal(values.servers[0], "a:1");
    assert_string_equal(values.servers[1], "b=c");
}

static void test_short_forms(void **state)
{
    assert_int_equal(parse("-j -d03:00.0 -c5"), 0);
    assert_string_equal(values.device, "03:00.0");
    assert_true(values.json);
    assert_int_equal(values.cpus[0], 5);
    assert_int_equal(parse("-d -"), 0); /* a value that looks like an option is a value */
    assert_string_equal(values.device, "-");
    assert_int_equal(parse("-d a -d b --io-size 512 --io-size 1M"), 0); /* the last one counts */
    assert_string_equal(values.device, "b");
    assert_int_equal(values.size, SL_MIB);
}

static void test_operands(void **state)
{
    assert_int_equal(parse_with("one -j -- --json", 2), 0);
    assert_int_equal(operand_count, 2);
    assert_string_equal(operands[0], "one");
    assert_string_equal(operands[1], "--json");
    assert_int_equal(parse_with("one two three", 2), -EINVAL);
    assert_non_null(strstr(err, "'three'"));
    assert_int_equal(parse("one"), -EINVAL);
    assert_non_null(strstr(err, "'one'"));
}

static void test_errors(void **state)
{
    /* A command line, and up to three things that its error must name. */
    static const struct {
        const char *line;
        const char *words[3];
    } cases[] = {
        {"--patern rand", {"unknown option '--patern'", "--pattern", NULL}},
        {"--iosize=4K", {"unknown option", "--io-size", NULL}},
        {"--zzzzzzzzzzzz", {"unknown option '--zzzzzzzzzzzz'", NULL, NULL}},
        {"-x", {"unknown option '-x'", "--help", NULL}},
        {"--", {NULL}},
        {"--io-size 256", {"--io-size", "'256'", "from 512 B to 1 MiB"}},
        {"--io-size 2M", {"--io-size", "'2M'", "from 512 B to 1 MiB"}},
        {"--io-size 4KB", {"--io-size", "'4KB'", "from 512 B to 1 MiB"}},
        {"--io-size=", {"--io-size", "''", NULL}},
        {"--timeout 61s", {"--timeout", "'61s'", "from 1 ms to 60 s"}},
        {"--timeout 5m", {"--timeout", "'5m'", "30s"}},
        {"--cpu 64", {"--cpu", "'64'", "from 0 to 63"}},
        {"--cpu -1", {"--cpu", "'-1'", "from 0 to 63"}},
        {"--cpu 1x", {"--cpu", "'1x'", "from 0 to 63"}},
        {"--cpu 99999999999999999999999", {"--cpu", "from 0 to 63", NULL}},
        {"-c 1 -c 2 -c 3 -c 4", {"--cpu", "more than 3 times", NULL}},
        {"--pattern random", {"--pattern", "'random'", "seq, rand"}},
        {"--pattern ''", {"--pattern", "seq, rand", NULL}},
        {"--device ''", {"--device", "empty", NULL}},
        {"--device=", {"--device", "empty", NULL}},
        {"--device", {"--device", "needs a value", "NAME"}},
        {"-d", {"--device", "needs a value", "NAME"}},
        {"--json=yes", {"--json", "takes no value", NULL}},
        {"-jx", {"--json", "takes no value", NULL}},
    };
    for (unsigned i = 0; i < SL_COUNT_OF(cases); i++) {
        if (cases[i].words[0] == NULL) {
            assert_int_equal(parse(cases[i].line), 0);
            continue;
        }
        assert_int_equal(parse(cases[i].line), -EINVAL);
        assert_memory_equal(err, "prog: ", 6);
        assert_ptr_equal(strchr(err, '\n'), err + strlen(err) - 1); /* one line */
        for (unsigned j = 0; j < 3 && cases[i].words[j] != NULL; j++) {
            if (strstr(err, cases[i].words[j]) == NULL)
                fail_msg("'%s': no '%s' in: %s", cases[i].line, cases[i].words[j], err);
        }
    }
    assert_int_equal(parse("--zzzzzzzzzzzz"), -EINVAL);
    assert_null(strstr(err, "did you mean")); /* nothing is near */
}

static void test_long_words(void **state)
{
    char line[400] = "--";
    memset(line + 2, 'a', 300);
    assert_int_equal(parse(line), -EINVAL);
    assert_non_null(strstr(err, line));
}

static void test_help_and_version(void **state)
{
    static const char *const words[] = {
        "prog - does things",
        "What:",
        "How:",
        "-d, --device NAME",
        "with a second line",
        "seq",
        "rand",
        "--io-size SIZE",
        "[4K]",
        "-h",
        "--version",
        "Examples:\n  prog -d x\n",
        "repeatable",
        "--json",
        "print JSON",
    };
    assert_int_equal(parse("-d x --help --unknown"), 1);
    for (unsigned i = 0; i < SL_COUNT_OF(words); i++) {
        if (strstr(out, words[i]) == NULL)
            fail_msg("--help does not show '%s':\n%s", words[i], out);
    }
    assert_string_equal(err, "");
    /* The texts stand in one column. */
    const char *first = strstr(out, "the device"), *second = strstr(out, "with a second line");
    const char *first_line = first, *second_line = second;
    while (first_line[-1] != '\n')
        first_line--;
    while (second_line[-1] != '\n')
        second_line--;
    assert_int_equal(first - first_line, second - second_line);
    assert_int_equal(parse("-h"), 1);
    assert_int_equal(parse("--version"), 1);
    assert_string_equal(out, "prog " SL_VERSION "\n");
    assert_int_equal(parse("-V"), 1);
}

static int end(void **state)
{
    free(out);
    free(err);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_stay),    cmocka_unit_test(test_every_kind),
        cmocka_unit_test(test_short_forms),      cmocka_unit_test(test_operands),
        cmocka_unit_test(test_errors),           cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_help_and_version),
    };
    return cmocka_run_group_tests(tests, NULL, end);
}
