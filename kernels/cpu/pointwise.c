/* pointwise.c: the entries of pointwise.def as functions of one element, then as loops. */
#include "../pointwise.h"
#include "reached.h"
#include "functions.h"

#define POINTWISE(name, ...)                                                                       \
  static void name##_fwd(int64_t n, const real *restrict x, real *restrict y, real a, real b) {    \
    for (int64_t i = 0; i < n; i++) y[i] = name##_value(x[i], a, b);                               \
  }                                                                                                \
  static void name##_bwd(int64_t n, const real *r, const real *g, real *restrict dx, real a,       \
                         real b) {                                                                 \
    for (int64_t i = 0; i < n; i++) dx[i] = PASSED(g[i], name##_gradient(g[i], r[i], r[i], a, b)); \
  }
#include "../pointwise.def"
#undef POINTWISE

typedef void (*fwd_fn)(int64_t, const real *restrict, real *restrict, real, real);
typedef void (*bwd_fn)(int64_t, const real *, const real *, real *restrict, real, real);
static const struct {
  fwd_fn fwd;
  bwd_fn bwd;
} ops[ALK_PW_COUNT] = {
#define POINTWISE(name, ...) [ALK_PW_##name] = {name##_fwd, name##_bwd},
#include "../pointwise.def"
#undef POINTWISE
};

enum { BLOCK = 4096, PARALLEL = 32768 };

alk_status ALK_NAME(pointwise_fwd)(const alk_place *place, alk_pointwise op, int64_t n,
                                   const void *x, void *y, const double *p) {
  const real a = p ? R(p[0]) : 0, b = p ? R(p[1]) : 0;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (n > PARALLEL)
  for (int64_t i = 0; i < n; i += BLOCK)
    ops[op].fwd(n - i < BLOCK ? n - i : BLOCK, (const real *)x + i, (real *)y + i, a, b);
  return ALK_OK;
}

alk_status ALK_NAME(pointwise_bwd)(const alk_place *place, alk_pointwise op, int64_t n,
                                   const void *r, const void *g, void *dx, const double *p) {
  const real a = p ? R(p[0]) : 0, b = p ? R(p[1]) : 0;
  const real *read = r ? r : g; /* an op that reads nothing drops the loads */
#pragma omp parallel for num_threads(place->threads) schedule(static) if (n > PARALLEL)
  for (int64_t i = 0; i < n; i += BLOCK)
    ops[op].bwd(n - i < BLOCK ? n - i : BLOCK, read + i, (const real *)g + i, (real *)dx + i, a, b);
  return ALK_OK;
}
