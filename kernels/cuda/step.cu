/* step.cu: attention with polynomial weights, one token after a state (contract: ../step.h).
 * Plain: a block a slab of a state's features, whose parts of N and W are added in the order of
 * the slabs.
 *
 * Floor: the state is read and written once, R (E + 1) numbers a state; beside it the features of
 * each query head, R numbers written and read, and R (E + 1) / SLAB of parts. Multiply-adds: R E
 * (1 + heads of a state). The backward reads a state 1 + heads times (mostly from the cache) and
 * writes its gradient once. Share of the floor: not measured. */
#include "states.cuh"
extern "C" {
#include "../step.h"
}

enum { SLAB = 64, OWN = SLAB / WARPS }; /* features of a block, of a warp */

/* The spec as a kernel's argument, and what all read: numbers as stored, T, and A of arithmetic. */
template <class T, class A> struct stepped {
  int64_t B, H, Hkv, Hd, Hs, D, E, R, group, slabs;
  bool sums, normalise;
  const int32_t *lengths;
  const T *v, *b, *decay;
  const A *q, *k, *H0, *z0; /* phi of queries and keys; the state */
  A *m, *p;                 /* (B,Hkv,R) features of keys; (B,H,R) of queries, weighted */

  __device__ bool present(int64_t b) const { return !lengths || lengths[b] > 0; }
  __device__ int64_t key_head(int64_t s) const { return s * group / (H / Hkv); }
  __device__ A over(int64_t batch, int64_t s) const {
    return decay && present(batch) ? vexp(load(decay, batch * Hd + s * group / (H / Hd))) : (A)1;
  }
  __device__ A value(int64_t batch, int64_t s, int64_t e) const {
    const int64_t at = batch * Hkv + key_head(s);
    if (!present(batch)) return 0;
    return b ? load(b, at) * load(v, at * E + e) : load(v, at * E + e);
  }
};

template <class T, class A> static __global__ void fill_features(stepped<T, A> x, monomials<A> f) {
  GRID_LOOP(u, x.B * x.H * x.R) x.p[u] = f.query(x.q + u / x.R * x.D, u % x.R);
  GRID_LOOP(u, x.B * x.Hkv * x.R)
  x.m[u] = x.present(u / x.R / x.Hkv) ? f.key(x.k + u / x.R * x.D, u % x.R) : (A)0;
}

/* The sum over the warps of a block of v of each lane; the first warp gets it. */
template <class A> static __device__ A over_warps(A v) {
  __shared__ A part[WARPS][32];
  __syncthreads();
  part[threadIdx.x / 32][threadIdx.x % 32] = v;
  __syncthreads();
  v = 0;
  for (int w = 0; w < WARPS; w++) v += part[w][threadIdx.x % 32];
  return v;
}

/* The state after the token; of its heads parts of N (state,slabs,group,E) and W
 * (state,slabs,group). */
template <class T, class A>
static __global__ void __launch_bounds__(THREADS, 1)
    renew(stepped<T, A> x, A *next, A *next_norm, A *N, A *W) {
  __shared__ A z[SLAB];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  EACH_ROW(item, x.B * x.Hs * x.slabs) {
    const int64_t state = item / x.slabs, b = state / x.Hs, s = state % x.Hs,
                  r0 = item % x.slabs * SLAB, first = r0 + warp * OWN;
    const A over = x.over(b, s), *m = x.m + (b * x.Hkv + x.key_head(s)) * x.R,
            *p = x.p + (b * x.H + s * x.group) * x.R;
    for (int64_t e0 = 0; e0 < x.E; e0 += 32) {
      const int64_t e = e0 + lane;
      const A u = e < x.E ? x.value(b, s, e) : (A)0;
      A h[OWN];
#pragma unroll
      for (int i = 0; i < OWN; i++) {
        const bool here = first + i < x.R && e < x.E;
        const int64_t at = (state * x.R + first + i) * x.E + e;
        h[i] = here ? over * x.H0[at] + m[first + i] * u : (A)0;
        if (here) next[at] = h[i];
      }
      for (int64_t g = 0; g < x.group; g++) {
        A sum = 0;
#pragma unroll
        for (int i = 0; i < OWN; i++)
          if (first + i < x.R) sum += p[g * x.R + first + i] * h[i];
        sum = over_warps(sum);
        if (warp == 0 && e < x.E) N[(item * x.group + g) * x.E + e] = sum;
      }
    }
    if (!x.sums) continue;
    __syncthreads();
    for (int i = threadIdx.x; i < SLAB && r0 + i < x.R; i += THREADS)
      next_norm[state * x.R + r0 + i] = z[i] = over * x.z0[state * x.R + r0 + i] + m[r0 + i];
    __syncthreads();
    for (int64_t g = warp; g < x.group; g += WARPS) {
      A sum = 0;
      for (int i = lane; i < SLAB && r0 + i < x.R; i += 32) sum += p[g * x.R + r0 + i] * z[i];
      sum = warp_join(sum, plus());
      if (lane == 0) W[item * x.group + g] = sum;
    }
  }
}

/* y and W of a query head, a block each. */
template <class T, class A>
static __global__ void close_heads(stepped<T, A> x, const A *N, const A *W, T *y, A *sums) {
  EACH_ROW(head, x.B * x.H) {
    const int64_t first = head / x.group * x.slabs, g = head % x.group;
    A w = 0;
    for (int64_t i = 0; x.sums && i < x.slabs; i++) w += W[(first + i) * x.group + g];
    if (threadIdx.x == 0) sums[head] = w;
    ROW_LOOP(e, x.E) {
      A n = 0;
      for (int64_t i = 0; i < x.slabs; i++) n += N[((first + i) * x.group + g) * x.E + e];
      if (x.normalise) n = vabs(w) < SMALLEST ? (A)0 : n * (1 / w);
      store(y, head * x.E + e, n);
    }
  }
}

/* ---- room ------------------------------------------------------------------------------------ */

template <class A> struct step_room {
  A *q, *k, *m, *p, *N, *W;  /* of both */
  A *dn, *dW, *dm, *dp, *du; /* of the backward */
  double *steps;
  monomials<A> f;
};
static orders step_orders(const alk_step_spec *a) {
  orders o = orders_of(a->D, a->n_coefficients, a->kept, 1);
  for (int i = 0; i < o.n; i++) o.c[i] = a->base[i];
  return o;
}
template <class T, class A>
static step_room<A> cut_step(cutter *c, const alk_step_spec *a, const orders &o, bool back) {
  const int64_t slabs = (a->R + SLAB - 1) / SLAB, group = a->H / a->Hs, states = a->B * a->Hs;
  step_room<A> r = {};
  if (a->map != ALK_MAP_identity || sizeof(T) != sizeof(A))
    r.q = c->cut<A>(a->B * a->H * a->D), r.k = c->cut<A>(a->B * a->Hkv * a->D);
  r.m = c->cut<A>(a->B * a->Hkv * a->R), r.p = c->cut<A>(a->B * a->H * a->R);
  r.f = cut_monomials<A>(c, a->D, o, 1);
  if (!back) {
    r.N = c->cut<A>(states * slabs * group * a->E), r.W = c->cut<A>(states * slabs * group);
    return r;
  }
  r.dn = c->cut<A>(a->B * a->H * a->E), r.dW = c->cut<A>(a->B * a->H);
  r.dm = c->cut<A>(states * a->R), r.dp = c->cut<A>(a->B * a->H * a->R);
  r.du = c->cut<A>(states * slabs * a->E);
  r.steps = c->cut<double>(states * slabs);
  return r;
}
template <class T, class A>
static stepped<T, A> fill_step(cudaStream_t s, const alk_step_spec *a, const alk_step_in *t,
                               const orders &o, const step_room<A> &r) {
  stepped<T, A> x = {a->B, a->H, a->Hkv, a->Hd, a->Hs, a->D, a->E, a->R};
  x.group = a->H / a->Hs, x.slabs = (a->R + SLAB - 1) / SLAB;
  x.sums = t->norm != NULL, x.normalise = a->normalise;
  x.lengths = (const int32_t *)a->lengths;
  x.v = (const T *)t->v, x.b = (const T *)t->b, x.decay = (const T *)t->decay;
  x.q = (const A *)t->q, x.k = (const A *)t->k, x.H0 = (const A *)t->state;
  x.z0 = (const A *)t->norm, x.m = r.m, x.p = r.p;
  if (r.q) {
    const int64_t queries = a->B * a->H, keys = a->B * a->Hkv;
    map_rows<T, A><<<blocks_for(queries * a->D, THREADS), THREADS, 0, s>>>(a->map, queries, a->D,
                                                                           (const T *)t->q, r.q);
    map_rows<T, A><<<blocks_for(keys * a->D, THREADS), THREADS, 0, s>>>(a->map, keys, a->D,
                                                                        (const T *)t->k, r.k);
    x.q = r.q, x.k = r.k;
  }
  fill_monomials<A>
      <<<blocks_for(a->R, THREADS), THREADS, 0, s>>>(r.f, o, a->D, (const double *)a->factors);
  fill_features<T, A><<<blocks_for(a->B * a->H * a->R, THREADS), THREADS, 0, s>>>(x, r.f);
  return x;
}

template <class T> static int64_t fwd_room(const alk_place *at, const alk_step_spec *a) {
  (void)at;
  cutter c = {};
  cut_step<T, real_of<T>>(&c, a, step_orders(a), false);
  return c.used;
}
CUDA_TYPED_BF16(step_fwd_room, fwd_room)
template <class T> static int64_t bwd_room(const alk_place *at, const alk_step_spec *a) {
  (void)at;
  cutter c = {};
  cut_step<T, real_of<T>>(&c, a, step_orders(a), true);
  return c.used;
}
CUDA_TYPED_BF16(step_bwd_room, bwd_room)

template <class T>
static alk_status fwd(const alk_place *at, const alk_step_spec *a, const alk_step_in *t, void *y,
                      void *W, void *next, void *next_norm, void *scratch) {
  typedef real_of<T> A;
  const cudaStream_t s = stream_of(at);
  const orders o = step_orders(a);
  cutter c = {(char *)scratch, 0};
  const step_room<A> r = cut_step<T, A>(&c, a, o, false);
  const stepped<T, A> x = fill_step<T, A>(s, a, t, o, r);
  renew<T, A><<<blocks_for(a->B * a->Hs * x.slabs, 1), THREADS, 0, s>>>(x, (A *)next,
                                                                        (A *)next_norm, r.N, r.W);
  close_heads<T, A><<<blocks_for(a->B * a->H, 1), ROW_THREADS, 0, s>>>(x, r.N, r.W, (T *)y, (A *)W);
  return launched();
}
CUDA_TYPED_BF16(step_fwd, fwd)

/* ---- backward -------------------------------------------------------------------------------- */

/* Gradients of N and of W of each query head, a block each. */
template <class T, class A>
static __global__ void open_heads(stepped<T, A> x, const T *y, const A *W, const T *dy, const A *dW,
                                  A *dn, A *dw) {
  EACH_ROW(head, x.B * x.H) {
    A by = 1, sum = 0, of_W = dW && x.sums ? dW[head] : (A)0;
    if (x.normalise) {
      by = vabs(W[head]) < SMALLEST ? (A)0 : 1 / W[head];
      if (dy) ROW_LOOP(e, x.E) sum += load(dy, head * x.E + e) * load(y, head * x.E + e);
      sum = block_sum(sum);
      of_W = by == 0 ? (A)0 : dy ? of_W - sum * by : of_W;
    }
    if (threadIdx.x == 0) dw[head] = of_W;
    ROW_LOOP(e, x.E)
    dn[head * x.E + e] = dy && by != 0 ? load(dy, head * x.E + e) * by : (A)0;
  }
}

/* A slab of the gradient of the state; what its features' have, dm (state,R) and dp (B,H,R); parts
 * of u's (state,slabs,E) and of the decay's (state,slabs). */
template <class T, class A>
static __global__ void __launch_bounds__(THREADS, 1)
    renew_back(stepped<T, A> x, const A *dn, const A *dW, const A *dnext, const A *dnext_norm,
               A *dH, A *dz, A *dm, A *dp, A *du, double *steps) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  EACH_ROW(item, x.B * x.Hs * x.slabs) {
    const int64_t state = item / x.slabs, b = state / x.Hs, s = state % x.Hs,
                  head = b * x.H + s * x.group, first = item % x.slabs * SLAB + warp * OWN;
    const A over = x.over(b, s), *m = x.m + (b * x.Hkv + x.key_head(s)) * x.R,
            *p = x.p + head * x.R;
    A of_m[OWN] = {};
    double moved = 0;
    for (int64_t e0 = 0; e0 < x.E; e0 += 32) {
      const int64_t e = e0 + lane;
      const A u = e < x.E ? x.value(b, s, e) : (A)0;
      A of_u = 0, g[OWN];
#pragma unroll
      for (int i = 0; i < OWN; i++) {
        const int64_t r = first + i;
        g[i] = dnext && r < x.R && e < x.E ? dnext[(state * x.R + r) * x.E + e] : (A)0;
      }
#pragma unroll 1
      for (int64_t h = 0; h < x.group; h++) {
        const A n = e < x.E ? dn[(head + h) * x.E + e] : (A)0;
#pragma unroll
        for (int i = 0; i < OWN; i++)
          if (first + i < x.R) g[i] += p[h * x.R + first + i] * n;
      }
#pragma unroll
      for (int i = 0; i < OWN; i++) {
        const int64_t r = first + i, at = (state * x.R + r) * x.E + e;
        if (r >= x.R || e >= x.E) continue;
        of_m[i] += g[i] * u, of_u += m[r] * g[i];
        moved += (double)x.H0[at] * (double)g[i];
        dH[at] = over * g[i];
      }
      of_u = over_warps(of_u);
      if (warp == 0 && e < x.E) du[item * x.E + e] = of_u;
    }
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      const int64_t r = first + i, at = state * x.R + r;
      if (r >= x.R) continue; /* all lanes */
      A sum = warp_join(of_m[i], plus()), z = 0;
      if (x.sums) {
        A g = dnext_norm ? dnext_norm[at] : (A)0;
        z = over * x.z0[at] + m[r];
#pragma unroll 1
        for (int64_t h = 0; h < x.group; h++) g += p[h * x.R + r] * dW[head + h];
        sum += g;
        if (lane == 0) dz[at] = over * g, moved += (double)x.z0[at] * (double)g;
      }
      if (lane == 0) dm[at] = sum;
#pragma unroll 1
      for (int64_t h = 0; h < x.group; h++) {
        A dot = 0;
        for (int64_t e = lane; e < x.E; e += 32)
          dot += (over * x.H0[at * x.E + e] + m[r] * x.value(b, s, e)) * dn[(head + h) * x.E + e];
        dot = warp_join(dot, plus());
        if (lane == 0) dp[(head + h) * x.R + r] = x.sums ? dot + z * dW[head + h] : dot;
      }
    }
    moved = block_sum(moved);
    if (threadIdx.x == 0) steps[item] = moved;
  }
}

/* Gradients of phi(q) and of phi(k), a warp a channel. */
template <class T, class A>
static __global__ void through_queries(stepped<T, A> x, monomials<A> f, const A *dp, A *dq) {
  EACH_ROW(block, parts(x.B * x.H * x.D, WARPS)) {
    const int64_t u = block * WARPS + threadIdx.x / 32, head = u / x.D;
    A sum = 0;
    for (int64_t r = threadIdx.x % 32; u < x.B * x.H * x.D && r < x.R; r += 32)
      sum += f.weight(r) * dp[head * x.R + r] * f.slope(x.q + head * x.D, r, u % x.D);
    sum = warp_join(sum, plus());
    if (u < x.B * x.H * x.D && threadIdx.x % 32 == 0) dq[u] = sum;
  }
}
template <class T, class A>
static __global__ void through_keys(stepped<T, A> x, monomials<A> f, const A *dm, A *dk) {
  const int64_t states = x.Hs / x.Hkv;
  EACH_ROW(block, parts(x.B * x.Hkv * x.D, WARPS)) {
    const int64_t u = block * WARPS + threadIdx.x / 32, key = u / x.D;
    const bool here = u < x.B * x.Hkv * x.D && x.present(key / x.Hkv);
    A sum = 0;
    for (int64_t s = key * states; here && s < (key + 1) * states; s++)
      for (int64_t r = threadIdx.x % 32; r < x.R; r += 32)
        sum += dm[s * x.R + r] * f.slope(x.k + key * x.D, r, u % x.D);
    sum = warp_join(sum, plus());
    if (u < x.B * x.Hkv * x.D && threadIdx.x % 32 == 0) dk[u] = here ? sum : (A)0;
  }
}
/* dv and db of a key head, a block each. */
template <class T, class A>
static __global__ void through_values(stepped<T, A> x, const A *du, A *dv, A *db) {
  const int64_t rows = x.Hs / x.Hkv * x.slabs;
  EACH_ROW(key, x.B * x.Hkv) {
    const bool here = x.present(key / x.Hkv);
    A dot = 0;
    ROW_LOOP(e, x.E) {
      A sum = 0;
      for (int64_t i = key * rows; here && i < (key + 1) * rows; i++) sum += du[i * x.E + e];
      dv[key * x.E + e] = here && x.b ? load(x.b, key) * sum : sum;
      if (here) dot += sum * load(x.v, key * x.E + e);
    }
    dot = block_sum(dot);
    if (db && threadIdx.x == 0) db[key] = dot;
  }
}
/* steps (state) and ddecay (B,Hd). */
template <class T, class A>
static __global__ void through_decay(stepped<T, A> x, const double *moved, double *steps,
                                     A *ddecay) {
  const int64_t each = x.Hs / x.Hd;
  GRID_LOOP(u, x.B * x.Hd) {
    double total = 0;
    for (int64_t i = 0; i < each; i++) {
      const int64_t b = u / x.Hd, s = u % x.Hd * each + i, state = b * x.Hs + s;
      double sum = 0;
      for (int64_t n = 0; n < x.slabs; n++) sum += moved[state * x.slabs + n];
      steps[state] = x.present(b) ? sum * (double)x.over(b, s) : 0;
      total += steps[state];
    }
    ddecay[u] = (A)total;
  }
}
/* dcoefficients (B,H,n), a block each. */
template <class T, class A>
static __global__ void through_coefficients(stepped<T, A> x, monomials<A> f, const A *dp,
                                            double *out) {
  EACH_ROW(u, x.B * x.H * f.n) {
    const int64_t head = u / f.n;
    double sum = 0;
    ROW_LOOP(r, x.R)
    if (f.order[r] == u % f.n)
      sum += (double)(f.kept[r] * f.key(x.q + head * x.D, r)) * (double)dp[head * x.R + r];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[u] = sum;
  }
}

template <class T>
static alk_status bwd(const alk_place *at, const alk_step_spec *a, const alk_step_in *t,
                      const alk_step_grad *g, void *scratch) {
  typedef real_of<T> A;
  const cudaStream_t s = stream_of(at);
  const orders o = step_orders(a);
  cutter c = {(char *)scratch, 0};
  const step_room<A> r = cut_step<T, A>(&c, a, o, true);
  const stepped<T, A> x = fill_step<T, A>(s, a, t, o, r);
  const int64_t queries = a->B * a->H, keys = a->B * a->Hkv;
  A *dq = (A *)g->dq, *dk = (A *)g->dk;
  open_heads<T, A><<<blocks_for(queries, 1), ROW_THREADS, 0, s>>>(
      x, (const T *)g->y, (const A *)g->W, (const T *)g->dy, (const A *)g->dW, r.dn, r.dW);
  renew_back<T, A><<<blocks_for(a->B * a->Hs * x.slabs, 1), THREADS, 0, s>>>(
      x, r.dn, r.dW, (const A *)g->dnext, (const A *)g->dnext_norm, (A *)g->dstate, (A *)g->dnorm,
      r.dm, r.dp, r.du, r.steps);
  through_queries<T, A><<<blocks_for(queries * a->D, WARPS), THREADS, 0, s>>>(x, r.f, r.dp, dq);
  through_keys<T, A><<<blocks_for(keys * a->D, WARPS), THREADS, 0, s>>>(x, r.f, r.dm, dk);
  through_values<T, A>
      <<<blocks_for(keys, 1), ROW_THREADS, 0, s>>>(x, r.du, (A *)g->dv, t->b ? (A *)g->db : NULL);
  if (a->map != ALK_MAP_identity) {
    map_rows_back<T, A><<<blocks_for(queries * a->D, THREADS), THREADS, 0, s>>>(
        a->map, queries, a->D, (const T *)t->q, dq);
    map_rows_back<T, A><<<blocks_for(keys * a->D, THREADS), THREADS, 0, s>>>(a->map, keys, a->D,
                                                                             (const T *)t->k, dk);
  }
  if (g->ddecay)
    through_decay<T, A><<<blocks_for(a->B * a->Hd, THREADS), THREADS, 0, s>>>(
        x, r.steps, (double *)g->steps, (A *)g->ddecay);
  if (g->dcoefficients)
    through_coefficients<T, A><<<blocks_for(queries * o.n, 1), ROW_THREADS, 0, s>>>(
        x, r.f, r.dp, (double *)g->dcoefficients);
  return launched();
}
CUDA_TYPED_BF16(step_bwd, bwd)
