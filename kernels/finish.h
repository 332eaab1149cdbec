/* finish.h: what follows the sums of attention, in one pass: factor, norm, gate.
 *
 *   z = f x;  o = g Norm(z)
 *
 * x (N,n), a row being `sub` heads of n / sub channels; f, g (N,sub). Norm as in norm.h, over the
 * whole row (kind none: z itself). */
#ifndef ALK_FINISH_H
#define ALK_FINISH_H
#include "norm.h"

typedef struct alk_finish {
  alk_norm kind;
  int64_t N, n, sub;
  double eps;
  const void *x, *factor, *gain, *bias, *logscale, *gate; /* all but x may be NULL */
  bool
      made; /* backward: x is what a norm that is homogeneous (norms.def) made, nothing else given */
} alk_finish;

/* factor, logscale, mean, scale and dfactor are statistics (kernel.h). o (N,n); mean and scale as
 * norm_fwd leaves them, (N), else NULL: mean where the norm takes it off, scale with any norm. o
 * may be x. */
ALK_ROOM(finish_fwd, const alk_finish *f)
ALK_KERNEL(finish_fwd, const alk_finish *f, void *o, void *mean, void *scale, void *scratch)
/* dx (N,n), dfactor and dgate (N,sub) where f and g are given; dgain and dbias as chunks of
 * ALK_NORM_ROWS rows (norm.h) or NULL. */
ALK_ROOM(finish_bwd, const alk_finish *f)
ALK_KERNEL(finish_bwd, const alk_finish *f, const void *mean, const void *scale, const void *d_o,
           void *dx, void *dfactor, void *dgate, void *dgain, void *dbias, void *scratch)
#endif
