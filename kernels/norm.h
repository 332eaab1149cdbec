/* norm.h: contract of the norms over the last axis of x (N,n).
 *
 *     xh = (x - mean) scale          mean = 0 but for norms that take it off (norms.def)
 *     rms    scale = 1 / sqrt(mean x^2 + E)          layer  the same of x - mean
 *     l2     scale = 1 / max(||x||, E)
 *     y = gain xh + bias
 *
 * With logscale L (N) the row stands for x e^L: E = eps e^(-2L), for l2 eps e^(-L). A denominator
 * below the smallest normal gives xh = 0. Statistics are taken in f64, so no square overflows. */
#ifndef ALK_NORM_H
#define ALK_NORM_H
#include "attn_slots.h"
#include "kernel.h"

/* gain, bias (n) and logscale (N) may be NULL; logscale, mean and scale are statistics (kernel.h).
 * mean (N) is written where the norm takes it off, else NULL. scale (N) is negative where eps
 * decided an l2 norm: that row has no gradient. */
ALK_KERNEL(norm_fwd, alk_norm kind, int64_t N, int64_t n, double eps, const void *x,
           const void *gain, const void *bias, const void *logscale, void *y, void *mean,
           void *scale)

/* dx (N,n), and for each chunk of ALK_NORM_ROWS rows the sums of g xh and of g, (chunks,n) each,
 * whose column sums are dgain and dbias (sums: kernel.h). All three may be NULL. */
enum { ALK_NORM_ROWS = 64 };
ALK_KERNEL(norm_bwd, alk_norm kind, int64_t N, int64_t n, const void *x, const void *gain,
           const void *mean, const void *scale, const void *g, void *dx, void *dgain, void *dbias)
#endif
