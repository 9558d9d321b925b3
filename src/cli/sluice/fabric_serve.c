/* `sluice fabric serve`: the other end of ping and bench. Until a signal. Reactor 0. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/sluice/fabric.h"
#include "core/error.h"
#include "core/log.h"

static const char program[] = "sluice fabric serve";

struct service {
    const struct tool_options *options;
    struct sl_fabric *fabric;
    struct sl_region *region;
};

static void opened(void *owner, struct sl_connection *connection)
{
    sl_connection_set_owner(connection, owner);
    /* A reference of ours goes in closed(). */
    sl_connection_ref(connection);
    sl_log_info("serve", "%s has come", sl_connection_peer(connection)->address);
}

static void closed(void *owner, struct sl_connection *connection, int reason)
{
    sl_log_info("serve", "%s has gone: %s", sl_connection_peer(connection)->address,
                sl_error_name(reason));
    sl_connection_unref(connection);
}

static void received(void *owner, struct sl_received *received)
{
    struct service *service = owner;
    union sl_capsule reply = {.io = {.header.length_bytes = sizeof(struct sl_capsule_io)}};
    const struct sl_capsule_header *header = &received->capsule.header;
    int error = 0;
    if (header->type != SL_CAPSULE_IO || header->length_bytes != sizeof(struct sl_capsule_io))
        error = -EOPNOTSUPP;
    else if (received->capsule.io.io.opcode == TOOL_GIVE_PIECE)
        error = sl_fabric_describe(service->fabric, service->region, service->region->base,
                                   TOOL_BYTES, &reply.io.pieces[0]);
    else if (received->capsule.io.io.opcode != TOOL_ECHO)
        error = -EOPNOTSUPP;
    reply.io.io.piece_count = reply.io.pieces[0].key != 0;
    reply.header.status = sl_status_from_errno(error);
    sl_connection_reply(received, &reply);
    sl_received_release(received);
}

static const struct sl_connection_handlers handlers = {opened, received, closed};

/* Only this memory is shown to peers. */
static int expose(struct service *service, struct sl_memory *memory)
{
    int memfd = memfd_create("sluice-fabric-serve", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memfd < 0 || ftruncate(memfd, TOOL_BYTES) != 0 ||
        fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
        int error = -errno;
        if (memfd >= 0)
            close(memfd);
        return error;
    }
    return sl_region_map_foreign(sl_memory_regions(memory), memfd, 0, TOOL_BYTES, true,
                                 &service->region);
}

/* SIGUSR1. */
static void asked_co(void *argument, int signal)
{
    struct service *service = argument;
    struct sl_fabric_statistics statistics;
    sl_fabric_statistics(service->fabric, &statistics);
    printf("%s: %llu connections; %llu messages came\n", program,
           (unsigned long long)statistics.connection_count,
           (unsigned long long)statistics.message_received_count);
    fflush(stdout);
}

static int serve_co(struct sl_runtime *runtime, struct service *service)
{
    char bound[SL_ADDRESS_BYTES_MAX];
    struct sl_fabric_listener *listener;
    void *owner = service;
    int error = sl_fabric_listen(&service->fabric, 1, service->options->address, &handlers, &owner,
                                 bound, &listener);
    if (error < 0) {
        fprintf(stderr, "%s: listening at %s: %s\n", program, service->options->address,
                sl_error_text(error));
        return error;
    }
    printf("%s: ready at %s\n", program, bound);
    fflush(stdout);
    sl_runtime_wait_signal_co(runtime, asked_co, service);
    sl_fabric_listener_close(listener);
    sl_fabric_drain_co(service->fabric);
    return 0;
}

static int main_co(struct sl_runtime *runtime, void *argument)
{
    struct service service = {.options = argument};
    int error = tool_fabric_create(argument, runtime, true, &service.fabric);
    if (error < 0) {
        fprintf(stderr, "%s: no fabric: %s\n", program, sl_error_text(error));
        return error;
    }
    error = expose(&service, runtime->nodes[0].memory);
    if (error == 0)
        error = serve_co(runtime, &service);
    else
        fprintf(stderr, "%s: memory to show: %s\n", program, sl_error_text(error));
    sl_fabric_destroy(service.fabric);
    sl_region_remove(service.region);
    return error;
}

int fabric_serve(int argc, char **argv)
{
    static struct tool_options o;
    static const char *listen;
    struct sl_option rows[TOOL_OPTION_COUNT + 2] = {{NULL}};
    tool_options_rows(&o, rows);
    rows[TOOL_OPTION_COUNT] =
        (struct sl_option){"listen",
                           'l',
                           SL_OPTION_STRING,
                           &listen,
                           .argument = "ADDRESS",
                           .help = "ADDRESS[:PORT], port 0 = any free one; shm: unix:PATH",
                           .fallback = "the device's address, port " TOOL_PORT};
    const struct sl_options description = {program, "answers ping and bench of other hosts", NULL,
                                           rows};
    int parsed = sl_options_parse(&description, argc, argv, NULL, NULL, 0, stdout, stderr);
    if (parsed != 0)
        return parsed > 0 ? 0 : 2;
    int status = tool_options_finish(&o, program, listen);
    if (status != 0)
        return status;
    struct sl_runtime_config config;
    tool_runtime_config(&o, 256 * SL_MIB, &config);
    return sl_runtime_run(&config, main_co, &o) == 0 ? 0 : 1;
}
