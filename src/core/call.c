/*
 * Calls between reactors. The frame lives on the caller's stack, which stays where it is while its
 * coroutine is suspended; each side touches it only on its own thread, handed over by mail.
 */
#include "core/call.h"

#include "core/coroutine.h"
#include "core/error.h"
#include "core/reactor.h"

struct call {
    struct sl_mail mail; /* first there, then back */
    struct sl_reactor *here;
    struct sl_reactor *there;
    int64_t (*function_co)(void *argument);
    void *argument;
    int64_t result;
    struct sl_wait wait; /* of the caller, here */
};

static void call_returned(struct sl_mail *mail)
{
    struct call *call = sl_container_of(mail, struct call, mail);
    sl_wait_wake(&call->wait, call->result);
}

static void call_post_back(struct call *call, int64_t result)
{
    call->result = result;
    call->mail.deliver = call_returned;
    sl_reactor_post(call->here, &call->mail);
}

static void call_run_co(void *argument)
{
    struct call *call = argument;
    call_post_back(call, call->function_co(call->argument));
}

static void call_arrived(struct sl_mail *mail)
{
    struct call *call = sl_container_of(mail, struct call, mail);
    int error = sl_co_spawn(call->there, call_run_co, call);
    if (error < 0)
        call_post_back(call, error);
}

int64_t sl_reactor_call_co(struct sl_reactor *there, int64_t (*function_co)(void *argument),
                           void *argument)
{
    struct sl_reactor *here = sl_reactor_self();
    if (here == there)
        return function_co(argument);
    struct call call = {
        .mail.deliver = call_arrived,
        .here = here,
        .there = there,
        .function_co = function_co,
        .argument = argument,
    };
    sl_wait_init(&call.wait);
    sl_reactor_post(there, &call.mail);
    return sl_wait_co(&call.wait);
}
