/* Serves another protocol. */
#include "comch/comch.h"
