/* cumsum.h: contract of the running sum along the middle axis of x (O,R,I). */
#ifndef ALK_CUMSUM_H
#define ALK_CUMSUM_H
#include "kernel.h"

/* y_r = x_0 + .. + x_r, or x_r + .. + x_(R-1) if `reverse`; accumulated in f64. */
ALK_KERNEL(cumsum, bool reverse, int64_t O, int64_t R, int64_t I, const void *x, void *y)
#endif
