/* Assertions: the last words of a process whose invariant is broken. */
#include "core/base.h"

#include <stdio.h>
#include <stdlib.h>

void sl_assert_fail(const char *condition, const char *file, int line, const char *function)
{
    fprintf(stderr, "%s:%d: %s: broken invariant: %s\n", file, line, function, condition);
    abort();
}
