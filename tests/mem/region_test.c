/*
 * Goal: each client sees each region once, when it comes and when it goes; foreign memory is taken
 * only where it cannot shrink; where it vanishes all the same, we live on and know it; huge pages
 * are there for good or not at all.
 * Method: a client that writes down what it sees; memfds of every bad kind; memory that is cut
 * while it is mapped, which the seal forbids: the linker's --wrap lets the seal check see what is
 * not there. Deaths happen in children. Huge pages are asked of the kernel for the length of the
 * test (root only; else that part is skipped, and says so).
 */
#include "harness.h"

#include <linux/memfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "mem/region.h"

#define PAGE       4096u
#define HUGEPAGE   (2 * SL_MIB)
#define POOL_FILE  "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
#define FREE_FILE  "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
#define THREADS    4
#define MAP_ROUNDS 300

/* ---- the seal that is not there ---- */

static atomic_bool pretend_sealed;

int __real_fcntl(int fd, int command, ...);
int __real_fcntl64(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...);

int __wrap_fcntl64(int fd, int command, ...)
{
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (command == F_GET_SEALS && atomic_load(&pretend_sealed))
        return F_SEAL_SHRINK;
    return __real_fcntl64(fd, command, argument);
}

int __wrap_fcntl(int fd, int command, ...)
{
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (command == F_GET_SEALS && atomic_load(&pretend_sealed))
        return F_SEAL_SHRINK;
    return __real_fcntl(fd, command, argument);
}

/* ---- clients ---- */

struct observer {
    struct sl_region_client client;
    unsigned attach_count;
    unsigned detach_count;
    uint32_t present[16]; /* ids */
    unsigned present_count;
    bool refuses;
};

static int observer_attach(struct sl_region_client *client, struct sl_region *region)
{
    struct observer *observer = sl_container_of(client, struct observer, client);
    for (unsigned i = 0; i < observer->present_count; i++)
        assert_int_not_equal(observer->present[i], region->id);
    observer->present[observer->present_count++] = region->id;
    observer->attach_count++;
    assert_null(region->client_data[client->index]);
    region->client_data[client->index] = observer;
    return observer->refuses ? -ENOSPC : 0;
}

static void observer_detach(struct sl_region_client *client, struct sl_region *region)
{
    struct observer *observer = sl_container_of(client, struct observer, client);
    unsigned i = 0;
    while (i < observer->present_count && observer->present[i] != region->id)
        i++;
    assert_true(i < observer->present_count);
    observer->present[i] = observer->present[--observer->present_count];
    observer->detach_count++;
    assert_ptr_equal(region->client_data[client->index], observer->refuses ? NULL : observer);
}

static void observer_init(struct observer *observer, bool refuses)
{
    *observer = (struct observer){.refuses = refuses};
    observer->client.attach = observer_attach;
    observer->client.detach = observer_detach;
}

static struct sl_region *create(struct sl_region_set *set, size_t length)
{
    struct sl_region *region = NULL;
    assert_int_equal(sl_region_create(set, length, false, -1, &region), 0);
    return region;
}

static void clients_see_each_region_once(void **state)
{
    (void)state;
    struct sl_region_set *set = sl_region_set_create();
    struct observer early, late;
    observer_init(&early, false);
    observer_init(&late, false);
    assert_int_equal(sl_region_set_add_client(set, &early.client), 0);
    struct sl_region *a = create(set, PAGE);
    struct sl_region *b = create(set, 3 * PAGE);
    assert_int_not_equal(a->id, b->id);
    assert_int_equal(early.attach_count, 2);
    assert_int_equal(sl_region_set_add_client(set, &late.client), 0);
    assert_int_not_equal(late.client.index, early.client.index);
    assert_int_equal(late.attach_count, 2); /* what was there before it */

    sl_region_ref(a); /* someone still reads it */
    sl_region_remove(a);
    assert_true(a->removed);
    assert_int_equal(early.detach_count, 1); /* at once, though it is referenced */
    assert_int_equal(late.detach_count, 1);
    a->base[0] = 1; /* still mapped */
    unsigned count = 0;
    sl_region_for_each(node, set)
    {
        assert_ptr_equal(sl_list_entry(node, struct sl_region, node), b);
        count++;
    }
    assert_int_equal(count, 1);
    sl_region_unref(a);

    uint32_t used_id = b->id;
    sl_region_set_remove_client(set, &early.client);
    assert_int_equal(early.detach_count, 2);
    sl_region_remove(b);
    assert_int_equal(early.detach_count, 2);
    assert_int_equal(late.detach_count, 2);
    struct sl_region *c = create(set, PAGE);
    assert_true(c->id > used_id); /* never used again */
    sl_region_remove(c);
    assert_int_equal(early.attach_count, 2);
    sl_region_set_remove_client(set, &late.client);
    assert_int_equal(late.detach_count, late.attach_count);
    sl_region_set_destroy(set);
}

static void a_client_that_refuses(void **state)
{
    (void)state;
    struct sl_region_set *set = sl_region_set_create();
    struct observer refuses, takes;
    observer_init(&refuses, true);
    observer_init(&takes, false);
    assert_int_equal(sl_region_set_add_client(set, &refuses.client), 0);
    assert_int_equal(sl_region_set_add_client(set, &takes.client), 0);
    struct sl_region *region = create(set, PAGE);
    assert_null(region->client_data[refuses.client.index]);
    assert_ptr_equal(region->client_data[takes.client.index], &takes);
    sl_region_remove(region);
    sl_region_set_remove_client(set, &refuses.client);
    sl_region_set_remove_client(set, &takes.client);
    sl_region_set_destroy(set);
}

static void clients_are_limited(void **state)
{
    (void)state;
    struct sl_region_set *set = sl_region_set_create();
    struct observer observers[SL_REGION_CLIENTS_MAX + 1];
    for (unsigned i = 0; i <= SL_REGION_CLIENTS_MAX; i++) {
        observer_init(&observers[i], false);
        assert_int_equal(sl_region_set_add_client(set, &observers[i].client),
                         i < SL_REGION_CLIENTS_MAX ? 0 : -ENOSPC);
    }
    sl_region_set_remove_client(set, &observers[2].client);
    assert_int_equal(sl_region_set_add_client(set, &observers[SL_REGION_CLIENTS_MAX].client), 0);
    assert_int_equal(observers[SL_REGION_CLIENTS_MAX].client.index, 2);
    for (unsigned i = 0; i <= SL_REGION_CLIENTS_MAX; i++)
        if (i != 2)
            sl_region_set_remove_client(set, &observers[i].client);
    sl_region_set_destroy(set);
}

/* ---- our own memory ---- */

static void own_memory(void **state)
{
    (void)state;
    struct sl_region_set *set = sl_region_set_create();
    struct sl_region *region = create(set, PAGE + 1);
    assert_int_equal(region->length_bytes, 2 * PAGE);
    assert_true(region->writable && !region->foreign && !region->hugepages);
    assert_int_equal(region->page_bytes, PAGE);
    assert_int_equal(ftruncate(region->memfd, PAGE), -1); /* sealed: who maps it can rely on it */
    assert_int_equal(errno, EPERM);
    assert_true(sl_region_contains(region, region->base, 2 * PAGE));
    assert_true(sl_region_contains(region, region->base + 2 * PAGE, 0));
    assert_false(sl_region_contains(region, region->base + 1, 2 * PAGE));
    assert_false(sl_region_contains(region, region->base - 1, 1));
    assert_false(sl_region_contains(region, region->base + 1, SIZE_MAX));
    sl_region_remove(region);
    assert_int_equal(sl_region_create(set, 0, true, -1, &region), -EINVAL);
    assert_int_equal(sl_region_create(set, SIZE_MAX, true, -1, &region), -EINVAL);
    assert_true(sl_region_create(set, (size_t)1 << 61, true, -1, &region) < 0);
    /* A node that is not there is said and ignored. */
    assert_int_equal(sl_region_create(set, PAGE, false, 1000, &region), 0);
    sl_region_remove(region);
    assert_int_equal(sl_region_create(set, PAGE, false, 0, &region), 0);
    memset(region->base, 1, PAGE);
    sl_region_remove(region);
    sl_region_set_destroy(set);
    sl_region_remove(NULL);
    sl_region_set_destroy(NULL);
}

static long pool_read(const char *path)
{
    long value = -1;
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        if (fscanf(file, "%ld", &value) != 1)
            value = -1;
        fclose(file);
    }
    return value;
}

static bool pool_write(long count)
{
    FILE *file = fopen(POOL_FILE, "w");
    if (file == NULL)
        return false;
    fprintf(file, "%ld\n", count);
    return fclose(file) == 0;
}

/* More than there is: ordinary pages, all of which can be touched. */
static void falls_back_without_hugepages(void **state)
{
    (void)state;
    struct sl_region_set *set = sl_region_set_create();
    struct sl_region *region = NULL;
    long free_pages = sl_max(pool_read(FREE_FILE), 0);
    size_t length = (size_t)(free_pages + 1) * HUGEPAGE;
    if (length > 64 * SL_MIB) {
        fprintf(stderr, "%ld huge pages are free: too many to ask for one more\n", free_pages);
        sl_region_set_destroy(set);
        skip();
    }
    assert_int_equal(sl_region_create(set, length - 1, true, -1, &region), 0);
    assert_false(region->hugepages);
    assert_int_equal(region->page_bytes, PAGE);
    assert_int_equal(region->length_bytes, length);
    for (size_t at = 0; at < length; at += PAGE)
        region->base[at] = 1;
    sl_region_remove(region);
    assert_int_equal(sl_max(pool_read(FREE_FILE), 0), free_pages); /* none was kept */
    sl_region_set_destroy(set);
}

static void hugepages_are_taken_at_once(void **state)
{
    (void)state;
    long before = pool_read(POOL_FILE);
    if (before < 0 || !pool_write(before + 4) || pool_read(POOL_FILE) < before + 4) {
        if (before >= 0)
            (void)pool_write(before);
        fprintf(stderr, "no huge pages can be had here: they are not tested\n");
        skip();
    }
    struct sl_region_set *set = sl_region_set_create();
    struct sl_region *own = NULL, *foreign = NULL;
    int error = sl_region_create(set, 3 * SL_MIB, true, -1, &own);
    long free_pages = pool_read(FREE_FILE);
    bool huge = error == 0 && own->hugepages;
    int short_error = 0, odd_error = 0, map_error = -1;
    if (huge) {
        memset(own->base, 7, own->length_bytes);
        map_error = sl_region_map_foreign(set, fcntl(own->memfd, F_DUPFD_CLOEXEC, 0), HUGEPAGE,
                                          HUGEPAGE, true, &foreign);
        struct sl_region *none = NULL;
        odd_error = sl_region_map_foreign(set, fcntl(own->memfd, F_DUPFD_CLOEXEC, 0), PAGE,
                                          HUGEPAGE, true, &none);
        short_error = sl_region_map_foreign(set, fcntl(own->memfd, F_DUPFD_CLOEXEC, 0), HUGEPAGE,
                                            2 * HUGEPAGE, true, &none);
    }
    (void)pool_write(before); /* in any case */
    assert_int_equal(error, 0);
    if (!huge) {
        fprintf(stderr, "other programs took the huge pages: they are not tested\n");
        sl_region_remove(own);
        sl_region_set_destroy(set);
        skip();
    }
    assert_true(free_pages >= 0 && free_pages <= before + 2);
    assert_int_equal(own->length_bytes, 2 * HUGEPAGE);
    assert_int_equal(own->page_bytes, HUGEPAGE);
    assert_int_equal(map_error, 0);
    assert_true(foreign->hugepages);
    assert_int_equal(foreign->base[HUGEPAGE - 1], 7);
    assert_int_equal(odd_error, -EINVAL);
    assert_int_equal(short_error, -ERANGE);
    sl_region_remove(foreign);
    sl_region_remove(own);
    sl_region_set_destroy(set);
}

/* ---- a client's memory ---- */

static int make_memfd(size_t length, unsigned seals)
{
    int memfd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(memfd >= 0);
    assert_int_equal(ftruncate(memfd, (off_t)length), 0);
    assert_int_equal(fcntl(memfd, F_ADD_SEALS, seals), 0);
    return memfd;
}

static int map(struct sl_region_set *set, int memfd, uint64_t offset, size_t length,
               struct sl_region **region)
{
    int error = sl_region_map_foreign(set, memfd, offset, length, true, region);
    if (error < 0)
        assert_int_equal(fcntl(memfd, F_GETFD), -1); /* taken, also on error */
    return error;
}

static void foreign_memory_is_checked(void **state)
{
    (void)state;
    struct sl_region_set *set = sl_region_set_create();
    struct sl_region *region = NULL;
    char path[] = "/tmp/sluice-region-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(ftruncate(file, 4 * PAGE), 0);
    unlink(path);
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    close(pipes[1]);

    assert_int_equal(map(set, make_memfd(4 * PAGE, 0), 0, PAGE, &region), -EPERM);
    assert_int_equal(map(set, make_memfd(4 * PAGE, F_SEAL_GROW), 0, PAGE, &region), -EPERM);
    assert_int_equal(map(set, file, 0, PAGE, &region), -EPERM);
    assert_int_equal(map(set, pipes[0], 0, PAGE, &region), -EINVAL);
    assert_int_equal(map(set, make_memfd(4 * PAGE, F_SEAL_SHRINK), 0, 0, &region), -EINVAL);
    assert_int_equal(map(set, make_memfd(4 * PAGE, F_SEAL_SHRINK), 0, PAGE + 1, &region), -EINVAL);
    assert_int_equal(map(set, make_memfd(4 * PAGE, F_SEAL_SHRINK), 512, PAGE, &region), -EINVAL);
    assert_int_equal(map(set, make_memfd(4 * PAGE, F_SEAL_SHRINK), 0, 5 * PAGE, &region), -ERANGE);
    assert_int_equal(map(set, make_memfd(4 * PAGE, F_SEAL_SHRINK), 4 * PAGE, PAGE, &region),
                     -ERANGE);
    assert_int_equal(
        map(set, make_memfd(4 * PAGE, F_SEAL_SHRINK), UINT64_MAX - PAGE + 1, PAGE, &region),
        -ERANGE);
    assert_int_equal(
        map(set, make_memfd(4 * PAGE, F_SEAL_SHRINK), PAGE, SIZE_MAX - PAGE + 1, &region), -ERANGE);
    assert_int_equal(map(set, make_memfd(PAGE, F_SEAL_SHRINK | F_SEAL_WRITE), 0, PAGE, &region),
                     -EPERM);
    assert_int_equal(sl_region_map_foreign(set, -1, 0, PAGE, true, &region), -EBADF);
    assert_true(sl_list_is_empty(sl_region_set_list(set)));
    sl_region_set_destroy(set);
}

static void write_a_byte(void *argument)
{
    *(volatile uint8_t *)argument = 1;
}

static void foreign_memory_is_shared(void **state)
{
    (void)state;
    struct sl_region_set *set = sl_region_set_create();
    struct sl_region *region = NULL;
    int memfd = make_memfd(4 * PAGE, F_SEAL_SHRINK);
    assert_int_equal(pwrite(memfd, "guest", 5, PAGE), 5);
    assert_int_equal(map(set, fcntl(memfd, F_DUPFD_CLOEXEC, 0), PAGE, 2 * PAGE, &region), 0);
    assert_true(region->foreign && region->writable && !region->hugepages);
    assert_int_equal(region->memfd_offset_bytes, PAGE);
    assert_memory_equal(region->base, "guest", 5);
    memcpy(region->base + PAGE, "host", 4);
    char text[4];
    assert_int_equal(pread(memfd, text, 4, 2 * PAGE), 4);
    assert_memory_equal(text, "host", 4);
    assert_false(region->damaged);
    sl_region_remove(region);

    /* For reading only: a write of ours is a bug of ours. */
    assert_int_equal(sl_region_map_foreign(set, memfd, 0, PAGE, false, &region), 0);
    assert_false(region->writable);
    assert_int_not_equal(test_child(write_a_byte, region->base), 0);
    sl_region_remove(region);
    sl_region_set_destroy(set);
}

/* ---- memory that vanishes ---- */

/* cmocka sets a handler of its own before each test: the guard's, which main() had installed, is
 * put back. */
static struct sigaction guard_action;

static void guard_again(void)
{
    assert_int_equal(sigaction(SIGBUS, &guard_action, NULL), 0);
}

static struct sl_region *map_to_cut(struct sl_region_set *set, size_t length, bool writable,
                                    int *memfd)
{
    struct sl_region *region = NULL;
    *memfd = make_memfd(length, 0);
    atomic_store(&pretend_sealed, true);
    int error =
        sl_region_map_foreign(set, fcntl(*memfd, F_DUPFD_CLOEXEC, 0), 0, length, writable, &region);
    atomic_store(&pretend_sealed, false);
    assert_int_equal(error, 0);
    return region;
}

static void truncated_under_us(void **state)
{
    (void)state;
    guard_again();
    struct sl_region_set *set = sl_region_set_create();
    int cut_memfd, other_memfd;
    struct sl_region *cut = map_to_cut(set, 4 * PAGE, true, &cut_memfd);
    struct sl_region *other = map_to_cut(set, 4 * PAGE, true, &other_memfd);
    memset(cut->base, 5, 4 * PAGE);
    memset(other->base, 6, 4 * PAGE);
    assert_int_equal(ftruncate(cut_memfd, 2 * PAGE), 0);
    assert_false(cut->damaged); /* nobody has looked yet */
    assert_int_equal(cut->base[2 * PAGE - 1], 5);
    assert_false(cut->damaged);
    assert_int_equal(*(volatile uint8_t *)(cut->base + 2 * PAGE + 9), 0);
    assert_true(cut->damaged);
    *(volatile uint8_t *)(cut->base + 3 * PAGE) = 8; /* writes land nowhere */
    assert_int_equal(cut->base[3 * PAGE], 8);
    for (unsigned i = 0; i < 2 * PAGE; i++)
        assert_int_equal(cut->base[i], 5); /* what is still there stays */
    assert_false(other->damaged);
    for (unsigned i = 0; i < 4 * PAGE; i++)
        assert_int_equal(other->base[i], 6);
    sl_region_remove(cut);
    sl_region_remove(other);
    close(cut_memfd);

    struct sl_region *read_only = map_to_cut(set, PAGE, false, &cut_memfd);
    assert_int_equal(ftruncate(cut_memfd, 0), 0);
    assert_int_equal(*(volatile uint8_t *)read_only->base, 0);
    assert_true(read_only->damaged);
    assert_int_not_equal(test_child(write_a_byte, read_only->base), 0);
    sl_region_remove(read_only);
    sl_region_set_destroy(set);
    close(cut_memfd);
    close(other_memfd);
}

static void sigbus_elsewhere(void *argument)
{
    (void)argument;
    int memfd = memfd_create("test", MFD_CLOEXEC);
    volatile uint8_t *page = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, memfd, 0);
    (void)*page; /* behind the end of the file */
}

/* What a sender writes where a fault would have its address. */
static void sigbus_sent_with_address(void *argument)
{
    siginfo_t info = {.si_signo = SIGBUS, .si_code = SI_QUEUE};
    info.si_addr = argument;
    (void)syscall(SYS_rt_sigqueueinfo, getpid(), SIGBUS, &info);
}

static void sigbus_sent(void *argument)
{
    (void)argument;
    (void)kill(getpid(), SIGBUS);
}

/* A sanitizer's handler, if it was there first, has the last word, and ends with a status. */
static bool handler_was_there;

static bool dies(void (*body)(void *argument), void *argument)
{
    int status = test_child(body, argument);
    if (handler_was_there)
        return status != 0;
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS;
}

/* Not ours to mend. */
static void other_bus_errors_kill(void **state)
{
    (void)state;
    guard_again();
    struct sl_region_set *set = sl_region_set_create();
    int memfd;
    struct sl_region *region = map_to_cut(set, PAGE, true, &memfd); /* the guard is there */
    assert_true(dies(sigbus_elsewhere, NULL));
    assert_true(dies(sigbus_sent, NULL));
    assert_true(dies(sigbus_sent_with_address, region->base));
    sl_region_remove(region);
    close(memfd);
    sl_region_set_destroy(set);
}

/* In a child of main(), before any foreign region is mapped: with a handler that was there first.
 */
static atomic_int previous_calls;

static void previous_handler(int number)
{
    (void)number;
    atomic_fetch_add(&previous_calls, 1);
}

static void with_previous_handler(void *argument)
{
    (void)argument;
    (void)signal(SIGBUS, previous_handler);
    struct sl_region_set *set = sl_region_set_create();
    struct sl_region *region = NULL;
    int memfd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    atomic_store(&pretend_sealed, true);
    if (ftruncate(memfd, PAGE) != 0 ||
        sl_region_map_foreign(set, fcntl(memfd, F_DUPFD_CLOEXEC, 0), 0, PAGE, true, &region) != 0)
        _exit(2);
    (void)kill(getpid(), SIGBUS);
    if (atomic_load(&previous_calls) != 1 || region->damaged)
        _exit(3);
    if (ftruncate(memfd, 0) != 0 || *(volatile uint8_t *)region->base != 0)
        _exit(4);
    if (atomic_load(&previous_calls) != 1 || !region->damaged)
        _exit(5);
    _exit(0);
}

static int previous_status;

static void the_previous_handler_is_called(void **state)
{
    (void)state;
    assert_int_equal(previous_status, 0);
}

/* Regions come, break and go on several threads: each mends its own. */
static void *map_cut_and_look(void *argument)
{
    (void)argument;
    struct sl_region_set *set = sl_region_set_create();
    for (unsigned i = 0; i < MAP_ROUNDS; i++) {
        struct sl_region *region = NULL;
        int memfd = memfd_create("test", MFD_CLOEXEC);
        size_t length = (1 + i % 3) * PAGE;
        if (ftruncate(memfd, (off_t)length) != 0 ||
            sl_region_map_foreign(set, fcntl(memfd, F_DUPFD_CLOEXEC, 0), 0, length, true,
                                  &region) != 0)
            return (void *)"not mapped";
        bool cut = i % 2 == 0;
        region->base[0] = 3;
        if (cut && ftruncate(memfd, 0) != 0)
            return (void *)"not cut";
        if (*(volatile uint8_t *)region->base != (cut ? 0 : 3) || region->damaged != cut)
            return (void *)"not mended, or another's was";
        sl_region_remove(region);
        close(memfd);
    }
    sl_region_set_destroy(set);
    return NULL;
}

static void threads_mend_their_own(void **state)
{
    (void)state;
    guard_again();
    pthread_t threads[THREADS];
    atomic_store(&pretend_sealed, true);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, map_cut_and_look, NULL), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        void *answer = NULL;
        pthread_join(threads[i], &answer);
        if (answer != NULL)
            fail_msg("thread %u: %s", i, (const char *)answer);
    }
    atomic_store(&pretend_sealed, false);
}

static int guard_install_first(void)
{
    struct sl_region_set *set = sl_region_set_create();
    struct sl_region *region = NULL;
    int memfd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (ftruncate(memfd, PAGE) != 0 || fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK) != 0 ||
        sl_region_map_foreign(set, memfd, 0, PAGE, true, &region) != 0)
        return -1;
    sl_region_remove(region);
    sl_region_set_destroy(set);
    return sigaction(SIGBUS, NULL, &guard_action);
}

int main(void)
{
    struct sigaction action;
    handler_was_there = sigaction(SIGBUS, NULL, &action) == 0 && action.sa_handler != SIG_DFL;
    previous_status = test_child(with_previous_handler, NULL);
    if (guard_install_first() != 0) {
        fprintf(stderr, "no sealed memfd can be mapped: %s\n", strerror(errno));
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_previous_handler_is_called),
        cmocka_unit_test(clients_see_each_region_once),
        cmocka_unit_test(a_client_that_refuses),
        cmocka_unit_test(clients_are_limited),
        cmocka_unit_test(own_memory),
        cmocka_unit_test(falls_back_without_hugepages),
        cmocka_unit_test(hugepages_are_taken_at_once),
        cmocka_unit_test(foreign_memory_is_checked),
        cmocka_unit_test(foreign_memory_is_shared),
        cmocka_unit_test(truncated_under_us),
        cmocka_unit_test(other_bus_errors_kill),
        cmocka_unit_test(threads_mend_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
