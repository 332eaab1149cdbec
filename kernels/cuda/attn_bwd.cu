/* attn_bwd.cu: backward of the fused attention (contract: ../attn.h), plain: no tensor cores, f32 is
 * FMA; no atomics. With y = N / W the gradient of a weight is dw_ij = by_i dy_i.v_j + delta_i, by =
 * 1 / W, delta = dW - dy.y by; without it by = 1, delta = dW, a statistic with an outer function that
 * of the inner sum.
 *
 * Four steps: by and delta of every row; then tiles of scores are made again twice: by blocks of query
 * rows, which walk over keys and give dq, and by blocks of keys, which walk over the rows of each query
 * head of theirs in order and give dk, dv, db. What belongs to a head (decay, coefficients, scalars) is
 * left in parts, by rows or by keys, that small kernels add up in order. Wider vectors than CW: more
 * blocks, which make the scores again.
 *
 * FLOPs: 2 (4 D + 3 E) a visible pair with the two recomputations (2 (2 D + 2 E) each, of which the
 * rows' has D of results and the keys' D + E); at the least 2 (3 D + 2 E). Bytes: q, k, v, dy twice,
 * dq, dk, dv once. Floor of f32: the FLOPs at the card's FMA rate. Shared memory: at most 48 KB. */
#include "attn.cuh"
#include "sdpa.cuh"

template <class T> struct bwd_inputs {
  typedef real_of<T> real;
  query_key<T> x;
  const T *v, *b, *dy;
  const double *sums;
  const real *m, *by, *delta;   /* (B,H,T) */
  const unsigned char *reached; /* (B,H,T): BY_.. */
};
/* What is wanted; the rest NULL. */
template <class T> struct bwd_results {
  typedef real_of<T> real;
  T *dq, *dk, *dv, *db;
  real *dphi_q, *dphi_k;          /* instead of dq and dk under a map */
  double *moved;                  /* (B,H,T): what the decay of a row's last key gets */
  double *dsums;                  /* (B,H,S) */
  double *coefficients, *scalars; /* (B,H,tiles,n): parts of the head */
};

/* What reaches a row: a gradient of its W alone, or of y. */
enum { BY_W = 1, BY_Y };

/* ---- rows ---------------------------------------------------------------------------------------- */

/* A warp a row of (B,H,T). */
template <class T, class real>
static __global__ void row_factors(attn_arg a, const T *y, const T *dy, const real *W,
                                   const real *inner, const real *dW, real *by, real *delta,
                                   unsigned char *reached) {
  const alk_visible &g = a.g;
  for (int64_t u = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; u < g.B * g.H * g.T;
       u += (int64_t)gridDim.x * WARPS) {
    const int64_t at = ((u / g.T / g.H * g.T + u % g.T) * g.H + u / g.T % g.H) * a.E;
    real d = dW && a.stat != ALK_STAT_none ? dW[u] : (real)0, factor = 1;
    bool by_y = false;
    for (int64_t e = threadIdx.x & 31; e < a.E && !by_y; e += 32) by_y = load(dy, at + e) != 0;
    by_y = __any_sync(0xffffffffu, by_y);
    const bool any = by_y || d != 0;
    if (a.normalise) {
      real dot = 0;
      for (int64_t e = threadIdx.x & 31; e < a.E && by_y; e += 32)
        dot += load(dy, at + e) * load(y, at + e);
      dot = warp_join(dot, plus());
      factor = vabs(W[u]) < (real)SMALLEST ? (real)0 : 1 / W[u];
      d = factor == 0 ? (real)0 : d - dot * factor;
    }
    if (inner) d = W[u] < (real)SMALLEST ? (real)0 : stat_outer_bwd(a.stat, d, inner[u], W[u]);
    if (!any) d = 0;
    if ((threadIdx.x & 31) == 0)
      by[u] = factor, delta[u] = d, reached[u] = by_y ? BY_Y : any ? BY_W : 0;
  }
}

/* ---- an entry ------------------------------------------------------------------------------------- */

template <class real> struct entry {
  real w, ds;    /* w as the values see it */
  real dw, A, y; /* of the coefficients: A dw y^n */
  double moved;  /* w dw */
};
/* Of the dot product of q and k and that of g and v; e = log A. What belongs to the program: where it
 * stands, its uniforms, and sums of its scalars' gradients, or NULL. */
template <int KIND, class real>
__device__ inline entry<real>
entry_slope(const attn_arg &a, alk_weight f, const series &terms, real dot, real gv, bool decay,
            real e, real m, real delta, bool kept, [[maybe_unused]] int64_t j,
            [[maybe_unused]] const program_memory<KIND, real> &pm,
            [[maybe_unused]] const real *uniform, [[maybe_unused]] double *scalars) {
  entry<real> r;
  const real x = capped(a.p, dot * (real)a.scale), z = clamped(a.p, x), scale = (real)a.scale;
  r.y = z;
  [[maybe_unused]] real registers[KIND == PROGRAMS ? 1 + ALK_PROGRAM_REGISTERS : 1];
  if constexpr (KIND == PROGRAMS) {
    program_run(pm.state, true, uniform, j, z, registers);
    r.y = registers[pm.state.p.value];
  }
  real df;
  const real w = weight_slope(f, terms, r.y, decay, e, m, &df);
  const real by = KIND == EXP_ALONE || !a.drops ? (real)1 : kept_by<real>(a, kept);
  r.dw = gv * by, r.w = w * by;
  r.dw += stat_inner_bwd(a.stat, delta, w);
  r.moved = PASSED(r.dw, (double)w * (double)r.dw);
  r.A = decay ? vexp(e) : (real)1;
  if constexpr (KIND == PROGRAMS) {
    const real g = PASSED(r.dw, r.dw * df);
    for (int k = 0; scalars && k < pm.state.p.n_scalars; k++)
      scalars[k] += PASSED(g, (double)g * (double)registers[pm.state.p.scalar[k]]);
    r.ds = PASSED(g, g * registers[pm.state.p.slope] * scale);
  } else {
    r.ds = PASSED(r.dw, r.dw * (df * scale)); /* f' may be infinite where the weight is finite */
  }
  r.ds = limits_slope(a.p, x, r.ds);
  return r;
}

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

/* ---- dq: a block a tile of query rows ------------------------------------------------------------ */

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

/* ---- dk, dv, db: a block a tile of keys ---------------------------------------------------------- */

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
  const int64_t group = g.H / g.Hkv, tiles = (g.S + R - 1) / R, most = a.D > a.E ? a.D : a.E,
                chunks = most > CW ? (most + CW - 1) / CW : 1;
  EACH_ROW(u, g.B * g.Hkv * chunks * tiles) {
    real dk[M::TR][M::TW], dv[M::TR][M::TW];
#pragma unroll
    for (int r = 0; r < M::TR; r++)
#pragma unroll
      for (int e = 0; e < M::TW; e++) dk[r][e] = dv[r][e] = 0;
    for (int64_t head = 0; head < group; head++) {
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

/* ---- what is left ---------------------------------------------------------------------------------- */

/* dq and dk from the gradients of phi(q) and phi(k): a warp a vector. */
template <class T, class real>
static __global__ void map_back(alk_map map, int64_t rows, int64_t keys, int64_t D, const T *q,
                                const T *k, const real *dphi, T *dq, T *dk) {
  for (int64_t n = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; n < rows + keys;
       n += (int64_t)gridDim.x * WARPS) {
    const T *x = n < rows ? q + n * D : k + (n - rows) * D;
    T *dx = n < rows ? dq + n * D : dk + (n - rows) * D;
    const real *g = dphi + n * D;
    const int lane = threadIdx.x & 31;
    if (map != ALK_MAP_l2) {
      for (int64_t d = lane; d < D; d += 32) store(dx, d, mapped_slope(map, g[d], load(x, d)));
      continue;
    }
    real squares = 0, dot = 0;
    bool some = false;
    for (int64_t d = lane; d < D; d += 32) {
      const real v = load(x, d);
      squares += v * v, dot += v * g[d], some |= g[d] != 0;
    }
    some = __ballot_sync(0xffffffffu, some) != 0;
    const real r = vsqrt(warp_join(squares, plus())), s = 1 / r,
               along = warp_join(dot, plus()) * s * s * s;
    for (int64_t d = lane; d < D; d += 32)
      store(dx, d, some && r > (real)1e-12 ? g[d] * s - load(x, d) * along : (real)0);
  }
}

/* dsums of a row's last key gets what its entries move: a block a head; the very last key, which many
 * rows may end at, takes a sum of the block. */
static __global__ void last_keys(alk_visible g, const double *moved, double *dsums) {
  EACH_ROW(u, g.B * g.H) {
    const int64_t end = g.T > 0 ? alk_visible_keys(&g, u / g.H, g.T - 1).to : 0;
    double sum = 0;
    ROW_LOOP(i, g.T) {
      const alk_range seen = alk_visible_keys(&g, u / g.H, i);
      if (seen.from >= seen.to) continue;
      if (seen.to == end) sum += moved[u * g.T + i];
      else dsums[u * g.S + seen.to - 1] += moved[u * g.T + i]; /* causal: of this row alone */
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0 && end > 0) dsums[u * g.S + end - 1] += sum;
  }
}

/* The parts of a head in order, of n numbers each. */
static __global__ void add_parts(int64_t heads, int64_t parts, int n, plan p, bool powers,
                                 const double *from, double *to) {
  GRID_LOOP(u, heads * n) {
    const int k = (int)(u % n);
    double sum = 0;
    for (int64_t i = 0; i < parts; i++) sum += from[(u / n * parts + i) * n + k];
    to[u] = powers ? finish_power(p, k, sum) : sum;
  }
}

/* ---- host -------------------------------------------------------------------------------------------- */

/* Rows or keys of a tile; what leaves parts of a head has all the same. */
enum { FULL = 64, PARTS = 32 };
template <class T, int KIND> constexpr int tile_rows(void) {
  return KIND == EXP_ALONE && sizeof(T) < 8 ? FULL : PARTS;
}

/* Places in the scratch, in bytes. */
typedef struct layout {
  int64_t moved, coefficients, scalars, by, delta, reached, phi, dphi, total;
} layout;
static layout layout_of(const alk_attn_spec *a, int64_t size) {
  const int64_t rows = a->g.B * a->g.H * a->g.T, real = size == 8 ? 8 : 4,
                parts = a->g.B * a->g.H * pieces(a->g.T, PARTS),
                scalars = a->weight.program ? a->weight.program->n_scalars : 0;
  layout l = {};
  l.coefficients = l.moved + (a->weight.Hd ? rows * 8 : 0);
  l.scalars = l.coefficients +
              (a->weight.f == ALK_WEIGHT_POLYNOMIAL ? parts * a->weight.n_coefficients * 8 : 0);
  l.by = l.scalars + parts * scalars * 8;
  l.delta = l.by + rows * real;
  l.reached = l.delta + rows * real;
  l.phi = l.reached + (rows + 15) / 16 * 16;
  l.dphi = l.phi + map_room(a) * real;
  l.total = l.dphi + map_room(a) * real;
  return l;
}
template <class T> static int64_t bwd_room(const alk_place *at, const alk_attn_spec *a) {
  return cuda_sdpa_room<T>(queue_of(at), a, true, layout_of(a, sizeof(T)).total);
}
CUDA_TYPED_BF16(attn_bwd_room, bwd_room)

template <class T, int KIND, int R, int CW>
static void launch_rows(const alk_place *at, const alk_attn_spec *s, const bwd_inputs<T> &in,
                        const bwd_results<T> &to) {
  const int64_t blocks = s->g.B * s->g.H * pieces(s->g.T, R) * at_least_one(pieces(s->D, CW));
  rows_back<T, KIND, R, CW><<<blocks_for(blocks, 1), THREADS, 0, stream_of(at)>>>(
      attn_of(s), program_from<KIND>(&s->weight), in, to);
}
template <class T, int KIND, int R, int CW>
static void launch_keys(const alk_place *at, const alk_attn_spec *s, const bwd_inputs<T> &in,
                        const bwd_results<T> &to) {
  const int64_t blocks =
      s->g.B * s->g.Hkv * pieces(s->g.S, R) * at_least_one(pieces(s->D > s->E ? s->D : s->E, CW));
  keys_back<T, KIND, R, CW><<<blocks_for(blocks, 1), THREADS, 0, stream_of(at)>>>(
      attn_of(s), program_from<KIND>(&s->weight), in, to);
}
/* Both passes. */
template <class T, int KIND, int R, int CW>
static void launch(const alk_place *at, const alk_attn_spec *s, const bwd_inputs<T> &in,
                   const bwd_results<T> &to) {
  if (s->g.B * s->g.H * s->g.T > 0) launch_rows<T, KIND, R, CW>(at, s, in, to);
  if (s->g.B * s->g.Hkv * s->g.S > 0) launch_keys<T, KIND, R, CW>(at, s, in, to);
}
template <class T, int KIND>
static void launch_wide(const alk_place *at, const alk_attn_spec *s, const bwd_inputs<T> &in,
                        const bwd_results<T> &to) {
  const int64_t most = s->D > s->E ? s->D : s->E;
  constexpr int R = tile_rows<T, KIND>();
  if (most <= 32) launch<T, KIND, R, 32>(at, s, in, to);
  else launch<T, KIND, R, 64>(at, s, in, to);
}

template <class T>
static alk_status bwd(const alk_place *at, const alk_attn_spec *a, const alk_attn_grad *t,
                      void *scratch) {
  typedef real_of<T> real;
  const bool more = t->dW || t->dsums || t->dcoefficients || t->dscalars;
  cuda_queue *queue = queue_of(at);
  switch (cuda_sdpa_takes(queue, a, sizeof(T) == 2, t->b, more ? (const void *)a : t->sums, true)) {
  case SDPA_FAILS:
    return ALK_FAILED;
  case SDPA_TAKES:
    return cuda_sdpa_bwd(queue, a, t, scratch);
  case SDPA_LEAVES:
    break;
  }
  const layout l = layout_of(a, sizeof(T));
  char *x = (char *)scratch;
  const alk_visible &g = a->g;
  const int64_t rows = g.B * g.H * g.T, keys = g.B * g.S * g.Hkv, heads = g.B * g.H;
  const int kind = kind_of(a, t->sums);
  const cudaStream_t stream = stream_of(at);
  const bool mapped = a->map != ALK_MAP_identity;
  real *by = (real *)(x + l.by), *delta = (real *)(x + l.delta), *phi = (real *)(x + l.phi),
       *dphi = (real *)(x + l.dphi);
  unsigned char *reached = (unsigned char *)(x + l.reached);
  if (rows)
    row_factors<T, real><<<blocks_for(rows, WARPS), THREADS, 0, stream>>>(
        attn_of(a), (const T *)t->y, (const T *)t->dy, (const real *)t->W, (const real *)t->inner,
        (const real *)t->dW, by, delta, reached);
  const bwd_inputs<T> in = {mapped_into<T>(at, a, t->q, t->k, phi),
                            (const T *)t->v,
                            (const T *)t->b,
                            (const T *)t->dy,
                            (const double *)t->sums,
                            (const real *)t->m,
                            by,
                            delta,
                            reached};
  bwd_results<T> to = {(T *)t->dq, (T *)t->dk, (T *)t->dv, (T *)t->db};
  if (mapped) to.dphi_q = dphi, to.dphi_k = dphi + rows * a->D;
  if (t->dsums) to.dsums = (double *)t->dsums, to.moved = (double *)(x + l.moved);
  if (t->dcoefficients) to.coefficients = (double *)(x + l.coefficients);
  if (t->dscalars) to.scalars = (double *)(x + l.scalars);
  if (kind == PROGRAMS) launch<T, PROGRAMS, PARTS, 32>(at, a, in, to);
  else if constexpr (sizeof(real) == 8) launch<T, EVERY_F, PARTS, 32>(at, a, in, to);
  else if (kind == EVERY_F) launch_wide<T, EVERY_F>(at, a, in, to);
  else launch_wide<T, EXP_ALONE>(at, a, in, to);
  if (mapped && (rows + keys) * a->D > 0)
    map_back<T, real><<<blocks_for(rows + keys, WARPS), THREADS, 0, stream>>>(
        a->map, rows, keys, a->D, (const T *)t->q, (const T *)t->k, dphi, (T *)t->dq, (T *)t->dk);
  if (to.dsums && heads * g.S > 0)
    last_keys<<<blocks_for(heads, 1), THREADS, 0, stream>>>(g, to.moved, to.dsums);
  const int n = a->weight.n_coefficients,
            n_scalars = kind == PROGRAMS ? a->weight.program->n_scalars : 0;
  const int64_t parts = pieces(g.T, PARTS);
  if (to.coefficients && heads * n > 0)
    add_parts<<<blocks_for(heads * n, THREADS), THREADS, 0, stream>>>(
        heads, parts, n, plan_of(&a->weight, true), true, to.coefficients,
        (double *)t->dcoefficients);
  if (to.scalars && heads * n_scalars > 0)
    add_parts<<<blocks_for(heads * n_scalars, THREADS), THREADS, 0, stream>>>(
        heads, parts, n_scalars, plan_of(&a->weight, false), false, to.scalars,
        (double *)t->dscalars);
  return launched();
}
CUDA_TYPED_BF16(attn_bwd, bwd)
