/* Pure: no I/O. */
#include "core/base.h"
#include "io/io.h"
