/* weights.cu: weights from logits over visible entries, and what belongs to a row (contract:
 * ../visible.h). Plain: a thread an entry.
 *
 * Floor: 2 numbers read and written an entry forward, 4 backward. Oracle and stopgap, not for
 * speed. */
#include "weigh.cuh"

/* An entry of (B,H,T,S): where it stands and whether it is seen. */
typedef struct entry {
  int64_t b, h, i, j, row;
  alk_range seen;
} entry;
__device__ static entry entry_of_row(const alk_visible &g, int64_t row) {
  entry k;
  k.j = 0, k.row = row;
  k.i = k.row % g.T, k.h = k.row / g.T % g.H, k.b = k.row / g.T / g.H;
  k.seen = alk_visible_keys(&g, k.b, k.i);
  return k;
}
__device__ static entry entry_of(const alk_visible &g, int64_t u) {
  entry k = entry_of_row(g, u / g.S);
  k.j = u % g.S;
  return k;
}
/* log A of key j in the row of k; 0 without decay. */
template <class T>
__device__ static T decay_of(const alk_visible &g, const plan &p, const double *sums,
                             const entry &k, int64_t j) {
  if (!sums) return 0;
  const double *own = sums + (k.b * p.Hd + k.h / (g.H / p.Hd)) * g.S;
  return log_decay<T>(own[k.seen.to - 1], own[j]);
}

template <class T>
static __global__ void forward(alk_visible g, plan p, const T *s, const T *reference,
                               const double *sums, T *w) {
  __shared__ double c[ALK_MAX_COEFFICIENTS];
  const series f = series_of(p, c);
  GRID_LOOP(u, g.B * g.H * g.T * g.S) {
    const entry k = entry_of(g, u);
    T v = 0;
    if (k.j >= k.seen.from && k.j < k.seen.to) {
      const T x = clamped(p, capped(p, s[u])), m = reference ? reference[k.row] : (T)0;
      v = weight_of(p.f, f, x, sums != NULL, decay_of<T>(g, p, sums, k, k.j), m);
    }
    w[u] = v;
  }
}
template <class T>
static alk_status fwd(const alk_place *at, const alk_visible *g, const alk_weight_spec *spec,
                      const void *s, const void *reference, const void *sums, void *w) {
  const int64_t n = g->B * g->H * g->T * g->S;
  if (n == 0) return ALK_OK;
  forward<T><<<blocks_for(n, THREADS), THREADS, 0, stream_of(at)>>>(
      *g, plan_of(spec, true), (const T *)s, (const T *)reference, (const double *)sums, (T *)w);
  return launched();
}
CUDA_TYPED(weights_fwd, fwd)

/* ---- backward ------------------------------------------------------------------------------- */

template <class T>
static __global__ void backward(alk_visible g, plan p, const T *s, const double *sums, const T *w,
                                const T *dw, T *ds) {
  __shared__ double c[ALK_MAX_COEFFICIENTS];
  const series f = series_of(p, c);
  GRID_LOOP(u, g.B * g.H * g.T * g.S) {
    const entry k = entry_of(g, u);
    T v = 0;
    if (k.j >= k.seen.from && k.j < k.seen.to && dw[u] != 0) {
      const T x = capped(p, s[u]), y = clamped(p, x);
      if (p.f == ALK_WEIGHT_EXP) v = w[u] * dw[u];
      else if (p.f == ALK_WEIGHT_COSH) v = w[u] * vtanh(y) * dw[u];
      else {
        const T a = sums ? vexp(decay_of<T>(g, p, sums, k, k.j)) * dw[u] : dw[u];
        v = PASSED(a, a * (T)series_slope(f, (double)y));
      }
      v = limits_slope(p, x, v);
    }
    ds[u] = v;
  }
}

template <class T> __device__ static double moved(const T *w, const T *dw, int64_t u) {
  return PASSED(dw[u], (double)w[u] * (double)dw[u]);
}
/* E_ij = w_ij dw_ij = d / d log A_ij, and log A_ij = sums_p - sums_j: a thread a key, which takes
 * the rows whose last key it is as well. */
template <class T>
static __global__ void backward_sums(alk_visible g, const T *w, const T *dw, double *dsums) {
  GRID_LOOP(u, g.B * g.H * g.S) {
    const int64_t j = u % g.S, head = u / g.S, b = head / g.H;
    double sum = 0;
    for (int64_t i = 0; i < g.T; i++) {
      const alk_range seen = alk_visible_keys(&g, b, i);
      const int64_t row = (head * g.T + i) * g.S;
      if (j >= seen.from && j < seen.to) sum -= moved(w, dw, row + j);
      if (seen.from < seen.to && seen.to - 1 == j)
        for (int64_t l = seen.from; l < seen.to; l++) sum += moved(w, dw, row + l);
    }
    dsums[u] = sum;
  }
}

/* A block a coefficient of a head. */
template <class T>
static __global__ void backward_coefficients(alk_visible g, plan p, const T *s, const double *sums,
                                             const T *dw, double *out) {
  EACH_ROW(r, g.B * g.H * p.n) {
    const int c = (int)(r % p.n);
    double total = 0;
    ROW_LOOP(at, g.T * g.S) {
      const int64_t u = r / p.n * g.T * g.S + at;
      const entry k = entry_of(g, u);
      if (k.j < k.seen.from || k.j >= k.seen.to || dw[u] == 0) continue;
      const T y = clamped(p, capped(p, s[u]));
      double t = sums ? (double)(vexp(decay_of<T>(g, p, sums, k, k.j)) * dw[u]) : (double)dw[u];
      for (int n = 0; n < c; n++) t = PASSED(t, t * (double)(y / (T)POWER_UNIT));
      total += t;
    }
    total = block_sum(total);
    if (threadIdx.x == 0) out[r] = finish_power(p, c, total);
  }
}

template <class T>
static alk_status bwd(const alk_place *at, const alk_visible *g, const alk_weight_spec *spec,
                      const void *s, const void *sums, const void *w, const void *dw, void *ds,
                      void *dsums, void *dcoefficients) {
  const int64_t n = g->B * g->H * g->T * g->S, keys = g->B * g->H * g->S;
  const cudaStream_t stream = stream_of(at);
  const plan p = plan_of(spec, true);
  if (dsums && keys)
    backward_sums<T><<<blocks_for(keys, THREADS), THREADS, 0, stream>>>(
        *g, (const T *)w, (const T *)dw, (double *)dsums);
  if (dcoefficients && g->B * g->H * p.n > 0)
    backward_coefficients<T><<<blocks_for(g->B * g->H * p.n, 1), ROW_THREADS, 0, stream>>>(
        *g, p, (const T *)s, (const double *)sums, (const T *)dw, (double *)dcoefficients);
  if (ds && n)
    backward<T><<<blocks_for(n, THREADS), THREADS, 0, stream>>>(
        *g, p, (const T *)s, (const double *)sums, (const T *)w, (const T *)dw, (T *)ds);
  return launched();
}
CUDA_TYPED(weights_bwd, bwd)

/* ---- decay and row statistics ---------------------------------------------------------------- */

template <class T>
static __global__ void running(int64_t B, int64_t S, int64_t Hd, const T *a, double *sums) {
  GRID_LOOP(u, B * Hd) {
    double sum = 0;
    for (int64_t j = 0; j < S; j++)
      sums[u * S + j] = sum += (double)load(a, (u / Hd * S + j) * Hd + u % Hd);
  }
}
template <class T>
static alk_status decay_sums(const alk_place *at, int64_t B, int64_t S, int64_t Hd, const void *a,
                             void *sums) {
  if (B * Hd == 0) return ALK_OK;
  running<T><<<blocks_for(B * Hd, THREADS), THREADS, 0, stream_of(at)>>>(B, S, Hd, (const T *)a,
                                                                         (double *)sums);
  return launched();
}
CUDA_TYPED_BF16(decay_sums, decay_sums)

template <class T>
static __global__ void running_back(int64_t B, int64_t S, int64_t H, int64_t Hd,
                                    const double *dsums, T *da) {
  const int64_t heads = H / Hd;
  GRID_LOOP(u, B * Hd) {
    const int64_t b = u / Hd, hd = u % Hd;
    double sum = 0;
    for (int64_t j = S - 1; j >= 0; j--) {
      for (int64_t h = hd * heads; h < (hd + 1) * heads; h++) sum += dsums[(b * H + h) * S + j];
      store(da, (b * S + j) * Hd + hd, (real_of<T>)sum);
    }
  }
}
template <class T>
static alk_status decay_sums_bwd(const alk_place *at, int64_t B, int64_t S, int64_t H, int64_t Hd,
                                 const void *dsums, void *da) {
  if (B * Hd == 0) return ALK_OK;
  running_back<T><<<blocks_for(B * Hd, THREADS), THREADS, 0, stream_of(at)>>>(
      B, S, H, Hd, (const double *)dsums, (T *)da);
  return launched();
}
CUDA_TYPED_BF16(decay_sums_bwd, decay_sums_bwd)

template <class T>
static __global__ void largest(alk_visible g, plan p, bool absolute, const T *s, const double *sums,
                               T *m) {
  EACH_ROW(r, g.B * g.H * g.T) {
    const entry k = entry_of_row(g, r);
    T best = -(T)INFINITY;
    for (int64_t j = k.seen.from + threadIdx.x; j < k.seen.to; j += blockDim.x) {
      T x = clamped(p, capped(p, s[r * g.S + j]));
      if (absolute) x = vabs(x);
      best = larger(best, x + decay_of<T>(g, p, sums, k, j));
    }
    best = block_max(best, -(T)INFINITY);
    if (threadIdx.x == 0) m[r] = best > -(T)INFINITY ? best : (T)0;
  }
}
template <class T>
static alk_status visible_max(const alk_place *at, const alk_visible *g,
                              const alk_weight_spec *spec, bool absolute, const void *s,
                              const void *sums, void *m) {
  const int64_t n = g->B * g->H * g->T;
  if (n == 0) return ALK_OK;
  largest<T><<<blocks_for(n, 1), ROW_THREADS, 0, stream_of(at)>>>(
      *g, plan_of(spec, false), absolute, (const T *)s, (const double *)sums, (T *)m);
  return launched();
}
CUDA_TYPED(visible_max, visible_max)

template <class T> static __global__ void counted(alk_visible g, const int32_t *before, T *n) {
  GRID_LOOP(u, g.B * g.T) {
    const alk_range seen = alk_visible_keys(&g, u / g.T, u % g.T);
    n[u] = (T)(seen.to - seen.from + (before ? before[u / g.T] : 0));
  }
}
template <class T>
static alk_status visible_count(const alk_place *at, const alk_visible *g, const void *before,
                                void *n) {
  if (g->B * g->T == 0) return ALK_OK;
  counted<T><<<blocks_for(g->B * g->T, THREADS), THREADS, 0, stream_of(at)>>>(
      *g, (const int32_t *)before, (T *)n);
  return launched();
}
CUDA_TYPED(visible_count, visible_count)
