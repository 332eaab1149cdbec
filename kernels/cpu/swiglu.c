/* swiglu.c: element by element, in blocks that threads share out. */
#include "../swiglu.h"
#include "reached.h"
#include "vmath.h"

enum { BLOCK = 4096, PARALLEL = 32768 };

alk_status ALK_NAME(swiglu_fwd)(const alk_place *place, int64_t n, const void *va, const void *vb,
                                void *vy) {
  const real *a = va, *b = vb;
  real *restrict y = vy;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (n > PARALLEL)
  for (int64_t i0 = 0; i0 < n; i0 += BLOCK)
    for (int64_t i = i0; i < (n - i0 < BLOCK ? n : i0 + BLOCK); i++)
      y[i] = a[i] * vsigmoid(a[i]) * b[i];
  return ALK_OK;
}

/* d silu(x) / dx = s (1 + x (1 - s)), s = sigmoid(x), t = silu(x); 1 - s without cancellation. */
static inline real slope(real x, real *t) {
  const real e = vexp(-vabs(x)), r = 1 / (1 + e), s = x < 0 ? e * r : r, rest = x < 0 ? r : e * r;
  *t = x * s;
  return s + *t * rest;
}

/* All of an element is read before it is written: da or db may be dy. */
static void both(int64_t n, const real *a, const real *b, const real *dy, real *da, real *db) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    real t;
    const real g = dy[i], u = b[i], d = slope(a[i], &t);
    da[i] = PASSED(g, g * u * d);
    db[i] = PASSED(g, g * t);
  }
}

static void first(int64_t n, const real *a, const real *b, const real *dy, real *da) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    real t;
    const real g = dy[i], d = slope(a[i], &t);
    da[i] = PASSED(g, g * b[i] * d);
  }
}

static void second(int64_t n, const real *a, const real *dy, real *db) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    const real g = dy[i];
    db[i] = PASSED(g, g * (a[i] * vsigmoid(a[i])));
  }
}

alk_status ALK_NAME(swiglu_bwd)(const alk_place *place, int64_t n, const void *va, const void *vb,
                                const void *vdy, void *vda, void *vdb) {
  const real *a = va, *b = vb, *dy = vdy;
  real *da = vda, *db = vdb;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (n > PARALLEL)
  for (int64_t i = 0; i < n; i += BLOCK) {
    const int64_t m = n - i < BLOCK ? n - i : BLOCK;
    if (da && db) both(m, a + i, b + i, dy + i, da + i, db + i);
    else if (da) first(m, a + i, b + i, dy + i, da + i);
    else if (db) second(m, a + i, dy + i, db + i);
  }
  return ALK_OK;
}
