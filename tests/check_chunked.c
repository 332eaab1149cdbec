/* check_chunked.c: the chunked form of the formula against the oracle and the composed form:
 * outputs and gradients, lengths, grouped heads, decay, f32, poison, threads, what it refuses, when
 * it is picked. */
#include "attn_case.h"
#include "pretended/device.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const settings[] = {
    "similarity=linear",
    "similarity=linear feature_map=relu denominator.eps=0.1",
    "similarity=linear feature_map=elu1",
    "similarity=linear feature_map=softplus denominator.sink=learned denominator.floor=0.3",
    "similarity=linear feature_map=l2 denominator=length denominator.side=value "
    "denominator.power=learned",
    "similarity=linear feature_map=l2 denominator=none output_norm=l2",
    "similarity=linear feature_map=elu1 decay=constant",
    "similarity=linear feature_map=softplus decay=learned denominator.decay=none",
    "similarity=linear feature_map=elu1 decay=gated",
    "similarity=linear feature_map=relu decay=gated denominator=none output_norm=rms "
    "output_norm.scope=joint",
    "similarity=linear feature_map=elu1 logit_scale=learned",
    "similarity=power order=1 feature_map=elu1 denominator.gradient=stopped",
    "similarity=linear feature_map=elu1 input_gate=sigmoid",
    "similarity=linear input_gate=softplus input_gate.per=channel denominator=none",
    "similarity=linear feature_map=softplus denominator=cumulative_gate",
    "similarity=taylor order=1 orders={1} feature_map=elu1 denominator.power=0.5 output_gate=silu "
    "output_gate.per=channel"};
enum { N_SETTINGS = sizeof settings / sizeof *settings };

/* Settings and presets of the formula; false where the form is refused. */
static bool setting(int i, const char *form, const char **name, const char **options) {
  static char text[512];
  int n;
  const char *preset = attn_case_preset(i - N_SETTINGS, &n);
  *name = i < N_SETTINGS ? "kernel_attention" : preset;
  snprintf(text, sizeof text, "%s %s", form, i < N_SETTINGS ? settings[i] : "");
  *options = text;
  if (i < N_SETTINGS) return true;
  al_ctx *c = test_context();
  const attn_family *family;
  const attn_preset *row;
  al_opts *o;
  attn_find(c, preset, &family, &row, &o);
  al_opts_parse(c, o, "form=chunked");
  const attn_sizes s = {4, 4, 6, 5, 7};
  attn *a = attn_new(c, family, o, &s, AL_F64, 1, "t");
  const bool has = a != NULL;
  ck_assert_msg(has || strstr(al_error_message(c, NULL, NULL), "form=chunked"), "%s",
                al_error_message(c, NULL, NULL));
  attn_free(a);
  al_opts_release(o);
  al_ctx_free(c);
  return has;
}

START_TEST(chunked_is_the_formula) {
  const char *name, *options;
  if (!setting(_i, "form=chunked", &name, &options)) return;
  static const int64_t sizes[] = {5, 101, 200};
  for (int s = 0; s < 3; s++) {
    const int64_t T = sizes[s], lens[] = {T - T / 3, T}, none[] = {0, T / 2};
    attn_case_check_oracle(name, options, true, NULL, 4, T);
    attn_case_check_oracle(name, options, true, lens, 2, T);
    attn_case_check_oracle(name, options, true, none, 1, T);
    attn_case_check_oracle(name, options, false, lens, 1, T);
    attn_case_check_oracle(name, options, false, NULL, 2, T);
  }
}
END_TEST

START_TEST(chunked_has_its_gradient) {
  const char *name, *options;
  if (setting(_i, "form=chunked", &name, &options)) attn_case_check_gradients(name, options);
}
END_TEST

/* y, then the gradients of every input and parameter, one after another. */
typedef struct outcome {
  double *v[5 + ATTN_MAX_PARAMS];
  int64_t size[5 + ATTN_MAX_PARAMS];
  int n;
} outcome;

static void outcome_free(outcome *r) {
  for (int i = 0; i < r->n; i++) free(r->v[i]);
}

typedef struct shape {
  al_dtype dtype;
  int64_t B, T, Hkv;
  bool causal;
  const int64_t *lens;
  int64_t nan_from; /* tokens from here on are NaN; T: none */
  int nan_batch;    /* only of this batch row; -1: of all */
} shape;

static void spoil(al_tensor *t, const shape *s) {
  double *v = attn_case_values(t);
  const int64_t row = al_numel(t) / (s->B * s->T);
  for (int64_t b = 0; b < s->B; b++)
    for (int64_t i = s->nan_from * row; (s->nan_batch < 0 || s->nan_batch == b) && i < s->T * row;
         i++)
      v[b * s->T * row + i] = NAN;
  al_write(t, v, al_numel(t));
  free(v);
}

static outcome evaluate(const char *name, const char *options, const shape *s) {
  al_ctx *c = test_context();
  attn_case k =
      attn_case_new(c, name, options, s->dtype, s->B, s->T, s->Hkv, s->causal, s->lens, 1);
  al_tensor *t[4 + ATTN_MAX_PARAMS] = {k.q, k.k, k.v, k.x};
  for (int i = 0; i < 4 && s->nan_from < s->T; i++) spoil(t[i], s);
  int n = 4;
  for (const char *p; attn_param_at(k.a, n - 4, &p); n++) t[n] = attn_param_at(k.a, n - 4, &p);
  for (int i = 0; i < n; i++) al_requires_grad(t[i], true);
  outcome r = {.n = n + 1};
  al_tensor *y = attn_case_run(&k);
  r.size[0] = al_numel(y);
  r.v[0] = attn_case_values(y);
  double *w = malloc((size_t)r.size[0] * sizeof *w);
  for (int64_t i = 0; i < r.size[0]; i++) w[i] = (float)sin(1.3 * (double)i + 0.4);
  al_tensor *seed = al_tensor_from(c, s->dtype, 4, al_shape(y), w, r.size[0]);
  ck_assert_msg(al_backward(c, y, seed) == AL_OK, "%s: %s", name, al_error_message(c, NULL, NULL));
  for (int i = 0; i < n; i++) {
    al_tensor *g = al_grad(t[i]);
    r.size[i + 1] = g ? al_numel(g) : 0;
    r.v[i + 1] = g ? attn_case_values(g) : NULL;
  }
  free(w);
  al_release(seed);
  al_release(y);
  attn_case_free(&k);
  al_ctx_free(c);
  return r;
}

static void compare(const char *what, const char *options, const outcome *a, const outcome *b,
                    double limit) {
  ck_assert_int_eq(a->n, b->n);
  for (int i = 0; i < a->n; i++) {
    ck_assert_int_eq(a->size[i], b->size[i]);
    const double e = a->size[i] ? rms_ratio(a->v[i], b->v[i], a->size[i]) : 0;
    double size = 0; /* a gradient that is rounding and nothing else has no ratio */
    for (int64_t j = 0; j < b->size[i]; j++) size = fmax(size, fabs(b->v[i][j]));
    ck_assert_msg(e <= limit || size < 1e-10, "%s %s: %s %d differs by %.2e", what, options,
                  i ? "gradient" : "output", i, e);
  }
}

/* More than a chunk, and more than a segment; f32 too. */
START_TEST(chunked_is_composed) {
  const int64_t long_lens[] = {1041, 900};
  const shape shapes[] = {{AL_F64, 2, 131, 2, true, (int64_t[]){70, 131}, 131, -1},
                          {AL_F64, 2, 131, 1, false, (int64_t[]){131, 0}, 131, -1},
                          {AL_F64, 2, 1100, 2, true, long_lens, 1100, -1}};
  for (int i = 0; i < 3; i++) {
    char a[400], b[400];
    snprintf(a, sizeof a, "form=chunked %s", settings[_i]);
    snprintf(b, sizeof b, "form=parallel impl=composed %s", settings[_i]);
    if (!shapes[i].causal && strstr(a, " decay=")) continue;
    outcome composed = evaluate("kernel_attention", b, &shapes[i]),
            chunked = evaluate("kernel_attention", a, &shapes[i]);
    compare("chunked f64", a, &chunked, &composed, 1e-9);
    shape single = shapes[i];
    single.dtype = AL_F32;
    outcome f32 = evaluate("kernel_attention", a, &single);
    /* identity sums weights of both signs: a row may nearly cancel, and the inverse of W magnifies
     * rounding */
    if (_i != 0) compare("chunked f32", a, &f32, &composed, 1e-5);
    outcome_free(&f32);
    outcome_free(&chunked);
    outcome_free(&composed);
  }
}
END_TEST

/* Rows before a token that is NaN keep every bit of y and dq; another batch row keeps all of its
 * own. */
START_TEST(chunked_sees_no_later_token) {
  static const int64_t cuts[] = {1, 33, 63, 64, 130, 1025};
  char options[400];
  snprintf(options, sizeof options, "form=chunked %s", settings[_i]);
  for (int d = 0; d < 2; d++) {
    shape s = {d ? AL_F32 : AL_F64, 2, 1060, 2, true, NULL, 1060, -1};
    outcome clean = evaluate("kernel_attention", options, &s);
    for (int i = 0; i < 6; i++) {
      s.nan_from = cuts[i];
      outcome r = evaluate("kernel_attention", options, &s);
      for (int n = 0; n < 2; n++) { /* y, dq */
        const int64_t row = r.size[n] / (s.B * s.T);
        for (int64_t b = 0; b < s.B; b++)
          ck_assert_msg(memcmp(r.v[n] + b * s.T * row, clean.v[n] + b * s.T * row,
                               (size_t)(cuts[i] * row) * sizeof(double)) == 0,
                        "%s: %s before token %d depends on it", options, n ? "dq" : "y",
                        (int)cuts[i]);
      }
      outcome_free(&r);
    }
    s.nan_from = 0, s.nan_batch = 1;
    outcome r = evaluate("kernel_attention", options, &s);
    for (int n = 0; n < 4; n++) /* y, dq, dk, dv */
      ck_assert_msg(memcmp(r.v[n], clean.v[n], (size_t)(r.size[n] / s.B) * sizeof(double)) == 0,
                    "%s: batch rows mix", options);
    outcome_free(&r);
    outcome_free(&clean);
  }
}
END_TEST

/* One pair of heads for several threads: segments are shared out, and no bit changes. A gate is a
 * product, whose sums may go otherwise with other threads (kernels/matmul.h). */
START_TEST(threads_change_nothing) {
  if (strstr(settings[_i], "gate.per")) return;
  char options[400];
  snprintf(options, sizeof options, "form=chunked %s", settings[_i]);
  for (int causal = strstr(options, " decay=") ? 1 : 0; causal < 2; causal++) {
    const shape s = {AL_F32, 1, 2100, 1, causal, (int64_t[]){2060}, 2100, -1};
    al_set_threads(1);
    outcome one = evaluate("kernel_attention", options, &s);
    for (int n = 2; n < 4; n++) {
      al_set_threads(n);
      outcome r = evaluate("kernel_attention", options, &s);
      for (int i = 0; i < 4; i++)
        ck_assert_msg(memcmp(r.v[i], one.v[i], (size_t)r.size[i] * sizeof(double)) == 0,
                      "%s: %d threads change number %d", options, n, i);
      outcome_free(&r);
    }
    outcome_free(&one);
  }
}
END_TEST

static const struct {
  const char *options, *says;
} refused[] = {{"", "need every key"},
               {"similarity=linear logit_clamp=5", "limits on the logits"},
               {"similarity=linear dropout=0.1", "dropout needs every weight"},
               {"similarity=linear denominator=abs", "needs every weight"},
               {"similarity=linear denominator.similarity=exp", "own weights need every key"},
               {"similarity=linear impl=composed", "impl=composed"},
               {"similarity=square state_limit=0", "state_limit=0"},
               {"similarity=taylor order=100 state_limit=1", "order 100"}};

START_TEST(chunked_refuses_with_the_reason) {
  al_ctx *c = test_context();
  const attn_family *family;
  const attn_preset *preset;
  al_opts *o;
  attn_find(c, "kernel_attention", &family, &preset, &o);
  al_opts_parse(c, o, "form=chunked");
  al_opts_parse(c, o, refused[_i].options);
  const attn_sizes s = {2, 2, 4, 4, 0};
  attn *a = attn_new(c, family, o, &s, AL_F32, 1, "t");
  ck_assert_msg(a == NULL, "'%s' was accepted", refused[_i].options);
  ck_assert_msg(strstr(al_error_message(c, NULL, NULL), refused[_i].says) != NULL, "'%s': %s",
                refused[_i].options, al_error_message(c, NULL, NULL));
  al_opts_release(o);
  al_ctx_free(c);
}
END_TEST

/* Rows that are not the keys' own tokens: refused when asked for, parallel otherwise. */
START_TEST(offset_is_parallel) {
  for (int asked = 0; asked < 2; asked++) {
    al_ctx *c = test_context();
    attn_case k = attn_case_new(c, "kernel_attention",
                                asked ? "similarity=linear form=chunked" : "similarity=linear",
                                AL_F32, 1, 40, 2, true, NULL, 1);
    const attn_in in = {
        .size = sizeof in, .q = k.q, .k = k.k, .v = k.v, .x = k.x, .causal = true, .offset = 3};
    al_tensor *y = attn_forward(c, k.a, &in);
    ck_assert_msg(asked ? !y && strstr(al_error_message(c, NULL, NULL), "own tokens") : y != NULL,
                  "%s", al_error_message(c, NULL, NULL));
    al_release(y);
    attn_case_free(&k);
    al_ctx_free(c);
  }
}
END_TEST

Suite *suite_check_chunked(void) {
  Suite *s = suite_create("chunked attention");
  TCase *t = tcase_create("chunked");
  tcase_set_timeout(t, 300);
  int n;
  attn_case_preset(0, &n);
  tcase_add_loop_test(t, chunked_is_the_formula, 0, N_SETTINGS + n);
  tcase_add_loop_test(t, chunked_has_its_gradient, 0, N_SETTINGS + n);
  tcase_add_loop_test(t, chunked_is_composed, 0, N_SETTINGS);
  tcase_add_loop_test(t, chunked_sees_no_later_token, 0, N_SETTINGS);
  tcase_add_loop_test(t, threads_change_nothing, 0, N_SETTINGS);
  tcase_add_loop_test(t, chunked_refuses_with_the_reason, 0,
                      (int)(sizeof refused / sizeof *refused));
  tcase_add_test(t, offset_is_parallel);
  suite_add_tcase(s, t);
  return s;
}
