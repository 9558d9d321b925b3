/*
 * `sluice COMMAND …`: each command is one file and one row of the table in main.c; a command with
 * commands of its own (`sluice fabric …`) has a table likewise. Main thread.
 */
#ifndef SL_CLI_SLUICE_COMMAND_H
#define SL_CLI_SLUICE_COMMAND_H

struct sluice_command {
    const char *name;    /* NULL ends a table */
    const char *summary; /* one line, for --help */
    /* argv[0] is the command's name. The exit status: 0 well, 1 failed, 2 bad usage. */
    int (*run)(int argc, char **argv);
};

/* Runs the command that argv[1] names; `program` is what stands before it. --help lists the table.
 */
int sluice_dispatch(const char *program, const char *summary, const struct sluice_command *table,
                    int argc, char **argv);

/* cluster.c */
int sluice_cluster(int argc, char **argv);

/* group.c */
int sluice_group(int argc, char **argv);

/* disk.c */
int sluice_disk(int argc, char **argv);

/* fabric.c */
int sluice_fabric(int argc, char **argv);

#endif
