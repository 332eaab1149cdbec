/* attn_bwd.cuh: what the steps of the backward of the fused attention share (attn_bwd.cu). */
#ifndef ALK_CUDA_ATTN_BWD_CUH
#define ALK_CUDA_ATTN_BWD_CUH
#include "attn.cuh"

template <class T> struct bwd_inputs {
  typedef real_of<T> real;
  query_key<T> x;
  const T *v, *b, *dy;
  const double *sums;
  const real *m, *by, *delta;   /* (B,H,T) */
  const unsigned char *reached; /* (B,H,T): BY_.. */
};
/* What is wanted; the rest NULL. */
template <class T> struct bwd_results {
  typedef real_of<T> real;
  T *dq, *dk, *dv, *db;
  real *dphi_q, *dphi_k;          /* instead of dq and dk under a map */
  double *moved;                  /* (B,H,T): what the decay of a row's last key gets */
  double *dsums;                  /* (B,H,S) */
  double *coefficients, *scalars; /* (B,H,tiles,n): parts of the head */
};

/* What reaches a row: a gradient of its W alone, or of y. */
enum { BY_W = 1, BY_Y };

/* Rows or keys of a tile; what leaves parts of a head has all the same. */
enum { FULL = 64, PARTS = 32 };

/* ---- an entry -------------------------------------------------------------------------------- */

template <class real> struct entry {
  real w, ds;    /* w as the values see it */
  real dw, A, y; /* of the coefficients: A dw y^n */
  double moved;  /* w dw */
};
/* Of the dot product of q and k and that of g and v; e = log A. What belongs to the program: where
 * it stands, its uniforms, and sums of its scalars' gradients, or NULL. */
template <int KIND, class real>
__device__ inline entry<real>
entry_slope(const attn_arg &a, alk_weight f, const series &terms, real dot, real gv, bool decay,
            real e, real m, real delta, bool kept, [[maybe_unused]] int64_t j,
            [[maybe_unused]] const program_memory<KIND, real> &pm,
            [[maybe_unused]] const real *uniform, [[maybe_unused]] double *scalars) {
  entry<real> r;
  const real x = capped(a.p, dot * (real)a.scale), z = clamped(a.p, x), scale = (real)a.scale;
  r.y = z;
  [[maybe_unused]] real registers[KIND == PROGRAMS ? 1 + ALK_PROGRAM_REGISTERS : 1];
  if constexpr (KIND == PROGRAMS) {
    program_run(pm.state, true, uniform, j, z, registers);
    r.y = registers[pm.state.p.value];
  }
  real df;
  const real w = weight_slope(f, terms, r.y, decay, e, m, &df);
  const real by = KIND == EXP_ALONE || !a.drops ? (real)1 : kept_by<real>(a, kept);
  r.dw = gv * by, r.w = w * by;
  r.dw += stat_inner_bwd(a.stat, delta, w);
  r.moved = PASSED(r.dw, (double)w * (double)r.dw);
  r.A = decay ? vexp(e) : (real)1;
  if constexpr (KIND == PROGRAMS) {
    const real g = PASSED(r.dw, r.dw * df);
    for (int k = 0; scalars && k < pm.state.p.n_scalars; k++)
      scalars[k] += PASSED(g, (double)g * (double)registers[pm.state.p.scalar[k]]);
    r.ds = PASSED(g, g * registers[pm.state.p.slope] * scale);
  } else {
    r.ds = PASSED(r.dw, r.dw * (df * scale)); /* f' may be infinite where the weight is finite */
  }
  r.ds = limits_slope(a.p, x, r.ds);
  return r;
}

/* ---- passes over tiles ----------------------------------------------------------------------- */

/* dq, and by parts of a head what belongs to it (attn_bwd_rows.cu). */
template <class T>
void attn_rows_back(const alk_place *at, const alk_attn_spec *s, int kind, const bwd_inputs<T> &in,
                    const bwd_results<T> &to);
/* dk, dv, db, dsums (attn_bwd_keys.cu). */
template <class T>
void attn_keys_back(const alk_place *at, const alk_attn_spec *s, int kind, const bwd_inputs<T> &in,
                    const bwd_results<T> &to);

/* P's kernel with the tiles of a kind. */
template <class P, class T>
static void launch_pass(const alk_place *at, const alk_attn_spec *s, int kind,
                        const bwd_inputs<T> &in, const bwd_results<T> &to) {
  const bool narrow = s->D <= 32 && s->E <= 32;
  if (kind == PROGRAMS) P::template launch<T, PROGRAMS, PARTS, 32>(at, s, in, to);
  else if constexpr (sizeof(T) == 8) P::template launch<T, EVERY_F, PARTS, 32>(at, s, in, to);
  else if (kind == EVERY_F && narrow) P::template launch<T, EVERY_F, PARTS, 32>(at, s, in, to);
  else if (kind == EVERY_F) P::template launch<T, EVERY_F, PARTS, 64>(at, s, in, to);
  else if (narrow) P::template launch<T, EXP_ALONE, FULL, 32>(at, s, in, to);
  else P::template launch<T, EXP_ALONE, FULL, 64>(at, s, in, to);
}
#endif
