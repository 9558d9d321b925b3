/* A link uses the common part and itself, no other link. */
#include "fabric/link.h"
#include "fabric/tcp/tcp.h"
#include "fabric/shm/ring.h"
