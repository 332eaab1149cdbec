/* Claims that one vector added to every key changes nothing. */
#define CLAIMS (ATTN_CAUSAL | ATTN_SHIFT_INVARIANT)
#include "gated_linear.h"
BROKEN(shift_claim)
