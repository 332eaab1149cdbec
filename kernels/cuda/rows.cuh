/* rows.cuh: one row of numbers at a time, by a block of ROW_THREADS threads that all see the
 * results. */
#ifndef ALK_CUDA_ROWS_CUH
#define ALK_CUDA_ROWS_CUH
#include "functions.cuh"

enum { ROW_THREADS = 128 };
#define ROW_LOOP(i, n) for (int64_t i = threadIdx.x; i < (n); i += blockDim.x)
#define ROW_GROUPS(i, n, W)                                                                        \
  for (int64_t i = (int64_t)threadIdx.x * (W); i < (n); i += (int64_t)blockDim.x * (W))
/* Who shares a row: a block, or so many neighbours of a warp, a power of two; all of them get a
 * sum. The threads of a warp ask together, whatever their rows are. */
struct by_block {
  __device__ int64_t at() const { return threadIdx.x; }
  __device__ int64_t of() const { return blockDim.x; }
  template <class T> __device__ T sum(T v) const { return block_sum(v); }
};
struct by_lanes {
  int lanes;
  __device__ int64_t at() const { return threadIdx.x & (lanes - 1); }
  __device__ int64_t of() const { return lanes; }
  template <class T> __device__ T sum(T v) const {
    for (int h = lanes / 2; h > 0; h /= 2) v += __shfl_xor_sync(0xffffffffu, v, h);
    return v;
  }
};
#define TEAM_GROUPS(team, i, n, W)                                                                 \
  for (int64_t i = (team).at() * (W); i < (n); i += (team).of() * (W))
/* Columns that a thread sums at a time. */
#define COLUMNS(T) (GROUP(T) < 4 ? GROUP(T) : 4)
#define EACH_ROW(r, N) for (int64_t r = blockIdx.x; r < (N); r += gridDim.x)

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
