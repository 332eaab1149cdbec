/* chunked.h: what the forward and the backward of chunked attention share: slabs of features,
 * states in memory, products of a panel with a state.
 *
 * Features are taken in slabs, so that a slab of the state, and of the features of a chunk, stays
 * in the cache and scratch stays bounded however many features there are: a segment of tokens is
 * walked once a slab. A slab of a state is [feature][Ew] and, after it, z [feature]; in memory a
 * state is (R,E) and (R).
 */
#ifndef ALK_CPU_CHUNKED_H
#define ALK_CPU_CHUNKED_H
#include "basis.h"

enum { SLAB = 512 };

static inline basis basis_for(const alk_attn_spec *a, const double *kept) {
  return basis_of(a->D, a->weight.n_coefficients, kept, a->weight.factors, a->scale);
}
/* Without the k_n, whose memory a question of room must not read. */
static inline basis basis_sizes(const alk_attn_spec *a, const double *kept) {
  return basis_of(a->D, a->weight.n_coefficients, kept, NULL, a->scale);
}

typedef struct held { /* a state in memory; H NULL: zeros, or not wanted */
  real *H, *z;
} held;

typedef struct slab {
  int64_t from, to, rows;
  bool first, last;
} slab;

/* States of a line that are kept: at the ends of the segments of keys, of which the last one is
 * the final state where it is causal. */
static inline int64_t kept_segments(const alk_attn_spec *a, const basis *s) {
  return most(alk_chunk_segments(s->R, a->g.S) - a->g.causal, 0);
}

/* The state of line n in (B,Hs,R,E) and (B,Hs,R). */
static inline held held_at(const alk_attn_spec *a, const basis *s, void *H, void *z, int64_t n) {
  return (held){H ? (real *)H + n * s->R * a->E : NULL, z ? (real *)z + n * s->R : NULL};
}

/* The state at the end of segment s, `final` past those that are kept. */
static inline held state_after(const line *n, const basis *b, const real *states, int64_t s,
                               held final) {
  const int64_t E = n->a->E;
  if (s >= kept_segments(n->a, b)) return final;
  real *H = (real *)states + s * b->R * (E + 1);
  return (held){H, n->a->stat == ALK_STAT_none ? NULL : H + b->R * E};
}

static inline void copy_held(const alk_attn_spec *a, const basis *s, const held *from,
                             const held *to) {
  const size_t H = (size_t)(s->R * a->E) * sizeof(real), z = (size_t)s->R * sizeof(real);
  if (from->H) memcpy(to->H, from->H, H);
  else memset(to->H, 0, H);
  if (to->z && from->z) memcpy(to->z, from->z, z);
  else if (to->z) memset(to->z, 0, z);
}

static inline int64_t slab_rows(const basis *s) { return least(SLAB, s->R); }
static inline int64_t slab_size(const basis *s, int64_t Ew) { return slab_rows(s) * (Ew + 1); }
static inline int64_t n_slabs(const basis *s) { return (s->R + SLAB - 1) / SLAB; }
static inline slab slab_at(const basis *s, int64_t i) {
  const int64_t from = i * SLAB, to = least(from + SLAB, s->R);
  return (slab){from, to, to - from, i == 0, to == s->R};
}
static inline real *slab_z(const basis *s, real *local, int64_t Ew) {
  return local + slab_rows(s) * Ew;
}

/* out = f x + y for a slab of a state in memory and one in scratch; x.H NULL: y alone. */
static inline void slab_join(const slab *p, int64_t E, int64_t Ew, real f, const held *x,
                             const real *y, const real *yz, real *out, int64_t os, real *out_z) {
  for (int64_t r = 0; r < p->rows; r++) {
    const real *from = x->H ? x->H + (p->from + r) * E : NULL, *add = y + r * Ew;
    real *to = out + r * os;
    if (from)
      for (int64_t e = 0; e < E; e++) to[e] = f * from[e] + add[e];
    else
      for (int64_t e = 0; e < E; e++) to[e] = add[e];
    for (int64_t e = E; e < os; e++) to[e] = 0;
  }
  if (!out_z) return;
  const real *from = x->z ? x->z + p->from : NULL;
  for (int64_t r = 0; r < p->rows; r++) out_z[r] = from ? f * from[r] + yz[r] : yz[r];
}

static inline void slab_to_memory(const slab *p, int64_t E, int64_t Ew, real f, const held *x,
                                  const real *y, const real *yz, const held *out) {
  slab_join(p, E, Ew, f, x, y, yz, out->H + p->from * E, E, out->z ? out->z + p->from : NULL);
}

/* out = f x + out of whole states in memory, R rows. */
static inline void join_held(int64_t R, int64_t E, real f, const held *x, const held *out) {
  if (!x->H) return;
  slab_join(&(slab){0, R, R, true, true}, E, E, f, x, out->H, out->z, out->H, E, out->z);
}

/* y[t] += sum_r f[r][t] z[r] over a slab. */
static inline void add_columns(int64_t rows, const real *f, const real *z, real *y) {
  vec sum[CHUNK_VECS];
  EACH_VEC { sum[v] = (vec){0}; }
  for (int64_t r = 0; r < rows; r++) EACH_VEC {
      sum[v] += z[r] * AT(f + r * CHUNK);
    }
  EACH_VEC { AT(y) += sum[v]; }
}

/* z[r] += sum_t f[r][t] y[t], all of a chunk: y is 0 past its end. */
static inline void add_rows(int64_t rows, const real *f, const real *y, real *z) {
  vec by[CHUNK_VECS];
  EACH_VEC { by[v] = AT(y); }
  for (int64_t r = 0; r < rows; r++) {
    vec sum = {0};
    EACH_VEC { sum += AT(f + r * CHUNK) * by[v]; }
    z[r] += lane_sum(sum);
  }
}

/* The slab `local` of a state = over * local + sum_t f_t x_t^T, z with weights by[t]. */
static inline void slab_absorb(const basis *s, const slab *p, int64_t Ew, real over, int64_t terms,
                               const real *f, const real *x, const real *by, real *local,
                               bool sums) {
  real *z = slab_z(s, local, Ew);
  if (over != 1) {
    blend(p->rows * Ew, over, local, NULL, local);
    blend(p->rows, over, z, NULL, z);
  }
  product(true, p->rows, terms, &(factor){f, CHUNK, 1}, x, Ew, Ew, true, 1, local, Ew);
  if (sums) add_rows(p->rows, f, by, z);
}

/* f of the row's scores, in whole vectors. */
static inline void weigh_scores(const basis *s, int64_t n, real *row) {
  for (int64_t j = 0; j < n; j += LANES) {
    const vec x = *(vec_at *)(row + j);
    vec y = (vec){0} + s->c[s->n - 1];
    for (int i = s->n - 2; i >= 0; i--) y = y * x + s->c[i];
    *(vec_at *)(row + j) = y;
  }
}

/* Segments are shared out where there are few heads. */
static inline int64_t chunked_jobs(const alk_place *place, const alk_attn_spec *a, int64_t R) {
  const int64_t pairs = a->g.B * a->g.Hkv, longest = a->g.T > a->g.S ? a->g.T : a->g.S;
  return jobs_for(pairs >= place->threads ? pairs : pairs * alk_chunk_segments(R, longest), place);
}
#endif
