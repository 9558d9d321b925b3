/* Cluster files: any bytes are refused with a message, or make a cluster that holds together and
 * reads the same when it is printed and read again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "meta/cluster.h"

static void must(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *print(const struct sl_cluster *cluster, size_t *bytes)
{
    char *text = NULL;
    FILE *file = open_memstream(&text, bytes);
    must(file != NULL && sl_cluster_print(cluster, file) == 0);
    fclose(file);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sl_cluster *cluster = NULL, *again = NULL;
    char error[256] = "";
    if (sl_cluster_parse("fuzz", (const char *)data, size, &cluster, error, sizeof(error)) < 0) {
        must(strncmp(error, "fuzz: ", 6) == 0 && cluster == NULL);
        return 0;
    }
    must(sl_cluster_check(cluster, error, sizeof(error)) == 0);
    size_t first_bytes, second_bytes;
    char *first = print(cluster, &first_bytes);
    must(sl_cluster_parse("again", first, first_bytes, &again, error, sizeof(error)) == 0);
    char *second = print(again, &second_bytes);
    must(first_bytes == second_bytes && memcmp(first, second, first_bytes) == 0);
    free(first);
    free(second);
    sl_cluster_free(cluster);
    sl_cluster_free(again);
    return 0;
}
