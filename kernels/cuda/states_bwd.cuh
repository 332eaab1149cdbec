/* states_bwd.cuh: backward of attention by states (states.cuh), for features F: channels or
 * monomials.
 *
 * With y = N / W the gradient of a weight is dw_ij = g_i.u_j + delta_i, g = dy / W, delta = dW -
 * dy.y / W; without it g = dy, delta = dW. With the state H, z before a segment and, over the rows
 * after it, R = sum_i f_i g_i^T, t = sum_i f_i delta_i, f the weighted features of a query,
 * decayed to it, the features of queries have the gradient H g_i + delta_i z (times their
 * weights), those of keys R u_j + t, and du_j = R^T m(kh_j); pairs of the segment come on top. The
 * gradient of the decay of step t is the sum of w_ij dw_ij over the pairs j < t <= i: what two
 * states, a state and the segment, or the segment itself hold of it, so that differences are of
 * sums over one segment. Each number has one block that makes it: the heads and lines that share a
 * key follow each other there. */
#ifndef ALK_CUDA_STATES_BWD_CUH
#define ALK_CUDA_STATES_BWD_CUH
#include "states.cuh"

template <class T, class A> struct slopes : given<T, A> {
  held<const A> start, end; /* the state given, and the gradient of the one handed on, or NULL */
  const T *dy;
  const A *by, *delta; /* (B,H,T): 1 / W or 0; delta */
  const A *states, *after;
  A *dq, *dk, *dv; /* of qh, kh, u */
  double *row_steps, *key_steps,
      *col_steps;       /* (B,H,T), (B,lines,S) twice: parts of the decay's gradient, or NULL */
  double *coefficients; /* (B,H,tiles of rows,n), or NULL */

  __device__ A g(const alk_line &l, int64_t i, int64_t e) const {
    const A f = by[l.row + i];
    return f == 0 ? (A)0 : load(dy, (l.query + i * this->a.H) * this->a.E + e) * f;
  }
  __device__ held<const A> before_segment(const alk_line &l, int64_t s) const {
    return state_before(l, this->a, start, states, s);
  }
  /* What the rows after segment s leave, not causal all; H NULL: there are none. */
  __device__ held<const A> after_segment(const alk_line &l, int64_t s) const {
    if (s + this->a.between >= this->a.rows) return held_at(this->a, end, l.n);
    return slot_at(this->a, after, this->a.rows, l.n, s);
  }
};

/* 1 / W and delta of each row; a warp a row. */
template <class T, class A>
static __global__ void open_rows(alk_lines a, const T *y, const A *W, const T *dy, const A *dW,
                                 A *by, A *delta) {
  EACH_ROW(block, parts(a.B * a.H * a.T, WARPS)) {
    const int64_t row = block * WARPS + threadIdx.x / 32, t = row % a.T, b = row / a.T / a.H,
                  at = ((b * a.T + t) * a.H + row / a.T % a.H) * a.E;
    const bool here = row < a.B * a.H * a.T;
    A f = 1, d = here && dW && a.weighs ? dW[row] : (A)0;
    if (a.normalise) {
      A dot = 0;
      for (int64_t e = threadIdx.x % 32; here && e < a.E; e += 32)
        dot += load(dy, at + e) * load(y, at + e);
      dot = warp_join(dot, plus());
      f = !here || vabs(W[row]) < SMALLEST ? (A)0 : 1 / W[row];
      d = f == 0 ? (A)0 : d - dot * f;
    }
    if (here && threadIdx.x % 32 == 0) by[row] = f, delta[row] = d;
  }
}

/* Local sums of the segments of rows: sum_i A f_i g_i^T, and of f_i delta_i. */
template <class T, class A, class F>
static __global__ void __launch_bounds__(THREADS, F::MONOMIALS ? 1 : 2)
    sum_rows(slopes<T, A> x, F f, A *after, held<A> first) {
  enum { N = tile<A>::N, M = tile<A>::M };
  __shared__ slices<A> m;
  const alk_lines &a = x.a;
  const int64_t columns = parts(a.E, N), features = parts(a.R, N);
  EACH_ROW(item, a.B * a.lines * a.rows * features * columns) {
    int64_t at = item;
    const int64_t e0 = next_axis(&at, columns) * N, r0 = next_axis(&at, features) * N,
                  s = next_axis(&at, a.rows), s0 = s * a.segment;
    const alk_line line = line_of(a, at);
    const held<A> to =
        s >= a.between ? slot_at(a, after, a.rows, at, s - a.between) : held_at(a, first, at);
    if (!to.H) continue;
    A acc[M][M] = {}, dot = 0;
    for (int64_t h = 0; h < a.heads; h++) {
      const alk_line l = head_of(a, line, h);
      multiply<false, false>(
          m, ALL, fewer(s0 + a.segment, a.T) - s0,
          [&](int64_t i, int r) {
            return r0 + r < a.R ? f.query(x.query(l, s0 + i), r0 + r) * x.decay(x.to_row, l, s0 + i)
                                : (A)0;
          },
          [&](int64_t i, int e) { return e0 + e < a.E ? x.g(l, s0 + i, e0 + e) : (A)0; },
          [&](int64_t i) { return x.delta[l.row + s0 + i]; }, acc, dot);
    }
    keep_sums(a, to, r0, e0, acc, dot);
  }
}

/* ---- gradients through features -------------------------------------------------------------- */

/* to[row][channel - d0] += the gradient through features [r0, ..) of df[row][feature - r0], for
 * rows below n with vectors x(row); `weighted`: of a query. */
template <class A, class X>
static __device__ void through(const monomials<A> &f, const square<A> &df, int64_t r0, int64_t R,
                               int64_t d0, int n, bool weighted, X x, square<A> &to) {
  const int row = own_row<A>(), part = own_part<A>(), count = (int)fewer(tile<A>::N, R - r0);
  if (row >= n) return;
  const A *v = x(row);
  for (int r = 0; r < count; r++) {
    const alk_power *list = f.powers + (r0 + r) * f.K;
    const A d = weighted ? df.at[row][r] * f.weight(r0 + r) : df.at[row][r];
    for (int p = 0; p < f.K && list[p].power; p++) {
      const int64_t channel = list[p].channel - d0;
      if (channel < 0 || channel >= tile<A>::N || channel % tile<A>::PARTS != part) continue;
      to.at[row][channel] += d * monomial_slope(f.K, list, p, v);
    }
  }
}

/* The own part of sum_r f_r df_r of the own row over features [r0, ..); parts[warp][n]: += that of
 * order n over the warp's rows, without k_n, unless NULL. */
template <class A, class X>
static __device__ double along(const channels<A> &f, const square<A> &df, int64_t r0, int64_t R,
                               int n, bool weighted, X x, double *) {
  const int row = own_row<A>(), count = (int)fewer(tile<A>::N, R - r0);
  double sum = 0;
  for (int r = own_part<A>(); row < n && r < count; r += tile<A>::PARTS)
    sum += (double)(weighted ? f.query(x(row), r0 + r) : f.key(x(row), r0 + r)) *
           (double)df.at[row][r];
  return sum;
}
template <class A, class X>
static __device__ double along(const monomials<A> &f, const square<A> &df, int64_t r0, int64_t R,
                               int n, bool weighted, X x, double *orders) {
  const int row = own_row<A>(), count = (int)fewer(tile<A>::N, R - r0);
  double sum = 0;
  for (int o = f.order[r0]; o <= f.order[r0 + count - 1]; o++) {
    double part = 0;
    for (int r = own_part<A>(); row < n && r < count; r += tile<A>::PARTS)
      if (f.order[r0 + r] == o)
        part +=
            (double)(weighted ? f.kept[r0 + r] * f.key(x(row), r0 + r) : f.key(x(row), r0 + r)) *
            (double)df.at[row][r];
    sum += weighted ? f.factor[o] * part : part;
    if (!orders) continue;
    part = warp_join(part, plus());
    if (threadIdx.x % 32 == 0) orders[threadIdx.x / 32 * ALK_MAX_COEFFICIENTS + o] += part;
  }
  return sum;
}

template <class A> struct through_room {
  union {
    slices<A> m;
    square<A> df; /* stands where no product is being made */
  };
  square<A> w;
};

/* acc += the gradient by channels [d0, ..) of rows below n from a state S: df[row][r] = (sum_e
 * S[r][e] g(e, row) + S's sum [r] by(row)) decay(row), through the features. *sum: += the own part
 * of sum_r f_r df_r, where `summed`. */
template <class T, class A, class F, class X, class G, class B, class D>
static __device__ void from_state(through_room<A> &room, const slopes<T, A> &w, const F &f,
                                  held<const A> S, int64_t d0, int n, bool weighted, bool summed,
                                  X x, G g, B by, D decay, A (&acc)[tile<A>::M][tile<A>::M],
                                  double *sum, double *orders) {
  enum { N = tile<A>::N, M = tile<A>::M };
  const alk_lines &a = w.a;
  if (F::MONOMIALS) EACH_SUM(r, c) room.w.at[row_at<A>(r)][column_at<A>(c)] = 0;
  for (int64_t r0 = 0; r0 < a.R; r0 += N) {
    if (!F::MONOMIALS && !summed && r0 != d0) continue;
    A df[M][M] = {};
    multiply<true, true>(
        room.m, ALL, a.E, g,
        [&](int64_t e, int r) { return r0 + r < a.R ? S.H[(r0 + r) * a.E + e] : (A)0; }, df);
    EACH_SUM(r, c) {
      const int row = row_at<A>(r);
      const int64_t at = r0 + column_at<A>(c);
      if (row >= n || at >= a.R) continue;
      if (a.weighs) df[r][c] += S.z[at] * by(row);
      df[r][c] *= decay(row);
      if constexpr (!F::MONOMIALS)
        if (r0 == d0) acc[r][c] += weighted ? f.c * df[r][c] : df[r][c];
    }
    if (!F::MONOMIALS && !summed) continue;
    EACH_SUM(r, c) room.df.at[row_at<A>(r)][column_at<A>(c)] = df[r][c];
    __syncthreads();
    if (summed) *sum += along(f, room.df, r0, a.R, n, weighted, x, orders);
    if constexpr (F::MONOMIALS) through(f, room.df, r0, a.R, d0, n, weighted, x, room.w);
    __syncthreads();
  }
  if constexpr (F::MONOMIALS) EACH_SUM(r, c) {
      if (row_at<A>(r) < n) acc[r][c] += room.w.at[row_at<A>(r)][column_at<A>(c)];
    }
  __syncthreads();
}

/* ---- queries --------------------------------------------------------------------------------- */

/* dqh of a tile of rows of one head and of channels; by the blocks of the first channels, also each
 * row's sum of w dw and its parts of the coefficients' gradient. STEPS: it may be asked for
 * the gradient of the decay, which takes registers. */
template <class T, class A, class F, bool STEPS>
static __global__ void __launch_bounds__(THREADS, F::MONOMIALS || STEPS ? 1 : 2)
    query_slopes(slopes<T, A> x, F f) {
  enum { N = tile<A>::N, M = tile<A>::M, ORDERS = F::MONOMIALS ? ALK_MAX_COEFFICIENTS : 1 };
  __shared__ through_room<A> room;
  __shared__ double orders[WARPS][ORDERS], total[N];
  const alk_lines &a = x.a;
  const int64_t columns = parts(a.D, N), tiles = (a.T + N - 1) / N;
  EACH_ROW(item, a.B * a.H * tiles * columns) {
    int64_t at = item;
    const int64_t d0 = next_axis(&at, columns) * N, i0 = next_axis(&at, tiles) * N,
                  s = a.causal ? i0 / a.segment : 0, s0 = s * a.segment;
    const alk_line l = head_of(a, line_of(a, at / a.heads), at % a.heads);
    const int n = (int)fewer(N, a.T - i0);
    const bool by_order = F::MONOMIALS && x.coefficients && d0 == 0,
               stepped = STEPS && x.row_steps && d0 == 0;
    A acc[M][M] = {};
    double sum = 0, inside[M] = {};
    __syncthreads();
    for (int u = threadIdx.x; by_order && u < WARPS * ORDERS; u += THREADS)
      orders[u / ORDERS][u % ORDERS] = 0;
    const auto row = [&](int i) { return x.query(l, i0 + i); };
    const auto g = [&](int64_t e, int i) { return i < n ? x.g(l, i0 + i, e) : (A)0; };
    const auto delta = [&](int i) { return x.delta[l.row + i0 + i]; };
    const held<const A> H = x.before_segment(l, s);
    if (H.H)
      from_state(
          room, x, f, H, d0, n, true, stepped || by_order, row, g, delta,
          [&](int i) { return x.decay(x.to_row, l, i0 + i); }, acc, &sum,
          by_order ? &orders[0][0] : NULL);
    for (int64_t j0 = s0; a.causal && j0 <= i0 && j0 < l.len; j0 += N) {
      const int64_t n_keys = fewer(N, l.len - j0);
      A score[M][M] = {}, p[M][M] = {};
      if (F::MONOMIALS || stepped)
        multiply<true, true>(
            room.m, ALL, a.D, [&](int64_t d, int i) { return i < n ? row(i)[d] : (A)0; },
            [&](int64_t d, int j) { return j < n_keys ? x.key(l, j0 + j)[d] : (A)0; }, score);
      multiply<true, true>(
          room.m, ALL, a.E, g,
          [&](int64_t e, int j) { return j < n_keys ? x.value(l, j0 + j, e) : (A)0; }, p);
      EACH_SUM(r, c) {
        const int i = row_at<A>(r), j = column_at<A>(c);
        A out = 0;
        if (i < n && j < n_keys && j0 + j <= i0 + i) {
          A slope;
          const A A_ij = x.pair(l, i0 + i, j0 + j), w = f.weigh(score[r][c], &slope) * A_ij,
                  dw = a.weighs ? p[r][c] + delta(i) : p[r][c];
          if (stepped) inside[r] += (double)w * (double)dw;
          out = dw * (slope * A_ij);
          p[r][c] = dw * A_ij;
        } else {
          p[r][c] = score[r][c] = 0;
        }
        room.w.at[i][j] = out;
      }
      if constexpr (F::MONOMIALS)
        if (by_order) { /* s^n may leave f32 where kept_n s^n does not */
          double power[M][M];
          EACH_SUM(r, c) power[r][c] = (double)p[r][c];
          for (int o = 0; o < f.n; o++) {
            double part = 0;
            EACH_SUM(r, c) {
              part += power[r][c];
              power[r][c] *= (double)(f.scale * score[r][c]);
            }
            part = warp_join(part, plus());
            if (threadIdx.x % 32 == 0 && f.coefficient[o] != 0)
              orders[threadIdx.x / 32][o] += f.coefficient[o] * part;
          }
        }
      const auto weights = [&](int64_t j, int i) { return room.w.at[i][j]; };
      const auto keys = [&](int64_t j, int d) {
        return d0 + d < a.D ? x.key(l, j0 + j)[d0 + d] : (A)0;
      };
      multiply<true, false>(room.m, j0 == i0 ? UP_TO_ROW : ALL, n_keys, weights, keys, acc);
    }
    EACH_SUM(r, c) {
      const int64_t i = i0 + row_at<A>(r), d = d0 + column_at<A>(c);
      if (i < a.T && d < a.D) x.dq[(l.query + i * a.H) * a.D + d] = acc[r][c];
    }
    if (stepped) {
      sum = row_total<A>(sum);
      for (int r = 0; r < M; r++)
        for (int b = SIDE / 2; b > 0; b >>= 1)
          inside[r] += __shfl_xor_sync(0xffffffffu, inside[r], b);
      if (threadIdx.x % SIDE == 0)
        for (int r = 0; r < M; r++) total[row_at<A>(r)] = inside[r];
      __syncthreads();
      if (own_part<A>() == 0 && own_row<A>() < n)
        x.row_steps[l.row + i0 + own_row<A>()] = total[own_row<A>()] + sum;
    }
    __syncthreads();
    if constexpr (F::MONOMIALS)
      for (int o = threadIdx.x; by_order && o < f.n; o += THREADS) {
        double all = 0;
        for (int w = 0; w < WARPS; w++) all += orders[w][o];
        x.coefficients[(at * tiles + i0 / N) * f.n + o] = all;
      }
  }
}

/* ---- keys and values ------------------------------------------------------------------------- */

/* dkh of a tile of keys and of channels, summed over the lines of their head; by the blocks of the
 * first channels, also each key's sums of w dw. */
template <class T, class A, class F, bool STEPS>
static __global__ void __launch_bounds__(THREADS, F::MONOMIALS || STEPS ? 1 : 2)
    key_slopes(slopes<T, A> x, F f) {
  enum { N = tile<A>::N, M = tile<A>::M };
  __shared__ through_room<A> room;
  const alk_lines &a = x.a;
  const int64_t columns = parts(a.D, N), tiles = (a.S + N - 1) / N, lines = a.lines / a.Hkv;
  EACH_ROW(item, a.B * a.Hkv * tiles * columns) {
    int64_t at = item;
    const int64_t d0 = next_axis(&at, columns) * N, j0 = next_axis(&at, tiles) * N,
                  s = a.causal ? j0 / a.segment : 0, s1 = fewer((s + 1) * a.segment, a.T);
    const bool stepped = STEPS && x.row_steps && d0 == 0;
    A acc[M][M] = {};
    int n = 0;
    alk_line l;
    for (int64_t line = at * lines; line < (at + 1) * lines; line++) {
      l = line_of(a, line);
      n = l.len > j0 ? (int)fewer(N, l.len - j0) : 0;
      if (n == 0) break;
      const auto row = [&](int j) { return x.key(l, j0 + j); };
      const auto u = [&](int64_t e, int j) { return j < n ? x.value(l, j0 + j, e) : (A)0; };
      double sum = 0, inside[M] = {};
      const held<const A> R = x.after_segment(l, s);
      if (R.H)
        from_state(
            room, x, f, R, d0, n, false, stepped, row, u, [](int) { return (A)1; },
            [&](int j) { return x.decay(x.from_key, l, j0 + j); }, acc, &sum, (double *)NULL);
      for (int64_t h = 0; a.causal && h < a.heads; h++) {
        const alk_line own = head_of(a, l, h);
        for (int64_t i0 = j0; i0 < s1; i0 += N) {
          const int64_t n_rows = fewer(N, s1 - i0);
          A score[M][M] = {}, p[M][M] = {};
          if (F::MONOMIALS || stepped)
            multiply<true, true>(
                room.m, ALL, a.D, [&](int64_t d, int j) { return j < n ? row(j)[d] : (A)0; },
                [&](int64_t d, int i) { return i < n_rows ? x.query(own, i0 + i)[d] : (A)0; },
                score);
          multiply<true, true>(
              room.m, ALL, a.E, u,
              [&](int64_t e, int i) { return i < n_rows ? x.g(own, i0 + i, e) : (A)0; }, p);
          EACH_SUM(r, c) {
            const int j = row_at<A>(r), i = column_at<A>(c);
            A out = 0;
            if (j < n && i < n_rows && j0 + j <= i0 + i) {
              A slope;
              const A A_ij = x.pair(l, i0 + i, j0 + j), w = f.weigh(score[r][c], &slope) * A_ij,
                      dw = a.weighs ? p[r][c] + x.delta[own.row + i0 + i] : p[r][c];
              if (stepped) inside[r] += (double)w * (double)dw;
              out = dw * (slope * A_ij);
            }
            room.w.at[j][i] = out;
          }
          const auto weights = [&](int64_t i, int j) { return room.w.at[j][i]; };
          const auto queries = [&](int64_t i, int d) {
            return d0 + d < a.D ? x.query(own, i0 + i)[d0 + d] : (A)0;
          };
          multiply<true, false>(room.m, i0 == j0 ? FROM_ROW : ALL, n_rows, weights, queries, acc);
        }
      }
      if (!stepped) continue;
      sum = row_total<A>(sum);
      if (own_part<A>() == 0 && own_row<A>() < n) x.key_steps[line * a.S + j0 + own_row<A>()] = sum;
      for (int r = 0; r < M; r++) {
        for (int b = SIDE / 2; b > 0; b >>= 1)
          inside[r] += __shfl_xor_sync(0xffffffffu, inside[r], b);
        if (threadIdx.x % SIDE == 0 && row_at<A>(r) < n)
          x.col_steps[line * a.S + j0 + row_at<A>(r)] = inside[r];
      }
    }
    EACH_SUM(r, c) {
      const int64_t j = j0 + row_at<A>(r), d = d0 + column_at<A>(c);
      if (j < a.S && d < a.D)
        x.dk[(l.key + j * a.Hkv) * a.D + d] = row_at<A>(r) < n ? acc[r][c] : (A)0;
    }
  }
}

/* du of a tile of keys and of channels, summed over the lines of their head. */
template <class T, class A, class F>
static __global__ void __launch_bounds__(THREADS, F::MONOMIALS ? 1 : 2)
    value_slopes(slopes<T, A> x, F f) {
  enum { N = tile<A>::N, M = tile<A>::M };
  __shared__ through_room<A> room;
  const alk_lines &a = x.a;
  const int64_t columns = parts(a.E, N), tiles = (a.S + N - 1) / N, lines = a.lines / a.Hkv;
  EACH_ROW(item, a.B * a.Hkv * tiles * columns) {
    int64_t at = item;
    const int64_t e0 = next_axis(&at, columns) * N, j0 = next_axis(&at, tiles) * N,
                  s = a.causal ? j0 / a.segment : 0, s1 = fewer((s + 1) * a.segment, a.T);
    A acc[M][M] = {};
    int n = 0;
    alk_line l;
    for (int64_t line = at * lines; line < (at + 1) * lines; line++) {
      l = line_of(a, line);
      n = l.len > j0 ? (int)fewer(N, l.len - j0) : 0;
      if (n == 0) break;
      const held<const A> R = x.after_segment(l, s);
      if (R.H)
        multiply<true, false>(
            room.m, ALL, a.R,
            [&](int64_t r, int j) {
              return j < n ? f.key(x.key(l, j0 + j), r) * x.decay(x.from_key, l, j0 + j) : (A)0;
            },
            [&](int64_t r, int e) { return e0 + e < a.E ? R.H[r * a.E + e0 + e] : (A)0; }, acc);
      for (int64_t h = 0; a.causal && h < a.heads; h++) {
        const alk_line own = head_of(a, l, h);
        for (int64_t i0 = j0; i0 < s1; i0 += N) {
          const int64_t n_rows = fewer(N, s1 - i0);
          A score[M][M] = {};
          multiply<true, true>(
              room.m, ALL, a.D,
              [&](int64_t d, int j) { return j < n ? x.key(l, j0 + j)[d] : (A)0; },
              [&](int64_t d, int i) { return i < n_rows ? x.query(own, i0 + i)[d] : (A)0; }, score);
          EACH_SUM(r, c) {
            const int j = row_at<A>(r), i = column_at<A>(c);
            A slope, weight = 0;
            if (j < n && i < n_rows && j0 + j <= i0 + i)
              weight = f.weigh(score[r][c], &slope) * x.pair(l, i0 + i, j0 + j);
            room.w.at[j][i] = weight;
          }
          const auto weights = [&](int64_t i, int j) { return room.w.at[j][i]; };
          const auto g = [&](int64_t i, int e) {
            return e0 + e < a.E ? x.g(own, i0 + i, e0 + e) : (A)0;
          };
          multiply<true, false>(room.m, i0 == j0 ? FROM_ROW : ALL, n_rows, weights, g, acc);
        }
      }
    }
    EACH_SUM(r, c) {
      const int64_t j = j0 + row_at<A>(r), e = e0 + column_at<A>(c);
      if (j < a.S && e < a.E)
        x.dv[(l.key + j * a.Hkv) * a.E + e] = row_at<A>(r) < n ? acc[r][c] : (A)0;
    }
  }
}

/* dv = b du in place, and db = du.v; a warp a key. */
template <class T, class A>
static __global__ void scale_back(alk_lines a, const T *v, const T *b, A *dv, A *db) {
  EACH_ROW(block, parts(a.B * a.S * a.Hkv, WARPS)) {
    const int64_t r = block * WARPS + threadIdx.x / 32, j = r / a.Hkv % a.S;
    const bool seen = r < a.B * a.S * a.Hkv && j < keys_of(a, r / a.Hkv / a.S);
    A dot = 0;
    for (int64_t e = threadIdx.x % 32; seen && e < a.E; e += 32) {
      dot += dv[r * a.E + e] * load(v, r * a.E + e);
      dv[r * a.E + e] *= load(b, r);
    }
    dot = warp_join(dot, plus());
    if (r < a.B * a.S * a.Hkv && threadIdx.x % 32 == 0) db[r] = seen ? dot : (A)0;
  }
}

/* ---- decay and coefficients ------------------------------------------------------------------ */

/* steps (line,S): a block a segment. Step t has the rows from t on and the keys before t. */
template <class T, class A> static __global__ void sum_steps(slopes<T, A> x, double *steps) {
  const alk_lines &a = x.a;
  EACH_ROW(item, a.B * a.lines * a.rows) {
    const int64_t s = item % a.rows, s0 = s * a.segment, s1 = fewer(s0 + a.segment, a.T);
    const alk_line l = line_of(a, item / a.rows);
    const held<const A> H = x.before_segment(l, s), R = x.after_segment(l, s);
    double sum = 0;
    if (H.H && R.H) {
      ROW_LOOP(i, a.R * a.E) sum += (double)H.H[i] * (double)R.H[i];
      if (a.weighs) ROW_LOOP(i, a.R) sum += (double)H.z[i] * (double)R.z[i];
    }
    sum = block_sum(sum) * (double)decay_over<A>(l, s0, s1);
    double keys = 0;
    for (int64_t j = s0 + threadIdx.x; j < s1 && j < l.len; j += blockDim.x)
      keys += x.key_steps[l.n * a.S + j];
    sum += block_sum(keys);
    if (threadIdx.x != 0) continue;
    for (int64_t t = s1 - 1; t >= s0; t--) {
      for (int64_t h = 0; h < a.heads; h++) sum += x.row_steps[l.row + h * a.T + t];
      if (t < l.len) sum -= x.col_steps[l.n * a.S + t] + x.key_steps[l.n * a.S + t];
      steps[l.n * a.S + t] = t < l.len ? sum : 0;
    }
  }
}
/* ddecay (B,S,Hd): the sum over the lines of a head of decay. */
template <class A> static __global__ void sum_lines(alk_lines a, const double *steps, A *ddecay) {
  const int64_t each = a.lines / a.Hd;
  GRID_LOOP(u, a.B * a.S * a.Hd) {
    const int64_t t = u / a.Hd % a.S, first = u / a.Hd / a.S * a.lines + u % a.Hd * each;
    double sum = 0;
    for (int64_t i = 0; i < each; i++) sum += steps[(first + i) * a.S + t];
    ddecay[u] = (A)sum;
  }
}
/* out (B,H,segments of the contract,n): the sum over their tiles. */
static __global__ void sum_tiles(int64_t heads, int64_t segments, int64_t tiles, int64_t each,
                                 int64_t n, const double *parts, double *out) {
  GRID_LOOP(u, heads * segments * n) {
    const int64_t s = u / n % segments, h = u / n / segments;
    double sum = 0;
    for (int64_t t = s * each; t < (s + 1) * each && t < tiles; t++)
      sum += parts[(h * tiles + t) * n + u % n];
    out[u] = sum;
  }
}

/* ---- the whole ------------------------------------------------------------------------------- */

template <class T, class A, class F, bool STEPS>
static void token_slopes(cudaStream_t s, const slopes<T, A> &x, F f) {
  const alk_lines &a = x.a;
  const int64_t N = tile<A>::N, columns = parts(a.D, N);
  query_slopes<T, A, F, STEPS>
      <<<blocks_for(a.B * a.H * parts(a.T, N) * columns, 1), THREADS, 0, s>>>(x, f);
  key_slopes<T, A, F, STEPS>
      <<<blocks_for(a.B * a.Hkv * parts(a.S, N) * columns, 1), THREADS, 0, s>>>(x, f);
}

template <class A> struct slopes_room {
  A *by, *delta, *after;
  double *row, *key, *col, *coefficients;
};
template <class A> static slopes_room<A> cut_slopes(cutter *c, const alk_lines &n, int orders) {
  slopes_room<A> r = {};
  r.by = c->cut<A>(n.B * n.H * n.T), r.delta = c->cut<A>(n.B * n.H * n.T);
  r.after = c->cut<A>(states_numbers(n, n.rows));
  if (n.Hd) {
    r.row = c->cut<double>(n.B * n.H * n.T);
    r.key = c->cut<double>(n.B * n.lines * n.S), r.col = c->cut<double>(n.B * n.lines * n.S);
  }
  r.coefficients = c->cut<double>(n.B * n.H * ((n.T + tile<A>::N - 1) / tile<A>::N) * orders);
  return r;
}

/* What the contracts name alike. */
template <class A> struct gradients {
  const void *q, *k, *y;
  const A *W, *dW;
  A *db, *ddecay;
  double *steps, *dcoefficients;
  int orders;
  held<A> dstart;
};

template <class T, class A, class F>
static void backward(cudaStream_t s, alk_map map, slopes<T, A> x, F f, const slopes_room<A> &r,
                     const gradients<A> &g) {
  enum { N = tile<A>::N };
  const alk_lines &a = x.a;
  const int64_t rows = a.B * a.H * a.T, keys = a.B * a.S * a.Hkv, D = parts(a.D, N),
                E = parts(a.E, N), tiles = (a.T + N - 1) / N;
  x.by = r.by, x.delta = r.delta, x.after = r.after;
  if (g.ddecay) x.row_steps = r.row, x.key_steps = r.key, x.col_steps = r.col;
  if (g.dcoefficients) x.coefficients = r.coefficients;
  open_rows<T, A><<<blocks_for(rows, WARPS), THREADS, 0, s>>>(a, (const T *)g.y, g.W, x.dy, g.dW,
                                                              r.by, r.delta);
  sum_rows<T, A, F><<<blocks_for(a.B * a.lines * a.rows * parts(a.R, N) * E, 1), THREADS, 0, s>>>(
      x, f, r.after, g.dstart);
  join_states<A><<<blocks_for(a.B * a.lines * a.size, THREADS), THREADS, 0, s>>>(
      a, true, a.rows, r.after, x.end, g.dstart);
  if constexpr (F::MONOMIALS || sizeof(A) == 8) token_slopes<T, A, F, true>(s, x, f);
  else (g.ddecay ? token_slopes<T, A, F, true> : token_slopes<T, A, F, false>)(s, x, f);
  value_slopes<T, A, F><<<blocks_for(a.B * a.Hkv * parts(a.S, N) * E, 1), THREADS, 0, s>>>(x, f);
  if (map != ALK_MAP_identity) {
    map_rows_back<T, A>
        <<<blocks_for(rows * a.D, THREADS), THREADS, 0, s>>>(map, rows, a.D, (const T *)g.q, x.dq);
    map_rows_back<T, A>
        <<<blocks_for(keys * a.D, THREADS), THREADS, 0, s>>>(map, keys, a.D, (const T *)g.k, x.dk);
  }
  if (x.b) scale_back<T, A><<<blocks_for(keys, WARPS), THREADS, 0, s>>>(a, x.v, x.b, x.dv, g.db);
  if (g.ddecay) {
    sum_steps<T, A><<<blocks_for(a.B * a.lines * a.rows, 1), THREADS, 0, s>>>(x, g.steps);
    sum_lines<A><<<blocks_for(a.B * a.S * a.Hd, THREADS), THREADS, 0, s>>>(a, g.steps, g.ddecay);
  }
  if (g.dcoefficients) {
    const int64_t segments = alk_chunk_segments(a.R, a.T), each = alk_chunk_segment(a.R) / N;
    sum_tiles<<<blocks_for(a.B * a.H * segments * g.orders, THREADS), THREADS, 0, s>>>(
        a.B * a.H, segments, tiles, each, g.orders, r.coefficients, g.dcoefficients);
  }
}
#endif
