/* check_ids.cu: control numbers (contract: ../check_ids.h). One block: which bad one is the first
 * is known when all threads are done.
 *
 * Floor: 2 numbers of i32 read and written. Not measured: small. */
#include "cuda.cuh"
extern "C" {
#include "../check_ids.h"
}

static __global__ void check(int64_t n, int64_t hi, int64_t other, bool besides, bool both,
                             const int32_t *ids, int32_t *clean, int32_t *note) {
  long long first = n;
  auto check_one = [&](int64_t i, int32_t v) {
    const bool fine = (v >= 0 && v <= hi) || (besides && v == other);
    if (!fine && i < first) first = i;
    return fine ? v : (int32_t)other;
  };
  const int W = 4;
  const int64_t whole = both ? n / W * W : 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x * W; i < whole; i += blockDim.x * W) {
    group<int32_t, W> v = groups<W>((int32_t *)ids, i);
    for (int k = 0; k < W; k++) v.at[k] = check_one(i + k, v.at[k]);
    groups<W>(clean, i) = v;
  }
  for (int64_t i = whole + threadIdx.x; i < n; i += blockDim.x) clean[i] = check_one(i, ids[i]);
  first = block_min(first, (long long)n);
  if (threadIdx.x == 0 && first < n && note[0] < 0) note[0] = (int32_t)first, note[1] = ids[first];
}
static alk_status check_ids(const alk_place *at, int64_t n, int64_t hi, int64_t other, bool besides,
                            const void *ids, void *clean, void *notes, int entry) {
  if (n == 0) return ALK_OK;
  check<<<1, 1024, 0, stream_of(at)>>>(n, hi, other, besides, grouped(0, 0, ids, clean),
                                       (const int32_t *)ids, (int32_t *)clean,
                                       (int32_t *)notes + 2 * entry);
  return launched();
}
CUDA_ANY(check_ids, check_ids)
