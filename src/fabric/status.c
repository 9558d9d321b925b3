/* Status on the wire and errno: one table. Any thread. */
#include "fabric/capsule.h"

#include "core/error.h"

static const int errno_of[SL_STATUS_LAST] = {
    [SL_STATUS_OK] = 0,
    [SL_STATUS_INVALID] = EINVAL,
    [SL_STATUS_OUT_OF_RANGE] = ERANGE,
    [SL_STATUS_NO_SPACE] = ENOSPC,
    [SL_STATUS_MEDIUM] = EIO,
    [SL_STATUS_CHECKSUM] = SL_E_CHECKSUM,
    [SL_STATUS_KEY] = SL_E_KEY,
    [SL_STATUS_READ_ONLY] = EROFS,
    [SL_STATUS_NOT_FOUND] = ENOENT,
    [SL_STATUS_STATE] = EBADFD,
    [SL_STATUS_BUSY] = EBUSY,
    [SL_STATUS_MOVED] = SL_E_MOVED,
    [SL_STATUS_UNREACHABLE] = SL_E_UNREACHABLE,
    [SL_STATUS_TIMEOUT] = ETIMEDOUT,
    [SL_STATUS_UNSUPPORTED] = EOPNOTSUPP,
    [SL_STATUS_CLUSTER_KEY] = SL_E_CLUSTER_KEY,
    [SL_STATUS_VERSION] = SL_E_VERSION,
    [SL_STATUS_PROTOCOL] = SL_E_PROTOCOL,
    [SL_STATUS_NO_MEMORY] = ENOMEM,
    [SL_STATUS_CANCELED] = ECANCELED,
    [SL_STATUS_FENCED] = SL_E_FENCED,
    [SL_STATUS_NO_SESSION] = SL_E_NO_SESSION,
    [SL_STATUS_VOIDED] = SL_E_VOIDED,
    [SL_STATUS_EXISTS] = EEXIST,
    [SL_STATUS_AGAIN] = EAGAIN,
    [SL_STATUS_PERMISSION] = EPERM,
};

enum sl_status sl_status_from_errno(int error)
{
    if (error < 0)
        error = -error;
    for (unsigned i = 0; i < SL_STATUS_LAST; i++) {
        if (errno_of[i] == error)
            return (enum sl_status)i;
    }
    return SL_STATUS_MEDIUM;
}

int sl_status_to_errno(uint16_t status)
{
    return status < SL_STATUS_LAST ? -errno_of[status] : -SL_E_PROTOCOL;
}
