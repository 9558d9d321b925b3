/*
 * Goal: a cluster key file is 32 bytes or 64 hex digits with or without a newline, and all else is
 * refused with a word. Method: the input is the file; what the loader says is compared with a
 * second reading of the rule.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fabric/cluster_key.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition)
{
    if (!condition)
        abort();
}

static bool expected_key(const uint8_t *data, size_t size, uint8_t *key)
{
    char text[65];
    if (size == SL_CLUSTER_KEY_BYTES) {
        memcpy(key, data, size);
        return true;
    }
    if (size == 65 && data[64] == '\n')
        size--;
    if (size != 64)
        return false;
    memcpy(text, data, 64);
    text[64] = '\0';
    if (strspn(text, "0123456789abcdefABCDEF") != 64)
        return false;
    for (unsigned i = 0; i < SL_CLUSTER_KEY_BYTES; i++) {
        char pair[3] = {text[2 * i], text[2 * i + 1], '\0'};
        key[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int file = -1;
    uint8_t expected[SL_CLUSTER_KEY_BYTES], key[SL_CLUSTER_KEY_BYTES];
    char path[64], error[512] = "";
    if (file < 0)
        file = memfd_create("key", MFD_CLOEXEC);
    must(file >= 0 && fchmod(file, 0600) == 0);
    must(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
    int result = sl_cluster_key_load(path, key, error, sizeof(error));
    must((result == 0) == expected_key(data, size, expected));
    if (result == 0)
        must(memcmp(key, expected, sizeof(key)) == 0);
    else
        must(strstr(error, "64 hex digits") != NULL);
    return 0;
}
