/* dropout.cu: numbers left out by a Philox key (contract: ../dropout.h); the words are the CPU's,
 * four a thread.
 *
 * Floor: 2 numbers read and written, forward and backward. Share of a copy's rate (cuda.cuh), bf16
 * and f32: forward .63 and .44, backward .45 and .49; a thread's four numbers go one by one. */
#include "cuda.cuh"
extern "C" {
#include "../dropout.h"
}

template <class T>
static __global__ void keep(T *y, const T *x, int64_t n, uint64_t key, uint64_t threshold,
                            real_of<T> scale) {
  GRID_LOOP(b, (n + 3) / 4) {
    uint32_t r[4];
    alk_philox(key, (uint64_t)b, r);
    for (int k = 0; k < 4; k++) {
      const int64_t i = 4 * b + k;
      if (i < n) store(y, i, r[k] >= threshold ? load(x, i) * scale : 0);
    }
  }
}
template <class T>
static alk_status dropout(const alk_place *at, void *y, const void *x, int64_t n, uint64_t key,
                          uint64_t threshold, double scale) {
  if (n == 0) return ALK_OK;
  keep<T><<<blocks_for((n + 3) / 4, THREADS), THREADS, 0, stream_of(at)>>>(
      (T *)y, (const T *)x, n, key, threshold, (real_of<T>)scale);
  return launched();
}
CUDA_TYPED_BF16(dropout, dropout)
