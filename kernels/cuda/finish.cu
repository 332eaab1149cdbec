/* finish.cu: factor, norm and gate behind attention, a block a row (contract: ../finish.h). What the
 * CPU keeps in room is made again from x. */
#include "norm_row.cuh"
extern "C" {
#include "../finish.h"
}

template <class T>
static int64_t no_room(const alk_place *at, const alk_finish *f) {
  (void)at, (void)f;
  return 0;
}
CUDA_TYPED(finish_fwd_room, no_room)
CUDA_TYPED(finish_bwd_room, no_room)

/* z = f x of row r. */
template <class T> struct factored {
  const T *x, *by;
  int64_t E;
  __device__ factored(const alk_finish &f, int64_t r)
      : x((const T *)f.x + r * f.n), by(f.factor ? (const T *)f.factor + r * f.sub : NULL),
        E(f.sub ? f.n / f.sub : 1) {}
  __device__ T operator()(int64_t e) const { return by ? x[e] * by[e / E] : x[e]; }
};
/* What the norm makes of z, before the gate. */
template <class T>
__device__ static T normed(const alk_finish &f, T m, T s, T z, int64_t e) {
  if (f.kind == ALK_NORM_none) return z;
  T v = (z - m) * s;
  if (f.gain) v *= ((const T *)f.gain)[e];
  return f.bias ? v + ((const T *)f.bias)[e] : v;
}

template <class T> static __global__ void forward(alk_finish f, T *o, T *mean, T *scale) {
  EACH_ROW(r, f.N) {
    const factored<T> z(f, r);
    const T *gate = f.gate ? (const T *)f.gate + r * f.sub : NULL;
    T m = 0, s = 1;
    if (f.kind != ALK_NORM_none) {
      s = row_scale<T>(f.kind, f.n, f.eps, z,
                       f.logscale ? (double)((const T *)f.logscale)[r] : 0, mean ? &m : NULL);
      if (threadIdx.x == 0) {
        if (mean) mean[r] = m;
        scale[r] = s;
      }
    }
    ROW_LOOP(e, f.n) {
      const T v = normed<T>(f, m, vabs(s), z(e), e);
      o[r * f.n + e] = gate ? v * gate[e / z.E] : v;
    }
  }
}
template <class T>
static alk_status fwd(const alk_place *at, const alk_finish *f, void *o, void *mean, void *scale,
                      void *scratch) {
  (void)scratch;
  if (f->N * f->n == 0) return ALK_OK;
  forward<T><<<blocks_for(f->N, 1), ROW_THREADS, 0, stream_of(at)>>>(*f, (T *)o, (T *)mean,
                                                                     (T *)scale);
  return launched();
}
CUDA_TYPED(finish_fwd, fwd)

template <class T>
static __global__ void backward(alk_finish f, const T *mean, const T *scale, const T *d_o, T *dx,
                                T *dfactor, T *dgate) {
  EACH_ROW(r, f.N) {
    const factored<T> z(f, r);
    const int64_t E = z.E;
    const T *g = d_o + r * f.n, *gate = f.gate ? (const T *)f.gate + r * f.sub : NULL;
    T *to = dx + r * f.n;
    const T m = mean ? mean[r] : (T)0, s = scale ? scale[r] : (T)1;
    if (!reached(f.n, g)) {
      ROW_LOOP(e, f.n) to[e] = 0;
      ROW_LOOP(h, f.sub) {
        if (f.factor) dfactor[r * f.sub + h] = 0;
        if (gate) dgate[r * f.sub + h] = 0;
      }
      continue;
    }
    for (int64_t h = 0; gate && h < f.sub; h++) {
      T dot = 0;
      ROW_LOOP(e, E) dot += g[h * E + e] * normed<T>(f, m, vabs(s), z(h * E + e), h * E + e);
      dot = block_sum(dot);
      if (threadIdx.x == 0) dgate[r * f.sub + h] = dot;
    }
    auto own = [=](int64_t e) { return gate ? g[e] * gate[e / E] : g[e]; };
    if (f.kind == ALK_NORM_none) ROW_LOOP(e, f.n) to[e] = own(e);
    else
      row_dx<T>(f.kind, f.n, z, (const T *)f.gain, m, s, own, [=](int64_t e, T v) { to[e] = v; });
    if (!f.factor) continue;
    __syncthreads(); /* heads are shared out otherwise */
    for (int64_t h = 0; h < f.sub; h++) {
      T dot = 0;
      ROW_LOOP(e, E) {
        dot += to[h * E + e] * z.x[h * E + e];
        to[h * E + e] *= z.by[h];
      }
      dot = block_sum(dot);
      if (threadIdx.x == 0) dfactor[r * f.sub + h] = dot;
    }
  }
}
template <class T>
static __global__ void parts(alk_finish f, int64_t chunks, const T *mean, const T *scale,
                             const T *d_o, T *dgain, T *dbias) {
  GRID_LOOP(u, chunks * f.n) {
    const int64_t e = u % f.n, first = u / f.n * ALK_NORM_ROWS, E = f.n / f.sub;
    T a = 0, b = 0;
    for (int64_t r = first; r < f.N && r < first + ALK_NORM_ROWS; r++) {
      T d = d_o[r * f.n + e];
      if (d == 0) continue;
      if (f.gate) d *= ((const T *)f.gate)[r * f.sub + e / E];
      const factored<T> z(f, r);
      a += d * ((z(e) - (mean ? mean[r] : (T)0)) * (scale ? vabs(scale[r]) : (T)1));
      b += d;
    }
    if (dgain) dgain[u] = a;
    if (dbias) dbias[u] = b;
  }
}
template <class T>
static alk_status bwd(const alk_place *at, const alk_finish *f, const void *mean, const void *scale,
                      const void *d_o, void *dx, void *dfactor, void *dgate, void *dgain,
                      void *dbias, void *scratch) {
  (void)scratch;
  const int64_t chunks = (f->N + ALK_NORM_ROWS - 1) / ALK_NORM_ROWS;
  const cudaStream_t s = stream_of(at);
  if (f->N * f->n == 0) return ALK_OK;
  if (dgain || dbias)
    parts<T><<<blocks_for(chunks * f->n, THREADS), THREADS, 0, s>>>(
        *f, chunks, (const T *)mean, (const T *)scale, (const T *)d_o, (T *)dgain, (T *)dbias);
  backward<T><<<blocks_for(f->N, 1), ROW_THREADS, 0, s>>>(*f, (const T *)mean, (const T *)scale,
                                                          (const T *)d_o, (T *)dx, (T *)dfactor,
                                                          (T *)dgate);
  return launched();
}
CUDA_TYPED(finish_bwd, bwd)
