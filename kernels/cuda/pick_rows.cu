/* pick_rows.cu: rows picked by number (contract: ../pick_rows.h), W numbers a thread.
 *
 * Floor: 2 numbers read and written of each row's; pick_rows_add 3. Not measured. */
#include "cuda.cuh"
extern "C" {
#include "../pick_rows.h"
}

template <class T, int W>
static __global__ void pick(const T *x, const int32_t *ids, int64_t P, int64_t width, T *y) {
  GRID_GROUPS(u, P * width, W) {
    const int64_t p = quotient(u, width);
    const int32_t id = ids[p];
    real_of<T> v[W] = {};
    if (id) load_all<W>(x, (id - 1) * width + u - p * width, v);
    store_all<W>(y, u, v);
  }
}
template <class T>
static alk_status pick_rows(const alk_place *at, const void *x, const void *ids, int64_t P,
                            int64_t width, void *y) {
  const int W = grouped(width, sizeof(T), x, y) ? GROUP(T) : 1;
  auto run = W > 1 ? pick<T, GROUP(T)> : pick<T, 1>;
  if (P * width == 0) return ALK_OK;
  run<<<blocks_for(P * width / W, THREADS), THREADS, 0, stream_of(at)>>>(
      (const T *)x, (const int32_t *)ids, P, width, (T *)y);
  return launched();
}
CUDA_TYPED_BF16(pick_rows, pick_rows)

template <class T, int W>
static __global__ void add(const T *y, const int32_t *ids, int64_t P, int64_t width, T *x) {
  GRID_GROUPS(u, P * width, W) {
    const int64_t p = quotient(u, width);
    const int32_t id = ids[p];
    if (!id) continue;
    real_of<T> v[W], sum[W];
    const int64_t to = (id - 1) * width + u - p * width;
    load_all<W>(y, u, v);
    load_all<W>((const T *)x, to, sum);
    for (int l = 0; l < W; l++) sum[l] += v[l];
    store_all<W>(x, to, sum);
  }
}
template <class T>
static alk_status pick_rows_add(const alk_place *at, const void *y, const void *ids, int64_t P,
                                int64_t width, void *x) {
  const int W = grouped(width, sizeof(T), x, y) ? GROUP(T) : 1;
  auto run = W > 1 ? add<T, GROUP(T)> : add<T, 1>;
  if (P * width == 0) return ALK_OK;
  run<<<blocks_for(P * width / W, THREADS), THREADS, 0, stream_of(at)>>>(
      (const T *)y, (const int32_t *)ids, P, width, (T *)x);
  return launched();
}
CUDA_TYPED_BF16(pick_rows_add, pick_rows_add)
