/* Loading the cluster's key. */
#include "fabric/cluster_key.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/log.h"

static int hex_digit(uint8_t character)
{
    if (character >= '0' && character <= '9')
        return character - '0';
    if (character >= 'a' && character <= 'f')
        return character - 'a' + 10;
    if (character >= 'A' && character <= 'F')
        return character - 'A' + 10;
    return -1;
}

static bool parse_hex(const uint8_t *text, uint8_t *key)
{
    for (unsigned i = 0; i < SL_CLUSTER_KEY_BYTES; i++) {
        int high = hex_digit(text[2 * i]);
        int low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        key[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

int sl_cluster_key_load(const char *path, uint8_t key[static SL_CLUSTER_KEY_BYTES], char *error,
                        size_t error_bytes)
{
    uint8_t text[SL_CLUSTER_KEY_BYTES * 2 + 2];
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof(text));
    int code = length < 0 ? -errno : 0;
    if (file >= 0) {
        if (fstat(file, &status) == 0 && (status.st_mode & (S_IRGRP | S_IROTH)) != 0)
            sl_log_warn("fabric", "cluster key file '%s' can be read by others: chmod 600 it",
                        path);
        close(file);
    }
    if (code < 0) {
        snprintf(error, error_bytes, "--cluster-key-file %s: %s", path, sl_error_text(code));
        return code;
    }
    if (length > 0 && length == 2 * SL_CLUSTER_KEY_BYTES + 1 && text[length - 1] == '\n')
        length--;
    bool good = length == SL_CLUSTER_KEY_BYTES ||
                (length == 2 * SL_CLUSTER_KEY_BYTES && parse_hex(text, key));
    if (length == SL_CLUSTER_KEY_BYTES)
        memcpy(key, text, SL_CLUSTER_KEY_BYTES); /* header: key */
    explicit_bzero(text, sizeof(text));
    if (good)
        return 0;
    snprintf(error, error_bytes,
             "--cluster-key-file %s: 32 bytes or 64 hex digits are meant (make one: head -c 32 "
             "/dev/urandom > FILE)",
             path);
    return -EINVAL;
}

void sl_cluster_key_development(uint8_t key[static SL_CLUSTER_KEY_BYTES])
{
    static const char text[] = "sluice development key: no secret";
    _Static_assert(sizeof(text) >= SL_CLUSTER_KEY_BYTES, "long enough");
    memcpy(key, text, SL_CLUSTER_KEY_BYTES); /* header: key */
}
