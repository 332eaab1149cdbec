/* expr_graph.c: nodes of an expression: equal ones are one, constants fold, and derivatives in
 * reverse: one sweep from the root gives d root / d node for every node, so s and all scalars share
 * what they have in common.
 *
 * At kinks: abs' = 0 at 0, relu' = 0 at 0; min and max follow their first argument where both are
 * equal. Where an argument is cut off, what comes from inside it is selected away: sqrt(relu(s))
 * has derivative 0 for s <= 0. The derivative of a^b by b is 0 where a^b is 0. log(1 + x) is kept
 * as log1p(x), log1p(exp(x)) as softplus(x), exp(x) - 1 as expm1(x): the same functions without
 * overflow and cancellation. A product with the constant 0 is 0.
 */
#include "expr.h"
#include <math.h>
#include <string.h>

/* The functions that program.def takes from the kernels' vmath.h. */
static double vexp(double x) { return exp(x); }
static double vexpm1(double x) { return expm1(x); }
static double vlog(double x) { return log(x); }
static double vlog1p(double x) { return log1p(x); }
static double vsqrt(double x) { return sqrt(x); }
static double vabs(double x) { return fabs(x); }
static double vtanh(double x) { return tanh(x); }
static double vsinh(double x) { return sinh(x); }
static double vcosh(double x) { return cosh(x); }
static double vsin(double x) { return sin(x); }
static double vcos(double x) { return cos(x); }
static double verf(double x) { return erf(x); }
static double vpow(double x, double y) { return pow(x, y); }
static double vsigmoid(double x) { return (x < 0 ? exp(x) : 1) / (1 + exp(-fabs(x))); }
static double vsoftplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }

double al_expr_apply(int op, double a, double b, double g) {
  (void)b, (void)g;
  switch (op) {
#define PROGRAM(name, n, callable, value, text)                                                    \
  case ALK_PG_##name:                                                                              \
    return value;
#include "../kernels/program.def"
#undef PROGRAM
  default:
    return NAN;
  }
}

/* ---- making nodes ---------------------------------------------------------------------------- */

static int intern(al_expr *e, al_expr_node k) {
  uint64_t bits, h = 1469598103934665603u;
  memcpy(&bits, &k.value, sizeof bits);
  const uint64_t part[] = {k.op,          (uint16_t)k.a,     (uint16_t)k.b,
                           (uint16_t)k.g, bits & 0xffffffff, bits >> 32};
  for (int i = 0; i < 6; i++) h = (h ^ part[i]) * 1099511628211u;
  h ^= h >> 29;
  for (uint64_t at = h % AL_EXPR_HASH;; at = (at + 1) % AL_EXPR_HASH) {
    const int m = e->hash[at] - 1;
    if (m < 0) {
      if (e->n == AL_EXPR_NODES) {
        e->full = true;
        return 0;
      }
      e->node[e->n] = k;
      e->hash[at] = (int16_t)(e->n + 1);
      return e->n++;
    }
    const al_expr_node *o = &e->node[m];
    if (o->op == k.op && o->a == k.a && o->b == k.b && o->g == k.g &&
        memcmp(&o->value, &k.value, sizeof k.value) == 0)
      return m;
  }
}

int al_expr_const(al_expr *e, double value) {
  return intern(e, (al_expr_node){AL_EXPR_CONST, -1, -1, -1, value});
}

int al_expr_leaf(al_expr *e, int op, int which) {
  return intern(e, (al_expr_node){(uint8_t)op, (int16_t)which, -1, -1, 0});
}

static int unary(al_expr *e, int op, int a) { return al_expr_make(e, op, a, -1, -1); }
static int binary(al_expr *e, int op, int a, int b) { return al_expr_make(e, op, a, b, -1); }
static bool constant(const al_expr *e, int n) { return n < 0 || e->node[n].op == AL_EXPR_CONST; }

/* What is simpler than the node, or -1. */
static int simpler(al_expr *e, int op, int a, int b) {
  const al_expr_node *x = &e->node[a];
  switch (op) {
  case ALK_PG_neg:
    return x->op == ALK_PG_neg ? x->a : -1;
  case ALK_PG_log:
    return x->op == ALK_PG_add && al_expr_is(e, x->b, 1) ? unary(e, ALK_PG_log1p, x->a) : -1;
  case ALK_PG_log1p:
    return x->op == ALK_PG_exp ? unary(e, ALK_PG_softplus, x->a) : -1;
  case ALK_PG_add:
    if (e->node[b].op == ALK_PG_neg) return binary(e, ALK_PG_sub, a, e->node[b].a);
    if (x->op == ALK_PG_neg) return binary(e, ALK_PG_sub, b, x->a);
    return al_expr_is(e, b, 0) ? a : a == b ? binary(e, ALK_PG_mul, a, al_expr_const(e, 2)) : -1;
  case ALK_PG_sub:
    if (x->op == ALK_PG_exp && al_expr_is(e, b, 1)) return unary(e, ALK_PG_expm1, x->a);
    if (e->node[b].op == ALK_PG_neg) return binary(e, ALK_PG_add, a, e->node[b].a);
    return al_expr_is(e, b, 0) ? a : al_expr_is(e, a, 0) ? unary(e, ALK_PG_neg, b) : -1;
  case ALK_PG_mul:
    if (al_expr_is(e, b, 0) || al_expr_is(e, b, 1)) return al_expr_is(e, b, 0) ? b : a;
    if (al_expr_is(e, b, -1)) return unary(e, ALK_PG_neg, a);
    if (constant(e, b) && x->op == ALK_PG_mul && constant(e, x->b))
      return binary(e, ALK_PG_mul, x->a, binary(e, ALK_PG_mul, x->b, b));
    return -1;
  case ALK_PG_div:
    return al_expr_is(e, b, 1) ? a : al_expr_is(e, a, 0) ? a : -1;
  case ALK_PG_pow:
    return al_expr_is(e, b, 1) ? a : al_expr_is(e, b, 0) ? al_expr_const(e, 1) : -1;
  default:
    return -1;
  }
}

int al_expr_make(al_expr *e, int op, int a, int b, int g) {
  if (e->full) return 0;
  if (constant(e, a) && constant(e, b) && constant(e, g)) {
    const double v = al_expr_apply(op, e->node[a].value, b < 0 ? 0 : e->node[b].value,
                                   g < 0 ? 0 : e->node[g].value);
    return al_expr_const(e, v);
  }
  const bool swaps = op == ALK_PG_add || op == ALK_PG_mul;
  if (swaps && (constant(e, a) || (!constant(e, b) && a > b))) {
    const int t = a;
    a = b, b = t;
  }
  const int y = simpler(e, op, a, b);
  if (y >= 0) return y;
  return intern(e, (al_expr_node){(uint8_t)op, (int16_t)a, (int16_t)b, (int16_t)g, 0});
}

/* ---- derivatives ----------------------------------------------------------------------------- */

/* adjoint[n] += g */
static void flow(al_expr *e, int16_t *adjoint, int n, int g) {
  adjoint[n] = (int16_t)(adjoint[n] < 0 ? g : binary(e, ALK_PG_add, adjoint[n], g));
}

/* d y / d a of the functions of one argument: a node, or -1 for those that select */
static int slope(al_expr *e, int y) {
  const int op = e->node[y].op, a = e->node[y].a, one = al_expr_const(e, 1);
  switch (op) {
  case ALK_PG_neg:
    return al_expr_const(e, -1);
  case ALK_PG_exp:
    return y;
  case ALK_PG_expm1:
    return unary(e, ALK_PG_exp, a);
  case ALK_PG_log:
    return binary(e, ALK_PG_div, one, a);
  case ALK_PG_log1p:
    return binary(e, ALK_PG_div, one, binary(e, ALK_PG_add, a, one));
  case ALK_PG_sqrt:
    return binary(e, ALK_PG_div, al_expr_const(e, 0.5), y);
  case ALK_PG_tanh:
    return binary(e, ALK_PG_sub, one, binary(e, ALK_PG_mul, y, y));
  case ALK_PG_sinh:
    return unary(e, ALK_PG_cosh, a);
  case ALK_PG_cosh:
    return unary(e, ALK_PG_sinh, a);
  case ALK_PG_sin:
    return unary(e, ALK_PG_cos, a);
  case ALK_PG_cos:
    return unary(e, ALK_PG_neg, unary(e, ALK_PG_sin, a));
  case ALK_PG_erf: /* 2 / sqrt(pi) e^(-a^2) */
    return binary(e, ALK_PG_mul,
                  unary(e, ALK_PG_exp, unary(e, ALK_PG_neg, binary(e, ALK_PG_mul, a, a))),
                  al_expr_const(e, 1.12837916709551257390));
  case ALK_PG_sigmoid:
    return binary(e, ALK_PG_mul, y, binary(e, ALK_PG_sub, one, y));
  case ALK_PG_softplus:
    return unary(e, ALK_PG_sigmoid, a);
  default:
    return -1;
  }
}

static void power(al_expr *e, int16_t *adjoint, int y, int g) {
  const int a = e->node[y].a, b = e->node[y].b;
  const int less = binary(e, ALK_PG_pow, a, binary(e, ALK_PG_sub, b, al_expr_const(e, 1)));
  flow(e, adjoint, a, binary(e, ALK_PG_mul, g, binary(e, ALK_PG_mul, less, b)));
  if (constant(e, b)) return;
  flow(e, adjoint, b,
       binary(e, ALK_PG_mul, g, binary(e, ALK_PG_zeromul, y, unary(e, ALK_PG_log, a))));
}

/* Hands the gradient g of node y on to its operands. */
static void spread(al_expr *e, int16_t *adjoint, int y, int g) {
  const int op = e->node[y].op, a = e->node[y].a, b = e->node[y].b;
  switch (op) {
  case ALK_PG_relu:
    flow(e, adjoint, a, binary(e, ALK_PG_gate, a, g));
    return;
  case ALK_PG_abs:
    flow(e, adjoint, a, binary(e, ALK_PG_signed, a, g));
    return;
  case ALK_PG_add:
  case ALK_PG_sub:
    flow(e, adjoint, a, g);
    flow(e, adjoint, b, op == ALK_PG_add ? g : unary(e, ALK_PG_neg, g));
    return;
  case ALK_PG_mul:
    flow(e, adjoint, a, binary(e, ALK_PG_mul, g, b));
    flow(e, adjoint, b, binary(e, ALK_PG_mul, g, a));
    return;
  case ALK_PG_div:
    flow(e, adjoint, a, binary(e, ALK_PG_div, g, b));
    if (!constant(e, b))
      flow(e, adjoint, b,
           unary(e, ALK_PG_neg, binary(e, ALK_PG_div, binary(e, ALK_PG_mul, g, y), b)));
    return;
  case ALK_PG_pow:
    power(e, adjoint, y, g);
    return;
  case ALK_PG_min:
    flow(e, adjoint, a, al_expr_make(e, ALK_PG_keep, b, a, g));
    flow(e, adjoint, b, al_expr_make(e, ALK_PG_drop, b, a, g));
    return;
  case ALK_PG_max:
    flow(e, adjoint, a, al_expr_make(e, ALK_PG_keep, a, b, g));
    flow(e, adjoint, b, al_expr_make(e, ALK_PG_drop, a, b, g));
    return;
  default:
    flow(e, adjoint, a, binary(e, ALK_PG_mul, g, slope(e, y)));
  }
}

void al_expr_live(const al_expr *e, const int *out, int n_out, bool *live) {
  memset(live, 0, (size_t)e->n * sizeof *live);
  for (int i = 0; i < n_out; i++) live[out[i]] = true;
  for (int n = e->n - 1; n >= 0; n--) {
    const al_expr_node *k = &e->node[n];
    if (!live[n] || k->op >= AL_EXPR_CONST) continue;
    const int16_t in[] = {k->a, k->b, k->g};
    for (int i = 0; i < 3; i++)
      if (in[i] >= 0) live[in[i]] = true;
  }
}

/* a^n by squaring, n >= 1 */
static int products(al_expr *e, int a, int n) {
  int y = -1;
  for (;; n /= 2) {
    if (n & 1) y = y < 0 ? a : binary(e, ALK_PG_mul, y, a);
    if (n <= 1) return y;
    a = binary(e, ALK_PG_mul, a, a);
  }
}

/* Powers with short exponents become products and roots. */
static int lower(al_expr *e, int op, int a, int b, int g) {
  enum { LONGEST = 32 };
  if (op != ALK_PG_pow || !constant(e, b)) return al_expr_make(e, op, a, b, g);
  const double n = e->node[b].value;
  const int one = al_expr_const(e, 1);
  if (fabs(n) == 0.5) {
    const int root = unary(e, ALK_PG_sqrt, a);
    return n > 0 ? root : binary(e, ALK_PG_div, one, root);
  }
  if (n != floor(n) || fabs(n) > LONGEST) return binary(e, op, a, b);
  const int y = products(e, a, (int)fabs(n));
  return n > 0 ? y : binary(e, ALK_PG_div, one, y);
}

bool al_expr_derive(al_expr *e, int root, int *out) {
  int16_t adjoint[AL_EXPR_NODES], map[AL_EXPR_NODES];
  bool live[AL_EXPR_NODES], varies[AL_EXPR_NODES];
  const int n = root + 1, n_out = 2 + e->n_names;
  al_expr_live(e, &root, 1, live);
  for (int k = 0; k < n; k++) {
    const al_expr_node *x = &e->node[k];
    adjoint[k] = -1;
    varies[k] = x->op == AL_EXPR_S || x->op == AL_EXPR_SCALAR;
    if (x->op >= AL_EXPR_CONST || x->op == ALK_PG_j) continue;
    varies[k] = varies[x->a] || (x->b >= 0 && varies[x->b]);
  }
  adjoint[root] = (int16_t)al_expr_const(e, 1);
  for (int k = root; k >= 0; k--)
    if (live[k] && varies[k] && adjoint[k] >= 0 && e->node[k].op < AL_EXPR_CONST)
      spread(e, adjoint, k, adjoint[k]);
  const int zero = al_expr_const(e, 0);
  for (int k = 0; k < n_out; k++) out[k] = k ? zero : root;
  for (int k = 0; k < n; k++) {
    const al_expr_node *x = &e->node[k];
    if (adjoint[k] < 0 || !live[k]) continue;
    if (x->op == AL_EXPR_S) out[1] = adjoint[k];
    if (x->op == AL_EXPR_SCALAR) out[2 + x->a] = adjoint[k];
  }
  const int last = e->n;
  al_expr_live(e, out, n_out, live);
  for (int k = 0; k < last && !e->full; k++) {
    const al_expr_node x = e->node[k];
    map[k] = (int16_t)k;
    if (!live[k] || x.op >= AL_EXPR_CONST || x.op == ALK_PG_j) continue;
    map[k] = (int16_t)lower(e, x.op, map[x.a], x.b < 0 ? -1 : map[x.b], x.g < 0 ? -1 : map[x.g]);
  }
  for (int k = 0; k < n_out && !e->full; k++) out[k] = map[out[k]];
  return !e->full;
}

/* ---- sign ------------------------------------------------------------------------------------ */

bool al_expr_positive(const al_expr *e) {
  bool plus[AL_EXPR_NODES];
  for (int n = 0; n <= e->root; n++) {
    const al_expr_node *k = &e->node[n];
    const bool a = k->a >= 0 && k->op < AL_EXPR_CONST && plus[k->a], b = k->b >= 0 && plus[k->b];
    switch (k->op) {
    case AL_EXPR_CONST:
      plus[n] = k->value >= 0;
      break;
    case ALK_PG_exp:
    case ALK_PG_abs:
    case ALK_PG_relu:
    case ALK_PG_sqrt:
    case ALK_PG_cosh:
    case ALK_PG_sigmoid:
    case ALK_PG_softplus:
    case ALK_PG_j:
    case AL_EXPR_I:
      plus[n] = true;
      break;
    case ALK_PG_add:
    case ALK_PG_div:
    case ALK_PG_min:
      plus[n] = a && b;
      break;
    case ALK_PG_mul:
      plus[n] = (a && b) || k->a == k->b;
      break;
    case ALK_PG_max:
      plus[n] = a || b;
      break;
    case ALK_PG_pow: /* an even power of anything */
      plus[n] = a || (constant(e, k->b) && fmod(e->node[k->b].value, 2) == 0);
      break;
    default: /* odd functions of what is not below 0 */
      plus[n] = a && (k->op == ALK_PG_expm1 || k->op == ALK_PG_log1p || k->op == ALK_PG_tanh ||
                      k->op == ALK_PG_sinh || k->op == ALK_PG_erf);
    }
  }
  return plus[e->root];
}
