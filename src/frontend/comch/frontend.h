/*
 * The comch front-end: initiators on this host come in by the local channel, struct sl_request goes
 * out to the gateway. Control runs on the reactor of `io`; each data queue on the reactor that it
 * was dealt to, in turn.
 */
#ifndef SL_FRONTEND_COMCH_FRONTEND_H
#define SL_FRONTEND_COMCH_FRONTEND_H

#include "comch/comch.h"
#include "gateway/gateway.h"

struct sl_comch_frontend;

/* `ios[i]` is the seam of the group's reactor i; all borrowed. `path`: comch/path.h. Errors as
 * sl_comch_server_open(). On the control reactor (that of ios[0]). */
int sl_comch_frontend_open(struct sl_gateway_group *group, struct sl_io *const *ios,
                           const char *path, struct sl_comch_frontend **frontend);
/* Ends every session, its I/O included. Takes NULL. */
void sl_comch_frontend_close_co(struct sl_comch_frontend *frontend);

#endif
