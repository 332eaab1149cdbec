/* add_rmsnorm.c: by rows; a row stays in L1 between its passes, so memory sees each array once. */
#include "../add_rmsnorm.h"
#include "vmath.h"
#include "lanes.h"
#include "reached.h"
#include <float.h>

enum { PARALLEL = 32768 };

static real scale_of(double square, int64_t n, double eps) {
#ifdef ALK_IS_double
  const double least = DBL_MIN;
#else
  const double least = (double)FLT_MIN;
#endif
  const double d = sqrt(square / (double)n + eps);
  return d < least ? 0 : R(1 / d);
}

alk_status ALK_NAME(add_rmsnorm_fwd)(const alk_place *place, int64_t N, int64_t n, double eps,
                                     const void *vx, const void *va, const void *vgain, void *vsum,
                                     void *vy, void *vscale) {
  const real *gain = vgain;
  real *scale = vscale;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (N * n > PARALLEL)
  for (int64_t r = 0; r < N; r++) {
    const real *x = (const real *)vx + r * n, *a = (const real *)va + r * n;
    real *restrict sum = (real *)vsum + r * n, *restrict y = (real *)vy + r * n;
    double lane[LANES] = {0};
    FOR_LANES(n, {
      const real t = x[i] + a[i];
      sum[i] = t;
      lane[l] += (double)t * (double)t;
    });
    const real s = scale[r] = scale_of(lanes_sum_f64(lane), n, eps);
    if (gain)
      for (int64_t i = 0; i < n; i++) y[i] = sum[i] * s * gain[i];
    else
      for (int64_t i = 0; i < n; i++) y[i] = sum[i] * s;
  }
  return ALK_OK;
}

/* dx = dsum + s (a - xh mean(a xh)), xh = sum s, a = gain dy */
static void row_dx(int64_t n, const real *sum, const real *gain, real s, const real *dsum,
                   const real *dy, real *dx) {
  real dot[LANES] = {0};
  if (gain) FOR_LANES(n, dot[l] += dy[i] * gain[i] * sum[i]);
  else FOR_LANES(n, dot[l] += dy[i] * sum[i]);
  const real back = lanes_sum(dot) * s * s * s / (real)n;
#define DX(first, factor) /* element by element: dx may be dsum */                                 \
  _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) dx[i] =                                     \
      (first) + (s * (factor)-sum[i] * back)
  if (gain && dsum) DX(dsum[i], dy[i] * gain[i]);
  else if (gain) DX(0, dy[i] * gain[i]);
  else if (dsum) DX(dsum[i], dy[i]);
  else DX(0, dy[i]);
#undef DX
}

alk_status ALK_NAME(add_rmsnorm_bwd)(const alk_place *place, int64_t N, int64_t n, const void *vsum,
                                     const void *vgain, const void *vscale, const void *vdsum,
                                     const void *vdy, void *vdx, void *vdgain) {
  const real *scale = vscale;
  const int64_t chunks = (N + ALK_ADD_RMSNORM_ROWS - 1) / ALK_ADD_RMSNORM_ROWS;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (N * n > PARALLEL)
  for (int64_t k = 0; k < chunks; k++) {
    real *restrict dgain = vdgain ? (real *)vdgain + k * n : NULL;
    for (int64_t i = 0; dgain && i < n; i++) dgain[i] = 0;
    const int64_t first = k * ALK_ADD_RMSNORM_ROWS, end = first + ALK_ADD_RMSNORM_ROWS;
    for (int64_t r = first; r < (end < N ? end : N); r++) {
      const real *sum = (const real *)vsum + r * n, *dy = (const real *)vdy + r * n, s = scale[r];
      const real *dsum = vdsum ? (const real *)vdsum + r * n : NULL;
      if (!reached(n, dy)) {
        for (int64_t i = 0; vdx && i < n; i++) ((real *)vdx)[r * n + i] = dsum ? dsum[i] : 0;
        continue;
      }
      if (dgain)
        for (int64_t i = 0; i < n; i++) dgain[i] += dy[i] * (sum[i] * s);
      if (vdx) row_dx(n, sum, vgain, s, dsum, dy, (real *)vdx + r * n);
    }
  }
  return ALK_OK;
}
