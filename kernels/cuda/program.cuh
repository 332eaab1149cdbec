/* program.cuh: an expression on one entry on the card (../program.h): a register machine whose
 * instructions and uniforms a block keeps in shared memory. Plain: every thread decodes every
 * instruction, and its registers are local memory. */
#ifndef ALK_CUDA_PROGRAM_CUH
#define ALK_CUDA_PROGRAM_CUH
#include "weigh.cuh"
extern "C" {
#include "../program.h"
}

/* As a kernel's argument. */
typedef struct program_arg {
  alk_program p;
  const double *scalars; /* (n_scalars,H) */
} program_arg;

/* What the threads of a block share. */
template <class real> struct program_state {
  alk_program p;
  real uniform[ALK_PROGRAM_UNIFORMS]; /* of a head */
};

template <class real>
__device__ __attribute__((noinline)) static real program_step(int op, real a, real b, real g,
                                                              int64_t j) {
  switch (op) {
  case ALK_PG_j:
    return (real)(j + 1);
#define PROGRAM(name, n, callable, value, text)                                                    \
  case ALK_PG_##name:                                                                              \
    return value;
#include "../program.def"
#undef PROGRAM
  default:
    return 0;
  }
}

template <class real> __device__ static void program_prelude(const alk_program &p, real *u) {
  const auto at = [u](int x) { return u[x < ALK_PROGRAM_UNIFORM ? 0 : x - ALK_PROGRAM_UNIFORM]; };
  for (int k = 0; k < p.n_prelude; k++) {
    const alk_instruction x = p.prelude[k];
    u[x.to] = program_step<real>(x.op, at(x.a), at(x.b), at(x.g), 0);
  }
}

/* By all threads of a block, before anything else. */
template <class real>
__device__ static void program_begin(const program_arg &arg, program_state<real> *t) {
  static_assert(sizeof(alk_program) % sizeof(int) == 0, "copied by words");
  for (int i = threadIdx.x; i < (int)(sizeof(alk_program) / sizeof(int)); i += blockDim.x)
    ((int *)&t->p)[i] = ((const int *)&arg.p)[i];
  __syncthreads();
}
/* Uniforms of head h, of H; by all threads of a block. */
template <class real>
__device__ static void program_head(const program_arg &arg, int64_t h, int64_t H,
                                    program_state<real> *t) {
  __syncthreads(); /* whoever still reads those of the head before */
  for (int k = threadIdx.x; k < t->p.n_uniforms; k += blockDim.x)
    t->uniform[k] =
        (real)(k >= 1 && k <= t->p.n_scalars ? arg.scalars[(k - 1) * H + h] : t->p.uniform[k]);
  __syncthreads();
  if (threadIdx.x == 0 && !t->p.reads_i) program_prelude(t->p, t->uniform);
  __syncthreads();
}
/* Uniforms of row i (from 0): the head's, or `own`, which holds ALK_PROGRAM_UNIFORMS, filled. */
template <class real>
__device__ __attribute__((noinline)) static const real *program_row(const program_state<real> &t,
                                                                    int64_t i, real *own) {
  if (!t.p.reads_i) return t.uniform;
  for (int k = 0; k < t.p.n_uniforms; k++) own[k] = t.uniform[k];
  own[0] = (real)(i + 1);
  program_prelude(t.p, own);
  return own;
}

/* Runs on an entry s at key j (from 0); r holds 1 + ALK_PROGRAM_REGISTERS. */
template <class real>
__device__ __attribute__((noinline)) static void
program_run(const program_state<real> &t, bool slopes, const real *u, int64_t j, real s, real *r) {
  const int n = slopes ? t.p.n_code : t.p.n_value;
  const auto at = [&](int x) {
    return x < ALK_PROGRAM_UNIFORM ? r[x] : u[x - ALK_PROGRAM_UNIFORM];
  };
  r[0] = s;
  for (int k = 0; k < n; k++) {
    const alk_instruction x = t.p.code[k];
    r[x.to] = program_step<real>(x.op, at(x.a), at(x.b), at(x.g), j);
  }
}
#endif
