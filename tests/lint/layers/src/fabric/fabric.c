/* Common: does not know which links there are. */
#include "fabric/tcp/tcp.h"
