/* check_ops.c: every registered op, every sample, one driver.
 *
 * The f64 kernel is the truth once central differences agree with its backward; f32, other layouts
 * and other thread counts are compared with it. Errors are ratios of root mean squares. An op
 * without samples fails. What is exempt from the gradient check is printed, counted, and listed in
 * `exemptions`, so that the list cannot grow unseen.
 */
#include "../core/op.h"
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "op sample-number", or "op *" for an op without a gradient; sorted. */
static const char *const exemptions[] = {
    "cast 2", "cast 3",          "cast 4",        "round_bf16 0", "round_bf16 1",
    "sign *", "visible_count *", "visible_max *", "weights 17",
};
enum { N_EXEMPT = sizeof exemptions / sizeof exemptions[0] };

enum { MAX_WORDS = 16, MAX_OUT = 8 };
enum { LARGE = 2000 }; /* elements above which differences and failing allocations take too long */
/* How inputs lie in memory. AS_WRITTEN: PACKED, or SWAPPED where the sample has a 't'. SWAPPED:
 * last two axes exchanged. SPREAD: every second element of a larger storage whose gaps hold NaN. */
typedef enum layout { AS_WRITTEN, PACKED, SWAPPED, SPREAD } layout;
/* How the gradient of the output lies: weights spread over a larger storage; ones, packed or a
 * single one that repeats with strides of 0, as the gradient of a sum may. */
typedef enum seeding { WEIGHTS, ONES, REPEATED } seeding;

typedef struct word { /* one input of a sample */
  char kind;          /* f float, i integer, p positive, - absent */
  bool swapped;
  int ndim;
  int64_t shape[AL_MAX_DIMS], n;
  int below;
} word;

typedef struct sample_case {
  const al_sample *sample;
  int n;
  int64_t total; /* elements of all inputs */
  word w[MAX_WORDS];
} sample_case;

static al_ctx *c;
static const al_op *op; /* of the running test */
static int sample_index;

static const char *where(void) {
  static char text[300];
  const al_sample *s = &op->samples[sample_index];
  snprintf(text, sizeof text, "%s, sample %d: %s {%s}", op->info.name, sample_index, s->inputs,
           s->args ? s->args : "");
  return text;
}

#define expect(cond, ...)                                                                          \
  do {                                                                                             \
    char expect_text[2048];                                                                        \
    snprintf(expect_text, sizeof expect_text, __VA_ARGS__);                                        \
    ck_assert_msg(cond, "%s: %s", where(), expect_text);                                           \
  } while (0)
#define expect_ok() expect(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL))

static int count_rows(const al_row *r) {
  int n = 0;
  while (r[n].name) n++;
  return n;
}

static const al_row *row_of(int i) {
  const int n = count_rows(op->info.inputs);
  return &op->info.inputs[i < n ? i : n - 1];
}

/* ---- samples ---- */

static sample_case parse(const al_sample *s) {
  sample_case k = {.sample = s};
  for (const char *p = s->inputs; *p;) {
    expect(k.n < MAX_WORDS, "more than %d inputs", MAX_WORDS);
    word *w = &k.w[k.n++];
    *w = (word){.kind = 'f', .n = 1};
    if (*p == '-') {
      *w = (word){.kind = '-'};
      p += 1 + strspn(p + 1, " ");
      continue;
    }
    if (*p == 'i' || *p == 'p') w->kind = *p++;
    expect(*p == '(', "'(' expected in the sample, got '%s'", p);
    for (p++; *p != ')';) {
      char *end;
      expect(w->ndim < AL_MAX_DIMS, "too many axes in the sample");
      w->shape[w->ndim] = strtoll(p, &end, 10);
      expect(end != p && (*end == ',' || *end == ')'), "a size expected in the sample: '%s'", p);
      w->n *= w->shape[w->ndim++];
      p = *end == ',' ? end + 1 : end;
    }
    p++;
    if (*p == 't') w->swapped = w->ndim >= 2, p++;
    if (*p == '<') {
      char *end;
      w->below = (int)strtol(p + 1, &end, 10);
      p = end;
    }
    expect(w->kind != 'i' || w->below > 0, "an integer input needs <n");
    expect(*p == ' ' || !*p, "a space expected in the sample, got '%s'", p);
    p += strspn(p, " ");
    k.total += w->n;
  }
  return k;
}

/* Element i of input number `input`, exact in f32, the same in every layout and dtype. */
static double value(const sample_case *k, int input, int64_t i) {
  const word *w = &k->w[input];
  uint64_t z = (uint64_t)(input + 1) * 0x9E3779B97F4A7C15u + (uint64_t)i * 0xD1B54A32D192ED03u;
  double u[2];
  for (int j = 0; j < 2; j++) { /* splitmix64's mixer */
    z += 0x9E3779B97F4A7C15u;
    uint64_t x = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    u[j] = (double)((x ^ (x >> 31)) >> 11) / 9007199254740992.0;
  }
  if (w->kind == 'i') return floor(u[0] * w->below);
  if (w->kind == 'p') return (float)(0.5 + u[0]);
  const al_sample *s = k->sample;
  if (s->lo != 0 || s->hi != 0) return (float)(s->lo + (s->hi - s->lo) * u[0]);
  return (float)(sqrt(-2 * log(1 - u[0])) * cos(6.283185307179586 * u[1]));
}

/* Input i as a leaf in a layout; NULL where absent. */
static al_tensor *make(const sample_case *k, int i, al_dtype dtype, layout l) {
  const word *w = &k->w[i];
  if (w->kind == '-') return NULL;
  const al_dtype dt = w->kind == 'i' ? AL_I32 : dtype;
  const bool swap = w->ndim >= 2 && (l == SWAPPED || (l == AS_WRITTEN && w->swapped));
  const int64_t gap = l == SPREAD ? 2 : 1;
  int64_t stored[AL_MAX_DIMS], stride[AL_MAX_DIMS], run = gap;
  memcpy(stored, w->shape, sizeof stored);
  if (swap)
    stored[w->ndim - 1] = w->shape[w->ndim - 2], stored[w->ndim - 2] = w->shape[w->ndim - 1];
  for (int a = w->ndim - 1; a >= 0; a--) stride[a] = run, run *= stored[a];
  if (swap) {
    const int64_t s = stride[w->ndim - 1];
    stride[w->ndim - 1] = stride[w->ndim - 2], stride[w->ndim - 2] = s;
  }
  al_tensor *base =
      al_tensor_full(c, dt, 1, (const int64_t[]){gap * w->n + 1}, dt == AL_I32 ? -1 : NAN);
  al_tensor *t = base ? al_tensor_view(c, base, w->ndim, w->shape, stride, gap - 1) : NULL;
  double *v = malloc((size_t)(w->n + 1) * sizeof *v);
  for (int64_t j = 0; j < w->n; j++) v[j] = value(k, i, j);
  if (t) al_write(t, v, w->n);
  free(v);
  al_release(base);
  if (t && !(row_of(i)->flags & AL_IN_NODIFF)) al_requires_grad(t, true);
  return t;
}

static al_opts *options(const sample_case *k) {
  al_opts *o = al_opts_new(c, op->info.args, op->info.name);
  if (o && k->sample->args) al_opts_parse(c, o, k->sample->args);
  return o;
}

static int visible_outputs(void) {
  int n = 0;
  for (const al_row *r = op->info.outputs; r->name; r++) n += !(r->flags & AL_OUT_SAVED);
  return n;
}

/* ---- one run: forward, backward from output `which`, all numbers read back ---- */

typedef struct result {
  int64_t n_y, n_g; /* all outputs in a row; the gradients of all inputs in a row */
  double *y, *g;
  bool graded;
} result;

static void result_free(result *r) {
  free(r->y);
  free(r->g);
}

static void append(double **all, int64_t *n, const al_tensor *t) {
  const int64_t more = al_numel(t);
  *all = realloc(*all, (size_t)(*n + more + 1) * sizeof **all);
  if (al_read(t, *all + *n, more) == AL_OK) *n += more;
}

static al_tensor *seed_like(const al_tensor *y, seeding seed) {
  int64_t stride[AL_MAX_DIMS], run = seed == WEIGHTS ? 2 : 1;
  for (int a = al_ndim(y) - 1; a >= 0; a--) {
    stride[a] = seed == REPEATED ? 0 : run;
    run *= al_size(y, a);
  }
  const double fill = seed == WEIGHTS ? NAN : 1;
  al_tensor *base = al_tensor_full(c, al_type(y), 1, (const int64_t[]){run + 1}, fill);
  al_tensor *t = base ? al_tensor_view(c, base, al_ndim(y), al_shape(y), stride, 0) : NULL;
  al_release(base);
  if (!t || seed != WEIGHTS) return t;
  double *v = malloc((size_t)(run + 1) * sizeof *v);
  for (int64_t i = 0; i < run / 2; i++) v[i] = (float)(1 + 0.5 * sin(1.7 * (double)i + 0.3));
  al_write(t, v, run / 2);
  free(v);
  return t;
}

/* On failure the error is left pending; nothing is kept in any case. */
static result run(const sample_case *k, al_dtype dtype, layout l, int which, seeding how) {
  result r = {0};
  al_tensor *in[MAX_WORDS] = {0}, *out[MAX_OUT] = {0};
  const int n_out = visible_outputs();
  al_seed(c, 5); /* an op that draws a key draws the same one each time */
  for (int i = 0; i < k->n; i++) in[i] = make(k, i, dtype, l);
  al_opts *o = options(k);
  if (o) al_op_run(c, &op->info, in, k->n, o, out, n_out);
  if (al_error(c) == AL_OK) {
    for (int i = 0; i < n_out; i++) append(&r.y, &r.n_y, out[i]);
    if (al_type(out[which]) <= AL_F32 && al_needs_grad(out[which])) { /* ORDER dtype */
      al_tensor *seed = seed_like(out[which], how);
      if (seed) al_backward(c, out[which], seed);
      al_release(seed);
      r.graded = true;
      for (int i = 0; i < k->n; i++)
        if (in[i] && al_grad(in[i])) append(&r.g, &r.n_g, al_grad(in[i]));
    }
  }
  for (int i = 0; i < n_out; i++) al_release(out[i]);
  for (int i = 0; i < k->n; i++) {
    if (in[i]) al_set_grad(in[i], NULL);
    al_release(in[i]);
  }
  al_opts_release(o);
  return r;
}

/* rms(a - b) / rms(b); equal infinities count as equal. */
static double ratio(int64_t n, const double *a, const double *b) {
  double d = 0, s = 0;
  for (int64_t i = 0; i < n; i++) {
    if (a[i] == b[i] && !isfinite(b[i])) continue;
    d += (a[i] - b[i]) * (a[i] - b[i]);
    s += b[i] * b[i];
  }
  if (d == 0) return 0;
  return s > 0 ? sqrt(d / s) : INFINITY;
}

static void expect_close(const result *a, const result *b, double limit_y, double limit_g,
                         const char *what) {
  expect(a->n_y == b->n_y && a->n_g == b->n_g && a->graded == b->graded, "%s: other sizes", what);
  const double y = ratio(a->n_y, a->y, b->y), g = ratio(a->n_g, a->g, b->g);
  expect(y <= limit_y, "%s: output differs by %.3g, at most %.1g allowed", what, y, limit_y);
  expect(g <= limit_g, "%s: gradient differs by %.3g, at most %.1g allowed", what, g, limit_g);
}

static void each_sample(int op_index, void (*check)(const sample_case *k)) {
  int n;
  op = al_op_table(&n)[op_index];
  sample_index = 0;
  ck_assert_msg(op->samples && op->samples[0].inputs, "%s: an op needs samples", op->info.name);
  c = al_ctx_new();
  for (; op->samples[sample_index].inputs; sample_index++) {
    const sample_case k = parse(&op->samples[sample_index]);
    check(&k);
    al_error_clear(c);
  }
  al_ctx_free(c);
}

/* ---- what holds for a sample ---- */

typedef struct probe {
  const sample_case *k;
  int which; /* output */
} probe;

/* in[i] has the stored shape; an op that gradients flow through swaps what the sample swaps. */
static al_tensor *probed(al_ctx *ctx, al_tensor *const *in, int n, void *user) {
  const probe *p = user;
  al_tensor *x[MAX_WORDS], *out[MAX_OUT] = {0};
  for (int i = 0; i < n; i++)
    x[i] = p->k->w[i].swapped ? al_run(ctx, "transpose", AL_IN(in[i]), "") : in[i];
  al_seed(ctx, 5);
  al_opts *o = options(p->k);
  if (o) al_op_run(ctx, &op->info, x, n, o, out, visible_outputs());
  al_opts_release(o);
  return out[p->which];
}

static void check_gradient(const sample_case *k) {
  if (!op->backward || k->sample->exempt || k->total > LARGE) return;
  sample_case stored = *k;
  al_tensor *in[MAX_WORDS] = {0};
  bool any = false;
  for (int i = 0; i < k->n; i++) {
    word *w = &stored.w[i];
    const int64_t last = w->swapped ? w->shape[w->ndim - 1] : 0;
    if (w->swapped) w->shape[w->ndim - 1] = w->shape[w->ndim - 2], w->shape[w->ndim - 2] = last;
    w->swapped = false;
    in[i] = make(&stored, i, AL_F64, AS_WRITTEN);
    any |= in[i] && al_needs_grad(in[i]);
  }
  for (int which = 0; any && which < visible_outputs(); which++) {
    double worst;
    /* errors of the difference: step^2/6 times the third derivative, 1e-16 |f| / step */
    al_gradcheck(c, probed, in, k->n, &(probe){k, which}, 1e-5, &worst);
    expect_ok();
    expect(worst <= 1e-6, "gradient differs from central differences by %.3g", worst);
  }
  for (int i = 0; i < k->n; i++) {
    if (in[i]) al_set_grad(in[i], NULL);
    al_release(in[i]);
  }
}

/* Outputs complete, no leak; the same numbers in other layouts, types, threads, and the same bits
 * when a run is repeated. */
static void check_values(const sample_case *k) {
  static const struct {
    const char *what;
    al_dtype dtype;
    layout layout;
    int threads;
    double limit_y, limit_g; /* f32: a sum of a hundred terms keeps 1e-6 */
  } variants[] = {{"repeated", AL_F64, AS_WRITTEN, 2, 0, 0},
                  {"packed", AL_F64, PACKED, 2, 1e-13, 1e-13},
                  {"axes swapped in memory", AL_F64, SWAPPED, 2, 1e-13, 1e-13},
                  {"spread in memory", AL_F64, SPREAD, 2, 1e-13, 1e-13},
                  {"one thread", AL_F64, AS_WRITTEN, 1, 1e-13, 1e-13},
                  {"three threads", AL_F64, AS_WRITTEN, 3, 1e-13, 1e-13},
                  {"f32", AL_F32, AS_WRITTEN, 2, 2e-6, 4e-6},
                  {"f32, spread in memory", AL_F32, SPREAD, 3, 2e-6, 4e-6}};
  for (int which = 0; which < visible_outputs(); which++) {
    const int64_t live = al_memory(c).live;
    al_memory_poison(c, true);
    result truth = run(k, AL_F64, AS_WRITTEN, which, WEIGHTS);
    expect_ok();
    expect(al_memory(c).live == live, "%lld bytes leaked", (long long)(al_memory(c).live - live));
    for (int64_t i = 0; i < truth.n_y; i++)
      if (!isfinite(truth.y[i])) expect(false, "y[%d] = %g", (int)i, truth.y[i]);
    for (int64_t i = 0; i < truth.n_g; i++)
      if (!isfinite(truth.g[i])) expect(false, "dx[%d] = %g", (int)i, truth.g[i]);
    al_memory_poison(c, false);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
      al_set_threads(variants[i].threads);
      result r = run(k, variants[i].dtype, variants[i].layout, which, WEIGHTS);
      expect_ok();
      expect_close(&r, &truth, variants[i].limit_y, variants[i].limit_g, variants[i].what);
      result twin = run(k, variants[i].dtype, variants[i].layout, which, WEIGHTS);
      expect_close(&twin, &r, 0, 0, "run twice");
      result_free(&twin);
      result_free(&r);
    }
    result_free(&truth);
    result ones = run(k, AL_F64, AS_WRITTEN, which, ONES);
    result repeated = run(k, AL_F64, AS_WRITTEN, which, REPEATED);
    expect_ok();
    expect_close(&repeated, &ones, 0, 1e-13, "gradient with strides of 0");
    result_free(&repeated);
    result_free(&ones);
  }
}

/* What .shape promises is what forward makes; views make their outputs themselves. */
static void check_shapes(const sample_case *k) {
  al_tensor *in[MAX_WORDS] = {0}, *out[MAX_OUT] = {0};
  al_meta in_meta[MAX_WORDS] = {0}, out_meta[MAX_OUT] = {0};
  for (int i = 0; i < k->n; i++)
    if ((in[i] = make(k, i, AL_F64, AS_WRITTEN))) {
      in_meta[i] = (al_meta){.dtype = al_type(in[i]), .ndim = al_ndim(in[i])};
      memcpy(in_meta[i].shape, al_shape(in[i]), sizeof in_meta[i].shape);
    }
  al_opts *o = options(k);
  const int n_rows = count_rows(op->info.inputs);
  al_call call = {.op = op,
                  .opts = o,
                  .n_in = k->n > n_rows ? k->n : n_rows,
                  .n_out = count_rows(op->info.outputs),
                  .in = in,
                  .in_meta = in_meta,
                  .out_meta = out_meta};
  op->shape(c, &call);
  al_op_run(c, &op->info, in, k->n, o, out, visible_outputs());
  expect_ok();
  for (int i = 0, v = 0; i < call.n_out; i++) {
    if (op->info.outputs[i].flags & AL_OUT_SAVED) continue;
    const al_tensor *y = out[v++];
    const al_meta *m = &out_meta[i];
    expect(al_type(y) == m->dtype, "output %d: %s promised, got %s", i, al_dtype_name(m->dtype),
           al_dtype_name(al_type(y)));
    bool same = al_ndim(y) == m->ndim;
    for (int a = 0; same && a < m->ndim; a++) same = al_size(y, a) == m->shape[a];
    expect(same, "output %d: %s promised, got %s", i, al_meta_str(m, (char[96]){0}, 96), AL_STR(y));
  }
  for (int i = 0; i < MAX_OUT; i++) al_release(out[i]);
  for (int i = 0; i < k->n; i++) al_release(in[i]);
  al_opts_release(o);
}

/* Every allocation of a run fails once: an error is set, nothing is kept, the next run works. */
static void check_allocations(const sample_case *k) {
  if (k->total > LARGE) return;
  const int64_t live = al_memory(c).live;
  int n = 1;
  for (; n < 1000; n++) {
    al_memory_fail_at(c, n);
    result r = run(k, AL_F32, AS_WRITTEN, 0, WEIGHTS);
    al_memory_fail_at(c, 0);
    const al_status st = al_error(c);
    result_free(&r);
    expect(al_memory(c).live == live, "allocation %d fails: %lld bytes leaked", n,
           (long long)(al_memory(c).live - live));
    if (st == AL_OK) break;
    expect(st == AL_ENOMEM, "allocation %d fails: %s", n, al_error_message(c, NULL, NULL));
    al_error_clear(c);
  }
  expect(n > 3 && n < 1000, "%d allocations failed", n - 1);
}

/* ---- refusals ---- */

/* The pending error begins with the op's name, and names `arg` (any input or option when NULL). */
static void expect_refusal(const char *arg, const char *what) {
  char text[1024], begin[64], named[64];
  expect(al_error(c) != AL_OK, "%s: accepted", what);
  snprintf(text, sizeof text, "%s", al_error_message(c, NULL, NULL));
  snprintf(begin, sizeof begin, "%s: ", op->info.name);
  expect(strncmp(text, begin, strlen(begin)) == 0, "%s: message must begin with the op: %s", what,
         text);
  bool found = !arg && strstr(text, "option '");
  for (const al_row *r = op->info.inputs; r->name; r++) {
    snprintf(named, sizeof named, ": %s: ", r->name);
    if (!arg || strcmp(arg, r->name) == 0) found |= strstr(text, named) != NULL;
  }
  expect(found, "%s: message must name the argument%s%s: %s", what, arg ? " " : "", arg ? arg : "",
         text);
  al_error_clear(c);
}

/* Runs the op with input i replaced by t (taken); true when it was accepted. */
static bool accepts(const sample_case *k, int i, al_tensor *t) {
  al_tensor *in[MAX_WORDS] = {0}, *out[MAX_OUT] = {0};
  for (int j = 0; j < k->n; j++) in[j] = j == i ? t : make(k, j, AL_F64, AS_WRITTEN);
  al_opts *o = options(k);
  al_op_run(c, &op->info, in, k->n, o, out, visible_outputs());
  al_opts_release(o);
  for (int j = 0; j < MAX_OUT; j++) al_release(out[j]);
  for (int j = 0; j < k->n; j++) al_release(in[j]);
  return al_error(c) == AL_OK;
}

static void check_wrong_types(const sample_case *k) {
  int floats = 0, seen = 0;
  for (int i = 0; i < k->n; i++)
    floats += k->w[i].kind != '-' && !(row_of(i)->flags & (AL_IN_ANY | AL_IN_I32));
  for (int i = 0; i < k->n; i++) {
    const word *w = &k->w[i];
    if (w->kind == '-' || row_of(i)->flags & AL_IN_ANY) continue;
    const bool ids = row_of(i)->flags & AL_IN_I32;
    for (al_dtype t = AL_F64; t <= AL_I32; t++) {
      /* an f32 among f64 is refused where the second of them stands */
      if (ids ? t == AL_I32 : t == AL_F64 || (t == AL_F32 && (floats == 1 || seen == 0))) continue;
      if (!accepts(k, i, al_tensor_full(c, t, w->ndim, w->shape, 0)))
        expect(al_error(c) == AL_ETYPE, "not a type error: %s", al_error_message(c, NULL, NULL));
      expect_refusal(row_of(i)->name, al_dtype_name(t));
    }
    seen += !ids;
  }
  for (int i = 0; i < k->n; i++)
    if (!(row_of(i)->flags & AL_IN_OPTIONAL)) {
      accepts(k, i, NULL);
      expect_refusal(row_of(i)->name, "missing input");
    }
}

static void check_wrong_shapes(const sample_case *k) {
  static const struct {
    int ndim;
    int64_t shape[AL_MAX_DIMS];
  } odd[] = {{0, {0}},
             {1, {13}},
             {2, {13, 17}},
             {3, {3, 13, 17}},
             {2, {0, 13}},
             {4, {2, 3, 13, 17}},
             {8, {1, 1, 1, 1, 1, 1, 13, 17}}};
  int refused = 0, present = 0;
  if (k->total > LARGE) return;
  for (int i = 0; i < k->n; i++) {
    if (k->w[i].kind == '-') continue;
    present++;
    for (size_t s = 0; s < sizeof odd / sizeof odd[0]; s++) {
      const al_dtype t = k->w[i].kind == 'i' ? AL_I32 : AL_F64;
      if (accepts(k, i, al_tensor_full(c, t, odd[s].ndim, odd[s].shape, 1))) continue;
      expect(al_error(c) == AL_ESHAPE || al_error(c) == AL_EVALUE, "%s",
             al_error_message(c, NULL, NULL));
      expect_refusal(NULL, "odd shape");
      refused++;
    }
  }
  expect(present < 2 || refused > 0, "no wrong shape was refused");
}

/* Inputs whose first axis is empty: a result or a proper refusal, never a crash or a leak. */
static void check_empty(const sample_case *k) {
  sample_case e = *k;
  for (int i = 0; i < k->n; i++)
    if (e.w[i].ndim > 0) e.w[i].shape[0] = 0, e.w[i].n = 0;
  const int64_t live = al_memory(c).live;
  result r = run(&e, AL_F32, AS_WRITTEN, 0, WEIGHTS);
  result_free(&r);
  expect(al_memory(c).live == live, "empty input: %lld bytes leaked",
         (long long)(al_memory(c).live - live));
  if (al_error(c) != AL_OK) expect_refusal(NULL, "empty input");
}

/* ---- what holds for an op ---- */

static void check_description(const sample_case *k) {
  if (sample_index > 0) return;
  expect(op->info.doc && *op->info.doc, "no doc");
  for (const al_row *r = op->info.inputs; r->name; r++)
    expect(r->doc && *r->doc, "input %s: no doc", r->name);
  for (const al_row *r = op->info.outputs; r->name; r++)
    expect(r->doc && *r->doc, "output %s: no doc", r->name);
  expect(al_op_find(c, op->info.name) == &op->info, "not found by its name: is it declared twice?");
  for (const al_arg *a = op->info.args; a && a->name; a++)
    expect(a->doc && *a->doc, "option %s: no doc", a->name);
  al_opts *o = options(k);
  expect_ok();
  char key[80];
  for (const al_arg *a = op->info.args; a && a->name; a++) {
    snprintf(key, sizeof key, "%sx", a->name);
    al_opts_set_num(c, o, key, 1);
    const char *text = al_error_message(c, NULL, NULL);
    snprintf(key, sizeof key, "'%s'", a->name);
    expect(al_error(c) == AL_ENAME && strstr(text, key) && strstr(text, op->info.name),
           "option %sx: %s", a->name, text);
    al_error_clear(c);
  }
  al_opts_set_num(c, o, "qqqqqqqq", 1);
  expect(al_error(c) == AL_ENAME && strstr(al_error_message(c, NULL, NULL), op->info.name),
         "unknown option accepted");
  al_error_clear(c);
  al_opts_release(o);

  if (row_of(k->n - 1)->flags & AL_IN_LIST) return;
  al_tensor *in[MAX_WORDS + 1] = {0}, *out[MAX_OUT] = {0};
  al_op_run(c, &op->info, in, count_rows(op->info.inputs) + 1, NULL, out, visible_outputs());
  expect(al_error(c) != AL_OK && strstr(al_error_message(c, NULL, NULL), op->info.name),
         "one input too many: accepted");
}

#define FOR_EACH_SAMPLE(name)                                                                      \
  START_TEST(name) { each_sample(_i, check_##name); }                                              \
  END_TEST
FOR_EACH_SAMPLE(description)
FOR_EACH_SAMPLE(shapes)
FOR_EACH_SAMPLE(gradient)
FOR_EACH_SAMPLE(values)
FOR_EACH_SAMPLE(allocations)
FOR_EACH_SAMPLE(wrong_types)
FOR_EACH_SAMPLE(wrong_shapes)
FOR_EACH_SAMPLE(empty)

static int n_exempt_found;

static void exempt(const char *name, int index, const char *why) {
  char text[80];
  if (index < 0) snprintf(text, sizeof text, "%s *", name);
  else snprintf(text, sizeof text, "%s %d", name, index);
  printf("gradient not checked: %s: %s\n", text, why);
  const char *next = n_exempt_found < N_EXEMPT ? exemptions[n_exempt_found] : "(end)";
  ck_assert_msg(strcmp(next, text) == 0, "exemption '%s' found where check_ops.c lists '%s'", text,
                next);
  n_exempt_found++;
}

/* Prints what has no gradient check and holds it to the list at the top. */
START_TEST(exempt_list) {
  int n;
  const al_op *const *table = al_op_table(&n);
  for (int i = 0; i < n; i++) {
    const al_sample *s = table[i]->samples;
    if (!table[i]->backward) exempt(table[i]->info.name, -1, "it has none");
    else
      for (int j = 0; s && s[j].inputs; j++)
        if (s[j].exempt) exempt(table[i]->info.name, j, s[j].exempt);
  }
  printf("gradient not checked: %d cases; %d ops\n", n_exempt_found, n);
  ck_assert_int_eq(n_exempt_found, N_EXEMPT);
}
END_TEST

Suite *suite_check_ops(void);
Suite *suite_check_ops(void) {
  static const struct {
    const char *name;
    const TTest **test;
  } tests[] = {{"description", &description},   {"shapes", &shapes},
               {"gradient", &gradient},         {"values", &values},
               {"allocations", &allocations},   {"wrong types", &wrong_types},
               {"wrong shapes", &wrong_shapes}, {"empty", &empty}};
  Suite *s = suite_create("ops");
  for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
    TCase *t = tcase_create(tests[i].name);
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, *tests[i].test, 0, al_op_count());
    suite_add_tcase(s, t);
  }
  TCase *t = tcase_create("exemptions");
  tcase_add_test(t, exempt_list);
  suite_add_tcase(s, t);
  return s;
}
