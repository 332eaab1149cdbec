/* lengths.cu: arithmetic on counts (contract: ../lengths.h), a thread a count. Floor: 3 numbers of
 * i32 read and written, and 1 of a mask. Not measured: small. */
#include "cuda.cuh"
extern "C" {
#include "../lengths.h"
}

static __global__ void add(walk<3> w, int64_t n, const int32_t *a, const int32_t *b, int64_t by,
                           int64_t lo, int64_t hi, int32_t *y) {
  GRID_LOOP(i, n) {
    int64_t at[3];
    w.offsets(i, at);
    const int64_t sum = by + a[at[1]] + (b ? b[at[2]] : 0);
    y[at[0]] = (int32_t)(sum < lo ? lo : sum > hi ? hi : sum);
  }
}
template <class T> /* the same for every type of the place */
static alk_status add_i32(const alk_place *at, const alk_view *a, const alk_view *b, int64_t by,
                          int64_t lo, int64_t hi, const alk_view *y) {
  const int64_t n = alk_numel(y);
  if (n == 0) return ALK_OK;
  const alk_view *const all[3] = {y, a, b->data ? b : a};
  add<<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(
      merged(all), n, (const int32_t *)a->data, (const int32_t *)b->data, by, lo, hi,
      (int32_t *)y->data);
  return launched();
}
CUDA_TYPED(add_i32, add_i32)

static __global__ void seen(int64_t n, int64_t rows, int64_t size, const int32_t *lengths,
                            int32_t *y) {
  GRID_LOOP(u, n * rows * size) {
    const int64_t j = u % size, i = u / size % rows;
    y[u] = j < lengths[u / size / rows] && j <= i + size - rows;
  }
}
template <class T>
static alk_status present(const alk_place *at, int64_t n, int64_t rows, int64_t size,
                          const void *lengths, void *y) {
  if (n * rows * size == 0) return ALK_OK;
  seen<<<blocks_for(n * rows * size, THREADS), THREADS, 0, stream_of(at)>>>(
      n, rows, size, (const int32_t *)lengths, (int32_t *)y);
  return launched();
}
CUDA_TYPED(present, present)
