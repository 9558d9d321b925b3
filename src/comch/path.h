/* Where channels live: DIRECTORY/NAME.comch. Any thread. */
#ifndef SL_COMCH_PATH_H
#define SL_COMCH_PATH_H

#include "core/base.h"

/* sun_path's 108 bytes, its zero included, bound the whole path. */
#define SL_COMCH_PATH_BYTES_MAX 108
#define SL_COMCH_NAME_DEFAULT   "sluice"

/* Writes the socket's path for channel `name` (letters, digits, '.', '_', '-'; 1 … 64, not
 * beginning with '.'). The directory is $SLUICE_RUNTIME_DIR, else /run/sluice if it can be made or
 * written, else $XDG_RUNTIME_DIR/sluice, else /tmp/sluice-UID. `create` makes it (mode 0700; one in
 * /tmp must be ours). A client looks in the first of these that holds the channel. -EINVAL (bad
 * name), -ENAMETOOLONG, -EACCES, … */
int sl_comch_path(const char *name, bool create, char path[static SL_COMCH_PATH_BYTES_MAX]);

#endif
