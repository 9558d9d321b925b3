/*
 * The log: lines on standard error, `2026-11-21T05:44:34.123Z ERROR target: …`. An error is logged
 * once, where it is consumed: operation, object, value, limit, errno name, what to do next (STYLE
 * 21). Thread-safe (one write(2) a line). Repeats of one call site beyond 10 a second are counted,
 * not printed.
 */
#ifndef SL_CORE_LOG_H
#define SL_CORE_LOG_H

#include "core/base.h"

enum sl_log_level { SL_LOG_ERROR, SL_LOG_WARN, SL_LOG_INFO, SL_LOG_DEBUG };

/* Set once at start, before the reactors run. Default SL_LOG_INFO. */
void sl_log_set_level(enum sl_log_level level);
/* The program's name, printed with each line; borrowed for ever. */
void sl_log_set_program(const char *name);
bool sl_log_enabled(enum sl_log_level level);

struct sl_log_site {
    uint64_t window_start_ns;
    unsigned count;
};

__attribute__((format(printf, 4, 5))) void sl_log_line(struct sl_log_site *site,
                                                       enum sl_log_level level, const char *module,
                                                       const char *format, ...);

#define sl_log(level, module, ...)                                                                 \
    do {                                                                                           \
        static struct sl_log_site sl_log_site_;                                                    \
        if (sl_log_enabled(level))                                                                 \
            sl_log_line(&sl_log_site_, level, module, __VA_ARGS__);                                \
    } while (0)

#define sl_log_error(module, ...) sl_log(SL_LOG_ERROR, module, __VA_ARGS__)
#define sl_log_warn(module, ...)  sl_log(SL_LOG_WARN, module, __VA_ARGS__)
#define sl_log_info(module, ...)  sl_log(SL_LOG_INFO, module, __VA_ARGS__)
#define sl_log_debug(module, ...) sl_log(SL_LOG_DEBUG, module, __VA_ARGS__)

#endif
