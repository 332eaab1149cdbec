/* step.h: attention with polynomial weights, one token after a state: the recurrent form.
 *
 *   H' = A H + m(kh) (b v)^T,  z' = A z + m(kh)            m: monomials.h, R of them
 *   N_h = sum_r p_hr H'_r,  W_h = sum_r p_hr z'_r           (0 for ALK_STAT_none)
 *   p_hr = c_n scale^n multiplicity_r m_r(qh_h), n the order of row r;  y, W as in attn.h
 *
 * A state H (R,E), z (R) serves a run of H / Hs query heads that share key head and decay. A batch
 * row whose length is 0 adds nothing and does not decay. H' may be H, z' may be z. Where numbers
 * are stored in bf16, statistics, multiplicities, states and all gradients but dy are f32.
 */
#ifndef ALK_STEP_H
#define ALK_STEP_H
#include "attn.h"
#include "monomials.h"

typedef struct alk_step_spec {
  int64_t B, H, Hkv, Hd, Hs, D, E, R; /* Hd: heads of the decay, 0: none */
  alk_map map;
  int stat; /* none or sum */
  bool normalise;
  int n_coefficients;
  const double *kept, *base; /* kept: not 0 where order n has rows; c_n scale^n = base_n k_n */
  const void *factors;       /* k_n, f64, or NULL: all 1; gradients are those of k_n */
  const void *lengths;       /* (B) i32, or NULL: all 1 */
} alk_step_spec;

/* States: of n heads a, of key heads, of decay heads (0: no decay), how many in all. */
static inline int64_t alk_step_states(int64_t H, int64_t Hkv, int64_t Hd) {
  int64_t a = H / Hkv, b = Hd ? H / Hd : H;
  while (b) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return H / a;
}

ALK_ROOM(step_fwd, const alk_step_spec *a)
ALK_ROOM(step_bwd, const alk_step_spec *a)

/* q (B,H,D), k (B,Hkv,D), v (B,Hkv,E), b (B,Hkv) or NULL, decay (B,Hd) or NULL, state (B,Hs,R,E),
 * norm (B,Hs,R) or NULL, multiplicity (R): monomial_weights of ones; y (B,H,E), W (B,H), next as
 * state, next_norm as norm. */
typedef struct alk_step_in {
  const void *q, *k, *v, *b, *decay, *state, *norm, *multiplicity;
} alk_step_in;
ALK_KERNEL(step_fwd, const alk_step_spec *a, const alk_step_in *t, void *y, void *W, void *next,
           void *next_norm, void *scratch)

/* y, W as the forward gave them; dy, dW, dnext, dnext_norm may be NULL. dq, dk, dv, dstate; db with
 * b, dnorm with norm; ddecay (B,Hd) with `steps` (B,Hs) as room for it, dcoefficients (B,H,n):
 * each head's part of the gradient of k_n; both may be NULL. */
typedef struct alk_step_grad {
  const void *y, *W, *dy, *dW, *dnext, *dnext_norm;
  void *dq, *dk, *dv, *db, *ddecay, *dstate, *dnorm;
  void *steps, *dcoefficients; /* f64 */
} alk_step_grad;
ALK_KERNEL(step_bwd, const alk_step_spec *a, const alk_step_in *t, const alk_step_grad *g,
           void *scratch)
#endif
