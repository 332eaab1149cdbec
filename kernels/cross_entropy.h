/* cross_entropy.h: contract of the cross entropy of logits x (N,V) with targets t (N). */
#ifndef ALK_CROSS_ENTROPY_H
#define ALK_CROSS_ENTROPY_H
#include "kernel.h"

/* lse (N) = log sum exp(x); loss (N) = lse - x[t]; both 0 in rows with t = ignore. Other t must lie
 * in 0..V-1. */
ALK_KERNEL(cross_entropy_fwd, int64_t N, int64_t V, int64_t ignore, const void *x, const int32_t *t,
           void *lse, void *loss)
/* *total = scale * sum of the N losses, summed in order in f64 */
ALK_KERNEL(cross_entropy_total, int64_t N, double scale, const void *loss, void *total)
/* dx = scale g (exp(x - lse) - [v = t]), 0 in ignored rows; g (N), or one number if `shared`. */
ALK_KERNEL(cross_entropy_bwd, int64_t N, int64_t V, int64_t ignore, const void *x, const int32_t *t,
           const void *lse, bool shared, double scale, const void *g, void *dx)
#endif
