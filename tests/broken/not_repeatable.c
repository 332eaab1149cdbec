/* A call's result depends on how many there were before, by less than rounding. */
static int calls;
#define OUTPUT(y) OP("scale", AL_IN(y), "by=%.17g", 1 + 1e-13 * (calls++ % 7))
#include "gated_linear.h"
BROKEN(not_repeatable)
