/* embedding.cu: rows of a table, and gradients summed into them in the order of the ids (contract:
 * ../embedding.h). The backward is plain: a thread an entry of the table looks through all ids, N V C
 * steps where sorted ids take N C. */
#include "cuda.cuh"
extern "C" {
#include "../embedding.h"
}

template <class T>
static __global__ void gather(T *y, const T *table, const int32_t *ids, int64_t N, int64_t C) {
  GRID_LOOP(i, N * C) y[i] = table[ids[i / C] * C + i % C];
}
template <class T>
static alk_status fwd(const alk_place *at, void *y, const void *table, const void *ids, int64_t N,
                      int64_t C) {
  if (N * C == 0) return ALK_OK;
  gather<T><<<blocks_for(N * C, THREADS), THREADS, 0, stream_of(at)>>>(
      (T *)y, (const T *)table, (const int32_t *)ids, N, C);
  return launched();
}
CUDA_TYPED(embedding_fwd, fwd)

template <class T>
static __global__ void scatter(T *d, const T *g, const int32_t *ids, int64_t N, int64_t V,
                               int64_t C) {
  GRID_LOOP(u, V * C) {
    const int64_t v = u / C, c = u % C;
    T sum = 0;
    for (int64_t i = 0; i < N; i++)
      if (ids[i] == v) sum += g[i * C + c];
    d[u] = sum;
  }
}
template <class T>
static alk_status bwd(const alk_place *at, void *dtable, const void *dy, const void *ids, int64_t N,
                      int64_t V, int64_t C) {
  if (V * C == 0) return ALK_OK;
  scatter<T><<<blocks_for(V * C, THREADS), THREADS, 0, stream_of(at)>>>(
      (T *)dtable, (const T *)dy, (const int32_t *)ids, N, V, C);
  return launched();
}
CUDA_TYPED(embedding_bwd, bwd)
