/* check_hidden.c: where the gradient of an output is exactly 0 nothing goes back, whatever the
 * inputs hold: every registered op, every sample.
 *
 * A slice of one input becomes NaN or infinite. Outputs that change by it get the gradient 0, the
 * others their usual one: then every gradient is that of the clean input, number by number, 0 where
 * the poison is. So a token that is hidden, padded or left out of a loss may hold anything.
 */
#include "op_case.h"
#include <math.h>

typedef struct spoiled { /* the first or the last slice of an axis of an input */
  int input, axis;
  bool last;
  double value;
} spoiled;

/* Parameters and states are no tokens: one of their axes is not rows that an op keeps apart. */
static bool of_tokens(const sample_case *k, int i) {
  static const char *const others[] = {"expr_scalars", "state", "norm_state"};
  for (size_t n = 0; n < sizeof others / sizeof *others; n++)
    if (strcmp(row_of(i)->name, others[n]) == 0) return false;
  return k->w[i].kind != '-' && k->w[i].kind != 'i' && k->w[i].n > 0;
}

static bool in_slice(const word *w, const spoiled *s, int64_t i) {
  int64_t inner = 1;
  for (int a = s->axis + 1; a < w->ndim; a++) inner *= w->shape[a];
  return i / inner % w->shape[s->axis] == (s->last ? w->shape[s->axis] - 1 : 0);
}

static double *read(const al_tensor *t) {
  double *v = malloc((size_t)(al_numel(t) + 1) * sizeof *v);
  al_read(t, v, al_numel(t));
  return v;
}

/* Output `which` into y; the gradients of all inputs from `seed`, where given, into g. */
static result run_spoiled(const sample_case *k, al_dtype dtype, int which, const spoiled *s,
                          const double *seed) {
  result r = {0};
  al_tensor *in[MAX_WORDS] = {0}, *out[MAX_OUT] = {0};
  al_seed(c, 5); /* an op that draws a key draws the same one each time */
  for (int i = 0; i < k->n; i++) {
    in[i] = make(k, i, dtype, AS_WRITTEN);
    if (!s || i != s->input) continue;
    double *v = read(in[i]);
    for (int64_t j = 0; j < k->w[i].n; j++)
      if (in_slice(&k->w[i], s, j)) v[j] = s->value;
    al_write(in[i], v, al_numel(in[i]));
    free(v);
  }
  al_opts *o = options(k);
  if (o) al_op_run(c, &op->info, in, k->n, o, out, visible_outputs());
  al_opts_release(o);
  al_tensor *y = out[which];
  if (al_error(c) == AL_OK && al_type(y) <= AL_F32 && al_needs_grad(y)) { /* ORDER dtype */
    r.y = read(y);
    r.n_y = al_numel(y);
    al_tensor *dy =
        seed ? al_tensor_from(c, al_type(y), al_ndim(y), al_shape(y), seed, r.n_y) : NULL;
    if (dy) al_backward(c, y, dy);
    al_release(dy);
    for (int i = 0; i < k->n && seed; i++) {
      if (!in[i] || !al_grad(in[i])) continue;
      double *g = read(al_grad(in[i]));
      r.g = realloc(r.g, (size_t)(r.n_g + k->w[i].n + 1) * sizeof *r.g);
      memcpy(r.g + r.n_g, g, (size_t)k->w[i].n * sizeof *g);
      r.n_g += k->w[i].n;
      free(g);
      al_set_grad(in[i], NULL);
    }
  }
  for (int i = 0; i < MAX_OUT; i++) al_release(out[i]);
  for (int i = 0; i < k->n; i++) al_release(in[i]);
  return r;
}

/* Gradients of the outputs: 0 where y changes. False where it does and stays finite: what is
 * infinite takes part in it, as a weight of 0 say. */
static bool seed_for(const result *clean, const result *dirty, double *seed) {
  for (int64_t i = 0; i < clean->n_y; i++) {
    const bool same = memcmp(&clean->y[i], &dirty->y[i], sizeof *seed) == 0;
    if (!same && isfinite(dirty->y[i])) return false;
    seed[i] = same ? 1 + 0.5 * sin(1.7 * (double)i) : 0;
  }
  return true;
}

static void hold(const sample_case *k, al_dtype dtype, int which, const spoiled *s) {
  result clean = run_spoiled(k, dtype, which, NULL, NULL),
         dirty = run_spoiled(k, dtype, which, s, NULL), want = {0}, got = {0};
  expect_ok();
  double *seed = malloc((size_t)(clean.n_y + 1) * sizeof *seed), square = 0;
  if (clean.n_y && seed_for(&clean, &dirty, seed)) {
    want = run_spoiled(k, dtype, which, NULL, seed);
    got = run_spoiled(k, dtype, which, s, seed);
    expect_ok();
  }
  /* a product of a copy may sum in another order */
  const double rounding = dtype == AL_F64 ? 1e-14 : 1e-6;
  for (int64_t i = 0; i < want.n_g; i++) square += want.g[i] * want.g[i];
  const double limit = rounding * (sqrt(square / (double)(want.n_g + 1)) + 1);
  for (int64_t i = 0; i < want.n_g; i++)
    if (!(fabs(got.g[i] - want.g[i]) <= limit + rounding * fabs(want.g[i])))
      expect(false, "%s: slice %s of axis %d of %s holds %g: gradient %d is %g, clean %g",
             al_dtype_name(dtype), s->last ? "last" : "first", s->axis, row_of(s->input)->name,
             s->value, (int)i, got.g[i], want.g[i]);
  result_free(&clean);
  result_free(&dirty);
  result_free(&want);
  result_free(&got);
  free(seed);
}

static void check_hidden(const sample_case *k) {
  al_set_threads(1);
  if (!op->backward || k->total > LARGE) return;
  const bool weighs = strncmp(op->info.name, "attend", 6) == 0; /* an infinite logit may weigh 0 */
  for (int i = 0; i < k->n; i++)
    for (int n = 0; of_tokens(k, i) && n < 16; n++) { /* batches on axis 0, tokens on axis 1 */
      const spoiled s = {i, n & 1, n & 2, n & 4 ? INFINITY : NAN};
      if (k->w[i].ndim < (s.axis ? 3 : 2) || (n & 4 && (n & 8 || weighs))) continue;
      for (int which = 0, v = 0; op->info.outputs[which].name; which++) {
        if (op->info.outputs[which].flags & AL_OUT_SAVED) continue;
        if (!strstr(op->info.outputs[which].name, "state")) hold(k, n & 8 ? AL_F32 : AL_F64, v, &s);
        v++;
      }
    }
}

FOR_EACH_SAMPLE(hidden)

Suite *suite_check_hidden(void);
Suite *suite_check_hidden(void) {
  Suite *s = suite_create("hidden");
  TCase *t = tcase_create("hidden");
  tcase_set_timeout(t, 300);
  tcase_add_loop_test(t, hidden, 0, al_op_count());
  suite_add_tcase(s, t);
  return s;
}
