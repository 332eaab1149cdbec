/* weigh.cuh: from a logit to a weight, and back: what the composed and the fused weights share
 * (formulas: ../visible.h). Polynomials are summed in f64: terms of long series cancel, and 1/34!
 * is no number of f32. */
#ifndef ALK_CUDA_WEIGH_CUH
#define ALK_CUDA_WEIGH_CUH
#include "rows.cuh"
extern "C" {
#include "../visible.h"
}

/* The spec as a kernel's argument. */
typedef struct plan {
  alk_weight f;
  bool round, cap, clamp;
  double softcap, limit;
  int n;
  int64_t Hd;
  const double *factors; /* on the card, or NULL */
  double base[ALK_MAX_COEFFICIENTS];
} plan;

static inline plan plan_of(const alk_weight_spec *spec, bool coefficients) {
  plan p = {};
  p.f = spec->f, p.round = spec->round, p.cap = spec->softcap > 0, p.clamp = spec->clamp < INFINITY;
  p.softcap = spec->softcap, p.limit = spec->clamp, p.Hd = spec->Hd;
  p.n = coefficients && spec->f == ALK_WEIGHT_POLYNOMIAL ? spec->n_coefficients : 0;
  p.factors = (const double *)spec->factors;
  for (int i = 0; i < p.n; i++) p.base[i] = spec->base[i];
  return p;
}

/* s rounded and capped; then clamped. */
template <class T> __device__ inline T capped(const plan &p, T s) {
  if (p.round) s = vbf16(s);
  return p.cap ? (T)p.softcap * vtanh(s / (T)p.softcap) : s;
}
template <class T> __device__ inline T clamped(const plan &p, T x) {
  return p.clamp && x > (T)p.limit ? (T)p.limit : x;
}
/* The gradient of s from that of the clamped x: one passes up to the limit. */
template <class T> __device__ inline T limits_slope(const plan &p, T x, T g) {
  if (p.clamp && !(x <= (T)p.limit)) g = 0;
  return p.cap ? PASSED(g, g * (1 - (x / (T)p.softcap) * (x / (T)p.softcap))) : g;
}

/* Log decay of a row whose last visible key has `top`. */
template <class T> __device__ inline T log_decay(double top, double sum) { return (T)(top - sum); }

/* ---- polynomials ----------------------------------------------------------------------------- */

/* Coefficients of f but for zeros at the end. */
typedef struct series {
  int terms;
  const double *c;
} series;

/* By all threads of a block; c holds ALK_MAX_COEFFICIENTS in shared memory. */
__device__ static series series_of(const plan &p, double *c) {
  int mine = 0;
  for (int n = threadIdx.x; n < p.n; n += blockDim.x) {
    c[n] = p.base[n] * (p.factors ? p.factors[n] : 1);
    if (c[n] != 0) mine = n + 1;
  }
  return {block_max(mine, 0), c};
}
__device__ inline double series_value(const series &f, double x) {
  double y = f.terms > 0 ? f.c[f.terms - 1] : 0;
  for (int i = f.terms - 2; i >= 0; i--) y = y * x + f.c[i];
  return y;
}
__device__ inline double series_slope(const series &f, double x) {
  double d = f.terms > 1 ? (f.terms - 1) * f.c[f.terms - 1] : 0;
  for (int i = f.terms - 2; i >= 1; i--) d = d * x + i * f.c[i];
  return d;
}

/* Of sums of A dw (s / POWER_UNIT)^n, for which powers of s keep within f64, the gradient of k_n. */
enum { POWER_UNIT = 16 };
__device__ inline double finish_power(const plan &p, int n, double sum) {
  double scale = 1;
  for (int i = 0; i < n; i++) scale *= POWER_UNIT;
  return p.base[n] != 0 ? sum * (p.base[n] * scale) : 0;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* A f(y) relative to e^m; y is limited, e = log A (0 without decay). */
template <class T>
__device__ inline T weight_of(alk_weight f, const series &terms, T y, bool decay, T e, T m) {
  if (f == ALK_WEIGHT_EXP) return vexp(decay ? y + e - m : y - m);
  if (f == ALK_WEIGHT_COSH) /* two exponentials: cosh alone would overflow */
    return (T)0.5 * (vexp(vabs(y) + e - m) + vexp(e - vabs(y) - m));
  const T w = (T)series_value(terms, (double)y);
  return decay ? w * vexp(e) : w;
}
/* The same, and *df = A f'(y). */
template <class T>
__device__ inline T weight_slope(alk_weight f, const series &terms, T y, bool decay, T e, T m,
                                 T *df) {
  if (f == ALK_WEIGHT_EXP) return *df = vexp(decay ? y + e - m : y - m);
  if (f == ALK_WEIGHT_COSH) {
    const T up = vexp(vabs(y) + e - m), down = vexp(e - vabs(y) - m);
    *df = (T)0.5 * (y < 0 ? down - up : up - down);
    return (T)0.5 * (up + down);
  }
  const T A = decay ? vexp(e) : (T)1;
  *df = A * (T)series_slope(terms, (double)y);
  return A * (T)series_value(terms, (double)y);
}
#endif
