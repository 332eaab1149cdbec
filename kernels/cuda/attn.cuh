/* attn.cuh: what the forward and the backward of the fused attention on the card share (contract:
 * ../attn.h): tiles of scores in registers, products over them, maps, statistics, dropout.
 *
 * A block of 16 x 16 threads holds a tile of R rows x C columns; thread (ty,tx) has the rows ty
 * R/16 .. and the columns tx C/16 .. of it. Operands pass through shared memory, CHUNK channels or
 * terms at a time; weights go from the tile in registers into shared memory to meet rows of
 * values. A hidden entry is left out of every sum by its place, so what it would be multiplied
 * with may be NaN. */
#ifndef ALK_CUDA_ATTN_CUH
#define ALK_CUDA_ATTN_CUH
#include "program.cuh"
extern "C" {
#include "../attn.h"
}

/* What a kernel can do: exp with limits alone; every f, decay, dropout; and programs. */
enum { EXP_ALONE, EVERY_F, PROGRAMS };
enum { SIDE = 16, CHUNK = 32, WARPS = THREADS / 32 };
static_assert(SIDE * SIDE == THREADS, "a thread a place of the tile");
/* Below it |W| counts as nothing, in every precision. */
#define SMALLEST 1.17549435e-38

/* Columns of a tile, and rows of a full one. */
template <class real> struct side { static const int of = sizeof(real) == 8 ? 32 : 64; };

/* ---- the spec as a kernel's argument ----------------------------------------------------------- */

typedef struct attn_arg {
  alk_visible g;
  plan p;
  alk_map map;
  alk_stat stat;
  bool normalise, drops;
  int64_t D, E;
  double scale, kept; /* what a kept weight is multiplied with */
  uint64_t threshold, key;
} attn_arg;

static inline attn_arg attn_of(const alk_attn_spec *s) {
  attn_arg a = {};
  a.g = s->g, a.p = plan_of(&s->weight, true), a.map = s->map, a.stat = s->stat;
  a.normalise = s->normalise, a.drops = s->dropout > 0, a.D = s->D, a.E = s->E;
  a.scale = s->scale, a.kept = 1 / (1 - s->dropout), a.key = s->key;
  a.threshold = (uint64_t)(s->dropout * 4294967296.0);
  return a;
}
static inline int kind_of(const alk_attn_spec *s, const void *sums) {
  if (s->weight.program) return PROGRAMS;
  return s->weight.f == ALK_WEIGHT_EXP && !sums && !(s->dropout > 0) ? EXP_ALONE : EVERY_F;
}
/* A program where the kind has one. */
template <int KIND> struct program_of {};
template <> struct program_of<PROGRAMS> { program_arg arg; };
template <int KIND> static inline program_of<KIND> program_from(const alk_weight_spec *) {
  return {};
}
template <> inline program_of<PROGRAMS> program_from<PROGRAMS>(const alk_weight_spec *w) {
  return {{*w->program, (const double *)w->scalars}};
}
template <int KIND, class real> struct program_memory {};
template <class real> struct program_memory<PROGRAMS, real> { program_state<real> state; };

static inline int64_t pieces(int64_t n, int64_t each) { return (n + each - 1) / each; }
static inline int64_t at_least_one(int64_t n) { return n > 1 ? n : 1; }

/* ---- maps and statistics ----------------------------------------------------------------------- */

/* phi of a vector's number; l2 comes with r = 1 / max(|x|, 1e-12). */
template <class real> __device__ inline real mapped(alk_map map, real x, real r) {
  switch (map) {
#define MAP_CASE(name)                                                                             \
  case ALK_MAP_##name:                                                                             \
    return pw_##name<real>::of(x, 0, 0);
#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(MAP_CASE(name))
#include "../pointwise.def"
#undef POINTWISE
#undef MAP_CASE
  case ALK_MAP_l2:
    return x * r;
  default:
    return 0;
  }
}
/* dx from g, the gradient of phi(x), of a map that is an entry. */
template <class real> __device__ inline real mapped_slope(alk_map map, real g, real x) {
  switch (map) {
#define MAP_CASE(name)                                                                             \
  case ALK_MAP_##name:                                                                             \
    return PASSED(g, pw_##name<real>::slope(g, x, pw_##name<real>::of(x, 0, 0), 0, 0));
#define POINTWISE(name, value, gradient, reads, lo, hi, gap, args, doc, torch, latex, sign, slots, \
                  ...)                                                                             \
  ALK_IF_MAP_##slots(MAP_CASE(name))
#include "../pointwise.def"
#undef POINTWISE
#undef MAP_CASE
  default:
    return 0;
  }
}

/* inner(c), by which the inner sum of w becomes that of c w. */
template <class real> __device__ inline real stat_inner(alk_stat stat, real c) {
  switch (stat) {
#define STATISTIC(word, inner, p, outer, q, doc)                                                   \
  case ALK_STAT_##word:                                                                            \
    return pw_##inner<real>::of(c, (real)(p), 0);
#include "../statistics.def"
#undef STATISTIC
  default:
    return 0;
  }
}
/* The gradient of w from that of the inner sum. */
template <class real> __device__ inline real stat_inner_bwd(alk_stat stat, real g, real w) {
  switch (stat) {
#define STATISTIC(word, inner, p, outer, q, doc)                                                   \
  case ALK_STAT_##word:                                                                            \
    return pw_##inner<real>::slope(g, w, pw_##inner<real>::of(w, (real)(p), 0), (real)(p), 0);
#include "../statistics.def"
#undef STATISTIC
  default:
    return 0;
  }
}
/* W of the inner sum. */
template <class real> __device__ inline real stat_outer(alk_stat stat, real sum) {
  switch (stat) {
#define STATISTIC(word, inner, p, outer, q, doc)                                                   \
  case ALK_STAT_##word:                                                                            \
    return pw_##outer<real>::of(sum, (real)(q), 0);
#include "../statistics.def"
#undef STATISTIC
  default:
    return 0;
  }
}
/* The gradient of the inner sum from dW, of a W that is above 0. */
template <class real>
__device__ inline real stat_outer_bwd(alk_stat stat, real dW, real sum, real W) {
  switch (stat) {
#define STATISTIC(word, inner, p, outer, q, doc)                                                   \
  case ALK_STAT_##word:                                                                            \
    return pw_##outer<real>::slope(dW, sum, W, (real)(q), 0);
#include "../statistics.def"
#undef STATISTIC
  default:
    return dW;
  }
}

/* Bit n: is element at + n of the dropout stream kept? */
template <int N> __device__ inline unsigned kept_bits(const attn_arg &a, uint64_t at) {
  uint32_t word[4];
  uint64_t block = UINT64_MAX;
  unsigned bits = 0;
  for (int n = 0; n < N; n++) {
    if ((at + n) / 4 != block) alk_philox(a.key, block = (at + n) / 4, word);
    const int lane = (int)((at + n) % 4); /* an index of registers */
    const uint32_t u = lane == 0 ? word[0] : lane == 1 ? word[1] : lane == 2 ? word[2] : word[3];
    if (u >= a.threshold) bits |= 1u << n;
  }
  return bits;
}

/* The factor of a weight: 0 is multiplied with, so that a row that is not finite shows it. */
template <class real> __device__ inline real kept_by(const attn_arg &a, bool kept) {
  return kept ? (real)a.kept : (real)0;
}

/* Blocks of a multiprocessor that the registers are shared out for. */
template <class T, int KIND, int CW> constexpr int blocks_at_once(void) {
  return sizeof(T) == 8 || KIND == PROGRAMS || CW > 64 ? 1 : 2;
}

/* ---- tiles ------------------------------------------------------------------------------------- */

/* N neighbours of one array, loaded at once. */
template <class real, int N>
struct alignas(N * sizeof(real) % 16 == 0 ? 16 : N * sizeof(real)) vec {
  real v[N];
};
template <int N, class real> __device__ inline vec<real, N> vec_at(const real *p) {
  return *(const vec<real, N> *)p;
}

/* Sum of what the 16 threads of a tile's row have; all get it. */
template <class real> __device__ inline real row_sum(real v) {
  for (int h = SIDE / 2; h > 0; h >>= 1) v += __shfl_xor_sync(0xffffffffu, v, h);
  return v;
}

/* Shared memory of a tile whose results are CW columns wide. Rows are padded by 4, so that threads
 * of a warp meet different banks. */
template <class real, int R, int C, int CW> struct tile {
  static const int TR = R / SIDE, TC = C / SIDE, TW = CW / SIDE;
  static const int AW = CHUNK + 4, BW = C + 4, PW = C + 4;
  static const int TERMS = CW > 64 ? CHUNK / 2 : CHUNK; /* rows of x */
  static const int B = CHUNK * BW, X = TERMS * CW;
  alignas(16) real a[R * AW];        /* rows of the left operand, CHUNK channels */
  alignas(16) real b[B > X ? B : X]; /* channels of the right one; or rows of values */
  alignas(16) real p[R * PW];        /* scores, then weights */
  __device__ vec<real, TC> &own(int row, int tx) {
    return *(vec<real, TC> *)(p + row * PW + tx * TC);
  }
};

/* Thread (ty,tx)'s results of CW columns: groups of up to 4 neighbours. */
template <int CW> struct columns {
  static const int N = CW / SIDE, GROUP = N > 4 ? 4 : N;
  __device__ static int of(int tx, int e) {
    return e / GROUP * (GROUP * SIDE) + tx * GROUP + e % GROUP;
  }
};

/* s = sum over n channels d of left(row, d) right(column, d); both are 0 where there is no row.
 * `there`: the left rows are in shared memory already. */
template <class real, int R, int C, int CW, class A, class B>
__device__ inline void products(tile<real, R, C, CW> &t, int64_t n, bool there, A left, B right,
                                real (&s)[R / SIDE][C / SIDE]) {
  typedef tile<real, R, C, CW> M;
  const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE, lane = threadIdx.x & 31,
            warp = threadIdx.x >> 5;
#pragma unroll
  for (int r = 0; r < M::TR; r++)
#pragma unroll
    for (int c = 0; c < M::TC; c++) s[r][c] = 0;
  for (int64_t d0 = 0; d0 < n; d0 += CHUNK) {
    const int m = (int)(n - d0 < CHUNK ? n - d0 : CHUNK);
    __syncthreads(); /* whoever still reads what lies there */
    if (!there)
#pragma unroll 4
      for (int r = warp; r < R; r += WARPS)
        t.a[r * M::AW + lane] = lane < m ? left(r, d0 + lane) : (real)0;
#pragma unroll 1
    for (int c0 = 0; c0 < C; c0 += 4 * WARPS) /* 8 channels of 4 columns a warp: no bank twice */
#pragma unroll
      for (int e = 0; e < CHUNK; e += 8) {
        const int c = c0 + warp * 4 + (lane >> 3), d = e + (lane & 7);
        t.b[d * M::BW + c] = d < m ? right(c, d0 + d) : (real)0;
      }
    __syncthreads();
    for (int d = 0; d < m; d += 4) {
      vec<real, 4> x[M::TR];
#pragma unroll
      for (int r = 0; r < M::TR; r++) x[r] = vec_at<4>(t.a + (ty * M::TR + r) * M::AW + d);
#pragma unroll
      for (int q = 0; q < 4; q++) {
        const vec<real, M::TC> y = vec_at<M::TC>(t.b + (d + q) * M::BW + tx * M::TC);
#pragma unroll
        for (int r = 0; r < M::TR; r++)
#pragma unroll
          for (int c = 0; c < M::TC; c++) s[r][c] += x[r].v[q] * y.v[c];
      }
    }
  }
}

/* This thread's part of a tile of scores goes to shared memory. */
template <class real, int R, int C, int CW>
__device__ inline void put_tile(tile<real, R, C, CW> &t, const real (&s)[R / SIDE][C / SIDE]) {
  typedef tile<real, R, C, CW> M;
  const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
  __syncthreads(); /* whoever still reads those before */
#pragma unroll
  for (int r = 0; r < M::TR; r++) {
    vec<real, M::TC> x;
#pragma unroll
    for (int c = 0; c < M::TC; c++) x.v[c] = s[r][c];
    t.own(ty * M::TR + r, tx) = x;
  }
}

/* The terms [lo, hi) of a tile as one number. */
__device__ inline int span_of(int lo, int hi) { return lo | hi << 16; }
__device__ inline bool in_span(int span, int k) { return k >= (span & 0xffff) && k < span >> 16; }

/* out[r] += sum over the terms k in span[r] of weights[r][k] values(k, column); values are 0 where
 * there are none. whole: every row has all terms in [0, n). */
template <class real, int R, int C, int CW, class X>
__device__ inline void add_values(tile<real, R, C, CW> &t, int n, bool whole,
                                  const int (&span)[R / SIDE], X values,
                                  real (&out)[R / SIDE][CW / SIDE]) {
  typedef tile<real, R, C, CW> M;
  typedef columns<CW> at;
  const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
  for (int k0 = 0; k0 < n; k0 += M::TERMS) {
    const int m = n - k0 < M::TERMS ? n - k0 : M::TERMS;
    __syncthreads(); /* whoever still reads t.b; weights are there */
#pragma unroll 4
    for (int u = 0; u < M::X / THREADS; u++) {
      const int i = u * THREADS + threadIdx.x, k = i / CW, e = i % CW;
      t.b[i] = k < m ? values(k0 + k, e) : (real)0;
    }
    __syncthreads();
    for (int k = 0; k < m; k += 4) {
      vec<real, 4> w[M::TR];
#pragma unroll
      for (int r = 0; r < M::TR; r++) w[r] = vec_at<4>(t.p + (ty * M::TR + r) * M::PW + k0 + k);
#pragma unroll
      for (int q = 0; q < 4; q++) {
        real x[M::TW];
#pragma unroll
        for (int e = 0; e < M::TW; e += at::GROUP) {
          const vec<real, at::GROUP> v = vec_at<at::GROUP>(t.b + (k + q) * CW + at::of(tx, e));
#pragma unroll
          for (int l = 0; l < at::GROUP; l++) x[e + l] = v.v[l];
        }
#pragma unroll
        for (int r = 0; r < M::TR; r++)
          if (whole || in_span(span[r], k0 + k + q))
#pragma unroll
            for (int e = 0; e < M::TW; e++) out[r][e] += w[r].v[q] * x[e];
      }
    }
  }
}

/* Element r of a thread's rows, which stay in registers. */
template <class V, int N> __device__ inline V pick(const V (&x)[N], int r) {
  V v = x[0];
#pragma unroll
  for (int n = 1; n < N; n++)
    if (n == r) v = x[n];
  return v;
}
template <class V, int N> __device__ inline void put(V (&x)[N], int r, V v) {
#pragma unroll
  for (int n = 0; n < N; n++)
    if (n == r) x[n] = v;
}

/* ---- operands ---------------------------------------------------------------------------------- */

/* Vectors of q or k from one on: as they lie in memory, or mapped into scratch. */
template <class T> struct vectors {
  typedef real_of<T> real;
  const T *p;
  const real *phi; /* NULL: identity */
  int64_t stride;
  __device__ real at(int r, int64_t d) const {
    return phi ? phi[r * stride + d] : load(p, r * stride + d);
  }
  __device__ vectors from(int64_t first) const {
    return {p + first, phi ? phi + first : NULL, stride};
  }
};

/* What a block works on, in shared memory: registers are for sums. */
typedef struct item {
  int64_t b, h, hk, head; /* head: of all */
  int64_t first;          /* row or key of its tile */
  int64_t part, e0;       /* of the keys; first column of what it makes */
  int n;                  /* rows or keys of its tile */
  const double *sums;     /* of the head's decay, or NULL */
} item;
__device__ inline item item_of(const alk_visible &g, int64_t head) {
  item it = {};
  it.head = head, it.b = head / g.H, it.h = head % g.H, it.hk = it.h / (g.H / g.Hkv);
  return it;
}
/* Number of the vector of row i of q, of key j. */
__device__ inline int64_t row_at(const alk_visible &g, const item &it, int64_t i) {
  return (it.b * g.T + i) * g.H + it.h;
}
__device__ inline int64_t key_at(const alk_visible &g, const item &it, int64_t j) {
  return (it.b * g.S + j) * g.Hkv + it.hk;
}

/* phi of the vectors of q and of k, which lie in `to` one after the other: a warp a vector. */
template <class T>
static __global__ void map_vectors(alk_map map, int64_t rows, int64_t keys, int64_t D, const T *q,
                                   const T *k, real_of<T> *to) {
  typedef real_of<T> real;
  for (int64_t n = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; n < rows + keys;
       n += (int64_t)gridDim.x * WARPS) {
    const T *x = n < rows ? q + n * D : k + (n - rows) * D;
    real sum = 0, r = 0;
    for (int64_t d = threadIdx.x & 31; map == ALK_MAP_l2 && d < D; d += 32)
      sum += load(x, d) * load(x, d);
    if (map == ALK_MAP_l2) {
      const real length = vsqrt(warp_join(sum, plus()));
      r = 1 / (length > (real)1e-12 ? length : (real)1e-12);
    }
    for (int64_t d = threadIdx.x & 31; d < D; d += 32) to[n * D + d] = mapped(map, load(x, d), r);
  }
}
/* Numbers of scratch that phi(q) and phi(k), or their gradients, take. */
static int64_t map_room(const alk_attn_spec *a) {
  return a->map == ALK_MAP_identity ? 0 : a->D * a->g.B * (a->g.T * a->g.H + a->g.S * a->g.Hkv);
}
template <class T> struct query_key { vectors<T> q, k; };
template <class T, class real>
static query_key<T> mapped_into(const alk_place *at, const alk_attn_spec *a, const void *q,
                                const void *k, real *to) {
  const int64_t rows = a->g.B * a->g.T * a->g.H, keys = a->g.B * a->g.S * a->g.Hkv;
  const bool as_it_is = a->map == ALK_MAP_identity;
  if (!as_it_is && (rows + keys) * a->D > 0)
    map_vectors<T><<<blocks_for(rows + keys, WARPS), THREADS, 0, stream_of(at)>>>(
        a->map, rows, keys, a->D, (const T *)q, (const T *)k, to);
  return {{(const T *)q, as_it_is ? NULL : to, a->g.H * a->D},
          {(const T *)k, as_it_is ? NULL : to + rows * a->D, a->g.Hkv * a->D}};
}
#endif
