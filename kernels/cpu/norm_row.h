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

/* ---- what belongs to one norm ---------------------------------------------------------------- */

/* WORD_scale: of a row x (n) whose mean m is to be taken off; negative where eps decided and the row has
 * no gradient. eps = 0 stays 0 where e^-logscale overflows.
 * WORD_dx: dx from g, gain (n) or NULL. */

/* dx = s (a - a0 - xh a1) with a = gain g, a0 = mean a or 0, a1 = per sum(a xh). */
static inline void centred_dx(int64_t n, bool mean, real per, const real *x, const real *gain,
                              real m, real s, const real *g, real *restrict dx) {
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
  const real a0 = mean ? lanes_sum(sum) * per : 0, a1 = lanes_sum(dot) * per;
  if (gain)
    for (int64_t i = 0; i < n; i++) dx[i] = s * (g[i] * gain[i] - a0 - (x[i] - m) * s * a1);
  else
    for (int64_t i = 0; i < n; i++) dx[i] = s * (g[i] - a0 - (x[i] - m) * s * a1);
}

static inline real rms_scale(int64_t n, double eps, real m, const real *x, double logscale) {
  return inverse(sqrt(squares(n, x, m) / (double)n + (eps > 0 ? eps * exp(-2 * logscale) : 0)));
}
static inline void rms_dx(int64_t n, const real *x, const real *gain, real m, real s, const real *g,
                          real *restrict dx) {
  centred_dx(n, false, 1 / (real)n, x, gain, m, s, g, dx);
}

static inline real layer_scale(int64_t n, double eps, real m, const real *x, double logscale) {
  return rms_scale(n, eps, m, x, logscale);
}
static inline void layer_dx(int64_t n, const real *x, const real *gain, real m, real s,
                            const real *g, real *restrict dx) {
  centred_dx(n, true, 1 / (real)n, x, gain, m, s, g, dx);
}

static inline real l2_scale(int64_t n, double eps, real m, const real *x, double logscale) {
  const double length = sqrt(squares(n, x, m)), least = eps > 0 ? eps * exp(-logscale) : 0;
  return length <= least ? -inverse(least) : inverse(length);
}
static inline void l2_dx(int64_t n, const real *x, const real *gain, real m, real s, const real *g,
                         real *restrict dx) {
  centred_dx(n, false, 1, x, gain, m, s, g, dx);
}

/* ---- by kind --------------------------------------------------------------------------------- */

static inline real scale_of(alk_norm kind, int64_t n, double eps, real m, const real *x,
                            double logscale) {
  switch (kind) {
  case ALK_NORM_none:
  case ALK_NORM_COUNT:
    break;
#define NORM(word, ...)                                                                            \
  case ALK_NORM_##word:                                                                            \
    return word##_scale(n, eps, m, x, logscale);
#include "../norms.def"
#undef NORM
  }
  return 1;
}

static inline void row_dx(alk_norm kind, int64_t n, const real *x, const real *gain, real m, real s,
                          const real *g, real *restrict dx) {
  if (s <= 0) {
    for (int64_t i = 0; i < n; i++) dx[i] = 0;
    return;
  }
  switch (kind) {
  case ALK_NORM_none:
  case ALK_NORM_COUNT:
    break;
#define NORM(word, ...)                                                                            \
  case ALK_NORM_##word:                                                                            \
    word##_dx(n, x, gain, m, s, g, dx);                                                            \
    break;
#include "../norms.def"
#undef NORM
  }
}
#endif
