/* The state that a call returns does not know what it was made of: no gradient goes back. */
#define CARRY(t) numbers(c, t, false)
#include "gated_linear.h"
BROKEN(history_cut)
