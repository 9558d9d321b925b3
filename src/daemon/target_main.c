/* sluice-target: serves storage to gateways. See man/sluice-target.1. */
#include "daemon/options.h"

static const char examples[] =
    "Examples\n"
    "  sluice-target -d tcp --storage file:/var/lib/sluice/disk0\n"
    "  sluice-target -d shm --storage /dev/nvme0n1 --cpu 2 --cpu 3\n"
    "  sluice-target -d tcp --storage mem:1G --gateway      one process for both\n"
    "  sluice-target --cluster cluster.json --node 1 --reactors 2 \\\n"
    "      --storage store:/srv/disk0 --storage store:/srv/disk1\n";

int main(int argc, char **argv)
{
    static struct sl_server_options options;
    static struct sl_server_config config;
    static struct sl_option rows[48];
    sl_server_options_init(&options);
    sl_server_options_table(&options, true, true, rows);
    const struct sl_options description = {
        .program = "sluice-target",
        .summary = "serves storage to gateways",
        .examples = examples,
        .table = rows,
    };
    int status = sl_server_options_parse(&options, &description, argc, argv, true, &config);
    if (status != 0)
        return status == 1 ? sl_output_finish(description.program, 0) : status;
    return sl_server_run(&config);
}
