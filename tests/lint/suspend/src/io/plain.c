/* Plain functions that would suspend. */
static void wait_co(struct sl_wait *wait)
{
    sl_wait_co(wait);
}

static void plain(struct sl_wait *wait)
{
    wait_co(wait);
}

static int through_pointer(struct sl_io *io)
{
    return io->ops->read_co(io);
}

static int through_parentheses(struct sl_io *io)
{
    return (*io->ops->read_co)(io);
}

static void spawner(struct sl_reactor *reactor)
{
    int (*execute_co)(void *argument) = execute_later_co;

    /* wait_co(wait) in a comment is no call */
    log("wait_co(wait) in a string is none either");
    sl_co_spawn(reactor, wait_co, execute_co);
}

static inline int
long_signature(struct sl_reactor *reactor,
               struct sl_wait *wait)
{
    if (reactor)
        return sl_wait_until_co(wait,
                                0);
    return 0;
}

#define AWAIT(wait)                                                                                \
    do {                                                                                           \
        sl_wait_co(wait);                                                                          \
    } while (0)
#define AWAIT_CO(wait) sl_wait_co(wait)

static void by_macro(struct sl_wait *wait)
{
    AWAIT_CO(wait);
}

__attribute__((noinline)) static void attribute_co(struct sl_wait *wait)
{
    AWAIT_CO(wait);
}
