/* pointwise.h: contract of the pointwise kernels, expanded from pointwise.def. */
#ifndef ALK_POINTWISE_H
#define ALK_POINTWISE_H
#include "attn_slots.h"
#include "kernel.h"

/* y = op(x), n elements; p = the op's two parameters (may be NULL for an op without). */
ALK_KERNEL(pointwise_fwd, alk_pointwise op, int64_t n, const void *x, void *y, const double *p)
/* dx from g = dy; r = x or y, whichever the op's entry names (NULL for NONE and STRAIGHT). */
ALK_KERNEL(pointwise_bwd, alk_pointwise op, int64_t n, const void *r, const void *g, void *dx,
           const double *p)
#endif
