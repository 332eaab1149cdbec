/* locale.c: numbers in texts as the C locale has them.
 *
 * A host program may set any locale, and with it the sign that printf writes and strtod reads in a
 * number. The locale of the calling thread alone is exchanged: nothing else in the process sees it.
 */
#include "attnlab.h"
#include <locale.h>

al_plain al_plain_begin(void) {
  const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* glibc and musl: a constant */
  return (al_plain){c ? uselocale(c) : (locale_t)0};
}

void al_plain_end(al_plain *p) {
  if (p->host) freelocale(uselocale(p->host));
}
