/* program.h: a program on one row of a tile, and the limits before it: what the fused attention and
 * the kernels of ../program.h share. */
#ifndef ALK_CPU_PROGRAM_H
#define ALK_CPU_PROGRAM_H
#include "../program.h"
#include "weigh.h"

/* What a head's rows are evaluated with. */
typedef struct program_state {
  const alk_program *p;
  plan limits;                        /* round, cap, clamp */
  real uniform[ALK_PROGRAM_UNIFORMS]; /* constants, scalars of the head, what is made of them */
} program_state;

/* Uniforms of head h, of H. */
void ALK_NAME(program_head)(const alk_weight_spec *spec, int64_t h, int64_t H, program_state *t);
/* Uniforms of row i (from 0) of that head. */
void ALK_NAME(program_row)(program_state *t, int64_t i);
/* Runs over n <= ALK_PROGRAM_LANES entries of the row, the first of which is key j (from 0). s and
 * `registers` (ALK_PROGRAM_REGISTERS rows of ALK_PROGRAM_LANES) hold whole groups; what is past n
 * may be garbage. */
void ALK_NAME(program_run)(const program_state *t, bool slopes, int64_t j, int64_t n, const real *s,
                           real *registers);

/* Where an output stands: in s itself, or in a register. */
static inline const real *program_output(int operand, const real *s, const real *registers) {
  return operand ? registers + (operand - 1) * ALK_PROGRAM_LANES : s;
}

static inline bool limited(const plan *p) { return p->round || p->cap || p->clamp; }

/* y = s through the limits; x (may be NULL) what stood before the clamp. */
static inline void limit_entries(const plan *p, int64_t n, const real *s, real *x, real *y) {
  if (!limited(p)) { /* then nobody asks for x */
    if (y != s)
      for (int64_t j = 0; j < n; j += GROUP) EACH_LANE y[j + l] = s[j + l];
    return;
  }
  for (int64_t j = 0; j < n; j += GROUP) {
    real t[GROUP];
    cap(p, s + j, t);
    if (x) EACH_LANE x[j + l] = t[l];
    clamp(p, t);
    EACH_LANE y[j + l] = t[l];
  }
}

/* g = dL/dp becomes scale dL/ds: through the program by `slope`, through clamp and cap by x. */
static inline void slope_entries(const plan *p, int64_t n, const real *x, const real *slope,
                                 real scale, real *g) {
  for (int64_t j = 0; j < n; j += GROUP) {
    real t[GROUP];
    EACH_LANE t[l] = PASSED(g[j + l], g[j + l] * slope[j + l] * scale);
    if (p->clamp) EACH_LANE t[l] = x[j + l] <= p->limit ? t[l] : 0;
    if (p->cap)
      EACH_LANE t[l] = PASSED(t[l], t[l] * (1 - (x[j + l] / p->softcap) * (x[j + l] / p->softcap)));
    EACH_LANE g[j + l] = t[l];
  }
}

/* Sum over n entries of g times a derivative, in lanes of fixed places. */
static inline double program_sum(int64_t n, const real *g, const real *slope) {
  double part[GROUP];
  EACH_LANE part[l] = 0;
  for (int64_t j = 0; j < n; j += GROUP) {
    const int64_t left = n - j;
    EACH_LANE part[l] += l < left && g[j + l] != 0 ? (double)g[j + l] * (double)slope[j + l] : 0;
  }
  double sum = 0;
  for (int l = 0; l < GROUP; l++) sum += part[l];
  return sum;
}
#endif
