/* cumsum.cu: running sums in f64 (contract: ../cumsum.h). Packed rows go to a block, as many
 * numbers at a time as it has threads; other axes to a thread a line, in the CPU's order.
 *
 * Floor: 2 numbers read and written, forward and backward. Share of a copy's rate (cuda.cuh) of
 * rows, bf16 and f32: forward .38 and .49, backward .30 and .50; numbers go one by one. */
#include "rows.cuh"
extern "C" {
#include "../cumsum.h"
}

template <class T>
static __global__ void running(bool reverse, int64_t O, int64_t R, int64_t I, const T *x, T *y) {
  GRID_LOOP(u, O * I) {
    const int64_t base = u / I * R * I + u % I;
    double sum = 0;
    for (int64_t k = 0; k < R; k++) {
      const int64_t at = base + (reverse ? R - 1 - k : k) * I;
      store(y, at, (real_of<T>)(sum += (double)load(x, at)));
    }
  }
}
/* A number is a sum of earlier ones alone: of its warp, of the warps before it, and of what came
 * before. */
template <class T>
static __global__ void running_rows(bool reverse, int64_t O, int64_t R_, const T *x, T *y) {
  __shared__ double warps[ROW_THREADS / 32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  EACH_ROW(u, O) {
    double before = 0;
    for (int64_t from = 0; from < R_; from += ROW_THREADS) {
      const int64_t k = from + threadIdx.x, at = u * R_ + (reverse ? R_ - 1 - k : k);
      double sum = k < R_ ? (double)load(x, at) : 0;
      for (int step = 1; step < 32; step *= 2) {
        const double more = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) sum += more;
      }
      if (lane == 31) warps[warp] = sum;
      __syncthreads();
      for (int w = 0; w < warp; w++) before += warps[w];
      if (k < R_) store(y, at, (real_of<T>)(before + sum));
      for (int w = warp; w < ROW_THREADS / 32; w++) before += warps[w];
      __syncthreads();
    }
  }
}
template <class T>
static alk_status cumsum(const alk_place *at, bool reverse, int64_t O, int64_t R, int64_t I,
                         const void *x, void *y) {
  if (O * R * I == 0) return ALK_OK;
  if (I == 1 && R > 1) {
    running_rows<T>
        <<<blocks_for(O, 1), ROW_THREADS, 0, stream_of(at)>>>(reverse, O, R, (const T *)x, (T *)y);
    return launched();
  }
  running<T><<<blocks_for(O * I, THREADS), THREADS, 0, stream_of(at)>>>(reverse, O, R, I,
                                                                        (const T *)x, (T *)y);
  return launched();
}
CUDA_TYPED_BF16(cumsum, cumsum)
