/* A protocol over the shm link's rings. */
#include "fabric/shm/ring.h"
#include "fabric/tcp/tcp.h"
