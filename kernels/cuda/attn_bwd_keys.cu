/* attn_bwd_keys.cu: dk, dv and db of the fused attention (attn_bwd.cu): a block a tile of keys,
 * which walks over the rows of each query head of theirs in order. */
#include "attn_bwd.cuh"

template <class T, int KIND, int R, int CW>
static __global__ void __launch_bounds__(THREADS, blocks_at_once<T, KIND, CW>())
    keys_back(attn_arg a, program_of<KIND> program, bwd_inputs<T> in, bwd_results<T> to) {
  typedef real_of<T> real;
  constexpr int C = side<real>::of;
  constexpr bool MORE = KIND != EXP_ALONE;
  typedef tile<real, R, C, CW> M; /* rows of the tile are keys, its columns query rows */
  typedef columns<CW> at;
  __shared__ M t;
  __shared__ program_memory<KIND, real> pm;
  __shared__ item it;
  __shared__ unsigned char live[C];
  __shared__ alk_range seen[R]; /* rows that see a key */
  __shared__ real m[C], by[C], delta[C], b[R], db[R];
  __shared__ double top[MORE ? C : 1], sum_of[MORE ? R : 1], moved[MORE ? R : 1];
  __shared__ double coefficients[MORE ? ALK_MAX_COEFFICIENTS : 1];
  const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
  const alk_weight f = MORE ? a.p.f : ALK_WEIGHT_EXP;
  const bool decay = MORE && in.sums;
  series terms = {0, coefficients};
  if (MORE && f == ALK_WEIGHT_POLYNOMIAL) terms = series_of(a.p, coefficients);
  if constexpr (KIND == PROGRAMS) program_begin(program.arg, &pm.state);
  const alk_visible &g = a.g;
  const int group = (int)(g.H / g.Hkv);
  const int64_t tiles = (g.S + R - 1) / R, most = a.D > a.E ? a.D : a.E,
                chunks = most > CW ? (most + CW - 1) / CW : 1;
  EACH_ROW(u, g.B * g.Hkv * chunks * tiles) {
    real dk[M::TR][M::TW], dv[M::TR][M::TW];
#pragma unroll
    for (int r = 0; r < M::TR; r++)
#pragma unroll
      for (int e = 0; e < M::TW; e++) dk[r][e] = dv[r][e] = 0;
    for (int head = 0; head < group; head++) {
      __syncthreads();
      if (threadIdx.x == 0) { /* the first keys, which most rows see, come first */
        const int64_t pair = u / tiles / chunks;
        it = item_of(g, pair / g.Hkv * g.H + pair % g.Hkv * group + head);
        it.first = u % tiles * R, it.e0 = u / tiles % chunks * CW;
        it.n = (int)(g.S - it.first < R ? g.S - it.first : R);
        it.sums = decay ? in.sums + (it.b * a.p.Hd + it.h / (g.H / a.p.Hd)) * g.S : NULL;
      }
      __syncthreads();
      for (int r = threadIdx.x; r < R; r += THREADS) {
        const bool is = r < it.n;
        seen[r] = is ? alk_visible_rows(&g, it.b, it.first + r) : alk_range{g.T, g.T};
        b[r] = is && in.b ? load(in.b, key_at(g, it, it.first + r)) : (real)1;
        if (head == 0) db[r] = 0;
        if (decay) sum_of[r] = is ? it.sums[it.first + r] : 0, moved[r] = 0;
      }
      if constexpr (KIND == PROGRAMS) program_head(program.arg, it.h, g.H, &pm.state);
      __syncthreads();
      const int64_t end = seen[it.n - 1].to;
      for (int64_t i0 = seen[0].from / C * C; seen[0].from < end && i0 < end; i0 += C) {
        const int n = (int)(end - i0 < C ? end - i0 : C);
        __syncthreads(); /* whoever still reads those of the rows before */
        for (int c = threadIdx.x; c < C; c += THREADS) {
          const bool is = c < n;
          const int64_t row = it.head * g.T + i0 + c;
          m[c] = is ? in.m[row] : (real)0, by[c] = is ? in.by[row] : (real)0;
          delta[c] = is ? in.delta[row] : (real)0, live[c] = is ? in.reached[row] : 0;
          if (!decay || !is) continue;
          const alk_range keys = alk_visible_keys(&g, it.b, i0 + c);
          top[c] = keys.from < keys.to ? it.sums[keys.to - 1] : 0;
        }
        real s[M::TR][M::TC];
        {
          const vectors<T> q = in.x.q.from(row_at(g, it, i0) * a.D),
                           k = in.x.k.from(key_at(g, it, it.first) * a.D);
          const int keys = it.n;
          products(
              t, a.D, false, [&](int r, int64_t d) { return r < keys ? k.at(r, d) : (real)0; },
              [&](int c, int64_t d) { return c < n ? q.at(c, d) : (real)0; }, s);
        }
        put_tile(t, s);
        {
          const T *dy = in.dy + row_at(g, it, i0) * a.E, *v = in.v + key_at(g, it, it.first) * a.E;
          const int keys = it.n;
          products(
              t, a.E, false,
              [&](int r, int64_t e) { return r < keys ? load(v, r * (g.Hkv * a.E) + e) : (real)0; },
              [&](int c, int64_t e) { return c < n ? load(dy, c * (g.H * a.E) + e) : (real)0; }, s);
        }
        int span[M::TR];
#pragma unroll 1
        for (int r = 0; r < M::TR; r++) {
          const int key = ty * M::TR + r;
          const int lo = within(seen[key].from - i0, n), hi = within(seen[key].to - i0, n);
          vec<real, M::TC> x = t.own(key, tx);
          real sum = 0;
          [[maybe_unused]] double moves = 0;
#pragma unroll
          for (int c = 0; c < M::TC; c++) {
            const int row = tx * M::TC + c;
            real gv = s[0][c];
#pragma unroll
            for (int l = 1; l < M::TR; l++)
              if (l == r) gv = s[l][c];
            real w = 0, ds = 0;
            if (row >= lo && row < hi && live[row]) {
              const int64_t j = it.first + key;
              [[maybe_unused]] real own[KIND == PROGRAMS ? ALK_PROGRAM_UNIFORMS : 1];
              const real *uniform = NULL;
              if constexpr (KIND == PROGRAMS)
                uniform = program_row(pm.state, i0 + row + g.offset, own);
              bool keep = true;
              if (MORE && a.drops)
                keep = kept_bits<1>(a, (uint64_t)((it.head * g.T + i0 + row) * g.S + j));
              gv = live[row] == BY_Y ? gv * by[row] : (real)0;
              const real e = decay ? log_decay<real>(top[row], sum_of[key]) : (real)0;
              const entry<real> k =
                  entry_slope<KIND>(a, f, terms, x.v[c], PASSED(gv, gv * b[key]), decay, e, m[row],
                                    delta[row], keep, j, pm, uniform, NULL);
              w = k.w * by[row], ds = k.ds, sum += PASSED(gv, k.w * gv);
              if (MORE) moves += k.moved;
            }
            x.v[c] = w;
#pragma unroll
            for (int l = 0; l < M::TR; l++)
              if (l == r) s[l][c] = ds;
          }
          t.own(key, tx) = x;
          put(span, r, span_of(lo, hi));
          if (to.db) {
            sum = row_sum(sum);
            if (tx == 0) db[key] += sum;
          }
          if (MORE && to.dsums) {
            moves = row_sum(moves);
            if (tx == 0) moved[key] += moves;
          }
        }
        const bool whole = seen[it.n - 1].from <= i0 && seen[0].to >= i0 + n;
        if (it.e0 < a.E) {
          const T *dy = in.dy + row_at(g, it, i0) * a.E + it.e0;
          const int64_t width = a.E - it.e0;
          add_values(
              t, n, whole, span,
              [&](int c, int e) {
                return e < width && live[c] == BY_Y ? load(dy, c * (g.H * a.E) + e) : (real)0;
              },
              dv);
        }
        put_tile(t, s);
        if (it.e0 < a.D) {
          const vectors<T> q = in.x.q.from(row_at(g, it, i0) * a.D + it.e0);
          const int64_t width = a.D - it.e0;
          add_values(
              t, n, whole, span,
              [&](int c, int e) { return e < width && live[c] ? q.at(c, e) : (real)0; }, dk);
        }
      }
      for (int r = 0; MORE && to.dsums && tx == 0 && it.e0 == 0 && r < M::TR; r++)
        if (ty * M::TR + r < it.n)
          to.dsums[it.head * g.S + it.first + ty * M::TR + r] = -moved[ty * M::TR + r];
    }
#pragma unroll
    for (int r = 0; r < M::TR; r++) {
      const int key = ty * M::TR + r;
      if (key >= it.n) continue;
      const int64_t x = key_at(g, it, it.first + key);
      if (to.db && tx == 0 && it.e0 == 0) store(to.db, x, db[key]);
#pragma unroll
      for (int e = 0; e < M::TW; e++) {
        const int64_t c = it.e0 + at::of(tx, e);
        if (c < a.E) store(to.dv, x * a.E + c, (real)PASSED(dv[r][e], dv[r][e] * b[key]));
        if (c >= a.D) continue;
        if (to.dphi_k) to.dphi_k[x * a.D + c] = dk[r][e];
        else store(to.dk, x * a.D + c, dk[r][e]);
      }
    }
  }
}

struct keys_pass {
  template <class T, int KIND, int R, int CW>
  static void launch(const alk_place *at, const alk_attn_spec *s, const bwd_inputs<T> &in,
                     const bwd_results<T> &to) {
    const int64_t blocks =
        s->g.B * s->g.Hkv * pieces(s->g.S, R) * at_least_one(pieces(s->D > s->E ? s->D : s->E, CW));
    keys_back<T, KIND, R, CW><<<blocks_for(blocks, 1), THREADS, 0, stream_of(at)>>>(
        attn_of(s), program_from<KIND>(&s->weight), in, to);
  }
};
template <class T>
void attn_keys_back(const alk_place *at, const alk_attn_spec *s, int kind, const bwd_inputs<T> &in,
                    const bwd_results<T> &to) {
  if (s->g.B * s->g.Hkv * s->g.S > 0) launch_pass<keys_pass>(at, s, kind, in, to);
}
#define OF(T)                                                                                      \
  template void attn_keys_back<T>(const alk_place *, const alk_attn_spec *, int,                   \
                                  const bwd_inputs<T> &, const bwd_results<T> &);
OF(double)
OF(float)
OF(bf16)
