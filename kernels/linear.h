/* linear.h: attention with w_ij = A_ij scale phi(q_i).phi(k_j) in time linear in T: products
 * inside a chunk of tokens, a state between chunks.
 *
 *   H_i = sum A_ij kh_j b_j v_j^T (D,E),  z_i = sum A_ij kh_j (D)   over j <= i; not causal: all j
 *   N_i = scale qh_i H_i;  W_i = scale qh_i.z_i (0 for ALK_STAT_none);  y, W as in attn.h
 *
 * Sums restart every ALK_LINEAR_SEGMENT tokens and are added to the state before: the numbers are
 * the same whether one thread walks through a head or several take a segment each. Where numbers
 * are stored in bf16, statistics, states and all gradients but dy are f32. Sources: papers A.9. Of
 * the spec, f, its limits and the dropout are not read; stat is none or sum, offset 0; causal
 * needs T = S and decay needs causal. */
#ifndef ALK_LINEAR_H
#define ALK_LINEAR_H
#include "attn.h"

enum { ALK_LINEAR_SEGMENT = 1024 };
static inline int64_t alk_linear_segments(int64_t tokens) {
  return (tokens + ALK_LINEAR_SEGMENT - 1) / ALK_LINEAR_SEGMENT;
}

/* Of the states at the ends of all segments: made by the forward, read by the backward. */
ALK_ROOM(linear_states, const alk_attn_spec *a)
ALK_ROOM(linear_fwd, const alk_attn_spec *a)
ALK_ROOM(linear_bwd, const alk_attn_spec *a)

/* q (B,T,H,D), k (B,S,Hkv,D), v (B,S,Hkv,E), b (B,S,Hkv) or NULL, sums as for weights_fwd or NULL;
 * y (B,T,H,E), W (B,H,T). */
ALK_KERNEL(linear_fwd, const alk_attn_spec *a, const void *q, const void *k, const void *v,
           const void *b, const void *sums, void *y, void *W, void *states, void *scratch)

/* y, W, states as the forward gave them; b, sums, dW may be NULL. dq, dk, dv; db (B,S,Hkv) with b;
 * ddecay (B,S,Hd), or NULL, with `steps` (B,H,S) as room for it. */
typedef struct alk_linear_grad {
  const void *q, *k, *v, *b, *y, *W, *states, *dy, *dW, *sums;
  void *dq, *dk, *dv, *db, *ddecay;
  void *steps; /* f64 */
} alk_linear_grad;
ALK_KERNEL(linear_bwd, const alk_attn_spec *a, const alk_linear_grad *t, void *scratch)
#endif
