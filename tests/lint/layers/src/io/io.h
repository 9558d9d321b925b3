/* Seam 1. */
#include "mem/memory.h"
