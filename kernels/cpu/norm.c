/* norm.c: by rows, each short enough to stay in cache between its passes. */
#include "norm_row.h"
#include "reached.h"

enum { PARALLEL = 32768 };

alk_status ALK_NAME(norm_fwd)(const alk_place *place, alk_norm kind, int64_t N, int64_t n,
                              double eps, const void *vx, const void *vgain, const void *vbias,
                              const void *vlogscale, void *vy, void *vmean, void *vscale) {
  const real *x = vx, *gain = vgain, *bias = vbias, *logscale = vlogscale;
  real *y = vy, *mean = vmean, *scale = vscale;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (N * n > PARALLEL)
  for (int64_t r = 0; r < N; r++) {
    const real *p = x + r * n;
    real *q = y + r * n;
    const real m = mean ? R(total(n, p) / (double)n) : 0;
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
  return ALK_OK;
}

alk_status ALK_NAME(norm_bwd)(const alk_place *place, alk_norm kind, int64_t N, int64_t n,
                              const void *vx, const void *vgain, const void *vmean,
                              const void *vscale, const void *vg, void *vdx, void *vdgain,
                              void *vdbias) {
  const real *x = vx, *gain = vgain, *mean = vmean, *scale = vscale, *g = vg;
  const int64_t chunks = (N + ALK_NORM_ROWS - 1) / ALK_NORM_ROWS;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (N * n > PARALLEL)
  for (int64_t k = 0; k < chunks; k++) {
    real *dgain = vdgain ? (real *)vdgain + k * n : NULL,
         *dbias = vdbias ? (real *)vdbias + k * n : NULL;
    for (int64_t i = 0; dgain && i < n; i++) dgain[i] = 0;
    for (int64_t i = 0; dbias && i < n; i++) dbias[i] = 0;
    const int64_t last = (k + 1) * ALK_NORM_ROWS < N ? (k + 1) * ALK_NORM_ROWS : N;
    for (int64_t r = k * ALK_NORM_ROWS; r < last; r++) {
      const real *p = x + r * n, *q = g + r * n, m = mean ? mean[r] : 0;
      if (!reached(n, q)) {
        for (int64_t i = 0; vdx && i < n; i++) ((real *)vdx)[r * n + i] = 0;
        continue;
      }
      if (vdx) row_dx(kind, n, p, gain, m, scale[r], q, (real *)vdx + r * n);
      const real s = vabs(scale[r]);
      if (dgain)
        for (int64_t i = 0; i < n; i++) dgain[i] += q[i] * ((p[i] - m) * s);
      if (dbias)
        for (int64_t i = 0; i < n; i++) dbias[i] += q[i];
    }
  }
  return ALK_OK;
}
