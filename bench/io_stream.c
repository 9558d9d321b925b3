/*
 * Goal: what a byte stream of seam 1 costs beside plain sockets, over loopback TCP.
 * Method: two threads (a reactor each, or blocking send(2)/recv(2)); a ping-pong of small messages,
 * and a one-way stream of large ones. Prints microseconds of wall time and of CPU (both threads) an
 * operation.
 *
 *   io_stream [seconds per row, default 1]
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/base.h"
#include "core/coroutine.h"
#include "core/reactor.h"
#include "io/io.h"
#include "io/uring/uring.h"

struct row {
    const char *name;
    size_t length_bytes;
    bool echo;
    bool zero_copy;
    bool poll_always;
    uint64_t duration_ns;
    int handles[2];
    uint64_t operations;
};

struct side {
    struct row *row;
    unsigned index; /* 0 begins */
    struct sl_io *io;
    struct sl_reactor *reactor;
};

static uint64_t clock_of(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * SL_NS_PER_S + (uint64_t)now.tv_nsec;
}

static void check(bool good, const char *what)
{
    if (good)
        return;
    perror(what);
    exit(1);
}

static void connect_pair(int handles[2])
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(name);
    int one = 1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(bind(listener, (struct sockaddr *)&name, length) == 0 && listen(listener, 1) == 0 &&
              getsockname(listener, (struct sockaddr *)&name, &length) == 0,
          "listen");
    handles[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(connect(handles[0], (struct sockaddr *)&name, length) == 0, "connect");
    handles[1] = accept(listener, NULL, NULL);
    check(handles[1] >= 0, "accept");
    for (unsigned i = 0; i < 2; i++)
        check(setsockopt(handles[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0, "nodelay");
    close(listener);
}

/* ---- plain sockets ---- */

static bool plain_receive(int handle, uint8_t *data, size_t length)
{
    return recv(handle, data, length, MSG_WAITALL) == (ssize_t)length;
}

static void plain_side(struct side *side, uint8_t *data)
{
    struct row *row = side->row;
    int handle = row->handles[side->index];
    uint64_t end_ns = clock_of(CLOCK_MONOTONIC) + row->duration_ns;
    size_t length = row->length_bytes;
    if (side->index == 0) {
        while (clock_of(CLOCK_MONOTONIC) < end_ns) {
            check(send(handle, data, length, MSG_NOSIGNAL) == (ssize_t)length, "send");
            check(!row->echo || plain_receive(handle, data, length), "recv");
            row->operations++;
        }
        close(handle);
        return;
    }
    while (plain_receive(handle, data, length))
        check(!row->echo || send(handle, data, length, MSG_NOSIGNAL) == (ssize_t)length, "send");
    close(handle);
}

/* ---- streams of seam 1 ---- */

static bool stream_receive_all_co(struct sl_stream *stream, uint8_t *data, size_t length)
{
    for (size_t done = 0; done < length;) {
        int64_t got = sl_stream_receive_co(stream, &(struct iovec){data + done, length - done}, 1);
        if (got <= 0)
            return false;
        done += (size_t)got;
    }
    return true;
}

static void stream_side_co(void *argument)
{
    struct side *side = argument;
    struct row *row = side->row;
    struct sl_stream *stream = NULL;
    uint8_t *data = aligned_alloc(4096, sl_align_up(row->length_bytes, 4096));
    struct iovec piece = {data, row->length_bytes};
    check(data != NULL && sl_stream_adopt(side->io, row->handles[side->index], &stream) == 0,
          "adopt");
    memset(data, 1, row->length_bytes);
    uint64_t end_ns = sl_reactor_clock_ns(side->reactor) + row->duration_ns;
    if (side->index == 0) {
        while (sl_reactor_clock_ns(side->reactor) < end_ns) {
            check(sl_stream_send_co(stream, &piece, 1, row->zero_copy) == 0, "stream send");
            check(!row->echo || stream_receive_all_co(stream, data, row->length_bytes),
                  "stream receive");
            row->operations++;
        }
    } else {
        while (stream_receive_all_co(stream, data, row->length_bytes))
            check(!row->echo || sl_stream_send_co(stream, &piece, 1, false) == 0, "stream send");
    }
    sl_stream_close(stream);
    free(data);
    sl_reactor_stop(side->reactor);
}

static void stream_side(struct side *side)
{
    struct sl_reactor_config config = {.cpu = -1, .poll_always = side->row->poll_always};
    check(sl_uring_create(NULL, &side->io) == 0, "io_uring");
    check(sl_reactor_create(&config, sl_io_engine(side->io), &side->reactor) == 0, "reactor");
    sl_io_bind(side->io, side->reactor);
    check(sl_co_spawn(side->reactor, stream_side_co, side) == 0, "spawn");
    sl_reactor_run(side->reactor);
    sl_reactor_destroy(side->reactor);
    sl_io_destroy(side->io);
}

/* ---- rows ---- */

static void *plain_thread(void *argument)
{
    struct side *side = argument;
    uint8_t *data = calloc(1, side->row->length_bytes);
    check(data != NULL, "memory");
    plain_side(side, data);
    free(data);
    return NULL;
}

static void *stream_thread(void *argument)
{
    stream_side(argument);
    return NULL;
}

static void row_run(struct row row, void *(*thread_fn)(void *), const char *kind)
{
    struct side sides[2] = {{.row = &row, .index = 0}, {.row = &row, .index = 1}};
    pthread_t threads[2];
    connect_pair(row.handles);
    uint64_t wall_ns = clock_of(CLOCK_MONOTONIC);
    uint64_t cpu_ns = clock_of(CLOCK_PROCESS_CPUTIME_ID);
    for (unsigned i = 0; i < 2; i++)
        check(pthread_create(&threads[i], NULL, thread_fn, &sides[i]) == 0, "thread");
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    wall_ns = clock_of(CLOCK_MONOTONIC) - wall_ns;
    cpu_ns = clock_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
    double operations = row.operations > 0 ? (double)row.operations : 1;
    printf("%-22s %-14s %9zu B %10.2f us %10.2f us CPU %8.2f GiB/s\n", row.name, kind,
           row.length_bytes, (double)wall_ns / 1000 / operations,
           (double)cpu_ns / 1000 / operations,
           operations * (double)row.length_bytes / (double)SL_GIB / ((double)wall_ns / 1e9));
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    if (seconds <= 0 || seconds > 3600) {
        fprintf(stderr, "usage: %s [seconds per row, more than 0]\n", argv[0]);
        return 2;
    }
    const struct row rows[] = {
        {.name = "ping-pong", .length_bytes = 256, .echo = true},
        {.name = "ping-pong", .length_bytes = 4096 + 256, .echo = true},
        {.name = "stream", .length_bytes = 65536},
        {.name = "stream", .length_bytes = SL_MIB},
    };
    for (unsigned i = 0; i < SL_COUNT_OF(rows); i++) {
        struct row row = rows[i];
        row.duration_ns = (uint64_t)(seconds * 1e9);
        row_run(row, plain_thread, "plain");
        row_run(row, stream_thread, "seam 1");
        row.poll_always = true;
        row_run(row, stream_thread, "seam 1 polled");
        row.poll_always = false;
        row.zero_copy = true;
        if (!row.echo)
            row_run(row, stream_thread, "seam 1 zc");
    }
    return 0;
}
