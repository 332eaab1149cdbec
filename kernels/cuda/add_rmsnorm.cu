/* add_rmsnorm.cu: residual sum and rms norm, a block a row (contract: ../add_rmsnorm.h). */
#include "rows.cuh"
extern "C" {
#include "../add_rmsnorm.h"
}
#include <float.h>

template <class T>
static __global__ void forward(int64_t N, int64_t n, double eps, const T *x, const T *a,
                               const T *gain, T *sum, T *y, real_of<T> *scale) {
  typedef real_of<T> real;
  EACH_ROW(r, N) {
    double square = 0;
    ROW_LOOP(i, n) {
      store(sum, r * n + i, load(x, r * n + i) + load(a, r * n + i));
      const real t = load(sum, r * n + i); /* as it is stored */
      square += (double)t * (double)t;
    }
    const double d = sqrt(block_sum(square) / (double)n + eps);
    const real s = d < (sizeof(T) == 8 ? DBL_MIN : (double)FLT_MIN) ? (real)0 : (real)(1 / d);
    if (threadIdx.x == 0) scale[r] = s;
    ROW_LOOP(i, n) { /* a thread reads what it wrote itself */
      const real v = load(sum, r * n + i) * s;
      store(y, r * n + i, gain ? v * load(gain, i) : v);
    }
  }
}
template <class T>
static alk_status fwd(const alk_place *at, int64_t N, int64_t n, double eps, const void *x,
                      const void *a, const void *gain, void *sum, void *y, void *scale) {
  if (N == 0) return ALK_OK;
  forward<T><<<blocks_for(N, 1), ROW_THREADS, 0, stream_of(at)>>>(
      N, n, eps, (const T *)x, (const T *)a, (const T *)gain, (T *)sum, (T *)y,
      (real_of<T> *)scale);
  return launched();
}
CUDA_TYPED_BF16(add_rmsnorm_fwd, fwd)

template <class T>
static __global__ void backward(int64_t N, int64_t n, const T *sum, const T *gain,
                                const real_of<T> *scale, const T *dsum, const T *dy, T *dx) {
  typedef real_of<T> real;
  EACH_ROW(r, N) {
    const T *p = sum + r * n, *q = dy + r * n;
    const real s = scale[r];
    const bool some = reached(n, q);
    auto g = [=](int64_t i) { return gain ? load(q, i) * load(gain, i) : load(q, i); };
    real dot = 0;
    ROW_LOOP(i, n) if (some) dot += g(i) * load(p, i);
    const real back = block_sum(dot) * s * s * s / (real)n;
    ROW_LOOP(i, n) {
      const real own = dsum ? load(dsum, r * n + i) : (real)0;
      store(dx, r * n + i, some ? own + (s * g(i) - load(p, i) * back) : own);
    }
  }
}
template <class T>
static __global__ void parts(int64_t N, int64_t n, int64_t chunks, const T *sum,
                             const real_of<T> *scale, const T *dy, real_of<T> *dgain) {
  GRID_LOOP(u, chunks * n) {
    const int64_t i = u % n, first = u / n * ALK_ADD_RMSNORM_ROWS;
    real_of<T> a = 0;
    for (int64_t r = first; r < N && r < first + ALK_ADD_RMSNORM_ROWS; r++) {
      const real_of<T> d = load(dy, r * n + i);
      a += PASSED(d, d * (load(sum, r * n + i) * scale[r]));
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
        N, n, chunks, (const T *)sum, (const real_of<T> *)scale, (const T *)dy,
        (real_of<T> *)dgain);
  if (dx)
    backward<T><<<blocks_for(N, 1), ROW_THREADS, 0, s>>>(N, n, (const T *)sum, (const T *)gain,
                                                         (const real_of<T> *)scale, (const T *)dsum,
                                                         (const T *)dy, (T *)dx);
  return launched();
}
CUDA_TYPED_BF16(add_rmsnorm_bwd, bwd)
