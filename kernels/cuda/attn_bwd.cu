/* attn_bwd.cu: backward of the fused attention (contract: ../attn.h), plain: no tensor cores, f32
 * is FMA; no atomics. With y = N / W the gradient of a weight is dw_ij = by_i dy_i.v_j + delta_i,
 * by = 1 / W, delta = dW - dy.y by; without it by = 1, delta = dW, a statistic with an outer
 * function that of the inner sum.
 *
 * Four steps: by and delta of every row; then tiles of scores are made again twice: by blocks of
 * query rows (attn_bwd_rows.cu), which walk over keys and give dq, and by blocks of keys
 * (attn_bwd_keys.cu), which walk over the rows of each query head of theirs in order and give dk,
 * dv, db. What belongs to a head (decay, coefficients, scalars) is left in parts, by rows or by
 * keys, that small kernels add up in order. Wider vectors than CW: more blocks, which make the
 * scores again.
 *
 * FLOPs: 2 (4 D + 3 E) a visible pair with the two recomputations (2 (2 D + 2 E) each, of which
 * the rows' has D of results and the keys' D + E); at the least 2 (3 D + 2 E). Bytes: q, k, v, dy
 * twice, dq, dk, dv once. Floor of f32: the FLOPs at the card's FMA rate (H100 SXM: 67 TFLOP/s).
 * Measured at 36 x 1024 x 16 x 64 on it, causal, f32: 21.2 ms, 0.2 of that rate. Shared memory: at
 * most 48 KB. */
#include "attn_bwd.cuh"
#include "sdpa.cuh"

/* ---- rows ------------------------------------------------------------------------------------ */

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

/* ---- what is left ---------------------------------------------------------------------------- */

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

/* dsums of a row's last key gets what its entries move: a block a head; the very last key, which
 * many rows may end at, takes a sum of the block. */
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

/* ---- host ------------------------------------------------------------------------------------ */

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
  attn_rows_back<T>(at, a, kind, in, to);
  attn_keys_back<T>(at, a, kind, in, to);
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
