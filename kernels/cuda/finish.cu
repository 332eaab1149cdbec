/* finish.cu: factor, norm and gate behind attention (contract: ../finish.h). A row that is one
 * head is shared by a few lanes, 16 bytes each where rows lie so; one of several heads by a block.
 * What the CPU keeps in room is made again from x; of bf16 the gradient before the factor stays
 * f32: what the factor gets is a small sum of large terms.
 *
 * Floor: 2 numbers read and written forward, 3 backward; dgain and dbias read 2 more. Share of a
 * copy's rate (cuda.cuh) of l2 over heads of 64 in bf16: forward .78, backward .56. Not measured:
 * rows of several heads. */
#include "norm_row.cuh"
extern "C" {
#include "../finish.h"
}

template <class T> static int64_t no_room(const alk_place *at, const alk_finish *f) {
  (void)at, (void)f;
  return 0;
}
CUDA_TYPED_BF16(finish_fwd_room, no_room)
enum { WIDE_BLOCKS = 2048 }; /* that have a row of their own */
static unsigned blocks_of(const alk_finish *f, bool wide) {
  const unsigned n = blocks_for(f->N, 1);
  return wide && n > WIDE_BLOCKS ? WIDE_BLOCKS : n;
}
/* One head, which a warp or less of groups of W covers. */
static bool one_head(const alk_finish *f) { return f->sub <= 1 && f->n <= 256; }
static int lanes_of(const alk_finish *f, int W) {
  int lanes = 1;
  while (lanes < 32 && lanes * W < f->n) lanes *= 2;
  return lanes;
}
template <class T> static int64_t bwd_room(const alk_place *at, const alk_finish *f) {
  const bool wide = sizeof(T) < sizeof(real_of<T>) && !one_head(f);
  return wide ? blocks_of(f, wide) * f->n * (int64_t)sizeof(real_of<T>) : 0;
}
CUDA_TYPED_BF16(finish_bwd_room, bwd_room)

/* z = f x of row r. */
template <class T> struct factored {
  typedef real_of<T> real;
  const T *x;
  const real *by;
  int64_t E;
  __device__ factored(const alk_finish &f, int64_t r)
      : x((const T *)f.x + r * f.n), by(f.factor ? (const real *)f.factor + r * f.sub : NULL),
        E(f.sub ? f.n / f.sub : 1) {}
  __device__ real operator()(int64_t e) const { return by ? load(x, e) * by[e / E] : load(x, e); }
};
/* What the norm makes of z, before the gate. */
template <class T>
__device__ static real_of<T> normed(const alk_finish &f, real_of<T> m, real_of<T> s, real_of<T> z,
                                    int64_t e) {
  if (f.kind == ALK_NORM_none) return z;
  real_of<T> v = (z - m) * s;
  if (f.gain) v *= load((const T *)f.gain, e);
  return f.bias ? v + load((const T *)f.bias, e) : v;
}

template <class T>
static __global__ void forward(alk_finish f, T *o, real_of<T> *mean, real_of<T> *scale) {
  typedef real_of<T> real;
  EACH_ROW(r, f.N) {
    const factored<T> z(f, r);
    const T *gate = f.gate ? (const T *)f.gate + r * f.sub : NULL;
    real m = 0, s = 1;
    if (f.kind != ALK_NORM_none) {
      s = row_scale<real, 1>(
          by_block(), f.kind, f.n, f.eps, [=](int64_t e, real *v) { *v = z(e); },
          f.logscale ? (double)((const real *)f.logscale)[r] : 0, mean != NULL, &m);
      if (threadIdx.x == 0) {
        if (mean) mean[r] = m;
        scale[r] = s;
      }
    }
    ROW_LOOP(e, f.n) {
      const real v = normed<T>(f, m, vabs(s), z(e), e);
      store(o, r * f.n + e, gate ? v * load(gate, e / z.E) : v);
    }
  }
}
template <class T, int W>
static __global__ void forward_head(alk_finish f, by_lanes team, T *o, real_of<T> *mean,
                                    real_of<T> *scale) {
  typedef real_of<T> real;
  const int64_t rows = blockDim.x / team.of();
  for (int64_t first = blockIdx.x * rows; first < f.N; first += gridDim.x * rows) {
    const int64_t mine = first + threadIdx.x / team.of(), r = mine < f.N ? mine : f.N - 1;
    const real by = f.factor ? ((const real *)f.factor)[r] : (real)1,
               gate = f.gate ? load((const T *)f.gate, r) : (real)1;
    auto z = [=](int64_t e, real *v) {
      load_all<W>((const T *)f.x, r * f.n + e, v);
      for (int k = 0; k < W; k++) v[k] *= by;
    };
    real m = 0, s = 1;
    if (f.kind != ALK_NORM_none)
      s = row_scale<real, W>(team, f.kind, f.n, f.eps, z,
                             f.logscale ? (double)((const real *)f.logscale)[r] : 0, mean != NULL,
                             &m);
    if (mine >= f.N) continue;
    if (scale && team.at() == 0) {
      if (mean) mean[r] = m;
      scale[r] = s;
    }
    TEAM_GROUPS(team, e, f.n, W) {
      real v[W];
      z(e, v);
      for (int k = 0; k < W; k++) v[k] = gate * normed<T>(f, m, vabs(s), v[k], e + k);
      store_all<W>(o, r * f.n + e, v);
    }
  }
}
template <class T>
static alk_status fwd(const alk_place *at, const alk_finish *f, void *o, void *mean, void *scale,
                      void *scratch) {
  (void)scratch;
  if (f->N * f->n == 0) return ALK_OK;
  if (one_head(f)) {
    const bool wide = grouped(f->n, sizeof(T), f->x, o);
    const int lanes = lanes_of(f, wide ? GROUP(T) : 1);
    auto run = wide ? forward_head<T, GROUP(T)> : forward_head<T, 1>;
    run<<<blocks_for(f->N, THREADS / lanes), THREADS, 0, stream_of(at)>>>(
        *f, by_lanes{lanes}, (T *)o, (real_of<T> *)mean, (real_of<T> *)scale);
    return launched();
  }
  forward<T><<<blocks_for(f->N, 1), ROW_THREADS, 0, stream_of(at)>>>(*f, (T *)o, (real_of<T> *)mean,
                                                                     (real_of<T> *)scale);
  return launched();
}
CUDA_TYPED_BF16(finish_fwd, fwd)

template <class T>
static __global__ void backward(alk_finish f, const real_of<T> *mean, const real_of<T> *scale,
                                const T *d_o, T *dx, real_of<T> *dfactor, T *dgate,
                                real_of<T> *wide) {
  typedef real_of<T> real;
  EACH_ROW(r, f.N) {
    const factored<T> z(f, r);
    const int64_t E = z.E;
    const T *g = d_o + r * f.n, *gate = f.gate ? (const T *)f.gate + r * f.sub : NULL;
    T *last = dx + r * f.n;
    real *to = wide ? wide + blockIdx.x * f.n : (real *)(void *)last;
    const real m = mean ? mean[r] : (real)0, s = scale ? scale[r] : (real)1;
    if (!reached(f.n, g)) {
      ROW_LOOP(e, f.n) last[e] = (T)0;
      ROW_LOOP(h, f.sub) {
        if (f.factor) dfactor[r * f.sub + h] = 0;
        if (gate) dgate[r * f.sub + h] = (T)0;
      }
      continue;
    }
    for (int64_t h = 0; gate && h < f.sub; h++) {
      real dot = 0;
      ROW_LOOP(e, E) dot += load(g, h * E + e) * normed<T>(f, m, vabs(s), z(h * E + e), h * E + e);
      dot = block_sum(dot);
      if (threadIdx.x == 0) store(dgate, r * f.sub + h, dot);
    }
    auto own = [=](int64_t e) { return gate ? load(g, e) * load(gate, e / E) : load(g, e); };
    auto put = [=](int64_t e, real v) {
      if (f.factor) to[e] = v;
      else store(last, e, f.made ? v * s : v);
    };
    if (f.kind == ALK_NORM_none) ROW_LOOP(e, f.n) put(e, own(e));
    else
      row_dx<real, 1>(
          by_block(), f.kind, f.n, [=](int64_t e, real *v) { *v = z(e); }, (const T *)f.gain, m,
          f.made && s > 0 ? (real)1 : s, [=](int64_t e, real *v) { *v = own(e); },
          [=](int64_t e, const real *v) { put(e, *v); });
    if (!f.factor) continue;
    __syncthreads(); /* heads are shared out otherwise */
    for (int64_t h = 0; h < f.sub; h++) {
      real dot = 0;
      ROW_LOOP(e, E) {
        const real d = to[h * E + e];
        dot += d * load(z.x, h * E + e);
        store(last, h * E + e, d * z.by[h]);
      }
      dot = block_sum(dot);
      if (threadIdx.x == 0) dfactor[r * f.sub + h] = dot;
    }
    __syncthreads(); /* before the next row */
  }
}
template <class T, int W>
static __global__ void backward_head(alk_finish f, by_lanes team, const real_of<T> *mean,
                                     const real_of<T> *scale, const T *d_o, T *dx,
                                     real_of<T> *dfactor, T *dgate) {
  typedef real_of<T> real;
  const int64_t rows = blockDim.x / team.of();
  for (int64_t first = blockIdx.x * rows; first < f.N; first += gridDim.x * rows) {
    const int64_t mine = first + threadIdx.x / team.of(), r = mine < f.N ? mine : f.N - 1;
    const real by = f.factor ? ((const real *)f.factor)[r] : (real)1,
               gate = f.gate ? load((const T *)f.gate, r) : (real)1, m = mean ? mean[r] : (real)0,
               s = scale ? scale[r] : (real)1;
    auto x = [=](int64_t e, real *v) { load_all<W>((const T *)f.x, r * f.n + e, v); };
    auto z = [=](int64_t e, real *v) {
      x(e, v);
      for (int k = 0; k < W; k++) v[k] *= by;
    };
    auto own = [=](int64_t e, real *v) {
      load_all<W>(d_o, r * f.n + e, v);
      for (int k = 0; k < W; k++) v[k] *= gate;
    };
    int some = 0;
    real of_gate = 0, of_factor = 0;
    TEAM_GROUPS(team, e, f.n, W) {
      real g[W], v[W];
      load_all<W>(d_o, r * f.n + e, g);
      if (f.gate) z(e, v);
      for (int k = 0; k < W; k++) {
        some |= g[k] != 0;
        if (f.gate) of_gate += g[k] * normed<T>(f, m, vabs(s), v[k], e + k);
      }
    }
    const bool reached = team.sum(some) > 0, stored = mine < f.N;
    if (f.gate) of_gate = team.sum(of_gate);
    auto put = [&](int64_t e, const real *d) {
      real v[W];
      if (f.factor) {
        x(e, v);
        for (int k = 0; k < W; k++) of_factor += d[k] * v[k];
      }
      for (int k = 0; k < W; k++) v[k] = reached ? d[k] * by * (f.made ? s : (real)1) : (real)0;
      if (stored) store_all<W>(dx, r * f.n + e, v);
    };
    if (f.kind == ALK_NORM_none) {
      TEAM_GROUPS(team, e, f.n, W) {
        real v[W];
        own(e, v);
        put(e, v);
      }
    } else
      row_dx<real, W>(team, f.kind, f.n, z, (const T *)f.gain, m, f.made && s > 0 ? (real)1 : s,
                      own, put);
    if (f.factor) of_factor = team.sum(of_factor);
    if (!stored || team.at() != 0) continue;
    if (f.factor) dfactor[r] = reached ? of_factor : (real)0;
    if (f.gate) store(dgate, r, reached ? of_gate : (real)0);
  }
}
template <class T>
static __global__ void parts(alk_finish f, int64_t chunks, const real_of<T> *mean,
                             const real_of<T> *scale, const T *d_o, real_of<T> *dgain,
                             real_of<T> *dbias) {
  typedef real_of<T> real;
  GRID_LOOP(u, chunks * f.n) {
    const int64_t e = u % f.n, first = u / f.n * ALK_NORM_ROWS, E = f.n / f.sub;
    real a = 0, b = 0;
    for (int64_t r = first; r < f.N && r < first + ALK_NORM_ROWS; r++) {
      real d = load(d_o, r * f.n + e);
      if (d == 0) continue;
      if (f.gate) d *= load((const T *)f.gate, r * f.sub + e / E);
      const factored<T> z(f, r);
      a += d * ((z(e) - (mean ? mean[r] : (real)0)) * (scale ? vabs(scale[r]) : (real)1));
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
  const bool wide = sizeof(T) < sizeof(real_of<T>);
  const int64_t chunks = (f->N + ALK_NORM_ROWS - 1) / ALK_NORM_ROWS;
  const cudaStream_t s = stream_of(at);
  if (f->N * f->n == 0) return ALK_OK;
  if (dgain || dbias)
    parts<T><<<blocks_for(chunks * f->n, THREADS), THREADS, 0, s>>>(
        *f, chunks, (const real_of<T> *)mean, (const real_of<T> *)scale, (const T *)d_o,
        (real_of<T> *)dgain, (real_of<T> *)dbias);
  if (one_head(f)) {
    const bool whole = grouped(f->n, sizeof(T), f->x, d_o, dx, f->gain);
    const int lanes = lanes_of(f, whole ? GROUP(T) : 1);
    auto run = whole ? backward_head<T, GROUP(T)> : backward_head<T, 1>;
    run<<<blocks_for(f->N, THREADS / lanes), THREADS, 0, s>>>(
        *f, by_lanes{lanes}, (const real_of<T> *)mean, (const real_of<T> *)scale, (const T *)d_o,
        (T *)dx, (real_of<T> *)dfactor, (T *)dgate);
    return launched();
  }
  backward<T><<<blocks_of(f, wide), ROW_THREADS, 0, s>>>(
      *f, (const real_of<T> *)mean, (const real_of<T> *)scale, (const T *)d_o, (T *)dx,
      (real_of<T> *)dfactor, (T *)dgate, wide ? (real_of<T> *)scratch : NULL);
  return launched();
}
CUDA_TYPED_BF16(finish_bwd, bwd)
