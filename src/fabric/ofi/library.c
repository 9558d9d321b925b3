/*
 * libfabric, loaded when the link is first used. Not linked, because what it brings along runs code
 * before main(): Debian's build links libinfinipath, whose constructor takes the signals 2, 4, 6,
 * 7, 11 and 15 and whose handler can deadlock. Programs that use other links never see it, and for
 * those that do
 *  - IPATH_NO_BACKTRACE and HFI_NO_BACKTRACE are set by a constructor of ours, while there is one
 *    thread, so that these libraries leave signals alone;
 *  - FI_MR_CACHE_MAX_COUNT=0 is set likewise: libfabric's cache of registrations registers with
 *    every right, whichever were asked for, and keeps a registration that was closed, so that a
 *    key that was revoked goes on working;
 *  - the actions of those signals are saved and restored around the load all the same: the SIGBUS
 *    guard of mem/region.c must stay.
 * Only six functions are exported by name; the others are inline calls through the objects. Of
 * librdmacm, which it brings along, three are used (resolve.c).
 * State: the handle of the library, process-wide, written once.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/error.h"
#include "fabric/ofi/internal.h"

static struct ofi_library library;
static bool is_loaded;
static char load_error[256];
static char version_text[16];
static pthread_once_t load_once = PTHREAD_ONCE_INIT;

__attribute__((constructor)) static void environment_set(void)
{
    /* They are looked at by constructors of libinfinipath and libpsm2. */
    setenv("IPATH_NO_BACKTRACE", "1", 1);
    setenv("HFI_NO_BACKTRACE", "1", 1);
    setenv("FI_MR_CACHE_MAX_COUNT", "0", 1);
}

static const int taken_signals[] = {SIGINT, SIGILL, SIGABRT, SIGBUS, SIGSEGV, SIGTERM};

static void *symbol(void *handle, const char *name)
{
    void *address = dlsym(handle, name);
    if (address == NULL)
        snprintf(load_error, sizeof(load_error), "libfabric.so.1 has no %s", name);
    return address;
}

static void load_symbols(void *handle)
{
    /* ISO C has no cast from an object pointer to a function pointer. */
    *(void **)&library.version = symbol(handle, "fi_version");
    *(void **)&library.getinfo = symbol(handle, "fi_getinfo");
    *(void **)&library.freeinfo = symbol(handle, "fi_freeinfo");
    *(void **)&library.dupinfo = symbol(handle, "fi_dupinfo");
    *(void **)&library.fabric = symbol(handle, "fi_fabric");
    *(void **)&library.strerror = symbol(handle, "fi_strerror");
    is_loaded = load_error[0] == '\0';
}

/* What libfabric's verbs has loaded anyway. All of them or none. */
static void load_connection_manager(void)
{
    void *handle = dlopen("librdmacm.so.1", RTLD_NOW | RTLD_LOCAL);
    void *create = handle != NULL ? dlsym(handle, "rdma_create_id") : NULL;
    void *resolve = handle != NULL ? dlsym(handle, "rdma_resolve_addr") : NULL;
    void *destroy = handle != NULL ? dlsym(handle, "rdma_destroy_id") : NULL;
    if (create == NULL || resolve == NULL || destroy == NULL)
        return;
    *(void **)&library.cm_create_id = create;
    *(void **)&library.cm_resolve_addr = resolve;
    *(void **)&library.cm_destroy_id = destroy;
}

static void load(void)
{
    struct sigaction saved[SL_COUNT_OF(taken_signals)];
    for (unsigned i = 0; i < SL_COUNT_OF(taken_signals); i++)
        (void)sigaction(taken_signals[i], NULL, &saved[i]);
    void *handle = dlopen("libfabric.so.1", RTLD_NOW | RTLD_LOCAL);
    if (handle != NULL)
        load_connection_manager();
    for (unsigned i = 0; i < SL_COUNT_OF(taken_signals); i++)
        (void)sigaction(taken_signals[i], &saved[i], NULL);
    if (handle == NULL) {
        snprintf(load_error, sizeof(load_error), "%s", dlerror());
        return;
    }
    load_symbols(handle);
    if (!is_loaded)
        return;
    uint32_t version = library.version();
    snprintf(version_text, sizeof(version_text), "%u.%u", FI_MAJOR(version), FI_MINOR(version));
}

const struct ofi_library *ofi_library(const char **why)
{
    pthread_once(&load_once, load);
    if (why != NULL)
        *why = load_error;
    return is_loaded ? &library : NULL;
}

const char *sl_ofi_library_version(const char **why)
{
    (void)ofi_library(why);
    return version_text;
}

struct thread_call {
    void (*function)(void *argument);
    void *argument;
};

static void *thread_run(void *argument)
{
    const struct thread_call *call = argument;
    call->function(call->argument);
    return NULL;
}

void ofi_on_thread(void (*function)(void *argument), void *argument)
{
    struct thread_call call = {function, argument};
    pthread_t thread;
    if (pthread_create(&thread, NULL, thread_run, &call) == 0)
        pthread_join(thread, NULL);
    else
        function(argument); /* there is hope yet */
}

int ofi_error(long code)
{
    int error = (int)(code < 0 ? -code : code);
    if (error == 0)
        return -EIO;
    switch (error) {
    case FI_EOTHER:
    case FI_EAVAIL:
        return -EIO;
    case FI_ENOCQ:
    case FI_ENOEQ:
        return -ENOSPC;
    case FI_EOPBADSTATE:
        return -EINVAL;
    default:
        return error < FI_ERRNO_OFFSET ? -error : -EIO;
    }
}
