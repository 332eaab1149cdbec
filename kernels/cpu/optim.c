/* optim.c: AdamW and SGD updates, the sum of squares. */
#include "../optim.h"
#include <math.h>

typedef ALK_REAL real;
#ifdef ALK_IS_float
#define ROOT(x) __builtin_sqrtf(x) /* one instruction: errno is off in the build */
#else
#define ROOT(x) sqrt(x)
#endif

enum { BLOCK = 4096 };

double ALK_NAME(sum_squares)(int64_t n, const void *xv) {
  const real *x = xv;
  double total = 0;
  for (int64_t b = 0; b < n; b += BLOCK) {
    const int64_t end = b + BLOCK < n ? b + BLOCK : n;
    double lane[8] = {0};
    int64_t i = b;
    for (; i + 8 <= end; i += 8)
      for (int l = 0; l < 8; l++) lane[l] += (double)x[i + l] * (double)x[i + l];
    for (; i < end; i++) lane[0] += (double)x[i] * (double)x[i];
    total += ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
  }
  return total;
}

void ALK_NAME(adamw)(int64_t n, const alk_optim_step *s, void *pv, const void *gv, void *mv, void *vv) {
  real *p = pv, *m = mv, *v = vv;
  const real *g = gv;
  const real b1 = (real)s->beta1, b2 = (real)s->beta2, a1 = (real)(1 - s->beta1), a2 = (real)(1 - s->beta2);
  const real scale = (real)s->scale, shrink = (real)(1 - s->lr * s->decay), rate = (real)(s->lr / s->correct1);
  const real root = (real)(1 / s->correct2), eps = (real)s->eps;
#pragma omp parallel for simd schedule(static) if (n > 32768)
  for (int64_t i = 0; i < n; i++) {
    const real d = scale * g[i];
    m[i] = b1 * m[i] + a1 * d;
    v[i] = b2 * v[i] + a2 * d * d;
    p[i] = shrink * p[i] - rate * m[i] / (ROOT(v[i] * root) + eps);
  }
}

void ALK_NAME(sgd)(int64_t n, const alk_optim_step *s, void *pv, const void *gv, void *mv) {
  real *p = pv, *m = mv;
  const real *g = gv;
  const real mu = (real)s->momentum, scale = (real)s->scale, rate = (real)s->lr, shrink = (real)(1 - s->lr * s->decay);
#pragma omp parallel for simd schedule(static) if (n > 32768)
  for (int64_t i = 0; i < n; i++) {
    m[i] = mu * m[i] + scale * g[i];
    p[i] = shrink * p[i] - rate * m[i];
  }
}
