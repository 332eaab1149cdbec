/* norm_row.cuh: what belongs to one norm, WORD_scale and WORD_dx as in ../cpu/norm_row.h, for the
 * team of a row (rows.cuh; contract and formulas: ../norm.h). The row, its gradient and where dx
 * goes are functions of the index that take W numbers from there on, in T; the gain, in its own
 * type, is read. */
#ifndef ALK_CUDA_NORM_ROW_CUH
#define ALK_CUDA_NORM_ROW_CUH
#include "rows.cuh"
extern "C" {
#include "../norm.h"
}
#include <float.h>

template <class T> __device__ static inline T inverse(double d) {
  return d < (sizeof(T) == 8 ? DBL_MIN : (double)FLT_MIN) ? (T)0 : (T)(1 / d);
}

/* Of a row with `squares`, the sum of (x - m)^2; negative where eps decided. */
template <class T>
__device__ static inline T rms_scale(int64_t n, double eps, double squares, double logscale) {
  return inverse<T>(sqrt(squares / (double)n + (eps > 0 ? eps * exp(-2 * logscale) : 0)));
}
template <class T>
__device__ static inline T layer_scale(int64_t n, double eps, double squares, double logscale) {
  return rms_scale<T>(n, eps, squares, logscale);
}
template <class T>
__device__ static inline T l2_scale(int64_t n, double eps, double squares, double logscale) {
  const double length = sqrt(squares), least = eps > 0 ? eps * exp(-logscale) : 0;
  return length <= least ? -inverse<T>(least) : inverse<T>(length);
}

/* dx = s (a - a0 - xh a1) with a = gain g, a0 = mean a or 0, a1 = per sum(a xh); 0 where s <= 0. */
template <class T, int W, class M, class A, class X, class G, class P>
__device__ static void centred_dx(M team, int64_t n, bool mean, T per, X x, const A *gain, T m, T s,
                                  G g, P put) {
  T sum = 0, dot = 0, v[W], a[W], by[W];
  auto gained = [&](int64_t i) {
    g(i, a);
    if (gain) load_all<W>(gain, i, by);
    for (int k = 0; gain && k < W; k++) a[k] *= by[k];
  };
  TEAM_GROUPS(team, i, n, W) {
    gained(i);
    x(i, v);
    for (int k = 0; k < W; k++) sum += a[k], dot += a[k] * ((v[k] - m) * s);
  }
  const T a0 = mean ? team.sum(sum) * per : 0, a1 = team.sum(dot) * per;
  TEAM_GROUPS(team, i, n, W) {
    gained(i);
    x(i, v);
    for (int k = 0; k < W; k++) v[k] = s > 0 ? s * (a[k] - a0 - (v[k] - m) * s * a1) : 0;
    put(i, v);
  }
}
#define DX_OF(word, mean, per)                                                                     \
  template <class T, int W, class M, class A, class X, class G, class P>                           \
  __device__ static inline void word##_dx(M team, int64_t n, X x, const A *gain, T m, T s, G g,    \
                                          P put) {                                                 \
    centred_dx<T, W>(team, n, mean, per, x, gain, m, s, g, put);                                   \
  }
DX_OF(rms, false, 1 / (T)n)
DX_OF(layer, true, 1 / (T)n)
DX_OF(l2, false, (T)1)
#undef DX_OF

/* ---- by kind --------------------------------------------------------------------------------- */

/* *mean (0 unless `centred`) and the scale of a row; all threads get them. */
template <class T, int W, class M, class X>
__device__ static T row_scale(M team, alk_norm kind, int64_t n, double eps, X x, double logscale,
                              bool centred, T *mean) {
  double total = 0, squares = 0;
  T v[W];
  T m = 0;
  if (centred) {
    TEAM_GROUPS(team, i, n, W) {
      x(i, v);
      for (int k = 0; k < W; k++) total += (double)v[k];
    }
    m = (T)(team.sum(total) / (double)n);
  }
  *mean = m;
  TEAM_GROUPS(team, i, n, W) {
    x(i, v);
    for (int k = 0; k < W; k++) {
      const double d = (double)(v[k] - m);
      squares += d * d;
    }
  }
  squares = team.sum(squares);
  switch (kind) {
#define NORM(word, ...)                                                                            \
  case ALK_NORM_##word:                                                                            \
    return word##_scale<T>(n, eps, squares, logscale);
#include "../norms.def"
#undef NORM
  default:
    return 1;
  }
}

template <class T, int W, class M, class A, class X, class G, class P>
__device__ static void row_dx(M team, alk_norm kind, int64_t n, X x, const A *gain, T m, T s, G g,
                              P put) {
  switch (kind) {
#define NORM(word, ...)                                                                            \
  case ALK_NORM_##word:                                                                            \
    word##_dx<T, W>(team, n, x, gain, m, s, g, put);                                               \
    break;
#include "../norms.def"
#undef NORM
  default:
    break;
  }
}
#endif
