/*
 * Goal: the log prints whole lines with all that they need, obeys its level, and does not let one
 * site flood it; what it leaves out it counts.
 * Method: standard error goes to a file that the test reads back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/log.h"

static int file, saved;
static char text[65536];

static int begin(void **state)
{
    file = memfd_create("log", MFD_CLOEXEC);
    fcntl(file, F_SETFL, O_APPEND); /* writers of a memfd would share an offset without a lock */
    saved = dup(STDERR_FILENO);
    sl_log_set_level(SL_LOG_INFO);
    sl_log_set_program("test");
    return file < 0 || saved < 0 || dup2(file, STDERR_FILENO) < 0;
}

static int end(void **state)
{
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(file);
    return 0;
}

/* What was logged so far; answers the number of lines. */
static unsigned lines(void)
{
    ssize_t length = pread(file, text, sizeof(text) - 1, 0);
    assert_true(length >= 0);
    text[length] = '\0';
    unsigned count = 0;
    for (ssize_t i = 0; i < length; i++)
        count += text[i] == '\n';
    assert_true(length == 0 || text[length - 1] == '\n');
    return count;
}

static void test_line(void **state)
{
    regex_t pattern;
    errno = EXDEV;
    sl_log_error("disk", "read of %s: %s", "/dev/x", "EIO");
    assert_int_equal(errno, EXDEV);
    assert_int_equal(lines(), 1);
    assert_int_equal(regcomp(&pattern,
                             "^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]"
                             "\\.[0-9]{3}Z test ERROR disk: read of /dev/x: EIO\n$",
                             REG_EXTENDED | REG_NOSUB),
                     0);
    assert_int_equal(regexec(&pattern, text, 0, NULL, 0), 0);
    regfree(&pattern);
}

static void test_level(void **state)
{
    sl_log_debug("m", "not seen");
    assert_int_equal(lines(), 0);
    sl_log_set_level(SL_LOG_DEBUG);
    sl_log_debug("m", "seen");
    assert_int_equal(lines(), 1);
    sl_log_set_level(SL_LOG_ERROR);
    sl_log_warn("m", "not seen");
    sl_log_info("m", "not seen");
    sl_log_error("m", "seen");
    assert_int_equal(lines(), 2);
    assert_null(strstr(text, "not seen"));
}

static void test_long_line(void **state)
{
    static char big[5000];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    sl_log_info("m", "%s", big);
    assert_int_equal(lines(), 1);
    assert_in_range(strlen(text), 400, 2048);
}

static void flood(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        sl_log_warn("disk", "failing %u", i);
}

static void test_rate(void **state)
{
    flood(100);
    assert_int_equal(lines(), 10);
    assert_non_null(strstr(text, "failing 9\n"));
    sl_log_warn("disk", "another site is not held back");
    assert_int_equal(lines(), 11);
    struct timespec pause = {.tv_sec = 1, .tv_nsec = 100000000};
    nanosleep(&pause, NULL);
    flood(1);
    assert_int_equal(lines(), 12);
    assert_non_null(strstr(text, "failing 0 (90 lines like this were left out)\n"));
    flood(3); /* and the count begins anew */
    assert_int_equal(lines(), 15);
}

static void *thread_run(void *argument)
{
    flood(200);
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t threads[3];
    struct timespec pause = {.tv_sec = 1, .tv_nsec = 100000000};
    nanosleep(&pause, NULL); /* a fresh second for the site of flood() */
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, thread_run, NULL), 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    /* A race at the start of a window may let some more through, not many. */
    unsigned count = lines();
    assert_in_range(count, 10, 35);
    unsigned whole = 0;
    for (const char *at = text; (at = strstr(at, "disk: failing ")) != NULL; at++)
        whole++;
    assert_int_equal(whole, count); /* no line inside another */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_line, begin, end),
        cmocka_unit_test_setup_teardown(test_level, begin, end),
        cmocka_unit_test_setup_teardown(test_long_line, begin, end),
        cmocka_unit_test_setup_teardown(test_rate, begin, end),
        cmocka_unit_test_setup_teardown(test_threads, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
