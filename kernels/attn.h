/* attn.h: the fused attention kernel: scores, weights, sums and their backward over tiles; the
 * (T,S) matrix is never stored. Memory beyond the arguments is the scratch asked for here, O(T + S)
 * a thread.
 *
 *   qh = phi(q), kh = phi(k);  s_ij = scale qh_i.kh_j;  w_ij = A_ij f(s'_ij)  (visible.h)
 *   N_i = sum_j keep_ij w_ij b_j v_j                    b = 1 without value_scale
 *   W_i = outer(sum inner(w))  (statistics.def)         0 for ALK_STAT_none
 *   y_i = N_i, or N_i / W_i with `normalise`            0 where |W_i| is below the smallest normal
 *
 * exp and cosh carry a row reference m (its maximum) outside: N and W are relative to e^m, and m is
 * returned as a constant. */
#ifndef ALK_ATTN_H
#define ALK_ATTN_H
#include "attn_slots.h"
#include "program.h"

/* Whether a kernel of a library's may be taken where it is the same function: by the place's
 * choice, not, or that or a failure. */
typedef enum alk_library { ALK_LIBRARY_AUTO, ALK_LIBRARY_NONE, ALK_LIBRARY_CUDNN } alk_library;

typedef struct alk_attn_spec {
  alk_visible g;
  alk_weight_spec weight;
  alk_map map;
  alk_stat stat;
  bool normalise;
  int64_t D, E; /* channels of q and k, of v */
  double scale;
  double dropout; /* 0: none; weight (b,h,i,j) is kept as element ((b H + h) T + i) S + j of the op
                     dropout */
  uint64_t key;
  alk_library library; /* attn_fwd, attn_bwd */
} alk_attn_spec;

ALK_ROOM(attn_fwd, const alk_attn_spec *a)
ALK_ROOM(attn_bwd, const alk_attn_spec *a)

/* q (B,T,H,D), k (B,S,Hkv,D), v (B,S,Hkv,E), b (B,S,Hkv) or NULL, sums as for weights_fwd or NULL;
 * y (B,T,H,E); statistics W and m (B,H,T); inner (B,H,T), one too: the inner sums, where
 * alk_stat_inner, else NULL. */
ALK_KERNEL(attn_fwd, const alk_attn_spec *a, const void *q, const void *k, const void *v,
           const void *b, const void *sums, void *y, void *W, void *inner, void *m, void *scratch)

/* b and dW, of a statistic, may be NULL. dq, dk, dv; db (B,S,Hkv) with b; dsums (B,H,S) with
 * decay, dcoefficients (B,H,n), dscalars (B,H,n_scalars) of the program or NULL. y, W, inner, m as
 * the forward gave them. */
typedef struct alk_attn_grad {
  const void *q, *k, *v, *b, *y, *W, *inner, *m, *dy, *dW, *sums;
  void *dq, *dk, *dv, *db;
  void *dsums, *dcoefficients, *dscalars; /* f64 */
} alk_attn_grad;
ALK_KERNEL(attn_bwd, const alk_attn_spec *a, const alk_attn_grad *t, void *scratch)
#endif
