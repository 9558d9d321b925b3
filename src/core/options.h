/*
 * Command lines: a table of options in, values out. Long and short options, repeatable ones,
 * `--name value` and
 * `--name=value`; errors that name the option, the value and the range; `--help` and `--version` of
 * themselves. No exit and no global state: the caller prints and decides. Used before threads
 * start.
 */
#ifndef SL_CORE_OPTIONS_H
#define SL_CORE_OPTIONS_H

#include <stdio.h>

#include "core/base.h"

enum sl_option_kind {
    SL_OPTION_GROUP,    /* a heading in --help; only `help` is used */
    SL_OPTION_FLAG,     /* bool */
    SL_OPTION_STRING,   /* const char *: points into argv */
    SL_OPTION_INTEGER,  /* uint64_t in [least, most] */
    SL_OPTION_SIZE,     /* uint64_t bytes in [least, most]: core/size.h */
    SL_OPTION_DURATION, /* uint64_t nanoseconds in [least, most] */
    SL_OPTION_CHOICE,   /* unsigned: index into `choices` */
};

struct sl_option {
    const char *name; /* without dashes; NULL ends the table */
    char letter;      /* 0 = none */
    enum sl_option_kind kind;
    void *value;     /* of the kind's type; with `count`, an array of `count_most` of them */
    unsigned *count; /* repeatable: how many were given; NULL = once (the last one counts) */
    unsigned count_most;
    uint64_t least, most;
    const char *const *choices; /* NULL-terminated */
    const char *argument;       /* how --help calls the value */
    const char *help;           /* one sentence; a "\n" breaks the line */
    const char *fallback;       /* the default, as --help shows it; NULL = none */
    bool *given;                /* set if the option was there; may be NULL */
};

struct sl_options {
    const char *program;
    const char *summary;  /* one line */
    const char *examples; /* printed after the options; may be NULL */
    const struct sl_option *table;
    const char *operands; /* as the usage shows them; NULL: none */
};

/* 0: go on. 1: --help or --version was printed to `out`: end with status 0. -EINVAL: explained in
 * `err`: end with status 2. `operands` (may be NULL: none are allowed) gets the arguments that are
 * not options. */
int sl_options_parse(const struct sl_options *options, int argc, char **argv, const char **operands,
                     unsigned *operand_count, unsigned operand_most, FILE *out, FILE *err);
void sl_options_help(const struct sl_options *options, FILE *out);

/* At the end of a program: what it printed has to have arrived. `status`, or 1 if standard output
 * can not be written, which is said, unless it is a pipe whose reader has left. */
int sl_output_finish(const char *program, int status);

#define SL_VERSION "0.1.0"

#endif
