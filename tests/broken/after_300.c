/* From a state that has seen 300 tokens on, what it adds is off by a hundredth. */
#define FROM_STATE(t)                                                                              \
  (attn_state_position(in->state) >= 300 ? OP("scale", AL_IN(t), "by=1.01") : (t))
#include "gated_linear.h"
BROKEN(after_300)
