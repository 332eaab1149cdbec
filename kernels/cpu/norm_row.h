/* norm_row.h: one row of a norm, forward and backward (contract and formulas: ../norm.h). */
#ifndef ALK_NORM_ROW_H
#define ALK_NORM_ROW_H
#include "../norm.h"
#include "vmath.h"
#include "lanes.h"
#include <float.h>

/* sum of (x - m)^2 */
static inline double squares(int64_t n, const real *x, real m) {
  double lane[LANES] = {0};
  FOR_LANES(n, {
    const double d = (double)(x[i] - m);
    lane[l] += d * d;
  });
  return lanes_sum_f64(lane);
}

static inline double total(int64_t n, const real *x) {
  double lane[LANES] = {0};
  FOR_LANES(n, lane[l] += (double)x[i]);
  return lanes_sum_f64(lane);
}

static inline real inverse(double d) {
#ifdef ALK_IS_double
  const double least = DBL_MIN;
#else
  const double least = (double)FLT_MIN;
#endif
  return d < least ? 0 : R(1 / d);
}

static inline real scale_of(int kind, int64_t n, double eps, real m, const real *x,
                            double logscale) {
  const double q = squares(n, x, m);
  /* eps = 0 stays 0 where the exponential overflows */
  if (kind == ALK_NORM_L2) {
    const double length = sqrt(q), least = eps > 0 ? eps * exp(-logscale) : 0;
    return length <= least ? -inverse(least) : inverse(length);
  }
  return inverse(sqrt(q / (double)n + (eps > 0 ? eps * exp(-2 * logscale) : 0)));
}

/* dx = s (a - mean a - xh mean(a xh)) with a = gain g; rms drops the first mean, l2 has sums. */
static inline void row_dx(int kind, int64_t n, const real *x, const real *gain, real m, real s,
                          const real *g, real *restrict dx) {
  if (s <= 0) {
    for (int64_t i = 0; i < n; i++) dx[i] = 0;
    return;
  }
  real sum[LANES] = {0}, dot[LANES] = {0};
  if (gain)
    FOR_LANES(n, {
      const real a = g[i] * gain[i];
      sum[l] += a;
      dot[l] += a * ((x[i] - m) * s);
    });
  else
    FOR_LANES(n, {
      sum[l] += g[i];
      dot[l] += g[i] * ((x[i] - m) * s);
    });
  const real per = kind == ALK_NORM_L2 ? 1 : 1 / (real)n;
  const real a0 = kind == ALK_NORM_LAYER ? lanes_sum(sum) * per : 0, a1 = lanes_sum(dot) * per;
  if (gain)
    for (int64_t i = 0; i < n; i++) dx[i] = s * (g[i] * gain[i] - a0 - (x[i] - m) * s * a1);
  else
    for (int64_t i = 0; i < n; i++) dx[i] = s * (g[i] - a0 - (x[i] - m) * s * a1);
}
#endif
