/* norm.c: by rows, each short enough to stay in cache between its passes. */
#include "../norm.h"
#include "vmath.h"
#include "lanes.h"
#include <float.h>

enum { PARALLEL = 32768 };

/* sum of (x - m)^2 */
static double squares(int64_t n, const real *x, real m) {
  double lane[LANES] = {0};
  FOR_LANES(n, {
    const double d = (double)(x[i] - m);
    lane[l] += d * d;
  });
  return lanes_sum_f64(lane);
}

static double total(int64_t n, const real *x) {
  double lane[LANES] = {0};
  FOR_LANES(n, lane[l] += (double)x[i]);
  return lanes_sum_f64(lane);
}

static real inverse(double d) {
#ifdef ALK_IS_double
  const double least = DBL_MIN;
#else
  const double least = (double)FLT_MIN;
#endif
  return d < least ? 0 : R(1 / d);
}

static real scale_of(int kind, int64_t n, double eps, real m, const real *x, double logscale) {
  const double q = squares(n, x, m);
  /* eps = 0 stays 0 where the exponential overflows */
  if (kind == ALK_NORM_L2) {
    const double length = sqrt(q), least = eps > 0 ? eps * exp(-logscale) : 0;
    return length <= least ? -inverse(least) : inverse(length);
  }
  return inverse(sqrt(q / (double)n + (eps > 0 ? eps * exp(-2 * logscale) : 0)));
}

void ALK_NAME(norm_fwd)(int kind, int64_t N, int64_t n, double eps, const void *vx,
                        const void *vgain, const void *vbias, const void *vlogscale, void *vy,
                        void *vmean, void *vscale) {
  const real *x = vx, *gain = vgain, *bias = vbias, *logscale = vlogscale;
  real *y = vy, *mean = vmean, *scale = vscale;
#pragma omp parallel for schedule(static) if (N * n > PARALLEL)
  for (int64_t r = 0; r < N; r++) {
    const real *p = x + r * n;
    real *q = y + r * n;
    const real m = kind == ALK_NORM_LAYER ? R(total(n, p) / (double)n) : 0;
    const real signed_s = scale_of(kind, n, eps, m, p, logscale ? (double)logscale[r] : 0);
    const real s = vabs(signed_s);
    if (mean) mean[r] = m;
    scale[r] = signed_s;
    if (gain && bias)
      for (int64_t i = 0; i < n; i++) q[i] = (p[i] - m) * s * gain[i] + bias[i];
    else if (gain)
      for (int64_t i = 0; i < n; i++) q[i] = (p[i] - m) * s * gain[i];
    else if (bias)
      for (int64_t i = 0; i < n; i++) q[i] = (p[i] - m) * s + bias[i];
    else
      for (int64_t i = 0; i < n; i++) q[i] = (p[i] - m) * s;
  }
}

/* dx = s (a - mean a - xh mean(a xh)) with a = gain g; rms drops the first mean, l2 has sums. */
static void row_dx(int kind, int64_t n, const real *x, const real *gain, real m, real s,
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

void ALK_NAME(norm_bwd)(int kind, int64_t N, int64_t n, const void *vx, const void *vgain,
                        const void *vmean, const void *vscale, const void *vg, void *vdx,
                        void *vdgain, void *vdbias) {
  const real *x = vx, *gain = vgain, *mean = vmean, *scale = vscale, *g = vg;
  const int64_t chunks = (N + ALK_NORM_ROWS - 1) / ALK_NORM_ROWS;
#pragma omp parallel for schedule(static) if (N * n > PARALLEL)
  for (int64_t k = 0; k < chunks; k++) {
    real *dgain = vdgain ? (real *)vdgain + k * n : NULL,
         *dbias = vdbias ? (real *)vdbias + k * n : NULL;
    for (int64_t i = 0; dgain && i < n; i++) dgain[i] = 0;
    for (int64_t i = 0; dbias && i < n; i++) dbias[i] = 0;
    const int64_t last = (k + 1) * ALK_NORM_ROWS < N ? (k + 1) * ALK_NORM_ROWS : N;
    for (int64_t r = k * ALK_NORM_ROWS; r < last; r++) {
      const real *p = x + r * n, *q = g + r * n, m = mean ? mean[r] : 0;
      if (vdx) row_dx(kind, n, p, gain, m, scale[r], q, (real *)vdx + r * n);
      const real s = vabs(scale[r]);
      if (dgain)
        for (int64_t i = 0; i < n; i++) dgain[i] += q[i] * ((p[i] - m) * s);
      if (dbias)
        for (int64_t i = 0; i < n; i++) dbias[i] += q[i];
    }
  }
}
