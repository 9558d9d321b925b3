/*
 * Errors are 0 or a negative errno (STYLE 19). What errno has no word for stands above 4096, so
 * that it can never be mistaken for a kernel's answer.
 */
#ifndef SL_CORE_ERROR_H
#define SL_CORE_ERROR_H

#include <errno.h>

enum sl_error {
    SL_E_CHECKSUM = 4097, /* a block or a message failed its CRC32C */
    SL_E_MOVED = 4098,    /* the request belongs to another reactor or node; the answer names it */
    SL_E_KEY = 4099,      /* a memory key that is unknown, revoked or does not cover the range */
    SL_E_CLUSTER_KEY = 4100, /* the peer could not prove that it holds the cluster's key */
    SL_E_VERSION = 4101,     /* no common protocol version */
    SL_E_PROTOCOL = 4102,    /* malformed, unknown or out-of-order message */
    SL_E_UNREACHABLE = 4103, /* no storage server answered within the time-out */
    SL_E_FENCED = 4104,      /* the volume was attached by somebody else since */
    SL_E_NO_SESSION = 4105,  /* the group knows no such session: never opened, or closed */
    SL_E_VOIDED = 4106,      /* the write was given up: it has not applied and never will */
    SL_E_LAST = 4107,
};

/* "ENOSPC", "SL_E_KEY"; takes the code with either sign. Static storage, any thread. */
const char *sl_error_name(int error);
/* "No space left on device"; takes the code with either sign. Static storage, any thread. */
const char *sl_error_text(int error);
/* The positive errno of "EIO", "ENOSPC", …; 0: no such name. Any thread. */
int sl_error_from_name(const char *name);

#endif
