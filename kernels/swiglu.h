/* swiglu.h: contract of y = silu(a) b, silu(a) = a sigmoid(a), over n elements. */
#ifndef ALK_SWIGLU_H
#define ALK_SWIGLU_H
#include "kernel.h"

ALK_KERNEL(swiglu_fwd, int64_t n, const void *a, const void *b, void *y)
/* da and db from dy; either may be NULL, and either may be dy itself. */
ALK_KERNEL(swiglu_bwd, int64_t n, const void *a, const void *b, const void *dy, void *da, void *db)
#endif
