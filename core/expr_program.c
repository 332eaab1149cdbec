/* expr_program.c: from nodes to a flat program, to numbers in f64 and to C. */
#include "expr.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- programs -------------------------------------------------------------------------------- */

typedef struct compiler {
  const al_expr *e;
  alk_program *p;
  bool live[AL_EXPR_NODES], first[AL_EXPR_NODES]; /* needed at all; needed for the value */
  bool varies[AL_EXPR_NODES];                     /* differs from entry to entry of a row */
  uint8_t at[AL_EXPR_NODES];                      /* operand that holds the node */
  int last[AL_EXPR_NODES];                        /* the instruction that reads it last */
  int order[AL_EXPR_NODES], n_order;              /* nodes with an instruction, as they run */
  int uniforms, registers;                        /* how many would be needed */
  bool used[1 + ALK_PROGRAM_REGISTERS];
} compiler;

/* Instructions of the value stand first. */
static void arrange(compiler *m) {
  const al_expr *e = m->e;
  for (int pass = 0; pass < 2; pass++) {
    for (int n = 0; n < e->n; n++)
      if (m->live[n] && m->varies[n] && e->node[n].op != AL_EXPR_S && m->first[n] == (pass == 0))
        m->order[m->n_order++] = n;
    if (pass == 0) m->p->n_value = m->n_order;
  }
}

static void classify(compiler *m) {
  const al_expr *e = m->e;
  for (int n = 0; n < e->n; n++) {
    const al_expr_node *k = &e->node[n];
    m->varies[n] = k->op == AL_EXPR_S || k->op == ALK_PG_j;
    if (k->op >= AL_EXPR_CONST || k->op == ALK_PG_j) continue;
    const int16_t in[] = {k->a, k->b, k->g};
    for (int i = 0; i < 3; i++) m->varies[n] |= in[i] >= 0 && m->varies[in[i]];
  }
}

static uint8_t operand(const compiler *m, int n) { return n < 0 ? 0 : m->at[n]; }

static alk_instruction instruction(const compiler *m, int n, uint8_t to) {
  const al_expr_node *k = &m->e->node[n];
  return (alk_instruction){k->op, to, operand(m, k->a), operand(m, k->b), operand(m, k->g)};
}

/* Places of uniforms, and the instructions that make them. */
static void uniforms(compiler *m) {
  alk_program *p = m->p;
  m->uniforms = 1 + p->n_scalars;
  for (int pass = 0; pass < 2; pass++) /* constants, then what is made of uniforms */
    for (int n = 0; n < m->e->n; n++) {
      const al_expr_node *k = &m->e->node[n];
      if (!m->live[n] || m->varies[n]) continue;
      int slot = k->op == AL_EXPR_I ? 0 : k->op == AL_EXPR_SCALAR ? 1 + k->a : -1;
      if (slot < 0 && pass != (k->op != AL_EXPR_CONST)) continue;
      if (slot < 0 && (slot = m->uniforms++) >= ALK_PROGRAM_UNIFORMS) continue;
      m->at[n] = (uint8_t)(ALK_PROGRAM_UNIFORM + slot);
      if (k->op == AL_EXPR_I) p->reads_i = true;
      if (k->op == AL_EXPR_CONST) p->uniform[slot] = k->value;
      if (k->op < AL_EXPR_CONST && pass == 1)
        p->prelude[p->n_prelude++] = instruction(m, n, (uint8_t)slot);
    }
  p->n_uniforms = m->uniforms;
}

/* The lowest free register, from 1. */
static uint8_t take(compiler *m) {
  int r = 1;
  while (r <= ALK_PROGRAM_REGISTERS && m->used[r]) r++;
  if (r > m->registers) m->registers = r;
  if (r > ALK_PROGRAM_REGISTERS) return 0;
  m->used[r] = true;
  return (uint8_t)r;
}

static void emit(compiler *m, const int *out, int n_out) {
  const al_expr *e = m->e;
  enum { NEVER = 1 << 30 };
  for (int t = 0; t < m->n_order; t++) {
    const al_expr_node *k = &e->node[m->order[t]];
    const int16_t in[] = {k->a, k->b, k->g};
    for (int i = 0; i < 3 && k->op != ALK_PG_j; i++)
      if (in[i] >= 0) m->last[in[i]] = t;
  }
  for (int i = 0; i < n_out; i++) m->last[out[i]] = NEVER;
  for (int t = 0; t < m->n_order && t < ALK_PROGRAM_LENGTH; t++) {
    const int n = m->order[t];
    const al_expr_node *k = &e->node[n];
    alk_instruction x = {ALK_PG_j, 0, 0, 0, 0};
    m->p->reads_j |= k->op == ALK_PG_j;
    if (k->op != ALK_PG_j) {
      x = instruction(m, n, 0);
      const int16_t in[] = {k->a, k->b, k->g};
      for (int i = 0; i < 3; i++) /* read here for the last time: the result may take its place */
        if (in[i] >= 0 && m->varies[in[i]] && m->last[in[i]] == t) m->used[m->at[in[i]]] = false;
    }
    x.to = m->at[n] = take(m);
    m->p->code[t] = x;
  }
}

/* Register of an output; one that is uniform is spread out. */
static uint8_t output(compiler *m, int n) {
  if (m->varies[n]) return m->at[n];
  const uint8_t to = take(m);
  if (m->n_order < ALK_PROGRAM_LENGTH)
    m->p->code[m->n_order] = (alk_instruction){ALK_PG_copy, to, m->at[n], 0, 0};
  m->n_order++;
  return to;
}

static al_status compile(al_ctx *c, const char *owner, compiler *m, const int *out) {
  alk_program *p = m->p;
  const int n_out = 2 + p->n_scalars;
  al_expr_live(m->e, out, 1, m->first);
  al_expr_live(m->e, out, n_out, m->live);
  classify(m);
  uniforms(m);
  arrange(m);
  emit(m, out, n_out);
  uint8_t *place[AL_EXPR_OUTPUTS] = {&p->value, &p->slope};
  for (int k = 0; k < p->n_scalars; k++) place[2 + k] = &p->scalar[k];
  for (int k = 0; k < n_out; k++) *place[k] = output(m, out[k]);
  /* a value that is uniform is spread out after all else: the forward runs everything, then */
  if (!m->varies[out[0]]) p->n_value = m->n_order;
  p->n_code = m->n_order;
  p->n_registers = 1 + m->registers;
  if (m->n_order > ALK_PROGRAM_LENGTH || m->registers > ALK_PROGRAM_REGISTERS ||
      m->uniforms > ALK_PROGRAM_UNIFORMS)
    return al_fail(c, AL_EVALUE,
                   "%s: with all derivatives %d operations, %d values at once and %d constants are "
                   "needed, of at most %d, %d and %d; a shorter expression expected",
                   owner, m->n_order, m->registers, m->uniforms, ALK_PROGRAM_LENGTH,
                   ALK_PROGRAM_REGISTERS, ALK_PROGRAM_UNIFORMS);
  return AL_OK;
}

al_status al_expr_program(al_ctx *c, const char *owner, al_expr *e, int root, alk_program *p) {
  int out[AL_EXPR_OUTPUTS];
  *p = (alk_program){.n_scalars = e->n_names};
  if (!al_expr_derive(e, root, out))
    return al_fail(c, AL_EVALUE, "%s: at most %d operations with all derivatives expected", owner,
                   AL_EXPR_NODES);
  compiler *m = al_calloc(c, 1, sizeof *m);
  if (!m) return AL_ENOMEM;
  m->e = e;
  m->p = p;
  const al_status st = compile(c, owner, m, out);
  free(m);
  return st;
}

al_status al_program_from(al_ctx *c, const char *owner, const char *text, const char *names,
                          alk_program *p) {
  al_expr *e = al_expr_parse(c, owner, text, names);
  if (!e) return al_error(c);
  const al_status st = al_expr_program(c, owner, e, e->root, p);
  al_expr_free(e);
  return st;
}

/* ---- numbers in f64 -------------------------------------------------------------------------- */

void al_expr_eval(const al_expr *e, double s, double i, double j, const double *scalars,
                  double *out) {
  double v[AL_EXPR_NODES];
  bool live[AL_EXPR_NODES];
  const int n_out = 2 + e->n_names;
  al_expr_live(e, e->out, n_out, live);
  for (int n = 0; n < e->n; n++) {
    const al_expr_node *k = &e->node[n];
    if (!live[n]) continue;
    if (k->op == AL_EXPR_CONST) v[n] = k->value;
    else if (k->op == AL_EXPR_S) v[n] = s;
    else if (k->op == AL_EXPR_I) v[n] = i;
    else if (k->op == ALK_PG_j) v[n] = j;
    else if (k->op == AL_EXPR_SCALAR) v[n] = scalars[k->a];
    else v[n] = al_expr_apply(k->op, v[k->a], k->b < 0 ? 0 : v[k->b], k->g < 0 ? 0 : v[k->g]);
  }
  for (int k = 0; k < n_out; k++) out[k] = v[e->out[k]];
}

/* ---- C --------------------------------------------------------------------------------------- */

static const struct {
  const char *name, *text;
  int operands;
} rows[] = {
    [ALK_PG_j] = {0},
#define PROGRAM(name, n, callable, value, text) [ALK_PG_##name] = {#name, text, n},
#include "../kernels/program.def"
#undef PROGRAM
};

typedef struct text { /* counts on where it is full */
  char *buf;
  size_t n, at;
} text;

static __attribute__((format(printf, 2, 3))) void put(text *t, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  const int k =
      vsnprintf(t->at < t->n ? t->buf + t->at : NULL, t->at < t->n ? t->n - t->at : 0, fmt, ap);
  va_end(ap);
  if (k > 0) t->at += (size_t)k;
}

static void put_node(text *t, const al_expr *e, int n) {
  const al_expr_node *k = &e->node[n];
  if (k->op == AL_EXPR_CONST && isfinite(k->value)) put(t, "(AL_REAL)%.17g", k->value);
  else if (k->op == AL_EXPR_CONST)
    put(t, isnan(k->value) ? "NAN" : k->value > 0 ? "INFINITY" : "-INFINITY");
  else if (k->op == AL_EXPR_S) put(t, "s");
  else if (k->op == AL_EXPR_I) put(t, "i");
  else if (k->op == ALK_PG_j) put(t, "j");
  else if (k->op == AL_EXPR_SCALAR) put(t, "t[%d]", k->a);
  else put(t, "x%d", n);
}

/* A function for each kind of instruction, so that an operand is evaluated once. */
static void put_functions(text *t, const al_expr *e, const bool *live, const char *name) {
  static const char *const parameters[] = {"AL_REAL a", "AL_REAL a, AL_REAL b",
                                           "AL_REAL a, AL_REAL b, AL_REAL g"};
  for (int op = ALK_PG_j + 1; op < ALK_PG_COUNT; op++) {
    bool used = false;
    for (int n = 0; n < e->n; n++) used |= live[n] && e->node[n].op == op;
    if (used)
      put(t, "static inline AL_REAL %s_%s(%s) { return %s; }\n", name, rows[op].name,
          parameters[rows[op].operands - 1], rows[op].text);
  }
}

size_t al_expr_c(const al_expr *e, const char *name, char *buf, size_t n) {
  AL_PLAIN_NUMBERS;
  text t = {buf, n, 0};
  bool live[AL_EXPR_NODES];
  const int n_out = 2 + e->n_names;
  if (n) buf[0] = 0;
  al_expr_live(e, e->out, n_out, live);
  put(&t, "#include <tgmath.h>\n#ifndef AL_REAL\n#define AL_REAL double\n#endif\n");
  put_functions(&t, e, live, name);
  put(&t, "/* y[0] = p, y[1] = dp/ds");
  for (int k = 0; k < e->n_names; k++) put(&t, ", y[%d] = dp/d%s", 2 + k, e->names[k]);
  put(&t, "; t:");
  for (int k = 0; k < e->n_names; k++) put(&t, " %s", e->names[k]);
  put(&t, e->n_names ? " */\n" : " none */\n");
  put(&t, "void %s(AL_REAL s, AL_REAL i, AL_REAL j, const AL_REAL *t, AL_REAL *y) {\n", name);
  put(&t, "  (void)s, (void)i, (void)j, (void)t;\n");
  for (int m = 0; m < e->n; m++) {
    const al_expr_node *k = &e->node[m];
    if (!live[m] || k->op >= AL_EXPR_CONST || k->op == ALK_PG_j) continue;
    put(&t, "  const AL_REAL x%d = %s_%s(", m, name, rows[k->op].name);
    const int16_t in[] = {k->a, k->b, k->g};
    for (int q = 0; q < rows[k->op].operands; q++) {
      if (q) put(&t, ", ");
      put_node(&t, e, in[q]);
    }
    put(&t, ");\n");
  }
  for (int k = 0; k < n_out; k++) {
    put(&t, "  y[%d] = ", k);
    put_node(&t, e, e->out[k]);
    put(&t, ";\n");
  }
  put(&t, "}\n");
  return t.at;
}
