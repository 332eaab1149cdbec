/* functions.h: the entries of ../pointwise.def as functions of one number, for loops to take in:
 * NAME_value(x, a, b), and NAME_gradient(g, x, y, a, b), which reads x or y as its entry says. */
#ifndef ALK_CPU_FUNCTIONS_H
#define ALK_CPU_FUNCTIONS_H
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
  }
#include "../pointwise.def"
#undef POINTWISE
#endif
