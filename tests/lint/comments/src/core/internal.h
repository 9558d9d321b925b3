/* Not public. */
int sl_internal(int a);

