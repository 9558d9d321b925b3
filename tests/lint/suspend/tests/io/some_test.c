/* Tests as well: the entry point of a coroutine ends in _co. */
static void entry(void *argument)
{
    sl_sleep_co(1);
}

static void entry_co(void *argument)
{
    sl_sleep_co(1);
}
