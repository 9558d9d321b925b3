/*
 * Goal: trace events are in the program, under the names that the tools look for, with any number
 * of arguments; without <sys/sdt.h> the same lines compile and evaluate nothing.
 * Method: the test's own ELF file holds a note for each probe.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/reactor.h"
#include "core/trace.h"
#include "engines.h"

static void test_notes(void **state)
{
#ifdef SL_TRACE_IS_BUILT
    static const char *const names[] = {
        "test__none",          "test__one",           "test__two",          "test__three",
        "test__four",          "core__reactor_sleep", "core__reactor_wake", "core__coroutine_begin",
        "core__coroutine_end",
    };
    FILE *self = fopen("/proc/self/exe", "rb");
    assert_non_null(self);
    assert_int_equal(fseek(self, 0, SEEK_END), 0);
    size_t length = (size_t)ftell(self);
    rewind(self);
    char *file = malloc(length);
    assert_non_null(file);
    assert_int_equal(fread(file, 1, length, self), length);
    fclose(self);
    for (unsigned i = 0; i < SL_COUNT_OF(names); i++) {
        char note[64]; /* provider, name, each with its terminator */
        memcpy(note, "sluice", 7);
        size_t bytes = 7 + (size_t)snprintf(note + 7, sizeof(note) - 7, "%s", names[i]) + 1;
        if (memmem(file, length, note, bytes) == NULL)
            fail_msg("there is no probe %s", names[i]);
    }
    free(file);
#else
    skip();
#endif
}

static void test_events(void **state)
{
    struct virtual_engine engine = {.now_ns = 1};
    struct sl_reactor *reactor = virtual_reactor(&engine, 0); /* links the events of src/core */
    uint64_t bytes = 4096;
    SL_TRACE(test, none);
    SL_TRACE(test, one, bytes);
    SL_TRACE(test, two, bytes, reactor);
    SL_TRACE(test, three, bytes, reactor, 3);
    SL_TRACE(test, four, bytes, reactor, 3, &engine);
    assert_int_equal(bytes, 4096);
    sl_reactor_destroy(reactor);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_notes),
        cmocka_unit_test(test_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
