/* states_fwd.cuh: forward of attention by states (states.cuh), for features F: channels or
 * monomials. */
#ifndef ALK_CUDA_STATES_FWD_CUH
#define ALK_CUDA_STATES_FWD_CUH
#include "states.cuh"

/* A tile of rows of one head and of channels: N and W from the state before their segment, then
 * from the pairs inside it, and y. */
template <class T, class A, class F>
static __global__ void __launch_bounds__(THREADS, F::MONOMIALS ? 1 : 2)
    rows(given<T, A> x, F f, held<const A> start, const A *states, T *y, A *W) {
  enum { N = tile<A>::N, M = tile<A>::M };
  __shared__ slices<A> m;
  __shared__ square<A> w;
  __shared__ A total[N];
  const alk_lines &a = x.a;
  const int64_t columns = parts(a.E, N), tiles = (a.T + N - 1) / N;
  EACH_ROW(item, a.B * a.H * tiles * columns) {
    int64_t at = item;
    const int64_t e0 = next_axis(&at, columns) * N, i0 = next_axis(&at, tiles) * N,
                  s = a.causal ? i0 / a.segment : 0, s0 = s * a.segment;
    const alk_line l = head_of(a, line_of(a, at / a.heads), at % a.heads);
    const int n_rows = (int)fewer(N, a.T - i0);
    A acc[M][M] = {}, dot = 0;
    const held<const A> H = state_before(l, x.a, start, states, s);
    if (H.H) {
      multiply<true, false>(
          m, ALL, a.R,
          [&](int64_t r, int i) { return i < n_rows ? f.query(x.query(l, i0 + i), r) : (A)0; },
          [&](int64_t r, int e) { return e0 + e < a.E ? H.H[r * a.E + e0 + e] : (A)0; },
          [&](int64_t r) { return a.weighs ? H.z[r] : (A)0; }, acc, dot);
      if (x.to_row) {
        EACH_SUM(r, c) {
          if (row_at<A>(r) < n_rows) acc[r][c] *= x.decay(x.to_row, l, i0 + row_at<A>(r));
        }
        if (own_row<A>() < n_rows) dot *= x.decay(x.to_row, l, i0 + own_row<A>());
      }
    }
    for (int64_t j0 = s0; a.causal && j0 <= i0 && j0 < l.len; j0 += N) {
      const int64_t n_keys = fewer(N, l.len - j0);
      A score[M][M] = {};
      multiply<true, true>(
          m, ALL, a.D, [&](int64_t d, int i) { return i < n_rows ? x.query(l, i0 + i)[d] : (A)0; },
          [&](int64_t d, int j) { return j < n_keys ? x.key(l, j0 + j)[d] : (A)0; }, score);
      EACH_SUM(r, c) {
        const int i = row_at<A>(r), j = column_at<A>(c);
        A slope, weight = 0;
        if (i < n_rows && j < n_keys && j0 + j <= i0 + i)
          weight = f.weigh(score[r][c], &slope) * x.pair(l, i0 + i, j0 + j);
        w.at[i][j] = weight;
      }
      const auto weights = [&](int64_t j, int i) { return w.at[i][j]; };
      const auto values = [&](int64_t j, int e) {
        return e0 + e < a.E ? x.value(l, j0 + j, e0 + e) : (A)0;
      };
      const auto one = [](int64_t) { return (A)1; };
      multiply<true, false>(m, j0 == i0 ? UP_TO_ROW : ALL, n_keys, weights, values, one, acc, dot);
    }
    dot = a.weighs ? row_total<A>(dot) : (A)0;
    __syncthreads();
    if (own_part<A>() == 0) {
      total[own_row<A>()] = dot;
      if (e0 == 0 && own_row<A>() < n_rows) W[l.row + i0 + own_row<A>()] = dot;
    }
    __syncthreads();
    EACH_SUM(r, c) {
      const int i = row_at<A>(r);
      const int64_t e = e0 + column_at<A>(c), t = i0 + i;
      const A sum = total[i];
      A v = acc[r][c];
      if (a.normalise) v = vabs(sum) < SMALLEST ? (A)0 : v * (1 / sum);
      if (i < n_rows && e < a.E) store(y, (l.query + t * a.H) * a.E + e, v);
    }
  }
}

/* Everything after the room was filled; final: the state after the last token. */
template <class T, class A, class F>
static void forward(cudaStream_t s, const given<T, A> &x, F f, held<const A> start, held<A> final,
                    A *states, T *y, A *W) {
  const alk_lines &a = x.a;
  const int64_t columns = parts(a.E, tile<A>::N);
  sum_keys<T, A, F>
      <<<blocks_for(a.B * a.lines * a.keys * parts(a.R, tile<A>::N) * columns, 1), THREADS, 0, s>>>(
          x, f, states, final);
  join_states<A><<<blocks_for(a.B * a.lines * a.size, THREADS), THREADS, 0, s>>>(
      a, false, a.keys, states, start, final);
  rows<T, A, F><<<blocks_for(a.B * a.H * parts(a.T, tile<A>::N) * columns, 1), THREADS, 0, s>>>(
      x, f, start, states, y, W);
}
#endif
