/* latest.cu: the last tokens before a place (contract: ../latest.h), a thread a number of the
 * result.
 *
 * Floor: 2 numbers read and written of each of the result; backward a gradient read for each, dold
 * and dnew written. Not measured: small. */
#include "cuda.cuh"
extern "C" {
#include "../latest.h"
}

__device__ static int64_t length(const alk_latest &g, int64_t b) {
  return g.lengths ? within(((const int32_t *)g.lengths)[b], g.T) : g.T;
}
__device__ static int64_t held(const alk_latest &g, int64_t b) {
  return g.held ? within(((const int32_t *)g.held)[b], g.K) : g.K;
}

template <class T>
static __global__ void forward(alk_latest g, int64_t places, const T *old, const T *more, T *y) {
  const int64_t w = g.width;
  GRID_LOOP(u, g.B * places * g.size * w) {
    const int64_t e = u % w, i = u / w % g.size, r = u / w / g.size, b = r / places;
    const int64_t at = (g.every ? r % places * g.every : length(g, b)) - 1 - i;
    T v = (T)0;
    if (at >= 0 && at < length(g, b)) v = more[(b * g.T + at) * w + e];
    if (at < 0 && -1 - at < held(g, b)) v = old[(b * g.K - 1 - at) * w + e];
    y[u] = v;
  }
}
template <class T>
static alk_status fwd(const alk_place *at, const alk_latest *g, const void *old, const void *more,
                      void *y) {
  const int64_t places = alk_latest_places(g), n = g->B * places * g->size * g->width;
  if (n == 0) return ALK_OK;
  forward<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(*g, places, (const T *)old,
                                                                    (const T *)more, (T *)y);
  return launched();
}
CUDA_TYPED_BF16(latest_fwd, fwd)

/* The sum of entry at + n every of each place n that looks back at it; `at` from place 0. */
template <class T>
__device__ static real_of<T> collected(const alk_latest &g, int64_t places, const T *dy, int64_t b,
                                       int64_t at, int64_t e) {
  real_of<T> sum = 0;
  for (int64_t n = at < 0 ? (-at + g.every - 1) / g.every : 0; n < places; n++) {
    const int64_t i = at + n * g.every;
    if (i >= g.size) break;
    sum += load(dy, ((b * places + n) * g.size + i) * g.width + e);
  }
  return sum;
}
template <class T>
static __global__ void backward(alk_latest g, int64_t places, const T *dy, T *dold, T *dnew) {
  const int64_t w = g.width, all = g.K + g.T;
  GRID_LOOP(u, g.B * all * w) {
    const int64_t e = u % w, b = u / w / all, j = u / w % all - g.K;
    const int64_t first = g.every ? 0 : length(g, b);
    if (j < 0 && dold) {
      const int64_t past = j + g.K;
      dold[(b * g.K + past) * w + e] =
          (T)(past < held(g, b) ? collected(g, places, dy, b, first + past, e) : 0);
    }
    if (j >= 0 && dnew) {
      const int64_t back = first - 1 - j;
      const bool counts = j < length(g, b) && (g.every || back >= 0);
      dnew[(b * g.T + j) * w + e] = (T)(counts ? collected(g, places, dy, b, back, e) : 0);
    }
  }
}
template <class T>
static alk_status bwd(const alk_place *at, const alk_latest *g, const void *dy, void *dold,
                      void *dnew) {
  const int64_t n = g->B * (g->K + g->T) * g->width;
  if (n == 0) return ALK_OK;
  backward<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(
      *g, alk_latest_places(g), (const T *)dy, (T *)dold, (T *)dnew);
  return launched();
}
CUDA_TYPED_BF16(latest_bwd, bwd)
