/* core is no data path. */
void sl_core_copying(char *to, const char *from)
{
    memcpy(to, from, 4096);
}
