/* reach.cu: rows that a gradient reaches, a block a row (contract: ../reach.h). Plain: a row is read
 * to its end. */
#include "rows.cuh"
extern "C" {
#include "../reach.h"
}

/* Offset of number `index` of the axes [from, to) of a view, the last the fastest. */
__device__ static int64_t offset_of(const alk_view &v, int from, int to, int64_t index) {
  int64_t at = 0;
  for (int a = to - 1; a >= from; a--) {
    at += index % v.size[a] * v.stride[a];
    index /= v.size[a];
  }
  return at;
}
static int64_t count(const alk_view *v, int from, int to) {
  int64_t n = 1;
  for (int a = from; a < to; a++) n *= v->size[a];
  return n;
}

template <class T>
static __global__ void reach_rows(alk_view g, int rows, int64_t n, int64_t each, bool *mask) {
  EACH_ROW(r, n) {
    const T *p = (const T *)g.data + offset_of(g, 0, rows, r);
    bool any = false;
    ROW_LOOP(i, each) any |= p[offset_of(g, rows, g.ndim, i)] != 0;
    any = __syncthreads_or(any);
    if (threadIdx.x == 0) mask[r] = mask[r] || any;
  }
}
template <class T>
static alk_status reach(const alk_place *at, const alk_view *g, int rows, void *mask) {
  const int64_t n = count(g, 0, rows);
  if (n == 0) return ALK_OK;
  reach_rows<T><<<blocks_for(n, 1), ROW_THREADS, 0, stream_of(at)>>>(
      *g, rows, n, count(g, rows, g->ndim), (bool *)mask);
  return launched();
}
CUDA_TYPED(reach, reach)

template <class T>
static __global__ void dirty_rows(alk_view x, int rows, int64_t n, int64_t each, const bool *mask,
                                  int32_t *dirty) {
  EACH_ROW(r, n) {
    if (mask[r]) continue;
    const T *p = (const T *)x.data + offset_of(x, 0, rows, r);
    ROW_LOOP(i, each) {
      const T v = p[offset_of(x, rows, x.ndim, i)];
      if (!(v - v == 0)) *dirty = 1; /* whoever comes last writes the same */
    }
  }
}
template <class T>
static alk_status reach_dirty(const alk_place *at, const alk_view *x, int rows, const void *mask,
                              void *dirty) {
  const int64_t n = count(x, 0, rows);
  if (n == 0) return ALK_OK;
  dirty_rows<T><<<blocks_for(n, 1), ROW_THREADS, 0, stream_of(at)>>>(
      *x, rows, n, count(x, rows, x->ndim), (const bool *)mask, (int32_t *)dirty);
  return launched();
}
CUDA_TYPED(reach_dirty, reach_dirty)

template <class T>
static __global__ void clean_rows(alk_view x, int64_t n, int64_t each, const bool *mask, T *y) {
  GRID_LOOP(i, n * each)
    y[i] = mask[i / each] ? ((const T *)x.data)[offset_of(x, 0, x.ndim, i)] : (T)0;
}
template <class T>
static alk_status reach_clean(const alk_place *at, const alk_view *x, int rows, const void *mask,
                              void *y) {
  const int64_t n = count(x, 0, rows), each = count(x, rows, x->ndim);
  if (n * each == 0) return ALK_OK;
  clean_rows<T><<<blocks_for(n * each, THREADS), THREADS, 0, stream_of(at)>>>(
      *x, n, each, (const bool *)mask, (T *)y);
  return launched();
}
CUDA_TYPED(reach_clean, reach_clean)
