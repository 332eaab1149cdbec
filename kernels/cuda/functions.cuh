/* functions.cuh: the entries of ../pointwise.def as functions of one number on the card:
 * pw_NAME<real>::of(x, a, b) and ::slope(g, x, y, a, b). f32 functions are CUDA's own, at most 2
 * ulp off but for erfc and pow (4), without fast-math; all are exact at infinities and NaN. */
#ifndef ALK_CUDA_FUNCTIONS_CUH
#define ALK_CUDA_FUNCTIONS_CUH
#include "cuda.cuh"

#define BOTH(name, f64, f32)                                                                       \
  static __device__ inline double v##name(double x) { return f64(x); }                             \
  static __device__ inline float v##name(float x) { return f32(x); }
BOTH(abs, fabs, fabsf)
BOTH(sqrt, sqrt, sqrtf)
BOTH(exp, exp, expf)
BOTH(expm1, expm1, expm1f)
BOTH(log, log, logf)
BOTH(log1p, log1p, log1pf)
BOTH(tanh, tanh, tanhf)
BOTH(sinh, sinh, sinhf)
BOTH(cosh, cosh, coshf)
BOTH(erf, erf, erff)
#undef BOTH
static __device__ inline double vsin(double x) { return sin(x); }
static __device__ inline double vcos(double x) { return cos(x); }
/* as the CPU, whose reduction ends there */
static __device__ inline float vsin(float x) { return fabsf(x) < 0x1p24f ? sinf(x) : nanf(""); }
static __device__ inline float vcos(float x) { return fabsf(x) < 0x1p24f ? cosf(x) : nanf(""); }
static __device__ inline double vpow(double x, double y) { return pow(x, y); }
static __device__ inline float vpow(float x, float y) { return powf(x, y); }
static __device__ inline double vphi(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }
static __device__ inline float vphi(float x) { return normcdff(x); }
static __device__ inline double vgauss(double x) { return exp(-0.5 * x * x); }
/* the square is split into an exact part and the rest: its rounding would be multiplied by x^2 */
static __device__ inline float vgauss(float x) {
  const float a = fabsf(x) < 14.5f ? fabsf(x) : x != x ? x : 14.5f;
  const float s = a * a, rest = fmaf(a, a, -s);
  return expf(-0.5f * s) * (1 - 0.5f * rest);
}
template <class real> static __device__ inline real vsigmoid(real x) {
  const real e = vexp(-vabs(x));
  return (x < 0 ? e : 1) / (1 + e);
}
template <class real> static __device__ inline real vsoftplus(real x) {
  return (x > 0 ? x : 0) + vlog1p(vexp(-vabs(x)));
}
static __device__ inline float vbf16(float x) {
  const uint32_t i = __float_as_uint(x);
  return x == x ? __uint_as_float((i + 0x7fffU + (i >> 16 & 1)) & 0xffff0000U) : x;
}
static __device__ inline double vbf16(double x) { /* as cpu/vmath.h */
  uint64_t i = (uint64_t)__double_as_longlong(x);
  if (fabs(x) >= 0x1p-126 && x - x == 0)
    i = (i + 0xfffffffffffULL + (i >> 45 & 1)) & ~0x1fffffffffffULL;
  return vbf16((float)__longlong_as_double((long long)i));
}

#define R(c) ((real)(c))
template <class real> static __device__ inline real erf_slope(real x) {
  return R(1.1283791670955126) * vgauss(x * R(1.4142135623730951));
}
template <class real> static __device__ inline real silu_slope(real x) {
  return vsigmoid(x) * (1 + x * vsigmoid(-x));
}
template <class real> static __device__ inline real gelu_slope(real x) {
  return vphi(x) + x * R(0.39894228040143268) * vgauss(x);
}
template <class real> static __device__ inline real gelu_arg(real x) {
  return R(1.5957691216057308) * (x + R(0.044715) * x * x * x);
}
template <class real> static __device__ inline real gelu_new_slope(real x) {
  const real u = gelu_arg(x), s = vsigmoid(u);
  return s * (1 + x * vsigmoid(-u) * R(1.5957691216057308) * (1 + R(0.134145) * x * x));
}

#define POINTWISE(name, value, gradient, ...)                                                      \
  template <class real> struct pw_##name {                                                         \
    static __device__ inline real of(real x, real a, real b) { return value; }                     \
    static __device__ inline real slope(real g, real x, real y, real a, real b) {                  \
      return gradient;                                                                             \
    }                                                                                              \
  };
#include "../pointwise.def"
#undef POINTWISE
#endif
