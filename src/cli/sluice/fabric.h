/*
 * What the commands of `sluice fabric` share: the options that name a fabric, and the little that
 * server and client say to each other, in capsules of the fabric (docs/wire.md, "sluice fabric").
 */
#ifndef SL_CLI_SLUICE_FABRIC_H
#define SL_CLI_SLUICE_FABRIC_H

#include "core/options.h"
#include "daemon/runtime.h"
#include "fabric/fabric.h"

#define TOOL_PORT "7601"
/* Request: SL_CAPSULE_IO. READ asks for a piece of memory that may be read and written; FLUSH is
 * answered, no more: with payload, a ping with payload. */
#define TOOL_GIVE_PIECE SL_IO_READ
#define TOOL_ECHO       SL_IO_FLUSH
/* The memory that a server shows: one transfer of the longest. Peers write over one another. */
#define TOOL_BYTES SL_TRANSFER_BYTES_MAX

/* Rows for an option table; `o` must live as long. */
struct tool_options {
    const char *device;
    const char *key_file;
    bool poll, verbose;
    /* by tool_options_finish(): */
    const struct sl_link_ops *link;
    char device_name[SL_ADDRESS_BYTES_MAX];
    char address[SL_ADDRESS_BYTES_MAX];
    uint8_t key[SL_CLUSTER_KEY_BYTES];
};
#define TOOL_OPTION_COUNT 4
void tool_options_rows(struct tool_options *o, struct sl_option *rows);
/* Finds device, address (`given` may be NULL: the device's own) and key. 0, or the exit status,
 * explained. */
int tool_options_finish(struct tool_options *o, const char *program, const char *given);

/* A fabric on the runtime's reactor 0; `exposes`: peers may reach memory that was mapped, not the
 * arenas. */
int tool_fabric_create(const struct tool_options *o, struct sl_runtime *runtime, bool exposes,
                       struct sl_fabric **fabric);
void tool_runtime_config(const struct tool_options *o, size_t memory_bytes,
                         struct sl_runtime_config *config);

/* The commands, as struct sluice_command says: one line of options in, an exit status out. */
int fabric_list(int argc, char **argv);
/* Likewise. */
int fabric_serve(int argc, char **argv);
/* Likewise. */
int fabric_ping(int argc, char **argv);
/* Likewise. */
int fabric_bench(int argc, char **argv);

#endif
