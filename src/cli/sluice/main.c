/* `sluice`: administration. The table of commands, and how one is found. */
#include <stdio.h>
#include <string.h>

#include "cli/sluice/command.h"
#include "core/options.h"

static const struct sluice_command commands[] = {
    {"cluster", "writes, checks and shows cluster files", sluice_cluster},
    {"disk", "format, check, show and read out disks", sluice_disk},
    {"fabric", "devices, latency and bandwidth between hosts", sluice_fabric},
    {"group", "makes, shows and changes replicated groups", sluice_group},
    {NULL},
};

static void list_commands(const char *program, const char *summary,
                          const struct sluice_command *table, FILE *out)
{
    fprintf(out, "%s - %s\n\nUsage: %s COMMAND [options]\n\n", program, summary, program);
    for (; table->name != NULL; table++)
        fprintf(out, "  %-17s%s\n", table->name, table->summary);
    fprintf(out, "\n'%s COMMAND --help' tells more.\n", program);
}

int sluice_dispatch(const char *program, const char *summary, const struct sluice_command *table,
                    int argc, char **argv)
{
    if (argc < 2) {
        list_commands(program, summary, table, stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        list_commands(program, summary, table, stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("%s %s\n", program, SL_VERSION);
        return 0;
    }
    for (const struct sluice_command *command = table; command->name != NULL; command++)
        if (strcmp(argv[1], command->name) == 0)
            return command->run(argc - 1, argv + 1);
    fprintf(stderr, "%s: no such command: '%.64s'; there are:", program, argv[1]);
    for (; table->name != NULL; table++)
        fprintf(stderr, " %s", table->name);
    fprintf(stderr, " ('%s --help' tells more)\n", program);
    return 2;
}

int main(int argc, char **argv)
{
    int status = sluice_dispatch("sluice", "administration of Sluice", commands, argc, argv);
    return sl_output_finish("sluice", status);
}
