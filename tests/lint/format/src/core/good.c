/* Laid out as it should be. */
int sl_good(int a)
{
    return a;
}
