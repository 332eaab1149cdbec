/* test_ops.c: what the samples of check_ops do not reach in the pointwise, broadcast, reduction,
 * softmax, norm and loss ops: sizes that run in parallel, long sums, ties, and extreme numbers; what a
 * node holds of an op. */
#include "../core/attnlab.h"
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static al_ctx *c;
static void begin(void) { c = al_ctx_new(); }
static void end(void) {
  ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
  ck_assert_int_eq(al_memory(c).live, 0);
  al_ctx_free(c);
}

#define SHAPE(...)                                                                                 \
  (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) { __VA_ARGS__ }
#define NUMBERS(...)                                                                               \
  (const double[]){__VA_ARGS__}, (int64_t)(sizeof((const double[]){__VA_ARGS__}) / sizeof(double))

static al_tensor *values(al_dtype t, int ndim, const int64_t *shape, const double *v, int64_t n) {
  al_tensor *x = al_tensor_from(c, t, ndim, shape, v, n);
  al_requires_grad(x, true);
  return x;
}
static al_tensor *normal(al_dtype t, uint64_t stream, int ndim, const int64_t *shape) {
  al_tensor *x = al_tensor_new(c, t, ndim, shape);
  al_fill_normal(x, stream, 0, 1);
  al_requires_grad(x, true);
  return x;
}
static double at(const al_tensor *t, int64_t i) {
  return al_type(t) == AL_F64 ? ((const double *)al_host(t))[i]
                              : (double)((const float *)al_host(t))[i];
}
/* y and x's gradient are these n numbers each, NaN equal to NaN; both are released but x. */
static void expect_run(al_tensor *y, al_tensor *x, const double *want, const double *dx,
                       int64_t n) {
  ck_assert_msg(y != NULL, "%s", al_error_message(c, NULL, NULL));
  al_tensor *seed = al_tensor_full(c, al_type(y), al_ndim(y), al_shape(y), 1);
  al_backward(c, y, seed);
  for (int64_t i = 0; i < al_numel(y) && want; i++)
    ck_assert_msg(fabs(at(y, i) - want[i]) <= 1e-6 * fabs(want[i]) || at(y, i) == want[i] ||
                      (isnan(at(y, i)) && isnan(want[i])),
                  "y[%d]: %g needed, got %g", (int)i, want[i], at(y, i));
  for (int64_t i = 0; i < n && dx; i++)
    ck_assert_msg(fabs(at(al_grad(x), i) - dx[i]) <= 1e-6, "dx[%d]: %g needed, got %g", (int)i,
                  dx[i], at(al_grad(x), i));
  al_release(seed);
  al_release(y);
}

/* ---- threads ---- */

static const struct {
  const char *op, *args;
  int n_in, nd[3];
  int64_t shape[3][4];
} large[] = {
    {"gelu", "", 1, {1}, {{70001}}},
    {"add", "", 2, {2, 1}, {{700, 129}, {129}}},
    {"mul", "", 2, {1, 1}, {{70001}, {70001}}},
    {"div", "", 2, {3, 3}, {{100, 33, 17}, {100, 33, 1}}},
    {"sum", "", 1, {1}, {{70001}}},
    {"sum", "axes={0}", 1, {2}, {{3001, 37}}},
    {"sum", "axes={0,2}", 1, {3}, {{67, 31, 45}}},
    {"mean", "axes={1}", 1, {3}, {{5, 1000, 300}}},
    {"max", "axes={-1}", 1, {2}, {{700, 129}}},
    {"min", "axes={0}", 1, {2}, {{700, 129}}},
    {"l2", "axes={0}", 1, {2}, {{700, 129}}},
    {"softmax", "", 1, {2}, {{700, 129}}},
    {"log_softmax", "axis=0", 1, {2}, {{700, 129}}},
    {"softmax", "axis=1", 1, {3}, {{4, 130, 100}}},
    {"cumsum", "", 1, {2}, {{701, 129}}},
    {"cumsum", "axis=0", 1, {2}, {{700, 129}}},
    {"rmsnorm", "", 2, {2, 1}, {{1001, 64}, {64}}},
    {"layernorm", "", 3, {2, 1, 1}, {{1001, 64}, {64}, {64}}},
    {"l2norm", "", 2, {3, 1}, {{10, 501, 33}, {33}}},
};
enum { N_LARGE = sizeof large / sizeof large[0] };

/* Output and gradients of a large case in a row. */
static double *run_large(int i, al_dtype t, int threads, int64_t *n) {
  al_tensor *in[3] = {0};
  double *all = NULL;
  *n = 0;
  al_set_threads(threads);
  for (int j = 0; j < large[i].n_in; j++)
    in[j] = normal(t, 7 + (uint64_t)j, large[i].nd[j], large[i].shape[j]);
  al_tensor *y = al_run(c, large[i].op, in, large[i].n_in, "%s", large[i].args);
  ck_assert_msg(y != NULL, "%s", al_error_message(c, NULL, NULL));
  al_tensor *seed = al_tensor_new(c, t, al_ndim(y), al_shape(y));
  al_fill_normal(seed, 3, 0, 1);
  al_backward(c, y, seed);
  for (int j = -1; j < large[i].n_in; j++) {
    const al_tensor *r = j < 0 ? y : al_grad(in[j]);
    all = realloc(all, (size_t)(*n + al_numel(r)) * sizeof *all);
    al_read(r, all + *n, al_numel(r));
    *n += al_numel(r);
  }
  for (int j = 0; j < large[i].n_in; j++) al_release(in[j]);
  al_release(seed);
  al_release(y);
  return all;
}

/* The same bits with 1 and 3 threads; f32 near f64: the inputs differ by their rounding, 6e-8, and
 * a ratio of root mean squares hides no single wrong block. */
START_TEST(threads) {
  int64_t n, n3, n64;
  double *one = run_large(_i, AL_F32, 1, &n), *three = run_large(_i, AL_F32, 3, &n3);
  double *wide = run_large(_i, AL_F64, 2, &n64), d = 0, s = 0;
  ck_assert(n == n3 && n == n64);
  ck_assert_msg(memcmp(one, three, (size_t)n * sizeof *one) == 0,
                "%s {%s}: threads change the result", large[_i].op, large[_i].args);
  const bool reciprocal =
      strcmp(large[_i].op, "div") == 0; /* 1 / b^2 of a normal b: judge by size */
  for (int64_t i = 0; i < n; i++) {
    const double w = reciprocal ? 1 / (1e-3 + wide[i] * wide[i]) : 1;
    d += w * (one[i] - wide[i]) * (one[i] - wide[i]);
    s += w * wide[i] * wide[i];
  }
  ck_assert_msg(sqrt(d / s) < 1e-6, "%s {%s}: f32 differs from f64 by %.3g", large[_i].op,
                large[_i].args, sqrt(d / s));
  free(one);
  free(three);
  free(wide);
}
END_TEST

/* ---- sums ---- */

/* 3 million numbers of one sign: a plain f32 loop is off by 1e-3. */
START_TEST(long_sums) {
  static const int64_t shapes[][2] = {{1, 3000000}, {3000000, 1}, {1000000, 3}};
  for (int k = 0; k < 3; k++)
    for (int mean = 0; mean < 2; mean++) {
      al_tensor *x = al_tensor_full(c, AL_F32, 2, shapes[k], (double)0.1f);
      al_tensor *y = al_run(c, mean ? "mean" : "sum", AL_IN(x), "axes={%d}", k > 0 ? 0 : 1);
      const double want =
          (double)0.1f * (mean ? 1 : (double)(shapes[k][0] > 1 ? shapes[k][0] : shapes[k][1]));
      ck_assert_msg(fabs(at(y, 0) / want - 1) < 1e-6, "shape %d: %.9g needed, got %.9g", k, want,
                    at(y, 0));
      al_release(x);
      al_release(y);
    }
  al_tensor *x = al_tensor_full(c, AL_F32, SHAPE(1000000), (double)0.1f),
            *y = al_run(c, "cumsum", AL_IN(x), "");
  ck_assert_double_eq_tol(at(y, 999999) / (double)0.1f, 1e6, 0.1);
  al_release(x);
  al_release(y);
}
END_TEST

START_TEST(first_winner) {
  al_tensor *x = values(AL_F64, SHAPE(2, 2, 3), NUMBERS(1, 5, 2, 5, 0, 5, 5, 5, 1, 7, 7, 7));
  expect_run(al_run(c, "max", AL_IN(x), ""), x, (double[]){7},
             (double[]){0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0}, 12);
  al_set_grad(x, NULL);
  expect_run(al_run(c, "max", AL_IN(x), "axes={0,2}"), x, (double[]){5, 7},
             (double[]){0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0}, 12);
  al_set_grad(x, NULL);
  expect_run(al_run(c, "min", AL_IN(x), "axes={-1}"), x, (double[]){1, 0, 1, 7},
             (double[]){1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0}, 12);
  al_release(x);
  x = values(AL_F32, SHAPE(2, 3), NUMBERS(1, NAN, 2, -INFINITY, -INFINITY, -INFINITY));
  expect_run(al_run(c, "max", AL_IN(x), "axes={1}"), x, (double[]){NAN, -INFINITY},
             (double[]){0, 1, 0, 1, 0, 0}, 6);
  al_release(x);
  al_tensor *a = values(AL_F32, SHAPE(3), NUMBERS(1, 2, NAN)),
            *b = values(AL_F32, SHAPE(3), NUMBERS(1, NAN, 2));
  expect_run(al_run(c, "maximum", AL_IN(a, b), ""), a, (double[]){1, NAN, NAN}, NULL, 0);
  al_release(a);
  al_release(b);
}
END_TEST

START_TEST(empty_reductions) {
  al_tensor *x = al_tensor_new(c, AL_F32, SHAPE(0, 3));
  al_requires_grad(x, true);
  expect_run(al_run(c, "sum", AL_IN(x), "axes={0}"), x, (double[]){0, 0, 0}, NULL, 0);
  ck_assert_ptr_null(al_run(c, "max", AL_IN(x), "axes={0}"));
  ck_assert_ptr_nonnull(strstr(al_error_message(c, NULL, NULL), "max: x: at least one element"));
  al_error_clear(c);
  ck_assert_ptr_null(al_run(c, "sum", AL_IN(x), "axes={1,-1}"));
  ck_assert_ptr_nonnull(
      strstr(al_error_message(c, NULL, NULL), "entry 2 of the list is there before"));
  al_error_clear(c);
  al_tensor *y = al_run(c, "l2", AL_IN(x), "axes={1}");
  ck_assert_int_eq(al_numel(y), 0);
  al_release(y);
  al_release(x);
  x = values(AL_F32, SHAPE(2, 2), NUMBERS(0, 0, 3, 4));
  expect_run(al_run(c, "l2", AL_IN(x), "axes={1}"), x, (double[]){0, 5}, (double[]){0, 0, 0.6, 0.8},
             4);
  al_release(x);
}
END_TEST

/* ---- softmax and cross entropy ---- */

START_TEST(softmax_edges) {
  const double inf = INFINITY, e = exp(-80);
  for (al_dtype t = AL_F64; t <= AL_F32; t++) {
    al_tensor *x =
        values(t, SHAPE(4, 3), NUMBERS(-inf, -inf, -inf, 1e4, 1e4, -inf, 80, 0, -1e30, 0, NAN, 1));
    expect_run(al_run(c, "softmax", AL_IN(x), ""), x,
               (double[]){0, 0, 0, 0.5, 0.5, 0, 1, e, 0, NAN, NAN, NAN},
               (double[]){0, 0, 0, 0, 0, 0, 0, 0, 0}, 9);
    al_set_grad(x, NULL);
    expect_run(al_run(c, "log_softmax", AL_IN(x), ""), x,
               (double[]){-inf, -inf, -inf, -log(2), -log(2), -inf, 0, -80, -1e30, NAN, NAN, NAN},
               (double[]){1, 1, 1, -0.5, -0.5, 1, -2, 1, 1}, 9);
    al_release(x);
  }
  al_tensor *x = values(AL_F32, SHAPE(2, 2), NUMBERS(-inf, 1, -inf, 1));
  expect_run(al_run(c, "softmax", AL_IN(x), "axis=0"), x, (double[]){0, 0.5, 0, 0.5},
             (double[]){0, 0, 0, 0}, 4);
  al_release(x);
}
END_TEST

START_TEST(cross_entropy_edges) {
  al_tensor *x = values(AL_F32, SHAPE(3, 2), NUMBERS(1e4, 0, 0, -INFINITY, 2, 2));
  al_tensor *t = al_tensor_from(c, AL_I32, SHAPE(3), NUMBERS(1, 0, -100));
  expect_run(al_run(c, "cross_entropy", AL_IN(x, t), ""), x, (double[]){5e3},
             (double[]){0.5, -0.5, 0, 0, 0, 0}, 6);
  al_set_grad(x, NULL);
  al_write(t, (double[]){-100, -100, -100}, 3);
  expect_run(al_run(c, "cross_entropy", AL_IN(x, t), ""), x, (double[]){0},
             (double[]){0, 0, 0, 0, 0, 0}, 6);
  static const double bad[] = {2, -1, 2147483647, -2147483648.0};
  for (int i = 0; i < 4; i++) {
    char text[64];
    al_write(t, (double[]){0, bad[i], 0}, 3);
    ck_assert_ptr_null(al_run(c, "cross_entropy", AL_IN(x, t), ""));
    snprintf(text, sizeof text, "got %.0f at position 1 of (3)", bad[i]);
    ck_assert_msg(strstr(al_error_message(c, NULL, NULL), text) != NULL, "%s",
                  al_error_message(c, NULL, NULL));
    al_error_clear(c);
  }
  al_release(t);
  al_release(x);
}
END_TEST

/* ---- norms ---- */

static const char *const norms[] = {"rmsnorm", "layernorm", "l2norm"};

/* logscale L is the norm of x e^L, for L whose exponential no f32 holds, too: then only the
 * direction counts (L large), or nothing (L small). */
START_TEST(norm_logscale) {
  static const double scales[] = {-3, 0, 2, 300, -300};
  enum { N = 24 };
  for (al_dtype t = AL_F64; t <= AL_F32; t++)
    for (int i = 0; i < 5; i++) {
      al_tensor *x = normal(t, 11, SHAPE(1, N)), *L = al_tensor_full(c, t, SHAPE(1), scales[i]);
      al_tensor *named[4] = {x, NULL, NULL, L};
      named[_i == 1 ? 3 : 2] = L;
      al_tensor *y = al_run(c, norms[_i], named, _i == 1 ? 4 : 3, "eps=0.05");
      ck_assert_msg(y != NULL, "%s", al_error_message(c, NULL, NULL));
      al_backward(c, y, y);
      double m = 0, q = 0;
      for (int j = 0; j < N && _i == 1; j++) m += at(x, j) / N;
      for (int j = 0; j < N; j++) q += (at(x, j) - m) * (at(x, j) - m);
      const double s = exp(scales[i]);
      for (int j = 0; j < N; j++) {
        const double z = (at(x, j) - m) * s;
        const double want = _i == 2 ? z / fmax(sqrt(q) * s, 0.05) : z / sqrt(q * s * s / N + 0.05);
        ck_assert_msg(fabs(at(y, j) - want) <= 1e-6, "L = %g: y[%d]: %g needed, got %g", scales[i],
                      j, want, at(y, j));
        ck_assert(isfinite(at(al_grad(x), j)));
      }
      al_release(x);
      al_release(L);
      al_release(y);
    }
}
END_TEST

/* Squares that overflow or vanish in f32, rows of zeros, eps of 0. */
START_TEST(norm_extremes) {
  static const double sizes[] = {1e30, 1e-25, 0};
  for (int i = 0; i < 3; i++) {
    const double a = sizes[i];
    al_tensor *x = values(AL_F32, SHAPE(2, 4), NUMBERS(a, -a, a, -a, a, a, -a, -a));
    double want[8];
    for (int j = 0; j < 8; j++) want[j] = a == 0 ? 0 : at(x, j) / a / (_i == 2 ? 2 : 1);
    expect_run(al_run(c, norms[_i], AL_IN(x), "eps=0"), x, want, NULL, 0);
    for (int j = 0; j < 8; j++) ck_assert(isfinite(at(al_grad(x), j)));
    al_release(x);
  }
}
END_TEST

START_TEST(l2norm_below_eps) {
  al_tensor *x = values(AL_F32, SHAPE(2, 2), NUMBERS(0.03, 0.04, 3, 4)),
            *g = values(AL_F32, SHAPE(2), NUMBERS(1, 2));
  expect_run(al_run(c, "l2norm", AL_IN(x, g), "eps=0.1"), x, (double[]){0.3, 0.8, 0.6, 1.6},
             (double[]){0, 0, -0.064, 0.048}, 4);
  ck_assert_double_eq_tol(at(al_grad(g), 0), 0.9, 1e-6);
  ck_assert_double_eq_tol(at(al_grad(g), 1), 1.2, 1e-6);
  al_release(x);
  al_release(g);
}
END_TEST

/* ---- pointwise ---- */

START_TEST(flat_parts_are_selected) {
  const double inf = INFINITY;
  al_tensor *x = values(AL_F32, SHAPE(3), NUMBERS(-1, 2, 5)),
            *seed = al_tensor_from(c, AL_F32, SHAPE(3), NUMBERS(inf, 1, inf));
  al_tensor *y = al_run(c, "clamp", AL_IN(x), "min=0 max=4");
  al_backward(c, y, seed);
  for (int i = 0; i < 3; i++) ck_assert_double_eq(at(al_grad(x), i), i == 1);
  al_release(y);
  al_release(seed);
  al_release(x);
  x = values(AL_F32, SHAPE(4), NUMBERS(-2, 0, 3, NAN));
  expect_run(al_run(c, "clamp", AL_IN(x), ""), x, (double[]){-2, 0, 3, NAN}, (double[]){1, 1, 1},
             3);
  al_set_grad(x, NULL);
  expect_run(al_run(c, "relu", AL_IN(x), ""), x, (double[]){0, 0, 3, NAN}, (double[]){0, 0, 1}, 3);
  al_set_grad(x, NULL);
  expect_run(al_run(c, "pow", AL_IN(x), "exponent=0"), x, (double[]){1, 1, 1, 1},
             (double[]){0, 0, 0, 0}, 4);
  al_set_grad(x, NULL);
  expect_run(al_run(c, "pow", AL_IN(x), ""), x, (double[]){4, 0, 9, NAN}, (double[]){-4, 0, 6}, 3);
  al_release(x);
  al_tensor *a = normal(AL_F32, 1, SHAPE(2, 3)), *b = normal(AL_F32, 1, SHAPE(2, 4));
  ck_assert_ptr_null(al_run(c, "mul", AL_IN(a, b), ""));
  ck_assert_ptr_nonnull(strstr(al_error_message(c, NULL, NULL), "(2,3)"));
  ck_assert_ptr_nonnull(strstr(al_error_message(c, NULL, NULL), "(2,4)"));
  al_error_clear(c);
  al_release(a);
  al_release(b);
}
END_TEST

/* ---- plans ---- */

/* What shape derived is the node's: options that change after the forward do not change its
 * backward. */
START_TEST(a_node_holds_what_shape_derived) {
  static const struct {
    const char *op, *before, *after;
    int n_in, ndim;
    int64_t shape[4];
  } cases[] = {
      {"softmax", "axis=0", "axis=1", 1, 2, {3, 4}},
      {"cumsum", "axis=0", "axis=1", 1, 2, {3, 4}},
      {"sum", "axes={0}", "axes={1}", 1, 2, {3, 3}},
      {"transpose", "a=0 b=1", "a=1 b=2", 1, 3, {2, 2, 2}},
      {"slice", "axis=0 start=1", "axis=1 start=0", 1, 2, {3, 3}},
      {"concat", "axis=0", "axis=1", 2, 2, {3, 3}},
      {"matmul", "alpha=2", "alpha=3 transpose_a=true", 2, 2, {3, 3}},
      {"latest", "size=2", "size=3", 1, 3, {1, 5, 2}},
      {"scores", "causal=true", "causal=false", 2, 4, {1, 4, 2, 3}},
      {"mix", "causal=true", "causal=false", 2, 4, {1, 4, 4, 4}},
      {"weights", "f=cosh", "f=polynomial coefficients={0,1}", 1, 4, {1, 2, 3, 3}},
      {"expression", "expr='exp(s)'", "expr='sin(s)'", 1, 4, {1, 2, 3, 3}},
      {"finish", "norm=rms", "norm=none", 1, 4, {1, 2, 2, 3}},
      {"attend", "expr='s^2' scale=2", "expr='exp(s)' scale=3", 3, 4, {1, 4, 2, 3}},
      {"attend_chunked", "coefficients={1,1,0.5}", "coefficients={0,1}", 3, 4, {1, 4, 2, 3}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const al_op_info *op = al_op_find(c, cases[i].op);
    double grad[2][64];
    for (int changed = 0; changed < 2; changed++) {
      al_tensor *in[3] = {0}, *y = NULL;
      for (int k = 0; k < cases[i].n_in; k++) {
        in[k] = al_tensor_new(c, AL_F64, cases[i].ndim, cases[i].shape);
        al_fill_normal(in[k], 1 + (uint64_t)k, 0, 1);
        al_requires_grad(in[k], true);
      }
      al_opts *o = al_opts_new(c, op->args, op->name);
      al_opts_parse(c, o, cases[i].before);
      al_op_run(c, op, in, cases[i].n_in, o, &y, 1);
      if (changed) al_opts_parse(c, o, cases[i].after);
      al_tensor *seed = al_tensor_new(c, AL_F64, al_ndim(y), al_shape(y));
      al_fill_normal(seed, 9, 0, 1);
      al_backward(c, y, seed);
      al_read(al_grad(in[0]), grad[changed], al_numel(in[0]));
      ck_assert_msg(al_error(c) == AL_OK, "%s", al_error_message(c, NULL, NULL));
      if (changed) ck_assert_mem_eq(grad[1], grad[0], sizeof(double) * (size_t)al_numel(in[0]));
      al_opts_release(o);
      al_release(seed);
      al_release(y);
      for (int k = 0; k < 3; k++) al_release(in[k]);
    }
  }
}
END_TEST

Suite *suite_test_ops(void);
Suite *suite_test_ops(void) {
  Suite *s = suite_create("ops beyond their samples");
  TCase *t = tcase_create("ops");
  tcase_add_checked_fixture(t, begin, end);
  tcase_set_timeout(t, 120);
  tcase_add_loop_test(t, threads, 0, N_LARGE);
  tcase_add_test(t, long_sums);
  tcase_add_test(t, first_winner);
  tcase_add_test(t, empty_reductions);
  tcase_add_test(t, softmax_edges);
  tcase_add_test(t, cross_entropy_edges);
  tcase_add_loop_test(t, norm_logscale, 0, 3);
  tcase_add_loop_test(t, norm_extremes, 0, 3);
  tcase_add_test(t, l2norm_below_eps);
  tcase_add_test(t, flat_parts_are_selected);
  tcase_add_test(t, a_node_holds_what_shape_derived);
  suite_add_tcase(s, t);
  return s;
}
