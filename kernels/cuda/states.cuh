/* states.cuh: attention by states between segments of tokens (../linear.h, ../chunked.h): what the
 * forward and the backward share.
 *
 * A line is a run of query heads of one batch row that share their key/value head and their decay,
 * and so a state of R features and, with weights to sum, R numbers more. A segment is as long as
 * there are features, from 64 tokens on: pairs inside it cost about what its state does, and the
 * states, one before each segment, take no more memory than the values. Passes: the sum of each
 * segment by itself; these joined in order, one thread a number; then rows (or keys), each tile of
 * them from the state before (after) its segment and from the pairs inside it.
 *
 * All is one product of tiles: a block makes N x N sums over k of x(k, row) y(k, column), of what
 * the caller's functions give, by slices of k in shared memory and M x M sums a thread. Hidden
 * keys and rows past the end are selected to 0 by these functions, later keys of a row left out of
 * its sums, so that no number of theirs is touched. */
#ifndef ALK_CUDA_STATES_CUH
#define ALK_CUDA_STATES_CUH
#include "monomials.cuh"
#include "rows.cuh"
extern "C" {
#include "../chunked.h"
#include "../linear.h"
}

/* Below it |W| counts as nothing, in every precision. */
#define SMALLEST ((A)1.17549435e-38)

enum { SIDE = 16, SLICE = 32, WARPS = THREADS / 32 }; /* SIDE x SIDE threads */
template <class A> struct tile {
  enum { M = sizeof(A) == 8 ? 2 : 4, N = SIDE * M, WIDTH = N + 16 / sizeof(A), PARTS = SIDE / M };
};
template <class A> struct alignas(16) slices {
  A x[SLICE][tile<A>::WIDTH], y[SLICE][tile<A>::WIDTH];
};
template <class A> struct alignas(16) square { A at[tile<A>::N][tile<A>::WIDTH]; };
template <class A> struct alignas(16) strip { A v[tile<A>::M]; };

#define EACH_SUM(r, c)                                                                             \
  _Pragma("unroll") for (int r = 0; r < tile<A>::M; r++)                                           \
      _Pragma("unroll") for (int c = 0; c < tile<A>::M; c++)
/* Row and column of a thread's sum r, c; and the row it takes a part of in sums over a row. */
template <class A> static inline __device__ int row_at(int r) {
  return (int)threadIdx.x / SIDE * tile<A>::M + r;
}
template <class A> static inline __device__ int column_at(int c) {
  return (int)threadIdx.x % SIDE * tile<A>::M + c;
}
template <class A> static inline __device__ int own_row(void) {
  return (int)threadIdx.x / tile<A>::PARTS;
}
template <class A> static inline __device__ int own_part(void) {
  return (int)threadIdx.x % tile<A>::PARTS;
}
/* The sum of v over the threads of a row; all of them get it. */
template <class A, class V> static inline __device__ V row_total(V v) {
  for (int h = tile<A>::PARTS / 2; h > 0; h >>= 1) v += __shfl_xor_sync(0xffffffffu, v, h);
  return v;
}

/* What terms k a sum of row r has: all, those up to r, those from r on. */
typedef enum terms { ALL, UP_TO_ROW, FROM_ROW } terms;
static inline __device__ bool counts(terms which, int64_t k, int r) {
  return which == ALL || (which == UP_TO_ROW ? k <= r : k >= r);
}
struct nothing {};
template <class Z> struct adds {
  enum { SUM = 1 };
};
template <> struct adds<nothing> {
  enum { SUM = 0 };
};

/* acc += sum_k x(k, row) y(k, column); dot: += the thread's part of sum_k x(k, own_row) z(k),
 * unless z is nothing. XK, YK: what lies side by side in memory is k, not rows or columns. */
template <bool XK, bool YK, class A, class X, class Y, class Z>
static inline __device__ void multiply(slices<A> &m, terms which, int64_t n, X x, Y y, Z z,
                                       A (&acc)[tile<A>::M][tile<A>::M], A &dot) {
  enum { N = tile<A>::N };
  for (int64_t k0 = 0; k0 < n; k0 += SLICE) {
    const int count = n - k0 < SLICE ? (int)(n - k0) : SLICE;
    __syncthreads();
#pragma unroll 2
    for (int u = threadIdx.x; u < SLICE * N; u += THREADS) {
      const int kx = XK ? u % SLICE : u / N, r = XK ? u / SLICE : u % N;
      const int ky = YK ? u % SLICE : u / N, c = YK ? u / SLICE : u % N;
      m.x[kx][r] = kx < count ? x(k0 + kx, r) : (A)0;
      m.y[ky][c] = ky < count ? y(k0 + ky, c) : (A)0;
    }
    __syncthreads();
    if (which == ALL) {
#pragma unroll 2
      for (int k = 0; k < (count + 3) / 4 * 4; k++) {
        const strip<A> a = *(const strip<A> *)&m.x[k][row_at<A>(0)],
                       b = *(const strip<A> *)&m.y[k][column_at<A>(0)];
        EACH_SUM(r, c) acc[r][c] += a.v[r] * b.v[c];
      }
    } else {
      for (int k = 0; k < count; k++) {
        const strip<A> a = *(const strip<A> *)&m.x[k][row_at<A>(0)],
                       b = *(const strip<A> *)&m.y[k][column_at<A>(0)];
        EACH_SUM(r, c) {
          if (counts(which, k0 + k, row_at<A>(r))) acc[r][c] += a.v[r] * b.v[c];
        }
      }
    }
    if constexpr (adds<Z>::SUM)
      for (int k = own_part<A>(); k < count; k += tile<A>::PARTS)
        if (counts(which, k0 + k, own_row<A>())) dot += m.x[k][own_row<A>()] * z(k0 + k);
  }
  __syncthreads();
}
template <bool XK, bool YK, class A, class X, class Y>
static inline __device__ void multiply(slices<A> &m, terms which, int64_t n, X x, Y y,
                                       A (&acc)[tile<A>::M][tile<A>::M]) {
  A none = 0;
  multiply<XK, YK>(m, which, n, x, y, nothing(), acc, none);
}

/* ---- features -------------------------------------------------------------------------------- */

/* Of linear weights: the channels; c: the coefficient times the scale. */
template <class A> struct channels {
  enum { MONOMIALS = 0 };
  A c;
  __device__ A key(const A *x, int64_t r) const { return x[r]; }
  __device__ A query(const A *x, int64_t r) const { return c * x[r]; }
  /* f of the product of a query and a key, and its slope */
  __device__ A weigh(A product, A *slope) const { return *slope = c, c * product; }
};

/* Of polynomials, in memory. */
template <class A> struct monomials {
  enum { MONOMIALS = 1 };
  int n, K;
  A scale;
  alk_power *powers;            /* (R,K) */
  uint8_t *order;               /* (R) */
  A *kept;                      /* (R) kept_n scale^n multiplicity */
  A *c, *by;                    /* (n) kept_n k_n; k_n */
  double *coefficient, *factor; /* (n) kept_n; k_n */
  __device__ A key(const A *x, int64_t r) const { return monomial(K, powers + r * K, x); }
  __device__ A weight(int64_t r) const { return kept[r] * by[order[r]]; }
  __device__ A query(const A *x, int64_t r) const { return weight(r) * key(x, r); }
  /* The derivative of feature r by a channel. */
  __device__ A slope(const A *x, int64_t r, int64_t channel) const {
    const alk_power *list = powers + r * K;
    for (int p = 0; p < K && list[p].power; p++)
      if (list[p].channel == channel) return monomial_slope(K, list, p, x);
    return 0;
  }
  __device__ A weigh(A product, A *slope) const {
    const A s = scale * product;
    A f = c[n - 1], d = 0;
    for (int i = n - 2; i >= 0; i--) {
      d = d * s + f;
      f = f * s + c[i];
    }
    return *slope = scale * d, f;
  }
};
/* factors: k_n (f64), or NULL: all 1 */
template <class A>
static __global__ void fill_monomials(monomials<A> m, orders o, int64_t D, const double *factors) {
  GRID_LOOP(i, m.n) {
    m.coefficient[i] = o.c[i], m.factor[i] = factors ? factors[i] : 1;
    m.c[i] = (A)(o.c[i] * m.factor[i]), m.by[i] = (A)m.factor[i];
  }
  GRID_LOOP(r, o.first[o.n]) {
    const int n = order_of(o, r);
    m.order[r] = (uint8_t)n;
    m.kept[r] = (A)(factor_of(o, n) * fill_powers(D, n, r - o.first[n], m.K, m.powers + r * m.K));
  }
}

/* ---- lines and segments ---------------------------------------------------------------------- */

/* The spec as a kernel's argument. */
typedef struct alk_lines {
  int64_t B, T, S, H, Hkv, Hd, D, E, R;
  const int32_t *lengths;
  const double *sums;             /* (B,Hd,S), or NULL */
  bool causal, weighs, normalise; /* weighs: there are sums of weights */
  int64_t heads, lines;           /* query heads of a line; lines of a batch row */
  int64_t segment, keys, rows;    /* tokens; segments of keys, of rows */
  int64_t between; /* 1: causal, and a state stands between two segments; 0: one a segment */
  int64_t size;    /* numbers of a state: (R,E) and, where it weighs, (R) */
} alk_lines;

enum { SHORTEST = 64, LONGEST = ALK_CHUNK_LONGEST };
static inline alk_lines lines_of(const alk_attn_spec *a, int64_t R) {
  alk_lines n = {};
  n.B = a->g.B, n.T = a->g.T, n.S = a->g.S, n.H = a->g.H, n.Hkv = a->g.Hkv, n.Hd = a->weight.Hd;
  n.D = a->D, n.E = a->E, n.R = R;
  n.lengths = (const int32_t *)a->g.lengths;
  n.causal = a->g.causal, n.weighs = a->stat != ALK_STAT_none, n.normalise = a->normalise;
  n.heads = alk_chunked_shared(a), n.lines = n.H / n.heads;
  n.segment = SHORTEST;
  while (n.segment < R && n.segment < LONGEST) n.segment *= 2;
  n.keys = (n.S + n.segment - 1) / n.segment, n.rows = (n.T + n.segment - 1) / n.segment;
  n.between = n.causal;
  n.size = R * (n.E + n.weighs);
  return n;
}
/* States of a line for its segments: where causal, one less than these. */
static inline ALK_BOTH int64_t slots_of(const alk_lines &n, int64_t segments) {
  return segments > n.between ? segments - n.between : 0;
}
static inline int64_t states_numbers(const alk_lines &n, int64_t segments) {
  return n.B * n.lines * slots_of(n, segments) * n.size;
}

/* A state in memory, (R,E) and (R); H NULL: zeros, or not wanted. */
template <class A> struct held { A *H, *z; };
/* Of line n among many, each (R,E) and (R) apart. */
template <class A>
static inline __device__ held<A> held_at(const alk_lines &a, held<A> all, int64_t n) {
  return {all.H ? all.H + n * a.R * a.E : NULL, all.z ? all.z + n * a.R : NULL};
}
/* Slot s of line n. */
template <class A>
static inline __device__ held<A> slot_at(const alk_lines &a, A *states, int64_t segments, int64_t n,
                                         int64_t s) {
  A *H = states + (n * slots_of(a, segments) + s) * a.size;
  return {H, H + a.R * a.E};
}

typedef struct alk_line {
  int64_t n, len;     /* number among all; keys of the batch row */
  int64_t query, row; /* where its head stands at token 0 in (B,T,H) and (B,H,T), */
  int64_t key, decay; /* and its key in (B,S,Hkv), its decay in (B,Hd,S) */
  const double *sums; /* (S), or NULL */
} alk_line;
static inline __device__ int64_t fewer(int64_t a, int64_t b) { return a < b ? a : b; }
static inline __device__ int64_t keys_of(const alk_lines &a, int64_t b) {
  const int64_t n = a.lengths ? a.lengths[b] : a.S;
  return n < 0 ? 0 : fewer(n, a.S);
}
static inline __device__ alk_line line_of(const alk_lines &a, int64_t n) {
  alk_line l;
  const int64_t b = n / a.lines, h0 = n % a.lines * a.heads;
  l.n = n, l.len = keys_of(a, b);
  l.query = b * a.T * a.H + h0, l.row = (b * a.H + h0) * a.T;
  l.key = b * a.S * a.Hkv + h0 / (a.H / a.Hkv);
  l.decay = a.Hd ? (b * a.Hd + h0 / (a.H / a.Hd)) * a.S : 0;
  l.sums = a.sums ? a.sums + l.decay : NULL;
  return l;
}
/* The first head is that of the line; of head h of it: */
static inline __device__ alk_line head_of(const alk_lines &a, alk_line l, int64_t h) {
  l.query += h, l.row += h * a.T;
  return l;
}
/* sums at the last key before position p; 0 before the first. */
static inline __device__ double sum_before(const alk_line &l, int64_t p) {
  const int64_t keys = fewer(p, l.len);
  return keys > 0 ? l.sums[keys - 1] : 0;
}
template <class A>
static inline __device__ A decay_over(const alk_line &l, int64_t from, int64_t to) {
  return l.sums ? vexp((A)(sum_before(l, to) - sum_before(l, from))) : (A)1;
}

/* What is read: A for arithmetic, T as it is stored. */
template <class T, class A> struct given {
  alk_lines a;
  const A *q, *k; /* phi of them */
  const T *v, *b;
  const A *to_row, *from_key; /* (B,Hd,S), or NULL: decay from the segment's start, to its end */

  __device__ const A *query(const alk_line &l, int64_t i) const {
    return q + (l.query + i * a.H) * a.D;
  }
  __device__ const A *key(const alk_line &l, int64_t j) const {
    return k + (l.key + j * a.Hkv) * a.D;
  }
  __device__ A value(const alk_line &l, int64_t j, int64_t e) const {
    const int64_t at = l.key + j * a.Hkv;
    const A x = load(v, at * a.E + e);
    return b ? load(b, at) * x : x;
  }
  __device__ A decay(const A *p, const alk_line &l, int64_t t) const {
    return p ? p[l.decay + t] : (A)1;
  }
  /* A_ij of a row and a key that it sees */
  __device__ A pair(const alk_line &l, int64_t i, int64_t j) const {
    return l.sums ? vexp((A)(sum_before(l, i + 1) - l.sums[j])) : (A)1;
  }
};

template <class A> static __global__ void fill_decays(alk_lines a, A *to_row, A *from_key) {
  GRID_LOOP(u, a.B * a.Hd * a.S) {
    alk_line l;
    const int64_t t = u % a.S, s0 = t / a.segment * a.segment;
    l.len = keys_of(a, u / a.S / a.Hd), l.sums = a.sums + u / a.S * a.S;
    to_row[u] = decay_over<A>(l, s0, t + 1);
    from_key[u] = decay_over<A>(l, t + 1, fewer(s0 + a.segment, a.S));
  }
}

/* Block numbers, the last axis the fastest. */
static inline __device__ int64_t next_axis(int64_t *at, int64_t n) {
  const int64_t i = *at % n;
  *at /= n;
  return i;
}
static inline ALK_BOTH int64_t parts(int64_t n, int64_t each) {
  return n > each ? (n + each - 1) / each : 1;
}

/* Stores a tile of a state: features from r0, channels from e0, and the sums beside it. */
template <class A>
static inline __device__ void keep_sums(const alk_lines &a, held<A> to, int64_t r0, int64_t e0,
                                        const A (&acc)[tile<A>::M][tile<A>::M], A dot) {
  EACH_SUM(r, c) {
    const int64_t i = r0 + row_at<A>(r), e = e0 + column_at<A>(c);
    if (i < a.R && e < a.E) to.H[i * a.E + e] = acc[r][c];
  }
  dot = row_total<A>(dot);
  const int64_t i = r0 + own_row<A>();
  if (a.weighs && e0 == 0 && i < a.R && own_part<A>() == 0) to.z[i] = dot;
}

/* Local sums of the segments of keys: sum_j A m(kh_j) u_j^T, and of m(kh_j). */
template <class T, class A, class F>
static __global__ void __launch_bounds__(THREADS, F::MONOMIALS ? 1 : 2)
    sum_keys(given<T, A> x, F f, A *states, held<A> final) {
  enum { N = tile<A>::N, M = tile<A>::M };
  __shared__ slices<A> m;
  const alk_lines &a = x.a;
  const int64_t columns = parts(a.E, N), features = parts(a.R, N);
  EACH_ROW(item, a.B * a.lines * a.keys * features * columns) {
    int64_t at = item;
    const int64_t e0 = next_axis(&at, columns) * N, r0 = next_axis(&at, features) * N,
                  s = next_axis(&at, a.keys), s0 = s * a.segment;
    const alk_line l = line_of(a, at);
    const held<A> to =
        s < slots_of(a, a.keys) ? slot_at(a, states, a.keys, at, s) : held_at(a, final, at);
    if (!to.H) continue;
    A acc[M][M] = {}, dot = 0;
    multiply<false, false>(
        m, ALL, fewer(s0 + a.segment, l.len) - s0,
        [&](int64_t j, int r) {
          return r0 + r < a.R ? f.key(x.key(l, s0 + j), r0 + r) * x.decay(x.from_key, l, s0 + j)
                              : (A)0;
        },
        [&](int64_t j, int e) { return e0 + e < a.E ? x.value(l, s0 + j, e0 + e) : (A)0; },
        [](int64_t) { return (A)1; }, acc, dot);
    keep_sums(a, to, r0, e0, acc, dot);
  }
}

/* From the sums of the segments to the states after them (`back`: from them on, the last one
 * first), `start` before all; `end` has the sum of the last segment. Not causal: the sum of all,
 * in place of the first. */
template <class A>
static __global__ void join_states(alk_lines a, bool back, int64_t segments, A *states,
                                   held<const A> start, held<A> end) {
  enum { AHEAD = 8 }; /* loads do not wait for each other */
  const int64_t tokens = back ? a.T : a.S, matrix = a.R * a.E, slots = slots_of(a, segments);
  GRID_LOOP(u, a.B * a.lines * a.size) {
    const int64_t n = u / a.size, x = u % a.size;
    const alk_line l = line_of(a, n);
    A *p = states + n * slots * a.size + x, *last = NULL;
    if (end.H && x < matrix) last = end.H + n * matrix + x;
    else if (end.H && end.z) last = end.z + n * a.R + x - matrix;
    double carry = 0;
    if (start.H) carry = x < matrix ? start.H[n * matrix + x] : start.z[n * a.R + x - matrix];
    const auto over = [&](int64_t s) {
      return a.causal ? (double)decay_over<A>(l, s * a.segment, fewer((s + 1) * a.segment, tokens))
                      : 1.;
    };
    for (int64_t at = 0; at < slots; at += AHEAD) {
      A local[AHEAD];
#pragma unroll
      for (int i = 0; i < AHEAD; i++)
        local[i] = at + i < slots ? p[(back ? slots - 1 - at - i : at + i) * a.size] : (A)0;
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        if (at + i >= slots) break;
        const int64_t slot = back ? slots - 1 - at - i : at + i;
        carry = carry * over(back ? slot + a.between : slot) + (double)local[i];
        if (a.causal) p[slot * a.size] = (A)carry;
      }
    }
    if (!a.causal && slots) p[0] = (A)carry;
    if (last)
      *last = segments ? (A)(carry * over(back ? 0 : segments - 1) + (double)*last) : (A)carry;
  }
}

/* The state before segment s of keys, not causal of all; H NULL: nothing was before. */
template <class A>
static inline __device__ held<const A> state_before(const alk_line &l, const alk_lines &a,
                                                    held<const A> start, const A *states,
                                                    int64_t s) {
  if (a.causal && s == 0) return held_at(a, start, l.n);
  if (l.len == 0 && !start.H) return {NULL, NULL};
  return slot_at(a, states, a.keys, l.n, s - a.between);
}

/* ---- maps ------------------------------------------------------------------------------------ */

/* y = phi(x) of rows of n; and in place dx from dy at x. A warp a row. */
template <class T, class A>
static __global__ void map_rows(alk_map map, int64_t rows, int64_t n, const T *x, A *y) {
  if (map == ALK_MAP_l2) {
    EACH_ROW(block, parts(rows, WARPS)) {
      const int64_t r = block * WARPS + threadIdx.x / 32;
      A dot = 0;
      for (int64_t d = threadIdx.x % 32; r < rows && d < n; d += 32)
        dot += load(x, r * n + d) * load(x, r * n + d);
      const A norm = vsqrt(warp_join(dot, plus())), by = 1 / (norm > (A)1e-12 ? norm : (A)1e-12);
      for (int64_t d = threadIdx.x % 32; r < rows && d < n; d += 32)
        y[r * n + d] = load(x, r * n + d) * by;
    }
    return;
  }
  switch (map) {
#define MAP_VALUE(name)                                                                            \
  case ALK_MAP_##name:                                                                             \
    GRID_LOOP(i, rows *n) y[i] = pw_##name<A>::of(load(x, i), 0, 0);                               \
    break;
#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(MAP_VALUE(name))
#include "../pointwise.def"
#undef POINTWISE
  default:
    break;
  }
}
template <class T, class A>
static __global__ void map_rows_back(alk_map map, int64_t rows, int64_t n, const T *x, A *g) {
  if (map == ALK_MAP_l2) {
    EACH_ROW(block, parts(rows, WARPS)) {
      const int64_t r = block * WARPS + threadIdx.x / 32;
      A dot = 0, along = 0;
      bool any = false;
      for (int64_t d = threadIdx.x % 32; r < rows && d < n; d += 32) {
        const A v = load(x, r * n + d), dy = g[r * n + d];
        dot += v * v, along += v * dy, any |= dy != 0;
      }
      const A norm = vsqrt(warp_join(dot, plus()));
      along = warp_join(along, plus());
      any = __any_sync(0xffffffffu, any);
      const bool flat = !(norm > (A)1e-12) || !any;
      const A by = 1 / norm, t = along * by * by * by;
      for (int64_t d = threadIdx.x % 32; r < rows && d < n; d += 32)
        g[r * n + d] = flat ? (A)0 : g[r * n + d] * by - load(x, r * n + d) * t;
    }
    return;
  }
  switch (map) {
#define MAP_SLOPE(name)                                                                            \
  case ALK_MAP_##name:                                                                             \
    GRID_LOOP(i, rows *n) {                                                                        \
      const A dy = g[i], v = load(x, i);                                                           \
      g[i] = PASSED(dy, (pw_##name<A>::slope(dy, v, pw_##name<A>::of(v, 0, 0), 0, 0)));            \
    }                                                                                              \
    break;
#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(MAP_SLOPE(name))
#include "../pointwise.def"
#undef POINTWISE
  default:
    break;
  }
}

/* ---- room ------------------------------------------------------------------------------------ */

/* Cuts a block of memory; of NULL, how many bytes it takes. */
struct cutter {
  char *block;
  int64_t used;
  template <class X> X *cut(int64_t n) {
    X *p = block ? (X *)(block + used) : NULL;
    used += (n * (int64_t)sizeof(X) + 15) / 16 * 16;
    return p;
  }
};

template <class A>
static monomials<A> cut_monomials(cutter *c, int64_t D, const orders &o, double scale) {
  const int64_t R = features_of(o);
  monomials<A> m = {};
  m.n = o.n, m.K = powers_of(D, o), m.scale = (A)scale;
  m.powers = c->cut<alk_power>(R * m.K);
  m.order = c->cut<uint8_t>(R);
  m.kept = c->cut<A>(R), m.c = c->cut<A>(o.n), m.by = c->cut<A>(o.n);
  m.coefficient = c->cut<double>(o.n), m.factor = c->cut<double>(o.n);
  return m;
}

/* Of the maps, the decay and the features; NULL where what came serves as it is. */
template <class A> struct common_room {
  A *q, *k, *to_row, *from_key;
  monomials<A> m;
};
template <class T, class A>
static common_room<A> cut_common(cutter *c, const alk_attn_spec *a, const alk_lines &n,
                                 const orders *o) {
  common_room<A> r = {};
  if (a->map != ALK_MAP_identity || sizeof(T) != sizeof(A)) {
    r.q = c->cut<A>(n.B * n.T * n.H * n.D);
    r.k = c->cut<A>(n.B * n.S * n.Hkv * n.D);
  }
  if (n.Hd) {
    r.to_row = c->cut<A>(n.B * n.Hd * n.S);
    r.from_key = c->cut<A>(n.B * n.Hd * n.S);
  }
  if (o) r.m = cut_monomials<A>(c, n.D, *o, a->scale);
  return r;
}

/* Fills that room; what the kernels read. */
template <class T, class A>
static given<T, A> fill_common(cudaStream_t s, const alk_attn_spec *a, const alk_lines &n,
                               const common_room<A> &r, const orders *o, const void *q,
                               const void *k, const void *v, const void *b) {
  given<T, A> x = {n, (const A *)q, (const A *)k, (const T *)v, (const T *)b, r.to_row, r.from_key};
  const int64_t rows = n.B * n.T * n.H, keys = n.B * n.S * n.Hkv;
  if (r.q) {
    map_rows<T, A>
        <<<blocks_for(rows * n.D, THREADS), THREADS, 0, s>>>(a->map, rows, n.D, (const T *)q, r.q);
    map_rows<T, A>
        <<<blocks_for(keys * n.D, THREADS), THREADS, 0, s>>>(a->map, keys, n.D, (const T *)k, r.k);
    x.q = r.q, x.k = r.k;
  }
  if (r.to_row && n.sums)
    fill_decays<A>
        <<<blocks_for(n.B * n.Hd * n.S, THREADS), THREADS, 0, s>>>(n, r.to_row, r.from_key);
  if (o)
    fill_monomials<A><<<blocks_for(n.R, THREADS), THREADS, 0, s>>>(
        r.m, *o, n.D, (const double *)a->weight.factors);
  return x;
}
#endif
