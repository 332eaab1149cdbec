/* The new numerator is also put into the state that was given. */
#define AFTER attn_state_put(c, (attn_state *)(uintptr_t)in->state, "numerator", next, NULL);
#include "gated_linear.h"
BROKEN(state_changed)
