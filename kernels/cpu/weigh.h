/* weigh.h: f and f' on a group of entries: what the composed and the fused weights share. */
#ifndef ALK_WEIGH_H
#define ALK_WEIGH_H
#include "../visible.h"
#include "vmath.h"

#define WEIGH_INLINE static inline __attribute__((always_inline))

enum { GROUP = 64 / sizeof(real) }; /* entries evaluated at once */

/* Keeps gcc from unrolling a group before it vectorises it. */
#define EACH_LANE _Pragma("omp simd") for (int l = 0; l < GROUP; l++)

typedef struct plan { /* the spec in the kernel's type */
  bool round, cap, clamp;
  real softcap, limit;
  int n;     /* coefficients of the spec */
  int terms; /* of them, those that count: trailing ones below the smallest normal are nothing */
  real c[ALK_MAX_COEFFICIENTS], slope[ALK_MAX_COEFFICIENTS]; /* f and f' */
} plan;

static inline plan plan_of(const alk_weight_spec *spec) {
  plan p = {.round = spec->round,
            .cap = spec->softcap > 0,
            .clamp = spec->clamp < INFINITY,
            .softcap = (real)spec->softcap,
            .limit = (real)spec->clamp,
            .n = spec->n_coefficients};
  for (int i = 0; i < p.n; i++) {
    p.c[i] = (real)spec->coefficients[i];
    if (vabs(p.c[i]) >= R(1.17549435e-38)) p.terms = i + 1;
  }
  for (int i = p.terms; i < p.n; i++) p.c[i] = 0;
  for (int i = 1; i < p.terms; i++) p.slope[i - 1] = R(i) * p.c[i];
  return p;
}

/* x = s rounded and capped: s' before the clamp, whose gradient needs to see it. */
WEIGH_INLINE void cap(const plan *p, const real *s, real *x) {
  EACH_LANE x[l] = s[l];
  if (p->round) EACH_LANE x[l] = vbf16(x[l]);
  if (p->cap) EACH_LANE x[l] = p->softcap * vtanh(x[l] / p->softcap);
}

WEIGH_INLINE void clamp(const plan *p, real *x) {
  if (p->clamp) EACH_LANE x[l] = x[l] > p->limit ? p->limit : x[l];
}

/* e = log A */
WEIGH_INLINE void log_decay(const double *sums, double top, real *e) {
  EACH_LANE e[l] = (real)(top - sums[l]);
}

/* y = sum of the first n of c_i x^i. (Four chains by powers of x^4 were slower: 1.4x the step.) */
WEIGH_INLINE void series(const real *c, int n, const real *x, real *y) {
  EACH_LANE y[l] = n > 0 ? c[n - 1] : 0;
  for (int i = n - 2; i >= 0; i--) EACH_LANE y[l] = y[l] * x[l] + c[i];
}

WEIGH_INLINE void polynomial(const plan *p, const real *x, real *y) {
  series(p->c, p->terms, x, y);
}
WEIGH_INLINE void polynomial_slope(const plan *p, const real *x, real *dy) {
  series(p->slope, p->terms - 1, x, dy);
}

/* Entries of one group; e is read with decay only. */
WEIGH_INLINE void weigh(const plan *p, const int f, const bool decay, const real *s, const real *e,
                        real m, real *w) {
  real x[GROUP];
  cap(p, s, x);
  clamp(p, x);
  if (f == ALK_WEIGHT_EXP) {
    EACH_LANE w[l] = vexp(decay ? x[l] + e[l] - m : x[l] - m);
  } else if (f == ALK_WEIGHT_COSH) { /* two exponentials: cosh alone would overflow */
    EACH_LANE {
      const real a = vabs(x[l]), d = decay ? e[l] : 0;
      w[l] = R(0.5) * (vexp(a + d - m) + vexp(d - a - m));
    }
  } else {
    real y[GROUP];
    polynomial(p, x, y);
    EACH_LANE w[l] = decay ? y[l] * vexp(e[l]) : y[l];
  }
}
#endif
