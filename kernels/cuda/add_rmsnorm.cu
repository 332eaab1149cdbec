/* add_rmsnorm.cu: residual sum and rms norm, a block a row (contract: ../add_rmsnorm.h). */
#include "rows.cuh"
extern "C" {
#include "../add_rmsnorm.h"
}
#include <float.h>

template <class T>
static __global__ void forward(int64_t N, int64_t n, double eps, const T *x, const T *a,
                               const T *gain, T *sum, T *y, T *scale) {
  EACH_ROW(r, N) {
    double square = 0;
    ROW_LOOP(i, n) {
      const T t = x[r * n + i] + a[r * n + i];
      sum[r * n + i] = t;
      square += (double)t * (double)t;
    }
    const double d = sqrt(block_sum(square) / (double)n + eps);
    const T s = d < (sizeof(T) == 8 ? DBL_MIN : (double)FLT_MIN) ? (T)0 : (T)(1 / d);
    if (threadIdx.x == 0) scale[r] = s;
    ROW_LOOP(i, n) { /* a thread reads what it wrote itself */
      const T v = sum[r * n + i] * s;
      y[r * n + i] = gain ? v * gain[i] : v;
    }
  }
}
template <class T>
static alk_status fwd(const alk_place *at, int64_t N, int64_t n, double eps, const void *x,
                      const void *a, const void *gain, void *sum, void *y, void *scale) {
  if (N == 0) return ALK_OK;
  forward<T><<<blocks_for(N, 1), ROW_THREADS, 0, stream_of(at)>>>(
      N, n, eps, (const T *)x, (const T *)a, (const T *)gain, (T *)sum, (T *)y, (T *)scale);
  return launched();
}
CUDA_TYPED(add_rmsnorm_fwd, fwd)

template <class T>
static __global__ void backward(int64_t N, int64_t n, const T *sum, const T *gain, const T *scale,
                                const T *dsum, const T *dy, T *dx) {
  EACH_ROW(r, N) {
    const T *p = sum + r * n, *g = dy + r * n, s = scale[r];
    const bool some = reached(n, g);
    T dot = 0;
    ROW_LOOP(i, n) if (some) dot += (gain ? g[i] * gain[i] : g[i]) * p[i];
    const T back = block_sum(dot) * s * s * s / (T)n;
    ROW_LOOP(i, n) {
      const T own = dsum ? dsum[r * n + i] : (T)0;
      dx[r * n + i] = some ? own + (s * (gain ? g[i] * gain[i] : g[i]) - p[i] * back) : own;
    }
  }
}
template <class T>
static __global__ void parts(int64_t N, int64_t n, int64_t chunks, const T *sum, const T *scale,
                             const T *dy, T *dgain) {
  GRID_LOOP(u, chunks * n) {
    const int64_t i = u % n, first = u / n * ALK_ADD_RMSNORM_ROWS;
    T a = 0;
    for (int64_t r = first; r < N && r < first + ALK_ADD_RMSNORM_ROWS; r++) {
      const T d = dy[r * n + i];
      a += PASSED(d, d * (sum[r * n + i] * scale[r]));
    }
    dgain[u] = a;
  }
}
template <class T>
static alk_status bwd(const alk_place *at, int64_t N, int64_t n, const void *sum, const void *gain,
                      const void *scale, const void *dsum, const void *dy, void *dx, void *dgain) {
  const int64_t chunks = (N + ALK_ADD_RMSNORM_ROWS - 1) / ALK_ADD_RMSNORM_ROWS;
  const cudaStream_t s = stream_of(at);
  if (N * n == 0) return ALK_OK;
  if (dgain)
    parts<T><<<blocks_for(chunks * n, THREADS), THREADS, 0, s>>>(
        N, n, chunks, (const T *)sum, (const T *)scale, (const T *)dy, (T *)dgain);
  if (dx)
    backward<T><<<blocks_for(N, 1), ROW_THREADS, 0, s>>>(N, n, (const T *)sum, (const T *)gain,
                                                         (const T *)scale, (const T *)dsum,
                                                         (const T *)dy, (T *)dx);
  return launched();
}
CUDA_TYPED(add_rmsnorm_bwd, bwd)
