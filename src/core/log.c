/* The log. State: level and program, set before threads start; each call site counts its own
 * repeats. */
#include "core/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES_MAX 2048
/* A line a site beyond this in one second is counted, not printed: a failing disk must not fill
 * another. */
#define LINES_PER_SECOND 10

static enum sl_log_level log_level = SL_LOG_INFO;
static const char *log_program = "sluice";

void sl_log_set_level(enum sl_log_level level)
{
    log_level = level;
}

void sl_log_set_program(const char *name)
{
    log_program = name;
}

bool sl_log_enabled(enum sl_log_level level)
{
    return level <= log_level;
}

/* Races between threads at one site cost at most a miscounted line. */
static bool is_over_rate(struct sl_log_site *site, unsigned *suppressed)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
    uint64_t now_ns = (uint64_t)time.tv_sec * SL_NS_PER_S + (uint64_t)time.tv_nsec;
    uint64_t start_ns = __atomic_load_n(&site->window_start_ns, __ATOMIC_RELAXED);
    *suppressed = 0;
    if (now_ns - start_ns >= SL_NS_PER_S || start_ns == 0) {
        unsigned count = __atomic_exchange_n(&site->count, 1, __ATOMIC_RELAXED);
        if (count > LINES_PER_SECOND)
            *suppressed = count - LINES_PER_SECOND;
        __atomic_store_n(&site->window_start_ns, now_ns, __ATOMIC_RELAXED);
        return false;
    }
    return __atomic_fetch_add(&site->count, 1, __ATOMIC_RELAXED) >= LINES_PER_SECOND;
}

void sl_log_line(struct sl_log_site *site, enum sl_log_level level, const char *module,
                 const char *format, ...)
{
    static const char *const names[] = {"ERROR", "WARN", "INFO", "DEBUG"};
    char line[LINE_BYTES_MAX / 2];
    char text[LINE_BYTES_MAX / 4];
    unsigned suppressed;
    int saved_errno = errno;
    if (is_over_rate(site, &suppressed))
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    struct timespec time;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &time);
    gmtime_r(&time.tv_sec, &utc);
    char stamp[32];
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &utc);
    char more[64] = "";
    if (suppressed > 0)
        snprintf(more, sizeof(more), " (%u lines like this were left out)", suppressed);
    int length = snprintf(line, sizeof(line), "%s.%03ldZ %s %-5s %s: %s%s\n", stamp,
                          time.tv_nsec / 1000000, log_program, names[level], module, text, more);
    size_t bytes = (size_t)sl_min(length, (int)sizeof(line) - 1);
    line[bytes - 1] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, bytes);
    (void)ignored;
    errno = saved_errno;
}
