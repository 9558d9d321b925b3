/* Public headers are closed. */
#include "sluice/types.h"
#include "core/base.h"
