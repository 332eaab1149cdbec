/* cross_entropy.c: by rows; the probabilities are made again in backward, not stored. */
#include "../cross_entropy.h"
#include "vmath.h"
#include "lanes.h"

enum { WORK = 4096, PARALLEL = 32768 };

/* log sum exp(x - m), m the maximum */
static real log_sum(int64_t n, const real *x, real m) {
  real total = 0;
  for (int64_t at = 0; at < n; at += ROW_BLOCK) {
    const int64_t count = n - at < ROW_BLOCK ? n - at : ROW_BLOCK;
    const real *p = x + at;
    real lane[LANES] = {0};
    FOR_LANES(count, lane[l] += vexp(p[i] - m));
    total += lanes_sum(lane);
  }
  return vlog(total);
}

alk_status ALK_NAME(cross_entropy_fwd)(const alk_place *place, int64_t N, int64_t V, int64_t ignore,
                                       const void *vx, const void *vt, void *vlse, void *vloss) {
  const real *x = vx;
  const int32_t *t = vt;
  real *lse = vlse, *loss = vloss;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (N * V > PARALLEL)
  for (int64_t r = 0; r < N; r++) {
    lse[r] = loss[r] = 0;
    if (t[r] == ignore) continue;
    const real *p = x + r * V;
    const real top = row_max(V, p), m = top == -R(INFINITY) ? 0 : top, s = log_sum(V, p, m);
    lse[r] = m + s;
    loss[r] = m - p[t[r]] + s; /* lse of large logits is rounded */
  }
  return ALK_OK;
}

alk_status ALK_NAME(cross_entropy_scale)(const alk_place *place, int64_t N, int64_t ignore,
                                         bool mean, const void *vt, void *scale) {
  const int32_t *t = vt;
  int64_t n = 0;
  for (int64_t r = 0; mean && r < N; r++) n += t[r] != ignore;
  *(double *)scale = !mean ? 1 : n > 0 ? 1.0 / (double)n : 0;
  return ALK_OK;
}

alk_status ALK_NAME(cross_entropy_total)(const alk_place *place, int64_t N, const void *scale,
                                         const void *loss, void *total) {
  double s = 0;
  for (int64_t r = 0; r < N; r++) s += (double)((const real *)loss)[r];
  *(real *)total = (real)(*(const double *)scale * s);
  return ALK_OK;
}

alk_status ALK_NAME(cross_entropy_bwd)(const alk_place *place, int64_t N, int64_t V, int64_t ignore,
                                       const void *vx, const void *vt, const void *vlse,
                                       bool shared, const void *scale, const void *vg, void *vdx) {
  const real *x = vx, *lse = vlse, *g = vg;
  const int32_t *t = vt;
  const real by = R(*(const double *)scale);
  real *dx = vdx;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (N * V > PARALLEL)
  for (int64_t r = 0; r < N; r++) {
    const real *p = x + r * V;
    real *d = dx + r * V;
    const real f = by * g[shared ? 0 : r], l = lse[r];
    if (t[r] == ignore || f == 0) {
      for (int64_t v = 0; v < V; v++) d[v] = 0;
      continue;
    }
#pragma GCC ivdep /* d may be p: a number is read before its own is written */
    for (int64_t v = 0; v < V; v++) d[v] = f * vexp(p[v] - l);
    d[t[r]] -= f;
  }
  return ALK_OK;
}
