/* attn_fwd.cu: forward of the fused attention (contract: ../attn.h), plain: no tensor cores, f32
 * is FMA. One template for f64, f32 and bf16, whose arithmetic is f32.
 *
 * A block takes R query rows of a head and CW columns of y (wider values: more blocks, which make
 * the scores again) and walks over tiles of keys from the first that its rows see to the last. The
 * row reference m is the maximum so far: where it grows, what was summed shrinks. A few rows meet
 * parts of the keys in blocks of their own, whose sums are joined in order.
 *
 * FLOPs: 2 (D + E) a visible pair of row and key. Bytes: q, k, v, y once. Floor of f32: the FLOPs
 * at the card's FMA rate (H100 SXM: 67 TFLOP/s); the bytes count for a few rows alone. Measured at
 * 36 x 1024 x 16 x 64 on it, causal, f32: 7.1 ms, 0.2 of that rate. Shared memory: 35 KB + 3 KB;
 * occupancy by registers. */
#include "attn.cuh"
#include "sdpa.cuh"

enum { FEW_ROWS = 16, PART = 256 /* keys */ };

template <class T> struct fwd_inputs {
  typedef real_of<T> real;
  query_key<T> x;
  const T *v, *b;
  const double *sums;
};
template <class T> struct fwd_results {
  typedef real_of<T> real;
  T *y;
  real *W, *inner, *m;
  real *left; /* of a part: (B,H,T,parts,2 + E): m, the inner sum, N; NULL where there are none */
  int64_t parts;
};

template <class T, int KIND, int R, int CW>
static __global__ void __launch_bounds__(THREADS, blocks_at_once<T, KIND, CW>())
    forward(attn_arg a, program_of<KIND> program, fwd_inputs<T> in, fwd_results<T> to) {
  typedef real_of<T> real;
  constexpr int C = side<real>::of;
  typedef tile<real, R, C, CW> M;
  typedef columns<CW> at;
  __shared__ M t;
  __shared__ program_memory<KIND, real> pm;
  __shared__ item it;
  __shared__ alk_range seen[R];
  __shared__ double top[KIND == EXP_ALONE ? 1 : R], sum_of[KIND == EXP_ALONE ? 1 : C];
  __shared__ double coefficients[KIND == EXP_ALONE ? 1 : ALK_MAX_COEFFICIENTS];
  const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
  const alk_weight f = KIND == EXP_ALONE ? ALK_WEIGHT_EXP : a.p.f;
  const bool decay = KIND != EXP_ALONE && in.sums;
  series terms = {0, coefficients};
  if (KIND != EXP_ALONE && f == ALK_WEIGHT_POLYNOMIAL) terms = series_of(a.p, coefficients);
  if constexpr (KIND == PROGRAMS) program_begin(program.arg, &pm.state);
  const alk_visible &g = a.g;
  const int64_t tiles = (g.T + R - 1) / R, chunks = a.E > CW ? (a.E + CW - 1) / CW : 1;
  EACH_ROW(u, g.B * g.H * chunks * to.parts * tiles) {
    __syncthreads();
    if (threadIdx.x == 0) { /* the last rows, which see the most, come first */
      it = item_of(g, u / tiles / to.parts / chunks);
      it.first = (tiles - 1 - u % tiles) * R, it.part = u / tiles % to.parts;
      it.e0 = u / tiles / to.parts % chunks * CW;
      it.n = (int)(g.T - it.first < R ? g.T - it.first : R);
      it.sums = decay ? in.sums + (it.b * a.p.Hd + it.h / (g.H / a.p.Hd)) * g.S : NULL;
    }
    __syncthreads();
    for (int r = threadIdx.x; r < R; r += THREADS) {
      alk_range s = {0, 0};
      if (r < it.n) s = alk_visible_keys(&g, it.b, it.first + r);
      if (decay) top[r] = s.from < s.to ? it.sums[s.to - 1] : 0;
      if (to.left) { /* as far as the part goes */
        if (s.from < it.part * PART) s.from = it.part * PART;
        if (s.to > (it.part + 1) * PART) s.to = (it.part + 1) * PART;
        if (s.to < s.from) s.to = s.from;
      }
      seen[r] = s;
    }
    if constexpr (KIND == PROGRAMS) program_head(program.arg, it.h, g.H, &pm.state);
    __syncthreads();
    real out[M::TR][M::TW], m[M::TR], W[M::TR];
#pragma unroll
    for (int r = 0; r < M::TR; r++) {
      m[r] = -(real)INFINITY, W[r] = 0;
#pragma unroll
      for (int e = 0; e < M::TW; e++) out[r][e] = 0;
    }
    for (int64_t j0 = seen[0].from / C * C; j0 < seen[it.n - 1].to; j0 += C) {
      const int n = (int)(seen[it.n - 1].to - j0 < C ? seen[it.n - 1].to - j0 : C);
      real s[M::TR][M::TC];
      {
        const vectors<T> q = in.x.q.from(row_at(g, it, it.first) * a.D),
                         k = in.x.k.from(key_at(g, it, j0) * a.D);
        const int rows = it.n;
        products(
            t, a.D, a.D <= CHUNK && j0 > seen[0].from,
            [&](int r, int64_t d) { return r < rows ? q.at(r, d) : (real)0; },
            [&](int c, int64_t d) { return c < n ? k.at(c, d) : (real)0; }, s);
      }
      put_tile(t, s);
      if (decay) {
        for (int c = threadIdx.x; c < C; c += THREADS) sum_of[c] = c < n ? it.sums[j0 + c] : 0;
        __syncthreads();
      }
      int span[M::TR];
      real shrink[M::TR];
#pragma unroll 1
      for (int r = 0; r < M::TR; r++) {
        const int row = ty * M::TR + r;
        const int lo = within(seen[row].from - j0, n), hi = within(seen[row].to - j0, n);
        const real before = pick(m, r);
        vec<real, M::TC> x = t.own(row, tx), e;
        real best = before, by = 1;
        if constexpr (KIND == PROGRAMS) {
          real own[ALK_PROGRAM_UNIFORMS], registers[1 + ALK_PROGRAM_REGISTERS];
          const real *uniform = program_row(pm.state, it.first + row + g.offset, own);
#pragma unroll 1
          for (int c = 0; c < M::TC; c++) {
            const int key = tx * M::TC + c;
            if (key < lo || key >= hi) continue;
            const real z = clamped(a.p, capped(a.p, pick(x.v, c) * (real)a.scale));
            program_run(pm.state, false, uniform, j0 + key, z, registers);
            put(x.v, c, registers[pm.state.p.value]);
          }
        }
#pragma unroll
        for (int c = 0; c < M::TC; c++) {
          const int key = tx * M::TC + c;
          if (KIND != PROGRAMS) x.v[c] = clamped(a.p, capped(a.p, x.v[c] * (real)a.scale));
          e.v[c] = decay ? log_decay<real>(top[row], sum_of[key]) : (real)0;
          if (f == ALK_WEIGHT_POLYNOMIAL || key < lo || key >= hi) continue;
          best = larger(best, (f == ALK_WEIGHT_COSH ? vabs(x.v[c]) : x.v[c]) + e.v[c]);
        }
#pragma unroll
        for (int k = SIDE / 2; k > 0; k >>= 1)
          best = larger(best, __shfl_xor_sync(0xffffffffu, best, k));
        if (best > before && before > -(real)INFINITY) by = vexp(before - best);
        const real reference = best > -(real)INFINITY ? best : (real)0; /* polynomials have none */
        real inner = pick(W, r);
        if (by != 1) inner *= stat_inner(a.stat, by);
        unsigned keep = ~0u;
        if (KIND != EXP_ALONE && a.drops)
          keep = kept_bits<M::TC>(
              a, (uint64_t)((it.head * g.T + it.first + row) * g.S + j0 + tx * M::TC));
#pragma unroll
        for (int c = 0; c < M::TC; c++) {
          const int key = tx * M::TC + c;
          real w = 0;
          if (key >= lo && key < hi) {
            w = weight_of(f, terms, x.v[c], decay, e.v[c], reference);
            inner += stat_inner(a.stat, w);
            if (KIND != EXP_ALONE && a.drops) w *= kept_by<real>(a, keep >> c & 1);
            if (in.b) w *= load(in.b, key_at(g, it, j0 + key));
          }
          x.v[c] = w;
        }
        t.own(row, tx) = x;
        put(span, r, span_of(lo, hi)), put(m, r, best), put(W, r, inner), put(shrink, r, by);
      }
#pragma unroll
      for (int r = 0; r < M::TR; r++)
        if (shrink[r] != 1)
#pragma unroll
          for (int e = 0; e < M::TW; e++) out[r][e] *= shrink[r];
      const bool whole = seen[it.n - 1].from <= j0 && seen[0].to >= j0 + n;
      const T *v = in.v + key_at(g, it, j0) * a.E + it.e0;
      const int64_t stride = g.Hkv * a.E, width = a.E - it.e0;
      add_values(
          t, n, whole, span,
          [&](int c, int e) { return e < width ? load(v, c * stride + e) : (real)0; }, out);
    }
#pragma unroll
    for (int r = 0; r < M::TR; r++) {
      const int row = ty * M::TR + r;
      const int64_t u = it.head * g.T + it.first + row;
      const real inner = row_sum(W[r]);
      if (row >= it.n) continue;
      if (to.left) {
        real *left = to.left + (u * to.parts + it.part) * (2 + a.E);
        if (tx == 0 && it.e0 == 0) left[0] = m[r], left[1] = inner;
#pragma unroll
        for (int e = 0; e < M::TW; e++)
          if (it.e0 + at::of(tx, e) < a.E) left[2 + it.e0 + at::of(tx, e)] = out[r][e];
        continue;
      }
      const real total = stat_outer(a.stat, inner), by = !a.normalise                   ? (real)1
                                                         : vabs(total) < (real)SMALLEST ? (real)0
                                                                                        : 1 / total;
      if (tx == 0 && it.e0 == 0) {
        to.W[u] = total;
        if (to.inner) to.inner[u] = inner;
        to.m[u] = m[r] > -(real)INFINITY ? m[r] : (real)0;
      }
#pragma unroll
      for (int e = 0; e < M::TW; e++)
        if (it.e0 + at::of(tx, e) < a.E)
          store(to.y, row_at(g, it, it.first + row) * a.E + it.e0 + at::of(tx, e), out[r][e] * by);
    }
  }
}

/* ---- parts of a few rows --------------------------------------------------------------------- */

/* Joins what the parts left of a row: a block a row. */
template <class T> static __global__ void join(attn_arg a, fwd_results<T> to) {
  typedef real_of<T> real;
  const alk_visible &g = a.g;
  EACH_ROW(u, g.B * g.H * g.T) {
    const int64_t i = u % g.T, h = u / g.T % g.H, b = u / g.T / g.H, size = 2 + a.E;
    const real *left = to.left + u * to.parts * size;
    real m = left[0], inner = 0;
    for (int64_t p = 1; p < to.parts; p++) m = left[p * size] > m ? left[p * size] : m;
    /* polynomials have no reference: all are -inf */
    const auto by = [=](int64_t p) {
      const real own = left[p * size];
      return own == m ? (real)1 : own > -(real)INFINITY ? vexp(own - m) : (real)0;
    };
    for (int64_t p = 0; p < to.parts; p++) inner += left[p * size + 1] * stat_inner(a.stat, by(p));
    const real total = stat_outer(a.stat, inner), divide = !a.normalise ? (real)1
                                                           : vabs(total) < (real)SMALLEST
                                                               ? (real)0
                                                               : 1 / total;
    if (threadIdx.x == 0) {
      to.W[u] = total;
      if (to.inner) to.inner[u] = inner;
      to.m[u] = m > -(real)INFINITY ? m : (real)0;
    }
    ROW_LOOP(e, a.E) {
      real sum = 0;
      for (int64_t p = 0; p < to.parts; p++) sum += left[p * size + 2 + e] * by(p);
      store(to.y, ((b * g.T + i) * g.H + h) * a.E + e, sum * divide);
    }
  }
}

/* ---- host ------------------------------------------------------------------------------------ */

static int64_t parts_of(const alk_attn_spec *a) {
  return a->g.T <= FEW_ROWS ? at_least_one(pieces(a->g.S, PART)) : 1;
}

template <class T> static int64_t fwd_room(const alk_place *at, const alk_attn_spec *a) {
  const int64_t parts = parts_of(a), rows = a->g.B * a->g.H * a->g.T;
  const int64_t own =
      (map_room(a) + (parts > 1 ? rows * parts * (2 + a->E) : 0)) * (int64_t)sizeof(real_of<T>);
  return cuda_sdpa_room<T>(queue_of(at), a, false, own);
}
CUDA_TYPED_BF16(attn_fwd_room, fwd_room)

template <class T, int KIND, int R, int CW>
static void launch(const alk_place *at, const alk_attn_spec *s, const fwd_inputs<T> &in,
                   const fwd_results<T> &to) {
  const int64_t blocks =
      s->g.B * s->g.H * pieces(s->g.T, R) * to.parts * at_least_one(pieces(s->E, CW));
  forward<T, KIND, R, CW><<<blocks_for(blocks, 1), THREADS, 0, stream_of(at)>>>(
      attn_of(s), program_from<KIND>(&s->weight), in, to);
}
template <class T, int KIND>
static void launch_wide(const alk_place *at, const alk_attn_spec *s, const fwd_inputs<T> &in,
                        const fwd_results<T> &to) {
  if (s->g.T <= FEW_ROWS) launch<T, KIND, 16, 64>(at, s, in, to);
  else if (s->E <= 32) launch<T, KIND, 64, 32>(at, s, in, to);
  else if (s->E <= 64) launch<T, KIND, 64, 64>(at, s, in, to);
  else launch<T, KIND, 64, 128>(at, s, in, to);
}

template <class T>
static alk_status fwd(const alk_place *at, const alk_attn_spec *a, const void *q, const void *k,
                      const void *v, const void *b, const void *sums, void *y, void *W, void *inner,
                      void *m, void *scratch) {
  typedef real_of<T> real;
  const int64_t rows = a->g.B * a->g.H * a->g.T;
  if (rows == 0) return ALK_OK;
  cuda_queue *queue = queue_of(at);
  switch (cuda_sdpa_takes(queue, a, sizeof(T) == 2, b, sums, false)) {
  case SDPA_FAILS:
    return ALK_FAILED;
  case SDPA_TAKES:
    return cuda_sdpa_fwd(queue, a, q, k, v, y, W, m, scratch);
  case SDPA_LEAVES:
    break;
  }
  fwd_results<T> to = {(T *)y, (real *)W, (real *)inner, (real *)m};
  to.parts = parts_of(a);
  to.left = to.parts > 1 ? (real *)scratch + map_room(a) : NULL;
  const fwd_inputs<T> in = {mapped_into<T>(at, a, q, k, (real *)scratch), (const T *)v,
                            (const T *)b, (const double *)sums};
  const int kind = kind_of(a, sums);
  if (kind == PROGRAMS) launch<T, PROGRAMS, 32, 32>(at, a, in, to);
  else if constexpr (sizeof(real) == 8) launch<T, EVERY_F, 32, 32>(at, a, in, to);
  else if (kind == EVERY_F) launch_wide<T, EVERY_F>(at, a, in, to);
  else launch_wide<T, EXP_ALONE>(at, a, in, to);
  if (to.left) join<T><<<blocks_for(rows, 1), ROW_THREADS, 0, stream_of(at)>>>(attn_of(a), to);
  return launched();
}
CUDA_TYPED_BF16(attn_fwd, fwd)
