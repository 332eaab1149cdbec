/* check_ids.cu: control numbers (contract: ../check_ids.h). One block: which bad one is the first is
 * known when all threads are done. */
#include "cuda.cuh"
extern "C" {
#include "../check_ids.h"
}

static __global__ void check(int64_t n, int64_t hi, int64_t other, bool besides,
                             const int32_t *ids, int32_t *clean, int32_t *note) {
  long long first = n;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const int32_t v = ids[i];
    const bool fine = (v >= 0 && v <= hi) || (besides && v == other);
    clean[i] = fine ? v : (int32_t)other;
    if (!fine && i < first) first = i;
  }
  first = block_join(first, (long long)n, [](long long a, long long b) { return a < b ? a : b; });
  if (threadIdx.x == 0 && first < n && note[0] < 0) note[0] = (int32_t)first, note[1] = ids[first];
}
static alk_status check_ids(const alk_place *at, int64_t n, int64_t hi, int64_t other,
                            bool besides, const void *ids, void *clean, void *notes, int entry) {
  if (n == 0) return ALK_OK;
  check<<<1, 1024, 0, stream_of(at)>>>(n, hi, other, besides, (const int32_t *)ids,
                                       (int32_t *)clean, (int32_t *)notes + 2 * entry);
  return launched();
}
CUDA_ANY(check_ids, check_ids)
