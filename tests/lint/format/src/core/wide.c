/* Laid out by hand. */
int sl_wide( int a )
{
  return a ;
}
