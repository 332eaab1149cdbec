/* test_slots.c: the rows of the tables that attention's slots are made of: value and slope of each in
 * f32 against f64, and f64 against differences, at 0, denormals, +-20, +-100, +-1e4, +-inf and NaN;
 * what a statistic's row must hold; the maps of the kernels against their entries. */
#include "../core/attnlab.h"
#include "../kernels/attn_slots.h"
#include <check.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static al_ctx *c;
static void begin(void) {
  c = al_ctx_new();
  al_scope_begin(c);
}
static void end(void) {
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  al_scope_end(c, NULL);
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}

static const double POINTS[] = {0,    1e-40, -1e-40, 0.5,  -0.5,     20,        -20, 100,
                                -100, 1e4,   -1e4,   2.25, INFINITY, -INFINITY, NAN};
enum { N = sizeof POINTS / sizeof *POINTS };

/* y and dx for g = 1 of an op on numbers of shape (1,1,1,n). */
static void run(const char *op, const char *options, al_dtype dtype, int n, const double *x,
                double *y, double *dx) {
  const int64_t shape[] = {1, 1, 1, n};
  al_tensor *t = al_tensor_from(c, dtype, 4, shape, x, n);
  al_requires_grad(t, true);
  al_tensor *out = al_run(c, op, AL_IN(t), "%s", options);
  ck_assert_msg(out != NULL, "%s", al_error_message(c, NULL, NULL));
  al_read(out, y, n);
  if (!dx) return;
  ck_assert_int_eq(al_backward(c, al_run(c, "sum", AL_IN(out), ""), NULL), AL_OK);
  for (int i = 0; i < n; i++) dx[i] = 0;
  if (al_grad(t)) al_read(al_grad(t), dx, n);
}

/* Beyond f32 either side is right, and what is below its smallest normal number counts as 0. An entry
 * may cost as many ulp as the argument of an exponential in it is large, and a slope that is made of a
 * rounded y is right to `ulp`, that of 1. */
static void close_to(const char *what, double x, double got, double want, double ulp) {
  if (isnan(want) || isnan(got)) {
    ck_assert_msg(isnan(want) && isnan(got), "%s at %g: %g needed, got %g", what, x, want, got);
    return;
  }
  if (fabs(want) > (double)FLT_MAX * (1 - 1e-6)) {
    ck_assert_msg(fabs(got) > 3.4e38 && (got > 0) == (want > 0), "%s at %g: %g needed, got %g",
                  what, x, want, got);
    return;
  }
  ck_assert_msg(fabs(got - want) <= 2e-5 * fabs(want) + (double)FLT_MIN + ulp,
                "%s at %g: %g needed, got %g", what, x, want, got);
}

/* The slope of f64 against a difference of f64, where both are finite and no kink is near. */
static void slope_is_a_difference(const char *op, const char *options, const double *x,
                                  const double *dx, int n) {
  double at[2 * N], y[2 * N];
  for (int i = 0; i < n; i++) {
    const double h = 1e-7 * (fabs(x[i]) > 1 ? fabs(x[i]) : 1);
    at[i] = x[i] - h, at[n + i] = x[i] + h;
  }
  run(op, options, AL_F64, 2 * n, at, y, NULL);
  for (int i = 0; i < n; i++) {
    const double difference = (y[n + i] - y[i]) / (at[n + i] - at[i]);
    if (!isfinite(difference) || fabs(x[i]) < 0.4) continue;
    const double size = fabs(y[i]) + fabs(y[n + i]) + fabs(dx[i]) * fabs(at[n + i] - at[i]);
    const double slack = 1e-5 * fabs(dx[i]) + 1e-15 * size / (at[n + i] - at[i]) + 1e-12;
    ck_assert_msg(fabs(dx[i] - difference) <= slack || !isfinite(size),
                  "%s %s: slope at %g: %.9g by differences, got %.9g", op, options, x[i],
                  difference, dx[i]);
  }
}

/* The points where f32 and f64 see the same number. */
static void check_function(const char *op, const char *options, bool smooth) {
  char what[160];
  double x[N], y64[N], y32[N], d64[N], d32[N];
  for (int i = 0; i < N; i++) x[i] = (double)(float)POINTS[i];
  run(op, options, AL_F64, N, x, y64, d64);
  run(op, options, AL_F32, N, x, y32, d32);
  for (int i = 0; i < N; i++) {
    snprintf(what, sizeof what, "%s %s", op, options);
    close_to(what, x[i], y32[i], y64[i], 0);
    snprintf(what, sizeof what, "slope of %s %s", op, options);
    close_to(what, x[i], d32[i], d64[i], (double)FLT_EPSILON);
  }
  if (smooth) slope_is_a_difference(op, options, x, d64, N);
}

/* ---- functions ------------------------------------------------------------------------------- */

START_TEST(every_function_at_the_ends) {
  const alk_function *f = &alk_functions[_i];
  char options[64] = "";
  if (*f->parameter) snprintf(options, sizeof options, "%s=-0.75", f->parameter);
  const bool never = _i == ALK_PW_sign, steps = _i == ALK_PW_round_bf16;
  if (never) { /* no gradient */
    double x[N], y64[N], y32[N];
    for (int i = 0; i < N; i++) x[i] = (double)(float)POINTS[i];
    run(f->word, options, AL_F64, N, x, y64, NULL);
    run(f->word, options, AL_F32, N, x, y32, NULL);
    for (int i = 0; i < N; i++) close_to(f->word, x[i], y32[i], y64[i], 0);
    return;
  }
  check_function(f->word, options, !steps);
}
END_TEST

START_TEST(signs_are_what_they_say) {
  const alk_function *f = &alk_functions[_i];
  double x[2001], y[2001];
  char options[64] = "";
  if (*f->parameter) snprintf(options, sizeof options, "%s=-0.75", f->parameter);
  for (int i = 0; i < 2001; i++) x[i] = (i - 1000) / 50.0;
  run(f->word, options, AL_F64, 2001, x, y, NULL);
  bool below = false;
  for (int i = 0; i < 2001; i++) below |= y[i] < 0;
  ck_assert_msg(!(below && f->nonnegative), "%s is below 0 somewhere", f->word);
}
END_TEST

static const char *const similarities[] = {
#define SIMILARITY(word, text) text,
#include "../attention/similarities.def"
#undef SIMILARITY
};
enum { N_SIMILARITIES = sizeof similarities / sizeof *similarities };

START_TEST(every_similarity_at_the_ends) {
  char options[600];
  snprintf(options, sizeof options, "expr='%s'", similarities[_i]);
  check_function("expression", options, true);
}
END_TEST

/* ---- maps of kernels ------------------------------------------------------------------------- */

/* One key, weights that are the logit: y = phi(q).phi(k) v with v = 1. */
static al_tensor *product(al_tensor *q, al_tensor *k, const char *map, al_dtype dtype) {
  const int64_t shape[] = {1, 1, 1, 1};
  al_tensor *one = al_tensor_full(c, dtype, 4, shape, 1);
  return al_run(c, "attend", AL_IN(q, k, one),
                "f=polynomial coefficients={0,1} stat=none feature_map=%s", map);
}

START_TEST(maps_of_kernels_are_their_entries) {
  const alk_function f = alk_map_text((alk_map)_i);
  const al_dtype types[] = {AL_F64, AL_F32};
  for (int t = 0; t < 2; t++)
    for (int i = 0; i < N; i++) {
      if (!isfinite(POINTS[i]) || fabs(POINTS[i]) > 50) continue;
      const double x[] = {POINTS[i], 0.75, -1.5};
      const int64_t shape[] = {1, 1, 1, 3};
      al_tensor *q[2];
      double y[2], dq[2][3];
      for (int own = 0; own < 2; own++) { /* in the kernel, and as an op before it */
        q[own] = al_tensor_from(c, types[t], 4, shape, x, 3);
        al_requires_grad(q[own], true);
        al_tensor *k = al_tensor_full(c, types[t], 4, shape, 0.5), *a = q[own];
        if (own && _i == ALK_MAP_l2) {
          a = al_run(c, "l2norm", AL_IN(a), "eps=1e-12");
          k = al_run(c, "l2norm", AL_IN(k), "eps=1e-12");
        } else if (own) {
          a = al_run(c, f.word, AL_IN(a), "");
          k = al_run(c, f.word, AL_IN(k), "");
        }
        al_tensor *out = product(a, k, own ? "identity" : f.word, types[t]);
        ck_assert_int_eq(al_backward(c, al_run(c, "sum", AL_IN(out), ""), NULL), AL_OK);
        al_read(out, &y[own], 1);
        al_read(al_grad(q[own]), dq[own], 3);
      }
      const double eps = types[t] == AL_F64 ? 1e-13 : 1e-5;
      ck_assert_msg(fabs(y[0] - y[1]) <= eps * (1 + fabs(y[1])), "%s at %g: %g, not %g", f.word,
                    x[0], y[0], y[1]);
      for (int d = 0; d < 3; d++)
        ck_assert_msg(fabs(dq[0][d] - dq[1][d]) <= eps * (1 + fabs(dq[1][d])),
                      "slope of %s at %g: %g, not %g", f.word, x[d], dq[0][d], dq[1][d]);
    }
}
END_TEST

/* ---- statistics ------------------------------------------------------------------------------ */

static al_tensor *entry(alk_pointwise function, double parameter, al_tensor *t) {
  const alk_function *f = &alk_functions[function];
  return *f->parameter ? al_run(c, f->word, AL_IN(t), "%s=%.17g", f->parameter, parameter)
                       : al_run(c, f->word, AL_IN(t), "");
}

/* exp carries its row's largest weight outside: outer(sum inner(c w)) = c outer(sum inner(w)). */
START_TEST(statistics_carry_a_factor) {
  const alk_statistic *s = &alk_statistics[_i];
  const double factors[] = {1, 0x1p20, 0x1p-20};
  double W[3] = {0};
  for (int i = 0; i < 3; i++) {
    double w[64];
    for (int j = 0; j < 64; j++) w[j] = factors[i] * (1.5 + sin(j * 1.7));
    const int64_t n = 64;
    al_tensor *t = al_tensor_from(c, AL_F64, 1, &n, w, n);
    t = entry(s->outer, s->q, al_run(c, "sum", AL_IN(entry(s->inner, s->p, t)), ""));
    al_read(t, &W[i], 1);
  }
  for (int i = 1; i < 3; i++)
    ck_assert_msg(fabs(W[i] - factors[i] * W[0]) <= 1e-13 * factors[i] * W[0],
                  "%s: of weights times %g: %.17g needed, got %.17g", s->word, factors[i],
                  factors[i] * W[0], W[i]);
}
END_TEST

/* The kernel's W and its gradients are those of small ops, for weights of either sign and with a row
 * reference. */
START_TEST(statistics_of_the_kernel) {
  const alk_statistic *s = &alk_statistics[_i];
  static const char *const fs[] = {"f=polynomial coefficients={0.2,1,0.3}", "f=exp"};
  const int64_t shape[] = {1, 5, 1, 2};
  for (int f = 0; f < 2; f++) {
    double W[2][5], dq[2][10];
    for (int small = 0; small < 2; small++) {
      al_tensor *q = al_tensor_new(c, AL_F64, 4, shape), *k = al_tensor_new(c, AL_F64, 4, shape);
      al_fill_normal(q, 1, 0, 1);
      al_fill_normal(k, 2, 0, 1);
      al_requires_grad(q, true);
      al_tensor *out[3] = {NULL}, *w;
      if (small) {
        w = al_run(c, "weights", AL_IN(al_run(c, "scores", AL_IN(q, k), "causal=true")),
                   "causal=true %s", fs[f]);
        out[1] =
            entry(s->outer, s->q, al_run(c, "sum", AL_IN(entry(s->inner, s->p, w)), "axes={-1}"));
      } else {
        al_run_into(c, "attend", AL_IN(q, k, k), out, 3, "causal=true stat=%s %s", s->word, fs[f]);
        if (f == 1) /* relative to e^m */
          out[1] = al_run(c, "mul", AL_IN(out[1], al_run(c, "exp", AL_IN(out[2]), "")), "");
      }
      ck_assert_int_eq(al_backward(c, al_run(c, "sum", AL_IN(out[1]), ""), NULL), AL_OK);
      al_read(out[1], W[small], 5);
      al_read(al_grad(q), dq[small], 10);
    }
    for (int i = 0; i < 5; i++)
      ck_assert_msg(fabs(W[0][i] - W[1][i]) <= 1e-12 * (1 + fabs(W[1][i])),
                    "%s, %s: W_%d = %g, not %g", s->word, fs[f], i, W[0][i], W[1][i]);
    for (int i = 0; i < 10; i++)
      ck_assert_msg(fabs(dq[0][i] - dq[1][i]) <= 1e-11 * (1 + fabs(dq[1][i])),
                    "%s, %s: gradient %d is %g, not %g", s->word, fs[f], i, dq[0][i], dq[1][i]);
  }
}
END_TEST

/* ---- norms ----------------------------------------------------------------------------------- */

/* A row of each size; y and dx relative to the row's largest, since their terms cancel. */
START_TEST(every_norm_at_the_ends) {
  enum { ROW = 5 };
  const double direction[ROW] = {1, -0.5, 0.25, 0.75, -1.25};
  char op[32];
  snprintf(op, sizeof op, "%snorm", alk_norms[_i].word);
  for (int i = 0; i < N; i++) {
    double x[ROW], y[2][ROW], dx[2][ROW];
    const bool all = isfinite(POINTS[i]); /* one number that is not, among others that are */
    for (int j = 0; j < ROW; j++)
      x[j] = (double)(float)(all ? POINTS[i] * direction[j] : j ? direction[j] : POINTS[i]);
    for (int t = 0; t < 2; t++) {
      const int64_t n = ROW;
      al_tensor *in = al_tensor_from(c, t ? AL_F32 : AL_F64, 1, &n, x, n);
      al_requires_grad(in, true);
      al_tensor *out = al_run(c, op, AL_IN(in), ""),
                *g = al_tensor_from(c, t ? AL_F32 : AL_F64, 1, &n,
                                    (double[]){0.5, 0.25, -1, 2, 0.125}, n);
      ck_assert_int_eq(
          al_backward(c, al_run(c, "sum", AL_IN(al_run(c, "mul", AL_IN(out, g), "")), ""), NULL),
          AL_OK);
      al_read(out, y[t], n);
      al_read(al_grad(in), dx[t], n);
    }
    double most[2] = {0, 0};
    for (int j = 0; j < ROW; j++)
      most[0] = fmax(most[0], fabs(y[0][j])), most[1] = fmax(most[1], fabs(dx[0][j]));
    for (int j = 0; j < ROW; j++) {
      const double got[] = {y[1][j], dx[1][j]}, want[] = {y[0][j], dx[0][j]};
      for (int v = 0; v < 2; v++)
        ck_assert_msg((isnan(got[v]) && isnan(want[v])) ||
                          fabs(got[v] - want[v]) <= 1e-5 * most[v] + (double)FLT_MIN,
                      "%s%s, row of %g: %g needed, got %g", v ? "slope of " : "", op, POINTS[i],
                      want[v], got[v]);
    }
  }
}
END_TEST

Suite *suite_test_slots(void);
Suite *suite_test_slots(void) {
  Suite *s = suite_create("slots");
  TCase *t = tcase_create("slots");
  tcase_add_checked_fixture(t, begin, end);
  tcase_add_loop_test(t, every_function_at_the_ends, 0, ALK_PW_COUNT);
  tcase_add_loop_test(t, signs_are_what_they_say, 0, ALK_PW_COUNT);
  tcase_add_loop_test(t, every_similarity_at_the_ends, 0, N_SIMILARITIES);
  tcase_add_loop_test(t, maps_of_kernels_are_their_entries, 0, ALK_MAP_COUNT);
  tcase_add_loop_test(t, statistics_carry_a_factor, ALK_STAT_none + 1, ALK_STAT_COUNT);
  tcase_add_loop_test(t, statistics_of_the_kernel, ALK_STAT_none + 1, ALK_STAT_COUNT);
  tcase_add_loop_test(t, every_norm_at_the_ends, ALK_NORM_none + 1, ALK_NORM_COUNT);
  suite_add_tcase(s, t);
  return s;
}
