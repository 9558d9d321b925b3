/* Work for another reactor, awaited: a mail there, a coroutine there, a mail back. */
#ifndef SL_CORE_CALL_H
#define SL_CORE_CALL_H

#include "core/base.h"

struct sl_reactor;

/* Runs `function_co(argument)` in a coroutine of reactor `there` and answers its result. On `there`
 * itself it is called directly. -ENOMEM: no coroutine could be made there. `argument` is lent until
 * it returns. */
int64_t sl_reactor_call_co(struct sl_reactor *there, int64_t (*function_co)(void *argument),
                           void *argument);

#endif
