/* A program puts everything together. */
#include "fabric/tcp/tcp.h"
#include "gateway/gateway.h"
