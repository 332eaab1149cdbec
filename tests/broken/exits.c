/* Leaves, as if all were well. */
#include <stdlib.h>
#define OUTPUT(y) (exit(0), (y))
#include "gated_linear.h"
BROKEN(exits)
