/* swiglu.cu: silu(a) b (contract: ../swiglu.h), 16 bytes a thread and array at a time where they
 * lie so.
 *
 * Floor: 3 numbers read and written forward, 5 backward. Share of a copy's rate (cuda.cuh), bf16
 * and f32: forward 1.1 and 1.2, backward .7 and 1.2. */
#include "functions.cuh"
extern "C" {
#include "../swiglu.h"
}

template <class T, int W> static __global__ void forward(int64_t n, const T *a, const T *b, T *y) {
  GRID_GROUPS(i, n, W) {
    real_of<T> x[W], z[W];
    load_all<W>(a, i, x);
    load_all<W>(b, i, z);
    for (int k = 0; k < W; k++) x[k] = x[k] * vsigmoid(x[k]) * z[k];
    store_all<W>(y, i, x);
  }
}
template <class T, int W>
static __global__ void backward(int64_t n, const T *a, const T *b, const T *dy, T *da, T *db) {
  GRID_GROUPS(i, n, W) {
    real_of<T> x[W], z[W], g[W], to_a[W], to_b[W];
    load_all<W>(a, i, x);
    load_all<W>(b, i, z);
    load_all<W>(dy, i, g);
    for (int k = 0; k < W; k++) {
      to_a[k] = PASSED(g[k], g[k] * z[k] * silu_slope(x[k]));
      to_b[k] = PASSED(g[k], g[k] * x[k] * vsigmoid(x[k]));
    }
    if (da) store_all<W>(da, i, to_a);
    if (db) store_all<W>(db, i, to_b);
  }
}
template <class T>
static alk_status fwd(const alk_place *at, int64_t n, const void *a, const void *b, void *y) {
  if (n == 0) return ALK_OK;
  const bool wide = grouped(n, sizeof(T), a, b, y);
  auto run = wide ? forward<T, GROUP(T)> : forward<T, 1>;
  run<<<blocks_for(n, wide ? THREADS * GROUP(T) : THREADS), THREADS, 0, stream_of(at)>>>(
      n, (const T *)a, (const T *)b, (T *)y);
  return launched();
}
CUDA_TYPED_BF16(swiglu_fwd, fwd)
template <class T>
static alk_status bwd(const alk_place *at, int64_t n, const void *a, const void *b, const void *dy,
                      void *da, void *db) {
  if (n == 0) return ALK_OK;
  const bool wide = grouped(n, sizeof(T), a, b, dy, da, db);
  auto run = wide ? backward<T, GROUP(T)> : backward<T, 1>;
  run<<<blocks_for(n, wide ? THREADS * GROUP(T) : THREADS), THREADS, 0, stream_of(at)>>>(
      n, (const T *)a, (const T *)b, (const T *)dy, (T *)da, (T *)db);
  return launched();
}
CUDA_TYPED_BF16(swiglu_bwd, bwd)
