/* The state has no denominator: rows are divided by the weights of their own call alone. */
#define NO_DENOMINATOR
#include "gated_linear.h"
BROKEN(no_denominator)
