/* Copies with and without an excuse. */
void sl_copying(char *to, const char *from)
{
    memcpy(to, from, 4096);
    memmove(to, from, 64); /* header: of the frame, 64 bytes */
    memcpy(to, from,
           64); /* header: a record of 64 bytes */
    memcpy(to, from, 64); /* small */
    memmove(to, from, 64); /* header: */
    __builtin_memcpy(to, from, 9);
    sl_copy(counters, SL_COPY_STREAM, to, from, 4096);
    /* memcpy(to, from, 1) in a comment */
}
