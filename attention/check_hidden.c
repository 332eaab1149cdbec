/* check_hidden.c: gradients where something is hidden: padding, later tokens, another batch row.
 *
 * L asks for the outputs of the tokens that are not hidden. Whatever the hidden ones hold, NaN
 * even, the gradient of L is 0 there and the same everywhere else: what is hidden is selected away,
 * and nothing multiplies a gradient of 0 by what it holds. */
#include "check_run.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { HIDDEN_B = 2, HIDDEN_T = 70 };
static const double f64_limit = 1e-12, f32_limit = 1e-5; /* a sum may run in another order */

/* Tokens from `from` on of batch row `row` (-1: of all) are hidden. */
typedef struct hiding {
  const char *what, *when;
  int row;
  int64_t from;
  bool lengths;
} hiding;
static const hiding hidings[] = {
    {"is padding", "what is past the length of row 2 holds", 1, 41, true},
    {"is later than every output that is asked for", "tokens from 42 on hold", -1, 41, false},
    {"is of another batch row", "batch row 2 holds", 1, 0, false},
};
enum { N_HIDINGS = sizeof hidings / sizeof *hidings };

static bool is_hidden(const hiding *h, int64_t b, int64_t t) {
  return (h->row < 0 || b == h->row) && t >= h->from;
}

/* One array a tensor, of those of probe_tensor; NULL: no gradient reached it. */
typedef struct grads {
  double *of[MAX_TENSORS];
} grads;

static void drop(grads *g) {
  for (int i = 0; i < MAX_TENSORS; i++) free(g->of[i]);
}

/* The i-th tensor that has a gradient: inputs, then parameters; NULL past the end. */
static al_tensor *tensor_at(const probe *p, int i, const char **name) {
  static const char *const inputs[] = {"q", "k", "v", "x"};
  static char text[64];
  if (i >= N_IN) {
    const char *own = "";
    al_tensor *t = attn_param_at(p->a, i - N_IN, &own);
    snprintf(text, sizeof text, "parameter %s", own);
    *name = text;
    return t;
  }
  *name = inputs[i];
  return p->in[i];
}

/* Gradients of the output: 0 of what is hidden. */
static al_tensor *seed_for(const probe *p, const hiding *h, const al_tensor *y) {
  const int64_t n = al_numel(y), row = probe_row(p);
  double *v = malloc((size_t)n * sizeof *v + 1);
  for (int64_t i = 0; v && i < n; i++)
    v[i] = is_hidden(h, i / row / p->T, i / row % p->T) ? 0 : sin(1.3 * (double)i + 0.4);
  if (!v) al_fail(p->k->c, AL_ENOMEM, "out of memory (gradients of %lld numbers)", (long long)n);
  al_tensor *t = v ? al_tensor_from(p->k->c, p->dtype, al_ndim(y), al_shape(y), v, n) : NULL;
  free(v);
  return t;
}

/* Gradients of all tensors when the outputs of tokens that are not hidden are asked for. False with
 * the error pending. */
static bool reverse(const probe *p, const hiding *h, grads *g) {
  al_ctx *c = p->k->c;
  const char *name;
  *g = (grads){0};
  for (int i = 0; i < N_IN; i++) al_requires_grad(p->in[i], true);
  al_scope_begin(c);
  al_tensor *y = probe_run(p), *seed = y ? seed_for(p, h, y) : NULL;
  if (seed && al_needs_grad(y)) al_backward(c, y, seed);
  al_scope_end(c, NULL);
  for (int i = 0; i < MAX_TENSORS; i++) {
    al_tensor *t = tensor_at(p, i, &name);
    if (!t) continue;
    g->of[i] = probe_values(al_grad(t));
    al_set_grad(t, NULL);
    if (i < N_IN) al_requires_grad(t, false);
  }
  return al_error(c) == AL_OK;
}

/* What a run found: where a gradient is not 0 and must be, or how far one is from that without
 * poison. */
typedef struct finding {
  int zero_of, worst_of; /* tensors, or -1 */
  int64_t b, t;
  double value, error;
} finding;

static finding compared(const probe *p, const hiding *h, const grads *got, const grads *want) {
  finding f = {.zero_of = -1, .worst_of = -1};
  const char *name;
  for (int i = 0; i < MAX_TENSORS; i++) {
    const al_tensor *t = tensor_at(p, i, &name);
    if (!t || !got->of[i] || !want->of[i]) continue;
    const int64_t n = al_numel(t), row = i < N_IN ? n / (p->B * p->T) : 0;
    double apart = 0, size = 0;
    for (int64_t j = 0; j < n; j++) {
      const int64_t b = row ? j / row / p->T : 0, at = row ? j / row % p->T : 0;
      const bool zero = row && is_hidden(h, b, at);
      if (zero && got->of[i][j] != 0 && f.zero_of < 0)
        f.zero_of = i, f.b = b, f.t = at, f.value = got->of[i][j];
      if (zero) continue;
      const double d = got->of[i][j] - want->of[i][j];
      apart += d * d, size += want->of[i][j] * want->of[i][j];
    }
    const double e = apart == 0 ? 0 : sqrt(apart) / (sqrt(size) + 1e-9);
    if (!(e <= f.error)) f.error = e, f.worst_of = i;
  }
  return f;
}

/* Is what a run found as it must be? False: a row was written. */
static bool report(probe *p, const hiding *h, const finding *f, const char *poison, double limit) {
  const char *type = al_dtype_name(p->dtype), *name;
  if (f->zero_of >= 0) {
    tensor_at(p, f->zero_of, &name);
    check_row(
        p->k, "hidden gradient", p->w->label, type, ATTN_FAIL,
        "the gradient of %s at token %lld of row %lld, which %s, is %.3g%s: it must be 0, as no "
        "output that is asked for depends on it",
        name, (long long)f->t + 1, (long long)f->b + 1, h->what, f->value, poison);
    return false;
  }
  if (f->error <= limit) return true;
  tensor_at(p, f->worst_of, &name);
  attn_check_row *r = check_measured(p->k, "hidden gradient", p->w, p->dtype, f->error, limit);
  check_say(r,
            "the gradient of %s changes%s: select what is hidden away before a gradient of 0 meets "
            "what it holds",
            name, poison);
  return false;
}

/* One way against itself, clean and with every poison. False: a row was written. */
static bool hold(attn_check *k, const way *w, al_dtype dtype, const hiding *h, double *worst) {
  const int64_t T = way_most(k, w, HIDDEN_T);
  const double limit = dtype == AL_F64 ? f64_limit : f32_limit;
  hiding here = *h;
  if (here.from >= T) here.from = T / 2;
  const int32_t lens[] = {(int32_t)T, (int32_t)here.from};
  grads want = {0};
  bool good = true;
  for (int kind = -1; kind < N_POISONS && good; kind++) { /* -1: clean */
    probe p;
    grads got = {0};
    char poison[96] = "";
    if (kind >= 0) snprintf(poison, sizeof poison, " when %s %s", h->when, probe_poison_name(kind));
    good = probe_open(k, &p, w, &k->sizes, dtype, HIDDEN_B, T, 1, h->lengths ? lens : NULL);
    if (good && kind >= 0) probe_poison(&p, kind, here.row, here.from, T);
    if (!good || !reverse(&p, &here, &got)) {
      check_error(k, "hidden gradient", w->label, al_dtype_name(dtype));
      good = false;
    } else {
      const finding f = compared(&p, &here, &got, kind < 0 ? &got : &want);
      good = report(&p, &here, &f, poison, limit);
      if (!(f.error <= *worst)) *worst = f.error;
    }
    if (kind < 0) want = got;
    else drop(&got);
    probe_close(&p);
  }
  drop(&want);
  return good;
}

void check_hidden(attn_check *k) {
  const bool causal = !k->family->claims || k->family->claims(k->opts) & ATTN_CAUSAL;
  for (int i = 0; i < k->n_ways; i++)
    for (int d = 0; d < 2; d++) {
      const way *w = &k->ways[i];
      const al_dtype dtype = d ? AL_F32 : AL_F64;
      double worst = 0;
      bool good = !w->refused && !way_stands(k, w, dtype, "hidden gradient");
      for (int n = 0; n < N_HIDINGS && good; n++) {
        if (hidings[n].lengths ? !way_takes_lengths(k, w) : hidings[n].row < 0 && !causal) continue;
        good = hold(k, w, dtype, &hidings[n], &worst);
      }
      if (!good) continue;
      attn_check_row *r = check_measured(k, "hidden gradient", w, dtype, worst,
                                         dtype == AL_F64 ? f64_limit : f32_limit);
      check_say(r, "0 where a token is hidden, elsewhere as if it held anything else");
    }
}
