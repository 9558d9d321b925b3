/* Serves comch. */
#include "comch/comch.h"
#include "gateway/gateway.h"
