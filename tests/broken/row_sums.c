/* Weights that do not sum to one, but claim to. */
#define GATE(g) OP("scale", AL_IN(g), "by=0 add=1")
#define DENOMINATOR(W) OP("scale", AL_IN(W), "add=0.01")
#define CLAIMS (ATTN_CAUSAL | ATTN_ROWSUM1)
#include "gated_linear.h"
BROKEN(row_sums)
