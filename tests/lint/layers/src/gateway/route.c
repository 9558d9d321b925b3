/* A sibling, an angle bracket around one of ours, and lower layers, which are allowed. */
#include "target/target.h"
#include <io/io.h>
#include <target/target.h>
#include "fabric/fabric.h"
#include "core/base.h"
#include "route.h"
