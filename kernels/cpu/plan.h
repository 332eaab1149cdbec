/* plan.h: a spec of weights in the kernel's type, and what is done to a logit before f: rounding, cap,
 * clamp; and decay. */
#ifndef ALK_PLAN_H
#define ALK_PLAN_H
#include "../visible.h"
#include "vmath.h"

#define WEIGH_INLINE static inline __attribute__((always_inline))

enum { GROUP = 64 / sizeof(real) }; /* entries evaluated at once */

/* Keeps gcc from unrolling a group before it vectorises it. */
#define EACH_LANE _Pragma("omp simd") for (int l = 0; l < GROUP; l++)

/* More coefficients, or one that leaves f32, are summed in f64 in f32, too: below 0 the terms of a
 * long series cancel (exp cut at order 79 is 1e-9 of them at -10), and 1/34! is no number of f32.
 */
enum { FEW = 17 };

typedef struct plan { /* the spec in the kernel's type */
  bool round, cap, clamp;
  real softcap, limit;
  int n;     /* coefficients of the spec */
  int terms; /* of them, those that count: but for zeros at the end */
  bool wide; /* f32, but f is summed in f64 */
  real c[ALK_MAX_COEFFICIENTS], slope[ALK_MAX_COEFFICIENTS]; /* f and f' */
  double wide_c[ALK_MAX_COEFFICIENTS];
} plan;

static inline plan plan_of(const alk_weight_spec *spec) {
  plan p = {.round = spec->round,
            .cap = spec->softcap > 0,
            .clamp = spec->clamp < INFINITY,
            .softcap = (real)spec->softcap,
            .limit = (real)spec->clamp,
            .n = spec->n_coefficients};
  const double *by = spec->factors;
  for (int i = 0; i < p.n; i++) {
    const double c = spec->base[i] * (by ? by[i] : 1), size = c < 0 ? -c : c;
    if (c != 0) p.terms = i + 1;
    p.c[i] = (real)c, p.wide_c[i] = c;
    if (i > 0) p.slope[i - 1] = R(i) * p.c[i];
    p.wide |= c != 0 && !(size >= 0x1p-126 && size <= 0x1p126);
  }
  p.wide = sizeof(real) == 4 && (p.wide || p.terms > FEW);
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
#endif
