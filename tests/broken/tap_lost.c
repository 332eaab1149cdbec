/* Declares a tap that it does not hand out. */
#define SHOWN(g) (g)
#include "gated_linear.h"
BROKEN(tap_lost)
