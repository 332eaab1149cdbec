/* attn_case.c: see attn_case.h; and the suite that the oracle and every preset of the formula
 * agree. */
#include "attn_case.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static al_tensor *normal(al_ctx *c, al_dtype dt, int ndim, const int64_t *shape, const char *name,
                         double scale) {
  al_tensor *t = al_tensor_new(c, dt, ndim, shape);
  ck_assert_ptr_nonnull(t);
  al_fill_normal(t, al_stream(7, name), 0, scale);
  return t;
}

attn_case attn_case_new(al_ctx *c, const char *name, const char *options, al_dtype dtype, int64_t B,
                        int64_t T, int64_t Hkv, bool causal, const int64_t *lens, double scale) {
  attn_case k = {.c = c,
                 .dtype = dtype,
                 .B = B,
                 .T = T,
                 .S = T,
                 .H = 4,
                 .Hkv = Hkv,
                 .D = 6,
                 .E = 5,
                 .C = 7,
                 .causal = causal};
  const attn_family *family;
  const attn_preset *preset;
  al_opts *o;
  attn_find(c, name, &family, &preset, &o);
  if (o && options && *options) al_opts_parse(c, o, options);
  const attn_sizes s = {k.H, k.Hkv, k.D, k.E, k.C};
  k.a = al_error(c) == AL_OK ? attn_new(c, family, o, &s, dtype, 3, "case") : NULL;
  ck_assert_msg(k.a != NULL, "%s %s: %s", name, options ? options : "",
                al_error_message(c, NULL, NULL));
  al_opts_release(o);
  const char *p_name;
  for (int i = 0; attn_param_at(k.a, i, &p_name); i++) {
    al_tensor *p = attn_param_at(k.a, i, &p_name);
    double *v = attn_case_values(p);
    for (int64_t j = 0; j < al_numel(p); j++) v[j] += 0.3 * sin(1.0 + (double)(7 * i + 3 * j));
    al_write(p, v, al_numel(p));
    free(v);
  }
  k.q = normal(c, dtype, 4, (int64_t[]){B, T, k.H, k.D}, "q", scale);
  k.k = normal(c, dtype, 4, (int64_t[]){B, T, Hkv, k.D}, "k", scale);
  k.v = normal(c, dtype, 4, (int64_t[]){B, T, Hkv, k.E}, "v", 1);
  k.x = normal(c, dtype, 3, (int64_t[]){B, T, k.C}, "x", 1);
  if (lens) {
    double l[8];
    for (int64_t b = 0; b < B; b++) l[b] = (double)(k.len[b] = lens[b]);
    k.lengths = al_tensor_from(c, AL_I32, 1, &B, l, B);
  }
  return k;
}

void attn_case_free(attn_case *k) {
  attn_free(k->a);
  al_release(k->q);
  al_release(k->k);
  al_release(k->v);
  al_release(k->x);
  al_release(k->lengths);
  for (size_t i = 0; i < sizeof k->copy / sizeof *k->copy; i++) free(k->copy[i].v);
}

al_tensor *attn_case_run(const attn_case *k) {
  const attn_in in = {.size = sizeof in,
                      .q = k->q,
                      .k = k->k,
                      .v = k->v,
                      .x = k->x,
                      .lengths = k->lengths,
                      .causal = k->causal,
                      .offset = k->offset};
  al_tensor *y = attn_forward(k->c, k->a, &in);
  ck_assert_msg(y != NULL, "%s", al_error_message(k->c, NULL, NULL));
  return y;
}

double *attn_case_values(const al_tensor *t) {
  double *v = malloc((size_t)al_numel(t) * sizeof *v + 1);
  ck_assert_ptr_nonnull(v);
  ck_assert_int_eq(al_read(t, v, al_numel(t)), AL_OK);
  return v;
}

double *attn_case_copy(attn_case *k, const al_tensor *t) {
  for (size_t i = 0; t && i < sizeof k->copy / sizeof *k->copy; i++) {
    if (!k->copy[i].of) k->copy[i].of = t, k->copy[i].v = attn_case_values(t);
    if (k->copy[i].of == t) return k->copy[i].v;
  }
  return NULL;
}

static const double *find_param(void *user, const char *name) {
  attn_case *k = user;
  const char *p_name;
  for (int i = 0; attn_param_at(k->a, i, &p_name); i++) {
    al_tensor *p = attn_param_at(k->a, i, &p_name);
    if (strcmp(p_name, name) == 0) return attn_case_copy(k, p);
  }
  return NULL;
}

oracle_in attn_case_oracle(attn_case *k) {
  ck_assert_int_eq(k->dtype, AL_F64);
  return (oracle_in){.o = attn_opts(k->a),
                     .B = k->B,
                     .T = k->T,
                     .S = k->S,
                     .H = k->H,
                     .Hkv = k->Hkv,
                     .D = k->D,
                     .E = k->E,
                     .C = k->C,
                     .q = attn_case_copy(k, k->q),
                     .k = attn_case_copy(k, k->k),
                     .v = attn_case_copy(k, k->v),
                     .x = attn_case_copy(k, k->x),
                     .lengths = k->lengths ? k->len : NULL,
                     .causal = k->causal,
                     .offset = k->offset,
                     .param = find_param,
                     .user = k};
}

int attn_case_variants(void) { return attn_preset_count() + attn_family_count(); }

const char *attn_case_variant(int i) {
  const int n = attn_preset_count();
  return i < n ? attn_preset_at(i, NULL)->name : attn_family_at(i - n)->name;
}

bool attn_case_needs_order(const char *name, const char *options) {
  al_ctx *c = test_context();
  attn_case k = attn_case_new(c, name, options, AL_F32, 1, 2, 2, false, NULL, 1);
  const attn_in in = {.size = sizeof in, .q = k.q, .k = k.k, .v = k.v, .x = k.x};
  al_tensor *y = attn_forward(c, k.a, &in);
  const bool refused = !y && strstr(al_error_message(c, NULL, NULL), "causal=true needed");
  ck_assert_msg(y || refused, "%s %s: %s", name, options, al_error_message(c, NULL, NULL));
  al_release(y);
  attn_case_free(&k);
  al_ctx_free(c);
  return refused;
}

void attn_case_refused(const char *name, const char *options, const char *says) {
  al_ctx *c = test_context();
  const attn_family *family;
  const attn_preset *preset;
  al_opts *o;
  attn_find(c, name, &family, &preset, &o);
  if (o) al_opts_parse(c, o, options);
  const attn_sizes s = {2, 2, 4, 4, 0};
  attn *a = al_error(c) == AL_OK ? attn_new(c, family, o, &s, AL_F32, 1, "t") : NULL;
  ck_assert_msg(a == NULL, "'%s' was accepted", options);
  ck_assert_msg(strstr(al_error_message(c, NULL, NULL), says) != NULL, "'%s': %s", options,
                al_error_message(c, NULL, NULL));
  al_opts_release(o);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}

double rms_ratio(const double *got, const double *want, int64_t n) {
  double e = 0, r = 0;
  for (int64_t i = 0; i < n; i++) {
    e += (got[i] - want[i]) * (got[i] - want[i]);
    r += want[i] * want[i];
  }
  return sqrt(e / (double)n) / (sqrt(r / (double)n) + 1e-30);
}

/* Options beyond the presets, so that each slot and value is met. */
static const char *const extra[] = {
    "feature_map=softplus similarity=linear",
    "similarity=cosh",
    "similarity=power order=4",
    "similarity=square denominator=l2",
    "similarity=taylor order=4 coefficients=learned",
    "similarity=taylor order=3 orders={0,1,3} denominator=abs",
    "similarity=taylor order=3 coefficients={1,0.5,2,0.25} denominator=length",
    "similarity=taylor order=2 coefficients=ones",
    "logit_scale=learned",
    "logit_softcap=2",
    "logit_softcap=2 logit_clamp=1.5",
    "decay=constant",
    "decay=learned denominator.decay=none",
    "denominator.power=0.5",
    "denominator.power=learned denominator.floor=2",
    "denominator.sink=learned",
    "denominator.sink=0.7 denominator.eps=0.1",
    "denominator.power=0.5 output_norm=rms",
    "denominator.power=learned output_norm=rms",
    "denominator=none output_norm=layer",
    "denominator=none output_norm=rms output_norm.scope=joint",
    "denominator=none output_norm=l2 output_norm.scope=joint output_norm.gain=true",
    "output_norm=l2 output_norm.gain=learned",
    "output_norm=rms output_norm.gain=2 output_norm.eps=0.01",
    "input_gate=softplus input_gate.per=channel input_gate.bias=false",
    "output_gate=silu output_gate.per=channel output_gate.bias=false",
    "output_gate=sigmoid output_gate.input=position",
    "denominator.similarity=cosh",
    "similarity=square denominator.similarity=exp",
    "similarity=taylor order=4 denominator.orders={0,2,4}",
    "similarity=exp denominator=l2 denominator.power=0.7 denominator.times_length=true",
    "denominator.times_length=true",
    "similarity=cosh decay=gated denominator=none output_norm=l2",
    "similarity=linear denominator=abs",
    "denominator=cumulative_gate denominator.power=0.5",
    "feature_map=silu similarity=taylor order=2",
    "feature_map=expr map_expr='1+tanh(x)' similarity=linear logit_scale=learned",
    "input_gate=expr input_gate.expr='x^2' output_gate=expr output_gate.expr='x^2' "
    "output_gate.per=channel"};
enum { N_EXTRA = sizeof extra / sizeof *extra };

/* The formula's presets; *count of them. Returns the i-th, or NULL. */
const char *attn_case_preset(int i, int *count) {
  const char *name = NULL;
  *count = 0;
  for (int p = 0; p < attn_preset_count(); p++) {
    const attn_family *family;
    const char *preset = attn_preset_at(p, &family)->name;
    if (strcmp(family->name, "kernel_attention") == 0 && (*count)++ == i) name = preset;
  }
  return name;
}

/* Every setting of the formula twice: composed and fused. */
static void name_of(int i, const char **name, const char **options) {
  static char text[256];
  int n;
  const int v = i / 2;
  const char *preset = attn_case_preset(v, &n);
  *name = preset ? preset : "kernel_attention";
  snprintf(text, sizeof text, "impl=%s form=parallel %s", i % 2 ? "fused" : "composed",
           preset ? "" : extra[v - n]);
  *options = text;
}

void attn_case_check_oracle(const char *name, const char *options, bool causal, const int64_t *lens,
                            int64_t Hkv, int64_t T) {
  if (!causal && attn_case_needs_order(name, options)) return;
  al_ctx *c = test_context();
  attn_case k = attn_case_new(c, name, options, AL_F64, 2, T, Hkv, causal, lens, 1);
  al_tensor *y = attn_case_run(&k);
  double *got = attn_case_values(y), *want = malloc((size_t)al_numel(y) * sizeof *want);
  const oracle_in in = attn_case_oracle(&k);
  oracle_forward(&in, want);
  const double e = rms_ratio(got, want, al_numel(y));
  ck_assert_msg(e < 1e-10, "%s %s (causal %d, kv heads %d, T %d): differs from the oracle by %.2e",
                name, options, causal, (int)Hkv, (int)T, e);
  free(got);
  free(want);
  al_release(y);
  attn_case_free(&k);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}

static void agree(int i, bool causal, const int64_t *lens, int64_t Hkv, int64_t T) {
  const char *name, *options;
  name_of(i, &name, &options);
  attn_case_check_oracle(name, options, causal, lens, Hkv, T);
}

START_TEST(every_variant_is_the_formula) {
  const int64_t lens[] = {9, 6};
  agree(_i, true, NULL, 4, 9);
  agree(_i, true, lens, 2, 9);
  agree(_i, false, lens, 1, 9);
  agree(_i, false, NULL, 2, 9);
  agree(_i, true, NULL, 2, 101); /* more than one tile and one block of the fused kernel */
}
END_TEST

/* Reverse-mode gradients of every input and parameter against central differences of the oracle,
 * whose stopped denominators are frozen at the point where the gradient is taken. */
void attn_case_check_gradients(const char *name, const char *options) {
  al_ctx *c = test_context();
  const int64_t lens[] = {5, 4};
  attn_case k = attn_case_new(c, name, options, AL_F64, 2, 5, 2, true, lens, 1);
  al_tensor *t[4 + ATTN_MAX_PARAMS] = {k.q, k.k, k.v, k.x};
  const char *label[4 + ATTN_MAX_PARAMS] = {"q", "k", "v", "x"};
  int n = 4;
  for (const char *p; attn_param_at(k.a, n - 4, &p); n++)
    t[n] = attn_param_at(k.a, n - 4, &p), label[n] = p;
  for (int i = 0; i < n; i++) al_requires_grad(t[i], true);
  al_tensor *y = attn_case_run(&k);
  const int64_t count = al_numel(y);
  double *w = malloc((size_t)count * sizeof *w), *out = malloc((size_t)count * sizeof *out);
  for (int64_t i = 0; i < count; i++) w[i] = sin(1.3 * (double)i + 0.4);
  al_tensor *seed = al_tensor_from(c, AL_F64, 4, al_shape(y), w, count);
  ck_assert_msg(al_backward(c, y, seed) == AL_OK, "%s: %s", name, al_error_message(c, NULL, NULL));
  oracle_in in = attn_case_oracle(&k);
  in.frozen = calloc((size_t)(k.B * k.H * k.T), sizeof *in.frozen);
  in.fill = true;
  oracle_forward(&in, out);
  in.fill = false;
  const double h = 1e-5;
  for (int i = 0; i < n; i++) {
    double *p = attn_case_copy(&k, t[i]), worst = 0,
           *g = al_grad(t[i]) ? attn_case_values(al_grad(t[i])) : NULL;
    for (int64_t j = 0; j < al_numel(t[i]); j++) {
      double d = 0;
      const double keep = p[j];
      for (int side = -1; side <= 1; side += 2) {
        p[j] = keep + side * h;
        oracle_forward(&in, out);
        for (int64_t e = 0; e < count; e++) d += side * w[e] * out[e];
      }
      p[j] = keep;
      d /= 2 * h;
      const double e = fabs((g ? g[j] : 0) - d) / (1 + fabs(d));
      if (!(e <= worst)) worst = e;
    }
    free(g);
    ck_assert_msg(worst < 2e-7, "%s %s: gradient of %s is off by %.2e", name, options, label[i],
                  worst);
  }
  free(in.frozen);
  free(w);
  free(out);
  al_release(seed);
  al_release(y);
  attn_case_free(&k);
  al_ctx_free(c);
}

START_TEST(every_variant_has_its_gradient) {
  const char *name, *options;
  name_of(_i, &name, &options);
  attn_case_check_gradients(name, options);
}
END_TEST

void attn_case_check_f32(const char *name, const char *options) {
  static const int64_t sizes[] = {1, 31, 63};
  for (int s = 0; s < 3; s++) {
    double *v[2];
    bool positive = false;
    int64_t n = 0;
    for (int d = 0; d < 2; d++) {
      al_ctx *c = test_context();
      attn_case k =
          attn_case_new(c, name, options, d ? AL_F32 : AL_F64, 2, sizes[s], 2, true, NULL, 1);
      positive = attn_claims(k.a) & ATTN_POSITIVE_WEIGHTS;
      al_tensor *y = attn_case_run(&k);
      n = al_numel(y);
      v[d] = attn_case_values(y);
      al_release(y);
      attn_case_free(&k);
      al_ctx_free(c);
    }
    const double e = rms_ratio(v[1], v[0], n);
    const double limit =
        positive ? 1e-5 : 2e-5; /* weights of both signs: a row may nearly cancel */
    ck_assert_msg(e < limit, "%s %s at T = %d: f32 differs from f64 by %.2e", name, options,
                  (int)sizes[s], e);
    free(v[0]);
    free(v[1]);
  }
}

START_TEST(f32_is_close_to_f64) {
  const char *name, *options;
  name_of(_i, &name, &options);
  attn_case_check_f32(name, options);
}
END_TEST

Suite *suite_attn_case(void) {
  Suite *s = suite_create("attention against the oracle");
  TCase *t = tcase_create("oracle");
  tcase_set_timeout(t, 300);
  int n;
  attn_case_preset(0, &n);
  n = 2 * (n + N_EXTRA);
  tcase_add_loop_test(t, every_variant_is_the_formula, 0, n);
  tcase_add_loop_test(t, every_variant_has_its_gradient, 0, n);
  tcase_add_loop_test(t, f32_is_close_to_f64, 0, n);
  suite_add_tcase(s, t);
  return s;
}
