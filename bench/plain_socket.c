/*
 * Goal: the yardstick of bench/fabric_tcp.c: the same exchange by a plain program with blocking
 * sockets. Method: two threads over loopback; payload inline; one send and one receive call for
 * each message, with DEPTH requests outstanding. Rows as there: "send" and "write" carry the
 * payload with the request, "read" with the answer. With "poll" it receives without ever sleeping.
 *
 *   plain_socket [seconds a row] ["poll"] [row]
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/base.h"

#define REQUEST_BYTES 96u
#define ANSWER_BYTES  32u
#define PAYLOAD_MAX   (1u << 20)

static const struct row {
    const char *name;
    bool payload_in_request;
    unsigned depth;
    uint32_t payload_bytes;
} rows[] = {
    {"send", true, 1, 4096},   {"send", true, 32, 4096},        {"read", false, 1, 4096},
    {"read", false, 32, 4096}, {"read", false, 8, PAYLOAD_MAX}, {"write", true, 8, PAYLOAD_MAX},
};

struct side {
    const struct row *row;
    int handle;
    uint64_t duration_ns;
    uint64_t operations, cpu_ns, wall_ns;
    uint8_t *buffer; /* one for each request that may be outstanding, in turn */
    unsigned turn;
    bool poll;
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
    fprintf(stderr, "plain_socket: %s: %s\n", what, strerror(errno));
    exit(1);
}

static size_t request_bytes(const struct row *row)
{
    return REQUEST_BYTES + (row->payload_in_request ? row->payload_bytes : 0);
}

static size_t answer_bytes(const struct row *row)
{
    return ANSWER_BYTES + (row->payload_in_request ? 0 : row->payload_bytes);
}

static uint8_t *next_buffer(struct side *side)
{
    side->turn = (side->turn + 1) % side->row->depth;
    return side->buffer + (size_t)side->turn * (REQUEST_BYTES + side->row->payload_bytes);
}

static void send_message(struct side *side, size_t length_bytes)
{
    ssize_t sent = send(side->handle, next_buffer(side), length_bytes, MSG_NOSIGNAL);
    check(sent == (ssize_t)length_bytes, "send");
}

/* False at the end of the stream. */
static bool receive_message(struct side *side, size_t length_bytes)
{
    uint8_t *buffer = next_buffer(side);
    size_t done = 0;
    while (done < length_bytes) {
        ssize_t received = recv(side->handle, buffer + done, length_bytes - done,
                                side->poll ? MSG_DONTWAIT : MSG_WAITALL);
        if (received < 0 && errno == EAGAIN)
            continue;
        check(received >= 0, "recv");
        if (received == 0)
            return false;
        done += (size_t)received;
    }
    return true;
}

/* A core each, as bench/fabric_tcp.c. */
static void pin(unsigned cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static void *server_run(void *argument)
{
    struct side *side = argument;
    pin(1);
    side->cpu_ns = clock_of(CLOCK_THREAD_CPUTIME_ID);
    while (receive_message(side, request_bytes(side->row)))
        send_message(side, answer_bytes(side->row));
    side->cpu_ns = clock_of(CLOCK_THREAD_CPUTIME_ID) - side->cpu_ns;
    return NULL;
}

static void *client_run(void *argument)
{
    struct side *side = argument;
    pin(0);
    side->cpu_ns = clock_of(CLOCK_THREAD_CPUTIME_ID);
    side->wall_ns = clock_of(CLOCK_MONOTONIC);
    uint64_t end_ns = side->wall_ns + side->duration_ns;
    unsigned outstanding = 0;
    while (outstanding < side->row->depth) {
        send_message(side, request_bytes(side->row));
        outstanding++;
    }
    while (outstanding > 0) {
        check(receive_message(side, answer_bytes(side->row)), "answer");
        side->operations++;
        outstanding--;
        if ((side->operations & 15) != 0 || clock_of(CLOCK_MONOTONIC) < end_ns) {
            if (end_ns == 0)
                continue;
            send_message(side, request_bytes(side->row));
            outstanding++;
        } else {
            end_ns = 0;
        }
    }
    side->cpu_ns = clock_of(CLOCK_THREAD_CPUTIME_ID) - side->cpu_ns;
    side->wall_ns = clock_of(CLOCK_MONOTONIC) - side->wall_ns;
    shutdown(side->handle, SHUT_RDWR);
    return NULL;
}

static void connect_pair(int handles[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int one = 1;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    check(listener >= 0 && bind(listener, (struct sockaddr *)&address, length) == 0 &&
              listen(listener, 1) == 0 &&
              getsockname(listener, (struct sockaddr *)&address, &length) == 0,
          "listen");
    handles[0] = socket(AF_INET, SOCK_STREAM, 0);
    check(connect(handles[0], (struct sockaddr *)&address, length) == 0, "connect");
    handles[1] = accept(listener, NULL, NULL);
    check(handles[1] >= 0, "accept");
    close(listener);
    for (int i = 0; i < 2; i++)
        setsockopt(handles[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    bool poll = argc > 2 && strcmp(argv[2], "poll") == 0;
    printf("plain socket    depth    bytes  client µs  server µs   CPU µs/op      op/s  mean µs\n");
    for (size_t i = 0; i < SL_COUNT_OF(rows); i++) {
        if (argc > 3 && strtoul(argv[3], NULL, 10) != i)
            continue;
        int handles[2];
        pthread_t threads[2];
        struct side sides[2];
        connect_pair(handles);
        for (unsigned k = 0; k < 2; k++) {
            sides[k] = (struct side){.row = &rows[i], .handle = handles[k], .poll = poll};
            sides[k].duration_ns = (uint64_t)(seconds * 1e9);
            sides[k].buffer = calloc(rows[i].depth, REQUEST_BYTES + rows[i].payload_bytes);
            check(sides[k].buffer != NULL, "memory");
        }
        check(pthread_create(&threads[1], NULL, server_run, &sides[1]) == 0, "thread");
        check(pthread_create(&threads[0], NULL, client_run, &sides[0]) == 0, "thread");
        for (unsigned k = 0; k < 2; k++) {
            pthread_join(threads[k], NULL);
            close(handles[k]);
            free(sides[k].buffer);
        }
        double count = (double)sides[0].operations;
        double client_us = (double)sides[0].cpu_ns / count / 1000;
        double server_us = (double)sides[1].cpu_ns / count / 1000;
        double rate = count / ((double)sides[0].wall_ns / 1e9);
        printf("%-15s %5u %8u %10.2f %10.2f %11.2f %9.0f %8.2f\n", rows[i].name, rows[i].depth,
               rows[i].payload_bytes, client_us, server_us, client_us + server_us, rate,
               rows[i].depth / rate * 1e6);
    }
    return 0;
}
