/* vmath.h: elementary functions for kernel loops, written so that gcc vectorises the loop around
 * them.
 *
 * f32: no libm call, no table, no branch: range reduction, one polynomial, selects. The polynomials
 * are minimax fits (Remez) on the ranges given beside them. Below is the worst error seen against
 * f64, in ulp of the result, over every 4999th bit pattern (vpow: 3 million random pairs): a
 * sample, not a bound for all floats. Infinities, NaN, overflow and denormal results are right.
 * f64: libm.
 *
 *     vexp     1.0   vlog    0.9   vtanh     2.2   vsinh  1.5   verf  2.4   vgauss  1.1
 *     vexpm1   1.4   vlog1p  0.9   vsigmoid  2.0   vcosh  1.5   vphi  4.7   vpow    0.8
 *     vsin     1.6   vcos    1.6   (|x| < 2^24; NaN from there on)
 */
#ifndef ALK_VMATH_H
#define ALK_VMATH_H
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef ALK_REAL real;
#define R(c) ((real)(c)) /* a constant of the kernel's type: 0.5 alone would widen a float loop */

#if defined(ALK_IS_double)

static inline double vabs(double x) { return fabs(x); }
static inline double vsqrt(double x) { return sqrt(x); }
static inline double vexp(double x) { return exp(x); }
static inline double vexpm1(double x) { return expm1(x); }
static inline double vlog(double x) { return log(x); }
static inline double vlog1p(double x) { return log1p(x); }
static inline double vtanh(double x) { return tanh(x); }
static inline double vsinh(double x) { return sinh(x); }
static inline double vcosh(double x) { return cosh(x); }
static inline double vsin(double x) { return sin(x); }
static inline double vcos(double x) { return cos(x); }
static inline double verf(double x) { return erf(x); }
static inline double vpow(double x, double y) { return pow(x, y); }
static inline double vsigmoid(double x) {
  const double e = exp(-fabs(x));
  return (x < 0 ? e : 1) / (1 + e);
}
static inline double vphi(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }
static inline double vgauss(double x) { return exp(-0.5 * x * x); }

/* Nearest bf16 (8 significant bits, ties to even). A normal number is rounded at 8 bits first: the
 * steps through f32 then only see to overflow. */
static inline double vbf16(double x) {
  uint64_t i;
  memcpy(&i, &x, sizeof i);
  if (fabs(x) >= 0x1p-126 && x - x == 0)
    i = (i + 0xfffffffffffULL + (i >> 45 & 1)) & ~0x1fffffffffffULL;
  memcpy(&x, &i, sizeof x);
  float f = (float)x;
  uint32_t j;
  memcpy(&j, &f, sizeof j);
  if (f - f == 0) j = (j + 0x7fffU + (j >> 16 & 1)) & 0xffff0000U;
  memcpy(&f, &j, sizeof f);
  return f;
}

#else

/* Bits are unsigned: garbage from a NaN may wrap, and is then multiplied by the NaN. */
static inline uint32_t bits_of(float x) {
  uint32_t i;
  memcpy(&i, &x, sizeof i);
  return i;
}
static inline float float_of(uint32_t i) {
  float x;
  memcpy(&x, &i, sizeof x);
  return x;
}
static inline float vabs(float x) { return __builtin_fabsf(x); }
static inline float vsqrt(float x) { return __builtin_sqrtf(x); }

/* ln 2 in two parts: n * LN2_HI is exact for |n| < 512 (15 bits), so the reduction needs no FMA. */
#define LOG2E 0x1.715476p+0f
#define LN2_HI 0x1.62e4p-1f
#define LN2_LO 0x1.7f7d1cp-20f
/* Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits. */
#define ROUNDER 0x1.8p23f

static inline int32_t round_bits(float x) {
  return (int32_t)(bits_of(x + ROUNDER) - bits_of(ROUNDER));
}
static inline float pow2(int32_t n) {
  return float_of(((uint32_t)n + 127) << 23);
} /* -126 <= n <= 127 */

/* 2^n y, n in -252..254: two factors, so that a denormal result is rounded once. */
static inline float times_pow2(float y, int32_t n) {
  const int32_t h = n >> 1;
  return y * pow2(h) * pow2((int32_t)((uint32_t)n - (uint32_t)h));
}

/* (e^r - 1 - r) / r^2, |r| <= 0.3475; its error moves e^r by 3e-9 */
static inline float exp_poly(float r) {
  return 4.999999404e-01f +
         r * (1.666651964e-01f +
              r * (4.166840389e-02f + r * (8.368898183e-03f + r * 1.381422160e-03f)));
}

/* 2^shift e^x, without overflow before the result overflows */
static inline float exp_shifted(float x, int32_t shift) {
  x = x < -105.0f ? -105.0f : x; /* e^-104 rounds to 0; selects let NaN pass */
  x = x > 90.0f ? 90.0f : x;
  const int32_t n = round_bits(x * LOG2E);
  const float m = (float)n;
  const float r = x - m * LN2_HI - m * LN2_LO;
  return times_pow2(1 + (r + r * r * exp_poly(r)), (int32_t)((uint32_t)n + (uint32_t)shift));
}
static inline float vexp(float x) { return exp_shifted(x, 0); }

static inline float vexpm1(float x) {
  x = x < -30.0f ? -30.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const int32_t n = round_bits(x * LOG2E);
  const float m = (float)n;
  const float r = x - m * LN2_HI - m * LN2_LO;
  const float q = r + r * r * exp_poly(r);
  const float half = float_of(((uint32_t)n + 126) << 23); /* 2^n / 2: 2^128 is no float */
  return 2 * (half * q + (half - 0.5f));
}

/* (log(1+f) - f + f^2/2) / f^3, f in sqrt(1/2)-1 .. sqrt(2)-1; moves the logarithm by 6e-9 */
static inline float log_poly(float f) {
  return 3.333333135e-01f +
         f * (-2.500083745e-01f +
              f * (2.000129223e-01f +
                   f * (-1.662276536e-01f +
                        f * (1.419969499e-01f +
                             f * (-1.316418201e-01f +
                                  f * (1.277911812e-01f + f * -7.646115869e-02f))))));
}

/* x = m 2^k with m in sqrt(1/2) .. sqrt(2), for a normal x > 0; 0x3f3504f3 = sqrt(1/2) */
static inline int32_t exponent(float x) { return (int32_t)(bits_of(x) - 0x3f3504f3U) >> 23; }
static inline float scaled_down(float x, int32_t k) {
  return float_of(bits_of(x) - ((uint32_t)k << 23));
}

/* log(x) + c for x > 0, |c| small */
static inline float log_plus(float x, float c) {
  const int small = x < 0x1p-126f;
  x = small ? x * 0x1p23f : x;
  const int32_t k = exponent(x);
  const float f = scaled_down(x, k) - 1;
  const float m = (float)(small ? k - 23 : k);
  return m * LN2_HI + (f + (m * LN2_LO + c + f * f * (f * log_poly(f) - 0.5f)));
}

/* y for a positive finite x, else what the logarithm of x is. */
static inline float log_edges(float x, float y) {
  y = x > 0x1.fffffep127f ? x : y;
  return x > 0 ? y : x == 0 ? -__builtin_inff() : __builtin_nanf("");
}
static inline float vlog(float x) { return log_edges(x, log_plus(x, 0)); }

static inline float vlog1p(float x) {
  const float u = 1 + x; /* the rounding error of this sum over u is the correction */
  const float lost = x > 1 ? 1 - (u - x) : x - (u - 1);
  return log_edges(u, log_plus(u, lost / u));
}

static inline float vtanh(float x) {
  const float a = vabs(x) > 10.0f ? 10.0f : vabs(x); /* 1 - tanh(10) < 2^-28; NaN stays */
  const float e = vexpm1(2 * a);
  return __builtin_copysignf(e / (e + 2), x);
}

static inline float vsigmoid(float x) {
  const float e = vexp(-vabs(x));
  return (x < 0 ? e : 1) / (1 + e);
}

static inline float vcosh(float x) {
  const float h = exp_shifted(vabs(x), -1);
  return h + 0.25f / h;
}

static inline float vsinh(float x) {
  const float a = vabs(x), z = a * a;
  const float h = exp_shifted(a, -1);
  /* the series for |x| < 1, where the difference cancels */
  const float p =
      1.666666716e-01f + z * (8.333348669e-03f + z * (1.983642869e-04f + z * 2.815698281e-06f));
  return __builtin_copysignf(a < 1 ? a + a * z * p : h - 0.25f / h, x);
}

/* sin(x + quarter pi/2), quarter 0 or 1. pi/2 in two parts: n times the first, of 29 bits, is exact
 * for |n| < 2^24, so half as many lanes in f64 reduce any |x| < 2^24 without a loss. */
static inline float sine(float x, int32_t quarter) {
  const int far = !(vabs(x) < 0x1p24f);
  const double w = far ? 0 : (double)x;
  const double n = (w * 0x1.45f306dc9c883p-1 + 0x1.8p52) - 0x1.8p52;
  const float r = (float)((w - n * 0x1.921fb54p+0) - n * 0x1.10b4611a62633p-30), z = r * r;
  const int32_t q = (int32_t)n + quarter;
  /* (sin r - r) / r^3 and (cos r - 1 + r^2/2) / r^4, |r| <= pi/4: relative error 4e-9 and 1e-10 */
  const float s = r + r * z * (-1.666665457e-01f + z * (8.332158409e-03f + z * -1.951495759e-04f));
  const float c =
      1 - 0.5f * z + z * z * (4.166664562e-02f + z * (-1.388731306e-03f + z * 2.443278514e-05f));
  const float y = q & 1 ? c : s;
  return far ? __builtin_nanf("") : q & 2 ? -y : y;
}
static inline float vsin(float x) { return sine(x, 0); }
static inline float vcos(float x) { return sine(x, 1); }

/* e^(-h a^2), a >= 0, h = 1 or 1/2: the square is split into an exact part and the rest, or its
 * rounding would be multiplied by a^2. */
static inline float gauss(float a, float h) {
  const float far = h < 1 ? 14.5f : 10.25f; /* e^-105 is 0 */
  a = a > far ? far : a;
  const float hi = float_of(bits_of(a) & ~0xfffU), lo = a - hi;
  const int32_t n = round_bits(a * a * -h * LOG2E);
  const float m = (float)n;
  const float r = (-h * hi * hi - m * LN2_HI) - m * LN2_LO - h * lo * (a + hi);
  return times_pow2(1 + (r + r * r * exp_poly(r)), n);
}
static inline float vgauss(float x) { return gauss(vabs(x), 0.5f); }

/* e^(a^2) erfc(a) for 0.45 <= a <= 10.3, relative error 1e-8: a polynomial in t = 1/(a + 2),
 * centred */
static inline float erfcx(float a) {
  a = a > 10.3f ? 10.3f : a;
  const float t = 1 / (a + 2), u = 6.118781567f * t - 1.497461915f;
  const float p =
      1.007226706e+00f +
      u * (4.415467978e-01f +
           u * (1.184250638e-01f +
                u * (1.067863125e-02f +
                     u * (-3.797817044e-03f +
                          u * (-8.165562176e-04f +
                               u * (2.253441635e-04f +
                                    u * (4.472328510e-05f + u * -1.621321644e-05f)))))));
  return t * p;
}

/* erf(x) / x for |x| <= 1, z = x^2; relative error 1e-9 */
static inline float erf_poly(float z) {
  return 1.128379107e+00f +
         z * (-3.761262596e-01f +
              z * (1.128358543e-01f +
                   z * (-2.685381100e-02f +
                        z * (5.188327283e-03f + z * (-8.010191959e-04f + z * 7.853857824e-05f)))));
}

static inline float verf(float x) {
  const float a = vabs(x);
  return a < 0.8f ? x * erf_poly(x * x) : __builtin_copysignf(1 - gauss(a, 1) * erfcx(a), x);
}

/* Normal distribution function. Its lower tail keeps full relative accuracy. */
static inline float vphi(float x) {
  const float a = vabs(x), s = 0.70710678f;
  const float tail = 0.5f * gauss(a, 0.5f) * erfcx(a * s);
  const float mid = 0.5f + 0.5f * s * x * erf_poly(0.5f * x * x);
  return a < 0.65f ? mid : x < 0 ? tail : 1 - tail;
}

/* x^y. f32 pairs would be needed to keep y log x exact; the loop runs in f64 at half width
 * instead. */
static inline float vpow(float x, float y) {
  const int small = vabs(x) < 0x1p-126f;
  const float a = small ? vabs(x) * 0x1p23f : vabs(x);
  const int32_t k = exponent(a);
  const double m = (double)scaled_down(a, k);
  /* log2 m = 2/ln 2 * artanh((m-1)/(m+1)), |.| <= 0.1716: seven terms leave 2e-13 */
  const double s = (m - 1) / (m + 1), z = s * s;
  const double p =
      1 + z * (1 / 3.0 +
               z * (1 / 5.0 + z * (1 / 7.0 + z * (1 / 9.0 + z * (1 / 11.0 + z * (1 / 13.0))))));
  double w = (double)y * ((small ? k - 23 : k) + 2.8853900817779268 * s * p);
  w = w < -151 ? -151 : w;
  w = w > 129 ? 129 : w;
  const float n = ((float)w + ROUNDER) - ROUNDER;
  const double r = (w - (double)n) * 0.69314718055994531;
  /* e^r, |r| <= 0.347: nine terms leave 3e-11 */
  const double e =
      1 + r * (1 + r * (1 / 2.0 +
                        r * (1 / 6.0 +
                             r * (1 / 24.0 +
                                  r * (1 / 120.0 +
                                       r * (1 / 720.0 + r * (1 / 5040.0 + r * (1 / 40320.0))))))));
  float v = times_pow2((float)e, round_bits((float)w));
  const float inf = __builtin_inff();
  const int large = vabs(y) >= 0x1p24f; /* then an even integer */
  const int32_t iy = large || y != y ? 0 : (int32_t)y;
  const int whole = large || (float)iy == y, odd = whole && (iy & 1);
  v = x == 0 ? (y < 0 ? inf : 0) : v;
  v = vabs(x) == inf ? (y < 0 ? 0 : inf) : v;
  v = x < 0 && !whole && vabs(x) != inf ? __builtin_nanf("") : v;
  v = bits_of(x) >> 31 && odd ? -v : v;
  v = x != x || y != y ? x + y : v;
  return y == 0 || x == 1 || (x == -1 && vabs(y) == inf) ? 1 : v;
}

/* Nearest bf16 (8 significant bits, ties to even). */
static inline float vbf16(float x) {
  const uint32_t i = bits_of(x);
  const uint32_t j = (i + 0x7fffU + (i >> 16 & 1)) & 0xffff0000U;
  return x == x ? float_of(j) : x;
}
#endif

static inline real vsoftplus(real x) { return (x > 0 ? x : 0) + vlog1p(vexp(-vabs(x))); }
#endif
