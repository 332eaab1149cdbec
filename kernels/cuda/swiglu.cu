/* swiglu.cu: contract ../swiglu.h. Bound by bytes: three numbers forward, five backward. */
#include "functions.cuh"
extern "C" {
#include "../swiglu.h"
}

template <class T> static __global__ void forward(int64_t n, const T *a, const T *b, T *y) {
  GRID_LOOP(i, n) {
    const real_of<T> x = load(a, i);
    store(y, i, x * vsigmoid(x) * load(b, i));
  }
}
template <class T>
static __global__ void backward(int64_t n, const T *a, const T *b, const T *dy, T *da, T *db) {
  typedef real_of<T> real;
  GRID_LOOP(i, n) {
    const real x = load(a, i), z = load(b, i), g = load(dy, i);
    if (da) store(da, i, (real)PASSED(g, g * z * silu_slope(x)));
    if (db) store(db, i, (real)PASSED(g, g * x * vsigmoid(x)));
  }
}
template <class T>
static alk_status fwd(const alk_place *at, int64_t n, const void *a, const void *b, void *y) {
  if (n == 0) return ALK_OK;
  forward<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(n, (const T *)a, (const T *)b,
                                                                    (T *)y);
  return launched();
}
CUDA_TYPED_BF16(swiglu_fwd, fwd)
template <class T>
static alk_status bwd(const alk_place *at, int64_t n, const void *a, const void *b, const void *dy,
                      void *da, void *db) {
  if (n == 0) return ALK_OK;
  backward<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(
      n, (const T *)a, (const T *)b, (const T *)dy, (T *)da, (T *)db);
  return launched();
}
CUDA_TYPED_BF16(swiglu_bwd, bwd)
