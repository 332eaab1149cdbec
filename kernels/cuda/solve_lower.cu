/* solve_lower.cu: substitution, a thread a column (contract: ../solve_lower.h).
 *
 * Multiply-adds of a system: C^2 E / 2 forward, C^2 E backward. Floor of bytes: L once, b and x;
 * backward L and dL, x, dx and db. Not measured: small. */
#include "cuda.cuh"
extern "C" {
#include "../solve_lower.h"
}

template <class T>
static __global__ void forward(int64_t count, int64_t C, int64_t E, const T *L, const T *b, T *x) {
  GRID_LOOP(u, count * E) {
    const int64_t s = u / E, e = u % E;
    const T *l = L + s * C * C;
    T *own = x + s * C * E + e;
    for (int64_t t = 0; t < C; t++) {
      T v = b[(s * C + t) * E + e];
      for (int64_t i = 0; i < t; i++) v -= l[t * C + i] * own[i * E];
      own[t * E] = v;
    }
  }
}
template <class T>
static alk_status fwd(const alk_place *at, int64_t count, int64_t C, int64_t E, const void *L,
                      const void *b, void *x) {
  if (count * C * E == 0) return ALK_OK;
  forward<T><<<blocks_for(count * E, THREADS), THREADS, 0, stream_of(at)>>>(
      count, C, E, (const T *)L, (const T *)b, (T *)x);
  return launched();
}
CUDA_TYPED(solve_lower_fwd, fwd)

template <class T>
static __global__ void backward(int64_t count, int64_t C, int64_t E, const T *L, const T *dx,
                                T *db) {
  GRID_LOOP(u, count * E) {
    const int64_t s = u / E, e = u % E;
    const T *l = L + s * C * C;
    T *own = db + s * C * E + e;
    for (int64_t t = C; t-- > 0;) {
      T v = dx[(s * C + t) * E + e];
      for (int64_t i = C; i-- > t + 1;) v -= PASSED(own[i * E], l[i * C + t] * own[i * E]);
      own[t * E] = v;
    }
  }
}
template <class T>
static __global__ void outer(int64_t count, int64_t C, int64_t E, const T *x, const T *db, T *dL) {
  GRID_LOOP(u, count * C * C) {
    const int64_t i = u % C, t = u / C % C, s = u / C / C;
    T v = 0;
    for (int64_t e = 0; i < t && e < E; e++) {
      const T d = db[(s * C + t) * E + e];
      v += PASSED(d, d * x[(s * C + i) * E + e]);
    }
    dL[u] = i < t ? -v : (T)0;
  }
}
template <class T>
static alk_status bwd(const alk_place *at, int64_t count, int64_t C, int64_t E, const void *L,
                      const void *x, const void *dx, void *db, void *dL) {
  const cudaStream_t s = stream_of(at);
  if (count * C * E > 0)
    backward<T><<<blocks_for(count * E, THREADS), THREADS, 0, s>>>(count, C, E, (const T *)L,
                                                                   (const T *)dx, (T *)db);
  if (dL && count * C > 0)
    outer<T><<<blocks_for(count * C * C, THREADS), THREADS, 0, s>>>(count, C, E, (const T *)x,
                                                                    (const T *)db, (T *)dL);
  return launched();
}
CUDA_TYPED(solve_lower_bwd, bwd)
