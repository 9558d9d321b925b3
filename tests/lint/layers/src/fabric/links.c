/* The table of links does know. */
#include "fabric/tcp/tcp.h"
#include "io/uring/uring.h"
