/* norm.cu: norms over the last axis (contract: ../norm.h), a block a row, 16 bytes at a time where
 * rows lie so; statistics in f64. The sums over chunks of rows that dgain and dbias are made of go
 * by columns, COLUMNS a thread.
 *
 * Floor: 2 numbers read and written forward, 3 backward; dgain and dbias read 2 more. Share of a
 * copy's rate (cuda.cuh) of rmsnorm with a gain, bf16 and f32: forward .77 and .94, backward .45
 * and .51. */
#include "norm_row.cuh"

template <class T, int W>
static __global__ void forward(alk_norm kind, int64_t N, int64_t n, double eps, const T *x,
                               const T *gain, const T *bias, const real_of<T> *logscale, T *y,
                               real_of<T> *mean, real_of<T> *scale) {
  typedef real_of<T> real;
  EACH_ROW(r, N) {
    const T *p = x + r * n;
    real m = 0;
    const real own = row_scale<real, W>(
        by_block(), kind, n, eps, [=](int64_t i, real *v) { load_all<W>(p, i, v); },
        logscale ? (double)logscale[r] : 0, mean != NULL, &m);
    if (threadIdx.x == 0) {
      if (mean) mean[r] = m;
      scale[r] = own;
    }
    ROW_GROUPS(i, n, W) {
      real v[W], by[W], plus[W];
      load_all<W>(p, i, v);
      if (gain) load_all<W>(gain, i, by);
      if (bias) load_all<W>(bias, i, plus);
      for (int k = 0; k < W; k++) {
        v[k] = (v[k] - m) * vabs(own);
        if (gain) v[k] *= by[k];
        if (bias) v[k] += plus[k];
      }
      store_all<W>(y, r * n + i, v);
    }
  }
}

template <class T, int W>
static __global__ void backward(alk_norm kind, int64_t N, int64_t n, const T *x, const T *gain,
                                const real_of<T> *mean, const real_of<T> *scale, const T *g,
                                T *dx) {
  typedef real_of<T> real;
  EACH_ROW(r, N) {
    const T *p = x + r * n, *q = g + r * n;
    T *to = dx + r * n;
    row_dx<real, W>(
        by_block(), kind, n, [=](int64_t i, real *v) { load_all<W>(p, i, v); }, gain,
        mean ? mean[r] : (real)0, row_reached<W>(n, q) ? scale[r] : (real)0,
        [=](int64_t i, real *v) { load_all<W>(q, i, v); },
        [=](int64_t i, const real *v) { store_all<W>(to, i, v); });
  }
}

/* Rows that no gradient reaches are left out, whatever they hold. */
template <class T, int W>
static __global__ void parts(int64_t N, int64_t n, int64_t chunks, const T *x,
                             const real_of<T> *mean, const real_of<T> *scale, const T *g,
                             real_of<T> *dgain, real_of<T> *dbias) {
  typedef real_of<T> real;
  GRID_GROUPS(u, chunks * n, W) {
    const int64_t c = quotient(u, n), i = u - c * n, first = c * ALK_NORM_ROWS;
    const int64_t last = first + ALK_NORM_ROWS < N ? first + ALK_NORM_ROWS : N;
    real a[W] = {}, b[W] = {};
    for (int64_t r = first; r < last; r++) {
      real d[W], v[W];
      const real m = mean ? mean[r] : 0, s = vabs(scale[r]);
      load_all<W>(g, r * n + i, d);
      load_all<W>(x, r * n + i, v);
      for (int k = 0; k < W; k++) a[k] += PASSED(d[k], d[k] * ((v[k] - m) * s)), b[k] += d[k];
    }
    if (dgain) store_all<W>(dgain, u, a);
    if (dbias) store_all<W>(dbias, u, b);
  }
}

template <class T>
static alk_status fwd(const alk_place *at, alk_norm kind, int64_t N, int64_t n, double eps,
                      const void *x, const void *gain, const void *bias, const void *logscale,
                      void *y, void *mean, void *scale) {
  if (N == 0) return ALK_OK;
  auto run = grouped(n, sizeof(T), x, gain, bias, y) ? forward<T, GROUP(T)> : forward<T, 1>;
  run<<<blocks_for(N, 1), ROW_THREADS, 0, stream_of(at)>>>(
      kind, N, n, eps, (const T *)x, (const T *)gain, (const T *)bias, (const real_of<T> *)logscale,
      (T *)y, (real_of<T> *)mean, (real_of<T> *)scale);
  return launched();
}
CUDA_TYPED_BF16(norm_fwd, fwd)

template <class T>
static alk_status bwd(const alk_place *at, alk_norm kind, int64_t N, int64_t n, const void *x,
                      const void *gain, const void *mean, const void *scale, const void *g,
                      void *dx, void *dgain, void *dbias) {
  const int64_t chunks = (N + ALK_NORM_ROWS - 1) / ALK_NORM_ROWS;
  const cudaStream_t s = stream_of(at);
  if (N * n == 0) return ALK_OK;
  const bool wide = grouped(n, sizeof(T), x, g, dgain, dbias);
  const int each = wide ? COLUMNS(T) : 1;
  auto columns = wide ? parts<T, COLUMNS(T)> : parts<T, 1>;
  if (dgain || dbias) /* before dx, which may lie where g does */
    columns<<<blocks_for(chunks * n / each, THREADS), THREADS, 0, s>>>(
        N, n, chunks, (const T *)x, (const real_of<T> *)mean, (const real_of<T> *)scale,
        (const T *)g, (real_of<T> *)dgain, (real_of<T> *)dbias);
  auto run = grouped(n, sizeof(T), x, gain, g, dx) ? backward<T, GROUP(T)> : backward<T, 1>;
  if (dx)
    run<<<blocks_for(N, 1), ROW_THREADS, 0, s>>>(kind, N, n, (const T *)x, (const T *)gain,
                                                 (const real_of<T> *)mean,
                                                 (const real_of<T> *)scale, (const T *)g, (T *)dx);
  return launched();
}
CUDA_TYPED_BF16(norm_bwd, bwd)
