/* select.cu: of two arrays by a third (contract: ../select.h), a thread a number, whatever the
 * strides.
 *
 * Floor: 3 numbers read and written. Not measured: small. */
#include "cuda.cuh"
extern "C" {
#include "../select.h"
}

__device__ static bool holds(const void *p, alk_dtype t, int64_t i) {
  switch (t) {
  case ALK_F64:
    return ((const double *)p)[i] != 0;
  case ALK_F32:
    return ((const float *)p)[i] != 0;
  case ALK_BF16:
    return (((const uint16_t *)p)[i] & 0x7fffu) != 0;
  default:
    return ((const int32_t *)p)[i] != 0;
  }
}
template <class T>
static __global__ void choose(walk<4> w, int64_t n, T *y, const void *cond, alk_dtype t, const T *a,
                              const T *b) {
  GRID_LOOP(i, n) {
    int64_t at[4];
    w.offsets(i, at);
    y[i] = holds(cond, t, at[1]) ? (a ? a[at[2]] : (T)0) : (b ? b[at[3]] : (T)0);
  }
}
template <class T>
static alk_status select(const alk_place *at, const alk_view *y, const alk_view *cond,
                         const alk_view *a, const alk_view *b) {
  const int64_t n = alk_numel(y);
  if (n == 0) return ALK_OK;
  alk_view none = *cond; /* a view without data has no strides either */
  const alk_view *const all[4] = {y, cond, a->data ? a : &none, b->data ? b : &none};
  choose<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(
      merged(all), n, (T *)y->data, cond->data, cond->dtype, (const T *)a->data,
      (const T *)b->data);
  return launched();
}
CUDA_TYPED_BF16(select, select)
