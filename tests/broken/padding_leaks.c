/* lengths are not read: what stands behind a row's end is seen. */
#define LENGTHS ((void)in, (al_tensor *)NULL)
#include "gated_linear.h"
BROKEN(padding_leaks)
