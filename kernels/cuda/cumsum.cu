/* cumsum.cu: running sums in f64 (contract: ../cumsum.h). Plain: a thread a row, in the CPU's order. */
#include "cuda.cuh"
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
template <class T>
static alk_status cumsum(const alk_place *at, bool reverse, int64_t O, int64_t R, int64_t I,
                         const void *x, void *y) {
  if (O * R * I == 0) return ALK_OK;
  running<T><<<blocks_for(O * I, THREADS), THREADS, 0, stream_of(at)>>>(reverse, O, R, I,
                                                                        (const T *)x, (T *)y);
  return launched();
}
CUDA_TYPED_BF16(cumsum, cumsum)
