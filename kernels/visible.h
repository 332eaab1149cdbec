/* visible.h: attention in parts. Every kernel works on the visible entries of a (B,H,T,S) matrix
 * and on nothing else.
 *
 * Key j is visible to query row i when j < lengths[b] and, if causal, j <= i + offset, of these
 * the last `window`: the keys of a row are always a range whose two ends never fall from row to
 * row, and so are the rows of a key. Hidden entries are selected away, never multiplied by a mask:
 * no number depends on what they hold, NaN included, nor does a rounding; the order of every sum
 * follows from shapes, offset and lengths.
 *
 * Arrays are contiguous: q, y (B,T,H,D); k, v (B,S,Hkv,D); s, w (B,H,T,S). Query head h reads
 * key/value head h / (H / Hkv).
 */
#ifndef ALK_VISIBLE_H
#define ALK_VISIBLE_H
#include "attn_orders.h"
#include "kernel.h"

typedef struct alk_visible {
  int64_t B, T, S, H, Hkv; /* Hkv divides H */
  const void *lengths;     /* (B) i32, or NULL: all S keys */
  int64_t offset;          /* row i stands at key position i + offset; read when causal, and by
                              programs */
  bool causal;
  int64_t window; /* read when causal; 0: all */
} alk_visible;

typedef struct alk_range {
  int64_t from, to;
} alk_range;

/* Keys that row i of batch row b sees, in 0..S. */
static inline ALK_BOTH alk_range alk_visible_keys(const alk_visible *g, int64_t b, int64_t i) {
  int64_t to = g->lengths ? ((const int32_t *)g->lengths)[b] : g->S, from = 0;
  const int64_t end = i + g->offset + 1;
  if (to > g->S) to = g->S;
  if (g->causal && end < to) to = end;
  if (to < 0) to = 0;
  if (g->causal && g->window && end > g->window) from = end - g->window;
  return (alk_range){from < to ? from : to, to};
}

/* Rows that see key j of batch row b; none at the end or, of keys that have left every window, at
 * the start. */
static inline ALK_BOTH alk_range alk_visible_rows(const alk_visible *g, int64_t b, int64_t j) {
  int64_t from = g->causal ? j - g->offset : 0, to = g->T;
  if (g->lengths && j >= ((const int32_t *)g->lengths)[b]) return (alk_range){g->T, g->T};
  if (g->causal && g->window && from + g->window < to) to = from + g->window;
  if (to < 0) to = 0;
  if (from < 0) from = 0;
  return (alk_range){from < to ? from : to, to};
}

/* s_ij = scale q_i.k_j; hidden entries 0. */
ALK_KERNEL(visible_scores, const alk_visible *g, int64_t D, double scale, const void *q,
           const void *k, void *s)
/* y_i = scale sum_j w_ij v_j over the keys that row i sees, v (B,S,Hkv,D), y (B,T,H,D). */
ALK_KERNEL(visible_gather, const alk_visible *g, int64_t D, double scale, const void *w,
           const void *v, void *y)
/* x_j = scale sum_h sum_i w_ij y_i over the heads of key/value head h and the rows that see key j;
 * y (B,T,H,D), x (B,S,Hkv,D). */
ALK_KERNEL(visible_scatter, const alk_visible *g, int64_t D, double scale, const void *w,
           const void *y, void *x)

/* Masks (reach.h): row (B,T,H), key (B,S,Hkv): is any visible entry of theirs in d (B,H,T,S) other
 * than 0? */
ALK_KERNEL(visible_reach, const alk_visible *g, const void *d, void *row, void *key)

/* Weights: w_ij = A_ij f(s'_ij). From s to s', in this order: round to the nearest bf16 (gradient
 * straight through), softcap c: c tanh(s / c), clamp c: min(s, c) (gradient passes where s <= c),
 * then a program (program.h): the fused kernel alone reads it here, the others have a kernel of its
 * own before them. */
struct alk_program;
typedef enum alk_weight { ALK_WEIGHT_EXP, ALK_WEIGHT_COSH, ALK_WEIGHT_POLYNOMIAL } alk_weight;
typedef struct alk_weight_spec {
  alk_weight f;
  bool round;
  double softcap; /* 0: none */
  double clamp;   /* INFINITY: none */
  int n_coefficients;
  const double *base;  /* f(s) = sum c_n s^n, c_n = base_n k_n */
  const void *factors; /* k_n, f64, or NULL: all 1; gradients are those of k_n */
  int64_t Hd; /* heads of the decay, divides H; head h reads decay head h / (H / Hd); 0: no decay */
  const struct alk_program *program; /* or NULL */
  const void *scalars;               /* (n_scalars,H) f64 of the program */
} alk_weight_spec;

/* sums (B,Hd,S), always f64: sums_j = a_0 + .. + a_j of the log-decay a (B,S,Hd). Row i whose last
 * visible key is p has A_ij = exp(sums_p - sums_j); the difference is taken before it is rounded.
 */
ALK_KERNEL(decay_sums, int64_t B, int64_t S, int64_t Hd, const void *a, void *sums)
/* da (B,S,Hd) from dsums (B,H,S), the gradient that each head leaves on the sums. */
ALK_KERNEL(decay_sums_bwd, int64_t B, int64_t S, int64_t H, int64_t Hd, const void *dsums, void *da)

/* w from s; exp(s' + log A - m) and cosh(s') A exp(-m) with m (B,H,T) from `reference`, NULL: m =
 * 0. sums: see above, NULL without decay. Hidden entries of w = 0. */
ALK_KERNEL(weights_fwd, const alk_visible *g, const alk_weight_spec *spec, const void *s,
           const void *reference, const void *sums, void *w)
/* ds (B,H,T,S), hidden entries 0; dsums (B,H,S) for decay_sums_bwd; dcoefficients
 * (B,H,n_coefficients), each head's part of the gradient of k_n. All three may be NULL. */
ALK_KERNEL(weights_bwd, const alk_visible *g, const alk_weight_spec *spec, const void *s,
           const void *sums, const void *w, const void *dw, void *ds, void *dsums,
           void *dcoefficients)
/* m (B,H,T) = max over visible j of s'_ij + log A_ij, or of |s'_ij| + log A_ij; 0 where a row sees
 * no key or every such entry is -inf. Of spec, f and the coefficients are not read. */
ALK_KERNEL(visible_max, const alk_visible *g, const alk_weight_spec *spec, bool absolute,
           const void *s, const void *sums, void *m)
/* n (B,T): visible keys of each row, and before[b] more; before (B) may be NULL. */
ALK_KERNEL(visible_count, const alk_visible *g, const void *before, void *n)
#endif
