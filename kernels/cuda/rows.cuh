/* rows.cuh: one row of numbers at a time, by a block of ROW_THREADS threads that all see the results. */
#ifndef ALK_CUDA_ROWS_CUH
#define ALK_CUDA_ROWS_CUH
#include "functions.cuh"

enum { ROW_THREADS = 128 };
#define ROW_LOOP(i, n) for (int64_t i = threadIdx.x; i < (n); i += blockDim.x)
#define ROW_GROUPS(i, n, W)                                                                        \
  for (int64_t i = (int64_t)threadIdx.x * (W); i < (n); i += (int64_t)blockDim.x * (W))
/* Columns that a thread sums at a time. */
#define COLUMNS(T) (GROUP(T) < 4 ? GROUP(T) : 4)
#define EACH_ROW(r, N) for (int64_t r = blockIdx.x; r < (N); r += gridDim.x)

template <class T> __device__ inline T larger(T a, T b) { return b > a ? b : a; }
/* Does any gradient reach a row of n results, `step` apart? */
template <class T> __device__ inline bool reached(int64_t n, const T *g, int64_t step = 1) {
  bool any = false;
  ROW_LOOP(i, n) any |= load(g, i * step) != 0;
  return __syncthreads_or(any);
}
template <int W, class T> __device__ inline bool row_reached(int64_t n, const T *g) {
  bool any = false;
  ROW_GROUPS(i, n, W) {
    real_of<T> v[W];
    load_all<W>(g, i, v);
    for (int k = 0; k < W; k++) any |= v[k] != 0;
  }
  return __syncthreads_or(any);
}
#endif
