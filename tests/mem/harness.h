/* What the tests of src/mem share: cmocka, a seeded generator, death of a child. */
#ifndef TESTS_MEM_HARNESS_H
#define TESTS_MEM_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base.h"

static inline uint32_t test_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

/* Runs the body in a child, which must not print, and answers its wait status. */
static inline int test_child(void (*body)(void *argument), void *argument)
{
    fflush(NULL);
    pid_t child = fork();
    if (child < 0)
        return -1;
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
        signal(SIGABRT, SIG_DFL); /* cmocka's are not for children */
        signal(SIGSEGV, SIG_DFL);
        body(argument);
        _exit(0);
    }
    int status = -1;
    return waitpid(child, &status, 0) == child ? status : -1;
}

/* A broken invariant ends the process by abort(). */
static inline bool test_aborts(void (*body)(void *argument), void *argument)
{
    int status = test_child(body, argument);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

#endif
