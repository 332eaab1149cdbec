/* chunked.h: attention with polynomial weights w_ij = A_ij f(s_ij), f(s) = sum c_n s^n, in time
 * linear in T: pairs inside a chunk of tokens, a state of monomials (monomials.h) between chunks.
 *
 *     f(s_ij) = sum_r w_r scale^n m_r(qh_i) m_r(kh_j)
 *     H_i = A_i H_0 + sum_{j <= i} A_ij m(kh_j) b_j v_j^T (R,E),  z_i = A_i z_0 + sum A_ij m(kh_j)
 *     N_i = sum_r w_r scale^n m_r(qh_i) H_i[r],  W_i likewise from z;  y, W as in attn.h
 *
 * or, not causal, the state over all keys for every row. Query heads that share their key/value
 * head and their decay share a state: there are Hs = H / alk_chunked_shared of them a batch row.
 * Sums restart every alk_chunk_segment tokens and are added to the state before: the numbers are
 * the same whether one thread walks through a head or several take a segment each. A decay counts
 * up to the last visible key of a row, so a batch row of length 0 hands on its state as it was.
 * Where numbers are stored in bf16, statistics, states and all gradients but dy are f32. Sources:
 * papers A.9. Of the spec, f, its limits and the dropout are not read; stat is none or sum, offset
 * 0; causal needs T = S; decay, an initial and a final state need causal.
 */
#ifndef ALK_CHUNKED_H
#define ALK_CHUNKED_H
#include "attn.h"
#include "monomials.h"

/* Tokens of a segment for R features: about as many, so that the states at their ends take no more
 * memory than the tokens; but room for the states of a segment's chunks has an end. */
enum { ALK_CHUNK_SHORTEST = 1024, ALK_CHUNK_LONGEST = 8192 };
static inline int64_t alk_chunk_segment(int64_t R) {
  int64_t n = ALK_CHUNK_SHORTEST;
  while (n < R && n < ALK_CHUNK_LONGEST) n *= 2;
  return n;
}
static inline int64_t alk_chunk_segments(int64_t R, int64_t tokens) {
  const int64_t n = alk_chunk_segment(R);
  return (tokens + n - 1) / n;
}

/* Query heads that surely share a state. */
static inline int64_t alk_chunked_shared(const alk_attn_spec *a) {
  int64_t x = a->g.H / a->g.Hkv, y = a->weight.Hd ? a->g.H / a->weight.Hd : 0;
  while (y) {
    const int64_t rest = x % y;
    x = y, y = rest;
  }
  return x;
}

/* kept (n_coefficients): order n has features where kept[n] != 0, and no weight elsewhere; c_n =
 * kept_n k_n, and gradients are those of k_n, which may be 0. q (B,T,H,D), k (B,S,Hkv,D), v
 * (B,S,Hkv,E), b (B,S,Hkv) or NULL, sums as for weights_fwd or NULL; state (B,Hs,R,E), norm
 * (B,Hs,R): before the first token, NULL: zeros; norm only where stat is not none. */
typedef struct alk_chunked_in {
  const double *kept;
  const void *q, *k, *v, *b, *sums, *state, *norm;
} alk_chunked_in;

/* y (B,T,H,E), W (B,H,T); states: at the ends of segments, for the backward; state, norm: after the
 * last token, NULL: not wanted. */
typedef struct alk_chunked_out {
  void *y, *W, *states, *state, *norm;
} alk_chunked_out;

/* Of `states`. */
ALK_ROOM(chunked_states, const alk_attn_spec *a, const double *kept)
ALK_ROOM(chunked_fwd, const alk_attn_spec *a, const double *kept)
ALK_ROOM(chunked_bwd, const alk_attn_spec *a, const double *kept)

ALK_KERNEL(chunked_fwd, const alk_attn_spec *a, const alk_chunked_in *in,
           const alk_chunked_out *out, void *scratch)

/* y, W, states as the forward gave them; gradients dy, and dW, of the final state, dstate_out and
 * dnorm_out, or NULL. dq, dk, dv; db (B,S,Hkv) with b; dstate, dnorm or NULL. ddecay (B,S,Hd), or
 * NULL, with `steps` (B,Hs,S) as room for it; dcoefficients (B,H,alk_chunk_segments(R,T),n), parts
 * of the gradient of k_n for each n that is kept, or NULL. */
typedef struct alk_chunked_grad {
  const void *y, *W, *states, *dy, *dW, *dstate_out, *dnorm_out;
  void *dq, *dk, *dv, *db, *ddecay, *dstate, *dnorm;
  void *steps, *dcoefficients; /* f64 */
} alk_chunked_grad;
ALK_KERNEL(chunked_bwd, const alk_attn_spec *a, const alk_chunked_in *in, const alk_chunked_grad *t,
           void *scratch)
#endif
