/* pointwise.c: the entries of pointwise.def as functions of one element, then as loops. */
#include "../pointwise.h"
#include "reached.h"
#include "vmath.h"

#define UNUSED __attribute__((unused))

static inline real erf_slope(real x) {
  return R(1.1283791670955126) * vgauss(x * R(1.4142135623730951));
}
static inline real silu_slope(real x) {
  const real s = vsigmoid(x);
  return s * (1 + x * vsigmoid(-x));
}
static inline real gelu_slope(real x) { return vphi(x) + x * R(0.39894228040143268) * vgauss(x); }
/* gelu_new is x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): the same as with tanh, without its
 * cancellation for x < 0 */
static inline real gelu_arg(real x) {
  return R(1.5957691216057308) * (x + R(0.044715) * x * x * x);
}
static inline real gelu_new_slope(real x) {
  const real u = gelu_arg(x), s = vsigmoid(u);
  return s * (1 + x * vsigmoid(-u) * R(1.5957691216057308) * (1 + R(0.134145) * x * x));
}

#define POINTWISE(name, value, gradient, ...)                                                      \
  static inline real name##_value(real x, real a UNUSED, real b UNUSED) { return value; }          \
  static inline real name##_gradient(real g UNUSED, real x UNUSED, real y UNUSED, real a UNUSED,   \
                                     real b UNUSED) {                                              \
    return gradient;                                                                               \
  }                                                                                                \
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

alk_status ALK_NAME(pointwise_fwd)(const alk_place *place, int op, int64_t n, const void *x,
                                   void *y, const double *p) {
  const real a = p ? R(p[0]) : 0, b = p ? R(p[1]) : 0;
#pragma omp parallel for num_threads(place->threads) schedule(static) if (n > PARALLEL)
  for (int64_t i = 0; i < n; i += BLOCK)
    ops[op].fwd(n - i < BLOCK ? n - i : BLOCK, (const real *)x + i, (real *)y + i, a, b);
  return ALK_OK;
}

alk_status ALK_NAME(pointwise_bwd)(const alk_place *place, int op, int64_t n, const void *r,
                                   const void *g, void *dx, const double *p) {
  const real a = p ? R(p[0]) : 0, b = p ? R(p[1]) : 0;
  const real *read = r ? r : g; /* an op that reads nothing drops the loads */
#pragma omp parallel for num_threads(place->threads) schedule(static) if (n > PARALLEL)
  for (int64_t i = 0; i < n; i += BLOCK)
    ops[op].bwd(n - i < BLOCK ? n - i : BLOCK, read + i, (const real *)g + i, (real *)dx + i, a, b);
  return ALK_OK;
}
