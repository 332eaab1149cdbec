/* norm.cu: norms over the last axis, a block a row; statistics in f64 (contract: ../norm.h). The sums
 * over chunks of rows that dgain and dbias are made of go by columns, a thread each. */
#include "rows.cuh"
extern "C" {
#include "../norm.h"
}
#include <float.h>

template <class T> __device__ static inline T inverse(double d) {
  return d < (sizeof(T) == 8 ? DBL_MIN : (double)FLT_MIN) ? (T)0 : (T)(1 / d);
}

/* ---- what belongs to one norm: WORD_scale and WORD_dx, as in ../cpu/norm_row.h ---------------- */

/* From the sum of (x - m)^2. */
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

/* dx = s (a - a0 - xh a1) with a = gain g, a0 = mean a or 0, a1 = per sum(a xh). */
template <class T>
__device__ static void centred_dx(int64_t n, bool mean, T per, const T *x, const T *gain, T m, T s,
                                  const T *g, T *dx) {
  T sum = 0, dot = 0;
  ROW_LOOP(i, n) {
    const T a = gain ? g[i] * gain[i] : g[i];
    sum += a;
    dot += a * ((x[i] - m) * s);
  }
  const T a0 = mean ? block_sum(sum) * per : 0, a1 = block_sum(dot) * per;
  ROW_LOOP(i, n) dx[i] = s * ((gain ? g[i] * gain[i] : g[i]) - a0 - (x[i] - m) * s * a1);
}
#define DX_PARAMETERS int64_t n, const T *x, const T *gain, T m, T s, const T *g, T *dx
template <class T> __device__ static inline void rms_dx(DX_PARAMETERS) {
  centred_dx<T>(n, false, 1 / (T)n, x, gain, m, s, g, dx);
}
template <class T> __device__ static inline void layer_dx(DX_PARAMETERS) {
  centred_dx<T>(n, true, 1 / (T)n, x, gain, m, s, g, dx);
}
template <class T> __device__ static inline void l2_dx(DX_PARAMETERS) {
  centred_dx<T>(n, false, (T)1, x, gain, m, s, g, dx);
}

/* ---- kernels --------------------------------------------------------------------------------- */

template <class T>
static __global__ void forward(alk_norm kind, int64_t N, int64_t n, double eps, const T *x,
                               const T *gain, const T *bias, const T *logscale, T *y, T *mean,
                               T *scale) {
  EACH_ROW(r, N) {
    const T *p = x + r * n;
    double total = 0, squares = 0;
    if (mean) ROW_LOOP(i, n) total += (double)p[i];
    const T m = mean ? (T)(block_sum(total) / (double)n) : 0;
    ROW_LOOP(i, n) {
      const double d = (double)(p[i] - m);
      squares += d * d;
    }
    squares = block_sum(squares);
    const double l = logscale ? (double)logscale[r] : 0;
    T own = 1;
    switch (kind) {
#define NORM(word, ...)                                                                            \
  case ALK_NORM_##word: own = word##_scale<T>(n, eps, squares, l); break;
#include "../norms.def"
#undef NORM
    default: break;
    }
    const T s = vabs(own);
    if (threadIdx.x == 0) {
      if (mean) mean[r] = m;
      scale[r] = own;
    }
    ROW_LOOP(i, n) {
      T v = (p[i] - m) * s;
      if (gain) v *= gain[i];
      y[r * n + i] = bias ? v + bias[i] : v;
    }
  }
}

template <class T>
static __global__ void backward(alk_norm kind, int64_t N, int64_t n, const T *x, const T *gain,
                                const T *mean, const T *scale, const T *g, T *dx) {
  EACH_ROW(r, N) {
    const T *p = x + r * n, *q = g + r * n;
    T *to = dx + r * n;
    const T m = mean ? mean[r] : 0, s = scale[r];
    if (!reached(n, q) || s <= 0) {
      ROW_LOOP(i, n) to[i] = 0;
      continue;
    }
    switch (kind) {
#define NORM(word, ...)                                                                            \
  case ALK_NORM_##word: word##_dx<T>(n, p, gain, m, s, q, to); break;
#include "../norms.def"
#undef NORM
    default: break;
    }
  }
}

/* Rows that no gradient reaches are left out, whatever they hold. */
template <class T>
static __global__ void parts(int64_t N, int64_t n, int64_t chunks, const T *x, const T *mean,
                             const T *scale, const T *g, T *dgain, T *dbias) {
  GRID_LOOP(u, chunks * n) {
    const int64_t k = u / n, i = u % n, first = k * ALK_NORM_ROWS;
    const int64_t last = first + ALK_NORM_ROWS < N ? first + ALK_NORM_ROWS : N;
    T a = 0, b = 0;
    for (int64_t r = first; r < last; r++) {
      const T d = g[r * n + i], m = mean ? mean[r] : 0;
      if (d == 0) continue;
      a += d * ((x[r * n + i] - m) * vabs(scale[r]));
      b += d;
    }
    if (dgain) dgain[u] = a;
    if (dbias) dbias[u] = b;
  }
}

template <class T>
static alk_status fwd(const alk_place *at, alk_norm kind, int64_t N, int64_t n, double eps,
                      const void *x, const void *gain, const void *bias, const void *logscale,
                      void *y, void *mean, void *scale) {
  if (N == 0) return ALK_OK;
  forward<T><<<blocks_for(N, 1), ROW_THREADS, 0, stream_of(at)>>>(
      kind, N, n, eps, (const T *)x, (const T *)gain, (const T *)bias, (const T *)logscale, (T *)y,
      (T *)mean, (T *)scale);
  return launched();
}
CUDA_TYPED(norm_fwd, fwd)

template <class T>
static alk_status bwd(const alk_place *at, alk_norm kind, int64_t N, int64_t n, const void *x,
                      const void *gain, const void *mean, const void *scale, const void *g,
                      void *dx, void *dgain, void *dbias) {
  const int64_t chunks = (N + ALK_NORM_ROWS - 1) / ALK_NORM_ROWS;
  const cudaStream_t s = stream_of(at);
  if (N * n == 0) return ALK_OK;
  if (dgain || dbias) /* before dx, which may lie where g does */
    parts<T><<<blocks_for(chunks * n, THREADS), THREADS, 0, s>>>(
        N, n, chunks, (const T *)x, (const T *)mean, (const T *)scale, (const T *)g, (T *)dgain,
        (T *)dbias);
  if (dx)
    backward<T><<<blocks_for(N, 1), ROW_THREADS, 0, s>>>(kind, N, n, (const T *)x, (const T *)gain,
                                                         (const T *)mean, (const T *)scale,
                                                         (const T *)g, (T *)dx);
  return launched();
}
CUDA_TYPED(norm_bwd, bwd)
