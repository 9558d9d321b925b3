/* Names and texts of errors. Stateless. */
#include "core/error.h"

#include <limits.h>
#include <string.h>

#include "core/base.h"

static const struct {
    const char *name;
    const char *text;
} own[SL_E_LAST - SL_E_CHECKSUM] = {
    [SL_E_CHECKSUM - SL_E_CHECKSUM] = {"SL_E_CHECKSUM", "Checksum mismatch"},
    [SL_E_MOVED - SL_E_CHECKSUM] = {"SL_E_MOVED", "Served by another reactor or node"},
    [SL_E_KEY - SL_E_CHECKSUM] = {"SL_E_KEY", "Memory key unknown, revoked or out of its range"},
    [SL_E_CLUSTER_KEY -
        SL_E_CHECKSUM] = {"SL_E_CLUSTER_KEY", "Peer does not hold the cluster's key"},
    [SL_E_VERSION - SL_E_CHECKSUM] = {"SL_E_VERSION", "No common protocol version"},
    [SL_E_PROTOCOL - SL_E_CHECKSUM] = {"SL_E_PROTOCOL", "Malformed or unexpected message"},
    [SL_E_UNREACHABLE - SL_E_CHECKSUM] = {"SL_E_UNREACHABLE", "Storage server unreachable"},
    [SL_E_FENCED - SL_E_CHECKSUM] = {"SL_E_FENCED", "Volume attached by somebody else since"},
    [SL_E_NO_SESSION - SL_E_CHECKSUM] = {"SL_E_NO_SESSION", "Session unknown or closed"},
    [SL_E_VOIDED - SL_E_CHECKSUM] = {"SL_E_VOIDED", "Write given up; it will never apply"},
};

const char *sl_error_name(int error)
{
    int code = error < 0 && error != INT_MIN ? -error : error;
    if (code >= SL_E_CHECKSUM && code < SL_E_LAST)
        return own[code - SL_E_CHECKSUM].name;
    const char *name = strerrorname_np(code);
    return name != NULL ? name : "unknown error";
}

const char *sl_error_text(int error)
{
    int code = error < 0 && error != INT_MIN ? -error : error;
    if (code >= SL_E_CHECKSUM && code < SL_E_LAST)
        return own[code - SL_E_CHECKSUM].text;
    const char *text = strerrordesc_np(code);
    return text != NULL ? text : "unknown error";
}

/* Linux numbers them from 1 without many gaps; the highest is EHWPOISON, 133. */
#define ERRNO_MAX 200

int sl_error_from_name(const char *name)
{
    for (int code = 1; code < ERRNO_MAX; code++) {
        const char *known = strerrorname_np(code);
        if (known != NULL && strcmp(known, name) == 0)
            return code;
    }
    return 0;
}
