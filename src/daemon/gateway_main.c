/* sluice-gateway: connects initiators of this host to storage. See man/sluice-gateway.1. */
#include "daemon/options.h"

static const char examples[] = "Examples\n"
                               "  sluice-gateway -d tcp\n"
                               "  sluice-gateway -d tcp --storage-server 127.0.0.1:7600 "
                               "--storage-server 127.0.0.1:7601 --volume a:10G --volume b\n";

int main(int argc, char **argv)
{
    static struct sl_server_options options;
    static struct sl_server_config config;
    static struct sl_option rows[48];
    sl_server_options_init(&options);
    sl_server_options_table(&options, false, true, rows);
    const struct sl_options description = {
        .program = "sluice-gateway",
        .summary = "connects initiators of this host to storage",
        .examples = examples,
        .table = rows,
    };
    int status = sl_server_options_parse(&options, &description, argc, argv, false, &config);
    if (status != 0)
        return status == 1 ? sl_output_finish(description.program, 0) : status;
    return sl_server_run(&config);
}
