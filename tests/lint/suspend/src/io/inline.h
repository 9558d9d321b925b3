/* Inline functions count too. */
static inline void header_plain(struct sl_wait *wait)
{
    sl_wait_co(wait);
}
int sl_declared_co(struct sl_wait *wait);
