/* pointwise.cu: every entry of ../pointwise.def (contract: ../pointwise.h). One kernel for all,
 * with the entry as an argument: the branch is the same for every thread.
 *
 * Floor: 2 numbers read and written forward, 3 backward. Share of a copy's rate (cuda.cuh) of exp,
 * bf16 and f32: forward .69 and .68, backward .47 and .66; numbers go one by one. */
#include "functions.cuh"
extern "C" {
#include "../pointwise.h"
}

template <class T>
static __global__ void values(alk_pointwise op, int64_t n, const T *x, T *y,
                              typename arithmetic<T>::type a, typename arithmetic<T>::type b) {
  typedef typename arithmetic<T>::type real;
  switch (op) {
#define POINTWISE(name, ...)                                                                       \
  case ALK_PW_##name:                                                                              \
    GRID_LOOP(i, n) store(y, i, pw_##name<real>::of(load(x, i), a, b));                            \
    break;
#include "../pointwise.def"
#undef POINTWISE
  default:
    break;
  }
}

template <class T>
static __global__ void slopes(alk_pointwise op, int64_t n, const T *r, const T *g, T *dx,
                              typename arithmetic<T>::type a, typename arithmetic<T>::type b) {
  typedef typename arithmetic<T>::type real;
  switch (op) {
#define POINTWISE(name, ...)                                                                       \
  case ALK_PW_##name:                                                                              \
    GRID_LOOP(i, n) {                                                                              \
      const real d = load(g, i), k = load(r, i);                                                   \
      store(dx, i, (real)PASSED(d, pw_##name<real>::slope(d, k, k, a, b)));                        \
    }                                                                                              \
    break;
#include "../pointwise.def"
#undef POINTWISE
  default:
    break;
  }
}

template <class T>
static alk_status fwd(const alk_place *at, alk_pointwise op, int64_t n, const void *x, void *y,
                      const double *p) {
  typedef typename arithmetic<T>::type real;
  if (n == 0) return ALK_OK;
  values<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(
      op, n, (const T *)x, (T *)y, p ? (real)p[0] : 0, p ? (real)p[1] : 0);
  return launched();
}
CUDA_TYPED_BF16(pointwise_fwd, fwd)

template <class T>
static alk_status bwd(const alk_place *at, alk_pointwise op, int64_t n, const void *r,
                      const void *g, void *dx, const double *p) {
  typedef typename arithmetic<T>::type real;
  if (n == 0) return ALK_OK;
  slopes<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(
      op, n, (const T *)(r ? r : g), (const T *)g, (T *)dx, p ? (real)p[0] : 0, p ? (real)p[1] : 0);
  return launched();
}
CUDA_TYPED_BF16(pointwise_bwd, bwd)
