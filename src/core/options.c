/* The command-line parser: see options.h. Stateless. */
#include "core/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/size.h"

static const struct sl_option *find(const struct sl_options *options, const char *name,
                                    size_t length)
{
    for (const struct sl_option *option = options->table; option->name != NULL; option++) {
        if (option->kind != SL_OPTION_GROUP && strlen(option->name) == length &&
            memcmp(option->name, name, length) == 0)
            return option;
    }
    return NULL;
}

static const struct sl_option *find_letter(const struct sl_options *options, char letter)
{
    for (const struct sl_option *option = options->table; option->name != NULL; option++) {
        if (option->kind != SL_OPTION_GROUP && option->letter == letter && letter != 0)
            return option;
    }
    return NULL;
}

/* Levenshtein distance of short words, one row at a time. */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[64];
    size_t length = strlen(b);
    if (length >= SL_COUNT_OF(row))
        return UINT32_MAX;
    for (size_t j = 0; j <= length; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= length; j++) {
            unsigned change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = sl_min(sl_min(row[j], row[j - 1]) + 1, change);
        }
    }
    return row[length];
}

static int unknown(const struct sl_options *options, const char *argument, FILE *err)
{
    const char *best = NULL;
    unsigned best_distance = 4; /* further off is no help */
    char name[64];
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(argument + 2, "="), argument + 2);
    for (const struct sl_option *option = options->table;
         argument[1] == '-' && option->name != NULL; option++) {
        unsigned d = option->kind == SL_OPTION_GROUP ? 99 : distance(name, option->name);
        if (d < best_distance) {
            best_distance = d;
            best = option->name;
        }
    }
    fprintf(err, "%s: unknown option '%s'", options->program, argument);
    if (best != NULL)
        fprintf(err, "; did you mean '--%s'?", best);
    fprintf(err, " ('%s --help' lists all)\n", options->program);
    return -EINVAL;
}

static void format_limit(const struct sl_option *option, uint64_t value, char *text, size_t bytes)
{
    if (option->kind == SL_OPTION_SIZE)
        sl_size_format(value, text, bytes);
    else if (option->kind == SL_OPTION_DURATION)
        sl_duration_format(value, text, bytes);
    else
        snprintf(text, bytes, "%llu", (unsigned long long)value);
}

static int bad_value(const struct sl_options *options, const struct sl_option *option,
                     const char *text, FILE *err)
{
    char least[32], most[32];
    fprintf(err, "%s: --%s: bad value '%s'; ", options->program, option->name, text);
    if (option->kind == SL_OPTION_CHOICE) {
        fputs("one of", err);
        for (unsigned i = 0; option->choices[i] != NULL; i++)
            fprintf(err, "%s %s", i == 0 ? "" : ",", option->choices[i]);
        fputs(" is meant\n", err);
        return -EINVAL;
    }
    format_limit(option, option->least, least, sizeof(least));
    format_limit(option, option->most, most, sizeof(most));
    const char *what = option->kind == SL_OPTION_SIZE       ? "a size such as 4096, 64K or 1G"
                       : option->kind == SL_OPTION_DURATION ? "a time such as 500ms, 30s or 2min"
                                                            : "a whole number";
    fprintf(err, "%s from %s to %s is meant\n", what, least, most);
    return -EINVAL;
}

static int parse_integer(const char *text, uint64_t *value)
{
    char *end;
    if (text[0] < '0' || text[0] > '9')
        return -EINVAL;
    errno = 0;
    *value = strtoull(text, &end, 10);
    return errno != 0 || *end != '\0' ? -EINVAL : 0;
}

static int set_number(const struct sl_options *options, const struct sl_option *option,
                      unsigned index, const char *text, FILE *err)
{
    uint64_t number = 0;
    int error = option->kind == SL_OPTION_SIZE       ? sl_size_parse(text, &number)
                : option->kind == SL_OPTION_DURATION ? sl_duration_parse(text, &number)
                                                     : parse_integer(text, &number);
    if (error < 0 || number < option->least || number > option->most)
        return bad_value(options, option, text, err);
    ((uint64_t *)option->value)[index] = number;
    return 0;
}

static int set_choice(const struct sl_options *options, const struct sl_option *option,
                      const char *text, FILE *err)
{
    for (unsigned i = 0; option->choices[i] != NULL; i++) {
        if (strcmp(option->choices[i], text) == 0) {
            *(unsigned *)option->value = i;
            return 0;
        }
    }
    return bad_value(options, option, text, err);
}

static int set(const struct sl_options *options, const struct sl_option *option, const char *text,
               FILE *err)
{
    unsigned index = option->count != NULL ? *option->count : 0;
    if (option->count != NULL && index >= option->count_most) {
        fprintf(err, "%s: --%s is given more than %u time%s\n", options->program, option->name,
                option->count_most, option->count_most == 1 ? "" : "s");
        return -EINVAL;
    }
    int error = 0;
    switch (option->kind) {
    case SL_OPTION_FLAG:
        *(bool *)option->value = true;
        break;
    case SL_OPTION_STRING:
        if (text[0] == '\0') {
            fprintf(err, "%s: --%s: an empty value\n", options->program, option->name);
            return -EINVAL;
        }
        ((const char **)option->value)[index] = text;
        break;
    case SL_OPTION_CHOICE:
        error = set_choice(options, option, text, err);
        break;
    default:
        error = set_number(options, option, index, text, err);
    }
    if (error == 0 && option->count != NULL)
        (*option->count)++;
    if (error == 0 && option->given != NULL)
        *option->given = true;
    return error;
}

/* Answers how many arguments were taken (1 or 2), or a negative errno. */
static int parse_option(const struct sl_options *options, char **argv, FILE *err)
{
    const char *argument = argv[0];
    const char *value = NULL;
    const struct sl_option *option;
    if (argument[1] == '-') {
        size_t length = strcspn(argument + 2, "=");
        option = find(options, argument + 2, length);
        if (argument[2 + length] == '=')
            value = argument + 2 + length + 1;
    } else {
        option = find_letter(options, argument[1]);
        if (argument[2] != '\0')
            value = argument + 2;
    }
    if (option == NULL)
        return unknown(options, argument, err);
    if (option->kind == SL_OPTION_FLAG) {
        if (value != NULL) {
            fprintf(err, "%s: --%s takes no value\n", options->program, option->name);
            return -EINVAL;
        }
        return set(options, option, "", err) < 0 ? -EINVAL : 1;
    }
    if (value == NULL && argv[1] == NULL) {
        fprintf(err, "%s: --%s needs a value (%s)\n", options->program, option->name,
                option->argument);
        return -EINVAL;
    }
    int taken = value == NULL ? 2 : 1;
    return set(options, option, value == NULL ? argv[1] : value, err) < 0 ? -EINVAL : taken;
}

int sl_options_parse(const struct sl_options *options, int argc, char **argv, const char **operands,
                     unsigned *operand_count, unsigned operand_most, FILE *out, FILE *err)
{
    unsigned found = 0;
    bool only_operands = false;
    for (int i = 1; i < argc;) {
        const char *argument = argv[i];
        if (only_operands || argument[0] != '-' || argument[1] == '\0') {
            if (operands == NULL || found == operand_most) {
                fprintf(err, "%s: unexpected argument '%s' ('%s --help' tells the usage)\n",
                        options->program, argument, options->program);
                return -EINVAL;
            }
            operands[found++] = argument;
            i++;
        } else if (strcmp(argument, "--") == 0) {
            only_operands = true;
            i++;
        } else if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
            sl_options_help(options, out);
            return 1;
        } else if (strcmp(argument, "--version") == 0 || strcmp(argument, "-V") == 0) {
            fprintf(out, "%s %s\n", options->program, SL_VERSION);
            return 1;
        } else {
            int taken = parse_option(options, &argv[i], err);
            if (taken < 0)
                return taken;
            i += taken;
        }
    }
    if (operand_count != NULL)
        *operand_count = found;
    return 0;
}

static void help_line(const struct sl_option *option, FILE *out)
{
    char left[64];
    char letter[8] = "    ";
    if (option->letter != 0)
        snprintf(letter, sizeof(letter), "-%c, ", option->letter);
    snprintf(left, sizeof(left), "%s--%s%s%s", letter, option->name,
             option->argument != NULL ? " " : "", option->argument != NULL ? option->argument : "");
    fprintf(out, "  %-36s", left);
    for (const char *text = option->help; text != NULL;) {
        const char *end = strchr(text, '\n');
        fprintf(out, "%.*s", end != NULL ? (int)(end - text) : (int)strlen(text), text);
        if (end != NULL)
            fprintf(out, "\n%38s", "");
        text = end != NULL ? end + 1 : NULL;
    }
    if (option->kind == SL_OPTION_CHOICE) {
        fputs(":", out);
        for (unsigned i = 0; option->choices[i] != NULL; i++)
            fprintf(out, "%s %s", i == 0 ? "" : ",", option->choices[i]);
    }
    if (option->count != NULL && option->count_most > 1)
        fputs("; repeatable", out);
    if (option->fallback != NULL)
        fprintf(out, " [%s]", option->fallback);
    fputc('\n', out);
}

void sl_options_help(const struct sl_options *options, FILE *out)
{
    fprintf(out, "%s - %s\n\nUsage: %s [options]%s%s\n", options->program, options->summary,
            options->program, options->operands != NULL ? " " : "",
            options->operands != NULL ? options->operands : "");
    for (const struct sl_option *option = options->table; option->name != NULL; option++) {
        if (option->kind == SL_OPTION_GROUP)
            fprintf(out, "\n%s\n", option->help);
        else
            help_line(option, out);
    }
    fprintf(out, "  %-36s%s\n  %-36s%s\n", "-h, --help", "this text", "-V, --version",
            "the version");
    if (options->examples != NULL)
        fprintf(out, "\n%s", options->examples);
}

int sl_output_finish(const char *program, int status)
{
    bool failed = ferror(stdout) != 0;
    int error = fflush(stdout) != 0 ? errno : 0;
    if (!failed && error == 0)
        return status;
    if (error != 0 && error != EPIPE)
        fprintf(stderr, "%s: standard output cannot be written: %s\n", program, strerror(error));
    else if (error == 0 && status == 0)
        fprintf(stderr, "%s: not all of standard output could be written\n", program);
    return status != 0 ? status : 1;
}
