/* op_case.c: reads samples, makes their inputs, runs ops; and the tests of that reading. */
#include "op_case.h"
#include "pretended/device.h"
#include <math.h>

al_ctx *c;
const al_op *op;
int sample_index;

const char *where(void) {
  static char text[300];
  const al_sample *s = &op->samples[sample_index];
  snprintf(text, sizeof text, "%s, sample %d: %s {%s}", op->info.name, sample_index, s->inputs,
           s->args ? s->args : "");
  return text;
}

int count_rows(const al_row *r) {
  int n = 0;
  while (r[n].name) n++;
  return n;
}

const al_row *row_of(int i) {
  const int n = count_rows(op->info.inputs);
  return &op->info.inputs[i < n ? i : n - 1];
}

/* ---- samples ---- */

sample_case parse(const al_sample *s) {
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
    if (*p == 'd') w->kind = 'i', w->below = -1, p++;
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
    expect(w->kind != 'i' || w->below, "an integer input needs <n");
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
  if (w->kind == 'i' && w->below < 0) return (double)(w->n - i);
  if (w->kind == 'i') return floor(u[0] * w->below);
  if (w->kind == 'p') return (float)(0.5 + u[0]);
  const al_sample *s = k->sample;
  if (s->lo != 0 || s->hi != 0) return (float)(s->lo + (s->hi - s->lo) * u[0]);
  return (float)(sqrt(-2 * log(1 - u[0])) * cos(6.283185307179586 * u[1]));
}

/* Input i as a leaf in a layout; NULL where absent. */
al_tensor *make(const sample_case *k, int i, al_dtype dtype, layout l) {
  const word *w = &k->w[i];
  if (w->kind == '-') return NULL;
  const al_dtype dt = w->kind == 'i'               ? AL_I32
                      : row_of(i)->flags & AL_STAT ? al_statistic_type(dtype)
                                                   : dtype;
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

al_opts *options(const sample_case *k) {
  al_opts *o = al_opts_new(c, op->info.args, op->info.name);
  if (o && k->sample->args) al_opts_parse(c, o, k->sample->args);
  return o;
}

int visible_outputs(void) {
  int n = 0;
  for (const al_row *r = op->info.outputs; r->name; r++) n += !(r->flags & AL_OUT_SAVED);
  return n;
}

/* ---- one run: forward, backward from output `which`, all numbers read back ---- */

void result_free(result *r) {
  free(r->y);
  free(r->g);
}

static void append(double **all, int64_t *n, const al_tensor *t) {
  const int64_t more = al_numel(t);
  *all = realloc(*all, (size_t)(*n + more + 1) * sizeof **all);
  if (al_read(t, *all + *n, more) == AL_OK) *n += more;
}

static al_tensor *seed_like(const al_tensor *y, seeding seed) {
  int64_t stride[AL_MAX_DIMS], run = seed == WEIGHTS || seed == ALONE ? 2 : 1;
  const bool spread = run == 2;
  for (int a = al_ndim(y) - 1; a >= 0; a--) {
    stride[a] = seed == REPEATED ? 0 : run;
    run *= al_size(y, a);
  }
  al_tensor *base = al_tensor_full(c, al_type(y), 1, (const int64_t[]){run + 1}, spread ? NAN : 1);
  al_tensor *t = base ? al_tensor_view(c, base, al_ndim(y), al_shape(y), stride, 0) : NULL;
  al_release(base);
  if (!t || !spread) return t;
  double *v = malloc((size_t)(run + 1) * sizeof *v);
  for (int64_t i = 0; i < run / 2; i++) v[i] = (float)(1 + 0.5 * sin(1.7 * (double)i + 0.3));
  al_write(t, v, run / 2);
  free(v);
  return t;
}

/* On failure the error is left pending; nothing is kept in any case. */
result run(const sample_case *k, al_dtype dtype, layout l, int which, seeding how) {
  result r = {0};
  al_tensor *in[MAX_WORDS] = {0}, *out[MAX_OUT] = {0};
  const int n_out = visible_outputs();
  al_seed(c, 5); /* an op that draws a key draws the same one each time */
  for (int i = 0; i < k->n; i++) in[i] = make(k, i, dtype, l);
  al_opts *o = options(k);
  al_tensor *read[MAX_WORDS] = {0};
  for (int i = 0; i < k->n; i++)
    read[i] = how == ALONE && al_needs_grad(in[i]) ? al_run(c, "scale", AL_IN(in[i]), "")
                                                   : al_retain(in[i]);
  if (o) al_op_run(c, &op->info, read, k->n, o, out, n_out);
  for (int i = 0; i < k->n; i++) al_release(read[i]);
  if (al_error(c) == AL_OK) {
    for (int i = 0; i < n_out; i++) append(&r.y, &r.n_y, out[i]);
    if (al_type(out[which]) != AL_I32 && al_needs_grad(out[which])) {
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

/* An op that needs a kernel which the device has not is not run there; it is said once a process. */
static bool lacks_kernel(const sample_case *k) {
  static const al_op *said;
  for (int which = 0; which < visible_outputs(); which++) {
    result r = run(k, AL_F64, AS_WRITTEN, which, WEIGHTS);
    result_free(&r);
    const char *why = al_error_message(c, NULL, NULL);
    const bool lacks = al_error(c) == AL_ETYPE && strstr(why, ": none for ");
    if (lacks && said != op) printf("not on %s: %s: %s\n", al_on(c, NULL), op->info.name, why);
    if (lacks) said = op;
    al_error_clear(c);
    if (lacks) return true;
  }
  return false;
}

void each_sample(int op_index, void (*check)(const sample_case *k)) {
  int n;
  op = al_op_table(&n)[op_index];
  sample_index = 0;
  ck_assert_msg(op->samples && op->samples[0].inputs, "%s: an op needs samples", op->info.name);
  c = test_context();
  expect_ok();
  const bool elsewhere = strcmp(al_on(c, NULL), "cpu") != 0;
  for (; op->samples[sample_index].inputs; sample_index++) {
    const sample_case k = parse(&op->samples[sample_index]);
    if (!elsewhere || !lacks_kernel(&k)) check(&k);
    al_error_clear(c);
  }
  al_ctx_free(c);
}

START_TEST(reads_samples) {
  int n;
  op = al_op_table(&n)[0];
  const sample_case k = parse(&(al_sample){.inputs = "(2,3)t - p() i(4,0,5)<7 d(2)"});
  ck_assert_int_eq(k.n, 5);
  ck_assert(k.w[0].kind == 'f' && k.w[0].swapped && k.w[0].ndim == 2 && k.w[0].shape[1] == 3);
  ck_assert(k.w[1].kind == '-');
  ck_assert(k.w[2].kind == 'p' && k.w[2].ndim == 0 && k.w[2].n == 1);
  ck_assert(k.w[3].kind == 'i' && k.w[3].shape[2] == 5 && k.w[3].n == 0 && k.w[3].below == 7);
  ck_assert(k.w[4].kind == 'i' && value(&k, 4, 0) == 2 && value(&k, 4, 1) == 1);
  ck_assert_int_eq(k.total, 9);
}
END_TEST

/* One input, the same numbers however it lies. */
START_TEST(layouts_agree) {
  int n;
  op = al_op_table(&n)[0];
  c = test_context();
  const sample_case k = parse(&(al_sample){.inputs = "(2,3,5)t"});
  double truth[30], v[30];
  for (layout l = AS_WRITTEN; l <= SPREAD; l++) {
    al_tensor *t = make(&k, 0, AL_F64, l);
    ck_assert_int_eq(al_contiguous(t), l == PACKED);
    ck_assert_int_eq(al_read(t, l == AS_WRITTEN ? truth : v, 30), AL_OK);
    if (l != AS_WRITTEN) ck_assert_mem_eq(truth, v, sizeof v);
    al_release(t);
  }
  al_ctx_free(c);
}
END_TEST

Suite *suite_op_case(void);
Suite *suite_op_case(void) {
  Suite *s = suite_create("op_case");
  TCase *t = tcase_create("samples");
  tcase_add_test(t, reads_samples);
  tcase_add_test(t, layouts_agree);
  suite_add_tcase(s, t);
  return s;
}
