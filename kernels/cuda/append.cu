/* append.cu: caches that grow (contract: ../append.h), a thread a number of the result.
 *
 * Floor: 2 numbers read and written of each token of the result, in place of each new one;
 * backward 2. Not measured: small. */
#include "cuda.cuh"
extern "C" {
#include "../append.h"
}

__device__ static int64_t kept(const alk_append &g, int64_t b) {
  return within(((const int32_t *)g.counts)[b], g.S);
}
__device__ static int64_t taken(const alk_append &g, int64_t b) {
  return g.lengths ? within(((const int32_t *)g.lengths)[b], g.T) : g.T;
}

template <class T>
static __global__ void forward(alk_append g, const T *cache, const T *more, T *all) {
  const int64_t w = g.width, n = g.S + g.T;
  GRID_LOOP(u, g.B * n * w) {
    const int64_t e = u % w, j = u / w % n, b = u / w / n, k = kept(g, b), t = taken(g, b);
    T *to = all + b * g.all_row + j * w + e;
    if (j >= k && j < k + t) *to = more[(b * g.T + j - k) * w + e];
    else if (cache) *to = j < k ? cache[b * g.cache_row + j * w + e] : (T)0;
    else if (j >= k + t && j >= g.S) *to = (T)0;
  }
}
template <class T>
static alk_status fwd(const alk_place *at, const alk_append *g, const void *cache, const void *more,
                      void *all) {
  const int64_t n = g->B * (g->S + g->T) * g->width;
  if (n == 0) return ALK_OK;
  forward<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(*g, (const T *)cache,
                                                                    (const T *)more, (T *)all);
  return launched();
}
CUDA_TYPED_BF16(append_fwd, fwd)

template <class T>
static __global__ void backward(alk_append g, const T *dall, T *dcache, T *dnew) {
  const int64_t w = g.width, n = g.S + g.T;
  GRID_LOOP(u, g.B * n * w) {
    const int64_t e = u % w, j = u / w % n, b = u / w / n, k = kept(g, b);
    const T *row = dall + b * g.all_row + e;
    if (j < g.S && dcache) dcache[(b * g.S + j) * w + e] = j < k ? row[j * w] : (T)0;
    const int64_t t = j - g.S;
    if (t >= 0 && dnew) dnew[(b * g.T + t) * w + e] = t < taken(g, b) ? row[(k + t) * w] : (T)0;
  }
}
template <class T>
static alk_status bwd(const alk_place *at, const alk_append *g, const void *dall, void *dcache,
                      void *dnew) {
  const int64_t n = g->B * (g->S + g->T) * g->width;
  if (n == 0) return ALK_OK;
  backward<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(*g, (const T *)dall,
                                                                     (T *)dcache, (T *)dnew);
  return launched();
}
CUDA_TYPED_BF16(append_bwd, bwd)
