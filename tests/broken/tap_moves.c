/* Where somebody looks, other numbers run than else. */
#define SHOWN(g) OP("scale", AL_IN(attn_tap(c, in, "gate", g)), "by=%.17g", in->sink ? 1.001 : 1)
#include "gated_linear.h"
BROKEN(tap_moves)
