/* The target may use the log, and is no front-end. */
#include "raft/raft.h"
#include "store/wal.h"
#include "frontend/nvme_tcp/nvme.h"
#include "io/uring/uring.h"
