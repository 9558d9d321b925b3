/* core lies below everything. */
#include "core/base.h"
#include <stdio.h>
#include "mem/memory.h"
/* #include "fabric/link.h" in a comment is nothing */
