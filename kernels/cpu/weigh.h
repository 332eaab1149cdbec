/* weigh.h: f and f' on a group of entries: what the composed and the fused weights share. */
#ifndef ALK_WEIGH_H
#define ALK_WEIGH_H
#include "plan.h"
#include "reached.h"

/* y = sum of the first n of c_i x^i. (Four chains by powers of x^4 were slower: 1.4x the step.) */
WEIGH_INLINE void series(const real *c, int n, const real *x, real *y) {
  EACH_LANE y[l] = n > 0 ? c[n - 1] : 0;
  for (int i = n - 2; i >= 0; i--) EACH_LANE y[l] = y[l] * x[l] + c[i];
}

/* Groups that wide_row takes at once: each term of one waits for the term before it, and eight
 * vectors hide that. */
#if defined(__AVX512F__)
enum { AT_ONCE = 4 };
#else
enum { AT_ONCE = 1 };
#endif

/* f of some entries in f64, and with `slope` f'. */
WEIGH_INLINE void wide_lanes(const plan *p, const int lanes, const bool slope, const real *x,
                             real *f, real *df) {
  double z[AT_ONCE * GROUP], y[AT_ONCE * GROUP], d[AT_ONCE * GROUP];
#pragma omp simd
  for (int l = 0; l < lanes; l++) {
    z[l] = (double)x[l];
    y[l] = p->terms > 0 ? p->wide_c[p->terms - 1] : 0;
    d[l] = 0;
  }
  for (int i = p->terms - 2; i >= 0; i--) {
#pragma omp simd
    for (int l = 0; l < lanes; l++) {
      if (slope) d[l] = d[l] * z[l] + y[l];
      y[l] = y[l] * z[l] + p->wide_c[i];
    }
  }
#pragma omp simd
  for (int l = 0; l < lanes; l++) {
    f[l] = (real)y[l];
    if (slope) df[l] = (real)d[l];
  }
}

/* f, and f' where df is not NULL, of n entries in whole groups; f may be x. */
static inline void wide_row(const plan *p, int64_t n, const real *x, real *f, real *df) {
  enum { BOTH = AT_ONCE > 1 ? AT_ONCE / 2 : 1 };
  int64_t j = 0;
  if (df)
    for (; j + (BOTH - 1) * GROUP < n; j += BOTH * GROUP)
      wide_lanes(p, BOTH * GROUP, true, x + j, f + j, df + j);
  else
    for (; j + (AT_ONCE - 1) * GROUP < n; j += AT_ONCE * GROUP)
      wide_lanes(p, AT_ONCE * GROUP, false, x + j, f + j, NULL);
  for (; j < n; j += GROUP)
    if (df) wide_lanes(p, GROUP, true, x + j, f + j, df + j);
    else wide_lanes(p, GROUP, false, x + j, f + j, NULL);
}

WEIGH_INLINE void polynomial(const plan *p, const real *x, real *y) {
  if (p->wide) wide_row(p, GROUP, x, y, NULL);
  else series(p->c, p->terms, x, y);
}
WEIGH_INLINE void polynomial_slope(const plan *p, const real *x, real *dy) {
  real y[GROUP];
  if (p->wide) wide_row(p, GROUP, x, y, dy);
  else series(p->slope, p->terms - 1, x, dy);
}

/* Of sums of A dw (s / 16)^n, for which powers of s keep within f64, the gradients of k_n. */
enum { POWER_UNIT = 16 };
static inline void finish_powers(const plan *p, const double *base, double *sums) {
  double power = 1;
  for (int n = 0; n < p->n; n++, power *= POWER_UNIT)
    sums[n] = base[n] != 0 ? sums[n] * (base[n] * power) : 0;
}

/* Entries of one group; e is read with decay only. */
WEIGH_INLINE void weigh(const plan *p, const alk_weight f, const bool decay, const real *s,
                        const real *e, real m, real *w) {
  real x[GROUP], y[GROUP];
  cap(p, s, x);
  clamp(p, x);
  switch (f) {
  case ALK_WEIGHT_EXP:
    EACH_LANE w[l] = vexp(decay ? x[l] + e[l] - m : x[l] - m);
    break;
  case ALK_WEIGHT_COSH: /* two exponentials: cosh alone would overflow */
    EACH_LANE {
      const real a = vabs(x[l]), d = decay ? e[l] : 0;
      w[l] = R(0.5) * (vexp(a + d - m) + vexp(d - a - m));
    }
    break;
  case ALK_WEIGHT_POLYNOMIAL:
    polynomial(p, x, y);
    EACH_LANE w[l] = decay ? y[l] * vexp(e[l]) : y[l];
    break;
  }
}

/* w, and df = A f'(y), of one group; y is s' after the clamp. */
WEIGH_INLINE void weigh_slope(const plan *p, const alk_weight f, const bool decay, const real *y,
                              const real *e, real m, real *w, real *df) {
  switch (f) {
  case ALK_WEIGHT_EXP:
    EACH_LANE w[l] = vexp(decay ? y[l] + e[l] - m : y[l] - m);
    EACH_LANE df[l] = w[l];
    break;
  case ALK_WEIGHT_COSH:
    EACH_LANE {
      const real a = vabs(y[l]), d = decay ? e[l] : 0, up = vexp(a + d - m), down = vexp(d - a - m);
      w[l] = R(0.5) * (up + down);
      df[l] = R(0.5) * (y[l] < 0 ? down - up : up - down);
    }
    break;
  case ALK_WEIGHT_POLYNOMIAL:
    polynomial(p, y, w);
    polynomial_slope(p, y, df);
    if (decay) EACH_LANE {
        const real A = vexp(e[l]);
        w[l] *= A;
        df[l] *= A;
      }
    break;
  }
}

/* g f'(y) of one group, of a w that is known: exp' = exp, cosh' = cosh tanh. A g of 0 stays 0. */
WEIGH_INLINE void slope_of_weights(const plan *p, const alk_weight f, const real *y, const real *w,
                                   const real *g, real *out) {
  real d[GROUP];
  switch (f) {
  case ALK_WEIGHT_EXP:
    EACH_LANE out[l] = PASSED(g[l], w[l] * g[l]);
    break;
  case ALK_WEIGHT_COSH:
    EACH_LANE out[l] = PASSED(g[l], w[l] * vtanh(y[l]) * g[l]);
    break;
  case ALK_WEIGHT_POLYNOMIAL:
    polynomial_slope(p, y, d);
    EACH_LANE out[l] = PASSED(g[l], g[l] * d[l]);
    break;
  }
}
#endif
