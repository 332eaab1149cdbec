/* check_polynomial.c: attend_chunked with polynomial weights and with states, against the composed
 * ops on all tokens at once, also split at odd points with the state handed on: outputs, gradients,
 * f32, poison, threads, what is empty, what is refused; and so many features that they are taken in
 * slabs. */
#include "../core/attnlab.h"
#include "attn_case.h"
#include "pretended/device.h"
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Suite *suite_check_polynomial(void);

static al_ctx *c;

static void begin(void) {
  c = test_context();
  al_memory_poison(c, true);
  al_scope_begin(c);
}
static void end(void) {
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  al_scope_end(c, NULL);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}

/* Hs, R: of the state; len: of the batch rows, out of T. */
typedef struct setting {
  int H, Hkv, Hd, Hs, D, E, R, T;
  const char *coefficients, *options;
  int len[2];
  bool learned, scaled, positive; /* coefficients, value_scale, q and k above 0 as inputs */
} setting;

static const setting settings[] = {
    {4, 2, 0, 2, 5, 3, 5, 150, "{0,1}", "feature_map=elu1 normalise=true", {150, 70}, 0, 1, 0},
    {4, 2, 4, 4, 5, 3, 5, 150, "{0,1}", "scale=0.7", {150, 0}, 1, 0, 0},
    {4, 2, 2, 2, 6, 5, 28, 150, "{1,1,0.5}", "normalise=true scale=0.4", {133, 150}, 0, 1, 0},
    {2, 1, 0, 1, 6, 17, 21, 150, "{0,0,1}", "scale=0.5", {150, 1}, 1, 0, 0},
    {3, 3, 1, 3, 4, 33, 46, 150, "{1,0,0.5,0,0.04}", "stat=none scale=0.5", {150, 64}, 0, 1, 0},
    {2, 2, 2, 2, 4, 3, 24, 150, "{0,1,0,0.3}", "scale=0.5 normalise=true", {150, 150}, 1, 1, 1},
    {2, 1, 1, 1, 5, 3, 21, 1100, "{1,1,0.5}", "normalise=true scale=0.3", {1090, 700}, 1, 0, 0},
    {1, 1, 1, 1, 13, 4, 546, 140, "{0,0,1,0.3}", "scale=0.2", {140, 100}, 0, 1, 0}};
enum { N_SETTINGS = sizeof settings / sizeof settings[0], B = 2 };

/* ---- inputs, and one run over all tokens or pieces of them ----------------------------------- */

enum { Q, K, V, DECAY, COEFFICIENTS, SCALES, STATE, NORM, N_IN };
enum { Y, W, NEXT, NEXT_NORM, N_OUT };
enum { N_KEPT = N_OUT + N_IN };

typedef struct inputs {
  const setting *s;
  al_dtype dtype;
  al_tensor *t[N_IN];
} inputs;

typedef struct outcome { /* outputs, then the gradients of the inputs; NULL where there is none */
  double *v[N_KEPT];
  int64_t size[N_KEPT];
} outcome;

static void outcome_free(outcome *r) {
  for (int i = 0; i < N_KEPT; i++) free(r->v[i]);
}

/* N(0,1) or, between 0.2 and 1, uniform; the same numbers in every dtype. */
static al_tensor *leaf(al_dtype t, const char *name, bool positive, int ndim,
                       const int64_t *shape) {
  al_tensor *x = al_tensor_new(c, t, ndim, shape);
  if (positive) al_fill_uniform(x, al_stream(5, name), 0.2, 1);
  else al_fill_normal(x, al_stream(5, name), 0, 1);
  al_requires_grad(x, true);
  return x;
}

static inputs make(const setting *s, al_dtype t, bool state) {
  inputs in = {.s = s, .dtype = t};
  in.t[Q] = leaf(t, "q", s->positive, 4, (int64_t[]){B, s->T, s->H, s->D});
  in.t[K] = leaf(t, "k", s->positive, 4, (int64_t[]){B, s->T, s->Hkv, s->D});
  in.t[V] = leaf(t, "v", false, 4, (int64_t[]){B, s->T, s->Hkv, s->E});
  if (s->Hd) {
    in.t[DECAY] = leaf(t, "decay", true, 3, (int64_t[]){B, s->T, s->Hd});
    double *a = attn_case_values(in.t[DECAY]);
    for (int64_t i = 0; i < al_numel(in.t[DECAY]); i++) a[i] *= -0.1;
    al_write(in.t[DECAY], a, al_numel(in.t[DECAY]));
    free(a);
  }
  int n = 1;
  for (const char *p = s->coefficients; *p; p++) n += *p == ',';
  if (s->learned) in.t[COEFFICIENTS] = leaf(t, "coefficients", true, 1, (int64_t[]){n});
  if (s->scaled) in.t[SCALES] = leaf(t, "b", true, 3, (int64_t[]){B, s->T, s->Hkv});
  if (!state) return in;
  in.t[STATE] = leaf(t, "state", false, 4, (int64_t[]){B, s->Hs, s->R, s->E});
  if (!strstr(s->options, "stat=none"))
    in.t[NORM] = leaf(t, "norm", true, 3, (int64_t[]){B, s->Hs, s->R});
  return in;
}

static al_tensor *cut(al_tensor *t, int from, int to) {
  return t ? al_run(c, "slice", AL_IN(t), "axis=1 start=%d stop=%d", from, to) : NULL;
}

/* Lengths of the tokens [from, to). */
static al_tensor *lengths(const setting *s, int from, int to) {
  const int64_t n = B;
  double v[B];
  for (int b = 0; b < B; b++) v[b] = fmin(fmax(s->len[b] - from, 0), to - from);
  return al_tensor_from(c, AL_I32, 1, &n, v, B);
}

static void chunked(const inputs *in, const int *cuts, al_tensor **out) {
  const setting *s = in->s;
  al_tensor *y = NULL, *sums = NULL, *state = in->t[STATE], *norm = in->t[NORM];
  for (int i = 0, from = 0, to; from < s->T; i++, from = to) {
    to = cuts[i] ? cuts[i] : s->T;
    al_tensor *part[N_OUT];
    al_run_into(c, "attend_chunked",
                AL_IN(cut(in->t[Q], from, to), cut(in->t[K], from, to), cut(in->t[V], from, to),
                      cut(in->t[DECAY], from, to), in->t[COEFFICIENTS], lengths(s, from, to),
                      cut(in->t[SCALES], from, to), state, norm),
                part, N_OUT, "coefficients=%s causal=true carry=true %s", s->coefficients,
                s->options);
    y = y ? al_run(c, "concat", AL_IN(y, part[Y]), "axis=1") : part[Y];
    sums = sums ? al_run(c, "concat", AL_IN(sums, part[W]), "axis=2") : part[W];
    state = part[NEXT];
    norm = strstr(s->options, "stat=none") ? NULL : part[NEXT_NORM];
  }
  out[Y] = y, out[W] = sums, out[NEXT] = state, out[NEXT_NORM] = norm;
}

static al_tensor *mapped(const setting *s, al_tensor *x) {
  return strstr(s->options, "elu1") ? al_run(c, "elu1", AL_IN(x), "") : x;
}

static void composed(const inputs *in, al_tensor **out) {
  const setting *s = in->s;
  al_tensor *n = lengths(s, 0, s->T), *v = in->t[V];
  const char *scale = strstr(s->options, "scale=");
  al_tensor *w = al_run(c, "scores", AL_IN(mapped(s, in->t[Q]), mapped(s, in->t[K]), n),
                        "causal=true scale=%g", scale ? strtod(scale + 6, NULL) : 1);
  w = al_run(c, "weights", AL_IN(w, NULL, in->t[DECAY], in->t[COEFFICIENTS], n),
             "f=polynomial coefficients=%s causal=true", s->coefficients);
  if (in->t[SCALES])
    v = al_run(c, "mul", AL_IN(v, al_run(c, "unsqueeze", AL_IN(in->t[SCALES]), "axis=-1")), "");
  out[Y] = al_run(c, "mix", AL_IN(w, v, n), "causal=true");
  out[W] = al_run(c, "sum", AL_IN(w), "axes={-1}");
  out[NEXT] = out[NEXT_NORM] = NULL;
  if (strstr(s->options, "stat=none")) out[W] = al_run(c, "scale", AL_IN(out[W]), "by=0");
  if (!strstr(s->options, "normalise")) return;
  al_tensor *by =
      al_run(c, "permute", AL_IN(al_run(c, "inverse", AL_IN(out[W]), "")), "axes={0,2,1}");
  out[Y] = al_run(c, "mul", AL_IN(out[Y], al_run(c, "unsqueeze", AL_IN(by), "axis=-1")), "");
}

/* cuts: where pieces end, the last one at T by 0; NULL: composed. The loss reads y, W where weights
 * are not divided by it and, with `states`, the final state. */
static outcome evaluate(const setting *s, al_dtype t, const int *cuts, bool state, bool states) {
  inputs in = make(s, t, state);
  al_tensor *out[N_OUT], *loss = NULL;
  if (cuts) chunked(&in, cuts, out);
  else composed(&in, out);
  outcome r = {.size = {0}};
  for (int i = 0; i < N_OUT; i++) {
    if (!out[i] || (i >= NEXT && !states)) continue;
    r.size[i] = al_numel(out[i]);
    r.v[i] = attn_case_values(out[i]);
    if (i == W && strstr(s->options, "normalise")) continue;
    double *w = malloc((size_t)r.size[i] * sizeof *w);
    for (int64_t j = 0; j < r.size[i]; j++) w[j] = (float)sin(1.3 * (double)j + i);
    al_tensor *by = al_tensor_from(c, t, al_ndim(out[i]), al_shape(out[i]), w, r.size[i]);
    al_tensor *sum = al_run(c, "sum", AL_IN(al_run(c, "mul", AL_IN(out[i], by), "")), "");
    loss = loss ? al_run(c, "add", AL_IN(loss, sum), "") : sum;
    free(w);
  }
  al_backward(c, loss, NULL);
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  for (int i = 0; i < N_IN; i++) {
    al_tensor *g = in.t[i] ? al_grad(in.t[i]) : NULL;
    if (!g) continue;
    r.size[N_OUT + i] = al_numel(g);
    r.v[N_OUT + i] = attn_case_values(g);
  }
  return r;
}

static void compare(const char *what, const outcome *a, const outcome *b, double limit) {
  static const char *const names[] = {
      "y",  "W",      "state",         "norm_state",   "dq",     "dk",
      "dv", "ddecay", "dcoefficients", "dvalue_scale", "dstate", "dnorm_state"};
  for (int i = 0; i < N_KEPT; i++) {
    if (!a->v[i] && !b->v[i]) continue;
    ck_assert_msg(a->v[i] && b->v[i] && a->size[i] == b->size[i], "%s: %s: sizes", what, names[i]);
    double size = 0;
    for (int64_t j = 0; j < b->size[i]; j++) size = fmax(size, fabs(b->v[i][j]));
    if (size == 0) {
      for (int64_t j = 0; j < a->size[i]; j++) ck_assert(a->v[i][j] == 0);
      continue;
    }
    const double e = rms_ratio(a->v[i], b->v[i], a->size[i]);
    ck_assert_msg(e <= limit, "setting %s: %s differs by %.2e", what, names[i], e);
  }
}

static const int whole[] = {0}, odd[] = {1, 34, 99, 0}, even[] = {64, 128, 0};

START_TEST(all_at_once_is_composed) {
  const setting *s = &settings[_i];
  outcome want = evaluate(s, AL_F64, NULL, false, false),
          got = evaluate(s, AL_F64, whole, false, false),
          single = evaluate(s, AL_F32, whole, false, false);
  compare(s->coefficients, &got, &want, 1e-10);
  compare(s->coefficients, &single, &want, 1e-5);
  outcome_free(&want), outcome_free(&got), outcome_free(&single);
}
END_TEST

START_TEST(split_is_composed) {
  const setting *s = &settings[_i];
  outcome want = evaluate(s, AL_F64, NULL, false, false);
  for (int i = 0; i < 2; i++) {
    const int *cuts = i ? even : odd;
    outcome got = evaluate(s, AL_F64, cuts, false, false),
            single = evaluate(s, AL_F32, cuts, false, false);
    compare(s->coefficients, &got, &want, 1e-10);
    compare(s->coefficients, &single, &want, 1e-5);
    outcome_free(&got), outcome_free(&single);
  }
  outcome_free(&want);
}
END_TEST

/* From a state that is not zero, with a gradient from the final one. */
START_TEST(split_is_whole) {
  const setting *s = &settings[_i];
  outcome want = evaluate(s, AL_F64, whole, true, true);
  ck_assert(want.v[N_OUT + STATE] != NULL && want.v[NEXT] != NULL);
  for (int i = 0; i < 3; i++) {
    const int *cuts = i == 0 ? odd : i == 1 ? even : whole;
    outcome got = evaluate(s, AL_F64, cuts, true, true),
            single = evaluate(s, AL_F32, cuts, true, true);
    compare(s->coefficients, &got, &want, 1e-10);
    compare(s->coefficients, &single, &want, 2e-5);
    outcome_free(&got), outcome_free(&single);
  }
  outcome_free(&want);
}
END_TEST

/* One head for several threads: segments are shared out, and no bit changes. */
START_TEST(threads_change_nothing) {
  setting s = settings[_i];
  s.T = s.D > 10 ? 1030 : 2100, s.len[0] = s.T, s.len[1] = s.T - 999;
  for (int t = AL_F64; t <= AL_F32; t++) {
    al_set_threads(1);
    outcome one = evaluate(&s, (al_dtype)t, whole, true, true);
    for (int n = 2; n < 8; n += 3) {
      al_set_threads(n);
      outcome r = evaluate(&s, (al_dtype)t, whole, true, true);
      for (int i = 0; i < N_KEPT; i++)
        ck_assert_msg(!one.v[i] || memcmp(r.v[i], one.v[i], (size_t)r.size[i] * 8) == 0,
                      "%s: %d threads change number %d", s.coefficients, n, i);
      outcome_free(&r);
    }
    outcome_free(&one);
  }
}
END_TEST

/* ---- what no number may depend on ------------------------------------------------------------ */

static void spoil(al_tensor *t, int batch, int from) {
  if (!t) return;
  double *v = attn_case_values(t);
  const int64_t row = al_numel(t) / B, token = row / al_size(t, 1);
  for (int64_t i = from * token; i < row; i++) v[batch * row + i] = NAN;
  al_write(t, v, al_numel(t));
  free(v);
}

typedef struct numbers {
  double *v[N_OUT + 1]; /* outputs, dq */
} numbers;

static numbers plain(const inputs *in) {
  al_tensor *out[N_OUT];
  numbers r = {{0}};
  al_set_grad(in->t[Q], NULL);
  chunked(in, whole, out);
  for (int i = 0; i < N_OUT; i++)
    if (out[i]) r.v[i] = attn_case_values(out[i]);
  al_tensor *loss = al_run(c, "sum", AL_IN(al_run(c, "mul", AL_IN(out[Y], out[Y]), "")), "");
  al_backward(c, loss, NULL);
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  r.v[N_OUT] = attn_case_values(al_grad(in->t[Q]));
  return r;
}

static void expect_rows(const char *what, const setting *s, const numbers *a, const numbers *b,
                        int batch, int rows) {
  const int64_t at[] = {0, s->H * s->E, s->H * s->D};
  for (int i = 0; i < 2; i++) { /* y, dq: tokens first */
    const int64_t width = at[i + 1], from = batch * s->T * width;
    const double *x = a->v[i ? N_OUT : Y] + from, *y = b->v[i ? N_OUT : Y] + from;
    ck_assert_msg(memcmp(x, y, (size_t)(rows * width) * 8) == 0, "%s: %s: %s of row %d",
                  s->coefficients, what, i ? "dq" : "y", batch);
  }
  for (int h = 0; h < s->H; h++) {
    const int64_t from = (int64_t)(batch * s->H + h) * s->T;
    ck_assert_msg(memcmp(a->v[W] + from, b->v[W] + from, (size_t)rows * 8) == 0, "%s: %s: W",
                  s->coefficients, what);
  }
}

static void numbers_free(numbers *n) {
  for (int i = 0; i <= N_OUT; i++) free(n->v[i]);
}

START_TEST(sees_no_later_token_and_no_other_row) {
  static const int cuts[] = {1, 33, 64, 97};
  for (int t = AL_F64; t <= AL_F32; t++) {
    setting s = settings[_i];
    s.len[0] = s.len[1] = s.T;
    inputs in = make(&s, (al_dtype)t, true);
    numbers clean = plain(&in);
    for (int i = 0; i < 4; i++) {
      inputs bad = make(&s, (al_dtype)t, true);
      for (int x = Q; x <= SCALES; x++)
        if (x != COEFFICIENTS)
          for (int b = 0; b < B; b++) spoil(bad.t[x], b, cuts[i]);
      numbers r = plain(&bad);
      for (int b = 0; b < B; b++) expect_rows("a later token", &s, &r, &clean, b, cuts[i]);
      numbers_free(&r);
    }
    inputs bad = make(&s, (al_dtype)t, true);
    for (int x = Q; x <= NORM; x++)
      if (x != COEFFICIENTS) spoil(bad.t[x], 1, 0);
    numbers r = plain(&bad);
    expect_rows("another batch row", &s, &r, &clean, 0, s.T);
    const size_t state = (size_t)(s.Hs * s.R * s.E) * 8;
    ck_assert(memcmp(r.v[NEXT], clean.v[NEXT], state) == 0);
    numbers_free(&r), numbers_free(&clean);
  }
}
END_TEST

/* What is past the length is not read; a row of length 0 hands on its state bit for bit. */
START_TEST(hidden_tokens_change_nothing) {
  for (int t = AL_F64; t <= AL_F32; t++) {
    setting s = settings[_i];
    s.len[0] = s.T * 2 / 3, s.len[1] = 0;
    inputs in = make(&s, (al_dtype)t, true), bad = make(&s, (al_dtype)t, true);
    for (int b = 0; b < B; b++) {
      spoil(bad.t[K], b, s.len[b]), spoil(bad.t[V], b, s.len[b]);
      spoil(bad.t[DECAY], b, s.len[b]), spoil(bad.t[SCALES], b, s.len[b]);
    }
    numbers clean = plain(&in), r = plain(&bad);
    for (int b = 0; b < B; b++) expect_rows("a hidden token", &s, &r, &clean, b, s.T);
    for (int i = NEXT; i <= NEXT_NORM; i++) {
      if (!clean.v[i]) continue;
      const int64_t n = s.Hs * s.R * (i == NEXT ? s.E : 1);
      double *given = attn_case_values(in.t[STATE + i - NEXT]);
      ck_assert(memcmp(r.v[i], clean.v[i], (size_t)(2 * n) * 8) == 0);
      ck_assert(memcmp(r.v[i] + n, given + n, (size_t)n * 8) == 0);
      free(given);
    }
    numbers_free(&r), numbers_free(&clean);
  }
}
END_TEST

/* A kernel of its own for linear weights without a state: the same function. */
START_TEST(linear_kernels_agree) {
  setting s = settings[0];
  s.scaled = false;
  inputs in = make(&s, AL_F64, false);
  al_tensor *out[N_OUT], *n = lengths(&s, 0, s.T);
  chunked(&in, whole, out);
  al_tensor *y = al_run(c, "attend_chunked", AL_IN(in.t[Q], in.t[K], in.t[V], NULL, NULL, n),
                        "causal=true %s", s.options);
  al_tensor *twice = al_run(c, "attend_chunked", AL_IN(in.t[Q], in.t[K], in.t[V], NULL, NULL, n),
                            "causal=true coefficients={0,2} feature_map=elu1 scale=0.5 stat=none"),
            *once = al_run(c, "attend_chunked", AL_IN(in.t[Q], in.t[K], in.t[V], NULL, NULL, n),
                           "causal=true feature_map=elu1 stat=none");
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  double *a = attn_case_values(out[Y]), *b = attn_case_values(y), *e = attn_case_values(twice),
         *f = attn_case_values(once);
  ck_assert(rms_ratio(a, b, al_numel(y)) < 1e-14);
  ck_assert(memcmp(e, f, (size_t)al_numel(y) * 8) == 0);
  free(a), free(b), free(e), free(f);
}
END_TEST

/* 54,264 features in slabs: against attend, with scratch far below (T,R). */
START_TEST(many_features_in_bounded_memory) {
  const int64_t T = 80, D = 16, R = 54264;
  al_tensor *x[3], *out[3];
  for (int i = 0; i < 3; i++) {
    x[i] = al_tensor_new(c, AL_F32, 4, (int64_t[]){1, T, 1, D});
    al_fill_normal(x[i], (uint64_t)i, 0, 1);
    al_requires_grad(x[i], true);
  }
  al_run_into(c, "attend", AL_IN(x[0], x[1], x[2]), out, 3,
              "f=polynomial coefficients={0,0,0,0,0,0,1} causal=true normalise=true scale=0.25");
  al_backward(c, al_run(c, "sum", AL_IN(out[0]), ""), NULL);
  double *want = attn_case_values(out[0]), *dk = attn_case_values(al_grad(x[1]));
  for (int i = 0; i < 3; i++) al_set_grad(x[i], NULL);
  al_memory_reset_peak(c);
  const int64_t before = al_memory(c).live;
  al_run_into(c, "attend_chunked", AL_IN(x[0], x[1], x[2]), out, 3,
              "coefficients={0,0,0,0,0,0,1} causal=true normalise=true scale=0.25");
  al_backward(c, al_run(c, "sum", AL_IN(out[0]), ""), NULL);
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  const int64_t held = al_memory(c).peak - before;
  ck_assert_msg(held < T * R * 4 / 8, "%lld bytes held", (long long)held);
  double *got = attn_case_values(out[0]), *gk = attn_case_values(al_grad(x[1]));
  ck_assert_msg(rms_ratio(got, want, T * D) < 1e-5, "y: %g", rms_ratio(got, want, T * D));
  ck_assert_msg(rms_ratio(gk, dk, T * D) < 2e-5, "dk: %g", rms_ratio(gk, dk, T * D));
  free(want), free(got), free(dk), free(gk);
}
END_TEST

/* ---- what is empty and what is refused ------------------------------------------------------- */

START_TEST(no_token_hands_on_the_state) {
  setting s = settings[2];
  al_tensor *in[9] = {0}, *out[N_OUT];
  in[0] = al_tensor_new(c, AL_F64, 4, (int64_t[]){B, 0, s.H, s.D});
  in[1] = al_tensor_new(c, AL_F64, 4, (int64_t[]){B, 0, s.Hkv, s.D});
  in[2] = al_tensor_new(c, AL_F64, 4, (int64_t[]){B, 0, s.Hkv, s.E});
  in[7] = leaf(AL_F64, "state", false, 4, (int64_t[]){B, s.Hs, s.R, s.E});
  in[8] = leaf(AL_F64, "norm", false, 3, (int64_t[]){B, s.Hs, s.R});
  for (int given = 0; given < 2; given++) {
    al_run_into(c, "attend_chunked", in, given ? 9 : 7, out, N_OUT,
                "coefficients={1,1,0.5} causal=true carry=true");
    ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
    double *a = attn_case_values(out[NEXT]), *b = attn_case_values(in[7]);
    for (int64_t i = 0; i < al_numel(in[7]); i++) ck_assert(a[i] == (given ? b[i] : 0));
    free(a), free(b);
  }
  al_backward(c, al_run(c, "sum", AL_IN(out[NEXT]), ""), NULL);
  double *g = attn_case_values(al_grad(in[7]));
  for (int64_t i = 0; i < al_numel(in[7]); i++) ck_assert(g[i] == 1);
  free(g);
}
END_TEST

/* Rows that see no key, keys that no row sees, no channel. */
START_TEST(empty_sides) {
  for (int i = 0; i < 3; i++) {
    const int64_t T = i == 1 ? 0 : 3, S = i == 0 ? 0 : 3, D = i == 2 ? 0 : 4;
    al_tensor *q = leaf(AL_F64, "q", false, 4, (int64_t[]){2, T, 2, D}),
              *k = leaf(AL_F64, "k", false, 4, (int64_t[]){2, S, 1, D}),
              *v = leaf(AL_F64, "v", false, 4, (int64_t[]){2, S, 1, 5});
    al_tensor *y = al_run(c, "attend_chunked", AL_IN(q, k, v), "coefficients={0,0,1}");
    if (i == 2) {
      ck_assert(!y && strstr(al_error_message(c, NULL, NULL), "q: at least one channel needed"));
      al_error_clear(c);
      continue;
    }
    al_backward(c, al_run(c, "sum", AL_IN(y), ""), NULL);
    ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
    al_tensor *const zero[] = {y, al_grad(q), al_grad(k), al_grad(v)};
    for (int n = 0; n < 4; n++) {
      double *x = attn_case_values(zero[n]);
      for (int64_t j = 0; j < al_numel(zero[n]); j++) ck_assert(x[j] == 0);
      free(x);
    }
  }
}
END_TEST

static const struct {
  const char *options, *says;
  int64_t coefficients, state[4], norm[3]; /* sizes; 0: absent */
} refused[] = {
    {"coefficients={0,0}", "not all of them 0", 0, {0}, {0}},
    {"coefficients={}", "1 to 128 numbers", 0, {0}, {0}},
    {"coefficients={1,1}",
     "coefficients: shape (2) needed, one for each number of the option of "
     "that name, got (3)",
     3,
     {0},
     {0}},
    {"carry=true causal=false", "carry: causal=true needed", 0, {0}, {0}},
    {"causal=false", "state: causal=true needed", 0, {2, 2, 3, 5}, {2, 2, 3}},
    {"", "state: state and norm_state needed with stat=sum, got state alone", 0, {2, 2, 3, 5}, {0}},
    {"", "got norm_state alone", 0, {0}, {2, 2, 3}},
    {"stat=none", "state: state alone needed with stat=none, got both", 0, {2, 2, 3, 5}, {2, 2, 3}},
    {"coefficients={1,1,0.5}",
     "state: shape (2,2,10,5) (batch, heads that share a state, "
     "features, channels of v) needed, got (2,2,3,5)",
     0,
     {2, 2, 3, 5},
     {2, 2, 3}},
    {"",
     "norm_state: shape (2,2,3) (batch, heads that share a state, features) needed, got "
     "(2,1,3)",
     0,
     {2, 2, 3, 5},
     {2, 1, 3}},
};

START_TEST(refuses_with_the_reason) {
  al_tensor *in[9] = {0}, *out[N_OUT];
  for (int i = 0; i < 3; i++)
    in[i] = al_tensor_full(c, AL_F64, 4, (int64_t[]){2, 7, i ? 2 : 4, i == 2 ? 5 : 3}, 1);
  if (refused[_i].coefficients) in[4] = al_tensor_full(c, AL_F64, 1, &refused[_i].coefficients, 1);
  if (refused[_i].state[0]) in[7] = al_tensor_full(c, AL_F64, 4, refused[_i].state, 1);
  if (refused[_i].norm[0]) in[8] = al_tensor_full(c, AL_F64, 3, refused[_i].norm, 1);
  al_run_into(c, "attend_chunked", in, 9, out, N_OUT, "causal=true %s", refused[_i].options);
  const char *text = al_error_message(c, NULL, NULL);
  ck_assert_msg(al_error(c) != AL_OK && strstr(text, refused[_i].says), "'%s' instead of '%s'",
                text, refused[_i].says);
  al_error_clear(c);
}
END_TEST

START_TEST(refuses_features_beyond_use) {
  al_tensor *x = al_tensor_full(c, AL_F32, 4, (int64_t[]){1, 3, 1, 64}, 1);
  al_tensor *y = al_run(c, "attend_chunked", AL_IN(x, x, x),
                        "causal=true coefficients={1,0,0,0,0,0,0,0,0,0,0,0,1}");
  ck_assert_msg(!y && strstr(al_error_message(c, NULL, NULL), "at most 16777216 features"), "%s",
                al_error_message(c, NULL, NULL));
  al_error_clear(c);
}
END_TEST

Suite *suite_check_polynomial(void) {
  Suite *s = suite_create("polynomial weights in chunks");
  TCase *t = tcase_create("polynomial");
  tcase_set_timeout(t, 300);
  tcase_add_checked_fixture(t, begin, end);
  tcase_add_loop_test(t, all_at_once_is_composed, 0, N_SETTINGS);
  tcase_add_loop_test(t, split_is_composed, 0, N_SETTINGS);
  tcase_add_loop_test(t, split_is_whole, 0, N_SETTINGS);
  tcase_add_loop_test(t, threads_change_nothing, 0, N_SETTINGS);
  tcase_add_loop_test(t, sees_no_later_token_and_no_other_row, 0, N_SETTINGS);
  tcase_add_loop_test(t, hidden_tokens_change_nothing, 0, N_SETTINGS);
  tcase_add_test(t, linear_kernels_agree);
  tcase_add_test(t, many_features_in_bounded_memory);
  tcase_add_test(t, no_token_hands_on_the_state);
  tcase_add_loop_test(t, refuses_with_the_reason, 0, (int)(sizeof refused / sizeof refused[0]));
  tcase_add_test(t, refuses_features_beyond_use);
  tcase_add_test(t, empty_sides);
  suite_add_tcase(s, t);
  return s;
}
