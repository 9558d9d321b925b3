/*
 * Goal: no command line of sluice-target or sluice-gateway crashes it before it runs, and what is
 * let through is a configuration that the layers below can take: volumes, addresses, storage,
 * faults. Method: the first byte picks the program, the rest is cut at each newline into arguments
 * and goes through the program's own table and checks; then the gateway's and the storage's. Words
 * with a slash are left out: files are none of this fuzzer's business.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "daemon/options.h"

#define ARGUMENTS_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct sl_server_options options;
static struct sl_server_config config;

static void must(bool condition)
{
    if (!condition)
        abort();
}

/* The programs explain on standard error; libFuzzer has kept its own. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    FILE *sink = fopen("/dev/null", "w");
    must(sink != NULL);
    stdout = sink;
    stderr = sink;
    return 0;
}

static void check_gateway(void)
{
    struct sl_gateway_group *group;
    struct sl_gateway_config gateway = config.gateway;
    char error[512] = "";
    must(gateway.server_count <= SL_SERVERS_MAX && gateway.volume_count <= SL_VOLUMES_MAX);
    must(gateway.stripe_bytes == 0 || sl_is_power_of_two(gateway.stripe_bytes));
    for (unsigned i = 0; i < gateway.volume_count; i++) {
        size_t length = strnlen(gateway.volumes[i].name, SL_VOLUME_NAME_BYTES_MAX);
        must(length > 0 && length < SL_VOLUME_NAME_BYTES_MAX);
    }
    for (unsigned i = 0; i < gateway.server_count; i++) {
        size_t length = strnlen(gateway.servers[i], SL_ADDRESS_BYTES_MAX);
        must(length > 0 && length < SL_ADDRESS_BYTES_MAX);
    }
    if (gateway.server_count == 0)
        return;
    if (sl_gateway_group_create(&gateway, config.runtime.reactor_count, &group, error,
                                sizeof(error)) == 0)
        sl_gateway_group_destroy(group);
    else
        must(error[0] != '\0');
}

static void check_storage(void)
{
    struct sl_storage *storage = NULL;
    char error[1024] = "";
    if (sl_storage_open(&config.storage, &storage, error, sizeof(error)) == 0)
        sl_storage_close(storage);
    else
        must(error[0] != '\0');
}

static void check(bool target)
{
    must(config.link != NULL && config.runtime.reactor_count >= 1);
    must(config.runtime.reactor_count <= SL_RUNTIME_REACTORS_MAX);
    must(config.has_target == target && (target || config.has_gateway));
    must(config.inject_count <= SL_INJECT_RULES_MAX);
    for (unsigned i = 0; i < config.inject_count; i++)
        must(config.injects[i].layer == SL_INJECT_LINK || target);
    if (config.has_gateway)
        check_gateway();
    if (target)
        check_storage();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sl_option rows[48];
    char *arguments[ARGUMENTS_MAX + 2];
    int count = 0;
    if (size == 0)
        return 0;
    bool target = (data[0] & 1) != 0;
    char *text = malloc(size);
    must(text != NULL);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    arguments[count++] = (char *)(uintptr_t) "fuzz";
    for (char *line = text; line != NULL && count <= ARGUMENTS_MAX;) {
        char *next = strchr(line, '\n');
        if (next != NULL)
            *next++ = '\0';
        if (strchr(line, '/') == NULL)
            arguments[count++] = line;
        line = next;
    }
    arguments[count] = NULL;
    sl_server_options_init(&options);
    must(sl_server_options_table(&options, target, true, rows) <= SL_COUNT_OF(rows));
    const struct sl_options description = {"fuzz", "a program", NULL, rows};
    int status = sl_server_options_parse(&options, &description, count, arguments, target, &config);
    must(status >= 0 && status <= 2);
    sl_log_set_level(SL_LOG_ERROR);
    if (status == 0)
        check(target);
    sl_server_options_fini(&options);
    free(text);
    return 0;
}
