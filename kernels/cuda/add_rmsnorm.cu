/* add_rmsnorm.cu: residual sum and rms norm (contract: ../add_rmsnorm.h), a block a row, 16 bytes
 * at a time where rows lie so; the sum of squares in f64.
 *
 * Floor: 4 numbers read and written forward, 4 backward; dgain reads 2 more. Share of a copy's
 * rate (cuda.cuh), bf16 and f32: forward 1.2 and 1.1, backward .44 and .54. */
#include "rows.cuh"
extern "C" {
#include "../add_rmsnorm.h"
}
#include <float.h>

template <class T, int W>
static __global__ void forward(int64_t N, int64_t n, double eps, const T *x, const T *a,
                               const T *gain, T *sum, T *y, real_of<T> *scale) {
  typedef real_of<T> real;
  EACH_ROW(r, N) {
    double square = 0;
    real v[W], more[W];
    ROW_GROUPS(i, n, W) {
      load_all<W>(x, r * n + i, v);
      load_all<W>(a, r * n + i, more);
      for (int k = 0; k < W; k++) v[k] += more[k];
      store_all<W>(sum, r * n + i, v);
      load_all<W>(sum, r * n + i, v); /* as they are stored */
      for (int k = 0; k < W; k++) square += (double)v[k] * (double)v[k];
    }
    const double d = sqrt(block_sum(square) / (double)n + eps);
    const real s = d < (sizeof(T) == 8 ? DBL_MIN : (double)FLT_MIN) ? (real)0 : (real)(1 / d);
    if (threadIdx.x == 0) scale[r] = s;
    ROW_GROUPS(i, n, W) { /* a thread reads what it wrote itself */
      load_all<W>(sum, r * n + i, v);
      if (gain) load_all<W>(gain, i, more);
      for (int k = 0; k < W; k++) v[k] = gain ? v[k] * s * more[k] : v[k] * s;
      store_all<W>(y, r * n + i, v);
    }
  }
}
template <class T>
static alk_status fwd(const alk_place *at, int64_t N, int64_t n, double eps, const void *x,
                      const void *a, const void *gain, void *sum, void *y, void *scale) {
  if (N == 0) return ALK_OK;
  auto run = grouped(n, sizeof(T), x, a, gain, sum, y) ? forward<T, GROUP(T)> : forward<T, 1>;
  run<<<blocks_for(N, 1), ROW_THREADS, 0, stream_of(at)>>>(N, n, eps, (const T *)x, (const T *)a,
                                                           (const T *)gain, (T *)sum, (T *)y,
                                                           (real_of<T> *)scale);
  return launched();
}
CUDA_TYPED_BF16(add_rmsnorm_fwd, fwd)

template <class T, int W>
static __global__ void backward(int64_t N, int64_t n, const T *sum, const T *gain,
                                const real_of<T> *scale, const T *dsum, const T *dy, T *dx) {
  typedef real_of<T> real;
  EACH_ROW(r, N) {
    const T *p = sum + r * n, *q = dy + r * n;
    const real s = scale[r];
    const bool some = row_reached<W>(n, q);
    real g[W], v[W], by[W], dot = 0;
    auto gained = [&](int64_t i) {
      load_all<W>(q, i, g);
      if (gain) load_all<W>(gain, i, by);
      for (int k = 0; gain && k < W; k++) g[k] *= by[k];
    };
    ROW_GROUPS(i, some ? n : 0, W) {
      gained(i);
      load_all<W>(p, i, v);
      for (int k = 0; k < W; k++) dot += g[k] * v[k];
    }
    const real back = block_sum(dot) * s * s * s / (real)n;
    ROW_GROUPS(i, n, W) {
      real own[W] = {};
      if (dsum) load_all<W>(dsum, r * n + i, own);
      gained(i);
      load_all<W>(p, i, v);
      for (int k = 0; k < W; k++) own[k] = some ? own[k] + (s * g[k] - v[k] * back) : own[k];
      store_all<W>(dx, r * n + i, own);
    }
  }
}
template <class T, int W>
static __global__ void parts(int64_t N, int64_t n, int64_t chunks, const T *sum,
                             const real_of<T> *scale, const T *dy, real_of<T> *dgain) {
  typedef real_of<T> real;
  GRID_GROUPS(u, chunks * n, W) {
    const int64_t c = quotient(u, n), i = u - c * n, first = c * ALK_ADD_RMSNORM_ROWS;
    real a[W] = {};
    for (int64_t r = first; r < N && r < first + ALK_ADD_RMSNORM_ROWS; r++) {
      real d[W], v[W];
      load_all<W>(dy, r * n + i, d);
      load_all<W>(sum, r * n + i, v);
      for (int k = 0; k < W; k++) a[k] += PASSED(d[k], d[k] * (v[k] * scale[r]));
    }
    store_all<W>(dgain, u, a);
  }
}
template <class T>
static alk_status bwd(const alk_place *at, int64_t N, int64_t n, const void *sum, const void *gain,
                      const void *scale, const void *dsum, const void *dy, void *dx, void *dgain) {
  const int64_t chunks = (N + ALK_ADD_RMSNORM_ROWS - 1) / ALK_ADD_RMSNORM_ROWS;
  const cudaStream_t s = stream_of(at);
  if (N * n == 0) return ALK_OK;
  const bool wide = grouped(n, sizeof(T), sum, dy, dgain);
  auto columns = wide ? parts<T, COLUMNS(T)> : parts<T, 1>;
  if (dgain)
    columns<<<blocks_for(chunks * n / (wide ? COLUMNS(T) : 1), THREADS), THREADS, 0, s>>>(
        N, n, chunks, (const T *)sum, (const real_of<T> *)scale, (const T *)dy,
        (real_of<T> *)dgain);
  auto run =
      grouped(n, sizeof(T), sum, gain, dsum, dy, dx) ? backward<T, GROUP(T)> : backward<T, 1>;
  if (dx)
    run<<<blocks_for(N, 1), ROW_THREADS, 0, s>>>(N, n, (const T *)sum, (const T *)gain,
                                                 (const real_of<T> *)scale, (const T *)dsum,
                                                 (const T *)dy, (T *)dx);
  return launched();
}
CUDA_TYPED_BF16(add_rmsnorm_bwd, bwd)
