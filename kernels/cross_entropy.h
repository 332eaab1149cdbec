/* cross_entropy.h: contract of the cross entropy of logits x (N,V) with targets t (N). */
#ifndef ALK_CROSS_ENTROPY_H
#define ALK_CROSS_ENTROPY_H
#include "kernel.h"

/* lse and losses, their sum and its gradient are statistics (kernel.h).
 * lse (N) = log sum exp(x); loss (N) = lse - x[t]; both 0 in rows with t = ignore. Other t must lie
 * in 0..V-1. */
ALK_KERNEL(cross_entropy_fwd, int64_t N, int64_t V, int64_t ignore, const void *x, const void *t,
           void *lse, void *loss)
/* *scale = 1, or with `mean` 1 / the number of rows that count, 0 without any. */
ALK_KERNEL(cross_entropy_scale, int64_t N, int64_t ignore, bool mean, const void *t, void *scale)
/* *total = *scale * sum of the N losses, summed in order in f64 */
ALK_KERNEL(cross_entropy_total, int64_t N, const void *scale, const void *loss, void *total)
/* dx = *scale g (exp(x - lse) - [v = t]), 0 in ignored rows; g (N), or one number if `shared`.
 * dx may be x. */
ALK_KERNEL(cross_entropy_bwd, int64_t N, int64_t V, int64_t ignore, const void *x, const void *t,
           const void *lse, bool shared, const void *scale, const void *g, void *dx)
#endif
