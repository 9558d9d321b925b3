/* A folder that nobody drew. */
#include "core/base.h"
