/* softmax.h: contract of softmax and its logarithm over the middle axis of x (O,R,I). */
#ifndef ALK_SOFTMAX_H
#define ALK_SOFTMAX_H
#include "kernel.h"

/* y = exp(x - m) / sum exp(x - m), m the maximum; log: y = x - m - log sum exp(x - m). Where all of
 * x is -inf, y is 0 (-inf when log). */
ALK_KERNEL(softmax_fwd, bool log, int64_t O, int64_t R, int64_t I, const void *x, void *y)
/* dx = y (g - sum y g); log: dx = g - exp(y) sum g. */
ALK_KERNEL(softmax_bwd, bool log, int64_t O, int64_t R, int64_t I, const void *y, const void *g,
           void *dx)
#endif
