/*
 * Goal: no command line leads the option table astray: values keep their ranges, counts their
 * limits, strings point into the arguments; and no size or time is read as something else than it
 * says. Method: the input is cut at each newline into arguments, for a table with every kind of
 * option; each argument is read as a size and a time as well.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/options.h"
#include "core/size.h"

#define ARGUMENTS_MAX 40
#define REPEATS_MAX   3u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct values {
    bool flag, given;
    const char *text, *texts[REPEATS_MAX];
    unsigned text_count;
    uint64_t integer, integers[REPEATS_MAX];
    unsigned integer_count;
    uint64_t bytes, duration_ns;
    unsigned choice;
} values;

static const char *const choices[] = {"seq", "rand", NULL};

static const struct sl_option table[] = {
    {.name = "", .kind = SL_OPTION_GROUP, .help = "Group"},
    {"flag", 'f', SL_OPTION_FLAG, &values.flag, .help = "a flag", .given = &values.given},
    {"text", 't', SL_OPTION_STRING, &values.text, .argument = "TEXT", .help = "a text\nin lines"},
    {"texts", 0, SL_OPTION_STRING, values.texts, &values.text_count, REPEATS_MAX,
     .argument = "TEXT", .help = "texts"},
    {"integer", 'i', SL_OPTION_INTEGER, &values.integer, .least = 2, .most = 1000, .argument = "N",
     .help = "a number", .fallback = "7"},
    {"integers", 0, SL_OPTION_INTEGER, values.integers, &values.integer_count, REPEATS_MAX, 0,
     UINT64_MAX, .argument = "N", .help = "numbers"},
    {"bytes", 'b', SL_OPTION_SIZE, &values.bytes, .least = 4096, .most = SL_GIB, .argument = "SIZE",
     .help = "a size"},
    {"duration", 'd', SL_OPTION_DURATION, &values.duration_ns, .least = 1, .most = SL_NS_PER_S,
     .argument = "TIME", .help = "a time"},
    {"choice", 'c', SL_OPTION_CHOICE, &values.choice, .choices = choices, .argument = "HOW",
     .help = "a choice"},
    {.name = NULL},
};

static void must(bool condition)
{
    if (!condition)
        abort();
}

/* What was read and is printed is read again as about the same: printing rounds to three digits. */
static void check_numbers(const char *text)
{
    uint64_t value, again;
    char printed[32];
    if (sl_size_parse(text, &value) == 0) {
        must((text[0] >= '0' && text[0] <= '9') || text[0] == '.');
        sl_size_format(value, printed, sizeof(printed));
        must(strlen(printed) < sizeof(printed) - 1);
        char *space = strchr(printed, ' ');
        must(space != NULL);
        memmove(space, space + 1, strlen(space));
        /* PiB and EiB are printed but not read. */
        if (sl_size_parse(printed, &again) == 0)
            must(fabs((double)again - (double)value) <= (double)value / 90);
    }
    if (sl_duration_parse(text, &value) == 0) {
        sl_duration_format(value, printed, sizeof(printed));
        char *space = strchr(printed, ' ');
        must(space != NULL);
        memmove(space, space + 1, strlen(space));
        if (sl_duration_parse(printed, &again) == 0)
            must(fabs((double)again - (double)value) <= (double)value / 90);
    }
}

static bool is_inside(const char *text, const char *begin, size_t size)
{
    return text == NULL || (text >= begin && text <= begin + size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static FILE *sink;
    static const struct sl_options options = {"fuzz", "a table", "Examples\n", table};
    char *text = malloc(size + 1);
    char *arguments[ARGUMENTS_MAX + 2];
    const char *operands[2] = {NULL, NULL};
    unsigned operand_count = 0;
    int count = 0;
    must(text != NULL);
    if (sink == NULL)
        sink = fopen("/dev/null", "w");
    memcpy(text, data, size);
    text[size] = '\0';
    arguments[count++] = (char *)(uintptr_t) "fuzz";
    for (char *line = text; line != NULL && count <= ARGUMENTS_MAX;) {
        char *next = strchr(line, '\n');
        if (next != NULL)
            *next++ = '\0';
        check_numbers(line);
        arguments[count++] = line;
        line = next;
    }
    arguments[count] = NULL;
    values = (struct values){.integer = 7, .bytes = 4096, .duration_ns = 1};
    bool takes_operands = size % 2 == 0;
    int result = sl_options_parse(&options, count, arguments, takes_operands ? operands : NULL,
                                  &operand_count, 2, sink, sink);
    must(result == 0 || result == 1 || result == -EINVAL);
    must(values.flag == values.given && values.choice < 2);
    must(values.text_count <= REPEATS_MAX && values.integer_count <= REPEATS_MAX);
    must(values.integer >= 2 && values.integer <= 1000);
    must(values.bytes >= 4096 && values.bytes <= SL_GIB);
    must(values.duration_ns >= 1 && values.duration_ns <= SL_NS_PER_S);
    must(is_inside(values.text, text, size));
    for (unsigned i = 0; i < values.text_count; i++)
        must(values.texts[i][0] != '\0' && is_inside(values.texts[i], text, size));
    must(operand_count <= 2 && (takes_operands || operand_count == 0));
    for (unsigned i = 0; i < operand_count; i++)
        must(is_inside(operands[i], text, size));
    free(text);
    return 0;
}
