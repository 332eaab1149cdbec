/* visible.cu: attention in parts over visible entries (contract: ../visible.h). Plain: a thread a
 * result, sums in the order of the keys or rows.
 *
 * Multiply-adds: D a visible pair. Floor of bytes: the stored entries (B,H,T,S) once. Oracle and
 * stopgap, not for speed. */
#include "rows.cuh"
extern "C" {
#include "../visible.h"
}

template <class T>
static __global__ void score(alk_visible g, int64_t D, T scale, const T *q, const T *k, T *s) {
  GRID_LOOP(u, g.B * g.H * g.T * g.S) {
    const int64_t j = u % g.S, i = u / g.S % g.T, h = u / g.S / g.T % g.H, b = u / g.S / g.T / g.H;
    const alk_range seen = alk_visible_keys(&g, b, i);
    T sum = 0;
    if (j >= seen.from && j < seen.to) {
      const T *x = q + ((b * g.T + i) * g.H + h) * D,
              *z = k + ((b * g.S + j) * g.Hkv + h / (g.H / g.Hkv)) * D;
      for (int64_t d = 0; d < D; d++) sum += x[d] * z[d];
      sum *= scale;
    }
    s[u] = sum;
  }
}
template <class T>
static alk_status scores(const alk_place *at, const alk_visible *g, int64_t D, double scale,
                         const void *q, const void *k, void *s) {
  const int64_t n = g->B * g->H * g->T * g->S;
  if (n == 0) return ALK_OK;
  score<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(*g, D, (T)scale, (const T *)q,
                                                                  (const T *)k, (T *)s);
  return launched();
}
CUDA_TYPED(visible_scores, scores)

template <class T>
static __global__ void gather_keys(alk_visible g, int64_t D, T scale, const T *w, const T *v,
                                   T *y) {
  GRID_LOOP(u, g.B * g.T * g.H * D) {
    const int64_t d = u % D, h = u / D % g.H, i = u / D / g.H % g.T, b = u / D / g.H / g.T;
    const alk_range seen = alk_visible_keys(&g, b, i);
    const T *a = w + ((b * g.H + h) * g.T + i) * g.S;
    const int64_t hk = h / (g.H / g.Hkv);
    T sum = 0;
    for (int64_t j = seen.from; j < seen.to; j++)
      sum += a[j] * v[((b * g.S + j) * g.Hkv + hk) * D + d];
    y[u] = scale * sum;
  }
}
template <class T>
static alk_status gather(const alk_place *at, const alk_visible *g, int64_t D, double scale,
                         const void *w, const void *v, void *y) {
  const int64_t n = g->B * g->T * g->H * D;
  if (n == 0) return ALK_OK;
  gather_keys<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(
      *g, D, (T)scale, (const T *)w, (const T *)v, (T *)y);
  return launched();
}
CUDA_TYPED(visible_gather, gather)

template <class T>
static __global__ void scatter_rows(alk_visible g, int64_t D, T scale, const T *w, const T *y,
                                    T *x) {
  const int64_t group = g.H / g.Hkv;
  GRID_LOOP(u, g.B * g.S * g.Hkv * D) {
    const int64_t d = u % D, hk = u / D % g.Hkv, j = u / D / g.Hkv % g.S, b = u / D / g.Hkv / g.S;
    const alk_range rows = alk_visible_rows(&g, b, j);
    T sum = 0;
    for (int64_t h = hk * group; h < (hk + 1) * group; h++)
      for (int64_t i = rows.from; i < rows.to; i++)
        sum += w[((b * g.H + h) * g.T + i) * g.S + j] * y[((b * g.T + i) * g.H + h) * D + d];
    x[u] = scale * sum;
  }
}
template <class T>
static alk_status scatter(const alk_place *at, const alk_visible *g, int64_t D, double scale,
                          const void *w, const void *y, void *x) {
  const int64_t n = g->B * g->S * g->Hkv * D;
  if (n == 0) return ALK_OK;
  scatter_rows<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(
      *g, D, (T)scale, (const T *)w, (const T *)y, (T *)x);
  return launched();
}
CUDA_TYPED(visible_scatter, scatter)

template <class T> static __global__ void rows_reached(alk_visible g, const T *d, bool *row) {
  GRID_LOOP(u, g.B * g.T * g.H) {
    const int64_t h = u % g.H, i = u / g.H % g.T, b = u / g.H / g.T;
    const alk_range seen = alk_visible_keys(&g, b, i);
    const T *p = d + ((b * g.H + h) * g.T + i) * g.S;
    bool any = false;
    for (int64_t j = seen.from; j < seen.to && !any; j++) any = p[j] != 0;
    row[u] = any;
  }
}
template <class T> static __global__ void keys_reached(alk_visible g, const T *d, bool *key) {
  const int64_t group = g.H / g.Hkv;
  GRID_LOOP(u, g.B * g.S * g.Hkv) {
    const int64_t hk = u % g.Hkv, j = u / g.Hkv % g.S, b = u / g.Hkv / g.S;
    const alk_range rows = alk_visible_rows(&g, b, j);
    bool any = false;
    for (int64_t h = hk * group; h < (hk + 1) * group; h++)
      for (int64_t i = rows.to; i-- > rows.from && !any;)
        any = d[((b * g.H + h) * g.T + i) * g.S + j] != 0;
    key[u] = any;
  }
}
template <class T>
static alk_status visible_reach(const alk_place *at, const alk_visible *g, const void *d, void *row,
                                void *key) {
  const int64_t rows = g->B * g->T * g->H, keys = g->B * g->S * g->Hkv;
  const cudaStream_t s = stream_of(at);
  if (rows)
    rows_reached<T><<<blocks_for(rows, THREADS), THREADS, 0, s>>>(*g, (const T *)d, (bool *)row);
  if (keys)
    keys_reached<T><<<blocks_for(keys, THREADS), THREADS, 0, s>>>(*g, (const T *)d, (bool *)key);
  return launched();
}
CUDA_TYPED(visible_reach, visible_reach)
