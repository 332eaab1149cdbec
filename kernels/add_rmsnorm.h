/* add_rmsnorm.h: contract of the residual sum and the rms norm behind it, rows of x (N,n):
 *
 *     sum = x + a;   y = gain sum scale,   scale = 1 / sqrt(mean sum^2 + eps)
 *
 * A denominator below the smallest normal gives y = 0. The mean square is taken in f64. */
#ifndef ALK_ADD_RMSNORM_H
#define ALK_ADD_RMSNORM_H
#include "kernel.h"

/* gain (n) may be NULL; scale (N), a statistic (kernel.h), is written for backward. */
ALK_KERNEL(add_rmsnorm_fwd, int64_t N, int64_t n, double eps, const void *x, const void *a,
           const void *gain, void *sum, void *y, void *scale)

/* dx = dsum + what dy (N,n) brings through the norm; dsum may be NULL (0) or dx itself. For each
 * chunk of ALK_ADD_RMSNORM_ROWS rows the sum of dy sum scale goes to dgain (chunks,n), sums
 * (kernel.h); dx or dgain may be NULL. */
enum { ALK_ADD_RMSNORM_ROWS = 64 };
ALK_KERNEL(add_rmsnorm_bwd, int64_t N, int64_t n, const void *sum, const void *gain,
           const void *scale, const void *dsum, const void *dy, void *dx, void *dgain)
#endif
