/* The gate is squared, and half of its gradient lost: one factor is a copy of numbers. */
#define GATE(g) OP("mul", AL_IN(g, numbers(c, g, false)), "")
#include "gated_linear.h"
BROKEN(gate_gradient)
