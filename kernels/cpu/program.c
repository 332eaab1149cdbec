/* program.c: evaluation of a program (contract: ../program.h).
 *
 * An instruction is one loop over a row of entries, so finding it costs nothing beside it; its
 * operands and its result stay in L1. An operand of two that is uniform is kept in a vector
 * register; elsewhere (powers apart, derivatives at kinks) it is written out as a row.
 */
#include "program.h"
#include <string.h>

enum { LANES = ALK_PROGRAM_LANES, PARALLEL = 1 << 14 };

#define INLINE static inline __attribute__((always_inline))

/* ---- instructions ---------------------------------------------------------------------------- */

typedef struct row { /* of one instruction */
  int64_t n, j;
  const real *a, *b, *g; /* NULL: uniform, A or B */
  real A, B;
  real *to;
} row;

#define PROGRAM(name, n, callable, value, text)                                                    \
  INLINE real one_##name(real a, real b, real g) {                                                 \
    (void)b, (void)g;                                                                              \
    return value;                                                                                  \
  }
#include "../program.def"
#undef PROGRAM

#define ROWS_1(name)                                                                               \
  static void row_##name(const row *r) {                                                           \
    const real *a = r->a;                                                                          \
    real *to = r->to;                                                                              \
    for (int64_t k = 0; k < r->n; k += GROUP) EACH_LANE to[k + l] = one_##name(a[k + l], 0, 0);    \
  }
#define ROWS_2(name)                                                                               \
  static void row_##name(const row *r) {                                                           \
    const real *a = r->a, *b = r->b;                                                               \
    const real A = r->A, B = r->B;                                                                 \
    real *to = r->to;                                                                              \
    for (int64_t k = 0; !a && k < r->n; k += GROUP)                                                \
      EACH_LANE to[k + l] = one_##name(A, b[k + l], 0);                                            \
    for (int64_t k = 0; !b && k < r->n; k += GROUP)                                                \
      EACH_LANE to[k + l] = one_##name(a[k + l], B, 0);                                            \
    for (int64_t k = 0; a && b && k < r->n; k += GROUP)                                            \
      EACH_LANE to[k + l] = one_##name(a[k + l], b[k + l], 0);                                     \
  }
#define ROWS_3(name)                                                                               \
  static void row_##name(const row *r) {                                                           \
    const real *a = r->a, *b = r->b, *g = r->g;                                                    \
    real *to = r->to;                                                                              \
    for (int64_t k = 0; k < r->n; k += GROUP)                                                      \
      EACH_LANE to[k + l] = one_##name(a[k + l], b[k + l], g[k + l]);                              \
  }
#define PROGRAM(name, n, callable, value, text) ROWS_##n(name)
#include "../program.def"
#undef PROGRAM

static void row_j(const row *r) {
  for (int64_t k = 0; k < r->n; k += GROUP) EACH_LANE r->to[k + l] = (real)(r->j + k + 1 + l);
}

static const struct {
  void (*run)(const row *);
  int operands;
} table[] = {
    [ALK_PG_j] = {row_j, 0},
#define PROGRAM(name, n, callable, value, text) [ALK_PG_##name] = {row_##name, n},
#include "../program.def"
#undef PROGRAM
};

static real uniform_value(int op, real a, real b, real g) {
  switch (op) {
#define PROGRAM(name, n, callable, value, text)                                                    \
  case ALK_PG_##name:                                                                              \
    return one_##name(a, b, g);
#include "../program.def"
#undef PROGRAM
  default:
    return 0;
  }
}

/* ---- programs -------------------------------------------------------------------------------- */

static void prelude(program_state *t) {
  const alk_program *p = t->p;
  real *u = t->uniform;
  for (int k = 0; k < p->n_prelude; k++) {
    const alk_instruction *x = &p->prelude[k];
    const int n = table[x->op].operands;
    u[x->to] = uniform_value(x->op, u[x->a - ALK_PROGRAM_UNIFORM],
                             n > 1 ? u[x->b - ALK_PROGRAM_UNIFORM] : 0,
                             n > 2 ? u[x->g - ALK_PROGRAM_UNIFORM] : 0);
  }
}

void ALK_NAME(program_head)(const alk_weight_spec *spec, int64_t h, int64_t H, program_state *t) {
  const alk_program *p = spec->program;
  t->p = p;
  alk_weight_spec bare = *spec;
  bare.n_coefficients = 0;
  t->limits = plan_of(&bare);
  for (int k = 0; k < p->n_uniforms; k++) t->uniform[k] = (real)p->uniform[k];
  const double *scalars = spec->scalars;
  for (int k = 0; k < p->n_scalars; k++) t->uniform[1 + k] = (real)scalars[k * H + h];
  if (!p->reads_i) prelude(t);
}

void ALK_NAME(program_row)(program_state *t, int64_t i) {
  if (!t->p->reads_i) return;
  t->uniform[0] = (real)(i + 1);
  prelude(t);
}

static const real *operand(const program_state *t, uint8_t x, const real *s, real *registers,
                           int64_t n, real *written) {
  if (x < ALK_PROGRAM_UNIFORM) return program_output(x, s, registers);
  if (!written) return NULL;
  const real u = t->uniform[x - ALK_PROGRAM_UNIFORM];
  for (int64_t k = 0; k < n; k += GROUP) EACH_LANE written[k + l] = u;
  return written;
}

static real uniform_of(const program_state *t, uint8_t x) {
  return x < ALK_PROGRAM_UNIFORM ? 0 : t->uniform[x - ALK_PROGRAM_UNIFORM];
}

void ALK_NAME(program_run)(const program_state *t, bool slopes, int64_t j, int64_t n, const real *s,
                           real *registers) {
  const alk_program *p = t->p;
  const int length = slopes ? p->n_code : p->n_value;
  real written[3][LANES];
  for (int k = 0; k < length; k++) {
    const alk_instruction *x = &p->code[k];
    const int operands = table[x->op].operands;
    const bool two = operands == 2;
    row r = {.n = n, .j = j, .to = registers + (x->to - 1) * LANES};
    if (operands > 0) r.a = operand(t, x->a, s, registers, n, two ? NULL : written[0]);
    if (operands > 1) r.b = operand(t, x->b, s, registers, n, two ? NULL : written[1]);
    if (operands > 2) r.g = operand(t, x->g, s, registers, n, written[2]);
    if (two) r.A = uniform_of(t, x->a), r.B = uniform_of(t, x->b);
    table[x->op].run(&r);
  }
}

/* ---- logits ---------------------------------------------------------------------------------- */

/* n entries from p as whole groups, the last one repeated. */
static void load(const real *p, int64_t n, real *x) {
  const int64_t whole = (n + GROUP - 1) / GROUP * GROUP;
  for (int64_t l = 0; l < n; l++) x[l] = p[l];
  for (int64_t l = n; l < whole; l++) x[l] = p[n - 1];
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

alk_status ALK_NAME(program_fwd)(const alk_place *place, const alk_visible *g,
                                 const alk_weight_spec *spec, const void *s, void *y) {
  const int64_t items = g->B * g->H;
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static) if (g->B * g->H * g->T * g->S > PARALLEL)
  for (int64_t n = 0; n < items; n++) {
    real x[LANES], registers[ALK_PROGRAM_REGISTERS * LANES];
    program_state t;
    ALK_NAME(program_head)(spec, n % g->H, g->H, &t);
    for (int64_t i = 0; i < g->T; i++) {
      const alk_range seen = alk_visible_keys(g, n / g->H, i);
      const int64_t at = (n * g->T + i) * g->S;
      ALK_NAME(program_row)(&t, i + g->offset);
      for (int64_t j = seen.from; j < seen.to; j += LANES) {
        const int64_t m = least(LANES, seen.to - j);
        load((const real *)s + at + j, m, x);
        limit_entries(&t.limits, m, x, NULL, x);
        ALK_NAME(program_run)(&t, false, j, m, x, registers);
        memcpy((real *)y + at + j, program_output(t.p->value, x, registers),
               (size_t)m * sizeof(real));
      }
      for (int64_t j = 0; j < seen.from; j++) ((real *)y)[at + j] = 0;
      for (int64_t j = seen.to; j < g->S; j++) ((real *)y)[at + j] = 0;
    }
  }
  return ALK_OK;
}

alk_status ALK_NAME(program_bwd)(const alk_place *place, const alk_visible *g,
                                 const alk_weight_spec *spec, const void *s, const void *dy,
                                 void *ds, void *dscalars) {
  const int64_t items = g->B * g->H;
#pragma omp parallel for num_threads(place->threads)                                               \
    schedule(static) if (g->B * g->H * g->T * g->S > PARALLEL)
  for (int64_t n = 0; n < items; n++) {
    real x[LANES], z[LANES], d[LANES], registers[ALK_PROGRAM_REGISTERS * LANES];
    double sum[ALK_PROGRAM_SCALARS] = {0};
    program_state t;
    ALK_NAME(program_head)(spec, n % g->H, g->H, &t);
    for (int64_t i = 0; i < g->T; i++) {
      const alk_range seen = alk_visible_keys(g, n / g->H, i);
      const int64_t at = (n * g->T + i) * g->S;
      ALK_NAME(program_row)(&t, i + g->offset);
      for (int64_t j = seen.from; j < seen.to; j += LANES) {
        const int64_t m = least(LANES, seen.to - j);
        load((const real *)s + at + j, m, z);
        load((const real *)dy + at + j, m, d);
        limit_entries(&t.limits, m, z, x, z);
        ALK_NAME(program_run)(&t, true, j, m, z, registers);
        for (int k = 0; dscalars && k < t.p->n_scalars; k++)
          sum[k] += program_sum(m, d, program_output(t.p->scalar[k], z, registers));
        slope_entries(&t.limits, m, x, program_output(t.p->slope, z, registers), 1, d);
        if (ds) memcpy((real *)ds + at + j, d, (size_t)m * sizeof(real));
      }
      for (int64_t j = 0; ds && j < seen.from; j++) ((real *)ds)[at + j] = 0;
      for (int64_t j = seen.to; ds && j < g->S; j++) ((real *)ds)[at + j] = 0;
    }
    for (int k = 0; dscalars && k < t.p->n_scalars; k++)
      ((double *)dscalars)[n * t.p->n_scalars + k] = sum[k];
  }
  return ALK_OK;
}
