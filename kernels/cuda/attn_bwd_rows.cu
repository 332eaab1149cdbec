/* attn_bwd_rows.cu: dq of the fused attention (attn_bwd.cu): a block a tile of query rows, which
 * walks over the keys that they see. */
#include "attn_bwd.cuh"

/* Of some entries of a row, which are 0 where hidden, to the sums of a warp. */
template <class real, int N>
__device__ static void add_powers(int n, const double (&a)[N], const real (&y)[N], double *sums) {
  double t[N];
#pragma unroll
  for (int c = 0; c < N; c++) t[c] = a[c];
  for (int k = 0; k < n; k++) {
    double sum = 0;
#pragma unroll
    for (int c = 0; c < N; c++) {
      sum += t[c];
      t[c] = PASSED(t[c], t[c] * (double)(y[c] / (real)POWER_UNIT));
    }
    sum = warp_join(sum, plus());
    if ((threadIdx.x & 31) == 0) sums[k] += sum;
  }
}

template <class T, int KIND, int R, int CW>
static __global__ void __launch_bounds__(THREADS, blocks_at_once<T, KIND, CW>())
    rows_back(attn_arg a, program_of<KIND> program, bwd_inputs<T> in, bwd_results<T> to) {
  typedef real_of<T> real;
  constexpr int C = side<real>::of;
  constexpr bool MORE = KIND != EXP_ALONE;
  typedef tile<real, R, C, CW> M;
  typedef columns<CW> at;
  __shared__ M t;
  __shared__ program_memory<KIND, real> pm;
  __shared__ item it;
  __shared__ alk_range seen[R];
  __shared__ unsigned char live[R]; /* rows that a gradient reaches; the others take no part */
  __shared__ real m[R], by[R], delta[R];
  __shared__ double top[MORE ? R : 1], sum_of[MORE ? C : 1], moved[MORE ? R : 1];
  __shared__ double coefficients[MORE ? ALK_MAX_COEFFICIENTS : 1];
  __shared__ double powers[MORE ? WARPS : 1][MORE ? ALK_MAX_COEFFICIENTS : 1];
  const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
  const alk_weight f = MORE ? a.p.f : ALK_WEIGHT_EXP;
  const bool decay = MORE && in.sums;
  series terms = {0, coefficients};
  if (MORE && f == ALK_WEIGHT_POLYNOMIAL) terms = series_of(a.p, coefficients);
  if constexpr (KIND == PROGRAMS) program_begin(program.arg, &pm.state);
  const alk_visible &g = a.g;
  const int64_t tiles = (g.T + R - 1) / R, chunks = a.D > CW ? (a.D + CW - 1) / CW : 1;
  EACH_ROW(u, g.B * g.H * chunks * tiles) {
    __syncthreads();
    if (threadIdx.x == 0) {
      it = item_of(g, u / tiles / chunks);
      it.first = (tiles - 1 - u % tiles) * R, it.e0 = u / tiles % chunks * CW;
      it.n = (int)(g.T - it.first < R ? g.T - it.first : R);
      it.sums = decay ? in.sums + (it.b * a.p.Hd + it.h / (g.H / a.p.Hd)) * g.S : NULL;
    }
    __syncthreads();
    const bool leads = it.e0 == 0; /* gives what there is one of */
    for (int r = threadIdx.x; r < R; r += THREADS) {
      const bool is = r < it.n;
      const int64_t row = it.head * g.T + it.first + r;
      seen[r] = is ? alk_visible_keys(&g, it.b, it.first + r) : alk_range{0, 0};
      m[r] = is ? in.m[row] : (real)0, by[r] = is ? in.by[row] : (real)0;
      delta[r] = is ? in.delta[row] : (real)0, live[r] = is ? in.reached[row] : 0;
      if (!decay) continue;
      top[r] = seen[r].from < seen[r].to ? it.sums[seen[r].to - 1] : 0, moved[r] = 0;
    }
    if constexpr (KIND == PROGRAMS) program_head(program.arg, it.h, g.H, &pm.state);
    for (int n = threadIdx.x; MORE && to.coefficients && n < WARPS * a.p.n; n += THREADS)
      powers[n / a.p.n][n % a.p.n] = 0;
    [[maybe_unused]] double scalars[KIND == PROGRAMS ? ALK_PROGRAM_SCALARS : 1] = {};
    real out[M::TR][M::TW];
#pragma unroll
    for (int r = 0; r < M::TR; r++) {
#pragma unroll
      for (int e = 0; e < M::TW; e++) out[r][e] = 0;
    }
    __syncthreads();
    for (int64_t j0 = seen[0].from / C * C; j0 < seen[it.n - 1].to; j0 += C) {
      const int n = (int)(seen[it.n - 1].to - j0 < C ? seen[it.n - 1].to - j0 : C);
      real s[M::TR][M::TC];
      {
        const vectors<T> q = in.x.q.from(row_at(g, it, it.first) * a.D),
                         k = in.x.k.from(key_at(g, it, j0) * a.D);
        const int rows = it.n;
        products(
            t, a.D, false, [&](int r, int64_t d) { return r < rows ? q.at(r, d) : (real)0; },
            [&](int c, int64_t d) { return c < n ? k.at(c, d) : (real)0; }, s);
      }
      put_tile(t, s);
      {
        const T *dy = in.dy + row_at(g, it, it.first) * a.E, *v = in.v + key_at(g, it, j0) * a.E;
        const int rows = it.n;
        products(
            t, a.E, false,
            [&](int r, int64_t e) { return r < rows ? load(dy, r * (g.H * a.E) + e) : (real)0; },
            [&](int c, int64_t e) { return c < n ? load(v, c * (g.Hkv * a.E) + e) : (real)0; }, s);
      }
      if (decay) {
        __syncthreads();
        for (int c = threadIdx.x; c < C; c += THREADS) sum_of[c] = c < n ? it.sums[j0 + c] : 0;
        __syncthreads();
      }
      int span[M::TR];
#pragma unroll 1
      for (int r = 0; r < M::TR; r++) {
        const int row = ty * M::TR + r;
        const int lo = within(seen[row].from - j0, n), hi = within(seen[row].to - j0, n);
        vec<real, M::TC> x = t.own(row, tx);
        [[maybe_unused]] real own[KIND == PROGRAMS ? ALK_PROGRAM_UNIFORMS : 1];
        const real *uniform = NULL;
        if constexpr (KIND == PROGRAMS)
          uniform = program_row(pm.state, it.first + row + g.offset, own);
        unsigned keep = ~0u;
        if (MORE && a.drops)
          keep = kept_bits<M::TC>(
              a, (uint64_t)((it.head * g.T + it.first + row) * g.S + j0 + tx * M::TC));
        [[maybe_unused]] double power[M::TC];
        [[maybe_unused]] real y[M::TC];
        [[maybe_unused]] double sum = 0;
#pragma unroll
        for (int c = 0; c < M::TC; c++) {
          const int key = tx * M::TC + c;
          real gv = s[0][c];
#pragma unroll
          for (int l = 1; l < M::TR; l++)
            if (l == r) gv = s[l][c];
          real ds = 0;
          power[c] = 0, y[c] = 0;
          if (key >= lo && key < hi && live[row]) {
            gv = live[row] == BY_Y ? gv * by[row] : (real)0;
            if (in.b) gv = PASSED(gv, gv * load(in.b, key_at(g, it, j0 + key)));
            const real e = decay ? log_decay<real>(top[row], sum_of[key]) : (real)0;
            const entry<real> k = entry_slope<KIND>(a, f, terms, x.v[c], gv, decay, e, m[row],
                                                    delta[row], keep >> c & 1, j0 + key, pm,
                                                    uniform, to.scalars && leads ? scalars : NULL);
            ds = k.ds;
            if (MORE) sum += k.moved, power[c] = (double)(k.A * k.dw), y[c] = k.y;
          }
          x.v[c] = ds;
        }
        if (MORE && to.moved) {
          sum = row_sum(sum);
          if (tx == 0) moved[row] += sum;
        }
        if (MORE && to.coefficients) add_powers(a.p.n, power, y, powers[threadIdx.x >> 5]);
        t.own(row, tx) = x;
        put(span, r, span_of(lo, hi));
      }
      const bool whole = seen[it.n - 1].from <= j0 && seen[0].to >= j0 + n;
      const vectors<T> k = in.x.k.from(key_at(g, it, j0) * a.D + it.e0);
      const int64_t width = a.D - it.e0;
      add_values(
          t, n, whole, span, [&](int c, int e) { return e < width ? k.at(c, e) : (real)0; }, out);
    }
#pragma unroll
    for (int r = 0; r < M::TR; r++) {
      const int row = ty * M::TR + r;
      if (row >= it.n) continue;
      if (MORE && to.moved && tx == 0 && leads)
        to.moved[it.head * g.T + it.first + row] = moved[row];
      const int64_t first = row_at(g, it, it.first + row) * a.D + it.e0;
#pragma unroll
      for (int e = 0; e < M::TW; e++) {
        if (it.e0 + at::of(tx, e) >= a.D) continue;
        const real dq = live[row] ? out[r][e] : (real)0;
        if (to.dphi_q) to.dphi_q[first + at::of(tx, e)] = dq;
        else store(to.dq, first + at::of(tx, e), dq);
      }
    }
    const int64_t part = it.head * tiles + it.first / R;
    if (MORE && to.coefficients && leads) {
      __syncthreads();
      for (int n = threadIdx.x; n < a.p.n; n += THREADS) {
        double sum = 0;
        for (int w = 0; w < WARPS; w++) sum += powers[w][n];
        to.coefficients[part * a.p.n + n] = sum;
      }
    }
    if constexpr (KIND == PROGRAMS)
      for (int k = 0; to.scalars && leads && k < pm.state.p.n_scalars; k++) {
        const double sum = block_sum(scalars[k]);
        if (threadIdx.x == 0) to.scalars[part * pm.state.p.n_scalars + k] = sum;
      }
  }
}

struct rows_pass {
  template <class T, int KIND, int R, int CW>
  static void launch(const alk_place *at, const alk_attn_spec *s, const bwd_inputs<T> &in,
                     const bwd_results<T> &to) {
    const int64_t blocks = s->g.B * s->g.H * pieces(s->g.T, R) * at_least_one(pieces(s->D, CW));
    rows_back<T, KIND, R, CW><<<blocks_for(blocks, 1), THREADS, 0, stream_of(at)>>>(
        attn_of(s), program_from<KIND>(&s->weight), in, to);
  }
};
template <class T>
void attn_rows_back(const alk_place *at, const alk_attn_spec *s, int kind, const bwd_inputs<T> &in,
                    const bwd_results<T> &to) {
  if (s->g.B * s->g.H * s->g.T > 0) launch_pass<rows_pass>(at, s, kind, in, to);
}
#define OF(T)                                                                                      \
  template void attn_rows_back<T>(const alk_place *, const alk_attn_spec *, int,                   \
                                  const bwd_inputs<T> &, const bwd_results<T> &);
OF(double)
OF(float)
OF(bf16)
