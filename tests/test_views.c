/* test_views.c: what the ops that move or pick numbers return, element by element: views, concat,
 * cast, embedding, rope, dropout, select; which of them copy; and what they say to wrong options.
 * (check_ops sees that gradients belong to the values, not that the values are the right ones.) */
#include "../core/attnlab.h"
#include <check.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
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

/* 0, 1, 2, ... in a shape. */
static al_tensor *iota(al_dtype t, int ndim, const int64_t *shape) {
  al_tensor *x = al_tensor_new(c, t, ndim, shape);
  double v[512];
  ck_assert_int_le(al_numel(x), 512);
  for (int i = 0; i < 512; i++) v[i] = i;
  al_write(x, v, al_numel(x));
  return x;
}
#define IOTA(...)                                                                                  \
  iota(AL_F32, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})

/* "(2,3)" and all elements in row-major order. */
static void expect(const al_tensor *y, const char *shape, ...) {
  ck_assert_msg(y != NULL, "%s", al_error_message(c, NULL, NULL));
  char text[96];
  ck_assert_str_eq(al_shape_str(y, text, sizeof text), shape);
  double v[512];
  ck_assert_int_eq(al_read(y, v, al_numel(y)), AL_OK);
  va_list ap;
  va_start(ap, shape);
  for (int64_t i = 0; i < al_numel(y); i++) {
    const double want = va_arg(ap, double);
    ck_assert_msg(fabs(v[i] - want) < 1e-6, "element %d is %.9g, %.9g needed", (int)i, v[i], want);
  }
  va_end(ap);
}

static void refused(al_tensor *y, al_status status, const char *part) {
  const char *text = al_error_message(c, NULL, NULL);
  ck_assert(y == NULL);
  ck_assert_msg(al_error(c) == status && strstr(text, part), "'%s' expected in: %s", part, text);
  al_error_clear(c);
}

#define OP1(name, x, ...) al_run(c, name, AL_IN(x), __VA_ARGS__)
static bool shares(const al_tensor *a, const al_tensor *b) { return al_host(a) == al_host(b); }

START_TEST(reshape_keeps_the_order) {
  al_tensor *x = IOTA(2, 3);
  al_tensor *y = OP1("reshape", x, "shape={3,-1}");
  expect(y, "(3,2)", 0., 1., 2., 3., 4., 5.);
  ck_assert(shares(x, y));
  al_tensor *t = OP1("transpose", x, "");
  expect(t, "(3,2)", 0., 3., 1., 4., 2., 5.);
  ck_assert(shares(x, t));
  al_tensor *flat = OP1("reshape", t, "shape={6}");
  expect(flat, "(6)", 0., 3., 1., 4., 2., 5.);
  ck_assert(!shares(x, flat));
  /* an axis of a permuted tensor can still be split without a copy */
  al_tensor *split = OP1("reshape", OP1("transpose", IOTA(4, 3), ""), "shape={3,2,2}");
  expect(split, "(3,2,2)", 0., 3., 6., 9., 1., 4., 7., 10., 2., 5., 8., 11.);
  ck_assert(!al_contiguous(split));
  expect(OP1("reshape", IOTA(1, 1), "shape={}"), "()", 0.);
  refused(OP1("reshape", x, "shape={4,-1}"), AL_ESHAPE,
          "reshape: option 'shape': 6 elements of x (2,3)");
  refused(OP1("reshape", x, "shape={-1,-1}"), AL_ESHAPE, "got (-1,-1)");
  refused(OP1("reshape", x, "shape={5}"), AL_ESHAPE, "got (5)");
  refused(OP1("reshape", x, "shape={3037000500,3037000500,8}"), AL_ESHAPE, "6 elements");
  refused(OP1("reshape", x, ""), AL_EVALUE, "option 'shape' is needed");
}
END_TEST

START_TEST(permute_moves_axes) {
  al_tensor *x = IOTA(2, 1, 3);
  expect(OP1("permute", x, "axes={2,0,1}"), "(3,2,1)", 0., 3., 1., 4., 2., 5.);
  expect(OP1("permute", x, "axes={-1,1,0}"), "(3,1,2)", 0., 3., 1., 4., 2., 5.);
  refused(OP1("permute", x, "axes={0,1}"), AL_EVALUE, "each of the 3 axes of x (2,1,3)");
  refused(OP1("permute", x, "axes={0,1,1}"), AL_EVALUE, "repeated");
  refused(OP1("permute", x, "axes={0,1,3}"), AL_EVALUE, "out of range");
  refused(OP1("transpose", x, "a=3"), AL_EVALUE, "option 'a'");
}
END_TEST

START_TEST(slice_takes_positions) {
  al_tensor *x = IOTA(2, 5);
  expect(OP1("slice", x, "start=1 stop=5 step=2"), "(2,2)", 1., 3., 6., 8.);
  expect(OP1("slice", x, "start=-2"), "(2,2)", 3., 4., 8., 9.);
  expect(OP1("slice", x, "axis=0 start=1"), "(1,5)", 5., 6., 7., 8., 9.);
  expect(OP1("slice", x, "stop=-4"), "(2,1)", 0., 5.);
  expect(OP1("slice", x, "stop=0"), "(2,0)");
  expect(OP1("slice", x, "start=4 stop=2"), "(2,0)");
  expect(OP1("slice", x, "step=100"), "(2,1)", 0., 5.);
  refused(OP1("slice", x, "stop=6"), AL_EVALUE, "option 'stop': integer in -5..5 expected");
  refused(OP1("slice", x, "start=-6"), AL_EVALUE, "option 'start'");
  refused(OP1("slice", x, "step=0"), AL_EVALUE, "option 'step'");
  refused(OP1("slice", x, "axis=2"), AL_EVALUE, "option 'axis'");
}
END_TEST

START_TEST(expand_repeats) {
  al_tensor *x = IOTA(2, 1);
  al_tensor *y = OP1("expand", x, "shape={2,-1,3}");
  expect(y, "(2,2,3)", 0., 0., 0., 1., 1., 1., 0., 0., 0., 1., 1., 1.);
  ck_assert(shares(x, y));
  expect(OP1("contiguous", y, ""), "(2,2,3)", 0., 0., 0., 1., 1., 1., 0., 0., 0., 1., 1., 1.);
  expect(OP1("reshape", y, "shape={12}"), "(12)", 0., 0., 0., 1., 1., 1., 0., 0., 0., 1., 1., 1.);
  refused(OP1("expand", x, "shape={3,3}"), AL_ESHAPE, "that x (2,1) broadcasts to");
  refused(OP1("expand", x, "shape={2}"), AL_ESHAPE, "got (2)");
  refused(OP1("expand", x, "shape={-1,2,1}"), AL_ESHAPE, "got (-1,2,1)");
}
END_TEST

START_TEST(squeeze_and_unsqueeze) {
  al_tensor *x = IOTA(2, 1, 3);
  expect(OP1("squeeze", x, "axis=1"), "(2,3)", 0., 1., 2., 3., 4., 5.);
  expect(OP1("unsqueeze", OP1("squeeze", x, "axis=1"), ""), "(2,3,1)", 0., 1., 2., 3., 4., 5.);
  expect(OP1("unsqueeze", IOTA(2), "axis=0"), "(1,2)", 0., 1.);
  refused(OP1("squeeze", x, "axis=0"), AL_ESHAPE, "size 1 needed on the axis, got 2 in (2,1,3)");
  refused(OP1("unsqueeze", x, "axis=4"), AL_EVALUE, "option 'axis'");
  refused(OP1("unsqueeze", IOTA(1, 1, 1, 1, 1, 1, 1, 1), ""), AL_ESHAPE, "fewer than 8 axes");
}
END_TEST

START_TEST(contiguous_copies_only_what_must) {
  al_tensor *x = IOTA(2, 3), *t = OP1("transpose", x, "");
  ck_assert(shares(OP1("contiguous", x, ""), x));
  al_tensor *y = OP1("contiguous", t, "");
  ck_assert(!shares(y, x) && al_contiguous(y));
  expect(y, "(3,2)", 0., 3., 1., 4., 2., 5.);
}
END_TEST

/* Lists longer than one node takes, in parts of parts: values, layouts, gradients, refusals. */
START_TEST(concat_of_many) {
  const int many[] = {AL_MAX_INPUTS, AL_MAX_INPUTS + 1, 200, AL_MAX_INPUTS * AL_MAX_INPUTS + 3};
  for (size_t t = 0; t < sizeof many / sizeof *many; t++) {
    const int n = many[t];
    al_tensor **x = calloc((size_t)n, sizeof *x);
    double *g = calloc((size_t)(4 * n), sizeof *g), *y = calloc((size_t)(4 * n), sizeof *y);
    for (int i = 0; i < n; i++) {
      const double v[] = {i, i + 0.5};
      x[i] = al_tensor_from(c, AL_F64, 2, (const int64_t[]){2, 1}, v, 2);
      al_requires_grad(x[i], true);
    }
    x[n - 1] = x[0]; /* one of them twice: its gradient has both */
    al_tensor *all = al_run(c, "concat", x, n, "axis=1");
    ck_assert_msg(all != NULL, "%s", al_error_message(c, NULL, NULL));
    ck_assert(al_size(all, 0) == 2 && al_size(all, 1) == n);
    ck_assert_int_eq(al_read(all, y, 2 * n), AL_OK);
    for (int i = 0; i < n - 1; i++) ck_assert(y[i] == i && y[n + i] == i + 0.5);
    ck_assert(y[n - 1] == 0 && y[2 * n - 1] == 0.5);
    for (int i = 0; i < 2 * n; i++) g[i] = i + 1;
    al_tensor *seed = al_tensor_from(c, AL_F64, 2, al_shape(all), g, 2 * n);
    ck_assert_int_eq(al_backward(c, all, seed), AL_OK);
    for (int i = 0; i < n - 1; i++) {
      double d[2];
      ck_assert_int_eq(al_read(al_grad(x[i]), d, 2), AL_OK);
      ck_assert_double_eq(d[0], i + 1 + (i ? 0 : n));
      ck_assert_double_eq(d[1], n + i + 1 + (i ? 0 : 2 * n));
    }
    x[n - 1] = all; /* two rows of n */
    al_tensor *rows = al_run(c, "concat", x, n, "axis=1");
    ck_assert(rows && al_size(rows, 1) == 2 * n - 1);
    refused(al_run(c, "concat", x, n, "axis=0"), AL_ESHAPE, "concat: xs: shape (");
    x[n - 1] = NULL;
    refused(al_run(c, "concat", x, n, "axis=1"), AL_EVALUE, "concat: xs: a tensor is needed");
    free(x);
    free(g);
    free(y);
  }
}
END_TEST

START_TEST(concat_joins) {
  al_tensor *x = IOTA(2, 2), *y = IOTA(2, 1);
  expect(al_run(c, "concat", AL_IN(x, y, x), ""), "(2,5)", 0., 1., 0., 0., 1., 2., 3., 1., 2., 3.);
  expect(al_run(c, "concat", AL_IN(x, OP1("transpose", x, "")), "axis=0"), "(4,2)", 0., 1., 2., 3.,
         0., 2., 1., 3.);
  al_tensor *ids = iota(AL_I32, 1, (int64_t[]){2}),
            *joined = al_run(c, "concat", AL_IN(ids, ids), "");
  ck_assert_int_eq(al_type(joined), AL_I32);
  expect(joined, "(4)", 0., 1., 0., 1.);
  refused(al_run(c, "concat", AL_IN(x, ids), ""), AL_ETYPE, "concat: xs: f32 needed");
  refused(al_run(c, "concat", AL_IN(x, y), "axis=0"), AL_ESHAPE,
          "shape (2,2) needed but for the joined axis, got (2,1)");
  refused(al_run(c, "concat", NULL, 0, ""), AL_EVALUE, "concat: xs: a tensor is needed");
}
END_TEST

START_TEST(cast_converts) {
  const double v[] = {-1.75, 0.1, 3e9, 1.00390625};
  al_tensor *x = al_tensor_from(c, AL_F64, 1, (int64_t[]){4}, v, 4);
  expect(OP1("cast", x, "dtype=i32"), "(4)", -1., 0., 2147483647., 1.);
  expect(OP1("cast", x, "dtype=bf16"), "(4)", -1.75, 0.10009765625, 3003121664.,
         1.0); /* ties to even */
  ck_assert_int_eq(al_type(OP1("cast", x, "")), AL_F32);
  refused(OP1("cast", x, "dtype=f16"), AL_EVALUE, "option 'dtype'");
}
END_TEST

START_TEST(embedding_picks_rows) {
  al_tensor *table = IOTA(3, 2);
  const double v[] = {2, 0, 2, 1}, bad[] = {0, 1, 3, 0}, low[] = {0, -1};
  al_tensor *ids = al_tensor_from(c, AL_I32, 2, (int64_t[]){2, 2}, v, 4);
  expect(al_run(c, "embedding", AL_IN(table, ids), ""), "(2,2,2)", 4., 5., 0., 1., 4., 5., 2., 3.);
  al_requires_grad(table, true);
  al_backward(c, OP1("sum", al_run(c, "embedding", AL_IN(table, ids), ""), ""), NULL);
  expect(al_grad(table), "(3,2)", 1., 1., 1., 1., 2., 2.);
  refused(al_run(c, "embedding",
                 AL_IN(table, al_tensor_from(c, AL_I32, 2, (int64_t[]){2, 2}, bad, 4)), ""),
          AL_EVALUE, "embedding: ids: numbers in 0..2 needed, got 3 at position 2 of (2,2)");
  refused(al_run(c, "embedding", AL_IN(table, al_tensor_from(c, AL_I32, 1, (int64_t[]){2}, low, 2)),
                 ""),
          AL_EVALUE, "got -1 at position 1");
}
END_TEST

/* Against the definition; far positions too, where an angle in f32 would be off by 1e-3. */
START_TEST(rope_turns_pairs) {
  const int64_t shape[] = {1, 40, 2, 10};
  al_tensor *x = al_tensor_new(c, AL_F32, 4, shape);
  al_fill_normal(x, 3, 0, 1);
  double v[800], y[800];
  al_read(x, v, 800);
  for (int mode = 0; mode < 4; mode++) {
    const bool adjacent = mode & 1;
    const int dims = mode & 2 ? 6 : 10, offset = mode & 2 ? 100000 : 0, n = dims / 2;
    al_read(OP1("rope", x, "base=500 interleaved=%s dims=%d offset=%d", adjacent ? "true" : "false",
                mode & 2 ? 6 : -1, offset),
            y, 800);
    for (int t = 0; t < 40; t++)
      for (int h = 0; h < 2; h++) {
        const double *in = v + (t * 2 + h) * 10, *out = y + (t * 2 + h) * 10;
        for (int i = 0; i < n; i++) {
          const double angle = (offset + t) * pow(500, -2.0 * i / dims), cs = cos(angle),
                       sn = sin(angle);
          const int p = adjacent ? 2 * i : i, q = adjacent ? 2 * i + 1 : i + n;
          ck_assert_double_lt(fabs(out[p] - (in[p] * cs - in[q] * sn)), 1e-6);
          ck_assert_double_lt(fabs(out[q] - (in[q] * cs + in[p] * sn)), 1e-6);
        }
        for (int i = dims; i < 10; i++) ck_assert_double_eq(out[i], in[i]);
      }
  }
  refused(OP1("rope", x, "dims=5"), AL_EVALUE, "option 'dims': an even number");
  refused(OP1("rope", x, "dims=12"), AL_EVALUE, "got 12");
  refused(OP1("rope", IOTA(2, 3), ""), AL_ESHAPE, "rope: x: shape (B,T,H,D) needed, got (2,3)");
}
END_TEST

START_TEST(dropout_keeps_a_share) {
  enum { N = 100003 };
  al_tensor *x = al_tensor_full(c, AL_F32, 1, (int64_t[]){N}, 1),
            *y = OP1("dropout", x, "p=0.25 key=9");
  double *v = malloc(2 * N * sizeof *v), kept = 0;
  al_read(y, v, N);
  for (int i = 0; i < N; i++) {
    ck_assert(v[i] == 0 || fabs(v[i] - 4.0 / 3) < 1e-6);
    kept += v[i] != 0;
  }
  ck_assert_double_lt(fabs(kept / N - 0.75), 0.006); /* 4 standard deviations */
  al_set_threads(3);
  al_read(OP1("dropout", x, "p=0.25 key=9"), v + N, N);
  ck_assert_mem_eq(v, v + N, N * sizeof *v);
  al_read(OP1("dropout", x, "p=0.25 key=10"), v + N, N);
  ck_assert(memcmp(v, v + N, N * sizeof *v) != 0);
  /* without a key: the context's next one, the same again after the same seed; NaN is dropped,
   * too */
  al_tensor *nan = al_tensor_full(c, AL_F32, 1, (int64_t[]){4}, NAN);
  expect(OP1("dropout", nan, "p=1"), "(4)", 0., 0., 0., 0.);
  al_seed(c, 1);
  al_read(OP1("dropout", x, ""), v, N);
  al_read(OP1("dropout", x, ""), v + N, N);
  ck_assert(memcmp(v, v + N, N * sizeof *v) != 0);
  al_seed(c, 1);
  al_read(OP1("dropout", x, ""), v + N, N);
  ck_assert_mem_eq(v, v + N, N * sizeof *v);
  free(v);
  refused(OP1("dropout", x, "p=1.5"), AL_EVALUE, "option 'p'");
}
END_TEST

/* What is not chosen has no influence, forward or backward, however bad it is. */
START_TEST(select_chooses) {
  const double flags[] = {1, 0, -2}, bad[] = {NAN, 5, INFINITY};
  al_tensor *cond = al_tensor_from(c, AL_F32, 1, (int64_t[]){3}, flags, 3), *a = IOTA(3);
  al_tensor *b = al_tensor_from(c, AL_F32, 1, (int64_t[]){3}, bad, 3);
  al_requires_grad(a, true);
  al_requires_grad(b, true);
  al_tensor *y = al_run(c, "select", AL_IN(cond, a, b), "");
  expect(y, "(3)", 0., 5., 2.);
  const double g[] = {7, INFINITY, 8};
  al_backward(c, y, al_tensor_from(c, AL_F32, 1, (int64_t[]){3}, g, 3));
  expect(al_grad(a), "(3)", 7., 0., 8.);
  double db[3];
  al_read(al_grad(b), db, 3);
  ck_assert(db[0] == 0 && isinf(db[1]) && db[2] == 0);
  al_tensor *column = OP1("unsqueeze", cond, "");
  expect(al_run(c, "select", AL_IN(column, IOTA(2), al_tensor_full(c, AL_F32, 0, NULL, 9)), ""),
         "(3,2)", 0., 1., 9., 9., 0., 1.);
  expect(al_run(c, "select", AL_IN(OP1("cast", cond, "dtype=bf16"), a, a), ""), "(3)", 0., 1., 2.);
  expect(al_run(c, "select", AL_IN(OP1("cast", cond, "dtype=i32"), a, a), ""), "(3)", 0., 1., 2.);
  refused(al_run(c, "select", AL_IN(IOTA(2), a, a), ""), AL_ESHAPE, "select: cond: ");
  refused(al_run(c, "select", AL_IN(cond, a, IOTA(2)), ""), AL_ESHAPE, "select: b: ");
}
END_TEST

START_TEST(matmul_says_what_does_not_fit) {
  al_tensor *a = IOTA(2, 3, 4), *b = IOTA(5, 6);
  refused(al_run(c, "matmul", AL_IN(a, b), ""), AL_ESHAPE,
          "matmul: b: size(-2) must be 4 to match a (2,3,4), got (5,6)");
  refused(al_run(c, "matmul", AL_IN(a, IOTA(3, 4, 6)), ""), AL_ESHAPE,
          "matmul: b: batch axes that fit those of a (2,3,4)");
  refused(al_run(c, "matmul", AL_IN(a, IOTA(4, 6), IOTA(5)), ""), AL_ESHAPE,
          "matmul: bias: shape (6) needed");
  refused(al_run(c, "matmul", AL_IN(IOTA(4), b), ""), AL_ESHAPE,
          "matmul: a: 2 or more axes needed, got (4)");
  expect(al_run(c, "matmul", AL_IN(IOTA(2, 2), IOTA(2, 2), IOTA(2)), "transpose_b=true alpha=2"),
         "(2,2)", 2., 7., 6., 27.);
}
END_TEST

Suite *suite_test_views(void);
Suite *suite_test_views(void) {
  Suite *s = suite_create("views");
  TCase *t = tcase_create("views");
  tcase_add_checked_fixture(t, begin, end);
  tcase_add_test(t, reshape_keeps_the_order);
  tcase_add_test(t, permute_moves_axes);
  tcase_add_test(t, slice_takes_positions);
  tcase_add_test(t, expand_repeats);
  tcase_add_test(t, squeeze_and_unsqueeze);
  tcase_add_test(t, contiguous_copies_only_what_must);
  tcase_add_test(t, concat_joins);
  tcase_add_test(t, concat_of_many);
  tcase_add_test(t, cast_converts);
  tcase_add_test(t, embedding_picks_rows);
  tcase_add_test(t, rope_turns_pairs);
  tcase_add_test(t, dropout_keeps_a_share);
  tcase_add_test(t, select_chooses);
  tcase_add_test(t, matmul_says_what_does_not_fit);
  suite_add_tcase(s, t);
  return s;
}
