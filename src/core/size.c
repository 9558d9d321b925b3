/* Parsing and printing of sizes and durations. */
#include "core/size.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct unit {
    const char *name;
    double factor;
};

static int parse_with_unit(const char *text, const struct unit *units, uint64_t *value)
{
    char *end;
    if (!isdigit((unsigned char)text[0]) && text[0] != '.')
        return -EINVAL;
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
        return -EINVAL;
    double number = strtod(text, &end);
    for (const struct unit *unit = units; unit->name != NULL; unit++) {
        if (strcasecmp(end, unit->name) != 0)
            continue;
        double result = number * unit->factor;
        if (strpbrk(text, ".eE") == NULL && unit->factor == 1) {
            errno = 0;
            uint64_t whole = strtoull(text, NULL, 10);
            if (errno != 0)
                return -ERANGE;
            *value = whole;
            return 0;
        }
        if (!(result >= 0) || result >= 18446744073709551616.0)
            return -ERANGE;
        /* Above 2^53 a double is a whole number already. */
        *value = result < 9007199254740992.0 ? (uint64_t)llround(result) : (uint64_t)result;
        return 0;
    }
    return -EINVAL;
}

int sl_size_parse(const char *text, uint64_t *bytes)
{
    static const struct unit units[] = {
        {"", 1},
        {"B", 1},
        {"K", 1024.0},
        {"KiB", 1024.0},
        {"M", 1048576.0},
        {"MiB", 1048576.0},
        {"G", 1073741824.0},
        {"GiB", 1073741824.0},
        {"T", 1099511627776.0},
        {"TiB", 1099511627776.0},
        {"P", 1125899906842624.0},
        {"PiB", 1125899906842624.0},
        {"E", 1152921504606846976.0},
        {"EiB", 1152921504606846976.0},
        {NULL, 0},
    };
    return parse_with_unit(text, units, bytes);
}

int sl_duration_parse(const char *text, uint64_t *duration_ns)
{
    static const struct unit units[] = {
        {"", 1e9},  {"ns", 1},     {"us", 1e3},   {"ms", 1e6},
        {"s", 1e9}, {"min", 60e9}, {"h", 3600e9}, {NULL, 0},
    };
    return parse_with_unit(text, units, duration_ns);
}

static void format_with_unit(double value, const char *unit, char *text, size_t text_bytes)
{
    if (value == floor(value))
        snprintf(text, text_bytes, "%.0f %s", value, unit);
    else
        snprintf(text, text_bytes, value < 10 ? "%.2f %s" : "%.1f %s", value, unit);
}

void sl_size_format(uint64_t bytes, char *text, size_t text_bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    double value = (double)bytes;
    while (value >= 1024 && unit + 1 < SL_COUNT_OF(units)) {
        value /= 1024;
        unit++;
    }
    format_with_unit(value, units[unit], text, text_bytes);
}

void sl_duration_format(uint64_t duration_ns, char *text, size_t text_bytes)
{
    static const char *const units[] = {"ns", "us", "ms", "s"};
    unsigned unit = 0;
    double value = (double)duration_ns;
    while (value >= 1000 && unit + 1 < SL_COUNT_OF(units)) {
        value /= 1000;
        unit++;
    }
    format_with_unit(value, units[unit], text, text_bytes);
}
